//! `.staffetta`, Staffetta's own folder at the root of a tree. Nobody else may have a say in it:
//! what is there in another shape is an error, never mended.

use super::{Tree, beneath, random_name, remove, stat_of, xattrs};
use crate::path::{RESERVED, TreePath};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

/// The file by which a tree is known again.
const MARKER: &[u8] = b"root";
/// 32 hex digits and a line feed.
const MARKER_BYTES: usize = 33;
/// Parts of large files that nobody asked for in so long are removed.
const PART_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// To list it, and to make it durable.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

impl Tree {
    /// What the marker says; none when there is none. 16 bytes as 32 hex digits and a line feed.
    pub(crate) fn marker(&self) -> io::Result<Option<[u8; 16]>> {
        let Some(own) = self.own(false)? else { return Ok(None) };
        let file = match beneath(&own, MARKER, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(self.failed_own("read", "root", error)),
        };
        let mut text = Vec::new();
        file.take(MARKER_BYTES as u64 + 1)
            .read_to_end(&mut text)
            .map_err(|error| self.failed_own("read", "root", error))?;
        parse_marker(&text).map(Some).ok_or_else(|| {
            let text = format!(
                "{}/.staffetta/root is damaged: restore it, or remove it to begin anew",
                self.path.display()
            );
            io::Error::new(io::ErrorKind::InvalidData, text)
        })
    }

