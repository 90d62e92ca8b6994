//! What was said to the standby and is not yet acknowledged.

use super::compare::Compare;
use super::due::{Force, Item};
use super::{Lead, trouble};
use crate::entry::{Entry, Row, Sums, Xattrs};
use crate::index::IndexError;
use crate::path::TreePath;
use crate::wire::{self, Body, Deed, Message, Refusal, Step};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Steps in flight at most, and bytes of contents in them.
const STEPS_IN_FLIGHT_MAX: usize = 4_096;
const BYTES_IN_FLIGHT_MAX: usize = 16 * 1024 * 1024;
/// What one step may need on the channel.
pub(super) const STEP_BYTES_MAX: usize =
    wire::INLINE_BYTES_MAX + crate::entry::XATTRS_BYTES_MAX + 64 * 1024;
/// After so much quiet the standby is asked whether it agrees, and not more often than this.
const HEAD_QUIET: Duration = Duration::from_millis(20);
const HEAD_INTERVAL: Duration = Duration::from_millis(100);
/// Refusals of one path in a row before it waits longer and longer.
const STRIKES_MAX: u8 = 3;

/// The standby said what no version of this software says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct LeadError(pub(super) String);

/// A standby is connected.
pub(super) struct Link {
    pub(super) id: u32,
    /// It takes steps.
    pub(super) open: bool,
    /// Why it does not.
    pub(super) closed: Option<String>,
    next_seq: u64,
    flying: BTreeMap<u64, Flying>,
    /// The last step in flight of each path.
    latest: HashMap<TreePath, u64>,
    bytes: usize,
    steps: wire::Steps,
    head: Head,
    head_at: Option<Instant>,
    /// When something was sent or acknowledged.
    stirred_at: Instant,
    pub(super) compare: Compare,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    /// Something was said since the last one.
    Unsaid,
    Said {
        seq: u64,
        sums: Sums,
    },
    /// The standby has exactly this.
    Agreed,
}

/// A step that is not acknowledged.
struct Flying {
    path: TreePath,
    sent: Sent,
    /// Where it was before.
    from: Option<TreePath>,
    since: Instant,
    bytes: usize,
}

/// What the standby has when it acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    Put(Entry),
    /// Parts are under way: nothing, before the end.
    Parts,
    /// What was elsewhere is here.
    Moved(Entry),
    Deleted,
}

impl Link {
    /// Steps that are durable on the standby.
    pub(super) fn acked(&self) -> u64 {
        self.next_seq - 1 - self.flying.len() as u64
    }
}

impl Lead {
    /// A standby is connected and was told of the tree under this number. It takes steps when it
    /// has offered.
    pub(crate) fn begin(&mut self, id: u32) {
        self.ended();
        self.link = Some(Link {
            id,
            open: false,
            closed: None,
            next_seq: 1,
            flying: BTreeMap::new(),
            latest: HashMap::new(),
            bytes: 0,
            steps: wire::Steps::default(),
            head: Head::Unsaid,
            head_at: None,
            stirred_at: Instant::now(),
            compare: Compare::default(),
        });
    }

    /// The connection is gone: what was in flight is found again by the next comparison.
    pub(crate) fn ended(&mut self) {
        self.cut_transfers();
        self.relink.clear();
        self.link = None;
        self.outbox.clear();
        self.trouble.forget_there();
    }

    /// The standby takes no steps for now.
    pub(crate) fn closed(&mut self, why: &str) {
        self.cut_transfers();
        self.trouble.forget_there();
        if let Some(link) = &mut self.link {
            link.open = false;
            link.closed = Some(why.to_owned());
            link.flying.clear();
            link.latest.clear();
            link.bytes = 0;
            link.head = Head::Unsaid;
            link.compare = Compare::default();
        }
    }

