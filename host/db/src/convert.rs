//! From the rollback journal to the write-ahead log and back, without a moment in which an
//! application could write.
//!
//! Going to the journal, the caller holds the WRITE byte of the WAL-index; SQLite's EXCLUSIVE lock
//! follows on it and is kept (`locking_mode`), until the caller lets writers go on. Going to the
//! log, the caller's RESERVED lock becomes EXCLUSIVE and is kept until the WRITE byte of the
//! WAL-index, which nobody can open before, is locked. What cannot be converted stays as it was: a
//! reader that does not end is enough for that.

use crate::attach::{Attached, AttachedAsIs, Files, Log, beside, connect, keep_wal, let_wal_go};
use crate::fence::Fence;
use crate::lock::{self, LockByte, Mode};
use rusqlite::{Connection, ffi};
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long readers are waited for that must end before the mode can change.
const READERS_WAIT: Duration = Duration::from_millis(250);
/// How long the first opening waits for readers that mean to recover an empty log.
const OPEN_WAIT: Duration = Duration::from_secs(2);

impl Attached {
    /// Turns a database whose WRITE byte is locked through its own descriptors, and of which
    /// everything was captured, to a rollback journal. Nobody reads or writes it until
    /// [`crate::Differ::release_writers`].
    ///
    /// # Errors
    /// When somebody else has it open. It is then as it was, and its WRITE byte is still locked.
    pub(crate) fn into_as_is(self) -> Result<AttachedAsIs, (Box<Attached>, String)> {
        if Arc::strong_count(self.files()) > 1 {
            return Err((Box::new(self), "this process reads it".into()));
        }
        let_wal_go(self.keeper());
        if let Err(error) = into_journal(self.keeper()) {
            keep_wal(self.keeper());
            return Err((Box::new(self), error.to_string()));
        }
        let Attached { keeper, path, page_bytes, identity, files } = self;
        let Ok(Files { database, .. }) = Arc::try_unwrap(files) else {
            unreachable!("counted above, and nobody else was given one")
        };
        // Log and index are gone from the folder; their space was given back here.
        let files = Arc::new(Files { database, log: None });
        Ok(AttachedAsIs { keeper, path, page_bytes, identity, files })
    }
}

fn into_journal(keeper: &Connection) -> rusqlite::Result<()> {
    pragma(keeper, "PRAGMA locking_mode=EXCLUSIVE")?;
    // One that fails leaves everything as it was: nobody gets EXCLUSIVE beside anybody.
    let mode = pragma(keeper, "PRAGMA journal_mode=DELETE");
    pragma(keeper, "PRAGMA locking_mode=NORMAL")?;
    if mode? != "delete" {
        return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None));
    }
    // EXCLUSIVE is kept until the first transaction after the change of the locking mode ends:
    // this one.
    keeper.execute_batch("BEGIN IMMEDIATE")
}

fn pragma(connection: &Connection, text: &str) -> rusqlite::Result<String> {
    connection.query_row(text, [], |row| row.get(0))
}

impl AttachedAsIs {
    /// Turns a database on which [`crate::Differ::hold_writers`] holds writers, and of which
    /// everything was captured, to WAL. The WRITE byte is then locked through its descriptors.
    ///
    /// # Errors
    /// When somebody does not end reading, or a file refuses. Comes back with writers let go; or
    /// does not come back, and is to be opened anew.
    pub(crate) fn into_log(self) -> Result<Attached, (Option<Box<AttachedAsIs>>, String)> {
        if Arc::strong_count(&self.files) > 1 {
            return match self.keeper.execute_batch("ROLLBACK") {
                Ok(()) => Err((Some(Box::new(self)), "this process reads it".into())),
                Err(error) => Err((None, error.to_string())),
            };
        }
        if let Err(error) = into_log(&self.keeper) {
            return Err((Some(Box::new(self)), error.to_string()));
        }
        let shm = fenced_index(&self.path, &self.files.database);
        let AttachedAsIs { keeper, path, page_bytes, identity, files } = self;
        // Gives up EXCLUSIVE. From here on the WRITE byte keeps writers out, and readers wait for
        // the empty log to be opened, which only who passes the fence can.
        drop(keeper);
        let shm = shm.map_err(|error| (None, error.to_string()))?;
        let opened = open_log(&path, identity, &shm);
        let (keeper, wal) = opened.map_err(|error| (None, error.to_string()))?;
        let Ok(Files { database, .. }) = Arc::try_unwrap(files) else {
            unreachable!("counted above, and nobody else was given one")
        };
        let files = Arc::new(Files { database, log: Some(Log { wal, shm }) });
        Ok(Attached { keeper, path, page_bytes, identity, files })
    }
}

