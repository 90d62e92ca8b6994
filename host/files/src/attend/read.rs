//! Digests of contents that are too large to be read at once.

use crate::digest::{Digest, SEGMENT_BYTES, Segments};
use crate::tree::{Segment, SegmentReader};
use std::fs::File;
use std::io;
use std::time::Instant;

/// Between two looks at the clock: holes cost next to nothing.
const SEGMENTS_PER_LOOK: u32 = 8;

/// The digest of a content that may go on.
#[derive(Clone)]
pub(super) struct Running {
    size: u64,
    whole: Segments,
    /// Of the last segment, which is not whole.
    tail: blake3::Hasher,
}

impl Default for Running {
    fn default() -> Self {
        Self { size: 0, whole: Segments::default(), tail: blake3::Hasher::new() }
    }
}

impl Running {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = SEGMENT_BYTES - self.partial();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.tail.update(now);
            self.size += now.len() as u64;
            if self.partial() == 0 {
                self.whole.push(Digest(*self.tail.finalize().as_bytes()));
                self.tail.reset();
            }
            bytes = later;
        }
    }

    fn segment(&mut self, segment: &Segment<'_>, length: usize) {
        if length == SEGMENT_BYTES && self.partial() == 0 {
            self.whole.push(segment.hash);
            self.size += length as u64;
            return;
        }
        match segment.bytes {
            Some(bytes) => self.add(bytes),
            None => self.add(&vec![0; length]),
        }
    }

    pub(super) fn digest(&self) -> Digest {
        if self.partial() == 0 {
            return self.whole.digest();
        }
        let mut all = self.whole.clone();
        all.push(Digest(*self.tail.finalize().as_bytes()));
        all.digest()
    }

    /// Bytes of the last segment; 0 where it is whole.
    fn partial(&self) -> usize {
        (self.size % SEGMENT_BYTES as u64) as usize
    }
}

/// A file that is being read.
pub(super) struct Reading {
    file: File,
    size: u64,
    reader: SegmentReader,
    running: Running,
}

impl Reading {
    pub(super) fn new(file: File, size: u64) -> Self {
        Self { file, size, reader: SegmentReader::new(size, 0), running: Running::default() }
    }

    /// Reads on, until then: true when it is done.
    ///
    /// # Errors
    /// Of the disk, and `UnexpectedEof` when the file became shorter.
    pub(super) fn go_on(&mut self, until: Instant) -> io::Result<bool> {
        loop {
            for _ in 0..SEGMENTS_PER_LOOK {
                let left = self.size - self.running.size();
                let Some(segment) = self.reader.next(&self.file)? else { return Ok(true) };
                let length = left.min(SEGMENT_BYTES as u64) as usize;
                self.running.segment(&segment, length);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
        }
    }

    pub(super) fn digest(&self) -> Digest {
        self.running.digest()
    }

    pub(super) fn into_running(self) -> Running {
        self.running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_that_comes_in_pieces_has_the_digest_of_the_whole() {
        let bytes: Vec<u8> = (0..3 * SEGMENT_BYTES + 5).map(|at| (at % 251) as u8).collect();
        for piece in [1_000, SEGMENT_BYTES, 2 * SEGMENT_BYTES + 1] {
            let mut running = Running::default();
            let mut size = 0;
            for piece in bytes.chunks(piece) {
                running.add(piece);
                size += piece.len();
                assert_eq!(running.digest(), crate::digest::content(&bytes[..size]));
            }
        }
        assert_eq!(Running::default().digest(), crate::digest::content(b""));
    }
}
