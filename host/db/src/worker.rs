//! A thread for what reads or writes a whole database: the engine's own thread never waits for it.

use crate::apply::{ApplyError, Checkpoint};
use crate::archive::{self, ArchiveError, ArchiveLabel, Archived};
use crate::hash::page_hash;
use crate::scan::{Scan, ScanError, Scanned, table_of};
use crate::snapshot::Snapshot;
use crate::table::Table;
use crate::trail::CaptureError;
use crate::wire::Position;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};

/// How far what takes long gives way to what waits for nobody (nice(2), 0 to 19).
const NICE: libc::c_int = 5;

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Task {
    /// The table of a database on the primary.
    Table(Snapshot),
    /// The table of a copy on the standby.
    Scan(Scan),
    /// Whether the pages still are what the table says, without the pages that changed meanwhile.
    Scrub(Snapshot, Table, BTreeSet<u32>),
    /// The same of a copy on the standby.
    ScrubCopy(Scan, Table),
    /// A copy of a copy, to keep.
    Archive { scan: Scan, folder: PathBuf, name: String, at: Position },
    /// A checkpoint of a copy.
    Checkpoint(Checkpoint),
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Done {
    Table(Result<Table, ScanError>),
    Scan(Result<Scanned, ScanError>),
    /// Pages that are not what they should be.
    Scrub(Result<Vec<u32>, String>),
    Archive(Result<Archived, ArchiveError>),
    Checkpoint(Result<(), ApplyError>),
}

/// Whose it is. The number changes whenever what was asked for no longer matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket {
    pub id: u32,
    pub generation: u64,
}

/// The thread. Dropped, it ends after the page it is at; an archive or a checkpoint is finished.
#[derive(Debug)]
pub(crate) struct Worker {
    tasks: Sender<(Ticket, Task)>,
    done: Receiver<(Ticket, Done)>,
    stop: Arc<AtomicBool>,
}

impl Worker {
    pub(crate) fn start(name: &str, wake: staffetta_bulk::Wake) -> std::io::Result<Worker> {
        let (tasks, todo) = mpsc::channel::<(Ticket, Task)>();
        let (ended, done) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::Builder::new().name(name.into()).spawn(move || {
            give_way();
            let go_on = || !stopped.load(Ordering::Relaxed);
            for (ticket, task) in todo {
                let done = perform(task, &go_on);
                if !go_on() || ended.send((ticket, done)).is_err() {
                    return;
                }
                wake();
            }
        })?;
        Ok(Worker { tasks, done, stop })
    }

    pub(crate) fn perform(&self, ticket: Ticket, task: Task) {
        // The thread ends with this value only.
        let _ = self.tasks.send((ticket, task));
    }

    pub(crate) fn done(&self) -> Option<(Ticket, Done)> {
        self.done.try_recv().ok()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Where there is not enough of the processor for all, commits come first. A thread that cannot say
/// so is no slower for it.
fn give_way() {
    // SAFETY: no pointers are passed; 0 is the calling thread (setpriority(2), NOTES).
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

fn perform(task: Task, go_on: &dyn Fn() -> bool) -> Done {
    match task {
        Task::Table(snapshot) => Done::Table(table_of(&snapshot, go_on)),
        Task::Scan(scan) => Done::Scan(scan.table(go_on)),
        Task::Scrub(snapshot, expected, changed) => {
            let found = differing(&snapshot, &expected, go_on).map_err(|error| error.to_string());
            Done::Scrub(found.map(|mut wrong| {
                wrong.retain(|page| !changed.contains(page));
                wrong
            }))
        }
        Task::ScrubCopy(scan, expected) => {
            let found = differing(scan.snapshot(), &expected, go_on);
            Done::Scrub(found.map_err(|error| error.to_string()))
        }
        Task::Archive { scan, folder, name, at } => {
            let label = ArchiveLabel { name: &name, epoch: at.epoch, transaction: at.txid };
            Done::Archive(archive::archive(&scan, &folder, label))
        }
        Task::Checkpoint(checkpoint) => Done::Checkpoint(checkpoint.run()),
    }
}

/// Pages that are not what the table says. One table in memory, not two.
fn differing(
    snapshot: &Snapshot,
    expected: &Table,
    go_on: &dyn Fn() -> bool,
) -> Result<Vec<u32>, CaptureError> {
    let mut wrong = Vec::new();
    snapshot.for_each(1..snapshot.pages_total().saturating_add(1), |number, image| {
        if expected.hash(number) != Some(page_hash(number, image)) {
            wrong.push(number);
        }
        if go_on() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    wrong.extend(snapshot.pages_total().saturating_add(1)..=expected.pages());
    Ok(wrong)
}
