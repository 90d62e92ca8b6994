//! Makes the status of the API from what hangs on the board and the shelves.

use super::alignment::{alignment, word};
use super::data::DataLink;
use super::decide::Shelf;
use super::level::{self, level};
use super::licensing::Judgment;
use super::report::{alarm_name, alarm_text};
use super::snapshot::{Board, Snapshot};
use crate::api::status::{
    self, Alarm, GateStatus, LeaseSource, LeaseStatus, LinkStatus, PeerStatus, PoliciesStatus,
    PolicySource, PolicyStatus, Priority, RealtimeStatus, Spoke, Status, VipStatus,
};
use crate::config::Config;
use crate::evidence::Evidence;
use crate::journal::JournalHandle;
use crate::link::Rejected;
use staffetta_core::{Answerer, PeerRole, Role, Span};
use staffetta_policy::{Policy, Speaker};
use staffetta_vip::GateClass;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Decisions in the status.
const DECISIONS_MAX: usize = 8;

/// A conflict is an alarm until nobody has claimed the address for this long.
const CONFLICT_FRESH: Span = Span::ms(30_000);

/// Everything that a status is made from.
pub(crate) struct Publisher {
    pub config: Config,
    pub board: Board,
    pub shelf: Shelf,
    pub judgment: Judgment,
    pub evidence: Evidence,
    pub journal: JournalHandle,
    pub memory_locked: bool,
    pub started: Instant,
    pub digest: [u8; 32],
    /// Configured policies that the load gate refused at the start.
    pub refused: Vec<String>,
    pub arbiter: Option<staffetta_arbiter::Client>,
    pub data: DataLink,
}

