//! The lease clock: CLOCK_MONOTONIC_RAW, which nothing slews, plus every gap that only
//! CLOCK_BOOTTIME saw (`clock_gettime(2)`), so that leases run down while the machine is suspended.

use staffetta_core::{Mono, Span};

/// Reading the two clocks one after the other differs by less; a suspend takes longer.
const SUSPEND_MIN: Span = Span::ms(2);

/// Reads the lease clock. One thread owns it.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    suspended: u64,
    last: u64,
}

impl Clock {
    /// Now; never before the last answer.
    pub(crate) fn now(&mut self) -> Mono {
        let asleep = read(libc::CLOCK_BOOTTIME).saturating_sub(read(libc::CLOCK_MONOTONIC));
        if asleep > self.suspended + SUSPEND_MIN.0 {
            self.suspended = asleep;
        }
        self.last = self.last.max(read(libc::CLOCK_MONOTONIC_RAW) + self.suspended);
        Mono(self.last)
    }
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that the call fills.
    let status = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(status, 0, "clock {clock} is missing");
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_goes_back_and_keeps_the_rate() {
        let mut clock = Clock::default();
        let start = clock.now();
        let mut last = start;
        for _ in 0..10_000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        let passed = clock.now().since(start);
        assert!(passed >= Span::ms(19), "{passed}");
    }
}
