//! No needless failover: loss, delay within bounds, and stalls shorter than the lease never move
//! the service.

use super::Finding;
use crate::coverage::{Coverage, Rule};
use crate::fault::seat_name;
use crate::plan::{History, Premise};
use crate::world::{MS, Ns, side};
use staffetta_core::Role;

/// A pair that has served this long is settled.
const SETTLED_MS: u64 = 1_000;

/// What a calm history must not show.
#[derive(Debug)]
pub(crate) struct Calm {
    applies: bool,
    until: Ns,
    serves_since: Option<Ns>,
}

impl Calm {
    pub(crate) fn new(plan: &History) -> Calm {
        let applies = plan.premise == Premise::Calm;
        Calm { applies, until: plan.until_ms * MS, serves_since: None }
    }

    pub(crate) fn settled(&self, now: Ns) -> bool {
        let old = |since: Ns| now - since > SETTLED_MS * MS;
        self.applies && now < self.until && self.serves_since.is_some_and(old)
    }

    /// A role changed.
    pub(crate) fn role(&mut self, at: usize, now: Ns, from: Role, to: Role) -> Finding {
        let name = seat_name(side(at));
        if self.settled(now) && (from == Role::Primary || to == Role::Primary) {
            return Err(format!("{name} goes from {from:?} to {to:?} without need"));
        }
        if to == Role::Primary {
            self.serves_since.get_or_insert(now);
        }
        Ok(())
    }

    /// Someone ceased to answer, or began to.
    pub(crate) fn answers(&self, now: Ns, someone: bool, coverage: &mut Coverage) -> Finding {
        if !self.settled(now) {
            return Ok(());
        }
        coverage.evaluated(Rule::NoNeedless);
        if someone { Ok(()) } else { Err("nobody answers on the VIP without need".into()) }
    }
}
