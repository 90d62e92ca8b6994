//! What somebody changes on the standby is reported, and never lost.

use super::*;
use crate::attend::local::Suspect;

impl Bed {
    fn hint(&mut self, text: &str) {
        self.attend().hint(Hint::Changed(path(text)), Instant::now());
    }

    /// What the primary is asked for.
    fn asked(&mut self) -> Vec<String> {
        let mut asked = Vec::new();
        for message in self.take() {
            match message {
                Message::Again(7, paths) => asked.extend(paths.iter().map(TreePath::to_string)),
                other => panic!("{other:?}"),
            }
        }
        asked.sort();
        asked
    }
}

#[test]
fn a_local_change_is_reported_and_kept_when_the_primary_says_what_there_is() {
    let mut bed = Bed::new();
    bed.apply(vec![put_dir("d"), put("d/a", b"one"), put("d/gone", b"two")]);
    bed.write("d/a", b"mine");
    bed.write("d/new", b"new");
    std::fs::remove_file(bed.root.join("d/gone")).unwrap();
    for text in ["d/a", "d/new", "d/gone", "d"] {
        bed.hint(text);
    }
    assert!(bed.said.is_empty());
    bed.run();
    assert_eq!(bed.asked(), ["d", "d/a", "d/gone", "d/new"]);
    let status = bed.attend().status();
    assert_eq!((status.counters.local_changes, status.counters.recent.len()), (4, 4));
    assert_eq!(bed.read("d/a"), b"mine", "nothing is touched yet");
    bed.apply(vec![put_dir("d"), put("d/a", b"one"), put("d/gone", b"two")]);
    bed.apply(vec![Deed::Delete(path("d/new"))]);
    assert_eq!((bed.read("d/a"), bed.read("d/gone")), (b"one".to_vec(), b"two".to_vec()));
    assert!(!bed.exists("d/new"));
    let kept = [("d/a".to_owned(), b"mine".to_vec()), ("d/new".to_owned(), b"new".to_vec())];
    assert_eq!(bed.aside(Aside::Conflicts), kept);
    assert_eq!(bed.mtime("d"), MTIME);
}

#[test]
fn a_local_change_that_is_equal_to_what_arrives_is_adopted() {
    let mut bed = Bed::new();
    bed.apply(vec![put("a", b"one"), put("l", b"x")]);
    bed.write("a", b"two");
    bed.write("new", b"three");
    let large = vec![5; 3 * 1024 * 1024];
    bed.apply(vec![put("a", b"two"), put("new", b"three")]);
    bed.write("large", &large);
    let (seq, size, _) = bed.begin_large("large", &large);
    assert_eq!(size, large.len() as u64);
    assert_eq!(bed.end(seq, &large), Message::Ack(7, vec![seq]));
    assert!(bed.aside(Aside::Conflicts).is_empty());
}

#[test]
fn own_work_is_no_local_change() {
    let mut bed = Bed::new();
    bed.apply(vec![put_dir("d"), put("d/a", b"one")]);
    bed.apply(vec![append("d/a", b"one more", 3), put_link("d/l", b"x")]);
    for text in ["d", "d/a", "d/l", "d/never"] {
        bed.hint(text);
    }
    bed.run();
    assert!(bed.asked().is_empty());
    assert_eq!(bed.attend().status().counters.local_changes, 0);
}

#[test]
fn the_same_path_is_not_asked_for_all_the_time() {
    let mut bed = Bed::new();
    bed.apply(vec![put("a", b"one")]);
    for round in 0..3 {
        bed.write("a", format!("mine {round}").as_bytes());
        bed.hint("a");
        bed.run();
    }
    assert_eq!(bed.asked(), ["a"]);
    assert_eq!(bed.attend().status().counters.local_changes, 3);
}

#[test]
fn a_folder_that_goes_leaves_what_is_not_the_primarys() {
    let mut bed = Bed::new();
    bed.apply(vec![put_dir("d"), put("d/a", b"one"), put_dir("d/e"), put("d/e/b", b"two")]);
    bed.write("d/e/mine", b"mine");
    bed.write("d/e/b", b"changed");
    std::fs::create_dir(bed.root.join("d/own")).unwrap();
    bed.write("d/own/x", b"x");
    bed.apply(vec![Deed::Delete(path("d"))]);
    assert!(!bed.exists("d"));
    let conflicts = bed.aside(Aside::Conflicts);
    let names: Vec<_> = conflicts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["d/e/b", "d/e/mine", "d/own"]);
    assert_eq!((&*conflicts[0].1, &*conflicts[1].1), (&b"changed"[..], &b"mine"[..]));
    assert_eq!(bed.aside(Aside::Trash)[0].0, "d");
    // Nor is it lost where a file comes.
    bed.apply(vec![put_dir("f")]);
    bed.write("f/mine", b"mine");
    bed.apply(vec![put("f", b"file")]);
    assert_eq!(bed.aside(Aside::Conflicts)[3], ("f/mine".to_owned(), b"mine".to_vec()));
}

#[test]
fn an_audit_finds_what_no_hint_told() {
    let mut bed = Bed::new();
    bed.apply(vec![put_dir("d"), put("d/a", b"one"), put("b", b"two"), put("c", b"three")]);
    bed.write("d/a", b"mine");
    std::fs::create_dir_all(bed.root.join("x/y")).unwrap();
    bed.write("x/y/z", &vec![3; 1024 * 1024]);
    std::fs::remove_file(bed.root.join("b")).unwrap();
    bed.attend().hint(Hint::Overflow, Instant::now());
    bed.run();
    let asked = bed.asked();
    for text in ["b", "d/a", "x", "x/y", "x/y/z"] {
        assert!(asked.iter().any(|path| path == text), "{text}: {asked:?}");
    }
    bed.check();
    let audited = bed.attend().status().audited;
    assert!(!audited.is_running && audited.ended == 2, "{audited:?}");
}

