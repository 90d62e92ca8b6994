//! Degrade before ack: before commits are acknowledged that the peer does not have, it is durable
//! where the peer will see it that the peer must not take over by itself: at the peer, or in the
//! arbiter's register. On this node alone it would protect nothing.
//!
//! The words of the data plane are answered by number, for an answer may cross a newer word on its
//! way. What the peer says counts from the first beat of this node that told it: an older word of
//! the peer may be about to be overwritten on its disk.

use super::{Node, Peer};
use crate::beat::Beat;
use crate::effect::{Durable, Effect, SyncId, Why};
use crate::epoch::{Epoch, Side};
use crate::register::Register;
use crate::state::After;
use alloc::vec::Vec;

/// What a reign knows of what its peer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sync {
    /// The data plane has said nothing in this reign: what an earlier one left behind is still so.
    Unknown,
    /// Something is, or will be, missing at the peer: nobody is known to know it.
    Leaving { word: SyncId, beat: u64, request: u64 },
    /// The peer or the register knows it, durably.
    Degraded,
    /// Nothing is missing any more; the peer has not confirmed it.
    Returning { word: SyncId, beat: u64 },
    /// The peer counts as a full heir.
    Whole,
}

impl Sync {
    /// The peer lacks, or may soon lack, what was acknowledged.
    pub(super) fn leaves(self) -> bool {
        match self {
            Sync::Leaving { .. } | Sync::Degraded => true,
            Sync::Unknown | Sync::Returning { .. } | Sync::Whole => false,
        }
    }

    pub(super) fn is_degraded(self) -> bool {
        self == Sync::Degraded
    }
}

impl Node {
    /// The data plane of a primary says whether the peer has everything.
    pub(super) fn data_says(&mut self, id: SyncId, synced: bool, fx: &mut Vec<Effect>) {
        if self.state.reign().is_none() {
            return;
        }
        let (beat, request) = (self.n + 1, self.requests());
        let before = self.sync;
        self.sync = match (before, synced) {
            (Sync::Unknown | Sync::Returning { .. } | Sync::Whole, false) => {
                Sync::Leaving { word: id, beat, request }
            }
            (Sync::Leaving { beat, request, .. }, false) => {
                Sync::Leaving { word: id, beat, request }
            }
            (Sync::Degraded, false) => {
                fx.push(Effect::Degraded(id, true));
                Sync::Degraded
            }
            (Sync::Unknown | Sync::Leaving { .. } | Sync::Degraded, true) => {
                Sync::Returning { word: id, beat }
            }
            (Sync::Returning { beat, .. }, true) => Sync::Returning { word: id, beat },
            (Sync::Whole, true) => {
                fx.push(Effect::Degraded(id, false));
                Sync::Whole
            }
        };
        self.want.ahead |= !synced;
        if before.leaves() != self.sync.leaves() || before == Sync::Unknown {
            self.next_beat = self.now;
        }
    }

    /// Looks for the proof that the last word of the data plane waits for.
    pub(super) fn settle_sync(&mut self, fx: &mut Vec<Effect>) -> bool {
        match self.sync {
            Sync::Leaving { word, beat, request } => {
                let known = self.peer_says_stale(beat) == Some(true);
                // A mark of what an operator gave up would keep this node from saying so later.
                let ahead = self.durably(|record| record.ahead && !record.stale);
                let proven = ahead && (known || self.register_degrades(request));
                if proven {
                    self.sync = Sync::Degraded;
                    fx.push(Effect::Degraded(word, true));
                }
                proven
            }
            Sync::Returning { word, beat } => {
                let confirmed = self.peer_says_stale(beat) == Some(false);
                if confirmed {
                    self.sync = Sync::Whole;
                    self.want.ahead = false;
                    self.inherited = false;
                    fx.push(Effect::Degraded(word, false));
                }
                confirmed
            }
            Sync::Unknown | Sync::Degraded | Sync::Whole => false,
        }
    }

    /// What the peer says of its own disk, once it has heard that beat of this life.
    fn peer_says_stale(&self, beat: u64) -> Option<bool> {
        let told = |echo: crate::beat::Echo| echo.boot == self.boot && echo.n >= beat;
        let peer = self.peer.filter(|peer| peer.beat.echo.is_some_and(told))?;
        peer.beat.stale
    }

    /// A primary whose claim this node is about to grant says what this node has.
    pub(super) fn hear_synced(&mut self, synced: Option<bool>) {
        self.want.ahead = false;
        if let Some(synced) = synced {
            self.want.stale = !synced;
        }
    }

    /// True on disk, and no write under way or due would make it otherwise.
    fn durably(&self, what: impl Fn(&Durable) -> bool) -> bool {
        let writing = self.writing.is_none_or(|(_, record)| what(&record));
        what(&self.disk) && what(&self.want) && writing
    }

    /// Changes that were acknowledged are missing here, or may be.
    pub(super) fn stale(&self) -> bool {
        self.want.stale || self.disk.stale
    }

    pub(super) fn says_stale(&self) -> Option<bool> {
        if self.durably(|record| record.stale) {
            return Some(true);
        }
        self.durably(|record| !record.stale).then_some(false)
    }

    /// What the beats say of the receiver's data. A node that is stale itself does not vouch for
    /// anybody: or both nodes could be so after a crash.
    pub(super) fn says_synced(&self) -> Option<bool> {
        if self.stale() {
            return None;
        }
        match self.sync {
            Sync::Unknown => self.want.ahead.then_some(false),
            Sync::Leaving { .. } | Sync::Degraded => Some(false),
            Sync::Returning { .. } | Sync::Whole => Some(true),
        }
    }

