//! One database on the primary: what was captured becomes shipments.
//!
//! The table always describes the position shipped last; the changes are what was captured since.
//! Where nobody attends, they are folded into the table and forgotten: no log is kept, a standby
//! that comes back compares tables. Promises: a shipment is whole transactions; a page leaves only
//! after it was captured; nothing is queued beyond what the channel takes.

mod compare;
mod shipment;

use crate::capture::Source;
use crate::changes::Changes;
use crate::hash::page_hash;
use crate::ledger::Ledger;
use crate::outlet::Outlet;
use crate::snapshot::Snapshot;
use crate::status::{DatabaseStatus, State};
use crate::table::{GROUP_PAGES, Table};
use crate::trail::{CaptureError, Drained, LostTrail};
use crate::wire::{Hashes, Head, Offer, PAGES_BYTES_MAX, Position};
use compare::Comparing;
use shipment::{Pages, Shipment};
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Images of one database that wait for the channel; beyond it only numbers of pages.
const CHANGES_BYTES_MAX: usize = 16 << 20;
/// Taken from the WAL in one turn, and shipped in one turn: some milliseconds, so that another
/// database does not wait for a large transaction.
const CAPTURE_BYTES_PER_TURN_MAX: u32 = 4 << 20;
const SHIP_BYTES_PER_TURN_MAX: usize = 4 << 20;
/// A database without commits for so long keeps no buffers.
const QUIET: Duration = Duration::from_secs(2);
/// Moments of capture that are remembered to tell how old the oldest missing transaction is.
const CAPTURED_MAX: usize = 4_096;

/// A shipment waits so long for the acknowledgment of the one before: what is committed meanwhile
/// goes along with it. Longer would leave a long way to the standby empty.
const SHIP_WAIT_MAX: Duration = Duration::from_millis(2);

/// What a turn found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Turn {
    /// Somebody committed: look again soon.
    pub busy: bool,
    /// Work is left that does not wait for anybody.
    pub more: bool,
    /// Something is committed that is captured only when the source is due again.
    pub waits: bool,
    /// The trail was lost in this turn: all pages must be read again.
    pub lost: Option<LostTrail>,
}

/// The standby, as far as this database goes.
#[derive(Debug)]
enum Attendant {
    /// Nobody asked for this database yet.
    Nobody,
    /// It told what it has; pages that differ are being found.
    Comparing(Comparing),
    /// Everything shipped so far follows from what it has.
    Live,
}

/// A copy that was shipped whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Copied {
    /// Pages that differed.
    pub pages: u64,
    /// Pages of the database.
    pub of: u32,
}

/// One database, led.
#[derive(Debug)]
pub(crate) struct Lead {
    source: Source,
    changes: Changes,
    /// Buffers of the shipment before, for the changes to come.
    spare: Option<Changes>,
    /// None while a scan runs.
    table: Option<Table>,
    shipped: Position,
    acked: Option<Position>,
    attendant: Attendant,
    shipment: Option<Shipment>,
    /// When transactions up to which number were captured, of those that are not acknowledged.
    captured: VecDeque<(u64, Instant)>,
    /// A copy that ended in this turn.
    copied: Option<Copied>,
    /// The last look ended amid what was committed.
    capturing: bool,
    /// The last commit seen.
    active: Instant,
    /// A snapshot found the trail lost: what follows from nothing must be read again.
    astray: bool,
    /// When the last shipment began.
    sent_at: Option<Instant>,
}

impl Lead {
    /// Leads from the committed end on, in a new reign: its first transaction has number 1.
    pub(crate) fn new(source: Source, epoch: u64) -> Lead {
        Lead {
            source,
            changes: Changes::new(CHANGES_BYTES_MAX),
            spare: None,
            table: None,
            shipped: Position { epoch, txid: 0 },
            acked: None,
            attendant: Attendant::Nobody,
            shipment: None,
            captured: VecDeque::new(),
            copied: None,
            capturing: false,
            active: Instant::now(),
            astray: false,
            sent_at: None,
        }
    }

