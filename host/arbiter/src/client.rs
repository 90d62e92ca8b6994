//! Carries out the core's requests: order of the endpoints, hedged reads, swaps that are sent once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use staffetta_core::{Register, Reply, Request};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::connection::{Answer, Connections, Fault, Post, connector};
use crate::endpoints::Standing;
use crate::login::Login;
use crate::message::{self, From, RANGE, STATUS, Swapped, TXN};
use crate::record::Record;
use crate::value::{decode, encode};
use crate::{ArbiterConfig, ArbiterError, CheckReport, Endpoint};

pub use crate::record::LastError;

/// Asks the arbiter. Cheap to clone; clones share connections, token and what is known of the
/// endpoints. Several requests can be on their way at once.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

/// What an endpoint says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointStatus {
    /// Version of etcd.
    pub version: String,
    /// Id of the etcd cluster; equal on all endpoints.
    pub cluster_id: u64,
    /// Id of the member that leads; 0 while there is none.
    pub leader: u64,
    /// Size of the database, in bytes. etcd refuses writes above its quota (2 GiB by default).
    pub db_bytes: u64,
    /// Round trip of this question, connection included.
    pub took: Duration,
}

pub(crate) struct Inner {
    pub(crate) config: ArbiterConfig,
    pub(crate) endpoints: Vec<Connections>,
    pub(crate) login: Option<Login>,
    key: String,
    standing: Mutex<Standing>,
    record: Mutex<Record>,
}

/// An answer that is an error.
pub(crate) struct Refusal {
    pub(crate) fault: Fault,
    /// The token was refused, nothing was carried out: another token may help.
    token: bool,
}

/// When a request began, how long it may take.
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    began: Instant,
    timeout: Duration,
}

impl Limit {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { began: Instant::now(), timeout }
    }

    pub(crate) fn end(self) -> Instant {
        self.began + self.timeout
    }

    /// How long one endpoint has for itself, and for its connection.
    pub(crate) fn third(self) -> Duration {
        self.timeout / 3
    }

    pub(crate) fn post(self, path: &'static str, body: Bytes) -> Post {
        Post { path, body, connect: self.third(), fresh: false }
    }
}

impl Client {
    /// A client of the arbiter. Nothing is sent before the first request.
    ///
    /// # Errors
    /// When endpoints, names, keys or certificates cannot be used.
    pub fn new(config: ArbiterConfig) -> Result<Client, ArbiterError> {
        config.validate()?;
        let tls = config.tls.as_ref().map(connector).transpose()?;
        let endpoints: Result<Vec<_>, _> = config
            .endpoints
            .iter()
            .map(|endpoint| Connections::new(endpoint.clone(), tls.as_ref()))
            .collect();
        let endpoints = endpoints?;
        let inner = Inner {
            key: config.key(),
            standing: Mutex::new(Standing::new(endpoints.len())),
            record: Mutex::default(),
            login: config.auth.clone().map(Login::new),
            endpoints,
            config,
        };
        Ok(Client { inner: Arc::new(inner) })
    }

    /// Carries out a request, within `timeout` in any case. Must run in a tokio runtime. To drop
    /// the future gives up the request; a swap may then have been made or not.
    ///
    /// A read that has no answer after a third of the time is sent to the next endpoint as well. A
    /// swap goes to one endpoint; to another one only while no connection was made.
    pub async fn ask(&self, request: Request, timeout: Duration) -> Reply {
        let limit = Limit::new(timeout);
        let result = match request {
            Request::Read => self.inner.read(limit).await.map(Reply::Holds),
            Request::Swap { expect, to } => self.inner.swap(expect, to, limit).await,
        };
        let mut record = self.inner.record();
        match result {
            Ok(reply) => {
                record.answered(&self.inner.key);
                reply
            }
            Err(error) => {
                record.failed(&self.inner.key, error);
                Reply::Failed
            }
        }
    }

    /// The last error, also after the arbiter answered again; `None` if there was none yet.
    #[must_use]
    pub fn last_error(&self) -> Option<LastError> {
        self.inner.record().last()
    }

