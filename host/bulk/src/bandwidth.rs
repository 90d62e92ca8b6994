//! The bandwidth cap of a node: one token bucket (RFC 2697's, with one color) for all its streams.
//!
//! Counted are bytes of TLS, as they go to the kernel. Small frames may borrow, so that an
//! acknowledgement does not wait behind a file; what they borrow the large ones pay back.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::BORROW_BYTES_MAX;

/// A full record of TLS 1.3: 16 KiB, header, type and tag (RFC 8446 §5).
const RECORD_BYTES: f64 = (16 * 1024 + 22) as f64;
/// What may go at once after a pause, as time.
const BURST_S: f64 = 0.05;
/// Shortest wait: below what `poll` can tell.
const WAIT_S_MIN: f64 = 0.0005;
/// Longest wait before the bucket is asked again: another stream may have given something back.
const HOLD_MS_MAX: u64 = 200;

/// A cap on what this node sends, shared by its streams. Cheap to clone; a clone is the same cap.
#[derive(Debug, Clone, Default)]
pub struct Bandwidth(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Bytes a second; none: no cap.
    rate: Option<NonZeroU64>,
    bucket: Mutex<Bucket>,
}

#[derive(Debug, Default)]
struct Bucket {
    /// Negative: borrowed.
    tokens: f64,
    /// When they were counted; none before the first time.
    at: Option<Instant>,
}

/// What the bucket says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grant {
    /// There is no cap.
    Free,
    /// So many bytes may go now.
    Bytes(usize),
    /// Nothing goes before this moment.
    At(Instant),
}

impl Bandwidth {
    /// A cap in bytes a second; `None`: none.
    #[must_use]
    pub fn new(bytes_per_s: Option<NonZeroU64>) -> Self {
        Self(Arc::new(Shared { rate: bytes_per_s, bucket: Mutex::default() }))
    }

    /// Asks for `wanted` bytes (at least one); `small` ones may borrow.
    pub(crate) fn take(&self, wanted: usize, small: bool, now: Instant) -> Grant {
        let Some(rate) = self.0.rate else { return Grant::Free };
        let rate = rate.get() as f64;
        let burst = (rate * BURST_S).max(RECORD_BYTES);
        let mut bucket = self.0.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = bucket.at.map(|at| now.saturating_duration_since(at).as_secs_f64());
        bucket.tokens = passed.map_or(burst, |s| (bucket.tokens + s * rate).min(burst));
        bucket.at = Some(now);
        let wanted_tokens = wanted as f64;
        // Not less than a record, or a quarter of a burst: else the loop would wake for crumbs.
        let least = wanted_tokens.min((burst / 4.0).max(RECORD_BYTES));
        if bucket.tokens >= least {
            let bytes = wanted.min(bucket.tokens as usize).max(1);
            bucket.tokens -= bytes as f64;
            return Grant::Bytes(bytes);
        }
        if small && bucket.tokens - wanted_tokens >= -(BORROW_BYTES_MAX as f64) {
            bucket.tokens -= wanted_tokens;
            return Grant::Bytes(wanted);
        }
        let floor = if small { wanted_tokens - BORROW_BYTES_MAX as f64 } else { least };
        let wait_s = ((floor - bucket.tokens) / rate).clamp(WAIT_S_MIN, 1.0);
        let wait = Duration::from_secs_f64(wait_s);
        Grant::At(now + wait.min(Duration::from_millis(HOLD_MS_MAX)))
    }

    /// Puts back what the kernel did not take.
    pub(crate) fn give_back(&self, bytes: usize) {
        let mut bucket = self.0.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.tokens += bytes as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn capped(bytes_per_s: u64) -> Bandwidth {
        Bandwidth::new(NonZeroU64::new(bytes_per_s))
    }

    /// Takes as much as it gets until `end`; bytes.
    fn drain(bandwidth: &Bandwidth, wanted: usize, small: bool, from: Instant, ms: u64) -> u64 {
        let (mut now, mut sum) = (from, 0);
        while now < from + Duration::from_millis(ms) {
            match bandwidth.take(wanted, small, now) {
                Grant::Bytes(bytes) => sum += bytes as u64,
                Grant::At(at) => {
                    assert!(at > now && at <= now + Duration::from_millis(HOLD_MS_MAX));
                    now = at;
                }
                Grant::Free => panic!("there is a cap"),
            }
        }
        sum
    }

    #[test]
    fn the_rate_holds_whatever_the_sizes_are() {
        for rate in [50_000, MIB, 100 * MIB] {
            for (wanted, small) in [(1 << 20, false), (100_000, false), (3_000, true)] {
                let sum = drain(&capped(rate), wanted, small, Instant::now(), 10_000) as f64;
                let most = rate as f64 * 10.05 + RECORD_BYTES + BORROW_BYTES_MAX as f64;
                assert!(sum >= rate as f64 * 9.7 && sum <= most, "{rate} {wanted}: {sum}");
            }
        }
    }

    #[test]
    fn a_pause_saves_no_more_than_a_burst() {
        let (bandwidth, start) = (capped(MIB), Instant::now());
        drain(&bandwidth, 1 << 20, false, start, 100);
        let later = start + Duration::from_secs(3_600);
        let Grant::Bytes(bytes) = bandwidth.take(1 << 20, false, later) else { panic!("a burst") };
        assert_eq!(bytes, (MIB as f64 * BURST_S) as usize);
    }

    #[test]
    fn small_frames_borrow_and_large_ones_pay() {
        let (bandwidth, now) = (capped(MIB), Instant::now());
        while let Grant::Bytes(_) = bandwidth.take(1 << 20, false, now) {}
        let mut borrowed = 0;
        while let Grant::Bytes(bytes) = bandwidth.take(4_000, true, now) {
            borrowed += bytes;
        }
        assert!(
            (BORROW_BYTES_MAX - 4_000..=BORROW_BYTES_MAX + RECORD_BYTES as usize)
                .contains(&borrowed)
        );
        let later = now + Duration::from_millis(50);
        assert!(matches!(bandwidth.take(1 << 20, false, later), Grant::At(_)), "not paid yet");
    }

    #[test]
    fn what_the_kernel_did_not_take_is_given_back() {
        let (bandwidth, now) = (capped(MIB), Instant::now());
        let Grant::Bytes(bytes) = bandwidth.take(1 << 20, false, now) else { panic!("a burst") };
        bandwidth.give_back(bytes);
        assert_eq!(bandwidth.take(1 << 20, false, now), Grant::Bytes(bytes));
    }

    #[test]
    fn a_clone_is_the_same_cap() {
        let (bandwidth, now) = (capped(1_000), Instant::now());
        while let Grant::Bytes(_) = bandwidth.clone().take(1 << 20, false, now) {}
        assert!(matches!(bandwidth.take(1 << 20, false, now), Grant::At(_)));
        assert_eq!(Bandwidth::new(None).take(1 << 20, false, now), Grant::Free);
    }
}
