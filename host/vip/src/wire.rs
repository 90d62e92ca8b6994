//! Packet sockets on the service network: announcements and probes out, answers in.
//!
//! A filter in the kernel lets through ARP from the service addresses and the configured
//! neighbors, and advertisements for the service addresses: a busy network wakes nobody.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, RawFd};

use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

const FRAME_BYTES_MAX: usize = 256;
/// Frames read from one socket in one go: bounds the time of the real-time thread.
const FRAMES_PER_READ_MAX: usize = 64;
const RECEIVE_BUFFER_BYTES: usize = 64 * 1024;

const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// One filtered packet socket, bound to one link and one EtherType.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: Socket,
    ethertype: u16,
}

impl Wire {
    /// ARP whose sender is one of `senders`.
    pub(crate) fn arp(index: u32, senders: &[Ipv4Addr]) -> io::Result<Self> {
        Self::open(index, libc::ETH_P_ARP as u16, &arp_filter(senders))
    }

    /// Neighbor advertisements whose target is one of `targets`.
    pub(crate) fn advertisements(index: u32, targets: &[Ipv6Addr]) -> io::Result<Self> {
        Self::open(index, libc::ETH_P_IPV6 as u16, &advertisement_filter(targets))
    }

    fn open(index: u32, ethertype: u16, filter: &[SockFilter]) -> io::Result<Self> {
        // Protocol 0: nothing is received before the filter is in place and the socket bound.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        socket.attach_filter(filter)?;
        let wire = Self { socket, ethertype };
        wire.bind(index)?;
        Ok(wire)
    }

    /// Moves to the link that now has the interface's name.
    pub(crate) fn bind(&self, index: u32) -> io::Result<()> {
        self.socket.bind(&link_address(index, self.ethertype)?)
    }

    /// Sends one whole frame. Loss is normal here: announcements and probes are repeated.
    pub(crate) fn send(&self, frame: &[u8]) {
        let _lost_frames_are_repeated = self.socket.send(frame);
    }

    /// Hands what is queued to `each`, without waiting.
    pub(crate) fn read(&self, mut each: impl FnMut(&[u8])) {
        let mut buffer = [MaybeUninit::uninit(); FRAME_BYTES_MAX];
        for _ in 0..FRAMES_PER_READ_MAX {
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    let length = length.min(buffer.len());
                    // SAFETY: `recv` has written the first `length` bytes.
                    each(unsafe { buffer[..length].assume_init_ref() });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A link that goes down says so once; what is queued behind it is still read.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
                Err(_) => return,
            }
        }
    }
}

impl AsRawFd for Wire {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// `sockaddr_ll` of a link and an EtherType.
pub(crate) fn link_address(index: u32, ethertype: u16) -> io::Result<SockAddr> {
    // SAFETY: the storage is large enough for any socket address and zeroed; the length returned
    // is that of the `sockaddr_ll` written.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let link = storage.cast::<libc::sockaddr_ll>();
            (*link).sll_family = libc::AF_PACKET as u16;
            (*link).sll_protocol = ethertype.to_be();
            (*link).sll_ifindex = index.cast_signed();
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    Ok(address)
}

/// Which addresses of one family a filter lets through.
pub(crate) fn split(addresses: impl Iterator<Item = IpAddr>) -> (Vec<Ipv4Addr>, Vec<Ipv6Addr>) {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for address in addresses {
        match address {
            IpAddr::V4(address) => v4.push(address),
            IpAddr::V6(address) => v6.push(address),
        }
    }
    (v4, v6)
}

pub(crate) fn arp_filter(senders: &[Ipv4Addr]) -> Vec<SockFilter> {
    const SENDER: u32 = 28;
    let mut program = vec![SockFilter::new(LOAD_WORD, 0, 0, SENDER)];
    for sender in senders {
        program.push(SockFilter::new(JUMP_EQUAL, 0, 1, sender.to_bits()));
        program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    }
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program
}

fn advertisement_filter(targets: &[Ipv6Addr]) -> Vec<SockFilter> {
    const NEXT_HEADER: u32 = 20;
    const KIND: u32 = 54;
    const TARGET: u32 = 62;
    let mut program = vec![
        SockFilter::new(LOAD_BYTE, 0, 0, NEXT_HEADER),
        SockFilter::new(JUMP_EQUAL, 1, 0, 58),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(LOAD_BYTE, 0, 0, KIND),
        SockFilter::new(JUMP_EQUAL, 1, 0, 136),
        SockFilter::new(RETURN, 0, 0, 0),
    ];
    for target in targets {
        let words = target.octets();
        for (index, word) in words.chunks_exact(4).enumerate() {
            let word = u32::from_be_bytes([word[0], word[1], word[2], word[3]]);
            let rest_of_block = 2 * (3 - index as u8) + 1;
            program.push(SockFilter::new(LOAD_WORD, 0, 0, TARGET + 4 * index as u32));
            program.push(SockFilter::new(JUMP_EQUAL, 0, rest_of_block, word));
        }
        program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    }
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program
}
