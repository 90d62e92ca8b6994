//! What a node knows of its tree, on disk: one row for each path, and sums of all that is below
//! each folder, so that two nodes that agree need one comparison to know it.
//!
//! A cache of the tree, never the truth: rows that were lost with a crash are found anew by a scan.
//! Folders are held in memory (1,000,000 of them at most); the rest stays in SQLite.

mod book;
mod folders;
mod store;

use crate::entry::{Row, Sums, link_sum};
use crate::path::TreePath;
use book::Book;
use std::path::{Path, PathBuf};
use store::Fault;

/// Folders of one tree, at most.
const FOLDERS_MAX: usize = 1_000_000;
/// Damaged indexes that are kept for whoever wants to know how; the last one gives way.
const ASIDE_MAX: u32 = 4;

/// The index of one tree.
pub(crate) struct Index {
    path: PathBuf,
    /// None: it was found damaged, and put aside.
    book: Option<Book>,
    /// Something went wrong, and going back to the last commit did, too: tried again.
    is_torn: bool,
}

/// What is below a folder, itself included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    /// Files, folders and symlinks.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
}

/// A name in a folder, its row, and what it adds to the sum of the folder.
pub(crate) type Child = (Box<[u8]>, Row, u128);

/// What cannot be done, and to which index.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {what}")]
pub(crate) struct IndexError {
    pub path: String,
    pub what: String,
}

/// Of a folder: a size, a content, a `ctime_ns`, or `linked` is not kept, since no folder has them.
///
/// What was said since the last commit is read, too. When the disk or the system refuses something
/// it is forgotten, and the index is as it was at that commit: after an error, not
/// [`Index::is_stirred`]. Refusing what cannot be (a row without a folder) changes nothing.
impl Index {
    /// Opens or makes it. One that is damaged, or of another version, is put aside under another
    /// name and made anew (a scan fills it again); says so in the log.
    ///
    /// # Errors
    /// When the disk or the system refuses, or another process has it open.
    pub(crate) fn open(path: &Path) -> Result<Index, IndexError> {
        let opened = Book::open(path).or_else(|fault| {
            if !fault.is_damage() {
                return Err(fault);
            }
            let aside = put_aside(path).map_err(|error| {
                Fault::Damaged(format!("{fault}, and cannot be put aside: {error}"))
            })?;
            tracing::warn!(
                path = %path.display(), aside = %aside.display(), why = %fault,
                "put a damaged index aside; the tree is read whole to make it anew"
            );
            Book::open(path)
        });
        match opened {
            Ok(book) => Ok(Index { path: path.to_owned(), book: Some(book), is_torn: false }),
            Err(fault) => Err(error(path, &format!("cannot open the index: {fault}"))),
        }
    }

    /// A value that belongs to the tree as a whole.
    pub(crate) fn note(&self, key: &str) -> Result<Option<Vec<u8>>, IndexError> {
        let book = self.book.as_ref().ok_or_else(|| gone(&self.path))?;
        book.store.note(key).map_err(|fault| error(&self.path, &fault.to_string()))
    }

    pub(crate) fn set_note(&mut self, key: &str, value: &[u8]) -> Result<(), IndexError> {
        self.run(|book| book.set_note(key, value))
    }

    pub(crate) fn get(&mut self, path: &TreePath) -> Result<Option<Row>, IndexError> {
        self.run(|book| book.get(path))
    }

    /// The children of a folder, sorted by name (bytes), with what they add to its sum; none when
    /// there is no such folder.
    pub(crate) fn children(&mut self, dir: &TreePath) -> Result<Option<Vec<Child>>, IndexError> {
        self.run(|book| book.children(dir))
    }

    /// Makes the row this. The folder that it is in must have a row (the root's own row included).
    /// A folder that becomes a file loses what was below it.
    pub(crate) fn put(&mut self, path: &TreePath, row: &Row) -> Result<(), IndexError> {
        self.run(|book| book.put(path, row))
    }

    /// Removes the row and all below it.
    pub(crate) fn remove(&mut self, path: &TreePath) -> Result<Totals, IndexError> {
        self.run(|book| book.remove(path))
    }

    /// Moves the row and all below it; what was at `to` is gone. A folder costs one row.
    pub(crate) fn rename(&mut self, from: &TreePath, to: &TreePath) -> Result<(), IndexError> {
        self.run(|book| book.rename(from, to))
    }

