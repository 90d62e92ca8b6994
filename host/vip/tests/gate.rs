//! The promise itself, on a real kernel: answers while the lease lasts, silence afterwards.

mod common;

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::{Client, Echo, Lan, Tap, eventually, ms, options, pump, pump_until, vip};
use socket2::{Domain, Protocol, Socket, Type};
use staffetta_vip::frames::Arp;
use staffetta_vip::{GateClass, Kernel, KernelEvent, Renewal, VipError};

const V4: &str = "10.77.0.50";
const V6: &str = "fd77::50";
/// What a loaded machine may add to a measured time.
const NOISE_MS: u64 = 60;

#[test]
fn answers_stop_when_the_lease_ends() {
    let lan = lan_or_skip!();
    let (_echo4, _echo6) = (Echo::new(&lan.node, V4), Echo::new(&lan.node, V6));
    let mut kernel = lan.open_with(|o| o.vips = vec![vip(V4, 24), vip(V6, 64)]);
    let (client4, client6) = (Client::new(&lan, V4), Client::new(&lan, V6));
    let tap = Tap::new(&lan.peer);
    assert!(!client4.answered(), "not before the claim");
    for (client, remaining_ms) in [(&client4, 500), (&client6, 500), (&client4, 1000)] {
        kernel.claim(ms(remaining_ms)).unwrap();
        let start = Instant::now();
        assert!(client.answered());
        let last = client.last_answer(start, ms(250));
        let end = ms(remaining_ms * 9 / 10);
        println!("lease of {end:?}: last answer after {last:?}");
        assert!(last <= end + GateClass::Nftables.slack() + ms(NOISE_MS), "{last:?}");
        assert!(last + ms(NOISE_MS) >= end, "not much before its time: {last:?}");
    }
    assert!(lan.node.has("eth0", "10.77.0.50/24"), "the address outlives its lease");
    assert!(!tap.arp_answered(V4), "ARP");
    assert!(!tap.nd_answered(V6), "neighbor discovery");
    assert!(tap.arp_answered("10.77.0.1"), "the node's own address answers on");
    assert!(tap.nd_answered("fd77::1"), "the node's own address answers on");
    // With a fresh lease both answer again, and stop again.
    kernel.claim(ms(1000)).unwrap();
    assert!(tap.arp_answered(V4) && tap.nd_answered(V6));
    kernel.close().unwrap();
}

#[test]
fn renewal_keeps_the_answers_flowing() {
    let lan = lan_or_skip!();
    let _echo = Echo::new(&lan.node, V4);
    let mut kernel = lan.open();
    let client = Client::new(&lan, V4);
    kernel.claim(ms(500)).unwrap();
    let start = Instant::now();
    while start.elapsed() < ms(2000) {
        assert_eq!(kernel.renew(ms(500)).unwrap(), Renewal::Renewed);
        assert!(client.answered(), "after {:?}", start.elapsed());
        thread::sleep(ms(50));
    }
    assert!(kernel.held());
    kernel.close().unwrap();
}

#[test]
fn a_lease_that_ended_is_never_brought_back() {
    let lan = lan_or_skip!();
    let _echo = Echo::new(&lan.node, V4);
    let mut kernel = lan.open();
    let client = Client::new(&lan, V4);
    kernel.claim(ms(300)).unwrap();
    // As a frozen caller does: nothing, for longer than the lease.
    thread::sleep(ms(400));
    assert_eq!(kernel.renew(ms(300)).unwrap(), Renewal::Lost);
    assert!(!kernel.held() && !client.answered());
    assert!(!lan.node.has("eth0", "10.77.0.50/24"), "the address is gone with the lease");
    assert_eq!(kernel.renew(ms(300)).unwrap(), Renewal::Lost, "and stays lost");
    kernel.claim(ms(1000)).unwrap();
    assert!(client.answered(), "a new claim is a new right");
    kernel.close().unwrap();
}

