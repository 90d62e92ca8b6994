//! The license document: signed, and about named nodes.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use staffetta_sdk::{Fact, Value};

/// Longest document that is looked at.
const DOCUMENT_BYTES_MAX: usize = 64 * 1024;
/// Longest grace that a license can give.
const GRACE_DAYS_MAX: u32 = 3_650;

/// What is signed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct License {
    /// Its number.
    pub license_id: String,
    /// Who it was issued to.
    pub customer: String,
    /// Identities of the nodes that it is for: Ed25519 public keys in hexadecimal.
    pub nodes: Vec<String>,
    /// Start of the term, seconds since 1970.
    pub not_before_s: i64,
    /// End of the term, seconds since 1970.
    pub not_after_s: i64,
    /// Days after the term in which it is still honored.
    #[serde(default)]
    pub grace_days: u32,
    /// What it includes.
    #[serde(default)]
    pub features: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    payload: String,
    signature: String,
}

/// Reads a document and checks its signature against the trusted keys.
///
/// # Errors
///
/// A sentence that says what is wrong with it.
pub fn read(bytes: &[u8], trusted_keys: &[String]) -> Result<License, String> {
    if bytes.len() > DOCUMENT_BYTES_MAX {
        return Err(format!("the document is longer than {DOCUMENT_BYTES_MAX} bytes"));
    }
    let document: Document = serde_json::from_slice(bytes)
        .map_err(|error| format!("the document is not readable ({error})"))?;
    let payload = STANDARD
        .decode(document.payload.as_bytes())
        .map_err(|error| format!("its payload is not base64 ({error})"))?;
    let signature = bytes_of::<64>(&document.signature)
        .ok_or("its signature is not 64 bytes in hexadecimal")?;
    let signature = Signature::from_bytes(&signature);
    let signed = |key: &VerifyingKey| key.verify_strict(&payload, &signature).is_ok();
    if !trusted_keys.iter().filter_map(|text| key(text)).any(|key| signed(&key)) {
        let why = "it is not signed by a trusted key: ask the vendor for a new one, or add the key \
                   to license.trusted_keys";
        return Err(why.to_string());
    }
    serde_json::from_slice(&payload)
        .map_err(|error| format!("its payload is not a license ({error})"))
}

/// A public key in hexadecimal.
pub(crate) fn key(text: &str) -> Option<VerifyingKey> {
    VerifyingKey::from_bytes(&bytes_of::<32>(text)?).ok()
}

fn bytes_of<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits?;
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = (pair[0] * 16 + pair[1]) as u8;
    }
    Some(bytes)
}

impl License {
    /// Whether a node's identity is in it.
    pub fn is_for(&self, identity: &[u8]) -> bool {
        let is = |node: &String| bytes_of::<32>(node).is_some_and(|node| node == identity);
        self.nodes.iter().any(is)
    }

    /// End of the grace, seconds since 1970.
    pub fn grace_until_s(&self) -> i64 {
        let grace_s = i64::from(self.grace_days.min(GRACE_DAYS_MAX)) * 86_400;
        self.not_after_s.saturating_add(grace_s)
    }

    /// What it includes, as facts.
    pub fn features(&self) -> Vec<Fact> {
        let fact = |(name, value): (&String, &serde_json::Value)| {
            let value = match value {
                serde_json::Value::Bool(flag) => Value::Flag(*flag),
                serde_json::Value::Number(number) if number.is_i64() => {
                    Value::Number(number.as_i64().unwrap_or_default())
                }
                serde_json::Value::String(text) => Value::Text(text.clone()),
                other => Value::Text(other.to_string()),
            };
            Fact { name: name.clone(), value, age: 0 }
        };
        self.features.iter().map(fact).collect()
    }
}
