use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;

/// Nothing comes any more after that long.
const QUIET: Duration = Duration::from_millis(150);

pub(super) fn path(text: &str) -> TreePath {
    TreePath::parse(text.as_bytes()).unwrap()
}

fn changed(text: &str) -> Hint {
    Hint::Changed(path(text))
}

fn below(text: &str) -> Hint {
    Hint::Below(path(text))
}

/// A folder of its own for each test, with the tree in it: so there is an outside.
pub(super) fn scene() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    (dir, root)
}

/// Both mechanisms, if both work here.
fn for_each_mechanism(test: impl Fn(Mechanism)) {
    for mechanism in [Mechanism::Fanotify, Mechanism::Inotify] {
        let (_dir, root) = scene();
        match watch(&root, mechanism) {
            Ok(_) => test(mechanism),
            Err(error) => println!("SKIPPED {mechanism:?}: {error}"),
        }
    }
}

fn wait(source: &dyn ChangeSource, limit: Duration) -> bool {
    // SAFETY: the source keeps its descriptor open for as long as it is borrowed.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(source.fd()) };
    let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(limit.subsec_nanos()) };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).unwrap() > 0
}

/// All hints until none came for a while, with when they were taken. Others who write to the file
/// system wake the source, too.
pub(super) fn drain(source: &mut dyn ChangeSource) -> Vec<(Hint, Instant)> {
    let mut all = Vec::new();
    let mut more = false;
    let mut last = Instant::now();
    while more || last.elapsed() < QUIET {
        if !more {
            wait(source, QUIET.saturating_sub(last.elapsed()));
        }
        let mut hints = Vec::new();
        let before = Instant::now();
        more = source.take(&mut hints).unwrap();
        let took = before.elapsed();
        assert!(took < Duration::from_secs(2), "a take of {took:?} blocks");
        if !hints.is_empty() {
            last = Instant::now();
        }
        all.extend(hints.into_iter().map(|hint| (hint, last)));
    }
    all
}

pub(super) fn hints(source: &mut dyn ChangeSource) -> Vec<Hint> {
    drain(source).into_iter().map(|(hint, _)| hint).collect()
}

/// Whether somebody who follows the hints looks at this path after this time.
fn is_covered(hints: &[(Hint, Instant)], path: &TreePath, since: Instant) -> bool {
    hints.iter().any(|(hint, taken)| {
        *taken >= since
            && match hint {
                Hint::Changed(at) | Hint::Written(at) | Hint::Closed(at) => at == path,
                Hint::Below(top) => path.is_within(top),
                Hint::Overflow => true,
                Hint::RootGone | Hint::File(_) => false,
            }
    })
}

/// What these hints name exactly, and whether they say of everything that it may have changed.
fn check(prepare: impl Fn(&Path), act: impl Fn(&Path), expected: &[Hint]) {
    for_each_mechanism(|mechanism| {
        let (_dir, root) = scene();
        prepare(&root);
        let mut source = watch(&root, mechanism).unwrap();
        hints(&mut *source);
        act(&root);
        let seen = hints(&mut *source);
        for hint in expected {
            assert!(seen.contains(hint), "{mechanism:?}: no {hint:?} in {seen:?}");
        }
        let vague = seen.iter().find(|hint| matches!(hint, Hint::Overflow | Hint::RootGone));
        assert_eq!(vague, None, "{mechanism:?}: {seen:?}");
        if expected.is_empty() {
            // Where a file without a name is cannot be told here.
            let is_of_a_path = |hint: &&Hint| !matches!(hint, Hint::File(_));
            assert_eq!(seen.iter().find(is_of_a_path), None, "{mechanism:?}");
        }
    });
}

fn a_file(root: &Path) {
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/f"), "x").unwrap();
}

#[test]
fn a_file_is_hinted_at_when_it_is_made_written_and_closed() {
    check(
        |_| (),
        |root| fs::write(root.join("f"), "x").unwrap(),
        &[changed("f"), Hint::Closed(path("f"))],
    );
    let append = |root: &Path| {
        use std::io::Write;
        let mut file = fs::OpenOptions::new().append(true).open(root.join("d/f")).unwrap();
        file.write_all(b"y").unwrap();
        // Open still, when the hints are taken.
        std::mem::forget(file);
    };
    check(a_file, append, &[Hint::Written(path("d/f"))]);
}

