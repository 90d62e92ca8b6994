//! One constructor for engine, limits and ticker: a policy cannot run without all three.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use wasmtime::component::Linker;
use wasmtime::{Config, EngineWeak};

use crate::kind::{PACKAGE, PACKAGE_VERSION};
use crate::limits::{Level, Limits};
use crate::state::State;

/// One step of the clock that ends decisions.
pub(crate) const TICK: Duration = Duration::from_millis(1);
/// Native stack of a policy.
const STACK_BYTES_MAX: usize = 256 << 10;
/// Address space reserved for each linear memory.
const MEMORY_RESERVATION_BYTES: u64 = 64 << 20;

/// Why an engine could not be made. A bug, or a machine that cannot run compiled WebAssembly.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the policy engine: {0}")]
pub struct EngineError(String);

/// Runs policies. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) wasmtime: wasmtime::Engine,
    pub(crate) linker: Linker<State>,
    pub(crate) limits: Limits,
    pub(crate) ticker: Ticker,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("limits", &self.shared.limits).finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts an engine. Its ticker thread sleeps unless a decision runs, and ends with the engine.
    ///
    /// # Errors
    ///
    /// When the machine cannot run compiled WebAssembly or start a thread.
    pub fn new(limits: Limits) -> Result<Self, EngineError> {
        let wasmtime = wasmtime::Engine::new(&config()).map_err(|e| EngineError(e.to_string()))?;
        let linker = linker(&wasmtime).map_err(|error| EngineError(error.to_string()))?;
        let ticker = Ticker::start(&wasmtime).map_err(|error| EngineError(error.to_string()))?;
        Ok(Self { shared: Arc::new(Shared { wasmtime, linker, limits, ticker }) })
    }

    /// What every policy is held to.
    pub fn limits(&self) -> Limits {
        self.shared.limits
    }
}

/// The settings that compiled code depends on. The compiling child process uses the same.
pub(crate) fn config() -> Config {
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .epoch_interruption(true)
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_simd(false)
        .wasm_memory64(false)
        .wasm_tail_call(false)
        // Components with inner components (stub-WASI builds) panic the compiler without it.
        .wasm_multi_memory(true)
        .concurrency_support(false)
        .max_wasm_stack(STACK_BYTES_MAX)
        .memory_reservation(MEMORY_RESERVATION_BYTES)
        .memory_reservation_for_growth(0)
        .memory_init_cow(true);
    config
}

/// The only thing that a policy may call. There is no WASI here at all.
fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    let mut log = linker.instance(&format!("{PACKAGE}log@{PACKAGE_VERSION}"))?;
    log.func_wrap("note", |mut store, (level, text): (Level, String)| {
        let state: &mut State = store.data_mut();
        state.note(level, &text);
        Ok(())
    })?;
    // Every policy imports the interface of shared types; there is nothing in it to call.
    linker.instance(&format!("{PACKAGE}types@{PACKAGE_VERSION}"))?;
    Ok(linker)
}

/// Moves the engine's epoch on while decisions run, so that none runs for ever.
pub(crate) struct Ticker {
    running: Arc<Running>,
    thread: Thread,
    handle: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Running {
    decisions: AtomicU32,
    stop: AtomicBool,
}

impl Ticker {
    fn start(engine: &wasmtime::Engine) -> std::io::Result<Self> {
        let running = Arc::new(Running::default());
        let (weak, shared) = (engine.weak(), Arc::clone(&running));
        let handle = std::thread::Builder::new()
            .name("policy-ticker".into())
            .stack_size(64 << 10)
            .spawn(move || tick(&weak, &shared))?;
        Ok(Self { running, thread: handle.thread().clone(), handle: Some(handle) })
    }

    /// Ticks until the guard is dropped.
    pub(crate) fn guard(&self) -> TickerGuard<'_> {
        if self.running.decisions.fetch_add(1, Ordering::SeqCst) == 0 {
            self.thread.unpark();
        }
        TickerGuard(self)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.running.stop.store(true, Ordering::SeqCst);
        self.thread.unpark();
        if let Some(handle) = self.handle.take() {
            // It only sleeps and counts: there is no panic to pass on.
            let _ = handle.join();
        }
    }
}

pub(crate) struct TickerGuard<'a>(&'a Ticker);

impl Drop for TickerGuard<'_> {
    fn drop(&mut self) {
        self.0.running.decisions.fetch_sub(1, Ordering::SeqCst);
    }
}

fn tick(engine: &EngineWeak, running: &Running) {
    while !running.stop.load(Ordering::SeqCst) {
        if running.decisions.load(Ordering::SeqCst) == 0 {
            std::thread::park();
            continue;
        }
        std::thread::sleep(TICK);
        match engine.upgrade() {
            Some(engine) => engine.increment_epoch(),
            None => return,
        }
    }
}
