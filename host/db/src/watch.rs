//! Notices of the kernel that a log was written to, for many databases on one descriptor
//! (inotify(7)). Hints, never the truth: whoever is not noticed is looked at anyway, only later.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Bytes read at one time: some hundred notices.
const BUFFER_BYTES: usize = 16 * 1024;

/// What was noticed since.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Noticed {
    /// Numbers that were given to [`Watch::log`].
    pub ids: BTreeSet<u32>,
    /// Something appeared in, or went from, a folder.
    pub folders: bool,
    /// Notices were lost: anything may have happened.
    pub all: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Watched {
    Log(u32),
    Folder,
}

/// One inotify descriptor.
#[derive(Debug)]
pub(crate) struct Watch {
    fd: OwnedFd,
    watched: BTreeMap<i32, Watched>,
    folders: BTreeSet<PathBuf>,
}

impl Watch {
    pub(crate) fn new() -> io::Result<Watch> {
        // SAFETY: only makes a descriptor.
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Watch { fd, watched: BTreeMap::new(), folders: BTreeSet::new() })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Notices writes to this file under this number, in place of an older one's.
    pub(crate) fn log(&mut self, file: &Path, id: u32) {
        self.forget(id);
        if let Some(number) = self.add(file, libc::IN_MODIFY) {
            self.watched.insert(number, Watched::Log(id));
        }
    }

    pub(crate) fn forget(&mut self, id: u32) {
        let gone: Vec<i32> = self
            .watched
            .iter()
            .filter(|(_, watched)| **watched == Watched::Log(id))
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            self.watched.remove(&number);
            // SAFETY: takes two numbers. A file that is gone has no watch any more.
            unsafe { libc::inotify_rm_watch(self.fd(), number) };
        }
    }

    /// Notices what appears in, or goes from, a folder.
    pub(crate) fn folder(&mut self, folder: &Path) {
        if self.folders.contains(folder) {
            return;
        }
        let what = libc::IN_CREATE | libc::IN_MOVED_TO | libc::IN_MOVED_FROM | libc::IN_DELETE;
        if let Some(number) = self.add(folder, what | libc::IN_ONLYDIR) {
            self.watched.insert(number, Watched::Folder);
            self.folders.insert(folder.to_owned());
        }
    }

    fn add(&self, path: &Path, what: u32) -> Option<i32> {
        let name = CString::new(path.as_os_str().as_bytes()).ok()?;
        // SAFETY: the name is a C string that lives for the call.
        let number = unsafe { libc::inotify_add_watch(self.fd(), name.as_ptr(), what) };
        if number < 0 {
            let error = io::Error::last_os_error();
            tracing::debug!(path = %path.display(), %error, "not watched: looked at now and then");
            return None;
        }
        Some(number)
    }

    /// What was noticed since the last call.
    pub(crate) fn noticed(&mut self) -> Noticed {
        let mut noticed = Noticed::default();
        let mut buffer = [0u8; BUFFER_BYTES];
        loop {
            // SAFETY: reads at most as many bytes as the buffer has.
            let count =
                unsafe { libc::read(self.fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            let Ok(count) = usize::try_from(count) else { return noticed };
            if count == 0 {
                return noticed;
            }
            self.read(&buffer[..count], &mut noticed);
        }
    }

    fn read(&mut self, mut bytes: &[u8], noticed: &mut Noticed) {
        // struct inotify_event: watch, mask, cookie, length of the name, name.
        while let Some((head, rest)) = bytes.split_first_chunk::<16>() {
            let word = |at: usize| {
                u32::from_ne_bytes(head[at..at + 4].try_into().expect("four bytes"))
            };
            let (number, mask) = (word(0).cast_signed(), word(4));
            bytes = rest.get(word(12) as usize..).unwrap_or_default();
            if mask & libc::IN_Q_OVERFLOW != 0 {
                noticed.all = true;
                noticed.folders = true;
            }
            match self.watched.get(&number) {
                Some(Watched::Log(id)) => drop(noticed.ids.insert(*id)),
                Some(Watched::Folder) => noticed.folders = true,
                None => {}
            }
            if mask & libc::IN_IGNORED != 0 && self.watched.remove(&number).is_some() {
                // A folder that is gone may come back, and is watched then.
                self.folders.retain(|folder| folder.is_dir());
                noticed.folders = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_new_files_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a.db-wal");
        std::fs::write(&log, "x").unwrap();
        let mut watch = Watch::new().unwrap();
        watch.log(&log, 7);
        watch.folder(folder.path());
        assert_eq!(watch.noticed(), Noticed::default());
        std::fs::write(&log, "yy").unwrap();
        let noticed = watch.noticed();
        assert_eq!((noticed.ids, noticed.all), (BTreeSet::from([7]), false));
        std::fs::write(folder.path().join("b.db"), "x").unwrap();
        assert!(watch.noticed().folders);
        watch.forget(7);
        watch.noticed();
        std::fs::write(&log, "zzz").unwrap();
        assert!(watch.noticed().ids.is_empty());
    }

    #[test]
    fn lost_notices_mean_everything() {
        let mut watch = Watch::new().unwrap();
        let mut bytes = Vec::new();
        for word in [u32::MAX, libc::IN_Q_OVERFLOW, 0, 0] {
            bytes.extend(word.to_ne_bytes());
        }
        let mut noticed = Noticed::default();
        watch.read(&bytes, &mut noticed);
        assert!(noticed.all && noticed.folders);
    }
}
