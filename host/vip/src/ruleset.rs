//! The drop rules and the lease sets, as prepared nf_tables batches.
//!
//! Two tables of the same name: `inet` (input, output, neighbor discovery) and `arp` (output).
//! Every rule reads: *address in the set of service addresses and not in the set of leases: drop*.
//! The whole ruleset is replaced in one transaction; no moment exists in which it is half there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions, Hook,
    HookNumber, Immediate, InetHookNumber, ListAttribute, Lookup, Meta, MetaKey, NfTablesMessage,
    Operator, Payload, Register, RuleAttribute, RuleMessage, SetAttribute, SetElementAttribute,
    SetElementList, SetElementMessage, SetFlags, SetMessage, TableAttribute, TableMessage, Verdict,
    VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};

use crate::netlink::Template;

/// Before connection tracking (-200) and before NAT and mangle rewrite addresses.
const PRIORITY: i32 = -300;
const ARP_OUTPUT: u32 = 1;
const DROP: u32 = 0;
const SUBSYSTEM: u16 = 10;
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const ICMPV6: u8 = 58;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// A set of the ruleset: its family, name and elements.
struct AddressSet<'a> {
    family: NetfilterProtoFamily,
    name: &'static str,
    lease: &'static str,
    kind: u32,
    elements: &'a [Vec<u8>],
}

/// Prepared transactions for one list of service addresses.
pub(crate) struct Ruleset {
    /// Replaces everything, no lease.
    pub(crate) install: Vec<u8>,
    /// Replaces everything, with a lease of the filled-in milliseconds (big-endian).
    pub(crate) install_leased: Template<8>,
    /// Grants the lease, whatever was there.
    pub(crate) claim: Template<8>,
    /// Extends a lease that is still there; `ENOENT` otherwise.
    pub(crate) renew: Template<8>,
    /// Empties the lease sets; succeeds when they are empty.
    pub(crate) release: Vec<u8>,
    /// Removes the tables; succeeds when there are none.
    pub(crate) remove: Vec<u8>,
}

impl Ruleset {
    pub(crate) fn new(table: &str, vips: &[IpAddr]) -> Self {
        let v4: Vec<Vec<u8>> =
            vips.iter().filter_map(|ip| v4_of(*ip)).map(|ip| ip.octets().to_vec()).collect();
        let v6: Vec<Vec<u8>> =
            vips.iter().filter_map(|ip| v6_of(*ip)).map(|ip| ip.octets().to_vec()).collect();
        let sets = sets(&v4, &v6);
        let lease = |batch: &mut Batch<'_>, millis: u64| {
            sets.iter().for_each(|set| batch.elements(set, set.lease, Some(millis), Change::New));
        };
        let install = |millis: Option<u64>| {
            let mut batch = Batch::new(table);
            install(&mut batch, &sets);
            if let Some(millis) = millis {
                lease(&mut batch, millis);
            }
            batch.finish()
        };
        Self {
            install: install(None),
            install_leased: Template::new(|set| install(Some(extreme(set)))),
            claim: Template::new(|set| {
                let mut batch = Batch::new(table);
                sets.iter().for_each(|s| batch.flush(s.family, s.lease));
                lease(&mut batch, extreme(set));
                batch.finish()
            }),
            renew: Template::new(|set| {
                let mut batch = Batch::new(table);
                let gone = Change::Delete;
                sets.iter().for_each(|s| batch.elements(s, s.lease, None, gone));
                lease(&mut batch, extreme(set));
                batch.finish()
            }),
            release: {
                let mut batch = Batch::new(table);
                sets.iter().for_each(|s| batch.flush(s.family, s.lease));
                batch.finish()
            },
            remove: {
                let mut batch = Batch::new(table);
                for family in FAMILIES {
                    batch.table(family, Change::New);
                    batch.table(family, Change::Delete);
                }
                batch.finish()
            },
        }
    }
}

const FAMILIES: [NetfilterProtoFamily; 2] = [NetfilterProtoFamily::Inet, NetfilterProtoFamily::ARP];

fn extreme(set: bool) -> u64 {
    if set { u64::MAX } else { 0 }
}

fn v4_of(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

fn v6_of(ip: IpAddr) -> Option<Ipv6Addr> {
    match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => Some(ip),
    }
}

