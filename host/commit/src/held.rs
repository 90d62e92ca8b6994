//! Which descriptors hold the write lock of a WAL-index, and how many transactions it counted when
//! they took it.
//!
//! A table by descriptor, without locks, which a child keeps whatever its parent's threads did when
//! it forked. SQLite lets one thread at a time hold the write lock of one database, so the words of
//! one entry have one writer. What an entry says is believed only while the descriptor still leads
//! to the same file.

use std::ffi::c_int;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::settings::{DatabasePath, Settings};

const CHUNK_ENTRIES: usize = 256;
/// With the above 2^20 descriptors, which is what Linux allows where nobody raised `fs.nr_open`.
/// Above it nothing is watched.
const CHUNKS_MAX: usize = 4_096;

/// Where the header counts its transactions: `iChange`, 4 bytes (SQLite's `walformat`, §2.2).
const CHANGE_AT: libc::off_t = 8;

/// In [`Entry::change`]: the lock is held.
const HELD: u64 = 1 << 63;

#[derive(Default)]
struct Entry {
    device: AtomicU64,
    /// 0: this descriptor was never seen on a WAL-index.
    inode: AtomicU64,
    /// The count in the low half, [`HELD`] above it.
    change: AtomicU64,
}

struct Chunk([Entry; CHUNK_ENTRIES]);

/// Chunks are made when first needed and stay.
static TABLE: [AtomicPtr<Chunk>; CHUNKS_MAX] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; CHUNKS_MAX];

/// Whether the descriptor took the write lock of a watched WAL-index. Costs two loads.
pub(crate) fn is_held(fd: c_int) -> bool {
    entry(fd).is_some_and(|entry| entry.change.load(Ordering::Acquire) & HELD != 0)
}

/// The descriptor has taken the write byte of some file: remembers it when that is a WAL-index
/// whose database is watched.
pub(crate) fn take(settings: &Settings, fd: c_int) {
    let Some(identity) = identity(fd) else { return };
    let known = entry(fd).filter(|entry| entry.is(identity));
    if known.is_none() && !DatabasePath::of_index(fd).is_some_and(|path| settings.watches(&path)) {
        return;
    }
    let Some(entry) = known.or_else(|| entry_or_new(fd)) else { return };
    entry.device.store(identity.0, Ordering::Relaxed);
    entry.inode.store(identity.1, Ordering::Relaxed);
    entry.change.store(HELD | change(fd), Ordering::Release);
}

/// The descriptor is about to let go: whether the file counts a transaction more than when it took
/// the lock. Nobody else can have committed meanwhile.
pub(crate) fn release(fd: c_int) -> bool {
    let Some(entry) = entry(fd) else { return false };
    let before = entry.change.swap(0, Ordering::AcqRel);
    let is_same_file = identity(fd).is_some_and(|identity| entry.is(identity));
    before & HELD != 0 && is_same_file && before != HELD | change(fd)
}

impl Entry {
    fn is(&self, (device, inode): (u64, u64)) -> bool {
        inode != 0
            && self.device.load(Ordering::Relaxed) == device
            && self.inode.load(Ordering::Relaxed) == inode
    }
}

/// The count of transactions, read and not mapped: a map of a file that somebody truncates ends in
/// SIGBUS. A checkpoint, a rollback and a restart of the WAL do not change it. A file that is too
/// short is one that nobody made yet: whoever makes it begins at 0.
fn change(fd: c_int) -> u64 {
    let mut word = [0; 4];
    // SAFETY: the buffer is as long as said, and outlives the call.
    let got = unsafe { libc::pread(fd, word.as_mut_ptr().cast(), word.len(), CHANGE_AT) };
    if got == 4 { u64::from(u32::from_ne_bytes(word)) } else { 0 }
}

/// Device and inode; none when it is no regular file.
fn identity(fd: c_int) -> Option<(u64, u64)> {
    let status = crate::pool::file_status(fd)?;
    (status.st_mode & libc::S_IFMT == libc::S_IFREG).then_some((status.st_dev, status.st_ino))
}

fn entry(fd: c_int) -> Option<&'static Entry> {
    let (chunk, at) = place(fd)?;
    // SAFETY: a chunk is published whole, and neither moved nor freed.
    let chunk = unsafe { TABLE.get(chunk)?.load(Ordering::Acquire).as_ref() }?;
    chunk.0.get(at)
}

fn entry_or_new(fd: c_int) -> Option<&'static Entry> {
    let (chunk, _) = place(fd)?;
    let home = TABLE.get(chunk)?;
    if home.load(Ordering::Acquire).is_null() {
        let new = Box::into_raw(Box::new(Chunk(std::array::from_fn(|_| Entry::default()))));
        let null = std::ptr::null_mut();
        if home.compare_exchange(null, new, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // SAFETY: another thread was first; nobody has seen this one.
            drop(unsafe { Box::from_raw(new) });
        }
    }
    entry(fd)
}

fn place(fd: c_int) -> Option<(usize, usize)> {
    let fd = usize::try_from(fd).ok()?;
    Some((fd / CHUNK_ENTRIES, fd % CHUNK_ENTRIES))
}
