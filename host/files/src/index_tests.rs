use super::*;
use crate::digest::{self, Digest};
use crate::entry::{Entry, Kind, Stamp};
use proptest::prelude::*;
use std::collections::BTreeMap;
use tempfile::TempDir;

fn path(text: &str) -> TreePath {
    TreePath::parse(text.as_bytes()).unwrap()
}

/// Every number gives another row.
fn row(kind: Kind, number: u64) -> Row {
    let is_dir = kind == Kind::Dir;
    let content = if is_dir { Digest::default() } else { digest::hash(&number.to_le_bytes()) };
    let xattrs =
        if number % 5 == 1 { digest::hash(&number.to_be_bytes()) } else { Digest::default() };
    let entry = Entry {
        kind,
        mode: if is_dir { 0o755 } else { 0o640 },
        uid: u32::MAX - number as u32,
        gid: number as u32,
        mtime_ns: -5 + number as i64,
        size: if is_dir { 0 } else { number },
        content,
        xattrs,
        linked: !is_dir && number % 7 == 1,
    };
    let ctime_ns = if is_dir { 0 } else { number as i64 * 2 };
    let ino = u64::MAX - number / 4;
    let stamp = Stamp { ino, btime_ns: number as i64, ctime_ns };
    Row { entry, stamp, racy: number % 3 == 1, shared: number % 4 == 1 }
}

fn file(number: u64) -> Row {
    row(Kind::File, number)
}

fn dir(number: u64) -> Row {
    row(Kind::Dir, number)
}

struct Place {
    home: TempDir,
}

impl Place {
    fn new() -> Place {
        Place { home: TempDir::new().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.home.path().join("index.db")
    }

    fn open(&self) -> Index {
        Index::open(&self.file()).unwrap()
    }
}

/// An index with these rows; those that end with a slash are folders.
fn with(place: &Place, paths: &[&str]) -> Index {
    let mut index = place.open();
    index.put(&TreePath::root(), &dir(0)).unwrap();
    for (number, text) in paths.iter().enumerate() {
        let number = number as u64 + 1;
        match text.strip_suffix('/') {
            Some(text) => index.put(&path(text), &dir(number)).unwrap(),
            None => index.put(&path(text), &file(number)).unwrap(),
        }
    }
    index
}

/// What an index must say, said in the simplest way.
#[derive(Debug, Clone, Default)]
struct Model(BTreeMap<TreePath, Row>);

impl Model {
    fn is_dir(&self, path: &TreePath) -> bool {
        self.0.get(path).is_some_and(|row| row.entry.kind == Kind::Dir)
    }

    fn has_folder_for(&self, path: &TreePath) -> bool {
        path.parent().is_none_or(|parent| self.is_dir(&parent))
    }

    fn put(&mut self, path: &TreePath, row: &Row) -> bool {
        let is_dir = row.entry.kind == Kind::Dir;
        if !self.has_folder_for(path) || (path.is_root() && !is_dir) {
            return false;
        }
        if !is_dir {
            self.remove(path);
        }
        self.0.insert(path.clone(), *row);
        true
    }

    fn remove(&mut self, path: &TreePath) -> Totals {
        let totals = self.totals(path).unwrap_or_default();
        self.0.retain(|other, _| !other.is_within(path));
        totals
    }

    fn rename(&mut self, from: &TreePath, to: &TreePath) -> bool {
        if from == to {
            return self.0.contains_key(from);
        }
        let nested = from.is_within(to) || to.is_within(from);
        if nested || !self.0.contains_key(from) || !self.has_folder_for(to) {
            return false;
        }
        self.remove(to);
        let rows = std::mem::take(&mut self.0);
        self.0 = rows.into_iter().map(|(p, row)| (p.moved(from, to).unwrap_or(p), row)).collect();
        true
    }

    fn share(&mut self, path: &TreePath) {
        let within = self.0.iter_mut().filter(|(other, _)| other.is_within(path));
        within.for_each(|(_, row)| row.shared = true);
    }

