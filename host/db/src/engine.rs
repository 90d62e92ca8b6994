//! The thread that owns all databases of a node, in either role.
//!
//! One turn, in this order: what the daemon says, what the peer says, what was found by the worker,
//! every database that may have changed, the commits that wait, the channel. Nothing here waits for
//! a disk longer than a transaction takes; whole databases are read by the worker.
//!
//! Promises: while this node is not primary no application writes a database, from before the first
//! frame of a primary on; what a database holds is known before it is led or attended.

mod discover;
mod hold;
mod keep;
mod notice;
mod peer;
mod roles;
mod turn;
mod wait;

use crate::attach::Files;
use crate::attend::Attend;
use crate::barrier::{Barrier, RequestId};
use crate::lead::Lead;
use crate::ledger::Ledger;
use crate::status::{DatabaseCounters, DatabaseStatus, Notice};
use crate::wire::{Entry, Position};
use crate::worker::{Ticket, Worker};
use staffetta_bulk::{Shown, Signal, Stream, Wake};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// SQLite writes the log first and the index after it, so that the notice of the one comes before
/// the other: by microseconds, or by a sync of the disk. A database that was written is looked at
/// after this part of the time since, within these bounds, until its commit is seen.
const LOOK_SHARE: u32 = 4;
const LOOK_INTERVAL_MIN: Duration = Duration::from_micros(50);
const LOOK_INTERVAL_MAX: Duration = Duration::from_millis(5);
const LOOKED_AT_FOR: Duration = Duration::from_secs(3);
/// Where a commit follows another within this, the next is looked for all the time, for so long.
const QUICK_COMMITS: Duration = Duration::from_millis(2);
const QUICK_FOR: Duration = Duration::from_millis(20);
/// A database that was written so long ago is quiet.
const LIVELY_FOR: Duration = Duration::from_secs(3);
/// Databases that nobody writes are looked at together, at multiples of this.
const LOOK_TOGETHER: Duration = Duration::from_millis(100);
/// What changes slowly is renewed with each of so many statuses, where nobody writes.
const STATUSES_PER_SLOW: u32 = 10;
/// Every database is looked at this often, whatever the notices say.
const LOOK_ALWAYS_INTERVAL: Duration = Duration::from_secs(1);
/// New, gone and replaced files are looked for this often.
const DISCOVER_INTERVAL: Duration = Duration::from_secs(1);
/// What others see is renewed this often while something happens, and this often in any case.
const STATUS_INTERVAL: Duration = Duration::from_millis(100);
const STATUS_QUIET_INTERVAL: Duration = Duration::from_secs(1);
/// Frames of the peer in one turn.
const FRAMES_PER_TURN_MAX: usize = 256;

/// What is replicated, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// What both nodes call it; with the file's name behind it where the pattern means many.
    pub name: String,
    /// Absolute path; the last part may hold `*` and `?`.
    pub pattern: String,
    /// Left in a rollback journal, and followed by differences.
    pub keep_journal: bool,
    /// Commits wait for the standby for so long.
    pub sync: Option<Duration>,
    /// Synchronous commits wait for ever where nobody can be told that the standby lacks them.
    pub block_alone: bool,
    /// Acknowledged is what is on the disk.
    pub durable: bool,
    /// Transactions that the standby may lack before writers wait; 0: any number.
    pub unacked_max: u64,
    /// All pages are compared this often.
    pub scrub: Option<Duration>,
}

/// Where things are.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is replicated.
    pub patterns: Vec<Pattern>,
    /// For histories.
    pub state: PathBuf,
    /// For archived copies.
    pub archive: PathBuf,
    /// The socket at which commits wait.
    pub barrier: Option<PathBuf>,
}

