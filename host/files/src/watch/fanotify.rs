//! fanotify: one mark for the whole file system, events with the folder's file handle and a name.
//!
//! No watch for each folder: set up at once, and a new folder is never missed. The price is that
//! every change on the file system is told; what is elsewhere is known by its folder's handle.
//! A file that gets or loses a name (hard links) is told by its own handle, without a name.
//! `fanotify(7)`, `fanotify_init(2)`, `fanotify_mark(2)`, `open_by_handle_at(2)`.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{ChangeSource, HINTS_MAX, Hint, RootCheck, push};
use crate::path::{PathError, TreePath};

/// Folders whose path is remembered, those elsewhere on the file system included.
const CACHE_FOLDERS_MAX: usize = 65_536;
/// Read from the kernel at once; an event with the longest handle and name takes some 450 bytes.
const READ_BYTES: usize = 64 * 1024;
/// `MAX_HANDLE_SZ` of linux/fs.h.
const HANDLE_BYTES_MAX: usize = 128;
/// Length and type in front of a handle's bytes (`struct file_handle`).
const HANDLE_HEAD_BYTES: usize = size_of::<libc::file_handle>();
/// What the kernel appends to the path of a folder that was deleted while somebody has it open.
const DELETED: &[u8] = b" (deleted)";

/// Never `FAN_OPEN` or `FAN_ACCESS`: our own looks would be told to us.
const MASK: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_MOVED_FROM
    | libc::FAN_MOVED_TO
    | libc::FAN_MODIFY
    | libc::FAN_CLOSE_WRITE
    | libc::FAN_ATTRIB
    | libc::FAN_ONDIR;

/// One mark on the file system of the root.
pub(super) struct Fanotify {
    group: File,
    places: Places,
    check: RootCheck,
    buffer: Box<[u8]>,
}

/// Which folder of the tree a handle is.
struct Places {
    root: OwnedFd,
    /// The path of the root in this process's mounts; none when it has to be asked for again.
    root_path: Option<Vec<u8>>,
    /// By handle; none for what is not in the tree. A handle is never used again for another
    /// folder, so only moves make it untrue, and a deleted folder's last path stays known.
    known: HashMap<Box<[u8]>, Option<TreePath>>,
}

/// What a handle leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Tree(TreePath),
    Elsewhere,
    /// It was deleted, and nobody remembers where it was.
    Gone,
}

impl Fanotify {
    /// Marks the file system and proves that its handles lead back to paths.
    pub(super) fn new(root: &Path) -> io::Result<Self> {
        let check = RootCheck::new(root)?;
        let flags = libc::FAN_CLASS_NOTIF
            | libc::FAN_CLOEXEC
            | libc::FAN_NONBLOCK
            | libc::FAN_REPORT_DFID_NAME
            | libc::FAN_REPORT_FID
            | libc::FAN_UNLIMITED_QUEUE;
        // SAFETY: no pointers.
        let fd = unsafe { libc::fanotify_init(flags, (libc::O_RDONLY | libc::O_CLOEXEC) as u32) };
        if fd < 0 {
            return Err(explain("fanotify_init", "does the unit grant CAP_SYS_ADMIN?"));
        }
        // SAFETY: the call just made it, and nobody else has it.
        let group = unsafe { File::from_raw_fd(fd) };
        let how = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
        let root = check.open()?;
        // SAFETY: the path is a C string, and both descriptors are open.
        let marked = unsafe {
            libc::fanotify_mark(group.as_raw_fd(), how, MASK, root.as_raw_fd(), c".".as_ptr())
        };
        if marked < 0 {
            return Err(explain("fanotify_mark", "does the file system have file handles?"));
        }
        let mut places = Places { root, root_path: None, known: HashMap::new() };
        let own = handle_of(places.root.as_raw_fd())?;
        if places.ask(&own)? != Place::Tree(TreePath::root()) {
            return Err(io::Error::other("a file handle of the root does not lead back to it"));
        }
        Ok(Self { group, places, check, buffer: vec![0; READ_BYTES].into() })
    }

