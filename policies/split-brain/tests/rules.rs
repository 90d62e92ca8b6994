//! Whose data stays, rule by rule.

use staffetta_sdk::split_brain::{Branch, Keep, Policy, Situation, Subject};
use staffetta_sdk::{DataKind, Given};
use staffetta_split_brain::{Builtin, Rule, Settings};

fn situation() -> Situation {
    let branch = |node: &str, epoch, served, last_write| Branch {
        node: node.into(),
        epoch,
        served,
        last_write,
        facts: Vec::new(),
    };
    let subject = Subject { kind: DataKind::Database, name: "cdr".into(), ..Subject::default() };
    Situation {
        a: branch("na", 6, 9_000, Some(50)),
        b: branch("nb", 7, 4_000, Some(700)),
        serving: Some("nb".into()),
        subjects: vec![subject],
    }
}

#[track_caller]
fn check(situation: &Situation, keep: Rule, expect: Keep, serve: &str) {
    let given = Given { settings: Settings { keep }, ..Given::default() };
    let verdict = Builtin::resolve(situation, &given).expect("a verdict");
    assert_eq!(verdict.rulings[0].keep, expect, "{}", verdict.reason);
    assert_eq!(verdict.serve.as_deref(), Some(serve), "{}", verdict.reason);
}

#[test]
fn every_rule_names_a_side() {
    check(&situation(), Rule::Winner, Keep::B, "nb");
    check(&situation(), Rule::MostRecentWrite, Keep::A, "na");
    check(&situation(), Rule::LongestServed, Keep::A, "na");
    check(&situation(), Rule::AskOperator, Keep::AskOperator, "nb");
}

#[test]
fn a_tie_goes_to_the_winner() {
    let mut tie = situation();
    tie.a.last_write = None;
    tie.b.last_write = None;
    tie.a.served = tie.b.served;
    check(&tie, Rule::MostRecentWrite, Keep::B, "nb");
    check(&tie, Rule::LongestServed, Keep::B, "nb");
}

#[test]
fn a_side_that_wrote_nothing_did_not_write_last() {
    let mut silent = situation();
    silent.a.last_write = None;
    check(&silent, Rule::MostRecentWrite, Keep::B, "nb");
}

#[test]
fn nothing_to_tell_them_apart_asks() {
    let mut same = situation();
    same.serving = None;
    same.a.epoch = same.b.epoch;
    let given = Given { settings: Settings::default(), ..Given::default() };
    let verdict = Builtin::resolve(&same, &given).expect("a verdict");
    assert_eq!(verdict.rulings[0].keep, Keep::AskOperator);
    assert_eq!(verdict.serve, None);
}
