//! The guarantee in force and the arbiter behind it, in words for people.

use crate::api::status::{self, ArbiterStanding, ArbiterStatus, LevelStatus, RegisterStatus};
use staffetta_arbiter::LastError;
use staffetta_core::{ArbiterView, Disarmed, Level, Side, Span, Standing};

/// The level with the reason why it is this one.
pub(crate) fn level(level: Level, serves: bool) -> LevelStatus {
    let (name, why) = match level {
        Level::Arbitrated => (status::Level::Arbitrated, "the arbiter answers"),
        Level::Paired => (
            status::Level::Paired,
            "the peer grants the lease over two links or more; there is no arbiter, so a full \
             partition is told from a crash by evidence only",
        ),
        Level::EvidenceOnly => (
            status::Level::EvidenceOnly,
            "one link is left between the nodes: if it is cut, references and the VIP probe alone \
             tell a crash from a partition",
        ),
        Level::Alone if serves => {
            (status::Level::Alone, "this node serves without the grants of its peer")
        }
        Level::Alone => (status::Level::Alone, "the peer is not heard"),
        Level::Disarmed(Disarmed::Maintenance) => {
            (status::Level::TakeoverDisarmed, "maintenance is on: `staffetta maintenance off`")
        }
        Level::Disarmed(Disarmed::NotEligible) => (
            status::Level::TakeoverDisarmed,
            "the node that would take over is not fit: see its checks and its service network",
        ),
        Level::Disarmed(Disarmed::NotSynced) => (
            status::Level::TakeoverDisarmed,
            "the standby lacks commits that were acknowledged: `staffetta db status`",
        ),
        Level::Disarmed(Disarmed::NotFormed) => {
            (status::Level::TakeoverDisarmed, "the pair has not formed yet")
        }
        Level::Disarmed(Disarmed::NoPrimary) => {
            (status::Level::TakeoverDisarmed, "no node serves at the moment")
        }
        Level::Disarmed(Disarmed::ArbiterAway) => (
            status::Level::TakeoverDisarmed,
            "the arbiter does not answer this node: `staffetta arbiter check`",
        ),
        Level::Disarmed(Disarmed::ArbiterSlow) => (
            status::Level::TakeoverDisarmed,
            "arbiter slow: it answers too late to carry a primary alone, so the crash of either \
             node is a gap; make lease_ms longer or bring the arbiter nearer",
        ),
        Level::Disarmed(Disarmed::NoRegister) => (
            status::Level::TakeoverDisarmed,
            "the arbiter holds no register: a primary with a live lease writes it",
        ),
        Level::Disarmed(Disarmed::ArbiterAwayFromPeer) => (
            status::Level::TakeoverDisarmed,
            "the arbiter does not answer the peer in time: see `staffetta arbiter check` there",
        ),
    };
    LevelStatus { name, why: why.into() }
}

/// The arbiter as this node sees it; `names` are those of seat A and seat B.
pub(crate) fn arbiter(
    view: &ArbiterView,
    age: Span,
    names: [&String; 2],
    error: Option<LastError>,
) -> ArbiterStatus {
    let standing = match view.standing {
        Standing::Ready => ArbiterStanding::Ready,
        Standing::Slow => ArbiterStanding::Slow,
        Standing::Away => ArbiterStanding::Away,
        Standing::NoRegister => ArbiterStanding::NoRegister,
    };
    let well = matches!(view.standing, Standing::Ready | Standing::NoRegister);
    ArbiterStatus {
        standing,
        answered_ms: view.answered.map(|answered| (answered + age).as_ms()),
        latency_us: view.latency.0 / 1_000,
        register: view.register.map(|register| RegisterStatus {
            holder: match register.holder() {
                Some(Side::A) => names[0].clone(),
                Some(Side::B) => names[1].clone(),
                None => String::new(),
            },
            epoch: register.epoch.0,
            alone: register.alone,
            peer_synced: register.peer_synced,
        }),
        unchanged_ms: (view.unchanged + age).as_ms(),
        error: error.filter(|_| !well).map(|last| last.error.to_string()),
    }
}
