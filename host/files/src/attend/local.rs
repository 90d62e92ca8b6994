//! What somebody else changes in the standby's tree: noticed, kept in mind, and reported, so that
//! the primary says again what there is. Nothing is set aside before that arrives.

use super::Attend;
use super::ground::Ground;
use super::read::Reading;
use super::trouble::{Fault, text};
use crate::entry::{Entry, Kind, Row, Stamp};
use crate::path::TreePath;
use crate::tree::Look;
use crate::watch::Hint;
use crate::wire::{self, ASKED_MAX, Message};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// A path is looked at after so long without a hint.
const QUIET: Duration = Duration::from_millis(200);
/// And after so long in any case.
const NOISY: Duration = Duration::from_secs(2);
/// Paths that wait for quiet; with more, the whole tree is looked at.
const QUIET_MAX: usize = 64 * 1024;
/// The primary is asked for the same path this often at most.
const AGAIN_INTERVAL: Duration = Duration::from_secs(10);
/// Paths that the primary is to be asked for; with more, the trees are compared.
const AGAIN_MAX: usize = 16 * 1024;

/// Why a path is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Why {
    /// What is found is the primary's: a crash came before that was noted.
    pub adopt: bool,
    /// The content is read even if nothing else differs.
    pub read: bool,
    /// Nothing was known before: differences are no changes.
    pub first: bool,
}

impl Why {
    pub(super) const HINTED: Why = Why { adopt: false, read: false, first: false };
}

/// A path that is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suspect {
    pub path: TreePath,
    pub why: Why,
}

/// A large file that is being read.
struct Looking {
    suspect: Suspect,
    entry: Entry,
    stamp: Stamp,
    racy: bool,
    reading: Reading,
}

/// Changes on this node that are not ours.
#[derive(Default)]
pub(super) struct Local {
    /// Since when, and until when a path must be quiet.
    quiet: HashMap<TreePath, (Instant, Instant)>,
    order: VecDeque<(Instant, TreePath)>,
    pub suspects: VecDeque<Suspect>,
    /// Files whose names are to be looked at.
    inodes: BTreeSet<u64>,
    /// What a crash took away, or moved: looked at after all that is there, so that what was moved
    /// is known again.
    gone: Vec<Suspect>,
    looking: Option<Looking>,
    /// Paths to ask the primary for, from when on.
    again: BTreeMap<TreePath, Instant>,
    /// When it was last asked for them.
    asked: HashMap<TreePath, Instant>,
    /// When [`Local::asked`] was last swept.
    swept: Option<Instant>,
}

impl Local {
    pub(super) fn due(&self) -> Option<Instant> {
        let quiet = self.order.front().map(|(due, _)| *due);
        let again = self.again.values().min().copied();
        [quiet, again].into_iter().flatten().min()
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.suspects.is_empty() || !self.gone.is_empty() || self.looking.is_some()
    }

    /// Notes a hint: false when there are too many.
    pub(super) fn hint(&mut self, path: TreePath, now: Instant) -> bool {
        if let Some((first, due)) = self.quiet.get_mut(&path) {
            *due = (now + QUIET).min(*first + NOISY);
            return true;
        }
        if self.quiet.len() >= QUIET_MAX {
            self.quiet.clear();
            self.order.clear();
            return false;
        }
        self.quiet.insert(path.clone(), (now, now + QUIET));
        self.order.push_back((now + QUIET, path));
        true
    }

    /// Moves the paths that are quiet to the suspects.
    pub(super) fn calm(&mut self, now: Instant) {
        while let Some((due, _)) = self.order.front()
            && *due <= now
        {
            let Some((_, path)) = self.order.pop_front() else { return };
            let Some((_, due)) = self.quiet.get(&path).copied() else { continue };
            if due > now {
                self.order.push_back((due, path));
                continue;
            }
            self.quiet.remove(&path);
            self.suspects.push_back(Suspect { path, why: Why::HINTED });
        }
    }

    /// What was moved is looked at where it is afterwards.
    pub(super) fn moved(&mut self, from: &TreePath, to: &TreePath) {
        let moved: Vec<_> =
            self.quiet.keys().filter(|path| path.is_within(from)).cloned().collect();
        for path in moved {
            if let (Some(times), Some(there)) = (self.quiet.remove(&path), path.moved(from, to)) {
                self.order.push_back((times.1, there.clone()));
                self.quiet.insert(there, times);
            }
        }
        for suspect in self.suspects.iter_mut().chain(&mut self.gone) {
            if let Some(path) = suspect.path.moved(from, to) {
                suspect.path = path;
            }
        }
        if let Some(path) = self.looking.as_ref().and_then(|l| l.suspect.path.moved(from, to)) {
            let why = self.looking.take().map_or(Why::HINTED, |looking| looking.suspect.why);
            self.suspects.push_front(Suspect { path, why });
        }
    }

    pub(super) fn forget_questions(&mut self) {
        self.again.clear();
        self.asked.clear();
    }

