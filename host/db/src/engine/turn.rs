//! What is due for each database, and what the worker found.

use super::{
    Database, Engine, LIVELY_FOR, LOOK_ALWAYS_INTERVAL, LOOK_TOGETHER, Role, STATUSES_PER_SLOW,
    Scrub, Side,
};
use crate::attend::{Attend, Outcome, Stage};
use crate::lead::Lead;
use crate::ledger::Kinship;
use crate::outlet::Outlet;
use crate::status::{DatabaseCounters, DatabaseStatus, Notice, State};
use crate::trail::Counters;
use crate::wire::Entry;
use crate::worker::{Done, Task};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// An application that is amid a transaction on a node that is no longer primary is looked at this
/// often.
const YIELD_INTERVAL: Duration = Duration::from_millis(5);
/// A copy of which something is wrong is looked at this often.
const TEND_COPY_INTERVAL: Duration = Duration::from_millis(100);

/// What a database needs that only the engine can do.
#[derive(Debug)]
enum Need {
    Nothing,
    Scan,
    /// No longer in trouble.
    Healed,
    /// No longer led, and not yet fenced.
    Yield,
    Anew(String),
    Broken(String),
    Ruling(Kinship),
    Remake(Box<Entry>),
}

impl Engine {
    /// One turn of every database that may have changed: true when work is left.
    pub(super) fn turn(&mut self, now: Instant) -> bool {
        let mut more = false;
        let mut needs: Vec<(PathBuf, Need)> = Vec::new();
        let mut failed = None;
        for database in self.databases.values_mut() {
            let looked = database.look_at <= now;
            let waits = matches!(&database.side, Side::Lead(lead) if lead.has_work());
            if !looked && !waits {
                continue;
            }
            let mut outlet = Outlet::new(self.stream.as_mut());
            let (need, busy) = database.turn(now, looked, self.began, &mut outlet);
            more |= busy;
            self.stirred |= database.noticed_at.is_some() || busy;
            if self.watch.want(database.id, database.wants_notices(now)) {
                database.look_at = now;
                more = true;
            }
            failed = failed.or(outlet.failed);
            if !matches!(need, Need::Nothing) {
                needs.push((database.path.clone(), need));
            }
        }
        if let Some(error) = failed {
            self.ended(&error);
        }
        for (path, need) in needs {
            self.provide(&path, need, now);
        }
        self.back_pressure();
        more
    }

    fn provide(&mut self, path: &Path, need: Need, now: Instant) {
        match need {
            Need::Nothing => {}
            Need::Scan => self.begin_scan(path, now),
            Need::Healed => self.say(Notice::Healed(path.to_owned())),
            Need::Yield => self.yield_up(path, Duration::ZERO, now),
            Need::Anew(why) => {
                if let Some(database) = self.databases.get_mut(path) {
                    database.counters.lost += 1;
                }
                self.say(Notice::LostTrail(path.to_owned(), why));
                self.start_over(path, now);
            }
            Need::Broken(why) => self.trouble(path, why, now),
            Need::Ruling(kinship) => self.diverged(path, kinship, now),
            Need::Remake(entry) => self.remake(path, *entry, now),
        }
    }

    /// Everything of a database on the primary is read again.
    fn start_over(&mut self, path: &Path, now: Instant) {
        let Some(database) = self.databases.get_mut(path) else { return };
        self.generation += 1;
        database.generation = self.generation;
        database.scanning = false;
        database.scrub.under_way = false;
        let Side::Lead(lead) = &mut database.side else { return };
        match lead.start_over() {
            Ok(()) => {
                self.begin_scan(path, now);
                self.name_one(path);
            }
            // Another file, other pages: opened anew, and named there.
            Err(error) => {
                tracing::info!(database = %path.display(), %error, "opened anew");
                self.reopen(path, now);
            }
        }
    }

