use super::*;
use crate::changes::Changes;
use crate::differ::Differ;
use std::process::Command;
use std::rc::Rc;

fn database(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("a.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
    path
}

/// Whether another program can write: locks of this very process are SQLite's own matter.
fn others_write(path: &Path) -> bool {
    let program = "import sqlite3,sys\nc=sqlite3.connect(sys.argv[1],timeout=0)\n\
                   c.execute('insert into t values(1)')\nc.commit()";
    let output = Command::new("python3").args(["-c", program]).arg(path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.contains("locked"), "{said}");
    output.status.success()
}

#[test]
fn a_reading_that_ends_late_takes_no_lock_of_the_next_opening() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(&folder);
    let first = Rc::new(Attached::open_as_is(&path).unwrap());
    let before = Arc::downgrade(&first.files);
    let mut differ = Differ::start(first).unwrap();
    let (late, _) = differ.snapshot(&mut Changes::new(1 << 20)).unwrap();
    drop(differ);
    let second = Attached::open_as_is_again(&path, &before).unwrap();
    let mut differ = Differ::start(Rc::new(second)).unwrap();
    assert!(differ.hold_writers(Duration::ZERO).unwrap());
    assert!(!others_write(&path));
    drop(late);
    assert!(!others_write(&path), "writers were held");
    differ.release_writers().unwrap();
    assert!(others_write(&path));
}

#[test]
fn another_journal_mode_waits_for_the_readings_of_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(&folder);
    let as_is = Attached::open_as_is(&path).unwrap();
    let before = Arc::downgrade(&as_is.files);
    let kept = Arc::clone(&as_is.files);
    drop(as_is);
    let in_use = |result| matches!(result, Err(AttachError::InUse { .. }));
    assert!(in_use(Attached::open_again(&path, &before)));
    drop(kept);
    let log = Attached::open_again(&path, &before).unwrap();
    let (before, kept) = (Arc::downgrade(&log.files), Arc::clone(&log.files));
    let_wal_go(log.keeper());
    let mode: String =
        log.keeper().query_row("PRAGMA journal_mode=DELETE", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete");
    drop(log);
    assert!(in_use(Attached::open_as_is_again(&path, &before).map(|_| unreachable!())));
    drop(kept);
    assert!(Attached::open_as_is_again(&path, &before).is_ok());
}

/// Whoever reads the new file under another name must not find its log gone, and whoever opens it
/// at this moment must not have opened the former one's.
#[test]
fn a_former_log_stays_while_anybody_reads_the_new_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(&folder);
    let log = Attached::open(&path).unwrap();
    let (files, path) = (Arc::clone(&log.files), log.path.clone());
    drop(log);
    let new = folder.path().join("new.db");
    let reader = Connection::open(&new).unwrap();
    reader.execute_batch("CREATE TABLE t(a); BEGIN; SELECT * FROM t").unwrap();
    std::fs::rename(&new, &path).unwrap();
    assert!(matches!(files.sweep(&path), Err(AttachError::FormerLog { .. })));
    assert!(beside(&path, "-wal").exists() && beside(&path, "-shm").exists());
    reader.execute_batch("COMMIT").unwrap();
    files.sweep(&path).unwrap();
    assert!(!beside(&path, "-wal").exists() && !beside(&path, "-shm").exists());
}

#[test]
fn the_log_of_a_file_that_is_there_is_not_swept() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(&folder);
    let log = Attached::open(&path).unwrap();
    let (files, path) = (Arc::clone(&log.files), log.path.clone());
    drop(log);
    files.sweep(&path).unwrap();
    assert!(beside(&path, "-wal").exists() && beside(&path, "-shm").exists());
}

#[test]
fn a_database_is_turned_to_wal_between_the_transactions_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(&folder);
    let other = Connection::open(&path).unwrap();
    // Nobody waits for one who is about to write: each would wait for the other.
    other.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES(1)").unwrap();
    let ends = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        other.execute_batch("COMMIT").unwrap();
        other
    });
    let attached = Attached::open(&path).unwrap();
    let mode: String =
        attached.keeper().query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
    drop(ends.join().unwrap());
}

#[test]
fn who_reads_for_long_is_waited_for_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(&folder);
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN; SELECT * FROM t").unwrap();
    // SQLite itself waits for readers: that long, and not that long for each attempt.
    let busy_wait = Duration::from_millis(250);
    let keeper = connect(&path, busy_wait).unwrap();
    let began = Instant::now();
    let busy = turn_to_wal(&keeper).unwrap_err();
    assert_eq!(busy.sqlite_error_code(), Some(ErrorCode::DatabaseBusy));
    assert!(began.elapsed() < 10 * busy_wait, "{:?}", began.elapsed());
}
