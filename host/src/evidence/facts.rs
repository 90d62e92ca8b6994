//! Facts of the site: what a program of the site prints, for policies.
//!
//! A run that fails leaves the last value, which ages; a value that nothing renewed within
//! [`RUNS_KEPT`] intervals is not told any more. What is not known is never taken for zero.

use super::{Evidence, program};
use crate::config::FactConfig;
use crate::link::TEXT_BYTES_MAX;
use staffetta_policy::types::Value;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Longest output that is looked at.
const OUTPUT_BYTES_MAX: usize = 256;
/// A value is known for this many intervals.
const RUNS_KEPT: u32 = 3;

/// Finds out one fact again and again, until it is dropped; calls `changed` when policies should
/// be asked: a fact becomes known or unknown, or a flag or text differs. Numbers change all the
/// time: policies look at them when they are asked anyway.
pub(crate) async fn run_facts(
    evidence: Evidence,
    index: usize,
    config: FactConfig,
    changed: impl Fn(),
) {
    let mut every = interval(config.interval);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let keep = config.interval * RUNS_KEPT;
    let mut known_until = Instant::now() + keep;
    loop {
        every.tick().await;
        let printed = program::run(&config.exec, config.timeout, OUTPUT_BYTES_MAX).await;
        let found = printed.and_then(|printed| value(&config.exec[0], &printed));
        let now = Instant::now();
        if found.is_ok() {
            known_until = now + keep;
        }
        if evidence.fact(index, found, now >= known_until) {
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
        _ if text.len() > TEXT_BYTES_MAX || text.contains(char::is_control) => Err(format!(
            "{program} prints more than one line of {TEXT_BYTES_MAX} bytes: let it print a \
             whole number, true, false, or a short text"
        )),
        _ => Ok(Value::Text(text.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(value("città".as_bytes()), text("città"));
        for bad in [&b""[..], b"\n", b"\xff", b"two\nlines", &[b'x'; 49], b"a\x1b[0m"] {
            assert!(value(bad).is_err_and(|why| why.starts_with("calls ")), "{bad:?}");
        }
        assert_eq!(value(&[b'x'; 48]), text(&"x".repeat(48)));
    }
}
