//! Checkpoints of the copy: its WAL stays small, and no reader waits for that.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{ApplyError, sqlite_error};
use crate::attach::{Attached, Files, keep_wal};
use crate::checkpoint;
use crate::fence::Pass;
use crate::frames::FRAME_HEADER_BYTES;
use crate::index::Seen;

/// Frames not yet in the database, in bytes, from which they are moved there. The applier's next
/// transaction then begins the WAL anew, if no reader is in it.
const PASSIVE_BYTES: u64 = 4 << 20;
/// Length of the WAL from which it is given back to the disk.
const TRUNCATE_BYTES: u64 = 64 << 20;
/// Pause after a checkpoint: readers that were in the way may be so still.
const PAUSE: Duration = Duration::from_millis(100);

const _: () = assert!(PASSIVE_BYTES < TRUNCATE_BYTES);

/// How far a checkpoint goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointKind {
    /// Moves what no reader needs; nobody waits.
    Passive,
    /// Gives the WAL's space back as well, when no reader is in it; nobody waits.
    Truncate,
}

/// When the last one was.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
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
        let waiting = u64::from(index.frames.saturating_sub(seen.backfilled));
        let waiting_bytes = waiting * (u64::from(index.page_bytes) + FRAME_HEADER_BYTES as u64);
        let paused = self.last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE);
        if paused || Arc::strong_count(&self.running) > 1 {
            return None;
        }
        let kind = if wal_bytes > TRUNCATE_BYTES {
            CheckpointKind::Truncate
        } else if waiting_bytes > PASSIVE_BYTES {
            CheckpointKind::Passive
        } else {
            return None;
        };
        self.last = Some(now);
        Some((kind, self.running.clone()))
    }
}

/// A checkpoint that is due. It waits for disks: run it where that hinders nobody.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    pass: Pass,
    kind: CheckpointKind,
    /// Closed after the connection of [`Checkpoint::run`].
    _files: Arc<Files>,
    _running: Arc<()>,
}

impl Checkpoint {
    pub(super) fn new(
        attached: &Attached,
        pass: Pass,
        (kind, running): (CheckpointKind, Arc<()>),
    ) -> Checkpoint {
        let (path, files) = (attached.path().to_owned(), attached.files().clone());
        Checkpoint { path, pass, kind, _files: files, _running: running }
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
        // A reader or a transaction may be in the way for long, and TRUNCATE waits with the write
        // lock held.
        connection.busy_timeout(Duration::ZERO).map_err(failed)?;
        connection.execute_batch("PRAGMA synchronous=NORMAL").map_err(failed)?;
        keep_wal(&connection);
        match self.kind {
            CheckpointKind::Passive => checkpoint::passive(&connection).map(drop),
            CheckpointKind::Truncate => checkpoint::truncate(&connection).map(drop),
        }
        .map_err(failed)
    }
}
