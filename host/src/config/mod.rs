//! One TOML file becomes one [`Config`].
//!
//! Promises: a `Config` that exists is free of contradictions and holds typed values only; every
//! error names file and line and says what to write. Refuses unknown keys. Nothing else reads the
//! file, and no default is anywhere else than in [`defaults`].

pub mod defaults;
mod error;
mod host;
mod parse;
mod raw;
mod secret;
mod timing;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use staffetta_arbiter::Endpoint;

pub use error::ConfigError;
pub use host::check_against_host;
pub use secret::{Secret, parse_hex};
pub use staffetta_files::Mechanism;
pub use timing::TimingConfig;

/// The whole configuration of a node. Paths are absolute or relative to the working directory: what
/// the file says relative to its own folder is resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file that it came from.
    pub path: PathBuf,
    /// What both nodes share.
    pub cluster: ClusterConfig,
    /// This node.
    pub node: NodeConfig,
    /// The other node.
    pub peer: PeerConfig,
    /// Beats, leases, and budgets; every inequality holds.
    pub timing: TimingConfig,
    /// 1 to [`defaults::LINKS_MAX`] heartbeat links.
    pub links: Vec<LinkConfig>,
    /// 1 to [`defaults::VIPS_MAX`] service addresses.
    pub vips: Vec<VipConfig>,
    /// Up to [`defaults::REFERENCES_MAX`] addresses outside of the pair.
    pub references: Vec<ReferenceConfig>,
    /// Up to [`defaults::CHECKS_MAX`] service checks.
    pub checks: Vec<CheckConfig>,
    /// Up to [`defaults::FACTS_MAX`] facts of the site.
    pub facts: Vec<FactConfig>,
    /// The register outside of the pair that breaks ties; none where the pair decides alone.
    pub arbiter: Option<ArbiterConfig>,
    /// What databases and files travel over.
    pub bulk: BulkConfig,
    /// Up to [`defaults::DATABASES_MAX`] patterns of databases that the standby has too.
    pub databases: Vec<DatabaseConfig>,
    /// Up to [`defaults::TREES_MAX`] folders whose files the standby has too.
    pub trees: Vec<TreeConfig>,
    /// The standby lacks nothing that matters while it lacks nothing for longer than this, ms.
    pub alignment_ms: u64,
    /// The three policies.
    pub policies: PoliciesConfig,
    /// Licensing.
    pub license: LicenseConfig,
    /// Cap of the journal in bytes.
    pub journal_bytes_max: u64,
    /// What is logged.
    pub log_level: LogLevel,
}

/// What both nodes share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Its name.
    pub name: String,
    /// Its identity on the wire.
    pub id: [u8; 16],
    /// Where the secret is.
    pub secret_file: PathBuf,
}

/// This node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its name.
    pub name: String,
    /// Its site; empty when not told.
    pub site: String,
    /// True when policies should prefer it.
    pub preferred: bool,
    /// Durable state: epoch, journal.
    pub state_dir: PathBuf,
    /// The control socket's folder.
    pub run_dir: PathBuf,
    /// The Ed25519 key of this node.
    pub identity_file: PathBuf,
}

/// The other node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its name.
    pub name: String,
    /// Its site; empty when not told.
    pub site: String,
    /// True when policies should prefer it.
    pub preferred: bool,
}

/// One heartbeat link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkConfig {
    /// Its name.
    pub name: String,
    /// Where this node sends from and listens.
    pub local: SocketAddr,
    /// Where the peer listens.
    pub peer: SocketAddr,
    /// True over a wide-area network.
    pub wan: bool,
}

/// One service address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VipConfig {
    /// The address.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// The interface that carries it.
    pub interface: String,
    /// Line in the file, for errors that only the host can show.
    pub line: usize,
}

/// An address outside of the pair whose reachability is evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceConfig {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: IpAddr,
    /// How it is asked.
    pub method: ReferenceMethod,
}

/// How a reference is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReferenceMethod {
    /// Echo request.
    Icmp,
    /// ARP request; IPv4 on the own network only.
    Arp,
}

/// One service check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckConfig {
    /// Its name.
    pub name: String,
    /// What is asked.
    pub target: CheckTarget,
    /// From one attempt to the next.
    pub interval: Duration,
    /// How long an attempt may take; at most the interval.
    pub timeout: Duration,
    /// Good attempts in a row that make it healthy.
    pub rise: u32,
    /// Bad attempts in a row that make it failed.
    pub fall: u32,
}

/// What a service check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckTarget {
    /// A TCP connection can be opened.
    Tcp(SocketAddr),
    /// A program ends with 0. The first word is an absolute path.
    Exec(Vec<String>),
    /// `GET` answers with a status below 400.
    Http {
        /// Where to connect.
        address: SocketAddr,
        /// Path and query.
        path: String,
    },
    /// SIP OPTIONS over UDP is answered.
    Sip(SocketAddr),
}

