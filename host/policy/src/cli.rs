//! What `staffetta policy check` and `staffetta policy run` do, without a daemon.
//!
//! Reports have a form for people (`Display`) and one for programs (`Serialize`).

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use staffetta_sdk::{Context, Description, Wall, failover, license, split_brain};

use crate::compile::Compile;
use crate::engine::{Engine, EngineError};
use crate::gate::{GateOptions, LoadError, digest};
use crate::header;
use crate::kind::{Kind, Subject};
use crate::limits::{Limits, Note};
use crate::policy::{Failure, Policy};

/// Fields of a question file beside the bare situation.
const WRAPPING_FIELDS: [&str; 8] =
    ["situation", "context", "settings", "memory", "wall", "title", "expect", "question"];

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// A file could not be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// The component was refused.
    #[error("{path}: {error}")]
    Load {
        /// The file.
        path: PathBuf,
        /// By which gate.
        error: LoadError,
    },
    /// The question is not readable.
    #[error("{path} is no question for a {kind} policy: {why}")]
    Question {
        /// The file.
        path: PathBuf,
        /// The kind of the policy.
        kind: Kind,
        /// What is wrong.
        why: String,
    },
    /// No engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A policy that passed every gate.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckReport {
    /// The file.
    pub file: PathBuf,
    /// What it decides about.
    pub kind: Kind,
    /// `sha256:` and its hash.
    pub digest: String,
    /// Its size.
    pub bytes: u64,
    /// What it imports: everything that it can do.
    pub imports: Vec<String>,
    /// What it says about itself.
    pub about: Description,
    /// The settings it was checked with.
    pub settings: String,
    /// Fuel of an ordinary decision.
    pub smoke_fuel: u64,
    /// Fuel that a decision may burn.
    pub fuel_max: u64,
}

/// One answered question.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunReport {
    /// The kind of the policy.
    pub kind: Kind,
    /// `sha256:` and its hash.
    pub digest: String,
    /// The verdict, or nothing.
    pub verdict: Option<Value>,
    /// Why there is none.
    pub failure: Option<Failure>,
    /// The intent that the file expects, where it names one.
    pub expected: Option<String>,
    /// Whether a verdict was given, and the expected one.
    pub ok: bool,
    /// Fuel burnt.
    pub fuel: u64,
    /// CPU time of the decision.
    pub cpu_us: u64,
    /// What the policy logged.
    pub notes: Vec<Note>,
}

/// Passes a component file through every gate. Without `kind`, its own exports tell.
///
/// # Errors
///
/// When the file cannot be read or is refused.
pub fn check(file: &Path, kind: Option<Kind>, settings: &str) -> Result<CheckReport, CliError> {
    let (policy, component) = load(file, kind, settings)?;
    let refused = |error| CliError::Load { path: file.to_path_buf(), error };
    let imports = header::read(&component).map_err(refused)?.imports;
    let smoke_fuel = match policy.kind() {
        Kind::Failover => smoke_fuel::<failover::Situation>(&policy),
        Kind::License => smoke_fuel::<license::Situation>(&policy),
        Kind::SplitBrain => smoke_fuel::<split_brain::Situation>(&policy),
    };
    Ok(CheckReport {
        file: file.to_path_buf(),
        kind: policy.kind(),
        digest: policy.digest().to_string(),
        bytes: component.len() as u64,
        imports,
        about: policy.description().clone(),
        settings: policy.settings().to_string(),
        smoke_fuel,
        fuel_max: policy.kind().budget().fuel,
    })
}

/// Asks a component file one question: a JSON file with a situation, or with `situation`, and
/// `context` (as in the journal) or `settings`, `memory`, `wall` and `expect` (as in a test case).
///
/// # Errors
///
/// When a file cannot be read, or the component is refused.
pub fn run(
    file: &Path,
    kind: Option<Kind>,
    question: &Path,
    settings: Option<&str>,
) -> Result<RunReport, CliError> {
    let text = read(question)?;
    let parsed: Value = serde_json::from_slice(&text).unwrap_or(Value::Null);
    let own = parsed.get("settings").filter(|settings| settings.is_object());
    let recorded = parsed.pointer("/context/settings").and_then(Value::as_str);
    let settings = match (settings, own, recorded) {
        (Some(settings), _, _) => settings.to_string(),
        (None, Some(own), _) => own.to_string(),
        (None, None, Some(recorded)) => recorded.to_string(),
        (None, None, None) => "{}".to_string(),
    };
    let (policy, _) = load(file, kind, &settings)?;
    let answered = match policy.kind() {
        Kind::Failover => ask::<failover::Situation>(&policy, &text),
        Kind::License => ask::<license::Situation>(&policy, &text),
        Kind::SplitBrain => ask::<split_brain::Situation>(&policy, &text),
    };
    let wrong = |why| CliError::Question { path: question.to_path_buf(), kind: policy.kind(), why };
    answered.map_err(wrong)
}

fn read(file: &Path) -> Result<Vec<u8>, CliError> {
    std::fs::read(file).map_err(|error| CliError::Read { path: file.to_path_buf(), error })
}

