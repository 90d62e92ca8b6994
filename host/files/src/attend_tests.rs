//! Steps made by hand, on real disks.

#[path = "attend_crash_tests.rs"]
mod crash;
#[path = "attend_hostile_tests.rs"]
mod hostile;
#[path = "attend_kill_tests.rs"]
mod kill;
#[path = "attend_large_tests.rs"]
mod large;
#[path = "attend_local_tests.rs"]
mod local;

use super::durable::Flush;
use super::*;
use crate::digest::{self, Digest};
use crate::entry::{Entry, Kind, Xattr, Xattrs, link_sum};
use crate::tree::Aside;
use crate::watch::Hint;
use crate::wire::{Body, Deed, Frame, Refusal};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

const MTIME: i64 = 1_700_000_000_123_456_789;

fn path(text: &str) -> TreePath {
    TreePath::parse(text.as_bytes()).unwrap()
}

fn entry(kind: Kind, content: &[u8]) -> Entry {
    let of = if kind == Kind::Dir { Digest::default() } else { digest::content(content) };
    Entry {
        kind,
        mode: match kind {
            Kind::File => 0o640,
            Kind::Dir => 0o750,
            Kind::Symlink => 0o777,
        },
        uid: 0,
        gid: 0,
        mtime_ns: MTIME,
        size: content.len() as u64,
        content: of,
        xattrs: Digest::default(),
        linked: false,
    }
}

fn put<'a>(text: &str, bytes: &'a [u8]) -> Deed<'a> {
    let (entry, xattrs) = (entry(Kind::File, bytes), Xattrs::default());
    Deed::Put { path: path(text), entry, xattrs, body: Body::Bytes(bytes) }
}

fn put_dir(text: &str) -> Deed<'static> {
    let (entry, xattrs) = (entry(Kind::Dir, b""), Xattrs::default());
    Deed::Put { path: path(text), entry, xattrs, body: Body::Nothing }
}

fn put_link<'a>(text: &str, target: &'a [u8]) -> Deed<'a> {
    let (entry, xattrs) = (entry(Kind::Symlink, target), Xattrs::default());
    Deed::Put { path: path(text), entry, xattrs, body: Body::Bytes(target) }
}

fn append<'a>(text: &str, whole: &'a [u8], offset: usize) -> Deed<'a> {
    let entry = Entry { mtime_ns: MTIME + whole.len() as i64, ..entry(Kind::File, whole) };
    Deed::Append { path: path(text), entry, offset: offset as u64, bytes: &whole[offset..] }
}

