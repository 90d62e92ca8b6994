//! The built-in failover policy: careful with evidence, sticky, and the same on both nodes.
//!
//! Every answer names the evidence that it rests on. A license is never a reason against a
//! takeover.

mod failback;
mod settings;

use staffetta_sdk::failover::{
    Answerer, Arbiter, Outcome, Policy, Question, References, Seat, Situation, Verdict,
    ask_operator, go_on_alone, hand_over, hold, step_down, take_over,
};
use staffetta_sdk::{Copied, Data, DataKind, Given, Health, Node, Role, failover_policy};

pub use settings::{Failback, Settings};

/// How soon to look again while evidence is missing.
const EVIDENCE_RECHECK_MS: u32 = 100;
/// How soon to look again while a condition of the pair lasts.
const CONDITION_RECHECK_MS: u32 = 1_000;
/// A peer that was heard less than this ago is not silent.
const SILENCE_MS_MIN: u32 = 250;
/// A peer that was heard less than this ago is there.
const PRESENCE_MS_MIN: u32 = 1_000;
/// A peer that was heard longer ago than this is not there for a planned handover.
const PRESENCE_MS_MAX: u32 = 5_000;

/// The policy.
pub struct Builtin;

impl Policy for Builtin {
    type Settings = Settings;

    const SETTINGS_SCHEMA: &'static str = include_str!("../settings.schema.json");
    const FACTS_USED: &'static [&'static str] = &["host.was-primary"];

    fn decide(situation: &Situation, given: &Given<Settings>) -> Outcome {
        Ok(match &situation.question {
            Question::Start => start(situation, &given.settings),
            Question::PeerSilent => peer_silent(situation, &given.settings),
            Question::GoOnAlone => lease_runs_out(situation, &given.settings),
            Question::Review => review(situation, given),
            Question::Switchover => switchover(situation, &given.settings),
            Question::Other(name) => hold(format!("the question {name} is not known here")),
        })
    }

    fn check(settings: &Settings) -> Vec<String> {
        settings.wrong()
    }
}

/// The peer was not met within the join timeout.
fn start(situation: &Situation, settings: &Settings) -> Verdict {
    let me = &situation.me;
    if me.maintenance {
        return ask_operator("this node is in maintenance: it does not start alone");
    }
    let arbitrated = situation.arbiter.as_ref().is_some_and(vouches);
    let was_primary = me.flag("host.was-primary") == Some(true);
    if !was_primary && !arbitrated {
        return ask_operator(
            "this node was not primary last, and its peer does not answer: the peer may have newer \
             data. Start it with `staffetta start --alone` if the peer is gone",
        );
    }
    if let Some(obstacle) = own_obstacle(situation, settings) {
        return obstacle;
    }
    // Whoever was primary last has the newest data; there was nobody to compare it with.
    if let Some(why) = lagging(me, settings).filter(|_| !was_primary) {
        return ask_operator(why);
    }
    if situation.answers(Answerer::Stranger) {
        return ask_operator("a machine that is not of this pair answers on the service address")
            .recheck_ms(CONDITION_RECHECK_MS);
    }
    let reason = if arbitrated {
        "the arbiter answers, and everything that the peer acknowledged is here"
    } else if situation.answers(Answerer::NotProbed) {
        // A routed address cannot be probed; where it can, the host probes before it asks.
        "it was primary last, and the service address cannot be probed"
    } else {
        "it was primary last, and nobody answers on the service address"
    };
    evidence(situation, take_over(reason))
}

/// The register is known, and its holder left nothing that the other node does not have.
fn vouches(arbiter: &Arbiter) -> bool {
    match arbiter.seat {
        Seat::Mine => true,
        Seat::Peers => arbiter.peer_synced,
        Seat::Free | Seat::Unreachable => false,
    }
}

/// A standby's promise to a silent primary ran out.
fn peer_silent(situation: &Situation, settings: &Settings) -> Verdict {
    let me = &situation.me;
    if me.maintenance {
        return hold("takeover is disarmed: this node is in maintenance");
    }
    if situation.peer.as_ref().is_some_and(|peer| peer.maintenance) {
        return hold("takeover is disarmed: the peer is in maintenance");
    }
    if let Some(link) = talking_primary(situation) {
        return hold(format!("the peer is still heard on link {link}"))
            .recheck_ms(EVIDENCE_RECHECK_MS);
    }
    if let Some(obstacle) = own_obstacle(situation, settings) {
        return obstacle;
    }
    if let Some(why) = lagging(me, settings) {
        // The peer is gone: what is missing does not arrive by waiting.
        return ask_operator(why);
    }
    let strangers = situation.answers(Answerer::Stranger);
    let verdict = evidence(situation, take_over("the peer is silent on every link"));
    if strangers {
        verdict.because("a machine that is not of this pair answers on the service address")
    } else {
        verdict
    }
}

