//! A copy where none is yet: an empty database with the primary's size of pages and the primary's
//! owner and mode, which appears as a whole or not at all.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use crate::attach::beside;
use crate::hash::is_page_size;

/// What a copy is called until it is whole.
pub(crate) const UNFINISHED: &str = "-staffetta-new";

/// Who owns a database file and who may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permissions, as for chmod(2).
    pub mode: u32,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The system refuses.
    #[error("cannot create {path}: {source} (does its folder exist, and is there room?)")]
    File {
        /// The copy.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// SQLite refuses.
    #[error("cannot create {path}: {source}")]
    Sqlite {
        /// The copy.
        path: PathBuf,
        /// SQLite's answer.
        #[source]
        source: rusqlite::Error,
    },
    /// The peer named a size that SQLite does not know.
    #[error("cannot create {path} with pages of {page_bytes} bytes: 512 to 65536, a power of two")]
    PageSize {
        /// The copy.
        path: PathBuf,
        /// The size.
        page_bytes: u32,
    },
}

/// Creates an empty database in WAL mode, at a path where nothing is.
///
/// # Errors
/// When something is there, or SQLite or the system refuses. Then nothing is left behind.
pub fn create(path: &Path, page_bytes: u32, owner: Owner) -> Result<(), CreateError> {
    if !is_page_size(page_bytes) {
        return Err(CreateError::PageSize { path: path.to_owned(), page_bytes });
    }
    let unfinished = beside(path, UNFINISHED);
    let done = fill(&unfinished, page_bytes, owner, path).and_then(|()| {
        // A link, and not a rename: never over a file that appeared meanwhile.
        let linked = std::fs::hard_link(&unfinished, path);
        linked.map_err(|source| CreateError::File { path: path.to_owned(), source })
    });
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let _ = std::fs::remove_file(beside(&unfinished, suffix));
    }
    done.and_then(|()| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let synced = File::open(folder.unwrap_or(Path::new("."))).and_then(|it| it.sync_all());
        synced.map_err(|source| CreateError::File { path: path.to_owned(), source })
    })
}

fn fill(unfinished: &Path, page_bytes: u32, owner: Owner, path: &Path) -> Result<(), CreateError> {
    let file = |source| CreateError::File { path: path.to_owned(), source };
    let sqlite = |source| CreateError::Sqlite { path: path.to_owned(), source };
    // What a crash left behind; nobody else makes a file of this name.
    match std::fs::remove_file(unfinished) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(file(source)),
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(unfinished).map_err(file)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(unfinished, flags).map_err(sqlite)?;
    connection
        .execute_batch(&format!("PRAGMA page_size={page_bytes}; PRAGMA journal_mode=WAL"))
        .map_err(sqlite)?;
    connection.close().map_err(|(_, source)| sqlite(source))?;
    fchown(&opened, Some(owner.uid), Some(owner.gid)).map_err(file)?;
    opened.set_permissions(Permissions::from_mode(owner.mode & 0o7777)).map_err(file)?;
    opened.sync_all().map_err(file)
}
