//! Is an address outside the pair reachable? One question, one answer, one deadline.
//!
//! By ICMP echo (an unprivileged ping socket where the kernel allows it, else a raw one), or by
//! ARP for what answers nothing else. No answer is evidence, not an error.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, RouteMessageBuilder, new_connection};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::frames::{ARP_BYTES, Arp, ArpOperation, BROADCAST, internet_checksum};
use crate::wire::{arp_filter, link_address};

/// Longest time to wait for one answer.
pub const REFERENCE_TIMEOUT_MS_MAX: u64 = 60_000;

const ECHO_BYTES: usize = 16;
const PACKET_BYTES_MAX: usize = 256;

/// How a reference is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferenceMethod {
    /// ICMP or ICMPv6 echo.
    Icmp,
    /// An ARP request: IPv4, on a directly connected network.
    Arp,
}

/// Why a reference could not even be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RefError {
    /// The address cannot be a reference.
    #[error("{address} cannot be a reference: {why}")]
    Address {
        /// The address.
        address: IpAddr,
        /// What is wrong with it, and what to give instead.
        why: &'static str,
    },
    /// The timeout is out of range.
    #[error("a timeout of {0:?} is out of range: give 1 ms to {REFERENCE_TIMEOUT_MS_MAX} ms")]
    Timeout(Duration),
    /// The kernel refused the socket or the question.
    #[error(
        "cannot probe {address}: {source}{}",
        if source.kind() == io::ErrorKind::PermissionDenied {
            " (does the unit grant CAP_NET_RAW?)"
        } else {
            ""
        }
    )]
    Kernel {
        /// The address.
        address: IpAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The way to the address could not be looked up.
    #[error("cannot look up the route to {address}: {text}")]
    Route {
        /// The address.
        address: IpAddr,
        /// What was wrong.
        text: String,
    },
}

/// Asks `address` once; the round trip time, or `None` when no answer came within `timeout`.
///
/// A network that is down or unreachable is no answer.
///
/// # Errors
///
/// When the address or the timeout make no sense, or the kernel refuses to ask.
pub async fn probe_reference(
    address: IpAddr,
    method: ReferenceMethod,
    timeout: Duration,
) -> Result<Option<Duration>, RefError> {
    check(address, method, timeout)?;
    let kernel = |source| RefError::Kernel { address, source };
    let asked = async {
        match (method, address) {
            (ReferenceMethod::Icmp, _) => echo(address).await.map_err(kernel),
            (ReferenceMethod::Arp, IpAddr::V4(v4)) => match way_to(v4).await? {
                Some(way) => ask_arp(v4, way).await.map_err(kernel),
                None => Ok(None),
            },
            (ReferenceMethod::Arp, IpAddr::V6(_)) => unreachable!("refused by check"),
        }
    };
    match tokio::time::timeout(timeout, asked).await {
        Err(_elapsed) => Ok(None),
        Ok(Err(RefError::Kernel { source, .. })) if is_no_way(&source) => Ok(None),
        Ok(answer) => answer,
    }
}

fn check(address: IpAddr, method: ReferenceMethod, timeout: Duration) -> Result<(), RefError> {
    let refuse = |why| Err(RefError::Address { address, why });
    if timeout < Duration::from_millis(1)
        || timeout > Duration::from_millis(REFERENCE_TIMEOUT_MS_MAX)
    {
        return Err(RefError::Timeout(timeout));
    }
    if address.is_unspecified() || address.is_multicast() || is_broadcast(address) {
        return refuse("give the address of one host");
    }
    match (method, address) {
        (ReferenceMethod::Arp, IpAddr::V6(_)) => refuse("ARP is for IPv4; use method = \"icmp\""),
        (ReferenceMethod::Arp, IpAddr::V4(v4)) if v4.is_loopback() => {
            refuse("no ARP is spoken on the loopback interface")
        }
        (ReferenceMethod::Icmp, IpAddr::V6(v6)) if v6.is_unicast_link_local() => {
            refuse("a link-local address says nothing without its interface; use a global one")
        }
        (ReferenceMethod::Icmp | ReferenceMethod::Arp, _) => Ok(()),
    }
}

