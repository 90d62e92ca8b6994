//! A network that does harm: what a client makes of it.

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::{LONG, check, check_error, client, etcd, register, swap};
use staffetta_arbiter::proxy::{Behaviour, Proxy};
use staffetta_arbiter::{Reply, Request};

const SHORT: Duration = Duration::from_millis(300);

fn proxy(target: SocketAddr) -> (Proxy, String) {
    let proxy = Proxy::start(([127, 0, 0, 1], 0).into(), target).expect("a proxy");
    let url = format!("http://{}", proxy.address());
    (proxy, url)
}

#[tokio::test]
async fn a_lost_reply_is_a_failure_though_the_swap_was_made() {
    let Some(etcd) = etcd() else { return };
    let (proxy, url) = proxy(etcd.server.address());
    let client = client(&[&url]);
    check(&client, client.ask(swap(None, register(1)), LONG).await, Reply::Swapped);

    proxy.set(Behaviour::DropWriteReplies);
    check(&client, client.ask(swap(Some(register(1)), register(2)), LONG).await, Reply::Failed);
    assert_eq!(proxy.dropped(), 1, "a swap is sent once");
    // Reads pass, and tell what became of it. The old expectation dies on the new value.
    check(&client, client.ask(Request::Read, LONG).await, Reply::Holds(Some(register(2))));
    proxy.set(Behaviour::Pass);
    let stale = swap(Some(register(1)), register(3));
    check(&client, client.ask(stale, LONG).await, Reply::Holds(Some(register(2))));

    proxy.set(Behaviour::DropReplies);
    check(&client, client.ask(Request::Read, LONG).await, Reply::Failed);
    proxy.set(Behaviour::Pass);
    check(&client, client.ask(Request::Read, LONG).await, Reply::Holds(Some(register(2))));
}

#[tokio::test]
async fn a_swap_is_sent_to_one_endpoint_only() {
    let Some(etcd) = etcd() else { return };
    let ((first, a), (second, b)) = (proxy(etcd.server.address()), proxy(etcd.server.address()));
    let client = client(&[&a, &b]);
    check(&client, client.ask(swap(None, register(1)), LONG).await, Reply::Swapped);
    first.set(Behaviour::DropWriteReplies);
    check(&client, client.ask(swap(Some(register(1)), register(2)), LONG).await, Reply::Failed);
    assert_eq!((first.dropped(), second.connections()), (1, 0));
    // The next one goes to the other endpoint, at once.
    check(&client, client.ask(swap(Some(register(2)), register(3)), LONG).await, Reply::Swapped);
    assert_eq!((first.dropped(), second.connections()), (1, 1));
}

#[tokio::test]
async fn a_silent_endpoint_costs_a_read_a_third_of_its_time_and_a_swap_all() {
    let Some(etcd) = etcd() else { return };
    let ((first, a), (_second, b)) = (proxy(etcd.server.address()), proxy(etcd.server.address()));
    let client = client(&[&a, &b]);
    check(&client, client.ask(swap(None, register(1)), LONG).await, Reply::Swapped);
    first.set(Behaviour::BlackHole);
    let time = Duration::from_secs(3);
    let began = Instant::now();
    check(&client, client.ask(swap(Some(register(1)), register(2)), time).await, Reply::Failed);
    assert!(began.elapsed() >= time && began.elapsed() < time * 2);
    check_error(&client, &["did not answer within 3000 ms", &a]);
    // It is now asked last.
    let began = Instant::now();
    check(&client, client.ask(Request::Read, time).await, Reply::Holds(Some(register(1))));
    assert!(began.elapsed() < time / 3, "{:?}", began.elapsed());

    // A client that knows nothing asks both, one after the other.
    let client = common::client(&[&a, &b]);
    let began = Instant::now();
    check(&client, client.ask(Request::Read, time).await, Reply::Holds(Some(register(1))));
    assert!(began.elapsed() >= time / 3 && began.elapsed() < time, "{:?}", began.elapsed());

    // The late swap arrives when the hole closes: who waited for nothing must still expect it.
    first.set(Behaviour::Pass);
    tokio::time::sleep(SHORT).await;
    let reply = client.ask(Request::Read, time).await;
    check(&client, reply, Reply::Holds(Some(register(2))));
}

