//! Every question of the built-in failover policy, as data.

use staffetta_failover::Builtin;
use staffetta_sdk::failover::{Answerer, Arbiter, Question, Seat, Verdict};
use staffetta_sdk::testing::{self, Builder, flag, joining, number, primary, standby, wall};
use staffetta_sdk::{Copied, Data, DataKind, Health, Role, Wall};

fn ask(builder: Builder, settings: &str, wall: Wall) -> Verdict {
    testing::decide::<Builtin>(&builder.build(), settings, wall).expect("a verdict")
}

/// The intent is this one, and the reason says this.
#[track_caller]
fn check(builder: Builder, intent: &str, reason: &str) {
    check_with(builder, "{}", Wall::default(), intent, reason);
}

#[track_caller]
fn check_with(builder: Builder, settings: &str, wall: Wall, intent: &str, reason: &str) {
    let verdict = ask(builder, settings, wall);
    assert_eq!(verdict.intent.to_string(), intent, "{}", verdict.reason);
    assert!(verdict.reason.contains(reason), "{reason:?} is not in {:?}", verdict.reason);
}

fn silent() -> Builder {
    standby(Question::PeerSilent).silent_for(1_500).vip(Answerer::Nobody)
}

#[test]
fn takes_over_from_a_silent_peer() {
    check(silent(), "take-over", "silent on every link");
    check(silent().reference("gateway", Some(true)), "take-over", "silent");
    let mixed = silent().reference("gateway", Some(false)).reference("trunk", Some(true));
    check(mixed, "take-over", "silent");
    check(silent().vip(Answerer::NotProbed), "take-over", "silent");
    let stranger = ask(silent().vip(Answerer::Stranger), "{}", Wall::default());
    assert!(stranger.because.iter().any(|line| line.contains("not of this pair")), "{stranger:?}");
}

#[test]
fn a_license_is_never_a_reason_against_a_takeover() {
    for standing in [staffetta_sdk::Standing::Expired, staffetta_sdk::Standing::Invalid] {
        check(silent().me(|me| me.license = standing), "take-over", "silent");
    }
}

#[test]
fn holds_while_the_peer_shows_life() {
    check(silent().vip(Answerer::Peer), "hold", "still answers on the service address");
    let verdict = ask(silent().vip(Answerer::Peer), "{}", Wall::default());
    assert_eq!(verdict.recheck, Some(100));
    let heard = standby(Question::PeerSilent).silent_for(100).vip(Answerer::Nobody);
    check(heard.clone(), "hold", "still heard on link lan");
    // One that is heard and does not serve is no reason to wait.
    check(heard.peer(|peer| peer.role = Role::Standby), "take-over", "silent");
}

#[test]
fn holds_when_it_could_not_serve_either() {
    check(silent().me(|me| me.services = Health::Failed), "hold", "services of this node");
    check(silent().me(|me| me.service_network = Health::Failed), "hold", "service network");
    check(silent().reference("gateway", Some(false)), "hold", "cut off itself");
    check(silent().reference("gateway", None), "hold", "not probed yet");
    check(silent().me(|me| me.promotable = false), "ask-operator", "data of this node");
    let careless = r#"{"require_references": false}"#;
    let cut = silent().reference("gateway", Some(false));
    check_with(cut, careless, Wall::default(), "take-over", "silent");
}

#[test]
fn maintenance_disarms() {
    check(silent().me(|me| me.maintenance = true), "hold", "this node is in maintenance");
    check(silent().peer(|peer| peer.maintenance = true), "hold", "peer is in maintenance");
}

#[test]
fn goes_on_alone_unless_isolated() {
    let alone = || primary(Question::GoOnAlone).silent_for(800);
    check(alone(), "go-on-alone", "no reference configured");
    check(alone().reference("gateway", Some(true)), "go-on-alone", "references answer");
    check(alone().reference("gateway", None), "go-on-alone", "probed yet");
    check(alone().reference("gateway", Some(false)), "step-down", "isolated");
    check(alone().me(|me| me.service_network = Health::Failed), "step-down", "isolated");
    let lost = Arbiter { seat: Seat::Peers, alone: true, ..Arbiter::default() };
    check(alone().with(|s| s.arbiter = Some(lost)), "step-down", "arbiter");
    let stale = Arbiter { seat: Seat::Peers, alone: false, ..Arbiter::default() };
    check(alone().with(|s| s.arbiter = Some(stale)), "go-on-alone", "no reference");
}

#[test]
fn an_alone_primary_that_is_cut_off_steps_down_at_a_review() {
    let alone = || primary(Question::Review).silent_for(2_000);
    check(alone(), "hold", "");
    check(alone().reference("gateway", Some(false)), "step-down", "isolated");
    check(alone().me(|me| me.service_network = Health::Failed), "step-down", "isolated");
    // Beside a peer that is there, a dead gateway moves nobody.
    let paired = || primary(Question::Review).reference("gateway", Some(false));
    let both = paired().peer(|peer| {
        peer.targets =
            vec![staffetta_sdk::Target { name: "gateway".into(), reachable: Some(false), age: 0 }];
    });
    check(both, "hold", "no better");
}

