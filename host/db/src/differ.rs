//! Capture of a database that keeps its rollback journal, by comparing hashes of its pages.
//!
//! Promises: `Changes` leads from one committed state to a later one; transactions in between are
//! not told apart. Writers wait while pages are read: at most a fifth of the time. A reading costs
//! the whole database, in a thread of its own; WAL mode is better whenever the application allows.

use crate::attach::{AttachedAsIs, Files, connect};
use crate::changes::Changes;
use crate::hash::{page_hash, said_page_bytes};
use crate::pages::Image;
use crate::snapshot::Snapshot;
use crate::table::Table;
use crate::trail::{CaptureError, Drained, LostTrail};
use rusqlite::Connection;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two looks at whether anybody committed.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// Between two looks at which file the path leads to.
const FILES_INTERVAL: Duration = Duration::from_secs(1);
/// Pauses for each time that writers had to wait, so that they wait a fifth of the time.
const PAUSES_PER_SCAN: u32 = 4;
/// Pause after a reading that could not be: a writer was at the file for all its time.
const PAUSE_FAILED: Duration = Duration::from_millis(500);
/// How long a reading waits for a writer that is at the file.
const BUSY_WAIT: Duration = Duration::from_secs(2);
/// What stands in the header of a database in WAL mode.
const FORMAT_WAL: u8 = 2;

/// Follows one database by the hashes of its pages.
#[derive(Debug)]
pub struct Differ {
    // Before the files that it borrows.
    scan: Scan,
    attached: Rc<AttachedAsIs>,
    /// What `PRAGMA data_version` said before the last reading.
    version: Option<i64>,
    lost: Option<LostTrail>,
    writers_held: bool,
    look_after: Instant,
    scan_after: Instant,
    files_after: Instant,
    scans: u64,
    /// The last look found nothing.
    idle: bool,
}

/// A reading under way, or what the next one needs.
#[derive(Debug)]
enum Scan {
    Idle(Box<Reader>),
    Running(JoinHandle<(Box<Reader>, Result<Found, ScanError>)>),
    /// Nothing was read yet; what the pages hashed to at the beginning.
    Begun(Table),
    /// Between the two, and after a thread that could not begin.
    Absent,
}

/// A connection and what its last reading found.
#[derive(Debug)]
struct Reader {
    snapshot: Snapshot,
    table: Table,
}

#[derive(Debug)]
struct Found {
    images: Vec<(u32, Option<Image>)>,
    pages_total: u32,
    resized: bool,
    took: Duration,
}

#[derive(Debug)]
enum ScanError {
    Lost(LostTrail),
    Failed(CaptureError),
}

impl From<CaptureError> for ScanError {
    fn from(error: CaptureError) -> ScanError {
        ScanError::Failed(error)
    }
}

impl Differ {
    /// Begins at the committed state, which is read as a whole.
    ///
    /// # Errors
    /// When the files or SQLite refuse.
    pub fn start(attached: Rc<AttachedAsIs>) -> Result<Differ, CaptureError> {
        let mut differ = Differ::begin_with(attached, Scan::Absent, false)?;
        differ.restart()?;
        Ok(differ)
    }

    /// Begins at the state that this table is of, with or without writers held on the connection
    /// of `attached`: what was committed since, and later, is found, whenever that was.
    pub(crate) fn start_at(
        attached: Rc<AttachedAsIs>,
        table: &Table,
        writers_held: bool,
    ) -> Result<Differ, CaptureError> {
        let mut differ = Differ::begin_with(attached, Scan::Begun(table.clone()), writers_held)?;
        if writers_held {
            // Of this very state. A connection for readings can only be had when they go on.
            differ.version = differ.version_now();
        }
        Ok(differ)
    }

