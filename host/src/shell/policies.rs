//! Brings policies into force: the built-in ones always, the site's through the load gate.

use crate::api::PolicyKind;
use crate::config::{Config, PoliciesConfig, PolicyConfig};
use staffetta_policy::{
    COMPONENT_BYTES_MAX, Compile, Engine, GateOptions, Kind, LoadError, Policy, signature_file,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A signature file, at most: 128 hex digits and white space around them.
const SIGNATURE_BYTES_MAX: u64 = 256;

/// What is needed to load a policy; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Loader {
    engine: Engine,
    compile: Compile,
    license_keys: Vec<String>,
    configured: PoliciesConfig,
}

/// A policy file that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyFileError {
    #[error("policy {path}: {error} (is the path right, and readable for the daemon?)")]
    Read { path: PathBuf, error: std::io::Error },
    #[error(
        "signature {path}: {error} (make it readable for the daemon, or sign the policy again)"
    )]
    Signature { path: PathBuf, error: std::io::Error },
    #[error("policy {path}: {error}")]
    Load { path: PathBuf, error: LoadError },
}

/// What a configuration says about policies of a kind.
pub(crate) fn section(policies: &PoliciesConfig, kind: Kind) -> &PolicyConfig {
    match kind {
        Kind::Failover => &policies.failover,
        Kind::License => &policies.license,
        Kind::SplitBrain => &policies.split_brain,
    }
}

/// The embedded policy of a kind.
pub(crate) fn built_in_component(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::Failover => staffetta_bundle::FAILOVER,
        Kind::License => staffetta_bundle::LICENSE,
        Kind::SplitBrain => staffetta_bundle::SPLIT_BRAIN,
    }
}

impl Loader {
    pub(crate) fn new(config: &Config, engine: Engine) -> Loader {
        Loader {
            engine,
            compile: Compile::child(Some(config.node.state_dir.join("compiled"))),
            license_keys: config
                .license
                .trusted_keys
                .iter()
                .map(|key| crate::identity::hex(key))
                .collect(),
            configured: config.policies.clone(),
        }
    }

    /// What the configuration says about policies of this kind.
    pub(crate) fn section(&self, kind: Kind) -> &PolicyConfig {
        section(&self.configured, kind)
    }

    /// The embedded policy of a kind. It runs with the site's settings only where no site policy is
    /// configured.
    pub(crate) fn built_in(&self, kind: Kind) -> Result<Arc<Policy>, LoadError> {
        let component = built_in_component(kind);
        let section = self.section(kind);
        let settings = if section.file.is_some() { None } else { Some(&section.settings) };
        let settings = self.settings(kind, settings);
        let options = GateOptions::default();
        self.engine.load(kind, component, &settings, &options, &self.compile).map(Arc::new)
    }

    /// The policy that the configuration names, if it names one.
    pub(crate) fn configured(&self, kind: Kind) -> Result<Option<Arc<Policy>>, PolicyFileError> {
        let section = self.section(kind);
        let Some(path) = &section.file else { return Ok(None) };
        let pin = section.pin.map(|pin| format!("sha256:{}", crate::identity::hex(&pin)));
        self.file(kind, path, pin, Some(&section.settings)).map(Some)
    }

    /// A policy from a file.
    pub(crate) fn file(
        &self,
        kind: Kind,
        path: &Path,
        pin: Option<String>,
        settings: Option<&serde_json::Map<String, serde_json::Value>>,
    ) -> Result<Arc<Policy>, PolicyFileError> {
        let read = |error| PolicyFileError::Read { path: path.to_owned(), error };
        let component = read_at_most(path, COMPONENT_BYTES_MAX as u64 + 1).map_err(read)?;
        let trusted_keys = self.configured.trusted_keys.clone();
        let signature = if trusted_keys.is_empty() { None } else { signature_beside(path)? };
        let options = GateOptions { pin, trusted_keys, signature };
        let settings = self.settings(kind, settings);
        self.engine
            .load(kind, &component, &settings, &options, &self.compile)
            .map(Arc::new)
            .map_err(|error| PolicyFileError::Load { path: path.to_owned(), error })
    }

    fn settings(
        &self,
        kind: Kind,
        settings: Option<&serde_json::Map<String, serde_json::Value>>,
    ) -> String {
        let mut settings = settings.cloned().unwrap_or_default();
        match kind {
            Kind::License if !self.license_keys.is_empty() => {
                settings.insert("trusted_keys".into(), self.license_keys.clone().into());
            }
            Kind::License | Kind::Failover | Kind::SplitBrain => {}
        }
        serde_json::Value::Object(settings).to_string()
    }
}

/// The signature beside a policy file; none where there is no such file. One that is there and
/// cannot be read is not the same as none.
fn signature_beside(policy: &Path) -> Result<Option<Vec<u8>>, PolicyFileError> {
    let path = signature_file(policy);
    match read_at_most(&path, SIGNATURE_BYTES_MAX + 1) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(PolicyFileError::Signature { path, error }),
    }
}

/// Limits are read with one byte more than the load gate takes, so that it is the gate that says
/// what is wrong.
fn read_at_most(path: &Path, max: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(crate) fn kind_of(kind: PolicyKind) -> Kind {
    match kind {
        PolicyKind::Failover => Kind::Failover,
        PolicyKind::License => Kind::License,
        PolicyKind::SplitBrain => Kind::SplitBrain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_that_cannot_be_read_is_not_a_missing_one() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("site.wasm");
        assert!(signature_beside(&policy).unwrap().is_none());
        let file = dir.path().join("site.wasm.sig");
        std::fs::create_dir(&file).unwrap();
        let said = signature_beside(&policy).expect_err("a folder").to_string();
        assert!(said.starts_with(&format!("signature {}: ", file.display())), "{said}");
        assert!(said.contains("sign the policy again"), "{said}");
        std::fs::remove_dir(&file).unwrap();
        std::fs::write(&file, [b'a'; 4096]).unwrap();
        let bytes = signature_beside(&policy).unwrap().expect("it is there");
        assert_eq!(bytes.len() as u64, SIGNATURE_BYTES_MAX + 1);
    }
}
