//! One core alone, driven by hand: each test holds one line of the core that no history of a pair
//! isolates, because another line would catch what the first one let through. Taking the named line
//! out makes its test fail.

use staffetta_core::{
    AskId, Beat, Boot, Claim, Durable, Echo, Effect, Epoch, Event, Hand, Intent, Mono, Node, Note,
    Options, Order, PeerRole, PersistId, Question, Refusal, Register, Reply, Request, RequestId,
    Role, Shipment, Side, Span, Stamp, SyncId, Timing, TimingParts, Verdict,
};

const ME: u64 = 1;
const PEER: u64 = 2;
const BEAT_MS: u64 = 50;
const LEASE: Span = Span::ms(300);
const SLACK: Span = Span::ms(20);
const PATIENCE: Span = Span::ms(1_000);

/// A node of side A (even epochs), its clock, and a disk that writes when told to.
struct One {
    node: Node,
    now: Mono,
    done: Vec<Effect>,
    writing: Option<PersistId>,
    /// The newest beat of the node, and of its peer.
    said: Option<Beat>,
    heard: u64,
}

fn timing() -> Timing {
    timing_of(LEASE)
}

fn timing_of(lease: Span) -> Timing {
    Timing::new(TimingParts {
        beat: Span::ms(BEAT_MS),
        lease,
        delay: Span::ms(10),
        slack: SLACK,
        policy_deadline: Span::ms(40),
        join_timeout: Span::ms(10_000),
        stop_budget: Span::ms(3_000),
    })
    .unwrap()
}

fn formed(highest: u64) -> Durable {
    Durable { highest: Epoch(highest), promised: LEASE + SLACK, formed: true, ..Durable::default() }
}

impl One {
    fn boots(disk: Durable) -> One {
        One::boots_with(disk, false, false)
    }

    fn boots_with(disk: Durable, data: bool, arbiter: bool) -> One {
        One::boots_timed(disk, timing(), data, arbiter)
    }

    fn boots_timed(disk: Durable, timing: Timing, data: bool, arbiter: bool) -> One {
        let now = Mono(1_000_000_000);
        let options = Options {
            side: Side::A,
            preferred: false,
            peer_preferred: false,
            timing,
            arbiter,
            data,
            drain_patience: PATIENCE,
        };
        let node = Node::new(options, Boot { id: ME, now, disk, slack: SLACK });
        let mut one = One { node, now, done: Vec::new(), writing: None, said: None, heard: 0 };
        one.step(Event::License { may_form: true, may_plan: true });
        one.step(Event::Links(2));
        one
    }

    /// Follows a primary of epoch 11.
    fn standby(disk: Durable) -> One {
        let mut one = One::boots(disk);
        one.run(10);
        one.hears(|beat| reigns(beat, 11));
        one.written();
        assert_eq!(one.role(), Role::Standby);
        one
    }

    /// Serves epoch 12 under the peer's grant.
    fn primary() -> One {
        One::primary_of(One::boots(formed(10)))
    }

    fn primary_of(mut one: One) -> One {
        one.run(200);
        one.hears(|beat| beat.role = PeerRole::Joining);
        one.written();
        one.hears(|beat| grants(beat, 12));
        assert_eq!(one.role(), Role::Primary, "{:?}", one.done);
        one
    }

    fn step(&mut self, event: Event) {
        for effect in self.node.step(self.now, event) {
            match &effect {
                Effect::Send(beat) => {
                    self.said = Some(*beat);
                    continue;
                }
                Effect::Persist(id, _) => self.writing = Some(*id),
                _ => {}
            }
            self.done.push(effect);
        }
    }

    /// Time passes; every deadline of the node is met.
    fn run(&mut self, ms: u64) {
        let end = self.now + Span::ms(ms);
        while let Some(due) = self.node.deadline().filter(|due| *due < end) {
            self.now = self.now.max(due) + Span(1_000);
            self.step(Event::Tick);
        }
        self.now = self.now.max(end);
        self.step(Event::Tick);
    }

    /// The next beat of the peer: idle, but for what `change` makes of it.
    fn hears(&mut self, change: impl FnOnce(&mut Beat)) {
        self.heard += 1;
        let said = self.said.map_or(0, |beat| beat.n);
        let mut beat = Beat {
            boot: PEER,
            n: self.heard,
            role: PeerRole::Standby,
            claim: Claim::None,
            highest: Epoch::NONE,
            lease: LEASE,
            slack: SLACK,
            echo: Some(Echo { boot: ME, n: said, granted: Epoch::NONE }),
            hand: None,
            reserve: Epoch::NONE,
            reserved: Epoch::NONE,
            met: None,
            eligible: true,
            maintenance: false,
            arbiter: None,
            synced: None,
            stale: Some(false),
        };
        change(&mut beat);
        self.step(Event::Heard(beat));
    }

    /// A hand of the peer, right in everything but what `change` makes of it.
    fn handed(&mut self, change: impl FnOnce(&mut Hand)) {
        let n = self.said.map_or(0, |beat| beat.n);
        let mut hand = Hand { epoch: Epoch(14), boot: ME, n };
        change(&mut hand);
        self.hears(|beat| {
            beat.role = PeerRole::Draining;
            beat.hand = Some(hand);
        });
    }

    /// The disk takes whatever it was given.
    fn written(&mut self) {
        while let Some(id) = self.writing.take() {
            self.step(Event::Persisted(id));
        }
    }

    fn role(&self) -> Role {
        self.node.view(self.now).role
    }

    fn epoch(&self) -> Epoch {
        self.node.view(self.now).epoch
    }

    /// What was done since the last look.
    fn look(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.done)
    }

    /// Runs until the node asks.
    fn asks(&mut self) -> (AskId, Question) {
        for _ in 0..2_000 {
            let asked = self.look().into_iter().rev().find_map(|effect| match effect {
                Effect::Ask(ask) => Some((ask.id, ask.question)),
                _ => None,
            });
            if let Some(asked) = asked {
                return asked;
            }
            self.run(1);
        }
        panic!("the node asked nothing")
    }

    fn answers(&mut self, id: AskId, intent: Intent) {
        self.step(Event::Answered(id, Verdict { intent, recheck: None }));
    }
}

fn reigns(beat: &mut Beat, epoch: u64) {
    beat.role = PeerRole::Primary;
    beat.claim = Claim::Primary(Epoch(epoch));
    beat.highest = Epoch(epoch);
}

fn grants(beat: &mut Beat, epoch: u64) {
    beat.highest = Epoch(epoch);
    if let Some(echo) = &mut beat.echo {
        echo.granted = Epoch(epoch);
    }
}

/// A peer that does not serve, with this number, says that what it acknowledged is missing here.
fn marked(beat: &mut Beat, highest: u64) {
    (beat.role, beat.highest) = (PeerRole::Joining, Epoch(highest));
    (beat.arbiter, beat.synced) = (Some(true), Some(false));
}

/// What this node acknowledged may be missing at the peer.
fn ahead(highest: u64) -> Durable {
    Durable { ahead: true, was_primary: true, ..formed(highest) }
}

fn moved(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Note(Note::Role { .. })))
}

