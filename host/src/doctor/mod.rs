//! What would hinder this node, each with its remedy.
//!
//! Promises: it changes nothing and works beside a running daemon. Refuses to guess: what it may
//! not look at is said.

mod databases;
mod system;
mod trees;

use std::net::UdpSocket;
use std::path::Path;

use serde::Serialize;

use crate::api::status::{LeaseRoom, StallStatus};
use crate::config::{Config, check_against_host};
use crate::identity::Identity;
use staffetta_core::RATE_DRIFT_PPM;

pub use system::host_addresses;

/// Room that epoch, journal, and policies may need on top of the journal's cap.
const STATE_BYTES_SPARE: u64 = 32 * 1024 * 1024;
/// Memory that the daemon locks: its own and the beat thread's stack.
const LOCKED_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// The oldest kernel whose nftables timeouts were tried.
const KERNEL_MIN: (u32, u32) = (5, 10);

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Someone should look.
    Warn,
    /// The pair cannot keep its promises like this.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at.
    pub object: String,
    /// What was seen.
    pub text: String,
    /// What to do; empty when nothing is.
    pub remedy: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let severity = match self.severity {
            Severity::Ok => "ok  ",
            Severity::Warn => "WARN",
            Severity::Fail => "FAIL",
        };
        write!(f, "{severity}  {:<16} {}", self.object, self.text)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "\n        -> {}", self.remedy) }
    }
}

/// Looks at the host and at the configuration in `config`; `stalls` are what a running daemon
/// measured.
#[must_use]
pub fn examine(config: &Path, stalls: Option<&StallStatus>) -> Vec<Finding> {
    let mut found = Findings::default();
    kernel(&mut found);
    nonlocal_bind(&mut found);
    nftables(&mut found);
    realtime(&mut found);
    clock(&mut found);
    match Config::load(config) {
        Ok(config) => {
            found.ok("config", format!("{} is good", config.path.display()));
            files(&config, &mut found);
            addresses(&config, &mut found);
            links(&config, &mut found);
            databases::databases(&config, &mut found);
            trees::trees(&config, &mut found);
            if let Some(stalls) = stalls {
                lease(config.timing.parts_ms()[1], stalls, &mut found);
            }
        }
        Err(error) => found.fail("config", error.to_string(), "change that line"),
    }
    found.0
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, object: &str, text: impl Into<String>) {
        self.add(Severity::Ok, object, text.into(), "");
    }

    fn warn(&mut self, object: &str, text: impl Into<String>, remedy: &str) {
        self.add(Severity::Warn, object, text.into(), remedy);
    }

    fn fail(&mut self, object: &str, text: impl Into<String>, remedy: &str) {
        self.add(Severity::Fail, object, text.into(), remedy);
    }

    fn add(&mut self, severity: Severity, object: &str, text: String, remedy: &str) {
        let (object, remedy) = (object.to_owned(), remedy.to_owned());
        self.0.push(Finding { severity, object, text, remedy });
    }
}

fn kernel(found: &mut Findings) {
    let release = read_line("/proc/sys/kernel/osrelease");
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= KERNEL_MIN {
        found.ok("kernel", release);
    } else {
        let (major, minor) = KERNEL_MIN;
        let text = format!("{release} is older than any that was tried");
        found.warn("kernel", text, &format!("use {major}.{minor} or later"));
    }
}

fn nonlocal_bind(found: &mut Findings) {
    let on: Vec<&str> =
        ["/proc/sys/net/ipv4/ip_nonlocal_bind", "/proc/sys/net/ipv6/ip_nonlocal_bind"]
            .into_iter()
            .filter(|file| read_line(file) == "1")
            .collect();
    if on.is_empty() {
        let text = "off: a service that binds to a service address cannot start on the standby; \
                    let it listen on all addresses, or set net.ipv4.ip_nonlocal_bind = 1 \
                    (net.ipv6 likewise)";
        found.ok("nonlocal bind", text);
    } else {
        let text = format!(
            "{} is 1: services may bind to a service address that is not here; what they send \
             from it the nftables gate drops, address lifetimes alone do not",
            on.join(" and ")
        );
        found.ok("nonlocal bind", text);
    }
}

fn nftables(found: &mut Findings) {
    match system::try_nf_tables() {
        Ok(()) => found.ok("nf_tables", "usable: the gate has millisecond timeouts"),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => found.warn(
            "nf_tables",
            "cannot be tried without CAP_NET_ADMIN",
            "run `staffetta doctor` as root, in the network namespace of the daemon",
        ),
        Err(error) => found.warn(
            "nf_tables",
            format!("not usable: {error}; only address lifetimes are left, with a slack of 1.4 s"),
            "load the kernel module nf_tables, or set timing.profile = \"lifetime\"",
        ),
    }
    let rules = std::fs::read_to_string("/etc/nftables.conf").unwrap_or_default();
    let flushes = rules.lines().any(|line| line.trim_start().starts_with("flush ruleset"));
    let enabled = ["sysinit.target.wants", "multi-user.target.wants"].iter().any(|wants| {
        Path::new("/etc/systemd/system").join(wants).join("nftables.service").exists()
    });
    match (flushes, enabled) {
        (true, true) => found.warn(
            "nftables.service",
            "/etc/nftables.conf flushes all rules at start and reload; the daemon puts the gate \
             back when it sees that",
            "keep After=nftables.service in the unit; replace `flush ruleset` by `destroy table` \
             of your own tables",
        ),
        (true, false) | (false, true) | (false, false) => {
            found.ok("nftables.service", "does not flush the gate at boot");
        }
    }
}

