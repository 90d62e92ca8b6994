//! The part of the daemon that runs on tokio: control socket, status, checks, references, facts,
//! orders, signals.

use super::inbox::Mail;
use super::margins::Margins;
use super::policies::Loader;
use super::publish::{Publisher, digests};
use super::report::{Reporter, write_down};
use super::snapshot::Snapshot;
use super::{Running, orders};
use crate::api::status::{Level, LevelStatus, Status};
use crate::api::{Control, Server};
use crate::evidence::{run_checks, run_facts, run_references};
use crate::journal::EventLevel;
use crate::link::{About, Health};
use staffetta_core::{Event, Order};
use staffetta_vip::Vip;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};

/// The status is made anew at least this often while somebody may read it.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(1_000);
/// Ages of checks, references and facts are told anew this often.
const AGES_INTERVAL: Duration = Duration::from_millis(1_000);
/// What the standby lacks is told anew this often, by the primary.
const LAG_INTERVAL: Duration = Duration::from_millis(400);
/// The watch of addresses is started again after this, should it fail.
const WATCH_AGAIN: Duration = Duration::from_secs(5);

pub(crate) struct Tasks {
    pub server: Server,
    pub reports: mpsc::UnboundedReceiver<super::report::Report>,
    pub reporter: Reporter,
    pub loader: Loader,
    pub publisher: Publisher,
    pub about: About,
    pub held: Arc<AtomicBool>,
    pub ended: Arc<Notify>,
}

