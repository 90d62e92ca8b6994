//! The tree on the disk and what is known of it, side by side: nothing that was changed here is
//! overwritten or deleted before it was set aside.

use super::durable::Flush;
use super::read::{Reading, Running};
use super::trouble::{Fault, is_absence};
use crate::digest::{self, Digest};
use crate::entry::{Entry, Found, Kind, Row, Stamp};
use crate::index::Index;
use crate::path::TreePath;
use crate::tree::{Aside, Tree};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// More files and folders than this are made durable all at once.
const FLUSH_EACH_MAX: usize = 32;
/// Things that are set aside one by one out of a folder that goes; with more it is set aside whole.
const ASIDE_MAX: usize = 1_000;
/// Growing files of which the digest so far is kept.
pub(super) const GROWING_MAX: usize = 1_024;
/// The last changes and kept things that are shown.
const RECENT_MAX: usize = 100;

/// What is at a path, compared with what is known of it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Standing {
    Nothing,
    /// What the primary has, or had.
    Shared(Found),
    /// Made or changed here.
    Foreign(Found),
}

/// How far a file was read.
pub(super) enum Read {
    Whole(Box<Running>),
    Later,
    /// It is not what it was when this began.
    Changed,
}

/// What was done and seen, for status.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    /// Steps that are durable.
    pub applied: u64,
    /// Steps that could not be done.
    pub refused: u64,
    /// Paths that somebody changed here.
    pub local_changes: u64,
    /// Things that were set aside in `conflicts/`.
    pub kept_aside: u64,
    /// Things that the primary deleted, in `trash/`.
    pub trashed: u64,
    /// The last paths that somebody changed here, newest last.
    pub recent: VecDeque<(SystemTime, TreePath)>,
    /// What went wrong since something last went well.
    pub trouble: Option<String>,
}

impl Counters {
    pub(super) fn changed_here(&mut self, path: &TreePath) {
        self.local_changes += 1;
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((SystemTime::now(), path.clone()));
    }
}

/// A folder that goes, and what is in it is looked at.
struct Clearing {
    root: TreePath,
    folders: Vec<TreePath>,
    aside: usize,
}

/// A tree, its index, and what is under way between them.
pub(super) struct Ground {
    pub tree: Arc<Tree>,
    pub index: Index,
    pub counters: Counters,
    /// Folders whose times our own work changed, and that must be durable.
    pub touched: BTreeSet<TreePath>,
    /// Other things that must be durable with them.
    pub dressed: BTreeSet<TreePath>,
    /// The contents so far of files that grow.
    pub growing: BTreeMap<TreePath, (Stamp, Running)>,
    /// What seems not to be as it was left: to be looked at.
    pub suspects: Vec<TreePath>,
    /// Folders that were there before they were known: what is in them is to be looked at.
    pub unaudited: Vec<TreePath>,
    reading: Option<(TreePath, Found, Reading)>,
    clearing: Option<Clearing>,
}

impl Ground {
    pub(super) fn new(tree: Arc<Tree>, index: Index) -> Self {
        Self {
            tree,
            index,
            counters: Counters::default(),
            touched: BTreeSet::new(),
            dressed: BTreeSet::new(),
            growing: BTreeMap::new(),
            suspects: Vec::new(),
            unaudited: Vec::new(),
            reading: None,
            clearing: None,
        }
    }

    pub(super) fn standing(&mut self, path: &TreePath) -> Result<(Standing, Option<Row>), Fault> {
        let row = self.index.get(path)?;
        let Some(found) = self.tree.stat(path)? else { return Ok((Standing::Nothing, row)) };
        let shared = row.is_some_and(|row| row.shared && row.describes(&found));
        Ok((if shared { Standing::Shared(found) } else { Standing::Foreign(found) }, row))
    }

    /// Whether the folder that this is in is known, so that something can be put there.
    pub(super) fn has_folder(&mut self, path: &TreePath) -> Result<bool, Fault> {
        let Some(parent) = path.parent() else { return Ok(true) };
        let row = self.index.get(&parent)?;
        let stands = row.is_some_and(|row| row.entry.kind == Kind::Dir);
        if !stands {
            self.suspects.push(parent);
        }
        Ok(stands)
    }

    /// Our own work changed the folder that this is in.
    pub(super) fn touch_folder_of(&mut self, path: &TreePath) {
        if let Some(parent) = path.parent() {
            self.touched.insert(parent);
        }
    }

