//! One tree: its root, its index, how its changes are noticed, and which side of it this node is.

mod opening;
mod operate;
mod shown;

use super::TreeOptions;
use super::peer::PeerError;
use crate::attend::Attend;
use crate::ignores::Ignores;
use crate::index::Index;
use crate::lead::Lead;
use crate::status::Notice;
use crate::tree::{Aside, Tree};
use crate::watch::{ChangeSource, Hint};
use crate::wire::{self, Entered, Frame, Message};
use staffetta_bulk::Wake;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A tree in trouble is tried again this often.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// What was set aside is looked through for what is too old this often.
const FORGET_INTERVAL: Duration = Duration::from_secs(600);
/// Things that are forgotten in one turn.
const FORGET_PER_TURN: usize = 64;
/// What was set aside may fill this share of the file system, in percent, before the oldest goes.
const ASIDE_SHARE_MAX: u64 = 10;
/// A word of the peer by the heartbeats is worth something for this long.
const WORD_MAX: Duration = Duration::from_secs(3);
/// So many deletions within ten minutes wait for nobody, whatever their share.
const DELETIONS_FREE: u64 = 100;
/// Notes of the index.
const NOTE_TREE: &str = "tree";
const NOTE_PAIRED: &str = "paired";
const NOTE_EPOCH: &str = "epoch";

pub(crate) enum Side {
    /// Not open.
    Closed,
    Lead(Box<Lead>),
    Attend(Box<Attend>),
}

/// Why nothing is done with a tree that could be opened, until its root is back or an operator says
/// so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Halt {
    /// The index is of a tree with this marker, and the root has none.
    MarkerGone([u8; 16]),
    /// The root has another marker than the tree that the index is of.
    OtherTree,
    /// The primary's tree has another marker, and both have a history.
    OtherPair,
}

impl Halt {
    fn why(&self, name: &str, path: &Path) -> String {
        let path = path.display();
        let what = match self {
            Self::MarkerGone(_) => format!(
                "{path} was a tree of this pair and has no marker any more: is its disk mounted?"
            ),
            Self::OtherTree => {
                format!("{path} is not the tree that it was: is the right disk mounted?")
            }
            Self::OtherPair => {
                format!("{path} belonged to another pair than the primary's tree")
            }
        };
        format!(
            "{what} Nothing is read or written; `staffetta files approve {name}` goes on with what \
             is there now"
        )
    }
}

pub(crate) struct Followed {
    pub(crate) id: u32,
    pub(crate) options: TreeOptions,
    pub(crate) ignores: Arc<Ignores>,
    /// What the root's marker says; none on a standby that never had contact.
    pub(crate) marker: Option<[u8; 16]>,
    pub(crate) side: Side,
    /// The number that the primary gave it on this connection, once it was begun.
    pub(crate) peer_id: Option<u32>,
    pub(crate) notices: Vec<Notice>,
    state: PathBuf,
    wake: Wake,
    tree: Option<Arc<Tree>>,
    source: Option<Box<dyn ChangeSource>>,
    hints: Vec<Hint>,
    halted: Option<Halt>,
    trouble: Option<String>,
    retry_at: Instant,
    scan_at: Option<Instant>,
    forget_at: Instant,
    epoch: u64,
    /// Both nodes had the same once.
    paired: bool,
    /// What the primary said of it on this connection.
    entered: Option<Entered>,
    /// So many entries wait for a ruling; and what it was.
    diverged: Option<u64>,
    ruled: bool,
    peer_behind: Option<(u64, Instant)>,
    behind_since: Option<Instant>,
    told: Told,
    /// It closed amid a connection: what both nodes know of each other is not the same any more.
    broke: bool,
}

/// What was said to the journal last.
#[derive(Debug, Default)]
struct Told {
    held: u64,
    local_changes: u64,
    set_aside: u64,
    aligned: bool,
}