/// A standby with a tree.
struct Bed {
    root: PathBuf,
    state: PathBuf,
    attend: Option<Attend>,
    seq: u64,
    /// What was made durable, and what was there at that time.
    flushed: Arc<Mutex<Vec<String>>>,
    said: Vec<Message>,
    _dirs: Vec<tempfile::TempDir>,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut bed = Self::at(dir.path());
        bed._dirs.push(dir);
        bed
    }

    /// With its tree on another disk.
    fn at(root: &Path) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut bed = Self {
            root: root.to_owned(),
            state: state.path().join("index"),
            attend: None,
            seq: 0,
            flushed: Arc::default(),
            said: Vec::new(),
            _dirs: vec![state],
        };
        bed.start(Arc::new(flush));
        bed
    }

    fn start(&mut self, flusher: Flusher) {
        self.open(flusher);
        self.offer();
    }

    fn open(&mut self, flusher: Flusher) {
        let tree = Tree::open(&self.root).unwrap();
        if tree.marker().unwrap().is_none() {
            tree.mark(&[1; 16]).unwrap();
        }
        let index = Index::open(&self.state).unwrap();
        let flushed = self.flushed.clone();
        let observed: Flusher = Arc::new(move |what: &Flush| {
            let name = match what {
                Flush::Each(files) => format!("each {}", files.len()),
                Flush::Whole(_) => "whole".to_owned(),
            };
            flushed.lock().unwrap().push(name);
            flusher(what)
        });
        let settings =
            Settings { ignores: Arc::new(Ignores::parse(&[]).unwrap()), flusher: observed };
        let wake: Wake = Arc::new(|| {});
        self.attend = Some(Attend::new(Arc::new(tree), index, settings, wake).unwrap());
    }

    fn offer(&mut self) {
        self.begin();
        self.run();
        assert!(matches!(self.said.pop(), Some(Message::Offer(7, _))));
        self.said.clear();
    }

    fn begin(&mut self) {
        self.seq = 0;
        self.attend().begin(7);
    }

    fn attend(&mut self) -> &mut Attend {
        self.attend.as_mut().unwrap()
    }

    /// Hands steps over as they would arrive: the number of the last.
    fn send(&mut self, deeds: Vec<Deed<'_>>) -> u64 {
        let mut steps = wire::Steps::default();
        for deed in deeds {
            self.seq += 1;
            steps.push(7, &Step { seq: self.seq, deed });
        }
        let bytes = steps.take();
        let Ok(Frame::Steps(7, steps)) = wire::frame(&bytes) else { panic!("no steps") };
        self.attend().steps(steps).unwrap();
        self.seq
    }

    fn turn(&mut self) -> bool {
        let mut out = Vec::new();
        let is_more = self.attend().turn(Instant::now(), &mut out);
        for frame in out {
            let Ok(Frame::Message(message)) = wire::frame(&frame) else { panic!("no message") };
            self.said.push(message);
        }
        is_more
    }

    /// Until nothing is left to do but to wait for more than a moment.
    fn run(&mut self) {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let is_more = self.turn();
            let attend = self.attend();
            let soon =
                attend.due().is_some_and(|due| due < Instant::now() + Duration::from_secs(2));
            if !is_more && !soon && attend.current.is_none() && attend.inbox.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "it never ends");
            if !is_more {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }

    fn take(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.said)
    }

    /// Does these steps; all must be acknowledged, in any order.
    fn apply(&mut self, deeds: Vec<Deed<'_>>) {
        self.apply_after(self.seq + 1, deeds);
        self.check();
    }

    /// The same, with those that are not acknowledged yet, from this number on.
    fn apply_after(&mut self, first: u64, deeds: Vec<Deed<'_>>) {
        let last = self.send(deeds);
        self.run();
        let mut acked = Vec::new();
        for message in self.take() {
            match message {
                Message::Ack(7, numbers) => acked.extend(numbers),
                other => panic!("{other:?}"),
            }
        }
        acked.sort_unstable();
        assert_eq!(acked, (first..=last).collect::<Vec<_>>());
    }

    /// Does one step, which must be refused.
    fn refused(&mut self, deed: Deed<'_>) -> Refusal {
        self.send(vec![deed]);
        self.run();
        let seq = self.seq;
        self.check();
        match self.take().as_slice() {
            [Message::Refuse(7, number, why), ..] if *number == seq => why.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// The index tells the truth of all that is on the disk.
    fn check(&mut self) {
        let mut folders = vec![TreePath::root()];
        while let Some(dir) = folders.pop() {
            let attend = self.attend();
            let there = attend.ground.tree.list(&dir).unwrap().unwrap();
            let known = attend.ground.index.children(&dir).unwrap().unwrap();
            let names: Vec<_> = there.iter().map(|(name, _)| name.clone()).collect();
            let rows: Vec<_> = known.iter().map(|(name, ..)| name.clone()).collect();
            assert_eq!(names, rows, "in {dir}");
            for ((name, found), (_, row, _)) in there.iter().zip(&known) {
                let path = dir.join(name).unwrap();
                assert!(row.describes(found), "{path}: {row:?} {found:?}");
                if found.kind == Some(Kind::Dir) {
                    folders.push(path);
                }
            }
        }
    }

    fn read(&self, text: &str) -> Vec<u8> {
        std::fs::read(self.root.join(text)).unwrap()
    }

    fn exists(&self, text: &str) -> bool {
        self.root.join(text).symlink_metadata().is_ok()
    }

    fn write(&self, text: &str, bytes: &[u8]) {
        std::fs::write(self.root.join(text), bytes).unwrap();
    }

    /// What was set aside: where it was, and what it is.
    fn aside(&mut self, aside: Aside) -> Vec<(String, Vec<u8>)> {
        let folder = match aside {
            Aside::Trash => "trash",
            Aside::Conflicts => "conflicts",
        };
        let mut kept: Vec<_> = self
            .attend()
            .ground
            .tree
            .kept(&aside, 1_000)
            .unwrap()
            .into_iter()
            .map(|kept| {
                let text = kept.path.to_string();
                let file = format!(".staffetta/{folder}/{}/tree/{text}", kept.stamp);
                (text, std::fs::read(self.root.join(file)).unwrap_or_default())
            })
            .collect();
        kept.sort();
        kept
    }

    fn sum(&mut self, text: &str) -> [u8; 16] {
        self.attend().ground.index.sum(&path(text)).unwrap().unwrap().to_le_bytes()
    }

    fn mtime(&self, text: &str) -> i64 {
        let meta = self.root.join(text).symlink_metadata().unwrap();
        meta.mtime() * 1_000_000_000 + meta.mtime_nsec()
    }
}

#[test]
fn files_folders_and_symlinks_appear_as_they_were_said() {
    let mut bed = Bed::new();
    let text = b"text".repeat(10_000);
    let packed = zstd::bulk::compress(&text, 1).unwrap();
    let xattrs = Xattrs(vec![Xattr { name: b"user.a".to_vec(), value: b"b".to_vec() }]);
    let dressed = Entry { uid: 3, gid: 4, mode: 0o4711, ..entry(Kind::File, &text) };
    let dressed = Entry { xattrs: xattrs.digest(), ..dressed };
    let body = Body::Packed(text.len() as u32, &packed);
    bed.apply(vec![
        put_dir("a"),
        put("a/b", b"one"),
        Deed::Put { path: path("a/packed"), entry: dressed, xattrs, body },
        put_dir("a/empty"),
        put_link("a/link", b"/nowhere/at all"),
        put("a/nothing", b""),
    ]);
    assert_eq!(bed.read("a/b"), b"one");
    assert_eq!(bed.read("a/packed"), text);
    let meta = bed.root.join("a/packed").metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.permissions().mode() & 0o7777), (3, 4, 0o4711));
    let target = std::fs::read_link(bed.root.join("a/link")).unwrap();
    assert_eq!(target, Path::new("/nowhere/at all"));
    bed.apply(vec![put_dir("")]);
    for text in ["", "a", "a/b", "a/packed", "a/empty", "a/link", "a/nothing"] {
        assert_eq!(bed.mtime(text), MTIME, "{text}");
    }
    assert!(bed.aside(Aside::Trash).is_empty() && bed.aside(Aside::Conflicts).is_empty());
    assert_eq!(bed.attend().status().counters.applied, 7);
    assert_eq!(bed.attend().status().counters.local_changes, 0);
}

