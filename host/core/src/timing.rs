//! The times of a pair and the inequalities between them (R4, R8, R13 of `ARCHITECTURE.md`).
//!
//! A [`Timing`] exists only if every inequality holds; no other code checks them.

use crate::lease::SENT_MAX;
use crate::time::Span;
use core::fmt;

/// Assumed bound of a clock's rate error, parts per million. CLOCK_MONOTONIC_RAW is not slewed.
pub const RATE_DRIFT_PPM: u64 = 1_000;
/// Longest time that one durable write of the epoch may take before a takeover is at risk.
pub const PERSIST_BUDGET: Span = Span::ms(20);
/// Shortest beat that the daemon's loop keeps on ordinary hardware.
pub const BEAT_MIN: Span = Span::ms(10);
/// Longest lease: beyond it a failover is no longer a failover.
pub const LEASE_MAX: Span = Span::ms(60_000);
/// Nobody outside can make this node promise, or wait, for longer than this: the longest lease and
/// slack that a configuration allows, twice.
pub const PROMISE_MAX: Span = Span::ms(120_000);

const MILLION: u64 = 1_000_000;

/// The times as configured, before they are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimingParts {
    /// h: a beat is sent at least this often. 10 ms to a third of the lease.
    pub beat: Span,
    /// L: how long one confirmed beat lets the primary serve. At most 60 s.
    pub lease: Span,
    /// D: the longest one-way delay of a link that is assumed.
    pub delay: Span,
    /// G: how long after the end of its lease the gate in force may still let an answer through.
    pub slack: Span,
    /// What all policies of one decision may take together.
    pub policy_deadline: Span,
    /// How long a booting node looks for its peer before it asks whether it may start alone.
    pub join_timeout: Span,
    /// What a stop may take before the VIP is let go regardless.
    pub stop_budget: Span,
}

/// Times that satisfy every inequality.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    parts: TimingParts,
}

/// The inequality that does not hold, with both sides in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimingError {
    /// The beat is shorter than the loop can keep.
    BeatTooShort {
        /// Configured beat, ms.
        beat_ms: u64,
        /// Smallest beat, ms.
        min_ms: u64,
    },
    /// The lease is longer than the largest one allowed.
    LeaseTooLong {
        /// Configured lease, ms.
        lease_ms: u64,
        /// Largest lease, ms.
        max_ms: u64,
    },
    /// `0.9·L·(1−ρ) ≥ 4D + 4h` fails: a primary whose peer died could not notice in time.
    LeaseTooShort {
        /// Configured lease, ms.
        lease_ms: u64,
        /// Smallest lease that these beats and delays allow, ms.
        min_ms: u64,
    },
    /// `L·(1−ρ) ≥ 3D + 3h + policy deadline + one fsync`, or `L/2 ≥ policy deadline + one fsync`,
    /// fails.
    NoRoomForDecision {
        /// Configured policy deadline, ms.
        deadline_ms: u64,
        /// Longest policy deadline that this lease allows, ms.
        max_ms: u64,
    },
    /// `join timeout ≥ (L + G)·(1+ρ) + D + 2h` fails: a booting node would ask before it has
    /// listened.
    JoinTooShort {
        /// Configured join timeout, ms.
        join_ms: u64,
        /// Smallest join timeout, ms.
        min_ms: u64,
    },
    /// The stop budget is shorter than a lease: a planned move could not finish in it.
    StopTooShort {
        /// Configured stop budget, ms.
        stop_ms: u64,
        /// Smallest stop budget, ms.
        min_ms: u64,
    },
}

impl fmt::Display for TimingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            TimingError::BeatTooShort { beat_ms, min_ms } => {
                write!(f, "beat_ms = {beat_ms} is too short: write at least {min_ms}")
            }
            TimingError::LeaseTooLong { lease_ms, max_ms } => {
                write!(f, "lease_ms = {lease_ms} is too long: write at most {max_ms}")
            }
            TimingError::LeaseTooShort { lease_ms, min_ms } => write!(
                f,
                "lease_ms = {lease_ms} is too short: 0.9 x lease must cover four beats and four \
                 link delays; write at least {min_ms}, or make beat_ms or link_delay_ms_max smaller"
            ),
            TimingError::NoRoomForDecision { deadline_ms, max_ms } => write!(
                f,
                "policy_deadline_ms = {deadline_ms} is too long: three beats and link delays, the \
                 decision and one write to disk must fit into the lease; write at most {max_ms}, \
                 or make lease_ms longer"
            ),
            TimingError::JoinTooShort { join_ms, min_ms } => write!(
                f,
                "join_timeout_ms = {join_ms} is too short: a booting node must outwait what it \
                 may have promised, and listen; write at least {min_ms}"
            ),
            TimingError::StopTooShort { stop_ms, min_ms } => write!(
                f,
                "stop_budget_ms = {stop_ms} is too short for a planned move; write at least \
                 {min_ms}"
            ),
        }
    }
}

