//! Whether a thread keeps up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Since when a thread has not looked at what happens: it works, or hangs, on what it took up. One
/// thread says when it looks and when it sleeps; any other asks.
#[derive(Debug)]
pub(crate) struct Pulse {
    began: Instant,
    /// Microseconds from `began` until the present turn, and 1; 0 while the thread sleeps.
    turn: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { began: Instant::now(), turn: AtomicU64::new(0) }
    }
}

impl Pulse {
    /// A turn begins: the thread looks at all that happened.
    pub(crate) fn looks(&self) {
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX - 1);
        self.turn.store(micros + 1, Ordering::Release);
    }

    /// The thread waits, and whatever happens wakes it.
    pub(crate) fn sleeps(&self) {
        self.turn.store(0, Ordering::Release);
    }

    /// How long the present turn has lasted; nothing while the thread sleeps.
    pub(crate) fn late(&self) -> Duration {
        match self.turn.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            turn => self.began.elapsed().saturating_sub(Duration::from_micros(turn - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_lasts_is_late_and_a_thread_that_sleeps_is_not() {
        let pulse = Pulse::default();
        assert_eq!(pulse.late(), Duration::ZERO);
        pulse.looks();
        std::thread::sleep(Duration::from_millis(20));
        assert!(pulse.late() >= Duration::from_millis(20), "{:?}", pulse.late());
        pulse.looks();
        assert!(pulse.late() < Duration::from_millis(20), "{:?}", pulse.late());
        std::thread::sleep(Duration::from_millis(20));
        pulse.sleeps();
        assert_eq!(pulse.late(), Duration::ZERO);
    }
}
