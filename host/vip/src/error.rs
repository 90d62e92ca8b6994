//! Errors name the object and the remedy: they are read by an operator at three in the morning.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// What can go wrong between the service address and this kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VipError {
    /// The kernel refused to add or remove a service address.
    #[error("cannot {} {address}/{prefix} {} {interface}: {source}{}",
        .action.verb(), .action.preposition(), address_remedy(.source, *.address, .interface))]
    Address {
        /// What was asked of the kernel.
        action: AddressAction,
        /// The service address.
        address: IpAddr,
        /// Its prefix length.
        prefix: u8,
        /// The interface that carries it.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A configured interface is not there.
    #[error("interface {0} does not exist (see `ip link`)")]
    NoInterface(String),
    /// nf_tables refused the drop rules or the lease.
    #[error("cannot {action} in nftables table {table}: {source}{}", gate_remedy(.source))]
    Gate {
        /// What was asked of the kernel.
        action: &'static str,
        /// Name of the table, the same in the `inet` and `arp` families.
        table: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A netlink, packet or epoll descriptor could not be had.
    #[error("cannot open {what}: {source}{}", socket_remedy(.source))]
    Socket {
        /// Which descriptor, in words.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel did not answer a question about links or addresses.
    #[error("cannot list {what}: {source}")]
    Dump {
        /// What was asked for.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The options contradict each other or a limit.
    #[error("{0}")]
    Options(String),
    /// Too little of the lease is left to be worth arming: nothing was changed.
    #[error(
        "only {0:?} of the lease are left, below the {floor}-ms floor of a kernel timeout: \
         the address was not claimed",
        floor = crate::LEASE_MS_MIN
    )]
    NoTime(Duration),
    /// The thread was stopped while it claimed; everything was taken back.
    #[error(
        "this thread was stopped for {0:?} while it claimed the service address, which was \
         taken back (real-time priority and locked memory prevent this)"
    )]
    Stalled(Duration),
}

/// Direction of a change of address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressAction {
    /// The address was to be added.
    Add,
    /// The address was to be removed.
    Remove,
}

impl AddressAction {
    fn verb(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "remove",
        }
    }

    fn preposition(self) -> &'static str {
        match self {
            Self::Add => "to",
            Self::Remove => "from",
        }
    }
}

fn address_remedy(source: &io::Error, address: IpAddr, interface: &str) -> String {
    match source.raw_os_error() {
        Some(libc::EPERM) => " (does the unit grant CAP_NET_ADMIN?)".into(),
        Some(libc::EACCES) if address.is_ipv6() => {
            format!(" (is net.ipv6.conf.{interface}.disable_ipv6 set to 1?)")
        }
        Some(libc::ENODEV) => format!(" (interface {interface} is gone, see `ip link`)"),
        Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT) if address.is_ipv6() => {
            " (was this kernel booted with ipv6.disable=1?)".into()
        }
        Some(_) | None => String::new(),
    }
}

fn gate_remedy(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => " (does the unit grant CAP_NET_ADMIN?)",
        Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => {
            " (does this kernel have nf_tables, see `modprobe nf_tables`?)"
        }
        Some(_) | None => "",
    }
}

fn socket_remedy(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => " (does the unit grant CAP_NET_ADMIN and CAP_NET_RAW?)",
        Some(libc::EMFILE | libc::ENFILE) => " (raise LimitNOFILE= of the unit)",
        Some(_) | None => "",
    }
}
