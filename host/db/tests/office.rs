//! What a node does with its databases when its office changes, when the standby does not answer,
//! and when somebody tampers with the files.

mod pair;

use pair::proxy::Wire;
use pair::{Node, assert_same, count, pair, wait};
use rusqlite::Connection;
use staffetta_db::{Command, Notice, Pattern, State};
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_millis(300);

/// A pair that follows, over a wire that can be held still.
fn following(change: impl Fn(&mut Pattern)) -> (tempfile::TempDir, Node, Node, Wire) {
    let (root, one, mut other) = pair(change);
    one.lead(2);
    fill(&one, 5);
    let wire = Wire::to(one.address());
    other.attend_at("na", wire.address);
    one.shipped("a.db");
    (root, one, other, wire)
}

fn fill(node: &Node, rows: usize) {
    let connection = node.application("a.db");
    connection.execute_batch("CREATE TABLE IF NOT EXISTS t(x)").unwrap();
    for _ in 0..rows {
        connection.execute("INSERT INTO t VALUES(hex(randomblob(100)))", []).unwrap();
    }
}

/// An application that does not wait for a lock.
fn hasty(node: &Node) -> Connection {
    let connection = node.application("a.db");
    connection.busy_timeout(Duration::ZERO).unwrap();
    connection
}

fn writes(connection: &Connection) -> bool {
    connection.execute("INSERT INTO t VALUES('hasty')", []).is_ok()
}

#[test]
fn a_node_without_office_is_fenced_before_anybody_names_its_databases() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("na/data");
    std::fs::create_dir_all(&data).unwrap();
    let application = Connection::open(data.join("a.db")).unwrap();
    application.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x)").unwrap();
    application.busy_timeout(Duration::ZERO).unwrap();
    drop(application);
    let node = Node::start(root.path(), "na", "nb");
    node.is("a.db", State::Waiting);
    assert!(!writes(&hasty(&node)));
    node.lead(2);
    wait("writers", || writes(&hasty(&node)));
}

#[test]
fn an_application_amid_a_transaction_is_fenced_after_it() {
    let (_root, one, _other, _wire) = following(|_| {});
    let slow = one.application("a.db");
    slow.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES('slow')").unwrap();
    one.engine.say(Command::Follow(3));
    std::thread::sleep(SOON);
    slow.execute_batch("COMMIT").unwrap();
    one.is("a.db", State::Waiting);
    assert!(!writes(&hasty(&one)));
}

#[test]
fn a_primary_of_an_epoch_that_is_over_is_not_followed() {
    let (_root, one, mut other) = pair(|_| {});
    one.lead(2);
    fill(&one, 5);
    other.engine.say(Command::Follow(9));
    other.attend(&one);
    std::thread::sleep(SOON * 2);
    assert!(!other.database("a.db").exists(), "nothing of it may come");
}

#[test]
fn what_is_followed_is_dropped_when_its_epoch_is_over() {
    let (_root, one, other, _wire) = following(|_| {});
    other.engine.say(Command::Follow(9));
    wait("the end", || other.status("a.db").is_some_and(|s| s.state != State::Following));
    fill(&one, 5);
    std::thread::sleep(SOON);
    assert_eq!(count(&other.database("a.db"), "t"), Some(5));
}

#[test]
fn a_move_that_is_overtaken_or_asked_for_twice_is_answered() {
    let (_root, one, _other, wire) = following(|_| {});
    wire.hold_still(true);
    fill(&one, 1);
    let first = one.begin_hold(Duration::from_secs(20));
    let second = one.begin_hold(Duration::from_secs(20)).recv_timeout(SOON).unwrap();
    assert!(second.unwrap_err().contains("already"));
    assert_eq!(first.recv_timeout(SOON), Err(RecvTimeoutError::Timeout));
    one.engine.say(Command::Unhold);
    assert!(first.recv_timeout(SOON).unwrap().is_err());
    wait("writers", || writes(&hasty(&one)));
    let third = one.begin_hold(Duration::from_secs(20));
    one.engine.say(Command::Follow(3));
    assert!(third.recv_timeout(SOON).unwrap().unwrap_err().contains("role"));
    wire.hold_still(false);
}

#[test]
fn writers_go_on_after_a_move_that_ran_out_of_time_or_lost_its_stream() {
    let (_root, one, mut other, wire) = following(|_| {});
    wire.hold_still(true);
    fill(&one, 1);
    let held = one.begin_hold(SOON * 2);
    std::thread::sleep(SOON + SOON / 2);
    assert!(!writes(&hasty(&one)), "held by now");
    assert!(held.recv_timeout(SOON * 2).unwrap().unwrap_err().contains("lacks"));
    wait("writers", || writes(&hasty(&one)));
    wire.hold_still(false);
    one.shipped("a.db");
    // The standby goes amid the hold.
    one.hold(Duration::from_secs(5)).unwrap();
    other.hang_up();
    assert!(!writes(&hasty(&one)), "whoever holds decides");
    one.engine.say(Command::Unhold);
    wait("writers", || writes(&hasty(&one)));
}

