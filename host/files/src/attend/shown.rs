//! What the engine needs of a tree that attends, beside its work.

use super::{Attend, Counters};
use crate::index::{Index, Totals};
use crate::path::TreePath;

impl Attend {
    /// For notes that belong to the tree as a whole.
    pub(crate) fn index_mut(&mut self) -> &mut Index {
        &mut self.ground.index
    }

    /// All that the index knows; nothing when it fails, which the next turn says.
    pub(crate) fn totals(&mut self) -> Totals {
        self.ground.index.totals(&TreePath::root()).ok().flatten().unwrap_or_default()
    }

    /// Whether the primary's tree was the same when it last said what it is.
    pub(crate) fn is_aligned(&self) -> bool {
        self.is_aligned
    }

    /// What was done and seen.
    pub(crate) fn counters(&self) -> &Counters {
        &self.ground.counters
    }
}