    /// The paths of an inode, at most 64.
    pub(crate) fn by_inode(&mut self, ino: u64) -> Result<Vec<TreePath>, IndexError> {
        self.run(|book| book.by_inode(ino))
    }

    /// What the path adds to the sum of its folder, all below it included; the root's under an
    /// empty name.
    pub(crate) fn sum(&mut self, path: &TreePath) -> Result<Option<u128>, IndexError> {
        self.run(|book| book.sum(path))
    }

    /// The names of each file that has several in this tree, sorted.
    pub(crate) fn linked(&mut self) -> Result<Vec<Vec<TreePath>>, IndexError> {
        self.run(|book| book.linked())
    }

    /// What this tree and another are compared by.
    pub(crate) fn sums(&mut self) -> Result<Sums, IndexError> {
        let tree = self.sum(&TreePath::root())?.unwrap_or_default();
        let links = self
            .linked()?
            .iter()
            .fold(0u128, |sum, names| sum.wrapping_add(link_sum(names.iter())));
        Ok(Sums { tree: tree.to_le_bytes(), links: links.to_le_bytes() })
    }

    pub(crate) fn totals(&mut self, path: &TreePath) -> Result<Option<Totals>, IndexError> {
        self.run(|book| book.totals(path))
    }

    /// Rows that the other node is not known to have had.
    pub(crate) fn unshared(&mut self) -> Result<u64, IndexError> {
        self.run(|book| Ok(book.unshared()))
    }

    /// At most so many of them.
    pub(crate) fn list_unshared(&mut self, max: usize) -> Result<Vec<TreePath>, IndexError> {
        self.run(|book| book.list_unshared(max))
    }

    /// The other node has all of this, if it still is this: `sum` as by [`Index::sum`].
    pub(crate) fn share(&mut self, path: &TreePath, sum: u128) -> Result<(), IndexError> {
        self.run(|book| book.share(path, sum))
    }

    /// The other node has everything.
    pub(crate) fn share_all(&mut self) -> Result<(), IndexError> {
        self.run(Book::share_all)
    }

    /// Makes what was said so far survive a crash of this process.
    pub(crate) fn commit(&mut self) -> Result<(), IndexError> {
        self.run(Book::commit)
    }

    /// Whether anything was said since the last commit.
    pub(crate) fn is_stirred(&self) -> bool {
        self.book.as_ref().is_some_and(|book| book.is_stirred)
    }

    fn run<T>(&mut self, act: impl FnOnce(&mut Book) -> Result<T, Fault>) -> Result<T, IndexError> {
        let Some(book) = &mut self.book else { return Err(gone(&self.path)) };
        let mended = if self.is_torn { book.roll_back() } else { Ok(()) };
        self.is_torn = mended.is_err();
        let fault = match mended.and_then(|()| act(book)) {
            Ok(done) => return Ok(done),
            Err(fault) => fault,
        };
        match &fault {
            Fault::Refused(_) => {}
            fault if fault.is_damage() => return Err(self.retire(fault)),
            Fault::Damaged(_) | Fault::Sqlite(_) => {
                self.is_torn = book.is_stirred && book.roll_back().is_err();
            }
        }
        Err(error(&self.path, &fault.to_string()))
    }

    /// Damage is seen where it is read: nothing here is worth mending, since a scan makes it anew.
    fn retire(&mut self, fault: &Fault) -> IndexError {
        self.book = None;
        let what = match put_aside(&self.path) {
            Ok(aside) => format!("damaged ({fault}); put aside as {}", aside.display()),
            Err(error) => format!("damaged ({fault}); cannot be put aside: {error}"),
        };
        error(&self.path, &format!("{what}; opened again, it is made anew"))
    }
}

fn gone(path: &Path) -> IndexError {
    error(path, "was found damaged and put aside; opened again, it is made anew")
}

fn error(path: &Path, what: &str) -> IndexError {
    IndexError { path: path.display().to_string(), what: what.to_owned() }
}

/// Gives the database, with its log, the first free name beside it.
fn put_aside(path: &Path) -> std::io::Result<PathBuf> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let damaged = |number: &u32| beside(&format!(".damaged-{number}"));
    let number = (1..ASIDE_MAX).find(|number| !damaged(number).exists()).unwrap_or(ASIDE_MAX);
    let aside = damaged(&number);
    std::fs::rename(path, &aside)?;
    for log in ["-wal", "-shm"] {
        match std::fs::rename(beside(log), beside(&format!(".damaged-{number}{log}"))) {
            // Usually there is none: SQLite removes them when it closes the database.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(aside)
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
