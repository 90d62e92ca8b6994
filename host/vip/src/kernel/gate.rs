//! The gate: nf_tables where it is to be had, else the lifetimes alone.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::{Arming, Kernel, on_time};
use crate::clock::boottime;
use crate::netlink::{Channel, Ear, Heard};
use crate::ruleset::{Ruleset, names_table};
use crate::{GateClass, KernelEvent, LEASE_MS_MIN, VipError};

const NOTIFICATION_GROUP: u32 = 7;
/// Two owners of one table would put it back in turns for ever; beyond this rate the gate is
/// taken for what it then is, the lifetime.
const REINSTALLS_PER_SECOND_MAX: u32 = 10;

pub(super) enum Gate {
    Nftables(Box<Nftables>),
    Lifetime { why: Option<String> },
}

pub(super) struct Nftables {
    table: String,
    ruleset: Ruleset,
    channel: Channel,
    ear: Ear,
    /// Why the rules are not in place; `None` while they are.
    broken: Option<String>,
    window_start: Duration,
    reinstalls_in_window: u32,
}

/// What a lease in the set is at the moment of arming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseArm {
    /// Nothing that counts: grant it.
    Claim,
    /// Still running: extend it, or learn that it is over.
    Renew,
}

impl Gate {
    pub(super) fn open(
        table: String,
        vips: &[IpAddr],
        force: Option<GateClass>,
    ) -> Result<Self, VipError> {
        if force == Some(GateClass::Lifetime) {
            // Rules of a former life with nftables would drop the address for ever.
            if let Ok(mut channel) = Channel::open(NETLINK_NETFILTER) {
                let _absent = channel.transact_whole(&Ruleset::new(&table, vips).remove);
            }
            return Ok(Self::Lifetime { why: None });
        }
        match Nftables::open(table, vips) {
            Ok(nftables) => Ok(Self::Nftables(Box::new(nftables))),
            Err(error) if force == Some(GateClass::Nftables) => Err(error),
            Err(error) => Ok(Self::Lifetime { why: Some(error.to_string()) }),
        }
    }

    pub(super) fn class(&self) -> GateClass {
        match self {
            Self::Nftables(nftables) if nftables.broken.is_none() => GateClass::Nftables,
            Self::Nftables(_) | Self::Lifetime { .. } => GateClass::Lifetime,
        }
    }

    pub(super) fn error(&self) -> Option<&str> {
        match self {
            Self::Nftables(nftables) => nftables.broken.as_deref(),
            Self::Lifetime { why } => why.as_deref(),
        }
    }

    pub(super) fn descriptor(&self) -> Option<RawFd> {
        match self {
            Self::Nftables(nftables) => Some(nftables.ear.as_raw_fd()),
            Self::Lifetime { .. } => None,
        }
    }

    pub(super) fn remove_tables(&mut self) -> Result<(), VipError> {
        match self {
            Self::Nftables(nftables) => {
                let removed = nftables.channel.transact_whole(&nftables.ruleset.remove);
                removed.map_err(|source| nftables.error("remove the drop rules", source))
            }
            Self::Lifetime { .. } => Ok(()),
        }
    }
}

impl Nftables {
    fn open(table: String, vips: &[IpAddr]) -> Result<Self, VipError> {
        let socket = |what: &str| {
            let what = what.to_string();
            move |source| VipError::Socket { what, source }
        };
        let channel =
            Channel::open(NETLINK_NETFILTER).map_err(socket("a netfilter netlink socket"))?;
        let ear = Ear::open(NETLINK_NETFILTER, &[NOTIFICATION_GROUP], channel.port())
            .map_err(socket("a netfilter notification socket"))?;
        let ruleset = Ruleset::new(&table, vips);
        let mut nftables = Self {
            table,
            ruleset,
            channel,
            ear,
            broken: None,
            window_start: Duration::ZERO,
            reinstalls_in_window: 0,
        };
        let installed = nftables.channel.transact_whole(&nftables.ruleset.install);
        installed.map_err(|source| nftables.error("install the drop rules", source))?;
        Ok(nftables)
    }

    fn error(&self, action: &'static str, source: io::Error) -> VipError {
        VipError::Gate { action, table: self.table.clone(), source }
    }

    /// Whether anybody else touched the tables since the last time.
    fn touched(&mut self) -> bool {
        let (ear, table) = (&mut self.ear, &self.table);
        let mut touched = false;
        let heard = ear.listen(|message| {
            touched |= names_table(message.kind, message.payload, table);
        });
        touched || heard == Heard::Overflow
    }