impl Followed {
    pub(crate) fn new(id: u32, options: TreeOptions, state: &Path, wake: Wake) -> Self {
        let ignores = Ignores::parse(&options.ignore).expect("the configuration checked them");
        let now = Instant::now();
        Self {
            id,
            state: state.join(format!("{}.index", options.name)),
            options,
            ignores: Arc::new(ignores),
            marker: None,
            side: Side::Closed,
            peer_id: None,
            notices: Vec::new(),
            wake,
            tree: None,
            source: None,
            hints: Vec::new(),
            halted: None,
            trouble: None,
            retry_at: now,
            scan_at: None,
            forget_at: now + FORGET_INTERVAL,
            epoch: 0,
            paired: false,
            entered: None,
            diverged: None,
            ruled: false,
            peer_behind: None,
            behind_since: None,
            told: Told::default(),
            broke: false,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.side, Side::Closed)
    }

    pub(crate) fn may_open(&self, now: Instant) -> bool {
        // A root may come back by itself; another pair's tree does not become this one's.
        self.halted != Some(Halt::OtherPair) && now >= self.retry_at
    }

    /// Its name, if the connection must begin anew for its sake; says so once.
    pub(crate) fn take_broke(&mut self) -> Option<String> {
        std::mem::take(&mut self.broke).then(|| self.options.name.clone())
    }

    /// Opens root, index and source of changes, and begins on the side that is wanted.
    pub(crate) fn open(&mut self, follows: bool, now: Instant) {
        self.halted = None;
        match self.try_open(follows, now) {
            Ok(()) if self.halted.is_some() => {}
            Ok(()) => {
                if self.trouble.take().is_some() {
                    self.notices.push(Notice::Healed(self.options.name.clone()));
                }
            }
            Err(why) => self.fail(why, now),
        }
    }

    pub(super) fn fail(&mut self, why: String, now: Instant) {
        self.close();
        self.retry_at = now + RETRY_INTERVAL;
        if self.trouble.as_ref() != Some(&why) {
            let name = self.options.name.clone();
            self.notices.push(match self.halted {
                Some(_) => Notice::Halted(name, why.clone()),
                None => Notice::Trouble(name, why.clone()),
            });
        }
        self.trouble = Some(why);
    }

    pub(super) fn halt(&mut self, halt: Halt, now: Instant) {
        let why = halt.why(&self.options.name, &self.options.path);
        self.halted = Some(halt);
        self.fail(why, now);
    }

    fn close(&mut self) {
        self.side = Side::Closed;
        self.source = None;
        self.tree = None;
        self.broke |= self.peer_id.take().is_some();
    }

    /// This node is primary of this epoch.
    pub(crate) fn lead(&mut self, epoch: u64, now: Instant) {
        self.epoch = epoch;
        self.entered = None;
        self.peer_id = None;
        self.diverged = None;
        self.ruled = false;
        match std::mem::replace(&mut self.side, Side::Closed) {
            Side::Closed => {}
            Side::Lead(mut lead) => {
                if let Err(error) = lead.index_mut().set_note(NOTE_EPOCH, &epoch.to_le_bytes()) {
                    return self.fail(error.to_string(), now);
                }
                self.side = Side::Lead(lead);
            }
            Side::Attend(attend) => {
                let (tree, index) = attend.into_parts();
                if let Err(why) = self.begin_side_lead(tree, index, now) {
                    self.fail(why, now);
                }
            }
        }
    }

    /// It is not primary any more.
    pub(crate) fn attend(&mut self, now: Instant) {
        self.told = Told::default();
        match std::mem::replace(&mut self.side, Side::Closed) {
            Side::Lead(lead) => {
                let (tree, mut index) = lead.into_parts();
                if let Err(error) = index.commit() {
                    return self.fail(error.to_string(), now);
                }
                if let Err(why) = self.begin_side_attend(tree, index) {
                    self.fail(why, now);
                }
            }
            other @ (Side::Closed | Side::Attend(_)) => self.side = other,
        }
    }

    /// Primary: a standby was told the roster.
    pub(crate) fn begin_leading(&mut self) {
        if let Side::Lead(lead) = &mut self.side
            && self.peer_id.is_none()
        {
            self.peer_id = Some(self.id);
            lead.begin(self.id);
        }
    }

    /// Standby: the primary said which trees it has; this one, or not.
    pub(crate) fn named(&mut self, epoch: u64, entered: Option<&Entered>, out: &mut Vec<Vec<u8>>) {
        let again = self.entered.as_ref() == entered && self.peer_id.is_some();
        self.entered = entered.cloned();
        if again {
            return;
        }
        self.epoch = self.epoch.max(epoch);
        self.begin_attending(out);
    }

