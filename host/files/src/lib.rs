//! Trees of files on two nodes: the primary's changes arrive at the standby while they happen.
//!
//! Promises: what is acknowledged is on the standby's disk, whole; nothing that the primary did not
//! have is deleted or overwritten there, it is set aside; a root that is not what it was, or too
//! many deletions at once, wait for a person; agreement is proved by sums over whole trees.
//!
//! Refuses to do: decide who leads, follow a symlink, keep a queue of events for a standby that is
//! slow or away, promise an order between trees.
mod attend;
#[cfg(test)]
mod dice;
mod digest;
mod engine;
mod entry;
mod examine;
mod ignores;
mod index;
mod lead;
mod path;
mod status;
mod tree;
mod watch;
mod wire;

pub use engine::{
    Command, Done, DrainReply, Handle, KeptThing, Options, Order, OrderReply, Restore, StartError,
    TreeOptions, start,
};
pub use examine::{Hindrance, examine};
pub use path::{PathError, TreePath};
pub use status::{Notice, State, TreeStatus};
pub use watch::Mechanism;
pub use wire::{TREE_NAME_BYTES_MAX, TREES_MAX};

/// Whether these are patterns of gitignore(5).
///
/// # Errors
/// Names the one that is none.
pub fn check_ignores(patterns: &[String]) -> Result<(), String> {
    ignores::Ignores::parse(patterns).map(|_| ())
}
