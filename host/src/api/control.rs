//! What the API holds of the daemon: the last status, a queue of orders, the stream of events, the
//! journal.
//!
//! The API never reaches into the core. An order is answered by the shell with what happened, in
//! words.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::status::Status;
use crate::journal::{EventRecord, JournalHandle};

/// Orders that may wait for the shell; more are refused at once.
pub const ORDERS_QUEUED_MAX: usize = 16;
/// Events that a slow reader of `/api/v1/events` may be behind before it is told that it lost some.
pub const EVENTS_BEHIND_MAX: usize = 256;

/// Everything that the API needs of the daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Control {
    /// The last published status.
    pub status: watch::Receiver<Arc<Status>>,
    /// Where orders go.
    pub orders: mpsc::Sender<Order>,
    /// Where events come from; every reader subscribes.
    pub events: broadcast::Sender<EventRecord>,
    /// For history and decisions.
    pub journal: JournalHandle,
    /// Where archived databases are.
    pub archives: PathBuf,
}

/// The shell's ends of a [`Control`].
#[derive(Debug)]
pub struct ControlEnds {
    /// Publish a status here.
    pub status: watch::Sender<Arc<Status>>,
    /// Take orders from here.
    pub orders: mpsc::Receiver<Order>,
    /// Send events here; an error only means that nobody reads at the moment.
    pub events: broadcast::Sender<EventRecord>,
}

impl Control {
    /// Makes both ends.
    #[must_use]
    pub fn new(first: Status, journal: JournalHandle, archives: PathBuf) -> (Control, ControlEnds) {
        let (status_in, status) = watch::channel(Arc::new(first));
        let (orders, orders_out) = mpsc::channel(ORDERS_QUEUED_MAX);
        let (events, _) = broadcast::channel(EVENTS_BEHIND_MAX);
        let ends = ControlEnds { status: status_in, orders: orders_out, events: events.clone() };
        (Control { status, orders, events, journal, archives }, ends)
    }
}

/// One order of an operator, and where its answer goes.
#[derive(Debug)]
pub struct Order {
    /// What to do.
    pub kind: OrderKind,
    /// What happened, mostly a sentence for people; or why not and what to do instead.
    pub reply: oneshot::Sender<Result<serde_json::Value, OrderError>>,
}

/// What an operator can order.
#[derive(Debug, Clone, PartialEq)]
pub enum OrderKind {
    /// Hand over to the peer by plan.
    Switchover,
    /// Arm (`false`) or disarm (`true`) the takeover, durably.
    Maintenance(bool),
    /// Clear the durable cause of a fenced node.
    Clear,
    /// Start without the peer; the operator vouches that the peer does not serve.
    StartAlone,
    /// Check a policy and put it in force between two decisions.
    PolicyLoad {
        /// Which of the three.
        kind: PolicyKind,
        /// The component.
        file: PathBuf,
        /// Settings in place of those of the configuration.
        settings: Option<serde_json::Value>,
    },
    /// Compare all pages of a database, or of all, with what is known of them.
    Scrub {
        /// Its name or path.
        name: Option<String>,
    },
    /// Compare a database with the peer anew; archive and overwrite one that diverged.
    Resync {
        /// Its name or path.
        name: String,
    },
    /// Something of one tree.
    Tree {
        /// Its name.
        name: String,
        /// What.
        order: staffetta_files::Order,
    },
    /// Go back to the policy before the present one.
    PolicyRollback {
        /// Which of the three.
        kind: PolicyKind,
    },
}

/// Which of the three policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyKind {
    /// Takeover, going alone, failback.
    Failover,
    /// The license document.
    License,
    /// Who serves after two primaries met.
    SplitBrain,
}

impl PolicyKind {
    /// All of them, in the order in which they are shown.
    pub const ALL: [PolicyKind; 3] =
        [PolicyKind::Failover, PolicyKind::License, PolicyKind::SplitBrain];

    /// The word in configuration, API, and CLI.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            PolicyKind::Failover => "failover",
            PolicyKind::License => "license",
            PolicyKind::SplitBrain => "split-brain",
        }
    }
}

impl std::fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an order was not carried out, and what to do instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{error} ({remedy})")]
pub struct OrderError {
    /// What went wrong.
    pub error: String,
    /// What the operator can do.
    pub remedy: String,
}

impl OrderError {
    /// Both halves at once.
    #[must_use]
    pub fn new(error: impl Into<String>, remedy: impl Into<String>) -> OrderError {
        OrderError { error: error.into(), remedy: remedy.into() }
    }
}