    fn begin_with(
        attached: Rc<AttachedAsIs>,
        scan: Scan,
        writers_held: bool,
    ) -> Result<Differ, CaptureError> {
        let now = Instant::now();
        let differ = Differ {
            scan,
            attached,
            version: None,
            lost: None,
            writers_held,
            look_after: now,
            scan_after: now,
            files_after: now + FILES_INTERVAL,
            scans: 0,
            idle: false,
        };
        // Should this fail, its end lets writers go.
        let keeper = &differ.attached.keeper;
        let timeout = keeper.busy_timeout(Duration::ZERO);
        timeout.map_err(|source| refused(&differ.attached, source))?;
        Ok(differ)
    }

    /// What the pages hashed to when they were read last; none while they are being read.
    pub(crate) fn table(&self) -> Option<Table> {
        let Scan::Idle(reader) = &self.scan else { return None };
        Some(reader.table.clone())
    }

    /// Whether nothing was committed that is not captured, as far as the last look told.
    pub(crate) fn is_idle(&self) -> bool {
        self.idle
    }

    /// Ends without letting writers go: whoever gets the database has them held, if they were.
    pub(crate) fn stop_held(mut self) -> Rc<AttachedAsIs> {
        self.join();
        self.scan = Scan::Absent;
        self.writers_held = false;
        Rc::clone(&self.attached)
    }

    /// The database.
    #[must_use]
    pub fn attached(&self) -> &Rc<AttachedAsIs> {
        &self.attached
    }

    /// Readings of the whole database so far.
    #[must_use]
    pub fn scans(&self) -> u64 {
        self.scans
    }

    /// Begins anew at the committed state; what lies between is for a resync to find.
    ///
    /// # Errors
    /// When the database is another one now, or the files or SQLite refuse.
    pub fn restart(&mut self) -> Result<(), CaptureError> {
        if self.attached.replaced() {
            return Err(CaptureError::Replaced { path: self.attached.path.clone() });
        }
        self.join();
        let table = Table::new(self.attached.page_bytes);
        let mut reader = Box::new(Reader { snapshot: self.connect()?, table });
        self.version = self.version_now();
        match reader.scan(0, self.attached.page_bytes) {
            Ok(_) => {}
            Err(ScanError::Failed(error)) => return Err(error),
            Err(ScanError::Lost(_)) => {
                return Err(CaptureError::Replaced { path: self.attached.path.clone() });
            }
        }
        self.scans += 1;
        self.scan = Scan::Idle(reader);
        self.lost = None;
        Ok(())
    }

    /// Captures what was committed. `More`: a reading is under way or due, come again at
    /// [`Differ::next_due`]. `Nothing`: everything committed before this call is captured.
    ///
    /// # Errors
    /// When the files or SQLite refuse.
    pub fn tend(&mut self, now: Instant, changes: &mut Changes) -> Result<Drained, CaptureError> {
        if let Some(lost) = self.lost {
            return Ok(Drained::Lost(lost));
        }
        if now >= self.files_after {
            self.files_after = now + FILES_INTERVAL;
            if self.attached.replaced() {
                return Ok(self.lose(LostTrail::Replaced, changes));
            }
        }
        self.look_after = now + LOOK_INTERVAL;
        self.idle = false;
        match &self.scan {
            Scan::Running(thread) if !thread.is_finished() => return Ok(Drained::More),
            Scan::Running(_) => return self.take(now, changes),
            Scan::Idle(_) | Scan::Begun(_) | Scan::Absent => {}
        }
        let version = self.version_now();
        if version.is_some() && version == self.version {
            self.idle = true;
            return Ok(Drained::Nothing);
        }
        if version.is_some() && (self.writers_held || now >= self.scan_after) {
            self.begin(version, changes.room_bytes())?;
        }
        Ok(Drained::More)
    }

