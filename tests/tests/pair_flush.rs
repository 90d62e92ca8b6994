//! The packet filter flushed, and the daemon frozen before or after it could put its rules back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use staffetta_lab::{Fault, Node, Pair, PairOptions, Profile, realtime_allowed};
use staffetta_tests::{Case, Scene, Serves, single, world};

/// Seconds that the address may outlive its last renewal: the lease and three seconds, rounded up
/// (the backup lifetime), and the kernel's own lateness (measured up to 0.4 s).
fn backup_ms_max() -> u64 {
    let profile = if realtime_allowed() { Profile::Fast } else { Profile::Default };
    (profile.lease_ms() + 3_000).div_ceil(1_000) * 1_000 + 400
}

/// Debian's stock configuration begins with this, and its unit's stop runs it.
fn flush(pair: &Pair, node: Node) -> Result<()> {
    pair.lab().node(node).space().nft("flush ruleset")
}

fn gate_class(pair: &Pair, node: Node) -> Result<String> {
    Ok(pair.status(node)?.gate.class)
}

/// Flushes faster than the rules are put back (ten times a second): the lifetime is the gate then.
fn flush_without_rest(pair: &Pair, node: Node) -> Result<()> {
    let began = Instant::now();
    for _ in 0..40 {
        flush(pair, node)?;
        if gate_class(pair, node)? == "lifetime" {
            let slack = pair.status(node)?.gate.slack_ms;
            println!("gate: lifetime after {} ms, G {slack} ms", began.elapsed().as_millis());
            ensure!(slack >= 1_000, "G is {slack} ms under the lifetime gate");
            return Ok(());
        }
    }
    Err(anyhow::anyhow!("the gate still says nftables after 40 flushes in a row"))
}

/// The nodes no longer see each other, so that the VIP probe cannot help.
fn freeze_and_split(pair: &Pair, node: Node, after_ms: u64) -> Result<()> {
    std::thread::sleep(Duration::from_millis(after_ms));
    pair.lab().node(node).freeze();
    pair.lab().fault(Fault::Split)
}

fn frozen() -> Case {
    Case {
        hold_ms: 2_500,
        undo: |pair, node| {
            pair.lab().heal()?;
            pair.lab().node(node).thaw();
            Ok(())
        },
        silence_ms_max: 4_000,
        ..Case::default()
    }
}

/// Promised: half a second after a flush the rules are back or the larger G is agreed upon: a
/// primary that freezes then is silent before the other one answers.
fn flushed_and_frozen_half_a_second_later() -> Case {
    Case {
        act: |pair, node| {
            flush(pair, node)?;
            freeze_and_split(pair, node, 500)
        },
        ..frozen()
    }
}

/// Promised: where rules cannot be kept the gate falls back to the lifetime and G grows; once a
/// beat has told the standby, it waits for the address of a primary that freezes to be gone.
fn flushed_without_rest_and_frozen() -> Case {
    Case {
        act: |pair, node| {
            flush_without_rest(pair, node)?;
            freeze_and_split(pair, node, 2 * pair.options().profile.beat_ms())
        },
        ..frozen()
    }
}

/// Promised: when the flushes end the rules come back by themselves, and nobody noticed.
fn flushed_without_rest_and_left_alone() -> Case {
    Case {
        act: flush_without_rest,
        during: Serves::Same,
        look: |pair, _| {
            let began = Instant::now();
            pair.wait("the rules are back", Duration::from_secs(10), |statuses| {
                let back = |node| Some(statuses.of(node)?.gate.class == "nftables");
                Node::BOTH.into_iter().all(|node| back(node) == Some(true)).then_some(())
            })?;
            println!("gate: nftables again after {} ms more", began.elapsed().as_millis());
            Ok(())
        },
        after: Some(Serves::Same),
        silence_ms_max: 250,
        ..Case::default()
    }
}

/// Named residue: frozen before the rules are back, with the small G agreed upon, the primary goes
/// on answering until its address is gone.
///
/// Promised: a standby that sees it answer waits for that, so that there are never two; and where
/// it cannot see it, the second answer ends with the address: the lifetime, whatever happens.
fn at_once(scene: &Scene, split: bool) -> Result<()> {
    let (pair, node) = (scene.pair(), scene.primary());
    let bound = backup_ms_max();
    let frozen = Instant::now();
    pair.lab().node(node).freeze();
    flush(pair, node)?;
    if split {
        pair.lab().fault(Fault::Split)?;
    }
    let answers = pair.probe().answers();
    let other = |answer: &staffetta_lab::Answer| answer.node != node;
    while !answers.last().as_ref().is_some_and(other) {
        ensure!(frozen.elapsed() < Duration::from_secs(8), "{} does not serve", node.peer().name());
        std::thread::sleep(Duration::from_millis(5));
    }
    let taken = frozen.elapsed();
    std::thread::sleep(Duration::from_millis(bound).saturating_sub(taken));
    std::thread::sleep(Duration::from_millis(500));
    let now = Instant::now();
    let at = pair.wire().dual_at_ms(frozen, now);
    let dual = pair.wire().tally(frozen, now).dual_ms();
    let (first, last) = (at.first().unwrap_or(&0), at.last().unwrap_or(&0));
    println!(
        "frozen at once, {}: taken over after {} ms; both answered for {dual} ms, from {first} to \
         {last} ms",
        if split { "nodes apart" } else { "probe sees it" },
        taken.as_millis(),
    );
    ensure!(split || dual == 0, "both answered though the probe could see it");
    ensure!(*last <= u128::from(bound), "both answered until {last} ms, the lifetime is {bound}");
    pair.lab().heal()?;
    pair.lab().node(node).thaw();
    pair.settle(Duration::from_secs(20))?;
    single(pair, frozen + Duration::from_millis(bound))
}

#[test]
fn flushed_and_frozen() {
    world(|| {
        let scene = Scene::open(&PairOptions::default(), false, |_| Ok(()))?;
        let mut scene = scene.context("a pair without an arbiter is never skipped")?;
        scene.play_each(&[
            ("frozen 0.5 s after a flush", flushed_and_frozen_half_a_second_later()),
            ("flushed without rest", flushed_without_rest_and_left_alone()),
            ("flushed without rest, then frozen", flushed_without_rest_and_frozen()),
        ])?;
        for split in [false, true] {
            scene.ready()?;
            at_once(&scene, split).map_err(|error| scene.told(error))?;
        }
        Ok(())
    });
}
