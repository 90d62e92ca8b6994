//! Every way to misbehave ends in its own failure, within the limits.

mod common;

use std::time::{Duration, Instant};

use common::{built_in, context, hostile, peer_silent};
use staffetta_policy::types::FailoverIntent;
use staffetta_policy::{Budget, Failure, Kind, NOTE_BYTES_MAX, NOTE_LINES_MAX};

/// Generous on time, so that what ends a decision does not depend on the load of the machine.
const BUDGET: Budget = Budget { fuel: 10_000_000, wall_ms: 10_000 };

#[track_caller]
fn fails(behave: &str) -> Failure {
    let policy = hostile(behave);
    let decision = policy.failover(&peer_silent(), &context(&policy), BUDGET);
    assert!(decision.fuel <= BUDGET.fuel, "{} fuel", decision.fuel);
    decision.outcome.expect_err(behave)
}

#[test]
fn spinning_runs_out_of_fuel() {
    assert_eq!(fails("spin"), Failure::OutOfFuel);
}

#[test]
fn spinning_with_all_the_fuel_there_is_meets_the_deadline() {
    let policy = hostile("spin");
    let began = Instant::now();
    let budget = Budget { fuel: u64::MAX, wall_ms: 20 };
    let decision = policy.failover(&peer_silent(), &context(&policy), budget);
    assert_eq!(decision.outcome, Err(Failure::Deadline(20)));
    // The ticker is an ordinary thread: on a loaded machine it is late, but not by much.
    assert!(began.elapsed() < Duration::from_millis(1_000), "{:?}", began.elapsed());
}

#[test]
fn allocating_meets_the_memory_limit() {
    assert_eq!(fails("allocate"), Failure::MemoryLimit);
}

#[test]
fn recursing_exhausts_the_stack() {
    assert_eq!(fails("recurse"), Failure::StackOverflow);
}

#[test]
fn a_trap_names_the_function() {
    let Failure::Trapped(text) = fails("trap") else { panic!("another failure") };
    assert!(text.contains("unreachable"), "{text}");
}

#[test]
fn a_panic_tells_its_message() {
    let Failure::Trapped(text) = fails("panic") else { panic!("another failure") };
    assert!(text.contains("boom at peer-silent"), "{text}");
}

#[test]
fn a_huge_answer_is_not_read() {
    assert_eq!(fails("huge"), Failure::OutputLimit);
}

#[test]
fn a_flood_of_lines_is_capped() {
    let policy = hostile("log-flood");
    let decision = policy.failover(&peer_silent(), &context(&policy), BUDGET);
    assert_eq!(decision.outcome, Err(Failure::OutOfFuel));
    assert!(decision.notes.len() <= NOTE_LINES_MAX + 1, "{} lines", decision.notes.len());
    let bytes: usize = decision.notes.iter().map(|note| note.text.len()).sum();
    assert!(bytes <= NOTE_BYTES_MAX + 100, "{bytes} bytes");
    assert!(decision.notes.last().expect("a line").text.contains("dropped"));
}

#[test]
fn a_lie_is_a_verdict_within_limits() {
    let policy = hostile("lie");
    let decision = policy.failover(&peer_silent(), &context(&policy), BUDGET);
    let verdict = decision.outcome.expect("a verdict");
    assert_eq!(verdict.intent, FailoverIntent::TakeOver);
    assert_eq!(verdict.recheck, Some(100));
}

#[test]
fn a_crash_does_not_reach_the_next_decision() {
    let policy = hostile("panic");
    for _ in 0..3 {
        let decision = policy.failover(&peer_silent(), &context(&policy), BUDGET);
        assert!(matches!(decision.outcome, Err(Failure::Trapped(_))));
    }
    let mut other = peer_silent();
    other.question = staffetta_policy::types::FailoverQuestion::Review;
    let decision = policy.failover(&other, &context(&policy), BUDGET);
    assert!(decision.outcome.is_ok(), "{:?}", decision.outcome);
}

/// Whatever an instance wrote to its memory, no later one finds it, of this policy or of another.
#[test]
fn nothing_is_left_for_the_next_decision() {
    let (remembers, crashes) = (hostile("remember"), hostile("remember-and-panic"));
    let (other, budget) = (built_in(), Budget { fuel: 1_000_000_000, wall_ms: 10_000 });
    for _ in 0..20 {
        let decision = crashes.failover(&peer_silent(), &context(&crashes), budget);
        let text = format!("{:?}", decision.outcome);
        assert!(text.contains("left 0 "), "{text}");
        for _ in 0..2 {
            let decision = remembers.failover(&peer_silent(), &context(&remembers), budget);
            assert_eq!(decision.outcome.expect("a verdict").reason, "found 0");
        }
        let decision = other.failover(&peer_silent(), &context(&other), BUDGET);
        assert!(decision.outcome.is_ok(), "{:?}", decision.outcome);
    }
}

#[test]
fn equal_questions_burn_equal_fuel() {
    let policy = built_in();
    let budget = Kind::Failover.budget();
    let first = policy.failover(&peer_silent(), &context(&policy), BUDGET);
    assert!(first.fuel > 0 && first.fuel < budget.fuel / 10, "{} fuel", first.fuel);
    for _ in 0..20 {
        let again = policy.failover(&peer_silent(), &context(&policy), BUDGET);
        assert_eq!(again.fuel, first.fuel);
        assert_eq!(again.outcome, first.outcome);
    }
}
