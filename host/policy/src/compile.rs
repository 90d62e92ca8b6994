//! Compiling: in a child process with resource limits, so that a component can neither crash the
//! daemon's compiler nor leave its memory behind.

use std::hash::{Hash, Hasher};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use wasmtime::component::Component;

use crate::cache::Cache;
use crate::engine;
use crate::limits::COMPONENT_BYTES_MAX;

/// First argument of a process that compiles. The binary calls [`child_main`] when it sees it.
pub const CHILD_ARGUMENT: &str = "__compile-policy";

/// Address space of the child. Interpreters need 360 MiB of memory.
const CHILD_ADDRESS_SPACE_BYTES_MAX: u64 = 4 << 30;
/// CPU time of the child. Interpreters need 25 s.
const CHILD_CPU_S_MAX: u64 = 120;
/// Time that the child may take, on a loaded machine.
const CHILD_WALL_S_MAX: u64 = 300;
/// Longest compiled form.
const COMPILED_BYTES_MAX: u64 = 256 << 20;
/// Longest error text of the child.
const CHILD_ERROR_BYTES_MAX: u64 = 4 << 10;
/// How often the end of the child is looked for.
const CHILD_POLL: Duration = Duration::from_millis(5);

/// Where components are compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compile {
    /// Here. For `policy check` and tests: the memory of the compiler stays with the process.
    InProcess,
    /// In a child process, keeping the result in a private folder.
    Child {
        /// A program that calls [`child_main`] when its first argument is [`CHILD_ARGUMENT`].
        program: PathBuf,
        /// Where compiled forms are kept. `None`: nowhere.
        cache: Option<PathBuf>,
    },
}

/// Why a component has no compiled form.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// It is not valid.
    #[error("the component does not compile: {0}")]
    Invalid(String),
    /// The child could not be started.
    #[error("cannot run {program} to compile a policy: {error}")]
    NoChild {
        /// The program.
        program: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// The child failed.
    #[error("compiling the policy failed ({status}): {text}")]
    ChildFailed {
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        text: String,
    },
    /// The child took too long.
    #[error("compiling the policy took longer than {CHILD_WALL_S_MAX} s")]
    TooSlow,
}

impl Compile {
    /// In a child process of the running binary, which must call [`child_main`].
    pub fn child(cache: Option<PathBuf>) -> Self {
        // Names the running binary even while an upgrade replaces its file.
        Self::Child { program: PathBuf::from("/proc/self/exe"), cache }
    }

    pub(crate) fn component(
        &self,
        engine: &wasmtime::Engine,
        component: &[u8],
    ) -> Result<Component, CompileError> {
        let (program, cache) = match self {
            Self::InProcess => {
                return Component::from_binary(engine, component)
                    .map_err(|error| CompileError::Invalid(format!("{error:#}")));
            }
            Self::Child { program, cache } => (program, cache),
        };
        // A cache that cannot be used is no reason to be without a policy.
        let cache = cache.as_ref().and_then(|dir| Cache::open(dir, &compatibility(engine)).ok());
        if let Some(compiled) = cache.as_ref().and_then(|cache| cache.get(component)) {
            // SAFETY: the bytes carry the keyed hash of this host, so they are what `put` was
            // given: the output of a compiling child of ours.
            match unsafe { Component::deserialize(engine, &compiled) } {
                Ok(component) => return Ok(component),
                Err(_) => cache.as_ref().into_iter().for_each(|cache| cache.remove(component)),
            }
        }
        let compiled = in_child(program, component)?;
        if let Some(cache) = &cache {
            let _ = cache.put(component, &compiled);
        }
        // SAFETY: the bytes are the output of `Engine::precompile_component` in a child that runs
        // this same program.
        unsafe { Component::deserialize(engine, &compiled) }
            .map_err(|error| CompileError::Invalid(format!("{error:#}")))
    }
}

/// What a compiled form depends on beside the component.
fn compatibility(engine: &wasmtime::Engine) -> String {
    let mut hasher = std::hash::DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn in_child(program: &PathBuf, component: &[u8]) -> Result<Vec<u8>, CompileError> {
    let no_child = |error| CompileError::NoChild { program: program.clone(), error };
    let mut child = Command::new(program)
        .arg(CHILD_ARGUMENT)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(no_child)?;
    let deadline = Instant::now() + Duration::from_secs(CHILD_WALL_S_MAX);
    let (mut stdin, stdout, stderr) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        // A child that ends early closes the pipe: its status says why.
        scope.spawn(move || stdin.take().map(|mut stdin| stdin.write_all(component)));
        let compiled = scope.spawn(move || read_up_to(stdout, COMPILED_BYTES_MAX));
        let text = scope.spawn(move || read_up_to(stderr, CHILD_ERROR_BYTES_MAX));
        let status = wait(&mut child, deadline);
        let (compiled, text) = (compiled.join(), text.join());
        let status = status.map_err(no_child)?.ok_or(CompileError::TooSlow)?;
        let text = String::from_utf8_lossy(&text.unwrap_or_default()).trim().to_string();
        match (status.success(), compiled) {
            (true, Ok(compiled)) => Ok(compiled),
            (true | false, _) => Err(CompileError::ChildFailed { status, text }),
        }
    })
}

fn read_up_to(pipe: Option<impl Read>, bytes_max: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What cannot be read is missing; the status of the child decides.
        let _ = pipe.take(bytes_max).read_to_end(&mut bytes);
    }
    bytes
}

/// Waits for the end of the child, or ends it. `None`: it was too slow.
fn wait(child: &mut Child, deadline: Instant) -> std::io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(CHILD_POLL);
    }
}

/// The whole life of a compiling child: component on standard input, compiled form on standard
/// output. Returns the exit code of the process.
#[must_use]
pub fn child_main() -> i32 {
    limit(libc::RLIMIT_AS, CHILD_ADDRESS_SPACE_BYTES_MAX);
    limit(libc::RLIMIT_CPU, CHILD_CPU_S_MAX);
    limit(libc::RLIMIT_FSIZE, 0);
    limit(libc::RLIMIT_CORE, 0);
    match compile() {
        Ok(()) => 0,
        Err(text) => {
            eprintln!("{text}");
            1
        }
    }
}

fn limit(resource: libc::__rlimit_resource_t, value: u64) {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: the pointer is to a struct of ours that the call reads.
    let status = unsafe { libc::setrlimit(resource, &raw const limit) };
    // A limit that is lower already cannot be raised, and need not be.
    let _ = status;
}

fn compile() -> Result<(), String> {
    let mut component = Vec::new();
    let input = std::io::stdin().lock().take(COMPONENT_BYTES_MAX as u64 + 1);
    let read = { input }.read_to_end(&mut component).map_err(|error| error.to_string())?;
    if read > COMPONENT_BYTES_MAX {
        return Err(format!("longer than {COMPONENT_BYTES_MAX} bytes"));
    }
    let engine = wasmtime::Engine::new(&engine::config()).map_err(|error| format!("{error:#}"))?;
    let compiled = engine.precompile_component(&component).map_err(|error| format!("{error:#}"))?;
    let mut out = std::io::stdout().lock();
    out.write_all(&compiled).and_then(|()| out.flush()).map_err(|error| error.to_string())
}
