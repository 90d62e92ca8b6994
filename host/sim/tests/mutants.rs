//! Proves that the simulator sees: every patch under `mutants/` breaks one rule of production code,
//! and a run over the same seeds that the whole code passes catches it.
//!
//! `cargo test --release -p staffetta-sim --test mutants -- --ignored --nocapture` builds each
//! variant without the policy engine, some ten seconds each; `STAFFETTA_MUTANTS=r10` in the
//! environment takes those with that in their names. That each patch still applies is checked every
//! time.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates that a variant is built from.
const CRATES: [&str; 10] = [
    "host/core",
    "host/policy",
    "host/sim",
    "host/situation",
    "policies/bundle",
    "policies/failover",
    "policies/license",
    "policies/split-brain",
    "sdk",
    "examples/policies/business-hours",
];
const MUTANTS_MIN: usize = 20;
/// Seeds that a mutant may survive.
const SEEDS_MAX: u64 = 4_000;

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("the crate lies two folders below the root").to_owned()
}

fn patches() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("mutants")).expect("the folder mutants is there");
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "patch"))
        .collect();
    found.sort();
    assert!(found.len() >= MUTANTS_MIN, "only {} mutants", found.len());
    found
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder can be made");
    for entry in std::fs::read_dir(from).expect("a crate can be read") {
        let path = entry.expect("a crate can be read").path();
        let name = path.file_name().expect("an entry has a name").to_owned();
        if path.is_dir() {
            if name != "target" && name != "tests" {
                copy(&path, &to.join(name));
            }
        } else {
            std::fs::copy(&path, to.join(name)).expect("a file can be copied");
        }
    }
}

/// A workspace of those crates alone, built for speed of building.
fn workspace(at: &Path) {
    for name in CRATES {
        copy(&root().join(name), &at.join(name));
    }
    copy(&root().join("wit"), &at.join("wit"));
    let manifest =
        std::fs::read_to_string(root().join("Cargo.toml")).expect("the manifest is text");
    let profile = manifest.find("[profile.release]").expect("the manifest has a profile");
    let mut text: String = manifest[..profile]
        .lines()
        .map(|line| {
            let members = "members = [\"host/core\", \"host/sim\", \"host/situation\", \
                           \"policies/bundle\", \"host/policy\", \"sdk\"]";
            if line.starts_with("members") { members } else { line }
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    text += "[profile.release]\nopt-level = 1\nincremental = true\ncodegen-units = 16\n\
             overflow-checks = true\ndebug = false\n";
    std::fs::write(at.join("Cargo.toml"), text).expect("the manifest can be written");
    std::fs::copy(root().join("Cargo.lock"), at.join("Cargo.lock")).expect("the lock is there");
}

fn git_apply(at: &Path, patch: &Path, back: bool) -> Result<(), String> {
    let mut git = Command::new("git");
    git.current_dir(at).args(["apply", "--whitespace=nowarn"]).args(back.then_some("-R"));
    // A folder inside another repository would be patched there.
    git.env("GIT_CEILING_DIRECTORIES", at.parent().unwrap_or(at)).arg(patch);
    let output = git.output().expect("git runs");
    if output.status.success() {
        Ok(())
    } else {
        let name = patch.display();
        Err(format!("{name} does not apply: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

fn build(at: &Path) -> Result<PathBuf, String> {
    let target = at.join("target");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(at).args(["build", "--release", "--offline", "--quiet", "-p"]);
    cargo.args(["staffetta-sim", "--no-default-features", "--features", "native"]);
    cargo.arg("--target-dir").arg(&target).env_remove("CARGO_TARGET_DIR");
    let output = cargo.output().expect("cargo runs");
    if output.status.success() {
        Ok(target.join("release/staffetta-sim"))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The first line about a violation, or nothing.
fn run(binary: &Path, first: u64, seeds: u64) -> Option<String> {
    let mut sim = Command::new(binary);
    sim.args(["--once", "--stop", "--seeds", &seeds.to_string()]);
    sim.args(["--first", &first.to_string()]);
    let output = sim.output().expect("the simulator runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = text.lines().find(|line| line.starts_with("seed ")).map(str::to_owned);
    assert_eq!(output.status.success(), first.is_none(), "{text}");
    first
}

/// `seed N at …`: N.
fn seed_of(line: &str) -> u64 {
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(SEEDS_MAX)
}

/// The first violation of the mutant on a seed that the whole code passes.
fn hunt(mutant: &Path, whole: &Path) -> Option<String> {
    let mut first = 1;
    while first <= SEEDS_MAX {
        let line = run(mutant, first, SEEDS_MAX + 1 - first)?;
        let seed = seed_of(&line);
        match run(whole, seed, 1) {
            None => return Some(line),
            Some(known) => println!("the whole code breaks a rule, too: {known}"),
        }
        first = seed + 1;
    }
    None
}

#[test]
fn every_patch_applies() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["host/core", "host/situation"] {
        copy(&root().join(name), &folder.path().join(name));
    }
    let apply = |patch: &PathBuf| {
        git_apply(folder.path(), patch, false)?;
        git_apply(folder.path(), patch, true)
    };
    let failed: Vec<String> = patches().iter().filter_map(|patch| apply(patch).err()).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
#[ignore = "builds the simulator once for every mutant"]
fn every_mutant_is_caught() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    workspace(at);
    let built = build(at).expect("the whole code builds");
    let whole = at.join("whole");
    std::fs::copy(&built, &whole).expect("a program can be copied");
    let wanted = std::env::var("STAFFETTA_MUTANTS").unwrap_or_default();
    let mut survived = Vec::new();
    for patch in patches() {
        let name = patch.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if !name.contains(&wanted) {
            continue;
        }
        git_apply(at, &patch, false).unwrap_or_else(|error| panic!("{error}"));
        let binary = build(at).unwrap_or_else(|error| panic!("{name} does not build: {error}"));
        git_apply(at, &patch, true).unwrap_or_else(|error| panic!("{error}"));
        match hunt(&binary, &whole) {
            Some(line) => println!("caught    {name}: {line}"),
            None => {
                println!("SURVIVED  {name}");
                survived.push(name);
            }
        }
    }
    assert!(survived.is_empty(), "not caught within {SEEDS_MAX} seeds: {}", survived.join(", "));
}
