//! `/api/v1/events`: the status whenever it changes in more than its ages, and every event, as
//! server-sent events.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::{Body as HttpBody, Bytes, Frame};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc, watch};

use super::EVENTS_PING_MS;
use super::control::Control;
use super::request::Body;
use super::status::Status;
use crate::journal::EventRecord;

/// Messages that may wait for a slow reader before the stream itself waits.
const MESSAGES_BEHIND_MAX: usize = 8;

/// A stream that lasts until the client or the daemon goes; `seat` is given back then.
pub(super) fn stream(control: &Control, seat: OwnedSemaphorePermit) -> Response<Body> {
    let (messages, waiting) = mpsc::channel(MESSAGES_BEHIND_MAX);
    let feeder = Feeder {
        status: control.status.clone(),
        events: control.events.subscribe(),
        messages,
        last: None,
    };
    tokio::spawn(async move {
        feeder.run().await;
        drop(seat);
    });
    let mut response = Response::new(MessageBody { waiting }.boxed());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

struct Feeder {
    status: watch::Receiver<Arc<Status>>,
    events: broadcast::Receiver<EventRecord>,
    messages: mpsc::Sender<Bytes>,
    /// What the client was shown last, without its ages.
    last: Option<Status>,
}

/// The reader or the daemon has gone.
struct Gone;

impl Feeder {
    async fn run(mut self) {
        // Ends by an error: there is nobody left to report it to.
        let _ = self.feed().await;
    }

    async fn feed(&mut self) -> Result<(), Gone> {
        self.show_status().await?;
        loop {
            tokio::select! {
                () = self.messages.closed() => return Err(Gone),
                changed = self.status.changed() => {
                    changed.map_err(|_| Gone)?;
                    self.show_status().await?;
                }
                event = self.events.recv() => match event {
                    Ok(event) => self.send("event", &event).await?,
                    Err(RecvError::Lagged(lost)) => {
                        self.send("lost", &serde_json::json!({ "lost": lost })).await?;
                    }
                    Err(RecvError::Closed) => return Err(Gone),
                },
                () = tokio::time::sleep(Duration::from_millis(EVENTS_PING_MS)) => {
                    self.send_text(": still here\n\n".to_owned()).await?;
                }
            }
        }
    }

    async fn show_status(&mut self) -> Result<(), Gone> {
        let status = Arc::clone(&self.status.borrow_and_update());
        let settled = status.settled();
        if self.last.as_ref() == Some(&settled) {
            return Ok(());
        }
        self.last = Some(settled);
        self.send("status", &*status).await
    }

    async fn send(&self, name: &str, data: &impl Serialize) -> Result<(), Gone> {
        let data = serde_json::to_string(data).map_err(|_| Gone)?;
        self.send_text(format!("event: {name}\ndata: {data}\n\n")).await
    }

    async fn send_text(&self, text: String) -> Result<(), Gone> {
        self.messages.send(Bytes::from(text)).await.map_err(|_| Gone)
    }
}

struct MessageBody {
    waiting: mpsc::Receiver<Bytes>,
}

impl HttpBody for MessageBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.waiting.poll_recv(context).map(|message| message.map(|bytes| Ok(Frame::data(bytes))))
    }
}
