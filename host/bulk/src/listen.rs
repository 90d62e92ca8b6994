//! The accepting side: one thread that listens, shakes hands and hands over.
//!
//! Anybody may connect, and only the peer has a certificate. So there are [`HANDSHAKES_MAX`] places
//! for all who have not proven anything, each for [`HANDSHAKE_MS_MAX`]. Who comes when all are
//! taken displaces another: addresses where the peer is not expected first, then the address with
//! most places, then its oldest. A stranger with one address can displace only himself, and one
//! with many nobody who comes from where the peer is expected.
//!
//! It does not slow a flood of handshakes down: each costs this thread a fraction of a millisecond
//! of processor time, and that is for a firewall to limit.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::hello::{Hello, Purpose, VERSIONS, Versions};
use crate::signal::Signal;
use crate::socket;
use crate::stream::{Agreement, Stream};
use crate::{
    Bandwidth, BulkError, Credentials, HANDSHAKE_MS_MAX, HANDSHAKES_MAX, STREAMS_MAX, Wake,
};

/// Pause after the kernel had no descriptor for a connection.
const BREATH_MS: u64 = 100;
/// Connections taken in one turn, so that those under way are served in between.
const ACCEPTS_MAX: usize = HANDSHAKES_MAX / 2;

/// What a purpose says to a dialing peer's payload: its own payload, or why it wants no stream.
/// Called on the listener's thread, which it must not hold up.
pub type Answer = Arc<dyn Fn(&[u8]) -> Result<Vec<u8>, String> + Send + Sync>;

/// Who takes the streams of a purpose.
#[derive(Clone)]
pub struct Reception {
    /// The purpose.
    pub purpose: Purpose,
    /// Where they go. What arrived with the hello is inside already: receive before you wait.
    pub streams: Sender<Stream>,
    /// Called after each.
    pub wake: Wake,
    /// What it says in the hello.
    pub answer: Answer,
}

/// What a listener needs.
#[derive(Clone)]
pub struct ListenerConfig {
    /// Who this node is.
    pub credentials: Credentials,
    /// The cap for all streams.
    pub bandwidth: Bandwidth,
    /// Where to listen, also where this node has no address yet; port 0: any.
    pub addresses: Vec<SocketAddr>,
    /// Where the peer comes from. Others may come, but never at its expense.
    pub expected: Vec<IpAddr>,
    /// Who takes streams.
    pub receptions: Vec<Reception>,
}

/// A running listener; stops when it is dropped. Streams that it handed over live on.
#[derive(Debug)]
pub struct Listener {
    addresses: Vec<SocketAddr>,
    stop: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Binds all addresses and starts the thread.
    ///
    /// # Errors
    ///
    /// An address that cannot be bound, or no descriptor or thread.
    pub fn start(config: ListenerConfig) -> Result<Self, BulkError> {
        Self::with_versions(config, VERSIONS)
    }

    pub(crate) fn with_versions(
        config: ListenerConfig,
        versions: Versions,
    ) -> Result<Self, BulkError> {
        let sockets = config.addresses.iter().map(|address| socket::listen(*address));
        let sockets: Vec<TcpListener> = sockets.collect::<Result<_, _>>()?;
        let bound = sockets.iter().map(TcpListener::local_addr).collect::<Result<_, _>>();
        let resource =
            |what, error: std::io::Error| BulkError::Resource { what, detail: error.to_string() };
        let addresses = bound.map_err(|error| resource("a listening socket", error))?;
        let stop = Arc::new(Signal::make()?);
        let hall = Hall {
            config,
            versions,
            sockets,
            stop: Arc::clone(&stop),
            guests: Vec::new(),
            streams: Vec::new(),
            pause: None,
            trouble: None,
        };
        let builder = std::thread::Builder::new().name("bulk-listen".to_owned());
        let thread = builder.spawn(move || hall.run());
        let thread = thread.map_err(|error| resource("a thread", error))?;
        Ok(Self { addresses, stop, thread: Some(thread) })
    }

