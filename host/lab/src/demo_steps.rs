//! The steps of the demo: what is done, who must serve afterwards, and what a phone may notice.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::demo::StepReport;
use crate::demo_view::View;
use crate::fault::Fault;
use crate::interrupt;
use crate::lab::Node;
use crate::pair::Pair;
use crate::status::{Decision, Role, Status, Statuses};

/// How long both may take to become a pair at the start.
const START_MS_MAX: u64 = 20_000;
/// How long a node may take to come back as standby.
const RETURN_MS_MAX: u64 = 15_000;
/// How long a healed node may be refused as the target of a switchover.
const READY_MS_MAX: u64 = 8_000;
/// An order that took longer had been refused at first.
const ORDER_MS_MAX: u64 = 1_000;
/// Time that every step is watched after its outcome.
const LINGER_MS: u64 = 600;
/// Time between two looks.
const LOOK_INTERVAL_MS: u64 = 10;

/// The pair on the stage and the one who tells.
pub(crate) struct Stage<'a> {
    pub(crate) pair: &'a Pair,
    pub(crate) view: View,
}

/// Who must serve after a step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Serves {
    /// The one that served before.
    Same,
    /// The other one.
    Other,
}

/// What is done to the node that serves when the step begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Kill,
    StartOther,
    Freeze,
    CutHeartbeat,
    CutNode,
    Switchover,
}

/// One step after the start.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    name: &'static str,
    act: Act,
    serves: Serves,
    /// How long the fault lasts at least.
    hold_ms: u64,
}

/// The steps after the start, in order.
pub(crate) const STEPS: &[Step] = &[
    Step { name: "kill -9", act: Act::Kill, serves: Serves::Other, hold_ms: 0 },
    Step { name: "restart", act: Act::StartOther, serves: Serves::Same, hold_ms: 0 },
    Step { name: "freeze", act: Act::Freeze, serves: Serves::Other, hold_ms: 3_000 },
    Step { name: "heartbeat cut", act: Act::CutHeartbeat, serves: Serves::Same, hold_ms: 1_500 },
    Step { name: "node cut", act: Act::CutNode, serves: Serves::Other, hold_ms: 3_000 },
    Step { name: "switchover", act: Act::Switchover, serves: Serves::Other, hold_ms: 0 },
];

impl Act {
    fn says(self, node: Node) -> String {
        let (name, peer) = (node.name(), node.peer().name());
        match self {
            Self::Kill => format!("kill -9 of {name}, which serves"),
            Self::StartOther => format!("{peer} is started again"),
            Self::Freeze => format!("{name}, which serves, is frozen (SIGSTOP)"),
            Self::CutHeartbeat => "the direct heartbeat link is cut; the LAN is left".to_owned(),
            Self::CutNode => format!("{name}, which serves, loses all its cables"),
            Self::Switchover => format!("staffetta switchover: {name} hands over by plan"),
        }
    }

    fn perform(self, pair: &Pair, node: Node) -> Result<()> {
        match self {
            Self::Kill => pair.lab().node(node).kill9(),
            Self::StartOther => drop(pair.start(node.peer())?),
            Self::Freeze => pair.lab().node(node).freeze(),
            Self::CutHeartbeat => pair.lab().fault(Fault::HeartbeatLink)?,
            Self::CutNode => pair.lab().fault(Fault::Cut(node))?,
            Self::Switchover => order_switchover(pair, node)?,
        }
        Ok(())
    }

    /// Ends the fault; says so, where there is one to end.
    fn undo(self, pair: &Pair, node: Node) -> Result<Option<String>> {
        match self {
            Self::Kill | Self::StartOther | Self::Switchover => Ok(None),
            Self::Freeze => {
                pair.lab().node(node).thaw();
                Ok(Some(format!("{} thaws", node.name())))
            }
            Self::CutHeartbeat => {
                pair.lab().heal()?;
                Ok(Some("the direct link is back".to_owned()))
            }
            Self::CutNode => {
                pair.lab().heal()?;
                Ok(Some(format!("the cables of {} are back", node.name())))
            }
        }
    }

    /// The longest silence that a phone may notice, in milliseconds.
    fn silence_ms_max(self, lease_ms: u64) -> u64 {
        match self {
            Self::Kill | Self::Freeze | Self::CutNode => 3 * lease_ms + 1_000,
            Self::Switchover => 1_000,
            Self::StartOther | Self::CutHeartbeat => lease_ms,
        }
    }

    /// Why nobody had to decide, for the table.
    fn undecided(self) -> &'static str {
        match self {
            Self::StartOther => "returns as standby: no policy had to be asked",
            Self::CutHeartbeat => "the other link carries the beats: no policy had to be asked",
            Self::Switchover => "an operator's wish: handed over under the lease",
            Self::Kill | Self::Freeze | Self::CutNode => "no decision was shown",
        }
    }
}

