//! Checkpoints of the copy: its WAL stays small, and no reader waits for that.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{ApplyError, sqlite_error};
use crate::attach::{Attached, Files, keep_wal};
use crate::checkpoint;
use crate::fence::Pass;
use crate::frames;
use crate::index::Seen;

/// Frames not yet in the database, in bytes, from which they are moved there. The applier's next
/// transaction then begins the WAL anew, if no reader is in it and nothing came meanwhile.
const PASSIVE_BYTES: u64 = 4 << 20;
/// The passes that hinder nobody end when no more than this is left, or when they do not help.
const REMAINING_BYTES_MAX: u64 = 1 << 20;
/// Part of the WAL in use from which the next transaction is made to begin it anew: under a flow of
/// transactions there is no moment at which all of it is in the database.
const RESTART_BYTES: u64 = 16 << 20;
/// Length of the WAL from which it is given back to the disk, when nobody has written for a while:
/// file systems take a tenth of a second for it.
const TRUNCATE_BYTES: u64 = 64 << 20;
const STILL: Duration = Duration::from_secs(1);
/// Length from which it is given back as soon as it began anew, and from which readers that overlap
/// are waited for a while.
const LONG_BYTES: u64 = 256 << 20;
/// Pause after a checkpoint: readers that were in the way may be so still.
const PAUSE: Duration = Duration::from_millis(100);
/// The same where a reader was in the way, or where the write lock may have been held for
/// [`LONG_WAIT`].
const READER_PAUSE: Duration = Duration::from_secs(1);
/// What may be moved, and brought to the disk, under the write lock at most.
const LOCKED_BYTES_MAX: u64 = 4 << 20;
/// A checkpoint that begins the WAL anew waits this long for the transaction that has the write
/// lock, and then with that lock for readers; longer where the WAL is long.
const WAIT: Duration = Duration::from_millis(8);
const LONG_WAIT: Duration = Duration::from_millis(250);

const _: () = assert!(PASSIVE_BYTES < RESTART_BYTES && RESTART_BYTES < TRUNCATE_BYTES);
const _: () = assert!(TRUNCATE_BYTES < LONG_BYTES && REMAINING_BYTES_MAX <= LOCKED_BYTES_MAX);

/// How far a checkpoint goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointKind {
    /// Moves what no reader needs; nobody waits.
    Passive,
    /// Moves the last frames, few by then, under the write lock, so that the next transaction
    /// begins the WAL anew.
    Restart,
    /// Gives the WAL's space back as well, when no reader is in it.
    Truncate,
}

/// What the last one met, and since when nobody has written.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
    /// Frames of the WAL at the last one.
    tried: Option<u32>,
    /// Transactions of the WAL-index when it was last seen to change, and when that was.
    stirred: Option<(u32, Instant)>,
    /// Shared with the checkpoint that was handed out last, as long as it exists.
    running: Arc<()>,
}

impl Pace {
    /// What is due, given what the WAL-index says and how long the WAL is.
    pub(super) fn due(
        &mut self,
        now: Instant,
        seen: &Seen,
        wal_bytes: u64,
    ) -> Option<(CheckpointKind, Arc<()>)> {
        let index = seen.index?;
        if self.stirred.is_none_or(|(change, _)| change != index.change) {
            self.stirred = Some((index.change, now));
        }
        let long = wal_bytes > LONG_BYTES;
        let pause = if long || self.reader_in_the_way(seen) { READER_PAUSE } else { PAUSE };
        let paused = self.last.is_some_and(|last| now.saturating_duration_since(last) < pause);
        if paused || Arc::strong_count(&self.running) > 1 {
            return None;
        }
        let frame_bytes = frames::frame_bytes(index.page_bytes);
        let used_bytes = u64::from(index.frames) * frame_bytes;
        let waiting_bytes = u64::from(index.frames.saturating_sub(seen.backfilled)) * frame_bytes;
        let still =
            self.stirred.is_some_and(|(_, since)| now.saturating_duration_since(since) >= STILL);
        let begun_anew = used_bytes <= RESTART_BYTES;
        let give_back = waiting_bytes < PASSIVE_BYTES
            && (wal_bytes > TRUNCATE_BYTES && still || long && begun_anew);
        let kind = if give_back {
            CheckpointKind::Truncate
        } else if used_bytes > RESTART_BYTES && waiting_bytes > 0 {
            CheckpointKind::Restart
        } else if waiting_bytes > PASSIVE_BYTES {
            CheckpointKind::Passive
        } else {
            return None;
        };
        self.last = Some(now);
        self.tried = Some(index.frames);
        Some((kind, self.running.clone()))
    }

    /// The last one could not even move the frames that were there then.
    fn reader_in_the_way(&self, seen: &Seen) -> bool {
        self.tried.is_some_and(|frames| {
            let grew = seen.index.is_some_and(|index| index.frames >= frames);
            grew && seen.backfilled < frames
        })
    }
}

