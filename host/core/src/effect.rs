//! What the core wants done. Effects are plain data; the shell and the simulator interpret them.

use crate::beat::{Beat, PeerRole};
use crate::epoch::{Epoch, Side};
use crate::event::{Answerer, Intent, Order, Refusal};
use crate::register::{ArbiterView, Request, RequestId};
use crate::state::Role;
use crate::time::{Mono, Span};

/// Number of a durable write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersistId(pub u64);

/// Number of a question to a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId(pub u64);

/// Number of a word of the data plane about what the peer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SyncId(pub u64);

/// Why a node may not claim until an operator clears it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FenceCause {
    /// Histories diverged and nobody has ruled yet.
    Divergence,
    /// An operator fenced the node.
    Operator,
}

/// What survives a crash. Written whole, never in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Durable {
    /// Highest epoch granted, attempted, handed over or reigned.
    pub highest: Epoch,
    /// Epoch that the peer is about to hand over; counts as highest after a boot.
    pub reserved: Epoch,
    /// Newest reign that this node began, or granted its peer. A new number for a running reign
    /// of its own begins nothing.
    pub reigned: Epoch,
    /// Largest L + G ever promised.
    pub promised: Span,
    /// The last reign this node saw was its own.
    pub was_primary: bool,
    /// This node has been one of a pair.
    pub formed: bool,
    /// The operator disarmed takeover.
    pub maintenance: bool,
    /// The node may not claim.
    pub fenced: Option<FenceCause>,
    /// The peer acknowledged changes that are not here: this node does not take over by itself.
    pub stale: bool,
    /// This node's last reign may have acknowledged changes that the peer does not have.
    pub ahead: bool,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send this beat over every link.
    Send(Beat),
    /// Make this record durable, then say [`crate::Event::Persisted`].
    Persist(PersistId, Durable),
    /// Put the addresses up behind a gate that closes at `until`, announce, then say `Claimed` or
    /// `ClaimFailed`.
    Claim {
        /// The reign.
        epoch: Epoch,
        /// End of the lease.
        until: Mono,
    },
    /// Keep the gate open until then.
    Renew {
        /// End of the lease.
        until: Mono,
    },
    /// Close the gate, then remove the addresses, then say `Released`.
    Release,
    /// Put this to the arbiter, then say [`crate::Event::Consulted`].
    Consult(RequestId, Request),
    /// Ship the data for the handover of `epoch`: first while writers go on, then with their locks
    /// held, until the peer has confirmed everything; then say [`crate::Event::Drained`]. The locks
    /// stay held until `Undrain`.
    Drain {
        /// The epoch to be handed over; no two handovers have the same.
        epoch: Epoch,
    },
    /// The handover ended and was not taken: nothing is held for it any more. Who may write is the
    /// role's matter, told by `Note::Role` before this.
    ///
    /// Each `Drain` ends in one of three ways: by one `Undrain`; by the standby that this node
    /// becomes when the peer took the hand (the fence of a standby takes the place of the locks);
    /// by the end of the process.
    Undrain {
        /// The epoch of the `Drain`.
        epoch: Epoch,
    },
    /// Answers the word of this number. True: that the peer must not take over by itself is durable
    /// where the peer will see it, so commits may be acknowledged without it, as long as this is
    /// the data plane's last word; the right ends with the reign. False: the peer counts as a full
    /// heir again.
    Degraded(SyncId, bool),
    /// Announce the VIP again (conflict, end of a conflict).
    Announce,
    /// Start a round of probes of the VIP.
    Probe,
    /// Put a question to the policy.
    Ask(Ask),
    /// End the process: nothing is held any more.
    Exit,
    /// Answer to the order given last.
    OrderDone(Result<Order, Refusal>),
    /// For the log and the journal.
    Note(Note),
}

/// Questions to policies (WIT `failover.question`, and split brain).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Question {
    /// The join timeout is over.
    Start,
    /// A standby's promise ran out.
    PeerSilent,
    /// A primary's lease runs out.
    GoOnAlone,
    /// Evidence changed, or a recheck came.
    Review,
    /// An operator asks for a planned move.
    Switchover,
    /// Two primaries met; epochs in order of side.
    SplitBrain {
        /// What side A did.
        a: Branch,
        /// What side B did.
        b: Branch,
    },
}

/// What one of two primaries did since they parted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Branch {
    /// Its reign.
    pub epoch: Epoch,
    /// How long it served without the other's grants.
    pub served: Span,
}

