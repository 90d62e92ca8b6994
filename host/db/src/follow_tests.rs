//! Each line that keeps the trail has a case here that fails without it.

use super::*;
use crate::hash::page_hash;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

/// A database with an application in it, and a follower with the copy that it makes.
struct Pair {
    copy: BTreeMap<u32, u128>,
    changes: Changes,
    follower: Follower,
    application: Connection,
    _folder: tempfile::TempDir,
}

fn application(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("an application");
    connection.busy_timeout(Duration::ZERO).expect("a timeout");
    connection.execute_batch("PRAGMA wal_autocheckpoint=0").expect("an application");
    connection
}

impl Pair {
    fn new(guard: Guard) -> Pair {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("app.db");
        let first = "PRAGMA journal_mode=WAL; CREATE TABLE t(a INTEGER PRIMARY KEY, b)";
        let app = application(&path);
        app.execute_batch(first).expect("a table");
        let attached = Rc::new(Attached::open(&path).expect("attached"));
        let follower = Follower::start_as(attached, guard, false).expect("a follower");
        let changes = Changes::new(1 << 30);
        let copy = BTreeMap::new();
        let mut pair = Pair { copy, changes, follower, application: app, _folder: folder };
        pair.resync();
        pair
    }

    fn resync(&mut self) {
        let (snapshot, _) = self.follower.snapshot(&mut self.changes).expect("a snapshot");
        self.copy = table(&snapshot);
        self.changes.clear();
    }

    fn write(&self, text: &str) {
        let order = "INSERT INTO t(b) VALUES(?1)";
        self.application.execute(order, [text.repeat(9000)]).expect("a row");
    }

    /// Whether the checkpoint could not finish.
    fn checkpoint(&self, mode: &str) -> bool {
        let order = format!("PRAGMA wal_checkpoint({mode})");
        self.application.query_row(&order, [], |row| row.get(0)).expect("a checkpoint")
    }

    fn drain(&mut self) -> Drained {
        let drained = self.follower.drain(&mut self.changes, 1000).expect("drained");
        for (number, image) in self.changes.pages() {
            self.copy.insert(number, page_hash(number, image.expect("an image")));
        }
        if !self.changes.is_empty() {
            let total = self.changes.pages_total();
            self.copy.retain(|number, _| *number <= total);
        }
        self.changes.clear();
        drained
    }

    /// What an application sees.
    fn is_same(&mut self) -> bool {
        let mut pages = self
            .application
            .prepare("SELECT pgno, data FROM sqlite_dbpage WHERE data IS NOT NULL")
            .expect("pages");
        let truth = pages.query_map([], |row| {
            let number: u32 = row.get(0)?;
            Ok((number, page_hash(number, row.get_ref(1)?.as_blob()?)))
        });
        let truth: Result<BTreeMap<_, _>, _> = truth.expect("pages").collect();
        truth.expect("pages") == self.copy
    }

    /// Everything captured and in the database, the pin given up.
    fn bridge(&mut self) {
        self.drain();
        self.checkpoint("PASSIVE");
        if self.follower.hold != Hold::Bridge {
            assert!(self.follower.unpin().expect("unpinned"));
        }
    }

    /// Changes the header of the WAL-index, with its own checksum right.
    fn forge(&self, change: impl Fn(&mut [u32; 12])) {
        let shm = self.follower.attached.shm();
        let mut bytes = [0; 48];
        shm.read_exact_at(&mut bytes, 0).expect("a header");
        let mut words = [0; 12];
        for (word, four) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes(four.try_into().expect("four bytes"));
        }
        change(&mut words);
        let mut sum = [0u32; 2];
        for pair in words[..10].chunks_exact(2) {
            sum[0] = sum[0].wrapping_add(pair[0]).wrapping_add(sum[1]);
            sum[1] = sum[1].wrapping_add(pair[1]).wrapping_add(sum[0]);
        }
        words[10..].copy_from_slice(&sum);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        shm.write_all_at(&bytes, 48).expect("a header");
        shm.write_all_at(&bytes, 0).expect("a header");
    }
}

