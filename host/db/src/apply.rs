//! The standby's copy of one database: pages in, whole transactions out.
//!
//! Promises: a reader of the copy sees at every instant the state after some whole transaction; a
//! transaction whose sum is not what the primary said never becomes visible; after any error the
//! old state stands and nothing is open. Transactions of any size pass in bounded memory.
//! Refuses: to write without the fence, over somebody else's write, or before it knows what the
//! copy holds.
//!
//! Pages go through `sqlite_dbpage` inside an ordinary write transaction, under rules of which each
//! one has its test (`apply_tests.rs`): page 1 is written after all others, since its schema cookie
//! makes the next statement read the schema anew, which must be whole by then; the end of the file
//! is moved after it, since a page written later makes SQLite forget that; and nothing of a page is
//! cached that a transaction changes, since the b-tree layer does not see it change: the schema is
//! read, and what was read forgotten, between transactions only.

mod checkpoint;
mod create;
mod error;
mod writer;

use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::attach::Attached;
use crate::fence::Fence;
use crate::hash::{HEADER_BYTES, page_hash, said_page_bytes};
use crate::index::{self, Seen};
use crate::scan::{Scan, Scanned};
use crate::snapshot::lock_page;
use crate::table::Table;

pub use checkpoint::{Checkpoint, CheckpointKind};
pub(crate) use create::UNFINISHED;
pub use create::{CreateError, Owner, create};
pub use error::ApplyError;
use error::sqlite_error;
use writer::Writer;

/// How long an opening waits for an application to end its transaction.
const FENCE_WAIT: Duration = Duration::from_secs(10);
/// Old hashes that are remembered to undo a transaction, 32 bytes each. A larger one that fails
/// costs a new scan.
const UNDO_PAGES_MAX: usize = 65_536;
/// Pages that a transaction may add without shipping them: SQLite writes every page that it adds.
pub(crate) const GAP_PAGES_MAX: u32 = 1_024;
/// Attempts to read the header of the WAL-index, which nobody but this process writes meanwhile.
const INDEX_READS_MAX: u32 = 100;

/// What a commit of the copy has survived when it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A crash of this process; after a loss of power the copy is whole, and may be older.
    Applied,
    /// A loss of power.
    Durable,
}

/// Where a replica stands.
#[derive(Debug)]
enum Phase {
    Idle,
    Open(Transaction),
}

/// A transaction of which pages still come.
#[derive(Debug, Clone, Copy)]
struct Transaction {
    pages_before: u32,
    pages_total: u32,
    /// Page 1 came, and waits in [`Replica::first`].
    first: bool,
}

/// The copy of one database, fenced.
#[derive(Debug)]
pub struct Replica {
    /// First in the struct: closed before the descriptors that [`Attached`] keeps.
    writer: Writer,
    attached: Rc<Attached>,
    fence: Fence,
    phase: Phase,
    table: Option<Table>,
    /// Hashes that the open transaction replaced; None when there were too many.
    undo: Option<Vec<(u32, u128)>>,
    /// Page 1 of the open transaction.
    first: Vec<u8>,
    /// The WAL-index's count of transactions after our last one.
    change: u32,
    /// The copy, as it stands committed, frees its pages at each commit.
    auto_vacuum_full: bool,
    checkpoints: checkpoint::Pace,
}

impl Replica {
    /// Takes the fence and opens the copy for applying.
    ///
    /// # Errors
    /// When an application does not end its transaction within 10 s, or SQLite refuses.
    pub fn open(attached: Rc<Attached>, durability: Durability) -> Result<Replica, ApplyError> {
        let fence = Fence::take(&attached, FENCE_WAIT)?;
        Replica::under(attached, fence, durability)
    }

    /// As [`Replica::open`], under a fence that was taken before.
    ///
    /// # Errors
    /// When SQLite refuses.
    pub fn under(
        attached: Rc<Attached>,
        fence: Fence,
        durability: Durability,
    ) -> Result<Replica, ApplyError> {
        let sqlite = |source| sqlite_error(attached.path(), source);
        let writer = Writer::connect(&fence.pass(), attached.path(), durability).map_err(sqlite)?;
        let auto_vacuum_full =
            writer.auto_vacuum_full().map_err(|source| sqlite_error(attached.path(), source))?;
        let mut replica = Replica {
            writer,
            attached,
            fence,
            phase: Phase::Idle,
            table: None,
            undo: None,
            first: Vec::new(),
            change: 0,
            auto_vacuum_full,
            checkpoints: checkpoint::Pace::default(),
        };
        replica.change = replica.header()?.0;
        Ok(replica)
    }