#[test]
fn attributes_links_and_deletions_are_hinted_at() {
    let chmod = |at: &'static str| {
        move |root: &Path| {
            fs::set_permissions(root.join(at), fs::Permissions::from_mode(0o700)).unwrap();
        }
    };
    check(a_file, chmod("d/f"), &[changed("d/f")]);
    check(a_file, chmod("d"), &[changed("d")]);
    check(a_file, chmod("."), &[Hint::Changed(TreePath::root())]);
    check(a_file, |root| fs::hard_link(root.join("d/f"), root.join("l")).unwrap(), &[changed("l")]);
    let symlink = |root: &Path| std::os::unix::fs::symlink("/etc", root.join("d/s")).unwrap();
    check(a_file, symlink, &[changed("d/s")]);
    check(a_file, |root| fs::remove_file(root.join("d/f")).unwrap(), &[changed("d/f")]);
    check(a_file, |root| fs::remove_dir_all(root.join("d")).unwrap(), &[changed("d")]);
    let move_file = |root: &Path| fs::rename(root.join("d/f"), root.join("g")).unwrap();
    check(a_file, move_file, &[changed("d/f"), changed("g")]);
}

/// Plays with another name of a file that goes, by itself and because another file takes it, where
/// there is fanotify; the hint must be of the file.
fn for_a_name_that_goes(play: impl Fn(&mut dyn ChangeSource, &Path, &dyn Fn())) {
    let (_dir, root) = scene();
    a_file(&root);
    let Ok(mut source) = watch(&root, Mechanism::Fanotify) else {
        println!("SKIPPED: no fanotify here");
        return;
    };
    let ino = fs::metadata(root.join("d/f")).unwrap().ino();
    let (name, other) = (root.join("name"), root.join("other"));
    let taken: &dyn Fn() = &|| {
        fs::write(&other, "x").unwrap();
        fs::rename(&other, &name).unwrap();
    };
    for go in [&|| fs::remove_file(&name).unwrap(), taken] {
        fs::hard_link(root.join("d/f"), &name).unwrap();
        hints(&mut *source);
        play(&mut *source, &name, go);
        let seen = hints(&mut *source);
        assert!(seen.contains(&Hint::File(ino)), "{seen:?}");
        let _ = fs::remove_file(&name);
    }
}

#[test]
fn a_file_that_had_another_name_for_a_moment_is_hinted_at_by_its_inode() {
    for_a_name_that_goes(|_, name, go| {
        fs::write(name, "more").unwrap();
        go();
    });
}

#[test]
fn what_is_written_after_the_name_is_gone_is_hinted_at_by_the_inode() {
    for_a_name_that_goes(|source, name, go| {
        use std::io::Write;
        let mut file = fs::OpenOptions::new().append(true).open(name).unwrap();
        file.write_all(b"seen").unwrap();
        let seen = hints(source);
        assert!(seen.contains(&Hint::Written(path("name"))), "{seen:?}");
        go();
        hints(source);
        file.write_all(b"more").unwrap();
    });
}

#[test]
fn folders_that_appear_are_hinted_at_with_all_below_them() {
    let make = |root: &Path| fs::create_dir_all(root.join("a/b/c")).unwrap();
    check(|_| (), make, &[changed("a"), below("a")]);
    let move_in = |root: &Path| {
        let outside = root.with_file_name("outside");
        fs::create_dir_all(outside.join("b")).unwrap();
        fs::rename(outside, root.join("a")).unwrap();
    };
    check(|_| (), move_in, &[changed("a"), below("a")]);
    let rename = |root: &Path| fs::rename(root.join("d"), root.join("e")).unwrap();
    check(a_file, rename, &[changed("d"), changed("e"), below("e")]);
    let move_out = |root: &Path| {
        fs::rename(root.join("d"), root.with_file_name("outside")).unwrap();
    };
    check(a_file, move_out, &[changed("d")]);
}

#[test]
fn any_byte_may_be_in_a_name() {
    use std::os::unix::ffi::OsStrExt;
    for name in [b"\xff\xfe".as_slice(), b"a\nb", b" ", b"x (deleted)", &[b'x'; 255]] {
        let name = std::ffi::OsStr::from_bytes(name);
        let folder = TreePath::parse(name.as_bytes()).unwrap();
        let file = folder.join(name.as_bytes()).unwrap();
        let prepare = |root: &Path| fs::create_dir(root.join(name)).unwrap();
        let act = |root: &Path| fs::write(root.join(name).join(name), "x").unwrap();
        check(prepare, act, &[Hint::Closed(file)]);
    }
}

#[test]
fn what_is_outside_and_what_is_our_own_gives_nothing() {
    let prepare = |root: &Path| {
        fs::create_dir(root.with_file_name("root-2")).unwrap();
        fs::create_dir(root.join(".staffetta")).unwrap();
    };
    let act = |root: &Path| {
        let outside = root.with_file_name("root-2");
        fs::write(outside.join("f"), "x").unwrap();
        fs::create_dir(outside.join("a")).unwrap();
        fs::write(outside.join("a/f"), "x").unwrap();
        fs::write(root.join(".staffetta/f"), "x").unwrap();
        fs::create_dir(root.join(".staffetta/a")).unwrap();
        fs::write(root.join(".staffetta/a/f"), "x").unwrap();
    };
    check(prepare, act, &[]);
    check(a_file, |root| drop(fs::read(root.join("d/f")).unwrap()), &[]);
    let list = |root: &Path| assert_eq!(fs::read_dir(root.join("d")).unwrap().count(), 1);
    check(a_file, list, &[]);
}