#[tokio::test]
async fn dead_and_refusing_endpoints_are_passed_over() {
    let Some(etcd) = etcd() else { return };
    let (refusing, a) = proxy(etcd.server.address());
    refusing.set(Behaviour::Refuse);
    let dead = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let b = format!("http://{}", dead.local_addr().expect("its address"));
    drop(dead);
    let client = client(&[&a, &b, &etcd.server.url()]);
    // Nothing of a swap goes to an endpoint before it answered a read.
    check(&client, client.ask(swap(None, register(1)), LONG).await, Reply::Swapped);
    check(&client, client.ask(Request::Read, LONG).await, Reply::Holds(Some(register(1))));
    let only_dead = common::client(&[&a, &b]);
    let began = Instant::now();
    let request = swap(Some(register(1)), register(2));
    check(&only_dead, only_dead.ask(request, LONG).await, Reply::Failed);
    check(&only_dead, only_dead.ask(Request::Read, LONG).await, Reply::Failed);
    assert!(began.elapsed() < LONG / 5);
    check_error(&only_dead, &["cannot reach the arbiter"]);
}

#[tokio::test]
async fn delay_is_felt_and_connections_are_used_again() {
    let Some(etcd) = etcd() else { return };
    let (proxy, url) = proxy(etcd.server.address());
    let client = client(&[&url]);
    for _ in 0..20 {
        check(&client, client.ask(Request::Read, LONG).await, Reply::Holds(None));
    }
    let both = tokio::join!(client.ask(Request::Read, LONG), client.ask(Request::Read, LONG));
    assert_eq!(both, (Reply::Holds(None), Reply::Holds(None)));
    assert_eq!(proxy.connections(), 2, "one for one at a time, two for two at once");

    let (to_server, to_client) = (Duration::from_millis(40), Duration::from_millis(80));
    proxy.set(Behaviour::Delay { to_server, to_client });
    let began = Instant::now();
    check(&client, client.ask(Request::Read, LONG).await, Reply::Holds(None));
    assert!(began.elapsed() >= to_server + to_client && began.elapsed() < LONG);
    check(&client, client.ask(Request::Read, to_client).await, Reply::Failed);
}

#[tokio::test]
async fn a_connection_that_etcd_closed_meanwhile_is_no_failure() {
    let Some(mut etcd) = etcd() else { return };
    let client = client(&[&etcd.server.url()]);
    check(&client, client.ask(swap(None, register(1)), LONG).await, Reply::Swapped);
    for n in 1..4 {
        etcd.server.restart().expect("etcd starts again");
        let request = swap(Some(register(n)), register(n + 1));
        check(&client, client.ask(request, LONG).await, Reply::Swapped);
    }
}

#[tokio::test]
async fn endpoints_of_two_clusters_are_no_arbiter() {
    let Some(one) = etcd() else { return };
    let Some(other) = etcd() else { return };
    let (proxy, a) = proxy(one.server.address());
    let b = other.server.url();
    let both = client(&[&a, &b]);
    check(&both, both.ask(swap(None, register(1)), LONG).await, Reply::Swapped);
    proxy.set(Behaviour::Refuse);
    for request in [Request::Read, swap(None, register(2))] {
        check(&both, both.ask(request, LONG).await, Reply::Failed);
        // Whichever was asked last is named.
        let last = both.last_error().expect("an error").error.to_string();
        let named = last.contains("belongs to etcd cluster") || last.contains("cannot reach");
        assert!(named, "{last}");
    }
    let alone = client(&[&b]);
    check(&alone, alone.ask(Request::Read, LONG).await, Reply::Holds(None));
}
