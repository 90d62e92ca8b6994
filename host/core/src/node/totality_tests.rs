//! Every state meets every event, and what comes of it is written down in `totality.txt`, cell by
//! cell: the next state, or `-` where the event is refused and nothing moves. A new state or event
//! does not compile without a name here, and fails without its place in the lists and its rows.
//! `REWRITE=1 cargo test -p staffetta-core --lib` writes the table anew: read the difference.

use super::*;
use crate::beat::{Claim, Hand, PeerRole};
use crate::effect::FenceCause;
use crate::effect::SyncId;
use crate::event::{Intent, Shipment, Verdict};
use crate::register::{Reply, RequestId};
use crate::state::{Resume, Shipping};
use crate::timing::TimingParts;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use strum::EnumCount as _;

extern crate std;

const NOW: Mono = Mono(100_000_000_000);
const MINE: Epoch = Epoch(10);
const PEERS: Epoch = Epoch(11);

fn state_name(state: &State) -> &'static str {
    match state {
        State::Joining => "joining",
        State::Standby => "standby",
        State::Electing { .. } => "electing",
        State::Claiming { .. } => "claiming",
        State::Accepting { .. } => "accepting",
        State::Primary(_) => "primary",
        State::Draining { .. } => "draining",
        State::Closing(_) => "closing",
        State::HandedOver { .. } => "handed-over",
        State::Fenced(_) => "fenced",
        State::Stopped => "stopped",
    }
}

fn event_name(event: &Event) -> String {
    match event {
        Event::Tick => "tick".into(),
        Event::Heard(beat) => match (beat.claim, beat.hand) {
            (_, Some(_)) => "heard-hand".into(),
            (Claim::None, None) => "heard-idle".into(),
            (Claim::Candidate(_), None) => "heard-candidate".into(),
            (Claim::Primary(epoch), None) if epoch > MINE => "heard-primary-above".into(),
            (Claim::Primary(_), None) => "heard-primary-below".into(),
        },
        Event::Persisted(_) => "persisted".into(),
        Event::PersistFailed(_) => "persist-failed".into(),
        Event::Claimed => "claimed".into(),
        Event::ClaimFailed => "claim-failed".into(),
        Event::Released => "released".into(),
        Event::Answered(_, verdict) => format!("answered-{:?}", verdict.intent).to_lowercase(),
        Event::Unanswered(_) => "unanswered".into(),
        Event::Consulted(_, reply) => match reply {
            Reply::Holds(_) => "consulted-holds".into(),
            Reply::Swapped => "consulted-swapped".into(),
            Reply::Failed => "consulted-failed".into(),
        },
        Event::Synced(_, true) => "synced".into(),
        Event::Synced(_, false) => "not-synced".into(),
        Event::Drained(_, Shipment::Whole) => "drained-whole".into(),
        Event::Drained(_, Shipment::Failed) => "drained-failed".into(),
        Event::Probed(_) => "probed".into(),
        Event::EvidenceChanged => "evidence".into(),
        Event::Fitness(_) => "fitness".into(),
        Event::License { .. } => "license".into(),
        Event::Slack(_) => "slack".into(),
        Event::Links(_) => "links".into(),
        Event::Order(order) => format!("order-{order:?}").to_lowercase().replace("(true)", ""),
    }
}

fn states() -> Vec<State> {
    let later = NOW + Span::ms(200);
    let reign = Reign::under_peer(MINE, later);
    vec![
        State::Joining,
        State::Standby,
        State::Electing { epoch: Epoch(12), until: later, asked: true },
        State::Claiming { epoch: Epoch(12), until: later, from: Resume::Standby },
        State::Accepting { epoch: Epoch(12), until: later },
        State::Primary(reign),
        State::Draining {
            reign,
            to: Epoch(13),
            patience: later,
            shipping: Shipping::UnderWay { until: later },
            stop: false,
        },
        State::Closing(After::Standby),
        State::HandedOver { epoch: Epoch(13), give_up: later, stop: false },
        State::Fenced(FenceCause::Operator),
        State::Stopped,
    ]
}

