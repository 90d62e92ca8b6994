//! What went wrong last: kept for status, told to the log once a change and then now and again.

use std::time::{Duration, Instant};

use crate::{ArbiterError, LOG_INTERVAL_S};

/// The last error of the arbiter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// What it was.
    pub error: ArbiterError,
    /// How long ago.
    pub ago: Duration,
    /// The arbiter has answered since.
    pub over: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Record {
    last: Option<(ArbiterError, Instant)>,
    failing: bool,
    logged: Option<Instant>,
}

impl Record {
    pub(crate) fn answered(&mut self, register: &str) {
        if self.failing {
            self.failing = false;
            self.logged = None;
            tracing::info!(register, "arbiter answers again");
        }
    }

    pub(crate) fn failed(&mut self, register: &str, error: ArbiterError) {
        let now = Instant::now();
        let quiet = Duration::from_secs(LOG_INTERVAL_S);
        if self.logged.is_none_or(|at| now.duration_since(at) >= quiet) {
            self.logged = Some(now);
            tracing::warn!(register, %error, "arbiter does not answer");
        }
        self.failing = true;
        self.last = Some((error, now));
    }

    pub(crate) fn last(&self) -> Option<LastError> {
        let (error, at) = self.last.clone()?;
        Some(LastError { error, ago: at.elapsed(), over: !self.failing })
    }
}
