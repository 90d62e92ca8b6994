//! What can go wrong between the nodes, and how the switch brings it about.

use crate::lab::Node;

/// One of the two ways between the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cable {
    /// The service network.
    Lan,
    /// The second heartbeat link.
    Direct,
}

/// A fault of the network. Faults add up until [`crate::Lab::heal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// All cables of the node pulled: its switch ports are down, the carrier is lost.
    Cut(Node),
    /// The second heartbeat link is down; the service network is untouched.
    HeartbeatLink,
    /// All frames of the node are dropped, its carrier stays.
    Silent(Node),
    /// What this node sends to the other one is dropped; the other direction works, the client
    /// reaches both.
    OneWay {
        /// The node that is no longer heard by the other.
        from: Node,
    },
    /// The same on one way only.
    OneWayOn {
        /// The way that loses.
        cable: Cable,
        /// The node that is no longer heard by the other on it.
        from: Node,
    },
    /// The nodes do not reach each other; the client reaches both.
    Split,
    /// The node and the arbiter do not reach each other.
    NoArbiter(Node),
    /// Random loss between the nodes, each way.
    Loss {
        /// 1..=99.
        percent: u8,
    },
    /// A packet filter between the nodes drops one UDP port; everything else passes.
    Filtered {
        /// The destination port.
        port: u16,
    },
}

impl Fault {
    /// Ports of the switch that this fault takes down.
    pub(crate) fn ports_down(self) -> &'static [&'static str] {
        match self {
            Self::Cut(Node::A) => &["pa", "ha"],
            Self::Cut(Node::B) => &["pb", "hb"],
            Self::HeartbeatLink => &["ha", "hb"],
            Self::Silent(_)
            | Self::OneWay { .. }
            | Self::OneWayOn { .. }
            | Self::Split
            | Self::NoArbiter(_)
            | Self::Loss { .. }
            | Self::Filtered { .. } => &[],
        }
    }

    /// Rules of the switch's packet filter (nft, bridge family, forward hook) that make this fault.
    pub(crate) fn rules(self) -> Vec<String> {
        let drop_from =
            |from: Node| format!("iifname {} oifname {} drop", ports(from), ports(from.peer()));
        match self {
            Self::Cut(_) | Self::HeartbeatLink => Vec::new(),
            Self::Silent(node) => vec![
                format!("iifname {} drop", ports(node)),
                format!("oifname {} drop", ports(node)),
            ],
            Self::OneWay { from } => vec![drop_from(from)],
            Self::OneWayOn { cable, from } => {
                let (from, to) = (port(cable, from), port(cable, from.peer()));
                vec![format!("iifname \"{from}\" oifname \"{to}\" drop")]
            }
            Self::Split => vec![drop_from(Node::A), drop_from(Node::B)],
            Self::NoArbiter(node) => vec![
                format!("iifname {} oifname \"pr\" drop", ports(node)),
                format!("iifname \"pr\" oifname {} drop", ports(node)),
            ],
            Self::Loss { percent } => [Node::A, Node::B]
                .map(|from| {
                    let (from, to) = (ports(from), ports(from.peer()));
                    format!("iifname {from} oifname {to} numgen random mod 100 < {percent} drop")
                })
                .to_vec(),
            Self::Filtered { port } => ["ip", "ip6"]
                .map(|kind| {
                    let between = format!("iifname {BETWEEN} oifname {BETWEEN}");
                    format!("{between} ether type {kind} udp dport {port} drop")
                })
                .to_vec(),
        }
    }
}

/// Ports of the nodes, not of the client.
const BETWEEN: &str = r#"{ "pa", "pb", "ha", "hb" }"#;

fn ports(node: Node) -> &'static str {
    match node {
        Node::A => r#"{ "pa", "ha" }"#,
        Node::B => r#"{ "pb", "hb" }"#,
    }
}

fn port(cable: Cable, node: Node) -> &'static str {
    match (cable, node) {
        (Cable::Lan, Node::A) => "pa",
        (Cable::Lan, Node::B) => "pb",
        (Cable::Direct, Node::A) => "ha",
        (Cable::Direct, Node::B) => "hb",
    }
}
