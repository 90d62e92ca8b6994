//! Two cores, two one-way links, two disks and two gates on one event queue: no thread, no clock,
//! no randomness of its own.
#![allow(dead_code, reason = "each test binary uses its own part of the harness")]

use staffetta_core::{
    Answerer, Ask, Beat, Boot, Durable, Effect, Epoch, Event, Intent, Mono, Node, Note, Options,
    Order, Question, Register, Reply, Request, RequestId, Role, Shipment, Side, Span, SyncId,
    Timing, TimingParts, Verdict,
};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// How late the kernel may close a gate; must stay below the slack in the beats.
const GATE_LATE: Span = Span::ms(4);
const POLICY_TAKES: Span = Span::ms(1);
const DRAIN_PATIENCE: Span = Span::ms(1_000);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Says {
    BuiltIn,
    Hold,
    Nothing,
    Late,
    TakeOver,
    Random,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    Takes(Span),
    Fails,
}

/// What the data plane does with a handover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ships {
    Takes(Span),
    Fails,
    Never,
}

#[derive(Debug)]
enum Due {
    Run(usize, u64),
    Frame { to: usize, beat: Beat },
    Persisted { at: usize, life: u64, id: staffetta_core::PersistId, record: Durable },
    PersistFailed { at: usize, life: u64, id: staffetta_core::PersistId },
    Answer { at: usize, life: u64, ask: Box<Ask> },
    Deliver { at: usize, life: u64, event: Event },
    Arbiter { from: usize, life: u64, id: RequestId, request: Request },
}

/// A register outside the pair, and the way to it from each seat.
pub(crate) struct Arbiter {
    pub(crate) register: Option<Register>,
    /// One way.
    pub(crate) delay: [Span; 2],
    pub(crate) away: [bool; 2],
    /// The request arrives, the reply does not.
    pub(crate) mute: [bool; 2],
    /// Connections are refused: every request fails at once.
    pub(crate) refuses: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    Crash,
    Freeze,
}

pub(crate) struct Seat {
    pub(crate) mid: Option<(Cut, usize)>,
    rest: Vec<Effect>,
    pub(crate) claim_fails: bool,
    pub(crate) release_ms: u64,
    pub(crate) answered: u64,
    pub(crate) ordered: u64,
    pub(crate) license: bool,
    pub(crate) node: Option<Node>,
    life: u64,
    pub(crate) disk: Durable,
    pub(crate) disk_takes: Disk,
    pub(crate) says: Says,
    pub(crate) ships: Ships,
    /// Words of the data plane so far.
    words: u64,
    /// Rate of this node's clock, parts per million off.
    pub(crate) ppm: i64,
    pub(crate) frozen: bool,
    waiting: Vec<Event>,
    /// The kernel's gate in real time: survives the process.
    pub(crate) gate_until: Mono,
    next_run: u64,
    pub(crate) exited: bool,
}

pub(crate) struct World {
    pub(crate) now: Mono,
    queue: BTreeMap<(Mono, u64), Due>,
    seq: u64,
    pub(crate) seats: [Seat; 2],
    /// `cut[from]`: frames from that seat are lost.
    pub(crate) cut: [bool; 2],
    /// The newest hand that a seat sent, kept to be delivered again.
    hands: [Option<Beat>; 2],
    /// The nodes see each other on the service network.
    pub(crate) lan: bool,
    pub(crate) gate_late: Span,
    pub(crate) delay: Span,
    timing: Timing,
    slack: Span,
    pub(crate) trace: String,
    pub(crate) dual: Span,
    last_check: Mono,
    pub(crate) primaries: u64,
    pub(crate) dice: u64,
    pub(crate) jitter: u64,
    pub(crate) dup_ms: u64,
    pub(crate) loss: u64,
    pub(crate) fire: u64,
    pub(crate) refused: Vec<staffetta_core::Refusal>,
    pub(crate) arbiter: Option<Arbiter>,
    /// The nodes have data.
    pub(crate) data: bool,
}

pub(crate) fn timing(beat: u64, lease: u64, delay: u64, slack: u64) -> Timing {
    Timing::new(TimingParts {
        beat: Span::ms(beat),
        lease: Span::ms(lease),
        delay: Span::ms(delay),
        slack: Span::ms(slack),
        policy_deadline: Span::ms(40),
        join_timeout: Span::ms(10_000),
        stop_budget: Span::ms(3_000),
    })
    .unwrap()
}

