//! The load gate: everything that is looked at before a component becomes a policy, in order, each
//! with an error of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest;
use ring::signature::{ED25519, UnparsedPublicKey};
use staffetta_sdk::{Context, Description, Fault, Wall, failover, license, split_brain};
use wasmtime::component::{Component, InstancePre};

use crate::compile::{Compile, CompileError};
use crate::engine::{Engine, Shared};
use crate::header;
use crate::hex;
use crate::kind::{Kind, PACKAGE, PACKAGE_VERSION, Subject};
use crate::limits::{Budget, COMPONENT_BYTES_MAX};
use crate::policy::{Exports, Failure, Policy, Runner};
use crate::state::State;

/// What precedes the digest in what is signed.
const SIGNATURE_CONTEXT: &[u8] = b"staffetta-policy-v1\0";
/// What `describe` and `check-settings` may use.
const ABOUT_BUDGET: Budget = Budget { fuel: 50_000_000, wall_ms: 1_000 };
/// Time of the smoke decision. Longer than a real one: a loaded machine must not refuse a policy.
const SMOKE_WALL_MS: u32 = 1_000;

/// What a site demands of a policy file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GateOptions {
    /// `sha256:` and the hash that the file must have.
    pub pin: Option<String>,
    /// Ed25519 public keys, one of which must have signed it. Empty: no signature is needed.
    pub trusted_keys: Vec<[u8; 32]>,
    /// The content of the `.sig` file beside it: 64 bytes, or their hexadecimal form.
    pub signature: Option<Vec<u8>>,
}

/// Why a component was not accepted as a policy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Longer than [`COMPONENT_BYTES_MAX`].
    #[error(
        "the component has {bytes} bytes, {COMPONENT_BYTES_MAX} at most are accepted (strip \
             its debug information)"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not the pinned file.
    #[error(
        "the component is {found}, the configuration pins {pinned} (change `pin`, or bring \
             back the file)"
    )]
    Pin {
        /// What the configuration says.
        pinned: String,
        /// What the file is.
        found: String,
    },
    /// The site has trusted keys, and there is no signature.
    #[error(
        "the component is not signed, but the site has trusted keys (put the signature beside \
             it as FILE.sig; `staffetta policy sign` makes it)"
    )]
    NotSigned,
    /// The signature is of another file or by another key.
    #[error("the signature of the component is not by a trusted key, or is of another file")]
    BadSignature,
    /// Neither component nor module.
    #[error("this is not a WebAssembly component: {0}")]
    NotWasm(String),
    /// A core module.
    #[error(
        "this is a core module, not a component: make it one with `staffetta policy build`, or \
             with `wasm-tools component new`"
    )]
    CoreModule,
    /// It wants something that the host does not give.
    #[error("the component imports {}, and policies may import {PACKAGE}* only: {}",
            .imports.join(", "), remedy(.imports))]
    ForbiddenImport {
        /// The names of the imports.
        imports: Vec<String>,
    },
    /// Another version of the WIT package.
    #[error(
        "the component speaks {PACKAGE}* {found}, this host speaks {PACKAGE_VERSION}: build it \
             again with the SDK of this version"
    )]
    Version {
        /// The version that it was built for.
        found: String,
    },
    /// It exports something else.
    #[error("this is no {expected} policy: {found}")]
    World {
        /// What was wanted.
        expected: Kind,
        /// What it is.
        found: String,
    },
    /// It could not be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// It does not fit the interfaces it names.
    #[error(
        "the component does not fit the interfaces it names: {0} (was it built with the WIT of \
             this version?)"
    )]
    Interface(String),
    /// It cannot say what it is.
    #[error("the policy fails when asked what it is: {0}")]
    Describe(Failure),
    /// The settings are wrong.
    #[error("the settings are refused: {}", .0.join("; "))]
    Settings(Vec<String>),
    /// It fails at an ordinary question.
    #[error("the policy fails at an ordinary question: {0}")]
    Smoke(Failure),
}

/// How to get rid of imports.
fn remedy(imports: &[String]) -> &'static str {
    if imports.iter().any(|import| import.starts_with("wasi:")) {
        "build Rust for wasm32-unknown-unknown (`staffetta policy build` does), Python with \
         `componentize-py --stub-wasi`, JavaScript with `jco componentize --backend qjs \
         --backend-qjs-stub-wasi --backend-qjs-disable-async`"
    } else {
        "a policy is a pure function; take the import out of its world"
    }
}

impl Engine {
    /// Passes a component through the gate.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with it.
    pub fn load(
        &self,
        kind: Kind,
        component: &[u8],
        settings: &str,
        options: &GateOptions,
        compile: &Compile,
    ) -> Result<Policy, LoadError> {
        if component.len() > COMPONENT_BYTES_MAX {
            return Err(LoadError::TooLarge { bytes: component.len() });
        }
        let digest = digest(component);
        authentic(component, &digest, options)?;
        header::check(component, kind)?;
        let compiled = compile.component(&self.shared.wasmtime, component)?;
        let (pre, exports) = link(&self.shared, &compiled, kind)?;
        let settings = object(settings)?;
        let runner = Runner { shared: &self.shared, pre: &pre };
        let description = describe(&runner, &exports)?;
        check_settings(&runner, &exports, &settings)?;
        let shared = Arc::clone(&self.shared);
        let policy = Policy { shared, pre, exports, kind, digest, description, settings };
        smoke(&policy)?;
        Ok(policy)
    }
}

