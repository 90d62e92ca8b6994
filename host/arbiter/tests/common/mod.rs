//! What the tests of the client share.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::time::Duration;

use staffetta_arbiter::server::{EtcdOptions, EtcdServer, is_installed};
use staffetta_arbiter::{ArbiterConfig, Client, Endpoint, Register, Reply, Request, Stamp};
use staffetta_core::{Epoch, Span};
use tempfile::TempDir;

/// Long enough for a loaded machine.
pub(crate) const LONG: Duration = Duration::from_secs(10);

/// An etcd and its folder.
pub(crate) struct Etcd {
    pub(crate) server: EtcdServer,
    pub(crate) folder: TempDir,
}

/// A fresh etcd, or none, with a word why.
pub(crate) fn etcd() -> Option<Etcd> {
    etcd_with(|_| {})
}

/// The same with other options.
pub(crate) fn etcd_with(change: impl Fn(&mut EtcdOptions)) -> Option<Etcd> {
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

pub(crate) fn config(urls: &[&str]) -> ArbiterConfig {
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

pub(crate) fn client(urls: &[&str]) -> Client {
    Client::new(config(urls)).expect("a client")
}

/// A register of seat A, unlike those with another `n`.
pub(crate) fn register(n: u64) -> Register {
    Register {
        epoch: Epoch(2),
        alone: n % 2 == 1,
        peer_synced: true,
        lease: Span::ms(300),
        slack: Span::ms(20),
        stamp: Stamp { boot: 0xabc, n },
    }
}

pub(crate) fn swap(expect: Option<Register>, to: Register) -> Request {
    Request::Swap { expect, to }
}

/// Answers as `expected`; else the message has the error.
#[track_caller]
pub(crate) fn check(client: &Client, reply: Reply, expected: Reply) {
    assert_eq!(reply, expected, "{:?}", client.last_error());
}

/// The text of the last error, which must have all of `parts`.
#[track_caller]
pub(crate) fn check_error(client: &Client, parts: &[&str]) {
    let text = client.last_error().expect("an error").error.to_string();
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

/// One request to etcd beside the client: the whole answer, head included.
pub(crate) async fn post(url: &str, path: &str, body: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = url.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("etcd listens");
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).await.expect("etcd reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("etcd answers");
    answer
}
