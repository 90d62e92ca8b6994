//! The power goes, on either side, at any moment: what the disks then hold opens with plain SQLite,
//! is whole, is some committed transaction, and none older than what somebody was told is durable.

mod pair;
#[path = "power/recorder.rs"]
mod recorder;

use pair::{Node, pair};
use recorder::{Disk, Event};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Moments at which the power goes, and states of the disk that are tried at each beside the one
/// that lacks all that was not synced.
const MOMENTS: usize = 60;
const STATES: usize = 3;
const TRANSACTIONS: i64 = 400;
/// Longest wait for an answer at the barrier.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// Read by another program: to close a file here would drop the locks of the engines.
fn bytes(path: &Path) -> Vec<u8> {
    let read = std::process::Command::new("cat").arg(path).output().expect("cat runs");
    assert!(read.status.success());
    read.stdout
}

fn wal(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Transaction number n: every account says n, and one line of the log more.
fn transact(application: &Connection, n: i64) {
    let sql = format!(
        "BEGIN IMMEDIATE; UPDATE account SET said = {n};
         INSERT INTO log VALUES({n}, hex(randomblob(300))); COMMIT"
    );
    application.execute_batch(&sql).expect("a transaction");
}

/// The number of the transaction that a database is after; it must be whole.
fn state_of(path: &Path) -> Result<i64, String> {
    let fail = |error: rusqlite::Error| error.to_string();
    let connection = Connection::open(path).map_err(fail)?;
    let health: String =
        connection.query_row("PRAGMA integrity_check", [], |r| r.get(0)).map_err(fail)?;
    if health != "ok" {
        return Err(health);
    }
    let sql = "SELECT min(said), max(said), (SELECT count(*) FROM log), \
               (SELECT coalesce(max(n), 0) FROM log) FROM account";
    let found: (i64, i64, i64, i64) = connection
        .query_row(sql, [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))
        .map_err(fail)?;
    match found {
        (n, same, count, last) if n == same && n == count && n == last => Ok(n),
        torn => Err(format!("no transaction left it so: {torn:?}")),
    }
}

/// Everything that is committed is on the standby.
fn is_there(node: &Node) -> bool {
    let said = node.ask("a.db").answer(ANSWER_WAIT);
    said.expect("an answer").starts_with("ok ")
}

/// Runs a pair, and tells what both disks were told.
fn recorded(durable: bool) -> (tempfile::TempDir, [PathBuf; 2], Disk, Vec<Event>) {
    let (root, one, mut other) = pair(|pattern| pattern.durable = durable);
    // A database that appears before is fenced.
    one.lead(2);
    let application = one.application("a.db");
    let synchronous = if durable { "FULL" } else { "NORMAL" };
    application
        .execute_batch(&format!(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous={synchronous};
             CREATE TABLE account(id INTEGER PRIMARY KEY, said, pad);
             CREATE TABLE log(n INTEGER, text);
             WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<20)
             INSERT INTO account SELECT i, 0, hex(randomblob(700)) FROM n;"
        ))
        .expect("tables");
    other.attend(&one);
    one.shipped("a.db");
    let paths = [one.database("a.db"), other.database("a.db")];
    let mut disk = Disk::default();
    for path in &paths {
        disk.put(path.clone(), bytes(path));
        disk.put(wal(path), bytes(&wal(path)));
    }
    recorder::begin();
    for n in 1..=TRANSACTIONS {
        transact(&application, n);
        recorder::told("primary", n);
        if n % 7 == 0 && is_there(&one) {
            recorder::told("standby", n);
        }
        if n % 60 == 0 {
            let mode = ["PASSIVE", "RESTART", "TRUNCATE"][n as usize / 60 % 3];
            let order = format!("PRAGMA wal_checkpoint({mode})");
            application.query_row(&order, [], |_| Ok(())).expect("a checkpoint");
        }
    }
    one.shipped("a.db");
    let events = recorder::end();
    (root, paths, disk, events)
}

/// Cuts the power again and again.
fn cut(durable: bool) {
    let (_root, paths, mut disk, events) = recorded(durable);
    let syncs = events.iter().filter(|event| matches!(event, Event::Sync(_))).count();
    let folder = tempfile::tempdir().expect("a folder");
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut chance = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below.max(1)
    };
    let (mut told, mut tried) = ([0, 0], 0);
    let (mut primary, mut behind) = (0, [0, 0]);
    for (at, event) in events.iter().enumerate() {
        disk.take(event);
        match event {
            Event::Told("primary", n) => {
                primary = *n;
                told[0] = *n;
            }
            Event::Told(_, n) => told[1] = *n,
            Event::Write(..) | Event::Length(..) | Event::Sync(_) => {}
        }
        if chance(events.len() as u64) >= MOMENTS as u64 {
            continue;
        }
        for (side, path) in paths.iter().enumerate() {
            for state in 0..=STATES {
                let mut how = |below| if state == 0 { 0 } else { chance(below) };
                let image = folder.path().join(format!("{at}-{side}-{state}.db"));
                std::fs::write(&image, disk.image(path, &mut how)).expect("an image");
                std::fs::write(wal(&image), disk.image(&wal(path), &mut how)).expect("an image");
                let found = state_of(&image);
                let where_ = format!("event {at}, side {side}, state {state}, durable {durable}");
                let found = found.unwrap_or_else(|why| panic!("{where_}: {why}"));
                // The transaction under way may be there already.
                assert!(found <= primary + 1, "{where_}: {found} of {primary}");
                if durable {
                    assert!(found >= told[side], "{where_}: {found}, told of {}", told[side]);
                }
                behind[side] = behind[side].max(primary - found);
                tried += 1;
                for name in [&image, &wal(&image)] {
                    let _ = std::fs::remove_file(name);
                }
            }
        }
    }
    println!(
        "durable={durable}: {} events, {syncs} syncs, {tried} states, behind at most {behind:?}",
        events.len()
    );
    assert!(tried > MOMENTS * 2 && told[1] > 0, "{tried} states, told {told:?}");
}

/// One after the other: there is one recorder.
#[test]
fn whatever_the_disks_hold_when_the_power_goes_is_a_transaction() {
    cut(true);
    cut(false);
}
