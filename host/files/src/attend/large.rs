//! Large files: begun from what is here already, patched by parts, verified at their end.
//!
//! All is written to a file of `part/`, which survives a lost connection: what arrived once is the
//! base of the next attempt. What readers see changes with the step that ends it, at once.

use super::deed::Ready;
use super::read::Reading;
use super::trouble::{AttendError, Fault, refusal, text, unpack};
use super::{Attend, OUT_BYTES_MAX};
use crate::digest::{self, BLOCKS, Digest, SEGMENT_BYTES, Segments};
use crate::entry::{Found, Kind};
use crate::path::TreePath;
use crate::tree::{SegmentReader, Temp};
use crate::wire::{self, BASE_SEGMENTS_MAX, End, Message, Part, Refusal};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;
use std::time::Instant;

/// Large files that may be under way at a time.
pub(super) const LARGE_MAX: usize = 4;
/// With those that are being verified.
const LARGE_ALIVE_MAX: usize = 2 * LARGE_MAX;
/// No part may lie beyond this: 16 TiB.
pub(super) const LARGE_BYTES_MAX: u64 = 1 << 44;
/// The hashes of longer files are not kept: they are read again at the end.
const HASHED_BYTES_MAX: u64 = 4 << 30;
/// Less is not worth to be kept for another connection.
const KEEP_BYTES_MIN: u64 = 1024 * 1024;
/// The disk begins to write what arrived after so much of it.
const WRITE_OUT_BYTES: u64 = 8 * 1024 * 1024;
/// Copied in one go.
const COPY_BYTES: u64 = 1024 * 1024;
/// Segments that are hashed in one go.
const SEGMENTS_PER_TURN: usize = 16;

static ZEROS: LazyLock<Digest> = LazyLock::new(|| digest::hash(&[0; SEGMENT_BYTES]));

/// What it is at.
enum State {
    /// What is at the path is copied: from, its size, and how much is done.
    Copying(File, u64, u64),
    /// The primary is told what is here.
    Telling(SegmentReader, Vec<u8>),
    /// Parts are welcome.
    Open,
    /// All parts are here: segments that must be read again are, or the whole file.
    Ending(Box<End>, Option<Box<Reading>>),
}

/// Hashes of blocks that the primary asked for.
struct Asked {
    segments: Vec<u32>,
    next: usize,
    hashes: Vec<u8>,
}

/// A large file under way.
pub(super) struct Large {
    pub path: TreePath,
    temp: Temp,
    /// Bytes of it now, zeros at its end included that are not on the disk yet.
    size: u64,
    /// Bytes of the base.
    base: u64,
    /// Of each segment; none for a file that is too long.
    hashes: Option<Vec<Digest>>,
    /// Segments whose hash is not that.
    stale: BTreeSet<u64>,
    state: State,
    asked: VecDeque<Asked>,
    /// Bytes that were written since the disk was last told to begin with them.
    unsent: u64,
}

/// What came of one go.
enum Gone {
    /// There is more to do.
    On,
    Waits,
    Verified,
    Damaged,
}

impl Large {
    pub(super) fn is_ending(&self) -> bool {
        matches!(self.state, State::Ending(..))
    }

    /// What the answers that wait will cost.
    pub(super) fn asked_bytes(&self) -> usize {
        self.asked.iter().map(|asked| asked.segments.len() * (BLOCKS * 16 + 4)).sum()
    }

    /// Its connection is gone, or it will not be ended.
    pub(super) fn leave(self) {
        let _ = self.temp.file.set_len(self.size);
        if self.size > KEEP_BYTES_MIN {
            self.temp.keep();
        }
    }

    /// Zeros follow what there is.
    fn grow_to(&mut self, size: u64) {
        if size <= self.size {
            return;
        }
        let segment = SEGMENT_BYTES as u64;
        if size > HASHED_BYTES_MAX {
            self.hashes = None;
            self.stale.clear();
        }
        if let Some(hashes) = &mut self.hashes {
            if !self.size.is_multiple_of(segment) {
                self.stale.insert(self.size / segment);
            }
            hashes.resize(size.div_ceil(segment) as usize, *ZEROS);
            if !size.is_multiple_of(segment) {
                self.stale.insert(size / segment);
            }
        }
        self.size = size;
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let segment = SEGMENT_BYTES as u64;
        let end = offset + bytes.len() as u64;
        // Beyond the end zeros are there without being written.
        if offset < self.size || bytes.iter().any(|byte| *byte != 0) {
            self.temp.file.write_all_at(bytes, offset)?;
            self.unsent += bytes.len() as u64;
            if self.unsent >= WRITE_OUT_BYTES {
                self.unsent = 0;
                write_out(&self.temp.file);
            }
        }
        self.grow_to(end);
        let Some(hashes) = &mut self.hashes else { return Ok(()) };
        for number in offset / segment..end.div_ceil(segment) {
            let first = number * segment;
            let last = (first + segment).min(self.size);
            if offset <= first && last <= end {
                let whole = &bytes[(first - offset) as usize..(last - offset) as usize];
                hashes[number as usize] = digest::hash(whole);
                self.stale.remove(&number);
            } else {
                self.stale.insert(number);
            }
        }
        Ok(())
    }

