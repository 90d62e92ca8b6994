//! A loaded policy, and one decision of it.
//!
//! Every decision gets an instance of its own: a trap poisons an instance for good, and nothing can
//! leak from one decision into the next.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use staffetta_sdk::{Context, Description, Fault, failover, license, split_brain};
use wasmtime::component::{ComponentExportIndex, ComponentNamedList, InstancePre, Lift, Lower};
use wasmtime::{Store, Trap};

use crate::engine::{Shared, TICK};
use crate::kind::{Kind, Subject};
use crate::limits::{Budget, Level, Note};
use crate::state::State;

/// Longest text about a trap.
const TRAP_TEXT_BYTES_MAX: usize = 1 << 10;
/// Functions of the policy that a trap names.
const TRAP_FRAMES_MAX: usize = 4;

/// A policy that passed the load gate.
pub struct Policy {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pre: InstancePre<State>,
    pub(crate) exports: Exports,
    pub(crate) kind: Kind,
    pub(crate) digest: String,
    pub(crate) description: Description,
    pub(crate) settings: String,
}

/// Where the functions of a component are.
pub(crate) struct Exports {
    pub(crate) describe: ComponentExportIndex,
    pub(crate) check_settings: ComponentExportIndex,
    pub(crate) answer: ComponentExportIndex,
}

/// What came of one question to one policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision<Verdict> {
    /// The verdict, cut to the documented limits, or why there is none.
    pub outcome: Result<Verdict, Failure>,
    /// Fuel burnt. Compare it within one build of this host only.
    pub fuel: u64,
    /// CPU time of this thread.
    pub cpu_us: u64,
    /// Time that passed.
    pub wall_us: u64,
    /// What the policy logged, and what the host cut.
    pub notes: Vec<Note>,
}

/// Why a policy gave no verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// The policy itself declined.
    #[error("{0}")]
    Fault(Fault),
    /// It crashed.
    #[error("the policy crashed: {0}")]
    Trapped(String),
    /// It computed too long.
    #[error("the policy ran out of fuel: an endless loop, or a budget that is too small")]
    OutOfFuel,
    /// It was not done in time. Depends on the load of the machine; not replayable.
    #[error("the policy was not done within its {0} ms")]
    Deadline(u32),
    /// It asked for more memory, tables or instances than it may have.
    #[error("the policy asked for more memory than it may have")]
    MemoryLimit,
    /// It called itself too deeply.
    #[error("the policy exhausted its stack: a recursion without end")]
    StackOverflow,
    /// It answered with more bytes than anybody would read.
    #[error("the policy answered with too much data")]
    OutputLimit,
}

impl Failure {
    /// Whether it is the policy's doing in a way that will come again.
    pub fn is_crash(&self) -> bool {
        match self {
            Self::Fault(_) | Self::Deadline(_) => false,
            Self::Trapped(_)
            | Self::OutOfFuel
            | Self::MemoryLimit
            | Self::StackOverflow
            | Self::OutputLimit => true,
        }
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("kind", &self.kind)
            .field("name", &self.description.name)
            .field("version", &self.description.version)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl Policy {
    /// What it decides about.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// `sha256:` and the hash of the component file. Both nodes must show the same.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What it says about itself.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The settings that it was loaded with: a JSON object.
    pub fn settings(&self) -> &str {
        &self.settings
    }

    /// Asks who should serve.
    ///
    /// # Panics
    ///
    /// When this is not a failover policy: its kind is checked when it is loaded.
    pub fn failover(
        &self,
        situation: &failover::Situation,
        context: &Context,
        budget: Budget,
    ) -> Decision<failover::Verdict> {
        self.decide(situation, context, budget)
    }

    /// Asks what the license allows.
    ///
    /// # Panics
    ///
    /// When this is not a license policy: its kind is checked when it is loaded.
    pub fn license(
        &self,
        situation: &license::Situation,
        context: &Context,
        budget: Budget,
    ) -> Decision<license::Verdict> {
        self.decide(situation, context, budget)
    }

    /// Asks whose data stays after a split brain.
    ///
    /// # Panics
    ///
    /// When this is not a split-brain policy: its kind is checked when it is loaded.
    pub fn split_brain(
        &self,
        situation: &split_brain::Situation,
        context: &Context,
        budget: Budget,
    ) -> Decision<split_brain::Verdict> {
        self.decide(situation, context, budget)
    }

    /// Asks the question of any kind.
    ///
    /// # Panics
    ///
    /// When the situation is of another kind than the policy.
    pub fn decide<S: Subject>(
        &self,
        situation: &S,
        context: &Context,
        budget: Budget,
    ) -> Decision<S::Verdict> {
        assert_eq!(self.kind, S::KIND, "a policy was asked a question of another kind");
        let export = &self.exports.answer;
        let runner = Runner { shared: &self.shared, pre: &self.pre };
        let ran: Decision<(Result<S::Verdict, Fault>,)> =
            runner.run(export, (situation, context), budget);
        let Decision { outcome, fuel, cpu_us, wall_us, mut notes } = ran;
        let outcome = match outcome {
            Ok((Ok(mut verdict),)) => {
                S::sanitize(&mut verdict, &mut notes);
                Ok(verdict)
            }
            Ok((Err(fault),)) => Err(Failure::Fault(fault)),
            Err(failure) => Err(failure),
        };
        Decision { outcome, fuel, cpu_us, wall_us, notes }
    }
}

/// Runs one exported function in a fresh instance.
pub(crate) struct Runner<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) pre: &'a InstancePre<State>,
}

