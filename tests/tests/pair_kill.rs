//! kill -9 at points of a takeover that nobody chose: the standby while it takes over, the old
//! primary while it comes back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use staffetta_lab::{Node, Pair, PairOptions};
use staffetta_tests::{NO_GAP_MS, Scene, single, world};

/// Time between two points, in milliseconds; each is moved by up to half of it, by the seed.
const STEP_MS: u64 = 35;
/// How long a pair may take to serve again once both daemons were started, or one under an arbiter.
const SERVED_MS_MAX: u64 = 6_000;
const SETTLE_MS_MAX: u64 = 20_000;
/// How long a single state is watched.
const LINGER_MS: u64 = 300;
fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Points in time, the same for the same seed; the seed is printed.
struct Points {
    state: u64,
}

impl Points {
    fn new() -> Points {
        let given = std::env::var("STAFFETTA_SEED").ok().and_then(|text| text.parse().ok());
        let now = std::time::UNIX_EPOCH.elapsed().map_or(1, |age| age.subsec_nanos().into());
        let seed: u64 = given.unwrap_or(now);
        println!("seed {seed} (STAFFETTA_SEED={seed} plays the same points)");
        Points { state: seed | 1 }
    }

    /// The `at`th point, in milliseconds.
    fn ms(&mut self, at: u64) -> u64 {
        // Marsaglia's xorshift64.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        at * STEP_MS + self.state % STEP_MS
    }
}

/// Waits for an answer newer than `since`, of anybody.
fn served(pair: &Pair, since: Instant) -> Result<Node> {
    let end = Instant::now() + ms(SERVED_MS_MAX);
    while Instant::now() < end {
        if let Some(answer) = pair.probe().answers().last().filter(|answer| answer.at > since) {
            return Ok(answer.node);
        }
        std::thread::sleep(ms(2));
    }
    anyhow::bail!("nobody serves within {SERVED_MS_MAX} ms; {}", pair.statuses().line())
}

/// Kills the primary and, `after_ms` later, its standby, which is started at once; `with_primary`
/// starts the old primary as well. Returns how long the client was without answers.
fn kill_both(scene: &mut Scene, after_ms: u64, with_primary: bool) -> Result<u64> {
    scene.ready()?;
    let (pair, node) = (scene.pair(), scene.primary());
    let fault = Instant::now();
    pair.lab().node(node).kill9();
    std::thread::sleep(ms(after_ms).saturating_sub(fault.elapsed()));
    pair.lab().node(node.peer()).kill9();
    // What the killed node was asked is answered by its kernel until the gate closes.
    let started = Instant::now();
    pair.start(node.peer())?;
    if with_primary {
        pair.start(node)?;
    }
    std::thread::sleep(ms(400));
    served(pair, started + ms(400))?;
    std::thread::sleep(ms(LINGER_MS));
    if !with_primary {
        pair.start(node)?;
    }
    pair.settle(ms(SETTLE_MS_MAX))?;
    single(pair, fault)?;
    let silence = pair.probe().answers().longest_silence(fault, Instant::now());
    Ok(u64::try_from(silence.as_millis()).unwrap_or(u64::MAX))
}

fn rounds(
    scene: &mut Scene,
    seeded: &mut Points,
    points: impl IntoIterator<Item = u64>,
    round: fn(&mut Scene, u64) -> Result<u64>,
) -> Result<()> {
    for at in points {
        let point = seeded.ms(at);
        let silence = round(scene, point).map_err(|error| {
            scene.told(error.context(format!("killed for the second time after {point} ms")))
        })?;
        println!("killed again after {point:3} ms: silent for {silence} ms, never two answers");
    }
    Ok(())
}

/// Kills the primary, and then kills it again and again while it comes back. Returns the longest
/// silence after the takeover.
fn kill_again(scene: &mut Scene, after_ms: u64) -> Result<u64> {
    scene.ready()?;
    let (pair, node) = (scene.pair(), scene.primary());
    pair.lab().node(node).kill9();
    let killed = Instant::now();
    pair.wait("the standby takes over", ms(SETTLE_MS_MAX), |statuses| {
        statuses.of(node.peer())?.holds_all().then_some(())
    })?;
    let taken = Instant::now();
    for _ in 0..2 {
        pair.start(node)?;
        std::thread::sleep(ms(after_ms));
        pair.lab().node(node).kill9();
    }
    pair.start(node)?;
    let primary = pair.settle(ms(SETTLE_MS_MAX))?;
    ensure!(primary == node.peer(), "the service went back to {}", primary.name());
    single(pair, killed)?;
    let silence = pair.probe().answers().longest_silence(taken, Instant::now());
    ensure!(silence < ms(NO_GAP_MS), "a gap of {silence:?} while it came back");
    Ok(u64::try_from(silence.as_millis()).unwrap_or(u64::MAX))
}

/// Promised: a node that dies at any point of its takeover leaves nothing behind by which two could
/// answer, and the pair serves again within seconds once both daemons were started again. The old
/// primary may die as often as it likes while it comes back: the new one goes on without a gap.
#[test]
fn nodes_killed_during_and_after_a_takeover() {
    world(|| {
        let scene = Scene::open(&PairOptions::default(), false, |_| Ok(()))?;
        let mut scene = scene.context("a pair without an arbiter is never skipped")?;
        let mut seeded = Points::new();
        rounds(&mut scene, &mut seeded, 0..12, |scene, point| kill_both(scene, point, true))?;
        println!("the old primary, while it comes back:");
        rounds(&mut scene, &mut seeded, [0, 3, 6, 9, 11], kill_again)
    });
}

/// Promised: under an arbiter the restarted standby needs nobody: it serves again while the old
/// primary is still away.
#[test]
fn the_standby_killed_while_it_takes_over_under_an_arbiter() {
    world(|| {
        let Some(mut scene) = Scene::open(&PairOptions::default(), true, |_| Ok(()))? else {
            return Ok(());
        };
        let mut seeded = Points::new();
        rounds(&mut scene, &mut seeded, [1, 7, 9, 11], |scene, point| {
            let silence = kill_both(scene, point, false)?;
            ensure!(silence < SERVED_MS_MAX, "silent for {silence} ms");
            Ok(silence)
        })
    });
}
