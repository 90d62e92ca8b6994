//! Runs the decisions of a pair through disasters: one seed is one history, the same every time.
//!
//! The core and the policies are those of production, bit for bit; the world around them is not
//! there: no thread, no clock, no file. What must hold is checked at every step, what happened is
//! counted, every seed runs twice, and a history that breaks a rule is shrunk to its shortest form.

mod coverage;
mod dice;
mod draw;
mod fault;
mod invariant;
mod plan;
mod policies;
mod run;
pub mod scenario;
mod shrink;
mod trace;
mod trace_of;
#[cfg(feature = "wasm")]
mod wasm;
mod world;

pub use coverage::{Coverage, Rule};
pub use draw::{FAULTS_MIN, HISTORY_MS, draw};
pub use fault::{DiskMode, EffectKind, Fault, Point, PolicyMode};
pub use invariant::Violation;
pub use plan::{Ending, History, Licensing, Pair, Premise, Tiebreak, Timed, Weather};
#[cfg(feature = "native")]
pub use policies::Native;
pub use policies::Policies;
pub use run::{Tally, percentile, quietly, run, run_twice};
pub use shrink::shrink;
#[cfg(feature = "wasm")]
pub use wasm::{ComponentError, Components};
pub use world::Outcome;