/// Runs until the beat thread has ended.
pub(crate) async fn run(tasks: Tasks, running: &Running) -> anyhow::Result<()> {
    let Tasks { server, reports, reporter, loader, publisher, about, held, ended } = tasks;
    let first = first_status(&publisher).await;
    let (control, ends) =
        Control::new(first, publisher.journal.clone(), publisher.config.archive_dir());
    let links = publisher.config.links.iter().map(|link| link.name.clone()).collect();
    tokio::spawn(write_down(
        reports,
        publisher.journal.clone(),
        ends.events.clone(),
        links,
        publisher.evidence.clone(),
        running.outbox.clone(),
    ));
    tokio::spawn(orders::take(
        ends.orders,
        running.outbox.clone(),
        running.failover_jobs.clone(),
        running.license_jobs.clone(),
        loader,
        publisher.board.clone(),
        publisher.data.clone(),
    ));
    let down = Arc::new(Notify::new());
    let stop = Arc::clone(&down);
    let api = tokio::spawn(server.run(control, async move { stop.notified().await }));
    spawn_evidence(&publisher, running, &reporter);
    tokio::spawn(watch_addresses(&publisher, running, held, reporter.clone()));

    let budget = Duration::from_millis(publisher.config.timing.parts_ms()[5]);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut margins = Margins::new(&publisher.config);
    let mut told = Told { at: std::time::Instant::now(), about, health: None, turn: 0 };
    let mut stopping: Option<tokio::time::Instant> = None;
    let mut level = None;
    loop {
        let abandon = async {
            match stopping {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = ended.notified() => break,
            _ = terminate.recv() => stopping = Some(stop_beats(running, budget, stopping)),
            _ = interrupt.recv() => stopping = Some(stop_beats(running, budget, stopping)),
            () = abandon => {
                let text = "the stop budget is over: letting go regardless";
                reporter.event(EventLevel::Warn, "stop", text);
                running.outbox.send(Mail::Abandon);
                stopping = Some(tokio::time::Instant::now() + budget);
            }
            () = tokio::time::sleep(PUBLISH_INTERVAL) => {}
            () = publisher.board.changed() => {}
        }
        if let Some(snapshot) = publisher.board.newest() {
            let status = margins.status(&publisher, &reporter, &snapshot);
            let lag = status.alignment.as_ref().and_then(|one| one.lag_ms);
            journal_level(&mut level, &status.level, &reporter);
            // Nobody may be looking at the status.
            let _ = ends.status.send(Arc::new(status));
            told.tell(&publisher, running, &snapshot, lag);
        }
    }
    down.notify_one();
    api.await??;
    Ok(())
}

/// Waits for the first turn of the beat thread.
async fn first_status(publisher: &Publisher) -> Status {
    loop {
        if let Some(snapshot) = publisher.board.newest() {
            return publisher.status(&snapshot);
        }
        publisher.board.changed().await;
    }
}

/// Every change of the guarantee in force goes to the journal, with its reason.
fn journal_level(last: &mut Option<LevelStatus>, now: &LevelStatus, reporter: &Reporter) {
    if last.as_ref() == Some(now) {
        return;
    }
    let matters = match now.name {
        Level::Arbitrated | Level::Paired => EventLevel::Info,
        Level::EvidenceOnly | Level::Alone | Level::TakeoverDisarmed => EventLevel::Warn,
    };
    reporter.event(matters, "level", format!("guarantee in force: {}; {}", now.name, now.why));
    *last = Some(now.clone());
}

fn stop_beats(
    running: &Running,
    budget: Duration,
    stopping: Option<tokio::time::Instant>,
) -> tokio::time::Instant {
    running.outbox.event(Event::Order(Order::Stop));
    stopping.unwrap_or_else(|| tokio::time::Instant::now() + budget)
}

/// What the beat thread was told about this node.
struct Told {
    at: std::time::Instant,
    about: About,
    health: Option<bool>,
    /// Which databases, or facts, the peer is told of next.
    turn: usize,
}

impl Told {
    /// Tells the peer, and the core, what changed on this node.
    fn tell(
        &mut self,
        publisher: &Publisher,
        running: &Running,
        snapshot: &Snapshot,
        lag: Option<u64>,
    ) {
        let seen = publisher.evidence.seen();
        let ms = |ms: u64| u32::try_from(ms).unwrap_or(u32::MAX);
        let shelf = publisher.shelf.lock().expect("no holder panics").clone();
        let license =
            publisher.judgment.lock().expect("no holder panics").policy.1.digest().to_owned();
        // Facts and databases in turns: there is not room for both in every frame.
        let has_facts = !publisher.config.facts.is_empty();
        let data = match (has_facts, self.turn % 2) {
            (false, _) => publisher.data.reports(self.turn),
            (true, 0) => publisher.data.reports(self.turn / 2),
            (true, _) => None,
        };
        let about = About {
            policies: digests(&shelf, &license),
            macs: snapshot.own_macs.concat(),
            service_network: seen.service_network,
            services: seen.services,
            license: super::situation::standing_number(seen.license),
            checks: seen.checks,
            targets: seen.targets,
            lag_ms: lag.map(ms),
            in_role_ms: ms(snapshot.now.since(snapshot.view.since).as_ms()),
            stall_max_ms: ms(snapshot.view.stall_max.as_ms()),
            facts: (!has_facts || data.is_none()).then_some(seen.facts),
            data,
            ..self.about.clone()
        };
        let fit = seen.service_network != Health::Failed
            && seen.services != Health::Failed
            && publisher.data.is_fit();
        if self.health != Some(fit) {
            self.health = Some(fit);
            running.outbox.event(Event::Fitness(fit));
        }
        let news = settled(&about) != settled(&self.about);
        let interval = if publisher.data.leads() { LAG_INTERVAL } else { AGES_INTERVAL };
        if news || self.at.elapsed() >= interval {
            self.at = std::time::Instant::now();
            self.turn = self.turn.wrapping_add(1);
            self.about = about.clone();
            running.outbox.send(Mail::About(Box::new(about), news));
        }
    }
}

/// Without what changes by itself.
fn settled(about: &About) -> About {
    let mut settled = About {
        in_role_ms: 0,
        stall_max_ms: 0,
        lag_ms: None,
        data: None,
        facts: None,
        ..about.clone()
    };
    for check in &mut settled.checks {
        (check.since_ms, check.age_ms) = (0, 0);
    }
    for target in &mut settled.targets {
        target.age_ms = 0;
    }
    settled
}

fn spawn_evidence(publisher: &Publisher, running: &Running, reporter: &Reporter) {
    let changed = || {
        let outbox = running.outbox.clone();
        move || {
            outbox.event(Event::EvidenceChanged);
        }
    };
    for (index, check) in publisher.config.checks.iter().enumerate() {
        tokio::spawn(run_checks(publisher.evidence.clone(), index, check.clone(), changed()));
    }
    for (index, fact) in publisher.config.facts.iter().enumerate() {
        tokio::spawn(run_facts(publisher.evidence.clone(), index, fact.clone(), changed()));
    }
    for (index, reference) in publisher.config.references.iter().enumerate() {
        let outbox = running.outbox.clone();
        let reporter = reporter.clone();
        let changed = move |error: Option<String>| match error {
            Some(error) => reporter.event(EventLevel::Warn, "reference", error),
            None => {
                outbox.event(Event::EvidenceChanged);
            }
        };
        tokio::spawn(run_references(publisher.evidence.clone(), index, reference.clone(), changed));
    }
}

/// The second pair of eyes on the addresses; it asks the real-time thread to act.
fn watch_addresses(
    publisher: &Publisher,
    running: &Running,
    held: Arc<AtomicBool>,
    reporter: Reporter,
) -> impl Future<Output = ()> + use<> {
    let vips: Vec<Vip> = publisher
        .config
        .vips
        .iter()
        .map(|vip| Vip {
            address: vip.address,
            prefix: vip.prefix,
            interface: vip.interface.clone(),
        })
        .collect();
    let outbox = running.outbox.clone();
    async move {
        loop {
            let outbox = outbox.clone();
            let notify = move |finding| {
                tracing::debug!(?finding, "addresses differ from what should be");
                outbox.send(Mail::Reconcile);
            };
            if let Err(error) = staffetta_vip::watch(vips.clone(), Arc::clone(&held), notify).await
            {
                reporter.event(EventLevel::Warn, "address-watch", error.to_string());
            }
            tokio::time::sleep(WATCH_AGAIN).await;
        }
    }
}
