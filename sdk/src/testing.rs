//! For unit tests of policies, run natively by `cargo test`.
//!
//! ```
//! use staffetta_sdk::failover::{Answerer, Question};
//! use staffetta_sdk::testing;
//!
//! let situation = testing::standby(Question::PeerSilent).silent_for(1_500).vip(Answerer::Nobody);
//! assert!(situation.build().silent());
//! ```

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::failover::{self, Answerer, Link, Question, Situation, Vip};
use crate::{Context, Fact, Health, Node, Role, Target, Value, Wall};

/// A healthy pair as its standby sees it.
pub fn standby(question: Question) -> Builder {
    Builder::new(question, Role::Standby, Role::Primary)
}

/// A healthy pair as its primary sees it.
pub fn primary(question: Question) -> Builder {
    Builder::new(question, Role::Primary, Role::Standby)
}

/// A node that started and heard nothing of its peer.
pub fn joining() -> Builder {
    let mut builder = Builder::new(Question::Start, Role::Joining, Role::Joining).without_peer();
    builder.0.since_change = 0;
    builder
}

/// A situation in the making. Starts as a healthy pair `na` (this node) and `nb`.
#[derive(Debug, Clone)]
pub struct Builder(Situation);

impl Builder {
    fn new(question: Question, mine: Role, peers: Role) -> Self {
        let link = Link {
            name: "lan".into(),
            heard: Some(20),
            echoed: Some(25),
            rtt_us: Some(200),
            ..Link::default()
        };
        let vip = Vip { address: "10.77.0.50/24".into(), ..Vip::default() };
        Self(Situation {
            question,
            me: healthy("na", mine),
            peer: Some(healthy("nb", peers)),
            peer_age: 20,
            links: vec![link],
            vips: vec![vip],
            arbiter: None,
            since_change: 86_400_000,
            changes_last_hour: 0,
        })
    }

    /// The peer has not been heard for this long, on any link.
    #[must_use]
    pub fn silent_for(mut self, ms: crate::Ms) -> Self {
        self.0.peer_age = ms;
        for link in &mut self.0.links {
            link.heard = Some(ms);
            link.echoed = Some(ms);
        }
        self
    }

    /// The peer has never been heard.
    #[must_use]
    pub fn without_peer(mut self) -> Self {
        self.0.peer = None;
        self.0.peer_age = crate::Ms::MAX;
        for link in &mut self.0.links {
            link.heard = None;
            link.echoed = None;
        }
        self
    }

    /// Who answers on the service address.
    #[must_use]
    pub fn vip(mut self, answerer: Answerer) -> Self {
        for vip in &mut self.0.vips {
            vip.answerer = answerer;
            vip.age = 5;
        }
        self
    }

    /// Both nodes see this reference so (`None`: not probed yet).
    #[must_use]
    pub fn reference(mut self, name: &str, reachable: Option<bool>) -> Self {
        let target = Target { name: name.into(), reachable, age: 50 };
        self.0.me.targets.push(target.clone());
        if let Some(peer) = &mut self.0.peer {
            peer.targets.push(target);
        }
        self
    }

    /// Changes this node.
    #[must_use]
    pub fn me(mut self, change: impl FnOnce(&mut Node)) -> Self {
        change(&mut self.0.me);
        self
    }

    /// Changes the peer, if there is one.
    #[must_use]
    pub fn peer(mut self, change: impl FnOnce(&mut Node)) -> Self {
        if let Some(peer) = &mut self.0.peer {
            change(peer);
        }
        self
    }

    /// Changes anything.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Situation)) -> Self {
        change(&mut self.0);
        self
    }

    /// The situation.
    pub fn build(self) -> Situation {
        self.0
    }
}

/// A healthy node.
pub fn healthy(name: &str, role: Role) -> Node {
    Node {
        name: name.into(),
        role,
        epoch: 4,
        in_role: 86_400_000,
        promotable: true,
        service_network: Health::Ok,
        services: Health::Ok,
        ..Node::default()
    }
}

/// A fresh yes-or-no fact.
pub fn flag(name: &str, flag: bool) -> Fact {
    Fact { name: name.into(), value: Value::Flag(flag), age: 0 }
}

/// A fresh number.
pub fn number(name: &str, number: i64) -> Fact {
    Fact { name: name.into(), value: Value::Number(number), age: 0 }
}

/// A time of day on a synchronised clock: weekday (Monday is 1), hour, minute.
pub fn wall(weekday: u8, hour: u16, minute: u16) -> Wall {
    // 2026-01-05 was a Monday.
    let unix_s = 1_767_571_200
        + i64::from(weekday.saturating_sub(1)) * 86_400
        + i64::from(hour) * 3_600
        + i64::from(minute) * 60;
    Wall { unix_s, weekday, minute_of_day: hour * 60 + minute, trusted: true, utc_offset_min: 0 }
}

/// A question, the settings, and what the policy must answer: one file of a policy's `cases`
/// folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Case {
    /// What the case shows.
    pub title: String,
    /// The settings of the policy.
    #[serde(default)]
    pub settings: serde_json::Value,
    /// What the policy remembers.
    #[serde(default)]
    pub memory: Option<String>,
    /// The time of day.
    #[serde(default)]
    pub wall: Wall,
    /// The evidence.
    pub situation: Situation,
    /// The intent that the policy must answer, such as `hand-over`.
    pub expect: String,
}

impl Case {
    /// The context of the question.
    pub fn context(&self) -> Context {
        let settings = match &self.settings {
            serde_json::Value::Null => "{}".to_string(),
            settings => settings.to_string(),
        };
        Context { settings, memory: self.memory.clone(), wall: self.wall.clone() }
    }
}

/// Reads every `*.json` of a folder, in the order of their names.
///
/// # Panics
///
/// When the folder or a file cannot be read or parsed: in a test, that is the right thing.
pub fn cases(folder: impl AsRef<Path>) -> Vec<Case> {
    let folder = folder.as_ref();
    let entries = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("cannot list {}: {error}", folder.display()));
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let read = |file: &std::path::PathBuf| {
        let text = std::fs::read_to_string(file)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()));
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("cannot parse {}: {error}", file.display()))
    };
    files.iter().map(read).collect()
}

/// Answers natively what the component would answer.
///
/// # Errors
///
/// The policy's fault.
pub fn decide<P: failover::Policy>(
    situation: &Situation,
    settings: &str,
    wall: Wall,
) -> failover::Outcome {
    let context = Context { settings: settings.into(), memory: None, wall };
    failover::answer::<P>(situation, &context)
}

/// Checks a policy against every case of a folder.
///
/// # Panics
///
/// When a verdict differs from the one expected, naming the case.
pub fn check_cases<P: failover::Policy>(folder: impl AsRef<Path>) {
    let cases = cases(folder);
    assert!(!cases.is_empty(), "there are no cases");
    for case in cases {
        let outcome = failover::answer::<P>(&case.situation, &case.context());
        let intent = match &outcome {
            Ok(verdict) => verdict.intent.to_string(),
            Err(fault) => fault.to_string(),
        };
        assert_eq!(intent, case.expect, "{}: {outcome:?}", case.title);
    }
}
