//! What can go wrong while applying.

use std::io;
use std::path::{Path, PathBuf};

use crate::fence::FenceError;
use crate::scan::ScanError;

/// Why a page or a transaction was not applied. The copy is as it was, and no transaction is open.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// SQLite refuses.
    #[error("cannot apply to {path}: {source}")]
    Sqlite {
        /// The copy.
        path: PathBuf,
        /// SQLite's answer.
        #[source]
        source: rusqlite::Error,
    },
    /// No room on the disk.
    #[error("cannot apply to {path}: the disk is full (make room; it is retried)")]
    DiskFull {
        /// The copy.
        path: PathBuf,
    },
    /// The WAL-index cannot be read.
    #[error("cannot read the WAL-index of {path}: {source}")]
    Index {
        /// The copy.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// It was not taken, or not kept.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// The copy cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The fence is down.
    #[error("{path} is not fenced: nothing is applied (open the replica anew)")]
    NotFenced {
        /// The copy.
        path: PathBuf,
    },
    /// Somebody else wrote.
    #[error("somebody else wrote to {path}: its copy has diverged, and is scanned anew")]
    Foreign {
        /// The copy.
        path: PathBuf,
    },
    /// Nobody knows what the copy holds.
    #[error("the pages of {path} are not known: scan it first")]
    NoTable {
        /// The copy.
        path: PathBuf,
    },
    /// The result is not the primary's.
    #[error(
        "the transaction for {path} gives sum {found:032x} instead of {expected:032x}: it was \
         undone (compare the tables)"
    )]
    Sum {
        /// The copy.
        path: PathBuf,
        /// What the primary said.
        expected: u128,
        /// What the pages gave.
        found: u128,
    },
    /// A page, or the database it belongs to, has another size: that is a new database.
    #[error("a page for {path} has {found} bytes instead of {expected}: create the copy anew")]
    PageSize {
        /// The copy.
        path: PathBuf,
        /// Bytes of a page of the copy.
        expected: u32,
        /// Bytes of the page that came.
        found: usize,
    },
    /// A page that the transaction cannot contain.
    #[error(
        "page {number} for {path} is not one of {pages_total} (is the peer's version another?)"
    )]
    PageNumber {
        /// The copy.
        path: PathBuf,
        /// The page's number.
        number: u32,
        /// Pages after the transaction.
        pages_total: u32,
    },
    /// A number of pages that no database has.
    #[error("{path} cannot have {pages_total} pages (is the peer's version another?)")]
    PageCount {
        /// The copy.
        path: PathBuf,
        /// Pages after the transaction.
        pages_total: u32,
    },
    /// Too little memory for the hashes.
    #[error("no memory for the hashes of {pages_total} pages of {path}")]
    Memory {
        /// The copy.
        path: PathBuf,
        /// Pages after the transaction.
        pages_total: u32,
    },
    /// Pages are missing.
    #[error("the transaction for {path} adds {missing} pages without content: it was undone")]
    Gaps {
        /// The copy.
        path: PathBuf,
        /// How many.
        missing: usize,
    },
    /// The caller began twice, or wrote outside of a transaction.
    #[error("{path}: {wrong}; what was open was undone")]
    Order {
        /// The copy.
        path: PathBuf,
        /// What was wrong.
        wrong: &'static str,
    },
}

/// Names the full disk.
pub(super) fn sqlite_error(path: &Path, source: rusqlite::Error) -> ApplyError {
    match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => ApplyError::DiskFull { path: path.to_owned() },
        _ => ApplyError::Sqlite { path: path.to_owned(), source },
    }
}
