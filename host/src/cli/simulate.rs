//! `simulate`: does this policy, with this configuration, ever give two primaries, a dead end, a
//! flap? Asked of thousands of disasters, answered with the shortest one that says yes.

use super::flags::SimulateFlags;
use super::{Context, Failure, Outcome, say};
use crate::config::{Config, TimingConfig, TimingProfile, defaults};
use anyhow::Context as _;
use serde_json::json;
use staffetta_core::{Side, Span, Timing};
use staffetta_sim::{Components, History, Pair, Tally, Tiebreak, percentile, scenario};
use std::path::{Path, PathBuf};

/// Histories from which on everything must have happened at least once.
const LONG_ENOUGH: u64 = 5_000;
/// Histories that are shrunk and written down; more tell no more.
const SHOWN_MAX: usize = 3;
const SCENARIO_BYTES_MAX: u64 = 1 << 20;

pub(super) fn simulate(context: &Context, flags: &SimulateFlags) -> Outcome {
    let config = configuration(context)?;
    let pair = pair(config.as_ref(), flags.profile)?;
    let mut policies = policies(config.as_ref(), flags)?;
    staffetta_sim::quietly(|| match &flags.scenario {
        Some(file) => replay(context, &pair, file, &mut policies),
        None => search(context, &pair, flags, &mut policies),
    })
}

/// The configuration, where there is one: a person without a pair may simulate too.
fn configuration(context: &Context) -> Result<Option<Config>, Failure> {
    if context.names_config() || context.config().exists() {
        Ok(Some(context.load()?))
    } else {
        Ok(None)
    }
}

fn pair(config: Option<&Config>, profile: Option<TimingProfile>) -> Result<Pair, Failure> {
    let parts = match (config, profile) {
        (_, Some(profile)) => TimingConfig::profile_parts(profile),
        (Some(config), None) => *config.timing.parts(),
        (None, None) => TimingConfig::profile_parts(defaults::PROFILE),
    };
    let timing = Timing::new(parts).map_err(|error| Failure::Usage(error.to_string()))?;
    let arbiter = match config.map(|config| config.arbiter.is_some()) {
        None => Tiebreak::Both,
        Some(true) => Tiebreak::Always,
        Some(false) => Tiebreak::Never,
    };
    let preferred = config.and_then(|config| {
        let me = if config.side_index() == 0 { Side::A } else { Side::B };
        match (config.node.preferred, config.peer.preferred) {
            (true, false) => Some(me),
            (false, true) => Some(me.other()),
            (true, true) | (false, false) => None,
        }
    });
    Ok(Pair {
        timing,
        lifetime_slack: Span::ms(defaults::SLACK_LIFETIME_MS).max(parts.slack),
        arbiter,
        references: config.is_none_or(|config| !config.references.is_empty()),
        preferred,
    })
}

/// The failover policy named on the command line, else the configured one, else the built-in one,
/// and the split-brain policy likewise; each with the settings of the configuration. Licenses are
/// the simulator's own, some of which end, so the built-in policy judges them.
fn policies(config: Option<&Config>, flags: &SimulateFlags) -> Result<Components, Failure> {
    let read = |file: &Path| {
        std::fs::read(file)
            .with_context(|| format!("policy {} (is the path right?)", file.display()))
            .map_err(Failure::Failed)
    };
    let section = config.map(|config| &config.policies.failover);
    let settings = section.map_or_else(|| json!({}), |section| json!(section.settings));
    let configured = section.and_then(|section| section.file.as_deref());
    let site = flags.policy.as_deref().or(configured).map(read).transpose()?;
    let components =
        Components::new(site.as_deref(), &settings.to_string()).map_err(Failure::of)?;
    let Some(section) = config.map(|config| &config.policies.split_brain) else {
        return Ok(components);
    };
    let site = section.file.as_deref().map(read).transpose()?;
    let settings = json!(section.settings).to_string();
    components.with_split_brain(site.as_deref(), &settings).map_err(Failure::of)
}

