//! What policies see beside the core's own observations: service checks, references, facts of the
//! site, the service network, the license.
//!
//! One store behind one lock, held for a copy only. Everything in it has an age.

mod checks;
mod facts;
mod program;
mod references;

use crate::config::FactConfig;
use crate::link::{CheckReport, FactReport, Health, TargetReport};
use staffetta_policy::types::{Standing, Value};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

pub(crate) use checks::run_checks;
pub(crate) use facts::run_facts;
pub(crate) use references::run_references;

/// A fact is known for this many intervals without a new value, and never for less than that time.
const RUNS_KEPT: u32 = 3;
const KEPT_MIN: Duration = Duration::from_secs(10);

/// State of one check.
#[derive(Debug, Clone)]
pub(crate) struct CheckState {
    pub name: String,
    pub health: Health,
    pub since: Instant,
    pub at: Instant,
    pub why: String,
}

/// State of one reference.
#[derive(Debug, Clone)]
pub(crate) struct TargetState {
    pub name: String,
    pub reachable: Option<bool>,
    pub at: Instant,
}

/// State of one fact.
#[derive(Debug, Clone)]
struct FactState {
    name: String,
    /// A value that is as old is no longer known.
    keep: Duration,
    /// The newest value, and when the program that printed it was started.
    found: Option<(Value, Instant)>,
    /// The value after the last run; none while it was not known.
    told: Option<Value>,
    /// Why the last run found nothing.
    why: String,
    /// When anybody began to look.
    since: Instant,
}

impl FactState {
    /// The value and its age, while it is known.
    fn known(&self, now: Instant) -> Option<(&Value, Duration)> {
        let (value, at) = self.found.as_ref()?;
        let age = now.saturating_duration_since(*at);
        (age < self.keep).then_some((value, age))
    }

    /// Notes what is known now; true when policies should be asked about the difference.
    fn look(&mut self) -> bool {
        let known = self.known(Instant::now()).map(|(value, _)| value.clone());
        let before = std::mem::replace(&mut self.told, known);
        match (&before, &self.told) {
            (Some(Value::Flag(before)), Some(Value::Flag(now))) => before != now,
            (before, now) => before.is_some() != now.is_some(),
        }
    }

    fn report(&self, now: Instant) -> Option<FactReport> {
        let (value, age) = self.known(now)?;
        let report = FactReport {
            name: self.name.clone(),
            age_ms: ms(age),
            valid_ms: ms(self.keep - age),
            ..FactReport::default()
        };
        Some(match value {
            Value::Flag(flag) => FactReport { flag: Some(*flag), ..report },
            Value::Number(number) => FactReport { number: Some(*number), ..report },
            Value::Text(text) => FactReport { text: Some(text.clone()), ..report },
        })
    }
}

#[derive(Debug, Default)]
struct Store {
    checks: Vec<CheckState>,
    targets: Vec<TargetState>,
    facts: Vec<FactState>,
    down: Vec<String>,
    license: Standing,
}

/// The store; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Evidence {
    store: Arc<Mutex<Store>>,
}

/// A copy of the store, aged.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub checks: Vec<CheckReport>,
    pub targets: Vec<TargetReport>,
    pub facts: Vec<FactReport>,
    pub service_network: Health,
    pub services: Health,
    pub license: Standing,
}

impl Evidence {
    /// What is to be found: the names of the checks and the references, and the facts.
    pub(crate) fn new(checks: &[String], targets: &[String], facts: &[FactConfig]) -> Evidence {
        let now = Instant::now();
        let evidence = Evidence::default();
        {
            let mut store = evidence.lock();
            store.checks = checks
                .iter()
                .map(|name| CheckState {
                    name: name.clone(),
                    health: Health::Unknown,
                    since: now,
                    at: now,
                    why: "not tried yet".into(),
                })
                .collect();
            store.targets = targets
                .iter()
                .map(|name| TargetState { name: name.clone(), reachable: None, at: now })
                .collect();
            store.facts = facts
                .iter()
                .map(|fact| FactState {
                    name: fact.name.clone(),
                    keep: (fact.interval * RUNS_KEPT).max(KEPT_MIN),
                    found: None,
                    told: None,
                    why: "its program is not done yet".into(),
                    since: now,
                })
                .collect();
        }
        evidence
    }

