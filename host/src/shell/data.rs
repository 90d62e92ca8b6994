//! Databases in the daemon: starts their engine and its channel, carries the core's wishes to it,
//! and its words to the core, the journal and the split-brain policy.
//!
//! The data plane decides nothing about roles: it is told who leads, and says what the standby has.

use super::decide::Job;
use super::inbox::Outbox;
use super::report::Reporter;
use crate::config::{Alone, CommitMode, Config, JournalMode};
use crate::journal::EventLevel;
use crate::link::DataReport;
use anyhow::Context;
use staffetta_bulk::{
    Bandwidth, Credentials, Dialer, DialerConfig, Listener, ListenerConfig, Purpose, Reception,
};
use staffetta_core::{Epoch, Event, Note, Role, Shipment, SyncId};
use staffetta_db::{Command, DatabaseStatus, Handle, Kinship, Notice, Options, Pattern, Position};
use staffetta_policy::types::{Copied, Data, DataKind};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A standby lacks nothing that matters when it lacks nothing for longer than this.
pub(crate) const ALIGNED_MS_MAX: u64 = 1_000;
/// The data's part of a planned move ends this long before the core's patience does.
const DRAIN_MARGIN: Duration = Duration::from_millis(200);

/// The data plane as the rest of the daemon has it. Cheap to clone; does nothing where no database
/// is configured.
#[derive(Clone, Default)]
pub(crate) struct DataLink(Option<Arc<Plane>>);

struct Plane {
    engine: Handle,
    dialer: Dialer,
    _listener: Listener,
    outbox: Outbox,
    patience: Duration,
    /// The number of the last word to the core about what the standby has.
    word: Arc<AtomicU64>,
    /// What the peer said of its databases, by the hash of their names.
    peer: Mutex<Vec<(DataReport, Instant)>>,
}

/// Starts the engine and the channel, where databases are configured.
///
/// # Errors
/// When the engine, a certificate, or a port cannot be had; names it.
pub(crate) fn start(
    config: &Config,
    outbox: &Outbox,
    reporter: &Reporter,
    jobs: &Sender<Job>,
) -> anyhow::Result<DataLink> {
    if config.databases.is_empty() {
        return Ok(DataLink(None));
    }
    let archive = config.archive_dir();
    std::fs::create_dir_all(&archive)
        .with_context(|| format!("cannot make {} for archived databases", archive.display()))?;
    std::fs::create_dir_all(&config.node.run_dir)
        .with_context(|| format!("cannot make {}", config.node.run_dir.display()))?;
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
    let secret = *config.secret()?.bytes();
    let names = (&config.node.name, &config.peer.name);
    let credentials = Credentials::derive(&secret, config.cluster.id, names.0, names.1)?;
    let cap = config.bulk.bytes_per_s_max.and_then(NonZeroU64::new);
    let bandwidth = Bandwidth::new(cap);
    let listener = listen(config, &engine, &credentials, &bandwidth)?;
    let dialer = Dialer::start(DialerConfig {
        credentials,
        bandwidth,
        routes: config
            .links
            .iter()
            .map(|link| {
                let from = SocketAddr::new(link.local.ip(), 0);
                (from, SocketAddr::new(link.peer.ip(), config.bulk.port))
            })
            .collect(),
        purpose: Purpose::Databases,
        payload: Arc::new(Vec::new),
        streams: engine.streams(),
        wake: engine.wake(),
    })?;
    dialer.resume();
    let patience = drain_patience(config).saturating_sub(DRAIN_MARGIN);
    let peer = Mutex::default();
    let outbox = outbox.clone();
    let plane = Plane { engine, dialer, _listener: listener, outbox, patience, word, peer };
    Ok(DataLink(Some(Arc::new(plane))))
}

/// Takes streams of the standby while this node leads.
fn listen(
    config: &Config,
    engine: &Handle,
    credentials: &Credentials,
    bandwidth: &Bandwidth,
) -> anyhow::Result<Listener> {
    let leading = engine.clone();
    Listener::start(ListenerConfig {
        credentials: credentials.clone(),
        bandwidth: bandwidth.clone(),
        addresses: addresses(config, |link| SocketAddr::new(link.local.ip(), config.bulk.port)),
        expected: config.links.iter().map(|link| link.peer.ip()).collect(),
        receptions: vec![Reception {
            purpose: Purpose::Databases,
            streams: engine.streams(),
            wake: engine.wake(),
            answer: Arc::new(move |_| match leading.leading() {
                Some(_) => Ok(Vec::new()),
                None => Err("this node is not primary".into()),
            }),
        }],
    })
    .context("cannot listen for the bulk channel ([bulk] port)")
}

