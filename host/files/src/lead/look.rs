//! A look at one path: what is there, compared with its row, becomes a new row and a step.

use super::due::{Force, Item};
use super::trouble::Trouble;
use super::window::Sent;
use super::{Lead, WRITTEN_INTERVAL, WRITTEN_MAX};
use crate::digest;
use crate::entry::{Entry, Found, Kind, Row, Stamp, Xattrs};
use crate::index::IndexError;
use crate::path::TreePath;
use crate::tree::Look;
use crate::wire::{Body, Deed, INLINE_BYTES_MAX};
use std::io::{self, Read};
use std::time::{Duration, Instant};

/// A file that changes while it is read is tried again after this, twice as much, and so on.
const CHANGING_WAIT: Duration = Duration::from_millis(20);
/// Then what was read is said as it is, and looked at again after this.
const CHANGING_TRIES: u8 = 3;
const RESTLESS_WAIT: Duration = Duration::from_secs(1);

/// What came of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looked {
    /// The index tells the truth, and what differed was said.
    Done,
    /// To be looked at again after this.
    Later(Duration),
    /// The same, because it changed while it was read.
    Changing(Item, Duration),
    /// Something has taken the place of something else, which may have moved: to be looked at after
    /// all others.
    Moved,
}

/// What is at a path, read.
pub(super) struct Content<'a> {
    pub entry: Entry,
    pub stamp: Stamp,
    pub racy: bool,
    pub xattrs: Xattrs,
    pub content: &'a [u8],
    pub nlink: u32,
    /// Bytes on the disk.
    pub allocated: u64,
}

impl Lead {
    /// Looks at a path; `seen` is what a scan has just found there, and its row.
    pub(super) fn look(
        &mut self,
        path: &TreePath,
        item: &Item,
        seen: Option<(Found, Option<Row>)>,
        now: Instant,
    ) -> Result<Looked, IndexError> {
        let (is_scanned, mut is_carried) = (seen.is_some(), false);
        if item.written {
            self.note_written(path, now);
        }
        let (found, mut old) = match seen {
            Some(seen) => seen,
            None => match self.tree.stat(path) {
                Ok(Some(found)) => (found, self.index.get(path)?),
                Ok(None) => return self.absent(path, item, now),
                Err(error) => return Ok(self.unreadable(path, item, &error, now)),
            },
        };
        if self.settings.ignores.leaves_out(path, found.kind == Some(Kind::Dir)) {
            return self.leave_out(path);
        }
        let Some(kind) = found.kind.filter(|_| found.dev == self.tree.dev) else {
            return self.absent(path, item, now);
        };
        self.guard.is_there(path);
        if let Some(row) = &old
            && kind != Kind::Dir
            && item.force == Force::No
            // A write(2) may take longer than what its times let think (they say when it began):
            // whoever closes the file has ended it.
            && !(item.closed && kind == Kind::File)
            && is_unchanged(row, &found)
        {
            self.trouble.settle(path);
            return Ok(Looked::Done);
        }
        if old.is_none() && !self.has_parent(path, now)? {
            return Ok(Looked::Later(CHANGING_WAIT));
        }
        if old.as_ref().is_none_or(|row| !is_same_inode(&row.stamp, &found.stamp)) {
            // What was here may be elsewhere by now: its row is needed until it is seen there.
            if old.is_some() && !item.late && !is_scanned {
                return Ok(Looked::Moved);
            }
            is_carried = self.is_carried(path, item, old.as_ref(), &found, now)?;
            old = self.index.get(path)?;
        }
        if item.written && kind == Kind::File && item.force == Force::No {
            match self.grow(path, item, old.as_ref(), &found, now)? {
                super::grow::Grown::No => {}
                super::grow::Grown::More => return Ok(Looked::Later(Duration::ZERO)),
                super::grow::Grown::All if !item.closed => return Ok(Looked::Done),
                super::grow::Grown::All => old = self.index.get(path)?,
            }
        }
        // What was hinted at below a folder before it moved may have been looked for in vain.
        let is_other = old.as_ref().is_none_or(|row| !is_same_inode(&row.stamp, &found.stamp));
        let is_new_dir = kind == Kind::Dir && (is_carried || is_other);
        let is_plain = is_carried && item.force == Force::No;
        if let Some(row) = old.filter(|row| is_plain && is_only_elsewhere(row, &found)) {
            return self.moved_large(path, item, &row, &found, now);
        }
        let looked = self.read(path, item, old.as_ref(), &found, now)?;
        if is_new_dir && !is_scanned && looked == Looked::Done {
            self.scan.add(path.clone(), Force::No);
        }
        Ok(looked)
    }