    /// The copy.
    #[must_use]
    pub fn attached(&self) -> &Attached {
        &self.attached
    }

    /// What its pages hash to, when it is known and no transaction is open.
    #[must_use]
    pub fn table(&self) -> Option<&Table> {
        match self.phase {
            Phase::Idle => self.table.as_ref(),
            Phase::Open(_) => None,
        }
    }

    /// A snapshot of the copy, for [`Scan::table`] on another thread and then [`Replica::adopt`].
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn scan(&self) -> Result<Scan, ApplyError> {
        Ok(Scan::begin(&self.attached)?)
    }

    /// Takes over what a scan found. From now on transactions can be applied.
    ///
    /// # Errors
    /// [`ApplyError::Foreign`] when the copy has changed since, [`ApplyError::Order`] while a
    /// transaction is open.
    pub fn adopt(&mut self, scanned: Scanned) -> Result<(), ApplyError> {
        if let Phase::Open(_) = self.phase {
            self.rollback();
            return Err(self.order("a table was handed over within a transaction"));
        }
        if self.header()?.0 != scanned.change
            || scanned.table.page_bytes() != self.attached.page_bytes()
        {
            return Err(ApplyError::Foreign { path: self.path() });
        }
        self.change = scanned.change;
        self.table = Some(scanned.table);
        Ok(())
    }

    /// Whether somebody else has written since our last transaction: what the table says is then
    /// no longer true. A header that cannot be read counts as written by somebody else.
    #[must_use]
    pub fn foreign_write(&self) -> bool {
        self.header().map_or(true, |(change, _)| change != self.change)
    }

    /// Opens a transaction after which the database has this many pages.
    ///
    /// # Errors
    /// When somebody else wrote, the fence is down, the table is not known, or SQLite refuses.
    pub fn begin(&mut self, pages_total: u32) -> Result<(), ApplyError> {
        if let Phase::Open(_) = self.phase {
            self.rollback();
            return Err(self.order("a transaction was begun within another"));
        }
        if !self.fence.held() {
            return Err(ApplyError::NotFenced { path: self.path() });
        }
        let page_bytes = self.attached.page_bytes();
        let path = self.path();
        let Some(table) = &mut self.table else {
            return Err(ApplyError::NoTable { path });
        };
        if pages_total == 0 || pages_total == lock_page(page_bytes) || pages_total == u32::MAX {
            return Err(ApplyError::PageCount { path, pages_total });
        }
        if table.reserve(pages_total).is_err() {
            return Err(ApplyError::Memory { path, pages_total });
        }
        let pages_before = table.pages();
        self.writer.begin().map_err(|source| self.sqlite(source))?;
        self.undo = Some(Vec::new());
        self.phase = Phase::Open(Transaction { pages_before, pages_total, first: false });
        let ready = self.under_write_lock();
        self.or_rollback(ready)
    }

    /// What can only be known, and said, once the write lock is ours.
    fn under_write_lock(&mut self) -> Result<(), ApplyError> {
        if self.header()?.0 != self.change {
            return Err(ApplyError::Foreign { path: self.path() });
        }
        if self.auto_vacuum_full {
            self.writer.hold_vacuum().map_err(|source| self.sqlite(source))?;
        }
        Ok(())
    }

    /// Adds a page, in any order.
    ///
    /// # Errors
    /// When it cannot be part of the transaction, or SQLite refuses; the transaction is undone.
    pub fn page(&mut self, number: u32, bytes: &[u8]) -> Result<(), ApplyError> {
        let Phase::Open(transaction) = self.phase else {
            return Err(self.order("a page came outside of a transaction"));
        };
        let added = self.add(transaction, number, bytes);
        self.or_rollback(added)
    }

    fn add(
        &mut self,
        transaction: Transaction,
        number: u32,
        bytes: &[u8],
    ) -> Result<(), ApplyError> {
        let pages_total = transaction.pages_total;
        let expected = self.attached.page_bytes();
        if bytes.len() != expected as usize {
            let found = bytes.len();
            return Err(ApplyError::PageSize { path: self.path(), expected, found });
        }
        if number == 0 || number > pages_total || number == lock_page(expected) {
            return Err(ApplyError::PageNumber { path: self.path(), number, pages_total });
        }
        if number == 1 {
            let found = said_page_bytes(bytes);
            if found != expected {
                let found = found as usize;
                return Err(ApplyError::PageSize { path: self.path(), expected, found });
            }
            self.first.clear();
            self.first.extend_from_slice(bytes);
            self.phase = Phase::Open(Transaction { first: true, ..transaction });
        } else {
            self.write(number, bytes)?;
        }
        self.note(transaction, number, page_hash(number, bytes));
        Ok(())
    }

