//! The policy really decides: a site's component keeps a standby from a takeover that the built-in
//! one would make, and one that traps leaves the word to the built-in one.

use anyhow::{Result, ensure};
use staffetta_bundle::fixtures::HOSTILE;
use staffetta_lab::{Node, Pair, PairOptions, SitePolicy};
use staffetta_tests::{Case, Serves, check, kill, start, world};

/// Loads the component, whose default settings say "hold", into both running daemons.
fn load_and_kill(pair: &Pair, node: Node) -> Result<()> {
    let file = tempfile::Builder::new().suffix(".wasm").tempfile()?;
    std::fs::write(file.path(), HOSTILE)?;
    let path = file.path().to_string_lossy();
    for node in Node::BOTH {
        let output = pair.command(node, &["policy", "load", "failover", path.as_ref()])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "policy load on {}: {said}", node.name());
    }
    ensure!(pair.statuses().settled() == Some(node), "the load moved the service");
    kill(pair, node)
}

/// Whose word the newest decision about the silent peer was, and what it was.
fn last_word(pair: &Pair, node: Node) -> Result<(String, String)> {
    let status = pair.status(node)?;
    let asked = status.decisions.iter().filter(|decision| decision.question == "peer-silent");
    let newest = asked.max_by_key(|decision| decision.id);
    newest
        .map(|decision| (decision.spoke.clone(), decision.intent.clone()))
        .ok_or_else(|| anyhow::anyhow!("nobody was asked: {:?}", status.decisions))
}

#[test]
fn a_policy_loaded_at_run_time_that_holds_keeps_the_standby_from_a_takeover() {
    world(|| {
        check(Case {
            act: load_and_kill,
            during: Serves::Nobody,
            hold_ms: 4_000,
            look: |pair, node| {
                let word = last_word(pair, node.peer())?;
                ensure!(word == ("site".to_owned(), "hold".to_owned()), "{word:?}");
                Ok(())
            },
            after: None,
            ..Case::default()
        })
    });
}

#[test]
fn a_policy_that_traps_leaves_the_takeover_to_the_built_in_one() {
    world(|| {
        let settings = "behave = \"trap\"\non = \"peer-silent\"".to_owned();
        check(Case {
            options: PairOptions {
                policy: Some(SitePolicy { component: HOSTILE.to_vec(), settings }),
                ..PairOptions::default()
            },
            act: kill,
            look: |pair, node| {
                let word = last_word(pair, node.peer())?;
                ensure!(word == ("built-in".to_owned(), "take-over".to_owned()), "{word:?}");
                Ok(())
            },
            undo: start,
            ..Case::default()
        })
    });
}
