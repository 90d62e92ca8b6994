//! Archives: a copy that is about to be overwritten stays as a database of its own.
//!
//! Promises: what is named as archived is whole, durable, and opens with any SQLite as one file;
//! when it cannot be made, nothing of that name is there. Refuses to overwrite an older archive.
//! How long archives are kept is the caller's business.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::hash::page_hash;
use crate::scan::{Scan, ScanError};

/// Archives of one state of one database: a second ruling on the same state is possible, a
/// hundredth is not.
const SAME_STATE_MAX: u32 = 100;
/// Left free on the disk beside the archive, in bytes: others write there too.
const SPARE_BYTES: u64 = 16 << 20;

/// What an archive is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveLabel<'a> {
    /// The database's name in the configuration.
    pub name: &'a str,
    /// The epoch of the newest transaction in it.
    pub epoch: u64,
    /// Its number within the epoch.
    pub transaction: u64,
}

/// An archive, and the file beside it that says what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    /// The database.
    pub database: PathBuf,
    /// [`ArchiveNote`] as JSON.
    pub note: PathBuf,
    /// Length of the database in bytes; zeros in it take no space.
    pub bytes: u64,
}

/// What stands beside an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveNote {
    /// The database's name in the configuration.
    pub name: String,
    /// The path that it was archived from.
    pub path: PathBuf,
    /// The epoch of the newest transaction in it.
    pub epoch: u64,
    /// Its number within the epoch.
    pub transaction: u64,
    /// Pages.
    pub pages: u32,
    /// Bytes of a page.
    pub page_bytes: u32,
    /// Sum of the hashes of its pages, hexadecimal.
    pub sum: String,
    /// When, in seconds since 1970.
    pub archived_unix_s: u64,
}

/// Why there is no archive. Nothing may be overwritten then.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The database cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The system refuses.
    #[error("cannot write {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Not enough space.
    #[error(
        "an archive in {folder} needs {needed_bytes} bytes and {available_bytes} are free: make \
         room; nothing is overwritten until then"
    )]
    Space {
        /// Where archives go.
        folder: PathBuf,
        /// What the archive takes.
        needed_bytes: u64,
        /// What is free.
        available_bytes: u64,
    },
    /// The same state was archived too often.
    #[error("{folder} holds {SAME_STATE_MAX} archives of this state: remove some")]
    Many {
        /// Where archives go.
        folder: PathBuf,
    },
}

/// Archives the snapshot as `<name>-<epoch>-<transaction>.sqlite` in a folder, which must exist.
/// May take long: it reads and writes the whole database.
///
/// # Errors
/// When the disk has no room for it, or a file cannot be read or written. Nothing is left behind.
pub fn archive(
    scan: &Scan,
    folder: &Path,
    label: ArchiveLabel<'_>,
) -> Result<Archived, ArchiveError> {
    let snapshot = scan.snapshot();
    let bytes = u64::from(snapshot.pages_total()) * u64::from(snapshot.page_bytes());
    let available_bytes = free_bytes(folder).map_err(|source| failed(folder, source))?;
    let needed_bytes = bytes + SPARE_BYTES;
    if available_bytes < needed_bytes {
        let folder = folder.to_owned();
        return Err(ArchiveError::Space { folder, needed_bytes, available_bytes });
    }
    let stem = stem(label);
    let unfinished = folder.join(format!("{stem}.unfinished"));
    let note_unfinished = folder.join(format!("{stem}.json.unfinished"));
    let done = copy(scan, &unfinished, bytes).and_then(|sum| {
        let note = note(scan, label, sum);
        let text = serde_json::to_vec_pretty(&note);
        let text = text.map_err(|error| failed(&note_unfinished, error.into()))?;
        write_whole(&note_unfinished, &text)?;
        publish(folder, &stem, &unfinished, &note_unfinished)
    });
    for path in [&unfinished, &note_unfinished] {
        let _ = std::fs::remove_file(path);
    }
    let (database, note) = done?;
    File::open(folder).and_then(|it| it.sync_all()).map_err(|source| failed(folder, source))?;
    Ok(Archived { database, note, bytes })
}

