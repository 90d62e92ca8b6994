//! What is new between two values of the status, a line each.

use super::plain;
use crate::api::Status;
use crate::api::status::{PolicyStatus, Role};

/// Lines in the order of importance.
pub(super) fn between(before: &Status, after: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    role(before, after, &mut lines);
    peer(before, after, &mut lines);
    rights(before, after, &mut lines);
    if before.maintenance != after.maintenance {
        let word = if after.maintenance { "on: takeover disarmed" } else { "off: takeover armed" };
        lines.push(format!("maintenance {word}"));
    }
    links_and_vips(before, after, &mut lines);
    policies(before, after, &mut lines);
    for decision in after.decisions.iter().rev() {
        if !before.decisions.iter().any(|old| old.id == decision.id) {
            lines.push(format!(
                "decision #{} {} -> {} ({}): {}",
                decision.id,
                plain(&decision.question),
                plain(&decision.intent),
                decision.spoke,
                plain(&decision.reason)
            ));
        }
    }
    for alarm in &after.alarms {
        if !before.alarms.contains(alarm) {
            lines.push(format!("ALARM {}: {}", plain(&alarm.name), plain(&alarm.text)));
        }
    }
    for alarm in &before.alarms {
        if !after.alarms.iter().any(|new| new.name == alarm.name) {
            lines.push(format!("alarm {} is over", plain(&alarm.name)));
        }
    }
    lines
}

fn role(before: &Status, after: &Status, lines: &mut Vec<String>) {
    if (before.role, before.epoch) != (after.role, after.epoch) {
        let strong = after.role == Role::Primary && before.role != Role::Primary;
        let role = after.role.to_string();
        let role = if strong { role.to_uppercase() } else { role };
        lines.push(format!("role {} -> {role} (epoch {})", before.role, after.epoch));
    }
    if before.waiting != after.waiting
        && let Some(waiting) = &after.waiting
    {
        lines.push(format!("waiting: {}", plain(waiting)));
    }
}

fn peer(before: &Status, after: &Status, lines: &mut Vec<String>) {
    match (&before.peer, &after.peer) {
        (None, Some(peer)) => {
            lines.push(format!("peer {} found: {}", plain(&peer.name), peer.role))
        }
        (Some(peer), None) => lines.push(format!("peer {} forgotten", plain(&peer.name))),
        (Some(old), Some(new)) => {
            if old.role != new.role {
                lines.push(format!("peer {}: {} -> {}", plain(&new.name), old.role, new.role));
            }
            if old.maintenance != new.maintenance {
                let word = if new.maintenance { "on" } else { "off" };
                lines.push(format!("peer {}: maintenance {word}", plain(&new.name)));
            }
            if old.version != new.version {
                lines.push(format!("peer {}: version {}", plain(&new.name), plain(&new.version)));
            }
        }
        (None, None) => {}
    }
}

fn rights(before: &Status, after: &Status, lines: &mut Vec<String>) {
    if before.level != after.level {
        lines.push(format!("guarantee {}: {}", after.level.name, plain(&after.level.why)));
    }
    if before.lease.source != after.lease.source {
        lines.push(format!("lease {} -> {}", before.lease.source, after.lease.source));
    }
    if before.gate != after.gate {
        let open = if after.gate.open { "open" } else { "closed" };
        lines.push(format!("gate {} {open}", after.gate.class));
    }
}

fn links_and_vips(before: &Status, after: &Status, lines: &mut Vec<String>) {
    for (old, new) in before.links.iter().zip(&after.links) {
        if old.heard_ms.is_some() != new.heard_ms.is_some() {
            let word = if new.heard_ms.is_some() { "heard" } else { "silent" };
            lines.push(format!("link {} {word}", plain(&new.name)));
        }
    }
    for (old, new) in before.vips.iter().zip(&after.vips) {
        if old.held != new.held {
            let word = if new.held { "up" } else { "down" };
            lines.push(format!("vip {} {word} on {}", plain(&new.address), plain(&new.interface)));
        }
        if old.answerer != new.answerer {
            lines.push(format!("vip {} probed: {}", plain(&new.address), new.answerer));
        }
    }
}

fn policies(before: &Status, after: &Status, lines: &mut Vec<String>) {
    let pairs: [(&str, &PolicyStatus, &PolicyStatus); 3] = [
        ("failover", &before.policies.failover, &after.policies.failover),
        ("license", &before.policies.license, &after.policies.license),
        ("split-brain", &before.policies.split_brain, &after.policies.split_brain),
    ];
    for (kind, old, new) in pairs {
        if old != new {
            lines.push(format!(
                "policy {kind}: {} {} ({}, {})",
                plain(&new.name),
                plain(&new.version),
                new.source,
                plain(&new.digest)
            ));
        }
    }
    if before.license.state != after.license.state {
        lines.push(format!("license {}: {}", after.license.state, plain(&after.license.reason)));
    }
}
