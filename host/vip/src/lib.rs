//! The service address (VIP) on this kernel.
//!
//! What it promises: a node answers on the service address only while it holds a lease, and it
//! is the kernel that stops the answers when the lease ends, whether or not this process still
//! runs. Two mechanisms, the stronger one in force ([`GateClass`]):
//!
//! 1. an nftables set whose elements time out to the millisecond; an address that is in the set
//!    of service addresses and not in the set of leases is dropped, in and out, ARP and neighbor
//!    discovery included;
//! 2. the lifetime of the address itself, in whole seconds: works wherever addresses do.
//!
//! [`Kernel`] is synchronous, never waits and is meant for one real-time thread. [`watch`] and
//! [`probe_reference`] are asynchronous and belong to the runtime of the rest of the daemon.
//!
//! All sockets belong to the network namespace of the thread that calls [`Kernel::open`]; call the
//! rest from the same namespace. CAP_NET_ADMIN and CAP_NET_RAW in it suffice, those of an
//! unprivileged user namespace included.
//!
//! What it refuses to do: decide. It neither knows the peer nor reads a configuration, and it
//! never claims an address by itself: what it repairs is what the last claim or renewal said.
//!
//! What it cannot do: packets that a NAT rule of the host rewrites to or from the service address
//! pass neither gate hook; a process with CAP_NET_ADMIN can always undo the rules, which is seen
//! and repaired within the time that this thread takes to wake up.

pub mod frames;

mod clock;
mod error;
mod kernel;
mod netlink;
mod reference;
mod route;
mod ruleset;
mod watch;
mod wire;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

pub use error::{AddressAction, VipError};
pub use frames::Mac;
pub use kernel::Kernel;
pub use reference::{REFERENCE_TIMEOUT_MS_MAX, RefError, ReferenceMethod, probe_reference};
pub use watch::{Finding, WATCH_INTERVAL_S, WatchError, watch};

/// Most service addresses of one node.
pub const VIPS_MAX: usize = 16;
/// Most neighbors that are told of the service addresses one by one.
pub const NEIGHBORS_MAX: usize = 16;
/// Longest name of a table.
pub const TABLE_BYTES_MAX: usize = 64;
/// Least time that is handed to a kernel timer. Two ticks of the slowest kernel (100 Hz): a
/// timeout that rounds to no tick at all would never end.
pub const LEASE_MS_MIN: u64 = 20;
/// Slack of the nftables gate: how long after the end of its lease an answer may still leave.
pub const NFTABLES_SLACK_MS: u64 = 20;
/// Slack of the lifetime gate: up to a second of rounding, and the kernel's own lateness.
pub const LIFETIME_SLACK_MS: u64 = 1400;

/// One service address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Vip {
    /// The address, of either family.
    pub address: IpAddr,
    /// Its prefix length, at most 32 or 128.
    pub prefix: u8,
    /// The interface that carries it; `lo` for an address that a routing daemon announces.
    pub interface: String,
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} on {}", self.address, self.prefix, self.interface)
    }
}

/// Which kernel mechanism ends the answers when a lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateClass {
    /// nftables set elements, to the millisecond.
    Nftables,
    /// Address lifetimes, in whole seconds.
    Lifetime,
}

impl GateClass {
    /// How long after the end of its lease the gate may still let an answer through.
    pub const fn slack(self) -> Duration {
        match self {
            Self::Nftables => Duration::from_millis(NFTABLES_SLACK_MS),
            Self::Lifetime => Duration::from_millis(LIFETIME_SLACK_MS),
        }
    }
}

/// What [`Kernel::open`] needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// The service addresses, 1 to [`VIPS_MAX`].
    pub vips: Vec<Vip>,
    /// Name of the nftables tables; a name of its own for each daemon in a network namespace.
    pub table: String,
    /// Addresses that are told of a move one by one, up to [`NEIGHBORS_MAX`].
    pub neighbors: Vec<IpAddr>,
    /// Lifetime of the addresses where nftables is the gate in force: the backup, renewed when
    /// a quarter of it has passed.
    pub lifetime_backup: Duration,
    /// `None` takes the strongest gate that the kernel offers.
    pub force_class: Option<GateClass>,
}

/// Whether so much of a lease is worth claiming: less cannot be handed to a kernel timer.
#[must_use]
pub fn can_be_claimed(remaining: std::time::Duration) -> bool {
    clock::kernel_timeout(remaining).is_some()
}

/// Outcome of [`Kernel::renew`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Renewal {
    /// The lease runs on.
    Renewed,
    /// The lease had ended; the gate is closed and the addresses are gone. Only a new claim,
    /// with a new right to it, brings them back.
    Lost,
}

/// Who answers on a service address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answerer {
    /// One of the link-layer addresses given to [`Kernel::set_peer_macs`].
    Peer,
    /// This node itself, heard over a loop or a bridge.
    Own,
    /// Anybody else: a foreign host, or a proxy.
    Stranger,
}

/// What [`Kernel::pump`] saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelEvent {
    /// Somebody else changed or removed the drop rules. They were put back at once, with what is
    /// left of the lease; where that failed, [`Kernel::class`] says so.
    RulesetFlushed,
    /// A held address had vanished; it was put back at once unless its link is gone.
    AddressLost {
        /// The address.
        vip: IpAddr,
    },
    /// An interface that carries a service address went down or away.
    LinkDown {
        /// Its name.
        interface: String,
    },
    /// An interface that carries a service address came up.
    LinkUp {
        /// Its name.
        interface: String,
    },
    /// Somebody claims a service address while this node does not hold it.
    ProbeAnswer {
        /// The address.
        vip: IpAddr,
        /// Link-layer address of the answer.
        mac: Mac,
        /// Whose it is.
        by: Answerer,
    },
    /// Somebody else claims a service address while this node holds it.
    Conflict {
        /// The address.
        vip: IpAddr,
        /// Link-layer address of the claim.
        mac: Mac,
        /// Whose it is.
        by: Answerer,
    },
}
