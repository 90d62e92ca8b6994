//! The fence: on the standby no application can write, at any instant, and the applier can.
//!
//! The daemon holds the WRITE byte of the WAL-index by an open file description lock all the time:
//! an application's write answers SQLITE_BUSY ("database is locked"), its reads go on. The
//! applier's own connection opens through a VFS that asks the fence, and not the kernel, for this
//! one byte, and passes everything else on to SQLite's own.
//!
//! Promises: connections through this VFS exclude each other as any two writers do, and none gets
//! the byte while the fence is not held. Refuses to be released under an open transaction.

use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, ffi};

use crate::attach::Attached;
use crate::lock::{self, LockByte, Mode};

/// The name under which SQLite knows the VFS.
const VFS_NAME: &CStr = c"staffetta-fenced";
/// The VFS below: POSIX locks, the default on Linux.
const BASE_NAME: &CStr = c"unix";
/// `xShmLock` numbers the bytes of the WAL-index from here.
const WRITE_OFFSET: c_int = 0;
/// File control that hands a connection its fence; SQLite leaves numbers above 100 to others.
const SET_FENCE: c_int = 0x5374_6166;
/// Pause between two attempts to get the byte from an application that writes.
const RETRY_PAUSE: Duration = Duration::from_micros(500);

/// The fence of one database. It outlives its own value: the lock stays until [`Fence::release`],
/// or until the [`Attached`] that it was taken on is dropped.
#[derive(Debug)]
pub struct Fence {
    state: Arc<State>,
    identity: (u64, u64),
}

