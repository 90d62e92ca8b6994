//! The daemon: wires core, links, kernel, policies, disk, journal and control together.
//!
//! This and the simulator are the only interpreters of the core's events and effects. The real-time
//! thread is [`beats`]; beside it run the epoch's persister and the policy thread, just below it in
//! priority; licensing and the journal have threads of their own; everything else is on tokio and
//! speaks to them over channels.

mod alignment;
mod arbitrate;
mod beats;
mod clock;
mod data;
mod databases;
mod decide;
mod disk;
mod inbox;
mod lateness;
mod level;
mod licensing;
mod margins;
mod orders;
mod policies;
mod publish;
mod realtime;
mod report;
mod situation;
mod snapshot;
mod tasks;
mod trees;

use self::beats::{Beats, Parts};
use self::clock::Clock;
use self::data::DataLink;
use self::decide::{Decider, InForce, Job, Shelf};
use self::disk::EpochFile;
use self::inbox::{Inbox, Mail, Outbox};
use self::licensing::{Judged, Judgment, Licensing};
use self::policies::Loader;
pub(crate) use self::policies::{built_in_component, section};
use self::publish::Publisher;
use self::report::Reporter;
use self::snapshot::Board;
use crate::api::status::{LicenseState, LicenseStatus};
use crate::config::Config;
use crate::evidence::Evidence;
use crate::identity::Identity;
use crate::journal::{EventLevel, Journal, JournalHandle};
use crate::link::{About, Links, Secret};
use anyhow::Context;
use staffetta_core::{Boot, Durable, Event, Node, Options, PersistId, Side, Span};
use staffetta_policy::{Chain, Engine, Kind, Limits, Speaker};
use staffetta_vip::{Kernel, Vip};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Name of the nftables tables.
pub const TABLE: &str = "staffetta";
/// The backup lifetime of the addresses beyond the lease.
const LIFETIME_BEYOND: Duration = Duration::from_secs(3);
// The configuration checks its times with the slack that the gate will have.
const _: () = assert!(
    crate::config::defaults::SLACK_NFTABLES_MS == staffetta_vip::NFTABLES_SLACK_MS
        && crate::config::defaults::SLACK_LIFETIME_MS == staffetta_vip::LIFETIME_SLACK_MS
);
// The peer is told of every check and every reference.
const _: () = assert!(
    crate::config::defaults::CHECKS_MAX <= crate::link::REPORTS_MAX
        && crate::config::defaults::REFERENCES_MAX <= crate::link::REPORTS_MAX
        && crate::config::defaults::FACTS_MAX <= crate::link::REPORTS_MAX
);
/// What is left of the journal's queue may take this long at the end.
const JOURNAL_PATIENCE: Duration = Duration::from_millis(500);

/// The threads that hold senders of their own, and what is left to join at the end.
pub(crate) struct Running {
    pub outbox: Outbox,
    pub failover_jobs: Sender<Job>,
    pub license_jobs: Sender<Job>,
    beats: JoinHandle<()>,
}

/// What every part of the daemon is given.
struct Common {
    board: Board,
    evidence: Evidence,
    outbox: Outbox,
    reporter: Reporter,
    journal: JournalHandle,
    started: Instant,
    /// Set once the engine of databases runs, which needs the policy thread.
    data: Arc<OnceLock<DataLink>>,
}

