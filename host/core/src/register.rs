//! The arbiter's register: one value outside the pair that is replaced by compare-and-set only
//! (rules R6-R9 and R12 of the protocol).

use crate::epoch::{Epoch, Side};
use crate::time::Span;

/// What the register holds. Every write carries a stamp of its own, so that two writes are never
/// equal and comparing values is comparing revisions, even after the arbiter lost its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Register {
    /// The reign; its seat is the holder.
    pub epoch: Epoch,
    /// The holder serves without the peer's grants: a rival must see the register unchanged first.
    pub alone: bool,
    /// The peer of the holder has everything that was acknowledged to applications.
    pub peer_synced: bool,
    /// L of the holder: the lease that this write is worth, counted from its sending.
    pub lease: Span,
    /// G of the holder.
    pub slack: Span,
    /// Who wrote it, and when in that life.
    pub stamp: Stamp,
}

/// Makes a write unlike every other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Stamp {
    /// Start id of the writer.
    pub boot: u64,
    /// Number of the request in that life.
    pub n: u64,
}

impl Register {
    /// Who holds it.
    #[must_use]
    pub fn holder(&self) -> Option<Side> {
        self.epoch.minted_by()
    }
}

/// Number of a request to the arbiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What the arbiter is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// What does the register hold? Linearizable.
    Read,
    /// Replace `expect` (`None`: no register) by `to`; one atomic compare-and-set.
    Swap {
        /// What it must hold now.
        expect: Option<Register>,
        /// What it shall hold.
        to: Register,
    },
}

/// What the arbiter answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reply {
    /// What the register holds: the answer to a read, and to a swap that found another value.
    Holds(Option<Register>),
    /// The swap was made.
    Swapped,
    /// No answer, an error, or a register that is not ours. A swap may or may not have been made.
    Failed,
}

/// The arbiter as a node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArbiterView {
    /// Age of its last answer, counted from the sending of the request; `None` before the first.
    pub answered: Option<Span>,
    /// What it takes to answer: the longest of the last few round trips, or the age of a request
    /// that waits longer.
    pub latency: Span,
    /// It answers, and fast enough to carry a primary alone.
    pub standing: Standing,
    /// What it held when it was last read.
    pub register: Option<Register>,
    /// For how long that has been seen unchanged.
    pub unchanged: Span,
}

/// What can be expected of the arbiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It answers in time.
    Ready,
    /// It answers, but too late to carry a primary alone.
    Slow,
    /// It does not answer.
    Away,
    /// It answers, but holds no register: only a primary with a live lease creates it.
    NoRegister,
}