/// One fact of the site: what a program of the site prints. It is known for three intervals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactConfig {
    /// Its name: `site.` and 1 to [`defaults::FACT_CHARS_MAX`] of a-z, 0-9, - and `.`.
    pub name: String,
    /// The program and its arguments. The first word is an absolute path.
    pub exec: Vec<String>,
    /// From one run to the next: [`defaults::FACT_INTERVAL_MS_MIN`] to
    /// [`defaults::TIME_MS_MAX`] ms.
    pub interval: Duration,
    /// How long a run may take; at most the interval.
    pub timeout: Duration,
}

/// The arbiter: an etcd cluster outside of the pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArbiterConfig {
    /// Its members, the preferred one first.
    pub endpoints: Vec<Endpoint>,
    /// What its keys begin with.
    pub prefix: String,
    /// Certificates of the authorities that sign its members'.
    pub ca_file: Option<PathBuf>,
    /// Certificate and key of this node, where etcd asks for one.
    pub identity_files: Option<(PathBuf, PathBuf)>,
    /// User, and the file with its password, where etcd asks for them.
    pub login: Option<(String, PathBuf)>,
}

/// The bulk channel: TCP between the addresses of the links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkConfig {
    /// Port on both nodes.
    pub port: u16,
    /// Cap of all streams together, bytes a second.
    pub bytes_per_s_max: Option<u64>,
}

/// A database, or all that match a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseConfig {
    /// What both nodes call it; the pattern where no name is given.
    pub name: String,
    /// Absolute path; the last part may hold `*` and `?`.
    pub pattern: String,
    /// What happens to one with a rollback journal.
    pub journal: JournalMode,
    /// Whether commits wait for the standby.
    pub mode: CommitMode,
    /// How long a synchronous commit waits before the pair degrades.
    pub sync_timeout: Duration,
    /// What synchronous commits do without a standby, where nothing can make it durable that the
    /// standby lacks them.
    pub sync_alone: Alone,
    /// The standby acknowledges what is on its disk, not what its readers see.
    pub durable_ack: bool,
    /// Transactions that the standby may lack before writers wait; 0: any number.
    pub unacked_max: u64,
    /// From one comparison of all pages to the next; none: only by command.
    pub scrub_interval: Option<Duration>,
}

/// A folder, with all that is below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeConfig {
    /// What both nodes call it.
    pub name: String,
    /// Its root on this node: absolute.
    pub path: PathBuf,
    /// What is left out, in the syntax of gitignore(5).
    pub ignore: Vec<String>,
    /// How changes are noticed.
    pub source: Mechanism,
    /// More deletions within ten minutes than this share of all entries, in percent, wait for an
    /// operator; 100: never.
    pub delete_share_max: u8,
    /// Files are followed while they grow, not only when they are closed.
    pub grow: bool,
    /// Contents are compressed when that pays.
    pub compress: bool,
    /// How long deleted and overwritten files are kept.
    pub trash: Duration,
    /// From one walk of the whole tree to the next; none: only when the kernel lost count.
    pub scan: Option<Duration>,
}

/// What happens to a database with a rollback journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JournalMode {
    /// It is turned to WAL.
    Convert,
    /// It is left as it is and followed by page differences.
    Keep,
}

/// Whether commits wait for the standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommitMode {
    /// They do not.
    Async,
    /// Those that ask (`staffetta barrier`, the preloaded library) do.
    Sync,
}

/// What synchronous commits do when neither standby nor arbiter can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Alone {
    /// They go on; the status says that they are not synchronous.
    Degrade,
    /// They wait.
    Block,
}

/// What an acknowledgement of the standby means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ack {
    /// Its readers see the transaction, and it outlives the process.
    Applied,
    /// It outlives a loss of power too.
    Durable,
}

/// The three policies.
#[derive(Debug, Clone, PartialEq)]
pub struct PoliciesConfig {
    /// Takeover, going alone, failback.
    pub failover: PolicyConfig,
    /// The license document.
    pub license: PolicyConfig,
    /// Who serves after two primaries met.
    pub split_brain: PolicyConfig,
    /// Keys that policies must be signed with; empty: signatures are not asked for.
    pub trusted_keys: Vec<[u8; 32]>,
}

/// One policy.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyConfig {
    /// The component; none is the built-in one.
    pub file: Option<PathBuf>,
    /// SHA-256 that the component must have.
    pub pin: Option<[u8; 32]>,
    /// Handed to the policy as JSON.
    pub settings: serde_json::Map<String, serde_json::Value>,
}

