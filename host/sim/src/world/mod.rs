//! The world of one history: two machines, links, disks, kernels, phones, an arbiter, on one queue.
//!
//! No thread, no clock, no randomness but the seed's. Like the daemon's shell it interprets events
//! and effects; unlike it, it may stop anywhere.

mod arbiter;
mod ask;
mod clients;
mod data;
mod heal;
mod hurt;
mod link;
mod process;
mod queue;
mod seat;
mod shadow;
mod shell;

use crate::coverage::{Counter, Coverage, Rule};
use crate::dice::Dice;
use crate::fault::{EffectKind, seat_name};
use crate::invariant::{Finding, Rules, Violation, g3, g5};
use crate::plan::{History, Pair};
use crate::policies::Policies;
use crate::trace::Trace;
use arbiter::Arbiter;
use clients::Clients;
use heal::Healing;
use link::{Frame, Links};
use queue::Queue;
use seat::{Power, Seat};
use staffetta_core::{Claim, Durable, Epoch, Event, Mono, Options, PersistId, Side, Span};
use staffetta_situation::{Named, Site};

pub(crate) use data::Rows;
pub(crate) use seat::Word;

/// Nanoseconds of real time since the start of the history.
pub(crate) type Ns = u64;

pub(crate) const MS: Ns = 1_000_000;
/// The wall clock at the start: forty seconds before one of the license documents ends.
pub(crate) const WALL_START_S: i64 = 1_795_462_757;

const PURPOSE_NOISE: u64 = 2;
const PURPOSE_DATA: u64 = 4;

/// Something that is due.
#[derive(Debug)]
pub(crate) enum Due {
    /// The loop of a node wakes.
    Run { at: usize, run: u64 },
    /// A frame arrives.
    Frame(Box<Frame>),
    /// The disk is done with a write, or refuses it.
    Written { at: usize, life: u64, id: PersistId, record: Durable, took: bool },
    /// Something reaches the process of this life.
    Tell { at: usize, life: u64, event: Event },
    /// The kernel has let the addresses go.
    Released { at: usize, life: u64 },
    /// An announcement of the burst of this number.
    Announce { at: usize, burst: u64, step: usize },
    /// A look at the end of a gate.
    GateEnd { at: usize },
    /// A request reaches the arbiter.
    Asked { at: usize, life: u64, request: arbiter::Asked },
    /// The licensing of a node looks around.
    License { at: usize, life: u64 },
    /// An address entry of a client expires.
    Expire { client: usize, moved: u64 },
    /// The fault of this number in the history.
    Fault(usize),
    /// It ends.
    Mend(usize),
    /// A stopped process goes on.
    Thaw { at: usize, stop: u64 },
    /// A process is started.
    Start { at: usize, life: u64 },
    /// Everything is mended and the ending begins.
    Ending,
    /// Services write, and data planes look around.
    Data,
    /// What a primary ships arrives.
    Shipped(Box<data::Parcel>),
    /// What its peer has is confirmed to a primary.
    Confirmed(Box<data::Parcel>),
    /// The operator, and the judge of the healing.
    Judge,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Hash over everything that happened.
    pub hash: u64,
    /// The first violation.
    pub violation: Option<Violation>,
    /// What was seen.
    pub coverage: Coverage,
    /// Times without an answer, one for each client and outage, µs.
    pub outages_us: Vec<u64>,
    /// From the last answer of one node to the first of the other, without plan, µs.
    pub takeovers_us: Vec<u64>,
    /// From the ending's begin to the healing, µs.
    pub heal_us: Option<u64>,
    /// Simulated time, ms.
    pub simulated_ms: u64,
    /// The trace, where it was asked for.
    pub text: String,
}

