//! What a beat of the peer changes: grants, leases, handovers, meetings of two primaries.

use super::{Met, Node, Owed, Peer};
use crate::beat::{Beat, Claim, Echo, Meeting, PeerRole};
use crate::effect::{Alarm, Effect, Note, Why};
use crate::epoch::Epoch;
use crate::event::Order;
use crate::state::{After, Next, Reign, State};
use crate::time::{Mono, Span};
use crate::timing::promise;
use alloc::vec::Vec;

impl Node {
    pub(super) fn hear(&mut self, beat: Beat, fx: &mut Vec<Effect>) {
        let known = self.peer.filter(|peer| peer.beat.boot == beat.boot);
        if let Some(peer) = &mut self.peer
            && known.is_some_and(|known| known.beat.n >= beat.n)
        {
            peer.heard = self.now;
            return;
        }
        if known.is_none() {
            self.owed = None;
            if self.peer.is_some() {
                fx.push(Effect::Note(Note::PeerBoot(beat.boot)));
            }
        }
        let mut peer = Peer {
            beat,
            heard: self.now,
            echoed: known.and_then(|known| known.echoed),
            // Whoever claims, accepts a hand or reigns raises its highest epoch first: equal ones
            // say that it did none of it, also while nothing was heard.
            idle_since: known
                .filter(|known| known.idle() && known.beat.highest == beat.highest)
                .map_or(self.now, |known| known.idle_since),
        };
        let confirmed = beat.echo.filter(|echo| echo.boot == self.boot);
        let sent = confirmed.and_then(|echo| self.sent.at(echo.n));
        peer.echoed = peer.echoed.max(sent);
        self.peer = Some(peer);
        if beat.claim == Claim::None {
            // Its claim is over, and its lease and slack may be others by now.
            self.owed = None;
        }
        self.echo = Some(Echo { boot: beat.boot, n: beat.n, granted: Epoch::NONE });
        let differ = beat.lease != self.timing().parts().lease || beat.slack != self.slack;
        self.alarm(Alarm::TimersDiffer, differ, fx);
        self.alarm(Alarm::HeartbeatPathCut, false, fx);
        self.alarm(Alarm::ArbiterDiffers, beat.arbiter.is_some() != self.options.arbiter, fx);

        if let Some(met) = beat.met {
            self.meet(met.low, met.high, Some(met.served), fx);
        }
        if let (Some(echo), Some(sent)) = (confirmed, sent) {
            self.leased(echo.granted, sent, fx);
        }
        self.hear_highest(&beat, fx);
        self.hear_claim(&beat, fx);
        self.hear_hand(&beat, fx);
        if beat.reserve.minted_by() == Some(self.options.side)
            && beat.reserve > self.want.highest
            && self.state.idle()
        {
            self.want.reserved = self.want.reserved.max(beat.reserve);
        }
    }

    /// R3: the lease counts from the sending of the beat that was confirmed.
    fn leased(&mut self, granted: Epoch, sent: Mono, fx: &mut Vec<Effect>) {
        let until = sent + self.timing().granted();
        match &mut self.state {
            State::Primary(reign) | State::Draining { reign, .. } => {
                if granted != reign.epoch || until <= reign.peer_until || until <= self.now {
                    return;
                }
                let before = reign.until();
                reign.peer_until = until;
                reign.alone = false;
                let (after, next) = (reign.until(), &mut reign.next);
                if next.is_some_and(|next| next.alone) {
                    *next = None;
                }
                self.want.formed |= self.may_form;
                if after > before {
                    fx.push(Effect::Renew { until: after });
                }
                self.set_paired(true, fx);
            }
            State::Electing { epoch, asked: true, .. } => {
                let epoch = *epoch;
                if granted == epoch && until > self.now {
                    self.want.formed |= self.may_form;
                    self.reign(Reign::under_peer(epoch, until), Why::Won, fx);
                }
            }
            State::Joining
            | State::Standby
            | State::Electing { asked: false, .. }
            | State::Claiming { .. }
            | State::Accepting { .. }
            | State::Closing(_)
            | State::HandedOver { .. }
            | State::Fenced(_)
            | State::Stopped => {}
        }
    }

    /// R11: a primary whose peer knows a higher epoch would be refused for ever; it moves above it,
    /// unless the peer acknowledged more in a reign of its own meanwhile. A claim without a request
    /// is waited for: it fails and is told as known, or it makes a reign that is met.
    fn hear_highest(&mut self, beat: &Beat, fx: &mut Vec<Effect>) {
        if matches!(beat.claim, Claim::Primary(_)) {
            return;
        }
        if self.outlived(beat) {
            return self.let_go(After::Standby, Why::HigherEpoch(beat.highest), fx);
        }
        if beat.role == PeerRole::Candidate && beat.claim == Claim::None {
            return;
        }
        if beat.synced != Some(false) || !self.yields_to(beat.highest, fx) {
            self.move_above(beat.highest);
        }
    }

    /// Nobody claims before its promise is over. A primary that lives on its peer's grants, and
    /// hears that peer claim a number which is news here, is beyond its lease: its clocks stood
    /// still.
    fn outlived(&self, beat: &Beat) -> bool {
        let by_peer = self.state.reign().is_some_and(|reign| reign.own_until <= self.now);
        by_peer && beat.role == PeerRole::Candidate && beat.highest > self.want.highest
    }

