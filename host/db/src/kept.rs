//! A table on disk, for a clean restart: reading 16 bytes of each page instead of each page.
//!
//! Promises: what is loaded is the table of the file as it is now, provably, or nothing is. The
//! proof is the WAL: same file, same generation, same last frame, whose checksum runs over all
//! frames before it; whoever wrote in between has moved it. An empty WAL proves nothing, since SQLite
//! need not count a change in the database's header; then the database is scanned. Neither shows
//! bytes that somebody changed past SQLite, nor does SQLite see them: the scrub does.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_128;

use crate::attach::{Attached, beside};
use crate::index::{self, Index};
use crate::table::Table;

const MAGIC: [u8; 8] = *b"stafftb1";
/// Magic, proof, position, sizes.
const HEAD_BYTES: usize = 8 + 36 + 16 + 8;
const SUM_BYTES: usize = 16;
const HASH_BYTES: usize = 16;

/// A table and the transaction that it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptTable {
    /// The hashes.
    pub table: Table,
    /// The epoch of the newest transaction.
    pub epoch: u64,
    /// Its number within the epoch.
    pub transaction: u64,
}

/// Why a table was not kept. It is scanned for at the next start.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep the table of a database in {path}: {source}")]
pub struct KeepError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Writes the table of a database to which nobody can write until it is detached. Replaces the file
/// as a whole. False, and no file, when the WAL is empty and so could not prove anything.
///
/// # Errors
/// When the system refuses.
pub fn keep_table(attached: &Attached, path: &Path, kept: &KeptTable) -> Result<bool, KeepError> {
    let failed = |source| KeepError { path: path.to_owned(), source };
    let _ = std::fs::remove_file(path);
    let seen = index::read(attached.shm()).map_err(failed)?;
    let Some(proof) = seen.index.as_ref().and_then(|index| proof(attached, index)) else {
        return Ok(false);
    };
    let table = &kept.table;
    let mut bytes =
        Vec::with_capacity(HEAD_BYTES + table.pages() as usize * HASH_BYTES + SUM_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&proof);
    bytes.extend_from_slice(&kept.epoch.to_le_bytes());
    bytes.extend_from_slice(&kept.transaction.to_le_bytes());
    bytes.extend_from_slice(&table.page_bytes().to_le_bytes());
    bytes.extend_from_slice(&table.pages().to_le_bytes());
    for group in 0..table.groups() {
        bytes.extend(table.group(group).iter().flat_map(|hash| hash.to_le_bytes()));
    }
    bytes.extend_from_slice(&xxh3_128(&bytes).to_le_bytes());
    write_whole(path, &bytes).map_err(failed).map(|()| true)
}

/// Reads a table back, and removes the file: it is true for one start only. None when it is not
/// there, damaged, or not provably the table of this database as it is.
#[must_use]
pub fn kept_table(attached: &Attached, path: &Path) -> Option<KeptTable> {
    let bytes = std::fs::read(path).ok()?;
    let _ = std::fs::remove_file(path);
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(SUM_BYTES)?)?;
    if sum != xxh3_128(body).to_le_bytes() || !body.starts_with(&MAGIC) {
        return None;
    }
    let index = index::read(attached.shm()).ok()?.index?;
    let rest = body[MAGIC.len()..].strip_prefix(&proof(attached, &index)?[..])?;
    let (epoch, rest) = rest.split_first_chunk::<8>()?;
    let (transaction, rest) = rest.split_first_chunk::<8>()?;
    let (page_bytes, rest) = rest.split_first_chunk::<4>()?;
    let (pages, hashes) = rest.split_first_chunk::<4>()?;
    let pages = u32::from_le_bytes(*pages);
    let fits = u32::from_le_bytes(*page_bytes) == attached.page_bytes()
        && index.pages == pages
        && hashes.len() == pages as usize * HASH_BYTES;
    if !fits {
        return None;
    }
    let mut table = Table::new(attached.page_bytes());
    table.reserve(pages).ok()?;
    for (page, hash) in (1..).zip(hashes.as_chunks::<HASH_BYTES>().0) {
        table.set(page, u128::from_le_bytes(*hash));
    }
    table.resize(pages);
    let (epoch, transaction) = (u64::from_le_bytes(*epoch), u64::from_le_bytes(*transaction));
    Some(KeptTable { table, epoch, transaction })
}