    /// Replaces the rules, with a lease up to `deadline`. `broken` says how it went.
    fn reinstall(&mut self, deadline: Option<Duration>) {
        let now = boottime();
        if now - self.window_start >= Duration::from_secs(1) {
            self.window_start = now;
            self.reinstalls_in_window = 0;
        }
        if self.reinstalls_in_window >= REINSTALLS_PER_SECOND_MAX {
            let table = &self.table;
            self.broken = Some(format!(
                "somebody else keeps changing the nftables table {table} (does another daemon \
                 use the same table name?)"
            ));
            return;
        }
        self.reinstalls_in_window += 1;
        let installed = match deadline {
            None => self.channel.transact_whole(&self.ruleset.install),
            Some(deadline) => self.reinstall_leased(deadline),
        };
        self.broken = match installed {
            Ok(()) => None,
            Err(source) => Some(self.error("install the drop rules", source).to_string()),
        };
    }

    fn reinstall_leased(&mut self, deadline: Duration) -> io::Result<()> {
        let left = deadline.saturating_sub(boottime());
        if left < Duration::from_millis(LEASE_MS_MIN) {
            return self.channel.transact_whole(&self.ruleset.install);
        }
        self.channel.transact_whole(self.ruleset.install_leased.fill(millis(left)))?;
        // Installing takes longer than arming: arm again, with what is left by now.
        let left = deadline.saturating_sub(boottime());
        if left < Duration::from_millis(LEASE_MS_MIN) {
            return self.channel.transact_whole(&self.ruleset.release);
        }
        self.channel.transact_whole(self.ruleset.claim.fill(millis(left)))
    }
}

impl Kernel {
    /// Notices what others did to the rules and puts them back.
    pub(super) fn hear_ruleset(&mut self) {
        let Gate::Nftables(nftables) = &mut self.gate else { return };
        if nftables.touched() {
            nftables.broken = Some("the drop rules were removed by somebody else".into());
            self.pending.push(KernelEvent::RulesetFlushed);
        }
        self.mend_ruleset();
    }

    fn mend_ruleset(&mut self) {
        let Gate::Nftables(nftables) = &mut self.gate else { return };
        if nftables.broken.is_none() {
            return;
        }
        nftables.reinstall(self.lease.map(|lease| lease.deadline));
        if nftables.broken.is_none() {
            return;
        }
        // The lifetimes are the gate now, and were armed as a mere backup: shorten them.
        if let Some(lease) = self.lease {
            let shortened = on_time(lease.deadline, |left| self.put_addresses(left));
            self.heal_due |= shortened.is_err();
        }
    }

    /// Arms the lease in the sets up to `deadline`.
    pub(super) fn arm_gate(
        &mut self,
        deadline: Duration,
        how: LeaseArm,
    ) -> Result<Arming, VipError> {
        let Gate::Nftables(nftables) = &mut self.gate else { return Ok(Arming::OnTime) };
        let nftables = &mut **nftables;
        let mut step = how;
        let mut refused = None;
        let arming = on_time(deadline, |left| {
            let ruleset = &mut nftables.ruleset;
            let request = match step {
                LeaseArm::Claim => ruleset.claim.fill(millis(left)),
                LeaseArm::Renew => ruleset.renew.fill(millis(left)),
            };
            step = LeaseArm::Renew;
            let armed = nftables.channel.transact_whole(request);
            armed.map_err(|source| {
                refused = source.raw_os_error();
                nftables.error("arm the lease", source)
            })
        });
        if refused != Some(libc::ENOENT) {
            return arming;
        }
        // Either the lease had ended, or the sets themselves are gone, which is always announced
        // before the refusal could happen.
        if nftables.touched() {
            nftables.broken = Some("the drop rules were removed by somebody else".into());
            self.pending.push(KernelEvent::RulesetFlushed);
            self.mend_ruleset();
            return Ok(Arming::OnTime);
        }
        match how {
            LeaseArm::Renew => Ok(Arming::TooLate),
            LeaseArm::Claim => arming,
        }
    }

    /// Empties the lease sets. Rules that are gone are put back: closed.
    pub(super) fn close_gate(&mut self) -> Result<(), VipError> {
        let Gate::Nftables(nftables) = &mut self.gate else { return Ok(()) };
        match nftables.channel.transact_whole(&nftables.ruleset.release) {
            Ok(()) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                nftables.broken = Some("the drop rules were removed by somebody else".into());
                self.mend_ruleset();
                Ok(())
            }
            Err(source) => Err(nftables.error("close the lease", source)),
        }
    }
}

fn millis(timeout: Duration) -> [u8; 8] {
    let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    assert!(millis >= LEASE_MS_MIN, "a timeout of zero would never end");
    millis.to_be_bytes()
}
