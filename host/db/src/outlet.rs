//! The channel to the peer as databases use it: frames in, and no more than it takes.

use crate::wire::{self, Head, Message};
use staffetta_bulk::{BulkError, Stream};

/// Bytes that may wait for the kernel before databases hold back. More would only make what is
/// newer wait behind what is older.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// The stream of the moment, if there is one.
#[derive(Debug)]
pub(crate) struct Outlet<'a> {
    stream: Option<&'a mut Stream>,
    /// Why it ended; the engine drops it then.
    pub failed: Option<BulkError>,
    /// Bytes of pages sent.
    pub sent_bytes: u64,
}

impl<'a> Outlet<'a> {
    pub(crate) fn new(stream: Option<&'a mut Stream>) -> Outlet<'a> {
        Outlet { stream, failed: None, sent_bytes: 0 }
    }

    /// Somebody is there.
    pub(crate) fn is_open(&self) -> bool {
        self.stream.is_some() && self.failed.is_none()
    }

    /// Pages may be sent.
    pub(crate) fn has_room(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.queued() < WAITING_BYTES_MAX)
            && self.failed.is_none()
    }

    pub(crate) fn message(&mut self, message: &Message) {
        self.frame(&[&wire::message(message)]);
    }

    pub(crate) fn frame(&mut self, parts: &[&[u8]]) {
        if self.failed.is_some() {
            return;
        }
        if let Some(stream) = &mut self.stream
            && let Err(error) = stream.send(parts)
        {
            self.failed = Some(error);
        }
    }

    pub(crate) fn pages<'p>(
        &mut self,
        head: &Head,
        pages: impl Iterator<Item = (u32, &'p [u8])> + Clone,
    ) {
        let head = head.encode();
        let numbers: Vec<[u8; 4]> = pages.clone().map(|(number, _)| number.to_le_bytes()).collect();
        let mut parts: Vec<&[u8]> = Vec::with_capacity(1 + 2 * numbers.len());
        parts.push(&head);
        for (number, (_, image)) in numbers.iter().zip(pages) {
            parts.push(number);
            parts.push(image);
            self.sent_bytes += image.len() as u64;
        }
        self.frame(&parts);
    }
}
