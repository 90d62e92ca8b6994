//! Two links of which each loses one direction.

use std::time::Duration;

use anyhow::Result;
use staffetta_lab::{Cable, Fault, Node, Pair, PairOptions};
use staffetta_tests::{Case, NO_GAP_MS, Serves, check_each, world};

/// The service network loses what the primary sends, the direct link what the standby sends.
fn cross(pair: &Pair, node: Node) -> Result<()> {
    pair.lab().fault(Fault::OneWayOn { cable: Cable::Lan, from: node })?;
    pair.lab().fault(Fault::OneWayOn { cable: Cable::Direct, from: node.peer() })
}

fn crossed() -> Case {
    Case {
        options: PairOptions { heartbeat_link: true, ..PairOptions::default() },
        act: cross,
        during: Serves::Same,
        hold_ms: 4_000,
        undo: |pair, _| pair.lab().heal(),
        after: Some(Serves::Same),
        silence_ms_max: NO_GAP_MS,
        ..Case::default()
    }
}

/// Kernels forget who their neighbors are in seconds instead of a minute.
fn forgetful(pair: &Pair) -> Result<()> {
    for node in Node::BOTH {
        for device in ["eth0", "eth1"] {
            let key = |name: &str| format!("ipv4/neigh/{device}/{name}");
            let space = pair.lab().node(node).space();
            space.sysctl(&key("base_reachable_time_ms"), "1000")?;
            space.sysctl(&key("delay_first_probe_time"), "1")?;
            space.sysctl(&key("retrans_time_ms"), "200")?;
        }
    }
    // The times in force are drawn anew when neighbors are.
    std::thread::sleep(Duration::from_millis(500));
    Ok(())
}

/// Promised: one direction of each link is enough, as a beat may go out over one link and its echo
/// come back over the other: nothing moves, nobody notices, and a primary that dies then is
/// replaced.
#[test]
fn two_links_one_way_in_opposite_directions() {
    world(|| {
        let killed = Case {
            act: |pair, node| {
                cross(pair, node)?;
                std::thread::sleep(Duration::from_millis(1_000));
                pair.lab().node(node).kill9();
                Ok(())
            },
            during: Serves::Other,
            hold_ms: 2_000,
            undo: |pair, node| pair.lab().heal().and_then(|()| pair.start(node).map(drop)),
            after: Some(Serves::Other),
            silence_ms_max: 2_000,
            ..crossed()
        };
        check_each(&[("each link loses one direction", crossed()), ("primary killed", killed)])
    });
}

/// Promised: the same for as long as it lasts: also when the kernels look again where their
/// neighbors are, and get no answer over a link that loses one direction.
#[test]
fn two_links_one_way_for_longer_than_neighbors_are_remembered() {
    world(|| {
        let lasting = Case { prepare: forgetful, hold_ms: 6_000, ..crossed() };
        check_each(&[("each link loses one direction for long", lasting)])
    });
}