    /// The sum of all that the standby has: it takes steps from now on.
    pub(crate) fn offer(&mut self, sums: Sums) -> Result<(), LeadError> {
        let now = Instant::now();
        let mine = match self.index.sums() {
            Ok(mine) => mine,
            Err(error) => {
                self.halt(now, format!("its index fails: {error}"));
                return Ok(());
            }
        };
        let Some(link) = &mut self.link else { return Ok(()) };
        let again = link.open;
        link.open = true;
        link.closed = None;
        link.head = Head::Unsaid;
        link.stirred_at = now;
        if mine.tree == sums.tree && mine.links != sums.links {
            let linked = self.index.linked();
            self.relink = self.or_halt(linked, now).unwrap_or_default();
        } else if mine == sums {
            link.compare = Compare::default();
            let shared = self.index.share_all();
            self.or_halt(shared, now);
        } else {
            link.compare.begin(again, now);
        }
        Ok(())
    }

    /// These steps are on the standby's disk.
    pub(crate) fn ack(&mut self, seqs: &[u64]) -> Result<(), LeadError> {
        let now = Instant::now();
        for seq in seqs {
            let Some(link) = &mut self.link else { return Ok(()) };
            link.stirred_at = now;
            if let Head::Said { seq: said, sums } = link.head
                && said == *seq
            {
                let done = self.agree(sums);
                self.or_halt(done, now);
                continue;
            }
            let Some((flying, is_last)) = link.land(*seq)? else { continue };
            if is_last {
                self.trouble.settle(&flying.path);
                let done = self.share(&flying);
                self.or_halt(done, now);
            }
        }
        Ok(())
    }

    fn agree(&mut self, sums: Sums) -> Result<(), IndexError> {
        let is_same = self.index.sums()? == sums;
        if let Some(link) = &mut self.link {
            link.head = if is_same { Head::Agreed } else { Head::Unsaid };
            link.compare.agreed();
        }
        if is_same { self.index.share_all() } else { Ok(()) }
    }

