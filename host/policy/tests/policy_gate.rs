//! Every gate, with what it refuses.

mod common;

use common::{engine, load};
use ring::signature::{Ed25519KeyPair, KeyPair};
use staffetta_bundle as bundle;
use staffetta_policy::{
    COMPONENT_BYTES_MAX, Compile, GateOptions, Kind, LoadError, digest, signed_bytes,
};

fn component(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("valid text")
}

/// The component is refused with an error that says all of this.
#[track_caller]
fn check(component: &[u8], settings: &str, expect: &[&str]) {
    let error = load(Kind::Failover, component, settings).expect_err("it must be refused");
    let text = error.to_string();
    for words in expect {
        assert!(text.contains(words), "{words:?} is not in {text:?}");
    }
}

#[track_caller]
fn check_options(component: &[u8], options: &GateOptions, expect: &str) {
    let error = engine()
        .load(Kind::Failover, component, "{}", options, &Compile::InProcess)
        .expect_err("it must be refused");
    assert!(error.to_string().contains(expect), "{expect:?} is not in {:?}", error.to_string());
}

#[test]
fn the_built_in_policies_pass() {
    for (kind, component) in [
        (Kind::Failover, bundle::FAILOVER),
        (Kind::License, bundle::LICENSE),
        (Kind::SplitBrain, bundle::SPLIT_BRAIN),
    ] {
        let policy = load(kind, component, "").expect("a built-in policy passes");
        assert_eq!(policy.digest(), digest(component));
        assert_eq!(policy.description().name, format!("staffetta-{kind}"));
        assert_eq!(policy.settings(), "{}");
    }
}

#[test]
fn too_large() {
    check(&vec![0; 40 << 20], "{}", &["41943040 bytes", &COMPONENT_BYTES_MAX.to_string()]);
}

#[test]
fn pinned_to_another() {
    let pin = Some(format!("sha256:{}", "0".repeat(64)));
    check_options(
        bundle::FAILOVER,
        &GateOptions { pin, ..GateOptions::default() },
        "pins sha256:00",
    );
    let pin = Some(digest(bundle::FAILOVER));
    let options = GateOptions { pin, ..GateOptions::default() };
    engine()
        .load(Kind::Failover, bundle::FAILOVER, "{}", &options, &Compile::InProcess)
        .expect("its own digest");
}

#[test]
fn signatures() {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a key");
    let key: [u8; 32] = pair.public_key().as_ref().try_into().expect("32 bytes");
    let options =
        |signature| GateOptions { pin: None, trusted_keys: vec![[9; 32], key], signature };
    check_options(bundle::FAILOVER, &options(None), "not signed");
    check_options(bundle::FAILOVER, &options(Some(vec![1; 64])), "not by a trusted key");
    check_options(bundle::FAILOVER, &options(Some(b"nonsense".to_vec())), "not by a trusted key");
    let signature = pair.sign(&signed_bytes(bundle::FAILOVER)).as_ref().to_vec();
    let hex: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
    for signature in [signature.clone(), format!("{hex}\n").into_bytes()] {
        let options = options(Some(signature));
        engine()
            .load(Kind::Failover, bundle::FAILOVER, "{}", &options, &Compile::InProcess)
            .expect("a genuine signature");
    }
    check_options(bundle::fixtures::HOSTILE, &options(Some(signature)), "of another file");
}

#[test]
fn not_webassembly() {
    check(b"hello", "{}", &["not a WebAssembly component"]);
    check(b"", "{}", &["not a WebAssembly component"]);
    check(&bundle::FAILOVER[..1_000], "{}", &["ends in the middle"]);
}

#[test]
fn a_core_module() {
    check(&component("(module)"), "{}", &["core module", "staffetta policy build"]);
}

#[test]
fn a_forbidden_import() {
    let clock = r#"(component
        (import "wasi:clocks/monotonic-clock@0.2.6" (instance (export "now" (func (result u64)))))
    )"#;
    check(
        &component(clock),
        "{}",
        &["wasi:clocks/monotonic-clock@0.2.6", "wasm32-unknown-unknown", "--stub-wasi"],
    );
    let own = r#"(component (import "site:own/thing" (func)))"#;
    check(&component(own), "{}", &["site:own/thing", "pure function"]);
}

#[test]
fn another_version() {
    let newer = r#"(component
        (instance $i)
        (export "staffetta:policy/failover@0.2.0" (instance $i))
    )"#;
    check(&component(newer), "{}", &["speaks staffetta:policy/* 0.2.0", "this host speaks"]);
}

#[test]
fn another_world() {
    check(bundle::LICENSE, "{}", &["no failover policy", "it is a license policy"]);
    check(&component("(component)"), "{}", &["no failover policy", "does not export"]);
}

#[test]
fn interfaces_that_do_not_fit() {
    let hollow = r#"(component
        (instance $i)
        (export "staffetta:policy/failover@0.1.0" (instance $i))
    )"#;
    check(&component(hollow), "{}", &["does not fit", "about@0.1.0 has no describe"]);
}

#[test]
fn code_that_is_not_valid() {
    let mut broken = bundle::FAILOVER.to_vec();
    let middle = broken.len() / 2;
    broken[middle..middle + 64].fill(0xff);
    let error = load(Kind::Failover, &broken, "{}").expect_err("it must be refused");
    assert!(matches!(error, LoadError::Compile(_) | LoadError::NotWasm(_)), "{error}");
}

#[test]
fn bad_settings() {
    check(bundle::FAILOVER, "[]", &["settings are refused", "object"]);
    check(bundle::FAILOVER, "{", &["settings are refused", "not JSON"]);
    check(bundle::FAILOVER, r#"{"failbak": "never"}"#, &["unknown setting \"failbak\""]);
    check(bundle::FAILOVER, r#"{"changes_per_hour_max": 0}"#, &["at least 1"]);
    check(
        bundle::FAILOVER,
        r#"{"failback": {"in-window": {"from": "25:00", "to": "04:00"}}}"#,
        &["from = \"25:00\"", "HH:MM"],
    );
}

#[test]
fn failing_at_an_ordinary_question() {
    for (behave, words) in [
        ("spin", "out of fuel"),
        ("panic", "boom at review"),
        ("allocate", "more memory"),
        ("recurse", "stack"),
    ] {
        let settings = format!(r#"{{"behave": "{behave}", "on": "any"}}"#);
        check(bundle::fixtures::HOSTILE, &settings, &["ordinary question", words]);
    }
}
