//! Medians of renewal, and of claim with release, on a veth interface in a network namespace of
//! its own. Run as root, or in `unshare -Urn`.

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use staffetta_vip::{Kernel, Options, Renewal, Vip};

const ROUNDS: usize = 2000;

fn main() {
    // SAFETY: no other thread runs yet.
    let apart = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(apart, 0, "cannot make a network namespace (run as root, or in `unshare -Urn`)");
    let commands = [
        "link set lo up",
        "link add eth0 type veth peer name eth1",
        "link set eth0 up",
        "link set eth1 up",
    ];
    for command in commands {
        let status = Command::new("ip").args(command.split(' ')).status().expect("ip");
        assert!(status.success(), "ip {command}");
    }
    let v4 = (0..8u8).map(|i| (IpAddr::from([10, 77, 0, 50 + i]), 24));
    let v6 = (0..8u16).map(|i| (IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, 0x50 + i]), 64));
    let all: Vec<(IpAddr, u8)> = v4.zip(v6).flat_map(|(four, six)| [four, six]).collect();
    for count in [1, 2, 16] {
        measure(&all[..count]);
    }
}

fn measure(addresses: &[(IpAddr, u8)]) {
    let vip = |(address, prefix): &(IpAddr, u8)| Vip {
        address: *address,
        prefix: *prefix,
        interface: "eth0".into(),
    };
    let options = Options {
        vips: addresses.iter().map(vip).collect(),
        table: "staffetta-bench".into(),
        neighbors: Vec::new(),
        lifetime_backup: Duration::from_secs(10),
        force_class: None,
    };
    let lease = Duration::from_secs(1);
    let opened = Instant::now();
    let mut kernel = Kernel::open(options).expect("open");
    let opened = opened.elapsed();
    let class = kernel.class();
    kernel.claim(lease).expect("claim");
    let renew = median(|| {
        let start = Instant::now();
        assert_eq!(kernel.renew(lease).expect("renew"), Renewal::Renewed);
        start.elapsed()
    });
    kernel.release().expect("release");
    let mut claims = Vec::new();
    let both = median(|| {
        let start = Instant::now();
        kernel.claim(lease).expect("claim");
        claims.push(start.elapsed());
        kernel.release().expect("release");
        start.elapsed()
    });
    claims.sort_unstable();
    let (half, almost) = (claims[claims.len() / 2], claims[claims.len() * 99 / 100]);
    kernel.close().expect("close");
    println!(
        "{} address(es), {class:?}: open {opened:?}, renew {renew:?}, claim {half:?} \
         (p99 {almost:?}), claim + release {both:?}",
        addresses.len()
    );
}

fn median(mut once: impl FnMut() -> Duration) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS).map(|_| once()).collect();
    times.sort_unstable();
    times[ROUNDS / 2]
}
