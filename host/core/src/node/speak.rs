//! What this node says, when, and when it wants to run again.

use super::Node;
use crate::beat::{Beat, Claim, Hand, Meeting, PeerRole};
use crate::effect::Effect;
use crate::epoch::Epoch;
use crate::event::Answerer;
use crate::register::Standing;
use crate::state::{Role, Shipping, State};
use crate::time::{Mono, Span};
use crate::timing::promise;
use alloc::vec::Vec;

/// Rounds without an answer after which nobody answers on the VIP.
pub(super) const PROBE_ROUNDS: u8 = 3;

impl Node {
    /// The highest epoch that this node will know after a crash. One that is still to be written is
    /// not told: the peer would go above it (R11), and this node, after a crash, below that.
    fn says_highest(&self) -> Epoch {
        self.want.highest.min(self.disk.highest.max(self.disk.reserved))
    }

    /// Sends one beat; an alone primary renews its own lease by it (R13).
    pub(super) fn speak(&mut self, fx: &mut Vec<Effect>) {
        if self.state == State::Stopped || self.mute() {
            self.next_beat = self.now + self.timing().beat();
            return;
        }
        let (silent, own) = (self.silent(), self.now + self.timing().self_granted());
        let arbitrated = self.options.arbiter;
        if let Some(reign) = self.state.reign_mut()
            && reign.alone
            && silent
            && !arbitrated
            && own > reign.own_until
        {
            let before = reign.until();
            reign.own_until = own;
            if reign.until() > before {
                fx.push(Effect::Renew { until: reign.until() });
            }
        }
        if matches!(self.state, State::HandedOver { .. }) {
            self.note_hand_promise();
        }
        self.n += 1;
        self.sent.record(self.n, self.now);
        self.next_beat = self.now + self.pace();
        let beat = self.beat();
        if beat.hand.is_some() {
            self.promise = self.promise.max(self.now + promise(self.hand_promise()));
        }
        fx.push(Effect::Send(beat));
    }

    /// Says nothing while a grant is owed that the disk has not taken yet: a primary that hears its
    /// peer, but no grant, may not go on alone. A booting node listens first, so that its first
    /// word can be the grant.
    fn mute(&self) -> bool {
        let may_grant = self.state.idle() || matches!(self.state, State::Fenced(_));
        let listens = self.state == State::Joining
            && self.now.since(self.started) < self.timing().silence()
            && self.peer.is_none();
        may_grant && (self.owed.is_some() || listens)
    }

    fn beat(&self) -> Beat {
        let (claim, hand, reserve) = match self.state {
            State::Electing { epoch, asked: true, .. } => {
                (Claim::Candidate(epoch), None, Epoch::NONE)
            }
            State::Primary(reign) => (Claim::Primary(reign.epoch), None, Epoch::NONE),
            State::Draining { reign, to, .. } => (Claim::Primary(reign.epoch), None, to),
            State::HandedOver { epoch, .. } if self.may_hand() => {
                (Claim::None, self.hand(epoch), Epoch::NONE)
            }
            State::Joining
            | State::Standby
            | State::Electing { .. }
            | State::Claiming { .. }
            | State::Accepting { .. }
            | State::Closing(_)
            | State::HandedOver { .. }
            | State::Fenced(_)
            | State::Stopped => (Claim::None, None, Epoch::NONE),
        };
        Beat {
            boot: self.boot,
            n: self.n,
            role: PeerRole::from(self.state.role()),
            claim,
            highest: self.says_highest(),
            lease: self.timing().parts().lease,
            slack: self.slack,
            echo: self.echo,
            hand,
            reserve,
            reserved: self.disk.reserved,
            met: self.fresh_meeting(),
            eligible: self.eligible(),
            maintenance: self.want.maintenance,
            arbiter: self.standing(self.now).map(|standing| standing == Standing::Ready),
            synced: self.says_synced(),
            stale: self.says_stale(),
        }
    }

    /// Told for long enough that both nodes know it and each other's part before they ask.
    fn fresh_meeting(&self) -> Option<Meeting> {
        let told = self.timing().parts().lease.times(4);
        self.met.filter(|met| self.now.since(met.at) < told).map(|met| met.meeting)
    }

    fn hand(&self, epoch: Epoch) -> Option<Hand> {
        self.peer.map(|peer| Hand { epoch, boot: peer.beat.boot, n: peer.beat.n })
    }

