//! Capture of one database on the primary, by *pin* and *bridge*.
//!
//! Promises: every transaction that anybody commits is captured once, whole and in order, or the
//! trail is said to be lost. Nothing is written into the database, no read transaction stays open,
//! checkpoints of applications go on working. Refuses: to trust a frame that it did not check.
//!
//! A *pin* is a shared lock on one reader's slot of the WAL-index whose mark names no frame: nobody
//! can begin the WAL anew, while checkpoints may move all of it into the database. A *bridge* is a
//! shared lock on slot 0: nobody can move frames into the database, so the WAL can begin anew at
//! most once with frames in it. The invariant: **at every instant at least one of them is held, and
//! the pin is dropped only under the bridge, when all frames are in the database and captured.**

use crate::attach::Attached;
use crate::changes::Changes;
use crate::checkpoint::Checkpointer;
use crate::frames::{self, Checksum, FRAME_HEADER_BYTES, WAL_HEADER_BYTES, Wrong};
use crate::index::Index;
use crate::lock::{self, LockByte, Mode};
use crate::pages::Pages;
use crate::snapshot::Snapshot;
use crate::trail::{CaptureError, Counters, Drained, LostTrail, Trail};
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Frames are read in pieces of this size.
const READ_BYTES: usize = 256 << 10;
/// How long a start waits for a slot, or for a checkpoint that moves frames at this moment.
const START_WAIT: Duration = Duration::from_secs(10);
/// Pause between two looks at something that somebody else holds for microseconds.
const LOOK_AGAIN: Duration = Duration::from_micros(20);
/// Attempts to begin a snapshot between two commits, before writers are held for it.
const SNAPSHOT_ATTEMPTS_FREE: u32 = 20;
/// How long a snapshot waits for the write lock.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(2);

/// What goes on between the pin and the bridge. Only the proof that the bridge is needed leaves it
/// out.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// The invariant holds.
    PinAndBridge,
    /// Nothing is held between two pins: a frozen daemon loses a generation and cannot know it.
    PinOnly,
}

/// The lock that keeps the trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// A reader's slot, 1 to 4.
    Pin(usize),
    /// Slot 0.
    Bridge,
}

/// The transaction being read, when it is longer than one look.
#[derive(Debug, Default)]
struct Open {
    pages: Pages,
    frame: u32,
    checksum: Checksum,
}

/// Captures one database. Belongs to the thread that owns the database.
#[derive(Debug)]
pub struct Follower {
    // Before the files that it borrows.
    pub(crate) checkpointer: Checkpointer,
    pub(crate) attached: Rc<Attached>,
    pub(crate) trail: Trail,
    pub(crate) hold: Hold,
    /// The next frames may have other salts: the WAL is empty or may begin anew, once.
    pub(crate) may_begin_anew: bool,
    pub(crate) guard: Guard,
    open: Open,
    lost: Option<LostTrail>,
    pub(crate) writers_held: bool,
    pub(crate) torn_since: Option<Instant>,
    buffer: Vec<u8>,
    pub(crate) counters: Counters,
    pub(crate) pace: crate::tend::Pace,
}

impl Follower {
    /// Begins at the committed end.
    ///
    /// # Errors
    /// When the files refuse, or somebody else holds the WAL for too long.
    pub fn start(attached: Rc<Attached>) -> Result<Follower, CaptureError> {
        Follower::start_as(attached, Guard::PinAndBridge, false)
    }

    /// Begins at the committed end while writers are held through the descriptors of `attached`:
    /// the fence of a standby that becomes primary. [`Follower::release_writers`] opens it.
    ///
    /// # Errors
    /// When the files refuse, or somebody else holds the WAL for too long.
    pub fn start_fenced(attached: Rc<Attached>) -> Result<Follower, CaptureError> {
        Follower::start_as(attached, Guard::PinAndBridge, true)
    }

    #[doc(hidden)]
    pub fn start_as(
        attached: Rc<Attached>,
        guard: Guard,
        writers_held: bool,
    ) -> Result<Follower, CaptureError> {
        // From here on the connection serves the engine, which must not wait for an application.
        attached
            .keeper()
            .busy_timeout(Duration::ZERO)
            .map_err(|source| CaptureError::Sqlite { path: attached.path().to_owned(), source })?;
        let mut follower = Follower {
            checkpointer: Checkpointer::new(&attached),
            attached,
            trail: Trail { salt: [0; 8], frame: 0, checksum: [0; 2] },
            hold: Hold::Bridge,
            may_begin_anew: true,
            guard,
            open: Open::default(),
            lost: None,
            writers_held,
            torn_since: None,
            buffer: Vec::new(),
            counters: Counters::default(),
            pace: crate::tend::Pace::new(Instant::now()),
        };
        follower.restart()?;
        Ok(follower)
    }

