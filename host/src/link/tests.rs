use super::frame::{self, FrameError, LICENSE_BYTES_MAX};
use super::session::{HEADER_BYTES, Opened, Reject, Session};
use super::stamp::{Meter, Stamp};
use super::*;
use staffetta_core::{Claim, Echo, Epoch, Hand, Meeting, PeerRole, Span};

const CLUSTER: [u8; 16] = *b"0123456789abcdef";

fn beat(boot: u64) -> Beat {
    Beat {
        boot,
        n: 7,
        role: PeerRole::Primary,
        claim: Claim::Primary(Epoch(42)),
        highest: Epoch(42),
        lease: Span::ms(300),
        slack: Span::ms(20),
        echo: Some(Echo { boot: 99, n: 6, granted: Epoch(42) }),
        hand: Some(Hand { epoch: Epoch(43), boot: 99, n: 5 }),
        reserve: Epoch(43),
        reserved: Epoch(41),
        met: Some(Meeting { low: Epoch(40), high: Epoch(41), served: Span::ms(12_000) }),
        eligible: true,
        maintenance: true,
        synced: Some(true),
        stale: Some(false),
        arbiter: Some(true),
    }
}

fn about() -> About {
    About {
        version: "0.1.0".into(),
        config: vec![1; 32],
        policies: vec![2; 48],
        macs: vec![3; 12],
        identity: vec![4; 32],
        service_network: Health::Ok,
        services: Health::Degraded,
        checks: vec![CheckReport {
            name: "sip".into(),
            health: Health::Failed,
            since_ms: 10,
            age_ms: 20,
        }],
        targets: vec![TargetReport { name: "gateway".into(), reachable: Some(true), age_ms: 5 }],
        in_role_ms: 1_000,
        stall_max_ms: 3,
        license: 1,
        data: Some(vec![DataReport { id: 7, epoch: 4, txid: 9, copy: 1, behind: 2 }]),
        facts: Some(vec![
            FactReport {
                name: "site.active-calls".into(),
                age_ms: 400,
                valid_ms: 14_600,
                number: Some(-3),
                ..FactReport::default()
            },
            FactReport {
                name: "site.carrier".into(),
                text: Some("north".into()),
                valid_ms: 1,
                ..FactReport::default()
            },
        ]),
        lag_ms: Some(40),
    }
}

fn pair() -> (Session, Session) {
    let secret = Secret([7; 32]);
    (
        Session::new(Side::A, CLUSTER, &secret, 0xAAAA),
        Session::new(Side::B, CLUSTER, &secret, 0xBBBB),
    )
}

/// Carries every datagram of `from`'s next beat to `to`; answers with what came out and what `to`
/// sends back.
fn carry(
    at: u64,
    from: &mut Session,
    to: &mut Session,
    text: &[u8],
) -> (Option<Vec<u8>>, Vec<Vec<u8>>) {
    let mut out = None;
    let mut back = Vec::new();
    for mut datagram in from.seal(text).into_iter().flatten() {
        match to.open(Mono(at * 1_000_000), &mut datagram) {
            Ok(Opened::Frame { bytes, .. }) => out = Some(bytes.to_vec()),
            Ok(Opened::Hello { reply }) => back.extend(reply),
            Err(rejection) => back.extend(rejection.hello),
        }
    }
    (out, back)
}

fn deliver(at: u64, datagrams: Vec<Vec<u8>>, to: &mut Session) -> Vec<Vec<u8>> {
    let mut back = Vec::new();
    for mut datagram in datagrams {
        match to.open(Mono(at * 1_000_000), &mut datagram) {
            Ok(Opened::Hello { reply }) => back.extend(reply),
            Ok(Opened::Frame { .. }) => {}
            Err(rejection) => back.extend(rejection.hello),
        }
    }
    back
}

