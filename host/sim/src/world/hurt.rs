//! Faults begin and end.

use super::link::Noise;
use super::seat::{Power, Trap, Vouched};
use super::{Due, MS, World, index};
use crate::fault::Fault;
use crate::plan::Premise;
use staffetta_core::{Event, Order, Side};

/// Rules that a stopped daemon should put back are looked for this often.
const LOOK_MS: u64 = 20;
/// A stop waits this long for its effect at least.
const TRAP_MS_MIN: u64 = 15_000;

impl World<'_> {
    pub(crate) fn hurt(&mut self, number: usize) {
        if self.healing.began.is_some() {
            // Drawn for a moment that comes after the end.
            return;
        }
        let mut fault = self.plan.faults[number].fault;
        self.coverage.fault(fault.kind());
        self.trace.mix(number as u64);
        self.trace.say(self.now, "**", || fault.to_string());
        if self.excluded(&fault) {
            self.trace.say(self.now, "**", || "skipped: no guarantee covers it".into());
            return;
        }
        let waits = matches!(fault, Fault::KillAt { .. } | Fault::FreezeAt { .. });
        if let Some(ms) = fault.lasts_ms() {
            let lasts = if waits { (*ms).max(TRAP_MS_MIN) } else { *ms };
            let end = self.now + lasts * MS;
            self.queue.at(end, Due::Mend(number));
        }
        self.rules.g4.disturbed();
        self.begin_fault(number, fault);
    }

    /// A stop of the process that the guarantees name as not covered: after a flush of the rules,
    /// before the peer knows the larger G; after the machine slept, before the gate is armed again.
    pub(crate) fn uncovered(&self, at: usize) -> bool {
        let seat = &self.seats[at];
        seat.exposed_until > self.now || seat.gate_slept == Some(self.now)
    }

    fn excluded(&self, fault: &Fault) -> bool {
        let exposed = |node: Side| self.uncovered(index(node));
        match *fault {
            // Two stalls with little between them are as good as one that is too long.
            Fault::Freeze { .. } if self.plan.premise == Premise::Calm => {
                let stopped = self.seats.iter().any(|seat| seat.frozen.is_some());
                stopped || self.thawed_at > 0 && self.now - self.thawed_at < self.lease().0
            }
            Fault::Kill { node, .. }
            | Fault::KillAt { node, .. }
            | Fault::FreezeAt { node, .. }
            | Fault::Freeze { node, .. }
            | Fault::Suspend { node, .. }
            | Fault::Pause { node, .. }
            | Fault::SlowRelease { node, .. } => exposed(node),
            Fault::Flush { node, .. } => {
                let seat = &self.seats[index(node)];
                !seat.awake() || seat.trap.is_some() || seat.ills.release_ms.is_some()
            }
            Fault::Order { node, order: Order::StartAlone } => {
                // The operator would vouch for what is not so.
                let other = &self.seats[1 - index(node)];
                let lost = self.plan.arbiter && self.arbiter.register.is_none();
                lost && other.shadow.reign.is_some()
            }
            Fault::Order { .. }
            | Fault::PowerCut { .. }
            | Fault::Cut { .. }
            | Fault::Noise { .. }
            | Fault::Disk { .. }
            | Fault::Refuse { .. }
            | Fault::Policy { .. }
            | Fault::References { .. }
            | Fault::Services { .. }
            | Fault::Lan { .. }
            | Fault::Stranger { .. }
            | Fault::Part { .. }
            | Fault::Lag { .. }
            | Fault::Undrainable { .. }
            | Fault::Synced { .. }
            | Fault::ArbiterAway { .. }
            | Fault::ArbiterDown { .. }
            | Fault::ArbiterSlow { .. }
            | Fault::RepliesLost { .. }
            | Fault::Wiped => false,
        }
    }

    fn begin_fault(&mut self, number: usize, fault: Fault) {
        match fault {
            Fault::Kill { node, .. } => self.kill(index(node)),
            Fault::PowerCut { node, .. } => self.power_cut(index(node)),
            Fault::KillAt { node, effect, point, down_ms } => {
                let trap = Trap { effect, point, kills: true, ms: down_ms };
                self.seats[index(node)].trap = Some(trap);
            }
            Fault::FreezeAt { node, effect, point, ms } => {
                let trap = Trap { effect, point, kills: false, ms };
                self.seats[index(node)].trap = Some(trap);
            }
            Fault::Freeze { node, ms } => self.freeze(index(node), ms),
            Fault::Suspend { node, ms } => self.sleep(index(node), ms, false),
            Fault::Pause { node, ms } => self.sleep(index(node), ms, true),
            Fault::Cut { from, link, .. } => {
                self.lanes(from, link, |lane| lane.cuts += 1);
            }
            Fault::Part { .. } => {
                self.lanes(Side::A, None, |lane| lane.cuts += 1);
                self.lanes(Side::B, None, |lane| lane.cuts += 1);
            }
            Fault::Noise { from, link, lose, late_ms, double, .. } => {
                let noise = Some(Noise { number, lose, late_ms, double });
                self.lanes(from, link, |lane| lane.noise = noise);
            }
            Fault::Disk { node, mode, .. } => {
                self.seats[index(node)].ills.disk = Some((number, mode));
            }
            Fault::Refuse { node, .. } => self.seats[index(node)].ills.refuses += 1,
            Fault::SlowRelease { node, each_ms, .. } => {
                self.seats[index(node)].ills.release_ms = Some((number, each_ms));
            }
            Fault::Flush { node, .. } => self.flush(index(node)),
            Fault::Policy { node, mode, .. } => {
                self.seats[index(node)].ills.policy = Some((number, mode));
            }
            Fault::References { .. } | Fault::Services { .. } | Fault::Lan { .. } => {
                self.evidence(fault, 1);
            }
            Fault::Stranger { .. } => self.strangers += 1,
            Fault::Order { node, order } => self.order(index(node), order),
            Fault::Synced { node, synced } => {
                self.seats[index(node)].synced = synced;
                if !self.plan.weather.data {
                    self.tell_synced(index(node), synced);
                }
            }
            Fault::Lag { node, .. } => self.seats[index(node)].ills.lag += 1,
            Fault::Undrainable { node, .. } => self.seats[index(node)].ills.undrainable += 1,
            Fault::ArbiterAway { node, .. } => self.seats[index(node)].ills.arbiter_away += 1,
            Fault::ArbiterDown { .. } => self.arbiter.down += 1,
            Fault::ArbiterSlow { by_ms, .. } => self.arbiter.slow = Some((number, by_ms)),
            Fault::RepliesLost { node, .. } => self.seats[index(node)].ills.replies_lost += 1,
            Fault::Wiped => self.wipe(),
        }
    }

    /// The arbiter loses its data. That somebody acknowledged alone is forgotten with them where
    /// the other node does not know it: what was acknowledged is promised no more.
    fn wipe(&mut self) {
        let Some(held) = self.arbiter.register.take() else { return };
        let knows = |other: Side| self.seats[index(other)].disk.stale;
        if !held.peer_synced && held.holder().is_some_and(|holder| !knows(holder.other())) {
            self.rules.acknowledged.forgotten();
        }
    }

    pub(crate) fn mend(&mut self, number: usize) {
        if self.healing.began.is_some() {
            return;
        }
        let fault = self.plan.faults[number].fault;
        self.rules.g4.disturbed();
        match fault {
            Fault::Kill { node, .. } | Fault::PowerCut { node, .. } => {
                let life = self.seats[index(node)].life;
                self.start_due(index(node), life);
            }
            Fault::KillAt { node, .. } | Fault::FreezeAt { node, .. } => {
                // The moment did not come.
                self.seats[index(node)].trap = None;
            }
            Fault::Cut { from, link, .. } => {
                self.lanes(from, link, |lane| lane.cuts = lane.cuts.saturating_sub(1));
            }
            Fault::Part { .. } => {
                self.lanes(Side::A, None, |lane| lane.cuts = lane.cuts.saturating_sub(1));
                self.lanes(Side::B, None, |lane| lane.cuts = lane.cuts.saturating_sub(1));
            }
            Fault::Noise { from, link, .. } => self.lanes(from, link, |lane| {
                lane.noise = lane.noise.filter(|noise| noise.number != number);
            }),
            Fault::Disk { node, .. } => {
                let seat = &mut self.seats[index(node)];
                seat.ills.disk = seat.ills.disk.filter(|(of, _)| *of != number);
                self.unstick(index(node));
            }
            Fault::Refuse { node, .. } => self.seats[index(node)].ills.refuses -= 1,
            Fault::SlowRelease { node, .. } => {
                let ills = &mut self.seats[index(node)].ills;
                ills.release_ms = ills.release_ms.filter(|(of, _)| *of != number);
            }
            Fault::Flush { node, .. } => {
                let seat = &self.seats[index(node)];
                if seat.node.is_some() && !seat.awake() {
                    // It is the daemon that puts the rules back.
                    return self.queue.at(self.now + LOOK_MS * MS, Due::Mend(number));
                }
                self.unflush(index(node));
            }
            Fault::Policy { node, .. } => {
                let ills = &mut self.seats[index(node)].ills;
                ills.policy = ills.policy.filter(|(of, _)| *of != number);
            }
            Fault::References { .. } | Fault::Services { .. } | Fault::Lan { .. } => {
                self.evidence(fault, -1);
            }
            Fault::Stranger { .. } => self.strangers -= 1,
            Fault::ArbiterAway { node, .. } => self.seats[index(node)].ills.arbiter_away -= 1,
            Fault::ArbiterDown { .. } => self.arbiter.down -= 1,
            Fault::ArbiterSlow { .. } => {
                self.arbiter.slow = self.arbiter.slow.filter(|(of, _)| *of != number);
            }
            Fault::RepliesLost { node, .. } => self.seats[index(node)].ills.replies_lost -= 1,
            Fault::Lag { node, .. } => self.seats[index(node)].ills.lag -= 1,
            Fault::Undrainable { node, .. } => self.seats[index(node)].ills.undrainable -= 1,
            Fault::Freeze { .. }
            | Fault::Suspend { .. }
            | Fault::Pause { .. }
            | Fault::Order { .. }
            | Fault::Synced { .. }
            | Fault::Wiped => {}
        }
    }

    fn lanes(
        &mut self,
        from: Side,
        link: Option<u8>,
        mut change: impl FnMut(&mut super::link::Lane),
    ) {
        for (number, lane) in self.links.lanes[index(from)].iter_mut().enumerate() {
            if link.is_none_or(|link| usize::from(link) == number) {
                change(lane);
            }
        }
    }

    fn evidence(&mut self, fault: Fault, by: i32) {
        let at = match fault {
            Fault::References { node, .. } => {
                let ills = &mut self.seats[index(node)].ills;
                ills.references = ills.references.saturating_add_signed(by);
                index(node)
            }
            Fault::Services { node, .. } => {
                let ills = &mut self.seats[index(node)].ills;
                ills.services = ills.services.saturating_add_signed(by);
                index(node)
            }
            Fault::Lan { node, carrier, .. } => {
                let ills = &mut self.seats[index(node)].ills;
                ills.lan = ills.lan.saturating_add_signed(by);
                if carrier {
                    ills.carrier = ills.carrier.saturating_add_signed(by);
                }
                index(node)
            }
            _ => return,
        };
        self.clients_follow();
        self.evidence_changed(at);
    }

    pub(crate) fn unstick(&mut self, at: usize) {
        let seat = &self.seats[at];
        if let Some((id, record)) = seat.writing.filter(|_| seat.ills.disk.is_none()) {
            let life = seat.life;
            let when = self.now + self.plan.weather.disk_us * 1_000;
            self.queue.at(when, Due::Written { at, life, id, record, took: true });
        }
    }

    /// The rules are gone: until they are back, lifetimes of addresses close the gate.
    fn flush(&mut self, at: usize) {
        let lease = self.lease().0;
        let late = self.dice.roll(self.pair.lifetime_slack.0.saturating_sub(MS));
        let (now, slack) = (self.now, self.pair.lifetime_slack);
        let seat = &mut self.seats[at];
        seat.ills.flushed += 1;
        if seat.gate_until > now {
            seat.gate_until += late;
        }
        seat.slack = slack;
        let life = seat.life;
        seat.exposed_until = now + 3 * (lease + slack.0);
        self.tell(at, life, Event::Slack(slack));
    }

    fn unflush(&mut self, at: usize) {
        let slack = self.pair.timing.parts().slack;
        let seat = &mut self.seats[at];
        // The rules of a daemon that is gone stay away: its next life puts them back.
        if seat.ills.flushed == 0 || seat.node.is_none() {
            return;
        }
        seat.ills.flushed -= 1;
        if seat.ills.flushed == 0 {
            seat.slack = slack;
            let life = seat.life;
            if seat.answers_at(self.now) {
                // The rules come back with the lease that is left.
                let until = seat.shadow.armed_until();
                self.arm(at, until);
            }
            self.tell(at, life, Event::Slack(slack));
        }
    }

    pub(crate) fn order(&mut self, at: usize, order: Order) {
        let life = self.seats[at].life;
        if self.seats[at].awake() {
            // One order at a time; a stop is not answered.
            if order == Order::StartAlone && self.seats[at].orders == 0 {
                let rows = self.rules.acknowledged.rows().clone();
                let granted = self.seats[at].shadow.granted_max;
                self.seats[at].vouched = Some(Vouched { rows, granted });
            }
            self.seats[at].orders += u32::from(order != Order::Stop);
            self.tell(at, life, Event::Order(order));
        }
    }

    /// Everything that a fault broke works again; the machines run.
    pub(crate) fn mend_all(&mut self) {
        self.links.heal();
        self.strangers = 0;
        self.arbiter.down = 0;
        self.arbiter.slow = None;
        for seat in &mut self.seats {
            seat.trap = None;
        }
        for at in 0..2 {
            if let Some(stop) = self.seats[at].frozen {
                self.thaw(at, stop);
            }
            let flushed = self.seats[at].ills.flushed > 0;
            let stuck = self.seats[at].ills.disk.take().is_some();
            self.seats[at].ills = super::seat::Ills::default();
            if stuck {
                self.unstick(at);
            }
            if flushed {
                self.seats[at].ills.flushed = 1;
                self.unflush(at);
            }
            if self.seats[at].power == Power::Off {
                self.seats[at].power = Power::On;
            }
            if self.seats[at].node.is_none() {
                self.start(at);
            }
            self.evidence_changed(at);
        }
        self.clients_follow();
    }
}
