//! inotify by the `notify` crate, one watch for each folder, and our own recursion.
//!
//! A folder is watched, then listed, then hinted at as a whole: what was made in it before the
//! watch was there is covered by the hint. The crate's thread only notes what it hears; all walking
//! is done in slices by who takes the hints. What was noted of folders is never believed: it says
//! where to look. `inotify(7)`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::mem;
use std::ops::Bound;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::{
    Config, ErrorKind, EventKindMask, INotifyWatcher, PathOp, RecursiveMode, WatchPathConfig,
    Watcher,
};
use rustix::event::epoll;
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::mailbox::{Kind, Mailbox, Note, Writer};
use super::{ChangeSource, HINTS_MAX, Hint, RootCheck, push};
use crate::path::{RESERVED, TreePath};

/// How long one take walks.
const SLICE: Duration = Duration::from_millis(12);
/// Folders that are watched by one call; the crate hands each call to its thread.
const BATCH_FOLDERS: usize = 32;
/// Folders that could not be watched are compared, and tried again, that often.
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// The sysctl that limits watches, as a file.
const LIMIT_FILE: &str = "/proc/sys/fs/inotify/max_user_watches";

/// One watch for each folder.
pub(super) struct Inotify {
    check: RootCheck,
    root: OwnedFd,
    /// Where the root really is.
    real: PathBuf,
    watcher: INotifyWatcher,
    mailbox: Arc<Mailbox>,
    /// Readable when notes wait or folders are to be polled.
    waker: OwnedFd,
    timer: OwnedFd,
    /// Taken out of the mailbox, to be hinted at.
    backlog: Vec<Note>,
    watched: BTreeSet<TreePath>,
    /// Not believed to be watched any more, but the crate may believe it.
    stale: BTreeSet<TreePath>,
    walks: VecDeque<Walk>,
    /// The kernel's queue ran over again while the whole tree is walked.
    lost: bool,
    /// The topmost folders that are not watched, with why: nothing below them is either.
    unwatched: BTreeMap<TreePath, Reason>,
    /// The limit was met: nothing more is watched until the next poll.
    limited: bool,
    /// The timer runs, since there are such folders.
    polls: bool,
    poll_at: Instant,
}

/// Watches and lists folders from one on.
struct Walk {
    top: TreePath,
    todo: Vec<TreePath>,
    /// After an overflow, of all: what it found needs no hint of its own.
    whole: bool,
    /// It was looked at whether there is a folder, and it was hinted at.
    begun: bool,
}

/// Why a folder is not watched.
enum Reason {
    Limit,
    Other(String),
}

impl Inotify {
    /// Watches every folder below the root.
    pub(super) fn new(root: &Path, notes_max: usize) -> io::Result<Self> {
        let check = RootCheck::new(root)?;
        let root = check.open()?;
        let real = std::fs::canonicalize(&check.path)?;
        let mailbox = Arc::new(Mailbox::new(&real, notes_max)?);
        let timer = new_timer()?;
        let waker = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let readable = epoll::EventFlags::IN;
        epoll::add(&waker, &mailbox.bell, epoll::EventData::new_u64(0), readable)?;
        epoll::add(&waker, &timer, epoll::EventData::new_u64(1), readable)?;
        let mut this = Self {
            check,
            root,
            real,
            watcher: new_watcher(&mailbox)?,
            mailbox,
            waker,
            timer,
            backlog: Vec::new(),
            watched: BTreeSet::new(),
            stale: BTreeSet::new(),
            walks: VecDeque::from([Walk::new(TreePath::root(), true)]),
            lost: false,
            unwatched: BTreeMap::new(),
            limited: false,
            polls: false,
            poll_at: Instant::now() + POLL_INTERVAL,
        };
        while !this.walks.is_empty() {
            this.walk(&mut Vec::new())?;
        }
        Ok(this)
    }