#[test]
fn starts_alone_only_where_it_was_primary() {
    let was =
        || joining().vip(Answerer::Nobody).me(|me| me.facts.push(flag("host.was-primary", true)));
    check(was(), "take-over", "primary last");
    check(was().reference("gateway", Some(true)), "take-over", "primary last");
    check(was().reference("gateway", Some(false)), "hold", "cut off");
    check(was().vip(Answerer::Peer), "hold", "still answers");
    check(was().vip(Answerer::Stranger), "ask-operator", "not of this pair");
    check(was().vip(Answerer::NotProbed), "take-over", "cannot be probed");
    check(was().me(|me| me.maintenance = true), "ask-operator", "maintenance");
    check(joining().vip(Answerer::Nobody), "ask-operator", "start --alone");
    let not = joining().me(|me| me.facts.push(flag("host.was-primary", false)));
    check(not, "ask-operator", "start --alone");
}

#[test]
fn the_arbiter_vouches_for_data() {
    let register = |seat, peer_synced| Arbiter { seat, peer_synced, ..Arbiter::default() };
    let starts = |arbiter| joining().vip(Answerer::Nobody).with(|s| s.arbiter = Some(arbiter));
    check(starts(register(Seat::Mine, false)), "take-over", "arbiter answers");
    check(starts(register(Seat::Peers, true)), "take-over", "arbiter answers");
    check(starts(register(Seat::Peers, false)), "ask-operator", "start --alone");
    check(starts(register(Seat::Free, true)), "ask-operator", "start --alone");
    check(starts(register(Seat::Unreachable, true)), "ask-operator", "start --alone");
    let cut = starts(register(Seat::Peers, true)).reference("gateway", Some(false));
    check(cut, "hold", "cut off");
    let takes = |arbiter| silent().with(|s| s.arbiter = Some(arbiter));
    check(takes(register(Seat::Peers, true)), "take-over", "silent");
    check(takes(register(Seat::Mine, false)), "take-over", "silent");
    check(takes(register(Seat::Peers, false)), "ask-operator", "not here");
}

#[test]
fn hands_over_when_the_peer_is_strictly_better() {
    let failed = || primary(Question::Review).me(|me| me.services = Health::Failed);
    check(failed(), "hand-over", "services of na have failed");
    check(failed().peer(|peer| peer.services = Health::Failed), "hold", "cannot take over");
    check(failed().peer(|peer| peer.promotable = false), "hold", "data of nb");
    check(failed().peer(|peer| peer.maintenance = true), "hold", "maintenance");
    check(failed().peer(|peer| peer.role = Role::Fenced), "hold", "fenced");
    check(failed().silent_for(9_000), "hold", "nothing was heard");
    check(failed().without_peer(), "hold", "no peer");
    let cut = primary(Question::Review).reference("gateway", Some(false));
    check(cut.clone(), "hold", "no better");
    let better = cut.peer(|peer| peer.targets[0].reachable = Some(true));
    check(better, "hand-over", "reaches no reference");
    let both = primary(Question::Review).me(|me| me.service_network = Health::Failed);
    check(both, "hand-over", "service network of na");
}

#[test]
fn moves_of_choice_are_damped() {
    let failed = || primary(Question::Review).me(|me| me.services = Health::Failed);
    check(failed().with(|s| s.since_change = 10_000), "hold", "held down for 50 s");
    check(failed().with(|s| s.changes_last_hour = 6), "hold", "6 times in an hour");
    let now = r#"{"hold_down_ms": 0}"#;
    check_with(failed().with(|s| s.since_change = 1), now, Wall::default(), "hand-over", "na");
    // A takeover never waits.
    check(silent().with(|s| s.since_change = 1), "take-over", "silent");
}

#[test]
fn is_sticky() {
    let preferred = primary(Question::Review).peer(|peer| peer.preferred = true);
    check(preferred, "hold", "waits for an operator");
    check(primary(Question::Review), "hold", "all is well");
    check(standby(Question::Review), "hold", "role standby");
}

