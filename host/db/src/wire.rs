//! What the two nodes say about databases over the bulk channel.
//!
//! The primary leads, the standby attends. Small messages are CBOR maps with numbered fields;
//! pages follow a fixed head as they are. The first byte names the kind. Everything that comes from
//! the peer is bounded before it is believed.

use crate::hash::is_page_size;
use crate::table::GROUP_PAGES;
use minicbor::{Decode, Encode};

/// Bytes of pages in one frame; a large transaction is many frames, so that others come between.
pub(crate) const PAGES_BYTES_MAX: usize = 256 * 1024;
/// Group sums in one frame.
pub(crate) const SUMS_MAX: usize = 32 * 1024;
/// Groups whose page hashes are asked for, or told, in one frame.
pub(crate) const GROUPS_MAX: usize = 128;
/// Databases that a node replicates, at most.
pub const DATABASES_MAX: usize = 1_024;
/// Bytes of a name, at most: a path may be one.
pub(crate) const NAME_BYTES_MAX: usize = 1_024;
/// Reigns that a lineage remembers.
pub(crate) const REIGNS_MAX: usize = 64;

/// Where in its history a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Position {
    /// The reign whose primary wrote it.
    #[n(0)]
    pub epoch: u64,
    /// Transactions since that reign began.
    #[n(1)]
    pub txid: u64,
}

impl Position {
    /// Later positions of one history compare greater.
    pub(crate) fn order(&self) -> (u64, u64) {
        (self.epoch, self.txid)
    }
}

/// A reign, and where the database was when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Reign {
    #[n(0)]
    pub epoch: u64,
    /// The last position of the reign before, as the node that began this one had it.
    #[n(1)]
    pub after: Position,
}

/// One database as the primary has it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Entry {
    /// For this connection only.
    #[n(0)]
    pub id: u32,
    /// The same on both nodes, wherever its file is.
    #[n(1)]
    pub name: String,
    #[n(2)]
    pub page_bytes: u32,
    /// Owner, group and mode of the file.
    #[n(3)]
    pub owner: (u32, u32, u32),
    /// Oldest first, the present reign last.
    #[n(4)]
    pub lineage: Vec<Reign>,
    #[n(5)]
    pub head: Position,
}

/// The standby's copy of one database.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Offer {
    #[n(0)]
    pub id: u32,
    /// Pages; 0 where there is nothing yet.
    #[n(1)]
    pub pages: u32,
    /// Sums of its groups of pages follow in this many.
    #[n(2)]
    pub groups: u32,
}

