//! The table of a database, made of all its pages as one transaction left them, on a thread that
//! may take its time.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::attach::Attached;
use crate::hash::page_hash;
use crate::index;
use crate::snapshot::Snapshot;
use crate::table::Table;
use crate::trail::CaptureError;

/// How long a moment between two transactions is waited for.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(2);

/// A snapshot of a database together with which of its transactions it is.
#[derive(Debug)]
pub struct Scan {
    snapshot: Snapshot,
    change: u32,
}

/// The table of a database, and which transaction it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// The hashes.
    pub table: Table,
    pub(crate) change: u32,
}

impl Scanned {
    /// A table that is known without a scan to be that of the database as it stands: of a reign of
    /// this node that ended under the fence.
    ///
    /// # Errors
    /// When the WAL-index cannot be read.
    pub fn of(table: Table, attached: &Attached) -> Result<Scanned, ScanError> {
        let path = || attached.path().to_owned();
        let seen = index::read(attached.shm())
            .map_err(|source| ScanError::Index { path: path(), source })?;
        match seen.index {
            Some(index) => Ok(Scanned { table, change: index.change }),
            None => Err(ScanError::Busy { path: path(), waited_ms: 0 }),
        }
    }
}

/// Why a database was not read.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// A file of it, or SQLite, refuses.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The WAL-index cannot be read.
    #[error("cannot read the WAL-index of {path}: {source}")]
    Index {
        /// The database.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A writer was always faster.
    #[error("no snapshot of {path} within {waited_ms} ms: its writers never pause; it is retried")]
    Busy {
        /// The database.
        path: PathBuf,
        /// How long it was tried, in ms.
        waited_ms: u128,
    },
    /// The caller wanted no more.
    #[error("the scan of {path} was ended before it was done")]
    Ended {
        /// The database.
        path: PathBuf,
    },
    /// Pages beyond the memory.
    #[error("no memory for the hashes of {pages} pages of {path}")]
    Memory {
        /// The database.
        path: PathBuf,
        /// Its pages.
        pages: u32,
    },
}

impl Scan {
    /// Opens a snapshot: exactly the transaction that the WAL-index names at this moment.
    ///
    /// # Errors
    /// When SQLite or the system refuses, or no moment between two transactions was found.
    pub fn begin(attached: &Attached) -> Result<Scan, ScanError> {
        let path = attached.path().to_owned();
        let read = || {
            index::read(attached.shm())
                .map_err(|source| ScanError::Index { path: path.clone(), source })
        };
        let mut snapshot = Snapshot::connect(attached)?;
        let begun = Instant::now();
        loop {
            let before = read()?;
            snapshot.begin()?;
            let after = read()?;
            if let (Some(index), true) = (after.index, before.index == after.index) {
                // What was moved before the snapshot began is in the file; what is moved after it
                // is no newer than the snapshot.
                snapshot.fix(&index, before.backfilled.min(index.frames))?;
                return Ok(Scan { snapshot, change: index.change });
            }
            snapshot.end()?;
            let waited = begun.elapsed();
            if waited > SNAPSHOT_WAIT {
                return Err(ScanError::Busy { path, waited_ms: waited.as_millis() });
            }
        }
    }

    /// The database's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.snapshot.path()
    }

    /// The pages.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Hashes all pages, as long as `go_on` says so: it is asked before each page.
    ///
    /// # Errors
    /// When a page cannot be read, [`ScanError::Ended`], and [`ScanError::Memory`].
    pub fn table(&self, go_on: impl FnMut() -> bool) -> Result<Scanned, ScanError> {
        Ok(Scanned { table: table_of(&self.snapshot, go_on)?, change: self.change })
    }
}

/// Hashes all pages of a snapshot, as long as `go_on` says so: it is asked before each page.
///
/// # Errors
/// As [`Scan::table`].
pub(crate) fn table_of(
    snapshot: &Snapshot,
    mut go_on: impl FnMut() -> bool,
) -> Result<Table, ScanError> {
    let pages = snapshot.pages_total();
    let mut table = Table::new(snapshot.page_bytes());
    if table.reserve(pages).is_err() {
        return Err(ScanError::Memory { path: snapshot.path().to_owned(), pages });
    }
    let mut ended = false;
    snapshot.for_each(1..pages.saturating_add(1), |number, bytes| {
        if !go_on() {
            ended = true;
            return ControlFlow::Break(());
        }
        table.set(number, page_hash(number, bytes));
        ControlFlow::Continue(())
    })?;
    if ended {
        return Err(ScanError::Ended { path: snapshot.path().to_owned() });
    }
    table.resize(pages);
    Ok(table)
}