/// Which file, which generation of its WAL, and how far; None for an empty WAL.
fn proof(attached: &Attached, index: &Index) -> Option<[u8; 36]> {
    if index.frames == 0 {
        return None;
    }
    let mut proof = [0; 36];
    let (device, inode) = attached.identity();
    proof[..8].copy_from_slice(&device.to_le_bytes());
    proof[8..16].copy_from_slice(&inode.to_le_bytes());
    proof[16..24].copy_from_slice(&index.salt);
    proof[24..28].copy_from_slice(&index.frames.to_le_bytes());
    proof[28..32].copy_from_slice(&index.checksum[0].to_le_bytes());
    proof[32..].copy_from_slice(&index.checksum[1].to_le_bytes());
    Some(proof)
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = beside(path, ".new");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::Scan;
    use rusqlite::Connection;

    /// A database with something in its WAL, detached after its table was kept; then `change` is
    /// done to it or to the kept file, and it is attached again.
    fn restarted(change: impl Fn(&Path, &Path)) -> (Option<KeptTable>, KeptTable) {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, file) = (folder.path().join("a.db"), folder.path().join("a.table"));
        let attached = {
            let writer = Connection::open(&path).expect("a database");
            let sql = "PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES (1)";
            writer.execute_batch(sql).expect("filled");
            let attached = Attached::open(&path).expect("attached");
            writer.execute_batch("INSERT INTO t VALUES (2)").expect("written");
            attached
        };
        let table = Scan::begin(&attached).expect("a snapshot").table(|| true).expect("read").table;
        let kept = KeptTable { table, epoch: 3, transaction: 9 };
        assert!(keep_table(&attached, &file, &kept).expect("kept"));
        drop(attached);
        change(&path, &file);
        let attached = Attached::open(&path).expect("attached");
        let found = kept_table(&attached, &file);
        assert_eq!(kept_table(&attached, &file), None, "true for one start only");
        (found, kept)
    }

    #[test]
    fn an_untouched_database_has_its_table_again() {
        let (found, kept) = restarted(|_, _| {});
        assert_eq!(found, Some(kept));
        let readers = |path: &Path, _: &Path| {
            let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
            let reader = Connection::open_with_flags(path, flags).expect("opens");
            let rows: u32 =
                reader.query_row("SELECT sum(a) FROM t", [], |r| r.get(0)).expect("read");
            assert_eq!(rows, 3);
            // Its close would end the WAL: it stays as a reader of another process would.
            std::mem::forget(reader);
        };
        let (found, kept) = restarted(readers);
        assert_eq!(found, Some(kept));
    }

    #[test]
    fn whatever_happened_in_between_costs_the_table() {
        let sql = |sql: &'static str| {
            move |path: &Path, _: &Path| {
                Connection::open(path).expect("opens").execute_batch(sql).expect(sql);
            }
        };
        type Change = Box<dyn Fn(&Path, &Path)>;
        let changes: [(&str, Change); 6] = [
            ("written", Box::new(sql("INSERT INTO t VALUES (5)"))),
            (
                "written and undone",
                Box::new(sql("INSERT INTO t VALUES (5); DELETE FROM t WHERE a=5")),
            ),
            ("checkpointed", Box::new(sql("PRAGMA wal_checkpoint(TRUNCATE)"))),
            (
                "another file",
                Box::new(|path, _| {
                    std::fs::copy(path, beside(path, ".copy")).expect("copied");
                    std::fs::rename(beside(path, ".copy"), path).expect("renamed");
                }),
            ),
            (
                "damaged",
                Box::new(|_, file| {
                    let mut bytes = std::fs::read(file).expect("read");
                    let at = bytes.len() / 2;
                    bytes[at] ^= 1;
                    std::fs::write(file, bytes).expect("written");
                }),
            ),
            ("cut", Box::new(|_, file| std::fs::write(file, [1; 10]).expect("written"))),
        ];
        for (name, change) in changes {
            assert_eq!(restarted(change).0, None, "{name}");
        }
    }
}
