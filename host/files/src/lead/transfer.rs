//! Large files: read in slices, and sent in parts where a standby takes them.

use super::Lead;
use super::due::{Force, Item};
use super::look::{Content, Looked, is_same_inode};
use super::parts::{self, Fate, Parts};
use super::window::LeadError;
use crate::digest::{self, SEGMENT_BYTES, Segments};
use crate::entry::{Entry, Row, Stamp, Xattrs};
use crate::index::IndexError;
use crate::path::TreePath;
use crate::tree::{self, SegmentReader};
use crate::wire::{self, End, Message, PART_BYTES_MAX, PART_HEAD_BYTES, Part};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Files under way at a time.
const TRANSFERS_MAX: usize = 4;
const BUSY_WAIT: Duration = Duration::from_millis(5);
/// What the standby has nothing of goes at once, up to this size; larger ones may have been begun
/// by an earlier connection.
const AT_ONCE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// A file that changed while it was sent is sent again after this, twice that, and so on.
const RESTLESS_MIN: Duration = Duration::from_secs(1);
const RESTLESS_MAX: Duration = Duration::from_secs(30);
const RESTLESS_FILES_MAX: usize = 1_024;

/// A large file that is being read.
pub(super) struct Transfer {
    path: TreePath,
    item: Item,
    file: File,
    /// As of the beginning; the content is known at the end.
    entry: Entry,
    stamp: Stamp,
    racy: bool,
    xattrs: Xattrs,
    nlink: u32,
    reader: SegmentReader,
    next: u64,
    segments: Segments,
    /// All before a last segment that is not whole, and that.
    tail: Option<(Segments, Vec<u8>)>,
    is_read: bool,
    /// None: it is only read, to know its digest.
    parts: Option<Parts>,
}

/// How far a transfer came in its slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Working,
    Waiting,
    Ended,
}

impl Transfer {
    pub(super) fn seq(&self) -> Option<u64> {
        self.parts.as_ref().map(|parts| parts.seq)
    }

    pub(super) fn path(&self) -> &TreePath {
        &self.path
    }

    pub(super) fn since(&self) -> Instant {
        self.item.since
    }

    /// Bytes still to be read.
    pub(super) fn left(&self) -> u64 {
        self.entry.size.saturating_sub(self.next * SEGMENT_BYTES as u64)
    }
}

impl Lead {
    /// Begins to read a large file.
    pub(super) fn large(
        &mut self,
        path: &TreePath,
        item: &Item,
        old: Option<&Row>,
        read: Content<'_>,
        file: File,
        now: Instant,
    ) -> Result<Looked, IndexError> {
        if let Some(at) = self.transfers.iter().position(|transfer| transfer.path == *path) {
            let transfer = &mut self.transfers[at];
            let is_enough = item.force == Force::No || transfer.parts.is_some();
            if is_same_inode(&transfer.stamp, &read.stamp) && is_enough {
                // Its end finds that it changed meanwhile.
                transfer.item.closed |= item.closed;
                return Ok(Looked::Done);
            }
            self.cut_transfer(path);
        }
        if let Some((until, _)) = self.restless.get(path)
            && *until > now
            && item.force == Force::No
            && !item.closed
        {
            return Ok(Looked::Later(*until - now));
        }
        if self.transfers.len() >= TRANSFERS_MAX {
            return Ok(Looked::Later(BUSY_WAIT));
        }
        let is_known = old.is_some_and(|row| self.is_known(path, row));
        let is_same = old.is_some_and(|row| {
            let had = &row.entry;
            (had.size, had.mtime_ns) == (read.entry.size, read.entry.mtime_ns)
        });
        let sends = self.is_open()
            && match item.force {
                Force::Whole => true,
                // Perhaps the content is what the standby has: then it need not be sent.
                Force::Say(_) => false,
                Force::No => !(is_known && is_same),
            };
        let size = read.entry.size;
        let parts = if sends {
            let is_whole = read.allocated >= size;
            let waits =
                is_known || item.force != Force::No || size > AT_ONCE_BYTES_MAX || !is_whole;
            let packs = self.settings.compress && self.packer.pays(&sample(&file));
            let sent = self.send_parts(path, read.entry, read.xattrs.clone(), item.since);
            sent.map(|seq| Parts::new(seq, size, waits, packs))
        } else {
            None
        };
        self.transfers.push(Transfer {
            path: path.clone(),
            item: *item,
            file,
            entry: read.entry,
            stamp: read.stamp,
            racy: read.racy,
            xattrs: read.xattrs,
            nlink: read.nlink,
            reader: SegmentReader::new(size, 0),
            next: 0,
            segments: Segments::default(),
            tail: None,
            is_read: false,
            parts,
        });
        Ok(Looked::Done)
    }

