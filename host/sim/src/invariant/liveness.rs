//! Liveness: after the last fault the service returns within a bound, and stays.

use crate::plan::{Ending, Pair};

/// More moves than this after everything was mended are a flap.
const MOVES_MAX: u64 = 8;
/// What an operator takes to answer, ms, with room for three questions.
const OPERATOR_MS: u64 = 3_000;
/// Phones, license and loops, ms.
const REST_MS: u64 = 4_000;

/// The longest time from the mending to a service that stays, ms.
pub(crate) fn bound_ms(pair: &Pair) -> u64 {
    let parts = pair.timing.parts();
    let promise = (parts.lease + pair.lifetime_slack).as_ms();
    // Twice the join timeout: a node that was refused by its kernel, or stepped down, rests for
    // one, and a node that boots waits for one.
    2 * parts.join_timeout.as_ms() + 6 * promise + OPERATOR_MS + REST_MS
}

/// What did not happen in time.
pub(crate) fn text(pair: &Pair, ending: Ending, moved: u64, roles: &str) -> String {
    let what = if moved > MOVES_MAX { "flaps" } else { "does not return" };
    let bound = bound_ms(pair);
    format!("the service {what} within {bound} ms of {ending:?}: moved {moved} times; {roles}")
}
