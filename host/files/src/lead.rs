//! The primary's side of one tree: sees what differs from the index, and says it to the standby.
//!
//! Everything is a *look* at a path: what is there is compared with its row, and what differs
//! becomes a new row and, while a standby takes them, a numbered step. Hints, scans and comparisons
//! only choose where to look; so each may be wrong, late, or double.
//!
//! Promises: a path is forgotten only with the standby's durable word, or with the connection (the
//! comparison at the next one finds it); nothing is deleted over there that a look, just before,
//! finds here, nor anything while the root is not what its marker says. Work is done in slices;
//! memory does not grow with the tree but with its widest folder.

mod compare;
mod due;
mod grow;
mod guard;
mod look;
mod moves;
mod parts;
mod scan;
mod shown;
mod status;
mod transfer;
mod trouble;
mod window;

use crate::ignores::Ignores;
use crate::index::{Index, IndexError};
use crate::path::TreePath;
use crate::tree::Tree;
use crate::watch::Hint;
use due::{Due, Item};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use window::LeadError;

/// Work of one turn.
const SLICE: Duration = Duration::from_millis(5);
/// A verification takes part of a turn, and then leaves the disk to others.
const VERIFY_SLICE: Duration = Duration::from_millis(2);
const VERIFY_PAUSE: Duration = Duration::from_millis(8);
/// A path that was quiet for this long is looked at.
const QUIET: Duration = Duration::from_millis(3);
/// A file that is being written is looked at this often.
const WRITTEN_INTERVAL: Duration = Duration::from_millis(100);
/// Files whose last look is remembered for that.
const WRITTEN_MAX: usize = 4_096;
/// A folder's own entry is looked at so long after something in it changed.
const REFRESH_AFTER: Duration = Duration::from_millis(10);
/// The marker is read this often.
const MARKER_INTERVAL: Duration = Duration::from_secs(1);
/// Rows become durable this often.
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);
/// Paths that are taken out of the set together.
const BATCH_PATHS_MAX: usize = 256;

/// How a tree is led.
pub(crate) struct Settings {
    /// What the root marker must say.
    pub tree_id: [u8; 16],
    pub ignores: Arc<Ignores>,
    /// Percent of all entries that may go within ten minutes (100: any number), and how many may in
    /// any case.
    pub guard_share: u64,
    pub guard_min: u64,
    /// Contents that shrink travel compressed.
    pub compress: bool,
    /// Files are followed while they grow.
    pub grow: bool,
}

/// One tree on the primary.
pub(crate) struct Lead {
    tree: Arc<Tree>,
    index: Index,
    settings: Settings,
    /// Why nothing is looked at and nothing said.
    halted: Option<String>,
    marked_at: Instant,
    committed_at: Instant,
    due: Due,
    /// Folders whose own entry is looked at after what is in them, and when.
    refresh: BTreeMap<TreePath, Instant>,
    /// When files that are being written were looked at.
    written: HashMap<TreePath, Instant>,
    /// Large files that change all the time: not again before, and how long they waited.
    restless: HashMap<TreePath, (Instant, Duration)>,
    trouble: trouble::Troubles,
    guard: guard::Guard,
    scan: scan::Scan,
    link: Option<window::Link>,
    transfers: Vec<transfer::Transfer>,
    growing: grow::Growing,
    packer: parts::Packer,
    /// Files of which the standby does not have all names as names of one file.
    relink: Vec<Vec<TreePath>>,
    /// Frames of this turn, and bytes that the channel still takes.
    outbox: Vec<Vec<u8>>,
    room: usize,
    /// Paths that were noticed later than this do not keep a drain waiting.
    drain_from: Option<Instant>,
    /// Sockets, pipes, devices and other file systems that were met.
    others: u64,
    /// Contents that a verification found changed without a trace in times or sizes.
    silent_changes: u64,
}

impl Lead {
    /// Begins with a scan of the whole tree.
    pub(crate) fn new(tree: Arc<Tree>, index: Index, settings: Settings, now: Instant) -> Self {
        let mut lead = Self {
            tree,
            index,
            settings,
            halted: None,
            marked_at: now,
            committed_at: now,
            due: Due::default(),
            refresh: BTreeMap::new(),
            written: HashMap::new(),
            restless: HashMap::new(),
            trouble: trouble::Troubles::default(),
            guard: guard::Guard::default(),
            scan: scan::Scan::default(),
            link: None,
            transfers: Vec::new(),
            growing: grow::Growing::default(),
            packer: parts::Packer::default(),
            relink: Vec::new(),
            outbox: Vec::new(),
            room: 0,
            drain_from: None,
            others: 0,
            silent_changes: 0,
        };
        lead.check_root(now);
        lead.begin_scan(now);
        lead
    }