    /// The configured endpoints; their places are what [`Client::status`] takes.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.inner.config.endpoints
    }

    /// Key of the register in etcd.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.inner.key
    }

    /// Id of the etcd cluster that answered last; `None` before the first answer. It changes when
    /// the cluster is built anew with another list of members; the register is lost then.
    #[must_use]
    pub fn cluster_id(&self) -> Option<u64> {
        self.inner.standing().cluster()
    }

    /// Asks one endpoint, by its place in [`Client::endpoints`], for its state.
    ///
    /// # Errors
    /// When it does not answer within `timeout`, refuses, or there is no such endpoint.
    pub async fn status(
        &self,
        endpoint: usize,
        timeout: Duration,
    ) -> Result<EndpointStatus, ArbiterError> {
        if endpoint >= self.inner.endpoints.len() {
            return Err(ArbiterError::Config {
                what: format!("there is no endpoint {endpoint}"),
                remedy: "count from 0".to_owned(),
            });
        }
        let limit = Limit::new(timeout);
        let post = limit.post(STATUS, message::status());
        let From { cluster, answer } =
            self.inner.ask_one(endpoint, &post, limit, message::read_status).await?;
        Ok(EndpointStatus {
            version: answer.version,
            cluster_id: cluster,
            leader: answer.leader,
            db_bytes: answer.db_bytes,
            took: limit.began.elapsed(),
        })
    }

    /// Tries the arbiter: state of every endpoint, the register, and on every endpoint that answers
    /// `n` reads and `n` swaps of a scratch key beside the register, each within `timeout`. The
    /// scratch keys are deleted afterwards, by etcd itself if this program ends before.
    pub async fn check(&self, n: u32, timeout: Duration) -> CheckReport {
        crate::check::run(self, &self.inner, n, timeout).await
    }
}

impl Inner {
    async fn read(self: &Arc<Self>, limit: Limit) -> Result<Option<Register>, ArbiterError> {
        self.have_token(limit).await?;
        let mut waiting = self.tries(limit).into_iter();
        let mut running = Vec::new();
        let mut attempts = JoinSet::new();
        let mut last = None;
        loop {
            if let Some((at, post)) = waiting.next() {
                let inner = self.clone();
                running.push(at);
                attempts.spawn(async move { (at, inner.read_at(at, &post).await) });
            } else if attempts.is_empty() {
                return Err(last.unwrap_or_else(|| self.no_answer(&[], limit.timeout)));
            }
            let more = waiting.len() > 0;
            let next = if more { Instant::now() + limit.third() } else { limit.end() };
            tokio::select! {
                Some(Ok((at, result))) = attempts.join_next() => {
                    if let Some(place) = running.iter().position(|one| *one == at) {
                        running.remove(place);
                    }
                    match result {
                        Ok(register) => {
                            // Who was asked before and has not answered yet is too slow.
                            let slow = running.iter().filter(|slow| **slow != at);
                            slow.for_each(|slow| self.failed(*slow));
                            self.standing().answered(at);
                            return Ok(register);
                        }
                        Err(Fault::Refused(error)) => return Err(error),
                        Err(Fault::NotSent(error) | Fault::Doubtful(error)) => {
                            self.failed(at);
                            last = Some(error);
                        }
                    }
                }
                () = sleep_until(next.min(limit.end())) => {
                    if Instant::now() >= limit.end() {
                        running.iter().for_each(|slow| self.failed(*slow));
                        return Err(self.no_answer(&running, limit.timeout));
                    }
                }
            }
        }
    }

    /// Where a read goes, in this order. A single endpoint is asked twice, the second time over a
    /// new connection: the old one may lead nowhere.
    fn tries(&self, limit: Limit) -> Vec<(usize, Post)> {
        let post = limit.post(RANGE, message::range(&self.key));
        let mut tries: Vec<_> = self.order().into_iter().map(|at| (at, post.clone())).collect();
        if let [(only, _)] = tries[..] {
            tries.push((only, Post { fresh: true, ..post }));
        }
        tries
    }

