//! Shared by the tests of this crate.
#![allow(dead_code, unreachable_pub)]

use std::sync::OnceLock;

use staffetta_bundle as bundle;
use staffetta_policy::types::{Answerer, Context, FailoverQuestion, FailoverSituation};
use staffetta_policy::{Compile, Engine, GateOptions, Kind, Limits, LoadError, Policy};
use staffetta_sdk::testing;

pub fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new(Limits::default()).expect("an engine"))
}

pub fn load(kind: Kind, component: &[u8], settings: &str) -> Result<Policy, LoadError> {
    engine().load(kind, component, settings, &GateOptions::default(), &Compile::InProcess)
}

pub fn hostile(behave: &str) -> Policy {
    let settings = format!(r#"{{"behave": "{behave}"}}"#);
    load(Kind::Failover, bundle::fixtures::HOSTILE, &settings).expect("it behaves when loaded")
}

pub fn built_in() -> Policy {
    load(Kind::Failover, bundle::FAILOVER, "{}").expect("the built-in policy")
}

pub fn peer_silent() -> FailoverSituation {
    testing::standby(FailoverQuestion::PeerSilent)
        .silent_for(1_500)
        .vip(Answerer::Nobody)
        .reference("gateway", Some(true))
        .build()
}

pub fn context(policy: &Policy) -> Context {
    Context { settings: policy.settings().into(), memory: None, wall: testing::wall(2, 10, 0) }
}
