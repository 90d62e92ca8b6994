//! Effects on this world: the simulator's counterpart of the daemon's beat thread.

use super::{Due, MS, World};
use crate::coverage::{Counter, Rule};
use crate::fault::{DiskMode, EffectKind};
use crate::trace_of;
use staffetta_core::{
    Answerer, Durable, Effect, Event, Intent, Mono, Note, Order, PersistId, Refusal, Role, Why,
};

pub(crate) fn kind(effect: &Effect) -> EffectKind {
    match effect {
        Effect::Send(_) => EffectKind::Send,
        Effect::Persist(..) => EffectKind::Persist,
        Effect::Claim { .. } => EffectKind::Claim,
        Effect::Renew { .. } => EffectKind::Renew,
        Effect::Release => EffectKind::Release,
        Effect::Consult(..) => EffectKind::Consult,
        Effect::Announce => EffectKind::Announce,
        Effect::Probe => EffectKind::Probe,
        Effect::Ask(_) => EffectKind::Ask,
        Effect::Exit => EffectKind::Exit,
        Effect::OrderDone(_) => EffectKind::OrderDone,
        Effect::Note(_) => EffectKind::Note,
        Effect::Drain { .. } => EffectKind::Drain,
        Effect::Undrain { .. } => EffectKind::Undrain,
        Effect::Degraded(..) => EffectKind::Degraded,
    }
}

