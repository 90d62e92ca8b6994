//! One database on the standby: shipments become transactions of its copy.
//!
//! Promises: a shipment that does not follow from what is here is not applied; a copy that holds
//! something that the primary may not have is not overwritten before the ruling, and not before it
//! is archived. An error pauses this database alone; it offers again by itself.

use crate::apply::{ApplyError, GAP_PAGES_MAX, Replica};
use crate::ledger::{Kinship, Ledger, LedgerError};
use crate::outlet::Outlet;
use crate::scan::Scanned;
use crate::status::{DatabaseStatus, State};
use crate::table::Table;
use crate::wire::{self, Entry, Head, Message, Offer, Pages, Position, SUMS_MAX};
use std::time::{Duration, Instant};

/// A copy to which nothing was applied for so long keeps no buffers.
const QUIET: Duration = Duration::from_secs(2);
/// After something went wrong, the copy is offered again so much later.
const PAUSE: Duration = Duration::from_secs(1);

/// Where the copy stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its pages are being read.
    Scanning,
    /// Known; no primary has named it yet.
    Known,
    /// It differs in a way that somebody must rule on.
    Diverged(Kinship),
    /// It is being archived before it is overwritten.
    Archiving(Kinship),
    /// The primary was told what it has.
    Offered,
    /// Shipments follow one another.
    Following,
    /// Something is wrong; tried again then.
    Paused { until: Instant, why: String },
}

/// What the primary said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    entry: Entry,
    /// The shipment under way.
    open: Option<Head>,
    /// The highest page that is known to be in the copy after it.
    highest: u32,
}

/// What the engine must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Nothing,
    /// A copy was applied.
    Copied {
        pages: u64,
        of: u32,
    },
    /// The copy must be read anew.
    Scan,
    /// Asks for a ruling.
    Diverged(Kinship),
    /// The primary's pages have another size: the copy is made anew.
    Remake(Box<Entry>),
}

/// The copy of one database.
#[derive(Debug)]
pub(crate) struct Attend {
    replica: Replica,
    stage: Stage,
    named: Option<Named>,
    /// Made here a moment ago, with nothing in it.
    fresh: bool,
    /// The sum of the state that was archived: nothing of it can be lost any more.
    archived: Option<u128>,
    at: Option<Position>,
    /// How far the primary is, by its stream or its heartbeats.
    head: Option<Position>,
    pages: u64,
    /// Since when nothing was applied; none when its memory was given back since.
    lively: Option<Instant>,
}

impl Attend {
    pub(crate) fn new(replica: Replica) -> Attend {
        let stage = Stage::Scanning;
        Attend {
            replica,
            stage,
            named: None,
            fresh: false,
            archived: None,
            at: None,
            head: None,
            pages: 0,
            lively: Some(Instant::now()),
        }
    }

    pub(crate) fn stage(&self) -> &Stage {
        &self.stage
    }

    pub(crate) fn replica(&self) -> &Replica {
        &self.replica
    }

    pub(crate) fn replica_mut(&mut self) -> &mut Replica {
        &mut self.replica
    }

    /// Ends attending. What was not whole is undone.
    pub(crate) fn into_replica(mut self) -> Replica {
        self.undo();
        self.replica
    }

    /// Where it is, as far as that is known.
    pub(crate) fn position(&self) -> Option<Position> {
        self.at
    }

    /// The newest transaction of the primary that it heard of.
    pub(crate) fn head(&self) -> Option<Position> {
        self.head
    }

    /// Transactions of the last primary that this copy is known to lack; none, inside, where that
    /// is not known; none at all where no primary was heard of.
    pub(crate) fn missing(&self) -> Option<Option<u64>> {
        let head = self.head?;
        let at = self.at.filter(|at| at.epoch == head.epoch);
        Some(at.map(|at| head.txid.saturating_sub(at.txid)))
    }

    /// The number of the primary's connection for it.
    pub(crate) fn id(&self) -> Option<u32> {
        self.named.as_ref().map(|named| named.entry.id)
    }

    /// What the pages hash to was found out, or is known from a reign of this node.
    ///
    /// # Errors
    /// When somebody wrote meanwhile: scan again.
    pub(crate) fn scanned(
        &mut self,
        scanned: Scanned,
        ledger: &mut Ledger,
    ) -> Result<(), ApplyError> {
        self.replica.adopt(scanned)?;
        self.known(ledger);
        Ok(())
    }

    /// The table of a reign of this node that ended under the fence. One that cannot be taken over
    /// is made by a scan.
    pub(crate) fn of_own_reign(&mut self, table: Table, ledger: &mut Ledger) {
        let scanned = Scanned::of(table, self.replica.attached());
        if scanned.is_ok_and(|scanned| self.replica.adopt(scanned).is_ok()) {
            self.known(ledger);
        }
    }

    /// It was made here for the primary's pages: nothing in it can be lost.
    pub(crate) fn made_here(&mut self) {
        self.fresh = true;
    }

    /// What is known of its pages may be wrong: a scan follows.
    pub(crate) fn forget(&mut self) {
        self.undo();
        self.stage = Stage::Scanning;
    }

