//! The answer of `staffetta status --json`, as far as the demo and the tests look at it.

use serde::Deserialize;

use crate::lab::Node;

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Came up, not yet part of the pair.
    Joining,
    /// Watches the primary.
    Standby,
    /// Is taking over.
    Candidate,
    /// Serves.
    Primary,
    /// Is handing over.
    Draining,
    /// Holds nothing until an operator clears it.
    Fenced,
}

/// One node's view of the pair. Fields that are not looked at are skipped.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// Name of the node.
    pub node: String,
    /// Its role.
    pub role: Role,
    /// Its epoch.
    pub epoch: u64,
    /// What it waits for.
    #[serde(default)]
    pub waiting: Option<String>,
    /// What it knows of its peer.
    #[serde(default)]
    pub peer: Option<Peer>,
    /// The gate in force.
    pub gate: Gate,
    /// The guarantee in force.
    pub level: Level,
    /// Links to the peer.
    #[serde(default)]
    pub links: Vec<Link>,
    /// Service addresses.
    #[serde(default)]
    pub vips: Vec<Vip>,
    /// Newest decisions.
    #[serde(default)]
    pub decisions: Vec<Decision>,
    /// What an operator should look at.
    #[serde(default)]
    pub alarms: Vec<Alarm>,
    /// Whether takeover is disarmed.
    #[serde(default)]
    pub maintenance: bool,
    /// What the operating system granted.
    pub realtime: Realtime,
}

/// What a node knows of the other one.
#[derive(Clone, Debug, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its role, as last heard.
    pub role: Role,
    /// Its epoch, as last heard.
    pub epoch: u64,
}

/// The kernel mechanism that stops answers when the lease ends.
#[derive(Clone, Debug, Deserialize)]
pub struct Gate {
    /// `nftables` or `lifetime`.
    pub class: String,
    /// How long after the lease an answer may still get through, in milliseconds.
    #[serde(default)]
    pub slack_ms: u64,
}

/// The guarantee in force.
#[derive(Clone, Debug, Deserialize)]
pub struct Level {
    /// Its name.
    pub name: String,
    /// Why it is this one.
    #[serde(default)]
    pub why: String,
}

/// One link to the peer.
#[derive(Clone, Debug, Deserialize)]
pub struct Link {
    /// Its name in the configuration.
    pub name: String,
    /// Time since something was heard on it, in milliseconds.
    #[serde(default)]
    pub heard_ms: Option<u64>,
}

/// One service address.
#[derive(Clone, Debug, Deserialize)]
pub struct Vip {
    /// Address and prefix length.
    pub address: String,
    /// Whether this node has it.
    pub held: bool,
}

/// One decision of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Decision {
    /// Number in the journal.
    pub id: u64,
    /// What was asked.
    pub question: String,
    /// What was answered.
    pub intent: String,
    /// Why, in the policy's words.
    #[serde(default)]
    pub reason: String,
    /// Whose word it was: `site`, `last-good`, `built-in` or `host`.
    pub spoke: String,
    /// CPU time it took, in microseconds.
    #[serde(default)]
    pub cpu_us: Option<u64>,
}

/// Something an operator should look at.
#[derive(Clone, Debug, Deserialize)]
pub struct Alarm {
    /// Its name.
    pub name: String,
    /// What it means here.
    #[serde(default)]
    pub text: String,
}

/// What the operating system granted the daemon.
#[derive(Clone, Debug, Deserialize)]
pub struct Realtime {
    /// `fifo` or `normal`.
    pub priority: String,
    /// Whether its memory is locked.
    #[serde(default)]
    pub memory_locked: bool,
}

impl Status {
    /// Whether every service address is on this node.
    #[must_use]
    pub fn holds_all(&self) -> bool {
        !self.vips.is_empty() && self.vips.iter().all(|vip| vip.held)
    }

    /// The newest decision with this intent, of those numbered above `after`.
    #[must_use]
    pub fn decision(&self, after: u64, intent: &str) -> Option<&Decision> {
        let newer = self.decisions.iter().filter(|decision| decision.id > after);
        newer.filter(|decision| decision.intent == intent).max_by_key(|decision| decision.id)
    }

    /// The number of the newest decision; 0 when there is none.
    #[must_use]
    pub fn last_decision(&self) -> u64 {
        self.decisions.iter().map(|decision| decision.id).max().unwrap_or(0)
    }

