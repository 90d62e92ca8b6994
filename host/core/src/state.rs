//! The states of a node: an enum, matched whole.

use crate::beat::PeerRole;
use crate::effect::FenceCause;
use crate::epoch::Epoch;
use crate::time::Mono;

/// Role as people see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Booted, looking for the peer.
    Joining,
    /// Follows a primary, or waits for one.
    Standby,
    /// Takes, or tries to take, the service address.
    Candidate,
    /// Serves.
    Primary,
    /// Gives the service address to its peer.
    Draining,
    /// Holds nothing and may not claim.
    Fenced,
}

/// What a node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(strum::EnumCount))]
pub(crate) enum State {
    /// Booted or stalled. Leaves on contact, or by verdict when the join timeout is over.
    Joining,
    /// Waits for a primary's beats, or for their end.
    Standby,
    /// Makes its epoch durable, then asks the peer for a grant (R5).
    Electing { epoch: Epoch, until: Mono, asked: bool },
    /// Makes its epoch durable, then serves on its own lease, if the silence still lasts (R13).
    Claiming { epoch: Epoch, until: Mono, from: Resume },
    /// Makes a handed-over epoch durable, then serves until the hand's lease ends (R10).
    Accepting { epoch: Epoch, until: Mono },
    /// Serves.
    Primary(Reign),
    /// Still serves; prepares the handover of `to`, which both nodes must have on disk when
    /// `patience` ends.
    Draining { reign: Reign, to: Epoch, patience: Mono, shipping: Shipping, stop: bool },
    /// Closing the gate; what comes next waits for the kernel's word.
    Closing(After),
    /// Gate closed; sends the hand until the peer reigns or `give_up` comes (R10).
    HandedOver { epoch: Epoch, give_up: Mono, stop: bool },
    /// Holds nothing and may not claim.
    Fenced(FenceCause),
    /// The process ends.
    Stopped,
}

/// How far the data of a handover is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shipping {
    /// The node has no data.
    NotNeeded,
    /// The data plane ships, and is waited for until then.
    UnderWay { until: Mono },
    /// The peer has everything.
    Whole,
    /// It cannot be shipped.
    Failed,
}

/// Where a claim returns to when it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resume {
    Joining,
    Standby,
}

/// What follows once the gate is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Wait for a primary.
    Standby,
    /// Start over.
    Joining,
    /// Send the hand for this epoch.
    Hand { epoch: Epoch, stop: bool },
    /// End the process.
    Stop,
}

/// A reign: who serves, and on what right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reign {
    /// The epoch in the beats, durable.
    pub epoch: Epoch,
    /// End of the lease granted by the peer.
    pub peer_until: Mono,
    /// End of the lease taken alone by verdict.
    pub own_until: Mono,
    /// A verdict lets this reign renew its own lease while the peer is silent.
    pub alone: bool,
    /// The epoch that replaces `epoch` once durable: going alone without an arbiter, or R11.
    pub next: Option<Next>,
}

/// A new number for a running reign, being made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Next {
    pub epoch: Epoch,
    pub alone: bool,
}

impl Reign {
    pub(crate) fn under_peer(epoch: Epoch, peer_until: Mono) -> Reign {
        Reign { epoch, peer_until, own_until: Mono::ZERO, alone: false, next: None }
    }

    pub(crate) fn by_verdict(epoch: Epoch, own_until: Mono) -> Reign {
        Reign { own_until, alone: true, ..Reign::under_peer(epoch, Mono::ZERO) }
    }

    /// R1: the gate is the larger of the leases.
    pub(crate) fn until(&self) -> Mono {
        self.peer_until.max(self.own_until)
    }
}

impl State {
    pub(crate) fn role(&self) -> Role {
        match self {
            State::Joining => Role::Joining,
            State::Standby => Role::Standby,
            State::Electing { .. } | State::Claiming { .. } | State::Accepting { .. } => {
                Role::Candidate
            }
            State::Primary(_) => Role::Primary,
            State::Draining { .. } | State::HandedOver { .. } => Role::Draining,
            State::Closing(after) => match after {
                After::Standby => Role::Standby,
                After::Joining => Role::Joining,
                After::Hand { .. } | After::Stop => Role::Draining,
            },
            State::Fenced(_) => Role::Fenced,
            State::Stopped => Role::Draining,
        }
    }

    pub(crate) fn reign(&self) -> Option<&Reign> {
        match self {
            State::Primary(reign) | State::Draining { reign, .. } => Some(reign),
            State::Joining
            | State::Standby
            | State::Electing { .. }
            | State::Claiming { .. }
            | State::Accepting { .. }
            | State::Closing(_)
            | State::HandedOver { .. }
            | State::Fenced(_)
            | State::Stopped => None,
        }
    }

    pub(crate) fn reign_mut(&mut self) -> Option<&mut Reign> {
        match self {
            State::Primary(reign) | State::Draining { reign, .. } => Some(reign),
            State::Joining
            | State::Standby
            | State::Electing { .. }
            | State::Claiming { .. }
            | State::Accepting { .. }
            | State::Closing(_)
            | State::HandedOver { .. }
            | State::Fenced(_)
            | State::Stopped => None,
        }
    }

    /// The state whose gate is still open must close it first: no grant, no claim meanwhile.
    pub(crate) fn gate_may_be_open(&self) -> bool {
        self.reign().is_some() || matches!(self, State::Closing(_))
    }

    /// A handover is under way: what was drained for it stays so.
    pub(crate) fn hands_over(&self) -> bool {
        match self {
            State::Draining { .. }
            | State::Closing(After::Hand { .. })
            | State::HandedOver { .. } => true,
            State::Joining
            | State::Standby
            | State::Electing { .. }
            | State::Claiming { .. }
            | State::Accepting { .. }
            | State::Primary(_)
            | State::Closing(After::Standby | After::Joining | After::Stop)
            | State::Fenced(_)
            | State::Stopped => false,
        }
    }

    pub(crate) fn idle(&self) -> bool {
        matches!(self, State::Joining | State::Standby)
    }
}

impl From<Role> for PeerRole {
    fn from(role: Role) -> PeerRole {
        match role {
            Role::Joining => PeerRole::Joining,
            Role::Standby => PeerRole::Standby,
            Role::Candidate => PeerRole::Candidate,
            Role::Primary => PeerRole::Primary,
            Role::Draining => PeerRole::Draining,
            Role::Fenced => PeerRole::Fenced,
        }
    }
}