#[test]
fn symlinks_are_never_followed() {
    let prepare = |root: &Path| {
        let outside = root.with_file_name("outside");
        fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("s")).unwrap();
    };
    let act = |root: &Path| fs::write(root.join("s/f"), "x").unwrap();
    check(prepare, act, &[]);
}

/// After a folder was renamed, moved out, in, or replaced, what happens in it has its new path.
#[test]
fn a_moved_folder_is_known_by_its_new_path() {
    for_each_mechanism(|mechanism| {
        let (_dir, root) = scene();
        let outside = root.with_file_name("outside");
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::create_dir_all(root.join("z/b/c")).unwrap();
        let mut source = watch(&root, mechanism).unwrap();
        let mut closed = |act: &dyn Fn(), file: PathBuf| {
            act();
            hints(&mut *source);
            fs::write(file, "x").unwrap();
            let seen = hints(&mut *source).into_iter();
            seen.filter(|hint| matches!(hint, Hint::Closed(_))).collect::<Vec<_>>()
        };
        let at = |text: &str| vec![Hint::Closed(path(text))];
        let rename = |from: &Path, to: &Path| fs::rename(from, to).unwrap();
        assert_eq!(closed(&|| (), root.join("a/b/c/1")), at("a/b/c/1"));
        let act = || rename(&root.join("a"), &root.join("d"));
        assert_eq!(closed(&act, root.join("d/b/c/2")), at("d/b/c/2"), "{mechanism:?}");
        let swap = || {
            rename(&root.join("d"), &root.join("t"));
            rename(&root.join("z"), &root.join("d"));
            rename(&root.join("t"), &root.join("z"));
        };
        assert_eq!(closed(&swap, root.join("z/b/c/3")), at("z/b/c/3"), "{mechanism:?}");
        assert_eq!(closed(&|| (), root.join("d/b/c/3")), at("d/b/c/3"), "{mechanism:?}");
        let out = || rename(&root.join("d"), &outside);
        assert_eq!(closed(&out, outside.join("b/c/4")), [], "{mechanism:?}");
        let back = || rename(&outside, &root.join("z/d"));
        assert_eq!(closed(&back, root.join("z/d/b/c/5")), at("z/d/b/c/5"), "{mechanism:?}");
        let again = || {
            fs::remove_dir_all(root.join("z")).unwrap();
            fs::create_dir_all(root.join("z/b/c")).unwrap();
        };
        assert_eq!(closed(&again, root.join("z/b/c/6")), at("z/b/c/6"), "{mechanism:?}");
    });
}

/// `mkdir -p` and a write, over and over, while somebody else takes the hints.
#[test]
fn a_storm_in_new_folders_loses_no_file() {
    for_each_mechanism(|mechanism| {
        let (_dir, root) = scene();
        let mut source = watch(&root, mechanism).unwrap();
        let done = AtomicBool::new(false);
        let (made, seen) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut made = Vec::new();
                for folder in 0..600 {
                    let folder = format!("a{}/b{folder}/c", folder % 7);
                    fs::create_dir_all(root.join(&folder)).unwrap();
                    for file in 0..5 {
                        let file = format!("{folder}/{file}");
                        fs::write(root.join(&file), "x").unwrap();
                        made.push((path(&file), Instant::now()));
                    }
                }
                done.store(true, Ordering::Release);
                made
            });
            let mut seen = Vec::new();
            while !done.load(Ordering::Acquire) {
                seen.extend(drain(&mut *source));
            }
            seen.extend(drain(&mut *source));
            (writer.join().unwrap(), seen)
        });
        let exact: HashSet<&TreePath> = seen.iter().filter_map(|(hint, _)| path_in(hint)).collect();
        let exact = made.iter().filter(|(file, _)| exact.contains(file)).count();
        println!("{mechanism:?}: {} hints, {exact} of 3,000 files named", seen.len());
        let lost = made.iter().filter(|(file, when)| {
            // The file was complete a moment before `when`; its hint may be taken in between.
            !is_covered(&seen, file, *when - Duration::from_millis(1))
                && !seen.iter().any(|(hint, _)| *hint == Hint::Closed(file.clone()))
        });
        assert_eq!(lost.count(), 0, "{mechanism:?}");
        every_folder_is_seen(&mut *source, &root);
    });
}

