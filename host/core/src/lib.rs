//! The decisions of one node of a pair, as one pure function.
//!
//! [`Node::step`] takes the time and one [`Event`] and answers with [`Effect`]s. There is no clock,
//! socket, file or randomness in here: production and simulation run this very code.
//!
//! What this crate promises: a node opens its gate only while it holds a lease; it grants a lease
//! only after the granted epoch is durable; what must come later waits for an event, never for the
//! order of a list. What it refuses: to trust the peer, the disk, the operator or a policy with
//! more than the types allow.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod beat;
mod effect;
mod epoch;
mod event;
mod lease;
mod level;
mod node;
mod register;
mod state;
mod time;
mod timing;

pub use beat::{Beat, Claim, Echo, Hand, Meeting, PeerRole};
pub use effect::{
    Alarm, Ask, AskId, Branch, Durable, Effect, FenceCause, Note, Observation, PeerView, PersistId,
    Question, SyncId, Why,
};
pub use epoch::{Epoch, Side};
pub use event::{Answerer, Event, Intent, Order, Refusal, Shipment, Verdict};
pub use level::{Disarmed, Level};
pub use node::{Boot, Node, Options, View};
pub use register::{ArbiterView, Register, Reply, Request, RequestId, Stamp, Standing};
pub use state::Role;
pub use time::{Mono, Span};
pub use timing::{
    BEAT_MIN, LEASE_MAX, PERSIST_BUDGET, PROMISE_MAX, RATE_DRIFT_PPM, Timing, TimingError,
    TimingParts,
};
