//! The server on a real socket with a pretended shell, and all the garbage that a client can send.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use super::client::{Client, ClientError};
use super::*;
use crate::journal::{EventLevel, EventRecord, Journal};

struct Daemon {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    client: Client,
    status: tokio::sync::watch::Sender<std::sync::Arc<Status>>,
    events: tokio::sync::broadcast::Sender<EventRecord>,
    _journal: Journal,
    stop: oneshot::Sender<()>,
    server: tokio::task::JoinHandle<Result<(), ApiError>>,
}

/// Switchover is refused, anything else is done and told.
fn carry_out(kind: OrderKind) -> Result<String, OrderError> {
    match kind {
        OrderKind::Switchover => Err(OrderError::new("the peer is absent", "start the peer")),
        done => Ok(format!("{done:?}")),
    }
}

async fn start() -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("run/control.sock");
    let journal = Journal::open(&dir.path().join("journal.db"), 64 << 20).unwrap();
    let (control, mut ends) =
        Control::new(status::tests::example(), journal.handle(), dir.path().into());
    let server = Server::bind(&socket).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(server.run(control, async move {
        let _ = stopped.await;
    }));
    tokio::spawn(async move {
        while let Some(order) = ends.orders.recv().await {
            let _ = order.reply.send(carry_out(order.kind).map(Into::into));
        }
    });
    Daemon {
        client: Client::new(&socket),
        socket,
        status: ends.status,
        events: ends.events,
        _journal: journal,
        stop,
        server,
        _dir: dir,
    }
}

/// Sends bytes as they are; what comes back until the end or a short silence.
async fn raw(socket: &std::path::Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    // The server may close in the middle of it: then there is an answer all the same, or silence.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(Ok(n @ 1..)) =
        tokio::time::timeout(Duration::from_millis(500), stream.read(&mut chunk)).await
    {
        answer.extend_from_slice(&chunk[..n]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn status_and_orders_go_through() {
    let daemon = start().await;
    let status = daemon.client.get("/api/v1/status").await.unwrap();
    assert_eq!(status, serde_json::to_value(status::tests::example()).unwrap());
    let cases = [
        ("maintenance", json!({"on": true}), "Maintenance(true)"),
        ("clear", json!(null), "Clear"),
        ("start-alone", json!({}), "StartAlone"),
        (
            "policy/load",
            json!({"kind": "split-brain", "file": "/p.wasm", "settings": {"a": 1}}),
            "PolicyLoad { kind: SplitBrain, file: \"/p.wasm\", settings: Some(Object {\"a\": \
             Number(1)}) }",
        ),
        ("policy/rollback", json!({"kind": "license"}), "PolicyRollback { kind: License }"),
    ];
    for (path, body, done) in cases {
        let body = body.to_string().into_bytes();
        let answer = daemon.client.post(&format!("/api/v1/{path}"), body).await.unwrap();
        assert_eq!(answer["done"], done);
    }
    let refused = daemon.client.post("/api/v1/switchover", vec![]).await.expect_err("refused");
    assert_eq!(refused.to_string(), "the peer is absent (start the peer)");
    let config = include_str!("../../../examples/staffetta.toml");
    let good = daemon.client.post("/api/v1/config/check", config.into()).await.unwrap();
    assert_eq!(good, json!({"ok": true, "node": "na", "peer": "nb"}));
}

#[tokio::test]
async fn alignment_is_answered_as_of_the_question() {
    let daemon = start().await;
    let path = "/api/v1/alignment";
    assert_eq!(daemon.client.get(path).await.unwrap()["aligned"], true);
    let mut status = status::tests::example();
    let until = std::time::Instant::now();
    status.alignment.as_mut().unwrap().until = Some(until);
    daemon.status.send(std::sync::Arc::new(status)).unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    let over = daemon.client.get(path).await.unwrap();
    assert_eq!(over["aligned"], false);
    assert_eq!(over["why"][0], "the standby may lack what is older than 1000 ms");
    for other in ["status", "databases", "files"] {
        let said = daemon.client.get(&format!("/api/v1/{other}")).await.unwrap();
        assert_eq!(said["alignment"], over, "{other}");
    }
}

#[tokio::test]
async fn history_comes_from_the_journal() {
    let daemon = start().await;
    let journal = daemon._journal.handle();
    journal.event(EventRecord::now(EventLevel::Info, "peer-found", "nb is there"));
    assert!(journal.flush(Duration::from_secs(20)));
    let history = daemon.client.get("/api/v1/history?limit=5").await.unwrap();
    assert_eq!(history["history"][0]["what"], "event");
    assert_eq!(history["history"][0]["name"], "peer-found");
    assert_eq!(daemon.client.get("/api/v1/decisions").await.unwrap(), json!({"decisions": []}));
    let missing = daemon.client.get("/api/v1/decisions/7").await.expect_err("missing");
    assert!(missing.to_string().contains("decision 7 is not in the journal"), "{missing}");
}

/// What is sent, the status that comes back, and words of the answer.
const GARBAGE: &[(&str, &str, &str)] = &[
    ("GET /api/v1/nothing HTTP/1.1\r\nhost: x\r\n\r\n", "404", "use one of GET /api/v1/status"),
    ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", "404", "\"remedy\""),
    ("GET /api/v1/../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n", "404", "there is no"),
    ("GET /api/v1/switchover HTTP/1.1\r\nhost: x\r\n\r\n", "405", "allow: POST"),
    ("POST /api/v1/status HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", "405", "allow: GET"),
    ("DELETE /api/v1/decisions/3 HTTP/1.1\r\nhost: x\r\n\r\n", "405", "use GET"),
    ("GET /api/v1/decisions?limit=0 HTTP/1.1\r\nhost: x\r\n\r\n", "400", "from 1 to 1000"),
    (
        "GET /api/v1/decisions?limit=99999999999999 HTTP/1.1\r\nhost: x\r\n\r\n",
        "400",
        "is not a number of rows",
    ),
    ("GET /api/v1/history?drop=table HTTP/1.1\r\nhost: x\r\n\r\n", "400", "unknown query"),
    ("GET /api/v1/decisions/abc HTTP/1.1\r\nhost: x\r\n\r\n", "400", "`abc` is not a number"),
    (
        "POST /api/v1/maintenance HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n{on}",
        "400",
        "send JSON like {\\\"on\\\": true}",
    ),
    (
        "POST /api/v1/maintenance HTTP/1.1\r\nhost: x\r\ncontent-length: \
      16\r\n\r\n{\"on\":\"perhaps\"}",
        "400",
        "expected a boolean",
    ),
    (
        "POST /api/v1/maintenance HTTP/1.1\r\nhost: x\r\ncontent-length: \
      17\r\n\r\n{\"on\":true,\"x\":1}",
        "400",
        "unknown field `x`",
    ),
    (
        "POST /api/v1/policy/load HTTP/1.1\r\nhost: x\r\ncontent-length: \
      37\r\n\r\n{\"kind\":\"failover\",\"file\":\"../p.wasm\"}",
        "400",
        "EOF",
    ),
    (
        "POST /api/v1/policy/load HTTP/1.1\r\nhost: x\r\ncontent-length: \
      38\r\n\r\n{\"kind\":\"failover\",\"file\":\"../p.wasm\"}",
        "400",
        "is not an absolute path",
    ),
    (
        "POST /api/v1/config/check HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n[lnk]",
        "422",
        "staffetta.toml:1: unknown key `lnk`: did you mean `link`?",
    ),
    (
        "POST /api/v1/config/check HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n",
        "413",
        "at most 1048576 bytes",
    ),
    ("POST /api/v1/clear HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n", "400", ""),
    ("\u{1}\u{2}\u{3} what is this\r\n\r\n", "400", ""),
    ("GET /api/v1/status HTTP/9.9\r\n\r\n", "400", ""),
];

#[tokio::test]
async fn garbage_is_answered_and_the_daemon_serves_on() {
    let daemon = start().await;
    for (sent, status, words) in GARBAGE {
        let answer = raw(&daemon.socket, sent.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{sent:?} -> {answer:?}");
        assert!(answer.contains(words), "{sent:?} -> {answer}");
    }
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(HEAD_BYTES_MAX * 2));
    let answer = raw(&daemon.socket, long.as_bytes()).await;
    assert!(answer.is_empty() || answer.contains(" 431 ") || answer.contains(" 414 "), "{answer}");
    let binary = b"POST /api/v1/config/check HTTP/1.1\r\nhost: x\r\ncontent-length: \
                   2\r\n\r\n\xff\xfe";
    assert!(raw(&daemon.socket, binary).await.contains("the body is not text"));
    assert!(daemon.client.get("/api/v1/status").await.is_ok());
}

#[tokio::test]
async fn idle_connections_do_not_lock_others_out() {
    let daemon = start().await;
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        idle.push(UnixStream::connect(&daemon.socket).await.unwrap());
    }
    let turned_away = raw(&daemon.socket, b"GET /api/v1/status HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(turned_away.contains("503") && turned_away.contains("\"remedy\""), "{turned_away}");
    drop(idle);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(daemon.client.get("/api/v1/status").await.is_ok());
}

