//! What a frame holds, and how: CBOR maps with numbered fields (RFC 8949), so that unknown future
//! fields are skipped and absent ones have a meaning. Field numbers are never used again for
//! something else.

use super::stamp::Stamp;
use crate::config::defaults::FACT_PREFIX;
use minicbor::{Decode, Encode};
use staffetta_core::{Beat, Claim, Echo, Epoch, Hand, Meeting, PROMISE_MAX, PeerRole, Span};

/// Longest frame before it is sealed: fits an Ethernet frame with every header of IPv6, UDP and the
/// envelope.
pub const FRAME_BYTES_MAX: usize = 1_350;
/// Longest license document that nodes exchange.
pub const LICENSE_BYTES_MAX: usize = 1_000;
/// Checks, references or facts that a node tells of itself, at most.
pub const REPORTS_MAX: usize = 16;
/// Databases that one frame tells of.
pub const DATA_REPORTS_MAX: usize = 12;
/// Longest text in a report.
pub(crate) const TEXT_BYTES_MAX: usize = 48;
/// Longest text that is a fact.
pub(crate) const FACT_TEXT_BYTES_MAX: usize = 32;

/// Health of a check or of a part of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode, serde::Serialize)]
#[cbor(index_only)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// In order.
    #[n(0)]
    Ok,
    /// Works, but not as it should.
    #[n(1)]
    Degraded,
    /// Does not work.
    #[n(2)]
    Failed,
    /// Not known (yet).
    #[n(3)]
    #[default]
    Unknown,
}

/// One check as its node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CheckReport {
    /// Name in the configuration.
    #[n(0)]
    pub name: String,
    /// Its state.
    #[n(1)]
    pub health: Health,
    /// For how long, ms.
    #[n(2)]
    pub since_ms: u32,
    /// Age of the last attempt, ms.
    #[n(3)]
    pub age_ms: u32,
}

/// One reference as its node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct TargetReport {
    /// Name in the configuration.
    #[n(0)]
    pub name: String,
    /// Whether it answered; none before the first probe.
    #[n(1)]
    pub reachable: Option<bool>,
    /// Age of the last probe, ms.
    #[n(2)]
    pub age_ms: u32,
}

/// One fact of the site as its node found it. One of the values is there; none where a later
/// version tells of what this one does not know. The longest one takes 78 bytes of a frame.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct FactReport {
    /// Name in the configuration.
    #[n(0)]
    pub name: String,
    /// Age of the value, ms.
    #[n(1)]
    pub age_ms: u32,
    /// For how long it is known without a new one, ms.
    #[n(5)]
    pub valid_ms: u32,
    /// Yes or no.
    #[n(2)]
    pub flag: Option<bool>,
    /// A whole number.
    #[n(3)]
    pub number: Option<i64>,
    /// Anything else.
    #[n(4)]
    pub text: Option<String>,
}

impl FactReport {
    /// The fact `ms` later; none when it is no longer known by then.
    pub(crate) fn later(&self, ms: u32) -> Option<FactReport> {
        let valid_ms = self.valid_ms.checked_sub(ms).filter(|left| *left > 0)?;
        let age_ms = self.age_ms.saturating_add(ms);
        Some(FactReport { age_ms, valid_ms, ..self.clone() })
    }
}

