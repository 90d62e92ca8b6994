//! Databases and files in the daemon: starts their engines and their channel, and carries the
//! core's wishes to them and their words to the core and the policies.
//!
//! The data plane decides nothing about roles: it is told who leads, and says what the standby has.

mod channel;
mod databases;
mod trees;

#[cfg(test)]
pub(super) use self::trees::tests::status as tree_status;

use self::channel::{Channel, User};
use self::databases::Databases;
use super::decide::Job;
use super::inbox::Outbox;
use super::report::Reporter;
use crate::config::Config;
use crate::link::DataReport;
use anyhow::Context;
use staffetta_bulk::Purpose;
use staffetta_core::{Epoch, Event, Note, Role, Shipment, SyncId};
use staffetta_db::{Command, DatabaseStatus, Position};
use staffetta_files::{Command as TreeCommand, Handle as TreeHandle, TreeStatus};
use staffetta_policy::types::{Copied, Data};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The data's part of a planned move ends this long before the core's patience does.
const DRAIN_MARGIN: Duration = Duration::from_millis(200);
/// What the peer said of its data is kept of this many databases and trees.
const REPORTS_MAX: usize = staffetta_db::DATABASES_MAX + staffetta_files::TREES_MAX;

/// The data plane as the rest of the daemon has it. Cheap to clone; does nothing where neither
/// database nor tree is configured.
#[derive(Clone, Default)]
pub(crate) struct DataLink(Option<Arc<Plane>>);

struct Plane {
    databases: Option<Databases>,
    trees: Option<TreeHandle>,
    channel: Channel,
    outbox: Outbox,
    patience: Duration,
    /// What the peer said of its data, by the hash of the names.
    peer: Mutex<HashMap<u64, (DataReport, Instant)>>,
}

/// What is said of one database or tree to the peer and to policies.
struct Report {
    id: u64,
    data: Data,
    /// What the standby lacks of it, as its acknowledgements say; none where none is followed.
    lacks: Option<u64>,
}

/// Starts the engines and the channel, where data is configured.
///
/// # Errors
/// When an engine, a certificate, or a port cannot be had; names it.
pub(crate) fn start(
    config: &Config,
    outbox: &Outbox,
    reporter: &Reporter,
    jobs: &Sender<Job>,
) -> anyhow::Result<DataLink> {
    if config.databases.is_empty() && config.trees.is_empty() {
        return Ok(DataLink(None));
    }
    std::fs::create_dir_all(&config.node.run_dir)
        .with_context(|| format!("cannot make {}", config.node.run_dir.display()))?;
    let databases = databases::start(config, outbox, reporter, jobs)?;
    let trees = trees::start(config, reporter, jobs)?;
    let mut users = Vec::new();
    if let Some(Databases { engine, .. }) = &databases {
        let leading = engine.clone();
        users.push(User {
            purpose: Purpose::Databases,
            streams: engine.streams(),
            wake: engine.wake(),
            leads: Arc::new(move || leading.leading().is_some()),
        });
    }
    if let Some(engine) = &trees {
        let leading = engine.clone();
        users.push(User {
            purpose: Purpose::Files,
            streams: engine.streams(),
            wake: engine.wake(),
            leads: Arc::new(move || leading.leading().is_some()),
        });
    }
    let channel = Channel::start(config, users)?;
    let patience = drain_patience(config).saturating_sub(DRAIN_MARGIN);
    let (outbox, peer) = (outbox.clone(), Mutex::default());
    Ok(DataLink(Some(Arc::new(Plane { databases, trees, channel, outbox, patience, peer }))))
}

/// How long the core waits for the data of a planned move.
pub(crate) fn drain_patience(config: &Config) -> Duration {
    Duration::from_millis(config.timing.parts_ms()[5])
}

impl DataLink {
    /// Whether there is anything to replicate.
    pub(crate) fn is_configured(&self) -> bool {
        self.0.is_some()
    }