#[test]
fn a_lease_taken_away_by_somebody_else_is_put_back() {
    let lan = lan_or_skip!();
    let _echo = Echo::new(&lan.node, V4);
    let mut kernel = lan.open();
    kernel.claim(ms(60_000)).unwrap();
    lan.node.sh("nft flush set inet staffetta lease4; nft flush set arp staffetta lease4");
    assert_eq!(kernel.renew(ms(60_000)).unwrap(), Renewal::Renewed);
    assert!(Client::new(&lan, V4).answered());
    let mut events = Vec::new();
    kernel.pump(&mut events);
    assert_eq!(events, [KernelEvent::RulesetFlushed]);
    kernel.close().unwrap();
}

#[test]
fn release_closes_at_once_and_twice() {
    let lan = lan_or_skip!();
    let _echo = Echo::new(&lan.node, V4);
    let mut kernel = lan.open();
    let client = Client::new(&lan, V4);
    kernel.release().unwrap();
    kernel.claim(ms(60_000)).unwrap();
    assert!(client.answered());
    kernel.release().unwrap();
    assert!(!client.answered() && !lan.node.has("eth0", "10.77.0.50/24"));
    kernel.release().unwrap();
    assert_eq!(kernel.renew(ms(1000)).unwrap(), Renewal::Lost);
    lan.node.sh("ip addr add 10.77.0.50/24 dev eth0");
    assert!(!client.answered(), "the lease went with the release");
    kernel.close().unwrap();
    assert_eq!(lan.node.sh("nft list tables"), "", "close removes the tables");
}

/// Each rule for itself: what comes in is not delivered, what goes out does not leave.
#[test]
fn one_way_traffic_stops_too() {
    let lan = lan_or_skip!();
    let mut kernel = lan.open_with(|o| o.vips = vec![vip(V4, 24), vip(V6, 64)]);
    let (client4, client6) = (Client::new(&lan, V4), Client::new(&lan, V6));
    let listen = |address: &str| {
        let at = SocketAddr::new(address.parse().unwrap(), common::PORT);
        let socket = lan.node.enter(|| UdpSocket::bind(at)).unwrap();
        socket.set_read_timeout(Some(ms(100))).unwrap();
        socket
    };
    let (service4, service6) = (listen(V4), listen(V6));
    let delivered = |client: &Client, service: &UdpSocket| {
        client.answered();
        let arrived = service.recv(&mut [0; 8]).is_ok();
        while service.recv(&mut [0; 8]).is_ok() {}
        arrived
    };
    let tap = Tap::new(&lan.peer);
    let solicitation_is_heard = || {
        lan.node.sh("ip -6 neigh flush all");
        tap.nd_answered(V6);
        lan.node.sh("ip -6 neigh show to fd77::2").contains("lladdr")
    };
    // From an address of the node's own, in the name of the service address.
    let advertisement_leaves = || {
        lan.node.enter(|| {
            let target: Ipv6Addr = V6.parse().unwrap();
            let message = [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &target.octets()].concat();
            let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap();
            let to: SocketAddr = "[fd77::2]:0".parse().unwrap();
            socket.send_to(&message, &to.into()).is_ok()
        })
    };
    kernel.claim(ms(60_000)).unwrap();
    eventually("IPv6 is ready", || tap.nd_answered(V6));
    assert!(delivered(&client4, &service4) && delivered(&client6, &service6));
    assert!(solicitation_is_heard() && advertisement_leaves());
    kernel.claim(ms(30)).unwrap();
    thread::sleep(ms(60));
    assert!(lan.node.has("eth0", "10.77.0.50/24") && lan.node.has("eth0", "fd77::50/64"));
    assert!(!delivered(&client4, &service4), "IPv4 input");
    assert!(!delivered(&client6, &service6), "IPv6 input");
    assert!(!solicitation_is_heard(), "solicitations");
    assert!(!advertisement_leaves(), "advertisements");
    kernel.close().unwrap();
}