#[test]
fn a_held_database_that_is_replaced_stays_held() {
    let (root, one, _other, _wire) = following(|_| {});
    one.hold(Duration::from_secs(5)).unwrap();
    let fresh = root.path().join("fresh.db");
    let connection = Connection::open(&fresh).unwrap();
    connection.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x)").unwrap();
    drop(connection);
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(one.database(&format!("a.db{suffix}")));
    }
    std::fs::rename(&fresh, one.database("a.db")).unwrap();
    one.was_told("the replacement", |notice| {
        matches!(notice, Notice::Replaced(_) | Notice::LostTrail(..))
    });
    one.is("a.db", State::Leading);
    assert!(!writes(&hasty(&one)));
    one.engine.say(Command::Unhold);
    wait("writers", || writes(&hasty(&one)));
}

#[test]
fn synchronous_commits_wait_degrade_only_when_told_and_heal() {
    let timeout = Duration::from_millis(300);
    let (_root, one, _other, wire) = following(|pattern| pattern.sync = Some(timeout));
    fill(&one, 1);
    let said = one.ask("a.db").answer(SOON * 3).unwrap();
    assert!(said.starts_with("ok 2 "), "{said}");
    wire.hold_still(true);
    fill(&one, 1);
    let mut asked = one.ask("a.db");
    one.was_told("the desync", |notice| matches!(notice, Notice::Desynced(_)));
    one.engine.say(Command::Degraded(true));
    let said = asked.answer(SOON * 3).unwrap();
    assert!(said.starts_with("degraded"), "{said}");
    fill(&one, 1);
    let began = Instant::now();
    let said = one.ask("a.db").answer(SOON * 3).unwrap();
    assert!(said.starts_with("degraded") && began.elapsed() < timeout, "{said}");
    // The reign began with this word, too.
    one.notices.lock().unwrap().clear();
    wire.hold_still(false);
    one.was_told("the synced", |notice| *notice == Notice::Synced);
    one.engine.say(Command::Degraded(false));
    one.was_told("the count", |notice| *notice == Notice::Degraded(2));
    fill(&one, 1);
    let said = one.ask("a.db").answer(SOON * 3).unwrap();
    assert!(said.starts_with("ok 2 "), "{said}");
}

#[test]
fn a_volume_that_is_not_mounted_is_no_standby_that_has_everything() {
    let (root, mut one, _other, wire) =
        following(|pattern| pattern.sync = Some(Duration::from_millis(200)));
    wire.hold_still(true);
    fill(&one, 1);
    let mut asked = one.ask("a.db");
    one.was_told("the desync", |notice| matches!(notice, Notice::Desynced(_)));
    one.engine.say(Command::Degraded(true));
    assert!(asked.answer(SOON * 3).unwrap().starts_with("degraded"));
    let (data, away) = (root.path().join("na/data"), root.path().join("away"));
    let absent = |notice: &Notice| {
        matches!(notice, Notice::Trouble(path, why)
            if path.ends_with("data/*.db") && why.contains("mount or restore"))
    };
    for is_new in [false, true] {
        one.notices.lock().unwrap().clear();
        if is_new {
            drop(one);
            one = Node::with(root.path(), "na", "nb", |pattern| pattern.sync = Some(SOON));
            one.lead(4);
        } else {
            std::fs::rename(&data, &away).unwrap();
            std::fs::create_dir(&data).unwrap();
        }
        one.was_told("the absence", absent);
        std::thread::sleep(SOON);
        assert!(!one.notices.lock().unwrap().contains(&Notice::Synced), "{is_new}");
        let why = one.hold(SOON).unwrap_err();
        assert!(why.contains("mount or restore"), "{why}");
    }
    std::fs::remove_dir(&data).unwrap();
    std::fs::rename(&away, &data).unwrap();
    one.is("a.db", State::Alone);
    let why = one.hold(SOON).unwrap_err();
    assert!(why.contains("lacks"), "{why}");
}

#[test]
fn a_synchronous_commit_is_not_answered_before_somebody_was_told() {
    let change = |pattern: &mut Pattern| {
        pattern.sync = Some(Duration::from_millis(200));
        pattern.block_alone = true;
    };
    let (_root, one, _other, wire) = following(change);
    wire.hold_still(true);
    fill(&one, 1);
    let mut asked = one.ask("a.db");
    one.was_told("the desync", |notice| matches!(notice, Notice::Desynced(_)));
    assert_eq!(asked.answer(SOON * 4), None, "nobody was told");
    wire.hold_still(false);
    let said = asked.answer(SOON * 4).unwrap();
    assert!(said.starts_with("ok 2 "), "{said}");
}

