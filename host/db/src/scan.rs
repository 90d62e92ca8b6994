//! All pages of a database as one transaction left them: what tables, scrubs, first copies and
//! archives are made of.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use crate::attach::Attached;
use crate::hash::{lock_page, page_hash};
use crate::index::{self, Index};
use crate::table::Table;

/// How long a snapshot is tried to be had between two transactions of a busy writer.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(10);
/// Each page is read once: a larger cache would only be another copy of the database.
const CACHE_KIB: u32 = 256;

/// A snapshot of a database that is open for reading, on whatever thread.
#[derive(Debug)]
pub struct Scan {
    connection: Connection,
    path: PathBuf,
    page_bytes: u32,
    pages: u32,
    index: Index,
}

/// The table of a database, and which transaction it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// The hashes.
    pub table: Table,
    pub(crate) change: u32,
}

/// Why a database was not read.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// SQLite refuses.
    #[error("cannot read {path}: {source}")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// SQLite's answer.
        #[source]
        source: rusqlite::Error,
    },
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
    /// Its pages have another size than when it was attached.
    #[error("{path} now has pages of {found} bytes instead of {expected}: attach it anew")]
    PageSize {
        /// The database.
        path: PathBuf,
        /// Bytes of a page when it was attached.
        expected: u32,
        /// Bytes of a page now.
        found: u32,
    },
    /// The visitor wanted no more.
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
        let sqlite = |source| ScanError::Sqlite { path: path.clone(), source };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags).map_err(sqlite)?;
        connection.busy_timeout(SNAPSHOT_WAIT).map_err(sqlite)?;
        let cache = format!("PRAGMA cache_size=-{CACHE_KIB}; PRAGMA mmap_size=0");
        connection.execute_batch(&cache).map_err(sqlite)?;
        let begun = Instant::now();
        let index = loop {
            let read = || index::read(attached.shm()).map(|seen| seen.index);
            let before =
                read().map_err(|source| ScanError::Index { path: path.clone(), source })?;
            connection
                .execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema")
                .map_err(sqlite)?;
            let after = read().map_err(|source| ScanError::Index { path: path.clone(), source })?;
            match before {
                Some(index) if before == after => break index,
                _ if begun.elapsed() < SNAPSHOT_WAIT => {
                    connection.execute_batch("ROLLBACK").map_err(sqlite)?;
                }
                _ => {
                    let waited_ms = begun.elapsed().as_millis();
                    return Err(ScanError::Busy { path, waited_ms });
                }
            }
        };
        let number = |sql| connection.query_row(sql, [], |row| row.get::<_, u32>(0));
        let pages = number("PRAGMA page_count").map_err(sqlite)?;
        let found = number("PRAGMA page_size").map_err(sqlite)?;
        let page_bytes = attached.page_bytes();
        if found != page_bytes {
            return Err(ScanError::PageSize { path, expected: page_bytes, found });
        }
        Ok(Scan { connection, path, page_bytes, pages, index })
    }

    /// Pages of the database in this snapshot.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Bytes of a page.
    #[must_use]
    pub fn page_bytes(&self) -> u32 {
        self.page_bytes
    }

    /// The state of the WAL that the snapshot is of.
    // The follower on the primary begins its trail here.
    #[allow(dead_code)]
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// One page of the snapshot; None beyond the end.
    ///
    /// # Errors
    /// When SQLite cannot read it.
    pub fn page(&self, number: u32) -> Result<Option<Vec<u8>>, ScanError> {
        let sqlite = |source| ScanError::Sqlite { path: self.path.clone(), source };
        let mut statement = self
            .connection
            .prepare("SELECT data FROM sqlite_dbpage('main') WHERE pgno=?1")
            .map_err(sqlite)?;
        let mut rows = statement.query([number]).map_err(sqlite)?;
        match rows.next().map_err(sqlite)? {
            Some(row) => row.get(0).map(Some).map_err(sqlite),
            None => Ok(None),
        }
    }

    /// Visits each page in order, but the lock page.
    ///
    /// # Errors
    /// When SQLite cannot read one, and [`ScanError::Ended`] when the visitor breaks.
    pub fn each(
        &self,
        mut visit: impl FnMut(u32, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), ScanError> {
        let sqlite = |source| ScanError::Sqlite { path: self.path.clone(), source };
        let lock = lock_page(self.page_bytes);
        let mut statement = self
            .connection
            .prepare("SELECT pgno, data FROM sqlite_dbpage('main')")
            .map_err(sqlite)?;
        let mut rows = statement.query([]).map_err(sqlite)?;
        while let Some(row) = rows.next().map_err(sqlite)? {
            let number: u32 = row.get(0).map_err(sqlite)?;
            if number == lock {
                continue;
            }
            let bytes = row.get_ref(1).and_then(|value| Ok(value.as_blob()?)).map_err(sqlite)?;
            if visit(number, bytes).is_break() {
                return Err(ScanError::Ended { path: self.path.clone() });
            }
        }
        Ok(())
    }

    /// Hashes all pages.
    ///
    /// # Errors
    /// As [`Scan::each`]; `go_on` is asked before each page, and [`ScanError::Memory`].
    pub fn table(&self, mut go_on: impl FnMut() -> bool) -> Result<Scanned, ScanError> {
        let mut table = Table::new(self.page_bytes);
        if table.reserve(self.pages).is_err() {
            return Err(ScanError::Memory { path: self.path.clone(), pages: self.pages });
        }
        self.each(|number, bytes| {
            table.set(number, page_hash(number, bytes));
            if go_on() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        table.resize(self.pages);
        Ok(Scanned { table, change: self.index.change })
    }
}