    /// What the core noted, as far as it says who leads. Never waits.
    pub(crate) fn noted(&self, note: &Note) {
        let Some(plane) = &self.0 else { return };
        match means(note) {
            Some(Means::Lead(epoch)) => {
                // What the standby has is said when it is known.
                plane.channel.pause();
                plane.lead(epoch);
            }
            Some(Means::NextReign(epoch)) => plane.lead(epoch),
            Some(Means::Follow(epoch)) => {
                plane.follow(epoch);
                plane.channel.resume();
            }
            None => {}
        }
    }

    /// Ships everything for a planned move, and says so.
    pub(crate) fn drain(&self, epoch: Epoch) {
        let Some(plane) = &self.0 else { return };
        let until = Instant::now() + plane.patience;
        let count = usize::from(plane.databases.is_some()) + usize::from(plane.trees.is_some());
        let drain =
            Arc::new(Drain { epoch, outbox: plane.outbox.clone(), left: Mutex::new(count) });
        if let Some(databases) = &plane.databases {
            let drain = Arc::clone(&drain);
            let reply = Box::new(move |shipped| drain.shipped("databases", shipped));
            databases.engine.say(Command::Hold(until, reply));
        }
        if let Some(trees) = &plane.trees {
            let reply = Box::new(move |shipped| drain.shipped("files", shipped));
            trees.say(TreeCommand::Drain(until, reply));
        }
    }

    /// The move is off: writers go on.
    pub(crate) fn undrain(&self) {
        self.say(Command::Unhold);
    }

    /// The core's answer to a word about what the standby has.
    pub(crate) fn degraded(&self, word: SyncId, degraded: bool) {
        let Some(databases) = self.0.as_ref().and_then(|plane| plane.databases.as_ref()) else {
            return;
        };
        // An answer to a word that was taken back says nothing.
        if databases.word.load(Ordering::Acquire) == word.0 {
            databases.engine.say(Command::Degraded(degraded));
        }
    }

    /// For operators' orders.
    pub(crate) fn say(&self, command: Command) {
        if let Some(databases) = self.0.as_ref().and_then(|plane| plane.databases.as_ref()) {
            databases.engine.say(command);
        }
    }

    /// The same for trees: false where none is configured.
    pub(crate) fn say_trees(&self, command: TreeCommand) -> bool {
        let trees = self.0.as_ref().and_then(|plane| plane.trees.as_ref());
        trees.map(|trees| trees.say(command)).is_some()
    }

    /// All databases as they were a moment ago.
    pub(crate) fn status(&self) -> Arc<Vec<DatabaseStatus>> {
        let databases = self.0.as_ref().and_then(|plane| plane.databases.as_ref());
        databases.map(|databases| databases.engine.status()).unwrap_or_default()
    }

    /// All trees as they were a moment ago.
    pub(crate) fn trees(&self) -> Arc<Vec<TreeStatus>> {
        let trees = self.0.as_ref().and_then(|plane| plane.trees.as_ref());
        trees.map(TreeHandle::status).unwrap_or_default()
    }

    /// How long the thread that sees to each kind of data has not looked at it.
    pub(crate) fn late(&self) -> Vec<(&'static str, Duration)> {
        let Some(plane) = &self.0 else { return Vec::new() };
        let databases = plane.databases.as_ref().map(|one| ("databases", one.engine.late()));
        let trees = plane.trees.as_ref().map(|trees| ("trees", trees.late()));
        databases.into_iter().chain(trees).collect()
    }

    /// Whether this node's data is the primary's.
    pub(crate) fn leads(&self) -> bool {
        self.0.as_ref().is_some_and(|plane| plane.leads())
    }

