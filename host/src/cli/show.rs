//! Values for people: compact, aligned, coloured only on a terminal.

use std::fmt::Write;
use std::io::IsTerminal;

use super::plain;
use crate::api::Status;
use crate::api::status::{
    ArbiterStatus, DatabaseLine, GateStatus, Level, LinkStatus, PeerStatus, PolicyStatus, Role,
    StallStatus, TreeLine, VipStatus,
};
use crate::journal::{EventLevel, EventRecord};

/// Digits of a digest that are enough to tell two apart.
const DIGEST_CHARS: usize = 19;

/// Whether to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Colors,
    Plain,
}

impl Paint {
    /// Colours on a terminal whose user has not said NO_COLOR (no-color.org).
    pub(super) fn for_stdout() -> Paint {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if wanted && std::io::stdout().is_terminal() { Paint::Colors } else { Paint::Plain }
    }

    fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    fn yellow(self, text: &str) -> String {
        self.with("33", text)
    }

    fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        match self {
            Paint::Colors => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Paint::Plain => text.to_owned(),
        }
    }
}

/// The verdict in one line.
pub(super) fn headline(status: &Status, paint: Paint) -> String {
    let word = match status.role {
        Role::Primary => paint.green("PRIMARY"),
        Role::Standby => paint.green("standby"),
        Role::Joining | Role::Candidate | Role::Draining => paint.yellow(&status.role.to_string()),
        Role::Fenced => paint.red("FENCED"),
    };
    let peer = match &status.peer {
        Some(peer) => format!("peer {} is {}", plain(&peer.name), peer.role),
        None => "the peer was not seen yet".to_owned(),
    };
    let level = status.level.name.to_string();
    let level = match status.level.name {
        Level::Arbitrated | Level::Paired => paint.green(&level),
        Level::EvidenceOnly | Level::Alone | Level::TakeoverDisarmed => paint.yellow(&level),
    };
    let node = plain(&status.node);
    format!("{node} is {word} (epoch {}), {peer}; guarantee: {level}", status.epoch)
}

/// Everything, the verdict first.
pub(super) fn status(status: &Status, paint: Paint) -> String {
    let mut rows: Vec<(&str, String)> = Vec::new();
    for alarm in &status.alarms {
        rows.push(("ALARM", format!("{}: {}", paint.red(&plain(&alarm.name)), plain(&alarm.text))));
    }
    if let Some(waiting) = &status.waiting {
        rows.push(("waiting", plain(waiting)));
    }
    if status.maintenance {
        rows.push(("maintenance", paint.yellow("on: this node does not take over")));
    }
    rows.push(("because", plain(&status.level.why)));
    rows.push((
        "daemon",
        format!(
            "{} in cluster {}, up {}, {} for {}",
            plain(&status.version),
            plain(&status.cluster),
            span(status.uptime_s.saturating_mul(1000)),
            status.role,
            span(status.in_role_ms)
        ),
    ));
    if let Some(one) = &status.arbiter {
        rows.push(("arbiter", arbiter(one)));
    }
    rows.push(("lease", lease(status)));
    rows.push(("gate", gate(status.gate)));
    rows.extend(status.vips.iter().map(|one| ("vip", vip(one))));
    rows.extend(status.links.iter().map(|one| ("link", link(one))));
    rows.extend(status.peer.iter().map(|one| ("peer", peer(one))));
    for (kind, one) in [
        ("failover", &status.policies.failover),
        ("license", &status.policies.license),
        ("split-brain", &status.policies.split_brain),
    ] {
        rows.push(("policy", policy(kind, one)));
    }
    rows.push(("license", format!("{}: {}", status.license.state, plain(&status.license.reason))));
    rows.extend(data(status, paint));
    let memory = if status.realtime.memory_locked { "locked" } else { "not locked" };
    rows.push(("realtime", format!("{} priority, memory {memory}", status.realtime.priority)));
    rows.push(("stalls", stalls(&status.stalls)));
    rows.extend(status.decisions.iter().map(|one| {
        let text = format!(
            "#{} {}  {} -> {} ({}, {} us): {}",
            one.id,
            plain(&one.at),
            plain(&one.question),
            plain(&one.intent),
            one.spoke,
            one.cpu_us,
            plain(&one.reason)
        );
        ("decision", text)
    }));
    let mut text = headline(status, paint);
    for (name, value) in rows {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n  {name:<11} {value}");
    }
    text
}

/// What is replicated, and whether the standby has it.
fn data(status: &Status, paint: Paint) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    rows.extend(status.databases.iter().map(|one| ("database", database(one))));
    rows.extend(status.trees.iter().map(|one| ("tree", tree(one))));
    rows.extend(status.alignment.iter().map(|one| {
        let word = if one.aligned { paint.green("yes") } else { paint.yellow("no") };
        let why = one.why.first().map_or(word.clone(), |why| format!("{word}: {}", plain(why)));
        ("aligned", why)
    }));
    rows
}

fn database(one: &DatabaseLine) -> String {
    let behind = one.behind.map_or(String::new(), |count| format!(", {count} missing"));
    format!("{} {} at {}:{}{behind}", plain(&one.name), one.state, one.epoch, one.txid)
}

fn tree(one: &TreeLine) -> String {
    let behind = one.behind.map_or(String::new(), |count| format!(", {count} missing"));
    let held = if one.held > 0 { format!(", {} deletions held", one.held) } else { String::new() };
    format!("{} {}, {} entries{behind}{held}", plain(&one.name), one.state, one.entries)
}

