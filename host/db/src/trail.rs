//! Where a capture stands, what comes of a look, and what can go wrong.

use std::io;
use std::path::PathBuf;

/// Up to where the WAL was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trail {
    /// The generation of the WAL. No counter: salts may jump.
    pub salt: [u8; 8],
    /// The last frame captured, always the last of a transaction; 0 before the first.
    pub frame: u32,
    /// The running checksum after it.
    pub checksum: [u32; 2],
}

/// What came of a look at the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Nothing was committed.
    Nothing,
    /// Everything that was committed is captured.
    Some,
    /// There is more; come again.
    More,
    /// What follows is not known to follow: `Changes` is empty, and only a resync helps.
    Lost(LostTrail),
}

/// Why the trail was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LostTrail {
    /// A generation began that cannot have begun.
    #[error("the WAL began anew under the pin")]
    Generation,
    /// Fewer frames than before: recovery found less than was committed.
    #[error("the WAL became shorter")]
    Shorter,
    /// The WAL-index names frames that the WAL does not have.
    #[error("the WAL ends before its index does")]
    Short,
    /// A frame or the WAL's head is not what its checksum says.
    #[error("a frame of the WAL does not follow the one before it")]
    Checksum,
    /// The last frame is not the end of a transaction.
    #[error("the WAL-index ends amid a transaction")]
    Amid,
    /// The frames are whole, and not those that the WAL-index means.
    #[error("the WAL-index and the WAL disagree about the last frame")]
    End,
    /// The pages have another size now.
    #[error("the pages of the database have another size")]
    PageSize,
    /// The database, its WAL or its WAL-index is another file now.
    #[error("the database was replaced by another file")]
    Replaced,
    /// A database followed as it is was turned to WAL.
    #[error("the database was turned to another journal mode")]
    JournalMode,
}

/// Why a database cannot be captured at this moment.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A file cannot be read or locked.
    #[error("cannot read or lock the files of {path}: {source} (is its disk in order?)")]
    File {
        /// The database.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// SQLite refuses.
    #[error("cannot read database {path}: {source}")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// SQLite's answer.
        #[source]
        source: rusqlite::Error,
    },
    /// The path leads to another file now, or the pages have another size.
    #[error("{path} is another database now: attach it anew")]
    Replaced {
        /// The database.
        path: PathBuf,
    },
    /// Somebody held a lock for too long.
    #[error(
        "database {path} is held by another program for more than {seconds} s: a checkpoint or a \
         transaction that does not end (lsof shows who has it open)"
    )]
    Busy {
        /// The database.
        path: PathBuf,
        /// How long it was tried.
        seconds: u64,
    },
}

/// What a follower did since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Trails lost.
    pub lost: u64,
    /// Pins given up so that the WAL can begin anew.
    pub unpinned: u64,
    /// Checkpoints begun.
    pub checkpoints: u64,
    /// Times that writers were held for a checkpoint or a snapshot.
    pub stalls: u64,
    /// How long altogether.
    pub stall_us_total: u64,
    /// The longest.
    pub stall_us_max: u64,
    /// Headers of writers that died, mended.
    pub mended: u64,
    /// Times that the WAL was given back to the file system.
    pub truncated: u64,
}
