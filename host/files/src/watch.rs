//! Where to look: what the kernel says of changes below a root.

mod fanotify;
mod inotify;
mod mailbox;

use crate::path::TreePath;
use std::fs::Metadata;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Hints in one take, about.
const HINTS_MAX: usize = 4_096;
/// Watched at once by inotify: what waits to be taken, each path and kind of change once.
const NOTES_MAX: usize = 65_536;
/// How often it is looked whether the root is there, at most, without a sign that it is not.
const ROOT_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Where something may have changed. Never what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Hint {
    /// Something was made, moved here or away, deleted, or has other attributes, under this name.
    Changed(TreePath),
    /// A file was written to, and may be open for writing still.
    Written(TreePath),
    /// A file that was open for writing was closed.
    Closed(TreePath),
    /// The file of this inode, under whatever names it has: it lost or got one, or was written to
    /// under a name that is gone.
    File(u64),
    /// This folder and all below it: changes in it may have gone unseen.
    Below(TreePath),
    /// Changes anywhere may have gone unseen: the kernel's queue ran over.
    Overflow,
    /// The root is not there any more: unmounted, moved or deleted.
    RootGone,
}

/// Two production implementations: [`fanotify::Fanotify`] and [`inotify::Inotify`].
pub(crate) trait ChangeSource: Send {
    /// Readable when hints wait.
    fn fd(&self) -> RawFd;

    /// Takes what waits, without blocking; at most some thousand hints at a time, and whether more
    /// may wait.
    ///
    /// # Errors
    /// The source is of no use any more; a new one may be.
    fn take(&mut self, hints: &mut Vec<Hint>) -> std::io::Result<bool>;

    /// For status: the mechanism and what it costs.
    fn name(&self) -> &'static str;

    /// Trouble that the operator can mend, such as folders that could not be watched.
    fn trouble(&self) -> Option<String>;
}

/// Which mechanism to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// fanotify where the kernel and privileges allow it, else inotify.
    #[default]
    Auto,
    /// fanotify only.
    Fanotify,
    /// inotify only.
    Inotify,
}

/// Watches a root. Set up before it returns: what changes afterwards is hinted at.
///
/// # Errors
/// When no mechanism of those wanted works; says why for each.
pub(crate) fn watch(root: &Path, mechanism: Mechanism) -> io::Result<Box<dyn ChangeSource>> {
    let fanotify = || Ok::<_, io::Error>(Box::new(fanotify::Fanotify::new(root)?));
    let inotify = || Ok::<_, io::Error>(Box::new(inotify::Inotify::new(root, NOTES_MAX)?));
    let failed = |mechanism: &str, error: &io::Error| {
        let text = format!("cannot watch {} by {mechanism}: {error}", root.display());
        io::Error::new(error.kind(), text)
    };
    match mechanism {
        Mechanism::Fanotify => Ok(fanotify().map_err(|error| failed("fanotify", &error))?),
        Mechanism::Inotify => Ok(inotify().map_err(|error| failed("inotify", &error))?),
        Mechanism::Auto => {
            let first = match fanotify() {
                Ok(source) => return Ok(source),
                Err(error) => error,
            };
            tracing::info!(root = %root.display(), reason = %first, "inotify, not fanotify");
            match inotify() {
                Ok(source) => Ok(source),
                Err(second) => {
                    let both =
                        io::Error::new(second.kind(), format!("{second}; fanotify: {first}"));
                    Err(failed("inotify", &both))
                }
            }
        }
    }
}

/// Adds a hint, if it is not the same as the one before: a file that is written to in small pieces
/// gives many.
fn push(hints: &mut Vec<Hint>, hint: Hint) {
    if hints.last() != Some(&hint) {
        hints.push(hint);
    }
}

/// Whether the path of the root still leads to the folder that is watched.
struct RootCheck {
    path: PathBuf,
    dev: u64,
    ino: u64,
    next: Instant,
}

impl RootCheck {
    fn new(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let found = std::fs::metadata(&path)?;
        if !found.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "the root is no folder"));
        }
        let next = Instant::now() + ROOT_CHECK_INTERVAL;
        Ok(Self { path, dev: found.dev(), ino: found.ino(), next })
    }

    /// Opens the root, for calls relative to it. Not by `O_PATH`: open_by_handle_at(2) refuses it.
    fn open(&self) -> io::Result<OwnedFd> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&self.path, flags, Mode::empty())?;
        let found = rustix::fs::fstat(&root)?;
        if (found.st_dev, found.st_ino) != (self.dev, self.ino) {
            return Err(io::Error::other("the root was replaced while it was opened"));
        }
        Ok(root)
    }

    /// Something was said that may concern the root.
    fn soon(&mut self) {
        self.next = Instant::now();
    }

    /// Looks, if it is time to. A root that cannot be looked at is gone.
    fn is_gone(&mut self) -> bool {
        let now = Instant::now();
        if now < self.next {
            return false;
        }
        self.next = now + ROOT_CHECK_INTERVAL;
        let is_it = |found: Metadata| (found.dev(), found.ino()) == (self.dev, self.ino);
        !std::fs::metadata(&self.path).is_ok_and(is_it)
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