    /// Makes it harmless to put something at the path: false when that takes longer than until
    /// then. A file or symlink may stay, to be replaced atomically; a folder stays if one comes.
    pub(super) fn make_room(
        &mut self,
        path: &TreePath,
        incoming: &Entry,
        until: Instant,
    ) -> Result<bool, Fault> {
        let (standing, row) = self.standing(path)?;
        match standing {
            Standing::Nothing => Ok(true),
            Standing::Shared(found) | Standing::Foreign(found) if found.kind == Some(Kind::Dir) => {
                if incoming.kind == Kind::Dir {
                    return Ok(true);
                }
                self.clear(path, until)
            }
            Standing::Shared(_) if incoming.kind != Kind::Dir => Ok(true),
            Standing::Shared(_) => {
                self.set_aside(path, Aside::Trash)?;
                Ok(true)
            }
            Standing::Foreign(found) => {
                if found.kind == Some(incoming.kind) && found.size == incoming.size {
                    let row = row.as_ref();
                    match self.has_content(path, &found, row, incoming.content, until)? {
                        None => return Ok(false),
                        Some(true) => return Ok(true),
                        Some(false) => {}
                    }
                }
                self.set_aside(path, Aside::Conflicts)?;
                Ok(true)
            }
        }
    }

    /// Deletes what is at the path, whatever it is: false when that takes longer than until then.
    /// What the primary had goes to the trash, all else to the conflicts.
    pub(super) fn delete(&mut self, path: &TreePath, until: Instant) -> Result<bool, Fault> {
        let (standing, row) = self.standing(path)?;
        match standing {
            Standing::Nothing if row.is_some() => {
                self.index.remove(path)?;
            }
            Standing::Nothing => {}
            Standing::Shared(found) | Standing::Foreign(found) if found.kind == Some(Kind::Dir) => {
                return self.clear(path, until);
            }
            Standing::Shared(_) => self.set_aside(path, Aside::Trash)?,
            Standing::Foreign(_) => self.set_aside(path, Aside::Conflicts)?,
        }
        Ok(true)
    }

    /// Whether a file or symlink has this content: none when reading it takes longer than until
    /// then.
    fn has_content(
        &mut self,
        path: &TreePath,
        found: &Found,
        row: Option<&Row>,
        content: Digest,
        until: Instant,
    ) -> Result<Option<bool>, Fault> {
        if let Some(row) = row.filter(|row| row.describes(found)) {
            return Ok(Some(row.entry.content == content));
        }
        if found.kind == Some(Kind::Symlink) {
            let target = self.tree.read_link(path)?;
            return Ok(Some(target.is_some_and(|target| digest::content(&target) == content)));
        }
        Ok(match self.read(path, found, until)? {
            Read::Whole(running) => Some(running.digest() == content),
            Read::Changed => Some(false),
            Read::Later => None,
        })
    }