    /// The table of this database at the committed end where it begins: of a standby that becomes
    /// primary under its fence.
    pub(crate) fn with_table(mut self, table: Table) -> Lead {
        self.table = Some(table);
        self
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    pub(crate) fn source_mut(&mut self) -> &mut Source {
        &mut self.source
    }

    pub(crate) fn into_source(self) -> (Source, Option<Table>) {
        let whole = self.shipment.is_none() && self.changes.is_empty();
        (self.source, self.table.filter(|_| whole))
    }

    /// Everything captured is in the table, and nothing is on its way.
    pub(crate) fn is_settled(&self) -> bool {
        self.shipment.is_none() && self.changes.is_empty() && self.table.is_some()
    }

    /// Follows the same database, settled and with writers held, by its rollback journal, or by its
    /// log where that cannot be.
    pub(crate) fn into_journal(self) -> Result<Box<Lead>, String> {
        let Some(table) = &self.table else { return Ok(Box::new(self)) };
        let source = self.source.into_journal(table)?;
        Ok(Box::new(Lead { source, ..self }))
    }

    /// Follows the same database, with writers held and everything captured, by its log, or by its
    /// journal where that cannot be.
    pub(crate) fn into_log(self) -> Result<Box<Lead>, String> {
        let Some(table) = &self.table else {
            return Err("its pages are not known".into());
        };
        let source = self.source.into_log(table)?;
        Ok(Box::new(Lead { source, ..self }))
    }

    /// A new number for the running reign: what was shipped so far, or is under way, belongs to the
    /// old one.
    pub(crate) fn renumber(&mut self, epoch: u64) -> Position {
        let begin = Position { epoch, txid: 0 };
        let shipped = std::mem::replace(&mut self.shipped, begin);
        self.acked = None;
        // Their numbers are of the old reign.
        self.captured.clear();
        match &mut self.shipment {
            Some(shipment) => std::mem::replace(&mut shipment.position, begin),
            None => shipped,
        }
    }

    /// Goes on with the numbers of a reign that began before this database was opened anew.
    pub(crate) fn number_from(&mut self, txid: u64) {
        self.shipped.txid = self.shipped.txid.max(txid);
    }

    /// The last transaction that was captured.
    pub(crate) fn head(&self) -> Position {
        let shipped = self.shipment.as_ref().map_or(self.shipped, |shipment| shipment.position);
        Position { txid: shipped.txid + self.changes.transactions(), ..shipped }
    }

    /// The last transaction that the standby has; None where nobody attends.
    pub(crate) fn acked(&self) -> Option<Position> {
        self.acked
    }

    /// The standby follows, and lacks nothing but what is on its way.
    pub(crate) fn is_live(&self) -> bool {
        let copying = self.shipment.as_ref().is_some_and(|shipment| shipment.copy);
        matches!(self.attendant, Attendant::Live) && !copying && self.acked.is_some()
    }

    /// Transactions that the standby does not have; None where nobody attends.
    pub(crate) fn unacked(&self) -> Option<u64> {
        let acked = self.acked.filter(|_| self.is_live())?;
        Some(self.head().txid.saturating_sub(acked.txid))
    }

    /// Since when something is missing on the standby.
    pub(crate) fn unacked_since(&self) -> Option<Instant> {
        self.captured.front().map(|(_, at)| *at)
    }

    /// Pages that wait for the standby.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.changes.pages_changed() as u64 * u64::from(self.source.page_bytes())
    }

    pub(crate) fn pages(&self) -> u32 {
        self.table.as_ref().map_or(0, Table::pages)
    }

    pub(crate) fn sum(&self) -> Option<u128> {
        self.table.as_ref().filter(|_| self.shipment.is_none()).map(Table::sum)
    }

    pub(crate) fn shipped(&self) -> Position {
        self.shipped
    }

    /// Something is to be shipped or asked, whether or not anybody commits.
    pub(crate) fn has_work(&self) -> bool {
        self.shipment.is_some()
            || matches!(self.attendant, Attendant::Comparing(_))
            || !self.changes.is_empty()
    }

