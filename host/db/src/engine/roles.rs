//! From copy to original and back.

use super::discover::attend;
use super::{Engine, Role, Side};
use crate::capture::Source;
use crate::follow::Follower;
use crate::lead::Lead;
use crate::outlet::Outlet;
use crate::status::Notice;
use crate::wire::Position;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a node that is no longer primary waits at once for an application's transaction.
const YIELD_WAIT: Duration = Duration::from_millis(20);
/// Turns in which frames of the peer that are here already are taken.
const HEAR_TURNS_MAX: usize = 64;
/// How long a new primary waits for a checkpoint of its own.
const CHECKPOINT_WAIT: Duration = Duration::from_millis(500);
/// How long it waits between two looks at a database whose pages are being compared.
const COMPARE_WAIT: Duration = Duration::from_millis(1);
/// Turns in which what is left is captured when writers are out.
const DRAIN_TURNS_MAX: usize = 100_000;

impl Engine {
    /// This node is primary: every copy becomes the original, under its fence, which falls last.
    pub(super) fn lead(&mut self, epoch: u64, now: Instant) {
        self.floor = self.floor.max(epoch);
        if self.role == Role::Leading(epoch) {
            return;
        }
        // What arrived whole is applied before the copy becomes the original.
        for _ in 0..HEAR_TURNS_MAX {
            if self.hear(now) {
                break;
            }
        }
        self.end_hold();
        for waiting in &mut self.waiting {
            // Of the numbers of the reign before.
            waiting.target = None;
        }
        let renumbered = matches!(self.role, Role::Leading(_));
        if !renumbered {
            // What the core allowed in an earlier reign it did not allow in this one.
            self.sync = super::wait::Sync::default();
        }
        self.drop_stream();
        self.role = Role::Leading(epoch);
        let paths: Vec<PathBuf> = self.databases.keys().cloned().collect();
        for path in paths {
            if renumbered {
                self.renumber(&path, epoch);
            } else {
                self.promote(&path, epoch, now);
            }
        }
        self.shown.leads(epoch);
    }

    fn renumber(&mut self, path: &Path, epoch: u64) {
        let Some(database) = self.databases.get_mut(path) else { return };
        if let Side::Lead(lead) = &mut database.side {
            let after = lead.renumber(epoch);
            if let Err(error) = database.ledger.reign(epoch, after) {
                self.say(Notice::Trouble(path.to_owned(), error.to_string()));
            }
        }
    }

    fn promote(&mut self, path: &Path, epoch: u64, now: Instant) {
        let Some(database) = self.databases.get_mut(path) else { return };
        match std::mem::replace(&mut database.side, Side::Closed) {
            Side::Closed => self.open(path, now),
            Side::Lead(mut led) | Side::Yield(mut led) => {
                // Never fenced since it led last: it goes on.
                let released = led.source_mut().release_writers();
                let after = led.renumber(epoch);
                database.side = Side::Lead(led);
                let noted = database.ledger.reign(epoch, after).map_err(|error| error.to_string());
                if let Err(why) = released.map_err(|error| error.to_string()).and(noted) {
                    self.trouble(path, why, now);
                }
            }
            Side::Attend(attended) => {
                if let Some(missing) = attended.missing() {
                    self.say(Notice::Missing(path.to_owned(), missing));
                }
                let mut replica = attended.into_replica();
                let table = replica.take_table();
                let (attached, fence) = replica.promote();
                fence.settle(CHECKPOINT_WAIT);
                let side = fence
                    .hand_over(&attached)
                    .map_err(|error| error.to_string())
                    .and_then(|()| {
                        Follower::start_fenced(attached).map_err(|error| error.to_string())
                    })
                    .map(|follower| {
                        let lead = Lead::new(Source::Log(Box::new(follower)), epoch);
                        Side::Lead(Box::new(match table {
                            Some(table) => lead.with_table(table),
                            None => lead,
                        }))
                    });
                self.opened(path, side, now);
                if self.keeps(path) {
                    if let Some(database) = self.databases.get_mut(path) {
                        database.returns = true;
                    }
                    self.return_to_journal(path, now);
                }
                if let Some(database) = self.databases.get_mut(path)
                    && let Side::Lead(lead) = &mut database.side
                    && let Err(error) = lead.source_mut().release_writers()
                {
                    self.trouble(path, error.to_string(), now);
                }
            }
        }
    }