/// What a node tells of itself now and then, beside its beats.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct About {
    /// Version of the daemon.
    #[n(0)]
    pub version: String,
    /// Digest of what must be equal in both configurations.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub config: Vec<u8>,
    /// First bytes of the digests of the policies in force: failover, license, split brain.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub policies: Vec<u8>,
    /// Link-layer addresses of the interfaces that carry service addresses, six bytes each.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub macs: Vec<u8>,
    /// Public identity key.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub identity: Vec<u8>,
    /// Health of the service network.
    #[n(5)]
    pub service_network: Health,
    /// Health of the services together.
    #[n(6)]
    pub services: Health,
    /// The checks.
    #[n(7)]
    pub checks: Vec<CheckReport>,
    /// The references.
    #[n(8)]
    pub targets: Vec<TargetReport>,
    /// How long the node is in its role, ms.
    #[n(9)]
    pub in_role_ms: u32,
    /// Longest stall of its loop, ms.
    #[n(10)]
    pub stall_max_ms: u32,
    /// Standing of its license as it judges it itself: number of the WIT enum case.
    #[n(11)]
    pub license: u8,
    /// Some of its databases, others the next time; nothing from versions without them.
    #[n(12)]
    pub data: Option<Vec<DataReport>>,
    /// What is known of the site, in turns with `data`; nothing from versions without facts.
    #[n(13)]
    pub facts: Option<Vec<FactReport>>,
    /// The peer has all data of this node that is older than this, ms; none: not known, or not
    /// so; nothing from versions that do not tell.
    #[n(14)]
    pub lag_ms: Option<u32>,
}

impl About {
    /// The same word some time later: what has an age is older, and some facts are no longer known.
    pub(crate) fn later(&self, by: Span) -> About {
        let ms = u32::try_from(by.as_ms()).unwrap_or(u32::MAX);
        let mut about = self.clone();
        for check in &mut about.checks {
            check.since_ms = check.since_ms.saturating_add(ms);
            check.age_ms = check.age_ms.saturating_add(ms);
        }
        for target in &mut about.targets {
            target.age_ms = target.age_ms.saturating_add(ms);
        }
        about.lag_ms = about.lag_ms.map(|lag| lag.saturating_add(ms));
        about.in_role_ms = about.in_role_ms.saturating_add(ms);
        about.facts = about.facts.map(|facts| facts.iter().filter_map(|f| f.later(ms)).collect());
        about
    }
}

/// Where one database is on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct DataReport {
    /// Hash of its name, which both configurations share.
    #[n(0)]
    pub id: u64,
    /// The reign of its last transaction.
    #[n(1)]
    pub epoch: u64,
    /// Number of its last transaction within that reign.
    #[n(2)]
    pub txid: u64,
    /// Number of the WIT enum case of `copy`.
    #[n(3)]
    pub copy: u8,
    /// Transactions that it is known to lack.
    #[n(4)]
    pub behind: u64,
}

/// A decoded frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// For the core.
    pub beat: Beat,
    /// For the meter of its link.
    pub stamp: Stamp,
    /// For policies and people.
    pub about: Option<About>,
    /// For the license policy.
    pub license: Option<Vec<u8>>,
}

