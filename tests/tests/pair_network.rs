//! Networks that are cut, filtered, lossy and split.

use anyhow::ensure;
use staffetta_lab::{Fault, HEARTBEAT_PORT, Node, PairOptions};
use staffetta_tests::{Case, NO_GAP_MS, Serves, check, heal, world};

#[test]
fn primary_cut_off() {
    world(|| {
        check(Case {
            act: |pair, node| pair.lab().fault(Fault::Cut(node)),
            hold_ms: 3_000,
            undo: heal,
            ..Case::default()
        })
    });
}

#[test]
fn primary_silent_with_its_carrier_up() {
    world(|| {
        check(Case {
            act: |pair, node| pair.lab().fault(Fault::Silent(node)),
            hold_ms: 3_000,
            undo: heal,
            ..Case::default()
        })
    });
}

#[test]
fn standby_cut_off() {
    world(|| {
        check(Case {
            act: |pair, node| pair.lab().fault(Fault::Cut(node.peer())),
            during: Serves::Same,
            hold_ms: 3_000,
            undo: heal,
            after: Some(Serves::Same),
            silence_ms_max: NO_GAP_MS,
            ..Case::default()
        })
    });
}

#[test]
fn one_way_primary_to_standby() {
    world(|| {
        check(Case {
            act: |pair, node| pair.lab().fault(Fault::OneWay { from: node }),
            during: Serves::Any,
            hold_ms: 4_000,
            undo: heal,
            after: Some(Serves::Any),
            ..Case::default()
        })
    });
}

#[test]
fn one_way_standby_to_primary() {
    world(|| {
        check(Case {
            act: |pair, node| pair.lab().fault(Fault::OneWay { from: node.peer() }),
            during: Serves::Same,
            hold_ms: 4_000,
            undo: heal,
            after: Some(Serves::Same),
            silence_ms_max: NO_GAP_MS,
            ..Case::default()
        })
    });
}

/// Without an arbiter both serve while neither hears the other and both reach the client: what is
/// promised is that it ends when they meet.
#[test]
fn split_and_heal() {
    world(|| {
        check(Case {
            act: |pair, _| pair.lab().fault(Fault::Split),
            during: Serves::Any,
            hold_ms: 4_000,
            undo: heal,
            after: Some(Serves::Any),
            silence_ms_max: 1_000,
            dual_allowed: true,
            ..Case::default()
        })
    });
}

#[test]
fn heartbeat_port_filtered() {
    world(|| {
        check(Case {
            act: |pair, _| pair.lab().fault(Fault::Filtered { port: HEARTBEAT_PORT }),
            during: Serves::Same,
            hold_ms: 4_000,
            look: |pair, _| {
                let statuses = pair.statuses();
                let raised = Node::BOTH.iter().filter_map(|node| statuses.of(*node));
                let names: Vec<_> =
                    raised.flat_map(|status| &status.alarms).map(|alarm| &alarm.name).collect();
                ensure!(names.iter().any(|name| *name == "heartbeat-path-cut"), "alarms {names:?}");
                Ok(())
            },
            undo: heal,
            after: Some(Serves::Same),
            ..Case::default()
        })
    });
}

#[test]
fn one_of_two_links_cut() {
    world(|| {
        check(Case {
            options: PairOptions { heartbeat_link: true, ..PairOptions::default() },
            act: |pair, _| pair.lab().fault(Fault::HeartbeatLink),
            during: Serves::Same,
            hold_ms: 2_000,
            undo: heal,
            after: Some(Serves::Same),
            silence_ms_max: NO_GAP_MS,
            ..Case::default()
        })
    });
}

#[test]
fn a_fifth_of_the_packets_lost_for_8_s() {
    world(|| {
        check(Case {
            act: |pair, _| pair.lab().fault(Fault::Loss { percent: 20 }),
            during: Serves::Same,
            hold_ms: 8_000,
            undo: heal,
            after: Some(Serves::Same),
            silence_ms_max: NO_GAP_MS,
            ..Case::default()
        })
    });
}