    /// The primary is to say what there is: false when that is too much to ask.
    fn ask(&mut self, path: &TreePath, now: Instant) -> bool {
        let earliest = self.asked.get(path).map_or(now, |asked| *asked + AGAIN_INTERVAL);
        self.again.entry(path.clone()).or_insert(earliest);
        self.again.len() <= AGAIN_MAX
    }
}

impl Attend {
    /// Something changed on this node, or may have: our own work is among it.
    pub(crate) fn hint(&mut self, hint: Hint, now: Instant) {
        let path = match hint {
            Hint::Changed(path) | Hint::Written(path) | Hint::Closed(path) => path,
            Hint::File(ino) => {
                if self.local.inodes.len() >= QUIET_MAX {
                    self.local.inodes.clear();
                    self.begin_audit(false);
                }
                self.local.inodes.insert(ino);
                return;
            }
            Hint::Below(path) => {
                let suspect = Suspect { path: path.clone(), why: Why::HINTED };
                self.local.suspects.push_back(suspect);
                return self.audit_below(path, Why::HINTED);
            }
            Hint::Overflow => return self.begin_audit(false),
            // The engine's to deal with: there is nothing to look at.
            Hint::RootGone => return,
        };
        if !self.local.hint(path, now) {
            self.begin_audit(false);
        }
    }

    /// Looks at one suspect, or goes on with a large one: true when something was done.
    pub(super) fn look_locally(&mut self, now: Instant, until: Instant) -> Result<bool, Fault> {
        self.local.calm(now);
        let suspects = std::mem::take(&mut self.ground.suspects);
        let hinted = |path| Suspect { path, why: Why::HINTED };
        self.local.suspects.extend(suspects.into_iter().map(hinted));
        while let Some(ino) = self.local.inodes.pop_first() {
            for path in self.ground.index.by_inode(ino)? {
                self.hint(Hint::Changed(path), now);
            }
        }
        for folder in std::mem::take(&mut self.ground.unaudited) {
            self.audit_below(folder, Why::HINTED);
        }
        if let Some(looking) = self.local.looking.take() {
            return self.go_on_looking(looking, now, until).map(|()| true);
        }
        if self.local.suspects.is_empty() && !self.audits.is_adopting() {
            self.local.suspects.extend(self.local.gone.drain(..));
        }
        let Some(suspect) = self.local.suspects.pop_front() else { return Ok(false) };
        let path = suspect.path.clone();
        match self.look_at(suspect, now) {
            Err(Fault::Disk(error)) => {
                self.ground.counters.trouble = Some(text(&path, &error));
                Ok(true)
            }
            Err(Fault::Index(error)) => Err(Fault::Index(error)),
            Ok(()) => Ok(true),
        }
    }

    fn look_at(&mut self, suspect: Suspect, now: Instant) -> Result<(), Fault> {
        let Suspect { path, why } = suspect;
        let Some(path) = self.topmost_unknown(path)? else { return Ok(()) };
        let row = self.ground.index.get(&path)?;
        let found = self.ground.tree.stat(&path)?;
        let is_dir = match (&found, &row) {
            (Some(found), _) => found.kind == Some(Kind::Dir),
            (None, Some(row)) => row.entry.kind == Kind::Dir,
            (None, None) => return Ok(()),
        };
        if !path.is_root() && self.leaves_out(&path, is_dir) {
            if row.is_some() {
                self.ground.index.remove(&path)?;
                self.stirred += 1;
            }
            return Ok(());
        }
        let Some(found) = found.filter(|found| found.kind.is_some()) else {
            return self.is_gone(&path, row, why, now);
        };
        if let Some(row) = &row
            && row.describes(&found)
            && !row.racy
            && !(why.read && row.entry.kind == Kind::File)
        {
            return Ok(());
        }
        match self.ground.tree.look(&path)? {
            Look::Absent | Look::Other => self.is_gone(&path, row, why, now),
            Look::Changing => {
                self.local.hint(path, now);
                Ok(())
            }
            Look::Whole { entry, stamp, racy, .. } => {
                self.is_now(&Suspect { path, why }, entry, stamp, racy, now)
            }
            Look::Large { entry, stamp, racy, file, .. } => {
                let reading = Reading::new(file, entry.size);
                let suspect = Suspect { path, why };
                self.local.looking = Some(Looking { suspect, entry, stamp, racy, reading });
                Ok(())
            }
        }
    }

    fn go_on_looking(
        &mut self,
        mut looking: Looking,
        now: Instant,
        until: Instant,
    ) -> Result<(), Fault> {
        match looking.reading.go_on(until) {
            Ok(false) => self.local.looking = Some(looking),
            Ok(true) => {
                let Looking { suspect, mut entry, stamp, racy, reading } = looking;
                entry.content = reading.digest();
                let row = Row { entry, stamp, racy, shared: false };
                let found = self.ground.tree.stat(&suspect.path)?;
                if found.is_none_or(|found| !row.describes(&found)) {
                    self.local.hint(suspect.path, now);
                    return Ok(());
                }
                self.is_now(&suspect, entry, stamp, racy, now)?;
            }
            Err(_) => {
                self.local.hint(looking.suspect.path, now);
            }
        }
        Ok(())
    }