    /// Reads a file to its end, or until then.
    pub(super) fn read(
        &mut self,
        path: &TreePath,
        found: &Found,
        until: Instant,
    ) -> Result<Read, Fault> {
        let mut reading = match self.reading.take() {
            Some((of, as_found, reading)) if of == *path => {
                if as_found != *found {
                    return Ok(Read::Changed);
                }
                reading
            }
            Some(_) | None => match self.tree.open_file(path)? {
                Some((file, now)) if now == *found => Reading::new(file, found.size),
                Some(_) | None => return Ok(Read::Changed),
            },
        };
        match reading.go_on(until) {
            Ok(true) => Ok(Read::Whole(Box::new(reading.into_running()))),
            Ok(false) => {
                self.reading = Some((path.clone(), *found, reading));
                Ok(Read::Later)
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(Read::Changed),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves something out of the tree.
    pub(super) fn set_aside(&mut self, path: &TreePath, aside: Aside) -> Result<(), Fault> {
        let Some(found) = self.tree.stat(path)? else { return Ok(()) };
        let siblings = self.siblings(path, &found)?;
        // Otherwise it was counted when it was found.
        let is_news = self.index.get(path)?.is_none_or(|row| !row.describes(&found));
        let known = self.index.totals(path)?;
        let bytes = known.map_or(0, |totals| totals.bytes).max(found.size);
        let kept = self.tree.set_aside(path, &aside, bytes)?;
        self.touch_folder_of(path);
        self.growing.remove(path);
        if self.index.get(path)?.is_some() {
            self.index.remove(path)?;
        }
        self.renew(siblings, None)?;
        match aside {
            Aside::Trash => self.counters.trashed += 1,
            Aside::Conflicts => {
                self.counters.kept_aside += 1;
                if is_news {
                    self.counters.changed_here(path);
                }
                tracing::warn!(%path, stamp = kept.stamp, "a local change is kept in conflicts");
            }
        }
        Ok(())
    }

    /// A folder goes, with all that is in it: what in it is unknown or was changed here is set
    /// aside before. False when that takes longer than until then.
    fn clear(&mut self, path: &TreePath, until: Instant) -> Result<bool, Fault> {
        if !self.index.get(path)?.is_some_and(|row| row.entry.kind == Kind::Dir) {
            self.set_aside(path, Aside::Conflicts)?;
            return Ok(true);
        }
        let fresh = || Clearing { root: path.clone(), folders: vec![path.clone()], aside: 0 };
        let under_way = self.clearing.take().filter(|clearing| clearing.root == *path);
        let mut clearing = under_way.unwrap_or_else(fresh);
        while let Some(folder) = clearing.folders.pop() {
            self.clear_folder(&folder, &mut clearing)?;
            if clearing.aside >= ASIDE_MAX {
                self.set_aside(path, Aside::Conflicts)?;
                return Ok(true);
            }
            if Instant::now() >= until && !clearing.folders.is_empty() {
                self.clearing = Some(clearing);
                return Ok(false);
            }
        }
        self.set_aside(path, Aside::Trash)?;
        Ok(true)
    }

    fn clear_folder(&mut self, dir: &TreePath, clearing: &mut Clearing) -> Result<(), Fault> {
        let Some(children) = self.tree.list(dir)? else { return Ok(()) };
        let rows = self.index.children(dir)?.unwrap_or_default();
        for (name, found) in children {
            let Ok(path) = dir.join(&name) else { continue };
            let at = rows.binary_search_by(|(known, ..)| known.cmp(&name));
            let row = at.ok().map(|at| rows[at].1);
            match (found.kind, row) {
                (Some(Kind::Dir), Some(row)) if row.entry.kind == Kind::Dir => {
                    clearing.folders.push(path);
                }
                (Some(Kind::File | Kind::Symlink), Some(row))
                    if row.shared && row.describes(&found) => {}
                // Sockets, pipes and devices hold nothing.
                (None, _) => {}
                (Some(_), _) => {
                    self.set_aside(&path, Aside::Conflicts)?;
                    clearing.aside += 1;
                    if clearing.aside >= ASIDE_MAX {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// The other names of a file, as far as their rows tell the truth: what is done under one name
    /// shows under all of them.
    pub(super) fn siblings(
        &mut self,
        path: &TreePath,
        found: &Found,
    ) -> Result<Vec<(TreePath, Row)>, Fault> {
        if found.nlink < 2 || found.kind == Some(Kind::Dir) {
            return Ok(Vec::new());
        }
        let mut siblings = Vec::new();
        for name in self.index.by_inode(found.stamp.ino)? {
            if name == *path {
                continue;
            }
            if let Some(row) = self.index.get(&name)?.filter(|row| row.describes(found)) {
                siblings.push((name, row));
            }
        }
        Ok(siblings)
    }

    /// Our own work changed these: what is known of them follows, with the entry that one of their
    /// names was given.
    pub(super) fn renew(
        &mut self,
        siblings: Vec<(TreePath, Row)>,
        entry: Option<&Entry>,
    ) -> Result<(), Fault> {
        for (path, mut row) in siblings {
            let Some(found) = self.tree.stat(&path)? else { continue };
            if found.stamp.ino != row.stamp.ino {
                continue;
            }
            if let Some(entry) = entry {
                row.entry = Entry { linked: row.entry.linked, ..*entry };
            }
            row.stamp = found.stamp;
            self.index.put(&path, &row)?;
        }
        Ok(())
    }

    /// Gives the folders that our own work touched their times back.
    pub(super) fn restore_times(&mut self) -> Result<(), Fault> {
        let touched: Vec<TreePath> = self.touched.iter().cloned().collect();
        touched.iter().try_for_each(|path| self.restore_time(path))
    }

    pub(super) fn restore_time(&mut self, path: &TreePath) -> Result<(), Fault> {
        if let Some(row) = self.index.get(path)?
            && let Some(found) = self.tree.stat(path)?
            && found.kind == Some(Kind::Dir)
            && row.entry.kind == Kind::Dir
            && found.mtime_ns != row.entry.mtime_ns
        {
            self.tree.set_mtime(path, row.entry.mtime_ns)?;
        }
        Ok(())
    }

    /// All that was touched, to be made durable; `more` are open already.
    pub(super) fn take_flush(&mut self, more: Vec<File>) -> Result<Flush, Fault> {
        let touched = std::mem::take(&mut self.touched);
        let dressed = std::mem::take(&mut self.dressed);
        if touched.len() + dressed.len() + more.len() > FLUSH_EACH_MAX {
            return Ok(Flush::Whole(self.tree.root.try_clone()?));
        }
        let mut files: Vec<OwnedFd> = more.into_iter().map(OwnedFd::from).collect();
        for path in &dressed {
            if let Some((file, _)) = self.tree.open_file(path)? {
                files.push(file.into());
            }
        }
        for dir in &touched {
            match self.tree.open_dir(dir) {
                Ok(dir) => files.push(dir),
                Err(error) if is_absence(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Flush::Each(files))
    }
}