/// A question with everything that the core knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// To be named in the answer.
    pub id: AskId,
    /// The question.
    pub question: Question,
    /// Later answers are nothing.
    pub deadline: Mono,
    /// The core's part of the evidence.
    pub seen: Observation,
}

/// The core's part of the evidence that a policy sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// This node's seat.
    pub side: Side,
    /// This node's role.
    pub role: Role,
    /// Epoch of the reign (primary), else the highest one known.
    pub epoch: Epoch,
    /// Time in this role.
    pub in_role: Span,
    /// This node may be made primary.
    pub eligible: bool,
    /// Takeover is disarmed here.
    pub maintenance: bool,
    /// The last reign this node saw was its own.
    pub was_primary: bool,
    /// The peer's last word.
    pub peer: Option<PeerView>,
    /// Who answered on the VIP, and how long ago.
    pub vip: (Answerer, Span),
    /// Time since the service address last moved; since the start when it never did.
    pub since_change: Span,
    /// Moves of the service address within the last hour.
    pub changes_last_hour: u16,
    /// Longest stall of the loop within this life.
    pub stall_max: Span,
    /// The arbiter, where one is configured.
    pub arbiter: Option<ArbiterView>,
}

/// The peer's last word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerView {
    /// Its role.
    pub role: PeerRole,
    /// Its reign, or the highest epoch it knows.
    pub epoch: Epoch,
    /// Age of its last beat.
    pub age: Span,
    /// Age of the newest beat of this node that it confirmed; `None` when it confirmed none in this
    /// life.
    pub echoed: Option<Span>,
    /// It may be made primary.
    pub eligible: bool,
    /// Takeover is disarmed there.
    pub maintenance: bool,
}

/// Why the role changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// The peer's claim was granted.
    Granted,
    /// Both nodes were idle and this one is preferred.
    Elected,
    /// The peer granted the joint claim.
    Won,
    /// A joint claim was not granted in time, or a better one came.
    Outvoted,
    /// A policy's verdict.
    Verdict(Intent),
    /// The operator.
    Operator,
    /// The peer handed over.
    HandedOver,
    /// This node handed over.
    HandingOver,
    /// The peer did not take what was handed over.
    NotTaken,
    /// The data did not reach the peer in time for the handover.
    DataNotShipped,
    /// The lease ended without a grant.
    LeaseEnded,
    /// The loop stalled for longer than the lease.
    Stalled,
    /// A primary with a higher epoch is there.
    HigherEpoch(Epoch),
    /// The silence that a claim rested on was broken.
    SilenceBroken,
    /// The arbiter did not confirm the claim.
    Arbiter,
    /// The epoch could not be made durable.
    Disk,
    /// The kernel refused the address.
    Kernel,
    /// The node stops.
    Stop,
}

/// Something an operator may want to hear of that is not a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alarm {
    /// L or G of the peer differ from ours.
    TimersDiffer,
    /// The peer sends nothing, yet it answers on the VIP.
    HeartbeatPathCut,
    /// Neither policy nor fallback answered in time.
    PolicyLate,
    /// The disk did not take an epoch.
    DiskFailed,
    /// The peer claims an epoch of our parity.
    ForeignEpoch,
    /// The arbiter does not answer: nobody takes over.
    ArbiterAway,
    /// The arbiter answers too late to carry a primary alone.
    ArbiterSlow,
    /// One node is configured with an arbiter, the other without.
    ArbiterDiffers,
}

/// For the log and the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The role changed.
    Role {
        /// Before.
        from: Role,
        /// After.
        to: Role,
        /// The reign, or the highest epoch known.
        epoch: Epoch,
        /// Why.
        why: Why,
    },
    /// The reign got a new number without a change of role.
    Epoch(Epoch),
    /// The loop came round late by this much.
    Stall(Span),
    /// Two primaries met.
    Met {
        /// The reign that yields.
        low: Epoch,
        /// The reign that stays.
        high: Epoch,
    },
    /// The peer started again.
    PeerBoot(u64),
    /// The peer's grants carry the lease (true) or no longer do.
    Paired(bool),
    /// A verdict that the question does not allow, or that no longer fits; the safe one stands.
    Refused(Question, Intent),
    /// The node stops and hands this epoch over, though the peer may lack its last changes.
    HandedWithoutData(Epoch),
    /// An alarm went up or down.
    Alarm(Alarm, bool),
}