fn seat() -> Seat {
    Seat {
        mid: None,
        rest: Vec::new(),
        claim_fails: false,
        release_ms: 0,
        answered: 0,
        ordered: 0,
        license: true,
        node: None,
        life: 0,
        disk: Durable::default(),
        disk_takes: Disk::Takes(Span::ms(2)),
        says: Says::BuiltIn,
        ships: Ships::Takes(Span::ms(3)),
        words: 0,
        ppm: 0,
        frozen: false,
        waiting: Vec::new(),
        gate_until: Mono::ZERO,
        next_run: 0,
        exited: false,
    }
}

impl World {
    pub(crate) fn new(timing: Timing) -> World {
        World {
            now: Mono::ZERO,
            queue: BTreeMap::new(),
            seq: 0,
            seats: [seat(), seat()],
            cut: [false, false],
            hands: [None, None],
            lan: true,
            gate_late: GATE_LATE,
            delay: Span(200_000),
            timing,
            slack: timing.parts().slack,
            trace: String::new(),
            dual: Span::ZERO,
            last_check: Mono::ZERO,
            primaries: 0,
            dice: 88172645463325252,
            jitter: 0,
            dup_ms: 0,
            loss: 0,
            fire: 0,
            refused: Vec::new(),
            arbiter: None,
            data: false,
        }
    }

    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice >> 12;
        self.dice ^= self.dice << 25;
        self.dice ^= self.dice >> 27;
        (self.dice.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides.max(1)
    }

    fn at(&mut self, when: Mono, due: Due) {
        self.seq += 1;
        self.queue.insert((when.max(self.now), self.seq), due);
    }

    /// The node's own clock: real time, off by its rate.
    fn clock(&self, i: usize) -> Mono {
        let off = i128::from(self.now.0) * i128::from(self.seats[i].ppm) / 1_000_000;
        Mono(u64::try_from(i128::from(self.now.0) + off).unwrap())
    }

    fn real(&self, i: usize, local: Mono) -> Mono {
        let rate = 1_000_000 + i128::from(self.seats[i].ppm);
        Mono(u64::try_from(i128::from(local.0) * 1_000_000 / rate).unwrap_or(u64::MAX))
    }

    pub(crate) fn boot(&mut self, i: usize) {
        let now = self.clock(i);
        let seat = &mut self.seats[i];
        seat.life += 1;
        seat.exited = false;
        // A VIP left over from a former life is removed before anything else.
        seat.gate_until = self.now;
        let options = Options {
            side: if i == 0 { Side::A } else { Side::B },
            preferred: false,
            peer_preferred: false,
            arbiter: self.arbiter.is_some(),
            timing: self.timing,
            data: self.data,
            drain_patience: DRAIN_PATIENCE,
        };
        let id = seat.life * 2 + i as u64 + 1_000;
        let boot = Boot { id, now, disk: seat.disk, slack: self.slack };
        seat.node = Some(Node::new(options, boot));
        self.say(i, "boots");
        self.feed(
            i,
            Event::License { may_form: self.seats[i].license, may_plan: self.seats[i].license },
        );
        self.feed(i, Event::Links(2));
    }

    pub(crate) fn crash(&mut self, i: usize) {
        if self.roll(2) == 0 {
            let life = self.seats[i].life;
            let landed = self
                .queue
                .values()
                .filter_map(|due| match due {
                    Due::Persisted { at, life: l, record, .. } if *at == i && *l == life => {
                        Some(*record)
                    }
                    _ => None,
                })
                .next_back();
            if let Some(record) = landed
                && self.seats[i].node.is_some()
            {
                self.seats[i].disk = record;
            }
        }
        self.seats[i].rest.clear();
        self.seats[i].node = None;
        self.seats[i].waiting.clear();
        self.seats[i].frozen = false;
        self.say(i, "crashes");
    }

    pub(crate) fn freeze(&mut self, i: usize) {
        self.seats[i].frozen = true;
        self.say(i, "freezes");
    }

