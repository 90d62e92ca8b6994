//! What an engine costs: many idle databases, large ones, large transactions beside small ones; and
//! pages of every size.

mod hostile;
mod pair;

use pair::process::{Remote, live};
use pair::{Node, assert_same, count, wait};
use rusqlite::Connection;
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn node_process() {
    live();
}

fn application(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("a connection");
    connection.busy_timeout(Duration::from_secs(10)).expect("a timeout");
    connection
}

fn fill(connection: &Connection, rows: u64, row_bytes: u64) {
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x);
         WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<{rows})
         INSERT INTO t(x) SELECT randomblob({row_bytes}) FROM n"
    );
    connection.execute_batch(&sql).expect("rows");
}

/// Two nodes in two processes, the second following the first.
fn pair() -> (tempfile::TempDir, Remote, Remote) {
    let root = tempfile::tempdir().expect("a folder");
    let mut one = Remote::start(root.path(), "na", "nb");
    let mut other = Remote::start(root.path(), "nb", "na");
    one.order("lead 2");
    other.attend(&one);
    (root, one, other)
}

#[test]
fn pages_of_every_size_and_another_one_in_their_place() {
    let root = tempfile::tempdir().expect("a folder");
    let one = Node::start(root.path(), "na", "nb");
    let mut other = Node::start(root.path(), "nb", "na");
    one.lead(2);
    other.attend(&one);
    for page_bytes in [512, 1_024, 4_096, 65_536] {
        let name = format!("{page_bytes}.db");
        let connection = one.application(&name);
        let set = format!("PRAGMA page_size={page_bytes}; PRAGMA journal_mode=WAL");
        connection.execute_batch(&set).expect("set");
        fill(&connection, 2_000, 300);
        wait("the database", || one.status(&name).is_some());
        one.shipped(&name);
        connection.execute_batch("DELETE FROM t WHERE id%3=0; VACUUM").expect("vacuumed");
        fill(&connection, 50, 9_000);
        one.shipped(&name);
        assert_eq!(other.status(&name).expect("a copy").page_bytes, page_bytes);
        assert_same(&one.database(&name), &other.database(&name));
    }
    // The file is replaced by one of other pages: the copy is made anew.
    let fresh = root.path().join("fresh.db");
    let connection = application(&fresh);
    connection.execute_batch("PRAGMA page_size=8192").expect("set");
    fill(&connection, 30, 100);
    drop(connection);
    let path = one.database("512.db");
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(one.database(&format!("512.db{suffix}")));
    }
    std::fs::rename(&fresh, &path).expect("renamed");
    wait("the new pages", || {
        other.status("512.db").is_some_and(|status| status.page_bytes == 8_192)
            && count(&other.database("512.db"), "t") == Some(30)
    });
    one.shipped("512.db");
    assert_same(&path, &other.database("512.db"));
}

/// A database over 1 GiB, nearly all of it one value of zeros.
#[test]
fn the_page_that_holds_no_content_is_passed_over() {
    let (_root, mut one, mut other) = pair();
    let connection = application(&one.database("big.db"));
    connection
        .execute_batch(
            "PRAGMA page_size=65536; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;
             CREATE TABLE z(x)",
        )
        .expect("a table");
    for _ in 0..2 {
        connection
            .execute("INSERT INTO z VALUES(zeroblob(540000000))", [])
            .expect("zeros up to the page");
    }
    fill(&connection, 1_000, 3_000);
    wait("the database", || one.status("big.db") != "none");
    let began = Instant::now();
    one.shipped("big.db", &mut other);
    println!("1.1 GB after {:?}", began.elapsed());
    println!("peak RSS {} MiB and {} MiB", one.peak_mib(), other.peak_mib());
    connection.execute_batch("UPDATE t SET x=randomblob(100) WHERE id%9=0").expect("updated");
    fill(&connection, 200, 70_000);
    one.shipped("big.db", &mut other);
    drop(connection);
    let pages = |path: &Path| -> i64 {
        application(path).query_row("PRAGMA page_count", [], |r| r.get(0)).expect("a count")
    };
    assert!(pages(&one.database("big.db")) > (1 << 30) / 65_536 + 1);
    assert_same(&one.database("big.db"), &other.database("big.db"));
    let most = one.peak_mib().max(other.peak_mib());
    assert!(most < 160, "{most} MiB: more than a bounded part of the database in memory");
}