    /// A snapshot, what its pages should hash to, and the pages of which that is not known; none
    /// while a shipment is under way.
    pub(crate) fn scrub(&mut self) -> Option<(Snapshot, Table, BTreeSet<u32>)> {
        if self.shipment.is_some() {
            return None;
        }
        let table = self.table.clone()?;
        let (snapshot, gapless) = self.source.snapshot(&mut self.changes).ok()?;
        let mut changed: BTreeSet<u32> = self.changes.pages().map(|(number, _)| number).collect();
        // What grew or was cut is among the changes, or is not yet, or no longer, in the table.
        changed.extend(table.pages() + 1..=snapshot.pages_total());
        changed.extend(snapshot.pages_total() + 1..=table.pages());
        gapless.then_some((snapshot, table, changed))
    }

    /// What others see.
    pub(crate) fn describe(&self, status: &mut DatabaseStatus) {
        status.state = match (&self.attendant, &self.table) {
            (_, None) => State::Opening,
            (Attendant::Nobody, Some(_)) => State::Alone,
            (Attendant::Comparing(_), Some(_)) => State::Shipping,
            (Attendant::Live, Some(_)) if self.is_live() => State::Leading,
            (Attendant::Live, Some(_)) => State::Shipping,
        };
        status.position = Some(self.head());
        status.head = status.position;
        // A large transaction that is being captured counts before it is whole.
        status.behind = self.unacked().map(|unacked| unacked + u64::from(self.capturing));
        status.behind_since = self.unacked_since().filter(|_| status.behind != Some(0));
        status.behind_bytes = self.waiting_bytes();
        status.pages = self.pages();
        status.page_bytes = self.source.page_bytes();
        status.sum = self.sum().filter(|_| self.changes.is_empty());
    }

    pub(crate) fn take_copied(&mut self) -> Option<Copied> {
        self.copied.take()
    }

    /// Needs a table: the engine has a snapshot read.
    pub(crate) fn wants_scan(&self) -> bool {
        self.table.is_none()
    }

    /// A snapshot to make the table of, at which the captured changes begin anew.
    pub(crate) fn scan(&mut self) -> Result<Snapshot, CaptureError> {
        let head = self.head();
        let (snapshot, _) = self.source.snapshot(&mut self.changes)?;
        // What was captured up to here is in the snapshot, and is counted.
        self.shipped = Position { txid: self.head().txid.max(head.txid), ..head };
        self.changes.clear();
        Ok(snapshot)
    }

    /// The table of the last [`Lead::scan`].
    pub(crate) fn scanned(&mut self, table: Table) {
        self.table = Some(table);
    }

    /// Nobody attends any more.
    pub(crate) fn deserted(&mut self) {
        self.attendant = Attendant::Nobody;
        self.acked = None;
        if let Some(shipment) = &mut self.shipment {
            shipment.sent = false;
        }
    }

    /// The trail was lost, or the pages are not what the table says: everything is read again, and
    /// the standby tells anew what it has. Counts as one transaction, as nobody knows how many.
    pub(crate) fn start_over(&mut self) -> Result<(), CaptureError> {
        let head = self.head();
        self.changes.clear();
        self.shipment = None;
        self.table = None;
        self.shipped = Position { txid: head.txid + 1, ..head };
        self.attendant = Attendant::Nobody;
        self.acked = None;
        self.astray = false;
        self.source.restart()
    }

    /// Captures what was committed since.
    pub(crate) fn capture(&mut self, now: Instant) -> Result<Turn, CaptureError> {
        let before = self.changes.transactions();
        let frames_max = CAPTURE_BYTES_PER_TURN_MAX / self.source.page_bytes();
        let mut drained = self.source.drain(&mut self.changes, frames_max)?;
        if drained != Drained::More && !matches!(drained, Drained::Lost(_)) {
            let tended = self.source.tend(now, &mut self.changes)?;
            if matches!(tended, Drained::Lost(_) | Drained::More) || self.source.is_kept() {
                drained = tended;
            }
        }
        // Pages are being compared, in a thread that nobody waits for.
        let waits = self.source.is_kept() && matches!(drained, Drained::More | Drained::Some);
        let busy = self.changes.transactions() != before;
        self.capturing = drained == Drained::More;
        if !busy && now.saturating_duration_since(self.active) >= QUIET {
            self.spare = None;
        }
        if busy {
            self.active = now;
            let head = self.head().txid;
            if self.captured.len() >= CAPTURED_MAX {
                // The oldest moment stands for all before it.
                let (_, at) = self.captured.pop_front().expect("not empty");
                if let Some(next) = self.captured.front_mut() {
                    next.1 = at;
                }
            }
            self.captured.push_back((head, now));
        }
        Ok(match drained {
            Drained::Lost(lost) => Turn { busy: true, more: true, waits, lost: Some(lost) },
            Drained::More if waits => Turn { busy, more: false, waits, lost: None },
            Drained::More => Turn { busy: true, more: true, waits, lost: None },
            Drained::Nothing | Drained::Some => Turn { busy, more: false, waits, lost: None },
        })
    }