/// The link on which a peer that serves, or is about to, was heard a moment ago.
fn talking_primary(situation: &Situation) -> Option<&str> {
    let peer = situation.peer.as_ref()?;
    let serves = match peer.role {
        Role::Primary | Role::Candidate | Role::Draining => true,
        Role::Joining | Role::Standby | Role::Fenced => false,
    };
    let mut links = situation.links.iter();
    let heard = links.find(|link| link.heard.is_some_and(|age| age < SILENCE_MS_MIN))?;
    serves.then_some(heard.name.as_str())
}

/// Why this node should not become primary now, by what it knows of itself and of the network.
fn own_obstacle(situation: &Situation, settings: &Settings) -> Option<Verdict> {
    let me = &situation.me;
    if situation.answers(Answerer::Peer) {
        let reason = "the peer still answers on the service address: the heartbeat path is cut, \
                      not the peer";
        return Some(hold(reason).recheck_ms(EVIDENCE_RECHECK_MS));
    }
    if me.services == Health::Failed {
        let reason = format!("services of this node have failed: {}", failed_checks(me));
        return Some(hold(reason).recheck_ms(CONDITION_RECHECK_MS));
    }
    if me.service_network == Health::Failed {
        let reason = "the service network of this node has failed";
        return Some(hold(reason).recheck_ms(CONDITION_RECHECK_MS));
    }
    if !me.promotable {
        let reason = "the data of this node may not be served: changes of the peer are missing or \
                      both sides changed";
        return Some(ask_operator(reason));
    }
    let missing = |arbiter: &Arbiter| arbiter.seat == Seat::Peers && !arbiter.peer_synced;
    if situation.arbiter.as_ref().is_some_and(missing) {
        let reason = "the arbiter's register says that the peer acknowledged changes which are not \
                      here";
        return Some(ask_operator(reason));
    }
    if !settings.require_references {
        return None;
    }
    match me.references() {
        References::NotConfigured | References::Reachable => None,
        References::NotProbed => {
            let reason = "the references outside the pair were not probed yet";
            Some(hold(reason).recheck_ms(EVIDENCE_RECHECK_MS))
        }
        References::Unreachable => {
            let reason = "no reference outside the pair answers: this node is cut off itself";
            Some(hold(reason).recheck_ms(CONDITION_RECHECK_MS))
        }
    }
}

/// The first database of a node that should not be served as it is.
fn lagging(node: &Node, settings: &Settings) -> Option<String> {
    let mut databases = node.data.iter().filter(|data| data.kind == DataKind::Database);
    databases.find_map(|data| too_old(node, data, settings))
}

fn too_old(node: &Node, data: &Data, settings: &Settings) -> Option<String> {
    let (name, owner) = (&data.name, &node.name);
    match data.copy {
        Copied::Aligned => None,
        Copied::Diverged => Some(format!(
            "the database {name} of {owner} has changes of its own: see `staffetta db status`"
        )),
        Copied::Unknown => Some(format!("how old the database {name} of {owner} is, is not known")),
        Copied::Behind if settings.lag_items_max.is_some_and(|max| data.behind_items > max) => {
            let missing = data.behind_items;
            Some(format!("the database {name} of {owner} lacks {missing} changes"))
        }
        Copied::Behind if settings.lag_ms_max.is_some_and(|max| data.behind > max) => {
            let behind_ms = data.behind;
            Some(format!("the database {name} of {owner} is {behind_ms} ms behind"))
        }
        Copied::Behind => None,
    }
}

/// The names of the checks that failed.
fn failed_checks(node: &Node) -> String {
    let failed = node.checks.iter().filter(|check| check.health == Health::Failed);
    let names: Vec<&str> = failed.map(|check| check.name.as_str()).collect();
    if names.is_empty() { "no check named".to_string() } else { names.join(", ") }
}

/// A primary's lease runs out because its standby is silent.
fn lease_runs_out(situation: &Situation, settings: &Settings) -> Verdict {
    let me = &situation.me;
    // Without `alone` it is a record of the peer's reign before this one.
    let lost = |arbiter: &Arbiter| arbiter.seat == Seat::Peers && arbiter.alone;
    if situation.arbiter.as_ref().is_some_and(lost) {
        return step_down("the arbiter has given the service to the peer");
    }
    if let Some(why) = isolated(me, settings) {
        return step_down(why);
    }
    let verdict = match me.references() {
        References::Reachable => go_on_alone("the standby is silent, the references answer"),
        References::Unreachable => go_on_alone("the standby is silent, references do not count"),
        References::NotProbed => go_on_alone("the standby is silent, no reference was probed yet"),
        References::NotConfigured => go_on_alone("the standby is silent, no reference configured"),
    };
    evidence(situation, verdict)
}