impl Runner<'_> {
    pub(crate) fn run<P, R>(
        &self,
        export: &ComponentExportIndex,
        params: P,
        budget: Budget,
    ) -> Decision<R>
    where
        P: ComponentNamedList + Lower + Send + Sync,
        R: ComponentNamedList + Lift + Send + Sync + 'static,
    {
        let (began, cpu_began_us) = (Instant::now(), thread_cpu_us());
        let limits = &self.shared.limits;
        let fuel = budget.fuel.min(limits.fuel_max);
        let mut store = Store::new(&self.shared.wasmtime, State::new(limits));
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(limits.output_bytes_max);
        let ticking = self.shared.ticker.guard();
        let outcome = store
            .set_fuel(fuel)
            .and_then(|()| self.call::<P, R>(&mut store, export, params, budget))
            .map_err(|error| failure(&error, &store, budget));
        drop(ticking);
        let left = store.get_fuel().unwrap_or(0);
        let notes = store.into_data().into_notes();
        Decision {
            outcome,
            fuel: fuel - left,
            cpu_us: thread_cpu_us().saturating_sub(cpu_began_us),
            wall_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
            notes,
        }
    }

    fn call<P, R>(
        &self,
        store: &mut Store<State>,
        export: &ComponentExportIndex,
        params: P,
        budget: Budget,
    ) -> wasmtime::Result<R>
    where
        P: ComponentNamedList + Lower + Send + Sync,
        R: ComponentNamedList + Lift + Send + Sync + 'static,
    {
        // One tick more: the first may come at once.
        let tick_ms = TICK.as_millis() as u64;
        store.set_epoch_deadline(u64::from(budget.wall_ms) / tick_ms + 1);
        let instance = self.pre.instantiate(&mut *store)?;
        let function = instance.get_typed_func::<P, R>(&mut *store, export)?;
        function.call(&mut *store, params)
    }
}

/// Why a call ended without a result.
fn failure(error: &wasmtime::Error, store: &Store<State>, budget: Budget) -> Failure {
    let state = store.data();
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => return Failure::OutOfFuel,
        Some(Trap::Interrupt) => return Failure::Deadline(budget.wall_ms),
        Some(Trap::StackOverflow) => return Failure::StackOverflow,
        _ if state.limiter.refused => return Failure::MemoryLimit,
        _ => {}
    }
    let text = format!("{:#}", error.root_cause());
    if text.contains("fuel allocated for hostcalls") {
        return Failure::OutputLimit;
    }
    Failure::Trapped(trap_text(error, &text, &state.notes))
}

/// The panic message where there is one, and the functions that were running.
fn trap_text(error: &wasmtime::Error, cause: &str, notes: &[Note]) -> String {
    let mut panics = notes
        .iter()
        .filter(|note| note.level == Level::Warn && note.text.starts_with("panicked at"));
    let mut text = panics.next_back().map_or_else(|| cause.to_string(), |note| note.text.clone());
    if let Some(backtrace) = error.downcast_ref::<wasmtime::WasmBacktrace>() {
        let names: Vec<&str> = backtrace
            .frames()
            .iter()
            .filter_map(|frame| frame.func_name())
            .take(TRAP_FRAMES_MAX)
            .collect();
        if !names.is_empty() {
            text = format!("{text} (in {})", names.join(" < "));
        }
    }
    text.truncate(text.floor_char_boundary(TRAP_TEXT_BYTES_MAX));
    text
}

/// CPU time of this thread in microseconds.
fn thread_cpu_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours, which the call fills in.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(status, 0, "every Linux has the clock of a thread");
    let time = Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
