//! One tree on this node's disk. Every call goes through a descriptor of the root and resolves
//! beneath it without following any symlink (openat2(2)): no name of the peer, and no symlink that
//! somebody swaps in at the right moment, leads out. What follows is a call with a single name that
//! does not follow symlinks either, so nothing is cached between calls: another user of the tree
//! could have moved a folder out of it in between.
//!
//! Another file system below the root, or a folder that is mounted there, is not part of the tree:
//! it is never entered and never touched.
//!
//! Errors name the path and keep the kind of the operating system's error, not its number.

mod aside;
mod clock;
mod dress;
mod own;
mod read;
mod remove;
mod segments;
mod write;
mod xattrs;

use crate::entry::{Entry, Found, Kind, Stamp, Xattrs};
use crate::path::TreePath;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxAttributes, StatxFlags,
    StatxTimestamp,
};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub(crate) use aside::{Aside, Kept};
pub(crate) use read::found;
pub(crate) use segments::{Segment, SegmentReader};
pub(crate) use write::Temp;

/// How every path is resolved.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// A folder, to make calls with names in it. It need not be readable.
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// Staffetta's own folder, its files: `root` (the marker), `tmp/`, `part/`, `trash/`, `conflicts/`.
pub(crate) struct Tree {
    pub(crate) root: OwnedFd,
    pub(crate) path: PathBuf,
    pub(crate) dev: u64,
    /// Names that listings left out because no [`TreePath`] can have them.
    skipped: AtomicU64,
    /// `.staffetta/tmp`, once it was needed. It may be kept open: only Staffetta's own user can
    /// make names in it or move it to another folder.
    tmp: Mutex<Option<Arc<OwnedFd>>>,
    asides: Mutex<aside::Asides>,
}

/// What a look at a path found. Errors other than absence (permission, I/O) are errors.
#[derive(Debug)]
pub(crate) enum Look {
    /// Nothing is there, or something on the way is no folder.
    Absent,
    /// A socket, pipe or device; or another file system is mounted there.
    Other,
    /// A folder, a symlink (`content` is its target), or a file up to `INLINE_BYTES_MAX`.
    Whole { entry: Entry, stamp: Stamp, racy: bool, xattrs: Xattrs, content: Vec<u8> },
    /// A larger file: nothing of it was read. `entry.content` is zeros.
    Large { entry: Entry, stamp: Stamp, racy: bool, xattrs: Xattrs, file: File },
    /// It changed while it was looked at.
    Changing,
}

impl Tree {
    /// Opens the root: a folder; a symlink to one is followed here, and only here.
    pub(crate) fn open(path: &Path) -> io::Result<Tree> {
        let failed = |error: Errno| {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("cannot open {}: {error}", path.display()))
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        if let Err(error @ (Errno::NOSYS | Errno::PERM)) = beneath(&root, b"", FOLDER) {
            let why = "the kernel must offer openat2(2) (Linux 5.6, and no filter of system calls)";
            let error = io::Error::from(error);
            let text = format!("cannot open {} safely: {error}: {why}", path.display());
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let dev = device(&stat_of(&root).map_err(failed)?);
        Ok(Tree {
            root,
            path: path.to_path_buf(),
            dev,
            skipped: AtomicU64::new(0),
            tmp: Mutex::new(None),
            asides: Mutex::default(),
        })
    }

    /// Whether the path still leads to this root.
    pub(crate) fn is_there(&self) -> bool {
        let flags = AtFlags::NO_AUTOMOUNT;
        let there = rustix::fs::statx(rustix::fs::CWD, &self.path, flags, STAT);
        let same = |a: &Statx, b: &Statx| (device(a), a.stx_ino) == (device(b), b.stx_ino);
        there.is_ok_and(|there| stat_of(&self.root).is_ok_and(|ours| same(&there, &ours)))
    }

    /// Free bytes and all bytes of the file system (statvfs).
    pub(crate) fn space(&self) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::fstatvfs(&self.root)
            .map_err(|error| self.failed("ask for the space of", &TreePath::root(), error))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok((bytes(stat.f_bavail), bytes(stat.f_blocks)))
    }

