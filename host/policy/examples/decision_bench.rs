//! What one decision of the built-in failover policy costs, a fresh instance each.
//!
//! `decision_bench [COUNT]` prints one JSON line. CPU time is that of the asking thread; `rss_kib`
//! is the memory of a process that holds the three built-in policies, compiled in a child as the
//! daemon does.

use std::time::Instant;

use staffetta_policy::compile::{CHILD_ARGUMENT, child_main};
use staffetta_policy::types::{Answerer, Context, FailoverQuestion};
use staffetta_policy::{Compile, Engine, GateOptions, Kind, Limits};
use staffetta_sdk::testing;

const COUNT: usize = 100_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some(CHILD_ARGUMENT) {
        std::process::exit(child_main());
    }
    let count = argument.map_or(Ok(COUNT), |text| text.parse())?;
    let engine = Engine::new(Limits::default())?;
    let options = GateOptions::default();
    let began = Instant::now();
    let compile = Compile::child(None);
    let component = staffetta_bundle::FAILOVER;
    let policy = engine.load(Kind::Failover, component, "{}", &options, &compile)?;
    let load_ms = began.elapsed().as_millis();
    let _others = [
        engine.load(Kind::License, staffetta_bundle::LICENSE, "{}", &options, &compile)?,
        engine.load(Kind::SplitBrain, staffetta_bundle::SPLIT_BRAIN, "{}", &options, &compile)?,
    ];
    let rss_kib = rss_kib()?;
    let situation = testing::standby(FailoverQuestion::PeerSilent)
        .silent_for(1_500)
        .vip(Answerer::Nobody)
        .reference("gateway", Some(true))
        .reference("trunk", Some(true))
        .me(|me| me.facts.push(testing::number("site.active-calls", 42)))
        .build();
    let context = Context { wall: testing::wall(2, 10, 0), ..Context::default() };
    let mut cpu_us = Vec::with_capacity(count);
    let mut wall_us = Vec::with_capacity(count);
    let mut fuel = Vec::with_capacity(count);
    let mut failures = 0_u64;
    for _ in 0..count {
        let decision = policy.failover(&situation, &context, Kind::Failover.budget());
        failures += u64::from(decision.outcome.is_err());
        cpu_us.push(decision.cpu_us);
        wall_us.push(decision.wall_us);
        fuel.push(decision.fuel);
    }
    let report = serde_json::json!({
        "decisions": count,
        "failures": failures,
        "decision_cpu_p50_us": percentile(&mut cpu_us, 50),
        "decision_cpu_p99_us": percentile(&mut cpu_us, 99),
        "decision_wall_p50_us": percentile(&mut wall_us, 50),
        "decision_wall_p99_us": percentile(&mut wall_us, 99),
        "fuel_min": percentile(&mut fuel, 0),
        "fuel_max": percentile(&mut fuel, 100),
        "load_ms": load_ms,
        "rss_kib": rss_kib,
        "component_bytes": component.len(),
    });
    println!("{report}");
    Ok(())
}

/// Resident memory of this process.
fn rss_kib() -> Result<u64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn percentile(samples: &mut [u64], percent: usize) -> u64 {
    samples.sort_unstable();
    let last = samples.len().saturating_sub(1);
    samples.get(last * percent / 100).copied().unwrap_or(0)
}