/// A hand that must change nothing: no role, no record, whatever the disk does.
fn refused(change: impl FnOnce(&mut Hand)) {
    let mut one = One::standby(formed(10));
    one.run(20);
    one.look();
    one.handed(change);
    assert_eq!(one.writing, None, "the refused hand reached the disk");
    one.written();
    assert!(!moved(&one.look()), "the refused hand moved the node");
    assert_eq!(one.role(), Role::Standby);
}

/// The measure of the refusals below: the same hand with nothing wrong is taken.
#[test]
fn a_hand_is_taken() {
    let mut one = One::standby(formed(10));
    one.run(20);
    one.handed(|_| {});
    assert_eq!(one.role(), Role::Candidate);
    one.written();
    assert_eq!((one.role(), one.epoch()), (Role::Primary, Epoch(14)));
}

/// `hear_hand`: the boot id. The numbers of two lives are alike; the lease of one is nothing to the
/// other.
#[test]
fn a_hand_for_another_life_is_nothing() {
    refused(|hand| hand.boot = ME + 1);
}

/// `hear_hand`: the parity. The peer hands over epochs of ours only.
#[test]
fn a_hand_of_the_senders_own_parity_is_nothing() {
    refused(|hand| hand.epoch = Epoch(15));
}

/// `hear_hand`: the epoch. Duplicates die by it.
#[test]
fn a_hand_of_an_epoch_that_is_known_is_nothing() {
    refused(|hand| hand.epoch = Epoch(10));
}

/// `hear_hand`: the expiry. The lease counts from the sending of the beat that the hand names.
#[test]
fn a_hand_that_expired_is_nothing() {
    let mut one = One::standby(formed(10));
    one.run(20);
    let old = one.said.unwrap().n;
    for _ in 0..4 {
        one.run(80);
        one.hears(|beat| reigns(beat, 11));
    }
    one.look();
    one.handed(|hand| hand.n = old);
    assert_eq!(one.writing, None, "the late hand reached the disk");
    one.written();
    assert!(!moved(&one.look()), "the late hand moved the node");
    // A beat that was never sent is no better than a forgotten one.
    one.handed(|hand| hand.n += 100);
    assert!(!moved(&one.look()));
    // While the hand for a fresh beat is taken.
    one.handed(|_| {});
    assert_eq!(one.role(), Role::Candidate);
}

/// `settle_reign`: the silence that the verdict rested on is over once the epoch is durable.
#[test]
fn a_broken_silence_takes_the_lease_alone_back() {
    let mut one = One::primary();
    let (id, question) = one.asks();
    assert_eq!(question, Question::GoOnAlone);
    one.answers(id, Intent::GoOnAlone);
    assert!(one.writing.is_some(), "going alone needs an epoch");
    one.hears(|beat| beat.highest = Epoch(12));
    one.look();
    one.written();
    let renewed = one.look().iter().any(|effect| matches!(effect, Effect::Renew { .. }));
    assert!(!renewed, "a lease alone beside a peer that is heard");
    one.run(200);
    assert_ne!(one.role(), Role::Primary, "the peer's lease is over");
}

/// The measure of the test above: with the silence unbroken the lease is taken.
#[test]
fn a_lasting_silence_gives_the_lease_alone() {
    let mut one = One::primary();
    let (id, _) = one.asks();
    one.answers(id, Intent::GoOnAlone);
    one.written();
    assert!(one.look().iter().any(|effect| matches!(effect, Effect::Renew { .. })));
    one.run(1_000);
    assert_eq!((one.role(), one.epoch()), (Role::Primary, Epoch(14)));
}

/// `says_highest`: the peer goes above what it is told, which must not come after it again.
#[test]
fn an_epoch_is_told_when_it_is_durable() {
    let mut one = One::standby(formed(10));
    let (id, _) = one.asks();
    one.answers(id, Intent::TakeOver);
    let claimed = one.epoch();
    assert!(one.writing.is_some() && claimed > Epoch(11), "{claimed}");
    one.run(100);
    assert_eq!(one.said.unwrap().highest, Epoch(11));
    one.written();
    one.run(100);
    assert_eq!(one.said.unwrap().highest, claimed);
    // One that was reserved is known after a crash, and counts when it is used.
    let mut one = reserved();
    one.run(100);
    assert_eq!(one.said.unwrap().highest, Epoch(11));
    one.handed(|hand| hand.epoch = Epoch(16));
    assert_eq!(one.role(), Role::Primary);
    assert_eq!(one.said.unwrap().highest, Epoch(16));
}

/// R11, `hear_highest`: below the peer's highest epoch a primary is refused for ever, so it moves
/// above it, durable first.
#[test]
fn a_primary_moves_above_the_highest_epoch_of_its_peer() {
    let mut one = One::primary();
    one.run(20);
    one.hears(|beat| {
        grants(beat, 12);
        beat.highest = Epoch(17);
    });
    let claimed = |one: &One| one.said.map(|beat| beat.claim);
    assert_eq!(claimed(&one), Some(Claim::Primary(Epoch(12))), "not durable yet");
    one.written();
    assert_eq!(claimed(&one), Some(Claim::Primary(Epoch(18))));
    assert_eq!((one.role(), one.epoch()), (Role::Primary, Epoch(18)));
}

/// `answered`: an answer counts for its own question only.
#[test]
fn a_late_answer_is_no_answer_to_the_next_question() {
    let mut one = One::standby(formed(10));
    let (late, question) = one.asks();
    assert_eq!(question, Question::PeerSilent);
    // The deadline passes; the question is put again.
    let (id, question) = one.asks();
    assert!(id != late && question == Question::PeerSilent);
    one.answers(late, Intent::TakeOver);
    assert_eq!(one.role(), Role::Standby);
    one.answers(id, Intent::TakeOver);
    assert_eq!(one.role(), Role::Candidate);
}

/// A standby of epoch 11 that made epoch 16 durable for a handover which never came.
fn reserved() -> One {
    let mut one = One::standby(formed(10));
    one.run(20);
    one.hears(|beat| {
        reigns(beat, 11);
        beat.reserve = Epoch(16);
    });
    one.written();
    assert_eq!(one.said.unwrap().reserved, Epoch(16));
    assert_eq!(one.epoch(), Epoch(11));
    one
}

/// `elect`: the epoch that the peer may have handed over is taken.
#[test]
fn an_election_numbers_above_what_was_reserved() {
    let mut one = reserved();
    one.run(20);
    one.hears(|beat| {
        beat.role = PeerRole::Joining;
        beat.highest = Epoch(11);
    });
    assert_eq!((one.role(), one.epoch()), (Role::Candidate, Epoch(18)));
}

/// `claim_alone`: the same for a claim by verdict.
#[test]
fn a_claim_alone_numbers_above_what_was_reserved() {
    let mut one = reserved();
    let (id, _) = one.asks();
    one.answers(id, Intent::TakeOver);
    assert_eq!((one.role(), one.epoch()), (Role::Candidate, Epoch(18)));
}

