//! Commits that wait for the standby, and what happens when it does not answer.
//!
//! Promises: `ok` is answered only for what the standby has acknowledged. Where commits are
//! synchronous, one is answered without the standby only after it is durable, at the standby or at
//! the arbiter, that the standby lacks something; or, where nobody can be told, if the
//! configuration says so.

use super::{Database, Engine, Role, Side, Waiting};
use crate::barrier::{Request, RequestId};
use crate::sites;
use crate::status::Notice;
use crate::wire::Position;
use staffetta_barrier::Answer;
use std::path::Path;
use std::time::{Duration, Instant};

/// Requests at an asynchronous database wait this long.
const ASYNC_TIMEOUT: Duration = Duration::from_secs(1);

/// Of a pattern.
pub(super) const ABSENT: &str = "synchronous databases were there and are not: mount or restore \
                                 them, or take them out of the configuration";

const NOT_PRIMARY: &str = "this node is not primary";

/// Whether synchronous commits have what they are named for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Sync {
    /// A reign began, and nothing is known yet. What was acknowledged before it, perhaps without
    /// the standby, the standby has only when it has everything.
    #[default]
    Fresh,
    /// The standby answers.
    Whole,
    /// It does not; somebody is being told.
    Telling(Instant),
    /// Commits go on without it: it is durable that the standby lacks something (true), or nobody
    /// could be told (false).
    Without(bool),
    /// It has everything again; the daemon is being told.
    Healing,
}

impl Engine {
    /// Takes requests, and answers those that can be.
    pub(super) fn wait_turn(&mut self, now: Instant) {
        let mut requests = Vec::new();
        if let Some(barrier) = self.barrier.as_mut().filter(|barrier| barrier.is_due(now)) {
            barrier.receive(now, &mut requests);
        }
        for request in requests {
            self.asked(request, now);
        }
        self.judge(now);
        self.heal(now);
    }

    fn asked(&mut self, request: Request, now: Instant) {
        let Role::Leading(_) = self.role else {
            return self.answer(request.id, Answer::Error { text: NOT_PRIMARY });
        };
        let Some(path) = self.path_of(&request.database) else {
            // The path behind the words: it may be longer than an answer.
            let text = format!("not replicated: {}", request.database.display());
            return self.answer(request.id, Answer::Error { text: &text });
        };
        let Some(database) = self.databases.get_mut(&path) else { return };
        database.look_at = now;
        // The target is taken in the next turn: all that was committed by now is captured then.
        self.waiting.push(Waiting { id: request.id, database: path, target: None, since: now });
    }

    fn path_of(&self, asked: &Path) -> Option<std::path::PathBuf> {
        if self.databases.contains_key(asked) {
            return Some(asked.to_owned());
        }
        let same = |path: &&std::path::PathBuf| {
            path.canonicalize().is_ok_and(|resolved| resolved == asked)
        };
        self.databases.keys().find(same).cloned()
    }

    /// Answers what waits for a database that this node does not lead, or cannot follow.
    fn refuse_unled(&mut self) {
        let (role, databases) = (self.role, &self.databases);
        let why = |waiting: &Waiting| match databases.get(&waiting.database) {
            None => Some("the database is gone".into()),
            Some(Database { side: Side::Lead(_), .. }) => None,
            Some(_) if role == Role::Following => Some(NOT_PRIMARY.into()),
            Some(database) => {
                let why = database.trouble.as_deref().unwrap_or("it is being opened");
                Some(format!("not followed at the moment: {why}"))
            }
        };
        let refused: Vec<(RequestId, String)> =
            self.waiting.iter().filter_map(|waiting| Some((waiting.id, why(waiting)?))).collect();
        for (id, text) in &refused {
            self.answer(*id, Answer::Error { text });
        }
        self.waiting.retain(|waiting| !refused.iter().any(|(id, _)| *id == waiting.id));
    }

    fn judge(&mut self, now: Instant) {
        self.refuse_unled();
        let mut answers = Vec::new();
        let mut late = None;
        for database in self.databases.values_mut().filter(|database| database.unread) {
            database.unread = !database.catch_up(now);
        }
        for waiting in &mut self.waiting {
            let Some(database) = self.databases.get_mut(&waiting.database) else { continue };
            let caught_up = waiting.target.is_none() && database.catch_up(now);
            let Side::Lead(lead) = &database.side else { continue };
            if caught_up {
                waiting.target = Some(lead.head());
            }
            let pattern = &self.options.patterns[database.pattern];
            let have = lead.acked().filter(|_| lead.is_live());
            let waited = now.saturating_duration_since(waiting.since);
            let reached = match (waiting.target, have) {
                (Some(target), Some(have)) => {
                    have.epoch == target.epoch && have.txid >= target.txid
                }
                (None, _) | (_, None) => false,
            };
            if reached {
                let Position { epoch, txid: transaction } = have.expect("just reached");
                answers.push((waiting.id, Answer::Ok { epoch, transaction }));
            } else if let Some(timeout) = pattern.sync {
                match self.sync {
                    // Where nobody could be told, this database may have to wait for ever.
                    Sync::Without(false) if pattern.block_alone => {}
                    Sync::Without(told) => {
                        let reason = if told { "the standby is away" } else { "nobody to tell" };
                        answers.push((waiting.id, Answer::Degraded { reason }));
                        database.unread |= waiting.target.is_none();
                        self.without += 1;
                    }
                    Sync::Fresh | Sync::Whole | Sync::Healing if waited >= timeout => {
                        late = Some(waiting.database.display().to_string());
                    }
                    Sync::Telling(since)
                        if now.saturating_duration_since(since) >= timeout
                            && !pattern.block_alone =>
                    {
                        self.sync = Sync::Without(false);
                    }
                    Sync::Fresh | Sync::Whole | Sync::Healing | Sync::Telling(_) => {}
                }
            } else if waited >= ASYNC_TIMEOUT {
                let ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
                answers.push((waiting.id, Answer::Timeout { ms }));
            }
        }
        for (id, answer) in &answers {
            self.answer(*id, *answer);
        }
        self.waiting.retain(|waiting| !answers.iter().any(|(id, _)| *id == waiting.id));
        if let Some(database) = late {
            self.sync = Sync::Telling(now);
            self.say(Notice::Desynced(database));
        }
    }

