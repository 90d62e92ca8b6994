//! The dialing side: [`dial`] once, or a [`Dialer`] that keeps one stream there.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::hello::{Hello, Purpose, VERSIONS, Versions};
use crate::signal::Signal;
use crate::socket::{self, Route};
use crate::stream::{Agreement, Stream};
use crate::{
    BACKOFF_MS_MAX, BACKOFF_MS_MIN, Bandwidth, BulkError, Credentials, HANDSHAKE_MS_MAX, Wake,
};

/// Makes one stream: tries the routes in their order, each a local address (port 0: any) and the
/// peer's. Blocks: at most [`crate::CONNECT_MS_MAX`] and [`HANDSHAKE_MS_MAX`] for each route.
///
/// # Errors
///
/// [`BulkError::Unreachable`] tells what failed on each route; [`BulkError::Refused`] and
/// [`BulkError::Versions`] are the peer's own words, and no other route is tried.
pub fn dial(
    credentials: &Credentials,
    bandwidth: &Bandwidth,
    routes: &[(SocketAddr, SocketAddr)],
    purpose: Purpose,
    payload: &[u8],
) -> Result<Stream, BulkError> {
    let caller = Caller { credentials, bandwidth, purpose: purpose.number(), versions: VERSIONS };
    caller.dial(routes, payload, &Signal::make()?)
}

/// What a hello is made of; tests say what this software never would.
pub(crate) struct Caller<'a> {
    pub(crate) credentials: &'a Credentials,
    pub(crate) bandwidth: &'a Bandwidth,
    /// As on the wire.
    pub(crate) purpose: u8,
    pub(crate) versions: Versions,
}

impl Caller<'_> {
    pub(crate) fn dial(
        &self,
        routes: &[Route],
        payload: &[u8],
        stop: &Signal,
    ) -> Result<Stream, BulkError> {
        let hello = Hello::new(self.versions, self.purpose, payload.to_vec())?;
        let mut attempts = Vec::new();
        for route in routes {
            match self.try_route(*route, &hello, stop) {
                Ok(stream) => return Ok(stream),
                Err(
                    error @ (BulkError::Refused { .. }
                    | BulkError::Versions { .. }
                    | BulkError::Stopped),
                ) => return Err(error),
                Err(error) => attempts.push(format!("{} to {}: {error}", route.0.ip(), route.1)),
            }
        }
        if attempts.is_empty() {
            attempts.push("no route is configured".to_owned());
        }
        let peer = self.credentials.peer().to_owned();
        Err(BulkError::Unreachable { peer, attempts: attempts.join("; ") })
    }

    fn try_route(&self, route: Route, hello: &Hello, stop: &Signal) -> Result<Stream, BulkError> {
        let tcp = socket::connect(route, stop)?;
        let tls = self.credentials.client()?;
        let mut stream = Stream::new(tcp, tls, self.credentials.peer(), route.1);
        let deadline = Instant::now() + Duration::from_millis(HANDSHAKE_MS_MAX);
        stream.send(&[&hello.encode()])?;
        loop {
            if let Some(bytes) = stream.receive()? {
                let agreement = self.agree(&Hello::decode(bytes)?)?;
                stream.agree(agreement, self.bandwidth.clone());
                return Ok(stream);
            }
            let writes = if stream.wants_write() { libc::POLLOUT } else { 0 };
            if !stop.wait(stream.fd(), libc::POLLIN | writes, deadline)? {
                return Err(BulkError::Late { ms: HANDSHAKE_MS_MAX });
            }
            stream.flush()?;
        }
    }

    /// Judges the peer's answer.
    fn agree(&self, answer: &Hello) -> Result<Agreement, BulkError> {
        let peer = self.credentials.peer();
        // Before its refusal: this error says which side to upgrade.
        let version = answer.agree(self.versions, peer)?;
        if let Some(reason) = &answer.refusal {
            return Err(BulkError::Refused { peer: peer.to_owned(), reason: reason.clone() });
        }
        match answer.purpose() {
            Some(purpose) if answer.purpose == self.purpose => {
                Ok(Agreement { purpose, version, payload: answer.payload.clone() })
            }
            _ => Err(BulkError::Hello {
                detail: format!("purpose {} was asked, not {}", self.purpose, answer.purpose),
            }),
        }
    }
}

/// What a dialer needs.
#[derive(Clone)]
pub struct DialerConfig {
    /// Who this node is.
    pub credentials: Credentials,
    /// The cap for all streams.
    pub bandwidth: Bandwidth,
    /// Ways to the peer, in the order in which they are tried, as in [`dial`].
    pub routes: Vec<(SocketAddr, SocketAddr)>,
    /// What the stream is for.
    pub purpose: Purpose,
    /// What to say in the hello, asked anew for each attempt.
    pub payload: Arc<dyn Fn() -> Vec<u8> + Send + Sync>,
    /// Where streams go. What arrived with the hello is inside already: receive before you wait.
    pub streams: Sender<Stream>,
    /// Called after each.
    pub wake: Wake,
}

