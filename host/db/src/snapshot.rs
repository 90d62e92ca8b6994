//! The pages of a database as one moment had them, while everybody goes on writing.
//!
//! A read transaction of an own connection keeps the moment; the pages are read past SQLite, which
//! is several times as fast: from
//! the database file, except for those whose newest image is still in
//! the WAL. That is right because a checkpoint moves no frame that is newer than an open reader.

use crate::attach::{Attached, Files, connect};
use crate::frames::{self, FRAME_HEADER_BYTES};
use crate::index::Index;
use crate::trail::CaptureError;
use rusqlite::Connection;
use std::collections::HashMap;
use std::io;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Pages are read in pieces of this size.
const READ_BYTES: usize = 1 << 20;
/// The byte by whose page SQLite locks; no content ever stands there.
const LOCK_BYTE: u32 = 0x4000_0000;
/// How long the read transaction is tried for: readers wait for recovery only.
const BUSY_WAIT: Duration = Duration::from_millis(100);

/// The page that holds no content, in a database of such pages.
#[must_use]
pub fn lock_page(page_bytes: u32) -> u32 {
    LOCK_BYTE / page_bytes + 1
}

/// A moment of a database. Readers keep a WAL from beginning anew: not to be held for long.
#[derive(Debug)]
pub struct Snapshot {
    // Before the descriptors.
    connection: Connection,
    path: PathBuf,
    page_bytes: u32,
    pages_total: u32,
    salt: [u8; 8],
    /// The frame of each page whose image is not in the database file.
    overlay: HashMap<u32, u32>,
    pub(crate) files: Arc<Files>,
}

impl Snapshot {
    pub(crate) fn connect(attached: &Attached) -> Result<Snapshot, CaptureError> {
        let path = attached.path();
        let connection = connect(path, BUSY_WAIT).map_err(|source| refused(path.into(), source))?;
        let files = attached.files().clone();
        Ok(Snapshot::of(connection, path.to_owned(), attached.page_bytes(), files))
    }

    pub(crate) fn of(
        connection: Connection,
        path: PathBuf,
        page_bytes: u32,
        files: Arc<Files>,
    ) -> Snapshot {
        let (salt, overlay) = ([0; 8], HashMap::new());
        Snapshot { connection, path, page_bytes, pages_total: 0, salt, overlay, files }
    }

    /// Opens the read transaction.
    pub(crate) fn begin(&mut self) -> Result<(), CaptureError> {
        let begun = self
            .connection
            .execute_batch("BEGIN")
            .and_then(|()| self.connection.query_row("PRAGMA schema_version", [], |_| Ok(())));
        if begun.is_err() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        begun.map_err(|source| refused(self.path.clone(), source))
    }

    /// Ends the read transaction.
    pub(crate) fn end(&mut self) -> Result<(), CaptureError> {
        let ended = self.connection.execute_batch("ROLLBACK");
        ended.map_err(|source| refused(self.path.clone(), source))
    }

    /// The read transaction has this header. What the database file holds of it, of its own or
    /// moved there, is read there; nobody moves anything newer while the transaction is open.
    pub(crate) fn fix(&mut self, index: &Index, backfilled: u32) -> Result<(), CaptureError> {
        self.salt = index.salt;
        self.overlay.clear();
        self.pages_total = match index.pages {
            0 => self.pages_of_file()?,
            pages => pages,
        };
        let mut header = [0; FRAME_HEADER_BYTES];
        for frame in backfilled + 1..=index.frames {
            self.read_frame(&mut header, frame, 0)?;
            if frames::salt(&header) != index.salt {
                let error = io::Error::other("a frame of the WAL is not of the generation it says");
                return Err(self.failed(error));
            }
            self.overlay.insert(frames::head(&header).page, frame);
        }
        Ok(())
    }

    /// Pages of a database whose WAL says nothing about it.
    pub(crate) fn fix_file(&mut self, page_bytes: u32) -> Result<(), CaptureError> {
        self.page_bytes = page_bytes;
        self.overlay.clear();
        self.pages_total = self.pages_of_file()?;
        Ok(())
    }

    fn pages_of_file(&self) -> Result<u32, CaptureError> {
        let bytes = self.files.database.metadata().map_err(|source| self.failed(source))?.len();
        Ok(u32::try_from(bytes / u64::from(self.page_bytes)).unwrap_or(u32::MAX))
    }

    /// Pages of the database.
    #[must_use]
    pub fn pages_total(&self) -> u32 {
        self.pages_total
    }

    /// The database's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of a page.
    #[must_use]
    pub fn page_bytes(&self) -> u32 {
        self.page_bytes
    }

    /// Reads the pages of a range, numbered from 1, in ascending order, without the one that holds
    /// no content, until the visitor has enough.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn for_each(
        &self,
        pages: Range<u32>,
        mut visit: impl FnMut(u32, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), CaptureError> {
        let page_bytes = self.page_bytes as usize;
        let piece = u32::try_from((READ_BYTES / page_bytes).max(1)).unwrap_or(1);
        let end = pages.end.min(self.pages_total.saturating_add(1));
        let mut buffer = Vec::new();
        let mut first = pages.start.max(1);
        while first < end {
            let count = piece.min(end - first);
            buffer.resize(count as usize * page_bytes, 0);
            self.read_database(&mut buffer, first)?;
            for (number, page) in (first..).zip(buffer.chunks_exact_mut(page_bytes)) {
                if number == lock_page(self.page_bytes) {
                    continue;
                }
                if let Some(frame) = self.overlay.get(&number) {
                    self.read_frame(page, *frame, FRAME_HEADER_BYTES as u64)?;
                }
                if visit(number, page).is_break() {
                    return Ok(());
                }
            }
            first += count;
        }
        Ok(())
    }

    /// Reads one page into a buffer, which gets its size; false for a page that does not exist or
    /// holds no content.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn page(&self, number: u32, buffer: &mut Vec<u8>) -> Result<bool, CaptureError> {
        if number == 0 || number > self.pages_total || number == lock_page(self.page_bytes) {
            return Ok(false);
        }
        buffer.resize(self.page_bytes as usize, 0);
        match self.overlay.get(&number) {
            Some(frame) => self.read_frame(buffer, *frame, FRAME_HEADER_BYTES as u64)?,
            None => self.read_database(buffer, number)?,
        }
        Ok(true)
    }

    /// What lies beyond the end of the file reads as zeros, as it does for SQLite: those pages are
    /// in the WAL.
    fn read_database(&self, buffer: &mut [u8], first: u32) -> Result<(), CaptureError> {
        let mut at = (u64::from(first) - 1) * u64::from(self.page_bytes);
        let mut rest = buffer;
        while !rest.is_empty() {
            match self.files.database.read_at(rest, at) {
                Ok(0) => {
                    rest.fill(0);
                    return Ok(());
                }
                Ok(read) => {
                    at += read as u64;
                    rest = &mut rest[read..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    fn read_frame(&self, buffer: &mut [u8], frame: u32, skip: u64) -> Result<(), CaptureError> {
        let Some(log) = &self.files.log else { return Ok(()) };
        let at = frames::offset(frame, self.page_bytes) + skip;
        log.wal.read_exact_at(buffer, at).map_err(|source| self.failed(source))
    }

    pub(crate) fn failed(&self, source: io::Error) -> CaptureError {
        CaptureError::File { path: self.path.clone(), source }
    }
}

fn refused(path: PathBuf, source: rusqlite::Error) -> CaptureError {
    CaptureError::Sqlite { path, source }
}
