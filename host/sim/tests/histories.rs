//! Histories that broke a rule once, and a stretch of seeds: each is one history, and holds.

#![cfg(feature = "native")]

#[cfg(feature = "wasm")]
use staffetta_sim::Tally;
use staffetta_sim::{
    History, Native, Pair, Policies, Tiebreak, draw, quietly, run_twice, scenario,
};
use std::path::Path;

/// What is wrong with a history, or nothing.
fn trouble(pair: &Pair, plan: &History, policies: &mut dyn Policies) -> Option<String> {
    match run_twice(pair, plan, policies) {
        Ok(outcome) => {
            outcome.violation.map(|found| format!("{}: {}", found.rule.name(), found.text))
        }
        Err(hashes) => Some(format!("two runs differ: {hashes:x?}")),
    }
}

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn seeds_that_failed_once_hold() {
    let text = std::fs::read_to_string(folder().join("seeds.txt")).expect("the list is there");
    let mut failed = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let mut words = line.split_whitespace();
        let seed = words.next().and_then(|word| word.parse().ok()).expect("a line has a seed");
        let arbiter = match words.next() {
            Some("never") => Tiebreak::Never,
            Some("always") => Tiebreak::Always,
            other => panic!("{line}: {other:?} is neither never nor always"),
        };
        assert!(words.next().is_some(), "{line}: says what it was");
        let pair = Pair::fast(arbiter);
        let found = quietly(|| trouble(&pair, &draw(&pair, seed), &mut Native::default()));
        failed.extend(found.map(|text| format!("seed {seed}: {text}")));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn scenarios_hold_and_are_what_they_say() {
    let entries = std::fs::read_dir(folder().join("scenarios")).expect("scenarios are there");
    let (mut failed, mut count) = (Vec::new(), 0);
    for entry in entries {
        let path = entry.expect("a folder can be read").path();
        if path.extension().is_none_or(|extension| extension != "scenario") {
            continue;
        }
        count += 1;
        let text = std::fs::read_to_string(&path).expect("a scenario is text");
        let name = path.display();
        let plan = scenario::read(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let again = scenario::read(&scenario::write(&plan, "")).expect("what is written is read");
        assert_eq!(plan, again, "{name}");
        let pair = Pair::fast(Tiebreak::Both);
        let found = quietly(|| trouble(&pair, &plan, &mut Native::default()));
        failed.extend(found.map(|text| format!("{name}: {text}")));
    }
    assert!(count > 3, "only {count} scenarios");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_scenario_file_replays_its_seed() {
    for seed in 1..60 {
        let pair = Pair::fast(Tiebreak::Both);
        let plan = draw(&pair, seed);
        let written = scenario::write(&plan, "a comment");
        assert_eq!(scenario::read(&written).as_ref(), Ok(&plan), "seed {seed}\n{written}");
    }
}

#[test]
fn words_that_a_scenario_does_not_know_are_named() {
    let cases = [
        ("sede 4", "sede is not a word of scenarios"),
        ("links 3", "write a number from 1 to 2"),
        ("at 10 kill C down 5", "write one of A, B"),
        ("at 10 kill A for 5", "down is expected here"),
        ("at x kill A down 5", "write milliseconds"),
        ("at 10 explode A", "write one of kill, power-cut"),
        ("ending 10 happily", "write one of all-up"),
        ("arbiter yes no", "no is one word too many"),
        ("at 10 kill", "the line ends too early"),
    ];
    for (text, expected) in cases {
        let error = scenario::read(text).expect_err(text);
        assert!(error.to_string().contains(expected), "{text}: {error}");
        assert_eq!(error.line, 1);
    }
}

/// Runs every seed of a stretch twice. Nothing is asserted inside of `quietly`.
#[cfg(feature = "wasm")]
fn stretch(seeds: std::ops::RangeInclusive<u64>, policies: &mut dyn Policies) -> Tally {
    let mut tally = Tally::default();
    let pair = Pair::fast(Tiebreak::Both);
    for seed in seeds {
        tally.take(&pair, &draw(&pair, seed), policies);
    }
    tally
}

/// "No violation" of something that never happened would count for nothing.
#[cfg(feature = "wasm")]
#[test]
fn a_stretch_of_seeds_holds_and_meets_everything() {
    let mut components = staffetta_sim::Components::new(None, "{}").expect("the policies load");
    let halves = quietly(|| {
        let plain = std::thread::spawn(|| stretch(1..=2_500, &mut Native::default()));
        let sandboxed = stretch(2_501..=5_000, &mut components);
        (plain.join(), sandboxed)
    });
    let (plain, sandboxed) = (halves.0.expect("a history ends by itself"), halves.1);
    let mut met = std::collections::BTreeMap::new();
    for half in [plain, sandboxed] {
        assert_eq!(half.violations, []);
        assert_eq!(half.unequal, [0; 0]);
        assert_eq!(half.histories, 2_500);
        for (name, count) in half.coverage.lines(true, true) {
            *met.entry(name).or_insert(0) += count;
        }
    }
    let never: Vec<String> =
        met.into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect();
    assert!(never.is_empty(), "in 5,000 histories there was no {}", never.join(", no "));
}

/// Policies as components and as plain Rust answer alike: the same history, to the last bit.
#[cfg(feature = "wasm")]
#[test]
fn components_and_plain_rust_give_the_same_histories() {
    let mut components = staffetta_sim::Components::new(None, "{}").expect("the policies load");
    let pair = Pair::fast(Tiebreak::Both);
    for seed in 1..=40 {
        let plan = draw(&pair, seed);
        let sandboxed = staffetta_sim::run(&pair, &plan, &mut components, false);
        let plain = staffetta_sim::run(&pair, &plan, &mut Native::default(), false);
        assert_eq!(sandboxed.hash, plain.hash, "seed {seed}");
        assert_eq!(sandboxed.violation, None, "seed {seed}");
    }
}
