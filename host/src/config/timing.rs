//! The times of the configuration. The inequalities between them live in `staffetta_core::Timing`.

use staffetta_core::{Span, Timing, TimingError, TimingParts};

use super::error::Source;
use super::raw::RawTiming;
use super::{ConfigError, TimingProfile, defaults};

/// The times as configured, with what is needed to say which line is wrong once the gate is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimingConfig {
    /// The profile.
    pub profile: TimingProfile,
    parts: TimingParts,
    lines: Lines,
    path: std::path::PathBuf,
}

/// Lines of the keys that are there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Lines {
    profile: Option<usize>,
    beat: Option<usize>,
    lease: Option<usize>,
    delay: Option<usize>,
    join: Option<usize>,
    policy: Option<usize>,
    stop: Option<usize>,
}

impl TimingConfig {
    /// The times with the slack G of the gate in force, if every inequality holds with it.
    ///
    /// # Errors
    /// The inequality that fails, at the line that should change.
    pub fn with_slack(&self, slack: Span) -> Result<Timing, ConfigError> {
        Timing::new(TimingParts { slack, ..self.parts }).map_err(|error| ConfigError {
            path: self.path.clone(),
            line: self.lines.of(&error),
            text: format!("{error}{}", self.origin(&error)),
        })
    }

    /// Beat, lease, link delay, policy deadline, join timeout, stop budget in milliseconds.
    #[must_use]
    pub fn parts_ms(&self) -> [u64; 6] {
        let p = &self.parts;
        [p.beat, p.lease, p.delay, p.policy_deadline, p.join_timeout, p.stop_budget]
            .map(Span::as_ms)
    }

    /// The times with the slack that the profile assumes.
    #[must_use]
    pub fn parts(&self) -> &TimingParts {
        &self.parts
    }

    /// The times of a profile, with every default.
    #[must_use]
    pub fn profile_parts(profile: TimingProfile) -> TimingParts {
        let (beat, lease, delay) = defaults::profile_ms(profile);
        let lease = Span::ms(lease);
        TimingParts {
            beat: Span::ms(beat),
            lease,
            delay: Span::ms(delay),
            slack: Span::ms(defaults::profile_slack_ms(profile)),
            policy_deadline: Span::ms(defaults::POLICY_DEADLINE_MS),
            join_timeout: Span::ms(defaults::JOIN_TIMEOUT_MS),
            stop_budget: stop_budget(lease),
        }
    }

    pub(super) fn parse(raw: &RawTiming, source: Source<'_>) -> Result<TimingConfig, ConfigError> {
        let profile = raw.profile.as_ref().map_or(defaults::PROFILE, |p| *p.get_ref());
        let base = TimingConfig::profile_parts(profile);
        let line = |span: Option<std::ops::Range<usize>>| span.map(|span| source.line(span.start));
        let ms = |key: &str, value: &Option<toml::Spanned<u64>>, default: Span| match value {
            None => Ok(default),
            Some(given) if *given.get_ref() <= defaults::TIME_MS_MAX => {
                Ok(Span::ms(*given.get_ref()))
            }
            Some(given) => Err(source.error(
                given.span(),
                format!("{key} is in milliseconds: write at most {}", defaults::TIME_MS_MAX),
            )),
        };
        let lease = ms("lease_ms", &raw.lease_ms, base.lease)?;
        let parts = TimingParts {
            beat: ms("beat_ms", &raw.beat_ms, base.beat)?,
            lease,
            delay: ms("link_delay_ms_max", &raw.link_delay_ms_max, base.delay)?,
            slack: base.slack,
            policy_deadline: ms(
                "policy_deadline_ms",
                &raw.policy_deadline_ms,
                base.policy_deadline,
            )?,
            join_timeout: ms("join_timeout_ms", &raw.join_timeout_ms, base.join_timeout)?,
            stop_budget: ms("stop_budget_ms", &raw.stop_budget_ms, stop_budget(lease))?,
        };
        let lines = Lines {
            profile: line(raw.profile.as_ref().map(toml::Spanned::span)),
            beat: line(raw.beat_ms.as_ref().map(toml::Spanned::span)),
            lease: line(raw.lease_ms.as_ref().map(toml::Spanned::span)),
            delay: line(raw.link_delay_ms_max.as_ref().map(toml::Spanned::span)),
            join: line(raw.join_timeout_ms.as_ref().map(toml::Spanned::span)),
            policy: line(raw.policy_deadline_ms.as_ref().map(toml::Spanned::span)),
            stop: line(raw.stop_budget_ms.as_ref().map(toml::Spanned::span)),
        };
        let timing = TimingConfig { profile, parts, lines, path: source.path.to_owned() };
        timing.with_slack(parts.slack)?;
        Ok(timing)
    }

    /// Where a value came from that is not in the file.
    fn origin(&self, error: &TimingError) -> String {
        let given = match error {
            TimingError::BeatTooShort { .. } => self.lines.beat,
            TimingError::LeaseTooLong { .. } | TimingError::LeaseTooShort { .. } => {
                self.lines.lease
            }
            TimingError::NoRoomForDecision { .. } => self.lines.policy,
            TimingError::JoinTooShort { .. } => self.lines.join,
            TimingError::StopTooShort { .. } => self.lines.stop,
        };
        match given {
            Some(_) => String::new(),
            None => format!(" (it comes from profile \"{}\" or a default)", self.profile.as_str()),
        }
    }
}

/// The default stop budget; never less than the lease.
fn stop_budget(lease: Span) -> Span {
    Span::ms(defaults::STOP_BUDGET_MS).max(lease)
}

impl Lines {
    /// The line to change: the key that the error names, else one that takes part in the
    /// inequality.
    fn of(&self, error: &TimingError) -> Option<usize> {
        let candidates = match error {
            TimingError::BeatTooShort { .. } => [self.beat, None, None, None],
            TimingError::LeaseTooLong { .. } => [self.lease, None, None, None],
            TimingError::LeaseTooShort { .. } => [self.lease, self.beat, self.delay, None],
            TimingError::NoRoomForDecision { .. } => {
                [self.policy, self.lease, self.beat, self.delay]
            }
            TimingError::JoinTooShort { .. } => [self.join, self.lease, None, None],
            TimingError::StopTooShort { .. } => [self.stop, self.lease, None, None],
        };
        candidates.into_iter().flatten().next().or(self.profile)
    }
}
