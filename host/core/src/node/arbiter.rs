//! The arbiter: what this node knows of the register, what it asks for, and what the answers are
//! worth (R6-R9, R12). Leases count from the sending of what was confirmed, watches from the
//! receipt of what was read.

use super::Node;
use crate::effect::{Alarm, Effect, Why};
use crate::event::Refusal;
use crate::register::{ArbiterView, Register, Reply, Request, RequestId, Stamp, Standing};
use crate::state::{Reign, State};
use crate::time::{Mono, Span};
use crate::timing::promise;
use alloc::vec::Vec;

/// The register is looked at this often at least; a longer lease stretches it.
const POLL_MIN: Span = Span::ms(1_000);
/// A paired primary writes the register anew after this many polls: only a write shows what a
/// write takes.
const POLLS_PER_WRITE: u64 = 5;
/// A read that is not answered is given up after this; a longer lease stretches it.
const PATIENCE_MIN: Span = Span::ms(2_000);
/// Requests of a kind that may wait for their answers at once: renewals leave at every third of a
/// lease, whether or not the last one was answered.
const WAITING_MAX: usize = 4;
/// Round trips remembered.
const ROUND_TRIPS: usize = 8;

/// What the register held when it was last read or written.
#[derive(Debug, Clone, Copy)]
struct Known {
    register: Option<Register>,
    /// Receipt of the first answer that showed it.
    since: Mono,
    /// Receipt of the newest answer that showed it.
    heard: Mono,
    /// Sending of the newest request whose answer showed it.
    sent: Mono,
    /// Nothing has happened since that may have changed it.
    sure: bool,
}

impl Known {
    fn since(now: Mono, register: Option<Register>, sent: Mono) -> Known {
        Known { register, since: now, heard: now, sent, sure: true }
    }
}

#[derive(Debug, Clone, Copy)]
struct Swap {
    id: RequestId,
    sent: Mono,
    to: Register,
}

#[derive(Debug, Clone, Copy)]
struct Read {
    id: RequestId,
    sent: Mono,
}

/// What this node knows of the arbiter, and what it waits for.
#[derive(Debug, Clone)]
pub(super) struct Arbiter {
    known: Option<Known>,
    /// Oldest first. Each expects what the one before it wrote.
    swaps: Vec<Swap>,
    reads: Vec<Read>,
    requests: u64,
    /// After a failure nothing is asked before this.
    again: Mono,
    /// Sending of the last write that was to carry this node alone.
    alone_sent: Mono,
    /// Sending of the newest request that was answered.
    answered: Option<Mono>,
    /// Nothing but failures since then.
    failing: Option<Mono>,
    round_trips: [Span; ROUND_TRIPS],
    trips: usize,
}

impl Arbiter {
    pub(super) fn new() -> Arbiter {
        Arbiter {
            known: None,
            swaps: Vec::new(),
            reads: Vec::new(),
            requests: 0,
            again: Mono::ZERO,
            alone_sent: Mono::ZERO,
            answered: None,
            failing: None,
            round_trips: [Span::ZERO; ROUND_TRIPS],
            trips: 0,
        }
    }

    fn took(&mut self, sent: Mono, now: Mono) {
        self.answered = self.answered.max(Some(sent));
        self.failing = None;
        self.round_trips[self.trips % ROUND_TRIPS] = now.since(sent);
        self.trips += 1;
    }

    fn fails(&mut self, now: Mono, again: Mono) {
        self.failing = self.failing.or(Some(now));
        self.again = again;
    }

    /// An answer shows what the register holds. One that overlaps with newer knowledge and differs
    /// from it tells nothing.
    fn learn(&mut self, register: Option<Register>, sent: Mono, now: Mono) {
        match &mut self.known {
            Some(known) if known.register == register => {
                known.heard = now;
                known.sent = known.sent.max(sent);
                known.sure = true;
            }
            Some(known) if sent < known.heard => known.sure = false,
            Some(_) | None => self.known = Some(Known::since(now, register, sent)),
        }
    }

    /// A write whose answer nobody waits for any more may still be made.
    pub(super) fn void(&mut self) {
        if !self.swaps.is_empty() {
            self.swaps.clear();
            self.doubt();
        }
    }

    fn doubt(&mut self) {
        if let Some(known) = &mut self.known {
            known.sure = false;
        }
    }

    fn sure(&self) -> Option<&Known> {
        self.known.as_ref().filter(|known| known.sure)
    }

