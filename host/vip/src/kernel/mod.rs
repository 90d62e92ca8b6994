//! The service addresses and their gate, for one real-time thread.
//!
//! Order is everything here. Opening: rules, then left-overs out. Claiming: lease, then address.
//! Releasing: lease, then address. Closing: lease, address, rules. A process that dies between
//! any two of these leaves the kernel with closed rules or with timers that close them.

mod gate;
mod listen;
mod speak;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;

use self::gate::{Gate, LeaseArm};
use self::listen::Link;
use self::speak::Neighbor;
use crate::clock::{boottime, kernel_timeout, lifetime_seconds};
use crate::netlink::{Channel, Ear, Template};
use crate::route::{self, AddressFacts, Existing};
use crate::{
    AddressAction, GateClass, KernelEvent, LEASE_MS_MIN, Mac, NEIGHBORS_MAX, Options, Renewal,
    TABLE_BYTES_MAX, VIPS_MAX, Vip, VipError,
};

/// Longest time between reading the clock and the kernel's word that a timeout is armed. A
/// thread that was stopped in between arms again with what is left by then.
const ARMING_MS_MAX: u64 = 10;
const ARMING_ATTEMPTS_MAX: usize = 3;

/// The service addresses on this kernel: claimed, renewed, released, announced, watched.
///
/// Dropping it without [`Kernel::close`] leaves the rules in place and the timers running, as a
/// crash does.
pub struct Kernel {
    vips: Vec<Vip>,
    neighbors: Vec<Neighbor>,
    peer_macs: Vec<Mac>,
    links: Vec<Link>,
    route: Channel,
    route_ear: Ear,
    gate: Gate,
    poller: OwnedFd,
    lease: Option<Lease>,
    held: Arc<AtomicBool>,
    lifetime_backup: Duration,
    requests: AddressRequests,
    /// Service addresses to look after at the next opportunity.
    heal_due: bool,
    /// Addresses already reported as lost and not yet back, by index.
    missing: Vec<bool>,
    /// Events found outside of `pump`.
    pending: Vec<KernelEvent>,
}

/// A claim that this process knows of. Instants are on CLOCK_BOOTTIME.
#[derive(Debug, Clone, Copy)]
struct Lease {
    deadline: Duration,
    lifetime_renewal_due: Duration,
}

/// Prepared requests for all service addresses; acknowledgment `n` is of address `n`.
struct AddressRequests {
    put: Template<4>,
    add: Template<4>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arming {
    OnTime,
    TooLate,
}

impl Kernel {
    /// Installs the drop rules with empty lease sets, then removes service addresses left over
    /// from a former life.
    ///
    /// # Errors
    ///
    /// When the options contradict a limit, an interface does not exist, sockets are refused, or
    /// a left-over address cannot be removed. A refusal of nf_tables is an error only where
    /// `force_class` demands it; else see [`Kernel::gate_error`].
    pub fn open(options: Options) -> Result<Self, VipError> {
        validate(&options)?;
        let Options { vips, table, neighbors, lifetime_backup, force_class } = options;
        let socket =
            |what: &'static str| move |source| VipError::Socket { what: what.into(), source };
        let mut route = Channel::open(NETLINK_ROUTE).map_err(socket("a route netlink socket"))?;
        let route_ear = Ear::open(NETLINK_ROUTE, &route::GROUPS, route.port())
            .map_err(socket("a route notification socket"))?;
        let links = listen::find_links(&mut route, &vips)?;
        let addresses: Vec<IpAddr> = vips.iter().map(|vip| vip.address).collect();
        let gate = Gate::open(table, &addresses, force_class)?;
        let poller = poller().map_err(socket("an epoll descriptor"))?;
        let requests = AddressRequests::new(&vips, &links);
        let mut kernel = Self {
            missing: vec![false; vips.len()],
            neighbors: neighbors.into_iter().map(Neighbor::new).collect(),
            peer_macs: Vec::new(),
            lease: None,
            held: Arc::new(AtomicBool::new(false)),
            heal_due: false,
            pending: Vec::new(),
            vips,
            links,
            route,
            route_ear,
            gate,
            poller,
            lifetime_backup,
            requests,
        };
        kernel.remove_addresses()?;
        let listening = kernel.route_ear.as_raw_fd();
        kernel.poll_on(listening).map_err(socket("an epoll entry"))?;
        if let Some(listening) = kernel.gate.descriptor() {
            kernel.poll_on(listening).map_err(socket("an epoll entry"))?;
        }
        for index in 0..kernel.links.len() {
            kernel.open_wires(index)?;
            let link = &kernel.links[index];
            if !link.up() {
                kernel.pending.push(KernelEvent::LinkDown { interface: link.name.clone() });
            }
        }
        Ok(kernel)
    }

