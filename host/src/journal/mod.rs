//! Every decision with all that it was made from, every change of role, every event, in one SQLite
//! file.
//!
//! Promises: a sender is never delayed, not by a slow disk and not by a full one (what does not fit
//! into the queue is counted and shown as an alarm); the file stays below its cap; a broken file is
//! moved aside, never deleted. Refuses to be needed: the daemon decides and serves without a
//! journal.

mod handle;
pub mod record;
mod store;
mod writer;

use std::path::{Path, PathBuf};

pub use handle::{Journal, JournalHandle};
pub use record::{
    DecisionRecord, EventLevel, EventRecord, HistoryLine, LinkMinute, StoredDecision,
    TransitionRecord, rfc3339, unix_ms_now,
};

/// Messages that may wait for the disk; more are dropped and counted.
pub const QUEUE_MESSAGES_MAX: usize = 256;
/// Bytes of text that may wait for the disk; more are dropped and counted.
pub const QUEUE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Rows that one query returns at most.
pub const ROWS_READ_MAX: u32 = 1000;
/// Pages that SQLite may keep in memory.
const CACHE_KIB: i64 = 512;
/// How long a failed write waits before the next attempt.
const RETRY_MS: u64 = 1000;
/// Decisions that `status` shows.
const RECENT_DECISIONS_MAX: usize = 8;
/// How long SQLite waits for another reader or writer of the file.
const BUSY_MS: u64 = 500;

/// What went wrong with the journal, and where.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// SQLite refused.
    #[error("journal {path}: cannot {action}: {source} ({remedy})")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// What an operator can do.
        remedy: &'static str,
        /// The answer.
        #[source]
        source: rusqlite::Error,
    },
    /// The folder or the file could not be handled.
    #[error("journal {path}: cannot {action}: {source} (is the folder there and writable?)")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// The answer.
        #[source]
        source: std::io::Error,
    },
}

impl JournalError {
    fn sqlite(path: &Path, action: &'static str, source: rusqlite::Error) -> JournalError {
        use rusqlite::ErrorCode as Code;
        let remedy = match source.sqlite_error_code() {
            Some(Code::DiskFull) => "free some space on that file system",
            Some(Code::DatabaseCorrupt | Code::NotADatabase) => "the file will be moved aside",
            Some(Code::ReadOnly | Code::PermissionDenied | Code::CannotOpen) => {
                "is the folder there and writable for the daemon?"
            }
            Some(Code::DatabaseBusy | Code::DatabaseLocked) => {
                "does another program hold the file?"
            }
            _ => "look at the file system's health in the kernel log",
        };
        JournalError::Sqlite { path: path.to_owned(), action, remedy, source }
    }

    /// True when the file itself is unusable and a new one must be begun.
    fn is_broken_file(&self) -> bool {
        use rusqlite::ErrorCode as Code;
        match self {
            JournalError::Sqlite { source, .. } => matches!(
                source.sqlite_error_code(),
                Some(Code::DatabaseCorrupt | Code::NotADatabase)
            ),
            JournalError::Io { .. } => false,
        }
    }

    fn is_full(&self) -> bool {
        match self {
            JournalError::Sqlite { source, .. } => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            JournalError::Io { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
        }
    }
}

#[cfg(test)]
mod tests;
