//! The state of the node as `GET /api/v1/status` and `staffetta status --json` show it.
//!
//! The shell publishes a complete value now and then; readers never ask the core. Fields are only
//! ever added here, never renamed: scripts of operators read them. Ages and remaining times are as
//! of the moment of publishing.

mod data;

pub use data::{Alignment, DatabaseLine, TreeLine};

use serde::{Deserialize, Serialize};

/// The whole state of this node, as far as an operator may see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Name of this node.
    pub node: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Version of the daemon.
    pub version: String,
    /// Seconds since the daemon started.
    pub uptime_s: u64,
    /// What this node is at the moment.
    pub role: Role,
    /// The newest epoch that this node knows.
    pub epoch: u64,
    /// How long the role has lasted.
    pub in_role_ms: u64,
    /// What a waiting node waits for, and which verb of the operator ends the wait.
    pub waiting: Option<String>,
    /// The other node as its last beat showed it; none before the first contact.
    pub peer: Option<PeerStatus>,
    /// The right to serve.
    pub lease: LeaseStatus,
    /// For how much longer this node is bound by its promise not to claim.
    pub promise_ms: u64,
    /// The kernel's enforcement of the lease.
    pub gate: GateStatus,
    /// The guarantee in force.
    pub level: LevelStatus,
    /// The arbiter; none where none is configured.
    #[serde(default)]
    pub arbiter: Option<ArbiterStatus>,
    /// The heartbeat links in the order of the configuration.
    pub links: Vec<LinkStatus>,
    /// The service addresses in the order of the configuration.
    pub vips: Vec<VipStatus>,
    /// The policies in force.
    pub policies: PoliciesStatus,
    /// The license as the license policy judged it.
    pub license: LicenseStatus,
    /// The last decisions, newest first.
    pub decisions: Vec<DecisionLine>,
    /// What someone should look at.
    pub alarms: Vec<Alarm>,
    /// True when the operator disarmed the takeover of this node.
    pub maintenance: bool,
    /// Whether the beat thread has the priority that its promise needs.
    pub realtime: RealtimeStatus,
    /// How late the beat thread came round, since the daemon started.
    #[serde(default)]
    pub stalls: StallStatus,
    /// The databases that are replicated.
    #[serde(default)]
    pub databases: Vec<DatabaseLine>,
    /// The trees of files that are replicated.
    #[serde(default)]
    pub trees: Vec<TreeLine>,
    /// Whether the standby has what the primary has; none where nothing is replicated.
    #[serde(default)]
    pub alignment: Option<Alignment>,
}

/// Projection of the core's states that operators, the wire, and policies see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Just started or stalled: looking for the peer.
    Joining,
    /// Ready to take over.
    Standby,
    /// Asked the policy, claiming.
    Candidate,
    /// Holds the VIP.
    Primary,
    /// Handing over by plan.
    Draining,
    /// Holds nothing and may not claim until `staffetta clear`.
    Fenced,
}

/// The peer as its last beat showed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Name of the peer.
    pub name: String,
    /// Role in its last beat.
    pub role: Role,
    /// Epoch in its last beat.
    pub epoch: u64,
    /// Age of its last beat.
    pub age_ms: u64,
    /// Version of its daemon.
    pub version: String,
    /// True when its operator disarmed its takeover.
    pub maintenance: bool,
}

/// The right to serve until a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// Who granted it.
    pub source: LeaseSource,
    /// What is left of it; 0 without one.
    pub remaining_ms: u64,
}

/// Who granted a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseSource {
    /// The echoes of the peer.
    Peer,
    /// The arbiter's register, while this node serves alone.
    Arbiter,
    /// Taken by this node alone, by verdict of the policy.
    Alone,
    /// No lease.
    None,
}

/// The kernel's enforcement of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateStatus {
    /// The mechanism in force.
    pub class: GateClass,
    /// How long after the end of a lease an answer may still leave.
    pub slack_ms: u64,
    /// True while the gate lets answers through.
    pub open: bool,
}

/// Mechanism of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GateClass {
    /// Sets of nftables with timeouts in milliseconds.
    Nftables,
    /// Lifetimes of addresses, in whole seconds.
    Lifetime,
}

/// The guarantee in force and the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelStatus {
    /// Its name.
    pub name: Level,
    /// Why this one and no better one.
    pub why: String,
}

/// The guarantee levels of docs/guarantees.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Level {
    /// An arbiter outside of the pair answers.
    #[serde(rename = "arbitrated")]
    Arbitrated,
    /// The peer grants, without an arbiter.
    #[serde(rename = "paired")]
    Paired,
    /// One link left, or references and probe alone separate the nodes.
    #[serde(rename = "evidence only")]
    EvidenceOnly,
    /// This node serves by its own verdict.
    #[serde(rename = "alone")]
    Alone,
    /// Nobody takes over by itself.
    #[serde(rename = "takeover disarmed")]
    TakeoverDisarmed,
}