pub(crate) struct World<'a> {
    pub pair: &'a Pair,
    pub plan: &'a History,
    pub policies: &'a mut dyn Policies,
    pub now: Ns,
    pub queue: Queue<Due>,
    pub seats: [Seat; 2],
    pub sites: [Site; 2],
    pub links: Links,
    pub arbiter: Arbiter,
    pub clients: Clients,
    pub dice: Dice,
    /// For data alone.
    pub data_dice: Dice,
    pub sync_timeout: Ns,
    pub trace: Trace,
    pub coverage: Coverage,
    pub rules: Rules,
    pub healing: Healing,
    pub strangers: u32,
    pub boots: u64,
    pub takeovers_us: Vec<u64>,
    /// Until when each node answered.
    pub answered_until: [Ns; 2],
    /// Who answered last.
    pub server: Option<usize>,
    /// The present reign of each node was handed over to it.
    pub planned: [bool; 2],
    /// When a stopped process last went on.
    pub thawed_at: Ns,
}

pub(crate) fn side(at: usize) -> Side {
    if at == 0 { Side::A } else { Side::B }
}

pub(crate) fn index(side: Side) -> usize {
    match side {
        Side::A => 0,
        Side::B => 1,
    }
}

fn sites(pair: &Pair) -> [Site; 2] {
    let named = |side: Side| Named {
        name: if side == Side::A { "na".into() } else { "nb".into() },
        site: String::new(),
        preferred: pair.preferred == Some(side),
    };
    let vip = (std::net::Ipv4Addr::new(192, 0, 2, 50).into(), "192.0.2.50/24".to_owned());
    [Side::A, Side::B].map(|side| Site {
        side,
        me: named(side),
        peer: named(side.other()),
        vips: vec![vip.clone()],
    })
}

/// Runs one history to its end, or to its first violation.
pub(crate) fn run(
    pair: &Pair,
    plan: &History,
    policies: &mut dyn Policies,
    with_text: bool,
) -> Outcome {
    let mut world = World::new(pair, plan, policies, with_text);
    world.begin();
    while world.rules.broken.is_none() && !world.healing.done {
        let Some((when, due)) = world.queue.pop() else { break };
        world.pass_to(when);
        world.take(due);
    }
    world.finish()
}

