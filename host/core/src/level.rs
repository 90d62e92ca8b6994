//! The guarantee in force, and why: each level is one predicate.

use crate::register::Standing;

/// What a cut may cost right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// The arbiter answers: at most one node serves under any partition.
    Arbitrated,
    /// The peer grants the lease over two links or more: one cut of a link or a crash leaves at
    /// most one.
    Paired,
    /// One link is left: one more cut leaves references and the VIP probe to tell a crash from a
    /// partition.
    EvidenceOnly,
    /// This node serves, or waits, without the peer.
    Alone,
    /// Nobody would take over.
    Disarmed(Disarmed),
}

/// Why nobody would take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disarmed {
    /// This node or its peer is in maintenance.
    Maintenance,
    /// The node that would take over is not fit (fence, service, data).
    NotEligible,
    /// The node that would take over lacks changes that were acknowledged to applications.
    NotSynced,
    /// The pair has not formed.
    NotFormed,
    /// No node is primary.
    NoPrimary,
    /// The arbiter does not answer this node.
    ArbiterAway,
    /// The arbiter answers this node too late to carry a primary alone.
    ArbiterSlow,
    /// The arbiter holds no register.
    NoRegister,
    /// The arbiter does not answer the peer in time.
    ArbiterAwayFromPeer,
}

/// What the predicates look at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// Holds a lease.
    pub serves: bool,
    pub formed: bool,
    pub maintenance: bool,
    pub heir_eligible: bool,
    pub heir_synced: bool,
    pub peer_heard: bool,
    pub peer_serves: bool,
    pub leased_by_peer: bool,
    pub links_live: u8,
    /// Where an arbiter is configured.
    pub arbiter: Option<Standing>,
    /// The peer says that the arbiter answers it in time.
    pub arbiter_at_peer: bool,
}

impl Level {
    pub(crate) fn of(f: Facts) -> Level {
        let together = f.leased_by_peer || (f.peer_serves && f.peer_heard);
        let serves = f.serves;
        match () {
            () if serves && !together => Level::Alone,
            () if !f.formed => Level::Disarmed(Disarmed::NotFormed),
            () if !serves && !f.peer_heard => Level::Alone,
            () if !serves && !f.peer_serves => Level::Disarmed(Disarmed::NoPrimary),
            () if f.maintenance => Level::Disarmed(Disarmed::Maintenance),
            () if !f.heir_synced => Level::Disarmed(Disarmed::NotSynced),
            () if !f.heir_eligible => Level::Disarmed(Disarmed::NotEligible),
            () if f.arbiter.is_some() => Level::arbitrated(f, serves),
            () if f.links_live < 2 => Level::EvidenceOnly,
            () => Level::Paired,
        }
    }

    fn arbitrated(f: Facts, serves: bool) -> Level {
        match f.arbiter {
            None | Some(Standing::Away) => Level::Disarmed(Disarmed::ArbiterAway),
            Some(Standing::Slow) => Level::Disarmed(Disarmed::ArbiterSlow),
            Some(Standing::NoRegister) => Level::Disarmed(Disarmed::NoRegister),
            Some(Standing::Ready) if serves && !f.arbiter_at_peer => {
                Level::Disarmed(Disarmed::ArbiterAwayFromPeer)
            }
            Some(Standing::Ready) => Level::Arbitrated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A primary with everything.
    const WHOLE: Facts = Facts {
        serves: true,
        formed: true,
        maintenance: false,
        heir_eligible: true,
        heir_synced: true,
        peer_heard: true,
        peer_serves: false,
        leased_by_peer: true,
        links_live: 2,
        arbiter: None,
        arbiter_at_peer: true,
    };

    #[test]
    fn the_level_says_what_a_cut_may_cost() {
        use Disarmed::*;
        let standby = Facts { serves: false, peer_serves: true, leased_by_peer: false, ..WHOLE };
        let asked = |standing| Facts { arbiter: Some(standing), ..WHOLE };
        let table = [
            (WHOLE, Level::Paired),
            (standby, Level::Paired),
            (Facts { links_live: 1, ..WHOLE }, Level::EvidenceOnly),
            (Facts { links_live: 1, ..standby }, Level::EvidenceOnly),
            (Facts { leased_by_peer: false, ..WHOLE }, Level::Alone),
            (Facts { peer_heard: false, peer_serves: false, ..standby }, Level::Alone),
            (Facts { formed: false, ..WHOLE }, Level::Disarmed(NotFormed)),
            (Facts { peer_serves: false, ..standby }, Level::Disarmed(NoPrimary)),
            (Facts { maintenance: true, ..WHOLE }, Level::Disarmed(Maintenance)),
            (Facts { heir_synced: false, ..standby }, Level::Disarmed(NotSynced)),
            (Facts { heir_eligible: false, ..WHOLE }, Level::Disarmed(NotEligible)),
            (asked(Standing::Ready), Level::Arbitrated),
            (Facts { links_live: 1, ..asked(Standing::Ready) }, Level::Arbitrated),
            (asked(Standing::Away), Level::Disarmed(ArbiterAway)),
            // Said beforehand, while both nodes are well.
            (asked(Standing::Slow), Level::Disarmed(ArbiterSlow)),
            (asked(Standing::NoRegister), Level::Disarmed(NoRegister)),
            (
                Facts { arbiter_at_peer: false, ..asked(Standing::Ready) },
                Level::Disarmed(ArbiterAwayFromPeer),
            ),
            (Facts { arbiter: Some(Standing::Slow), ..standby }, Level::Disarmed(ArbiterSlow)),
        ];
        for (facts, level) in table {
            assert_eq!(Level::of(facts), level, "{facts:?}");
        }
    }
}
