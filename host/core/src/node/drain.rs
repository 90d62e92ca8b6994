//! Planned handovers up to the hand: the next epoch durable on both nodes, and all data at the
//! peer, while this node still serves under a live lease.

use super::Node;
use crate::beat::PeerRole;
use crate::effect::{Effect, Note, Why};
use crate::epoch::Epoch;
use crate::event::{Order, Refusal, Shipment};
use crate::state::{After, Reign, Shipping, State};
use crate::time::Span;
use alloc::vec::Vec;

/// What an order that waits for a handover is given beyond the data's patience, in leases: for the
/// hand itself.
const HAND_LEASES: u64 = 2;

impl Node {
    /// Starts a planned handover: the next epoch of the peer's parity, durable on both nodes first,
    /// and the data at the peer.
    pub(super) fn drain(&mut self, stop: bool, fx: &mut Vec<Effect>) -> Result<(), Refusal> {
        let State::Primary(reign) = self.state else { return Err(Refusal::NotPrimary) };
        let peer = self.two_way().ok_or(Refusal::PeerAbsent)?;
        if peer.beat.role != PeerRole::Standby || reign.peer_until <= self.now {
            return Err(Refusal::PeerAbsent);
        }
        if !peer.beat.eligible || (peer.beat.maintenance && !stop) {
            return Err(Refusal::PeerNotEligible);
        }
        let known = self.want.highest.max(peer.beat.highest).max(peer.beat.reserved);
        let to = known.next_of(self.options.side.other());
        self.want.highest = to;
        // Told now, one write has both.
        self.note_hand_promise();
        let lease = self.timing().parts().lease;
        let patience = self.now + Span(lease.0 / 2);
        let shipping = if self.options.data {
            let until = self.now + self.options.drain_patience;
            self.order_by = self.order_by.max(until + lease.times(HAND_LEASES));
            Shipping::UnderWay { until }
        } else {
            Shipping::NotNeeded
        };
        let reign = Reign { next: None, ..reign };
        let draining = State::Draining { reign, to, patience, shipping, stop };
        self.turn(draining, Why::HandingOver, fx);
        if self.options.data {
            self.drained = Some(to);
            fx.push(Effect::Drain { epoch: to });
        }
        self.speak(fx);
        Ok(())
    }

    /// The data plane's word counts for its own handover only.
    pub(super) fn data_drained(&mut self, epoch: Epoch, shipment: Shipment) {
        if let State::Draining { to, shipping: shipping @ Shipping::UnderWay { .. }, .. } =
            &mut self.state
            && *to == epoch
        {
            *shipping = match shipment {
                Shipment::Whole => Shipping::Whole,
                Shipment::Failed => Shipping::Failed,
            };
        }
    }

    /// Both nodes have the next epoch durable and the peer has the data, or patience ends: close
    /// the gate, then hand over. The lease is renewed meanwhile.
    pub(super) fn settle_draining(&mut self, fx: &mut Vec<Effect>) -> bool {
        let State::Draining { reign, to, patience, shipping, stop } = self.state else {
            return false;
        };
        let Some(peer) = self.peer.filter(|_| !self.silent()) else {
            return self.abandon_draining(reign, stop, Why::NotTaken, fx);
        };
        let waited = self.now >= patience;
        // A peer that is heard and confirms nothing: the time that is left of the lease is for the
        // question whether to go on alone.
        let deaf = waited && self.now >= self.alone_question(&reign);
        if self.note_hand_promise() {
            return true;
        }
        let durable = self.may_hand() && self.disk.highest >= to;
        let reserved = peer.beat.reserved >= to;
        // Whoever stops hands over to a peer that must still write the epoch; a planned move would
        // rather stay.
        let ready = durable && (reserved || stop && waited);
        if peer.beat.highest >= to || deaf || waited && !ready {
            return self.abandon_draining(reign, stop, Why::NotTaken, fx);
        }
        match shipping {
            Shipping::NotNeeded | Shipping::Whole => {}
            Shipping::UnderWay { until } if self.now < until => return false,
            // The same for data: but nothing that was acknowledged to applications is left behind.
            Shipping::UnderWay { .. } | Shipping::Failed => {
                if !stop || !peer.beat.eligible || self.peer_may_lack() {
                    return self.abandon_draining(reign, stop, Why::DataNotShipped, fx);
                }
                if ready {
                    fx.push(Effect::Note(Note::HandedWithoutData(to)));
                }
            }
        }
        if ready {
            self.let_go(After::Hand { epoch: to, stop }, Why::HandingOver, fx);
        }
        ready
    }

    fn abandon_draining(
        &mut self,
        reign: Reign,
        stop: bool,
        why: Why,
        fx: &mut Vec<Effect>,
    ) -> bool {
        let refusal =
            if why == Why::DataNotShipped { Refusal::DataNotShipped } else { Refusal::NotTaken };
        self.turn(State::Primary(reign), why, fx);
        self.order_ends(Order::Switchover, Err(refusal), fx);
        if stop {
            self.let_go(After::Stop, Why::Stop, fx);
        }
        true
    }
}
