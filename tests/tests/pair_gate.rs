//! The negative control of the gate: without its rules and lifetime a frozen primary goes on
//! answering, so it is the gate that keeps it silent in all the other tests.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use staffetta_lab::{Fault, Node, Pair, PairOptions, Profile, realtime_allowed};
use staffetta_tests::{binary, world};

/// Removes what the kernel enforces, while the daemon that would repair it is frozen.
fn disarm(pair: &Pair, node: Node) -> Result<()> {
    let space = pair.lab().node(node).space();
    for table in space.output("nft", &["list", "tables"])?.lines() {
        let name = table.strip_prefix("table ").unwrap_or(table);
        space.nft(&format!("delete table {name}"))?;
    }
    space.ip("addr change 10.77.0.50/24 dev eth0 valid_lft forever preferred_lft forever")
}

/// Freezes the primary behind a split for three seconds; the time in which both answered.
fn dual_ms(disarmed: bool) -> Result<u64> {
    let profile = if realtime_allowed() { Profile::Fast } else { Profile::Default };
    let pair = Pair::new(&binary(), PairOptions { profile, ..PairOptions::default() })?;
    for node in Node::BOTH {
        pair.start(node)?;
    }
    let node = pair.settle(Duration::from_secs(20))?;
    std::thread::sleep(Duration::from_millis(500));
    let begin = Instant::now();
    pair.lab().node(node).freeze();
    if disarmed {
        disarm(&pair, node)?;
    }
    pair.lab().fault(Fault::Split)?;
    std::thread::sleep(Duration::from_secs(4));
    let tally = pair.wire().tally(begin, Instant::now());
    let other = node.peer();
    ensure!(
        tally.answered_arp_ms[other.index()] > 1_000,
        "{} never answered: {tally:?}{}",
        other.name(),
        pair.tails()
    );
    Ok(tally.dual_ms())
}

#[test]
fn the_gate_gates() {
    world(|| {
        let armed = dual_ms(false)?;
        ensure!(armed == 0, "both answered for {armed} ms behind a closed gate");
        let disarmed = dual_ms(true)?;
        ensure!(disarmed > 1_000, "without the gate both answered for {disarmed} ms only");
        Ok(())
    });
}
