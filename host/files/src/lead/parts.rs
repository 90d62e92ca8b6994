//! The parts of a large file on their way: what the standby has already is not sent.

use crate::digest::{self, BLOCK_BYTES, Digest, SEGMENT_BYTES, Segments};
use crate::wire::{BLOCKS_SEGMENTS_MAX, PART_BYTES_MAX};
use std::collections::VecDeque;

/// Hashes that are kept of a base: of files up to 128 GiB.
const BASE_HASHES_MAX: usize = 2 * 1024 * 1024;
/// Smaller bases are not worth asking for their blocks.
const BLOCKS_FROM_BYTES: u64 = 1024 * 1024;
/// Segments whose blocks are asked for together, and questions that are not answered.
const ASK_SEGMENTS: usize = 256;
const QUESTIONS_MAX: usize = 4;
/// Contents are tried with so many bytes, and must shrink by this share.
const SAMPLE_BYTES: usize = 4 * 1024;
const SHRINK_PERCENT: usize = 10;
const LEVEL: i32 = 1;
/// Less is not worth the try.
const PACK_FROM_BYTES: usize = 128;

const _: () = assert!(ASK_SEGMENTS <= BLOCKS_SEGMENTS_MAX);

/// Compresses what pays.
#[derive(Default)]
pub(super) struct Packer(Option<zstd::bulk::Compressor<'static>>);

impl Packer {
    /// The content compressed, if it is smaller then.
    pub(super) fn pack(&mut self, content: &[u8], wanted: bool) -> Option<Vec<u8>> {
        if !wanted || !self.pays(content) {
            return None;
        }
        self.compress(content).filter(|packed| packed.len() < content.len())
    }

    /// Whether a content that begins with this shrinks.
    pub(super) fn pays(&mut self, content: &[u8]) -> bool {
        let sample = &content[..content.len().min(SAMPLE_BYTES)];
        content.len() >= PACK_FROM_BYTES
            && self
                .compress(sample)
                .is_some_and(|packed| packed.len() * 100 <= sample.len() * (100 - SHRINK_PERCENT))
    }

    pub(super) fn compress(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.0.is_none() {
            self.0 = zstd::bulk::Compressor::new(LEVEL).ok();
        }
        self.0.as_mut()?.compress(bytes).ok()
    }
}

/// What the standby said that it has of a file.
#[derive(Default)]
pub(super) struct Base {
    size: u64,
    hashes: Vec<Digest>,
    /// It has said something; it has said everything.
    is_begun: bool,
    is_whole: bool,
}

/// What the standby has in place of a segment.
enum Had {
    /// Not told yet.
    Unknown,
    /// It has nothing there, and what is not sent is zeros.
    Nothing,
    /// This; none when there are too many to know.
    Something(Option<Digest>),
}

impl Base {
    /// One frame of it.
    pub(super) fn hear(&mut self, size: u64, hashes: &[u8], last: bool) -> Result<(), String> {
        if self.is_whole || (self.is_begun && self.size != size) {
            return Err("the base of a file, twice".to_owned());
        }
        let (hashes, _) = hashes.as_chunks::<32>();
        let most = size.div_ceil(SEGMENT_BYTES as u64).min(BASE_HASHES_MAX as u64) as usize;
        self.is_begun = true;
        self.is_whole = last;
        self.size = size;
        let room = most - self.hashes.len().min(most);
        self.hashes.extend(hashes.iter().take(room).map(|hash| Digest(*hash)));
        Ok(())
    }

    fn had(&self, segment: u64) -> Had {
        let is_within = segment.saturating_mul(SEGMENT_BYTES as u64) < self.size;
        match self.hashes.get(segment as usize) {
            Some(hash) => Had::Something(Some(*hash)),
            None if self.is_begun && !is_within => Had::Nothing,
            None if self.is_whole => Had::Something(None),
            None => Had::Unknown,
        }
    }

    /// Blocks of a segment of it.
    fn blocks(&self, segment: u32) -> usize {
        let begin = u64::from(segment) * SEGMENT_BYTES as u64;
        let bytes = self.size.saturating_sub(begin).min(SEGMENT_BYTES as u64);
        (bytes as usize).div_ceil(BLOCK_BYTES)
    }
}

/// A file that is sent in parts.
pub(super) struct Parts {
    pub seq: u64,
    /// Nothing is sent before it is known what is there.
    pub waits: bool,
    pub packs: bool,
    pub base: Base,
    /// Bytes of the file, as it is sent.
    size: u64,
    /// Of each segment, as it was sent last; empty unless blocks can be asked for.
    hashes: Vec<Digest>,
    /// The part under way.
    pub part: Vec<u8>,
    pub part_at: u64,
    differing: Vec<u32>,
    asked: VecDeque<Vec<u32>>,
    answered: VecDeque<(u32, Vec<[u8; 16]>)>,
}

/// What to do with a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The standby has it.
    Skip,
    /// It goes as it is.
    Send,
    /// Its blocks are asked for.
    Ask,
}