/// A checkpoint that is due. It waits for disks: run it where that hinders nobody.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    pass: Pass,
    kind: CheckpointKind,
    page_bytes: u32,
    wal_bytes: u64,
    /// Closed after the connection of [`Checkpoint::run`].
    files: Arc<Files>,
    _running: Arc<()>,
}

impl Checkpoint {
    pub(super) fn new(
        attached: &Attached,
        pass: Pass,
        wal_bytes: u64,
        (kind, running): (CheckpointKind, Arc<()>),
    ) -> Checkpoint {
        let (path, files) = (attached.path().to_owned(), attached.files().clone());
        let page_bytes = attached.page_bytes();
        Checkpoint { path, pass, kind, page_bytes, wal_bytes, files, _running: running }
    }

    /// What it will do.
    #[must_use]
    pub fn kind(&self) -> CheckpointKind {
        self.kind
    }

    /// Runs it. Readers, other checkpoints, and transactions that are in the way are no error: the
    /// rest is for the next one.
    ///
    /// # Errors
    /// What SQLite answers.
    pub fn run(self) -> Result<(), ApplyError> {
        let failed = |source| sqlite_error(&self.path, source);
        let connection = self.pass.connect(&self.path).map_err(failed)?;
        // A reader may be in the way for long.
        connection.busy_timeout(Duration::ZERO).map_err(failed)?;
        connection.execute_batch("PRAGMA synchronous=NORMAL").map_err(failed)?;
        keep_wal(&connection);
        let frame_bytes = frames::frame_bytes(self.page_bytes);
        let remaining_max = u32::try_from(REMAINING_BYTES_MAX / frame_bytes).unwrap_or(u32::MAX);
        // Most of what waits for the disk is done before the write lock is asked for.
        let passed = checkpoint::passes(&connection, &self.files, &self.path, remaining_max)
            .map_err(failed)?;
        // A reader keeps it, or the flow is faster than the disk.
        let is_much = u64::from(passed.remaining) * frame_bytes > LOCKED_BYTES_MAX;
        if is_much {
            return Ok(());
        }
        let is_long = self.wal_bytes > LONG_BYTES;
        connection.busy_timeout(if is_long { LONG_WAIT } else { WAIT }).map_err(failed)?;
        match self.kind {
            CheckpointKind::Passive => Ok(()),
            CheckpointKind::Restart => checkpoint::restart(&connection),
            CheckpointKind::Truncate => checkpoint::truncate(&connection).map(drop),
        }
        .map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Index;

    const MIB: u64 = 1 << 20;

    /// A WAL with so much in use, of which so much is not in the database.
    fn seen(change: u32, used: u64, waiting: u64) -> Seen {
        let frames = |bytes: u64| u32::try_from(bytes / (4096 + 24)).expect("a small WAL");
        let index = Index {
            change,
            big_endian: false,
            page_bytes: 4096,
            frames: frames(used),
            pages: 1,
            checksum: [0; 2],
            salt: [0; 8],
        };
        Seen { index: Some(index), backfilled: frames(used) - frames(waiting) }
    }

    #[test]
    fn what_is_due_follows_from_what_is_in_use_and_what_waits() {
        use CheckpointKind::{Passive, Restart, Truncate};
        // Part in use, part that waits, length of the file, all in MiB; seconds of stillness.
        for (used, waiting, file, still, due) in [
            (3, 3, 3, 0, None),
            (5, 5, 5, 0, Some(Passive)),
            (20, 5, 20, 0, Some(Restart)),
            (20, 1, 20, 0, Some(Restart)),
            // The next transaction begins it anew by itself.
            (20, 0, 20, 0, None),
            // A file that is longer than what is in use is given back when nobody writes ...
            (2, 2, 70, 0, None),
            (2, 2, 70, 2, Some(Truncate)),
            (65, 5, 70, 2, Some(Restart)),
            // ... and a very long one as soon as it began anew: before, a flow would never let it.
            (2, 2, 300, 0, Some(Truncate)),
            (290, 1, 300, 0, Some(Restart)),
        ] {
            let (mut pace, now) = (Pace::default(), Instant::now());
            let look = seen(1, used * MIB, waiting * MIB);
            pace.stirred = Some((1, now));
            let later = now + Duration::from_secs(still);
            let kind = pace.due(later, &look, file * MIB).map(|(kind, _)| kind);
            assert_eq!(kind, due, "{used} {waiting} {file} {still}");
        }
    }

    #[test]
    fn a_reader_in_the_way_is_given_time() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let after = |ms: u64| now + Duration::from_millis(ms);
        let mut due = |ms: u64, used: u64, waiting: u64| {
            let look = seen(1, used * MIB, waiting * MIB);
            pace.due(after(ms), &look, used * MIB).map(|(kind, _)| kind)
        };
        assert_eq!(due(0, 20, 18), Some(CheckpointKind::Restart));
        // Nothing was moved: somebody reads what was there before.
        assert_eq!(due(200, 22, 20), None);
        assert_eq!(due(1_100, 30, 28), Some(CheckpointKind::Restart));
        // All of it was moved, and more came: that was a writer.
        assert_eq!(due(1_250, 35, 5), Some(CheckpointKind::Restart));
    }
}
