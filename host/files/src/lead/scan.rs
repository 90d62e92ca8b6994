//! Walks the tree against the index, folder by folder, in slices. What it keeps in memory is the
//! folders still to be walked on the way down, and the children of one.

use super::due::{Force, Item};
use super::look::{Looked, is_unchanged};
use super::{Lead, VERIFY_PAUSE, VERIFY_SLICE};
use crate::digest::Segments;
use crate::entry::{Found, Kind, Row};
use crate::index::{Child as Known, IndexError};
use crate::path::TreePath;
use crate::tree::{Look, SegmentReader};
use std::collections::BTreeSet;
use std::fs::File;
use std::iter::Peekable;
use std::time::{Duration, Instant};
use std::vec::IntoIter;

/// Paths that a scan found gone, until it ends. What is beyond is found by the next one.
const GONE_MAX: usize = 20_000;
/// What was read of a folder is good for so long; after it each child is asked again.
const FRESH: Duration = Duration::from_millis(100);
/// The index remembers which patterns its rows were made with.
const IGNORES_NOTE: &str = "ignores";

/// One walk: of the whole tree, or of folders in it.
#[derive(Default)]
pub(super) struct Scan {
    /// Folders to be walked, the next one last.
    stack: Vec<(TreePath, Force)>,
    open: Option<Open>,
    reading: Option<Reading>,
    /// The whole tree is walked; contents are read again.
    whole: bool,
    verify: bool,
    /// The index knew nothing when it began.
    first: bool,
    /// The whole tree is to be walked once more after that, since when that is known.
    again: bool,
    /// Rows may be of paths that are left out by now.
    patterns_changed: bool,
    began: Option<Instant>,
    rest_until: Option<Instant>,
    gone: BTreeSet<TreePath>,
    overflowed: bool,
    others: u64,
}

/// A folder under way.
struct Open {
    dir: TreePath,
    force: Force,
    at: Instant,
    found: Peekable<IntoIter<(Box<[u8]>, Found)>>,
    rows: Peekable<IntoIter<Known>>,
}

/// A large content that is verified.
struct Reading {
    path: TreePath,
    row: Row,
    file: File,
    reader: SegmentReader,
    segments: Segments,
}

/// What came of one child.
enum Child {
    Done,
    Wait,
}

impl Scan {
    /// A folder, and all below it.
    pub(super) fn add(&mut self, dir: TreePath, force: Force) {
        if !self.stack.iter().rev().take(8).any(|(other, old)| *other == dir && *old == force) {
            self.stack.push((dir, force));
        }
    }

    /// Until it was ended: a slice may be over when nothing is left to be walked.
    pub(super) fn is_under_way(&self) -> bool {
        !self.stack.is_empty()
            || self.open.is_some()
            || self.reading.is_some()
            || self.began.is_some()
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    pub(super) fn is_first(&self) -> bool {
        self.whole && self.first
    }

    pub(super) fn began(&self) -> Option<Instant> {
        self.began
    }

    /// When its next slice is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.is_under_way().then(|| self.rest_until.or(self.began)).flatten()
    }
}

impl Lead {
    /// Walks the whole tree: after changes may have gone unseen, or by schedule.
    pub(crate) fn begin_scan(&mut self, now: Instant) {
        if self.scan.whole {
            self.scan.again = true;
            return;
        }
        let digest = self.settings.ignores.digest();
        let known = self.index.note(IGNORES_NOTE).ok().flatten();
        self.scan.patterns_changed = known.as_deref() != Some(&digest.0);
        self.scan.stack.insert(0, (TreePath::root(), Force::No));
        self.scan.first = self.index.get(&TreePath::root()).is_ok_and(|row| row.is_none());
        self.scan.whole = true;
        self.scan.began = Some(now);
        self.scan.others = 0;
    }

    /// The same, and reads every content again.
    pub(crate) fn begin_verify(&mut self, now: Instant) {
        self.begin_scan(now);
        self.scan.verify = true;
    }

    /// One slice of it.
    pub(super) fn scan(&mut self, now: Instant, until: Instant) -> Result<bool, IndexError> {
        if !self.scan.is_under_way() || self.scan.rest_until.is_some_and(|at| at > now) {
            return Ok(false);
        }
        self.scan.began.get_or_insert(now);
        self.scan.rest_until = None;
        let until = if self.scan.verify { until.min(Instant::now() + VERIFY_SLICE) } else { until };
        while self.has_room() {
            if Instant::now() >= until {
                let rest = self.scan.verify.then(|| now + VERIFY_PAUSE);
                self.scan.rest_until = rest;
                return Ok(rest.is_none());
            }
            if self.scan.reading.is_some() {
                self.read_on(now);
            } else if self.scan.open.is_none() {
                match self.scan.stack.pop() {
                    Some((dir, force)) => self.open_folder(dir, force, now)?,
                    None => {
                        self.end_scan(now)?;
                        return Ok(self.scan.is_under_way());
                    }
                }
            } else if let Child::Wait = self.walk_on(now)? {
                self.scan.rest_until = Some(now + VERIFY_PAUSE);
                return Ok(false);
            }
        }
        Ok(false)
    }

