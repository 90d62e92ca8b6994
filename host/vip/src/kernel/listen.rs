//! What the kernel and the network report: links, addresses, answers, conflicts.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use super::{AddressRequests, Kernel};
use crate::frames::{Arp, parse_advertisement};
use crate::netlink::{Channel, Heard};
use crate::route::{self, Change, LinkFacts};
use crate::wire::{Wire, split};
use crate::{Answerer, KernelEvent, Mac, Vip, VipError};

/// An interface that carries service addresses.
pub(super) struct Link {
    pub(super) name: String,
    /// `None` while the interface does not exist.
    pub(super) facts: Option<LinkFacts>,
    pub(super) arp: Option<Wire>,
    pub(super) advertisements: Option<Wire>,
}

impl Link {
    pub(super) fn index(&self) -> u32 {
        self.facts.as_ref().map_or(0, |facts| facts.index)
    }

    pub(super) fn mac(&self) -> Option<Mac> {
        self.facts.as_ref().and_then(|facts| facts.mac)
    }

    pub(super) fn up(&self) -> bool {
        self.facts.as_ref().is_some_and(|facts| facts.up)
    }
}

/// The interfaces of the service addresses, each once.
pub(super) fn find_links(route: &mut Channel, vips: &[Vip]) -> Result<Vec<Link>, VipError> {
    let dump = |source| VipError::Dump { what: "the links of this node", source };
    let facts = route::links(route).map_err(dump)?;
    let mut links: Vec<Link> = Vec::new();
    for vip in vips {
        if links.iter().any(|link| link.name == vip.interface) {
            continue;
        }
        let found = facts.iter().find(|facts| facts.name == vip.interface);
        let found = found.ok_or_else(|| VipError::NoInterface(vip.interface.clone()))?;
        let name = vip.interface.clone();
        links.push(Link { name, facts: Some(found.clone()), arp: None, advertisements: None });
    }
    Ok(links)
}

impl Kernel {
    /// Link-layer addresses of the interfaces that carry service addresses: the peer is told.
    pub fn own_macs(&self) -> Vec<Mac> {
        self.links.iter().filter_map(Link::mac).collect()
    }

    /// Link-layer addresses of the peer, as its heartbeats tell: they turn an answer's
    /// [`Answerer`] from stranger to peer.
    pub fn set_peer_macs(&mut self, macs: Vec<Mac>) {
        self.peer_macs = macs;
    }

    /// Reads everything that is queued, repairs what can be repaired, and appends what happened.
    ///
    /// Bounded in time; where more is queued than the bound, [`Kernel::fds`] stays readable.
    pub fn pump(&mut self, out: &mut Vec<KernelEvent>) {
        self.hear_ruleset();
        self.hear_routes();
        if self.heal_due {
            self.heal();
        }
        self.hear_wires();
        out.append(&mut self.pending);
    }

    fn hear_routes(&mut self) {
        let mut changes = Vec::new();
        let heard = self.route_ear.listen(|message| changes.extend(route::parse(&message)));
        let mut intruders = false;
        for change in changes {
            match change {
                Change::Link(facts) => self.link_changed(facts),
                Change::LinkGone { index } => self.link_gone(index),
                Change::Address(facts) => {
                    intruders |= self.is_vip(facts.address) && self.lease.is_none();
                }
                Change::AddressGone(facts) => self.heal_due |= self.is_vip(facts.address),
            }
        }
        match heard {
            Heard::All if intruders => self.lose(),
            Heard::All => {}
            // What was missed may be anything: look at everything again.
            Heard::Overflow => {
                if let Err(error) = self.reconcile() {
                    tracing::warn!(%error, "reconcile");
                }
            }
        }
    }

    fn is_vip(&self, address: IpAddr) -> bool {
        self.vips.iter().any(|vip| vip.address == address)
    }

    /// Compares every link with what the kernel says now.
    pub(super) fn refresh_links(&mut self) -> Result<(), VipError> {
        let dump = |source| VipError::Dump { what: "the links of this node", source };
        let now = route::links(&mut self.route).map_err(dump)?;
        let here = |index| now.iter().any(|facts: &LinkFacts| facts.index == index);
        let gone: Vec<u32> =
            self.links.iter().map(Link::index).filter(|i| *i != 0 && !here(*i)).collect();
        gone.into_iter().for_each(|index| self.link_gone(index));
        now.into_iter().for_each(|facts| self.link_changed(facts));
        Ok(())
    }

