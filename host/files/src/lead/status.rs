//! What others see of a tree that is led.

use super::Lead;
use crate::path::TreePath;
use std::time::Instant;

/// Paths in trouble that are named.
const TROUBLES_NAMED_MAX: usize = 16;

/// What the standby may not have, and what is under way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Backlog {
    /// Paths that are to be looked at, whose steps are in flight, or that are in trouble.
    pub files: u64,
    /// Bytes in flight, and of large files still to be read.
    pub bytes: u64,
    /// Since when the oldest of them waits.
    pub oldest: Option<Instant>,
    /// Paths whose deletion is held, and entries that would go with them.
    pub held: u64,
    pub held_entries: u64,
    pub scanning: bool,
    pub comparing: bool,
    /// The standby takes steps.
    pub open: bool,
    /// Why it does not, in its own words.
    pub closed: Option<String>,
    /// Why nothing is looked at, and what to do.
    pub halted: Option<String>,
    /// Paths that cannot be replicated for now, and some of them.
    pub troubles: u64,
    pub troubled: Vec<(TreePath, String)>,
    /// Sockets, pipes, devices and other file systems in the tree, as of the last whole scan.
    pub others: u64,
    /// Contents that a verification found changed without a trace.
    pub silent_changes: u64,
}

impl Lead {
    /// For status and heartbeats.
    pub(crate) fn backlog(&self) -> Backlog {
        let (steps, bytes, oldest) = self.in_flight();
        let due = self.due.iter().map(|(_, item)| item.since).min();
        let gone = self.guard.waiting().map(|(_, since)| since).min();
        let sent = self.transfers.iter().map(|transfer| transfer.since()).min();
        let left: u64 = self.transfers.iter().map(|transfer| transfer.left()).sum();
        let (held, held_entries) = self.guard.held_count();
        let waiting = self.guard.waiting().count();
        let unsolved = self.trouble.resting().min();
        let troubled = self.trouble.iter().take(TROUBLES_NAMED_MAX);
        Backlog {
            // What a scan has not come to may differ, too.
            files: (steps + self.due.len() + self.transfers.len() + waiting) as u64
                + self.trouble.resting().count() as u64
                + u64::from(self.scan.is_under_way()),
            bytes: bytes as u64 + left,
            oldest: [oldest, due, gone, sent, unsolved, self.scan.began()]
                .into_iter()
                .flatten()
                .min(),
            held: held as u64,
            held_entries,
            scanning: self.scan.is_whole(),
            comparing: self.is_comparing(),
            open: self.is_open(),
            closed: self.link.as_ref().and_then(|link| link.closed.clone()),
            halted: self.halted.clone(),
            troubles: self.trouble.len() as u64,
            troubled: troubled
                .map(|(path, trouble)| (path.clone(), trouble.what.clone()))
                .collect(),
            others: self.others,
            silent_changes: self.silent_changes,
        }
    }

    /// The standby has exactly this tree, as far as this was seen.
    pub(crate) fn is_aligned(&self) -> bool {
        self.halted.is_none() && self.trouble.len() == 0 && self.is_agreed() && !self.is_busy()
    }

    /// Nothing is looked at: the root is not what it was, or the index fails.
    pub(crate) fn is_halted(&self) -> bool {
        self.halted.is_some()
    }

    /// Entries whose deletion waits for an operator.
    pub(crate) fn held_entries(&self) -> u64 {
        self.guard.held_count().1
    }

    /// From now on what is noticed later does not count for [`Lead::is_drained`]; none: it does.
    pub(crate) fn drain_from(&mut self, now: Option<Instant>) {
        self.drain_from = now;
    }

    /// Whether the standby has all that was noticed; deletions that are held are left aside.
    pub(crate) fn is_drained(&self) -> bool {
        if self.halted.is_some() || !self.is_open() || self.trouble.any_there() {
            return false;
        }
        let counts = |since: Instant| self.drain_from.is_none_or(|from| since <= from);
        let (_, _, flying) = self.in_flight();
        let is_clear = !flying.is_some_and(counts)
            && !self.due.iter().any(|(_, item)| counts(item.since))
            && !self.guard.waiting().any(|(_, since)| counts(since))
            && !self.transfers.iter().any(|transfer| counts(transfer.since()))
            && !self.scan.began().is_some_and(counts)
            && !self.is_comparing_now();
        if !is_clear {
            return false;
        }
        // While newer changes come all the time there is no moment at which the sums are alike.
        let is_busy_since = self.drain_from.is_some() && (flying.is_some() || self.is_busy());
        let is_held = self.guard.held_count().0 > 0 && self.differs_only_in_extras();
        (self.is_agreed() && !self.is_comparing()) || is_busy_since || is_held
    }

    /// Paths that the standby may not have as they are here, and why; at most so many.
    pub(crate) fn differing(&self, max: usize) -> Vec<(TreePath, &'static str)> {
        let troubles = self.trouble.iter().map(|(path, trouble)| {
            (path, if trouble.there { "refused by the standby" } else { "cannot be read" })
        });
        let held = self.guard.held().map(|path| (path, "deleted, held"));
        let gone = self.guard.waiting().map(|(path, _)| (path, "deleted"));
        let sent = self.transfers.iter().map(|transfer| (transfer.path(), "being sent"));
        let due = self.due.iter().map(|(path, _)| (path, "changed"));
        let flying = self.flying_paths().map(|path| (path, "sent, not acknowledged"));
        let all = troubles.chain(held).chain(gone).chain(sent).chain(due).chain(flying);
        all.take(max).map(|(path, why)| (path.clone(), why)).collect()
    }
}
