//! The shortest history that still breaks the same rule.

use crate::plan::{Ending, History, Licensing, Pair};
use crate::policies::Policies;
use crate::run::run;

/// Runs that a shrinking may take.
const RUNS_MAX: u32 = 400;

/// Leaves faults out, shortens the rest, and calms the weather, as long as the same rule breaks.
#[must_use]
pub fn shrink(pair: &Pair, plan: &History, policies: &mut dyn Policies) -> History {
    let Some(rule) = run(pair, plan, policies, false).violation.map(|found| found.rule) else {
        return plan.clone();
    };
    let mut shrinker = Shrinker { best: plan.clone(), left: RUNS_MAX };
    let mut breaks = |plan: &History| {
        run(pair, plan, policies, false).violation.is_some_and(|found| found.rule == rule)
    };
    loop {
        let before = shrinker.best.clone();
        shrinker.fewer(&mut breaks);
        shrinker.shorter(&mut breaks);
        shrinker.calmer(&mut breaks);
        if shrinker.best == before || shrinker.left == 0 {
            return shrinker.best;
        }
    }
}

struct Shrinker {
    best: History,
    left: u32,
}

impl Shrinker {
    fn attempt(&mut self, plan: History, breaks: &mut impl FnMut(&History) -> bool) -> bool {
        if self.left == 0 || plan == self.best {
            return false;
        }
        self.left -= 1;
        let still = breaks(&plan);
        if still {
            self.best = plan;
        }
        still
    }

    /// Ever smaller blocks of faults are left out.
    fn fewer(&mut self, breaks: &mut impl FnMut(&History) -> bool) {
        let mut block = self.best.faults.len().div_ceil(2).max(1);
        loop {
            let mut at = 0;
            while at < self.best.faults.len() {
                let mut plan = self.best.clone();
                let end = (at + block).min(plan.faults.len());
                plan.faults.drain(at..end);
                if !self.attempt(plan, breaks) {
                    at += block;
                }
            }
            if block == 1 {
                return;
            }
            block /= 2;
        }
    }

    /// What lasts lasts half as long; what comes late comes early; the ending comes soon.
    fn shorter(&mut self, breaks: &mut impl FnMut(&History) -> bool) {
        for at in 0..self.best.faults.len() {
            loop {
                let mut plan = self.best.clone();
                let Some(ms) = plan.faults[at].fault.lasts_ms().filter(|ms| **ms > 1) else {
                    break;
                };
                *ms /= 2;
                if !self.attempt(plan, breaks) {
                    break;
                }
            }
        }
        let last_us = self.best.faults.last().map_or(0, |timed| timed.at_us);
        for spare_ms in [500, 5_000, 15_000] {
            let plan = History { until_ms: last_us / 1_000 + spare_ms, ..self.best.clone() };
            if plan.until_ms < self.best.until_ms && self.attempt(plan, breaks) {
                break;
            }
        }
        let first_us = self.best.faults.first().map_or(0, |timed| timed.at_us);
        for keep_us in [500_000, 3_000_000] {
            let by_us = first_us.saturating_sub(keep_us);
            let mut plan = self.best.clone();
            for timed in &mut plan.faults {
                timed.at_us -= by_us;
            }
            plan.until_ms = plan.until_ms.saturating_sub(by_us / 1_000);
            if by_us > 0 && self.attempt(plan, breaks) {
                break;
            }
        }
    }

    fn calmer(&mut self, breaks: &mut impl FnMut(&History) -> bool) {
        let weather = self.best.weather;
        let calm = [
            crate::Weather { old: None, ..weather },
            crate::Weather { licensing: Licensing::Off, ..weather },
            crate::Weather { ppm: [0, 0], ..weather },
            crate::Weather { jitter_us: 0, ..weather },
            crate::Weather { data: false, ..weather },
            crate::Weather { links: 1, ..weather },
        ];
        for weather in calm {
            let plan = History { weather, ..self.best.clone() };
            self.attempt(plan, breaks);
        }
        let plan = History { ending: Ending::AllUp, ..self.best.clone() };
        self.attempt(plan, breaks);
    }
}
