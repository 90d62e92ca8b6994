//! How threads are woken that wait in `poll(2)`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Instant;

use crate::BulkError;
use crate::socket::{entry, poll};

/// Wakes one thread, from any other (`eventfd(2)`). It stays awake until it is drained.
#[derive(Debug)]
pub struct Signal(OwnedFd);

impl Signal {
    /// A signal that nobody has raised.
    ///
    /// # Errors
    ///
    /// When there is no descriptor.
    pub fn new() -> io::Result<Self> {
        // SAFETY: plain call; the result is checked before it is owned.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The same, with this crate's error.
    pub(crate) fn make() -> Result<Self, BulkError> {
        Self::new()
            .map_err(|error| BulkError::Resource { what: "an eventfd", detail: error.to_string() })
    }

    /// Wakes whoever waits, or is about to.
    pub fn wake(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: eight bytes of `one` are read. A full counter is raised already.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// The descriptor, readable while the signal is raised.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Lowers it. What it was raised for is looked at after this, never before.
    pub fn drain(&self) {
        let mut count = [0_u8; 8];
        // SAFETY: at most eight bytes are written into `count`; an empty counter is no matter.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }

    pub(crate) fn entry(&self) -> libc::pollfd {
        entry(self.fd(), libc::POLLIN)
    }

    /// Waits for a descriptor; false at the deadline.
    ///
    /// # Errors
    ///
    /// [`BulkError::Stopped`] when the signal is raised; it stays so.
    pub(crate) fn wait(
        &self,
        fd: RawFd,
        events: i16,
        deadline: Instant,
    ) -> Result<bool, BulkError> {
        loop {
            let mut fds = [self.entry(), entry(fd, events)];
            poll(&mut fds, Some(deadline));
            if fds[0].revents != 0 {
                return Err(BulkError::Stopped);
            }
            if fds[1].revents != 0 {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
        }
    }

    /// Waits until it is raised, or until the deadline.
    pub(crate) fn sleep(&self, deadline: Option<Instant>) {
        poll(&mut [self.entry()], deadline);
    }
}