#[test]
fn a_commit_that_waits_while_the_epoch_changes_is_answered_in_the_new_one() {
    let change = |pattern: &mut Pattern| pattern.sync = Some(Duration::from_secs(20));
    let (_root, one, _other, wire) = following(change);
    wire.hold_still(true);
    fill(&one, 3);
    let mut asked = one.ask("a.db");
    assert_eq!(asked.answer(SOON), None);
    one.engine.say(Command::Lead(7));
    wire.hold_still(false);
    let said = asked.answer(Duration::from_secs(10)).unwrap();
    assert!(said.starts_with("ok 7 "), "{said}");
}

#[test]
fn writers_wait_where_too_much_is_unacknowledged() {
    let (_root, one, _other, wire) = following(|pattern| pattern.unacked_max = 20);
    wire.hold_still(true);
    let writer = hasty(&one);
    let begun = Instant::now();
    let mut written = 0;
    while writes(&writer) {
        written += 1;
        std::thread::sleep(Duration::from_millis(1));
        assert!(begun.elapsed() < Duration::from_secs(5), "{written} and no end");
    }
    assert!(written >= 20, "{written}");
    wire.hold_still(false);
    wait("writers", || writes(&writer));
}

#[test]
fn a_database_that_is_opened_anew_goes_on_counting() {
    let (_root, one, _other, _wire) = following(|_| {});
    let before = one.status("a.db").unwrap().position.unwrap();
    // Whoever tidies up takes the log away: the database is opened anew, in the same epoch.
    std::fs::remove_file(one.database("a.db-shm")).unwrap();
    one.was_told("the lost trail", |notice| matches!(notice, Notice::LostTrail(..)));
    one.shipped("a.db");
    let after = one.status("a.db").unwrap().position.unwrap();
    assert!(after.epoch == before.epoch && after.txid > before.txid, "{before:?} {after:?}");
}

#[test]
fn a_copy_that_somebody_deletes_is_made_again() {
    let (_root, one, other, _wire) = following(|_| {});
    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(other.database(&format!("a.db{suffix}"))).unwrap();
    }
    other.was_told("the loss", |notice| matches!(notice, Notice::Vanished(_)));
    fill(&one, 3);
    wait("the copy", || {
        other.database("a.db").exists() && count(&other.database("a.db"), "t") == Some(8)
    });
    one.shipped("a.db");
    assert_same(&one.database("a.db"), &other.database("a.db"));
}

#[test]
fn a_copy_that_cannot_be_made_is_made_when_it_can() {
    let (_root, one, mut other) = pair(|_| {});
    one.lead(2);
    fill(&one, 5);
    let data = other.folder.join("data");
    std::fs::remove_dir(&data).unwrap();
    other.attend(&one);
    other.was_told("the trouble", |notice| matches!(notice, Notice::Trouble(..)));
    std::fs::create_dir(&data).unwrap();
    one.shipped("a.db");
    assert_same(&one.database("a.db"), &other.database("a.db"));
}

#[test]
fn a_write_past_the_fence_is_archived_and_undone() {
    let (_root, one, other, _wire) = following(|_| {});
    // The file is changed behind SQLite's back, as by a restored backup.
    let backup = other.folder.join("backup.db");
    let connection = Connection::open(&backup).unwrap();
    connection.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES('restored')").unwrap();
    drop(connection);
    for suffix in ["-wal", "-shm"] {
        std::fs::remove_file(other.database(&format!("a.db{suffix}"))).unwrap();
    }
    // A log that is gone is noticed by itself: without it the fence would stand on nothing.
    other.was_told("the loss of the log", |notice| matches!(notice, Notice::Replaced(..)));
    other.is("a.db", staffetta_db::State::Diverged);
    other.notices.lock().unwrap().clear();
    std::fs::rename(&backup, other.database("a.db")).unwrap();
    other.was_told("the backup", |notice| matches!(notice, Notice::Replaced(..)));
    other.was_told("the divergence", |notice| matches!(notice, Notice::Diverged(..)));
    assert_eq!(count(&other.database("a.db"), "t"), Some(1), "nothing is overwritten unasked");
    other.engine.say(Command::Rule(other.database("a.db"), true));
    one.shipped("a.db");
    assert_same(&one.database("a.db"), &other.database("a.db"));
    let kept = other.archived();
    assert_eq!((kept.len(), count(&kept[0], "t")), (1, Some(1)));
}

