//! The policy really decides: a site's component keeps a standby from a takeover that the built-in
//! one would make, and one that traps leaves the word to the built-in one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use staffetta_bundle::{FAILOVER, fixtures::HOSTILE};
use staffetta_lab::{Node, Pair, PairOptions, SitePolicy};
use staffetta_tests::{Case, Scene, Serves, check, kill, said, start, wait, world};

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

const CALLS: &str = "site.active-calls";
const PATIENCE: Duration = Duration::from_secs(20);

/// From now on the site finds this on a node.
fn calls(pair: &Pair, node: Node, text: &str) -> Result<()> {
    Ok(std::fs::write(pair.fact(node, CALLS), text)?)
}

/// What the newest review on a node was told of the calls of both nodes, and its words.
fn newest_review(pair: &Pair, node: Node) -> Result<(serde_json::Value, String)> {
    let status = pair.status(node)?;
    let reviews = status.decisions.iter().filter(|decision| decision.question == "review");
    let id = reviews.map(|decision| decision.id).max().context("nobody was asked")?;
    let words = said(pair, node, &["policy", "explain", &id.to_string(), "--json"])?;
    let explained: serde_json::Value = serde_json::from_str(&words)?;
    let situation = explained["decision"]["situation"].as_str().context("no situation")?;
    let situation: serde_json::Value = serde_json::from_str(situation)?;
    let calls = ["me", "peer"].map(|who| {
        let facts = situation[who]["facts"].as_array();
        let mut facts = facts.into_iter().flatten();
        facts.find(|fact| fact["name"] == CALLS).map(|fact| fact["value"].clone())
    });
    Ok((serde_json::json!(calls), words))
}

#[test]
fn the_service_goes_back_when_the_site_says_that_it_is_idle() {
    let settings =
        format!("failback = {{ when-idle = {{ fact = \"{CALLS}\", max = 1 }} }}\nhold_down_ms = 0");
    let options = PairOptions {
        policy: Some(SitePolicy { component: FAILOVER.to_vec(), settings }),
        facts: vec![CALLS.into()],
        preferred: Some(Node::A),
        ..PairOptions::default()
    };
    world(|| {
        let mut scene = Scene::open(&options, false, |pair| {
            calls(pair, Node::A, "7\n")?;
            calls(pair, Node::B, "3\n")
        })?
        .context("no pair")?;
        scene.ready()?;
        let pair = scene.pair();
        if scene.primary() == Node::A {
            said(pair, Node::A, &["switchover"])?;
        }
        let number = |number: i64| serde_json::json!({ "number": number });
        let told = serde_json::json!([number(3), number(7)]);
        wait("the calls of both nodes", pair, PATIENCE, || {
            newest_review(pair, Node::B).is_ok_and(|(calls, words)| {
                calls == told && words.contains("failback waits: site.active-calls is 3")
            })
        })?;
        std::fs::remove_file(pair.fact(Node::B, CALLS))?;
        wait("a fact that is not known", pair, PATIENCE, || {
            newest_review(pair, Node::B)
                .is_ok_and(|(calls, words)| calls[0].is_null() && words.contains("is not known"))
        })?;
        let status = pair.status(Node::B)?;
        ensure!(status.has_alarm("fact-unknown"), "no alarm: {:?}", status.alarms);
        ensure!(pair.statuses().settled() == Some(Node::B), "it moved on a fact that is not known");
        calls(pair, Node::B, "1\n")?;
        wait("the move", pair, PATIENCE, || pair.statuses().settled() == Some(Node::A))
    });
}
