//! Databases whose rollback journal is kept: two engines, and applications that insist on it.

mod pair;

use pair::proxy::Wire;
use pair::{Node, assert_same, count, insert, pair, wait};
use rusqlite::Connection;
use staffetta_db::{Command, Notice, State};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

fn keepers() -> (tempfile::TempDir, Node, Node) {
    pair(|pattern| pattern.keep_journal = true)
}

fn keeper(root: &Path, name: &'static str, peer: &'static str) -> Node {
    Node::with(root, name, peer, |pattern| pattern.keep_journal = true)
}

/// As the application starts, each time: it insists on its journal.
fn application(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_millis(500))?;
    let mode: String = connection.query_row("PRAGMA journal_mode=DELETE", [], |row| row.get(0))?;
    assert_eq!(mode, "delete");
    Ok(connection)
}

fn rows(node: &Node, name: &str, from: i64, count: i64) {
    insert(&application(&node.database(name)).unwrap(), from, count);
}

/// Whether the file is in WAL mode, as its header says (SQLite's `fileformat2`, 1.3.3).
fn is_wal(path: &Path) -> bool {
    let mut version = [0];
    std::fs::File::open(path).unwrap().read_exact_at(&mut version, 18).unwrap();
    version[0] == 2
}

/// Commits without a pause, each time as a program that starts anew, or all the time as one.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<i64>>,
}

impl Writer {
    fn start(path: PathBuf, from: i64, starts_anew: bool) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut committed, mut next) = (Vec::new(), from);
            let mut kept = None;
            while !stopped.load(Ordering::Relaxed) {
                let connection = match kept.take() {
                    Some(connection) => connection,
                    None => Connection::open(&path).unwrap(),
                };
                let insert = "INSERT INTO t VALUES(?1, 'written')";
                if connection.execute(insert, [next]).is_ok() {
                    committed.push(next);
                }
                next += 1;
                kept = (!starts_anew).then_some(connection);
                std::thread::sleep(Duration::from_micros(200));
            }
            committed
        });
        Writer { stop, thread }
    }

    /// The rows that it was told are committed.
    fn end(self) -> Vec<i64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn lacks(path: &Path, committed: &[i64]) -> Vec<i64> {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    let mut there = connection.prepare("SELECT 1 FROM t WHERE id=?1").unwrap();
    committed.iter().copied().filter(|id| !there.exists([*id]).unwrap()).collect()
}

#[test]
fn a_journal_is_kept_and_the_standby_gets_everything() {
    let (_root, one, mut other) = keepers();
    one.lead(2);
    rows(&one, "a.db", 0, 100);
    one.is("a.db", State::Alone);
    other.attend(&one);
    one.shipped("a.db");
    wait("the copy", || count(&other.database("a.db"), "t") == Some(100));
    // The application starts again and again.
    for start in 1..=5 {
        rows(&one, "a.db", start * 100, 20);
    }
    wait("the changes", || count(&other.database("a.db"), "t") == Some(200));
    one.shipped("a.db");
    assert_same(&one.database("a.db"), &other.database("a.db"));
    assert!(!is_wal(&one.database("a.db")) && is_wal(&other.database("a.db")));
    let refused = other.application("a.db");
    refused.busy_timeout(Duration::from_millis(20)).unwrap();
    let error = refused.execute("INSERT INTO t VALUES(-1, 'no')", []).unwrap_err();
    assert!(error.to_string().contains("locked"), "{error}");
}

#[test]
fn one_that_is_in_wal_mode_is_followed_by_its_log() {
    let (_root, one, mut other) = keepers();
    one.lead(2);
    let app = one.application("a.db");
    app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(id); INSERT INTO t VALUES(1)")
        .unwrap();
    other.attend(&one);
    one.shipped("a.db");
    app.execute_batch("INSERT INTO t VALUES(2)").unwrap();
    wait("the change", || count(&other.database("a.db"), "t") == Some(2));
    assert!(is_wal(&one.database("a.db")));
}

