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

/// A file that was named as a journal and is none that can be read here.
#[derive(Debug, thiserror::Error)]
pub enum NotReadable {
    /// Something else.
    #[error("{path} is not a journal of Staffetta (a node's is journal.db in its state folder)")]
    NotAJournal {
        /// The file.
        path: PathBuf,
    },
    /// A journal of another version.
    #[error(
        "{path} is a journal of layout {layout}, this version reads {known}: let a daemon of this \
         version open it once, or use the version that wrote it"
    )]
    OtherLayout {
        /// The file.
        path: PathBuf,
        /// Its layout.
        layout: i64,
        /// What is read here.
        known: i64,
    },
    /// SQLite refused.
    #[error(transparent)]
    Journal(#[from] JournalError),
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

/// The newest `limit` decisions of a journal file, oldest first; no daemon is needed.
///
/// # Errors
/// When the file is not a journal of this version.
pub fn read_decisions(file: &Path, limit: u32) -> Result<Vec<StoredDecision>, NotReadable> {
    of_this_version(file)?;
    let mut all = store::read(file, |db| {
        let mut all: Vec<StoredDecision> = Vec::new();
        loop {
            let left = limit.saturating_sub(u32::try_from(all.len()).unwrap_or(u32::MAX));
            let before = all.last().map_or(i64::MAX, |decision| decision.id);
            let page = store::decisions_before(db, before, left)?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    })?;
    all.reverse();
    Ok(all)
}

/// One decision of a journal file; no daemon is needed.
///
/// # Errors
/// When the file is not a journal of this version.
pub fn read_decision(file: &Path, id: i64) -> Result<Option<StoredDecision>, NotReadable> {
    of_this_version(file)?;
    Ok(store::read(file, |db| store::decision_by_id(db, id))?.into_iter().next())
}

fn of_this_version(file: &Path) -> Result<(), NotReadable> {
    let path = file.to_owned();
    match store::read(file, |db| Ok(vec![store::layout(db)?])) {
        Ok(found) => match found.first() {
            Some(&layout) if layout == store::LAYOUT => Ok(()),
            Some(&layout) if layout > 0 => {
                Err(NotReadable::OtherLayout { path, layout, known: store::LAYOUT })
            }
            Some(_) | None => Err(NotReadable::NotAJournal { path }),
        },
        Err(error) if error.is_broken_file() => Err(NotReadable::NotAJournal { path }),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