/// An authentic frame that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not CBOR, or a field of another type.
    #[error("not a frame of this version: {0}")]
    Malformed(String),
    /// A text or list beyond its limit.
    #[error("{what} is over its limit of {max}")]
    TooLong {
        /// What.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// A value that no version sends.
    #[error("{0} has a value that no version sends")]
    Nonsense(&'static str),
}

#[derive(Debug, Encode, Decode)]
#[cbor(map)]
struct Wire {
    #[n(0)]
    stamp: Stamp,
    #[n(1)]
    n: u64,
    #[n(2)]
    role: u8,
    /// Nothing, candidate, primary.
    #[n(3)]
    claim: u8,
    #[n(4)]
    epoch: u64,
    #[n(5)]
    highest: u64,
    #[n(6)]
    lease_us: u64,
    #[n(7)]
    slack_us: u64,
    #[n(8)]
    echo: Option<(u64, u64, u64)>,
    #[n(9)]
    hand: Option<(u64, u64, u64)>,
    #[n(10)]
    reserve: Option<u64>,
    #[n(11)]
    reserved: Option<u64>,
    #[n(12)]
    met: Option<(u64, u64, u64)>,
    #[n(13)]
    eligible: Option<bool>,
    #[n(14)]
    maintenance: Option<bool>,
    #[n(15)]
    arbiter: Option<bool>,
    #[n(16)]
    synced: Option<bool>,
    #[n(17)]
    stale: Option<bool>,
    #[n(20)]
    about: Option<About>,
    #[cbor(n(21), with = "minicbor::bytes")]
    license: Option<Vec<u8>>,
}

/// Encodes a beat for one link. What does not fit is left out, the beat itself never.
pub(super) fn encode(
    beat: &Beat,
    stamp: Stamp,
    about: Option<&About>,
    license: Option<&[u8]>,
) -> Vec<u8> {
    let (claim, epoch) = match beat.claim {
        Claim::None => (0, Epoch::NONE),
        Claim::Candidate(epoch) => (1, epoch),
        Claim::Primary(epoch) => (2, epoch),
    };
    let some = |epoch: Epoch| (epoch != Epoch::NONE).then_some(epoch.0);
    let mut wire = Wire {
        stamp,
        n: beat.n,
        role: role_number(beat.role),
        claim,
        epoch: epoch.0,
        highest: beat.highest.0,
        lease_us: beat.lease.0 / 1_000,
        slack_us: beat.slack.0 / 1_000,
        echo: beat.echo.map(|echo| (echo.boot, echo.n, echo.granted.0)),
        hand: beat.hand.map(|hand| (hand.epoch.0, hand.boot, hand.n)),
        reserve: some(beat.reserve),
        reserved: some(beat.reserved),
        met: beat.met.map(|met| (met.low.0, met.high.0, met.served.as_ms())),
        eligible: Some(beat.eligible),
        maintenance: beat.maintenance.then_some(true),
        arbiter: beat.arbiter,
        synced: beat.synced,
        stale: beat.stale,
        about: about.cloned(),
        license: license.filter(|l| l.len() <= LICENSE_BYTES_MAX).map(<[u8]>::to_vec),
    };
    let mut bytes = to_vec(&wire);
    while bytes.len() > FRAME_BYTES_MAX && leave_out(&mut wire) {
        bytes = to_vec(&wire);
    }
    bytes
}

/// Leaves out what the peer can best do without: single checks first, whose sum it is told anyway.
/// Without them there is room for all references and all facts, or all databases of one turn.
fn leave_out(wire: &mut Wire) -> bool {
    let Some(about) = &mut wire.about else { return wire.license.take().is_some() };
    about.checks.pop().is_some()
        || about.data.as_mut().is_some_and(|data| data.pop().is_some())
        || about.facts.as_mut().is_some_and(|facts| facts.pop().is_some())
        || about.targets.pop().is_some()
        || wire.about.take().is_some()
}

fn to_vec(wire: &Wire) -> Vec<u8> {
    minicbor::to_vec(wire).expect("encoding into memory cannot fail")
}

/// Decodes what [`encode`] made, in this version or a later one; `boot` is the sender's start id
/// from the envelope.
pub(super) fn decode(boot: u64, bytes: &[u8]) -> Result<Frame, FrameError> {
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { what: "frame", max: FRAME_BYTES_MAX });
    }
    let wire: Wire =
        minicbor::decode(bytes).map_err(|error| FrameError::Malformed(error.to_string()))?;
    let epoch = Epoch(wire.epoch);
    let claim = match wire.claim {
        0 => Claim::None,
        1 => Claim::Candidate(epoch),
        2 => Claim::Primary(epoch),
        _ => return Err(FrameError::Nonsense("claim")),
    };
    if claim != Claim::None && epoch == Epoch::NONE {
        return Err(FrameError::Nonsense("claim of no epoch"));
    }
    let (met, hand) = (wire.met.unwrap_or_default(), wire.hand.unwrap_or_default());
    let granted = wire.echo.map_or(0, |(_, _, granted)| granted);
    let highest = [
        wire.epoch,
        wire.highest,
        wire.reserve.unwrap_or(0),
        wire.reserved.unwrap_or(0),
        granted,
        hand.0,
        met.0,
        met.1,
    ];
    if highest.iter().any(|epoch| *epoch > Epoch::MAX.0) {
        return Err(FrameError::Nonsense("epoch"));
    }
    let span = |us: u64, what| {
        let ns = us.checked_mul(1_000).filter(|ns| *ns <= PROMISE_MAX.0);
        ns.map(Span).ok_or(FrameError::Nonsense(what))
    };
    if wire.lease_us.saturating_add(wire.slack_us) > PROMISE_MAX.0 / 1_000 {
        return Err(FrameError::Nonsense("lease"));
    }
    let mut about = wire.about;
    if let Some(about) = &mut about {
        check_about(about)?;
    }
    if wire.license.as_ref().is_some_and(|l| l.len() > LICENSE_BYTES_MAX) {
        return Err(FrameError::TooLong { what: "license", max: LICENSE_BYTES_MAX });
    }
    let beat = Beat {
        boot,
        n: wire.n,
        role: role_of(wire.role).ok_or(FrameError::Nonsense("role"))?,
        claim,
        highest: Epoch(wire.highest),
        lease: span(wire.lease_us, "lease")?,
        slack: span(wire.slack_us, "slack")?,
        echo: wire.echo.map(|(boot, n, granted)| Echo { boot, n, granted: Epoch(granted) }),
        hand: wire.hand.map(|(epoch, boot, n)| Hand { epoch: Epoch(epoch), boot, n }),
        reserve: Epoch(wire.reserve.unwrap_or(0)),
        reserved: Epoch(wire.reserved.unwrap_or(0)),
        met: wire.met.map(|(low, high, served_ms)| Meeting {
            low: Epoch(low),
            high: Epoch(high),
            served: Span::ms(served_ms),
        }),
        eligible: wire.eligible.unwrap_or(false),
        maintenance: wire.maintenance.unwrap_or(false),
        arbiter: wire.arbiter,
        synced: wire.synced,
        stale: wire.stale,
    };
    Ok(Frame { beat, stamp: wire.stamp, about, license: wire.license })
}