    /// Another inode is here than before: whether it was moved here from where it is known.
    fn is_carried(
        &mut self,
        path: &TreePath,
        item: &Item,
        old: Option<&Row>,
        found: &Found,
        now: Instant,
    ) -> Result<bool, IndexError> {
        if let Some(from) = self.came_from(path, found)? {
            return self.carry(&from, path, item, now);
        }
        if let Some(row) = old {
            self.look_at_links(&row.stamp, row.entry.linked, path, now)?;
        }
        Ok(false)
    }

    fn read(
        &mut self,
        path: &TreePath,
        item: &Item,
        old: Option<&Row>,
        found: &Found,
        now: Instant,
    ) -> Result<Looked, IndexError> {
        match self.tree.look(path) {
            Ok(Look::Whole { entry, stamp, racy, xattrs, content }) => {
                let (nlink, allocated) = (found.nlink, found.allocated);
                let content = content.as_slice();
                let read = Content { entry, stamp, racy, xattrs, content, nlink, allocated };
                self.whole(path, item, old, read, now)
            }
            Ok(Look::Large { entry, stamp, racy, xattrs, file }) => {
                let (nlink, allocated) = (found.nlink, found.allocated);
                let content = [].as_slice();
                let read = Content { entry, stamp, racy, xattrs, content, nlink, allocated };
                self.large(path, item, old, read, file, now)
            }
            Ok(Look::Changing) => self.changing(path, item, old, now),
            Ok(Look::Absent | Look::Other) => self.absent(path, item, now),
            Err(error) => Ok(self.unreadable(path, item, &error, now)),
        }
    }

    /// A large file that was moved is not read for that.
    fn moved_large(
        &mut self,
        path: &TreePath,
        item: &Item,
        row: &Row,
        found: &Found,
        now: Instant,
    ) -> Result<Looked, IndexError> {
        let xattrs = match self.tree.xattrs(path) {
            Ok(xattrs) => xattrs,
            Err(error) => return Ok(self.unreadable(path, item, &error, now)),
        };
        let read = Content {
            entry: entry_of(found, row.entry.content, &xattrs),
            stamp: found.stamp,
            racy: true,
            xattrs,
            content: &[],
            nlink: found.nlink,
            allocated: found.allocated,
        };
        self.whole(path, item, Some(row), read, now)
    }

    /// What was read whole becomes the row, and a step if it differs.
    pub(super) fn whole(
        &mut self,
        path: &TreePath,
        item: &Item,
        old: Option<&Row>,
        mut read: Content<'_>,
        now: Instant,
    ) -> Result<Looked, IndexError> {
        self.cut_transfer(path);
        let links = self.links(path, &read.entry, &read.stamp, read.nlink)?;
        read.entry.linked = !links.is_empty();
        let is_same = old.is_some_and(|row| row.entry == read.entry);
        let row = Row {
            entry: read.entry,
            stamp: read.stamp,
            racy: read.racy,
            shared: old.is_some_and(|row| is_same && row.shared),
        };
        if old != Some(&row) {
            self.index.put(path, &row)?;
        }
        if is_same && item.force == Force::No {
            self.trouble.settle(path);
            return Ok(Looked::Done);
        }
        if old.is_none()
            && let Some(parent) = path.parent()
        {
            self.refresh(parent, now);
        }
        let replaces = self.say(path, item, old, &read, &links);
        self.spread(path, &row, &read.xattrs, &links, replaces, item.since)?;
        if item.written && !item.closed {
            self.growing.begin(path, &row, read.content);
        }
        if !self.is_open() {
            self.trouble.settle(path);
        }
        Ok(Looked::Done)
    }

    /// Says what is at a path, in the cheapest words; true when the standby makes a new file of it.
    fn say(
        &mut self,
        path: &TreePath,
        item: &Item,
        old: Option<&Row>,
        read: &Content<'_>,
        links: &[(TreePath, Row)],
    ) -> bool {
        if !self.is_open() {
            return false;
        }
        let entry = read.entry;
        let body = match entry.kind {
            Kind::Dir => Body::Nothing,
            Kind::File | Kind::Symlink if self.is_kept(path, item, old, &entry) => Body::Kept,
            Kind::File | Kind::Symlink => match self.linked_to(path, item, &entry, links) {
                Some(other) => Body::Link(other.clone()),
                None => Body::Bytes(read.content),
            },
        };
        let packed = match body {
            Body::Bytes(content) if entry.kind == Kind::File => {
                self.packer.pack(content, self.settings.compress)
            }
            Body::Bytes(_) | Body::Nothing | Body::Kept | Body::Link(_) => None,
            Body::Packed(..) | Body::Parts => None,
        };
        let body = match &packed {
            Some(packed) => Body::Packed(read.content.len() as u32, packed),
            None => body,
        };
        let replaces = matches!(body, Body::Bytes(_) | Body::Packed(..));
        let deed = Deed::Put { path: path.clone(), entry, xattrs: read.xattrs.clone(), body };
        self.send(path, deed, Sent::Put(entry), item.since);
        replaces
    }