/// The rules cover an address that nobody leased: between any two steps of a claim or release.
#[test]
fn rules_stand_before_the_address_and_until_it_is_gone() {
    let lan = lan_or_skip!();
    let _echo = Echo::new(&lan.node, V4);
    let kernel = lan.open_with(|o| o.vips = vec![vip(V4, 24), vip(V6, 64)]);
    let (client, tap) = (Client::new(&lan, V4), Tap::new(&lan.peer));
    // As after a crash between the two steps of a claim the other way round.
    lan.node.sh("ip addr add 10.77.0.50/24 dev eth0; ip addr add fd77::50/64 dev eth0 nodad");
    assert!(!client.answered() && !tap.arp_answered(V4) && !tap.nd_answered(V6));
    // Packets from the address do not leave either, ARP requests in its name included.
    lan.peer.sh("ip neigh flush all");
    lan.node.sh("ip neigh flush all");
    let refused = lan
        .node
        .enter(|| UdpSocket::bind((V4, 0)).and_then(|socket| socket.send_to(b"!", "10.77.0.2:9")));
    assert!(refused.is_err(), "{refused:?}");
    let spoken = tap.frames(ms(100));
    let in_its_name = |frame: &Vec<u8>| {
        Arp::parse(frame).is_some_and(|arp| arp.sender.octets() == [10, 77, 0, 50])
            || frame[26..30] == [10, 77, 0, 50]
    };
    assert!(!spoken.iter().any(in_its_name), "{spoken:?}");
    drop(kernel);
    assert!(!client.answered(), "the rules outlive the process");
}

#[test]
fn what_a_former_life_left_is_removed() {
    let lan = lan_or_skip!();
    let _echo = Echo::new(&lan.node, V4);
    let mut former = lan.open_with(|o| o.vips = vec![vip(V4, 24), vip(V6, 64)]);
    former.claim(ms(60_000)).unwrap();
    drop(former);
    assert!(lan.node.has("eth0", "10.77.0.50/24") && Client::new(&lan, V4).answered());
    lan.node.sh("ip addr add 10.77.0.50/32 dev lo");
    let kernel = lan.open_with(|o| o.vips = vec![vip(V4, 24), vip(V6, 64)]);
    assert!(!lan.node.has("eth0", "10.77.0.50/24") && !lan.node.has("eth0", "fd77::50/64"));
    assert!(!lan.node.has("lo", "10.77.0.50/32"), "wherever it is");
    assert!(!Client::new(&lan, V4).answered(), "the former lease is gone too");
    kernel.close().unwrap();
    let forced = Some(GateClass::Lifetime);
    let mut former = lan.open();
    former.claim(ms(60_000)).unwrap();
    drop(former);
    let mut kernel = lan.open_with(|o| o.force_class = forced);
    kernel.claim(ms(5000)).unwrap();
    assert!(Client::new(&lan, V4).answered(), "former rules do not stand in the way");
    kernel.close().unwrap();
}

#[test]
fn a_flushed_ruleset_is_put_back_with_the_lease() {
    let lan = lan_or_skip!();
    let _echo = Echo::new(&lan.node, V4);
    let mut kernel = lan.open();
    let client = Client::new(&lan, V4);
    kernel.claim(ms(2000)).unwrap();
    let start = Instant::now();
    lan.node.sh("nft flush ruleset");
    let events = pump_until(&mut kernel, |e| *e == KernelEvent::RulesetFlushed);
    println!("put back {:?} after the start of nft: {events:?}", start.elapsed());
    assert_eq!(kernel.class(), GateClass::Nftables);
    assert!(client.answered(), "the lease was kept");
    let last = client.last_answer(start, ms(300));
    assert!(last <= ms(1800 + 20 + NOISE_MS), "and ends when it would have: {last:?}");
    assert!(last >= ms(1000), "not before: {last:?}");
    // A renewal that comes before the notification was read.
    kernel.claim(ms(1000)).unwrap();
    lan.node.sh("nft flush ruleset");
    assert_eq!(kernel.renew(ms(1000)).unwrap(), Renewal::Renewed);
    assert!(lan.node.sh("nft list ruleset").contains(V4));
    // Only the rules, or only one table.
    for damage in ["nft flush table inet staffetta", "nft delete table arp staffetta"] {
        lan.node.sh(damage);
        pump_until(&mut kernel, |e| *e == KernelEvent::RulesetFlushed);
        assert_eq!(lan.node.sh("nft list ruleset").matches("drop").count(), 3, "{damage}");
    }
    kernel.close().unwrap();
}

