//! A pair on the loopback, for tests of what rides on the channel. Nothing of a daemon sets the
//! feature that makes it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use crate::{
    Bandwidth, Credentials, Dialer, DialerConfig, Listener, ListenerConfig, Purpose, Reception,
    Stream, Wake,
};

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn credentials(own: &str, peer: &str) -> Credentials {
    Credentials::derive(&[7; 32], [9; 16], own, peer).expect("names of nodes")
}

/// Takes streams of one purpose from the peer, as long as this says so.
///
/// # Panics
/// When the names are none of nodes, or there is no port to be had.
#[must_use]
pub fn listener(
    (own, peer): (&str, &str),
    purpose: Purpose,
    (streams, wake): (Sender<Stream>, Wake),
    is_primary: impl Fn() -> bool + Send + Sync + 'static,
) -> Listener {
    let answer = Arc::new(move |_: &[u8]| match is_primary() {
        true => Ok(Vec::new()),
        false => Err("not primary".to_owned()),
    });
    Listener::start(ListenerConfig {
        credentials: credentials(own, peer),
        bandwidth: Bandwidth::new(None),
        addresses: vec![any_port()],
        expected: Vec::new(),
        receptions: vec![Reception { purpose, streams, wake, answer }],
    })
    .expect("a listener")
}

/// Keeps a stream of one purpose to the peer, which listens there.
///
/// # Panics
/// When the names are none of nodes, or there is no thread to be had.
#[must_use]
pub fn dialer(
    (own, peer): (&str, &str),
    to: SocketAddr,
    purpose: Purpose,
    (streams, wake): (Sender<Stream>, Wake),
) -> Dialer {
    let dialer = Dialer::start(DialerConfig {
        credentials: credentials(own, peer),
        bandwidth: Bandwidth::new(None),
        routes: vec![(any_port(), to)],
        purpose,
        payload: Arc::new(Vec::new),
        streams,
        wake,
    })
    .expect("a dialer");
    dialer.resume();
    dialer
}
