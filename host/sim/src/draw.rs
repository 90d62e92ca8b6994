//! Draws a history from a seed.
//!
//! Faults come in clusters: what breaks a protocol is seldom one fault, and never one a minute.

use crate::dice::Dice;
use crate::fault::{DiskMode, EffectKind, Fault, Point, PolicyMode};
use crate::plan::{Ending, History, Licensing, Pair, Premise, Tiebreak, Timed, Weather};
use staffetta_core::{Order, Side};

/// Simulated time before the ending begins, ms.
pub const HISTORY_MS: u64 = 60_000;
/// Faults of a history.
pub const FAULTS_MIN: u64 = 5;
const FAULTS_MAX: u64 = 16;
/// Histories with data, of a thousand.
const DATA_PERMILLE: u64 = 600;
/// Themes of data in a history.
const DATA_THEMES_MAX: u64 = 4;
/// The pair forms and settles before anything breaks, in most histories.
const SETTLED_MS: u64 = 2_500;

const PURPOSE_PLAN: u64 = 1;
const PURPOSE_DATA: u64 = 3;

/// The history of a seed.
#[must_use]
pub fn draw(pair: &Pair, seed: u64) -> History {
    let mut dice = Dice::new(seed, PURPOSE_PLAN);
    let arbiter = match pair.arbiter {
        Tiebreak::Never => false,
        Tiebreak::Always => true,
        Tiebreak::Both => seed.is_multiple_of(2),
    };
    let premise = premise(&mut dice, arbiter);
    let weather = weather(&mut dice, pair, premise);
    let mut draw = Draw { dice, pair, premise, arbiter, weather };
    let mut faults = draw.faults();
    let ending = draw.ending(&faults);
    // Dice of its own: with or without data, the rest of a history is the same.
    draw.dice = Dice::new(seed, PURPOSE_DATA);
    draw.weather.data = weather.old.is_none() && draw.dice.chance(DATA_PERMILLE);
    if draw.weather.data {
        draw.data_faults(&mut faults);
    }
    let weather = draw.weather;
    History { seed, premise, arbiter, weather, faults, until_ms: HISTORY_MS, ending }
}

fn side(dice: &mut Dice) -> Side {
    if dice.roll(2) == 0 { Side::A } else { Side::B }
}

fn premise(dice: &mut Dice, arbiter: bool) -> Premise {
    if arbiter && dice.chance(300) {
        // What the arbiter is for.
        return Premise::Parted;
    }
    match dice.roll(100) {
        0..=14 => Premise::Calm,
        15..=54 => Premise::Linked,
        55..=69 => Premise::OneWay(side(dice)),
        70..=91 => Premise::Parted,
        _ => Premise::Paused,
    }
}

fn weather(dice: &mut Dice, pair: &Pair, premise: Premise) -> Weather {
    let parts = pair.timing.parts();
    let (delay_max_us, slack_us) = (parts.delay.0 / 1_000, parts.slack.0 / 1_000);
    let fast = dice.roll(2) == 0;
    let edge = dice.roll(2) == 0;
    let mut ppm = [0, 0];
    for (at, rate) in ppm.iter_mut().enumerate() {
        let size = i64::try_from(if edge { 995 } else { dice.roll(996) }).unwrap_or(0);
        *rate = if fast == (at == 0) { size } else { -size };
    }
    // A machine on which everything is quick leaves the protocol no hidden margin.
    let quick = dice.chance(250);
    let delay_us = dice.between(50, if quick { 200 } else { delay_max_us * 2 / 5 });
    Weather {
        links: if premise == Premise::Calm || dice.chance(700) { 2 } else { 1 },
        ppm,
        delay_us,
        // The rest of D is for the lateness of wake-ups.
        jitter_us: dice.roll(delay_max_us * 9 / 10 - delay_us),
        gate_late_us: if edge { slack_us - 50 } else { dice.roll(slack_us) },
        gate_permille: *dice.pick(&[900, 900, 1_000]),
        wake_us: if quick { 20 } else { 300 },
        disk_us: if quick { 20 } else { dice.between(200, 8_000) },
        policy_us: if quick { 20 } else { dice.between(200, 6_000) },
        arbiter_us: dice.between(300, parts.lease.0 / 1_000 / 20),
        licensing: match dice.roll(8) {
            0 => Licensing::Ends,
            1 => Licensing::Valid,
            _ => Licensing::Off,
        },
        old: dice.chance(150).then(|| side(dice)),
        data: false,
    }
}