    /// Makes Staffetta's own folder (mode 0700) and the marker, durably.
    pub(crate) fn mark(&self, id: &[u8; 16]) -> io::Result<()> {
        let own = self.own(true)?.ok_or_else(|| self.vanished("."))?;
        let mut text: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        text.push('\n');
        let failed = |error: io::Error| self.failed_own("write", "root", error);
        let (tmp, name, fd) = self.in_tmp(|tmp, name| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::openat(tmp, name, flags | OFlags::CLOEXEC, mode)
        })?;
        let mut file = File::from(fd);
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        rustix::fs::renameat(&*tmp, &*name, &own, MARKER)
            .and_then(|()| rustix::fs::fsync(&own))
            .and_then(|()| rustix::fs::fsync(&self.root))
            .map_err(|error| failed(error.into()))
    }

    /// Removes what a crash left in `tmp`, and parts that are older than a day. Not while there are
    /// temps.
    pub(crate) fn clean(&self) -> io::Result<()> {
        if let Some(tmp) = self.own_folder("tmp", false)? {
            let mut all = usize::MAX;
            remove::empty(&tmp, &mut all)
                .map_err(|error| self.failed_own("clean", "tmp", error))?;
        }
        let Some(part) = self.own_folder("part", false)? else { return Ok(()) };
        self.clean_parts(&part).map_err(|error| self.failed_own("clean", "part", error))
    }

    fn clean_parts(&self, part: &OwnedFd) -> io::Result<()> {
        for name in remove::names(part)? {
            let stat = match rustix::fs::statat(part, &*name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            let changed = u64::try_from(stat.st_mtime).unwrap_or(0);
            let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(changed.min(1 << 40));
            let now = SystemTime::now();
            let apart = now.duration_since(changed).unwrap_or_else(|error| error.duration());
            if apart > PART_AGE_MAX {
                remove::whole(part, &name, &mut { usize::MAX })?;
            }
        }
        Ok(())
    }

    /// `.staffetta`. None when it is not there and not to be made.
    pub(super) fn own(&self, make: bool) -> io::Result<Option<OwnedFd>> {
        self.folder_of_ours(&self.root, RESERVED, ".", make)
    }

    /// A folder in it.
    pub(super) fn own_folder(&self, name: &str, make: bool) -> io::Result<Option<OwnedFd>> {
        let Some(own) = self.own(make)? else { return Ok(None) };
        self.folder_of_ours(&own, name.as_bytes(), name, make)
    }

    /// `.staffetta/tmp`, made if need be.
    fn tmp(&self) -> io::Result<Arc<OwnedFd>> {
        let mut tmp = self.tmp.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tmp) = &*tmp {
            return Ok(Arc::clone(tmp));
        }
        let opened = self.own_folder("tmp", true)?.ok_or_else(|| self.vanished("tmp"))?;
        Ok(Arc::clone(tmp.insert(Arc::new(opened))))
    }

    /// Makes something in `.staffetta/tmp` under a new name.
    pub(super) fn in_tmp<T>(
        &self,
        make: impl Fn(&OwnedFd, &str) -> Result<T, Errno>,
    ) -> io::Result<(Arc<OwnedFd>, String, T)> {
        let mut reopened = false;
        loop {
            let tmp = self.tmp()?;
            let name = random_name()?;
            match make(&tmp, &name) {
                Ok(made) => return Ok((tmp, name, made)),
                Err(Errno::EXIST) => {}
                // Somebody removed the folder that was kept open.
                Err(Errno::NOENT) if !reopened => {
                    reopened = true;
                    *self.tmp.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
                Err(error) => return Err(self.failed_own("write in", "tmp", error)),
            }
        }
    }

    /// Opens or makes a folder that must be ours alone.
    fn folder_of_ours(
        &self,
        dir: impl AsFd,
        name: &[u8],
        shown: &str,
        make: bool,
    ) -> io::Result<Option<OwnedFd>> {
        let mut made = false;
        let folder = loop {
            match beneath(&dir, name, FOLDER) {
                Ok(folder) => break folder,
                Err(Errno::NOENT) if !make => return Ok(None),
                Err(Errno::NOENT) => {}
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    return Err(self.not_ours(shown, "is no folder: move it away"));
                }
                Err(Errno::XDEV) => {
                    return Err(self.not_ours(shown, "is another file system: unmount it"));
                }
                Err(error) => return Err(self.failed_own("open", shown, error)),
            }
            match rustix::fs::mkdirat(&dir, name, Mode::RWXU) {
                Ok(()) => made = true,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(self.failed_own("make", shown, error)),
            }
        };
        let stat = stat_of(&folder).map_err(|error| self.failed_own("look at", shown, error))?;
        if stat.stx_uid != 0 && stat.stx_uid != rustix::process::geteuid().as_raw() {
            return Err(self.not_ours(shown, "belongs to another user: move it away"));
        }
        if stat.stx_mode & 0o077 != 0 {
            return Err(self.not_ours(shown, "is open to other users: chmod 700, or move it away"));
        }
        if made {
            // What it inherited would be inherited further.
            for acl in [xattrs::ACL_DEFAULT, xattrs::ACL_ACCESS] {
                xattrs::remove(&folder, acl)?;
            }
        }
        Ok(Some(folder))
    }

    fn own_path(&self, shown: &str) -> String {
        let own = TreePath::root();
        match shown {
            "." => format!("{}/.staffetta", self.full(&own)),
            shown => format!("{}/.staffetta/{shown}", self.full(&own)),
        }
    }

    fn not_ours(&self, shown: &str, why: &str) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("{} {why}", self.own_path(shown)))
    }

    fn vanished(&self, shown: &str) -> io::Error {
        self.failed_own("open", shown, Errno::NOENT)
    }

    /// As [`Tree::failed`], for what is in `.staffetta`.
    pub(super) fn failed_own(
        &self,
        what: &str,
        shown: &str,
        error: impl Into<io::Error>,
    ) -> io::Error {
        let error: io::Error = error.into();
        let path = self.own_path(shown);
        io::Error::new(error.kind(), format!("cannot {what} {path}: {error}"))
    }
}

fn parse_marker(text: &[u8]) -> Option<[u8; 16]> {
    let text: &[u8; MARKER_BYTES] = text.try_into().ok()?;
    let (digits, rest) = text.split_at(MARKER_BYTES - 1);
    if rest != b"\n" {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(id)
}
