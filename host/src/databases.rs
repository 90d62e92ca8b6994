//! Archives of databases, beside the databases: for the command line and the API.

use staffetta_db::{Differences, RowsError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Rows of each kind and table that are shown.
const SAMPLES_MAX: u32 = 5;
/// How long a comparison may read.
const DIFF_TIME: Duration = Duration::from_secs(60);

/// The newest archive of the database that was at this path.
pub(crate) fn newest_archive(folder: &Path, database: &Path) -> Option<PathBuf> {
    let notes = std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let of_it = notes.filter_map(|note| {
        if note.extension()? != "json" {
            return None;
        }
        let text = std::fs::read(&note).ok()?;
        let said: staffetta_db::ArchiveNote = serde_json::from_slice(&text).ok()?;
        (said.path == database).then(|| (said.archived_unix_s, note.with_extension("sqlite")))
    });
    of_it.max().map(|(_, archive)| archive)
}

/// How an archive differs from the database, in rows.
pub(crate) fn difference(archive: &Path, database: &Path) -> Result<Differences, RowsError> {
    staffetta_db::difference(archive, database, SAMPLES_MAX, DIFF_TIME)
}
