//! Which database a notice of the kernel means. Notices are hints: a database of which none comes
//! is looked at anyway, only later.

use crate::watch::{WalWatch, WatchId, Woken};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

/// What was noticed since.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Noticed {
    /// Databases, by their numbers.
    pub ids: BTreeSet<u32>,
    /// Something appeared in, or went from, a folder.
    pub folders: bool,
    /// Notices were lost: anything may have happened.
    pub all: bool,
}

pub(super) struct Watch {
    kernel: WalWatch,
    logs: BTreeMap<WatchId, u32>,
    /// Each database's log, and whether notices of it are wanted.
    files: BTreeMap<u32, (PathBuf, bool)>,
    folders: BTreeMap<PathBuf, WatchId>,
}

impl Watch {
    pub(super) fn new() -> io::Result<Watch> {
        let kernel = WalWatch::new()?;
        let (logs, files, folders) = Default::default();
        Ok(Watch { kernel, logs, files, folders })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.kernel.fd().as_raw_fd()
    }

    /// Notices writes to this file under this number, in place of an older one's.
    pub(super) fn log(&mut self, file: &Path, id: u32) {
        self.forget(id);
        self.begin(file, id);
        self.files.insert(id, (file.to_owned(), true));
    }

    /// Whether notices of this log are wanted: whoever looks all the time needs none, and each
    /// costs the writer. True when they are from now on, and were not before: what happened
    /// meanwhile was not noticed.
    pub(super) fn want(&mut self, id: u32, wanted: bool) -> bool {
        let Some((file, is_wanted)) = self.files.get_mut(&id).filter(|(_, was)| *was != wanted)
        else {
            return false;
        };
        *is_wanted = wanted;
        let file = file.clone();
        if wanted {
            self.begin(&file, id);
        } else {
            self.end(id);
        }
        wanted
    }

    pub(super) fn forget(&mut self, id: u32) {
        self.files.remove(&id);
        self.end(id);
    }

    fn begin(&mut self, file: &Path, id: u32) {
        match self.kernel.add(file) {
            Ok(watch) => drop(self.logs.insert(watch, id)),
            Err(error) => unwatched(file, &error),
        }
    }

    fn end(&mut self, id: u32) {
        let old: Vec<WatchId> =
            self.logs.iter().filter(|(_, of)| **of == id).map(|(watch, _)| *watch).collect();
        for watch in old {
            self.logs.remove(&watch);
            self.kernel.remove(watch);
        }
    }

    /// Notices what appears in, or goes from, a folder.
    pub(super) fn folder(&mut self, folder: &Path) {
        if self.folders.contains_key(folder) {
            return;
        }
        match self.kernel.add_folder(folder) {
            Ok(watch) => drop(self.folders.insert(folder.to_owned(), watch)),
            Err(error) => unwatched(folder, &error),
        }
    }

    pub(super) fn noticed(&mut self) -> Noticed {
        let mut noticed = Noticed::default();
        let woken = self.kernel.woken().unwrap_or_else(|error| {
            tracing::warn!(%error, "notices of the kernel cannot be read");
            vec![Woken::Overflow]
        });
        for woken in woken {
            match woken {
                Woken::Written(watch) => noticed.ids.extend(self.logs.get(&watch)),
                Woken::Entry(..) => noticed.folders = true,
                Woken::Gone(watch) => {
                    let (log, folders) = (self.logs.remove(&watch), self.folders.len());
                    self.folders.retain(|_, of| *of != watch);
                    // Of others the end was wanted.
                    noticed.folders |= log.is_some() || self.folders.len() < folders;
                    noticed.ids.extend(log);
                }
                Woken::Overflow => {
                    noticed.all = true;
                    noticed.folders = true;
                }
            }
        }
        noticed
    }
}

fn unwatched(path: &Path, error: &io::Error) {
    tracing::debug!(path = %path.display(), %error, "not watched: looked at now and then");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_log_of_which_no_notices_are_wanted_gives_none_until_they_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("app.db-wal");
        let mut file = std::fs::File::create(&path).expect("a file");
        let mut write = || file.write_all(b"frame").expect("written");
        let mut watch = Watch::new().expect("inotify");
        watch.log(&path, 7);
        let written = || Noticed { ids: BTreeSet::from([7]), ..Noticed::default() };
        write();
        assert_eq!(watch.noticed(), written());
        assert!(!watch.want(7, true), "as before");
        assert!(!watch.want(7, false));
        write();
        assert_eq!(watch.noticed(), Noticed::default(), "nor is it taken for gone");
        assert!(watch.want(7, true), "look now");
        write();
        assert_eq!(watch.noticed(), written());
        watch.want(7, false);
        watch.log(&path, 7);
        write();
        assert_eq!(watch.noticed(), written(), "opened anew they are wanted");
        std::fs::remove_file(&path).expect("removed");
        drop(file);
        let gone = watch.noticed();
        assert!(gone.folders && gone.ids == BTreeSet::from([7]), "{gone:?}");
        assert!(!watch.want(8, false), "nobody knows it");
    }
}