/// What the daemon wants.
pub enum Command {
    /// This node is primary of this epoch.
    Lead(u64),
    /// It is not; the highest epoch that it knows.
    Follow(u64),
    /// Hold all writers and ship everything, until then; the answer says whether the standby has
    /// all.
    Hold(Instant, HoldReply),
    /// Let writers go on.
    Unhold,
    /// A ruling: the primary's data stays, this node's is archived (true); or an operator decides.
    Rule(PathBuf, bool),
    /// Compare all pages again and bring the standby to what the primary has; on the standby:
    /// overwrite what diverged, after it is archived.
    Resync(PathBuf),
    /// Compare all pages with what is known of them; all databases when none is named.
    Scrub(Option<PathBuf>),
    /// The peer's last word on where it is with a database, by the heartbeats.
    PeerAt(PathBuf, Position),
    /// The standby, or the arbiter, knows durably that it lacks something (true), or no longer.
    Degraded(bool),
}

/// Answers a [`Command::Hold`].
pub type HoldReply = Box<dyn FnOnce(Result<(), String>) + Send>;

/// The engine's ends: cheap to clone.
pub type Handle = staffetta_bulk::Handle<Command, DatabaseStatus>;

/// Cannot start.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the replication of databases: {what}: {source}")]
pub struct StartError {
    what: String,
    #[source]
    source: std::io::Error,
}

/// Starts the engine. It follows until it is told to lead.
///
/// # Errors
/// When a descriptor, thread, or the barrier's socket cannot be had.
pub fn start(
    options: Options,
    notices: impl Fn(Notice) + Send + 'static,
) -> Result<Handle, StartError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| StartError { what, source }
    };
    let woken = Arc::new(Signal::new().map_err(failed("a descriptor to be woken by"))?);
    let wake = waker(&woken);
    let (commands, todo) = mpsc::channel();
    let (streams, arriving) = mpsc::channel();
    let bind =
        |path: &PathBuf| Barrier::bind(path).map_err(failed(&format!("socket {}", path.display())));
    let barrier = options.barrier.as_ref().map(bind).transpose()?;
    let watch = notice::Watch::new().map_err(failed("inotify"))?;
    let scans = Worker::start("db-scan", Arc::clone(&wake)).map_err(failed("a thread"))?;
    let checkpoints =
        Worker::start("db-checkpoint", Arc::clone(&wake)).map_err(failed("a thread"))?;
    let handle = Handle::new(commands, streams, wake);
    let shown = handle.shown();
    let build = move || {
        let now = Instant::now();
        Engine {
            known: crate::ledger::known(&options.state),
            options,
            notices: Box::new(notices),
            role: Role::Following,
            floor: 0,
            databases: BTreeMap::new(),
            absent: BTreeSet::new(),
            refused: BTreeMap::new(),
            former: BTreeMap::new(),
            entries: BTreeMap::new(),
            named_in: 0,
            lacking_at: now,
            next_id: 1,
            generation: 0,
            stream: None,
            frame: Vec::new(),
            arriving,
            todo,
            woken,
            watch,
            scans,
            checkpoints,
            barrier,
            waiting: Vec::new(),
            hold: None,
            sync: wait::Sync::default(),
            without: 0,
            discover_at: now,
            status_at: now,
            statuses: 0,
            began: now,
            stirred: true,
            shown,
        }
    };
    std::thread::Builder::new()
        .name("databases".into())
        .spawn(move || build().run())
        .map_err(failed("a thread"))?;
    Ok(handle)
}

fn waker(woken: &Arc<Signal>) -> Wake {
    let woken = Arc::clone(woken);
    Arc::new(move || woken.wake())
}

/// When a database that was written at some time must be looked at for what it means.
fn look_after(now: Instant, written: Instant) -> Option<Instant> {
    let since = now.saturating_duration_since(written);
    let interval = (since / LOOK_SHARE).clamp(LOOK_INTERVAL_MIN, LOOK_INTERVAL_MAX);
    (since < LOOKED_AT_FOR).then(|| now + interval)
}

/// What this node is to its databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Leading(u64),
    Following,
}

