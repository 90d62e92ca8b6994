//! Files that grow: what was added is sent, and the digest of the whole costs no second reading.

use super::Lead;
use super::due::Item;
use super::look::is_same_inode;
use super::window::Sent;
use crate::digest::{self, Digest, SEGMENT_BYTES, Segments};
use crate::entry::{Entry, Found, Kind, Row, Stamp};
use crate::index::IndexError;
use crate::path::TreePath;
use crate::tree::SegmentReader;
use crate::wire::{Deed, INLINE_BYTES_MAX};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Instant;

/// Files whose digests are kept under way.
const FILES_MAX: usize = 1_024;
/// Files up to this size are read once to begin with; larger ones are compared with the standby's.
const BEGIN_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Shorter files are sent whole: they are replaced in one stroke.
const GROWN_FROM_BYTES: u64 = 1024;

/// What is known of a file that grows.
struct Grower {
    stamp: Stamp,
    content: Digest,
    /// All segments that are whole.
    whole: Segments,
    /// The last one that is not.
    tail: Vec<u8>,
    used: u64,
}

/// All of them, those least recently used forgotten.
#[derive(Default)]
pub(super) struct Growing {
    files: HashMap<TreePath, Grower>,
    clock: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grown {
    /// It did not only grow.
    No,
    /// Part of what was added was said.
    More,
    All,
}

impl Growing {
    /// A content that was read whole may be the beginning of one.
    pub(super) fn begin(&mut self, path: &TreePath, row: &Row, content: &[u8]) {
        if row.entry.kind != Kind::File || content.len() as u64 != row.entry.size {
            return;
        }
        let (segments, tail) = content.as_chunks::<SEGMENT_BYTES>();
        let mut whole = Segments::default();
        segments.iter().for_each(|segment| whole.push(digest::hash(segment)));
        self.remember(path, row, whole, tail.to_vec());
    }

    pub(super) fn remember(&mut self, path: &TreePath, row: &Row, whole: Segments, tail: Vec<u8>) {
        let size = whole.count() * SEGMENT_BYTES as u64 + tail.len() as u64;
        if size != row.entry.size || tail.len() >= SEGMENT_BYTES {
            self.files.remove(path);
            return;
        }
        if self.files.len() >= FILES_MAX && !self.files.contains_key(path) {
            let mut used: Vec<u64> = self.files.values().map(|file| file.used).collect();
            let (_, middle, _) = used.select_nth_unstable(FILES_MAX / 2);
            let middle = *middle;
            self.files.retain(|_, file| file.used > middle);
        }
        self.clock += 1;
        let (stamp, content, used) = (row.stamp, row.entry.content, self.clock);
        self.files.insert(path.clone(), Grower { stamp, content, whole, tail, used });
    }

    pub(super) fn forget(&mut self, path: &TreePath) {
        self.files.remove(path);
    }

    pub(super) fn moved(&mut self, from: &TreePath, to: &TreePath) {
        let below: Vec<TreePath> =
            self.files.keys().filter(|path| path.is_within(from)).cloned().collect();
        for path in below {
            if let (Some(file), Some(path)) = (self.files.remove(&path), path.moved(from, to)) {
                self.files.insert(path, file);
            }
        }
    }

    fn take(&mut self, path: &TreePath, row: &Row) -> Option<(Segments, Vec<u8>)> {
        let file = self.files.remove(path)?;
        let is_of_row = is_same_inode(&file.stamp, &row.stamp) && file.content == row.entry.content;
        is_of_row.then_some((file.whole, file.tail))
    }
}

impl Lead {
    /// Says what was added to a file, if nothing else changed in it as far as that is known.
    pub(super) fn grow(
        &mut self,
        path: &TreePath,
        item: &Item,
        old: Option<&Row>,
        found: &Found,
        now: Instant,
    ) -> Result<Grown, IndexError> {
        let Some(row) = old.filter(|row| self.may_grow(path, row, found)) else {
            return Ok(Grown::No);
        };
        let Ok(Some((file, found))) = self.tree.open_file(path) else { return Ok(Grown::No) };
        if !is_same_inode(&found.stamp, &row.stamp) || found.size <= row.entry.size {
            return Ok(Grown::No);
        }
        let begun = match self.growing.take(path, row) {
            Some(begun) => begun,
            None if row.entry.size > BEGIN_BYTES_MAX => return Ok(Grown::No),
            None => match read_begun(&file, &row.entry) {
                Ok(Some(begun)) => begun,
                Ok(None) | Err(_) => return Ok(Grown::No),
            },
        };
        let (mut whole, tail) = begun;
        let added = (found.size - row.entry.size).min(INLINE_BYTES_MAX as u64);
        let mut bytes = vec![0; tail.len() + added as usize];
        let at = whole.count() * SEGMENT_BYTES as u64;
        if file.read_exact_at(&mut bytes, at).is_err() || bytes[..tail.len()] != *tail {
            return Ok(Grown::No);
        }
        let (segments, rest) = bytes.as_chunks::<SEGMENT_BYTES>();
        segments.iter().for_each(|segment| whole.push(digest::hash(segment)));
        let mut all = whole.clone();
        if !rest.is_empty() {
            all.push(digest::hash(rest));
        }
        let size = row.entry.size + added;
        let entry = Entry {
            size,
            content: all.digest(),
            mode: found.mode,
            uid: found.uid,
            gid: found.gid,
            mtime_ns: found.mtime_ns,
            ..row.entry
        };
        // Another addition could hide behind the same times: a scan looks again.
        let new = Row { entry, stamp: found.stamp, racy: true, shared: false };
        self.index.put(path, &new)?;
        let (path_, offset, added) = (path.clone(), row.entry.size, &bytes[tail.len()..]);
        let deed = Deed::Append { path: path_, entry, offset, bytes: added };
        self.send(path, deed, Sent::Put(entry), item.since);
        self.growing.remember(path, &new, whole, rest.to_vec());
        if entry.linked
            && let Ok(xattrs) = self.tree.xattrs(path)
        {
            let links = self.links(path, &entry, &new.stamp, found.nlink)?;
            self.spread(path, &new, &xattrs, &links, false, item.since)?;
        }
        self.note_written(path, now);
        Ok(if size < found.size { Grown::More } else { Grown::All })
    }

    fn may_grow(&self, path: &TreePath, row: &Row, found: &Found) -> bool {
        self.settings.grow
            && row.entry.kind == Kind::File
            && row.entry.size >= GROWN_FROM_BYTES
            && found.size > row.entry.size
            && is_same_inode(&row.stamp, &found.stamp)
            && !self.transfers.iter().any(|transfer| transfer.path() == path)
            && (!self.is_open() || self.is_known(path, row))
    }
}

/// The digests under way of what a row says that a file began with; none when it does not.
fn read_begun(file: &File, entry: &Entry) -> io::Result<Option<(Segments, Vec<u8>)>> {
    let mut reader = SegmentReader::new(entry.size, 0);
    let (mut whole, mut all) = (Segments::default(), Segments::default());
    let mut tail = Vec::new();
    let rest = (entry.size % SEGMENT_BYTES as u64) as usize;
    let last = entry.size / SEGMENT_BYTES as u64;
    while let Some(segment) = reader.next(file)? {
        all.push(segment.hash);
        if segment.number < last {
            whole.push(segment.hash);
        } else {
            tail = segment.bytes.map_or_else(|| vec![0; rest], <[u8]>::to_vec);
        }
    }
    Ok((all.digest() == entry.content).then_some((whole, tail)))
}