    fn leaves_out(&self, path: &TreePath, is_dir: bool) -> bool {
        self.ignores.leaves_out(path, is_dir)
    }

    /// A path in a folder that is not known is looked at with the folder.
    fn topmost_unknown(&mut self, path: TreePath) -> Result<Option<TreePath>, Fault> {
        let mut topmost = path;
        while let Some(parent) = topmost.parent() {
            match self.ground.index.get(&parent)? {
                Some(row) if row.entry.kind == Kind::Dir => return Ok(Some(topmost)),
                // What is no folder is looked at when it is hinted at.
                Some(_) => return Ok(Some(parent)),
                None => topmost = parent,
            }
        }
        Ok(Some(topmost))
    }

    fn is_gone(
        &mut self,
        path: &TreePath,
        row: Option<Row>,
        why: Why,
        now: Instant,
    ) -> Result<(), Fault> {
        let Some(row) = row else { return Ok(()) };
        if path.is_root() {
            return Ok(());
        }
        if why.adopt && self.audits.is_adopting() {
            self.local.gone.push(Suspect { path: path.clone(), why });
            return Ok(());
        }
        self.ground.index.remove(path)?;
        self.ground.growing.remove(path);
        if row.entry.linked {
            self.ground.relink(row.stamp.ino)?;
        }
        self.differs(path, why, now);
        Ok(())
    }

    /// What is there is known from now on.
    fn is_now(
        &mut self,
        suspect: &Suspect,
        mut entry: Entry,
        stamp: Stamp,
        racy: bool,
        now: Instant,
    ) -> Result<(), Fault> {
        let (path, mut why) = (&suspect.path, suspect.why);
        let row = self.ground.index.get(path)?;
        if why.adopt {
            why.adopt = self.recalled.is_ours(&entry, stamp, &mut self.ground.index)?;
        }
        entry.linked = row.is_some_and(|row| row.entry.linked);
        let is_same = row.is_some_and(|row| row.entry == entry);
        let shared = why.adopt || (is_same && row.is_some_and(|row| row.shared));
        self.ground.index.put(path, &Row { entry, stamp, racy, shared })?;
        self.stirred += 1;
        if !is_same {
            self.ground.growing.remove(path);
            if let Some(row) = row.filter(|row| row.entry.linked) {
                self.ground.relink(row.stamp.ino)?;
            }
            if entry.kind != Kind::Dir {
                self.ground.relink(stamp.ino)?;
            }
            self.differs(path, why, now);
        }
        let was_dir = row.is_some_and(|row| row.entry.kind == Kind::Dir);
        if entry.kind == Kind::Dir && !was_dir {
            self.audit_below(path.clone(), why);
        }
        Ok(())
    }

    fn differs(&mut self, path: &TreePath, why: Why, now: Instant) {
        self.stirred += 1;
        if why.adopt || why.first {
            return;
        }
        self.audits.progress.differing += u64::from(why.read);
        tracing::debug!(%path, "changed here by others");
        self.ground.counters.changed_here(path);
        if self.is_offered && !self.local.ask(path, now) {
            self.local.again.clear();
            self.is_offer_due = true;
        }
    }

    /// Asks the primary for what differs.
    pub(super) fn ask_again(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) -> bool {
        let Some(id) = self.id.filter(|_| self.is_offered) else { return false };
        if self.local.swept.is_none_or(|swept| now >= swept + AGAIN_INTERVAL) {
            self.local.asked.retain(|_, asked| now < *asked + AGAIN_INTERVAL);
            self.local.swept = Some(now);
        }
        let due = self.local.again.iter().filter(|(_, from)| **from <= now);
        let due: Vec<TreePath> = due.map(|(path, _)| path.clone()).take(ASKED_MAX).collect();
        if due.is_empty() {
            return false;
        }
        for path in &due {
            self.local.again.remove(path);
            self.local.asked.insert(path.clone(), now);
        }
        out.push(wire::message(&Message::Again(id, due)));
        true
    }
}

impl Ground {
    /// Names of one file are told as such, as far as all are in the tree.
    fn relink(&mut self, ino: u64) -> Result<(), Fault> {
        let mut names = Vec::new();
        for path in self.index.by_inode(ino)? {
            if let Some(row) = self.index.get(&path)?.filter(|row| row.entry.kind != Kind::Dir) {
                names.push((path, row));
            }
        }
        let linked = names.len() > 1;
        for (path, mut row) in names {
            if row.entry.linked != linked {
                row.entry.linked = linked;
                self.index.put(&path, &row)?;
            }
        }
        Ok(())
    }
}
