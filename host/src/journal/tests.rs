//! The journal under a quick, a full, and a broken disk.

use super::*;
use crate::api::status::Spoke;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);
const CAP: u64 = 64 * 1024 * 1024;

fn decision(reason: &str, at: i64) -> DecisionRecord {
    DecisionRecord {
        at_unix_ms: at,
        kind: "failover".into(),
        question: "peer-silent".into(),
        intent: "take-over".into(),
        reason: reason.into(),
        spoke: Spoke::Site,
        situation: format!("{{\"age\":{at}}}"),
        settings: "{}".into(),
        memory: Some("m".into()),
        wall: "null".into(),
        verdict: "{\"intent\":\"take-over\"}".into(),
        digest: "sha256:00".into(),
        engine: "wasmtime 48".into(),
        fuel: u64::MAX,
        cpu_us: 35,
        notes: vec!["said".into()],
        attempts: vec!["site: out of fuel".into()],
    }
}

#[test]
fn a_journal_of_the_first_layout_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("journal.db");
    let journal = Journal::open(&file, CAP).unwrap();
    journal.handle().decision(decision("before", 1));
    journal.close(PATIENCE);
    let db = rusqlite::Connection::open(&file).unwrap();
    db.execute_batch("ALTER TABLE decisions DROP COLUMN wall; PRAGMA user_version = 1;").unwrap();
    drop(db);
    let error = read_decisions(&file, 10).unwrap_err().to_string();
    assert!(error.contains("is a journal of layout 1, this version reads 2"), "{error}");
    let journal = Journal::open(&file, CAP).unwrap();
    journal.handle().decision(DecisionRecord { wall: "{}".into(), ..decision("after", 2) });
    journal.close(PATIENCE);
    let all = read_decisions(&file, 10).unwrap();
    let walls: Vec<&str> = all.iter().map(|one| one.first.wall.as_str()).collect();
    assert_eq!(walls, ["null", "{}"]);
    assert_eq!(read_decision(&file, 1).unwrap().unwrap().first.reason, "before");
}

fn event(name: &str, at: i64) -> EventRecord {
    let mut event = EventRecord::now(EventLevel::Warn, name, "text").with("rounds", 3);
    event.at_unix_ms = at;
    event
}

fn transition(epoch: u64, at: i64) -> TransitionRecord {
    TransitionRecord {
        at_unix_ms: at,
        epoch,
        from: "standby".into(),
        to: "primary".into(),
        why: "peer silent".into(),
    }
}

fn open(dir: &tempfile::TempDir) -> Journal {
    Journal::open(&dir.path().join("journal.db"), CAP).expect("the thread starts")
}

#[test]
fn keeps_what_it_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(&dir);
    let handle = journal.handle();
    let minute = LinkMinute {
        at_unix_ms: 60_000,
        link: "lan".into(),
        sent: 600,
        received: 599,
        loss_permille: 1,
        rtt_us_p50: Some(210),
        rtt_us_max: None,
    };
    handle.decision(decision("silent", 1));
    handle.transition(transition(4, 2));
    handle.event(event("vip-conflict", 3));
    handle.link_minute(minute.clone());
    assert!(handle.flush(PATIENCE));

    let stored = handle.decisions(10).unwrap();
    assert_eq!(stored.len(), 1);
    // A counter beyond SQLite's integers is kept as the largest one.
    let mut expected = decision("silent", 1);
    expected.fuel = i64::MAX as u64;
    assert_eq!(stored[0].first, expected);
    assert_eq!(handle.decision_by_id(stored[0].id).unwrap().as_ref(), Some(&stored[0]));
    assert_eq!(handle.decision_by_id(77).unwrap(), None);
    assert_eq!(handle.link_minutes(5).unwrap(), [minute]);
    let history = handle.history(10).unwrap();
    assert_eq!(
        history,
        [HistoryLine::Event(event("vip-conflict", 3)), HistoryLine::Transition(transition(4, 2))]
    );
    assert!(handle.alarms().is_empty());
    journal.close(PATIENCE);
}

#[test]
fn equal_consecutive_decisions_share_a_row() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(&dir);
    let handle = journal.handle();
    for (reason, at) in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("a", 5)] {
        handle.decision(decision(reason, at));
        // A decision of another kind in between does not end the run.
        handle.decision(DecisionRecord { kind: "license".into(), ..decision("ok", at) });
    }
    assert!(handle.flush(PATIENCE));
    let rows: Vec<_> = handle
        .decisions(10)
        .unwrap()
        .into_iter()
        .map(|d| (d.first.kind, d.first.reason, d.count, d.first.at_unix_ms, d.last_at_unix_ms))
        .collect();
    let row = |kind: &str, reason: &str, count, first, last| {
        (kind.to_owned(), reason.to_owned(), count, first, last)
    };
    assert_eq!(
        rows,
        [
            row("failover", "a", 1, 5, 5),
            row("failover", "b", 1, 4, 4),
            row("license", "ok", 5, 1, 5),
            row("failover", "a", 3, 1, 3),
        ]
    );
    assert_eq!(handle.recent()[0].question, "peer-silent");
}

