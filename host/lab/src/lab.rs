//! The world: two nodes, a client and a switch, their links and addresses, and the faults between
//! them.

use std::net::Ipv4Addr;
use std::sync::Mutex;

use anyhow::Result;

use crate::fault::Fault;
use crate::hogs::Hogs;
use crate::seat::Seat;
use crate::space::Space;
use crate::stranger::{STRANGER_IP, STRANGER_MAC, Strange, Stranger};

/// The service address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 50);
/// Prefix length of the service network, in bits.
pub const VIP_PREFIX: u8 = 24;
/// The client's address on the service network; it also serves as the reference outside the pair.
pub const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// The arbiter's address on the service network.
pub const ARBITER_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 200);
const ARBITER_MAC: [u8; 6] = [2, 0x57, 0, 0, 0, 0x0d];
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0x57, 0, 0, 0, 0x0c];

/// One of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// The one whose name sorts first.
    A,
    /// The other one.
    B,
}

impl Node {
    /// Both, in order.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// `na` or `nb`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "na",
            Self::B => "nb",
        }
    }

    /// The node of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::BOTH.into_iter().find(|node| node.name() == name)
    }

    /// The other one.
    #[must_use]
    pub fn peer(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Its own address on the service network.
    #[must_use]
    pub fn ip(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.host())
    }

    /// Its address on the second heartbeat link.
    #[must_use]
    pub fn heartbeat_ip(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 78, 0, self.host())
    }

    /// The link-layer address of its `eth0`.
    #[must_use]
    pub fn mac(self) -> [u8; 6] {
        [2, 0x57, 0, 0, 0, 9 + self.host()]
    }

    /// 0 or 1.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    fn host(self) -> u8 {
        match self {
            Self::A => 1,
            Self::B => 2,
        }
    }

    fn port(self) -> &'static str {
        match self {
            Self::A => "pa",
            Self::B => "pb",
        }
    }

    fn heartbeat_port(self) -> &'static str {
        match self {
            Self::A => "ha",
            Self::B => "hb",
        }
    }
}

/// What the world has.
#[derive(Clone, Copy, Debug, Default)]
pub struct LabOptions {
    /// A second link between the nodes, `eth1`, 10.78.0.1 and 10.78.0.2.
    pub heartbeat_link: bool,
    /// A machine for an arbiter, [`ARBITER_IP`].
    pub arbiter: bool,
}

/// Two nodes on one service network with a client: `eth0` of 10.77.0.1, 10.77.0.2 and 10.77.0.100,
/// and fd77::1, fd77::2 and fd77::100.
pub struct Lab {
    strangers: Mutex<Vec<Stranger>>,
    hogs: Mutex<Vec<Hogs>>,
    seats: [Seat; 2],
    client: Space,
    switch: Space,
    arbiter: Option<Space>,
    options: LabOptions,
    faults: Mutex<Vec<Fault>>,
}

impl Lab {
    /// Builds the world. The process must be allowed to make network namespaces: see
    /// [`crate::enter`].
    ///
    /// # Errors
    /// When a namespace or a link cannot be made; the text says what is missing.
    pub fn new(options: LabOptions) -> Result<Self> {
        let lab = Self {
            strangers: Mutex::new(Vec::new()),
            hogs: Mutex::new(Vec::new()),
            seats: [Seat::new(Node::A)?, Seat::new(Node::B)?],
            client: Space::new("nc")?,
            switch: Space::new("sw")?,
            arbiter: if options.arbiter { Some(Space::new("ar")?) } else { None },
            options,
            faults: Mutex::new(Vec::new()),
        };
        lab.make_bridge("br0")?;
        for seat in &lab.seats {
            let node = seat.node();
            let wire = Wire { bridge: "br0", port: node.port(), device: "eth0" };
            lab.plug(&wire, seat.space(), node.mac())?;
            seat.space().ip(&addresses("eth0", node.ip(), u16::from(node.host())))?;
        }
        let wire = Wire { bridge: "br0", port: "pc", device: "eth0" };
        lab.plug(&wire, &lab.client, CLIENT_MAC)?;
        lab.client.ip(&addresses("eth0", CLIENT_IP, 100))?;
        if let Some(arbiter) = &lab.arbiter {
            let wire = Wire { bridge: "br0", port: "pr", device: "eth0" };
            lab.plug(&wire, arbiter, ARBITER_MAC)?;
            arbiter.ip(&addresses("eth0", ARBITER_IP, 200))?;
        }
        if options.heartbeat_link {
            lab.make_heartbeat_link()?;
        }
        Ok(lab)
    }

    /// A node.
    #[must_use]
    pub fn node(&self, node: Node) -> &Seat {
        &self.seats[node.index()]
    }

