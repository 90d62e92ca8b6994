//! `policy new | build | check | run | load | rollback | list`.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};
use staffetta_policy::{build, cli};

use super::flags::PolicyVerb;
use super::{Context, Failure, Outcome, ask, replay, show};
use crate::api::PolicyKind;

/// Bytes of a settings file, at most: more than any policy reads.
const SETTINGS_BYTES_MAX: u64 = 64 * 1024;

pub(super) fn policy(context: &Context, verb: PolicyVerb) -> Outcome {
    match verb {
        PolicyVerb::New { dir, sdk } => new(context, &dir, &sdk),
        PolicyVerb::Build { dir, output } => {
            let file = build::build(&dir, output.as_deref()).map_err(Failure::of)?;
            context.print(&json!({ "file": file }), || {
                format!(
                    "{} built; next: `staffetta policy check {}`",
                    file.display(),
                    file.display()
                )
            });
            Ok(())
        }
        PolicyVerb::Check { file, settings } => {
            let settings = read_settings(settings.as_deref())?.unwrap_or_else(|| json!({}));
            let report = cli::check(&file, None, &settings.to_string()).map_err(Failure::of)?;
            context.print(&value(&report)?, || report.to_string());
            Ok(())
        }
        PolicyVerb::Run { file, situation, settings } => {
            let settings = read_settings(settings.as_deref())?.map(|value| value.to_string());
            let report = cli::run(&file, None, &situation, settings.as_deref());
            let report = report.map_err(Failure::of)?;
            context.print(&value(&report)?, || report.to_string());
            if report.ok { Ok(()) } else { Err(Failure::FailedQuietly) }
        }
        PolicyVerb::Replay(flags) => replay::run(context, &flags),
        PolicyVerb::Explain(flags) => replay::explain(context, &flags),
        PolicyVerb::Load { kind, file, settings } => load(context, kind, &file, settings),
        PolicyVerb::Rollback { kind } => {
            ask::order(context, "policy/rollback", &json!({ "kind": kind }))
        }
        PolicyVerb::List => list(context),
    }
}

fn new(context: &Context, dir: &Path, sdk: &str) -> Outcome {
    let name = dir.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    build::new(dir, &name, sdk).map_err(Failure::of)?;
    context.print(&json!({ "dir": dir, "name": name }), || {
        format!(
            "{} made; next: `cargo test` in it, then `staffetta policy build {}`",
            dir.display(),
            dir.display()
        )
    });
    Ok(())
}

fn load(context: &Context, kind: PolicyKind, file: &Path, settings: Option<PathBuf>) -> Outcome {
    // The daemon opens the file: it needs the name as seen from everywhere.
    let file = file.canonicalize().map_err(|error| {
        Failure::Usage(format!("{}: {error} (is the path right?)", file.display()))
    })?;
    let mut body = json!({ "kind": kind, "file": file });
    if let Some(settings) = read_settings(settings.as_deref())? {
        body["settings"] = settings;
    }
    ask::order(context, "policy/load", &body)
}

fn list(context: &Context) -> Outcome {
    let (json, status) = context.ask_status()?;
    context.print(&json["policies"], || {
        let policies = &status.policies;
        [
            show::policy("failover", &policies.failover),
            show::policy("license", &policies.license),
            show::policy("split-brain", &policies.split_brain),
        ]
        .join("\n")
    });
    Ok(())
}

pub(super) fn read_settings(file: Option<&Path>) -> Result<Option<Value>, Failure> {
    let Some(file) = file else { return Ok(None) };
    let usage = |text: String| Failure::Usage(format!("{}: {text}", file.display()));
    let size = std::fs::metadata(file).map_err(|e| usage(e.to_string()))?.len();
    if size > SETTINGS_BYTES_MAX {
        return Err(usage(format!(
            "{size} bytes of settings are too many (at most {SETTINGS_BYTES_MAX})"
        )));
    }
    let text = std::fs::read_to_string(file).map_err(|e| usage(e.to_string()))?;
    let value: Value = serde_json::from_str(&text).map_err(|e| {
        usage(format!(
            "not JSON: {e} (write an object like {{\"failback\": \
                                    \"never\"}})"
        ))
    })?;
    if !value.is_object() {
        return Err(usage("settings are an object: write {\"name\": value}".to_owned()));
    }
    Ok(Some(value))
}

fn value(report: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(report).map_err(Failure::of)
}