fn into_log(keeper: &Connection) -> rusqlite::Result<()> {
    keeper.busy_timeout(READERS_WAIT)?;
    pragma(keeper, "PRAGMA locking_mode=EXCLUSIVE")?;
    // Ends the transaction; RESERVED stays.
    keeper.execute_batch("ROLLBACK")?;
    let mode = pragma(keeper, "PRAGMA journal_mode=WAL");
    if mode.as_ref().is_ok_and(|mode| mode == "wal") {
        return Ok(());
    }
    // Lets the readers that wait meanwhile go on, and with them, for a moment, a writer: what it
    // commits is captured when writers are held again.
    pragma(keeper, "PRAGMA locking_mode=NORMAL")?;
    keeper.execute_batch("BEGIN IMMEDIATE; ROLLBACK")?;
    keeper.busy_timeout(Duration::ZERO)?;
    mode.and(Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None)))
}

/// The WAL-index with its WRITE byte locked, while nobody can open the database.
fn fenced_index(path: &Path, database: &File) -> io::Result<File> {
    let owner = database.metadata()?;
    let mode = owner.mode() & 0o777;
    let mut options = File::options();
    let index = options.read(true).write(true).create(true).truncate(false).mode(mode);
    let index = index.open(beside(path, "-shm"))?;
    // As SQLite does it: whoever may use the database may use its index. Only root can give away.
    index.set_permissions(Permissions::from_mode(mode))?;
    let _ = fchown(&index, Some(owner.uid()), Some(owner.gid()));
    if !lock::set(&index, LockByte::WRITE, Mode::Exclusive)? {
        return Err(io::Error::other("its WAL-index is locked though nobody has it open"));
    }
    // What the change of the mode left: a journal of which the head was cleared.
    match std::fs::remove_file(beside(path, "-journal")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(index),
    }
}

/// The connection that keeps the log in being, and the log.
fn open_log(path: &Path, identity: (u64, u64), shm: &File) -> Result<(Connection, File), String> {
    let failed = |error: rusqlite::Error| error.to_string();
    let read = "SELECT count(*) FROM sqlite_schema";
    let fence = Fence::of_locked(identity);
    let first = fence.pass().connect(path).map_err(failed)?;
    first.busy_timeout(OPEN_WAIT).map_err(failed)?;
    first.query_row(read, [], |_| Ok(())).map_err(failed)?;
    let keeper = connect(path, OPEN_WAIT).map_err(failed)?;
    keeper.query_row(read, [], |_| Ok(())).map_err(failed)?;
    drop(first);
    let wal = File::open(beside(path, "-wal")).map_err(|error| error.to_string())?;
    let ours = shm.metadata().map_err(|error| error.to_string())?;
    let there = std::fs::metadata(beside(path, "-shm")).map_err(|error| error.to_string())?;
    if (ours.dev(), ours.ino()) != (there.dev(), there.ino()) {
        return Err("somebody took its WAL-index away".into());
    }
    Ok((keeper, wal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::Instant;

    /// Conversions there and back, and the longest time for them.
    const ROUNDS: u32 = 300;
    const PATIENCE: Duration = Duration::from_secs(60);

    fn write(path: &Path) -> rusqlite::Result<()> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::ZERO)?;
        connection.execute_batch("INSERT INTO t VALUES(1)")
    }

    #[test]
    fn nobody_writes_between_the_two_modes() {
        let folder = tempfile::tempdir().unwrap();
        let path = &folder.path().join("a.db");
        Connection::open(path).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
        let attached = Attached::open(path).unwrap();
        assert!(lock::set(attached.shm(), LockByte::WRITE, Mode::Exclusive).unwrap());
        let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
        let converted = std::thread::scope(|scope| {
            let mut attached = Ok(attached);
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        written.fetch_add(u64::from(write(path).is_ok()), Ordering::Relaxed);
                    }
                });
            }
            let began = Instant::now();
            let mut rounds = 0;
            while rounds < ROUNDS && began.elapsed() < PATIENCE {
                attached = match attached.map(Attached::into_as_is) {
                    Ok(Ok(as_is)) => {
                        rounds += 1;
                        as_is.into_log().map_err(|(_, why)| why)
                    }
                    // Somebody has it open at this moment.
                    Ok(Err((attached, _))) => Ok(*attached),
                    Err(why) => {
                        attached = Err(why);
                        break;
                    }
                };
            }
            stop.store(true, Ordering::Relaxed);
            attached.map(|attached| (attached, rounds))
        });
        let (attached, rounds) = converted.expect("nobody reads for long");
        assert!(rounds > 0, "no conversion");
        assert_eq!(written.load(Ordering::Relaxed), 0, "commits while writers were held");
        assert!(lock::set(attached.shm(), LockByte::WRITE, Mode::Unlocked).unwrap());
        write(path).unwrap();
        let as_is = attached.into_as_is().map_err(|(_, why)| why).unwrap();
        assert!(write(path).is_err(), "a writer got through");
        as_is.keeper.execute_batch("ROLLBACK").unwrap();
        write(path).unwrap();
        let left = ["-wal", "-shm"].map(|suffix| beside(path, suffix).exists());
        assert_eq!(left, [false, false]);
    }
}