struct Draw<'a> {
    dice: Dice,
    pair: &'a Pair,
    premise: Premise,
    arbiter: bool,
    weather: Weather,
}

impl Draw<'_> {
    fn lease_ms(&self) -> u64 {
        self.pair.timing.parts().lease.as_ms()
    }

    fn faults(&mut self) -> Vec<Timed> {
        let count = self.dice.between(FAULTS_MIN, FAULTS_MAX);
        let clusters = self.dice.between(1, 4);
        let mut faults = Vec::new();
        let early = self.premise != Premise::Calm && self.dice.chance(150);
        let from_ms = if early { 0 } else { SETTLED_MS };
        for cluster in 0..clusters {
            let of_this = count / clusters + u64::from(cluster < count % clusters);
            let mut at_us = self.dice.between(from_ms, HISTORY_MS - 15_000) * 1_000;
            if self.premise != Premise::Calm && self.dice.chance(300) {
                self.theme(at_us, &mut faults);
            }
            for _ in 0..of_this {
                if at_us >= HISTORY_MS * 1_000 {
                    at_us = self.dice.between(from_ms, HISTORY_MS - 1_000) * 1_000;
                }
                let fault = self.fault();
                faults.push(Timed { at_us, fault });
                if let Some(fault) = self.provoked(fault) {
                    let at_us = at_us + self.dice.between(1_000, 400_000);
                    faults.push(Timed { at_us, fault });
                }
                let scale = *self.dice.pick(&[1, 4, 12, 50]);
                at_us += self.dice.roll(self.lease_ms() * 1_000 / 4 * scale);
            }
        }
        faults.sort_by_key(|timed| timed.at_us);
        faults
    }

    /// Faults that belong together: each alone is harmless.
    fn theme(&mut self, mut at_us: u64, faults: &mut Vec<Timed>) {
        let (node, lease) = (side(&mut self.dice), self.lease_ms());
        let long = lease * self.dice.between(2, 12);
        let hit = |dice: &mut Dice| {
            let (node, ms) = (side(dice), lease * dice.between(1, 4));
            match dice.roll(3) {
                0 => Fault::Kill { node, down_ms: ms },
                1 => Fault::Freeze { node, ms },
                _ => Fault::PowerCut { node, down_ms: ms },
            }
        };
        let parted = match self.premise {
            Premise::Parted => Fault::Part { ms: long },
            Premise::Calm | Premise::Linked | Premise::OneWay(_) | Premise::Paused => {
                self.cut(long)
            }
        };
        let theme = match self.dice.roll(4) {
            // One node serves alone on a slow arbiter, and stops.
            0 if self.arbiter => {
                let by_ms = lease / 4 + self.dice.roll(lease);
                let slow = Fault::ArbiterSlow { by_ms, ms: long * 2 };
                vec![slow, parted, hit(&mut self.dice)]
            }
            // Whoever served alone is paired again, and stops.
            0 | 1 => vec![parted, hit(&mut self.dice), hit(&mut self.dice)],
            // A hand that is late, doubled, or lost.
            2 => {
                let order = Fault::Order { node, order: Order::Switchover };
                let other = Fault::Order { node: node.other(), order: Order::Switchover };
                let noise = self.noise(long);
                vec![noise, order, other, parted, hit(&mut self.dice)]
            }
            // The last one falls, and the other returns.
            _ => {
                let down_ms = long * 4;
                let first = Fault::PowerCut { node, down_ms };
                vec![first, Fault::PowerCut { node: node.other(), down_ms }]
            }
        };
        for fault in theme {
            faults.push(Timed { at_us, fault });
            let scale = *self.dice.pick(&[100, 1_000, 3_000]);
            at_us += self.dice.roll(lease * scale);
        }
    }

    /// Some length of time, short ones more often, ms.
    fn span(&mut self) -> u64 {
        let lease = self.lease_ms();
        let scale = *self.dice.pick(&[lease / 4, lease, lease * 3, lease * 10, lease * 40]);
        1 + self.dice.roll(scale)
    }

    fn fault(&mut self) -> Fault {
        match self.premise {
            Premise::Calm => self.calm_fault(),
            Premise::Linked | Premise::OneWay(_) | Premise::Parted | Premise::Paused => {
                self.hard_fault()
            }
        }
    }

    /// Loss up to a fifth, delays, and stalls that leave most of the lease.
    fn calm_fault(&mut self) -> Fault {
        let node = side(&mut self.dice);
        let lease = self.lease_ms();
        match self.dice.roll(if self.arbiter { 8 } else { 6 }) {
            0 | 1 => Fault::Freeze { node, ms: 1 + self.dice.roll(lease * 2 / 5) },
            2 | 3 => {
                let link = self.dice.chance(500).then(|| u8::from(self.dice.chance(500)));
                let (lose, ms) = (self.dice.roll(200), self.span());
                Fault::Noise { from: node, link, lose, late_ms: 0, double: 200, ms }
            }
            4 => Fault::Cut { from: node, link: Some(1), ms: self.span() },
            5 => {
                let mode = DiskMode::Slow(1 + self.dice.roll(lease / 3));
                Fault::Disk { node, mode, ms: self.span() }
            }
            6 => Fault::ArbiterDown { ms: self.span() },
            _ => {
                let (by_ms, ms) = (self.dice.roll(lease), self.span());
                Fault::ArbiterSlow { by_ms, ms }
            }
        }
    }

    fn hard_fault(&mut self) -> Fault {
        let node = side(&mut self.dice);
        let ms = self.span();
        let effect = *self.dice.pick(&EffectKind::ALL[..EffectKind::WITHOUT_DATA]);
        let point = if self.dice.roll(2) == 0 { Point::Before } else { Point::After };
        match self.dice.roll(if self.arbiter { 41 } else { 34 }) {
            0 | 1 => Fault::Kill { node, down_ms: ms },
            2 | 3 => Fault::PowerCut { node, down_ms: ms },
            4..=6 => Fault::KillAt { node, effect, point, down_ms: ms },
            7..=8 => Fault::FreezeAt { node, effect, point, ms },
            9 | 10 => Fault::Freeze { node, ms },
            11 | 12 if self.premise == Premise::Paused => Fault::Pause { node, ms },
            11 | 12 => Fault::Suspend { node, ms },
            13 | 14 if self.premise == Premise::Parted => Fault::Part { ms },
            13..=16 => self.cut(ms),
            17 | 18 => self.noise(ms),
            19 | 20 => self.disk(node, ms),
            21 => Fault::Refuse { node, ms },
            22 => Fault::SlowRelease { node, each_ms: 1 + self.dice.roll(60), ms },
            23 => Fault::Flush { node, ms },
            24 | 25 => self.policy(node, ms),
            26 => Fault::References { node, ms },
            27 => Fault::Services { node, ms },
            28 => Fault::Lan { node, carrier: self.dice.chance(500), ms },
            29 => Fault::Stranger { ms },
            30..=33 => self.order(node),
            34 | 35 => Fault::ArbiterAway { node, ms },
            36 => Fault::ArbiterDown { ms },
            37 => Fault::ArbiterSlow { by_ms: self.dice.roll(self.lease_ms() * 2), ms },
            38 => Fault::RepliesLost { node, ms },
            39 => Fault::Synced { node, synced: self.dice.chance(500) },
            _ if self.dice.chance(500) => Fault::Wiped,
            _ => Fault::RepliesLost { node, ms },
        }
    }

    /// What makes the effect happen at which a stop waits.
    fn provoked(&mut self, fault: Fault) -> Option<Fault> {
        let (node, effect) = match fault {
            Fault::KillAt { node, effect, .. } | Fault::FreezeAt { node, effect, .. } => {
                (node, effect)
            }
            _ => return None,
        };
        let ms = self.lease_ms() * 3;
        let moves = self.dice.chance(500);
        Some(match effect {
            EffectKind::Send
            | EffectKind::Renew
            | EffectKind::Note
            | EffectKind::Drain
            | EffectKind::Undrain
            | EffectKind::Degraded => return None,
            EffectKind::Exit => Fault::Order { node, order: Order::Stop },
            EffectKind::OrderDone | EffectKind::Release => {
                Fault::Order { node, order: Order::Switchover }
            }
            EffectKind::Announce => match self.premise {
                Premise::Parted => Fault::Part { ms },
                Premise::Paused => Fault::Pause { node: node.other(), ms },
                Premise::Calm | Premise::Linked | Premise::OneWay(_) => return None,
            },
            EffectKind::Persist | EffectKind::Claim if moves => {
                Fault::Order { node: node.other(), order: Order::Switchover }
            }
            EffectKind::Persist
            | EffectKind::Claim
            | EffectKind::Consult
            | EffectKind::Probe
            | EffectKind::Ask => Fault::Kill { node: node.other(), down_ms: ms },
        })
    }

    /// What goes wrong with data: a lag, a handover that cannot be shipped, a stop at one of the
    /// effects that only data has; and what makes each of them matter.
    fn data_faults(&mut self, faults: &mut Vec<Timed>) {
        for _ in 0..self.dice.between(1, DATA_THEMES_MAX) {
            let mut at_us = self.dice.between(SETTLED_MS, HISTORY_MS - 8_000) * 1_000;
            for fault in self.data_theme() {
                faults.push(Timed { at_us, fault });
                at_us += self.dice.between(1_000, *self.dice.clone().pick(&[40_000, 900_000]));
            }
        }
        faults.sort_by_key(|timed| timed.at_us);
    }

    fn data_theme(&mut self) -> Vec<Fault> {
        let (node, lease) = (side(&mut self.dice), self.lease_ms());
        let ms = lease * self.dice.between(1, 20);
        let lag = Fault::Lag { node, ms };
        if self.premise == Premise::Calm {
            return vec![lag];
        }
        let order = |node, order| Fault::Order { node, order };
        let moves = order(node, Order::Switchover);
        let undrainable = Fault::Undrainable { node, ms };
        let down_ms = lease * self.dice.between(1, 6);
        let kill = |node| Fault::Kill { node, down_ms };
        let cut = if self.premise == Premise::Parted { Fault::Part { ms } } else { self.cut(ms) };
        match self.dice.roll(14) {
            0 => vec![self.stop_at(node, EffectKind::Drain), moves],
            1 => vec![undrainable, self.stop_at(node, EffectKind::Undrain), moves],
            2 => vec![self.stop_at(node, EffectKind::Degraded), lag],
            3 => vec![lag, kill(node), kill(node.other())],
            4 => vec![lag, Fault::PowerCut { node: node.other(), down_ms }, kill(node)],
            5 => vec![undrainable, order(node, Order::Stop)],
            6 => vec![cut, lag, kill(node)],
            7 => vec![lag, moves],
            8 => vec![moves, cut, kill(node.other())],
            9 => vec![kill(node.other()), kill(node), moves],
            // The peer returns when nobody is there to tell it what it lacks.
            10 => {
                let (other, down_ms) = (node.other(), lease * self.dice.between(5, 12));
                let policy = Fault::Policy { node: other, mode: PolicyMode::Nonsense, ms: 15_000 };
                let gone = Fault::Kill { node, down_ms: down_ms * 4 };
                vec![Fault::PowerCut { node: other, down_ms }, lag, policy, gone]
            }
            // Nor does it know it any more, unless its disk does.
            11 | 12 => {
                let (other, ms) = (node.other(), 30_000);
                let policy = Fault::Policy { node: other, mode: PolicyMode::Nonsense, ms };
                let disk = Fault::Disk { node: other, mode: DiskMode::Fails, ms: down_ms };
                let gone = Fault::Kill { node, down_ms: 25_000 };
                let late = Fault::Kill { node: other, down_ms };
                if self.dice.chance(500) {
                    vec![disk, lag, gone, late, policy]
                } else {
                    vec![lag, gone, late, policy]
                }
            }
            _ => vec![moves, order(node.other(), Order::Switchover), kill(node)],
        }
    }

    fn stop_at(&mut self, node: Side, effect: EffectKind) -> Fault {
        let (ms, kills) = (self.span(), self.dice.chance(500));
        let point = if self.dice.chance(500) { Point::Before } else { Point::After };
        if kills {
            Fault::KillAt { node, effect, point, down_ms: ms }
        } else {
            Fault::FreezeAt { node, effect, point, ms }
        }
    }

    /// What may be cut depends on the premise; an arbiter allows everything.
    fn cut(&mut self, ms: u64) -> Fault {
        let spare = self.weather.links > 1 && self.dice.chance(400);
        let mut from = side(&mut self.dice);
        let link = match self.premise {
            _ if spare => Some(1),
            Premise::Parted => None,
            Premise::OneWay(passes) => {
                from = passes.other();
                None
            }
            Premise::Calm | Premise::Linked | Premise::Paused => Some(1),
        };
        Fault::Cut { from, link, ms }
    }

    fn noise(&mut self, ms: u64) -> Fault {
        let Fault::Cut { from, link, .. } = self.cut(ms) else { unreachable!("a cut is a cut") };
        let lose = *self.dice.pick(&[0, 100, 300, 700]);
        let late_ms = self.dice.roll(self.lease_ms() * 3);
        Fault::Noise { from, link, lose, late_ms, double: self.dice.roll(500), ms }
    }

    fn disk(&mut self, node: Side, ms: u64) -> Fault {
        let mode = match self.dice.roll(4) {
            0 => DiskMode::Fails,
            1 => DiskMode::Stuck,
            _ => DiskMode::Slow(1 + self.dice.roll(self.lease_ms())),
        };
        Fault::Disk { node, mode, ms }
    }

    fn policy(&mut self, node: Side, ms: u64) -> Fault {
        let mode = match self.dice.roll(5) {
            0 => PolicyMode::Traps,
            1 => PolicyMode::Late,
            2 => PolicyMode::Lost,
            3 => PolicyMode::Holds,
            _ => PolicyMode::Nonsense,
        };
        Fault::Policy { node, mode, ms }
    }

    fn order(&mut self, node: Side) -> Fault {
        let order = match self.dice.roll(8) {
            0..=3 => Order::Switchover,
            4 => Order::StartAlone,
            5 => Order::Maintenance(self.dice.chance(400)),
            _ => Order::Stop,
        };
        Fault::Order { node, order }
    }

    fn ending(&mut self, faults: &[Timed]) -> Ending {
        let wiped = faults.iter().any(|timed| timed.fault == Fault::Wiped);
        let node = side(&mut self.dice);
        let other = side(&mut self.dice);
        let calm = self.premise == Premise::Calm;
        let one_way = match self.premise {
            Premise::OneWay(passes) => passes.other(),
            Premise::Calm | Premise::Linked | Premise::Parted | Premise::Paused => node,
        };
        if self.arbiter {
            return match self.dice.roll(12) {
                0..=2 => Ending::AllUp,
                3 => Ending::ArbiterDead,
                _ if wiped || calm => Ending::AllUp,
                4..=6 => Ending::Dead(node),
                7 => Ending::Cut,
                8 => Ending::OneWay(node),
                9 => Ending::OneWayReaches(node, other),
                10 => Ending::CutFromArbiter(node),
                _ => Ending::CutReaches(node),
            };
        }
        match self.dice.roll(6) {
            0..=2 => Ending::AllUp,
            _ if calm => Ending::AllUp,
            3 => Ending::Dead(node),
            4 if matches!(self.premise, Premise::Parted) => Ending::Cut,
            4 => Ending::Dead(node),
            _ if matches!(self.premise, Premise::OneWay(_) | Premise::Parted) => {
                Ending::OneWay(one_way)
            }
            _ => Ending::AllUp,
        }
    }
}