impl Parts {
    pub(super) fn new(seq: u64, size: u64, waits: bool, packs: bool) -> Self {
        Self {
            seq,
            waits,
            packs,
            base: Base::default(),
            size,
            hashes: Vec::new(),
            part: Vec::new(),
            part_at: 0,
            differing: Vec::new(),
            asked: VecDeque::new(),
            answered: VecDeque::new(),
        }
    }

    /// Whether the next segment has to wait for what the standby has there, or for its blocks.
    pub(super) fn must_wait(&self, segment: u64) -> bool {
        let is_crowded = self.asked.len() >= QUESTIONS_MAX && self.differing.len() >= ASK_SEGMENTS;
        is_crowded || (self.waits && matches!(self.base.had(segment), Had::Unknown))
    }

    /// What becomes of the next segment; `is_hole`: all zeros, and nothing on the disk.
    pub(super) fn judge(&mut self, segment: u64, hash: Digest, is_hole: bool) -> Fate {
        if !self.waits {
            return Fate::Send;
        }
        let blocks = self.has_blocks();
        if blocks {
            self.hashes.push(hash);
        }
        match self.base.had(segment) {
            Had::Something(Some(had)) if had == hash => Fate::Skip,
            Had::Something(Some(_)) if blocks => Fate::Ask,
            Had::Nothing if is_hole => Fate::Skip,
            Had::Something(_) | Had::Nothing | Had::Unknown => Fate::Send,
        }
    }

    fn has_blocks(&self) -> bool {
        self.base.size > BLOCKS_FROM_BYTES
            && self.size.div_ceil(SEGMENT_BYTES as u64) <= BASE_HASHES_MAX as u64
    }

    /// Whether these bytes continue the part under way.
    pub(super) fn continues(&self, at: u64, bytes: usize) -> bool {
        self.part.is_empty()
            || (self.part_at + self.part.len() as u64 == at
                && self.part.len() + bytes <= PART_BYTES_MAX)
    }

    pub(super) fn put(&mut self, at: u64, bytes: Option<&[u8]>, count: usize) {
        if self.part.is_empty() {
            self.part_at = at;
        }
        match bytes {
            Some(bytes) => self.part.extend_from_slice(bytes),
            None => self.part.resize(self.part.len() + count, 0),
        }
    }

    pub(super) fn ask_for(&mut self, segment: u64) {
        self.differing.push(segment as u32);
    }

    /// The next question, when there is enough to ask for, or nothing more will come.
    pub(super) fn question(&mut self, is_last: bool) -> Option<Vec<u32>> {
        let is_due =
            self.differing.len() >= ASK_SEGMENTS || (is_last && !self.differing.is_empty());
        if !is_due || self.asked.len() >= QUESTIONS_MAX {
            return None;
        }
        let count = self.differing.len().min(ASK_SEGMENTS);
        let segments: Vec<u32> = self.differing.drain(..count).collect();
        self.asked.push_back(segments.clone());
        Some(segments)
    }

    pub(super) fn hear_blocks(&mut self, segments: &[u32], hashes: &[u8]) -> Result<(), String> {
        let asked = self.asked.pop_front().filter(|asked| asked == segments);
        let (mut hashes, _) = hashes.as_chunks::<16>();
        let count: usize = segments.iter().map(|segment| self.base.blocks(*segment)).sum();
        if asked.is_none() || count != hashes.len() {
            return Err("hashes of blocks that nobody asked for".to_owned());
        }
        for segment in segments {
            let (mine, rest) = hashes.split_at(self.base.blocks(*segment));
            self.answered.push_back((*segment, mine.to_vec()));
            hashes = rest;
        }
        Ok(())
    }

    pub(super) fn answer(&mut self) -> Option<(u32, Vec<[u8; 16]>)> {
        self.answered.pop_front()
    }

    /// Nothing is asked for, or to be.
    pub(super) fn is_answered(&self) -> bool {
        self.differing.is_empty() && self.asked.is_empty() && self.answered.is_empty()
    }

    /// The segment was read again, and is sent as it is now. True when it is what it was.
    pub(super) fn read_again(&mut self, segment: u32, hash: Digest) -> bool {
        let Some(old) = self.hashes.get_mut(segment as usize) else { return false };
        std::mem::replace(old, hash) == hash
    }

    /// The digest of all that was sent; none unless segments were read twice.
    pub(super) fn digest(&self) -> Option<Digest> {
        if self.hashes.is_empty() {
            return None;
        }
        let mut segments = Segments::default();
        self.hashes.iter().for_each(|hash| segments.push(*hash));
        Some(segments.digest())
    }
}

/// Ranges of a segment whose blocks differ from these.
pub(super) fn differing(segment: &[u8], theirs: &[[u8; 16]]) -> Vec<std::ops::Range<usize>> {
    let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
    for (n, mine) in digest::blocks(segment).enumerate() {
        if theirs.get(n) == Some(&mine) {
            continue;
        }
        let begin = n * BLOCK_BYTES;
        let end = (begin + BLOCK_BYTES).min(segment.len());
        match ranges.last_mut() {
            Some(last) if last.end == begin => last.end = end,
            Some(_) | None => ranges.push(begin..end),
        }
    }
    ranges
}
