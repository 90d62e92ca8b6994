//! The note of what is being changed: after a crash it tells our own work from that of others.

use super::Attend;
use super::deed::Ready;
use super::local::{Suspect, Why};
use super::trouble::Fault;
use crate::digest::Digest;
use crate::entry::{Entry, Kind, Stamp};
use crate::index::Index;
use crate::path::TreePath;
use std::collections::{BTreeSet, HashMap};

/// Its name in the index.
const INTENT: &str = "intent";
/// Files that are known again wherever they were moved; of more, some are taken for local changes.
const FORMERS_MAX: usize = 100_000;
/// A content that comes bit by bit.
const GROWS: Option<Digest> = Some(Digest([0; 32]));

/// Paths that are being changed, each with the contents that it is given; none where it is moved,
/// deleted, or another name of a file that is changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Intent(BTreeSet<(TreePath, Option<Digest>)>);

/// Files and symlinks that were known at paths of the note, by their inodes: the content, and
/// whether they grow.
pub(super) type Formers = HashMap<u64, (Digest, bool)>;

impl Intent {
    /// What files that grow are to have.
    pub(super) fn of_growing<'a>(paths: impl Iterator<Item = &'a TreePath>) -> Self {
        Self(paths.map(|path| (path.clone(), GROWS)).collect())
    }

    /// What these deeds do, and where that shows.
    pub(super) fn add<'a>(
        &mut self,
        deeds: impl Iterator<Item = &'a Ready>,
        index: &mut Index,
    ) -> Result<(), Fault> {
        for deed in deeds {
            let (path, from) = deed.paths();
            self.0.insert((path.clone(), deed.content()));
            self.0.extend(deed.grows().then(|| (path.clone(), GROWS)));
            self.0.extend(from.map(|from| (from.clone(), None)));
            for path in [Some(path), from].into_iter().flatten() {
                let Some(row) = index.get(path)?.filter(|row| row.entry.kind != Kind::Dir) else {
                    continue;
                };
                let names = index.by_inode(row.stamp.ino)?;
                self.0.extend(names.into_iter().map(|name| (name, None)));
            }
        }
        Ok(())
    }

    fn paths(&self) -> BTreeSet<TreePath> {
        self.0.iter().map(|(path, _)| path.clone()).collect()
    }

    fn grows(&self, path: &TreePath) -> bool {
        self.0.contains(&(path.clone(), GROWS))
    }

    fn says(&self, content: Digest) -> bool {
        self.0.iter().any(|(_, said)| *said == Some(content))
    }
}

impl Attend {
    pub(super) fn recall_intent(&mut self) -> Result<(), Fault> {
        if let Some(note) = self.ground.index.note(INTENT)? {
            let list: Vec<_> = minicbor::decode(&note).unwrap_or_default();
            self.intent = Intent(list.into_iter().collect());
            self.adopt_intent()?;
        }
        Ok(())
    }

    /// A crash came while our own work was at these paths.
    pub(super) fn adopt_intent(&mut self) -> Result<(), Fault> {
        let paths = self.intent.paths();
        self.formers = self.formers_of(&paths)?;
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

    /// What is known of these and of all below them, before anything new is.
    fn formers_of(&mut self, paths: &BTreeSet<TreePath>) -> Result<Formers, Fault> {
        let mut formers = Formers::default();
        let mut left: Vec<TreePath> = paths.iter().cloned().collect();
        while let Some(path) = left.pop().filter(|_| formers.len() < FORMERS_MAX) {
            let Some(row) = self.ground.index.get(&path)? else { continue };
            if row.entry.kind == Kind::Dir {
                let names = self.ground.index.children(&path)?.unwrap_or_default();
                left.extend(names.into_iter().filter_map(|(name, ..)| path.join(&name).ok()));
            } else if row.shared {
                let grows = self.intent.grows(&path);
                let former = formers.entry(row.stamp.ino).or_insert((row.entry.content, grows));
                former.1 |= grows;
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

    /// Whether this is what our own work made, or moved there, before a crash. What somebody else
    /// made of the same content is lost to nobody.
    pub(super) fn is_intended(&self, entry: &Entry, stamp: Stamp) -> bool {
        let is_former = |(content, grows): &(Digest, bool)| *grows || *content == entry.content;
        entry.kind == Kind::Dir
            || self.intent.says(entry.content)
            || self.formers.get(&stamp.ino).is_some_and(is_former)
    }
}
