//! Runs sandboxed policy components: load gate, limits, decisions, fallback chain.
//!
//! The policy proposes, the host disposes. A component can import a log and nothing else; each of
//! its decisions runs in an instance of its own, under limits on memory, instructions, time and
//! output, and its verdict is cut to the documented size before anybody reads it. A faulty or
//! hostile policy costs availability at most: the next policy of the [`Chain`] answers.
//!
//! The types of situations and verdicts are those of the SDK, so that host, journal and policies
//! share one JSON form, the names of `wit/staffetta.wit`.

pub mod build;
mod cache;
mod chain;
pub mod cli;
pub mod compile;
mod engine;
mod gate;
mod header;
mod hex;
mod kind;
mod limits;
mod policy;
pub mod replay;
mod sanitize;
mod state;

pub use chain::{Answer, Attempt, CRASH_WINDOW, CRASHES_MAX, Chain, Speaker};
pub use compile::{Compile, CompileError};
pub use engine::{Engine, EngineError};
pub use gate::{GateOptions, LoadError, digest, signature_file, signed_bytes};
pub use kind::{Kind, Subject};
pub use limits::{
    BECAUSE_BYTES_MAX, BECAUSE_LINES_MAX, Budget, COMPONENT_BYTES_MAX, Level, Limits,
    MEMORY_BYTES_MAX, NOTE_BYTES_MAX, NOTE_LINES_MAX, Note, REASON_BYTES_MAX, RECHECK_MS_MAX,
    RECHECK_MS_MIN, RULINGS_MAX,
};
pub use policy::{Decision, Failure, Policy};

/// The types of questions and answers: those of the SDK.
pub mod types {
    pub use staffetta_sdk::failover::{
        Answerer, Arbiter, Intent as FailoverIntent, Link, Question as FailoverQuestion,
        Seat as ArbiterSeat, Situation as FailoverSituation, Verdict as FailoverVerdict, Vip,
    };
    pub use staffetta_sdk::license::{
        Holder, Occasion as LicenseOccasion, Situation as LicenseSituation,
        Verdict as LicenseVerdict,
    };
    pub use staffetta_sdk::split_brain::{
        Branch, Keep, Part, Ruling, Situation as SplitBrainSituation, Subject as SplitBrainSubject,
        Verdict as SplitBrainVerdict,
    };
    pub use staffetta_sdk::{
        Check, Context, Copied, Data, DataKind, Description, Epoch, Fact, Fault, Health, Ms, Node,
        Role, Standing, Target, Value, Wall,
    };
    pub use staffetta_sdk::{failover, license, split_brain};
}

/// The chain of failover policies.
pub type FailoverChain = Chain<types::FailoverSituation>;
/// The chain of license policies.
pub type LicenseChain = Chain<types::LicenseSituation>;
/// The chain of split-brain policies.
pub type SplitBrainChain = Chain<types::SplitBrainSituation>;
