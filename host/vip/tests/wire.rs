//! Announcements and probes as the other end of the cable sees them, and references.

mod common;

use std::thread;

use common::{Tap, ms, options, pump, pump_until, vip};
use staffetta_vip::frames::{
    Arp, ArpOperation, BROADCAST, neighbor_advertisement, parse_advertisement,
};
use staffetta_vip::{Answerer, Kernel, KernelEvent, Mac, ReferenceMethod, probe_reference};

const V4: &str = "10.77.0.50";
const V6: &str = "fd77::50";
const STRANGER: Mac = [2, 0, 0, 0, 0, 0x99];

fn arps(frames: &[Vec<u8>]) -> Vec<Arp> {
    frames.iter().filter_map(|frame| Arp::parse(frame)).collect()
}

#[test]
fn announcements_go_out_in_both_forms() {
    let lan = lan_or_skip!();
    let mut kernel = lan.open_with(|o| {
        o.vips = vec![vip(V4, 24), vip(V6, 64)];
        o.neighbors = vec!["10.77.0.2".parse().unwrap(), "fd77::2".parse().unwrap()];
    });
    let tap = Tap::new(&lan.peer);
    let of_vip = |frames: &[Vec<u8>]| {
        let arps: Vec<Arp> = arps(frames);
        arps.into_iter().filter(|arp| arp.sender.to_string() == V4).collect::<Vec<_>>()
    };
    kernel.announce();
    assert_eq!(of_vip(&tap.frames(ms(50))), [], "silent without a lease");
    kernel.claim(ms(60_000)).unwrap();
    kernel.announce();
    let frames = tap.frames(ms(100));
    let own = lan.node.mac("eth0");
    let address = V4.parse().unwrap();
    let heard = of_vip(&frames);
    assert!(heard.contains(&Arp::announcement_request(own, address)), "{heard:?}");
    assert!(heard.contains(&Arp::announcement_reply(own, address)), "{heard:?}");
    let neighbor = "10.77.0.2".parse().unwrap();
    assert!(heard.contains(&Arp::question(own, address, BROADCAST, neighbor)), "{heard:?}");
    let advertised = frames.iter().find(|f| parse_advertisement(f).is_some()).expect("an NA");
    assert_eq!(advertised[..], neighbor_advertisement(own, V6.parse().unwrap()));
    // The neighbor has answered meanwhile: from now on it is told in person.
    pump(&mut kernel, ms(50));
    kernel.announce();
    let heard = of_vip(&tap.frames(ms(100)));
    let to = lan.peer.mac("eth0");
    assert!(heard.contains(&Arp::question(own, address, to, neighbor)), "{heard:?}");
    assert!(heard.contains(&Arp::reply_to(own, address, to, neighbor)), "{heard:?}");
    let learned = lan.peer.sh("ip neigh show dev eth0");
    assert!(learned.contains(V4) && learned.contains(V6), "the neighbor learned: {learned}");
    kernel.close().unwrap();
}

#[test]
fn nothing_is_announced_after_a_freeze() {
    let lan = lan_or_skip!();
    let mut kernel = lan.open();
    let tap = Tap::new(&lan.peer);
    kernel.claim(ms(200)).unwrap();
    thread::sleep(ms(300));
    tap.frames(ms(20));
    kernel.announce();
    assert_eq!(arps(&tap.frames(ms(50))), [], "packet sockets bypass the rules");
    kernel.close().unwrap();
}

#[test]
fn probes_are_answered_by_the_peer_a_stranger_or_nobody() {
    let lan = lan_or_skip!();
    let vips = vec![vip(V4, 24), vip(V6, 64)];
    let mut kernel = lan.open_with(|o| o.vips = vips.clone());
    kernel.set_peer_macs(vec![lan.peer.mac("eth0")]);
    kernel.probe();
    assert_eq!(pump(&mut kernel, ms(200)), [], "nobody");
    let mut other = options(&[]);
    other.vips = vips;
    let mut primary = lan.peer.enter(|| Kernel::open(other)).unwrap();
    primary.claim(ms(60_000)).unwrap();
    let mac = lan.peer.mac("eth0");
    let answer = |address: &str, mac, by| KernelEvent::ProbeAnswer {
        vip: address.parse().unwrap(),
        mac,
        by,
    };
    // The kernel joins the group of solicitations a moment after the address is there.
    for address in [V4, V6] {
        let mut events = Vec::new();
        common::eventually("the peer answers", || {
            kernel.probe();
            events.extend(pump(&mut kernel, ms(50)));
            events.contains(&answer(address, mac, Answerer::Peer))
        });
        let strange = |e: &KernelEvent| *e != answer(V4, mac, Answerer::Peer);
        assert!(!events.iter().any(|e| strange(e) && *e != answer(V6, mac, Answerer::Peer)));
    }
    // A lease that ended is silence, though the address is still there.
    primary.claim(ms(50)).unwrap();
    thread::sleep(ms(100));
    pump(&mut kernel, ms(50));
    kernel.probe();
    assert_eq!(pump(&mut kernel, ms(200)), [], "a closed gate");
    primary.close().unwrap();
    // Somebody else.
    let tap = Tap::new(&lan.peer);
    kernel.probe();
    let probes = arps(&tap.frames(ms(50)));
    assert!(probes.contains(&Arp::probe(lan.node.mac("eth0"), V4.parse().unwrap())), "{probes:?}");
    let own = lan.node.mac("eth0");
    let proxy = Arp::reply_to(STRANGER, V4.parse().unwrap(), own, "0.0.0.0".parse().unwrap());
    tap.send(&proxy.to_bytes());
    pump_until(&mut kernel, |e| *e == answer(V4, STRANGER, Answerer::Stranger));
    tap.send(&neighbor_advertisement(STRANGER, V6.parse().unwrap()));
    pump_until(&mut kernel, |e| *e == answer(V6, STRANGER, Answerer::Stranger));
    kernel.close().unwrap();
}

