use super::*;
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
