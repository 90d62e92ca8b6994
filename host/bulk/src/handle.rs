//! What the rest of a daemon has of an engine: a thread that takes commands and streams of the
//! peer, and shows what becomes of the things that it sees to.

use crate::pulse::Pulse;
use crate::{Stream, Wake};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Everybody's end: `C` is what the engine is told, `S` the status of one thing.
pub struct Handle<C, S> {
    commands: Sender<C>,
    streams: Sender<Stream>,
    wake: Wake,
    shown: Arc<Shown<S>>,
}

impl<C, S> Clone for Handle<C, S> {
    fn clone(&self) -> Self {
        Self {
            commands: self.commands.clone(),
            streams: self.streams.clone(),
            wake: Arc::clone(&self.wake),
            shown: Arc::clone(&self.shown),
        }
    }
}

impl<C, S> Handle<C, S> {
    /// The handle of an engine that takes these, and is woken so.
    #[must_use]
    pub fn new(commands: Sender<C>, streams: Sender<Stream>, wake: Wake) -> Self {
        Self { commands, streams, wake, shown: Arc::default() }
    }

    /// What the engine shows, for the engine.
    #[must_use]
    pub fn shown(&self) -> Arc<Shown<S>> {
        Arc::clone(&self.shown)
    }

    /// Says something to the engine.
    pub fn say(&self, command: C) {
        // The engine ends with the last handle, or with the process.
        let _ = self.commands.send(command);
        (self.wake)();
    }

    /// Where streams of the peer go.
    #[must_use]
    pub fn streams(&self) -> Sender<Stream> {
        self.streams.clone()
    }

    /// To be called after each stream.
    #[must_use]
    pub fn wake(&self) -> Wake {
        Arc::clone(&self.wake)
    }

    /// All things as they were a moment ago.
    #[must_use]
    pub fn status(&self) -> Arc<Vec<S>> {
        self.shown.board.lock().expect("no holder panics").clone()
    }

    /// The same, for whoever may not wait: none while somebody else is at it.
    #[must_use]
    pub fn try_status(&self) -> Option<Arc<Vec<S>>> {
        self.shown.board.try_lock().ok().map(|board| board.clone())
    }

    /// Whether it was looked at all things once: before that there is no status of any.
    #[must_use]
    pub fn has_looked(&self) -> bool {
        self.shown.has_looked.load(Ordering::Acquire)
    }

    /// How long the thread has not looked at what happens: a status may be older by so much.
    #[must_use]
    pub fn late(&self) -> Duration {
        self.shown.pulse.late()
    }

    /// The epoch that this node leads; none while it does not.
    #[must_use]
    pub fn leading(&self) -> Option<u64> {
        match self.shown.leading.load(Ordering::Acquire) {
            0 => None,
            epoch => Some(epoch),
        }
    }
}

/// The engine's end. Nobody waits for another there.
pub struct Shown<S> {
    board: Mutex<Arc<Vec<S>>>,
    has_looked: AtomicBool,
    leading: AtomicU64,
    pulse: Pulse,
}

impl<S> Default for Shown<S> {
    fn default() -> Self {
        Self {
            board: Mutex::default(),
            has_looked: AtomicBool::default(),
            leading: AtomicU64::default(),
            pulse: Pulse::default(),
        }
    }
}

impl<S> Shown<S> {
    /// All things as they are now.
    pub fn post(&self, all: Vec<S>) {
        let all = Arc::new(all);
        // What was there is freed by this thread, and not under the lock.
        let old = std::mem::replace(&mut *self.board.lock().expect("no holder panics"), all);
        drop(old);
        self.has_looked.store(true, Ordering::Release);
    }

    /// This node leads this epoch; 0: none.
    pub fn leads(&self, epoch: u64) {
        self.leading.store(epoch, Ordering::Release);
    }

    /// A turn begins: the thread looks at all that happened.
    pub fn looks(&self) {
        self.pulse.looks();
    }

    /// The thread waits, and whatever happens wakes it.
    pub fn sleeps(&self) {
        self.pulse.sleeps();
    }
}