fn beat(claim: Claim, hand: Option<Hand>) -> Event {
    Event::Heard(Beat {
        boot: 2,
        n: 100,
        role: match claim {
            Claim::None => PeerRole::Standby,
            Claim::Candidate(_) => PeerRole::Candidate,
            Claim::Primary(_) => PeerRole::Primary,
        },
        claim,
        highest: MINE,
        lease: Span::ms(300),
        slack: Span::ms(20),
        echo: Some(Echo { boot: 1, n: 5, granted: Epoch::NONE }),
        hand,
        reserve: Epoch::NONE,
        reserved: Epoch::NONE,
        met: None,
        eligible: true,
        maintenance: false,
        arbiter: None,
        synced: None,
        stale: Some(false),
    })
}

fn events() -> Vec<Event> {
    let answer = |intent| Event::Answered(AskId(7), Verdict { intent, recheck: None });
    let hand = Hand { epoch: Epoch(14), boot: 1, n: 5 };
    vec![
        Event::Tick,
        beat(Claim::None, None),
        beat(Claim::Candidate(Epoch(13)), None),
        beat(Claim::Primary(PEERS), None),
        beat(Claim::Primary(Epoch(9)), None),
        beat(Claim::None, Some(hand)),
        Event::Persisted(PersistId(3)),
        Event::PersistFailed(PersistId(3)),
        Event::Claimed,
        Event::ClaimFailed,
        Event::Released,
        answer(Intent::Hold),
        answer(Intent::TakeOver),
        answer(Intent::GoOnAlone),
        answer(Intent::HandOver),
        answer(Intent::StepDown),
        answer(Intent::AskOperator),
        answer(Intent::Serve(Side::B)),
        Event::Unanswered(AskId(7)),
        Event::Consulted(RequestId(9), Reply::Holds(None)),
        Event::Consulted(RequestId(9), Reply::Swapped),
        Event::Consulted(RequestId(9), Reply::Failed),
        Event::Synced(SyncId(1), true),
        Event::Synced(SyncId(1), false),
        Event::Drained(Epoch(13), Shipment::Whole),
        Event::Drained(Epoch(13), Shipment::Failed),
        Event::Probed(Answerer::Peer),
        Event::EvidenceChanged,
        Event::Fitness(false),
        Event::License { may_form: true, may_plan: true },
        Event::Slack(Span::ms(20)),
        Event::Links(2),
        Event::Order(Order::Switchover),
        Event::Order(Order::Maintenance(true)),
        Event::Order(Order::StartAlone),
        Event::Order(Order::Clear),
        Event::Order(Order::Stop),
    ]
}

fn timing() -> Timing {
    Timing::new(TimingParts {
        beat: Span::ms(50),
        lease: Span::ms(300),
        delay: Span::ms(10),
        slack: Span::ms(20),
        policy_deadline: Span::ms(40),
        join_timeout: Span::ms(10_000),
        stop_budget: Span::ms(3_000),
    })
    .unwrap()
}

/// A node of side A in the middle of its life, a peer that was heard 5 ms ago, one write and one
/// question under way.
fn node(state: State) -> Node {
    let timing = timing();
    let options = Options {
        side: Side::A,
        preferred: false,
        peer_preferred: false,
        timing,
        arbiter: false,
        data: true,
        drain_patience: Span::ms(3_000),
    };
    let disk =
        Durable { highest: MINE, promised: Span::ms(320), formed: true, ..Durable::default() };
    let mut node = Node::new(options, Boot { id: 1, now: Mono(1), disk, slack: Span::ms(20) });
    node.state = state;
    node.now = NOW;
    node.due = NOW;
    node.may_form = true;
    node.may_plan = true;
    node.next_beat = NOW + Span::ms(40);
    node.sent.record(5, Mono(NOW.0 - 5_000_000));
    node.n = 5;
    let Event::Heard(beat) = beat(Claim::None, None) else { unreachable!() };
    node.peer = Some(Peer {
        beat: Beat { n: 99, ..beat },
        heard: Mono(NOW.0 - 5_000_000),
        echoed: Some(Mono(NOW.0 - 5_000_000)),
        idle_since: Mono::ZERO,
    });
    let want = match state {
        State::Electing { epoch, .. }
        | State::Claiming { epoch, .. }
        | State::Accepting { epoch, .. }
        | State::HandedOver { epoch, .. } => epoch,
        State::Draining { to, .. } => to,
        State::Joining
        | State::Standby
        | State::Primary(_)
        | State::Closing(_)
        | State::Fenced(_)
        | State::Stopped => MINE,
    };
    node.want.highest = want;
    if let State::Fenced(cause) = state {
        node.want.fenced = Some(cause);
        node.disk.fenced = Some(cause);
    }
    // Nothing else is due: what happens is the event's doing.
    node.elect_again = NOW + Span::ms(1_000);
    node.closed_by = NOW + Span::ms(300);
    if matches!(state, State::Claiming { .. })
        && let Some(peer) = &mut node.peer
    {
        peer.heard = Mono(NOW.0 - 500_000_000);
    }
    node.writing = Some((PersistId(3), node.want));
    let question = match state.role() {
        Role::Primary => Question::Review,
        Role::Joining => Question::Start,
        Role::Standby | Role::Candidate | Role::Draining | Role::Fenced => Question::PeerSilent,
    };
    node.pending = Some(Pending { id: AskId(7), question, deadline: NOW + Span::ms(40) });
    node
}