/// How long the core waits for the data of a planned move.
pub(crate) fn drain_patience(config: &Config) -> Duration {
    Duration::from_millis(config.timing.parts_ms()[5])
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

/// One socket for each address, however many links share it.
fn addresses(
    config: &Config,
    of: impl Fn(&crate::config::LinkConfig) -> SocketAddr,
) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = config.links.iter().map(of).collect();
    all.sort();
    all.dedup();
    all
}

impl DataLink {
    /// Whether there is anything to replicate.
    pub(crate) fn is_configured(&self) -> bool {
        self.0.is_some()
    }

    /// What the core noted, as far as it says who leads. Never waits.
    pub(crate) fn noted(&self, note: &Note) {
        let Some(plane) = &self.0 else { return };
        match note {
            // A move that was called off: the same reign, and its words stand.
            Note::Role { from: Role::Draining, to: Role::Primary, .. } => {}
            Note::Role { to: Role::Primary, epoch, .. } => plane.lead(*epoch),
            Note::Epoch(epoch) => plane.engine.say(Command::Lead(epoch.0)),
            // Still serves, or has its writers held and waits for the peer to take over.
            Note::Role { to: Role::Draining, .. } => {}
            Note::Role { from: Role::Primary | Role::Draining, epoch, .. } => {
                plane.follow(epoch.0);
            }
            Note::Role { .. } => {}
            Note::Stall(_)
            | Note::Met { .. }
            | Note::PeerBoot(_)
            | Note::Paired(_)
            | Note::Refused(..)
            | Note::Alarm(..)
            | Note::HandedWithoutData(_) => {}
        }
    }

    /// Ships everything for a planned move, and says so.
    pub(crate) fn drain(&self, epoch: Epoch) {
        let Some(plane) = &self.0 else { return };
        let outbox = plane.outbox.clone();
        let reply = Box::new(move |shipped: Result<(), String>| {
            let shipment = match shipped {
                Ok(()) => Shipment::Whole,
                Err(why) => {
                    tracing::warn!(%why, "the data of the planned move is not shipped");
                    Shipment::Failed
                }
            };
            outbox.event(Event::Drained(epoch, shipment));
        });
        plane.engine.say(Command::Hold(Instant::now() + plane.patience, reply));
    }

    /// The move is off: writers go on.
    pub(crate) fn undrain(&self) {
        if let Some(plane) = &self.0 {
            plane.engine.say(Command::Unhold);
        }
    }

    /// The core's answer to a word about what the standby has.
    pub(crate) fn degraded(&self, word: SyncId, degraded: bool) {
        let Some(plane) = &self.0 else { return };
        if plane.word.load(Ordering::Acquire) == word.0 {
            plane.engine.say(Command::Degraded(degraded));
        }
    }

    /// For operators' orders.
    pub(crate) fn say(&self, command: Command) {
        if let Some(plane) = &self.0 {
            plane.engine.say(command);
        }
    }

    /// All databases as they were a moment ago.
    pub(crate) fn status(&self) -> Arc<Vec<DatabaseStatus>> {
        self.0.as_ref().map(|plane| plane.engine.status()).unwrap_or_default()
    }