    async fn swap(
        self: &Arc<Self>,
        expect: Option<Register>,
        to: Register,
        limit: Limit,
    ) -> Result<Reply, ArbiterError> {
        let names = &self.config.names;
        let text = |register: &Register| {
            encode(register, names).map_err(|why| ArbiterError::Unwritable { why })
        };
        let expect = expect.as_ref().map(text).transpose()?;
        let body = message::swap(&self.key, expect.as_deref(), &text(&to)?, None);
        self.have_token(limit).await?;
        let post = limit.post(TXN, body);
        let mut last = None;
        for at in self.order() {
            if let Err(error) = self.know_cluster(at, limit).await {
                self.failed(at);
                last = Some(error);
                continue;
            }
            match timeout_at(limit.end(), self.swap_at(at, &post)).await {
                Ok(Ok(reply)) => {
                    self.standing().answered(at);
                    return Ok(reply);
                }
                Ok(Err(Fault::NotSent(error))) => {
                    self.failed(at);
                    last = Some(error);
                }
                Ok(Err(Fault::Doubtful(error))) => {
                    self.failed(at);
                    return Err(error);
                }
                Ok(Err(Fault::Refused(error))) => return Err(error),
                Err(_) => {
                    self.failed(at);
                    return Err(self.no_answer(&[at], limit.timeout));
                }
            }
        }
        Err(last.unwrap_or_else(|| self.no_answer(&[], limit.timeout)))
    }

    /// A swap must not be the first thing that an endpoint is asked: it may belong to another etcd
    /// cluster, and a register there is a second one.
    async fn know_cluster(self: &Arc<Self>, at: usize, limit: Limit) -> Result<(), ArbiterError> {
        if self.endpoints.len() == 1 || self.standing().is_known(at) {
            return Ok(());
        }
        let post = limit.post(RANGE, message::range(&self.key));
        let end = limit.end().min(Instant::now() + limit.third());
        match timeout_at(end, self.read_at(at, &post)).await {
            Ok(result) => result.map(drop).map_err(Fault::into_error),
            Err(_) => Err(self.no_answer(&[at], limit.third())),
        }
    }

    async fn read_at(self: &Arc<Self>, at: usize, post: &Post) -> Result<Option<Register>, Fault> {
        let body = self.call(at, post).await?;
        let from = message::read_range(&body, &self.key).map_err(|what| self.strange(at, what))?;
        self.belongs(at, from.cluster)?;
        from.answer.map(|bytes| self.register(&bytes)).transpose()
    }

    async fn swap_at(self: &Arc<Self>, at: usize, post: &Post) -> Result<Reply, Fault> {
        let body = self.call(at, post).await?;
        let from = message::read_swap(&body, &self.key).map_err(|what| self.strange(at, what))?;
        self.belongs(at, from.cluster)?;
        match from.answer {
            Swapped::Made => Ok(Reply::Swapped),
            Swapped::Holds(value) => {
                let register = value.map(|bytes| self.register(&bytes)).transpose();
                register.map(Reply::Holds)
            }
        }
    }

    fn register(&self, bytes: &[u8]) -> Result<Register, Fault> {
        decode(bytes, &self.config.names)
            .map_err(|why| Fault::Refused(ArbiterError::NotOurs { key: self.key.clone(), why }))
    }