    /// Gives tree and index to the next role.
    pub(crate) fn into_parts(mut self) -> (Arc<Tree>, Index) {
        if let Err(error) = self.index.commit() {
            tracing::warn!(%error, "what was seen last is found again by a scan");
        }
        (self.tree, self.index)
    }

    /// Something may have changed somewhere.
    pub(crate) fn hint(&mut self, hint: Hint, now: Instant) {
        match hint {
            Hint::Changed(path) => {
                if let Some(parent) = path.parent() {
                    self.refresh(parent, now);
                }
                self.due.add_quiet(path, Item::new(now), now + QUIET);
            }
            Hint::Written(path) => {
                let last = self.written.get(&path);
                let due =
                    last.map_or(now + QUIET, |last| (now + QUIET).max(*last + WRITTEN_INTERVAL));
                self.due.add(path, Item { written: true, ..Item::new(now) }, due);
            }
            Hint::Closed(path) => {
                self.written.remove(&path);
                let item = Item { written: true, closed: true, ..Item::new(now) };
                self.due.add(path, item, now + QUIET);
            }
            Hint::File(ino) => {
                let names = self.index.by_inode(ino);
                for path in self.or_halt(names, now).unwrap_or_default() {
                    self.due.add_quiet(path, Item::new(now), now + QUIET);
                }
            }
            Hint::Below(path) => {
                self.due.add(path, Item { below: true, ..Item::new(now) }, now + QUIET);
            }
            Hint::Overflow => self.begin_scan(now),
            Hint::RootGone => {
                self.check_root(now);
            }
        }
    }

    fn refresh(&mut self, dir: TreePath, now: Instant) {
        self.refresh.entry(dir).or_insert(now + REFRESH_AFTER);
    }

    /// Does what is due, for some milliseconds: true when more is left. What is to be sent is
    /// pushed to `out`, of at most about `room` bytes.
    pub(crate) fn turn(&mut self, now: Instant, room: usize, out: &mut Vec<Vec<u8>>) -> bool {
        self.room = room;
        let more = match self.work(now) {
            Ok(more) => more,
            Err(error) => {
                self.halt(now, format!("its index fails: {error}"));
                false
            }
        };
        self.flush_steps();
        out.append(&mut self.outbox);
        more
    }

    fn work(&mut self, now: Instant) -> Result<bool, IndexError> {
        let is_due = now >= self.marked_at + MARKER_INTERVAL;
        if is_due && (self.halted.is_some() || self.is_busy()) {
            self.check_root(now);
        }
        if self.halted.is_some() {
            return Ok(false);
        }
        let until = Instant::now() + SLICE;
        self.trouble.retry(now, &mut self.due);
        let mut more = self.look_at_due(now, until)?;
        more |= self.delete(now)?;
        more |= self.look_at_folders(now)?;
        more |= self.transfer(now, until)?;
        more |= self.compare(now, until)?;
        more |= self.link_again(now)?;
        more |= self.scan(now, until)?;
        self.say_head(now)?;
        if self.index.is_stirred() && now >= self.committed_at + COMMIT_INTERVAL {
            self.committed_at = now;
            self.index.commit()?;
        }
        Ok(more)
    }

    /// Looks at what is due: what has another inode than before comes last and backwards, so that a
    /// row of names that moved up by one (a log that is rotated) is seen as that.
    fn look_at_due(&mut self, now: Instant, until: Instant) -> Result<bool, IndexError> {
        let mut batch = Vec::new();
        while batch.len() < BATCH_PATHS_MAX && self.has_room() {
            let Some(next) = self.due.pop(now) else { break };
            batch.push(next);
        }
        for (path, item) in batch.extract_if(.., |(_, item)| item.below) {
            self.scan.add(path, item.force);
        }
        batch.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut batch = VecDeque::from(batch);
        let mut late = Vec::new();
        while let Some((path, item)) = batch.pop_front() {
            if !self.has_room() || Instant::now() >= until {
                batch.push_front((path, item));
                break;
            }
            match self.look(&path, &item, None, now)? {
                look::Looked::Done => {}
                look::Looked::Later(wait) => self.due.add(path, item, now + wait),
                look::Looked::Changing(item, wait) => self.due.add(path, item, now + wait),
                look::Looked::Moved => late.push((path, Item { late: true, ..item })),
            }
        }
        while let Some((path, item)) = late.pop() {
            match self.look(&path, &item, None, now)? {
                look::Looked::Done | look::Looked::Moved => {}
                look::Looked::Later(wait) => self.due.add(path, item, now + wait),
                look::Looked::Changing(item, wait) => self.due.add(path, item, now + wait),
            }
        }
        for (path, item) in batch {
            self.due.add(path, item, now);
        }
        Ok(self.has_room() && self.due.next().is_some_and(|at| at <= now))
    }

