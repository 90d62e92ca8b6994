//! Carries operators' orders to the thread that can do them, and says what happened.

use super::data::DataLink;
use super::decide::Job;
use super::inbox::{Mail, Outbox};
use super::policies::{Loader, kind_of};
use super::snapshot::Board;
use super::trees;
use crate::api::{Order, OrderError, OrderKind, PolicyKind};
use staffetta_core::{Order as CoreOrder, Refusal};
use staffetta_db::Command;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use tokio::sync::{mpsc as tokio_mpsc, oneshot};

/// Takes orders until nobody can give any.
pub(crate) async fn take(
    mut orders: tokio_mpsc::Receiver<Order>,
    outbox: Outbox,
    failover_jobs: Sender<Job>,
    license_jobs: Sender<Job>,
    loader: Loader,
    board: Board,
    data: DataLink,
) {
    while let Some(order) = orders.recv().await {
        let result = match order.kind {
            OrderKind::Switchover => tell(&outbox, CoreOrder::Switchover).await,
            OrderKind::Maintenance(on) => tell(&outbox, CoreOrder::Maintenance(on)).await,
            OrderKind::Clear => tell(&outbox, CoreOrder::Clear).await,
            OrderKind::StartAlone => tell(&outbox, CoreOrder::StartAlone).await,
            OrderKind::PolicyLoad { kind, file, settings } => {
                let jobs = jobs_of(kind, &failover_jobs, &license_jobs);
                load(kind, file, settings, jobs, loader.clone(), &board).await
            }
            OrderKind::Scrub { name } => scrub(&data, name),
            OrderKind::Resync { name } => resync(&data, &name),
            OrderKind::Tree { name, order: wanted } => {
                // Answered by the thread that owns the trees.
                trees::order(&data, name, wanted, order.reply);
                continue;
            }
            OrderKind::PolicyRollback { kind } => {
                rollback(kind, jobs_of(kind, &failover_jobs, &license_jobs)).await
            }
        };
        // Whoever ordered may have gone; what was done is in the journal.
        let _ = order.reply.send(result.map(Into::into));
    }
}

fn scrub(data: &DataLink, name: Option<String>) -> Result<String, OrderError> {
    if data.status().is_empty() && name.is_none() {
        return Err(OrderError::new(
            "no database is replicated",
            "add [[database]] to the configuration of both nodes; a file that does not exist yet \
             is found as soon as it does",
        ));
    }
    let path = name.as_deref().map(|name| database(data, name)).transpose()?;
    data.say(Command::Scrub(path));
    Ok("all pages are being compared; `staffetta db status` shows the result".into())
}

fn resync(data: &DataLink, name: &str) -> Result<String, OrderError> {
    data.say(Command::Resync(database(data, name)?));
    Ok("it is being compared anew; `staffetta db status` shows how far".into())
}

/// The path of a database that is named by its name or path.
fn database(data: &DataLink, name: &str) -> Result<PathBuf, OrderError> {
    let status = data.status();
    let found = status.iter().find(|one| one.name == name || one.path == Path::new(name));
    found.map(|one| one.path.clone()).ok_or_else(|| no_database(name))
}

fn no_database(name: &str) -> OrderError {
    OrderError::new(
        format!("no database `{name}` is replicated"),
        "name one as `staffetta db status` shows it",
    )
}

fn jobs_of(kind: PolicyKind, failover: &Sender<Job>, license: &Sender<Job>) -> Sender<Job> {
    match kind {
        PolicyKind::Failover | PolicyKind::SplitBrain => failover.clone(),
        PolicyKind::License => license.clone(),
    }
}

async fn tell(outbox: &Outbox, order: CoreOrder) -> Result<String, OrderError> {
    let (reply, answer) = oneshot::channel();
    outbox.send(Mail::Order(order, reply));
    match answer.await {
        Ok(Ok(())) => Ok(done(order).into()),
        Ok(Err(refusal)) => Err(refused(refusal)),
        Err(_) => Err(OrderError::new("the daemon is stopping", "try again once it runs")),
    }
}

fn done(order: CoreOrder) -> &'static str {
    match order {
        CoreOrder::Switchover => "the peer serves now",
        CoreOrder::Maintenance(true) => "takeover is disarmed on this node, durably",
        CoreOrder::Maintenance(false) => "takeover is armed again",
        CoreOrder::StartAlone => "this node serves",
        CoreOrder::Clear => "the fence is cleared; the node joins again",
        CoreOrder::Stop => "stopping",
    }
}