    /// True when the health changed.
    pub(crate) fn check(&self, index: usize, health: Health, why: String) -> bool {
        let mut store = self.lock();
        let check = &mut store.checks[index];
        check.at = Instant::now();
        check.why = why;
        let changed = check.health != health;
        if changed {
            check.health = health;
            check.since = check.at;
        }
        changed
    }

    /// True when the reachability changed.
    pub(crate) fn target(&self, index: usize, reachable: bool) -> bool {
        let mut store = self.lock();
        let target = &mut store.targets[index];
        target.at = Instant::now();
        let changed = target.reachable != Some(reachable);
        target.reachable = Some(reachable);
        changed
    }

    /// What a program printed that was started at `began`. True when policies should be asked: the
    /// fact became known or unknown, or a flag changed. Without a new value the old one stays, and
    /// ages.
    pub(crate) fn fact(&self, index: usize, began: Instant, found: Result<Value, String>) -> bool {
        let fact = &mut self.lock().facts[index];
        match found {
            Ok(value) => fact.found = Some((value, began)),
            Err(why) => fact.why = why,
        }
        fact.look()
    }

    /// When the fact will no longer be known; none while it is not known.
    pub(crate) fn fact_ends(&self, index: usize) -> Option<Instant> {
        let fact = &self.lock().facts[index];
        fact.told.as_ref().and(fact.found.as_ref()).map(|(_, at)| *at + fact.keep)
    }

    /// True when the fact is no longer known by now, and was.
    pub(crate) fn fact_ended(&self, index: usize) -> bool {
        self.lock().facts[index].look()
    }

    /// True when the service network changed.
    pub(crate) fn interface(&self, name: &str, up: bool) -> bool {
        let mut store = self.lock();
        let was_down = store.down.iter().any(|down| down == name);
        store.down.retain(|down| down != name);
        if !up {
            store.down.push(name.to_owned());
        }
        was_down == up
    }

    /// The standing of this node's license; evidence only, never a reason against a takeover.
    pub(crate) fn license(&self, standing: Standing) {
        self.lock().license = standing;
    }

    /// Checks that are not in order, with the reason, for alarms.
    pub(crate) fn failing(&self) -> Vec<(String, String)> {
        let store = self.lock();
        let failing = store.checks.iter().filter(|check| check.health == Health::Failed);
        failing.map(|check| (check.name.clone(), check.why.clone())).collect()
    }

    /// Facts that should be known by now and are not, with the reason, for alarms.
    pub(crate) fn unknown(&self) -> Vec<(String, String)> {
        let now = Instant::now();
        let store = self.lock();
        let unknown = store.facts.iter().filter(|fact| {
            let looked_for = now.saturating_duration_since(fact.since);
            looked_for >= fact.keep && fact.known(now).is_none()
        });
        unknown.map(|fact| (fact.name.clone(), fact.why.clone())).collect()
    }

    pub(crate) fn seen(&self) -> Seen {
        let now = Instant::now();
        let since = |at: Instant| ms(now.saturating_duration_since(at));
        let store = self.lock();
        let checks: Vec<CheckReport> = store
            .checks
            .iter()
            .map(|check| CheckReport {
                name: check.name.clone(),
                health: check.health,
                since_ms: since(check.since),
                age_ms: since(check.at),
            })
            .collect();
        Seen {
            services: worst(&checks),
            checks,
            targets: store
                .targets
                .iter()
                .map(|target| TargetReport {
                    name: target.name.clone(),
                    reachable: target.reachable,
                    age_ms: since(target.at),
                })
                .collect(),
            facts: store.facts.iter().filter_map(|fact| fact.report(now)).collect(),
            service_network: if store.down.is_empty() { Health::Ok } else { Health::Failed },
            license: store.license,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().expect("no holder panics")
    }
}

fn ms(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// No checks: unknown. One failed: failed.
fn worst(checks: &[CheckReport]) -> Health {
    let has = |health| checks.iter().any(|check| check.health == health);
    if has(Health::Failed) {
        Health::Failed
    } else if has(Health::Degraded) {
        Health::Degraded
    } else if checks.is_empty() || has(Health::Unknown) {
        Health::Unknown
    } else {
        Health::Ok
    }
}