fn table(snapshot: &Snapshot) -> BTreeMap<u32, u128> {
    let mut table = BTreeMap::new();
    snapshot
        .for_each(1..u32::MAX, |number, page| {
            table.insert(number, page_hash(number, page));
            ControlFlow::Continue(())
        })
        .expect("pages");
    table
}

#[test]
fn frames_are_pinned_before_the_bridge_is_given_up() {
    let mut pair = Pair::new(Guard::PinAndBridge);
    pair.bridge();
    pair.write("a");
    assert_eq!(pair.drain(), Drained::Some);
    assert!(matches!(pair.follower.hold, Hold::Pin(_)));
    pair.write("b");
    assert!(pair.checkpoint("TRUNCATE"), "the pin must keep the WAL");
    pair.write("c");
    assert_eq!(pair.drain(), Drained::Some);
    assert!(pair.is_same());
}

#[test]
fn a_generation_that_a_frozen_daemon_did_not_see_waits_for_it_on_the_bridge() {
    for (guard, kept) in [(Guard::PinAndBridge, true), (Guard::PinOnly, false)] {
        let mut pair = Pair::new(guard);
        pair.write("a");
        pair.bridge();
        // Frozen from here.
        pair.write("b");
        assert_eq!(pair.checkpoint("TRUNCATE"), kept, "{guard:?}");
        pair.write("c");
        pair.write("d");
        // On from here.
        assert_eq!(pair.drain(), Drained::Some);
        assert_eq!(pair.is_same(), kept, "{guard:?}");
    }
}

#[test]
fn the_pin_stays_while_frames_are_not_captured_or_not_in_the_database() {
    let mut pair = Pair::new(Guard::PinAndBridge);
    pair.write("a");
    pair.drain();
    assert!(!pair.follower.unpin().expect("tried"), "not in the database");
    assert!(!pair.checkpoint("FULL"), "the bridge must not stay either");
    pair.write("b");
    pair.checkpoint("PASSIVE");
    assert!(!pair.follower.unpin().expect("tried"), "not captured");
    pair.write("c");
    assert_eq!(pair.drain(), Drained::Some);
    assert!(pair.is_same());
    pair.checkpoint("PASSIVE");
    assert!(pair.follower.unpin().expect("unpinned"));
    // The next writer begins anew, once or, when it writes nothing, as often as it likes.
    assert!(!pair.checkpoint("TRUNCATE"));
    assert!(!pair.checkpoint("TRUNCATE"));
    assert_eq!(pair.drain(), Drained::Nothing);
    pair.write("d");
    assert_eq!(pair.drain(), Drained::Some);
    assert!(pair.is_same());
}

#[test]
fn what_cannot_follow_is_a_lost_trail_with_its_reason() {
    let check = |expected: LostTrail, harm: &dyn Fn(&Pair)| {
        let mut pair = Pair::new(Guard::PinAndBridge);
        pair.write("a");
        assert_eq!(pair.drain(), Drained::Some);
        pair.write("b");
        harm(&pair);
        assert_eq!(pair.drain(), Drained::Lost(expected));
        assert_eq!(pair.drain(), Drained::Lost(expected), "until the trail begins anew");
        assert_eq!(pair.follower.counters().lost, 1);
        assert!(pair.changes.is_empty());
    };
    let wal = |pair: &Pair| {
        let path = crate::attach::beside(pair.follower.attached.path(), "-wal");
        File::options().write(true).open(path).expect("the WAL")
    };
    check(LostTrail::End, &|pair| pair.forge(|words| words[6] ^= 1));
    check(LostTrail::Generation, &|pair| pair.forge(|words| words[8] ^= 1));
    check(LostTrail::Generation, &|pair| pair.forge(|words| words[4] = 0));
    check(LostTrail::Shorter, &|pair| pair.forge(|words| words[4] = 1));
    check(LostTrail::Short, &|pair| pair.forge(|words| words[4] += 1));
    check(LostTrail::PageSize, &|pair| pair.forge(|words| words[3] ^= 0x3000 << 16));
    check(LostTrail::Checksum, &|pair| {
        let end = pair.follower.attached.wal().metadata().expect("found").len();
        wal(pair).write_all_at(b"other", end - 50).expect("written");
    });
    check(LostTrail::Short, &|pair| {
        let end = pair.follower.attached.wal().metadata().expect("found").len();
        wal(pair).set_len(end - 1).expect("cut");
    });
}

