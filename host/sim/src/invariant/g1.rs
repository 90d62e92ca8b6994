//! G1: an epoch is durable before it is reigned, never used twice, and never lower than one that
//! this node reigned or granted; with an arbiter, never lower than any before it.

use super::Finding;
use crate::fault::{Fault, seat_name};
use crate::plan::History;
use crate::world::side;
use staffetta_core::{Durable, Epoch};

/// Reigns so far.
#[derive(Debug)]
pub(crate) struct Epochs {
    reigns: Vec<(Epoch, usize)>,
    /// The register ties all reigns together: it was never lost.
    ordered: bool,
}

impl Epochs {
    pub(crate) fn new(plan: &History) -> Epochs {
        let wiped = plan.faults.iter().any(|timed| timed.fault == Fault::Wiped);
        Epochs { reigns: Vec::new(), ordered: plan.arbiter && !wiped }
    }

    /// A record reached the disk.
    pub(crate) fn durable(&self, at: usize, old: &Durable, new: &Durable) -> Finding {
        let name = seat_name(side(at));
        if new.highest < old.highest {
            return Err(format!("the disk of {name} goes from {} to {}", old.highest, new.highest));
        }
        if new.promised < old.promised {
            return Err(format!("the largest promise on the disk of {name} shrinks"));
        }
        Ok(())
    }

    /// A node begins a reign, or gives a running one a new number; `resumes` when it was granted
    /// before the node's clocks stood still: it cannot know of the reigns since.
    pub(crate) fn reign(
        &mut self,
        at: usize,
        epoch: Epoch,
        disk: &Durable,
        granted: Epoch,
        resumes: bool,
    ) -> Finding {
        let name = seat_name(side(at));
        if disk.highest.max(disk.reserved) < epoch {
            return Err(format!("{name} reigns {epoch}, which is not on its disk"));
        }
        if self.reigns.iter().any(|(used, _)| *used == epoch) {
            return Err(format!("{name} reigns {epoch} a second time"));
        }
        if epoch < granted {
            return Err(format!("{name} reigns {epoch} after it granted {granted}"));
        }
        let mine = |of: usize| self.ordered && !resumes || of == at;
        let last = self.reigns.iter().filter(|(_, of)| mine(*of)).map(|(used, _)| *used).max();
        self.reigns.push((epoch, at));
        match last {
            Some(last) if last > epoch => Err(format!("{name} reigns {epoch} after {last}")),
            Some(_) | None => Ok(()),
        }
    }
}
