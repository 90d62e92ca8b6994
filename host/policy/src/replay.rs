//! Recorded decisions, decided again: by the same policy or another one, with the evidence as it
//! was, or with one piece of it changed.
//!
//! A decision is a pure function of situation, settings, memory and wall time, and the journal has
//! all four: the same component gives the same verdict, bit for bit.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use staffetta_sdk::{Context, Wall, failover, license, split_brain};

use crate::kind::{Kind, Subject};
use crate::policy::Policy;

/// A decision as the journal has it: JSON texts.
#[derive(Debug, Clone, Copy)]
pub struct Recorded<'a> {
    /// The situation.
    pub situation: &'a str,
    /// The settings.
    pub settings: &'a str,
    /// The policy's memory that went in.
    pub memory: Option<&'a str>,
    /// The wall time; `null` in journals of before it was kept.
    pub wall: &'a str,
}

/// What came of deciding again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Replayed {
    /// What it decides, in a word or two: such as `take-over`; `none` without a verdict.
    pub decided: String,
    /// Its reason, or why there is no verdict.
    pub reason: String,
    /// The complete verdict.
    pub verdict: Value,
    /// Instructions burnt.
    pub fuel: u64,
}

/// One piece of evidence, and what would be decided if it were otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Otherwise {
    /// The change, for people.
    pub change: String,
    /// What would be decided then.
    pub decided: String,
    /// And why.
    pub reason: String,
}

/// Decides a recorded question again.
///
/// # Errors
/// When the record is not one of this version, in words.
pub fn replay(policy: &Policy, recorded: &Recorded<'_>) -> Result<Replayed, String> {
    match policy.kind() {
        Kind::Failover => again::<failover::Situation>(policy, recorded),
        Kind::License => again::<license::Situation>(policy, recorded),
        Kind::SplitBrain => again::<split_brain::Situation>(policy, recorded),
    }
}

/// What a verdict decides, in a word or two. Two verdicts that say the same here differ in words
/// only.
#[must_use]
pub fn decided(kind: Kind, verdict: &Value) -> String {
    let word = |field: &str| match verdict.get(field) {
        Some(Value::String(word)) => word.clone(),
        Some(other) => other.to_string(),
        None => "?".to_owned(),
    };
    match kind {
        _ if verdict.is_null() => "none".to_owned(),
        Kind::Failover => word("intent"),
        Kind::License => {
            let (form, plan) = (word("may-form"), word("may-plan"));
            format!("{}, peer {}, form {form}, plan {plan}", word("mine"), word("peers"))
        }
        Kind::SplitBrain => {
            let serve = verdict.get("serve").and_then(Value::as_str).unwrap_or("whoever serves");
            let rulings = verdict.get("rulings").and_then(Value::as_array).map_or(0, Vec::len);
            format!("serve {serve}, {rulings} rulings")
        }
    }
}

fn again<S: Subject + DeserializeOwned>(
    policy: &Policy,
    recorded: &Recorded<'_>,
) -> Result<Replayed, String> {
    let situation: S = serde_json::from_str(recorded.situation)
        .map_err(|error| format!("its situation is not one of this version: {error}"))?;
    Ok(ask(policy, &situation, &context(recorded)?))
}

fn context(recorded: &Recorded<'_>) -> Result<Context, String> {
    let wall: Option<Wall> = serde_json::from_str(recorded.wall)
        .map_err(|error| format!("its wall time is not one of this version: {error}"))?;
    Ok(Context {
        settings: recorded.settings.to_owned(),
        memory: recorded.memory.map(str::to_owned),
        wall: wall.unwrap_or_default(),
    })
}

fn ask<S: Subject>(policy: &Policy, situation: &S, context: &Context) -> Replayed {
    // Fuel alone ends it: a busy machine must not change what is replayed.
    let budget = crate::Budget { wall_ms: REPLAY_MS_MAX, ..S::KIND.budget() };
    let decision = policy.decide(situation, context, budget);
    let (verdict, reason) = match decision.outcome {
        Ok(verdict) => {
            let verdict = serde_json::to_value(&verdict).unwrap_or(Value::Null);
            let reason = verdict.get("reason").and_then(Value::as_str).unwrap_or_default();
            (verdict.clone(), reason.to_owned())
        }
        Err(failure) => (Value::Null, failure.to_string()),
    };
    Replayed { decided: decided(S::KIND, &verdict), reason, verdict, fuel: decision.fuel }
}

/// A replay may take longer than a decision in service.
const REPLAY_MS_MAX: u32 = 5_000;

