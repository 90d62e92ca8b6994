//! Writing: everything is made in `.staffetta/tmp` and renamed over what is there.

use super::{Parent, Tree, kind_of, read, remove, stat_in, stat_of};
use crate::entry::{Found, Kind, Stamp};
use crate::path::TreePath;
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Room is reserved for files of so many bytes. A smaller one costs less without; for a larger one
/// it would not be cheap, and the file may have holes.
const RESERVED_BYTES: RangeInclusive<u64> = 128 * 1024..=1024 * 1024;
/// Characters of the name of a part, at most.
const PART_NAME_MAX: usize = 64;

/// A file in `.staffetta/tmp` or `.staffetta/part`, that disappears when it is dropped before it
/// was placed.
#[derive(Debug)]
pub(crate) struct Temp {
    pub(crate) file: File,
    dir: Arc<OwnedFd>,
    name: String,
    /// Not placed, and not to be kept.
    is_ours: bool,
}

impl Tree {
    /// A new file (O_EXCL, mode 0600), with room for so many bytes reserved where that is cheap
    /// (fallocate(2), not beyond 1 MiB).
    pub(crate) fn temp(&self, bytes: u64) -> io::Result<Temp> {
        let (dir, name, fd) = self.in_tmp(|tmp, name| {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
            open_own(tmp, name, flags)
        })?;
        let temp = Temp { file: File::from(fd), dir, name, is_ours: true };
        if RESERVED_BYTES.contains(&bytes) {
            match rustix::fs::fallocate(&temp.file, FallocateFlags::KEEP_SIZE, 0, bytes) {
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                Err(error) => return Err(self.failed_own("write in", "tmp", error)),
            }
        }
        Ok(temp)
    }

    /// A file of `.staffetta/part` by this name (hex digits), made if it is not there: for parts of
    /// large files that survive a lost connection. `Temp::keep` leaves it there.
    pub(crate) fn part(&self, name: &str) -> io::Result<Temp> {
        let hex = name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !hex || name.is_empty() || name.len() > PART_NAME_MAX {
            let text = format!("{} is no name of a part", name.escape_debug());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let failed = |error: io::Error| self.failed_own("open", &format!("part/{name}"), error);
        let dir = self.own_folder("part", true)?.ok_or_else(|| failed(Errno::NOENT.into()))?;
        let dir = Arc::new(dir);
        let fd = open_part(&dir, name).map_err(failed)?;
        Ok(Temp { file: File::from(fd), dir, name: name.to_owned(), is_ours: true })
    }

    /// Mode 0700 until it is dressed. `AlreadyExists` when anything is there.
    pub(crate) fn make_dir(&self, path: &TreePath) -> io::Result<()> {
        let what = "make the folder";
        let (dir, name) = self.parent_to_write(what, path)?;
        rustix::fs::mkdirat(&dir, name, Mode::RWXU).map_err(|error| self.failed(what, path, error))
    }

    /// Puts a symlink there, replacing a file or symlink atomically.
    pub(crate) fn make_symlink(&self, path: &TreePath, target: &[u8]) -> io::Result<()> {
        let what = "make the symlink";
        let to = self.parent_to_write(what, path)?;
        let (tmp, name, ()) = self.in_tmp(|tmp, name| rustix::fs::symlinkat(target, tmp, name))?;
        replace(&tmp, &name, &to).map_err(|error| {
            let _ = rustix::fs::unlinkat(&*tmp, &*name, AtFlags::empty());
            self.failed(what, path, error)
        })
    }

    /// Gives the file or symlink at `from` another name, replacing one at `to` atomically.
    pub(crate) fn link(&self, from: &TreePath, to: &TreePath) -> io::Result<()> {
        let (source, source_name) = self.parent_to_write("link", from)?;
        let target = self.parent_to_write("link to", to)?;
        self.need_file(&source, source_name).map_err(|error| self.failed("link", from, error))?;
        let (tmp, name, ()) = self.in_tmp(|tmp, name| {
            rustix::fs::linkat(&source, source_name, tmp, name, AtFlags::empty())
        })?;
        let linked = self
            .need_file(&tmp, name.as_bytes())
            .and_then(|()| replace(&tmp, &name, &target).map_err(io::Error::from));
        // Renaming onto another name of the same file does nothing, so it may be there still.
        let _ = rustix::fs::unlinkat(&*tmp, &*name, AtFlags::empty());
        linked.map_err(|error| self.failed("link to", to, error))
    }

    fn need_file(&self, dir: impl AsFd, name: &[u8]) -> io::Result<()> {
        let stat = stat_in(dir, name)?;
        if matches!(self.found_here(&stat).kind, Some(Kind::File | Kind::Symlink)) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file or symlink"))
    }

    /// Moves; fails with `AlreadyExists` when anything is at `to` (RENAME_NOREPLACE).
    pub(crate) fn rename(&self, from: &TreePath, to: &TreePath) -> io::Result<()> {
        let (source, source_name) = self.parent_to_write("move", from)?;
        let (target, name) = self.parent_to_write("move to", to)?;
        let only = RenameFlags::NOREPLACE;
        rustix::fs::renameat_with(&source, source_name, &target, name, only).map_err(|error| {
            let what = format!("move {} to", self.full(from));
            self.failed(&what, to, error)
        })
    }

    /// Removes one file or symlink.
    pub(crate) fn unlink(&self, path: &TreePath) -> io::Result<()> {
        let (dir, name) = self.parent_to_write("remove", path)?;
        rustix::fs::unlinkat(&dir, name, AtFlags::empty())
            .map_err(|error| self.failed("remove", path, error))
    }
}

impl Temp {
    /// Puts it there, replacing a file or symlink atomically, and says what is there now. The
    /// content is durable only if the caller made it so before.
    ///
    /// A folder is not replaced (`IsADirectory`).
    pub(crate) fn place(mut self, tree: &Tree, to: &TreePath) -> io::Result<Stamp> {
        let target = tree.parent_to_write("write", to)?;
        replace(&self.dir, &self.name, &target).map_err(|error| tree.failed("write", to, error))?;
        self.is_ours = false;
        let stat = stat_of(&self.file).map_err(|error| tree.failed("look at", to, error))?;
        Ok(read::found_of(&stat).stamp)
    }

    /// Leaves a part where it is, for another connection.
    pub(crate) fn keep(mut self) {
        self.is_ours = false;
    }

    pub(crate) fn found(&self) -> io::Result<Found> {
        super::found(&self.file)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if self.is_ours {
            // What cannot be removed now is removed at the next start.
            let _ = rustix::fs::unlinkat(&*self.dir, &*self.name, AtFlags::empty());
        }
    }
}

/// Renames it over what is there.
fn replace(tmp: &OwnedFd, name: &str, to: &(Parent<'_>, &[u8])) -> Result<(), Errno> {
    rustix::fs::renameat(tmp, name, &to.0, to.1)
}

fn open_own(dir: &OwnedFd, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)
}

/// Opens or makes a part. What is there and is not ours is removed.
fn open_part(dir: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    match open_own(dir, name, OFlags::RDWR) {
        Ok(fd) => {
            let stat = stat_of(&fd)?;
            let owner = rustix::process::geteuid().as_raw();
            let sole = stat.stx_uid == owner && stat.stx_nlink == 1;
            if sole && kind_of(&stat) == Some(Kind::File) {
                rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
                return Ok(fd);
            }
        }
        Err(Errno::NOENT) => {}
        Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::ACCESS | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    remove::whole(dir, name.as_bytes(), &mut { usize::MAX })?;
    Ok(open_own(dir, name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?)
}