/// Where the policies and their judgments are seen.
struct Policies {
    failover_jobs: Sender<Job>,
    license_jobs: Sender<Job>,
    shelf: Shelf,
    judgment: Judgment,
    /// Configured policies that the load gate refused.
    refused: Vec<String>,
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// When it cannot start: names what is wrong and the remedy.
pub fn run(config: Config) -> anyhow::Result<()> {
    let started = Instant::now();
    log_to_stderr(&config);
    abort_with_the_beat_thread();
    fits_the_host(&config)?;
    let memory_locked = realtime::lock_memory();
    let journal = open_journal(&config)?;
    let runtime = runtime()?;
    let server = crate::api::Server::bind(&config.control_socket())?;
    let (reporter, reports) = Reporter::channel();
    let (outbox, inbox) = inbox::channel().context("cannot make an eventfd")?;
    let common = Common {
        board: Board::new(config.timing.parts_ms()[1]),
        evidence: evidence_of(&config),
        outbox,
        reporter,
        journal: journal.handle(),
        started,
        data: Arc::default(),
    };
    let identity = Identity::load_or_create(&config.node.identity_file)?;
    let loader = Loader::new(&config, Engine::new(Limits::default())?);
    let policies = start_policies(&config, &loader, &identity, &common)?;
    let arbiter = crate::arbiter::client(&config)?;
    let lease = Duration::from_millis(config.timing.parts_ms()[1]);
    let consult = match &arbiter {
        Some(client) => Some(arbitrate::start(client.clone(), common.outbox.clone(), lease)?),
        None => None,
    };
    let jobs = policies.failover_jobs.clone();
    let data = data::start(&config, &common.outbox, &common.reporter, &jobs)?;
    // Nobody else sets it.
    let _ = common.data.set(data.clone());
    let parts = beat_parts(&config, &identity, &common, inbox, jobs, consult)?;
    let (held, about) = (parts.kernel.held_flag(), parts.about.0.clone());
    let ended = Arc::new(tokio::sync::Notify::new());
    let end = Arc::clone(&ended);
    let beats = spawn(BEAT_THREAD, move || {
        Beats::new(parts).run();
        end.notify_one();
    })?;
    let Common { board, evidence, outbox, reporter, .. } = common;
    reporter.event(EventLevel::Info, "start", format!("{} starts", config.node.name));
    let Policies { failover_jobs, license_jobs, shelf, judgment, refused } = policies;
    let running = Running { outbox, failover_jobs, license_jobs, beats };
    let publisher = Publisher {
        digest: config.pair_digest(),
        config,
        board,
        shelf,
        judgment,
        evidence,
        journal: journal.handle(),
        memory_locked,
        started,
        refused,
        arbiter,
        data,
    };
    let tasks = tasks::Tasks { server, reports, reporter, loader, publisher, about, held, ended };
    let result = runtime.block_on(tasks::run(tasks, &running));
    let joined = running.beats.join();
    drop((running.outbox, running.failover_jobs, running.license_jobs));
    runtime.shutdown_timeout(JOURNAL_PATIENCE);
    journal.close(JOURNAL_PATIENCE);
    anyhow::ensure!(joined.is_ok(), "the beat thread ended by itself");
    result
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// Makes the state folder first: the journal is the first to need it.
fn open_journal(config: &Config) -> anyhow::Result<Journal> {
    let folder = &config.node.state_dir;
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the state folder {}", folder.display()))?;
    Journal::open(&config.journal_file(), config.journal_bytes_max)
        .context("cannot open the journal")
}

/// One line a change of state; the init system adds the rest.
fn log_to_stderr(config: &Config) {
    use std::io::IsTerminal;
    let level = config.log_level.as_str();
    let filter = format!("warn,staffetta={level},staffetta_vip={level}");
    let logger = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // A process that logs already (a test) keeps its logger.
    let _ = logger.try_init();
}

/// What only the host can show to be wrong: a VIP outside its interface's network.
fn fits_the_host(config: &Config) -> anyhow::Result<()> {
    let addresses = crate::doctor::host_addresses();
    match crate::config::check_against_host(config, &addresses).into_iter().next() {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// Loads the policies and starts their threads.
fn start_policies(
    config: &Config,
    loader: &Loader,
    identity: &Identity,
    common: &Common,
) -> anyhow::Result<Policies> {
    let mut refused = Vec::new();
    let failover = chain(Kind::Failover, loader, &common.reporter, &mut refused)?;
    let split_brain = chain(Kind::SplitBrain, loader, &common.reporter, &mut refused)?;
    let license = chain(Kind::License, loader, &common.reporter, &mut refused)?;
    let shelf = Arc::new(Mutex::new(in_force(&failover, &split_brain)));
    let judgment = Arc::new(Mutex::new(not_judged(&license)));
    let (failover_jobs, jobs) = mpsc::channel();
    let decider = Decider {
        site: situation::Site::of(config),
        evidence: common.evidence.clone(),
        failover,
        split_brain,
        outbox: common.outbox.clone(),
        journal: common.journal.clone(),
        reporter: common.reporter.clone(),
        shelf: Arc::clone(&shelf),
        memory_file: config.node.state_dir.join("policy-memory.json"),
        started: common.started,
        data: Arc::clone(&common.data),
        board: common.board.clone(),
        met: None,
    };
    spawn("policy", move || decider.run(&jobs))?;
    let (license_jobs, jobs) = mpsc::channel();
    let licensing = Licensing {
        node: config.node.name.clone(),
        peer: config.peer.name.clone(),
        identity: identity.public(),
        document: config.license.document.clone(),
        off: config.license.trusted_keys.is_empty(),
        chain: license,
        board: common.board.clone(),
        outbox: common.outbox.clone(),
        evidence: common.evidence.clone(),
        journal: common.journal.clone(),
        reporter: common.reporter.clone(),
        judgment: Arc::clone(&judgment),
        seen_file: config.node.state_dir.join("latest-seen"),
        started: common.started,
        too_long: std::cell::Cell::default(),
    };
    spawn("license", move || licensing.run(&jobs))?;
    Ok(Policies { failover_jobs, license_jobs, shelf, judgment, refused })
}

/// Opens the epoch file, the gate and the links, in this order: what an earlier life left on an
/// interface is gone before the first beat.
fn beat_parts(
    config: &Config,
    identity: &Identity,
    common: &Common,
    inbox: Inbox,
    jobs: Sender<Job>,
    consult: Option<arbitrate::Requests>,
) -> anyhow::Result<Parts> {
    let side = if config.side_index() == 0 { Side::A } else { Side::B };
    let (file, disk) = EpochFile::open(&config.node.state_dir, side)?;
    let kernel = open_kernel(config)?;
    let slack = Span::ms(u64::try_from(kernel.class().slack().as_millis())?);
    let timing = config.timing.with_slack(slack)?;
    let start = u64::from_be_bytes(crate::identity::random()?).max(1);
    let secret = Secret(*config.secret()?.bytes());
    let links = Links::open(&config.links, side, config.cluster.id, &secret, start)?;
    let about = About {
        version: env!("CARGO_PKG_VERSION").into(),
        config: config.pair_digest().to_vec(),
        identity: identity.public().to_vec(),
        macs: kernel.own_macs().concat(),
        license: situation::standing_number(staffetta_policy::types::Standing::Unknown),
        ..About::default()
    };
    let mut clock = Clock::default();
    let options = Options {
        side,
        preferred: config.node.preferred,
        peer_preferred: config.peer.preferred,
        arbiter: config.arbiter.is_some(),
        timing,
        data: !config.databases.is_empty() || !config.trees.is_empty(),
        drain_patience: Span(u64::try_from(data::drain_patience(config).as_nanos())?),
    };
    let told = (about, clock.now());
    let node = Node::new(options, Boot { id: start, now: clock.now(), disk, slack });
    Ok(Parts {
        node,
        clock,
        links,
        kernel,
        inbox,
        persist: persister(file, common.outbox.clone(), common.reporter.clone()),
        jobs,
        consult,
        data: common.data.get().cloned().unwrap_or_default(),
        reporter: common.reporter.clone(),
        board: common.board.clone(),
        about: told,
        probes: config.vips.iter().any(|vip| vip.interface != "lo"),
    })
}

/// Name of the thread whose end is the end of the process.
const BEAT_THREAD: &str = "beats";

/// A broken invariant ends the process at once: the gate closes by the kernel's timer, the peer
/// takes over.
fn abort_with_the_beat_thread() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        if std::thread::current().name() == Some(BEAT_THREAD) {
            std::process::abort();
        }
    }));
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .with_context(|| format!("cannot start the {name} thread"))
}