    /// Ships, or folds, as much as the channel takes and a turn allows: true when work is left that
    /// does not wait for the channel or for the standby.
    pub(crate) fn ship(
        &mut self,
        id: u32,
        ledger: &mut Ledger,
        outlet: &mut Outlet<'_>,
    ) -> Result<bool, CaptureError> {
        let mut bytes_left = SHIP_BYTES_PER_TURN_MAX;
        loop {
            if self.shipment.is_some() {
                match self.go_on(id, ledger, outlet)? {
                    None => return Ok(false),
                    Some(bytes) if bytes >= bytes_left => return Ok(true),
                    Some(bytes) => bytes_left -= bytes,
                }
                continue;
            }
            if self.table.is_none() || self.astray {
                return Ok(false);
            }
            if let Attendant::Comparing(comparing) = &mut self.attendant {
                let table = self.table.as_ref().expect("just seen");
                if !comparing.go_on(id, table, outlet) {
                    return Ok(false);
                }
                self.begin_copy()?;
                continue;
            }
            if self.changes.is_empty() {
                return Ok(false);
            }
            let sent = matches!(self.attendant, Attendant::Live) && outlet.is_open();
            if sent && (!outlet.has_room() || self.ship_due().is_some()) {
                return Ok(false);
            }
            self.sent_at = Some(Instant::now());
            self.begin(sent)?;
        }
    }

    /// The trail was found lost while shipping: [`Lead::start_over`] is due.
    pub(crate) fn is_astray(&self) -> bool {
        self.astray
    }

    /// When the next shipment begins at the latest; none when it need not wait, or there is none.
    pub(crate) fn ship_due(&self) -> Option<Instant> {
        let under_way = self.acked.is_none_or(|acked| acked.txid < self.shipped.txid);
        let due = self.sent_at? + SHIP_WAIT_MAX;
        (under_way && !self.changes.is_empty() && Instant::now() < due).then_some(due)
    }

    fn begin(&mut self, sent: bool) -> Result<(), CaptureError> {
        let before = self.table.as_ref().map_or(0, Table::sum);
        let snapshot = match self.changes.is_complete() {
            true => None,
            false => {
                let (snapshot, gapless) = self.source.snapshot(&mut self.changes)?;
                if !gapless {
                    self.astray = true;
                    return Ok(());
                }
                Some(snapshot)
            }
        };
        let numbers: Vec<u32> = self.changes.pages().map(|(number, _)| number).collect();
        let position = self.after(self.changes.transactions());
        let pages_total = self.changes.pages_total();
        let pages = match snapshot {
            Some(snapshot) => {
                self.changes.clear();
                Pages::Listed(snapshot, numbers, 0)
            }
            None => {
                let fresh = self.spare.take().unwrap_or_else(|| Changes::new(CHANGES_BYTES_MAX));
                let changes = std::mem::replace(&mut self.changes, fresh);
                Pages::Captured(changes, numbers, 0)
            }
        };
        let (copy, first, count) = (false, true, 0);
        self.shipment =
            Some(Shipment { pages, position, pages_total, before, copy, sent, first, count });
        Ok(())
    }

    /// The pages that differ were found: a snapshot has what they are now.
    fn begin_copy(&mut self) -> Result<(), CaptureError> {
        let Attendant::Comparing(comparing) = &mut self.attendant else { return Ok(()) };
        let mut numbers = std::mem::take(&mut comparing.pages);
        let everything = comparing.is_empty();
        let (snapshot, gapless) = self.source.snapshot(&mut self.changes)?;
        if !gapless {
            self.astray = true;
            return Ok(());
        }
        let pages_total = snapshot.pages_total();
        let position = self.after(self.changes.transactions());
        let pages = if everything {
            Pages::All(snapshot, 1)
        } else {
            numbers.extend(self.changes.pages().map(|(number, _)| number));
            numbers.sort_unstable();
            numbers.dedup();
            numbers.retain(|number| *number <= pages_total);
            Pages::Listed(snapshot, numbers, 0)
        };
        self.changes.clear();
        self.attendant = Attendant::Live;
        self.shipment = Some(Shipment {
            pages,
            position,
            pages_total,
            before: 0,
            copy: true,
            sent: true,
            first: true,
            count: 0,
        });
        Ok(())
    }

