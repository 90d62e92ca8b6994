//! The barrier protocol: an application commits, then asks the daemon of its node, and the answer
//! comes when everything that was committed before the question is on the standby.
//!
//! One line each way over a Unix stream socket: the absolute path of the database goes there, an
//! [`Answer`] comes back. Questions may follow each other on one connection without waiting;
//! answers come in their order. `docs/synchronous-commits.md` is the specification.
//!
//! What it promises: no answer other than `ok` reads as `ok`. What it refuses to do: to wait longer
//! than it was told, and to interpret a path (no escapes; one with a line break is refused).

mod answer;
mod client;

pub use answer::{ANSWER_BYTES_MAX, Answer, Malformed};
pub use client::{BarrierError, Client, Outcome};

/// The socket where the configuration names no other folder.
pub const SOCKET: &str = "/run/staffetta/barrier.sock";

/// Longest path in a question, in bytes: PATH_MAX of Linux.
pub const PATH_BYTES_MAX: usize = 4_096;