fn replay(context: &Context, pair: &Pair, file: &Path, policies: &mut Components) -> Outcome {
    let at = || format!("scenario {}", file.display());
    let size = std::fs::metadata(file).with_context(at).map_err(Failure::Failed)?.len();
    if size > SCENARIO_BYTES_MAX {
        return Err(Failure::Usage(format!("{} is too long for a scenario", file.display())));
    }
    let text = std::fs::read_to_string(file).with_context(at).map_err(Failure::Failed)?;
    let plan = scenario::read(&text)
        .map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    let outcome = staffetta_sim::run(pair, &plan, policies, true);
    let violation = outcome.violation.as_ref();
    let seen = violation.map(|found| format!("{}: {}", found.rule.name(), found.text));
    context.print(
        &json!({ "violation": seen, "hash": format!("{:016x}", outcome.hash),
                 "timeline": outcome.text.lines().collect::<Vec<_>>() }),
        || {
            let verdict = seen.clone().unwrap_or_else(|| "every guarantee held".into());
            format!("{}{verdict}", outcome.text)
        },
    );
    if violation.is_some() { Err(Failure::FailedQuietly) } else { Ok(()) }
}

/// A run over many seeds and what it cost.
struct Searched {
    tally: Tally,
    coverage: Vec<(String, u64)>,
    cpu_us: u64,
}

fn search(
    context: &Context,
    pair: &Pair,
    flags: &SimulateFlags,
    policies: &mut Components,
) -> Outcome {
    let began = cpu_us();
    let mut tally = Tally::default();
    for seed in flags.first..flags.first.saturating_add(flags.seeds) {
        tally.take(pair, &staffetta_sim::draw(pair, seed), policies);
    }
    let cpu_us = cpu_us().saturating_sub(began).max(1);
    let (with, without) = (pair.arbiter != Tiebreak::Never, pair.arbiter != Tiebreak::Always);
    let coverage = tally.coverage.lines(with, without);
    tally.outages_us.sort_unstable();
    tally.takeovers_us.sort_unstable();
    tally.heals_us.sort_unstable();
    let searched = Searched { tally, coverage, cpu_us };
    if context.json {
        searched.metrics();
    } else {
        searched.report(pair);
    }
    let seeds: Vec<u64> = searched.tally.violations.iter().map(|(seed, _)| *seed).collect();
    for seed in seeds.iter().take(SHOWN_MAX) {
        let plan = staffetta_sim::draw(pair, *seed);
        write_down(context, pair, flags, &plan, policies)?;
    }
    let zeros = flags.seeds >= LONG_ENOUGH && searched.zeros() > 0;
    let broken = !seeds.is_empty() || !searched.tally.unequal.is_empty();
    if broken || zeros { Err(Failure::FailedQuietly) } else { Ok(()) }
}

/// Shrinks a history that broke a rule, shows it, and writes it where it can be run again.
fn write_down(
    context: &Context,
    pair: &Pair,
    flags: &SimulateFlags,
    plan: &History,
    policies: &mut Components,
) -> Outcome {
    let plan = staffetta_sim::shrink(pair, plan, policies);
    let outcome = staffetta_sim::run(pair, &plan, policies, true);
    let found = outcome
        .violation
        .map_or_else(String::new, |found| format!("{}: {}", found.rule.name(), found.text));
    let folder = flags.out.clone().unwrap_or_else(|| PathBuf::from("."));
    let file = folder.join(format!("seed-{}.scenario", plan.seed));
    let text = scenario::write(&plan, &format!("{found}\nshrunk from seed {}", plan.seed));
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(&file, text))
        .with_context(|| format!("cannot write {}", file.display()))
        .map_err(Failure::Failed)?;
    if !context.json {
        let file = file.display();
        say(&format!("\nthe shortest history found for seed {} ({found}):", plan.seed));
        say(&outcome.text);
        say(&format!("run it again: staffetta simulate --scenario {file}"));
    }
    Ok(())
}

impl Searched {
    fn zeros(&self) -> usize {
        self.coverage.iter().filter(|(_, count)| *count == 0).count()
    }

    fn per_cpu_minute(&self) -> f64 {
        self.tally.histories as f64 * 60e6 / self.cpu_us as f64
    }

