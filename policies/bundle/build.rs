//! Builds the policies with a nested cargo and leaves their components in `OUT_DIR`.
//!
//! The nested builds share one folder beside the profile folders, not one under `OUT_DIR`: clippy,
//! tests and other flags would each build the guests again.

use std::path::{Path, PathBuf};

#[path = "../../host/policy/src/build/nested.rs"]
mod nested;

/// Folder under `policies/`, file name of the component.
const BUILT_IN: [(&str, &str); 3] = [
    ("policies/failover", "failover.wasm"),
    ("policies/license", "license.wasm"),
    ("policies/split-brain", "split-brain.wasm"),
];
const FIXTURES: [(&str, &str); 2] = [
    ("policies/hostile", "hostile.wasm"),
    ("examples/policies/business-hours", "business-hours.wasm"),
];

fn main() {
    let root = folder("CARGO_MANIFEST_DIR").join("../..").canonicalize().expect("the repository");
    let out = folder("OUT_DIR");
    let target = target_dir(&out);
    for shared in ["sdk/src", "sdk/Cargo.toml", "wit", "host/policy/src/build/nested.rs"] {
        println!("cargo::rerun-if-changed={}", root.join(shared).display());
    }
    let fixtures = std::env::var_os("CARGO_FEATURE_FIXTURES").is_some();
    let guests = BUILT_IN.iter().chain(FIXTURES.iter().filter(|_| fixtures));
    for (dir, file) in guests {
        let dir = root.join(dir);
        for part in ["src", "Cargo.toml", "Cargo.lock"] {
            println!("cargo::rerun-if-changed={}", dir.join(part).display());
        }
        match nested::component(&dir, &target, &[root.as_path()], true) {
            Ok(component) => std::fs::write(out.join(file), component).expect("OUT_DIR"),
            Err(error) => report(&dir, &error),
        }
    }
}

fn folder(variable: &str) -> PathBuf {
    PathBuf::from(std::env::var_os(variable).expect("cargo sets it"))
}

/// `TARGET/PROFILE/build/CRATE/out` → `TARGET/policies`.
fn target_dir(out: &Path) -> PathBuf {
    let build = out.ancestors().find(|folder| folder.ends_with("build"));
    let target = build.and_then(Path::parent).and_then(Path::parent);
    target.expect("OUT_DIR lies in a target folder").join("policies")
}

fn report(dir: &Path, error: &nested::NestedError) {
    for line in format!("cannot build the policy in {}: {error}", dir.display()).lines() {
        println!("cargo::error={line}");
    }
}
