//! What the command line understands, and what it shows.

use clap::{CommandFactory, Parser};

use super::flags::Cli;
use super::{changes, plain, show};
use crate::api::status::{Alarm, Level, Role, tests::example};

#[test]
fn the_verbs_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_documented_verb_is_understood() {
    let lines = [
        "init --name na --peer nb --local 10.0.0.1 --peer-address 10.0.0.2:99 --vip \
         10.0.0.9/24@eth0",
        "join na-nb.bundle --dir /tmp/x --state-dir /tmp/y",
        "run --config /tmp/x.toml",
        "status --json",
        "--json status",
        "watch",
        "switchover",
        "maintenance on",
        "maintenance off",
        "clear",
        "start --alone",
        "decision 12",
        "policy new my-policy",
        "policy build . -o x.wasm",
        "policy check x.wasm --settings s.json",
        "policy run x.wasm --situation s.json",
        "policy load failover x.wasm",
        "policy load split-brain x.wasm --settings s.json",
        "policy rollback license",
        "policy list",
        "policy replay journal.db --policy x.wasm --settings s.json --last 5",
        "policy replay",
        "policy explain 12 --journal journal.db",
        "arbiter check",
        "arbiter check --n 5 --json",
        "policy keygen",
        "policy keygen -o k",
        "policy sign x.wasm --key k",
        "policy sign x.wasm --key k --out y.sig",
        "license keygen",
        "license sign --key k --node aa --node bb --days 30 --grace-days 5 --customer c --feature \
         a=1 -o f",
        "license show f",
        "identity",
        "config check",
        "config check x.toml",
        "doctor",
        "demo --keep --json",
        "release",
    ];
    for line in lines {
        let words = std::iter::once("staffetta").chain(line.split(' '));
        assert!(Cli::try_parse_from(words).is_ok(), "{line}");
    }
}