fn refused(refusal: Refusal) -> OrderError {
    let (error, remedy) = match refusal {
        Refusal::NotPrimary => (
            "this node is not primary",
            "give the order on the node that serves: see `staffetta status`",
        ),
        Refusal::PeerAbsent => (
            "the peer is not there, or does not hear this node",
            "see the links in `staffetta status`",
        ),
        Refusal::PeerNotEligible => (
            "the peer may not be made primary",
            "see its maintenance flag, its checks and its service network",
        ),
        Refusal::License => {
            ("the license does not allow planned moves", "see `staffetta status`, license")
        }
        Refusal::PeerPresent => {
            let remedy = "the pair forms by itself: a node starts alone in silence, or where \
                          neither serves and each may lack what the other one acknowledged";
            ("the peer is there", remedy)
        }
        Refusal::Promised(left) => {
            return OrderError::new(
                format!("this node may still be bound by a promise for {left}"),
                "try again after that time",
            );
        }
        Refusal::NotWaiting => ("this node does not wait to start", "see `staffetta status`"),
        Refusal::NotFenced => ("this node is not fenced", "nothing to clear"),
        Refusal::Fenced => ("this node is fenced", "remove the cause, then `staffetta clear`"),
        Refusal::Busy => {
            ("a move is already under way", "wait for its end, then look at the status")
        }
        Refusal::Policy => {
            ("the policy holds", "its reason is the newest decision in `staffetta status`")
        }
        Refusal::NotTaken => {
            ("the peer did not take the service over", "see the log of the peer; this node went on")
        }
        Refusal::NotElected => (
            "this node was not elected in time; nothing was given up",
            "see what it waits for in `staffetta status`, then give the order again",
        ),
        Refusal::DataNotShipped => (
            "the standby did not get all data in time; writers go on here",
            "see `staffetta status --aligned`: wait until it is aligned, then try again",
        ),
        Refusal::Arbiter => (
            "the arbiter does not answer, or its register belongs to another node",
            "see `staffetta arbiter check`; where the arbiter is gone for good, remove [arbiter] \
             from both configurations and start again",
        ),
        Refusal::Disk => ("the disk did not take the record", "look at the state folder"),
    };
    OrderError::new(error, remedy)
}

/// Everything slow happens before the policy thread hears of it: the swap itself costs a pointer.
async fn load(
    kind: PolicyKind,
    file: PathBuf,
    settings: Option<serde_json::Value>,
    jobs: Sender<Job>,
    loader: Loader,
    board: &Board,
) -> Result<String, OrderError> {
    let settings = match settings {
        None => None,
        Some(serde_json::Value::Object(settings)) => Some(settings),
        Some(_) => {
            return Err(OrderError::new(
                "the settings are not a JSON object",
                "write {\"name\": value, …}",
            ));
        }
    };
    if board.newest().is_some_and(|snapshot| snapshot.view.wants_license) {
        return Err(OrderError::new(
            "the license does not allow the loading of policies",
            "see `staffetta status`, license",
        ));
    }
    let path = file.clone();
    let loaded = tokio::task::spawn_blocking(move || {
        let kind = kind_of(kind);
        let settings = settings.unwrap_or_else(|| loader.section(kind).settings.clone());
        loader.file(kind, &path, None, Some(&settings))
    })
    .await;
    let policy = match loaded {
        Ok(Ok(policy)) => policy,
        Ok(Err(error)) => {
            let remedy = "the policy in force stays; try `staffetta policy check FILE`";
            return Err(OrderError::new(error.to_string(), remedy));
        }
        Err(error) => {
            let remedy = "the policy in force stays; see the log";
            return Err(OrderError::new(format!("loading failed: {error}"), remedy));
        }
    };
    let about = policy.description();
    let said =
        format!("{} {} ({}) decides from now on", about.name, about.version, policy.digest());
    jobs.send(Job::Swap(policy))
        .map_err(|_| OrderError::new("the daemon is stopping", "try again once it runs"))?;
    Ok(said)
}

async fn rollback(kind: PolicyKind, jobs: Sender<Job>) -> Result<String, OrderError> {
    let (reply, answer) = mpsc::channel();
    let stopping = || OrderError::new("the daemon is stopping", "try again once it runs");
    jobs.send(Job::Rollback(kind_of(kind), reply)).map_err(|_| stopping())?;
    let out = tokio::task::spawn_blocking(move || answer.recv()).await;
    match out {
        Ok(Ok(Some(policy))) => Ok(format!("{} is out of force", policy.description().name)),
        Ok(Ok(None)) => Err(OrderError::new(
            format!("no {kind} policy of the site is in force"),
            "the built-in one decides",
        )),
        Ok(Err(_)) | Err(_) => Err(stopping()),
    }
}
