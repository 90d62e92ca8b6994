//! Files that hold secrets: created whole, mode 0600, never over another file.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why a private file could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// It is there already.
    #[error(
        "{path} exists already and is not overwritten (move it away to begin anew, or choose \
             another folder)"
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Others may read it.
    #[error("{path} is open to others (mode {mode:04o}): run `chmod 600 {path}`")]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is longer than such a file can be.
    #[error("{path} is {bytes} bytes long, at most {max} are expected (is this the right file?)")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The longest one that makes sense.
        max: u64,
    },
    /// The system refused.
    #[error("cannot {action} {path}: {source}{}", remedy(.source))]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The answer.
        #[source]
        source: std::io::Error,
    },
}

fn remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => " (run as root, or choose another folder)",
        std::io::ErrorKind::NotFound => " (is the path right?)",
        std::io::ErrorKind::StorageFull => " (free some space)",
        _ => "",
    }
}

/// Creates `path` with `bytes`, readable for its owner only. After a crash it is there whole or not
/// at all.
///
/// # Errors
/// When it exists already or the system refuses.
pub fn create(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    let fail =
        |action| move |source| PrivateFileError::Io { action, path: path.to_owned(), source };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".new-{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let write = || -> std::io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        // A link, unlike a rename, fails when the name is taken.
        std::fs::hard_link(&temporary, path)
    };
    let written = write();
    // It may not have come into being; then there is nothing to remove.
    let _ = std::fs::remove_file(&temporary);
    match written {
        Ok(()) => sync_folder(path).map_err(fail("make durable")),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(PrivateFileError::Exists { path: path.to_owned() })
        }
        Err(e) => Err(fail("create")(e)),
    }
}

/// Reads at most `bytes_max` bytes of a file that nobody else may read.
///
/// # Errors
/// When it is open to others, too long, or cannot be read.
pub fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, PrivateFileError> {
    let fail = |source| PrivateFileError::Io { action: "read", path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(fail)?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PrivateFileError::Open { path: path.to_owned(), mode });
    }
    if metadata.len() > bytes_max {
        return Err(PrivateFileError::TooLong {
            path: path.to_owned(),
            bytes: metadata.len(),
            max: bytes_max,
        });
    }
    std::fs::read(path).map_err(fail)
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) if folder != Path::new("") => File::open(folder)?.sync_all(),
        Some(_) | None => File::open(".")?.sync_all(),
    }
}