    /// Ends without opening the fence: writers, if they are held, stay out until somebody unlocks
    /// the byte through the descriptors of the database that comes back.
    #[must_use]
    pub fn stop_fenced(mut self) -> Rc<Attached> {
        self.writers_held = false;
        self.attached.clone()
    }

    /// The database.
    #[must_use]
    pub fn attached(&self) -> &Rc<Attached> {
        &self.attached
    }

    /// Up to where the WAL was captured.
    #[must_use]
    pub fn trail(&self) -> Trail {
        self.trail
    }

    /// What was done since the beginning.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Begins a new trail at the committed end, after one was lost. What lies between is for a
    /// resync to find.
    ///
    /// # Errors
    /// When the database is another one now, the files refuse, or somebody else holds the WAL.
    pub fn restart(&mut self) -> Result<(), CaptureError> {
        if self.attached.replaced() || self.attached.log_replaced() {
            return Err(CaptureError::Replaced { path: self.attached.path().to_owned() });
        }
        self.open = Open::default();
        let until = Instant::now() + START_WAIT;
        let pinned_before = match self.hold {
            Hold::Pin(slot) => Some(slot),
            Hold::Bridge => None,
        };
        while pinned_before.is_none() && !self.pin()? {
            // Every slot is taken. The bridge will do, unless a checkpoint moves frames just now.
            if self.lock(LockByte::read(0), Mode::Shared)? {
                break;
            }
            self.wait(until, START_WAIT)?;
        }
        let (index, backfilled) = loop {
            let seen = self.look()?;
            if let Some(index) = seen.index {
                break (index, seen.backfilled);
            }
            self.wait(until, START_WAIT)?;
        };
        if index.frames > 0 && index.page_bytes != self.attached.page_bytes() {
            return Err(CaptureError::Replaced { path: self.attached.path().to_owned() });
        }
        let checksum = if index.frames == 0 { [0; 2] } else { index.checksum };
        self.trail = Trail { salt: index.salt, frame: index.frames, checksum };
        // An empty WAL gets its salts from its first writer, pinned or not. Under the bridge a WAL
        // that is in the database as a whole may begin anew.
        let whole = backfilled == index.frames;
        self.may_begin_anew = index.frames == 0 || (self.hold == Hold::Bridge && whole);
        self.lost = None;
        if whole {
            self.unpin()?;
        }
        Ok(())
    }

    /// Captures what was committed, at most about `frames_max` frames of it. A longer transaction
    /// is taken in pieces and shows in `changes` when it is whole.
    ///
    /// # Errors
    /// When the files refuse.
    pub fn drain(
        &mut self,
        changes: &mut Changes,
        frames_max: u32,
    ) -> Result<Drained, CaptureError> {
        if let Some(lost) = self.lost {
            return Ok(Drained::Lost(lost));
        }
        match self.look()?.index {
            Some(index) => self.drain_to(&index, changes, frames_max),
            None => Ok(Drained::Nothing),
        }
    }