fn evidence_of(config: &Config) -> Evidence {
    let checks: Vec<String> = config.checks.iter().map(|check| check.name.clone()).collect();
    let targets: Vec<String> = config.references.iter().map(|target| target.name.clone()).collect();
    Evidence::new(&checks, &targets, &config.facts)
}

fn open_kernel(config: &Config) -> anyhow::Result<Kernel> {
    let vips = config.vips.iter().map(|vip| Vip {
        address: vip.address,
        prefix: vip.prefix,
        interface: vip.interface.clone(),
    });
    let lease = Duration::from_millis(config.timing.parts_ms()[1]);
    let kernel = Kernel::open(staffetta_vip::Options {
        vips: vips.collect(),
        table: TABLE.into(),
        neighbors: config.references.iter().map(|reference| reference.address).collect(),
        lifetime_backup: lease + LIFETIME_BEYOND,
        force_class: None,
    })?;
    Ok(kernel)
}

/// The chain of one kind: built-in below, the configured site policy on top. A site policy that is
/// refused is an alarm and leaves the built-in one in force: an error in a file must not take the
/// service down at a restart.
fn chain<S: staffetta_policy::Subject>(
    kind: Kind,
    loader: &Loader,
    reporter: &Reporter,
    refused: &mut Vec<String>,
) -> anyhow::Result<Chain<S>> {
    let built_in = loader.built_in(kind).with_context(|| {
        format!("settings of the built-in {kind} policy ([policy.{kind}.settings])")
    })?;
    let mut chain = Chain::new(built_in);
    match loader.configured(kind) {
        Ok(Some(policy)) => chain.swap(policy),
        Ok(None) => {}
        Err(error) => {
            let text = format!("{error}; the built-in one decides");
            reporter.event(EventLevel::Error, "policy-refused", text.clone());
            refused.push(text);
        }
    }
    Ok(chain)
}