    fn share(&mut self, flying: &Flying) -> Result<(), IndexError> {
        let (Sent::Put(entry) | Sent::Moved(entry)) = flying.sent else { return Ok(()) };
        match self.index.get(&flying.path)? {
            Some(row) if row.entry == entry && !row.shared => {
                self.index.put(&flying.path, &Row { shared: true, ..row })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The standby could not do this step.
    pub(crate) fn refuse(&mut self, seq: u64, refusal: &Refusal) -> Result<(), LeadError> {
        let now = Instant::now();
        let Some(link) = &mut self.link else { return Ok(()) };
        link.stirred_at = now;
        let Some((flying, _)) = link.land(seq)? else { return Ok(()) };
        self.transfers.retain(|transfer| transfer.seq() != Some(seq));
        let Flying { path, sent, from, since, .. } = flying;
        if let Some(from) = from {
            self.guard.add_approved(from, since, now);
        }
        tracing::debug!(%path, ?refusal, "the standby refuses a step");
        let strikes = self.trouble.strike(&path);
        let parent = path.parent().filter(|parent| !parent.is_root());
        let is_below = parent.as_ref().is_some_and(|parent| self.trouble.is_there(parent));
        let what = match refusal {
            Refusal::Failed(what) => format!("on the standby: {what}"),
            Refusal::Missing if sent == Sent::Deleted => return Ok(()),
            Refusal::Missing if strikes > STRIKES_MAX || is_below => {
                "the standby lacks what it stands on".to_owned()
            }
            Refusal::Damaged if strikes >= STRIKES_MAX => {
                "its content arrives damaged at the standby again and again".to_owned()
            }
            Refusal::Missing | Refusal::Damaged => {
                let whole = Item::forced(since, Force::Whole);
                let below = matches!(sent, Sent::Moved(_));
                self.due.add(path, Item { below, ..whole }, now);
                if let Some(parent) = parent.filter(|_| *refusal == Refusal::Missing) {
                    self.due.add(parent, whole, now);
                }
                return Ok(());
            }
        };
        let troubled = trouble::Trouble::new(what, true, Force::Whole, since);
        self.trouble.add(path, troubled, now);
        Ok(())
    }

    /// The standby differs here from what it had been given.
    pub(crate) fn again(&mut self, paths: Vec<TreePath>) {
        let now = Instant::now();
        for path in paths {
            self.due.add(path.clone(), Item::forced(now, Force::Whole), now);
            if let Some(link) = self.link.as_mut().filter(|link| link.open) {
                link.compare.add(path);
            }
        }
    }

    /// Says a step, or keeps quiet while nobody takes any.
    pub(super) fn send(&mut self, path: &TreePath, deed: Deed<'_>, sent: Sent, since: Instant) {
        let Some(link) = self.link.as_mut().filter(|link| link.open) else { return };
        let bytes = inline_bytes(&deed);
        let from = if let Deed::Rename { from, .. } = &deed { Some(from.clone()) } else { None };
        let seq = link.next_seq;
        link.next_seq += 1;
        link.bytes += bytes;
        link.head = Head::Unsaid;
        link.stirred_at = Instant::now();
        link.steps.push(link.id, &Step { seq, deed });
        link.latest.insert(path.clone(), seq);
        link.flying.insert(seq, Flying { path: path.clone(), sent, from, since, bytes });
        self.room = self.room.saturating_sub(bytes + path.as_bytes().len() + 192);
        if link.steps.is_full() {
            self.outbox.push(link.steps.take());
        }
    }

    /// The same, that parts follow: the number that they carry.
    pub(super) fn send_parts(
        &mut self,
        path: &TreePath,
        entry: Entry,
        xattrs: Xattrs,
        since: Instant,
    ) -> Option<u64> {
        let seq = self.link.as_ref().filter(|link| link.open)?.next_seq;
        let deed = Deed::Put { path: path.clone(), entry, xattrs, body: Body::Parts };
        self.send(path, deed, Sent::Parts, since);
        Some(seq)
    }

    /// All parts of this step are said, and this is what they make.
    pub(super) fn parts_ended(&mut self, seq: u64, entry: Entry) {
        if let Some(flying) = self.link.as_mut().and_then(|link| link.flying.get_mut(&seq)) {
            flying.sent = Sent::Put(entry);
        }
    }

    /// Takes a step back that has not been ended.
    pub(super) fn drop_parts(&mut self, seq: u64) {
        let Some(link) = &mut self.link else { return };
        if let Ok(Some(_)) = link.land(seq) {
            let id = link.id;
            self.push(wire::message(&Message::Drop(id, seq)));
        }
    }

    /// A frame after all steps that were said before.
    pub(super) fn push(&mut self, frame: Vec<u8>) {
        self.flush_steps();
        self.room = self.room.saturating_sub(frame.len());
        self.outbox.push(frame);
    }

    pub(super) fn flush_steps(&mut self) {
        if let Some(link) = self.link.as_mut().filter(|link| !link.steps.is_empty()) {
            self.outbox.push(link.steps.take());
        }
    }

    /// Whether the standby has this content at this path, or will when it comes to the next step.
    pub(super) fn is_known(&self, path: &TreePath, row: &Row) -> bool {
        row.shared || self.is_coming(path)
    }

    fn is_coming(&self, path: &TreePath) -> bool {
        let sent = self.flying(path).map(|flying| flying.sent);
        matches!(sent, Some(Sent::Put(_) | Sent::Moved(_)))
    }

    pub(super) fn is_in_flight(&self, path: &TreePath) -> bool {
        self.flying(path).is_some()
    }

    fn flying(&self, path: &TreePath) -> Option<&Flying> {
        let link = self.link.as_ref()?;
        link.flying.get(link.latest.get(path)?)
    }

    /// A standby that takes steps.
    pub(super) fn is_open(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.open)
    }

    /// Steps in flight; bytes in them; since when the oldest waits.
    pub(super) fn in_flight(&self) -> (usize, usize, Option<Instant>) {
        let Some(link) = &self.link else { return (0, 0, None) };
        let oldest = link.flying.values().map(|flying| flying.since).min();
        (link.flying.len(), link.bytes, oldest)
    }

    pub(super) fn flying_paths(&self) -> impl Iterator<Item = &TreePath> {
        self.link.iter().flat_map(|link| link.flying.values()).map(|flying| &flying.path)
    }

    pub(super) fn is_agreed(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.head == Head::Agreed)
    }

    pub(super) fn has_window(&self) -> bool {
        self.link.as_ref().filter(|link| link.open).is_none_or(|link| {
            link.flying.len() < STEPS_IN_FLIGHT_MAX && link.bytes < BYTES_IN_FLIGHT_MAX
        })
    }

    /// What is in flight of a folder that has moved is to be found elsewhere when it lands.
    pub(super) fn moved_in_flight(&mut self, from: &TreePath, to: &TreePath) {
        let Some(link) = &mut self.link else { return };
        for (seq, flying) in &mut link.flying {
            let Some(path) = flying.path.moved(from, to) else { continue };
            if flying.sent == Sent::Deleted {
                continue;
            }
            if link.latest.get(&flying.path) == Some(seq) {
                link.latest.remove(&flying.path);
            }
            link.latest.insert(path.clone(), *seq);
            flying.path = path;
        }
    }

    /// Nothing is under way that a sum would leave out.
    fn is_idle(&self) -> bool {
        !self.is_busy()
            && !self.trouble.any_there()
            && self.link.as_ref().is_some_and(|link| link.open && link.flying.is_empty())
    }

    pub(super) fn head_due(&self) -> Option<Instant> {
        let link = self.link.as_ref()?;
        if link.head != Head::Unsaid || self.halted.is_some() || !self.is_idle() {
            return None;
        }
        let quiet = link.stirred_at + HEAD_QUIET;
        Some(link.head_at.map_or(quiet, |at| quiet.max(at + HEAD_INTERVAL)))
    }

    pub(super) fn say_head(&mut self, now: Instant) -> Result<(), IndexError> {
        if self.head_due().is_none_or(|at| at > now) {
            return Ok(());
        }
        let sums = self.index.sums()?;
        let Some(link) = &mut self.link else { return Ok(()) };
        let seq = link.next_seq;
        link.next_seq += 1;
        link.head = Head::Said { seq, sums };
        link.head_at = Some(now);
        let frame = wire::message(&Message::Head(link.id, seq, sums));
        self.push(frame);
        Ok(())
    }

    /// The standby has every content, but not every name of a file is a name of the same one there.
    pub(super) fn link_again(&mut self, now: Instant) -> Result<bool, IndexError> {
        while self.has_room() {
            let Some(names) = self.relink.pop() else { return Ok(false) };
            let Some((first, others)) = names.split_first() else { continue };
            let Some(row) = self.index.get(first)? else { continue };
            let Ok(xattrs) = self.tree.xattrs(first) else { continue };
            for other in others {
                let body = Body::Link(first.clone());
                let (path, xattrs) = (other.clone(), xattrs.clone());
                let deed = Deed::Put { path, entry: row.entry, xattrs, body };
                self.send(other, deed, Sent::Put(row.entry), now);
            }
        }
        Ok(!self.relink.is_empty())
    }

    pub(super) fn or_halt<T>(&mut self, done: Result<T, IndexError>, now: Instant) -> Option<T> {
        match done {
            Ok(done) => Some(done),
            Err(error) => {
                self.halt(now, format!("its index fails: {error}"));
                None
            }
        }
    }
}

impl Link {
    /// Takes a step out of the flight, and whether it was the last one of its path. None when it
    /// was forgotten before.
    fn land(&mut self, seq: u64) -> Result<Option<(Flying, bool)>, LeadError> {
        if seq >= self.next_seq {
            return Err(LeadError(format!("the standby answers step {seq}, which was never said")));
        }
        let Some(flying) = self.flying.remove(&seq) else { return Ok(None) };
        self.bytes -= flying.bytes;
        let is_last = self.latest.get(&flying.path) == Some(&seq);
        if is_last {
            self.latest.remove(&flying.path);
        }
        Ok(Some((flying, is_last)))
    }
}

fn inline_bytes(deed: &Deed<'_>) -> usize {
    match deed {
        Deed::Put { xattrs, body, .. } => {
            xattrs.bytes()
                + match body {
                    Body::Bytes(bytes) | Body::Packed(_, bytes) => bytes.len(),
                    Body::Link(path) => path.as_bytes().len(),
                    Body::Nothing | Body::Kept | Body::Parts => 0,
                }
        }
        Deed::Append { bytes, .. } => bytes.len(),
        Deed::Rename { from, .. } => from.as_bytes().len(),
        Deed::Delete(_) => 0,
    }
}
