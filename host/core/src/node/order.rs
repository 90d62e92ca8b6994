//! What operators and the init system want.

use super::Node;
use crate::effect::{Effect, Question, Why};
use crate::event::{Order, Refusal};
use crate::state::{After, State};
use crate::time::Mono;
use alloc::vec::Vec;

impl Node {
    pub(super) fn ordered(&mut self, order: Order, fx: &mut Vec<Effect>) {
        if order == Order::Stop {
            return self.order_stop(fx);
        }
        if self.order.is_some() {
            fx.push(Effect::OrderDone(Err(Refusal::Busy)));
            return;
        }
        self.order = Some(order);
        self.order_by = self.now + self.timing().parts().join_timeout;
        let refused = match order {
            Order::Switchover => self.order_switchover(fx),
            Order::Maintenance(on) => {
                self.want.maintenance = on;
                Ok(())
            }
            Order::StartAlone => self.order_start_alone(fx),
            Order::Clear => {
                if matches!(self.state, State::Fenced(_)) {
                    self.want.fenced = None;
                    Ok(())
                } else {
                    Err(Refusal::NotFenced)
                }
            }
            Order::Stop => Ok(()),
        };
        if let Err(refusal) = refused {
            self.order_done(Err(refusal), fx);
        }
    }

    /// Orders that end when something is durable or reached.
    pub(super) fn orders_settled(&mut self, fx: &mut Vec<Effect>) {
        let done = match self.order {
            Some(Order::Maintenance(on)) => self.disk.maintenance == on,
            Some(Order::StartAlone) => self.state.reign().is_some(),
            Some(Order::Switchover | Order::Clear | Order::Stop) | None => false,
        };
        let claims = matches!(self.state, State::Electing { .. } | State::Claiming { .. });
        // The end of what it began answers an order: `ends_by`.
        let late = self.order.is_some() && self.now >= self.order_by && !(claims && self.vouched());
        if done {
            self.order_done(Ok(()), fx);
        } else if self.vouched() && self.state.idle() && self.both_marked().is_none() {
            // What was ordered is no longer so; it must not decide an election later.
            self.order_done(Err(Refusal::NotWaiting), fx);
        } else if late {
            let refusal = match self.order {
                Some(Order::Maintenance(_) | Order::Clear) => Refusal::Disk,
                Some(Order::StartAlone) => Refusal::NotElected,
                Some(Order::Switchover | Order::Stop) | None => Refusal::NotTaken,
            };
            self.order_done(Err(refusal), fx);
        }
    }

    /// What an order began has ended; another one that waits, for the disk perhaps, waits on.
    pub(super) fn order_ends(
        &mut self,
        of: Order,
        result: Result<(), Refusal>,
        fx: &mut Vec<Effect>,
    ) {
        if self.order == Some(of) {
            self.order_done(result, fx);
        }
    }

    fn order_done(&mut self, result: Result<(), Refusal>, fx: &mut Vec<Effect>) {
        if let Some(order) = self.order.take() {
            fx.push(Effect::OrderDone(result.map(|()| order)));
        }
    }

    /// An operator vouches that this node may serve, and has no answer yet.
    pub(super) fn vouched(&self) -> bool {
        self.order == Some(Order::StartAlone)
    }

    /// When a claim is given up: one that was ordered does not outlive its order, which would be
    /// refused, and carried out all the same.
    pub(super) fn ends_by(&self, until: Mono) -> Mono {
        if self.vouched() { until.min(self.order_by) } else { until }
    }

    fn order_switchover(&mut self, fx: &mut Vec<Effect>) -> Result<(), Refusal> {
        match self.state {
            State::Primary(_) => {}
            State::Draining { .. } | State::HandedOver { .. } => return Err(Refusal::Busy),
            State::Fenced(_) => return Err(Refusal::Fenced),
            State::Joining
            | State::Standby
            | State::Electing { .. }
            | State::Claiming { .. }
            | State::Accepting { .. }
            | State::Closing(_)
            | State::Stopped => return Err(Refusal::NotPrimary),
        }
        if !self.may_plan {
            return Err(Refusal::License);
        }
        let peer = self.two_way().ok_or(Refusal::PeerAbsent)?;
        if !peer.beat.eligible || peer.beat.maintenance {
            return Err(Refusal::PeerNotEligible);
        }
        if self.pending.is_some() {
            return Err(Refusal::Busy);
        }
        self.ask(Question::Switchover, fx);
        Ok(())
    }

    fn order_start_alone(&mut self, fx: &mut Vec<Effect>) -> Result<(), Refusal> {
        match self.state {
            State::Joining | State::Standby => {}
            State::Fenced(_) => return Err(Refusal::Fenced),
            State::Electing { .. }
            | State::Claiming { .. }
            | State::Accepting { .. }
            | State::Primary(_)
            | State::Draining { .. }
            | State::Closing(_)
            | State::HandedOver { .. }
            | State::Stopped => return Err(Refusal::NotWaiting),
        }
        if self.both_marked().is_some() {
            // Neither serves, and an operator may know better than register or numbers who is to.
            return Ok(());
        }
        if !self.unserved() {
            return Err(Refusal::PeerPresent);
        }
        self.arbiter_allows_start()?;
        if self.promise > self.now {
            return Err(Refusal::Promised(self.promise.since(self.now)));
        }
        self.claim_alone(fx);
        Ok(())
    }

    /// A stop hands over if the peer can take the service, and lets go in any case.
    fn order_stop(&mut self, fx: &mut Vec<Effect>) {
        match self.state {
            State::Primary(_) => {
                if self.drain(true, fx).is_err() {
                    self.let_go(After::Stop, Why::Stop, fx);
                }
            }
            State::Draining { reign, to, patience, shipping, .. } => {
                self.state = State::Draining { reign, to, patience, shipping, stop: true };
            }
            State::Closing(After::Hand { epoch, .. }) => {
                self.state = State::Closing(After::Hand { epoch, stop: true });
            }
            State::Closing(_) => self.state = State::Closing(After::Stop),
            State::HandedOver { epoch, give_up, .. } => {
                self.state = State::HandedOver { epoch, give_up, stop: true };
            }
            State::Joining
            | State::Standby
            | State::Electing { .. }
            | State::Claiming { .. }
            | State::Accepting { .. }
            | State::Fenced(_) => self.stop(fx),
            State::Stopped => {}
        }
    }
}