    /// Has the worker make the table.
    pub(super) fn begin_scan(&mut self, path: &Path, now: Instant) {
        let Some(database) = self.databases.get_mut(path) else { return };
        if database.scanning {
            return;
        }
        let task = match &mut database.side {
            Side::Closed | Side::Yield(_) => return,
            Side::Lead(lead) => lead.scan().map(Task::Table).map_err(|error| error.to_string()),
            Side::Attend(attend) => {
                attend.replica().scan().map(Task::Scan).map_err(|error| error.to_string())
            }
        };
        match task {
            Ok(task) => {
                database.scanning = true;
                self.scans.perform(database.ticket(), task);
            }
            Err(why) => self.trouble(path, why, now),
        }
    }

    /// Takes what the worker found.
    pub(super) fn found(&mut self, now: Instant) {
        while let Some((ticket, done)) = self.scans.done().or_else(|| self.checkpoints.done()) {
            self.stirred = true;
            let asked = |database: &&Database| database.ticket() == ticket;
            let Some(path) = self.databases.values().find(asked).map(|d| d.path.clone()) else {
                continue;
            };
            if let Err(why) = self.take(&path, done, now) {
                self.trouble(&path, why, now);
            }
        }
    }

    fn take(&mut self, path: &Path, done: Done, now: Instant) -> Result<(), String> {
        let Some(database) = self.databases.get_mut(path) else { return Ok(()) };
        database.look_at = now;
        let stream = self.stream.as_mut();
        match (done, &mut database.side) {
            (Done::Table(found), Side::Lead(lead)) => {
                database.scanning = false;
                lead.scanned(found.map_err(|error| error.to_string())?);
                if let Some(sum) = lead.sum() {
                    database.ledger.note(lead.shipped(), sum);
                }
            }
            (Done::Scan(found), Side::Attend(attend)) => {
                database.scanning = false;
                let scanned = found.map_err(|error| error.to_string())?;
                if attend.scanned(scanned, &mut database.ledger).is_err() {
                    // Somebody wrote meanwhile, or a transaction was applied.
                    self.begin_scan(path, now);
                }
            }
            (Done::Archive(found), Side::Attend(attend)) => match found {
                Ok(archived) => {
                    database.counters.archived += 1;
                    let outcome = attend.archived(&mut Outlet::new(stream));
                    self.say(Notice::Archived(path.to_owned(), archived.database));
                    if let Outcome::Remake(entry) = outcome {
                        self.remake(path, *entry, now);
                    }
                }
                Err(error) => {
                    attend.pause(error.to_string(), now, &mut Outlet::new(stream));
                    return Err(error.to_string());
                }
            },
            (Done::Checkpoint(ended), Side::Attend(_)) => {
                database.checkpointing = false;
                if let Err(error) = ended {
                    tracing::warn!(%error, "a checkpoint of a copy failed");
                }
            }
            (Done::Scrub(found), _) => self.scrubbed(path, found, now),
            (
                Done::Table(_) | Done::Scan(_) | Done::Archive(_) | Done::Checkpoint(_),
                Side::Closed | Side::Lead(_) | Side::Yield(_) | Side::Attend(_),
            ) => {}
        }
        Ok(())
    }

    /// This node's copy holds something that the primary may lack.
    fn diverged(&mut self, path: &Path, kinship: Kinship, now: Instant) {
        let Some(database) = self.databases.get(path) else { return };
        if database.ledger.held() {
            return;
        }
        if database.ledger.is_empty() {
            // Never part of a pair: there is nothing to rule on, and it is kept.
            return self.rule(path, true, now);
        }
        self.say(Notice::Diverged(path.to_owned(), kinship));
    }

    /// The ruling on a copy that diverged.
    pub(super) fn rule(&mut self, path: &Path, winner: bool, now: Instant) {
        let Some(database) = self.databases.get_mut(path) else { return };
        let Side::Attend(attend) = &mut database.side else { return };
        let Stage::Diverged(kinship) = *attend.stage() else { return };
        if let Err(error) = database.ledger.hold(!winner) {
            return self.say(Notice::Trouble(path.to_owned(), error.to_string()));
        }
        if !winner {
            return;
        }
        let at = attend.position().or(database.ledger.newest()).unwrap_or_default();
        let task = attend.replica().scan().map_err(|error| error.to_string()).map(|scan| {
            attend.archiving(kinship);
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Task::Archive { scan, folder: self.options.archive.clone(), name, at }
        });
        match task {
            Ok(task) => {
                self.scans.perform(database.ticket(), task);
            }
            Err(why) => self.trouble(path, why, now),
        }
    }

