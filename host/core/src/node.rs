//! One node: its state, and the one function that changes it.

mod arbiter;
mod ask;
mod drain;
mod hear;
mod order;
mod settle;
mod speak;
mod sync;
mod view;

use crate::beat::{Beat, Claim, Echo, Meeting, PeerRole};
use crate::effect::{Alarm, AskId, Durable, Effect, Note, PersistId, Question, Why};
use crate::epoch::{Epoch, Side};
use crate::event::{Answerer, Event, Order, Refusal};
use crate::lease::Sent;
use crate::state::{After, Reign, Role, State};
use crate::time::{Mono, Span};
use crate::timing::{Timing, promise};
use alloc::vec::Vec;
use arbiter::Arbiter;
use sync::Sync;

/// Moves of the service address remembered for the damping evidence.
const MOVES_MAX: usize = 32;
pub use view::View;

/// A step may settle this often before it is a loop.
const SETTLE_ROUNDS_MAX: usize = 32;

/// What a node is born with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// This node's seat.
    pub side: Side,
    /// The configuration prefers this node, all else being equal.
    pub preferred: bool,
    /// The configuration prefers the peer, all else being equal.
    pub peer_preferred: bool,
    /// Times that satisfy the inequalities.
    pub timing: Timing,
    /// A register outside the pair breaks ties.
    pub arbiter: bool,
    /// The node has data that must reach the peer before a handover.
    pub data: bool,
    /// How long a handover waits for that.
    pub drain_patience: Span,
}

/// What a life starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boot {
    /// Random start id of this life.
    pub id: u64,
    /// Now.
    pub now: Mono,
    /// What the last life left on disk.
    pub disk: Durable,
    /// G of the gate that the kernel offers.
    pub slack: Span,
}

/// The peer as last heard.
#[derive(Debug, Clone, Copy)]
struct Peer {
    beat: Beat,
    heard: Mono,
    /// Sending time of the newest beat of ours that it confirmed.
    echoed: Option<Mono>,
    /// It has said since then that it neither serves nor claims.
    idle_since: Mono,
}

impl Peer {
    /// It neither serves nor claims. A fenced peer claims nothing, and grants.
    fn idle(&self) -> bool {
        self.beat.claim == Claim::None
            && matches!(self.beat.role, PeerRole::Joining | PeerRole::Standby | PeerRole::Fenced)
    }
}

/// A claim that is granted as soon as what it needs is durable and the gate is closed.
#[derive(Debug, Clone, Copy)]
struct Owed {
    epoch: Epoch,
    boot: u64,
    n: u64,
    lease_and_slack: Span,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    id: AskId,
    question: Question,
    deadline: Mono,
}

/// Two primaries met; kept until another pair of them does.
#[derive(Debug, Clone, Copy)]
struct Met {
    meeting: Meeting,
    peers: Option<Span>,
    at: Mono,
    ruled: bool,
}

/// Rounds of VIP probes and what came back.
#[derive(Debug, Clone, Copy)]
struct Probe {
    next: Mono,
    /// When the last round went out.
    round: Mono,
    rounds_unanswered: u8,
    answer: Answerer,
    at: Mono,
}

/// One node of a pair.
#[derive(Debug, Clone)]
pub struct Node {
    options: Options,
    boot: u64,
    started: Mono,
    now: Mono,
    slack: Span,
    links_live: u8,
    /// Known to be durable.
    disk: Durable,
    /// What should be.
    want: Durable,
    writing: Option<(PersistId, Durable)>,
    write_again: Mono,
    persists: u64,
    state: State,
    since: Mono,
    /// No claim before this instant (R2, R4, R10).
    promise: Mono,
    /// Awake and listening without a stall since then (R13).
    listening: Mono,
    /// When the last step said that it wants to run again.
    due: Mono,
    /// A gate that nobody confirms to be closed is closed by the kernel's own timers at the latest
    /// then.
    closed_by: Mono,
    order_by: Mono,
    stall_max: Span,
    n: u64,
    sent: Sent,
    next_beat: Mono,
    peer: Option<Peer>,
    echo: Option<Echo>,
    owed: Option<Owed>,
    pending: Option<Pending>,
    asks: u64,
    ask_again: Mono,
    review: Mono,
    probe: Probe,
    fit: bool,
    unfit_until: Mono,
    elect_again: Mono,
    may_form: bool,
    may_plan: bool,
    wants_operator: bool,
    met: Option<Met>,
    /// Serving without the peer's grants since then.
    parted: Option<Mono>,
    order: Option<Order>,
    arbiter: Option<Arbiter>,
    /// What the present reign knows of what the peer has.
    sync: Sync,
    /// The present reign began with a peer that lacked something, and still does for all that is
    /// known.
    inherited: bool,
    /// The epoch of a `Drain` that has not ended.
    drained: Option<Epoch>,
    moves: Vec<Mono>,
    paired: bool,
    alarms: Vec<Alarm>,
}

