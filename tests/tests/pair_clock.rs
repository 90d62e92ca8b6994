//! Clocks: no lease reads the wall clock, and nodes whose clocks began at different times agree.
//!
//! A step of the wall clock cannot be confined to one node of this machine: no namespace holds
//! CLOCK_REALTIME, and to set it would move it for everybody. So it is shown in the source that
//! nothing on the way of a lease reads it, and by clocks that can be moved that only differences
//! count.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use staffetta_lab::{Node, Pair};
use staffetta_tests::{Case, Serves, can_launch, check_each, kill, moved_clocks, workspace, world};

/// Ways to the wall clock.
const WALL: [&str; 10] = [
    "SystemTime",
    "UNIX_EPOCH",
    "CLOCK_REALTIME",
    "CLOCK_TAI",
    "gettimeofday",
    "libc::time(",
    "Zoned::now",
    "Timestamp::now",
    "unix_ms_now",
    "wall()",
];
/// What decides, measures, carries or enforces a lease: all of these folders and files.
const LEASE_CODE: [&str; 9] = [
    "host/core/src",
    "host/vip/src",
    "host/src/link",
    "host/src/shell/beats.rs",
    "host/src/shell/clock.rs",
    "host/src/shell/arbitrate.rs",
    "host/src/shell/disk.rs",
    "host/src/shell/inbox.rs",
    "host/src/shell/orders.rs",
];
/// Where the wall clock is read in the daemon: for records, licenses and the eyes of policies.
const WALL_READERS: [&str; 6] = [
    "host/src/journal/",
    "host/src/cli/",
    "host/src/shell/licensing.rs",
    "host/src/shell/situation.rs",
    "host/src/shell/decide.rs",
    "host/src/shell/report.rs",
];
/// Seconds by which a clock is ahead: 300 days.
const AHEAD_S: i64 = 300 * 86_400;
/// How long ago the other one's clocks seem to have begun, in seconds.
const YOUNG_S: i64 = 5;

/// Lines of code below `path` that read the wall clock; the tests of the code do not count.
fn wall_readers(path: &Path, found: &mut Vec<String>) -> Result<usize> {
    if path.is_dir() {
        let mut files = 0;
        for entry in std::fs::read_dir(path)? {
            files += wall_readers(&entry?.path(), found)?;
        }
        return Ok(files);
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !name.ends_with(".rs") || name == "tests.rs" || name.ends_with("_tests.rs") {
        return Ok(0);
    }
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let shown = path.strip_prefix(workspace()).unwrap_or(path).display();
    for (at, line) in code.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if WALL.iter().any(|way| code.contains(way)) {
            found.push(format!("{shown}:{}: {}", at + 1, line.trim()));
        }
    }
    Ok(1)
}

/// Promised: wall-clock time is never used for a lease.
#[test]
fn no_lease_reads_the_wall_clock() -> Result<()> {
    let mut found = Vec::new();
    let mut files = 0;
    for path in LEASE_CODE {
        files += wall_readers(&workspace().join(path), &mut found)?;
    }
    ensure!(files > 30, "only {files} files were looked at");
    ensure!(found.is_empty(), "a lease may depend on the wall clock:\n{}", found.join("\n"));

    // The search finds what there is, and nobody else in the daemon reads it.
    wall_readers(&workspace().join("host/src"), &mut found)?;
    ensure!(found.len() > 5, "only {} readers of the wall clock were found", found.len());
    found.retain(|line| !WALL_READERS.iter().any(|path| line.starts_with(path)));
    ensure!(found.is_empty(), "new readers of the wall clock:\n{}", found.join("\n"));
    println!("measured: {files} files of lease code, none reads the wall clock");
    Ok(())
}

fn uptime_s() -> Result<i64> {
    let text = std::fs::read_to_string("/proc/uptime")?;
    let whole = text.split('.').next().unwrap_or_default();
    whole.parse().with_context(|| format!("/proc/uptime says {text}"))
}

/// One node's clocks began a moment ago; the other's 300 days ago, of which it slept a third.
fn differ(pair: &Pair) -> Result<()> {
    let back = YOUNG_S - uptime_s()?;
    pair.launch_by(Node::A, moved_clocks(back, back));
    pair.launch_by(Node::B, moved_clocks(AHEAD_S - AHEAD_S / 3, AHEAD_S));
    Ok(())
}

fn case() -> Case {
    Case { prepare: differ, ..Case::default() }
}

/// Promised: leases need no common clock: nothing moves by itself, and each node takes over from
/// the other as always.
#[test]
fn clocks_that_began_300_days_apart() {
    world(|| {
        if !can_launch(&moved_clocks(0, 0)) {
            println!("SKIPPED: no time namespace can be made here (unshare --time)");
            return Ok(());
        }
        let start = |pair: &Pair, node: Node| pair.start(node).map(drop);
        check_each(&[
            (
                "nothing happens",
                Case {
                    during: Serves::Same,
                    hold_ms: 3_000,
                    after: Some(Serves::Same),
                    silence_ms_max: 250,
                    ..case()
                },
            ),
            ("primary killed", Case { act: kill, undo: start, ..case() }),
            ("the other primary killed", Case { act: kill, undo: start, ..case() }),
        ])
    });
}
