//! G4: two primaries that meet resolve within one round trip of beats; the winner announces again.

use super::{Finding, Step};
use crate::coverage::{Coverage, Rule};
use crate::fault::seat_name;
use crate::plan::Pair;
use crate::world::{MS, Ns, side};
use staffetta_core::{Alarm, Beat, Claim, Effect, Epoch, Event, Note, Role};

/// What the kernel and the loop may take beside beat and round trip.
const REACTION_MS: u64 = 100;

/// How long two primaries have been able to hear each other.
#[derive(Debug)]
pub(crate) struct Meetings {
    bound: Ns,
    since: Ns,
    last: Ns,
    disturbed: bool,
    /// Who was told of a higher reign by a peer that does not reign any more: since when it goes on
    /// below which epoch.
    below: [Option<(Ns, Epoch)>; 2],
}

impl Meetings {
    pub(crate) fn new(pair: &Pair) -> Meetings {
        let parts = pair.timing.parts();
        let bound = (parts.beat + parts.delay.times(2)).0 + REACTION_MS * MS;
        Meetings { bound, since: 0, last: 0, disturbed: true, below: [None; 2] }
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

    /// Whoever learns of a meeting yields or announces, in the same step. Whoever is told by a peer
    /// that does not reign any more goes on, above it: below it the peer would refuse it for ever.
    pub(crate) fn step(&mut self, now: Ns, step: Step<'_>, coverage: &mut Coverage) -> Finding {
        self.rises(now, step)?;
        let met = step.effects.iter().find_map(|effect| match effect {
            Effect::Note(Note::Met { low, high }) => Some((*low, *high)),
            _ => None,
        });
        let Some((_, high)) = met else { return Ok(()) };
        coverage.evaluated(Rule::G4);
        let has = |wanted: &Effect| step.effects.iter().any(|effect| effect == wanted);
        let served = step.serves(step.before);
        let serves = step.serves(step.after) && !has(&Effect::Release);
        let name = seat_name(side(step.at));
        // A claim announces by itself.
        if served && serves && step.after.epoch >= high && !has(&Effect::Announce) {
            return Err(format!("{name} wins a meeting and does not announce again"));
        }
        if !served || step.before.epoch >= high || has(&Effect::Release) {
            return Ok(());
        }
        let reigns = |beat: &Beat| matches!(beat.claim, Claim::Primary(_));
        if matches!(step.event, Event::Heard(beat) if reigns(beat)) {
            return Err(format!("{name} loses a meeting with {high} and does not let go"));
        }
        self.below[step.at].get_or_insert((now, high));
        Ok(())
    }

    /// Goes above the reign that it was told of as soon as its disk allows.
    fn rises(&mut self, now: Ns, step: Step<'_>) -> Finding {
        let Some((since, high)) = self.below[step.at] else { return Ok(()) };
        let unable = step.writing || step.after.alarms.contains(&Alarm::DiskFailed);
        if step.after.role != Role::Primary || step.after.epoch >= high {
            self.below[step.at] = None;
        } else if unable {
            self.below[step.at] = Some((now, high));
        } else if now - since > self.bound {
            let name = seat_name(side(step.at));
            return Err(format!("{name} goes on below {high}, of which its peer told"));
        }
        Ok(())
    }
}