impl Node {
    /// A node after a boot: always joining, bound by what it may have promised before (R4).
    #[must_use]
    pub fn new(options: Options, boot: Boot) -> Node {
        let mut disk = boot.disk;
        disk.highest = disk.highest.max(disk.reserved);
        let state = disk.fenced.map_or(State::Joining, State::Fenced);
        Node {
            options,
            boot: boot.id,
            started: boot.now,
            now: boot.now,
            slack: boot.slack,
            links_live: 0,
            disk,
            want: disk,
            writing: None,
            write_again: Mono::ZERO,
            persists: 0,
            state,
            since: boot.now,
            promise: boot.now
                + promise(disk.promised.max(options.timing.parts().lease + boot.slack)),
            listening: boot.now,
            due: boot.now,
            closed_by: Mono::ZERO,
            order_by: Mono::ZERO,
            stall_max: Span::ZERO,
            n: 0,
            sent: Sent::new(),
            next_beat: boot.now,
            peer: None,
            echo: None,
            owed: None,
            pending: None,
            asks: 0,
            ask_again: Mono::ZERO,
            review: Mono::NEVER,
            probe: Probe {
                next: Mono::ZERO,
                round: Mono::ZERO,
                rounds_unanswered: 0,
                answer: Answerer::NotProbed,
                at: boot.now,
            },
            fit: true,
            unfit_until: Mono::ZERO,
            elect_again: Mono::ZERO,
            may_form: false,
            may_plan: false,
            wants_operator: false,
            met: None,
            parted: None,
            order: None,
            arbiter: options.arbiter.then(Arbiter::new),
            sync: Sync::Unknown,
            inherited: false,
            drained: None,
            moves: Vec::new(),
            paired: false,
            alarms: Vec::new(),
        }
    }

    /// Takes the time and one event; answers with what is to be done.
    ///
    /// # Panics
    /// When `now` goes back, or an invariant of the protocol breaks: a crash is a failover, the one
    /// thing that the pair survives.
    #[must_use]
    pub fn step(&mut self, now: Mono, event: Event) -> Vec<Effect> {
        assert!(now >= self.now, "time went back from {:?} to {now:?}", self.now);
        self.now = now;
        let mut fx = Vec::new();
        self.wake(&mut fx);
        self.input(event, &mut fx);
        let mut rounds = 0;
        while self.settle(&mut fx) {
            rounds += 1;
            assert!(rounds < SETTLE_ROUNDS_MAX, "state does not settle: {:?}", self.state);
        }
        self.due = self.deadline().unwrap_or(Mono::NEVER);
        self.check();
        fx
    }

    /// R15: a stall is noticed and a lease that is over is given up before any input or timer.
    fn wake(&mut self, fx: &mut Vec<Effect>) {
        let late = self.now.since(self.due);
        let stalled = late > self.timing().stall();
        if stalled {
            self.stall_max = self.stall_max.max(late);
            self.listening = self.now;
            // Within one beat the peer cannot have gone alone unheard: D + 2h of silence, and the
            // shorter lease that it takes then, cover that. After a longer one it may have.
            if self.state.reign().is_none() && late > self.timing().beat() {
                let bound = self.now + promise(self.disk.promised.max(self.own_promise()));
                self.promise = self.promise.max(bound);
            }
            fx.push(Effect::Note(Note::Stall(late)));
        }
        self.expire(stalled, fx);
        if late > self.slack.scaled(1, 2)
            && let Some(reign) = self.state.reign()
        {
            // The kernel's timers stand still while the machine sleeps: the gate is armed anew, or
            // it would stay open beyond the lease for as long as the sleep lasted. Half of the
            // slack absorbs shorter ones.
            fx.push(Effect::Renew { until: reign.until() });
        }
    }

    /// R1: no lease, no primary, in the same step.
    fn expire(&mut self, stalled: bool, fx: &mut Vec<Effect>) {
        if self.state.reign().is_some_and(|reign| reign.until() <= self.now) {
            let (after, why) = if stalled {
                (After::Joining, Why::Stalled)
            } else {
                (After::Standby, Why::LeaseEnded)
            };
            self.let_go(after, why, fx);
        }
    }