    /// Takes over what was noted, and looks at the folders that it speaks of.
    fn empty_mailbox(&mut self, hints: &mut Vec<Hint>) -> io::Result<()> {
        let notes = self.mailbox.empty()?;
        self.backlog.extend(notes.hints);
        if notes.full || notes.lost {
            push(hints, Hint::Overflow);
        }
        if notes.root {
            self.check.soon();
        }
        if notes.lost {
            return self.begin_anew();
        }
        for (kind, path) in &notes.folders {
            if *kind == Kind::Moved {
                self.forget(path);
            }
        }
        let mut tops: Vec<TreePath> = Vec::new();
        let paths: BTreeSet<TreePath> = notes.folders.into_iter().map(|(_, path)| path).collect();
        for path in paths {
            // What is watched was found by listing, after it was watched.
            let is_known =
                self.watched.contains(&path) || tops.last().is_some_and(|top| path.is_within(top));
            if !is_known {
                tops.push(path);
            }
        }
        self.walks.extend(tops.into_iter().map(|top| Walk::new(top, false)));
        Ok(())
    }

    /// After an overflow nothing that the crate believes of paths is certain: a new watcher.
    fn begin_anew(&mut self) -> io::Result<()> {
        if self.walks.iter().any(|walk| walk.whole) {
            self.lost = true; // When this walk is done; else it might never be.
            return Ok(());
        }
        self.lost = false;
        self.watcher = new_watcher(&self.mailbox)?;
        self.watched.clear();
        self.stale.clear();
        self.unwatched.clear();
        self.limited = false;
        self.walks = VecDeque::from([Walk::new(TreePath::root(), true)]);
        Ok(())
    }

    /// Nothing is known of this path any more, nor of what is below it.
    fn forget(&mut self, path: &TreePath) {
        let gone: Vec<TreePath> = within(&self.watched, path);
        for path in gone {
            self.watched.remove(&path);
            self.stale.insert(path);
        }
        self.unwatched.retain(|unwatched, _| !unwatched.is_within(path));
    }

