//! One database of somebody else's, open in this process: the descriptors and the connection that
//! everything else borrows.
//!
//! POSIX locks belong to process and inode: closing *any* descriptor on the database or its `-shm`
//! drops the locks of every connection in the process. So they are opened here, once for each
//! database, shared, and closed after the last connection.

use rusqlite::{Connection, OpenFlags, ffi};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long an opening waits for a lock of an application.
const BUSY_WAIT: Duration = Duration::from_secs(10);

/// A database that is open and in WAL mode.
#[derive(Debug)]
pub struct Attached {
    /// Keeps WAL and WAL-index in being, and journal mode as it is. First in the struct: dropped
    /// before the descriptors.
    keeper: Connection,
    path: PathBuf,
    page_bytes: u32,
    identity: (u64, u64),
    database: File,
    wal: File,
    shm: File,
}

/// Why a database cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A file of it cannot be opened.
    #[error("cannot open {path}: {source} (does it exist, and may root read and write it?)")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// SQLite refuses.
    #[error("cannot open database {path}: {source}")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// SQLite's answer.
        #[source]
        source: rusqlite::Error,
    },
    /// It stays in another journal mode.
    #[error(
        "database {path} stays in journal mode \"{mode}\": is another program in it with an old \
         journal, in exclusive locking mode, or on a network file system? Stop that program for a \
         moment, or follow it with `journal = \"keep\"`"
    )]
    NotWal {
        /// The database.
        path: PathBuf,
        /// The mode it is in.
        mode: String,
    },
    /// This build has no page-level access.
    #[error("this build of SQLite lacks sqlite_dbpage: build inside the repository")]
    NoPages,
}

impl Attached {
    /// Opens a database, which must exist, and turns it to WAL.
    ///
    /// # Errors
    /// When a file or SQLite refuses; names it and the remedy.
    pub fn open(path: &Path) -> Result<Attached, AttachError> {
        let file = |path: &Path, source| AttachError::File { path: path.to_owned(), source };
        // SQLite resolves links before it names -wal and -shm.
        let path = path.canonicalize().map_err(|source| file(path, source))?;
        let sqlite = |source| AttachError::Sqlite { path: path.clone(), source };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let keeper = Connection::open_with_flags(&path, flags).map_err(sqlite)?;
        keeper.busy_timeout(BUSY_WAIT).map_err(sqlite)?;
        if keeper.query_row("SELECT count(*) FROM sqlite_dbpage LIMIT 0", [], |_| Ok(())).is_err() {
            return Err(AttachError::NoPages);
        }
        let mode: String =
            keeper.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0)).map_err(sqlite)?;
        if mode != "wal" {
            return Err(AttachError::NotWal { path, mode });
        }
        keeper
            .execute_batch("PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=NORMAL")
            .map_err(sqlite)?;
        keep_wal(&keeper);
        // The first read makes the WAL-index.
        keeper.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(sqlite)?;
        let page_bytes =
            keeper.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(sqlite)?;
        let open = |path: &Path, write: bool| {
            File::options().read(true).write(write).open(path).map_err(|source| file(path, source))
        };
        let database = open(&path, false)?;
        let found = database.metadata().map_err(|source| file(&path, source))?;
        let wal = open(&beside(&path, "-wal"), false)?;
        let shm = open(&beside(&path, "-shm"), true)?;
        let identity = (found.dev(), found.ino());
        Ok(Attached { keeper, path, page_bytes, identity, database, wal, shm })
    }

    /// The database's path, links resolved.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of a page, 512 to 65536.
    #[must_use]
    pub fn page_bytes(&self) -> u32 {
        self.page_bytes
    }

    /// Whether the path now leads to another file: renamed over, removed, restored from a backup.
    #[must_use]
    pub fn replaced(&self) -> bool {
        match std::fs::metadata(&self.path) {
            Ok(found) => (found.dev(), found.ino()) != self.identity,
            Err(_) => true,
        }
    }

    /// The connection that keeps the WAL in being.
    pub(crate) fn keeper(&self) -> &Connection {
        &self.keeper
    }

    /// The database file. Never opened a second time: see the head of this module.
    pub(crate) fn database(&self) -> &File {
        &self.database
    }

    /// The write-ahead log.
    pub(crate) fn wal(&self) -> &File {
        &self.wal
    }

    /// The WAL-index.
    pub(crate) fn shm(&self) -> &File {
        &self.shm
    }
}

/// The WAL stays when the last connection closes, and nobody checkpoints it then: the daemon's own
/// end must not change what its next life reads.
fn keep_wal(connection: &Connection) {
    let mut on: std::ffi::c_int = 1;
    // SAFETY: the handle is open; both calls take an int by address or by value, as documented in
    // sqlite3.h for SQLITE_FCNTL_PERSIST_WAL and SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE.
    unsafe {
        ffi::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_PERSIST_WAL,
            (&raw mut on).cast(),
        );
        ffi::sqlite3_db_config(
            connection.handle(),
            ffi::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
            1 as std::ffi::c_int,
            std::ptr::null_mut::<std::ffi::c_int>(),
        );
    }
}

/// The file that SQLite keeps beside a database: the name with a suffix.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
