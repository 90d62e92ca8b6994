//! Finds where the standby differs, by the sums of folders. Its listings are never trusted: they
//! only choose what is said again, and what is looked for to be deleted.

use super::Lead;
use super::due::{Force, Item};
use super::look::Looked;
use super::window::LeadError;
use crate::entry::{Kind, Row};
use crate::index::{Child as Known, IndexError};
use crate::path::TreePath;
use crate::wire::{self, ASKED_MAX, Child, Message};
use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::iter::Peekable;
use std::time::{Duration, Instant};
use std::vec::IntoIter;

/// Folders that are asked for, or whose answers wait.
const OUTSTANDING_MAX: usize = 16;
/// Children of one folder.
const CHILDREN_MAX: usize = 4_000_000;
/// A comparison that does not help is begun again after this, twice that, and so on.
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// A child that has to wait for its turn.
const WAIT: Duration = Duration::from_millis(5);

const _: () = assert!(OUTSTANDING_MAX <= ASKED_MAX);

/// One comparison.
#[derive(Default)]
pub(super) struct Compare {
    begin_at: Option<Instant>,
    delay: Duration,
    /// Folders to be asked for, the next one last, and what they are for.
    stack: Vec<(TreePath, Purpose)>,
    asked: BTreeMap<TreePath, (Purpose, Vec<Child>)>,
    heard: VecDeque<(TreePath, Purpose, Vec<Child>)>,
    open: Option<Open>,
    /// Folders that only the standby has, while their entries are counted.
    extras: BTreeMap<TreePath, Extra>,
    rest_until: Option<Instant>,
    /// Differences of this comparison, and of the last one that ended: extra entries left aside.
    found: u64,
    last_found: Option<u64>,
    is_running: bool,
}

/// Why a folder is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Purpose {
    /// To compare what is in it.
    Compare,
    /// To count what would be deleted with this path.
    Count(TreePath),
}

#[derive(Debug, Clone, Copy, Default)]
struct Extra {
    folders: u64,
    entries: u64,
}

/// A folder under way.
struct Open {
    dir: TreePath,
    theirs: Peekable<IntoIter<Child>>,
    ours: Peekable<IntoIter<Known>>,
}

impl Compare {
    /// The standby's sum differs; `again`: it did before, and what was done did not help.
    pub(super) fn begin(&mut self, again: bool, now: Instant) {
        if self.is_under_way() {
            return;
        }
        let delay = if again { self.delay } else { Duration::ZERO };
        self.delay = (delay * 2).clamp(AGAIN_MIN, AGAIN_MAX);
        self.begin_at = Some(now + delay);
    }

    /// What was done helped.
    pub(super) fn agreed(&mut self) {
        self.delay = Duration::ZERO;
    }

    /// One folder more.
    pub(super) fn add(&mut self, dir: TreePath) {
        self.is_running = true;
        self.stack.push((dir, Purpose::Compare));
    }

    fn is_under_way(&self) -> bool {
        self.begin_at.is_some() || self.is_running
    }

    fn is_empty(&self) -> bool {
        self.stack.is_empty()
            && self.asked.is_empty()
            && self.heard.is_empty()
            && self.open.is_none()
    }
}