/// Why a fence was not taken or not released.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// An application writes all the time.
    #[error(
        "cannot fence {path}: an application held its write lock for {waited_ms} ms (does it keep \
         a transaction open?)"
    )]
    Busy {
        /// The database.
        path: PathBuf,
        /// How long it was tried, in ms.
        waited_ms: u128,
    },
    /// A transaction of the applier's, or a checkpoint, is under way.
    #[error("the fence of {path} stays: a transaction is being applied (end it first)")]
    Writing {
        /// The database.
        path: PathBuf,
    },
    /// Another database than the one it was taken on.
    #[error("this fence is not that of {path}")]
    Stranger {
        /// The database.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("cannot lock the WAL-index of {path}: {source}")]
    Lock {
        /// The database.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl Fence {
    /// Takes the fence, waiting at most this long for an application to end its transaction.
    ///
    /// # Errors
    /// When it does not, or the system refuses.
    pub fn take(attached: &Attached, patience: Duration) -> Result<Fence, FenceError> {
        let path = || attached.path().to_owned();
        let begun = Instant::now();
        loop {
            match lock::set(attached.shm(), LockByte::WRITE, Mode::Exclusive) {
                Ok(true) => break,
                Ok(false) if begun.elapsed() < patience => std::thread::sleep(RETRY_PAUSE),
                Ok(false) => {
                    let waited_ms = begun.elapsed().as_millis();
                    return Err(FenceError::Busy { path: path(), waited_ms });
                }
                Err(source) => return Err(FenceError::Lock { path: path(), source }),
            }
        }
        let state = Arc::new(State(AtomicU8::new(State::HELD)));
        Ok(Fence { state, identity: attached.identity() })
    }

    /// The fence of a database whose byte is locked already, on descriptors that stay open.
    pub(crate) fn of_locked(identity: (u64, u64)) -> Fence {
        Fence { state: Arc::new(State(AtomicU8::new(State::HELD))), identity }
    }

    /// Whether applications are kept from writing.
    #[must_use]
    pub fn held(&self) -> bool {
        self.state.0.load(Ordering::Acquire) != State::RELEASED
    }

    /// Waits at most this long for a checkpoint that writes under the fence.
    pub(crate) fn settle(&self, patience: Duration) {
        let begun = Instant::now();
        while self.state.0.load(Ordering::Acquire) == State::WRITING && begun.elapsed() < patience {
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    /// Lets applications write again. Once released it stays so.
    ///
    /// # Errors
    /// When a transaction is being applied, `attached` is another database, or the system refuses.
    pub fn release(&self, attached: &Attached) -> Result<(), FenceError> {
        self.end(attached)?;
        match lock::set(attached.shm(), LockByte::WRITE, Mode::Unlocked) {
            Ok(_) => Ok(()),
            Err(source) => Err(FenceError::Lock { path: attached.path().to_owned(), source }),
        }
    }

    /// Ends the fence here while the byte stays locked on the descriptors of `attached`: for
    /// whoever goes on under that lock and unlocks it, as [`crate::Follower::start_fenced`] does.
    ///
    /// # Errors
    /// When a transaction is being applied, or `attached` is another database.
    pub fn hand_over(self, attached: &Attached) -> Result<(), FenceError> {
        self.end(attached)
    }

    /// From here on no connection of ours gets the byte.
    fn end(&self, attached: &Attached) -> Result<(), FenceError> {
        let path = || attached.path().to_owned();
        if attached.identity() != self.identity {
            return Err(FenceError::Stranger { path: path() });
        }
        if !self.state.change(State::HELD, State::RELEASED) && self.held() {
            return Err(FenceError::Writing { path: path() });
        }
        Ok(())
    }

    /// What connections need to pass.
    pub(crate) fn pass(&self) -> Pass {
        Pass(Arc::clone(&self.state))
    }
}

/// Lets a connection, on whatever thread, write under the fence.
#[derive(Debug, Clone)]
pub(crate) struct Pass(Arc<State>);

impl Pass {
    /// Opens a connection that may write although the fence is held.
    ///
    /// # Errors
    /// What SQLite answers.
    pub(crate) fn connect(&self, path: &Path) -> rusqlite::Result<Connection> {
        if !registered() {
            return Err(sqlite_error(ffi::SQLITE_ERROR, "SQLite does not take the fenced VFS"));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags_and_vfs(path, flags, VFS_NAME)?;
        let state = Arc::as_ptr(&self.0).cast_mut().cast();
        // SAFETY: the handle is open; the control counts a reference to the state for itself, and
        // the Arc keeps the state alive during the call.
        let code = unsafe {
            ffi::sqlite3_file_control(connection.handle(), c"main".as_ptr(), SET_FENCE, state)
        };
        match code {
            ffi::SQLITE_OK => Ok(connection),
            code => Err(sqlite_error(code, "the database was not opened through the fenced VFS")),
        }
    }
}

fn sqlite_error(code: c_int, message: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(message.to_owned()))
}

/// Who has the WRITE byte: nobody of ours, the fence, or a connection that writes under it.
#[derive(Debug)]
struct State(AtomicU8);

impl State {
    const RELEASED: u8 = 0;
    const HELD: u8 = 1;
    const WRITING: u8 = 2;

    fn change(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// What this VFS keeps behind the file of the one below.
#[repr(C)]
struct Extra {
    /// Counted reference; null before [`SET_FENCE`].
    state: *const State,
    /// This file has the WRITE byte.
    writing: bool,
}

/// The VFS below and where [`Extra`] lies in a file of it.
struct Base {
    vfs: *mut ffi::sqlite3_vfs,
    extra_at: usize,
}

// SAFETY: the pointer leads to SQLite's own VFS, which lives as long as the process and is used by
// any thread.
unsafe impl Send for Base {}
// SAFETY: as above; nothing is changed through it.
unsafe impl Sync for Base {}

/// The methods of a database file of the VFS below, and ours beside them.
struct Methods {
    base: &'static ffi::sqlite3_io_methods,
    ours: ffi::sqlite3_io_methods,
}

static BASE: OnceLock<Option<Base>> = OnceLock::new();
static METHODS: OnceLock<Methods> = OnceLock::new();

/// Registers the VFS, once in the life of the process.
fn registered() -> bool {
    BASE.get_or_init(register).is_some()
}

fn register() -> Option<Base> {
    // SAFETY: initializing twice is allowed; the name is a C string.
    let base = unsafe {
        ffi::sqlite3_initialize();
        ffi::sqlite3_vfs_find(BASE_NAME.as_ptr())
    };
    // SAFETY: SQLite's VFS are valid as long as the process lives.
    let mut ours = unsafe { base.as_ref() }.copied()?;
    let extra_at =
        usize::try_from(ours.szOsFile).ok()?.next_multiple_of(std::mem::align_of::<Extra>());
    ours.szOsFile = c_int::try_from(extra_at + std::mem::size_of::<Extra>()).ok()?;
    ours.pNext = std::ptr::null_mut();
    ours.zName = VFS_NAME.as_ptr();
    ours.xOpen = Some(open);
    // SAFETY: the structure is never freed, as SQLite wants it.
    let code = unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(ours)), 0) };
    (code == ffi::SQLITE_OK).then_some(Base { vfs: base, extra_at })
}

/// # Safety
/// `file` was opened by [`open`] as a database.
unsafe fn extra(file: *mut ffi::sqlite3_file) -> *mut Extra {
    let at = BASE.get().and_then(Option::as_ref).map_or(0, |base| base.extra_at);
    // SAFETY: szOsFile made room for an Extra there.
    unsafe { file.cast::<u8>().add(at).cast() }
}

fn methods() -> &'static Methods {
    METHODS.get().expect("set before a file gets our methods")
}

unsafe extern "C" fn open(
    _vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    let Some(base) = BASE.get().and_then(Option::as_ref) else {
        return ffi::SQLITE_CANTOPEN;
    };
    // SAFETY: the VFS below is valid; what it gets is what SQLite gave, and its file is the first
    // part of ours.
    let code = unsafe {
        match (*base.vfs).xOpen {
            Some(open) => open(base.vfs, name, file, flags, flags_out),
            None => ffi::SQLITE_CANTOPEN,
        }
    };
    if code != ffi::SQLITE_OK || flags & ffi::SQLITE_OPEN_MAIN_DB == 0 {
        return code;
    }
    // SAFETY: the file is open, so its methods are set; they are a constant of SQLite's.
    let (found, extra) = unsafe { (&*(*file).pMethods, extra(file)) };
    let methods = METHODS.get_or_init(|| Methods { base: found, ours: ours(found) });
    if !std::ptr::eq(methods.base, found) {
        // Another kind of locking than the one that was wrapped: not on Linux.
        // SAFETY: the file is open, and SQLite does not close a file whose opening failed.
        unsafe {
            found.xClose.map(|close| close(file));
            (*file).pMethods = std::ptr::null();
        }
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: both places belong to this file; the methods live as long as the process.
    unsafe {
        extra.write(Extra { state: std::ptr::null(), writing: false });
        (*file).pMethods = &raw const methods.ours;
    }
    code
}

fn ours(base: &ffi::sqlite3_io_methods) -> ffi::sqlite3_io_methods {
    let mut ours = *base;
    ours.xClose = Some(close);
    ours.xFileControl = Some(file_control);
    ours.xShmLock = Some(shm_lock);
    ours
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: a database file of ours; the reference was counted by SET_FENCE.
    unsafe {
        let extra = &mut *extra(file);
        yield_write(extra);
        if !extra.state.is_null() {
            Arc::decrement_strong_count(extra.state);
            extra.state = std::ptr::null();
        }
        methods().base.xClose.map_or(ffi::SQLITE_OK, |close| close(file))
    }
}

unsafe extern "C" fn file_control(
    file: *mut ffi::sqlite3_file,
    operation: c_int,
    argument: *mut c_void,
) -> c_int {
    if operation != SET_FENCE {
        // SAFETY: passed on as it came.
        return unsafe {
            methods()
                .base
                .xFileControl
                .map_or(ffi::SQLITE_NOTFOUND, |control| control(file, operation, argument))
        };
    }
    // SAFETY: a database file of ours; `Pass::connect` hands a live Arc's pointer.
    unsafe {
        let extra = &mut *extra(file);
        if !extra.state.is_null() {
            return ffi::SQLITE_MISUSE;
        }
        let state = argument.cast_const().cast::<State>();
        Arc::increment_strong_count(state);
        extra.state = state;
    }
    ffi::SQLITE_OK
}

/// Answers for the WRITE byte alone. SQLite asks for it by itself today, in recovery too; should it
/// ask for a range that begins with it, the rest of the range goes down.
unsafe extern "C" fn shm_lock(
    file: *mut ffi::sqlite3_file,
    offset: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    let down = |offset, count| {
        // SAFETY: passed on as it came.
        unsafe {
            methods()
                .base
                .xShmLock
                .map_or(ffi::SQLITE_IOERR_SHMLOCK, |lock| lock(file, offset, count, flags))
        }
    };
    // SAFETY: a database file of ours.
    let extra = unsafe { &mut *extra(file) };
    if offset != WRITE_OFFSET || extra.state.is_null() {
        return down(offset, count);
    }
    let locks = flags & ffi::SQLITE_SHM_LOCK != 0;
    if locks && !take_write(extra) {
        return ffi::SQLITE_BUSY;
    }
    let code = if count > 1 { down(offset + 1, count - 1) } else { ffi::SQLITE_OK };
    if !locks || code != ffi::SQLITE_OK {
        yield_write(extra);
    }
    code
}

fn take_write(extra: &mut Extra) -> bool {
    // SAFETY: null, or a counted reference of this file.
    let state = unsafe { extra.state.as_ref() };
    let taken = state.is_some_and(|state| state.change(State::HELD, State::WRITING));
    extra.writing |= taken;
    taken
}

fn yield_write(extra: &mut Extra) {
    // SAFETY: null, or a counted reference of this file.
    let state = unsafe { extra.state.as_ref() };
    if let (true, Some(state)) = (std::mem::take(&mut extra.writing), state) {
        state.change(State::WRITING, State::HELD);
    }
}
