//! Connections to the daemon, each used by one thread at a time.
//!
//! Without locks, as a child may be forked at any moment. A connection is used again only in the
//! process that made it, and only while its descriptor still leads to the same socket: programs
//! close what they did not open, and then open something else under its number.

use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

/// Connections kept for later; more commits at once make connections of their own.
const KEPT_MAX: usize = 64;

const EMPTY: u32 = 0;
/// One thread reads or writes the place.
const BUSY: u32 = 1;
const FULL: u32 = 2;

struct Place {
    state: AtomicU32,
    fd: AtomicI32,
    inode: AtomicU64,
    process: AtomicU32,
}

static KEPT: [Place; KEPT_MAX] = [const {
    Place {
        state: AtomicU32::new(EMPTY),
        fd: AtomicI32::new(-1),
        inode: AtomicU64::new(0),
        process: AtomicU32::new(0),
    }
}; KEPT_MAX];

/// A socket of this process; closed when it is dropped.
pub(crate) struct Socket {
    fd: c_int,
    /// Sockets have inodes of their own that no other open socket has.
    inode: u64,
    process: u32,
}

impl Socket {
    /// Takes a new socket over.
    pub(crate) fn new(fd: c_int) -> Self {
        let inode = file_status(fd).map_or(0, |status| status.st_ino);
        Self { fd, inode, process: std::process::id() }
    }

    /// The descriptor, for the next call only.
    pub(crate) fn fd(&self) -> c_int {
        self.fd
    }

    fn is_ours(&self) -> bool {
        file_status(self.fd).is_some_and(|status| {
            status.st_mode & libc::S_IFMT == libc::S_IFSOCK && status.st_ino == self.inode
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.is_ours() {
            // SAFETY: it is the socket that was taken over. A child closes its copy, not the
            // parent's connection.
            unsafe { libc::close(self.fd) };
        }
    }
}

/// A connection that was kept and can be used.
pub(crate) fn get() -> Option<Socket> {
    for place in &KEPT {
        if place.state.compare_exchange(FULL, BUSY, Ordering::Acquire, Ordering::Relaxed).is_err() {
            continue;
        }
        let socket = Socket {
            fd: place.fd.load(Ordering::Relaxed),
            inode: place.inode.load(Ordering::Relaxed),
            process: place.process.load(Ordering::Relaxed),
        };
        place.state.store(EMPTY, Ordering::Release);
        // The parent's connection carries the parent's answers.
        if socket.process == std::process::id() && socket.is_ours() {
            return Some(socket);
        }
    }
    None
}

/// Keeps a connection that owes no answer.
pub(crate) fn put(socket: Socket) {
    for place in &KEPT {
        if place.state.compare_exchange(EMPTY, BUSY, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            continue;
        }
        place.fd.store(socket.fd, Ordering::Relaxed);
        place.inode.store(socket.inode, Ordering::Relaxed);
        place.process.store(socket.process, Ordering::Relaxed);
        place.state.store(FULL, Ordering::Release);
        std::mem::forget(socket);
        return;
    }
}

/// fstat(2).
pub(crate) fn file_status(fd: c_int) -> Option<libc::stat> {
    let mut status = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the buffer is as large as the structure, and outlives the call.
    if unsafe { libc::fstat(fd, status.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: fstat succeeded and filled it.
    Some(unsafe { status.assume_init() })
}
