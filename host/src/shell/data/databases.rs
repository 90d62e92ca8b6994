//! Databases in the daemon: starts their engine and turns its words into the journal's, the core's,
//! the policies' and the peer's.

use super::{Report, age_ms, name_id};
use crate::config::{Alone, CommitMode, Config, JournalMode};
use crate::journal::EventLevel;
use crate::shell::decide::{Divergence, Job};
use crate::shell::inbox::Outbox;
use crate::shell::report::Reporter;
use anyhow::Context;
use staffetta_core::{Event, SyncId};
use staffetta_db::{DatabaseStatus, Handle, Kinship, Notice, Options, Pattern};
use staffetta_policy::types::{Copied, Data, DataKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;

/// The engine, and the number of its last word to the core about what the standby has.
pub(super) struct Databases {
    pub(super) engine: Handle,
    pub(super) word: Arc<AtomicU64>,
}

/// Starts the engine; none where no database is configured.
pub(super) fn start(
    config: &Config,
    outbox: &Outbox,
    reporter: &Reporter,
    jobs: &Sender<Job>,
) -> anyhow::Result<Option<Databases>> {
    if config.databases.is_empty() {
        return Ok(None);
    }
    let archive = config.archive_dir();
    std::fs::create_dir_all(&archive)
        .with_context(|| format!("cannot make {} for archived databases", archive.display()))?;
    let options = Options {
        patterns: config.databases.iter().map(pattern).collect(),
        state: config.node.state_dir.join("databases"),
        archive,
        barrier: Some(config.barrier_socket()),
    };
    let word = Arc::new(AtomicU64::new(0));
    let teller = Teller {
        outbox: outbox.clone(),
        reporter: reporter.clone(),
        jobs: jobs.clone(),
        word: Arc::clone(&word),
    };
    let engine = staffetta_db::start(options, move |notice| teller.tell(notice))?;
    Ok(Some(Databases { engine, word }))
}

fn pattern(config: &crate::config::DatabaseConfig) -> Pattern {
    Pattern {
        name: config.name.clone(),
        pattern: config.pattern.clone(),
        keep_journal: config.journal == JournalMode::Keep,
        sync: (config.mode == CommitMode::Sync).then_some(config.sync_timeout),
        block_alone: config.sync_alone == Alone::Block,
        durable: config.durable_ack,
        unacked_max: config.unacked_max,
        scrub: config.scrub_interval,
    }
}

/// The identity of a database on the wire of the heartbeats.
pub(super) fn id_of(status: &DatabaseStatus) -> u64 {
    name_id(&status.name)
}

/// Whether it may be served: not diverged, not half copied.
pub(super) fn is_fit(status: &DatabaseStatus) -> bool {
    use staffetta_db::State;
    match status.state {
        State::Diverged => false,
        State::Catching => status.position.is_some(),
        State::Opening
        | State::Alone
        | State::Shipping
        | State::Leading
        | State::Waiting
        | State::Following => true,
    }
}

fn copy_of(status: &DatabaseStatus) -> Copied {
    use staffetta_db::State;
    match status.state {
        State::Diverged => Copied::Diverged,
        State::Opening => Copied::Unknown,
        State::Alone | State::Leading | State::Shipping => Copied::Aligned,
        State::Waiting | State::Catching => match (status.position, status.head) {
            (Some(at), Some(head)) if at == head => Copied::Aligned,
            (Some(_), _) => Copied::Behind,
            (None, _) => Copied::Unknown,
        },
        State::Following if status.behind == Some(0) => Copied::Aligned,
        State::Following => Copied::Behind,
    }
}

pub(super) fn data_of(status: &DatabaseStatus) -> Data {
    let position = status.position.unwrap_or_default();
    let missing = match (status.position, status.head) {
        (Some(at), Some(head)) if at.epoch == head.epoch => head.txid.saturating_sub(at.txid),
        _ => 0,
    };
    Data {
        kind: DataKind::Database,
        name: status.name.clone(),
        epoch: position.epoch,
        seq: position.txid,
        copy: copy_of(status),
        behind_items: status.behind.unwrap_or(missing),
        behind_bytes: status.behind_bytes,
        behind: u32::try_from(age_ms(status.behind_since)).unwrap_or(u32::MAX),
        age: 0,
    }
}

pub(super) fn report_of(status: &DatabaseStatus) -> Report {
    // Where it leads, what is behind is what the standby did not acknowledge.
    let lacks = status.behind.filter(|_| status.state == staffetta_db::State::Leading);
    Report { id: id_of(status), data: data_of(status), lacks }
}

/// Turns the engine's words into the journal's, the core's and the policy's.
struct Teller {
    outbox: Outbox,
    reporter: Reporter,
    jobs: Sender<Job>,
    word: Arc<AtomicU64>,
}

impl Teller {
    fn tell(&self, notice: Notice) {
        use EventLevel::{Error, Info, Warn};
        let say = |level, name: &str, text: String| self.reporter.event(level, name, text);
        let at = |path: &PathBuf| path.display().to_string();
        match notice {
            Notice::Found(path) => say(Info, "database", format!("{} is replicated", at(&path))),
            Notice::Vanished(path) => {
                let text = format!("{} is gone; a copy on the peer stays there", at(&path));
                say(Warn, "database-gone", text);
            }
            Notice::Replaced(path) => {
                let text = format!("{} was replaced by another file: compared anew", at(&path));
                say(Warn, "database-replaced", text);
            }
            Notice::Trouble(path, why) => {
                say(Error, "database-trouble", format!("{}: {why}", at(&path)));
            }
            Notice::Healed(path) => say(Info, "database", format!("{} is well again", at(&path))),
            Notice::LostTrail(path, why) => {
                let text = format!("{}: {why}; all pages are compared", at(&path));
                say(Warn, "database-resync", text);
            }
            Notice::Copied(path, pages, of) => {
                let text = format!("{} was brought up to date: {pages} of {of} pages", at(&path));
                say(Info, "database-copied", text);
            }
            Notice::Archived(path, archive) => {
                let archive = archive.display();
                let text = format!("what only this node had of {} is in {archive}", at(&path));
                say(Warn, "database-archived", text);
            }
            Notice::Scrubbed(path, 0) => {
                tracing::debug!(database = %path.display(), "all pages are as they should be");
            }
            Notice::Scrubbed(path, wrong) => {
                let text = format!("{}: {wrong} pages are wrong; compared anew", at(&path));
                say(Error, "database-scrub", text);
            }
            Notice::Missing(path, missing) => self.missing(&at(&path), missing),
            Notice::Degraded(commits) => {
                let text = format!("{commits} synchronous commits were answered without the peer");
                say(Warn, "sync-degraded", text);
            }
            Notice::Diverged(path, kinship) => self.diverged(path, kinship),
            Notice::Desynced(database) => {
                let text = format!("{database}: the standby does not acknowledge in time");
                say(Warn, "sync-lost", text);
                self.synced(false);
            }
            Notice::Synced => {
                say(Info, "sync", "the standby has all synchronous commits again".into());
                self.synced(true);
            }
        }
    }

    fn synced(&self, synced: bool) {
        let word = self.word.fetch_add(1, Ordering::AcqRel) + 1;
        self.outbox.event(Event::Synced(SyncId(word), synced));
    }

    /// A crash takeover says what may be missing.
    fn missing(&self, database: &str, missing: Option<u64>) {
        let (level, text) = match missing {
            Some(0) => {
                (EventLevel::Info, format!("{database}: nothing of the last primary is missing"))
            }
            Some(count) => (
                EventLevel::Warn,
                format!(
                    "{database}: the last {count} transactions of the last primary are missing"
                ),
            ),
            None => (
                EventLevel::Warn,
                format!("{database}: what the last primary wrote last is not known"),
            ),
        };
        self.reporter.event(level, "database-takeover", text);
    }

    fn diverged(&self, path: PathBuf, kinship: Kinship) {
        let text = match kinship {
            Kinship::Ancestor => return,
            Kinship::Diverged { own: Some(own), .. } => {
                format!("{}: {own} transactions are on this node alone", path.display())
            }
            Kinship::Diverged { own: None, .. } => format!(
                "{}: holds what the primary may not have (written while the daemon was away, or \
                 the power failed)",
                path.display()
            ),
        };
        self.reporter.event(EventLevel::Warn, "database-diverged", text);
        // The policy thread ends with the process only.
        let _ = self.jobs.send(Job::Rule(Divergence::Database(path, kinship)));
    }
}
