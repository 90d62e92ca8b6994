//! The two commands of the README, with nothing to install by hand but rustup.
//!
//! ```text
//! cargo xtask demo [--keep] [--json]    builds the daemon and runs its demo
//! cargo xtask test                      builds the daemon and runs every test
//! cargo xtask bench-failover [--quick]  measures failover side by side with keepalived
//! ```

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Built besides the host: the policies, and the target that proves that the core needs no `std`.
const TARGETS: [&str; 2] = ["wasm32-unknown-unknown", "x86_64-unknown-none"];
/// Folders whose subfolders are guests: packages of their own, outside the workspace.
const GUESTS: [&str; 2] = ["policies", "examples/policies"];

const USAGE: &str = "usage: cargo xtask demo [--keep] [--json] | test | bench-failover [--quick]";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let task = args.next();
    let rest: Vec<String> = args.collect();
    let done = match task.as_deref() {
        Some("demo") => demo(&rest),
        Some("test") if rest.is_empty() => test(),
        Some("bench-failover") => bench(&rest),
        Some(other) => Err(format!("no such task, or an argument too many: {other}\n{USAGE}")),
        None => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}

fn demo(args: &[String]) -> Result<(), String> {
    let binary = build()?;
    run(Command::new(binary).arg("demo").args(args))
}

fn test() -> Result<(), String> {
    build()?;
    for guest in guests()? {
        println!("native tests of {}", guest.display());
        let shared = target_dir().join("guests");
        run(cargo(&["test", "--release", "--quiet"])
            .current_dir(guest)
            .env("CARGO_TARGET_DIR", shared))?;
    }
    // A run of its own: it builds the simulator once for every mutant, and takes the machine.
    run(cargo(&["test", "--release", "-p", "staffetta-sim", "--no-default-features"]).args([
        "--features",
        "native",
        "--test",
        "mutants",
        "--",
        "--ignored",
        "--nocapture",
    ]))?;
    let has_nextest = Command::new("cargo-nextest").arg("--version").output().is_ok();
    if has_nextest {
        run(&mut cargo(&["nextest", "run", "--release", "--workspace"]))
    } else {
        run(&mut cargo(&["test", "--release", "--workspace"]))
    }
}

fn bench(args: &[String]) -> Result<(), String> {
    let binary = build()?;
    let script = root().join("tests/bench/failover/run");
    run(Command::new(script).args(args).env("STAFFETTA", binary))
}

/// Builds the daemon and returns its path.
fn build() -> Result<PathBuf, String> {
    add_missing_targets()?;
    run(&mut cargo(&["build", "--release", "-p", "staffetta"]))?;
    Ok(target_dir().join("release/staffetta"))
}

/// Targets that the toolchain lacks are added; a toolchain without rustup has to bring them.
fn add_missing_targets() -> Result<(), String> {
    let sysroot = output(Command::new("rustc").current_dir(root()).args(["--print", "sysroot"]))?;
    let libraries = Path::new(sysroot.trim()).join("lib/rustlib");
    for target in TARGETS {
        if libraries.join(target).is_dir() {
            continue;
        }
        let mut rustup = Command::new("rustup");
        rustup.current_dir(root()).args(["target", "add", target]);
        run(&mut rustup).map_err(|why| {
            format!(
                "the Rust target {target} is missing and was not added ({why}): install rustup \
                 from https://rustup.rs, or the target from where this Rust came from"
            )
        })?;
    }
    Ok(())
}

fn guests() -> Result<Vec<PathBuf>, String> {
    let mut guests = Vec::new();
    for folder in GUESTS.map(|folder| root().join(folder)) {
        let entries = std::fs::read_dir(&folder)
            .map_err(|error| format!("cannot list {}: {error}", folder.display()))?;
        guests.extend(
            entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|guest| is_guest(guest)),
        );
    }
    guests.sort();
    Ok(guests)
}

/// A package outside the workspace has a lock file of its own.
fn is_guest(folder: &Path) -> bool {
    folder.join("Cargo.toml").is_file() && folder.join("Cargo.lock").is_file()
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(args);
    command
}

fn run(command: &mut Command) -> Result<(), String> {
    let line = describe(command);
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{line}: {status}")),
        Err(error) => Err(format!("cannot run {line}: {error}")),
    }
}

fn output(command: &mut Command) -> Result<String, String> {
    let line = describe(command);
    match command.output() {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("cannot run {line}: {error}")),
    }
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Where cargo builds: `$CARGO_TARGET_DIR`, or `target`.
fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The folder of the workspace that cargo was called in: with a target folder of several clones
/// this program may have been built in another one.
fn root() -> PathBuf {
    let own = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    own.join("..")
}
