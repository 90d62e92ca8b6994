//! What others see of a node: the view for status, the observation for policies. Everything in them
//! is derived.

use super::{Node, speak};
use crate::beat::{Claim, PeerRole};
use crate::effect::{Alarm, Observation, PeerView};
use crate::epoch::Epoch;
use crate::event::Answerer;
use crate::level::{Facts, Level};
use crate::register::ArbiterView;
use crate::state::{Role, State};
use crate::time::{Mono, Span};
use alloc::vec::Vec;

/// Window of [`Observation::changes_last_hour`].
const HOUR: Span = Span::ms(3_600_000);

/// What the outside may see of a node; everything in it is derived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Role.
    pub role: Role,
    /// The reign, or the highest epoch known.
    pub epoch: Epoch,
    /// Since when in this role.
    pub since: Mono,
    /// What is left of the lease granted by the peer.
    pub peer_lease: Span,
    /// What is left of the lease taken alone.
    pub own_lease: Span,
    /// What is left of the promise not to claim.
    pub promise: Span,
    /// The guarantee in force.
    pub level: Level,
    /// The peer's last word.
    pub peer: Option<PeerView>,
    /// Takeover is disarmed here.
    pub maintenance: bool,
    /// A policy wants a person to decide, or the arbiter's register is missing.
    pub wants_operator: bool,
    /// Both nodes may have acknowledged what the other lacks: the arbiter says who serves, or an
    /// operator does.
    pub undecided: bool,
    /// The pair waits for a license.
    pub wants_license: bool,
    /// This node has been one of a pair.
    pub formed: bool,
    /// The node may not claim until its cause is cleared.
    pub fenced: bool,
    /// This node lacks changes that were acknowledged: it does not take over by itself.
    pub stale: bool,
    /// Alarms that are up.
    pub alarms: Vec<Alarm>,
    /// Longest stall of this life.
    pub stall_max: Span,
    /// Who answered on the VIP, and how long ago.
    pub vip: (Answerer, Span),
    /// The arbiter, where one is configured.
    pub arbiter: Option<ArbiterView>,
}

impl Node {
    pub(super) fn vip(&self) -> (Answerer, Span) {
        let silent = self.probe.rounds_unanswered >= speak::PROBE_ROUNDS;
        let answer = if silent { Answerer::Nobody } else { self.probe.answer };
        (answer, self.now.since(self.probe.at))
    }

    fn peer_view(&self) -> Option<PeerView> {
        self.peer.map(|peer| PeerView {
            role: peer.beat.role,
            epoch: match peer.beat.claim {
                Claim::Primary(epoch) => epoch,
                Claim::None | Claim::Candidate(_) => peer.beat.highest,
            },
            age: self.now.since(peer.heard),
            echoed: peer.echoed.map(|sent| self.now.since(sent)),
            eligible: peer.beat.eligible,
            maintenance: peer.beat.maintenance,
        })
    }

    pub(super) fn observe(&self) -> Observation {
        let hour = self.moves.iter().filter(|at| self.now.since(**at) < HOUR).count();
        let last = self.moves.last().copied().unwrap_or(self.started);
        Observation {
            side: self.options.side,
            role: self.state.role(),
            epoch: self.epoch(),
            in_role: self.now.since(self.since),
            eligible: self.eligible(),
            maintenance: self.want.maintenance,
            was_primary: self.want.was_primary,
            peer: self.peer_view(),
            vip: self.vip(),
            since_change: self.now.since(last),
            changes_last_hour: u16::try_from(hour).unwrap_or(u16::MAX),
            stall_max: self.stall_max,
            arbiter: self.arbiter_view(self.now),
        }
    }

    /// What the outside may see, as of `now`.
    #[must_use]
    pub fn view(&self, now: Mono) -> View {
        let left = |until: Mono| until.since(now);
        let reign = self.state.reign();
        let heard = self.peer.is_some_and(|p| now.since(p.heard) < self.timing().silence());
        let beat = self.peer.map(|peer| peer.beat);
        let serves = reign.is_some();
        let heir = if serves { beat.is_some_and(|b| b.eligible) } else { self.eligible() };
        View {
            role: self.state.role(),
            epoch: self.epoch(),
            since: self.since,
            peer_lease: reign.map_or(Span::ZERO, |r| left(r.peer_until)),
            own_lease: reign.map_or(Span::ZERO, |r| left(r.own_until)),
            promise: left(self.promise),
            level: Level::of(Facts {
                serves,
                formed: self.want.formed,
                maintenance: self.want.maintenance || beat.is_some_and(|b| b.maintenance),
                heir_eligible: heir,
                heir_synced: self.heir_synced(),
                peer_heard: heard,
                peer_serves: beat
                    .is_some_and(|b| matches!(b.role, PeerRole::Primary | PeerRole::Draining)),
                leased_by_peer: reign.is_some_and(|r| r.peer_until > now),
                links_live: self.links_live,
                arbiter: self.standing(now),
                arbiter_at_peer: beat.is_some_and(|b| b.arbiter == Some(true)),
            }),
            peer: self.peer_view(),
            maintenance: self.want.maintenance,
            wants_operator: self.wants_operator || self.waits_for_register(now),
            undecided: self.undecided(),
            wants_license: self.peer.is_some() && !self.may_pair(),
            formed: self.want.formed,
            fenced: matches!(self.state, State::Fenced(_)),
            stale: self.stale(),
            alarms: self.alarms.clone(),
            stall_max: self.stall_max,
            vip: self.vip(),
            arbiter: self.arbiter_view(now),
        }
    }
}
