//! Who is let in, who is told why not, and what strangers cannot do.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

use ring::rand::{SecureRandom, SystemRandom};

use super::*;
use crate::dial::Caller;
use crate::tests::{LONG, address, call, check, config, credentials, listener, receive, routes};
use crate::{HELLO_BYTES_MAX, dial};

/// Dials with a hello that this software would not say.
fn call_with(listener: &Listener, purpose: u8, versions: Versions) -> Result<Stream, BulkError> {
    let (credentials, bandwidth) = (&credentials("b", "a"), &Bandwidth::default());
    let caller = Caller { credentials, bandwidth, purpose, versions };
    caller.dial(&routes(listener), b"", &Signal::new().expect("a signal"))
}

#[test]
fn both_hellos_arrive() {
    let (config, streams) = config("[::1]:0");
    let woken = Arc::new(AtomicBool::new(false));
    let wake = Arc::clone(&woken);
    let mut config = config;
    config.receptions[0].wake = Arc::new(move || wake.store(true, Ordering::Release));
    let listener = Listener::start(config).expect("a listener");
    let routes = [(address("[::1]:0"), listener.addresses()[0])];
    let bandwidth = Bandwidth::default();
    let mut dialed =
        dial(&credentials("b", "a"), &bandwidth, &routes, Purpose::Databases, b"hello")
            .expect("a stream");
    dialed.send(&[b"at once"]).expect("room");
    let mut taken = streams.recv_timeout(LONG).expect("the other end");
    assert_eq!(receive(&mut taken).expect("alive"), b"at once");
    assert_eq!((dialed.peer(), dialed.payload()), ("a", &b"you said hello"[..]));
    assert_eq!((taken.peer(), taken.payload()), ("b", &b"hello"[..]));
    for stream in [&dialed, &taken] {
        assert_eq!((stream.purpose(), stream.version()), (Purpose::Databases, 1));
    }
    let deadline = Instant::now() + LONG;
    while !woken.load(Ordering::Acquire) {
        assert!(Instant::now() < deadline, "the receiver was not woken");
        std::thread::yield_now();
    }
}

#[test]
fn a_refusal_says_why() {
    let (listener, streams) = listener();
    check(call(&listener, b"go away"), &["a refuses the stream: not now"]);
    check(call_with(&listener, 9, VERSIONS), &["purpose 9 is not known here", "upgrade"]);
    let files = Purpose::Files.number();
    check(call_with(&listener, files, VERSIONS), &["nobody takes streams for files here"]);
    let late = Versions { min: 2, max: 3 };
    check(
        call_with(&listener, 1, late),
        &["speaks versions 2 to 3", "a (staffetta", "speaks versions 1 to 1: upgrade the peer"],
    );
    assert!(streams.try_recv().is_err(), "none was handed over");
    assert!(call(&listener, b"").is_ok(), "and the next is let in");
}

#[test]
fn an_older_node_is_told_to_be_upgraded() {
    let (config, streams) = config("127.0.0.1:0");
    let newer = Versions { min: 2, max: 4 };
    let listener = Listener::with_versions(config, newer).expect("a listener");
    check(call(&listener, b""), &["versions 2 to 4", "versions 1 to 1", "upgrade this node"]);
    let dialed = call_with(&listener, 1, Versions { min: 1, max: 3 }).expect("3 is common");
    let taken = streams.recv_timeout(LONG).expect("the other end");
    assert_eq!((dialed.version(), taken.version()), (3, 3));
}

#[test]
fn a_hello_that_is_none_is_refused() {
    let (listener, streams) = listener();
    let connect = |bytes: &[u8]| {
        let route = routes(&listener)[0];
        let tcp = socket::connect(route, &Signal::new().expect("a signal")).expect("connected");
        let tls = credentials("b", "a").client().expect("a client");
        let mut stream = Stream::new(tcp, tls, "a", route.1);
        stream.send(&[bytes]).expect("room");
        stream
    };
    let mut random = [0; 512];
    for round in 0..50_usize {
        SystemRandom::new().fill(&mut random).expect("randomness");
        let bytes = receive(&mut connect(&random[..round * 10])).expect("an answer");
        let answer = Hello::decode(&bytes).expect("a hello");
        assert!(answer.refusal.is_some());
    }
    check(receive(&mut connect(&[0; HELLO_BYTES_MAX + 1])), &["the stream has ended"]);
    assert!(streams.try_recv().is_err());
    assert!(call(&listener, b"").is_ok());
}

