use super::*;
use crate::fence::FenceError;
use crate::table::GROUP_PAGES;
use rusqlite::Connection;
use std::path::Path;
use tempfile::TempDir;

/// The owner of everything that these tests make.
fn owner() -> Owner {
    // SAFETY: cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    Owner { uid, gid, mode: 0o640 }
}

/// Applies to the copy what differs from the source; returns how many pages that were.
fn ship(source: &Attached, replica: &mut Replica) -> Result<usize, ApplyError> {
    let scan = Scan::begin(source)?;
    let wanted = scan.table(|| true)?.table;
    let has = replica.table().expect("adopted").clone();
    let theirs = |group| has.group(group).to_vec();
    let groups = 0..wanted.pages().div_ceil(GROUP_PAGES);
    let differing: Vec<u32> =
        groups.flat_map(|group| wanted.differing_pages(group, &theirs(group))).collect();
    replica.begin(wanted.pages())?;
    let mut bytes = Vec::new();
    // Not in their order: page 1 comes somewhere in between.
    let (late, early) = differing.split_at(differing.len() / 3);
    for page in early.iter().chain(late) {
        assert!(scan.snapshot().page(*page, &mut bytes).expect("read"), "a page of the snapshot");
        replica.page(*page, &bytes)?;
    }
    replica.commit(wanted.sum(), wanted.pages())?;
    assert_eq!(replica.table(), Some(&wanted));
    Ok(differing.len())
}

/// A primary's database, written with SQL, and its copy.
struct Pair {
    // Connections before the descriptors of the same files.
    writer: Connection,
    source: Attached,
    replica: Replica,
    folder: TempDir,
}

impl Pair {
    fn new(page_bytes: u32, setup: &str) -> Pair {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("source.db");
        let writer = Connection::open(&path).expect("a database");
        let sql = format!("PRAGMA page_size={page_bytes}; {setup}; PRAGMA journal_mode=WAL");
        writer.execute_batch(&sql).expect("set up");
        let source = Attached::open(&path).expect("attached");
        let copy = folder.path().join("copy.db");
        create(&copy, page_bytes, owner()).expect("created");
        let replica = opened(&copy);
        Pair { writer, source, replica, folder }
    }

    fn copy(&self) -> PathBuf {
        self.folder.path().join("copy.db")
    }

    /// Writes to the source, and brings the copy up to it.
    fn step(&mut self, sql: &str) -> usize {
        self.writer.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let pages = ship(&self.source, &mut self.replica);
        let pages = pages.unwrap_or_else(|error| panic!("after {sql}: {error}"));
        self.check();
        pages
    }

    /// As after the end of the process that applied.
    fn reopen(&mut self) {
        let spare = tempfile::tempdir().expect("a folder");
        let other = spare.path().join("other.db");
        create(&other, self.source.page_bytes(), owner()).expect("created");
        drop(std::mem::replace(&mut self.replica, opened(&other)));
        self.replica = opened(&self.copy());
    }

    /// The copy is the source, page by page, and healthy.
    fn check(&self) {
        let table = |attached| Scan::begin(attached).unwrap().table(|| true).unwrap().table;
        assert_eq!(table(self.replica.attached()), table(&self.source));
        let reader = Connection::open(self.copy()).expect("the copy");
        let health: String =
            reader.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checked");
        assert_eq!(health, "ok");
    }
}

fn opened(copy: &Path) -> Replica {
    let attached = Attached::open(copy).expect("attached");
    let mut replica = Replica::open(Rc::new(attached), Durability::Applied).expect("opened");
    let scanned = replica.scan().expect("a snapshot").table(|| true).expect("a table");
    replica.adopt(scanned).expect("adopted");
    replica
}

const FILL: &str = "CREATE TABLE t(a INTEGER PRIMARY KEY, b, c); CREATE INDEX t_b ON t(b);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
    INSERT INTO t SELECT i, i % 97, hex(randomblob(i % 300)) FROM n";

