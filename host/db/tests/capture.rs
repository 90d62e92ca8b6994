//! Hostile writers: what was captured is the database, page by page.

mod hostile;

use hostile::{Followed, Lab, seconds};
use staffetta_db::{Changes, Drained, Follower, Guard, LostTrail, lock_page, page_hash};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

#[test]
fn one_writer_of_everything() {
    let lab = Lab::new();
    let mut followed = Followed::start(lab.attach(), Guard::PinAndBridge);
    let mut writer = lab.python("writer.py", &[&seconds(6).to_string(), "1"]);
    followed.follow_while(|| writer.is_running());
    println!("{}", writer.end());
    println!("{:?} wal {} frames", followed.follower.counters(), followed.wal_frames_max);
    followed.model.assert_same(&lab);
    assert_eq!(followed.lost, []);
    assert!(followed.model.transactions > 50, "{} transactions", followed.model.transactions);
}

#[test]
fn two_writers_and_a_storm_of_checkpoints() {
    let lab = Lab::new();
    let mut followed = Followed::start(lab.attach(), Guard::PinAndBridge);
    let time = seconds(6).to_string();
    let mut writers = [
        lab.python("writer.py", &[&time, "2", "switch", "big=3000"]),
        lab.python("writer.py", &[&time, "3", "switch", "big=3000"]),
        lab.python("storm.py", &[&time]),
    ];
    followed.follow_while(|| writers.iter_mut().any(|writer| writer.is_running()));
    for writer in writers {
        println!("{}", writer.end());
    }
    println!("{:?} wal {} frames", followed.follower.counters(), followed.wal_frames_max);
    followed.model.assert_same(&lab);
    assert_eq!(followed.lost, []);
}

#[test]
fn the_wal_stays_small_under_load() {
    let lab = Lab::new();
    let mut followed = Followed::start(lab.attach(), Guard::PinAndBridge);
    let mut writer = lab.python("flood.py", &[&seconds(4).to_string(), "1"]);
    followed.follow_while(|| writer.is_running());
    println!("{}", writer.end());
    println!("{:?} wal {} frames", followed.follower.counters(), followed.wal_frames_max);
    followed.model.assert_same(&lab);
    assert!(followed.wal_frames_max < 4 * 800, "{} frames", followed.wal_frames_max);
}

#[test]
fn a_snapshot_is_the_trail_and_comes_quickly_under_load() {
    let lab = Lab::new();
    let mut followed = Followed::start(lab.attach(), Guard::PinAndBridge);
    let mut writer = lab.python("flood.py", &[&seconds(4).to_string(), "1"]);
    let mut slowest = Duration::ZERO;
    let mut taken = 0;
    while writer.is_running() {
        let until = Instant::now() + Duration::from_millis(50);
        followed.follow_while(|| Instant::now() < until);
        let began = Instant::now();
        let (snapshot, gapless) =
            followed.follower.snapshot(&mut followed.changes).expect("a snapshot");
        slowest = slowest.max(began.elapsed());
        assert!(gapless);
        followed.model.apply(&mut followed.changes);
        // While writers and checkpoints go on.
        std::thread::sleep(Duration::from_millis(20));
        let mut pages = 0;
        snapshot
            .for_each(1..u32::MAX, |number, page| {
                let mine = page_hash(number, &followed.model.pages[&number]);
                assert_eq!(page_hash(number, page), mine, "page {number}");
                pages += 1;
                ControlFlow::Continue(())
            })
            .expect("pages");
        assert_eq!(pages, followed.model.total);
        assert_eq!(snapshot.pages_total(), followed.model.total);
        taken += 1;
    }
    println!("{} {taken} snapshots, slowest {slowest:?}", writer.end());
    println!("{:?}", followed.follower.counters());
    assert!(taken > 10, "{taken} snapshots");
    followed.turn();
    followed.model.assert_same(&lab);
}