impl Publisher {
    /// The status as of now.
    pub(crate) fn status(&self, snapshot: &Snapshot) -> Status {
        let view = &snapshot.view;
        let age = Span(u64::try_from(snapshot.at.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let (source, lease) = if view.peer_lease >= view.own_lease {
            (LeaseSource::Peer, view.peer_lease)
        } else {
            (LeaseSource::Alone, view.own_lease)
        };
        let serves = lease > Span::ZERO;
        let source = match source {
            _ if lease == Span::ZERO => LeaseSource::None,
            LeaseSource::Alone if view.arbiter.is_some() => LeaseSource::Arbiter,
            source => source,
        };
        let judged = self.judgment.lock().expect("no holder panics").clone();
        let shelf = self.shelf.lock().expect("no holder panics").clone();
        let mut decisions = self.journal.recent();
        decisions.truncate(DECISIONS_MAX);
        Status {
            node: self.config.node.name.clone(),
            cluster: self.config.cluster.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_s: self.started.elapsed().as_secs(),
            role: role(view.role),
            epoch: view.epoch.0,
            in_role_ms: (snapshot.now.since(view.since) + age).as_ms(),
            waiting: waiting(snapshot),
            peer: self.peer(snapshot, age),
            lease: LeaseStatus { source, remaining_ms: lease.minus(age).as_ms() },
            promise_ms: view.promise.minus(age).as_ms(),
            gate: GateStatus {
                class: match snapshot.class {
                    GateClass::Nftables => status::GateClass::Nftables,
                    GateClass::Lifetime => status::GateClass::Lifetime,
                },
                slack_ms: u64::try_from(snapshot.class.slack().as_millis()).unwrap_or(u64::MAX),
                open: snapshot.held && serves,
            },
            level: level(view.level, serves),
            arbiter: self.arbiter(snapshot, age),
            links: self.links(snapshot, age),
            vips: self.vips(snapshot),
            policies: PoliciesStatus {
                failover: policy(&shelf.failover),
                license: policy(&judged.policy),
                split_brain: policy(&shelf.split_brain),
            },
            license: judged.status.clone(),
            decisions,
            alarms: self.alarms(snapshot, &shelf, &judged.warnings),
            maintenance: view.maintenance,
            realtime: RealtimeStatus {
                priority: if self.board.fifo() { Priority::Fifo } else { Priority::Normal },
                memory_locked: self.memory_locked,
            },
            stalls: snapshot.lateness.summary(),
            databases: super::databases::lines(&self.data),
            trees: super::trees::lines(&self.data),
            alignment: self.alignment(snapshot, age),
        }
    }

    /// Whether the standby has what the primary has; the primary's word is older by its way here.
    fn alignment(&self, snapshot: &Snapshot, age: Span) -> Option<status::Alignment> {
        let way = snapshot.links.iter().filter_map(|link| link.rtt_us).max();
        let told = snapshot.peer.as_ref();
        let word = told.and_then(|(about, at)| Some(word(about.lag_ms?, *at + age, way)));
        let bound = Duration::from_millis(self.config.alignment_ms);
        alignment(&self.data, bound, word)
    }

    fn arbiter(&self, snapshot: &Snapshot, age: Span) -> Option<status::ArbiterStatus> {
        let names = match self.config.side_index() {
            0 => [&self.config.node.name, &self.config.peer.name],
            _ => [&self.config.peer.name, &self.config.node.name],
        };
        let error = self.arbiter.as_ref().and_then(staffetta_arbiter::Client::last_error);
        snapshot.view.arbiter.map(|view| level::arbiter(&view, age, names, error))
    }

    fn peer(&self, snapshot: &Snapshot, age: Span) -> Option<PeerStatus> {
        let peer = snapshot.view.peer?;
        let about = snapshot.peer.as_ref().map(|(about, _)| about);
        Some(PeerStatus {
            name: self.config.peer.name.clone(),
            role: peer_role(peer.role),
            epoch: peer.epoch.0,
            age_ms: (peer.age + age).as_ms(),
            version: about.map(|about| about.version.clone()).unwrap_or_default(),
            maintenance: peer.maintenance,
        })
    }

    fn links(&self, snapshot: &Snapshot, age: Span) -> Vec<LinkStatus> {
        let link =
            |(config, view): (&crate::config::LinkConfig, &crate::link::LinkView)| LinkStatus {
                name: config.name.clone(),
                heard_ms: view.heard.map(|heard| (heard + age).as_ms()),
                echoed_ms: view.echoed.map(|echoed| (echoed + age).as_ms()),
                rtt_us: view.rtt_us.map(u64::from),
                loss_permille: view.loss_permille,
                wan: config.wan,
            };
        self.config.links.iter().zip(&snapshot.links).map(link).collect()
    }

    fn vips(&self, snapshot: &Snapshot) -> Vec<VipStatus> {
        let vip = |config: &crate::config::VipConfig| {
            let own = snapshot.answers.iter().find(|(vip, ..)| *vip == config.address);
            let answerer = match (snapshot.view.vip.0, own) {
                // Whoever serves does not probe; what it heard before it served is stale.
                _ if snapshot.held => Answerer::NotProbed,
                (Answerer::Nobody, _) => Answerer::Nobody,
                (_, Some((_, answerer, _))) => *answerer,
                (answerer, None) => answerer,
            };
            VipStatus {
                address: format!("{}/{}", config.address, config.prefix),
                interface: config.interface.clone(),
                held: snapshot.held,
                answerer: match answerer {
                    Answerer::Nobody => status::Answerer::Nobody,
                    Answerer::Peer => status::Answerer::Peer,
                    Answerer::Stranger => status::Answerer::Stranger,
                    Answerer::NotProbed => status::Answerer::NotProbed,
                },
            }
        };
        self.config.vips.iter().map(vip).collect()
    }

    fn alarms(
        &self,
        snapshot: &Snapshot,
        shelf: &super::decide::InForce,
        license: &[String],
    ) -> Vec<Alarm> {
        let alarm = |name: &str, text: String| Alarm { name: name.into(), text };
        let core = snapshot.view.alarms.iter();
        let mut alarms: Vec<Alarm> =
            core.map(|a| alarm(alarm_name(*a), alarm_text(*a).into())).collect();
        if let Some(error) = &snapshot.gate_error {
            alarms.push(alarm("gate", format!("only address lifetimes gate the VIP: {error}")));
        }
        if let Some(error) = &snapshot.gate_fault {
            alarms.push(alarm("kernel-refused", error.clone()));
        }
        alarms.extend(conflict(snapshot));
        let fifo_text = "the beat thread has normal priority: under load its beats come late \
                         (grant CAP_SYS_NICE or LimitRTPRIO)";
        if !self.board.fifo() {
            alarms.push(alarm("no-realtime", fifo_text.into()));
        }
        if let Some((about, _)) = &snapshot.peer {
            if about.config != self.digest {
                alarms.push(alarm(
                    "configs-differ",
                    "cluster, times, VIPs, policies, arbiter, databases or trees differ between \
                     the configurations: compare the two files"
                        .into(),
                ));
            }
            if about.policies
                != digests(shelf, self.judgment.lock().expect("no holder panics").policy.1.digest())
            {
                alarms.push(alarm(
                    "policies-differ",
                    "the nodes run different policies: load the same file on both".into(),
                ));
            }
        }
        alarms.extend(self.refused.iter().map(|text| alarm("policy-refused", text.clone())));
        for kind in &shelf.quarantined {
            let text = format!(
                "the site's {kind} policy crashed too often and is not asked: load it again \
                 once it is mended"
            );
            alarms.push(alarm("policy-quarantined", text));
        }
        for (name, why) in self.evidence.failing() {
            alarms.push(alarm("check-failed", format!("{name}: {why}")));
        }
        for (name, why) in self.evidence.unknown() {
            alarms.push(alarm("fact-unknown", format!("{name}: {why}")));
        }
        alarms.extend(super::databases::alarms(&self.data));
        alarms.extend(license.iter().map(|text| alarm("license", text.clone())));
        alarms.extend(self.journal.alarms());
        alarms.extend(refused(snapshot).into_iter().map(|(name, text)| alarm(name, text)));
        alarms
    }
}

/// Frames that came to the heartbeat ports and were not understood, by kind.
fn refused(snapshot: &Snapshot) -> Vec<(&'static str, String)> {
    let Rejected { foreign, other_version, version_seen, stale: _, unreadable } = snapshot.rejected;
    let mut refused = Vec::new();
    if foreign > 0 {
        let text = format!(
            "{foreign} frames were not of this cluster (another cluster on this port, or \
             different secrets? cluster.id and the secret must be equal on both nodes)"
        );
        refused.push(("foreign-frames", text));
    }
    if other_version > 0 {
        let text = format!(
            "{other_version} frames were of envelope version {version_seen}, which this version \
             does not speak: install the same version of Staffetta on both nodes"
        );
        refused.push(("other-version-frames", text));
    }
    if unreadable > 0 {
        let text = format!(
            "{unreadable} frames of the peer could not be read, the last: {}: install the same \
             version of Staffetta on both nodes",
            snapshot.last_unreadable
        );
        refused.push(("unreadable-frames", text));
    }
    refused
}

/// Somebody else claimed a service address a short while ago.
fn conflict(snapshot: &Snapshot) -> Option<Alarm> {
    let (vip, mac, _) = snapshot.conflict.filter(|(.., age)| *age < CONFLICT_FRESH)?;
    let text = format!(
        "{} claims {vip} while this node serves: find the machine with this link-layer address; \
         the address is announced again each time",
        super::report::hex(&mac)
    );
    Some(Alarm { name: "vip-conflict".into(), text })
}

/// First bytes of the digests of the policies in force, as nodes tell each other.
pub(crate) fn digests(shelf: &super::decide::InForce, license: &str) -> Vec<u8> {
    let all = [shelf.failover.1.digest(), license, shelf.split_brain.1.digest()];
    all.iter().flat_map(|digest| digest.bytes().skip("sha256:".len()).take(16)).collect()
}

fn policy((speaker, policy): &(Speaker, Arc<Policy>)) -> PolicyStatus {
    PolicyStatus {
        name: policy.description().name.clone(),
        version: policy.description().version.clone(),
        digest: policy.digest().to_owned(),
        source: match speaker {
            Speaker::BuiltIn | Speaker::Host => PolicySource::BuiltIn,
            Speaker::Site | Speaker::LastGood => PolicySource::Site,
        },
    }
}

pub(crate) fn spoke(speaker: Speaker) -> Spoke {
    match speaker {
        Speaker::Site => Spoke::Site,
        Speaker::LastGood => Spoke::LastGood,
        Speaker::BuiltIn => Spoke::BuiltIn,
        Speaker::Host => Spoke::Host,
    }
}

fn waiting(snapshot: &Snapshot) -> Option<String> {
    let view = &snapshot.view;
    if view.fenced {
        return Some("the operator: remove the cause, then `staffetta clear`".into());
    }
    if view.wants_license {
        return Some(
            "a license for both nodes: see the license of each in `staffetta status`".into(),
        );
    }
    if view.undecided {
        return Some(
            "the arbiter, which knows which node acknowledged changes last; or the operator: \
             `staffetta start --alone` on the node that is to serve"
                .into(),
        );
    }
    if view.wants_operator {
        return Some("the operator: `staffetta start --alone` if the peer is really down".into());
    }
    (view.role == Role::Joining).then(|| "the peer".into())
}

fn role(role: Role) -> status::Role {
    peer_role(PeerRole::from(role))
}

fn peer_role(role: PeerRole) -> status::Role {
    match role {
        PeerRole::Joining => status::Role::Joining,
        PeerRole::Standby => status::Role::Standby,
        PeerRole::Candidate => status::Role::Candidate,
        PeerRole::Primary => status::Role::Primary,
        PeerRole::Draining => status::Role::Draining,
        PeerRole::Fenced => status::Role::Fenced,
    }
}
