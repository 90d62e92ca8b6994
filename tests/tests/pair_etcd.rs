//! The arbiter's process killed, frozen, and started again without its data.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use staffetta_lab::{Node, Pair, PairOptions};
use staffetta_tests::{ArbiterDeeds, Case, NO_GAP_MS, Scene, Serves, arbitrated, single, world};

/// How long a node may take to notice that the arbiter is away, or back.
const NOTICE_MS_MAX: u64 = 8_000;

fn notice() -> Duration {
    Duration::from_millis(NOTICE_MS_MAX)
}

/// What is promised of the level: both say beforehand that nobody would take over.
fn disarmed(pair: &Pair) -> Result<()> {
    let began = Instant::now();
    pair.wait("both say that takeover is disarmed", notice(), |statuses| {
        let level = |node: Node| Some(statuses.of(node)?.level.name == "takeover disarmed");
        Node::BOTH.into_iter().all(|node| level(node) == Some(true)).then_some(())
    })?;
    println!("said to be disarmed after {} ms", began.elapsed().as_millis());
    Ok(())
}

/// The other node serves while `node` is away; says how long that took.
fn taken_over(pair: &Pair, node: Node) -> Result<()> {
    let began = Instant::now();
    pair.wait("the standby takes over", notice(), |statuses| {
        statuses.of(node.peer())?.holds_all().then_some(())
    })?;
    println!("taken over {} ms after the arbiter was back", began.elapsed().as_millis());
    Ok(())
}

/// Promised: with the arbiter gone the level says that nobody takes over, and nobody does when the
/// primary dies; the standby takes over as soon as the arbiter is back, without the peer.
fn arbiter_killed_then_the_primary() -> Case {
    Case {
        arbiter: Some(ArbiterDeeds {
            act: |seat, pair| {
                seat.kill();
                disarmed(pair)
            },
            undo: |seat, pair| seat.restart(pair.lab()),
        }),
        act: |pair, node| {
            pair.lab().node(node).kill9();
            // Its kernel answers until the lease ends.
            std::thread::sleep(Duration::from_millis(pair.options().profile.lease_ms() + 50));
            Ok(())
        },
        during: Serves::Nobody,
        undo: |pair, node| {
            taken_over(pair, node)?;
            pair.start(node).map(drop)
        },
        ..Case::default()
    }
}

/// Promised: the register is written again by the primary, who has the lease of its peer; the level
/// is `arbitrated` again on both, nothing moves and nobody notices.
fn etcd_loses_its_data_while_paired() -> Case {
    Case {
        arbiter: Some(ArbiterDeeds {
            act: |seat, pair| {
                ensure!(seat.holds_register(pair.lab())?, "there was no register");
                seat.wipe(pair.lab())?;
                let began = Instant::now();
                while !seat.holds_register(pair.lab())? {
                    ensure!(began.elapsed() < notice(), "nobody wrote the register again");
                    std::thread::sleep(Duration::from_millis(5));
                }
                let written = began.elapsed().as_millis();
                arbitrated(pair)?;
                let again = began.elapsed().as_millis();
                println!("register written again after {written} ms, arbitrated after {again} ms");
                Ok(())
            },
            undo: |_, _| Ok(()),
        }),
        during: Serves::Same,
        // What was written again is good for a takeover.
        look: |pair, node| {
            let status = pair.status(node)?;
            ensure!(status.alarms.is_empty(), "alarms: {:?}", status.alarms);
            Ok(())
        },
        after: Some(Serves::Same),
        silence_ms_max: NO_GAP_MS,
        ..Case::default()
    }
}

/// Promised: the register that the primary wrote again carries a takeover.
fn primary_killed() -> Case {
    Case {
        arbiter: Some(ArbiterDeeds::default()),
        act: |pair, node| {
            pair.lab().node(node).kill9();
            Ok(())
        },
        undo: |pair, node| pair.start(node).map(drop),
        ..Case::default()
    }
}

#[test]
fn etcd_dies_loses_its_data_and_freezes() {
    world(|| {
        let Some(mut scene) = Scene::open(&PairOptions::default(), true, |_| Ok(()))? else {
            return Ok(());
        };
        scene.play_each(&[
            ("arbiter killed, then the primary", arbiter_killed_then_the_primary()),
            ("etcd loses its data", etcd_loses_its_data_while_paired()),
            ("primary killed after that", primary_killed()),
        ])?;
        scene.ready()?;
        frozen_then_killed(&scene).map_err(|error| scene.told(error))
    });
}

/// Promised: with the arbiter frozen the level says beforehand that nobody takes over. Then the
/// standby dies, nobody can confirm the primary, its lease ends, and the service stops: the price
/// of "at most one". When the arbiter goes on, a node serves again without the peer.
fn frozen_then_killed(scene: &Scene) -> Result<()> {
    const SILENT_MS: u64 = 1_000;
    let (pair, node) = (scene.pair(), scene.primary());
    let Some(arbiter) = scene.arbiter() else { return Ok(()) };
    let lease = Duration::from_millis(pair.options().profile.lease_ms());
    let frozen = Instant::now();
    print!("arbiter frozen: ");
    arbiter.freeze(true)?;
    disarmed(pair)?;
    let killed = Instant::now();
    pair.lab().node(node.peer()).kill9();
    std::thread::sleep(lease + Duration::from_millis(SILENT_MS));
    let answers = pair.probe().answers();
    let last = answers.last().map(|answer| answer.at.saturating_duration_since(killed));
    println!("the last answer came {} ms after the kill", last.unwrap_or_default().as_millis());
    // Counted from the last grant, and the gate's slack besides.
    ensure!(last < Some(lease + Duration::from_millis(50)), "answers after the lease: {last:?}");
    let gap = answers.longest_silence(frozen, killed);
    ensure!(gap < Duration::from_millis(NO_GAP_MS), "a gap of {gap:?} while both were there");

    let thawed = Instant::now();
    arbiter.freeze(false)?;
    let wait = pair.wait("it serves again, alone", notice(), |statuses| {
        statuses.of(node)?.holds_all().then_some(())
    });
    println!("served again {} ms after the arbiter went on", thawed.elapsed().as_millis());
    wait?;
    pair.start(node.peer())?;
    pair.settle(Duration::from_secs(20))?;
    arbitrated(pair)?;
    single(pair, frozen)
}
