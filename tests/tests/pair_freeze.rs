//! A whole node frozen at one moment, as a virtual machine whose processors are taken away: nothing
//! of it notices before it goes on, and its kernel goes on answering for it unless the gate closes.

use anyhow::Result;
use staffetta_lab::{Node, Pair, freezer_missing};
use staffetta_tests::{ArbiterDeeds, Case, Serves, check, world};

/// Short enough for "no gap": less than the lease, more than the noise of a busy machine.
const NO_GAP_MS: u64 = 250;

fn thaw(pair: &Pair, node: Node) -> Result<()> {
    pair.lab().node(node).thaw();
    Ok(())
}

fn frozen(case: Case) -> Result<()> {
    match freezer_missing() {
        None => check(case),
        Some(why) => {
            println!("SKIPPED: {why}");
            Ok(())
        }
    }
}

fn primary_frozen() -> Case {
    Case {
        act: |pair, node| pair.lab().node(node).freeze_whole(),
        hold_ms: 3_000,
        undo: thaw,
        ..Case::default()
    }
}

fn standby_frozen() -> Case {
    Case {
        act: |pair, node| pair.lab().node(node.peer()).freeze_whole(),
        during: Serves::Same,
        hold_ms: 3_000,
        undo: |pair, node| thaw(pair, node.peer()),
        after: Some(Serves::Same),
        silence_ms_max: NO_GAP_MS,
        ..Case::default()
    }
}

/// Promised: the gate closes without the frozen daemon, the standby takes over, and the thawed node
/// gives up its role before it does anything else.
#[test]
fn primary_frozen_whole_for_3_s() {
    world(|| frozen(primary_frozen()));
}

/// Promised: the same, and the thawed node does not confirm anything to the arbiter either.
#[test]
fn primary_frozen_whole_for_3_s_under_an_arbiter() {
    world(|| frozen(Case { arbiter: Some(ArbiterDeeds::default()), ..primary_frozen() }));
}

/// Promised: the primary goes on without a gap; the thawed standby, whose promise ran out while it
/// was frozen, does not take that for a silent peer.
#[test]
fn standby_frozen_whole_for_3_s() {
    world(|| frozen(standby_frozen()));
}

/// Promised: the same, by the arbiter's word.
#[test]
fn standby_frozen_whole_for_3_s_under_an_arbiter() {
    world(|| frozen(Case { arbiter: Some(ArbiterDeeds::default()), ..standby_frozen() }));
}

/// Promised: nobody answers while both are frozen, never two when both go on, and one of them
/// serves again by itself.
#[test]
fn both_frozen_whole_for_2_s() {
    world(|| {
        frozen(Case {
            act: |pair, node| {
                pair.lab().node(node).freeze_whole()?;
                pair.lab().node(node.peer()).freeze_whole()
            },
            during: Serves::Nobody,
            hold_ms: 2_000,
            undo: |pair, node| thaw(pair, node).and_then(|()| thaw(pair, node.peer())),
            after: Some(Serves::Any),
            ..Case::default()
        })
    });
}
