//! What hinders the replication of a database, seen from beside it: for the doctor.
//!
//! Changes nothing, and runs in a process of its own beside daemon and applications. What it may
//! not look at it does not guess.

use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a lock of an application is waited for.
const BUSY_WAIT: Duration = Duration::from_millis(500);
/// The first version without the WAL-reset bug of 3.7.0 to 3.51.2 (sqlite.org, 3.51.3 release
/// notes).
const VERSION_SOUND: [u32; 3] = [3, 51, 3];
/// Larger programs are not searched for the SQLite inside them.
const PROGRAM_BYTES_MAX: u64 = 256 << 20;
/// File systems whose locks do not reach, or whose memory is not shared between machines
/// (linux/magic.h).
const NETWORK: [(i64, &str); 6] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
];

/// One thing that hinders, or should be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hindrance {
    /// It lies on a file system of another machine.
    NetworkFileSystem(&'static str),
    /// A program has it in exclusive locking mode, or holds it all the time.
    Exclusive,
    /// It is not a database, or SQLite cannot read it.
    Unreadable(String),
    /// Less is free than the database is long: a standby that is brought up to date needs that
    /// much, and so does an archive.
    Space {
        /// Bytes of the database.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// It has a rollback journal, and its folder or file cannot be written by this user, so it
    /// cannot be turned to WAL.
    NoWal(String),
    /// A program that has it open brings an SQLite with the WAL-reset bug.
    OldLibrary {
        /// The process.
        pid: u32,
        /// Its program.
        program: String,
        /// The version of its SQLite.
        version: String,
    },
}

/// The files that a pattern means at this moment.
#[must_use]
pub fn files_of(pattern: &str) -> Vec<PathBuf> {
    crate::sites::expand(pattern, crate::wire::DATABASES_MAX, |_| false)
}

/// Looks at one database.
#[must_use]
pub fn examine(path: &Path) -> Vec<Hindrance> {
    let mut found = Vec::new();
    if let Some((kind, free)) = file_system(path) {
        if let Some((_, name)) = NETWORK.iter().find(|(magic, _)| *magic == kind) {
            found.push(Hindrance::NetworkFileSystem(name));
        }
        let needed = std::fs::metadata(path).map_or(0, |found| found.len());
        if free < needed {
            found.push(Hindrance::Space { needed, free });
        }
    }
    found.extend(readable(path));
    found.extend(old_libraries(path));
    found
}

/// Type of the file system, and the bytes that are free on it.
fn file_system(path: &Path) -> Option<(i64, u64)> {
    let name = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: all zeros is a value of this plain structure.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the name is a C string and the structure outlives the call.
    let answer = unsafe { libc::statfs(name.as_ptr(), &raw mut found) };
    (answer == 0).then(|| (found.f_type, found.f_bavail * found.f_bsize.unsigned_abs()))
}

fn readable(path: &Path) -> Option<Hindrance> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let read = || -> rusqlite::Result<String> {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_WAIT)?;
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))
    };
    match read() {
        Ok(mode) if mode == "wal" => None,
        Ok(mode) => {
            let folder = path.parent().unwrap_or(Path::new("/"));
            let writes = [path, folder].iter().all(|path| is_writable(path));
            (!writes).then_some(Hindrance::NoWal(mode))
        }
        Err(error) => Some(match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Hindrance::Exclusive,
            _ => Hindrance::Unreadable(error.to_string()),
        }),
    }
}

fn is_writable(path: &Path) -> bool {
    let Ok(name) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: the name is a C string that lives for the call.
    unsafe { libc::access(name.as_ptr(), libc::W_OK) == 0 }
}

/// Programs that have the database open and bring an old SQLite.
fn old_libraries(path: &Path) -> Vec<Hindrance> {
    let Ok(wanted) = std::fs::metadata(path).map(|found| (found.dev(), found.ino())) else {
        return Vec::new();
    };
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let others = numbers.filter(|pid: &u32| *pid != std::process::id());
    others.filter(|pid| has_open(*pid, wanted)).filter_map(old_library).collect()
}

fn has_open(pid: u32, wanted: (u64, u64)) -> bool {
    let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    open.filter_map(|entry| std::fs::metadata(entry.ok()?.path()).ok())
        .any(|found| (found.dev(), found.ino()) == wanted)
}

fn old_library(pid: u32) -> Option<Hindrance> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let libraries: BTreeSet<&str> = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .filter(|file| file.rsplit('/').next().is_some_and(|name| name.contains("sqlite3.so")))
        .collect();
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let inside = libraries.iter().map(PathBuf::from).chain([program.clone()]);
    let version = inside.filter_map(|file| version_in(&file)).next()?;
    let numbers: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
    (numbers.as_slice() < &VERSION_SOUND[..]).then(|| Hindrance::OldLibrary {
        pid,
        program: program.display().to_string(),
        version,
    })
}

/// The version of the SQLite in a library or program; none where there is none. SQLite keeps its
/// version as a string of its own, and the declaration of its schema table.
fn version_in(file: &Path) -> Option<String> {
    let length = std::fs::metadata(file).ok()?.len();
    if length > PROGRAM_BYTES_MAX {
        return None;
    }
    let bytes = std::fs::read(file).ok()?;
    let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    if !holds(b"CREATE TABLE x(type text,name text,tbl_name text,rootpage int,sql text)") {
        return None;
    }
    let starts = (1..bytes.len()).filter(|at| bytes[*at..].starts_with(b"3."));
    starts.filter(|at| !bytes[at - 1].is_ascii_graphic()).find_map(|at| version_at(&bytes[at..]))
}

/// A version that stands here as a C string.
fn version_at(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().take(11).position(|byte| *byte == 0)?;
    let text = std::str::from_utf8(&bytes[..end]).ok()?;
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts = text.split('.').count();
    ((3..=4).contains(&parts) && text.split('.').all(number)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_database_has_no_hindrance() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(a)").unwrap();
        assert_eq!(examine(&path), []);
        assert_eq!(files_of(&folder.path().join("*.db").display().to_string()), [path]);
    }

    #[test]
    fn exclusive_locking_and_text_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(
                "PRAGMA locking_mode=EXCLUSIVE; CREATE TABLE t(a); INSERT INTO t VALUES(1)",
            )
            .unwrap();
        assert_eq!(readable(&path), Some(Hindrance::Exclusive));
        let text = folder.path().join("b.db");
        std::fs::write(&text, "not a database, but long enough to be taken for one ".repeat(50))
            .unwrap();
        assert!(matches!(readable(&text), Some(Hindrance::Unreadable(_))));
    }

    #[test]
    fn the_version_of_a_library_is_found() {
        let own = std::env::current_exe().unwrap();
        assert_eq!(version_in(&own).as_deref(), Some(rusqlite::version()));
        assert_eq!(version_in(Path::new("/etc/passwd")), None);
    }
}