    /// Whether the standby has this content at this path already.
    pub(super) fn is_kept(
        &self,
        path: &TreePath,
        item: &Item,
        old: Option<&Row>,
        entry: &Entry,
    ) -> bool {
        match item.force {
            Force::Whole => false,
            Force::Say(content) => content == entry.content,
            Force::No => old.is_some_and(|row| {
                let had = &row.entry;
                (had.kind, had.size, had.content) == (entry.kind, entry.size, entry.content)
                    && self.is_known(path, row)
            }),
        }
    }

    /// Another name of the file under which the standby has this content.
    fn linked_to<'a>(
        &self,
        path: &TreePath,
        item: &Item,
        entry: &Entry,
        links: &'a [(TreePath, Row)],
    ) -> Option<&'a TreePath> {
        let is_whole = item.force == Force::Whole;
        if is_whole && self.trouble.was_refused(path) {
            return None;
        }
        let has = |(other, row): &&(TreePath, Row)| {
            let is_there =
                if is_whole { self.is_in_flight(other) } else { self.is_known(other, row) };
            row.entry.content == entry.content
                && row.entry.size == entry.size
                && is_there
                && !self.is_transferred(other)
        };
        links.iter().find(has).map(|(other, _)| other)
    }

    /// The other names of a file have changed with it.
    pub(super) fn spread(
        &mut self,
        path: &TreePath,
        row: &Row,
        xattrs: &Xattrs,
        links: &[(TreePath, Row)],
        replaces: bool,
        since: Instant,
    ) -> Result<(), IndexError> {
        for (other, theirs) in links {
            let is_same = theirs.entry == row.entry;
            if is_same && theirs.stamp == row.stamp && !replaces {
                continue;
            }
            self.index.put(other, &Row { shared: is_same && theirs.shared, ..*row })?;
            if is_same && !replaces {
                continue;
            }
            let body = if replaces { Body::Link(path.clone()) } else { Body::Kept };
            let xattrs = xattrs.clone();
            let deed = Deed::Put { path: other.clone(), entry: row.entry, xattrs, body };
            self.send(other, deed, Sent::Put(row.entry), since);
        }
        Ok(())
    }

    /// The other names of a file in this tree, as far as known.
    pub(super) fn links(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        stamp: &Stamp,
        nlink: u32,
    ) -> Result<Vec<(TreePath, Row)>, IndexError> {
        let mut links = Vec::new();
        if nlink < 2 || entry.kind == Kind::Dir {
            return Ok(links);
        }
        for other in self.index.by_inode(stamp.ino)? {
            if other == *path {
                continue;
            }
            if let Some(row) = self.index.get(&other)?
                && row.entry.kind == entry.kind
                && is_same_inode(&row.stamp, stamp)
            {
                links.push((other, row));
            }
        }
        Ok(links)
    }

    /// A name of a file is gone: its other names may be alone now.
    pub(super) fn look_at_links(
        &mut self,
        stamp: &Stamp,
        linked: bool,
        path: &TreePath,
        now: Instant,
    ) -> Result<(), IndexError> {
        if linked {
            for other in self.index.by_inode(stamp.ino)? {
                if other != *path {
                    self.due.add(other, Item::new(now), now);
                }
            }
        }
        Ok(())
    }

    /// Whether the folder of a path is in the index; puts it there first, if it can be.
    fn has_parent(&mut self, path: &TreePath, now: Instant) -> Result<bool, IndexError> {
        let mut missing = Vec::new();
        let mut above = path.parent();
        while let Some(dir) = above {
            if self.index.get(&dir)?.is_some_and(|row| row.entry.kind == Kind::Dir) {
                break;
            }
            above = dir.parent();
            missing.push(dir);
        }
        for dir in missing.into_iter().rev() {
            self.look(&dir, &Item { late: true, ..Item::new(now) }, None, now)?;
            if self.index.get(&dir)?.is_none_or(|row| row.entry.kind != Kind::Dir) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn absent(&mut self, path: &TreePath, item: &Item, now: Instant) -> Result<Looked, IndexError> {
        self.trouble.settle(path);
        self.cut_transfer(path);
        if path.is_root() {
            self.check_root(now);
        } else if self.index.get(path)?.is_some() {
            self.guard.add(path.clone(), None, item.since, now);
        } else if item.force != Force::No {
            // The standby has what was never here, or was taken out of the index before.
            self.guard.add(path.clone(), Some(1), item.since, now);
        }
        Ok(Looked::Done)
    }

    /// What is left out is no part of the tree, neither here nor there.
    fn leave_out(&mut self, path: &TreePath) -> Result<Looked, IndexError> {
        self.trouble.settle(path);
        if !path.is_root() && self.index.get(path)?.is_some() {
            self.index.remove(path)?;
        }
        Ok(Looked::Done)
    }

    pub(super) fn unreadable(
        &mut self,
        path: &TreePath,
        item: &Item,
        error: &io::Error,
        now: Instant,
    ) -> Looked {
        let what = format!("cannot be read: {error}");
        let trouble = Trouble::new(what, false, item.force, item.since);
        self.trouble.add(path.clone(), trouble, now);
        Looked::Done
    }

    fn changing(
        &mut self,
        path: &TreePath,
        item: &Item,
        old: Option<&Row>,
        now: Instant,
    ) -> Result<Looked, IndexError> {
        if item.tries < CHANGING_TRIES {
            let wait = CHANGING_WAIT * (1 << item.tries);
            let item = Item { tries: item.tries + 1, late: false, ..*item };
            return Ok(Looked::Changing(item, wait));
        }
        let again = Looked::Changing(Item { tries: 0, late: false, ..*item }, RESTLESS_WAIT);
        let read = match self.read_as_it_is(path) {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(again),
            Err(error) => return Ok(self.unreadable(path, item, &error, now)),
        };
        let (found, xattrs, content) = read;
        let read = Content {
            entry: entry_of(&found, digest::content(&content), &xattrs),
            stamp: found.stamp,
            racy: true,
            xattrs,
            content: &content,
            nlink: found.nlink,
            allocated: found.allocated,
        };
        self.whole(path, item, old, read, now)?;
        Ok(again)
    }

    /// A small file, whatever happens to it meanwhile. None when it is no small file.
    fn read_as_it_is(&self, path: &TreePath) -> io::Result<Option<(Found, Xattrs, Vec<u8>)>> {
        let Some((file, mut found)) = self.tree.open_file(path)? else { return Ok(None) };
        let xattrs = self.tree.xattrs(path)?;
        let mut content = Vec::new();
        (&file).take(INLINE_BYTES_MAX as u64 + 1).read_to_end(&mut content)?;
        found.size = content.len() as u64;
        Ok((content.len() <= INLINE_BYTES_MAX).then_some((found, xattrs, content)))
    }

    pub(super) fn note_written(&mut self, path: &TreePath, now: Instant) {
        if self.written.len() >= WRITTEN_MAX {
            self.written.retain(|_, at| now < *at + WRITTEN_INTERVAL);
            if self.written.len() >= WRITTEN_MAX {
                self.written.clear();
            }
        }
        self.written.insert(path.clone(), now);
    }
}

/// Whether a look would find nothing new.
pub(super) fn is_unchanged(row: &Row, found: &Found) -> bool {
    row.describes(found) && !row.racy && !(row.entry.linked && found.nlink == 1)
}

/// Whether a large file has another name than before, and seems to have nothing else that is new.
fn is_only_elsewhere(row: &Row, found: &Found) -> bool {
    row.entry.kind == Kind::File
        && found.kind == Some(Kind::File)
        && found.size > INLINE_BYTES_MAX as u64
        && !row.racy
        && (row.entry.size, row.entry.mtime_ns) == (found.size, found.mtime_ns)
}

/// Whether both are of the same file, under whatever name.
pub(super) fn is_same_inode(one: &Stamp, other: &Stamp) -> bool {
    (one.ino, one.btime_ns) == (other.ino, other.btime_ns)
}

/// The entry of a file that was found.
pub(super) fn entry_of(found: &Found, content: digest::Digest, xattrs: &Xattrs) -> Entry {
    Entry {
        kind: Kind::File,
        mode: found.mode,
        uid: found.uid,
        gid: found.gid,
        mtime_ns: found.mtime_ns,
        size: found.size,
        content,
        xattrs: xattrs.digest(),
        linked: false,
    }
}