/// One database.
struct Database {
    name: String,
    path: PathBuf,
    pattern: usize,
    id: u32,
    /// What the worker is doing for it is worth something only under this number.
    generation: u64,
    /// The descriptors of its last opening, as long as anybody uses them.
    files: Weak<Files>,
    /// A task of the worker is under way.
    scanning: bool,
    checkpointing: bool,
    ledger: Ledger,
    side: Side,
    /// Led by its log only until its rollback journal can be kept.
    returns: bool,
    counters: DatabaseCounters,
    trouble: Option<String>,
    retry_at: Instant,
    /// Its log was written then, and what was written is not captured yet.
    noticed_at: Option<Instant>,
    lively_until: Instant,
    captured_at: Instant,
    quick_until: Instant,
    look_at: Instant,
    /// A commit went on without the standby before the capture caught up with it: until that does,
    /// nobody says that the standby has everything.
    unread: bool,
    wal_bytes: u64,
    scrub: Scrub,
}

impl Database {
    /// For what is asked of a worker.
    fn ticket(&self) -> Ticket {
        Ticket { id: self.id, generation: self.generation }
    }
}

/// A database that was at a path, links resolved.
struct Former {
    path: PathBuf,
    files: Arc<Files>,
}

/// The comparison of all pages.
#[derive(Debug, Clone, Copy)]
struct Scrub {
    due: Option<Instant>,
    under_way: bool,
    last: Option<(Instant, usize)>,
}

/// What the database is to this node.
#[derive(Debug)]
enum Side {
    /// Not open: gone, or in trouble.
    Closed,
    Lead(Box<Lead>),
    /// No longer primary, and an application still holds the write lock.
    Yield(Box<Lead>),
    Attend(Box<Attend>),
}

/// A commit that waits.
#[derive(Debug)]
struct Waiting {
    id: RequestId,
    database: PathBuf,
    /// All up to here must be acknowledged; none before the capture caught up with the request.
    target: Option<Position>,
    since: Instant,
}

struct Engine {
    options: Options,
    notices: Box<dyn Fn(Notice) + Send>,
    role: Role,
    /// The highest epoch known: lower ones are refused.
    floor: u64,
    databases: BTreeMap<PathBuf, Database>,
    /// Files that the patterns mean and that are not cared for, and why.
    refused: BTreeMap<PathBuf, String>,
    /// Databases that have a history here, whether they are there or not.
    known: BTreeSet<PathBuf>,
    /// Patterns of synchronous databases of which nothing is there, though something was.
    absent: BTreeSet<usize>,
    /// What was open under a path that leads elsewhere now, by that path.
    former: BTreeMap<PathBuf, Former>,
    /// What the primary has named on this stream, and the epoch in which it did.
    entries: BTreeMap<String, Entry>,
    named_in: u64,
    lacking_at: Instant,
    next_id: u32,
    generation: u64,
    stream: Option<Stream>,
    /// The frame of the peer that is being read.
    frame: Vec<u8>,
    arriving: Receiver<Stream>,
    todo: Receiver<Command>,
    woken: Arc<Signal>,
    watch: notice::Watch,
    scans: Worker,
    checkpoints: Worker,
    barrier: Option<Barrier>,
    waiting: Vec<Waiting>,
    hold: Option<hold::Holding>,
    sync: wait::Sync,
    /// Commits answered without the standby.
    without: u64,
    discover_at: Instant,
    status_at: Instant,
    statuses: u32,
    began: Instant,
    /// Something happened since the status was renewed.
    stirred: bool,
    shown: Arc<Shown<DatabaseStatus>>,
}

impl Engine {
    fn run(mut self) {
        let mut polled = Vec::new();
        loop {
            self.shown.looks();
            if !self.commands() {
                return;
            }
            let now = Instant::now();
            self.streams();
            self.hear(now);
            self.found(now);
            if now >= self.discover_at {
                self.discover_at = now + DISCOVER_INTERVAL;
                self.discover(now);
            }
            let more = self.turn(now);
            self.wait_turn(now);
            self.hold_turn(now);
            self.flush();
            if now >= self.status_due() {
                self.status_at = now + STATUS_INTERVAL;
                self.stirred = false;
                self.post(now);
            }
            if !more {
                self.sleep(&mut polled);
            }
        }
    }