#[test]
fn a_planned_move_and_the_way_back_lose_nothing_under_load() {
    for starts_anew in [true, false] {
        let (_root, mut one, mut other) = keepers();
        one.lead(2);
        rows(&one, "a.db", 0, 10);
        other.attend(&one);
        one.shipped("a.db");
        let writer = Writer::start(one.database("a.db"), 1_000, starts_anew);
        std::thread::sleep(Duration::from_millis(400));
        one.hold(Duration::from_secs(5)).unwrap();
        other.hang_up();
        one.engine.say(Command::Follow(5));
        other.lead(5);
        wait("its end", || one.status("a.db").unwrap().state == State::Waiting);
        let committed = writer.end();
        assert!(committed.len() > 10, "{} commits", committed.len());
        assert_eq!(lacks(&other.database("a.db"), &committed), [0; 0], "anew: {starts_anew}");
        wait("the journal", || !is_wal(&other.database("a.db")));
        // The way back: nothing is archived.
        rows(&other, "a.db", 100, 10);
        one.attend(&other);
        other.shipped("a.db");
        other.hold(Duration::from_secs(5)).unwrap();
        one.hang_up();
        other.engine.say(Command::Follow(6));
        one.lead(6);
        rows(&one, "a.db", 200, 10);
        other.attend(&one);
        one.shipped("a.db");
        assert_same(&one.database("a.db"), &other.database("a.db"));
        assert_eq!(one.folder.join("archive").read_dir().unwrap().count(), 0);
        assert_eq!(other.folder.join("archive").read_dir().unwrap().count(), 0);
    }
}

#[test]
fn what_is_committed_from_the_first_moment_of_a_reign_is_in_every_copy() {
    for starts_anew in [true, false] {
        let (_root, mut one, mut other) = keepers();
        one.lead(2);
        rows(&one, "a.db", 0, 200);
        other.attend(&one);
        one.shipped("a.db");
        // An application of the standby tries all the time; the primary dies.
        let writer = Writer::start(other.database("a.db"), 1_000, starts_anew);
        std::thread::sleep(Duration::from_millis(100));
        other.hang_up();
        one.engine.say(Command::Follow(3));
        other.lead(3);
        std::thread::sleep(Duration::from_millis(300));
        one.attend(&other);
        std::thread::sleep(Duration::from_millis(300));
        let committed = writer.end();
        assert!(!committed.is_empty());
        // Whoever kept it open kept it in WAL mode: not any more.
        wait("the journal", || !is_wal(&other.database("a.db")));
        other.shipped("a.db");
        wait("the last row", || lacks(&one.database("a.db"), &committed).is_empty());
        other.shipped("a.db");
        assert_same(&one.database("a.db"), &other.database("a.db"));
        assert_eq!(one.folder.join("archive").read_dir().unwrap().count(), 0);
    }
}

#[test]
fn an_engine_that_starts_again_finds_its_way_back_to_the_journal() {
    let (root, one, mut other) = keepers();
    one.lead(2);
    rows(&one, "a.db", 0, 100);
    other.attend(&one);
    one.shipped("a.db");
    other.hang_up();
    drop(one);
    rows_of_nobody(&root.path().join("na/data/a.db"));
    let one = keeper(root.path(), "na", "nb");
    one.lead(4);
    wait("the journal", || !is_wal(&one.database("a.db")));
    rows(&one, "a.db", 200, 10);
    other.attend(&one);
    one.shipped("a.db");
    wait("everything", || count(&other.database("a.db"), "t") == Some(111));
    assert_same(&one.database("a.db"), &other.database("a.db"));
}

/// What an application commits while nothing runs here. The engine before ends within this.
fn rows_of_nobody(path: &Path) {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection.execute("INSERT INTO t VALUES(-7, 'nobody')", []).unwrap();
}

