//! One tree on the standby: steps of the primary become the tree on the disk.
//!
//! Promises: steps are done in their order; what readers see under a name is at any moment whole,
//! old or new, or the beginning of a file that grows; nothing is acknowledged before it is durable;
//! what was changed here is never overwritten or deleted, but set aside. What goes wrong with one
//! step is told to the primary and holds up no other.
//!
//! Refuses to do: decide who leads, read a clock for anything but intervals, follow a symlink, wait
//! for the disk longer than one call takes: what lasts is done in slices, syncs by a thread.

mod audit;
mod deed;
mod durable;
mod ground;
mod group;
mod inbox;
mod intent;
mod large;
mod local;
mod read;
mod shown;
mod trouble;

pub(crate) use audit::Audited;
pub(crate) use durable::{Flusher, flush};
pub(crate) use ground::Counters;
pub(crate) use intent::forget as forget_intent;
pub(crate) use trouble::AttendError;

use crate::entry::{Row, Sums};
use crate::ignores::Ignores;
use crate::index::Index;
use crate::path::TreePath;
use crate::tree::{Look, Tree};
use crate::wire::{self, CHILDREN_MAX, Child, End, Message, Part, Step};
use ground::Ground;
use group::{Group, Grown};
use inbox::Item;
use intent::{Intent, Recalled};
use large::{LARGE_BYTES_MAX, LARGE_MAX, Large};
use local::{Local, Why};
use staffetta_bulk::Wake;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use trouble::Fault;

/// Work in one turn, beyond what one call takes.
const SLICE: Duration = Duration::from_millis(4);
/// Steps of a group.
const GROUP_STEPS_MAX: usize = 1_000;
/// Bytes of the contents of a group.
const GROUP_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Answers wait when more than this was said in one turn.
const OUT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of names in one frame of a listing.
const LISTING_BYTES: usize = 512 * 1024;
/// After the index failed, the tree is offered again so much later.
const PAUSE: Duration = Duration::from_secs(5);
/// Descriptors that a group does not use up.
const DESCRIPTORS_LEFT: i32 = 128;
/// Rows of changes on this node that are committed together.
const STIRRED_MAX: u32 = 10_000;

/// What a tree is attended with.
pub(crate) struct Settings {
    /// What both nodes leave out.
    pub ignores: Arc<Ignores>,
    /// [`flush`], and whatever an observer does around it.
    pub flusher: Flusher,
}

/// What others see.
#[derive(Debug, Clone, Default)]
pub(crate) struct AttendStatus {
    pub counters: Counters,
    pub audited: Audited,
    /// Steps that are here and not acknowledged.
    pub waiting: usize,
}

/// A folder, and what in it was not told yet.
type Listing = (TreePath, VecDeque<(Box<[u8]>, Row, u128)>);

/// One tree that follows the primary's.
pub(crate) struct Attend {
    ground: Ground,
    ignores: Arc<Ignores>,
    helper: durable::Helper,
    local: Local,
    audits: audit::Audits,
    /// The number that the primary gave the tree, while there is a connection.
    id: Option<u32>,
    /// Counts connections.
    connection: u64,
    /// The number of the last step.
    last: Option<u64>,
    /// Large files that began and were not ended, as far as was received.
    begun: BTreeSet<u64>,
    inbox: VecDeque<Item>,
    inbox_bytes: usize,
    /// The first of the inbox cannot be taken in now.
    is_waiting: bool,
    is_head_waiting: bool,
    larges: BTreeMap<u64, Large>,
    gathering: Option<Group>,
    current: Option<Group>,
    grown: Grown,
    intent: Intent,
    recalled: Recalled,
    /// Folders that the primary asked for.
    listed: VecDeque<TreePath>,
    /// The folder that is being told, and what of it was not told yet.
    listing: Option<Listing>,
    is_offer_due: bool,
    is_offered: bool,
    /// The primary's tree was the same at its last word of it.
    is_aligned: bool,
    /// Takes no steps until then.
    closed: Option<Instant>,
    /// Descriptors from this number on are left for other things than temps.
    crowded: i32,
    /// Rows that were changed by no step and are not committed.
    stirred: u32,
}