    fn children(&self, path: &TreePath) -> Option<Vec<Child>> {
        let is_child = |other: &TreePath| other.parent().as_ref() == Some(path);
        let children = self.0.iter().filter(|(other, _)| is_child(other));
        let mut children: Vec<_> = children
            .map(|(other, row)| (other.name().into(), *row, self.sum(other).unwrap()))
            .collect();
        children.sort_by(|a: &Child, b| a.0.cmp(&b.0));
        self.is_dir(path).then_some(children)
    }

    fn sum(&self, path: &TreePath) -> Option<u128> {
        let below = self.children(path).unwrap_or_default();
        let below = below.iter().fold(0u128, |sum, (_, _, child)| sum.wrapping_add(*child));
        Some(self.0.get(path)?.entry.sum(path.name(), below))
    }

    fn totals(&self, path: &TreePath) -> Option<Totals> {
        let rows = || self.0.iter().filter(|(other, _)| other.is_within(path)).map(|(_, row)| row);
        let files = rows().filter(|row| row.entry.kind == Kind::File);
        let bytes = files.map(|row| row.entry.size).sum();
        self.0.contains_key(path).then(|| Totals { entries: rows().count() as u64, bytes })
    }

    fn unshared(&self) -> Vec<TreePath> {
        self.0.iter().filter(|(_, row)| !row.shared).map(|(path, _)| path.clone()).collect()
    }