#[test]
fn writers_are_locked_out_for_a_fifth_of_the_time_at_most() {
    let (_root, one, mut other) = keepers();
    let path = one.database("a.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x);
             WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<40000)
             INSERT INTO t SELECT i, randomblob(980) FROM n",
        )
        .unwrap();
    one.lead(2);
    other.attend(&one);
    one.shipped("a.db");
    wait("the journal", || !is_wal(&path));
    drop(connection);
    let connection = application(&path).unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    let (mut tried, mut refused, mut locked_out) = (0, 0, Duration::ZERO);
    let began = Instant::now();
    // By time, not by attempts: one that is refused ends sooner.
    while began.elapsed() < Duration::from_secs(5) {
        let at = Instant::now();
        let done = connection.execute("UPDATE t SET x=randomblob(980) WHERE id=?1", [tried]);
        std::thread::sleep(Duration::from_micros(500));
        tried += 1;
        if done.is_err() {
            refused += 1;
            locked_out += at.elapsed();
        }
    }
    let share = locked_out.as_secs_f64() / began.elapsed().as_secs_f64();
    println!("{refused} of {tried} refused, locked out for {:.0} % of the time", share * 100.0);
    assert!(refused > 0 && tried - refused > 200, "{refused} of {tried} refused");
    // A fifth, and what a busy machine adds to the time between two attempts.
    assert!(share <= 0.25, "locked out for {:.0} % of the time", share * 100.0);
    one.shipped("a.db");
    wait("the last page", || {
        one.shipped("a.db");
        let sums = [&one, &other].map(|node| node.status("a.db").and_then(|status| status.sum));
        sums[0].is_some() && sums[0] == sums[1]
    });
    assert_same(&path, &other.database("a.db"));
}

#[test]
fn the_standby_has_everything_only_with_what_was_answered_without_it() {
    let timeout = Duration::from_millis(100);
    let (_root, one, mut other) = pair(|pattern| {
        pattern.keep_journal = true;
        pattern.sync = Some(timeout);
    });
    one.lead(2);
    // So large that a reading, and the pause after it, take their time.
    rows(&one, "a.db", 0, 1);
    let connection = application(&one.database("a.db")).unwrap();
    let much = "CREATE TABLE much(x); WITH RECURSIVE series(n) AS \
                (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < 1000) \
                INSERT INTO much SELECT randomblob(50000) FROM series";
    connection.execute_batch(much).unwrap();
    let wire = Wire::to(one.address());
    other.attend_at("na", wire.address);
    one.shipped("a.db");
    wire.hold_still(true);
    let commit = |row: i64| {
        let written = connection.execute("INSERT INTO t VALUES(?1, 'alone')", [row]);
        written.is_ok_and(|count| count == 1)
    };
    assert!(commit(100));
    let mut asked = one.ask("a.db");
    one.was_told("the desync", |notice| matches!(notice, Notice::Desynced(_)));
    one.engine.say(Command::Degraded(true));
    assert!(asked.answer(Duration::from_secs(2)).unwrap().starts_with("degraded"));
    let mut alone = vec![100];
    let mut write = |row: i64| {
        if commit(row) {
            let said = one.ask("a.db").answer(Duration::from_secs(2));
            alone.extend(said.filter(|said| said.starts_with("degraded")).map(|_| row));
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    // The last of these is not read yet when the ones before it are acknowledged.
    let began = Instant::now();
    (101..).take_while(|_| began.elapsed() < Duration::from_secs(1)).for_each(&mut write);
    one.notices.lock().unwrap().clear();
    wire.hold_still(false);
    let is_synced = || one.notices.lock().unwrap().contains(&Notice::Synced);
    wait("the word", is_synced);
    // Whatever was applied by the time of the word.
    let copy = Connection::open(other.database("a.db")).unwrap();
    for row in alone {
        let is_there = copy.query_row("SELECT 1 FROM t WHERE id = ?1", [row], |_| Ok(()));
        assert!(is_there.is_ok(), "row {row} was acknowledged alone, and is not there");
    }
}