#[test]
fn pages_of_every_size() {
    for shift in 9..=16 {
        let page_bytes = 1 << shift;
        let lab = Lab::with(&format!("PRAGMA page_size={page_bytes}; PRAGMA auto_vacuum=1"));
        let mut followed = Followed::start(lab.attach(), Guard::PinAndBridge);
        let app = lab.application();
        app.execute_batch("PRAGMA wal_autocheckpoint=20; CREATE TABLE t(a, b)").expect("a table");
        for round in 0..20 {
            let many = format!(
                "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<99)
                 INSERT INTO t SELECT i, randomblob(i * 9) FROM n;
                 DELETE FROM t WHERE a % 7 = {}",
                round % 7
            );
            app.execute_batch(&many).expect("rows");
            followed.turn();
        }
        // Shrinks far below pages that were captured, in one shipment.
        app.execute_batch("UPDATE t SET b = randomblob(900); DELETE FROM t WHERE a > 3; VACUUM")
            .expect("shrunk");
        followed.follow_while(|| false);
        assert_eq!(followed.follower.attached().page_bytes(), page_bytes);
        followed.model.assert_same(&lab);
        assert_eq!(followed.lost, []);
    }
}

#[test]
fn an_application_may_truncate_though_the_wal_is_pinned() {
    let lab = Lab::new();
    let mut followed = Followed::start(lab.attach(), Guard::PinAndBridge);
    let database = lab.database.clone();
    let app = std::thread::spawn(move || {
        let app = rusqlite::Connection::open(database).expect("a connection");
        app.execute_batch("PRAGMA wal_autocheckpoint=0").expect("set");
        app.busy_timeout(Duration::from_secs(2)).expect("a timeout");
        for round in 0..30 {
            app.execute("INSERT INTO first VALUES(?1)", [round]).expect("a row");
            std::thread::sleep(Duration::from_millis(5));
            let order = "PRAGMA wal_checkpoint(TRUNCATE)";
            let busy: bool = app.query_row(order, [], |row| row.get(0)).expect("a checkpoint");
            assert!(!busy, "round {round}");
        }
    });
    followed.follow_while(|| !app.is_finished());
    app.join().expect("the application is content");
    followed.model.assert_same(&lab);
    assert_eq!(followed.lost, []);
}

#[test]
fn writers_that_are_killed_leave_nothing_half_done() {
    let lab = Lab::new();
    let mut followed = Followed::start(lab.attach(), Guard::PinAndBridge);
    for seed in 0..seconds(5) {
        let writer = lab.python("writer.py", &["60", &seed.to_string(), "big=3000"]);
        followed.follow_for(Duration::from_millis(700 + seed * 37 % 300));
        drop(writer);
        followed.follow_while(|| false);
        followed.model.assert_same(&lab);
    }
    assert_eq!(followed.lost, []);
}

#[test]
fn a_replaced_database_is_a_lost_trail_and_must_be_attached_anew() {
    let lab = Lab::new();
    let mut followed = Followed::start(lab.attach(), Guard::PinAndBridge);
    let other = Lab::with("PRAGMA page_size=8192");
    std::fs::rename(&other.database, &lab.database).expect("replaced");
    let later = Instant::now() + Duration::from_secs(2);
    let tended = followed.follower.tend(later, &mut followed.changes).expect("tended");
    assert_eq!(tended, Drained::Lost(LostTrail::Replaced));
    let error = followed.follower.restart().expect_err("another database");
    assert!(error.to_string().contains("attach it anew"), "{error}");
    drop(followed);
    let mut followed = Followed::start(lab.attach(), Guard::PinAndBridge);
    assert_eq!(followed.follower.attached().page_bytes(), 8192);
    followed.turn();
    followed.model.assert_same(&lab);
}

#[test]
fn another_page_size_is_refused_by_sqlite_while_the_database_is_followed() {
    let lab = Lab::new();
    let mut followed = Followed::start(lab.attach(), Guard::PinAndBridge);
    let app = lab.application();
    app.busy_timeout(Duration::from_millis(50)).expect("a timeout");
    let order = "PRAGMA journal_mode=DELETE";
    let mode: Result<String, _> = app.query_row(order, [], |row| row.get(0));
    assert!(mode.is_err(), "it left WAL mode: {mode:?}");
    app.execute_batch("PRAGMA page_size=8192; VACUUM; INSERT INTO first VALUES(2)").expect("ran");
    followed.follow_while(|| false);
    followed.model.assert_same(&lab);
    assert_eq!(followed.lost, []);
}