/// Small messages.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Message {
    /// Primary: the databases of this reign, or more of them.
    #[n(0)]
    Roster(#[n(0)] u64, #[n(1)] Vec<Entry>),
    /// Primary: this one is no longer replicated.
    #[n(1)]
    Gone(#[n(0)] u32),
    /// Primary: the pages of these groups differ: tell their hashes.
    #[n(2)]
    Want(#[n(0)] u32, #[n(1)] Vec<u32>),
    /// Primary: how far it is, for those who count what is missing.
    #[n(3)]
    Head(#[n(0)] u32, #[n(1)] Position),
    /// Standby: what it has.
    #[n(4)]
    Offer(#[n(0)] Offer),
    /// Standby: this much is applied.
    #[n(5)]
    Ack(#[n(0)] u32, #[n(1)] Position),
    /// Standby: cannot apply for now; offers again by itself.
    #[n(6)]
    Refuse(#[n(0)] u32, #[n(1)] String),
}

/// Kinds of frames that are not CBOR.
const KIND_MESSAGE: u8 = 0;
const KIND_SUMS: u8 = 1;
const KIND_HASHES: u8 = 2;
const KIND_PAGES: u8 = 3;

/// The head of a frame of pages. All frames of one shipment carry the same head but for the flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub id: u32,
    pub first: bool,
    pub last: bool,
    /// The shipment stands on what the standby offered, not on the shipment before.
    pub copy: bool,
    /// After it is applied.
    pub position: Position,
    /// Pages of the database then.
    pub pages: u32,
    /// Sum over all pages before and after.
    pub before: u128,
    pub after: u128,
}

/// Bytes of a head, kind included.
pub(crate) const HEAD_BYTES: usize = 1 + 4 + 1 + 8 + 8 + 4 + 16 + 16;

impl Head {
    pub(crate) fn encode(&self) -> [u8; HEAD_BYTES] {
        let flags = u8::from(self.first) | u8::from(self.last) << 1 | u8::from(self.copy) << 2;
        let mut bytes = [0; HEAD_BYTES];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        put(&[KIND_PAGES]);
        put(&self.id.to_le_bytes());
        put(&[flags]);
        put(&self.position.epoch.to_le_bytes());
        put(&self.position.txid.to_le_bytes());
        put(&self.pages.to_le_bytes());
        put(&self.before.to_le_bytes());
        put(&self.after.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEAD_BYTES]) -> Result<Head, WireError> {
        let flags = bytes[5];
        if flags > 7 {
            return Err(WireError("flags of a shipment that no version sends"));
        }
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"));
        let sum = |at: usize| u128::from_le_bytes(bytes[at..at + 16].try_into().expect("sixteen"));
        let short = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
        Ok(Head {
            id: short(1),
            first: flags & 1 != 0,
            last: flags & 2 != 0,
            copy: flags & 4 != 0,
            position: Position { epoch: long(6), txid: long(14) },
            pages: short(22),
            before: sum(26),
            after: sum(42),
        })
    }
}

/// A frame of the peer, still where the channel has it.
#[derive(Debug)]
pub(crate) enum Frame<'a> {
    Message(Message),
    /// Sums of groups of the standby's copy, from this group on.
    Sums {
        id: u32,
        first: u32,
        sums: Hashes<'a>,
    },
    /// Hashes of the pages of one group.
    Hashes {
        id: u32,
        group: u32,
        hashes: Hashes<'a>,
    },
    Pages(Head, Pages<'a>),
}

/// A frame that cannot be understood: the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame about databases that no version sends: {0}")]
pub(crate) struct WireError(pub &'static str);

/// Hashes, sixteen bytes each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hashes<'a>(&'a [u8]);

impl<'a> Hashes<'a> {
    pub(crate) fn len(&self) -> usize {
        self.0.len() / 16
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u128> + 'a {
        self.0
            .chunks_exact(16)
            .map(|bytes| u128::from_le_bytes(bytes.try_into().expect("sixteen bytes")))
    }
}

/// Numbers and images of pages, whose size the receiver knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pages<'a>(&'a [u8]);

impl<'a> Pages<'a> {
    /// The pages; an error when the bytes do not divide into such pages.
    pub(crate) fn each(
        &self,
        page_bytes: u32,
    ) -> Result<impl Iterator<Item = (u32, &'a [u8])> + use<'a>, WireError> {
        let one = 4 + page_bytes as usize;
        if !self.0.len().is_multiple_of(one) {
            return Err(WireError("pages of another size"));
        }
        Ok(self.0.chunks_exact(one).map(|page| {
            let (number, image) = page.split_at(4);
            (u32::from_le_bytes(number.try_into().expect("four bytes")), image)
        }))
    }
}

/// Bytes of a small message.
pub(crate) fn message(message: &Message) -> Vec<u8> {
    let mut bytes = vec![KIND_MESSAGE];
    minicbor::encode(message, &mut bytes).expect("writing to memory does not fail");
    bytes
}

/// Sums of groups from `first` on.
pub(crate) fn sums(id: u32, first: u32, sums: impl Iterator<Item = u128>) -> Vec<u8> {
    listed(KIND_SUMS, id, first, sums)
}

/// Hashes of the pages of a group.
pub(crate) fn hashes(id: u32, group: u32, hashes: impl Iterator<Item = u128>) -> Vec<u8> {
    listed(KIND_HASHES, id, group, hashes)
}

fn listed(kind: u8, id: u32, first: u32, list: impl Iterator<Item = u128>) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(id.to_le_bytes());
    bytes.extend(first.to_le_bytes());
    for hash in list {
        bytes.extend(hash.to_le_bytes());
    }
    bytes
}

/// Reads a frame.
///
/// # Errors
/// When no version sends such a thing.
pub(crate) fn decode(bytes: &[u8]) -> Result<Frame<'_>, WireError> {
    let (&kind, rest) = bytes.split_first().ok_or(WireError("nothing in it"))?;
    match kind {
        KIND_MESSAGE => {
            let message: Message =
                minicbor::decode(rest).map_err(|_| WireError("not CBOR as expected"))?;
            check(&message)?;
            Ok(Frame::Message(message))
        }
        KIND_SUMS | KIND_HASHES => {
            let (head, list) =
                rest.split_first_chunk::<8>().ok_or(WireError("a list without its head"))?;
            let [id, first] = [&head[..4], &head[4..]]
                .map(|four| u32::from_le_bytes(four.try_into().expect("four bytes")));
            let most = if kind == KIND_SUMS { SUMS_MAX } else { GROUP_PAGES as usize };
            if !list.len().is_multiple_of(16) || list.len() / 16 > most {
                return Err(WireError("a list of hashes of a wrong length"));
            }
            Ok(match kind {
                KIND_SUMS => Frame::Sums { id, first, sums: Hashes(list) },
                _ => Frame::Hashes { id, group: first, hashes: Hashes(list) },
            })
        }
        KIND_PAGES => {
            let (head, pages) = bytes
                .split_first_chunk::<HEAD_BYTES>()
                .ok_or(WireError("pages without their head"))?;
            Ok(Frame::Pages(Head::decode(head)?, Pages(pages)))
        }
        _ => Err(WireError("an unknown kind")),
    }
}

fn check(message: &Message) -> Result<(), WireError> {
    match message {
        Message::Roster(_, entries) => {
            if entries.len() > DATABASES_MAX {
                return Err(WireError("too many databases"));
            }
            for entry in entries {
                if !is_page_size(entry.page_bytes) {
                    return Err(WireError("a page size that SQLite does not know"));
                }
                if entry.name.len() > NAME_BYTES_MAX || entry.lineage.len() > REIGNS_MAX {
                    return Err(WireError("a name or lineage over its limit"));
                }
            }
            Ok(())
        }
        Message::Want(_, groups) if groups.len() > GROUPS_MAX => {
            Err(WireError("too many groups are asked for"))
        }
        Message::Refuse(_, text) if text.len() > NAME_BYTES_MAX * 2 => {
            Err(WireError("a reason over its limit"))
        }
        Message::Gone(_)
        | Message::Want(..)
        | Message::Head(..)
        | Message::Offer(_)
        | Message::Ack(..)
        | Message::Refuse(..) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_reads_back() {
        let head = Head {
            id: 7,
            first: true,
            last: false,
            copy: true,
            position: Position { epoch: 12, txid: 1 << 40 },
            pages: 9,
            before: 1 << 100,
            after: 3,
        };
        let mut bytes = head.encode().to_vec();
        for number in [5u32, 6] {
            bytes.extend(number.to_le_bytes());
            bytes.extend([number as u8; 512]);
        }
        let Ok(Frame::Pages(read, pages)) = decode(&bytes) else { panic!("no pages") };
        assert_eq!(read, head);
        let pages: Vec<_> = pages.each(512).unwrap().map(|(n, image)| (n, image[0])).collect();
        assert_eq!(pages, [(5, 5), (6, 6)]);
        assert!(Pages(&bytes[HEAD_BYTES..]).each(1024).is_err());
        let said = Message::Offer(Offer { id: 1, pages: 2, groups: 1 });
        let Ok(Frame::Message(read)) = decode(&message(&said)) else { panic!("no message") };
        assert_eq!(read, said);
        let told = sums(3, 4, [1, 2].into_iter());
        let Ok(Frame::Sums { id, first, sums }) = decode(&told) else { panic!("no sums") };
        assert_eq!((id, first, sums.iter().collect::<Vec<_>>()), (3, 4, vec![1, 2]));
    }

    #[test]
    fn nonsense_is_refused_and_never_panics() {
        let entry = Entry {
            id: 0,
            name: "/a".into(),
            page_bytes: 513,
            owner: (0, 0, 0),
            lineage: vec![],
            head: Position::default(),
        };
        for bad in [
            vec![],
            vec![9],
            vec![KIND_PAGES; HEAD_BYTES - 1],
            vec![KIND_HASHES, 0, 0],
            hashes(0, 0, 0..=u128::from(GROUP_PAGES)),
            message(&Message::Roster(1, vec![entry.clone()])),
            message(&Message::Roster(
                1,
                vec![Entry { page_bytes: 512, name: "x".repeat(2_000), ..entry }],
            )),
            message(&Message::Want(1, vec![0; GROUPS_MAX + 1])),
            message(&Message::Refuse(1, "x".repeat(10_000))),
        ] {
            assert!(decode(&bad).is_err(), "{:?}", &bad[..bad.len().min(20)]);
        }
        let mut random = 1u64;
        for length in 0..2_000usize {
            let bytes: Vec<u8> = (0..length % 150)
                .map(|at| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                    if at == 0 { (random >> 60) as u8 & 3 } else { (random >> 56) as u8 }
                })
                .collect();
            // Whatever it is, it is answered.
            let _ = decode(&bytes).map(|frame| match frame {
                Frame::Pages(_, pages) => pages.each(512).map(Iterator::count).unwrap_or(0),
                Frame::Sums { sums, .. } => sums.iter().count(),
                Frame::Hashes { hashes, .. } => hashes.len(),
                Frame::Message(_) => 0,
            });
        }
    }
}