/// `sha256:` and the hash of a component file.
pub fn digest(component: &[u8]) -> String {
    format!("sha256:{}", hex::encode(digest::digest(&digest::SHA256, component).as_ref()))
}

/// Where the signature of the component in `file` is looked for: beside it, with `.sig` appended.
pub fn signature_file(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".sig");
    PathBuf::from(name)
}

/// What the signature of a component is of.
pub fn signed_bytes(component: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE_CONTEXT.to_vec();
    bytes.extend_from_slice(digest::digest(&digest::SHA256, component).as_ref());
    bytes
}

fn authentic(component: &[u8], digest: &str, options: &GateOptions) -> Result<(), LoadError> {
    if let Some(pinned) = &options.pin
        && !pinned.eq_ignore_ascii_case(digest)
    {
        return Err(LoadError::Pin { pinned: pinned.clone(), found: digest.to_string() });
    }
    if options.trusted_keys.is_empty() {
        return Ok(());
    }
    let signature = options.signature.as_deref().ok_or(LoadError::NotSigned)?;
    let signature = match signature.len() {
        64 => signature.to_vec(),
        _ => std::str::from_utf8(signature)
            .ok()
            .and_then(|text| hex::decode(text.trim()))
            .ok_or(LoadError::BadSignature)?,
    };
    let signed = signed_bytes(component);
    let verifies =
        |key: &[u8; 32]| UnparsedPublicKey::new(&ED25519, key).verify(&signed, &signature).is_ok();
    if options.trusted_keys.iter().any(verifies) { Ok(()) } else { Err(LoadError::BadSignature) }
}

fn link(
    shared: &Shared,
    component: &Component,
    kind: Kind,
) -> Result<(InstancePre<State>, Exports), LoadError> {
    let pre = shared
        .linker
        .instantiate_pre(component)
        .map_err(|error| LoadError::Interface(format!("{error:#}")))?;
    let find = |interface: &str, function: &str| {
        let missing = || LoadError::Interface(format!("{interface} has no {function}"));
        let instance = component.get_export_index(None, interface).ok_or_else(missing)?;
        component.get_export_index(Some(&instance), function).ok_or_else(missing)
    };
    let about = format!("{PACKAGE}about@{PACKAGE_VERSION}");
    let exports = Exports {
        describe: find(&about, "describe")?,
        check_settings: find(&about, "check-settings")?,
        answer: find(&kind.interface(), kind.function())?,
    };
    Ok((pre, exports))
}

/// Settings are an object; none is an empty one.
fn object(settings: &str) -> Result<String, LoadError> {
    if settings.trim().is_empty() {
        return Ok("{}".to_string());
    }
    match serde_json::from_str::<serde_json::Value>(settings) {
        Ok(serde_json::Value::Object(_)) => Ok(settings.to_string()),
        Ok(_) => Err(LoadError::Settings(vec!["a JSON object is expected".to_string()])),
        Err(error) => Err(LoadError::Settings(vec![format!("not JSON: {error}")])),
    }
}

fn describe(runner: &Runner<'_>, exports: &Exports) -> Result<Description, LoadError> {
    let ran = runner.run::<(), (Description,)>(&exports.describe, (), ABOUT_BUDGET);
    let (description,) = ran.outcome.map_err(mismatch(LoadError::Describe))?;
    Ok(description)
}

fn check_settings(runner: &Runner<'_>, exports: &Exports, settings: &str) -> Result<(), LoadError> {
    let ran = runner.run::<(&str,), (Result<(), Vec<String>>,)>(
        &exports.check_settings,
        (settings,),
        ABOUT_BUDGET,
    );
    match ran.outcome {
        Ok((Ok(()),)) => Ok(()),
        Ok((Err(lines),)) => Err(LoadError::Settings(lines)),
        Err(failure) => Err(mismatch(|failure| {
            LoadError::Settings(vec![format!("the policy fails at them: {failure}")])
        })(failure)),
    }
}

/// A call that fails because the types differ is about the interface, not about the policy's doing.
fn mismatch(other: impl Fn(Failure) -> LoadError) -> impl Fn(Failure) -> LoadError {
    move |failure| match failure {
        Failure::Trapped(text) if text.contains("type mismatch") || text.contains("expected ") => {
            LoadError::Interface(text)
        }
        failure => other(failure),
    }
}

/// One ordinary question, to see that it answers at all.
fn smoke(policy: &Policy) -> Result<(), LoadError> {
    match policy.kind {
        Kind::Failover => ask::<failover::Situation>(policy),
        Kind::License => ask::<license::Situation>(policy),
        Kind::SplitBrain => ask::<split_brain::Situation>(policy),
    }
}

fn ask<S: Subject>(policy: &Policy) -> Result<(), LoadError> {
    let wall = Wall { unix_s: 1_767_571_200, weekday: 1, trusted: true, ..Wall::default() };
    let context = Context { settings: policy.settings.clone(), memory: None, wall };
    let budget = Budget { wall_ms: SMOKE_WALL_MS, ..S::KIND.budget() };
    match policy.decide(&S::smoke(), &context, budget).outcome {
        // It may need evidence that the canned question does not have.
        Ok(_) | Err(Failure::Fault(Fault::CannotDecide(_))) => Ok(()),
        Err(Failure::Fault(Fault::BadSettings(lines))) => Err(LoadError::Settings(lines)),
        Err(failure) => Err(mismatch(LoadError::Smoke)(failure)),
    }
}