/// The sets that have elements: a site without IPv6 pays nothing for it.
fn sets<'a>(v4: &'a [Vec<u8>], v6: &'a [Vec<u8>]) -> Vec<AddressSet<'a>> {
    let inet = NetfilterProtoFamily::Inet;
    let mut sets = Vec::new();
    if !v4.is_empty() {
        let (name, lease, kind) = ("vip4", "lease4", TYPE_IPV4);
        sets.push(AddressSet { family: inet, name, lease, kind, elements: v4 });
        let family = NetfilterProtoFamily::ARP;
        sets.push(AddressSet { family, name, lease, kind, elements: v4 });
    }
    if !v6.is_empty() {
        let (name, lease, kind) = ("vip6", "lease6", TYPE_IPV6);
        sets.push(AddressSet { family: inet, name, lease, kind, elements: v6 });
    }
    sets
}

fn install(batch: &mut Batch<'_>, sets: &[AddressSet<'_>]) {
    let inet = NetfilterProtoFamily::Inet;
    let arp = NetfilterProtoFamily::ARP;
    for family in FAMILIES {
        // Create, delete, create: replaces a table whether or not it is there.
        batch.table(family, Change::New);
        batch.table(family, Change::Delete);
        batch.table(family, Change::New);
    }
    for (index, set) in (1..).zip(sets) {
        batch.set(set, set.name, 2 * index, SetFlags::empty());
        batch.set(set, set.lease, 2 * index + 1, SetFlags::Timeout);
        batch.elements(set, set.name, None, Change::New);
    }
    batch.chain(inet, "input", InetHookNumber::LocalIn.into());
    batch.chain(inet, "output", InetHookNumber::LocalOut.into());
    batch.chain(arp, "output", HookNumber::Other(ARP_OUTPUT));
    for set in sets {
        match (set.family, set.kind) {
            (NetfilterProtoFamily::ARP, _) => {
                // The sender's address, of requests as well as of replies.
                batch.rule(arp, "output", vec![load(NETWORK_HEADER, 14, 4)], set);
            }
            (_, TYPE_IPV4) => {
                batch.rule(inet, "input", v4_rule(16), set);
                batch.rule(inet, "output", v4_rule(12), set);
            }
            (_, _) => {
                batch.rule(inet, "input", v6_rule(24), set);
                batch.rule(inet, "output", v6_rule(8), set);
                batch.rule(inet, "input", nd_rule(135), set);
                batch.rule(inet, "output", nd_rule(136), set);
            }
        }
    }
}

fn v4_rule(offset: u32) -> Vec<Expressions> {
    let mut rule = meta_is(MetaKey::Nfproto, NFPROTO_IPV4);
    rule.push(load(NETWORK_HEADER, offset, 4));
    rule
}

fn v6_rule(offset: u32) -> Vec<Expressions> {
    let mut rule = meta_is(MetaKey::Nfproto, NFPROTO_IPV6);
    rule.push(load(NETWORK_HEADER, offset, 16));
    rule
}

/// Target field of a neighbor solicitation (135) or advertisement (136).
fn nd_rule(kind: u8) -> Vec<Expressions> {
    let mut rule = meta_is(MetaKey::Nfproto, NFPROTO_IPV6);
    rule.extend(meta_is(MetaKey::L4Proto, ICMPV6));
    rule.push(load(TRANSPORT_HEADER, 0, 1));
    rule.push(is(kind));
    rule.push(load(TRANSPORT_HEADER, 8, 16));
    rule
}

fn meta_is(key: MetaKey, value: u8) -> Vec<Expressions> {
    let load = vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)];
    vec![Expressions::Meta(load), is(value)]
}

fn is(value: u8) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(Operator::Equal),
        Cmp::Data(DataAttribute::Value(vec![value])),
    ])
}

fn load(base: u32, offset: u32, bytes: u32) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(bytes),
    ])
}

fn lookup(set: &str, inverted: bool) -> Expressions {
    Expressions::Lookup(vec![
        Lookup::Set(set.into()),
        Lookup::SourceRegister(Register::Reg1),
        Lookup::Flags(u32::from(inverted)),
    ])
}

