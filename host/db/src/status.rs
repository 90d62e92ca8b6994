//! What the rest of the daemon sees of the databases.

use crate::ledger::Kinship;
use crate::wire::Position;
use std::path::PathBuf;
use std::time::Instant;

/// One database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseStatus {
    /// What both nodes call it.
    pub name: String,
    /// Its path on this node.
    pub path: PathBuf,
    /// Where it stands.
    pub state: State,
    /// The last transaction that this node has; none where that is not known yet.
    pub position: Option<Position>,
    /// The last transaction that the primary is known to have.
    pub head: Option<Position>,
    /// Transactions that the standby is known to lack.
    pub behind: Option<u64>,
    /// Since when; on the primary.
    pub behind_since: Option<Instant>,
    /// Bytes of pages that wait for the standby; on the primary.
    pub behind_bytes: u64,
    /// Pages.
    pub pages: u32,
    /// Bytes of a page.
    pub page_bytes: u32,
    /// Bytes of its write-ahead log.
    pub wal_bytes: u64,
    /// Sum over all pages, where it is known at this moment.
    pub sum: Option<u128>,
    /// Its commits wait for the standby.
    pub sync: bool,
    /// What was counted since the daemon started.
    pub counters: DatabaseCounters,
    /// What hinders it.
    pub trouble: Option<String>,
    /// Seconds since the last comparison of all pages, and the pages that were wrong.
    pub scrubbed: Option<(u64, usize)>,
}

/// Where a database stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is being opened or read; nothing can be said.
    Opening,
    /// This node writes it; nobody attends.
    Alone,
    /// This node writes it; the standby is brought to it.
    Shipping,
    /// This node writes it; the standby follows.
    Leading,
    /// This node has a copy; no primary has named it.
    Waiting,
    /// This node's copy is being brought to the primary's.
    Catching,
    /// This node's copy follows.
    Following,
    /// This node's copy holds something that the primary may lack.
    Diverged,
}

impl State {
    /// The word for people and scripts.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            State::Opening => "opening",
            State::Alone => "alone",
            State::Shipping => "shipping",
            State::Leading => "leading",
            State::Waiting => "waiting",
            State::Catching => "catching-up",
            State::Following => "following",
            State::Diverged => "diverged",
        }
    }
}

/// Counts since the daemon started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DatabaseCounters {
    /// Trails lost; each healed by reading everything again.
    pub lost: u64,
    /// Copies made by comparing tables.
    pub copies: u64,
    /// Pages that those brought.
    pub copied_pages: u64,
    /// Times that writers waited for the daemon.
    pub stalls: u64,
    /// The longest, microseconds.
    pub stall_us_max: u64,
    /// Copies archived before they were overwritten.
    pub archived: u64,
}

/// Something that an operator may want to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A database is replicated from now on.
    Found(PathBuf),
    /// Its file is gone from this node; a copy on the peer stays.
    Vanished(PathBuf),
    /// Its path leads to another file: it is compared anew.
    Replaced(PathBuf),
    /// It cannot be followed or applied; tried again.
    Trouble(PathBuf, String),
    /// It can again.
    Healed(PathBuf),
    /// The trail was lost, and why; everything is read again.
    LostTrail(PathBuf, String),
    /// The standby's copy was brought to the primary's: pages shipped, of so many.
    Copied(PathBuf, u64, u32),
    /// This node takes over a database: how many transactions of the last primary are known to be
    /// missing; none where that is not known.
    Missing(PathBuf, Option<u64>),
    /// This node's copy holds something that the primary may lack. Ask for the ruling.
    Diverged(PathBuf, Kinship),
    /// It was archived before it was overwritten.
    Archived(PathBuf, PathBuf),
    /// Pages were not what they should be; it is healed by a comparison.
    Scrubbed(PathBuf, usize),
    /// Synchronous commits wait for a standby that does not answer: say so before they go on.
    Desynced(String),
    /// The standby has everything again.
    Synced,
    /// Commits of a synchronous database were answered without the standby.
    Degraded(u64),
}