    /// All parts are here: it gets its size.
    fn end(&mut self, end: End) -> io::Result<()> {
        let size = end.entry.size;
        if size < self.size
            && let Some(hashes) = &mut self.hashes
        {
            let segment = SEGMENT_BYTES as u64;
            hashes.truncate(size.div_ceil(segment) as usize);
            self.stale.retain(|number| number * segment < size);
            if !size.is_multiple_of(segment) {
                self.stale.insert(size / segment);
            }
            self.size = size;
        }
        self.grow_to(size);
        self.size = size;
        self.temp.file.set_len(size)?;
        let whole = match self.hashes {
            Some(_) => None,
            None => Some(Box::new(Reading::new(self.temp.file.try_clone()?, size))),
        };
        self.state = State::Ending(Box::new(end), whole);
        Ok(())
    }

    fn go_on(
        &mut self,
        id: u32,
        seq: u64,
        until: Instant,
        out: &mut Vec<Vec<u8>>,
    ) -> io::Result<Gone> {
        match &mut self.state {
            State::Copying(source, size, done) => {
                *done = copy(source, &self.temp.file, *size, *done)?;
                if *done < *size {
                    return Ok(Gone::On);
                }
                self.temp.file.set_len(*size)?;
                self.state = State::Telling(SegmentReader::new(*size, 0), Vec::new());
                Ok(Gone::On)
            }
            State::Telling(..) => {
                self.tell(id, seq, out)?;
                Ok(Gone::On)
            }
            State::Open if self.asked.is_empty() => Ok(Gone::Waits),
            State::Open => {
                self.answer(id, seq, out)?;
                Ok(Gone::On)
            }
            State::Ending(end, Some(reading)) => {
                if !reading.go_on(until)? {
                    return Ok(Gone::On);
                }
                let is_same = reading.digest() == end.entry.content;
                Ok(if is_same { Gone::Verified } else { Gone::Damaged })
            }
            State::Ending(..) => self.verify(),
        }
    }

    /// Tells the hashes of the base, a frame at a time.
    fn tell(&mut self, id: u32, seq: u64, out: &mut Vec<Vec<u8>>) -> io::Result<()> {
        let State::Telling(reader, frame) = &mut self.state else { return Ok(()) };
        let mut is_last = false;
        for _ in 0..SEGMENTS_PER_TURN {
            let Some(segment) = reader.next(&self.temp.file)? else {
                is_last = true;
                break;
            };
            frame.extend_from_slice(&segment.hash.0);
            if let Some(hashes) = &mut self.hashes {
                hashes.push(segment.hash);
            }
            if frame.len() == BASE_SEGMENTS_MAX * 32 {
                break;
            }
        }
        if is_last || frame.len() == BASE_SEGMENTS_MAX * 32 {
            let hashes = std::mem::take(frame);
            let base = Message::Base { id, seq, size: self.base, hashes, last: is_last };
            out.push(wire::message(&base));
        }
        if is_last {
            self.state = State::Open;
        }
        Ok(())
    }

    /// Answers what the primary asked for, some segments at a time.
    fn answer(&mut self, id: u32, seq: u64, out: &mut Vec<Vec<u8>>) -> io::Result<()> {
        let Some(asked) = self.asked.front_mut() else { return Ok(()) };
        let mut bytes = vec![0; SEGMENT_BYTES];
        let end = asked.segments.len().min(asked.next + SEGMENTS_PER_TURN);
        for number in &asked.segments[asked.next..end] {
            let first = u64::from(*number) * SEGMENT_BYTES as u64;
            let length = self.base.saturating_sub(first).min(SEGMENT_BYTES as u64) as usize;
            read_zeros_beyond(&self.temp.file, &mut bytes[..length], first)?;
            asked.hashes.extend(digest::blocks(&bytes[..length]).flatten());
        }
        asked.next = end;
        if end == asked.segments.len()
            && let Some(Asked { segments, hashes, .. }) = self.asked.pop_front()
        {
            out.push(wire::message(&Message::BlockHashes { id, seq, segments, hashes }));
        }
        Ok(())
    }