    /// Changes the table, and remembers what it was.
    fn note(&mut self, transaction: Transaction, number: u32, hash: u128) {
        let table = self.table.as_mut().expect("begin needs a table");
        if number <= transaction.pages_before {
            let old = table.hash(number).unwrap_or_default();
            match &mut self.undo {
                Some(undo) if undo.len() < UNDO_PAGES_MAX => undo.push((number, old)),
                _ => self.undo = None,
            }
        }
        table.set(number, hash);
    }

    /// Makes the transaction visible, when the database then has this sum, and as many pages as it
    /// was begun with.
    ///
    /// # Errors
    /// [`ApplyError::Sum`] when it has not, [`ApplyError::DiskFull`], or what SQLite answers; the
    /// transaction is undone.
    pub fn commit(&mut self, expected: u128, pages_total: u32) -> Result<(), ApplyError> {
        let Phase::Open(transaction) = self.phase else {
            return Err(self.order("a commit came outside of a transaction"));
        };
        let done = if pages_total == transaction.pages_total {
            self.finish(transaction, expected)
        } else {
            Err(ApplyError::PageCount { path: self.path(), pages_total })
        };
        self.or_rollback(done)?;
        self.phase = Phase::Idle;
        self.undo = None;
        self.writer.forget_pages();
        if transaction.first {
            self.auto_vacuum_full = said_auto_vacuum_full(&self.first);
            self.writer.read_schema();
        }
        let (change, pages) = self.header().inspect_err(|_| self.table = None)?;
        self.change = change;
        if pages.is_some_and(|pages| pages != transaction.pages_total) {
            self.table = None;
            let pages_total = transaction.pages_total;
            return Err(ApplyError::PageCount { path: self.path(), pages_total });
        }
        Ok(())
    }

    fn finish(&mut self, transaction: Transaction, expected: u128) -> Result<(), ApplyError> {
        let Transaction { pages_before, pages_total, first } = transaction;
        self.fill_gaps(transaction)?;
        let shrinks = pages_total < pages_before;
        let table = self.table.as_mut().expect("begin needs a table");
        if shrinks {
            self.undo = self.undo.take().and_then(|undo| with_cut(undo, table, transaction));
        }
        table.resize(pages_total);
        let found = table.sum();
        if found != expected {
            return Err(ApplyError::Sum { path: self.path(), expected, found });
        }
        if first {
            // This copy is in WAL mode, whatever the primary's is.
            self.first[18..20].fill(2);
        }
        let end = i64::from(pages_total) + 1;
        let written = match (first, shrinks) {
            (false, false) => Ok(()),
            (true, false) => self.writer.page(1, &self.first),
            (false, true) => self.writer.end(end),
            (true, true) => self.writer.page(1, &self.first).and_then(|()| self.writer.end(end)),
        };
        written.and_then(|()| self.writer.commit()).map_err(|source| self.sqlite(source))
    }

    /// Pages that the transaction adds without shipping them are zeros, here as on the primary.
    fn fill_gaps(&mut self, transaction: Transaction) -> Result<(), ApplyError> {
        let table = self.table.as_mut().expect("begin needs a table");
        let added = transaction.pages_total.saturating_sub(table.pages());
        if added > GAP_PAGES_MAX {
            return Err(ApplyError::Gaps { path: self.path(), missing: added as usize });
        }
        let last = table.pages();
        let mut gaps = table.gaps();
        gaps.extend(last + 1..=transaction.pages_total);
        gaps.retain(|page| *page != lock_page(self.attached.page_bytes()));
        if gaps.len() > GAP_PAGES_MAX as usize {
            return Err(ApplyError::Gaps { path: self.path(), missing: gaps.len() });
        }
        let zeros = vec![0; if gaps.is_empty() { 0 } else { self.page_len() }];
        for page in gaps {
            self.write(page, &zeros)?;
            self.note(transaction, page, page_hash(page, &zeros));
        }
        Ok(())
    }

    /// Undoes what is open; nothing happens when nothing is.
    pub fn rollback(&mut self) {
        let Phase::Open(transaction) = self.phase else {
            return;
        };
        self.phase = Phase::Idle;
        if self.writer.rollback().is_err() {
            tracing::error!(database = %self.attached.path().display(), "cannot undo");
            self.table = None;
        }
        self.writer.forget_pages();
        self.writer.read_schema();
        match (self.undo.take(), &mut self.table) {
            (Some(undo), Some(table)) => {
                table.resize(table.pages().min(transaction.pages_before));
                for (page, old) in undo.into_iter().rev() {
                    table.set(page, old);
                }
                table.resize(transaction.pages_before);
            }
            (None, _) | (_, None) => self.table = None,
        }
    }

