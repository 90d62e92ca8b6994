//! Where the changes of a database on the primary come from.

use crate::attach::Attached;
use crate::changes::Changes;
use crate::follow::Follower;
use crate::snapshot::Snapshot;
use crate::trail::{CaptureError, Counters, Drained};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A database in one of the two ways of SQLite's journal.
#[derive(Debug)]
pub(crate) enum Source {
    /// The write-ahead log is followed.
    Log(Follower),
}

impl Source {
    pub(crate) fn attached(&self) -> &Rc<Attached> {
        match self {
            Source::Log(follower) => follower.attached(),
        }
    }

    pub(crate) fn page_bytes(&self) -> u32 {
        self.attached().page_bytes()
    }

    pub(crate) fn drain(
        &mut self,
        changes: &mut Changes,
        frames_max: u32,
    ) -> Result<Drained, CaptureError> {
        match self {
            Source::Log(follower) => follower.drain(changes, frames_max),
        }
    }

    pub(crate) fn tend(
        &mut self,
        now: Instant,
        changes: &mut Changes,
    ) -> Result<Drained, CaptureError> {
        match self {
            Source::Log(follower) => follower.tend(now, changes),
        }
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        match self {
            Source::Log(follower) => follower.next_due(),
        }
    }

    pub(crate) fn snapshot(
        &mut self,
        changes: &mut Changes,
    ) -> Result<(Snapshot, bool), CaptureError> {
        match self {
            Source::Log(follower) => follower.snapshot(changes),
        }
    }

    pub(crate) fn restart(&mut self) -> Result<(), CaptureError> {
        match self {
            Source::Log(follower) => follower.restart(),
        }
    }

    pub(crate) fn hold_writers(&mut self, wait: Duration) -> Result<bool, CaptureError> {
        match self {
            Source::Log(follower) => follower.hold_writers(wait),
        }
    }

    pub(crate) fn release_writers(&mut self) -> Result<(), CaptureError> {
        match self {
            Source::Log(follower) => follower.release_writers(),
        }
    }

    pub(crate) fn writers_held(&self) -> bool {
        match self {
            Source::Log(follower) => follower.writers_held(),
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        match self {
            Source::Log(follower) => follower.counters(),
        }
    }

    /// Ends the capture. Writers that are held stay held: whoever attaches next fences them.
    pub(crate) fn end(self) -> Rc<Attached> {
        match self {
            Source::Log(follower) => follower.stop_fenced(),
        }
    }
}
