//! What the world tells the core.

use crate::beat::Beat;
use crate::effect::{AskId, PersistId, SyncId};
use crate::epoch::{Epoch, Side};
use crate::register::{Reply, RequestId};
use crate::time::Span;

/// Everything that can happen to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(strum::EnumCount))]
pub enum Event {
    /// The deadline of [`crate::Node::deadline`] came.
    Tick,
    /// An authentic beat of the peer arrived, over any link.
    Heard(Beat),
    /// The record of this number is durable.
    Persisted(PersistId),
    /// The record of this number could not be written; what was durable before still is.
    PersistFailed(PersistId),
    /// The addresses are up and the gate is open.
    Claimed,
    /// The kernel refused the address or the gate.
    ClaimFailed,
    /// The gate is closed, confirmed by the kernel, and the addresses are gone.
    Released,
    /// A policy, somewhere in the fallback chain, answered.
    Answered(AskId, Verdict),
    /// No policy of the fallback chain answered.
    Unanswered(AskId),
    /// The arbiter answered the request of this number, or did not.
    Consulted(RequestId, Reply),
    /// Whether the peer has everything that this reign acknowledged to applications, or is about
    /// to. Nothing outside a reign: the data plane says it anew when a reign begins.
    ///
    /// False asks for the right to acknowledge without the peer and gives none: that is
    /// [`crate::Effect::Degraded`] with the same number. From true on only what the peer has is
    /// acknowledged.
    Synced(SyncId, bool),
    /// The data plane is done with [`crate::Effect::Drain`] of this epoch.
    Drained(Epoch, Shipment),
    /// A round of probes of the VIP ended.
    Probed(Answerer),
    /// Evidence that only policies read has changed (checks, references, facts).
    EvidenceChanged,
    /// Whether this node may be made primary as far as its services and data go.
    Fitness(bool),
    /// What the license allows: forming a pair, planned moves.
    License {
        /// A pair may form.
        may_form: bool,
        /// Planned moves may be made.
        may_plan: bool,
    },
    /// The gate in force has this slack from now on.
    Slack(Span),
    /// How many links heard the peer lately.
    Links(u8),
    /// Something that an operator or the init system wants.
    Order(Order),
}

/// What became of the data of a handover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shipment {
    /// The peer has confirmed everything, and nobody writes.
    Whole,
    /// It cannot be shipped now.
    Failed,
}

/// What an operator or the init system wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(strum::EnumCount))]
pub enum Order {
    /// Hand the service over to the peer.
    Switchover,
    /// Arm or disarm takeover.
    Maintenance(bool),
    /// Start without the peer; or be elected beside a peer, where each may lack what the other one
    /// acknowledged.
    StartAlone,
    /// The cause of the fence is removed.
    Clear,
    /// End: hand over if that is possible, then let go.
    Stop,
}

/// Why an order was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Only the primary can hand over.
    NotPrimary,
    /// The peer is not there, or does not hear this node.
    PeerAbsent,
    /// The peer may not be made primary (maintenance, fence, service, data).
    PeerNotEligible,
    /// The license does not allow planned moves.
    License,
    /// The peer is there: a node starts alone in silence, or where neither serves and each may lack
    /// what the other one acknowledged.
    PeerPresent,
    /// What this node may have promised before it started is not over yet.
    Promised(Span),
    /// The node is not waiting to start.
    NotWaiting,
    /// The node is not fenced.
    NotFenced,
    /// The node is fenced: clear the cause first.
    Fenced,
    /// A move is already under way.
    Busy,
    /// The policy holds; its reason is in the journal.
    Policy,
    /// The peer did not take the service over.
    NotTaken,
    /// The node, which was to start beside its peer, was not elected in time.
    NotElected,
    /// The data did not reach the peer in time.
    DataNotShipped,
    /// The disk did not take the record.
    Disk,
    /// The arbiter does not answer, or its register does not allow it.
    Arbiter,
}

/// Who answered when the VIP was probed on the service network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answerer {
    /// Three probes, no answer, prober awake.
    Nobody,
    /// The link-layer address of the peer.
    Peer,
    /// Some other link-layer address.
    Stranger,
    /// No probe was made (routed VIP, or none needed yet).
    NotProbed,
}

/// What a policy wants; the core decides whether it is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(strum::EnumCount))]
pub enum Intent {
    /// Leave things as they are.
    Hold,
    /// Become primary.
    TakeOver,
    /// Stay primary without the peer's grants.
    GoOnAlone,
    /// Hand over to the peer.
    HandOver,
    /// Let go of the service address.
    StepDown,
    /// A person decides.
    AskOperator,
    /// Split brain only: this seat should serve.
    Serve(Side),
}

/// A policy's answer as far as the core needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What it wants.
    pub intent: Intent,
    /// When it wants to be asked again.
    pub recheck: Option<Span>,
}
