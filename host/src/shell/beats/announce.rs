//! When the service addresses are announced: at once in bursts, after conflicts, and now and then.

use staffetta_core::{Mono, Span};
use std::collections::VecDeque;

/// Announcements after a claim or a conflict, beside the one at once.
const BURST_MS: [u64; 7] = [20, 50, 100, 250, 500, 1_000, 2_000];
/// Announcements while nothing happens: switches and phones forget.
const REFRESH: Span = Span::ms(30_000);
/// A stranger that claims the VIP is answered at most this often (RFC 5227 §2.4).
const DEFEND_INTERVAL: Span = Span::ms(1_000);

/// Announcements that are still due.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    due: VecDeque<Mono>,
    defended: Option<Mono>,
}

impl Announcements {
    /// After the one at once, which is the caller's.
    pub(super) fn burst(&mut self, now: Mono) {
        self.due = BURST_MS.iter().map(|ms| now + Span::ms(*ms)).collect();
        self.due.push_back(now + REFRESH);
    }

    /// Somebody else claims an address: true when that is to be answered at once, and in a burst.
    pub(super) fn defend(&mut self, now: Mono) -> bool {
        if self.defended.is_some_and(|at| now.since(at) < DEFEND_INTERVAL) {
            return false;
        }
        self.defended = Some(now);
        self.burst(now);
        true
    }

    /// The addresses are no longer held.
    pub(super) fn end(&mut self) {
        self.due.clear();
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Mono> {
        self.due.front().copied()
    }

    /// Whether one is due now; a node that does not hold the addresses announces nothing more.
    pub(super) fn take(&mut self, now: Mono, held: bool) -> bool {
        if self.next().is_none_or(|at| at > now) {
            return false;
        }
        self.due.pop_front();
        if !held {
            self.end();
            return false;
        }
        if self.due.is_empty() {
            self.due.push_back(now + REFRESH);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGAN: Mono = Mono(5_000_000_000);

    /// The milliseconds after `BEGAN` at which something is announced until `end_ms`.
    fn heard(announcements: &mut Announcements, end_ms: u64) -> Vec<u64> {
        let mut heard = Vec::new();
        while let Some(at) = announcements.next().filter(|at| *at <= BEGAN + Span::ms(end_ms)) {
            assert!(announcements.take(at, true));
            heard.push(at.since(BEGAN).as_ms());
        }
        heard
    }

    #[test]
    fn a_claim_is_announced_in_a_burst_and_refreshed_for_ever() {
        let mut announcements = Announcements::default();
        assert_eq!(announcements.next(), None, "a standby announces nothing");
        announcements.burst(BEGAN);
        assert!(!announcements.take(BEGAN + Span::ms(19), true), "not due yet");
        let wanted = [20, 50, 100, 250, 500, 1_000, 2_000, 30_000, 60_000, 90_000];
        assert_eq!(heard(&mut announcements, 95_000), wanted);
        // Another move begins anew.
        announcements.burst(BEGAN);
        assert_eq!(heard(&mut announcements, 60), [20, 50]);
    }

    #[test]
    fn every_conflict_is_answered_but_no_storm_with_a_storm() {
        let mut announcements = Announcements::default();
        announcements.burst(BEGAN);
        heard(&mut announcements, 29_000);
        let claims = (29_000..32_000).step_by(100);
        let answered = claims.filter(|ms| announcements.defend(BEGAN + Span::ms(*ms)));
        assert_eq!(answered.collect::<Vec<u64>>(), [29_000, 30_000, 31_000]);
        assert_eq!(heard(&mut announcements, 31_110), [31_020, 31_050, 31_100], "a burst each");
    }

    #[test]
    fn what_is_not_held_is_not_announced() {
        let mut announcements = Announcements::default();
        announcements.burst(BEGAN);
        assert!(!announcements.take(BEGAN + Span::ms(20), false));
        assert_eq!(announcements.next(), None);
    }
}