    /// Whether an alarm of that name is raised.
    #[must_use]
    pub fn has_alarm(&self, name: &str) -> bool {
        self.alarms.iter().any(|alarm| alarm.name == name)
    }
}

/// What both daemons say; none for one that does not answer.
#[derive(Clone, Debug, Default)]
pub struct Statuses(pub [Option<Status>; 2]);

impl Statuses {
    /// One node's answer.
    #[must_use]
    pub fn of(&self, node: Node) -> Option<&Status> {
        self.0[node.index()].as_ref()
    }

    /// A node's role, if it says one.
    #[must_use]
    pub fn role(&self, node: Node) -> Option<Role> {
        self.of(node).map(|status| status.role)
    }

    /// The node that says it is primary, when exactly one does.
    #[must_use]
    pub fn primary(&self) -> Option<Node> {
        let mut primaries =
            Node::BOTH.into_iter().filter(|node| self.role(*node) == Some(Role::Primary));
        primaries.next().filter(|_| primaries.next().is_none())
    }

    /// The primary, when the other one is its standby.
    #[must_use]
    pub fn settled(&self) -> Option<Node> {
        self.primary().filter(|node| {
            self.role(node.peer()) == Some(Role::Standby)
                && self.of(*node).is_some_and(Status::holds_all)
        })
    }

    /// Whether both daemons have real-time priority.
    #[must_use]
    pub fn realtime(&self) -> bool {
        let is_fifo = |node| self.of(node).is_some_and(|status| status.realtime.priority == "fifo");
        Node::BOTH.into_iter().all(is_fifo)
    }

    /// The gate in force, as one of them says it.
    #[must_use]
    pub fn gate(&self) -> String {
        let gates = Node::BOTH.into_iter().filter_map(|node| self.of(node));
        gates.map(|status| status.gate.class.clone()).next().unwrap_or_default()
    }

    /// One line for messages: each node's role and what it waits for.
    #[must_use]
    pub fn line(&self) -> String {
        let word = |node: Node| match self.of(node) {
            None => format!("{}: no answer", node.name()),
            Some(status) => {
                let waiting = status.waiting.as_deref().map(|why| format!(" ({why})"));
                let role = format!("{:?}", status.role).to_lowercase();
                format!("{}: {role}{}", node.name(), waiting.unwrap_or_default())
            }
        };
        Node::BOTH.map(word).join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"{
        "node": "na", "cluster": "office", "version": "0.1.0", "uptime_s": 12,
        "role": "primary", "epoch": 4, "in_role_ms": 1200, "waiting": null,
        "peer": {"name": "nb", "role": "standby", "epoch": 4, "age_ms": 12,
                 "version": "0.1.0", "maintenance": false},
        "lease": {"source": "peer", "remaining_ms": 280}, "promise_ms": 0,
        "gate": {"class": "nftables", "slack_ms": 20, "open": true},
        "level": {"name": "paired", "why": "x"},
        "links": [{"name": "lan", "heard_ms": null, "echoed_ms": 14, "rtt_us": 210,
                   "loss_permille": 0, "wan": false}],
        "vips": [{"address": "10.77.0.50/24", "interface": "eth0", "held": true,
                  "answerer": "not-probed"}],
        "policies": {}, "license": {"state": "off", "reason": ""},
        "decisions": [{"id": 12, "at": "2026-01-01T00:00:00Z", "question": "peer-silent",
                       "intent": "take-over", "reason": "r", "spoke": "site", "fuel": 2300,
                       "cpu_us": 35}],
        "alarms": [{"name": "heartbeat-path-cut", "text": "t"}], "maintenance": false,
        "realtime": {"priority": "fifo", "memory_locked": true}
    }"#;

    #[test]
    fn the_documented_answer_is_read() {
        let status: Status = serde_json::from_str(SAMPLE).expect("the sample parses");
        assert!(status.holds_all() && status.has_alarm("heartbeat-path-cut"));
        assert!(
            status.decision(11, "take-over").is_some()
                && status.decision(12, "take-over").is_none()
        );
        let standby = Status { role: Role::Standby, ..status.clone() };
        let both = Statuses([Some(status), Some(standby)]);
        assert_eq!(both.settled(), Some(Node::A));
        assert_eq!(both.line(), "na: primary, nb: standby");
    }
}
