//! What one node says to the other, as plain data. How it looks on the wire is the link's business.

use crate::epoch::Epoch;
use crate::time::Span;

/// Role of a node as its peer sees it: a projection of the core's own states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerRole {
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

/// What a beat asks its receiver to promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nothing: an idle beat.
    None,
    /// The sender would reign this epoch if the receiver grants it (joint claim, R5).
    Candidate(Epoch),
    /// The sender reigns this epoch under a live lease.
    Primary(Epoch),
}

/// The newest beat that the sender has heard, and the epoch granted on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// Start id of the echoed node.
    pub boot: u64,
    /// Number of the echoed beat.
    pub n: u64,
    /// Epoch for which the sender promised not to claim; [`Epoch::NONE`] when it granted nothing.
    pub granted: Epoch,
}

/// A planned handover: an expiring grant of an epoch of the receiver's own parity (R10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hand {
    /// The epoch that the receiver may reign.
    pub epoch: Epoch,
    /// Start id of the receiver as the sender knows it.
    pub boot: u64,
    /// The receiver's newest beat when the sender let go: the lease counts from its sending.
    pub n: u64,
}

/// Two primaries met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meeting {
    /// The reign that yields.
    pub low: Epoch,
    /// The reign that stays.
    pub high: Epoch,
    /// How long the sender had served without the other's grants when it learned of the other
    /// reign.
    pub served: Span,
}

/// One beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// Start id of the sender: random, one for each life of the process.
    pub boot: u64,
    /// Number of the beat, from 1, the same on every link.
    pub n: u64,
    /// What the sender is.
    pub role: PeerRole,
    /// What the sender asks.
    pub claim: Claim,
    /// Highest epoch that the sender granted, attempted, handed over or reigned, and will know
    /// after a crash.
    pub highest: Epoch,
    /// L of the sender: what it will take from a grant of this beat.
    pub lease: Span,
    /// G of the sender: slack of the gate in force.
    pub slack: Span,
    /// Two-way proof, and the grant.
    pub echo: Option<Echo>,
    /// The sender hands its reign over.
    pub hand: Option<Hand>,
    /// The sender is about to hand this epoch over: make it durable ahead of time.
    pub reserve: Epoch,
    /// Epoch that the sender made durable ahead of a handover.
    pub reserved: Epoch,
    /// Two primaries met a short while ago.
    pub met: Option<Meeting>,
    /// The sender may be made primary: not fenced, not in maintenance, data fit, service in order.
    pub eligible: bool,
    /// The operator disarmed takeover at the sender.
    pub maintenance: bool,
    /// Whether the arbiter answers the sender in time; `None` where none is configured.
    pub arbiter: Option<bool>,
    /// Whether the receiver has everything that the sender's last reign acknowledged to
    /// applications; `None` where the sender cannot say.
    pub synced: Option<bool>,
    /// Whether the sender lacks something that was acknowledged, as its disk holds it; `None` while
    /// that is being written, and from a peer of an older version.
    pub stale: Option<bool>,
}
