//! Deeds: what a step does, once its content is durable.
//!
//! Each deed checks all that it stands on before it changes anything, so that it can begin anew
//! when its checks take longer than one turn.

use super::ground::{GROWING_MAX, Ground, Read, Standing};
use super::read::Running;
use super::trouble::{Fault, is_absence, refusal};
use crate::entry::{Entry, Found, Kind, Row, Xattrs};
use crate::path::TreePath;
use crate::tree::Temp;
use crate::wire::Refusal;
use rustix::fs::{Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Instant;

/// A step that is ready to be done.
pub(super) enum Ready {
    /// A file whose content is in a temp, verified and dressed.
    File {
        path: TreePath,
        entry: Entry,
        temp: Option<Temp>,
    },
    Symlink {
        path: TreePath,
        entry: Entry,
        xattrs: Xattrs,
        target: Vec<u8>,
    },
    Dir {
        path: TreePath,
        entry: Entry,
        xattrs: Xattrs,
    },
    Kept {
        path: TreePath,
        entry: Entry,
        xattrs: Xattrs,
    },
    Link {
        path: TreePath,
        entry: Entry,
        xattrs: Xattrs,
        source: TreePath,
    },
    Append {
        path: TreePath,
        entry: Entry,
        offset: u64,
        bytes: Vec<u8>,
    },
    Rename {
        from: TreePath,
        to: TreePath,
        sum: [u8; 16],
    },
    Delete(TreePath),
    /// It could not be made ready.
    Refused(TreePath, Refusal),
}

/// How far a deed came.
#[derive(Debug)]
pub(super) enum Done {
    Yes,
    /// The file that grew must be made durable some time.
    Grown(File),
    /// Call again: nothing was changed but what does no harm.
    Later,
    Refused(Refusal),
}

impl Ready {
    /// The temp that holds its content, and the path that it will have.
    pub(super) fn temp(&self) -> Option<(&TreePath, &Temp)> {
        if let Ready::File { path, temp: Some(temp), .. } = self {
            Some((path, temp))
        } else {
            None
        }
    }

    /// Bytes that it adds to a file in place.
    pub(super) fn added(&self) -> usize {
        if let Ready::Append { bytes, .. } = self { bytes.len() } else { 0 }
    }

    /// What it changes, and where from.
    pub(super) fn paths(&self) -> (&TreePath, Option<&TreePath>) {
        match self {
            Ready::File { path, .. }
            | Ready::Symlink { path, .. }
            | Ready::Dir { path, .. }
            | Ready::Kept { path, .. }
            | Ready::Append { path, .. }
            | Ready::Delete(path)
            | Ready::Refused(path, _) => (path, None),
            Ready::Link { path, source, .. } => (path, Some(source)),
            Ready::Rename { from, to, .. } => (to, Some(from)),
        }
    }
}

impl Ground {
    /// Does a deed, or a part of it that lasts until then. Errors of the disk are refusals.
    pub(super) fn carry_out(&mut self, ready: &mut Ready, until: Instant) -> Result<Done, Fault> {
        match self.attempt(ready, until) {
            Err(Fault::Disk(error)) => {
                let (path, _) = ready.paths();
                if is_absence(&error) {
                    self.suspects.extend(path.parent());
                }
                Ok(Done::Refused(refusal(path, &error)))
            }
            Ok(done) => Ok(done),
            Err(Fault::Index(error)) => Err(Fault::Index(error)),
        }
    }

    fn attempt(&mut self, ready: &mut Ready, until: Instant) -> Result<Done, Fault> {
        match ready {
            Ready::File { path, entry, temp } => self.place(path, entry, temp, until),
            Ready::Symlink { path, entry, xattrs, target } => {
                self.make_symlink(path, entry, xattrs, target, until)
            }
            Ready::Dir { path, entry, xattrs } => self.make_dir(path, entry, xattrs, until),
            Ready::Kept { path, entry, xattrs } => self.dress(path, entry, xattrs),
            Ready::Link { path, entry, xattrs, source } => {
                self.link(path, entry, xattrs, source, until)
            }
            Ready::Append { path, entry, offset, bytes } => {
                self.append(path, entry, *offset, bytes, until)
            }
            Ready::Rename { from, to, sum } => self.rename(from, to, *sum, until),
            Ready::Delete(path) => {
                let done = self.delete(path, until)?;
                Ok(if done { Done::Yes } else { Done::Later })
            }
            Ready::Refused(_, refusal) => Ok(Done::Refused(refusal.clone())),
        }
    }

    fn place(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        temp: &mut Option<Temp>,
        until: Instant,
    ) -> Result<Done, Fault> {
        if !self.has_folder(path)? {
            return Ok(Done::Refused(Refusal::Missing));
        }
        if !self.make_room(path, entry, until)? {
            return Ok(Done::Later);
        }
        let siblings = self.siblings_of(path)?;
        let Some(temp) = temp.take() else { return Ok(Done::Refused(Refusal::Missing)) };
        let stamp = temp.place(&self.tree, path)?;
        self.touch_folder_of(path);
        self.growing.remove(path);
        self.index.put(path, &Row { entry: *entry, stamp, racy: false, shared: true })?;
        self.renew(siblings, None)?;
        Ok(Done::Yes)
    }

    fn siblings_of(&mut self, path: &TreePath) -> Result<Vec<(TreePath, Row)>, Fault> {
        match self.tree.stat(path)? {
            Some(found) => self.siblings(path, &found),
            None => Ok(Vec::new()),
        }
    }

    fn make_symlink(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        xattrs: &Xattrs,
        target: &[u8],
        until: Instant,
    ) -> Result<Done, Fault> {
        if !self.has_folder(path)? {
            return Ok(Done::Refused(Refusal::Missing));
        }
        if !self.make_room(path, entry, until)? {
            return Ok(Done::Later);
        }
        let siblings = self.siblings_of(path)?;
        self.touch_folder_of(path);
        self.tree.make_symlink(path, target)?;
        self.renew(siblings, None)?;
        self.growing.remove(path);
        self.tree.dress_at(path, entry, xattrs)?;
        self.adopt(path, entry)
    }

    fn make_dir(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        xattrs: &Xattrs,
        until: Instant,
    ) -> Result<Done, Fault> {
        if !self.has_folder(path)? {
            return Ok(Done::Refused(Refusal::Missing));
        }
        if !self.make_room(path, entry, until)? {
            return Ok(Done::Later);
        }
        match self.tree.stat(path)? {
            None => {
                self.touch_folder_of(path);
                self.tree.make_dir(path)?;
                self.growing.remove(path);
            }
            Some(found) => {
                let row = self.index.get(path)?;
                let is_known = row.is_some_and(|row| row.stamp.ino == found.stamp.ino);
                if !is_known {
                    self.unaudited.push(path.clone());
                }
            }
        }
        self.touched.insert(path.clone());
        self.tree.dress_at(path, entry, xattrs)?;
        self.adopt(path, entry)
    }

    /// The row of a path says from now on what was made there.
    fn adopt(&mut self, path: &TreePath, entry: &Entry) -> Result<Done, Fault> {
        let Some(found) = self.tree.stat(path)? else {
            return Ok(Done::Refused(Refusal::Missing));
        };
        let row = Row { entry: *entry, stamp: found.stamp, racy: false, shared: true };
        self.index.put(path, &row)?;
        Ok(Done::Yes)
    }

    /// Owner, mode, times and attributes of what has its content already.
    fn dress(&mut self, path: &TreePath, entry: &Entry, xattrs: &Xattrs) -> Result<Done, Fault> {
        let (Some(row), Some(found)) = (self.index.get(path)?, self.tree.stat(path)?) else {
            return Ok(Done::Refused(Refusal::Missing));
        };
        let is_known = entry.kind == Kind::Dir || row.describes(&found);
        if found.kind != Some(entry.kind) || !is_known || !same_content(&row.entry, entry) {
            self.suspects.push(path.clone());
            return Ok(Done::Refused(Refusal::Missing));
        }
        let siblings = self.siblings(path, &found)?;
        if !entry.linked && siblings.iter().any(|(_, row)| !row.entry.linked) {
            // One file here is two on the primary: each is made anew.
            return Ok(Done::Refused(Refusal::Missing));
        }
        let dressed = self.tree.dress_at(path, entry, xattrs);
        if dressed.is_err() {
            // Whatever part of it was done is ours.
            if let Some(found) = self.tree.stat(path)? {
                self.index.put(path, &Row { stamp: found.stamp, ..row })?;
            }
        }
        dressed?;
        match entry.kind {
            Kind::Dir => self.touched.insert(path.clone()),
            Kind::File => self.dressed.insert(path.clone()),
            Kind::Symlink => {
                self.touch_folder_of(path);
                true
            }
        };
        self.renew(siblings, Some(entry))?;
        self.adopt(path, entry)
    }

    fn link(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        xattrs: &Xattrs,
        source: &TreePath,
        until: Instant,
    ) -> Result<Done, Fault> {
        let (Some(row), Some(found)) = (self.index.get(source)?, self.tree.stat(source)?) else {
            return Ok(Done::Refused(Refusal::Missing));
        };
        let fits = found.kind != Some(Kind::Dir) && row.describes(&found);
        if path == source || !fits || !same_content(&row.entry, entry) {
            self.suspects.push(source.clone());
            return Ok(Done::Refused(Refusal::Missing));
        }
        if !self.has_folder(path)? {
            return Ok(Done::Refused(Refusal::Missing));
        }
        let there = self.tree.stat(path)?;
        if there.is_none_or(|there| there.stamp.ino != found.stamp.ino) {
            if !self.make_room(path, entry, until)? {
                return Ok(Done::Later);
            }
            let replaced = self.siblings_of(path)?;
            let mut siblings = self.siblings(source, &found)?;
            siblings.push((source.clone(), row));
            self.tree.link(source, path)?;
            self.touch_folder_of(path);
            self.growing.remove(path);
            self.renew(replaced, None)?;
            self.renew(siblings, None)?;
        }
        let Some(found) = self.tree.stat(path)? else {
            return Ok(Done::Refused(Refusal::Missing));
        };
        let siblings = self.siblings(path, &found)?;
        if !is_dressed(&found, &row.entry, entry) {
            self.tree.dress_at(path, entry, xattrs)?;
        }
        self.dressed.insert(path.clone());
        self.renew(siblings, Some(entry))?;
        self.adopt(path, entry)
    }

    fn rename(
        &mut self,
        from: &TreePath,
        to: &TreePath,
        sum: [u8; 16],
        until: Instant,
    ) -> Result<Done, Fault> {
        if self.touched.contains(from) {
            self.restore_time(from)?;
        }
        let (Some(row), Some(found)) = (self.index.get(from)?, self.tree.stat(from)?) else {
            return Ok(Done::Refused(Refusal::Missing));
        };
        let known = self.index.sum(from)?.map(u128::to_le_bytes);
        if known != Some(sum) || !row.describes(&found) {
            self.suspects.push(from.clone());
            return Ok(Done::Refused(Refusal::Missing));
        }
        if !self.has_folder(to)? {
            return Ok(Done::Refused(Refusal::Missing));
        }
        let (standing, _) = self.standing(to)?;
        let replaced = self.siblings_of(to)?;
        let siblings = self.siblings(from, &found)?;
        let is_file = |found: &Found| matches!(found.kind, Some(Kind::File | Kind::Symlink));
        match standing {
            // Two names of one file: to rename one to the other would do nothing.
            Standing::Shared(there) | Standing::Foreign(there)
                if there.stamp.ino == found.stamp.ino =>
            {
                self.tree.unlink(from)?;
            }
            // At no moment is nothing there.
            Standing::Shared(there) if found.kind == Some(Kind::File) && is_file(&there) => {
                self.tree.link(from, to)?;
                self.touch_folder_of(to);
                self.tree.unlink(from)?;
            }
            Standing::Nothing | Standing::Shared(_) | Standing::Foreign(_) => {
                if !self.delete(to, until)? {
                    return Ok(Done::Later);
                }
                self.tree.rename(from, to)?;
            }
        }
        self.moved(from, to)?;
        self.renew(replaced.into_iter().filter(|(path, _)| path != from).collect(), None)?;
        self.renew(siblings.into_iter().filter(|(path, _)| path != to).collect(), None)?;
        Ok(Done::Yes)
    }

    /// What is known follows what was moved.
    fn moved(&mut self, from: &TreePath, to: &TreePath) -> Result<(), Fault> {
        let growing = self.growing.remove(from);
        self.growing.remove(to);
        for set in [&mut self.touched, &mut self.dressed] {
            let moved: Vec<_> = set.iter().filter(|path| path.is_within(from)).cloned().collect();
            for path in moved {
                set.remove(&path);
                set.extend(path.moved(from, to));
            }
        }
        self.touch_folder_of(from);
        self.touch_folder_of(to);
        self.index.rename(from, to)?;
        let Some(mut row) = self.index.get(to)? else { return Ok(()) };
        if row.entry.kind == Kind::Dir {
            // Some file systems write the parent's number into it.
            self.touched.insert(to.clone());
        }
        if let Some(found) = self.tree.stat(to)? {
            row.stamp = found.stamp;
            row.shared = true;
            self.index.put(to, &row)?;
            if let Some((_, running)) = growing {
                self.growing.insert(to.clone(), (row.stamp, running));
            }
        }
        Ok(())
    }

    /// Written in place: what is there is at any moment a beginning of what the primary has.
    fn append(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        offset: u64,
        bytes: &[u8],
        until: Instant,
    ) -> Result<Done, Fault> {
        let (Some(row), Some(found)) = (self.index.get(path)?, self.tree.stat(path)?) else {
            return Ok(Done::Refused(Refusal::Missing));
        };
        let fits = row.shared
            && row.describes(&found)
            && found.kind == Some(Kind::File)
            && found.size == offset
            && row.entry.xattrs == entry.xattrs
            && (found.mode, found.uid, found.gid) == (entry.mode, entry.uid, entry.gid);
        let siblings = self.siblings(path, &found)?;
        // Names outside of the tree are of things that were set aside: they must not change.
        if !fits || siblings.len() as u64 + 1 != u64::from(found.nlink) {
            self.suspects.push(path.clone());
            return Ok(Done::Refused(Refusal::Missing));
        }
        let known = self
            .growing
            .get(path)
            .filter(|(stamp, running)| *stamp == row.stamp && running.size() == offset);
        let mut running = match known {
            Some((_, running)) => Box::new(running.clone()),
            None => match self.read(path, &found, until)? {
                Read::Whole(running) => running,
                Read::Later => return Ok(Done::Later),
                Read::Changed => return Ok(Done::Refused(Refusal::Missing)),
            },
        };
        let before = running.digest();
        running.add(bytes);
        if before != row.entry.content || running.digest() != entry.content {
            self.suspects.push(path.clone());
            return Ok(Done::Refused(Refusal::Missing));
        }
        let file = self.open_to_grow(path, &found)?;
        let grown = grow(&file, offset, bytes, entry.mtime_ns);
        if grown.is_err() {
            file.set_len(offset)?;
            set_mtime(&file, row.entry.mtime_ns)?;
        }
        let now = crate::tree::found(&file)?;
        let entry = if grown.is_ok() { *entry } else { row.entry };
        let row = Row { entry, stamp: now.stamp, racy: false, shared: true };
        self.index.put(path, &row)?;
        self.renew(siblings, Some(&entry))?;
        self.growing.remove(path);
        grown?;
        self.remember_growing(path, &row, *running);
        Ok(Done::Grown(file))
    }

    fn remember_growing(&mut self, path: &TreePath, row: &Row, running: Running) {
        if self.growing.len() >= GROWING_MAX {
            // Any one: its content is read again when it grows again.
            self.growing.pop_first();
        }
        self.growing.insert(path.clone(), (row.stamp, running));
    }

    fn open_to_grow(&self, path: &TreePath, found: &Found) -> Result<File, Fault> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let name = path.as_os_str();
        let file = rustix::fs::openat2(&self.tree.root, name, flags, Mode::empty(), resolve)?;
        let file = File::from(file);
        if crate::tree::found(&file)? != *found {
            return Err(Fault::Disk(Errno::NOENT.into()));
        }
        Ok(file)
    }
}

fn grow(file: &File, offset: u64, bytes: &[u8], mtime_ns: i64) -> io::Result<()> {
    file.write_all_at(bytes, offset)?;
    set_mtime(file, mtime_ns)
}

fn set_mtime(file: &File, mtime_ns: i64) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: mtime_ns.div_euclid(1_000_000_000),
            tv_nsec: mtime_ns.rem_euclid(1_000_000_000),
        },
    };
    Ok(rustix::fs::futimens(file, &times)?)
}

fn same_content(known: &Entry, said: &Entry) -> bool {
    (known.kind, known.size, known.content) == (said.kind, said.size, said.content)
}

fn is_dressed(found: &Found, known: &Entry, said: &Entry) -> bool {
    (found.mode, found.uid, found.gid) == (said.mode, said.uid, said.gid)
        && found.mtime_ns == said.mtime_ns
        && known.xattrs == said.xattrs
}
