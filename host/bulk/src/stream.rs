//! One stream: frames over TLS over one nonblocking TCP connection.
//!
//! On the wire a frame is its length as four bytes, little-endian, and its body. The handshake is
//! no state of its own: TLS shakes hands inside `receive` and `flush`, and what was sent before
//! waits in the session until the peer has proven who it is.
//!
//! Copies, for each byte: on the way out one, from the caller's parts into an encrypted record; on
//! the way in three, from the kernel into the session, out of the record, into the frame. An idle
//! stream keeps no buffer but its session's few KiB.

use std::any::Any;
use std::cell::RefCell;
use std::io::{self, BufRead, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

use rustls::Connection;

use crate::bandwidth::{Bandwidth, Grant};
use crate::hello::Purpose;
use crate::{BulkError, FRAME_BYTES_MAX, HELLO_BYTES_MAX, QUEUE_BYTES_MAX, SMALL_FRAME_BYTES_MAX};

/// Bytes of a frame's length.
const LENGTH_BYTES: usize = 4;
/// Most plaintext in one record of TLS (RFC 8446 §5.1).
const RECORD_BYTES_MAX: usize = 16 * 1024;
/// What a record adds: header, type and tag (RFC 8446 §5.2).
const RECORD_OVERHEAD_BYTES: usize = 22;
/// Read from the kernel at once. One buffer for each thread, not for each stream.
const READ_BYTES: usize = 64 * 1024;
/// What the buffer of a stream without a frame under way may keep.
const IDLE_BYTES_MAX: usize = 64 * 1024;
/// What TLS itself may have to say beside the frames: a change of keys, a farewell.
const OWN_BYTES: usize = 256;
/// Slices that go to the kernel at once; as many as rustls hands over.
const SLICES_MAX: usize = 64;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// What both hellos agreed on.
#[derive(Debug, Clone)]
pub(crate) struct Agreement {
    pub(crate) purpose: Purpose,
    pub(crate) version: u16,
    pub(crate) payload: Vec<u8>,
}

/// A stream to the peer. Nothing in it blocks; one thread at a time uses it.
///
/// In a `ppoll` loop: wait for `POLLIN`, for `POLLOUT` if [`Stream::wants_write`], and at most
/// until [`Stream::ready_at`]; then [`Stream::flush`], and [`Stream::receive`] until it has none.
pub struct Stream {
    tcp: TcpStream,
    tls: Connection,
    address: SocketAddr,
    peer: String,
    agreement: Option<Agreement>,
    bandwidth: Bandwidth,
    arrived: Arrived,
    /// Bytes in the session that the kernel has not taken, as TLS counts them.
    queued: usize,
    /// All that is queued are small frames.
    all_small: bool,
    held_until: Option<Instant>,
    ended: Option<BulkError>,
    /// Dropped with the stream: tells those who count it.
    keepsake: Option<Box<dyn Any + Send>>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("peer", &self.peer)
            .field("address", &self.address)
            .field("agreement", &self.agreement)
            .field("queued", &self.queued)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Stream {
    /// Before the hello: no cap, and no frame longer than a hello is taken.
    pub(crate) fn new(
        tcp: TcpStream,
        mut tls: Connection,
        peer: &str,
        address: SocketAddr,
    ) -> Self {
        // The limit is `QUEUE_BYTES_MAX`, and it refuses whole frames instead of cutting them.
        tls.set_buffer_limit(None);
        Self {
            tcp,
            tls,
            address,
            peer: peer.to_owned(),
            agreement: None,
            bandwidth: Bandwidth::default(),
            arrived: Arrived::default(),
            queued: 0,
            all_small: true,
            held_until: None,
            ended: None,
            keepsake: None,
        }
    }

    /// After the hello.
    pub(crate) fn agree(&mut self, agreement: Agreement, bandwidth: Bandwidth) {
        self.agreement = Some(agreement);
        self.bandwidth = bandwidth;
    }

    pub(crate) fn keep(&mut self, keepsake: impl Any + Send) {
        self.keepsake = Some(Box::new(keepsake));
    }

    /// The descriptor to wait for.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.tcp.as_raw_fd()
    }

    /// Whether to wait for `POLLOUT`, too. Not while the bandwidth holds the stream back.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.ended.is_none() && self.held_until.is_none() && self.tls.wants_write()
    }

    /// When to call [`Stream::flush`] although the descriptor says nothing: the bandwidth holds
    /// back what is queued until then.
    #[must_use]
    pub fn ready_at(&self) -> Option<Instant> {
        self.held_until.filter(|_| self.ended.is_none())
    }

    /// Bytes that were accepted and are not yet in the kernel, with what TLS adds to them.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// The other node's name, as its certificate proved it.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The address at the other end.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the stream is for.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        self.agreement().purpose
    }

    /// The version of the protocol that both chose.
    #[must_use]
    pub fn version(&self) -> u16 {
        self.agreement().version
    }

    /// What the purpose's other end said in its hello.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.agreement().payload
    }

    fn agreement(&self) -> &Agreement {
        self.agreement.as_ref().expect("a stream is handed out after its hello")
    }

    /// Sends one frame, the parts in their order, as far as the kernel takes it at once; the rest
    /// waits for [`Stream::flush`].
    ///
    /// # Errors
    ///
    /// As [`Stream::queue`].
    pub fn send(&mut self, parts: &[&[u8]]) -> Result<(), BulkError> {
        self.queue(parts)?;
        self.flush()
    }

    /// Accepts one frame, for the next [`Stream::flush`]: many small frames go to the kernel in
    /// one call.
    ///
    /// # Errors
    ///
    /// [`BulkError::FrameTooLong`] and [`BulkError::QueueFull`] leave the stream as it was, and
    /// nothing of the frame is sent. [`BulkError::Ended`] is final.
    pub fn queue(&mut self, parts: &[&[u8]]) -> Result<(), BulkError> {
        if let Some(ended) = &self.ended {
            return Err(ended.clone());
        }
        let bytes = parts.iter().map(|part| part.len()).sum();
        if bytes > FRAME_BYTES_MAX {
            return Err(BulkError::FrameTooLong { bytes });
        }
        let framed = bytes + LENGTH_BYTES;
        let sealed = framed + framed.div_ceil(RECORD_BYTES_MAX) * RECORD_OVERHEAD_BYTES;
        if self.queued + sealed > QUEUE_BYTES_MAX {
            return Err(BulkError::QueueFull { queued: self.queued });
        }
        // FRAME_BYTES_MAX fits.
        let length = (bytes as u32).to_le_bytes();
        let mut slices = Vec::with_capacity(parts.len() + 1);
        slices.push(IoSlice::new(&length));
        slices.extend(parts.iter().map(|part| IoSlice::new(part)));
        let written = self.tls.writer().write_vectored(&slices).map_err(BulkError::ended);
        let written = written.map_err(|error| self.end(error))?;
        assert_eq!(written, framed, "without a limit the session takes all");
        self.queued += sealed;
        self.all_small &= bytes <= SMALL_FRAME_BYTES_MAX;
        Ok(())
    }

    /// Writes what the kernel takes and the bandwidth allows.
    ///
    /// # Errors
    ///
    /// The stream has ended.
    pub fn flush(&mut self) -> Result<(), BulkError> {
        if let Some(ended) = &self.ended {
            return Err(ended.clone());
        }
        match self.write() {
            Ok(()) => Ok(()),
            Err(error) => Err(self.end(BulkError::ended(error))),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        self.held_until = None;
        while self.tls.wants_write() {
            let (allowed, is_capped) = match self.allowance() {
                Grant::Free => (usize::MAX, false),
                Grant::Bytes(bytes) => (bytes, true),
                Grant::At(at) => {
                    self.held_until = Some(at);
                    return Ok(());
                }
            };
            let mut kernel = Kernel { tcp: &self.tcp, allowed, offered: 0 };
            let written = self.tls.write_tls(&mut kernel);
            let offered = kernel.offered;
            let taken = *written.as_ref().unwrap_or(&0);
            if is_capped {
                self.bandwidth.give_back(allowed - taken);
            }
            self.queued = self.queued.saturating_sub(taken);
            match written {
                // The rest would only be told that the kernel is full.
                Ok(taken) if taken < offered => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // Before the handshake ends, frames wait inside the session.
        if !self.tls.is_handshaking() {
            self.queued = 0;
            self.all_small = true;
        }
        Ok(())
    }

    fn allowance(&self) -> Grant {
        let wanted = self.queued.max(OWN_BYTES);
        self.bandwidth.take(wanted, self.all_small, Instant::now())
    }

    /// The body of the next frame, or `None` if the kernel has no more. Frames that arrived before
    /// the end of the stream come before its error.
    ///
    /// # Errors
    ///
    /// The stream has ended: closed, cut, or the peer sent what it may not send.
    pub fn receive(&mut self) -> Result<Option<&[u8]>, BulkError> {
        let Some(range) = self.next_frame()? else { return Ok(None) };
        Ok(Some(&self.arrived.bytes[range]))
    }

    fn next_frame(&mut self) -> Result<Option<Range<usize>>, BulkError> {
        let max = if self.agreement.is_some() { FRAME_BYTES_MAX } else { HELLO_BYTES_MAX };
        loop {
            match self.arrived.next(max) {
                Ok(None) => {}
                Ok(Some(range)) => return Ok(Some(range)),
                Err(error) => return Err(self.end(error)),
            }
            if let Some(ended) = &self.ended {
                return Err(ended.clone());
            }
            if !self.fill() {
                return Ok(None);
            }
        }
    }

    /// Reads once from the kernel; false if it has nothing. An end is remembered in `ended`, for
    /// after the frames that came before it.
    fn fill(&mut self) -> bool {
        let result = SCRATCH.with_borrow_mut(|scratch| {
            let read = loop {
                match (&self.tcp).read(scratch) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => break other,
                }
            };
            match read {
                Ok(0) => Err(BulkError::ended("the peer, or something between, cut it")),
                Ok(bytes) => self.digest(&scratch[..bytes]).map(|()| true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                Err(error) => Err(BulkError::ended(error)),
            }
        });
        if result == Ok(false) {
            self.arrived.rest();
        }
        result.unwrap_or_else(|error| {
            self.end(error);
            true
        })
    }

    /// Decrypts what the kernel had.
    fn digest(&mut self, mut bytes: &[u8]) -> Result<(), BulkError> {
        self.arrived.compact();
        while !bytes.is_empty() {
            self.tls.read_tls(&mut bytes).map_err(BulkError::tls)?;
            let state = self.tls.process_new_packets();
            // Records before a bad one count.
            self.unpack();
            match state {
                Ok(state) if state.peer_has_closed() => {
                    return Err(BulkError::ended("the peer closed it"));
                }
                Ok(_) => {}
                Err(error) => {
                    // The peer learns why from the alert, if it still can be told.
                    let _ = self.write();
                    return Err(tls_error(&error, self.agreement.is_some()));
                }
            }
        }
        // Handshakes and changed keys have an answer.
        if self.tls.wants_write() && self.held_until.is_none() {
            self.write().map_err(BulkError::ended)?;
        }
        Ok(())
    }

    /// Takes the plaintext out of the session.
    fn unpack(&mut self) {
        let mut reader = self.tls.reader();
        // Without any it says that it would block, or that the peer has closed.
        while let Ok(chunk) = reader.fill_buf()
            && !chunk.is_empty()
        {
            self.arrived.bytes.extend_from_slice(chunk);
            let taken = chunk.len();
            reader.consume(taken);
        }
    }

    /// The first reason stays.
    fn end(&mut self, error: BulkError) -> BulkError {
        self.ended.get_or_insert(error).clone()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // A peer that is told does not have to guess; one that cannot be told finds out.
        if self.ended.is_none() {
            self.tls.send_close_notify();
            self.bandwidth = Bandwidth::default();
            let _ = self.write();
        }
    }
}

fn tls_error(error: &rustls::Error, is_agreed: bool) -> BulkError {
    match error {
        rustls::Error::AlertReceived(alert) if !is_agreed => {
            BulkError::tls(format!("the peer refuses this node's handshake: {alert:?}"))
        }
        error if is_agreed => BulkError::ended(error),
        error => BulkError::tls(error),
    }
}

/// Plaintext that arrived.
#[derive(Default)]
struct Arrived {
    bytes: Vec<u8>,
    /// Where the next frame begins.
    at: usize,
}

impl Arrived {
    /// Where the next whole frame is, which counts as taken.
    fn next(&mut self, max: usize) -> Result<Option<Range<usize>>, BulkError> {
        let rest = &self.bytes[self.at..];
        let Some((length, body)) = rest.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let bytes = u32::from_le_bytes(*length) as usize;
        if bytes > max {
            return Err(BulkError::FrameRefused { bytes, max });
        }
        if body.len() < bytes {
            return Ok(None);
        }
        let start = self.at + LENGTH_BYTES;
        self.at = start + bytes;
        Ok(Some(start..self.at))
    }

    /// Forgets the frames that were taken, and makes room for the one under way, whose length
    /// `next` has found good. Moves less than one frame.
    fn compact(&mut self) {
        self.bytes.drain(..self.at);
        self.at = 0;
        if let Some(length) = self.bytes.first_chunk::<LENGTH_BYTES>() {
            let whole = LENGTH_BYTES + u32::from_le_bytes(*length) as usize;
            // What is read at once may go beyond the frame.
            self.bytes.reserve((whole + READ_BYTES).saturating_sub(self.bytes.len()));
        }
    }

    /// Nothing more comes for now.
    fn rest(&mut self) {
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
            self.bytes.shrink_to(IDLE_BYTES_MAX);
        }
    }
}

/// The kernel's side of a stream, up to what is allowed.
struct Kernel<'a> {
    tcp: &'a TcpStream,
    allowed: usize,
    /// How much it was given.
    offered: usize,
}

impl Write for Kernel<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(self.allowed)];
        self.offered = bytes.len();
        self.tcp.write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut cut = [IoSlice::new(&[]); SLICES_MAX];
        let mut used = 0;
        for (place, slice) in cut.iter_mut().zip(slices) {
            let left = self.allowed - self.offered;
            *place = IoSlice::new(&slice[..slice.len().min(left)]);
            self.offered += place.len();
            used += 1;
            if self.offered == self.allowed {
                break;
            }
        }
        self.tcp.write_vectored(&cut[..used])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