    /// One event of the kernel.
    fn event(&mut self, at: std::ops::Range<usize>, hints: &mut Vec<Hint>) {
        let event = &self.buffer[at];
        let mask = u64_at(event, offset_of!(libc::fanotify_event_metadata, mask));
        if mask & libc::FAN_Q_OVERFLOW != 0 {
            return push(hints, Hint::Overflow);
        }
        let subject = parse_info(event).unwrap_or_default();
        let (handle, name) = match (subject.name, subject.file) {
            (Some(named), _) => named,
            (None, Some(file)) => return self.places.tell_file(file, hints),
            (None, None) => {
                tracing::debug!(mask, "an event of fanotify without folder and name");
                return push(hints, Hint::Overflow);
            }
        };
        let folder_moved =
            mask & libc::FAN_ONDIR != 0 && mask & (libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO) != 0;
        match self.places.find(handle) {
            Ok(Place::Tree(folder)) => {
                if folder_moved {
                    self.places.forget();
                }
                // Who has it open writes under this name, whatever became of that.
                let is_written = mask & (libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE) != 0;
                if is_written
                    && let Some(file) = subject.file
                    && !self.places.is_at(file, &folder, name)
                {
                    self.places.tell_file(file, hints);
                }
                tell(&folder, name, mask, hints);
            }
            Ok(Place::Elsewhere) => {
                // The folder may be the root itself, or one that the root is in.
                if mask & libc::FAN_ONDIR != 0
                    && mask & (libc::FAN_MOVED_FROM | libc::FAN_DELETE) != 0
                {
                    self.places.root_path = None;
                    self.check.soon();
                }
            }
            // Of a folder that is gone its own parent tells, or the topmost parent that is left.
            Ok(Place::Gone) => {
                if folder_moved {
                    self.places.forget();
                }
            }
            Err(error) => {
                tracing::debug!(%error, "cannot tell the folder of a change");
                self.places.forget();
                push(hints, Hint::Overflow);
            }
        }
    }
}

impl ChangeSource for Fanotify {
    fn fd(&self) -> RawFd {
        self.group.as_raw_fd()
    }

    fn take(&mut self, hints: &mut Vec<Hint>) -> io::Result<bool> {
        let until = hints.len() + HINTS_MAX;
        let more = loop {
            if hints.len() >= until {
                break true;
            }
            let read = match rustix::io::read(&self.group, &mut *self.buffer) {
                Ok(read) => read,
                Err(rustix::io::Errno::AGAIN) => break false,
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let mut start = 0;
            while start < read {
                let length = event_length(&self.buffer[start..read])?;
                self.event(start..start + length, hints);
                start += length;
            }
        };
        if self.check.is_gone() {
            push(hints, Hint::RootGone);
        }
        Ok(more)
    }

    fn name(&self) -> &'static str {
        "fanotify"
    }

    fn trouble(&self) -> Option<String> {
        None
    }
}

impl Places {
    /// Hints at a file by its inode, if it is there.
    fn tell_file(&self, handle: &[u8], hints: &mut Vec<Hint>) {
        match inode_of(self.root.as_raw_fd(), handle) {
            Ok(Some(ino)) => push(hints, Hint::File(ino)),
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, "cannot tell the file of a change");
                push(hints, Hint::Overflow);
            }
        }
    }

    /// Whether the file of this handle has this name.
    fn is_at(&self, handle: &[u8], folder: &TreePath, name: &[u8]) -> bool {
        let Ok(path) = folder.join(name) else { return true };
        let there =
            CString::new(path.as_bytes()).map(|path| handle_at(self.root.as_raw_fd(), &path));
        there.is_ok_and(|there| there.is_ok_and(|there| *there == *handle))
    }

    /// Where the folder of this handle is, or was last.
    fn find(&mut self, handle: &[u8]) -> io::Result<Place> {
        if let Some(known) = self.known.get(handle) {
            return Ok(known.clone().map_or(Place::Elsewhere, Place::Tree));
        }
        let place = self.ask(handle)?;
        let known = match &place {
            Place::Tree(path) => Some(path.clone()),
            Place::Elsewhere => None,
            Place::Gone => return Ok(place),
        };
        if self.known.len() >= CACHE_FOLDERS_MAX {
            self.known.clear();
        }
        self.known.insert(handle.into(), known);
        Ok(place)
    }

    /// A folder was moved: any path may be another one now.
    fn forget(&mut self) {
        self.known.clear();
        self.root_path = None;
    }

    /// Asks the kernel.
    fn ask(&mut self, handle: &[u8]) -> io::Result<Place> {
        let folder = match open_handle(self.root.as_raw_fd(), handle, libc::O_DIRECTORY) {
            Ok(folder) => folder,
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => return Ok(Place::Gone),
            Err(error) => return Err(error),
        };
        loop {
            let path = path_of(&folder)?;
            if path.ends_with(DELETED) && rustix::fs::fstat(&folder)?.st_nlink == 0 {
                return Ok(Place::Gone);
            }
            let root = match &self.root_path {
                Some(root) => root,
                None => self.root_path.insert(path_of(&self.root)?),
            };
            if let Some(rest) = below(&path, root) {
                // What is deeper or longer than a path of a tree may be is in no tree.
                return Ok(TreePath::parse(rest).map_or(Place::Elsewhere, Place::Tree));
            }
            let now = path_of(&self.root)?;
            if now == *root {
                return Ok(Place::Elsewhere);
            }
            self.root_path = Some(now);
        }
    }
}