#[test]
fn a_flush_on_the_standby_is_put_back_closed() {
    let lan = lan_or_skip!();
    let _echo = Echo::new(&lan.node, V4);
    let mut kernel = lan.open();
    let client = Client::new(&lan, V4);
    lan.node.sh("nft flush ruleset");
    pump_until(&mut kernel, |e| *e == KernelEvent::RulesetFlushed);
    lan.node.sh("ip addr add 10.77.0.50/24 dev eth0");
    assert!(!client.answered());
    pump(&mut kernel, ms(50));
    assert!(!lan.node.has("eth0", "10.77.0.50/24"), "the intruder is removed");
    // Claimed between the flush and its notification.
    lan.node.sh("nft flush ruleset");
    kernel.claim(ms(1000)).unwrap();
    assert_eq!(kernel.class(), GateClass::Nftables);
    assert!(client.answered());
    // Released between the two.
    lan.node.sh("nft flush ruleset");
    kernel.release().unwrap();
    assert_eq!(lan.node.sh("nft list ruleset").matches("drop").count(), 3);
    kernel.close().unwrap();
}

/// Notifications that the kernel dropped may have been the flush.
#[test]
fn lost_notifications_are_taken_for_a_flush() {
    let lan = lan_or_skip!();
    let mut kernel = lan.open();
    kernel.claim(ms(60_000)).unwrap();
    lan.node.sh("{ echo 'table ip foreign { set s { type ipv4_addr; }; }'
           for a in $(seq 1 40); do
             echo -n 'add element ip foreign s { 172.16.0.0'
             for b in $(seq 1 250); do echo -n \", 172.16.$a.$b\"; done
             echo ' }'
           done; } > /dev/shm/staffetta-$$.nft
         for round in 1 2 3 4 5 6 7 8; do
           nft -f /dev/shm/staffetta-$$.nft; nft delete table ip foreign
         done
         rm /dev/shm/staffetta-$$.nft
         nft delete table inet staffetta");
    let events = pump(&mut kernel, ms(200));
    assert!(events.contains(&KernelEvent::RulesetFlushed), "{events:?}");
    assert_eq!(lan.node.sh("nft list ruleset").matches("drop").count(), 3);
    assert!(lan.node.sh("nft list ruleset").contains("expires"), "with the lease");
    kernel.close().unwrap();
}

/// Somebody who fights for the table wins it, and the gate in force is then the lifetime.
#[test]
fn a_fight_for_the_table_ends_in_the_lifetime_class() {
    let lan = lan_or_skip!();
    let mut kernel = lan.open();
    kernel.claim(ms(3000)).unwrap();
    let mut fell = false;
    for _ in 0..100 {
        lan.node.sh("nft delete table inet staffetta 2>/dev/null || true");
        pump(&mut kernel, ms(1));
        if kernel.class() == GateClass::Lifetime {
            fell = true;
            break;
        }
    }
    if !fell {
        eprintln!("SKIPPED: this machine is too slow to fight");
        return;
    }
    assert!(kernel.gate_error().unwrap().contains("same table name"), "{:?}", kernel.gate_error());
    let lifetime = lan.node.sh("ip -o addr show dev eth0 to 10.77.0.50");
    assert!(lifetime.contains("valid_lft 3sec") || lifetime.contains("valid_lft 2sec"));
    thread::sleep(ms(1100));
    assert_eq!(kernel.renew(ms(3000)).unwrap(), Renewal::Renewed);
    assert_eq!(kernel.class(), GateClass::Nftables, "peace");
    kernel.close().unwrap();
}

