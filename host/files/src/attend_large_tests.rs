//! Large files: by parts, from a base, over lost connections.

use super::*;
use crate::dice::Dice;
use crate::digest::SEGMENT_BYTES;
use crate::wire::PART_BYTES_MAX;

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    Dice::new(seed).bytes(bytes)
}

impl Bed {
    /// Begins a large file: its number, and the hashes that the standby answers with.
    pub(super) fn begin_large(&mut self, text: &str, forecast: &[u8]) -> (u64, u64, Vec<[u8; 32]>) {
        let (entry, xattrs) = (entry(Kind::File, forecast), Xattrs::default());
        let seq = self.send(vec![Deed::Put { path: path(text), entry, xattrs, body: Body::Parts }]);
        let mut all = Vec::new();
        loop {
            self.run();
            for message in self.take() {
                let Message::Base { id: 7, seq: of, size, hashes, last } = message else {
                    panic!("{message:?}")
                };
                assert_eq!(of, seq);
                all.extend(hashes.chunks(32).map(|hash| <[u8; 32]>::try_from(hash).unwrap()));
                if last {
                    return (seq, size, all);
                }
            }
        }
    }

    fn part(&mut self, seq: u64, offset: usize, bytes: &[u8]) {
        for (at, bytes) in bytes.chunks(PART_BYTES_MAX).enumerate() {
            let offset = (offset + at * PART_BYTES_MAX) as u64;
            let length = bytes.len() as u32;
            let part = Part { id: 7, seq, offset, bytes: length, packed: at % 2 == 1 };
            let packed = zstd::bulk::compress(bytes, 1).unwrap();
            let body = if part.packed { &packed } else { bytes };
            self.attend().part(part, body).unwrap();
        }
    }

    pub(super) fn end(&mut self, seq: u64, whole: &[u8]) -> Message {
        let entry = entry(Kind::File, whole);
        self.attend().end(End { id: 7, seq, entry, xattrs: Xattrs::default() }).unwrap();
        self.run();
        let said = self.take();
        assert_eq!(said.len(), 1, "{said:?}");
        self.check();
        said[0].clone()
    }
}

#[test]
fn a_large_file_arrives_in_parts() {
    let mut bed = Bed::new();
    let whole = noise(3 * 1024 * 1024 + 77, 1);
    let (seq, size, hashes) = bed.begin_large("large", &whole);
    assert_eq!((size, hashes.len()), (0, 0));
    bed.part(seq, 0, &whole);
    // Other steps go on meanwhile.
    bed.send(vec![put("small", b"one")]);
    bed.run();
    assert_eq!(bed.take(), [Message::Ack(7, vec![seq + 1])]);
    assert!(!bed.exists("large"));
    assert_eq!(bed.end(seq, &whole), Message::Ack(7, vec![seq]));
    assert_eq!(bed.read("large"), whole);
    assert_eq!(bed.mtime("large"), MTIME);
}

#[test]
fn blocks_that_changed_are_put_into_what_was_there() {
    let mut bed = Bed::new();
    let mut whole = noise(4 * 1024 * 1024 + 5_000, 2);
    let (seq, ..) = bed.begin_large("large", &whole);
    bed.part(seq, 0, &whole);
    bed.end(seq, &whole);
    let (seq, size, hashes) = bed.begin_large("large", &whole);
    assert_eq!(size, whole.len() as u64);
    let expected: Vec<_> = whole.chunks(SEGMENT_BYTES).map(|bytes| digest::hash(bytes).0).collect();
    assert_eq!(hashes, expected);
    let last = (whole.len() / SEGMENT_BYTES) as u32;
    bed.attend().blocks(seq, vec![3, last]).unwrap();
    bed.run();
    let said = bed.take();
    let [Message::BlockHashes { segments, hashes, .. }] = &said[..] else { panic!("{said:?}") };
    assert_eq!(segments, &[3, last]);
    let third = &whole[3 * SEGMENT_BYTES..4 * SEGMENT_BYTES];
    let tail = &whole[last as usize * SEGMENT_BYTES..];
    let blocks: Vec<u8> = digest::blocks(third).chain(digest::blocks(tail)).flatten().collect();
    assert_eq!(*hashes, blocks);
    let changed = [(70_000, 4_096), (3 * 1024 * 1024, 10), (whole.len() - 3, 3)];
    for (at, length) in changed {
        whole[at..at + length].copy_from_slice(&noise(length, at as u64));
        let bytes = whole[at..at + length].to_vec();
        bed.part(seq, at, &bytes);
    }
    assert_eq!(bed.end(seq, &whole), Message::Ack(7, vec![seq]));
    assert_eq!(bed.read("large"), whole);
    // Shorter, and longer by zeros.
    whole.truncate(1024 * 1024 + 9);
    let (seq, ..) = bed.begin_large("large", &whole);
    assert_eq!(bed.end(seq, &whole), Message::Ack(7, vec![seq]));
    whole.resize(2 * 1024 * 1024 + 13, 0);
    let (seq, ..) = bed.begin_large("large", &whole);
    assert_eq!(bed.end(seq, &whole), Message::Ack(7, vec![seq]));
    assert_eq!(bed.read("large"), whole);
    assert!(bed.aside(Aside::Conflicts).is_empty());
}

