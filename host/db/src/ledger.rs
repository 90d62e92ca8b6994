//! What a node knows about the history of a database beside its pages: the reigns that wrote it,
//! and how far it was when it was last looked at.
//!
//! Promises: the lineage is durable before a new reign's first transaction is shipped. The position
//! is written after every shipment without waiting for the disk: it is exact after the end of a
//! process; after a loss of power it may not fit the pages, which is noticed by the sum. There are
//! two records, written in turn: the standby notes a position *before* it commits it, so that
//! wherever the process ends one of the two fits.

use crate::wire::{Position, REIGNS_MAX, Reign};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Layout of the lineage file.
const LAYOUT: u32 = 1;
/// Bytes of a lineage file, at most.
const BYTES_MAX: u64 = 1 << 20;
/// Bytes of the record of a position: epoch, transaction, sum, life, checksum of these.
const RECORD_BYTES: usize = 8 + 8 + 16 + 8 + 8;
/// Where the checksum stands.
const CHECK_AT: usize = RECORD_BYTES - 8;
/// In a record's life: noted before it was so.
const AHEAD: u64 = 1;
/// Another one after each start of the system: what was not synced before is then uncertain.
const BOOT_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// How this copy relates to what a primary has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinship {
    /// Part of the primary's history: nothing here is missing there.
    Ancestor,
    /// Something here may be missing there: `own` transactions at least are, where they can be
    /// counted, since `common`.
    Diverged {
        /// The last position that both had.
        common: Option<Position>,
        /// Transactions here since then; none where they cannot be counted.
        own: Option<u64>,
    },
}

/// The history of one database on this node.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: PathBuf,
    records: File,
    known: Known,
    /// The two records, and which one is of the pages as they are.
    noted: [Option<Noted>; 2],
    current: usize,
    /// The highest position of this process, whether or not it could be written down.
    highest: Option<Position>,
    /// Of the file and the system's start: see [`Ledger::lives`].
    life: u64,
}

/// A position, and the sum over all pages there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Noted {
    pub position: Position,
    pub sum: u128,
    pub life: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    layout: u32,
    database: PathBuf,
    /// Oldest first: epoch, and the position before it.
    reigns: Vec<(u64, u64, u64)>,
    /// Waits for an operator's word before it is overwritten.
    held: bool,
}

/// Cannot keep the history of a database.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot keep the history of a database in {path}: {source} (is the state folder writable, \
         and the disk not full?)"
)]
pub struct LedgerError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The databases that have a history in this folder.
pub(crate) fn known(folder: &Path) -> BTreeSet<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return BTreeSet::new() };
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let histories = files
        .filter(|file| file.extension().is_some_and(|end| end == "json"))
        .filter_map(|file| read(&file).ok().flatten());
    histories.filter(|known| !known.reigns.is_empty()).map(|known| known.database).collect()
}

