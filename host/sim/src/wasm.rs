//! The policies as the daemon runs them: components in a sandbox, a fresh instance for every
//! decision, held to fuel. Time is held too, but so generously that no answer depends on it.

use crate::policies::{Policies, license_settings};
use staffetta_policy::{Budget, Compile, Engine, GateOptions, Kind, Limits, LoadError, Policy};
use staffetta_sdk::{Context, Wall, failover, license, split_brain};

/// Beyond the longest decision of a machine that does much else.
const WALL_MS: u32 = 60_000;

/// Components of all three kinds.
#[derive(Debug)]
pub struct Components {
    site: Option<Policy>,
    failover: Policy,
    split_brain: Policy,
    trusting: Policy,
    licenses_off: Policy,
}

/// Policies that cannot be had.
#[derive(Debug)]
pub enum ComponentError {
    /// No engine.
    Engine(String),
    /// A component that the load gate refuses.
    Load(LoadError),
}

impl std::fmt::Display for ComponentError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ComponentError::Engine(error) => f.write_str(error),
            ComponentError::Load(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ComponentError {}

impl Components {
    /// The built-in policies, and before them the site's failover policy where there is one. The
    /// settings, a JSON object, go to the site's policy, or else to the built-in one.
    ///
    /// # Errors
    /// When no engine starts, or the load gate refuses a component.
    pub fn new(site: Option<&[u8]>, settings: &str) -> Result<Components, ComponentError> {
        let engine = engine()?;
        let load =
            |kind, component: &[u8], settings: &str| load(&engine, kind, component, settings);
        let own = if site.is_some() { "{}" } else { settings };
        Ok(Components {
            site: site.map(|site| load(Kind::Failover, site, settings)).transpose()?,
            failover: load(Kind::Failover, staffetta_bundle::FAILOVER, own)?,
            split_brain: load(Kind::SplitBrain, staffetta_bundle::SPLIT_BRAIN, "{}")?,
            trusting: load(Kind::License, staffetta_bundle::LICENSE, &license_settings(true))?,
            licenses_off: load(Kind::License, staffetta_bundle::LICENSE, "{}")?,
        })
    }

    /// The same with another split-brain policy, or with the built-in one under other settings.
    ///
    /// # Errors
    /// As [`Components::new`].
    pub fn with_split_brain(
        self,
        site: Option<&[u8]>,
        settings: &str,
    ) -> Result<Components, ComponentError> {
        let component = site.unwrap_or(staffetta_bundle::SPLIT_BRAIN);
        let split_brain = load(&engine()?, Kind::SplitBrain, component, settings)?;
        Ok(Components { split_brain, ..self })
    }
}

fn engine() -> Result<Engine, ComponentError> {
    Engine::new(Limits::default()).map_err(|error| ComponentError::Engine(error.to_string()))
}

fn load(
    engine: &Engine,
    kind: Kind,
    component: &[u8],
    settings: &str,
) -> Result<Policy, ComponentError> {
    engine
        .load(kind, component, settings, &GateOptions::default(), &Compile::InProcess)
        .map_err(ComponentError::Load)
}

fn context(policy: &Policy, memory: Option<&str>, wall: &Wall) -> Context {
    Context {
        settings: policy.settings().to_owned(),
        memory: memory.map(str::to_owned),
        wall: wall.clone(),
    }
}

fn budget(kind: Kind) -> Budget {
    Budget { wall_ms: WALL_MS, ..kind.budget() }
}

impl Policies for Components {
    fn failover(
        &mut self,
        situation: &failover::Situation,
        memory: Option<&str>,
        wall: &Wall,
    ) -> Option<failover::Verdict> {
        let chain = self.site.iter().chain(std::iter::once(&self.failover));
        chain
            .map(|policy| {
                let context = context(policy, memory, wall);
                policy.failover(situation, &context, budget(Kind::Failover)).outcome
            })
            .find_map(Result::ok)
    }

    fn split_brain(
        &mut self,
        situation: &split_brain::Situation,
        wall: &Wall,
    ) -> Option<split_brain::Verdict> {
        let context = context(&self.split_brain, None, wall);
        self.split_brain.split_brain(situation, &context, budget(Kind::SplitBrain)).outcome.ok()
    }

    fn license(
        &mut self,
        situation: &license::Situation,
        trusted: bool,
        wall: &Wall,
    ) -> Option<license::Verdict> {
        let policy = if trusted { &self.trusting } else { &self.licenses_off };
        let context = context(policy, None, wall);
        policy.license(situation, &context, budget(Kind::License)).outcome.ok()
    }
}
