//! What tests ask of running daemons.

use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use staffetta_lab::{Node, Pair};

/// Waits for something that must come.
///
/// # Errors
/// When it does not come in time; says who serves.
pub fn wait(
    what: &str,
    pair: &Pair,
    patience: Duration,
    mut there: impl FnMut() -> bool,
) -> Result<()> {
    let until = Instant::now() + patience;
    while !there() {
        ensure!(Instant::now() < until, "{what} did not come; {}", pair.statuses().line());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// All that a program said.
#[must_use]
pub fn text(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&all).trim().to_owned()
}

/// What a command says, which must succeed.
///
/// # Errors
/// When it does not, with its words.
pub fn said(pair: &Pair, node: Node, args: &[&str]) -> Result<String> {
    let output = pair.command(node, args)?;
    ensure!(output.status.success(), "{args:?} on {}: {}", node.name(), text(&output));
    Ok(text(&output))
}

/// Whether a node says that the standby has what the primary has.
#[must_use]
pub fn aligned(pair: &Pair, node: Node) -> bool {
    pair.command(node, &["status", "--aligned"]).is_ok_and(|output| output.status.success())
}