#[test]
fn every_page_size_and_vacuum_mode_is_copied() {
    for page_bytes in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        for mode in 0..=2 {
            let mut pair = Pair::new(page_bytes, &format!("PRAGMA auto_vacuum={mode}"));
            assert!(pair.step(FILL) > 2);
            pair.step("UPDATE t SET c = 'x' WHERE a % 100 = 7");
            pair.step("DELETE FROM t WHERE a > 500; PRAGMA incremental_vacuum");
            pair.step("DROP INDEX t_b; CREATE TABLE u(a, b); INSERT INTO u SELECT a, c FROM t");
            pair.step("VACUUM");
            assert_eq!(pair.step("SELECT 1"), 0);
        }
    }
}

fn busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
}

/// A page 1 that parses, for transactions that never commit.
fn some_page(pair: &Pair, number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let scan = Scan::begin(&pair.source).expect("a snapshot");
    assert!(scan.snapshot().page(number, &mut bytes).expect("read"));
    bytes
}

fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Each step changes the schema and where its pages are: what the applier's connection parsed
/// before must not be used again.
#[test]
fn schema_changes_one_after_another_grow_and_shrink_the_copy() {
    let mut pair = Pair::new(512, "PRAGMA auto_vacuum=0");
    for round in 0..6 {
        let tables: String =
            (0..40).map(|i| format!("CREATE TABLE t{round}_{i}(a, b, c UNIQUE);")).collect();
        pair.step(&tables);
        pair.step(&format!("CREATE INDEX i{round} ON t{round}_0(a); DROP TABLE t{round}_1"));
        let drops: String = (2..38).map(|i| format!("DROP TABLE t{round}_{i};")).collect();
        pair.step(&format!("{drops} VACUUM"));
        pair.step(&format!("CREATE TABLE u{round}(a); DROP TABLE t{round}_0; VACUUM"));
    }
}

/// An applier that was just opened has read the schema of the copy to prepare its statements.
#[test]
fn the_first_transaction_after_an_opening_may_replace_the_schema() {
    let mut pair = Pair::new(512, "PRAGMA auto_vacuum=0");
    for round in 0..6 {
        let tables: String =
            (0..40).map(|i| format!("CREATE TABLE t{round}_{i}(a, b, c UNIQUE);")).collect();
        pair.step(&tables);
        pair.reopen();
        let drops: String = (2..38).map(|i| format!("DROP TABLE t{round}_{i};")).collect();
        pair.step(&format!("{drops} VACUUM"));
        pair.reopen();
    }
}

/// The copy frees its pages at each commit, and the page 1 that comes lists free ones.
#[test]
fn another_vacuum_mode_with_free_pages_comes_in_one_step() {
    for (from, to) in [(1, 0), (1, 2), (0, 1), (2, 1), (2, 0)] {
        let mut pair = Pair::new(1024, &format!("PRAGMA auto_vacuum={from}"));
        pair.step(FILL);
        let change = format!("PRAGMA auto_vacuum={to}; VACUUM; DELETE FROM t WHERE a % 1000 > 50");
        pair.step(&change);
        pair.step("INSERT INTO t(b) VALUES (1)");
        assert_eq!(number(&pair.writer, "PRAGMA auto_vacuum"), to);
    }
}

#[test]
fn a_wrong_sum_never_becomes_visible_and_the_next_transaction_passes() {
    let mut pair = Pair::new(4096, "PRAGMA auto_vacuum=0");
    pair.step(FILL);
    let before = pair.replica.table().cloned();
    let pages = before.as_ref().expect("known").pages();
    for pages_total in [pages, pages + 1, pages - 3] {
        pair.replica.begin(pages_total).expect("begun");
        pair.replica.page(3, &[1; 4096]).expect("taken");
        pair.replica.page(1, &some_page(&pair, 1)).expect("taken");
        let error = pair.replica.commit(12345, pages_total).expect_err("another sum");
        assert!(matches!(error, ApplyError::Sum { expected: 12345, .. }), "{error}");
        assert_eq!(pair.replica.table().cloned(), before);
        pair.check();
    }
    pair.step("UPDATE t SET c = 'again'");
}