    /// The gate in force. It falls to [`GateClass::Lifetime`] while the rules are not in place.
    pub fn class(&self) -> GateClass {
        self.gate.class()
    }

    /// Why the gate in force is not the stronger one, in words; `None` where it is.
    pub fn gate_error(&self) -> Option<&str> {
        self.gate.error()
    }

    /// Whether this process claimed the addresses and the lease of that claim still runs.
    pub fn held(&self) -> bool {
        self.lease.is_some_and(|lease| boottime() < lease.deadline)
    }

    /// The claim as a flag for [`watch`](crate::watch): set by a claim, cleared by a release.
    pub fn held_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.held)
    }

    /// Claims the addresses for `remaining`, from now: the lease first, then the addresses.
    ///
    /// A tenth of `remaining` is cut off for clocks that are being slewed. One send to nf_tables,
    /// one for all addresses.
    ///
    /// # Errors
    ///
    /// When too little is left, this thread was stopped meanwhile, or the kernel refuses any of
    /// the addresses: then nothing is held.
    pub fn claim(&mut self, remaining: Duration) -> Result<(), VipError> {
        let started = boottime();
        let timeout = kernel_timeout(remaining).ok_or(VipError::NoTime(remaining))?;
        let deadline = started + timeout;
        self.hear_ruleset();
        self.lease = Some(Lease { deadline, lifetime_renewal_due: Duration::ZERO });
        match self.arm(LeaseArm::Claim) {
            Ok(Arming::OnTime) => {
                self.held.store(true, Ordering::Release);
                Ok(())
            }
            Ok(Arming::TooLate) => {
                self.lose();
                Err(VipError::Stalled(boottime() - started))
            }
            Err(error) => {
                self.lose();
                Err(error)
            }
        }
    }

    /// Extends the lease to `remaining` from now, where it still runs.
    ///
    /// A lease that ended, by the kernel's word or by the clock, is never brought back. Where
    /// lifetimes are the gate in force they are renewed each time, to the next whole second;
    /// else when a quarter of their time has passed.
    ///
    /// # Errors
    ///
    /// When the kernel refuses for another reason than the end of the lease: the lease then runs
    /// on as it was, towards its end.
    pub fn renew(&mut self, remaining: Duration) -> Result<Renewal, VipError> {
        let now = boottime();
        let Some(lease) = self.lease else { return Ok(Renewal::Lost) };
        let timeout = kernel_timeout(remaining).filter(|_| now < lease.deadline);
        let Some(timeout) = timeout else {
            self.lose();
            return Ok(Renewal::Lost);
        };
        self.hear_ruleset();
        self.lease = Some(Lease { deadline: now + timeout, ..lease });
        match self.arm(LeaseArm::Renew) {
            Ok(Arming::OnTime) => {
                if self.heal_due {
                    self.heal();
                }
                Ok(Renewal::Renewed)
            }
            Ok(Arming::TooLate) => {
                self.lose();
                Ok(Renewal::Lost)
            }
            Err(error) => {
                self.lease = Some(lease);
                Err(error)
            }
        }
    }

    /// Gives the addresses up: the lease first, confirmed by the kernel, then the addresses.
    /// Does no harm where nothing is held.
    ///
    /// # Errors
    ///
    /// When the kernel refuses either; the other one is done all the same.
    pub fn release(&mut self) -> Result<(), VipError> {
        self.lease = None;
        self.held.store(false, Ordering::Release);
        self.missing.fill(false);
        self.heal_due = false;
        let closed = self.close_gate();
        let removed = self.remove_addresses();
        closed.and(removed)
    }

    /// Puts addresses and links in the state that they should be in, whatever others did: acts
    /// on what [`watch`](crate::watch) found.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to list or remove addresses.
    pub fn reconcile(&mut self) -> Result<(), VipError> {
        self.hear_ruleset();
        self.refresh_links()?;
        if !self.held() {
            return self.release();
        }
        let dump = |source| VipError::Dump { what: "the addresses of this node", source };
        let present = route::addresses(&mut self.route).map_err(dump)?;
        let expected = self.expected_addresses();
        let misplaced: Vec<AddressFacts> = present
            .iter()
            .filter(|found| self.vips.iter().any(|vip| vip.address == found.address))
            .filter(|found| !expected.iter().any(|e| same_place(e, found)))
            .copied()
            .collect();
        self.remove(&misplaced, &present)?;
        self.heal();
        Ok(())
    }

    /// Releases, and removes the tables last.
    ///
    /// # Errors
    ///
    /// As [`Kernel::release`]; then the tables stay.
    pub fn close(mut self) -> Result<(), VipError> {
        self.release()?;
        self.gate.remove_tables()
    }

    /// One descriptor that is readable when [`Kernel::pump`] has something to do. It stays the
    /// same for as long as this value lives.
    pub fn fds(&self) -> Vec<RawFd> {
        vec![self.poller.as_raw_fd()]
    }

    /// Arms lease and lifetimes up to the deadline of `self.lease`.
    fn arm(&mut self, how: LeaseArm) -> Result<Arming, VipError> {
        let Some(lease) = self.lease else { return Ok(Arming::TooLate) };
        if self.gate.class() == GateClass::Nftables
            && self.arm_gate(lease.deadline, how)? == Arming::TooLate
        {
            return Ok(Arming::TooLate);
        }
        // Asked again: the rules may have gone, and could not be put back, just now.
        match self.gate.class() {
            GateClass::Nftables if boottime() < lease.lifetime_renewal_due => Ok(Arming::OnTime),
            GateClass::Nftables => {
                let lifetime = self.backup_lifetime(lease.deadline);
                let armed = self.put_addresses(lifetime);
                match how {
                    LeaseArm::Claim => armed?,
                    // The gate in force is armed; a missing link must not end the lease.
                    LeaseArm::Renew => self.heal_due |= armed.is_err(),
                }
                Ok(Arming::OnTime)
            }
            GateClass::Lifetime => {
                match (how, on_time(lease.deadline, |left| self.put_addresses(left))) {
                    // One link that is gone must not end the lease of the others.
                    (LeaseArm::Renew, Err(error)) if is_gone(&error) => {
                        self.heal_due = true;
                        Ok(Arming::OnTime)
                    }
                    (LeaseArm::Claim | LeaseArm::Renew, armed) => armed,
                }
            }
        }
    }

    fn backup_lifetime(&self, deadline: Duration) -> Duration {
        self.lifetime_backup.max(deadline.saturating_sub(boottime()))
    }

    /// Adds the addresses, or gives them a new lifetime.
    fn put_addresses(&mut self, lifetime: Duration) -> Result<(), VipError> {
        let seconds = lifetime_seconds(lifetime);
        let armed_at = boottime();
        let request = self.requests.put.fill(seconds.to_ne_bytes());
        let mut refused: Option<(usize, io::Error)> = None;
        let sent = self.route.transact(request, |sequence, result| {
            if let Err(error) = result
                && refused.is_none()
            {
                refused = Some((sequence as usize, error));
            }
        });
        match refused.or_else(|| sent.err().map(|error| (0, error))) {
            None => {
                let quarter = Duration::from_secs(u64::from(seconds)) / 4;
                if let Some(lease) = &mut self.lease {
                    lease.lifetime_renewal_due = armed_at + quarter;
                }
                Ok(())
            }
            Some((index, source)) => Err(self.address_error(AddressAction::Add, index, source)),
        }
    }

    /// Puts back held addresses that are not there; reports each loss once.
    fn heal(&mut self) {
        self.heal_due = false;
        let Some(lease) = self.lease.filter(|lease| boottime() < lease.deadline) else { return };
        let lifetime = match self.gate.class() {
            GateClass::Nftables => self.backup_lifetime(lease.deadline),
            GateClass::Lifetime => lease.deadline.saturating_sub(boottime()),
        };
        let request = self.requests.add.fill(lifetime_seconds(lifetime).to_ne_bytes());
        let (missing, pending, vips) = (&mut self.missing, &mut self.pending, &self.vips);
        let mut failed = false;
        let sent = self.route.transact(request, |sequence, result| {
            let index = sequence as usize;
            let lost = match result {
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                    missing[index] = false;
                    return;
                }
                Ok(()) => std::mem::replace(&mut missing[index], false),
                Err(_) => {
                    failed = true;
                    std::mem::replace(&mut missing[index], true)
                }
            };
            if !lost {
                pending.push(KernelEvent::AddressLost { vip: vips[index].address });
            }
        });
        self.heal_due = failed || sent.is_err();
    }

    /// Removes every service address from every interface, whoever put it there.
    fn remove_addresses(&mut self) -> Result<(), VipError> {
        let expected = self.expected_addresses();
        // A failed dump loses nothing but the left-overs in unexpected places.
        let present = route::addresses(&mut self.route).unwrap_or_default();
        let is_vip = |found: &&AddressFacts| expected.iter().any(|e| e.address == found.address);
        let mut doomed: Vec<AddressFacts> = present.iter().filter(is_vip).copied().collect();
        for address in &expected {
            if address.index != 0 && !doomed.iter().any(|d| same_place(d, address)) {
                doomed.push(*address);
            }
        }
        self.remove(&doomed, &present)
    }

    fn remove(
        &mut self,
        doomed: &[AddressFacts],
        present: &[AddressFacts],
    ) -> Result<(), VipError> {
        if doomed.is_empty() {
            return Ok(());
        }
        let beyond = doomed.len() as u32;
        let mut request = Vec::new();
        for vip in doomed {
            // Where the service address is the first of its subnet, others depend on it.
            let depends = |other: &&AddressFacts| {
                other.secondary && other.address != vip.address && route::same_subnet(*vip, **other)
            };
            if !vip.secondary && present.iter().any(|other| depends(&other)) {
                request.extend(route::promote_secondaries(vip.index, beyond));
            }
        }
        for (sequence, address) in (0..).zip(doomed) {
            request.extend(route::remove(*address, sequence));
        }
        let mut refused: Option<(usize, io::Error)> = None;
        let sent = self.route.transact(&request, |sequence, result| {
            let Err(error) = result else { return };
            let gone = matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV));
            if !gone && sequence < beyond && refused.is_none() {
                refused = Some((sequence as usize, error));
            }
        });
        match refused.or_else(|| sent.err().map(|error| (0, error))) {
            None => Ok(()),
            Some((index, source)) => {
                let facts = doomed[index];
                let interface = self.name_of(facts.index);
                let (address, prefix) = (facts.address, facts.prefix);
                let action = AddressAction::Remove;
                Err(VipError::Address { action, address, prefix, interface, source })
            }
        }
    }

    fn expected_addresses(&self) -> Vec<AddressFacts> {
        expected_addresses(&self.vips, &self.links)
    }

    fn address_error(&self, action: AddressAction, index: usize, source: io::Error) -> VipError {
        let Vip { address, prefix, interface } = self.vips[index].clone();
        VipError::Address { action, address, prefix, interface, source }
    }

    /// The lease is over: nothing may be left of it. What the kernel refuses here is tried again
    /// by the next release or reconciliation; its timers end it meanwhile.
    fn lose(&mut self) {
        if let Err(error) = self.release() {
            tracing::warn!(%error, "release");
        }
    }

    fn poll_on(&self, descriptor: RawFd) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        let poller = self.poller.as_raw_fd();
        // SAFETY: both descriptors are open and `event` outlives the call.
        match unsafe { libc::epoll_ctl(poller, libc::EPOLL_CTL_ADD, descriptor, &raw mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl AddressRequests {
    fn new(vips: &[Vip], links: &[Link]) -> Self {
        let addresses = expected_addresses(vips, links);
        let build = |existing: Existing| {
            Template::new(|set| {
                let lifetime = if set { u32::MAX } else { 0 };
                let add = |(index, address): (u32, &AddressFacts)| {
                    route::add(*address, lifetime, existing, index)
                };
                (0..).zip(&addresses).flat_map(add).collect()
            })
        };
        Self { put: build(Existing::Replace), add: build(Existing::Refuse) }
    }
}

/// The service addresses where they belong; index 0 where the interface is gone.
fn expected_addresses(vips: &[Vip], links: &[Link]) -> Vec<AddressFacts> {
    let place = |vip: &Vip| AddressFacts {
        address: vip.address,
        prefix: vip.prefix,
        index: links.iter().find(|link| link.name == vip.interface).map_or(0, Link::index),
        secondary: false,
    };
    vips.iter().map(place).collect()
}

fn same_place(a: &AddressFacts, b: &AddressFacts) -> bool {
    (a.address, a.prefix, a.index) == (b.address, b.prefix, b.index)
}

/// The interface is gone, or is not ready for addresses.
fn is_gone(error: &VipError) -> bool {
    match error {
        VipError::Address { source, .. } => source.raw_os_error() == Some(libc::ENODEV),
        _ => false,
    }
}

/// Arms a timeout up to `deadline`, again when this thread was stopped on the way.
fn on_time(
    deadline: Duration,
    mut arm: impl FnMut(Duration) -> Result<(), VipError>,
) -> Result<Arming, VipError> {
    for _ in 0..ARMING_ATTEMPTS_MAX {
        let before = boottime();
        let left = deadline.saturating_sub(before);
        if left < Duration::from_millis(LEASE_MS_MIN) {
            break;
        }
        arm(left)?;
        if boottime() - before <= Duration::from_millis(ARMING_MS_MAX) {
            return Ok(Arming::OnTime);
        }
    }
    Ok(Arming::TooLate)
}

fn poller() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked before it is owned.
    let descriptor = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn validate(options: &Options) -> Result<(), VipError> {
    let refuse = |text: String| Err(VipError::Options(text));
    let count = options.vips.len();
    if count == 0 || count > VIPS_MAX {
        return refuse(format!("{count} service addresses: give 1 to {VIPS_MAX} of them"));
    }
    if options.neighbors.len() > NEIGHBORS_MAX {
        let count = options.neighbors.len();
        return refuse(format!("{count} neighbors: give at most {NEIGHBORS_MAX} of them"));
    }
    for (index, vip) in options.vips.iter().enumerate() {
        let longest = if vip.address.is_ipv4() { 32 } else { 128 };
        if vip.prefix == 0 || vip.prefix > longest {
            return refuse(format!("{vip}: the prefix length must be 1 to {longest}"));
        }
        let ip = vip.address;
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
            return refuse(format!("{vip}: not an address that a node can serve on"));
        }
        if options.vips[..index].iter().any(|other| other.address == ip) {
            return refuse(format!("{vip}: this address is listed twice"));
        }
    }
    let table = options.table.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.".contains(byte);
    let starts_well = table.first().is_some_and(u8::is_ascii_alphabetic);
    if !starts_well || table.len() > TABLE_BYTES_MAX || !table.iter().all(plain) {
        return refuse(format!(
            "table name {:?}: use a letter, then letters, digits, `_`, `-`, `.`, at most \
             {TABLE_BYTES_MAX} bytes",
            options.table
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEFT: Duration = Duration::from_millis(200);
    const STOPPED: Duration = Duration::from_millis(30);

    #[test]
    fn a_stop_while_arming_arms_again_with_what_is_left() {
        let mut armed = Vec::new();
        let arming = on_time(boottime() + LEFT, |left| {
            armed.push(left);
            if armed.len() == 1 {
                std::thread::sleep(STOPPED);
            }
            Ok(())
        });
        assert_eq!(arming.unwrap(), Arming::OnTime);
        assert_eq!(armed.len(), 2);
        assert!(armed[1] <= LEFT - STOPPED, "{armed:?}");
    }

    #[test]
    fn a_thread_that_is_stopped_again_and_again_has_no_lease() {
        let mut attempts = 0;
        let arming = on_time(boottime() + LEFT, |_| {
            attempts += 1;
            std::thread::sleep(STOPPED);
            Ok(())
        });
        assert_eq!((arming.unwrap(), attempts), (Arming::TooLate, ARMING_ATTEMPTS_MAX));
        let past = on_time(boottime(), |_| panic!("nothing is armed after the deadline"));
        assert_eq!(past.unwrap(), Arming::TooLate);
    }
}
