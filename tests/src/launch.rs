//! Words that a daemon is started by, in place of its own name.

use std::process::Command;

/// Starts a program in a time namespace (`time_namespaces(7)`): CLOCK_MONOTONIC with its raw
/// sister, and CLOCK_BOOTTIME, are moved by these seconds.
#[must_use]
pub fn moved_clocks(monotonic_s: i64, boottime_s: i64) -> Vec<String> {
    let offsets = [format!("--monotonic={monotonic_s}"), format!("--boottime={boottime_s}")];
    ["unshare", "--time"].map(ToOwned::to_owned).into_iter().chain(offsets).collect()
}

/// Whether programs can be started by these words here.
#[must_use]
pub fn can_launch(words: &[String]) -> bool {
    let Some((program, rest)) = words.split_first() else { return true };
    let tried = Command::new(program).args(rest).arg("true").output();
    tried.is_ok_and(|output| output.status.success())
}