/// Changes one piece of evidence of a failover decision at a time and names those that would have
/// changed what is decided.
///
/// # Errors
/// When the record is not one of this version, in words.
pub fn otherwise(policy: &Policy, recorded: &Recorded<'_>) -> Result<Vec<Otherwise>, String> {
    if policy.kind() != Kind::Failover {
        return Ok(Vec::new());
    }
    let situation: failover::Situation = serde_json::from_str(recorded.situation)
        .map_err(|error| format!("its situation is not one of this version: {error}"))?;
    let context = context(recorded)?;
    let as_it_was = ask(policy, &situation, &context).decided;
    let mut found = Vec::new();
    for (change, situation) in variants(&situation) {
        let Replayed { decided, reason, .. } = ask(policy, &situation, &context);
        if decided != as_it_was {
            found.push(Otherwise { change, decided, reason });
        }
    }
    let trusted = !context.wall.trusted;
    let wall = Wall { trusted, ..context.wall.clone() };
    let Replayed { decided, reason, .. } = ask(policy, &situation, &Context { wall, ..context });
    if decided != as_it_was {
        let change = if trusted { "the clock were synchronised" } else { "the clock were not" };
        found.push(Otherwise { change: change.to_owned(), decided, reason });
    }
    Ok(found)
}

/// The situation with one piece of evidence changed, and the change in words that follow "if".
fn variants(was: &failover::Situation) -> Vec<(String, failover::Situation)> {
    use staffetta_sdk::Health;
    let mut all = Vec::new();
    let mut with = |change: String, edit: &dyn Fn(&mut failover::Situation)| {
        let mut situation = was.clone();
        edit(&mut situation);
        if situation != *was {
            all.push((change, situation));
        }
    };
    for answerer in [failover::Answerer::Nobody, failover::Answerer::Peer] {
        let text = match answerer {
            failover::Answerer::Nobody => "nobody answered on the service address",
            _ => "the peer answered on the service address",
        };
        with(text.into(), &|s| s.vips.iter_mut().for_each(|vip| vip.answerer = answerer));
    }
    for (at, link) in was.links.iter().enumerate() {
        with(format!("link {} had heard the peer now", link.name), &|s| {
            s.links[at].heard = Some(0)
        });
        with(format!("link {} had heard nothing", link.name), &|s| s.links[at].heard = None);
    }
    for (at, target) in was.me.targets.iter().enumerate() {
        for reachable in [true, false] {
            let not = if reachable { "" } else { "not " };
            let text = format!("reference {} were {not}reachable", target.name);
            with(text, &|s| s.me.targets[at].reachable = Some(reachable));
        }
    }
    for (at, fact) in was.me.facts.iter().enumerate() {
        with(format!("the fact {} were not known", fact.name), &|s| {
            s.me.facts.remove(at);
        });
    }
    with("services here were in order".into(), &|s| s.me.services = Health::Ok);
    with("services here had failed".into(), &|s| s.me.services = Health::Failed);
    with("the service network here were in order".into(), &|s| s.me.service_network = Health::Ok);
    with("the service network here had failed".into(), &|s| {
        s.me.service_network = Health::Failed;
    });
    with("the data here could be served".into(), &|s| s.me.promotable = true);
    with("the data here could not be served".into(), &|s| s.me.promotable = false);
    with("this node were in maintenance".into(), &|s| s.me.maintenance = true);
    with("this node were not in maintenance".into(), &|s| s.me.maintenance = false);
    let peer = |edit: fn(&mut staffetta_sdk::Node)| {
        move |s: &mut failover::Situation| s.peer.iter_mut().for_each(edit)
    };
    with("services of the peer were in order".into(), &peer(|p| p.services = Health::Ok));
    with("services of the peer had failed".into(), &peer(|p| p.services = Health::Failed));
    with("the data of the peer could be served".into(), &peer(|p| p.promotable = true));
    with("the peer were in maintenance".into(), &peer(|p| p.maintenance = true));
    with("the peer were not in maintenance".into(), &peer(|p| p.maintenance = false));
    with("the service had not moved lately".into(), &|s| {
        (s.changes_last_hour, s.since_change) = (0, u32::MAX);
    });
    for (seat, text) in [
        (failover::Seat::Mine, "the arbiter's register were this node's"),
        (failover::Seat::Peers, "the arbiter's register were the peer's"),
        (failover::Seat::Unreachable, "the arbiter did not answer"),
    ] {
        with(text.into(), &|s| s.arbiter.iter_mut().for_each(|arbiter| arbiter.seat = seat));
    }
    for synced in [true, false] {
        let not = if synced { "" } else { "not " };
        let text = format!("the register said that the peer has {not}everything");
        with(text, &|s| s.arbiter.iter_mut().for_each(|a| a.peer_synced = synced));
    }
    all
}
