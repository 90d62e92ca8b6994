//! The ending: everything but one thing works again, an operator does what operators do, and the
//! service must return, once and for good.

use super::{Due, MS, Ns, World, index, side};
use crate::coverage::Rule;
use crate::fault::seat_name;
use crate::invariant::{a2, a3, liveness};
use crate::plan::{Ending, Licensing};
use staffetta_core::{Order, Role, Side};

/// The judge looks this often.
const LOOK_MS: u64 = 50;
/// The service must stay this long where it is.
const STABLE_MS: u64 = 4_000;
/// The operator looks this often, and gives a node this long to help itself.
const OPERATOR_MS: u64 = 1_000;

/// What the judge knows.
#[derive(Debug, Default)]
pub(crate) struct Healing {
    pub began: Option<Ns>,
    pub done: bool,
    pub healed_us: Option<u64>,
    /// Since when the demanded state holds without a break.
    good_since: Option<Ns>,
    operator_at: Ns,
    pub moves: u64,
    moves_before: u64,
}

impl World<'_> {
    pub(crate) fn begin_ending(&mut self) {
        self.trace.say(self.now, "==", || format!("ending: {:?}", self.plan.ending));
        self.healing.began = Some(self.now);
        self.healing.moves_before = self.healing.moves;
        self.rules.g4.disturbed();
        self.mend_all();
        match self.plan.ending {
            Ending::AllUp => {}
            Ending::Dead(node) => self.power_cut(index(node)),
            Ending::ArbiterDead => self.arbiter.down = 1,
            Ending::Cut => self.cut([Side::A, Side::B].as_slice()),
            Ending::OneWay(from) => self.cut(&[from]),
            Ending::OneWayReaches(from, reaches) => {
                self.cut(&[from]);
                self.seats[index(reaches.other())].ills.arbiter_away = 1;
            }
            Ending::CutFromArbiter(node) => self.seats[index(node)].ills.arbiter_away = 1,
            Ending::CutReaches(node) => {
                self.cut(&[Side::A, Side::B]);
                self.seats[index(node.other())].ills.arbiter_away = 1;
            }
        }
        self.healing.operator_at = self.now + OPERATOR_MS * MS;
        self.queue.at(self.now + LOOK_MS * MS, Due::Judge);
    }

    fn cut(&mut self, from: &[Side]) {
        for side in from {
            for lane in &mut self.links.lanes[index(*side)] {
                lane.cuts = 1;
            }
        }
    }

    fn dead(&self) -> Option<usize> {
        match self.plan.ending {
            Ending::Dead(node) => Some(index(node)),
            Ending::AllUp
            | Ending::ArbiterDead
            | Ending::Cut
            | Ending::OneWay(_)
            | Ending::OneWayReaches(..)
            | Ending::CutFromArbiter(_)
            | Ending::CutReaches(_) => None,
        }
    }

    pub(crate) fn judge(&mut self) {
        let Some(began) = self.healing.began else { return };
        if self.now >= self.healing.operator_at {
            self.healing.operator_at = self.now + OPERATOR_MS * MS;
            self.operate();
        }
        let good = self.good();
        self.healing.good_since = match (good, self.healing.good_since) {
            (true, since) => Some(since.unwrap_or(self.now)),
            (false, _) => None,
        };
        if let Some(since) = self.healing.good_since
            && self.now - since >= STABLE_MS * MS
        {
            self.healing.healed_us = Some((since - began) / 1_000);
            return self.healed();
        }
        if (self.now - began) / MS > liveness::bound_ms(self.pair) + STABLE_MS {
            if self.unlicensed() {
                self.healing.done = true;
                return;
            }
            let moved = self.healing.moves - self.healing.moves_before;
            let text = liveness::text(self.pair, self.plan.ending, moved, &self.roles());
            self.break_rule(Rule::Liveness, text);
            return;
        }
        self.queue.at(self.now + LOOK_MS * MS, Due::Judge);
    }

    fn roles(&self) -> String {
        let role = |at: usize| {
            let seat = &self.seats[at];
            let now = seat.clock.local(self.now);
            seat.node.as_ref().map_or("down".into(), |node| format!("{:?}", node.view(now).role))
        };
        format!("A {}, B {}", role(0), role(1))
    }

    /// One serves, and every phone reaches it. Without an arbiter both may serve behind a full cut.
    fn good(&self) -> bool {
        let serving = (0..2).filter(|at| self.seats[*at].answers_at(self.now)).count();
        let both_may = self.plan.ending == Ending::Cut && !self.plan.arbiter;
        let count_fits = serving == 1 || both_may && serving == 2;
        count_fits && self.clients_served()
    }

    /// Init restarts what ended; the operator answers nodes that ask.
    fn operate(&mut self) {
        for at in 0..2 {
            if Some(at) == self.dead() {
                continue;
            }
            let seat = &self.seats[at];
            let now = seat.clock.local(self.now);
            let Some(node) = seat.node.as_ref().filter(|_| seat.awake()) else { continue };
            let view = node.view(now);
            let patient = now.since(view.since) >= self.pair.timing.parts().join_timeout;
            let waits = view.wants_operator
                || view.undecided && patient
                || view.peer.is_some_and(|peer| peer.maintenance);
            let serving = (0..2).any(|at| self.seats[at].answers_at(self.now));
            let order = match view.role {
                _ if view.maintenance => Some(Order::Maintenance(false)),
                Role::Fenced => Some(Order::Clear),
                Role::Joining | Role::Standby if !serving && waits => Some(Order::StartAlone),
                Role::Joining
                | Role::Standby
                | Role::Candidate
                | Role::Primary
                | Role::Draining => None,
            };
            if let Some(order) = order {
                self.say(at, || format!("the operator orders {order:?}"));
                self.order(at, order);
            }
        }
    }

    /// The service is back and stays: what else the ending demands.
    fn healed(&mut self) {
        self.healing.done = true;
        self.coverage.evaluated(Rule::Liveness);
        if a2::applies(self.plan.arbiter, self.plan.ending) {
            self.coverage.evaluated(Rule::A2);
        }
        if self.plan.ending == Ending::ArbiterDead {
            self.coverage.evaluated(Rule::A3);
            for at in 0..2 {
                let seat = &self.seats[at];
                let now = seat.clock.local(self.now);
                let Some(level) = seat.node.as_ref().map(|node| node.view(now).level) else {
                    continue;
                };
                self.hold(Rule::A3, a3::shown(seat_name(side(at)), level));
            }
        }
    }

    /// A pair that had not formed when its licenses ended does not form any more.
    fn unlicensed(&self) -> bool {
        let formed = |at: usize| self.seats[at].disk.formed;
        self.plan.weather.licensing == Licensing::Ends && !(formed(0) && formed(1))
    }
}
