//! Links and addresses over the synchronous route channel: requests out, changes in.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::frames::Mac;
use crate::netlink::{Channel, Message, attributes, u32_at};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const ARPHRD_ETHER: u16 = 1;

/// Groups that a node listens to: links, IPv4 and IPv6 addresses.
pub(crate) const GROUPS: [u32; 3] = [1, 5, 9];

/// A link as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkFacts {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) up: bool,
    /// Link-layer address where ARP and neighbor discovery are spoken, else none.
    pub(crate) mac: Option<Mac>,
}

/// An address as the kernel describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AddressFacts {
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
    pub(crate) index: u32,
    /// Would vanish with the first address of its subnet (`promote_secondaries=0`).
    pub(crate) secondary: bool,
}

/// A change of the kernel's state, or one line of a dump.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Link(LinkFacts),
    LinkGone { index: u32 },
    Address(AddressFacts),
    AddressGone(AddressFacts),
}

pub(crate) fn parse(message: &Message<'_>) -> Option<Change> {
    match message.kind {
        RTM_NEWLINK => parse_link(message.payload).map(Change::Link),
        RTM_DELLINK => {
            let link = parse_link(message.payload)?;
            Some(Change::LinkGone { index: link.index })
        }
        RTM_NEWADDR => parse_address(message.payload).map(Change::Address),
        RTM_DELADDR => parse_address(message.payload).map(Change::AddressGone),
        _ => None,
    }
}

/// `struct ifinfomsg`, then attributes. Messages of a bridge about its ports are not links.
fn parse_link(payload: &[u8]) -> Option<LinkFacts> {
    const BYTES: usize = 16;
    const ADDRESS: u16 = 1;
    const NAME: u16 = 3;
    let flags = u32_at(payload, 8)?.cast_signed();
    let hardware = u16::from_ne_bytes([*payload.get(2)?, *payload.get(3)?]);
    let is_link = payload.first() == Some(&(libc::AF_UNSPEC as u8));
    let mut link = LinkFacts {
        index: u32_at(payload, 4)?,
        name: String::new(),
        up: flags & libc::IFF_UP != 0 && flags & libc::IFF_RUNNING != 0,
        mac: None,
    };
    let speaks_arp =
        hardware == ARPHRD_ETHER && flags & (libc::IFF_LOOPBACK | libc::IFF_NOARP) == 0;
    for (kind, value) in attributes(payload.get(BYTES..)?) {
        match kind {
            ADDRESS if speaks_arp => link.mac = value.try_into().ok(),
            NAME => {
                let name = value.strip_suffix(&[0]).unwrap_or(value);
                link.name = String::from_utf8_lossy(name).into_owned();
            }
            _ => {}
        }
    }
    is_link.then_some(link)
}

/// `struct ifaddrmsg`, then attributes. The local address is the node's own; the other one is
/// the far end of a point-to-point link.
fn parse_address(payload: &[u8]) -> Option<AddressFacts> {
    const BYTES: usize = 8;
    const ADDRESS: u16 = 1;
    const LOCAL: u16 = 2;
    const FLAGS: u16 = 8;
    let mut flags = u32::from(*payload.get(2)?);
    let (mut address, mut local) = (None, None);
    for (kind, value) in attributes(payload.get(BYTES..)?) {
        match kind {
            ADDRESS => address = ip(value),
            LOCAL => local = ip(value),
            FLAGS => flags = u32_at(value, 0)?,
            _ => {}
        }
    }
    Some(AddressFacts {
        address: local.or(address)?,
        prefix: payload[1],
        index: u32_at(payload, 4)?,
        secondary: flags & AddressFlags::Secondary.bits() != 0,
    })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

pub(crate) fn links(channel: &mut Channel) -> io::Result<Vec<LinkFacts>> {
    let request = encode(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP, 0);
    let mut links = Vec::new();
    channel.dump(&request, |message| {
        if let Some(Change::Link(link)) = parse(&message) {
            links.push(link);
        }
    })?;
    Ok(links)
}

pub(crate) fn addresses(channel: &mut Channel) -> io::Result<Vec<AddressFacts>> {
    let request = encode(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP, 0);
    let mut addresses = Vec::new();
    channel.dump(&request, |message| {
        if let Some(Change::Address(address)) = parse(&message) {
            addresses.push(address);
        }
    })?;
    Ok(addresses)
}

/// What to do where the address is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// Give it the new lifetime.
    Replace,
    /// Leave it alone and answer `EEXIST`.
    Refuse,
}