#[test]
fn a_large_transaction_does_not_hold_up_another_database() {
    let (_root, mut one, mut other) = pair();
    let small = application(&one.database("small.db"));
    let large = application(&one.database("large.db"));
    for connection in [&small, &large] {
        connection.execute_batch("PRAGMA journal_mode=WAL").expect("set");
        fill(connection, 10, 100);
    }
    wait("the databases", || one.status("large.db") != "none" && one.status("small.db") != "none");
    one.shipped("small.db", &mut other);
    one.shipped("large.db", &mut other);
    let writer = std::thread::spawn(move || fill(&large, 50_000, 4_000));
    let copy = application(&other.database("small.db"));
    let (mut lags, mut n) = (Vec::new(), 0);
    let until = Instant::now() + Duration::from_secs(40);
    let mut after = 0;
    // As long as the transaction is written and shipped, and a little more.
    while after < 20 && Instant::now() < until {
        n += 1;
        small.execute("INSERT INTO t(x) VALUES(?1)", [n]).expect("a row");
        let committed = Instant::now();
        let seen = || -> i64 {
            copy.query_row("SELECT count(*) FROM t", [], |r| r.get(0)).expect("a count")
        };
        while seen() < 10 + n && Instant::now() < until {
            std::thread::sleep(Duration::from_micros(200));
        }
        lags.push(committed.elapsed());
        let done = writer.is_finished() && one.status("large.db").contains("behind=Some(0)");
        after = if done { after + 1 } else { 0 };
        std::thread::sleep(Duration::from_millis(5));
    }
    writer.join().expect("a transaction");
    lags.sort();
    let (p50, p99) = (lags[lags.len() / 2], lags[lags.len() * 99 / 100]);
    println!(
        "{} commits beside 200 MB: lag p50 {p50:?} p99 {p99:?} worst {:?}",
        n,
        lags[n as usize - 1]
    );
    println!("peak RSS {} MiB and {} MiB", one.peak_mib(), other.peak_mib());
    one.shipped("large.db", &mut other);
    assert_same(&one.database("large.db"), &other.database("large.db"));
    assert!(p50 < Duration::from_millis(100), "p50 {p50:?}");
}

#[test]
fn a_hundred_idle_databases_cost_next_to_nothing() {
    const MANY: u64 = 100;
    let (_root, mut one, other) = pair();
    let before = [one.rss_kib(), other.rss_kib()];
    for at in 0..MANY {
        let connection = application(&one.database(&format!("{at}.db")));
        connection.execute_batch("PRAGMA journal_mode=WAL").expect("set");
        fill(&connection, 100, 100);
    }
    for at in 0..MANY {
        let name = format!("{at}.db");
        wait("a database", || one.status(&name).starts_with("leading"));
    }
    // Quiet after two seconds, and trimmed then.
    std::thread::sleep(Duration::from_secs(4));
    let ticks = [one.cpu_ms(), other.cpu_ms()];
    let seconds = 10;
    std::thread::sleep(Duration::from_secs(seconds));
    let spent = [one.cpu_ms() - ticks[0], other.cpu_ms() - ticks[1]];
    let percent = (spent[0] + spent[1]) as f64 / (seconds as f64 * 10.0);
    let grown = [one.rss_kib() - before[0], other.rss_kib() - before[1]];
    println!("CPU {spent:?} ms in {seconds} s = {percent:.2} % of a core together");
    println!("RSS +{} and +{} KiB a database", grown[0] / MANY, grown[1] / MANY);
    // The goal is 1 %; a busy machine counts caches that others emptied.
    assert!(percent < 3.0, "{percent} %");
    assert!(grown.iter().all(|kib| kib / MANY < 384), "{grown:?} KiB");
}
