//! Whether the standby has what the primary has, within the bound.
//!
//! The primary knows: since when the oldest thing that the standby has not acknowledged waits. It
//! tells the standby with its beats, so that both nodes say the same. A word is worth less the
//! older it is: what nobody looked at meanwhile may be missing.

use super::data::{DataLink, age};
use crate::api::status::Alignment;
use staffetta_core::Span;
use staffetta_db::DatabaseStatus;
use staffetta_files::TreeStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How things stand; none where nothing is replicated. `word`: the standby has all that is older,
/// as the primary says, the age of its word included.
pub(crate) fn alignment(
    data: &DataLink,
    bound: Duration,
    word: Option<Duration>,
) -> Option<Alignment> {
    if !data.is_configured() {
        return None;
    }
    let seen = Seen {
        late: data.late(),
        databases: data.status(),
        trees: data.trees(),
        dark: data.in_the_dark(),
        leads: data.leads(),
    };
    Some(judge(&seen, bound, word))
}

/// What the primary's word is worth: that the standby had all that was older than this when it was
/// told, as long ago as `age` and its way here at most.
pub(crate) fn word(lag_ms: u32, age: Span, rtt_us: Option<u32>) -> Duration {
    let way = Duration::from_micros(rtt_us.unwrap_or(0).into());
    Duration::from_millis(u64::from(lag_ms).saturating_add(age.as_ms())) + way
}

/// What the data plane says of itself.
struct Seen {
    /// How long the thread that sees to something has not looked.
    late: Vec<(&'static str, Duration)>,
    databases: Arc<Vec<DatabaseStatus>>,
    trees: Arc<Vec<TreeStatus>>,
    /// Why nothing can be said, whatever the data says.
    dark: Option<&'static str>,
    /// This node is the primary.
    leads: bool,
}

fn judge(seen: &Seen, bound: Duration, word: Option<Duration>) -> Alignment {
    let mut found = Found { bound, why: Vec::new(), lag: Duration::ZERO };
    for (what, late) in &seen.late {
        found.add(*late, || format!("{what}: nobody has looked"));
    }
    for status in seen.databases.iter() {
        found.hear(&status.name, database(status), (status.behind, "transactions"));
    }
    for status in seen.trees.iter() {
        found.hear(&status.name, tree(status), (status.behind, "paths"));
    }
    found.why.extend(seen.dark.map(str::to_owned));
    match word {
        _ if seen.leads => {}
        Some(word) => {
            found.add(word, || "the primary has not said that the standby has everything".into());
        }
        None => found.why.push("the primary does not say that the standby has everything".into()),
    }
    found.close(seen.leads)
}

/// What was found so far.
struct Found {
    bound: Duration,
    why: Vec<String>,
    /// The standby has all that is older.
    lag: Duration,
}

impl Found {
    fn hear(
        &mut self,
        name: &str,
        found: Result<Duration, String>,
        (behind, what): (Option<u64>, &str),
    ) {
        match found {
            Ok(lag) => self.add(lag, || match behind {
                Some(count) => format!("{name}: the standby has lacked {count} {what}"),
                None => format!("{name}: the standby has lacked {what}"),
            }),
            Err(why) => self.why.push(format!("{name}: {why}")),
        }
    }

    fn add(&mut self, lag: Duration, what: impl FnOnce() -> String) {
        self.lag = self.lag.max(lag);
        if lag > self.bound {
            self.why.push(format!("{} for {} ms", what(), lag.as_millis()));
        }
    }

    fn close(self, leads: bool) -> Alignment {
        let Found { bound, why, lag } = self;
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Alignment {
            aligned: why.is_empty(),
            bound_ms: ms(bound),
            lag_ms: (leads && why.is_empty()).then(|| ms(lag)),
            until: Instant::now().checked_add(bound.saturating_sub(lag)),
            why,
        }
    }
}

/// How long the standby has lacked something of it, as far as this node knows; or what else is the
/// matter.
fn database(status: &DatabaseStatus) -> Result<Duration, String> {
    use staffetta_db::State;
    Err(match status.state {
        State::Leading => return Ok(age(status.behind_since)),
        State::Following => return Ok(Duration::ZERO),
        State::Alone => "no standby attends".into(),
        State::Shipping | State::Catching => "the standby is being brought to it".into(),
        State::Waiting => "no primary names it".into(),
        State::Opening => "it is being read".into(),
        State::Diverged => {
            format!("it diverged: `staffetta db resync {}`, or the policy, decides", status.name)
        }
    })
}

/// The same of a tree.
fn tree(status: &TreeStatus) -> Result<Duration, String> {
    use staffetta_files::State;
    let TreeStatus { name, held, .. } = status;
    if *held > 0 {
        return Err(format!("{held} deletions wait for `staffetta files approve {name}`"));
    }
    Err(match status.state {
        State::Leading | State::Following if status.scanning => "it is being walked".into(),
        State::Leading if status.behind == Some(0) => return Ok(Duration::ZERO),
        State::Leading => return Ok(age(status.behind_since)),
        State::Following => return Ok(Duration::ZERO),
        State::Alone => "no standby attends".into(),
        State::Comparing => "the standby's tree is being compared".into(),
        State::Catching => "it is being brought to what the primary has".into(),
        State::Waiting => "no primary names it".into(),
        State::Diverged => {
            format!("it diverged: the policy, or `staffetta files approve {name}`, decides")
        }
        State::Halted | State::Closed => status.trouble.clone().unwrap_or_else(|| "closed".into()),
    })
}

#[cfg(test)]
#[path = "alignment_tests.rs"]
mod tests;
