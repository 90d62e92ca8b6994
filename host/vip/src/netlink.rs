//! Synchronous netlink: send a batch, read its acknowledgments; listen to what others change.
//!
//! The kernel works a request off inside `send`, so every acknowledgment is already queued when
//! `send` returns: nothing here waits, except for the kernel's own locks.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use libc::c_int;
use netlink_packet_core::{NLMSG_DONE, NLMSG_ERROR};
use netlink_sys::{Socket, SocketAddr};
use socket2::SockFilter;

const HEADER_BYTES: usize = 16;
const BUFFER_BYTES: usize = 64 * 1024;
/// Datagrams read in one go from a listening socket: bounds the time of the real-time thread.
const DATAGRAMS_PER_READ_MAX: usize = 256;

/// One netlink message, borrowed from a receive buffer.
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// Splits a datagram into its messages; stops at the first malformed one.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(datagram, 0)? as usize;
        if length < HEADER_BYTES {
            return None;
        }
        let payload = datagram.get(HEADER_BYTES..length)?;
        let kind = u16::from_ne_bytes([datagram[4], datagram[5]]);
        let sequence = u32_at(datagram, 8)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Message { kind, sequence, payload })
    })
}

/// Attributes of a message (type, value); nested and byte-order flags are masked off.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let word = bytes.get(offset..offset + 4)?;
    Some(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
}

fn result_of(payload: &[u8]) -> io::Result<()> {
    match u32_at(payload, 0) {
        Some(0) => Ok(()),
        Some(negative) => Err(io::Error::from_raw_os_error((negative as i32).wrapping_neg())),
        None => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

/// Request and answer with the kernel.
pub(crate) struct Channel {
    socket: Socket,
    port: u32,
    buffer: Box<[u8]>,
}

impl Channel {
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self { socket, port, buffer: vec![0; BUFFER_BYTES].into_boxed_slice() })
    }

    /// The port that the kernel names as the author of this channel's changes.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends one buffer of requests and hands every acknowledgment (sequence number, result) to
    /// `each`.
    ///
    /// # Errors
    ///
    /// When the buffer cannot be sent, or not a single acknowledgment came back.
    pub(crate) fn transact(
        &mut self,
        requests: &[u8],
        mut each: impl FnMut(u32, io::Result<()>),
    ) -> io::Result<()> {
        self.discard();
        self.socket.send(requests, 0)?;
        let mut acknowledged = 0;
        while let Some(length) = receive(&self.socket, &mut self.buffer)? {
            for message in messages(&self.buffer[..length]) {
                if message.kind == NLMSG_ERROR {
                    acknowledged += 1;
                    each(message.sequence, result_of(message.payload));
                }
            }
        }
        if acknowledged == 0 { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) } else { Ok(()) }
    }

    /// Like [`Channel::transact`] where one refusal is the refusal of all; the first one counts.
    pub(crate) fn transact_whole(&mut self, requests: &[u8]) -> io::Result<()> {
        let mut first = Ok(());
        self.transact(requests, |_, result| {
            if first.is_ok() {
                first = result;
            }
        })?;
        first
    }

    /// Sends a dump request and hands every message of the answer to `each`.
    pub(crate) fn dump(
        &mut self,
        request: &[u8],
        mut each: impl FnMut(Message<'_>),
    ) -> io::Result<()> {
        self.discard();
        self.socket.send(request, 0)?;
        while let Some(length) = receive(&self.socket, &mut self.buffer)? {
            for message in messages(&self.buffer[..length]) {
                match message.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return result_of(message.payload),
                    _ => each(message),
                }
            }
        }
        Err(io::Error::from(io::ErrorKind::UnexpectedEof))
    }

    /// Throws away what an interrupted exchange may have left.
    fn discard(&mut self) {
        while let Ok(Some(_)) = receive(&self.socket, &mut self.buffer) {}
    }
}

/// What a listening socket had to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Every notification was seen.
    All,
    /// The kernel dropped notifications: assume the worst.
    Overflow,
}

/// Notifications of what others change.
pub(crate) struct Ear {
    socket: Socket,
    buffer: Box<[u8]>,
}

