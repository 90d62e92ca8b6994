//! Timers and conditions: what the state itself calls for, whatever event came last.

use super::Node;
use crate::beat::PeerRole;
use crate::effect::{Effect, Note, PersistId, Why};
use crate::epoch::Epoch;
use crate::event::{Order, Refusal};
use crate::state::{Reign, Resume, State};
use alloc::vec::Vec;

/// A claim whose epoch is not durable after this many leases is given up.
const CLAIM_LEASES: u64 = 4;
/// The same for a joint claim, which nobody waits for with a lease in hand: a slow disk must not
/// make it begin again.
const ELECT_LEASES: u64 = 16;

impl Node {
    /// Does the first thing that is due; true when it should be called again.
    pub(super) fn settle(&mut self, fx: &mut Vec<Effect>) -> bool {
        self.orders_settled(fx);
        self.write(fx)
            || self.grant(fx)
            || self.settle_state(fx)
            || self.settle_sync(fx)
            || self.note_missing_alone()
            || self.consult(fx)
            || self.ask_what_is_due(fx)
            || self.probe_vip(fx)
            || self.beat_due(fx)
    }

    fn write(&mut self, fx: &mut Vec<Effect>) -> bool {
        if self.want == self.disk || self.writing.is_some() || self.now < self.write_again {
            return false;
        }
        self.persists += 1;
        let id = PersistId(self.persists);
        self.writing = Some((id, self.want));
        fx.push(Effect::Persist(id, self.want));
        true
    }

    fn beat_due(&mut self, fx: &mut Vec<Effect>) -> bool {
        if self.now < self.next_beat || self.state == State::Stopped {
            return false;
        }
        self.speak(fx);
        true
    }

    fn settle_state(&mut self, fx: &mut Vec<Effect>) -> bool {
        match self.state {
            State::Joining | State::Standby => self.elect(fx),
            State::Electing { epoch, until, asked } => {
                if !asked && self.disk.highest >= epoch {
                    let until = self.now + self.timing().parts().lease.times(CLAIM_LEASES);
                    self.state = State::Electing { epoch, until, asked: true };
                    self.speak(fx);
                    return true;
                }
                let why = if asked { Why::Outvoted } else { Why::Disk };
                self.now >= self.ends_by(until) && self.give_up(Resume::Standby, why, fx)
            }
            State::Claiming { epoch, until, from } if self.options.arbiter => {
                if self.promise > self.now {
                    return self.give_up(from, Why::SilenceBroken, fx);
                }
                if self.vouched() && self.note_missing() {
                    return true;
                }
                let lost = self.now >= self.ends_by(until) || self.claim_is_lost(epoch);
                lost && self.give_up(from, Why::Arbiter, fx)
            }
            State::Claiming { epoch, until, from } => {
                if !self.silent() || self.promise > self.now {
                    return self.give_up(from, Why::SilenceBroken, fx);
                }
                if self.disk.highest >= epoch {
                    let own = self.now + self.timing().self_granted();
                    self.reign(Reign::by_verdict(epoch, own), Why::Verdict(TAKE_OVER), fx);
                    return true;
                }
                self.now >= self.ends_by(until) && self.give_up(from, Why::Disk, fx)
            }
            State::Accepting { epoch, until } => {
                if self.now >= until {
                    return self.give_up(Resume::Standby, Why::Disk, fx);
                }
                if self.disk.highest.max(self.disk.reserved) >= epoch {
                    self.reign(Reign::under_peer(epoch, until), Why::HandedOver, fx);
                    return true;
                }
                false
            }
            State::Primary(reign) => self.settle_reign(reign, fx),
            State::Draining { .. } => self.settle_draining(fx),
            State::HandedOver { give_up, stop, .. } => {
                if self.now < give_up {
                    return false;
                }
                self.order_ends(Order::Switchover, Err(Refusal::NotTaken), fx);
                if stop {
                    self.stop(fx);
                } else {
                    self.turn(State::Standby, Why::NotTaken, fx);
                }
                true
            }
            State::Closing(_) => {
                let over = self.now >= self.closed_by;
                if over {
                    self.released(fx);
                }
                over
            }
            State::Stopped => false,
            State::Fenced(_) => self.settle_fenced(fx),
        }
    }

    fn settle_fenced(&mut self, fx: &mut Vec<Effect>) -> bool {
        let cleared = self.disk.fenced.is_none();
        if cleared {
            self.turn(State::Joining, Why::Operator, fx);
            self.order_ends(Order::Clear, Ok(()), fx);
        }
        cleared
    }

    /// Waits again; true, as there may be more to settle.
    fn give_up(&mut self, to: Resume, why: Why, fx: &mut Vec<Effect>) -> bool {
        let back = match to {
            Resume::Joining => State::Joining,
            Resume::Standby => State::Standby,
        };
        self.turn(back, why, fx);
        self.elect_again = self.now + self.timing().parts().lease;
        let refusal = match why {
            Why::Disk => Refusal::Disk,
            Why::Arbiter => Refusal::Arbiter,
            _ => Refusal::PeerPresent,
        };
        self.order_ends(Order::StartAlone, Err(refusal), fx);
        true
    }