    /// Every transfer in its turn, for at most one part each while a standby waits for smaller
    /// things, too.
    pub(super) fn transfer(&mut self, now: Instant, until: Instant) -> Result<bool, IndexError> {
        let room = self.room;
        let mut more = !self.transfers.is_empty();
        while more && Instant::now() < until && self.room == room {
            more = false;
            for _ in 0..self.transfers.len() {
                let mut transfer = self.transfers.remove(0);
                match self.advance(&mut transfer, until) {
                    Ok(Progress::Ended) => self.end_transfer(transfer, now)?,
                    Ok(progress) => {
                        more |= progress == Progress::Working;
                        self.transfers.push(transfer);
                    }
                    Err(error) => self.break_transfer(&transfer, &error, now),
                }
            }
        }
        Ok(more)
    }

    fn advance(&mut self, transfer: &mut Transfer, until: Instant) -> io::Result<Progress> {
        let room = self.room;
        loop {
            if let Some(parts) = &mut transfer.parts {
                if self.room < PART_BYTES_MAX + 64 * 1024 {
                    return Ok(Progress::Waiting);
                }
                if room - self.room >= PART_BYTES_MAX {
                    return Ok(Progress::Working);
                }
                if let Some((segment, theirs)) = parts.answer() {
                    self.send_blocks(transfer, segment, &theirs)?;
                    continue;
                }
            }
            if Instant::now() >= until {
                return Ok(Progress::Working);
            }
            if !transfer.is_read {
                if transfer.parts.as_ref().is_some_and(|parts| parts.must_wait(transfer.next)) {
                    self.send_part(transfer);
                    self.ask(transfer, false);
                    return Ok(Progress::Waiting);
                }
                self.read_segment(transfer)?;
                continue;
            }
            self.send_part(transfer);
            self.ask(transfer, true);
            let is_done = transfer.parts.as_ref().is_none_or(Parts::is_answered);
            return Ok(if is_done { Progress::Ended } else { Progress::Waiting });
        }
    }

    fn read_segment(&mut self, transfer: &mut Transfer) -> io::Result<()> {
        let at = transfer.next * SEGMENT_BYTES as u64;
        let Some(segment) = transfer.reader.next(&transfer.file)? else {
            transfer.is_read = true;
            return Ok(());
        };
        let count = transfer.entry.size.saturating_sub(at).min(SEGMENT_BYTES as u64) as usize;
        if let Some(bytes) = segment.bytes
            && count < SEGMENT_BYTES
        {
            transfer.tail = Some((transfer.segments.clone(), bytes.to_vec()));
        }
        transfer.segments.push(segment.hash);
        transfer.next += 1;
        let Some(parts) = &mut transfer.parts else { return Ok(()) };
        match parts.judge(segment.number, segment.hash, segment.bytes.is_none()) {
            Fate::Skip => {}
            Fate::Ask => {
                parts.ask_for(segment.number);
                self.ask(transfer, false);
            }
            Fate::Send if parts.continues(at, count) => parts.put(at, segment.bytes, count),
            Fate::Send => {
                let full = std::mem::take(&mut parts.part);
                let (seq, from, packs) = (parts.seq, parts.part_at, parts.packs);
                parts.put(at, segment.bytes, count);
                self.push_part(seq, from, &full, packs);
            }
        }
        Ok(())
    }

    /// Sends what has gathered.
    fn send_part(&mut self, transfer: &mut Transfer) {
        if let Some(parts) = &mut transfer.parts
            && !parts.part.is_empty()
        {
            let full = std::mem::take(&mut parts.part);
            let (seq, at, packs) = (parts.seq, parts.part_at, parts.packs);
            self.push_part(seq, at, &full, packs);
        }
    }

    fn push_part(&mut self, seq: u64, offset: u64, bytes: &[u8], packs: bool) {
        let Some(id) = self.link.as_ref().map(|link| link.id) else { return };
        let packed = if packs { self.packer.compress(bytes) } else { None };
        let packed = packed.filter(|packed| packed.len() < bytes.len());
        let is_packed = packed.is_some();
        let body = packed.as_deref().unwrap_or(bytes);
        let part = Part { id, seq, offset, bytes: bytes.len() as u32, packed: is_packed };
        let mut frame = Vec::with_capacity(PART_HEAD_BYTES + body.len());
        frame.extend_from_slice(&part.encode());
        frame.extend_from_slice(body);
        self.push(frame);
    }

