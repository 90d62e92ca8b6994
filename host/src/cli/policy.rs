//! `policy new | build | check | run | load | rollback | list | keygen | sign`.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};
use staffetta_policy::{COMPONENT_BYTES_MAX, build, cli, digest, signature_file, signed_bytes};

use super::flags::PolicyVerb;
use super::{Context, Failure, Outcome, ask, replay, show};
use crate::api::PolicyKind;
use crate::identity::{Identity, IdentityError, hex};

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
        PolicyVerb::Keygen { output } => keygen(context, &output),
        PolicyVerb::Sign { file, key, output } => {
            let output = output.unwrap_or_else(|| signature_file(&file));
            sign(context, &file, &key, &output)
        }
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

fn keygen(context: &Context, output: &Path) -> Outcome {
    let key = Identity::create(output).map_err(Failure::of)?;
    let public = key.public_hex();
    context.print(&json!({ "file": output, "public_key": public }), || {
        format!(
            "{} made: keep it secret and safe\npublic key, for policy.trusted_keys on both \
             nodes:\n{public}",
            output.display()
        )
    });
    Ok(())
}

fn sign(context: &Context, file: &Path, key: &Path, output: &Path) -> Outcome {
    let key = Identity::load(key).map_err(|error| match error {
        IdentityError::NotAKey { path } => Failure::Usage(format!(
            "{} is not an Ed25519 key in PKCS#8 (make one with `staffetta policy keygen`; from \
             OpenSSL: `openssl pkey -in KEY.pem -outform DER -out policy.key`)",
            path.display()
        )),
        IdentityError::File(_) | IdentityError::NoRandomness => Failure::of(error),
    })?;
    let usage = |text: String| Failure::Usage(format!("{}: {text}", file.display()));
    let bytes = std::fs::metadata(file).map_err(|e| usage(e.to_string()))?.len();
    if bytes > COMPONENT_BYTES_MAX as u64 {
        return Err(usage(format!(
            "{bytes} bytes are more than a policy may have ({COMPONENT_BYTES_MAX})"
        )));
    }
    let component = std::fs::read(file).map_err(|e| usage(e.to_string()))?;
    if !component.starts_with(b"\0asm") {
        return Err(usage("no WebAssembly (`staffetta policy build` makes components)".into()));
    }
    let signature = hex(&key.sign(&signed_bytes(&component)));
    write_signature(output, &signature)?;
    let (digest, public) = (digest(&component), key.public_hex());
    let json = json!({ "file": output, "digest": digest, "public_key": public });
    context.print(&json, || {
        format!(
            "{} made, of {digest}\nby {public}, which policy.trusted_keys must have\nkeep it \
             beside the component, under the component's name with .sig",
            output.display()
        )
    });
    Ok(())
}

/// A signature is no secret: whoever loads the policy must be able to read it.
fn write_signature(path: &Path, signature: &str) -> Outcome {
    let mut open = std::fs::OpenOptions::new();
    let made = open.write(true).create_new(true).mode(0o644).open(path);
    let written = made.and_then(|mut file| {
        file.write_all(format!("{signature}\n").as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::Usage(format!(
            "{} exists already and is not overwritten (remove the old signature, or name another \
             file with --out)",
            path.display()
        )),
        _ => Failure::Failed(anyhow::anyhow!("cannot write {}: {error}", path.display())),
    })
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
