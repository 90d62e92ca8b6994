//! How a license stands, and what that allows.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey};
use staffetta_license::{Builtin, Settings};
use staffetta_sdk::license::{Holder, Policy, Situation, Verdict};
use staffetta_sdk::{Given, Standing, Wall};

const DAY_S: i64 = 86_400;
const START_S: i64 = 1_767_225_600;
const END_S: i64 = START_S + 365 * DAY_S;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn signer() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn document(key: &SigningKey) -> Vec<u8> {
    let payload = format!(
        r#"{{"license_id": "L-1", "customer": "Example", "nodes": ["{}", "{}"],
            "not_before_s": {START_S}, "not_after_s": {END_S}, "grace_days": 30,
            "features": {{"channels": 120, "recording": true}}}}"#,
        hex(&[1; 32]),
        hex(&[2; 32]),
    );
    let signature = hex(&key.sign(payload.as_bytes()).to_bytes());
    let payload = STANDARD.encode(payload);
    format!(r#"{{"payload": "{payload}", "signature": "{signature}"}}"#).into_bytes()
}

fn situation() -> Situation {
    let holder = |node: &str, byte| Holder {
        node: node.into(),
        identity: vec![byte; 32],
        document: Some(document(&signer())),
    };
    Situation {
        me: holder("na", 1),
        peer: Some(holder("nb", 2)),
        latest_seen_s: START_S,
        ..Situation::default()
    }
}

fn judge(situation: &Situation, now_s: i64) -> Verdict {
    let trusted_keys = vec![hex(signer().verifying_key().as_bytes())];
    let wall = Wall { unix_s: now_s, ..Wall::default() };
    let given = Given { settings: Settings { trusted_keys }, memory: None, wall };
    Builtin::judge(situation, &given).expect("a verdict")
}

#[track_caller]
fn check(situation: &Situation, now_s: i64, mine: Standing, may_form: bool, may_plan: bool) {
    let verdict = judge(situation, now_s);
    let got = (verdict.mine, verdict.may_form, verdict.may_plan);
    assert_eq!(got, (mine, may_form, may_plan), "{}", verdict.reason);
}

#[test]
fn without_keys_licensing_is_off() {
    let verdict = Builtin::judge(&Situation::default(), &Given::default()).expect("a verdict");
    assert_eq!((verdict.mine, verdict.peers), (Standing::NotRequired, Standing::NotRequired));
    assert!(verdict.may_form && verdict.may_plan);
    assert!(verdict.reason.contains("off"));
}

#[test]
fn a_license_runs_through_its_life() {
    check(&situation(), START_S - 1, Standing::Valid, true, true); // seen at its start already
    check(&situation(), START_S + DAY_S, Standing::Valid, true, true);
    check(&situation(), END_S, Standing::Grace, true, true);
    check(&situation(), END_S + 30 * DAY_S - 1, Standing::Grace, true, true);
    check(&situation(), END_S + 30 * DAY_S, Standing::Expired, false, false);
    let mut early = situation();
    early.latest_seen_s = 0;
    check(&early, START_S - DAY_S, Standing::Invalid, false, false);
}

#[test]
fn it_tells_what_it_includes_and_until_when() {
    let verdict = judge(&situation(), START_S + DAY_S);
    assert_eq!(verdict.valid_until_s, Some(END_S));
    assert_eq!(verdict.grace_until_s, Some(END_S + 30 * DAY_S));
    assert_eq!(verdict.features.len(), 2);
    assert!(verdict.warnings.is_empty(), "{:?}", verdict.warnings);
    assert!(judge(&situation(), END_S - DAY_S).warnings[0].contains("1 more days"));
}

#[test]
fn a_clock_set_back_does_not_help() {
    let mut back = situation();
    back.latest_seen_s = END_S + 31 * DAY_S;
    check(&back, START_S + DAY_S, Standing::Expired, false, false);
    let verdict = judge(&back, START_S + DAY_S);
    assert!(verdict.warnings.iter().any(|line| line.contains("set back")), "{verdict:?}");
}

#[test]
fn forgeries_are_invalid() {
    let mut forged = situation();
    forged.me.document = Some(document(&SigningKey::from_bytes(&[8; 32])));
    check(&forged, START_S, Standing::Invalid, false, false);
    let mut stolen = situation();
    stolen.me.identity = vec![3; 32];
    check(&stolen, START_S, Standing::Invalid, false, false);
    let mut garbage = situation();
    garbage.me.document = Some(b"{}".to_vec());
    check(&garbage, START_S, Standing::Invalid, false, false);
}

#[test]
fn both_nodes_need_one() {
    let mut none = situation();
    none.peer.as_mut().expect("a peer").document = None;
    check(&none, START_S, Standing::Valid, false, false);
    let mut away = situation();
    away.peer = None;
    away.formed = true;
    check(&away, START_S, Standing::Valid, false, true);
    let mut mine = situation();
    mine.me.document = None;
    check(&mine, START_S, Standing::Unknown, false, false);
}
