//! The secret that both nodes share.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::ConfigError;

/// Bytes of the secret.
pub(super) const SECRET_BYTES: usize = 32;
/// A secret file is one line of hex; anything longer is another file.
const SECRET_FILE_BYTES_MAX: u64 = 256;

/// The secret of the cluster. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; SECRET_BYTES]);

impl Secret {
    /// The bytes, to derive keys from.
    #[must_use]
    pub fn bytes(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

pub(super) fn load(path: &Path) -> Result<Secret, ConfigError> {
    let fail = |text: String| ConfigError { path: path.to_owned(), line: None, text };
    let metadata = std::fs::metadata(path).map_err(|e| {
        fail(format!(
            "cannot read the cluster's secret: {e} (`staffetta init` makes one, \
                      `staffetta join` brings it)"
        ))
    })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(fail(format!(
            "the cluster's secret is open to others (mode {mode:04o}): run `chmod 600 {}`",
            path.display()
        )));
    }
    if metadata.len() > SECRET_FILE_BYTES_MAX {
        return Err(fail("this is not a secret: 64 hex digits are needed".to_owned()));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|e| fail(format!("cannot read the cluster's secret: {e}")))?;
    match parse_hex::<SECRET_BYTES>(text.trim()) {
        Some(bytes) => Ok(Secret(bytes)),
        None => Err(fail(format!(
            "the cluster's secret must be 64 hex digits, this has {} characters (copy the file of \
             the other node)",
            text.trim().chars().count()
        ))),
    }
}

/// `N` bytes written as exactly `2 N` hex digits.
#[must_use]
pub fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}