fn in_force(
    failover: &staffetta_policy::FailoverChain,
    split_brain: &staffetta_policy::SplitBrainChain,
) -> InForce {
    let owned = |(speaker, policy): (Speaker, &Arc<staffetta_policy::Policy>)| {
        (speaker, Arc::clone(policy))
    };
    InForce {
        failover: owned(failover.in_force()),
        split_brain: owned(split_brain.in_force()),
        quarantined: Vec::new(),
    }
}

fn not_judged(chain: &staffetta_policy::LicenseChain) -> Judged {
    let (speaker, policy) = chain.in_force();
    Judged {
        status: LicenseStatus { state: LicenseState::Unknown, reason: "not judged yet".into() },
        policy: (speaker, Arc::clone(policy)),
        warnings: Vec::new(),
    }
}

/// The thread that makes epochs durable.
fn persister(
    mut file: EpochFile,
    outbox: Outbox,
    reporter: Reporter,
) -> Sender<(PersistId, Durable)> {
    let (sender, receiver): (_, Receiver<(PersistId, Durable)>) = mpsc::channel();
    let work = move || {
        realtime::raise_this_thread(realtime::PRIORITY_HELPERS);
        while let Ok((id, record)) = receiver.recv() {
            let event = match file.write(&record) {
                Ok(()) => Event::Persisted(id),
                Err(error) => {
                    reporter.event(EventLevel::Error, "epoch-file", error.to_string());
                    Event::PersistFailed(id)
                }
            };
            outbox.send(Mail::Event(event));
        }
    };
    // Without the thread the channel is closed, and every write fails visibly.
    let _ = spawn("epoch", work);
    sender
}