    /// A primary below `epoch` makes a higher one of its own durable; true when it begins to.
    pub(super) fn move_above(&mut self, epoch: Epoch) -> bool {
        let own = self.want.highest;
        let State::Primary(reign) = &mut self.state else { return false };
        let (target, alone) =
            reign.next.map_or((reign.epoch, false), |next| (next.epoch, next.alone));
        if epoch <= target {
            return false;
        }
        let epoch = own.max(epoch).next_of(self.options.side);
        reign.next = Some(Next { epoch, alone });
        self.want.highest = epoch;
        true
    }

    /// R2, R14: what a claim of the peer does to this node.
    fn hear_claim(&mut self, beat: &Beat, fx: &mut Vec<Effect>) {
        let (epoch, reigns) = match beat.claim {
            Claim::None => return,
            Claim::Candidate(epoch) => (epoch, false),
            Claim::Primary(epoch) => (epoch, true),
        };
        let foreign = epoch.minted_by() != Some(self.options.side.other());
        self.alarm(Alarm::ForeignEpoch, foreign, fx);
        if foreign {
            return;
        }
        if let Some(reign) = self.state.reign().copied() {
            if !reigns {
                return;
            }
            self.meet(reign.epoch, epoch, None, fx);
            if epoch < reign.epoch {
                return;
            }
            self.let_go(After::Standby, Why::HigherEpoch(epoch), fx);
        }
        if epoch < self.want.highest || self.state == State::Stopped {
            return;
        }
        let lease_and_slack = beat.lease + beat.slack;
        self.owed = Some(Owed { epoch, boot: beat.boot, n: beat.n, lease_and_slack });
        self.want.highest = epoch;
        self.want.promised = self.want.promised.max(lease_and_slack);
        self.want.was_primary = false;
        if reigns {
            self.want.reigned = self.want.reigned.max(epoch);
            self.hear_synced(beat.synced);
        }
    }

    /// Two primaries met: kept until the split-brain policy has ruled; whoever still serves
    /// announces again.
    fn meet(&mut self, one: Epoch, other: Epoch, peers: Option<Span>, fx: &mut Vec<Effect>) {
        let (low, high) = (one.min(other), one.max(other));
        if let Some(met) = &mut self.met
            && (met.meeting.low, met.meeting.high) == (low, high)
        {
            met.peers = met.peers.or(peers);
            return;
        }
        let served = self.parted.map_or(Span::ZERO, |at| self.now.since(at));
        let meeting = Meeting { low, high, served };
        self.met = Some(Met { meeting, peers, at: self.now, ruled: false });
        fx.push(Effect::Note(Note::Met { low, high }));
        if self.state.reign().is_some_and(|reign| reign.epoch >= high) {
            fx.push(Effect::Announce);
        }
    }

    /// The grant itself: durable, gate closed, every other hope forfeited (R2).
    pub(super) fn grant(&mut self, fx: &mut Vec<Effect>) -> bool {
        let Some(owed) = self.owed else { return false };
        let durable = self.disk.highest >= owed.epoch && self.disk.promised >= owed.lease_and_slack;
        if !durable || self.state.gate_may_be_open() {
            return false;
        }
        self.owed = None;
        self.promise = self.promise.max(self.now + promise(owed.lease_and_slack));
        self.echo = Some(Echo { boot: owed.boot, n: owed.n, granted: owed.epoch });
        self.want.formed |= self.may_form;
        // Whoever hears a primary is not cut off any more.
        self.unfit_until = Mono::ZERO;
        match self.state {
            State::Standby | State::Fenced(_) | State::Stopped => {}
            // A license may keep a pair from forming, never a primary from its lease.
            State::Joining if !self.may_pair() => {}
            State::Joining
            | State::Electing { .. }
            | State::Claiming { .. }
            | State::Accepting { .. } => self.turn(State::Standby, Why::Granted, fx),
            State::HandedOver { stop, .. } => {
                // The hand was taken: the fence of a standby holds what was drained.
                self.drained = None;
                self.order_ends(Order::Switchover, Ok(()), fx);
                self.turn(State::Standby, Why::HandingOver, fx);
                if stop {
                    self.speak(fx);
                    self.stop(fx);
                    return true;
                }
            }
            State::Primary(_) | State::Draining { .. } | State::Closing(_) => {
                unreachable!("gate may be open")
            }
        }
        self.speak(fx);
        true
    }

    /// R10: a hand is a grant with an expiry, for an epoch of our own parity.
    fn hear_hand(&mut self, beat: &Beat, fx: &mut Vec<Effect>) {
        let Some(hand) = beat.hand else { return };
        let sent = self.sent.at(hand.n).filter(|_| hand.boot == self.boot);
        let until = sent.map_or(Mono::ZERO, |sent| sent + self.timing().granted());
        let ours = hand.epoch.minted_by() == Some(self.options.side);
        if !ours || hand.epoch <= self.want.highest || until <= self.now || !self.state.idle() {
            return;
        }
        self.want.highest = hand.epoch;
        self.owed = None;
        self.turn(State::Accepting { epoch: hand.epoch, until }, Why::HandedOver, fx);
    }

    /// L + G that the sender of a hand promises: the receiver may serve that long. Durable before
    /// the hand is said, or a restart would forget a gate that closes later than this node's.
    pub(super) fn hand_promise(&self) -> Span {
        let own = self.own_promise();
        self.peer.map_or(own, |peer| own.max(peer.beat.lease + peer.beat.slack))
    }

    /// The disk is told what a hand would promise; true when that is news.
    pub(super) fn note_hand_promise(&mut self) -> bool {
        let news = self.hand_promise() > self.want.promised;
        self.want.promised = self.want.promised.max(self.hand_promise());
        news
    }

    /// The disk knows it.
    pub(super) fn may_hand(&self) -> bool {
        self.disk.promised >= self.hand_promise()
    }
}