    /// Compares everything anew, whatever is known.
    pub(super) fn resync(&mut self, path: &Path, now: Instant) {
        let Some(database) = self.databases.get_mut(path) else { return };
        match &mut database.side {
            Side::Closed => self.open(path, now),
            Side::Yield(_) => {}
            Side::Lead(_) => self.start_over(path, now),
            Side::Attend(attend) => {
                if matches!(attend.stage(), Stage::Diverged(_)) {
                    return self.rule(path, true, now);
                }
                attend.forget();
                self.begin_scan(path, now);
            }
        }
    }

    /// Compares all pages with what is known of them.
    pub(super) fn scrub(&mut self, path: Option<&Path>, now: Instant) {
        for database in self.databases.values_mut() {
            if path.is_none_or(|path| path == database.path) {
                database.scrub.due = Some(now);
                database.look_at = now;
            }
        }
    }

    /// Pages were not what they should be. A copy that waits for an operator's word goes on
    /// waiting.
    fn mend(&mut self, path: &Path, now: Instant) {
        let Some(database) = self.databases.get_mut(path) else { return };
        if let Side::Attend(attend) = &mut database.side
            && matches!(attend.stage(), Stage::Diverged(_))
        {
            attend.forget();
            return self.begin_scan(path, now);
        }
        self.resync(path, now);
    }

    fn scrubbed(&mut self, path: &Path, found: Result<Vec<u32>, String>, now: Instant) {
        let Some(database) = self.databases.get_mut(path) else { return };
        let interval = self.options.patterns[database.pattern].scrub;
        database.scrub.under_way = false;
        database.scrub.due = interval.map(|interval| now + interval);
        match found {
            Ok(wrong) => {
                database.scrub.last = Some((now, wrong.len()));
                self.say(Notice::Scrubbed(path.to_owned(), wrong.len()));
                if !wrong.is_empty() {
                    self.mend(path, now);
                }
            }
            Err(why) => {
                database.scrub.due = Some(now + LOOK_ALWAYS_INTERVAL);
                tracing::warn!(database = %path.display(), %why, "a scrub ended early");
            }
        }
    }

    fn begin_scrubs(&mut self, now: Instant) {
        for path in self.paths(|database| database.scrub.is_due(now) && !database.scanning) {
            let Some(database) = self.databases.get_mut(&path) else { continue };
            let task = match &mut database.side {
                Side::Closed | Side::Yield(_) => None,
                Side::Lead(lead) => lead
                    .scrub()
                    .map(|(snapshot, table, changed)| Task::Scrub(snapshot, table, changed)),
                Side::Attend(attend) => attend.replica().table().cloned().and_then(|table| {
                    let scan = attend.replica().scan().ok()?;
                    (!attend.replica().foreign_write()).then_some(Task::ScrubCopy(scan, table))
                }),
            };
            let Some(task) = task else { continue };
            database.scrub.under_way = true;
            self.scans.perform(database.ticket(), task);
        }
    }

    /// Checkpoints of copies that are due.
    fn begin_checkpoints(&mut self, now: Instant, slow: bool) {
        for database in self.databases.values_mut() {
            let look = slow || database.is_lively(now);
            let Side::Attend(attend) = &mut database.side else { continue };
            if database.checkpointing || !look {
                continue;
            }
            if let Some(checkpoint) = attend.replica_mut().checkpoint_due(now) {
                database.checkpointing = true;
                let task = Task::Checkpoint(checkpoint);
                self.checkpoints.perform(database.ticket(), task);
            }
        }
    }

    /// Writers wait where the standby lacks more than they may risk.
    fn back_pressure(&mut self) {
        if self.hold.is_some() {
            return;
        }
        for database in self.databases.values_mut() {
            let max = self.options.patterns[database.pattern].unacked_max;
            let Side::Lead(lead) = &mut database.side else { continue };
            if max == 0 {
                continue;
            }
            let unacked = lead.unacked().unwrap_or(0);
            let held = lead.source().writers_held();
            let outcome = match held {
                false if unacked > max => lead.source_mut().hold_writers(Duration::ZERO).map(drop),
                true if unacked <= max / 2 => lead.source_mut().release_writers(),
                true | false => Ok(()),
            };
            if let Err(error) = outcome {
                tracing::warn!(database = %database.path.display(), %error, "back-pressure");
            }
        }
    }