#[derive(Clone, Copy)]
enum Change {
    New,
    Delete,
}

/// One transaction under construction.
struct Batch<'a> {
    table: &'a str,
    messages: Vec<NetlinkMessage<NetfilterMessage>>,
}

impl<'a> Batch<'a> {
    fn new(table: &'a str) -> Self {
        let mut batch = Self { table, messages: Vec::new() };
        batch.control(ControlMessage::BatchBegin);
        batch
    }

    fn control(&mut self, message: ControlMessage) {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM);
        self.push(header, message, 0);
    }

    fn add(&mut self, family: NetfilterProtoFamily, message: NfTablesMessage, flags: u16) {
        self.push(NetfilterHeader::new(family, 0, 0), message, flags);
    }

    fn push(
        &mut self,
        header: NetfilterHeader,
        inner: impl Into<NetfilterMessageInner>,
        flags: u16,
    ) {
        let mut message = NetlinkMessage::from(NetfilterMessage::new(header, inner));
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.messages.len() as u32;
        self.messages.push(message);
    }

    /// Closes the batch. The acknowledgment of the last change is the one that is asked for: it
    /// is sent after the commit, refusals come unasked.
    fn finish(mut self) -> Vec<u8> {
        let last = self.messages.last_mut().expect("a batch has a beginning");
        last.header.flags |= NLM_F_ACK;
        self.control(ControlMessage::BatchEnd);
        let mut bytes = Vec::new();
        for message in &mut self.messages {
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..start + message.buffer_len()]);
        }
        bytes
    }

    fn table(&mut self, family: NetfilterProtoFamily, change: Change) {
        let message = TableMessage { attributes: vec![TableAttribute::Name(self.table.into())] };
        match change {
            Change::New => self.add(family, NfTablesMessage::NewTable(message), NLM_F_CREATE),
            Change::Delete => self.add(family, NfTablesMessage::DeleteTable(message), 0),
        }
    }

    fn set(&mut self, set: &AddressSet<'_>, name: &str, id: u32, flags: SetFlags) {
        let message = SetMessage {
            attributes: vec![
                SetAttribute::Table(self.table.into()),
                SetAttribute::Name(name.into()),
                SetAttribute::Flags(flags),
                SetAttribute::KeyType(set.kind),
                SetAttribute::KeyLen(set.elements[0].len() as u32),
                SetAttribute::Id(id),
            ],
        };
        self.add(set.family, NfTablesMessage::NewSet(message), NLM_F_CREATE);
    }

    fn elements(
        &mut self,
        set: &AddressSet<'_>,
        name: &str,
        timeout_ms: Option<u64>,
        change: Change,
    ) {
        let element = |key: &Vec<u8>| {
            let mut element = vec![SetElementAttribute::Key(DataAttribute::Value(key.clone()))];
            element.extend(timeout_ms.map(SetElementAttribute::Timeout));
            ListAttribute::Element(element)
        };
        let message = SetElementMessage {
            attributes: vec![
                SetElementList::Table(self.table.into()),
                SetElementList::Set(name.into()),
                SetElementList::Elements(set.elements.iter().map(element).collect()),
            ],
        };
        match change {
            Change::New => {
                self.add(set.family, NfTablesMessage::NewSetElement(message), NLM_F_CREATE);
            }
            Change::Delete => self.add(set.family, NfTablesMessage::DeleteSetElement(message), 0),
        }
    }

    /// Empties a set: a deletion that names no element.
    fn flush(&mut self, family: NetfilterProtoFamily, name: &str) {
        let message = SetElementMessage {
            attributes: vec![
                SetElementList::Table(self.table.into()),
                SetElementList::Set(name.into()),
            ],
        };
        self.add(family, NfTablesMessage::DeleteSetElement(message), 0);
    }

    fn chain(&mut self, family: NetfilterProtoFamily, name: &str, hook: HookNumber) {
        let message = ChainMessage {
            attributes: vec![
                ChainAttribute::Table(self.table.into()),
                ChainAttribute::Name(name.into()),
                ChainAttribute::Type("filter".into()),
                ChainAttribute::Hook(vec![
                    Hook::Number(hook),
                    Hook::Priority(PRIORITY.cast_unsigned()),
                ]),
            ],
        };
        self.add(family, NfTablesMessage::NewChain(message), NLM_F_CREATE);
    }

    /// `expressions` load an address; drop it when it is ours without a lease.
    fn rule(
        &mut self,
        family: NetfilterProtoFamily,
        chain: &str,
        mut expressions: Vec<Expressions>,
        set: &AddressSet<'_>,
    ) {
        expressions.push(lookup(set.name, false));
        expressions.push(lookup(set.lease, true));
        expressions.push(Expressions::Immediate(vec![
            Immediate::DestinationRegister(Register::Verdict),
            Immediate::Data(DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(
                DROP,
            ))])),
        ]));
        let list: Vec<ListAttribute<ExpressionAttribute>> =
            expressions.into_iter().map(Into::into).collect();
        let message = RuleMessage {
            attributes: vec![
                RuleAttribute::Table(self.table.into()),
                RuleAttribute::Chain(chain.into()),
                RuleAttribute::Expressions(list),
            ],
        };
        self.add(family, NfTablesMessage::NewRule(message), NLM_F_CREATE | NLM_F_APPEND);
    }
}

