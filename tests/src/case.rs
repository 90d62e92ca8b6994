//! A fault as data: what is done, who serves then, and what the promise allows.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use staffetta_lab::{Node, Pair, PairOptions, Profile, realtime_allowed};

use crate::arbiter::ArbiterSeat;
use crate::world::binary;

/// How long the first pair, or the one after the fault, may take to form.
const SETTLE_MS_MAX: u64 = 20_000;
/// How long every state is watched after it was reached.
const LINGER_MS: u64 = 500;
/// The lease that the bounds of a [`Case`] are written for, in milliseconds.
const LEASE_MS: u64 = 300;

/// Who answers on the service address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// The node that served before the fault.
    Same,
    /// The other one.
    Other,
    /// One of them.
    Any,
    /// None.
    Nobody,
}

type Deed = fn(&Pair, Node) -> Result<()>;

/// What happens to the arbiter while the fault lasts.
#[derive(Clone, Copy)]
pub struct ArbiterDeeds {
    /// Just before the fault.
    pub act: fn(&ArbiterSeat, &Pair) -> Result<()>,
    /// Just before the fault ends.
    pub undo: fn(&ArbiterSeat, &Pair) -> Result<()>,
}

impl Default for ArbiterDeeds {
    fn default() -> Self {
        Self { act: |_, _| Ok(()), undo: |_, _| Ok(()) }
    }
}

/// One fault and what must come of it. `act`, `look` and `undo` get the node that served before.
pub struct Case {
    /// What the pair is like.
    pub options: PairOptions,
    /// What is done to the world before the daemons start.
    pub prepare: fn(&Pair) -> Result<()>,
    /// An arbiter, and what happens to it.
    pub arbiter: Option<ArbiterDeeds>,
    /// What goes wrong.
    pub act: Deed,
    /// Who serves then.
    pub during: Serves,
    /// How long the fault lasts, in milliseconds.
    pub hold_ms: u64,
    /// What else must be true just before it ends.
    pub look: Deed,
    /// What ends it.
    pub undo: Deed,
    /// Who serves once the pair is whole again; none when it does not become whole.
    pub after: Option<Serves>,
    /// The longest silence from the fault to the end, in milliseconds at a lease of 300 ms.
    pub silence_ms_max: u64,
    /// Whether two answers are allowed while the fault lasts (a full partition without an arbiter).
    pub dual_allowed: bool,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            options: PairOptions::default(),
            prepare: |_| Ok(()),
            arbiter: None,
            act: |_, _| Ok(()),
            during: Serves::Other,
            hold_ms: 1_000,
            look: |_, _| Ok(()),
            undo: |_, _| Ok(()),
            after: Some(Serves::Other),
            silence_ms_max: 2_000,
            dual_allowed: false,
        }
    }
}

/// A pair that has formed, with its arbiter where there is one.
pub struct Scene {
    // Dropped in this order.
    arbiter: Option<ArbiterSeat>,
    pair: Pair,
    primary: Node,
}

impl Scene {
    /// Starts a pair and waits until it serves; none where an arbiter is wanted and cannot be had,
    /// which is said.
    ///
    /// # Errors
    /// When the pair does not form, with the last lines of both logs.
    pub fn open(
        options: &PairOptions,
        arbiter: bool,
        prepare: fn(&Pair) -> Result<()>,
    ) -> Result<Option<Scene>> {
        let profile = if realtime_allowed() { Profile::Fast } else { Profile::Default };
        if let Some(why) = ArbiterSeat::missing().filter(|_| arbiter) {
            println!("SKIPPED: {why}");
            return Ok(None);
        }
        let endpoint = arbiter.then(ArbiterSeat::endpoint);
        let pair =
            Pair::new(&binary(), PairOptions { profile, arbiter: endpoint, ..options.clone() })?;
        prepare(&pair)?;
        let seat = arbiter.then(|| ArbiterSeat::start(pair.lab())).transpose()?;
        let mut scene = Scene { arbiter: seat, pair, primary: Node::A };
        scene.form().map_err(|error| scene.told(error))?;
        Ok(Some(scene))
    }

    fn form(&mut self) -> Result<()> {
        let pair = &self.pair;
        for node in Node::BOTH {
            pair.start(node)?;
        }
        self.primary = pair.settle(ms(SETTLE_MS_MAX))?;
        wait_served(pair, Instant::now(), Serves::Same, self.primary, ms(SETTLE_MS_MAX))?;
        std::thread::sleep(ms(LINGER_MS));
        if self.arbiter.is_some() { arbitrated(pair) } else { Ok(()) }
    }

    /// Waits until the pair is whole, and notes who serves.
    ///
    /// # Errors
    /// When it does not become whole in time.
    pub fn ready(&mut self) -> Result<()> {
        self.primary = self.pair.settle(ms(SETTLE_MS_MAX))?;
        if self.arbiter.is_some() { arbitrated(&self.pair) } else { Ok(()) }
    }

    /// Plays one named case after the other; each begins with the pair whole, and its "before" is
    /// the node that serves then.
    ///
    /// # Errors
    /// As [`check`], with the name of the case.
    pub fn play_each(&mut self, cases: &[(&str, Case)]) -> Result<()> {
        for (name, case) in cases {
            print!("{name}: ");
            let outcome = self.ready().and_then(|()| play(self, case));
            outcome.map_err(|error| self.told(error).context((*name).to_owned()))?;
        }
        Ok(())
    }

    /// The arbiter, where there is one.
    #[must_use]
    pub fn arbiter(&self) -> Option<&ArbiterSeat> {
        self.arbiter.as_ref()
    }

    /// The pair.
    #[must_use]
    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    /// The node that served when the pair was last known to be whole.
    #[must_use]
    pub fn primary(&self) -> Node {
        self.primary
    }