/// The arbiter as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArbiterStatus {
    /// What can be expected of it.
    pub standing: ArbiterStanding,
    /// Age of its last answer; none before the first.
    pub answered_ms: Option<u64>,
    /// The longest of its last answers, in microseconds.
    pub latency_us: u64,
    /// What its register held when it was last read; none when it holds nothing.
    pub register: Option<RegisterStatus>,
    /// For how long that has been seen unchanged.
    pub unchanged_ms: u64,
    /// Why it does not answer, where that is known.
    pub error: Option<String>,
}

/// What can be expected of the arbiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArbiterStanding {
    /// It answers in time.
    Ready,
    /// It answers too late to carry a primary alone.
    Slow,
    /// It does not answer.
    Away,
    /// It answers and holds no register yet.
    NoRegister,
}

/// What the register holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterStatus {
    /// Name of the node that serves, or served last.
    pub holder: String,
    /// Its epoch.
    pub epoch: u64,
    /// It serves without the grants of its peer.
    pub alone: bool,
    /// Its peer has everything that was acknowledged to applications.
    pub peer_synced: bool,
}

/// One heartbeat link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Name in the configuration.
    pub name: String,
    /// Age of the last frame of the peer on this link; none before the first.
    pub heard_ms: Option<u64>,
    /// Age of the last echo of a frame of ours on this link; none before the first.
    pub echoed_ms: Option<u64>,
    /// Smoothed round trip time in microseconds.
    pub rtt_us: Option<u64>,
    /// Frames lost out of a thousand, lately.
    pub loss_permille: u16,
    /// True for a link over a wide-area network.
    pub wan: bool,
}

/// One service address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipStatus {
    /// Address and prefix length.
    pub address: String,
    /// The interface that carries it.
    pub interface: String,
    /// True while this node carries it.
    pub held: bool,
    /// Who answered the last probe.
    pub answerer: Answerer,
}

/// Who answers on a VIP, by link-layer address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answerer {
    /// Silence.
    Nobody,
    /// The peer.
    Peer,
    /// A third machine.
    Stranger,
    /// No probe was sent yet.
    NotProbed,
}

/// The three policies in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PoliciesStatus {
    /// Decides takeover, going alone, failback.
    pub failover: PolicyStatus,
    /// Judges the license document.
    pub license: PolicyStatus,
    /// Says who serves after two primaries met.
    pub split_brain: PolicyStatus,
}

/// One policy in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Name that the component gives itself.
    pub name: String,
    /// Version that the component gives itself.
    pub version: String,
    /// `sha256:` and the digest of the component in hex.
    pub digest: String,
    /// Where it came from.
    pub source: PolicySource,
}

/// Where a policy came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicySource {
    /// Embedded in the daemon.
    BuiltIn,
    /// A file of the site.
    Site,
}

/// The license as judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LicenseStatus {
    /// The standing.
    pub state: LicenseState,
    /// The policy's reason.
    pub reason: String,
}

/// Standing of the license.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LicenseState {
    /// No trusted key is configured.
    Off,
    /// In force.
    Valid,
    /// Over, but still tolerated.
    Grace,
    /// Over.
    Expired,
    /// Not genuine, or of other nodes.
    Invalid,
    /// Not judged yet.
    Unknown,
}

/// One decision in short; `GET /api/v1/decisions/ID` has all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionLine {
    /// Number in the journal.
    pub id: i64,
    /// When, in UTC (RFC 3339).
    pub at: String,
    /// What was asked.
    pub question: String,
    /// What the policy wants.
    pub intent: String,
    /// Why, for people.
    pub reason: String,
    /// Which policy of the fallback chain answered.
    pub spoke: Spoke,
    /// Instructions burnt.
    pub fuel: u64,
    /// CPU time taken, in microseconds.
    pub cpu_us: u64,
}

/// Which link of the fallback chain answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spoke {
    /// The site's policy.
    Site,
    /// The one before it, which worked.
    LastGood,
    /// The embedded one.
    BuiltIn,
    /// None of them: the documented safe verdict of the host.
    Host,
}

impl Spoke {
    /// The word on the API and in the journal.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Spoke::Site => "site",
            Spoke::LastGood => "last-good",
            Spoke::BuiltIn => "built-in",
            Spoke::Host => "host",
        }
    }
}

/// Something that someone should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// Stable name for scripts, such as `heartbeat-path-cut`.
    pub name: String,
    /// What happened and what to do.
    pub text: String,
}