    fn input(&mut self, event: Event, fx: &mut Vec<Effect>) {
        match event {
            Event::Heard(beat) => self.hear(beat, fx),
            Event::Persisted(id) => self.persisted(id, fx),
            Event::PersistFailed(id) => self.persist_failed(id, fx),
            // The state follows the claim, not the kernel's word for it.
            Event::Tick | Event::Claimed => {}
            Event::ClaimFailed => self.claim_failed(fx),
            Event::Released => self.released(fx),
            Event::Answered(id, verdict) => self.answered(id, Some(verdict), fx),
            Event::Unanswered(id) => self.answered(id, None, fx),
            Event::Probed(answerer) => {
                self.probe.rounds_unanswered = 0;
                self.probe.answer = answerer;
                self.probe.at = self.now;
            }
            Event::Consulted(id, reply) => self.consulted(id, reply, fx),
            Event::Synced(id, synced) => self.data_says(id, synced, fx),
            Event::Drained(epoch, shipment) => self.data_drained(epoch, shipment),
            Event::EvidenceChanged => self.review_soon(),
            Event::Fitness(fit) => {
                if self.fit != fit {
                    self.fit = fit;
                    self.review_soon();
                }
            }
            Event::License { may_form, may_plan } => {
                self.may_form = may_form;
                self.may_plan = may_plan;
            }
            Event::Slack(slack) => self.slack = slack,
            Event::Links(live) => self.links_live = live,
            Event::Order(order) => self.ordered(order, fx),
        }
    }

    fn persisted(&mut self, id: PersistId, fx: &mut Vec<Effect>) {
        if let Some((writing, record)) = self.writing
            && writing == id
        {
            self.writing = None;
            if record.reserved > self.disk.reserved || record.stale != self.disk.stale {
                // The peer waits for this word before it lets go, or acknowledges.
                self.next_beat = self.now;
            }
            self.disk = record;
            self.alarm(Alarm::DiskFailed, false, fx);
        }
    }

    fn persist_failed(&mut self, id: PersistId, fx: &mut Vec<Effect>) {
        if self.writing.is_some_and(|(writing, _)| writing == id) {
            self.writing = None;
            self.write_again = self.now + self.timing().beat();
            self.alarm(Alarm::DiskFailed, true, fx);
        }
    }

    fn claim_failed(&mut self, fx: &mut Vec<Effect>) {
        if self.state.reign().is_some() {
            self.unfit_until = self.now + self.timing().parts().join_timeout;
            self.let_go(After::Standby, Why::Kernel, fx);
        }
    }

    fn released(&mut self, fx: &mut Vec<Effect>) {
        let State::Closing(after) = self.state else { return };
        match after {
            After::Standby => self.state = State::Standby,
            After::Joining => self.state = State::Joining,
            After::Hand { epoch, stop } => {
                let give_up = self.now + self.timing().parts().lease;
                self.state = State::HandedOver { epoch, give_up, stop };
                self.next_beat = self.now;
            }
            After::Stop => self.stop(fx),
        }
    }

    /// Closes the gate; what follows waits for the kernel's word.
    fn let_go(&mut self, after: After, why: Why, fx: &mut Vec<Effect>) {
        debug_assert!(self.state.reign().is_some());
        self.turn(State::Closing(after), why, fx);
        self.elect_again = self.now + self.timing().parts().lease;
        self.closed_by = self.now + promise(self.own_promise());
        match after {
            After::Hand { .. } => {}
            After::Standby | After::Joining | After::Stop => {
                self.order_ends(Order::Switchover, Err(Refusal::NotTaken), fx);
            }
        }
        self.sync = Sync::Unknown;
        self.moved();
        self.set_paired(false, fx);
        fx.push(Effect::Release);
    }

    fn reign(&mut self, reign: Reign, why: Why, fx: &mut Vec<Effect>) {
        assert!(self.disk.highest.max(self.disk.reserved) >= reign.epoch, "epoch not durable");
        assert!(!self.state.gate_may_be_open(), "claim over an open gate");
        self.want.highest = self.want.highest.max(reign.epoch);
        self.want.was_primary = true;
        self.want.reigned = self.want.reigned.max(reign.epoch);
        let granted = reign.peer_until > self.now;
        self.turn(State::Primary(reign), why, fx);
        self.owed = None;
        self.promise = Mono::ZERO;
        // Whoever reigns lacks nothing any more: what was missing is given up.
        self.want.stale = false;
        self.inherited = self.want.ahead;
        self.moved();
        self.set_paired(granted, fx);
        // The beat first: a lease taken alone counts from a beat that was sent, and a crash may
        // come between the two (R13).
        self.speak(fx);
        fx.push(Effect::Claim { epoch: reign.epoch, until: reign.until() });
    }

    fn stop(&mut self, fx: &mut Vec<Effect>) {
        if self.state != State::Stopped {
            self.turn(State::Stopped, Why::Stop, fx);
            fx.push(Effect::Exit);
        }
    }

