//! Verbs and options.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::api::PolicyKind;
use crate::config::{TimingProfile, defaults};
use crate::license::DAYS_MAX;
use crate::setup::{link_end, vip_flag};

const EXIT_CODES: &str = "Exit codes: 0 done; 1 it did not work, or a check found something; 2 \
                          wrong usage or wrong \
     configuration; 3 the daemon does not answer.";

/// A fault-tolerant pair of Linux servers whose failover behaviour is programmable and provable.
#[derive(Debug, Parser)]
#[command(name = "staffetta", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(super) struct Cli {
    /// The configuration of this node
    #[arg(long, global = true, value_name = "FILE", default_value = defaults::CONFIG_FILE)]
    pub(super) config: PathBuf,
    /// The control socket, when it is not where the configuration says
    #[arg(long, global = true, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make configuration, secret, and identity of the first node, and a bundle for the second
    Init(InitFlags),
    /// Make the files of the second node from the first node's bundle
    Join(JoinFlags),
    /// Run the daemon in the foreground
    Run,
    /// Show who serves, under which guarantee, and why
    Status {
        /// Only whether the standby has what the primary has; the exit code says it too
        #[arg(long)]
        aligned: bool,
    },
    /// The databases that are replicated
    #[command(subcommand)]
    Db(DbVerb),
    /// The trees of files that are replicated
    #[command(subcommand)]
    Files(FilesVerb),
    /// Wait until the standby has everything that was committed to a database before
    Barrier(BarrierFlags),
    /// Follow changes and events, one line each
    Watch,
    /// Hand the service over to the peer by plan
    Switchover,
    /// Disarm (on) or arm (off) the takeover of this node
    Maintenance {
        /// on disarms
        switch: Switch,
    },
    /// Clear the cause of a fenced node
    Clear,
    /// Start serving without the peer, or beside it where each may lack what the other has
    Start {
        /// You vouch that the peer does not serve, and give up what only it has
        #[arg(long, required = true)]
        alone: bool,
    },
    /// Show one decision with all that it was made from
    Decision {
        /// Its number, as `status` shows it
        id: i64,
    },
    /// Try the arbiter
    #[command(subcommand)]
    Arbiter(ArbiterVerb),
    /// Make, check, and exchange policies
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// Make and show license documents
    #[command(subcommand)]
    License(LicenseVerb),
    /// Print this node's public key, for a license
    Identity,
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Look for what would hinder this node
    Doctor,
    /// Run a pair on this machine, break it in every way, and show what happens
    Demo {
        /// Leave the pair running until Ctrl-C
        #[arg(long)]
        keep: bool,
    },
    /// Run policy and configuration through thousands of disasters, without a pair
    Simulate(SimulateFlags),
    /// Remove service addresses and gate of a daemon that is gone (the unit's ExecStopPost)
    Release,
}