/// Orders the switchover, again while the pair refuses: a node whose cables are just back has to be
/// seen well for a while before it is trusted with the service.
fn order_switchover(pair: &Pair, node: Node) -> Result<()> {
    let end = Instant::now() + Duration::from_millis(READY_MS_MAX);
    loop {
        interrupt::check()?;
        let output = pair.command(node, &["switchover"])?;
        if output.status.success() {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("refused: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Starts both daemons and waits for the pair.
///
/// # Errors
/// When a daemon ends, or no pair forms: there is nothing to show then.
pub(crate) fn start(stage: &mut Stage<'_>) -> Result<(StepReport, Statuses)> {
    let pair = stage.pair;
    stage.view.step(1, "start");
    let t0 = Instant::now();
    for node in Node::BOTH {
        pair.start(node)?;
    }
    stage.view.event("both daemons are started, neither knows anything");
    let end = t0 + Duration::from_millis(START_MS_MAX);
    let (node, statuses) = loop {
        interrupt::check()?;
        let statuses = pair.statuses();
        if let Some(node) = statuses.settled() {
            break (node, statuses);
        }
        if let Some(dead) = Node::BOTH.into_iter().find(|node| !pair.lab().node(*node).is_running())
        {
            bail!("the daemon of {} ended at its start{}", dead.name(), pair.tails());
        }
        if Instant::now() > end {
            bail!("no pair after {START_MS_MAX} ms: {}{}", statuses.line(), pair.tails());
        }
        pause();
    };
    stage.view.event(&format!("{} serves, {} stands by", node.name(), node.peer().name()));
    stage.view.ground(&statuses);
    let reason = statuses.of(node).and_then(|status| newest(status, 0)).map_or_else(
        || "cold start: one of two equals, agreed between them".to_owned(),
        |decision| sentence(&decision),
    );
    let step = Watched { name: "start", done: "both started".to_owned(), t0, silence_ms_max: None };
    wait_answers(stage, node, t0, Duration::from_secs(3));
    linger();
    Ok((step.report(stage, Some(node), node, reason, Vec::new()), statuses))
}

/// Plays one step and reports what was seen.
///
/// # Errors
/// When the world itself fails; what the pair did wrong is in the report.
pub(crate) fn play(stage: &mut Stage<'_>, number: usize, step: &Step) -> Result<StepReport> {
    let pair = stage.pair;
    stage.view.step(number, step.name);
    let before = pair.statuses();
    let Some(node) = before.primary() else {
        bail!("no primary before the step {:?}: {}{}", step.name, before.line(), pair.tails());
    };
    let seen = Node::BOTH.map(|node| before.of(node).map_or(0, |status| status.last_decision()));
    let expected = match step.serves {
        Serves::Same => node,
        Serves::Other => node.peer(),
    };
    let lease_ms = pair.options().profile.lease_ms();
    let silence_ms_max = step.act.silence_ms_max(lease_ms);
    let done = step.act.says(node);
    let mut failures = Vec::new();

    stage.view.event(&done);
    let t0 = Instant::now();
    if let Err(error) = step.act.perform(pair, node) {
        failures.push(format!("{error:#}"));
    }
    if t0.elapsed() > Duration::from_millis(ORDER_MS_MAX) {
        stage.view.event("taken, once the node that came back had been seen well for a while");
    }
    let limit = Duration::from_millis(silence_ms_max + 2_000);
    let status = outcome(stage, expected, Instant::now(), limit, &mut failures)?;
    let silence = pair.probe().answers().longest_silence(t0, Instant::now()).as_millis();
    let verb = match step.serves {
        Serves::Same => "goes on serving",
        Serves::Other => "serves",
    };
    if failures.is_empty() {
        let name = expected.name();
        stage.view.event(&format!("{name} {verb}; longest silence {silence} ms"));
    }
    let reason = status.as_ref().and_then(|status| newest(status, seen[expected.index()]));
    if let Some(decision) = &reason {
        stage.view.because(&sentence(decision));
    }
    hold(t0 + Duration::from_millis(step.hold_ms.max(LINGER_MS)))?;
    if let Some(text) = step.act.undo(pair, node)? {
        stage.view.event(&text);
    }
    let served = if step.act == Act::Kill {
        status.filter(|status| status.role == Role::Primary).map(|_| expected)
    } else {
        settled(stage, expected, &mut failures)?
    };
    linger();
    let reason = reason.map_or_else(|| step.act.undecided().to_owned(), |d| sentence(&d));
    let watched = Watched { name: step.name, done, t0, silence_ms_max: Some(silence_ms_max) };
    Ok(watched.report(stage, served, expected, reason, failures))
}

/// Waits until the expected node answers and is primary; only it is asked, the other may be frozen.
fn outcome(
    stage: &Stage<'_>,
    expected: Node,
    since: Instant,
    limit: Duration,
    failures: &mut Vec<String>,
) -> Result<Option<Status>> {
    let pair = stage.pair;
    if !wait_answers(stage, expected, since, limit) {
        failures.push(format!(
            "{} did not answer within {} ms",
            expected.name(),
            limit.as_millis()
        ));
    }
    loop {
        interrupt::check()?;
        let status = pair.status(expected).ok();
        if status.as_ref().is_some_and(|status| status.role == Role::Primary) {
            return Ok(status);
        }
        if since.elapsed() > limit {
            failures.push(format!("{} is not primary", expected.name()));
            return Ok(status);
        }
        pause();
    }
}

/// Waits until the pair is whole again, with the expected primary.
fn settled(
    stage: &mut Stage<'_>,
    expected: Node,
    failures: &mut Vec<String>,
) -> Result<Option<Node>> {
    let begin = Instant::now();
    loop {
        interrupt::check()?;
        let statuses = stage.pair.statuses();
        if let Some(node) = statuses.settled() {
            let peer = node.peer().name();
            stage.view.event(&format!("a pair again: {} serves, {peer} stands by", node.name()));
            if node != expected {
                failures.push(format!("{} serves, expected {}", node.name(), expected.name()));
            }
            return Ok(Some(node));
        }
        if begin.elapsed() > Duration::from_millis(RETURN_MS_MAX) {
            failures.push(format!("no pair again after {RETURN_MS_MAX} ms ({})", statuses.line()));
            return Ok(statuses.primary());
        }
        pause();
    }
}

/// Waits for an answer of `node` to the probe, newer than `t0`.
fn wait_answers(stage: &Stage<'_>, node: Node, t0: Instant, limit: Duration) -> bool {
    let answers = stage.pair.probe().answers();
    while t0.elapsed() < limit {
        if answers.last().is_some_and(|answer| answer.node == node && answer.at > t0) {
            return true;
        }
        pause();
    }
    false
}

/// What a step was, for its report.
struct Watched {
    name: &'static str,
    done: String,
    t0: Instant,
    silence_ms_max: Option<u64>,
}

impl Watched {
    fn report(
        self,
        stage: &mut Stage<'_>,
        served: Option<Node>,
        expected: Node,
        reason: String,
        mut failures: Vec<String>,
    ) -> StepReport {
        let pair = stage.pair;
        let now = Instant::now();
        let silence = pair.probe().answers().longest_silence(self.t0, now);
        let silence_ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
        let two_answers_ms = pair.wire().tally(self.t0, now).dual_ms();
        let answers = pair.sip().options().count(self.t0, now);
        if let Some(max) = self.silence_ms_max.filter(|max| silence_ms > *max) {
            failures.push(format!("silent for {silence_ms} ms, at most {max} ms are allowed"));
        }
        if two_answers_ms > 0 {
            let at = pair.wire().dual_at_ms(self.t0, now);
            let (first, last) = (at.first().unwrap_or(&0), at.last().unwrap_or(&0));
            failures.push(format!(
                "both nodes answered for {two_answers_ms} ms, between {first} and {last} ms"
            ));
        }
        if served != Some(expected) {
            let served = served.map_or("nobody", Node::name);
            failures.push(format!("{served} serves at the end, expected {}", expected.name()));
        }
        if answers[expected.index()] == 0 {
            failures.push(format!("the phone got no answer from {}", expected.name()));
        }
        failures.dedup();
        stage.view.strip(pair.sip().options(), self.t0, now);
        for failure in &failures {
            stage.view.failure(failure);
        }
        StepReport {
            name: self.name,
            done: self.done,
            silence_ms,
            answers_na: answers[0],
            answers_nb: answers[1],
            two_answers_ms,
            served_by: served.map_or("nobody", Node::name).to_owned(),
            reason,
            failures,
        }
    }
}

/// The newest answer of a failover policy since `seen` that was more than to wait.
fn newest(status: &Status, seen: u64) -> Option<Decision> {
    const QUESTIONS: [&str; 5] = ["start", "peer-silent", "go-on-alone", "review", "switchover"];
    let newer = status.decisions.iter().filter(|decision| decision.id > seen);
    let failover = newer.filter(|decision| QUESTIONS.contains(&decision.question.as_str()));
    failover
        .filter(|decision| decision.intent != "hold")
        .max_by_key(|decision| decision.id)
        .cloned()
}

fn sentence(decision: &Decision) -> String {
    let Decision { question, intent, reason, spoke, .. } = decision;
    let cpu = decision.cpu_us.map(|us| format!(", {us} µs")).unwrap_or_default();
    format!("{question}: {intent}, \"{reason}\" ({spoke}{cpu})")
}

fn hold(until: Instant) -> Result<()> {
    while Instant::now() < until {
        interrupt::check()?;
        pause();
    }
    Ok(())
}

fn linger() {
    std::thread::sleep(Duration::from_millis(LINGER_MS));
}

fn pause() {
    std::thread::sleep(Duration::from_millis(LOOK_INTERVAL_MS));
}
