//! What was at one path and is at another now: told by the inode, so that no events need pairing.

use super::Lead;
use super::due::{Force, Item};
use super::look::is_same_inode;
use super::window::Sent;
use crate::entry::{Found, Kind, Row};
use crate::index::IndexError;
use crate::path::TreePath;
use crate::wire::Deed;
use std::time::Instant;

impl Lead {
    /// Where what is at this path was before, if it is not there any more.
    pub(super) fn came_from(
        &mut self,
        path: &TreePath,
        found: &Found,
    ) -> Result<Option<TreePath>, IndexError> {
        for other in self.index.by_inode(found.stamp.ino)? {
            if path.is_within(&other) || other.is_within(path) {
                continue;
            }
            let Some(row) = self.index.get(&other)? else { continue };
            let is_same = is_same_inode(&row.stamp, &found.stamp)
                && found.kind == Some(row.entry.kind)
                // Without its birth an inode's number says little: it may be another file's by now.
                && (found.stamp.btime_ns != 0 || is_alike(&row, found));
            if !is_same {
                continue;
            }
            // An error is no proof of absence.
            let is_gone = match self.tree.stat(&other) {
                Ok(None) => true,
                Ok(Some(there)) => !is_same_inode(&there.stamp, &found.stamp),
                Err(_) => false,
            };
            if is_gone {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    /// Moves a row, with all below it, and says so. False when the standby is not known to have it
    /// there: then what is here is new, and what was there is gone.
    pub(super) fn carry(
        &mut self,
        from: &TreePath,
        to: &TreePath,
        item: &Item,
        now: Instant,
    ) -> Result<bool, IndexError> {
        let Some(row) = self.index.get(from)? else { return Ok(false) };
        let Some(sum) = self.index.sum(from)? else { return Ok(false) };
        if self.is_open() && (item.force == Force::Whole || !self.is_known(from, &row)) {
            return Ok(false);
        }
        self.cut_transfers_within(from, now);
        self.cut_transfers_within(to, now);
        if let Some(gone) = self.index.get(to)? {
            self.look_at_links(&gone.stamp, gone.entry.linked, to, now)?;
        }
        self.index.rename(from, to)?;
        self.due.moved(from, to);
        self.moved_in_flight(from, to);
        self.growing.moved(from, to);
        let sum = sum.to_le_bytes();
        let deed = Deed::Rename { from: from.clone(), to: to.clone(), sum };
        self.send(to, deed, Sent::Moved(row.entry), item.since);
        self.index.put(to, &Row { shared: false, ..row })?;
        for dir in [from.parent(), to.parent()].into_iter().flatten() {
            self.refresh(dir, now);
        }
        // Something else may be there by now; if nothing is, there is no row to miss it.
        self.due.add(from.clone(), Item::new(now), now);
        Ok(true)
    }
}

fn is_alike(row: &Row, found: &Found) -> bool {
    let is_dir = found.kind == Some(Kind::Dir);
    row.entry.mtime_ns == found.mtime_ns && (is_dir || row.entry.size == found.size)
}