#[derive(Debug, Subcommand)]
pub(super) enum DbVerb {
    /// Where each database is, and what the standby lacks
    Status,
    /// Compare all pages with what is known of them
    Scrub {
        /// One database; without: all
        name: Option<String>,
    },
    /// Show how an archived copy differs from the database, row by row
    Diff {
        /// The database, as `db status` names it
        name: String,
        /// The archive; without: the newest one of this database
        #[arg(long, value_name = "FILE")]
        archive: Option<PathBuf>,
    },
    /// Compare with the peer anew; on a node whose copy diverged: archive it and take the primary's
    Resync {
        /// The database, as `db status` names it
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum FilesVerb {
    /// Where each tree is, and what the standby lacks
    Status,
    /// Read every content again and compare it with what is known of it
    Verify {
        /// The tree, as `files status` names it
        name: String,
    },
    /// Show which paths the other node may not have as they are here, and why
    Diff {
        /// The tree, as `files status` names it
        name: String,
    },
    /// Let happen what waits for you: deletions that are held, a root whose marker is gone, a copy
    /// that diverged
    Approve {
        /// The tree, as `files status` names it
        name: String,
    },
    /// List what was deleted or set aside on this node, or put one thing back
    Restore {
        /// The tree, as `files status` names it
        name: String,
        /// What to put back, as the list shows it; without: the list
        path: Option<String>,
        /// Which one, when the path is there more than once; without: the newest
        #[arg(long, value_name = "STAMP", requires = "path")]
        stamp: Option<String>,
        /// Where to, relative to the tree's root; without: where it was
        #[arg(long, value_name = "PATH", requires = "path")]
        to: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(super) struct BarrierFlags {
    /// The database
    pub(super) database: PathBuf,
    /// How long to wait; 0: until the daemon answers, which a database with `mode = "async"` gets
    /// after a second
    #[arg(long, default_value_t = 0)]
    pub(super) timeout_ms: u64,
    /// The barrier socket, when it is not where the configuration says
    #[arg(long, value_name = "PATH")]
    pub(super) barrier_socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ArbiterVerb {
    /// Read and write a scratch key on every endpoint; print how long it takes
    Check {
        /// Reads, and writes, on each endpoint
        #[arg(long, default_value_t = 50)]
        #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
        n: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

#[derive(Debug, Args)]
pub(super) struct InitFlags {
    /// Name of this node
    #[arg(long, value_name = "NODE")]
    pub(super) name: String,
    /// Name of the other node
    #[arg(long, value_name = "NODE")]
    pub(super) peer: String,
    /// Name of the cluster
    #[arg(long, default_value = "pair")]
    pub(super) cluster: String,
    /// This node's end of a link; once for each link
    #[arg(long, value_name = "IP[:PORT]", required = true, value_parser = link_end)]
    pub(super) local: Vec<SocketAddr>,
    /// The peer's end of the same link
    #[arg(long, value_name = "IP[:PORT]", required = true, value_parser = link_end)]
    pub(super) peer_address: Vec<SocketAddr>,
    /// A service address and the interface that carries it; repeatable
    #[arg(long, value_name = "ADDRESS/PREFIX@IFACE", required = true, value_parser = vip_flag)]
    pub(super) vip: Vec<(String, String)>,
    /// Named times
    #[arg(long, default_value = "default")]
    pub(super) profile: TimingProfile,
    /// Where the files go
    #[arg(long, default_value = "/etc/staffetta")]
    pub(super) dir: PathBuf,
    #[command(flatten)]
    pub(super) dirs: DirFlags,
}

#[derive(Debug, Args)]
pub(super) struct JoinFlags {
    /// The bundle that `init` made on the other node
    pub(super) bundle: PathBuf,
    /// Where the files go
    #[arg(long, default_value = "/etc/staffetta")]
    pub(super) dir: PathBuf,
    #[command(flatten)]
    pub(super) dirs: DirFlags,
}

#[derive(Debug, Args)]
pub(super) struct DirFlags {
    /// In place of /var/lib/staffetta
    #[arg(long, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
    /// In place of /run/staffetta
    #[arg(long, value_name = "DIR")]
    pub(super) run_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct SimulateFlags {
    /// A failover policy, in place of the configured or built-in one
    #[arg(long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,
    /// Histories; each runs twice
    #[arg(long, value_name = "N", default_value_t = 1_000,
          value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(super) seeds: u64,
    /// The first seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) first: u64,
    /// Named times, in place of those of the configuration
    #[arg(long)]
    pub(super) profile: Option<TimingProfile>,
    /// Run this history and show its timeline
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "first"])]
    pub(super) scenario: Option<PathBuf>,
    /// Where histories that broke a guarantee are written; here if not told
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigVerb {
    /// Say what is wrong, with the line
    Check {
        /// In place of --config
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum PolicyVerb {
    /// Make the crate of a failover policy to begin with
    New {
        /// Its folder; the last part is its name
        dir: PathBuf,
        /// Dependency on the SDK, as in Cargo.toml
        #[arg(long, value_name = "TOML", default_value = "{ path = \"../sdk\" }")]
        sdk: String,
    },
    /// Build a policy crate into a component
    Build {
        /// The crate
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// The component, instead of NAME.wasm in the crate
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Put a component through the load gate
    Check {
        /// The component
        file: PathBuf,
        /// Settings as JSON
        #[arg(long, value_name = "FILE")]
        settings: Option<PathBuf>,
    },
    /// Let a component decide a situation
    Run {
        /// The component
        file: PathBuf,
        /// The situation as JSON
        #[arg(long, value_name = "FILE")]
        situation: PathBuf,
        /// Settings as JSON
        #[arg(long, value_name = "FILE")]
        settings: Option<PathBuf>,
    },
    /// Decide the decisions of a journal again, and show which would differ
    Replay(ReplayFlags),
    /// Show why a decision was made, and what would have changed it
    Explain(ExplainFlags),
    /// Put a component in force, without a restart
    Load {
        /// Which policy
        kind: PolicyKind,
        /// The component
        file: PathBuf,
        /// Settings as JSON, in place of those of the configuration
        #[arg(long, value_name = "FILE")]
        settings: Option<PathBuf>,
    },
    /// Go back to the policy before
    Rollback {
        /// Which policy
        kind: PolicyKind,
    },
    /// Show the policies in force
    List,
    /// Make a key that signs policies
    Keygen {
        /// The private key's file
        #[arg(short, long, value_name = "FILE", default_value = "policy.key")]
        output: PathBuf,
    },
    /// Sign a component for sites that trust the key
    Sign {
        /// The component
        file: PathBuf,
        /// The private key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The signature, instead of FILE.sig
        #[arg(short, long = "out", value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(super) struct ReplayFlags {
    /// The journal; else that of the configuration
    pub(super) journal: Option<PathBuf>,
    /// The component that decides; else the one that decided then
    #[arg(long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,
    /// Settings as JSON, in place of those of then
    #[arg(long, value_name = "FILE")]
    pub(super) settings: Option<PathBuf>,
    /// Only the newest rows
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub(super) last: u32,
}

#[derive(Debug, Args)]
pub(super) struct ExplainFlags {
    /// Number of the decision, as `status` shows it
    pub(super) id: i64,
    /// The component that decides; else the one that decided then
    #[arg(long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,
    /// The journal; else that of the configuration
    #[arg(long, value_name = "FILE")]
    pub(super) journal: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum LicenseVerb {
    /// Make a vendor's key
    Keygen {
        /// The private key's file
        #[arg(short, long, value_name = "FILE", default_value = "vendor.key")]
        output: PathBuf,
    },
    /// Sign a license
    Sign(SignFlags),
    /// Show what a license says
    Show {
        /// The document
        file: PathBuf,
        /// A vendor's public key to compare with; else those of the configuration
        #[arg(long, value_name = "HEX")]
        trusted: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(super) struct SignFlags {
    /// The vendor's private key
    #[arg(long, value_name = "FILE")]
    pub(super) key: PathBuf,
    /// Public key of a node, as `staffetta identity` prints it; once for each node
    #[arg(long, value_name = "HEX", required = true)]
    pub(super) node: Vec<String>,
    /// How long it lasts from now
    #[arg(long, value_name = "N", value_parser = days(1))]
    pub(super) days: u32,
    /// How long the pair runs on after that
    #[arg(long, value_name = "N", default_value_t = 14, value_parser = days(0))]
    pub(super) grace_days: u32,
    /// For people
    #[arg(long, value_name = "NAME")]
    pub(super) customer: String,
    /// What is licensed; repeatable
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) feature: Vec<String>,
    /// The document
    #[arg(short, long, value_name = "FILE", default_value = "license.json")]
    pub(super) output: PathBuf,
}

fn days(min: i64) -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(min..=i64::from(DAYS_MAX))
}
