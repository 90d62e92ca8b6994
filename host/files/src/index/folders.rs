//! The folders of a tree, in memory: who is in whom, and the sums of all that is below each.
//!
//! Files are not here: of those that are directly in a folder only their sum and counts are. What a
//! change does to the sums of the folders above waits until somebody asks; then each folder that
//! something changed below is hashed once, however many changes there were.

use super::store::FolderRecord;
use super::{FOLDERS_MAX, Totals};
use crate::digest::Digest;
use crate::entry::{Entry, Kind, Row, Stamp};
use crate::path::TreePath;
use std::collections::BTreeSet;

/// The number of a folder: it stays when the folder moves, and is given anew when it is gone.
pub(super) type Id = u32;

/// The root's own.
pub(super) const ROOT: Id = 0;

/// What can be counted of some rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub entries: u64,
    pub bytes: u64,
    pub unshared: u64,
}

impl Counts {
    /// Of one row, without what is below it.
    pub(super) fn of(row: &Row) -> Counts {
        let bytes = if row.entry.kind == Kind::File { row.entry.size } else { 0 };
        Counts { entries: 1, bytes, unshared: u64::from(!row.shared) }
    }

    // Sizes are what a peer says of its files: sums of them may be anything, and must only agree.
    fn add(&mut self, other: Counts) {
        self.entries = self.entries.wrapping_add(other.entries);
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.unshared = self.unshared.wrapping_add(other.unshared);
    }

    fn subtract(&mut self, other: Counts) {
        self.entries = self.entries.wrapping_sub(other.entries);
        self.bytes = self.bytes.wrapping_sub(other.bytes);
        self.unshared = self.unshared.wrapping_sub(other.unshared);
    }
}

/// Files and symlinks directly in one folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Files {
    pub sum: u128,
    pub counts: Counts,
}

/// The row of a folder, without what no folder has.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Packed {
    mtime_ns: i64,
    ino: u64,
    btime_ns: i64,
    xattrs: Option<Box<Digest>>,
    mode: u32,
    uid: u32,
    gid: u32,
    racy: bool,
    shared: bool,
}

impl Packed {
    fn new(row: &Row) -> Packed {
        let Row { entry, stamp, racy, shared } = *row;
        let xattrs = (entry.xattrs != Digest::default()).then(|| Box::new(entry.xattrs));
        Packed {
            mtime_ns: entry.mtime_ns,
            ino: stamp.ino,
            btime_ns: stamp.btime_ns,
            xattrs,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            racy,
            shared,
        }
    }

    fn row(&self) -> Row {
        let entry = Entry {
            kind: Kind::Dir,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime_ns: self.mtime_ns,
            size: 0,
            content: Digest::default(),
            xattrs: self.xattrs.as_deref().copied().unwrap_or_default(),
            linked: false,
        };
        let stamp = Stamp { ino: self.ino, btime_ns: self.btime_ns, ctime_ns: 0 };
        Row { entry, stamp, racy: self.racy, shared: self.shared }
    }
}