    /// One object a line: name, value, unit.
    fn metrics(&self) {
        let line = |name: &str, value: serde_json::Value, unit: &str| {
            say(&json!({ "name": name, "value": value, "unit": unit }).to_string());
        };
        let tally = &self.tally;
        line("histories", json!(tally.histories), "count");
        line("histories_per_cpu_minute", json!(self.per_cpu_minute().round()), "1/min");
        line("violations", json!(tally.violations.len()), "count");
        line("unequal_traces", json!(tally.unequal.len()), "count");
        line("coverage_zero", json!(self.zeros()), "count");
        line("simulated_s", json!(tally.simulated_ms / 1_000), "s");
        for (name, list) in self.lists() {
            for (of, permille) in PERCENTILES {
                let ms = percentile(list, permille) as f64 / 1_000.0;
                line(&format!("{name}_ms_{of}"), json!(ms), "ms");
            }
        }
        for (seed, found) in &tally.violations {
            let value = json!({ "seed": seed, "rule": found.rule.name(), "text": found.text,
                                "at_ms": found.at_us / 1_000 });
            line("violation", value, "history");
        }
        for (name, count) in &self.coverage {
            line(&format!("coverage: {name}"), json!(count), "count");
        }
    }

    fn lists(&self) -> [(&'static str, &[u64]); 3] {
        let tally = &self.tally;
        [
            ("outage", &tally.outages_us),
            ("takeover", &tally.takeovers_us),
            ("heal", &tally.heals_us),
        ]
    }

    fn report(&self, pair: &Pair) {
        let tally = &self.tally;
        let parts = pair.timing.parts();
        let arbiter = match pair.arbiter {
            Tiebreak::Never => "no arbiter",
            Tiebreak::Always => "an arbiter",
            Tiebreak::Both => "an arbiter in every other history",
        };
        say(&format!(
            "{} histories, each run twice, {} hours simulated; beat {}, lease {}, {arbiter}",
            tally.histories,
            tally.simulated_ms / 3_600_000,
            parts.beat,
            parts.lease,
        ));
        for (name, count) in &self.coverage {
            say(&format!("{count:>12}  {name}"));
        }
        for ((name, list), what) in self.lists().into_iter().zip(WHAT) {
            let at = |permille| percentile(list, permille) / 1_000;
            say(&format!(
                "{name:<9} p50 {} ms, p95 {} ms, p99 {} ms, longest {} ms: {what}",
                at(500),
                at(950),
                at(990),
                at(1_000)
            ));
        }
        for (seed, found) in &tally.violations {
            let (ms, rule) = (found.at_us / 1_000, found.rule.name());
            say(&format!("seed {seed} at {ms} ms: {rule}: {}", found.text));
        }
        for seed in &tally.unequal {
            say(&format!("seed {seed}: its two runs differ: a policy or the core is not pure"));
        }
        say(&self.verdict());
    }

    fn verdict(&self) -> String {
        let (tally, zeros) = (&self.tally, self.zeros());
        let broken = tally.violations.len() + tally.unequal.len();
        let mut text = if broken == 0 {
            "never two primaries beyond what the guarantees say, no dead end, no flap".to_owned()
        } else {
            format!("{broken} histories broke a guarantee")
        };
        if zeros > 0 {
            text = format!("{text}; {zeros} things never happened");
            if tally.histories < LONG_ENOUGH {
                text = format!("{text} (with --seeds {LONG_ENOUGH} they must)");
            }
        }
        format!("{text}; {:.0} histories a CPU-minute", self.per_cpu_minute())
    }
}

const PERCENTILES: [(&str, u64); 4] = [("p50", 500), ("p95", 950), ("p99", 990), ("max", 1_000)];
const WHAT: [&str; 3] = [
    "a client without an answer, whatever had failed",
    "from the last answer of one node to the first of the other, unplanned",
    "from the last fault mended to a service that stays",
];

/// CPU time of this process.
fn cpu_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that the call fills.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(status, 0, "every Linux has the clock of a process");
    time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000
}

#[cfg(test)]
#[path = "simulate_tests.rs"]
mod tests;