impl Ledger {
    /// Opens the history of a database, or begins one. One that cannot be read counts as none:
    /// then nothing here is provably part of anything, and it is archived before it is overwritten.
    pub(crate) fn open(folder: &Path, database: &Path) -> Result<Ledger, LedgerError> {
        let name =
            format!("{:016x}", xxhash_rust::xxh3::xxh3_64(database.as_os_str().as_encoded_bytes()));
        let file = folder.join(format!("{name}.json"));
        let fail = |source| LedgerError { path: file.clone(), source };
        std::fs::create_dir_all(folder).map_err(fail)?;
        let records = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(folder.join(format!("{name}.position")))
            .map_err(fail)?;
        let empty =
            Known { layout: LAYOUT, database: database.to_owned(), reigns: vec![], held: false };
        let known = match read(&file) {
            Ok(Some(known)) if known.database == database => known,
            Ok(None | Some(_)) => empty,
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "history unreadable: begins anew");
                empty
            }
        };
        let noted = [0, 1].map(|slot| record(&records, slot));
        let newest = |slot: usize| noted[slot].map(|noted| noted.position.order());
        let current = usize::from(newest(1) > newest(0));
        Ok(Ledger { file, records, known, noted, current, highest: None, life: 0 })
    }

    /// The database is this file, from now on. A position that was noted of another file, or before
    /// the system started anew, need not be part of what the file holds now: neither its log nor
    /// the note was synced.
    pub(crate) fn lives(&mut self, (device, inode): (u64, u64)) {
        let boot = std::fs::read_to_string(BOOT_FILE).unwrap_or_default();
        let life = xxhash_rust::xxh3::xxh3_64(format!("{device} {inode} {boot}").as_bytes());
        self.life = life & !AHEAD;
    }

    /// The newest position that the database is certain to have passed, whatever its pages are: the
    /// same file had it since the system started. What was only noted ahead need not have come.
    pub(crate) fn passed(&self) -> Option<Position> {
        let mut noted: Vec<&Noted> = self.noted.iter().flatten().collect();
        noted.sort_by_key(|noted| noted.position.order());
        let last = noted.len().saturating_sub(1);
        let certain = noted.iter().enumerate().filter(|(at, noted)| {
            // Whoever noted the newer one had committed the older one.
            noted.life | AHEAD == self.life | AHEAD && (*at < last || noted.life & AHEAD == 0)
        });
        certain.map(|(_, noted)| noted.position).next_back()
    }

    /// The reign of this node that has begun here last, and how far it is.
    pub(crate) fn reigning(&self, epoch: u64) -> Option<u64> {
        let began = self.known.reigns.last().is_some_and(|&(last, ..)| last == epoch);
        let known = [self.newest(), self.highest].into_iter().flatten();
        let of_it = known.filter(|at| at.epoch == epoch).map(|at| at.txid);
        began.then_some(of_it.max().unwrap_or(0))
    }

    /// This node begins a reign with what it has, of which nobody knows what it is: no copy is part
    /// of its history.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub(crate) fn reign_anew(&mut self, epoch: u64) -> Result<(), LedgerError> {
        self.adopt_reigns(vec![(epoch, 0, 0)])
    }

    pub(crate) fn lineage(&self) -> Vec<Reign> {
        let reign = |&(epoch, of, txid): &(u64, u64, u64)| Reign {
            epoch,
            after: Position { epoch: of, txid },
        };
        self.known.reigns.iter().map(reign).collect()
    }

    /// Where a copy with this sum is, as far as it was noted.
    pub(crate) fn position_of(&self, sum: u128) -> Option<Position> {
        // The one that is current first: an older one may have had the same pages.
        let slots = [self.current, 1 - self.current];
        let noted = slots.iter().filter_map(|slot| self.noted[*slot]);
        noted.filter(|noted| noted.sum == sum).map(|noted| noted.position).next()
    }

    /// The newest position that was noted, whatever the pages are.
    pub(crate) fn newest(&self) -> Option<Position> {
        self.noted.iter().flatten().map(|noted| noted.position).max_by_key(Position::order)
    }

    /// Nothing was ever noted: this database was not part of a pair yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.reigns.is_empty() && self.newest().is_none()
    }

    /// Waits for an operator.
    pub(crate) fn held(&self) -> bool {
        self.known.held
    }

    /// # Errors
    /// When it cannot be made durable.
    pub(crate) fn hold(&mut self, held: bool) -> Result<(), LedgerError> {
        if self.known.held == held {
            return Ok(());
        }
        self.write(Known { held, ..self.known.clone() })
    }

    /// This node begins a reign with what it has. The same reign may begin again: a daemon that
    /// died and came back is a new reign in any case, so nothing is lost by it.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub(crate) fn reign(&mut self, epoch: u64, after: Position) -> Result<(), LedgerError> {
        let mut reigns = self.known.reigns.clone();
        reigns.retain(|&(old, ..)| old < epoch);
        reigns.push((epoch, after.epoch, after.txid));
        self.adopt_reigns(reigns)
    }

    /// This copy is now part of the primary's history.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub(crate) fn adopt(&mut self, lineage: &[Reign]) -> Result<(), LedgerError> {
        let reigns = lineage.iter().map(|r| (r.epoch, r.after.epoch, r.after.txid)).collect();
        self.adopt_reigns(reigns)
    }

    fn adopt_reigns(&mut self, mut reigns: Vec<(u64, u64, u64)>) -> Result<(), LedgerError> {
        if reigns.len() > REIGNS_MAX {
            reigns.drain(..reigns.len() - REIGNS_MAX);
        }
        if self.known.reigns == reigns {
            return Ok(());
        }
        self.write(Known { reigns, ..self.known.clone() })
    }

    fn write(&mut self, known: Known) -> Result<(), LedgerError> {
        let fail = |source| LedgerError { path: self.file.clone(), source };
        let text = serde_json::to_vec_pretty(&known).expect("plain data");
        let temporary = self.file.with_extension("new");
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(fail)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(fail)?;
        std::fs::rename(&temporary, &self.file).map_err(fail)?;
        let folder = self.file.parent().unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail)?;
        self.known = known;
        Ok(())
    }

    /// Notes how far this copy is. Never waits for the disk; what cannot be noted only makes the
    /// copy unknown later.
    pub(crate) fn note(&mut self, position: Position, sum: u128) {
        self.write_down(position, sum, self.life);
        self.confirm();
    }

    /// Notes how far this copy will be in a moment, beside how far it is.
    pub(crate) fn note_ahead(&mut self, position: Position, sum: u128) {
        self.write_down(position, sum, self.life | AHEAD);
    }

    fn write_down(&mut self, position: Position, sum: u128, life: u64) {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(&position.epoch.to_le_bytes());
        bytes[8..16].copy_from_slice(&position.txid.to_le_bytes());
        bytes[16..32].copy_from_slice(&sum.to_le_bytes());
        bytes[32..CHECK_AT].copy_from_slice(&life.to_le_bytes());
        let check = xxhash_rust::xxh3::xxh3_64(&bytes[..CHECK_AT]);
        bytes[CHECK_AT..].copy_from_slice(&check.to_le_bytes());
        let slot = 1 - self.current;
        let written = self.records.write_all_at(&bytes, (slot * RECORD_BYTES) as u64).is_ok();
        self.noted[slot] = written.then_some(Noted { position, sum, life });
        if self.highest.is_none_or(|highest| highest.order() < position.order()) {
            self.highest = Some(position);
        }
    }

    /// What was noted ahead is now so.
    pub(crate) fn confirm(&mut self) {
        self.current = 1 - self.current;
    }

    /// The pages have this sum: the record that fits is kept until the next one is confirmed.
    pub(crate) fn settle(&mut self, sum: u128) {
        if self.noted[self.current].is_none_or(|noted| noted.sum != sum)
            && self.noted[1 - self.current].is_some_and(|noted| noted.sum == sum)
        {
            self.confirm();
        }
    }

    /// How this copy, whose pages have this sum, relates to a primary with that lineage and head.
    pub(crate) fn kinship(&self, sum: u128, lineage: &[Reign], head: Position) -> Kinship {
        let Some(mine) = self.position_of(sum) else {
            // Written to by somebody since, or the power failed.
            let known = |at: &Position| lineage.iter().any(|reign| reign.epoch == at.epoch);
            return Kinship::Diverged { common: self.newest().filter(known), own: None };
        };
        // How far the primary's history goes within the reign that this copy is from.
        let end = if head.epoch == mine.epoch {
            Some(head)
        } else {
            lineage.iter().map(|reign| reign.after).find(|after| after.epoch == mine.epoch)
        };
        match end {
            Some(end) if mine.txid <= end.txid => Kinship::Ancestor,
            Some(end) => Kinship::Diverged { common: Some(end), own: Some(mine.txid - end.txid) },
            None => {
                // A reign that the primary never heard of: the last of ours that it knows.
                let common = self.known.reigns.iter().rev().find_map(|&(_, of, txid)| {
                    let known = lineage.iter().any(|r| r.epoch == of || r.after.epoch == of);
                    known.then_some(Position { epoch: of, txid })
                });
                Kinship::Diverged { common, own: common.map(|_| mine.txid) }
            }
        }
    }
}