fn is_broadcast(address: IpAddr) -> bool {
    address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn is_no_way(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::ENETDOWN
                | libc::EHOSTDOWN
                | libc::EADDRNOTAVAIL
                | libc::ENODEV
                | libc::ECONNREFUSED
        )
    )
}

/// Tells the answers to one question from those to another.
fn sequence() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

async fn echo(address: IpAddr) -> io::Result<Option<Duration>> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    // The ping socket picks the identifier itself and delivers only answers to it.
    let (socket, raw) = match Socket::new(domain, Type::DGRAM, Some(protocol)) {
        Ok(socket) => (socket, false),
        Err(_) => (Socket::new(domain, Type::RAW, Some(protocol))?, true),
    };
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::from(SocketAddr::new(address, 0)))?;
    let (identifier, sequence) = (std::process::id() as u16, sequence());
    let request = echo_request(address, identifier, sequence);
    let socket = asynchronous(socket)?;
    let sent = Instant::now();
    socket.get_ref().send(&request)?;
    loop {
        let answer = receive(&socket).await?;
        let answer = match address {
            IpAddr::V4(_) if raw => strip_ipv4(&answer),
            IpAddr::V4(_) | IpAddr::V6(_) => Some(&answer[..]),
        };
        let ours =
            answer.is_some_and(|a| is_reply(address, a, raw.then_some(identifier), sequence));
        if ours {
            return Ok(Some(sent.elapsed()));
        }
    }
}

/// Echo request; the kernel fills in the ICMPv6 checksum, and on ping sockets the identifier.
fn echo_request(address: IpAddr, identifier: u16, sequence: u16) -> [u8; ECHO_BYTES] {
    let mut request = [0; ECHO_BYTES];
    request[0] = if address.is_ipv4() { 8 } else { 128 };
    request[4..6].copy_from_slice(&identifier.to_be_bytes());
    request[6..8].copy_from_slice(&sequence.to_be_bytes());
    request[8..].copy_from_slice(b"staffett");
    if address.is_ipv4() {
        let checksum = internet_checksum(&request);
        request[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    request
}

fn is_reply(address: IpAddr, answer: &[u8], identifier: Option<u16>, sequence: u16) -> bool {
    let kind = if address.is_ipv4() { 0 } else { 129 };
    let word = |at: usize| answer.get(at..at + 2).map(|w| u16::from_be_bytes([w[0], w[1]]));
    answer.first() == Some(&kind)
        && word(6) == Some(sequence)
        && identifier.is_none_or(|identifier| word(4) == Some(identifier))
}

/// Raw IPv4 sockets deliver the IP header too.
fn strip_ipv4(packet: &[u8]) -> Option<&[u8]> {
    let header_bytes = usize::from(packet.first()? & 0x0f) * 4;
    packet.get(header_bytes..)
}

/// The directly connected way to an address.
struct Way {
    index: u32,
    mac: [u8; 6],
    source: Ipv4Addr,
}

async fn way_to(address: Ipv4Addr) -> Result<Option<Way>, RefError> {
    let route_error = |text: String| RefError::Route { address: address.into(), text };
    let (connection, handle, _) = new_connection().map_err(|e| route_error(e.to_string()))?;
    let connection = tokio::spawn(connection);
    let way = look_up(&handle, address).await;
    connection.abort();
    way
}

async fn look_up(handle: &Handle, address: Ipv4Addr) -> Result<Option<Way>, RefError> {
    let route_error = |text: String| RefError::Route { address: address.into(), text };
    let question = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, 32).build();
    let route = match handle.route().get(question).execute().try_next().await {
        Ok(Some(route)) => route,
        // No route is no answer, and says as much.
        Ok(None) | Err(rtnetlink::Error::NetlinkError(_)) => return Ok(None),
        Err(error) => return Err(route_error(error.to_string())),
    };
    let (index, source) = match (gateway(&route), output(&route), source(&route)) {
        (None, Some(index), source) => (index, source.unwrap_or(Ipv4Addr::UNSPECIFIED)),
        (Some(_), _, _) => {
            return Err(RefError::Address {
                address: address.into(),
                why: "not on a directly connected network; use method = \"icmp\"",
            });
        }
        (None, None, _) => return Ok(None),
    };
    let link = handle.link().get().match_index(index).execute().try_next().await;
    let link = link.map_err(|e| route_error(e.to_string()))?;
    let mac = link.iter().flat_map(|link| &link.attributes).find_map(|attribute| match attribute {
        LinkAttribute::Address(mac) => <[u8; 6]>::try_from(&mac[..]).ok(),
        _ => None,
    });
    match mac {
        Some(mac) => Ok(Some(Way { index, mac, source })),
        None => Err(route_error(format!("interface number {index} does not speak ARP"))),
    }
}

fn gateway(route: &RouteMessage) -> Option<&RouteAddress> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => Some(gateway),
        _ => None,
    })
}