#[test]
fn the_lifetime_alone_ends_the_answers_too() {
    let lan = lan_or_skip!();
    let _echo = Echo::new(&lan.node, V4);
    let forced = Some(GateClass::Lifetime);
    let mut kernel = lan.open_with(|o| {
        o.force_class = forced;
        o.vips = vec![vip(V4, 24), vip(V6, 64)];
    });
    assert_eq!((kernel.class(), kernel.gate_error()), (GateClass::Lifetime, None));
    let client = Client::new(&lan, V4);
    kernel.claim(ms(1000)).unwrap();
    thread::sleep(ms(500));
    assert_eq!(kernel.renew(ms(1000)).unwrap(), Renewal::Renewed);
    let start = Instant::now();
    assert!(client.answered());
    let last = client.last_answer(start, ms(700));
    println!("lifetime of 1 s: last answer after {last:?}");
    assert!(last >= ms(900) && last <= ms(1000) + GateClass::Lifetime.slack(), "{last:?}");
    assert_eq!(kernel.renew(ms(1000)).unwrap(), Renewal::Lost);
    eventually("IPv6 has gone as well", || !lan.node.has("eth0", "fd77::50/64"));
    kernel.close().unwrap();
}

#[test]
fn two_daemons_share_a_host_by_table_name() {
    let lan = lan_or_skip!();
    let mut one = lan.open();
    let other = "10.77.0.51";
    let mut two = lan.open_with(|o| {
        o.vips = vec![vip(other, 24)];
        o.table = "staffetta-two".into();
    });
    let (_echo1, _echo2) = (Echo::new(&lan.node, V4), Echo::new(&lan.node, other));
    let (client1, client2) = (Client::new(&lan, V4), Client::new(&lan, other));
    one.claim(ms(10_000)).unwrap();
    assert!(client1.answered() && !client2.answered());
    two.claim(ms(10_000)).unwrap();
    one.release().unwrap();
    assert!(!client1.answered() && client2.answered());
    assert_eq!(pump(&mut two, ms(50)), [], "the other's transactions are no news");
    one.close().unwrap();
    assert!(client2.answered());
    two.close().unwrap();
}

#[test]
fn own_renewals_wake_nobody() {
    let lan = lan_or_skip!();
    let mut kernel = lan.open();
    kernel.claim(ms(1000)).unwrap();
    pump(&mut kernel, ms(50));
    for _ in 0..20 {
        assert_eq!(kernel.renew(ms(1000)).unwrap(), Renewal::Renewed);
    }
    assert!(!common::readable(&kernel, ms(20)));
    kernel.close().unwrap();
}

#[test]
fn the_backup_lifetime_is_renewed_at_a_quarter() {
    let lan = lan_or_skip!();
    let mut kernel = lan.open_with(|o| o.lifetime_backup = Duration::from_secs(4));
    kernel.claim(ms(1000)).unwrap();
    let start = Instant::now();
    while start.elapsed() < ms(6000) {
        assert_eq!(kernel.renew(ms(1000)).unwrap(), Renewal::Renewed);
        thread::sleep(ms(100));
    }
    assert!(lan.node.has("eth0", "10.77.0.50/24"), "it would have gone after 4 s");
    drop(kernel);
    eventually("the backup ends too", || !lan.node.has("eth0", "10.77.0.50/24"));
}