    /// Where it listens, with the ports that the kernel chose.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.wake();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

/// A connection that has not said its hello, or not got the answer.
struct Guest {
    stream: Stream,
    since: Instant,
    /// Once the answer is under way.
    verdict: Option<Verdict>,
}

enum Verdict {
    /// To the reception with this number.
    Welcome(usize, Agreement),
    Refused,
}

/// What becomes of a guest.
enum Step {
    Stays,
    Leaves,
}

/// The thread.
struct Hall {
    config: ListenerConfig,
    versions: Versions,
    sockets: Vec<TcpListener>,
    /// Raised once, and stays so.
    stop: Arc<Signal>,
    guests: Vec<Guest>,
    /// Alive as long as the streams that were handed over.
    streams: Vec<Weak<()>>,
    pause: Option<Instant>,
    /// The last thing that was logged, not to log it again.
    trouble: Option<String>,
}

impl Hall {
    fn run(mut self) {
        loop {
            let Some(ready) = self.wait() else { return };
            let now = Instant::now();
            self.serve(now);
            if self.pause.is_none_or(|until| until <= now) {
                self.pause = None;
                for at in ready {
                    self.accept(at, now);
                }
            }
        }
    }

    /// Waits for anything; says which sockets have connections. None: the end.
    fn wait(&self) -> Option<Vec<usize>> {
        let limit = Duration::from_millis(HANDSHAKE_MS_MAX);
        let ends = self.guests.iter().map(|guest| guest.since + limit);
        let deadline = ends.chain(self.pause).min();
        let mut fds = vec![self.stop.entry()];
        let listening = if self.pause.is_some() { &[][..] } else { &self.sockets[..] };
        fds.extend(listening.iter().map(|s| socket::entry(s.as_raw_fd(), libc::POLLIN)));
        fds.extend(self.guests.iter().map(|guest| {
            let writes = if guest.stream.wants_write() { libc::POLLOUT } else { 0 };
            // A guest that has its answer is not read: what follows is for the new owner.
            let reads = if guest.verdict.is_none() { libc::POLLIN } else { 0 };
            socket::entry(guest.stream.fd(), reads | writes)
        }));
        socket::poll(&mut fds, deadline);
        let is_ready = |at: &usize| fds[1 + at].revents != 0;
        (fds[0].revents == 0).then(|| (0..listening.len()).filter(is_ready).collect())
    }

    fn serve(&mut self, now: Instant) {
        let limit = Duration::from_millis(HANDSHAKE_MS_MAX);
        for mut guest in std::mem::take(&mut self.guests) {
            let is_late = now >= guest.since + limit;
            match self.step(&mut guest) {
                Ok(Step::Leaves) => self.part(guest),
                Ok(Step::Stays) if !is_late => self.guests.push(guest),
                Ok(Step::Stays) => {
                    self.tell(&guest.stream, &BulkError::Late { ms: HANDSHAKE_MS_MAX });
                }
                Err(error) => self.tell(&guest.stream, &error),
            }
        }
    }

    fn step(&mut self, guest: &mut Guest) -> Result<Step, BulkError> {
        if guest.verdict.is_none() {
            guest.stream.flush()?;
            let Some(bytes) = guest.stream.receive()? else { return Ok(Step::Stays) };
            let (answer, verdict) = self.judge(bytes);
            guest.stream.send(&[&answer.encode()])?;
            if let Some(reason) = answer.refusal {
                let peer = self.config.credentials.peer().to_owned();
                self.tell(&guest.stream, &BulkError::Refused { peer, reason });
            }
            guest.verdict = Some(verdict);
        }
        guest.stream.flush()?;
        Ok(if guest.stream.queued() == 0 { Step::Leaves } else { Step::Stays })
    }

    /// Answers the hello of an authentic peer.
    fn judge(&mut self, bytes: &[u8]) -> (Hello, Verdict) {
        let (purpose, result) = match Hello::decode(bytes) {
            Ok(hello) => (hello.purpose, self.welcome(hello)),
            Err(error) => (0, Err(error.to_string())),
        };
        match result {
            Ok((hello, at, agreement)) => (hello, Verdict::Welcome(at, agreement)),
            Err(reason) => (Hello::refusing(self.versions, purpose, &reason), Verdict::Refused),
        }
    }

