//! `/api/v1` over a Unix socket: status, events, history, orders.
//!
//! Promises: every answer is JSON (or an event stream), every error says what to do, and a client
//! that sends garbage, sends slowly, or never reads costs one bounded task. Refuses to decide
//! anything: orders go to the shell.

pub mod client;
pub mod control;
mod events;
mod request;
mod routes;
pub mod server;
pub mod status;

use std::path::PathBuf;

pub use control::{Control, ControlEnds, Order, OrderError, OrderKind, PolicyKind};
pub use server::Server;
pub use status::Status;

/// Connections at a time; more are answered with 503 and closed.
pub const CONNECTIONS_MAX: usize = 64;
/// Event streams at a time: they last, so they may not fill the connections.
pub const EVENT_STREAMS_MAX: usize = 16;
/// Bytes of a request's body.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a request's head.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a head may take.
pub const HEAD_MS_MAX: u64 = 5_000;
/// How long a body may take.
pub const BODY_MS_MAX: u64 = 10_000;
/// How long an order may take before the client is told to look at the status.
pub const ORDER_MS_MAX: u64 = 30_000;
/// A sign of life on a silent event stream.
pub const EVENTS_PING_MS: u64 = 15_000;
/// Rows of a list when the request names no limit.
pub const ROWS_DEFAULT: u32 = 50;
/// Rows of a list, at most.
pub const ROWS_MAX: u32 = crate::journal::ROWS_READ_MAX;

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Somebody answers there.
    #[error(
        "another daemon answers on {path} (stop it first, or give this node a run_dir of its \
             own)"
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The system refused.
    #[error(
        "cannot {action} {path}: {source} (is node.run_dir writable for the daemon, and at \
             most 90 characters long?)"
    )]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The socket or its folder.
        path: PathBuf,
        /// The answer.
        #[source]
        source: std::io::Error,
    },
}

#[cfg(test)]
mod tests;