#[test]
fn what_is_said_again_replaces_what_was_there() {
    let mut bed = Bed::new();
    bed.apply(vec![put("a", b"one")]);
    bed.apply(vec![put("a", b"two"), put("a", b"three")]);
    assert_eq!(bed.read("a"), b"three");
    bed.apply(vec![put_link("a", b"b"), put("a", b"four")]);
    assert_eq!(bed.read("a"), b"four");
    assert!(bed.aside(Aside::Conflicts).is_empty());
}

#[test]
fn owner_mode_and_time_change_without_the_content() {
    let mut bed = Bed::new();
    bed.apply(vec![put_dir("d"), put("d/a", b"one"), put_link("d/l", b"x")]);
    for (text, kind, bytes) in
        [("d", Kind::Dir, &b""[..]), ("d/a", Kind::File, b"one"), ("d/l", Kind::Symlink, b"x")]
    {
        let mode = if kind == Kind::Symlink { 0o777 } else { 0o700 };
        let entry = Entry { uid: 9, mode, mtime_ns: -5, ..entry(kind, bytes) };
        let (path, xattrs) = (path(text), Xattrs::default());
        bed.apply(vec![Deed::Put { path, entry, xattrs, body: Body::Kept }]);
        let meta = bed.root.join(text).symlink_metadata().unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o7777), (9, mode), "{text}");
    }
    assert_eq!((bed.mtime("d"), bed.mtime("d/a")), (-5, -5));
    let (path, xattrs, entry) = (path("d/a"), Xattrs::default(), entry(Kind::File, b"two"));
    let other = Deed::Put { path, entry, xattrs, body: Body::Kept };
    assert_eq!(bed.refused(other), Refusal::Missing);
    assert_eq!(bed.read("d/a"), b"one");
}

