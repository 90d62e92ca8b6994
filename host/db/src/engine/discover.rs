//! Files that appear, go, and are replaced; opening and closing them.

use super::{DISCOVER_INTERVAL, Database, Engine, Former, Role, Scrub, Side};
use crate::apply::{Durability, Replica};
use crate::attach::{AttachError, Attached, Files, beside};
use crate::attend::Attend;
use crate::capture::Source;
use crate::checkpoint;
use crate::lead::Lead;
use crate::ledger::Ledger;
use crate::sites;
use crate::status::{DatabaseCounters, Notice};
use crate::wire::DATABASES_MAX;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// What could not be opened is tried again after this.
pub(super) const RETRY: Duration = Duration::from_secs(5);

impl Engine {
    /// Looks for files that the patterns mean, and for those that went.
    pub(super) fn discover(&mut self, now: Instant) {
        let mut found: BTreeSet<PathBuf> = BTreeSet::new();
        for at in 0..self.options.patterns.len() {
            let pattern = self.options.patterns[at].pattern.clone();
            if let Some(folder) = Path::new(&pattern).parent() {
                self.watch.folder(folder);
            }
            let known = |path: &Path| self.databases.contains_key(path);
            for path in sites::expand(&pattern, DATABASES_MAX - found.len(), known) {
                if !self.databases.contains_key(&path) {
                    self.add(path.clone(), at, now);
                }
                found.insert(path);
            }
        }
        self.refused.retain(|path, _| found.contains(path));
        for path in self.paths(|database| !found.contains(&database.path)) {
            self.vanished(&path, now);
        }
        self.look_for_absent();
        for path in self.paths(Database::is_replaced) {
            self.reopen(&path, now);
            self.say(Notice::Replaced(path));
        }
        for path in self.paths(|database| database.is_closed() && database.retry_at <= now) {
            self.open(&path, now);
        }
        let known = &self.databases;
        self.former.retain(|path, former| known.contains_key(path) || former.sweep().is_err());
        self.name_lacking(now);
        self.return_to_journals(now);
    }

    /// A volume that is not mounted must not pass for a standby that has everything.
    fn look_for_absent(&mut self) {
        for (at, pattern) in self.options.patterns.iter().enumerate() {
            let means = |path: &PathBuf| sites::means(&pattern.pattern, path);
            let is_absent = pattern.sync.is_some()
                && !self.databases.values().any(|database| database.pattern == at)
                && !self.refused.keys().any(means)
                && self.known.iter().any(means);
            if !is_absent {
                self.absent.remove(&at);
            } else if self.absent.insert(at) {
                let pattern = PathBuf::from(&pattern.pattern);
                (self.notices)(Notice::Trouble(pattern, super::wait::ABSENT.into()));
            }
        }
    }

    /// The paths of some databases.
    pub(super) fn paths(&self, which: impl Fn(&Database) -> bool) -> Vec<PathBuf> {
        let some = self.databases.values().filter(|database| which(database));
        some.map(|database| database.path.clone()).collect()
    }

    /// Where a database of the peer's is on this node, and the number of the pattern that says so.
    pub(super) fn site_of(&self, name: &str) -> Option<(PathBuf, usize)> {
        self.options.patterns.iter().enumerate().find_map(|(at, pattern)| {
            Some((sites::path_of(&pattern.name, &pattern.pattern, name)?, at))
        })
    }

