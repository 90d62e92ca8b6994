//! `staffetta policy build` and `staffetta policy new`: from a crate to a component, and a first
//! crate to begin with.

mod nested;

use std::io;
use std::path::{Path, PathBuf};

pub use nested::NestedError;

/// Folder of the nested cargo, under the crate.
const TARGET_DIR: &str = "target/policies";

const CARGO_TOML: &str = include_str!("template/Cargo.toml.txt");
const LIB_RS: &str = include_str!("template/lib.rs.txt");
const README: &str = include_str!("template/README.md.txt");
const GITIGNORE: &str = "target\n*.wasm\n";

/// Why no component, or no crate, was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The crate did not become a component.
    #[error(transparent)]
    Nested(#[from] NestedError),
    /// A file could not be written.
    #[error("cannot write {path}: {error}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// There is something already.
    #[error("{0} exists: name another folder")]
    Exists(PathBuf),
    /// Not a name of a crate.
    #[error(
        "\"{0}\" is no name for a policy: use lower-case letters, digits and -, and begin with \
             a letter"
    )]
    Name(String),
}

/// Builds the policy crate in `dir` and returns the file of its component: `out`, or
/// `NAME.wasm` in the crate.
///
/// # Errors
///
/// When cargo, the target or a policy in the crate is missing.
pub fn build(dir: &Path, out: Option<&Path>) -> Result<PathBuf, BuildError> {
    let root = dir.canonicalize().map_err(|_| NestedError::NoCrate(dir.to_path_buf()))?;
    let component = nested::component(&root, &root.join(TARGET_DIR), &[root.as_path()], false)?;
    let out = match out {
        Some(out) => out.to_path_buf(),
        None => dir.join(format!("{}.wasm", crate_name(&root))),
    };
    let failed = |error| BuildError::Write { path: out.clone(), error };
    std::fs::write(&out, component).map_err(failed)?;
    Ok(out)
}

/// Makes a component of a core module that was built with the SDK.
///
/// # Errors
///
/// When the module holds no policy.
pub fn componentize(module: &[u8]) -> Result<Vec<u8>, BuildError> {
    Ok(nested::componentize(module)?)
}

/// The name in a crate's Cargo.toml, or else of its folder.
fn crate_name(root: &Path) -> String {
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap_or_default();
    let line = manifest.lines().find_map(|line| line.trim().strip_prefix("name"));
    let name = line.and_then(|line| line.split('"').nth(1)).map(str::to_string);
    let folder = || root.file_name().map(|name| name.to_string_lossy().into_owned());
    name.or_else(folder).unwrap_or_else(|| "policy".to_string())
}

/// Makes the crate of a failover policy in `dir`. `sdk` is its line of dependency on the SDK, such
/// as `{ path = "../sdk" }` or `{ git = "https://…" }`.
///
/// # Errors
///
/// When the folder exists or cannot be written.
pub fn new(dir: &Path, name: &str, sdk: &str) -> Result<(), BuildError> {
    let fits = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !fits {
        return Err(BuildError::Name(name.to_string()));
    }
    if dir.exists() {
        return Err(BuildError::Exists(dir.to_path_buf()));
    }
    let files = [
        ("Cargo.toml", CARGO_TOML),
        ("src/lib.rs", LIB_RS),
        ("README.md", README),
        (".gitignore", GITIGNORE),
    ];
    for (file, template) in files {
        let path = dir.join(file);
        let text = template.replace("{{name}}", name).replace("{{sdk}}", sdk);
        let parent = path.parent().unwrap_or(dir);
        std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|error| BuildError::Write { path, error })?;
    }
    Ok(())
}
