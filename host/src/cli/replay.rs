//! `policy replay` and `policy explain`: recorded decisions, decided again. Both read the journal's
//! file and need no daemon.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use staffetta_policy::replay::{Recorded, decided, otherwise, replay};
use staffetta_policy::{Compile, Engine, GateOptions, Kind, Limits, Policy, cli};

use super::flags::{ExplainFlags, ReplayFlags};
use super::{Context, Failure, Outcome, plain, show};
use crate::config::Config;
use crate::journal::{StoredDecision, rfc3339};

/// Decisions that differ are shown up to here; all are counted.
const SHOWN_MAX: usize = 50;

/// One recorded decision that another policy decides differently, or that could not be replayed.
struct Difference {
    record: StoredDecision,
    now: String,
    reason: String,
}

/// What a replay found; decisions that were counted in one row count as often as they were made.
#[derive(Default)]
struct Tally {
    rows: u64,
    made: u64,
    equal: u64,
    in_other_words: u64,
    unknown_policy: u64,
    differ: Vec<Difference>,
    unreadable: Vec<String>,
}

pub(super) fn run(context: &Context, flags: &ReplayFlags) -> Outcome {
    let journal = journal_file(context, flags.journal.as_deref())?;
    let settings = super::policy::read_settings(flags.settings.as_deref())?;
    let settings = settings.map(|settings| settings.to_string());
    let mut shelf = Shelf::new(context, flags.policy.as_deref(), settings.clone())?;
    let records = crate::journal::read_decisions(&journal, flags.last).map_err(Failure::of)?;
    let mut tally = Tally::default();
    for record in records {
        one(&mut shelf, record, settings.as_deref(), &mut tally)?;
    }
    context.print(&tally.as_json(&journal), || tally.as_text(&journal));
    Ok(())
}

fn one(
    shelf: &mut Shelf,
    record: StoredDecision,
    settings: Option<&str>,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let policy = match Kind::from_name(&record.first.kind) {
        Some(kind) => shelf.policy(kind, &record.first.digest)?,
        None => None,
    };
    let Some(policy) = policy else {
        tally.unknown_policy += record.count;
        return Ok(());
    };
    tally.rows += 1;
    tally.made += record.count;
    match replay(policy, &recorded(&record, settings)) {
        Err(why) => tally.unreadable.push(format!("#{}: {why}", record.id)),
        Ok(again) => {
            let was: Value = serde_json::from_str(&record.first.verdict).unwrap_or(Value::Null);
            if again.verdict == was {
                tally.equal += record.count;
            } else if again.decided == decided(policy.kind(), &was) {
                tally.in_other_words += record.count;
            } else {
                let (now, reason) = (again.decided, again.reason);
                tally.differ.push(Difference { record, now, reason });
            }
        }
    }
    Ok(())
}

fn recorded<'a>(record: &'a StoredDecision, settings: Option<&'a str>) -> Recorded<'a> {
    let first = &record.first;
    Recorded {
        situation: &first.situation,
        settings: settings.unwrap_or(&first.settings),
        memory: first.memory.as_deref(),
        wall: &first.wall,
    }
}

pub(super) fn explain(context: &Context, flags: &ExplainFlags) -> Outcome {
    let journal = journal_file(context, flags.journal.as_deref())?;
    let found = crate::journal::read_decision(&journal, flags.id).map_err(Failure::of)?;
    let Some(record) = found else {
        return Err(Failure::Failed(anyhow::anyhow!(
            "no decision {} in {} (see `staffetta status` for the newest numbers)",
            flags.id,
            journal.display()
        )));
    };
    let kind = Kind::from_name(&record.first.kind).ok_or_else(|| {
        Failure::Failed(anyhow::anyhow!("decision {} is of an unknown kind", flags.id))
    })?;
    let mut shelf = Shelf::new(context, flags.policy.as_deref(), None)?;
    let Some(policy) = shelf.policy(kind, &record.first.digest)? else {
        return Err(Failure::Failed(anyhow::anyhow!(
            "decision {} was made by the policy {}, which is not here: name its file with --policy",
            flags.id,
            record.first.digest
        )));
    };
    let unreadable = |why: String| anyhow::anyhow!("decision {}: {why}", flags.id);
    let recorded = recorded(&record, None);
    let again = replay(policy, &recorded).map_err(unreadable).map_err(Failure::of)?;
    let changes = otherwise(policy, &recorded).map_err(unreadable).map_err(Failure::of)?;
    let was: Value = serde_json::from_str(&record.first.verdict).unwrap_or(Value::Null);
    let same = again.verdict == was;
    context.print(
        &json!({ "decision": record, "replayed": again, "same": same, "otherwise": changes }),
        || {
            let first = &record.first;
            let mut lines = vec![
                format!(
                    "#{} {}: {} -> {}",
                    record.id,
                    rfc3339(first.at_unix_ms),
                    plain(&first.question),
                    plain(&first.intent)
                ),
                format!("  because {}", plain(&first.reason)),
            ];
            let evidence = was.get("because").and_then(Value::as_array);
            for line in evidence.into_iter().flatten().filter_map(Value::as_str) {
                lines.push(format!("          {}", plain(line)));
            }
            for attempt in &first.attempts {
                lines.push(format!("  failed before it: {}", plain(attempt)));
            }
            lines.push(if same {
                format!("  decided again by {}: the same, {} fuel", policy.digest(), again.fuel)
            } else {
                let (decided, reason) = (plain(&again.decided), plain(&again.reason));
                format!("  decided again by {}: {decided}: {reason}", policy.digest())
            });
            if changes.is_empty() {
                lines.push("  no single piece of evidence would have changed it".into());
            }
            for one in &changes {
                let (decided, reason) = (plain(&one.decided), plain(&one.reason));
                lines.push(format!("  if {}: {decided}: {reason}", plain(&one.change)));
            }
            lines.join("\n")
        },
    );
    Ok(())
}