    /// As after a scan, with a table that the replica has already.
    pub(crate) fn known(&mut self, ledger: &mut Ledger) {
        self.at = None;
        if let Some(table) = self.replica.table() {
            ledger.settle(table.sum());
            self.at = ledger.position_of(table.sum());
        }
        self.stage = Stage::Known;
    }

    /// The primary names this database, for the first time on this connection or again.
    pub(crate) fn named(&mut self, entry: Entry) {
        self.undo();
        self.head_is(entry.head);
        self.named = Some(Named { entry, open: None, highest: 0 });
        match self.stage {
            Stage::Offered | Stage::Following => self.stage = Stage::Known,
            Stage::Scanning
            | Stage::Known
            | Stage::Diverged(_)
            | Stage::Archiving(_)
            | Stage::Paused { .. } => {}
        }
    }

    /// The connection ended.
    pub(crate) fn deserted(&mut self) {
        self.undo();
        self.named = None;
        match self.stage {
            Stage::Offered | Stage::Following | Stage::Diverged(_) => self.stage = Stage::Known,
            Stage::Scanning | Stage::Known | Stage::Archiving(_) | Stage::Paused { .. } => {}
        }
    }

    fn undo(&mut self) {
        if let Some(named) = &mut self.named
            && named.open.take().is_some()
        {
            self.replica.rollback();
        }
    }

    /// Does what is due without a frame of the primary.
    pub(crate) fn go_on(
        &mut self,
        now: Instant,
        ledger: &mut Ledger,
        outlet: &mut Outlet<'_>,
    ) -> Outcome {
        if self.lively.is_some_and(|since| now.saturating_duration_since(since) >= QUIET) {
            self.lively = None;
            self.replica.trim();
        }
        if let Stage::Paused { until, .. } = &self.stage
            && *until <= now
        {
            if self.replica.table().is_none() || self.replica.foreign_write() {
                self.stage = Stage::Scanning;
                return Outcome::Scan;
            }
            self.stage = Stage::Known;
        }
        if self.stage != Stage::Known || self.named.is_none() || !outlet.is_open() {
            return Outcome::Nothing;
        }
        if self.replica.foreign_write() {
            self.stage = Stage::Scanning;
            return Outcome::Scan;
        }
        let kinship = self.kinship(ledger);
        if kinship == Kinship::Ancestor {
            return self.bring(outlet);
        }
        self.stage = Stage::Diverged(kinship);
        Outcome::Diverged(kinship)
    }

    fn kinship(&self, ledger: &Ledger) -> Kinship {
        let (Some(named), Some(table)) = (&self.named, self.replica.table()) else {
            return Kinship::Diverged { common: None, own: None };
        };
        if self.fresh || self.archived == Some(table.sum()) {
            return Kinship::Ancestor;
        }
        // What it said when it named this database may be old by now.
        let said = named.entry.head;
        let head = self.head.filter(|head| head.epoch == said.epoch).unwrap_or(said);
        ledger.kinship(table.sum(), &named.entry.lineage, head)
    }

    /// The ruling: this copy is archived, and then overwritten.
    pub(crate) fn archiving(&mut self, kinship: Kinship) {
        self.stage = Stage::Archiving(kinship);
    }

    /// It is archived.
    pub(crate) fn archived(&mut self, outlet: &mut Outlet<'_>) -> Outcome {
        if !matches!(self.stage, Stage::Archiving(_)) {
            return Outcome::Nothing;
        }
        self.stage = Stage::Known;
        if self.replica.foreign_write() {
            return Outcome::Nothing;
        }
        self.archived = self.replica.table().map(Table::sum);
        if self.named.is_some() && outlet.is_open() {
            return self.bring(outlet);
        }
        Outcome::Nothing
    }

    /// Nothing here is lost by bringing it to what the primary has.
    fn bring(&mut self, outlet: &mut Outlet<'_>) -> Outcome {
        let page_bytes = self.replica.attached().page_bytes();
        match &self.named {
            Some(named) if named.entry.page_bytes != page_bytes => {
                Outcome::Remake(Box::new(named.entry.clone()))
            }
            Some(_) => {
                self.offer(outlet);
                Outcome::Nothing
            }
            None => Outcome::Nothing,
        }
    }

    fn offer(&mut self, outlet: &mut Outlet<'_>) {
        let (Some(named), Some(table)) = (&self.named, self.replica.table()) else { return };
        let id = named.entry.id;
        let (pages, groups) = if self.fresh { (0, 0) } else { (table.pages(), table.groups()) };
        outlet.message(&Message::Offer(Offer { id, pages, groups }));
        let mut first = 0;
        while first < groups {
            let end = groups.min(first + u32::try_from(SUMS_MAX).expect("a small constant"));
            let sums = (first..end).map(|group| table.group_sum(group));
            outlet.frame(&[&wire::sums(id, first, sums)]);
            first = end;
        }
        self.stage = Stage::Offered;
    }

