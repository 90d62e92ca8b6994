//! What others do to addresses and links, and what becomes of the service address.

mod common;

use std::sync::{Arc, Mutex};
use std::thread;

use common::{Client, Echo, Tap, eventually, ms, pump, pump_until, vip};
use staffetta_vip::{Finding, GateClass, KernelEvent, Renewal, watch};

const V4: &str = "10.77.0.50";
const V6: &str = "fd77::50";

fn lost(address: &str) -> KernelEvent {
    KernelEvent::AddressLost { vip: address.parse().unwrap() }
}

fn down() -> KernelEvent {
    KernelEvent::LinkDown { interface: "eth0".into() }
}

fn up() -> KernelEvent {
    KernelEvent::LinkUp { interface: "eth0".into() }
}

#[test]
fn the_nodes_own_address_takes_the_service_address_with_it_and_back() {
    let lan = lan_or_skip!();
    let _echo = Echo::new(&lan.node, V4);
    lan.node.sh("echo 0 > /proc/sys/net/ipv4/conf/eth0/promote_secondaries");
    let mut kernel = lan.open();
    kernel.claim(ms(60_000)).unwrap();
    lan.node.sh("ip addr del 10.77.0.1/24 dev eth0");
    assert!(!lan.node.has("eth0", "10.77.0.50/24"), "the premise of this test");
    pump_until(&mut kernel, |e| *e == lost(V4));
    assert!(lan.node.has("eth0", "10.77.0.50/24"));
    assert!(Client::new(&lan, V4).answered());
    // The own address comes back as a secondary of the service address: releasing that must not
    // take it away.
    lan.node.sh("ip addr add 10.77.0.1/24 dev eth0");
    assert!(lan.node.sh("ip -o addr show dev eth0 to 10.77.0.1").contains("secondary"));
    assert_eq!(pump(&mut kernel, ms(50)), []);
    assert_eq!(kernel.renew(ms(60_000)).unwrap(), Renewal::Renewed);
    kernel.release().unwrap();
    assert!(lan.node.has("eth0", "10.77.0.1/24"), "{}", lan.node.sh("ip addr"));
    assert!(!lan.node.has("eth0", "10.77.0.50/24"));
    kernel.close().unwrap();
}

#[test]
fn an_address_removed_by_hand_comes_back() {
    let lan = lan_or_skip!();
    for class in [GateClass::Nftables, GateClass::Lifetime] {
        let mut kernel = lan.open_with(|o| {
            o.vips = vec![vip(V4, 24), vip(V6, 64)];
            o.force_class = Some(class);
        });
        kernel.claim(ms(3000)).unwrap();
        assert_eq!(pump(&mut kernel, ms(50)), []);
        lan.node.sh("ip addr del 10.77.0.50/24 dev eth0");
        pump_until(&mut kernel, |e| *e == lost(V4));
        lan.node.sh("ip addr del fd77::50/64 dev eth0");
        pump_until(&mut kernel, |e| *e == lost(V6));
        assert!(lan.node.has("eth0", "10.77.0.50/24") && lan.node.has("eth0", "fd77::50/64"));
        let lifetime = lan.node.sh("ip -o addr show dev eth0 to 10.77.0.50");
        let finite = !lifetime.contains("valid_lft forever");
        assert!(finite, "the repaired address has a lifetime: {lifetime}");
        kernel.close().unwrap();
    }
}

