//! `init` and `join`: the files of a new pair.
//!
//! Promises: nothing is overwritten, nothing is left behind by a failure, and what is written
//! parses. The bundle for the peer holds the cluster's secret: it is private, and an incomplete
//! copy is noticed.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::defaults;
use crate::config::{Config, ConfigError, TimingProfile};
use crate::identity::{Identity, IdentityError, hex, random};
use crate::private_file::{self, PrivateFileError};

/// Port of a link when none is given.
pub const LINK_PORT: u16 = 7411;
/// Bytes of a bundle, at most.
const BUNDLE_BYTES_MAX: u64 = 256 * 1024;
/// Layout of a bundle.
const BUNDLE_VERSION: u32 = 1;

/// What `init` needs to know.
#[derive(Debug, Clone)]
pub struct NewPair {
    /// This node.
    pub name: String,
    /// The other node.
    pub peer: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Ends of the links: this node's and the peer's.
    pub links: Vec<(SocketAddr, SocketAddr)>,
    /// Service addresses as `ADDRESS/PREFIX` and their interfaces.
    pub vips: Vec<(String, String)>,
    /// Named times.
    pub profile: TimingProfile,
    /// Where state is kept, when not in the usual place.
    pub state_dir: Option<PathBuf>,
    /// Where the control socket is, when not in the usual place.
    pub run_dir: Option<PathBuf>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// The files, in the order in which they were made.
    pub files: Vec<PathBuf>,
    /// What the peer needs; none after a `join`.
    pub bundle: Option<PathBuf>,
    /// Public key of this node, in hex.
    pub identity: String,
}

/// Why a pair could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The options contradict each other.
    #[error("these options make no valid configuration: {0}")]
    Options(String),
    /// A file.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The folder.
    #[error(
        "cannot make the folder {path}: {source} (run as root, or choose another one with \
             --dir)"
    )]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The answer.
        #[source]
        source: std::io::Error,
    },
    /// The bundle.
    #[error(
        "{path} is not a complete bundle: {why} (copy it again from the node where `staffetta \
             init` ran)"
    )]
    Bundle {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// What the second node needs, in one file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bundle {
    staffetta_bundle: u32,
    /// The node that it is made for.
    node: String,
    /// Its configuration.
    config: String,
    /// The cluster's secret in hex.
    secret: String,
    /// Over all of the above.
    sha256: String,
}

impl Bundle {
    fn checksum(&self) -> String {
        let Bundle { staffetta_bundle, node, config, secret, sha256: _ } = self;
        let all = format!(
            "{staffetta_bundle}\n{}\n{node}\n{}\n{config}\n{secret}",
            node.len(),
            config.len()
        );
        hex(ring::digest::digest(&ring::digest::SHA256, all.as_bytes()).as_ref())
    }
}

/// Makes configuration, secret, and identity in `dir`, and the bundle for the peer.
///
/// # Errors
/// When the options contradict each other, a file exists, or the system refuses. Nothing is left
/// behind then.
pub fn init(dir: &Path, pair: &NewPair) -> Result<Written, SetupError> {
    let id = hex(&random::<16>()?);
    let secret = hex(&random::<32>()?);
    let mine = render(pair, &id);
    let theirs = render(&pair.mirrored(), &id);
    for text in [&mine, &theirs] {
        Config::parse(text, &dir.join("staffetta.toml"))
            .map_err(|ConfigError { text, .. }| SetupError::Options(text))?;
    }
    let mut bundle = Bundle {
        staffetta_bundle: BUNDLE_VERSION,
        node: pair.peer.clone(),
        config: theirs,
        secret: secret.clone(),
        sha256: String::new(),
    };
    bundle.sha256 = bundle.checksum();
    let bundle_text =
        serde_json::to_string_pretty(&bundle).map_err(|e| SetupError::Options(e.to_string()))?;
    let bundle_file = dir.join(format!("{}-{}.bundle", pair.name, pair.peer));
    let mut files = NewFiles::in_folder(dir)?;
    files.refuse_existing(&["staffetta.toml", "secret", "identity"], Some(&bundle_file))?;
    files.add("secret", format!("{secret}\n").as_bytes())?;
    let identity = files.add_identity()?;
    files.add_path(bundle_file.clone(), bundle_text.as_bytes())?;
    files.add("staffetta.toml", mine.as_bytes())?;
    Ok(Written { files: files.keep(), bundle: Some(bundle_file), identity })
}

