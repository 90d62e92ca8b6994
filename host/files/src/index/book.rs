//! What an index can be told and asked: keeps the folders in memory and the rows on disk together.
//!
//! Statements come first and memory follows, so that after a fault only what is on disk counts: it
//! is rolled back, and the folders are read anew.

use super::folders::{Counts, Files, Folders, Id, ROOT, Spot};
use super::store::{Fault, Store};
use super::{Child, FOLDERS_MAX, Totals};
use crate::entry::{Kind, Row};
use crate::path::TreePath;
use std::path::Path;

/// Paths of one inode that are told, at most.
const NAMES_MAX: usize = 64;

pub(super) struct Book {
    pub(super) store: Store,
    folders: Folders,
    /// Something was said since the last commit.
    pub(super) is_stirred: bool,
}

impl Book {
    pub(super) fn open(path: &Path) -> Result<Book, Fault> {
        let store = Store::open(path)?;
        let folders = Folders::load(store.folders()?).map_err(Fault::Damaged)?;
        Ok(Book { store, folders, is_stirred: false })
    }

    fn begin(&mut self) -> Result<(), Fault> {
        if !self.is_stirred {
            self.store.begin()?;
            self.is_stirred = true;
        }
        Ok(())
    }

    pub(super) fn commit(&mut self) -> Result<(), Fault> {
        if !self.is_stirred {
            return Ok(());
        }
        for id in self.folders.take_touched() {
            match self.folders.record(id) {
                Some(record) => self.store.set_folder(&record)?,
                None => self.store.remove_folder(id)?,
            }
        }
        self.store.commit()?;
        self.is_stirred = false;
        Ok(())
    }

    /// Goes back to the last commit.
    pub(super) fn roll_back(&mut self) -> Result<(), Fault> {
        self.store.roll_back()?;
        self.folders = Folders::load(self.store.folders()?).map_err(Fault::Damaged)?;
        self.is_stirred = false;
        Ok(())
    }

    pub(super) fn set_note(&mut self, key: &str, value: &[u8]) -> Result<(), Fault> {
        self.begin()?;
        self.store.set_note(key, value)
    }

    pub(super) fn get(&mut self, path: &TreePath) -> Result<Option<Row>, Fault> {
        match self.folders.spot(path) {
            Spot::Folder(id) => Ok(Some(self.folders.row(id))),
            Spot::In(dir) => self.store.file(dir, path.name()),
            Spot::Nowhere => Ok(None),
        }
    }

    pub(super) fn children(&mut self, dir: &TreePath) -> Result<Option<Vec<Child>>, Fault> {
        let Spot::Folder(id) = self.folders.spot(dir) else { return Ok(None) };
        // Makes the sums below right.
        self.folders.sum(id);
        let files = self.store.files(id)?.into_iter().map(|(name, row)| {
            let sum = row.entry.sum(&name, 0);
            (name, row, sum)
        });
        let mut children: Vec<_> = files.collect();
        children.extend(self.folders.folders(id).map(|(id, name, sum)| {
            let row = self.folders.row(id);
            (Box::from(name), row, sum)
        }));
        children.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(Some(children))
    }

    pub(super) fn put(&mut self, path: &TreePath, row: &Row) -> Result<(), Fault> {
        let is_folder = row.entry.kind == Kind::Dir;
        if is_folder && self.folders.is_full() {
            let text = format!("cannot add '{path}': a tree has {FOLDERS_MAX} folders at most");
            return Err(Fault::Refused(text));
        }
        if path.is_root() && !is_folder {
            return Err(Fault::Refused("the root of a tree is a folder".to_owned()));
        }
        match (self.folders.spot(path), is_folder) {
            (Spot::Nowhere, true) if path.is_root() => {
                self.begin()?;
                self.folders.add_root(row);
            }
            (Spot::Nowhere, _) => return Err(orphan("put", path)),
            (Spot::Folder(id), true) => {
                if self.folders.differs(id, row) {
                    self.begin()?;
                    self.folders.set_row(id, row);
                }
            }
            (Spot::Folder(id), false) => {
                self.begin()?;
                let dir = self.folders.parent(id);
                self.remove_folder(id)?;
                self.replace(dir, path.name(), None, Some(row))?;
            }
            (Spot::In(dir), true) => {
                let old = self.store.file(dir, path.name())?;
                self.begin()?;
                self.replace(dir, path.name(), old.as_ref(), None)?;
                self.folders.add(dir, path.name(), row);
            }
            (Spot::In(dir), false) => {
                let old = self.store.file(dir, path.name())?;
                if old.as_ref() != Some(row) {
                    self.begin()?;
                    self.replace(dir, path.name(), old.as_ref(), Some(row))?;
                }
            }
        }
        Ok(())
    }

