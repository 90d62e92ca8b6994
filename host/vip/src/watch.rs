//! The second pair of eyes: compares, every few seconds and after every change, what the kernel
//! says with what should be, and asks the real-time thread to act. It changes nothing itself.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::{Handle, MulticastGroup, new_connection, new_multicast_connection};

use crate::Vip;

/// Seconds between two comparisons where nothing changes.
pub const WATCH_INTERVAL_S: u64 = 5;
/// A change is looked at when it has settled for this long: a claim is two changes.
const SETTLE_MS: u64 = 50;

/// A difference between what is and what should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The address is on its interface though this node does not hold it.
    Intruder {
        /// The service address.
        vip: Vip,
    },
    /// The address is held and not on its interface.
    Absent {
        /// The service address.
        vip: Vip,
    },
    /// The address is somewhere else, or has another prefix length.
    Misplaced {
        /// The service address.
        vip: Vip,
        /// Where it was found.
        interface: String,
        /// With which prefix length.
        prefix: u8,
    },
    /// The interface does not exist.
    InterfaceMissing {
        /// The service address.
        vip: Vip,
    },
}

/// The watch cannot go on; start it again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// No netlink socket.
    #[error("cannot open a route netlink socket for the watch: {0}")]
    Socket(#[from] std::io::Error),
    /// A dump failed.
    #[error("cannot list the addresses and links of this node: {0}")]
    Dump(#[from] rtnetlink::Error),
    /// The kernel closed the notifications.
    #[error("the kernel closed the notifications of links and addresses")]
    Closed,
}

/// Compares until it is dropped or fails; every finding of a comparison goes to `notify`, again
/// after [`WATCH_INTERVAL_S`] for as long as it stands.
///
/// `held` is [`Kernel::held_flag`](crate::Kernel::held_flag). The answer to any finding is
/// [`Kernel::reconcile`](crate::Kernel::reconcile), which does no harm where nothing is wrong.
///
/// # Errors
///
/// When a socket is refused or a dump fails; needs no privilege.
pub async fn watch(
    vips: Vec<Vip>,
    held: Arc<AtomicBool>,
    mut notify: impl FnMut(Finding),
) -> Result<(), WatchError> {
    // Notifications come over a connection of their own, so that no dump drowns in them.
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (listener, _, mut changes) = new_multicast_connection(&groups)?;
    let (asker, handle, _) = new_connection()?;
    let background = Background(vec![tokio::spawn(listener), tokio::spawn(asker)]);
    loop {
        for finding in compare(&handle, &vips, &held).await? {
            notify(finding);
        }
        wait(&mut changes).await?;
        if background.0.iter().any(tokio::task::JoinHandle::is_finished) {
            return Err(WatchError::Closed);
        }
    }
}

/// Tasks that end with the watch.
struct Background(Vec<tokio::task::JoinHandle<()>>);

impl Drop for Background {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Returns when the interval has passed, or a change has settled. Changes that never settle
/// are looked at when the interval has passed.
async fn wait<T>(changes: &mut (impl Stream<Item = T> + Unpin)) -> Result<(), WatchError> {
    let interval = tokio::time::sleep(Duration::from_secs(WATCH_INTERVAL_S));
    tokio::pin!(interval);
    let mut settle = None;
    loop {
        let settled = async {
            match settle {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = &mut interval => return Ok(()),
            () = settled => return Ok(()),
            change = changes.next() => match change {
                None => return Err(WatchError::Closed),
                Some(_) => {
                    let until = Duration::from_millis(SETTLE_MS);
                    settle = Some(tokio::time::Instant::now() + until);
                }
            },
        }
    }
}

async fn compare(
    handle: &Handle,
    vips: &[Vip],
    held: &AtomicBool,
) -> Result<Vec<Finding>, WatchError> {
    let before = held.load(Ordering::Acquire);
    let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
    let addresses: Vec<AddressMessage> = handle.address().get().execute().try_collect().await?;
    if held.load(Ordering::Acquire) != before {
        // Claimed or released between the two dumps; the notification brings us back here.
        return Ok(Vec::new());
    }
    let names: HashMap<u32, String> = links.iter().filter_map(name_of).collect();
    let places: Vec<Place> = addresses.iter().filter_map(|m| place_of(m, &names)).collect();
    Ok(judge(vips, &names, &places, before))
}

/// Where an address is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    address: IpAddr,
    prefix: u8,
    interface: String,
}

fn judge(vips: &[Vip], names: &HashMap<u32, String>, places: &[Place], held: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for vip in vips {
        if !names.values().any(|name| *name == vip.interface) {
            findings.push(Finding::InterfaceMissing { vip: vip.clone() });
        }
        let mut present = false;
        for place in places.iter().filter(|place| place.address == vip.address) {
            let right = place.interface == vip.interface && place.prefix == vip.prefix;
            present |= right;
            if !right {
                let Place { prefix, interface, .. } = place.clone();
                findings.push(Finding::Misplaced { vip: vip.clone(), interface, prefix });
            }
        }
        match (held, present) {
            (true, false) => findings.push(Finding::Absent { vip: vip.clone() }),
            (false, true) => findings.push(Finding::Intruder { vip: vip.clone() }),
            (true, true) | (false, false) => {}
        }
    }
    findings
}

fn name_of(link: &LinkMessage) -> Option<(u32, String)> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some((link.header.index, name.clone())),
        _ => None,
    })
}

/// The local address is the node's own; the other one may be the far end of a link.
fn place_of(message: &AddressMessage, names: &HashMap<u32, String>) -> Option<Place> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    Some(Place {
        address: local.or(address)?,
        prefix: message.header.prefix_len,
        interface: names.get(&message.header.index)?.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings() {
        let vip = Vip { address: [10, 0, 0, 50].into(), prefix: 24, interface: "eth0".into() };
        let at = |interface: &str, prefix| Place {
            address: vip.address,
            prefix,
            interface: interface.into(),
        };
        let names: HashMap<u32, String> = [(1, "lo".into()), (2, "eth0".into())].into();
        let check = |places: &[Place], held, expected: &[Finding]| {
            let vips = std::slice::from_ref(&vip);
            assert_eq!(judge(vips, &names, places, held), expected, "{places:?} {held}");
        };
        let absent = Finding::Absent { vip: vip.clone() };
        let misplaced = |interface: &str, prefix| Finding::Misplaced {
            vip: vip.clone(),
            interface: interface.into(),
            prefix,
        };
        check(&[at("eth0", 24)], true, &[]);
        check(&[], false, &[]);
        check(&[], true, std::slice::from_ref(&absent));
        check(&[at("eth0", 24)], false, &[Finding::Intruder { vip: vip.clone() }]);
        check(&[at("eth0", 32)], true, &[misplaced("eth0", 32), absent]);
        check(&[at("lo", 24)], false, &[misplaced("lo", 24)]);
        let missing = Finding::InterfaceMissing { vip: vip.clone() };
        let names = [(1, "lo".into())].into();
        assert_eq!(judge(std::slice::from_ref(&vip), &names, &[], false), [missing]);
    }
}