    /// Standby: takes steps from now on, if the primary named the tree and nothing hinders.
    pub(crate) fn begin_attending(&mut self, out: &mut Vec<Vec<u8>>) {
        let Some(entered) = self.entered.clone().filter(|_| self.peer_id.is_none()) else { return };
        if let Err(why) = self.try_attending(&entered) {
            out.push(wire::message(&Message::Closed(entered.id, wire::reason(&why))));
        }
    }

    fn try_attending(&mut self, entered: &Entered) -> Result<(), String> {
        let now = Instant::now();
        let (Side::Attend(attend), Some(tree)) = (&mut self.side, &self.tree) else {
            return Err(self.trouble.clone().unwrap_or_else(|| "not open".into()));
        };
        if entered.ignores != self.ignores.digest() {
            let why = "the nodes leave out different files: make `ignore` of this tree the same";
            self.trouble = Some(why.into());
            return Err(why.into());
        }
        match self.marker {
            Some(marker) if marker == entered.tree => {}
            Some(_) if self.paired => {
                self.halt(Halt::OtherPair, now);
                return Err("the standby's tree belonged to another pair".into());
            }
            Some(_) | None => {
                let index = attend.index_mut();
                tree.mark(&entered.tree).map_err(|error| error.to_string())?;
                index.set_note(NOTE_TREE, &entered.tree).map_err(|error| error.to_string())?;
                self.marker = Some(entered.tree);
            }
        }
        let index = attend.index_mut();
        index.set_note(NOTE_EPOCH, &self.epoch.to_le_bytes()).map_err(|error| error.to_string())?;
        let alone = index.unshared().map_err(|error| error.to_string())?;
        if self.paired && alone > 0 && !self.ruled {
            if self.diverged.is_none() {
                self.notices.push(Notice::Diverged(self.options.name.clone(), alone));
            }
            self.diverged = Some(alone);
            return Err("the standby holds what the primary may lack: a ruling is awaited".into());
        }
        self.diverged = None;
        self.peer_id = Some(entered.id);
        attend.begin(entered.id);
        Ok(())
    }

    /// The ruling on what only this node has.
    pub(crate) fn rule(&mut self, primarys: bool, out: &mut Vec<Vec<u8>>) {
        if primarys && self.diverged.is_some() {
            self.ruled = true;
            self.begin_attending(out);
        }
    }

    /// The connection ended.
    pub(crate) fn ended(&mut self) {
        self.entered = None;
        self.peer_id = None;
        match &mut self.side {
            Side::Closed => {}
            Side::Lead(lead) => lead.ended(),
            Side::Attend(attend) => attend.ended(),
        }
    }

    /// Primary: what the standby says.
    pub(crate) fn answer(&mut self, message: Message) -> Result<(), PeerError> {
        let Side::Lead(lead) = &mut self.side else { return Ok(()) };
        let refused = |error: crate::lead::LeadError| PeerError(error.to_string());
        match message {
            Message::Offer(_, sums) => lead.offer(sums).map_err(refused),
            Message::Listing { dir, children, last, .. } => {
                lead.listing(dir, children, last).map_err(refused)
            }
            Message::Ack(_, numbers) => lead.ack(&numbers).map_err(refused),
            Message::Refuse(_, seq, refusal) => lead.refuse(seq, &refusal).map_err(refused),
            Message::Again(_, paths) => {
                lead.again(paths);
                Ok(())
            }
            Message::Base { seq, size, hashes, last, .. } => {
                lead.base(seq, size, &hashes, last).map_err(refused)
            }
            Message::BlockHashes { seq, segments, hashes, .. } => {
                lead.block_hashes(seq, &segments, &hashes).map_err(refused)
            }
            Message::Closed(_, reason) => {
                lead.closed(&reason);
                Ok(())
            }
            Message::Roster(..)
            | Message::List(..)
            | Message::Blocks(..)
            | Message::Head(..)
            | Message::Drop(..) => Err(PeerError("a standby does not say this".into())),
        }
    }

