//! Paths that are to be looked at, and when: a set, not a queue.

use crate::digest::Digest;
use crate::path::TreePath;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Paths at most; beyond that the fullest folder is walked instead.
const PATHS_MAX: usize = 50_000;
/// A folder of fewer paths than this is not worth collapsing: then the whole tree is.
const COLLAPSE_MIN: usize = 64;
/// A path that does not come to rest is looked at after this all the same.
const HOLD_MAX: Duration = Duration::from_millis(50);

/// Whether to say what is there although the index knows it already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Force {
    /// Only what differs from the index.
    No,
    /// Say it: at this path the standby has a content of this digest.
    Say(Digest),
    /// Say it, and rely on nothing that the standby may have.
    Whole,
}

impl Force {
    fn with(self, other: Force) -> Force {
        match (self, other) {
            (Force::Whole, _) | (_, Force::Whole) => Force::Whole,
            (Force::No, force) | (force, Force::No) => force,
            (Force::Say(mine), Force::Say(theirs)) if mine == theirs => self,
            (Force::Say(_), Force::Say(_)) => Force::Whole,
        }
    }
}

/// Why and since when a path is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Item {
    pub since: Instant,
    pub force: Force,
    /// It was written to.
    pub written: bool,
    /// It was closed after it was written to.
    pub closed: bool,
    /// Everything below it, too.
    pub below: bool,
    /// How often it changed while it was looked at.
    pub tries: u8,
    /// It is looked at for the second time in a turn: what was there may have moved by now.
    pub late: bool,
}

impl Item {
    pub(crate) fn new(since: Instant) -> Self {
        Self {
            since,
            force: Force::No,
            written: false,
            closed: false,
            below: false,
            tries: 0,
            late: false,
        }
    }

    pub(crate) fn forced(since: Instant, force: Force) -> Self {
        Self { force, ..Self::new(since) }
    }

    fn with(self, other: Item) -> Item {
        Item {
            since: self.since.min(other.since),
            force: self.force.with(other.force),
            written: self.written || other.written,
            closed: self.closed || other.closed,
            below: self.below || other.below,
            tries: self.tries.max(other.tries),
            late: false,
        }
    }
}

/// The set.
#[derive(Default)]
pub(crate) struct Due {
    items: BTreeMap<TreePath, (Item, Instant)>,
    times: BTreeSet<(Instant, TreePath)>,
}

impl Due {
    /// At this time, or earlier if it is due earlier.
    pub(crate) fn add(&mut self, path: TreePath, item: Item, due: Instant) {
        self.insert(path, item, due, false);
    }

    /// When nothing was said of it up to this time, but not much later than it was said first.
    pub(crate) fn add_quiet(&mut self, path: TreePath, item: Item, due: Instant) {
        self.insert(path, item, due, true);
    }

    fn insert(&mut self, path: TreePath, item: Item, due: Instant, quiet: bool) {
        let (item, due) = match self.items.get(&path) {
            None => (item, due),
            Some((old, at)) => {
                self.times.remove(&(*at, path.clone()));
                let later = quiet && *at < due;
                let due = if later { due.min(old.since + HOLD_MAX).max(*at) } else { due.min(*at) };
                (old.with(item), due)
            }
        };
        self.times.insert((due, path.clone()));
        self.items.insert(path, (item, due));
        if self.items.len() > PATHS_MAX {
            self.collapse(due);
        }
    }

    /// The next one that is due.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(TreePath, Item)> {
        if self.times.first()?.0 > now {
            return None;
        }
        let (_, path) = self.times.pop_first()?;
        let (item, _) = self.items.remove(&path)?;
        Some((path, item))
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.times.first().map(|(at, _)| *at)
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&TreePath, &Item)> {
        self.items.iter().map(|(path, (item, _))| (path, item))
    }

    /// What is below a folder that has moved has moved with it; the folder itself has not: what is
    /// at its former path is a question of its own.
    pub(crate) fn moved(&mut self, from: &TreePath, to: &TreePath) {
        let below: Vec<_> = self
            .items
            .range(from.clone()..)
            .take_while(|(path, _)| path.as_bytes().starts_with(from.as_bytes()))
            .filter(|(path, _)| *path != from && path.is_within(from))
            .map(|(path, (item, due))| (path.clone(), *item, *due))
            .collect();
        for (path, item, due) in below {
            // Where it was is looked at, too: something new may be there by now.
            if let Some(path) = path.moved(from, to) {
                self.add(path, item, due);
            }
        }
    }

    fn collapse(&mut self, due: Instant) {
        let mut counts: BTreeMap<TreePath, usize> = BTreeMap::new();
        for path in self.items.keys() {
            *counts.entry(path.parent().unwrap_or_default()).or_default() += 1;
        }
        let fullest = counts.into_iter().max_by_key(|(_, count)| *count);
        let dir = match fullest {
            Some((dir, count)) if count >= COLLAPSE_MIN => dir,
            Some(_) | None => TreePath::root(),
        };
        let mut all = Item { below: true, ..Item::new(due) };
        let gone: Vec<_> = self.items.keys().filter(|path| path.is_within(&dir)).cloned().collect();
        for path in gone {
            if let Some((item, at)) = self.items.remove(&path) {
                self.times.remove(&(at, path));
                all = all.with(item);
            }
        }
        // A digest is of one path, never of a folder.
        if let Force::Say(_) = all.force {
            all.force = Force::Whole;
        }
        self.add(dir, Item { written: false, closed: false, ..all }, due);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_path_is_due_when_it_is_quiet_but_not_for_ever() {
        let (mut due, t0) = (Due::default(), Instant::now());
        for ms in 0..100 {
            let now = t0 + Duration::from_millis(ms);
            due.add_quiet(path("a"), Item::new(now), now + Duration::from_millis(3));
            if let Some((_, item)) = due.pop(now) {
                assert_eq!((ms, item.since), (50, t0));
                return;
            }
        }
        panic!("never due");
    }

    #[test]
    fn many_names_in_one_folder_become_the_folder() {
        let (mut due, now) = (Due::default(), Instant::now());
        due.add(path("other"), Item::new(now), now);
        for n in 0..PATHS_MAX {
            due.add(path(&format!("d/{n}")), Item::new(now), now);
        }
        let left: Vec<_> = due.iter().map(|(path, item)| (path.clone(), item.below)).collect();
        assert_eq!(left, [(path("d"), true), (path("other"), false)]);
    }
}
