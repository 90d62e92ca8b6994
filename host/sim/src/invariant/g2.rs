//! G2, as far as the core can know: an epoch has one writer, and a reign that could have been lost
//! is recorded. Positions of data come later.

use super::{Finding, Step};
use crate::coverage::{Coverage, Rule};
use crate::fault::seat_name;
use crate::world::side;
use staffetta_core::{Claim, Effect, Epoch, Event, Note, Role};

/// Who wrote under which epoch.
#[derive(Debug, Default)]
pub(crate) struct Writers {
    writers: Vec<(Epoch, usize, u64)>,
    /// Meetings noted, by node and life.
    noted: Vec<(usize, u64, Epoch, Epoch)>,
    pub lives: [u64; 2],
    /// Newest beat heard: life of the hearer, life of the sender, number.
    newest: [(u64, u64, u64); 2],
}

impl Writers {
    /// A node says that it reigns.
    pub(crate) fn said(&mut self, at: usize, claim: &Claim, coverage: &mut Coverage) -> Finding {
        let Claim::Primary(epoch) = claim else { return Ok(()) };
        let me = (*epoch, at, self.lives[at]);
        if self.writers.last() == Some(&me) {
            return Ok(());
        }
        coverage.evaluated(Rule::G2);
        if let Some(other) = self.writers.iter().find(|(of, ..)| of == epoch) {
            return if *other == me {
                Ok(())
            } else {
                Err(format!("{epoch} has two writers: {} is the second", seat_name(side(at))))
            };
        }
        self.writers.push(me);
        Ok(())
    }

    /// A primary that hears of another reign says so.
    pub(crate) fn step(&mut self, step: Step<'_>, coverage: &mut Coverage) -> Finding {
        let (at, life) = (step.at, self.lives[step.at]);
        for effect in step.effects {
            if let Effect::Note(Note::Met { low, high }) = effect {
                self.noted.push((at, life, *low, *high));
            }
        }
        let Event::Heard(beat) = step.event else { return Ok(()) };
        let newest = self.newest[at];
        if (newest.0, newest.1) == (life, beat.boot) && newest.2 >= beat.n {
            // A double, or one that others overtook: it tells nothing.
            return Ok(());
        }
        self.newest[at] = (life, beat.boot, beat.n);
        let Claim::Primary(theirs) = beat.claim else { return Ok(()) };
        let serves = matches!(step.before.role, Role::Primary | Role::Draining);
        let leased = step.before.peer_lease.max(step.before.own_lease).0 > 0;
        let mine = step.before.epoch;
        if !serves || !leased || theirs.minted_by() != Some(side(1 - at)) {
            return Ok(());
        }
        coverage.evaluated(Rule::G2);
        let (low, high) = (mine.min(theirs), mine.max(theirs));
        if self.noted.contains(&(at, life, low, high)) {
            return Ok(());
        }
        Err(format!("{} meets {theirs} in its reign {mine} and notes nothing", seat_name(side(at))))
    }
}
