//! A third machine on the service network that answers for addresses which are not its own.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::instrument::{PATIENCE_MS, Worker, readable};
use crate::lab::VIP;
use crate::space::Space;
use crate::wire::{ETHERTYPE_ARP, packet_socket, receive, send};

/// Its link-layer address.
pub(crate) const STRANGER_MAC: [u8; 6] = [2, 0x57, 0, 0, 0, 0x0e];
/// Its own address on the service network.
pub(crate) const STRANGER_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 240);
const BROADCAST: [u8; 6] = [0xff; 6];
/// Announcements of a machine that comes up, and the time between them.
const ANNOUNCEMENTS: u32 = 3;
const ANNOUNCE_INTERVAL_MS: u64 = 1_000;

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strange {
    /// It was given the service address by mistake: it answers for it, and announces it three
    /// times, as machines do that come up.
    Claims,
    /// A router with proxy ARP (RFC 1027) for everything: it answers every question with its own
    /// link-layer address, and hands on what it is sent.
    AnswersAll,
}

/// The machine, plugged in.
pub(crate) struct Stranger {
    // Dropped in this order.
    _worker: Worker,
    _space: Space,
}

impl Stranger {
    /// Makes the machine of a namespace that is plugged in already.
    pub(crate) fn start(space: Space, strange: Strange) -> Result<Self> {
        if strange == Strange::Claims {
            space.ip(&format!("addr add {VIP}/24 dev eth0"))?;
        } else {
            space.sysctl("ipv4/ip_forward", "1")?;
        }
        let socket = space.run(packet_socket).context("cannot listen on the stranger's wire")?;
        let worker = Worker::start("stranger", move |stop| match strange {
            Strange::Claims => announce(&socket, stop),
            Strange::AnswersAll => answer(&socket, stop),
        })?;
        Ok(Self { _worker: worker, _space: space })
    }
}

fn announce(socket: &OwnedFd, stop: &AtomicBool) {
    let mut next = Instant::now();
    let mut left = ANNOUNCEMENTS;
    while !stop.load(Ordering::Relaxed) {
        if left > 0 && Instant::now() >= next {
            for operation in [1, 2] {
                send(socket, &arp(BROADCAST, operation, VIP.octets(), BROADCAST, VIP.octets()));
            }
            left -= 1;
            next += Duration::from_millis(ANNOUNCE_INTERVAL_MS);
        }
        std::thread::sleep(Duration::from_millis(PATIENCE_MS));
    }
}

fn answer(socket: &OwnedFd, stop: &AtomicBool) {
    let patience = Duration::from_millis(PATIENCE_MS);
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        if !readable(socket.as_raw_fd(), patience) {
            continue;
        }
        if let Some(reply) = receive(socket, &mut buffer).and_then(reply) {
            send(socket, &reply);
        }
    }
}

/// The answer to somebody else's question about somebody else's address.
fn reply(frame: &[u8]) -> Option<Vec<u8>> {
    let field = |at: usize| Some(frame.get(at..at + 4)?.try_into().expect("four bytes"));
    let mac: [u8; 6] = frame.get(22..28)?.try_into().expect("six bytes");
    let (asker, target): ([u8; 4], [u8; 4]) = (field(28)?, field(38)?);
    let is_request = frame.get(12..14) == Some(&ETHERTYPE_ARP.to_be_bytes())
        && frame.get(20..22) == Some(&[0, 1]);
    let is_mine = mac == STRANGER_MAC || target == STRANGER_IP.octets();
    (is_request && !is_mine && asker != target).then(|| arp(mac, 2, target, mac, asker))
}

/// An ARP frame of this machine (RFC 826).
fn arp(to: [u8; 6], operation: u8, sender: [u8; 4], mac: [u8; 6], target: [u8; 4]) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend_from_slice(&STRANGER_MAC);
    frame.extend_from_slice(&ETHERTYPE_ARP.to_be_bytes());
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend_from_slice(&STRANGER_MAC);
    frame.extend_from_slice(&sender);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&target);
    frame
}