#[test]
fn wrong_usage_is_refused_with_code_2() {
    let lines = [
        "",
        "start",
        "maintenance",
        "maintenance perhaps",
        "policy sign x.wasm",
        "policy load failover",
        "policy load x \
            y",
        "license sign --key k --node aa --customer c --days 0",
        "init --name na --peer nb --local 10.0.0.1 --peer-address 10.0.0.2",
        "init --name na --peer nb --local host --peer-address 10.0.0.2 --vip 10.0.0.9/24@eth0",
    ];
    for line in lines {
        let words = std::iter::once("staffetta").chain(line.split_whitespace());
        let error = Cli::try_parse_from(words).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn the_status_for_people_begins_with_the_verdict() {
    let mut status = example();
    let text = show::status(&status, show::Paint::Plain);
    let expected = "na is PRIMARY (epoch 4), peer nb is standby; guarantee: evidence only
  ALARM       heartbeat-path-cut: the VIP answers while the heartbeat is silent
  because     one link is left
  daemon      0.1.0 in cluster office, up 12.0 s, primary for 1.2 s
  arbiter     ready, answered 310 ms ago within 1.90 ms, na serves paired (epoch 4)
  lease       from the peer, 280 ms left
  gate        open, by nftables, slack 20 ms
  vip         10.77.0.50/24 on eth0, held here; probe: not-probed
  link        lan      heard 12 ms ago, echoed 14 ms ago, rtt 0.21 ms, loss 0.0 %
  peer        nb (epoch 4, 0.1.0), heard 12 ms ago
  policy      failover    staffetta-failover 0.1.0 (built-in) sha256:aa
  policy      license     staffetta-license 0.1.0 (built-in) sha256:bb
  policy      split-brain house 2.0.0 (site) sha256:cc
  license     off: no trusted key is configured
  database    calls leading at 4:18231, 0 missing
  tree        recordings leading, 10412 entries, 2 missing
  aligned     yes
  realtime    fifo priority, memory locked
  stalls      wake-ups late by 0.06 ms (p50), 0.19 ms (p99), 1.20 ms (p99.9), 8.40 ms at most
  decision    #12 2026-01-01T00:00:00Z  peer-silent -> take-over (last-good, 35 us): every link \
  is silent";
    assert_eq!(text, expected);
    status.peer = None;
    status.role = Role::Fenced;
    let painted = show::headline(&status, show::Paint::Colors);
    assert!(painted.contains("\u{1b}[31mFENCED") && painted.contains("was not seen yet"));
}

#[test]
fn text_from_elsewhere_cannot_steer_the_terminal() {
    assert_eq!(plain("a\u{1b}[2Jb\nc"), "a [2Jb c");
    let mut status = example();
    status.decisions[0].reason = "\u{1b}]0;owned\u{7}".into();
    assert!(!show::status(&status, show::Paint::Plain).contains('\u{1b}'));
}

#[test]
fn changes_are_told_a_line_each() {
    let before = example();
    let mut after = example();
    after.role = Role::Standby;
    after.epoch = 5;
    after.alarms = vec![Alarm { name: "vip-conflict".into(), text: "02:… answers".into() }];
    after.level.name = Level::TakeoverDisarmed;
    after.level.why = "maintenance".into();
    after.maintenance = true;
    after.vips[0].held = false;
    after.links[0].heard_ms = None;
    after.peer.as_mut().unwrap().role = Role::Primary;
    after.decisions[0].id = 13;
    let lines = [
        "role primary -> standby (epoch 5)",
        "peer nb: standby -> primary",
        "guarantee takeover disarmed: maintenance",
        "maintenance on: takeover disarmed",
        "link lan silent",
        "vip 10.77.0.50/24 down on eth0",
        "decision #13 peer-silent -> take-over (last-good): every link is silent",
        "ALARM vip-conflict: 02:… answers",
        "alarm heartbeat-path-cut is over",
    ];
    assert_eq!(changes::between(&before, &after), lines);
    assert!(changes::between(&before, &before).is_empty());
}

#[test]
fn spans_have_fitting_units() {
    let cases =
        [(0, "0 ms"), (999, "999 ms"), (1_250, "1.2 s"), (300_000, "5 min"), (90_000_000, "25 h")];
    for (ms, text) in cases {
        assert_eq!(show::span(ms), text);
    }
}

/// What a verb says when it fails; the empty text when it does not.
fn said(words: &[&str]) -> String {
    let words = ["staffetta", "--json"].into_iter().chain(words.iter().copied());
    match super::dispatch(Cli::try_parse_from(words).unwrap()) {
        Ok(()) => String::new(),
        Err(failure) => failure.to_string(),
    }
}

#[test]
fn what_is_signed_is_what_the_load_gate_checks() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (key, wasm, other) = (path("k"), path("site.wasm"), path("other.sig"));
    let component = b"\0asm, or so it says";
    std::fs::write(&wasm, component).unwrap();
    assert!(said(&["policy", "sign", &wasm, "--key", &key]).contains("cannot read"));
    assert_eq!(said(&["policy", "keygen", "-o", &key]), "");
    assert!(said(&["policy", "keygen", "-o", &key]).contains("is not overwritten"));
    assert_eq!(said(&["policy", "sign", &wasm, "--key", &key]), "");
    assert!(said(&["policy", "sign", &wasm, "--key", &key]).contains("is not overwritten"));
    assert_eq!(said(&["policy", "sign", &wasm, "--key", &key, "--out", &other]), "");

    let text = std::fs::read_to_string(path("site.wasm.sig")).unwrap();
    assert_eq!(text, std::fs::read_to_string(&other).unwrap());
    let signature = crate::config::parse_hex::<64>(text.trim()).expect("128 hex digits");
    let public = crate::identity::Identity::load(dir.path().join("k").as_path()).unwrap().public();
    let signed = staffetta_policy::signed_bytes(component);
    assert!(crate::identity::is_signed_by(&public, &signed, &signature));

    std::fs::write(path("no.wasm"), b"text").unwrap();
    let refused = said(&["policy", "sign", &path("no.wasm"), "--key", &key]);
    assert!(refused.contains("no WebAssembly"), "{refused}");
    let refused = said(&["policy", "sign", &wasm, "--key", &wasm]);
    assert!(refused.contains("chmod 600") || refused.contains("policy keygen"), "{refused}");
}
