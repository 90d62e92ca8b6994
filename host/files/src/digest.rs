//! Digests of contents: BLAKE3, in segments, so that a file that grew or changed in places need not
//! be read whole to know the digest of the whole.
//!
//! The digest of up to one segment is its BLAKE3 hash. The digest of a longer file is BLAKE3, in
//! its key derivation mode, over the hashes of its segments in their order.

use minicbor::{Decode, Encode};

/// Bytes of a segment; the last one of a file may be shorter.
pub(crate) const SEGMENT_BYTES: usize = 64 * 1024;
/// Bytes of a block, the unit in which differing segments are compared; the last may be shorter.
pub(crate) const BLOCK_BYTES: usize = 4 * 1024;
/// Blocks of a whole segment.
pub(crate) const BLOCKS: usize = SEGMENT_BYTES / BLOCK_BYTES;

/// Separates lists of hashes from contents.
const CONTEXT: &str = "staffetta files 2026-11-23 segments of a file";

/// 256 bits of BLAKE3.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
#[cbor(transparent)]
pub(crate) struct Digest(#[cbor(with = "minicbor::bytes")] pub [u8; 32]);

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The hash of one segment, or of anything that is not a file.
pub(crate) fn hash(bytes: &[u8]) -> Digest {
    Digest(*blake3::hash(bytes).as_bytes())
}

/// The hashes of a segment's blocks, half of each: they only choose what to send.
pub(crate) fn blocks(segment: &[u8]) -> impl Iterator<Item = [u8; 16]> {
    segment.chunks(BLOCK_BYTES).map(|block| {
        let whole = hash(block).0;
        whole[..16].try_into().expect("half of it")
    })
}

/// Makes the digest of a file of the hashes of its segments.
#[derive(Clone)]
pub(crate) struct Segments {
    first: Option<Digest>,
    count: u64,
    outer: blake3::Hasher,
}

impl Default for Segments {
    fn default() -> Self {
        let outer = blake3::Hasher::new_derive_key(CONTEXT);
        Self { first: None, count: 0, outer }
    }
}

impl Segments {
    /// The hash of the next segment.
    pub(crate) fn push(&mut self, segment: Digest) {
        self.first.get_or_insert(segment);
        self.count += 1;
        self.outer.update(&segment.0);
    }

    /// Segments so far.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The digest of the file.
    pub(crate) fn digest(&self) -> Digest {
        match (self.count, self.first) {
            (0, _) | (_, None) => hash(&[]),
            (1, Some(only)) => only,
            _ => Digest(*self.outer.finalize().as_bytes()),
        }
    }
}

/// The digest of a content that is in memory.
pub(crate) fn content(bytes: &[u8]) -> Digest {
    let mut segments = Segments::default();
    bytes.chunks(SEGMENT_BYTES).for_each(|segment| segments.push(hash(segment)));
    segments.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_contents_are_plain_blake3_and_long_ones_are_not() {
        assert_eq!(content(b""), hash(b""));
        assert_eq!(content(b"a"), hash(b"a"));
        let two = [7; SEGMENT_BYTES + 1];
        assert_ne!(content(&two), hash(&two));
        let hashes = [hash(&two[..SEGMENT_BYTES]).0, hash(&two[SEGMENT_BYTES..]).0].concat();
        assert_ne!(content(&two), content(&hashes), "a list of hashes is no content");
    }
}