/// Copies page by page, as the snapshot has them; returns the sum of their hashes.
fn copy(scan: &Scan, path: &Path, bytes: u64) -> Result<u128, ArchiveError> {
    let snapshot = scan.snapshot();
    let file = fresh(path)?;
    file.set_len(bytes).map_err(|source| failed(path, source))?;
    let (mut sum, mut refused) = (0, None);
    let end = snapshot.pages_total().saturating_add(1);
    let read = snapshot.for_each(1..end, |number, page| {
        sum ^= page_hash(number, page);
        let at = u64::from(number - 1) * page.len() as u64;
        let written = if number == 1 {
            let mut first = page.to_vec();
            // One file without a WAL beside it.
            first[18..20].fill(1);
            file.write_all_at(&first, at)
        } else if page.iter().all(|byte| *byte == 0) {
            Ok(())
        } else {
            file.write_all_at(page, at)
        };
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                refused = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    read.map_err(ScanError::from)?;
    match refused {
        Some(source) => Err(failed(path, source)),
        None => file.sync_all().map(|()| sum).map_err(|source| failed(path, source)),
    }
}

fn note(scan: &Scan, label: ArchiveLabel<'_>, sum: u128) -> ArchiveNote {
    let snapshot = scan.snapshot();
    ArchiveNote {
        name: label.name.to_owned(),
        path: scan.path().to_owned(),
        epoch: label.epoch,
        transaction: label.transaction,
        pages: snapshot.pages_total(),
        page_bytes: snapshot.page_bytes(),
        sum: format!("{sum:032x}"),
        archived_unix_s: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    }
}

/// Gives both files their names, which nobody has yet. The database last: where it is, its note is.
fn publish(
    folder: &Path,
    stem: &str,
    unfinished: &Path,
    note_unfinished: &Path,
) -> Result<(PathBuf, PathBuf), ArchiveError> {
    for attempt in 1..=SAME_STATE_MAX {
        let suffix = if attempt == 1 { String::new() } else { format!("-{attempt}") };
        let database = folder.join(format!("{stem}{suffix}.sqlite"));
        let note = folder.join(format!("{stem}{suffix}.json"));
        if database.exists() {
            continue;
        }
        // A note without a database is what a crash left.
        std::fs::rename(note_unfinished, &note).map_err(|source| failed(&note, source))?;
        match std::fs::hard_link(unfinished, &database) {
            Ok(()) => return Ok((database, note)),
            Err(source) => {
                let _ = std::fs::remove_file(&note);
                return Err(failed(&database, source));
            }
        }
    }
    Err(ArchiveError::Many { folder: folder.to_owned() })
}

/// A name of the configuration may hold what a file name may not.
fn stem(label: ArchiveLabel<'_>) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = label.name.chars().map(plain).take(100).collect();
    format!("{}-{}-{}", name.trim_start_matches('.'), label.epoch, label.transaction)
}

fn fresh(path: &Path) -> Result<File, ArchiveError> {
    // What a crash left behind.
    let _ = std::fs::remove_file(path);
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    opened.map_err(|source| failed(path, source))
}

fn write_whole(path: &Path, text: &[u8]) -> Result<(), ArchiveError> {
    let mut file = fresh(path)?;
    let written = file.write_all(text).and_then(|()| file.sync_all());
    written.map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: io::Error) -> ArchiveError {
    ArchiveError::File { path: path.to_owned(), source }
}

/// What others than root may still write to the disk of a folder.
fn free_bytes(folder: &Path) -> io::Result<u64> {
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes())?;
    // SAFETY: zeros are a valid statvfs; the path is a C string and both outlive the call.
    let found = unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(path.as_ptr(), &raw mut found) != 0 {
            return Err(io::Error::last_os_error());
        }
        found
    };
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::Attached;
    use rusqlite::Connection;

    const LABEL: ArchiveLabel<'_> =
        ArchiveLabel { name: "../site/cdr.db", epoch: 4, transaction: 77 };

    fn filled(folder: &Path) -> (Connection, Attached) {
        let path = folder.join("a.db");
        let writer = Connection::open(&path).expect("a database");
        writer
            .execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES (1)")
            .expect("filled");
        let attached = Attached::open(&path).expect("attached");
        (writer, attached)
    }

    #[test]
    fn an_archive_is_the_snapshot_in_one_file_with_a_note() {
        let folder = tempfile::tempdir().expect("a folder");
        let (writer, attached) = filled(folder.path());
        let scan = Scan::begin(&attached).expect("a snapshot");
        writer.execute_batch("INSERT INTO t VALUES (2)").expect("written after the snapshot");
        let done = archive(&scan, folder.path(), LABEL).expect("archived");
        assert_eq!(done.database, folder.path().join("_site_cdr.db-4-77.sqlite"));
        let reader = Connection::open(&done.database).expect("opens");
        let rows: u32 = reader.query_row("SELECT sum(a) FROM t", [], |r| r.get(0)).expect("read");
        let mode: String = reader.query_row("PRAGMA journal_mode", [], |r| r.get(0)).expect("read");
        let health: String =
            reader.query_row("PRAGMA integrity_check", [], |r| r.get(0)).expect("read");
        assert_eq!((rows, mode.as_str(), health.as_str()), (1, "delete", "ok"));
        let note: ArchiveNote =
            serde_json::from_slice(&std::fs::read(&done.note).expect("a note")).expect("JSON");
        let sum = scan.table(|| true).expect("hashed").table.sum();
        assert_eq!((note.transaction, note.sum), (77, format!("{sum:032x}")));
        let again = archive(&scan, folder.path(), LABEL).expect("archived again");
        assert_eq!(again.database, folder.path().join("_site_cdr.db-4-77-2.sqlite"));
        let left = std::fs::read_dir(folder.path()).expect("listed");
        let unfinished =
            left.flatten().filter(|f| f.path().extension() == Some("unfinished".as_ref()));
        assert_eq!(unfinished.count(), 0);
    }

    #[test]
    fn without_room_there_is_no_archive_and_the_error_says_how_much_is_needed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (_writer, attached) = filled(folder.path());
        let scan = Scan::begin(&attached).expect("a snapshot");
        // No byte can be written there, and none is free.
        let error = archive(&scan, Path::new("/proc"), LABEL).expect_err("no room");
        assert!(
            matches!(error, ArchiveError::Space { needed_bytes, available_bytes: 0, .. }
                if needed_bytes == SPARE_BYTES + 2 * 4096),
            "{error}"
        );
    }
}
