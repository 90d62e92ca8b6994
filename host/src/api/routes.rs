//! What each path does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::control::{Control, Order, OrderKind, PolicyKind};
use super::request::{Body, Refused, json, read_body, read_json, read_limit, read_name};
use super::status::Status;
use super::{ORDER_MS_MAX, events};
use crate::config::Config;
use crate::journal::{JournalError, JournalHandle};
use staffetta_files::{Order as TreeOrder, Restore};

/// Paths as the answer to an unknown one lists them.
const PATHS: &str = "GET /api/v1/status, /events, /decisions, /decisions/ID, /history, /databases, \
                     /databases/diff?name=NAME, /alignment; POST /api/v1/switchover, /maintenance, \
                     /clear, /start-alone, /policy/load, /policy/rollback, /config/check, \
                     /databases/scrub, /databases/resync; GET /files, /files/diff?name=NAME, \
                     /files/kept?name=NAME; POST /files/approve, /files/verify, /files/restore";

/// An example of a body that names a tree.
const TREE_EXAMPLE: &str = "{\"name\": \"recordings\"}";
/// Paths of a tree in one answer.
const TREE_PATHS_MAX: usize = 1_000;

pub(super) struct Api {
    control: Control,
    streams: Arc<Semaphore>,
}

type Answer = Result<Response<Body>, Refused>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Maintenance {
    on: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyLoad {
    kind: PolicyKind,
    file: PathBuf,
    #[serde(default)]
    settings: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedOrAll {
    #[serde(default)]
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TreeRestore {
    name: String,
    path: String,
    #[serde(default)]
    stamp: Option<String>,
    #[serde(default)]
    to: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyRollback {
    kind: PolicyKind,
}

impl Api {
    pub(super) fn new(control: Control, streams_max: usize) -> Api {
        Api { control, streams: Arc::new(Semaphore::new(streams_max)) }
    }

    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().trim_end_matches('/');
        let answer = match path.strip_prefix("/api/v1/") {
            None => Err(unknown(path)),
            Some(rest) if head.method == Method::GET => self.get(rest, head.uri.query()).await,
            Some(rest) if head.method == Method::POST => self.post(rest, body).await,
            Some(rest) => Err(wrong_method(rest)),
        };
        answer.unwrap_or_else(Refused::into_response)
    }

    /// The status as it was made last, but for alignment, which is a promise about now.
    fn status(&self) -> Arc<Status> {
        let status = Arc::clone(&self.control.status.borrow());
        let over = status.alignment.as_ref().and_then(|one| one.at(Instant::now()));
        match over {
            Some(over) => Arc::new(Status { alignment: Some(over), ..(*status).clone() }),
            None => status,
        }
    }

    async fn get(&self, path: &str, query: Option<&str>) -> Answer {
        match path {
            "status" => {
                let status = self.status();
                Ok(json(StatusCode::OK, &*status))
            }
            "databases" => {
                let status = self.status();
                let all = json!({ "databases": status.databases, "alignment": status.alignment });
                Ok(json(StatusCode::OK, &all))
            }
            "alignment" => {
                let status = self.status();
                match &status.alignment {
                    Some(alignment) => Ok(json(StatusCode::OK, alignment)),
                    None => Err(Refused::new(
                        StatusCode::NOT_FOUND,
                        "nothing is replicated",
                        "add [[database]] or [[tree]] to the configuration of both nodes",
                    )),
                }
            }
            "databases/diff" => self.database_diff(query).await,
            "files" => {
                let status = self.status();
                let all = json!({ "trees": status.trees, "alignment": status.alignment });
                Ok(json(StatusCode::OK, &all))
            }
            "files/diff" => {
                let order = TreeOrder::Differ(TREE_PATHS_MAX);
                self.order(OrderKind::Tree { name: read_name(query)?, order }).await
            }
            "files/kept" => {
                let order = TreeOrder::Kept(TREE_PATHS_MAX);
                self.order(OrderKind::Tree { name: read_name(query)?, order }).await
            }
            "events" => self.events(),
            "decisions" => {
                let limit = read_limit(query)?;
                let rows = self.journal(move |journal| journal.decisions(limit)).await?;
                Ok(json(StatusCode::OK, &json!({ "decisions": rows })))
            }
            "history" => {
                let limit = read_limit(query)?;
                let rows = self.journal(move |journal| journal.history(limit)).await?;
                Ok(json(StatusCode::OK, &json!({ "history": rows })))
            }
            _ => match path.strip_prefix("decisions/") {
                Some(id) => self.decision(id).await,
                None => Err(wrong_method(path)),
            },
        }
    }

    async fn post(&self, path: &str, body: Incoming) -> Answer {
        let kind = match path {
            "switchover" => OrderKind::Switchover,
            "clear" => OrderKind::Clear,
            "start-alone" => OrderKind::StartAlone,
            "maintenance" => {
                let Maintenance { on } = read_json(body, "{\"on\": true}").await?;
                OrderKind::Maintenance(on)
            }
            "policy/load" => {
                let example = "{\"kind\": \"failover\", \"file\": \"/etc/staffetta/site.wasm\"}";
                let PolicyLoad { kind, file, settings } = read_json(body, example).await?;
                if !file.is_absolute() {
                    return Err(Refused::new(
                        StatusCode::BAD_REQUEST,
                        format!("{} is not an absolute path", file.display()),
                        "name the file by its full path: the daemon reads it itself",
                    ));
                }
                OrderKind::PolicyLoad { kind, file, settings }
            }
            "policy/rollback" => {
                let PolicyRollback { kind } = read_json(body, "{\"kind\": \"failover\"}").await?;
                OrderKind::PolicyRollback { kind }
            }
            "databases/scrub" => {
                let NamedOrAll { name } = read_json(body, "{\"name\": null}").await?;
                OrderKind::Scrub { name }
            }
            "databases/resync" => {
                let Named { name } = read_json(body, "{\"name\": \"calls\"}").await?;
                OrderKind::Resync { name }
            }
            "files/approve" => {
                let Named { name } = read_json(body, TREE_EXAMPLE).await?;
                OrderKind::Tree { name, order: TreeOrder::Approve }
            }
            "files/verify" => {
                let Named { name } = read_json(body, TREE_EXAMPLE).await?;
                OrderKind::Tree { name, order: TreeOrder::Verify }
            }
            "files/restore" => {
                let example = "{\"name\": \"recordings\", \"path\": \"2026/11/a.wav\"}";
                let TreeRestore { name, path, stamp, to } = read_json(body, example).await?;
                let order = TreeOrder::Restore(Restore { path, stamp, to });
                OrderKind::Tree { name, order }
            }
            "config/check" => return config_check(&read_body(body).await?),
            _ => return Err(wrong_method(path)),
        };
        self.order(kind).await
    }

    async fn order(&self, kind: OrderKind) -> Answer {
        let (reply, answer) = oneshot::channel();
        let stopping = || {
            Refused::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the daemon is stopping",
                "start it again, then repeat the order",
            )
        };
        self.control.orders.try_send(Order { kind, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refused::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many orders are waiting",
                "wait for the ones given before, then repeat this one",
            ),
            mpsc::error::TrySendError::Closed(_) => stopping(),
        })?;
        match tokio::time::timeout(Duration::from_millis(ORDER_MS_MAX), answer).await {
            Ok(Ok(Ok(done))) => Ok(json(StatusCode::OK, &json!({ "done": done }))),
            Ok(Ok(Err(body))) => Err(Refused { status: StatusCode::CONFLICT, body, allow: None }),
            Ok(Err(_)) => Err(stopping()),
            Err(_) => Err(Refused::new(
                StatusCode::GATEWAY_TIMEOUT,
                format!("the order was not finished after {ORDER_MS_MAX} ms"),
                "it may still be carried out: look at `staffetta status` before you repeat it",
            )),
        }
    }

    async fn decision(&self, id: &str) -> Answer {
        let number: i64 = id.parse().map_err(|_| {
            let remedy = "take the number from `staffetta status` or /api/v1/decisions";
            Refused::new(StatusCode::BAD_REQUEST, format!("`{id}` is not a number"), remedy)
        })?;
        match self.journal(move |journal| journal.decision_by_id(number)).await? {
            Some(decision) => Ok(json(StatusCode::OK, &decision)),
            None => Err(Refused::new(
                StatusCode::NOT_FOUND,
                format!("decision {number} is not in the journal"),
                "old ones make room for new ones: /api/v1/decisions lists what is there",
            )),
        }
    }

    /// How the newest archive of a database differs from it, on a thread that may wait.
    async fn database_diff(&self, query: Option<&str>) -> Answer {
        let status = self.status();
        let name = read_name(query)?;
        let found = status.database(&name);
        let Some(database) = found.map(|one| PathBuf::from(&one.path)) else {
            return Err(Refused::new(
                StatusCode::NOT_FOUND,
                format!("no database `{name}` is replicated"),
                "name one with ?name=NAME, as /api/v1/databases lists them",
            ));
        };
        let archives = self.control.archives.clone();
        let compared = tokio::task::spawn_blocking(move || {
            let archive = crate::databases::newest_archive(&archives, &database)?;
            let found = crate::databases::difference(&archive, &database);
            Some(found.map(
                |found| json!({ "archive": archive, "database": database, "differences": found }),
            ))
        });
        match compared.await {
            Ok(Some(Ok(shown))) => Ok(json(StatusCode::OK, &shown)),
            Ok(None) => Err(Refused::new(
                StatusCode::NOT_FOUND,
                format!("there is no archive of `{name}` on this node"),
                "nothing of it was overwritten here",
            )),
            Ok(Some(Err(error))) => Err(Refused::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                error.to_string(),
                "see the daemon's log",
            )),
            Err(error) => Err(Refused::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                error.to_string(),
                "see the daemon's log",
            )),
        }
    }

    fn events(&self) -> Answer {
        let seat = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            Refused::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many event streams are open",
                "close one: `staffetta watch` holds one each",
            )
        })?;
        Ok(events::stream(&self.control, seat))
    }

    /// Reads the journal on a thread that may wait for the disk.
    async fn journal<T: Send + 'static>(
        &self,
        query: impl FnOnce(&JournalHandle) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, Refused> {
        let journal = self.control.journal.clone();
        let failed = |error: String| {
            let remedy = "look at the daemon's log and at the state directory's disk";
            Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error, remedy)
        };
        match tokio::task::spawn_blocking(move || query(&journal)).await {
            Ok(rows) => rows.map_err(|error| failed(error.to_string())),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

fn config_check(body: &[u8]) -> Answer {
    let text = std::str::from_utf8(body).map_err(|_| {
        let remedy = "send the text of the configuration in UTF-8";
        Refused::new(StatusCode::BAD_REQUEST, "the body is not text", remedy)
    })?;
    match Config::parse(text, Path::new("staffetta.toml")) {
        Ok(config) => Ok(json(
            StatusCode::OK,
            &json!({ "ok": true, "node": config.node.name, "peer": config.peer.name }),
        )),
        Err(error) => Err(Refused::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            error.to_string(),
            "change that line; examples/staffetta.toml explains every key",
        )),
    }
}

fn unknown(path: &str) -> Refused {
    Refused::new(
        StatusCode::NOT_FOUND,
        format!("there is no {path}"),
        format!("use one of {PATHS}"),
    )
}

/// The answer to a path under `/api/v1` that this method does not know: 405 when the other one
/// does.
fn wrong_method(path: &str) -> Refused {
    let allow = match path {
        "status" | "events" | "decisions" | "history" | "databases" | "databases/diff"
        | "alignment" | "files" | "files/diff" | "files/kept" => "GET",
        _ if path.starts_with("decisions/") => "GET",
        "switchover" | "maintenance" | "clear" | "start-alone" | "policy/load"
        | "policy/rollback" | "config/check" | "databases/scrub" | "databases/resync"
        | "files/approve" | "files/verify" | "files/restore" => "POST",
        _ => return unknown(&format!("/api/v1/{path}")),
    };
    let status = StatusCode::METHOD_NOT_ALLOWED;
    let error = format!("/api/v1/{path} is not asked like this");
    Refused { allow: Some(allow), ..Refused::new(status, error, format!("use {allow}")) }
}
