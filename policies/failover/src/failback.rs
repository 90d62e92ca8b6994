//! Back to the preferred node, when the site allows it.

use staffetta_sdk::failover::{Situation, Verdict, hand_over, hold};
use staffetta_sdk::{Given, Node, Wall};

use crate::settings::{Failback, Settings, minute_of_day};
use crate::{CONDITION_RECHECK_MS, damped, no_taker};

/// How soon to look again for a window.
const WINDOW_RECHECK_MS: u32 = 30_000;
/// How soon to look again for an idle moment, which may be short.
const IDLE_RECHECK_MS: u32 = 10_000;

/// A healthy primary looks whether the preferred node should have the service.
pub(crate) fn review(situation: &Situation, peer: &Node, given: &Given<Settings>) -> Verdict {
    if !peer.preferred || situation.me.preferred {
        return hold("all is well");
    }
    let hold_ms = match &given.settings.failback {
        Failback::Never => return hold("all is well; failback waits for an operator"),
        Failback::AfterHold { hold_ms } => hold_ms,
        Failback::InWindow { hold_ms, from, to, weekdays } => {
            if let Some(why) = outside(&given.wall, from, to, weekdays) {
                return hold(why).recheck_ms(WINDOW_RECHECK_MS);
            }
            hold_ms
        }
        Failback::WhenIdle { hold_ms, fact, max } => {
            if let Some(why) = busy(&situation.me, fact, *max) {
                return hold(why).recheck_ms(IDLE_RECHECK_MS);
            }
            hold_ms
        }
    };
    let name = &peer.name;
    if let Some(why) = no_taker(situation, peer, &given.settings) {
        return hold(format!("{name} is preferred, but {why}")).recheck_ms(CONDITION_RECHECK_MS);
    }
    let rest_ms = hold_ms.saturating_sub(peer.in_role);
    if rest_ms > 0 {
        return hold(format!(
            "{name} is preferred and must be well for {} s more",
            rest_ms / 1_000
        ))
        .recheck_ms(rest_ms);
    }
    damped(situation, &given.settings, hand_over(format!("{name} is preferred and ready")))
}

/// Why the window is not open.
fn outside(wall: &Wall, from: &str, to: &str, weekdays: &[u8]) -> Option<String> {
    if !wall.trusted {
        return Some("failback waits: the clock of this node is not synchronised".to_string());
    }
    let (Some(from_min), Some(to_min)) = (minute_of_day(from), minute_of_day(to)) else {
        return Some("failback waits: its window is not readable".to_string());
    };
    let now = wall.minute_of_day;
    let overnight = to_min <= from_min;
    let started_yesterday = overnight && now < to_min;
    let open = if overnight {
        now >= from_min || started_yesterday
    } else {
        (from_min..to_min).contains(&now)
    };
    let day = match (started_yesterday, wall.weekday) {
        (true, 1) => 7,
        (true, day) => day.saturating_sub(1),
        (false, day) => day,
    };
    let today = weekdays.is_empty() || weekdays.contains(&day);
    (!open || !today).then(|| format!("failback waits for its window, {from} to {to}"))
}

/// Why the site is not idle.
fn busy(me: &Node, fact: &str, max: i64) -> Option<String> {
    match me.number(fact) {
        None if me.facts.iter().any(|known| known.name == fact) => {
            Some(format!("failback waits: the fact {fact} is not a whole number"))
        }
        None => Some(format!("failback waits: the fact {fact} is not known")),
        Some(number) if number > max => Some(format!("failback waits: {fact} is {number}")),
        Some(_) => None,
    }
}
