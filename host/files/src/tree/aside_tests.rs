use super::super::tests::{Place, p};
use super::*;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

fn paths(kept: &[Kept]) -> Vec<String> {
    kept.iter().map(|kept| kept.path.to_string()).collect()
}

fn place() -> Place {
    let place = Place::new();
    std::fs::create_dir_all(place.at("a/b/c")).unwrap();
    std::fs::set_permissions(place.at("a/b"), PermissionsExt::from_mode(0o2751)).unwrap();
    for name in ["a/file", "a/b/file", "a/b/c/file", "top"] {
        place.write(name, name.as_bytes());
    }
    place
}

#[test]
fn what_is_set_aside_keeps_its_place_and_comes_back() {
    let place = place();
    let tree = &place.tree;
    for aside in [Aside::Trash, Aside::Conflicts] {
        let file = tree.set_aside(&p("a/b/file"), &aside, 8).unwrap();
        let folder = tree.set_aside(&p("a/b/c"), &aside, 10).unwrap();
        assert_eq!((&file.aside, file.bytes), (&aside, 8));
        assert!(!place.at("a/b/file").exists() && !place.at("a/b/c").exists());
        let there = place.at(format!(".staffetta/{}/{}/tree/a/b", aside.folder(), file.stamp));
        assert_eq!(std::fs::metadata(&there).unwrap().mode() & 0o7777, 0o2751);
        assert_eq!(std::fs::read(there.join("file")).unwrap(), b"a/b/file");
        let kept = tree.kept(&aside, 10).unwrap();
        assert_eq!(kept, [folder.clone(), file.clone()], "newest first");
        assert_eq!(tree.kept(&aside, 1).unwrap().len(), 1);

        place.write("a/b/file", b"another");
        let taken = tree.restore(&file, &p("a/b/file")).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
        std::fs::remove_file(place.at("a/b/file")).unwrap();
        let missing = tree.restore(&file, &p("no/such/file")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert!(missing.to_string().contains("/no/such is no folder"), "{missing}");
        tree.restore(&file, &p("a/b/file")).unwrap();
        assert_eq!(paths(&tree.kept(&aside, 10).unwrap()), ["a/b/c"]);
        assert_eq!(tree.restore(&file, &p("x")).unwrap_err().kind(), ErrorKind::NotFound);
        tree.restore(&folder, &p("a/b/c")).unwrap();
        assert_eq!(std::fs::read(place.at("a/b/c/file")).unwrap(), b"a/b/c/file");
        assert!(tree.kept(&aside, 10).unwrap().is_empty());
    }
}

#[test]
fn the_same_path_twice_in_a_second_gets_stamps_of_its_own() {
    let place = place();
    let tree = &place.tree;
    let mut kept = Vec::new();
    for content in ["1", "2", "3"] {
        place.write("top", content.as_bytes());
        kept.insert(0, tree.set_aside(&p("top"), &Aside::Trash, 1).unwrap());
    }
    // A file where a folder was, a folder that was set aside whole and is there again.
    std::fs::create_dir(place.at("top")).unwrap();
    place.write("top/x", b"4");
    kept.insert(0, tree.set_aside(&p("top/x"), &Aside::Trash, 1).unwrap());
    kept.insert(0, tree.set_aside(&p("top"), &Aside::Trash, 0).unwrap());
    std::fs::create_dir(place.at("top")).unwrap();
    place.write("top/y", b"5");
    kept.insert(0, tree.set_aside(&p("top/y"), &Aside::Trash, 1).unwrap());
    let mut stamps: Vec<_> = kept.iter().map(|kept| kept.stamp.clone()).collect();
    stamps.dedup();
    assert_eq!(stamps.len(), 6, "{stamps:?}");
    assert_eq!(tree.kept(&Aside::Trash, 10).unwrap(), kept);
    // Another process within the same second mixes nothing up.
    let other = Tree::open(place.dir.path()).unwrap();
    place.write("top/y", b"6");
    let sixth = other.set_aside(&p("top/y"), &Aside::Trash, 1).unwrap();
    assert!(!stamps.contains(&sixth.stamp));
    std::fs::remove_dir(place.at("top")).unwrap();
    for (kept, content) in [(&kept[3], "3"), (&kept[5], "1"), (&sixth, "6")] {
        tree.restore(kept, &p("top")).unwrap();
        assert_eq!(std::fs::read_to_string(place.at("top")).unwrap(), content);
        std::fs::remove_file(place.at("top")).unwrap();
    }
}

#[test]
fn what_no_manifest_names_is_found() {
    let place = place();
    let tree = &place.tree;
    tree.set_aside(&p("a/b/c"), &Aside::Trash, 10).unwrap();
    let kept = tree.set_aside(&p("a/b/file"), &Aside::Trash, 8).unwrap();
    let manifest = place.at(format!(".staffetta/trash/{}/manifest", kept.stamp));
    let text = std::fs::read_to_string(&manifest).unwrap();
    assert_eq!(text, "folder 10 a/b/c\nfile 8 a/b/file\n");
    std::fs::write(&manifest, "folder 10 a/b/c\nfile 8 a/b/fi").unwrap();
    assert_eq!(tree.kept(&Aside::Trash, 9).unwrap()[1], kept);
    std::fs::remove_file(&manifest).unwrap();
    assert_eq!(paths(&tree.kept(&Aside::Trash, 9).unwrap()), ["a"]);
    std::fs::create_dir(place.at(".staffetta/trash/by hand")).unwrap();
    assert_eq!(tree.kept(&Aside::Trash, 9).unwrap().len(), 1);
    std::fs::remove_dir_all(place.at(".staffetta/trash")).unwrap();
    place.write("a/b/file", b"");
    tree.set_aside(&p("a/b/file"), &Aside::Trash, 8).unwrap();
    assert_eq!(tree.kept(&Aside::Trash, 9).unwrap().len(), 1, "made anew");
}

#[test]
fn lines_of_a_manifest_are_read_back() {
    let long = [b'\xff'; 255];
    let odd: [&[u8]; 6] = [b"a b", b"\n", b"\\x41", b"\xff\xc3", "ü\u{85}".as_bytes(), &long];
    for path in odd.map(p) {
        let line = line("file", u64::MAX, &path);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let read = parse_line(&line[..line.len() - 1]);
        assert_eq!(read, Some(("file", u64::MAX, path)));
    }
    for bad in
        ["", "file", "file 1", "file x a", "file 1 ../x", "file 1 \\x4", "file 1 ", "a 1 \\xü"]
    {
        assert_eq!(parse_line(bad.as_bytes()), None, "{bad}");
    }
}

#[test]
fn forged_stamps_lead_nowhere() {
    let place = place();
    let kept = place.tree.set_aside(&p("top"), &Aside::Trash, 3).unwrap();
    for stamp in ["..", ".", "", "/", "../../a", "20261123T031500Z/.."] {
        let forged = Kept { stamp: stamp.to_owned(), ..kept.clone() };
        let error = place.tree.restore(&forged, &p("x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{stamp}");
    }
    let forged = Kept { path: TreePath::root(), ..kept };
    assert!(place.tree.restore(&forged, &p("x")).is_err());
    assert!(place.tree.set_aside(&TreePath::root(), &Aside::Trash, 0).is_err());
}

#[test]
fn the_oldest_is_forgotten_first_and_bit_by_bit() {
    let place = place();
    let tree = &place.tree;
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("stays"), "").unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    assert!(!tree.forget(&Aside::Trash, day, 0, 9).unwrap(), "there is no trash yet");
    for name in ["1", "2", "3"] {
        std::fs::create_dir_all(place.at("d/e/f/g")).unwrap();
        std::os::unix::fs::symlink(outside.path(), place.at("d/e/out")).unwrap();
        for file in 0..20 {
            place.write(&format!("d/e/f/g/{file}"), name.as_bytes());
        }
        // Each by a process of its own, which knows of no other stamp of this second.
        let process = Tree::open(place.dir.path()).unwrap();
        let kept = process.set_aside(&p("d"), &Aside::Trash, 100).unwrap();
        let base = place.at(".staffetta/trash");
        // As if it had been long ago.
        let then = clock::name(clock::now() - 1_000_000 + name.parse::<i64>().unwrap(), 1);
        std::fs::rename(base.join(kept.stamp), base.join(then)).unwrap();
    }
    place.write("now", b"");
    tree.set_aside(&p("now"), &Aside::Trash, 50).unwrap();
    let count = || tree.kept(&Aside::Trash, 100).unwrap().len();
    assert!(!tree.forget(&Aside::Trash, 1_000 * day, 350, 1_000).unwrap());
    assert_eq!(count(), 4);
    let mut calls = 1;
    while tree.forget(&Aside::Trash, 1_000 * day, 349, 7).unwrap() {
        assert_eq!(count(), 3, "what is being removed is not kept any more");
        calls += 1;
    }
    assert!((4..=7).contains(&calls), "{calls} calls of 7 removals each");
    assert!(!tree.forget(&Aside::Trash, day, 1_000, 1_000).unwrap());
    assert_eq!(paths(&tree.kept(&Aside::Trash, 9).unwrap()), ["now"]);
    assert!(!tree.forget(&Aside::Trash, day, 49, 1_000).unwrap());
    assert_eq!(count(), 0);
    let left = std::fs::read_dir(place.at(".staffetta/trash")).unwrap().count();
    assert_eq!(left, 0);
    assert!(outside.path().join("stays").exists(), "symlinks are not followed");
    // The stamp of this second was removed, too.
    place.write("now", b"");
    tree.set_aside(&p("now"), &Aside::Trash, 50).unwrap();
    assert_eq!(count(), 1);
}
