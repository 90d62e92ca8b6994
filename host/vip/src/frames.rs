//! Frames that say where a service address lives, and that ask who has it. Pure: bytes out.
//!
//! Fixed layouts: ARP over Ethernet (RFC 826, RFC 5227) and IPv6 neighbor discovery (RFC 4861).

use std::net::{Ipv4Addr, Ipv6Addr};

/// A link-layer address.
pub type Mac = [u8; 6];

/// Ethernet broadcast.
pub const BROADCAST: Mac = [0xff; 6];
/// Bytes of an ARP frame, Ethernet header included.
pub const ARP_BYTES: usize = 42;
/// Bytes of a neighbor advertisement or solicitation with one link-layer address option.
pub const ND_BYTES: usize = 86;
/// Bytes of a neighbor solicitation without option.
pub const ND_PROBE_BYTES: usize = 78;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;
const OVERRIDE: u8 = 0x20;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// ARP operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum ArpOperation {
    /// Who has?
    Request = 1,
    /// It is at.
    Reply = 2,
}

/// One ARP frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// Destination of the Ethernet frame.
    pub to: Mac,
    /// Request or reply.
    pub operation: ArpOperation,
    /// Link-layer address of the sender, also the source of the Ethernet frame.
    pub sender_mac: Mac,
    /// Protocol address of the sender.
    pub sender: Ipv4Addr,
    /// Link-layer address of the target.
    pub target_mac: Mac,
    /// Protocol address of the target.
    pub target: Ipv4Addr,
}

impl Arp {
    /// Gratuitous announcement in the request form, the one RFC 5227 asks for.
    pub fn announcement_request(mac: Mac, vip: Ipv4Addr) -> Self {
        Self {
            to: BROADCAST,
            operation: ArpOperation::Request,
            sender_mac: mac,
            sender: vip,
            target_mac: [0; 6],
            target: vip,
        }
    }

    /// Gratuitous announcement in the reply form, the only one that some switches take.
    pub fn announcement_reply(mac: Mac, vip: Ipv4Addr) -> Self {
        Self {
            operation: ArpOperation::Reply,
            target_mac: BROADCAST,
            ..Self::announcement_request(mac, vip)
        }
    }

    /// Question to one neighbor that carries the news of the service address: the target of a
    /// request takes over the sender's mapping (RFC 826).
    pub fn question(mac: Mac, sender: Ipv4Addr, to: Mac, target: Ipv4Addr) -> Self {
        Self {
            to,
            operation: ArpOperation::Request,
            sender_mac: mac,
            sender,
            target_mac: [0; 6],
            target,
        }
    }

    /// Reply form, to one neighbor.
    pub fn reply_to(mac: Mac, vip: Ipv4Addr, to: Mac, target: Ipv4Addr) -> Self {
        Self {
            to,
            operation: ArpOperation::Reply,
            sender_mac: mac,
            sender: vip,
            target_mac: to,
            target,
        }
    }

    /// Probe (RFC 5227): asks without a sender address, so that no cache learns from it.
    pub fn probe(mac: Mac, vip: Ipv4Addr) -> Self {
        Self::question(mac, Ipv4Addr::UNSPECIFIED, BROADCAST, vip)
    }

    /// The frame's bytes.
    pub fn to_bytes(self) -> [u8; ARP_BYTES] {
        let mut frame = [0; ARP_BYTES];
        ethernet(&mut frame, self.to, self.sender_mac, ETHERTYPE_ARP);
        frame[14..16].copy_from_slice(&1u16.to_be_bytes());
        frame[16..18].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
        frame[18] = 6;
        frame[19] = 4;
        frame[20..22].copy_from_slice(&(self.operation as u16).to_be_bytes());
        frame[22..28].copy_from_slice(&self.sender_mac);
        frame[28..32].copy_from_slice(&self.sender.octets());
        frame[32..38].copy_from_slice(&self.target_mac);
        frame[38..42].copy_from_slice(&self.target.octets());
        frame
    }

    /// Reads a frame; `None` when it is anything but IPv4 over Ethernet ARP.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let frame: &[u8; ARP_BYTES] = frame.get(..ARP_BYTES)?.try_into().ok()?;
        if frame[12..20] != [0x08, 0x06, 0, 1, 0x08, 0, 6, 4] {
            return None;
        }
        let operation = match u16::from_be_bytes([frame[20], frame[21]]) {
            1 => ArpOperation::Request,
            2 => ArpOperation::Reply,
            _ => return None,
        };
        Some(Self {
            to: mac_at(frame, 0),
            operation,
            sender_mac: mac_at(frame, 22),
            sender: Ipv4Addr::new(frame[28], frame[29], frame[30], frame[31]),
            target_mac: mac_at(frame, 32),
            target: Ipv4Addr::new(frame[38], frame[39], frame[40], frame[41]),
        })
    }
}