    /// What an answer takes: the longest of the last round trips, or a request's age that exceeds
    /// it.
    fn latency(&self, now: Mono) -> Span {
        let waits = self.swaps.iter().map(|swap| swap.sent);
        let waits =
            waits.chain(self.reads.iter().map(|read| read.sent)).map(|sent| now.since(sent));
        self.round_trips.iter().copied().chain(waits).max().unwrap_or(Span::ZERO)
    }
}

/// What a node wants the register to hold.
#[derive(Debug, Clone, Copy)]
struct Wish {
    epoch: crate::epoch::Epoch,
    alone: bool,
    /// Not before this.
    from: Mono,
}

impl Node {
    /// The arbiter answered. A late answer to a request that was given up is nothing.
    pub(super) fn consulted(&mut self, id: RequestId, reply: Reply, fx: &mut Vec<Effect>) {
        let (now, again) = (self.now, self.now + self.rest());
        let Some(arbiter) = &mut self.arbiter else { return };
        if let Some(at) = arbiter.swaps.iter().position(|swap| swap.id == id) {
            let swap = arbiter.swaps[at];
            match reply {
                Reply::Swapped => {
                    // Those before it were made, or it could not have been.
                    arbiter.swaps.drain(..=at);
                    arbiter.took(swap.sent, now);
                    arbiter.known = Some(Known::since(now, Some(swap.to), swap.sent));
                    self.swapped(&swap, fx);
                }
                Reply::Holds(register) => {
                    arbiter.void();
                    arbiter.took(swap.sent, now);
                    arbiter.learn(register, swap.sent, now);
                }
                Reply::Failed => {
                    arbiter.void();
                    arbiter.fails(now, again);
                }
            }
        } else if let Some(at) = arbiter.reads.iter().position(|read| read.id == id) {
            let sent = arbiter.reads.remove(at).sent;
            match reply {
                Reply::Holds(register) => {
                    arbiter.took(sent, now);
                    arbiter.learn(register, sent, now);
                    self.read_while_writing(register, sent);
                }
                Reply::Swapped | Reply::Failed => arbiter.fails(now, again),
            }
        }
    }

    /// R9: a write whose answer is late is looked for by a read. Nothing is assumed of it: it is
    /// written again from what the register holds now.
    fn read_while_writing(&mut self, register: Option<Register>, read_sent: Mono) {
        let (now, hedge) = (self.now, self.hedge());
        let wants = self.wish().map(|wish| wish.alone);
        let Some(arbiter) = &mut self.arbiter else { return };
        if let Some(made) = arbiter.swaps.iter().position(|swap| register == Some(swap.to)) {
            arbiter.swaps.drain(..=made);
            return;
        }
        let late = arbiter.swaps.first().is_some_and(|swap| {
            let unwanted = wants != Some(swap.to.alone);
            swap.sent <= read_sent && (now >= swap.sent + hedge || unwanted)
        });
        if late {
            arbiter.swaps.clear();
        }
    }

    /// The register holds what this node wrote: the lease counts from the sending (R6, R7).
    fn swapped(&mut self, swap: &Swap, fx: &mut Vec<Effect>) {
        let until = swap.sent + self.timing().granted();
        if !swap.to.alone || until <= self.now {
            return;
        }
        match &mut self.state {
            State::Claiming { epoch, .. } if *epoch == swap.to.epoch => {
                let epoch = *epoch;
                self.reign(
                    Reign::by_verdict(epoch, until),
                    Why::Verdict(super::settle::TAKE_OVER),
                    fx,
                );
            }
            State::Primary(reign) if reign.epoch == swap.to.epoch => {
                let before = reign.until();
                reign.own_until = reign.own_until.max(until);
                let (after, alone) = (reign.until(), reign.alone);
                if after > before {
                    fx.push(Effect::Renew { until: after });
                }
                if alone {
                    self.set_paired(false, fx);
                }
            }
            State::Joining
            | State::Standby
            | State::Electing { .. }
            | State::Claiming { .. }
            | State::Accepting { .. }
            | State::Primary(_)
            | State::Draining { .. }
            | State::Closing(_)
            | State::HandedOver { .. }
            | State::Fenced(_)
            | State::Stopped => {}
        }
    }

