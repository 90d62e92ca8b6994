//! Deletions: they wait for what moved to be seen elsewhere, too many of them for a person.

use super::Lead;
use super::due::Item;
use super::window::Sent;
use crate::entry::Kind;
use crate::index::IndexError;
use crate::path::TreePath;
use crate::wire::Deed;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Deletions wait for this much quiet, but not longer than that.
const QUIET: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_millis(500);
/// Paths that wait, or are held. What is beyond stays in the index, and is found by a scan.
const WAITING_MAX: usize = 20_000;
/// Deletions within this time are counted together, in parts of that.
const WINDOW: Duration = Duration::from_secs(600);
const WINDOW_STEP: Duration = Duration::from_secs(10);
/// Deletions in one turn.
const PER_TURN_MAX: usize = 256;

/// A path that seems to be gone.
#[derive(Debug, Clone, Copy)]
struct Gone {
    since: Instant,
    /// Entries that the standby has there, when the index knows nothing of them.
    extra: Option<u64>,
    /// A person has seen it, or it is no deletion but the rest of a move.
    approved: bool,
}

#[derive(Default)]
pub(super) struct Guard {
    waiting: BTreeMap<TreePath, Gone>,
    first_at: Option<Instant>,
    last_at: Option<Instant>,
    /// May go, outermost paths only.
    leaving: VecDeque<(TreePath, Gone)>,
    held: BTreeMap<TreePath, Gone>,
    held_entries: u64,
    /// Entries that went, and when.
    went: VecDeque<(Instant, u64)>,
}

impl Guard {
    pub(super) fn add(&mut self, path: TreePath, extra: Option<u64>, since: Instant, now: Instant) {
        self.insert(path, Gone { since, extra, approved: false }, now);
    }

    /// The rest of a move: it counts as no deletion.
    pub(super) fn add_approved(&mut self, path: TreePath, since: Instant, now: Instant) {
        self.insert(path, Gone { since, extra: Some(0), approved: true }, now);
    }

    fn insert(&mut self, path: TreePath, gone: Gone, now: Instant) {
        if self.held.contains_key(&path) || self.waiting.len() >= WAITING_MAX {
            return;
        }
        self.first_at.get_or_insert(now);
        self.last_at = Some(now);
        let old = self.waiting.get(&path);
        let approved = gone.approved || old.is_some_and(|old| old.approved);
        let extra = gone.extra.max(old.and_then(|old| old.extra));
        self.waiting.insert(path, Gone { approved, extra, ..gone });
    }

