//! What can go wrong with the arbiter, each with its remedy.

use std::error::Error;

/// Why the arbiter cannot be asked, or did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArbiterError {
    /// The configuration cannot be used.
    #[error("arbiter: {what} ({remedy})")]
    Config {
        /// What is wrong.
        what: String,
        /// What to write instead.
        remedy: String,
    },
    /// No connection.
    #[error(
        "cannot reach the arbiter {endpoint}: {why} (does etcd run there, and does the network \
         let this node through?)"
    )]
    NotReachable {
        /// The endpoint.
        endpoint: String,
        /// What happened.
        why: String,
    },
    /// No secure connection.
    #[error(
        "no secure connection to the arbiter {endpoint}: {why} (is its certificate signed by \
         arbiter.ca_file, and does it name this host? does etcd ask for arbiter.cert_file?)"
    )]
    Tls {
        /// The endpoint.
        endpoint: String,
        /// What happened.
        why: String,
    },
    /// It did not answer in time.
    #[error("the arbiter {endpoint} did not answer within {ms} ms (see `staffetta arbiter check`)")]
    NoAnswer {
        /// The endpoint, or several.
        endpoint: String,
        /// How long was waited.
        ms: u64,
    },
    /// It answered what etcd does not.
    #[error(
        "the arbiter {endpoint} answered {what} (is it etcd 3.4 or newer, with its gRPC gateway \
         enabled?)"
    )]
    Strange {
        /// The endpoint.
        endpoint: String,
        /// What came.
        what: String,
    },
    /// It answered with an error.
    #[error("the arbiter {endpoint} refused: {message} ({remedy})")]
    Refused {
        /// The endpoint.
        endpoint: String,
        /// Its words.
        message: String,
        /// What helps.
        remedy: String,
    },
    /// Its endpoints belong to different etcd clusters.
    #[error(
        "the arbiter {endpoint} belongs to etcd cluster {id:016x}, and {other} to {other_id:016x} \
         (name endpoints of one cluster only in arbiter.endpoints; after the cluster was built \
         anew, restart the daemon)"
    )]
    OtherCluster {
        /// The endpoint that answered.
        endpoint: String,
        /// Its cluster.
        id: u64,
        /// An endpoint that answered before.
        other: String,
        /// The cluster of that one.
        other_id: u64,
    },
    /// The register holds what this pair did not write.
    #[error(
        "the register {key} of the arbiter is not one of this pair: {why} (look at it with \
         `etcdctl get {key}`; if no other pair uses it, delete it with `etcdctl del {key}`: the \
         primary makes it anew)"
    )]
    NotOurs {
        /// Its key.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// A register that cannot be written without loss.
    #[error("the register cannot be written: {why} (this is a defect of this program)")]
    Unwritable {
        /// What is wrong with it.
        why: String,
    },
    /// A compare-and-set did what it must not.
    #[error(
        "the arbiter {endpoint} does not keep its word: {what} (do all endpoints belong to one \
         etcd cluster, without a cache in front of it?)"
    )]
    Broken {
        /// The endpoint.
        endpoint: String,
        /// What it did.
        what: String,
    },
}

/// An error with all that it was caused by, in one line.
pub(crate) fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = inner.source();
    }
    text
}