    fn answer(&mut self, id: RequestId, answer: Answer<'_>) {
        if let Some(barrier) = &mut self.barrier {
            barrier.answer(id, answer);
        }
    }

    /// The daemon says that it is durable that the standby lacks something, or that it lacks
    /// nothing any more.
    pub(super) fn degraded(&mut self, degraded: bool) {
        match (degraded, self.sync) {
            (true, Sync::Telling(_) | Sync::Without(false)) => self.sync = Sync::Without(true),
            (false, Sync::Healing) => {
                self.sync = Sync::Whole;
                let without = std::mem::take(&mut self.without);
                if without > 0 {
                    self.say(Notice::Degraded(without));
                }
            }
            // What came too late for the state of the moment.
            (true, Sync::Fresh | Sync::Whole | Sync::Healing | Sync::Without(true))
            | (false, Sync::Fresh | Sync::Whole | Sync::Telling(_) | Sync::Without(_)) => {}
        }
    }

    /// Why it is not known what synchronous databases hold: some are not there, or not cared for.
    pub(super) fn missing(&self) -> Option<String> {
        let pattern = |at: &usize| self.options.patterns[*at].pattern.as_str();
        let mut sync = self.options.patterns.iter().filter(|pattern| pattern.sync.is_some());
        let refused = sync.find_map(|one| {
            let mut refused = self.refused.iter();
            refused.find(|(path, _)| sites::means(&one.pattern, path))
        });
        let refused = refused.map(|(path, why)| format!("{}: {why}", path.display()));
        refused.or_else(|| self.absent.first().map(|at| format!("{}: {ABSENT}", pattern(at))))
    }

    /// The standby has all synchronous databases again: the daemon is to say so.
    fn heal(&mut self, now: Instant) {
        if matches!(self.sync, Sync::Whole | Sync::Healing) {
            return;
        }
        if self.role == Role::Following {
            self.sync = Sync::Fresh;
            return;
        }
        let is_sync = |database: &Database| self.options.patterns[database.pattern].sync;
        let is_whole = self.databases.values().all(|database| match &database.side {
            _ if is_sync(database).is_none() => true,
            Side::Lead(lead) => !database.unread && lead.unacked() == Some(0),
            Side::Closed | Side::Yield(_) | Side::Attend(_) => false,
        });
        // What has waited for too long would say at once that the standby does not keep up.
        let is_pending = self.waiting.iter().any(|waiting| {
            let timeout = self.databases.get(&waiting.database).and_then(is_sync);
            let waited = now.saturating_duration_since(waiting.since);
            timeout.is_some_and(|timeout| waited >= timeout)
        });
        if is_whole && !is_pending && self.missing().is_none() {
            self.sync = Sync::Healing;
            self.say(Notice::Synced);
        }
    }

    /// When a waiting commit must be looked at again.
    pub(super) fn wait_due(&self) -> Option<Instant> {
        let soonest = |waiting: &Waiting| {
            let database = self.databases.get(&waiting.database);
            let sync = database.and_then(|d| self.options.patterns[d.pattern].sync);
            let timeout = sync.unwrap_or(ASYNC_TIMEOUT);
            match self.sync {
                Sync::Telling(since) => since + timeout,
                Sync::Fresh | Sync::Whole | Sync::Without(_) | Sync::Healing => {
                    waiting.since + timeout
                }
            }
        };
        let floor = Instant::now() + Duration::from_millis(1);
        self.waiting.iter().map(|waiting| soonest(waiting).max(floor)).min()
    }
}

impl Database {
    /// Captures what was committed by now: true when that is all there is.
    fn catch_up(&mut self, now: Instant) -> bool {
        let Side::Lead(lead) = &mut self.side else { return false };
        let captured = lead.capture(now);
        // Pages that are being compared are looked at when the source is due.
        let waits = captured.as_ref().is_ok_and(|turn| turn.waits);
        self.look_at = lead.source().next_due().filter(|_| waits).unwrap_or(now);
        captured.is_ok_and(|turn| !turn.waits && !turn.more)
    }
}