impl Lead {
    pub(super) fn is_comparing(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.open && link.compare.is_under_way())
    }

    /// The last comparison found nothing but what is held, or in trouble.
    pub(super) fn differs_only_in_extras(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.compare.last_found == Some(0))
    }

    /// One is under way, not only planned.
    pub(super) fn is_comparing_now(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.open && link.compare.is_running)
    }

    pub(super) fn compare_due(&self) -> Option<Instant> {
        let link = self.link.as_ref().filter(|link| link.open && !self.scan.is_first())?;
        let compare = &link.compare;
        compare.begin_at.or(compare.rest_until)
    }

    /// What the standby has in a folder.
    pub(crate) fn listing(
        &mut self,
        dir: TreePath,
        mut children: Vec<Child>,
        last: bool,
    ) -> Result<(), LeadError> {
        let Some(link) = &mut self.link else { return Ok(()) };
        let compare = &mut link.compare;
        // One that nobody waits for any more was asked for before the standby closed.
        let Some((purpose, mut known)) = compare.asked.remove(&dir) else { return Ok(()) };
        if known.len() + children.len() > CHILDREN_MAX {
            return Err(LeadError(format!("{dir}: the standby lists more than any folder has")));
        }
        known.append(&mut children);
        if last {
            compare.heard.push_back((dir, purpose, known));
        } else {
            compare.asked.insert(dir, (purpose, known));
        }
        Ok(())
    }

    /// One slice of it.
    pub(super) fn compare(&mut self, now: Instant, until: Instant) -> Result<bool, IndexError> {
        // What is seen for the first time is said anyway: compared is what is left after that.
        if !self.is_comparing() || self.scan.is_first() {
            return Ok(false);
        }
        let Some(link) = &mut self.link else { return Ok(false) };
        let mut compare = std::mem::take(&mut link.compare);
        let id = link.id;
        let done = self.compare_on(&mut compare, id, now, until);
        if let Some(link) = &mut self.link {
            link.compare = compare;
        }
        done
    }

    fn compare_on(
        &mut self,
        compare: &mut Compare,
        id: u32,
        now: Instant,
        until: Instant,
    ) -> Result<bool, IndexError> {
        if compare.begin_at.is_some_and(|at| at <= now) {
            compare.begin_at = None;
            compare.found = 0;
            compare.add(TreePath::root());
            self.look(&TreePath::root(), &Item::forced(now, Force::Whole), None, now)?;
        }
        if compare.rest_until.is_some_and(|at| at > now) {
            return Ok(false);
        }
        compare.rest_until = None;
        self.ask_for_folders(compare, id);
        while self.has_room() && (compare.open.is_some() || !compare.heard.is_empty()) {
            if Instant::now() >= until {
                return Ok(true);
            }
            if compare.open.is_some() {
                if let Looked::Later(_) = self.compare_child(compare, now)? {
                    compare.rest_until = Some(now + WAIT);
                    return Ok(false);
                }
            } else if let Some((dir, purpose, children)) = compare.heard.pop_front() {
                self.hear(compare, dir, purpose, children, now)?;
                self.ask_for_folders(compare, id);
            }
        }
        if compare.is_running && compare.is_empty() {
            compare.is_running = false;
            compare.last_found = Some(compare.found);
            tracing::debug!(differences = compare.found, "compared with the standby");
        }
        Ok(false)
    }

    fn ask_for_folders(&mut self, compare: &mut Compare, id: u32) {
        let mut dirs = Vec::new();
        while compare.asked.len() + compare.heard.len() < OUTSTANDING_MAX
            && self.room >= super::window::STEP_BYTES_MAX
        {
            let Some((dir, purpose)) = compare.stack.pop() else { break };
            if let std::collections::btree_map::Entry::Vacant(place) = compare.asked.entry(dir) {
                dirs.push(place.key().clone());
                place.insert((purpose, Vec::new()));
            }
        }
        if !dirs.is_empty() {
            self.push(wire::message(&Message::List(id, dirs)));
        }
    }

    fn hear(
        &mut self,
        compare: &mut Compare,
        dir: TreePath,
        purpose: Purpose,
        mut theirs: Vec<Child>,
        now: Instant,
    ) -> Result<(), IndexError> {
        theirs.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        match purpose {
            Purpose::Compare => {
                let ours = self.index.children(&dir)?.unwrap_or_default();
                let (theirs, ours) = (theirs.into_iter().peekable(), ours.into_iter().peekable());
                compare.open = Some(Open { dir, theirs, ours });
            }
            Purpose::Count(top) => {
                let extra = compare.extras.entry(top.clone()).or_default();
                extra.folders = extra.folders.saturating_sub(1);
                extra.entries += theirs.len() as u64;
                for child in theirs.iter().filter(|child| child.kind == Kind::Dir) {
                    if let Ok(path) = dir.join(&child.name) {
                        extra.folders += 1;
                        compare.stack.push((path, Purpose::Count(top.clone())));
                    }
                }
                if extra.folders == 0 {
                    let entries = extra.entries + 1;
                    compare.extras.remove(&top);
                    self.guard.add(top, Some(entries), now, now);
                }
            }
        }
        Ok(())
    }

    /// The next child of the folder under way; it stays the next one when it has to wait.
    fn compare_child(&mut self, compare: &mut Compare, now: Instant) -> Result<Looked, IndexError> {
        let Some(open) = &mut compare.open else { return Ok(Looked::Done) };
        let order = match (open.ours.peek(), open.theirs.peek()) {
            (None, None) => {
                compare.open = None;
                return Ok(Looked::Done);
            }
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((ours, ..)), Some(theirs)) => (**ours).cmp(&theirs.name),
        };
        let ours = open.ours.peek().filter(|_| order != Ordering::Greater);
        let theirs = open.theirs.peek().filter(|_| order != Ordering::Less).cloned();
        let name = match (ours, &theirs) {
            (Some((name, ..)), _) => name.to_vec(),
            (None, Some(child)) => child.name.clone(),
            (None, None) => return Ok(Looked::Done),
        };
        let ours = ours.map(|(_, row, sum)| (*row, *sum));
        let path = open.dir.join(&name);
        let looked = match (path, ours, theirs) {
            (Err(_), ..) | (_, None, None) => Looked::Done,
            (Ok(path), Some((row, sum)), Some(child)) => {
                if sum.to_le_bytes() == child.sum {
                    self.index.share(&path, sum)?;
                    Looked::Done
                } else {
                    self.compare_both(compare, path, &row, &child, now)?
                }
            }
            (Ok(path), Some((row, _)), None) => self.only_ours(compare, path, &row, now)?,
            (Ok(path), None, Some(child)) => self.only_theirs(compare, path, child.kind, now)?,
        };
        if let (false, Some(open)) = (matches!(looked, Looked::Later(_)), &mut compare.open) {
            if order != Ordering::Greater {
                open.ours.next();
            }
            if order != Ordering::Less {
                open.theirs.next();
            }
        }
        Ok(looked)
    }

    fn compare_both(
        &mut self,
        compare: &mut Compare,
        path: TreePath,
        row: &Row,
        child: &Child,
        now: Instant,
    ) -> Result<Looked, IndexError> {
        let is_in_flight = self.is_in_flight(&path);
        if row.entry.kind == Kind::Dir && child.kind == Kind::Dir {
            if !is_in_flight {
                self.look_again(&path, Force::Whole, now)?;
            }
            compare.stack.push((path, Purpose::Compare));
            return Ok(Looked::Done);
        }
        if is_in_flight {
            return Ok(Looked::Done);
        }
        if row.entry.kind == Kind::Dir {
            compare.found += 1;
            self.scan.add(path, Force::Whole);
            return Ok(Looked::Done);
        }
        if row.entry.linked {
            // It may have the content, and not as one file with the other names.
            let mut names = self.index.by_inode(row.stamp.ino)?;
            names.sort_unstable();
            if names.len() > 1 && !self.relink.contains(&names) {
                self.relink.push(names);
            }
        }
        let is_alike = row.entry.kind == child.kind;
        let force = if is_alike { Force::Say(child.content) } else { Force::Whole };
        let looked = self.look_again(&path, force, now)?;
        compare.found += u64::from(!matches!(looked, Looked::Later(_)));
        Ok(looked)
    }

    fn only_ours(
        &mut self,
        compare: &mut Compare,
        path: TreePath,
        row: &Row,
        now: Instant,
    ) -> Result<Looked, IndexError> {
        let is_in_flight = self.is_in_flight(&path);
        if row.entry.kind == Kind::Dir {
            if is_in_flight {
                compare.stack.push((path, Purpose::Compare));
            } else {
                compare.found += 1;
                self.scan.add(path, Force::Whole);
            }
            return Ok(Looked::Done);
        }
        if is_in_flight {
            return Ok(Looked::Done);
        }
        let looked = self.look_again(&path, Force::Whole, now)?;
        compare.found += u64::from(!matches!(looked, Looked::Later(_)));
        Ok(looked)
    }

    fn only_theirs(
        &mut self,
        compare: &mut Compare,
        path: TreePath,
        kind: Kind,
        now: Instant,
    ) -> Result<Looked, IndexError> {
        let is_left_out = self.settings.ignores.leaves_out(&path, kind == Kind::Dir);
        if is_left_out || self.is_in_flight(&path) {
            return Ok(Looked::Done);
        }
        match self.tree.stat(&path) {
            Ok(Some(_)) => {
                // Not looked at yet; the standby has something else there.
                self.due.add(path, Item { below: true, ..Item::forced(now, Force::Whole) }, now);
            }
            Ok(None) if kind == Kind::Dir => {
                let extra = compare.extras.entry(path.clone()).or_default();
                extra.folders += 1;
                compare.stack.push((path.clone(), Purpose::Count(path)));
            }
            Ok(None) => self.guard.add(path, Some(1), now, now),
            // An error is no proof of absence; the path is met again when it can be read.
            Err(_) => {}
        }
        Ok(Looked::Done)
    }

    fn look_again(
        &mut self,
        path: &TreePath,
        force: Force,
        now: Instant,
    ) -> Result<Looked, IndexError> {
        let item = Item { late: true, ..Item::forced(now, force) };
        let looked = self.look(path, &item, None, now)?;
        Ok(match looked {
            Looked::Changing(item, wait) => {
                self.due.add(path.clone(), item, now + wait);
                Looked::Done
            }
            Looked::Later(wait) if wait > WAIT => {
                self.due.add(path.clone(), item, now + wait);
                Looked::Done
            }
            Looked::Done | Looked::Later(_) | Looked::Moved => looked,
        })
    }
}