fn realtime(found: &mut Findings) {
    if system::try_realtime() {
        found.ok("priority", "real-time priority is allowed");
    } else {
        found.warn(
            "priority",
            "real-time priority is refused: a busy machine may miss beats",
            "grant CAP_SYS_NICE, or LimitRTPRIO=50 in the unit",
        );
    }
    let bytes = system::lockable_bytes();
    if bytes >= LOCKED_BYTES_MIN {
        found.ok("locked memory", "enough may be locked");
    } else {
        found.warn(
            "locked memory",
            format!("only {} KiB may be locked: a swapping machine may miss beats", bytes / 1024),
            "grant CAP_IPC_LOCK, or LimitMEMLOCK=infinity in the unit",
        );
    }
}

/// The kernel knows the wall clock to be right.
pub(crate) fn clock_is_synchronized() -> bool {
    system::clock().is_some_and(|clock| clock.synchronized)
}

fn clock(found: &mut Findings) {
    let Some(clock) = system::clock() else {
        return found.warn("clock", "its state cannot be read", "allow adjtimex(2)");
    };
    if clock.synchronized {
        found.ok("clock", "synchronized");
    } else {
        found.warn(
            "clock",
            "not synchronized: policies see the time of day as not trusted; leases do not depend \
             on it",
            "run chrony or systemd-timesyncd",
        );
    }
    let text = format!(
        "corrected by {:+.1} ppm, tick {} us, {:.3} ms still to be slewed",
        clock.ppm, clock.tick_us, clock.offset_ms
    );
    if clock.is_steady() {
        found.ok("clock rate", text);
    } else {
        found.warn(
            "clock rate",
            format!(
                "{text}: its oscillator may be off by more than half of the {RATE_DRIFT_PPM} ppm \
                 that leases allow for"
            ),
            "look at `chronyc tracking`, and at the clock source of the machine or hypervisor \
             (/sys/devices/system/clocksource); reset the tick with `adjtimex --tick 10000`",
        );
    }
}

/// The configured lease beside what the running daemon measured of this machine.
fn lease(lease_ms: u64, stalls: &StallStatus, found: &mut Findings) {
    let ms = |us: u64| format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10);
    let seen = format!(
        "p99.9 of the daemon's wake-ups is {} late, the longest {}, of {}; the lease is \
         {lease_ms} ms",
        ms(stalls.p999_us),
        ms(stalls.max_us),
        stalls.count
    );
    let remedy = format!(
        "find what stops the daemon (hypervisor, swapping, no real-time priority), or write \
         lease_ms = {} or more on both nodes",
        stalls.lease_ms_for_room()
    );
    match stalls.room(lease_ms) {
        LeaseRoom::NotMeasured => {
            found.ok("stalls", "the daemon runs for too short a time to judge by");
        }
        LeaseRoom::Ample => found.ok("stalls", seen),
        LeaseRoom::Tight => {
            found.warn("stalls", format!("{seen}: notice, it leaves little room"), &remedy);
        }
        LeaseRoom::Short => {
            found.warn("stalls", format!("{seen}: it will end without a fault"), &remedy);
        }
    }
}

fn files(config: &Config, found: &mut Findings) {
    match config.secret() {
        Ok(_) => found.ok("secret", "private and complete"),
        Err(error) => found.fail("secret", error.to_string(), "see the text"),
    }
    let identity = &config.node.identity_file;
    match Identity::load(identity) {
        Ok(key) => found.ok("identity", key.public_hex()),
        Err(_) if !identity.exists() => found.warn(
            "identity",
            format!("{} is not there; `staffetta run` makes it", identity.display()),
            "make it before you ask for a license",
        ),
        Err(error) => found.fail("identity", error.to_string(), "see the text"),
    }
    let state = &config.node.state_dir;
    match system::free_bytes(state) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => found.warn(
            "state_dir",
            format!("{} is not there; `staffetta run` makes it", state.display()),
            "look at the path: the epoch lives there and must survive a restart",
        ),
        Err(error) => found.fail(
            "state_dir",
            format!("{}: {error}", state.display()),
            "make the folder, owned by the daemon (StateDirectory= in the unit does)",
        ),
        Ok((_, false)) => found.fail(
            "state_dir",
            format!("{} is not writable for this user", state.display()),
            "give it to the daemon, and check that the file system is mounted read-write",
        ),
        Ok((free, true)) if free < config.journal_bytes_max + STATE_BYTES_SPARE => found.warn(
            "state_dir",
            format!(
                "{}: {} MiB free are less than the journal may take",
                state.display(),
                free >> 20
            ),
            "free some space, or make journal.megabytes_max smaller",
        ),
        Ok((free, true)) => {
            found.ok("state_dir", format!("writable, {} MiB free", free >> 20));
        }
    }
}

