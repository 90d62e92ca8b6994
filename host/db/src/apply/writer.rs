//! The applier's connection: it writes pages and runs nothing else.
//!
//! Its statements are prepared once for its life. SQLite prepares them anew by itself when the
//! schema of the copy has changed.

use std::ffi::{CStr, c_int};
use std::path::Path;

use rusqlite::{Connection, ffi};

use super::{Durability, FENCE_WAIT};
use crate::attach::no_lookaside;
use crate::fence::Pass;

/// Memory for pages of an open transaction; what does not fit goes to the WAL, where no reader
/// looks before the commit.
const CACHE_KIB: u32 = 16 * 1024;

/// The connection with its statements.
#[derive(Debug)]
pub(super) struct Writer {
    // Statements first: finalized before the connection is closed.
    begin: Statement,
    page: Statement,
    end: Statement,
    commit: Statement,
    rollback: Statement,
    schema: Statement,
    connection: Connection,
}

impl Writer {
    pub(super) fn connect(
        pass: &Pass,
        path: &Path,
        durability: Durability,
    ) -> rusqlite::Result<Writer> {
        let connection = pass.connect(path)?;
        no_lookaside(&connection);
        connection.busy_timeout(FENCE_WAIT)?;
        let synchronous = match durability {
            Durability::Applied => "NORMAL",
            Durability::Durable => "FULL",
        };
        connection.execute_batch(&format!(
            "PRAGMA wal_autocheckpoint=0; PRAGMA synchronous={synchronous}; \
             PRAGMA cache_size=-{CACHE_KIB}; PRAGMA cache_spill=ON; PRAGMA mmap_size=0"
        ))?;
        let prepare = |sql| Statement::prepare(&connection, sql);
        let writer = Writer {
            begin: prepare(c"BEGIN IMMEDIATE")?,
            page: prepare(c"INSERT INTO sqlite_dbpage(pgno, data) VALUES (?1, ?2)")?,
            end: prepare(c"INSERT INTO sqlite_dbpage(pgno, data) VALUES (?1, NULL)")?,
            commit: prepare(c"COMMIT")?,
            rollback: prepare(c"ROLLBACK")?,
            schema: prepare(c"SELECT 1 FROM sqlite_schema LIMIT 0")?,
            connection,
        };
        writer.read_schema();
        Ok(writer)
    }

    pub(super) fn begin(&self) -> rusqlite::Result<()> {
        self.begin.run(&self.connection, None, None)
    }

    pub(super) fn page(&self, number: u32, bytes: &[u8]) -> rusqlite::Result<()> {
        self.page.run(&self.connection, Some(number.into()), Some(bytes))
    }

    /// Cuts the file from this page on.
    pub(super) fn end(&self, number: i64) -> rusqlite::Result<()> {
        self.end.run(&self.connection, Some(number), None)
    }

    pub(super) fn commit(&self) -> rusqlite::Result<()> {
        self.commit.run(&self.connection, None, None)
    }

    /// SQLite has rolled back by itself after some errors.
    pub(super) fn rollback(&self) -> rusqlite::Result<()> {
        if self.connection.is_autocommit() {
            return Ok(());
        }
        self.rollback.run(&self.connection, None, None)
    }

    /// Whether the copy frees its pages at each commit.
    pub(super) fn auto_vacuum_full(&self) -> rusqlite::Result<bool> {
        let mode: u32 = self.connection.query_row("PRAGMA auto_vacuum", [], |row| row.get(0))?;
        Ok(mode == 1)
    }

    /// Keeps SQLite from moving pages in the open transaction's COMMIT, as it would in a copy that
    /// frees its pages at each commit, when the page 1 that comes lists free pages: that of a
    /// database which was vacuumed into another mode does. Preparing this, without a step, sets a
    /// flag of the b-tree, until the next transaction reads page 1 again.
    pub(super) fn hold_vacuum(&self) -> rusqlite::Result<()> {
        self.connection.prepare("PRAGMA main.auto_vacuum=INCREMENTAL").map(drop)
    }

