//! Reading.

use super::{
    Look, Tree, beneath, beneath_to_read, device, is_absence, kind_of, nanos, stat_in, stat_of,
    xattrs,
};
use crate::digest::{self, Digest};
use crate::entry::{Entry, Found, Kind, Stamp, Xattrs};
use crate::path::{DEPTH_MAX, PATH_BYTES_MAX, RESERVED, TreePath};
use crate::wire::INLINE_BYTES_MAX;
use rustix::fs::{OFlags, RawDir, Statx};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

/// The kernel stamps changes by a clock that ticks every 1 to 10 ms: two changes within a tick look
/// like one.
const RACY_NS: i64 = 20_000_000;

/// What getdents(2) fills at once.
const LISTING_BYTES: usize = 32 * 1024;

/// The children of a folder, by name.
pub(crate) type Children = Vec<(Box<[u8]>, Found)>;

impl Tree {
    /// None when nothing is there, or something on the way is no folder.
    pub(crate) fn stat(&self, path: &TreePath) -> io::Result<Option<Found>> {
        match self.stat_at(path) {
            Ok(stat) if path.is_root() => Ok(Some(found_of(&stat))),
            Ok(stat) => Ok(Some(self.found_here(&stat))),
            Err(error) if is_absence(error) => Ok(None),
            Err(error) => Err(self.failed("look at", path, error)),
        }
    }

    /// Without `.staffetta` at the root, and without names that no [`TreePath`] can have below this
    /// folder. None when it is no folder, or not there.
    pub(crate) fn list(&self, dir: &TreePath) -> io::Result<Option<Children>> {
        let folder = match beneath_to_read(&self.root, dir.as_bytes(), OFlags::DIRECTORY) {
            Ok(folder) => folder,
            Err(error) if is_absence(error) => return Ok(None),
            Err(error) => return Err(self.failed("list", dir, error)),
        };
        let listed = self.children(dir, &folder).map_err(|error| self.failed("list", dir, error));
        match stat_of(&folder) {
            Ok(stat) if dir.is_root() || !self.is_foreign(&stat) => Ok(Some(listed?)),
            Ok(_) => Ok(None),
            Err(error) => Err(self.failed("list", dir, error)),
        }
    }

