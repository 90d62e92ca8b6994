//! No transaction that was acknowledged as synchronous is missing on a node that becomes primary by
//! itself. What an operator gives up by starting a node alone is given up.

use super::Finding;
use crate::fault::seat_name;
use crate::world::{Rows, side};

/// What was acknowledged to applications, of all reigns.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged {
    rows: Rows,
}

impl Acknowledged {
    /// Applications hear that these are safe.
    pub(crate) fn told(&mut self, rows: &Rows) {
        self.rows.join(rows);
    }

    /// A node begins to serve.
    pub(crate) fn reigns(&mut self, at: usize, has: &Rows, vouched: bool) -> Finding {
        if vouched {
            self.rows.meet(has);
            return Ok(());
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