    /// The peer lacks, or may soon lack, what this node acknowledged in this reign or in its last.
    pub(super) fn peer_may_lack(&self) -> bool {
        self.sync.leaves() || self.sync == Sync::Unknown && self.want.ahead
    }

    /// What the register says of the peer. A node that lacks something itself, until an operator's
    /// claim makes a reign and that is durable, does not stand in the way of a peer that may have
    /// everything.
    pub(super) fn peer_may_take_over(&self) -> bool {
        !self.peer_may_lack() || self.stale()
    }

    /// A primary whose clocks stood still while its peer reigned, and acknowledged what is not
    /// here, yields as if the two had met; true when it does. One that acknowledged something alone
    /// itself goes on: the split-brain policy will have to rule.
    pub(super) fn yields_to(&mut self, epoch: Epoch, fx: &mut Vec<Effect>) -> bool {
        let older = self.state.reign().is_some_and(|reign| reign.epoch < epoch);
        let alone = self.sync.is_degraded() || self.inherited && self.peer_may_lack();
        let yields = older && !alone;
        if yields {
            self.let_go(After::Standby, Why::HigherEpoch(epoch), fx);
        }
        yields
    }

    /// The peer, which does not serve, has acknowledged changes that this node lacks.
    pub(super) fn lacks_beside(&self, peer: &Beat) -> bool {
        self.stale() || peer.synced == Some(false)
    }

    /// The same the other way round.
    pub(super) fn has_more_than(&self, peer: &Beat) -> bool {
        peer.stale == Some(true) || self.says_synced() == Some(false)
    }

    /// Whoever would take over has everything that was acknowledged.
    pub(super) fn heir_synced(&self) -> bool {
        if self.state.reign().is_some() {
            let stale = self.peer.is_some_and(|peer| peer.beat.stale == Some(true));
            !stale && !self.sync.is_degraded()
        } else {
            !self.stale() && !self.misses_by_register()
        }
    }

    /// The register says that its holder acknowledged what this node does not have.
    pub(super) fn register_misses(&self, register: Option<Register>) -> bool {
        self.acknowledged_alone(register, self.options.side.other())
    }

    /// The same of the register as it was last seen, however long ago.
    pub(super) fn misses_by_register(&self) -> bool {
        self.register_misses(self.register())
    }

    /// The same the other way round: this node acknowledged what the peer does not have.
    pub(super) fn peer_misses_by_register(&self) -> bool {
        self.acknowledged_alone(self.register(), self.options.side)
    }

    /// Each node may have acknowledged what the other lacks, and the register, which knows who did,
    /// has not been read since the peer ceased to serve: nobody is elected before it has, or an
    /// operator says who is to serve.
    pub(super) fn undecided(&self) -> bool {
        let Some(peer) = self.both_marked().filter(|_| self.options.arbiter) else { return false };
        // Its own word is the last one if the peer never had a higher number: to write, it needs
        // one.
        let own = self.register().is_some_and(|held| {
            held.holder() == Some(self.options.side) && held.epoch > peer.beat.highest
        });
        !own && !self.read_since(peer.idle_since)
    }

    /// Neither serves, and each node may have acknowledged what the other lacks: the peer.
    pub(super) fn both_marked(&self) -> Option<Peer> {
        let peer = self.two_way().filter(Peer::idle).filter(|_| self.state.idle())?;
        let both = self.lacks_beside(&peer.beat) && self.has_more_than(&peer.beat);
        both.then_some(peer)
    }

    /// What the register says is missing here is marked as missing; true when that is news.
    pub(super) fn note_missing(&mut self) -> bool {
        let news = !self.want.stale && self.misses_by_register();
        self.want.stale |= news;
        news
    }

    /// What is missing here is marked, durably, before the register forgets it.
    pub(super) fn may_overwrite(&self, held: Register) -> bool {
        self.disk.stale || !self.register_misses(Some(held))
    }

    /// A node that hears nobody marks what the register says its holder, alone, acknowledged
    /// without it: a register can be lost.
    pub(super) fn note_missing_alone(&mut self) -> bool {
        let alone = self.register().is_some_and(|held| held.alone);
        alone && self.state.idle() && self.silent() && self.note_missing()
    }

    /// A reign after this one acknowledged what is not here; or it serves alone, for which it
    /// waited until this one's lease was over: the clocks of this node stood still.
    pub(super) fn yields_to_register(&mut self, fx: &mut Vec<Effect>) -> bool {
        let peer = Some(self.options.side.other());
        let after = |held: &Register| held.alone && held.holder() == peer;
        let held = self.register().filter(|held| after(held) || self.register_misses(Some(*held)));
        held.is_some_and(|held| self.yields_to(held.epoch, fx))
    }

    /// The register says that this node holds it, and acknowledged what the other one does not
    /// have. A word from before the newest reign that is known here is over: whoever began that one
    /// had everything, or an operator's word. But of a later reign of its own, with which it would
    /// end its own word, the other node may not have heard.
    fn acknowledged_alone(&self, register: Option<Register>, node: Side) -> bool {
        let me = self.options.side;
        let own = node == me && self.want.reigned.minted_by() == Some(me);
        register.is_some_and(|held| {
            let over = held.epoch < self.want.reigned && !own;
            held.holder() == Some(node) && !held.peer_synced && !over
        })
    }
}
