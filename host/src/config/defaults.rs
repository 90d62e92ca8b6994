//! Every default and every limit of the configuration, in one place. `examples/staffetta.toml`
//! shows the same values; a test compares them.

use super::{Alone, CommitMode, JournalMode, LogLevel, Mechanism, ReferenceMethod, TimingProfile};

/// Where the configuration is looked for.
pub const CONFIG_FILE: &str = "/etc/staffetta/staffetta.toml";

/// `cluster.secret_file`.
pub const SECRET_FILE: &str = "secret";
/// `node.state_dir`.
pub const STATE_DIR: &str = "/var/lib/staffetta";
/// `node.run_dir`.
pub const RUN_DIR: &str = "/run/staffetta";
/// `node.identity_file`.
pub const IDENTITY_FILE: &str = "identity";
/// `license.document`.
pub const LICENSE_DOCUMENT: &str = "license.json";

/// `timing.profile`.
pub const PROFILE: TimingProfile = TimingProfile::Default;
/// `timing.join_timeout_ms`.
pub const JOIN_TIMEOUT_MS: u64 = 10_000;
/// `timing.policy_deadline_ms`: 20 for the site's policy, 10 for the last good one, 10 for the
/// built-in one.
pub const POLICY_DEADLINE_MS: u64 = 40;
/// `timing.stop_budget_ms`; never less than the lease.
pub const STOP_BUDGET_MS: u64 = 3_000;

/// `arbiter.prefix`.
pub const ARBITER_PREFIX: &str = "/staffetta";

/// `bulk.port`.
pub const BULK_PORT: u16 = 7412;
/// `database.journal`.
pub const DATABASE_JOURNAL: JournalMode = JournalMode::Convert;
/// `database.mode`.
pub const DATABASE_MODE: CommitMode = CommitMode::Async;
/// `database.sync_timeout_ms`.
pub const SYNC_TIMEOUT_MS: u64 = 1_000;
/// `database.sync_alone`.
pub const SYNC_ALONE: Alone = Alone::Degrade;
/// `database.scrub_hours`.
pub const SCRUB_HOURS: u64 = 24;

/// `link.wan`.
pub const LINK_WAN: bool = false;
/// `reference.method`.
pub const REFERENCE_METHOD: ReferenceMethod = ReferenceMethod::Icmp;
/// `check.interval_ms`.
pub const CHECK_INTERVAL_MS: u64 = 2_000;
/// `check.timeout_ms`.
pub const CHECK_TIMEOUT_MS: u64 = 1_000;
/// `check.rise`.
pub const CHECK_RISE: u32 = 2;
/// `check.fall`.
pub const CHECK_FALL: u32 = 3;
/// `fact.interval_ms`.
pub const FACT_INTERVAL_MS: u64 = 5_000;
/// `fact.timeout_ms`.
pub const FACT_TIMEOUT_MS: u64 = 2_000;
/// `alignment.bound_ms`.
pub const ALIGNMENT_BOUND_MS: u64 = 2_000;
/// `journal.megabytes_max`.
pub const JOURNAL_MEGABYTES: u64 = 256;
/// `log.level`.
pub const LOG_LEVEL: LogLevel = LogLevel::Info;

/// G while the nftables lease set is in force.
pub const SLACK_NFTABLES_MS: u64 = 20;
/// G while only address lifetimes are to be had: the kernel counts them in whole seconds.
pub const SLACK_LIFETIME_MS: u64 = 1_400;

