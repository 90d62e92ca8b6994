use super::*;
use crate::digest::{self, SEGMENT_BYTES};
use crate::entry::Xattr;
use crate::wire::INLINE_BYTES_MAX;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

pub(super) struct Place {
    pub(super) dir: TempDir,
    pub(super) tree: Tree,
}

impl Place {
    pub(super) fn new() -> Place {
        Place::within(&std::env::temp_dir())
    }

    fn within(dir: &Path) -> Place {
        let dir = tempfile::tempdir_in(dir).unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        Place { dir, tree }
    }

    pub(super) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(path)
    }

    pub(super) fn write(&self, path: &str, content: &[u8]) {
        std::fs::write(self.at(path), content).unwrap();
    }
}

pub(super) fn p(text: impl AsRef<[u8]>) -> TreePath {
    TreePath::parse(text.as_ref()).unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What a look finds, if it is small.
fn whole(tree: &Tree, path: &TreePath) -> (Entry, Xattrs, Vec<u8>) {
    match tree.look(path).unwrap() {
        Look::Whole { entry, xattrs, content, .. } => (entry, xattrs, content),
        other => panic!("{path}: {other:?}"),
    }
}

/// The raw bytes of an ACL as the kernel takes them: version 2, then (tag, rights, id).
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(rights.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Owner rwx, user 1234 r-x, group r--, mask r-x, others nothing: mode 0750.
fn some_acl() -> Vec<u8> {
    let nobody = u32::MAX;
    acl(&[(1, 7, nobody), (2, 5, 1234), (4, 4, nobody), (0x10, 5, nobody), (0x20, 0, nobody)])
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) -> Result<(), Errno> {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty())
}

/// Makes `to` what `from` is, with nothing but the calls of this module.
fn copy(from: &Tree, to: &Tree) {
    let mut links = HashMap::new();
    copy_folder(from, to, &TreePath::root(), &mut links);
}

fn copy_folder(from: &Tree, to: &Tree, dir: &TreePath, links: &mut HashMap<u64, TreePath>) {
    for (name, found) in from.list(dir).unwrap().unwrap() {
        let path = dir.join(&name).unwrap();
        assert_eq!(from.stat(&path).unwrap(), Some(found));
        if found.nlink > 1 {
            if let Some(other) = links.get(&found.stamp.ino) {
                to.link(other, &path).unwrap();
                continue;
            }
            links.insert(found.stamp.ino, path.clone());
        }
        match from.look(&path).unwrap() {
            Look::Absent | Look::Changing => panic!("{path}"),
            Look::Other => {}
            Look::Whole { entry, xattrs, content, .. } => match entry.kind {
                Kind::File => {
                    let temp = to.temp(entry.size).unwrap();
                    temp.file.write_all_at(&content, 0).unwrap();
                    to.dress(&temp.file, &entry, &xattrs).unwrap();
                    let stamp = temp.place(to, &path).unwrap();
                    assert_eq!(to.stat(&path).unwrap().unwrap().stamp, stamp);
                }
                Kind::Symlink => {
                    to.make_symlink(&path, &content).unwrap();
                    to.dress_at(&path, &entry, &xattrs).unwrap();
                }
                Kind::Dir => {
                    to.make_dir(&path).unwrap();
                    copy_folder(from, to, &path, links);
                    to.dress_at(&path, &entry, &xattrs).unwrap();
                }
            },
            Look::Large { entry, xattrs, file, .. } => {
                let temp = to.temp(entry.size).unwrap();
                temp.file.set_len(entry.size).unwrap();
                let mut reader = SegmentReader::new(entry.size, 0);
                while let Some(segment) = reader.next(&file).unwrap() {
                    if let Some(bytes) = segment.bytes {
                        let at = segment.number * SEGMENT_BYTES as u64;
                        temp.file.write_all_at(bytes, at).unwrap();
                    }
                }
                to.dress(&temp.file, &entry, &xattrs).unwrap();
                temp.place(to, &path).unwrap();
            }
        }
        assert_eq!(look_entry(from, &path), look_entry(to, &path), "{path}");
    }
}

fn look_entry(tree: &Tree, path: &TreePath) -> Option<Entry> {
    match tree.look(path).unwrap() {
        Look::Whole { entry, .. } | Look::Large { entry, .. } => Some(entry),
        Look::Absent | Look::Other => None,
        Look::Changing => panic!("{path}"),
    }
}

/// What rsync would have to change; none when there is no rsync.
fn differences(from: &Place, to: &Place) -> Option<String> {
    let source = format!("{}/", from.dir.path().display());
    let target = format!("{}/", to.dir.path().display());
    let output = std::process::Command::new("rsync")
        .args(["-aHAXSnc", "--delete", "--itemize-changes", "--exclude=/.staffetta"])
        .args(["--exclude=/special", &source, &target])
        .output()
        .ok()?;
    let (out, err) = (output.stdout, output.stderr);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&err));
    Some(String::from_utf8_lossy(&out).into_owned())
}