/// The journal that was named, or that of the configuration.
fn journal_file(context: &Context, named: Option<&Path>) -> Result<PathBuf, Failure> {
    let file = match named {
        Some(file) => file.to_owned(),
        None => context.load()?.journal_file(),
    };
    if file.is_file() {
        return Ok(file);
    }
    let file = file.display();
    Err(Failure::Usage(format!("no journal at {file}: name one, or the node's --config")))
}

/// Policies at hand: the one that was named, or those that may have decided.
struct Shelf {
    engine: Engine,
    config: Option<Config>,
    named: bool,
    loaded: Vec<Policy>,
}

impl Shelf {
    fn new(
        context: &Context,
        named: Option<&Path>,
        settings: Option<String>,
    ) -> Result<Shelf, Failure> {
        let engine = Engine::new(Limits::default()).map_err(Failure::of)?;
        // A journal can be looked at on a machine that has no configuration.
        let config = context.load().ok();
        let mut shelf = Shelf { engine, config, named: named.is_some(), loaded: Vec::new() };
        if let Some(file) = named {
            let component = std::fs::read(file).map_err(|error| {
                Failure::Usage(format!("cannot read the policy {}: {error}", file.display()))
            })?;
            let kind = cli::kinds(&component).map_err(Failure::of)?.into_iter().next();
            let loaded = shelf.load(kind.unwrap_or(Kind::Failover), &component, settings);
            shelf.loaded.push(loaded.map_err(|error| {
                Failure::Failed(anyhow::anyhow!("{}: {error}", file.display()))
            })?);
        }
        Ok(shelf)
    }

    fn load(
        &self,
        kind: Kind,
        component: &[u8],
        settings: Option<String>,
    ) -> Result<Policy, staffetta_policy::LoadError> {
        let settings = settings.unwrap_or_else(|| "{}".into());
        let options = GateOptions::default();
        self.engine.load(kind, component, &settings, &options, &Compile::InProcess)
    }

    /// The named policy if it is of this kind; else the one of this digest, if it is built in or
    /// configured.
    fn policy(&mut self, kind: Kind, digest: &str) -> Result<Option<&Policy>, Failure> {
        let named = self.named;
        let fits = |p: &Policy| p.kind() == kind && (named || p.digest() == digest);
        if !named && !self.loaded.iter().any(fits) {
            for component in self.candidates(kind) {
                if staffetta_policy::digest(&component) == digest {
                    let policy = self.load(kind, &component, None).map_err(Failure::of)?;
                    self.loaded.push(policy);
                }
            }
        }
        Ok(self.loaded.iter().find(|policy| fits(policy)))
    }

    fn candidates(&self, kind: Kind) -> Vec<Vec<u8>> {
        let section =
            self.config.as_ref().map(|config| crate::shell::section(&config.policies, kind));
        let site = section.and_then(|section| section.file.as_ref());
        // A file that is gone cannot be the one.
        let site = site.and_then(|file| std::fs::read(file).ok());
        [Some(crate::shell::built_in_component(kind).to_vec()), site]
            .into_iter()
            .flatten()
            .collect()
    }
}

impl Tally {
    fn as_text(&self, journal: &Path) -> String {
        let differ: u64 = self.differ.iter().map(|one| one.record.count).sum();
        let mut lines = vec![format!(
            "{}: {} decisions in {} rows decided again: {} equal, {} equal in other words, \
             {differ} differ",
            journal.display(),
            self.made,
            self.rows,
            self.equal,
            self.in_other_words
        )];
        if self.unknown_policy > 0 {
            lines.push(format!(
                "{} decisions are of another kind, or of a policy that is not here (name it with \
                 --policy)",
                self.unknown_policy
            ));
        }
        lines.extend(self.unreadable.iter().map(|text| plain(text)));
        for one in self.differ.iter().take(SHOWN_MAX) {
            let first = &one.record.first;
            lines.push(format!(
                "#{} {} {} (x{}): was {}: {}",
                one.record.id,
                show::clock(first.at_unix_ms),
                plain(&first.question),
                one.record.count,
                plain(&first.intent),
                plain(&first.reason)
            ));
            lines.push(format!("    now {}: {}", plain(&one.now), plain(&one.reason)));
        }
        if self.differ.len() > SHOWN_MAX {
            lines.push(format!("... and {} rows more", self.differ.len() - SHOWN_MAX));
        }
        lines.join("\n")
    }

    fn as_json(&self, journal: &Path) -> Value {
        let differ: Vec<Value> = self
            .differ
            .iter()
            .map(|one| {
                let first = &one.record.first;
                json!({ "id": one.record.id, "count": one.record.count,
                        "question": first.question, "was": first.intent, "reason": first.reason,
                        "now": one.now, "now_reason": one.reason })
            })
            .collect();
        json!({ "journal": journal, "rows": self.rows, "made": self.made, "equal": self.equal,
                "in_other_words": self.in_other_words, "unknown_policy": self.unknown_policy,
                "unreadable": self.unreadable, "differ": differ })
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
