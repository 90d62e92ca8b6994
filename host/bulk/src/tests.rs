//! What the tests of this crate share: a pair on the loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::socket::{self, entry};
use crate::{
    Bandwidth, BulkError, Credentials, Listener, ListenerConfig, Purpose, Reception, Stream, dial,
};

pub(crate) const SECRET: [u8; 32] = [7; 32];
pub(crate) const CLUSTER: [u8; 16] = [0xc1; 16];
/// Longer than anything here takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) fn credentials(node: &str, peer: &str) -> Credentials {
    Credentials::derive(&SECRET, CLUSTER, node, peer).expect("good names")
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A listener of node `a` that takes streams for databases, and says its payload back.
pub(crate) fn config(at: &str) -> (ListenerConfig, Receiver<Stream>) {
    let (streams, receiver) = channel();
    let reception = Reception {
        purpose: Purpose::Databases,
        streams,
        wake: Arc::new(|| {}),
        answer: Arc::new(|payload| match payload {
            b"go away" => Err("not now".to_owned()),
            payload => Ok([b"you said ", payload].concat()),
        }),
    };
    let config = ListenerConfig {
        credentials: credentials("a", "b"),
        bandwidth: Bandwidth::default(),
        addresses: vec![address(at)],
        expected: Vec::new(),
        receptions: vec![reception],
    };
    (config, receiver)
}

pub(crate) fn listener() -> (Listener, Receiver<Stream>) {
    let (config, streams) = config("127.0.0.1:0");
    (Listener::start(config).expect("a listener"), streams)
}

pub(crate) fn routes(listener: &Listener) -> [(SocketAddr, SocketAddr); 1] {
    [(address("127.0.0.1:0"), listener.addresses()[0])]
}

/// Node `b` dials with a payload.
pub(crate) fn call(listener: &Listener, payload: &[u8]) -> Result<Stream, BulkError> {
    let credentials = credentials("b", "a");
    dial(&credentials, &Bandwidth::default(), &routes(listener), Purpose::Databases, payload)
}

/// Both ends of a stream: the dialing one first, with its cap.
pub(crate) fn pair(bandwidth: &Bandwidth) -> (Stream, Stream) {
    let (listener, streams) = listener();
    let dialed =
        dial(&credentials("b", "a"), bandwidth, &routes(&listener), Purpose::Databases, b"")
            .expect("a stream");
    (dialed, streams.recv_timeout(LONG).expect("the other end"))
}

/// Waits as a loop would; false at the deadline.
pub(crate) fn wait(stream: &Stream, deadline: Instant) -> bool {
    let writes = if stream.wants_write() { libc::POLLOUT } else { 0 };
    let until = stream.ready_at().map_or(deadline, |at| at.min(deadline));
    socket::poll(&mut [entry(stream.fd(), libc::POLLIN | writes)], Some(until));
    Instant::now() < deadline
}

/// The next frame.
pub(crate) fn receive(stream: &mut Stream) -> Result<Vec<u8>, BulkError> {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(frame) = stream.receive()? {
            return Ok(frame.to_vec());
        }
        assert!(wait(stream, deadline), "no frame came");
        let _ = stream.flush();
    }
}

/// Flushes until nothing waits.
pub(crate) fn drain(stream: &mut Stream) {
    let deadline = Instant::now() + LONG;
    while stream.queued() > 0 {
        assert!(wait(stream, deadline), "the peer does not read");
        stream.flush().expect("alive");
    }
}

/// Checks that an error says all the parts.
pub(crate) fn check<T: std::fmt::Debug>(result: Result<T, BulkError>, parts: &[&str]) {
    let text = result.expect_err("an error").to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}
