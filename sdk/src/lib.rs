//! Write failover, license and split-brain policies for Staffetta in plain Rust.
//!
//! A policy is a pure function from a situation to a verdict. The daemon runs it as a sandboxed
//! WebAssembly component: no clock, no randomness, no files, no network. Everything that it may
//! look at is in its arguments, so that every decision can be replayed.
//!
//! ```
//! use staffetta_sdk::failover::{self, Outcome, Question, Situation, hold, take_over};
//! use staffetta_sdk::{Given, NoSettings, failover_policy};
//!
//! struct Cautious;
//!
//! impl failover::Policy for Cautious {
//!     type Settings = NoSettings;
//!
//!     fn decide(situation: &Situation, _: &Given<NoSettings>) -> Outcome {
//!         Ok(match situation.question {
//!             Question::PeerSilent if situation.silent() => take_over("nobody answers"),
//!             _ => hold("nothing to do"),
//!         })
//!     }
//! }
//!
//! failover_policy!(Cautious);
//! ```
//!
//! `staffetta policy new` makes such a crate, `staffetta policy build` the component, and the
//! module [`testing`] makes its unit tests one-liners. The exports exist in WebAssembly builds
//! only, so that `cargo test` runs the policy natively.

pub mod failover;
#[doc(hidden)]
pub mod guest;
pub mod license;
pub mod log;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod raw;
pub mod split_brain;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod types;
#[doc(hidden)]
pub mod wit;

pub use serde;
pub use types::{
    Check, Context, Copied, Data, DataKind, Description, Epoch, Fact, Fault, Health, Ms, Node,
    Role, Standing, Target, Value, Wall,
};

/// What a policy is given beside the situation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Given<Settings> {
    /// The site's settings, parsed and checked.
    pub settings: Settings,
    /// What this policy remembered on this node.
    pub memory: Option<String>,
    /// The time of day. Do not act on it unless it is `trusted`.
    pub wall: Wall,
}

/// The settings of a policy that has none: any key is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
pub struct NoSettings {}