#[derive(Debug)]
struct Folder {
    /// The root is in itself.
    parent: Id,
    name: Box<[u8]>,
    /// Those in it, sorted by their names.
    folders: Vec<Id>,
    row: Packed,
    files: Files,
    /// Sum of all that is in it, with what its folders have told so far.
    below: u128,
    /// What it told the folder that it is in.
    told: u128,
    /// Of all below, itself included; always up to date.
    counts: Counts,
    /// What it told is not what it would tell now. So are all that it is in.
    stale: bool,
    /// Differs from what the database has.
    touched: bool,
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spot {
    Folder(Id),
    /// No folder; perhaps a file in this one.
    In(Id),
    /// The folder that it would be in is not there.
    Nowhere,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Folders {
    slots: Vec<Option<Folder>>,
    free: Vec<Id>,
    inodes: BTreeSet<(u64, Id)>,
    stale: Vec<Id>,
    touched: Vec<Id>,
}

impl Folders {
    /// Puts together what the database had.
    ///
    /// # Errors
    /// When it is no tree.
    pub(super) fn load(records: Vec<FolderRecord>) -> Result<Folders, String> {
        let mut folders = Folders::default();
        let count = records.len();
        for record in records {
            let FolderRecord { id, parent, name, row, files } = record;
            let at = id as usize;
            if at >= FOLDERS_MAX || (id == ROOT) != (parent == ROOT && name.is_empty()) {
                return Err(format!("folder {id} in folder {parent} cannot be"));
            }
            if folders.slots.len() <= at {
                folders.slots.resize_with(at + 1, || None);
            }
            folders.inodes.insert((row.stamp.ino, id));
            let new = Folder::new(parent, name, &row);
            let folder = Folder { files, stale: false, touched: false, ..new };
            folders.slots[at] = Some(folder);
        }
        folders.link(count)?;
        let slots = folders.slots.iter().enumerate();
        folders.free = slots.filter(|(_, slot)| slot.is_none()).map(|(at, _)| at as Id).collect();
        // The root's number is nobody else's.
        folders.free.retain(|id| *id != ROOT);
        Ok(folders)
    }

    /// Tells each folder what is in it, and makes all sums.
    fn link(&mut self, count: usize) -> Result<(), String> {
        for id in 1..self.slots.len() {
            let Some(folder) = &self.slots[id] else { continue };
            let parent = folder.parent as usize;
            let Some(parent) = self.slots.get_mut(parent).and_then(Option::as_mut) else {
                return Err(format!("folder {id} is in folder {parent}, which is not there"));
            };
            parent.folders.push(id as Id);
        }
        for id in 0..self.slots.len() {
            let Some(folder) = &mut self.slots[id] else { continue };
            let mut within = std::mem::take(&mut folder.folders);
            within.sort_unstable_by(|a, b| self.at(*a).name.cmp(&self.at(*b).name));
            if within.windows(2).any(|two| self.at(two[0]).name == self.at(two[1]).name) {
                return Err(format!("two folders of one name are in folder {id}"));
            }
            within.shrink_to_fit();
            self.at_mut(id as Id).folders = within;
        }
        let order = if self.has_root() { self.within(ROOT) } else { Vec::new() };
        if order.len() != count {
            return Err("some folders are in no other".to_owned());
        }
        // Each comes after the one that it is in: from the end, all sums below are known.
        for id in order.into_iter().rev() {
            let folder = self.at_mut(id);
            folder.below = folder.below.wrapping_add(folder.files.sum);
            folder.counts.add(folder.files.counts);
            folder.told = folder.sum();
            let (parent, told, counts) = (folder.parent, folder.told, folder.counts);
            if id != ROOT {
                let parent = self.at_mut(parent);
                parent.below = parent.below.wrapping_add(told);
                parent.counts.add(counts);
            }
        }
        Ok(())
    }

    fn at(&self, id: Id) -> &Folder {
        self.slots[id as usize].as_ref().expect("a folder that is there")
    }

    fn at_mut(&mut self, id: Id) -> &mut Folder {
        self.slots[id as usize].as_mut().expect("a folder that is there")
    }

    fn has_root(&self) -> bool {
        self.slots.first().is_some_and(Option::is_some)
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() >= FOLDERS_MAX
    }

    fn position(&self, id: Id, name: &[u8]) -> Result<usize, usize> {
        self.at(id).folders.binary_search_by(|child| (*self.at(*child).name).cmp(name))
    }

    pub(super) fn spot(&self, path: &TreePath) -> Spot {
        if !self.has_root() {
            return Spot::Nowhere;
        }
        let mut names = path.names().peekable();
        let mut id = ROOT;
        while let Some(name) = names.next() {
            match self.position(id, name) {
                Ok(at) => id = self.at(id).folders[at],
                Err(_) if names.peek().is_none() => return Spot::In(id),
                Err(_) => return Spot::Nowhere,
            }
        }
        Spot::Folder(id)
    }

    /// None when its names together break a limit of paths: a folder may have been moved deep down.
    pub(super) fn path(&self, mut id: Id) -> Option<TreePath> {
        let mut names = Vec::new();
        while id != ROOT {
            let folder = self.at(id);
            names.push(&*folder.name);
            id = folder.parent;
        }
        names.reverse();
        TreePath::parse(&names.join(&b'/')).ok()
    }

    /// [`Folders::path`], of a folder that the database names.
    pub(super) fn path_if_there(&self, id: Id) -> Option<Option<TreePath>> {
        self.slots.get(id as usize)?.as_ref().map(|_| self.path(id))
    }

    pub(super) fn parent(&self, id: Id) -> Id {
        self.at(id).parent
    }

    pub(super) fn row(&self, id: Id) -> Row {
        self.at(id).row.row()
    }

    pub(super) fn counts(&self, id: Id) -> Counts {
        self.at(id).counts
    }

    pub(super) fn totals(&self, id: Id) -> Totals {
        let Counts { entries, bytes, .. } = self.at(id).counts;
        Totals { entries, bytes }
    }

    pub(super) fn unshared(&self) -> u64 {
        if self.has_root() { self.at(ROOT).counts.unshared } else { 0 }
    }

    pub(super) fn files(&self, id: Id) -> Files {
        self.at(id).files
    }

    /// The folders directly in this one, sorted by their names, with what they told.
    pub(super) fn folders(&self, id: Id) -> impl DoubleEndedIterator<Item = (Id, &[u8], u128)> {
        self.at(id).folders.iter().map(|id| {
            let folder = self.at(*id);
            (*id, &*folder.name, folder.told)
        })
    }

    /// Folders that have this inode.
    pub(super) fn by_inode(&self, ino: u64) -> impl Iterator<Item = Id> {
        self.inodes.range((ino, 0)..=(ino, Id::MAX)).map(|(_, id)| *id)
    }

    /// What the folder adds to the sum of the one that it is in.
    pub(super) fn sum(&mut self, id: Id) -> u128 {
        self.settle();
        self.at(id).told
    }

    /// The folder and all folders below it; each after the one that it is in.
    pub(super) fn within(&self, id: Id) -> Vec<Id> {
        let mut order = vec![id];
        let mut at = 0;
        while let Some(id) = order.get(at) {
            order.extend_from_slice(&self.at(*id).folders);
            at += 1;
        }
        order
    }

    /// Makes a folder in this one, which has none of this name; [`Folders::is_full`] was asked.
    pub(super) fn add(&mut self, parent: Id, name: &[u8], row: &Row) {
        let at = self.position(parent, name).expect_err("a name that is new");
        let id = self.free.pop().unwrap_or(self.slots.len() as Id);
        self.fill(id, Folder::new(parent, name.into(), row));
        self.at_mut(parent).folders.insert(at, id);
        self.count(parent, Counts::default(), Counts::of(row));
        self.mark_stale(parent);
    }

    /// Makes the root, which is not there.
    pub(super) fn add_root(&mut self, row: &Row) {
        self.fill(ROOT, Folder::new(ROOT, Box::default(), row));
    }

    fn fill(&mut self, id: Id, folder: Folder) {
        let at = id as usize;
        if self.slots.len() <= at {
            self.slots.push(None);
        }
        self.inodes.insert((folder.row.ino, id));
        self.slots[at] = Some(folder);
        self.stale.push(id);
        self.touched.push(id);
    }

    /// Whether the row differs from what is known, leaving out what no folder has.
    pub(super) fn differs(&self, id: Id, row: &Row) -> bool {
        self.at(id).row != Packed::new(row)
    }

    pub(super) fn set_row(&mut self, id: Id, row: &Row) {
        let old = self.row(id);
        self.inodes.remove(&(old.stamp.ino, id));
        self.inodes.insert((row.stamp.ino, id));
        self.at_mut(id).row = Packed::new(row);
        self.count(id, Counts::of(&old), Counts::of(&self.row(id)));
        self.touch(id);
        self.mark_stale(id);
    }

    /// In this folder, a file that adds `new` took the place of one that added `old`.
    pub(super) fn change_files(&mut self, id: Id, old: Files, new: Files) {
        let folder = self.at_mut(id);
        for sum in [&mut folder.files.sum, &mut folder.below] {
            *sum = sum.wrapping_sub(old.sum).wrapping_add(new.sum);
        }
        folder.files.counts.subtract(old.counts);
        folder.files.counts.add(new.counts);
        self.count(id, old.counts, new.counts);
        self.touch(id);
        if old.sum != new.sum {
            self.mark_stale(id);
        }
    }

    /// Removes the folder and all below it. The root, too.
    pub(super) fn remove(&mut self, id: Id) {
        let all = self.within(id);
        if id != ROOT {
            self.detach(id);
        }
        for id in all {
            let folder = self.slots[id as usize].take().expect("a folder that is there");
            self.inodes.remove(&(folder.row.ino, id));
            self.touched.push(id);
            if id != ROOT {
                self.free.push(id);
            }
        }
    }

    /// Gives the folder another place, which is free and not below it.
    pub(super) fn rename(&mut self, id: Id, parent: Id, name: &[u8]) {
        self.detach(id);
        let at = self.position(parent, name).expect_err("a name that is free");
        self.at_mut(parent).folders.insert(at, id);
        let folder = self.at_mut(id);
        (folder.parent, folder.name) = (parent, name.into());
        let counts = folder.counts;
        self.count(parent, Counts::default(), counts);
        self.touch(id);
        // Both: where the folder is stale already, those that it is in from now on need not be.
        self.mark_stale(id);
        self.mark_stale(parent);
    }

    /// Takes it out of the folder that it is in.
    fn detach(&mut self, id: Id) {
        let (parent, counts) = (self.at(id).parent, self.at(id).counts);
        let told = std::mem::take(&mut self.at_mut(id).told);
        let at = self.position(parent, &self.at(id).name).expect("it is in there");
        let above = self.at_mut(parent);
        above.folders.remove(at);
        above.below = above.below.wrapping_sub(told);
        self.count(parent, counts, Counts::default());
        self.mark_stale(parent);
    }

    /// All rows of the folder and of all below it are shared.
    pub(super) fn share(&mut self, id: Id) {
        for id in self.within(id) {
            let folder = self.at_mut(id);
            let own = folder.files.counts.unshared + u64::from(!folder.row.shared);
            if own == 0 {
                continue;
            }
            folder.row.shared = true;
            folder.files.counts.unshared = 0;
            self.touch(id);
            self.count(id, Counts { unshared: own, ..Counts::default() }, Counts::default());
        }
    }

    fn count(&mut self, mut id: Id, minus: Counts, plus: Counts) {
        loop {
            let folder = self.at_mut(id);
            folder.counts.subtract(minus);
            folder.counts.add(plus);
            if id == ROOT {
                return;
            }
            id = folder.parent;
        }
    }

    fn touch(&mut self, id: Id) {
        if !std::mem::replace(&mut self.at_mut(id).touched, true) {
            self.touched.push(id);
        }
    }

    fn mark_stale(&mut self, mut id: Id) {
        while !std::mem::replace(&mut self.at_mut(id).stale, true) {
            self.stale.push(id);
            if id == ROOT {
                return;
            }
            id = self.at(id).parent;
        }
    }

    fn depth(&self, mut id: Id) -> usize {
        let mut depth = 0;
        while id != ROOT {
            depth += 1;
            id = self.at(id).parent;
        }
        depth
    }

    /// Every stale folder tells what it would tell now, the deepest first.
    fn settle(&mut self) {
        let stale = std::mem::take(&mut self.stale);
        let is_there = |id: &Id| self.slots[*id as usize].is_some();
        let mut order: Vec<(usize, Id)> =
            stale.into_iter().filter(is_there).map(|id| (self.depth(id), id)).collect();
        order.sort_unstable();
        for (_, id) in order.into_iter().rev() {
            let folder = self.at_mut(id);
            // Twice in the list when a number was given anew.
            if !std::mem::replace(&mut folder.stale, false) {
                continue;
            }
            let sum = folder.sum();
            let before = std::mem::replace(&mut folder.told, sum);
            let parent = folder.parent;
            if id != ROOT {
                let parent = self.at_mut(parent);
                parent.below = parent.below.wrapping_sub(before).wrapping_add(sum);
            }
        }
    }

    /// What the database must be told: the number of each folder that differs from what it has, and
    /// what it is now, if it still is.
    pub(super) fn take_touched(&mut self) -> Vec<Id> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for id in &touched {
            if let Some(folder) = &mut self.slots[*id as usize] {
                folder.touched = false;
            }
        }
        touched
    }

    pub(super) fn record(&self, id: Id) -> Option<FolderRecord> {
        let folder = self.slots[id as usize].as_ref()?;
        let (parent, name) = (folder.parent, folder.name.clone());
        Some(FolderRecord { id, parent, name, row: folder.row.row(), files: folder.files })
    }
}

impl Folder {
    fn new(parent: Id, name: Box<[u8]>, row: &Row) -> Folder {
        Folder {
            parent,
            name,
            folders: Vec::new(),
            row: Packed::new(row),
            files: Files::default(),
            below: 0,
            told: 0,
            counts: Counts::of(row),
            stale: true,
            touched: true,
        }
    }

    fn sum(&self) -> u128 {
        self.row.row().entry.sum(&self.name, self.below)
    }
}