/// Files, folders and symlinks of every sort.
fn fill(place: &Place) {
    let at = |path: &str| place.at(path);
    for dir in ["plain", "plain/deep", "sticky", "gid", "closed", "acl", "odd", "empty"] {
        std::fs::create_dir(at(dir)).unwrap();
    }
    for (name, mode) in [("suid", 0o4755), ("sgid", 0o2755), ("none", 0o000), ("all", 0o777)] {
        place.write(name, name.as_bytes());
        std::os::unix::fs::chown(at(name), own_id(5), own_id(6)).unwrap();
        std::fs::set_permissions(at(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    place.write("plain/empty", b"");
    place.write("plain/deep/file", &[7; 100_000]);
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    File::open(at("plain/deep/file")).unwrap().set_modified(old).unwrap();
    let older = SystemTime::UNIX_EPOCH - Duration::new(1_000, 1);
    File::open(at("plain/empty")).unwrap().set_modified(older).unwrap();
    std::fs::hard_link(at("plain/deep/file"), at("plain/other name")).unwrap();
    std::fs::hard_link(at("plain/deep/file"), at("third")).unwrap();
    for (name, target) in [("to", "plain/empty"), ("dangling", "../../x"), ("absolute", "/etc")] {
        symlink(target, at(name)).unwrap();
    }
    std::os::unix::fs::lchown(at("absolute"), own_id(8), own_id(9)).unwrap();
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 20 << 20).unwrap();
    place.write("large", &(0..1_000_003_u32).map(|i| (i / 7) as u8).collect::<Vec<_>>());
    let long = "n".repeat(255);
    for name in [b"new\nline".as_slice(), b"\xff\xfe\x01", b" \\x41", long.as_bytes()] {
        std::fs::write(at("odd").join(OsStr::from_bytes(name)), name).unwrap();
    }
    std::fs::create_dir(at("odd/.staffetta")).unwrap();
    place.write("odd/.staffetta/not ours", b"x");
    place.write("with", b"attributes");
    set_xattr(&at("with"), "user.one", b"1").unwrap();
    set_xattr(&at("with"), "user.empty", b"").unwrap();
    set_xattr(&at("with"), "user.big", &[9; 3000]).unwrap();
    set_xattr(&at("acl"), "user.of a folder", &[0, 255]).unwrap();
    place.write("acl/file", b"x");
    set_xattr(&at("acl/file"), "system.posix_acl_access", &some_acl()).unwrap();
    set_xattr(&at("acl"), "system.posix_acl_default", &some_acl()).unwrap();
    if is_root() {
        // CAP_NET_BIND_SERVICE, effective: struct vfs_cap_data, version 2.
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        set_xattr(&at("suid"), "security.capability", &capability).unwrap();
        set_xattr(&at("with"), "trusted.t", b"t").unwrap();
    }
    for (name, mode) in [("sticky", 0o1777), ("gid", 0o2775), ("closed", 0o000)] {
        std::fs::set_permissions(at(name), PermissionsExt::from_mode(mode)).unwrap();
    }
}

/// Of another user, where we may.
fn own_id(id: u32) -> Option<u32> {
    is_root().then_some(id)
}

#[test]
fn a_tree_comes_out_as_it_was() {
    let (from, to) = (Place::new(), Place::new());
    fill(&from);
    // A default ACL of the target's root must not show in what is put there.
    set_xattr(to.dir.path(), "system.posix_acl_default", &some_acl()).unwrap();
    copy(&from.tree, &to.tree);
    let (root, xattrs, _) = whole(&from.tree, &TreePath::root());
    to.tree.dress_at(&TreePath::root(), &root, &xattrs).unwrap();
    match differences(&from, &to) {
        Some(differences) => assert_eq!(differences, ""),
        None => eprintln!("SKIPPED the comparison by rsync, which is not installed"),
    }
    let there = |name: &str| std::fs::symlink_metadata(to.at(name)).unwrap();
    assert_eq!(there("third").ino(), there("plain/other name").ino());
    assert!(there("sparse").blocks() * 512 < 1 << 20, "holes stay holes");
    if is_root() {
        assert_eq!((there("suid").mode() & 0o7777, there("suid").uid()), (0o4755, 5));
        assert_eq!((there("absolute").uid(), there("absolute").gid()), (8, 9));
        let (_, xattrs, _) = whole(&to.tree, &p("suid"));
        assert_eq!(xattrs.0[0].name, b"security.capability");
    }
    assert_eq!(there("plain/empty").mtime_nsec(), 999_999_999, "times before 1970, too");
    assert!(std::fs::read_dir(to.at(".staffetta/tmp")).unwrap().next().is_none());
    // Once more, over what is there: nothing changes.
    for name in ["suid", "with", "acl/file", "acl", "to", "third"] {
        let (entry, xattrs, _) = whole(&from.tree, &p(name));
        to.tree.dress_at(&p(name), &entry, &xattrs).unwrap();
    }
    assert_eq!(differences(&from, &to).unwrap_or_default(), "");
}

#[test]
fn attributes_that_are_not_wanted_go_and_acls_agree_with_the_mode() {
    let place = Place::new();
    place.write("a", b"x");
    set_xattr(&place.at("a"), "user.old", b"1").unwrap();
    set_xattr(&place.at("a"), "system.posix_acl_access", &some_acl()).unwrap();
    let (mut entry, xattrs, _) = whole(&place.tree, &p("a"));
    assert_eq!(entry.mode, 0o750);
    assert_eq!(xattrs.0.iter().map(|x| x.name.len()).collect::<Vec<_>>(), [23, 8]);
    assert_eq!(place.tree.xattrs(&p("a")).unwrap(), xattrs);

    entry.mode = 0o4604;
    entry.xattrs = Xattrs::default().digest();
    place.tree.dress_at(&p("a"), &entry, &Xattrs::default()).unwrap();
    assert_eq!(whole(&place.tree, &p("a")).0, entry);

    let acl = Xattr { name: b"system.posix_acl_access".to_vec(), value: some_acl() };
    let with = Xattrs(vec![acl]);
    let error = place.tree.dress_at(&p("a"), &entry, &with).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    entry.mode = 0o4750;
    place.tree.dress_at(&p("a"), &entry, &with).unwrap();
    assert_eq!(whole(&place.tree, &p("a")).0.mode, 0o4750);

    let other = Xattrs(vec![Xattr { name: b"security.selinux".to_vec(), value: vec![] }]);
    assert!(place.tree.dress_at(&p("a"), &entry, &other).is_err());
    entry.uid = u32::MAX;
    assert!(place.tree.dress_at(&p("a"), &entry, &with).is_err());
}

#[test]
fn attributes_of_64_kib_are_carried_and_too_many_are_an_error() {
    let big = |place: &Place, name: &str| set_xattr(&place.at("a"), name, &[5; 60_000]);
    let places = [std::env::temp_dir(), PathBuf::from("/dev/shm")];
    let place = places.iter().filter(|dir| dir.is_dir()).map(|dir| Place::within(dir)).find(|at| {
        at.write("a", b"x");
        set_xattr(&at.at("a"), "user.a", &[5; 65_536]).is_ok()
    });
    let Some(place) = place else {
        eprintln!("SKIPPED: no file system here takes attributes of 64 KiB");
        return;
    };
    let (entry, xattrs, _) = whole(&place.tree, &p("a"));
    assert_eq!(xattrs.bytes(), 65_536 + 6);
    let temp = place.tree.temp(0).unwrap();
    temp.file.write_all_at(b"x", 0).unwrap();
    place.tree.dress(&temp.file, &entry, &xattrs).unwrap();
    temp.place(&place.tree, &p("b")).unwrap();
    assert_eq!(whole(&place.tree, &p("b")).0, entry);
    for name in ["user.b", "user.c", "user.d", "user.e"] {
        if let Err(error) = big(&place, name) {
            eprintln!("SKIPPED the limit: {error}");
            return;
        }
    }
    let error = place.tree.look(&p("a")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert!(error.to_string().contains("262144 bytes"), "{error}");
}

#[test]
fn looks_say_what_is_there() {
    let place = Place::new();
    place.write("file", b"content");
    std::fs::create_dir(place.at("dir")).unwrap();
    symlink("x", place.at("link")).unwrap();
    symlink("dir", place.at("way")).unwrap();
    place.write("dir/child", b"");
    place.write("brim", &vec![1; INLINE_BYTES_MAX]);
    place.write("large", &vec![1; INLINE_BYTES_MAX + 1]);
    rustix::fs::mkfifoat(rustix::fs::CWD, place.at("pipe"), Mode::RWXU).unwrap();
    let tree = &place.tree;

    let (entry, _, content) = whole(tree, &p("file"));
    assert_eq!((entry.size, entry.content), (7, digest::content(b"content")));
    assert_eq!(content, b"content");
    assert_eq!(whole(tree, &p("link")).2, b"x");
    assert_eq!(whole(tree, &p("link")).0.mode, 0o777);
    assert_eq!(whole(tree, &p("brim")).0.content, digest::content(&[1; INLINE_BYTES_MAX]));
    let Look::Large { entry, .. } = tree.look(&p("large")).unwrap() else { panic!() };
    assert_eq!(entry.content, digest::Digest::default());
    assert_eq!(entry.size, INLINE_BYTES_MAX as u64 + 1);
    assert!(matches!(tree.look(&p("pipe")).unwrap(), Look::Other));
    assert_eq!(tree.stat(&p("pipe")).unwrap().unwrap().kind, None);
    assert!(tree.open_file(&p("pipe")).unwrap().is_none());
    let dir = tree.stat(&p("dir")).unwrap().unwrap();
    assert_eq!((dir.size, dir.stamp.ctime_ns, dir.nlink), (0, 0, 1));
    assert!(dir.stamp.btime_ns > 0 && dir.stamp.ino > 0);
    for absent in ["no", "no/no", "file/x", "way/child", "link/x"] {
        assert!(matches!(tree.look(&p(absent)).unwrap(), Look::Absent), "{absent}");
        assert_eq!(tree.stat(&p(absent)).unwrap(), None);
        assert!(tree.list(&p(absent)).unwrap().is_none());
        assert!(tree.open_file(&p(absent)).unwrap().is_none());
        assert!(tree.read_link(&p(absent)).unwrap().is_none());
        assert_eq!(tree.unlink(&p(absent)).unwrap_err().kind(), ErrorKind::NotFound);
    }
    assert!(tree.list(&p("way")).unwrap().is_none());
    assert!(tree.list(&p("file")).unwrap().is_none());
    assert_eq!(tree.read_link(&p("way")).unwrap().unwrap(), b"dir");
    assert_eq!(tree.read_link(&p("file")).unwrap(), None);
    let (file, found) = tree.open_file(&p("file")).unwrap().unwrap();
    assert_eq!(tree.stat(&p("file")).unwrap(), Some(found));
    assert_eq!(super::found(&file).unwrap(), found);
    tree.open_dir(&p("dir")).unwrap();
    assert!(tree.open_dir(&p("way")).is_err());
    assert!(tree.space().unwrap().1 > 0);
    // By its own row, a scan sees that nothing changed.
    let Look::Whole { entry, stamp, racy, .. } = tree.look(&p("file")).unwrap() else { panic!() };
    assert!(crate::entry::Row { entry, stamp, racy, shared: false }.describes(&found));
}

#[test]
fn a_file_is_racy_for_20_ms_whatever_its_time_of_modification() {
    let place = Place::new();
    place.write("a", b"");
    let racy = || match place.tree.look(&p("a")).unwrap() {
        Look::Whole { racy, .. } => racy,
        other => panic!("{other:?}"),
    };
    let future = SystemTime::now() + Duration::from_secs(100_000);
    File::open(place.at("a")).unwrap().set_modified(future).unwrap();
    assert!(racy());
    std::thread::sleep(Duration::from_millis(60));
    assert!(!racy(), "it is not read again at each scan for years");
}

#[test]
fn listings_are_sorted_and_leave_out_what_is_ours_and_what_no_path_can_be() {
    let place = Place::new();
    place.tree.mark(&[1; 16]).unwrap();
    for name in ["b", "a", "c\n"] {
        place.write(name, b"");
    }
    let names = |dir: &TreePath| -> Vec<Vec<u8>> {
        let children = place.tree.list(dir).unwrap().unwrap();
        children.into_iter().map(|(name, _)| name.into_vec()).collect()
    };
    assert_eq!(names(&TreePath::root()), [b"a".as_slice(), b"b", b"c\n"]);
    let mut deep = p("d");
    place.tree.make_dir(&deep).unwrap();
    while deep.depth() < crate::path::DEPTH_MAX {
        deep = deep.join(b"d").unwrap();
        place.tree.make_dir(&deep).unwrap();
    }
    let folder = place.tree.open_dir(&deep).unwrap();
    rustix::fs::mkdirat(&folder, "beyond", Mode::RWXU).unwrap();
    assert_eq!((names(&deep).len(), place.tree.skipped()), (0, 1));
    // Names of 250 bytes: a path has an end before the depth has.
    let mut long = TreePath::root();
    let name = [b'n'; 250];
    while let Ok(next) = long.join(&name) {
        place.tree.make_dir(&next).unwrap();
        long = next;
    }
    let folder = place.tree.open_dir(&long).unwrap();
    rustix::fs::mkdirat(&folder, name.as_slice(), Mode::RWXU).unwrap();
    assert_eq!((names(&long).len(), place.tree.skipped()), (0, 2));
    place.tree.set_aside(&p(name), &Aside::Trash, 0).unwrap();
    place.tree.set_aside(&p("d"), &Aside::Trash, 0).unwrap();
    assert!(!place.tree.forget(&Aside::Trash, Duration::ZERO, 0, usize::MAX).unwrap());
}

#[test]
fn a_change_during_a_look_is_seen() {
    let place = Place::new();
    let bytes = 200 * 1024;
    place.write("a", &vec![0; bytes]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(place.at("a")).unwrap();
            for byte in (0..=255_u8).cycle() {
                file.write_all_at(&vec![byte; bytes], 0).unwrap();
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let _stop = Stop(&stop);
        let (mut changing, end) = (0, Instant::now() + Duration::from_secs(20));
        while changing < 20 && Instant::now() < end {
            match place.tree.look(&p("a")).unwrap() {
                Look::Changing => changing += 1,
                Look::Whole { content, .. } => assert_eq!(content.len(), bytes),
                other => panic!("{other:?}"),
            }
        }
        assert!(changing > 0);
    });
}

#[test]
fn segments_are_read_and_holes_are_not() {
    let place = Place::new();
    let file = File::create_new(place.at("sparse")).unwrap();
    let size: u64 = (100 << 30) + 5;
    file.set_len(size).unwrap();
    file.write_all_at(b"x", 7 * SEGMENT_BYTES as u64 + 3).unwrap();
    file.write_all_at(b"y", 50 << 30).unwrap();
    let file = File::open(place.at("sparse")).unwrap();
    let start = Instant::now();
    let mut reader = SegmentReader::new(size, 1);
    let (mut count, mut read) = (0, Vec::new());
    while let Some(segment) = reader.next(&file).unwrap() {
        count += 1;
        assert_eq!(segment.number, count);
        if segment.bytes.is_some() {
            read.push(segment.number);
        }
    }
    let last = size / SEGMENT_BYTES as u64;
    assert_eq!((count, read), (last, vec![7, (50 << 30) / SEGMENT_BYTES as u64]));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());

    // The same digest as of the bytes in memory, wherever the holes are.
    let mut bytes = vec![0; 10 * SEGMENT_BYTES + 77];
    bytes[5 * SEGMENT_BYTES - 1] = 1;
    let file = File::options().read(true).write(true).create_new(true).open(place.at("b")).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    file.write_all_at(&[1], 5 * SEGMENT_BYTES as u64 - 1).unwrap();
    let mut segments = digest::Segments::default();
    let mut reader = SegmentReader::new(bytes.len() as u64, 0);
    while let Some(segment) = reader.next(&file).unwrap() {
        segments.push(segment.hash);
    }
    assert_eq!(segments.digest(), digest::content(&bytes));
    // What ends early, in data and in a hole, is no zeros.
    for cut in [bytes.len() as u64 - 1, 5 * SEGMENT_BYTES as u64, 100] {
        file.set_len(cut).unwrap();
        let mut reader = SegmentReader::new(bytes.len() as u64, 0);
        let error = loop {
            match reader.next(&file) {
                Ok(segment) => assert!(segment.is_some(), "ended without an error"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }
}

#[test]
fn temps_disappear_and_parts_stay() {
    let place = Place::new();
    let tree = &place.tree;
    let names = |dir: &str| std::fs::read_dir(place.at(dir)).unwrap().count();
    let temp = tree.temp(300_000).unwrap();
    assert_eq!(temp.found().unwrap().size, 0, "reserved, not written");
    assert_eq!((names(".staffetta/tmp"), temp.found().unwrap().mode), (1, 0o600));
    drop(temp);
    assert_eq!(names(".staffetta/tmp"), 0);
    std::fs::create_dir(place.at("dir")).unwrap();
    let error = tree.temp(0).unwrap().place(tree, &p("dir")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IsADirectory, "{error}");
    let error = tree.temp(0).unwrap().place(tree, &p("no/x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert_eq!(names(".staffetta/tmp"), 0);

    let part = tree.part("00ff").unwrap();
    part.file.write_all_at(b"half", 0).unwrap();
    part.keep();
    assert_eq!(tree.part("00ff").unwrap().found().unwrap().size, 4);
    assert_eq!(names(".staffetta/part"), 0, "neither placed nor kept");
    for bad in ["", "..", "a/b", "x", &"a".repeat(65)] {
        assert_eq!(tree.part(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
    }
    // What is there and is not ours is removed, not followed.
    place.write("victim", b"victim");
    symlink(place.at("victim"), place.at(".staffetta/part/aa")).unwrap();
    std::fs::hard_link(place.at("victim"), place.at(".staffetta/part/bb")).unwrap();
    std::fs::create_dir_all(place.at(".staffetta/part/cc/d/e")).unwrap();
    for name in ["aa", "bb", "cc"] {
        let part = tree.part(name).unwrap();
        part.file.write_all_at(b"part", 0).unwrap();
        part.place(tree, &p(name)).unwrap();
    }
    assert_eq!(std::fs::read(place.at("victim")).unwrap(), b"victim");

    tree.part("01").unwrap().keep();
    let old = tree.part("02").unwrap();
    old.file.set_modified(SystemTime::now() - Duration::from_secs(100_000)).unwrap();
    old.keep();
    tree.temp(0).unwrap().keep();
    tree.clean().unwrap();
    assert_eq!((names(".staffetta/tmp"), names(".staffetta/part")), (0, 1));
    // Somebody removed all of it.
    std::fs::remove_dir_all(place.at(".staffetta")).unwrap();
    tree.temp(0).unwrap().place(tree, &p("anew")).unwrap();
    tree.clean().unwrap();
}

#[test]
fn names_move_and_are_linked_without_leftovers() {
    let place = Place::new();
    let tree = &place.tree;
    place.write("a", b"a");
    place.write("b", b"b");
    std::fs::create_dir(place.at("dir")).unwrap();
    symlink("a", place.at("link")).unwrap();
    assert_eq!(tree.rename(&p("a"), &p("b")).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(tree.make_dir(&p("b")).unwrap_err().kind(), ErrorKind::AlreadyExists);
    tree.rename(&p("a"), &p("dir/a")).unwrap();
    tree.link(&p("dir/a"), &p("b")).unwrap();
    tree.link(&p("dir/a"), &p("b")).unwrap();
    assert_eq!(tree.stat(&p("b")).unwrap().unwrap().nlink, 2);
    for (from, to) in [("dir", "x"), ("b", "dir"), ("no", "x"), ("b", "no/x")] {
        tree.link(&p(from), &p(to)).unwrap_err();
    }
    tree.link(&p("link"), &p("x")).unwrap();
    assert_eq!(tree.read_link(&p("x")).unwrap().unwrap(), b"a", "not what it leads to");
    tree.unlink(&p("x")).unwrap();
    tree.make_symlink(&p("b"), b"\xff").unwrap();
    assert_eq!(tree.read_link(&p("b")).unwrap().unwrap(), b"\xff");
    assert_eq!(tree.stat(&p("dir/a")).unwrap().unwrap().nlink, 1);
    tree.make_symlink(&p("dir"), b"x").unwrap_err();
    tree.make_symlink(&p("nul"), b"a\0b").unwrap_err();
    tree.unlink(&p("dir")).unwrap_err();
    tree.unlink(&p("b")).unwrap();
    tree.set_mtime(&p("dir/a"), -1).unwrap();
    tree.set_mtime(&p("link"), 5).unwrap();
    assert_eq!(tree.stat(&p("dir/a")).unwrap().unwrap().mtime_ns, -1);
    assert_eq!(tree.stat(&p("link")).unwrap().unwrap().mtime_ns, 5);
    let root = TreePath::root();
    for error in [tree.rename(&root, &p("x")), tree.unlink(&root), tree.make_dir(&root)] {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(std::fs::read_dir(place.at(".staffetta/tmp")).unwrap().count(), 0);
}

#[test]
fn the_marker_is_read_back_and_nobody_elses_folder_is_taken() {
    let place = Place::new();
    let tree = &place.tree;
    assert_eq!(tree.marker().unwrap(), None);
    let id = *b"0123456789abcdef";
    tree.mark(&id).unwrap();
    tree.mark(&id).unwrap();
    assert_eq!(tree.marker().unwrap(), Some(id));
    let text = std::fs::read(place.at(".staffetta/root")).unwrap();
    assert_eq!(text, b"30313233343536373839616263646566\n");
    let own = place.at(".staffetta");
    assert_eq!(std::fs::metadata(&own).unwrap().mode() & 0o777, 0o700);
    for damaged in ["", "30313233343536373839616263646566", "x"] {
        std::fs::write(own.join("root"), damaged).unwrap();
        assert!(tree.marker().unwrap_err().to_string().contains("/.staffetta/root is damaged"));
    }
    std::fs::set_permissions(&own, PermissionsExt::from_mode(0o750)).unwrap();
    assert!(tree.marker().unwrap_err().to_string().contains("chmod 700"));
    if is_root() {
        std::fs::set_permissions(&own, PermissionsExt::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&own, Some(7), None).unwrap();
        assert!(tree.marker().unwrap_err().to_string().contains("belongs to another user"));
    }
    std::fs::rename(&own, place.at("moved")).unwrap();
    symlink("moved", &own).unwrap();
    for error in [tree.marker().unwrap_err(), tree.mark(&id).unwrap_err()] {
        assert!(error.to_string().contains("/.staffetta is no folder: move it away"), "{error}");
    }
    std::fs::remove_file(&own).unwrap();
    std::fs::write(&own, "").unwrap();
    assert_eq!(tree.mark(&id).unwrap_err().kind(), ErrorKind::InvalidData);
}

#[test]
fn a_root_that_was_replaced_is_not_there() {
    let place = Place::new();
    std::fs::create_dir(place.at("root")).unwrap();
    symlink("root", place.at("way")).unwrap();
    let tree = Tree::open(&place.at("way")).unwrap();
    assert!(tree.is_there());
    std::fs::rename(place.at("root"), place.at("other")).unwrap();
    assert!(!tree.is_there());
    std::fs::create_dir(place.at("root")).unwrap();
    assert!(!tree.is_there());
    assert!(Tree::open(&place.at("none")).is_err());
}

/// Stops another thread, however this one ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a hostile user of the tree does: `door` is now a folder, now a symlink that leads out.
fn swap(place: &Place, outside: &Path, stop: &AtomicBool) {
    let (door, away) = (place.at("door"), place.at("away"));
    while !stop.load(Ordering::Relaxed) {
        std::fs::rename(&door, &away).unwrap();
        symlink(outside, &door).unwrap();
        std::fs::remove_file(&door).unwrap();
        std::fs::rename(&away, &door).unwrap();
    }
}

#[test]
fn no_symlink_leads_out_however_fast_it_is_swapped_in() {
    let place = Place::new();
    let outside = tempfile::tempdir().unwrap();
    std::fs::create_dir(place.at("door")).unwrap();
    let victim = outside.path().join("victim");
    std::fs::write(&victim, "victim").unwrap();
    std::fs::set_permissions(&victim, PermissionsExt::from_mode(0o640)).unwrap();
    let before = std::fs::metadata(&victim).unwrap();
    let tree = &place.tree;
    place.write("plain", b"x");
    let (entry, none, _) = whole(tree, &p("plain"));
    let hostile = Entry { mode: 0o4777, mtime_ns: 5, ..entry };

    let round = |number: usize| -> [bool; 2] {
        let victim = p("door/victim");
        let temp = tree.temp(0).unwrap();
        tree.dress(&temp.file, &entry, &none).unwrap();
        let placed = temp.place(tree, &p(format!("door/{number}"))).is_ok();
        let _ = tree.make_dir(&p(format!("door/dir {number}")));
        let _ = tree.make_symlink(&p(format!("door/link {number}")), b"x");
        let _ = tree.link(&p("plain"), &p(format!("door/hard {number}")));
        let _ = tree.rename(&p(format!("door/{number}")), &p(format!("door/renamed {number}")));
        // Each of these would do something to what is outside.
        assert!(tree.dress_at(&victim, &hostile, &none).is_err());
        assert!(tree.set_mtime(&victim, 5).is_err());
        assert!(tree.unlink(&victim).is_err());
        assert!(tree.rename(&victim, &p("taken")).is_err());
        assert!(tree.link(&victim, &p("taken")).is_err());
        assert!(tree.set_aside(&victim, &Aside::Trash, 0).is_err());
        assert!(tree.stat(&victim).unwrap().is_none());
        assert!(tree.open_file(&victim).unwrap().is_none());
        assert!(matches!(tree.look(&victim).unwrap(), Look::Absent));
        let listed = tree.list(&p("door")).unwrap();
        assert!(listed.iter().flatten().all(|(name, _)| **name != *b"victim"));
        if number.is_multiple_of(50) {
            let _ = tree.set_aside(&p(format!("door/renamed {number}")), &Aside::Trash, 0);
        }
        [placed, !placed]
    };
    let stop = AtomicBool::new(false);
    let (mut placed, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| swap(&place, outside.path(), &stop));
        let _stop = Stop(&stop);
        for number in 0..2_000 {
            let [yes, no] = round(number);
            (placed, refused) = (placed + usize::from(yes), refused + usize::from(no));
        }
    });
    eprintln!("{placed} placed, {refused} refused");
    assert!(placed > 0);
    // And once with the symlink there for certain.
    std::fs::rename(place.at("door"), place.at("away")).unwrap();
    symlink(outside.path(), place.at("door")).unwrap();
    assert_eq!(round(2_000), [false, true]);
    let there = std::fs::read_dir(outside.path()).unwrap().count();
    let after = std::fs::metadata(&victim).unwrap();
    assert_eq!(there, 1, "something is outside");
    assert_eq!((after.ctime(), after.ctime_nsec()), (before.ctime(), before.ctime_nsec()));
}

/// Runs it in a thread of its own with other privileges; those of the other threads stay.
fn in_thread<T: Send>(become_other: fn() -> bool, run: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| scope.spawn(|| become_other().then(run)).join().unwrap())
}

#[test]
fn what_we_may_not_do_is_an_error_that_says_so() {
    let place = Place::new();
    place.write("secret", b"x");
    std::fs::set_permissions(place.at("secret"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::create_dir(place.at("closed")).unwrap();
    std::fs::set_permissions(place.at("closed"), PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::create_dir(place.at("theirs")).unwrap();
    std::fs::set_permissions(place.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(place.at("theirs"), PermissionsExt::from_mode(0o777)).unwrap();
    let nobody = || {
        let id = 65_534;
        // SAFETY: no memory is involved. The raw call changes this thread alone.
        unsafe { libc::syscall(libc::SYS_setresuid, id, id, id) == 0 }
    };
    let run = || {
        let error = place.tree.look(&p("secret")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("/secret: Permission denied"), "{error}");
        assert!(place.tree.list(&p("closed")).is_err());
        assert!(place.tree.stat(&p("closed/x")).is_err(), "not known to be absent");
        let theirs = Tree::open(&place.at("theirs")).unwrap();
        let temp = theirs.temp(0).unwrap();
        let entry = Entry {
            kind: Kind::File,
            mode: 0o600,
            uid: 1,
            gid: 1,
            mtime_ns: 0,
            size: 0,
            content: digest::Digest::default(),
            xattrs: digest::Digest::default(),
            linked: false,
        };
        let error = theirs.dress(&temp.file, &entry, &Xattrs::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("to 1:1"), "{error}");
        temp.place(&theirs, &p("file")).unwrap();
    };
    if !is_root() || in_thread(nobody, run).is_none() {
        eprintln!("SKIPPED: needs root, to become another user");
    }
}

#[test]
fn what_is_mounted_in_a_tree_is_not_entered() {
    let place = Place::new();
    for dir in ["mounted", "bound", "dir"] {
        std::fs::create_dir(place.at(dir)).unwrap();
    }
    place.write("dir/x", b"x");
    let private = || {
        // SAFETY: constant strings; the other threads keep their own view of what is mounted.
        unsafe {
            let flags = libc::MS_REC | libc::MS_PRIVATE;
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(
                    c"none".as_ptr(),
                    c"/".as_ptr(),
                    std::ptr::null(),
                    flags,
                    std::ptr::null(),
                ) == 0
        }
    };
    let mount = |source: &Path, target: &str, kind: &std::ffi::CStr, flags| {
        let source = std::ffi::CString::new(source.as_os_str().as_bytes()).unwrap();
        let target = std::ffi::CString::new(place.at(target).as_os_str().as_bytes()).unwrap();
        // SAFETY: all of them are strings that end with NUL and live long enough.
        let done = unsafe {
            libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, std::ptr::null())
        };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
    };
    let run = || {
        mount(Path::new("none"), "mounted", c"tmpfs", 0);
        mount(&place.at("dir"), "bound", c"", libc::MS_BIND);
        place.write("mounted/inside", b"");
        let tree = Tree::open(place.dir.path()).unwrap();
        for name in ["mounted", "bound"] {
            let dir = p(name);
            assert!(matches!(tree.look(&dir).unwrap(), Look::Other), "{name}");
            assert_eq!(tree.stat(&dir).unwrap().unwrap().kind, None);
            assert!(tree.list(&dir).unwrap().is_none());
            assert!(tree.set_mtime(&dir, 0).is_err());
            assert!(tree.open_dir(&dir).is_err());
            assert!(tree.set_aside(&dir, &Aside::Trash, 0).is_err());
            for child in ["inside", "x"] {
                let child = dir.join(child.as_bytes()).unwrap();
                assert!(matches!(tree.look(&child).unwrap(), Look::Absent));
                assert!(tree.unlink(&child).is_err());
                assert!(tree.temp(0).unwrap().place(&tree, &child).is_err());
            }
        }
        let children = tree.list(&TreePath::root()).unwrap().unwrap();
        assert_eq!(children.iter().filter(|(_, found)| found.kind.is_none()).count(), 2);
        // A root that is mounted itself is a root.
        let inner = Tree::open(&place.at("mounted")).unwrap();
        assert_eq!(inner.list(&TreePath::root()).unwrap().unwrap().len(), 1);
        assert!(matches!(inner.look(&TreePath::root()).unwrap(), Look::Whole { .. }));
    };
    if !is_root() || in_thread(private, run).is_none() {
        eprintln!("SKIPPED: needs root, to mount something");
    }
}

#[test]
#[ignore = "a measurement"]
fn how_long_calls_take() {
    let place = Place::new();
    let tree = &place.tree;
    std::fs::create_dir_all(place.at("a/b/c")).unwrap();
    let rounds = 10_000_u32;
    let measure = |name: &str, run: &mut dyn FnMut(u32)| {
        let start = Instant::now();
        (0..rounds).for_each(&mut *run);
        let each = start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds);
        eprintln!("{name}: {each:.1} µs");
    };
    let path = p("a/b/c/file");
    place.write("a/b/c/file", &[3; 4096]);
    let (entry, none, content) = whole(tree, &path);
    measure("stat", &mut |_| assert!(tree.stat(&path).unwrap().is_some()));
    measure("look of 4 KiB", &mut |_| {
        tree.look(&path).unwrap();
    });
    measure("list of a folder of 1", &mut |_| {
        tree.list(&p("a/b/c")).unwrap();
    });
    let paths: Vec<_> = (0..rounds).map(|i| p(format!("a/b/c/{i}"))).collect();
    let owned = Entry { uid: own_id(5).unwrap_or(entry.uid), mode: 0o644, ..entry };
    for (name, bytes) in [("4 KiB", 4096), ("nothing", 0), ("4 KiB, replacing", 4096)] {
        measure(&format!("temp + write + dress + place, {name}"), &mut |i| {
            let temp = tree.temp(bytes as u64).unwrap();
            (&temp.file).write_all(&content[..bytes]).unwrap();
            tree.dress(&temp.file, &owned, &none).unwrap();
            temp.place(tree, &paths[i as usize]).unwrap();
        });
    }
    measure("set_mtime", &mut |_| tree.set_mtime(&p("a/b/c"), 5).unwrap());
    measure("set_aside", &mut |i| {
        tree.set_aside(&paths[i as usize], &Aside::Trash, 4096).unwrap();
    });
    let start = Instant::now();
    assert!(!tree.forget(&Aside::Trash, Duration::ZERO, 0, usize::MAX).unwrap());
    eprintln!("forget {rounds} files: {:?}", start.elapsed());
}