/// Lets both speak until each hears the other; answers with the number of rounds.
fn acquaint(at: u64, a: &mut Session, b: &mut Session) -> u64 {
    for round in 0..10 {
        let at = at + round * 50;
        let (to_b, back) = carry(at, a, b, b"a");
        let more = deliver(at, back, a);
        deliver(at, more, b);
        let (to_a, back) = carry(at + 20, b, a, b"b");
        let more = deliver(at + 20, back, b);
        deliver(at + 20, more, a);
        if to_a.is_some() && to_b.is_some() {
            return round;
        }
    }
    panic!("they never met");
}

#[test]
fn two_lives_meet_within_two_beats_and_a_restart_does_too() {
    let (mut a, mut b) = pair();
    assert!(acquaint(0, &mut a, &mut b) <= 2);
    for life in 1..5 {
        let mut b = Session::new(Side::B, CLUSTER, &Secret([7; 32]), 0xBBBB + life);
        assert!(acquaint(life * 10_000, &mut a, &mut b) <= 2, "restart {life}");
    }
}

#[test]
fn a_frame_counts_once_and_of_no_other_life() {
    let (mut a, mut b) = pair();
    acquaint(0, &mut a, &mut b);
    let [Some(sealed), None] = a.seal(b"once") else { panic!("one datagram") };
    assert!(matches!(b.open(Mono(1), &mut sealed.clone()), Ok(Opened::Frame { .. })));
    let again = b.open(Mono(1), &mut sealed.clone()).unwrap_err();
    assert_eq!(again.reject, Reject::Replayed);
    let mut later = Session::new(Side::B, CLUSTER, &Secret([7; 32]), 0xCCCC);
    let other = later.open(Mono(1), &mut sealed.clone()).unwrap_err();
    assert_eq!(other.reject, Reject::OtherLife);
    assert!(other.hello.is_some(), "the sender learns of the new life");
}

#[test]
fn a_replayed_hello_does_not_displace_a_living_session() {
    let (mut a, mut b) = pair();
    let [Some(old_hello), None] = a.seal(b"") else { panic!("a hello") };
    let mut a = Session::new(Side::A, CLUSTER, &Secret([7; 32]), 0xA2A2);
    acquaint(0, &mut a, &mut b);
    let _ = b.open(Mono(1), &mut old_hello.clone());
    let (heard, _) = carry(100, &mut b, &mut a, b"still");
    assert_eq!(heard.as_deref(), Some(&b"still"[..]));
    let (heard, _) = carry(120, &mut a, &mut b, b"here");
    assert_eq!(heard.as_deref(), Some(&b"here"[..]));
}

#[test]
fn a_displaced_life_never_returns_and_no_nonce_is_used_twice() {
    let (mut a, mut b) = pair();
    let [Some(hello), None] = b.seal(b"") else { panic!("a hello") };
    acquaint(0, &mut a, &mut b);
    let [Some(data), _] = b.seal(b"old life") else { panic!("a frame") };
    // To whom and with which counter: the key and the nonce.
    let mut used = std::collections::BTreeSet::new();
    let mut note = |datagrams: [Option<Vec<u8>>; 2]| {
        for datagram in datagrams.into_iter().flatten().filter(|d| d[3] == 2) {
            assert!(used.insert(datagram[24..40].to_vec()), "a nonce is used twice");
        }
    };
    note(a.seal(b"one"));
    let mut b = Session::new(Side::B, CLUSTER, &Secret([7; 32]), 0xB2B2);
    acquaint(10_000, &mut a, &mut b);
    note(a.seal(b"two"));
    for round in 0..5 {
        let at = Mono((20_000 + round * 50) * 1_000_000);
        assert!(matches!(a.open(at, &mut hello.clone()), Ok(Opened::Hello { reply: None })));
        assert!(a.open(at, &mut data.clone()).is_err(), "a frame of a displaced life");
        note(a.seal(b"three"));
    }
    let (heard, _) = carry(30_000, &mut b, &mut a, b"alive");
    assert_eq!(heard.as_deref(), Some(&b"alive"[..]));
    let (heard, _) = carry(30_020, &mut a, &mut b, b"heard");
    assert_eq!(heard.as_deref(), Some(&b"heard"[..]));
}