fn addresses(config: &Config, found: &mut Findings) {
    let host = host_addresses();
    let mut missing = false;
    for vip in &config.vips {
        if !Path::new("/sys/class/net").join(&vip.interface).exists() {
            missing = true;
            found.fail(
                "interface",
                format!("{} for {} does not exist", vip.interface, vip.address),
                "write the name that `ip link` shows, or bring the interface up first",
            );
        }
    }
    let outside = check_against_host(config, &host);
    if outside.is_empty() && !missing {
        found.ok("service address", "inside the networks of its interface");
    }
    for error in outside {
        found.fail("service address", error.to_string(), "change that line");
    }
}

fn links(config: &Config, found: &mut Findings) {
    for link in &config.links {
        let object = format!("link {}", link.name);
        // Nothing is sent: connecting a UDP socket only asks the routing table. Port 0 leaves the
        // daemon's own alone.
        let mut local = link.local;
        local.set_port(0);
        let routed = UdpSocket::bind(local).and_then(|socket| socket.connect(link.peer));
        match routed {
            Ok(()) => found.ok(&object, format!("{} has a route to {}", local.ip(), link.peer)),
            Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => found.fail(
                &object,
                format!("{} is no address of this host", local.ip()),
                "write this node's own address on that link, or bring its interface up",
            ),
            Err(error) => found.fail(
                &object,
                format!("no way from {} to {}: {error}", local.ip(), link.peer),
                "bring the interface up, or add a route",
            ),
        }
    }
}

fn read_line(file: &str) -> String {
    std::fs::read_to_string(file).map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trouble_of_the_files_has_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("staffetta.toml");
        let text = include_str!("../../../examples/staffetta.toml")
            .replace("# state_dir = \"/var/lib/staffetta\"", "state_dir = \"missing\"")
            .replace("\"eth0\"", "\"none0\"");
        std::fs::write(&file, text).unwrap();
        let findings = examine(&file, None);
        let failed = |object: &str| {
            findings.iter().any(|f| f.object == object && f.severity == Severity::Fail)
        };
        for object in ["secret", "interface", "link lan"] {
            assert!(failed(object), "{object}: {findings:?}");
        }
        for finding in &findings {
            let quiet = finding.severity == Severity::Ok;
            assert_eq!(finding.remedy.is_empty(), quiet, "{finding}");
        }
    }

    #[test]
    fn a_lease_that_the_machine_outlasts_is_a_finding() {
        let stalls = |count, p999_us| StallStatus { count, p999_us, ..StallStatus::default() };
        let cases = [
            (stalls(999, 900_000), Severity::Ok, "too short a time"),
            (stalls(1_000, 75_000), Severity::Ok, "75.00 ms late"),
            (stalls(1_000, 75_001), Severity::Warn, "little room"),
            (stalls(1_000, 300_000), Severity::Warn, "little room"),
            (stalls(1_000, 300_001), Severity::Warn, "end without a fault"),
        ];
        for (stalls, severity, words) in cases {
            let mut found = Findings::default();
            lease(300, &stalls, &mut found);
            let [one] = &found.0[..] else { panic!("one finding: {:?}", found.0) };
            assert!(one.severity == severity && one.text.contains(words), "{one}");
            assert!(severity == Severity::Ok || one.remedy.contains("lease_ms = "), "{one}");
        }
    }

    #[test]
    fn a_clock_at_its_limit_is_not_steady() {
        let clock =
            |ppm, tick_us| system::ClockState { synchronized: true, ppm, tick_us, offset_ms: 0.0 };
        assert!(clock(-499.9, 10_000).is_steady());
        assert!(!clock(500.0, 10_000).is_steady() && !clock(-500.0, 10_000).is_steady());
        assert!(!clock(0.0, 9_999).is_steady());
        assert!(system::clock().is_some_and(|clock| clock.ppm.abs() <= 500.0));
    }

    #[test]
    fn a_wrong_configuration_is_a_finding() {
        let findings = examine(Path::new("/nonexistent/staffetta.toml"), None);
        let config = findings.iter().find(|f| f.object == "config").unwrap();
        assert_eq!(config.severity, Severity::Fail);
        assert!(config.text.contains("make one with `staffetta init`"));
    }

    #[test]
    fn the_loopback_is_an_address_of_the_host() {
        let loopback = ("lo".to_owned(), "127.0.0.1".parse().unwrap(), 8);
        assert!(host_addresses().contains(&loopback), "{:?}", host_addresses());
    }
}
