//! The clock that a lease on this kernel is checked against.

use std::time::Duration;

/// Longest lease that is handed to the kernel: what is asked beyond it is cut off.
const LEASE_S_MAX: u64 = 86_400;

/// Time since boot with suspends counted, unlike the kernel timers that close the gate.
pub(crate) fn boottime() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid, writable timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    assert_eq!(result, 0, "CLOCK_BOOTTIME exists since Linux 2.6.39");
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// What of `remaining` is handed to the kernel, or `None` below the floor.
///
/// Kernel timers follow a clock that time synchronization slews by up to 8.3 %: a tenth is cut
/// off here, and nowhere else. Below [`LEASE_MS_MIN`](crate::LEASE_MS_MIN) the timeout could
/// round to zero, which nf_tables reads as "for ever".
pub(crate) fn kernel_timeout(remaining: Duration) -> Option<Duration> {
    let remaining = remaining.min(Duration::from_secs(LEASE_S_MAX));
    let cut = remaining - remaining / 10;
    (cut >= Duration::from_millis(crate::LEASE_MS_MIN)).then_some(cut)
}

/// Lifetime of an address that must be gone when `timeout` has passed: whole seconds, upwards.
pub(crate) fn lifetime_seconds(timeout: Duration) -> u32 {
    let seconds = timeout.as_secs().saturating_add(u64::from(timeout.subsec_nanos() > 0));
    u32::try_from(seconds).unwrap_or(u32::MAX - 1).clamp(1, u32::MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_cut_by_a_tenth_and_never_round_to_for_ever() {
        let cases = [(1000, Some(900)), (300, Some(270)), (23, Some(20)), (22, None), (0, None)];
        for (remaining_ms, expected_ms) in cases {
            let timeout = kernel_timeout(Duration::from_millis(remaining_ms));
            assert_eq!(timeout.map(|t| t.as_millis()), expected_ms, "{remaining_ms} ms");
        }
    }

    #[test]
    fn absurd_leases_are_cut() {
        assert_eq!(kernel_timeout(Duration::MAX), Some(Duration::from_secs(LEASE_S_MAX / 10 * 9)));
    }

    #[test]
    fn lifetimes_are_whole_seconds_upwards() {
        for (millis, seconds) in [(1, 1), (1000, 1), (1001, 2), (2700, 3), (3000, 3)] {
            assert_eq!(lifetime_seconds(Duration::from_millis(millis)), seconds, "{millis} ms");
        }
        assert_eq!(lifetime_seconds(Duration::ZERO), 1);
        assert_eq!(lifetime_seconds(Duration::MAX), u32::MAX - 1, "not the value for `forever`");
    }
}
