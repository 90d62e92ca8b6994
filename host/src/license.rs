//! License documents: made by a vendor, read by people. The verdict on a document is the license
//! policy's alone.
//!
//! A document is `{"payload": base64 of JSON, "signature": hex}`, signed Ed25519 over the payload's
//! bytes.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::identity::{Identity, hex, is_signed_by};

/// Bytes of a document, at most: what the policy is handed.
pub const DOCUMENT_BYTES_MAX: u64 = 64 * 1024;
/// Nodes that one license can name.
pub const NODES_MAX: usize = 16;
/// Days that one license can last, at most: a century.
pub const DAYS_MAX: u32 = 36_525;

/// The document as it lies in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LicenseDocument {
    /// Base64 of the payload's JSON.
    pub payload: String,
    /// Ed25519 signature over the payload's bytes, in hex.
    pub signature: String,
}

/// What the vendor vouches for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LicensePayload {
    /// Unique number.
    pub license_id: String,
    /// For people.
    pub customer: String,
    /// Public identity keys of the nodes, in hex.
    pub nodes: Vec<String>,
    /// Begin, seconds since 1970.
    pub not_before_s: i64,
    /// End, seconds since 1970.
    pub not_after_s: i64,
    /// Days after the end in which the pair still runs as before.
    pub grace_days: u32,
    /// What is licensed, by name.
    pub features: serde_json::Map<String, serde_json::Value>,
}

/// What is wrong with a document, before any policy judges it.
#[derive(Debug, thiserror::Error)]
pub enum LicenseError {
    /// It cannot be read.
    #[error("cannot read the license {path}: {source} (is the path right?)")]
    Read {
        /// The file.
        path: PathBuf,
        /// The answer.
        #[source]
        source: std::io::Error,
    },
    /// It is too long.
    #[error(
        "the license {path} is {bytes} bytes long, at most {DOCUMENT_BYTES_MAX} are allowed \
             (is this the right file?)"
    )]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// It is no document.
    #[error("this is not a license document: {0} (ask the vendor for it again)")]
    Malformed(String),
}

/// A document with its signature looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenedLicense {
    /// What it says.
    pub payload: LicensePayload,
    /// Whether to believe it.
    pub signature: SignatureState,
}

/// Whether a signature holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureState {
    /// Made with this key, in hex.
    By(String),
    /// No trusted key made it.
    ByNobodyTrusted,
    /// There was no key to compare with.
    NotCompared,
}

/// Signs a payload with the vendor's key.
///
/// # Errors
/// When the payload cannot be written as JSON.
pub fn sign(key: &Identity, payload: &LicensePayload) -> Result<LicenseDocument, LicenseError> {
    let bytes = serde_json::to_vec(payload).map_err(|e| LicenseError::Malformed(e.to_string()))?;
    Ok(LicenseDocument { signature: hex(&key.sign(&bytes)), payload: STANDARD.encode(&bytes) })
}

/// Reads a document and compares its signature with `trusted`.
///
/// # Errors
/// When it is no document.
pub fn open(text: &str, trusted: &[[u8; 32]]) -> Result<OpenedLicense, LicenseError> {
    let malformed = LicenseError::Malformed;
    let document: LicenseDocument = serde_json::from_str(text)
        .map_err(|e| malformed(format!("{{\"payload\", \"signature\"}} is expected, {e}")))?;
    let bytes = STANDARD
        .decode(document.payload.trim())
        .map_err(|e| malformed(format!("the payload is not base64, {e}")))?;
    let signature = crate::config::parse_hex::<64>(document.signature.trim())
        .ok_or_else(|| malformed("the signature is not 128 hex digits".to_owned()))?;
    let payload = serde_json::from_slice(&bytes)
        .map_err(|e| malformed(format!("the payload is not as expected, {e}")))?;
    let signer = trusted.iter().find(|key| is_signed_by(key, &bytes, &signature));
    let signature = match signer {
        Some(key) => SignatureState::By(hex(key)),
        None if trusted.is_empty() => SignatureState::NotCompared,
        None => SignatureState::ByNobodyTrusted,
    };
    Ok(OpenedLicense { payload, signature })
}

/// Reads the file of a document; none when there is no such file.
///
/// # Errors
/// When it is there but too long or unreadable.
pub fn read_document(path: &Path) -> Result<Option<Vec<u8>>, LicenseError> {
    let fail = |source| LicenseError::Read { path: path.to_owned(), source };
    let bytes = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail(e)),
    };
    if bytes > DOCUMENT_BYTES_MAX {
        return Err(LicenseError::TooLong { path: path.to_owned(), bytes });
    }
    std::fs::read(path).map(Some).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload() -> LicensePayload {
        LicensePayload {
            license_id: "1".into(),
            customer: "Casa Rossi".into(),
            nodes: vec!["aa".repeat(32), "bb".repeat(32)],
            not_before_s: 1_700_000_000,
            not_after_s: 1_800_000_000,
            grace_days: 14,
            features: [("channels".to_owned(), 30.into())].into_iter().collect(),
        }
    }

    #[test]
    fn what_is_signed_opens_and_what_is_changed_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let vendor = Identity::create(&dir.path().join("vendor")).unwrap();
        let document = sign(&vendor, &payload()).unwrap();
        let text = serde_json::to_string(&document).unwrap();
        let opened = open(&text, &[[9; 32], vendor.public()]).unwrap();
        assert_eq!(opened.payload, payload());
        assert_eq!(opened.signature, SignatureState::By(vendor.public_hex()));
        assert_eq!(open(&text, &[]).unwrap().signature, SignatureState::NotCompared);
        assert_eq!(open(&text, &[[9; 32]]).unwrap().signature, SignatureState::ByNobodyTrusted);

        let longer = LicensePayload { grace_days: 9999, ..payload() };
        let forged = LicenseDocument {
            payload: STANDARD.encode(serde_json::to_vec(&longer).unwrap()),
            ..document
        };
        let text = serde_json::to_string(&forged).unwrap();
        let opened = open(&text, &[vendor.public()]).unwrap();
        assert_eq!(opened.signature, SignatureState::ByNobodyTrusted);
    }

    #[test]
    fn what_is_no_document_is_said() {
        let cases = [
            ("", "is expected"),
            ("{}", "missing field `payload`"),
            ("{\"payload\":\"*\",\"signature\":\"\"}", "the payload is not base64"),
            ("{\"payload\":\"e30=\",\"signature\":\"ab\"}", "the signature is not 128 hex digits"),
        ];
        for (text, words) in cases {
            let said = open(text, &[]).expect_err(text).to_string();
            assert!(said.contains(words) && said.contains("ask the vendor"), "{said}");
        }
        let unsigned = format!("{{\"payload\":\"e30=\",\"signature\":\"{}\"}}", "00".repeat(64));
        let said = open(&unsigned, &[]).expect_err("empty").to_string();
        assert!(said.contains("missing field `license_id`"), "{said}");
    }
}