#[test]
fn what_arrived_of_a_large_file_outlives_its_connection() {
    let mut bed = Bed::new();
    let whole = noise(3 * 1024 * 1024, 3);
    let (seq, ..) = bed.begin_large("large", &whole);
    bed.part(seq, 0, &whole[..2 * 1024 * 1024]);
    let (small, ..) = bed.begin_large("small", &whole);
    bed.part(small, 0, &whole[..1024]);
    bed.run();
    bed.attend().ended();
    bed.attend = None;
    bed.start(Arc::new(flush));
    bed.begin();
    bed.run();
    bed.take();
    let (seq, size, hashes) = bed.begin_large("large", &whole);
    assert_eq!((size, hashes.len()), (2 * 1024 * 1024, 32));
    assert_eq!(hashes[31], digest::hash(&whole[31 * SEGMENT_BYTES..32 * SEGMENT_BYTES]).0);
    bed.part(seq, 2 * 1024 * 1024, &whole[2 * 1024 * 1024..]);
    assert_eq!(bed.end(seq, &whole), Message::Ack(7, vec![seq]));
    assert_eq!(bed.read("large"), whole);
    assert_eq!(bed.begin_large("small", &whole).1, 0, "so little is not worth it");
}

#[test]
fn a_large_file_with_another_digest_is_refused_and_its_parts_are_gone() {
    let mut bed = Bed::new();
    let whole = noise(2 * 1024 * 1024, 4);
    bed.apply(vec![put("large", b"before")]);
    let (seq, ..) = bed.begin_large("large", &whole);
    bed.part(seq, 0, &whole[1..]);
    assert_eq!(bed.end(seq, &whole), Message::Refuse(7, seq, Refusal::Damaged));
    assert_eq!(bed.read("large"), b"before");
    assert_eq!(std::fs::read_dir(bed.root.join(".staffetta/part")).unwrap().count(), 0);
    // A part that is no zstd frame; what follows for it is forgotten.
    let (seq, ..) = bed.begin_large("large", &whole);
    let part = Part { id: 7, seq, offset: 0, bytes: 100, packed: true };
    bed.attend().part(part, b"nonsense").unwrap();
    bed.run();
    assert_eq!(bed.take(), [Message::Refuse(7, seq, Refusal::Damaged)]);
    bed.part(seq, 0, &whole);
    let entry = entry(Kind::File, &whole);
    bed.attend().end(End { id: 7, seq, entry, xattrs: Xattrs::default() }).unwrap();
    bed.run();
    assert!(bed.take().is_empty());
    assert_eq!(bed.read("large"), b"before");
}

#[test]
fn a_sparse_file_stays_sparse_and_costs_little() {
    let mut bed = Bed::new();
    let size: u64 = 100 << 30;
    let file = std::fs::File::create(bed.root.join("twin")).unwrap();
    file.set_len(size).unwrap();
    let mut reading = super::super::read::Reading::new(file, size);
    while !reading.go_on(Instant::now()).unwrap() {}
    let content = reading.digest();
    std::fs::remove_file(bed.root.join("twin")).unwrap();
    let (seq, ..) = bed.begin_large("sparse", b"");
    let entry = Entry { size, content, ..entry(Kind::File, b"") };
    bed.attend().end(End { id: 7, seq, entry, xattrs: Xattrs::default() }).unwrap();
    bed.run();
    assert_eq!(bed.take(), [Message::Ack(7, vec![seq])]);
    let meta = bed.root.join("sparse").metadata().unwrap();
    assert_eq!(meta.len(), size);
    assert!(meta.blocks() < 100);
    let (_, base, hashes) = bed.begin_large("sparse", b"");
    assert_eq!((base, hashes.len() as u64), (size, size / SEGMENT_BYTES as u64));
    let part = std::fs::read_dir(bed.root.join(".staffetta/part")).unwrap().next().unwrap();
    assert!(part.unwrap().metadata().unwrap().blocks() < 100);
}

#[test]
fn a_step_waits_for_the_large_file_at_its_path() {
    let mut bed = Bed::new();
    let whole = noise(8 * 1024 * 1024, 5);
    let (seq, ..) = bed.begin_large("large", &whole);
    bed.part(seq, 0, &whole);
    // Each of its segments must be read again.
    for at in (0..whole.len()).step_by(SEGMENT_BYTES) {
        bed.part(seq, at, &whole[at..at + 1]);
    }
    let entry = entry(Kind::File, &whole);
    bed.attend().end(End { id: 7, seq, entry, xattrs: Xattrs::default() }).unwrap();
    bed.apply_after(seq, vec![put("other", b"x"), Deed::Delete(path("large"))]);
    assert!(!bed.exists("large") && bed.exists("other"));
    // And a file that is dropped is forgotten.
    let (seq, ..) = bed.begin_large("large", &whole);
    bed.attend().drop_step(seq).unwrap();
    bed.run();
    assert!(bed.attend().larges.is_empty());
}
