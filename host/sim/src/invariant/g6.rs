//! G6: a node whose lease ended while it was stalled gives its role up before it does anything
//! else.

use super::{Finding, Step};
use crate::coverage::{Coverage, Rule};
use crate::fault::seat_name;
use crate::world::side;
use staffetta_core::{Claim, Effect};

pub(crate) fn step(step: Step<'_>, coverage: &mut Coverage) -> Finding {
    let over = step.before.peer_lease.0 == 0 && step.before.own_lease.0 == 0;
    if !step.serves(step.before) || !over {
        return Ok(());
    }
    coverage.evaluated(Rule::G6);
    let name = seat_name(side(step.at));
    let telling = step.effects.iter().find(|effect| match effect {
        Effect::Release | Effect::Claim { .. } | Effect::Renew { .. } => true,
        Effect::Send(beat) => matches!(beat.claim, Claim::Primary(_)),
        Effect::Persist(..)
        | Effect::Consult(..)
        | Effect::Drain { .. }
        | Effect::Undrain { .. }
        | Effect::Degraded(..)
        | Effect::Announce
        | Effect::Probe
        | Effect::Ask(_)
        | Effect::Exit
        | Effect::OrderDone(_)
        | Effect::Note(_) => false,
    });
    if telling != Some(&Effect::Release) {
        return Err(format!("the lease of {name} is over, and its first deed is {telling:?}"));
    }
    Ok(())
}