#[test]
fn what_is_deleted_goes_to_the_trash() {
    let mut bed = Bed::new();
    bed.apply(vec![put_dir("d"), put("d/a", b"one"), put_dir("d/e"), put("d/e/b", b"two")]);
    bed.apply(vec![put("f", b"three"), put_link("l", b"x")]);
    bed.apply(vec![Deed::Delete(path("f")), Deed::Delete(path("l")), Deed::Delete(path("d"))]);
    assert!(!bed.exists("d") && !bed.exists("f") && !bed.exists("l"));
    bed.apply(vec![Deed::Delete(path("d/nothing/there"))]);
    let names: Vec<_> = bed.aside(Aside::Trash).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["d", "f", "l"]);
    assert!(bed.aside(Aside::Conflicts).is_empty());
}

#[test]
fn one_kind_replaces_another() {
    let mut bed = Bed::new();
    bed.apply(vec![put_dir("a"), put("a/x", b"1"), put("b", b"2"), put_link("c", b"3")]);
    bed.apply(vec![put("a", b"4"), put_dir("b"), put("b/y", b"5"), put_dir("c")]);
    assert_eq!((bed.read("a"), bed.read("b/y")), (b"4".to_vec(), b"5".to_vec()));
    bed.apply(vec![put_link("b", b"6"), put_link("a", b"7")]);
    assert_eq!(std::fs::read_link(bed.root.join("b")).unwrap(), Path::new("6"));
    let names: Vec<_> = bed.aside(Aside::Trash).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "b", "b", "c"]);
    assert!(bed.aside(Aside::Conflicts).is_empty());
}

#[test]
fn a_folder_moves_with_one_step() {
    let mut bed = Bed::new();
    bed.apply(vec![put_dir("d"), put("d/a", b"one"), put_dir("e"), put("e/gone", b"two")]);
    let (sum, other) = (bed.sum("d"), bed.sum("e"));
    let rename = |sum| Deed::Rename { from: path("d"), to: path("e/f"), sum };
    assert_eq!(bed.refused(rename(other)), Refusal::Missing);
    bed.apply(vec![rename(sum)]);
    assert_eq!(bed.read("e/f/a"), b"one");
    assert_eq!((bed.mtime("e"), bed.mtime("e/f")), (MTIME, MTIME));
    let sum = bed.sum("e/f");
    bed.apply(vec![Deed::Rename { from: path("e/f"), to: path("d"), sum }]);
    let sum = bed.sum("d");
    bed.apply(vec![Deed::Rename { from: path("d"), to: path("e"), sum }]);
    assert_eq!(bed.read("e/a"), b"one");
    assert!(!bed.exists("e/gone") && !bed.exists("d"));
    assert_eq!(bed.aside(Aside::Trash)[0].0, "e");
}

#[test]
fn a_file_moves_over_another() {
    let mut bed = Bed::new();
    bed.apply(vec![put("a", b"one"), put("b", b"two"), put_link("l", b"x")]);
    let sum = bed.sum("a");
    bed.apply(vec![Deed::Rename { from: path("a"), to: path("b"), sum }]);
    assert_eq!(bed.read("b"), b"one");
    let sum = bed.sum("l");
    bed.apply(vec![Deed::Rename { from: path("l"), to: path("b"), sum }]);
    assert!(!bed.exists("l") && !bed.exists("a"));
    bed.write("b.new", b"mine");
    bed.apply_put_over_local();
}

