//! A pair with an arbiter: under any partition at most one node answers, and whoever reaches the
//! arbiter serves.

use std::time::Duration;

use anyhow::{Result, ensure};
use staffetta_lab::{Fault, Node, Pair};
use staffetta_tests::{
    ArbiterDeeds, ArbiterSeat, Behaviour, Case, NO_GAP_MS, Serves, check, heal, kill, start, world,
};

/// A pair with an arbiter to which nothing happens by itself.
fn arbitrated() -> Case {
    Case { arbiter: Some(ArbiterDeeds::default()), undo: heal, ..Case::default() }
}

fn pass(seat: &ArbiterSeat, _pair: &Pair) -> Result<()> {
    seat.set(Behaviour::Pass);
    Ok(())
}

fn delay(ms: u64) -> Behaviour {
    let half = Duration::from_millis(ms / 2);
    Behaviour::Delay { to_server: half, to_client: half }
}

#[test]
fn primary_killed() {
    world(|| check(Case { act: kill, undo: start, ..arbitrated() }));
}

#[test]
fn standby_killed_while_the_arbiter_is_slow() {
    world(|| {
        check(Case {
            arbiter: Some(ArbiterDeeds {
                act: |seat, _| {
                    seat.set(delay(50));
                    // The nodes must have felt it.
                    std::thread::sleep(Duration::from_millis(2_500));
                    Ok(())
                },
                undo: pass,
            }),
            act: |pair, node| kill(pair, node.peer()),
            during: Serves::Same,
            hold_ms: 6_000,
            undo: |pair, node| start(pair, node.peer()),
            after: Some(Serves::Same),
            silence_ms_max: NO_GAP_MS,
            ..arbitrated()
        })
    });
}

#[test]
fn split() {
    world(|| {
        check(Case {
            act: |pair, _| pair.lab().fault(Fault::Split),
            during: Serves::Same,
            hold_ms: 4_000,
            after: Some(Serves::Same),
            silence_ms_max: NO_GAP_MS,
            ..arbitrated()
        })
    });
}

#[test]
fn split_and_only_the_standby_reaches_the_arbiter() {
    world(|| {
        check(Case {
            act: |pair, node| {
                pair.lab().fault(Fault::NoArbiter(node))?;
                pair.lab().fault(Fault::Split)
            },
            hold_ms: 4_000,
            ..arbitrated()
        })
    });
}

#[test]
fn split_and_only_the_primary_reaches_the_arbiter() {
    world(|| {
        check(Case {
            act: |pair, node| {
                pair.lab().fault(Fault::NoArbiter(node.peer()))?;
                pair.lab().fault(Fault::Split)
            },
            during: Serves::Same,
            hold_ms: 4_000,
            after: Some(Serves::Same),
            silence_ms_max: NO_GAP_MS,
            ..arbitrated()
        })
    });
}

#[test]
fn split_and_nobody_reaches_the_arbiter() {
    world(|| {
        check(Case {
            act: |pair, node| {
                pair.lab().fault(Fault::NoArbiter(node))?;
                pair.lab().fault(Fault::NoArbiter(node.peer()))?;
                pair.lab().fault(Fault::Split)
            },
            during: Serves::Nobody,
            hold_ms: 3_000,
            after: Some(Serves::Any),
            ..arbitrated()
        })
    });
}

#[test]
fn primary_cut_off() {
    world(|| {
        check(Case {
            act: |pair, node| pair.lab().fault(Fault::Cut(node)),
            hold_ms: 3_000,
            ..arbitrated()
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
            after: Some(Serves::Any),
            ..arbitrated()
        })
    });
}

#[test]
fn one_way_standby_to_primary_that_does_not_reach_the_arbiter() {
    world(|| {
        check(Case {
            act: |pair, node| {
                pair.lab().fault(Fault::NoArbiter(node))?;
                pair.lab().fault(Fault::OneWay { from: node.peer() })
            },
            hold_ms: 4_000,
            ..arbitrated()
        })
    });
}

#[test]
fn arbiter_lost() {
    world(|| {
        check(Case {
            arbiter: Some(ArbiterDeeds {
                act: |seat, _| {
                    seat.set(Behaviour::BlackHole);
                    Ok(())
                },
                undo: pass,
            }),
            during: Serves::Same,
            hold_ms: 6_000,
            look: |pair, _| {
                let statuses = pair.statuses();
                for node in Node::BOTH {
                    let status = statuses.of(node);
                    let level = status.map(|status| status.level.name.as_str());
                    ensure!(level == Some("takeover disarmed"), "{}: {level:?}", node.name());
                    let alarm = status.is_some_and(|status| status.has_alarm("arbiter-away"));
                    ensure!(alarm, "{} raises no alarm", node.name());
                }
                Ok(())
            },
            after: Some(Serves::Same),
            silence_ms_max: NO_GAP_MS,
            ..arbitrated()
        })
    });
}

#[test]
fn arbiter_refuses_and_the_primary_dies() {
    world(|| {
        check(Case {
            arbiter: Some(ArbiterDeeds {
                act: |seat, _| {
                    seat.set(Behaviour::Refuse);
                    Ok(())
                },
                undo: pass,
            }),
            act: kill,
            during: Serves::Nobody,
            hold_ms: 3_000,
            undo: |pair, node| {
                // Takeover comes back with the arbiter, not with the peer.
                let other = node.peer();
                pair.wait("the standby takes over", Duration::from_secs(8), |statuses| {
                    statuses.of(other)?.holds_all().then_some(())
                })?;
                start(pair, node)
            },
            ..arbitrated()
        })
    });
}

/// Writes are made and their answers lost, now and then, while the primary serves alone: it looks
/// what became of them in time.
#[test]
fn replies_lost_after_the_write() {
    world(|| {
        check(Case {
            arbiter: Some(ArbiterDeeds {
                act: |_, pair| pair.lab().fault(Fault::Split),
                undo: |seat, _| {
                    for _ in 0..12 {
                        seat.set(Behaviour::DropWriteReplies);
                        std::thread::sleep(Duration::from_millis(110));
                        seat.set(Behaviour::Pass);
                        std::thread::sleep(Duration::from_millis(300));
                    }
                    ensure!(seat.dropped() > 3, "only {} replies were lost", seat.dropped());
                    Ok(())
                },
            }),
            during: Serves::Same,
            hold_ms: 1_000,
            after: Some(Serves::Same),
            silence_ms_max: NO_GAP_MS,
            ..arbitrated()
        })
    });
}

/// etcd takes longer to come back than a lease lasts: the primary alone lets go, nobody creates the
/// register behind the split, and the two make one primary again when they meet.
#[test]
fn register_wiped_behind_a_split() {
    world(|| {
        check(Case {
            silence_ms_max: 6_000,
            arbiter: Some(ArbiterDeeds {
                act: |_, pair| pair.lab().fault(Fault::Split),
                undo: |seat, pair| {
                    seat.wipe(pair.lab())?;
                    std::thread::sleep(Duration::from_millis(1_500));
                    Ok(())
                },
            }),
            during: Serves::Same,
            hold_ms: 1_000,
            after: Some(Serves::Any),
            ..arbitrated()
        })
    });
}
