//! When beats were sent: leases count from the sending of what was confirmed (R3).

use crate::time::Mono;

/// Beats remembered; at the densest pace they span two leases (see [`crate::Timing::dense_beat`]).
pub(crate) const SENT_MAX: usize = 128;

/// Sending times of the newest beats.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    times: [(u64, Mono); SENT_MAX],
}

impl Sent {
    pub(crate) fn new() -> Sent {
        Sent { times: [(0, Mono::ZERO); SENT_MAX] }
    }

    pub(crate) fn record(&mut self, n: u64, at: Mono) {
        self.times[(n % SENT_MAX as u64) as usize] = (n, at);
    }

    /// When beat `n` was sent, if that is still remembered.
    pub(crate) fn at(&self, n: u64) -> Option<Mono> {
        let (kept, at) = self.times[(n % SENT_MAX as u64) as usize];
        (n != 0 && kept == n).then_some(at)
    }
}
