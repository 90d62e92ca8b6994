//! What the two nodes say about files over the bulk channel.
//!
//! The primary leads, the standby attends. A frame's first byte names its kind; small messages and
//! steps are CBOR with numbered fields, parts of large files follow a fixed head as they are.
//! Everything that comes from the peer is bounded before it is believed.
//!
//! The primary never says "an event happened" but "this is what my tree has here": each step may be
//! repeated, and none relies on what a step of another connection did.

use crate::digest::{BLOCKS, Digest, SEGMENT_BYTES};
use crate::entry::{Entry, Kind, Sums, XATTRS_BYTES_MAX, Xattrs};
use crate::path::TreePath;
use minicbor::decode::Error as CborError;
use minicbor::{Decode, Decoder, Encode, Encoder};
use staffetta_bulk::FRAME_BYTES_MAX;

/// Trees that a pair replicates, at most.
pub const TREES_MAX: usize = 64;
/// Bytes of a tree's name, at most.
pub const TREE_NAME_BYTES_MAX: usize = 255;
/// Contents up to this size travel inside their step.
pub(crate) const INLINE_BYTES_MAX: usize = 256 * 1024;
/// Bytes of one part of a large file, before compression.
pub(crate) const PART_BYTES_MAX: usize = 256 * 1024;
/// A frame of steps is closed when it has this many bytes.
pub(crate) const STEPS_BYTES: usize = 256 * 1024;
/// Steps in one frame.
pub(crate) const STEPS_MAX: usize = 1_024;
/// Children in one frame of a listing.
pub(crate) const CHILDREN_MAX: usize = 4_096;
/// Folders whose listings, or paths that, are asked for in one frame.
pub(crate) const ASKED_MAX: usize = 64;
/// Numbers of steps in one acknowledgement.
pub(crate) const ACKS_MAX: usize = 4_096;
/// Hashes of segments in one frame of a base: 512 KiB.
pub(crate) const BASE_SEGMENTS_MAX: usize = 16 * 1024;
/// Segments whose blocks are asked for, or told, in one frame.
pub(crate) const BLOCKS_SEGMENTS_MAX: usize = 1_024;
/// Bytes of a reason.
pub(crate) const REASON_BYTES_MAX: usize = 512;

// What a step has beside its content must find room in a frame.
const _: () = assert!(INLINE_BYTES_MAX + XATTRS_BYTES_MAX + 64 * 1024 <= FRAME_BYTES_MAX);
const _: () =
    assert!(STEPS_BYTES + INLINE_BYTES_MAX + XATTRS_BYTES_MAX + 64 * 1024 <= FRAME_BYTES_MAX);
const _: () = assert!(BASE_SEGMENTS_MAX * 32 + 1024 <= FRAME_BYTES_MAX);
const _: () = assert!(BLOCKS_SEGMENTS_MAX * (BLOCKS * 16 + 8) + 1024 <= FRAME_BYTES_MAX);
const _: () = assert!(PART_BYTES_MAX.is_multiple_of(SEGMENT_BYTES));

/// A tree as the primary has it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Entered {
    /// For this connection only.
    #[n(0)]
    pub id: u32,
    /// The same on both nodes, wherever the tree is.
    #[n(1)]
    pub name: String,
    /// What the root marker says: the same on both nodes from the first contact on.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub tree: [u8; 16],
    /// Digest of the patterns that are left out: both nodes must leave out the same.
    #[n(3)]
    pub ignores: Digest,
}

/// One child in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Child {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub name: Vec<u8>,
    #[n(1)]
    pub kind: Kind,
    /// [`Entry::sum`], all below it included.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub sum: [u8; 16],
    /// [`Entry::content`].
    #[n(3)]
    pub content: Digest,
}

