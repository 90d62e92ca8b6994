//! Announcements of the service addresses, and probes for whoever answers on them.

use std::net::IpAddr;

use super::Kernel;
use crate::frames::{Arp, BROADCAST, neighbor_advertisement, neighbor_probe, neighbor_question};
use crate::route::in_subnet;
use crate::{Mac, Vip};

/// Somebody who is told of a move in person.
pub(super) struct Neighbor {
    pub(super) address: IpAddr,
    /// Learned from its ARP; asked for by broadcast until then.
    pub(super) mac: Option<Mac>,
}

impl Neighbor {
    pub(super) fn new(address: IpAddr) -> Self {
        Self { address, mac: None }
    }
}

impl Kernel {
    /// One round of announcements, for every service address on a link that speaks ARP or
    /// neighbor discovery: ARP in request and in reply form to all, then to each configured
    /// neighbor in person; unsolicited neighbor advertisements with the override flag.
    ///
    /// Silent unless the lease runs, by the clock: packet sockets bypass the gate's rules.
    pub fn announce(&mut self) {
        for vip in &self.vips {
            if !self.held() {
                return;
            }
            self.announce_one(vip);
        }
    }

    fn announce_one(&self, vip: &Vip) {
        let Some(link) = self.links.iter().find(|link| link.name == vip.interface) else { return };
        let Some(mac) = link.mac() else { return };
        let told = self.neighbors.iter().filter(|neighbor| reaches(vip, neighbor));
        match (vip.address, &link.arp, &link.advertisements) {
            (IpAddr::V4(address), Some(wire), _) => {
                wire.send(&Arp::announcement_request(mac, address).to_bytes());
                wire.send(&Arp::announcement_reply(mac, address).to_bytes());
                for neighbor in told {
                    let IpAddr::V4(target) = neighbor.address else { continue };
                    let to = neighbor.mac.unwrap_or(BROADCAST);
                    wire.send(&Arp::question(mac, address, to, target).to_bytes());
                    if neighbor.mac.is_some() {
                        wire.send(&Arp::reply_to(mac, address, to, target).to_bytes());
                    }
                }
            }
            (IpAddr::V6(address), _, Some(wire)) => {
                wire.send(&neighbor_advertisement(mac, address));
                for neighbor in told {
                    let IpAddr::V6(target) = neighbor.address else { continue };
                    wire.send(&neighbor_question(mac, address, target));
                }
            }
            (IpAddr::V4(_), None, _) | (IpAddr::V6(_), _, None) => {}
        }
    }

    /// One round of questions "who has it?", for every service address; answers arrive through
    /// [`Kernel::pump`]. ARP probes without sender address (RFC 5227), and the solicitations of
    /// duplicate address detection.
    pub fn probe(&mut self) {
        for vip in &self.vips {
            let Some(link) = self.links.iter().find(|link| link.name == vip.interface) else {
                continue;
            };
            let Some(mac) = link.mac() else { continue };
            match (vip.address, &link.arp, &link.advertisements) {
                (IpAddr::V4(address), Some(wire), _) => {
                    wire.send(&Arp::probe(mac, address).to_bytes());
                }
                (IpAddr::V6(address), _, Some(wire)) => wire.send(&neighbor_probe(mac, address)),
                (IpAddr::V4(_), None, _) | (IpAddr::V6(_), _, None) => {}
            }
        }
    }
}

/// A neighbor is told of the addresses of its own network, and of those that belong to none.
fn reaches(vip: &Vip, neighbor: &Neighbor) -> bool {
    let host_prefix = if vip.address.is_ipv4() { 32 } else { 128 };
    vip.address.is_ipv4() == neighbor.address.is_ipv4()
        && (vip.prefix == host_prefix || in_subnet(vip.address, vip.prefix, neighbor.address))
}