#[test]
fn a_routed_address_on_the_loopback_interface() {
    let lan = lan_or_skip!();
    let mut kernel = lan.open_with(|o| {
        o.vips = vec![vip("192.0.2.50", 32), vip("2001:db8::50", 128)];
        o.vips.iter_mut().for_each(|vip| vip.interface = "lo".into());
    });
    lan.peer.sh("ip route add 192.0.2.50/32 via 10.77.0.1");
    lan.peer.sh("ip -6 route add 2001:db8::50/128 via fd77::1");
    let (v4, v6) = ("192.0.2.50", "2001:db8::50");
    let (_echo4, _echo6) = (Echo::new(&lan.node, v4), Echo::new(&lan.node, v6));
    let (client4, client6) = (Client::routed(&lan, v4), Client::routed(&lan, v6));
    kernel.claim(ms(20_000)).unwrap();
    eventually("both answer", || client4.answered() && client6.answered());
    kernel.announce();
    kernel.probe();
    assert_eq!(kernel.own_macs(), Vec::<[u8; 6]>::new());
    kernel.claim(ms(50)).unwrap();
    thread::sleep(ms(100));
    assert!(lan.node.has("lo", "192.0.2.50/32"));
    assert!(!client4.answered() && !client6.answered());
    kernel.close().unwrap();
}

#[test]
fn errors_name_the_object_and_the_remedy() {
    let lan = lan_or_skip!();
    let refuse = |change: &dyn Fn(&mut staffetta_vip::Options)| {
        let mut options = options(&[(V4, 24)]);
        change(&mut options);
        lan.node.enter(|| Kernel::open(options)).err().expect("refused").to_string()
    };
    let text = refuse(&|o| o.vips[0].interface = "eth7".into());
    assert_eq!(text, "interface eth7 does not exist (see `ip link`)");
    assert!(refuse(&|o| o.vips.clear()).contains("give 1 to 16"));
    assert!(refuse(&|o| o.vips[0].prefix = 33).contains("1 to 32"));
    assert!(refuse(&|o| o.vips.push(o.vips[0].clone())).contains("twice"));
    assert!(refuse(&|o| o.table = "a b".into()).contains("letters"));
    let mut kernel = lan.open();
    let error = kernel.claim(ms(10)).unwrap_err();
    assert!(matches!(error, VipError::NoTime(_)), "{error}");
    lan.node.sh("ip link del eth0");
    let error = kernel.claim(ms(1000)).unwrap_err().to_string();
    println!("{error}");
    assert!(error.starts_with("cannot add 10.77.0.50/24 to eth0: No such device"), "{error}");
    assert!(!kernel.held());
    kernel.close().unwrap();

    let lan = Lan::new().unwrap();
    lan.node.sh("echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6");
    let mut kernel = lan.open_with(|o| o.vips = vec![vip(V6, 64)]);
    let error = kernel.claim(ms(1000)).unwrap_err().to_string();
    assert!(error.contains("disable_ipv6"), "{error}");
    kernel.close().unwrap();
}

/// The body of the next test, for a process of its own.
#[test]
#[ignore = "run by works_without_root"]
fn inside_an_unprivileged_namespace() {
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let mut options = options(&[("192.0.2.50", 32)]);
    options.vips[0].interface = "lo".into();
    let mut kernel = Kernel::open(options).unwrap();
    kernel.claim(ms(1000)).unwrap();
    assert_eq!(kernel.renew(ms(1000)).unwrap(), Renewal::Renewed);
    assert_eq!(kernel.class(), GateClass::Nftables);
    kernel.close().unwrap();
}

#[test]
fn works_without_root() {
    use std::os::unix::process::CommandExt;
    let nobody = 65534;
    let mut unshare = Command::new("unshare");
    unshare.args(["-Urn", "/proc/self/fd/0", "--exact", "inside_an_unprivileged_namespace"]);
    unshare.args(["--ignored", "--nocapture"]);
    let program = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    unshare.stdin(program).current_dir("/");
    // SAFETY: getuid has no preconditions.
    if unsafe { libc::getuid() } == 0 {
        unshare.uid(nobody).gid(nobody);
    }
    let output = match unshare.output() {
        Ok(output) => output,
        Err(error) => return eprintln!("SKIPPED: cannot run unshare: {error}"),
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("unshare failed") || errors.contains("Operation not permitted") {
        return eprintln!("SKIPPED: no unprivileged namespaces here: {errors}");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
}