    /// The primary asks for the hashes of these groups.
    pub(crate) fn wanted(&self, groups: &[u32], outlet: &mut Outlet<'_>) {
        let (Some(named), Some(table)) = (&self.named, self.replica.table()) else { return };
        for group in groups {
            let hashes = table.group(*group).iter().copied();
            outlet.frame(&[&wire::hashes(named.entry.id, *group, hashes)]);
        }
    }

    /// How far the primary is.
    pub(crate) fn head_is(&mut self, head: Position) {
        if self.head.is_none_or(|known| known.order() < head.order()) {
            self.head = Some(head);
        }
    }

    /// Something is wrong with this database.
    pub(crate) fn pause(&mut self, why: String, now: Instant, outlet: &mut Outlet<'_>) {
        self.undo();
        if let Some(named) = &self.named {
            outlet.message(&Message::Refuse(named.entry.id, why.chars().take(500).collect()));
        }
        self.stage = Stage::Paused { until: now + PAUSE, why };
    }

    /// Pages of the primary.
    pub(crate) fn pages(
        &mut self,
        head: Head,
        pages: Pages<'_>,
        ledger: &mut Ledger,
        outlet: &mut Outlet<'_>,
    ) -> Result<Outcome, AttendError> {
        let Some(named) = &mut self.named else { return Ok(Outcome::Nothing) };
        if head.first {
            self.pages = 0;
            let expected = match self.stage {
                Stage::Offered => head.copy,
                Stage::Following => !head.copy,
                // Frames that were under way when this database paused or was named again.
                Stage::Scanning
                | Stage::Known
                | Stage::Diverged(_)
                | Stage::Archiving(_)
                | Stage::Paused { .. } => false,
            };
            if !expected {
                return Ok(Outcome::Nothing);
            }
            let sum = self.replica.table().map(Table::sum);
            if !head.copy && sum != Some(head.before) {
                return Err(AttendError::Gap);
            }
            let before = self.replica.table().map_or(0, Table::pages);
            self.replica.begin(head.pages)?;
            named.open = Some(head);
            named.highest = before;
        }
        let Some(open) = &named.open else { return Ok(Outcome::Nothing) };
        if open.position != head.position || open.pages != head.pages {
            return Err(AttendError::Gap);
        }
        for (number, image) in pages.each(self.replica.attached().page_bytes())? {
            // A shipment tells its pages in ascending order, and all that it adds but a few: a
            // number far beyond the end would only cost memory.
            if number.saturating_sub(named.highest) > GAP_PAGES_MAX + 1 {
                return Err(AttendError::Gap);
            }
            named.highest = named.highest.max(number);
            self.replica.page(number, image)?;
            self.pages += 1;
        }
        if !head.last {
            return Ok(Outcome::Nothing);
        }
        self.commit(head, ledger, outlet)
    }

    fn commit(
        &mut self,
        head: Head,
        ledger: &mut Ledger,
        outlet: &mut Outlet<'_>,
    ) -> Result<Outcome, AttendError> {
        let Some(named) = &mut self.named else { return Ok(Outcome::Nothing) };
        named.open = None;
        if head.copy {
            ledger.adopt(&named.entry.lineage)?;
            ledger.hold(false)?;
        }
        // Before the commit: wherever the process ends, one of the two notes fits.
        ledger.note_ahead(head.position, head.after);
        self.replica.commit(head.after, head.pages)?;
        ledger.confirm();
        self.at = Some(head.position);
        self.fresh = false;
        self.stage = Stage::Following;
        self.lively = Some(Instant::now());
        let id = named.entry.id;
        self.head_is(head.position);
        outlet.message(&Message::Ack(id, head.position));
        if head.copy {
            return Ok(Outcome::Copied { pages: self.pages, of: head.pages });
        }
        Ok(Outcome::Nothing)
    }

    /// What others see.
    pub(crate) fn describe(&self, status: &mut DatabaseStatus) {
        status.state = match &self.stage {
            Stage::Scanning => State::Opening,
            Stage::Known | Stage::Paused { .. } if self.named.is_none() => State::Waiting,
            Stage::Known | Stage::Paused { .. } | Stage::Offered | Stage::Archiving(_) => {
                State::Catching
            }
            Stage::Following => State::Following,
            Stage::Diverged(_) => State::Diverged,
        };
        status.position = self.at;
        status.head = self.head();
        if let (Stage::Following, Some(at), Some(head)) = (&self.stage, self.at, status.head) {
            status.behind = Some(head.txid.saturating_sub(at.txid));
        }
        if let Stage::Paused { why, .. } = &self.stage {
            status.trouble = Some(why.clone());
        }
        let attached = self.replica.attached();
        status.page_bytes = attached.page_bytes();
        if let Some(table) = self.replica.table() {
            status.pages = table.pages();
            status.sum = Some(table.sum());
        }
    }
}

/// Why a shipment was not applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttendError {
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Wire(#[from] wire::WireError),
    /// It does not follow from what is here.
    #[error("a shipment does not follow from this copy: it is offered again")]
    Gap,
}

#[cfg(test)]
#[path = "attend_tests.rs"]
mod tests;
