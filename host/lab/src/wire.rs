//! Who answers on the service address, on the wire: both nodes are asked by their link-layer
//! address every 5 ms, by ARP (RFC 826) and by UDP, and the rounds in which both answered are
//! counted.
//!
//! Only answers to this asker count: the announcements of a new holder, some of them replies sent
//! to the client alone, are not answers. So the ARP questions come from an address of their own.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::instrument::{Worker, readable};
use crate::lab::{CLIENT_IP, CLIENT_MAC, Lab, Node, VIP};
use crate::probe::ECHO_PORT;

/// Time between two rounds, in milliseconds; also what a round with two answers counts for.
const ROUND_MS: u64 = 5;
/// The asker's UDP port.
const ASKER_PORT: u16 = 40_777;
/// Asks by ARP under an address of its own: what nodes tell the client unasked is no answer.
const ARP_ASKER_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 99);
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV4: u16 = 0x0800;
const UDP: u8 = 17;

/// Bits of a round: who answered what.
const ARP_BIT: [u8; 2] = [1, 2];
const UDP_BIT: [u8; 2] = [4, 8];

/// One round of questions.
#[derive(Clone, Copy)]
struct Round {
    at: Instant,
    answered: u8,
}

/// What was seen in a stretch of time, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireTally {
    /// Rounds in which both nodes answered ARP.
    pub dual_arp_ms: u64,
    /// Rounds in which both nodes answered UDP.
    pub dual_udp_ms: u64,
    /// Rounds in which each node answered ARP.
    pub answered_arp_ms: [u64; 2],
    /// Rounds in which each node answered UDP.
    pub answered_udp_ms: [u64; 2],
}

impl WireTally {
    /// Time with two answers, by whichever question.
    #[must_use]
    pub fn dual_ms(&self) -> u64 {
        self.dual_arp_ms.max(self.dual_udp_ms)
    }

    fn add(&mut self, answered: u8) {
        let both = |bits: [u8; 2]| bits.iter().all(|bit| answered & bit != 0);
        self.dual_arp_ms += u64::from(both(ARP_BIT)) * ROUND_MS;
        self.dual_udp_ms += u64::from(both(UDP_BIT)) * ROUND_MS;
        for node in 0..2 {
            self.answered_arp_ms[node] += u64::from(answered & ARP_BIT[node] != 0) * ROUND_MS;
            self.answered_udp_ms[node] += u64::from(answered & UDP_BIT[node] != 0) * ROUND_MS;
        }
    }
}

/// The watcher on the client's wire.
pub struct WireWatch {
    rounds: Arc<Mutex<Vec<Round>>>,
    _worker: Worker,
    /// Keeps the asker's UDP port from answering "port unreachable".
    _port: UdpSocket,
}

impl WireWatch {
    /// Starts to watch. The nodes need an [`crate::EchoServer`] for the UDP half.
    ///
    /// # Errors
    /// When the packet socket cannot be made.
    pub fn start(lab: &Lab) -> Result<Self> {
        let (socket, port) = lab
            .client()
            .run(|| {
                Ok::<_, io::Error>((packet_socket()?, UdpSocket::bind((CLIENT_IP, ASKER_PORT))?))
            })
            .context("cannot watch the client's wire")?;
        let rounds = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&rounds);
        let worker = Worker::start("wire", move |stop| watch(&socket, &list, stop))?;
        Ok(Self { rounds, _worker: worker, _port: port })
    }

    /// What was seen in `from..to`.
    #[must_use]
    pub fn tally(&self, from: Instant, to: Instant) -> WireTally {
        let rounds = self.rounds.lock().expect("no panic under this lock");
        let first = rounds.partition_point(|round| round.at < from);
        let mut tally = WireTally::default();
        for round in rounds[first..].iter().take_while(|round| round.at < to) {
            tally.add(round.answered);
        }
        tally
    }

    /// When both answered in `from..to`, as milliseconds after `from`; for messages.
    #[must_use]
    pub fn dual_at_ms(&self, from: Instant, to: Instant) -> Vec<u128> {
        let rounds = self.rounds.lock().expect("no panic under this lock");
        rounds
            .iter()
            .filter(|round| round.at >= from && round.at < to)
            .filter(|round| {
                let mut tally = WireTally::default();
                tally.add(round.answered);
                tally.dual_ms() > 0
            })
            .map(|round| (round.at - from).as_millis())
            .collect()
    }
}

fn watch(socket: &OwnedFd, rounds: &Mutex<Vec<Round>>, stop: &AtomicBool) {
    let questions = Node::BOTH.map(|node| [arp_question(node.mac()), udp_question(node.mac())]);
    let interval = Duration::from_millis(ROUND_MS);
    let mut next = Instant::now();
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now >= next {
            rounds.lock().expect("no panic under this lock").push(Round { at: now, answered: 0 });
            for frame in questions.iter().flatten() {
                send(socket, frame);
            }
            next = (next + interval).max(now);
            continue;
        }
        if !readable(socket.as_raw_fd(), next - now) {
            continue;
        }
        let bit = receive(socket, &mut buffer).map_or(0, answer_bit);
        if bit != 0
            && let Some(round) = rounds.lock().expect("no panic under this lock").last_mut()
        {
            round.answered |= bit;
        }
    }
}

