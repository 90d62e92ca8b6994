//! The epoch file: what must survive a crash, in two preallocated slots, so that a full disk cannot
//! stop a takeover and a torn write leaves the other slot whole.

use ring::digest::{SHA256, digest};
use staffetta_core::{Durable, Epoch, FenceCause, Side, Span};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Name in the state folder.
pub(crate) const EPOCH_FILE: &str = "epoch";
/// A slot fills a page of its own: a torn write cannot touch the other one.
const SLOT_BYTES: u64 = 4_096;
const RECORD_BYTES: usize = 96;
const MAGIC: &[u8; 8] = b"STAFFEPO";
const VERSION: u8 = 1;

/// The open file.
#[derive(Debug)]
pub(crate) struct EpochFile {
    file: File,
    path: PathBuf,
    generation: u64,
    side: Side,
}

/// Why the epoch of the last life is not to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EpochError {
    #[error("epoch file {path}: {error} (is the state folder there and writable?)")]
    Io { path: PathBuf, error: io::Error },
    #[error(
        "epoch file {path} is damaged in both copies: without it this node could repeat an epoch \
         (make sure that the peer serves, move the file away, and start again)"
    )]
    Damaged { path: PathBuf },
    #[error(
        "epoch file {path} belongs to the node whose name sorts {other}: the names of the nodes \
         changed places (give the nodes their old names, or move the file away on both nodes while \
         both are stopped)"
    )]
    OtherSide { path: PathBuf, other: &'static str },
}

impl EpochFile {
    /// Opens or creates the file; answers with what the last life left, or the default.
    pub(crate) fn open(folder: &Path, side: Side) -> Result<(EpochFile, Durable), EpochError> {
        let path = folder.join(EPOCH_FILE);
        let io = |error| EpochError::Io { path: path.clone(), error };
        std::fs::create_dir_all(folder).map_err(io)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        let new = file.metadata().map_err(io)?.len() < 2 * SLOT_BYTES;
        if new {
            preallocate(&file, folder, side).map_err(io)?;
        }
        // What is read counts as durable from here on: a record whose write was killed before its
        // sync is synced first.
        file.sync_data().map_err(io)?;
        let mut found: Option<(u64, Side, Durable)> = None;
        for slot in 0..2 {
            let mut bytes = [0; RECORD_BYTES];
            file.read_exact_at(&mut bytes, slot * SLOT_BYTES).map_err(io)?;
            if let Some(read) = decode(&bytes)
                && found.as_ref().is_none_or(|best| best.0 < read.0)
            {
                found = Some(read);
            }
        }
        let (generation, disk) = match found {
            None => return Err(EpochError::Damaged { path }),
            Some((generation, written_by, disk)) if written_by == side => (generation, disk),
            Some((_, other, _)) => {
                let other = if other == Side::A { "first" } else { "last" };
                return Err(EpochError::OtherSide { path, other });
            }
        };
        Ok((EpochFile { file, path, generation, side }, disk))
    }

    /// Writes the record into the older slot and waits until it is durable.
    pub(crate) fn write(&mut self, record: &Durable) -> Result<(), EpochError> {
        let io = |error| EpochError::Io { path: self.path.clone(), error };
        let generation = self.generation + 1;
        let bytes = encode(generation, self.side, record);
        self.file.write_all_at(&bytes, (generation % 2) * SLOT_BYTES).map_err(io)?;
        self.file.sync_data().map_err(io)?;
        self.generation = generation;
        Ok(())
    }
}

/// Both slots hold a whole record from the start, in real blocks: a torn first write leaves the
/// other one.
fn preallocate(file: &File, folder: &Path, side: Side) -> io::Result<()> {
    let mut slot = vec![0; usize::try_from(SLOT_BYTES).expect("a page")];
    slot[..RECORD_BYTES].copy_from_slice(&encode(0, side, &Durable::default()));
    file.write_all_at(&slot, 0)?;
    file.write_all_at(&slot, SLOT_BYTES)?;
    file.sync_all()?;
    File::open(folder)?.sync_all()
}