    pub(crate) fn thaw(&mut self, i: usize) {
        self.seats[i].frozen = false;
        self.say(i, "thaws");
        let rest = std::mem::take(&mut self.seats[i].rest);
        let life = self.seats[i].life;
        for effect in rest {
            self.carry_out(i, life, effect);
        }
        let waiting = std::mem::take(&mut self.seats[i].waiting);
        for event in waiting {
            self.feed(i, event);
        }
        self.feed(i, Event::Tick);
    }

    /// The network delivers the newest hand that `from` sent, whatever became of it before.
    pub(crate) fn hand_again(&mut self, from: usize) {
        let beat = self.hands[from].expect("that node never sent a hand");
        self.say(1 - from, "hears an old hand");
        self.feed(1 - from, Event::Heard(beat));
    }

    pub(crate) fn order(&mut self, i: usize, order: Order) {
        self.seats[i].ordered += 1;
        self.feed(i, Event::Order(order));
    }

    pub(crate) fn feed(&mut self, i: usize, event: Event) {
        if self.seats[i].frozen {
            if matches!(event, Event::Tick) {
                return;
            }
            self.seats[i].waiting.push(event);
            return;
        }
        let now = self.clock(i);
        let Some(node) = &mut self.seats[i].node else { return };
        let effects = node.step(now, event);
        let due = node.deadline();
        let life = self.seats[i].life;
        let mut stop = None;
        if let Some((cut, k)) = self.seats[i].mid
            && effects.len() > 1
            && effects.iter().any(|e| !matches!(e, Effect::Send(_) | Effect::Note(_)))
        {
            self.seats[i].mid = None;
            self.fire += 1;
            stop = Some((cut, k % effects.len()));
        }
        for (at, effect) in effects.into_iter().enumerate() {
            if let Some((_, k)) = stop
                && at >= k
            {
                self.seats[i].rest.push(effect);
                continue;
            }
            self.carry_out(i, life, effect);
        }
        match stop {
            Some((Cut::Crash, _)) => {
                self.crash(i);
                return;
            }
            Some((Cut::Freeze, _)) => self.freeze(i),
            None => {}
        }
        if let Some(due) = due {
            self.seats[i].next_run += 1;
            let run = self.seats[i].next_run;
            let when = self.real(i, due) + Span(1_000);
            self.at(when, Due::Run(i, run));
        }
    }

    fn carry_out(&mut self, i: usize, life: u64, effect: Effect) {
        match effect {
            Effect::Send(beat) => {
                if beat.hand.is_some() {
                    self.hands[i] = Some(beat);
                }
                if !self.cut[i] && (self.loss == 0 || self.roll(1000) >= self.loss) {
                    let j = if self.jitter > 0 { self.roll(self.jitter) } else { 0 };
                    self.at(self.now + self.delay + Span(j), Due::Frame { to: 1 - i, beat });
                    if self.dup_ms > 0 && self.roll(4) == 0 {
                        let d = self.roll(self.dup_ms * 1_000_000);
                        self.at(self.now + Span(d), Due::Frame { to: 1 - i, beat });
                    }
                }
            }
            Effect::Persist(id, record) => match self.seats[i].disk_takes {
                Disk::Takes(span) => {
                    self.at(self.now + span, Due::Persisted { at: i, life, id, record });
                }
                Disk::Fails => self.at(self.now, Due::PersistFailed { at: i, life, id }),
            },
            Effect::Claim { until, .. } => {
                if self.seats[i].claim_fails || self.clock(i) >= until {
                    self.seats[i].gate_until = self.now;
                    return self
                        .at(self.now, Due::Deliver { at: i, life, event: Event::ClaimFailed });
                }
                self.seats[i].gate_until = self.real(i, until) + self.gate_late;
                self.at(self.now, Due::Deliver { at: i, life, event: Event::Claimed });
            }
            Effect::Renew { until } => {
                if self.clock(i) >= until {
                    self.seats[i].gate_until = self.now;
                    return;
                }
                self.seats[i].gate_until = self.real(i, until) + self.gate_late;
            }
            Effect::Release => {
                let ms = self.seats[i].release_ms;
                if ms == 0 {
                    self.seats[i].gate_until = self.now;
                }
                let due = Due::Deliver { at: i, life, event: Event::Released };
                self.at(self.now + Span::ms(ms), due);
            }
            Effect::Consult(id, request) => self.consult(i, life, id, request),
            Effect::Drain { epoch } => self.drain(i, life, epoch),
            Effect::Undrain { epoch } => self.say(i, &format!("undrain {epoch}")),
            Effect::Degraded(id, degraded) => {
                let how = if degraded { "without the peer" } else { "with the peer" };
                self.say(i, &format!("word {}: acknowledges {how}", id.0));
            }
            Effect::Announce => self.say(i, "announces again"),
            Effect::Probe => {
                if self.lan && self.seats[1 - i].gate_until > self.now {
                    let event = Event::Probed(Answerer::Peer);
                    self.at(self.now + self.delay, Due::Deliver { at: i, life, event });
                }
            }
            Effect::Ask(ask) => {
                let ask = Box::new(ask);
                self.at(self.now + POLICY_TAKES, Due::Answer { at: i, life, ask });
            }
            Effect::Exit => {
                self.say(i, "exits");
                self.seats[i].node = None;
                self.seats[i].exited = true;
            }
            Effect::OrderDone(result) => {
                self.seats[i].answered += 1;
                self.say(i, &format!("order: {result:?}"));
                self.refused.extend(result.err());
            }
            Effect::Note(note) => self.note(i, &note),
        }
    }

