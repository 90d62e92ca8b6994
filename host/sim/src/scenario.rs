//! A history as a text file: one can read it, change it, and run it again.

use crate::fault::{DiskMode, EffectKind, FAULT_KINDS, Fault, Point, PolicyMode, seat_name};
use crate::plan::{Ending, History, Licensing, Premise, Timed, Weather};
use staffetta_core::{Order, Side};
use std::fmt::Write as _;

/// A scenario file that is not one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScenarioError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong, and what to write.
    pub text: String,
}

impl std::fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

impl std::error::Error for ScenarioError {}

/// Milliseconds from the start that a scenario may name.
const MS_MAX: u64 = 3_600_000;

fn premise_text(premise: Premise) -> String {
    match premise {
        Premise::Calm => "calm".into(),
        Premise::Linked => "linked".into(),
        Premise::OneWay(from) => format!("one-way {}", seat_name(from)),
        Premise::Parted => "parted".into(),
        Premise::Paused => "paused".into(),
    }
}

fn ending_text(ending: Ending) -> String {
    match ending {
        Ending::AllUp => "all-up".into(),
        Ending::Dead(node) => format!("dead {}", seat_name(node)),
        Ending::ArbiterDead => "arbiter-dead".into(),
        Ending::Cut => "cut".into(),
        Ending::OneWay(from) => format!("one-way {}", seat_name(from)),
        Ending::OneWayReaches(from, node) => {
            format!("one-way-reaches {} {}", seat_name(from), seat_name(node))
        }
        Ending::CutFromArbiter(node) => format!("cut-from-arbiter {}", seat_name(node)),
        Ending::CutReaches(node) => format!("cut-reaches {}", seat_name(node)),
    }
}

/// Writes a history down.
#[must_use]
pub fn write(plan: &History, comment: &str) -> String {
    let mut text = String::new();
    for line in comment.lines() {
        // Writing to a string does not fail, here and below.
        let _ = writeln!(text, "# {line}");
    }
    let w = &plan.weather;
    let _ = writeln!(text, "seed {}", plan.seed);
    let _ = writeln!(text, "arbiter {}", if plan.arbiter { "yes" } else { "no" });
    let _ = writeln!(text, "# what the history leaves whole, and with that what is demanded of it");
    let _ = writeln!(text, "premise {}", premise_text(plan.premise));
    let _ = writeln!(text, "# heartbeat links, and the rate errors of both clocks in ppm");
    let _ = writeln!(text, "links {}", w.links);
    let _ = writeln!(text, "clocks {} {}", w.ppm[0], w.ppm[1]);
    let _ = writeln!(
        text,
        "# microseconds: frame, what chance adds, gate, loop, disk, policy, arbiter"
    );
    for (key, us) in [
        ("delay", w.delay_us),
        ("jitter", w.jitter_us),
        ("gate-late", w.gate_late_us),
        ("wake-late", w.wake_us),
        ("disk", w.disk_us),
        ("policy", w.policy_us),
        ("arbiter-way", w.arbiter_us),
    ] {
        let _ = writeln!(text, "{key} {us}");
    }
    let _ = writeln!(text, "# part of a lease that is handed to the kernel, of a thousand");
    let _ = writeln!(text, "gate-part {}", w.gate_permille);
    let licenses = match w.licensing {
        Licensing::Off => "off",
        Licensing::Valid => "valid",
        Licensing::Ends => "end",
    };
    let _ = writeln!(text, "licenses {licenses}");
    let _ = writeln!(text, "data {}", if w.data { "yes" } else { "no" });
    if let Some(old) = w.old {
        let _ = writeln!(text, "old-version {}", seat_name(old));
    }
    let _ = writeln!(text, "# milliseconds since the start, then what goes wrong");
    for timed in &plan.faults {
        let (ms, us) = (timed.at_us / 1_000, timed.at_us % 1_000);
        let _ = writeln!(text, "at {ms}.{us:03} {}", timed.fault);
    }
    let _ = writeln!(text, "# everything else is mended then");
    let _ = writeln!(text, "ending {} {}", plan.until_ms, ending_text(plan.ending));
    text
}

