//! Paths that cannot be read here, or not be made there: tried again, less and less often.

use super::due::{Due, Force, Item};
use crate::path::TreePath;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Paths that are remembered. What is beyond is found again by a scan, or a comparison.
const TROUBLES_MAX: usize = 4_096;
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What is wrong with a path.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub what: String,
    /// On the standby.
    pub there: bool,
    force: Force,
    since: Instant,
    delay: Duration,
    /// None: it is being tried.
    next: Option<Instant>,
}

impl Trouble {
    pub(super) fn new(what: String, there: bool, force: Force, since: Instant) -> Self {
        Self { what, there, force, since, delay: RETRY_MIN, next: None }
    }
}

#[derive(Default)]
pub(super) struct Troubles {
    paths: BTreeMap<TreePath, Trouble>,
    /// Refusals in a row of paths that are not in trouble yet.
    strikes: HashMap<TreePath, u8>,
    /// Some found no place.
    overflowed: bool,
}

impl Troubles {
    pub(super) fn add(&mut self, path: TreePath, mut trouble: Trouble, now: Instant) {
        if let Some(old) = self.paths.get(&path) {
            trouble.delay = (old.delay * 2).min(RETRY_MAX);
            trouble.since = old.since;
        } else {
            tracing::warn!(%path, what = trouble.what, "a path cannot be replicated for now");
            if self.paths.len() >= TROUBLES_MAX {
                self.overflowed = true;
                return;
            }
        }
        trouble.next = Some(now + trouble.delay);
        self.paths.insert(path, trouble);
    }

    /// Counts a refusal.
    pub(super) fn strike(&mut self, path: &TreePath) -> u8 {
        if self.strikes.len() >= TROUBLES_MAX && !self.strikes.contains_key(path) {
            self.strikes.clear();
        }
        let count = self.strikes.entry(path.clone()).or_default();
        *count = count.saturating_add(1);
        *count
    }

    pub(super) fn was_refused(&self, path: &TreePath) -> bool {
        self.strikes.contains_key(path)
    }

    /// All is well with the path.
    pub(super) fn settle(&mut self, path: &TreePath) {
        if !self.strikes.is_empty() {
            self.strikes.remove(path);
        }
        if !self.paths.is_empty() {
            self.paths.remove(path);
        }
    }

    /// Makes those due whose time has come.
    pub(super) fn retry(&mut self, now: Instant, due: &mut Due) {
        for (path, trouble) in &mut self.paths {
            if trouble.next.is_some_and(|next| next <= now) {
                trouble.next = None;
                due.add(path.clone(), Item::forced(trouble.since, trouble.force), now);
            }
        }
    }

    /// Whether a scan is needed to find what had no place, now that there is some.
    pub(super) fn take_overflowed(&mut self) -> bool {
        self.overflowed && self.paths.len() < TROUBLES_MAX / 2 && {
            self.overflowed = false;
            true
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.paths.values().filter_map(|trouble| trouble.next).min()
    }

    /// Since when those are in trouble that are not being tried now.
    pub(super) fn resting(&self) -> impl Iterator<Item = Instant> {
        self.paths.values().filter(|trouble| trouble.next.is_some()).map(|trouble| trouble.since)
    }

    pub(super) fn is_there(&self, path: &TreePath) -> bool {
        self.paths.get(path).is_some_and(|trouble| trouble.there)
    }

    pub(super) fn any_there(&self) -> bool {
        self.paths.values().any(|trouble| trouble.there)
    }

    /// Another standby, or the same one later, may do what this one refused.
    pub(super) fn forget_there(&mut self) {
        self.strikes.clear();
        self.paths.retain(|_, trouble| !trouble.there);
    }

    pub(super) fn len(&self) -> usize {
        self.paths.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&TreePath, &Trouble)> {
        self.paths.iter()
    }
}