    /// Why nothing can be said of alignment, whatever the data says.
    pub(crate) fn in_the_dark(&self) -> Option<&'static str> {
        let plane = self.0.as_ref()?;
        if plane.databases.as_ref().is_some_and(|databases| !databases.engine.has_looked()) {
            return Some("databases are being looked for");
        }
        if plane.trees.as_ref().is_some_and(|trees| !trees.has_looked()) {
            return Some("trees are being looked at");
        }
        let attends = plane.leads() || plane.channel.is_connected();
        (!attends).then_some("no primary is connected")
    }

    /// Why the channel to the peer does not come about; none while it does, or is not wanted.
    pub(crate) fn trouble(&self) -> Option<String> {
        let plane = self.0.as_ref()?;
        if plane.leads() {
            return None;
        }
        plane.channel.trouble()
    }

    /// What the peer says of its data; merged with what it said before. Never waits.
    pub(crate) fn peer_says(&self, reports: &Option<Vec<DataReport>>) {
        let (Some(plane), Some(reports)) = (&self.0, reports) else { return };
        let Ok(mut known) = plane.peer.try_lock() else { return };
        let now = Instant::now();
        for report in reports {
            if known.len() < REPORTS_MAX || known.contains_key(&report.id) {
                known.insert(report.id, (*report, now));
            }
        }
        drop(known);
        if plane.leads() {
            return;
        }
        let said = |id: u64| reports.iter().find(|report| report.id == id);
        if let Some(Databases { engine, .. }) = &plane.databases {
            for status in engine.try_status().iter().flat_map(|all| all.iter()) {
                if let Some(report) = said(databases::id_of(status)) {
                    let position = Position { epoch: report.epoch, txid: report.txid };
                    engine.say(Command::PeerAt(status.path.clone(), position));
                }
            }
        }
        if let Some(engine) = &plane.trees {
            for status in engine.try_status().iter().flat_map(|all| all.iter()) {
                if let Some(report) = said(trees::id_of(status)) {
                    engine.say(TreeCommand::PeerBehind(status.name.clone(), report.behind));
                }
            }
        }
    }

    /// What policies see of this node's data.
    pub(crate) fn evidence(&self) -> Vec<Data> {
        self.all().into_iter().map(|report| report.data).collect()
    }

    /// What policies see of the peer's data, as far as this node has it, too.
    pub(crate) fn peer_evidence(&self) -> Vec<Data> {
        let Some(plane) = &self.0 else { return Vec::new() };
        let own = self.all();
        let known = plane.peer.lock().expect("no holder panics");
        own.into_iter()
            .filter_map(|own| peer_copy(own.data, own.lacks, known.get(&own.id)))
            .collect()
    }

    /// What to tell the peer of in frame number `turn`.
    pub(crate) fn reports(&self, turn: usize) -> Option<Vec<DataReport>> {
        let all = self.all();
        if all.is_empty() {
            return None;
        }
        let count = all.len().min(crate::link::DATA_REPORTS_MAX);
        let from = turn * count;
        let told = |at: usize| {
            let Report { id, data, .. } = &all[at % all.len()];
            let copy = copied_number(data.copy);
            DataReport {
                id: *id,
                epoch: data.epoch,
                txid: data.seq,
                copy,
                behind: data.behind_items,
            }
        };
        Some((from..from + count).map(told).collect())
    }

    /// Whether this node's data may be served: nothing diverged, nothing half copied.
    pub(crate) fn is_fit(&self) -> bool {
        self.status().iter().all(databases::is_fit) && self.trees().iter().all(trees::is_fit)
    }

    fn all(&self) -> Vec<Report> {
        let (databases, trees) = (self.status(), self.trees());
        let databases = databases.iter().map(databases::report_of);
        databases.chain(trees.iter().map(trees::report_of)).collect()
    }
}

/// How long something has lasted; no time where there is nothing.
pub(crate) fn age(since: Option<Instant>) -> Duration {
    since.map_or(Duration::ZERO, |since| since.elapsed())
}

/// The same in milliseconds.
pub(crate) fn age_ms(since: Option<Instant>) -> u64 {
    u64::try_from(age(since).as_millis()).unwrap_or(u64::MAX)
}

