//! Instants and durations. The core never reads a clock: every instant is handed in.

use core::fmt;
use core::ops::{Add, AddAssign};

/// An instant on the node's own lease clock, in nanoseconds since an arbitrary start.
///
/// The shell feeds CLOCK_MONOTONIC_RAW plus every gap that only CLOCK_BOOTTIME saw (suspends), so
/// that leases run down while the machine sleeps (`clock_gettime(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Mono(pub u64);

/// A duration in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Span(pub u64);

impl Mono {
    /// Before every instant that a clock can show.
    pub const ZERO: Mono = Mono(0);
    /// After every instant that a clock can show.
    pub const NEVER: Mono = Mono(u64::MAX);

    /// The time since `earlier`; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Mono) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Span {
    /// No time at all.
    pub const ZERO: Span = Span(0);

    /// A duration of whole milliseconds.
    #[must_use]
    pub const fn ms(ms: u64) -> Span {
        Span(ms.saturating_mul(1_000_000))
    }

    /// Whole milliseconds, rounded down.
    #[must_use]
    pub const fn as_ms(self) -> u64 {
        self.0 / 1_000_000
    }

    /// The duration times `numerator / denominator`, rounded down; saturates.
    #[must_use]
    pub fn scaled(self, numerator: u64, denominator: u64) -> Span {
        let wide = u128::from(self.0) * u128::from(numerator) / u128::from(denominator);
        Span(u64::try_from(wide).unwrap_or(u64::MAX))
    }

    /// The duration less `other`; zero when `other` is longer.
    #[must_use]
    pub fn minus(self, other: Span) -> Span {
        Span(self.0.saturating_sub(other.0))
    }

    /// The duration taken `n` times; saturates.
    #[must_use]
    pub fn times(self, n: u64) -> Span {
        Span(self.0.saturating_mul(n))
    }
}

impl Add<Span> for Mono {
    type Output = Mono;
    fn add(self, span: Span) -> Mono {
        Mono(self.0.saturating_add(span.0))
    }
}

impl Add for Span {
    type Output = Span;
    fn add(self, other: Span) -> Span {
        Span(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Span {
    fn add_assign(&mut self, other: Span) {
        *self = *self + other;
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.0 / 1_000;
        if us.is_multiple_of(1_000) || us >= 10_000 {
            write!(f, "{} ms", us / 1_000)
        } else {
            write!(f, "{}.{:03} ms", us / 1_000, us % 1_000)
        }
    }
}