#[test]
fn fails_back_as_configured() {
    let back = || primary(Question::Review).peer(|peer| peer.preferred = true);
    let hold = r#"{"failback": {"after-hold": {"hold_ms": 600000}}}"#;
    check_with(back(), hold, Wall::default(), "hand-over", "nb is preferred");
    let young = back().peer(|peer| peer.in_role = 1_000);
    check_with(young, hold, Wall::default(), "hold", "must be well for");
    let sick = back().peer(|peer| peer.services = Health::Failed);
    check_with(sick, hold, Wall::default(), "hold", "services of nb");

    let window = r#"{"failback": {"in-window": {"from": "23:00", "to": "04:00",
                     "weekdays": [5]}}}"#;
    check_with(back(), window, wall(5, 23, 30), "hand-over", "nb");
    check_with(back(), window, wall(6, 3, 59), "hand-over", "nb");
    check_with(back(), window, wall(6, 4, 0), "hold", "window");
    check_with(back(), window, wall(6, 23, 30), "hold", "window");
    check_with(back(), window, wall(5, 3, 0), "hold", "window");
    let untrusted = Wall { trusted: false, ..wall(5, 23, 30) };
    check_with(back(), window, untrusted, "hold", "not synchronised");

    let idle = r#"{"failback": {"when-idle": {"fact": "site.active-calls", "max": 2}}}"#;
    let calls = |calls| back().me(|me| me.facts.push(number("site.active-calls", calls)));
    check_with(calls(2), idle, Wall::default(), "hand-over", "nb");
    check_with(calls(3), idle, Wall::default(), "hold", "site.active-calls is 3");
    check_with(back(), idle, Wall::default(), "hold", "not known");
    let yes = back().me(|me| me.facts.push(flag("site.active-calls", true)));
    check_with(yes, idle, Wall::default(), "hold", "not a whole number");
}

#[test]
fn switches_over_when_asked_and_possible() {
    check(primary(Question::Switchover), "hand-over", "nb is ready");
    check(standby(Question::Switchover), "hand-over", "na is ready");
    check(primary(Question::Switchover).without_peer(), "hold", "no peer");
    let failed = primary(Question::Switchover).peer(|peer| peer.services = Health::Failed);
    check(failed, "hold", "services of nb have failed");
    let busy = primary(Question::Switchover).peer(|peer| peer.maintenance = true);
    check(busy, "hold", "maintenance");
}

#[test]
fn holds_at_a_question_of_a_later_host() {
    check(primary(Question::Other("levitate".into())), "hold", "levitate");
}

fn cdr(copy: Copied, behind_items: u64, behind: u32) -> Data {
    Data { name: "cdr".into(), copy, behind_items, behind, ..Data::default() }
}

const LIMITS: &str = r#"{"lag_items_max": 100, "lag_ms_max": 5000}"#;

/// The answer of a standby whose database is like this, and of an operator's move to it.
#[track_caller]
fn check_data(data: Data, settings: &str, why: Option<&str>) {
    let (takes, hands) =
        if why.is_some() { ("ask-operator", "hold") } else { ("take-over", "hand-over") };
    let mine = silent().me(|me| me.data.push(data.clone()));
    check_with(mine, settings, Wall::default(), takes, why.unwrap_or("silent"));
    let move_to = primary(Question::Switchover).peer(|peer| peer.data.push(data.clone()));
    check_with(move_to, settings, Wall::default(), hands, why.unwrap_or("ready"));
    let mut failed = primary(Question::Review).me(|me| me.services = Health::Failed);
    failed = failed.peer(|peer| peer.data.push(data));
    check_with(failed, settings, Wall::default(), hands, why.unwrap_or("well"));
}

#[test]
fn a_database_that_lags_is_not_taken_over_with() {
    check_data(cdr(Copied::Aligned, 0, 0), LIMITS, None);
    check_data(cdr(Copied::Behind, 100, 5_000), LIMITS, None);
    check_data(cdr(Copied::Behind, 101, 1), LIMITS, Some("cdr of n"));
    check_data(cdr(Copied::Behind, 101, 1), LIMITS, Some("lacks 101 changes"));
    check_data(cdr(Copied::Behind, 1, 5_001), LIMITS, Some("5001 ms behind"));
    check_data(cdr(Copied::Behind, 1_000_000, 1_000_000), "{}", None);
    check_data(cdr(Copied::Behind, 1, 0), r#"{"lag_items_max": 0}"#, Some("lacks 1 changes"));
    for settings in ["{}", LIMITS] {
        check_data(cdr(Copied::Diverged, 0, 0), settings, Some("changes of its own"));
        check_data(cdr(Copied::Unknown, 0, 0), settings, Some("not known"));
    }
    let tree = Data { kind: DataKind::Tree, ..cdr(Copied::Unknown, 0, 0) };
    check_data(tree, LIMITS, None);
}

#[test]
fn whoever_was_primary_last_starts_with_data_that_nobody_compared() {
    let start = |was| {
        let me = joining().vip(Answerer::Nobody).me(|me| {
            me.facts.push(flag("host.was-primary", was));
            me.data.push(cdr(Copied::Unknown, 0, 0));
        });
        let register = Arbiter { seat: Seat::Peers, peer_synced: true, ..Arbiter::default() };
        me.with(|s| s.arbiter = Some(register))
    };
    check(start(true), "take-over", "arbiter answers");
    check(start(false), "ask-operator", "not known");
}
