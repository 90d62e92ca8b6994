use super::*;
use alloc::string::ToString;

fn parts(beat: u64, lease: u64, delay: u64) -> TimingParts {
    TimingParts {
        beat: Span::ms(beat),
        lease: Span::ms(lease),
        delay: Span::ms(delay),
        slack: Span::ms(20),
        policy_deadline: Span::ms(40),
        join_timeout: Span::ms(10_000),
        stop_budget: Span::ms(5_000),
    }
}

#[test]
fn the_documented_profiles_hold() {
    for (beat, lease, delay) in [(100, 1000, 20), (250, 3000, 100), (50, 300, 10), (500, 5000, 200)]
    {
        let timing = Timing::new(parts(beat, lease, delay)).unwrap();
        // What the receiver promises outlasts what the sender may use, for any two clocks within
        // the drift.
        let fast_promise = timing.promise_for(Span::ms(lease), Span::ZERO).scaled(1000, 1001);
        let slow_lease = timing.granted().scaled(1000, 999);
        assert!(fast_promise.0 + 2 >= slow_lease.0, "{beat}/{lease}");
        assert!(timing.self_granted() + timing.silence() == timing.granted());
    }
}

#[test]
fn each_inequality_is_refused_with_what_to_write() {
    type Change = fn(&mut TimingParts);
    let rows: [(Change, &str); 6] = [
        (|p| p.beat = Span::ms(5), "beat_ms = 5 is too short: write at least 10"),
        (|p| p.lease = Span::ms(61_000), "lease_ms = 61000 is too long: write at most 60000"),
        (|p| p.lease = Span::ms(260), "lease_ms = 260 is too short"),
        (|p| p.policy_deadline = Span::ms(150), "policy_deadline_ms = 150 is too long"),
        (|p| p.join_timeout = Span::ms(400), "join_timeout_ms = 400 is too short"),
        (|p| p.stop_budget = Span::ms(299), "stop_budget_ms = 299 is too short"),
    ];
    for (change, want) in rows {
        let mut p = parts(50, 300, 10);
        change(&mut p);
        let error = Timing::new(p).unwrap_err().to_string();
        assert!(error.starts_with(want), "{error:?} does not start with {want:?}");
    }
}

#[test]
fn the_value_that_an_error_names_is_accepted() {
    let mut p = parts(50, 260, 10);
    let Err(TimingError::LeaseTooShort { min_ms, .. }) = Timing::new(p) else { panic!() };
    p.lease = Span::ms(min_ms);
    p.policy_deadline = Span::ms(1);
    assert!(Timing::new(p).is_ok());
    let mut p = parts(50, 300, 10);
    p.policy_deadline = Span::ms(150);
    let Err(TimingError::NoRoomForDecision { max_ms, .. }) = Timing::new(p) else { panic!() };
    p.policy_deadline = Span::ms(max_ms);
    assert!(Timing::new(p).is_ok());
}