/// Licensing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LicenseConfig {
    /// Keys of the vendor; empty: licensing is off.
    pub trusted_keys: Vec<[u8; 32]>,
    /// Where the document is.
    pub document: PathBuf,
}

/// Named sets of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TimingProfile {
    /// 100 / 1000 / 20 ms (beat / lease / link delay).
    Default,
    /// 250 / 3000 / 100 ms, where only address lifetimes are to be had.
    Lifetime,
    /// 50 / 300 / 10 ms.
    Fast,
    /// 500 / 5000 / 200 ms.
    Wan,
}

/// What is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// Service affected.
    Error,
    /// Someone should look.
    Warn,
    /// An operator would tell a colleague.
    Info,
    /// Decisions.
    Debug,
    /// Packets.
    Trace,
}

impl Config {
    /// Makes a configuration of `text`; `path` is where it came from, for errors and relative
    /// paths.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        parse::parse(text, path)
    }

    /// Reads and parses the file.
    ///
    /// # Errors
    /// When the file cannot be read, is over [`defaults::FILE_BYTES_MAX`], or is wrong.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let fail = |text: String| ConfigError { path: path.to_owned(), line: None, text };
        let size = std::fs::metadata(path).map_err(|e| {
            fail(format!(
                "cannot read the configuration: {e} (make one with `staffetta init`, or \
                          name it with --config)"
            ))
        })?;
        if size.len() > defaults::FILE_BYTES_MAX {
            return Err(fail(format!(
                "{} bytes is too long for a configuration (at most {}): is this the right file?",
                size.len(),
                defaults::FILE_BYTES_MAX
            )));
        }
        let text = std::fs::read_to_string(path).map_err(|e| {
            fail(format!("cannot read the configuration: {e} (UTF-8 text is needed)"))
        })?;
        Config::parse(&text, path)
    }

    /// Reads the secret of the cluster.
    ///
    /// # Errors
    /// When the file is missing, open to others, or not 32 bytes in hex.
    pub fn secret(&self) -> Result<Secret, ConfigError> {
        secret::load(&self.cluster.secret_file)
    }

    /// 0 for the node whose name sorts first, 1 for the other: the node index of epochs.
    #[must_use]
    pub fn side_index(&self) -> u8 {
        u8::from(self.node.name > self.peer.name)
    }

    /// The control socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.node.run_dir.join("control.sock")
    }

    /// Where copies are kept that were overwritten.
    #[must_use]
    pub fn archive_dir(&self) -> PathBuf {
        self.node.state_dir.join("archive")
    }

    /// Where commits wait for the standby.
    #[must_use]
    pub fn barrier_socket(&self) -> PathBuf {
        self.node.run_dir.join("barrier.sock")
    }

    /// The journal.
    #[must_use]
    pub fn journal_file(&self) -> PathBuf {
        self.node.state_dir.join("journal.db")
    }

    /// SHA-256 over what must be the same on both nodes: cluster, times, service addresses,
    /// policies, the arbiter's prefix, and what is replicated. A difference is an alarm.
    #[must_use]
    pub fn pair_digest(&self) -> [u8; 32] {
        let mut vips: Vec<String> =
            self.vips.iter().map(|vip| format!("{}/{}", vip.address, vip.prefix)).collect();
        vips.sort();
        let policies =
            [&self.policies.failover, &self.policies.license, &self.policies.split_brain].map(
                |policy| (policy.file.is_some(), policy.pin, serde_json::json!(policy.settings)),
            );
        let arbiter = self.arbiter.as_ref().map(|arbiter| arbiter.prefix.as_str());
        let mut databases = self.databases.clone();
        databases.sort_by(|one, other| one.name.cmp(&other.name));
        for database in &mut databases {
            // A name is shared; the place of its files is the node's own matter.
            database.pattern.clear();
        }
        let mut trees: Vec<(&str, &[String])> =
            self.trees.iter().map(|tree| (tree.name.as_str(), tree.ignore.as_slice())).collect();
        trees.sort();
        let shared = format!(
            "{:?} {:?} {vips:?} {policies:?} {:?} {arbiter:?} {databases:?} {trees:?} {}",
            self.cluster.id,
            self.timing.parts_ms(),
            self.license.trusted_keys,
            self.bulk.port
        );
        let digest = ring::digest::digest(&ring::digest::SHA256, shared.as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        bytes
    }
}

impl LogLevel {
    /// The word in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

impl TimingProfile {
    /// The word in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            TimingProfile::Default => "default",
            TimingProfile::Lifetime => "lifetime",
            TimingProfile::Fast => "fast",
            TimingProfile::Wan => "wan",
        }
    }
}

#[cfg(test)]
mod tests;
