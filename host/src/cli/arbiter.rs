//! `arbiter check`: tries the configured arbiter and says whether it is fast enough for the lease.

use std::time::Duration;

use serde_json::{Value, json};
use staffetta_arbiter::{ArbiterError, CheckReport, EndpointReport, Latencies};

use super::flags::ArbiterVerb;
use super::{Context, Failure, Outcome, plain};
use crate::config::Config;

/// No request of a check takes longer.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn arbiter(context: &Context, verb: &ArbiterVerb) -> Outcome {
    let ArbiterVerb::Check { n } = verb;
    let config = context.load()?;
    let Some(client) = crate::arbiter::client(&config)? else {
        return Err(Failure::Usage(
            "no arbiter is configured: add [arbiter] with its endpoints (docs/arbiter.md)".into(),
        ));
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::of)?;
    let report = runtime.block_on(client.check(*n, TIMEOUT));
    let timing = config.timing.with_slack(config.timing.parts().slack)?;
    let room = Duration::from_nanos(timing.arbiter_latency_max().0);
    let fast = report.swap_p99_max().is_some_and(|p99| p99 <= room);
    context.print(&as_json(&report, room, fast), || as_text(&report, &config, room, fast));
    if report.is_good() && fast { Ok(()) } else { Err(Failure::FailedQuietly) }
}

fn as_text(report: &CheckReport, config: &Config, room: Duration, fast: bool) -> String {
    let mut lines = vec![format!("register {}", plain(&report.key))];
    lines.push(match &report.register {
        Err(error) => format!("  {}", plain(&error.to_string())),
        Ok(None) => "  holds nothing yet: the first primary writes it".to_owned(),
        Ok(Some(held)) => {
            let mine = held.holder().map(|side| side as u8) == Some(config.side_index());
            let holder = if mine { &config.node.name } else { &config.peer.name };
            let how = if held.alone { "alone" } else { "paired" };
            format!("  {} serves {how}, {}", plain(holder), held.epoch)
        }
    });
    for one in &report.endpoints {
        endpoint(one, &mut lines);
    }
    if let Some(error) = &report.mixed {
        lines.push(plain(&error.to_string()));
    }
    let lease = config.timing.parts().lease;
    lines.push(match (report.swap_p99_max(), fast) {
        (None, _) => "no write was answered".to_owned(),
        (Some(p99), true) => format!(
            "good: 99 of 100 writes take at most {}, a lease of {lease} allows {}",
            ms(p99),
            ms(room)
        ),
        (Some(p99), false) => format!(
            "too slow: 99 of 100 writes take up to {}, a lease of {lease} allows {}; make lease_ms \
             longer, or bring the arbiter nearer",
            ms(p99),
            ms(room)
        ),
    });
    lines.join("\n")
}

fn endpoint(report: &EndpointReport, lines: &mut Vec<String>) {
    let status = match &report.status {
        Ok(status) => format!(
            "etcd {}, cluster {:016x}, leader {:016x}, database {} KiB, answered in {}",
            plain(&status.version),
            status.cluster_id,
            status.leader,
            status.db_bytes.div_ceil(1024),
            ms(status.took)
        ),
        Err(error) => plain(&error.to_string()),
    };
    lines.push(format!("{}: {status}", report.endpoint));
    for (what, latencies) in [("reads", report.reads), ("writes", report.swaps)] {
        if let Some(Latencies { count, min, p50, p99, max }) = latencies {
            let [min, p50, p99, max] = [min, p50, p99, max].map(ms);
            lines.push(format!("  {count} {what}: min {min}, p50 {p50}, p99 {p99}, max {max}"));
        }
    }
    if let Some(error) = &report.error {
        lines.push(format!("  {}", plain(&error.to_string())));
    }
}

fn as_json(report: &CheckReport, room: Duration, fast: bool) -> Value {
    let said = |error: &ArbiterError| json!({ "error": error.to_string() });
    let latencies = |latencies: &Option<Latencies>| {
        latencies.map(|l| {
            json!({ "count": l.count, "min_us": us(l.min), "p50_us": us(l.p50),
                    "p99_us": us(l.p99), "max_us": us(l.max) })
        })
    };
    let endpoints: Vec<Value> = report
        .endpoints
        .iter()
        .map(|one| {
            let status = match &one.status {
                Ok(status) => json!({ "version": status.version,
                    "cluster_id": format!("{:016x}", status.cluster_id),
                    "leader": format!("{:016x}", status.leader), "db_bytes": status.db_bytes,
                    "took_us": us(status.took) }),
                Err(error) => said(error),
            };
            json!({ "endpoint": one.endpoint.to_string(), "status": status,
                    "reads": latencies(&one.reads), "writes": latencies(&one.swaps),
                    "error": one.error.as_ref().map(ToString::to_string) })
        })
        .collect();
    let register = match &report.register {
        Ok(Some(held)) => json!({ "epoch": held.epoch.0, "alone": held.alone }),
        Ok(None) => Value::Null,
        Err(error) => said(error),
    };
    json!({
        "ok": report.is_good() && fast,
        "key": report.key,
        "register": register,
        "endpoints": endpoints,
        "mixed": report.mixed.as_ref().map(ToString::to_string),
        "latency_max_us": us(room),
    })
}

fn ms(span: Duration) -> String {
    let us = us(span);
    format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10)
}

fn us(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