impl Attend {
    /// Looks at what a crash came between, and, where nothing is known, at the whole tree.
    ///
    /// # Errors
    /// The index or the disk fails, or there is no thread to be had.
    pub(crate) fn new(
        tree: Arc<Tree>,
        index: Index,
        settings: Settings,
        wake: Wake,
    ) -> std::io::Result<Self> {
        let helper = durable::Helper::start(settings.flusher, wake)?;
        let mut attend = Self {
            ground: Ground::new(tree, index),
            ignores: settings.ignores,
            helper,
            local: Local::default(),
            audits: audit::Audits::default(),
            id: None,
            connection: 0,
            last: None,
            begun: BTreeSet::new(),
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            is_waiting: false,
            is_head_waiting: false,
            larges: BTreeMap::new(),
            gathering: None,
            current: None,
            grown: Grown::default(),
            intent: Intent::default(),
            recalled: Recalled::default(),
            listed: VecDeque::new(),
            listing: None,
            is_offer_due: false,
            is_offered: false,
            is_aligned: false,
            closed: None,
            crowded: crowded_from(),
            stirred: 0,
        };
        attend.ground.tree.clean()?;
        attend.recall().map_err(|fault| match fault {
            Fault::Disk(error) => error,
            Fault::Index(error) => std::io::Error::other(error),
        })?;
        Ok(attend)
    }

    fn recall(&mut self) -> Result<(), Fault> {
        let root = TreePath::root();
        if self.ground.index.get(&root)?.is_none() {
            if let Look::Whole { entry, stamp, racy, .. } = self.ground.tree.look(&root)? {
                self.ground.index.put(&root, &Row { entry, stamp, racy, shared: false })?;
            }
            self.audit_whole(Why { first: true, ..Why::HINTED });
        }
        self.recall_intent()
    }

    /// The primary named this tree on a new connection. Steps may follow from now on.
    pub(crate) fn begin(&mut self, id: u32) {
        self.ended();
        self.id = Some(id);
        self.is_offer_due = true;
    }

    /// The connection is gone. What was ready is done; what arrived of large files is kept.
    pub(crate) fn ended(&mut self) {
        self.id = None;
        self.connection += 1;
        self.last = None;
        self.begun.clear();
        self.inbox.clear();
        self.inbox_bytes = 0;
        self.is_waiting = false;
        self.is_head_waiting = false;
        self.listed.clear();
        self.listing = None;
        self.is_offered = false;
        self.is_aligned = false;
        self.is_offer_due = false;
        self.local.forget_questions();
        for large in std::mem::take(&mut self.larges).into_values() {
            large.leave();
        }
    }

    /// Steps of the primary, in their order.
    ///
    /// # Errors
    /// The primary breaks the protocol: end the connection.
    pub(crate) fn steps(&mut self, steps: Vec<Step<'_>>) -> Result<(), AttendError> {
        for Step { seq, deed } in steps {
            self.follows(seq)?;
            let item = Item::of(seq, deed);
            if let Item::Begin { .. } = item {
                if self.begun.len() >= LARGE_MAX {
                    return Err(AttendError::Many(seq));
                }
                self.begun.insert(seq);
            }
            self.receive(item);
        }
        Ok(())
    }

    /// A part of a large file; errors as of [`Attend::steps`].
    pub(crate) fn part(&mut self, part: Part, bytes: &[u8]) -> Result<(), AttendError> {
        if !self.is_begun(part.seq)? {
            return Ok(());
        }
        if part.offset.saturating_add(u64::from(part.bytes)) > LARGE_BYTES_MAX {
            return Err(AttendError::Range(part.seq));
        }
        self.receive(Item::Part(part, bytes.to_vec()));
        Ok(())
    }

    /// The end of a large file; errors as of [`Attend::steps`].
    pub(crate) fn end(&mut self, end: End) -> Result<(), AttendError> {
        if self.is_begun(end.seq)? {
            self.begun.remove(&end.seq);
            self.receive(Item::End(end));
        }
        Ok(())
    }

    /// A large file will not be ended; errors as of [`Attend::steps`].
    pub(crate) fn drop_step(&mut self, seq: u64) -> Result<(), AttendError> {
        if self.is_begun(seq)? {
            self.begun.remove(&seq);
            self.receive(Item::Drop(seq));
        }
        Ok(())
    }

    /// The hashes of blocks of a base are asked for; errors as of [`Attend::steps`].
    pub(crate) fn blocks(&mut self, seq: u64, segments: Vec<u32>) -> Result<(), AttendError> {
        if self.is_begun(seq)? { self.ask_blocks(seq, segments) } else { Ok(()) }
    }