    /// Beats get denser while an answer is awaited: a lossy link must not look like a dead peer.
    fn pace(&self) -> Span {
        let timing = self.timing();
        let dense = match &self.state {
            State::Electing { .. } | State::HandedOver { .. } | State::Accepting { .. } => true,
            State::Primary(reign) | State::Draining { reign, .. } => {
                let fresh = timing.granted().minus(timing.beat().scaled(6, 5));
                reign.peer_until > self.now && reign.peer_until.since(self.now) < fresh
            }
            State::Joining
            | State::Standby
            | State::Claiming { .. }
            | State::Closing(_)
            | State::Fenced(_)
            | State::Stopped => false,
        };
        // Whoever answers a primary's beats does not speak up just before the next one comes.
        let answers = self.state == State::Standby && self.promise > self.now;
        match (dense, answers) {
            (true, _) => timing.dense_beat(),
            (false, true) => timing.beat().scaled(6, 5),
            (false, false) => timing.beat(),
        }
    }

    /// The standby probes the VIP in the last part of its promise and while it waits for it to fall
    /// silent.
    pub(super) fn probe_vip(&mut self, fx: &mut Vec<Effect>) -> bool {
        let due = self.unserved()
            && self.probe_from().is_some_and(|from| self.now >= from)
            && self.now >= self.probe.next;
        if !due {
            return false;
        }
        if self.now.since(self.probe.round) > self.timing().parts().lease {
            // A new search: what was heard before it, such as the primary's own announcements, says
            // nothing.
            self.probe.rounds_unanswered = 0;
            self.probe.answer = Answerer::NotProbed;
        }
        self.probe.round = self.now;
        self.probe.rounds_unanswered = self.probe.rounds_unanswered.saturating_add(1);
        if self.probe.rounds_unanswered >= PROBE_ROUNDS {
            self.probe.at = self.now;
        }
        let step = if self.now < self.promise {
            self.slack.scaled(1, 5).max(Span::ms(1))
        } else {
            self.timing().beat()
        };
        self.probe.next = self.now + step;
        fx.push(Effect::Probe);
        true
    }

    /// A standby probes in the last part of its promise, a booting node before it asks whether it
    /// may start.
    fn probe_from(&self) -> Option<Mono> {
        let promised = Mono(self.promise.0.saturating_sub(self.slack.scaled(3, 5).0));
        match self.state.role() {
            Role::Standby => Some(promised),
            Role::Joining => {
                let timing = self.timing();
                let asks = self.since + timing.parts().join_timeout;
                let rounds = timing.beat().times(u64::from(PROBE_ROUNDS) + 1);
                Some(promised.max(Mono(asks.0.saturating_sub(rounds.0))))
            }
            Role::Candidate | Role::Primary | Role::Draining | Role::Fenced => None,
        }
    }

    /// When the node wants to run again at the latest; `None` once it has stopped.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        if self.state == State::Stopped {
            return None;
        }
        let mut due = self.next_beat;
        let mut at = |candidate: Mono| {
            if candidate > self.now {
                due = due.min(candidate);
            }
        };
        at(self.promise);
        at(self.silent_since() + self.timing().silence());
        at(self.ask_again);
        if self.order.is_some() {
            at(self.order_by);
        }
        at(self.review);
        if let Some(pending) = self.pending {
            at(pending.deadline);
        }
        if self.want != self.disk {
            at(self.write_again);
        }
        if let Some(met) = self.met {
            at(met.at + self.timing().parts().lease);
        }
        self.arbiter_deadline(&mut at);
        match &self.state {
            State::Joining => {
                at(self.elect_again);
                at(self.probe.next);
                at(self.probe_from().unwrap_or(Mono::NEVER));
                at(self.since + self.timing().parts().join_timeout);
            }
            State::Standby => {
                at(self.elect_again);
                at(self.probe.next);
                at(self.probe_from().unwrap_or(Mono::NEVER));
            }
            State::Electing { until, .. }
            | State::Claiming { until, .. }
            | State::Accepting { until, .. } => at(*until),
            State::Primary(reign) => {
                at(reign.until());
                at(self.alone_question(reign));
            }
            State::Draining { reign, patience, shipping, .. } => {
                at(reign.until());
                at(*patience);
                at(self.alone_question(reign));
                if let Shipping::UnderWay { until } = shipping {
                    at(*until);
                }
            }
            State::HandedOver { give_up, .. } => at(*give_up),
            State::Closing(_) => at(self.closed_by),
            State::Fenced(_) | State::Stopped => {}
        }
        Some(due)
    }
}
