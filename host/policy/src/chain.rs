//! The fallback chain: the site's policy, the last good one and the built-in one answer the same
//! question inside one deadline. Only if all three fail does the host's own safe verdict stand.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use staffetta_sdk::{Context, Wall};

use crate::kind::Subject;
use crate::limits::{Budget, Note};
use crate::policy::{Decision, Failure, Policy};

/// Crashes after which a policy is not asked any more.
pub const CRASHES_MAX: usize = 3;
/// The time within which they count.
pub const CRASH_WINDOW: Duration = Duration::from_secs(600);

/// Who gave a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Speaker {
    /// The site's policy.
    Site,
    /// The one before it, which had answered.
    LastGood,
    /// The one in this binary.
    BuiltIn,
    /// Nobody: the host's safe verdict stands.
    Host,
}

/// A policy that was asked and gave no verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Attempt {
    /// Its place in the chain.
    pub speaker: Speaker,
    /// Which policy it was.
    pub digest: String,
    /// Why it gave none.
    pub failure: Failure,
}

/// What the chain says.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Answer<Verdict> {
    /// `None`: the host's safe verdict stands.
    pub verdict: Option<Verdict>,
    /// Whose verdict it is.
    pub spoke: Speaker,
    /// Which policy gave it.
    pub digest: Option<String>,
    /// The context that it was given. With the situation, it replays.
    pub context: Option<Context>,
    /// Those that were asked before, in order.
    pub attempts: Vec<Attempt>,
    /// Fuel burnt by all of them.
    pub fuel: u64,
    /// CPU time of all of them.
    pub cpu_us: u64,
    /// Time that passed.
    pub wall_us: u64,
    /// What they logged.
    pub notes: Vec<Note>,
}

/// A place in the chain.
#[derive(Debug)]
struct Seat {
    policy: Arc<Policy>,
    /// When it crashed lately.
    crashes: Vec<Duration>,
    quarantined: bool,
    /// Whether it ever gave a verdict.
    good: bool,
}

impl Seat {
    fn new(policy: Arc<Policy>) -> Self {
        Self { policy, crashes: Vec::new(), quarantined: false, good: false }
    }

    fn crashed(&mut self, now: Duration) {
        self.crashes.retain(|crash| now.saturating_sub(*crash) < CRASH_WINDOW);
        self.crashes.push(now);
        self.quarantined |= self.crashes.len() >= CRASHES_MAX;
    }
}

/// The policies of one kind, in the order in which they are asked.
#[derive(Debug)]
pub struct Chain<S> {
    site: Option<Seat>,
    last_good: Option<Seat>,
    built_in: Seat,
    memories: BTreeMap<String, String>,
    kind: PhantomData<fn(S)>,
}

impl<S: Subject> Chain<S> {
    /// A chain of the built-in policy alone, which carries its own settings.
    ///
    /// # Panics
    ///
    /// When the policy is of another kind.
    pub fn new(built_in: Arc<Policy>) -> Self {
        assert_eq!(built_in.kind(), S::KIND, "a chain holds policies of one kind");
        Self {
            site: None,
            last_good: None,
            built_in: Seat::new(built_in),
            memories: BTreeMap::new(),
            kind: PhantomData,
        }
    }

    /// Puts a policy of the site in force. The one before stays as the last good one if it ever
    /// answered.
    ///
    /// # Panics
    ///
    /// When the policy is of another kind.
    pub fn swap(&mut self, policy: Arc<Policy>) {
        assert_eq!(policy.kind(), S::KIND, "a chain holds policies of one kind");
        let before = self.site.replace(Seat::new(policy));
        if let Some(before) = before.filter(|seat| seat.good && !seat.quarantined) {
            self.last_good = Some(before);
        }
    }

    /// Takes the site's policy out of force; the last good one, or else the built-in one, is in
    /// force again. Returns the one taken out.
    pub fn rollback(&mut self) -> Option<Arc<Policy>> {
        let out = self.site.take();
        self.site = self.last_good.take();
        out.map(|seat| seat.policy)
    }

    /// The policy in force, and its place.
    pub fn in_force(&self) -> (Speaker, &Arc<Policy>) {
        let seats =
            [(Speaker::Site, self.site.as_ref()), (Speaker::LastGood, self.last_good.as_ref())];
        let usable = seats.into_iter().find_map(|(speaker, seat)| {
            seat.filter(|seat| !seat.quarantined).map(|seat| (speaker, &seat.policy))
        });
        usable.unwrap_or((Speaker::BuiltIn, &self.built_in.policy))
    }

