//! What the tests of the client share.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::time::Duration;

use staffetta_arbiter::server::{EtcdOptions, EtcdServer, is_installed};
use staffetta_arbiter::{ArbiterConfig, Client, Endpoint, Register, Reply, Request, Stamp};
use staffetta_core::{Epoch, Span};
use tempfile::TempDir;

/// Long enough for a loaded machine.
pub const LONG: Duration = Duration::from_secs(10);

/// An etcd and its folder.
pub struct Etcd {
    pub server: EtcdServer,
    pub folder: TempDir,
}

/// A fresh etcd, or none, with a word why.
pub fn etcd() -> Option<Etcd> {
    etcd_with(|_| {})
}

/// The same with other options.
pub fn etcd_with(change: impl Fn(&mut EtcdOptions)) -> Option<Etcd> {
    if !is_installed() {
        println!("SKIPPED: etcd is not installed (Debian: apt-get install etcd-server)");
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder for etcd");
    // A free port may be taken by another test before etcd gets it.
    let start = |_| {
        let mut options = EtcdOptions::on_loopback(folder.path()).ok()?;
        change(&mut options);
        EtcdServer::start(options).map_err(|error| println!("{error}")).ok()
    };
    let server = (0..3).find_map(start).expect("etcd starts");
    Some(Etcd { server, folder })
}

pub fn config(urls: &[&str]) -> ArbiterConfig {
    let endpoint = |url: &&str| Endpoint::parse(url).expect("an endpoint");
    ArbiterConfig {
        endpoints: urls.iter().map(endpoint).collect(),
        tls: None,
        auth: None,
        prefix: "/staffetta".to_owned(),
        cluster_id: "pair-1".to_owned(),
        names: ["anna".to_owned(), "bruno".to_owned()],
    }
}

pub fn client(urls: &[&str]) -> Client {
    Client::new(config(urls)).expect("a client")
}

/// A register of seat A, unlike those with another `n`.
pub fn register(n: u64) -> Register {
    Register {
        epoch: Epoch(2),
        alone: n % 2 == 1,
        peer_synced: true,
        lease: Span::ms(300),
        slack: Span::ms(20),
        stamp: Stamp { boot: 0xabc, n },
    }
}

pub fn swap(expect: Option<Register>, to: Register) -> Request {
    Request::Swap { expect, to }
}

/// Answers as `expected`; else the message has the error.
#[track_caller]
pub fn check(client: &Client, reply: Reply, expected: Reply) {
    assert_eq!(reply, expected, "{:?}", client.last_error());
}

/// The text of the last error, which must have all of `parts`.
#[track_caller]
pub fn check_error(client: &Client, parts: &[&str]) {
    let text = client.last_error().expect("an error").error.to_string();
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}
