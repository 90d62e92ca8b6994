//! What the engine needs of a tree that is led, beside its work.

use super::Lead;
use crate::index::{Index, Totals};
use crate::path::TreePath;

impl Lead {
    /// For notes that belong to the tree as a whole.
    pub(crate) fn index_mut(&mut self) -> &mut Index {
        &mut self.index
    }

    /// Steps that are durable on the standby, on this connection.
    pub(crate) fn acked(&self) -> u64 {
        self.link.as_ref().map_or(0, super::window::Link::acked)
    }

    /// All that the index knows; nothing when it fails, which the next turn says.
    pub(crate) fn totals(&mut self) -> Totals {
        self.index.totals(&TreePath::root()).ok().flatten().unwrap_or_default()
    }
}
