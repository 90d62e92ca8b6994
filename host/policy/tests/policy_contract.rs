//! The WIT file, the Rust types and the JSON say the same.

mod common;

use std::path::Path;

use common::{built_in, context, load};
use staffetta_bundle as bundle;
use staffetta_business_hours::BusinessHours;
use staffetta_policy::types::{FailoverSituation, LicenseSituation};
use staffetta_policy::{Kind, LoadError};
use staffetta_sdk::{failover, testing};

/// A component with the exact types of the WIT file, whose functions all trap: it passes every gate
/// up to the first call if and only if the Rust types fit.
fn dummy(world: &str) -> Vec<u8> {
    let mut resolve = wit_parser::Resolve::default();
    let wit = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit/staffetta.wit");
    let package = resolve.push_path(wit).expect("the WIT file").0;
    let world = resolve.select_world(&[package], Some(world)).expect("the world");
    let mangling = wit_parser::ManglingAndAbi::Standard32;
    let mut module = wit_component::dummy_module(&resolve, world, mangling);
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding)
        .expect("metadata");
    wit_component::ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.validate(true).encode())
        .expect("a component")
}

#[test]
fn the_types_are_those_of_the_wit_file() {
    for kind in Kind::ALL {
        let component = dummy(&format!("{kind}-policy"));
        match load(kind, &component, "{}") {
            Err(LoadError::Describe(failure)) => {
                assert!(failure.to_string().contains("unreachable"), "{kind}: {failure}");
            }
            other => panic!("{kind}: {other:?}"),
        }
        staffetta_policy::cli::kinds(&component).expect("kinds");
    }
}

#[test]
fn the_example_answers_alike_natively_and_as_a_component() {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/policies/business-hours/cases");
    let cases = testing::cases(folder);
    assert!(cases.len() >= 10);
    for case in cases {
        let context = case.context();
        let policy = load(Kind::Failover, bundle::fixtures::BUSINESS_HOURS, &context.settings)
            .expect("it loads");
        let decision = policy.failover(&case.situation, &context, Kind::License.budget());
        let verdict = decision.outcome.expect("a verdict");
        assert_eq!(verdict.intent.to_string(), case.expect, "{}", case.title);
        let native = failover::answer::<BusinessHours>(&case.situation, &context);
        assert_eq!(native.as_ref(), Ok(&verdict), "{}", case.title);
    }
}

#[test]
fn json_has_the_names_of_the_wit_file() {
    let situation = common::peer_silent();
    let json = serde_json::to_value(&situation).expect("JSON");
    assert_eq!(json["question"], "peer-silent");
    assert_eq!(json["me"]["service-network"], "ok");
    assert_eq!(json["vips"][0]["answerer"], "nobody");
    assert_eq!(json["me"]["targets"][0]["reachable"], true);
    let back: FailoverSituation = serde_json::from_value(json).expect("the same");
    assert_eq!(back, situation);
    let typo = serde_json::from_str::<FailoverSituation>(r#"{"questoin": "start"}"#);
    assert!(typo.expect_err("refused").to_string().contains("questoin"));
}

#[test]
fn bytes_are_hexadecimal_in_json() {
    let json = r#"{"me": {"node": "na", "identity": "00ff", "document": "7b7d"}}"#;
    let situation: LicenseSituation = serde_json::from_str(json).expect("a situation");
    assert_eq!(situation.me.identity, [0, 255]);
    assert_eq!(situation.me.document.as_deref(), Some(&b"{}"[..]));
    let again = serde_json::to_value(&situation).expect("JSON");
    assert_eq!(again["me"]["identity"], "00ff");
}

#[test]
fn every_case_of_a_variant_survives_the_trip() {
    use staffetta_policy::types::FailoverQuestion as Question;
    let policy = built_in();
    for question in [
        Question::Start,
        Question::PeerSilent,
        Question::GoOnAlone,
        Question::Review,
        Question::Switchover,
        Question::Other("levitate".into()),
    ] {
        let mut situation = common::peer_silent();
        situation.question = question.clone();
        let native = staffetta_sdk::testing::standby(question.clone()).build();
        assert_eq!(native.question, situation.question);
        let decision = policy.failover(&situation, &context(&policy), Kind::License.budget());
        let verdict = decision.outcome.expect("a verdict");
        if let Question::Other(name) = question {
            assert!(verdict.reason.contains(&name), "{}", verdict.reason);
        }
    }
}