    fn check(&self, index: &mut Index, paths: &[TreePath]) {
        for path in paths {
            assert_eq!(index.get(path).unwrap(), self.0.get(path).copied(), "{path}");
            assert_eq!(index.sum(path).unwrap(), self.sum(path), "sum of {path}");
            assert_eq!(index.totals(path).unwrap(), self.totals(path), "totals of {path}");
            assert_eq!(index.children(path).unwrap(), self.children(path), "children of {path}");
        }
        let mut unshared = index.list_unshared(usize::MAX).unwrap();
        unshared.sort();
        assert_eq!(unshared, self.unshared());
        assert_eq!(index.unshared().unwrap(), unshared.len() as u64);
        for number in 0..8 {
            let ino = file(number * 4).stamp.ino;
            let mut found = index.by_inode(ino).unwrap();
            found.sort();
            let rows = self.0.iter().filter(|(_, row)| row.stamp.ino == ino);
            assert_eq!(found, rows.map(|(path, _)| path.clone()).collect::<Vec<_>>());
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Put(usize, Kind, u64),
    Remove(usize),
    Rename(usize, usize),
    Share(usize),
    /// With a sum that it had before.
    ShareLate(usize),
    ShareAll,
    Sum(usize),
    Commit,
    Reopen,
    /// What was said since the last commit is lost.
    Crash,
}

/// All paths of up to four names out of three, and the root first.
fn paths() -> Vec<TreePath> {
    let mut paths = vec![TreePath::root()];
    let mut at = 0;
    while let Some(path) = paths.get(at).filter(|path| path.depth() < 4).cloned() {
        paths.extend([b"a".as_slice(), b"\xffb", b"c d"].map(|name| path.join(name).unwrap()));
        at += 1;
    }
    paths
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    // Those near the root more often: below nothing there is nothing.
    let at = || prop_oneof![4 => 0..4usize, 6 => 1..13usize, 4 => 4..40usize, 1 => 40..121usize];
    let kind = prop_oneof![3 => Just(Kind::Dir), 2 => Just(Kind::File), 1 => Just(Kind::Symlink)];
    let op = prop_oneof![
        16 => (at(), kind, 0..32u64).prop_map(|(at, kind, number)| Op::Put(at, kind, number)),
        3 => (1..121usize).prop_map(Op::Remove),
        1 => at().prop_map(Op::Remove),
        6 => (at(), at()).prop_map(|(from, to)| Op::Rename(from, to)),
        3 => at().prop_map(Op::Share),
        1 => at().prop_map(Op::ShareLate),
        1 => Just(Op::ShareAll),
        2 => at().prop_map(Op::Sum),
        2 => Just(Op::Commit),
        1 => Just(Op::Reopen),
        1 => Just(Op::Crash),
    ];
    proptest::collection::vec(op, 1..80)
}

/// Does it to both; says whether both agree that it can be done.
fn apply(op: &Op, paths: &[TreePath], index: &mut Index, model: &mut Model) {
    match op {
        Op::Put(at, kind, number) => {
            let row = row(*kind, *number);
            let done = index.put(&paths[*at], &row).is_ok();
            assert_eq!(done, model.put(&paths[*at], &row), "{op:?} {}", paths[*at]);
        }
        Op::Remove(at) => {
            let totals = index.remove(&paths[*at]).unwrap();
            assert_eq!(totals, model.remove(&paths[*at]), "{op:?}");
        }
        Op::Rename(from, to) => {
            let done = index.rename(&paths[*from], &paths[*to]).is_ok();
            assert_eq!(done, model.rename(&paths[*from], &paths[*to]), "{op:?}");
        }
        Op::Share(at) => {
            if let Some(sum) = index.sum(&paths[*at]).unwrap() {
                index.share(&paths[*at], sum).unwrap();
                model.share(&paths[*at]);
            }
        }
        Op::ShareLate(at) => {
            let sum = index.sum(&paths[*at]).unwrap().unwrap_or_default();
            index.share(&paths[*at], sum ^ 1).unwrap();
        }
        Op::ShareAll => {
            index.share_all().unwrap();
            model.share(&TreePath::root());
        }
        Op::Sum(at) => assert_eq!(index.sum(&paths[*at]).unwrap(), model.sum(&paths[*at])),
        Op::Commit | Op::Reopen | Op::Crash => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn an_index_says_what_the_simplest_one_says(ops in ops()) {
        let place = Place::new();
        let paths = paths();
        let (mut index, mut model) = (place.open(), Model::default());
        let mut committed = model.clone();
        for op in &ops {
            apply(op, &paths, &mut index, &mut model);
            if matches!(op, Op::Commit | Op::Reopen) {
                index.commit().unwrap();
                committed = model.clone();
            }
            if matches!(op, Op::Crash) {
                model = committed.clone();
            }
            if matches!(op, Op::Reopen | Op::Crash) {
                drop(index);
                index = place.open();
            }
            prop_assert_eq!(index.unshared().unwrap(), model.unshared().len() as u64);
        }
        model.check(&mut index, &paths);
        index.commit().unwrap();
        drop(index);
        model.check(&mut place.open(), &paths);
    }
}

#[test]
fn equal_trees_have_equal_sums_however_they_were_built() {
    let (one, two) = (Place::new(), Place::new());
    let names = ["a/", "a/x", "a/b/", "a/b/y", "c/", "c/z"];
    let mut forth = with(&one, &names);
    let mut back = with(&two, &["c/", "gone/", "a/", "a/gone", "gone/below/"]);
    for at in (0..names.len()).rev().filter(|at| names[*at].ends_with('/')).rev() {
        back.put(&path(names[at].trim_end_matches('/')), &dir(at as u64 + 1)).unwrap();
        back.sum(&TreePath::root()).unwrap();
    }
    back.put(&path("gone/below/q"), &file(2)).unwrap();
    back.rename(&path("gone/below/q"), &path("a/x")).unwrap();
    back.put(&path("c/z"), &file(6)).unwrap();
    back.put(&path("a/b/y"), &file(4)).unwrap();
    assert_ne!(forth.sum(&TreePath::root()).unwrap(), back.sum(&TreePath::root()).unwrap());
    back.remove(&path("gone")).unwrap();
    back.remove(&path("a/gone")).unwrap();
    assert_eq!(forth.sum(&TreePath::root()).unwrap(), back.sum(&TreePath::root()).unwrap());
}

#[test]
fn a_row_without_a_folder_is_refused_by_name_and_changes_nothing() {
    let place = Place::new();
    let mut index = with(&place, &["a/", "f"]);
    let before = index.sum(&TreePath::root()).unwrap();
    for orphan in ["b/c", "f/c", "a/b/c"] {
        let refused = index.put(&path(orphan), &file(1)).unwrap_err().to_string();
        let parent = path(orphan).parent().unwrap();
        assert!(refused.contains(&format!("'{orphan}'")), "{refused}");
        assert!(refused.contains(&format!("'{parent}'")), "{refused}");
        assert!(refused.contains("index.db"), "{refused}");
    }
    assert!(index.rename(&path("a"), &path("a/b")).is_err());
    assert!(index.rename(&path("a"), &TreePath::root()).is_err());
    assert!(index.rename(&path("nothing"), &path("b")).is_err());
    assert!(index.put(&TreePath::root(), &file(1)).is_err());
    assert!(index.is_stirred());
    assert_eq!(index.sum(&TreePath::root()).unwrap(), before);
}

#[test]
fn saying_what_is_known_costs_nothing() {
    let place = Place::new();
    let mut index = with(&place, &["a/", "f"]);
    index.set_note("epoch", &[7]).unwrap();
    index.commit().unwrap();
    assert!(!index.is_stirred());
    index.put(&path("a"), &dir(1)).unwrap();
    index.put(&path("f"), &file(2)).unwrap();
    index.remove(&path("nothing")).unwrap();
    index.share(&path("f"), 5).unwrap();
    assert!(!index.is_stirred());
    drop(index);
    let index = place.open();
    assert_eq!(index.note("epoch").unwrap(), Some(vec![7]));
    assert_eq!(index.note("other").unwrap(), None);
}

#[test]
fn a_folder_that_is_moved_costs_one_row() {
    let place = Place::new();
    let mut index = with(&place, &["a/", "a/b/", "a/b/f", "c/"]);
    index.commit().unwrap();
    let changes = |index: &Index| index.book.as_ref().unwrap().store.db.total_changes();
    let before = changes(&index);
    index.rename(&path("a"), &path("c/a")).unwrap();
    index.commit().unwrap();
    assert_eq!(changes(&index) - before, 1);
    assert_eq!(index.get(&path("c/a/b/f")).unwrap(), Some(file(3)));
}

#[test]
fn at_most_64_paths_of_an_inode_are_told_and_no_more_of_a_list_than_asked_for() {
    let place = Place::new();
    let mut index = with(&place, &["a/"]);
    for at in 0..100 {
        index.put(&path(&format!("a/{at}")), &file(10)).unwrap();
    }
    assert_eq!(index.by_inode(file(10).stamp.ino).unwrap().len(), 64);
    assert_eq!(index.list_unshared(10).unwrap().len(), 10);
}

#[test]
fn what_is_no_index_is_put_aside() {
    let place = Place::new();
    let aside = |number: u32| place.home.path().join(format!("index.db.damaged-{number}"));
    std::fs::write(place.file(), [7; 9_000]).unwrap();
    drop(place.open());
    assert_eq!(std::fs::read(aside(1)).unwrap(), [7; 9_000]);

    // Another version, which kept other sums of its entries.
    drop(with(&place, &["a/"]));
    let other = rusqlite::Connection::open(place.file()).unwrap();
    other.execute_batch("PRAGMA application_id = 5").unwrap();
    drop(other);
    assert_eq!(place.open().get(&TreePath::root()).unwrap(), None);
    assert!(aside(2).exists());

    // Another program's.
    let other = rusqlite::Connection::open(place.file()).unwrap();
    other.execute_batch("DROP TABLE folders; PRAGMA application_id = 0").unwrap();
    drop(other);
    drop(place.open());
    assert!(aside(3).exists());

    // Folders that are no tree.
    let mut index = with(&place, &["a/", "a/b/"]);
    index.commit().unwrap();
    drop(index);
    let other = rusqlite::Connection::open(place.file()).unwrap();
    other.execute_batch("UPDATE folders SET parent = 2 WHERE id = 1").unwrap();
    drop(other);
    assert_eq!(place.open().get(&TreePath::root()).unwrap(), None);
    assert!(aside(4).exists());
    assert!(with(&place, &["a/"]).commit().is_ok());
}

#[test]
fn damage_that_is_met_later_is_put_aside_and_the_index_opens_again() {
    let place = Place::new();
    let mut index = with(&place, &["a/"]);
    for at in 0..5_000 {
        index.put(&path(&format!("a/{at}")), &file(at)).unwrap();
    }
    index.commit().unwrap();
    drop(index);
    let mut bytes = std::fs::read(place.file()).unwrap();
    let end = bytes.len();
    bytes[end / 2..].fill(0x5a);
    std::fs::write(place.file(), bytes).unwrap();
    let mut index = place.open();
    let met = (0..5_000).find_map(|at| index.get(&path(&format!("a/{at}"))).err()).unwrap();
    assert!(met.to_string().contains("index.db.damaged-1"), "{met}");
    assert!(index.get(&TreePath::root()).is_err(), "until it is opened again");
    drop(index);
    assert_eq!(place.open().get(&TreePath::root()).unwrap(), None);
}

#[test]
fn a_full_disk_loses_what_was_not_committed_and_nothing_else() {
    let place = Place::new();
    let mut index = with(&place, &["a/", "a/b/", "a/f"]);
    index.commit().unwrap();
    let sum = index.sum(&TreePath::root()).unwrap();
    let limit = |index: &Index, pages: u32| {
        let db = &index.book.as_ref().unwrap().store.db;
        let sql = format!("PRAGMA max_page_count = {pages}");
        db.query_row(&sql, [], |_| Ok(())).unwrap();
    };
    limit(&index, 30);
    // While it is told: folders are written with the commit, files at once.
    index.rename(&path("a/b"), &path("c")).unwrap();
    index.put(&path("c/d"), &dir(9)).unwrap();
    let full = (0..10_000).find_map(|at| index.put(&path(&format!("c/{at}")), &file(at)).err());
    let full = full.unwrap().to_string();
    assert!(full.contains("index.db") && full.contains("full"), "{full}");
    assert!(!index.is_stirred());
    assert_eq!(index.sum(&TreePath::root()).unwrap(), sum);
    assert_eq!(index.get(&path("c")).unwrap(), None);

    // With the commit.
    for at in 0..10_000 {
        index.put(&path(&format!("a/b/{at}")), &dir(at)).unwrap();
    }
    let full = index.commit().unwrap_err().to_string();
    assert!(full.contains("index.db") && full.contains("full"), "{full}");
    assert!(!index.is_stirred());
    assert_eq!(index.sum(&TreePath::root()).unwrap(), sum);

    limit(&index, 1_000_000);
    index.put(&path("a/b/g"), &file(3)).unwrap();
    index.commit().unwrap();
    let sum = index.sum(&TreePath::root()).unwrap();
    drop(index);
    assert_eq!(place.open().sum(&TreePath::root()).unwrap(), sum);
}

#[test]
fn an_index_that_is_in_use_is_not_put_aside() {
    let place = Place::new();
    let index = with(&place, &["a/"]);
    let refused = Index::open(&place.file()).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("locked"), "{refused}");
    drop(index);
    drop(place.open());
    assert_eq!(std::fs::read_dir(place.home.path()).unwrap().count(), 1);
}

/// Bytes of memory that this process occupies.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}

/// 1,000,000 files in 80,000 folders; run it alone.
#[test]
#[ignore = "measures: takes a minute"]
fn a_million_rows() {
    let place = Place::new();
    let before = resident();
    let mib = |bytes: u64| bytes.saturating_sub(before) as f64 / 1_048_576.0;
    let mut index = place.open();
    index.put(&TreePath::root(), &dir(0)).unwrap();
    let start = std::time::Instant::now();
    let mut number = 0u64;
    for top in 0..100u64 {
        let top_path = path(&format!("customer-{top:03}"));
        index.put(&top_path, &dir(top)).unwrap();
        for day in 0..800u64 {
            let day_path = top_path.join(format!("2026-11-{day:03}").as_bytes()).unwrap();
            index.put(&day_path, &dir(1_000 + top * 800 + day)).unwrap();
            for call in 0..13u64 {
                number += 1;
                let mut file = Row { shared: false, ..file(number * 4) };
                // As ext4 gives them: each folder's beside one another, folders anywhere.
                let group = (top * 800 + day).wrapping_mul(2_654_435_761) % 80_000;
                file.stamp.ino = group * 16 + call;
                let name = format!("recording-{number:07}.wav");
                index.put(&day_path.join(name.as_bytes()).unwrap(), &file).unwrap();
            }
        }
    }
    index.commit().unwrap();
    let took = start.elapsed();
    println!(
        "put {number}: {:.0} rows/s, {:.1} MiB",
        number as f64 / took.as_secs_f64(),
        mib(resident())
    );
    let clock = std::time::Instant::now();
    index.sum(&TreePath::root()).unwrap();
    println!("settle: {:?}", clock.elapsed());
    let clock = std::time::Instant::now();
    index.put(&path("customer-050/2026-11-400/new"), &file(7)).unwrap();
    index.commit().unwrap();
    println!("one row and commit: {:?}", clock.elapsed());
    index.remove(&path("customer-050/2026-11-400/new")).unwrap();
    let mut took: Vec<_> = (0..2_000)
        .map(|at| {
            let clock = std::time::Instant::now();
            let path = path(&format!("customer-{:03}/2026-11-400/grows", at % 100));
            index.put(&path, &file(4 * at)).unwrap();
            index.commit().unwrap();
            clock.elapsed()
        })
        .collect();
    took.sort_unstable();
    println!(
        "2,000 of them: p50 {:?}, p99 {:?}, at most {:?}",
        took[1_000], took[1_980], took[1_999]
    );
    let clock = std::time::Instant::now();
    for ino in 0..1_000 {
        index.by_inode(ino * 977).unwrap();
    }
    println!("1,000 by_inode: {:?}", clock.elapsed());
    let clock = std::time::Instant::now();
    for at in (1..number).step_by(977) {
        let folder = (at - 1) / 13;
        let (top, day) = (folder / 800, folder % 800);
        let text = format!("customer-{top:03}/2026-11-{day:03}/recording-{at:07}.wav");
        assert!(index.get(&path(&text)).unwrap().is_some());
    }
    println!("1,064 get: {:?}", clock.elapsed());
    share_and_move(index, &place, mib);
}

fn share_and_move(mut index: Index, place: &Place, mib: impl Fn(u64) -> f64) {
    let clock = std::time::Instant::now();
    index.share_all().unwrap();
    index.commit().unwrap();
    println!("share_all: {:?}, {:.1} MiB", clock.elapsed(), mib(resident()));
    let sum = index.sum(&TreePath::root()).unwrap();
    drop(index);
    let bytes = std::fs::metadata(place.file()).unwrap().len();
    let clock = std::time::Instant::now();
    let mut index = place.open();
    assert_eq!(index.sum(&TreePath::root()).unwrap(), sum);
    println!("open: {:?}; file of {} MiB", clock.elapsed(), bytes >> 20);
    let clock = std::time::Instant::now();
    index.rename(&path("customer-050"), &path("other")).unwrap();
    index.commit().unwrap();
    println!("rename of 10,000 files: {:?}", clock.elapsed());
    let clock = std::time::Instant::now();
    index.remove(&path("other")).unwrap();
    index.commit().unwrap();
    println!("remove of them: {:?}", clock.elapsed());
}