    /// One request to one endpoint, within the limit, with `read` for its answer.
    pub(crate) async fn ask_one<T>(
        self: &Arc<Self>,
        at: usize,
        post: &Post,
        limit: Limit,
        read: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<T, ArbiterError> {
        match timeout_at(limit.end(), self.call(at, post)).await {
            Ok(Ok(body)) => read(&body).map_err(|what| self.endpoints[at].strange(what)),
            Ok(Err(fault)) => Err(fault.into_error()),
            Err(_) => Err(self.no_answer(&[at], limit.timeout)),
        }
    }

    /// Sends a request to one endpoint, with a token where there is a login. It is sent once more
    /// only if etcd refused the token: it carried nothing out then.
    async fn call(self: &Arc<Self>, at: usize, post: &Post) -> Result<Bytes, Fault> {
        let endpoint = &self.endpoints[at];
        let token = self.token(None).await?;
        let answer = endpoint.post(post, token.as_deref()).await?;
        let refusal = match self.judge(at, answer) {
            Ok(body) => return Ok(body),
            Err(refusal) => refusal,
        };
        if !refusal.token || token.is_none() {
            return Err(refusal.fault);
        }
        let token = self.token(token.as_ref()).await?;
        let answer = endpoint.post(post, token.as_deref()).await?;
        self.judge(at, answer).map_err(|refusal| refusal.fault)
    }

    async fn token(self: &Arc<Self>, not: Option<&Arc<str>>) -> Result<Option<Arc<str>>, Fault> {
        let Some(login) = &self.login else { return Ok(None) };
        // The login has asked all endpoints: another one has nothing else to say.
        login.token(self, not).await.map(Some).map_err(Fault::Refused)
    }

    /// Logs in before an endpoint is chosen: the time is not that endpoint's fault.
    async fn have_token(self: &Arc<Self>, limit: Limit) -> Result<(), ArbiterError> {
        match timeout_at(limit.end(), self.token(None)).await {
            Ok(token) => token.map(drop).map_err(Fault::into_error),
            Err(_) => Err(self.no_answer(&[], limit.timeout)),
        }
    }

    /// The body of an answer, or what an error of etcd means for the request.
    pub(crate) fn judge(&self, at: usize, answer: Answer) -> Result<Bytes, Refusal> {
        if answer.status == StatusCode::OK {
            return Ok(answer.body);
        }
        let endpoint = &self.endpoints[at];
        let Some(words) = message::read_error(&answer.body) else {
            let fault = self.strange(at, format!("HTTP status {}", answer.status));
            return Err(Refusal { fault, token: false });
        };
        // etcd checks tokens before anything is written, and again when it is applied.
        let token = words.contains("invalid auth token") || words.contains("auth store is old");
        let error = ArbiterError::Refused {
            endpoint: endpoint.name().to_owned(),
            remedy: self.remedy(&words),
            message: words,
        };
        let definite = answer.status.is_client_error()
            && !matches!(
                answer.status,
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::NOT_FOUND
            );
        let fault = if definite { Fault::Refused(error) } else { Fault::Doubtful(error) };
        Err(Refusal { fault, token })
    }

    fn remedy(&self, words: &str) -> String {
        let user = self.config.auth.as_ref().map_or("", |auth| auth.user.as_str());
        let has = |part: &str| words.contains(part);
        if has("permission denied") {
            let prefix = self.key.trim_end_matches("register");
            format!("grant {user:?} a role with readwrite on --prefix {prefix}")
        } else if has("user name is empty") {
            "etcd asks for a login: set arbiter.user and arbiter.password_file".to_owned()
        } else if has("authentication is not enabled") {
            "run `etcdctl auth enable`, or remove arbiter.user".to_owned()
        } else if has("invalid user ID or password") {
            "correct arbiter.user and arbiter.password_file".to_owned()
        } else if has("space exceeded") {
            "compact and defragment etcd, disarm its alarm, and start it with \
             --auto-compaction-retention=1h"
                .to_owned()
        } else {
            "see etcd's log, and `etcdctl endpoint health --cluster`".to_owned()
        }
    }

    fn belongs(&self, at: usize, cluster: u64) -> Result<(), Fault> {
        let other = self.standing().belongs(at, cluster);
        other.map_err(|(other, other_id)| {
            Fault::Doubtful(ArbiterError::OtherCluster {
                endpoint: self.endpoints[at].name().to_owned(),
                id: cluster,
                other: self.endpoints[other].name().to_owned(),
                other_id,
            })
        })
    }

    pub(crate) fn order(&self) -> Vec<usize> {
        self.standing().order(Instant::now())
    }

    pub(crate) fn failed(&self, at: usize) {
        self.endpoints[at].forget();
        self.standing().failed(at, Instant::now());
    }

    pub(crate) fn no_answer(&self, at: &[usize], waited: Duration) -> ArbiterError {
        let names: Vec<&str> = at.iter().map(|at| self.endpoints[*at].name()).collect();
        let endpoint = if names.is_empty() { "(login)".to_owned() } else { names.join(", ") };
        ArbiterError::NoAnswer { endpoint, ms: waited.as_millis().try_into().unwrap_or(u64::MAX) }
    }

    fn strange(&self, at: usize, what: String) -> Fault {
        Fault::Doubtful(self.endpoints[at].strange(what))
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
