//! The API's first client: what the CLI asks the daemon with.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::control::OrderError;
use super::{BODY_BYTES_MAX, ORDER_MS_MAX};

/// How long the daemon may take to begin an answer to anything but an order.
const ANSWER_MS_MAX: u64 = 10_000;
/// Bytes of an answer: a long history of decisions with their situations.
const ANSWER_BYTES_MAX: usize = 64 * BODY_BYTES_MAX;
/// Bytes of one server-sent event.
const EVENT_BYTES_MAX: usize = BODY_BYTES_MAX;

/// Asks the daemon behind one control socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "the daemon does not answer on {socket}: {why} (is it running? `staffetta run \
             --config …`)"
    )]
    NotReachable {
        /// The control socket.
        socket: PathBuf,
        /// What happened.
        why: String,
    },
    /// It listens and refuses.
    #[error("{0}")]
    Refused(OrderError),
    /// It answers what this program does not understand.
    #[error("the daemon on {socket} answered {what} (is it another version than this program?)")]
    Strange {
        /// The control socket.
        socket: PathBuf,
        /// What came.
        what: String,
    },
}

impl Client {
    /// A client of the daemon behind `socket`. Connects at each request.
    #[must_use]
    pub fn new(socket: &Path) -> Client {
        Client { socket: socket.to_owned() }
    }

    /// `GET`, the answer as JSON.
    ///
    /// # Errors
    /// When the daemon is not there, refuses, or answers something else.
    pub async fn get(&self, path: &str) -> Result<serde_json::Value, ClientError> {
        let wait = Duration::from_millis(ANSWER_MS_MAX);
        self.json(self.send(Method::GET, path, Bytes::new(), wait).await?).await
    }

    /// `POST` with a body, the answer as JSON.
    ///
    /// # Errors
    /// When the daemon is not there, refuses, or answers something else.
    pub async fn post(&self, path: &str, body: Vec<u8>) -> Result<serde_json::Value, ClientError> {
        // A little longer than the daemon itself waits: its own words are better than ours.
        let wait = Duration::from_millis(ORDER_MS_MAX + ANSWER_MS_MAX);
        self.json(self.send(Method::POST, path, body.into(), wait).await?).await
    }

    /// Follows `/api/v1/events` until `each` says false or the daemon goes; `each` gets the event's
    /// name and its data.
    ///
    /// # Errors
    /// When the daemon is not there or goes away.
    pub async fn follow(
        &self,
        mut each: impl FnMut(&str, serde_json::Value) -> bool,
    ) -> Result<(), ClientError> {
        let wait = Duration::from_millis(ANSWER_MS_MAX);
        let response = self.send(Method::GET, "/api/v1/events", Bytes::new(), wait).await?;
        if response.status() != StatusCode::OK {
            return self.json(response).await.map(|_| ());
        }
        let mut body = response.into_body();
        let mut text = String::new();
        loop {
            while let Some(end) = text.find("\n\n") {
                let message: String = text.drain(..end + 2).collect();
                let Some((name, data)) = read_event(&message) else { continue };
                if !each(name, data) {
                    return Ok(());
                }
            }
            if text.len() > EVENT_BYTES_MAX {
                return Err(self.strange("an endless event".to_owned()));
            }
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(bytes) = frame.data_ref() {
                        text.push_str(&String::from_utf8_lossy(bytes));
                    }
                }
                Some(Err(error)) => return Err(self.not_reachable(error.to_string())),
                None => return Err(self.not_reachable("it went away".to_owned())),
            }
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        wait: Duration,
    ) -> Result<Response<Incoming>, ClientError> {
        let ask = async {
            let stream = UnixStream::connect(&self.socket).await.map_err(|e| e.to_string())?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .map_err(|e| e.to_string())?;
            tokio::spawn(connection);
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("host", "staffetta")
                .body(Full::new(body))
                .map_err(|e| e.to_string())?;
            sender.send_request(request).await.map_err(|e| e.to_string())
        };
        match tokio::time::timeout(wait, ask).await {
            Ok(answer) => answer.map_err(|why| self.not_reachable(why)),
            Err(_) => Err(self.not_reachable(format!("no answer in {} ms", wait.as_millis()))),
        }
    }

    async fn json(&self, response: Response<Incoming>) -> Result<serde_json::Value, ClientError> {
        let status = response.status();
        let bytes = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| self.not_reachable(error.to_string()))?
            .to_bytes();
        let value: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|error| self.strange(format!("no JSON: {error}")))?;
        if status.is_success() {
            return Ok(value);
        }
        match serde_json::from_value::<OrderError>(value) {
            Ok(refused) => Err(ClientError::Refused(refused)),
            Err(_) => Err(self.strange(format!("{status} without a reason"))),
        }
    }

    fn not_reachable(&self, why: String) -> ClientError {
        ClientError::NotReachable { socket: self.socket.clone(), why }
    }

    fn strange(&self, what: String) -> ClientError {
        ClientError::Strange { socket: self.socket.clone(), what }
    }
}

fn read_event(message: &str) -> Option<(&str, serde_json::Value)> {
    let field = |name| message.lines().find_map(|line| line.strip_prefix(name));
    let data = serde_json::from_str(field("data: ")?).ok()?;
    Some((field("event: ")?, data))
}