#[test]
fn what_cannot_be_part_of_a_transaction_is_an_error_and_undoes_it() {
    let mut pair = Pair::new(4096, "PRAGMA auto_vacuum=0");
    pair.step(FILL);
    let before = pair.replica.table().cloned();
    let pages = before.as_ref().expect("known").pages();
    let first = some_page(&pair, 1);
    let mut other_size = first.clone();
    other_size[16..18].copy_from_slice(&8192u16.to_be_bytes());
    let wrong: [(u32, &[u8]); 5] =
        [(0, &[0; 4096]), (pages + 1, &[0; 4096]), (2, &[0; 512]), (2, &[]), (1, &other_size)];
    for (number, bytes) in wrong {
        pair.replica.begin(pages).expect("begun");
        pair.replica.page(2, &[3; 4096]).expect("taken");
        let error = pair.replica.page(number, bytes).expect_err("wrong");
        assert!(
            matches!(error, ApplyError::PageNumber { .. } | ApplyError::PageSize { .. }),
            "{error}"
        );
        assert_eq!(pair.replica.table().cloned(), before);
    }
    for count in [0, lock_page(4096), u32::MAX] {
        assert!(matches!(pair.replica.begin(count), Err(ApplyError::PageCount { .. })));
    }
    assert!(matches!(pair.replica.page(1, &first), Err(ApplyError::Order { .. })));
    assert!(matches!(pair.replica.commit(0, pages), Err(ApplyError::Order { .. })));
    pair.replica.begin(pages).expect("begun");
    assert!(matches!(pair.replica.begin(pages), Err(ApplyError::Order { .. })));
    pair.replica.begin(pages + 5000).expect("begun");
    assert!(matches!(pair.replica.commit(0, pages + 5000), Err(ApplyError::Gaps { .. })));
    pair.replica.begin(pages).expect("begun");
    assert!(matches!(pair.replica.commit(0, pages + 1), Err(ApplyError::PageCount { .. })));
    pair.check();
    assert_eq!(pair.replica.table().cloned(), before);
}

#[test]
fn pages_added_without_content_are_zeros() {
    let mut pair = Pair::new(4096, "PRAGMA auto_vacuum=0");
    pair.step(FILL);
    let mut wanted = pair.replica.table().cloned().expect("known");
    let pages = wanted.pages() + 3;
    let mut first = some_page(&pair, 1);
    first[28..32].copy_from_slice(&pages.to_be_bytes());
    // As of a primary that keeps its rollback journal: the copy is in WAL mode all the same.
    first[18..20].fill(1);
    wanted.set(1, page_hash(1, &first));
    wanted.set(pages - 1, page_hash(pages - 1, &[9; 4096]));
    wanted.resize(pages);
    pair.replica.begin(pages).expect("begun");
    pair.replica.page(1, &first).expect("taken");
    pair.replica.page(pages - 1, &[9; 4096]).expect("taken");
    pair.replica.commit(wanted.sum(), pages).expect("committed");
    let scan = pair.replica.scan().expect("a snapshot");
    let mut copied = Vec::new();
    assert!(scan.snapshot().page(1, &mut copied).expect("read"));
    assert_eq!(copied[18..20], [2, 2]);
    let found = scan.table(|| true).expect("hashed");
    assert_eq!((found.table, wanted.hash(pages)), (wanted, Some(page_hash(pages, &[0; 4096]))));
}

