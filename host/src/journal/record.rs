//! What the journal keeps, as plain values. The API shows the same shapes.

use serde::{Deserialize, Serialize};

use crate::api::status::Spoke;

/// One decision of a policy with everything that it was made from: enough to replay it bit for bit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// Wall-clock time, for people only.
    pub at_unix_ms: i64,
    /// Which policy: `failover`, `license`, or `split-brain`.
    pub kind: String,
    /// What was asked, such as `peer-silent`.
    pub question: String,
    /// What the policy wants, such as `take-over`.
    pub intent: String,
    /// Why, for people.
    pub reason: String,
    /// Which link of the fallback chain answered.
    pub spoke: Spoke,
    /// The complete situation as JSON.
    pub situation: String,
    /// The settings as JSON.
    pub settings: String,
    /// The policy's memory that went in.
    pub memory: Option<String>,
    /// The wall time that went in, as JSON; `null` where none was kept. Of equal decisions in a
    /// row, that of the first.
    #[serde(default = "no_wall")]
    pub wall: String,
    /// The complete verdict as JSON.
    pub verdict: String,
    /// `sha256:` digest of the component that answered.
    pub digest: String,
    /// Version of the engine that ran it.
    pub engine: String,
    /// Instructions burnt.
    pub fuel: u64,
    /// CPU time taken, in microseconds.
    pub cpu_us: u64,
    /// What the policy logged.
    pub notes: Vec<String>,
    /// One line for every policy of the chain that failed before one answered.
    pub attempts: Vec<String>,
}

fn no_wall() -> String {
    "null".to_owned()
}

impl DecisionRecord {
    /// Bytes of its texts, near enough to bound what waits for the disk.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        let lists = self.notes.iter().chain(&self.attempts).map(String::len).sum::<usize>();
        let texts = [&self.situation, &self.settings, &self.verdict, &self.reason];
        let memory = self.memory.as_ref().map_or(0, String::len);
        texts.iter().map(|text| text.len()).sum::<usize>() + lists + memory
    }
}

/// A change of role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransitionRecord {
    /// Wall-clock time, for people only.
    pub at_unix_ms: i64,
    /// Epoch after the change.
    pub epoch: u64,
    /// Role before.
    pub from: String,
    /// Role after.
    pub to: String,
    /// Cause.
    pub why: String,
}

/// Something that an operator would tell a colleague.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Wall-clock time, for people only.
    pub at_unix_ms: i64,
    /// How much it matters.
    pub level: EventLevel,
    /// Stable name for scripts, such as `vip-conflict`.
    pub name: String,
    /// What happened, for people.
    pub text: String,
    /// Details by name.
    #[serde(default)]
    pub fields: serde_json::Map<String, serde_json::Value>,
}

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventLevel {
    /// An operator would tell a colleague.
    Info,
    /// Someone should look.
    Warn,
    /// The service is affected.
    Error,
}

impl EventLevel {
    /// The word in the journal.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            EventLevel::Info => "info",
            EventLevel::Warn => "warn",
            EventLevel::Error => "error",
        }
    }
}

impl EventRecord {
    /// An event of this moment.
    #[must_use]
    pub fn now(level: EventLevel, name: &str, text: impl Into<String>) -> EventRecord {
        EventRecord {
            at_unix_ms: unix_ms_now(),
            level,
            name: name.to_owned(),
            text: text.into(),
            fields: serde_json::Map::new(),
        }
    }

    /// The same with one more detail.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> EventRecord {
        self.fields.insert(name.to_owned(), value.into());
        self
    }
}

/// One minute of one link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkMinute {
    /// Start of the minute.
    pub at_unix_ms: i64,
    /// Name of the link.
    pub link: String,
    /// Frames sent.
    pub sent: u64,
    /// Frames received.
    pub received: u64,
    /// Frames lost out of a thousand.
    pub loss_permille: u16,
    /// Median round trip in microseconds; none without an echo.
    pub rtt_us_p50: Option<u64>,
    /// Longest round trip in microseconds; none without an echo.
    pub rtt_us_max: Option<u64>,
}

/// A decision as stored: equal consecutive ones share a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredDecision {
    /// Number of the row.
    pub id: i64,
    /// When the last of the equal ones was made.
    pub last_at_unix_ms: i64,
    /// How many equal ones were made in a row.
    pub count: u64,
    /// The first of them.
    #[serde(flatten)]
    pub first: DecisionRecord,
}

/// One line of the history: a change of role or an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum HistoryLine {
    /// A change of role.
    Transition(TransitionRecord),
    /// An event.
    Event(EventRecord),
}

impl HistoryLine {
    /// Wall-clock time of the line.
    #[must_use]
    pub fn at_unix_ms(&self) -> i64 {
        match self {
            HistoryLine::Transition(line) => line.at_unix_ms,
            HistoryLine::Event(line) => line.at_unix_ms,
        }
    }
}

/// Milliseconds since 1970 on the wall clock; for display and evidence, never for leases.
#[must_use]
pub fn unix_ms_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// RFC 3339 in UTC with milliseconds.
#[must_use]
pub fn rfc3339(unix_ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(unix_ms) {
        Ok(at) => format!("{at:.3}"),
        Err(_) => format!("{unix_ms} ms"),
    }
}
