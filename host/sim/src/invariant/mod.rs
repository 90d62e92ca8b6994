//! What must hold, one file each, checked at every step that can break it.
//!
//! The checks look at the world and at what a node says and does, never into the core: what is
//! granted, durable and answered is kept here a second time.

pub(crate) mod a1;
pub(crate) mod a2;
pub(crate) mod a3;
pub(crate) mod acknowledged_is_kept;
pub(crate) mod calm;
pub(crate) mod g1;
pub(crate) mod g2;
pub(crate) mod g3;
pub(crate) mod g4;
pub(crate) mod g5;
pub(crate) mod g6;
pub(crate) mod liveness;
pub(crate) mod planned_moves_lose_nothing;

use crate::coverage::{Coverage, Rule};
use crate::plan::{History, Pair};
use crate::world::Ns;
use staffetta_core::{Effect, Event, Role, View};

/// A rule that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub rule: Rule,
    /// When, µs since the start.
    pub at_us: u64,
    /// What was seen.
    pub text: String,
}

/// A check's word: nothing, or what is wrong.
pub(crate) type Finding = Result<(), String>;

/// All checks of one run that remember something.
#[derive(Debug)]
pub(crate) struct Rules {
    pub broken: Option<Violation>,
    pub g1: g1::Epochs,
    pub g2: g2::Writers,
    pub g4: g4::Meetings,
    pub calm: calm::Calm,
    pub acknowledged: acknowledged_is_kept::Acknowledged,
    pub planned: planned_moves_lose_nothing::Planned,
}

/// One step of a node as the checks see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step<'a> {
    pub at: usize,
    /// It said that it reigns, and has not let go since.
    pub reigns: bool,
    /// A record is on its way to its disk.
    pub writing: bool,
    pub before: &'a View,
    pub event: &'a Event,
    pub effects: &'a [Effect],
    pub after: &'a View,
}

impl Step<'_> {
    /// Whether a node that looks like this answers on the addresses: `view` is the one before or
    /// after.
    pub(crate) fn serves(&self, view: &View) -> bool {
        match view.role {
            Role::Primary => true,
            // Also the role of one that has let go already.
            Role::Draining => self.reigns,
            Role::Joining | Role::Standby | Role::Candidate | Role::Fenced => false,
        }
    }
}

impl Rules {
    pub(crate) fn new(pair: &Pair, plan: &History) -> Rules {
        Rules {
            broken: None,
            g1: g1::Epochs::new(plan),
            g2: g2::Writers::default(),
            g4: g4::Meetings::new(pair),
            calm: calm::Calm::new(plan),
            acknowledged: acknowledged_is_kept::Acknowledged::default(),
            planned: planned_moves_lose_nothing::Planned::default(),
        }
    }

    /// The first violation counts: what follows it follows from it.
    pub(crate) fn report(&mut self, rule: Rule, now: Ns, text: String) {
        self.broken.get_or_insert(Violation { rule, at_us: now / 1_000, text });
    }

    /// What one step shows.
    pub(crate) fn after_step(&mut self, now: Ns, step: Step<'_>, coverage: &mut Coverage) {
        for (rule, finding) in [
            (Rule::G2, self.g2.step(step, coverage)),
            (Rule::G4, self.g4.step(now, step, coverage)),
            (Rule::G6, g6::step(step, coverage)),
        ] {
            if let Err(text) = finding {
                self.report(rule, now, text);
            }
        }
    }
}