    /// R5: both nodes see each other, none is primary: the preferred one asks for a grant, without
    /// a wait.
    fn elect(&mut self, fx: &mut Vec<Effect>) -> bool {
        let Some(peer) = self.two_way() else { return false };
        let free = peer.idle() && self.owed.is_none();
        if !free || !self.able() || !self.may_pair() || self.now < self.elect_again {
            return false;
        }
        let me = self.options.side;
        let vouched = self.vouched();
        if self.undecided() && !vouched {
            return false;
        }
        // Whoever lacks what was acknowledged does not claim beside one who has it.
        let (lacks, peer_lacks) = (self.lacks_beside(&peer.beat), self.has_more_than(&peer.beat));
        let both = lacks && peer_lacks;
        let tie = |highest| if both { highest } else { Epoch::NONE };
        // Where the register does not say who lacks something, nobody does: this node, which knows
        // it, does not wait for a peer that may be unable to read it.
        let reads = both && self.register().is_some();
        let mine = (
            vouched,
            !lacks,
            // Numbers of claims that failed count as highest, too: the register knows who reigned.
            !(both && self.misses_by_register()),
            reads,
            tie(self.want.highest),
            self.eligible(),
            self.state == State::Standby,
            self.want.highest,
            self.want.highest.minted_by() == Some(me),
            self.options.preferred,
            me == crate::epoch::Side::A,
        );
        let peers = (
            false,
            !peer_lacks,
            !(both && self.peer_misses_by_register()),
            reads && peer.beat.arbiter == Some(true),
            tie(peer.beat.highest),
            peer.beat.eligible,
            peer.beat.role == PeerRole::Standby,
            peer.beat.highest,
            peer.beat.highest.minted_by() == Some(me.other()),
            self.options.peer_preferred,
            me == crate::epoch::Side::B,
        );
        if mine <= peers {
            // The peer, which acknowledged more, may be unable to read that: the mark tells it.
            return both && !self.disk.stale && self.note_missing();
        }
        let epoch = self.want.highest.max(self.want.reserved).max(peer.beat.highest).next_of(me);
        self.want.highest = epoch;
        let until = self.now + self.timing().parts().lease.times(ELECT_LEASES);
        self.turn(State::Electing { epoch, until, asked: false }, Why::Elected, fx);
        true
    }

    /// A new number for the reign is durable: going alone without an arbiter, or R11.
    fn settle_reign(&mut self, reign: Reign, fx: &mut Vec<Effect>) -> bool {
        let Some(next) = reign.next.filter(|next| self.disk.highest >= next.epoch) else {
            return false;
        };
        let alone = next.alone && self.silent();
        let own = self.now + self.timing().self_granted();
        if let State::Primary(reign) = &mut self.state {
            reign.next = None;
            reign.epoch = next.epoch;
            if alone {
                reign.alone = true;
                reign.own_until = own;
            }
            let until = reign.until();
            fx.push(Effect::Note(Note::Epoch(next.epoch)));
            self.speak(fx);
            if alone {
                // After the beat that it counts from: a crash may come between the two.
                fx.push(Effect::Renew { until });
                self.set_paired(false, fx);
            }
        }
        true
    }

    /// Starts an alone claim: durable epoch first, then the conditions once more (R13).
    pub(super) fn claim_alone(&mut self, fx: &mut Vec<Effect>) {
        let from = match self.state {
            State::Joining => Resume::Joining,
            State::Standby => Resume::Standby,
            State::Electing { .. }
            | State::Claiming { .. }
            | State::Accepting { .. }
            | State::Primary(_)
            | State::Draining { .. }
            | State::Closing(_)
            | State::HandedOver { .. }
            | State::Fenced(_)
            | State::Stopped => return,
        };
        let arbitrated = self.options.arbiter;
        if self.promise > self.now || !(arbitrated || self.silent()) {
            return;
        }
        let by_operator = self.vouched();
        if !(self.claimable() || by_operator && self.arbiter_allows_start().is_ok()) {
            return;
        }
        let known = self.peer.map_or(self.want.highest, |peer| peer.beat.highest);
        let known = known.max(self.register().map_or(known, |held| held.epoch));
        let epoch = self.want.highest.max(self.want.reserved).max(known).next_of(self.options.side);
        self.want.highest = epoch;
        // What an operator is about to give up is missing here until this node reigns: its claim
        // may take that word out of the register, and fail all the same.
        self.note_missing();
        self.owed = None;
        let until = self.now + self.timing().parts().lease.times(CLAIM_LEASES);
        self.turn(State::Claiming { epoch, until, from }, Why::Verdict(TAKE_OVER), fx);
    }
}

pub(super) const TAKE_OVER: crate::event::Intent = crate::event::Intent::TakeOver;