    fn after(&self, transactions: u64) -> Position {
        Position { txid: self.shipped.txid + transactions, ..self.shipped }
    }

    /// Sends a frame of the shipment under way, and tells of how many bytes: None when the channel
    /// has no room.
    fn go_on(
        &mut self,
        id: u32,
        ledger: &mut Ledger,
        outlet: &mut Outlet<'_>,
    ) -> Result<Option<usize>, CaptureError> {
        let page_bytes = self.source.page_bytes() as usize;
        let per_frame = (PAGES_BYTES_MAX / page_bytes).max(1);
        let (Some(shipment), Some(table)) = (&mut self.shipment, &mut self.table) else {
            return Ok(None);
        };
        if shipment.sent && !outlet.is_open() {
            shipment.sent = false;
        }
        if shipment.sent && !outlet.has_room() {
            return Ok(None);
        }
        let images = shipment.pages.take(per_frame, shipment.pages_total, page_bytes)?;
        for (number, image) in images.iter() {
            table.set(number, page_hash(number, image));
        }
        shipment.count += images.len() as u64;
        let (last, bytes) = (images.last, images.len() * page_bytes);
        if last {
            table.resize(shipment.pages_total);
            // Before the standby can have it: wherever this process ends, the history of this node
            // goes at least as far as that of the standby.
            ledger.note(shipment.position, table.sum());
        }
        if shipment.sent {
            let head = Head {
                id,
                first: shipment.first,
                last,
                copy: shipment.copy,
                position: shipment.position,
                pages: shipment.pages_total,
                before: shipment.before,
                after: if last { table.sum() } else { 0 },
            };
            outlet.pages(&head, images.iter());
        }
        drop(images);
        shipment.first = false;
        if last && let Some(done) = self.shipment.take() {
            self.finish(done);
        }
        Ok(Some(bytes))
    }

    fn finish(&mut self, done: Shipment) {
        self.shipped = done.position;
        if done.copy && done.sent {
            self.copied = Some(Copied { pages: done.count, of: done.pages_total });
        }
        if !done.sent {
            // Nobody was told: whoever comes compares tables.
            self.captured.clear();
        }
        if let Pages::Captured(mut changes, ..) = done.pages {
            changes.clear();
            self.spare = Some(changes);
        }
    }

    /// The standby tells what it has.
    pub(crate) fn offered(&mut self, offer: Offer) {
        self.acked = None;
        if let Some(shipment) = &mut self.shipment {
            // What is under way was for what it had before.
            shipment.sent = false;
        }
        self.attendant = Attendant::Comparing(Comparing::new(offer));
    }

    /// Sums of its groups. False when they do not fit what it offered.
    pub(crate) fn sums(&mut self, first: u32, sums: Hashes<'_>) -> bool {
        let Attendant::Comparing(comparing) = &mut self.attendant else { return true };
        comparing.sums(first, sums)
    }

    /// Hashes of the pages of a group that was asked for.
    pub(crate) fn hashes(&mut self, group: u32, hashes: Hashes<'_>) {
        if let (Attendant::Comparing(comparing), Some(table)) = (&mut self.attendant, &self.table) {
            comparing.hashes(group, hashes, table);
        }
    }

    /// The standby has this much.
    pub(crate) fn acknowledged(&mut self, position: Position) {
        if position.epoch != self.shipped.epoch || position.txid > self.head().txid {
            return;
        }
        self.acked = Some(position);
        while self.captured.front().is_some_and(|(txid, _)| *txid <= position.txid) {
            self.captured.pop_front();
        }
    }
}

const _: () =
    assert!(staffetta_bulk::FRAME_BYTES_MAX > PAGES_BYTES_MAX * 2 + GROUP_PAGES as usize * 16);
