//! Between the thread of the `notify` crate and who takes the hints: what was heard, each once.

use std::collections::HashSet;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::EventHandler;
use notify::event::{
    AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RemoveKind, RenameMode,
};
use rustix::event::EventfdFlags;
use rustix::io::Errno;

use crate::path::TreePath;

/// What a change does to our knowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Changed,
    Written,
    Closed,
    /// A folder was made.
    Made,
    /// Something was moved here or away, or deleted: what was known below is known no more.
    Moved,
}

/// What the crate's thread heard.
pub(super) type Note = (Kind, TreePath);

#[derive(Default)]
pub(super) struct Notes {
    pub(super) hints: HashSet<Note>,
    pub(super) folders: HashSet<Note>,
    /// Hints were dropped.
    pub(super) full: bool,
    /// It is not known any more which folders there are.
    pub(super) lost: bool,
    pub(super) root: bool,
}

/// Between the crate's thread and ours. Each note is in it once, and it is bounded.
pub(super) struct Mailbox {
    notes: Mutex<Notes>,
    pub(super) bell: OwnedFd,
    root: Vec<u8>,
    notes_max: usize,
}

/// The crate's end of the mailbox.
pub(super) struct Writer(pub(super) Arc<Mailbox>);

impl Mailbox {
    /// For a root that is really there; `notes_max` bounds hints and folders, each.
    pub(super) fn new(root: &Path, notes_max: usize) -> io::Result<Self> {
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let root = root.as_os_str().as_bytes().to_vec();
        Ok(Self { notes: Mutex::default(), bell, root, notes_max })
    }

    /// Takes all that waits.
    pub(super) fn empty(&self) -> io::Result<Notes> {
        let mut count = [0; 8];
        match rustix::io::read(&self.bell, &mut count) {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(mem::take(&mut *self.notes()))
    }

    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The path inside the tree; none for what is not in it.
    pub(super) fn path_of(&self, path: &Path) -> Option<TreePath> {
        let rest = path.as_os_str().as_bytes().strip_prefix(self.root.as_slice())?;
        TreePath::parse(rest.strip_prefix(b"/").unwrap_or(rest)).ok()
    }

    /// Whether it was empty before and is not now.
    fn note(&self, event: notify::Result<notify::Event>) -> bool {
        let mut notes = self.notes();
        let was_empty = notes.is_empty();
        let Ok(event) = event else {
            notes.lost = true;
            return was_empty;
        };
        if event.need_rescan() {
            notes.lost = true;
        } else if let Some(kind) = kind_of(event.kind) {
            for path in event.paths.iter().filter_map(|path| self.path_of(path)) {
                notes.root |= path.is_root();
                notes.add(kind, path, self.notes_max);
            }
        }
        was_empty && !notes.is_empty()
    }

    fn ring(&self) {
        // It fails only when the counter is full: then it rings already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

impl Notes {
    fn is_empty(&self) -> bool {
        self.hints.is_empty() && self.folders.is_empty() && !self.full && !self.lost
    }

    fn add(&mut self, kind: Kind, path: TreePath, notes_max: usize) {
        if matches!(kind, Kind::Made | Kind::Moved) {
            if self.folders.len() < notes_max {
                self.folders.insert((kind, path.clone()));
            } else {
                self.lost = true;
            }
        }
        let hint = match kind {
            Kind::Changed | Kind::Made | Kind::Moved => Kind::Changed,
            Kind::Written => Kind::Written,
            Kind::Closed => Kind::Closed,
        };
        if self.hints.len() < notes_max {
            self.hints.insert((hint, path));
        } else {
            self.full = true;
        }
    }
}

impl EventHandler for Writer {
    fn handle_event(&mut self, event: notify::Result<notify::Event>) {
        if self.0.note(event) {
            self.0.ring();
        }
    }
}

/// None for what is told twice.
fn kind_of(kind: EventKind) -> Option<Kind> {
    match kind {
        EventKind::Create(CreateKind::Folder) => Some(Kind::Made),
        EventKind::Create(_) => Some(Kind::Changed),
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => None,
        EventKind::Remove(RemoveKind::File) => Some(Kind::Changed),
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => Some(Kind::Moved),
        EventKind::Modify(ModifyKind::Data(_)) => Some(Kind::Written),
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Kind::Closed),
        EventKind::Access(_) => None,
        EventKind::Modify(_) | EventKind::Any | EventKind::Other => Some(Kind::Changed),
    }
}