    /// The error with the last lines of both logs.
    #[must_use]
    pub fn told(&self, error: anyhow::Error) -> anyhow::Error {
        error.context(format!("the pair said{}", self.pair.tails()))
    }
}

/// Waits until both nodes say that they are under the arbiter.
///
/// # Errors
/// When they do not say so in time.
pub fn arbitrated(pair: &Pair) -> Result<()> {
    pair.wait("both under the arbiter", ms(SETTLE_MS_MAX), |statuses| {
        let level = |node: &Node| Some(statuses.of(*node)?.level.name == "arbitrated");
        Node::BOTH.iter().all(|node| level(node) == Some(true)).then_some(())
    })
}

/// Starts a pair, plays the case, and checks it.
///
/// # Errors
/// With the first thing that is not as the case says, and the last lines of both logs.
pub fn check(case: Case) -> Result<()> {
    match Scene::open(&case.options, case.arbiter.is_some(), case.prepare)? {
        None => Ok(()),
        Some(scene) => play(&scene, &case).map_err(|error| scene.told(error)),
    }
}

/// Starts one pair, as the first case wants it, and plays one named case after the other: see
/// [`Scene::play_each`].
///
/// # Errors
/// As [`check`], with the name of the case.
pub fn check_each(cases: &[(&str, Case)]) -> Result<()> {
    let Some((_, first)) = cases.first() else { return Ok(()) };
    match Scene::open(&first.options, first.arbiter.is_some(), first.prepare)? {
        None => Ok(()),
        Some(mut scene) => scene.play_each(cases),
    }
}

fn play(scene: &Scene, case: &Case) -> Result<()> {
    let Scene { arbiter, pair, primary } = scene;
    let node = *primary;
    let arbiter = arbiter.as_ref().zip(case.arbiter);
    let fault = Instant::now();
    if let Some((seat, deeds)) = &arbiter {
        (deeds.act)(seat, pair)?;
    }
    (case.act)(pair, node)?;
    let silence_max = ms(case.silence_ms_max + 3 * (pair.options().profile.lease_ms() - LEASE_MS));
    wait_served(pair, fault, case.during, node, silence_max + ms(1_000))?;
    let lasted = ms(case.hold_ms).saturating_sub(fault.elapsed());
    std::thread::sleep(lasted.max(ms(LINGER_MS)));
    if !case.dual_allowed {
        still_served(pair, case.during, node)?;
    }
    (case.look)(pair, node)?;

    let healed = Instant::now();
    if let Some((seat, deeds)) = &arbiter {
        (deeds.undo)(seat, pair)?;
    }
    (case.undo)(pair, node)?;
    if let Some(after) = case.after {
        let primary = pair.settle(ms(SETTLE_MS_MAX))?;
        ensure!(fits(after, primary, node), "{} serves, expected {after:?}", primary.name());
        wait_served(pair, healed, after, node, silence_max + ms(1_000))?;
        std::thread::sleep(ms(LINGER_MS));
    }
    let answers = pair.probe().answers();
    let silence = answers.longest_silence(fault, Instant::now());
    println!(
        "measured: silent for {} ms at most, both answered for {} ms",
        silence.as_millis(),
        pair.wire().tally(fault, Instant::now()).dual_ms()
    );
    let dual_from = if case.dual_allowed { healed + silence_max } else { fault };
    single(pair, dual_from)?;
    if case.during != Serves::Nobody {
        ensure!(silence <= silence_max, "silent for {silence:?}, at most {silence_max:?} allowed");
    }
    Ok(())
}

/// Nobody else answered since `from`.
///
/// # Errors
/// When both nodes answered, with the time between the first and the last such moment.
pub fn single(pair: &Pair, from: Instant) -> Result<()> {
    let now = Instant::now();
    let tally = pair.wire().tally(from, now);
    let at = pair.wire().dual_at_ms(from, now);
    let (first, last) = (at.first().unwrap_or(&0), at.last().unwrap_or(&0));
    ensure!(tally.dual_ms() == 0, "both answered, between {first} and {last} ms: {tally:?}");
    Ok(())
}

/// Waits for an answer, newer than `since`, of whom it should come from.
fn wait_served(
    pair: &Pair,
    since: Instant,
    wanted: Serves,
    before: Node,
    limit: Duration,
) -> Result<()> {
    let answers = pair.probe().answers();
    let end = Instant::now() + limit;
    while Instant::now() < end {
        let served = answers.last().filter(|answer| answer.at > since);
        if wanted == Serves::Nobody
            || served.is_some_and(|answer| fits(wanted, answer.node, before))
        {
            return Ok(());
        }
        std::thread::sleep(ms(5));
    }
    let last = answers.last().map(|answer| answer.node.name());
    bail!(
        "expected {wanted:?} within {limit:?}; last answer by {last:?}; {}",
        pair.statuses().line()
    )
}

/// The answers of the last moment come from whom they should.
fn still_served(pair: &Pair, wanted: Serves, before: Node) -> Result<()> {
    let now = Instant::now();
    let count = pair.probe().answers().count(now - ms(LINGER_MS / 2), now);
    let good = match wanted {
        Serves::Nobody => count == [0, 0],
        Serves::Same => count[before.index()] > 0 && count[before.peer().index()] == 0,
        Serves::Other => count[before.index()] == 0 && count[before.peer().index()] > 0,
        Serves::Any => (count[0] > 0) != (count[1] > 0),
    };
    ensure!(good, "expected {wanted:?} of {}, answers {count:?}", before.name());
    Ok(())
}

fn fits(wanted: Serves, node: Node, before: Node) -> bool {
    match wanted {
        Serves::Same => node == before,
        Serves::Other => node != before,
        Serves::Any => true,
        Serves::Nobody => false,
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
