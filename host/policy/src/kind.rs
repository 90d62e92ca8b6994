//! The kinds of policy, and what each kind is asked.

use std::fmt;

use serde::{Deserialize, Serialize};
use staffetta_sdk::failover::{self, Question};
use staffetta_sdk::{license, split_brain};
use wasmtime::component::{ComponentType, Lift, Lower};

use crate::limits::{Budget, Note};
use crate::sanitize;

/// The namespace, name and version of the WIT package that this host speaks.
pub(crate) const PACKAGE: &str = "staffetta:policy/";
/// The version that this host speaks.
pub(crate) const PACKAGE_VERSION: &str = "0.1.0";

/// What a policy decides about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Who should serve.
    Failover,
    /// What the license allows.
    License,
    /// Whose data stays after both nodes served.
    SplitBrain,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Failover, Self::License, Self::SplitBrain];

    /// The name in the configuration and in the WIT file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::License => "license",
            Self::SplitBrain => "split-brain",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The interface that a policy of this kind exports.
    pub(crate) fn interface(self) -> String {
        format!("{PACKAGE}{}@{PACKAGE_VERSION}", self.name())
    }

    /// The function that answers.
    pub(crate) fn function(self) -> &'static str {
        match self {
            Self::Failover => "decide",
            Self::License => "judge",
            Self::SplitBrain => "resolve",
        }
    }

    /// What one decision of this kind may use.
    ///
    /// Failover decisions lie inside the lease; license decisions verify signatures (2.8 million
    /// fuel each) and are never on the failover path.
    pub fn budget(self) -> Budget {
        match self {
            Self::Failover => Budget { fuel: 10_000_000, wall_ms: 20 },
            Self::License => Budget { fuel: 100_000_000, wall_ms: 1_000 },
            Self::SplitBrain => Budget { fuel: 100_000_000, wall_ms: 1_000 },
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
}

/// The situation of one kind: the question that a policy of that kind answers.
pub trait Subject: sealed::Sealed + ComponentType + Lower + Send + Sync + fmt::Debug {
    /// The kind that it belongs to.
    const KIND: Kind;

    /// What is answered.
    type Verdict: ComponentType
        + Lift
        + Send
        + Sync
        + Clone
        + fmt::Debug
        + PartialEq
        + Serialize
        + 'static;

    /// What a policy is asked when it is loaded: an ordinary moment of a healthy pair.
    fn smoke() -> Self;

    /// Cuts a verdict down to the documented limits. What was cut is noted.
    fn sanitize(verdict: &mut Self::Verdict, notes: &mut Vec<Note>);

    /// What the policy wants remembered.
    fn memory(verdict: &Self::Verdict) -> Option<&String>;
}

impl sealed::Sealed for failover::Situation {}

impl Subject for failover::Situation {
    const KIND: Kind = Kind::Failover;
    type Verdict = failover::Verdict;

    fn smoke() -> Self {
        staffetta_sdk::testing::primary(Question::Review).build()
    }

    fn sanitize(verdict: &mut Self::Verdict, notes: &mut Vec<Note>) {
        sanitize::failover(verdict, notes);
    }

    fn memory(verdict: &Self::Verdict) -> Option<&String> {
        verdict.memory.as_ref()
    }
}

impl sealed::Sealed for license::Situation {}

impl Subject for license::Situation {
    const KIND: Kind = Kind::License;
    type Verdict = license::Verdict;

    fn smoke() -> Self {
        let holder = |node: &str, byte| license::Holder {
            node: node.into(),
            identity: vec![byte; 32],
            document: None,
        };
        Self {
            occasion: license::Occasion::Periodic,
            me: holder("na", 1),
            peer: Some(holder("nb", 2)),
            formed: true,
            latest_seen_s: 1_767_571_200,
        }
    }

    fn sanitize(verdict: &mut Self::Verdict, notes: &mut Vec<Note>) {
        sanitize::license(verdict, notes);
    }

    fn memory(verdict: &Self::Verdict) -> Option<&String> {
        verdict.memory.as_ref()
    }
}

impl sealed::Sealed for split_brain::Situation {}

impl Subject for split_brain::Situation {
    const KIND: Kind = Kind::SplitBrain;
    type Verdict = split_brain::Verdict;

    fn smoke() -> Self {
        let branch = |node: &str, epoch| split_brain::Branch {
            node: node.into(),
            epoch,
            served: 1_000,
            last_write: Some(100),
            facts: Vec::new(),
        };
        let subject =
            split_brain::Subject { name: "smoke".into(), ..split_brain::Subject::default() };
        Self {
            a: branch("na", 4),
            b: branch("nb", 5),
            serving: Some("nb".into()),
            subjects: vec![subject],
        }
    }

    fn sanitize(verdict: &mut Self::Verdict, notes: &mut Vec<Note>) {
        sanitize::split_brain(verdict, notes);
    }

    fn memory(verdict: &Self::Verdict) -> Option<&String> {
        verdict.memory.as_ref()
    }
}