/// Characters of `arbiter.prefix`, at most.
pub const ARBITER_PREFIX_CHARS_MAX: usize = 128;
/// Links, at most.
pub const LINKS_MAX: usize = 4;
/// Service addresses, at most.
pub const VIPS_MAX: usize = 16;
/// References, at most.
pub const REFERENCES_MAX: usize = 8;
/// Service checks, at most: as many as a node tells its peer of.
pub const CHECKS_MAX: usize = 16;
/// Facts of the site, at most.
pub const FACTS_MAX: usize = 8;
/// Characters of the name of a fact after `site.`, at most.
pub const FACT_CHARS_MAX: usize = 24;
/// What the name of a fact of the site begins with; `host.` is the daemon's own.
pub const FACT_PREFIX: &str = "site.";
/// Tables of databases, at most; each may match many files.
pub const DATABASES_MAX: usize = 64;
/// Bytes of the path of a database, at most.
pub const DATABASE_PATH_BYTES_MAX: usize = 1_024;
/// `database.sync_timeout_ms`, at least.
pub const SYNC_TIMEOUT_MS_MIN: u64 = 10;
/// `database.max_unacked`, at most.
pub const UNACKED_MAX: u64 = 1_000_000;
/// `database.scrub_hours`, at most: thirty days.
pub const SCRUB_HOURS_MAX: u64 = 720;
/// Trees, at most.
pub const TREES_MAX: usize = staffetta_files::TREES_MAX;
/// Patterns in one `tree.ignore`, at most.
pub const IGNORES_MAX: usize = 256;
/// How changes in a tree are noticed.
pub const TREE_SOURCE: Mechanism = Mechanism::Auto;
/// Share of a tree's entries, in percent, beyond which deletions wait for an operator.
pub const DELETE_SHARE_MAX: u64 = 10;
/// Files of a tree are followed while they grow.
pub const TREE_GROW: bool = true;
/// Contents are sent as they are: between two servers of one network that is faster.
pub const TREE_COMPRESS: bool = false;
/// Days that deleted and overwritten files are kept in `.staffetta`.
pub const TRASH_DAYS: u64 = 7;
/// `tree.trash_days`, at most: ten years.
pub const TRASH_DAYS_MAX: u64 = 3_650;
/// Hours from one walk of a whole tree to the next.
pub const SCAN_HOURS: u64 = 6;
/// `tree.scan_hours`, at most: thirty days.
pub const SCAN_HOURS_MAX: u64 = 720;
/// `bulk.bandwidth_mbit_max`, at most: 100 Gbit/s.
pub const BULK_MBIT_MAX: u64 = 100_000;
/// Trusted keys in one list, at most.
pub const TRUSTED_KEYS_MAX: usize = 16;
/// Words of an `exec`, at most.
pub const EXEC_WORDS_MAX: usize = 64;
/// Characters of a name, at most.
pub const NAME_CHARS_MAX: usize = 32;
/// Characters of a site's name, at most.
pub const SITE_CHARS_MAX: usize = 64;
/// Characters of an interface's name, at most: IFNAMSIZ without its terminator.
pub const INTERFACE_CHARS_MAX: usize = 15;
/// Bytes of the configuration file, at most.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Any time in the configuration, at most: one hour.
pub const TIME_MS_MAX: u64 = 3_600_000;
/// Interval of a service check, at least.
pub const CHECK_INTERVAL_MS_MIN: u64 = 100;
/// Interval of a fact, at least.
pub const FACT_INTERVAL_MS_MIN: u64 = 1_000;
/// `rise` and `fall`, at most.
pub const CHECK_STEPS_MAX: u32 = 100;
/// `alignment.bound_ms`, at least.
pub const ALIGNMENT_BOUND_MS_MIN: u64 = 500;
/// `alignment.bound_ms`, at most.
pub const ALIGNMENT_BOUND_MS_MAX: u64 = 600_000;
/// `journal.megabytes_max`, at least.
pub const JOURNAL_MEGABYTES_MIN: u64 = 16;
/// `journal.megabytes_max`, at most.
pub const JOURNAL_MEGABYTES_MAX: u64 = 65_536;

/// Beat, lease, and link delay of a profile, in milliseconds.
#[must_use]
pub fn profile_ms(profile: TimingProfile) -> (u64, u64, u64) {
    match profile {
        TimingProfile::Default => (100, 1_000, 20),
        TimingProfile::Lifetime => (250, 3_000, 100),
        TimingProfile::Fast => (50, 300, 10),
        TimingProfile::Wan => (500, 5_000, 200),
    }
}

/// The slack that the inequalities of a profile are checked with before the gate is known.
#[must_use]
pub fn profile_slack_ms(profile: TimingProfile) -> u64 {
    match profile {
        TimingProfile::Lifetime => SLACK_LIFETIME_MS,
        TimingProfile::Default | TimingProfile::Fast | TimingProfile::Wan => SLACK_NFTABLES_MS,
    }
}