    /// Gives back what only transactions need; for quiet times.
    pub(crate) fn trim(&mut self) {
        if let Phase::Idle = self.phase {
            self.writer.trim();
            self.first = Vec::new();
        }
    }

    /// Its table, to go on with elsewhere; none while somebody else has written since.
    pub(crate) fn take_table(&mut self) -> Option<Table> {
        self.rollback();
        if self.foreign_write() {
            return None;
        }
        self.table.take()
    }

    /// Ends the replica: the copy is as its last transaction left it, and still fenced. Whoever
    /// gets it decides when applications may write: [`Fence::release`], or [`Fence::hand_over`] to
    /// a [`crate::Follower`] that starts under it.
    #[must_use]
    pub fn promote(mut self) -> (Rc<Attached>, Fence) {
        self.rollback();
        let Replica { writer, attached, fence, .. } = self;
        drop(writer);
        (attached, fence)
    }

    /// The copy's fence.
    #[must_use]
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// What is to be checkpointed now, to be run on whatever thread may wait for a disk, while
    /// transactions go on. None as long as the WAL is small, the last one still exists, and for a
    /// while after it. The fence cannot be released while one that is not passive has the write
    /// lock.
    pub fn checkpoint_due(&mut self, now: Instant) -> Option<Checkpoint> {
        let seen = index::read(self.attached.shm()).ok()?;
        let wal_bytes = wal_bytes(&self.attached);
        let due = self.checkpoints.due(now, &seen, wal_bytes)?;
        Some(Checkpoint::new(&self.attached, self.fence.pass(), wal_bytes, due))
    }

    /// Runs a checkpoint that is due, here and now: on a disk it takes some 100 ms.
    ///
    /// # Errors
    /// What SQLite answers; readers in the way are no error.
    pub fn tend(&mut self, now: Instant) -> Result<(), ApplyError> {
        match self.checkpoint_due(now) {
            Some(checkpoint) => checkpoint.run(),
            None => Ok(()),
        }
    }

    /// The count of transactions, and the number of pages when the WAL says it.
    fn header(&self) -> Result<(u32, Option<u32>), ApplyError> {
        for _ in 0..INDEX_READS_MAX {
            let seen = index::read(self.attached.shm())
                .map_err(|source| ApplyError::Index { path: self.path(), source })?;
            if let Seen { index: Some(index), .. } = seen {
                return Ok((index.change, (index.frames > 0).then_some(index.pages)));
            }
            std::thread::yield_now();
        }
        Err(ApplyError::Foreign { path: self.path() })
    }

    fn write(&self, number: u32, bytes: &[u8]) -> Result<(), ApplyError> {
        self.writer.page(number, bytes).map_err(|source| self.sqlite(source))
    }

    fn or_rollback<T>(&mut self, result: Result<T, ApplyError>) -> Result<T, ApplyError> {
        if result.is_err() {
            self.rollback();
        }
        result
    }

    fn page_len(&self) -> usize {
        self.attached.page_bytes() as usize
    }

    fn path(&self) -> PathBuf {
        self.attached.path().to_owned()
    }

    fn sqlite(&self, source: rusqlite::Error) -> ApplyError {
        sqlite_error(self.attached.path(), source)
    }

    fn order(&self, wrong: &'static str) -> ApplyError {
        ApplyError::Order { path: self.path(), wrong }
    }
}

/// Adds the hashes beyond the new end; None when they are too many.
fn with_cut(
    mut undo: Vec<(u32, u128)>,
    table: &Table,
    transaction: Transaction,
) -> Option<Vec<(u32, u128)>> {
    let cut = (transaction.pages_before - transaction.pages_total) as usize;
    if undo.len() + cut > UNDO_PAGES_MAX {
        return None;
    }
    let beyond = transaction.pages_total + 1..=transaction.pages_before;
    undo.extend(beyond.filter_map(|page| Some((page, table.hash(page)?))));
    Some(undo)
}

fn wal_bytes(attached: &Attached) -> u64 {
    attached.wal().metadata().map_or(0, |metadata| metadata.len())
}

/// Whether page 1 says that free pages are given back at each commit: there is a largest root page,
/// and the flag for "incrementally" is not set.
fn said_auto_vacuum_full(first: &[u8]) -> bool {
    first.len() >= HEADER_BYTES && first[52..56] != [0; 4] && first[64..68] == [0; 4]
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
