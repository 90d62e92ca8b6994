//! G4: two primaries that meet resolve within one round trip of beats; the winner announces again.

use super::{Finding, Step};
use crate::coverage::{Coverage, Rule};
use crate::fault::seat_name;
use crate::plan::Pair;
use crate::world::{MS, Ns, side};
use staffetta_core::{Effect, Note, Role};

/// What the kernel and the loop may take beside beat and round trip.
const REACTION_MS: u64 = 100;

/// How long two primaries have been able to hear each other.
#[derive(Debug)]
pub(crate) struct Meetings {
    bound: Ns,
    since: Ns,
    last: Ns,
    disturbed: bool,
}

impl Meetings {
    pub(crate) fn new(pair: &Pair) -> Meetings {
        let parts = pair.timing.parts();
        let bound = (parts.beat + parts.delay.times(2)).0 + REACTION_MS * MS;
        Meetings { bound, since: 0, last: 0, disturbed: true }
    }

    /// Something changed: the time begins anew.
    pub(crate) fn disturbed(&mut self) {
        self.disturbed = true;
    }

    /// Both nodes answer from `now` to `until`; `meet` when frames pass both ways and both run.
    pub(crate) fn overlap(
        &mut self,
        now: Ns,
        until: Ns,
        meet: bool,
        coverage: &mut Coverage,
    ) -> Finding {
        if self.disturbed || now > self.last || !meet {
            self.since = now;
            self.disturbed = false;
        }
        self.last = until;
        if !meet {
            self.disturbed = true;
            return Ok(());
        }
        coverage.evaluated(Rule::G4);
        let lasted = until - self.since;
        if lasted > self.bound {
            return Err(format!("two primaries see each other and answer for {} ms", lasted / MS));
        }
        Ok(())
    }
}

/// Whoever learns of a meeting yields or announces, in the same step.
pub(crate) fn step(step: Step<'_>, coverage: &mut Coverage) -> Finding {
    let met = step.effects.iter().find_map(|effect| match effect {
        Effect::Note(Note::Met { low, high }) => Some((*low, *high)),
        _ => None,
    });
    let Some((_, high)) = met else { return Ok(()) };
    coverage.evaluated(Rule::G4);
    let has = |wanted: &Effect| step.effects.iter().any(|effect| effect == wanted);
    let served = matches!(step.before.role, Role::Primary | Role::Draining);
    let serves = matches!(step.after.role, Role::Primary | Role::Draining);
    let name = seat_name(side(step.at));
    if serves && step.after.epoch >= high && !has(&Effect::Announce) {
        return Err(format!("{name} wins a meeting and does not announce again"));
    }
    if served && step.before.epoch < high && !has(&Effect::Release) {
        return Err(format!("{name} loses a meeting with {high} and does not let go"));
    }
    Ok(())
}