    fn look_at_folders(&mut self, now: Instant) -> Result<bool, IndexError> {
        let ready: Vec<TreePath> = self
            .refresh
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(path, _)| path.clone())
            .take(BATCH_PATHS_MAX)
            .collect();
        let count = ready.len();
        // The innermost first: what they are in is only one more look.
        for path in ready.into_iter().rev() {
            if !self.has_room() {
                return Ok(false);
            }
            self.refresh.remove(&path);
            match self.look(&path, &Item::new(now), None, now)? {
                look::Looked::Done => {}
                look::Looked::Moved => self.due.add(path, Item::new(now), now),
                look::Looked::Later(wait) | look::Looked::Changing(_, wait) => {
                    self.refresh.insert(path, now + wait);
                }
            }
        }
        Ok(count == BATCH_PATHS_MAX)
    }

    /// Whether there is anything to do that reads the tree.
    fn is_busy(&self) -> bool {
        !self.due.is_empty()
            || !self.refresh.is_empty()
            || !self.transfers.is_empty()
            || self.scan.is_under_way()
            || self.guard.is_waiting()
            || self.is_comparing()
            || !self.relink.is_empty()
    }

    /// When the next turn is to be, if nothing happens before.
    pub(crate) fn due(&self) -> Option<Instant> {
        let marker = self.marked_at + MARKER_INTERVAL;
        if self.halted.is_some() {
            return Some(marker);
        }
        let commit = self.index.is_stirred().then(|| self.committed_at + COMMIT_INTERVAL);
        // Without room an acknowledgement, or the channel, is what wakes this.
        let looks = if self.has_window() {
            [
                self.due.next(),
                self.refresh.values().min().copied(),
                self.guard.due(),
                self.scan.due(),
            ]
        } else {
            [None; 4]
        };
        let others = [commit, self.trouble.next(), self.head_due(), self.compare_due()];
        looks.into_iter().chain(others).flatten().min()
    }

    /// Whether the root is what it should be; if not, nothing is looked at until it is.
    fn check_root(&mut self, now: Instant) -> bool {
        self.marked_at = now;
        let path = self.tree.path.display();
        let why = match self.tree.marker() {
            _ if !self.tree.is_there() => Some(format!(
                "{path} is not the folder that it was: it was unmounted, moved or deleted; mount \
                 it again, or `staffetta files approve` what is there now"
            )),
            Ok(Some(id)) if id == self.settings.tree_id => None,
            Ok(Some(_)) => Some(format!(
                "{path}/.staffetta/root belongs to another tree: mount the right file system there"
            )),
            Ok(None) => Some(format!(
                "{path}/.staffetta/root is missing: mount the file system that belongs there, or \
                 `staffetta files approve` what is there now"
            )),
            Err(error) => Some(format!("{path}/.staffetta/root cannot be read: {error}")),
        };
        match why {
            Some(why) => {
                self.halt(now, why);
                false
            }
            None => {
                if self.halted.take().is_some() {
                    tracing::info!(tree = %self.tree.path.display(), "the tree is followed again");
                    self.begin_scan(now);
                }
                true
            }
        }
    }

    fn halt(&mut self, now: Instant, why: String) {
        self.marked_at = now;
        if self.halted.as_ref() != Some(&why) {
            tracing::error!(tree = %self.tree.path.display(), why, "the tree is not followed");
        }
        self.halted = Some(why);
        self.guard.forget_waiting();
    }

    /// Whether the window and the channel take another step.
    fn has_room(&self) -> bool {
        self.has_window() && (!self.is_open() || self.room >= window::STEP_BYTES_MAX)
    }
}

#[cfg(test)]
#[path = "lead_tests.rs"]
mod tests;
