//! The tables of an index, and every statement that touches them.

use super::folders::{Counts, Files, Id};
use crate::digest::{self, Digest};
use crate::entry::{Entry, Kind, Row, Stamp};
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use std::path::Path;
use std::time::Duration;

/// A name of a file that has several: inode and its birth, folder, name.
pub(super) type Linked = ((i64, i64), Id, Name);

/// Number of the layout below, kept in `user_version`.
const LAYOUT: i32 = 2;
/// Memory for pages of the database, in KiB.
const CACHE_KIB: u32 = 8 * 1024;
/// The log is cut to this after it was taken over into the database.
const LOG_BYTES: u32 = 4 * 1024 * 1024;
/// How long another process may keep the database for itself.
const BUSY: Duration = Duration::from_secs(1);

// `sum`, `entries`, `bytes` and `unshared` of a folder are of files and symlinks directly in it.
// They are written in the transaction in which these are.
const TABLES: &str = "
CREATE TABLE files (
  dir INTEGER NOT NULL, name BLOB NOT NULL, kind INTEGER NOT NULL, mode INTEGER NOT NULL,
  uid INTEGER NOT NULL, gid INTEGER NOT NULL, mtime INTEGER NOT NULL, size INTEGER NOT NULL,
  content BLOB NOT NULL, xattrs BLOB, linked INTEGER NOT NULL, ino INTEGER NOT NULL,
  btime INTEGER NOT NULL, ctime INTEGER NOT NULL, racy INTEGER NOT NULL, shared INTEGER NOT NULL,
  PRIMARY KEY (dir, name)) WITHOUT ROWID;
CREATE INDEX files_ino ON files (ino);
CREATE INDEX files_linked ON files (ino) WHERE linked = 1;
CREATE TABLE folders (
  id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name BLOB NOT NULL, mode INTEGER NOT NULL,
  uid INTEGER NOT NULL, gid INTEGER NOT NULL, mtime INTEGER NOT NULL, xattrs BLOB,
  ino INTEGER NOT NULL, btime INTEGER NOT NULL, racy INTEGER NOT NULL, shared INTEGER NOT NULL,
  sum BLOB NOT NULL, entries INTEGER NOT NULL, bytes INTEGER NOT NULL, unshared INTEGER NOT NULL);
CREATE TABLE notes (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
";

/// The columns that [`decode`] reads.
macro_rules! file_columns {
    () => {
        "kind, mode, uid, gid, mtime, size, content, xattrs, linked, ino, btime, ctime, racy, \
         shared"
    };
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The caller asked for what cannot be; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// The file is no index, not of this version, or not whole.
    #[error("{0}")]
    Damaged(String),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

impl Fault {
    /// Whether it is the content of the file that is at fault.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Fault::Refused(_) => false,
            Fault::Damaged(_) => true,
            Fault::Sqlite(error) => match error {
                rusqlite::Error::SqliteFailure(error, _) => matches!(
                    error.code,
                    ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::TypeMismatch
                ),
                rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::InvalidColumnType(..) => true,
                // The enum is not ours.
                _ => false,
            },
        }
    }
}

/// One name of a path.
type Name = Box<[u8]>;

/// A folder as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FolderRecord {
    pub id: Id,
    pub parent: Id,
    pub name: Name,
    pub row: Row,
    pub files: Files,
}

/// The database of one index.
pub(super) struct Store {
    pub(super) db: Connection,
}

impl Store {
    /// Opens it, and makes the tables in an empty one.
    pub(super) fn open(path: &Path) -> Result<Store, Fault> {
        let db = Connection::open(path)?;
        db.set_prepared_statement_cache_capacity(32);
        db.busy_timeout(BUSY)?;
        // Nobody else has business here: without shared memory a commit costs fewer calls.
        db.execute_batch(&format!(
            "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL;
             PRAGMA synchronous = NORMAL; PRAGMA cache_size = -{CACHE_KIB};
             PRAGMA journal_size_limit = {LOG_BYTES}; PRAGMA foreign_keys = OFF;"
        ))?;
        let number = |pragma| db.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
        let tables: u32 =
            db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        let found = (number("application_id")?, number("user_version")?);
        if tables == 0 && found == (0, 0) {
            db.execute_batch(&format!(
                "BEGIN IMMEDIATE; {TABLES} PRAGMA application_id = {};
                 PRAGMA user_version = {LAYOUT}; COMMIT;",
                kind_of_sums()
            ))?;
        } else if found != (kind_of_sums(), LAYOUT) {
            let text = "it is of another version of Staffetta, or of another program";
            return Err(Fault::Damaged(text.to_owned()));
        }
        Ok(Store { db })
    }

    pub(super) fn begin(&self) -> Result<(), Fault> {
        Ok(self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(|_| ())?)
    }

    pub(super) fn commit(&self) -> Result<(), Fault> {
        Ok(self.db.prepare_cached("COMMIT")?.execute([]).map(|_| ())?)
    }