    /// Under this name in this folder, the file `old` becomes the file `new`.
    fn replace(
        &mut self,
        dir: Id,
        name: &[u8],
        old: Option<&Row>,
        new: Option<&Row>,
    ) -> Result<(), Fault> {
        match (old, new) {
            (None, None) => return Ok(()),
            (Some(_), None) => self.store.remove_file(dir, name)?,
            (_, Some(row)) => self.store.set_file(dir, name, row)?,
        }
        let files = |row: Option<&Row>| {
            row.map_or(Files::default(), |row| Files {
                sum: row.entry.sum(name, 0),
                counts: Counts::of(row),
            })
        };
        self.folders.change_files(dir, files(old), files(new));
        Ok(())
    }

    fn remove_folder(&mut self, id: Id) -> Result<(), Fault> {
        for within in self.folders.within(id) {
            if self.folders.files(within).counts.entries > 0 {
                self.store.remove_files(within)?;
            }
        }
        self.folders.remove(id);
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &TreePath) -> Result<Totals, Fault> {
        match self.folders.spot(path) {
            Spot::Nowhere => Ok(Totals::default()),
            Spot::Folder(id) => {
                self.begin()?;
                let totals = self.folders.totals(id);
                self.remove_folder(id)?;
                Ok(totals)
            }
            Spot::In(dir) => {
                let Some(old) = self.store.file(dir, path.name())? else {
                    return Ok(Totals::default());
                };
                self.begin()?;
                self.replace(dir, path.name(), Some(&old), None)?;
                Ok(totals(&old))
            }
        }
    }

    pub(super) fn rename(&mut self, from: &TreePath, to: &TreePath) -> Result<(), Fault> {
        let from_spot = self.folders.spot(from);
        let file = match from_spot {
            Spot::Folder(_) => None,
            Spot::In(dir) => self.store.file(dir, from.name())?,
            Spot::Nowhere => None,
        };
        if file.is_none() && !matches!(from_spot, Spot::Folder(_)) {
            return Err(Fault::Refused(format!("cannot move '{from}' to '{to}': it has no row")));
        }
        if from == to {
            return Ok(());
        }
        if to.is_within(from) || from.is_within(to) {
            let text = format!("cannot move '{from}' to '{to}': one is in the other");
            return Err(Fault::Refused(text));
        }
        let (parent, old) = match self.folders.spot(to) {
            Spot::Nowhere => return Err(orphan("move something to", to)),
            Spot::In(dir) => (dir, self.store.file(dir, to.name())?),
            Spot::Folder(id) => (self.folders.parent(id), None),
        };
        self.begin()?;
        if let Spot::Folder(id) = self.folders.spot(to) {
            self.remove_folder(id)?;
        }
        match (from_spot, file) {
            (Spot::Folder(id), _) => {
                self.replace(parent, to.name(), old.as_ref(), None)?;
                self.folders.rename(id, parent, to.name());
            }
            (Spot::In(dir), Some(row)) => {
                self.replace(dir, from.name(), Some(&row), None)?;
                self.replace(parent, to.name(), old.as_ref(), Some(&row))?;
            }
            (Spot::In(_), None) | (Spot::Nowhere, _) => unreachable!("asked for above"),
        }
        Ok(())
    }

    pub(super) fn by_inode(&mut self, ino: u64) -> Result<Vec<TreePath>, Fault> {
        let folders = self.folders.by_inode(ino).take(NAMES_MAX);
        let mut paths: Vec<TreePath> = folders.filter_map(|id| self.folders.path(id)).collect();
        for (dir, name) in self.store.by_inode(ino, NAMES_MAX - paths.len())? {
            let Some(dir) = self.folders.path_if_there(dir) else {
                return Err(Fault::Damaged(format!(
                    "a file is in folder {dir}, which is not there"
                )));
            };
            paths.extend(dir.and_then(|dir| dir.join(&name).ok()));
        }
        Ok(paths)
    }