/// Does this nf_tables notification name `table`? It is called with what others did; whatever
/// they did to our table is reason enough to put it back.
pub(crate) fn names_table(kind: u16, payload: &[u8], table: &str) -> bool {
    const FAMILY_BYTES: usize = 4;
    const TABLE_ATTRIBUTE: u16 = 1;
    const NEW_GENERATION: u8 = 15;
    const OF_INTEREST: [u8; 2] = [1, 3];
    let [low, high] = kind.to_le_bytes();
    if u16::from(high) != SUBSYSTEM || low == NEW_GENERATION {
        return false;
    }
    let Some((&family, _)) = payload.split_first() else { return false };
    if !OF_INTEREST.contains(&family) {
        return false;
    }
    // The table's name is attribute 1 of tables, chains, rules, sets and elements alike.
    crate::netlink::attributes(payload.get(FAMILY_BYTES..).unwrap_or(&[]))
        .find(|(kind, _)| *kind == TABLE_ATTRIBUTE)
        .is_some_and(|(_, name)| name.strip_suffix(&[0]).unwrap_or(name) == table.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_aligned_and_fit_a_socket_buffer() {
        let vips: Vec<IpAddr> = (0..16u8)
            .map(|i| match i % 2 {
                0 => IpAddr::from([10, 0, 0, i]),
                _ => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(i)]),
            })
            .collect();
        let mut ruleset = Ruleset::new("staffetta", &vips);
        for batch in [&ruleset.install, &ruleset.release, &ruleset.remove] {
            assert_eq!(batch.len() % 4, 0);
        }
        assert!(ruleset.install_leased.fill([0; 8]).len() < 64 * 1024);
        let (zero, one) =
            (ruleset.renew.fill([0; 8]).to_vec(), ruleset.renew.fill([1; 8]).to_vec());
        let changed = zero.iter().zip(&one).filter(|(a, b)| a != b).count();
        assert_eq!(changed, 8 * (8 + 8 + 8), "a timeout per address in inet 4, inet 6 and arp");
    }

    #[test]
    fn only_our_table_is_recognized() {
        let notification = |family: u8, name: &str| {
            let mut payload = vec![family, 0, 0, 0];
            payload.extend((name.len() as u16 + 5).to_ne_bytes());
            payload.extend(1u16.to_ne_bytes());
            payload.extend(name.as_bytes());
            payload.push(0);
            payload
        };
        let deleted_table = 0x0a02;
        assert!(names_table(deleted_table, &notification(1, "staffetta"), "staffetta"));
        assert!(names_table(deleted_table, &notification(3, "staffetta"), "staffetta"));
        assert!(!names_table(deleted_table, &notification(1, "staffetta-b"), "staffetta"));
        assert!(!names_table(deleted_table, &notification(2, "staffetta"), "staffetta"), "ip");
        assert!(!names_table(0x0a0f, &notification(1, "staffetta"), "staffetta"), "generation");
        assert!(!names_table(0x0102, &notification(1, "staffetta"), "staffetta"), "conntrack");
        assert!(!names_table(deleted_table, &[], "staffetta"));
    }
}
