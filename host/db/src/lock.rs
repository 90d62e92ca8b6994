//! Locks on single bytes of the WAL-index, and one of the database, owned by an open file
//! description.
//!
//! SQLite's own locks are POSIX locks of the process. Open file description locks (fcntl(2),
//! F_OFD_SETLK) conflict with them, those of this very process included, and do not vanish when
//! some other descriptor on the file is closed.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// A lock byte (SQLite's `walformat`, "The WAL-Index File Format", §2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LockByte(pub i64);

impl LockByte {
    /// Held by whoever appends to the WAL.
    pub(crate) const WRITE: LockByte = LockByte(120);
    /// Held by whoever moves frames into the database.
    pub(crate) const CHECKPOINT: LockByte = LockByte(121);

    /// Held by every connection that has the WAL-index open.
    pub(crate) const OPEN: LockByte = LockByte(128);
    /// Of the database file, and not of the WAL-index: the first byte of the range that everybody
    /// who has the database open in WAL mode, or reads it, has locked (SQLite's `os.h`).
    pub(crate) const DATABASE_SHARED: LockByte = LockByte(0x4000_0002);

    /// Held by readers of the mark with this number, 0 to 4.
    pub(crate) const fn read(mark: usize) -> LockByte {
        assert!(mark <= 4);
        LockByte(123 + mark as i64)
    }
}

/// How a byte is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Shared,
    Exclusive,
    Unlocked,
}

fn request(byte: LockByte, mode: Mode) -> libc::flock {
    let kind = match mode {
        Mode::Shared => libc::F_RDLCK,
        Mode::Exclusive => libc::F_WRLCK,
        Mode::Unlocked => libc::F_UNLCK,
    };
    libc::flock {
        l_type: i16::try_from(kind).expect("a small constant"),
        l_whence: i16::try_from(libc::SEEK_SET).expect("a small constant"),
        l_start: byte.0,
        l_len: 1,
        l_pid: 0,
    }
}

/// Changes the lock that this descriptor has on the byte, without waiting: false when somebody else
/// has it.
///
/// # Errors
/// What fcntl(2) answers beside "somebody else has it".
pub(crate) fn set(file: &File, byte: LockByte, mode: Mode) -> io::Result<bool> {
    let wanted = request(byte, mode);
    // SAFETY: the descriptor is open for the call, and fcntl only reads the structure.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const wanted) };
    if answer == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

/// Whether somebody else holds any lock on the byte.
///
/// # Errors
/// What fcntl(2) answers.
pub(crate) fn held_by_others(file: &File, byte: LockByte) -> io::Result<bool> {
    let mut found = request(byte, Mode::Exclusive);
    // SAFETY: the descriptor is open for the call, and the structure outlives it.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut found) };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::from(found.l_type) != libc::F_UNLCK)
}