fn cell(state: State, event: Event) -> String {
    let mut node = node(state);
    let effects = node.step(NOW + Span(1_000), event);
    let refusal = effects.iter().find_map(|effect| match effect {
        Effect::OrderDone(Err(refusal)) => Some(format!("{refusal:?}")),
        Effect::Note(Note::Refused(..)) => Some("not-allowed".into()),
        _ => None,
    });
    let moved = state_name(&node.state) != state_name(&state);
    match (moved, refusal) {
        (true, _) => state_name(&node.state).into(),
        (false, Some(refusal)) => format!("refused:{refusal}"),
        (false, None) => "-".into(),
    }
}

#[test]
fn every_state_has_an_answer_to_every_event() {
    let mut table = String::new();
    for state in states() {
        for event in events() {
            let row = format!("{:<12} {:<22}", state_name(&state), event_name(&event));
            table += &format!("{row} {}\n", cell(state, event));
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/node/totality.txt");
    if std::env::var_os("REWRITE").is_some() {
        std::fs::write(path, &table).unwrap();
        return;
    }
    let want = std::fs::read_to_string(path).unwrap();
    for (got, want) in table.lines().zip(want.lines()) {
        assert_eq!(got, want);
    }
    assert_eq!(table.lines().count(), want.lines().count());
}

/// How many variants there are among the values.
fn kinds<T>(values: impl IntoIterator<Item = T>) -> usize {
    let values = values.into_iter();
    let kinds: std::collections::HashSet<_> =
        values.map(|value| core::mem::discriminant(&value)).collect();
    kinds.len()
}

#[test]
fn the_lists_name_everything_once() {
    let mut names: Vec<&str> = states().iter().map(state_name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), states().len(), "a state is named twice");
    let mut names: Vec<String> = events().iter().map(event_name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), events().len(), "an event is named twice");
    // The numbers come from the enums: a variant that nobody lists is missing here.
    assert_eq!(kinds(states()), State::COUNT, "a state is not listed");
    assert_eq!(kinds(events()), Event::COUNT, "an event is not listed");
    let orders = |event| if let Event::Order(order) = event { Some(order) } else { None };
    assert_eq!(kinds(events().into_iter().filter_map(orders)), Order::COUNT, "of orders");
    let intents = |event| match event {
        Event::Answered(_, verdict) => Some(verdict.intent),
        _ => None,
    };
    assert_eq!(kinds(events().into_iter().filter_map(intents)), Intent::COUNT, "of verdicts");
}

#[test]
fn an_open_gate_is_closed_before_anything_is_granted() {
    for state in states().into_iter().filter(State::gate_may_be_open) {
        let mut node = node(state);
        let effects = node.step(NOW + Span(1_000), beat(Claim::Primary(Epoch(21)), None));
        let granted = effects.iter().any(|effect| match effect {
            Effect::Send(beat) => beat.echo.is_some_and(|echo| echo.granted != Epoch::NONE),
            _ => false,
        });
        assert!(!granted, "{} granted over an open gate", state_name(&state));
    }
}