    /// Walks for one slice.
    fn walk(&mut self, hints: &mut Vec<Hint>) -> io::Result<()> {
        let deadline = Instant::now() + SLICE;
        while let Some(mut walk) = self.walks.pop_front() {
            if !walk.begun && self.is_no_folder(&walk.top) {
                self.unwatched.remove(&walk.top);
                walk.todo.clear();
            } else {
                while !walk.todo.is_empty() && Instant::now() < deadline {
                    self.step(&mut walk)?;
                }
                walk.tell(hints);
            }
            walk.begun = true;
            let is_done = walk.todo.is_empty();
            if !is_done {
                self.walks.push_front(walk);
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        if self.walks.is_empty() {
            self.stale.clear();
        }
        if self.lost { self.begin_anew() } else { Ok(()) }
    }

    /// Watches some folders, then lists them.
    fn step(&mut self, walk: &mut Walk) -> io::Result<()> {
        let rest = walk.todo.len().saturating_sub(BATCH_FOLDERS);
        let batch = walk.todo.split_off(rest);
        for path in self.watch(batch)? {
            match self.folders_in(&path) {
                Ok(folders) => {
                    let new = folders.into_iter().filter(|path| !self.watched.contains(path));
                    walk.todo.extend(new);
                }
                Err(errno) if is_no_folder(errno) => {
                    self.watched.remove(&path);
                    self.unwatch(&path);
                }
                Err(errno) => {
                    self.watched.remove(&path);
                    self.unwatch(&path);
                    self.unwatched.insert(path, Reason::Other(errno.to_string()));
                }
            }
        }
        Ok(())
    }

    /// Those of these folders that are watched now.
    fn watch(&mut self, batch: Vec<TreePath>) -> io::Result<Vec<TreePath>> {
        let mut done = Vec::with_capacity(batch.len());
        let mut ops = Vec::with_capacity(batch.len());
        for path in batch {
            self.unwatched.remove(&path);
            if self.limited {
                self.unwatched.insert(path, Reason::Limit);
                continue;
            }
            let full = self.full(&path);
            if self.stale.remove(&path) {
                ops.push(PathOp::Unwatch(full.clone()));
            }
            let how = WatchPathConfig::new(RecursiveMode::NonRecursive);
            ops.push(PathOp::Watch(full, how.with_dereference_symlinks(false)));
            done.push(path);
        }
        while !ops.is_empty() {
            let Err(error) = self.watcher.update_paths(mem::take(&mut ops)) else { break };
            ops = error.remaining;
            let failed = match error.origin {
                Some(PathOp::Watch(full, _)) => full,
                Some(PathOp::Unwatch(_)) => continue, // It was not watched: so much the better.
                None => return Err(io::Error::other(error.source)),
            };
            let Some(failed) = self.mailbox.path_of(&failed) else { continue };
            done.retain(|path| *path != failed);
            if let Some(reason) = reason_of(error.source)? {
                self.limited |= matches!(reason, Reason::Limit);
                self.unwatched.insert(failed, reason);
            }
        }
        self.watched.extend(done.iter().cloned());
        Ok(done)
    }

    fn unwatch(&mut self, path: &TreePath) {
        // The crate may have done so already.
        let _ = self.watcher.unwatch(&self.full(path));
    }

    /// Opens a folder of the tree. No symlink leads out, and no mount.
    fn open(&self, path: &TreePath, how: OFlags) -> Result<OwnedFd, Errno> {
        let flags = how | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let name = path.as_os_str();
        rustix::fs::openat2(&self.root, name, flags, Mode::empty(), resolve)
    }

    /// A file, gone, or of another file system: of that the note was hint enough.
    fn is_no_folder(&self, path: &TreePath) -> bool {
        self.open(path, OFlags::PATH).is_err_and(is_no_folder)
    }

    /// The folders in a folder of the tree.
    fn folders_in(&self, path: &TreePath) -> Result<Vec<TreePath>, Errno> {
        let mut folders = Vec::new();
        let mut dir = Dir::new(self.open(path, OFlags::RDONLY)?)?;
        while let Some(entry) = dir.read() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let ours = path.is_root() && name == RESERVED;
            if matches!(name, b"." | b"..") || ours {
                continue;
            }
            let is_folder = match entry.file_type() {
                FileType::Directory => true,
                FileType::Unknown => {
                    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                    match rustix::fs::statat(dir.fd()?, entry.file_name(), flags) {
                        Ok(found) => FileType::from_raw_mode(found.st_mode).is_dir(),
                        Err(Errno::NOENT) => false,
                        Err(errno) => return Err(errno),
                    }
                }
                _ => false,
            };
            // What no path of a tree can name is in no tree.
            if let (true, Ok(child)) = (is_folder, path.join(name)) {
                folders.push(child);
            }
        }
        Ok(folders)
    }

    /// Tries the folders that are not watched again; either way they are hinted at.
    fn poll(&mut self) -> io::Result<()> {
        let polls = !self.unwatched.is_empty();
        if polls != self.polls {
            set_timer(&self.timer, if polls { POLL_INTERVAL } else { Duration::ZERO })?;
            self.polls = polls;
            self.poll_at = Instant::now() + POLL_INTERVAL;
        }
        if !polls || Instant::now() < self.poll_at {
            return Ok(());
        }
        set_timer(&self.timer, POLL_INTERVAL)?;
        self.poll_at = Instant::now() + POLL_INTERVAL;
        self.limited = false;
        let under_way: BTreeSet<TreePath> =
            self.walks.iter().map(|walk| walk.top.clone()).collect();
        let tops = self.unwatched.keys().filter(|path| !under_way.contains(*path));
        self.walks.extend(tops.map(|top| Walk::new(top.clone(), false)));
        Ok(())
    }

    fn full(&self, path: &TreePath) -> PathBuf {
        if path.is_root() { self.real.clone() } else { self.real.join(path.as_os_str()) }
    }
}

impl ChangeSource for Inotify {
    fn fd(&self) -> RawFd {
        self.waker.as_raw_fd()
    }

    fn take(&mut self, hints: &mut Vec<Hint>) -> io::Result<bool> {
        if Arc::strong_count(&self.mailbox) == 1 {
            return Err(io::Error::other("the thread that reads inotify has ended"));
        }
        if self.backlog.is_empty() {
            self.empty_mailbox(hints)?;
        }
        let rest = self.backlog.len().saturating_sub(HINTS_MAX);
        for (kind, path) in self.backlog.drain(rest..) {
            hints.push(match kind {
                Kind::Changed | Kind::Made | Kind::Moved => Hint::Changed(path),
                Kind::Written => Hint::Written(path),
                Kind::Closed => Hint::Closed(path),
            });
        }
        self.walk(hints)?;
        self.poll()?;
        if self.check.is_gone() {
            push(hints, Hint::RootGone);
        }
        Ok(!self.backlog.is_empty() || !self.walks.is_empty())
    }