    /// Something is there: it is not to be deleted.
    pub(super) fn is_there(&mut self, path: &TreePath) {
        if !self.held.is_empty() {
            self.held.remove(path);
        }
        if !self.waiting.is_empty() {
            self.waiting.remove(path);
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() || !self.leaving.is_empty()
    }

    pub(super) fn due(&self) -> Option<Instant> {
        if let Some((_, gone)) = self.leaving.front() {
            return Some(gone.since);
        }
        if self.waiting.is_empty() {
            return None;
        }
        let (first, last) = (self.first_at?, self.last_at?);
        Some((last + QUIET).min(first + WAIT_MAX))
    }

    /// A scan finds them again.
    pub(super) fn forget_waiting(&mut self) {
        self.waiting.clear();
        self.leaving.clear();
        self.first_at = None;
    }

    pub(super) fn held(&self) -> impl Iterator<Item = &TreePath> {
        self.held.keys()
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = (&TreePath, Instant)> {
        let leaving = self.leaving.iter().map(|(path, gone)| (path, gone.since));
        self.waiting.iter().map(|(path, gone)| (path, gone.since)).chain(leaving)
    }

    /// Paths that are held, and the entries that are gone with them.
    pub(super) fn held_count(&self) -> (usize, u64) {
        (self.held.len(), if self.held.is_empty() { 0 } else { self.held_entries })
    }

    fn count(&mut self, now: Instant) -> u64 {
        while self.went.front().is_some_and(|(at, _)| *at + WINDOW < now) {
            self.went.pop_front();
        }
        self.went.iter().map(|(_, count)| count).sum()
    }

    fn note(&mut self, now: Instant, count: u64) {
        match self.went.back_mut() {
            Some((at, sum)) if now < *at + WINDOW_STEP => *sum += count,
            Some(_) | None => self.went.push_back((now, count)),
        }
    }

    fn hold(&mut self, gone: Vec<(TreePath, Gone, u64)>) {
        for (path, gone, count) in gone {
            if self.held.len() < WAITING_MAX && self.held.insert(path, gone).is_none() {
                self.held_entries += count;
            }
        }
    }
}

impl Lead {
    /// Held deletions go on.
    pub(crate) fn approve(&mut self) {
        let now = Instant::now();
        let held = std::mem::take(&mut self.guard.held);
        self.guard.held_entries = 0;
        for (path, gone) in held {
            self.guard.insert(path, Gone { approved: true, ..gone }, now);
        }
    }

    /// Deletes what is gone, when it has been for long enough.
    pub(super) fn delete(&mut self, now: Instant) -> Result<bool, IndexError> {
        if self.guard.due().is_none_or(|at| at > now) {
            return Ok(false);
        }
        if !self.check_root(now) {
            return Ok(false);
        }
        if self.guard.leaving.is_empty() {
            self.judge(now)?;
        }
        for _ in 0..PER_TURN_MAX {
            if !self.has_room() {
                return Ok(false);
            }
            let Some((path, gone)) = self.guard.leaving.pop_front() else { break };
            self.delete_one(&path, gone, now)?;
        }
        Ok(!self.guard.leaving.is_empty())
    }

    /// Which of those that wait may go.
    fn judge(&mut self, now: Instant) -> Result<(), IndexError> {
        self.guard.first_at = None;
        let waiting = std::mem::take(&mut self.guard.waiting);
        let mut tops: Vec<(TreePath, Gone, u64)> = Vec::new();
        let mut existing = BTreeSet::new();
        for (path, gone) in waiting {
            if tops.last().is_some_and(|(top, ..)| path.is_within(top)) {
                continue;
            }
            let Some(top) = self.outermost(&path, &mut existing) else {
                self.due.add(path, Item::new(gone.since), now);
                continue;
            };
            let count = match (self.index.totals(&top)?, gone.extra) {
                (Some(totals), _) => totals.entries,
                (None, Some(extra)) => extra,
                (None, None) => continue,
            };
            // A path such as `a-b` lies between `a` and `a/c`.
            if !tops.iter().rev().take(64).any(|(other, ..)| top.is_within(other)) {
                tops.push((top, gone, count));
            }
        }
        let (approved, tops): (Vec<_>, Vec<_>) =
            tops.into_iter().partition(|(_, gone, _)| gone.approved);
        let count: u64 = tops.iter().map(|(.., count)| count).sum();
        let all = self.index.totals(&TreePath::root())?.unwrap_or_default().entries;
        let most = match self.settings.guard_share {
            // Within ten minutes a busy tree may lose more than it holds at any moment.
            100.. => u64::MAX,
            share => (all * share / 100).max(self.settings.guard_min),
        };
        let went = self.guard.count(now);
        let is_held = !tops.is_empty()
            && (!self.guard.held.is_empty()
                || went.saturating_add(count) > most
                || self.is_emptied()?);
        if is_held {
            if self.guard.held.is_empty() {
                let tree = self.tree.path.display();
                tracing::error!(%tree, count, went, most, "deletions wait for an operator");
            }
            self.guard.hold(tops);
        } else {
            self.guard.note(now, count);
            self.guard.leaving.extend(tops.into_iter().map(|(path, gone, _)| (path, gone)));
        }
        self.guard.leaving.extend(approved.into_iter().map(|(path, gone, _)| (path, gone)));
        Ok(())
    }

    /// The outermost folder that is gone with a path; none when the path is there, or nobody can
    /// tell.
    fn outermost(
        &mut self,
        path: &TreePath,
        existing: &mut BTreeSet<TreePath>,
    ) -> Option<TreePath> {
        if self.is_something(path)? {
            return None;
        }
        let mut top = path.clone();
        while let Some(parent) = top.parent().filter(|parent| !parent.is_root()) {
            if existing.contains(&parent) {
                break;
            }
            if self.is_something(&parent)? {
                existing.insert(parent);
                break;
            }
            top = parent;
        }
        Some(top)
    }

    /// Whether anything that belongs to a tree is at a path. None: unknown.
    fn is_something(&self, path: &TreePath) -> Option<bool> {
        let found = self.tree.stat(path).ok()?;
        Some(found.is_some_and(|found| found.kind.is_some() && found.dev == self.tree.dev))
    }

    /// Whether the tree has nothing any more of all that it had.
    fn is_emptied(&mut self) -> Result<bool, IndexError> {
        let root = TreePath::root();
        let ignores = &self.settings.ignores;
        let is_left_out = |name: &[u8], is_dir| {
            root.join(name).map_or(true, |path| ignores.leaves_out(&path, is_dir))
        };
        let children = self.tree.list(&root).ok().flatten().unwrap_or_default();
        Ok(children.iter().all(|(name, found)| is_left_out(name, found.kind == Some(Kind::Dir))))
    }

    fn delete_one(&mut self, path: &TreePath, gone: Gone, now: Instant) -> Result<(), IndexError> {
        match self.is_something(path) {
            Some(false) => {}
            Some(true) | None => {
                self.due.add(path.clone(), Item::new(gone.since), now);
                return Ok(());
            }
        }
        let row = self.index.get(path)?;
        if row.is_none() && gone.extra.is_none() {
            return Ok(());
        }
        // Its folder may have become a file, which has taken all that was in it along.
        if let Some(parent) = path.parent()
            && let Ok(Some(found)) = self.tree.stat(&parent)
            && found.kind != Some(Kind::Dir)
        {
            self.due.add(parent, Item::new(gone.since), now);
            return Ok(());
        }
        self.cut_transfers_within(path, now);
        if let Some(row) = row {
            self.index.remove(path)?;
            self.look_at_links(&row.stamp, row.entry.linked, path, now)?;
        }
        self.growing.forget(path);
        self.send(path, Deed::Delete(path.clone()), Sent::Deleted, gone.since);
        if let Some(parent) = path.parent() {
            self.refresh(parent, now);
        }
        Ok(())
    }
}