#[test]
fn a_large_transaction_that_fails_leaves_the_copy_and_asks_for_a_scan() {
    let mut pair = Pair::new(512, "PRAGMA auto_vacuum=0");
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150000) \
                INSERT INTO t SELECT i, i, zeroblob(200) FROM n";
    pair.step(&format!("CREATE TABLE t(a INTEGER PRIMARY KEY, b, c); {rows}"));
    let pages = pair.replica.table().expect("known").pages();
    assert!(pages as usize > UNDO_PAGES_MAX);
    pair.replica.begin(pages).expect("begun");
    for page in 2..=pages {
        pair.replica.page(page, &[5; 512]).expect("taken");
    }
    assert!(matches!(pair.replica.commit(1, pages), Err(ApplyError::Sum { .. })));
    assert!(matches!(pair.replica.begin(pages), Err(ApplyError::NoTable { .. })));
    let scanned = pair.replica.scan().expect("a snapshot").table(|| true).expect("hashed");
    pair.replica.adopt(scanned).expect("nobody wrote");
    pair.check();
    pair.step("DELETE FROM t WHERE a % 2; VACUUM");
}

#[test]
fn applications_cannot_write_under_the_fence_and_can_at_once_after_it() {
    let mut pair = Pair::new(4096, "PRAGMA auto_vacuum=0");
    pair.step("CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    let application = Connection::open(pair.copy()).expect("opens");
    application.busy_timeout(Duration::from_millis(20)).expect("set");
    assert_eq!(number(&application, "SELECT sum(a) FROM t"), 1);
    let error = application.execute_batch("INSERT INTO t VALUES (5)").expect_err("fenced");
    assert!(busy(&error), "{error}");
    pair.step("INSERT INTO t VALUES (2)");
    assert_eq!(number(&application, "SELECT sum(a) FROM t"), 3);

    let pages = pair.replica.table().expect("known").pages();
    pair.replica.begin(pages).expect("begun");
    let open = pair.replica.fence().release(pair.replica.attached());
    assert!(matches!(open, Err(FenceError::Writing { .. })));
    let stranger = pair.replica.fence().release(&pair.source);
    assert!(matches!(stranger, Err(FenceError::Stranger { .. })));
    let Pair { replica, .. } = pair;
    let (attached, fence) = replica.promote();
    assert!(busy(&application.execute_batch("INSERT INTO t VALUES (5)").expect_err("fenced")));
    fence.release(&attached).expect("released");
    application.busy_timeout(Duration::ZERO).expect("set");
    application.execute_batch("INSERT INTO t VALUES (4)").expect("at once");
    assert_eq!(number(&application, "SELECT sum(a) FROM t"), 7);
}

#[test]
fn a_follower_goes_on_under_a_fence_that_was_handed_over() {
    let mut pair = Pair::new(4096, "PRAGMA auto_vacuum=0");
    pair.step("CREATE TABLE t(a)");
    let Pair { replica, folder, .. } = pair;
    let (attached, fence) = replica.promote();
    let pass = fence.pass();
    fence.hand_over(&attached).expect("handed over");
    let application = Connection::open(folder.path().join("copy.db")).expect("opens");
    assert!(busy(&application.execute_batch("INSERT INTO t VALUES (1)").expect_err("locked")));
    let ours = pass.connect(attached.path()).expect("opens");
    assert!(busy(&ours.execute_batch("INSERT INTO t VALUES (1)").expect_err("no pass")));
    let mut follower = crate::Follower::start_fenced(attached).expect("follows");
    follower.release_writers().expect("released");
    application.busy_timeout(Duration::from_secs(5)).expect("set");
    application.execute_batch("INSERT INTO t VALUES (1)").expect("free");
}

#[test]
fn connections_under_the_fence_exclude_each_other() {
    let mut pair = Pair::new(4096, "PRAGMA auto_vacuum=0");
    pair.step("CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    let other = pair.replica.fence().pass().connect(&pair.copy()).expect("opens");
    let pages = pair.replica.table().expect("known").pages();
    pair.replica.begin(pages).expect("begun");
    assert!(busy(&other.execute_batch("BEGIN IMMEDIATE").expect_err("taken")));
    pair.replica.rollback();
    other.execute_batch("BEGIN IMMEDIATE; ROLLBACK").expect("free");
}

#[test]
fn a_write_of_somebody_else_is_seen_before_anything_is_applied() {
    let mut pair = Pair::new(4096, "PRAGMA auto_vacuum=0");
    pair.step("CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    assert!(!pair.replica.foreign_write());
    let pages = pair.replica.table().expect("known").pages();
    let scan = pair.replica.scan().expect("a snapshot");
    // Nobody gets through the fence: with a pass it can be played.
    let other = pair.replica.fence().pass().connect(&pair.copy()).expect("opens");
    other.execute_batch("INSERT INTO t VALUES (9)").expect("written");
    assert!(pair.replica.foreign_write());
    assert!(matches!(pair.replica.begin(pages), Err(ApplyError::Foreign { .. })));
    let early = scan.table(|| true).expect("hashed");
    assert!(matches!(pair.replica.adopt(early), Err(ApplyError::Foreign { .. })));
    let scanned = pair.replica.scan().expect("a snapshot").table(|| true).expect("hashed");
    pair.replica.adopt(scanned).expect("as it is now");
    pair.step("INSERT INTO t VALUES (2)");

    // Checkpoints are no writes.
    other.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").expect("checkpointed");
    assert!(!pair.replica.foreign_write());
    pair.replica.fence().release(pair.replica.attached()).expect("released");
    assert!(matches!(pair.replica.begin(pages), Err(ApplyError::NotFenced { .. })));
}

#[test]
fn the_wal_of_the_copy_stays_small_and_readers_wait_for_nothing() {
    let mut pair = Pair::new(4096, "PRAGMA auto_vacuum=0");
    pair.step("CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
    let reader = Connection::open(pair.copy()).expect("opens");
    let (mut largest, mut now) = (0, Instant::now());
    for round in 0..60 {
        pair.step(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 400) \
             INSERT OR REPLACE INTO t SELECT i + {}, randomblob(3000) FROM n",
            round % 3 * 400
        ));
        now += Duration::from_secs(1);
        pair.replica.tend(now).expect("tended");
        assert!(number(&reader, "SELECT count(*) FROM t") > 0);
        largest = largest.max(wal_bytes(pair.replica.attached()));
    }
    assert!(largest < 24 << 20, "{largest} bytes of WAL");
    pair.check();
}

#[test]
fn one_checkpoint_at_a_time_runs_beside_transactions() {
    let mut pair = Pair::new(4096, "PRAGMA auto_vacuum=0");
    pair.step("CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
    pair.step(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500) \
         INSERT INTO t SELECT i, randomblob(4000) FROM n",
    );
    let now = Instant::now();
    let due = pair.replica.checkpoint_due(now).expect("due");
    assert_eq!(due.kind(), CheckpointKind::Passive);
    let later = now + Duration::from_secs(5);
    assert!(pair.replica.checkpoint_due(later).is_none(), "one is under way");
    let pages = pair.replica.table().expect("known").pages();
    pair.replica.begin(pages).expect("begun");
    std::thread::spawn(move || due.run()).join().expect("ran").expect("nothing in the way");
    pair.replica.rollback();
    let seen = index::read(pair.replica.attached().shm()).expect("read");
    assert_eq!(seen.backfilled, seen.index.expect("whole").frames);
    assert!(pair.replica.checkpoint_due(later).is_none(), "nothing is waiting");
    pair.step("DELETE FROM t");
}

/// To begin the WAL anew takes the write lock first: a reader that does not end must not let the
/// next transaction wait for it.
#[test]
fn a_long_reader_delays_no_transaction_and_the_wal_is_given_back_after_it() {
    let mut pair = Pair::new(4096, "PRAGMA auto_vacuum=0");
    pair.step("CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
    let reader = Connection::open(pair.copy()).expect("opens");
    reader.execute_batch("BEGIN; SELECT count(*) FROM t").expect("reads");
    while wal_bytes(pair.replica.attached()) <= 64 << 20 {
        pair.step(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) \
             INSERT OR REPLACE INTO t SELECT i, randomblob(4000) FROM n",
        );
    }
    let now = Instant::now();
    let due = pair.replica.checkpoint_due(now).expect("due");
    assert_eq!(due.kind(), CheckpointKind::Restart);
    let begun = Instant::now();
    due.run().expect("nothing in the way is an error");
    let waited = begun.elapsed();
    assert_eq!(number(&reader, "SELECT count(*) FROM t"), 0, "it still reads");
    // SQLite's own patience would be rusqlite's: five seconds.
    assert!(waited < Duration::from_secs(3), "{waited:?}");
    // As long as it reads, the write lock is not asked for at every look.
    let mut after = |ms: u64| {
        let due = pair.replica.checkpoint_due(now + Duration::from_millis(ms));
        due.map(|due| (due.kind(), due.run().expect("nothing in the way is an error")).0)
    };
    assert_eq!(after(200), None);
    assert_eq!(after(1_500), Some(CheckpointKind::Restart));
    reader.execute_batch("COMMIT").expect("ends");
    assert_eq!(after(3_000), Some(CheckpointKind::Restart));
    pair.step("INSERT INTO t VALUES(0, 0)");
    let seen = index::read(pair.replica.attached().shm()).expect("read");
    assert!(seen.index.expect("whole").frames < 100, "the WAL began anew");
    // It is given back when nobody writes.
    let mut kinds = Vec::new();
    for ms in [4_000, 4_200, 5_500] {
        let due = pair.replica.checkpoint_due(now + Duration::from_millis(ms));
        kinds.push(due.map(|due| (due.kind(), due.run().expect("nothing in the way")).0));
    }
    assert_eq!(kinds, [None, None, Some(CheckpointKind::Truncate)]);
    assert_eq!(wal_bytes(pair.replica.attached()), 0);
    pair.step("DELETE FROM t WHERE a < 9");
}

/// Pages on both sides of the one that holds SQLite's lock bytes; the files are sparse.
#[test]
fn the_lock_page_is_neither_shipped_nor_missed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, copy) = (folder.path().join("source.db"), folder.path().join("copy.db"));
    let lock = lock_page(65536);
    let pages = lock + 5;
    {
        let writer = Connection::open(&path).expect("a database");
        writer.execute_batch("PRAGMA page_size=65536; CREATE TABLE t(a)").expect("made");
    }
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[28..32].copy_from_slice(&pages.to_be_bytes());
    for path in [&path, &copy] {
        std::fs::write(path, &bytes).expect("written");
        let file = std::fs::File::options().write(true).open(path).expect("opened");
        file.set_len(u64::from(pages) * 65536).expect("sparse");
    }
    let source = Attached::open(&path).expect("attached");
    let mut replica = opened(&copy);
    let mut change = |numbers: &[u32]| {
        let writer = Connection::open(&path).expect("opens");
        for number in numbers {
            writer
                .execute(
                    "INSERT INTO sqlite_dbpage(pgno, data) VALUES (?1, randomblob(65536))",
                    [number],
                )
                .expect("written");
        }
        assert_eq!(ship(&source, &mut replica).expect("shipped"), numbers.len());
    };
    change(&[lock - 1, lock + 1, pages]);
    change(&[lock + 2]);
    let scanned = replica.scan().expect("a snapshot").table(|| true).expect("hashed");
    assert_eq!(Some(&scanned.table), replica.table());
    assert_eq!((scanned.table.pages(), scanned.table.hash(lock)), (pages, None));
}

