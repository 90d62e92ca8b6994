use super::*;
use staffetta_core::{Epoch, Register, Stamp};

fn view(standing: Standing, holder: Option<u64>) -> ArbiterView {
    let register = holder.map(|epoch| Register {
        epoch: Epoch(epoch),
        alone: true,
        peer_synced: true,
        lease: Span::ms(300),
        slack: Span::ms(20),
        stamp: Stamp::default(),
    });
    ArbiterView {
        answered: Some(Span::ms(40)),
        latency: Span::ms(5),
        standing,
        register,
        unchanged: Span::ms(100),
    }
}

#[test]
fn the_seat_of_the_arbiter() {
    let seat = |standing, holder| arbiter(Side::A, &view(standing, holder)).seat;
    assert_eq!(seat(Standing::Ready, Some(4)), Seat::Mine);
    assert_eq!(seat(Standing::Slow, Some(5)), Seat::Peers);
    assert_eq!(seat(Standing::Away, Some(5)), Seat::Unreachable);
    assert_eq!(seat(Standing::NoRegister, None), Seat::Free);
    let said = arbiter(Side::A, &view(Standing::Ready, Some(4)));
    assert_eq!((said.epoch, said.alone, said.peer_synced, said.age), (4, true, true, 40));
}

#[test]
fn silence_is_the_cores_finding_and_answers_are_per_address() {
    let address: IpAddr = "10.0.0.50".parse().unwrap();
    let vip = (address, "10.0.0.50/24".to_owned());
    let said = |core, own: &[_]| service_address(&vip, (core, Span::ms(7)), own).answerer;
    let stranger = [(address, Answerer::Stranger, Span::ms(1))];
    assert_eq!(said(Answerer::Nobody, &stranger), failover::Answerer::Nobody);
    assert_eq!(said(Answerer::Peer, &stranger), failover::Answerer::Stranger);
    assert_eq!(said(Answerer::Peer, &[]), failover::Answerer::Peer);
}

fn node_view() -> PeerView {
    PeerView {
        role: PeerRole::Standby,
        epoch: Epoch(4),
        age: Span::ms(30),
        echoed: None,
        eligible: true,
        maintenance: false,
    }
}

#[test]
fn data_of_both_nodes_is_passed_on_and_the_peers_ages() {
    let named = |name: &str| Named { name: name.into(), site: String::new(), preferred: false };
    let site = Site { side: Side::A, me: named("na"), peer: named("nb"), vips: Vec::new() };
    let data = |name: &str, behind_items| Data {
        name: name.into(),
        seq: 7,
        behind_items,
        behind: if behind_items > 0 { 100 } else { 0 },
        age: 5,
        ..Data::default()
    };
    let word = Word { data: vec![data("cdr", 3), data("config", 0)], ..Word::default() };
    let told = peer(&site, &node_view(), Some((word, Span::ms(40)))).data;
    assert_eq!(told[0], Data { behind: 140, age: 45, ..data("cdr", 3) });
    assert_eq!(told[1], Data { age: 45, ..data("config", 0) });
    assert_eq!(peer(&site, &node_view(), None).data, []);
}

#[test]
fn data_is_judged_by_the_times_of_the_meeting_that_it_is_about() {
    let named = |name: &str| Named { name: name.into(), site: String::new(), preferred: false };
    let site = Site { side: Side::B, me: named("nb"), peer: named("na"), vips: Vec::new() };
    let branch = |epoch, ms| Branch { epoch: Epoch(epoch), served: Span::ms(ms) };
    let served = |epoch| {
        let data = Diverged {
            kind: staffetta_sdk::DataKind::Database,
            name: "app".into(),
            common: None,
            own: Some(3),
            epoch,
            primary: 8,
            met: Some((branch(8, 2_000), branch(5, 9_000))),
        };
        let asked = diverged(&site, &data);
        let who = split_brain(&site, branch(8, 2_000), branch(5, 9_000));
        assert_eq!((asked.a.node, asked.b.node), (who.a.node, who.b.node));
        [asked.a.served, asked.b.served]
    };
    assert_eq!(served(5), [2_000, 9_000]);
    assert_eq!(served(7), [0, 0], "a reign of its own after the meeting");
}
