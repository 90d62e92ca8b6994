//! Whose data stays after both nodes served. The other side's is always archived first.
//!
//! The answer depends on what both nodes see alike (`a`, `b`, `serving`), so that they agree.

use serde::Deserialize;
use staffetta_sdk::split_brain::{Branch, Keep, Outcome, Policy, Ruling, Situation, Verdict};
use staffetta_sdk::{Given, split_brain_policy};

/// What a site can choose.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Whose data stays.
    pub keep: Rule,
}

/// Whose data stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// That of the node that serves now.
    #[default]
    Winner,
    /// That of the node that wrote last.
    MostRecentWrite,
    /// That of the node that served longest.
    LongestServed,
    /// Nobody's until an operator says so.
    AskOperator,
}

/// The policy.
pub struct Builtin;

impl Policy for Builtin {
    type Settings = Settings;

    const SETTINGS_SCHEMA: &'static str = include_str!("../settings.schema.json");

    fn resolve(situation: &Situation, given: &Given<Settings>) -> Outcome {
        let (keep, reason) = choose(situation, given.settings.keep);
        let serve = match keep {
            Keep::A => Some(situation.a.node.clone()),
            Keep::B => Some(situation.b.node.clone()),
            Keep::AskOperator | Keep::Merge(_) | Keep::Other(_) => situation.serving.clone(),
        };
        let ruling = |subject: &staffetta_sdk::split_brain::Subject| Ruling {
            kind: subject.kind,
            name: subject.name.clone(),
            part: None,
            keep: keep.clone(),
            reason: reason.clone(),
        };
        let rulings = situation.subjects.iter().map(ruling).collect();
        Ok(Verdict { serve, rulings, reason: reason.clone(), memory: None })
    }
}

/// One side of the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    A,
    B,
}

fn choose(situation: &Situation, rule: Rule) -> (Keep, String) {
    let side = match rule {
        Rule::Winner => winner(situation),
        Rule::MostRecentWrite => most_recent_write(situation),
        Rule::LongestServed => longest_served(situation),
        Rule::AskOperator => return (Keep::AskOperator, "the settings leave it to you".into()),
    };
    let Some((side, why)) = side else {
        return (Keep::AskOperator, format!("{} does not tell the two sides apart", name(rule)));
    };
    let (kept, archived, keep) = match side {
        Side::A => (&situation.a, &situation.b, Keep::A),
        Side::B => (&situation.b, &situation.a, Keep::B),
    };
    let reason =
        format!("the data of {} stays: {why}; that of {} is archived", kept.node, archived.node);
    (keep, reason)
}

fn name(rule: Rule) -> &'static str {
    match rule {
        Rule::Winner => "winner",
        Rule::MostRecentWrite => "most-recent-write",
        Rule::LongestServed => "longest-served",
        Rule::AskOperator => "ask-operator",
    }
}

/// The node that serves now; failing that, the higher reign.
fn winner(situation: &Situation) -> Option<(Side, &'static str)> {
    let Situation { a, b, serving, .. } = situation;
    match serving {
        Some(name) if *name == a.node => Some((Side::A, "it serves now")),
        Some(name) if *name == b.node => Some((Side::B, "it serves now")),
        Some(_) | None if a.epoch > b.epoch => Some((Side::A, "its reign is newer")),
        Some(_) | None if b.epoch > a.epoch => Some((Side::B, "its reign is newer")),
        Some(_) | None => None,
    }
}

fn most_recent_write(situation: &Situation) -> Option<(Side, &'static str)> {
    let age = |branch: &Branch| branch.last_write.map_or(u64::from(u32::MAX) + 1, u64::from);
    let (a, b) = (age(&situation.a), age(&situation.b));
    let side = match a.cmp(&b) {
        std::cmp::Ordering::Less => Side::A,
        std::cmp::Ordering::Greater => Side::B,
        std::cmp::Ordering::Equal => return winner(situation),
    };
    Some((side, "it wrote last"))
}

fn longest_served(situation: &Situation) -> Option<(Side, &'static str)> {
    let side = match situation.a.served.cmp(&situation.b.served) {
        std::cmp::Ordering::Greater => Side::A,
        std::cmp::Ordering::Less => Side::B,
        std::cmp::Ordering::Equal => return winner(situation),
    };
    Some((side, "it served longest"))
}

split_brain_policy!(Builtin);