    /// Renews what others see, and begins what is due now and then.
    pub(super) fn post(&mut self, now: Instant) {
        self.statuses = self.statuses.wrapping_add(1);
        let slow = self.statuses.is_multiple_of(STATUSES_PER_SLOW);
        self.begin_scrubs(now);
        self.begin_checkpoints(now, slow);
        self.tell_heads();
        for database in self.databases.values_mut() {
            if let (true, Some(attached)) =
                (slow || database.is_lively(now), database.side.attached())
            {
                database.wal_bytes = attached.wal().metadata().map_or(0, |found| found.len());
            }
        }
        let all = self.databases.values().map(|database| self.status_of(database, now)).collect();
        self.shown.post(all);
    }

    fn tell_heads(&mut self) {
        let Role::Leading(_) = self.role else { return };
        if self.stream.is_none() {
            return;
        }
        let behind: Vec<_> = self
            .databases
            .values()
            .filter_map(|database| match &database.side {
                Side::Lead(lead) if lead.acked() != Some(lead.head()) => {
                    Some((database.id, lead.head()))
                }
                Side::Closed | Side::Lead(_) | Side::Yield(_) | Side::Attend(_) => None,
            })
            .collect();
        for (id, head) in behind {
            self.send(&crate::wire::Message::Head(id, head));
        }
    }

    fn status_of(&self, database: &Database, now: Instant) -> DatabaseStatus {
        let pattern = &self.options.patterns[database.pattern];
        let mut status = DatabaseStatus {
            name: database.name.clone(),
            path: database.path.clone(),
            state: State::Opening,
            position: None,
            head: None,
            behind: None,
            behind_since: None,
            behind_bytes: 0,
            pages: 0,
            page_bytes: 0,
            wal_bytes: database.wal_bytes,
            sum: None,
            sync: pattern.sync.is_some(),
            counters: database.counters,
            trouble: database.trouble.clone(),
            scrubbed: database
                .scrub
                .last
                .map(|(at, wrong)| (now.saturating_duration_since(at).as_secs(), wrong)),
        };
        match &database.side {
            Side::Closed => {}
            Side::Lead(lead) | Side::Yield(lead) => lead.describe(&mut status),
            Side::Attend(attend) => attend.describe(&mut status),
        }
        status
    }
}

/// The next moment at which all that are quiet are looked at.
fn together(began: Instant, soon: Instant) -> Instant {
    let each = LOOK_TOGETHER.as_millis();
    let ticks = soon.saturating_duration_since(began).as_millis().div_ceil(each);
    u32::try_from(ticks).map_or(soon, |ticks| began + LOOK_TOGETHER * ticks)
}

impl DatabaseCounters {
    fn stalled(&mut self, capture: Counters) {
        self.stalls = capture.stalls;
        self.stall_us_max = capture.stall_us_max;
    }
}

impl Scrub {
    fn is_due(&self, now: Instant) -> bool {
        !self.under_way && self.due.is_some_and(|due| due <= now)
    }
}

impl Database {
    /// What is due here, and whether work is left that waits for nobody.
    fn turn(
        &mut self,
        now: Instant,
        looked: bool,
        began: Instant,
        outlet: &mut Outlet<'_>,
    ) -> (Need, bool) {
        // Out of its place for as long as the rest of this database changes with it.
        let mut side = std::mem::replace(&mut self.side, Side::Closed);
        let (need, busy, next) = match &mut side {
            Side::Closed => (Need::Nothing, false, now + LOOK_ALWAYS_INTERVAL),
            Side::Yield(_) => (Need::Yield, false, now + YIELD_INTERVAL),
            Side::Lead(lead) => self.turn_original(lead, now, looked, outlet),
            Side::Attend(attend) => self.turn_copy(attend, now, outlet),
        };
        self.side = side;
        let soon = now.max(next).min(now + LOOK_ALWAYS_INTERVAL);
        // One wake-up for all that are quiet.
        let near = soon < now + LOOK_TOGETHER;
        self.look_at = if near { soon } else { together(began, soon) };
        (need, busy)
    }