    fn children(&self, dir: &TreePath, folder: &OwnedFd) -> Result<Children, Errno> {
        let room = match PATH_BYTES_MAX.checked_sub(dir.as_bytes().len() + 1) {
            Some(room) if dir.depth() < DEPTH_MAX => room,
            _ => 0,
        };
        let mut names: Vec<(u64, Box<[u8]>)> = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); LISTING_BYTES];
        let mut entries = RawDir::new(folder, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || (dir.is_root() && name == RESERVED) {
                continue;
            }
            if name.len() > room {
                self.skipped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            names.push((entry.ino(), name.into()));
        }
        // Inodes in the order in which they are on the disk.
        names.sort_unstable();
        let mut children = Vec::with_capacity(names.len());
        for (_, name) in names {
            match stat_in(folder, &name) {
                Ok(stat) => children.push((name, self.found_here(&stat))),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        children.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(children)
    }

    /// What is there, content included unless it is large. `linked` is left false.
    ///
    /// More extended attributes than the limit, a file that may not be read: errors.
    ///
    /// The kernel stamps a write when it begins. One that goes on for longer than a file is racy
    /// (its program lost the processor in the middle of it), or one through mmap(2), is not seen by
    /// times: what was looked at while a program had it open for writing must be looked at again
    /// when that is closed, even if nothing of its times differs.
    pub(crate) fn look(&self, path: &TreePath) -> io::Result<Look> {
        self.look_at(path).map_err(|error| self.failed("look at", path, error))
    }

    fn look_at(&self, path: &TreePath) -> io::Result<Look> {
        // The moment before anything is read: what changes after it has a later time, or is racy.
        let now = now_ns();
        if path.is_root() {
            let folder = beneath(&self.root, b"", OFlags::RDONLY | OFlags::DIRECTORY)?;
            return look_open(folder, Kind::Dir, now);
        }
        let (dir, name) = match self.parent(path) {
            Ok(parent) => parent,
            Err(error) if is_absence(error) => return Ok(Look::Absent),
            Err(error) => return Err(error.into()),
        };
        let found = match stat_in(&dir, name) {
            Ok(stat) => self.found_here(&stat),
            Err(error) if is_absence(error) => return Ok(Look::Absent),
            Err(error) => return Err(error.into()),
        };
        let Some(kind) = found.kind else { return Ok(Look::Other) };
        let opened = match kind {
            Kind::Symlink => beneath(&dir, name, OFlags::PATH),
            Kind::File => beneath_to_read(&dir, name, OFlags::empty()),
            Kind::Dir => beneath_to_read(&dir, name, OFlags::DIRECTORY),
        };
        match opened {
            Ok(fd) if kind == Kind::Symlink => look_symlink(&fd, now),
            Ok(fd) => look_open(fd, kind, now),
            // It was of this kind a moment ago. A lease of another program ends with EAGAIN.
            Err(Errno::NXIO | Errno::AGAIN) => Ok(Look::Changing),
            Err(error) if is_absence(error) => Ok(Look::Changing),
            Err(error) => Err(error.into()),
        }
    }

    /// A regular file, for reading, without changing its access time. None when there is none.
    pub(crate) fn open_file(&self, path: &TreePath) -> io::Result<Option<(File, Found)>> {
        match self.try_open(path, Kind::File) {
            Ok(fd) => {
                let file = File::from(fd);
                let found = found(&file)?;
                Ok(Some((file, found)))
            }
            Err(error) if is_absence(error) => Ok(None),
            Err(error) => Err(self.failed("read", path, error)),
        }
    }

    /// Opens what must be of this kind: a device is not even opened. Symlinks only as a path.
    /// `ENOENT` when there is something else.
    pub(super) fn try_open(&self, path: &TreePath, kind: Kind) -> Result<OwnedFd, Errno> {
        let fd = if path.is_root() {
            beneath_to_read(&self.root, b"", OFlags::DIRECTORY)?
        } else {
            let (dir, name) = self.parent(path)?;
            if self.found_here(&stat_in(&dir, name)?).kind != Some(kind) {
                return Err(Errno::NOENT);
            }
            match kind {
                Kind::Symlink => beneath(&dir, name, OFlags::PATH)?,
                Kind::File => beneath_to_read(&dir, name, OFlags::empty())?,
                Kind::Dir => beneath_to_read(&dir, name, OFlags::DIRECTORY)?,
            }
        };
        let stat = stat_of(&fd)?;
        let same = kind_of(&stat) == Some(kind) && device(&stat) == self.dev;
        if same { Ok(fd) } else { Err(Errno::NOENT) }
    }

    /// The target of a symlink; none when there is none.
    pub(crate) fn read_link(&self, path: &TreePath) -> io::Result<Option<Vec<u8>>> {
        let read = self
            .try_open(path, Kind::Symlink)
            .and_then(|link| rustix::fs::readlinkat(&link, c"", Vec::new()));
        match read {
            Ok(target) => Ok(Some(target.into_bytes())),
            Err(error) if is_absence(error) => Ok(None),
            Err(error) => Err(self.failed("read the symlink", path, error)),
        }
    }

    /// Of a file or folder (symlinks have none that are followed here). Those that are carried:
    /// `user.*`, `trusted.*`, `security.*` but `security.selinux` and `security.ima`/`evm`, and the
    /// two POSIX ACLs (`system.posix_acl_access`, `system.posix_acl_default`).
    pub(crate) fn xattrs(&self, path: &TreePath) -> io::Result<Xattrs> {
        let failed = |error| self.failed("read the attributes of", path, error);
        let kind = match self.stat_at(path) {
            Ok(stat) if path.is_root() => kind_of(&stat),
            Ok(stat) => self.found_here(&stat).kind,
            Err(error) => return Err(failed(error.into())),
        };
        let Some(kind @ (Kind::File | Kind::Dir)) = kind else { return Ok(Xattrs::default()) };
        let fd = self.try_open(path, kind).map_err(|error| failed(error.into()))?;
        xattrs::read(&fd).map_err(failed)
    }

    /// An open folder, to be made durable (fsync) by another thread.
    pub(crate) fn open_dir(&self, dir: &TreePath) -> io::Result<OwnedFd> {
        self.try_open(dir, Kind::Dir).map_err(|error| self.failed("open the folder", dir, error))
    }
}

/// The same as [`Tree::stat`] of an open file.
pub(crate) fn found(file: &File) -> io::Result<Found> {
    Ok(found_of(&stat_of(file)?))
}

/// Wherever it is.
pub(super) fn found_of(stat: &Statx) -> Found {
    let kind = kind_of(stat);
    let is_dir = kind == Some(Kind::Dir);
    let has_btime = stat.stx_mask & rustix::fs::StatxFlags::BTIME.bits() != 0;
    let stamp = Stamp {
        ino: stat.stx_ino,
        btime_ns: if has_btime { nanos(&stat.stx_btime) } else { 0 },
        ctime_ns: if is_dir { 0 } else { nanos(&stat.stx_ctime) },
    };
    Found {
        kind,
        mode: match kind {
            Some(Kind::Symlink) => 0o777,
            Some(Kind::File | Kind::Dir) | None => u32::from(stat.stx_mode) & 0o7777,
        },
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        mtime_ns: nanos(&stat.stx_mtime),
        size: if is_dir { 0 } else { stat.stx_size },
        stamp,
        nlink: if is_dir { 1 } else { stat.stx_nlink },
        allocated: stat.stx_blocks * 512,
        dev: device(stat),
    }
}

/// A file or folder that was opened.
fn look_open(fd: OwnedFd, kind: Kind, now: i64) -> io::Result<Look> {
    let before = stat_of(&fd)?;
    if kind_of(&before) != Some(kind) {
        return Ok(Look::Changing);
    }
    let racy = is_racy(&before, now);
    let xattrs = xattrs::read(&fd)?;
    let mut entry = entry_of(&found_of(&before), kind, &xattrs);
    let stamp = found_of(&before).stamp;
    let file = File::from(fd);
    if kind == Kind::File && entry.size > INLINE_BYTES_MAX as u64 {
        let same = is_unchanged(&before, &stat_of(&file)?);
        let large = Look::Large { entry, stamp, racy, xattrs, file };
        return Ok(if same { large } else { Look::Changing });
    }
    let mut content = Vec::new();
    if kind == Kind::File {
        content.resize(entry.size as usize, 0);
        match file.read_exact_at(&mut content, 0) {
            Ok(()) => entry.content = digest::content(&content),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(Look::Changing);
            }
            Err(error) => return Err(error),
        }
    }
    if !is_unchanged(&before, &stat_of(&file)?) {
        return Ok(Look::Changing);
    }
    Ok(Look::Whole { entry, stamp, racy, xattrs, content })
}