    /// Reads the schema, if its cookie changed, now and not within the next transaction: the pages
    /// that it is read from would be parsed before that transaction replaces them. When a schema
    /// cannot be read, the next transaction says so.
    pub(super) fn read_schema(&self) {
        if let Err(error) = self.schema.run(&self.connection, None, None) {
            tracing::debug!(%error, "the schema of a copy cannot be read");
        }
        self.forget_pages();
    }

    /// Gives back the memory of a cache that nothing needs; for quiet times.
    pub(super) fn trim(&self) {
        // SAFETY: the handle is open.
        unsafe {
            ffi::sqlite3_db_release_memory(self.connection.handle());
        }
    }

    /// The b-tree layer keeps what it parsed of pages; it did not see them change.
    pub(super) fn forget_pages(&self) {
        let mut unused: c_int = 0;
        // SAFETY: the handle is open; SQLITE_FCNTL_RESET_CACHE ignores its argument.
        unsafe {
            ffi::sqlite3_file_control(
                self.connection.handle(),
                c"main".as_ptr(),
                ffi::SQLITE_FCNTL_RESET_CACHE,
                (&raw mut unused).cast(),
            );
        }
    }
}

/// A prepared statement that lives beside its connection. Its first parameter, if any, is a number
/// and its second the content of a page.
#[derive(Debug)]
struct Statement(*mut ffi::sqlite3_stmt);

// SAFETY: a statement may be used on any thread, as long as it is one at a time: a writer is not
// Sync, and owns both its statements and their connection.
unsafe impl Send for Statement {}

impl Statement {
    fn prepare(connection: &Connection, sql: &CStr) -> rusqlite::Result<Statement> {
        let mut statement = std::ptr::null_mut();
        // SAFETY: the handle is open, the text ends with a zero, the tail is not wanted.
        let code = unsafe {
            ffi::sqlite3_prepare_v3(
                connection.handle(),
                sql.as_ptr(),
                -1,
                ffi::SQLITE_PREPARE_PERSISTENT,
                &raw mut statement,
                std::ptr::null_mut(),
            )
        };
        answer(connection, code)?;
        Ok(Statement(statement))
    }

    fn run(
        &self,
        connection: &Connection,
        number: Option<i64>,
        page: Option<&[u8]>,
    ) -> rusqlite::Result<()> {
        // SAFETY: the statement belongs to the open connection; the page outlives the call, and is
        // unbound before it ends.
        unsafe {
            if let Some(number) = number {
                answer(connection, ffi::sqlite3_bind_int64(self.0, 1, number))?;
            }
            if let Some(page) = page {
                let bytes = c_int::try_from(page.len()).expect("a page is 64 KiB at most");
                let at = page.as_ptr().cast();
                let code = ffi::sqlite3_bind_blob(self.0, 2, at, bytes, ffi::SQLITE_STATIC());
                answer(connection, code)?;
            }
            let code = ffi::sqlite3_step(self.0);
            let done = if code == ffi::SQLITE_DONE { Ok(()) } else { answer(connection, code) };
            ffi::sqlite3_reset(self.0);
            ffi::sqlite3_clear_bindings(self.0);
            done
        }
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        // SAFETY: prepared once, finalized once, before the connection is closed.
        unsafe {
            ffi::sqlite3_finalize(self.0);
        }
    }
}

/// SQLite's answer with what it says about it.
fn answer(connection: &Connection, code: c_int) -> rusqlite::Result<()> {
    if code == ffi::SQLITE_OK {
        return Ok(());
    }
    // SAFETY: the handle is open; the text is copied before anything else is called on it.
    let message = unsafe { CStr::from_ptr(ffi::sqlite3_errmsg(connection.handle())) };
    let message = message.to_string_lossy().into_owned();
    Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(message)))
}