impl Bed {
    fn apply_put_over_local(&mut self) {
        self.attend().begin_audit(false);
        self.run();
        self.take();
        self.apply(vec![put("b.new", b"theirs")]);
        assert_eq!(self.aside(Aside::Conflicts), [("b.new".to_owned(), b"mine".to_vec())]);
    }
}

#[test]
fn names_of_one_file_are_kept_as_such() {
    let mut bed = Bed::new();
    bed.apply(vec![put("a", b"one"), put("c", b"three")]);
    let linked = Entry { linked: true, ..entry(Kind::File, b"one") };
    let link = |to: &str, entry| {
        let body = Body::Link(path("a"));
        Deed::Put { path: path(to), entry, xattrs: Xattrs::default(), body }
    };
    bed.apply(vec![link("b", linked), link("c", Entry { mode: 0o600, ..linked })]);
    let ino = |bed: &Bed, text| bed.root.join(text).metadata().unwrap().ino();
    assert!(ino(&bed, "a") == ino(&bed, "b") && ino(&bed, "b") == ino(&bed, "c"));
    let sum = bed.sum("b");
    bed.apply(vec![Deed::Rename { from: path("b"), to: path("d"), sum }]);
    let sum = bed.sum("d");
    bed.apply(vec![Deed::Rename { from: path("d"), to: path("c"), sum }]);
    assert!(!bed.exists("d"));
    bed.apply(vec![Deed::Delete(path("c"))]);
    // Its other name is in the trash now: it is not written in place.
    assert_eq!(bed.refused(append("a", b"one more", 3)), Refusal::Missing);
    bed.apply(vec![put("a", b"two")]);
    assert_eq!(bed.aside(Aside::Trash), [("c".to_owned(), b"one".to_vec())]);
    assert_eq!(bed.refused(link("x", linked)), Refusal::Missing);
}

#[test]
fn what_is_one_file_here_and_two_there_is_not_dressed_but_made_anew() {
    let mut bed = Bed::new();
    let linked = |bytes| Entry { linked: true, ..entry(Kind::File, bytes) };
    let named = |to: &str, entry, body| Deed::Put {
        path: path(to),
        entry,
        xattrs: Xattrs::default(),
        body,
    };
    bed.apply(vec![
        named("a", linked(b"x"), Body::Bytes(b"x")),
        named("b", linked(b"x"), Body::Link(path("a"))),
    ]);
    let later = Entry { mtime_ns: MTIME + 1, ..linked(b"x") };
    bed.apply(vec![named("a", later, Body::Kept), named("b", later, Body::Kept)]);
    let alone = Entry { linked: false, ..later };
    // As when the other name is about to go.
    bed.apply(vec![named("b", alone, Body::Kept)]);
    assert_eq!(bed.refused(named("a", alone, Body::Kept)), Refusal::Missing);
    bed.apply(vec![named("a", alone, Body::Bytes(b"x")), named("b", alone, Body::Kept)]);
    let ino = |text| bed.root.join(text).metadata().unwrap().ino();
    assert_ne!(ino("a"), ino("b"));
}

#[test]
fn folders_keep_their_times_whatever_is_done_in_them() {
    let mut bed = Bed::new();
    bed.apply(vec![put_dir("d"), put_dir("d/e")]);
    bed.apply(vec![put("d/a", b"1"), put("d/e/b", b"2"), put_link("d/e/l", b"3")]);
    bed.apply(vec![Deed::Delete(path("d/a")), put_dir("d/e/f")]);
    let sum = bed.sum("d/e/b");
    bed.apply(vec![Deed::Rename { from: path("d/e/b"), to: path("d/b"), sum }]);
    assert_eq!((bed.mtime("d"), bed.mtime("d/e")), (MTIME, MTIME));
}