/// The hints of one event in a folder of the tree. The kernel merges events of the same name.
fn tell(folder: &TreePath, name: &[u8], mask: u64, hints: &mut Vec<Hint>) {
    let path = match name {
        b"" | b"." => folder.clone(),
        name => match folder.join(name) {
            Ok(path) => path,
            // Our own folder; and what no path of a tree can name.
            Err(PathError::Reserved | PathError::Long | PathError::Deep) => return,
            Err(PathError::LongName | PathError::Name) => return,
        },
    };
    let appeared = mask & (libc::FAN_CREATE | libc::FAN_MOVED_TO) != 0;
    let entry = libc::FAN_DELETE | libc::FAN_MOVED_FROM | libc::FAN_ATTRIB;
    if appeared || mask & entry != 0 {
        push(hints, Hint::Changed(path.clone()));
    }
    if appeared && mask & libc::FAN_ONDIR != 0 {
        return push(hints, Hint::Below(path));
    }
    if mask & libc::FAN_CLOSE_WRITE != 0 {
        push(hints, Hint::Closed(path));
    } else if mask & libc::FAN_MODIFY != 0 {
        push(hints, Hint::Written(path));
    }
}

/// What is left of an absolute path below another.
fn below<'a>(path: &'a [u8], root: &[u8]) -> Option<&'a [u8]> {
    if root == b"/" {
        return path.strip_prefix(b"/");
    }
    let rest = path.strip_prefix(root)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
}

/// The length of the event at the start of these bytes.
fn event_length(bytes: &[u8]) -> io::Result<usize> {
    let head = size_of::<libc::fanotify_event_metadata>();
    let version = bytes.get(offset_of!(libc::fanotify_event_metadata, vers));
    let length = if bytes.len() < head { 0 } else { u32_at(bytes, 0) as usize };
    if length < head || length > bytes.len() || version != Some(&libc::FANOTIFY_METADATA_VERSION) {
        return Err(io::Error::other("the kernel's events of fanotify have another form"));
    }
    Ok(length)
}

/// What an event is of; handles with their heads.
#[derive(Default)]
struct Subject<'a> {
    /// A folder, and a name in it.
    name: Option<(&'a [u8], &'a [u8])>,
    /// A file, whatever its names are.
    file: Option<&'a [u8]>,
}

/// Reads the records of an event: `struct fanotify_event_info_fid` of linux/fanotify.h. None when
/// they have another form.
fn parse_info(event: &[u8]) -> Option<Subject<'_>> {
    let head = size_of::<libc::fanotify_event_info_fid>();
    let mut rest = event.get(size_of::<libc::fanotify_event_metadata>()..)?;
    let mut subject = Subject::default();
    while rest.len() >= head {
        let length = usize::from(u16::from_ne_bytes([rest[2], rest[3]]));
        let record = rest.get(..length).filter(|record| record.len() >= head)?;
        match rest[0] {
            libc::FAN_EVENT_INFO_TYPE_DFID_NAME => {
                let (folder, name) = handle_in(record)?;
                subject.name = Some((folder, CStr::from_bytes_until_nul(name).ok()?.to_bytes()));
            }
            libc::FAN_EVENT_INFO_TYPE_DFID => subject.name = Some((handle_in(record)?.0, b".")),
            libc::FAN_EVENT_INFO_TYPE_FID => subject.file = Some(handle_in(record)?.0),
            // Of a kind that this version does not know.
            _ => {}
        }
        rest = &rest[length..];
    }
    Some(subject)
}