/// Small messages.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Message {
    /// Primary: all trees of this reign; again when they change.
    #[n(0)]
    Roster(#[n(0)] u64, #[n(1)] Vec<Entered>),
    /// Primary: tell what is in these folders.
    #[n(1)]
    List(#[n(0)] u32, #[n(1)] Vec<TreePath>),
    /// Primary: tell the hashes of the blocks of these segments of the base of this step.
    #[n(2)]
    Blocks(#[n(0)] u32, #[n(1)] u64, #[n(2)] Vec<u32>),
    /// Primary: all steps before this one said what there was to say, and these are the sums of its
    /// tree. Answered by `Ack` of the step's number, or by a new `Offer`.
    #[n(3)]
    Head(#[n(0)] u32, #[n(1)] u64, #[n(2)] Sums),
    /// Primary: what was begun with this number will not be ended; forget its parts.
    #[n(4)]
    Drop(#[n(0)] u32, #[n(1)] u64),
    /// Standby: the sums of its tree. Begins a comparison.
    #[n(5)]
    Offer(#[n(0)] u32, #[n(1)] Sums),
    /// Standby: what is in a folder, more to come unless `last`; no children and `last` where there
    /// is no such folder.
    #[n(6)]
    Listing {
        #[n(0)]
        id: u32,
        #[n(1)]
        dir: TreePath,
        #[n(2)]
        children: Vec<Child>,
        #[n(3)]
        last: bool,
    },
    /// Standby: what these steps said is on its disk, durably.
    #[n(7)]
    Ack(#[n(0)] u32, #[n(1)] Vec<u64>),
    /// Standby: could not do this step.
    #[n(8)]
    Refuse(#[n(0)] u32, #[n(1)] u64, #[n(2)] Refusal),
    /// Standby: it differs here from what it had been given: say again what there is.
    #[n(9)]
    Again(#[n(0)] u32, #[n(1)] Vec<TreePath>),
    /// Standby: for a `Put` with `Body::Parts`: hashes (32 bytes each) of the segments of what it
    /// has already and can begin from, more to come unless `last`; none and `last` when it has
    /// nothing. The last hash may be of a shorter segment; `size` is the size of the whole base.
    #[n(10)]
    Base {
        #[n(0)]
        id: u32,
        #[n(1)]
        seq: u64,
        #[n(2)]
        size: u64,
        #[cbor(n(3), with = "minicbor::bytes")]
        hashes: Vec<u8>,
        #[n(4)]
        last: bool,
    },
    /// Standby: hashes of blocks (16 bytes each), for the segments of a `Blocks` in their order.
    #[n(11)]
    BlockHashes {
        #[n(0)]
        id: u32,
        #[n(1)]
        seq: u64,
        #[n(2)]
        segments: Vec<u32>,
        #[cbor(n(3), with = "minicbor::bytes")]
        hashes: Vec<u8>,
    },
    /// Standby: it takes no steps for this tree now, and why; offers when it does again.
    #[n(12)]
    Closed(#[n(0)] u32, #[n(1)] String),
}

/// Why the standby could not do a step.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Refusal {
    /// What the step stands on is not there: send it whole.
    #[n(0)]
    Missing,
    /// What arrived has another digest than the step says: send it again.
    #[n(1)]
    Damaged,
    /// The disk, or the system, refused; the primary tries again later.
    #[n(2)]
    Failed(#[n(0)] String),
}

/// A number, unique in its connection and rising, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Step<'a> {
    #[n(0)]
    pub seq: u64,
    #[cbor(b(1))]
    pub deed: Deed<'a>,
}

/// What a step does. Folders come before what is in them.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Deed<'a> {
    /// Make the path this, whatever was there.
    #[n(0)]
    Put {
        #[n(0)]
        path: TreePath,
        #[n(1)]
        entry: Entry,
        #[n(2)]
        xattrs: Xattrs,
        #[cbor(b(3))]
        body: Body<'a>,
    },
    /// These bytes follow what is there from this offset on; then the path is `entry`.
    #[n(1)]
    Append {
        #[n(0)]
        path: TreePath,
        #[n(1)]
        entry: Entry,
        #[n(2)]
        offset: u64,
        #[cbor(b(3), with = "minicbor::bytes")]
        bytes: &'a [u8],
    },
    /// What has this sum at `from` (`Entry::sum`, all below it included, under the name that it has
    /// there) is at `to` from now on; what was at `to` is not.
    #[n(2)]
    Rename {
        #[n(0)]
        from: TreePath,
        #[n(1)]
        to: TreePath,
        #[cbor(n(2), with = "minicbor::bytes")]
        sum: [u8; 16],
    },
    /// Nothing is at the path any more, nor below it.
    #[n(3)]
    Delete(#[n(0)] TreePath),
}

/// Where the content of a `Put` comes from.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Body<'a> {
    /// A folder has none.
    #[n(0)]
    Nothing,
    /// The standby has the content at this path; only owner, mode, times or attributes differ.
    #[n(1)]
    Kept,
    /// The whole content, or a symlink's target.
    #[n(2)]
    Bytes(#[cbor(b(0), with = "minicbor::bytes")] &'a [u8]),
    /// The whole content compressed by zstd (RFC 8878), and its bytes when it is not.
    #[n(3)]
    Packed(#[n(0)] u32, #[cbor(b(1), with = "minicbor::bytes")] &'a [u8]),
    /// The file or symlink at this path gets this name, too.
    #[n(4)]
    Link(#[n(0)] TreePath),
    /// Parts follow, then an `End`; the `entry` of the step is a forecast. The standby answers
    /// with a `Base`; what no part brings is taken from it.
    #[n(5)]
    Parts,
}

/// The head of a part of a large file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub id: u32,
    /// The step that said `Body::Parts`.
    pub seq: u64,
    pub offset: u64,
    /// Bytes when not compressed.
    pub bytes: u32,
    pub packed: bool,
}

/// All parts are said: what the file is now.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct End {
    #[n(0)]
    pub id: u32,
    #[n(1)]
    pub seq: u64,
    #[n(2)]
    pub entry: Entry,
    #[n(3)]
    pub xattrs: Xattrs,
}

const KIND_MESSAGE: u8 = 0;
const KIND_STEPS: u8 = 1;
const KIND_PART: u8 = 2;
const KIND_END: u8 = 3;

/// Bytes of the head of a part, kind included.
pub(crate) const PART_HEAD_BYTES: usize = 1 + 4 + 8 + 8 + 4 + 1;

impl Part {
    pub(crate) fn encode(&self) -> [u8; PART_HEAD_BYTES] {
        let mut bytes = [0; PART_HEAD_BYTES];
        bytes[0] = KIND_PART;
        bytes[1..5].copy_from_slice(&self.id.to_le_bytes());
        bytes[5..13].copy_from_slice(&self.seq.to_le_bytes());
        bytes[13..21].copy_from_slice(&self.offset.to_le_bytes());
        bytes[21..25].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[25] = u8::from(self.packed);
        bytes
    }
}

/// A frame of the peer, still where the channel has it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    Message(Message),
    Steps(u32, Vec<Step<'a>>),
    Part(Part, &'a [u8]),
    End(End),
}

/// What no version of this software sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WireError(String);

impl WireError {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl From<CborError> for WireError {
    fn from(error: CborError) -> Self {
        Self(error.to_string())
    }
}

/// A small message as the body of a frame.
pub(crate) fn message(message: &Message) -> Vec<u8> {
    let mut bytes = vec![KIND_MESSAGE];
    encode(&mut bytes, message);
    bytes
}

/// The end of a large file as the body of a frame.
pub(crate) fn end(end: &End) -> Vec<u8> {
    let mut bytes = vec![KIND_END];
    encode(&mut bytes, end);
    bytes
}

/// Collects steps until they are a frame.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    bytes: Vec<u8>,
    count: usize,
}

impl Steps {
    /// Adds a step for the tree of this number; all of one frame are for the same.
    pub(crate) fn push(&mut self, id: u32, step: &Step<'_>) {
        if self.bytes.is_empty() {
            self.bytes.push(KIND_STEPS);
            self.bytes.extend_from_slice(&id.to_le_bytes());
        }
        encode(&mut self.bytes, step);
        self.count += 1;
    }

    /// No other step fits.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= STEPS_BYTES || self.count == STEPS_MAX
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The body of the frame; begins the next one.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.count = 0;
        std::mem::take(&mut self.bytes)
    }
}

fn encode(bytes: &mut Vec<u8>, what: &impl Encode<()>) {
    let Ok(()) = Encoder::new(bytes).encode(what).map(|_| ()) else {
        unreachable!("a vector takes everything")
    };
}

/// Reads a frame of the peer.
///
/// # Errors
/// When it breaks a limit, or is nothing that this version knows.
pub(crate) fn frame(bytes: &[u8]) -> Result<Frame<'_>, WireError> {
    let (kind, rest) = bytes.split_first().ok_or_else(|| WireError::new("an empty frame"))?;
    match *kind {
        KIND_MESSAGE => {
            let mut decoder = Decoder::new(rest);
            let message: Message = decoder.decode()?;
            check_message(&message)?;
            Ok(Frame::Message(message))
        }
        KIND_STEPS => steps(rest),
        KIND_PART => part(bytes),
        KIND_END => {
            let end: End = Decoder::new(rest).decode()?;
            check_xattrs(&end.xattrs)?;
            Ok(Frame::End(end))
        }
        other => Err(WireError::new(format!("a frame of kind {other}"))),
    }
}

fn steps(rest: &[u8]) -> Result<Frame<'_>, WireError> {
    let (id, rest) = rest.split_first_chunk().ok_or_else(|| WireError::new("no tree's number"))?;
    let mut decoder = Decoder::new(rest);
    let mut steps = Vec::new();
    while decoder.position() < rest.len() {
        if steps.len() == STEPS_MAX {
            return Err(WireError::new("more steps than a frame may have"));
        }
        let step: Step<'_> = decoder.decode()?;
        check_deed(&step.deed)?;
        steps.push(step);
    }
    Ok(Frame::Steps(u32::from_le_bytes(*id), steps))
}

fn part(bytes: &[u8]) -> Result<Frame<'_>, WireError> {
    let Some((head, body)) = bytes.split_at_checked(PART_HEAD_BYTES) else {
        return Err(WireError::new("a part without its head"));
    };
    let long = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight"));
    let short = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four"));
    let packed = match head[25] {
        0 => false,
        1 => true,
        _ => return Err(WireError::new("flags of a part that no version sends")),
    };
    let part = Part { id: short(1), seq: long(5), offset: long(13), bytes: short(21), packed };
    let length = part.bytes as usize;
    if length > PART_BYTES_MAX || length == 0 || (!packed && length != body.len()) {
        return Err(WireError::new("a part of another length than its head says"));
    }
    if i64::try_from(part.offset).ok().and_then(|at| at.checked_add(length as i64)).is_none() {
        return Err(WireError::new("a part beyond the end of any file"));
    }
    Ok(Frame::Part(part, body))
}

fn check_deed(deed: &Deed<'_>) -> Result<(), WireError> {
    match deed {
        Deed::Put { path, entry, xattrs, body } => {
            check_xattrs(xattrs)?;
            check_entry(entry)?;
            let fits = match (entry.kind, body) {
                (_, Body::Kept) => true,
                (Kind::Dir, Body::Nothing) => entry.size == 0,
                (Kind::File, Body::Parts | Body::Link(_)) | (Kind::Symlink, Body::Link(_)) => true,
                (Kind::Symlink, Body::Bytes(bytes)) => {
                    bytes.len() as u64 == entry.size && !bytes.is_empty() && !bytes.contains(&0)
                }
                (Kind::File, Body::Bytes(bytes)) => bytes.len() as u64 == entry.size,
                (Kind::File, Body::Packed(length, _)) => {
                    u64::from(*length) == entry.size && *length as usize <= INLINE_BYTES_MAX
                }
                (Kind::Dir, Body::Bytes(_) | Body::Packed(..) | Body::Link(_) | Body::Parts)
                | (Kind::File, Body::Nothing)
                | (Kind::Symlink, Body::Nothing | Body::Packed(..) | Body::Parts) => false,
            };
            let root = path.is_root() && entry.kind != Kind::Dir;
            if !fits || root || matches!(body, Body::Bytes(bytes) if bytes.len() > INLINE_BYTES_MAX)
            {
                return Err(WireError::new(format!(
                    "{path}: a content that does not fit its kind"
                )));
            }
        }
        Deed::Append { path, entry, offset, bytes } => {
            check_entry(entry)?;
            let end = offset.checked_add(bytes.len() as u64);
            if entry.kind != Kind::File || end != Some(entry.size) || bytes.is_empty() {
                return Err(WireError::new(format!("{path}: an addition that is none")));
            }
        }
        Deed::Rename { from, to, .. } => {
            if from.is_root() || to.is_within(from) || from.is_within(to) {
                return Err(WireError::new(format!("{from}: cannot become {to}")));
            }
        }
        Deed::Delete(path) => {
            if path.is_root() {
                return Err(WireError::new("the root of a tree is never deleted"));
            }
        }
    }
    Ok(())
}

fn check_entry(entry: &Entry) -> Result<(), WireError> {
    if entry.mode & !0o7777 != 0 || entry.size > i64::MAX as u64 {
        return Err(WireError::new("a mode or a size that no file has"));
    }
    Ok(())
}

fn check_xattrs(xattrs: &Xattrs) -> Result<(), WireError> {
    let plain = |name: &Vec<u8>| !name.is_empty() && name.len() <= 255 && !name.contains(&0);
    if xattrs.bytes() > XATTRS_BYTES_MAX || !xattrs.0.iter().all(|xattr| plain(&xattr.name)) {
        return Err(WireError::new("extended attributes that no file has"));
    }
    Ok(())
}

fn check_message(message: &Message) -> Result<(), WireError> {
    let fits = match message {
        Message::Roster(_, trees) => {
            trees.len() <= TREES_MAX
                && trees.iter().all(|tree| tree.name.len() <= TREE_NAME_BYTES_MAX)
        }
        Message::List(_, dirs) => dirs.len() <= ASKED_MAX,
        Message::Again(_, paths) => paths.len() <= ASKED_MAX,
        Message::Blocks(_, _, segments) => segments.len() <= BLOCKS_SEGMENTS_MAX,
        Message::Listing { children, .. } => {
            let named = |child: &Child| crate::path::check_name(&child.name).is_ok();
            children.len() <= CHILDREN_MAX && children.iter().all(named)
        }
        Message::Ack(_, numbers) => numbers.len() <= ACKS_MAX,
        Message::Refuse(_, _, Refusal::Failed(why)) | Message::Closed(_, why) => {
            why.len() <= REASON_BYTES_MAX
        }
        Message::Base { hashes, .. } => {
            hashes.len().is_multiple_of(32) && hashes.len() <= BASE_SEGMENTS_MAX * 32
        }
        Message::BlockHashes { segments, hashes, .. } => {
            segments.len() <= BLOCKS_SEGMENTS_MAX && hashes.len().is_multiple_of(16)
        }
        Message::Head(..)
        | Message::Drop(..)
        | Message::Offer(..)
        | Message::Refuse(_, _, Refusal::Missing | Refusal::Damaged) => true,
    };
    if fits { Ok(()) } else { Err(WireError::new("a message that breaks its limits")) }
}

/// Cuts a reason to what may travel.
pub(crate) fn reason(why: &str) -> String {
    let end = why.floor_char_boundary(REASON_BYTES_MAX);
    why[..end].to_owned()
}

impl<C> Encode<C> for TreePath {
    fn encode<W: minicbor::encode::Write>(
        &self,
        encoder: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        encoder.bytes(self.as_bytes()).map(|_| ())
    }
}

impl<'b, C> Decode<'b, C> for TreePath {
    fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, CborError> {
        let at = decoder.position();
        let bytes = decoder.bytes()?;
        Self::parse(bytes).map_err(|error| CborError::message(error).at(at))
    }
}