/// `settle_draining`: the gate stays open, and no hand is sent, before the handed epoch is durable
/// here: a crash in between would number it twice.
#[test]
fn nothing_is_handed_over_before_the_epoch_is_durable() {
    let mut one = One::primary();
    one.run(20);
    one.hears(|beat| grants(beat, 12));
    one.step(Event::Order(Order::Switchover));
    let (id, _) = one.asks();
    one.answers(id, Intent::HandOver);
    assert_eq!(one.said.unwrap().reserve, Epoch(13));
    one.hears(|beat| {
        grants(beat, 12);
        beat.reserved = Epoch(13);
    });
    let released = |one: &mut One| one.look().contains(&Effect::Release);
    assert!(!released(&mut one), "the gate closed before the epoch was durable");
    one.written();
    assert!(released(&mut one));
    one.step(Event::Released);
    assert_eq!(one.said.unwrap().hand.map(|hand| hand.epoch), Some(Epoch(13)));
}

/// `may_hand`: the gate of the receiver may close later than this node's own. A restart must know.
#[test]
fn what_a_hand_promises_is_durable_before_it_is_said() {
    let slow = Span::ms(1_400);
    for later in [false, true] {
        let mut one = One::primary();
        one.run(20);
        let slack = if later { SLACK } else { slow };
        let granted = |one: &mut One, reserved: u64| {
            one.hears(|beat| {
                grants(beat, 12);
                (beat.reserved, beat.slack) = (Epoch(reserved), slack);
            });
        };
        granted(&mut one, 0);
        one.step(Event::Order(Order::Switchover));
        let (id, _) = one.asks();
        one.answers(id, Intent::HandOver);
        granted(&mut one, 13);
        one.written();
        assert!(one.done.contains(&Effect::Release));
        one.step(Event::Released);
        let hand = |one: &One| one.said.unwrap().hand.is_some();
        assert!(hand(&one));
        if later {
            // The rules of the receiver's gate go while the hand is out.
            one.hears(|beat| beat.slack = slow);
            one.run(60);
            assert!(!hand(&one), "a hand for a gate that a restart would not outwait");
            one.written();
            one.run(60);
            assert!(hand(&one));
        }
        let promised = one.look().iter().rev().find_map(|effect| match effect {
            Effect::Persist(_, record) => Some(record.promised),
            _ => None,
        });
        assert_eq!(promised, Some(LEASE + slow));
    }
}

/// `Node::new`: after a boot a reserved epoch may have been reigned, so it counts as known.
#[test]
fn a_reserved_epoch_counts_as_known_after_a_boot() {
    let mut one = One::boots(Durable { reserved: Epoch(16), ..formed(10) });
    assert_eq!(one.epoch(), Epoch(16));
    one.run(200);
    assert_eq!(one.said.unwrap().highest, Epoch(16));
    one.handed(|hand| hand.epoch = Epoch(16));
    one.hears(|beat| reigns(beat, 15));
    one.written();
    assert!(!moved(&one.look()), "a hand or a claim below the reserved epoch was taken");
    one.run(60);
    assert_eq!(one.said.unwrap().echo.unwrap().granted, Epoch::NONE);
}

/// `hear`: what is owed to a life that ended is not granted to the next one.
#[test]
fn a_grant_owed_to_a_former_life_is_void() {
    let mut one = One::boots(formed(10));
    one.run(10);
    one.hears(|beat| reigns(beat, 11));
    assert!(one.writing.is_some(), "a grant is durable first");
    one.heard = 0;
    one.hears(|beat| {
        beat.boot = PEER + 1;
        beat.role = PeerRole::Joining;
        beat.highest = Epoch(9);
    });
    one.written();
    assert!(!moved(&one.look()), "a grant for nobody");
    one.run(200);
    assert_eq!(one.said.unwrap().echo.unwrap().granted, Epoch::NONE);
}

/// `hear`: what is owed ends with the claim: lease and slack of the peer may be others by now.
#[test]
fn a_claim_that_is_over_is_not_granted() {
    for over in [false, true] {
        let mut one = One::boots(formed(10));
        one.run(20);
        one.hears(|beat| reigns(beat, 11));
        assert!(one.writing.is_some(), "a grant is durable first");
        if over {
            one.hears(|beat| {
                beat.role = PeerRole::Standby;
                beat.highest = Epoch(11);
            });
        }
        one.written();
        one.run(100);
        let granted = one.said.unwrap().echo.is_some_and(|echo| echo.granted == Epoch(11));
        assert_eq!(granted, !over);
    }
}

#[test]
fn a_late_wake_up_arms_the_gate_anew() {
    // Half of the slack absorbs what is shorter.
    for (late_ms, armed) in [(9, false), (11, true), (40, true)] {
        let mut one = One::primary();
        one.done.clear();
        one.now = one.node.deadline().unwrap() + Span::ms(late_ms);
        one.step(Event::Tick);
        let renews = one.done.iter().any(|effect| matches!(effect, Effect::Renew { .. }));
        assert_eq!(renews, armed, "{late_ms} ms late: {:?}", one.done);
    }
}

/// A primary with data that hands epoch 13 over: the epoch is durable on both nodes.
fn drains() -> One {
    let mut one = One::primary_of(One::boots_with(formed(10), true, false));
    one.run(20);
    one.hears(|beat| grants(beat, 12));
    one.step(Event::Order(Order::Switchover));
    let (id, _) = one.asks();
    one.answers(id, Intent::HandOver);
    assert!(one.done.contains(&Effect::Drain { epoch: Epoch(13) }), "{:?}", one.done);
    one.written();
    one.reserves();
    one.look();
    one
}

impl One {
    fn reserves(&mut self) {
        self.hears(|beat| {
            grants(beat, 12);
            beat.reserved = Epoch(13);
        });
    }

    /// The peer goes on granting for that long.
    fn reserves_for(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            self.run(50);
            self.reserves();
        }
    }

    /// The standby has heard everything so far and says this of its disk.
    fn hears_stale(&mut self, stale: Option<bool>) {
        self.hears(|beat| {
            grants(beat, 12);
            beat.stale = stale;
        });
    }

    fn degraded(&mut self) -> Vec<(u64, bool)> {
        let told = |effect: &Effect| match effect {
            Effect::Degraded(id, degraded) => Some((id.0, *degraded)),
            _ => None,
        };
        self.look().iter().filter_map(told).collect()
    }
}

/// What the register holds in the hands of this node, paired.
fn register(boot: u64, n: u64, peer_synced: bool) -> Register {
    let stamp = Stamp { boot, n };
    Register { epoch: Epoch(10), alone: false, peer_synced, lease: LEASE, slack: SLACK, stamp }
}

impl One {
    /// The newest request to the arbiter, once there is one.
    fn consults(&mut self) -> (RequestId, Request) {
        for _ in 0..2_000 {
            let found = self.look().into_iter().rev().find_map(|effect| match effect {
                Effect::Consult(id, request) => Some((id, request)),
                _ => None,
            });
            if let Some(found) = found {
                return found;
            }
            self.run(1);
            if self.role() == Role::Primary {
                self.hears(|beat| grants(beat, 12));
            }
        }
        panic!("the arbiter is not asked")
    }

    fn told(&mut self, id: RequestId, reply: Reply) {
        self.step(Event::Consulted(id, reply));
    }
}

/// Booted with an arbiter, whose register holds this by the first answer.
fn reads(disk: Durable, held: Register) -> One {
    let mut one = One::boots_with(disk, false, true);
    one.step(Event::Tick);
    let (id, request) = one.consults();
    assert_eq!(request, Request::Read);
    one.told(id, Reply::Holds(Some(held)));
    one
}