    /// The primary is this far, as its heartbeats say, which may come where its stream does not.
    pub(super) fn peer_at(&mut self, path: &Path, position: Position) {
        if let Some(database) = self.databases.get_mut(path)
            && let Side::Attend(attend) = &mut database.side
        {
            attend.head_is(position);
        }
    }

    /// The history of a database that this node leads from now on: durable before anything of it
    /// is shipped. Opened anew within a reign, its numbers go on; else a later copy with a lower
    /// number would pass for an older one.
    pub(super) fn begin_reign(&mut self, path: &Path, epoch: u64) {
        let Some(database) = self.databases.get_mut(path) else { return };
        let Side::Lead(lead) = &mut database.side else { return };
        let ledger = &mut database.ledger;
        if let Some(newest) = ledger.reigning(epoch) {
            return lead.number_from(newest.saturating_add(1));
        }
        let known = lead.sum().and_then(|sum| ledger.position_of(sum));
        let began = match known.or_else(|| ledger.passed()) {
            Some(after) => ledger.reign(epoch, after),
            None if ledger.is_empty() => ledger.reign(epoch, Position::default()),
            None => ledger.reign_anew(epoch),
        };
        if let Some(sum) = lead.sum() {
            ledger.note(lead.shipped(), sum);
        }
        if let Err(error) = began {
            self.say(Notice::Trouble(path.to_owned(), error.to_string()));
        }
    }

    /// This node is not primary: no application writes any more.
    pub(super) fn follow(&mut self, epoch: u64, now: Instant) {
        self.floor = self.floor.max(epoch);
        if self.role == Role::Following {
            if !self.entries.is_empty() && self.named_in < self.floor {
                self.ended(&"its primary's epoch is over");
            }
            return;
        }
        self.shown.leads(0);
        self.drop_stream();
        self.role = Role::Following;
        self.drop_hold();
        let mut paths: Vec<PathBuf> = self.databases.keys().cloned().collect();
        // Those that are read as a whole come after those that only need a lock.
        paths.sort_by_key(|path| self.keeps(path));
        for path in paths {
            if let Some(database) = self.databases.get_mut(&path) {
                database.returns = false;
                database.side = match std::mem::replace(&mut database.side, Side::Closed) {
                    Side::Lead(lead) => Side::Yield(lead),
                    other @ (Side::Closed | Side::Yield(_) | Side::Attend(_)) => other,
                };
            }
            self.yield_up(&path, YIELD_WAIT, now);
        }
    }

    /// Fences a database that this node led, as soon as no application is amid a transaction.
    pub(super) fn yield_up(&mut self, path: &Path, patience: Duration, now: Instant) {
        let Some(database) = self.databases.get_mut(path) else { return };
        let durable = self.options.patterns[database.pattern].durable;
        let Side::Yield(lead) = &mut database.side else { return };
        match lead.source_mut().hold_writers(patience) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return self.trouble(path, error.to_string(), now),
        }
        // What was committed to the last moment belongs to this node's own history.
        let mut nobody = Outlet::new(None);
        lead.deserted();
        let mut known = true;
        for _ in 0..DRAIN_TURNS_MAX {
            let turn = match lead.capture(now) {
                Ok(turn) => turn,
                Err(error) => return self.trouble(path, error.to_string(), now),
            };
            known &= turn.lost.is_none();
            let shipped = lead.ship(0, &mut database.ledger, &mut nobody);
            known &= shipped.is_ok() && !lead.is_astray();
            if turn.waits && known {
                std::thread::sleep(COMPARE_WAIT);
            } else if !known || !(turn.more || matches!(shipped, Ok(true))) {
                break;
            }
        }
        let Side::Yield(lead) = std::mem::replace(&mut database.side, Side::Closed) else { return };
        // A journal becomes a log only now. Whether anybody got in between is for a scan to find.
        let kept = lead.source().is_kept();
        known &= !kept;
        let (source, table) = match if kept { lead.into_log() } else { Ok(lead) } {
            Ok(lead) if lead.source().is_kept() => {
                database.side = Side::Yield(lead);
                return;
            }
            Ok(lead) => lead.into_source(),
            Err(why) => {
                tracing::debug!(database = %path.display(), %why, "opened anew as a copy");
                return self.open(path, now);
            }
        };
        let Some(attached) = source.end() else { return };
        let side = attend(attached, durable).map(|mut side| {
            if let (Side::Attend(attend), Some(table), true) = (&mut side, table, known) {
                attend.of_own_reign(table, &mut database.ledger);
            }
            side
        });
        self.opened(path, side, now);
    }
}
