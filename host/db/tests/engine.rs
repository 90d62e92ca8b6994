//! Two engines: what a pair does with databases, without daemons.

mod pair;

use pair::{Node, assert_same, count, wait};
use staffetta_db::{Notice, State};
use std::time::Duration;

fn pair() -> (tempfile::TempDir, Node, Node) {
    let root = tempfile::tempdir().unwrap();
    let one = Node::start(root.path(), "na", "nb");
    let other = Node::start(root.path(), "nb", "na");
    (root, one, other)
}

fn rows(node: &Node, name: &str, from: i64, count: i64) {
    let connection = node.application(name);
    connection.execute_batch("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x)").unwrap();
    for id in from..from + count {
        connection.execute("INSERT INTO t VALUES(?1, 'row ' || ?1)", [id]).unwrap();
    }
}

#[test]
fn the_standby_gets_what_there_is_and_what_comes() {
    let (_root, one, mut other) = pair();
    one.lead(2);
    rows(&one, "a.db", 0, 100);
    one.is("a.db", State::Alone);
    other.attend(&one);
    one.shipped("a.db");
    assert_eq!(count(&other.database("a.db"), "t"), Some(100));
    rows(&one, "a.db", 100, 50);
    rows(&one, "b.db", 0, 5);
    one.shipped("a.db");
    one.shipped("b.db");
    assert_same(&one.database("a.db"), &other.database("a.db"));
    assert_same(&one.database("b.db"), &other.database("b.db"));
    let refused = other.application("a.db");
    refused.busy_timeout(Duration::from_millis(20)).unwrap();
    let error = refused.execute("INSERT INTO t VALUES(-1, 'no')", []).unwrap_err();
    assert!(error.to_string().contains("locked"), "{error}");
}

#[test]
fn a_planned_move_loses_nothing_under_load() {
    let (_root, mut one, mut other) = pair();
    one.lead(2);
    rows(&one, "a.db", 0, 10);
    other.attend(&one);
    one.shipped("a.db");
    let path = one.database("a.db");
    let writer = std::thread::spawn(move || {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection.busy_timeout(Duration::from_millis(100)).unwrap();
        let mut committed = 10;
        while connection.execute("INSERT INTO t VALUES(?1, 'y')", [committed]).is_ok() {
            committed += 1;
        }
        committed
    });
    std::thread::sleep(Duration::from_millis(500));
    one.hold(Duration::from_secs(5)).unwrap();
    other.hang_up();
    one.engine.say(staffetta_db::Command::Follow(5));
    other.lead(5);
    let committed = writer.join().unwrap();
    assert!(committed > 100, "{committed} commits");
    assert_eq!(count(&other.database("a.db"), "t"), Some(committed));
    // The way back: the old primary follows without an archive.
    rows(&other, "a.db", committed, 10);
    one.attend(&other);
    other.shipped("a.db");
    assert_same(&one.database("a.db"), &other.database("a.db"));
    assert_eq!(one.folder.join("archive").read_dir().unwrap().count(), 0);
}

#[test]
fn what_only_the_loser_has_is_archived_before_it_is_overwritten() {
    let (_root, mut one, mut other) = pair();
    one.lead(2);
    rows(&one, "a.db", 0, 10);
    other.attend(&one);
    one.shipped("a.db");
    // The standby stops following; the primary writes on, and loses its office.
    let common = one.status("a.db").unwrap().position;
    other.hang_up();
    other.lead(3);
    rows(&one, "a.db", 10, 7);
    rows(&other, "a.db", 500, 3);
    other.is("a.db", State::Alone);
    one.engine.say(staffetta_db::Command::Follow(3));
    one.attend(&other);
    one.was_told("the divergence", |notice| match notice {
        Notice::Diverged(_, kinship) => {
            assert_eq!(*kinship, staffetta_db::Kinship::Diverged { common, own: Some(7) });
            true
        }
        _ => false,
    });
    one.is("a.db", State::Diverged);
    assert_eq!(count(&one.database("a.db"), "t"), Some(17), "nothing is overwritten unasked");
    one.engine.say(staffetta_db::Command::Rule(one.database("a.db"), true));
    other.shipped("a.db");
    assert_same(&one.database("a.db"), &other.database("a.db"));
    assert_eq!(count(&one.database("a.db"), "t"), Some(13));
    let archived: Vec<_> = one
        .folder
        .join("archive")
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sqlite"))
        .collect();
    assert_eq!(archived.len(), 1);
    assert_eq!(count(&archived[0], "t"), Some(17));
}

