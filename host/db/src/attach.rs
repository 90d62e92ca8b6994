//! One database of somebody else's, open in this process: the descriptors and the connection that
//! everything else borrows.
//!
//! POSIX locks belong to process and inode: closing *any* descriptor on the database or its `-shm`
//! drops the locks of every connection in the process. So they are opened here, once for each
//! database, shared, and closed after the last connection.

use crate::lock::{self, LockByte, Mode};
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How long an opening waits for a lock of an application.
const BUSY_WAIT: Duration = Duration::from_secs(10);

/// How long, and with which pause, the journal mode of a database that is in use is asked for where
/// SQLite answers at once, whatever its busy timeout: to wait for one who is about to write, under
/// a lock that this one waits for, would be to wait for ever.
const WAL_WAIT: Duration = Duration::from_millis(200);
const WAL_PAUSE: Duration = Duration::from_millis(1);

/// Pages that the keeper's cache holds: it reads the schema, and nothing else. Fewer than three,
/// and SQLite takes no memory for pages in advance.
const KEEPER_PAGES: u32 = 2;

/// A database that is open and in WAL mode.
#[derive(Debug)]
pub struct Attached {
    /// Keeps WAL and WAL-index in being, and journal mode as it is. First in the struct: dropped
    /// before the descriptors.
    pub(crate) keeper: Connection,
    pub(crate) path: PathBuf,
    pub(crate) page_bytes: u32,
    pub(crate) identity: (u64, u64),
    pub(crate) files: Arc<Files>,
}

/// The descriptors. Whoever has a connection of its own to the database shares them and lets go of
/// them after that connection: closing one would drop the connection's locks.
#[derive(Debug)]
pub(crate) struct Files {
    /// The database file.
    pub(crate) database: File,
    /// None for a database that is followed as it is.
    pub(crate) log: Option<Log>,
}

impl Files {
    /// Removes WAL and WAL-index of a database that is not at its path any more: SQLite would take
    /// what is in them for changes of the file that is there now, and as long as this process had
    /// them open, nobody else removed them by closing.
    ///
    /// # Errors
    /// [`AttachError::FormerLog`] while somebody has the former file open, or the new one already.
    pub(crate) fn sweep(&self, path: &Path) -> Result<(), AttachError> {
        let [database, wal, shm] = self.same(path);
        let Some(log) = self.log.as_ref().filter(|_| !database && (wal || shm)) else {
            return Ok(());
        };
        let in_use = || Err(AttachError::FormerLog { path: path.to_owned() });
        if lock::held_by_others(&log.shm, LockByte::OPEN).map_err(|error| refused(path, error))? {
            return in_use();
        }
        // Whoever has the new file open has this byte locked for reading, and takes that lock
        // before anything else: until it is closed here nobody looks for a log.
        let file = match File::options().read(true).write(true).open(path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(refused(path, error)),
        };
        if let Some(file) = &file
            && !lock::set(file, LockByte::DATABASE_SHARED, Mode::Exclusive)
                .map_err(|error| refused(path, error))?
        {
            return in_use();
        }
        for (ours, suffix) in [(wal, "-wal"), (shm, "-shm")] {
            if ours {
                let file = beside(path, suffix);
                match std::fs::remove_file(&file) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(refused(&file, error));
                    }
                    Ok(()) | Err(_) => {}
                }
            }
        }
        Ok(())
    }

    /// The descriptors of an earlier opening, if somebody still has them and they are of the file
    /// that is at the path now.
    ///
    /// # Errors
    /// [`AttachError::InUse`] when only some of them are.
    fn again(
        path: &Path,
        before: &Weak<Files>,
        expected: [bool; 3],
    ) -> Result<Option<Arc<Files>>, AttachError> {
        let Some(files) = before.upgrade() else { return Ok(None) };
        match files.same(path) {
            same if same == expected => Ok(Some(files)),
            [false, false, false] => Ok(None),
            _ => Err(AttachError::InUse { path: path.to_owned() }),
        }
    }

    fn open(path: &Path) -> Result<Files, AttachError> {
        let database = open_database(path)?;
        let (wal, shm) = (beside(path, "-wal"), beside(path, "-shm"));
        let log = Log {
            wal: File::open(&wal).map_err(|source| refused(&wal, source))?,
            shm: File::options()
                .read(true)
                .write(true)
                .open(&shm)
                .map_err(|source| refused(&shm, source))?,
        };
        Ok(Files { database, log: Some(log) })
    }

    /// Whether the paths of database, WAL and WAL-index still lead to these.
    fn same(&self, path: &Path) -> [bool; 3] {
        let same = |file: Option<&File>, suffix| {
            let open = file.and_then(|file| identity_of(file).ok());
            open.is_some_and(|open| !leads_elsewhere(&beside(path, suffix), open))
        };
        let log = self.log.as_ref();
        let (wal, shm) = (log.map(|log| &log.wal), log.map(|log| &log.shm));
        [same(Some(&self.database), ""), same(wal, "-wal"), same(shm, "-shm")]
    }

    /// Device and inode of the database file.
    fn identity(&self) -> io::Result<(u64, u64)> {
        identity_of(&self.database)
    }

    /// What an earlier owner had locked, and nobody would unlock any more.
    fn unlock_all(&self) -> io::Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let read = (0..=4).map(LockByte::read);
        for byte in [LockByte::WRITE, LockByte::CHECKPOINT].into_iter().chain(read) {
            lock::set(&log.shm, byte, Mode::Unlocked)?;
        }
        Ok(())
    }
}