    fn drain(&mut self, i: usize, life: u64, epoch: Epoch) {
        self.say(i, &format!("drain {epoch}"));
        let (shipment, span) = match self.seats[i].ships {
            Ships::Takes(span) => (Shipment::Whole, span),
            Ships::Fails => (Shipment::Failed, Span::ms(1)),
            Ships::Never => return,
        };
        let event = Event::Drained(epoch, shipment);
        self.at(self.now + span, Due::Deliver { at: i, life, event });
    }

    /// The data plane of a node says whether its peer has everything.
    pub(crate) fn synced(&mut self, i: usize, synced: bool) {
        self.seats[i].words += 1;
        let word = self.seats[i].words;
        self.say(i, &format!("word {word}: synced {synced}"));
        self.feed(i, Event::Synced(SyncId(word), synced));
    }

    fn consult(&mut self, i: usize, life: u64, id: RequestId, request: Request) {
        let Some(arbiter) = &self.arbiter else { return };
        if arbiter.refuses {
            let event = Event::Consulted(id, Reply::Failed);
            self.at(self.now, Due::Deliver { at: i, life, event });
        } else if !arbiter.away[i] {
            let when = self.now + arbiter.delay[i];
            self.at(when, Due::Arbiter { from: i, life, id, request });
        }
    }

    fn note(&mut self, i: usize, note: &Note) {
        let text = match note {
            Note::Role { from, to, epoch, why } => {
                self.primaries += u64::from(*to == Role::Primary);
                format!("{from:?} -> {to:?} {epoch} ({why:?})")
            }
            Note::Stall(late) => format!("stalled {} ms", late.as_ms()),
            other => format!("{other:?}"),
        };
        self.say(i, &text);
    }

    fn say(&mut self, i: usize, text: &str) {
        let name = if i == 0 { 'A' } else { 'B' };
        let ms = self.now.0 / 1_000_000;
        writeln!(self.trace, "{ms:>6} {name} {text}").unwrap();
    }

    fn answer(&mut self, i: usize, life: u64, ask: &Ask) {
        if self.seats[i].life != life {
            return;
        }
        let built_in = match ask.question {
            Question::Start if ask.seen.was_primary => Intent::TakeOver,
            Question::Start => Intent::AskOperator,
            Question::PeerSilent if ask.seen.vip.0 == Answerer::Peer => Intent::Hold,
            Question::PeerSilent => Intent::TakeOver,
            Question::GoOnAlone => Intent::GoOnAlone,
            Question::Switchover => Intent::HandOver,
            Question::Review | Question::SplitBrain { .. } => Intent::Hold,
        };
        let intent = match self.seats[i].says {
            Says::BuiltIn => built_in,
            Says::Hold => Intent::Hold,
            Says::TakeOver => Intent::TakeOver,
            Says::Nothing => return self.feed(i, Event::Unanswered(ask.id)),
            Says::Late => return,
            Says::Random => match self.roll(7) {
                0 => Intent::Hold,
                1 => Intent::TakeOver,
                2 => Intent::GoOnAlone,
                3 => Intent::HandOver,
                4 => {
                    if self.roll(8) == 0 {
                        Intent::StepDown
                    } else {
                        Intent::TakeOver
                    }
                }
                5 => Intent::AskOperator,
                _ => Intent::GoOnAlone,
            },
        };
        let recheck = (intent == Intent::Hold).then_some(Span::ms(100));
        self.feed(i, Event::Answered(ask.id, Verdict { intent, recheck }));
    }