#[test]
fn names_of_one_file_that_are_two_files_here_are_no_agreement() {
    let mut bed = Bed::new();
    let entry = Entry { linked: true, ..entry(Kind::File, b"x") };
    let named =
        |name: &str, body| Deed::Put { path: path(name), entry, xattrs: Xattrs::default(), body };
    bed.apply(vec![named("a", Body::Bytes(b"x")), named("b", Body::Bytes(b"x"))]);
    let links = link_sum([path("a"), path("b")].iter()).to_le_bytes();
    for agreed in [false, true] {
        if agreed {
            bed.apply(vec![named("b", Body::Link(path("a")))]);
        }
        let own = bed.attend().ground.index.sums().unwrap();
        bed.seq += 1;
        let seq = bed.seq;
        bed.attend().head(seq, Sums { links, ..own }).unwrap();
        bed.run();
        let said = if agreed { Message::Ack(7, vec![seq]) } else { Message::Offer(7, own) };
        assert_eq!(bed.take(), [said]);
        assert_eq!(bed.attend().is_aligned(), agreed);
    }
}

#[test]
fn a_file_that_grows_fast_is_durable_before_a_second_is_over() {
    let mut bed = Bed::new();
    let whole = vec![7; 6 * 1024 * 1024];
    bed.apply(vec![put("log", &whole[..1])]);
    bed.send(vec![append("log", &whole[..2], 1)]);
    bed.run();
    let (begun, mut at, mut acked) = (Instant::now(), 2, bed.take().len());
    assert_eq!(acked, 1, "what grew first is synced at once");
    while acked == 1 && begun.elapsed() < Duration::from_millis(950) {
        let next = (at + 200_000).min(whole.len());
        if at < next {
            bed.send(vec![append("log", &whole[..next], at)]);
            at = next;
        }
        bed.turn();
        acked += bed.take().len();
    }
    assert!(acked > 1, "{at} bytes after {:?}", begun.elapsed());
}

#[test]
fn a_file_that_grows_is_written_in_place_and_acknowledged_when_durable() {
    let mut bed = Bed::new();
    let whole: Vec<u8> = (0..200_000_u32).map(|at| (at % 253) as u8).collect();
    bed.apply(vec![put("log", &whole[..10]), put("other", b"x")]);
    let ino = bed.root.join("log").metadata().unwrap().ino();
    let begun = Instant::now();
    let mut at = 10;
    let mut acked = 0;
    while at < whole.len() {
        let next = (at + 7_919).min(whole.len());
        bed.send(vec![append("log", &whole[..next], at)]);
        while bed.read("log").len() < next {
            bed.turn();
            assert!(begun.elapsed() < Duration::from_secs(10));
        }
        for message in bed.take() {
            match message {
                Message::Ack(7, numbers) => acked += numbers.len(),
                other => panic!("{other:?}"),
            }
        }
        at = next;
    }
    let steps = bed.seq as usize - 2;
    assert!(acked < steps, "additions are not made durable one by one");
    bed.run();
    let more: usize = bed
        .take()
        .iter()
        .map(|message| match message {
            Message::Ack(7, numbers) => numbers.len(),
            other => panic!("{other:?}"),
        })
        .sum();
    assert_eq!(acked + more, steps);
    assert_eq!(bed.read("log"), whole);
    assert_eq!(bed.root.join("log").metadata().unwrap().ino(), ino);
    assert_eq!(bed.mtime("log"), MTIME + whole.len() as i64);
    bed.check();
}