    /// Sends what is due to the arbiter; true when something was sent or given up.
    pub(super) fn consult(&mut self, fx: &mut Vec<Effect>) -> bool {
        if self.arbiter.is_none() || self.state == State::Stopped {
            return false;
        }
        self.arbiter_alarms(fx);
        if self.give_up_requests() || self.yields_to_register(fx) || self.above_register() {
            return true;
        }
        let wish = self.wish().filter(|wish| wish.from <= self.now);
        let request = match wish.and_then(|wish| self.swap_for(wish)) {
            Some(swap) => Some(swap),
            None => self.read_due(wish).then_some(Request::Read),
        };
        let now = self.now;
        let (Some(request), Some(arbiter)) = (request, &mut self.arbiter) else { return false };
        if now < arbiter.again {
            return false;
        }
        arbiter.requests += 1;
        let id = RequestId(arbiter.requests);
        match request {
            Request::Read => arbiter.reads.push(Read { id, sent: now }),
            Request::Swap { to, .. } => {
                arbiter.swaps.push(Swap { id, sent: now, to });
                if to.alone {
                    arbiter.alone_sent = now;
                } else if let State::Primary(reign) = &mut self.state {
                    // R8: from the sending on the peer's grants alone carry the lease.
                    reign.own_until = Mono::ZERO;
                }
            }
        }
        fx.push(Effect::Consult(id, request));
        true
    }

    fn give_up_requests(&mut self) -> bool {
        let (now, useless, patience) = (self.now, self.timing().granted(), self.patience());
        let again = now + self.rest();
        let Some(arbiter) = &mut self.arbiter else { return false };
        let swaps = arbiter.swaps.first().is_some_and(|swap| now >= swap.sent + useless);
        if swaps {
            arbiter.swaps.remove(0);
            arbiter.doubt();
        }
        let reads = arbiter.reads.first().is_some_and(|read| now >= read.sent + patience);
        if reads {
            arbiter.reads.remove(0);
            arbiter.again = again;
        }
        swaps || reads
    }

    /// Whoever writes the register writes an epoch that is not below the one it holds.
    fn above_register(&mut self) -> bool {
        self.register().is_some_and(|register| self.move_above(register.epoch))
    }

    pub(super) fn register(&self) -> Option<Register> {
        self.arbiter.as_ref().and_then(|arbiter| arbiter.known).and_then(|known| known.register)
    }

    /// The register is known as it was at `time` or later.
    pub(super) fn read_since(&self, time: Mono) -> bool {
        let known = self.arbiter.as_ref().and_then(Arbiter::sure);
        known.is_some_and(|known| known.sent >= time)
    }

    /// What the register should hold, as far as this node has the right to say.
    fn wish(&self) -> Option<Wish> {
        let arbiter = self.arbiter.as_ref()?;
        match &self.state {
            State::Primary(reign) if reign.next.is_some() => None,
            State::Primary(reign) if reign.alone => {
                let again = arbiter.alone_sent + self.third();
                let carried = reign.own_until > self.now && self.register_is(reign.epoch, true);
                let under_way = arbiter.swaps.last().is_some_and(|swap| swap.to.alone);
                let from = if carried || under_way { again } else { Mono::ZERO };
                Some(Wish { epoch: reign.epoch, alone: true, from })
            }
            // R8: marked as paired only while the peer's lease is the longer one.
            State::Primary(reign)
                if reign.peer_until > self.now && reign.peer_until >= reign.own_until =>
            {
                let rewrite = arbiter
                    .known
                    .map_or(Mono::ZERO, |known| known.since + self.poll().times(POLLS_PER_WRITE));
                let fits = self.register_is(reign.epoch, false);
                let from = if fits { rewrite } else { Mono::ZERO };
                Some(Wish { epoch: reign.epoch, alone: false, from })
            }
            State::Claiming { epoch, .. } if self.disk.highest >= *epoch => {
                let from = if arbiter.swaps.is_empty() {
                    Mono::ZERO
                } else {
                    arbiter.alone_sent + self.third()
                };
                Some(Wish { epoch: *epoch, alone: true, from })
            }
            State::Joining
            | State::Standby
            | State::Electing { .. }
            | State::Claiming { .. }
            | State::Accepting { .. }
            | State::Primary(_)
            | State::Draining { .. }
            | State::Closing(_)
            | State::HandedOver { .. }
            | State::Fenced(_)
            | State::Stopped => None,
        }
    }

    /// The register holds what this node would write, but for the stamp.
    fn register_is(&self, epoch: crate::epoch::Epoch, alone: bool) -> bool {
        self.register().is_some_and(|held| {
            held == Register { stamp: held.stamp, ..self.written(epoch, alone, 0) }
        })
    }

    fn written(&self, epoch: crate::epoch::Epoch, alone: bool, n: u64) -> Register {
        Register {
            epoch,
            alone,
            peer_synced: self.peer_may_take_over(),
            lease: self.timing().parts().lease,
            slack: self.slack,
            stamp: Stamp { boot: self.boot, n },
        }
    }

