//! The functions that stand before the system's, and what runs when the library is loaded.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::watch::fcntl_watched;
use crate::{settings, tally};

type Fcntl = unsafe extern "C" fn(c_int, c_int, ...) -> c_int;

/// The system's `fcntl`; null until it was looked for.
static SYSTEM: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

#[used]
#[unsafe(link_section = ".init_array")]
static LOADED: extern "C" fn() = loaded;

#[used]
#[unsafe(link_section = ".fini_array")]
static UNLOADED: extern "C" fn() = tally::write;

/// Everything that needs memory or reads the environment happens here, before `main`.
extern "C" fn loaded() {
    find_system();
    // A panic must not leave a function that C calls; without settings nothing is watched.
    let _ = std::panic::catch_unwind(settings::load);
}

/// Stands before fcntl(2).
///
/// # Safety
/// As fcntl(2).
// SAFETY: the one symbol of this name in the library. Callers know fcntl as variadic. On x86-64
// (System V) and aarch64 (AAPCS64 as Linux has it) the first variadic integer or pointer travels in
// the same register as a third named argument; without one the register holds something, which goes
// on to the system's fcntl as it would have come there.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fcntl(fd: c_int, command: c_int, argument: *mut c_void) -> c_int {
    fcntl_watched(system, fd, command, argument)
}

/// Stands before fcntl(2) under the name that programs use which were built for large files.
///
/// # Safety
/// As fcntl(2).
// SAFETY: as above.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fcntl64(fd: c_int, command: c_int, argument: *mut c_void) -> c_int {
    fcntl_watched(system, fd, command, argument)
}

fn system(fd: c_int, command: c_int, argument: *mut c_void) -> c_int {
    let mut found = SYSTEM.load(Ordering::Acquire);
    if found.is_null() {
        // Another library's constructor ran before ours.
        found = find_system();
    }
    if found.is_null() {
        // SAFETY: the caller's own arguments, to the call that it asked for.
        let answer = unsafe { libc::syscall(libc::SYS_fcntl, fd, command, argument) };
        return c_int::try_from(answer).unwrap_or(-1);
    }
    // SAFETY: dlsym found it under this name, and it is never unloaded.
    let found = unsafe { std::mem::transmute::<*mut c_void, Fcntl>(found) };
    // SAFETY: the caller's own arguments.
    unsafe { found(fd, command, argument) }
}

/// Both names mean one function on 64-bit Linux; musl has only the second.
fn find_system() -> *mut c_void {
    for name in [c"fcntl64", c"fcntl"] {
        // SAFETY: the name is a C string. RTLD_NEXT looks behind this library, never into it.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
        if !found.is_null() {
            SYSTEM.store(found, Ordering::Release);
            return found;
        }
    }
    std::ptr::null_mut()
}
