//! Permission to build a world, and one at a time.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Result;
use staffetta_lab::{Entry, enter};

/// The root of the workspace.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The folder that holds this test's `deps`: `target/release` or `target/debug`.
///
/// # Panics
/// When the test does not run from a cargo target folder.
#[must_use]
pub fn target_dir() -> PathBuf {
    let this = std::env::current_exe().expect("a running program has a path");
    this.parent().and_then(Path::parent).expect("target/PROFILE/deps/TEST").to_owned()
}

/// The daemon under test: `$STAFFETTA`, or the one built beside this test.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn binary() -> PathBuf {
    let beside = || target_dir().with_file_name("release").join("staffetta");
    let path = std::env::var_os("STAFFETTA").map_or_else(beside, PathBuf::from);
    assert!(
        path.is_file(),
        "no program at {}: run cargo build --release -p staffetta first",
        path.display()
    );
    path
}

/// Runs `body` where network namespaces can be made: here, or, for a user without that right, in
/// this test run again inside a user namespace. Worlds are built one at a time. Where neither is
/// allowed the test says `SKIPPED` and why.
///
/// # Panics
/// When `body` fails.
pub fn world<F: FnOnce() -> Result<()>>(body: F) {
    match enter(test_arguments(std::any::type_name::<F>())).expect("this test can run itself") {
        Entry::Here => {}
        Entry::Ran(status) => {
            assert!(status.success(), "failed inside the user namespace ({status}), see above");
            return;
        }
        Entry::Refused(why) => {
            println!("SKIPPED: {why}");
            return;
        }
    }
    let _alone = lock();
    if let Err(error) = body() {
        panic!("{error:#}");
    }
}

/// `CRATE::TEST::{{closure}}` is the closure that a test hands over: the arguments that run that
/// test alone.
fn test_arguments(closure: &str) -> Vec<std::ffi::OsString> {
    let path = closure.split_once("::").map_or(closure, |(_, path)| path);
    let test = path.split("::{{closure}}").next().unwrap_or(path);
    [test, "--exact", "--nocapture"].map(Into::into).to_vec()
}

/// Two worlds at once would measure each other.
fn lock() -> File {
    let path = target_dir().join("staffetta-tests.lock");
    let file = File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file.lock().unwrap_or_else(|error| panic!("cannot lock {}: {error}", path.display()));
    file
}