/// A primary of epoch 12 whose register, by an answer a moment ago, holds this.
fn registered(held: Register) -> One {
    One::primary_of(reads(formed(10), held))
}

fn undrains(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Undrain { .. })).count()
}

/// `settle_draining`: the gate stays open until the data is there.
#[test]
fn nothing_is_handed_over_before_the_data_is_there() {
    let mut one = drains();
    one.reserves_for(500);
    assert!(!one.look().contains(&Effect::Release), "the gate closed before the data was there");
    one.step(Event::Drained(Epoch(13), Shipment::Whole));
    assert!(one.look().contains(&Effect::Release));
}

/// `data_drained`: a word about another handover is nothing.
#[test]
fn data_of_a_former_handover_does_not_count() {
    let mut one = drains();
    one.step(Event::Drained(Epoch(11), Shipment::Whole));
    one.step(Event::Drained(Epoch(11), Shipment::Failed));
    assert_eq!(one.look(), []);
    assert_eq!(one.role(), Role::Draining);
}

/// `settle_draining`: a planned move without its data is none, and writers go on at once.
#[test]
fn a_planned_move_without_data_is_given_up() {
    for fails in [true, false] {
        let mut one = drains();
        if fails {
            one.step(Event::Drained(Epoch(13), Shipment::Failed));
        } else {
            one.reserves_for(PATIENCE.as_ms());
        }
        let done = one.look();
        assert!(done.contains(&Effect::OrderDone(Err(Refusal::DataNotShipped))), "{done:?}");
        assert_eq!((one.role(), undrains(&done)), (Role::Primary, 1));
        one.reserves_for(500);
        assert_eq!(undrains(&one.look()), 0);
    }
}