impl<'a> World<'a> {
    fn new(
        pair: &'a Pair,
        plan: &'a History,
        policies: &'a mut dyn Policies,
        with_text: bool,
    ) -> World<'a> {
        let slack = pair.timing.parts().slack;
        let mut dice = Dice::new(plan.seed, PURPOSE_NOISE);
        let mut data_dice = Dice::new(plan.seed, PURPOSE_DATA);
        World {
            pair,
            plan,
            policies,
            now: 0,
            queue: Queue::new(),
            seats: [0, 1].map(|at| Seat::new(plan.weather.ppm[at], slack)),
            sites: sites(pair),
            links: Links::new(plan.weather.links),
            arbiter: Arbiter::default(),
            clients: Clients::new(&mut dice),
            dice,
            sync_timeout: data::sync_timeout(&mut data_dice),
            data_dice,
            trace: Trace::new(with_text),
            coverage: Coverage::default(),
            rules: Rules::new(pair, plan),
            healing: Healing::default(),
            strangers: 0,
            boots: 0,
            takeovers_us: Vec::new(),
            answered_until: [0; 2],
            server: None,
            planned: [false; 2],
            thawed_at: 0,
        }
    }

    fn begin(&mut self) {
        for (number, timed) in self.plan.faults.iter().enumerate() {
            self.queue.at(timed.at_us * 1_000, Due::Fault(number));
        }
        self.queue.at(self.plan.until_ms * MS, Due::Ending);
        if self.plan.weather.data {
            self.queue.at(0, Due::Data);
        }
        let apart = self.dice.roll(400) * MS;
        let late = self.dice.roll(2) as usize;
        self.queue.at(0, Due::Start { at: 1 - late, life: 0 });
        self.queue.at(apart, Due::Start { at: late, life: 0 });
    }

    fn take(&mut self, due: Due) {
        match due {
            Due::Run { at, run } => self.wake(at, run),
            Due::Frame(frame) => self.arrive(*frame),
            Due::Written { at, life, id, record, took } => {
                self.written(at, life, id, record, took);
            }
            Due::Tell { at, life, event } => self.tell(at, life, event),
            Due::Released { at, life } => self.released(at, life),
            Due::Announce { at, burst, step } => self.announce_step(at, burst, step),
            Due::GateEnd { at } => self.gate_end(at),
            Due::Asked { at, life, request } => self.arbiter_takes(at, life, request),
            Due::License { at, life } => self.licensing(at, life),
            Due::Expire { client, moved } => self.expire(client, moved),
            Due::Fault(number) => self.hurt(number),
            Due::Mend(number) => self.mend(number),
            Due::Thaw { at, stop } => self.thaw(at, stop),
            Due::Start { at, life } => self.start_due(at, life),
            Due::Ending => self.begin_ending(),
            Due::Judge => self.judge(),
            Due::Data => self.data_look(),
            Due::Shipped(parcel) => self.shipped(*parcel),
            Due::Confirmed(parcel) => self.confirmed(*parcel),
        }
    }

    /// Time passes; who answered meanwhile is compared.
    fn pass_to(&mut self, when: Ns) {
        let answered = |at: usize| match self.seats[at].power {
            Power::On => self.seats[at].gate_until.min(when),
            Power::Asleep { .. } | Power::Off => 0,
        };
        let until = [answered(0), answered(1)];
        for (last, until) in self.answered_until.iter_mut().zip(until) {
            *last = (*last).max(until);
        }
        let both = until[0].min(until[1]);
        if both > self.now {
            self.overlap(both);
        }
        self.now = when;
    }

    /// Both nodes answered from now until `until`.
    fn overlap(&mut self, until: Ns) {
        let grace = self.lease() + self.pair.lifetime_slack;
        let blind = |seat: &Seat| seat.blind.is_some_and(|since| self.now - since <= grace.0);
        let blind = self.seats.iter().any(blind);
        if g3::excused(self.plan.premise, self.plan.arbiter, blind) {
            self.coverage.saw(Counter::Excused);
            let awake = self.seats.iter().all(Seat::awake);
            let meet = awake && !blind && self.links.clean(0) && self.links.clean(1);
            let finding = self.rules.g4.overlap(self.now, until, meet, &mut self.coverage);
            return self.hold(Rule::G4, finding);
        }
        let rule = if self.plan.arbiter { Rule::A1 } else { Rule::G3 };
        self.break_rule(rule, g3::text((until - self.now).div_ceil(1_000)));
    }

    pub(crate) fn hold(&mut self, rule: Rule, finding: Finding) {
        if let Err(text) = finding {
            self.break_rule(rule, text);
        }
    }

    /// A node says in a beat that it reigns.
    pub(crate) fn said_reign(&mut self, at: usize, claim: &Claim) {
        let finding = self.rules.g2.said(at, claim, &mut self.coverage);
        self.hold(Rule::G2, finding);
    }

    /// A node begins a reign, or gives the running one a new number.
    pub(crate) fn new_reign(&mut self, at: usize, epoch: Epoch) {
        self.coverage.evaluated(Rule::G1);
        let seat = &mut self.seats[at];
        let from = seat.shadow.reign.map_or(epoch, |(from, _)| from);
        seat.shadow.reign = Some((from, epoch));
        seat.writes_as = epoch;
        let resumes = self.resumes(at);
        let seat = &self.seats[at];
        let granted = seat.shadow.granted_max;
        let finding = self.rules.g1.reign(at, epoch, &seat.disk, granted, resumes);
        self.hold(Rule::G1, finding);
    }

    /// A node reigns by a grant from before its clocks stood still.
    pub(crate) fn resumes(&self, at: usize) -> bool {
        let times = shadow::Times::new(self.pair.timing.parts());
        self.seats[at].shadow.resumes(&times)
    }

    /// A node arms its gate until then.
    pub(crate) fn lease_is_granted(&mut self, at: usize, until: Mono) {
        self.coverage.evaluated(Rule::G5);
        let seat = &mut self.seats[at];
        let now = seat.clock.local(self.now);
        let times = shadow::Times::new(self.pair.timing.parts());
        let allowed = seat.shadow.allowed(&times, self.plan.arbiter, now);
        seat.shadow.armed(until);
        let finding = g5::armed(at, until, allowed);
        self.hold(Rule::G5, finding);
    }

    /// A node claims an epoch: not while it is bound to its peer.
    pub(crate) fn promise_is_kept(&mut self, at: usize, epoch: Epoch) {
        self.coverage.evaluated(Rule::G5);
        let seat = &mut self.seats[at];
        let left = seat.shadow.breaks_promise(epoch, seat.clock.local(self.now));
        let finding = g5::claimed(at, epoch, left);
        self.hold(Rule::G5, finding);
    }

    /// The process of a node is about to die or stop: the gate that it leaves behind.
    pub(crate) fn leaves_gate(&mut self, at: usize) {
        let seat = &self.seats[at];
        let now = seat.clock.local(self.now);
        let Some(node) = seat.node.as_ref().filter(|_| seat.answers_at(self.now)) else { return };
        let view = node.view(now);
        let lease = view.peer_lease.max(view.own_lease);
        if lease.0 == 0 {
            // It was letting go: the timer that was armed before runs out.
            return;
        }
        self.coverage.evaluated(Rule::G5);
        let bound = seat.clock.real(now + lease) + seat.slack.0;
        let finding = g5::left_behind(at, seat.gate_until, bound);
        self.hold(Rule::G5, finding);
    }

    pub(crate) fn break_rule(&mut self, rule: Rule, text: String) {
        let now = self.now;
        self.trace.say(now, "!!", || format!("{}: {text}", rule.name()));
        self.rules.report(rule, now, text);
    }

    pub(crate) fn say(&mut self, at: usize, what: impl FnOnce() -> String) {
        self.trace.say(self.now, seat_name(side(at)), what);
    }

    pub(crate) fn options(&self, at: usize) -> Options {
        let me = side(at);
        Options {
            side: me,
            preferred: self.pair.preferred == Some(me),
            peer_preferred: self.pair.preferred == Some(me.other()),
            timing: self.pair.timing,
            arbiter: self.plan.arbiter,
            data: self.plan.weather.data,
            drain_patience: self.pair.timing.parts().stop_budget,
        }
    }

    pub(crate) fn lease(&self) -> Span {
        self.pair.timing.parts().lease
    }

    /// Someone began or ceased to answer: clients and statistics follow.
    pub(crate) fn answers_changed(&mut self) {
        let rule = if self.plan.arbiter { Rule::A1 } else { Rule::G3 };
        self.coverage.evaluated(rule);
        let someone = self.seats.iter().any(|seat| seat.answers_at(self.now));
        let finding = self.rules.calm.answers(self.now, someone, &mut self.coverage);
        self.hold(Rule::NoNeedless, finding);
        self.clients_follow();
        for at in 0..2 {
            if self.seats[at].answers_at(self.now) && self.server != Some(at) {
                self.answers_now(at);
            }
        }
    }

    fn answers_now(&mut self, at: usize) {
        if self.server == Some(1 - at) && !self.planned[at] {
            self.takeovers_us.push(self.now.saturating_sub(self.answered_until[1 - at]) / 1_000);
        }
        self.server = Some(at);
    }

    fn finish(mut self) -> Outcome {
        self.clients_end();
        self.coverage.ending(self.plan.ending);
        let mut outages_us = std::mem::take(&mut self.clients.outages_us);
        outages_us.sort_unstable();
        Outcome {
            hash: self.trace.hash(),
            violation: self.rules.broken.take(),
            coverage: self.coverage,
            outages_us,
            takeovers_us: self.takeovers_us,
            heal_us: self.healing.healed_us,
            simulated_ms: self.now / MS,
            text: self.trace.into_text(),
        }
    }

    pub(crate) fn saw_effect(&mut self, kind: EffectKind) {
        self.coverage.effect(kind);
    }
}