/// Gives this thread a disk of its own, of 3 MiB, in a folder. False where that is not allowed.
fn small_disk(folder: &Path) -> bool {
    let folder = std::ffi::CString::new(folder.as_os_str().as_encoded_bytes()).expect("a path");
    let (none, root) = (c"none".as_ptr(), c"/".as_ptr());
    // SAFETY: all strings end with a zero and outlive the calls; only this thread changes its
    // namespace.
    unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(none, root, none, libc::MS_REC | libc::MS_PRIVATE, std::ptr::null()) == 0
            && libc::mount(none, folder.as_ptr(), c"tmpfs".as_ptr(), 0, c"size=3m".as_ptr().cast())
                == 0
    }
}

/// A copy of all that there is, `copy.db` on a small disk; none, and said, where that is not
/// allowed. The test's own thread, and so all that it opens from here on, is where the disk is.
fn on_small_disk(source: &Attached) -> Option<(TempDir, Replica)> {
    let folder = tempfile::tempdir().expect("a folder");
    if !small_disk(folder.path()) {
        println!("SKIPPED: a small disk needs root and a mount namespace");
        return None;
    }
    let copy = folder.path().join("copy.db");
    create(&copy, source.page_bytes(), owner()).expect("created");
    let mut replica = opened(&copy);
    ship(source, &mut replica).expect("shipped");
    Some((folder, replica))
}