/// Unsolicited neighbor advertisement to all nodes, with the override flag.
pub fn neighbor_advertisement(mac: Mac, vip: Ipv6Addr) -> [u8; ND_BYTES] {
    let mut frame = [0; ND_BYTES];
    ethernet(&mut frame, multicast_mac(ALL_NODES), mac, ETHERTYPE_IPV6);
    frame[54] = ADVERTISEMENT;
    frame[58] = OVERRIDE;
    frame[62..78].copy_from_slice(&vip.octets());
    frame[78..80].copy_from_slice(&[OPTION_TARGET, 1]);
    frame[80..86].copy_from_slice(&mac);
    ipv6(&mut frame, vip, ALL_NODES);
    frame
}

/// Duplicate address detection's question (RFC 4862): who has `vip`? The answer goes to all.
pub fn neighbor_probe(mac: Mac, vip: Ipv6Addr) -> [u8; ND_PROBE_BYTES] {
    let mut frame = [0; ND_PROBE_BYTES];
    let group = solicited_node(vip);
    ethernet(&mut frame, multicast_mac(group), mac, ETHERTYPE_IPV6);
    frame[54] = SOLICITATION;
    frame[62..78].copy_from_slice(&vip.octets());
    ipv6(&mut frame, Ipv6Addr::UNSPECIFIED, group);
    frame
}

/// Question to one neighbor, sent from the service address: its cache takes over the source's
/// link-layer address (RFC 4861 §7.2.3).
pub fn neighbor_question(mac: Mac, vip: Ipv6Addr, neighbor: Ipv6Addr) -> [u8; ND_BYTES] {
    let mut frame = [0; ND_BYTES];
    let group = solicited_node(neighbor);
    ethernet(&mut frame, multicast_mac(group), mac, ETHERTYPE_IPV6);
    frame[54] = SOLICITATION;
    frame[62..78].copy_from_slice(&neighbor.octets());
    frame[78..80].copy_from_slice(&[OPTION_SOURCE, 1]);
    frame[80..86].copy_from_slice(&mac);
    ipv6(&mut frame, vip, group);
    frame
}

/// Target and link-layer address of a neighbor advertisement; `None` when the frame is anything
/// else, or did not come from this link (hop limit below 255).
pub fn parse_advertisement(frame: &[u8]) -> Option<(Ipv6Addr, Mac)> {
    let fixed: &[u8; ND_PROBE_BYTES] = frame.get(..ND_PROBE_BYTES)?.try_into().ok()?;
    let is_advertisement = fixed[12..14] == ETHERTYPE_IPV6.to_be_bytes()
        && fixed[20] == ICMPV6
        && fixed[21] == 255
        && fixed[54] == ADVERTISEMENT;
    if !is_advertisement {
        return None;
    }
    let target: [u8; 16] = fixed[62..78].try_into().ok()?;
    let mut mac = mac_at(fixed, 6);
    let mut options = &frame[ND_PROBE_BYTES..];
    while let [kind, units, ..] = *options {
        let bytes = usize::from(units) * 8;
        if bytes == 0 || bytes > options.len() {
            break;
        }
        if kind == OPTION_TARGET {
            mac = mac_at(options, 2);
        }
        options = &options[bytes..];
    }
    Some((target.into(), mac))
}

/// The multicast group on which the owner of `address` listens for solicitations.
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let low = address.octets();
    let [a, b, c] = [low[13], low[14], low[15]];
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

fn multicast_mac(group: Ipv6Addr) -> Mac {
    let low = group.octets();
    [0x33, 0x33, low[12], low[13], low[14], low[15]]
}

fn mac_at(frame: &[u8], offset: usize) -> Mac {
    let mut mac = [0; 6];
    mac.copy_from_slice(&frame[offset..offset + 6]);
    mac
}

fn ethernet(frame: &mut [u8], to: Mac, from: Mac, ethertype: u16) {
    frame[0..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
}

/// Fills in the IPv6 header and the ICMPv6 checksum of a frame whose ICMPv6 part is complete.
fn ipv6(frame: &mut [u8], source: Ipv6Addr, destination: Ipv6Addr) {
    let payload_bytes = (frame.len() - 54) as u16;
    frame[14] = 0x60;
    frame[18..20].copy_from_slice(&payload_bytes.to_be_bytes());
    frame[20] = ICMPV6;
    frame[21] = 255;
    frame[22..38].copy_from_slice(&source.octets());
    frame[38..54].copy_from_slice(&destination.octets());
    let checksum = icmpv6_checksum(source, destination, &frame[54..]);
    frame[56..58].copy_from_slice(&checksum.to_be_bytes());
}

/// ICMPv6 checksum over pseudo-header and message (RFC 4443 §2.3).
pub(crate) fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let pseudo = source.octets().into_iter().chain(destination.octets());
    let mut sum = message.len() as u32 + u32::from(ICMPV6);
    sum += ones_sum(pseudo) + ones_sum(message.iter().copied());
    fold(sum)
}

