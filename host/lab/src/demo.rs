//! The demo: a real pair on this machine, six disasters and a planned move, with what a phone
//! noticed of each.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;

use crate::demo_steps::{self, STEPS, Stage};
use crate::demo_view::View;
use crate::enter::{Entry, enter, exit_code, realtime_allowed};
use crate::interrupt;
use crate::lab::Node;
use crate::pair::{Pair, PairOptions, Profile};

/// How the demo is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct DemoOptions {
    /// Leave the pair running at the end, until Ctrl-C.
    pub keep: bool,
    /// One JSON object on standard output instead of text; the timeline goes to standard error.
    pub json: bool,
}

/// What the demo saw.
#[derive(Clone, Debug, Serialize)]
pub struct DemoReport {
    /// Timing profile of both daemons.
    pub profile: &'static str,
    /// Whether the daemons had real-time priority.
    pub realtime: bool,
    /// The gate in force.
    pub gate: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Every step, in order.
    pub steps: Vec<StepReport>,
    /// Whether every invariant held.
    pub passed: bool,
}

/// What was seen in one step.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// Short name.
    pub name: &'static str,
    /// What was done.
    pub done: String,
    /// Longest time without an answer on the service address, asked every 2 ms.
    pub silence_ms: u64,
    /// SIP answers to the phone by node na.
    pub answers_na: u64,
    /// SIP answers to the phone by node nb.
    pub answers_nb: u64,
    /// Time in which both nodes answered on the wire.
    pub two_answers_ms: u64,
    /// Who served at the end.
    pub served_by: String,
    /// The policy's reason, or what else explains the outcome.
    pub reason: String,
    /// What should not have been.
    pub failures: Vec<String>,
}

/// Runs the demo with the daemon at `binary` and prints what happens as it happens. Where this user
/// may not make namespaces it runs this program again, with the same arguments, in a user
/// namespace, and ends with its exit code.
///
/// # Errors
/// When the world cannot be built or the daemons cannot be started; broken invariants are in the
/// report instead.
pub fn demo(binary: &Path, options: DemoOptions) -> Result<DemoReport> {
    match enter(std::env::args_os().skip(1))? {
        Entry::Here => {}
        Entry::Ran(status) => std::process::exit(exit_code(status)),
        Entry::Refused(why) => bail!("the demo needs network namespaces: {why}"),
    }
    interrupt::listen();
    let begin = Instant::now();
    let profile = if realtime_allowed() { Profile::Fast } else { Profile::Default };
    let pair =
        Pair::new(binary, PairOptions { profile, heartbeat_link: true, ..PairOptions::default() })?;
    let mut stage = Stage { pair: &pair, view: View::new(options.json, begin) };
    stage.view.title(profile);
    let (first, statuses) = demo_steps::start(&mut stage)?;
    let mut steps = vec![first];
    for step in STEPS {
        steps.push(demo_steps::play(&mut stage, steps.len() + 1, step)?);
    }
    let report = DemoReport {
        profile: profile.name(),
        realtime: statuses.realtime(),
        gate: statuses.gate(),
        seconds: begin.elapsed().as_secs_f64(),
        passed: steps.iter().all(|step| step.failures.is_empty()),
        steps,
    };
    stage.view.summary(&report);
    if options.json {
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&report)?)?;
    }
    if !report.passed {
        stage.view.plain(&pair.tails());
    }
    if options.keep {
        keep(&mut stage, binary);
    }
    end(&pair);
    Ok(report)
}

/// A clean stop of both daemons, so that the last thing the demo shows is not a kill.
fn end(pair: &Pair) {
    const STOP_MS_MAX: u64 = 4_000;
    for node in Node::BOTH {
        pair.lab().node(node).terminate(Duration::from_millis(STOP_MS_MAX));
    }
}

fn keep(stage: &mut Stage<'_>, binary: &Path) {
    let pair = stage.pair;
    let binary = binary.display();
    // A shell outside has to enter the user namespace as well.
    let user = if std::env::var_os("STAFFETTA_LAB_INSIDE").is_some() {
        "--user --preserve-credentials "
    } else {
        ""
    };
    let mut text = String::from("\nThe pair goes on running. In another terminal:\n");
    for node in Node::BOTH {
        let config = pair.config(node);
        text.push_str(&format!("  {binary} status --config {}\n", config.display()));
    }
    let config = pair.config(Node::A);
    text.push_str(&format!("  {binary} switchover --config {}\n", config.display()));
    for node in Node::BOTH {
        if let Some(pid) = pair.lab().node(node).pids().first() {
            let name = node.name();
            text.push_str(&format!(
                "  nsenter --target {pid} {user}--net ip address   # the network of {name}\n  \
                 kill -9 {pid}   # ends {name}\n"
            ));
        }
    }
    text.push_str("Ctrl-C here ends both and cleans up.");
    stage.view.plain(&text);
    interrupt::wait();
}
