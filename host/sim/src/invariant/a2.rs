//! A2: with an arbiter, the loss of any one of node, node and arbiter is survived.

use crate::plan::Ending;

/// Whether an ending is the loss of one of the three.
pub(crate) fn applies(arbiter: bool, ending: Ending) -> bool {
    arbiter && matches!(ending, Ending::Dead(_) | Ending::ArbiterDead)
}