    /// Begins to care for a database, and opens it.
    pub(super) fn add(&mut self, path: PathBuf, pattern: usize, now: Instant) {
        if path.to_str().is_none() {
            return self.refuse(path, "its name is not UTF-8: rename it".into());
        }
        let ledger = match Ledger::open(&self.options.state, &path) {
            Ok(ledger) => ledger,
            Err(error) => return self.refuse(path, error.to_string()),
        };
        self.refused.remove(&path);
        let of = &self.options.patterns[pattern];
        let interval = of.scrub;
        let database = Database {
            name: sites::name_of(&of.name, &of.pattern, &path),
            path: path.clone(),
            pattern,
            id: self.next_id,
            generation: self.generation,
            files: Weak::new(),
            scanning: false,
            checkpointing: false,
            ledger,
            side: Side::Closed,
            returns: false,
            counters: DatabaseCounters::default(),
            trouble: None,
            retry_at: now,
            noticed_at: None,
            lively_until: now,
            wal_bytes: 0,
            captured_at: now,
            quick_until: now,
            look_at: now,
            unread: false,
            scrub: Scrub { due: interval.map(|i| now + i), under_way: false, last: None },
        };
        self.next_id += 1;
        self.databases.insert(path.clone(), database);
        self.say(Notice::Found(path.clone()));
        self.open(&path, now);
    }

    /// A file that is not cared for; tried again each time that files are looked for.
    fn refuse(&mut self, path: PathBuf, why: String) {
        if self.refused.insert(path.clone(), why.clone()).as_ref() != Some(&why) {
            self.say(Notice::Trouble(path, why));
        }
    }

    fn vanished(&mut self, path: &Path, now: Instant) {
        self.part_from(path);
        let Some(database) = self.databases.remove(path) else { return };
        let id = database.id;
        if !database.ledger.lineage().is_empty() {
            self.known.insert(path.to_owned());
        }
        self.watch.forget(id);
        self.tell_gone(id);
        self.discover_at = now + DISCOVER_INTERVAL;
        self.say(Notice::Vanished(path.to_owned()));
    }

    /// Opens a file in the role of the moment. What fails is tried again.
    pub(super) fn open(&mut self, path: &Path, now: Instant) {
        let Some(database) = self.databases.get_mut(path) else { return };
        if let Some(former) = self.former.get(path) {
            if let Err(error) = former.sweep() {
                return self.trouble(path, error.to_string(), now);
            }
            // Of this very file, perhaps, and somebody else still uses them.
            database.files = Arc::downgrade(&former.files);
            self.former.remove(path);
        }
        let Some(database) = self.databases.get(path) else { return };
        let durable = self.options.patterns[database.pattern].durable;
        let side = match self.role {
            Role::Leading(epoch) => lead(path, self.keeps(path), epoch, &database.files),
            Role::Following => Attached::open_again(path, &database.files)
                .map_err(|error| error.to_string())
                .and_then(|attached| attend(Rc::new(attached), durable)),
        };
        self.opened(path, side, now);
    }

    /// Takes over what was opened, or what hindered it.
    pub(super) fn opened(&mut self, path: &Path, side: Result<Side, String>, now: Instant) {
        self.generation += 1;
        let generation = self.generation;
        let Some(database) = self.databases.get_mut(path) else { return };
        database.generation = generation;
        database.scanning = false;
        database.checkpointing = false;
        database.scrub.under_way = false;
        database.look_at = now;
        self.stirred = true;
        match side {
            Ok(mut side) => {
                database.files = side.files().map_or_else(Weak::new, Arc::downgrade);
                match &mut side {
                    Side::Closed => {}
                    Side::Lead(lead) | Side::Yield(lead) => {
                        database.ledger.lives(lead.source().identity());
                    }
                    Side::Attend(attend) => {
                        database.ledger.lives(attend.replica().attached().identity());
                        if let Some(entry) = self.entries.get(&database.name) {
                            attend.named(entry.clone());
                        }
                    }
                }
                let log = match &side {
                    Side::Lead(lead) | Side::Yield(lead) => lead.source().written(path),
                    Side::Closed | Side::Attend(_) => beside(path, "-wal"),
                };
                database.side = side;
                let (id, healed) = (database.id, database.trouble.take().is_some());
                self.watch.log(&log.canonicalize().unwrap_or(log), id);
                if let Role::Leading(epoch) = self.role {
                    self.begin_reign(path, epoch);
                    self.name_one(path);
                    self.hold_one(path);
                }
                if healed {
                    self.say(Notice::Healed(path.to_owned()));
                }
            }
            Err(why) => {
                database.side = Side::Closed;
                self.trouble(path, why, now);
            }
        }
    }