impl core::error::Error for TimingError {}

impl Timing {
    /// Checks every inequality of a pair without an arbiter.
    ///
    /// # Errors
    /// The first inequality that fails, with the value to write instead.
    pub fn new(parts: TimingParts) -> Result<Timing, TimingError> {
        let TimingParts { beat, lease, delay, policy_deadline, join_timeout, stop_budget, .. } =
            parts;
        if beat < BEAT_MIN {
            return Err(TimingError::BeatTooShort {
                beat_ms: beat.as_ms(),
                min_ms: BEAT_MIN.as_ms(),
            });
        }
        if lease > LEASE_MAX {
            return Err(TimingError::LeaseTooLong {
                lease_ms: lease.as_ms(),
                max_ms: LEASE_MAX.as_ms(),
            });
        }
        let timing = Timing { parts };
        let notice = (delay + beat).times(4);
        if timing.granted().scaled(9, 10) < notice {
            let min = notice.scaled(10 * MILLION, 9 * (MILLION - RATE_DRIFT_PPM));
            return Err(TimingError::LeaseTooShort {
                lease_ms: lease.as_ms(),
                min_ms: min.as_ms() + 1,
            });
        }
        let before_decision = (delay + beat).times(3) + PERSIST_BUDGET;
        let half = Span(lease.0 / 2).minus(PERSIST_BUDGET);
        let room = Span(timing.granted().minus(before_decision).0.min(half.0));
        if room < policy_deadline {
            return Err(TimingError::NoRoomForDecision {
                deadline_ms: policy_deadline.as_ms(),
                max_ms: room.as_ms(),
            });
        }
        let listen = timing.promise_for(lease, parts.slack) + timing.silence();
        if join_timeout < listen {
            return Err(TimingError::JoinTooShort {
                join_ms: join_timeout.as_ms(),
                min_ms: listen.as_ms() + 1,
            });
        }
        if stop_budget < lease {
            return Err(TimingError::StopTooShort {
                stop_ms: stop_budget.as_ms(),
                min_ms: lease.as_ms(),
            });
        }
        Ok(timing)
    }

    /// The times as configured.
    #[must_use]
    pub fn parts(&self) -> &TimingParts {
        &self.parts
    }

    /// h: the beat.
    #[must_use]
    pub fn beat(&self) -> Span {
        self.parts.beat
    }

    /// Lg = L·(1−ρ): how long a confirmed beat lets the primary serve, on its own clock.
    #[must_use]
    pub fn granted(&self) -> Span {
        self.parts.lease.scaled(MILLION - RATE_DRIFT_PPM, MILLION)
    }

    /// Lp = (L + G)·(1+ρ): how long the receiver of a beat with `lease` and `slack` promises not to
    /// claim.
    #[must_use]
    pub fn promise_for(&self, lease: Span, slack: Span) -> Span {
        promise(lease + slack)
    }

    /// K = D + 2h: this much silence while awake and listening means that the peer sends nothing.
    #[must_use]
    pub fn silence(&self) -> Span {
        self.parts.delay + self.parts.beat.times(2)
    }

    /// Lself = Lg − D − 2h: how long a beat that nobody confirms lets a primary serve alone (R13).
    #[must_use]
    pub fn self_granted(&self) -> Span {
        self.granted().minus(self.silence())
    }

    /// The longest answer of an arbiter that can still carry a primary alone: it must come between
    /// the question and the end of the lease, and from then on a third of a lease before each end.
    #[must_use]
    pub fn arbiter_latency_max(&self) -> Span {
        let first = self.granted().minus(self.silence() + self.parts.policy_deadline);
        Span(first.0.min(self.granted().scaled(3, 5).0))
    }

    /// Interval of beats while echoes are missing and the lease runs low: so dense, and so sparse
    /// that the beats which are remembered span two leases.
    #[must_use]
    pub fn dense_beat(&self) -> Span {
        let remembered = self.parts.lease.0 / (SENT_MAX as u64 / 2);
        Span((self.parts.beat.0 / 6).max(Span::ms(5).0).max(remembered))
    }

    /// A loop that comes round this much late has stalled (half a beat).
    #[must_use]
    pub fn stall(&self) -> Span {
        Span(self.parts.beat.0 / 2)
    }
}

/// `(lease and slack)·(1+ρ)` on the promiser's own clock.
pub(crate) fn promise(lease_and_slack: Span) -> Span {
    lease_and_slack.scaled(MILLION + RATE_DRIFT_PPM, MILLION)
}

#[cfg(test)]
#[path = "timing_tests.rs"]
mod tests;