    /// Runs until `end`; both gates are compared at every event.
    pub(crate) fn run_until(&mut self, end: Mono) {
        while let Some((&(when, seq), _)) = self.queue.first_key_value() {
            if when > end {
                break;
            }
            let due = self.queue.remove(&(when, seq)).unwrap();
            self.pass_to(when);
            match due {
                Due::Run(i, run) if self.seats[i].next_run == run => self.feed(i, Event::Tick),
                Due::Run(..) => {}
                Due::Frame { to, beat } => self.feed(to, Event::Heard(beat)),
                Due::Persisted { at, life, id, record } => {
                    if self.seats[at].life == life && self.seats[at].node.is_some() {
                        self.seats[at].disk = record;
                        self.feed(at, Event::Persisted(id));
                    }
                }
                Due::PersistFailed { at, life, id } => {
                    if self.seats[at].life == life {
                        self.feed(at, Event::PersistFailed(id));
                    }
                }
                Due::Arbiter { from, life, id, request } => self.arbitrate(from, life, id, request),
                Due::Answer { at, life, ask } => self.answer(at, life, &ask),
                Due::Deliver { at, life, event } => {
                    if self.seats[at].life == life {
                        if event == Event::Released {
                            self.seats[at].gate_until = self.now;
                        }
                        self.feed(at, event);
                    }
                }
            }
        }
        self.pass_to(end);
    }

    fn arbitrate(&mut self, from: usize, life: u64, id: RequestId, request: Request) {
        let Some(arbiter) = &mut self.arbiter else { return };
        let mut said = None;
        let reply = match request {
            Request::Swap { expect, to } if arbiter.register == expect => {
                let before = arbiter.register.map(|r| (r.epoch, r.alone));
                if before != Some((to.epoch, to.alone)) {
                    let how = if to.alone { "alone" } else { "paired" };
                    said = Some(format!("register: {} {how}", to.epoch));
                }
                arbiter.register = Some(to);
                Reply::Swapped
            }
            Request::Swap { .. } => {
                said = Some("register: lost".into());
                Reply::Holds(arbiter.register)
            }
            Request::Read => Reply::Holds(arbiter.register),
        };
        let (mute, when) = (arbiter.mute[from], self.now + arbiter.delay[from]);
        if let Some(said) = said {
            self.say(from, &said);
        }
        if !mute {
            let event = Event::Consulted(id, reply);
            self.at(when, Due::Deliver { at: from, life, event });
        }
    }

    fn pass_to(&mut self, when: Mono) {
        let both = self.seats[0].gate_until.min(self.seats[1].gate_until).min(when);
        if both.since(self.last_check) > Span::ZERO && self.dual == Span::ZERO {
            let t = format!(
                "<<< DUAL starts about {:?} gates {:?} {:?}",
                self.last_check, self.seats[0].gate_until, self.seats[1].gate_until
            );
            self.say(0, &t);
        }
        self.dual += both.since(self.last_check);
        self.last_check = when;
        self.now = when;
    }

    pub(crate) fn role(&self, i: usize) -> Option<Role> {
        self.seats[i].node.as_ref().map(|node| node.view(self.clock(i)).role)
    }

    pub(crate) fn level(&self, i: usize) -> Option<staffetta_core::Level> {
        self.seats[i].node.as_ref().map(|node| node.view(self.clock(i)).level)
    }

    pub(crate) fn stale(&self, i: usize) -> bool {
        self.seats[i].node.as_ref().is_some_and(|node| node.view(self.clock(i)).stale)
    }

    pub(crate) fn serving(&self, i: usize) -> bool {
        self.seats[i].gate_until > self.now
    }
}