#[test]
fn lost_notifications_end_in_a_reconciliation() {
    let lan = lan_or_skip!();
    let mut kernel = lan.open();
    kernel.claim(ms(60_000)).unwrap();
    lan.node.sh("for a in $(seq 1 20); do for b in $(seq 1 250); do
           echo addr add 172.16.$a.$b/32 dev lo
         done; done | ip -batch -
         ip addr del 10.77.0.50/24 dev eth0");
    assert_eq!(pump(&mut kernel, ms(200)), [lost(V4)]);
    assert!(lan.node.has("eth0", "10.77.0.50/24"));
    kernel.close().unwrap();
}

#[test]
fn nothing_is_repaired_after_the_lease() {
    let lan = lan_or_skip!();
    let mut kernel = lan.open();
    kernel.claim(ms(200)).unwrap();
    thread::sleep(ms(300));
    lan.node.sh("ip addr del 10.77.0.50/24 dev eth0; nft flush ruleset");
    let events = pump(&mut kernel, ms(100));
    assert_eq!(events, [KernelEvent::RulesetFlushed]);
    assert!(!lan.node.has("eth0", "10.77.0.50/24"));
    assert!(!lan.node.sh("nft list ruleset").contains("expires"));
    kernel.close().unwrap();
}

#[test]
fn a_link_goes_down_and_comes_up() {
    let lan = lan_or_skip!();
    let (_echo4, _echo6) = (Echo::new(&lan.node, V4), Echo::new(&lan.node, V6));
    let mut kernel = lan.open_with(|o| o.vips = vec![vip(V4, 24), vip(V6, 64)]);
    kernel.claim(ms(60_000)).unwrap();
    // Administratively: the kernel throws IPv6 addresses away.
    lan.node.sh("ip link set eth0 down");
    pump_until(&mut kernel, |e| *e == down());
    assert_eq!(kernel.renew(ms(60_000)).unwrap(), Renewal::Renewed);
    lan.node.sh("ip link set eth0 up; ip addr replace fd77::1/64 dev eth0 nodad");
    pump_until(&mut kernel, |e| *e == up());
    lan.settle();
    pump(&mut kernel, ms(100));
    assert!(lan.node.has("eth0", "10.77.0.50/24") && lan.node.has("eth0", "fd77::50/64"));
    eventually("IPv4 answers", || Client::new(&lan, V4).answered());
    eventually("IPv6 answers", || Client::new(&lan, V6).answered());
    assert!(Tap::new(&lan.peer).nd_answered(V6));
    // By carrier.
    lan.peer.sh("ip link set eth0 down");
    pump_until(&mut kernel, |e| *e == down());
    lan.peer.sh("ip link set eth0 up; ip addr replace fd77::2/64 dev eth0 nodad");
    pump_until(&mut kernel, |e| *e == up());
    lan.settle();
    eventually("IPv4 answers", || Client::new(&lan, V4).answered());
    kernel.close().unwrap();
}

#[test]
fn an_interface_is_removed_and_made_again() {
    let lan = lan_or_skip!();
    let _echo = Echo::new(&lan.node, V4);
    let mut kernel = lan.open();
    kernel.claim(ms(60_000)).unwrap();
    lan.node.sh("ip link del eth0");
    pump_until(&mut kernel, |e| *e == down());
    assert_eq!(kernel.renew(ms(60_000)).unwrap(), Renewal::Renewed);
    let other = lan.peer.path();
    lan.node.sh(&format!(
        "ip link add eth0 type veth peer name eth0 netns {other}
         ip addr add 10.77.0.1/24 dev eth0; ip link set eth0 up"
    ));
    lan.peer.sh("ip addr add 10.77.0.2/24 dev eth0; ip link set eth0 up");
    pump_until(&mut kernel, |e| *e == up());
    lan.settle();
    pump(&mut kernel, ms(50));
    assert!(lan.node.has("eth0", "10.77.0.50/24"));
    eventually("it answers", || Client::new(&lan, V4).answered());
    // The packet sockets follow.
    assert_eq!(kernel.own_macs(), [lan.node.mac("eth0")]);
    let tap = Tap::new(&lan.peer);
    kernel.announce();
    let announced =
        tap.frames(ms(50)).iter().any(|f| f[12..14] == [8, 6] && f[28..32] == [10, 77, 0, 50]);
    assert!(announced);
    kernel.close().unwrap();
}

#[test]
fn the_watch_finds_and_reconcile_acts() {
    let lan = lan_or_skip!();
    let mut kernel = lan.open();
    let held = kernel.held_flag();
    let found = Arc::new(Mutex::new(Vec::new()));
    let stop = tokio::sync::Notify::new();
    thread::scope(|scope| {
        let (sink, stop) = (Arc::clone(&found), &stop);
        let node = &lan.node;
        scope.spawn(move || {
            node.enter(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(async {
                    let vips = vec![vip(V4, 24)];
                    tokio::select! {
                        () = stop.notified() => {}
                        end = watch(vips, held, |f| sink.lock().unwrap().push(f)) => end.unwrap(),
                    }
                });
            });
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let finds = |what: &str, wanted: &dyn Fn(&Finding) -> bool| {
                eventually(what, || found.lock().unwrap().iter().any(wanted));
                found.lock().unwrap().clear();
            };
            thread::sleep(ms(200));
            assert_eq!(*found.lock().unwrap(), [], "a standby in order");
            lan.node.sh("ip addr add 10.77.0.50/24 dev eth0");
            finds("intruder", &|f| matches!(f, Finding::Intruder { .. }));
            kernel.reconcile().unwrap();
            assert!(!lan.node.has("eth0", "10.77.0.50/24"));
            kernel.claim(ms(60_000)).unwrap();
            thread::sleep(ms(200));
            found.lock().unwrap().clear();
            lan.node.sh("ip addr del 10.77.0.50/24 dev eth0; ip addr add 10.77.0.50/25 dev eth0");
            finds("wrong prefix", &|f| matches!(f, Finding::Misplaced { prefix: 25, .. }));
            kernel.reconcile().unwrap();
            assert!(lan.node.has("eth0", "10.77.0.50/24"));
            assert!(!lan.node.has("eth0", "10.77.0.50/25"));
            lan.node.sh("ip link del eth0");
            finds("no interface", &|f| matches!(f, Finding::InterfaceMissing { .. }));
            kernel.reconcile().unwrap();
            assert!(kernel.held(), "other links may still serve");
        }));
        stop.notify_one();
        outcome.unwrap();
    });
    kernel.close().unwrap();
}
