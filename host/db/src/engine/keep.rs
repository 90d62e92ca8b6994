//! Databases whose rollback journal is kept: a log while they are copies, a journal while this node
//! leads them.
//!
//! Promises: between copy and original, in either direction, there is no moment in which an
//! application writes and nobody captures it. Where somebody has the copy open, it stays in WAL
//! mode and is followed by its log, until that somebody ends.

use super::{Database, Engine, Side};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Turns in which what was committed is captured before the mode changes.
const TURNS_MAX: usize = 64;

impl Engine {
    /// Whether the rollback journal of a database is kept.
    pub(super) fn keeps(&self, path: &Path) -> bool {
        let pattern = self.databases.get(path).map(|database| database.pattern);
        pattern.is_some_and(|pattern| self.options.patterns[pattern].keep_journal)
    }

    /// What this node turned to WAL as a copy goes back to its journal, as soon as it can.
    pub(super) fn return_to_journals(&mut self, now: Instant) {
        if self.hold.is_some() {
            return;
        }
        for path in self.paths(|database| database.returns && !database.is_being_read()) {
            self.return_to_journal(&path, now);
        }
    }

    /// Turns a database that this node leads to its rollback journal. Writers that were held stay
    /// held.
    pub(super) fn return_to_journal(&mut self, path: &Path, now: Instant) {
        let Some(database) = self.databases.get_mut(path) else { return };
        let Side::Lead(lead) = &mut database.side else { return };
        let held = lead.source().writers_held();
        let mut ready = held || lead.source_mut().hold_writers(Duration::ZERO).unwrap_or(false);
        for _ in 0..TURNS_MAX {
            // What is lost or broken is for the next turn to find.
            let turn = lead.capture(now);
            ready &= turn.as_ref().is_ok_and(|turn| turn.lost.is_none());
            if !ready || turn.is_ok_and(|turn| !turn.more) {
                break;
            }
        }
        if ready && lead.is_settled() {
            let Side::Lead(lead) = std::mem::replace(&mut database.side, Side::Closed) else {
                return;
            };
            match lead.into_journal() {
                Ok(lead) => {
                    let log = lead.source().written(path);
                    database.returns = !lead.source().is_kept();
                    database.files = Arc::downgrade(lead.source().files());
                    self.watch.log(&log.canonicalize().unwrap_or(log), database.id);
                    database.side = Side::Lead(lead);
                }
                Err(why) => return self.trouble(path, why, now),
            }
        }
        if let Side::Lead(lead) = &mut database.side
            && !held
            && let Err(error) = lead.source_mut().release_writers()
        {
            self.trouble(path, error.to_string(), now);
        }
    }
}

impl Database {
    /// Another thread reads it, and so has it open.
    fn is_being_read(&self) -> bool {
        self.scanning || self.scrub.under_way || self.checkpointing
    }
}