fn path_in(hint: &Hint) -> Option<&TreePath> {
    match hint {
        Hint::Changed(path) | Hint::Written(path) | Hint::Closed(path) => Some(path),
        Hint::Below(_) | Hint::Overflow | Hint::RootGone | Hint::File(_) => None,
    }
}

/// No folder is blind: a file in each is hinted at by its own path.
pub(super) fn every_folder_is_seen(source: &mut dyn ChangeSource, root: &Path) {
    let mut folders = vec![(root.to_owned(), TreePath::root())];
    let mut files = Vec::new();
    let mut seen = HashSet::new();
    while let Some((folder, at)) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                use std::os::unix::ffi::OsStrExt;
                folders.push((entry.path(), at.join(entry.file_name().as_bytes()).unwrap()));
            }
        }
        fs::write(folder.join("probe"), "x").unwrap();
        files.push(at.join(b"probe").unwrap());
        if files.len() % 150 == 0 {
            seen.extend(hints(source));
        }
    }
    seen.extend(hints(source));
    let blind = files.iter().filter(|file| !seen.contains(&Hint::Closed((*file).clone()))).count();
    assert_eq!(blind, 0, "of {} folders", files.len());
}

#[test]
fn a_root_that_is_moved_or_deleted_is_told_within_two_seconds() {
    let ends: [fn(&Path); 3] = [
        |root| fs::remove_dir(root).unwrap(),
        |root| fs::rename(root, root.with_file_name("away")).unwrap(),
        |root| {
            fs::rename(root, root.with_file_name("away")).unwrap();
            fs::create_dir(root).unwrap();
        },
    ];
    for end in ends {
        for_each_mechanism(|mechanism| {
            let (_dir, root) = scene();
            let mut source = watch(&root, mechanism).unwrap();
            end(&root);
            let limit = Instant::now() + Duration::from_secs(2);
            let mut seen = Vec::new();
            while !seen.contains(&Hint::RootGone) {
                assert!(Instant::now() < limit, "{mechanism:?}: {seen:?}");
                wait(&*source, QUIET);
                source.take(&mut seen).unwrap();
            }
        });
    }
}

#[test]
fn a_root_that_is_no_folder_is_refused_for_each_mechanism() {
    let (_dir, root) = scene();
    let error = watch(&root.join("none"), Mechanism::Auto).err().unwrap().to_string();
    assert!(error.contains("inotify") && error.contains("fanotify"), "{error}");
    fs::write(root.join("f"), "x").unwrap();
    assert!(watch(&root.join("f"), Mechanism::Auto).is_err());
    let proc = watch(Path::new("/proc/self"), Mechanism::Fanotify).err().unwrap();
    println!("{proc}");
}

fn cpu(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time outlives the call.
    assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// For the record: `cargo test --release -p staffetta-files --lib watch -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn what_setting_up_and_an_event_cost() {
    for_each_mechanism(|mechanism| {
        let (_dir, root) = scene();
        for folder in 0..20_000 {
            fs::create_dir_all(root.join(format!("a{}/b{folder}", folder % 141))).unwrap();
        }
        let before = Instant::now();
        let mut source = watch(&root, mechanism).unwrap();
        println!("{mechanism:?}: set up in {:?}", before.elapsed());
        hints(&mut *source);
        let aside_before = cpu(libc::CLOCK_PROCESS_CPUTIME_ID) - cpu(libc::CLOCK_THREAD_CPUTIME_ID);
        for file in 0..4_000 {
            fs::write(root.join(format!("a{}/{file}", file % 141)), "x").unwrap();
        }
        std::thread::sleep(Duration::from_millis(500));
        let aside = cpu(libc::CLOCK_PROCESS_CPUTIME_ID) - cpu(libc::CLOCK_THREAD_CPUTIME_ID);
        println!(
            "{mechanism:?}: other threads took {:?} in all",
            aside.saturating_sub(aside_before)
        );
        let mut seen = Vec::new();
        let before = Instant::now();
        while source.take(&mut seen).unwrap() {}
        let took = before.elapsed();
        println!(
            "{mechanism:?}: {} hints in {took:?}: {:?} each",
            seen.len(),
            took / seen.len() as u32
        );
        let before = Instant::now();
        fs::rename(root.join("a1"), root.join("a2/x")).unwrap();
        drain(&mut *source);
        println!("{mechanism:?}: mv of 142 folders: {:?}", before.elapsed().saturating_sub(QUIET));
        let before = Instant::now();
        fs::remove_dir_all(&root).unwrap();
        let removed = before.elapsed();
        let seen = drain(&mut *source);
        let overflow = seen.iter().any(|(hint, _)| *hint == Hint::Overflow);
        println!(
            "{mechanism:?}: rm -rf {removed:?}, quiet after {:?}, overflow {overflow}",
            before.elapsed().saturating_sub(QUIET)
        );
    });
}