impl Ear {
    /// Joins `groups`; changes made through the port `deaf_to` are filtered in the kernel, so
    /// that a node's own renewals do not wake it.
    pub(crate) fn open(protocol: isize, groups: &[u32], deaf_to: u32) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        socket.set_rx_buf_sz(1_048_576 as c_int)?;
        attach(socket.as_raw_fd(), &all_but_port(deaf_to))?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        Ok(Self { socket, buffer: vec![0; BUFFER_BYTES].into_boxed_slice() })
    }

    /// Hands what is queued to `each`, without waiting.
    pub(crate) fn listen(&mut self, mut each: impl FnMut(Message<'_>)) -> Heard {
        for _ in 0..DATAGRAMS_PER_READ_MAX {
            match receive(&self.socket, &mut self.buffer) {
                Ok(None) => return Heard::All,
                Ok(Some(length)) => messages(&self.buffer[..length]).for_each(&mut each),
                Err(_) => return Heard::Overflow,
            }
        }
        Heard::All
    }
}

impl AsRawFd for Ear {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// One datagram, or `None` when nothing is queued.
fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match socket.recv(&mut &mut *buffer, 0) {
            Ok(length) => return Ok(Some(length.min(buffer.len()))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Classic BPF over a netlink datagram: everything but what `port` caused.
fn all_but_port(port: u32) -> [SockFilter; 4] {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const OFFSET_OF_PORT: u32 = 12;
    // BPF reads words in network order, netlink writes them in the host's.
    let port = u32::from_be_bytes(port.to_ne_bytes());
    [
        SockFilter::new(LOAD_WORD, 0, 0, OFFSET_OF_PORT),
        SockFilter::new(JUMP_EQUAL, 0, 1, port),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}

fn attach(descriptor: RawFd, program: &[SockFilter]) -> io::Result<()> {
    // SAFETY: the descriptor is open for the whole call, and `ManuallyDrop` leaves it open.
    let borrowed = std::mem::ManuallyDrop::new(unsafe { socket2::Socket::from_raw_fd(descriptor) });
    borrowed.attach_filter(program)
}

/// A prepared request with holes for one number that changes from send to send.
pub(crate) struct Template<const WIDTH: usize> {
    bytes: Vec<u8>,
    holes: Vec<usize>,
}

impl<const WIDTH: usize> Template<WIDTH> {
    /// `build(false)` and `build(true)` must differ in the holes alone: all bits clear, all set.
    pub(crate) fn new(build: impl Fn(bool) -> Vec<u8>) -> Self {
        let (clear, set) = (build(false), build(true));
        assert_eq!(clear.len(), set.len(), "a hole has a fixed width");
        let differs = |at: &usize| clear[*at] != set[*at];
        let different: Vec<usize> = (0..clear.len()).filter(differs).collect();
        assert_eq!(different.len() % WIDTH, 0, "holes are {WIDTH} bytes wide");
        let holes = different.into_iter().step_by(WIDTH).collect();
        Self { bytes: clear, holes }
    }

    /// The request with `value` in every hole.
    pub(crate) fn fill(&mut self, value: [u8; WIDTH]) -> &[u8] {
        for hole in &self.holes {
            self.bytes[*hole..*hole + WIDTH].copy_from_slice(&value);
        }
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_datagrams_end_the_iteration() {
        let mut good = vec![20, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
        if cfg!(target_endian = "big") {
            return;
        }
        let kinds =
            |bytes: &[u8]| messages(bytes).map(|m| (m.kind, m.sequence)).collect::<Vec<_>>();
        assert_eq!(kinds(&good), [(7, 9)]);
        assert_eq!(kinds(&good[..19]), [], "truncated");
        good[0] = 15;
        assert_eq!(kinds(&good), [], "shorter than its header");
        assert_eq!(kinds(&[]), []);
        assert_eq!(
            attributes(&[8, 0, 1, 0x80, 1, 2, 3, 4]).next().unwrap(),
            (1, &[1, 2, 3, 4][..])
        );
        assert!(attributes(&[3, 0, 1, 0, 9]).next().is_none(), "shorter than its header");
        assert!(attributes(&[9, 0, 1, 0, 9]).next().is_none(), "longer than the message");
    }

    #[test]
    fn a_template_fills_every_hole_and_nothing_else() {
        let build = |set: bool| {
            let hole = if set { [0xff; 4] } else { [0; 4] };
            [&[7][..], &hole, &hole, &[0xff, 0], &hole].concat()
        };
        let mut template = Template::<4>::new(build);
        let expected = [7, 1, 2, 3, 4, 1, 2, 3, 4, 0xff, 0, 1, 2, 3, 4];
        assert_eq!(template.fill([1, 2, 3, 4]), expected);
    }
}
