//! What operators want of one tree.

use super::{Followed, Halt, NOTE_TREE, Side, random};
use crate::engine::{KeptThing, Restore};
use crate::index::Index;
use crate::path::TreePath;
use crate::tree::{Aside, Kept, Tree};
use crate::watch::Hint;
use std::time::Instant;

impl Followed {
    pub(crate) fn approve(
        &mut self,
        leading: bool,
        now: Instant,
        out: &mut Vec<Vec<u8>>,
    ) -> Result<String, String> {
        if let Side::Lead(lead) = &self.side
            && lead.is_halted()
        {
            self.halted = self.marker.map(Halt::MarkerGone);
            self.close();
        }
        if let Some(halt) = self.halted.take() {
            if let Err(why) = self.adopt(&halt) {
                self.halted = Some(halt);
                return Err(why);
            }
            self.open(!leading, now);
            self.begin_attending(out);
            return Ok("it goes on with what is there now".into());
        }
        if self.diverged.is_some() {
            self.rule(true, out);
            return Ok("what only this node has is set aside, and the primary's taken".into());
        }
        match &mut self.side {
            Side::Lead(lead) if lead.held_entries() > 0 => {
                let held = lead.held_entries();
                lead.approve();
                Ok(format!("{held} entries are deleted on the standby"))
            }
            Side::Lead(_) | Side::Attend(_) => Err(format!(
                "nothing of {} waits for approval here{}",
                self.options.name,
                if leading { "" } else { " (deletions are held on the primary)" }
            )),
            Side::Closed => Err(self.trouble.clone().unwrap_or_else(|| "it is not open".into())),
        }
    }

    /// Makes what is at the root now the tree.
    fn adopt(&mut self, halt: &Halt) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.options.path.display());
        let tree = Tree::open(&self.options.path).map_err(failed)?;
        let mut index = Index::open(&self.state).map_err(|error| error.to_string())?;
        match halt {
            Halt::MarkerGone(known) => tree.mark(known).map_err(failed)?,
            Halt::OtherTree => {
                let marker = tree.marker().map_err(failed)?.unwrap_or_else(random);
                tree.mark(&marker).map_err(failed)?;
                index.set_note(NOTE_TREE, &marker).map_err(|error| error.to_string())?;
            }
            Halt::OtherPair => {
                let entered = self.entered.as_ref();
                let marker = entered.map(|entered| entered.tree).ok_or_else(|| {
                    "the primary is not connected: its tree is adopted when it is".to_owned()
                })?;
                tree.mark(&marker).map_err(failed)?;
                index.set_note(NOTE_TREE, &marker).map_err(|error| error.to_string())?;
            }
        }
        index.commit().map_err(|error| error.to_string())
    }

    pub(crate) fn verify(&mut self, now: Instant) -> Result<String, String> {
        match &mut self.side {
            Side::Closed => return Err(self.closed()),
            Side::Lead(lead) => lead.begin_verify(now),
            Side::Attend(attend) => attend.begin_audit(true),
        }
        Ok("every content is being read; `staffetta files status` shows what was found".into())
    }

    fn closed(&self) -> String {
        self.trouble.clone().unwrap_or_else(|| "it is not open".into())
    }

    pub(crate) fn differing(&mut self, max: usize) -> Result<Vec<(TreePath, String)>, String> {
        match &mut self.side {
            Side::Closed => Err(self.closed()),
            Side::Lead(lead) => {
                let differing = lead.differing(max).into_iter();
                Ok(differing.map(|(path, why)| (path, why.to_owned())).collect())
            }
            Side::Attend(attend) => {
                let alone = attend.index_mut().list_unshared(max).map_err(|e| e.to_string())?;
                let why = "changed on this node, and not known to the primary";
                Ok(alone.into_iter().map(|path| (path, why.to_owned())).collect())
            }
        }
    }

    pub(crate) fn kept(&self, max: usize) -> Result<Vec<KeptThing>, String> {
        let tree = self.tree.as_ref().ok_or_else(|| self.closed())?;
        let mut all = Vec::new();
        for (aside, place) in [(Aside::Trash, "trash"), (Aside::Conflicts, "conflicts")] {
            let kept = tree.kept(&aside, max).map_err(|error| error.to_string())?;
            all.extend(kept.into_iter().map(|kept| {
                let (stamp, path, bytes) = (kept.stamp, kept.path, kept.bytes);
                KeptThing { place, stamp, path, bytes }
            }));
        }
        all.sort_by(|one, other| (&other.stamp, &one.path).cmp(&(&one.stamp, &other.path)));
        all.truncate(max);
        Ok(all)
    }

    pub(crate) fn restore(
        &mut self,
        wanted: &Restore,
        leading: bool,
        now: Instant,
    ) -> Result<String, String> {
        let Some(tree) = self.tree.clone() else { return Err(self.closed()) };
        if !leading {
            let root = self.options.path.join(".staffetta");
            return Err(format!(
                "this node is the standby: what is put back here would not be the primary's; copy \
                 it from {} to the primary instead",
                root.display()
            ));
        }
        let mut found = None;
        for aside in [Aside::Trash, Aside::Conflicts] {
            let kept = tree.kept(&aside, usize::MAX).map_err(|error| error.to_string())?;
            let fits = |kept: &Kept| {
                kept.path.to_string() == wanted.path
                    && wanted.stamp.as_ref().is_none_or(|stamp| *stamp == kept.stamp)
            };
            found = found
                .into_iter()
                .chain(kept.into_iter().filter(fits))
                .max_by(|one: &Kept, other| one.stamp.cmp(&other.stamp));
        }
        let Some(kept) = found else {
            return Err(format!(
                "nothing of {} was kept at {}: `staffetta files restore {}` lists what was",
                self.options.name, wanted.path, self.options.name
            ));
        };
        let to = match &wanted.to {
            None => kept.path.clone(),
            Some(to) => {
                TreePath::parse(to.as_bytes()).map_err(|error| format!("--to {to}: {error}"))?
            }
        };
        tree.restore(&kept, &to).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                format!("{to} is there: move it away, or name another place with --to")
            }
            _ => format!("{to}: {error}"),
        })?;
        if let Side::Lead(lead) = &mut self.side {
            lead.hint(Hint::Below(to.clone()), now);
        }
        Ok(format!("{to} is back"))
    }
}
