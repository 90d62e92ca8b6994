//! Routes, reconnects, and a dialer that does as it is told.

use std::net::TcpListener;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use super::*;
use crate::Listener;
use crate::tests::{LONG, address, check, config, credentials, listener, receive, routes};

const SHORT: Duration = Duration::from_millis(400);

fn dialer(routes: &[Route]) -> (Dialer, Receiver<Stream>) {
    let (streams, receiver) = channel();
    let config = DialerConfig {
        credentials: credentials("b", "a"),
        bandwidth: Bandwidth::default(),
        routes: routes.to_vec(),
        purpose: Purpose::Databases,
        payload: Arc::new(|| b"hi".to_vec()),
        streams,
        wake: Arc::new(|| {}),
    };
    (Dialer::start(config).expect("a dialer"), receiver)
}

fn try_dial(routes: &[Route]) -> Result<Stream, BulkError> {
    dial(&credentials("b", "a"), &Bandwidth::default(), routes, Purpose::Databases, b"")
}

#[test]
fn the_next_route_is_tried() {
    let (listener, _streams) = listener();
    let good = routes(&listener)[0];
    let dead = (good.0, address("127.0.0.1:1"));
    let absent = (address("192.0.2.7:0"), good.1);
    let stream = try_dial(&[dead, absent, good]).expect("the third");
    assert_eq!(stream.address(), good.1);
    let text = "no stream to a: 127.0.0.1 to 127.0.0.1:1: cannot connect: Connection refused";
    check(try_dial(&[dead, absent]), &[text, "; 192.0.2.7 to ", "Cannot assign requested"]);
    check(try_dial(&[]), &["no route is configured"]);
    let long = vec![0; crate::PAYLOAD_BYTES_MAX + 1];
    let result =
        dial(&credentials("b", "a"), &Bandwidth::default(), &[good], Purpose::Databases, &long);
    check(result, &["does not fit into the hello"]);
}

#[test]
fn another_cluster_is_told_apart_on_both_sides() {
    let (listener, streams) = listener();
    let stranger =
        Credentials::derive(&[9; 32], crate::tests::CLUSTER, "b", "a").expect("good names");
    let result =
        dial(&stranger, &Bandwidth::default(), &routes(&listener), Purpose::Databases, b"");
    check(result, &["no secure connection", "same cluster secret"]);
    // The secret is right, the name is not: the listener's alert says so.
    let third = credentials("c", "a");
    let result = dial(&third, &Bandwidth::default(), &routes(&listener), Purpose::Databases, b"");
    check(result, &["the peer refuses this node's handshake", "their names right"]);
    assert!(streams.try_recv().is_err());
}

#[test]
fn what_does_not_speak_ends_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let route = (address("127.0.0.1:0"), silent.local_addr().expect("bound"));
    let start = Instant::now();
    check(try_dial(&[route]), &["no hello within 5000 ms", "is it Staffetta"]);
    assert!(start.elapsed() >= Duration::from_millis(HANDSHAKE_MS_MAX));
}

#[test]
fn a_dialer_comes_back_after_the_listener() {
    let (first, streams) = config("127.0.0.1:0");
    let listener = Listener::start(first.clone()).expect("a listener");
    let (dialer, dialed) = dialer(&routes(&listener));
    assert_eq!(dialed.recv_timeout(SHORT).err(), Some(RecvTimeoutError::Timeout), "it is paused");
    dialer.resume();
    let mut stream = dialed.recv_timeout(LONG).expect("a stream");
    assert!(dialer.is_connected() && dialer.trouble().is_none());
    assert_eq!(dialed.recv_timeout(SHORT).err(), Some(RecvTimeoutError::Timeout), "one is enough");

    // The listener's process dies.
    let addresses = listener.addresses().to_vec();
    drop(listener);
    drop(streams.recv_timeout(LONG).expect("the other end"));
    check(receive(&mut stream), &["the peer closed it"]);
    drop(stream);
    assert_eq!(dialed.recv_timeout(SHORT).err(), Some(RecvTimeoutError::Timeout));
    assert!(!dialer.is_connected());
    check(dialer.trouble().map_or(Ok(()), Err), &["Connection refused"]);

    let again = crate::ListenerConfig { addresses, ..first };
    let _listener = Listener::start(again).expect("the same port");
    let mut stream = dialed.recv_timeout(LONG).expect("a stream");
    let mut other = streams.recv_timeout(LONG).expect("the other end");
    assert_eq!(other.payload(), b"hi");
    other.send(&[b"again"]).expect("room");
    assert_eq!(receive(&mut stream).expect("alive"), b"again");
    assert_eq!(dialer.trouble(), None);
}

#[test]
fn a_paused_dialer_dials_no_more() {
    let (listener, _streams) = listener();
    let (dialer, dialed) = dialer(&routes(&listener));
    dialer.resume();
    let stream = dialed.recv_timeout(LONG).expect("a stream");
    dialer.pause();
    drop(stream);
    assert_eq!(dialed.recv_timeout(SHORT).err(), Some(RecvTimeoutError::Timeout));
    dialer.resume();
    let stream = dialed.recv_timeout(LONG).expect("a stream");
    drop(dialer);
    drop(stream);
    assert_eq!(dialed.recv_timeout(LONG).err(), Some(RecvTimeoutError::Disconnected), "stopped");
}

#[test]
fn an_attempt_under_way_is_given_up() {
    // Takes connections and never speaks: an attempt takes HANDSHAKE_MS_MAX.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let route = (address("127.0.0.1:0"), silent.local_addr().expect("bound"));
    let (dialer, _dialed) = dialer(&[route]);
    dialer.resume();
    let _connection = silent.accept().expect("it dials");
    let start = Instant::now();
    drop(dialer);
    assert!(start.elapsed() < Duration::from_millis(HANDSHAKE_MS_MAX / 2));
}

#[test]
fn a_peer_that_ends_streams_at_once_is_not_dialed_in_a_circle() {
    let (listener, streams) = listener();
    let (dialer, dialed) = dialer(&routes(&listener));
    dialer.resume();
    let start = Instant::now();
    let mut count = 0_u32;
    while start.elapsed() < Duration::from_secs(1) {
        count += dialed.recv_timeout(SHORT).map_or(0, |_| 1);
        drop(streams.try_recv());
    }
    assert!((2..=11).contains(&count), "{count} streams in a second");
}