    /// Changes the state; says so when the role changes with it, and when a handover ends with it.
    fn turn(&mut self, to: State, why: Why, fx: &mut Vec<Effect>) {
        let from = self.state.role();
        self.state = to;
        let role = self.state.role();
        if from != role {
            self.turned(from, role, why, fx);
        }
        if !self.state.hands_over()
            && let Some(epoch) = self.drained.take()
        {
            fx.push(Effect::Undrain { epoch });
        }
    }

    fn turned(&mut self, from: Role, role: Role, why: Why, fx: &mut Vec<Effect>) {
        if let Some(arbiter) = &mut self.arbiter {
            // R2: an answer to what was asked in another role is nothing.
            arbiter.void();
        }
        self.since = self.now;
        self.wants_operator = false;
        self.ask_again = Mono::ZERO;
        self.review = match role {
            Role::Primary | Role::Standby => self.now + self.timing().parts().lease,
            Role::Joining | Role::Candidate | Role::Draining | Role::Fenced => Mono::NEVER,
        };
        fx.push(Effect::Note(Note::Role { from, to: role, epoch: self.epoch(), why }));
    }

    fn moved(&mut self) {
        if self.moves.len() == MOVES_MAX {
            self.moves.remove(0);
        }
        self.moves.push(self.now);
    }

    fn alarm(&mut self, alarm: Alarm, up: bool, fx: &mut Vec<Effect>) {
        let at = self.alarms.iter().position(|a| *a == alarm);
        match (at, up) {
            (None, true) => self.alarms.push(alarm),
            (Some(at), false) => {
                self.alarms.remove(at);
            }
            (Some(_), true) | (None, false) => return,
        }
        fx.push(Effect::Note(Note::Alarm(alarm, up)));
    }

    fn set_paired(&mut self, paired: bool, fx: &mut Vec<Effect>) {
        let serves = self.state.reign().is_some();
        self.parted = (serves && !paired).then(|| self.parted.unwrap_or(self.now));
        if self.paired != paired {
            self.paired = paired;
            fx.push(Effect::Note(Note::Paired(paired)));
        }
    }

    /// Invariants of every state between two steps; kept in release.
    fn check(&self) {
        if let Some(reign) = self.state.reign() {
            assert!(reign.until() > self.now, "primary without a lease");
            let durable = self.disk.highest.max(self.disk.reserved);
            assert!(durable >= reign.epoch, "primary of an epoch that is not durable");
            assert!(self.want.highest >= reign.epoch, "reign above the highest epoch");
        }
        assert!(self.want.highest >= self.disk.highest, "highest epoch went back");
        assert!(self.want.promised >= self.disk.promised, "largest promise went back");
    }

    /// L + G of this node: what it would have promised a peer of the same configuration.
    fn own_promise(&self) -> Span {
        self.timing().parts().lease + self.slack
    }

    fn timing(&self) -> &Timing {
        &self.options.timing
    }

    fn epoch(&self) -> Epoch {
        self.state.reign().map_or(self.want.highest, |reign| reign.epoch)
    }

    fn eligible(&self) -> bool {
        self.fit && self.able() && !self.stale()
    }

    /// Neither fenced nor stepped down a moment ago. A node whose services failed is able, but not
    /// eligible: with both nodes failed, one of them still serves.
    fn able(&self) -> bool {
        let fenced = matches!(self.state, State::Fenced(_) | State::Stopped);
        !fenced && self.now >= self.unfit_until
    }

    fn may_pair(&self) -> bool {
        self.want.formed || self.may_form
    }

    /// How long nothing was heard while awake and listening (R13).
    fn silence(&self) -> Span {
        self.now.since(self.silent_since())
    }

    fn silent_since(&self) -> Mono {
        self.peer.map_or(self.listening, |peer| peer.heard.max(self.listening))
    }

    fn silent(&self) -> bool {
        self.silence() >= self.timing().silence()
    }

    /// Nobody is there who could serve or grant. Behind a one-way cut a peer is heard that can do
    /// neither; with an arbiter that need not be the end.
    fn unserved(&self) -> bool {
        self.silent() || self.options.arbiter && self.two_way().is_none()
    }

    /// The peer confirmed a beat of this life a short while ago.
    #[must_use]
    pub fn confirmed(&self) -> bool {
        self.two_way().is_some()
    }

    /// The peer is there, and it hears this life of this node.
    fn two_way(&self) -> Option<Peer> {
        self.peer.filter(|peer| {
            let fresh = self.timing().parts().lease;
            self.now.since(peer.heard) < self.timing().silence()
                && peer.echoed.is_some_and(|sent| self.now.since(sent) < fresh)
        })
    }
}

#[cfg(test)]
#[path = "node/totality_tests.rs"]
mod totality_tests;
