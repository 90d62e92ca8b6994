//! Checks the license documents of both nodes.
//!
//! A document is JSON: `payload`, base64 of the license as JSON, and `signature`, the Ed25519
//! signature of those decoded bytes in hexadecimal. Keys that may sign come in the settings;
//! without any, licensing is off. What a license decides is the forming of a pair and planned
//! moves: taking over from a dead peer never depends on it.

mod document;

use serde::Deserialize;
use staffetta_sdk::license::{Holder, Outcome, Policy, Situation, Verdict};
use staffetta_sdk::{Fact, Given, Standing, license_policy};

pub use document::{License, read};

const DAY_S: i64 = 86_400;
/// How often to look at a license that is in order.
const RECHECK_S: i64 = 3_600;
/// An operator hears of the end of the term this long before.
const WARNING_S: i64 = 30 * DAY_S;

/// What a site can choose.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Ed25519 public keys in hexadecimal that may sign licenses. None: licensing is off.
    pub trusted_keys: Vec<String>,
}

/// The policy.
pub struct Builtin;

impl Policy for Builtin {
    type Settings = Settings;

    const SETTINGS_SCHEMA: &'static str = include_str!("../settings.schema.json");

    fn judge(situation: &Situation, given: &Given<Settings>) -> Outcome {
        let settings = &given.settings;
        if settings.trusted_keys.is_empty() {
            return Ok(Verdict {
                may_form: true,
                may_plan: true,
                reason: "licensing is off: no trusted license key is configured".into(),
                ..Verdict::default()
            });
        }
        // A clock that was set back does not extend a license.
        let now_s = given.wall.unix_s.max(situation.latest_seen_s);
        let mine = judge(&situation.me, settings, now_s);
        let peers = situation.peer.as_ref().map(|peer| judge(peer, settings, now_s));
        let mut verdict = verdict(situation, mine, peers, now_s);
        if given.wall.unix_s.saturating_add(DAY_S) < situation.latest_seen_s {
            verdict.warnings.push(
                "the clock of this node was set back: the latest time it ever showed counts".into(),
            );
        }
        Ok(verdict)
    }

    fn check(settings: &Settings) -> Vec<String> {
        let wrong = settings.trusted_keys.iter().filter(|key| document::key(key).is_none());
        wrong.map(|key| format!("trusted_keys: \"{key}\" is not an Ed25519 key in hex")).collect()
    }
}

/// How one node's license stands.
struct Judged {
    standing: Standing,
    text: String,
    license: Option<License>,
}

fn judge(holder: &Holder, settings: &Settings, now_s: i64) -> Judged {
    let node = &holder.node;
    let Some(bytes) = &holder.document else {
        let text = format!("{node} has no license document");
        return Judged { standing: Standing::Unknown, text, license: None };
    };
    let license = match document::read(bytes, &settings.trusted_keys) {
        Ok(license) => license,
        Err(why) => {
            let text = format!("the license of {node} is not valid: {why}");
            return Judged { standing: Standing::Invalid, text, license: None };
        }
    };
    let (standing, text) = in_term(holder, &license, now_s);
    Judged { standing, text, license: Some(license) }
}

/// A genuine license: is it this node's, and is it its time?
fn in_term(holder: &Holder, license: &License, now_s: i64) -> (Standing, String) {
    let node = &holder.node;
    let id = &license.license_id;
    if !license.is_for(&holder.identity) {
        let why = format!(
            "license {id} was not issued for {node}: its identity is not in it; ask for one for \
             the identity that `staffetta identity` prints"
        );
        return (Standing::Invalid, why);
    }
    if now_s < license.not_before_s {
        let days = (license.not_before_s - now_s).div_euclid(DAY_S) + 1;
        return (Standing::Invalid, format!("license {id} of {node} begins in {days} days"));
    }
    if now_s < license.not_after_s {
        let days = (license.not_after_s - now_s).div_euclid(DAY_S);
        return (Standing::Valid, format!("license {id} of {node} is valid for {days} more days"));
    }
    let grace_s = license.grace_until_s();
    if now_s < grace_s {
        let days = (grace_s - now_s).div_euclid(DAY_S) + 1;
        let text = format!("license {id} of {node} ended; it is honored for {days} more days");
        return (Standing::Grace, text);
    }
    (Standing::Expired, format!("license {id} of {node} has expired: ask for a new one"))
}

fn honored(standing: Standing) -> bool {
    match standing {
        Standing::NotRequired | Standing::Valid | Standing::Grace => true,
        Standing::Expired | Standing::Invalid | Standing::Unknown => false,
    }
}

/// Both nodes together.
fn verdict(situation: &Situation, mine: Judged, peers: Option<Judged>, now_s: i64) -> Verdict {
    let peers_standing = peers.as_ref().map_or(Standing::Unknown, |peers| peers.standing);
    let both = honored(mine.standing) && honored(peers_standing);
    // A pair that is formed plans on this node's license while the peer's is not at hand.
    let may_plan = honored(mine.standing) && (peers.is_none() || honored(peers_standing));
    let mut warnings = Vec::new();
    for judged in std::iter::once(&mine).chain(&peers) {
        let ends_soon = judged.license.as_ref().is_some_and(|license| {
            judged.standing == Standing::Valid && license.not_after_s - now_s < WARNING_S
        });
        if judged.standing != Standing::Valid || ends_soon {
            warnings.push(judged.text.clone());
        }
    }
    let mut reason = mine.text.clone();
    if let Some(peers) = &peers {
        reason = format!("{reason}; {}", peers.text);
    }
    if !both && !situation.formed {
        reason = format!("{reason}. The pair does not form without licenses for both nodes");
    }
    let license = mine.license.as_ref();
    Verdict {
        mine: mine.standing,
        peers: peers_standing,
        may_form: both,
        may_plan,
        valid_until_s: license.map(|license| license.not_after_s),
        grace_until_s: license.map(License::grace_until_s),
        features: license.map_or_else(Vec::<Fact>::new, License::features),
        warnings,
        reason,
        recheck_s: Some(recheck_s(license, now_s)),
        memory: None,
    }
}

/// At the next date that changes the answer, but within an hour.
fn recheck_s(license: Option<&License>, now_s: i64) -> u32 {
    let Some(license) = license else { return RECHECK_S as u32 };
    let dates = [license.not_before_s, license.not_after_s, license.grace_until_s()];
    let next = dates.iter().filter(|date| **date > now_s).map(|date| date - now_s).min();
    next.unwrap_or(RECHECK_S).clamp(1, RECHECK_S) as u32
}

license_policy!(Builtin);
