//! Where the changes of a database on the primary come from.

use crate::attach::{Attached, AttachedAsIs, Files};
use crate::changes::Changes;
use crate::differ::Differ;
use crate::follow::Follower;
use crate::frames;
use crate::snapshot::Snapshot;
use crate::table::Table;
use crate::trail::{CaptureError, Counters, Drained};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A database in one of the two ways of SQLite's journal.
#[derive(Debug)]
pub(crate) enum Source {
    /// The write-ahead log is followed.
    Log(Box<Follower>),
    /// The rollback journal is kept, and pages are compared.
    Kept(Differ),
}

impl Source {
    /// Follows a log from its committed end on.
    pub(crate) fn of_log(attached: Rc<Attached>) -> Result<Source, String> {
        let follower = Follower::start(attached).map_err(|error| error.to_string())?;
        Ok(Source::Log(Box::new(follower)))
    }

    /// Follows a database as it is, from its committed end on, and its table there.
    pub(crate) fn of_kept(attached: AttachedAsIs) -> Result<(Source, Option<Table>), String> {
        let differ = Differ::start(Rc::new(attached)).map_err(|error| error.to_string())?;
        let table = differ.table();
        Ok((Source::Kept(differ), table))
    }

    /// Whether pages are compared: every reading costs the whole database.
    pub(crate) fn is_kept(&self) -> bool {
        match self {
            Source::Log(_) => false,
            Source::Kept(_) => true,
        }
    }

    /// The log and what else is open; none where there is a rollback journal.
    pub(crate) fn log(&self) -> Option<&Attached> {
        match self {
            Source::Log(follower) => Some(follower.attached()),
            Source::Kept(_) => None,
        }
    }

    /// The descriptors.
    pub(crate) fn files(&self) -> &Arc<Files> {
        match self {
            Source::Log(follower) => follower.attached().files(),
            Source::Kept(differ) => &differ.attached().files,
        }
    }

    /// Device and inode of the database file.
    pub(crate) fn identity(&self) -> (u64, u64) {
        match self {
            Source::Log(follower) => follower.attached().identity(),
            Source::Kept(differ) => differ.attached().identity,
        }
    }

    /// The file that is written when somebody commits.
    pub(crate) fn written(&self, path: &Path) -> std::path::PathBuf {
        match self {
            Source::Log(_) => crate::attach::beside(path, "-wal"),
            Source::Kept(_) => path.to_owned(),
        }
    }

    /// Whether the path leads to another file now.
    pub(crate) fn replaced(&self) -> bool {
        match self {
            Source::Log(follower) => follower.attached().replaced(),
            Source::Kept(differ) => differ.attached().replaced(),
        }
    }

    pub(crate) fn page_bytes(&self) -> u32 {
        match self {
            Source::Log(follower) => follower.attached().page_bytes(),
            Source::Kept(differ) => differ.attached().page_bytes(),
        }
    }

    pub(crate) fn drain(
        &mut self,
        changes: &mut Changes,
        frames_max: u32,
    ) -> Result<Drained, CaptureError> {
        match self {
            Source::Log(follower) => follower.drain(changes, frames_max),
            // Every look is a tending.
            Source::Kept(_) => Ok(Drained::Nothing),
        }
    }

    pub(crate) fn tend(
        &mut self,
        now: Instant,
        changes: &mut Changes,
    ) -> Result<Drained, CaptureError> {
        match self {
            Source::Log(follower) => follower.tend(now, changes),
            Source::Kept(differ) => differ.tend(now, changes),
        }
    }