    /// Standby: what the primary says.
    pub(crate) fn follow(&mut self, frame: Frame<'_>) -> Result<(), PeerError> {
        let Side::Attend(attend) = &mut self.side else { return Ok(()) };
        let refused = |error: crate::attend::AttendError| PeerError(error.to_string());
        match frame {
            Frame::Steps(_, steps) => attend.steps(steps).map_err(refused),
            Frame::Part(part, bytes) => attend.part(part, bytes).map_err(refused),
            Frame::End(end) => attend.end(end).map_err(refused),
            Frame::Message(message) => match message {
                Message::List(_, dirs) => {
                    attend.list(dirs);
                    Ok(())
                }
                Message::Blocks(_, seq, segments) => attend.blocks(seq, segments).map_err(refused),
                Message::Head(_, seq, sums) => attend.head(seq, sums).map_err(refused),
                Message::Drop(_, seq) => attend.drop_step(seq).map_err(refused),
                Message::Roster(..)
                | Message::Offer(..)
                | Message::Listing { .. }
                | Message::Ack(..)
                | Message::Refuse(..)
                | Message::Again(..)
                | Message::Base { .. }
                | Message::BlockHashes { .. }
                | Message::Closed(..) => Err(PeerError("a primary does not say this".into())),
            },
        }
    }

    pub(crate) fn inbox_bytes(&self) -> usize {
        match &self.side {
            Side::Attend(attend) => attend.backlog_bytes(),
            Side::Closed | Side::Lead(_) => 0,
        }
    }

    pub(crate) fn fd(&self) -> Option<RawFd> {
        self.source.as_ref().map(|source| source.fd())
    }

    /// Takes hints of the kernel: true when more may wait.
    pub(crate) fn notice(&mut self, now: Instant) -> bool {
        let Some(source) = &mut self.source else { return false };
        self.hints.clear();
        let more = match source.take(&mut self.hints) {
            Ok(more) => more,
            Err(error) => {
                self.fail(format!("{}: {error}", self.options.path.display()), now);
                return false;
            }
        };
        if self.hints.contains(&Hint::RootGone) && matches!(self.side, Side::Attend(_)) {
            // What arrives must not go where nobody sees it. (The primary's side looks by itself,
            // and keeps what it knows.)
            self.fail(
                format!("{} is gone: mount its disk again", self.options.path.display()),
                now,
            );
            return false;
        }
        for hint in self.hints.drain(..) {
            if hint == Hint::Overflow {
                self.notices.push(Notice::Overflow(self.options.name.clone()));
            }
            match &mut self.side {
                Side::Closed => {}
                Side::Lead(lead) => lead.hint(hint, now),
                Side::Attend(attend) => attend.hint(hint, now),
            }
        }
        more
    }

    /// One slice of work: true when more is left.
    pub(crate) fn turn(&mut self, now: Instant, room: usize, out: &mut Vec<Vec<u8>>) -> bool {
        if self.scan_at.is_some_and(|at| now >= at) {
            self.scan_at = self.options.scan.map(|interval| now + interval);
            match &mut self.side {
                Side::Closed => {}
                Side::Lead(lead) => lead.begin_scan(now),
                Side::Attend(attend) => attend.begin_audit(false),
            }
        }
        self.find_root_again(now);
        let more = match &mut self.side {
            Side::Closed => return false,
            Side::Lead(lead) => lead.turn(now, room, out),
            Side::Attend(attend) => attend.turn(now, out),
        };
        self.tell();
        if now >= self.forget_at {
            self.forget(now);
        }
        more
    }

    /// A root that was away may come back as another mount of the same tree.
    fn find_root_again(&mut self, now: Instant) {
        let Side::Lead(lead) = &self.side else { return };
        if now < self.retry_at || !lead.is_halted() {
            return;
        }
        self.retry_at = now + RETRY_INTERVAL;
        let found = Tree::open(&self.options.path).and_then(|tree| tree.marker());
        let is_other = self.tree.as_ref().is_some_and(|tree| !tree.is_there());
        if is_other && self.marker.is_some() && matches!(found, Ok(marker) if marker == self.marker)
        {
            self.close();
            self.retry_at = now;
        }
    }