/// Reads a history.
///
/// # Errors
/// The first line that is not understood.
pub fn read(text: &str) -> Result<History, ScenarioError> {
    let weather = Weather {
        links: 2,
        ppm: [0, 0],
        delay_us: 1_000,
        jitter_us: 0,
        gate_late_us: 4_000,
        gate_permille: 900,
        wake_us: 100,
        disk_us: 2_000,
        policy_us: 1_000,
        arbiter_us: 2_000,
        licensing: Licensing::Off,
        old: None,
        data: false,
    };
    let mut plan = History {
        seed: 1,
        premise: Premise::Linked,
        arbiter: false,
        weather,
        faults: Vec::new(),
        until_ms: 60_000,
        ending: Ending::AllUp,
    };
    for (at, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.is_empty() {
            continue;
        }
        take(&mut plan, &words).map_err(|text| ScenarioError { line: at + 1, text })?;
    }
    plan.faults.sort_by_key(|timed| timed.at_us);
    Ok(plan)
}

fn take(plan: &mut History, words: &[&str]) -> Result<(), String> {
    let mut words = Words { words, at: 1 };
    match words.words[0] {
        "seed" => plan.seed = words.number(u64::MAX)?,
        "arbiter" => plan.arbiter = words.one_of(&[("yes", true), ("no", false)])?,
        "premise" => plan.premise = premise(&mut words)?,
        "links" => plan.weather.links = u8::try_from(words.between(1, 2)?).unwrap_or(1),
        "clocks" => plan.weather.ppm = [words.ppm()?, words.ppm()?],
        "delay" => plan.weather.delay_us = words.number(1_000_000)?,
        "jitter" => plan.weather.jitter_us = words.number(1_000_000)?,
        "gate-late" => plan.weather.gate_late_us = words.number(1_000_000)?,
        "wake-late" => plan.weather.wake_us = words.number(1_000_000)?,
        "disk" => plan.weather.disk_us = words.number(10_000_000)?,
        "policy" => plan.weather.policy_us = words.number(10_000_000)?,
        "arbiter-way" => plan.weather.arbiter_us = words.number(10_000_000)?,
        "gate-part" => plan.weather.gate_permille = words.between(1, 1_000)?,
        "licenses" => {
            let cases =
                [("off", Licensing::Off), ("valid", Licensing::Valid), ("end", Licensing::Ends)];
            plan.weather.licensing = words.one_of(&cases)?;
        }
        "data" => plan.weather.data = words.one_of(&[("yes", true), ("no", false)])?,
        "old-version" => plan.weather.old = Some(words.seat()?),
        "at" => {
            let at_us = words.moment()?;
            let fault = fault(&mut words)?;
            plan.faults.push(Timed { at_us, fault });
        }
        "ending" => {
            plan.until_ms = words.number(MS_MAX)?;
            plan.ending = ending(&mut words)?;
        }
        other => return Err(format!("{other} is not a word of scenarios")),
    }
    words.end()
}

fn premise(words: &mut Words<'_>) -> Result<Premise, String> {
    Ok(match words.next()? {
        "calm" => Premise::Calm,
        "linked" => Premise::Linked,
        "one-way" => Premise::OneWay(words.seat()?),
        "parted" => Premise::Parted,
        "paused" => Premise::Paused,
        other => {
            return Err(format!("{other}: write calm, linked, one-way SEAT, parted or paused"));
        }
    })
}

fn ending(words: &mut Words<'_>) -> Result<Ending, String> {
    Ok(match words.next()? {
        "all-up" => Ending::AllUp,
        "dead" => Ending::Dead(words.seat()?),
        "arbiter-dead" => Ending::ArbiterDead,
        "cut" => Ending::Cut,
        "one-way" => Ending::OneWay(words.seat()?),
        "one-way-reaches" => Ending::OneWayReaches(words.seat()?, words.seat()?),
        "cut-from-arbiter" => Ending::CutFromArbiter(words.seat()?),
        "cut-reaches" => Ending::CutReaches(words.seat()?),
        other => return Err(format!("{other}: write one of {}", Ending::NAMES.join(", "))),
    })
}