fn lease(status: &Status) -> String {
    use crate::api::status::LeaseSource;
    let promise = match status.promise_ms {
        0 => String::new(),
        ms => format!("; promised not to claim for {}", span(ms)),
    };
    let lease = match status.lease.source {
        LeaseSource::None => "none".to_owned(),
        LeaseSource::Peer => format!("from the peer, {} left", span(status.lease.remaining_ms)),
        LeaseSource::Arbiter => {
            format!("from the arbiter, {} left", span(status.lease.remaining_ms))
        }
        LeaseSource::Alone => {
            format!("taken alone, {} left", span(status.lease.remaining_ms))
        }
    };
    format!("{lease}{promise}")
}

fn arbiter(arbiter: &ArbiterStatus) -> String {
    let answered = match arbiter.answered_ms {
        Some(ms) => format!("answered {} ago", span(ms)),
        None => "never answered".to_owned(),
    };
    let us = arbiter.latency_us;
    let register = match &arbiter.register {
        Some(held) => {
            let how = if held.alone { "alone" } else { "paired" };
            format!("{} serves {how} (epoch {})", plain(&held.holder), held.epoch)
        }
        None => "no register".to_owned(),
    };
    let error = arbiter.error.as_ref().map(|error| format!(": {}", plain(error)));
    format!(
        "{}, {answered} within {}.{:02} ms, {register}{}",
        arbiter.standing,
        us / 1000,
        us % 1000 / 10,
        error.unwrap_or_default()
    )
}

fn gate(gate: GateStatus) -> String {
    let open = if gate.open { "open" } else { "closed" };
    format!("{open}, by {}, slack {}", gate.class, span(gate.slack_ms))
}

fn peer(peer: &PeerStatus) -> String {
    let maintenance = if peer.maintenance { ", in maintenance" } else { "" };
    format!(
        "{} (epoch {}, {}), heard {} ago{maintenance}",
        plain(&peer.name),
        peer.epoch,
        plain(&peer.version),
        span(peer.age_ms)
    )
}

fn stalls(stalls: &StallStatus) -> String {
    if stalls.count == 0 {
        return "nothing measured yet".to_owned();
    }
    format!(
        "wake-ups late by {} (p50), {} (p99), {} (p99.9), {} at most",
        millis(stalls.p50_us),
        millis(stalls.p99_us),
        millis(stalls.p999_us),
        millis(stalls.max_us)
    )
}

fn millis(us: u64) -> String {
    format!("{}.{:02} ms", us / 1000, us % 1000 / 10)
}

fn vip(vip: &VipStatus) -> String {
    let held = if vip.held { "held here" } else { "not here" };
    let (address, interface) = (plain(&vip.address), plain(&vip.interface));
    format!("{address} on {interface}, {held}; probe: {}", vip.answerer)
}

fn link(link: &LinkStatus) -> String {
    let ago = |age: Option<u64>| match age {
        Some(ms) => format!("{} ago", span(ms)),
        None => "never".to_owned(),
    };
    let rtt = match link.rtt_us {
        Some(us) => millis(us),
        None => "-".to_owned(),
    };
    let wan = if link.wan { ", wan" } else { "" };
    format!(
        "{:<8} heard {}, echoed {}, rtt {rtt}, loss {}.{} %{wan}",
        plain(&link.name),
        ago(link.heard_ms),
        ago(link.echoed_ms),
        link.loss_permille / 10,
        link.loss_permille % 10
    )
}

/// One policy in force.
pub(super) fn policy(kind: &str, policy: &PolicyStatus) -> String {
    let digest: String = plain(&policy.digest).chars().take(DIGEST_CHARS).collect();
    format!(
        "{kind:<11} {} {} ({}) {digest}",
        plain(&policy.name),
        plain(&policy.version),
        policy.source
    )
}

/// One decision with all that it was made from, from the API's JSON.
pub(super) fn decision(json: &serde_json::Value) -> String {
    let mut text = String::new();
    let Some(fields) = json.as_object() else { return text };
    for (name, value) in fields {
        let shown = match value.as_str() {
            Some(inner) => match serde_json::from_str::<serde_json::Value>(inner) {
                Ok(nested) if nested.is_object() => {
                    let pretty = serde_json::to_string_pretty(&nested).unwrap_or_default();
                    pretty.replace('\n', "\n    ")
                }
                Ok(_) | Err(_) => plain(inner),
            },
            None => value.to_string(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<18} {shown}");
    }
    text
}

/// One event.
pub(super) fn event(event: &EventRecord, paint: Paint) -> String {
    let level = match event.level {
        EventLevel::Info => "info ".to_owned(),
        EventLevel::Warn => paint.yellow("WARN "),
        EventLevel::Error => paint.red("ERROR"),
    };
    let fields: String =
        event.fields.iter().map(|(name, value)| plain(&format!(" {name}={value}"))).collect();
    let (name, text) = (plain(&event.name), plain(&event.text));
    format!("{}  {level} {name}: {text}{fields}", clock(event.at_unix_ms))
}

/// Local time of day.
pub(super) fn clock(unix_ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(unix_ms) {
        Ok(at) => at.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S%.3f").to_string(),
        Err(_) => "??:??:??".to_owned(),
    }
}

/// A span of time in the unit that suits it.
pub(super) fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} days", ms / 86_400_000),
    }
}
