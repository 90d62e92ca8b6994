//! The follower's own checkpoints: the WAL stays small, and writers hardly ever wait for that.
//!
//! Frames move into the database by PASSIVE checkpoints in a thread of their own. When all of them
//! have, the pin is given up under the bridge, and the next writer begins the WAL anew. Those that
//! never leave a gap are held for the last few frames.

use crate::changes::Changes;
use crate::checkpoint::{self, Order, Outcome};
use crate::follow::{Follower, Hold};
use crate::index::Seen;
use crate::lock::{self, LockByte};
use crate::trail::{CaptureError, Drained, LostTrail};
use std::time::{Duration, Instant};

/// Frames at which a checkpoint is due: fewer than the 1000 at which applications begin their own.
pub const CHECKPOINT_FRAMES: u32 = 400;
/// Frames at which a WAL that happens to be in the database as a whole is let go.
const UNPIN_FRAMES_MIN: u32 = 200;
/// Frames that may be left for the time in which writers are held: a sync and some writes.
const HELD_FRAMES_MAX: u32 = 128;
/// How long the write lock is tried for.
const HOLD_WAIT: Duration = Duration::from_millis(3);
/// A database without commits for so long is quiet: its WAL is brought home and let go.
const QUIET: Duration = Duration::from_secs(2);
/// A WAL file larger than this is given back when the database is quiet.
const WAL_BYTES_MAX: u64 = 64 << 20;
/// Between two checkpoints of which the first left frames, for example because somebody reads.
const CHECKPOINT_PAUSE: Duration = Duration::from_millis(10);
/// The same when it moved nothing.
const CHECKPOINT_PAUSE_STUCK: Duration = Duration::from_millis(250);
/// Between two looks at a pinned WAL: a checkpoint of an application may wait for the pin.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Between two looks at a checkpoint of our own.
const CHECKPOINT_LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// Between two looks at which files the paths lead to.
const FILES_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of pages drained in one look: some milliseconds.
const DRAIN_BYTES_MAX: u32 = 4 << 20;

const _: () = assert!(UNPIN_FRAMES_MIN < CHECKPOINT_FRAMES && HELD_FRAMES_MAX < CHECKPOINT_FRAMES);

/// When what was done, and what is due.
#[derive(Debug)]
pub(crate) struct Pace {
    /// The last commit seen.
    active: Instant,
    seen_frame: u32,
    /// Where the pin was last given up; readers may have kept the WAL from beginning anew there.
    unpinned_at: Option<([u8; 8], u32)>,
    checkpoint_after: Instant,
    files_after: Instant,
    truncate_after: Instant,
    due: Option<Instant>,
    trimmed: bool,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Pace {
        Pace {
            active: now,
            seen_frame: 0,
            unpinned_at: None,
            checkpoint_after: now,
            files_after: now,
            truncate_after: now,
            due: Some(now),
            trimmed: false,
        }
    }
}

impl Follower {
    /// Keeps the WAL small. Called often; cheap when nothing is due. What commits meanwhile goes
    /// into `changes`.
    ///
    /// # Errors
    /// When the files or SQLite refuse.
    pub fn tend(&mut self, now: Instant, changes: &mut Changes) -> Result<Drained, CaptureError> {
        if now >= self.pace.files_after {
            self.pace.files_after = now + FILES_INTERVAL;
            if self.attached.replaced() || self.attached.log_replaced() {
                return Ok(self.lose(LostTrail::Replaced, changes));
            }
        }
        let drained = self.drain(changes, DRAIN_BYTES_MAX / self.attached.page_bytes())?;
        if matches!(drained, Drained::Lost(_)) {
            self.pace.due = Some(now + LOOK_INTERVAL);
            return Ok(drained);
        }
        if self.trail.frame != self.pace.seen_frame || drained == Drained::Some {
            self.pace.seen_frame = self.trail.frame;
            self.pace.active = now;
            self.pace.trimmed = false;
        }
        let seen = self.look()?;
        let drained = match self.hold {
            Hold::Pin(_) => self.tend_pinned(now, seen, changes, drained)?,
            Hold::Bridge => {
                self.tend_bridged(now, seen)?;
                drained
            }
        };
        if self.is_quiet(now) && !self.pace.trimmed && !self.checkpointer.is_running() {
            self.pace.trimmed = true;
            self.trim();
            self.checkpointer.trim();
            changes.trim();
        }
        self.pace.due = Some(if drained == Drained::More { now } else { self.due_after(now) });
        Ok(drained)
    }

