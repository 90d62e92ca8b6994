//! What the real-time thread shows to the rest: a board that it writes without ever waiting.

use super::lateness::Lateness;
use crate::link::{About, LinkView, Rejected};
use staffetta_core::{Answerer, Mono, Span, View};
use staffetta_vip::{GateClass, Mac};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// The node at one instant.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub view: View,
    pub at: Instant,
    pub now: Mono,
    pub links: Vec<LinkView>,
    pub held: bool,
    pub class: GateClass,
    /// Why the gate is not the stronger one.
    pub gate_error: Option<String>,
    /// What the kernel refused last, until it accepts again.
    pub gate_fault: Option<String>,
    pub peer: Option<(About, Span)>,
    pub peer_license: Option<Vec<u8>>,
    pub answers: Vec<(IpAddr, Answerer, Span)>,
    /// Who claimed a service address last while this node served, and how long ago.
    pub conflict: Option<(IpAddr, Mac, Span)>,
    pub rejected: Rejected,
    /// Why the last frame that could not be read was that.
    pub last_unreadable: String,
    pub own_macs: Vec<Mac>,
    /// How late the thread came round, since the start.
    pub lateness: Lateness,
}

/// Where the newest snapshot hangs.
#[derive(Debug, Clone)]
pub(crate) struct Board {
    newest: Arc<Mutex<Option<Arc<Snapshot>>>>,
    fifo: Arc<AtomicBool>,
    changed: Arc<tokio::sync::Notify>,
    lease_ms: u64,
}

impl Board {
    pub(crate) fn new(lease_ms: u64) -> Board {
        Board { newest: Arc::default(), fifo: Arc::default(), changed: Arc::default(), lease_ms }
    }

    /// Never waits: false when a reader is just taking the old one.
    pub(crate) fn post(&self, snapshot: Snapshot) -> bool {
        let Ok(mut newest) = self.newest.try_lock() else { return false };
        let old = newest.replace(Arc::new(snapshot));
        drop(newest);
        drop(old);
        self.changed.notify_one();
        true
    }

    /// The newest snapshot; none before the first turn.
    pub(crate) fn newest(&self) -> Option<Arc<Snapshot>> {
        self.newest.lock().expect("no holder panics").clone()
    }

    /// Ends when a newer snapshot hangs.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(crate) fn set_fifo(&self, fifo: bool) {
        self.fifo.store(fifo, Ordering::Relaxed);
    }

    pub(crate) fn fifo(&self) -> bool {
        self.fifo.load(Ordering::Relaxed)
    }

    pub(crate) fn lease_ms(&self) -> u64 {
        self.lease_ms
    }
}
