//! What the offline commands say, and the way from a template to a running policy.

mod common;

use std::path::{Path, PathBuf};

use staffetta_bundle as bundle;
use staffetta_policy::{Kind, build, cli, digest};

fn file(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).expect("written");
    path
}

#[test]
fn check_reports_what_a_policy_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let wasm = file(folder.path(), "license.wasm", bundle::LICENSE);
    let report = cli::check(&wasm, None, "{}").expect("it passes");
    assert_eq!(report.kind, Kind::License);
    assert_eq!(report.digest, digest(bundle::LICENSE));
    assert!(report.imports.iter().all(|import| import.starts_with("staffetta:policy/")));
    let text = report.to_string();
    assert!(text.contains("staffetta-license 0.1.0"), "{text}");
    let json = serde_json::to_value(&report).expect("JSON");
    assert_eq!(json["kind"], "license");
    let refused = cli::check(&wasm, Some(Kind::Failover), "{}").expect_err("another kind");
    assert!(refused.to_string().contains("license.wasm: this is no failover policy"), "{refused}");
}

#[test]
fn run_answers_a_question_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let wasm = file(folder.path(), "failover.wasm", bundle::FAILOVER);
    let situation = serde_json::to_value(common::peer_silent()).expect("JSON");
    let bare = file(folder.path(), "bare.json", situation.to_string().as_bytes());
    let report = cli::run(&wasm, None, &bare, None).expect("a report");
    assert!(report.ok);
    assert!(report.to_string().starts_with("take-over: "), "{report}");

    let case = serde_json::json!({"situation": situation, "expect": "hold"});
    let case = file(folder.path(), "case.json", case.to_string().as_bytes());
    let report = cli::run(&wasm, None, &case, None).expect("a report");
    assert!(!report.ok);
    assert!(report.to_string().contains("expected: hold"), "{report}");

    let record = serde_json::json!({"situation": situation, "context": {
        "settings": "{\"require_references\": false}", "memory": null,
        "wall": {"unix-s": 0, "weekday": 1, "minute-of-day": 0}}});
    let record = file(folder.path(), "record.json", record.to_string().as_bytes());
    assert!(cli::run(&wasm, None, &record, None).expect("a report").ok);

    let typo = file(folder.path(), "typo.json", br#"{"questoin": "start"}"#);
    let error = cli::run(&wasm, None, &typo, None).expect_err("refused");
    assert!(error.to_string().contains("questoin"), "{error}");
    let nothing = cli::run(&wasm, None, Path::new("/nonexistent.json"), None).expect_err("absent");
    assert!(nothing.to_string().contains("/nonexistent.json"), "{nothing}");
}

#[test]
fn a_new_policy_builds_and_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("night-shift");
    let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk");
    let sdk = sdk.canonicalize().expect("the SDK");
    let dependency = format!("{{ path = \"{}\" }}", sdk.display());
    build::new(&dir, "night-shift", &dependency).expect("a crate");
    assert!(build::new(&dir, "night-shift", &dependency).is_err(), "nothing is overwritten");
    assert!(build::new(&folder.path().join("x"), "Night Shift", &dependency).is_err());
    let wasm = build::build(&dir, None).expect("a component");
    assert!(wasm.ends_with("night-shift/night-shift.wasm"), "{}", wasm.display());
    let report = cli::check(&wasm, None, r#"{"silent_ms": 500}"#).expect("it passes");
    assert_eq!(report.about.name, "night-shift");
    let text = String::from_utf8_lossy(&std::fs::read(&wasm).expect("the file")).into_owned();
    let home = std::env::var("HOME").expect("a home");
    assert!(!text.contains(&format!("{home}/.cargo")), "no folder of this machine is inside");
}

#[test]
fn a_folder_without_a_crate_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = build::build(folder.path(), None).expect_err("no crate");
    assert!(error.to_string().contains("Cargo.toml"), "{error}");
}
