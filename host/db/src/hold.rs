//! The two locks of a follower, and the look at the header that decides about them.

use crate::follow::{Follower, Guard, Hold};
use crate::index::{self, Seen};
use crate::lock::{LockByte, Mode};
use crate::trail::CaptureError;
use std::time::{Duration, Instant};

/// A header that stays half written so long was left by a writer that died: a reader mends it.
const HEADER_MEND_AFTER: Duration = Duration::from_millis(50);
/// Looks at a header that a writer is at, before somebody else gets a turn.
const LOOKS_MAX: u32 = 20;

impl Follower {
    /// Pins the WAL, then gives up the bridge. When every slot is taken by readers the bridge
    /// stays: frames are as safe under it, only checkpoints wait.
    pub(crate) fn pin(&mut self) -> Result<bool, CaptureError> {
        for slot in (1..=4).rev() {
            if !self.lock(LockByte::read(slot), Mode::Exclusive)? {
                continue;
            }
            index::clear_mark(self.attached.shm(), slot).map_err(|source| self.failed(source))?;
            self.lock(LockByte::read(slot), Mode::Shared)?;
            self.hold = Hold::Pin(slot);
            self.lock(LockByte::read(0), Mode::Unlocked)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Takes the bridge, and gives up the pin if everything is in the database and captured.
    pub(crate) fn unpin(&mut self) -> Result<bool, CaptureError> {
        let Hold::Pin(slot) = self.hold else { return Ok(false) };
        let bridged = self.guard == Guard::PinAndBridge;
        if bridged && !self.lock(LockByte::read(0), Mode::Shared)? {
            return Ok(false);
        }
        // Only what is seen under the bridge counts.
        let seen = self.look()?;
        let all = seen.index.is_some_and(|index| {
            let captured = match index.frames {
                0 => self.may_begin_anew,
                frames => index.salt == self.trail.salt && frames == self.trail.frame,
            };
            captured && index.frames == seen.backfilled
        });
        if !all {
            self.lock(LockByte::read(0), Mode::Unlocked)?;
            return Ok(false);
        }
        self.hold = Hold::Bridge;
        self.may_begin_anew = true;
        self.lock(LockByte::read(slot), Mode::Unlocked)?;
        self.counters.unpinned += 1;
        Ok(true)
    }

    /// Reads the header; one that stays torn is mended by reading the database.
    pub(crate) fn look(&mut self) -> Result<Seen, CaptureError> {
        let mut seen = index::read(self.attached.shm()).map_err(|source| self.failed(source))?;
        for _ in 0..LOOKS_MAX {
            if seen.index.is_some() {
                self.torn_since = None;
                return Ok(seen);
            }
            std::hint::spin_loop();
            seen = index::read(self.attached.shm()).map_err(|source| self.failed(source))?;
        }
        let now = Instant::now();
        if now.duration_since(*self.torn_since.get_or_insert(now)) > HEADER_MEND_AFTER {
            self.mend();
            self.torn_since = None;
        }
        Ok(seen)
    }

    /// Makes SQLite recover the WAL-index. A failure is not fatal: it is tried again.
    pub(crate) fn mend(&mut self) {
        let read = "SELECT count(*) FROM sqlite_schema";
        match self.attached.keeper().query_row(read, [], |_| Ok(())) {
            Ok(()) => self.counters.mended += 1,
            Err(error) => {
                let path = self.attached.path().display();
                tracing::debug!(%path, %error, "the WAL-index is not whole yet");
            }
        }
    }
}