    /// Why nothing can be said of alignment, whatever the databases say.
    pub(crate) fn in_the_dark(&self) -> Option<&'static str> {
        let plane = self.0.as_ref()?;
        if !plane.engine.has_looked() {
            return Some("databases are being looked for");
        }
        let attends = plane.engine.leading().is_some() || plane.dialer.is_connected();
        (!attends).then_some("no primary is connected")
    }

    /// Why the channel to the peer does not come about; none while it does, or is not wanted.
    pub(crate) fn trouble(&self) -> Option<String> {
        let plane = self.0.as_ref()?;
        if plane.dialer.is_connected() || plane.engine.leading().is_some() {
            return None;
        }
        plane.dialer.trouble().map(|error| error.to_string())
    }

    /// What the peer says of its databases; merged with what it said before. Never waits.
    pub(crate) fn peer_says(&self, reports: &Option<Vec<DataReport>>) {
        let (Some(plane), Some(reports)) = (&self.0, reports) else { return };
        let Ok(mut known) = plane.peer.try_lock() else { return };
        let now = Instant::now();
        for report in reports {
            match known.iter().position(|(old, _)| old.id == report.id) {
                Some(at) => known[at] = (*report, now),
                None if known.len() < staffetta_db::DATABASES_MAX => known.push((*report, now)),
                None => {}
            }
        }
        drop(known);
        if plane.engine.leading().is_some() {
            return;
        }
        for status in plane.engine.try_status().iter().flat_map(|all| all.iter()) {
            let id = name_id(&status.name);
            if let Some(report) = reports.iter().find(|report| report.id == id) {
                let position = Position { epoch: report.epoch, txid: report.txid };
                plane.engine.say(Command::PeerAt(status.path.clone(), position));
            }
        }
    }

    /// What policies see of this node's databases.
    pub(crate) fn evidence(&self) -> Vec<Data> {
        self.status().iter().map(data_of).collect()
    }

    /// What policies see of the peer's databases.
    pub(crate) fn peer_evidence(&self) -> Vec<Data> {
        let Some(plane) = &self.0 else { return Vec::new() };
        let known = plane.peer.lock().expect("no holder panics").clone();
        let named = self.status();
        known
            .iter()
            .filter_map(|(report, at)| {
                let status = named.iter().find(|status| name_id(&status.name) == report.id)?;
                Some(Data {
                    kind: DataKind::Database,
                    name: status.name.clone(),
                    epoch: report.epoch,
                    seq: report.txid,
                    copy: copied(report.copy),
                    behind_items: report.behind,
                    behind_bytes: 0,
                    behind: 0,
                    age: u32::try_from(at.elapsed().as_millis()).unwrap_or(u32::MAX),
                })
            })
            .collect()
    }

    /// The databases to tell the peer of in frame number `turn`.
    pub(crate) fn reports(&self, turn: usize) -> Option<Vec<DataReport>> {
        self.0.as_ref()?;
        let all = self.status();
        if all.is_empty() {
            return None;
        }
        let count = all.len().min(crate::link::DATA_REPORTS_MAX);
        let from = turn * count;
        let some = (from..from + count).map(|at| report_of(&all[at % all.len()]));
        Some(some.collect())
    }

    /// Whether this node's data may be served: nothing diverged, nothing half copied.
    pub(crate) fn is_fit(&self) -> bool {
        use staffetta_db::State;
        self.status().iter().all(|status| match status.state {
            State::Diverged => false,
            State::Catching => status.position.is_some(),
            State::Opening
            | State::Alone
            | State::Shipping
            | State::Leading
            | State::Waiting
            | State::Following => true,
        })
    }
}

impl Plane {
    fn lead(&self, epoch: Epoch) {
        self.dialer.pause();
        // What the standby has is said when it is known.
        self.engine.say(Command::Lead(epoch.0));
    }

    fn follow(&self, epoch: u64) {
        self.engine.say(Command::Follow(epoch));
        self.dialer.resume();
    }
}

/// Identity of a database on the wire of the heartbeats: both configurations share its name.
pub(crate) fn name_id(name: &str) -> u64 {
    let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    u64::from_be_bytes(digest.as_ref()[..8].try_into().expect("32 bytes"))
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

fn data_of(status: &DatabaseStatus) -> Data {
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
        behind: u32::try_from(status.behind_ms).unwrap_or(u32::MAX),
        age: 0,
    }
}

fn report_of(status: &DatabaseStatus) -> DataReport {
    let data = data_of(status);
    DataReport {
        id: name_id(&status.name),
        epoch: data.epoch,
        txid: data.seq,
        copy: copied_number(data.copy),
        behind: data.behind_items,
    }
}

fn copied_number(copy: Copied) -> u8 {
    match copy {
        Copied::Aligned => 0,
        Copied::Behind => 1,
        Copied::Diverged => 2,
        Copied::Unknown => 3,
    }
}

fn copied(number: u8) -> Copied {
    match number {
        0 => Copied::Aligned,
        1 => Copied::Behind,
        2 => Copied::Diverged,
        _ => Copied::Unknown,
    }
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
        let _ = self.jobs.send(Job::Rule(path, kinship));
    }
}
