//! Decisions of a real journal file, decided again by real components.

use super::*;
use crate::api::status::Spoke;
use crate::journal::{DecisionRecord, Journal};
use staffetta_policy::types::{FailoverSituation, Wall};
use std::time::Duration;

const CAP: u64 = 64 * 1024 * 1024;

fn built_in() -> Policy {
    let engine = Engine::new(Limits::default()).unwrap();
    let (component, options) = (staffetta_bundle::FAILOVER, GateOptions::default());
    engine.load(Kind::Failover, component, "{}", &options, &Compile::InProcess).unwrap()
}

/// A standby whose peer fell silent, as the built-in policy decided it.
fn record(policy: &Policy, edit: impl Fn(&mut FailoverSituation)) -> DecisionRecord {
    let mut situation =
        staffetta_sdk::testing::standby(staffetta_policy::types::FailoverQuestion::PeerSilent)
            .silent_for(1_500)
            .vip(staffetta_policy::types::Answerer::Nobody)
            .reference("gateway", Some(true))
            .build();
    edit(&mut situation);
    let situation = serde_json::to_string(&situation).unwrap();
    let wall = serde_json::to_string(&Wall::default()).unwrap();
    let asked = Recorded { situation: &situation, settings: "{}", memory: None, wall: &wall };
    let said = replay(policy, &asked).unwrap();
    DecisionRecord {
        at_unix_ms: 1,
        kind: "failover".into(),
        question: "peer-silent".into(),
        intent: said.decided,
        reason: said.reason,
        spoke: Spoke::BuiltIn,
        situation,
        settings: "{}".into(),
        memory: None,
        wall,
        verdict: said.verdict.to_string(),
        digest: policy.digest().into(),
        engine: "test".into(),
        fuel: said.fuel,
        cpu_us: 1,
        notes: Vec::new(),
        attempts: Vec::new(),
    }
}

fn context(dir: &Path) -> Context {
    Context { config: dir.join("none.toml"), socket: None, json: true }
}

#[test]
fn the_same_policy_decides_the_same_and_other_evidence_is_named() {
    let policy = built_in();
    let made = record(&policy, |_| {});
    assert_eq!(made.intent, "take-over");
    let stored = StoredDecision { id: 1, last_at_unix_ms: 1, count: 1, first: made };
    let asked = recorded(&stored, None);
    let again = replay(&policy, &asked).unwrap();
    assert_eq!(again.verdict.to_string(), stored.first.verdict);
    assert_eq!(again.fuel, stored.first.fuel);
    let changes = otherwise(&policy, &asked).unwrap();
    let found = |words: &str| changes.iter().find(|one| one.change.contains(words));
    assert_eq!(found("the peer answered on the service address").unwrap().decided, "hold");
    assert_eq!(found("reference gateway were not reachable").unwrap().decided, "hold");
    assert_eq!(found("data here could not be served").unwrap().decided, "ask-operator");
    assert!(found("gateway were reachable").is_none(), "nothing changes there: {changes:?}");
}

#[test]
fn a_journal_is_replayed_by_the_same_and_by_another_policy() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("journal.db");
    let policy = built_in();
    let journal = Journal::open(&file, CAP).unwrap();
    journal.handle().decision(record(&policy, |_| {}));
    journal.handle().decision(record(&policy, |s| s.me.promotable = false));
    journal
        .handle()
        .decision(DecisionRecord { digest: "sha256:00".into(), ..record(&policy, |_| {}) });
    journal.close(Duration::from_secs(20));

    let context = context(dir.path());
    let mut tally = Tally::default();
    let mut shelf = Shelf::new(&context, None, None).unwrap();
    for one_record in crate::journal::read_decisions(&file, 10).unwrap() {
        one(&mut shelf, one_record, None, &mut tally).unwrap();
    }
    assert_eq!((tally.equal, tally.unknown_policy, tally.differ.len()), (2, 1, 0));

    let hostile = dir.path().join("other.wasm");
    std::fs::write(&hostile, staffetta_bundle::FAILOVER).unwrap();
    let settings = r#"{"require_references": true}"#.to_owned();
    let flags = ReplayFlags {
        journal: Some(file.clone()),
        policy: Some(hostile.clone()),
        settings: None,
        last: 10,
    };
    run(&context, &flags).unwrap();
    let mut shelf = Shelf::new(&context, Some(&hostile), Some(settings.clone())).unwrap();
    let mut tally = Tally::default();
    for one_record in crate::journal::read_decisions(&file, 10).unwrap() {
        one(&mut shelf, one_record, Some(&settings), &mut tally).unwrap();
    }
    assert_eq!((tally.made, tally.unknown_policy), (3, 0));
    assert_eq!(tally.differ.len(), 0, "the same component, the same answers");

    // A component that always holds differs where the built-in one had taken over, and says so.
    let hostile = dir.path().join("hostile.wasm");
    std::fs::write(&hostile, staffetta_bundle::fixtures::HOSTILE).unwrap();
    let settings = r#"{"behave": "hold"}"#.to_owned();
    let mut shelf = Shelf::new(&context, Some(&hostile), Some(settings.clone())).unwrap();
    let mut tally = Tally::default();
    for one_record in crate::journal::read_decisions(&file, 10).unwrap() {
        one(&mut shelf, one_record, Some(&settings), &mut tally).unwrap();
    }
    assert_eq!((tally.made, tally.differ.len()), (3, 3));
    let explained = ExplainFlags { id: 1, policy: None, journal: Some(file) };
    explain(&context, &explained).unwrap();
}

#[test]
fn what_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let context = context(dir.path());
    let flags = ReplayFlags {
        journal: Some(dir.path().join("none.db")),
        policy: None,
        settings: None,
        last: 10,
    };
    let error = run(&context, &flags).unwrap_err().to_string();
    assert!(error.contains("no journal at") && error.contains("none.db"), "{error}");
    let file = dir.path().join("journal.db");
    Journal::open(&file, CAP).unwrap().close(Duration::from_secs(20));
    let asked = ExplainFlags { id: 7, policy: None, journal: Some(file) };
    let error = explain(&context, &asked).unwrap_err().to_string();
    assert!(error.contains("no decision 7"), "{error}");

    let read = |name: &str, bytes: &[u8]| {
        let file = dir.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let flags = ReplayFlags { journal: Some(file), policy: None, settings: None, last: 10 };
        run(&context, &flags).unwrap_err().to_string()
    };
    for bytes in [&b"no database at all, but long enough to be looked at as one"[..], b""] {
        let error = read("notes.txt", bytes);
        assert!(error.contains("notes.txt is not a journal of Staffetta"), "{error}");
    }
}
