//! `license keygen | sign | show`.

use serde_json::json;

use super::flags::{LicenseVerb, SignFlags};
use super::{Context, Failure, Outcome, plain};
use crate::config::parse_hex;
use crate::identity::{Identity, hex, random};
use crate::journal::{rfc3339, unix_ms_now};
use crate::license::{self, LicensePayload, OpenedLicense, SignatureState};
use crate::private_file;

const DAY_S: i64 = 86_400;

pub(super) fn license(context: &Context, verb: LicenseVerb) -> Outcome {
    match verb {
        LicenseVerb::Keygen { output } => {
            let key = Identity::create(&output).map_err(Failure::of)?;
            let public = key.public_hex();
            context.print(&json!({ "file": output, "public_key": public }), || {
                format!(
                    "{} made: keep it secret and safe\npublic key, for license.trusted_keys on \
                     every node:\n{public}",
                    output.display()
                )
            });
            Ok(())
        }
        LicenseVerb::Sign(flags) => sign(context, &flags),
        LicenseVerb::Show { file, trusted } => show(context, &file, &trusted),
    }
}

fn sign(context: &Context, flags: &SignFlags) -> Outcome {
    let key = Identity::load(&flags.key).map_err(Failure::of)?;
    if flags.node.len() > license::NODES_MAX {
        let max = license::NODES_MAX;
        return Err(Failure::Usage(format!("a license names at most {max} nodes: sign two")));
    }
    for node in &flags.node {
        if parse_hex::<32>(node).is_none() {
            return Err(Failure::Usage(format!(
                "--node {}: write 64 hex digits, as `staffetta identity` prints them on the node",
                plain(node)
            )));
        }
    }
    let now_s = unix_ms_now() / 1000;
    let payload = LicensePayload {
        license_id: hex(&random::<16>().map_err(Failure::of)?),
        customer: flags.customer.clone(),
        nodes: flags.node.iter().map(|node| node.to_ascii_lowercase()).collect(),
        not_before_s: now_s,
        not_after_s: now_s + i64::from(flags.days) * DAY_S,
        grace_days: flags.grace_days,
        features: flags.feature.iter().map(|text| feature(text)).collect::<Result<_, _>>()?,
    };
    let document = license::sign(&key, &payload).map_err(Failure::of)?;
    let mut text = serde_json::to_string_pretty(&document).map_err(Failure::of)?;
    text.push('\n');
    private_file::create(&flags.output, text.as_bytes()).map_err(Failure::of)?;
    context.print(&json!({ "file": flags.output, "payload": payload }), || {
        format!(
            "{} signed: copy it to both nodes, where license.document says",
            flags.output.display()
        )
    });
    Ok(())
}

/// `NAME=VALUE`; numbers and booleans keep their type.
fn feature(text: &str) -> Result<(String, serde_json::Value), Failure> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            let typed = match serde_json::from_str::<serde_json::Value>(value) {
                Ok(typed @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_))) => typed,
                Ok(_) | Err(_) => value.into(),
            };
            Ok((name.to_owned(), typed))
        }
        Some(_) | None => {
            let text = plain(text);
            Err(Failure::Usage(format!("--feature {text}: write it like channels=30")))
        }
    }
}

fn show(context: &Context, file: &std::path::Path, trusted: &[String]) -> Outcome {
    let keys = trusted_keys(context, trusted)?;
    let bytes = license::read_document(file).map_err(Failure::of)?.ok_or_else(|| {
        Failure::Usage(format!("there is no {}: is the path right?", file.display()))
    })?;
    let opened = license::open(&String::from_utf8_lossy(&bytes), &keys).map_err(Failure::of)?;
    let signature = match &opened.signature {
        SignatureState::By(_) => "valid",
        SignatureState::ByNobodyTrusted => "not of a trusted key",
        SignatureState::NotCompared => "not compared: name a key with --trusted",
    };
    context.print(&json!({ "payload": opened.payload, "signature": signature }), || {
        text(&opened, signature)
    });
    match opened.signature {
        SignatureState::ByNobodyTrusted => Err(Failure::FailedQuietly),
        SignatureState::By(_) | SignatureState::NotCompared => Ok(()),
    }
}

/// The keys of the command line, else those of the configuration when there is one.
fn trusted_keys(context: &Context, trusted: &[String]) -> Result<Vec<[u8; 32]>, Failure> {
    if trusted.is_empty() {
        return match context.config().exists() {
            true => Ok(context.load()?.license.trusted_keys),
            false => Ok(Vec::new()),
        };
    }
    let one = |key: &String| {
        parse_hex::<32>(key).ok_or_else(|| {
            Failure::Usage(format!("--trusted {}: a key is 64 hex digits", plain(key)))
        })
    };
    trusted.iter().map(one).collect()
}

fn text(opened: &OpenedLicense, signature: &str) -> String {
    let payload = &opened.payload;
    let day = |s: i64| rfc3339(s.saturating_mul(1000));
    let mut text = format!(
        "license     {}\ncustomer    {}\nvalid from  {}\nvalid until {}, and {} days of \
         grace\nsignature   {signature}",
        plain(&payload.license_id),
        plain(&payload.customer),
        day(payload.not_before_s),
        day(payload.not_after_s),
        payload.grace_days
    );
    for node in &payload.nodes {
        text.push_str(&format!("\nnode        {}", plain(node)));
    }
    for (name, value) in &payload.features {
        text.push_str(&format!("\nfeature     {}", plain(&format!("{name} = {value}"))));
    }
    text
}