    /// The client's namespace.
    #[must_use]
    pub fn client(&self) -> &Space {
        &self.client
    }

    /// The arbiter's namespace, where there is one.
    #[must_use]
    pub fn arbiter(&self) -> Option<&Space> {
        self.arbiter.as_ref()
    }

    /// The switch's namespace.
    #[must_use]
    pub fn switch(&self) -> &Space {
        &self.switch
    }

    /// Brings a fault about, in addition to the ones in force.
    ///
    /// # Errors
    /// When `ip` or `nft` fails or is missing.
    pub fn fault(&self, fault: Fault) -> Result<()> {
        let mut faults = self.faults.lock().expect("no panic under this lock");
        faults.push(fault);
        for port in fault.ports_down() {
            if self.has_port(port) {
                self.switch.ip(&format!("link set {port} down"))?;
            }
        }
        if fault.rules().is_empty() {
            return Ok(());
        }
        let rules: Vec<String> = faults.iter().flat_map(|fault| fault.rules()).collect();
        self.filter(&rules)
    }

    /// Plugs a machine into the service network that answers for addresses which are not its own;
    /// there can be one at a time.
    ///
    /// # Errors
    /// When `ip` fails or is missing, or such a machine is there already.
    pub fn stranger(&self, strange: Strange) -> Result<()> {
        let space = Space::new("st")?;
        let wire = Wire { bridge: "br0", port: "ps", device: "eth0" };
        self.plug(&wire, &space, STRANGER_MAC)?;
        space.ip(&addresses("eth0", STRANGER_IP, 240))?;
        let stranger = Stranger::start(space, strange)?;
        self.strangers.lock().expect("no panic under this lock").push(stranger);
        Ok(())
    }

    /// Starts busy processes of ordinary priority.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn hog(&self, processes: usize) -> Result<()> {
        let hogs = Hogs::start(processes)?;
        self.hogs.lock().expect("no panic under this lock").push(hogs);
        Ok(())
    }

    /// Ends every fault; strangers and busy processes as well.
    ///
    /// # Errors
    /// When `ip` or `nft` fails.
    pub fn heal(&self) -> Result<()> {
        self.strangers.lock().expect("no panic under this lock").clear();
        self.hogs.lock().expect("no panic under this lock").clear();
        let healed = std::mem::take(&mut *self.faults.lock().expect("no panic under this lock"));
        if healed.iter().any(|fault| !fault.rules().is_empty()) {
            self.filter(&[])?;
        }
        for port in healed.iter().flat_map(|fault| fault.ports_down()) {
            if self.has_port(port) {
                self.switch.ip(&format!("link set {port} up"))?;
            }
        }
        Ok(())
    }

    fn filter(&self, rules: &[String]) -> Result<()> {
        let rules = rules.join("\n    ");
        self.switch.nft(&format!(
            "table bridge lab\n\
             delete table bridge lab\n\
             table bridge lab {{\n  \
             chain faults {{\n    \
             type filter hook forward priority 0; policy accept;\n    \
             {rules}\n  \
             }}\n}}\n"
        ))
    }

    fn has_port(&self, port: &str) -> bool {
        self.options.heartbeat_link || !port.starts_with('h')
    }

    fn make_heartbeat_link(&self) -> Result<()> {
        self.make_bridge("br1")?;
        for seat in &self.seats {
            let node = seat.node();
            let mac = [2, 0x58, 0, 0, 0, 9 + node.host()];
            let wire = Wire { bridge: "br1", port: node.heartbeat_port(), device: "eth1" };
            self.plug(&wire, seat.space(), mac)?;
            seat.space().ip(&format!("addr add {}/24 brd + dev eth1", node.heartbeat_ip()))?;
        }
        Ok(())
    }

    fn make_bridge(&self, bridge: &str) -> Result<()> {
        self.switch.ip(&format!(
            "link add {bridge} type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n\
             link set {bridge} up"
        ))
    }

    fn plug(&self, wire: &Wire<'_>, end: &Space, mac: [u8; 6]) -> Result<()> {
        let Wire { bridge, port, device } = wire;
        let path = end.path();
        self.switch.ip(&format!(
            "link add {port} type veth peer name {device} netns {path}\n\
             link set {port} master {bridge}\n\
             link set {port} up"
        ))?;
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        end.ip(&format!("link set {device} address {mac}\nlink set {device} up"))
    }
}

/// One cable: a port of a bridge of the switch and a device at the other end.
struct Wire<'a> {
    bridge: &'a str,
    port: &'a str,
    device: &'a str,
}

fn addresses(device: &str, ip: Ipv4Addr, host: u16) -> String {
    format!("addr add {ip}/24 brd + dev {device}\naddr add fd77::{host}/64 dev {device}")
}
