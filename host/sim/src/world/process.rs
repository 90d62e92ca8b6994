//! The life of a process: start, loop, stop between two effects, death. And of the machine under
//! it.

use super::seat::{Power, Trap};
use super::shadow::Times;
use super::{Due, MS, Ns, World};
use crate::coverage::{Counter, Rule};
use crate::fault::Point;
use crate::invariant::{Step, a1};
use crate::trace_of;
use staffetta_core::{Boot, Durable, Effect, Event, Mono, Node, Note, PersistId};

/// The first judgment of the license comes within this.
const LICENSE_MS: u64 = 3;

impl World<'_> {
    pub(crate) fn start_due(&mut self, at: usize, life: u64) {
        let seat = &self.seats[at];
        if seat.life == life && seat.node.is_none() {
            self.seats[at].power = Power::On;
            self.start(at);
        }
    }

    pub(crate) fn start(&mut self, at: usize) {
        self.boots += 1;
        let id = self.boots * 2 + at as u64 + 1_000;
        let (now, real) = (self.seats[at].clock.local(self.now), self.now);
        let slack = self.pair.timing.parts().slack;
        let options = self.options(at);
        let seat = &mut self.seats[at];
        seat.forget_process();
        seat.life += 1;
        seat.started = real;
        // The rules are put back, and addresses left over from a former life are removed, before
        // anything else.
        seat.gate_until = real;
        seat.blind = None;
        seat.exposed_until = 0;
        seat.ills.flushed = 0;
        seat.slack = slack;
        seat.heard = [None; 2];
        seat.echoed = [None; 2];
        seat.live_links = 0;
        seat.peer_word = None;
        seat.word_at = Mono::ZERO;
        seat.answers = None;
        seat.licensed_for = None;
        seat.shadow.boot(id, now);
        let disk = seat.disk;
        seat.node = Some(Node::new(options, Boot { id, now, disk, slack }));
        let life = seat.life;
        self.trace.mix(id);
        self.say(at, || format!("starts (life {id})"));
        self.rules.g2.lives[at] = id;
        self.rules.planned.boots(at);
        self.answers_changed();
        let when = self.now + self.dice.between(1, LICENSE_MS) * MS;
        self.queue.at(when, Due::License { at, life });
        self.evidence_changed(at);
        self.feed(at, Event::Tick);
    }

    /// The loop wakes by its own timer.
    pub(crate) fn wake(&mut self, at: usize, run: u64) {
        let seat = &self.seats[at];
        if seat.run != run || !seat.awake() {
            return;
        }
        let now = seat.clock.local(self.now);
        let due = seat.node.as_ref().and_then(Node::deadline);
        match due {
            Some(due) if due <= now => self.feed(at, Event::Tick),
            Some(_) => self.schedule(at),
            None => {}
        }
    }

    fn schedule(&mut self, at: usize) {
        let seat = &self.seats[at];
        let Some(due) = seat.node.as_ref().and_then(Node::deadline) else { return };
        let when = seat.clock.real(due).max(self.now);
        // A wake-up that comes earlier looks again.
        if seat.run_at > self.now && seat.run_at <= when {
            return;
        }
        let when = when + self.dice.roll(self.plan.weather.wake_us * 1_000);
        let seat = &mut self.seats[at];
        seat.run += 1;
        seat.run_at = when;
        self.queue.at(when, Due::Run { at, run: seat.run });
    }

    /// Something for the process of a life: delivered, kept while it is stopped, dropped when it is
    /// gone.
    pub(crate) fn tell(&mut self, at: usize, life: u64, event: Event) {
        let seat = &mut self.seats[at];
        if seat.life != life || seat.node.is_none() {
            return;
        }
        if seat.awake() {
            self.feed(at, event);
        } else {
            seat.waiting.push_back(event);
        }
    }

    /// Steps the core, then carries out what it wants, until nothing is left to say.
    pub(crate) fn feed(&mut self, at: usize, event: Event) {
        self.seats[at].turn.push_back(event);
        if self.seats[at].rest.is_empty() {
            self.pump(at);
        }
    }

    fn pump(&mut self, at: usize) {
        loop {
            while let Some(effect) = self.seats[at].rest.pop_front() {
                let kind = super::shell::kind(&effect);
                if self.trapped(at, kind, Point::Before) {
                    if self.seats[at].node.is_some() {
                        self.seats[at].rest.push_front(effect);
                    }
                    return;
                }
                self.saw_effect(kind);
                self.carry_out(at, effect);
                if self.seats[at].node.is_none() || self.trapped(at, kind, Point::After) {
                    return;
                }
            }
            let Some(event) = self.seats[at].turn.pop_front() else { break };
            self.step(at, event);
            if self.rules.broken.is_some() {
                return;
            }
        }
        self.schedule(at);
    }

    fn step(&mut self, at: usize, event: Event) {
        let timing = Times::new(self.pair.timing.parts());
        let seat = &mut self.seats[at];
        let now = seat.clock.local(self.now);
        let Some(node) = &mut seat.node else { return };
        self.trace.mix(self.now << 1 | at as u64);
        trace_of::event(&mut self.trace, &event);
        match &event {
            Event::Heard(beat) => seat.shadow.heard(beat, &timing, now),
            Event::Consulted(id, reply) => seat.shadow.told(*id, reply, &timing, now),
            Event::Answered(..)
            | Event::Tick
            | Event::Persisted(_)
            | Event::PersistFailed(_)
            | Event::Claimed
            | Event::ClaimFailed
            | Event::Released
            | Event::Unanswered(_)
            | Event::Synced(..)
            | Event::Drained(..)
            | Event::Probed(_)
            | Event::EvidenceChanged
            | Event::Fitness(_)
            | Event::License { .. }
            | Event::Slack(_)
            | Event::Links(_)
            | Event::Order(_) => {}
        }
        self.coverage.evaluated(Rule::Core);
        let before = node.view(now);
        let effects = node.step(now, event.clone());
        let after = node.view(now);
        let (before, event, after) = (&before, &event, &after);
        let reigns = seat.shadow.reign.is_some();
        let writing = seat.writing.is_some();
        let step = Step { at, reigns, writing, before, event, effects: &effects, after };
        self.rules.after_step(self.now, step, &mut self.coverage);
        let role = after.role;
        self.decided(at, &effects);
        let finding = self.rules.planned.stepped(at, role);
        self.hold(Rule::Planned, finding);
        self.seats[at].rest.extend(effects);
    }

    /// What a step decided is judged by what was known then: an effect may be carried out late.
    fn decided(&mut self, at: usize, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Claim { epoch, until } => {
                    self.seats[at].shadow.reign_ends();
                    self.new_reign(at, *epoch);
                    self.data_reigns(at, *epoch, effects);
                    self.lease_is_granted(at, *until);
                    self.promise_is_kept(at, *epoch);
                }
                Effect::Renew { until } => self.lease_is_granted(at, *until),
                Effect::Consult(_, request) => {
                    self.coverage.evaluated(Rule::A1);
                    let seat = &mut self.seats[at];
                    let now = seat.clock.local(self.now);
                    let early = seat.shadow.write_is_early(request, now);
                    self.hold(Rule::A1, a1::early(at, early));
                }
                Effect::Note(Note::Epoch(epoch)) => self.new_reign(at, *epoch),
                Effect::Release => self.seats[at].shadow.reign_ends(),
                Effect::Send(beat) => {
                    let now = self.seats[at].clock.local(self.now);
                    self.seats[at].shadow.promises(beat, now);
                }
                Effect::Note(Note::HandedWithoutData(epoch)) => self.handed_without(*epoch),
                Effect::Drain { epoch } => {
                    let finding = self.rules.planned.drains(at, *epoch);
                    self.hold(Rule::Planned, finding);
                }
                Effect::Undrain { epoch } => {
                    let finding = self.rules.planned.undrains(at, *epoch);
                    self.hold(Rule::Planned, finding);
                }
                Effect::Persist(..)
                | Effect::Degraded(..)
                | Effect::Announce
                | Effect::Probe
                | Effect::Ask(_)
                | Effect::Exit
                | Effect::OrderDone(_)
                | Effect::Note(_) => {}
            }
        }
    }

    /// Whether a stop waits for this effect; carries the stop out.
    fn trapped(&mut self, at: usize, effect: crate::fault::EffectKind, point: Point) -> bool {
        let hit = |trap: &Trap| trap.effect == effect && trap.point == point;
        let Some(trap) = self.seats[at].trap.filter(hit) else { return false };
        if self.uncovered(at) {
            return false;
        }
        self.seats[at].trap = None;
        self.say(at, || {
            let what = if trap.kills { "killed" } else { "stopped" };
            format!("{what} {point} {}", effect.name())
        });
        if trap.kills {
            self.coverage.killed(effect, point);
            self.kill(at);
            let life = self.seats[at].life;
            self.queue.at(self.now + trap.ms * MS, Due::Start { at, life });
        } else {
            self.coverage.frozen(effect, point);
            self.freeze(at, trap.ms);
        }
        true
    }

    /// The process dies; the kernel keeps gate and addresses until its timers end them.
    pub(crate) fn kill(&mut self, at: usize) {
        if self.seats[at].node.is_none() || self.seats[at].power != Power::On {
            return;
        }
        self.say(at, || "process killed".into());
        self.crash_writes(at, true);
        self.leaves_gate(at);
        self.seats[at].forget_process();
        self.rules.g4.disturbed();
    }

    /// What was on its way to the disk: a killed process leaves it to the kernel, a power cut may
    /// tear it, which the other slot of the file survives.
    pub(crate) fn crash_writes(&mut self, at: usize, kernel_lives: bool) {
        let Some((_, record)) = self.seats[at].writing.take() else { return };
        match self.dice.roll(3) {
            0 => {
                self.coverage.saw(Counter::PersistKept);
                self.durable(at, record);
            }
            1 if !kernel_lives => self.coverage.saw(Counter::PersistTorn),
            _ => self.coverage.saw(Counter::PersistLost),
        }
    }

    fn durable(&mut self, at: usize, record: Durable) {
        self.coverage.evaluated(Rule::G1);
        let finding = self.rules.g1.durable(at, &self.seats[at].disk, &record);
        self.hold(Rule::G1, finding);
        self.seats[at].disk = record;
    }

    pub(crate) fn power_cut(&mut self, at: usize) {
        self.say(at, || "power cut".into());
        self.crash_writes(at, false);
        let now = self.now;
        let seat = &mut self.seats[at];
        if seat.power != Power::Off && seat.clock.is_stopped() {
            seat.clock.go_on(now);
        }
        seat.forget_process();
        seat.power = Power::Off;
        seat.gate_until = self.now;
        self.rules.g4.disturbed();
        self.answers_changed();
    }

    /// The process is stopped; the kernel goes on.
    pub(crate) fn freeze(&mut self, at: usize, ms: u64) {
        if !self.seats[at].awake() {
            return;
        }
        self.leaves_gate(at);
        let seat = &mut self.seats[at];
        seat.stops += 1;
        seat.frozen = Some(seat.stops);
        let stop = seat.stops;
        self.say(at, || format!("process stopped for {ms} ms"));
        self.rules.g4.disturbed();
        self.queue.at(self.now + ms * MS, Due::Thaw { at, stop });
    }

    /// The machine sleeps: nothing answers, kernel timers stand still.
    pub(crate) fn sleep(&mut self, at: usize, ms: u64, clocks_stop: bool) {
        if !self.seats[at].awake() {
            return;
        }
        let now = self.now;
        // No machine sleeps for less; what is shorter than a stall is not noticed as one.
        let ms = if clocks_stop { ms } else { ms.max(2 * self.pair.timing.beat().as_ms()) };
        let seat = &mut self.seats[at];
        let gate_left = seat.gate_until.saturating_sub(now);
        seat.power = Power::Asleep { gate_left };
        seat.gate_until = now;
        if clocks_stop {
            seat.shadow.stands(seat.clock.local(now));
            seat.clock.stop(now);
            seat.blind = Some(now);
        }
        seat.stops += 1;
        seat.frozen = Some(seat.stops);
        let stop = seat.stops;
        self.say(at, || format!("machine sleeps for {ms} ms, clocks stop: {clocks_stop}"));
        self.rules.g4.disturbed();
        self.answers_changed();
        self.queue.at(now + ms * MS, Due::Thaw { at, stop });
    }

    pub(crate) fn thaw(&mut self, at: usize, stop: u64) {
        if self.seats[at].frozen != Some(stop) {
            return;
        }
        let real = self.now;
        let seat = &mut self.seats[at];
        seat.frozen = None;
        if let Power::Asleep { gate_left } = seat.power {
            seat.power = Power::On;
            seat.gate_until = real + gate_left;
            seat.gate_slept = (gate_left > 0).then_some(real);
            if seat.clock.is_stopped() {
                seat.clock.go_on(real);
                seat.blind = Some(real);
            }
        }
        let now = seat.clock.local(real);
        let overdue = seat.node.as_ref().and_then(Node::deadline).map_or(0, |due| now.since(due).0);
        if overdue > self.pair.timing.stall().0 {
            seat.shadow.awake_since = now;
        }
        self.say(at, || "goes on".into());
        self.thawed_at = real;
        self.rules.g4.disturbed();
        self.gate_watch(at);
        self.thawed(at);
        self.answers_changed();
    }

    /// Unfinished effects first, then what waited in sockets and channels, then timers.
    fn thawed(&mut self, at: usize) {
        let life = self.seats[at].life;
        self.pump(at);
        while self.seats[at].awake() && self.seats[at].life == life {
            let Some(event) = self.seats[at].waiting.pop_front() else { break };
            if event == Event::Released && !self.seats[at].held {
                self.close(at);
            }
            self.feed(at, event);
            if self.rules.broken.is_some() {
                return;
            }
        }
        let seat = &self.seats[at];
        if !seat.awake() || seat.life != life {
            return;
        }
        let now = seat.clock.local(self.now);
        if seat.node.as_ref().and_then(Node::deadline).is_some_and(|due| due <= now) {
            self.feed(at, Event::Tick);
        }
    }

    pub(crate) fn written(
        &mut self,
        at: usize,
        life: u64,
        id: PersistId,
        record: Durable,
        took: bool,
    ) {
        let mine = self.seats[at].writing.is_some_and(|(writing, _)| writing == id);
        if self.seats[at].life != life || !mine {
            return;
        }
        self.seats[at].writing = None;
        if took {
            self.durable(at, record);
            self.tell(at, life, Event::Persisted(id));
        } else {
            self.coverage.saw(Counter::PersistFailed);
            self.tell(at, life, Event::PersistFailed(id));
        }
    }

    pub(crate) fn real_of(&self, at: usize, local: Mono) -> Ns {
        self.seats[at].clock.real(local)
    }
}