/// Request to add an address for `lifetime_s` seconds.
///
/// An IPv6 address is added without duplicate address detection and deprecated from the start:
/// it answers and can be bound to, and the node does not pick it for connections of its own.
pub(crate) fn add(
    address: AddressFacts,
    lifetime_s: u32,
    existing: Existing,
    sequence: u32,
) -> Vec<u8> {
    let mut message = address_message(address);
    let cache = &mut CacheInfo::default();
    cache.ifa_valid = lifetime_s;
    if address.address.is_ipv4() {
        cache.ifa_preferred = lifetime_s;
    } else {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message.attributes.push(AddressAttribute::CacheInfo(*cache));
    let flags = match existing {
        Existing::Replace => NLM_F_CREATE | NLM_F_REPLACE,
        Existing::Refuse => NLM_F_CREATE,
    };
    encode(RouteNetlinkMessage::NewAddress(message), NLM_F_ACK | flags, sequence)
}

/// Request to remove an address.
pub(crate) fn remove(address: AddressFacts, sequence: u32) -> Vec<u8> {
    let message = address_message(address);
    encode(RouteNetlinkMessage::DelAddress(message), NLM_F_ACK, sequence)
}

fn address_message(address: AddressFacts) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match address.address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.prefix_len = address.prefix;
    message.header.index = address.index;
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Local(address.address));
    message.attributes.push(AddressAttribute::Address(address.address));
    if let IpAddr::V4(v4) = address.address
        && address.prefix < 31
    {
        let host_bits = u32::MAX >> address.prefix;
        message.attributes.push(AddressAttribute::Broadcast((v4.to_bits() | host_bits).into()));
    }
    message
}

/// Request to set `promote_secondaries` on one link: without it, removing the first address of
/// a subnet takes the subnet's other addresses with it.
pub(crate) fn promote_secondaries(index: u32, sequence: u32) -> Vec<u8> {
    const AF_SPEC: u16 = 26;
    const INET_CONF: u16 = 1;
    const PROMOTE_SECONDARIES: u16 = 20;
    const NESTED: u16 = 0x8000;
    let attribute = |kind: u16, value: &[u8]| {
        let length = value.len() as u16 + 4;
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
    };
    let setting = attribute(PROMOTE_SECONDARIES, &1u32.to_ne_bytes());
    let inet = attribute(libc::AF_INET as u16 | NESTED, &attribute(INET_CONF | NESTED, &setting));
    let mut body = vec![0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body.extend(attribute(AF_SPEC | NESTED, &inet));
    let mut message = Vec::new();
    message.extend((body.len() as u32 + 16).to_ne_bytes());
    message.extend(RTM_SETLINK.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0u32.to_ne_bytes());
    message.extend(body);
    message
}

fn encode(message: RouteNetlinkMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let length = message.buffer_len();
    let mut bytes = vec![0; length.next_multiple_of(4)];
    message.serialize(&mut bytes[..length]);
    bytes
}

/// Are both addresses in one subnet, in the sense in which the kernel makes one of them the
/// secondary of the other: the same prefix length and network?
pub(crate) fn same_subnet(a: AddressFacts, b: AddressFacts) -> bool {
    a.index == b.index && a.prefix == b.prefix && in_subnet(a.address, a.prefix, b.address)
}

/// Is `other` in the network of `address/prefix`?
pub(crate) fn in_subnet(address: IpAddr, prefix: u8, other: IpAddr) -> bool {
    let differ = match (address, other) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits() ^ b.to_bits())) << 96,
        (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() ^ b.to_bits(),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    differ.leading_zeros() >= u32::from(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_reads_back() {
        for (address, prefix) in [("10.77.0.50", 24), ("10.77.0.50", 32), ("fd77::50", 64)] {
            let facts = AddressFacts {
                address: address.parse().unwrap(),
                prefix,
                index: 7,
                secondary: false,
            };
            let bytes = add(facts, 3, Existing::Replace, 5);
            let message = crate::netlink::messages(&bytes).next().unwrap();
            assert_eq!(message.sequence, 5);
            assert_eq!(parse(&message), Some(Change::Address(facts)));
            let bytes = remove(facts, 6);
            let message = crate::netlink::messages(&bytes).next().unwrap();
            assert_eq!(parse(&message), Some(Change::AddressGone(facts)));
        }
    }

    #[test]
    fn subnets() {
        let cases = [
            ("10.77.0.50", 24, "10.77.0.1", true),
            ("10.77.0.50", 24, "10.77.1.1", false),
            ("10.77.0.50", 32, "10.77.0.50", true),
            ("10.77.0.50", 32, "10.77.0.51", false),
            ("10.77.0.50", 0, "1.2.3.4", true),
            ("fd77::50", 64, "fd77::1:2:3:4", true),
            ("fd77::50", 128, "fd77::51", false),
            ("fd77::50", 0, "10.77.0.1", false),
        ];
        for (address, prefix, other, expected) in cases {
            let (address, other) = (address.parse().unwrap(), other.parse().unwrap());
            assert_eq!(in_subnet(address, prefix, other), expected, "{address}/{prefix} {other}");
        }
    }
}