/// A symlink that was opened as a path. Its target never changes.
fn look_symlink(fd: &OwnedFd, now: i64) -> io::Result<Look> {
    let stat = stat_of(fd)?;
    if kind_of(&stat) != Some(Kind::Symlink) {
        return Ok(Look::Changing);
    }
    let content = rustix::fs::readlinkat(fd, c"", Vec::new())?.into_bytes();
    let found = found_of(&stat);
    let xattrs = Xattrs::default();
    let mut entry = entry_of(&found, Kind::Symlink, &xattrs);
    // Some file systems say 0, or the size on the disk.
    entry.size = content.len() as u64;
    entry.content = digest::content(&content);
    let racy = is_racy(&stat, now);
    Ok(Look::Whole { entry, stamp: found.stamp, racy, xattrs, content })
}

fn entry_of(found: &Found, kind: Kind, xattrs: &Xattrs) -> Entry {
    Entry {
        kind,
        mode: found.mode,
        uid: found.uid,
        gid: found.gid,
        mtime_ns: found.mtime_ns,
        size: found.size,
        content: Digest::default(),
        xattrs: xattrs.digest(),
        linked: false,
    }
}

/// The time of the last change of anything of it (ctime) is that of the last write, too, and no
/// program can set it. A time of last modification in the future, which any program can set, does
/// not make a file racy for years.
fn is_racy(stat: &Statx, now: i64) -> bool {
    now.saturating_sub(nanos(&stat.stx_ctime)) < RACY_NS
}

/// By all that changes with a change; a folder's ctime included. Not by the blocks that it has on
/// the disk: they change when the kernel writes it back.
fn is_unchanged(before: &Statx, after: &Statx) -> bool {
    let of = |stat: &Statx| Found { allocated: 0, ..found_of(stat) };
    of(before) == of(after) && nanos(&before.stx_ctime) == nanos(&after.stx_ctime)
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
