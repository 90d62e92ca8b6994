//! The header of the WAL-index (`-shm`), read without mapping it: a map of a file that somebody
//! truncates ends in SIGBUS, a read ends short.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A mark that names no frame.
pub(crate) const MARK_NOT_USED: u32 = 0xffff_ffff;
/// Two copies of the header, and how far the checkpoints are.
const BYTES: usize = 100;
const COPY_BYTES: usize = 48;
const MARKS_AT: u64 = 100;

/// A header that was whole when it was read: both copies were equal and the checksum fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Index {
    /// Counts the transactions of this WAL-index; exact, where `PRAGMA data_version` is not.
    pub change: u32,
    /// Checksums of frames are big-endian.
    pub big_endian: bool,
    /// Bytes of a page.
    pub page_bytes: u32,
    /// The last committed frame; 0 when the WAL is empty.
    pub frames: u32,
    /// Pages of the database after that frame.
    pub pages: u32,
    /// Running checksum after that frame.
    pub checksum: [u32; 2],
    /// Salts of this generation of the WAL, as they stand in every frame.
    pub salt: [u8; 8],
}

/// What the header held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// None while a writer is at it, or before anybody made it.
    pub index: Option<Index>,
    /// Frames that are in the database file already.
    pub backfilled: u32,
}

/// Reads the header once.
///
/// # Errors
/// What pread(2) answers. A file that is too short is one that nobody made yet.
pub(crate) fn read(shm: &File) -> io::Result<Seen> {
    let mut bytes = [0; BYTES];
    let empty = Seen { index: None, backfilled: 0 };
    match shm.read_exact_at(&mut bytes, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(empty),
        Err(error) => return Err(error),
    }
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let index = parse(&bytes[..COPY_BYTES], &bytes[COPY_BYTES..2 * COPY_BYTES]);
    Ok(Seen { index, backfilled: word(96) })
}

fn parse(first: &[u8], second: &[u8]) -> Option<Index> {
    let word = |at: usize| u32::from_ne_bytes(first[at..at + 4].try_into().expect("four bytes"));
    if first != second || first[12] == 0 {
        return None;
    }
    let mut sum = [0u32; 2];
    for at in (0..40).step_by(8) {
        sum[0] = sum[0].wrapping_add(word(at)).wrapping_add(sum[1]);
        sum[1] = sum[1].wrapping_add(word(at + 4)).wrapping_add(sum[0]);
    }
    if sum != [word(40), word(44)] {
        return None;
    }
    let size = u32::from(u16::from_ne_bytes([first[14], first[15]]));
    Some(Index {
        change: word(8),
        big_endian: first[13] != 0,
        page_bytes: (size & 0xfe00) + ((size & 1) << 16),
        frames: word(16),
        pages: word(20),
        checksum: [word(24), word(28)],
        salt: first[32..40].try_into().expect("eight bytes"),
    })
}

/// Says that a mark names no frame. Whoever does this holds the mark's byte exclusively, as a
/// checkpointer does.
///
/// # Errors
/// What pwrite(2) answers.
pub(crate) fn clear_mark(shm: &File, mark: usize) -> io::Result<()> {
    shm.write_all_at(&MARK_NOT_USED.to_ne_bytes(), MARKS_AT + 4 * mark as u64)
}