/// The handle in a record, with its head, and what follows it.
fn handle_in(record: &[u8]) -> Option<(&[u8], &[u8])> {
    let handle = record.get(size_of::<libc::fanotify_event_info_fid>()..)?;
    let bytes = u32_at(handle.get(..HANDLE_HEAD_BYTES)?, 0) as usize;
    handle.split_at_checked(HANDLE_HEAD_BYTES.checked_add(bytes)?)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Room for a `struct file_handle` and its bytes, aligned for it.
#[repr(C, align(8))]
struct HandleRoom([u8; HANDLE_HEAD_BYTES + HANDLE_BYTES_MAX]);

/// The handle of an open folder, with its head.
fn handle_of(folder: RawFd) -> io::Result<Box<[u8]>> {
    handle_at(folder, c"")
}

/// The handle of a path in a folder, of itself where it is empty. A symlink at its end is not
/// followed.
fn handle_at(folder: RawFd, path: &CStr) -> io::Result<Box<[u8]>> {
    let mut room = HandleRoom([0; HANDLE_HEAD_BYTES + HANDLE_BYTES_MAX]);
    room.0[..4].copy_from_slice(&(HANDLE_BYTES_MAX as u32).to_ne_bytes());
    let mut mount = 0;
    // SAFETY: the room is aligned, begins with the size that follows its head, and outlives the
    // call, as do the path and the mount's number.
    let made = unsafe {
        libc::name_to_handle_at(
            folder,
            path.as_ptr(),
            room.0.as_mut_ptr().cast(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if made < 0 {
        return Err(explain("name_to_handle_at", "does the file system have file handles?"));
    }
    let length = HANDLE_HEAD_BYTES + u32_at(&room.0, 0) as usize;
    Ok(room.0[..length].into())
}

/// The inode of a handle; none when the file is gone.
fn inode_of(root: RawFd, handle: &[u8]) -> io::Result<Option<u64>> {
    match open_handle(root, handle, 0) {
        Ok(file) => {
            let found = rustix::fs::fstat(&file)?;
            Ok((found.st_nlink > 0).then_some(found.st_ino))
        }
        Err(error) if error.raw_os_error() == Some(libc::ESTALE) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens what a handle on the file system of `root` is of, for its path only.
fn open_handle(root: RawFd, handle: &[u8], kind: libc::c_int) -> io::Result<OwnedFd> {
    let mut room = HandleRoom([0; HANDLE_HEAD_BYTES + HANDLE_BYTES_MAX]);
    let Some(place) = room.0.get_mut(..handle.len()) else {
        return Err(io::Error::other("a file handle is longer than the kernel makes them"));
    };
    place.copy_from_slice(handle);
    let flags = libc::O_PATH | libc::O_CLOEXEC | kind;
    // SAFETY: the room is aligned, holds a head and as many bytes as the head says, and outlives
    // the call.
    let fd = unsafe { libc::open_by_handle_at(root, room.0.as_mut_ptr().cast(), flags) };
    if fd < 0 {
        let error = io::Error::last_os_error();
        let refused = error.raw_os_error() == Some(libc::EPERM);
        let remedy = "does the unit grant CAP_DAC_READ_SEARCH?";
        return Err(if refused { explain("open_by_handle_at", remedy) } else { error });
    }
    // SAFETY: the call just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The path of an open folder, as this process sees it.
fn path_of(folder: &OwnedFd) -> io::Result<Vec<u8>> {
    let link = format!("/proc/self/fd/{}", folder.as_raw_fd());
    Ok(std::fs::read_link(link)?.as_os_str().as_bytes().to_vec())
}

/// The last error of the system, with the call and what to look at.
fn explain(call: &str, remedy: &str) -> io::Error {
    let error = io::Error::last_os_error();
    io::Error::new(error.kind(), format!("{call}: {error} ({remedy})"))
}