#[test]
fn numbers_go_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    for life in 1..=3 {
        let journal = open(&dir);
        journal.handle().decision(decision("again", life));
        journal.close(PATIENCE);
    }
    let journal = open(&dir);
    let ids: Vec<i64> = journal.handle().decisions(9).unwrap().iter().map(|d| d.id).collect();
    assert_eq!(ids, [3, 2, 1]);
}

#[test]
fn a_broken_file_is_moved_aside_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    for number in 1..=2 {
        std::fs::write(&path, vec![0x55; 8192]).unwrap();
        let journal = open(&dir);
        let handle = journal.handle();
        handle.transition(transition(number, 9));
        assert!(handle.flush(PATIENCE));
        assert_eq!(handle.transitions(5).unwrap().len(), 1);
        assert_eq!(handle.events(5).unwrap()[0].name, "journal-replaced");
        assert_eq!(handle.alarms()[0].name, "journal-replaced");
        let aside = dir.path().join(format!("journal.db.broken-{number}"));
        assert_eq!(std::fs::read(aside).unwrap(), vec![0x55; 8192]);
        journal.close(PATIENCE);
    }
}

#[test]
fn a_file_of_another_layout_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA user_version = 99; CREATE TABLE x (y)").unwrap();
    drop(db);
    let journal = open(&dir);
    assert!(journal.handle().flush(PATIENCE));
    let text = &journal.handle().events(1).unwrap()[0].text;
    assert!(text.contains("layout 99 is of another version"), "{text}");
}

#[test]
fn breaks_while_running_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    let journal = open(&dir);
    let handle = journal.handle();
    handle.transition(transition(1, 1));
    assert!(handle.flush(PATIENCE));
    // What a failing disk does: the pages under the open file are garbage, and the log is gone.
    let db = rusqlite::Connection::open(&path).unwrap();
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(db);
    std::fs::write(&path, vec![0x55; 64 * 1024]).unwrap();
    for epoch in 2..40 {
        handle.transition(transition(epoch, 2));
        assert!(handle.flush(PATIENCE));
    }
    assert!(handle.transitions(50).unwrap().iter().any(|t| t.epoch == 39));
    assert!(dir.path().join("journal.db.broken-1").exists());
    assert_eq!(handle.alarms()[0].name, "journal-replaced");
}

#[test]
fn a_missing_folder_is_an_alarm_until_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("state");
    let journal = Journal::open(&folder.join("journal.db"), CAP).unwrap();
    let handle = journal.handle();
    handle.decision(decision("early", 1));
    assert!(handle.flush(PATIENCE));
    let alarms = handle.alarms();
    assert_eq!(alarms[0].name, "journal-failing");
    assert!(alarms[0].text.contains("is the folder there"), "{}", alarms[0].text);
    assert_eq!(handle.recent().len(), 1, "status shows it all the same");
    assert!(handle.decisions(1).unwrap().is_empty());

    std::fs::create_dir(&folder).unwrap();
    assert!(handle.flush(PATIENCE));
    assert!(handle.alarms().is_empty(), "{:?}", handle.alarms());
    assert_eq!(handle.decisions(1).unwrap()[0].first.reason, "early");
}

#[test]
fn a_sender_never_waits_and_losses_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&dir.path().join("none/journal.db"), CAP).unwrap();
    let handle = journal.handle();
    let sent = 4 * QUEUE_MESSAGES_MAX as u64;
    let begun = std::time::Instant::now();
    for at in 0..sent {
        handle.event(event("flood", at as i64));
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(handle.flush(PATIENCE));
    assert!(handle.dropped() > 0 && handle.dropped() < sent);
    assert_eq!(handle.alarms().last().unwrap().name, "journal-records-lost");

    let huge = DecisionRecord { situation: "x".repeat(QUEUE_BYTES_MAX + 1), ..decision("big", 1) };
    let before = handle.dropped();
    handle.decision(huge);
    assert_eq!(handle.dropped(), before + 1);
}

#[test]
fn stays_below_its_cap() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    let cap = 2 * 1024 * 1024;
    let journal = Journal::open(&path, cap).unwrap();
    let handle = journal.handle();
    handle.transition(transition(1, 0));
    for at in 0..600 {
        let situation = "s".repeat(20_000);
        handle.decision(DecisionRecord { situation, ..decision(&format!("r{at}"), at) });
        if at % 20 == 0 {
            assert!(handle.flush(PATIENCE));
            let size = |suffix: &str| {
                std::fs::metadata(format!("{}{suffix}", path.display())).map_or(0, |m| m.len())
            };
            assert!(size("") <= cap, "{} bytes", size(""));
        }
    }
    assert!(handle.flush(PATIENCE));
    assert_eq!(handle.dropped(), 0);
    assert!(handle.alarms().is_empty(), "{:?}", handle.alarms());
    let kept = handle.decisions(1000).unwrap();
    assert_eq!(kept[0].first.reason, "r599");
    assert!(kept.len() > 20 && kept.len() < 300, "{} rows", kept.len());
    assert_eq!(handle.transitions(9).unwrap().len(), 1, "the oldest bulk goes first");
}
