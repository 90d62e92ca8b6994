//! The thread that owns every tree: hints of the kernel in, steps to the peer out, and the reverse.
//!
//! One loop, in this order: orders, streams, frames of the peer, hints, one slice of work for each
//! tree, status. Nothing in it waits but `ppoll`; what syncs a disk has threads of its own.

mod followed;
mod orders;
mod peer;

use crate::engine::followed::Followed;
use crate::path::TreePath;
use crate::status::{Notice, TreeStatus};
use crate::watch::Mechanism;
use crate::wire::TREES_MAX;
use staffetta_bulk::{Shown, Signal, Stream, Wake};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// The status is renewed this often while something happens, and while nothing does.
const STATUS_INTERVAL: Duration = Duration::from_millis(100);
const STATUS_QUIET_INTERVAL: Duration = Duration::from_secs(1);
/// Frames are not produced beyond this many bytes in the channel's queue: what is sent next should
/// be what matters next.
const QUEUE_BYTES_AIM: usize = 2 * 1024 * 1024;
/// The stream is not read while a standby has this much to apply.
const INBOX_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Frames of the peer in one turn.
const FRAMES_PER_TURN: usize = 64;
/// Longest sleep.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// One tree, as configured.
#[derive(Debug, Clone)]
pub struct TreeOptions {
    /// The same on both nodes.
    pub name: String,
    /// Its root here: a folder that exists.
    pub path: PathBuf,
    /// What is left out, in the syntax of gitignore(5); the same on both nodes.
    pub ignore: Vec<String>,
    /// How changes are noticed.
    pub mechanism: Mechanism,
    /// More deletions within ten minutes than this share of all entries, in percent, wait for an
    /// operator; 100: never.
    pub delete_share_max: u8,
    /// Files are followed while they grow, not only when they are closed.
    pub grow: bool,
    /// Contents are compressed when that pays.
    pub compress: bool,
    /// How long what was set aside is kept.
    pub trash: Duration,
    /// The whole tree is walked this often, whatever the kernel said; none: never.
    pub scan: Option<Duration>,
}

/// Where things are.
#[derive(Debug, Clone)]
pub struct Options {
    /// At most [`TREES_MAX`].
    pub trees: Vec<TreeOptions>,
    /// For the indexes; not inside a tree.
    pub state: PathBuf,
}

/// What the daemon wants.
pub enum Command {
    /// This node is primary of this epoch.
    Lead(u64),
    /// It is not; the highest epoch that it knows.
    Follow(u64),
    /// Ship everything that was written before now, until then; the answer says whether the standby
    /// has it.
    Drain(Instant, DrainReply),
    /// A ruling for a tree: the primary's stays, what only this node has is set aside (true); or an
    /// operator decides.
    Rule(String, bool),
    /// How many paths the peer says it lacks, by the heartbeats.
    PeerBehind(String, u64),
    /// An operator wants something of one tree.
    Order(String, Order, OrderReply),
}

/// What an operator can want of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// What waits for approval may go on: held deletions, a root without its marker, a tree that
    /// belonged to another pair, a copy that diverged.
    Approve,
    /// Read every content again and compare it with what is known of it.
    Verify,
    /// What the other node may not have, or has otherwise; at most so many paths.
    Differ(usize),
    /// What was set aside, newest first; at most so many things.
    Kept(usize),
    /// Put something back that was set aside: the newest of this path, or the one of this stamp.
    Restore(Restore),
}

/// What to put back, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// Where it was, relative to the root, as [`KeptThing`] shows it.
    pub path: String,
    /// Which one; none: the newest.
    pub stamp: Option<String>,
    /// Where to, relative to the root; none: where it was.
    pub to: Option<String>,
}

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// Said in a sentence.
    Said(String),
    /// Paths, and why each is listed.
    Paths(Vec<(TreePath, String)>),
    /// What was set aside: in which folder, when, which path, and its bytes.
    Kept(Vec<KeptThing>),
}

/// Something that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptThing {
    /// `trash` or `conflicts`.
    pub place: &'static str,
    /// When, as `20261123T031500Z`.
    pub stamp: String,
    /// Where it was.
    pub path: TreePath,
    /// Its bytes, all below it included; 0 where that is not known.
    pub bytes: u64,
}

/// Answers a [`Command::Drain`].
pub type DrainReply = Box<dyn FnOnce(Result<(), String>) + Send>;
/// Answers a [`Command::Order`]; an error says what to do about it.
pub type OrderReply = Box<dyn FnOnce(Result<Done, String>) + Send>;

/// The engine's ends: cheap to clone. Statuses are in the order of the configuration.
pub type Handle = staffetta_bulk::Handle<Command, TreeStatus>;

/// Cannot start.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the replication of files: {what}: {source}")]
pub struct StartError {
    what: String,
    #[source]
    source: std::io::Error,
}

