//! Which calls of `fcntl` are the beginning and the end of a commit.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{held, settings, tally, wait};

/// The lock byte of writers in the WAL-index (SQLite's `walformat`, §2.3.2, WAL_WRITE_LOCK).
const WRITE_BYTE: i64 = 120;
/// Lock bytes of the WAL-index from that one on; SQLite locks several at once when it recovers.
const LOCK_BYTES: i64 = 8;

/// fcntl(2) as the system has it.
pub(crate) type System = fn(c_int, c_int, *mut c_void) -> c_int;

/// fcntl(2), and, after the end of a commit, the wait for the standby.
pub(crate) fn fcntl_watched(
    system: System,
    fd: c_int,
    command: c_int,
    argument: *mut c_void,
) -> c_int {
    if command != libc::F_SETLK && command != libc::F_SETLKW {
        return system(fd, command, argument);
    }
    let Some(settings) = settings::get() else { return system(fd, command, argument) };
    if held::is_held(fd) && frees_write_byte(argument) {
        return release(system, settings, fd, command, argument);
    }
    let answer = system(fd, command, argument);
    // Only now is it certain that the argument can be read: the kernel has read it.
    if answer == 0 && takes_write_byte(argument) {
        keeping_errno(|| held::take(settings, fd));
    }
    answer
}

fn release(
    system: System,
    settings: &settings::Settings,
    fd: c_int,
    command: c_int,
    argument: *mut c_void,
) -> c_int {
    // The header must be read while it is still ours, the daemon asked when it no longer is.
    let mut has_committed = false;
    keeping_errno(|| has_committed = held::release(fd));
    let answer = system(fd, command, argument);
    if answer == 0 && has_committed {
        keeping_errno(|| wait::after_commit(settings, system, fd));
    }
    answer
}

/// Runs `job` so that the program notices nothing of it.
fn keeping_errno(job: impl FnOnce()) {
    // SAFETY: the address of this thread's errno is valid as long as the thread lives.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    if catch_unwind(AssertUnwindSafe(job)).is_err() {
        tally::count(tally::Kind::Panic);
    }
    // SAFETY: as above.
    unsafe { *errno = before };
}

fn takes_write_byte(argument: *const c_void) -> bool {
    read_lock(argument).is_some_and(|lock| {
        let is_index_range = lock.l_start == WRITE_BYTE && (1..=LOCK_BYTES).contains(&lock.l_len);
        is_kind(&lock, libc::F_WRLCK) && is_from_start(&lock) && is_index_range
    })
}

fn frees_write_byte(argument: *const c_void) -> bool {
    read_lock(argument).is_some_and(|lock| {
        // A length of 0 reaches to the end of the file, however long (fcntl(2)).
        let reaches = lock.l_len == 0 || lock.l_start.saturating_add(lock.l_len) > WRITE_BYTE;
        let covers = lock.l_start <= WRITE_BYTE && reaches;
        is_kind(&lock, libc::F_UNLCK) && is_from_start(&lock) && covers
    })
}

fn is_kind(lock: &libc::flock, kind: c_int) -> bool {
    c_int::from(lock.l_type) == kind
}

fn is_from_start(lock: &libc::flock) -> bool {
    c_int::from(lock.l_whence) == libc::SEEK_SET
}

fn read_lock(argument: *const c_void) -> Option<libc::flock> {
    let lock = argument.cast::<libc::flock>();
    if lock.is_null() || !lock.is_aligned() {
        return None;
    }
    // SAFETY: not null and aligned. The kernel has read it just before, or the descriptor is one on
    // which SQLite holds its write lock, and SQLite hands over nothing but its own structure.
    Some(unsafe { *lock })
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
