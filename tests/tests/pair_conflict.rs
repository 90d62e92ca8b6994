//! A third machine on the service network that answers for the service address.

use anyhow::{Result, ensure};
use staffetta_lab::{Node, Pair, Strange};
use staffetta_tests::{Case, Serves, check, check_each, heal, kill, world};

/// A word about it in the log of the node.
fn logged(pair: &Pair, node: Node, event: &str) -> Result<()> {
    let log = pair.log(node);
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(event)).collect();
    println!("{}: {} lines with {event}", node.name(), lines.len());
    ensure!(!lines.is_empty(), "the log of {} has no {event}", node.name());
    Ok(())
}

fn claimed() -> Case {
    Case {
        act: |pair, _| pair.lab().stranger(Strange::Claims),
        during: Serves::Same,
        hold_ms: 4_000,
        look: |pair, node| logged(pair, node, "vip-conflict"),
        undo: heal,
        after: Some(Serves::Same),
        silence_ms_max: 1_500,
        ..Case::default()
    }
}

/// Promised: a holder whose address is claimed by a stranger says so and announces again at once,
/// so that the service goes on; the pair does not move for it.
///
/// Promised: behind a router that answers every question about addresses with its own link-layer
/// address the service goes on, and a takeover is made as always: a stranger's answer is a reason
/// to warn, not to hold.
#[test]
fn strangers_answer_on_the_service_address() {
    world(|| {
        check_each(&[
            (
                "a router answers for everything, primary killed",
                Case {
                    act: |pair, node| {
                        pair.lab().stranger(Strange::AnswersAll)?;
                        std::thread::sleep(std::time::Duration::from_millis(1_000));
                        kill(pair, node)
                    },
                    hold_ms: 2_000,
                    look: |pair, node| logged(pair, node.peer(), "vip-stranger"),
                    undo: |pair, node| pair.lab().heal().and_then(|()| pair.start(node).map(drop)),
                    ..Case::default()
                },
            ),
            ("a stranger claims the address", claimed()),
            (
                "a router answers for everything",
                Case {
                    act: |pair, _| pair.lab().stranger(Strange::AnswersAll),
                    during: Serves::Same,
                    hold_ms: 3_000,
                    undo: heal,
                    after: Some(Serves::Same),
                    silence_ms_max: 1_000,
                    ..Case::default()
                },
            ),
        ])
    });
}

/// Promised: a machine of the pair is never called a stranger.
#[test]
fn the_peer_is_no_stranger() {
    world(|| {
        check(Case {
            look: |pair, _| {
                for node in Node::BOTH {
                    let log = pair.log(node);
                    let named = log.lines().find(|line| line.contains("vip-stranger"));
                    ensure!(named.is_none(), "{} is wrong: {named:?}", node.name());
                }
                Ok(())
            },
            during: Serves::Same,
            after: Some(Serves::Same),
            ..Case::default()
        })
    });
}

/// Promised: while a stranger claims the address, the status of the holder has an alarm.
#[test]
fn a_stranger_is_an_alarm_in_the_status() {
    world(|| {
        check(Case {
            look: |pair, node| {
                let alarms = pair.status(node)?.alarms;
                let raised = alarms.iter().any(|alarm| alarm.name == "vip-conflict");
                ensure!(raised, "no alarm vip-conflict: {alarms:?}");
                Ok(())
            },
            hold_ms: 1_000,
            ..claimed()
        })
    });
}