    /// Whether the site's policy crashed so often that it is not asked until it is loaded again.
    pub fn quarantined(&self) -> bool {
        self.site.as_ref().is_some_and(|seat| seat.quarantined)
    }

    /// The policies and their places.
    pub fn policies(&self) -> Vec<(Speaker, Arc<Policy>)> {
        let seats = [
            (Speaker::Site, self.site.as_ref()),
            (Speaker::LastGood, self.last_good.as_ref()),
            (Speaker::BuiltIn, Some(&self.built_in)),
        ];
        let policy = |(speaker, seat): (Speaker, Option<&Seat>)| {
            seat.map(|seat| (speaker, Arc::clone(&seat.policy)))
        };
        seats.into_iter().filter_map(policy).collect()
    }

    /// What the policies remember on this node, by digest. To be kept over restarts.
    pub fn memories(&self) -> &BTreeMap<String, String> {
        &self.memories
    }

    /// Brings back what the policies remembered.
    pub fn remember(&mut self, memories: BTreeMap<String, String>) {
        self.memories = memories;
    }

    /// Asks one policy after the other, until one gives a verdict or the deadline comes.
    ///
    /// `now` is the time since any fixed moment, for the counting of crashes.
    pub fn decide(
        &mut self,
        situation: &S,
        wall: &Wall,
        now: Duration,
        deadline: Instant,
    ) -> Answer<S::Verdict> {
        let mut answer = Answer {
            verdict: None,
            spoke: Speaker::Host,
            digest: None,
            context: None,
            attempts: Vec::new(),
            fuel: 0,
            cpu_us: 0,
            wall_us: 0,
            notes: Vec::new(),
        };
        let began = Instant::now();
        let Self { site, last_good, built_in, memories, kind: _ } = self;
        let mut seats: Vec<(Speaker, &mut Seat)> = Vec::with_capacity(3);
        seats.extend(site.as_mut().map(|seat| (Speaker::Site, seat)));
        seats.extend(last_good.as_mut().map(|seat| (Speaker::LastGood, seat)));
        seats.push((Speaker::BuiltIn, built_in));
        seats.retain(|(speaker, seat)| *speaker == Speaker::BuiltIn || !seat.quarantined);
        let count = seats.len();
        for (index, (speaker, seat)) in seats.into_iter().enumerate() {
            let slice_ms = slice_ms(deadline, count - index);
            let digest = seat.policy.digest().to_string();
            let context = Context {
                settings: seat.policy.settings().to_string(),
                memory: memories.get(&digest).cloned(),
                wall: wall.clone(),
            };
            let budget = Budget { wall_ms: slice_ms, ..S::KIND.budget() };
            let decision = ask(seat, situation, &context, budget, now);
            answer.fuel += decision.fuel;
            answer.cpu_us += decision.cpu_us;
            answer.notes.extend(decision.notes);
            match decision.outcome {
                Ok(verdict) => {
                    if let Some(memory) = S::memory(&verdict) {
                        memories.insert(digest.clone(), memory.clone());
                    }
                    answer.verdict = Some(verdict);
                    answer.spoke = speaker;
                    answer.digest = Some(digest);
                    answer.context = Some(context);
                    break;
                }
                Err(failure) => answer.attempts.push(Attempt { speaker, digest, failure }),
            }
        }
        answer.wall_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        answer
    }
}

/// Half of the time that is left for all but the last, which gets the rest.
fn slice_ms(deadline: Instant, left: usize) -> u32 {
    let rest = deadline.saturating_duration_since(Instant::now());
    let share = if left > 1 { rest / 2 } else { rest };
    u32::try_from(share.as_millis()).unwrap_or(u32::MAX)
}

fn ask<S: Subject>(
    seat: &mut Seat,
    situation: &S,
    context: &Context,
    budget: Budget,
    now: Duration,
) -> Decision<S::Verdict> {
    if budget.wall_ms == 0 {
        let outcome = Err(Failure::Deadline(0));
        return Decision { outcome, fuel: 0, cpu_us: 0, wall_us: 0, notes: Vec::new() };
    }
    let decision = seat.policy.decide(situation, context, budget);
    match &decision.outcome {
        Ok(_) => seat.good = true,
        Err(failure) => {
            // Late because it computed all the time, not because the machine was busy.
            let busy = decision.cpu_us >= u64::from(budget.wall_ms) * 500;
            let late = matches!(failure, Failure::Deadline(_)) && busy;
            if failure.is_crash() || late {
                seat.crashed(now);
            }
        }
    }
    decision
}
