//! How a tree is opened, and how it begins on either side.

use super::{
    DELETIONS_FREE, Followed, Halt, NOTE_EPOCH, NOTE_PAIRED, NOTE_TREE, Side, note, random,
};
use crate::attend::{Attend, Settings as AttendSettings, flush};
use crate::index::Index;
use crate::lead::{Lead, Settings as LeadSettings};
use crate::status::Notice;
use crate::tree::Tree;
use crate::watch;
use std::sync::Arc;
use std::time::Instant;

impl Followed {
    pub(super) fn try_open(&mut self, follows: bool, now: Instant) -> Result<(), String> {
        let path = &self.options.path;
        let refused = |error: std::io::Error| {
            let remedy = match error.kind() {
                std::io::ErrorKind::NotFound => " (make the folder, or mount its disk)",
                _ => "",
            };
            format!("{}: {error}{remedy}", path.display())
        };
        let tree = Arc::new(Tree::open(path).map_err(refused)?);
        let mut index = Index::open(&self.state).map_err(|error| error.to_string())?;
        let known = note(&index, NOTE_TREE)?;
        let marker = tree.marker().map_err(refused)?;
        match (known, marker) {
            (Some(known), None) => {
                self.halt(Halt::MarkerGone(known), now);
                return Ok(());
            }
            (Some(known), Some(marker)) if known != marker => {
                self.halt(Halt::OtherTree, now);
                return Ok(());
            }
            (Some(_) | None, Some(marker)) => self.marker = Some(marker),
            (None, None) => self.marker = None,
        }
        self.paired = index.note(NOTE_PAIRED).map_err(|e| e.to_string())?.is_some();
        let epoch = index.note(NOTE_EPOCH).map_err(|e| e.to_string())?;
        let epoch = epoch.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
        self.epoch = self.epoch.max(epoch);
        tree.clean().map_err(refused)?;
        // Watched before it is walked: what changes in between is seen by one of the two.
        let source = watch::watch(path, self.options.mechanism).map_err(refused)?;
        let name = self.options.name.clone();
        self.notices.push(Notice::Opened(name, source.name()));
        self.source = Some(source);
        self.tree = Some(Arc::clone(&tree));
        if let Some(marker) = self.marker {
            index.set_note(NOTE_TREE, &marker).map_err(|error| error.to_string())?;
        }
        self.scan_at = self.options.scan.map(|interval| now + interval);
        if follows {
            self.begin_side_attend(tree, index)
        } else {
            self.begin_side_lead(tree, index, now)
        }
    }

    pub(super) fn begin_side_attend(
        &mut self,
        tree: Arc<Tree>,
        index: Index,
    ) -> Result<(), String> {
        let ignores = Arc::clone(&self.ignores);
        let settings = AttendSettings { ignores, flusher: Arc::new(flush) };
        let failed = |error: std::io::Error| format!("{}: {error}", self.options.path.display());
        let wake = Arc::clone(&self.wake);
        let mut attend = Attend::new(tree, index, settings, wake).map_err(failed)?;
        attend.begin_audit(false);
        self.side = Side::Attend(Box::new(attend));
        Ok(())
    }

    pub(super) fn begin_side_lead(
        &mut self,
        tree: Arc<Tree>,
        mut index: Index,
        now: Instant,
    ) -> Result<(), String> {
        let marker = match self.marker {
            Some(marker) => marker,
            None => {
                let marker = random();
                tree.mark(&marker)
                    .map_err(|error| format!("{}: {error}", self.options.path.display()))?;
                marker
            }
        };
        self.marker = Some(marker);
        index.set_note(NOTE_TREE, &marker).map_err(|error| error.to_string())?;
        index.set_note(NOTE_EPOCH, &self.epoch.to_le_bytes()).map_err(|error| error.to_string())?;
        crate::attend::forget_intent(&mut index).map_err(|error| error.to_string())?;
        let settings = LeadSettings {
            tree_id: marker,
            ignores: Arc::clone(&self.ignores),
            guard_share: self.options.delete_share_max.into(),
            guard_min: DELETIONS_FREE,
            grow: self.options.grow,
            compress: self.options.compress,
        };
        self.side = Side::Lead(Box::new(Lead::new(tree, index, settings, now)));
        Ok(())
    }
}