impl Plane {
    fn leads(&self) -> bool {
        let databases = self.databases.as_ref().and_then(|databases| databases.engine.leading());
        let trees = || self.trees.as_ref().and_then(TreeHandle::leading);
        databases.or_else(trees).is_some()
    }

    fn lead(&self, epoch: u64) {
        if let Some(databases) = &self.databases {
            databases.engine.say(Command::Lead(epoch));
        }
        if let Some(trees) = &self.trees {
            trees.say(TreeCommand::Lead(epoch));
        }
    }

    fn follow(&self, epoch: u64) {
        if let Some(databases) = &self.databases {
            databases.engine.say(Command::Follow(epoch));
        }
        if let Some(trees) = &self.trees {
            trees.say(TreeCommand::Follow(epoch));
        }
    }
}

/// What a note of the core means for the data.
#[derive(Debug, PartialEq, Eq)]
enum Means {
    Lead(u64),
    /// Leads as before, under another epoch.
    NextReign(u64),
    Follow(u64),
}

fn means(note: &Note) -> Option<Means> {
    match note {
        // A move that was called off: the same reign, and its words stand.
        Note::Role { from: Role::Draining, to: Role::Primary, .. } => None,
        Note::Role { to: Role::Primary, epoch, .. } => Some(Means::Lead(epoch.0)),
        Note::Epoch(epoch) => Some(Means::NextReign(epoch.0)),
        // Still serves, or has its writers held and waits for the peer to take over.
        Note::Role { to: Role::Draining, .. } => None,
        Note::Role { from: Role::Primary | Role::Draining, epoch, .. } => {
            Some(Means::Follow(epoch.0))
        }
        Note::Role { .. }
        | Note::Stall(_)
        | Note::Met { .. }
        | Note::PeerBoot(_)
        | Note::Paired(_)
        | Note::Refused(..)
        | Note::Alarm(..)
        | Note::HandedWithoutData(_) => None,
    }
}

/// A planned move waits for databases and files.
struct Drain {
    epoch: Epoch,
    outbox: Outbox,
    /// Those that have not answered; 0 after one of them failed.
    left: Mutex<usize>,
}

impl Drain {
    fn shipped(&self, what: &str, shipped: Result<(), String>) {
        let mut left = self.left.lock().expect("no holder panics");
        if *left == 0 {
            return;
        }
        let shipment = match shipped {
            Ok(()) if *left > 1 => {
                *left -= 1;
                return;
            }
            Ok(()) => Shipment::Whole,
            Err(why) => {
                tracing::warn!(%why, "the {what} of the planned move are not shipped");
                Shipment::Failed
            }
        };
        *left = 0;
        self.outbox.event(Event::Drained(self.epoch, shipment));
    }
}

/// What policies see of the peer's copy of `own`: what it said of it last, or, to the primary that
/// it follows, what it acknowledged, which is never older.
fn peer_copy(own: Data, lacks: Option<u64>, said: Option<&(DataReport, Instant)>) -> Option<Data> {
    let said_copy = said.map(|(report, _)| copied(report.copy));
    if let Some(lacks) = lacks.filter(|_| said_copy != Some(Copied::Diverged)) {
        let copy = if lacks == 0 { Copied::Aligned } else { Copied::Behind };
        let seq = own.seq.saturating_sub(lacks);
        return Some(Data { seq, copy, behind_items: lacks, age: 0, ..own });
    }
    let (report, at) = said?;
    Some(Data {
        epoch: report.epoch,
        seq: report.txid,
        copy: copied(report.copy),
        behind_items: report.behind,
        behind_bytes: 0,
        behind: 0,
        age: u32::try_from(at.elapsed().as_millis()).unwrap_or(u32::MAX),
        ..own
    })
}

