//! Two engines: what a pair does with databases, without daemons.

mod pair;

use pair::{Node, assert_same, count, insert, pair, wait};
use staffetta_barrier::{Answer, Client, Outcome};
use staffetta_db::{Command, Notice, Pattern, State};
use std::time::Duration;

fn rows(node: &Node, name: &str, from: i64, count: i64) {
    insert(&node.application(name), from, count);
}

#[test]
fn the_standby_gets_what_there_is_and_what_comes() {
    let (_root, one, mut other) = pair(|_| {});
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
    let (_root, mut one, mut other) = pair(|_| {});
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
    one.engine.say(Command::Follow(5));
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

/// A pair whose first node lost its office with seven rows that the other one, which leads, lacks.
fn diverged() -> (tempfile::TempDir, Node, Node) {
    let (root, mut one, mut other) = pair(|_| {});
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
    one.engine.say(Command::Follow(3));
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
    (root, one, other)
}

/// The loser's copy is archived, and then the winner's.
#[track_caller]
fn is_archived(one: &Node, other: &Node) {
    other.shipped("a.db");
    assert_same(&one.database("a.db"), &other.database("a.db"));
    assert_eq!(count(&one.database("a.db"), "t"), Some(13));
    let archived = one.archived();
    assert_eq!(archived.len(), 1);
    assert_eq!(count(&archived[0], "t"), Some(17));
}

/// The loser's copy waits for an operator, and nobody is asked again.
#[track_caller]
fn is_held(one: &Node) {
    // Longer than a copy waits before it is offered, or ruled on, again.
    std::thread::sleep(Duration::from_millis(1_500));
    one.is("a.db", State::Diverged);
    assert_eq!(count(&one.database("a.db"), "t"), Some(17));
    assert!(one.archived().is_empty());
    let told = one.notices.lock().unwrap();
    let asks = |notice: &Notice| matches!(notice, Notice::Diverged(..));
    assert!(!told.iter().any(asks), "{told:?}");
}

#[test]
fn what_only_the_loser_has_is_archived_before_it_is_overwritten() {
    let (_root, one, other) = diverged();
    one.engine.say(Command::Rule(one.database("a.db"), true));
    is_archived(&one, &other);
}

#[test]
fn a_copy_that_an_operator_is_to_judge_waits_for_him() {
    let (_root, mut one, other) = diverged();
    one.engine.say(Command::Rule(one.database("a.db"), false));
    one.notices.lock().unwrap().clear();
    is_held(&one);
    // The stream breaks, and comes back.
    one.attend(&other);
    is_held(&one);
    one.engine.say(Command::Resync(one.database("a.db")));
    is_archived(&one, &other);
}

/// What the disk lost of it is no word of an operator's.
#[test]
fn a_copy_that_an_operator_is_to_judge_waits_though_its_pages_are_damaged() {
    let (_root, one, other) = diverged();
    let path = one.database("a.db");
    one.engine.say(Command::Rule(path.clone(), false));
    one.notices.lock().unwrap().clear();
    // By another program: to close a file here would drop the locks of the engines.
    let program = "import sys\n\
        for name in (sys.argv[1],sys.argv[1]+'-wal'):\n    \
            data=open(name,'rb').read().replace(b'row 3',b'ROW 3')\n    \
            open(name,'r+b').write(data)";
    let mut damage = std::process::Command::new("python3");
    assert!(damage.args(["-c", program]).arg(&path).status().unwrap().success());
    one.engine.say(Command::Scrub(Some(path.clone())));
    one.was_told("the damage", |notice| matches!(notice, Notice::Scrubbed(_, wrong) if *wrong > 0));
    is_held(&one);
    one.engine.say(Command::Rule(path, true));
    is_archived(&one, &other);
}

#[test]
fn a_ruling_on_a_copy_that_follows_changes_nothing() {
    let (_root, one, mut other) = pair(|_| {});
    one.lead(2);
    rows(&one, "a.db", 0, 10);
    other.attend(&one);
    one.shipped("a.db");
    for winner in [true, false] {
        other.engine.say(Command::Rule(other.database("a.db"), winner));
    }
    rows(&one, "a.db", 10, 3);
    one.shipped("a.db");
    assert_eq!(count(&other.database("a.db"), "t"), Some(13));
    assert!(other.archived().is_empty());
}

/// Two databases of a node whose standby is away, and which can tell nobody: only the one of which
/// the configuration says so goes on.
#[test]
fn where_nobody_can_be_told_a_database_that_blocks_waits_beside_one_that_does_not() {
    let root = tempfile::tempdir().unwrap();
    let patterns = [("goes", false), ("blocks", true)].map(|(name, block_alone)| Pattern {
        name: name.into(),
        pattern: root.path().join(format!("na/data/{name}.db")).display().to_string(),
        sync: Some(Duration::from_millis(150)),
        block_alone,
        ..pair::all(root.path())
    });
    let one = Node::of(root.path(), "na", "nb", patterns.into());
    one.lead(2);
    for name in ["goes.db", "blocks.db"] {
        rows(&one, name, 0, 3);
        one.is(name, State::Alone);
    }
    let (mut goes, mut blocks) = (one.ask("goes.db"), one.ask("blocks.db"));
    assert_eq!(goes.answer(Duration::from_secs(5)).as_deref(), Some("degraded nobody to tell"));
    let mut later = one.ask("blocks.db");
    for asked in [&mut blocks, &mut later] {
        assert_eq!(asked.answer(Duration::from_millis(500)), None, "answered without a right");
    }
    // The same, with the right to.
    one.engine.say(Command::Degraded(true));
    for asked in [&mut blocks, &mut later] {
        let said = asked.answer(Duration::from_secs(5));
        assert_eq!(said.as_deref(), Some("degraded the standby is away"));
    }
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
    let (root, one, mut other) = pair(|_| {});
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
    let mut asked = one.ask("a.db");
    one.was_told("the standby's absence", |notice| matches!(notice, Notice::Desynced(_)));
    one.engine.say(Command::Degraded(true));
    assert!(asked.answer(Duration::from_secs(5)).unwrap().starts_with("degraded"));
    one.engine.say(Command::Follow(2));
    one.engine.say(Command::Lead(4));
    wait("the next reign", || one.engine.leading() == Some(4));
    one.is("a.db", State::Alone);
    let said = one.ask("a.db").answer(Duration::from_millis(600));
    assert_eq!(said, None, "answered without a right");
}

/// The longest path that a client may ask for is longer than an answer.
#[test]
fn an_unknown_database_is_answered_however_long_its_path_is() {
    let root = tempfile::tempdir().unwrap();
    let one = Node::start(root.path(), "na", "nb");
    one.lead(2);
    let mut client = Client::connect(&one.folder.join("barrier.sock")).unwrap();
    for path in [format!("/{}", "x".repeat(4_000)), "/y.db".to_owned()] {
        let said = client.ask(path.as_ref(), Some(Duration::from_secs(5))).unwrap();
        let Outcome::Answered(Answer::Error { text }) = said else { panic!("{said:?}") };
        assert!(text.starts_with(&format!("not replicated: {}", &path[..5])), "{text}");
    }
}
