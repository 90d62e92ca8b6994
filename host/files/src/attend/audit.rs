//! Audits: the whole tree, or a part of it, compared with what is known of it, a folder at a time.

use super::Attend;
use super::local::{Suspect, Why};
use super::trouble::{Fault, text};
use crate::entry::{Found, Kind, Row};
use crate::path::TreePath;
use std::cmp::Ordering;
use std::collections::VecDeque;

/// Parts of the tree that wait for an audit; with more, all of it is audited.
const PARTS_MAX: usize = 1_024;

/// A part of the tree that is being compared.
pub(super) struct Audit {
    folders: Vec<TreePath>,
    why: Why,
    is_whole: bool,
}

/// How far the audit of the whole tree is, and what the last one came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Audited {
    /// Paths that were compared.
    pub entries: u64,
    /// Of them, those that did not fit what is known.
    pub differing: u64,
    pub is_running: bool,
    /// Audits of the whole tree that were ended.
    pub ended: u64,
}

/// All that wait.
#[derive(Default)]
pub(super) struct Audits {
    parts: VecDeque<Audit>,
    pub progress: Audited,
}

impl Audits {
    /// What a crash came between is looked at before anything else is.
    pub(super) fn is_adopting(&self) -> bool {
        self.parts.iter().any(|audit| audit.why.adopt)
    }

    pub(super) fn is_first(&self) -> bool {
        self.parts.iter().any(|audit| audit.why.first)
    }

    /// Folders that wait are audited where they went; and what was moved is audited once more, for
    /// it may come from where an audit has not been to where it was.
    pub(super) fn moved(&mut self, from: &TreePath, to: &TreePath) {
        for audit in &mut self.parts {
            for folder in &mut audit.folders {
                if let Some(path) = folder.moved(from, to) {
                    *folder = path;
                }
            }
            if !audit.why.adopt && !audit.folders.contains(to) {
                audit.folders.push(to.clone());
            }
        }
    }
}

impl Attend {
    /// Compares the whole tree with what is known of it, in slices; with `verify` the contents,
    /// too. One that is under way begins anew.
    pub(crate) fn begin_audit(&mut self, verify: bool) {
        self.audit_whole(Why { read: verify, ..Why::HINTED });
    }

    pub(super) fn audit_whole(&mut self, mut why: Why) {
        why.first |= self.audits.is_first();
        why.read |= self.audits.parts.iter().any(|audit| audit.is_whole && audit.why.read);
        self.audits.parts.retain(|audit| audit.why.adopt);
        let ended = self.audits.progress.ended;
        self.audits.progress = Audited { is_running: true, ended, ..Audited::default() };
        self.local.suspects.push_back(Suspect { path: TreePath::root(), why });
        let folders = vec![TreePath::root()];
        self.audits.parts.push_back(Audit { folders, why, is_whole: true });
    }

    pub(super) fn audit_below(&mut self, path: TreePath, why: Why) {
        if self.audits.parts.len() >= PARTS_MAX {
            self.audit_whole(Why { adopt: false, ..why });
            return;
        }
        // What a crash came between comes first, however late it is found.
        let mut parts = self.audits.parts.iter_mut();
        let same = |audit: &&mut Audit| audit.why == why;
        let part = if why.adopt { parts.find(same) } else { parts.next_back().filter(same) };
        match part {
            Some(audit) => audit.folders.push(path),
            None => {
                let audit = Audit { folders: vec![path], why, is_whole: false };
                if why.adopt {
                    self.audits.parts.push_front(audit);
                } else {
                    self.audits.parts.push_back(audit);
                }
            }
        }
    }

    /// Compares one folder: true when something was done.
    pub(super) fn audit_on(&mut self) -> Result<bool, Fault> {
        let Some(audit) = self.audits.parts.front_mut() else { return Ok(false) };
        let (why, is_whole) = (audit.why, audit.is_whole);
        let Some(folder) = audit.folders.pop() else {
            self.audits.parts.pop_front();
            if is_whole {
                self.audits.progress.is_running = false;
                self.audits.progress.ended += 1;
            }
            return Ok(true);
        };
        let below = match self.audit_folder(&folder, why) {
            Ok(below) => below,
            Err(Fault::Disk(error)) => {
                self.ground.counters.trouble = Some(text(&folder, &error));
                Vec::new()
            }
            Err(Fault::Index(error)) => return Err(Fault::Index(error)),
        };
        if let Some(audit) = self.audits.parts.front_mut() {
            audit.folders.extend(below);
        }
        Ok(true)
    }

    /// What differs becomes suspect; folders on both sides are given back.
    fn audit_folder(&mut self, dir: &TreePath, why: Why) -> Result<Vec<TreePath>, Fault> {
        let Some(mut found) = self.ground.tree.list(dir)? else { return Ok(Vec::new()) };
        found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let known = self.ground.index.children(dir)?.unwrap_or_default();
        let mut below = Vec::new();
        let (mut found, mut known) = (found.iter().peekable(), known.iter().peekable());
        loop {
            let order = match (found.peek(), known.peek()) {
                (None, None) => return Ok(below),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((a, _)), Some((b, ..))) => a.cmp(b),
            };
            let there = if order.is_le() { found.next() } else { None };
            let row = if order.is_ge() { known.next() } else { None };
            let name = there.map(|(name, _)| name).or(row.map(|(name, ..)| name));
            let Some(path) = name.and_then(|name| dir.join(name).ok()) else { continue };
            let there = there.map(|(_, found)| found);
            let row = row.map(|(_, row, _)| row);
            self.audits.progress.entries += 1;
            if differs(there, row, why) {
                self.audits.progress.differing += u64::from(!why.read);
                self.local.suspects.push_back(Suspect { path: path.clone(), why });
            }
            let both = there.is_some_and(|found| found.kind == Some(Kind::Dir))
                && row.is_some_and(|row| row.entry.kind == Kind::Dir);
            if both {
                below.push(path);
            }
        }
    }
}

fn differs(found: Option<&Found>, row: Option<&Row>, why: Why) -> bool {
    match (found, row) {
        (None, row) => row.is_some(),
        (Some(found), None) => found.kind.is_some(),
        (Some(found), Some(row)) => {
            !row.describes(found) || row.racy || (why.read && row.entry.kind == Kind::File)
        }
    }
}
