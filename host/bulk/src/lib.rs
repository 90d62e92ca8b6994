//! The bulk channel: frames between the two nodes over TCP and TLS 1.3, for databases and files.
//!
//! A [`Stream`] is one TCP connection with one TLS session and one [`Purpose`]. There is no
//! multiplexer: TCP has flow control and order for one stream, and two purposes in one connection
//! would wait for each other's lost segments and full buffers, which a slow disk under the files
//! must never do to a commit. A `Stream` never blocks and wants no runtime: it has a descriptor for
//! `ppoll`, [`Stream::send`], [`Stream::receive`] and [`Stream::flush`]. The primary has a
//! [`Listener`], the standby a [`Dialer`]; both hand ready streams over a channel and wake a loop.
//!
//! What it promises:
//!
//! - both sides hold the cluster secret, and each certificate names the *other* node
//!   ([`Credentials`]);
//! - TLS 1.3 only, no resumption, no early data: each stream proves anew who speaks;
//! - frames arrive whole, in order, each once, or the stream ends with an error;
//! - all that a stranger can make this node keep is bounded ([`HANDSHAKES_MAX`], and 64 KiB each),
//!   and strangers do not keep the peer out;
//! - a dead peer is noticed within [`SILENCE_MS_MAX`] and a little.
//!
//! What it refuses to do: say that a frame was *processed* (who sends acknowledges above it; a
//! stream that ends may lose what was under way), repeat anything after a reconnect, choose who is
//! primary, read a clock or a file.

mod bandwidth;
mod credentials;
mod dial;
mod error;
mod handle;
mod hello;
mod listen;
#[cfg(feature = "loopback")]
pub mod loopback;
mod pulse;
mod signal;
mod socket;
mod stream;

pub use bandwidth::Bandwidth;
pub use credentials::Credentials;
pub use dial::{Dialer, DialerConfig, dial};
pub use error::BulkError;
pub use handle::{Handle, Shown};
pub use hello::{Purpose, VERSIONS, Versions};
pub use listen::{Answer, Listener, ListenerConfig, Reception};
pub use signal::Signal;
pub use stream::Stream;

/// Wakes the loop that takes streams out of a channel; called from threads of this crate.
pub type Wake = std::sync::Arc<dyn Fn() + Send + Sync>;

/// Longest body of a frame.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// What a stream keeps for a peer that does not read, before it refuses more.
pub const QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest hello, the payload of its purpose included.
pub const HELLO_BYTES_MAX: usize = 8 * 1024;
/// Longest payload that a purpose may send along in the hello.
pub const PAYLOAD_BYTES_MAX: usize = 4 * 1024;
/// Longest reason of a refusal.
pub const REFUSAL_BYTES_MAX: usize = 200;
/// Longest name of a software version in the hello.
pub const SOFTWARE_BYTES_MAX: usize = 64;
/// How long TCP may take to connect, for each route.
pub const CONNECT_MS_MAX: u64 = 2_000;
/// How long TLS and both hellos may take, from the connection on.
pub const HANDSHAKE_MS_MAX: u64 = 5_000;
/// Handshakes at a time, all addresses together.
pub const HANDSHAKES_MAX: usize = 16;
/// Streams of the peer at a time, one listener's purposes together.
pub const STREAMS_MAX: usize = 16;
/// How long the peer's kernel may acknowledge nothing, or its process read nothing while bytes
/// wait for it, before the stream ends (`TCP_USER_TIMEOUT`).
pub const SILENCE_MS_MAX: u64 = 10_000;
/// Silence on an idle stream after which its kernel asks whether the peer is there.
pub const KEEPALIVE_S: u64 = 2;
/// First wait of a dialer, also after a stream that ended.
pub const BACKOFF_MS_MIN: u64 = 100;
/// Longest wait of a dialer between two attempts.
pub const BACKOFF_MS_MAX: u64 = 2_000;
/// Frames up to this size may borrow from the bandwidth of later ones.
pub const SMALL_FRAME_BYTES_MAX: usize = 4 * 1024;
/// What small frames may borrow, all streams together.
pub const BORROW_BYTES_MAX: usize = 64 * 1024;

// A refusal with the longest texts must fit beside a payload, and a frame into the queue.
const _: () =
    assert!(PAYLOAD_BYTES_MAX + REFUSAL_BYTES_MAX + SOFTWARE_BYTES_MAX + 256 <= HELLO_BYTES_MAX);
const _: () = assert!(2 * FRAME_BYTES_MAX <= QUEUE_BYTES_MAX);
const _: () = assert!(BACKOFF_MS_MIN < BACKOFF_MS_MAX);
const _: () = assert!(KEEPALIVE_S * 1_000 < SILENCE_MS_MAX);
// A node that redials while its old streams have not yet been noticed dead must find room.
const _: () = assert!(STREAMS_MAX as u64 >= 2 * SILENCE_MS_MAX / BACKOFF_MS_MAX);

#[cfg(test)]
mod tests;
