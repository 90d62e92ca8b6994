//! An etcd of three members: one of them may die.

mod common;

use std::time::{Duration, Instant};

use common::{LONG, check, register, swap};
use staffetta_arbiter::server::{EtcdOptions, EtcdServer, is_installed};
use staffetta_arbiter::{Client, Reply, Request};

/// Three members on the loopback interface, each in a folder of its own. They need each other to
/// be ready: each is started on its own thread.
fn three(folder: &std::path::Path) -> Option<Vec<EtcdServer>> {
    let options: Vec<_> = (0..3)
        .map(|n| EtcdOptions::on_loopback(&folder.join(n.to_string())).expect("free ports"))
        .collect();
    let members: Vec<String> =
        (0..).zip(&options).map(|(n, one)| format!("m{n}=http://{}", one.peer)).collect();
    let cluster = format!("--initial-cluster={}", members.join(","));
    let starts: Vec<_> = (0..)
        .zip(options)
        .map(|(n, mut options)| {
            options.arguments = vec![format!("--name=m{n}"), cluster.clone()];
            std::thread::spawn(move || EtcdServer::start(options))
        })
        .collect();
    let ended = starts.into_iter().map(|start| start.join().expect("the thread ends"));
    let servers: Result<Vec<_>, _> = ended.collect();
    servers.map_err(|error| println!("{error}")).ok()
}

#[tokio::test]
async fn the_death_of_any_member_loses_no_swap() {
    if !is_installed() {
        println!("SKIPPED: etcd is not installed (Debian: apt-get install etcd-server)");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let attempt = |n: u32| three(&folder.path().join(n.to_string()));
    let mut servers = (0..3).find_map(attempt).expect("etcd starts");
    let urls: Vec<String> = servers.iter().map(EtcdServer::url).collect();
    let client = common::client(&urls.iter().map(String::as_str).collect::<Vec<_>>());
    check(&client, client.ask(swap(None, register(0)), LONG).await, Reply::Swapped);
    let mut held = register(0);
    for server in &mut servers {
        server.stop();
        let began = Instant::now();
        held = replace(&client, held).await;
        println!("a swap {:?} after a member died", began.elapsed());
        server.restart().expect("a member starts again");
        held = replace(&client, held).await;
    }
    assert!(client.check(10, LONG).await.is_good(), "all three answer again");
}

/// Swaps as a node does: what failed is read again, since it may have been made.
async fn replace(
    client: &Client,
    held: staffetta_arbiter::Register,
) -> staffetta_arbiter::Register {
    let (time, began) = (Duration::from_secs(1), Instant::now());
    let mut held = held;
    for n in held.stamp.n + 1.. {
        let to = register(n);
        let reply = client.ask(swap(Some(held), to), time).await;
        let holds = match reply {
            Reply::Swapped => return to,
            Reply::Holds(register) => Some(register.expect("it is never lost")),
            Reply::Failed => match client.ask(Request::Read, time).await {
                Reply::Holds(register) => Some(register.expect("it is never lost")),
                Reply::Swapped | Reply::Failed => None,
            },
        };
        if let Some(now) = holds {
            assert!(now == held || now.stamp.n > held.stamp.n, "{now:?} after {held:?}");
            held = now;
        }
        assert!(began.elapsed() < LONG * 2, "{:?}", client.last_error());
    }
    unreachable!("the numbers do not end")
}