fn fault(words: &mut Words<'_>) -> Result<Fault, String> {
    let kind = words.next()?;
    Ok(match kind {
        "kill" => Fault::Kill { node: words.seat()?, down_ms: words.after("down")? },
        "power-cut" => Fault::PowerCut { node: words.seat()?, down_ms: words.after("down")? },
        "kill-at" => {
            let (node, point, effect) = (words.seat()?, words.point()?, words.effect()?);
            Fault::KillAt { node, effect, point, down_ms: words.after("down")? }
        }
        "freeze-at" => {
            let (node, point, effect) = (words.seat()?, words.point()?, words.effect()?);
            Fault::FreezeAt { node, effect, point, ms: words.after("for")? }
        }
        "freeze" => Fault::Freeze { node: words.seat()?, ms: words.after("for")? },
        "suspend" => Fault::Suspend { node: words.seat()?, ms: words.after("for")? },
        "pause" => Fault::Pause { node: words.seat()?, ms: words.after("for")? },
        "cut" => {
            let (from, link) = words.lane()?;
            Fault::Cut { from, link, ms: words.after("for")? }
        }
        "part" => Fault::Part { ms: words.after("for")? },
        "noise" => {
            let (from, link) = words.lane()?;
            let (lose, late_ms) = (words.after("lose")?, words.after("late")?);
            let double = words.after("double")?;
            Fault::Noise { from, link, lose, late_ms, double, ms: words.after("for")? }
        }
        "disk" => disk(words)?,
        "refuse" => Fault::Refuse { node: words.seat()?, ms: words.after("for")? },
        "slow-release" => {
            let (node, each_ms) = (words.seat()?, words.after("each")?);
            Fault::SlowRelease { node, each_ms, ms: words.after("for")? }
        }
        "flush" => Fault::Flush { node: words.seat()?, ms: words.after("for")? },
        "policy" => policy(words)?,
        "references" => Fault::References { node: words.seat()?, ms: words.after("for")? },
        "services" => Fault::Services { node: words.seat()?, ms: words.after("for")? },
        "lan" => {
            let node = words.seat()?;
            let carrier = words.one_of(&[("carrier", true), ("unseen", false)])?;
            Fault::Lan { node, carrier, ms: words.after("for")? }
        }
        "stranger" => Fault::Stranger { ms: words.after("for")? },
        "order" => order(words)?,
        "lag" => Fault::Lag { node: words.seat()?, ms: words.after("for")? },
        "undrainable" => Fault::Undrainable { node: words.seat()?, ms: words.after("for")? },
        "synced" => {
            let node = words.seat()?;
            Fault::Synced { node, synced: words.one_of(&[("yes", true), ("no", false)])? }
        }
        "arbiter-away" => Fault::ArbiterAway { node: words.seat()?, ms: words.after("for")? },
        "arbiter-down" => Fault::ArbiterDown { ms: words.after("for")? },
        "arbiter-slow" => Fault::ArbiterSlow { by_ms: words.after("by")?, ms: words.after("for")? },
        "replies-lost" => Fault::RepliesLost { node: words.seat()?, ms: words.after("for")? },
        "wiped" => Fault::Wiped,
        other => return Err(format!("{other}: write one of {}", FAULT_KINDS.join(", "))),
    })
}

fn disk(words: &mut Words<'_>) -> Result<Fault, String> {
    let node = words.seat()?;
    let mode = match words.next()? {
        "slow" => DiskMode::Slow(words.number(MS_MAX)?),
        "fails" => DiskMode::Fails,
        "stuck" => DiskMode::Stuck,
        other => return Err(format!("{other}: write slow MS, fails or stuck")),
    };
    Ok(Fault::Disk { node, mode, ms: words.after("for")? })
}

