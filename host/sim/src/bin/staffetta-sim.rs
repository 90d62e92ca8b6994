//! The simulator with the policies as plain Rust: for mutants and for work on the core itself.
//!
//! ```text
//! staffetta-sim [--seeds N] [--first N] [--arbiter never|always|both] [--once] [--stop]
//! staffetta-sim --trace SEED
//! staffetta-sim --scenario FILE
//! ```

use staffetta_sim::{
    Native, Pair, Rule, Tally, Tiebreak, draw, percentile, quietly, run, scenario, shrink,
};
use std::ops::Range;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (mut seeds, mut first, mut stop, mut once, mut trace) = (1_000, 1, false, false, None);
    let (mut arbiter, mut file) = (Tiebreak::Both, None);
    let number = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seeds" => seeds = number(args.next()).unwrap_or(seeds),
            "--first" => first = number(args.next()).unwrap_or(first),
            "--stop" => stop = true,
            "--once" => once = true,
            "--trace" => trace = number(args.next()),
            "--scenario" => file = args.next(),
            "--arbiter" => {
                arbiter = match args.next().as_deref() {
                    Some("never") => Tiebreak::Never,
                    Some("always") => Tiebreak::Always,
                    _ => Tiebreak::Both,
                }
            }
            other => {
                eprintln!("staffetta-sim: {other} is not an option");
                return ExitCode::from(2);
            }
        }
    }
    if file.is_some() && trace.is_some() {
        eprintln!("staffetta-sim: --scenario shows its own trace: leave --trace out");
        return ExitCode::from(2);
    }
    let pair = Pair::fast(arbiter);
    quietly(|| match (file, trace) {
        (Some(file), _) => replay(&pair, &file),
        (None, Some(seed)) => show(&pair, seed),
        (None, None) => many(&pair, first..first + seeds, stop, once),
    })
}

fn show(pair: &Pair, seed: u64) -> ExitCode {
    let plan = shrink(pair, &draw(pair, seed), &mut Native::default());
    print!("{}", scenario::write(&plan, ""));
    let outcome = run(pair, &plan, &mut Native::default(), true);
    println!("{}\n{:?}", outcome.text, outcome.violation);
    ExitCode::SUCCESS
}

fn replay(pair: &Pair, file: &str) -> ExitCode {
    let read = std::fs::read_to_string(file).map_err(|error| error.to_string());
    let plan = match read.and_then(|text| scenario::read(&text).map_err(|e| e.to_string())) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("staffetta-sim: {file}: {error}");
            return ExitCode::from(2);
        }
    };
    let outcome = run(pair, &plan, &mut Native::default(), true);
    println!("{}\n{:?}", outcome.text, outcome.violation);
    if outcome.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn many(pair: &Pair, seeds: Range<u64>, stop: bool, once: bool) -> ExitCode {
    let mut policies = Native::default();
    let mut tally = Tally::default();
    for seed in seeds {
        let plan = draw(pair, seed);
        let whole = if once {
            tally.take_once(pair, &plan, &mut policies)
        } else {
            tally.take(pair, &plan, &mut policies)
        };
        if !whole && stop {
            break;
        }
    }
    for (seed, violation) in &tally.violations {
        let (ms, rule) = (violation.at_us / 1_000, violation.rule.name());
        println!("seed {seed} at {ms} ms: {rule}: {}", violation.text);
    }
    for seed in &tally.unequal {
        println!("seed {seed}: two runs differ");
    }
    let with = pair.arbiter != Tiebreak::Never;
    let without = pair.arbiter != Tiebreak::Always;
    let lines = tally.coverage.lines(with, without);
    for (name, count) in &lines {
        println!("{count:>10}  {name}");
    }
    for (name, list) in [
        ("outage", &mut tally.outages_us),
        ("takeover", &mut tally.takeovers_us),
        ("heal", &mut tally.heals_us),
    ] {
        list.sort_unstable();
        let at = |permille| percentile(list, permille) / 1_000;
        let (p50, p95, p99, max) = (at(500), at(950), at(990), at(1_000));
        println!("{name}: p50 {p50} p95 {p95} p99 {p99} max {max} ms of {}", list.len());
    }
    let by_rule = |rule: Rule| tally.violations.iter().filter(|(_, v)| v.rule == rule).count();
    for rule in Rule::ALL.into_iter().filter(|rule| by_rule(*rule) > 0) {
        println!("{:>10}  violations of {}", by_rule(rule), rule.name());
    }
    let zero = lines.iter().filter(|(_, count)| *count == 0).count();
    println!("{} histories, {} violations, {zero} zeros", tally.histories, tally.violations.len());
    if tally.violations.is_empty() && tally.unequal.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