/// Why a node that does not hear its peer is cut off itself.
fn isolated(me: &Node, settings: &Settings) -> Option<&'static str> {
    if me.service_network == Health::Failed {
        return Some("isolated: the service network of this node has failed");
    }
    let cut = settings.require_references && me.references() == References::Unreachable;
    cut.then_some("isolated: neither the peer nor any reference outside the pair answers")
}

/// Evidence changed, or a recheck came.
fn review(situation: &Situation, given: &Given<Settings>) -> Verdict {
    let me = &situation.me;
    if me.role != Role::Primary {
        return hold(format!("nothing to review in role {}", me.role));
    }
    let mut ages = situation.links.iter().map(|link| link.heard);
    let alone = ages.all(|heard| heard.is_none_or(|age| age > PRESENCE_MS_MIN));
    if let Some(why) = isolated(me, &given.settings).filter(|_| alone) {
        return step_down(why);
    }
    let Some(peer) = &situation.peer else { return hold("there is no peer to move to") };
    let Some(trouble) = trouble(me, &given.settings) else {
        return failback::review(situation, peer, given);
    };
    if let Some(why) = no_taker(situation, peer, &given.settings) {
        return hold(format!("{trouble}, but the peer cannot take over: {why}"))
            .recheck_ms(CONDITION_RECHECK_MS);
    }
    if self::trouble(peer, &given.settings).is_some() {
        return hold(format!("{trouble}, but the peer is no better"))
            .recheck_ms(CONDITION_RECHECK_MS);
    }
    damped(situation, &given.settings, hand_over(format!("{trouble}, and the peer is well")))
}

/// What is wrong with a node that serves.
fn trouble(node: &Node, settings: &Settings) -> Option<String> {
    if node.services == Health::Failed {
        Some(format!("services of {} have failed ({})", node.name, failed_checks(node)))
    } else if node.service_network == Health::Failed {
        Some(format!("the service network of {} has failed", node.name))
    } else if settings.require_references && node.references() == References::Unreachable {
        Some(format!("{} reaches no reference outside the pair", node.name))
    } else {
        None
    }
}

/// Why a node cannot take the service over as planned.
fn no_taker(situation: &Situation, taker: &Node, settings: &Settings) -> Option<String> {
    let name = &taker.name;
    if situation.peer_age > PRESENCE_MS_MAX {
        Some(format!("nothing was heard of the peer for {} s", situation.peer_age / 1_000))
    } else if taker.maintenance {
        Some(format!("{name} is in maintenance"))
    } else if taker.role == Role::Fenced {
        Some(format!("{name} is fenced: see `staffetta status`"))
    } else if taker.role == Role::Joining {
        Some(format!("{name} is still joining"))
    } else if taker.services == Health::Failed {
        Some(format!("services of {name} have failed ({})", failed_checks(taker)))
    } else if taker.service_network == Health::Failed {
        Some(format!("the service network of {name} has failed"))
    } else if !taker.promotable {
        Some(format!("the data of {name} may not be served yet"))
    } else {
        lagging(taker, settings)
    }
}

/// Holds a move of choice back while the service moved a short while ago, or too often.
fn damped(situation: &Situation, settings: &Settings, verdict: Verdict) -> Verdict {
    let rest_ms = settings.hold_down_ms.saturating_sub(situation.since_change);
    if rest_ms > 0 {
        return hold(format!(
            "{}: held down for {} s more",
            verdict.reason,
            rest_ms.div_ceil(1_000)
        ))
        .recheck_ms(rest_ms);
    }
    if situation.changes_last_hour >= settings.changes_per_hour_max {
        let moved = situation.changes_last_hour;
        return hold(format!("{}: held, it moved {moved} times in an hour", verdict.reason))
            .recheck_ms(60_000);
    }
    verdict
}

/// An operator asks for a planned handover.
fn switchover(situation: &Situation, settings: &Settings) -> Verdict {
    let Some(peer) = &situation.peer else {
        return hold("there is no peer to hand over to");
    };
    let taker = if situation.me.role == Role::Primary { peer } else { &situation.me };
    match no_taker(situation, taker, settings) {
        Some(why) => hold(format!("cannot hand over: {why}")),
        None => hand_over(format!("an operator asked, and {} is ready", taker.name)),
    }
}

/// Adds what is known about the network to a verdict.
fn evidence(situation: &Situation, verdict: Verdict) -> Verdict {
    let heard = match situation.heard() {
        Some(age) => format!("last heard {age} ms ago on {} links", situation.links.len()),
        None => "never heard".to_string(),
    };
    let answerer = if situation.silent() {
        "nobody answers on the service addresses"
    } else {
        "the service addresses were not all probed"
    };
    let references = match situation.me.references() {
        References::NotConfigured => "no references are configured",
        References::Reachable => "a reference outside the pair answers",
        References::Unreachable => "no reference outside the pair answers",
        References::NotProbed => "references were not probed yet",
    };
    verdict.because(heard).because(answerer).because(references)
}

failover_policy!(Builtin);
