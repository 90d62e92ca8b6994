//! The file as written: names and types of keys, nothing else. What it means is decided in `parse`.

use serde::Deserialize;
use toml::Spanned;

type Text = Option<Spanned<String>>;
type Number = Option<Spanned<u64>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) cluster: Option<Spanned<RawCluster>>,
    pub(super) node: Option<Spanned<RawNode>>,
    pub(super) peer: Option<Spanned<RawPeer>>,
    #[serde(default)]
    pub(super) timing: RawTiming,
    #[serde(default)]
    pub(super) link: Vec<Spanned<RawLink>>,
    #[serde(default)]
    pub(super) vip: Vec<Spanned<RawVip>>,
    #[serde(default)]
    pub(super) reference: Vec<Spanned<RawReference>>,
    #[serde(default)]
    pub(super) check: Vec<Spanned<RawCheck>>,
    #[serde(default)]
    pub(super) fact: Vec<Spanned<RawFact>>,
    pub(super) arbiter: Option<Spanned<RawArbiter>>,
    #[serde(default)]
    pub(super) bulk: RawBulk,
    #[serde(default)]
    pub(super) database: Vec<Spanned<RawDatabase>>,
    #[serde(default)]
    pub(super) tree: Vec<Spanned<RawTree>>,
    #[serde(default)]
    pub(super) alignment: RawAlignment,
    #[serde(default)]
    pub(super) policy: RawPolicies,
    #[serde(default)]
    pub(super) license: RawLicense,
    #[serde(default)]
    pub(super) journal: RawJournal,
    #[serde(default)]
    pub(super) log: RawLog,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCluster {
    pub(super) name: Text,
    pub(super) id: Text,
    pub(super) secret_file: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNode {
    pub(super) name: Text,
    pub(super) site: Text,
    #[serde(default)]
    pub(super) preferred: bool,
    pub(super) state_dir: Text,
    pub(super) run_dir: Text,
    pub(super) identity_file: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPeer {
    pub(super) name: Text,
    pub(super) site: Text,
    pub(super) preferred: Option<Spanned<bool>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTiming {
    pub(super) profile: Option<Spanned<super::TimingProfile>>,
    pub(super) beat_ms: Number,
    pub(super) lease_ms: Number,
    pub(super) link_delay_ms_max: Number,
    pub(super) join_timeout_ms: Number,
    pub(super) policy_deadline_ms: Number,
    pub(super) stop_budget_ms: Number,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLink {
    pub(super) name: Text,
    pub(super) local: Text,
    pub(super) peer: Text,
    pub(super) wan: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawVip {
    pub(super) address: Text,
    pub(super) interface: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawReference {
    pub(super) name: Text,
    pub(super) address: Text,
    pub(super) method: Option<Spanned<super::ReferenceMethod>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCheck {
    pub(super) name: Text,
    pub(super) tcp: Text,
    pub(super) exec: Option<Spanned<Vec<String>>>,
    pub(super) http: Text,
    pub(super) sip: Text,
    pub(super) interval_ms: Number,
    pub(super) timeout_ms: Number,
    pub(super) rise: Number,
    pub(super) fall: Number,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFact {
    pub(super) name: Text,
    pub(super) exec: Option<Spanned<Vec<String>>>,
    pub(super) interval_ms: Number,
    pub(super) timeout_ms: Number,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawArbiter {
    #[serde(default)]
    pub(super) endpoints: Vec<Spanned<String>>,
    pub(super) prefix: Text,
    pub(super) ca_file: Text,
    pub(super) cert_file: Text,
    pub(super) key_file: Text,
    pub(super) user: Text,
    pub(super) password_file: Text,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBulk {
    pub(super) port: Number,
    pub(super) bandwidth_mbit_max: Number,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDatabase {
    pub(super) name: Text,
    pub(super) path: Text,
    pub(super) journal: Option<Spanned<super::JournalMode>>,
    pub(super) mode: Option<Spanned<super::CommitMode>>,
    pub(super) sync_timeout_ms: Number,
    pub(super) sync_alone: Option<Spanned<super::Alone>>,
    pub(super) ack: Option<Spanned<super::Ack>>,
    pub(super) max_unacked: Number,
    pub(super) scrub_hours: Number,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTree {
    pub(super) name: Text,
    pub(super) path: Text,
    #[serde(default)]
    pub(super) ignore: Vec<Spanned<String>>,
    pub(super) source: Option<Spanned<super::Mechanism>>,
    pub(super) delete_share_max: Number,
    pub(super) grow: Option<bool>,
    pub(super) compress: Option<bool>,
    pub(super) trash_days: Number,
    pub(super) scan_hours: Number,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawPolicies {
    #[serde(default, rename = "trusted_keys")]
    pub(super) trusted_keys: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) failover: RawPolicy,
    #[serde(default)]
    pub(super) license: RawPolicy,
    #[serde(default)]
    pub(super) split_brain: RawPolicy,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPolicy {
    pub(super) file: Text,
    pub(super) pin: Text,
    #[serde(default)]
    pub(super) settings: toml::Table,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLicense {
    #[serde(default)]
    pub(super) trusted_keys: Vec<Spanned<String>>,
    pub(super) document: Text,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAlignment {
    pub(super) bound_ms: Number,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawJournal {
    pub(super) megabytes_max: Number,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) level: Option<super::LogLevel>,
}
