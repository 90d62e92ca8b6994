//! The arbiter: a register with atomic compare-and-set, behind a network that loses requests, loses
//! replies after the write, and takes its time.

use super::{Due, MS, World};
use crate::coverage::{Counter, Rule};
use crate::invariant::a1;
use staffetta_core::{Event, Register, Reply, Request, RequestId, Role};

/// A request on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub id: RequestId,
    pub request: Request,
    /// The asker was primary, or an operator vouched for it.
    pub by_right: bool,
}

/// The register and what is wrong with the way to it.
#[derive(Debug, Default)]
pub(crate) struct Arbiter {
    pub register: Option<Register>,
    pub down: u32,
    pub slow: Option<(usize, u64)>,
}

impl World<'_> {
    pub(crate) fn consult(&mut self, at: usize, id: RequestId, request: Request) {
        let seat = &mut self.seats[at];
        let now = seat.clock.local(self.now);
        seat.shadow.asked(id, &request, now);
        let by_primary =
            seat.node.as_ref().is_some_and(|node| node.view(now).role == Role::Primary);
        let by_right = by_primary || seat.vouched.is_some();
        let life = seat.life;
        let request = Asked { id, request, by_right };
        let delay = self.arbiter_delay();
        if self.arbiter_hears(at) {
            self.queue.at(self.now + delay, Due::Asked { at, life, request });
        } else {
            self.consult_fails(at, life, id);
        }
    }

    fn arbiter_hears(&self, at: usize) -> bool {
        self.arbiter.down == 0 && self.seats[at].ills.arbiter_away == 0
    }

    fn arbiter_delay(&mut self) -> u64 {
        let base_us = self.plan.weather.arbiter_us;
        // Now quick, now slow: what was asked later may be answered sooner.
        let slow = self.arbiter.slow.map_or(0, |(_, by_ms)| by_ms * MS);
        (base_us + self.dice.roll(base_us)) * 1_000 + self.dice.roll(slow + 1)
    }

    /// Nobody answers: the client gives up after a while, or never says anything.
    fn consult_fails(&mut self, at: usize, life: u64, id: RequestId) {
        if self.dice.chance(800) {
            let lease_ns = self.lease().0;
            let after = self.now + self.dice.between(lease_ns / 10, lease_ns);
            let event = Event::Consulted(id, Reply::Failed);
            self.queue.at(after, Due::Tell { at, life, event });
        }
    }

    pub(crate) fn arbiter_takes(&mut self, at: usize, life: u64, asked: Asked) {
        if !self.arbiter_hears(at) {
            return self.consult_fails(at, life, asked.id);
        }
        let reply = match asked.request {
            Request::Read => Reply::Holds(self.arbiter.register),
            Request::Swap { expect, to } if expect == self.arbiter.register => {
                self.write(&asked, to);
                Reply::Swapped
            }
            Request::Swap { .. } => {
                self.coverage.saw(Counter::RegisterLost);
                Reply::Holds(self.arbiter.register)
            }
        };
        self.trace.mix(asked.id.0 << 8 | u64::from(reply == Reply::Swapped));
        self.say(at, || format!("arbiter: {:?} -> {reply:?}", asked.request));
        if self.seats[at].ills.replies_lost > 0 {
            if reply == Reply::Swapped {
                self.coverage.saw(Counter::ReplyLost);
            }
            return self.consult_fails(at, life, asked.id);
        }
        let when = self.now + self.arbiter_delay();
        self.queue.at(when, Due::Tell { at, life, event: Event::Consulted(asked.id, reply) });
    }

    /// R12: only a primary creates the register; its epoch never goes back.
    fn write(&mut self, asked: &Asked, to: Register) {
        self.coverage.saw(Counter::RegisterWon);
        self.coverage.evaluated(Rule::A1);
        if self.arbiter.register.is_none() {
            self.coverage.saw(Counter::RegisterCreated);
        }
        let finding = a1::write(self.arbiter.register, &to, asked.by_right);
        self.hold(Rule::A1, finding);
        self.arbiter.register = Some(to);
    }
}
