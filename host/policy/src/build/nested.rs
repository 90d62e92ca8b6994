//! Builds one policy crate with a cargo of its own, and makes a component of the module.
//!
//! `policies/bundle` includes this file in its build script, so that the built-in policies and
//! those of a site come out of the same steps.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The only target: it has no WASI, hence no imports that the host would refuse.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";
/// Stack of the guest inside its linear memory. More is a bug in a policy.
const STACK_BYTES: u32 = 256 * 1024;
/// What a nested cargo may inherit of cargo's own variables.
const INHERITED: [&str; 2] = ["CARGO_HOME", "CARGO_MAKEFLAGS"];
/// Settings of the network are the site's business.
const INHERITED_PREFIXES: [&str; 4] =
    ["CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_"];
/// What a build script or wrapper sets, and what would change the guest.
const SCRUBBED: [&str; 12] = [
    "RUSTFLAGS",
    "RUSTDOCFLAGS",
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_LINKER",
    "TARGET",
    "HOST",
    "PROFILE",
    "OPT_LEVEL",
    "OUT_DIR",
    "DEBUG",
];

/// Why a policy crate did not become a component.
#[derive(Debug)]
#[allow(unreachable_pub)]
pub enum NestedError {
    /// There is no Cargo.toml.
    NoCrate(PathBuf),
    /// Cargo could not be started.
    NoCargo(std::io::Error),
    /// The standard library for WebAssembly is missing.
    NoTarget,
    /// Cargo failed; its own words.
    Failed(String),
    /// Cargo built no module.
    NoModule(PathBuf),
    /// The module could not be read.
    Unreadable(PathBuf, std::io::Error),
    /// The module is not a policy.
    NotAPolicy(String),
}

impl fmt::Display for NestedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCrate(dir) => write!(
                f,
                "{} holds no Cargo.toml: name the folder of a policy crate, or make one with \
                 `staffetta policy new`",
                dir.display()
            ),
            Self::NoCargo(error) => {
                write!(f, "cannot run cargo: {error} (is a Rust toolchain installed?)")
            }
            Self::NoTarget => write!(
                f,
                "the Rust target {TARGET} is not installed: run `rustup target add {TARGET}`"
            ),
            Self::Failed(text) => write!(f, "cargo failed:\n{text}"),
            Self::NoModule(dir) => write!(
                f,
                "cargo built no module in {}: its Cargo.toml needs `[lib]` with `crate-type = \
                 [\"cdylib\", \"rlib\"]`",
                dir.display()
            ),
            Self::Unreadable(file, error) => write!(f, "cannot read {}: {error}", file.display()),
            Self::NotAPolicy(text) => write!(
                f,
                "the module is no policy: {text} (does it export one, as with failover_policy!?)"
            ),
        }
    }
}

impl std::error::Error for NestedError {}

/// Builds the crate in `dir` and returns its component. `roots` are folders whose names do not
/// belong into the result.
pub(crate) fn component(
    dir: &Path,
    target_dir: &Path,
    roots: &[&Path],
    locked: bool,
) -> Result<Vec<u8>, NestedError> {
    let file = module(dir, target_dir, roots, locked)?;
    let module = std::fs::read(&file).map_err(|error| NestedError::Unreadable(file, error))?;
    componentize(&module)
}

/// Makes a component of a core module that was built with the SDK.
pub(crate) fn componentize(module: &[u8]) -> Result<Vec<u8>, NestedError> {
    let encode =
        || wit_component::ComponentEncoder::default().validate(true).module(module)?.encode();
    encode().map_err(|error| NestedError::NotAPolicy(format!("{error:#}")))
}

fn module(
    dir: &Path,
    target_dir: &Path,
    roots: &[&Path],
    locked: bool,
) -> Result<PathBuf, NestedError> {
    if !dir.join("Cargo.toml").is_file() {
        return Err(NestedError::NoCrate(dir.to_path_buf()));
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(dir).args(["build", "--release", "--target", TARGET, "--target-dir"]);
    cargo.arg(target_dir).arg("--message-format=json-render-diagnostics");
    if locked {
        cargo.arg("--locked");
    }
    for (name, _) in std::env::vars_os() {
        if is_scrubbed(&name) {
            cargo.env_remove(name);
        }
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", rustflags(roots));
    cargo.stdin(Stdio::null());
    let output = cargo.output().map_err(NestedError::NoCargo)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let no_target = errors.contains("can't find crate for `core`")
            || errors.contains("can't find crate for `std`")
            || errors.contains("target may not be installed");
        return Err(match no_target {
            true => NestedError::NoTarget,
            false => NestedError::Failed(errors.into_owned()),
        });
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    wasm_file(&messages).ok_or_else(|| NestedError::NoModule(dir.to_path_buf()))
}

fn is_scrubbed(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    let inherited = INHERITED.contains(&&*name)
        || INHERITED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    (name.starts_with("CARGO") && !inherited) || SCRUBBED.contains(&&*name)
}

/// Flags that make the result small, and the same wherever it is built.
fn rustflags(roots: &[&Path]) -> String {
    let mut flags = vec![format!("-Clink-arg=-zstack-size={STACK_BYTES}")];
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home);
    for (root, name) in cargo_home.iter().map(|home| (home.as_path(), "cargo")) {
        flags.push(format!("--remap-path-prefix={}={name}", root.display()));
    }
    for root in roots {
        flags.push(format!("--remap-path-prefix={}=.", root.display()));
    }
    flags.join("\x1f")
}

/// The last WebAssembly file that cargo's messages name.
fn wasm_file(messages: &str) -> Option<PathBuf> {
    let line = messages.lines().rev().find(|line| {
        line.contains("\"reason\":\"compiler-artifact\"") && line.contains(".wasm\"")
    })?;
    let end = line.rfind(".wasm\"")? + ".wasm".len();
    let start = line[..end].rfind('"')? + 1;
    Some(PathBuf::from(&line[start..end]))
}
