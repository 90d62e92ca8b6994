//! How settings reach a policy.

use serde::Deserialize;
use staffetta_sdk::failover::{Intent, Outcome, Policy, Question, Situation, hold};
use staffetta_sdk::{Fault, Given, NoSettings, Wall, testing};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Settings {
    patience_ms: u32,
    nested: Nested,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Nested {
    deep: bool,
}

struct Echo;

impl Policy for Echo {
    type Settings = Settings;

    fn decide(_: &Situation, given: &Given<Settings>) -> Outcome {
        let Settings { patience_ms, nested } = &given.settings;
        Ok(hold(format!("{patience_ms} {}", nested.deep)).recheck_ms(*patience_ms))
    }

    fn check(settings: &Settings) -> Vec<String> {
        let wrong = (settings.patience_ms > 1_000).then(|| "patience_ms: 1000 at most".to_string());
        wrong.into_iter().collect()
    }
}

struct Plain;

impl Policy for Plain {
    type Settings = NoSettings;

    fn decide(_: &Situation, _: &Given<NoSettings>) -> Outcome {
        Ok(hold("plain"))
    }
}

/// The settings give this reason, or are refused with this line.
#[track_caller]
fn check<P: Policy>(settings: &str, expect: Result<&str, &str>) {
    let situation = testing::primary(Question::Review).build();
    let outcome = testing::decide::<P>(&situation, settings, Wall::default());
    match (outcome, expect) {
        (Ok(verdict), Ok(reason)) => {
            assert_eq!(verdict.intent, Intent::Hold);
            assert_eq!(verdict.reason, reason);
        }
        (Err(Fault::BadSettings(lines)), Err(words)) => {
            assert!(lines.join("\n").contains(words), "{words:?} is not in {lines:?}");
        }
        (outcome, expect) => panic!("{outcome:?}, expected {expect:?}"),
    }
}

#[test]
fn empty_settings_are_the_default() {
    for empty in ["", "{}", " { }", "null"] {
        check::<Echo>(empty, Ok("0 false"));
    }
    check::<Plain>("{}", Ok("plain"));
}

#[test]
fn what_is_there_counts() {
    check::<Echo>(r#"{"patience_ms": 7, "nested": {"deep": true}}"#, Ok("7 true"));
}

#[test]
fn what_is_wrong_is_named() {
    check::<Echo>(r#"{"patience": 7}"#, Err("unknown setting \"patience\""));
    check::<Echo>(r#"{"nested": {"depe": true}}"#, Err("nested.depe"));
    check::<Echo>(r#"{"patience_ms": "7"}"#, Err("invalid type"));
    check::<Echo>(r#"{"patience_ms": 5000}"#, Err("1000 at most"));
    check::<Echo>("{", Err("EOF"));
    check::<Plain>(r#"{"any": 1}"#, Err("unknown setting \"any\""));
}

#[test]
fn a_situation_survives_json() {
    let situation = testing::standby(Question::Other("x".into()))
        .silent_for(900)
        .reference("gateway", None)
        .me(|me| me.facts.push(testing::number("site.active-calls", 3)))
        .build();
    let json = serde_json::to_string(&situation).expect("JSON");
    assert_eq!(serde_json::from_str::<Situation>(&json).expect("the same"), situation);
}
