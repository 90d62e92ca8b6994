//! Two hosts in network namespaces of their own, joined by a veth pair. Nothing to clean up: a
//! namespace goes with its last descriptor.

#![allow(dead_code, unreachable_pub, missing_docs)]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use staffetta_vip::frames::{Arp, neighbor_question, parse_advertisement};
use staffetta_vip::{GateClass, Kernel, KernelEvent, Mac, Options, Vip};

pub const PORT: u16 = 7000;

/// Runs the body with a fresh lan, or says why it cannot.
#[macro_export]
macro_rules! lan_or_skip {
    () => {
        match common::Lan::new() {
            Ok(lan) => lan,
            Err(why) => {
                eprintln!("SKIPPED: {why}");
                return;
            }
        }
    };
}

pub struct Net {
    namespace: File,
}

impl Net {
    pub fn new() -> Result<Self, String> {
        let made = thread::spawn(|| {
            // SAFETY: affects this thread alone, which ends right after.
            match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
                0 => File::open("/proc/thread-self/ns/net"),
                _ => Err(io::Error::last_os_error()),
            }
        });
        let namespace = made.join().unwrap().map_err(|error| {
            format!("cannot make a network namespace: {error} (run as root, or in `unshare -Urn`)")
        })?;
        Ok(Self { namespace })
    }

    /// Runs `body` on a thread inside this namespace.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                // SAFETY: affects this thread alone, which ends right after.
                let entered =
                    unsafe { libc::setns(self.namespace.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(entered, 0, "setns: {}", io::Error::last_os_error());
                body()
            });
            inside.join().unwrap()
        })
    }

    pub fn sh(&self, script: &str) -> String {
        let output = self.enter(|| Command::new("sh").args(["-ec", script]).output()).unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {errors}");
        text
    }

    pub fn has(&self, interface: &str, address: &str) -> bool {
        self.sh(&format!("ip -o addr show dev {interface}")).contains(&format!(" {address} "))
    }

    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }

    pub fn mac(&self, interface: &str) -> Mac {
        let text = self.sh(&format!("ip -o link show dev {interface}"));
        let mac = text.split("link/ether ").nth(1).unwrap();
        let mac = mac.split_whitespace().next().unwrap();
        let bytes: Vec<u8> = mac.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
        bytes.try_into().unwrap()
    }
}

pub struct Lan {
    pub node: Net,
    pub peer: Net,
}

impl Lan {
    pub fn new() -> Result<Self, String> {
        let lan = Self { node: Net::new()?, peer: Net::new()? };
        let other = lan.peer.path();
        lan.node.sh(&format!(
            "echo 1 > /proc/sys/net/ipv4/ip_nonlocal_bind
             echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind
             ip link set lo up
             ip link add eth0 type veth peer name eth0 netns {other}
             ip addr add 10.77.0.1/24 dev eth0
             ip addr add fd77::1/64 dev eth0 nodad
             ip link set eth0 up"
        ));
        lan.peer.sh("ip link set lo up
             ip addr add 10.77.0.2/24 dev eth0
             ip addr add fd77::2/64 dev eth0 nodad
             ip link set eth0 up");
        lan.settle();
        Ok(lan)
    }

    /// Waits until both ends carry frames.
    pub fn settle(&self) {
        eventually("the veth pair is up", || {
            self.node.sh("ip -o link show dev eth0").contains("LOWER_UP")
                && self.peer.sh("ip -o link show dev eth0").contains("LOWER_UP")
                && !self.node.sh("ip -6 -o addr show dev eth0").contains("tentative")
                && !self.peer.sh("ip -6 -o addr show dev eth0").contains("tentative")
        });
    }

    pub fn open(&self) -> Kernel {
        self.open_with(|_| {})
    }

    pub fn open_with(&self, change: impl FnOnce(&mut Options)) -> Kernel {
        let mut options = options(&[("10.77.0.50", 24)]);
        change(&mut options);
        self.node.enter(|| Kernel::open(options)).expect("open")
    }
}

pub fn vip(address: &str, prefix: u8) -> Vip {
    Vip { address: address.parse().unwrap(), prefix, interface: "eth0".into() }
}

pub fn options(vips: &[(&str, u8)]) -> Options {
    Options {
        vips: vips.iter().map(|(address, prefix)| vip(address, *prefix)).collect(),
        table: "staffetta".into(),
        neighbors: Vec::new(),
        lifetime_backup: Duration::from_secs(10),
        force_class: Some(GateClass::Nftables),
    }
}

pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "never: {what}");
        thread::sleep(ms(20));
    }
}

/// What `pump` reports within `time`, called when the descriptor says so.
pub fn pump(kernel: &mut Kernel, time: Duration) -> Vec<KernelEvent> {
    let mut events = Vec::new();
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || !readable(kernel, left) {
            return events;
        }
        kernel.pump(&mut events);
    }
}

/// Pumps until `wanted` is among the events.
pub fn pump_until(kernel: &mut Kernel, wanted: impl Fn(&KernelEvent) -> bool) -> Vec<KernelEvent> {
    let mut events = Vec::new();
    let start = Instant::now();
    while !events.iter().any(&wanted) {
        assert!(start.elapsed() < Duration::from_secs(10), "not among {events:?}");
        if readable(kernel, ms(100)) {
            kernel.pump(&mut events);
        }
    }
    events
}