    /// The compare-and-set for a wish, where the rules allow it now.
    fn swap_for(&self, wish: Wish) -> Option<Request> {
        let arbiter = self.arbiter.as_ref()?;
        if let Some(last) = arbiter.swaps.last() {
            // A renewal does not wait for the answer to the one before it.
            let renews = last.to.alone && wish.alone && last.to.epoch == wish.epoch;
            let chained = renews && arbiter.swaps.len() < WAITING_MAX;
            let to = self.written(wish.epoch, wish.alone, arbiter.requests + 1);
            return chained.then_some(Request::Swap { expect: Some(last.to), to });
        }
        let known = arbiter.sure()?;
        let leased = self.state.reign().is_some_and(|reign| reign.peer_until > self.now);
        let allowed = match known.register {
            // R12: only a primary with a live lease, or the operator's word, creates it.
            None => self.state.reign().is_some() || self.vouched(),
            Some(held) => {
                let free = leased || self.takes(known) && self.may_overwrite(held);
                held.epoch <= wish.epoch && free
            }
        };
        let to = self.written(wish.epoch, wish.alone, arbiter.requests + 1);
        allowed.then_some(Request::Swap { expect: known.register, to })
    }

    /// R6: paired, or our own, or seen unchanged for as long as its holder may serve on it.
    fn free_to_take(&self, known: &Known) -> bool {
        known.register.is_some_and(|held| {
            let mine = held.holder() == Some(self.options.side);
            !held.alone || mine || self.now >= known.since + promise(held.lease + held.slack)
        })
    }

    /// Free to take, and nothing that was acknowledged is missing here by the register's word; an
    /// operator may say that it does not matter.
    fn takes(&self, known: &Known) -> bool {
        self.free_to_take(known) && (self.vouched() || !self.register_misses(known.register))
    }

    /// Requests so far: what is asked later has a higher number.
    pub(super) fn requests(&self) -> u64 {
        self.arbiter.as_ref().map_or(0, |arbiter| arbiter.requests)
    }

    /// The register holds a write of this life, later than that request, that keeps the peer from
    /// taking over by itself.
    pub(super) fn register_degrades(&self, after: u64) -> bool {
        let known = self.arbiter.as_ref().and_then(Arbiter::sure);
        known.and_then(|known| known.register).is_some_and(|held| {
            let mine = held.stamp.boot == self.boot && held.stamp.n > after;
            mine && !held.peer_synced
        })
    }

    /// A node that holds nothing could claim through the arbiter now, as far as the register goes.
    pub(super) fn claimable(&self) -> bool {
        let Some(arbiter) = &self.arbiter else { return true };
        arbiter.sure().is_some_and(|known| self.free_to_take(known))
    }

    /// A claim in flight that the register does not allow any more.
    pub(super) fn claim_is_lost(&self, epoch: crate::epoch::Epoch) -> bool {
        let known = self.arbiter.as_ref().and_then(Arbiter::sure);
        known.is_some_and(|known| match known.register {
            None => !self.vouched(),
            Some(held) => held.epoch > epoch || !self.takes(known),
        })
    }

    /// The operator wants this node to start without its peer: what the arbiter says to that.
    pub(super) fn arbiter_allows_start(&self) -> Result<(), Refusal> {
        let Some(arbiter) = &self.arbiter else { return Ok(()) };
        let known = arbiter.sure().ok_or(Refusal::Arbiter)?;
        if known.register.is_none() || self.free_to_take(known) {
            return Ok(());
        }
        Err(Refusal::Arbiter)
    }

    /// A booted node may not create a register that is missing: without its peer only the operator
    /// can say that it may (R12).
    pub(super) fn waits_for_register(&self, now: Mono) -> bool {
        let waited = now >= self.since + self.timing().parts().join_timeout;
        let missing = self.standing(now) == Some(Standing::NoRegister);
        self.state == State::Joining && waited && missing
    }

    fn read_due(&self, wish: Option<Wish>) -> bool {
        let Some(arbiter) = &self.arbiter else { return false };
        let late = arbiter.swaps.first().is_some_and(|swap| {
            let other = wish.is_some_and(|wish| wish.alone != swap.to.alone);
            other || self.now >= swap.sent + self.hedge()
        });
        let undecided = self.undecided();
        let unknown = undecided || arbiter.sure().is_none() && arbiter.swaps.is_empty();
        match arbiter.reads.last() {
            None => late || unknown || self.now >= self.next_look(arbiter),
            Some(read) => {
                let urgent = late || undecided || unknown && wish.is_some();
                let room = arbiter.reads.len() < WAITING_MAX;
                urgent && room && self.now >= read.sent + self.hedge()
            }
        }
    }

