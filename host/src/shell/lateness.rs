//! How late the beat thread comes round: a histogram of its own scheduling stalls.
//!
//! Of fixed size and without a lock: the real-time thread alone counts, others get copies. What
//! happened within a span of time is the difference of two copies.

use crate::api::status::StallStatus;
use staffetta_core::{Mono, Span};

/// Each power of two is counted in this many steps, so that a value is known to an eighth.
const STEPS: u64 = 8;
const STEPS_BITS: u32 = STEPS.trailing_zeros();
/// The last power of two: whatever is later than 67 s counts as 67 s.
const POWER_MAX: u32 = 25;
const BUCKETS: usize = ((POWER_MAX - STEPS_BITS + 2) as usize) * STEPS as usize;

/// Counts of wake-ups by their lateness in microseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lateness {
    counts: [u64; BUCKETS],
    max_us: u64,
}

impl Default for Lateness {
    fn default() -> Lateness {
        Lateness { counts: [0; BUCKETS], max_us: 0 }
    }
}

impl Lateness {
    /// The thread wanted to run at `due` and runs at `now`. Woken earlier, by a frame or by mail,
    /// it was not late for anything.
    pub(crate) fn woke(&mut self, due: Mono, now: Mono) {
        if now >= due {
            self.count(now.since(due));
        }
    }

    fn count(&mut self, late: Span) {
        let us = late.0 / 1_000;
        self.max_us = self.max_us.max(us);
        self.counts[bucket(us)] += 1;
    }

    /// What was counted since `earlier`, an older copy of the same histogram. The longest one is
    /// then known to an eighth only.
    pub(crate) fn since(&self, earlier: &Lateness) -> Lateness {
        let mut counts = self.counts;
        for (count, before) in counts.iter_mut().zip(&earlier.counts) {
            *count = count.saturating_sub(*before);
        }
        let last = counts.iter().rposition(|count| *count > 0);
        Lateness { counts, max_us: last.map_or(0, longest_in).min(self.max_us) }
    }

    /// Numbers for people, in microseconds.
    pub(crate) fn summary(&self) -> StallStatus {
        StallStatus {
            count: self.counts.iter().sum(),
            p50_us: self.quantile(500),
            p99_us: self.quantile(990),
            p999_us: self.quantile(999),
            max_us: self.max_us,
        }
    }

    /// The lateness that `permille` of the wake-ups did not exceed, µs, rounded up to its step; 0
    /// when nothing was counted.
    fn quantile(&self, permille: u64) -> u64 {
        let all: u64 = self.counts.iter().sum();
        let rank = (u128::from(all) * u128::from(permille)).div_ceil(1_000);
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank && seen > 0 {
                return longest_in(at).min(self.max_us);
            }
        }
        0
    }
}

/// Log-linear: below [`STEPS`] each microsecond has its own, above each power of two has as many.
fn bucket(us: u64) -> usize {
    let us = us.min((1 << (POWER_MAX + 1)) - 1);
    if us < STEPS {
        return us as usize;
    }
    let shift = us.ilog2() - STEPS_BITS;
    (u64::from(shift) * STEPS + (us >> shift)) as usize
}

/// The longest lateness that bucket `at` counts, µs.
fn longest_in(at: usize) -> u64 {
    let at = at as u64;
    if at < STEPS {
        return at;
    }
    let shift = at / STEPS - 1;
    ((STEPS + at % STEPS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values_us: impl IntoIterator<Item = u64>) -> Lateness {
        let mut all = Lateness::default();
        for us in values_us {
            all.count(Span(us * 1_000));
        }
        all
    }

    #[test]
    fn every_value_has_a_bucket_that_is_not_much_wider() {
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        for us in (0..5_000).chain((12..26).map(|power| 1 << power)).chain([67_108_863]) {
            let at = bucket(us);
            let longest = longest_in(at);
            assert!(longest >= us && longest <= us + us / 8, "{us} µs is in one up to {longest}");
            assert!(at == 0 || longest_in(at - 1) < us, "{us} µs belongs into an earlier one");
        }
        assert!((1..BUCKETS).all(|at| longest_in(at) > longest_in(at - 1)));
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let none = Lateness::default().summary();
        assert_eq!((none.count, none.p50_us, none.p999_us, none.max_us), (0, 0, 0, 0));
        // 998 of 60 µs, one of 3 ms, one of 90 ms.
        let some = of([60; 998].into_iter().chain([3_000, 90_000])).summary();
        assert_eq!((some.count, some.max_us), (1_000, 90_000));
        assert!((60..=67).contains(&some.p50_us) && some.p99_us == some.p50_us, "{some:?}");
        assert!((3_000..3_400).contains(&some.p999_us), "{some:?}");
        let one = of([90_000]).summary();
        assert_eq!((one.p50_us, one.p999_us), (90_000, 90_000), "never above the longest");
    }

    #[test]
    fn a_window_is_the_difference_of_two_copies() {
        let mut all = of([70_000, 50, 50]);
        let before = all.clone();
        assert_eq!(all.since(&before).summary(), Lateness::default().summary());
        all.count(Span::ms(2));
        let window = all.since(&before).summary();
        assert_eq!(window.count, 1);
        assert!((2_000..2_250).contains(&window.max_us), "{window:?}");
        assert_eq!(all.summary().max_us, 70_000);
    }

    #[test]
    fn only_who_is_due_is_late() {
        let mut all = Lateness::default();
        all.woke(Mono(5_000_000), Mono(4_000_000));
        all.woke(Mono::NEVER, Mono(4_000_000));
        assert_eq!(all.summary().count, 0);
        all.woke(Mono(5_000_000), Mono(5_007_000));
        assert_eq!((all.summary().count, all.summary().max_us), (1, 7));
    }
}
