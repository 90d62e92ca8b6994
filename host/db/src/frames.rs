//! Frames of a write-ahead log, checked one by one ("The WAL File Format", sqlite.org/fileformat2).
//!
//! The checksum runs through the whole file: a frame proves that it follows the one before it.

/// Bytes before the first frame.
pub(crate) const WAL_HEADER_BYTES: usize = 32;
/// Bytes of a frame before its page.
pub(crate) const FRAME_HEADER_BYTES: usize = 24;
/// Where the salts of a generation stand in the WAL, and in each frame of it.
pub(crate) const WAL_SALT_AT: u64 = 16;
pub(crate) const FRAME_SALT_AT: u64 = 8;
/// The number that a WAL begins with; its lowest bit says that checksums are big-endian.
const MAGIC: u32 = 0x377f_0682;

/// The state of the running checksum.
pub(crate) type Checksum = [u32; 2];

/// What the header of a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The number of the page that follows.
    pub page: u32,
    /// Pages of the database after this transaction; 0 when the transaction goes on.
    pub commit: u32,
}

/// Why bytes are not the frame that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// Of another generation.
    Salt,
    /// Not written whole, or not the successor of the frame before.
    Checksum,
}

/// Where the frame of this number, counted from 1, begins in the log.
pub(crate) fn offset(frame: u32, page_bytes: u32) -> u64 {
    WAL_HEADER_BYTES as u64 + (u64::from(frame) - 1) * frame_bytes(page_bytes)
}

/// A frame: its header and its page.
pub(crate) fn frame_bytes(page_bytes: u32) -> u64 {
    u64::from(page_bytes) + FRAME_HEADER_BYTES as u64
}

/// Checks the header of a log and gives the checksum that its first frame continues.
pub(crate) fn begin(header: &[u8], salt: [u8; 8], big_endian: bool) -> Result<Checksum, Wrong> {
    if header[16..24] != salt {
        return Err(Wrong::Salt);
    }
    let sum = checksum(big_endian, &header[..24], [0, 0]);
    let magic = word(header, 0) == MAGIC | u32::from(big_endian);
    if magic && sum == stored(header, 24) { Ok(sum) } else { Err(Wrong::Checksum) }
}

/// Checks a frame and gives what it says and the checksum after it.
pub(crate) fn check(
    frame: &[u8],
    salt: [u8; 8],
    big_endian: bool,
    before: Checksum,
) -> Result<(Frame, Checksum), Wrong> {
    if frame[8..16] != salt {
        return Err(Wrong::Salt);
    }
    let sum = checksum(big_endian, &frame[..8], before);
    let sum = checksum(big_endian, &frame[FRAME_HEADER_BYTES..], sum);
    if sum != stored(frame, 16) {
        return Err(Wrong::Checksum);
    }
    Ok((head(frame), sum))
}

/// What the header of a frame says, unchecked.
pub(crate) fn head(frame: &[u8]) -> Frame {
    Frame { page: word(frame, 0), commit: word(frame, 4) }
}

/// The salts that stand in a frame.
pub(crate) fn salt(frame: &[u8]) -> &[u8] {
    &frame[8..16]
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn stored(bytes: &[u8], at: usize) -> Checksum {
    [word(bytes, at), word(bytes, at + 4)]
}

/// SQLite's checksum. Each step needs the one before it; written so that only one addition a word
/// waits for another.
fn checksum(big_endian: bool, bytes: &[u8], sum: Checksum) -> Checksum {
    // Two loops: the order of bytes is decided once, not a thousand times a page.
    if big_endian {
        run(bytes, sum, u32::from_be_bytes)
    } else {
        run(bytes, sum, u32::from_le_bytes)
    }
}

#[inline(always)]
fn run(bytes: &[u8], sum: Checksum, word: impl Fn([u8; 4]) -> u32) -> Checksum {
    let [mut first, mut second] = sum;
    for pair in bytes.chunks_exact(8) {
        let one = word([pair[0], pair[1], pair[2], pair[3]]);
        let two = word([pair[4], pair[5], pair[6], pair[7]]);
        first = first.wrapping_add(one).wrapping_add(second);
        second = second.wrapping_add(two).wrapping_add(first);
    }
    [first, second]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(big_endian: bool, before: Checksum, page: u32, commit: u32) -> (Vec<u8>, Checksum) {
        let mut bytes = vec![7; FRAME_HEADER_BYTES + 512];
        bytes[..4].copy_from_slice(&page.to_be_bytes());
        bytes[4..8].copy_from_slice(&commit.to_be_bytes());
        bytes[8..16].copy_from_slice(b"saltsalt");
        let sum = checksum(big_endian, &bytes[..8], before);
        let sum = checksum(big_endian, &bytes[FRAME_HEADER_BYTES..], sum);
        bytes[16..20].copy_from_slice(&sum[0].to_be_bytes());
        bytes[20..24].copy_from_slice(&sum[1].to_be_bytes());
        (bytes, sum)
    }

    #[test]
    fn a_frame_proves_its_page_its_generation_and_its_predecessor() {
        for big_endian in [false, true] {
            let (good, sum) = frame(big_endian, [1, 2], 5, 9);
            let check = |bytes: &[u8], before| check(bytes, *b"saltsalt", big_endian, before);
            assert_eq!(check(&good, [1, 2]), Ok((Frame { page: 5, commit: 9 }, sum)));
            assert_eq!(check(&good, [1, 3]), Err(Wrong::Checksum));
            for at in [0, 7, 24, 535] {
                let mut bad = good.clone();
                bad[at] ^= 1;
                assert_eq!(check(&bad, [1, 2]), Err(Wrong::Checksum), "byte {at}");
            }
            let mut old = good.clone();
            old[8] ^= 1;
            assert_eq!(check(&old, [1, 2]), Err(Wrong::Salt));
        }
        assert_ne!(frame(false, [1, 2], 5, 9).1, frame(true, [1, 2], 5, 9).1);
    }
}