    fn name(&self) -> &'static str {
        "inotify"
    }

    fn trouble(&self) -> Option<String> {
        let (first, _) = self.unwatched.first_key_value()?;
        let folders = self.unwatched.len();
        let seconds = POLL_INTERVAL.as_secs();
        let what = format!(
            "{folders} folders (the first is {first}) and what is below them cannot be watched \
             and are compared every {seconds} s instead"
        );
        let other = self.unwatched.values().find_map(|reason| match reason {
            Reason::Limit => None,
            Reason::Other(error) => Some(error),
        });
        if let Some(error) = other {
            return Some(format!("{what}: {error}"));
        }
        let limit = std::fs::read_to_string(LIMIT_FILE).unwrap_or_default();
        let limit = limit.trim();
        Some(format!(
            "{what}: the limit of {limit} inotify watches is reached; raise it with \
             'sysctl -w fs.inotify.max_user_watches=N' and in /etc/sysctl.d"
        ))
    }
}

impl Walk {
    fn new(top: TreePath, whole: bool) -> Self {
        Self { todo: vec![top.clone()], top, whole, begun: false }
    }

    /// Hints at it when all is watched; if that takes long, also before.
    fn tell(&self, hints: &mut Vec<Hint>) {
        let is_done = self.todo.is_empty();
        if self.whole && is_done {
            push(hints, Hint::Overflow);
        } else if !self.whole && (is_done || !self.begun) {
            push(hints, Hint::Below(self.top.clone()));
        }
    }
}

/// Gone, no folder, or a mount: nothing of this tree.
fn is_no_folder(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV)
}

/// Why a folder is not watched; none for one that is gone.
fn reason_of(error: notify::Error) -> io::Result<Option<Reason>> {
    match error.kind {
        ErrorKind::MaxFilesWatch => Ok(Some(Reason::Limit)),
        ErrorKind::PathNotFound => Ok(None),
        ErrorKind::Io(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
            _ => Ok(Some(Reason::Other(error.to_string()))),
        },
        // The crate's thread is gone, or it no longer is the crate that this was written for.
        _ => Err(io::Error::other(error)),
    }
}

/// Never opening or reading: our own looks would be told to us.
fn new_watcher(mailbox: &Arc<Mailbox>) -> io::Result<INotifyWatcher> {
    let kinds = EventKindMask::CORE | EventKindMask::ACCESS_CLOSE;
    let config = Config::default().with_event_kinds(kinds).with_follow_symlinks(false);
    INotifyWatcher::new(Writer(Arc::clone(mailbox)), config).map_err(|error| {
        io::Error::other(format!("{error} (is fs.inotify.max_user_instances reached?)"))
    })
}

/// A timer that does not run yet.
fn new_timer() -> io::Result<OwnedFd> {
    let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
    // SAFETY: no pointers.
    let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Fires once after this time; never for zero. A new time makes it unreadable until then.
fn set_timer(timer: &OwnedFd, after: Duration) -> io::Result<()> {
    let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let value = libc::timespec { tv_sec: after.as_secs() as libc::time_t, tv_nsec: 0 };
    let times = libc::itimerspec { it_interval: never, it_value: value };
    // SAFETY: the descriptor is open, the times outlive the call, and the old ones are not asked.
    let set = unsafe {
        libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const times, std::ptr::null_mut())
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Those within a path, the path itself included.
fn within(paths: &BTreeSet<TreePath>, top: &TreePath) -> Vec<TreePath> {
    // `a-b` is between `a` and `a/b`: it begins alike, but is not within.
    let alike = paths
        .range::<TreePath, _>((Bound::Included(top), Bound::Unbounded))
        .take_while(|path| path.as_bytes().starts_with(top.as_bytes()));
    alike.filter(|path| path.is_within(top)).cloned().collect()
}

#[cfg(test)]
#[path = "inotify_tests.rs"]
mod tests;