    /// How many names listings left out so far because no [`TreePath`] can have them: too deep, or
    /// too long with all folders above.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// The folder that a path is in, and its name there. The root has none (`EINVAL`).
    fn parent<'a>(&self, path: &'a TreePath) -> Result<(Parent<'_>, &'a [u8]), Errno> {
        let bytes = path.as_bytes();
        match bytes.iter().rposition(|byte| *byte == b'/') {
            Some(at) => {
                let folder = beneath(&self.root, &bytes[..at], FOLDER)?;
                Ok((Parent::Folder(folder), &bytes[at + 1..]))
            }
            None if bytes.is_empty() => Err(Errno::INVAL),
            None => Ok((Parent::Root(self.root.as_fd()), bytes)),
        }
    }

    /// As [`Tree::parent`], for calls that need the folder: its absence has a plain kind.
    fn parent_to_write<'a>(
        &self,
        what: &str,
        path: &'a TreePath,
    ) -> io::Result<(Parent<'_>, &'a [u8])> {
        self.parent(path).map_err(|error| match error {
            Errno::INVAL => self.failed(what, path, error),
            error if is_absence(error) => {
                let folder = path.parent().unwrap_or_default();
                let error = io::Error::from(error);
                let text = format!(
                    "cannot {what} {}: {} is no folder of this tree: {error}",
                    self.full(path),
                    self.full(&folder)
                );
                io::Error::new(io::ErrorKind::NotFound, text)
            }
            error => self.failed(what, path, error),
        })
    }

    /// What is at a path. Not for its last name, nor on the way, is a symlink followed.
    fn stat_at(&self, path: &TreePath) -> Result<Statx, Errno> {
        if path.is_root() {
            return stat_of(&self.root);
        }
        let (dir, name) = self.parent(path)?;
        stat_in(&dir, name)
    }

    /// As [`read::found_of`], for what is not the root: what is mounted there is of no kind.
    fn found_here(&self, stat: &Statx) -> Found {
        let mut found = read::found_of(stat);
        if self.is_foreign(stat) {
            found.kind = None;
        }
        found
    }

    /// Whether it is of another file system, or mounted there.
    fn is_foreign(&self, stat: &Statx) -> bool {
        let root = StatxAttributes::MOUNT_ROOT;
        let mounted = stat.stx_attributes_mask.contains(root) && stat.stx_attributes.contains(root);
        mounted || device(stat) != self.dev
    }

    /// The whole path, for people.
    fn full(&self, path: &TreePath) -> String {
        if path.is_root() {
            return self.path.display().to_string();
        }
        format!("{}/{path}", self.path.display())
    }

    /// Names the path, and keeps the kind.
    fn failed(&self, what: &str, path: &TreePath, error: impl Into<io::Error>) -> io::Error {
        let error: io::Error = error.into();
        io::Error::new(error.kind(), format!("cannot {what} {}: {error}", self.full(path)))
    }
}

/// The folder that something is in.
enum Parent<'a> {
    Root(BorrowedFd<'a>),
    Folder(OwnedFd),
}

impl AsFd for Parent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Parent::Root(root) => *root,
            Parent::Folder(folder) => folder.as_fd(),
        }
    }
}

/// What is asked of statx(2).
const STAT: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// Opens what is beneath a folder; the folder itself for an empty path.
fn beneath(dir: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat2(dir, path, flags, Mode::empty(), BENEATH)
}

/// The same for reading, without a change of its access time where the kernel lets us.
fn beneath_to_read(dir: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK;
    match beneath(&dir, path, flags | OFlags::NOATIME) {
        // Somebody else's file, and no CAP_FOWNER.
        Err(Errno::PERM) => beneath(dir, path, flags),
        opened => opened,
    }
}

/// What has a name in a folder.
fn stat_in(dir: impl AsFd, name: &[u8]) -> Result<Statx, Errno> {
    rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, STAT)
}

/// What is open.
fn stat_of(fd: impl AsFd) -> Result<Statx, Errno> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, STAT)
}

fn device(stat: &Statx) -> u64 {
    rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

/// None: a socket, pipe or device.
fn kind_of(stat: &Statx) -> Option<Kind> {
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Dir),
        FileType::Symlink => Some(Kind::Symlink),
        _ => None,
    }
}

/// Nanoseconds since 1970; the nearest that there is for times centuries away.
fn nanos(time: &StatxTimestamp) -> i64 {
    let nanos = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX })
}

/// Nothing is there, or something on the way is no folder of this tree.
fn is_absence(error: Errno) -> bool {
    let absent = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::XDEV, Errno::NAMETOOLONG];
    absent.contains(&error)
}

/// A name that nobody else has, and nobody guesses.
fn random_name() -> io::Result<String> {
    use ring::rand::SecureRandom;
    let mut bytes = [0; 8];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("the kernel gives no random numbers"))?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
