//! Servers that are no etcd, or one gone mad, and registers that are not ours.

mod common;

use std::time::{Duration, Instant};

use common::{LONG, check, check_error, client, etcd, register, swap};
use staffetta_arbiter::{ANSWER_BYTES_MAX, Client, Reply, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A server that says `answer` to whatever comes, and then closes.
async fn server(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                drop(stream.read(&mut request).await);
                drop(stream.write_all(&answer).await);
            });
        }
    });
    url
}

fn http(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[tokio::test]
async fn what_is_no_answer_of_etcd_is_a_failure() {
    let header = "\"header\":{\"cluster_id\":\"1\"}";
    let huge = format!("{{{header},\"more\":\"{}\"}}", "x".repeat(ANSWER_BYTES_MAX));
    let kv = "\"key\":\"L3N0YWZmZXR0YS9wYWlyLTEvcmVnaXN0ZXI=\",\"value\":\"e30=\"";
    let endless = [http(""), vec![b'x'; 100_000]].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (http("{}"), "no answer of etcd"),
        (http("<html>hello</html>"), "no answer of etcd"),
        (http(&huge), "length limit"),
        (http(&format!("{{{header},\"kvs\":[{{{kv}}}]}}")), "not one of this pair"),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "no HTTP"),
        (vec![0xff; 100_000], "no HTTP"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nNot Found".to_vec(), "status 404"),
        (b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n".to_vec(), "302"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"hea".to_vec(), "answered"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_vec(), "answered"),
        (format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(200_000)).into_bytes(), ""),
        (Vec::new(), "cannot reach"),
        (endless, "no answer of etcd"),
    ];
    for (answer, expected) in cases {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(80)]).into_owned();
        let client = client(&[&server(answer).await]);
        for request in [Request::Read, swap(None, register(1))] {
            let began = Instant::now();
            let reply = client.ask(request, LONG).await;
            let last = client.last_error().map(|last| last.error.to_string());
            assert_eq!(reply, Reply::Failed, "{shown}");
            assert!(began.elapsed() < LONG / 2, "{shown}");
            let text = last.unwrap_or_default();
            let swap = request != Request::Read;
            assert!(swap || text.contains(expected), "{shown}: {text}");
            println!("{text}");
        }
    }
}

#[tokio::test]
async fn a_slow_server_ends_with_the_time_that_was_given() {
    // A byte now and then: never silent, never done.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let start = b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n";
                let mut alive = stream.write_all(start).await.is_ok();
                while alive {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    alive = stream.write_all(b" ").await.is_ok();
                }
            });
        }
    });
    let client = client(&[&url]);
    let time = Duration::from_millis(300);
    for request in [Request::Read, swap(None, register(1))] {
        let began = Instant::now();
        check(&client, client.ask(request, time).await, Reply::Failed);
        assert!(began.elapsed() >= time && began.elapsed() < time * 4, "{:?}", began.elapsed());
        check_error(&client, &["did not answer within 300 ms"]);
    }
}

/// Writes to etcd as an operator would.
async fn write(url: &str, key: &str, value: &str) {
    use base64::Engine;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let body = format!("{{\"key\":\"{}\",\"value\":\"{}\"}}", encode(key), encode(value));
    let answer = common::post(url, "/v3/kv/put", &body).await;
    assert!(answer.contains("revision"), "{answer}");
}

#[tokio::test]
async fn a_register_that_is_not_ours_is_never_overwritten() {
    let Some(etcd) = etcd() else { return };
    let url = etcd.server.url();
    let client = client(&[&url]);
    check(&client, client.ask(swap(None, register(1)), LONG).await, Reply::Swapped);
    let refuses = async |client: &Client, why: &str| {
        for request in
            [Request::Read, swap(None, register(2)), swap(Some(register(1)), register(2))]
        {
            check(client, client.ask(request, LONG).await, Reply::Failed);
            check_error(client, &["/staffetta/pair-1/register", "etcdctl del", why]);
        }
    };
    write(&url, client.key(), "hello").await;
    refuses(&client, "no JSON").await;
    write(&url, client.key(), "").await;
    refuses(&client, "no JSON").await;
    write(&url, client.key(), "{\"version\":2}").await;
    refuses(&client, "version 2").await;
    let ours = "{\"version\":1,\"epoch\":2,\"holder\":\"anna\",\"alone\":true,\
        \"peer_synced\":true,\"lease_us\":300000,\"slack_us\":20000,\
        \"boot\":\"0000000000000abc\",\"n\":1}";
    write(&url, client.key(), &ours.replace(',', ", ")).await;
    refuses(&client, "edited").await;
    write(&url, client.key(), &ours.replace("anna", "carla")).await;
    refuses(&client, "carla").await;
    // The text in the documents is what the client writes.
    write(&url, client.key(), ours).await;
    check(&client, client.ask(Request::Read, LONG).await, Reply::Holds(Some(register(1))));
}