    /// False when nobody is left to say anything.
    fn commands(&mut self) -> bool {
        loop {
            match self.todo.try_recv() {
                Ok(command) => self.obey(command),
                Err(mpsc::TryRecvError::Empty) => return true,
                Err(mpsc::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn obey(&mut self, command: Command) {
        let now = Instant::now();
        self.stirred = true;
        match command {
            Command::Lead(epoch) => self.lead(epoch, now),
            Command::Follow(epoch) => self.follow(epoch, now),
            Command::Hold(until, reply) => self.begin_hold(until, reply),
            Command::Unhold => self.end_hold(),
            Command::Rule(path, winner) => self.rule(&path, winner, now),
            Command::Resync(path) => self.resync(&path, now),
            Command::Scrub(path) => self.scrub(path.as_deref(), now),
            Command::PeerAt(path, position) => self.peer_at(&path, position),
            Command::Degraded(degraded) => self.degraded(degraded),
        }
    }

    fn say(&self, notice: Notice) {
        (self.notices)(notice);
    }

    /// Waits until something may have happened.
    fn sleep(&mut self, polled: &mut Vec<libc::pollfd>) {
        polled.clear();
        let entry = |fd: RawFd, events: i16| libc::pollfd { fd, events, revents: 0 };
        let mut until = self.next_due();
        polled.push(entry(self.woken.fd(), libc::POLLIN));
        polled.push(entry(self.watch.fd(), libc::POLLIN));
        if let Some(stream) = &self.stream {
            let held = stream.ready_at();
            let write = stream.wants_write() && held.is_none();
            let events = if write { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN };
            polled.push(entry(stream.fd(), events));
            until = held.map_or(until, |at| until.min(at));
        }
        let barrier_at = polled.len();
        if let Some(barrier) = &self.barrier {
            polled.extend(barrier.polled().map(|(fd, events)| entry(fd, events)));
        }
        let left = until.saturating_duration_since(Instant::now());
        let timeout = libc::timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let count = polled.len() as libc::nfds_t;
        self.shown.sleeps();
        // SAFETY: the array and the time live for the call; no signal mask is changed.
        unsafe { libc::ppoll(polled.as_mut_ptr(), count, &raw const timeout, std::ptr::null()) };
        if polled[0].revents != 0 {
            self.woken.drain();
        }
        if polled[1].revents != 0 {
            self.noticed();
        }
        if let Some(barrier) = &mut self.barrier
            && polled[barrier_at..].iter().any(|entry| entry.revents != 0)
        {
            barrier.wakes();
        }
    }

    /// Databases whose log was written to.
    fn noticed(&mut self) {
        let now = Instant::now();
        let noticed = self.watch.noticed();
        if noticed.folders {
            self.discover_at = now;
        }
        for database in self.databases.values_mut() {
            if noticed.all || noticed.ids.contains(&database.id) {
                database.noticed_at = Some(now);
                database.lively_until = now + LIVELY_FOR;
                database.look_at = now;
            }
        }
    }

    fn status_due(&self) -> Instant {
        let quiet = STATUS_QUIET_INTERVAL.saturating_sub(STATUS_INTERVAL);
        if self.stirred { self.status_at } else { self.status_at + quiet }
    }

    fn next_due(&self) -> Instant {
        let mut due = self.status_due().min(self.discover_at);
        for database in self.databases.values() {
            due = due.min(database.look_at);
        }
        for at in [self.wait_due(), self.hold_due()].into_iter().flatten() {
            due = due.min(at);
        }
        due
    }
}

#[cfg(test)]
#[path = "engine/hostile_tests.rs"]
mod hostile_tests;