    /// A silent peer makes a node look at once, and often: what it reads starts the watch.
    fn next_look(&self, arbiter: &Arbiter) -> Mono {
        let looked = arbiter.known.map_or(Mono::ZERO, |known| known.heard);
        if !self.state.idle() || !self.silent() {
            return looked + self.poll();
        }
        let silent_from = self.silent_since() + self.timing().silence();
        if looked < silent_from {
            return silent_from;
        }
        looked + self.third()
    }

    /// How long to leave an arbiter alone that failed: a lease that runs out does not wait.
    fn rest(&self) -> Span {
        match self.wish() {
            Some(wish) if wish.alone => self.timing().dense_beat(),
            Some(_) | None if self.state.idle() && self.silent() => self.third(),
            Some(_) | None => self.poll(),
        }
    }

    /// Renewals leave at every third of a lease; whoever waits for the end of one looks as often.
    fn third(&self) -> Span {
        Span(self.timing().parts().lease.0 / 3)
    }

    fn poll(&self) -> Span {
        self.timing().parts().lease.max(POLL_MIN)
    }

    fn patience(&self) -> Span {
        self.timing().parts().lease.max(PATIENCE_MIN)
    }

    /// A write that is not answered after this is looked for.
    fn hedge(&self) -> Span {
        Span(self.timing().parts().lease.0 / 4)
    }

    /// How early a primary must ask whether it may go on alone: an arbiter needs its time, too.
    pub(super) fn arbiter_lead(&self) -> Span {
        let Some(arbiter) = &self.arbiter else { return Span::ZERO };
        let timing = self.timing();
        let lead = arbiter.latency(self.now).times(2) + timing.parts().policy_deadline;
        let most = timing.granted().minus(timing.silence());
        Span((lead + timing.beat()).0.min(most.0))
    }

    pub(super) fn standing(&self, now: Mono) -> Option<Standing> {
        let arbiter = self.arbiter.as_ref()?;
        let fresh = self.poll() + self.patience();
        // One failure may be a connection that was closed; those that go on are the arbiter's.
        let patient = self.poll().scaled(3, 2);
        let fails = arbiter.failing.is_some_and(|at| now.since(at) > patient);
        let away = fails || arbiter.answered.is_none_or(|at| now.since(at) > fresh);
        Some(match arbiter.known {
            _ if away => Standing::Away,
            None => Standing::Away,
            Some(_) if arbiter.latency(now) > self.timing().arbiter_latency_max() => Standing::Slow,
            Some(Known { register: None, .. }) => Standing::NoRegister,
            Some(_) => Standing::Ready,
        })
    }

    fn arbiter_alarms(&mut self, fx: &mut Vec<Effect>) {
        let standing = self.standing(self.now);
        let settled = self.now.since(self.started) > self.patience();
        let away = standing == Some(Standing::Away) && settled;
        self.alarm(Alarm::ArbiterAway, away, fx);
        self.alarm(Alarm::ArbiterSlow, standing == Some(Standing::Slow), fx);
    }

    pub(super) fn arbiter_view(&self, now: Mono) -> Option<ArbiterView> {
        let arbiter = self.arbiter.as_ref()?;
        Some(ArbiterView {
            answered: arbiter.answered.map(|at| now.since(at)),
            latency: arbiter.latency(now),
            standing: self.standing(now)?,
            register: arbiter.known.and_then(|known| known.register),
            unchanged: arbiter.known.map_or(Span::ZERO, |known| now.since(known.since)),
        })
    }

    /// When the arbiter's part wants to run again, each instant through `at`.
    pub(super) fn arbiter_deadline(&self, at: &mut impl FnMut(Mono)) {
        let Some(arbiter) = &self.arbiter else { return };
        at(arbiter.again);
        if let Some(swap) = arbiter.swaps.first() {
            at(swap.sent + self.timing().granted());
            at(swap.sent + self.hedge());
        }
        match (arbiter.reads.first(), arbiter.reads.last()) {
            (Some(first), Some(last)) => {
                at(first.sent + self.patience());
                at(last.sent + self.hedge());
            }
            (None, _) | (_, None) => at(self.next_look(arbiter)),
        }
        if let Some(wish) = self.wish() {
            at(wish.from);
        }
        if let Some(known) = arbiter.known
            && let Some(held) = known.register
        {
            at(known.since + promise(held.lease + held.slack));
        }
    }
}