    /// When [`Differ::tend`] has something to do.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        Some(self.look_after)
    }

    /// Keeps writers out, readers not: true when they are.
    ///
    /// # Errors
    /// When SQLite refuses for another reason than a writer.
    pub fn hold_writers(&mut self, wait: Duration) -> Result<bool, CaptureError> {
        if self.writers_held {
            return Ok(true);
        }
        let keeper = &self.attached.keeper;
        let set =
            |wait| keeper.busy_timeout(wait).map_err(|source| refused(&self.attached, source));
        set(wait)?;
        let held = keeper.execute_batch("BEGIN IMMEDIATE");
        set(Duration::ZERO)?;
        match held {
            Ok(()) => self.writers_held = true,
            Err(error) if is_busy(&error) => return Ok(false),
            Err(source) => return Err(refused(&self.attached, source)),
        }
        Ok(true)
    }

    /// Lets writers go on.
    ///
    /// # Errors
    /// When SQLite refuses.
    pub fn release_writers(&mut self) -> Result<(), CaptureError> {
        if std::mem::take(&mut self.writers_held) {
            let ended = self.attached.keeper.execute_batch("ROLLBACK");
            ended.map_err(|source| refused(&self.attached, source))?;
        }
        Ok(())
    }

    /// Whether writers are kept out.
    #[must_use]
    pub fn writers_held(&self) -> bool {
        self.writers_held
    }

    /// The committed state, with everything up to it in `changes`, and whether it continues what
    /// was captured before. Reads the whole database; writers cannot commit while it is open.
    ///
    /// # Errors
    /// When the files or SQLite refuse.
    pub fn snapshot(&mut self, changes: &mut Changes) -> Result<(Snapshot, bool), CaptureError> {
        let gapless = self.lost.is_none();
        if !gapless {
            self.restart()?;
            changes.clear();
        }
        let mut snapshot = self.connect()?;
        if matches!(self.scan, Scan::Running(_)) {
            self.take(Instant::now(), changes)?;
        }
        snapshot.begin()?;
        snapshot.fix_file(self.attached.page_bytes)?;
        let version = self.version_now();
        if version.is_none() || version != self.version {
            self.begin(version, changes.room_bytes())?;
            self.take(Instant::now(), changes)?;
        }
        if self.lost.is_some() {
            return Err(CaptureError::Replaced { path: self.attached.path.clone() });
        }
        Ok((snapshot, gapless))
    }

    fn connect(&self) -> Result<Snapshot, CaptureError> {
        let attached = &self.attached;
        let connection: Connection =
            connect(&attached.path, BUSY_WAIT).map_err(|source| refused(attached, source))?;
        let files: Arc<Files> = attached.files.clone();
        Ok(Snapshot::of(connection, attached.path.clone(), attached.page_bytes, files))
    }

    /// Changes whenever somebody else commits; None while somebody is about to.
    fn version_now(&self) -> Option<i64> {
        self.attached.keeper.query_row("PRAGMA data_version", [], |row| row.get(0)).ok()
    }

    fn begin(&mut self, version: Option<i64>, room_bytes: usize) -> Result<(), CaptureError> {
        let mut reader = match std::mem::replace(&mut self.scan, Scan::Absent) {
            Scan::Idle(reader) => reader,
            running @ Scan::Running(_) => {
                self.scan = running;
                return Ok(());
            }
            Scan::Begun(table) => match self.connect() {
                Ok(snapshot) => Box::new(Reader { snapshot, table }),
                Err(error) => {
                    self.scan = Scan::Begun(table);
                    return Err(error);
                }
            },
            // Its table went with the thread that could not begin.
            Scan::Absent => return self.restart(),
        };
        let page_bytes = self.attached.page_bytes;
        let work = move || {
            let found = reader.scan(room_bytes, page_bytes);
            (reader, found)
        };
        let builder = std::thread::Builder::new().name("page hashes".to_owned());
        let thread = builder.spawn(work).map_err(|source| self.failed(source))?;
        self.scan = Scan::Running(thread);
        self.version = version;
        self.scans += 1;
        Ok(())
    }

    fn join(&mut self) -> Option<Result<Found, ScanError>> {
        match std::mem::replace(&mut self.scan, Scan::Absent) {
            Scan::Running(thread) => {
                let (reader, found) = thread.join().expect("a reading does not panic");
                self.scan = Scan::Idle(reader);
                Some(found)
            }
            other @ (Scan::Idle(_) | Scan::Begun(_) | Scan::Absent) => {
                self.scan = other;
                None
            }
        }
    }

    /// Takes what a reading found.
    fn take(&mut self, now: Instant, changes: &mut Changes) -> Result<Drained, CaptureError> {
        let found = match self.join() {
            None => return Ok(Drained::Nothing),
            Some(Ok(found)) => found,
            Some(Err(ScanError::Lost(lost))) => return Ok(self.lose(lost, changes)),
            Some(Err(ScanError::Failed(error))) => {
                self.version = None;
                self.scan_after = now + PAUSE_FAILED;
                return match error {
                    // A writer was at the file for all that time.
                    CaptureError::Sqlite { source, .. } if is_busy(&source) => Ok(Drained::More),
                    error => Err(error),
                };
            }
        };
        self.scan_after = now + found.took * PAUSES_PER_SCAN;
        if found.images.is_empty() && !found.resized {
            return Ok(Drained::More);
        }
        let count = found.images.len() as u64;
        changes.commit(count, found.images.into_iter(), found.pages_total);
        Ok(Drained::Some)
    }

    fn lose(&mut self, lost: LostTrail, changes: &mut Changes) -> Drained {
        self.lost = Some(lost);
        changes.clear();
        Drained::Lost(lost)
    }

    fn failed(&self, source: io::Error) -> CaptureError {
        CaptureError::File { path: self.attached.path.clone(), source }
    }
}