#[test]
fn random_bytes_do_no_harm() {
    let (listener, _streams) = listener();
    let mut random = [0; 2_000];
    for round in 0..200_usize {
        SystemRandom::new().fill(&mut random).expect("randomness");
        // Some look like the beginning of a handshake.
        if round % 2 == 0 {
            random[..6].copy_from_slice(&[22, 3, 1, 0, (round % 256) as u8, 1]);
        }
        let mut tcp = TcpStream::connect(listener.addresses()[0]).expect("connected");
        let _ = tcp.write_all(&random[..1 + round * 7]);
    }
    assert!(call(&listener, b"").is_ok());
}

/// Connections that say nothing, from an address of the loopback.
fn strangers(listener: &Listener, from: &str, count: usize) -> Vec<TcpStream> {
    let connect = |_| {
        let route = (address(from), listener.addresses()[0]);
        let tcp = socket::connect(route, &Signal::new().expect("a signal")).expect("connected");
        tcp.set_nonblocking(false).expect("a socket");
        tcp.set_read_timeout(Some(LONG)).expect("a socket");
        tcp
    };
    (0..count).map(connect).collect()
}

/// How many the listener has closed. It has seen all of them when it has answered another.
fn closed(strangers: &[TcpStream]) -> usize {
    let is_closed = |mut tcp: &TcpStream| {
        tcp.set_nonblocking(true).expect("a socket");
        !matches!(tcp.read(&mut [0]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
    };
    strangers.iter().filter(|tcp| is_closed(tcp)).count()
}

#[test]
fn strangers_do_not_keep_the_peer_out() {
    let (listener, _streams) = listener();
    let slow = strangers(&listener, "127.0.0.8:0", 2);
    let one = strangers(&listener, "127.0.0.9:0", HANDSHAKES_MAX * 3);
    assert!(call(&listener, b"").is_ok());
    assert_eq!(closed(&one), HANDSHAKES_MAX * 2 + 3, "what is kept of them is bounded");
    assert_eq!(closed(&slow), 0, "he displaces only himself");
}

#[test]
fn the_expected_address_is_displaced_by_nobody() {
    let (mut config, _streams) = config("127.0.0.1:0");
    config.expected = vec![address("127.0.0.7:0").ip()];
    let listener = Listener::start(config).expect("a listener");
    // The peer is slow, and strangers come from as many addresses as there are places.
    let slow = strangers(&listener, "127.0.0.7:0", 3);
    let mut others = Vec::new();
    for host in 20..20 + HANDSHAKES_MAX * 2 {
        others.extend(strangers(&listener, &format!("127.0.0.{host}:0"), 1));
    }
    assert!(call(&listener, b"").is_ok(), "it is a stranger, too, but the newest");
    assert_eq!(closed(&slow), 0);
    assert!(closed(&others) >= HANDSHAKES_MAX);
}

#[test]
fn who_says_nothing_is_shown_the_door() {
    let (listener, _streams) = listener();
    let start = Instant::now();
    let mut silent = strangers(&listener, "127.0.0.1:0", 1);
    let mut farewell = Vec::new();
    silent[0].read_to_end(&mut farewell).expect("closed, not reset");
    assert!(farewell.len() < 32, "an alert at most");
    let waited = start.elapsed();
    assert!(waited >= Duration::from_millis(HANDSHAKE_MS_MAX - 100), "{waited:?}");
    assert!(waited < LONG);
}

#[test]
fn the_streams_of_a_peer_are_counted() {
    let (listener, streams): (_, Receiver<Stream>) = listener();
    let open: Vec<Stream> = (0..STREAMS_MAX).map(|_| call(&listener, b"").expect("room")).collect();
    let mut taken: Vec<Stream> =
        open.iter().map(|_| streams.recv_timeout(LONG).expect("the other end")).collect();
    check(call(&listener, b""), &["16 streams are open already"]);
    taken.pop();
    assert!(call(&listener, b"").is_ok(), "one was dropped");
}

#[test]
fn it_listens_where_no_address_is_yet_and_twice_on_no_port() {
    // TEST-NET-1 (RFC 5737): no node has it.
    let (late, _streams) = config("192.0.2.7:0");
    assert!(Listener::start(late).is_ok());
    let (config, _streams) = config("127.0.0.1:0");
    let first = Listener::start(config.clone()).expect("a listener");
    let taken = ListenerConfig { addresses: first.addresses().to_vec(), ..config };
    check(Listener::start(taken.clone()), &["cannot listen on 127.0.0.1", "another process"]);
    let start = Instant::now();
    drop(first);
    assert!(start.elapsed() < Duration::from_secs(2), "it stops at once");
    assert!(Listener::start(taken).is_ok(), "the port is free again");
}