#[test]
fn an_index_that_ends_amid_a_transaction_is_a_lost_trail() {
    let mut pair = Pair::new(Guard::PinAndBridge);
    pair.write("a");
    pair.drain();
    let many = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<99)
                INSERT INTO t(b) SELECT hex(zeroblob(500)) FROM n";
    pair.application.execute_batch(many).expect("rows");
    pair.forge(|words| words[4] -= 1);
    assert_eq!(pair.drain(), Drained::Lost(LostTrail::Amid));
}

#[test]
fn a_lost_trail_begins_anew_at_a_snapshot() {
    let mut pair = Pair::new(Guard::PinAndBridge);
    pair.write("a");
    pair.drain();
    let forged = pair.follower.trail;
    pair.follower.trail.salt[0] ^= 1;
    assert_eq!(pair.drain(), Drained::Lost(LostTrail::Generation));
    pair.write("b");
    let (snapshot, gapless) = pair.follower.snapshot(&mut pair.changes).expect("a snapshot");
    assert!(!gapless && pair.changes.is_empty());
    assert_ne!(pair.follower.trail, forged);
    pair.copy = table(&snapshot);
    drop(snapshot);
    assert!(pair.is_same());
    pair.write("c");
    assert_eq!(pair.drain(), Drained::Some);
    assert!(pair.is_same());
}

#[test]
fn a_long_transaction_comes_in_pieces_and_shows_whole() {
    let mut pair = Pair::new(Guard::PinAndBridge);
    let many = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<999)
                INSERT INTO t(b) SELECT hex(zeroblob(500)) FROM n";
    pair.application.execute_batch(many).expect("rows");
    let mut pieces = 0;
    while pair.follower.drain(&mut pair.changes, 50).expect("drained") == Drained::More {
        assert!(pair.changes.is_empty(), "a part of a transaction was shown");
        pieces += 1;
    }
    assert!(pieces > 3, "{pieces} pieces");
    assert_eq!(pair.changes.transactions(), 1);
    pair.drain();
    let (snapshot, gapless) = pair.follower.snapshot(&mut pair.changes).expect("a snapshot");
    assert!(gapless);
    assert_eq!(table(&snapshot).len(), snapshot.pages_total() as usize);
}

#[test]
fn uncommitted_frames_are_never_shown() {
    let mut pair = Pair::new(Guard::PinAndBridge);
    pair.write("a");
    pair.drain();
    let spill = "PRAGMA cache_size=5; BEGIN;
                WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<999)
                INSERT INTO t(b) SELECT hex(zeroblob(500)) FROM n";
    for end in ["ROLLBACK", "COMMIT"] {
        let before = pair.follower.wal_bytes();
        pair.application.execute_batch(spill).expect("rows");
        assert!(end == "COMMIT" || pair.follower.wal_bytes() > before, "nothing was spilled");
        assert_eq!(pair.drain(), Drained::Nothing);
        pair.application.execute_batch(end).expect("ended");
        let expected = if end == "COMMIT" { Drained::Some } else { Drained::Nothing };
        assert_eq!(pair.drain(), expected);
        assert!(pair.is_same());
    }
}