    fn ask(&mut self, transfer: &mut Transfer, is_last: bool) {
        let Some(id) = self.link.as_ref().map(|link| link.id) else { return };
        let Some(parts) = &mut transfer.parts else { return };
        while let Some(segments) = parts.question(is_last) {
            let frame = wire::message(&Message::Blocks(id, parts.seq, segments));
            self.push(frame);
        }
    }

    /// Sends the blocks of a segment that the standby does not have.
    fn send_blocks(
        &mut self,
        transfer: &mut Transfer,
        segment: u32,
        theirs: &[[u8; 16]],
    ) -> io::Result<()> {
        let Some(parts) = &mut transfer.parts else { return Ok(()) };
        let at = u64::from(segment) * SEGMENT_BYTES as u64;
        let count = transfer.entry.size.saturating_sub(at).min(SEGMENT_BYTES as u64);
        let mut bytes = vec![0; count as usize];
        transfer.file.read_exact_at(&mut bytes, at)?;
        if !parts.read_again(segment, digest::hash(&bytes)) {
            transfer.tail = None;
        }
        let (seq, packs) = (parts.seq, parts.packs);
        for range in parts::differing(&bytes, theirs) {
            self.push_part(seq, at + range.start as u64, &bytes[range], packs);
        }
        Ok(())
    }

    /// All was read, and sent where it is sent.
    fn end_transfer(&mut self, transfer: Transfer, now: Instant) -> Result<(), IndexError> {
        let sent = transfer.parts.as_ref().and_then(Parts::digest);
        let content = sent.unwrap_or_else(|| transfer.segments.digest());
        let (path, item, stamp) = (transfer.path.clone(), transfer.item, transfer.stamp);
        let mut entry = transfer.entry;
        let there = self.tree.stat(&path).ok().flatten();
        if there.is_none_or(|there| !is_same_inode(&there.stamp, &stamp)) {
            self.drop_seq(transfer.parts.as_ref());
            self.due.add(path, item, now);
            return Ok(());
        }
        let is_still = tree::found(&transfer.file).is_ok_and(|found| {
            (found.stamp, found.mtime_ns, found.size) == (stamp, entry.mtime_ns, entry.size)
        });
        entry.content = content;
        let old = self.index.get(&path)?;
        let Some(parts) = &transfer.parts else {
            self.end_reading(transfer, old, content, is_still, now)?;
            return Ok(());
        };
        let links = self.links(&path, &entry, &stamp, transfer.nlink)?;
        entry.linked = !links.is_empty();
        let racy = transfer.racy || !is_still;
        let shared = old.is_some_and(|row| row.shared && row.entry == entry);
        let row = Row { entry, stamp, racy, shared };
        self.index.put(&path, &row)?;
        if let Some(id) = self.link.as_ref().map(|link| link.id) {
            let (seq, xattrs) = (parts.seq, transfer.xattrs.clone());
            self.push(wire::end(&End { id, seq, entry, xattrs }));
            self.parts_ended(seq, entry);
        }
        self.spread(&path, &row, &transfer.xattrs, &links, true, item.since)?;
        if old.is_none()
            && let Some(parent) = path.parent()
        {
            self.refresh(parent, now);
        }
        if let Some((segments, tail)) = transfer.tail {
            self.growing.remember(&path, &row, segments, tail);
        } else if sent.is_none() {
            self.growing.remember(&path, &row, transfer.segments, Vec::new());
        }
        self.rest(path, item, is_still, now);
        Ok(())
    }

    /// It was read to know its digest alone.
    fn end_reading(
        &mut self,
        transfer: Transfer,
        old: Option<Row>,
        content: digest::Digest,
        is_still: bool,
        now: Instant,
    ) -> Result<(), IndexError> {
        let Transfer { path, item, stamp, racy, xattrs, entry, nlink, .. } = transfer;
        let entry = Entry { content, ..entry };
        let is_open = self.is_open();
        if is_open && !self.is_kept(&path, &item, old.as_ref(), &entry) {
            let item = Item { force: Force::Whole, ..item };
            self.due.add(path, item, now);
            return Ok(());
        }
        let racy = racy || !is_still;
        let (content, allocated) = ([].as_slice(), entry.size);
        let read = Content { entry, stamp, racy, xattrs, content, nlink, allocated };
        self.whole(&path, &Item { written: false, ..item }, old.as_ref(), read, now)?;
        if let (Some((segments, tail)), Some(row)) = (transfer.tail, self.index.get(&path)?) {
            self.growing.remember(&path, &row, segments, tail);
        }
        self.rest(path, item, is_still, now);
        Ok(())
    }