pub fn readable(kernel: &Kernel, timeout: Duration) -> bool {
    let fd = kernel.fds()[0];
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&raw mut poll, 1, timeout.as_millis() as i32) == 1 }
}

/// Answers UDP on a service address, as a service does: bound to it with `ip_nonlocal_bind`.
pub struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Echo {
    pub fn new(net: &Net, address: &str) -> Self {
        let at = SocketAddr::new(address.parse().unwrap(), PORT);
        let socket = net.enter(|| UdpSocket::bind(at)).expect("ip_nonlocal_bind");
        socket.set_read_timeout(Some(ms(50))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _closed = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A client that knows the way by heart (static neighbor): ARP plays no part in what it sees.
pub struct Client {
    socket: UdpSocket,
}

impl Client {
    pub fn new(lan: &Lan, address: &str) -> Self {
        let mac = text(lan.node.mac("eth0"));
        lan.peer.sh(&format!("ip neigh replace {address} lladdr {mac} dev eth0 nud permanent"));
        Self::routed(lan, address)
    }

    /// A client behind a route that is there already.
    pub fn routed(lan: &Lan, address: &str) -> Self {
        let to: IpAddr = address.parse().unwrap();
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = lan.peer.enter(|| {
            let socket = UdpSocket::bind(any)?;
            socket.connect(SocketAddr::new(to, PORT))?;
            io::Result::Ok(socket)
        });
        let socket = socket.unwrap();
        socket.set_read_timeout(Some(ms(4))).unwrap();
        Self { socket }
    }

    /// Whether one of a few packets is answered.
    pub fn answered(&self) -> bool {
        (0..10).any(|_| self.ask())
    }

    fn ask(&self) -> bool {
        let _unreachable = self.socket.send(b"?");
        self.socket.recv(&mut [0; 8]).is_ok()
    }

    /// Sends until nothing came back for `quiet`; the time of the last answer after `start`.
    pub fn last_answer(&self, start: Instant, quiet: Duration) -> Duration {
        let (mut last, mut heard) = (Duration::ZERO, Instant::now());
        while heard.elapsed() < quiet {
            if self.ask() {
                heard = Instant::now();
                last = start.elapsed();
            }
        }
        last
    }
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A packet socket on the peer's end: sees and sends everything.
pub struct Tap {
    socket: Socket,
    mac: Mac,
}

impl Tap {
    pub fn new(net: &Net) -> Self {
        let socket = net.enter(|| {
            let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(all))?;
            let name = c"eth0";
            // SAFETY: a valid C string.
            let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
            socket.bind(&link_address(index)?)?;
            io::Result::Ok(socket)
        });
        let socket = socket.unwrap();
        socket.set_read_timeout(Some(ms(10))).unwrap();
        Self { socket, mac: net.mac("eth0") }
    }

    pub fn send(&self, frame: &[u8]) {
        self.socket.send(frame).unwrap();
    }

    /// Frames from others that arrive within `time`.
    pub fn frames(&self, time: Duration) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let start = Instant::now();
        while start.elapsed() < time {
            let mut buffer = [MaybeUninit::uninit(); 2048];
            if let Ok(length) = self.socket.recv(&mut buffer) {
                // SAFETY: `recv` has written the first `length` bytes.
                let frame = unsafe { buffer[..length].assume_init_ref() };
                if frame[6..12] != self.mac {
                    frames.push(frame.to_vec());
                }
            }
        }
        frames
    }

    /// Forgets what arrived so far.
    pub fn drain(&self) {
        self.socket.set_nonblocking(true).unwrap();
        while self.socket.recv(&mut [MaybeUninit::uninit(); 16]).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
    }

    /// Whether an ARP request for `address` is answered.
    pub fn arp_answered(&self, address: &str) -> bool {
        let target = address.parse().unwrap();
        let question = Arp::question(self.mac, [10, 77, 0, 2].into(), [0xff; 6], target);
        self.drain();
        (0..5).any(|_| {
            self.send(&question.to_bytes());
            let frames = self.frames(ms(20));
            frames.iter().filter_map(|f| Arp::parse(f)).any(|arp| arp.sender == target)
        })
    }

    /// Whether a neighbor solicitation for `address` is answered.
    pub fn nd_answered(&self, address: &str) -> bool {
        let target = address.parse().unwrap();
        let question = neighbor_question(self.mac, "fd77::2".parse().unwrap(), target);
        self.drain();
        (0..5).any(|_| {
            self.send(&question);
            let frames = self.frames(ms(20));
            frames.iter().filter_map(|f| parse_advertisement(f)).any(|(who, _)| who == target)
        })
    }
}

fn link_address(index: u32) -> io::Result<SockAddr> {
    // SAFETY: the storage is zeroed and large enough; the length is that of what is written.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let link = storage.cast::<libc::sockaddr_ll>();
            (*link).sll_family = libc::AF_PACKET as u16;
            (*link).sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            (*link).sll_ifindex = index as i32;
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    Ok(address)
}
