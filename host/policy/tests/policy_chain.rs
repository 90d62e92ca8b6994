//! Whatever the site's policy does, somebody answers inside the deadline.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{built_in, hostile, peer_silent};
use staffetta_policy::types::{FailoverIntent, FailoverVerdict};
use staffetta_policy::{Answer, CRASHES_MAX, FailoverChain, Failure, Speaker};
use staffetta_sdk::testing;

/// Longer than in production: the test machine may be busy.
const DEADLINE: Duration = Duration::from_millis(2_000);

fn ask(chain: &mut FailoverChain, at_s: u64) -> Answer<FailoverVerdict> {
    let deadline = Instant::now() + DEADLINE;
    let now = Duration::from_secs(at_s);
    chain.decide(&peer_silent(), &testing::wall(2, 10, 0), now, deadline)
}

fn chain(behave: &str) -> FailoverChain {
    let mut chain = FailoverChain::new(Arc::new(built_in()));
    chain.swap(Arc::new(hostile(behave)));
    chain
}

#[test]
fn the_sites_policy_speaks_first() {
    let answer = ask(&mut chain("hold"), 0);
    assert_eq!(answer.spoke, Speaker::Site);
    assert_eq!(answer.verdict.expect("a verdict").intent, FailoverIntent::Hold);
    assert!(answer.attempts.is_empty());
    assert!(answer.context.expect("a context").settings.contains("hold"));
}

#[test]
fn the_built_in_one_answers_for_a_crashing_one() {
    for behave in ["spin", "allocate", "recurse", "trap", "panic", "huge", "log-flood"] {
        let mut chain = chain(behave);
        let began = Instant::now();
        let answer = ask(&mut chain, 0);
        assert!(began.elapsed() < DEADLINE, "{behave}: {:?}", began.elapsed());
        assert_eq!(answer.spoke, Speaker::BuiltIn, "{behave}");
        assert_eq!(answer.verdict.expect("a verdict").intent, FailoverIntent::TakeOver, "{behave}");
        assert_eq!(answer.attempts.len(), 1);
        assert_eq!(answer.attempts[0].speaker, Speaker::Site);
        assert_eq!(answer.context.expect("a context").settings, "{}");
    }
}

#[test]
fn the_last_good_one_comes_before_the_built_in_one() {
    let mut chain = chain("hold");
    ask(&mut chain, 0);
    chain.swap(Arc::new(hostile("panic")));
    let answer = ask(&mut chain, 1);
    assert_eq!(answer.spoke, Speaker::LastGood);
    assert_eq!(answer.verdict.expect("a verdict").intent, FailoverIntent::Hold);
    assert_eq!(answer.attempts.len(), 1);
}

#[test]
fn one_that_never_answered_is_not_the_last_good_one() {
    let mut chain = chain("panic");
    ask(&mut chain, 0);
    chain.swap(Arc::new(hostile("trap")));
    assert_eq!(ask(&mut chain, 1).spoke, Speaker::BuiltIn);
}

#[test]
fn rollback_brings_back_the_one_before() {
    let mut chain = chain("take-over");
    ask(&mut chain, 0);
    chain.swap(Arc::new(hostile("hold")));
    assert_eq!(ask(&mut chain, 1).verdict.expect("a verdict").intent, FailoverIntent::Hold);
    assert!(chain.rollback().is_some());
    assert_eq!(ask(&mut chain, 2).verdict.expect("a verdict").intent, FailoverIntent::TakeOver);
    chain.rollback();
    assert_eq!(chain.in_force().0, Speaker::BuiltIn);
    assert!(chain.rollback().is_none());
}

#[test]
fn a_policy_that_crashes_again_and_again_is_not_asked_any_more() {
    let mut chain = chain("panic");
    for crash in 0..CRASHES_MAX as u64 {
        assert!(!chain.quarantined());
        assert_eq!(ask(&mut chain, crash).attempts.len(), 1);
    }
    assert!(chain.quarantined());
    assert_eq!(ask(&mut chain, 10).attempts.len(), 0);
    assert_eq!(chain.in_force().0, Speaker::BuiltIn);
    chain.swap(Arc::new(hostile("panic")));
    assert!(!chain.quarantined());
    assert_eq!(ask(&mut chain, 20).attempts.len(), 1);
}

#[test]
fn old_crashes_are_forgotten() {
    let mut chain = chain("panic");
    for at_s in [0, 400, 800, 1_200] {
        ask(&mut chain, at_s);
        assert!(!chain.quarantined(), "at {at_s} s");
    }
}

#[test]
fn after_the_deadline_the_hosts_verdict_stands() {
    let mut chain = chain("take-over");
    let answer =
        chain.decide(&peer_silent(), &testing::wall(2, 10, 0), Duration::ZERO, Instant::now());
    assert_eq!(answer.spoke, Speaker::Host);
    assert_eq!(answer.verdict, None);
    assert!(answer.attempts.iter().all(|a| matches!(a.failure, Failure::Deadline(0))));
    assert!(!chain.quarantined());
}

#[test]
fn an_answer_is_a_record() {
    let answer = ask(&mut chain("panic"), 0);
    let json = serde_json::to_value(&answer).expect("JSON");
    assert_eq!(json["spoke"], "built-in");
    assert_eq!(json["verdict"]["intent"], "take-over");
    assert_eq!(json["attempts"][0]["speaker"], "site");
    assert!(json["attempts"][0]["failure"]["trapped"].as_str().expect("text").contains("boom"));
}
