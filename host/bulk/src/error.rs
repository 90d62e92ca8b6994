//! What can go wrong between the nodes, and what to do about it.

use std::net::SocketAddr;

use crate::hello::Versions;
use crate::{FRAME_BYTES_MAX, QUEUE_BYTES_MAX};

/// Why a stream is not there, or not any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BulkError {
    /// A node's name that no certificate can carry.
    #[error(
        "{name:?} cannot be the name of a node: write 1 to 63 letters, digits, '-' or '_', \
         beginning and ending with a letter or digit"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// Both nodes would have one name.
    #[error("both nodes would be {name:?}: the certificates could not tell them apart; rename one")]
    SameName {
        /// The name.
        name: String,
    },
    /// A key or certificate could not be made.
    #[error("cannot make the certificates of the pair: {detail}")]
    Certificate {
        /// What the library says.
        detail: String,
    },
    /// No socket on an address.
    #[error(
        "cannot listen on {address}: {detail} (does another process use the port, or is it below \
         1024?)"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel says.
        detail: String,
    },
    /// A descriptor or thread could not be made.
    #[error("cannot make {what}: {detail} (LimitNOFILE, LimitNPROC of the unit?)")]
    Resource {
        /// What.
        what: &'static str,
        /// What the kernel says.
        detail: String,
    },
    /// No route led to a stream.
    #[error("no stream to {peer}: {attempts}")]
    Unreachable {
        /// Name of the peer.
        peer: String,
        /// Each route with its own failure.
        attempts: String,
    },
    /// TCP did not connect.
    #[error("cannot connect: {detail}")]
    Connect {
        /// What the kernel says.
        detail: String,
    },
    /// TLS refused the peer, or the peer refused us.
    #[error(
        "no secure connection: {detail} (do both nodes hold the same cluster secret, and are their \
         names right in both configurations?)"
    )]
    Tls {
        /// What the library says.
        detail: String,
    },
    /// The handshake did not end in time.
    #[error("no hello within {ms} ms (is it Staffetta that listens there?)")]
    Late {
        /// The limit.
        ms: u64,
    },
    /// The peer said no.
    #[error("{peer} refuses the stream: {reason}")]
    Refused {
        /// Name of the peer.
        peer: String,
        /// Its own words.
        reason: String,
    },
    /// No common version of the protocol.
    #[error(
        "this node speaks {ours} of the bulk channel, {peer} (staffetta {software}) speaks \
         {theirs}: upgrade {}",
        if ours.max < theirs.max { "this node" } else { "the peer" }
    )]
    Versions {
        /// What this node speaks.
        ours: Versions,
        /// What the peer speaks.
        theirs: Versions,
        /// Name of the peer.
        peer: String,
        /// Its version of Staffetta.
        software: String,
    },
    /// An authentic hello that cannot be understood.
    #[error("the hello of the peer cannot be understood: {detail}")]
    Hello {
        /// What is wrong with it.
        detail: String,
    },
    /// A frame that may not be sent.
    #[error("a frame of {bytes} bytes is over the limit of {FRAME_BYTES_MAX}: split it")]
    FrameTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A payload of a hello that may not be sent.
    #[error("a payload of {bytes} bytes does not fit into the hello: send it in a frame")]
    PayloadTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The peer announces a frame that may not be sent.
    #[error("the peer announces a frame of {bytes} bytes, over the limit of {max}")]
    FrameRefused {
        /// The length it announces.
        bytes: usize,
        /// The limit at this point.
        max: usize,
    },
    /// The peer does not take what waits for it; the frame was not accepted.
    #[error("{queued} bytes wait for the peer (at most {QUEUE_BYTES_MAX}): send less, or later")]
    QueueFull {
        /// Bytes that wait.
        queued: usize,
    },
    /// The stream has ended.
    #[error("the stream has ended: {detail}")]
    Ended {
        /// Why.
        detail: String,
    },
    /// The caller does not want the stream any more.
    #[error("dialing was stopped")]
    Stopped,
}

impl BulkError {
    pub(crate) fn ended(detail: impl std::fmt::Display) -> Self {
        Self::Ended { detail: detail.to_string() }
    }

    pub(crate) fn tls(detail: impl std::fmt::Display) -> Self {
        Self::Tls { detail: detail.to_string() }
    }

    pub(crate) fn certificate(detail: impl std::fmt::Display) -> Self {
        Self::Certificate { detail: detail.to_string() }
    }
}