/// Keeps one stream to the peer: dials the next when the last one was dropped. Begins paused; stops
/// when it is dropped, while its streams live on.
#[derive(Debug)]
pub struct Dialer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    signal: Signal,
    is_stopped: AtomicBool,
    is_paused: AtomicBool,
    /// A stream that was handed over is not dropped yet.
    is_held: AtomicBool,
    trouble: Mutex<Option<BulkError>>,
}

/// In each stream: its drop lets the dialer go on.
struct Held(Arc<Shared>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.is_held.store(false, Ordering::Release);
        self.0.signal.wake();
    }
}

impl Dialer {
    /// Starts the thread, which does nothing before [`Dialer::resume`].
    ///
    /// # Errors
    ///
    /// No descriptor, or no thread.
    pub fn start(config: DialerConfig) -> Result<Self, BulkError> {
        let shared = Arc::new(Shared {
            signal: Signal::make()?,
            is_stopped: AtomicBool::new(false),
            is_paused: AtomicBool::new(true),
            is_held: AtomicBool::new(false),
            trouble: Mutex::default(),
        });
        let own = Arc::clone(&shared);
        let builder = std::thread::Builder::new().name("bulk-dial".to_owned());
        let thread = builder
            .spawn(move || run(&config, &own))
            .map_err(|error| BulkError::Resource { what: "a thread", detail: error.to_string() })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Dials from now on: this node is the standby.
    pub fn resume(&self) {
        // Only a change wakes the thread: an attempt under way would be given up.
        if self.shared.is_paused.swap(false, Ordering::AcqRel) {
            self.shared.signal.wake();
        }
    }

    /// Dials no more, and gives up an attempt under way. A stream that was handed over is its
    /// owner's to drop; one that waits in the channel may still come out of it.
    pub fn pause(&self) {
        if !self.shared.is_paused.swap(true, Ordering::AcqRel) {
            self.shared.signal.wake();
        }
    }

    /// Whether a stream that was handed over is still in use.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shared.is_held.load(Ordering::Acquire)
    }

    /// Why the last attempt failed; `None` after one that did not.
    #[must_use]
    pub fn trouble(&self) -> Option<BulkError> {
        self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Dialer {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Release);
        self.shared.signal.wake();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

/// Until it is stopped, or nobody takes streams any more.
fn run(config: &DialerConfig, shared: &Arc<Shared>) {
    let mut backoff = Duration::from_millis(BACKOFF_MS_MIN);
    // When the next attempt may begin.
    let mut next = Instant::now();
    loop {
        shared.signal.drain();
        if shared.is_stopped.load(Ordering::Acquire) {
            return;
        }
        if shared.is_paused.load(Ordering::Acquire) || shared.is_held.load(Ordering::Acquire) {
            shared.signal.sleep(None);
            backoff = Duration::from_millis(BACKOFF_MS_MIN);
            continue;
        }
        if Instant::now() < next {
            shared.signal.sleep(Some(next));
            continue;
        }
        let result = attempt(config, &shared.signal);
        // A peer that takes streams and ends them at once is not dialed in a circle.
        next = Instant::now() + backoff;
        match result {
            Ok(stream) => {
                next = Instant::now() + Duration::from_millis(BACKOFF_MS_MIN);
                if !hand_over(config, shared, stream) {
                    return;
                }
            }
            // Paused or stopped meanwhile: looked at above.
            Err(BulkError::Stopped) => {}
            Err(error) => {
                shared.report(error);
                backoff = (backoff * 2).min(Duration::from_millis(BACKOFF_MS_MAX));
            }
        }
    }
}

fn attempt(config: &DialerConfig, stop: &Signal) -> Result<Stream, BulkError> {
    let DialerConfig { credentials, bandwidth, .. } = config;
    let purpose = config.purpose.number();
    let caller = Caller { credentials, bandwidth, purpose, versions: VERSIONS };
    caller.dial(&config.routes, &(config.payload)(), stop)
}

/// False if nobody takes it.
fn hand_over(config: &DialerConfig, shared: &Arc<Shared>, mut stream: Stream) -> bool {
    *shared.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    tracing::info!(
        peer = stream.peer(),
        address = %stream.address(),
        purpose = %config.purpose,
        version = stream.version(),
        "bulk stream dialed"
    );
    shared.is_held.store(true, Ordering::Release);
    stream.keep(Held(Arc::clone(shared)));
    let is_taken = config.streams.send(stream).is_ok();
    if is_taken {
        (config.wake)();
    }
    is_taken
}

impl Shared {
    /// Remembers it, and says it once.
    fn report(&self, error: BulkError) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.as_ref() == Some(&error) {
            tracing::debug!(%error, "still no bulk stream");
        } else {
            tracing::warn!(%error, "no bulk stream");
            *trouble = Some(error);
        }
    }
}

#[cfg(test)]
#[path = "dial_tests.rs"]
mod tests;