    fn end_scan(&mut self, now: Instant) -> Result<(), IndexError> {
        for path in std::mem::take(&mut self.scan.gone) {
            self.guard.add(path, None, now, now);
        }
        if self.scan.whole {
            if self.scan.patterns_changed {
                self.index.set_note(IGNORES_NOTE, &self.settings.ignores.digest().0)?;
            }
            self.others = self.scan.others;
            self.scan.whole = false;
            self.scan.verify = false;
        }
        self.scan.began = None;
        let again = std::mem::take(&mut self.scan.again);
        // What was gone beyond the limit is still in the index, and so the next scan finds it.
        let overflowed = std::mem::take(&mut self.scan.overflowed) && self.guard.is_waiting();
        if again || overflowed || self.trouble.take_overflowed() {
            self.begin_scan(now);
        }
        Ok(())
    }

    /// Looks at a folder itself, and reads what is in it.
    fn open_folder(&mut self, dir: TreePath, force: Force, now: Instant) -> Result<(), IndexError> {
        if dir.is_root() && !self.check_root(now) {
            self.scan.stack.push((dir, force));
            return Ok(());
        }
        let row = self.index.get(&dir)?;
        let found = match self.tree.stat(&dir) {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.look(&dir, &Item::forced(now, force), None, now)?;
                return Ok(());
            }
            Err(error) => {
                self.unreadable(&dir, &Item::forced(now, force), &error, now);
                return Ok(());
            }
        };
        let item = Item::forced(now, force);
        match self.look(&dir, &item, Some((found, row)), now)? {
            Looked::Done => {}
            Looked::Later(wait) | Looked::Changing(_, wait) => {
                self.due.add(dir, Item { below: true, ..item }, now + wait);
                return Ok(());
            }
            Looked::Moved => {}
        }
        if self.index.get(&dir)?.is_none_or(|row| row.entry.kind != Kind::Dir) {
            return Ok(());
        }
        match self.tree.list(&dir) {
            Ok(Some(found)) => {
                let rows = self.index.children(&dir)?.unwrap_or_default();
                self.scan.open = Some(Open {
                    dir,
                    force,
                    at: Instant::now(),
                    found: found.into_iter().peekable(),
                    rows: rows.into_iter().peekable(),
                });
            }
            Ok(None) => {}
            // What is in a folder that cannot be read is not gone.
            Err(error) => {
                self.unreadable(&dir, &Item { below: true, ..item }, &error, now);
            }
        }
        Ok(())
    }

    /// The next child of the folder under way.
    fn walk_on(&mut self, now: Instant) -> Result<Child, IndexError> {
        let Some(open) = &mut self.scan.open else { return Ok(Child::Done) };
        let order = match (open.found.peek(), open.rows.peek()) {
            (None, None) => {
                self.scan.open = None;
                return Ok(Child::Done);
            }
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((found, _)), Some((row, ..))) => found.cmp(row),
        };
        match order {
            std::cmp::Ordering::Greater => {
                let row = open.rows.next();
                if let Some(path) = row.and_then(|(name, ..)| open.dir.join(&name).ok()) {
                    self.note_gone(path);
                }
                Ok(Child::Done)
            }
            std::cmp::Ordering::Less => self.walk_child(false, now),
            std::cmp::Ordering::Equal => self.walk_child(true, now),
        }
    }

    /// A child that is there. It stays the next one when it has to wait.
    fn walk_child(&mut self, has_row: bool, now: Instant) -> Result<Child, IndexError> {
        let Some(open) = &mut self.scan.open else { return Ok(Child::Done) };
        let Some((name, found)) = open.found.peek() else { return Ok(Child::Done) };
        let found = *found;
        let row = open.rows.peek().filter(|_| has_row).map(|(_, row, _)| *row);
        let (force, is_fresh) = (open.force, open.at.elapsed() < FRESH);
        let is_plain = force == Force::No && !self.scan.patterns_changed;
        let is_dir = found.kind == Some(Kind::Dir);
        if is_plain
            && !is_dir
            && !self.scan.verify
            && row.is_some_and(|row| is_unchanged(&row, &found))
        {
            open.found.next();
            open.rows.next();
            return Ok(Child::Done);
        }
        let Ok(path) = open.dir.join(name) else {
            open.found.next();
            return Ok(Child::Done);
        };
        let mut done = Child::Done;
        if found.kind.is_none() || found.dev != self.tree.dev {
            self.scan.others += 1;
            if row.is_some() {
                self.note_gone(path);
            }
        } else if is_dir {
            if !self.settings.ignores.leaves_out(&path, true) {
                self.scan.stack.push((path, force));
            } else if row.is_some() {
                self.index.remove(&path)?;
            }
        } else {
            done = self.walk_file(&path, force, is_fresh.then_some((found, row)), now)?;
        }
        if let (Child::Done, Some(open)) = (&done, &mut self.scan.open) {
            open.found.next();
            if has_row {
                open.rows.next();
            }
        }
        Ok(done)
    }

    fn walk_file(
        &mut self,
        path: &TreePath,
        force: Force,
        seen: Option<(Found, Option<Row>)>,
        now: Instant,
    ) -> Result<Child, IndexError> {
        if self.scan.verify && self.scan.whole {
            return self.verify_file(path, seen, now);
        }
        let item = Item { late: true, ..Item::forced(now, force) };
        match self.look(path, &item, seen, now)? {
            Looked::Done | Looked::Moved => Ok(Child::Done),
            Looked::Later(wait) if wait <= VERIFY_PAUSE => Ok(Child::Wait),
            Looked::Later(wait) => {
                self.due.add(path.clone(), item, now + wait);
                Ok(Child::Done)
            }
            Looked::Changing(item, wait) => {
                self.due.add(path.clone(), item, now + wait);
                Ok(Child::Done)
            }
        }
    }

    /// Reads a content although nothing says that it changed.
    fn verify_file(
        &mut self,
        path: &TreePath,
        seen: Option<(Found, Option<Row>)>,
        now: Instant,
    ) -> Result<Child, IndexError> {
        let unchanged = seen.and_then(|(found, row)| row.filter(|row| is_unchanged(row, &found)));
        let Some(row) = unchanged else {
            let looked = self.look(path, &Item { late: true, ..Item::new(now) }, seen, now)?;
            return Ok(if let Looked::Later(_) = looked { Child::Wait } else { Child::Done });
        };
        match self.tree.look(path) {
            Ok(Look::Whole { entry, stamp, .. })
                if stamp == row.stamp && entry.content != row.entry.content =>
            {
                self.note_silent(path, now);
            }
            Ok(Look::Large { stamp, file, .. }) if stamp == row.stamp => {
                self.scan.reading = Some(Reading {
                    path: path.clone(),
                    reader: SegmentReader::new(row.entry.size, 0),
                    segments: Segments::default(),
                    row,
                    file,
                });
            }
            Ok(Look::Whole { .. } | Look::Large { .. }) => {}
            Ok(Look::Absent | Look::Other | Look::Changing) => {}
            Err(error) => {
                self.unreadable(path, &Item::new(now), &error, now);
            }
        }
        Ok(Child::Done)
    }

    /// Reads the next segment of a large content.
    fn read_on(&mut self, now: Instant) {
        let Some(reading) = &mut self.scan.reading else { return };
        let next = reading.reader.next(&reading.file).map(|next| next.map(|segment| segment.hash));
        match next {
            Ok(Some(hash)) => reading.segments.push(hash),
            Ok(None) => {
                let Some(reading) = self.scan.reading.take() else { return };
                let is_still = crate::tree::found(&reading.file)
                    .is_ok_and(|found| is_unchanged(&reading.row, &found));
                if is_still && reading.segments.digest() != reading.row.entry.content {
                    self.note_silent(&reading.path, now);
                }
            }
            Err(error) => {
                let Some(reading) = self.scan.reading.take() else { return };
                if error.kind() != std::io::ErrorKind::UnexpectedEof {
                    self.unreadable(&reading.path, &Item::new(now), &error, now);
                }
            }
        }
    }

    /// A content changed, and its times say nothing of it.
    pub(super) fn note_silent(&mut self, path: &TreePath, now: Instant) {
        self.silent_changes += 1;
        tracing::warn!(%path, "its content changed, its times and size did not");
        self.due.add(path.clone(), Item::forced(now, Force::Whole), now);
    }

    fn note_gone(&mut self, path: TreePath) {
        if self.scan.gone.len() < GONE_MAX {
            self.scan.gone.insert(path);
        } else {
            self.scan.overflowed = true;
        }
    }
}