fn read(file: &Path) -> io::Result<Option<Known>> {
    let mut text = String::new();
    match File::open(file) {
        Ok(file) => file.take(BYTES_MAX).read_to_string(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let known: Known = serde_json::from_str(&text)?;
    if known.layout != LAYOUT {
        return Err(io::Error::other(format!("layout {} is not of this version", known.layout)));
    }
    let reigns = known.reigns.len();
    if reigns > REIGNS_MAX {
        return Err(io::Error::other(format!(
            "{reigns} reigns, and {REIGNS_MAX} at most are kept"
        )));
    }
    Ok(Some(known))
}

fn record(records: &File, slot: usize) -> Option<Noted> {
    let mut bytes = [0; RECORD_BYTES];
    records.read_exact_at(&mut bytes, (slot * RECORD_BYTES) as u64).ok()?;
    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    if long(CHECK_AT) != xxhash_rust::xxh3::xxh3_64(&bytes[..CHECK_AT]) {
        return None;
    }
    let sum = u128::from_le_bytes(bytes[16..32].try_into().expect("sixteen bytes"));
    Some(Noted { position: Position { epoch: long(0), txid: long(8) }, sum, life: long(32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u64, txid: u64) -> Position {
        Position { epoch, txid }
    }

    fn reign(epoch: u64, after: Position) -> Reign {
        Reign { epoch, after }
    }

    /// One line a case: what the copy noted, the primary's lineage and head, and the kinship.
    #[test]
    fn kinship_follows_the_lineage() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(folder.path(), Path::new("/a.db")).unwrap();
        let lineage = [reign(2, at(0, 0)), reign(5, at(2, 100))];
        let unknown = Kinship::Diverged { common: None, own: None };
        assert_eq!(ledger.kinship(1, &lineage, at(5, 7)), unknown);
        for (mine, head, expect) in [
            (at(5, 7), at(5, 7), Kinship::Ancestor),
            (at(5, 3), at(5, 7), Kinship::Ancestor),
            (at(2, 100), at(5, 7), Kinship::Ancestor),
            (at(2, 99), at(5, 0), Kinship::Ancestor),
            (at(2, 104), at(5, 7), Kinship::Diverged { common: Some(at(2, 100)), own: Some(4) }),
            (at(5, 9), at(5, 7), Kinship::Diverged { common: Some(at(5, 7)), own: Some(2) }),
            (at(4, 1), at(5, 7), unknown),
        ] {
            ledger.note(mine, 77);
            assert_eq!(ledger.kinship(77, &lineage, head), expect, "{mine:?} under {head:?}");
        }
        // A reign of its own beside the primary's: counted from where they parted.
        ledger.reign(4, at(2, 90)).unwrap();
        ledger.note(at(4, 6), 77);
        let parted = Kinship::Diverged { common: Some(at(2, 90)), own: Some(6) };
        assert_eq!(ledger.kinship(77, &lineage, at(5, 7)), parted);
        // Noted before it was committed: either record may be the one that fits.
        ledger.note(at(5, 6), 76);
        ledger.note(at(5, 7), 77);
        assert_eq!(ledger.position_of(76), Some(at(5, 6)));
        assert_eq!(ledger.kinship(76, &lineage, at(5, 6)), Kinship::Ancestor);
        // Pages that are neither.
        let foreign = Kinship::Diverged { common: Some(at(5, 7)), own: None };
        assert_eq!(ledger.kinship(78, &lineage, at(5, 7)), foreign);
    }

    #[test]
    fn history_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = Path::new("/a.db");
        let mut ledger = Ledger::open(folder.path(), path).unwrap();
        ledger.reign(2, at(0, 0)).unwrap();
        ledger.reign(4, at(2, 9)).unwrap();
        ledger.hold(true).unwrap();
        ledger.note(at(4, 3), 5);
        drop(ledger);
        let ledger = Ledger::open(folder.path(), path).unwrap();
        assert_eq!(ledger.lineage(), [reign(2, at(0, 0)), reign(4, at(2, 9))]);
        assert_eq!(ledger.position_of(5), Some(at(4, 3)));
        assert!(ledger.held());
        let other = Ledger::open(folder.path(), Path::new("/b.db")).unwrap();
        assert_eq!((other.lineage(), other.newest()), (vec![], None));
    }

    #[test]
    fn what_never_came_does_not_displace_what_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = Path::new("/a.db");
        let mut ledger = Ledger::open(folder.path(), path).unwrap();
        ledger.note(at(4, 3), 5);
        for attempt in 4..9 {
            ledger.note_ahead(at(4, attempt), attempt.into());
        }
        assert_eq!(ledger.position_of(5), Some(at(4, 3)));
        drop(ledger);
        let mut ledger = Ledger::open(folder.path(), path).unwrap();
        ledger.settle(5);
        ledger.note_ahead(at(4, 9), 9);
        assert_eq!(ledger.position_of(5), Some(at(4, 3)));
        ledger.confirm();
        ledger.note_ahead(at(4, 10), 10);
        assert_eq!((ledger.position_of(9), ledger.position_of(5)), (Some(at(4, 9)), None));
    }

    /// What the file had before the system started anew, or what another file had, is no history of
    /// it: a note may be on the disk and the transaction not.
    #[test]
    fn only_what_this_file_had_since_the_system_started_is_certain() {
        let folder = tempfile::tempdir().unwrap();
        let path = Path::new("/a.db");
        let mut ledger = Ledger::open(folder.path(), path).unwrap();
        ledger.lives((1, 1));
        ledger.note(at(4, 3), 5);
        ledger.note(at(4, 4), 6);
        assert_eq!(ledger.passed(), Some(at(4, 4)));
        // Noted ahead: it need not have come, and the one before it has.
        ledger.note_ahead(at(4, 5), 7);
        assert_eq!(ledger.passed(), Some(at(4, 4)));
        drop(ledger);
        let mut ledger = Ledger::open(folder.path(), path).unwrap();
        assert_eq!(ledger.passed(), None, "which file it is was not said");
        ledger.lives((1, 1));
        assert_eq!(ledger.passed(), Some(at(4, 4)));
        ledger.lives((1, 2));
        assert_eq!((ledger.passed(), ledger.newest()), (None, Some(at(4, 5))));
        // Then no copy passes for an older state of it.
        ledger.reign(4, at(2, 9)).unwrap();
        ledger.reign_anew(6).unwrap();
        let lineage = ledger.lineage();
        for old in [at(4, 1), at(2, 1)] {
            ledger.note(old, 77);
            assert_ne!(ledger.kinship(77, &lineage, at(6, 100)), Kinship::Ancestor, "{old:?}");
        }
    }

    #[test]
    fn a_reign_is_counted_on_though_nothing_can_be_written_down() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(folder.path(), Path::new("/a.db")).unwrap();
        ledger.reign(4, at(2, 9)).unwrap();
        assert_eq!((ledger.reigning(4), ledger.reigning(5)), (Some(0), None));
        // Not open for writing: as on a full disk.
        let name = ledger.file.with_extension("position");
        ledger.records = File::open(name).unwrap();
        ledger.note(at(4, 77), 5);
        assert_eq!((ledger.reigning(4), ledger.newest()), (Some(77), None));
    }

    #[test]
    fn a_torn_record_or_file_counts_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = Path::new("/a.db");
        let mut ledger = Ledger::open(folder.path(), path).unwrap();
        ledger.reign(2, at(0, 0)).unwrap();
        ledger.note(at(2, 3), 5);
        ledger.records.write_all_at(&[1], 3 + RECORD_BYTES as u64).unwrap();
        std::fs::write(&ledger.file, "{").unwrap();
        drop(ledger);
        let ledger = Ledger::open(folder.path(), path).unwrap();
        assert_eq!((ledger.lineage(), ledger.newest()), (vec![], None));
    }

    #[test]
    fn a_lineage_forgets_its_oldest_reigns() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(folder.path(), Path::new("/a.db")).unwrap();
        for epoch in 1..=200 {
            ledger.reign(epoch * 2, at(epoch * 2 - 2, epoch)).unwrap();
        }
        let lineage = ledger.lineage();
        assert_eq!((lineage.len(), lineage[REIGNS_MAX - 1].epoch), (REIGNS_MAX, 400));
    }
}