/// Refuses what no version sends; passes over facts of a kind that this one does not know.
fn check_about(about: &mut About) -> Result<(), FrameError> {
    if let Some(facts) = &mut about.facts {
        facts.retain(is_fact);
        facts.truncate(REPORTS_MAX);
    }
    let texts = about
        .checks
        .iter()
        .map(|check| &check.name)
        .chain(about.targets.iter().map(|target| &target.name))
        .chain([&about.version]);
    for text in texts {
        if text.len() > TEXT_BYTES_MAX {
            return Err(FrameError::TooLong { what: "text", max: TEXT_BYTES_MAX });
        }
    }
    if about.checks.len() > REPORTS_MAX || about.targets.len() > REPORTS_MAX {
        return Err(FrameError::TooLong { what: "reports", max: REPORTS_MAX });
    }
    if about.data.as_ref().is_some_and(|data| data.len() > DATA_REPORTS_MAX) {
        return Err(FrameError::TooLong { what: "databases", max: DATA_REPORTS_MAX });
    }
    Ok(())
}

/// Whether it is a fact of a site, as this version knows them; others are passed over.
fn is_fact(fact: &FactReport) -> bool {
    let values = [fact.flag.is_some(), fact.number.is_some(), fact.text.is_some()];
    fact.name.starts_with(FACT_PREFIX)
        && fact.name.len() <= TEXT_BYTES_MAX
        && fact.text.as_ref().is_none_or(|text| text.len() <= FACT_TEXT_BYTES_MAX)
        && values.iter().filter(|there| **there).count() == 1
}

fn role_number(role: PeerRole) -> u8 {
    match role {
        PeerRole::Joining => 0,
        PeerRole::Standby => 1,
        PeerRole::Candidate => 2,
        PeerRole::Primary => 3,
        PeerRole::Draining => 4,
        PeerRole::Fenced => 5,
    }
}

fn role_of(number: u8) -> Option<PeerRole> {
    Some(match number {
        0 => PeerRole::Joining,
        1 => PeerRole::Standby,
        2 => PeerRole::Candidate,
        3 => PeerRole::Primary,
        4 => PeerRole::Draining,
        5 => PeerRole::Fenced,
        _ => return None,
    })
}
