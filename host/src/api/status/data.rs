//! What is replicated, and whether the standby has it.

use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Whether the standby has what the primary has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alignment {
    /// It has, within the bound.
    pub aligned: bool,
    /// The bound: how long something may be missing, ms.
    pub bound_ms: u64,
    /// What hinders it, one line for each database and tree.
    pub why: Vec<String>,
    /// On an aligned primary: the standby has all that is older than this, ms.
    #[serde(skip)]
    pub lag_ms: Option<u64>,
    /// Until when it is aligned if nobody looks again; for the process that looked.
    #[serde(skip)]
    pub until: Option<Instant>,
}

impl Alignment {
    /// What is left of it at this moment, where nobody has looked again.
    pub(crate) fn at(&self, now: Instant) -> Option<Alignment> {
        let is_over = self.aligned && self.until.is_some_and(|until| until < now);
        let why = format!("the standby may lack what is older than {} ms", self.bound_ms);
        is_over.then(|| Alignment { aligned: false, why: vec![why], lag_ms: None, ..*self })
    }
}

/// One database that is replicated.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DatabaseLine {
    /// What both nodes call it.
    pub name: String,
    /// Its path on this node.
    pub path: String,
    /// opening, alone, shipping, leading, waiting, catching-up, following, diverged.
    pub state: String,
    /// The reign of the last transaction that this node has.
    pub epoch: u64,
    /// Its number within the reign.
    pub txid: u64,
    /// Transactions that the standby is known to lack.
    pub behind: Option<u64>,
    /// Since when, ms.
    pub behind_ms: u64,
    /// Bytes of pages that wait for the standby.
    pub behind_bytes: u64,
    /// Length of the database, bytes.
    pub bytes: u64,
    /// Length of its write-ahead log, bytes.
    pub wal_bytes: u64,
    /// Sum over all pages, 32 hex digits: equal on both nodes when they are at the same position.
    pub sum: Option<String>,
    /// Its commits wait for the standby.
    pub sync: bool,
    /// Trails lost since the daemon started; each healed by a comparison.
    pub lost_trails: u64,
    /// Comparisons that shipped pages, and how many pages.
    pub copies: u64,
    /// Pages that those shipped.
    pub copied_pages: u64,
    /// Times that writers waited for the daemon, and the longest.
    pub stalls: u64,
    /// The longest, microseconds.
    pub stall_us_max: u64,
    /// Seconds since all pages were last compared; none: not yet.
    pub scrubbed_s: Option<u64>,
    /// Pages that were wrong then.
    pub scrubbed_wrong: Option<u64>,
    /// What hinders it.
    pub trouble: Option<String>,
}

/// One tree of files that is replicated.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TreeLine {
    /// What both nodes call it.
    pub name: String,
    /// Its root on this node.
    pub path: String,
    /// closed, halted, alone, comparing, leading, waiting, catching, following, diverged.
    pub state: String,
    /// fanotify or inotify: how changes are noticed; empty while it is not open.
    pub source: String,
    /// The reign whose primary's tree this is.
    pub epoch: u64,
    /// Files, folders and symlinks.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Paths that the standby may not have as the primary has them.
    pub behind: Option<u64>,
    /// Age of the oldest of them, ms.
    pub behind_ms: u64,
    /// Their bytes, as far as known.
    pub behind_bytes: u64,
    /// Deletions that wait for an operator.
    pub held: u64,
    /// All of it is being walked.
    pub scanning: bool,
    /// Entries that others changed on the standby, since the daemon started.
    pub local_changes: u64,
    /// Things that were set aside because of that.
    pub set_aside: u64,
    /// Sockets, pipes, devices and mount points, which are left out.
    pub skipped: u64,
    /// What hinders it.
    pub trouble: Option<String>,
}