fn output(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn source(route: &RouteMessage) -> Option<Ipv4Addr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(RouteAddress::Inet(source)) => Some(*source),
        _ => None,
    })
}

async fn ask_arp(address: Ipv4Addr, way: Way) -> io::Result<Option<Duration>> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    socket.set_nonblocking(true)?;
    socket.attach_filter(&arp_filter(&[address]))?;
    socket.bind(&link_address(way.index, libc::ETH_P_ARP as u16)?)?;
    let socket = asynchronous(socket)?;
    let request = Arp::question(way.mac, way.source, BROADCAST, address).to_bytes();
    let sent = Instant::now();
    socket.get_ref().send(&request)?;
    loop {
        let answer = receive(&socket).await?;
        let answers = |arp: Arp| arp.operation == ArpOperation::Reply && arp.sender == address;
        if answer.len() >= ARP_BYTES && Arp::parse(&answer).is_some_and(answers) {
            return Ok(Some(sent.elapsed()));
        }
    }
}

fn asynchronous(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` owns its one descriptor and closes it when it is dropped, which the
    // `AsyncFd` that owns the socket does after its deregistration.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

async fn receive(socket: &AsyncFd<Socket>) -> io::Result<Vec<u8>> {
    loop {
        let mut ready = socket.readable().await?;
        let received = ready.try_io(|socket| {
            let mut buffer = [MaybeUninit::uninit(); PACKET_BYTES_MAX];
            let length = socket.get_ref().recv(&mut buffer)?.min(buffer.len());
            // SAFETY: `recv` has written the first `length` bytes.
            Ok(unsafe { buffer[..length].assume_init_ref() }.to_vec())
        });
        match received {
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(result) => return result,
            Err(_would_block) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_with_a_remedy() {
        use ReferenceMethod::{Arp, Icmp};
        let cases = [
            ("0.0.0.0", Icmp, 100, "one host"),
            ("224.0.0.1", Icmp, 100, "one host"),
            ("255.255.255.255", Arp, 100, "one host"),
            ("::", Icmp, 100, "one host"),
            ("fe80::1", Icmp, 100, "global"),
            ("fd77::1", Arp, 100, "icmp"),
            ("127.0.0.1", Arp, 100, "loopback"),
            ("10.0.0.1", Icmp, 0, "1 ms"),
            ("10.0.0.1", Icmp, 60_001, "60000 ms"),
        ];
        for (address, method, timeout_ms, expected) in cases {
            let refusal =
                check(address.parse().unwrap(), method, Duration::from_millis(timeout_ms));
            let text = refusal.unwrap_err().to_string();
            assert!(text.contains(expected), "{address}: {text}");
        }
        assert!(check([10, 0, 0, 1].into(), Icmp, Duration::from_millis(1)).is_ok());
    }

    #[test]
    fn only_the_answer_to_this_question_counts() {
        let v4 = IpAddr::from([10, 0, 0, 1]);
        let mut reply = echo_request(v4, 7, 9);
        assert_eq!(internet_checksum(&reply), 0, "the checksum covers itself");
        assert!(!is_reply(v4, &reply, None, 9), "our own request");
        reply[0] = 0;
        assert!(is_reply(v4, &reply, None, 9));
        assert!(is_reply(v4, &reply, Some(7), 9));
        assert!(!is_reply(v4, &reply, Some(8), 9), "another process");
        assert!(!is_reply(v4, &reply, None, 10), "an earlier question");
        assert!(!is_reply(v4, &reply[..7], None, 9), "truncated");
        let packet = [&[0x45][..], &[0; 19], &reply].concat();
        assert_eq!(strip_ipv4(&packet), Some(&reply[..]));
        assert_eq!(strip_ipv4(&[]), None);
    }
}