    /// The names of each file that has several, sorted.
    pub(super) fn linked(&mut self) -> Result<Vec<Vec<TreePath>>, Fault> {
        let mut files: Vec<Vec<TreePath>> = Vec::new();
        let mut last = None;
        for (file, dir, name) in self.store.linked()? {
            let dir = self.folders.path_if_there(dir).flatten();
            let Some(path) = dir.and_then(|dir| dir.join(&name).ok()) else { continue };
            match files.last_mut().filter(|_| last == Some(file)) {
                Some(names) => names.push(path),
                None => files.push(vec![path]),
            }
            last = Some(file);
        }
        files.iter_mut().for_each(|names| names.sort_unstable());
        Ok(files)
    }

    pub(super) fn sum(&mut self, path: &TreePath) -> Result<Option<u128>, Fault> {
        match self.folders.spot(path) {
            Spot::Nowhere => Ok(None),
            Spot::Folder(id) => Ok(Some(self.folders.sum(id))),
            Spot::In(dir) => {
                let row = self.store.file(dir, path.name())?;
                Ok(row.map(|row| row.entry.sum(path.name(), 0)))
            }
        }
    }

    pub(super) fn totals(&mut self, path: &TreePath) -> Result<Option<Totals>, Fault> {
        match self.folders.spot(path) {
            Spot::Nowhere => Ok(None),
            Spot::Folder(id) => Ok(Some(self.folders.totals(id))),
            Spot::In(dir) => Ok(self.store.file(dir, path.name())?.as_ref().map(totals)),
        }
    }

    pub(super) fn unshared(&self) -> u64 {
        self.folders.unshared()
    }

    /// Folders without any are not entered: costs what is listed, and the folders on the way.
    pub(super) fn list_unshared(&mut self, max: usize) -> Result<Vec<TreePath>, Fault> {
        let mut found = Vec::new();
        if self.folders.unshared() == 0 {
            return Ok(found);
        }
        let mut next = vec![(ROOT, TreePath::root())];
        while let Some((id, path)) = next.pop() {
            if found.len() < max && !self.folders.row(id).shared {
                found.push(path.clone());
            }
            if found.len() == max {
                break;
            }
            if self.folders.files(id).counts.unshared > 0 {
                let names = self.store.unshared(id, max - found.len())?;
                found.extend(names.iter().filter_map(|name| path.join(name).ok()));
            }
            let within = self.folders.folders(id).rev();
            let within = within.filter(|(id, ..)| self.folders.counts(*id).unshared > 0);
            next.extend(within.filter_map(|(id, name, _)| Some((id, path.join(name).ok()?))));
        }
        Ok(found)
    }

    pub(super) fn share(&mut self, path: &TreePath, sum: u128) -> Result<(), Fault> {
        match self.folders.spot(path) {
            Spot::Nowhere => Ok(()),
            Spot::Folder(id) if self.folders.sum(id) == sum => self.share_folder(id),
            Spot::Folder(_) => Ok(()),
            Spot::In(dir) => {
                let Some(old) = self.store.file(dir, path.name())? else { return Ok(()) };
                if old.shared || old.entry.sum(path.name(), 0) != sum {
                    return Ok(());
                }
                self.begin()?;
                let new = Row { shared: true, ..old };
                self.replace(dir, path.name(), Some(&old), Some(&new))
            }
        }
    }

    pub(super) fn share_all(&mut self) -> Result<(), Fault> {
        match self.folders.spot(&TreePath::root()) {
            Spot::Folder(id) => self.share_folder(id),
            Spot::In(_) | Spot::Nowhere => Ok(()),
        }
    }

    fn share_folder(&mut self, id: Id) -> Result<(), Fault> {
        if self.folders.counts(id).unshared == 0 {
            return Ok(());
        }
        self.begin()?;
        for within in self.folders.within(id) {
            if self.folders.files(within).counts.unshared > 0 {
                self.store.share_files(within)?;
            }
        }
        self.folders.share(id);
        Ok(())
    }
}

fn totals(row: &Row) -> Totals {
    let Counts { entries, bytes, .. } = Counts::of(row);
    Totals { entries, bytes }
}

fn orphan(what: &str, path: &TreePath) -> Fault {
    let parent = path.parent().unwrap_or_default();
    Fault::Refused(format!("cannot {what} '{path}': its folder '{parent}' has no row"))
}
