//! `arbiter check` and the state of endpoints, on a real etcd.

mod common;

use std::time::Duration;

use common::{LONG, check, client, etcd, post, register, swap};
use staffetta_arbiter::proxy::{Behaviour, Proxy};
use staffetta_arbiter::{ArbiterError, CheckReport, Reply, Request};

#[tokio::test]
async fn a_good_arbiter_is_measured_and_left_as_it_was() {
    let Some(etcd) = etcd() else { return };
    let url = etcd.server.url();
    let client = client(&[&url]);
    let status = client.status(0, LONG).await.expect("etcd answers");
    assert!(status.version.starts_with("3.") && status.leader != 0 && status.cluster_id != 0);
    assert!(client.status(1, LONG).await.is_err());

    check(&client, client.ask(swap(None, register(1)), LONG).await, Reply::Swapped);
    let report = client.check(200, LONG).await;
    assert!(report.is_good(), "{report:?}");
    assert_eq!(report.register, Ok(Some(register(1))));
    assert_eq!(client.cluster_id(), Some(status.cluster_id));
    let [endpoint] = &report.endpoints[..] else { panic!("{report:?}") };
    for latencies in [endpoint.reads, endpoint.swaps] {
        let latencies = latencies.expect("there are some");
        println!("{latencies:?}");
        assert_eq!(latencies.count, 200);
        assert!(latencies.min <= latencies.p50 && latencies.p50 <= latencies.p99);
        assert!(latencies.p99 <= latencies.max && latencies.max < LONG);
    }
    check(&client, client.ask(Request::Read, LONG).await, Reply::Holds(Some(register(1))));
    // Every key there is: the register.
    let all = post(&url, "/v3/kv/range", r#"{"key":"AA==","range_end":"AA==","keys_only":true}"#);
    let all = all.await;
    assert!(all.contains("\"count\":\"1\""), "{all}");
}

#[tokio::test]
async fn dead_slow_and_foreign_endpoints_are_told() {
    let Some(one) = etcd() else { return };
    let Some(other) = etcd() else { return };
    let proxy = Proxy::start(([127, 0, 0, 1], 0).into(), one.server.address()).expect("a proxy");
    let silent = format!("http://{}", proxy.address());
    proxy.set(Behaviour::BlackHole);
    let dead = "http://127.0.0.1:1".to_owned();
    let urls = [one.server.url(), silent, dead, other.server.url()];
    let client = client(&urls.each_ref().map(String::as_str));
    let report: CheckReport = client.check(5, Duration::from_secs(1)).await;
    assert!(!report.is_good());
    let statuses: Vec<_> = report.endpoints.iter().map(|endpoint| &endpoint.status).collect();
    assert!(statuses[0].is_ok() && statuses[3].is_ok(), "{report:?}");
    assert!(matches!(
        statuses[1],
        Err(ArbiterError::NotReachable { .. } | ArbiterError::NoAnswer { .. })
    ));
    assert!(matches!(statuses[2], Err(ArbiterError::NotReachable { .. })));
    let mixed = report.mixed.expect("two clusters").to_string();
    assert!(mixed.contains(&urls[0]) && mixed.contains(&urls[3]), "{mixed}");
}

#[tokio::test]
async fn two_etcds_that_look_like_one_are_told_apart() {
    // Started with the same words, as from the same package: same members, same cluster id.
    let alike = |options: &mut staffetta_arbiter::server::EtcdOptions| {
        options.arguments = [
            "--initial-advertise-peer-urls=http://localhost:2380",
            "--initial-cluster=arbiter=http://localhost:2380",
        ]
        .map(str::to_owned)
        .to_vec();
    };
    let Some(one) = common::etcd_with(alike) else { return };
    let Some(other) = common::etcd_with(alike) else { return };
    let client = client(&[&one.server.url(), &other.server.url()]);
    let ids = (client.status(0, LONG).await, client.status(1, LONG).await);
    let (Ok(a), Ok(b)) = ids else { panic!("{ids:?}") };
    assert_eq!(a.cluster_id, b.cluster_id);
    let report = client.check(1, LONG).await;
    assert!(!report.is_good(), "{report:?}");
    let mixed = report.mixed.expect("two registers").to_string();
    assert!(mixed.contains("does not keep its word"), "{mixed}");
}