#[test]
fn databases_of_a_new_pair_are_brought_to_the_primarys() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("nb/data");
    std::fs::create_dir_all(&data).unwrap();
    let before = rusqlite::Connection::open(data.join("a.db")).unwrap();
    before.execute_batch("CREATE TABLE t(id); INSERT INTO t VALUES(1), (2)").unwrap();
    drop(before);
    let one = Node::start(root.path(), "na", "nb");
    let mut other = Node::start(root.path(), "nb", "na");
    one.lead(2);
    rows(&one, "a.db", 10, 40);
    other.attend(&one);
    one.shipped("a.db");
    assert_same(&one.database("a.db"), &other.database("a.db"));
    other.was_told("the archive", |notice| matches!(notice, Notice::Archived(..)));
}

#[test]
fn a_replaced_database_is_brought_over_whole() {
    let (root, one, mut other) = pair();
    one.lead(2);
    rows(&one, "a.db", 0, 100);
    other.attend(&one);
    one.shipped("a.db");
    let fresh = root.path().join("fresh.db");
    let connection = rusqlite::Connection::open(&fresh).unwrap();
    connection.execute_batch("CREATE TABLE t(id); INSERT INTO t VALUES(1)").unwrap();
    drop(connection);
    std::fs::rename(&fresh, one.database("a.db")).unwrap();
    wait("the replacement", || count(&other.database("a.db"), "t") == Some(1));
    one.shipped("a.db");
    assert_same(&one.database("a.db"), &other.database("a.db"));
}

/// The right to answer without the standby ends with the reign, even where the next one begins at
/// once.
#[test]
fn a_new_reign_does_not_inherit_the_right_to_answer_alone() {
    let root = tempfile::tempdir().unwrap();
    let one = Node::with(root.path(), "na", "nb", |pattern| {
        pattern.sync = Some(Duration::from_millis(150));
        pattern.block_alone = true;
    });
    one.lead(2);
    rows(&one, "a.db", 0, 3);
    one.is("a.db", State::Alone);
    let path = one.database("a.db");
    let answers = ask(&one, &path);
    one.was_told("the standby's absence", |notice| matches!(notice, Notice::Desynced(_)));
    one.engine.say(staffetta_db::Command::Degraded(true));
    assert!(answers.recv_timeout(Duration::from_secs(5)).unwrap().starts_with("degraded"));
    one.engine.say(staffetta_db::Command::Follow(2));
    one.engine.say(staffetta_db::Command::Lead(4));
    wait("the next reign", || one.engine.leading() == Some(4));
    one.is("a.db", State::Alone);
    let answers = ask(&one, &path);
    assert!(answers.recv_timeout(Duration::from_millis(600)).is_err(), "answered without a right");
}

/// One question at the barrier; its answer comes out of the channel.
fn ask(node: &Node, database: &std::path::Path) -> std::sync::mpsc::Receiver<String> {
    use std::io::{BufRead, BufReader, Write};
    let mut socket =
        std::os::unix::net::UnixStream::connect(node.folder.join("barrier.sock")).unwrap();
    writeln!(socket, "{}", database.display()).unwrap();
    let (answer, answers) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        // The node may end first.
        if BufReader::new(socket).read_line(&mut line).is_ok() && !line.is_empty() {
            let _ = answer.send(line);
        }
    });
    answers
}