/// What the beat thread got from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RealtimeStatus {
    /// Scheduling class of the beat thread.
    pub priority: Priority,
    /// True when its memory cannot be swapped out.
    pub memory_locked: bool,
}

/// Scheduling class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// SCHED_FIFO.
    Fifo,
    /// SCHED_OTHER.
    Normal,
}

/// Lateness of the beat thread's wake-ups, in microseconds: what the machine, its other work and
/// its hypervisor cost a thread that wants to run at a certain moment. Quantiles are rounded up by
/// an eighth at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StallStatus {
    /// Wake-ups counted.
    pub count: u64,
    /// Half of them were at most this late.
    pub p50_us: u64,
    /// 99 of 100 were.
    pub p99_us: u64,
    /// 999 of 1000 were.
    pub p999_us: u64,
    /// The longest one.
    pub max_us: u64,
}

/// How a lease stands to the measured stalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseRoom {
    /// Too few wake-ups were counted.
    NotMeasured,
    /// The lease is at least [`StallStatus::ROOM`] times the p99.9.
    Ample,
    /// It is shorter than that.
    Tight,
    /// It is shorter than the p99.9 itself.
    Short,
}

impl StallStatus {
    /// Wake-ups from which on the p99.9 says something.
    pub const COUNT_MIN: u64 = 1_000;
    /// A lease of so many times the p99.9 has room for stalls, lost frames and the disk.
    pub const ROOM: u64 = 4;

    /// What a lease of `lease_ms` milliseconds leaves.
    #[must_use]
    pub fn room(&self, lease_ms: u64) -> LeaseRoom {
        let lease_us = lease_ms.saturating_mul(1_000);
        match () {
            () if self.count < StallStatus::COUNT_MIN => LeaseRoom::NotMeasured,
            () if lease_us < self.p999_us => LeaseRoom::Short,
            () if lease_us < self.p999_us.saturating_mul(StallStatus::ROOM) => LeaseRoom::Tight,
            () => LeaseRoom::Ample,
        }
    }

    /// The shortest lease with room, ms.
    #[must_use]
    pub fn lease_ms_for_room(&self) -> u64 {
        self.p999_us.saturating_mul(StallStatus::ROOM).div_ceil(1_000)
    }
}

impl Status {
    /// The database of this name or path.
    #[must_use]
    pub fn database(&self, name: &str) -> Option<&DatabaseLine> {
        self.databases.iter().find(|one| one.name == name || one.path == name)
    }

    /// This status without what changes by itself: two values that are equal here are the same news
    /// to a watcher.
    #[must_use]
    pub fn settled(&self) -> Status {
        let mut settled = self.clone();
        settled.uptime_s = 0;
        settled.in_role_ms = 0;
        settled.promise_ms = 0;
        settled.lease.remaining_ms = 0;
        settled.stalls = StallStatus::default();
        if let Some(peer) = &mut settled.peer {
            peer.age_ms = 0;
        }
        for link in &mut settled.links {
            // Heard or never heard is news, the age is not.
            link.heard_ms = link.heard_ms.map(|_| 0);
            link.echoed_ms = link.echoed_ms.map(|_| 0);
            link.rtt_us = None;
            link.loss_permille = 0;
        }
        if let Some(arbiter) = &mut settled.arbiter {
            arbiter.answered_ms = arbiter.answered_ms.map(|_| 0);
            arbiter.latency_us = 0;
            arbiter.unchanged_ms = 0;
        }
        for database in &mut settled.databases {
            // Where it stands is news, how far it is is not.
            let DatabaseLine { name, path, state, sync, trouble, .. } = database.clone();
            *database =
                DatabaseLine { name, path, state, sync, trouble, ..DatabaseLine::default() };
        }
        for tree in &mut settled.trees {
            let TreeLine { name, path, state, source, held, trouble, .. } = tree.clone();
            *tree = TreeLine { name, path, state, source, held, trouble, ..TreeLine::default() };
        }
        if let Some(alignment) = &mut settled.alignment {
            alignment.why.clear();
            (alignment.lag_ms, alignment.until) = (None, None);
        }
        for decision in &mut settled.decisions {
            decision.at.clear();
            decision.fuel = 0;
            decision.cpu_us = 0;
        }
        settled
    }
}

macro_rules! shown_as_on_the_api {
    ($($kind:ty),*) => {$(
        impl std::fmt::Display for $kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.serialize(f)
            }
        }
    )*};
}
shown_as_on_the_api!(
    Role,
    ArbiterStanding,
    LeaseSource,
    GateClass,
    Level,
    Answerer,
    PolicySource,
    LicenseState,
    Spoke,
    Priority
);

#[cfg(test)]
#[path = "status_tests.rs"]
pub(crate) mod tests;
