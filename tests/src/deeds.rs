//! What most cases do, and what they call no gap.

use anyhow::Result;
use staffetta_lab::{Node, Pair};

/// Short enough for "no gap": less than the lease, more than the noise of a busy machine.
pub const NO_GAP_MS: u64 = 250;

/// Ends every fault of the network.
///
/// # Errors
/// When `ip` or `nft` fails.
pub fn heal(pair: &Pair, _node: Node) -> Result<()> {
    pair.lab().heal()
}

/// Starts the daemon of the node.
///
/// # Errors
/// When it cannot be started.
pub fn start(pair: &Pair, node: Node) -> Result<()> {
    pair.start(node).map(drop)
}

/// Kills every process of the node.
///
/// # Errors
/// Never; a deed may fail.
pub fn kill(pair: &Pair, node: Node) -> Result<()> {
    pair.lab().node(node).kill9();
    Ok(())
}
