//! The note of what is being changed: after a crash it tells our own work from that of others.

use super::Attend;
use super::deed::Ready;
use super::local::{Suspect, Why};
use super::trouble::Fault;
use crate::digest::Digest;
use crate::entry::{Entry, Kind, Row, Stamp};
use crate::index::{Index, IndexError};
use crate::path::TreePath;
use minicbor::{Decode, Encode};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Its name in the index.
const INTENT: &str = "intent";
/// Files of folders that move whose former rows are kept in mind; of more the index is asked, as
/// far as nothing new was found under their names.
const FORMERS_MAX: usize = 100_000;

/// What is said of a path that is being changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
enum Said {
    /// It is given this content.
    #[n(0)]
    Content(#[n(0)] Digest),
    /// Its content comes bit by bit.
    #[n(1)]
    Grows,
    /// It is a folder, or another name of a file that is changed.
    #[n(2)]
    Touched,
    /// It goes, or comes from elsewhere, with all below it.
    #[n(3)]
    Moved,
}

/// Paths that are being changed, and what is said of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Intent(BTreeSet<(TreePath, Said)>);

/// What tells our own work after a crash, until all of it was looked at.
#[derive(Debug, Default)]
pub(super) struct Recalled {
    /// The contents that the note says.
    contents: HashSet<Digest>,
    /// The primary's files and symlinks at paths of the note and below them, as they were known, by
    /// their inodes and times of birth: an inode that is free is used again.
    formers: HashMap<(u64, i64), Former>,
}

#[derive(Debug, Clone, Copy)]
struct Former {
    content: Digest,
    grows: bool,
}

impl Intent {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What files that grow are to have.
    pub(super) fn of_growing<'a>(paths: impl Iterator<Item = &'a TreePath>) -> Self {
        Self(paths.map(|path| (path.clone(), Said::Grows)).collect())
    }

    /// What these deeds do, and where that shows.
    pub(super) fn add<'a>(
        &mut self,
        deeds: impl Iterator<Item = &'a Ready>,
        index: &mut Index,
    ) -> Result<(), Fault> {
        for deed in deeds {
            let (path, from) = deed.paths();
            let (said, of_source) = match deed {
                Ready::Kept { entry, .. } if entry.kind == Kind::Dir => {
                    (Said::Touched, Said::Touched)
                }
                Ready::File { entry, .. }
                | Ready::Symlink { entry, .. }
                | Ready::Kept { entry, .. }
                | Ready::Link { entry, .. }
                | Ready::Append { entry, .. } => (Said::Content(entry.content), Said::Touched),
                Ready::Rename { .. } | Ready::Delete(_) => (Said::Moved, Said::Moved),
                Ready::Dir { .. } | Ready::Refused(..) => (Said::Touched, Said::Touched),
            };
            self.0.insert((path.clone(), said));
            self.0.extend(from.map(|from| (from.clone(), of_source)));
            if let Ready::Append { .. } = deed {
                self.0.insert((path.clone(), Said::Grows));
            }
            for path in [Some(path), from].into_iter().flatten() {
                let Some(row) = index.get(path)?.filter(|row| row.entry.kind != Kind::Dir) else {
                    continue;
                };
                let names = index.by_inode(row.stamp.ino)?;
                self.0.extend(names.into_iter().map(|name| (name, Said::Touched)));
            }
        }
        Ok(())
    }

    fn paths(&self) -> BTreeSet<TreePath> {
        self.0.iter().map(|(path, _)| path.clone()).collect()
    }

    fn contents(&self) -> HashSet<Digest> {
        let content =
            |said: &Said| if let Said::Content(digest) = said { Some(*digest) } else { None };
        self.0.iter().filter_map(|(_, said)| content(said)).collect()
    }

    fn says(&self, path: &TreePath, said: Said) -> bool {
        self.0.contains(&(path.clone(), said))
    }
}

