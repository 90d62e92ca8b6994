//! Daemons that die, hang, are stopped and come back.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use staffetta_lab::{Node, Pair, PairOptions, Space};
use staffetta_tests::{Case, NO_GAP_MS, Serves, check, kill, start, world};

fn both(pair: &Pair, deed: fn(&Pair, Node) -> Result<()>) -> Result<()> {
    Node::BOTH.into_iter().try_for_each(|node| deed(pair, node))
}

fn stop(pair: &Pair, node: Node) -> Result<()> {
    const STOP_MS_MAX: u64 = 6_000;
    let ended = pair.lab().node(node).terminate(std::time::Duration::from_millis(STOP_MS_MAX));
    ensure!(ended, "the daemon of {} did not end within {STOP_MS_MAX} ms of SIGTERM", node.name());
    let addresses = pair.lab().node(node).space().output("ip", &["address"])?;
    ensure!(!addresses.contains("10.77.0.50"), "a clean stop left the address: {addresses}");
    Ok(())
}

#[test]
fn primary_killed() {
    world(|| check(Case { act: kill, undo: start, ..Case::default() }));
}

#[test]
fn primary_frozen_for_3_s() {
    world(|| {
        check(Case {
            act: |pair, node| {
                pair.lab().node(node).freeze();
                Ok(())
            },
            hold_ms: 3_000,
            undo: |pair, node| {
                pair.lab().node(node).thaw();
                Ok(())
            },
            ..Case::default()
        })
    });
}

#[test]
fn standby_frozen_for_3_s() {
    world(|| {
        check(Case {
            act: |pair, node| {
                pair.lab().node(node.peer()).freeze();
                Ok(())
            },
            during: Serves::Same,
            hold_ms: 3_000,
            undo: |pair, node| {
                pair.lab().node(node.peer()).thaw();
                Ok(())
            },
            after: Some(Serves::Same),
            silence_ms_max: NO_GAP_MS,
            ..Case::default()
        })
    });
}

#[test]
fn standby_killed() {
    world(|| {
        check(Case {
            act: |pair, node| kill(pair, node.peer()),
            during: Serves::Same,
            undo: |pair, node| start(pair, node.peer()),
            after: Some(Serves::Same),
            silence_ms_max: NO_GAP_MS,
            ..Case::default()
        })
    });
}

#[test]
fn primary_restarted() {
    world(|| {
        check(Case {
            act: |pair, node| stop(pair, node).and_then(|()| start(pair, node)),
            hold_ms: 2_000,
            ..Case::default()
        })
    });
}

#[test]
fn standby_restarted() {
    world(|| {
        check(Case {
            act: |pair, node| stop(pair, node.peer()).and_then(|()| start(pair, node.peer())),
            during: Serves::Same,
            hold_ms: 2_000,
            after: Some(Serves::Same),
            silence_ms_max: NO_GAP_MS,
            ..Case::default()
        })
    });
}

#[test]
fn both_killed_and_started_cold() {
    world(|| {
        check(Case {
            act: |pair, _| both(pair, kill),
            during: Serves::Nobody,
            undo: |pair, _| both(pair, start),
            after: Some(Serves::Any),
            ..Case::default()
        })
    });
}

#[test]
fn planned_switchover() {
    world(|| {
        check(Case {
            act: |pair, node| {
                let output = pair.command(node, &["switchover"])?;
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                ensure!(output.status.success(), "switchover: {said}");
                Ok(())
            },
            silence_ms_max: 1_000,
            ..Case::default()
        })
    });
}

/// The word behind `key` in what `ip` says in a namespace.
fn told(space: &Space, key: &str, args: &[&str]) -> Result<String> {
    let text = space.output("ip", args)?;
    let mut words = text.split_whitespace().skip_while(|word| *word != key);
    Ok(words.nth(1).with_context(|| format!("no {key}: {text}"))?.to_owned())
}

/// The link-layer address that answers for an address, as a machine beside it learns it; a node
/// that was killed keeps the address to itself until its lifetime ends.
fn answerer(space: &Space, interface: &str, address: &str) -> Result<String> {
    // What was known before counts for nothing.
    space.ip(&format!("neighbor flush dev {interface}"))?;
    let to: IpAddr = address.parse()?;
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        // Whatever is sent makes the kernel ask who has the address.
        space.run(move || {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            UdpSocket::bind(any)?.send_to(b"?", (to, 9))
        })?;
        match told(space, "lladdr", &["neighbor", "show", address, "dev", interface]) {
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(50)),
            result => return result,
        }
    }
}

/// Who answers on each of the addresses, asked from beside it: both families, two interfaces.
fn all_answered_by(pair: &Pair, node: Node) -> Result<()> {
    let client = pair.lab().client();
    let beside = pair.lab().node(node.peer()).space();
    for (space, interface, address) in [
        (client, "eth0", "10.77.0.50"),
        (client, "eth0", "10.77.0.51"),
        (client, "eth0", "fd77::50"),
        (beside, "eth1", "10.78.0.50"),
    ] {
        let holder = pair.lab().node(node).space();
        let wanted = told(holder, "link/ether", &["link", "show", "dev", interface])?;
        let by = answerer(space, interface, address)?;
        ensure!(by == wanted, "{address} is answered by {by}, not by {wanted} of {}", node.name());
    }
    Ok(())
}

#[test]
fn every_address_moves_of_both_families_and_on_every_interface() {
    let vips = ["10.77.0.50/24", "10.77.0.51/24", "fd77::50/64", "10.78.0.50/24@eth1"];
    world(|| {
        check(Case {
            options: PairOptions {
                vips: vips.map(Into::into).to_vec(),
                heartbeat_link: true,
                ..PairOptions::default()
            },
            act: |pair, node| {
                all_answered_by(pair, node)?;
                kill(pair, node)
            },
            look: |pair, node| all_answered_by(pair, node.peer()),
            undo: start,
            ..Case::default()
        })
    });
}