    /// When [`Follower::tend`] has something to do at the latest.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.pace.due
    }

    fn is_quiet(&self, now: Instant) -> bool {
        now.duration_since(self.pace.active) >= QUIET
    }

    fn due_after(&self, now: Instant) -> Instant {
        match self.hold {
            _ if self.checkpointer.is_running() => now + CHECKPOINT_LOOK_INTERVAL,
            Hold::Pin(_) => now + LOOK_INTERVAL,
            Hold::Bridge if !self.pace.trimmed => {
                self.pace.files_after.min(self.pace.active + QUIET).max(now + LOOK_INTERVAL)
            }
            Hold::Bridge => self.pace.files_after,
        }
    }

    fn tend_pinned(
        &mut self,
        now: Instant,
        seen: Seen,
        changes: &mut Changes,
        drained: Drained,
    ) -> Result<Drained, CaptureError> {
        let Some(index) = seen.index else { return Ok(drained) };
        let passed = self.checkpoint_ended(now);
        let quiet = self.is_quiet(now);
        let whole = seen.backfilled == index.frames;
        if whole && !self.checkpointer.is_running() {
            let waited_for = lock::held_by_others(self.attached.shm(), LockByte::CHECKPOINT)
                .map_err(|source| self.failed(source))?;
            let grown = self.grown(index.frames) >= UNPIN_FRAMES_MIN;
            if (grown || waited_for || quiet) && self.let_go()? {
                return Ok(drained);
            }
        }
        let grown = self.grown(index.frames);
        let remaining = index.frames.saturating_sub(seen.backfilled);
        let small = remaining <= HELD_FRAMES_MAX;
        let rested = now >= self.pace.checkpoint_after;
        let force = grown >= CHECKPOINT_FRAMES && small && (passed || rested);
        // Who holds writers for another reason must find them held.
        if force
            && drained != Drained::More
            && !self.writers_held
            && !self.checkpointer.is_running()
        {
            return self.finish_under_lock(now, changes, drained);
        }
        let due = grown >= CHECKPOINT_FRAMES || (quiet && remaining > 0);
        if due && !self.checkpointer.is_running() && rested {
            self.counters.checkpoints += 1;
            self.order(now, Order::Passive { remaining_max: HELD_FRAMES_MAX / 2 });
        }
        Ok(drained)
    }

    /// Frames since the pin was last given up in this generation.
    fn grown(&self, frames: u32) -> u32 {
        match self.pace.unpinned_at {
            Some((salt, frame)) if salt == self.trail.salt => frames.saturating_sub(frame),
            _ => frames,
        }
    }

    /// Whether a checkpoint ended just now.
    fn checkpoint_ended(&mut self, now: Instant) -> bool {
        match self.checkpointer.ended() {
            None => false,
            Some(Ok(Outcome::Truncated(done))) => {
                self.counters.truncated += u64::from(done);
                false
            }
            Some(Ok(Outcome::Passed(passed))) => {
                let stuck = passed.remaining > HELD_FRAMES_MAX && !passed.moved;
                let pause = if stuck { CHECKPOINT_PAUSE_STUCK } else { CHECKPOINT_PAUSE };
                self.pace.checkpoint_after = now + pause;
                true
            }
            Some(Err(error)) => {
                let path = self.attached.path().display();
                tracing::warn!(%path, %error, "a checkpoint failed");
                self.pace.checkpoint_after = now + FILES_INTERVAL;
                false
            }
        }
    }

    fn let_go(&mut self) -> Result<bool, CaptureError> {
        let position = (self.trail.salt, self.trail.frame);
        let done = self.unpin()?;
        if done {
            self.pace.unpinned_at = Some(position);
        }
        Ok(done)
    }

    /// The last few frames while writers wait: a few milliseconds.
    fn finish_under_lock(
        &mut self,
        now: Instant,
        changes: &mut Changes,
        drained: Drained,
    ) -> Result<Drained, CaptureError> {
        if !self.hold_writers(HOLD_WAIT)? {
            self.pace.checkpoint_after = now + CHECKPOINT_PAUSE;
            return Ok(drained);
        }
        let began = Instant::now();
        let finished = self.finish(changes);
        self.release_writers()?;
        self.count_stall(began.elapsed());
        // Somebody reads: to hold writers again at once would be in vain.
        let done = self.hold == Hold::Bridge;
        let pause = if done { CHECKPOINT_PAUSE } else { CHECKPOINT_PAUSE_STUCK };
        self.pace.checkpoint_after = now + pause;
        match finished? {
            Drained::Nothing => Ok(drained),
            more @ (Drained::Some | Drained::More | Drained::Lost(_)) => Ok(more),
        }
    }

    fn finish(&mut self, changes: &mut Changes) -> Result<Drained, CaptureError> {
        let drained = self.drain(changes, DRAIN_BYTES_MAX / self.attached.page_bytes())?;
        if matches!(drained, Drained::Lost(_) | Drained::More) || self.let_go()? {
            return Ok(drained);
        }
        let seen = self.look()?;
        let Some(index) = seen.index else { return Ok(drained) };
        // A large transaction may have come between the look and the lock.
        if index.frames.saturating_sub(seen.backfilled) <= 2 * HELD_FRAMES_MAX {
            if let Err(error) = checkpoint::passive(self.attached.keeper()) {
                let path = self.attached.path().display();
                tracing::debug!(%path, %error, "a checkpoint under the write lock failed");
            }
            self.let_go()?;
        }
        Ok(drained)
    }

    fn tend_bridged(&mut self, now: Instant, seen: Seen) -> Result<(), CaptureError> {
        self.checkpoint_ended(now);
        let Some(index) = seen.index else { return Ok(()) };
        if seen.backfilled != index.frames {
            // Every slot was taken when these frames came.
            self.pin()?;
            return Ok(());
        }
        let busy = self.writers_held || self.checkpointer.is_running();
        if busy || !self.is_quiet(now) || now < self.pace.truncate_after {
            return Ok(());
        }
        self.pace.truncate_after = now + QUIET;
        let bytes = self.attached.wal().metadata().map_err(|source| self.failed(source))?.len();
        if bytes > WAL_BYTES_MAX {
            self.order(now, Order::Truncate);
        }
        Ok(())
    }

    fn order(&mut self, now: Instant, order: Order) {
        if let Err(error) = self.checkpointer.begin(order) {
            let path = self.attached.path().display();
            tracing::warn!(%path, %error, "no thread for a checkpoint");
            self.pace.checkpoint_after = now + FILES_INTERVAL;
        }
    }

    /// Bytes of the WAL file, those of finished generations included.
    #[must_use]
    pub fn wal_bytes(&self) -> u64 {
        self.attached.wal().metadata().map_or(0, |found| found.len())
    }
}
