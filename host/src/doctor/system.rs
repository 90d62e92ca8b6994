//! The questions to the kernel. Each leaves everything as it was.

use std::ffi::{CStr, CString};
use std::io::{Error, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `NFT_MSG_GETGEN` of the nf_tables subsystem: asks for the number of the ruleset, changes nothing
/// (linux/netfilter/nf_tables.h).
const NFT_GETGEN: u16 = ((libc::NFNL_SUBSYS_NFTABLES as u16) << 8) | 16;
/// Longest wait for the kernel's answer; it answers at once.
const ANSWER_S_MAX: i64 = 1;
/// nlmsghdr (16) and nfgenmsg (4).
const GETGEN_BYTES: usize = 20;

/// Addresses of this host: interface, address, prefix length. Empty when the kernel does not say.
#[must_use]
pub fn host_addresses() -> Vec<(String, IpAddr, u8)> {
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: `first` is valid for the write of one pointer; the list is freed below.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut entry = first;
    while !entry.is_null() {
        // SAFETY: getifaddrs made a list of valid entries that ends with null; it is not freed yet.
        let this = unsafe { &*entry };
        // SAFETY: both pointers are null or point to a sockaddr of the family that it names.
        let address = unsafe { ip_of(this.ifa_addr) };
        // SAFETY: as above.
        let mask = unsafe { ip_of(this.ifa_netmask) };
        if let (Some(address), Some(mask)) = (address, mask) {
            // SAFETY: the name of an entry is a C string that lives as long as the list.
            let name = unsafe { CStr::from_ptr(this.ifa_name) };
            let prefix = match mask {
                IpAddr::V4(mask) => u32::from(mask).leading_ones(),
                IpAddr::V6(mask) => u128::from(mask).leading_ones(),
            };
            let prefix = u8::try_from(prefix).unwrap_or(128);
            found.push((name.to_string_lossy().into_owned(), address, prefix));
        }
        entry = this.ifa_next;
    }
    // SAFETY: `first` came from getifaddrs and is freed once; nothing borrows from the list any
    // more.
    unsafe { libc::freeifaddrs(first) };
    found
}

/// # Safety
/// `address` is null or points to a socket address whose length fits its family.
unsafe fn ip_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: not null, so by the contract a sockaddr with a family.
    let family = i32::from(unsafe { (*address).sa_family });
    match family {
        libc::AF_INET => {
            // SAFETY: the family says that it is a sockaddr_in.
            let v4 = unsafe { &*address.cast::<libc::sockaddr_in>() };
            Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr))))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that it is a sockaddr_in6.
            let v6 = unsafe { &*address.cast::<libc::sockaddr_in6>() };
            Some(IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr)))
        }
        _ => None,
    }
}

/// Asks nf_tables for the number of its ruleset.
pub(super) fn try_nf_tables() -> Result<()> {
    // SAFETY: no pointers; the descriptor is owned below.
    let fd = unsafe {
        libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_NETFILTER)
    };
    if fd < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel just gave this descriptor to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let wait = libc::timeval { tv_sec: ANSWER_S_MAX, tv_usec: 0 };
    // SAFETY: the option's value is a timeval of the length that is told.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const wait).cast(),
            size_of::<libc::timeval>() as libc::socklen_t,
        )
    };
    if status != 0 {
        return Err(Error::last_os_error());
    }
    let mut request = [0u8; GETGEN_BYTES];
    request[0..4].copy_from_slice(&(GETGEN_BYTES as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&NFT_GETGEN.to_ne_bytes());
    request[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    // SAFETY: the buffer is valid for its length.
    let sent = unsafe { libc::send(socket.as_raw_fd(), request.as_ptr().cast(), GETGEN_BYTES, 0) };
    if sent < 0 {
        return Err(Error::last_os_error());
    }
    let mut answer = [0u8; 256];
    // SAFETY: the buffer is valid for its length.
    let got =
        unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
    if got < GETGEN_BYTES as isize {
        return Err(if got < 0 { Error::last_os_error() } else { Error::other("a short answer") });
    }
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    if i32::from(kind) == libc::NLMSG_ERROR {
        let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
        return if code == 0 { Ok(()) } else { Err(Error::from_raw_os_error(-code)) };
    }
    Ok(())
}

/// Whether a thread of this process may have real-time priority: one tries, and ends.
pub(super) fn try_realtime() -> bool {
    let attempt = || {
        let wish = libc::sched_param { sched_priority: 1 };
        // SAFETY: 0 is the calling thread, which ends right after; the pointer is valid.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const wish) == 0 }
    };
    std::thread::spawn(attempt).join().unwrap_or(false)
}

/// Bytes that this process may lock into memory.
pub(super) fn lockable_bytes() -> u64 {
    if has_ipc_lock() {
        return u64::MAX;
    }
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is valid for the write of one rlimit.
    let status = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    if status == 0 { limit.rlim_cur } else { 0 }
}

/// CAP_IPC_LOCK (14) among the effective capabilities.
fn has_ipc_lock() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    bits & (1 << 14) != 0
}

/// How the kernel's clock is kept (adjtimex(2)).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ClockState {
    /// Something keeps the wall clock right.
    pub synchronized: bool,
    /// Standing correction of its rate, parts per million.
    pub ppm: f64,
    /// Length that is given to each tick, microseconds.
    pub tick_us: i64,
    /// What the kernel has yet to slew away, milliseconds; its loop spreads it over minutes.
    pub offset_ms: f64,
}

/// The kernel corrects by no more (MAXFREQ in linux/timex.h).
const FREQUENCY_PPM_MAX: f64 = 500.0;
/// A tick that nobody slews, at USER_HZ = 100.
const TICK_US: i64 = 10_000;

impl ClockState {
    /// The correction is inside the kernel's limit, and nothing slews the clock by its tick.
    pub(super) fn is_steady(&self) -> bool {
        self.ppm.abs() < FREQUENCY_PPM_MAX && self.tick_us == TICK_US
    }
}

/// Reads the state of the clock; changes nothing.
pub(super) fn clock() -> Option<ClockState> {
    // SAFETY: all bytes zero is a valid timex, and modes = 0 only reads.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid for reads and writes of one timex.
    let answer = unsafe { libc::adjtimex(&raw mut state) };
    let nanoseconds = state.status & libc::STA_NANO != 0;
    (answer >= 0).then(|| ClockState {
        synchronized: answer != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0,
        // The kernel counts in 2^-16 ppm.
        ppm: state.freq as f64 / 65_536.0,
        tick_us: state.tick,
        offset_ms: state.offset as f64 / if nanoseconds { 1e6 } else { 1e3 },
    })
}

/// Free bytes for this user in the file system of `folder`, and whether the user may write there.
pub(super) fn free_bytes(folder: &Path) -> Result<(u64, bool)> {
    let path = CString::new(folder.as_os_str().as_bytes()).map_err(Error::other)?;
    // SAFETY: all bytes zero is a valid statvfs.
    let mut state: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string, the pointer is valid for the write of one statvfs.
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut state) } != 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the path is a C string.
    let writable = unsafe { libc::access(path.as_ptr(), libc::W_OK | libc::X_OK) } == 0;
    Ok((state.f_bavail.saturating_mul(state.f_frsize), writable))
}