#[test]
fn held_writers_wait_and_a_checkpoint_does_not() {
    let mut pair = Pair::new(Guard::PinAndBridge);
    pair.write("a");
    pair.drain();
    assert!(pair.follower.hold_writers(Duration::from_millis(100)).expect("held"));
    let insert = "INSERT INTO t(b) VALUES('late')";
    assert!(pair.application.execute_batch(insert).is_err(), "a writer got through");
    let (frames, moved) = crate::checkpoint::passive(pair.follower.attached.keeper()).expect("ran");
    assert!(frames > 0 && frames == moved, "{moved} of {frames}");
    assert!(pair.follower.unpin().expect("unpinned"));
    pair.follower.release_writers().expect("released");
    pair.application.execute_batch(insert).expect("a row");
    assert_eq!(pair.drain(), Drained::Some);
    assert!(pair.is_same());
    pair.application.execute_batch("BEGIN IMMEDIATE").expect("begun");
    assert!(!pair.follower.hold_writers(Duration::from_millis(5)).expect("tried"));
}

#[test]
fn a_trail_may_begin_under_the_fence() {
    let pair = Pair::new(Guard::PinAndBridge);
    let attached = pair.follower.attached.clone();
    let Pair { application, follower, _folder, .. } = pair;
    drop(follower);
    assert!(lock::set(attached.shm(), LockByte::WRITE, Mode::Exclusive).expect("the fence"));
    let mut follower = Follower::start_fenced(attached).expect("a follower");
    let mut changes = Changes::new(1 << 20);
    follower.tend(Instant::now() + Duration::from_secs(5), &mut changes).expect("tended");
    let (_, gapless) = follower.snapshot(&mut changes).expect("a snapshot");
    assert!(gapless && follower.writers_held());
    let insert = "INSERT INTO t(b) VALUES('first')";
    assert!(application.execute_batch(insert).is_err(), "the fence must stay");
    follower.release_writers().expect("opened");
    application.execute_batch(insert).expect("a row");
    assert_eq!(follower.drain(&mut changes, 100).expect("drained"), Drained::Some);
}

#[test]
fn readers_on_every_slot_leave_the_bridge() {
    let mut pair = Pair::new(Guard::PinAndBridge);
    pair.bridge();
    let path = pair.follower.attached.path().to_owned();
    let mut readers = Vec::new();
    for text in ["a", "b", "c", "d", "e", "f"] {
        pair.write(text);
        let reader = application(&path);
        reader.execute_batch("BEGIN; SELECT count(*) FROM t").expect("reads");
        readers.push(reader);
    }
    assert_eq!(pair.drain(), Drained::Some);
    assert_eq!(pair.follower.hold, Hold::Bridge);
    assert!(pair.is_same());
    drop(readers);
    pair.write("g");
    assert_eq!(pair.drain(), Drained::Some);
    assert!(matches!(pair.follower.hold, Hold::Pin(_)));
    assert!(pair.is_same());
    assert!(!pair.checkpoint("FULL"), "a mark of a former reader must not stand on the pin");
}

#[test]
fn tending_leaves_writers_held_and_so_does_an_end_under_the_fence() {
    let mut pair = Pair::new(Guard::PinAndBridge);
    while pair.follower.trail.frame < crate::CHECKPOINT_FRAMES {
        pair.write("a");
        pair.drain();
    }
    // A reader before the end: a checkpoint leaves a few frames.
    let reader = application(pair.follower.attached.path());
    reader.execute_batch("BEGIN; SELECT count(*) FROM t").expect("reads");
    pair.write("b");
    pair.drain();
    assert!(pair.follower.hold_writers(Duration::from_millis(100)).expect("held"));
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        pair.follower.tend(Instant::now(), &mut pair.changes).expect("tended");
    }
    assert!(pair.follower.counters().checkpoints > 0 && pair.follower.writers_held());
    let insert = "INSERT INTO t(b) VALUES('late')";
    assert!(pair.application.execute_batch(insert).is_err(), "tending opened the fence");
    let Pair { application, follower, _folder, .. } = pair;
    let attached = follower.stop_fenced();
    assert!(application.execute_batch(insert).is_err(), "the end opened the fence");
    drop(Follower::start_fenced(attached.clone()).expect("a follower"));
    application.execute_batch(insert).expect("an end that opens it");
    assert!(!attached.replaced());
}