#[test]
fn an_addition_to_something_else_is_refused() {
    let mut bed = Bed::new();
    bed.apply(vec![put("log", b"0123"), put_dir("d")]);
    assert_eq!(bed.refused(append("log", b"0123456", 5)), Refusal::Missing);
    assert_eq!(bed.refused(append("log", b"x123456", 4)), Refusal::Missing);
    assert_eq!(bed.refused(append("nothing", b"x123456", 4)), Refusal::Missing);
    assert_eq!(bed.refused(append("d", b"x", 0)), Refusal::Missing);
    assert_eq!(bed.read("log"), b"0123");
    // Another content of the same length.
    bed.write("log", b"mine");
    bed.send(vec![append("log", b"0123456", 4)]);
    bed.run();
    assert!(bed.take().iter().any(|said| matches!(said, Message::Refuse(_, _, Refusal::Missing))));
    assert_eq!(bed.read("log"), b"mine");
    // What is moved goes on to grow.
    bed.apply(vec![put("grow", b"01")]);
    bed.apply(vec![append("grow", b"012", 2)]);
    let sum = bed.sum("grow");
    bed.apply(vec![Deed::Rename { from: path("grow"), to: path("grow.1"), sum }]);
    bed.apply(vec![append("grow.1", b"0123", 3)]);
    assert_eq!(bed.read("grow.1"), b"0123");
}

#[test]
fn folders_are_told_and_sums_compared() {
    let mut bed = Bed::new();
    bed.apply(vec![put_dir("d"), put("d/a", b"one"), put("d/b", b"two")]);
    bed.attend().list(vec![path("d"), path("nothing")]);
    bed.run();
    let said = bed.take();
    let [
        Message::Listing { dir, children, last: true, .. },
        Message::Listing { children: none, .. },
    ] = said.as_slice()
    else {
        panic!("{said:?}")
    };
    assert_eq!((dir, none.len()), (&path("d"), 0));
    let sums: u128 =
        children.iter().map(|child| u128::from_le_bytes(child.sum)).fold(0, u128::wrapping_add);
    let dir = bed.attend().ground.index.get(&path("d")).unwrap().unwrap();
    assert_eq!(bed.sum("d"), dir.entry.sum(b"d", sums).to_le_bytes());
    let sums = bed.attend().ground.index.sums().unwrap();
    assert_eq!(sums.tree, bed.sum(""));
    bed.seq += 1;
    let seq = bed.seq;
    bed.attend().head(seq, sums).unwrap();
    bed.run();
    assert_eq!(bed.take(), [Message::Ack(7, vec![seq])]);
    assert_eq!(bed.attend().ground.index.unshared().unwrap(), 0);
    bed.seq += 1;
    let seq = bed.seq;
    bed.attend().head(seq, Sums::default()).unwrap();
    bed.run();
    assert_eq!(bed.take(), [Message::Offer(7, sums)]);
}

#[test]
fn a_lone_change_is_durable_within_some_milliseconds() {
    let mut bed = Bed::new();
    bed.apply(vec![put("a", b"0")]);
    let mut took = Vec::new();
    for round in 0..20_u8 {
        let begun = Instant::now();
        bed.send(vec![put("a", &[round])]);
        while bed.said.is_empty() {
            bed.turn();
            std::thread::sleep(Duration::from_micros(50));
        }
        took.push(begun.elapsed());
        bed.run();
        bed.take();
    }
    took.sort_unstable();
    println!("half of them within {:?}", took[10]);
    assert!(took[10] < Duration::from_millis(200), "{took:?}");
}

#[test]
fn many_small_files_share_their_syncs() {
    let mut bed = Bed::new();
    let names: Vec<String> = (0..3_000).map(|at| format!("d{}/f{at}", at % 50)).collect();
    bed.apply((0..50).map(|at| put_dir(Box::leak(format!("d{at}").into_boxed_str()))).collect());
    bed.flushed.lock().unwrap().clear();
    let begun = Instant::now();
    for chunk in names.chunks(500) {
        bed.send(chunk.iter().map(|name| put(name, name.as_bytes())).collect());
    }
    bed.run();
    println!("{:.0} files a second", 3_000.0 / begun.elapsed().as_secs_f64());
    assert_eq!(bed.attend().status().counters.applied, 3_050);
    let flushed = bed.flushed.lock().unwrap().len();
    assert!(flushed <= 10 || bed.attend().crowded < 2_000, "{flushed} syncs");
    bed.check();
    assert_eq!(bed.read("d7/f7"), b"d7/f7");
}