/// Identity on the wire of the heartbeats: both configurations share a name.
fn name_id(name: &str) -> u64 {
    let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    u64::from_be_bytes(digest.as_ref()[..8].try_into().expect("32 bytes"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::inbox::{Mail, channel};

    #[test]
    fn only_a_change_of_reign_is_news_to_the_data() {
        let role =
            |from, to| Note::Role { from, to, epoch: Epoch(7), why: staffetta_core::Why::Elected };
        for (note, expected) in [
            (role(Role::Standby, Role::Primary), Some(Means::Lead(7))),
            // A move that was called off: the reign goes on, and its words stand.
            (role(Role::Draining, Role::Primary), None),
            (role(Role::Primary, Role::Draining), None),
            (role(Role::Draining, Role::Standby), Some(Means::Follow(7))),
            (role(Role::Primary, Role::Joining), Some(Means::Follow(7))),
            (role(Role::Joining, Role::Standby), None),
            (Note::Epoch(Epoch(8)), Some(Means::NextReign(8))),
        ] {
            assert_eq!(means(&note), expected, "{note:?}");
        }
    }

    #[test]
    fn a_move_waits_for_databases_and_files() {
        let lost = || Err("gone".to_owned());
        for (words, expected) in [
            (vec![Ok(())], vec![]),
            (vec![Ok(()), Ok(())], vec![Shipment::Whole]),
            (vec![Ok(()), lost()], vec![Shipment::Failed]),
            (vec![lost(), Ok(())], vec![Shipment::Failed]),
            (vec![lost(), lost()], vec![Shipment::Failed]),
        ] {
            let (outbox, mut inbox) = channel().unwrap();
            let drain = Drain { epoch: Epoch(7), outbox, left: Mutex::new(2) };
            words.iter().for_each(|word| drain.shipped("files", word.clone()));
            let said = std::iter::from_fn(|| inbox.take()).map(|mail| match mail {
                Mail::Event(Event::Drained(Epoch(7), shipment)) => shipment,
                other => panic!("{other:?}"),
            });
            assert_eq!(said.collect::<Vec<_>>(), expected, "{words:?}");
        }
    }

    #[test]
    fn what_the_standby_acknowledged_is_newer_than_what_it_said() {
        let own = Data {
            kind: staffetta_policy::types::DataKind::Database,
            name: "cdr".into(),
            epoch: 7,
            seq: 40,
            copy: Copied::Aligned,
            behind_items: 2,
            behind_bytes: 8_192,
            behind: 3,
            age: 0,
        };
        let said = |copy| {
            let copy = copied_number(copy);
            (DataReport { id: 1, epoch: 6, txid: 30, copy, behind: 10 }, Instant::now())
        };
        let (unknown, behind) = (said(Copied::Unknown), said(Copied::Behind));
        let diverged = said(Copied::Diverged);
        for (lacks, said, expected) in [
            (None, None, None),
            (None, Some(&unknown), Some((6, 30, Copied::Unknown, 10, 0))),
            (None, Some(&behind), Some((6, 30, Copied::Behind, 10, 0))),
            (Some(2), Some(&unknown), Some((7, 38, Copied::Behind, 2, 3))),
            (Some(2), None, Some((7, 38, Copied::Behind, 2, 3))),
            (Some(0), Some(&behind), Some((7, 40, Copied::Aligned, 0, 3))),
            (Some(0), Some(&diverged), Some((6, 30, Copied::Diverged, 10, 0))),
        ] {
            let seen = peer_copy(own.clone(), lacks, said);
            let seen =
                seen.map(|data| (data.epoch, data.seq, data.copy, data.behind_items, data.behind));
            assert_eq!(seen, expected, "{lacks:?} {said:?}");
        }
    }

    #[test]
    fn copies_keep_their_numbers_on_the_wire() {
        for (copy, number) in
            [(Copied::Aligned, 0), (Copied::Behind, 1), (Copied::Diverged, 2), (Copied::Unknown, 3)]
        {
            assert_eq!((copied_number(copy), copied(number)), (number, copy));
        }
        assert_eq!(copied(9), Copied::Unknown, "of a later version");
    }
}