#[test]
fn junk_does_not_use_up_the_answers_to_authentic_hellos() {
    let (mut a, mut b) = pair();
    let [Some(hello), None] = a.seal(b"") else { panic!("a hello") };
    let mut junk = hello.clone();
    junk[3] = 2;
    for at in 0..20 {
        let _ = b.open(Mono(at * 1_000_000), &mut junk.clone());
    }
    let mut hello = hello.clone();
    let answer = b.open(Mono(20_000_000), &mut hello);
    assert!(matches!(answer, Ok(Opened::Hello { reply: Some(_) })));
}

#[test]
fn epochs_beyond_reason_are_refused_wherever_they_stand() {
    type Change = fn(&mut Beat);
    let changes: [Change; 5] = [
        |b| b.hand = Some(Hand { epoch: Epoch(u64::MAX), boot: 1, n: 1 }),
        |b| b.echo = Some(Echo { boot: 1, n: 1, granted: Epoch(u64::MAX) }),
        |b| b.reserve = Epoch(u64::MAX),
        |b| b.claim = Claim::Primary(Epoch(u64::MAX)),
        |b| {
            b.met = Some(Meeting { low: Epoch(1), high: Epoch(u64::MAX), served: Span::ZERO });
        },
    ];
    for change in changes {
        let mut beat = beat(5);
        change(&mut beat);
        let bytes = frame::encode(&beat, Stamp::default(), None, None);
        assert_eq!(frame::decode(5, &bytes), Err(FrameError::Nonsense("epoch")));
    }
}

#[test]
fn every_changed_byte_is_noticed() {
    let (mut a, mut b) = pair();
    acquaint(0, &mut a, &mut b);
    for at in 0..HEADER_BYTES + 4 + 16 {
        let [Some(mut sealed), None] = a.seal(b"text") else { panic!("one datagram") };
        sealed[at] ^= 1;
        assert!(b.open(Mono(1), &mut sealed).is_err(), "byte {at}");
    }
}

#[test]
fn strangers_are_told_apart() {
    let (mut a, mut b) = pair();
    acquaint(0, &mut a, &mut b);
    let mut other_key = Session::new(Side::A, CLUSTER, &Secret([8; 32]), 1);
    let mut other_cluster = Session::new(Side::A, [9; 16], &Secret([7; 32]), 1);
    let mut same_side = Session::new(Side::B, CLUSTER, &Secret([7; 32]), 1);
    for stranger in [&mut other_key, &mut other_cluster, &mut same_side] {
        let [Some(mut hello), None] = stranger.seal(b"") else { panic!("a hello") };
        assert_eq!(b.open(Mono(1), &mut hello).unwrap_err().reject, Reject::Foreign);
    }
    let [Some(mut future), None] = a.seal(b"x") else { panic!("one datagram") };
    future[2] = 9;
    assert_eq!(b.open(Mono(1), &mut future).unwrap_err().reject, Reject::Version(9));
    for len in 0..60 {
        assert!(b.open(Mono(1), &mut vec![0x53; len]).is_err(), "length {len}");
    }
}

#[test]
fn frames_keep_everything() {
    let bytes =
        frame::encode(&beat(5), Stamp { seq: 3, echo: 2, held_us: 9 }, Some(&about()), None);
    let got = frame::decode(5, &bytes).unwrap();
    assert_eq!(got.beat, beat(5));
    assert_eq!(got.about, Some(about()));
    let bytes = frame::encode(&beat(5), Stamp::default(), None, Some(&[1; LICENSE_BYTES_MAX]));
    assert!(bytes.len() <= FRAME_BYTES_MAX);
    assert_eq!(frame::decode(5, &bytes).unwrap().license, Some(vec![1; LICENSE_BYTES_MAX]));
}

