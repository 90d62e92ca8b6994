//! Owner, mode, attributes and times.
//!
//! The order matters: a new owner clears the set-user-id bit and `security.capability`, a new mode
//! changes the mask of an ACL, a new ACL sets the mode; and whatever is done last changes no time
//! of last modification.

use super::xattrs::{self, ACL_ACCESS};
use super::{Tree, stat_of};
use crate::entry::{Entry, Kind, Xattr, Xattrs};
use crate::path::TreePath;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Statx, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

impl Tree {
    /// Gives an open file its owner, mode, attributes and, last, its times.
    ///
    /// A mode that came out otherwise (an ACL that contradicts it, or no right to set a bit) is an
    /// error.
    pub(crate) fn dress(&self, file: &File, entry: &Entry, xattrs: &Xattrs) -> io::Result<()> {
        dress(file.as_fd(), entry, xattrs)
    }

    /// The same for what is at a path: file, folder, or symlink (owner and times only).
    pub(crate) fn dress_at(&self, p: &TreePath, e: &Entry, x: &Xattrs) -> io::Result<()> {
        let dressed = match (self.try_open(p, e.kind), e.kind) {
            (Err(error), _) => Err(error.into()),
            (Ok(link), Kind::Symlink) => dress_symlink(link.as_fd(), e),
            (Ok(fd), Kind::File | Kind::Dir) => dress(fd.as_fd(), e, x),
        };
        dressed.map_err(|error| self.failed("set owner, mode, attributes and time of", p, error))
    }

    /// Sets the time of last modification alone.
    pub(crate) fn set_mtime(&self, path: &TreePath, mtime_ns: i64) -> io::Result<()> {
        super::beneath(&self.root, path.as_bytes(), OFlags::PATH)
            .and_then(|fd| set_mtime(fd.as_fd(), mtime_ns))
            .map_err(|error| self.failed("set the time of", path, error))
    }
}

/// A file or folder.
fn dress(fd: BorrowedFd<'_>, entry: &Entry, xattrs: &Xattrs) -> io::Result<()> {
    let before = stat_of(fd)?;
    let owned = set_owner(fd, entry, &before)?;
    let acl = set_xattrs(fd, xattrs)?;
    if owned || !matches!(acl, Acl::None) || mode_of(&before) != entry.mode {
        rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode))?;
    }
    if let Acl::Set(acl) = acl {
        xattrs::set(fd, acl)?;
    }
    let mode = mode_of(&stat_of(fd)?);
    if mode != entry.mode {
        let wanted = entry.mode;
        let text = format!(
            "its mode is {mode:04o} instead of {wanted:04o}: its ACL says otherwise, or the unit \
             lacks CAP_FSETID"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(set_mtime(fd, entry.mtime_ns)?)
}

/// A symlink that was opened as a path.
fn dress_symlink(link: BorrowedFd<'_>, entry: &Entry) -> io::Result<()> {
    set_owner(link, entry, &stat_of(link)?)?;
    Ok(set_mtime(link, entry.mtime_ns)?)
}

/// Whether that was a change.
fn set_owner(fd: BorrowedFd<'_>, entry: &Entry, before: &Statx) -> io::Result<bool> {
    let (uid, gid) = (entry.uid, entry.gid);
    if (uid, gid) == (before.stx_uid, before.stx_gid) {
        return Ok(false);
    }
    // Linux takes these for "leave it as it is".
    if uid == u32::MAX || gid == u32::MAX {
        let text = format!("{uid}:{gid} is no owner");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let (owner, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    match rustix::fs::chownat(fd, c"", owner, group, AtFlags::EMPTY_PATH) {
        Ok(()) => Ok(true),
        Err(error) => {
            let remedy =
                if error == Errno::PERM { " (does the unit grant CAP_CHOWN?)" } else { "" };
            let error = io::Error::from(error);
            let text = format!("cannot give it to {uid}:{gid}: {error}{remedy}");
            Err(io::Error::new(error.kind(), text))
        }
    }
}

/// What is left to do about the ACL that is tied to the mode.
enum Acl<'a> {
    None,
    /// There was one; the mode is what its mask made of it.
    Removed,
    Set(&'a Xattr),
}

/// Sets and removes all but that ACL.
fn set_xattrs<'a>(fd: BorrowedFd<'_>, xattrs: &'a Xattrs) -> io::Result<Acl<'a>> {
    if let Some(other) = xattrs.0.iter().find(|xattr| !xattrs::is_carried(&xattr.name)) {
        let text = format!("the attribute {} is not carried", other.name.escape_ascii());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut acl = Acl::None;
    for name in xattrs::names(fd)? {
        if !xattrs.0.iter().any(|xattr| xattr.name == name) {
            xattrs::remove(fd, &name)?;
            if name == ACL_ACCESS {
                acl = Acl::Removed;
            }
        }
    }
    for xattr in &xattrs.0 {
        if xattr.name == ACL_ACCESS {
            acl = Acl::Set(xattr);
        } else {
            xattrs::set(fd, xattr)?;
        }
    }
    Ok(acl)
}

/// The time of last access stays as it is.
fn set_mtime(fd: BorrowedFd<'_>, mtime_ns: i64) -> Result<(), Errno> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: mtime_ns.div_euclid(1_000_000_000),
            tv_nsec: mtime_ns.rem_euclid(1_000_000_000),
        },
    };
    rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH)
}

fn mode_of(stat: &Statx) -> u32 {
    u32::from(stat.stx_mode) & 0o7777
}
