//! Records what this process writes to files, and what it syncs, below SQLite and everybody else:
//! the program's own functions of these names come before those of libc.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// What happened, in the order in which it returned to whoever did it.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Write(PathBuf, u64, Vec<u8>),
    Length(PathBuf, u64),
    Sync(PathBuf),
    /// Somebody was told that this much is durable: name, and number of the transaction.
    Told(&'static str, i64),
}

static ON: AtomicBool = AtomicBool::new(false);
static EVENTS: Mutex<Vec<Event>> = Mutex::new(Vec::new());

thread_local! {
    /// The recorder's own doings are not recorded.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

pub(crate) fn begin() {
    ON.store(true, Ordering::SeqCst);
}

pub(crate) fn end() -> Vec<Event> {
    ON.store(false, Ordering::SeqCst);
    std::mem::take(&mut *EVENTS.lock().expect("no holder panics"))
}

pub(crate) fn told(who: &'static str, number: i64) {
    EVENTS.lock().expect("no holder panics").push(Event::Told(who, number));
}

fn record(fd: c_int, event: impl FnOnce(PathBuf) -> Event) {
    if !ON.load(Ordering::SeqCst) || INSIDE.replace(true) {
        return;
    }
    let path = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
    let name = path.to_string_lossy();
    if name.ends_with(".db") || name.ends_with(".db-wal") || name.ends_with(".db-journal") {
        EVENTS.lock().expect("no holder panics").push(event(path));
    }
    INSIDE.set(false);
}

fn written(fd: c_int, buffer: *const c_void, count: isize, offset: i64) {
    if let (Ok(length), Ok(at)) = (usize::try_from(count), u64::try_from(offset)) {
        // SAFETY: whoever called wrote so many bytes from there.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), length) };
        record(fd, |path| Event::Write(path, at, bytes.to_vec()));
    }
}

/// # Safety
/// As pwrite(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn pwrite64(
    fd: c_int,
    buffer: *const c_void,
    count: usize,
    offset: i64,
) -> isize {
    // SAFETY: passed on as it came.
    let done = unsafe { libc::syscall(libc::SYS_pwrite64, fd, buffer, count, offset) };
    written(fd, buffer, done as isize, offset);
    done as isize
}

/// # Safety
/// As pwrite(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn pwrite(
    fd: c_int,
    buffer: *const c_void,
    count: usize,
    offset: i64,
) -> isize {
    // SAFETY: passed on as it came.
    unsafe { pwrite64(fd, buffer, count, offset) }
}

/// # Safety
/// As ftruncate(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn ftruncate64(fd: c_int, length: i64) -> c_int {
    // SAFETY: passed on as it came.
    let done = unsafe { libc::syscall(libc::SYS_ftruncate, fd, length) };
    if let (0, Ok(length)) = (done, u64::try_from(length)) {
        record(fd, |path| Event::Length(path, length));
    }
    done as c_int
}

/// # Safety
/// As ftruncate(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn ftruncate(fd: c_int, length: i64) -> c_int {
    // SAFETY: passed on as it came.
    unsafe { ftruncate64(fd, length) }
}

/// # Safety
/// As fdatasync(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    synced(fd)
}

/// # Safety
/// As fsync(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    synced(fd)
}

/// Not carried out: what counts is the order, and disks differ. What others write while a sync
/// takes place need not be covered by it: the event comes first.
fn synced(fd: c_int) -> c_int {
    record(fd, Event::Sync);
    0
}

/// One file, as far as the events went.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    /// What is certain.
    durable: BTreeMap<PathBuf, Vec<u8>>,
    /// What may have reached it.
    later: BTreeMap<PathBuf, Vec<Event>>,
}

impl Disk {
    pub(crate) fn put(&mut self, path: PathBuf, bytes: Vec<u8>) {
        self.durable.insert(path, bytes);
    }

    pub(crate) fn take(&mut self, event: &Event) {
        match event {
            Event::Write(path, ..) | Event::Length(path, _) => {
                self.later.entry(path.clone()).or_default().push(event.clone());
            }
            Event::Sync(path) => {
                let bytes = self.durable.entry(path.clone()).or_default();
                for event in self.later.remove(path).unwrap_or_default() {
                    carry_out(bytes, &event, usize::MAX);
                }
            }
            Event::Told(..) => {}
        }
    }

    /// What the file may hold after the power is gone: all that is certain, and of what came later
    /// a prefix, whose writes may be missing or torn; nothing of it where `chance` says never.
    pub(crate) fn image(&self, path: &PathBuf, chance: &mut dyn FnMut(u64) -> u64) -> Vec<u8> {
        let mut bytes = self.durable.get(path).cloned().unwrap_or_default();
        let later = self.later.get(path).map_or(&[][..], Vec::as_slice);
        let prefix = chance(later.len() as u64 + 1) as usize;
        for event in &later[..prefix] {
            match chance(16) {
                0 => {}
                1 => carry_out(&mut bytes, event, 512 * chance(9) as usize),
                _ => carry_out(&mut bytes, event, usize::MAX),
            }
        }
        bytes
    }
}

fn carry_out(bytes: &mut Vec<u8>, event: &Event, most: usize) {
    match event {
        Event::Write(_, at, new) => {
            let (at, new) = (*at as usize, &new[..new.len().min(most)]);
            if bytes.len() < at + new.len() {
                bytes.resize(at + new.len(), 0);
            }
            bytes[at..at + new.len()].copy_from_slice(new);
        }
        Event::Length(_, length) => bytes.resize(*length as usize, 0),
        Event::Sync(_) | Event::Told(..) => {}
    }
}
