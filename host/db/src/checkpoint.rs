//! Our own checkpoints: on a connection and in a thread of their own, since a checkpoint waits for
//! the disk and the engine must not.
//!
//! A PASSIVE checkpoint makes nobody wait. SQLite brings the database to the disk only in a pass
//! that reaches the end of the WAL; the passes before leave everything to that last one. Here each
//! pass is followed by a sync, so that the last one, under the write lock, has little to bring.

use crate::attach::{Attached, Files, connect};
use crate::index;
use rusqlite::Connection;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Passes in a row before the thread ends: each has less to do than the one before, or never will.
const PASSES_MAX: u32 = 4;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Move frames until at most so many are left.
    Passive {
        /// Frames.
        remaining_max: u32,
    },
    /// Give the WAL, of which everything is in the database, back to the file system.
    Truncate,
}

/// What was done.
#[derive(Debug)]
pub(crate) enum Outcome {
    Passed(Passed),
    /// Whether the WAL is empty now; readers and writers may have been in the way.
    Truncated(bool),
}

/// What a checkpoint left.
#[derive(Debug)]
pub(crate) struct Passed {
    /// Frames that are not in the database.
    pub(crate) remaining: u32,
    /// Whether it moved anything.
    pub(crate) moved: bool,
}

/// Runs one checkpoint at a time.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    path: PathBuf,
    idle: Option<Connection>,
    running: Option<JoinHandle<Done>>,
    // After the connection: see the head of `attach`.
    files: Arc<Files>,
}

type Done = (Option<Connection>, Result<Outcome, rusqlite::Error>);

impl Checkpointer {
    pub(crate) fn new(attached: &Attached) -> Checkpointer {
        let path = attached.path().to_owned();
        Checkpointer { path, idle: None, running: None, files: attached.files().clone() }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Begins to carry out an order.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(crate) fn begin(&mut self, order: Order) -> std::io::Result<()> {
        assert!(self.running.is_none(), "one checkpoint at a time");
        let (path, files, idle) = (self.path.clone(), self.files.clone(), self.idle.take());
        let work = move || {
            let connection = match idle.map_or_else(|| connect(&path, Duration::ZERO), Ok) {
                Ok(connection) => connection,
                Err(error) => return (None, Err(error)),
            };
            let done = match order {
                Order::Passive { remaining_max } => {
                    passes(&connection, &files, &path, remaining_max).map(Outcome::Passed)
                }
                Order::Truncate => truncate(&connection).map(Outcome::Truncated),
            };
            (Some(connection), done)
        };
        let thread = std::thread::Builder::new().name("checkpoint".to_owned()).spawn(work)?;
        self.running = Some(thread);
        Ok(())
    }

    /// What the checkpoint did, once it is over.
    pub(crate) fn ended(&mut self) -> Option<Result<Outcome, rusqlite::Error>> {
        if !self.running.as_ref()?.is_finished() {
            return None;
        }
        Some(self.join())
    }

    fn join(&mut self) -> Result<Outcome, rusqlite::Error> {
        let thread = self.running.take().expect("the caller saw it run");
        let (connection, done) = thread.join().expect("a checkpoint does not panic");
        self.idle = connection;
        done
    }

    /// Closes the connection that waits for the next checkpoint; for quiet times.
    pub(crate) fn trim(&mut self) {
        self.idle = None;
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        if self.running.is_some()
            && let Err(error) = self.join()
        {
            tracing::debug!(path = %self.path.display(), %error, "the last checkpoint failed");
        }
    }
}

/// PASSIVE passes in a row, each brought to the disk, until at most so many frames are left or it
/// does not help.
///
/// # Errors
/// As [`passive`], and when the database cannot be brought to the disk.
pub(crate) fn passes(
    connection: &Connection,
    files: &Files,
    path: &Path,
    remaining_max: u32,
) -> Result<Passed, rusqlite::Error> {
    let mut before = u32::MAX;
    let mut moved_before = seen(files).map(|seen| seen.backfilled);
    let mut moved = false;
    for _ in 0..PASSES_MAX {
        let (frames, backfilled) = passive(connection)?;
        moved |= moved_before.is_none_or(|earlier| backfilled > earlier);
        moved_before = Some(backfilled);
        let remaining = remaining(files).unwrap_or(frames.saturating_sub(backfilled));
        // Unless a pass reached the end, what was moved, by whomever, is in the page cache only.
        if frames != backfilled || remaining > 0 {
            sync(files, path)?;
        }
        let remaining = self::remaining(files).unwrap_or(remaining);
        if remaining <= remaining_max || remaining >= before {
            return Ok(Passed { remaining, moved });
        }
        before = remaining;
    }
    Ok(Passed { remaining: before, moved })
}

/// Brings the database to the disk. The kernel reports a lost write once: whoever goes on would
/// take what was lost for durable.
fn sync(files: &Files, path: &Path) -> Result<(), rusqlite::Error> {
    // SAFETY: the descriptor is open as long as `files` is.
    if unsafe { libc::fdatasync(files.database.as_raw_fd()) } == 0 {
        return Ok(());
    }
    let text = format!("{}: {}", path.display(), std::io::Error::last_os_error());
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
    Err(rusqlite::Error::SqliteFailure(code, Some(text)))
}

fn seen(files: &Files) -> Option<index::Seen> {
    index::read(&files.log.as_ref()?.shm).ok()
}

/// Frames that are not in the database at this moment.
fn remaining(files: &Files) -> Option<u32> {
    let seen = seen(files)?;
    Some(seen.index?.frames.saturating_sub(seen.backfilled))
}

/// Moves what nobody reads: frames in the WAL, and how many of them are in the database.
///
/// # Errors
/// What SQLite answers; another checkpoint at work is none.
pub(crate) fn passive(connection: &Connection) -> Result<(u32, u32), rusqlite::Error> {
    checkpoint(connection, "PRAGMA wal_checkpoint(PASSIVE)")
        .map(|(_, frames, moved)| (frames, moved))
}

/// Moves everything, so that the next writer begins the WAL anew, if no reader is in it.
///
/// # Errors
/// As [`passive`].
pub(crate) fn restart(connection: &Connection) -> Result<(), rusqlite::Error> {
    checkpoint(connection, "PRAGMA wal_checkpoint(RESTART)").map(drop)
}

/// Gives the WAL back to the file system: whether it is empty now.
///
/// # Errors
/// As [`passive`].
pub(crate) fn truncate(connection: &Connection) -> Result<bool, rusqlite::Error> {
    checkpoint(connection, "PRAGMA wal_checkpoint(TRUNCATE)").map(|(busy, ..)| !busy)
}

fn checkpoint(connection: &Connection, order: &str) -> Result<(bool, u32, u32), rusqlite::Error> {
    // SQLite says -1 for what it did not learn.
    let count = |value: i64| u32::try_from(value).unwrap_or(0);
    connection.query_row(order, [], |row| {
        Ok((row.get::<_, i64>(0)? != 0, count(row.get(1)?), count(row.get(2)?)))
    })
}