/// The two files beside a database in WAL mode.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) wal: File,
    pub(crate) shm: File,
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
    /// It is in WAL mode already.
    #[error("database {path} is in WAL mode already: follow it without `journal = \"keep\"`")]
    IsWal {
        /// The database.
        path: PathBuf,
    },
    /// An earlier opening of it ends only now, and one of its files was replaced since.
    #[error("database {path} is still being read under its former log: it is tried again")]
    InUse {
        /// The database.
        path: PathBuf,
    },
    /// It was replaced while programs had it open, and they still have.
    #[error(
        "{path} is another file now, and the log beside it belongs to the former one, which other \
         programs still have open: opened with that log, the new file would be damaged. End those \
         programs; the log goes, and the new file is followed, by itself"
    )]
    FormerLog {
        /// The database.
        path: PathBuf,
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
        Attached::open_again(path, &Weak::new())
    }

    /// As [`Attached::open`], where somebody on another thread may still read the database through
    /// the descriptors of an earlier opening: the same file shares them, since closing them later
    /// would drop the locks of the connections that are made now.
    ///
    /// # Errors
    /// As [`Attached::open`].
    pub(crate) fn open_again(path: &Path, before: &Weak<Files>) -> Result<Attached, AttachError> {
        // SQLite resolves links before it names -wal and -shm.
        let path = path.canonicalize().map_err(|source| refused(path, source))?;
        let sqlite = |source| AttachError::Sqlite { path: path.clone(), source };
        let keeper = connect(&path, BUSY_WAIT).map_err(sqlite)?;
        if keeper.prepare("SELECT 1 FROM sqlite_dbpage").is_err() {
            return Err(AttachError::NoPages);
        }
        let mode = turn_to_wal(&keeper).map_err(sqlite)?;
        if mode != "wal" {
            return Err(AttachError::NotWal { path, mode });
        }
        // The first read makes the WAL-index.
        keeper.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(sqlite)?;
        let page_bytes =
            keeper.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(sqlite)?;
        let small = format!("PRAGMA cache_size={KEEPER_PAGES}; PRAGMA shrink_memory");
        keeper.execute_batch(&small).map_err(sqlite)?;
        let files = match Files::again(&path, before, [true; 3])? {
            Some(files) => {
                files.unlock_all().map_err(|source| refused(&path, source))?;
                files
            }
            None => Arc::new(Files::open(&path)?),
        };
        let identity = files.identity().map_err(|source| refused(&path, source))?;
        Ok(Attached { keeper, path, page_bytes, identity, files })
    }

    /// Opens a database with a rollback journal and leaves it as it is.
    ///
    /// # Errors
    /// When a file or SQLite refuses, or it is in WAL mode already.
    pub fn open_as_is(path: &Path) -> Result<AttachedAsIs, AttachError> {
        Attached::open_as_is_again(path, &Weak::new())
    }

    /// As [`Attached::open_as_is`], where somebody on another thread may still read the database
    /// through the descriptors of an earlier opening.
    ///
    /// # Errors
    /// As [`Attached::open_as_is`].
    pub(crate) fn open_as_is_again(
        path: &Path,
        before: &Weak<Files>,
    ) -> Result<AttachedAsIs, AttachError> {
        let path = path.canonicalize().map_err(|source| refused(path, source))?;
        let sqlite = |source| AttachError::Sqlite { path: path.clone(), source };
        let keeper = connect(&path, BUSY_WAIT).map_err(sqlite)?;
        let mode: String =
            keeper.query_row("PRAGMA journal_mode", [], |row| row.get(0)).map_err(sqlite)?;
        if mode == "wal" {
            return Err(AttachError::IsWal { path });
        }
        let page_bytes =
            keeper.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(sqlite)?;
        let files = match Files::again(&path, before, [true, false, false])? {
            Some(files) if files.log.is_none() => files,
            Some(_) => return Err(AttachError::InUse { path }),
            None => Arc::new(Files { database: open_database(&path)?, log: None }),
        };
        let identity = files.identity().map_err(|source| refused(&path, source))?;
        Ok(AttachedAsIs { keeper, path, page_bytes, identity, files })
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
        leads_elsewhere(&self.path, self.identity)
    }

    /// Whether the path of the WAL or of the WAL-index now leads to another file. SQLite never does
    /// that to a database that is open in WAL mode; somebody who tidies up does.
    #[must_use]
    pub fn log_replaced(&self) -> bool {
        let [_, wal, shm] = self.files.same(&self.path);
        !(wal && shm)
    }

    /// Device and inode of the database file.
    pub(crate) fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// The connection that keeps the WAL in being.
    pub(crate) fn keeper(&self) -> &Connection {
        &self.keeper
    }

    /// The write-ahead log.
    pub(crate) fn wal(&self) -> &File {
        &self.log().wal
    }

    /// The WAL-index.
    pub(crate) fn shm(&self) -> &File {
        &self.log().shm
    }

    /// The descriptors, to share with a connection of one's own.
    pub(crate) fn files(&self) -> &Arc<Files> {
        &self.files
    }

    fn log(&self) -> &Log {
        self.files.log.as_ref().expect("a database in WAL mode was opened with its log")
    }
}