    /// Says to the journal what is new.
    fn tell(&mut self) {
        let name = || self.options.name.clone();
        let told = &mut self.told;
        let aligned = match &mut self.side {
            Side::Closed => return,
            Side::Lead(lead) => {
                let held = lead.held_entries();
                if held > told.held {
                    self.notices.push(Notice::Held(name(), held));
                }
                told.held = held;
                lead.is_aligned()
            }
            Side::Attend(attend) => {
                let seen = attend.counters();
                if seen.local_changes > told.local_changes
                    && let Some((_, path)) = seen.recent.back()
                {
                    let count = seen.local_changes - told.local_changes;
                    self.notices.push(Notice::LocalChanges(name(), count, path.clone()));
                }
                if seen.kept_aside > told.set_aside {
                    let count = seen.kept_aside - told.set_aside;
                    self.notices.push(Notice::SetAside(name(), count));
                }
                told.local_changes = seen.local_changes;
                told.set_aside = seen.kept_aside;
                attend.is_aligned()
            }
        };
        if aligned && !self.paired {
            let index = match &mut self.side {
                Side::Closed => return,
                Side::Lead(lead) => lead.index_mut(),
                Side::Attend(attend) => attend.index_mut(),
            };
            // Said again at the next alignment if it cannot be noted now.
            self.paired = index.set_note(NOTE_PAIRED, b"1").is_ok();
        }
        if aligned && !told.aligned && matches!(self.side, Side::Lead(_)) {
            self.notices.push(Notice::Aligned(self.options.name.clone()));
        }
        // Said once for each time that it was brought to it, not after every change.
        self.told.aligned |= aligned;
    }

    fn forget(&mut self, now: Instant) {
        let Some(tree) = &self.tree else { return };
        let bytes_max = tree.space().map_or(u64::MAX, |(_, all)| all / 100 * ASIDE_SHARE_MAX);
        let mut more = false;
        for aside in [Aside::Trash, Aside::Conflicts] {
            match tree.forget(&aside, self.options.trash, bytes_max, FORGET_PER_TURN) {
                Ok(left) => more |= left,
                Err(error) => {
                    tracing::warn!(tree = %self.options.name, %error, "old things are not removed");
                }
            }
        }
        let interval = if more { Duration::from_millis(100) } else { FORGET_INTERVAL };
        self.forget_at = now + interval;
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        let side = match &self.side {
            Side::Closed if self.halted == Some(Halt::OtherPair) => return None,
            Side::Closed => return Some(self.retry_at),
            Side::Lead(lead) => lead.due(),
            Side::Attend(attend) => attend.due(),
        };
        [side, self.scan_at, Some(self.forget_at)].into_iter().flatten().min()
    }

    /// From now on only what was written before counts for a planned move; none: no move.
    pub(crate) fn drain_from(&mut self, from: Option<Instant>) {
        if let Side::Lead(lead) = &mut self.side {
            lead.drain_from(from);
        }
    }

    /// Whether the standby has what was written before the planned move.
    pub(crate) fn is_drained(&self, noticed: bool) -> bool {
        let prompt = self.source.as_ref().is_some_and(|source| source.name() == "fanotify");
        match &self.side {
            // What cannot be read cannot be shipped, and nobody serves from it.
            Side::Closed | Side::Attend(_) => self.halted.is_some() || !self.paired,
            Side::Lead(lead) => (prompt || noticed) && lead.is_drained(),
        }
    }

    /// How many paths the peer says that it lacks.
    pub(crate) fn peer_behind(&mut self, behind: u64, now: Instant) {
        self.peer_behind = Some((behind, now));
        match behind {
            0 => self.behind_since = None,
            _ => {
                self.behind_since.get_or_insert(now);
            }
        }
    }
}

fn note(index: &Index, key: &str) -> Result<Option<[u8; 16]>, String> {
    let bytes = index.note(key).map_err(|error| error.to_string())?;
    Ok(bytes.and_then(|bytes| bytes.try_into().ok()))
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    let random = ring::rand::SystemRandom::new();
    ring::rand::SecureRandom::fill(&random, &mut bytes).expect("the kernel has randomness");
    bytes
}