fn encode(generation: u64, side: Side, record: &Durable) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8] = VERSION;
    bytes[9] = if side == Side::A { b'A' } else { b'B' };
    bytes[10] = u8::from(record.was_primary)
        | u8::from(record.formed) << 1
        | u8::from(record.maintenance) << 2
        | u8::from(record.stale) << 3
        | u8::from(record.ahead) << 4;
    bytes[11] = match record.fenced {
        None => 0,
        Some(FenceCause::Divergence) => 1,
        Some(FenceCause::Operator) => 2,
    };
    bytes[16..24].copy_from_slice(&generation.to_be_bytes());
    bytes[24..32].copy_from_slice(&record.highest.0.to_be_bytes());
    bytes[32..40].copy_from_slice(&record.reserved.0.to_be_bytes());
    bytes[40..48].copy_from_slice(&record.promised.0.to_be_bytes());
    bytes[48..56].copy_from_slice(&record.reigned.0.to_be_bytes());
    let sum = digest(&SHA256, &bytes[..64]);
    bytes[64..].copy_from_slice(sum.as_ref());
    bytes
}

fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<(u64, Side, Durable)> {
    if bytes[..8] != *MAGIC
        || bytes[8] != VERSION
        || bytes[64..] != *digest(&SHA256, &bytes[..64]).as_ref()
    {
        return None;
    }
    let u64_at = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let side = if bytes[9] == b'A' { Side::A } else { Side::B };
    let fenced = match bytes[11] {
        0 => None,
        1 => Some(FenceCause::Divergence),
        _ => Some(FenceCause::Operator),
    };
    let record = Durable {
        highest: Epoch(u64_at(24)),
        reserved: Epoch(u64_at(32)),
        promised: Span(u64_at(40)),
        reigned: Epoch(u64_at(48)),
        was_primary: bytes[10] & 1 != 0,
        formed: bytes[10] & 2 != 0,
        maintenance: bytes[10] & 4 != 0,
        stale: bytes[10] & 8 != 0,
        ahead: bytes[10] & 16 != 0,
        fenced,
    };
    Some((u64_at(16), side, record))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(highest: u64) -> Durable {
        Durable {
            highest: Epoch(highest),
            reserved: Epoch(highest + 1),
            promised: Span::ms(320),
            reigned: Epoch(highest),
            was_primary: true,
            formed: true,
            maintenance: false,
            stale: true,
            ahead: highest.is_multiple_of(2),
            fenced: Some(FenceCause::Operator),
        }
    }

    #[test]
    fn what_was_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, first) = EpochFile::open(dir.path(), Side::B).unwrap();
        assert_eq!(first, Durable::default());
        for highest in 1..=5 {
            file.write(&record(highest)).unwrap();
        }
        drop(file);
        assert_eq!(EpochFile::open(dir.path(), Side::B).unwrap().1, record(5));
    }

    #[test]
    fn a_torn_write_leaves_the_record_before() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, _) = EpochFile::open(dir.path(), Side::A).unwrap();
        file.write(&record(1)).unwrap();
        file.write(&record(2)).unwrap();
        for torn in [0, 9, 30, 70, 95] {
            let slot = (file.generation % 2) * SLOT_BYTES;
            let mut byte = [0];
            file.file.read_exact_at(&mut byte, slot + torn).unwrap();
            file.file.write_all_at(&[byte[0] ^ 0x55], slot + torn).unwrap();
            assert_eq!(EpochFile::open(dir.path(), Side::A).unwrap().1, record(1), "byte {torn}");
            file.file.write_all_at(&byte, slot + torn).unwrap();
        }
        assert_eq!(EpochFile::open(dir.path(), Side::A).unwrap().1, record(2));
    }

    #[test]
    fn a_torn_first_write_leaves_an_empty_record() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, _) = EpochFile::open(dir.path(), Side::A).unwrap();
        file.write(&record(1)).unwrap();
        file.file.write_all_at(b"torn", SLOT_BYTES + 20).unwrap();
        assert_eq!(EpochFile::open(dir.path(), Side::A).unwrap().1, Durable::default());
    }

    #[test]
    fn damage_in_both_copies_and_another_side_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, _) = EpochFile::open(dir.path(), Side::A).unwrap();
        file.write(&record(1)).unwrap();
        file.write(&record(2)).unwrap();
        let error = EpochFile::open(dir.path(), Side::B).unwrap_err().to_string();
        assert!(error.contains("changed places"), "{error}");
        file.file.write_all_at(b"x", 0).unwrap();
        file.file.write_all_at(b"x", SLOT_BYTES).unwrap();
        let error = EpochFile::open(dir.path(), Side::A).unwrap_err().to_string();
        assert!(error.contains("damaged in both copies"), "{error}");
    }
}