    fn welcome(&mut self, hello: Hello) -> Result<(Hello, usize, Agreement), String> {
        let text = |error: BulkError| error.to_string();
        let version = hello.agree(self.versions, self.config.credentials.peer()).map_err(text)?;
        let Some(purpose) = hello.purpose() else {
            let number = hello.purpose;
            return Err(format!("purpose {number} is not known here: upgrade this node"));
        };
        let wanted = |reception: &Reception| reception.purpose == purpose;
        let Some(at) = self.config.receptions.iter().position(wanted) else {
            return Err(format!("nobody takes streams for {purpose} here: is it configured?"));
        };
        self.streams.retain(|stream| stream.strong_count() > 0);
        let coming = self.guests.iter().filter(|guest| guest.verdict.is_some()).count();
        if self.streams.len() + coming >= STREAMS_MAX {
            return Err(format!("{STREAMS_MAX} streams are open already: close one"));
        }
        let payload = (self.config.receptions[at].answer)(&hello.payload)?;
        let answer = Hello::new(self.versions, hello.purpose, payload).map_err(text)?;
        Ok((answer, at, Agreement { purpose, version, payload: hello.payload }))
    }

    /// The answer is with the kernel.
    fn part(&mut self, guest: Guest) {
        let Guest { mut stream, verdict: Some(Verdict::Welcome(at, agreement)), .. } = guest else {
            return;
        };
        self.trouble = None;
        let token = Arc::new(());
        self.streams.push(Arc::downgrade(&token));
        stream.keep(token);
        tracing::info!(
            peer = stream.peer(),
            address = %stream.address(),
            purpose = %agreement.purpose,
            version = agreement.version,
            "bulk stream accepted"
        );
        stream.agree(agreement, self.config.bandwidth.clone());
        let reception = &self.config.receptions[at];
        // A receiver that is gone closes the stream; its purpose is being shut down.
        if reception.streams.send(stream).is_ok() {
            (reception.wake)();
        }
    }

    fn accept(&mut self, at: usize, now: Instant) {
        for _ in 0..ACCEPTS_MAX {
            match self.sockets[at].accept() {
                Ok((tcp, address)) => self.admit(tcp, address, now),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a bulk stream");
                    self.pause = Some(now + Duration::from_millis(BREATH_MS));
                    return;
                }
            }
        }
    }

    fn admit(&mut self, tcp: TcpStream, address: SocketAddr, since: Instant) {
        if let Err(error) = socket::tune(&tcp) {
            tracing::debug!(%address, %error, "a connection was gone before its handshake");
            return;
        }
        let credentials = &self.config.credentials;
        let stream = match credentials.server() {
            Ok(tls) => Stream::new(tcp, tls, credentials.peer(), address),
            Err(error) => {
                tracing::warn!(%address, %error, "cannot begin a handshake");
                return;
            }
        };
        self.guests.push(Guest { stream, since, verdict: None });
        if self.guests.len() > HANDSHAKES_MAX {
            let at = self.displaced();
            let guest = self.guests.remove(at);
            tracing::debug!(address = %guest.stream.address(), "displaced by another connection");
        }
    }

    /// Whose place is given away. Guests stand in the order in which they came.
    fn displaced(&self) -> usize {
        let ip = |guest: &Guest| guest.stream.address().ip();
        let weight = |at: usize| {
            let own = ip(&self.guests[at]);
            let places = self.guests.iter().filter(|guest| ip(guest) == own).count();
            let is_stranger = !self.config.expected.contains(&own);
            (is_stranger, places, std::cmp::Reverse(at))
        };
        (0..self.guests.len()).max_by_key(|at| weight(*at)).unwrap_or(0)
    }

    /// A peer that is kept out is worth a look, once; a stranger is not.
    fn tell(&mut self, stream: &Stream, error: &BulkError) {
        let address = stream.address();
        let text = error.to_string();
        let is_peer = self.config.expected.contains(&address.ip())
            || matches!(error, BulkError::Refused { .. });
        if is_peer && self.trouble.as_ref() != Some(&text) {
            tracing::warn!(%address, error = text, "bulk stream not accepted");
            self.trouble = Some(text);
        } else {
            tracing::debug!(%address, error = text, "connection not accepted");
        }
    }
}

#[cfg(test)]
#[path = "listen_tests.rs"]
mod tests;