#[test]
fn what_does_not_fit_is_left_out_report_by_report() {
    let name = |kind: &str, n: usize| format!("{kind}{n:-<31}");
    let checks = (0..REPORTS_MAX).map(|n| CheckReport {
        name: name("c", n),
        health: Health::Failed,
        since_ms: u32::MAX,
        age_ms: u32::MAX,
    });
    let targets = (0..REPORTS_MAX).map(|n| TargetReport {
        name: name("t", n),
        reachable: None,
        age_ms: u32::MAX,
    });
    let long = About {
        checks: checks.collect(),
        targets: targets.collect(),
        macs: vec![3; 96],
        ..about()
    };
    let bytes = frame::encode(&beat(5), Stamp::default(), Some(&long), None);
    assert!(bytes.len() <= FRAME_BYTES_MAX);
    let told = frame::decode(5, &bytes).unwrap().about.expect("the rest is told");
    assert_eq!((told.services, told.targets.len()), (long.services, REPORTS_MAX));
    assert_eq!(told.checks[..], long.checks[..told.checks.len()], "the first ones are told");
}

#[test]
fn facts_of_other_kinds_are_passed_over_and_all_others_age() {
    let fact = |name: &str| FactReport {
        name: name.into(),
        age_ms: 100,
        valid_ms: 500,
        flag: Some(true),
        ..FactReport::default()
    };
    let strange = [
        fact("host.was-primary"),
        fact(&format!("site.{}", "x".repeat(60))),
        FactReport { flag: None, ..fact("site.later") },
        FactReport { number: Some(3), ..fact("site.both") },
        FactReport { flag: None, text: Some("x".repeat(33)), ..fact("site.long") },
    ];
    let told = About {
        facts: Some(strange.into_iter().chain([fact("site.power")]).collect()),
        ..About::default()
    };
    let bytes = frame::encode(&beat(5), Stamp::default(), Some(&told), None);
    let got = frame::decode(5, &bytes).unwrap().about.unwrap();
    assert_eq!(got.facts, Some(vec![fact("site.power")]));
    let later = fact("site.power").later(499).unwrap();
    assert_eq!((later.age_ms, later.valid_ms), (599, 1));
    assert_eq!(later.later(1), None, "nobody renewed it");
    let word = About { facts: Some(vec![fact("site.power")]), ..about() };
    let later = word.later(Span::ms(499));
    let (check, target) = (&later.checks[0], &later.targets[0]);
    assert_eq!((check.since_ms, check.age_ms, target.age_ms), (509, 519, 504));
    assert_eq!((later.in_role_ms, later.lag_ms), (1_499, Some(539)));
    assert_eq!(later.facts.map(|facts| facts.len()), Some(1));
    assert_eq!(word.later(Span::ms(500)).facts, Some(Vec::new()));
    assert_eq!(word.later(Span::ZERO), word);
}

#[test]
fn there_is_room_for_all_references_and_all_facts_or_the_databases_of_a_turn() {
    use crate::config::defaults::{FACT_CHARS_MAX, FACTS_MAX, REFERENCES_MAX};
    let name = |n: usize| format!("{n:->31}");
    let full = About {
        checks: vec![CheckReport { name: name(0), ..about().checks.remove(0) }; REPORTS_MAX],
        targets: (0..REFERENCES_MAX)
            .map(|n| TargetReport { name: name(n), reachable: Some(true), age_ms: u32::MAX })
            .collect(),
        macs: vec![3; 96],
        ..about()
    };
    let fact = FactReport {
        name: format!("site.{}", "x".repeat(FACT_CHARS_MAX)),
        age_ms: u32::MAX,
        valid_ms: u32::MAX,
        text: Some("x".repeat(FACT_TEXT_BYTES_MAX)),
        ..FactReport::default()
    };
    let facts = Some(vec![fact; FACTS_MAX]);
    let report = DataReport {
        id: u64::MAX,
        epoch: u64::from(u32::MAX),
        txid: u64::from(u32::MAX),
        copy: 3,
        behind: u64::from(u32::MAX),
    };
    let data = Some(vec![report; DATA_REPORTS_MAX]);
    for told in
        [About { facts, data: None, ..full.clone() }, About { facts: None, data, ..full.clone() }]
    {
        let bytes = frame::encode(&beat(5), Stamp::default(), Some(&told), None);
        let got = frame::decode(5, &bytes).unwrap().about.expect("it is told");
        assert_eq!((&got.facts, &got.data), (&told.facts, &told.data));
        assert_eq!(got.targets, told.targets);
    }
}