#[test]
fn a_full_disk_leaves_the_copy_as_it_was_and_is_no_end() {
    let mut pair = Pair::new(4096, "PRAGMA auto_vacuum=0");
    pair.step("CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
    let Some((folder, mut replica)) = on_small_disk(&pair.source) else { return };
    let before = replica.table().cloned();
    let ballast = folder.path().join("ballast");
    std::fs::write(&ballast, vec![1; 2 << 20]).expect("half full");
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 250) \
                INSERT INTO t SELECT i, zeroblob(4000) FROM n";
    pair.writer.execute_batch(rows).expect("written");
    for _ in 0..3 {
        let error = ship(&pair.source, &mut replica).expect_err("full");
        assert!(matches!(error, ApplyError::DiskFull { .. }), "{error}");
        assert_eq!(replica.table().cloned(), before);
        assert!(!replica.foreign_write());
        let scanned = replica.scan().expect("a snapshot").table(|| true).expect("hashed");
        assert_eq!(Some(scanned.table), before);
    }
    std::fs::remove_file(&ballast).expect("removed");
    ship(&pair.source, &mut replica).expect("there is room");
    let reader = Connection::open(folder.path().join("copy.db")).expect("opens");
    assert_eq!(number(&reader, "SELECT count(*) FROM t"), 250);
}

/// A transaction is undone after its schema was read: the next one must not read it anew in
/// between.
#[test]
fn a_transaction_that_is_undone_after_its_schema_was_read_can_come_again() {
    let mut pair = Pair::new(512, "PRAGMA auto_vacuum=0");
    let tables: String = (0..40).map(|i| format!("CREATE TABLE t{i}(a, b, c UNIQUE);")).collect();
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500) \
                INSERT INTO t0 SELECT i, randomblob(500), i FROM n";
    pair.step(&format!("{tables} {rows}"));
    let Some((folder, mut replica)) = on_small_disk(&pair.source) else { return };
    let drops: String = (1..38).map(|i| format!("DROP TABLE t{i};")).collect();
    let change = format!("{drops} DELETE FROM t0 WHERE a % 10 = 0; VACUUM");
    pair.writer.execute_batch(&change).expect("written");
    let ballast = folder.path().join("ballast");
    std::fs::write(&ballast, vec![1; 3 << 19]).expect("half full");
    let error = ship(&pair.source, &mut replica).expect_err("full");
    assert!(matches!(error, ApplyError::DiskFull { .. }), "{error}");
    std::fs::remove_file(&ballast).expect("removed");
    ship(&pair.source, &mut replica).expect("there is room");
}