/// `turn`: whatever ends a handover, its `Undrain` comes once.
#[test]
fn every_drain_that_was_not_taken_is_undone_once() {
    type End = (&'static str, fn(&mut One));
    let ends: [End; 4] = [
        ("the peer falls silent", |one| one.run(130)),
        ("a higher reign", |one| one.hears(|beat| reigns(beat, 21))),
        ("the kernel refuses", |one| one.step(Event::ClaimFailed)),
        ("the hand is not taken", |one| {
            one.step(Event::Drained(Epoch(13), Shipment::Whole));
            one.step(Event::Released);
            one.run(1_000);
        }),
    ];
    for (name, end) in ends {
        let mut one = drains();
        end(&mut one);
        assert_eq!(undrains(&one.look()), 1, "{name}");
        one.run(1_000);
        assert_eq!(undrains(&one.look()), 0, "{name}");
    }
}

/// `grant`: whoever took the hand serves; the standby's fence takes over from the locks.
#[test]
fn a_drain_that_was_taken_is_not_undone() {
    let mut one = drains();
    one.step(Event::Drained(Epoch(13), Shipment::Whole));
    one.step(Event::Released);
    one.hears(|beat| reigns(beat, 13));
    one.written();
    assert_eq!(one.role(), Role::Standby);
    one.run(5_000);
    assert_eq!(undrains(&one.look()), 0);
}

/// `settle_draining`: a peer that is heard and confirms nothing must not cost the lease.
#[test]
fn a_deaf_peer_ends_a_long_drain_in_time() {
    let mut one = drains();
    one.reserves_for(200);
    let until = one.now + one.node.view(one.now).peer_lease;
    for _ in 0..5 {
        one.run(50);
        one.hears(|beat| {
            beat.echo = None;
            beat.reserved = Epoch(13);
        });
        if one.role() == Role::Primary {
            break;
        }
    }
    assert_eq!(one.role(), Role::Primary);
    assert!(until.since(one.now) > Span::ms(100), "{} left", until.since(one.now));
}

/// `settle_draining`: a stop leaves nothing behind that was acknowledged.
#[test]
fn a_stop_hands_nothing_over_that_lacks_what_was_acknowledged() {
    for (synced, hands) in [(true, true), (false, false)] {
        let mut one = drains();
        one.step(Event::Order(Order::Stop));
        one.step(Event::Synced(SyncId(1), synced));
        one.step(Event::Drained(Epoch(13), Shipment::Failed));
        let noted = Effect::Note(Note::HandedWithoutData(Epoch(13)));
        assert_eq!(one.look().contains(&noted), hands);
        one.step(Event::Released);
        assert_eq!(one.said.unwrap().hand.is_some(), hands);
    }
}

/// `settle_sync`: the peer's word counts from the beat that told it, and only a durable one.
#[test]
fn a_peer_that_has_not_heard_of_it_proves_nothing() {
    let mut one = One::primary();
    one.hears_stale(Some(true));
    one.step(Event::Synced(SyncId(1), false));
    let told = one.said.unwrap();
    assert_eq!(told.synced, Some(false), "the beat that tells it leaves at once");
    one.written();
    one.hears(|beat| {
        beat.stale = Some(true);
        beat.echo = Some(Echo { boot: ME, n: told.n - 1, granted: Epoch(12) });
    });
    one.hears_stale(None);
    one.hears_stale(Some(false));
    assert_eq!(one.degraded(), []);
    one.hears_stale(Some(true));
    assert_eq!(one.degraded(), [(1, true)]);
    // Caught up; what the peer said before it heard that is nothing either.
    one.step(Event::Synced(SyncId(2), true));
    one.hears(|beat| {
        beat.stale = Some(false);
        beat.echo = Some(Echo { boot: ME, n: told.n, granted: Epoch(12) });
    });
    assert_eq!(one.degraded(), []);
    // And a word that was taken back in between is not answered by the old proof.
    one.step(Event::Synced(SyncId(3), false));
    assert_eq!(one.degraded(), []);
    one.hears_stale(Some(true));
    assert_eq!(one.degraded(), [(3, true)]);
}

/// `settle_sync`: after a crash this node must know it, too, or the joint claim goes astray.
#[test]
fn what_the_peer_lacks_is_durable_here_before_it_is_acknowledged() {
    let mut one = One::primary();
    one.written();
    one.step(Event::Synced(SyncId(1), false));
    one.hears_stale(Some(true));
    assert_eq!(one.degraded(), []);
    one.written();
    assert_eq!(one.degraded(), [(1, true)]);
}

/// `says_stale`: nothing is said of the disk while a write may change it.
#[test]
fn a_standby_says_of_its_disk_what_stays_true() {
    let mut one = One::standby(formed(10));
    let said = |one: &mut One| {
        one.run(61);
        one.said.unwrap().stale
    };
    let tells = |one: &mut One, synced| {
        one.hears(|beat| {
            reigns(beat, 11);
            beat.synced = Some(synced);
        });
    };
    one.written();
    assert_eq!(said(&mut one), Some(false));
    tells(&mut one, false);
    assert_eq!(said(&mut one), None, "not durable yet");
    assert!(!one.said.unwrap().eligible);
    one.written();
    assert_eq!(said(&mut one), Some(true));
    tells(&mut one, true);
    let clearing = one.writing.take().expect("clearing is durable first");
    assert_eq!(said(&mut one), None);
    tells(&mut one, false);
    assert_eq!(said(&mut one), None, "the write that clears it is under way");
    one.step(Event::Persisted(clearing));
    assert_eq!(said(&mut one), None);
    one.written();
    assert_eq!(said(&mut one), Some(true));
}

fn stale(highest: u64) -> Durable {
    Durable { stale: true, ..formed(highest) }
}

/// `carry_out`: a verdict does not make up for data.
#[test]
fn a_stale_node_does_not_take_over_by_verdict() {
    let mut one = One::boots(stale(10));
    one.run(9_500);
    let (id, question) = one.asks();
    assert_eq!(question, Question::Start);
    one.answers(id, Intent::TakeOver);
    assert_eq!(one.role(), Role::Joining);
    assert!(one.node.view(one.now).wants_operator);
    // The operator's word does, and what was missing is given up with it.
    one.step(Event::Order(Order::StartAlone));
    one.written();
    assert_eq!(one.role(), Role::Primary);
    one.written();
    assert!(!one.node.view(one.now).stale);
}

/// `elect`: beside a node that has more, a stale one waits, whatever else speaks for it.
#[test]
fn a_stale_node_is_not_elected_beside_a_fitter_one() {
    for (disk, synced) in [(stale(20), None), (formed(20), Some(false))] {
        let mut one = One::boots(disk);
        one.run(200);
        one.hears(|beat| {
            beat.role = PeerRole::Joining;
            beat.eligible = false;
            beat.synced = synced;
        });
        assert_eq!(one.role(), Role::Joining, "{synced:?}");
    }
}

/// `sync_begins`: what an earlier life left behind is still missing at the peer.
#[test]
fn a_new_life_knows_what_its_peer_lacks() {
    let disk = Durable { ahead: true, was_primary: true, ..formed(10) };
    let mut one = One::boots(disk);
    one.run(200);
    assert_eq!(one.said.unwrap().synced, Some(false));
    let mut one = One::primary_of(one);
    assert_eq!(one.said.unwrap().synced, Some(false));
    one.step(Event::Synced(SyncId(1), true));
    one.run(1);
    assert_eq!(one.said.unwrap().synced, Some(true));
    // Until the peer has confirmed it, this node goes on knowing.
    one.written();
    assert_eq!(one.degraded(), []);
    one.hears_stale(Some(false));
    assert_eq!(one.degraded(), [(1, false)]);
    one.written();
    one.run(1_000);
    assert_ne!(one.role(), Role::Primary);
    assert_eq!(one.said.unwrap().synced, None, "nothing is missing any more");
}

/// `says_synced`: a node that is stale on its own disk makes nobody else stale.
#[test]
fn a_reign_over_stale_data_vouches_for_nobody_until_that_is_durable() {
    let mut one = One::boots(stale(10));
    one.run(9_500);
    one.step(Event::Order(Order::StartAlone));
    let epoch = one.writing.take().expect("a claim is durable first");
    one.step(Event::Persisted(epoch));
    assert_eq!(one.role(), Role::Primary);
    one.step(Event::Synced(SyncId(1), false));
    assert_eq!(one.said.unwrap().synced, None);
    one.written();
    one.run(60);
    assert_eq!(one.said.unwrap().synced, Some(false));
}

/// `register_degrades`: a write of this life, later than the word; an earlier one may be
/// overwritten by one that is still under way.
#[test]
fn an_old_write_of_the_register_proves_nothing() {
    let mut one = registered(register(ME + 1, 7, false));
    one.step(Event::Synced(SyncId(1), false));
    one.written();
    assert_eq!(one.degraded(), [], "a write of another life");
    let mut one = registered(register(ME + 1, 7, true));
    let (id, _) = one.consults();
    one.told(id, Reply::Swapped);
    one.step(Event::Synced(SyncId(1), false));
    one.written();
    let (id, request) = one.consults();
    let Request::Swap { to, .. } = request else { panic!("{request:?}") };
    assert!(!to.peer_synced);
    one.told(id, Reply::Swapped);
    assert_eq!(one.degraded(), [(1, true)]);
    one.step(Event::Synced(SyncId(2), true));
    let (_, request) = one.consults();
    assert!(matches!(request, Request::Swap { to, .. } if to.peer_synced), "{request:?}");
    one.step(Event::Synced(SyncId(3), false));
    one.run(1);
    assert_eq!(one.degraded(), [], "the write that takes it back is under way");
}

/// `written`: a claim says from the first write on what the peer lacks.
#[test]
fn a_claim_says_what_the_peer_lacks() {
    for ahead in [false, true] {
        let disk = Durable { ahead, was_primary: true, ..formed(10) };
        let mut one = reads(disk, register(ME + 1, 7, !ahead));
        let (id, question) = one.asks();
        assert_eq!(question, Question::Start);
        one.answers(id, Intent::TakeOver);
        one.written();
        let (_, request) = one.consults();
        assert!(matches!(request, Request::Swap { to, .. } if to.peer_synced != ahead));
    }
}

/// `yields_to`: a primary that slept through another reign yields to what that one acknowledged; a
/// peer with nothing to show, or one behind this reign, is only outnumbered (R11).
#[test]
fn a_resumed_primary_yields_to_a_reign_that_acknowledged_more() {
    for (highest, synced, yields) in
        [(15, Some(false), true), (15, None, false), (11, Some(false), false)]
    {
        let mut one = One::primary();
        one.hears(|beat| {
            beat.highest = Epoch(highest);
            beat.synced = synced;
        });
        assert_eq!(one.look().contains(&Effect::Release), yields, "{highest} {synced:?}");
    }
    // Both have something that the other lacks: the one that serves goes on. To have asked for it
    // is not to have had it.
    for proven in [false, true] {
        let mut one = One::primary();
        one.step(Event::Synced(SyncId(1), false));
        if proven {
            one.hears_stale(Some(true));
            one.written();
        }
        one.hears(|beat| {
            beat.highest = Epoch(15);
            beat.synced = Some(false);
        });
        assert_eq!(one.look().contains(&Effect::Release), !proven);
    }
}

/// `settle_sync`: a reign that began with a peer that lacked something, and has brought it
/// everything since, yields like any other; one that has not goes on.
#[test]
fn a_reign_that_healed_what_it_inherited_yields_as_any_other() {
    for healed in [false, true] {
        let mut one = One::primary_of(One::boots(ahead(10)));
        if healed {
            one.step(Event::Synced(SyncId(1), true));
            one.hears_stale(Some(false));
            one.written();
        }
        one.step(Event::Synced(SyncId(2), false));
        one.look();
        one.hears(|beat| {
            beat.highest = Epoch(15);
            beat.synced = Some(false);
        });
        assert_eq!(one.look().contains(&Effect::Release), healed);
    }
}

/// `takes`: between the verdict and the claim the register may say that something is missing here.
#[test]
fn a_claim_ends_when_the_register_says_that_something_is_missing() {
    for peer_synced in [true, false] {
        let held = Register { epoch: Epoch(11), ..register(PEER, 7, true) };
        let mut one = reads(formed(10), held);
        one.hears(|beat| reigns(beat, 11));
        one.written();
        // Silence: the register is looked at again, and the question is put.
        let (mut read, mut asked) = (None, None);
        while asked.is_none() {
            one.run(1);
            for effect in one.look() {
                match effect {
                    Effect::Consult(id, Request::Read) => read = Some(id),
                    Effect::Ask(ask) => asked = Some(ask.id),
                    _ => {}
                }
            }
        }
        one.answers(asked.unwrap(), Intent::TakeOver);
        assert_eq!(one.role(), Role::Candidate);
        let now = Register { peer_synced, ..register(PEER, 8, true) };
        one.told(read.unwrap(), Reply::Holds(Some(Register { epoch: Epoch(11), ..now })));
        one.written();
        one.run(100);
        let swaps = |effect: &Effect| matches!(effect, Effect::Consult(_, Request::Swap { .. }));
        assert_eq!(one.look().iter().any(swaps), peer_synced);
    }
}

/// `undecided`: where each may have acknowledged what the other lacks, what the register held
/// before the peer ceased to serve decides nothing.
#[test]
fn an_old_word_of_the_register_elects_nobody() {
    let disk = ahead(20);
    // Who holds the register, what it says of the other one, and whether this node is elected.
    for (held, elected) in [
        (Some(register(ME + 1, 7, false)), true),
        (Some(register(PEER + 1, 8, false)), false),
        (None, false),
    ] {
        let mut one = reads(disk, register(ME + 1, 7, true));
        one.run(200);
        one.look();
        one.hears(|beat| marked(beat, 11));
        assert_eq!(one.role(), Role::Joining, "it knows the register of before only");
        let heard = one.now;
        let (id, request) = one.consults();
        assert_eq!(request, Request::Read);
        assert!(one.now.since(heard) < Span::ms(5), "it reads at once");
        let reply = held.map_or(Reply::Failed, |held| {
            let epoch = if held.stamp.boot == PEER + 1 { Epoch(11) } else { Epoch(10) };
            Reply::Holds(Some(Register { epoch, ..held }))
        });
        one.told(id, reply);
        one.hears(|beat| marked(beat, 11));
        assert_eq!(one.role() == Role::Candidate, elected, "{held:?}");
    }
}

/// `hear`: what was read while the peer was about to serve is old, too.
#[test]
fn a_peer_that_claimed_is_idle_from_its_next_idle_beat_on() {
    let disk = ahead(20);
    let mut one = One::boots_with(disk, false, true);
    one.run(200);
    let hears = |one: &mut One, role: PeerRole| {
        one.hears(|beat| {
            marked(beat, 11);
            beat.role = role;
        });
    };
    hears(&mut one, PeerRole::Candidate);
    one.look();
    one.run(3_000);
    let (id, _) = one.consults();
    one.told(id, Reply::Holds(Some(register(ME + 1, 7, true))));
    one.run(50);
    hears(&mut one, PeerRole::Candidate);
    one.run(50);
    hears(&mut one, PeerRole::Joining);
    assert_eq!(one.role(), Role::Joining);
    let (id, _) = one.consults();
    one.told(id, Reply::Holds(Some(register(ME + 1, 7, true))));
    hears(&mut one, PeerRole::Joining);
    assert_eq!(one.role(), Role::Candidate);
}

/// `idle_since`: who reigned unheard has a higher number than before.
#[test]
fn a_peer_with_another_number_was_not_idle_all_the_time() {
    let disk = ahead(20);
    let mut one = One::boots_with(disk, false, true);
    one.run(200);
    let undecided = |one: &mut One, highest: u64| {
        one.hears(|beat| marked(beat, highest));
        one.node.view(one.now).undecided
    };
    one.look();
    assert!(undecided(&mut one, 21));
    let (id, _) = one.consults();
    one.told(id, Reply::Holds(Some(register(ME + 1, 7, true))));
    one.run(1);
    assert!(!undecided(&mut one, 21));
    assert!(undecided(&mut one, 23), "what was read is of before");
}

/// `elect`: where the register decides nothing, whoever reads it does not wait for the one with the
/// higher number, which does not.
#[test]
fn who_reads_the_register_does_not_wait_for_who_cannot() {
    for (reads_it, elected) in [(true, false), (false, true)] {
        let mut one = One::boots_with(ahead(20), false, true);
        one.run(200);
        one.look();
        let hears = |one: &mut One| {
            one.hears(|beat| {
                marked(beat, 21);
                beat.arbiter = Some(reads_it);
            });
        };
        hears(&mut one);
        let (id, _) = one.consults();
        one.told(id, Reply::Holds(Some(register(ME + 1, 7, true))));
        hears(&mut one);
        assert_eq!(one.role() == Role::Candidate, elected, "{reads_it}");
    }
}

/// `note_missing`: whoever has read in the register that the peer acknowledged last tells it so;
/// the peer may not reach the arbiter.
#[test]
fn who_reads_that_it_is_outdone_tells_the_peer() {
    for (holder, peer_synced, marks) in
        [(PEER, false, true), (PEER, true, false), (ME, false, false)]
    {
        let mut one = One::boots_with(ahead(20), false, true);
        one.run(200);
        one.look();
        // With a number that wins where the register does not decide.
        one.hears(|beat| marked(beat, 21));
        assert_eq!((one.role(), one.said.unwrap().stale), (Role::Joining, Some(false)));
        let (id, _) = one.consults();
        let held = Register { epoch: Epoch(11), ..register(holder + 1, 7, peer_synced) };
        let held = if holder == ME { register(ME + 1, 7, peer_synced) } else { held };
        one.told(id, Reply::Holds(Some(held)));
        one.written();
        one.run(60);
        let expected = if marks { (Some(true), None) } else { (Some(false), Some(false)) };
        let said = one.said.unwrap();
        assert_eq!((said.stale, said.synced), expected, "{holder} {peer_synced}");
    }
}

/// `undecided`: a word of this node with a number that the peer never went above is the last one,
/// however old.
#[test]
fn the_last_word_of_the_register_may_be_this_nodes_own() {
    let disk = Durable { ahead: true, was_primary: true, reigned: Epoch(10), ..formed(10) };
    for (highest, elected) in [(9, true), (11, false)] {
        let mut one = reads(disk, register(ME + 1, 7, false));
        one.run(200);
        one.hears(|beat| marked(beat, highest));
        assert_eq!(one.role() == Role::Candidate, elected, "{highest}");
    }
}

/// `acknowledged_alone`: a reign began after that word: whoever began it had everything, or an
/// operator's.
#[test]
fn a_word_of_the_register_ends_with_the_next_reign() {
    let held = Register { epoch: Epoch(11), ..register(PEER, 7, false) };
    for (reigned, takes) in [(11, false), (12, true)] {
        let disk = Durable { reigned: Epoch(reigned), ..formed(12) };
        let mut one = reads(disk, held);
        let (id, question) = one.asks();
        assert_eq!(question, Question::Start);
        one.answers(id, Intent::TakeOver);
        assert_eq!(one.role() == Role::Candidate, takes, "{reigned}");
    }
    // A reign of its own, of which the peer has not heard, does not end this node's own word: with
    // it the peer, which goes by that word, yields.
    for (reigned, elected) in [(12, true), (13, false)] {
        let disk = Durable { reigned: Epoch(reigned), ..ahead(13) };
        let mut one = reads(disk, register(ME + 1, 7, false));
        one.run(200);
        one.look();
        one.hears(|beat| marked(beat, 21));
        let (id, _) = one.consults();
        one.told(id, Reply::Holds(Some(register(ME + 1, 7, false))));
        one.hears(|beat| marked(beat, 21));
        assert_eq!(one.role() == Role::Candidate, elected, "{reigned}");
    }
    // Which reign was the newest is on the disk: its own, and one that it granted.
    let records = |one: &mut One| {
        let last = one.look().into_iter().rev().find_map(|effect| match effect {
            Effect::Persist(_, record) => Some(record.reigned),
            _ => None,
        });
        last.expect("a record was written")
    };
    let mut one = One::standby(formed(10));
    assert_eq!(records(&mut one), Epoch(11));
    let mut one = One::primary();
    assert_eq!(records(&mut one), Epoch(12));
}

/// `orders_settled`: what an operator ordered while nobody could be elected decides no election
/// after somebody was.
#[test]
fn an_order_to_start_alone_ends_when_the_peer_serves() {
    let disk = ahead(20);
    let mut one = One::boots_with(disk, false, true);
    one.run(200);
    one.hears(|beat| marked(beat, 23));
    assert!(one.node.view(one.now).undecided);
    one.step(Event::Order(Order::StartAlone));
    assert_eq!(one.role(), Role::Candidate);
    one.look();
    // The peer was elected at the same moment, with a higher number.
    one.hears(|beat| reigns(beat, 25));
    one.written();
    assert_eq!(one.role(), Role::Standby);
    let refused = Effect::OrderDone(Err(Refusal::NotWaiting));
    assert!(one.look().contains(&refused), "an order lingers");
}

/// `order_ends`: an order that waits for the disk is answered by the disk, whatever else ends
/// meanwhile.
#[test]
fn an_order_is_answered_by_its_own_end() {
    let answers = |one: &mut One| {
        let all = one.look().into_iter();
        all.filter(|effect| matches!(effect, Effect::OrderDone(_))).collect::<Vec<_>>()
    };
    let done = vec![Effect::OrderDone(Ok(Order::Maintenance(true)))];
    // A lease that ends.
    let mut one = One::primary();
    one.look();
    one.step(Event::Order(Order::Maintenance(true)));
    one.run(2_000);
    assert_ne!(one.role(), Role::Primary);
    assert_eq!(answers(&mut one), []);
    one.written();
    one.written();
    assert_eq!(answers(&mut one), done);
    // A claim that is given up, when the one that was silent is heard.
    let mut one = One::standby(formed(10));
    let (id, _) = one.asks();
    one.answers(id, Intent::TakeOver);
    assert_eq!(one.role(), Role::Candidate);
    one.look();
    one.step(Event::Order(Order::Maintenance(true)));
    one.hears(|beat| beat.role = PeerRole::Joining);
    assert_ne!(one.role(), Role::Candidate);
    assert_eq!(answers(&mut one), []);
    one.written();
    one.written();
    assert_eq!(answers(&mut one), done);
    // A hand that is taken, where the node stops.
    let mut one = One::primary_of(One::boots_with(formed(10), true, false));
    one.run(20);
    one.hears(|beat| grants(beat, 12));
    one.step(Event::Order(Order::Stop));
    one.written();
    one.reserves();
    one.step(Event::Drained(Epoch(13), Shipment::Whole));
    one.step(Event::Released);
    assert!(one.said.unwrap().hand.is_some());
    one.look();
    one.step(Event::Order(Order::Maintenance(true)));
    one.writing = None;
    one.hears(|beat| reigns(beat, 13));
    one.written();
    let all = one.look();
    assert!(all.contains(&Effect::Exit), "{all:?}");
    assert!(!all.contains(&done[0]), "{all:?}");
}

/// `ends_by`: an election by an operator's word ends with that word, on a stuck disk.
#[test]
fn an_election_by_an_order_ends_with_the_order() {
    // Sixteen leases, the patience of an election, outlast the order, or do not.
    for (lease, end) in [(1_000, 10_200), (300, 5_000)] {
        let mut one = One::boots_timed(ahead(20), timing_of(Span::ms(lease)), false, true);
        one.run(200);
        one.hears(|beat| marked(beat, 23));
        one.step(Event::Order(Order::StartAlone));
        let ordered = one.now;
        assert_eq!(one.role(), Role::Candidate);
        while one.role() == Role::Candidate {
            one.run(100);
        }
        assert!(one.now.since(ordered) <= Span::ms(end), "{lease}");
        assert!(one.look().contains(&Effect::OrderDone(Err(Refusal::Disk))), "{lease}");
    }
}

/// `ends_by`: an order that is refused is not carried out later, whatever the disk or the arbiter
/// does then.
#[test]
fn a_claim_by_an_order_ends_with_the_order() {
    let lease = Span::ms(3_000);
    for arbiter in [false, true] {
        let mut one = One::boots_timed(stale(10), timing_of(lease), false, arbiter);
        if arbiter {
            one.step(Event::Tick);
            let (id, _) = one.consults();
            let held = Register { epoch: Epoch(11), lease, ..register(PEER, 7, true) };
            one.told(id, Reply::Holds(Some(held)));
        }
        one.run(9_500);
        if arbiter {
            let (id, _) = one.consults();
            let held = Register { epoch: Epoch(11), lease, ..register(PEER, 7, true) };
            one.told(id, Reply::Holds(Some(held)));
        }
        one.look();
        one.step(Event::Order(Order::StartAlone));
        let ordered = one.now;
        assert_eq!(one.role(), Role::Candidate, "{arbiter}");
        if arbiter {
            one.written();
        }
        let refusal = if arbiter { Refusal::Arbiter } else { Refusal::Disk };
        while one.role() == Role::Candidate {
            one.run(100);
        }
        assert!(one.now.since(ordered) <= Span::ms(10_200), "{arbiter}");
        assert!(one.look().contains(&Effect::OrderDone(Err(refusal))), "{arbiter}");
        one.written();
        one.run(1_000);
        assert_ne!(one.role(), Role::Primary, "{arbiter}: what was refused was carried out");
    }
}

/// `hear_highest`: a claim of which nobody knows how it ends is no reason to go above it.
#[test]
fn a_primary_waits_for_the_end_of_a_claim_without_a_request() {
    for (role, goes_above) in [(PeerRole::Candidate, false), (PeerRole::Standby, true)] {
        let mut one = reads(formed(10), register(ME + 1, 7, true));
        let (id, _) = one.asks();
        one.answers(id, Intent::TakeOver);
        one.written();
        let (id, _) = one.consults();
        one.told(id, Reply::Swapped);
        assert_eq!(one.role(), Role::Primary, "on a lease of its own");
        one.hears(|beat| (beat.role, beat.highest) = (role, Epoch(21)));
        one.written();
        assert_eq!(one.epoch() == Epoch(22), goes_above, "{role:?}");
    }
}

/// `outlived`: who lives on grants of a peer, and hears that peer claim what is news here, slept
/// with its clocks.
#[test]
fn a_primary_whose_peer_claims_is_beyond_its_lease() {
    for (role, highest, yields) in [
        (PeerRole::Candidate, 15, true),
        // A number that this node has given out itself, and one of a claim that is over.
        (PeerRole::Candidate, 12, false),
        (PeerRole::Standby, 15, false),
    ] {
        let mut one = One::primary();
        one.hears(|beat| {
            beat.role = role;
            beat.highest = Epoch(highest);
        });
        assert_eq!(one.look().contains(&Effect::Release), yields, "{role:?} {highest}");
    }
}

/// `yields_to_register`: the peer holds the register alone when this node's lease is over, and not
/// before: whoever lives on a grant and reads that stood still with its clocks.
#[test]
fn a_primary_that_reads_of_a_later_one_alone_is_beyond_its_lease() {
    for (epoch, alone, yields) in [(15, true, true), (15, false, false), (11, true, false)] {
        let mut one = registered(register(ME, 7, true));
        let (id, request) = one.consults();
        assert!(matches!(request, Request::Swap { .. }), "{request:?}");
        let held = Register { epoch: Epoch(epoch), alone, ..register(PEER, 7, true) };
        one.told(id, Reply::Holds(Some(held)));
        assert_eq!(one.look().contains(&Effect::Release), yields, "{epoch} {alone}");
    }
}

/// `note_missing_alone`: a register can be lost, and with it the word that something is missing.
#[test]
fn what_a_silent_peer_acknowledged_alone_is_known_here_too() {
    for (alone, peer_synced, silent, noted) in [
        (true, false, true, true),
        // The peer may be heard to say otherwise.
        (true, false, false, false),
        (false, false, true, false),
        (true, true, true, false),
    ] {
        let held = Register { epoch: Epoch(11), alone, ..register(PEER, 7, peer_synced) };
        let mut one = reads(formed(10), held);
        for _ in 0..40 {
            one.run(10);
            if !silent {
                one.hears(|beat| reigns(beat, 11));
            }
            one.written();
        }
        assert_eq!(one.node.view(one.now).stale, noted, "{alone} {peer_synced} {silent}");
    }
}

/// The same of one that serves, and acknowledged something alone itself: a mark of its own would
/// keep it from acknowledging.
#[test]
fn a_primary_that_acknowledged_alone_marks_nothing_as_missing_here() {
    let mut one = registered(register(ME, 7, true));
    one.step(Event::Synced(SyncId(1), false));
    one.hears_stale(Some(true));
    one.written();
    assert!(one.look().contains(&Effect::Degraded(SyncId(1), true)));
    let (id, _) = one.consults();
    let held = Register { epoch: Epoch(15), alone: true, ..register(PEER, 7, false) };
    one.told(id, Reply::Holds(Some(held)));
    one.run(250);
    one.written();
    assert_eq!(one.role(), Role::Primary);
    assert!(!one.node.view(one.now).stale);
}

/// Begins to claim by an operator's word, over a register that is the peer's; the disk has that.
fn claims_by_order(disk: Durable, peer_synced: bool) -> One {
    let held = Register { epoch: Epoch(11), ..register(PEER, 7, peer_synced) };
    let mut one = reads(disk, held);
    one.run(1_000);
    one.look();
    one.step(Event::Order(Order::StartAlone));
    assert_eq!(one.role(), Role::Candidate);
    one.written();
    one
}

/// `claim_alone`: a claim by which an operator gives something up, and which may fail, takes that
/// word out of the register: it is on this disk before.
#[test]
fn what_an_operator_gives_up_is_known_here_before_the_register_forgets_it() {
    for peer_synced in [true, false] {
        let mut one = claims_by_order(formed(10), peer_synced);
        assert_eq!(one.node.view(one.now).stale, !peer_synced);
        let (id, request) = one.consults();
        assert!(matches!(request, Request::Swap { .. }), "{request:?}");
        one.told(id, Reply::Swapped);
        one.written();
        assert_eq!(one.role(), Role::Primary);
        assert!(!one.node.view(one.now).stale, "given up");
    }
}

/// `note_missing`, `may_overwrite`: the same where the register says so amid the claim.
#[test]
fn what_the_register_says_amid_a_claim_is_known_before_it_is_forgotten() {
    let mut one = claims_by_order(formed(10), true);
    let (id, request) = one.consults();
    assert!(matches!(request, Request::Swap { .. }), "{request:?}");
    let newer = Register { epoch: Epoch(11), ..register(PEER, 8, false) };
    one.told(id, Reply::Holds(Some(newer)));
    let swaps = |effect: &Effect| matches!(effect, Effect::Consult(_, Request::Swap { .. }));
    one.run(20);
    assert!(!one.look().iter().any(swaps), "the mark is not durable");
    one.written();
    assert!(one.node.view(one.now).stale);
    assert!(matches!(one.consults().1, Request::Swap { expect, .. } if expect == Some(newer)));
}

/// `peer_may_take_over`: a claim over what is missing here does not say that the peer lacks
/// something: the claim may fail, and the peer be the one that has everything.
#[test]
fn a_claim_by_an_operator_keeps_nobody_else_from_taking_over() {
    let mut one = claims_by_order(ahead(10), false);
    let (id, request) = one.consults();
    assert!(matches!(request, Request::Swap { to, .. } if to.peer_synced), "{request:?}");
    one.told(id, Reply::Swapped);
    assert_eq!(one.role(), Role::Primary);
    // The disk hangs: nothing can be acknowledged alone yet.
    let (id, request) = one.consults();
    assert!(matches!(request, Request::Swap { to, .. } if to.peer_synced), "{request:?}");
    one.told(id, Reply::Swapped);
    one.written();
    let (_, request) = one.consults();
    assert!(matches!(request, Request::Swap { to, .. } if !to.peer_synced), "{request:?}");
}

/// `settle_sync`: a node that its own disk still calls stale says nothing of what it has: a crash
/// now would leave nobody who knows of what it acknowledges alone.
#[test]
fn nothing_is_acknowledged_alone_before_the_mark_of_what_was_given_up_is_gone() {
    let mut one = One::boots(Durable { ahead: true, ..stale(10) });
    one.run(9_500);
    one.step(Event::Order(Order::StartAlone));
    let claim = one.writing.take().expect("a claim is durable first");
    one.step(Event::Persisted(claim));
    assert_eq!(one.role(), Role::Primary);
    // The disk hangs; the peer, which is stale as well, returns.
    one.step(Event::Synced(SyncId(1), false));
    one.run(60);
    one.hears_stale(Some(true));
    assert_eq!(one.degraded(), []);
    one.written();
    assert_eq!(one.degraded(), [(1, true)]);
}

/// `pace`: while answers are missing beats get denser, so that a lossy link does not look like a
/// dead peer; and no longer than that.
#[test]
fn beats_get_denser_while_answers_are_missing() {
    let mut one = One::primary();
    let answered = |one: &mut One, rounds: u64| {
        let before = one.said.unwrap().n;
        for _ in 0..rounds {
            one.run(BEAT_MS);
            one.hears(|beat| grants(beat, 12));
        }
        one.said.unwrap().n - before
    };
    answered(&mut one, 4);
    assert!((9..=11).contains(&answered(&mut one, 10)));
    let before = one.said.unwrap().n;
    one.run(4 * BEAT_MS);
    let alone = one.said.unwrap().n - before;
    assert!(alone >= 12, "{alone} beats in {} ms without an answer", 4 * BEAT_MS);
    assert_eq!(one.role(), Role::Primary);
    answered(&mut one, 2);
    assert!((9..=11).contains(&answered(&mut one, 10)), "denser than needed");
}