/// Frames of version 0.1.0, as they went over the wire: a later version must still read them.
const FIXTURES: &str = include_str!("frames-0.1.0.txt");

#[test]
fn frames_of_released_versions_are_read() {
    let lag = About { lag_ms: Some(40), ..About::default() };
    let made = frame::encode(&beat(5), Stamp { seq: 5, echo: 4, held_us: 2 }, Some(&lag), None);
    if std::env::var_os("REWRITE").is_some() && !FIXTURES.contains("lag ") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/link/frames-0.1.0.txt");
        let row = format!("lag {}\n", crate::identity::hex(&made));
        std::fs::write(path, format!("{FIXTURES}{row}")).unwrap();
        return;
    }
    assert_eq!(FIXTURES.lines().count(), 5);
    for (name, hex) in FIXTURES.lines().filter_map(|line| line.split_once(' ')) {
        let frame = frame::decode(5, &unhex(hex)).unwrap_or_else(|error| panic!("{name}: {error}"));
        // The first ones are of before there was an arbiter, then of before there was data.
        let arbiter = beat(5).arbiter.filter(|_| ["arbiter", "data", "lag"].contains(&name));
        let synced = beat(5).synced.filter(|_| ["data", "lag"].contains(&name));
        let stale = beat(5).stale.filter(|_| ["data", "lag"].contains(&name));
        let expect = staffetta_core::Beat { arbiter, synced, stale, ..beat(5) };
        assert_eq!(frame.beat, expect, "{name}");
        let told = frame.about.and_then(|about| about.lag_ms);
        assert_eq!(told, lag.lag_ms.filter(|_| name == "lag"), "{name}");
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn unknown_future_fields_are_skipped() {
    let mut bytes = frame::encode(&beat(5), Stamp::default(), None, None);
    // One more entry of the map: field 200 with a nested value that no version knows.
    let entries = bytes[0] & 0x1f;
    assert!(bytes[0] & 0xe0 == 0xa0 && entries < 23, "a short definite map");
    bytes[0] += 1;
    bytes.extend_from_slice(&[0x18, 200, 0x82, 0x01, 0xa1, 0x02, 0x63, b'n', b'e', b'w']);
    assert_eq!(frame::decode(5, &bytes).unwrap().beat, beat(5));
}

#[test]
fn nonsense_from_the_peer_is_an_error() {
    let good = frame::encode(&beat(5), Stamp::default(), None, None);
    for len in 0..good.len() {
        assert!(frame::decode(5, &good[..len]).is_err(), "truncated to {len}");
    }
    let mut huge = beat(5);
    huge.lease = Span::ms(10_000_000);
    let bytes = frame::encode(&huge, Stamp::default(), None, None);
    assert_eq!(frame::decode(5, &bytes), Err(FrameError::Nonsense("lease")));
    let mut high = beat(5);
    high.highest = Epoch(u64::MAX);
    let bytes = frame::encode(&high, Stamp::default(), None, None);
    assert_eq!(frame::decode(5, &bytes), Err(FrameError::Nonsense("epoch")));
    let mut long = about();
    long.version = "v".repeat(100);
    let bytes = frame::encode(&beat(5), Stamp::default(), Some(&long), None);
    assert!(matches!(frame::decode(5, &bytes), Err(FrameError::TooLong { .. })));
}

#[test]
fn random_bytes_never_panic() {
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut roll = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let good = frame::encode(&beat(5), Stamp::default(), Some(&about()), Some(b"x"));
    let (mut a, mut b) = pair();
    acquaint(0, &mut a, &mut b);
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..1 + roll() % 6 {
            let at = usize::try_from(roll()).unwrap_or(0) % bytes.len();
            bytes[at] = roll().to_le_bytes()[0];
        }
        let _ = frame::decode(5, &bytes);
        let _ = b.open(Mono(1), &mut bytes);
    }
}

