//! Other people's hands on the host: packet filter flushed, interface down, addresses removed.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use staffetta_lab::{Node, Pair, PairOptions};
use staffetta_tests::{Case, Serves, check, world};

const VIP: &str = "10.77.0.50/24";

fn ip(pair: &Pair, node: Node, command: &str) -> Result<()> {
    pair.lab().node(node).space().ip(command)
}

fn nft(pair: &Pair, node: Node, args: &[&str]) -> Result<String> {
    pair.lab().node(node).space().output("nft", args)
}

/// Debian's stock configuration begins with this, and its unit's stop runs it.
fn flush(pair: &Pair, node: Node) -> Result<()> {
    nft(pair, node, &["flush", "ruleset"]).map(drop)
}

fn gate_is_back(pair: &Pair, node: Node) -> Result<()> {
    const BACK_MS_MAX: u64 = 2_000;
    let end = Instant::now() + Duration::from_millis(BACK_MS_MAX);
    while Instant::now() < end {
        if !nft(pair, node, &["list", "tables"])?.trim().is_empty()
            && pair.status(node)?.gate.class == "nftables"
        {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("the gate's tables are not back within {BACK_MS_MAX} ms of a flush")
}

#[test]
fn ruleset_flushed() {
    world(|| {
        check(Case {
            act: flush,
            during: Serves::Same,
            look: gate_is_back,
            after: Some(Serves::Same),
            silence_ms_max: 250,
            ..Case::default()
        })
    });
}

#[test]
fn ruleset_flushed_then_frozen() {
    world(|| {
        check(Case {
            act: |pair, node| {
                flush(pair, node)?;
                gate_is_back(pair, node)?;
                pair.lab().node(node).freeze();
                Ok(())
            },
            hold_ms: 3_000,
            undo: |pair, node| {
                pair.lab().node(node).thaw();
                Ok(())
            },
            silence_ms_max: 4_000,
            ..Case::default()
        })
    });
}

#[test]
fn interface_down_and_up() {
    world(|| {
        check(Case {
            act: |pair, node| ip(pair, node, "link set eth0 down"),
            hold_ms: 3_000,
            undo: |pair, node| ip(pair, node, "link set eth0 up"),
            ..Case::default()
        })
    });
}

#[test]
fn address_removed_by_hand() {
    world(|| {
        check(Case {
            act: |pair, node| ip(pair, node, &format!("addr del {VIP} dev eth0")),
            during: Serves::Same,
            look: |pair, node| {
                ensure!(pair.status(node)?.holds_all(), "the status does not show the repair");
                Ok(())
            },
            after: Some(Serves::Same),
            ..Case::default()
        })
    });
}

/// With `promote_secondaries=0` the interface's own address takes the service address with it.
#[test]
fn own_address_removed() {
    world(|| {
        check(Case {
            options: PairOptions { heartbeat_link: true, ..PairOptions::default() },
            act: |pair, node| ip(pair, node, &format!("addr del {}/24 dev eth0", node.ip())),
            during: Serves::Any,
            hold_ms: 2_000,
            undo: |pair, node| ip(pair, node, &format!("addr add {}/24 brd + dev eth0", node.ip())),
            after: Some(Serves::Any),
            ..Case::default()
        })
    });
}
