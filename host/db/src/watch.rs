//! Which database was written: one inotify descriptor for all of them.
//!
//! An event says that somebody writes, not that he has committed: a WAL is modified before its
//! index. Whoever is woken looks again for a while.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// Events are read in pieces of this size; one holds a name of up to 255 bytes.
const READ_BYTES: usize = 16 << 10;
const EVENT_BYTES: usize = size_of::<libc::inotify_event>();

const _: () = assert!(READ_BYTES > EVENT_BYTES + 256);

/// A file or folder that is watched. The same file twice has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(i32);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Woken {
    /// The file was written.
    Written(WatchId),
    /// In this folder a file appeared, vanished, or took the place of another.
    Entry(WatchId, OsString),
    /// The file or folder is gone, and its watch with it.
    Gone(WatchId),
    /// Too much happened: anything may have.
    Overflow,
}

/// Watches files and folders.
#[derive(Debug)]
pub struct WalWatch {
    inotify: OwnedFd,
}

impl WalWatch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// When the system has no inotify instance left (fs.inotify.max_user_instances).
    pub fn new() -> io::Result<WalWatch> {
        // SAFETY: no pointers are passed.
        let descriptor = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made, and nobody else has it.
        Ok(WalWatch { inotify: unsafe { OwnedFd::from_raw_fd(descriptor) } })
    }

    /// Readable when [`WalWatch::woken`] has something to tell.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Watches the WAL of a database, or any file, for writing.
    ///
    /// # Errors
    /// When it does not exist, or there are too many (fs.inotify.max_user_watches).
    pub fn add(&self, file: &Path) -> io::Result<WatchId> {
        self.watch(file, libc::IN_MODIFY)
    }

    /// Watches a folder for files that appear, vanish, or replace others.
    ///
    /// # Errors
    /// When it does not exist, or there are too many.
    pub fn add_folder(&self, folder: &Path) -> io::Result<WatchId> {
        let entries = libc::IN_CREATE | libc::IN_DELETE | libc::IN_MOVED_TO | libc::IN_MOVED_FROM;
        self.watch(folder, entries | libc::IN_ONLYDIR)
    }

    fn watch(&self, path: &Path, mask: u32) -> io::Result<WatchId> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: the name ends with a zero and outlives the call.
        let watch =
            unsafe { libc::inotify_add_watch(self.inotify.as_raw_fd(), name.as_ptr(), mask) };
        if watch < 0 { Err(io::Error::last_os_error()) } else { Ok(WatchId(watch)) }
    }

    /// Ends a watch; one that is gone already is no error.
    pub fn remove(&self, id: WatchId) {
        // SAFETY: no pointers are passed.
        unsafe { libc::inotify_rm_watch(self.inotify.as_raw_fd(), id.0) };
    }

    /// What happened since the last call, each thing once.
    ///
    /// # Errors
    /// What read(2) answers.
    pub fn woken(&self) -> io::Result<Vec<Woken>> {
        let mut found = Vec::new();
        let mut buffer = vec![0u8; READ_BYTES];
        loop {
            // SAFETY: the buffer is as long as is said, and outlives the call.
            let read = unsafe {
                libc::read(self.inotify.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len())
            };
            let Ok(read) = usize::try_from(read) else {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock => break,
                    io::ErrorKind::Interrupted => continue,
                    _ => return Err(error),
                }
            };
            parse(&buffer[..read], &mut found);
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

/// Events as inotify(7) lays them out: watch, mask, cookie, length of the name, name with zeros.
fn parse(mut bytes: &[u8], found: &mut Vec<Woken>) {
    while bytes.len() >= EVENT_BYTES {
        let word = |at: usize| <[u8; 4]>::try_from(&bytes[at..at + 4]).expect("four bytes");
        let id = WatchId(i32::from_ne_bytes(word(0)));
        let mask = u32::from_ne_bytes(word(4));
        let end = EVENT_BYTES + u32::from_ne_bytes(word(12)) as usize;
        let name = &bytes[EVENT_BYTES..end];
        if mask & libc::IN_Q_OVERFLOW != 0 {
            found.push(Woken::Overflow);
        } else if mask & libc::IN_IGNORED != 0 {
            found.push(Woken::Gone(id));
        } else if name.is_empty() {
            found.push(Woken::Written(id));
        } else {
            let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
            found.push(Woken::Entry(id, OsString::from_vec(name[..length].to_vec())));
        }
        bytes = &bytes[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn each_writing_and_each_entry_is_told_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
        let mut file = std::fs::File::create(&one).expect("a file");
        std::fs::write(&two, b"2").expect("a file");
        let watch = WalWatch::new().expect("inotify");
        let first = watch.add(&one).expect("a watch");
        let second = watch.add(&two).expect("a watch");
        let entries = watch.add_folder(folder.path()).expect("a watch");
        assert_ne!(first, second);
        assert_eq!(watch.woken().expect("events"), []);
        for _ in 0..3 {
            file.write_all(b"frame").expect("written");
        }
        assert_eq!(watch.woken().expect("events"), [Woken::Written(first)]);
        std::fs::rename(&one, &two).expect("renamed");
        let told = watch.woken().expect("events");
        assert!(told.contains(&Woken::Entry(entries, "two".into())), "{told:?}");
        assert!(told.contains(&Woken::Gone(second)), "{told:?}");
        file.write_all(b"more").expect("written");
        assert_eq!(watch.woken().expect("events"), [Woken::Written(first)]);
        watch.remove(first);
        watch.woken().expect("events");
        file.write_all(b"unheard").expect("written");
        assert_eq!(watch.woken().expect("events"), []);
    }
}
