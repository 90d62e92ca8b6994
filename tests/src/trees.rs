//! Pairs with a tree of files, and rsync as the judge of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use staffetta_lab::{Node, Pair, PairOptions, Role};

use crate::{Scene, aligned, text};

const PATIENCE: Duration = Duration::from_secs(30);
/// The name of the tree that the pairs have.
pub const TREE: &str = "spool";

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn options(more: &str) -> PairOptions {
    PairOptions { trees: vec![(TREE.into(), more.into())], ..PairOptions::default() }
}

/// Waits for something that must come.
///
/// # Errors
/// When it does not come in time; says what both nodes say of their trees.
pub fn wait(what: &str, pair: &Pair, there: impl FnMut() -> bool) -> Result<()> {
    crate::wait(what, pair, PATIENCE, there).with_context(|| trees(pair))
}

/// What both nodes say of their trees.
fn trees(pair: &Pair) -> String {
    let said = |node: Node| {
        let (status, diff) = (["files", "status"], ["files", "diff", TREE]);
        let mut shown = pair.command(node, &status).map(|output| text(&output));
        if let (Ok(shown), Ok(differing)) = (&mut shown, pair.command(node, &diff)) {
            shown.push('\n');
            shown.push_str(&text(&differing));
        }
        format!("{}: {}", node.name(), shown.unwrap_or_else(|error| error.to_string()))
    };
    Node::BOTH.map(said).join("\n")
}

/// Waits until both nodes say that the standby has what the primary has.
///
/// # Errors
/// When they do not in time.
pub fn all_aligned(pair: &Pair) -> Result<()> {
    wait("alignment", pair, || Node::BOTH.into_iter().all(|node| aligned(pair, node)))
}

/// What rsync would still have to do; none where rsync is not installed.
fn differences(pair: &Pair) -> Result<Option<String>> {
    let [one, other] = Node::BOTH.map(|node| pair.tree_there(node, TREE));
    if Command::new("rsync").arg("--version").output().is_err() {
        return Ok(None);
    }
    let mut rsync = pair.program("rsync");
    rsync.args([
        "-aHAXSnc",
        "--delete",
        "--itemize-changes",
        "--exclude=/.staffetta",
        "--exclude=*.tmp",
    ]);
    rsync.arg(format!("{}/", one.display())).arg(format!("{}/", other.display()));
    let output = rsync.output().context("cannot run rsync")?;
    // A file that vanished while rsync looked is a difference, too: alignment allows for a second.
    let failed = if output.status.success() { "" } else { "rsync failed: " };
    Ok(Some(format!("{failed}{}", text(&output))))
}

/// Both trees are alike, to the last attribute, within the patience.
///
/// # Errors
/// What differs after that.
pub fn alike(pair: &Pair) -> Result<()> {
    all_aligned(pair)?;
    let until = Instant::now() + PATIENCE;
    loop {
        match differences(pair)? {
            None => {
                println!("SKIPPED: the trees are not compared: rsync is not installed");
                return Ok(());
            }
            Some(differences) if differences.is_empty() => return Ok(()),
            Some(differences) => {
                let now = Instant::now();
                ensure!(now < until, "the trees differ:\n{differences}\n{}", trees(pair));
            }
        }
        std::thread::sleep(ms(100));
    }
}

/// A pair with one tree, of which these are further lines of its table.
///
/// # Errors
/// As [`Scene::open`].
pub fn open(more: &str, prepare: fn(&Pair) -> Result<()>) -> Result<Scene> {
    Scene::open(&options(more), false, prepare)?.context("no pair")
}

/// Waits until this node is primary.
///
/// # Errors
/// When it does not become that in time.
pub fn wait_for_takeover(pair: &Pair, new: Node) -> Result<()> {
    wait("a takeover", pair, || pair.status(new).is_ok_and(|status| status.role == Role::Primary))
}

/// Files below a folder, Staffetta's own left out.
#[must_use]
pub fn count(root: &Path) -> usize {
    let mut left = vec![root.to_owned()];
    let mut files = 0;
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && entry.file_name() != ".staffetta" => {
                    left.push(entry.path());
                }
                Ok(kind) if kind.is_dir() => {}
                Ok(_) | Err(_) => files += 1,
            }
        }
    }
    files
}

/// What was set aside on a node, of this name.
#[must_use]
pub fn kept(root: &Path, place: &str, name: &str) -> Option<PathBuf> {
    let mut left = vec![root.join(".staffetta").join(place)];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_name() == name {
                return Some(entry.path());
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
            }
        }
    }
    None
}