    fn turn_original(
        &mut self,
        lead: &mut Lead,
        now: Instant,
        looked: bool,
        outlet: &mut Outlet<'_>,
    ) -> (Need, bool, Instant) {
        let captured = if looked { lead.capture(now) } else { Ok(Default::default()) };
        let turn = match captured {
            Ok(turn) => turn,
            Err(error) => return (Need::Broken(error.to_string()), false, now),
        };
        if let Some(lost) = turn.lost {
            return (Need::Anew(lost.to_string()), true, now);
        }
        if turn.busy {
            self.lively_until = now + LIVELY_FOR;
            let since = now.saturating_duration_since(self.captured_at);
            self.captured_at = now;
            if since < super::QUICK_COMMITS {
                self.quick_until = now + super::QUICK_FOR;
            } else if !turn.more && !lead.source().is_amid() {
                // What comes next is noticed anew.
                self.noticed_at = None;
            }
        }
        let more = match lead.ship(self.id, &mut self.ledger, outlet) {
            Ok(more) => more,
            Err(error) => return (Need::Broken(error.to_string()), false, now),
        };
        if lead.is_astray() {
            return (Need::Anew("a snapshot does not follow the trail".into()), true, now);
        }
        if let Some(copied) = lead.take_copied() {
            self.counters.copies += 1;
            self.counters.copied_pages += copied.pages;
        }
        self.counters.stalled(lead.source().counters());
        let wants = lead.wants_scan() && !self.scanning;
        let need = if wants { Need::Scan } else { Need::Nothing };
        let due = lead.source().next_due().unwrap_or(now + LOOK_ALWAYS_INTERVAL);
        let due = lead.ship_due().map_or(due, |ship| due.min(ship));
        // Pages are compared when the source says, not sooner.
        let noticed = self.noticed_at.filter(|_| !lead.source().is_kept());
        let look = noticed.and_then(|at| super::look_after(now, at));
        self.noticed_at = noticed.filter(|_| look.is_some());
        let quick = now < self.quick_until && !lead.source().is_kept();
        let look = if quick { Some(now + super::LOOK_INTERVAL_MIN) } else { look };
        (need, turn.more || more, look.map_or(due, |look| due.min(look)))
    }

    fn turn_copy(
        &mut self,
        attend: &mut Attend,
        now: Instant,
        outlet: &mut Outlet<'_>,
    ) -> (Need, bool, Instant) {
        let need = match attend.go_on(now, &mut self.ledger, outlet) {
            Outcome::Nothing | Outcome::Copied { .. } => Need::Nothing,
            Outcome::Scan => Need::Scan,
            Outcome::Diverged(kinship) => Need::Ruling(kinship),
            Outcome::Remake(entry) => Need::Remake(entry),
        };
        let need = match (need, attend.stage()) {
            (Need::Nothing, Stage::Scanning) if !self.scanning => Need::Scan,
            (Need::Nothing, Stage::Following) if self.trouble.take().is_some() => Need::Healed,
            (need, _) => need,
        };
        let interval = match attend.stage() {
            Stage::Following | Stage::Scanning | Stage::Offered | Stage::Diverged(_) => {
                LOOK_ALWAYS_INTERVAL
            }
            Stage::Known | Stage::Archiving(_) | Stage::Paused { .. } => TEND_COPY_INTERVAL,
        };
        (need, false, now + interval)
    }

    /// Not where one commit follows the other, so that the next is looked for and not waited for,
    /// nor where only this daemon writes.
    fn wants_notices(&self, now: Instant) -> bool {
        match &self.side {
            Side::Lead(lead) => now >= self.quick_until || lead.source().is_kept(),
            Side::Attend(attend) => *attend.stage() != Stage::Following,
            Side::Closed | Side::Yield(_) => true,
        }
    }

    /// Somebody wrote it a short while ago.
    fn is_lively(&self, now: Instant) -> bool {
        now < self.lively_until
    }
}