fn load(file: &Path, kind: Option<Kind>, settings: &str) -> Result<(Policy, Vec<u8>), CliError> {
    let component = read(file)?;
    let engine = Engine::new(Limits::default())?;
    let refused = |error| CliError::Load { path: file.to_path_buf(), error };
    let kind = match kind {
        Some(kind) => kind,
        None => {
            let header = header::read(&component).map_err(refused)?;
            // A component that is none of them is refused as a failover policy, with the reason.
            header.kinds().next().unwrap_or(Kind::Failover)
        }
    };
    let options = GateOptions::default();
    let policy =
        engine.load(kind, &component, settings, &options, &Compile::InProcess).map_err(refused)?;
    Ok((policy, component))
}

fn smoke_fuel<S: Subject>(policy: &Policy) -> u64 {
    let context = Context { settings: policy.settings().into(), ..Context::default() };
    policy.decide(&S::smoke(), &context, S::KIND.budget()).fuel
}

fn ask<S: Subject + DeserializeOwned>(policy: &Policy, text: &[u8]) -> Result<RunReport, String> {
    let readable = |error: serde_json::Error| error.to_string();
    let parsed: Value = serde_json::from_slice(text).map_err(readable)?;
    let wrapped = parsed.get("situation").is_some();
    let empty = Map::new();
    let around = if wrapped { parsed.as_object().unwrap_or(&empty) } else { &empty };
    if let Some(unknown) = around.keys().find(|key| !WRAPPING_FIELDS.contains(&key.as_str())) {
        return Err(format!("unknown field `{unknown}` beside `situation`"));
    }
    let situation: S = match parsed.get("situation") {
        Some(situation) => S::deserialize(situation).map_err(readable)?,
        None => S::deserialize(&parsed).map_err(readable)?,
    };
    let mut context: Context = match around.get("context") {
        Some(context) => serde_json::from_value(context.clone()).map_err(readable)?,
        None => Context::default(),
    };
    context.settings = policy.settings().to_string();
    if let Some(wall) = around.get("wall") {
        context.wall = Wall::deserialize(wall).map_err(readable)?;
    }
    if let Some(memory) = around.get("memory") {
        context.memory = memory.as_str().map(str::to_string);
    }
    let expected = around.get("expect").and_then(Value::as_str).map(str::to_string);
    let decision = policy.decide(&situation, &context, S::KIND.budget());
    let (verdict, failure) = match decision.outcome {
        Ok(verdict) => (serde_json::to_value(&verdict).ok(), None),
        Err(failure) => (None, Some(failure)),
    };
    let intent = verdict.as_ref().and_then(|verdict| verdict.get("intent")).and_then(Value::as_str);
    let ok = verdict.is_some() && expected.as_deref().is_none_or(|want| intent == Some(want));
    Ok(RunReport {
        kind: policy.kind(),
        digest: policy.digest().to_string(),
        verdict,
        failure,
        expected,
        ok,
        fuel: decision.fuel,
        cpu_us: decision.cpu_us,
        notes: decision.notes,
    })
}

/// The kind that a component file exports, before anything else is looked at.
///
/// # Errors
///
/// When it is not a component at all.
pub fn kinds(component: &[u8]) -> Result<Vec<Kind>, LoadError> {
    Ok(header::read(component)?.kinds().collect())
}

/// `sha256:` and the hash of a file.
///
/// # Errors
///
/// When it cannot be read.
pub fn file_digest(file: &Path) -> Result<String, CliError> {
    Ok(digest(&read(file)?))
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let about = &self.about;
        writeln!(f, "{} is a {} policy", self.file.display(), self.kind)?;
        writeln!(f, "  {} {}: {}", about.name, about.version, about.summary)?;
        writeln!(f, "  digest    {}", self.digest)?;
        writeln!(f, "  size      {} bytes", self.bytes)?;
        writeln!(f, "  imports   {}", self.imports.join(", "))?;
        if !about.facts_used.is_empty() {
            writeln!(f, "  facts     {}", about.facts_used.join(", "))?;
        }
        writeln!(f, "  settings  {}", self.settings)?;
        write!(f, "  fuel      {} of {} in an ordinary decision", self.smoke_fuel, self.fuel_max)
    }
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(verdict) = &self.verdict {
            let text = |field: &str| verdict.get(field).and_then(Value::as_str);
            match text("intent") {
                Some(intent) => writeln!(f, "{intent}: {}", text("reason").unwrap_or_default())?,
                None => writeln!(f, "{}", text("reason").unwrap_or_default())?,
            }
            for line in verdict.get("because").and_then(Value::as_array).into_iter().flatten() {
                writeln!(f, "  because {}", line.as_str().unwrap_or_default())?;
            }
        }
        if let Some(failure) = &self.failure {
            writeln!(f, "no verdict: {failure}")?;
        }
        for note in &self.notes {
            writeln!(f, "  logged: {}", note.text)?;
        }
        if let (Some(expected), false) = (&self.expected, self.ok) {
            writeln!(f, "expected: {expected}")?;
        }
        write!(f, "{} fuel, {} us", self.fuel, self.cpu_us)
    }
}