    /// Reads segments again that parts changed in places, and then compares the whole.
    fn verify(&mut self) -> io::Result<Gone> {
        let (State::Ending(end, _), Some(hashes)) = (&self.state, &mut self.hashes) else {
            return Ok(Gone::Damaged);
        };
        let mut bytes = vec![0; SEGMENT_BYTES];
        for _ in 0..SEGMENTS_PER_TURN {
            let Some(number) = self.stale.pop_first() else {
                let mut segments = Segments::default();
                hashes.iter().for_each(|hash| segments.push(*hash));
                let is_same = segments.digest() == end.entry.content;
                return Ok(if is_same { Gone::Verified } else { Gone::Damaged });
            };
            let first = number * SEGMENT_BYTES as u64;
            let length = self.size.saturating_sub(first).min(SEGMENT_BYTES as u64) as usize;
            self.temp.file.read_exact_at(&mut bytes[..length], first)?;
            if let Some(hash) = hashes.get_mut(number as usize) {
                *hash = digest::hash(&bytes[..length]);
            }
        }
        Ok(Gone::On)
    }
}

impl Attend {
    /// Finds out what there is to begin from: false when that must wait.
    pub(super) fn begin_large(
        &mut self,
        seq: u64,
        path: &TreePath,
        now: Instant,
    ) -> Result<bool, Fault> {
        let groups = [&self.gathering, &self.current];
        let is_held = groups.into_iter().flatten().any(|group| group.holds(path));
        if is_held || self.larges.len() >= LARGE_ALIVE_MAX {
            return Ok(false);
        }
        // Begun once more: what was begun before will not be ended.
        let former = self.larges.iter().find(|(_, large)| large.path == *path);
        if let Some(former) = former.map(|(seq, _)| *seq)
            && let Some(large) = self.larges.remove(&former)
        {
            large.leave();
        }
        match self.base(path) {
            Ok(large) => {
                self.larges.insert(seq, large);
            }
            Err(error) => self.refuse_large(seq, path, &error, now),
        }
        Ok(true)
    }

    fn base(&self, path: &TreePath) -> io::Result<Large> {
        let tree = &self.ground.tree;
        let temp = tree.part(&part_name(path))?;
        let left: Found = temp.found()?;
        let (base, state) = if left.size > 0 {
            (left.size, State::Telling(SegmentReader::new(left.size, 0), Vec::new()))
        } else {
            match tree.open_file(path)? {
                Some((file, found)) if found.kind == Some(Kind::File) && found.size > 0 => {
                    let done = match rustix::fs::ioctl_ficlone(&temp.file, &file) {
                        Ok(()) => found.size,
                        Err(_) => 0,
                    };
                    (found.size, State::Copying(file, found.size, done))
                }
                Some(_) | None => (0, State::Telling(SegmentReader::new(0, 0), Vec::new())),
            }
        };
        let hashes = (base <= HASHED_BYTES_MAX).then(Vec::new);
        let (stale, asked) = (BTreeSet::new(), VecDeque::new());
        let path = path.clone();
        Ok(Large { path, temp, size: base, base, hashes, stale, state, asked, unsent: 0 })
    }

    /// Whether parts can be taken now; what is not there any more takes nothing.
    pub(super) fn large_is_open(&self, seq: u64) -> bool {
        self.larges
            .get(&seq)
            .is_none_or(|large| matches!(large.state, State::Open) && large.asked.is_empty())
    }

    pub(super) fn write_part(&mut self, part: Part, bytes: &[u8], now: Instant) {
        let Some(large) = self.larges.get_mut(&part.seq) else { return };
        let unpacked = part.packed.then(|| unpack(bytes, part.bytes as usize));
        let written = match &unpacked {
            None => large.write(part.offset, bytes),
            Some(Some(bytes)) => large.write(part.offset, bytes),
            Some(None) => {
                let Some(large) = self.larges.remove(&part.seq) else { return };
                self.add(part.seq, Ready::Refused(large.path, Refusal::Damaged), 0, now);
                return;
            }
        };
        if let Err(error) = written
            && let Some(large) = self.larges.remove(&part.seq)
        {
            self.refuse_large(part.seq, &large.path, &error, now);
        }
    }

    pub(super) fn end_large(&mut self, end: End, now: Instant) {
        let seq = end.seq;
        let Some(large) = self.larges.get_mut(&seq) else { return };
        let fits = end.entry.kind == Kind::File
            && end.entry.size <= LARGE_BYTES_MAX
            && end.xattrs.digest() == end.entry.xattrs;
        let ended = if fits { large.end(end) } else { Err(Errno::FBIG.into()) };
        if let Err(error) = ended
            && let Some(large) = self.larges.remove(&seq)
        {
            self.refuse_large(seq, &large.path, &error, now);
        }
    }

