//! From the configuration's `[arbiter]` to a client: reads the files that it names.

use crate::config::{ArbiterConfig, Config, ConfigError};
use crate::private_file;
use staffetta_arbiter::{Client, Credentials, Identity, Tls};
use std::path::Path;

/// Certificates and keys in PEM are shorter than this.
const PEM_BYTES_MAX: u64 = 256 * 1024;
/// Passwords are shorter than this.
const PASSWORD_BYTES_MAX: u64 = 4 * 1024;

/// The client of the configured arbiter; none where none is configured.
///
/// # Errors
/// When a file that `[arbiter]` names cannot be used: names it and the remedy.
pub fn client(config: &Config) -> Result<Option<Client>, ConfigError> {
    let Some(arbiter) = &config.arbiter else { return Ok(None) };
    let names = match config.side_index() {
        0 => [config.node.name.clone(), config.peer.name.clone()],
        _ => [config.peer.name.clone(), config.node.name.clone()],
    };
    let settings = staffetta_arbiter::ArbiterConfig {
        endpoints: arbiter.endpoints.clone(),
        tls: tls(arbiter)?,
        auth: login(arbiter)?,
        prefix: arbiter.prefix.clone(),
        cluster_id: config.cluster.id.iter().map(|byte| format!("{byte:02x}")).collect(),
        names,
    };
    let wrong = |text: String| ConfigError { path: config.path.clone(), line: None, text };
    Client::new(settings).map(Some).map_err(|error| wrong(error.to_string()))
}

fn tls(arbiter: &ArbiterConfig) -> Result<Option<Tls>, ConfigError> {
    let Some(ca_file) = &arbiter.ca_file else { return Ok(None) };
    let identity = match &arbiter.identity_files {
        None => None,
        Some((cert, key)) => {
            Some(Identity { cert_pem: open(cert)?, key_pem: private(key, PEM_BYTES_MAX)? })
        }
    };
    Ok(Some(Tls { ca_pem: open(ca_file)?, identity }))
}

fn login(arbiter: &ArbiterConfig) -> Result<Option<Credentials>, ConfigError> {
    let Some((user, file)) = &arbiter.login else { return Ok(None) };
    let bytes = private(file, PASSWORD_BYTES_MAX)?;
    let wrong = |text: &str| ConfigError { path: file.clone(), line: None, text: text.into() };
    let text = String::from_utf8(bytes).map_err(|_| wrong("the password is not UTF-8 text"))?;
    let password = text.trim_end_matches(['\r', '\n']).to_owned();
    if password.is_empty() {
        return Err(wrong("the password file is empty: write the password of etcd's user into it"));
    }
    Ok(Some(Credentials { user: user.clone(), password }))
}

/// A file that everybody may read.
fn open(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let wrong = |text: String| ConfigError { path: path.to_owned(), line: None, text };
    let size = std::fs::metadata(path)
        .map_err(|e| wrong(format!("cannot read the certificate: {e} (is the path right?)")))?
        .len();
    if size > PEM_BYTES_MAX {
        return Err(wrong(format!("{size} bytes is too long for a certificate")));
    }
    std::fs::read(path).map_err(|e| wrong(format!("cannot read the certificate: {e}")))
}

fn private(path: &Path, bytes_max: u64) -> Result<Vec<u8>, ConfigError> {
    private_file::read(path, bytes_max).map_err(|error| ConfigError {
        path: path.to_owned(),
        line: None,
        text: error.to_string(),
    })
}
