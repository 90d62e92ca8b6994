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
    folders: BTreeMap<PathBuf, WatchId>,
}

impl Watch {
    pub(super) fn new() -> io::Result<Watch> {
        let kernel = WalWatch::new()?;
        Ok(Watch { kernel, logs: BTreeMap::new(), folders: BTreeMap::new() })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.kernel.fd().as_raw_fd()
    }

    /// Notices writes to this file under this number, in place of an older one's.
    pub(super) fn log(&mut self, file: &Path, id: u32) {
        self.forget(id);
        match self.kernel.add(file) {
            Ok(watch) => drop(self.logs.insert(watch, id)),
            Err(error) => unwatched(file, &error),
        }
    }

    pub(super) fn forget(&mut self, id: u32) {
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
                    noticed.ids.extend(self.logs.remove(&watch));
                    self.folders.retain(|_, of| *of != watch);
                    noticed.folders = true;
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