    fn refuse_large(&mut self, seq: u64, path: &TreePath, error: &io::Error, now: Instant) {
        self.ground.counters.trouble = Some(text(path, error));
        self.add(seq, Ready::Refused(path.clone(), refusal(path, error)), 0, now);
    }

    /// One go at each large file: true when more can be done now.
    pub(super) fn larges_go_on(
        &mut self,
        now: Instant,
        until: Instant,
        out: &mut Vec<Vec<u8>>,
    ) -> bool {
        let Some(id) = self.id else { return false };
        let mut is_more = false;
        let numbers: Vec<u64> = self.larges.keys().copied().collect();
        for seq in numbers {
            if out.iter().map(Vec::len).sum::<usize>() > OUT_BYTES_MAX {
                return true;
            }
            let Some(large) = self.larges.get_mut(&seq) else { continue };
            match large.go_on(id, seq, until, out) {
                Ok(Gone::On) => is_more = true,
                Ok(Gone::Waits) => {}
                Ok(Gone::Verified) => {
                    self.large_is_whole(seq, now);
                    is_more = true;
                }
                Ok(Gone::Damaged) => {
                    if let Some(large) = self.larges.remove(&seq) {
                        self.add(seq, Ready::Refused(large.path, Refusal::Damaged), 0, now);
                    }
                    is_more = true;
                }
                Err(error) => {
                    if let Some(large) = self.larges.remove(&seq) {
                        self.refuse_large(seq, &large.path, &error, now);
                    }
                    is_more = true;
                }
            }
        }
        is_more
    }

    fn large_is_whole(&mut self, seq: u64, now: Instant) {
        let Some(large) = self.larges.remove(&seq) else { return };
        let State::Ending(end, _) = large.state else { return };
        match self.ground.tree.dress(&large.temp.file, &end.entry, &end.xattrs) {
            Ok(()) => {
                let (path, entry, temp) = (large.path, end.entry, Some(large.temp));
                let bytes = usize::try_from(entry.size).unwrap_or(usize::MAX);
                self.add(seq, Ready::File { path, entry, temp }, bytes, now);
            }
            Err(error) => self.refuse_large(seq, &large.path, &error, now),
        }
    }

    /// The primary asks for the hashes of blocks of the base.
    pub(super) fn ask_blocks(&mut self, seq: u64, segments: Vec<u32>) -> Result<(), AttendError> {
        let Some(large) = self.larges.get_mut(&seq) else { return Ok(()) };
        let inside = |number: &u32| u64::from(*number) * (SEGMENT_BYTES as u64) < large.base;
        if !segments.iter().all(inside) {
            return Err(AttendError::Range(seq));
        }
        large.asked.push_back(Asked { segments, next: 0, hashes: Vec::new() });
        Ok(())
    }
}

/// Lets the disk begin, so that the sync at the end has little left to wait for.
fn write_out(file: &File) {
    // SAFETY: the descriptor is open; the call touches no memory of ours. It promises nothing, so
    // that its errors do not matter: they come again with the sync.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE);
    }
}

/// The same path has the same name after a crash, whatever bytes it is of.
fn part_name(path: &TreePath) -> String {
    digest::hash(path.as_bytes()).0.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Copies a little, leaves holes holes, and says how far it came.
fn copy(from: &File, to: &File, size: u64, done: u64) -> io::Result<u64> {
    if done >= size {
        return Ok(size);
    }
    let data = match rustix::fs::seek(from, SeekFrom::Data(done)) {
        Ok(data) => data.min(size),
        Err(Errno::NXIO) => return Ok(size),
        Err(_) => done,
    };
    let end = match rustix::fs::seek(from, SeekFrom::Hole(data)) {
        Ok(hole) => hole.min(size),
        Err(_) => size,
    };
    let length = (end - data).min(COPY_BYTES) as usize;
    if length == 0 {
        return Ok(end.max(data));
    }
    let (mut read_at, mut write_at) = (data, data);
    let copied =
        rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), length);
    match copied {
        // The file became shorter: what is here is a base nevertheless.
        Ok(0) => Ok(size),
        Ok(copied) => Ok(data + copied as u64),
        Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
            let mut bytes = vec![0; length];
            let read = from.read_at(&mut bytes, data)?;
            to.write_all_at(&bytes[..read], data)?;
            Ok(if read == 0 { size } else { data + read as u64 })
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads, and zeros where the file does not reach.
fn read_zeros_beyond(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    bytes.fill(0);
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], offset + read as u64)? {
            0 => return Ok(()),
            more => read += more,
        }
    }
    Ok(())
}
