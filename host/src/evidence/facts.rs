//! Facts of the site: what a program of the site prints, for policies.
//!
//! A run that fails leaves the last value, which ages and is no longer known after some intervals.
//! What is not known is never taken for zero.

use super::{Evidence, program};
use crate::config::FactConfig;
use crate::link::FACT_TEXT_BYTES_MAX;
use staffetta_policy::types::Value;
use std::time::Instant;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

/// Longest output that is looked at.
const OUTPUT_BYTES_MAX: usize = 256;

/// Finds out one fact again and again, until it is dropped; calls `changed` when policies should
/// be asked. Numbers and texts change all the time: policies see them when they are asked anyway.
pub(crate) async fn run_facts(
    evidence: Evidence,
    index: usize,
    config: FactConfig,
    changed: impl Fn(),
) {
    let mut every = interval(config.interval);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let ends = evidence.fact_ends(index);
        tokio::select! {
            _ = every.tick() => {}
            () = sleep_until(ends.unwrap_or_else(Instant::now).into()), if ends.is_some() => {
                if evidence.fact_ended(index) {
                    changed();
                }
                continue;
            }
        }
        let began = Instant::now();
        let printed = program::run(&config.exec, config.timeout, Some(OUTPUT_BYTES_MAX)).await;
        let found = printed.and_then(|printed| value(&config.exec[0], &printed));
        if evidence.fact(index, began, found) {
            changed();
        }
    }
}

/// A whole number, `true` or `false`, else a short text.
fn value(program: &str, printed: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(printed)
        .map_err(|_| format!("{program} prints what is not UTF-8"))?
        .trim();
    if let Ok(number) = text.parse() {
        return Ok(Value::Number(number));
    }
    match text {
        "true" => Ok(Value::Flag(true)),
        "false" => Ok(Value::Flag(false)),
        "" => Err(format!("{program} prints nothing: let it print one value")),
        _ if text.len() > FACT_TEXT_BYTES_MAX || text.contains(char::is_control) => Err(format!(
            "{program} prints more than one line of {FACT_TEXT_BYTES_MAX} bytes: let it print a \
             whole number, true, false, or a short text"
        )),
        _ => Ok(Value::Text(text.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_a_program_prints_is_one_value() {
        let value = |printed: &[u8]| super::value("calls", printed);
        let text = |text: &str| Ok(Value::Text(text.into()));
        assert_eq!(value(b"42\n"), Ok(Value::Number(42)));
        assert_eq!(value(b" -7 "), Ok(Value::Number(-7)));
        assert_eq!(value(b"true\n"), Ok(Value::Flag(true)));
        assert_eq!(value(b"false"), Ok(Value::Flag(false)));
        assert_eq!(value(b"north\n"), text("north"));
        assert_eq!(value(b"9223372036854775808"), text("9223372036854775808"));
        assert_eq!(value("citt\u{e0}".as_bytes()), text("citt\u{e0}"));
        assert_eq!(value(&[b'x'; 32]), text(&"x".repeat(32)));
        for bad in [&b""[..], b"\n", b"\xff", b"two\nlines", &[b'x'; 33], b"a\x1b[0m"] {
            assert!(value(bad).is_err_and(|why| why.starts_with("calls ")), "{bad:?}");
        }
    }

    fn evidence(interval: Duration) -> Evidence {
        let exec = vec!["/bin/true".into()];
        let name = "site.calls".into();
        Evidence::new(&[], &[], &[FactConfig { name, exec, interval, timeout: interval }])
    }

    #[test]
    fn a_value_that_nothing_renews_is_not_known_in_the_end() {
        let evidence = evidence(Duration::from_secs(5));
        let ago = |seconds| Instant::now() - Duration::from_secs(seconds);
        let failed = || Err("calls ends with 1".to_owned());
        assert!(!evidence.fact(0, ago(30), failed()), "it was not known, and is not");
        assert!(evidence.seen().facts.is_empty());
        assert!(evidence.unknown().is_empty(), "nobody has looked for long");
        assert!(evidence.fact(0, ago(14), Ok(Value::Number(0))));
        assert!(!evidence.fact(0, ago(9), failed()), "the last value stays");
        let seen = evidence.seen().facts.remove(0);
        assert_eq!(seen.number, Some(0));
        assert!((14_000..15_000).contains(&seen.age_ms), "{seen:?}");
        // Each is rounded down.
        assert!((14_999..=15_000).contains(&(seen.age_ms + seen.valid_ms)), "{seen:?}");
        // Whether a run ended or not: what is too old is not known.
        evidence.lock().facts[0].found = Some((Value::Number(0), ago(15)));
        assert!(evidence.seen().facts.is_empty());
        assert!(evidence.fact_ends(0).is_some_and(|ends| ends <= Instant::now()));
        assert!(evidence.fact_ended(0), "policies are asked without it");
        assert!(!evidence.fact(0, ago(0), failed()), "they know");
        assert_eq!(evidence.fact_ends(0), None);
        evidence.lock().facts[0].since = ago(15);
        assert_eq!(evidence.unknown(), [("site.calls".into(), "calls ends with 1".into())]);
    }

    #[test]
    fn policies_are_asked_when_a_flag_changes() {
        let evidence = evidence(Duration::from_secs(5));
        let found = |value| evidence.fact(0, Instant::now(), Ok(value));
        assert!(found(Value::Flag(true)));
        assert!(!found(Value::Flag(true)));
        assert!(found(Value::Flag(false)));
        assert!(!found(Value::Number(1)));
        assert!(!found(Value::Number(2)));
        assert!(!found(Value::Text("north".into())));
    }
}