#[test]
fn a_second_claimant_is_a_conflict() {
    let lan = lan_or_skip!();
    let mut kernel = lan.open_with(|o| o.vips = vec![vip(V4, 24), vip(V6, 64)]);
    kernel.set_peer_macs(vec![lan.peer.mac("eth0")]);
    kernel.claim(ms(60_000)).unwrap();
    let tap = Tap::new(&lan.peer);
    let conflict =
        |address: &str, mac, by| KernelEvent::Conflict { vip: address.parse().unwrap(), mac, by };
    let address = V4.parse().unwrap();
    tap.send(&Arp::announcement_request(STRANGER, address).to_bytes());
    pump_until(&mut kernel, |e| *e == conflict(V4, STRANGER, Answerer::Stranger));
    let peer = lan.peer.mac("eth0");
    tap.send(&Arp::announcement_reply(peer, address).to_bytes());
    pump_until(&mut kernel, |e| *e == conflict(V4, peer, Answerer::Peer));
    tap.send(&neighbor_advertisement(STRANGER, V6.parse().unwrap()));
    pump_until(&mut kernel, |e| *e == conflict(V6, STRANGER, Answerer::Stranger));
    // No conflicts: the peer's probe, our own frames looped back, and other people's business.
    tap.send(&Arp::probe(peer, address).to_bytes());
    tap.send(&Arp::announcement_request(lan.node.mac("eth0"), address).to_bytes());
    tap.send(&Arp::announcement_request(STRANGER, "10.77.0.99".parse().unwrap()).to_bytes());
    tap.send(&neighbor_advertisement(STRANGER, "fd77::99".parse().unwrap()));
    let mut mangled = Arp::announcement_request(STRANGER, address).to_bytes();
    mangled[17] = 0xff;
    tap.send(&mangled);
    assert_eq!(pump(&mut kernel, ms(200)), []);
    kernel.close().unwrap();
}

/// The filter keeps a busy network from waking the real-time thread.
#[test]
fn other_peoples_frames_wake_nobody() {
    let lan = lan_or_skip!();
    let mut kernel = lan.open_with(|o| o.vips = vec![vip(V4, 24), vip(V6, 64)]);
    pump(&mut kernel, ms(50));
    let tap = Tap::new(&lan.peer);
    for host in 100..150 {
        let foreign = Arp::announcement_request(STRANGER, [10, 77, 0, host].into());
        tap.send(&foreign.to_bytes());
        let foreign = format!("fd77::{host}").parse().unwrap();
        tap.send(&neighbor_advertisement(STRANGER, foreign));
    }
    assert!(!common::readable(&kernel, ms(50)));
    assert_eq!(ArpOperation::Reply as u16, 2);
    kernel.close().unwrap();
}

#[test]
fn references_answer_or_do_not() {
    use ReferenceMethod::{Arp, Icmp};
    let lan = lan_or_skip!();
    lan.node.sh("ip route add default via 10.77.0.2");
    let ask = |address: &str, method| {
        let address = address.parse().unwrap();
        lan.node.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(probe_reference(address, method, ms(1000)))
        })
    };
    for ping_sockets in [false, true] {
        if ping_sockets {
            lan.node.sh("echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range");
        }
        assert!(ask("10.77.0.2", Icmp).unwrap().is_some(), "ping sockets {ping_sockets}");
        assert!(ask("fd77::2", Icmp).unwrap().is_some(), "ping sockets {ping_sockets}");
        assert_eq!(ask("10.77.0.99", Icmp).unwrap(), None, "nobody there");
    }
    assert!(ask("10.77.0.2", Arp).unwrap().is_some());
    assert_eq!(ask("10.77.0.99", Arp).unwrap(), None, "nobody there");
    let text = ask("192.0.2.1", Arp).unwrap_err().to_string();
    assert!(text.contains("directly connected") && text.contains("icmp"), "{text}");
    lan.node.sh("ip link set eth0 down");
    assert_eq!(ask("10.77.0.2", Icmp).unwrap(), None, "network down is no answer");
    assert_eq!(ask("10.77.0.2", Arp).unwrap(), None, "network down is no answer");
}
