//! A planned handover loses nothing: whoever takes the hand has every transaction of the one that
//! gave it, unless that one stopped and said that something may be missing. Writers are held for a
//! handover only as long as it lasts.

use super::Finding;
use crate::fault::seat_name;
use crate::world::{Rows, side};
use staffetta_core::{Epoch, Role};

/// Handovers under way, and those that said that they lack something.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    drains: [Option<Epoch>; 2],
    without: Vec<Epoch>,
}

impl Planned {
    /// A process begins: nothing is held any more.
    pub(crate) fn boots(&mut self, at: usize) {
        self.drains[at] = None;
    }

    pub(crate) fn drains(&mut self, at: usize, epoch: Epoch) -> Finding {
        match self.drains[at].replace(epoch) {
            None => Ok(()),
            Some(last) => {
                Err(format!("{} drains for {epoch} and still for {last}", seat_name(side(at))))
            }
        }
    }

    pub(crate) fn undrains(&mut self, at: usize, epoch: Epoch) -> Finding {
        if self.drains[at].take() == Some(epoch) {
            return Ok(());
        }
        Err(format!("{} ends a drain for {epoch} that does not last", seat_name(side(at))))
    }

    /// After a step: a primary holds nobody, and a standby is the end of a handover.
    pub(crate) fn stepped(&mut self, at: usize, role: Role) -> Finding {
        match role {
            Role::Primary if self.drains[at].is_some() => {
                Err(format!("{} serves and still holds its writers", seat_name(side(at))))
            }
            Role::Standby => {
                self.drains[at] = None;
                Ok(())
            }
            Role::Joining | Role::Candidate | Role::Primary | Role::Draining | Role::Fenced => {
                Ok(())
            }
        }
    }

    /// Who hands this epoch over says that something may be missing.
    pub(crate) fn without(&mut self, epoch: Epoch) {
        self.without.push(epoch);
    }

    /// A handover of this epoch is complete.
    pub(crate) fn taken(&self, at: usize, epoch: Epoch, left: &Rows, has: &Rows) -> Finding {
        if self.without.contains(&epoch) {
            return Ok(());
        }
        match left.missing_in(has) {
            None => Ok(()),
            Some((of, count)) => Err(format!(
                "{} takes {epoch} over without {count} transactions of {of}",
                seat_name(side(at))
            )),
        }
    }
}
