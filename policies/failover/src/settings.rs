//! What a site can choose.

use serde::Deserialize;

/// Settings of the built-in policy.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// When the service moves back to the preferred node.
    pub failback: Failback,
    /// How long after a move no other move of choice follows. A takeover never waits.
    pub hold_down_ms: u32,
    /// How many moves an hour there may be before moves of choice are held back.
    pub changes_per_hour_max: u16,
    /// Whether references, where configured, must answer.
    pub require_references: bool,
    /// A database that lacks more changes than this is not taken over with, or moved to.
    pub lag_items_max: Option<u64>,
    /// The same for the age of the oldest change that it lacks.
    pub lag_ms_max: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failback: Failback::Never,
            hold_down_ms: 60_000,
            changes_per_hour_max: 6,
            require_references: true,
            lag_items_max: None,
            lag_ms_max: None,
        }
    }
}

/// When the service moves back to the preferred node.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failback {
    /// Only when an operator asks.
    Never,
    /// When the preferred node has been a healthy standby for this long.
    AfterHold {
        /// How long.
        hold_ms: u32,
    },
    /// The same, inside a daily window of local time, on a synchronised clock.
    InWindow {
        /// Start, `HH:MM`.
        from: String,
        /// End, `HH:MM`. Before the start: the window goes over midnight.
        to: String,
        /// Days on which the window starts, Monday is 1. Empty: every day.
        #[serde(default)]
        weekdays: Vec<u8>,
        /// How long the preferred node must have been a healthy standby.
        #[serde(default)]
        hold_ms: u32,
    },
    /// The same, when a number that the site's probes deliver is low.
    WhenIdle {
        /// Name of the fact, such as `site.active-calls`.
        fact: String,
        /// Idle up to this number.
        #[serde(default)]
        max: i64,
        /// How long the preferred node must have been a healthy standby.
        #[serde(default)]
        hold_ms: u32,
    },
}

impl Settings {
    /// One line for each thing that is wrong.
    pub fn wrong(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.changes_per_hour_max == 0 {
            lines.push("changes_per_hour_max must be at least 1".to_string());
        }
        match &self.failback {
            Failback::Never | Failback::AfterHold { .. } => {}
            Failback::InWindow { from, to, weekdays, .. } => {
                for (key, text) in [("from", from), ("to", to)] {
                    if minute_of_day(text).is_none() {
                        lines.push(format!("failback.in-window.{key} = \"{text}\": write HH:MM"));
                    }
                }
                if weekdays.iter().any(|day| !(1..=7).contains(day)) {
                    lines.push("failback.in-window.weekdays: Monday is 1, Sunday is 7".to_string());
                }
            }
            Failback::WhenIdle { fact, .. } => {
                if fact.is_empty() {
                    lines.push(
                        "failback.when-idle.fact: name a fact, such as \
                                site.active-calls"
                            .to_string(),
                    );
                }
            }
        }
        lines
    }
}

/// `HH:MM` as minutes since midnight.
pub(crate) fn minute_of_day(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    (hour < 24 && minute < 60).then_some(hour * 60 + minute)
}
