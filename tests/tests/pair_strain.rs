//! Machines that have no room on the disk, or no processor to spare.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use staffetta_lab::{Node, Pair};
use staffetta_tests::{Case, NO_GAP_MS, Serves, check_each, kill, world};

/// Size of a full disk: room for compiled policies, journal and epochs.
const DISK_KIB: u64 = 16 * 1024;
const HOGS: usize = 4;
fn fill(pair: &Pair) -> Result<()> {
    for node in Node::BOTH {
        let free = pair.fill_disk(node)?;
        println!("{}: the last {free} bytes of the disk are taken", node.name());
    }
    Ok(())
}

/// Whether the journal's trouble is an alarm of the node.
fn journal_alarm(pair: &Pair, node: Node) -> Result<()> {
    let end = Instant::now() + Duration::from_millis(3_000);
    loop {
        let alarms = pair.status(node)?.alarms;
        if alarms.iter().any(|alarm| alarm.name.starts_with("journal-")) {
            println!("{}: alarms {alarms:?}", node.name());
            return Ok(());
        }
        ensure!(Instant::now() < end, "no alarm of the journal on {}: {alarms:?}", node.name());
    }
}

/// Promised: epochs have their room since the first start: takeovers go on working on a full disk,
/// back and forth, and a daemon starts on it. What cannot be written is an alarm.
#[test]
fn disks_full() {
    world(|| {
        let start = |pair: &Pair, node: Node| pair.start(node).map(drop);
        check_each(&[
            (
                "primary killed, disks full",
                Case {
                    prepare: |pair| pair.small_disks(DISK_KIB),
                    act: |pair, node| fill(pair).and_then(|()| kill(pair, node)),
                    look: |pair, node| journal_alarm(pair, node.peer()),
                    undo: start,
                    ..Case::default()
                },
            ),
            ("the other primary killed", Case { act: kill, undo: start, ..Case::default() }),
            (
                "room again",
                Case {
                    act: |pair, _| Node::BOTH.into_iter().try_for_each(|node| pair.free_disk(node)),
                    during: Serves::Same,
                    look: |pair, _| {
                        pair.wait("no alarm", Duration::from_secs(10), |statuses| {
                            let calm = |node| {
                                let alarms = &statuses.of(node)?.alarms;
                                let full = |name: &str| name == "journal-disk-full";
                                Some(!alarms.iter().any(|alarm| full(&alarm.name)))
                            };
                            Node::BOTH.into_iter().all(|n| calm(n) == Some(true)).then_some(())
                        })
                    },
                    after: Some(Serves::Same),
                    silence_ms_max: NO_GAP_MS,
                    ..Case::default()
                },
            ),
        ])
    });
}

/// Promised: while other processes want all processors nothing moves, and a primary that dies then
/// is replaced as fast as always.
#[test]
fn processors_taken() {
    world(|| {
        check_each(&[
            (
                "4 busy processes, nothing killed for 10 s",
                Case {
                    act: |pair, _| pair.lab().hog(HOGS),
                    during: Serves::Same,
                    hold_ms: 10_000,
                    after: Some(Serves::Same),
                    silence_ms_max: NO_GAP_MS,
                    ..Case::default()
                },
            ),
            (
                "4 busy processes, primary killed",
                Case {
                    act: kill,
                    hold_ms: 2_000,
                    undo: |pair, node| pair.lab().heal().and_then(|()| pair.start(node).map(drop)),
                    ..Case::default()
                },
            ),
        ])
    });
}
