//! No transaction that was acknowledged as synchronous is missing on a node that becomes primary by
//! itself. What an operator gives up by starting a node alone is given up.

use super::Finding;
use crate::fault::seat_name;
use crate::world::{Rows, side};
use staffetta_core::Epoch;

/// What was acknowledged to applications, of all reigns.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged {
    rows: Rows,
    /// Reigns that an operator began, and what their nodes had then: what is missing there is given
    /// up, also where it is acknowledged later by a node that does not know.
    given_up: Vec<(Epoch, Rows)>,
}

impl Acknowledged {
    pub(crate) fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Applications hear that these are safe, from a node that has granted its peer, or
    /// reigned under, epochs up to `knows`.
    pub(crate) fn told(&mut self, rows: &Rows, knows: Epoch) {
        let mut rows = rows.clone();
        for (_, has) in self.given_up.iter().filter(|(epoch, _)| *epoch > knows) {
            rows.meet(has);
        }
        self.rows.join(&rows);
    }

    /// Nobody knows any more who acknowledged what.
    pub(crate) fn forgotten(&mut self) {
        self.rows = Rows::default();
    }

    /// A node begins to serve; where an operator vouched for it, these were given up.
    pub(crate) fn reigns(
        &mut self,
        at: usize,
        epoch: Epoch,
        has: &Rows,
        vouched: Option<&Rows>,
    ) -> Finding {
        if let Some(given) = vouched {
            self.rows.give_up(given, has);
            self.given_up.push((epoch, has.clone()));
        }
        match self.rows.missing_in(has) {
            None => Ok(()),
            Some((epoch, count)) => Err(format!(
                "{} serves without {count} acknowledged transactions of {epoch}",
                seat_name(side(at))
            )),
        }
    }
}
