//! Files, segment by segment.

use crate::digest::{self, Digest, SEGMENT_BYTES};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

/// The hash of a whole segment of zeros.
static ZEROS: LazyLock<Digest> = LazyLock::new(|| digest::hash(&[0; SEGMENT_BYTES]));

/// Reads segment after segment of a file, without reading its holes (SEEK_DATA, lseek(2)), in
/// slices of as much work as the caller likes.
///
/// What others write meanwhile may be seen or not, and a hole is not looked at twice: the caller
/// compares the file's times before and after.
pub(crate) struct SegmentReader {
    size: u64,
    /// The next one.
    number: u64,
    /// A hole reaches to here.
    hole_end: u64,
    buffer: Vec<u8>,
}

/// One segment of a file.
pub(crate) struct Segment<'a> {
    /// Its number; it begins at number × `SEGMENT_BYTES`.
    pub number: u64,
    pub hash: Digest,
    /// None: all zeros, and not on the disk. Zeros that are on the disk are told like other bytes.
    pub bytes: Option<&'a [u8]>,
}

impl SegmentReader {
    /// From this segment on, to `size`.
    pub(crate) fn new(size: u64, first: u64) -> Self {
        Self { size, number: first, hole_end: 0, buffer: Vec::new() }
    }

    /// The next one; none at the end of `size`. A file that ends earlier is an error of the kind
    /// `UnexpectedEof`. Holes of many segments cost no reading.
    pub(crate) fn next(&mut self, file: &File) -> io::Result<Option<Segment<'_>>> {
        let number = self.number;
        let Some(start) = number.checked_mul(SEGMENT_BYTES as u64).filter(|at| *at < self.size)
        else {
            return Ok(None);
        };
        let end = self.size.min(start.saturating_add(SEGMENT_BYTES as u64));
        let length = (end - start) as usize;
        if end > self.hole_end {
            self.hole_end = hole_end(file, start)?;
        }
        self.number += 1;
        if end <= self.hole_end {
            let hash = if length == SEGMENT_BYTES {
                *ZEROS
            } else {
                digest::hash(&[0; SEGMENT_BYTES][..length])
            };
            return Ok(Some(Segment { number, hash, bytes: None }));
        }
        self.buffer.resize(SEGMENT_BYTES, 0);
        let bytes = &mut self.buffer[..length];
        file.read_exact_at(bytes, start)?;
        Ok(Some(Segment { number, hash: digest::hash(bytes), bytes: Some(bytes) }))
    }
}

/// Where the hole ends in which `start` is; `start` when there are data.
fn hole_end(file: &File, start: u64) -> io::Result<u64> {
    match rustix::fs::seek(file, SeekFrom::Data(start)) {
        Ok(data) => Ok(data),
        // Nothing but a hole up to the end of the file, or the file ends before.
        Err(Errno::NXIO) => {
            let size = file.metadata()?.len();
            if size <= start {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(size)
        }
        // A file system that knows no holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(start),
        Err(error) => Err(error.into()),
    }
}