#[test]
fn forgotten_images_come_from_a_snapshot() {
    let lab = Lab::new();
    let mut followed = Followed::start(lab.attach(), Guard::PinAndBridge);
    followed.changes = Changes::new(64 << 10);
    let app = lab.application();
    for _ in 0..5 {
        app.execute_batch(
            "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<999)
             INSERT INTO first SELECT randomblob(900) FROM n",
        )
        .expect("rows");
        assert_eq!(
            followed.follower.drain(&mut followed.changes, 9999).expect("ok"),
            Drained::Some
        );
        assert!(followed.changes.bytes() <= 64 << 10);
    }
    assert!(!followed.changes.is_complete());
    let (snapshot, gapless) = followed.follower.snapshot(&mut followed.changes).expect("taken");
    assert!(gapless);
    let mut page = Vec::new();
    for (number, image) in followed.changes.pages() {
        assert!(snapshot.page(number, &mut page).expect("read"));
        assert!(image.is_none_or(|image| image == page), "page {number}");
        followed.model.pages.insert(number, page.clone());
    }
    followed.model.total = snapshot.pages_total();
    followed.model.assert_same(&lab);
}

#[test]
fn a_quiet_database_gives_its_large_wal_back() {
    let lab = Lab::new();
    let mut followed = Followed::start(lab.attach(), Guard::PinAndBridge);
    let app = lab.application();
    app.execute_batch(
        "PRAGMA wal_autocheckpoint=0;
         WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<18000)
         INSERT INTO first SELECT randomblob(4000) FROM n",
    )
    .expect("rows");
    followed.turn();
    assert!(followed.follower.wal_bytes() > 64 << 20);
    let until = Instant::now() + Duration::from_secs(10);
    let mut longest = Duration::ZERO;
    while followed.follower.wal_bytes() > 0 {
        assert!(Instant::now() < until, "{:?}", followed.follower.counters());
        let began = Instant::now();
        followed.turn();
        longest = longest.max(began.elapsed());
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("longest turn {longest:?}");
    app.execute_batch("INSERT INTO first VALUES('after')").expect("a row");
    followed.follow_while(|| false);
    followed.model.assert_same(&lab);
    assert_eq!(followed.lost, []);
}

/// The page at 1 GiB holds no content, whoever asks.
#[test]
fn the_page_by_which_sqlite_locks_is_left_out() {
    const PAGE_BYTES: u32 = 65536;
    let lab = Lab::with("PRAGMA page_size=65536");
    let empty = lock_page(PAGE_BYTES);
    // A sparse file whose header says that it ends just before that page.
    let file = std::fs::File::options().write(true).open(&lab.database).expect("the file");
    file.set_len(u64::from(empty - 1) * u64::from(PAGE_BYTES)).expect("longer");
    file.write_all_at(&(empty - 1).to_be_bytes(), 28).expect("the header");
    drop(file);
    let mut followed = Follower::start(lab.attach()).expect("a follower");
    let mut changes = Changes::new(1 << 30);
    let app = lab.application();
    app.execute_batch(
        "CREATE TABLE t(a);
         WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<300)
         INSERT INTO t SELECT randomblob(2000) FROM n",
    )
    .expect("rows");
    assert_eq!(followed.drain(&mut changes, 9999).expect("drained"), Drained::Some);
    let (snapshot, _) = followed.snapshot(&mut changes).expect("a snapshot");
    assert!(snapshot.pages_total() > empty + 5, "{} pages", snapshot.pages_total());
    assert!(changes.pages().all(|(number, _)| number != empty));
    assert_eq!(changes.pages_total(), snapshot.pages_total());
    let mut seen = Vec::new();
    snapshot
        .for_each(empty - 1..snapshot.pages_total() + 1, |number, page| {
            assert!(changes.image(number).is_none_or(|image| image == page), "page {number}");
            seen.push(number);
            ControlFlow::Continue(())
        })
        .expect("pages");
    assert_eq!(seen[..3], [empty - 1, empty + 1, empty + 2]);
    assert!(!snapshot.page(empty, &mut Vec::new()).expect("asked"));
}
