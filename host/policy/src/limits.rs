//! Every limit of a policy, and what a decision reports of its use.

use serde::{Deserialize, Serialize};
use wasmtime::component::{ComponentType, Lift};

/// Largest component that is looked at.
pub const COMPONENT_BYTES_MAX: usize = 32 << 20;
/// Lines that a policy may log in one decision.
pub const NOTE_LINES_MAX: usize = 32;
/// Bytes that a policy may log in one decision.
pub const NOTE_BYTES_MAX: usize = 4 << 10;
/// Longest reason of a verdict.
pub const REASON_BYTES_MAX: usize = 1 << 10;
/// Lines of evidence in a verdict, warnings and features of a license.
pub const BECAUSE_LINES_MAX: usize = 16;
/// Longest line of evidence.
pub const BECAUSE_BYTES_MAX: usize = 256;
/// Longest memory of a policy.
pub const MEMORY_BYTES_MAX: usize = 4 << 10;
/// Rulings of a split-brain verdict.
pub const RULINGS_MAX: usize = 4_096;
/// Soonest recheck.
pub const RECHECK_MS_MIN: u32 = 100;
/// Latest recheck.
pub const RECHECK_MS_MAX: u32 = 24 * 3_600 * 1_000;

/// What every policy of this host is held to. A budget of a decision can only be smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Each linear memory of a policy.
    pub memory_bytes_max: usize,
    /// Elements of each table.
    pub table_elements_max: usize,
    /// Core instances in a component.
    pub instances_max: usize,
    /// Linear memories in a component.
    pub memories_max: usize,
    /// Tables in a component.
    pub tables_max: usize,
    /// What may be copied out of a policy in one call.
    pub output_bytes_max: usize,
    /// Instructions, roughly, that any decision may burn.
    pub fuel_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes_max: 32 << 20,
            table_elements_max: 20_000,
            instances_max: 16,
            memories_max: 4,
            tables_max: 8,
            output_bytes_max: 512 << 10,
            fuel_max: 1_000_000_000,
        }
    }
}

/// What one decision may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Instructions, roughly. Deterministic for one component and one build of this host.
    pub fuel: u64,
    /// Time. The backstop: what ends here cannot be replayed.
    pub wall_ms: u32,
}

/// How loud a note is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ComponentType, Lift)]
#[component(enum)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Level {
    /// For the author of the policy.
    #[component(name = "debug")]
    Debug,
    /// For the operator who asks why.
    #[component(name = "info")]
    Info,
    /// For the operator, without being asked.
    #[component(name = "warn")]
    Warn,
}

/// A line that a policy logged, or that the host adds about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Note {
    /// How loud it is.
    pub level: Level,
    /// What it says.
    pub text: String,
}

impl Note {
    pub(crate) fn warn(text: impl Into<String>) -> Self {
        Self { level: Level::Warn, text: text.into() }
    }
}