fn policy(words: &mut Words<'_>) -> Result<Fault, String> {
    let node = words.seat()?;
    let cases = [
        ("traps", PolicyMode::Traps),
        ("late", PolicyMode::Late),
        ("lost", PolicyMode::Lost),
        ("nonsense", PolicyMode::Nonsense),
        ("holds", PolicyMode::Holds),
    ];
    let mode = words.one_of(&cases)?;
    Ok(Fault::Policy { node, mode, ms: words.after("for")? })
}

fn order(words: &mut Words<'_>) -> Result<Fault, String> {
    let node = words.seat()?;
    let cases = [
        ("switchover", Order::Switchover),
        ("maintenance-on", Order::Maintenance(true)),
        ("maintenance-off", Order::Maintenance(false)),
        ("start-alone", Order::StartAlone),
        ("clear", Order::Clear),
        ("stop", Order::Stop),
    ];
    Ok(Fault::Order { node, order: words.one_of(&cases)? })
}

/// The words of one line.
struct Words<'a> {
    words: &'a [&'a str],
    at: usize,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<&'a str, String> {
        let word = self.words.get(self.at).ok_or("the line ends too early")?;
        self.at += 1;
        Ok(word)
    }

    fn end(&self) -> Result<(), String> {
        match self.words.get(self.at) {
            None => Ok(()),
            Some(word) => Err(format!("{word} is one word too many")),
        }
    }

    fn number(&mut self, max: u64) -> Result<u64, String> {
        self.between(0, max)
    }

    fn between(&mut self, min: u64, max: u64) -> Result<u64, String> {
        let word = self.next()?;
        let number = word.parse::<u64>().ok().filter(|number| (min..=max).contains(number));
        number.ok_or_else(|| format!("{word}: write a number from {min} to {max}"))
    }

    fn ppm(&mut self) -> Result<i64, String> {
        let word = self.next()?;
        let number = word.parse::<i64>().ok().filter(|ppm| ppm.abs() <= 1_000);
        number.ok_or_else(|| format!("{word}: write a rate error from -1000 to 1000"))
    }

    /// Milliseconds with up to three digits behind the point, as microseconds.
    fn moment(&mut self) -> Result<u64, String> {
        let word = self.next()?;
        let (whole, part) = word.split_once('.').unwrap_or((word, "0"));
        let ms = whole.parse::<u64>().ok().filter(|ms| *ms <= MS_MAX);
        let us = format!("{part:0<3}").parse::<u64>().ok().filter(|us| *us < 1_000);
        match (ms, us) {
            (Some(ms), Some(us)) => Ok(ms * 1_000 + us),
            _ => Err(format!("{word}: write milliseconds, such as 1500.250")),
        }
    }

    fn after(&mut self, key: &str) -> Result<u64, String> {
        let word = self.next()?;
        if word != key {
            return Err(format!("{word}: {key} is expected here"));
        }
        self.number(MS_MAX)
    }

    fn one_of<T: Copy>(&mut self, cases: &[(&str, T)]) -> Result<T, String> {
        let word = self.next()?;
        let found = cases.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
        found.ok_or_else(|| {
            let names: Vec<&str> = cases.iter().map(|(name, _)| *name).collect();
            format!("{word}: write one of {}", names.join(", "))
        })
    }

    fn seat(&mut self) -> Result<Side, String> {
        self.one_of(&[("A", Side::A), ("B", Side::B)])
    }

    fn point(&mut self) -> Result<Point, String> {
        self.one_of(&[("before", Point::Before), ("after", Point::After)])
    }

    fn effect(&mut self) -> Result<EffectKind, String> {
        let cases = EffectKind::ALL.map(|effect| (effect.name(), effect));
        self.one_of(&cases)
    }

    fn lane(&mut self) -> Result<(Side, Option<u8>), String> {
        self.one_of(&[("from", ())])?;
        let from = self.seat()?;
        self.one_of(&[("link", ())])?;
        let link = self.one_of(&[("all", None), ("0", Some(0)), ("1", Some(1))])?;
        Ok((from, link))
    }
}