    /// When it must be tended whatever the kernel notices.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        match self {
            Source::Log(follower) => follower.next_due(),
            Source::Kept(differ) => differ.next_due().filter(|_| !differ.is_idle()),
        }
    }

    pub(crate) fn snapshot(
        &mut self,
        changes: &mut Changes,
    ) -> Result<(Snapshot, bool), CaptureError> {
        match self {
            Source::Log(follower) => follower.snapshot(changes),
            Source::Kept(differ) => differ.snapshot(changes),
        }
    }

    pub(crate) fn restart(&mut self) -> Result<(), CaptureError> {
        match self {
            Source::Log(follower) => follower.restart(),
            Source::Kept(differ) => differ.restart(),
        }
    }

    pub(crate) fn hold_writers(&mut self, wait: Duration) -> Result<bool, CaptureError> {
        match self {
            Source::Log(follower) => follower.hold_writers(wait),
            Source::Kept(differ) => differ.hold_writers(wait),
        }
    }

    pub(crate) fn release_writers(&mut self) -> Result<(), CaptureError> {
        match self {
            Source::Log(follower) => follower.release_writers(),
            Source::Kept(differ) => differ.release_writers(),
        }
    }

    pub(crate) fn writers_held(&self) -> bool {
        match self {
            Source::Log(follower) => follower.writers_held(),
            Source::Kept(differ) => differ.writers_held(),
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        match self {
            Source::Log(follower) => follower.counters(),
            Source::Kept(_) => Counters::default(),
        }
    }

    /// Whether somebody has written what is not committed yet, or is just being committed. After a
    /// rollback that may be so for long.
    pub(crate) fn is_amid(&self) -> bool {
        let Source::Log(follower) = self else { return false };
        let (trail, attached) = (follower.trail(), follower.attached());
        let salt_at = |at: u64| {
            let mut salt = [0; 8];
            attached.wal().read_exact_at(&mut salt, at).is_ok().then_some(salt)
        };
        let next = frames::offset(trail.frame + 1, attached.page_bytes());
        // Another generation may have begun instead.
        salt_at(next + frames::FRAME_SALT_AT) == Some(trail.salt)
            || salt_at(frames::WAL_SALT_AT) != Some(trail.salt)
    }

    /// Turns a log of which everything is captured, and in which writers are held, to a rollback
    /// journal, with writers still held; where that cannot be now, it is a log again.
    pub(crate) fn into_journal(self, table: &Table) -> Result<Source, String> {
        let Source::Log(follower) = self else { return Ok(self) };
        let again = |attached: Rc<Attached>| {
            let follower = Follower::start_fenced(attached).map_err(|error| error.to_string())?;
            Ok(Source::Log(Box::new(follower)))
        };
        let attached = match Rc::try_unwrap(follower.stop_fenced()) {
            Ok(attached) => attached,
            Err(shared) => return again(shared),
        };
        match attached.into_as_is() {
            Ok(attached) => {
                let differ = Differ::start_at(Rc::new(attached), table, true);
                Ok(Source::Kept(differ.map_err(|error| error.to_string())?))
            }
            Err((attached, why)) => {
                tracing::debug!(path = %attached.path().display(), %why, "its log stays for now");
                again(Rc::new(*attached))
            }
        }
    }

    /// Turns a rollback journal of which everything is captured, and in which writers are held, to
    /// a log, with writers still held. Where that cannot be now, it is a journal again, and writers
    /// go on: what they commit differs from the table.
    ///
    /// # Errors
    /// When it must be opened anew.
    pub(crate) fn into_log(self, table: &Table) -> Result<Source, String> {
        let Source::Kept(differ) = self else { return Ok(self) };
        let attached = match Rc::try_unwrap(differ.stop_held()) {
            Ok(attached) => attached,
            Err(_) => return Err("it is read at this moment".into()),
        };
        match attached.into_log() {
            Ok(attached) => {
                let follower = Follower::start_fenced(Rc::new(attached));
                Ok(Source::Log(Box::new(follower.map_err(|error| error.to_string())?)))
            }
            Err((Some(attached), why)) => {
                let path = attached.path().display();
                tracing::debug!(%path, %why, "its journal stays for now");
                let differ = Differ::start_at(Rc::new(*attached), table, false);
                Ok(Source::Kept(differ.map_err(|error| error.to_string())?))
            }
            Err((None, why)) => Err(why),
        }
    }

    /// Ends the capture of a log. Writers that are held stay held: whoever attaches next fences
    /// them. A journal gives nothing back: its copy is another opening of it.
    pub(crate) fn end(self) -> Option<Rc<Attached>> {
        match self {
            Source::Log(follower) => Some(follower.stop_fenced()),
            Source::Kept(_) => None,
        }
    }
}