    /// Keeps writers out: true when they are. Captures nothing by itself; own checkpoints go on.
    ///
    /// # Errors
    /// When the files refuse.
    pub fn hold_writers(&mut self, wait: Duration) -> Result<bool, CaptureError> {
        let until = Instant::now() + wait;
        while !self.writers_held {
            if self.lock(LockByte::WRITE, Mode::Exclusive)? {
                if self.look()?.index.is_some() {
                    self.writers_held = true;
                    break;
                }
                // A writer died amid the header. Only who gets this lock can mend it.
                self.lock(LockByte::WRITE, Mode::Unlocked)?;
                self.mend();
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(true)
    }

    /// Lets writers go on.
    ///
    /// # Errors
    /// When the files refuse.
    pub fn release_writers(&mut self) -> Result<(), CaptureError> {
        self.writers_held = false;
        self.lock(LockByte::WRITE, Mode::Unlocked).map(|_| ())
    }

    /// Whether writers are kept out.
    #[must_use]
    pub fn writers_held(&self) -> bool {
        self.writers_held
    }

    /// A snapshot whose content is exactly the trail's position after this call, and whether it
    /// continues the trail: true when everything up to it is in `changes`, false when the trail
    /// was lost and begins anew, with all of `changes` from after that beginning.
    ///
    /// # Errors
    /// When SQLite or the files refuse, or writers leave no gap.
    pub fn snapshot(&mut self, changes: &mut Changes) -> Result<(Snapshot, bool), CaptureError> {
        let until = Instant::now() + SNAPSHOT_WAIT;
        let mut snapshot = Snapshot::connect(&self.attached)?;
        let held_before = self.writers_held;
        let mut gapless = true;
        let mut attempts = 0;
        loop {
            if self.lost.is_some() {
                self.restart()?;
                changes.clear();
                gapless = false;
            }
            attempts += 1;
            if attempts > SNAPSHOT_ATTEMPTS_FREE {
                self.hold_writers(until.saturating_duration_since(Instant::now()))?;
            }
            let began = Instant::now();
            let done = self.try_snapshot(&mut snapshot, changes);
            if !held_before && self.writers_held {
                self.release_writers()?;
                self.count_stall(began.elapsed());
            }
            if done? {
                return Ok((snapshot, gapless));
            }
            self.wait(until, SNAPSHOT_WAIT)?;
        }
    }

    /// False when somebody committed between, or the trail was lost on the way.
    fn try_snapshot(
        &mut self,
        snapshot: &mut Snapshot,
        changes: &mut Changes,
    ) -> Result<bool, CaptureError> {
        let Some(before) = self.look()?.index else { return Ok(false) };
        snapshot.begin()?;
        let seen = self.look()?;
        if seen.index != Some(before) {
            snapshot.end()?;
            return Ok(false);
        }
        snapshot.fix(&before, seen.backfilled)?;
        loop {
            match self.drain_to(&before, changes, u32::MAX)? {
                Drained::More => {}
                Drained::Nothing | Drained::Some => return Ok(true),
                Drained::Lost(_) => {
                    snapshot.end()?;
                    return Ok(false);
                }
            }
        }
    }

    /// Captures up to this header, which was read while the pin or the bridge was held.
    fn drain_to(
        &mut self,
        target: &Index,
        changes: &mut Changes,
        frames_max: u32,
    ) -> Result<Drained, CaptureError> {
        if target.frames > 0 && target.page_bytes != self.attached.page_bytes() {
            return Ok(self.lose(LostTrail::PageSize, changes));
        }
        if target.frames == 0 {
            return Ok(match self.may_begin_anew {
                true => Drained::Nothing,
                false => self.lose(LostTrail::Generation, changes),
            });
        }
        if target.salt != self.trail.salt {
            if !self.may_begin_anew {
                return Ok(self.lose(LostTrail::Generation, changes));
            }
            self.trail = Trail { salt: target.salt, frame: 0, checksum: [0; 2] };
            self.open = Open::default();
        }
        if target.frames < self.trail.frame {
            return Ok(self.lose(LostTrail::Shorter, changes));
        }
        if target.frames == self.trail.frame {
            return Ok(Drained::Nothing);
        }
        // Frames that are not in the database: while the bridge is held they cannot get there, so
        // this generation stays.
        self.may_begin_anew = false;
        if self.hold == Hold::Bridge {
            self.pin()?;
        }
        match self.walk(target, changes, frames_max)? {
            Ok(drained) => Ok(drained),
            Err(lost) => Ok(self.lose(lost, changes)),
        }
    }

    /// Reads frames from where the last look ended.
    fn walk(
        &mut self,
        target: &Index,
        changes: &mut Changes,
        frames_max: u32,
    ) -> Result<Result<Drained, LostTrail>, CaptureError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let outcome = self.walk_with(&mut buffer, target, changes, frames_max);
        self.buffer = buffer;
        match outcome {
            Ok(drained) => Ok(Ok(drained)),
            Err(Stop::Lost(lost)) => Ok(Err(lost)),
            Err(Stop::Failed(source)) => Err(self.failed(source)),
        }
    }

    fn walk_with(
        &mut self,
        buffer: &mut Vec<u8>,
        target: &Index,
        changes: &mut Changes,
        frames_max: u32,
    ) -> Result<Drained, Stop> {
        if self.open.frame < self.trail.frame || self.open.pages.count() == 0 {
            self.open.frame = self.trail.frame;
            self.open.checksum = self.trail.checksum;
        }
        if self.open.frame == 0 {
            let mut header = [0; WAL_HEADER_BYTES];
            self.attached.wal().read_exact_at(&mut header, 0)?;
            self.open.checksum = frames::begin(&header, target.salt, target.big_endian)?;
        }
        let frame_bytes = self.attached.page_bytes() as usize + FRAME_HEADER_BYTES;
        let piece = u32::try_from((READ_BYTES / frame_bytes).max(1)).unwrap_or(1);
        let end = target.frames.min(self.open.frame.saturating_add(frames_max));
        while self.open.frame < end {
            let count = piece.min(end - self.open.frame);
            buffer.resize(count as usize * frame_bytes, 0);
            let at = frames::offset(self.open.frame + 1, self.attached.page_bytes());
            self.attached.wal().read_exact_at(buffer, at)?;
            for frame in buffer.chunks_exact(frame_bytes) {
                self.take(frame, target, changes)?;
            }
        }
        if self.open.frame < target.frames {
            return Ok(Drained::More);
        }
        if self.trail.frame != target.frames {
            return Err(Stop::Lost(LostTrail::Amid));
        }
        if self.trail.checksum != target.checksum {
            return Err(Stop::Lost(LostTrail::End));
        }
        Ok(Drained::Some)
    }

    /// One frame more.
    fn take(&mut self, frame: &[u8], target: &Index, changes: &mut Changes) -> Result<(), Stop> {
        let open = &mut self.open;
        let (head, checksum) = frames::check(frame, target.salt, target.big_endian, open.checksum)?;
        let image = changes.keep(&frame[FRAME_HEADER_BYTES..], open.pages.bytes());
        let older = open.pages.put(head.page, image);
        changes.recycle(older);
        open.frame += 1;
        open.checksum = checksum;
        if head.commit != 0 {
            let frames = u64::from(open.frame - self.trail.frame);
            changes.commit(frames, open.pages.take(), head.commit);
            self.trail.frame = open.frame;
            self.trail.checksum = checksum;
        }
        Ok(())
    }

    pub(crate) fn lose(&mut self, lost: LostTrail, changes: &mut Changes) -> Drained {
        if self.lost.is_none() {
            self.counters.lost += 1;
        }
        self.lost = Some(lost);
        self.open = Open::default();
        changes.clear();
        Drained::Lost(lost)
    }

    fn wait(&self, until: Instant, wait: Duration) -> Result<(), CaptureError> {
        if Instant::now() >= until {
            let path = self.attached.path().to_owned();
            return Err(CaptureError::Busy { path, seconds: wait.as_secs() });
        }
        std::thread::sleep(LOOK_AGAIN);
        Ok(())
    }

    pub(crate) fn count_stall(&mut self, stall: Duration) {
        let stall_us = u64::try_from(stall.as_micros()).unwrap_or(u64::MAX);
        self.counters.stalls += 1;
        self.counters.stall_us_total += stall_us;
        self.counters.stall_us_max = self.counters.stall_us_max.max(stall_us);
    }

    pub(crate) fn lock(&self, byte: LockByte, mode: Mode) -> Result<bool, CaptureError> {
        lock::set(self.attached.shm(), byte, mode).map_err(|source| self.failed(source))
    }

    pub(crate) fn failed(&self, source: io::Error) -> CaptureError {
        CaptureError::File { path: self.attached.path().to_owned(), source }
    }

    /// Gives back the read buffer; for quiet times.
    pub(crate) fn trim(&mut self) {
        self.buffer = Vec::new();
    }
}

impl Drop for Follower {
    /// The descriptors live on while a snapshot shares them, and locks with them.
    fn drop(&mut self) {
        let slot = match self.hold {
            Hold::Pin(slot) => slot,
            Hold::Bridge => 0,
        };
        let fence = self.writers_held.then_some(LockByte::WRITE);
        for byte in [LockByte::read(slot)].into_iter().chain(fence) {
            if let Err(error) = self.lock(byte, Mode::Unlocked) {
                tracing::warn!(%error, "a lock stays until the database is closed");
            }
        }
    }
}

/// Why a walk ended early.
enum Stop {
    Lost(LostTrail),
    Failed(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Stop::Lost(LostTrail::Short),
            _ => Stop::Failed(error),
        }
    }
}

impl From<Wrong> for Stop {
    fn from(wrong: Wrong) -> Stop {
        match wrong {
            Wrong::Salt => Stop::Lost(LostTrail::Generation),
            Wrong::Checksum => Stop::Lost(LostTrail::Checksum),
        }
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
