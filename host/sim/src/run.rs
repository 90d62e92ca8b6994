//! Runs histories: twice each, with the same trace, whatever happens inside.

use crate::coverage::{Coverage, Rule};
use crate::invariant::Violation;
use crate::plan::{History, Pair};
use crate::policies::Policies;
use crate::world::{self, Outcome};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs one history once. An assertion of the core that fails is a violation like any other.
#[must_use]
pub fn run(pair: &Pair, plan: &History, policies: &mut dyn Policies, with_text: bool) -> Outcome {
    let ran = catch_unwind(AssertUnwindSafe(|| world::run(pair, plan, policies, with_text)));
    ran.unwrap_or_else(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "an assertion failed".into());
        Outcome {
            hash: 0,
            violation: Some(Violation { rule: Rule::Core, at_us: 0, text }),
            coverage: Coverage::default(),
            outages_us: Vec::new(),
            takeovers_us: Vec::new(),
            heal_us: None,
            simulated_ms: 0,
            text: String::new(),
        }
    })
}

/// Keeps the standard output of failed assertions away while `work` runs: they are results here.
pub fn quietly<T>(work: impl FnOnce() -> T) -> T {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let done = work();
    std::panic::set_hook(before);
    done
}

/// Runs one history twice.
///
/// # Errors
/// The two hashes, when the runs differ: something in there is not a function of the seed.
pub fn run_twice(
    pair: &Pair,
    plan: &History,
    policies: &mut dyn Policies,
) -> Result<Outcome, (u64, u64)> {
    let first = run(pair, plan, policies, false);
    let second = run(pair, plan, policies, false);
    if first.hash == second.hash && first.violation == second.violation {
        Ok(first)
    } else {
        Err((first.hash, second.hash))
    }
}

/// What many histories came to.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Histories run, each twice.
    pub histories: u64,
    /// Simulated time of one pass, ms.
    pub simulated_ms: u64,
    /// Seeds that broke a rule, with what they broke.
    pub violations: Vec<(u64, Violation)>,
    /// Seeds whose two runs differed.
    pub unequal: Vec<u64>,
    /// What was seen.
    pub coverage: Coverage,
    /// Times without an answer, µs.
    pub outages_us: Vec<u64>,
    /// Times from the last answer of one node to the first of the other, µs.
    pub takeovers_us: Vec<u64>,
    /// Times from the last mending to the healing, µs.
    pub heals_us: Vec<u64>,
}

impl Tally {
    /// Runs the history of one seed and adds what it came to. True when nothing broke.
    pub fn take(&mut self, pair: &Pair, plan: &History, policies: &mut dyn Policies) -> bool {
        match run_twice(pair, plan, policies) {
            Ok(outcome) => self.add(plan.seed, outcome),
            Err(_) => {
                self.histories += 1;
                self.unequal.push(plan.seed);
                false
            }
        }
    }

    /// The same with a single pass, where only violations are looked for.
    pub fn take_once(&mut self, pair: &Pair, plan: &History, policies: &mut dyn Policies) -> bool {
        self.add(plan.seed, run(pair, plan, policies, false))
    }

    fn add(&mut self, seed: u64, outcome: Outcome) -> bool {
        self.histories += 1;
        self.simulated_ms += outcome.simulated_ms;
        self.coverage.add(&outcome.coverage);
        self.outages_us.extend(outcome.outages_us);
        self.takeovers_us.extend(outcome.takeovers_us);
        self.heals_us.extend(outcome.heal_us);
        match outcome.violation {
            Some(violation) => {
                self.violations.push((seed, violation));
                false
            }
            None => true,
        }
    }
}

/// The value below which `permille` of a thousand lie; zero of none.
#[must_use]
pub fn percentile(sorted: &[u64], permille: u64) -> u64 {
    let last = sorted.len().saturating_sub(1) as u64;
    let at = usize::try_from(last * permille / 1_000).unwrap_or(0);
    sorted.get(at).copied().unwrap_or(0)
}