/// A database that is open and stays in its rollback-journal mode.
#[derive(Debug)]
pub struct AttachedAsIs {
    // Before the descriptors.
    pub(crate) keeper: Connection,
    pub(crate) path: PathBuf,
    pub(crate) page_bytes: u32,
    pub(crate) identity: (u64, u64),
    pub(crate) files: Arc<Files>,
}

impl AttachedAsIs {
    /// The database's path, links resolved.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of a page when it was opened: VACUUM may change that.
    #[must_use]
    pub fn page_bytes(&self) -> u32 {
        self.page_bytes
    }

    /// Whether the path now leads to another file: renamed over, removed, restored from a backup.
    #[must_use]
    pub fn replaced(&self) -> bool {
        leads_elsewhere(&self.path, self.identity)
    }
}

fn refused(path: &Path, source: io::Error) -> AttachError {
    AttachError::File { path: path.to_owned(), source }
}

fn leads_elsewhere(path: &Path, identity: (u64, u64)) -> bool {
    std::fs::metadata(path).map_or(true, |found| (found.dev(), found.ino()) != identity)
}

fn open_database(path: &Path) -> Result<File, AttachError> {
    File::open(path).map_err(|source| refused(path, source))
}

/// Device and inode.
fn identity_of(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|found| (found.dev(), found.ino()))
}

/// A connection that checkpoints only when told, and leaves the WAL where it is.
///
/// # Errors
/// What SQLite answers.
pub(crate) fn connect(path: &Path, busy_wait: Duration) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    no_lookaside(&connection);
    connection.busy_timeout(busy_wait)?;
    connection.execute_batch("PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=NORMAL")?;
    keep_wal(&connection);
    Ok(connection)
}

/// Turns a database to WAL between the transactions of those who use it; answers with the mode that
/// it is in.
fn turn_to_wal(keeper: &Connection) -> rusqlite::Result<String> {
    let began = Instant::now();
    loop {
        let turned = keeper.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0));
        let busy = turned.as_ref().is_err_and(|error: &rusqlite::Error| {
            error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
        });
        // Where SQLite did wait, this is over.
        if !busy || began.elapsed() >= WAL_WAIT {
            return turned;
        }
        std::thread::sleep(WAL_PAUSE);
    }
}

/// No memory in advance for small things: there may be many connections, and all do little.
pub(crate) fn no_lookaside(connection: &Connection) {
    // SAFETY: the handle is open; the call takes a buffer, a size and a count, as documented in
    // sqlite3.h for SQLITE_DBCONFIG_LOOKASIDE.
    unsafe {
        ffi::sqlite3_db_config(
            connection.handle(),
            ffi::SQLITE_DBCONFIG_LOOKASIDE,
            std::ptr::null_mut::<std::ffi::c_void>(),
            0 as std::ffi::c_int,
            0 as std::ffi::c_int,
        );
    }
}

/// The WAL stays when the last connection closes, and nobody checkpoints it then: the daemon's own
/// end must not change what its next life reads.
pub(crate) fn keep_wal(connection: &Connection) {
    set_keep_wal(connection, true);
}

/// The WAL goes when this connection leaves WAL mode; one that stayed would be read again by
/// whoever opens the database next.
pub(crate) fn let_wal_go(connection: &Connection) {
    set_keep_wal(connection, false);
}

fn set_keep_wal(connection: &Connection, keep: bool) {
    let mut on = std::ffi::c_int::from(keep);
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
            std::ffi::c_int::from(keep),
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

#[cfg(test)]
#[path = "attach_tests.rs"]
mod tests;