/// Starts the engine. It follows until it is told to lead.
///
/// # Errors
/// When a descriptor, a thread, or the folder of the indexes cannot be had.
pub fn start(
    options: Options,
    notices: impl Fn(Notice) + Send + 'static,
) -> Result<Handle, StartError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| StartError { what, source }
    };
    assert!(options.trees.len() <= TREES_MAX, "the configuration keeps this limit");
    let woken = Arc::new(Signal::new().map_err(failed("a descriptor to be woken by"))?);
    let waking = Arc::clone(&woken);
    let wake: Wake = Arc::new(move || waking.wake());
    std::fs::create_dir_all(&options.state)
        .map_err(failed(&format!("folder {}", options.state.display())))?;
    let (commands, todo) = mpsc::channel();
    let (streams, arriving) = mpsc::channel();
    let handle = Handle::new(commands, streams, wake);
    let shown = handle.shown();
    let waking = handle.wake();
    let build = move || {
        let now = Instant::now();
        let followed = |(id, tree)| Followed::new(id, tree, &options.state, Arc::clone(&waking));
        Engine {
            trees: (0..).zip(options.trees).map(followed).collect(),
            notices: Box::new(notices),
            role: Role::Following,
            floor: 0,
            stream: None,
            begun: false,
            out: Vec::new(),
            arriving,
            todo,
            woken,
            drain: None,
            status_at: now,
            stirred: true,
            shown,
        }
    };
    std::thread::Builder::new()
        .name("files".into())
        .spawn(move || build().run())
        .map_err(failed("a thread"))?;
    Ok(handle)
}

/// What this node is to its trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Leading(u64),
    Following,
}

/// A planned move waits for what was written before it.
struct Draining {
    since: Instant,
    until: Instant,
    reply: DrainReply,
}

struct Engine {
    trees: Vec<Followed>,
    notices: Box<dyn Fn(Notice) + Send>,
    role: Role,
    /// The highest epoch known: lower ones are refused.
    floor: u64,
    stream: Option<Stream>,
    /// On this stream the roster was said, or heard.
    begun: bool,
    /// Frames for the stream.
    out: Vec<Vec<u8>>,
    arriving: Receiver<Stream>,
    todo: Receiver<Command>,
    woken: Arc<Signal>,
    drain: Option<Draining>,
    status_at: Instant,
    /// Something happened since the status was renewed.
    stirred: bool,
    shown: Arc<Shown<TreeStatus>>,
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
            let mut more = self.hear();
            for tree in &mut self.trees {
                more |= tree.notice(now);
            }
            more |= self.turn(now);
            self.drain_turn(now);
            if now >= self.status_due() {
                self.status_at = now + STATUS_INTERVAL;
                self.stirred = false;
                self.post();
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

    /// One slice of every tree: true when work is left.
    fn turn(&mut self, now: Instant) -> bool {
        let mut more = false;
        let mut appeared = false;
        for at in 0..self.trees.len() {
            let queued = self.stream.as_ref().map_or(0, Stream::queued);
            let room = QUEUE_BYTES_AIM.saturating_sub(queued);
            let tree = &mut self.trees[at];
            if tree.is_closed() && tree.may_open(now) {
                tree.open(self.role == Role::Following, now);
                appeared |= !tree.is_closed();
                // The primary may have named it before it was open.
                tree.begin_attending(&mut self.out);
                self.stirred = true;
            }
            more |= tree.turn(now, room, &mut self.out);
            for notice in tree.notices.drain(..) {
                (self.notices)(notice);
                self.stirred = true;
            }
            self.send();
        }
        // All of them, or the next turn would end the next connection.
        let broken = self.trees.iter_mut().filter_map(Followed::take_broke).last();
        if let Some(name) = broken {
            self.ended(&format!("tree {name} closed amid it"));
        } else if appeared {
            self.introduce();
        }
        self.stirred |= more;
        more
    }

    fn post(&mut self) {
        let all = self.trees.iter_mut().map(|tree| tree.status(self.stream.is_some())).collect();
        self.shown.post(all);
    }

    /// Waits until something may have happened.
    fn sleep(&mut self, polled: &mut Vec<libc::pollfd>) {
        polled.clear();
        let mut add = |fd: RawFd, events: i16| {
            polled.push(libc::pollfd { fd, events, revents: 0 });
        };
        let now = Instant::now();
        let mut until = self.status_due().min(now + SLEEP_MAX);
        add(self.woken.fd(), libc::POLLIN);
        for tree in &self.trees {
            until = tree.due().map_or(until, |at| until.min(at));
            tree.fd().into_iter().for_each(|fd| add(fd, libc::POLLIN));
        }
        if let Some(drain) = &self.drain {
            until = until.min(drain.until);
        }
        let reads = self.may_read();
        if let Some(stream) = &self.stream {
            let held = stream.ready_at();
            let write = stream.wants_write() && held.is_none();
            let events = if reads { libc::POLLIN } else { 0 };
            add(stream.fd(), if write { events | libc::POLLOUT } else { events });
            until = held.map_or(until, |at| until.min(at));
        }
        let left = until.saturating_duration_since(now);
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
    }

    fn status_due(&self) -> Instant {
        let quiet = STATUS_QUIET_INTERVAL.saturating_sub(STATUS_INTERVAL);
        if self.stirred { self.status_at } else { self.status_at + quiet }
    }
}

#[cfg(test)]
#[path = "engine/hostile_tests.rs"]
mod hostile;

#[cfg(test)]
#[path = "engine/reign_tests.rs"]
mod reign;