    /// Closes a database, to be opened again later.
    pub(super) fn trouble(&mut self, path: &Path, why: String, now: Instant) {
        let Some(database) = self.databases.get_mut(path) else { return };
        database.side = Side::Closed;
        database.retry_at = now + RETRY;
        let news = database.trouble.as_ref() != Some(&why);
        database.trouble = Some(why.clone());
        if news {
            self.say(Notice::Trouble(path.to_owned(), why));
        }
    }

    /// Closes and opens a database: its path leads elsewhere, or nothing known of it holds.
    pub(super) fn reopen(&mut self, path: &Path, now: Instant) {
        self.part_from(path);
        self.open(path, now);
    }

    /// Closes a database whose path leads elsewhere, perhaps. What its log has that the file has
    /// not goes there, wherever it is now; the log goes when nobody has it open.
    fn part_from(&mut self, path: &Path) {
        let Some(database) = self.databases.get_mut(path) else { return };
        let side = std::mem::replace(&mut database.side, Side::Closed);
        let Some(attached) = side.attached() else { return };
        if attached.replaced()
            && let Err(error) = checkpoint::passive(attached.keeper())
        {
            tracing::warn!(database = %path.display(), %error, "its last commits are in its log");
        }
        let former = Former { path: attached.path().into(), files: Arc::clone(attached.files()) };
        self.former.insert(path.to_owned(), former);
    }
}

impl Former {
    fn sweep(&self) -> Result<(), AttachError> {
        self.files.sweep(&self.path)
    }
}

impl Database {
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.side, Side::Closed)
    }

    fn is_replaced(&self) -> bool {
        match &self.side {
            Side::Closed => false,
            Side::Lead(lead) | Side::Yield(lead) => lead.source().replaced(),
            Side::Attend(attend) => {
                let attached = attend.replica().attached();
                attached.replaced() || attached.log_replaced()
            }
        }
    }
}

impl Side {
    /// The descriptors.
    pub(super) fn files(&self) -> Option<&Arc<Files>> {
        match self {
            Side::Closed => None,
            Side::Lead(lead) | Side::Yield(lead) => Some(lead.source().files()),
            Side::Attend(attend) => Some(attend.replica().attached().files()),
        }
    }

    /// The log and what else is open; none of a database with a rollback journal.
    pub(super) fn attached(&self) -> Option<&Attached> {
        match self {
            Side::Closed => None,
            Side::Lead(lead) | Side::Yield(lead) => lead.source().log(),
            Side::Attend(attend) => Some(attend.replica().attached()),
        }
    }
}

fn lead(path: &Path, keep_journal: bool, epoch: u64, files: &Weak<Files>) -> Result<Side, String> {
    let as_is = keep_journal.then(|| Attached::open_as_is_again(path, files));
    let lead = match as_is {
        Some(Ok(attached)) => {
            let (source, table) = Source::of_kept(attached)?;
            let lead = Lead::new(source, epoch);
            match table {
                Some(table) => lead.with_table(table),
                None => lead,
            }
        }
        None | Some(Err(AttachError::IsWal { .. })) => {
            let attached = Attached::open_again(path, files).map_err(|error| error.to_string())?;
            Lead::new(Source::of_log(Rc::new(attached))?, epoch)
        }
        Some(Err(error)) => return Err(error.to_string()),
    };
    Ok(Side::Lead(Box::new(lead)))
}

pub(super) fn attend(attached: Rc<Attached>, durable: bool) -> Result<Side, String> {
    let durability = if durable { Durability::Durable } else { Durability::Applied };
    let replica = Replica::open(attached, durability).map_err(|error| error.to_string())?;
    Ok(Side::Attend(Box::new(Attend::new(replica))))
}