/// An application that opens and closes the copy, as each program that looks at a database does,
/// must not take the fence with it.
#[test]
fn the_fence_stands_whoever_opens_and_closes_the_copy() {
    use std::os::unix::fs::MetadataExt;
    let (_root, _one, other, _wire) = following(|_| {});
    let path = other.database("a.db");
    let log = other.database("a.db-shm");
    let inode = std::fs::metadata(&log).unwrap().ino();
    for _ in 0..4 {
        let program = format!(
            "import sqlite3\nc=sqlite3.connect('{}',timeout=0)\n\
             c.execute('select * from t').fetchall()\n\
             try:\n c.execute(\"insert into t values('no')\")\n c.commit()\n print('written')\n\
             except sqlite3.OperationalError as e: print(e)\nc.close()",
            path.display()
        );
        let said = std::process::Command::new("python3").args(["-c", &program]).output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains("locked"), "{said}");
        assert_eq!(std::fs::metadata(&log).map(|found| found.ino()).ok(), Some(inode));
        // Files are looked for once a second.
        std::thread::sleep(Duration::from_millis(600));
    }
}

/// A database that somebody else made, with so many rows.
fn fresh(path: &Path, rows: usize) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("CREATE TABLE t(x)").unwrap();
    for _ in 0..rows {
        connection.execute("INSERT INTO t VALUES(1)", []).unwrap();
    }
}

/// Leads a database of which five rows are in its log.
fn leading_a_log() -> (tempfile::TempDir, Node) {
    let root = tempfile::tempdir().unwrap();
    let one = Node::start(root.path(), "na", "nb");
    one.lead(2);
    fill(&one, 5);
    one.is("a.db", State::Alone);
    fill(&one, 5);
    assert!(std::fs::metadata(one.database("a.db-wal")).unwrap().len() > 0);
    // The first opening may have met the maker: that trouble is over.
    one.notices.lock().unwrap().clear();
    (root, one)
}

#[test]
fn a_replaced_file_is_not_read_under_the_log_of_the_former_one() {
    let (_root, one) = leading_a_log();
    let (new, old) = (one.folder.join("new.db"), one.folder.join("old.db"));
    fresh(&new, 3);
    std::fs::rename(one.database("a.db"), &old).unwrap();
    std::fs::rename(&new, one.database("a.db")).unwrap();
    one.was_told("the replacement", |notice| {
        matches!(notice, Notice::Replaced(_) | Notice::Vanished(_))
    });
    one.is("a.db", State::Alone);
    assert_eq!(count(&one.database("a.db"), "t"), Some(3));
    assert_eq!(count(&old, "t"), Some(10), "what was in the log only");
}

#[test]
fn a_replaced_file_waits_for_those_who_have_the_former_one_open() {
    let (_root, one) = leading_a_log();
    let new = one.folder.join("new.db");
    fresh(&new, 3);
    let before = std::fs::read(&new).unwrap();
    let slow = one.application("a.db");
    assert_eq!(slow.query_row("SELECT count(*) FROM t", [], |row| row.get(0)), Ok(10));
    std::fs::rename(&new, one.database("a.db")).unwrap();
    one.was_told("the trouble", |notice| match notice {
        Notice::Trouble(path, why) => *path == one.database("a.db") && why.contains("End those"),
        _ => false,
    });
    assert_eq!(std::fs::read(one.database("a.db")).unwrap(), before);
    assert!(one.database("a.db-wal").exists(), "it is theirs");
    drop(slow);
    one.was_told("the end of it", |notice| matches!(notice, Notice::Healed(_)));
    assert_eq!(count(&one.database("a.db"), "t"), Some(3));
}

#[test]
fn a_file_that_comes_back_from_a_backup_is_not_read_under_the_log_of_the_one_that_went() {
    let (_root, one) = leading_a_log();
    let backup = one.folder.join("backup.db");
    fresh(&backup, 3);
    std::fs::remove_file(one.database("a.db")).unwrap();
    one.was_told("the loss", |notice| matches!(notice, Notice::Vanished(_)));
    let left = ["a.db-wal", "a.db-shm"].map(|name| one.database(name).exists());
    assert_eq!(left, [false, false]);
    std::fs::copy(&backup, one.database("a.db")).unwrap();
    one.is("a.db", State::Alone);
    assert_eq!(count(&one.database("a.db"), "t"), Some(3));
}

#[test]
fn a_file_whose_name_is_no_text_is_named_and_harms_no_other() {
    use std::os::unix::ffi::OsStrExt;
    let root = tempfile::tempdir().unwrap();
    let one = Node::start(root.path(), "na", "nb");
    let odd = one.folder.join("data").join(std::ffi::OsStr::from_bytes(b"\xff.db"));
    fresh(&odd, 1);
    one.lead(2);
    fill(&one, 5);
    one.is("a.db", State::Alone);
    one.was_told("the name", |notice| match notice {
        Notice::Trouble(path, why) => *path == odd && why.contains("UTF-8"),
        _ => false,
    });
}