#[test]
fn a_change_behind_the_same_times_is_found_by_reading() {
    let mut bed = Bed::new();
    bed.apply(vec![put("a", b"one"), put("b", b"two")]);
    // As a disk that forgets would do it: the row says what is not there.
    let attend = bed.attend();
    let mut row = attend.ground.index.get(&path("a")).unwrap().unwrap();
    row.entry.content = digest::content(b"eno");
    attend.ground.index.put(&path("a"), &row).unwrap();
    attend.begin_audit(false);
    bed.run();
    assert!(bed.asked().is_empty());
    bed.attend().begin_audit(true);
    bed.run();
    assert_eq!(bed.asked(), ["a"]);
}

#[test]
fn a_tree_that_was_full_before_is_known_before_it_is_offered() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    std::fs::write(dir.path().join("d/a"), b"one").unwrap();
    std::fs::hard_link(dir.path().join("d/a"), dir.path().join("b")).unwrap();
    let mut bed = Bed::at(dir.path());
    bed.check();
    assert_eq!(bed.attend().status().counters.local_changes, 0);
    let row = bed.attend().ground.index.get(&path("b")).unwrap().unwrap();
    assert!(row.entry.linked && !row.shared);
    // Not the primary's: it is kept.
    bed.apply(vec![put("d/a", b"two"), Deed::Delete(path("b"))]);
    let kept = bed.aside(Aside::Conflicts);
    assert_eq!(kept, [("b".to_owned(), b"one".to_vec()), ("d/a".to_owned(), b"one".to_vec())]);
}

impl Bed {
    /// Does a step after so many folders were audited, of which nothing was looked at since.
    fn step_amid_an_audit(&mut self, audited: usize, deed: Deed<'_>) {
        self.attend().begin_audit(false);
        for _ in 0..audited {
            self.attend().audit_on().unwrap();
        }
        self.step_before_anything_is_looked_at(deed);
    }

    fn step_before_anything_is_looked_at(&mut self, deed: Deed<'_>) {
        let seq = self.send(vec![deed]);
        let mut out = Vec::new();
        let attend = self.attend();
        while attend.gather(Instant::now(), &mut out).unwrap() {}
        let end = Instant::now() + Duration::from_secs(20);
        while attend.current.is_some() || attend.gathering.is_some() {
            let now = Instant::now();
            assert!(now < end, "it never ends");
            attend.advance(now, now + SLICE, &mut out).unwrap();
            std::thread::sleep(Duration::from_micros(100));
        }
        assert_eq!(out, [wire::message(&Message::Ack(7, vec![seq]))]);
        self.run();
        self.check();
        self.take();
    }

    fn is_kept(&mut self, text: &str) {
        self.apply(vec![Deed::Delete(path(text))]);
        assert_eq!(self.aside(Aside::Conflicts), [(text.to_owned(), b"mine".to_vec())]);
    }
}

#[test]
fn what_moves_amid_an_audit_is_found_where_it_went() {
    for audited in 0..=3 {
        let mut bed = Bed::new();
        bed.apply(vec![put_dir("d"), put("d/a", b"one"), put_dir("z")]);
        bed.write("d/mine", b"mine");
        let at = std::time::UNIX_EPOCH + Duration::from_nanos(MTIME as u64);
        std::fs::File::open(bed.root.join("d")).unwrap().set_modified(at).unwrap();
        let sum = bed.sum("d");
        let deed = Deed::Rename { from: path("d"), to: path("z/d"), sum };
        // The root, z, and d.
        bed.step_amid_an_audit(audited, deed);
        bed.is_kept("z/d/mine");
    }
}

#[test]
fn what_is_to_be_looked_at_is_looked_at_where_it_was_moved() {
    let mut bed = Bed::new();
    bed.apply(vec![put_dir("d"), put("d/a", b"one"), put_dir("z")]);
    bed.write("d/a", b"two");
    let why = Why::HINTED;
    bed.attend().local.suspects.push_back(Suspect { path: path("d/a"), why });
    let sum = bed.sum("d");
    bed.step_before_anything_is_looked_at(Deed::Rename { from: path("d"), to: path("z/d"), sum });
    assert_eq!(bed.attend().status().counters.local_changes, 1);
}

#[test]
fn a_file_that_is_hinted_at_by_its_inode_is_looked_at_under_its_names() {
    let mut bed = Bed::new();
    bed.apply(vec![put("a", b"one")]);
    bed.write("a", b"two");
    let ino = std::fs::metadata(bed.root.join("a")).unwrap().ino();
    bed.attend().hint(Hint::File(ino), Instant::now());
    bed.run();
    assert_eq!(bed.asked(), ["a"]);
}

#[test]
fn a_folder_that_was_here_before_the_primary_has_one_is_audited() {
    for audited in 0..=1 {
        let mut bed = Bed::new();
        std::fs::create_dir(bed.root.join("d")).unwrap();
        bed.write("d/mine", b"mine");
        bed.step_amid_an_audit(audited, put_dir("d"));
        bed.is_kept("d/mine");
    }
}