impl Drop for Differ {
    fn drop(&mut self) {
        self.join();
        if let Err(error) = self.release_writers() {
            tracing::warn!(%error, "writers are kept out until the database is closed");
        }
    }
}

impl Reader {
    /// Reads everything under a shared lock. The table changes only when all was read.
    fn scan(&mut self, room_bytes: usize, page_bytes: u32) -> Result<Found, ScanError> {
        self.snapshot.begin()?;
        let began = Instant::now();
        let compared = self.compare(room_bytes, page_bytes);
        self.snapshot.end()?;
        let (images, hashes, pages_total) = compared?;
        let resized = pages_total != self.table.pages();
        for ((number, _), hash) in images.iter().zip(hashes) {
            self.table.set(*number, hash);
        }
        self.table.resize(pages_total);
        Ok(Found { images, pages_total, resized, took: began.elapsed() })
    }

    #[expect(clippy::type_complexity, reason = "said once, taken apart at once")]
    fn compare(
        &mut self,
        room_bytes: usize,
        page_bytes: u32,
    ) -> Result<(Vec<(u32, Option<Image>)>, Vec<u128>, u32), ScanError> {
        self.snapshot.check_file(page_bytes)?.map_err(ScanError::Lost)?;
        self.snapshot.fix_file(page_bytes)?;
        let (mut images, mut hashes, mut bytes) = (Vec::new(), Vec::new(), 0);
        let table = &self.table;
        self.snapshot.for_each(1..u32::MAX, |number, page| {
            let hash = page_hash(number, page);
            if table.hash(number) != Some(hash) {
                let keep = bytes + page.len() <= room_bytes;
                bytes += if keep { page.len() } else { 0 };
                images.push((number, keep.then(|| page.into())));
                hashes.push(hash);
            }
            ControlFlow::Continue(())
        })?;
        Ok((images, hashes, self.snapshot.pages_total()))
    }
}

impl Snapshot {
    /// Whether the file still is what it was attached as.
    fn check_file(&self, page_bytes: u32) -> Result<Result<(), LostTrail>, CaptureError> {
        let mut header = [0; 20];
        match self.files.database.read_exact_at(&mut header, 0) {
            Ok(()) => {}
            // Nobody wrote anything yet.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Ok(())),
            Err(source) => return Err(self.failed(source)),
        }
        Ok(match () {
            () if header[18] == FORMAT_WAL => Err(LostTrail::JournalMode),
            () if said_page_bytes(&header) != page_bytes => Err(LostTrail::PageSize),
            () => Ok(()),
        })
    }
}

fn refused(attached: &AttachedAsIs, source: rusqlite::Error) -> CaptureError {
    CaptureError::Sqlite { path: attached.path.clone(), source }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
}