#[test]
fn the_meter_measures_loss_and_round_trips() {
    let (mut ours, mut peers) = (Meter::default(), Meter::default());
    let ms = |ms: u64| Mono(ms * 1_000_000);
    for i in 1..=200_u64 {
        let stamp = ours.stamp(ms(i * 50));
        if i % 4 == 0 {
            continue; // one in four is lost
        }
        peers.heard(ms(i * 50 + 1), stamp);
        let back = peers.stamp(ms(i * 50 + 3));
        ours.heard(ms(i * 50 + 4), back);
    }
    let view = peers.view(ms(10_050));
    assert!((220..=280).contains(&view.loss_permille), "{view:?}");
    let view = ours.view(ms(10_050));
    assert_eq!(view.loss_permille, 0);
    // Four milliseconds, of which the peer held the frame for two.
    assert!((1_900..=2_100).contains(&view.rtt_us.unwrap()), "{view:?}");
    let minute = ours.take_minute();
    assert_eq!((minute.sent, minute.received), (200, 150));
    assert_eq!(ours.take_minute().sent, 0);
}

#[test]
fn what_is_refused_is_counted_by_its_reason() {
    let secret = Secret([7; 32]);
    let bind = || UdpSocket::bind("127.0.0.1:0").unwrap();
    let (peer, local) = (bind(), bind().local_addr().unwrap());
    peer.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
    let config =
        LinkConfig { name: "lan".into(), local, peer: peer.local_addr().unwrap(), wan: false };
    let mut links = Links::open(&[config], Side::A, CLUSTER, &secret, 0xAAAA).unwrap();
    let mut now = Mono(1_000_000_000);
    let mut takes = |links: &mut Links| {
        now = now + Span::ms(2_000);
        let mut out = Vec::new();
        links.receive(now, &mut out);
        out.len()
    };
    let future = [&b"ST\x09"[..], &[0; 80]].concat();
    for datagram in [&b"noise"[..], &[0x55; 900], &future] {
        peer.send_to(datagram, local).unwrap();
    }
    bind().send_to(&future, local).unwrap();
    assert_eq!(takes(&mut links), 0);
    let wanted = Rejected { foreign: 2, other_version: 2, version_seen: 9, ..Rejected::default() };
    assert_eq!((links.rejected(), links.last_unreadable()), (wanted, ""));

    // The peer is genuine, but says what this version cannot read; then what it can.
    let mut session = Session::new(Side::B, CLUSTER, &secret, 0xBBBB);
    let mut say = |links: &mut Links, bytes: &[u8]| {
        for datagram in session.seal(bytes).into_iter().flatten() {
            peer.send_to(&datagram, local).unwrap();
        }
        let taken = takes(links);
        let mut answer = [0; 2_048];
        if let Ok(len) = peer.recv(&mut answer) {
            let _hello = session.open(Mono(1), &mut answer[..len]);
        }
        taken
    };
    for _ in 0..20 {
        assert_eq!(say(&mut links, b"words"), 0);
    }
    assert!(links.last_unreadable().starts_with("not a frame of this version"));
    let frame = frame::encode(&beat(0xBBBB), Stamp::default(), None, None);
    assert_eq!(say(&mut links, &frame), 1, "nothing is lost by it");
}