impl World<'_> {
    pub(crate) fn carry_out(&mut self, at: usize, effect: Effect) {
        trace_of::effect(&mut self.trace, &effect);
        match effect {
            Effect::Send(beat) => {
                let now = self.seats[at].clock.local(self.now);
                self.seats[at].shadow.sent(&beat, now);
                self.said_reign(at, &beat.claim);
                self.transmit(at, beat);
            }
            Effect::Persist(id, record) => self.persist(at, id, record),
            Effect::Claim { epoch, until } => {
                self.say(at, || format!("claims {epoch}"));
                self.claim(at, until);
            }
            Effect::Renew { until } => self.renew(at, until),
            Effect::Release => self.release(at),
            Effect::Consult(id, request) => self.consult(at, id, request),
            Effect::Announce => {
                self.say(at, || "announces again".into());
                if self.seats[at].held && self.seats[at].answers_at(self.now) {
                    self.announce(at);
                }
            }
            Effect::Probe => self.probe(at),
            Effect::Ask(ask) => self.ask(at, &ask),
            Effect::Exit => self.exit(at),
            Effect::OrderDone(result) => {
                self.say(at, || format!("order: {result:?}"));
                self.seats[at].orders = self.seats[at].orders.saturating_sub(1);
                // Busy is the answer to another order than the one under way.
                if result != Err(Refusal::Busy) {
                    self.seats[at].vouched = None;
                }
                match result {
                    Ok(Order::StartAlone) => self.coverage.saw(Counter::StartAlone),
                    Ok(_) => {}
                    Err(_) => self.coverage.saw(Counter::Refusal),
                }
            }
            Effect::Note(note) => self.note(at, &note),
            Effect::Drain { epoch } => self.drain(at, epoch),
            Effect::Undrain { epoch } => self.undrain(at, epoch),
            Effect::Degraded(id, degraded) => self.degraded(at, id, degraded),
        }
    }

    fn persist(&mut self, at: usize, id: PersistId, record: Durable) {
        let life = self.seats[at].life;
        self.seats[at].writing = Some((id, record));
        let us = self.plan.weather.disk_us;
        let (took, ns) = match self.seats[at].ills.disk.map(|(_, mode)| mode) {
            None => (true, us * 1_000 + self.dice.roll(us * 500)),
            Some(DiskMode::Slow(ms)) => (true, ms * MS + self.dice.roll(us * 500)),
            Some(DiskMode::Fails) => (false, us * 1_000),
            Some(DiskMode::Stuck) => return,
        };
        self.queue.at(self.now + ns, Due::Written { at, life, id, record, took });
    }

    fn claim(&mut self, at: usize, until: Mono) {
        let now = self.seats[at].clock.local(self.now);
        if self.seats[at].ills.refuses > 0 || now >= until {
            self.coverage.saw(Counter::ClaimFailed);
            self.say(at, || "claim refused by the kernel".into());
            self.close(at);
            self.seats[at].turn.push_back(Event::ClaimFailed);
            return;
        }
        self.seats[at].held = true;
        self.arm(at, until);
        self.answers_changed();
        self.announce(at);
        self.seats[at].turn.push_back(Event::Claimed);
    }

    /// Hands what is left of the lease to the kernel, which may be late by less than G.
    pub(crate) fn arm(&mut self, at: usize, until: Mono) {
        let weather = &self.plan.weather;
        let left = self.real_of(at, until).saturating_sub(self.now);
        let left = u128::from(left) * u128::from(weather.gate_permille) / 1_000;
        let mut late = self.dice.roll(weather.gate_late_us + 1) * 1_000;
        if self.seats[at].ills.flushed > 0 {
            late = self.dice.roll(self.pair.lifetime_slack.0.saturating_sub(MS));
        }
        self.seats[at].gate_until = self.now + u64::try_from(left).unwrap_or(0) + late;
        self.seats[at].gate_slept = None;
        self.gate_watch(at);
    }

    fn renew(&mut self, at: usize, until: Mono) {
        let seat = &self.seats[at];
        if seat.clock.local(self.now) >= until {
            return self.close(at);
        }
        if seat.gate_until <= self.now {
            // The kernel's timer was first, or an older renewal that came late: the lease is live,
            // so claim anew.
            return self.claim(at, until);
        }
        self.arm(at, until);
    }

    fn release(&mut self, at: usize) {
        let life = self.seats[at].life;
        let slept = self.seats[at].gate_slept.is_some();
        match self.seats[at].ills.release_ms.filter(|_| !slept) {
            None => {
                self.close(at);
                self.seats[at].turn.push_back(Event::Released);
            }
            Some((_, ms)) => {
                // The kernel refuses for a while; the gate's timer runs on.
                self.seats[at].held = false;
                self.queue.at(self.now + ms * MS, Due::Released { at, life });
            }
        }
        self.say(at, || "lets the addresses go".into());
    }

    pub(crate) fn released(&mut self, at: usize, life: u64) {
        if self.seats[at].life != life || self.seats[at].node.is_none() {
            return;
        }
        if self.seats[at].awake() {
            if !self.seats[at].held {
                self.close(at);
            }
            self.feed(at, Event::Released);
        } else {
            self.seats[at].waiting.push_back(Event::Released);
        }
    }

    /// Closes the gate at once.
    pub(crate) fn close(&mut self, at: usize) {
        let seat = &mut self.seats[at];
        let was = seat.answers_at(self.now);
        seat.held = false;
        // Whoever heard nobody since its clocks stood still knows no more for having let go.
        seat.blind = seat.blind.filter(|woke| seat.shadow.last_heard < seat.clock.local(*woke));
        seat.gate_until = seat.gate_until.min(self.now);
        if was {
            self.answers_changed();
        }
    }

    pub(crate) fn gate_watch(&mut self, at: usize) {
        let seat = &mut self.seats[at];
        if !seat.gate_watched && seat.gate_until > self.now {
            seat.gate_watched = true;
            self.queue.at(seat.gate_until, Due::GateEnd { at });
        }
    }

    pub(crate) fn gate_end(&mut self, at: usize) {
        self.seats[at].gate_watched = false;
        let until = self.seats[at].gate_until;
        if until > self.now {
            return self.gate_watch(at);
        }
        if until == self.now {
            self.coverage.saw(Counter::GateByTimer);
            self.say(at, || "gate closed by the kernel's timer".into());
            self.answers_changed();
        }
    }

    fn probe(&mut self, at: usize) {
        let (life, other) = (self.seats[at].life, 1 - at);
        let lan = self.seats[at].ills.lan == 0 && self.seats[other].ills.lan == 0;
        let delay = self.delay().min(MS);
        let said = if lan && self.seats[other].answers_at(self.now) {
            Answerer::Peer
        } else if self.strangers > 0 && self.seats[at].ills.lan == 0 {
            Answerer::Stranger
        } else {
            return;
        };
        self.seats[at].answers = Some((said, self.seats[at].clock.local(self.now)));
        self.queue.at(self.now + delay, Due::Tell { at, life, event: Event::Probed(said) });
    }

    fn exit(&mut self, at: usize) {
        self.say(at, || "process ends".into());
        self.crash_writes(at, true);
        self.close(at);
        self.seats[at].forget_process();
        self.rules.g4.disturbed();
        let life = self.seats[at].life;
        self.queue.at(self.now + 1_500 * MS, Due::Start { at, life });
    }

    fn note(&mut self, at: usize, note: &Note) {
        self.say(at, || match note {
            Note::Role { from, to, epoch, why } => format!("{from:?} -> {to:?} {epoch} ({why:?})"),
            Note::Stall(late) => format!("was {} ms late", late.as_ms()),
            other => format!("{other:?}"),
        });
        match note {
            Note::Role { from, to, why, .. } => self.role_changed(at, *from, *to, *why),
            Note::Stall(late) => {
                self.coverage.saw(Counter::Stall);
                if *late > self.lease() {
                    self.coverage.saw(Counter::StallOverLease);
                }
            }
            Note::Met { .. } => self.coverage.saw(Counter::Meeting),
            Note::Paired(true) => {
                if self.seats[at].held && self.seats[at].answers_at(self.now) {
                    self.announce(at);
                }
            }
            Note::Paired(false) => {
                let serves = self.seats[at].node.as_ref().is_some_and(|node| {
                    let now = self.seats[at].clock.local(self.now);
                    node.view(now).role == Role::Primary
                });
                if serves {
                    self.coverage.saw(Counter::Alone);
                }
            }
            Note::Refused(..) => self.coverage.saw(Counter::VerdictRefused),
            Note::Epoch(_) | Note::PeerBoot(_) | Note::Alarm(..) | Note::HandedWithoutData(_) => {}
        }
    }

    fn role_changed(&mut self, at: usize, from: Role, to: Role, why: Why) {
        if to == Role::Primary {
            self.planned[at] = why == Why::HandedOver;
            match why {
                Why::Won => self.coverage.saw(Counter::JointClaim),
                Why::HandedOver => self.coverage.saw(Counter::Handover),
                Why::Verdict(Intent::TakeOver) => self.coverage.saw(Counter::Takeover),
                Why::Granted
                | Why::Elected
                | Why::Outvoted
                | Why::Verdict(_)
                | Why::Operator
                | Why::HandingOver
                | Why::NotTaken
                | Why::DataNotShipped
                | Why::LeaseEnded
                | Why::Stalled
                | Why::HigherEpoch(_)
                | Why::SilenceBroken
                | Why::Arbiter
                | Why::Disk
                | Why::Kernel
                | Why::Stop => {}
            }
        }
        if to == Role::Primary && !self.plan.weather.data && !self.seats[at].synced {
            self.tell_synced(at, false);
        }
        self.healing.moves += u64::from(to == Role::Primary);
        let finding = self.rules.calm.role(at, self.now, from, to);
        self.hold(Rule::NoNeedless, finding);
    }
}