    /// Undoes what was said since [`Store::begin`]. SQLite may have done so by itself.
    pub(super) fn roll_back(&self) -> Result<(), Fault> {
        if self.db.is_autocommit() { Ok(()) } else { Ok(self.db.execute_batch("ROLLBACK")?) }
    }

    pub(super) fn note(&self, key: &str) -> Result<Option<Vec<u8>>, Fault> {
        let mut select = self.db.prepare_cached("SELECT value FROM notes WHERE key = ?")?;
        Ok(select.query_row([key], |row| row.get(0)).optional()?)
    }

    pub(super) fn set_note(&self, key: &str, value: &[u8]) -> Result<(), Fault> {
        let sql = "INSERT OR REPLACE INTO notes VALUES (?, ?)";
        self.db.prepare_cached(sql)?.execute(params![key, value])?;
        Ok(())
    }

    pub(super) fn file(&self, dir: Id, name: &[u8]) -> Result<Option<Row>, Fault> {
        let sql = concat!("SELECT ", file_columns!(), " FROM files WHERE dir = ? AND name = ?");
        let mut select = self.db.prepare_cached(sql)?;
        let mut rows = select.query(params![dir, name])?;
        rows.next()?.map(|row| decode(row, 0)).transpose()
    }

    pub(super) fn set_file(&self, dir: Id, name: &[u8], row: &Row) -> Result<(), Fault> {
        let Row { entry, stamp, racy, shared } = row;
        let sql = "INSERT OR REPLACE INTO files (dir, name, kind, mode, uid, gid, mtime, size, \
                   content, xattrs, linked, ino, btime, ctime, racy, shared) \
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        self.db.prepare_cached(sql)?.execute(params![
            dir,
            name,
            entry.kind as u8,
            entry.mode,
            entry.uid,
            entry.gid,
            entry.mtime_ns,
            entry.size.cast_signed(),
            entry.content.0,
            blob(&entry.xattrs),
            entry.linked,
            stamp.ino.cast_signed(),
            stamp.btime_ns,
            stamp.ctime_ns,
            racy,
            shared,
        ])?;
        Ok(())
    }

    pub(super) fn remove_file(&self, dir: Id, name: &[u8]) -> Result<(), Fault> {
        let sql = "DELETE FROM files WHERE dir = ? AND name = ?";
        self.db.prepare_cached(sql)?.execute(params![dir, name])?;
        Ok(())
    }

    /// Removes all that are directly in the folder.
    pub(super) fn remove_files(&self, dir: Id) -> Result<(), Fault> {
        self.db.prepare_cached("DELETE FROM files WHERE dir = ?")?.execute([dir])?;
        Ok(())
    }

    /// Marks all that are directly in the folder.
    pub(super) fn share_files(&self, dir: Id) -> Result<(), Fault> {
        let sql = "UPDATE files SET shared = 1 WHERE dir = ? AND shared = 0";
        self.db.prepare_cached(sql)?.execute([dir])?;
        Ok(())
    }

    /// All that are directly in the folder, sorted by their names.
    pub(super) fn files(&self, dir: Id) -> Result<Vec<(Name, Row)>, Fault> {
        let sql =
            concat!("SELECT name, ", file_columns!(), " FROM files WHERE dir = ? ORDER BY name");
        let mut select = self.db.prepare_cached(sql)?;
        let mut rows = select.query([dir])?;
        let mut files = Vec::new();
        while let Some(row) = rows.next()? {
            files.push((name(row, 0)?, decode(row, 1)?));
        }
        Ok(files)
    }

    /// Names of at most so many that are directly in the folder and are not shared.
    pub(super) fn unshared(&self, dir: Id, max: usize) -> Result<Vec<Name>, Fault> {
        let sql = "SELECT name FROM files WHERE dir = ? AND shared = 0 ORDER BY name LIMIT ?";
        let mut select = self.db.prepare_cached(sql)?;
        let mut rows = select.query(params![dir, max as i64])?;
        let mut names = Vec::new();
        while let Some(row) = rows.next()? {
            names.push(name(row, 0)?);
        }
        Ok(names)
    }

    /// At most so many that have this inode: folders that they are in, and their names.
    pub(super) fn by_inode(&self, ino: u64, max: usize) -> Result<Vec<(Id, Name)>, Fault> {
        let sql = "SELECT dir, name FROM files WHERE ino = ? LIMIT ?";
        let mut select = self.db.prepare_cached(sql)?;
        let mut rows = select.query(params![ino.cast_signed(), max as i64])?;
        let mut files = Vec::new();
        while let Some(row) = rows.next()? {
            files.push((row.get(0)?, name(row, 1)?));
        }
        Ok(files)
    }

    /// All names of files that have several, with inode and its birth, names of one file together.
    pub(super) fn linked(&self) -> Result<Vec<Linked>, Fault> {
        let sql = "SELECT ino, btime, dir, name FROM files WHERE linked = 1 ORDER BY ino, btime";
        let mut select = self.db.prepare_cached(sql)?;
        let mut rows = select.query([])?;
        let mut files = Vec::new();
        while let Some(row) = rows.next()? {
            files.push(((row.get(0)?, row.get(1)?), row.get(2)?, name(row, 3)?));
        }
        Ok(files)
    }

    pub(super) fn folders(&self) -> Result<Vec<FolderRecord>, Fault> {
        let count: i64 = self.db.query_row("SELECT count(*) FROM folders", [], |r| r.get(0))?;
        let mut select = self.db.prepare(
            "SELECT id, parent, name, mode, uid, gid, mtime, xattrs, ino, btime, racy, shared, \
             sum, entries, bytes, unshared FROM folders ORDER BY id",
        )?;
        let mut rows = select.query([])?;
        let mut folders = Vec::with_capacity(count as usize);
        while let Some(row) = rows.next()? {
            folders.push(decode_folder(row)?);
        }
        Ok(folders)
    }

    pub(super) fn set_folder(&self, record: &FolderRecord) -> Result<(), Fault> {
        let FolderRecord { id, parent, name, row, files } = record;
        let sql = "INSERT OR REPLACE INTO folders (id, parent, name, mode, uid, gid, mtime, \
                   xattrs, ino, btime, racy, shared, sum, entries, bytes, unshared) \
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        self.db.prepare_cached(sql)?.execute(params![
            id,
            parent,
            &**name,
            row.entry.mode,
            row.entry.uid,
            row.entry.gid,
            row.entry.mtime_ns,
            blob(&row.entry.xattrs),
            row.stamp.ino.cast_signed(),
            row.stamp.btime_ns,
            row.racy,
            row.shared,
            files.sum.to_le_bytes(),
            files.counts.entries.cast_signed(),
            files.counts.bytes.cast_signed(),
            files.counts.unshared.cast_signed(),
        ])?;
        Ok(())
    }

    pub(super) fn remove_folder(&self, id: Id) -> Result<(), Fault> {
        self.db.prepare_cached("DELETE FROM folders WHERE id = ?")?.execute([id])?;
        Ok(())
    }
}