    /// A file that changed while it was read is read again, but not at once.
    fn rest(&mut self, path: TreePath, item: Item, is_still: bool, now: Instant) {
        if is_still {
            self.restless.remove(&path);
            return;
        }
        if self.restless.len() >= RESTLESS_FILES_MAX {
            self.restless.clear();
        }
        let wait = self.restless.get(&path).map_or(RESTLESS_MIN, |(_, wait)| *wait * 2);
        let wait = wait.min(RESTLESS_MAX);
        let again = Item { force: Force::No, late: false, ..item };
        let due = if item.closed { now } else { now + wait };
        self.restless.insert(path.clone(), (due, wait));
        self.due.add(path, again, due);
    }

    fn break_transfer(&mut self, transfer: &Transfer, error: &io::Error, now: Instant) {
        self.drop_seq(transfer.parts.as_ref());
        let Transfer { path, item, .. } = transfer;
        if error.kind() == io::ErrorKind::UnexpectedEof {
            self.rest(path.clone(), *item, false, now);
        } else {
            self.unreadable(path, item, error, now);
        }
    }

    fn drop_seq(&mut self, parts: Option<&Parts>) {
        if let Some(parts) = parts {
            self.drop_parts(parts.seq);
        }
    }

    /// Something else is at the path.
    pub(super) fn cut_transfer(&mut self, path: &TreePath) {
        if self.transfers.is_empty() {
            return;
        }
        if let Some(at) = self.transfers.iter().position(|transfer| transfer.path == *path) {
            let transfer = self.transfers.remove(at);
            self.drop_seq(transfer.parts.as_ref());
        }
    }

    /// What is below a path moves away, or is gone.
    pub(super) fn cut_transfers_within(&mut self, path: &TreePath, now: Instant) {
        while let Some(at) = self.transfers.iter().position(|one| one.path.is_within(path)) {
            let transfer = self.transfers.remove(at);
            self.drop_seq(transfer.parts.as_ref());
            self.due.add(transfer.path, transfer.item, now);
        }
    }

    /// Nobody takes parts any more.
    pub(super) fn cut_transfers(&mut self) {
        let now = Instant::now();
        let (cut, kept) = std::mem::take(&mut self.transfers)
            .into_iter()
            .partition(|transfer: &Transfer| transfer.parts.is_some());
        self.transfers = kept;
        for Transfer { path, item, .. } in cut {
            self.due.add(path, Item { force: Force::No, ..item }, now);
        }
    }

    pub(super) fn is_transferred(&self, path: &TreePath) -> bool {
        self.transfers.iter().any(|transfer| transfer.path == *path && transfer.parts.is_some())
    }

    /// What the standby can begin from, for a step with parts.
    pub(crate) fn base(
        &mut self,
        seq: u64,
        size: u64,
        hashes: &[u8],
        last: bool,
    ) -> Result<(), LeadError> {
        match self.parts_of(seq) {
            Some(parts) if parts.waits => parts.base.hear(size, hashes, last).map_err(LeadError),
            Some(_) | None => Ok(()),
        }
    }

    /// Hashes of blocks that were asked for.
    pub(crate) fn block_hashes(
        &mut self,
        seq: u64,
        segments: &[u32],
        hashes: &[u8],
    ) -> Result<(), LeadError> {
        match self.parts_of(seq) {
            Some(parts) => parts.hear_blocks(segments, hashes).map_err(LeadError),
            None => Ok(()),
        }
    }

    fn parts_of(&mut self, seq: u64) -> Option<&mut Parts> {
        let mut parts = self.transfers.iter_mut().filter_map(|transfer| transfer.parts.as_mut());
        parts.find(|parts| parts.seq == seq)
    }
}

/// The beginning of a file.
fn sample(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; 4 * 1024];
    let read = file.read_at(&mut bytes, 0).unwrap_or(0);
    bytes.truncate(read);
    bytes
}
