//! What the rest of the daemon sees of the trees.

use crate::path::TreePath;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

/// What a tree is doing on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Not open: see the trouble.
    Closed,
    /// Its root is not what it was: nothing is read, sent or applied until an operator says so.
    Halted,
    /// This node leads it, and no standby attends.
    Alone,
    /// This node leads it; the trees of both nodes are being compared.
    Comparing,
    /// This node leads it, and the standby gets what changes.
    Leading,
    /// This node does not lead it, and no primary names it.
    Waiting,
    /// It is being brought to what the primary has, and never was there before.
    Catching,
    /// It is what the primary has, but for what is under way.
    Following,
    /// It holds what the primary may not have: a ruling is awaited.
    Diverged,
}

impl State {
    /// As the API spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Halted => "halted",
            Self::Alone => "alone",
            Self::Comparing => "comparing",
            Self::Leading => "leading",
            Self::Waiting => "waiting",
            Self::Catching => "catching",
            Self::Following => "following",
            Self::Diverged => "diverged",
        }
    }
}

/// One tree, as it was a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeStatus {
    /// The same on both nodes.
    pub name: String,
    /// Its root on this node.
    pub path: PathBuf,
    /// What it is doing.
    pub state: State,
    /// The reign whose primary's tree this is.
    pub epoch: u64,
    /// Steps that are durable on the standby, in this reign, as far as this node saw it.
    pub seq: u64,
    /// How changes are noticed: `fanotify` or `inotify`; empty while it is not open.
    pub source: &'static str,
    /// Files, folders and symlinks that the index knows.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Paths that the standby may not have as they are here; none where it is not known.
    pub behind: Option<u64>,
    /// Their bytes, as far as known.
    pub behind_bytes: u64,
    /// Since when the oldest of them waits.
    pub behind_since: Option<Instant>,
    /// Deletions that wait for an operator: paths, with all below them.
    pub held: u64,
    /// The tree is being walked: what changed while nobody looked may still be found.
    pub scanning: bool,
    /// Changes on the standby that were not the primary's, since the start.
    pub local_changes: u64,
    /// Things that were set aside in `.staffetta/conflicts` because of it, since the start.
    pub set_aside: u64,
    /// Sockets, pipes, devices and mount points, which are left out.
    pub skipped: u64,
    /// What someone should look at.
    pub trouble: Option<String>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The tree is open, and its changes are noticed by this mechanism.
    Opened(String, &'static str),
    /// It cannot be followed; tried again by itself.
    Trouble(String, String),
    /// It can again.
    Healed(String),
    /// Its root is not what it was: an operator has to look.
    Halted(String, String),
    /// So many entries would be deleted on the standby: an operator has to approve.
    Held(String, u64),
    /// The standby has all of it, after a comparison.
    Aligned(String),
    /// The kernel's queue ran over: the whole tree is walked.
    Overflow(String),
    /// So many entries here are not known to the primary; a ruling is wanted.
    Diverged(String, u64),
    /// So many entries were changed on the standby by others; one of them.
    LocalChanges(String, u64, TreePath),
    /// So many things were set aside.
    SetAside(String, u64),
}