    /// Folders are asked for.
    pub(crate) fn list(&mut self, dirs: Vec<TreePath>) {
        self.listed.extend(dirs);
    }

    /// The primary said all, and this is the sum of its tree; errors as of [`Attend::steps`].
    pub(crate) fn head(&mut self, seq: u64, sums: Sums) -> Result<(), AttendError> {
        self.follows(seq)?;
        self.receive(Item::Head(seq, sums));
        Ok(())
    }

    fn follows(&mut self, seq: u64) -> Result<(), AttendError> {
        if let Some(last) = self.last.filter(|last| *last >= seq) {
            return Err(AttendError::Order(seq, last));
        }
        self.last = Some(seq);
        Ok(())
    }

    /// False while nothing is taken: what was begun before that is forgotten.
    fn is_begun(&self, seq: u64) -> Result<bool, AttendError> {
        if self.closed.is_some() || self.id.is_none() {
            return Ok(false);
        }
        if self.begun.contains(&seq) { Ok(true) } else { Err(AttendError::Unknown(seq)) }
    }

    fn receive(&mut self, item: Item) {
        if self.closed.is_none() && self.id.is_some() {
            self.inbox_bytes += item.bytes();
            self.inbox.push_back(item);
        }
    }

    /// Bytes that wait here.
    pub(crate) fn backlog_bytes(&self) -> usize {
        let asked: usize = self.larges.values().map(Large::asked_bytes).sum();
        let listed = self.listed.iter().map(|dir| size_of::<TreePath>() + dir.as_bytes().len());
        self.inbox_bytes + asked + listed.sum::<usize>()
    }

    /// Does what is due, for some milliseconds; what is to be sent is added to `out`. True when
    /// more can be done at once.
    pub(crate) fn turn(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) -> bool {
        let mut recalled = Ok(());
        if let Some(closed) = self.closed {
            if now < closed {
                return false;
            }
            self.closed = None;
            self.is_offer_due = self.id.is_some();
            // The index is as it was before the deeds that it did not hear the end of.
            recalled = self.recall_intent();
        }
        match recalled.and_then(|()| self.work(now, now + SLICE, out)) {
            Ok(more) => more,
            Err(Fault::Index(error)) => {
                self.close(&error.to_string(), now, out);
                false
            }
            Err(Fault::Disk(error)) => {
                self.close(&trouble::text(&self.ground.tree.path.display(), &error), now, out);
                false
            }
        }
    }

    fn work(
        &mut self,
        now: Instant,
        until: Instant,
        out: &mut Vec<Vec<u8>>,
    ) -> Result<bool, Fault> {
        loop {
            let mut is_more = self.advance(now, until, out)?;
            // What is ready first: its parts of the disk may be asked for anew.
            is_more |= self.larges_go_on(now, until, out);
            is_more |= self.gather(now, out)?;
            if !self.current.as_ref().is_some_and(Group::is_doing) {
                is_more |= self.answer(out)?;
                is_more |= self.ask_again(now, out);
                if !is_more {
                    is_more = self.look_locally(now, until)? || self.audit_on()?;
                    self.commit_local(!is_more)?;
                }
            }
            if !is_more {
                return Ok(false);
            }
            if Instant::now() >= until || self.is_said_enough(out) {
                return Ok(true);
            }
        }
    }

    fn is_said_enough(&self, out: &[Vec<u8>]) -> bool {
        out.iter().map(Vec::len).sum::<usize>() > OUT_BYTES_MAX
    }

    fn commit_local(&mut self, is_idle: bool) -> Result<(), Fault> {
        // What deeds changed is committed when it is durable.
        let is_quiet = self.current.is_none();
        if is_quiet && self.stirred > 0 && (is_idle || self.stirred >= STIRRED_MAX) {
            self.stirred = 0;
            self.ground.index.commit()?;
        }
        if is_idle && is_quiet && self.grown.is_empty() && !self.intent.is_empty() {
            // Whatever was being changed is known by now.
            self.note_intent(Intent::default())?;
            self.recalled.clear();
            self.ground.index.commit()?;
        }
        Ok(())
    }

