//! The arbiter: a register outside the pair, in etcd, that is replaced by compare-and-set only.
//!
//! [`Client::ask`] carries out a [`Request`] of the core and answers with a [`Reply`]. What it
//! promises:
//!
//! - a read is linearizable: it shows every swap that was answered before the read was sent;
//! - a swap is one etcd transaction, it compares the exact bytes of the register, and it is sent to
//!   one endpoint only, once. It is sent again only if etcd itself said that it was refused for
//!   the sake of the login, or if no byte of it had left;
//! - [`Reply::Swapped`] is answered only if etcd said that the swap was made. All that is doubtful
//!   is [`Reply::Failed`];
//! - every request ends within its timeout, whatever an endpoint does;
//! - endpoints that belong to different etcd clusters are refused: two registers are no arbiter.
//!
//! What it refuses to do: overwrite a value that it cannot read, repeat a swap on suspicion, judge
//! whether a register may be created (the core does), and keep any file: certificates, keys and
//! the password come as bytes from the configuration.
//!
//! etcd is asked through its JSON gateway (`/v3/…`, etcd 3.4 and newer) over HTTP/1.1, see
//! <https://etcd.io/docs/v3.5/dev-guide/api_grpc_gateway/>.

#[cfg(feature = "proxy")]
pub mod proxy;
#[cfg(feature = "proxy")]
pub mod server;

mod check;
mod client;
mod config;
mod connection;
mod endpoints;
mod error;
mod login;
mod message;
mod record;
mod value;

pub use check::{CheckReport, EndpointReport, Latencies};
pub use client::{Client, EndpointStatus, LastError};
pub use config::{ArbiterConfig, Credentials, Endpoint, Identity, Tls};
pub use error::ArbiterError;
pub use staffetta_core::{Register, Reply, Request, Stamp};

/// Most endpoints of one arbiter.
pub const ENDPOINTS_MAX: usize = 8;
/// Longest answer of an endpoint.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Longest register, as its JSON text.
pub const REGISTER_BYTES_MAX: usize = 4 * 1024;
/// Longest prefix and longest id of the pair, each.
pub const KEY_PART_BYTES_MAX: usize = 256;
/// How long an endpoint that failed is asked only after all others.
pub const SKIP_MS: u64 = 5_000;
/// Unused connections that are kept for each endpoint.
pub const IDLE_CONNECTIONS_MAX: usize = 2;
/// How long an unused connection is kept: less than a firewall forgets it after.
pub const IDLE_S_MAX: u64 = 30;
/// How long a login may take. etcd spends a tenth of a second of processor time on a password, so
/// that a login goes on when the request that began it has given up.
pub const LOGIN_MS_MAX: u64 = 5_000;
/// Age at which a token is replaced before it is refused: etcd forgets it after 300 s.
pub const TOKEN_S_MAX: u64 = 120;
/// Least time between two lines of the log about the same trouble.
pub const LOG_INTERVAL_S: u64 = 60;

// A proxy or an etcd that is too big to read is none.
const _: () = assert!(REGISTER_BYTES_MAX * 2 < ANSWER_BYTES_MAX);
const _: () = assert!(TOKEN_S_MAX < 300);