/// Sums are kept: one of a version that makes other sums of the same entries is of no use.
fn kind_of_sums() -> i32 {
    let entry = Entry {
        kind: Kind::File,
        mode: 0o4751,
        uid: 1,
        gid: 2,
        mtime_ns: -3,
        size: 4,
        content: digest::content(b"sums"),
        xattrs: digest::content(b"xattrs"),
        linked: true,
    };
    // Not zero, which is what an empty database has.
    (entry.sum(b"name", 5) as i32) | 1
}

/// Most have none.
fn blob(xattrs: &Digest) -> Option<[u8; 32]> {
    (*xattrs != Digest::default()).then_some(xattrs.0)
}

fn name(row: &rusqlite::Row<'_>, at: usize) -> Result<Name, Fault> {
    Ok(row.get_ref(at)?.as_blob().map_err(rusqlite::Error::from)?.into())
}

/// A row of `files` whose `file_columns` begin there.
fn decode(row: &rusqlite::Row<'_>, at: usize) -> Result<Row, Fault> {
    let kind = match row.get::<_, i64>(at)? {
        0 => Kind::File,
        2 => Kind::Symlink,
        other => return Err(Fault::Damaged(format!("a file of kind {other}"))),
    };
    let entry = Entry {
        kind,
        mode: row.get(at + 1)?,
        uid: row.get(at + 2)?,
        gid: row.get(at + 3)?,
        mtime_ns: row.get(at + 4)?,
        size: row.get::<_, i64>(at + 5)?.cast_unsigned(),
        content: Digest(row.get(at + 6)?),
        xattrs: Digest(row.get::<_, Option<[u8; 32]>>(at + 7)?.unwrap_or_default()),
        linked: row.get(at + 8)?,
    };
    let ino = row.get::<_, i64>(at + 9)?.cast_unsigned();
    let stamp = Stamp { ino, btime_ns: row.get(at + 10)?, ctime_ns: row.get(at + 11)? };
    Ok(Row { entry, stamp, racy: row.get(at + 12)?, shared: row.get(at + 13)? })
}

fn decode_folder(row: &rusqlite::Row<'_>) -> Result<FolderRecord, Fault> {
    let entry = Entry {
        kind: Kind::Dir,
        mode: row.get(3)?,
        uid: row.get(4)?,
        gid: row.get(5)?,
        mtime_ns: row.get(6)?,
        size: 0,
        content: Digest::default(),
        xattrs: Digest(row.get::<_, Option<[u8; 32]>>(7)?.unwrap_or_default()),
        linked: false,
    };
    let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
    let stamp = Stamp { ino: number(8)?, btime_ns: row.get(9)?, ctime_ns: 0 };
    let counts = Counts { entries: number(13)?, bytes: number(14)?, unshared: number(15)? };
    Ok(FolderRecord {
        id: row.get(0)?,
        parent: row.get(1)?,
        name: name(row, 2)?,
        row: Row { entry, stamp, racy: row.get(10)?, shared: row.get(11)? },
        files: Files { sum: u128::from_le_bytes(row.get(12)?), counts },
    })
}