    /// When there is something to do though nothing happens.
    pub(crate) fn due(&self) -> Option<Instant> {
        if self.closed.is_some() {
            return self.closed;
        }
        let grown = self.grown.due().filter(|_| self.current.is_none());
        [self.gathered_at(), grown, self.local.due()].into_iter().flatten().min()
    }

    /// Nothing can be kept: forgets what is under way, and says so.
    fn close(&mut self, why: &str, now: Instant, out: &mut Vec<Vec<u8>>) {
        tracing::error!(tree = %self.ground.tree.path.display(), why, "takes no steps");
        let id = self.id;
        self.ended();
        self.gathering = None;
        self.current = None;
        self.grown = Grown::default();
        self.ground.counters.trouble = Some(why.to_owned());
        self.id = id;
        self.closed = Some(now + PAUSE);
        if let Some(id) = id {
            out.push(wire::message(&Message::Closed(id, wire::reason(why))));
        }
    }

    /// Offers, and tells what is in folders: true when something was said.
    fn answer(&mut self, out: &mut Vec<Vec<u8>>) -> Result<bool, Fault> {
        let Some(id) = self.id else { return Ok(false) };
        let is_settled = self.current.is_none() && self.gathering.is_none();
        let is_known =
            !self.audits.is_adopting() && !self.audits.is_first() && !self.local.is_busy();
        if self.is_offer_due && is_settled && is_known {
            self.is_offer_due = false;
            self.is_offered = true;
            out.push(wire::message(&Message::Offer(id, self.ground.index.sums()?)));
            return Ok(true);
        }
        if self.listing.is_none() {
            let Some(dir) = self.listed.pop_front() else { return Ok(false) };
            let children = self.ground.index.children(&dir)?.unwrap_or_default();
            self.listing = Some((dir, children.into()));
        }
        self.tell_folder(id, out);
        Ok(true)
    }

    /// One frame of a listing.
    fn tell_folder(&mut self, id: u32, out: &mut Vec<Vec<u8>>) {
        let Some((dir, mut known)) = self.listing.take() else { return };
        let mut children = Vec::new();
        let mut bytes = 0;
        while children.len() < CHILDREN_MAX && bytes < LISTING_BYTES {
            let Some((name, Row { entry, .. }, sum)) = known.pop_front() else { break };
            bytes += name.len() + size_of::<Child>();
            let (kind, content) = (entry.kind, entry.content);
            children.push(Child { name: name.into(), kind, sum: sum.to_le_bytes(), content });
        }
        let last = known.is_empty();
        out.push(wire::message(&Message::Listing { id, dir: dir.clone(), children, last }));
        if !last {
            self.listing = Some((dir, known));
        }
    }

    /// All that the primary said is durable: is it the same, then?
    fn compare(&mut self, seq: u64, sums: Sums, out: &mut Vec<Vec<u8>>) -> Result<(), Fault> {
        let Some(id) = self.id else { return Ok(()) };
        self.is_aligned = self.ground.index.sums()? == sums;
        if self.is_aligned {
            self.ground.index.share_all()?;
            self.ground.index.commit()?;
            out.push(wire::message(&Message::Ack(id, vec![seq])));
        } else {
            self.is_offer_due = true;
        }
        Ok(())
    }

    pub(crate) fn status(&self) -> AttendStatus {
        let groups = [&self.gathering, &self.current];
        let grouped: usize = groups.into_iter().flatten().map(Group::len).sum();
        AttendStatus {
            counters: self.ground.counters.clone(),
            audited: self.audits.progress,
            waiting: grouped + self.inbox.len(),
        }
    }

    /// Ends attending: what was done is known, what was not is forgotten.
    pub(crate) fn into_parts(mut self) -> (Arc<Tree>, Index) {
        self.ended();
        self.gathering = None;
        let restored = self.ground.restore_times();
        let noted = self.note_intent(Intent::default());
        let committed = self.ground.index.commit();
        if restored.is_err() || noted.is_err() || committed.is_err() {
            tracing::warn!(tree = %self.ground.tree.path.display(), "the index may be behind");
        }
        (self.ground.tree, self.ground.index)
    }
}

/// The lowest numbers are taken first: one near the limit means that few are left.
fn crowded_from() -> i32 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.and_then(|limit| i32::try_from(limit).ok()).unwrap_or(i32::MAX);
    limit.saturating_sub(DESCRIPTORS_LEFT).max(limit / 2)
}

#[cfg(test)]
#[path = "attend_tests.rs"]
mod tests;
