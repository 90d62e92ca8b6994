//! The register on a real etcd: what reads and swaps promise.

mod common;

use std::time::Duration;

use common::{LONG, check, check_error, client, etcd, register, swap};
use staffetta_arbiter::{Reply, Request};

#[tokio::test]
async fn created_once_replaced_by_whom_it_is_known() {
    let Some(mut etcd) = etcd() else { return };
    let url = etcd.server.url();
    let (a, b) = (client(&[&url]), client(&[&url]));
    let (one, two, three) = (register(1), register(2), register(3));
    let ask = async |client: &staffetta_arbiter::Client, request, expected| {
        check(client, client.ask(request, LONG).await, expected);
    };
    ask(&a, Request::Read, Reply::Holds(None)).await;
    ask(&a, swap(Some(one), two), Reply::Holds(None)).await;
    ask(&a, swap(None, one), Reply::Swapped).await;
    ask(&b, swap(None, two), Reply::Holds(Some(one))).await;
    ask(&b, Request::Read, Reply::Holds(Some(one))).await;
    ask(&b, swap(Some(one), two), Reply::Swapped).await;
    // The race is lost, and the answer says to whom.
    ask(&a, swap(Some(one), three), Reply::Holds(Some(two))).await;
    ask(&a, swap(Some(two), three), Reply::Swapped).await;
    ask(&b, Request::Read, Reply::Holds(Some(three))).await;

    etcd.server.restart().expect("etcd starts again");
    ask(&b, Request::Read, Reply::Holds(Some(three))).await;
    etcd.server.wipe().expect("its data can be deleted");
    etcd.server.restart().expect("etcd starts again");
    ask(&a, swap(Some(three), one), Reply::Holds(None)).await;
    ask(&b, Request::Read, Reply::Holds(None)).await;
}

#[tokio::test]
async fn of_many_swaps_at_once_one_is_made() {
    let Some(etcd) = etcd() else { return };
    let client = client(&[&etcd.server.url()]);
    let mut held = None;
    for round in 0..10 {
        let mut racers = tokio::task::JoinSet::new();
        for racer in 0..4 {
            let (client, to) = (client.clone(), register(round * 10 + racer));
            racers.spawn(async move { (client.ask(swap(held, to), LONG).await, to) });
        }
        let replies = racers.join_all().await;
        let winners: Vec<_> =
            replies.iter().filter(|(reply, _)| *reply == Reply::Swapped).collect();
        assert_eq!(winners.len(), 1, "{replies:?}");
        held = Some(winners[0].1);
        let lost = Reply::Holds(held);
        assert!(replies.iter().all(|(reply, _)| [Reply::Swapped, lost].contains(reply)));
    }
}

#[tokio::test]
async fn an_etcd_that_is_gone_fails_fast_and_is_found_again() {
    let Some(mut etcd) = etcd() else { return };
    let client = client(&[&etcd.server.url()]);
    check(&client, client.ask(swap(None, register(1)), LONG).await, Reply::Swapped);
    etcd.server.stop();
    let began = std::time::Instant::now();
    check(&client, client.ask(swap(Some(register(1)), register(2)), LONG).await, Reply::Failed);
    check(&client, client.ask(Request::Read, LONG).await, Reply::Failed);
    assert!(began.elapsed() < LONG / 5, "a refused connection is an answer");
    check_error(&client, &["cannot reach", "does etcd run there"]);
    etcd.server.restart().expect("etcd starts again");
    check(&client, client.ask(Request::Read, LONG).await, Reply::Holds(Some(register(1))));
    assert!(client.last_error().is_some_and(|last| last.over));

    etcd.server.freeze(true).expect("it can be stopped");
    let (began, short) = (std::time::Instant::now(), Duration::from_millis(300));
    let (read, write) = (client.ask(Request::Read, short), swap(Some(register(1)), register(2)));
    let replies = tokio::join!(read, client.ask(write, short));
    assert_eq!(replies, (Reply::Failed, Reply::Failed));
    assert!(began.elapsed() >= short && began.elapsed() < short + LONG / 5);
    check_error(&client, &["did not answer within 300 ms"]);
    etcd.server.freeze(false).expect("it can be continued");
    // The swap was sent before: it may have been made meanwhile, or not.
    let reply = client.ask(Request::Read, LONG).await;
    assert!([1, 2].map(|n| Reply::Holds(Some(register(n)))).contains(&reply), "{reply:?}");
}