/// Makes configuration, secret, and identity in `dir` from a bundle.
///
/// # Errors
/// When the bundle is incomplete, a file exists, or the system refuses. Nothing is left behind
/// then.
pub fn join(bundle_file: &Path, dir: &Path, dirs: &NodeDirs) -> Result<Written, SetupError> {
    let bundle = read_bundle(bundle_file)?;
    let text = dirs.put_into(&bundle.config);
    Config::parse(&text, &dir.join("staffetta.toml")).map_err(|error| SetupError::Bundle {
        path: bundle_file.to_owned(),
        why: format!("its configuration is refused by this version: {}", error.text),
    })?;
    let mut files = NewFiles::in_folder(dir)?;
    files.refuse_existing(&["staffetta.toml", "secret", "identity"], None)?;
    files.add("secret", format!("{}\n", bundle.secret).as_bytes())?;
    let identity = files.add_identity()?;
    files.add("staffetta.toml", text.as_bytes())?;
    Ok(Written { files: files.keep(), bundle: None, identity })
}

fn read_bundle(path: &Path) -> Result<Bundle, SetupError> {
    let broken = |why: String| SetupError::Bundle { path: path.to_owned(), why };
    let size = std::fs::metadata(path).map_err(|e| broken(e.to_string()))?.len();
    if size > BUNDLE_BYTES_MAX {
        return Err(broken(format!("{size} bytes are too many")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| broken(e.to_string()))?;
    let bundle: Bundle = serde_json::from_str(&text).map_err(|e| broken(e.to_string()))?;
    if bundle.staffetta_bundle != BUNDLE_VERSION {
        let version = bundle.staffetta_bundle;
        return Err(broken(format!("version {version} is not known here, {BUNDLE_VERSION} is")));
    }
    if bundle.checksum() != bundle.sha256 {
        return Err(broken("its checksum does not fit".to_owned()));
    }
    if crate::config::parse_hex::<32>(&bundle.secret).is_none() {
        return Err(broken("its secret is not 64 hex digits".to_owned()));
    }
    Ok(bundle)
}

/// Folders of one node that differ from the usual ones.
#[derive(Debug, Clone, Default)]
pub struct NodeDirs {
    /// In place of `node.state_dir`.
    pub state_dir: Option<PathBuf>,
    /// In place of `node.run_dir`.
    pub run_dir: Option<PathBuf>,
}

impl NodeDirs {
    fn put_into(&self, config: &str) -> String {
        let line = |key: &str, dir: &Option<PathBuf>| {
            dir.as_ref().map(|dir| (format!("{key} ="), format!("{key} = {}", quoted(dir))))
        };
        let changes: Vec<(String, String)> =
            [line("state_dir", &self.state_dir), line("run_dir", &self.run_dir)]
                .into_iter()
                .flatten()
                .collect();
        let mut text = String::new();
        for line in config.lines() {
            let bare = line.trim_start_matches("# ");
            let change = changes.iter().find(|(key, _)| bare.starts_with(key.as_str()));
            text.push_str(change.map_or(line, |(_, new)| new));
            text.push('\n');
        }
        text
    }
}

impl NewPair {
    /// The same pair seen from the other node. Folders are not mirrored: the other node may keep
    /// them elsewhere.
    fn mirrored(&self) -> NewPair {
        NewPair {
            name: self.peer.clone(),
            peer: self.name.clone(),
            links: self.links.iter().map(|(local, peer)| (*peer, *local)).collect(),
            state_dir: None,
            run_dir: None,
            ..self.clone()
        }
    }
}

/// The annotated configuration of one node.
fn render(pair: &NewPair, id: &str) -> String {
    let folder = |key: &str, dir: &Option<PathBuf>, default: &str| match dir {
        Some(dir) => format!("{key} = {}", quoted(dir)),
        None => format!("# {key} = {default:?}"),
    };
    let (beat, lease, delay) = defaults::profile_ms(pair.profile);
    let mut text = format!(
        "# Made by `staffetta init`. All keys are explained in examples/staffetta.toml; what is \
         commented out shows the\n\
         # default. After a change: `staffetta config check`, then restart the daemon.\n\n\
         [cluster]\nname = {:?}\nid = {id:?}   # the same on both nodes\nsecret_file = {:?}   # \
         the same on both nodes, mode 0600\n\n\
         [node]\nname = {:?}\n# site = \"\"\n# preferred = false\n{}\n{}\nidentity_file = {:?}\n\n\
         [peer]\nname = {:?}\n# site = \"\"\n# preferred = false\n\n\
         [timing]   # the same on both nodes\nprofile = {:?}\n# beat_ms = {beat}\n# lease_ms = \
         {lease}\n# link_delay_ms_max = {delay}\n",
        pair.cluster,
        defaults::SECRET_FILE,
        pair.name,
        folder("state_dir", &pair.state_dir, defaults::STATE_DIR),
        folder("run_dir", &pair.run_dir, defaults::RUN_DIR),
        defaults::IDENTITY_FILE,
        pair.peer,
        pair.profile.as_str(),
    );
    for (number, (local, peer)) in pair.links.iter().enumerate() {
        let name = if number == 0 { "lan".to_owned() } else { format!("lan{}", number + 1) };
        text.push_str(&format!(
            "\n[[link]]\nname = {name:?}\nlocal = \"{local}\"\npeer = \"{peer}\"\n# wan = false\n"
        ));
    }
    for (address, interface) in &pair.vips {
        text.push_str(&format!("\n[[vip]]\naddress = {address:?}\ninterface = {interface:?}\n"));
    }
    text.push_str(
        "\n# What both nodes should reach, outside of the pair; makes going alone safer.\n\
         # [[reference]]\n# name = \"gateway\"\n# address = \"10.77.0.254\"\n# method = \
         \"icmp\"\n\n\
         # [[check]]\n# name = \"sip\"\n# sip = \"127.0.0.1:5060\"\n",
    );
    text
}

/// A path as a TOML string.
fn quoted(path: &Path) -> String {
    toml::Value::String(path.to_string_lossy().into_owned()).to_string()
}

/// Address and port of a link's end; the port may be left out.
///
/// # Errors
/// What to write instead.
pub fn link_end(text: &str) -> Result<SocketAddr, String> {
    if let Ok(end) = text.parse::<SocketAddr>() {
        return Ok(end);
    }
    text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, LINK_PORT)).map_err(|_| {
        format!("`{text}` is not an address: write 10.77.0.1 or 10.77.0.1:{LINK_PORT}")
    })
}