/// Which answer this frame is; 0 for every other frame.
fn answer_bit(frame: &[u8]) -> u8 {
    let Some(node) = Node::BOTH.into_iter().find(|node| frame.get(6..12) == Some(&node.mac()))
    else {
        return 0;
    };
    let from_vip = |at: usize| frame.get(at..at + 4) == Some(&VIP.octets());
    match frame.get(12..14).map(|kind| u16::from_be_bytes([kind[0], kind[1]])) {
        Some(ETHERTYPE_ARP) => {
            let is_reply = frame.get(20..22) == Some(&[0, 2]);
            let to_asker = frame.get(38..42) == Some(&ARP_ASKER_IP.octets());
            if is_reply && from_vip(28) && to_asker { ARP_BIT[node.index()] } else { 0 }
        }
        Some(ETHERTYPE_IPV4) => {
            let is_udp = frame.get(23) == Some(&UDP);
            let to_port = frame.get(36..38) == Some(&ASKER_PORT.to_be_bytes());
            if is_udp && from_vip(26) && to_port { UDP_BIT[node.index()] } else { 0 }
        }
        _ => 0,
    }
}

fn arp_question(to: [u8; 6]) -> Vec<u8> {
    let mut frame = ethernet(to, ETHERTYPE_ARP);
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&CLIENT_MAC);
    frame.extend_from_slice(&ARP_ASKER_IP.octets());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&VIP.octets());
    frame
}

fn udp_question(to: [u8; 6]) -> Vec<u8> {
    const PAYLOAD: &[u8; 8] = b"who-are?";
    const DATAGRAM_BYTES: u16 = 8 + PAYLOAD.len() as u16;
    let mut header = vec![0x45, 0];
    header.extend_from_slice(&(20 + DATAGRAM_BYTES).to_be_bytes());
    header.extend_from_slice(&[0, 0, 0x40, 0, 64, UDP, 0, 0]);
    header.extend_from_slice(&CLIENT_IP.octets());
    header.extend_from_slice(&VIP.octets());
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);

    let mut frame = ethernet(to, ETHERTYPE_IPV4);
    frame.extend_from_slice(&header);
    for field in [ASKER_PORT, ECHO_PORT, DATAGRAM_BYTES, 0] {
        frame.extend_from_slice(&field.to_be_bytes());
    }
    frame.extend_from_slice(PAYLOAD);
    frame
}

fn ethernet(to: [u8; 6], kind: u16) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend_from_slice(&CLIENT_MAC);
    frame.extend_from_slice(&kind.to_be_bytes());
    frame
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

pub(crate) fn packet_socket() -> io::Result<OwnedFd> {
    const ALL: u16 = libc::ETH_P_ALL as u16;
    // SAFETY: plain system calls; the descriptor is owned as soon as it is known to be valid.
    unsafe {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let raw = libc::socket(libc::AF_PACKET, kind, i32::from(ALL.to_be()));
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(raw);
        let index = libc::if_nametoindex(c"eth0".as_ptr());
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = ALL.to_be();
        address.sll_ifindex = index as i32;
        let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        if libc::bind(raw, (&raw const address).cast(), size) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(socket)
    }
}

pub(crate) fn send(socket: &OwnedFd, frame: &[u8]) {
    // SAFETY: the slice is live for the call. A port that is down refuses: that is part of the
    // experiment.
    unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
}

pub(crate) fn receive<'a>(socket: &OwnedFd, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    // SAFETY: the buffer is live for the call and its length is given.
    let len =
        unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    buffer.get(..usize::try_from(len).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arp_reply(from: [u8; 6], target: Ipv4Addr) -> Vec<u8> {
        let mut frame = CLIENT_MAC.to_vec();
        frame.extend_from_slice(&from);
        frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        frame.extend_from_slice(&from);
        frame.extend_from_slice(&VIP.octets());
        frame.extend_from_slice(&CLIENT_MAC);
        frame.extend_from_slice(&target.octets());
        frame
    }

    #[test]
    fn an_announcement_is_not_an_answer() {
        assert_eq!(answer_bit(&arp_reply(Node::A.mac(), ARP_ASKER_IP)), ARP_BIT[0]);
        assert_eq!(answer_bit(&arp_reply(Node::B.mac(), ARP_ASKER_IP)), ARP_BIT[1]);
        assert_eq!(answer_bit(&arp_reply(Node::B.mac(), VIP)), 0);
        assert_eq!(answer_bit(&arp_reply([9; 6], ARP_ASKER_IP)), 0);
        assert_eq!(answer_bit(&[]), 0);
    }

    #[test]
    fn the_header_checksum_is_right() {
        let frame = udp_question(Node::A.mac());
        assert_eq!(checksum(&frame[14..34]), 0);
        assert_eq!(frame.len(), 14 + 20 + 8 + 8);
    }

    #[test]
    fn both_in_one_round_is_dual() {
        let mut tally = WireTally::default();
        tally.add(ARP_BIT[0] | UDP_BIT[0]);
        tally.add(ARP_BIT[1] | UDP_BIT[0] | UDP_BIT[1]);
        assert_eq!((tally.dual_arp_ms, tally.dual_udp_ms, tally.dual_ms()), (0, 5, 5));
        assert_eq!(tally.answered_udp_ms, [10, 5]);
    }
}