/// Internet checksum (RFC 1071).
pub(crate) fn internet_checksum(message: &[u8]) -> u16 {
    fold(ones_sum(message.iter().copied()))
}

fn ones_sum(bytes: impl Iterator<Item = u8>) -> u32 {
    bytes.enumerate().map(|(i, byte)| u32::from(byte) << if i % 2 == 0 { 8 } else { 0 }).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Icmpv6Type, NetSlice, SlicedPacket, TransportSlice, icmpv6};

    const MAC: Mac = [2, 0, 0, 0, 0, 0x50];
    const OTHER: Mac = [2, 0, 0, 0, 0, 0x51];
    const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 50);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);

    fn vip6() -> Ipv6Addr {
        "fd77::1:50".parse().unwrap()
    }

    #[test]
    fn arp_frames_parse_back() {
        let cases = [
            (Arp::announcement_request(MAC, VIP), BROADCAST, 1, VIP, VIP),
            (Arp::announcement_reply(MAC, VIP), BROADCAST, 2, VIP, VIP),
            (Arp::probe(MAC, VIP), BROADCAST, 1, Ipv4Addr::UNSPECIFIED, VIP),
            (Arp::question(MAC, VIP, OTHER, GATEWAY), OTHER, 1, VIP, GATEWAY),
            (Arp::reply_to(MAC, VIP, OTHER, GATEWAY), OTHER, 2, VIP, GATEWAY),
        ];
        for (arp, to, operation, sender, target) in cases {
            let bytes = arp.to_bytes();
            let packet = SlicedPacket::from_ethernet(&bytes).unwrap();
            let Some(NetSlice::Arp(parsed)) = packet.net else { panic!("not ARP: {arp:?}") };
            assert_eq!(parsed.operation().0, operation);
            assert_eq!(parsed.sender_hw_addr(), MAC);
            assert_eq!(parsed.sender_protocol_addr(), sender.octets());
            assert_eq!(parsed.target_protocol_addr(), target.octets());
            assert_eq!(bytes[..6], to);
            assert_eq!(Arp::parse(&bytes), Some(arp));
        }
    }

    #[test]
    fn nd_frames_have_the_checksum_that_etherparse_computes() {
        let neighbor = "fd77::fe".parse().unwrap();
        let cases: [(&[u8], u8, Ipv6Addr); 3] = [
            (&neighbor_advertisement(MAC, vip6()), ADVERTISEMENT, vip6()),
            (&neighbor_probe(MAC, vip6()), SOLICITATION, Ipv6Addr::UNSPECIFIED),
            (&neighbor_question(MAC, vip6(), neighbor), SOLICITATION, vip6()),
        ];
        for (bytes, kind, source) in cases {
            let packet = SlicedPacket::from_ethernet(bytes).unwrap();
            let Some(NetSlice::Ipv6(ip)) = packet.net else { panic!("not IPv6") };
            let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("no ICMPv6") };
            assert_eq!(ip.header().source_addr(), source);
            assert_eq!(ip.header().hop_limit(), 255);
            assert_eq!(icmp.type_u8(), kind);
            let (from, to) = (ip.header().source(), ip.header().destination());
            assert!(icmp.is_checksum_valid(from, to), "checksum of kind {kind}");
        }
        let packet = neighbor_advertisement(MAC, vip6());
        let packet = SlicedPacket::from_ethernet(&packet).unwrap();
        let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("no ICMPv6") };
        let Icmpv6Type::NeighborAdvertisement(header) = icmp.icmp_type() else {
            panic!("not an advertisement")
        };
        let expected = icmpv6::NeighborAdvertisementHeader {
            router: false,
            solicited: false,
            r#override: true,
        };
        assert_eq!(header, expected);
    }

    #[test]
    fn advertisements_parse_and_strangers_are_refused() {
        let frame = neighbor_advertisement(MAC, vip6());
        assert_eq!(parse_advertisement(&frame), Some((vip6(), MAC)));
        assert_eq!(parse_advertisement(&frame[..78]), Some((vip6(), MAC)), "no option: source");
        assert_eq!(parse_advertisement(&frame[..77]), None, "truncated");
        assert_eq!(parse_advertisement(&neighbor_probe(MAC, vip6())), None, "a solicitation");
        let mut routed = frame;
        routed[21] = 254;
        assert_eq!(parse_advertisement(&routed), None, "came over a router");
        let mut endless = frame;
        endless[79] = 0;
        assert_eq!(parse_advertisement(&endless), Some((vip6(), MAC)), "option of no length");
        assert_eq!(Arp::parse(&frame), None);
        assert_eq!(Arp::parse(&[0; 41]), None);
    }
}