/// `ADDRESS/PREFIX@INTERFACE`.
///
/// # Errors
/// What to write instead.
pub fn vip_flag(text: &str) -> Result<(String, String), String> {
    match text.split_once('@') {
        Some((address, interface)) if !interface.is_empty() => {
            Ok((address.to_owned(), interface.to_owned()))
        }
        Some(_) | None => {
            Err(format!("`{text}` names no interface: write it like 10.77.0.50/24@eth0"))
        }
    }
}

/// Files made so far; removed again unless kept.
struct NewFiles {
    dir: PathBuf,
    made: Vec<PathBuf>,
}

impl NewFiles {
    fn in_folder(dir: &Path) -> Result<NewFiles, SetupError> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(dir)
            .map_err(|source| SetupError::Folder { path: dir.to_owned(), source })?;
        Ok(NewFiles { dir: dir.to_owned(), made: Vec::new() })
    }

    fn refuse_existing(&self, names: &[&str], also: Option<&Path>) -> Result<(), SetupError> {
        let paths = names.iter().map(|name| self.dir.join(name));
        for path in paths.chain(also.map(Path::to_owned)) {
            if path.symlink_metadata().is_ok() {
                return Err(PrivateFileError::Exists { path }.into());
            }
        }
        Ok(())
    }

    fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), SetupError> {
        self.add_path(self.dir.join(name), bytes)
    }

    fn add_path(&mut self, path: PathBuf, bytes: &[u8]) -> Result<(), SetupError> {
        private_file::create(&path, bytes)?;
        self.made.push(path);
        Ok(())
    }

    fn add_identity(&mut self) -> Result<String, SetupError> {
        let path = self.dir.join("identity");
        let identity = Identity::create(&path)?;
        self.made.push(path);
        Ok(identity.public_hex())
    }

    fn keep(mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.made)
    }
}

impl Drop for NewFiles {
    fn drop(&mut self) {
        for path in &self.made {
            // Best effort on the way out of an error that is reported already.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
#[path = "setup_tests.rs"]
mod tests;
