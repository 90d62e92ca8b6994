//! A whole node frozen at one moment, as a virtual machine whose processors are taken away: nothing
//! of it notices before it goes on, and its kernel goes on answering for it unless the gate closes.

use anyhow::Result;
use staffetta_lab::{Node, Pair, freezer_missing};
use staffetta_tests::{ArbiterDeeds, Case, NO_GAP_MS, Serves, check_each, world};

fn thaw(pair: &Pair, node: Node) -> Result<()> {
    pair.lab().node(node).thaw();
    Ok(())
}

/// Promised: the gate closes without the frozen daemon, the standby takes over, and the thawed node
/// gives up its role (or, under an arbiter, its claim to confirm anything) before it does anything
/// else.
fn primary_frozen(arbiter: Option<ArbiterDeeds>) -> Case {
    Case {
        arbiter,
        act: |pair, node| pair.lab().node(node).freeze_whole(),
        hold_ms: 3_000,
        undo: thaw,
        ..Case::default()
    }
}

/// Promised: the primary goes on without a gap; the thawed standby, whose promise ran out while it
/// was frozen, does not take that for a silent peer.
fn standby_frozen(arbiter: Option<ArbiterDeeds>) -> Case {
    Case {
        arbiter,
        act: |pair, node| pair.lab().node(node.peer()).freeze_whole(),
        during: Serves::Same,
        hold_ms: 3_000,
        undo: |pair, node| thaw(pair, node.peer()),
        after: Some(Serves::Same),
        silence_ms_max: NO_GAP_MS,
        ..Case::default()
    }
}

/// Promised: nobody answers while both are frozen, never two when both go on, and one of them
/// serves again by itself.
fn both_frozen(arbiter: Option<ArbiterDeeds>) -> Case {
    Case {
        arbiter,
        act: |pair, node| {
            pair.lab().node(node).freeze_whole()?;
            pair.lab().node(node.peer()).freeze_whole()
        },
        during: Serves::Nobody,
        hold_ms: 2_000,
        undo: |pair, node| thaw(pair, node).and_then(|()| thaw(pair, node.peer())),
        after: Some(Serves::Any),
        ..Case::default()
    }
}

fn play(arbiter: Option<ArbiterDeeds>) -> Result<()> {
    if let Some(why) = freezer_missing() {
        println!("SKIPPED: {why}");
        return Ok(());
    }
    check_each(&[
        ("primary frozen for 3 s", primary_frozen(arbiter)),
        ("standby frozen for 3 s", standby_frozen(arbiter)),
        ("both frozen for 2 s", both_frozen(arbiter)),
    ])
}

#[test]
fn nodes_frozen_whole() {
    world(|| play(None));
}

#[test]
fn nodes_frozen_whole_under_an_arbiter() {
    world(|| play(Some(ArbiterDeeds::default())));
}