#[tokio::test]
async fn watchers_hear_changes_only() {
    let daemon = start().await;
    let (seen, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let client = daemon.client.clone();
    tokio::spawn(async move {
        client.follow(|name, data| seen.send((name.to_owned(), data)).is_ok()).await
    });
    let (name, first) = heard.recv().await.unwrap();
    assert_eq!((name.as_str(), &first["role"]), ("status", &json!("primary")));

    let mut aged = status::tests::example();
    aged.uptime_s += 1;
    daemon.status.send(aged.clone().into()).unwrap();
    daemon.events.send(EventRecord::now(EventLevel::Warn, "vip-conflict", "x")).unwrap();
    let (name, event) = heard.recv().await.unwrap();
    assert_eq!((name.as_str(), &event["name"]), ("event", &json!("vip-conflict")));

    aged.role = status::Role::Standby;
    daemon.status.send(aged.into()).unwrap();
    let (name, second) = heard.recv().await.unwrap();
    assert_eq!((name.as_str(), &second["role"]), ("status", &json!("standby")));
}

#[tokio::test]
async fn a_socket_is_replaced_only_when_nobody_answers() {
    use std::os::unix::fs::PermissionsExt;
    let daemon = start().await;
    let mode = std::fs::metadata(&daemon.socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o660);
    let second = Server::bind(&daemon.socket).expect_err("in use").to_string();
    assert!(second.contains("another daemon answers on"), "{second}");

    daemon.stop.send(()).unwrap();
    daemon.server.await.unwrap().unwrap();
    assert!(!daemon.socket.exists());
    let gone = daemon.client.get("/api/v1/status").await.expect_err("gone");
    assert!(matches!(gone, ClientError::NotReachable { .. }));
    assert!(gone.to_string().contains("is it running? `staffetta run --config"), "{gone}");

    // What a killed daemon leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&daemon.socket).unwrap());
    assert!(daemon.socket.exists());
    assert!(Server::bind(&daemon.socket).is_ok());

    let long = PathBuf::from("/tmp").join("x".repeat(120));
    let said = Server::bind(&long).expect_err("too long").to_string();
    assert!(said.contains("at most 90 characters"), "{said}");
}