    fn link_changed(&mut self, facts: LinkFacts) {
        let renamed = |link: &Link| link.index() == facts.index && link.name != facts.name;
        if self.links.iter().any(renamed) {
            self.link_gone(facts.index);
        }
        let Some(at) = self.links.iter().position(|link| link.name == facts.name) else { return };
        let link = &mut self.links[at];
        let (was_up, was_index) = (link.up(), link.index());
        let (is_up, is_index) = (facts.up, facts.index);
        link.facts = Some(facts);
        if is_index != was_index {
            self.requests = AddressRequests::new(&self.vips, &self.links);
            // Without sockets the address is served all the same; announcements go nowhere.
            if let Err(error) = self.open_wires(at) {
                tracing::warn!(%error, "packet sockets");
            }
            self.heal_due = true;
        }
        let interface = self.links[at].name.clone();
        match (was_up, is_up) {
            (false, true) => {
                self.heal_due = true;
                self.pending.push(KernelEvent::LinkUp { interface });
            }
            (true, false) => self.pending.push(KernelEvent::LinkDown { interface }),
            (true, true) | (false, false) => {}
        }
    }

    fn link_gone(&mut self, index: u32) {
        let Some(link) = self.links.iter_mut().find(|link| link.index() == index) else { return };
        let was_up = link.up();
        link.facts = None;
        if was_up {
            self.pending.push(KernelEvent::LinkDown { interface: link.name.clone() });
        }
        self.requests = AddressRequests::new(&self.vips, &self.links);
        self.heal_due = true;
    }

    pub(super) fn name_of(&self, index: u32) -> String {
        let link = self.links.iter().find(|link| link.index() == index);
        link.map_or_else(|| format!("interface number {index}"), |link| link.name.clone())
    }

    /// Opens the packet sockets of one link, where ARP and neighbor discovery are spoken there;
    /// those that are open move to the link's new index.
    pub(super) fn open_wires(&mut self, at: usize) -> Result<(), VipError> {
        let link = &mut self.links[at];
        let index = link.index();
        if link.mac().is_none() {
            return Ok(());
        }
        let what = format!("a packet socket on {}", link.name);
        let socket = |source| VipError::Socket { what: what.clone(), source };
        let on_link = self.vips.iter().filter(|vip| vip.interface == link.name);
        let (v4, v6) = split(on_link.map(|vip| vip.address));
        let (neighbors, _) = split(self.neighbors.iter().map(|neighbor| neighbor.address));
        let mut opened = Vec::new();
        match &link.arp {
            Some(wire) => wire.bind(index).map_err(socket)?,
            None if v4.is_empty() => {}
            None => {
                let wire = Wire::arp(index, &[v4, neighbors].concat()).map_err(socket)?;
                opened.push(link.arp.insert(wire).as_raw_fd());
            }
        }
        match &link.advertisements {
            Some(wire) => wire.bind(index).map_err(socket)?,
            None if v6.is_empty() => {}
            None => {
                let wire = Wire::advertisements(index, &v6).map_err(socket)?;
                opened.push(link.advertisements.insert(wire).as_raw_fd());
            }
        }
        for descriptor in opened {
            self.poll_on(descriptor).map_err(socket)?;
        }
        Ok(())
    }

    fn hear_wires(&mut self) {
        let mut sightings: Vec<(IpAddr, Mac)> = Vec::new();
        for link in &self.links {
            if let Some(wire) = &link.arp {
                wire.read(|frame| {
                    let heard = Arp::parse(frame);
                    sightings.extend(heard.map(|arp| (arp.sender.into(), arp.sender_mac)));
                });
            }
            if let Some(wire) = &link.advertisements {
                wire.read(|frame| {
                    let heard = parse_advertisement(frame);
                    sightings.extend(heard.map(|(target, mac)| (target.into(), mac)));
                });
            }
        }
        let held = self.held();
        for (address, mac) in sightings {
            if !self.is_vip(address) {
                let known = self.neighbors.iter_mut().filter(|n| n.address == address);
                known.for_each(|neighbor| neighbor.mac = Some(mac));
                continue;
            }
            let by = self.answerer(mac);
            let vip = address;
            match (held, by) {
                (true, Answerer::Own) => {}
                (true, Answerer::Peer | Answerer::Stranger) => {
                    self.pending.push(KernelEvent::Conflict { vip, mac, by });
                }
                (false, _) => self.pending.push(KernelEvent::ProbeAnswer { vip, mac, by }),
            }
        }
    }

    fn answerer(&self, mac: Mac) -> Answerer {
        if self.links.iter().any(|link| link.mac() == Some(mac)) {
            Answerer::Own
        } else if self.peer_macs.contains(&mac) {
            Answerer::Peer
        } else {
            Answerer::Stranger
        }
    }
}