impl Recalled {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether our own work made this, or moved it there. What somebody else made of the same
    /// content is lost to nobody.
    pub(super) fn is_ours(
        &self,
        entry: &Entry,
        stamp: Stamp,
        index: &mut Index,
    ) -> Result<bool, Fault> {
        if entry.kind == Kind::Dir || self.contents.contains(&entry.content) {
            return Ok(true);
        }
        if let Some(former) = self.formers.get(&(stamp.ino, stamp.btime_ns)) {
            return Ok(former.grows || former.content == entry.content);
        }
        if self.formers.len() < FORMERS_MAX {
            return Ok(false);
        }
        for name in index.by_inode(stamp.ino)? {
            let row = index.get(&name)?.filter(|row| row.shared);
            if row.is_some_and(|row| row.entry.content == entry.content) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Attend {
    pub(super) fn recall_intent(&mut self) -> Result<(), Fault> {
        self.intent = Intent::default();
        let Some(note) = self.ground.index.note(INTENT)? else { return Ok(()) };
        match minicbor::decode::<Vec<_>>(&note) {
            Ok(list) => self.intent = Intent(list.into_iter().collect()),
            Err(error) => {
                let tree = self.ground.tree.path.display();
                tracing::warn!(%tree, %error, "what a crash came between is not known any more");
            }
        }
        self.adopt_intent()
    }

    /// A crash came while our own work was at these paths.
    fn adopt_intent(&mut self) -> Result<(), Fault> {
        let paths = self.intent.paths();
        self.recalled =
            Recalled { contents: self.intent.contents(), formers: self.formers_of(&paths)? };
        let why = Why { adopt: true, ..Why::HINTED };
        // Their folders have other times until the end.
        let folders: BTreeSet<TreePath> = paths.iter().filter_map(TreePath::parent).collect();
        for path in folders.difference(&paths).chain(&paths) {
            self.local.suspects.push_back(Suspect { path: path.clone(), why });
        }
        for path in paths {
            self.audit_below(path, why);
        }
        Ok(())
    }

    /// What is known of these, and of all below those that move, before anything new is.
    fn formers_of(
        &mut self,
        paths: &BTreeSet<TreePath>,
    ) -> Result<HashMap<(u64, i64), Former>, Fault> {
        let mut formers = HashMap::new();
        let mut folders = Vec::new();
        for path in paths {
            let Some(row) = self.ground.index.get(path)? else { continue };
            if row.entry.kind != Kind::Dir {
                remember(&mut formers, &row, self.intent.says(path, Said::Grows));
            } else if self.intent.says(path, Said::Moved) {
                folders.push(path.clone());
            }
        }
        while let Some(folder) = folders.pop().filter(|_| formers.len() < FORMERS_MAX) {
            for (name, row, _) in self.ground.index.children(&folder)?.unwrap_or_default() {
                if row.entry.kind != Kind::Dir {
                    remember(&mut formers, &row, false);
                } else if let Ok(below) = folder.join(&name) {
                    folders.push(below);
                }
            }
        }
        Ok(formers)
    }

    /// Notes what is being changed, unless all of it is noted.
    pub(super) fn add_intent(&mut self, intent: Intent) -> Result<(), Fault> {
        if !intent.0.is_subset(&self.intent.0) {
            self.note_intent(intent)?;
            self.ground.index.commit()?;
        }
        Ok(())
    }

    /// Notes that this is being changed, and nothing else; what a crash came between stays noted
    /// until it was looked at.
    pub(super) fn note_intent(&mut self, mut intent: Intent) -> Result<(), Fault> {
        if self.audits.is_adopting() {
            intent.0.extend(self.intent.0.iter().cloned());
        }
        if intent == self.intent {
            return Ok(());
        }
        let list: Vec<_> = intent.0.iter().collect();
        let Ok(bytes) = minicbor::to_vec(list) else { unreachable!("a vector takes everything") };
        self.ground.index.set_note(INTENT, &bytes)?;
        self.intent = intent;
        Ok(())
    }
}

fn remember(formers: &mut HashMap<(u64, i64), Former>, row: &Row, grows: bool) {
    if row.shared {
        let fresh = Former { content: row.entry.content, grows };
        let key = (row.stamp.ino, row.stamp.btime_ns);
        formers.entry(key).or_insert(fresh).grows |= grows;
    }
}

/// What is led was nobody's work here: the note of a former reign ends.
///
/// # Errors
/// The index fails.
pub(crate) fn forget(index: &mut Index) -> Result<(), IndexError> {
    let Ok(nothing) = minicbor::to_vec::<[u8; 0]>([]) else { unreachable!("it takes everything") };
    index.set_note(INTENT, &nothing)
}
