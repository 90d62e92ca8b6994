//! The calls that SQLite makes, made by hand on files that look like a WAL-index.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Mutex;

use tempfile::TempDir;

use super::*;

/// What the daemon of these tests was asked, by all of them: the settings exist once.
static ASKED: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn system(fd: c_int, command: c_int, argument: *mut c_void) -> c_int {
    // SAFETY: what the test hands over.
    unsafe { libc::fcntl(fd, command, argument) }
}

/// A folder, and a daemon that says `ok` to everything.
fn folder() -> TempDir {
    static SOCKET: Mutex<Option<TempDir>> = Mutex::new(None);
    let mut socket = SOCKET.lock().expect("no panic under this lock");
    if socket.is_none() {
        let home = tempfile::tempdir().expect("a folder");
        let path = home.path().join("barrier.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a client");
                std::thread::spawn(move || {
                    let questions = BufReader::new(stream.try_clone().expect("a copy"));
                    for question in questions.lines().map_while(Result::ok) {
                        ASKED.lock().expect("no panic under this lock").push(question);
                        let _ = stream.write_all(b"ok 1 1\n");
                    }
                });
            }
        });
        settings::set_for_tests(&path);
        *socket = Some(home);
    }
    tempfile::tempdir().expect("a folder")
}

fn index(folder: &TempDir, name: &str) -> File {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.open(folder.path().join(name)).expect("a file");
    file.write_all_at(&[0; 136], 0).expect("room");
    file
}

fn lock(file: &File, kind: c_int, start: i64, len: i64) -> c_int {
    let mut wanted = libc::flock {
        l_type: i16::try_from(kind).expect("small"),
        l_whence: 0,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    fcntl_watched(system, file.as_raw_fd(), libc::F_SETLK, (&raw mut wanted).cast())
}

fn commit(file: &File) {
    let mut count = [0; 4];
    file.read_exact_at(&mut count, 8).expect("a header");
    let next = u32::from_ne_bytes(count) + 1;
    file.write_all_at(&next.to_ne_bytes(), 8).expect("room");
}

/// How often the daemon was asked for the database.
fn asked(folder: &TempDir, name: &str) -> usize {
    let path = folder.path().join(name);
    let asked = ASKED.lock().expect("no panic under this lock");
    asked.iter().filter(|question| Path::new(question) == path).count()
}

#[test]
fn a_commit_asks_once_and_a_rollback_not_at_all() {
    let folder = folder();
    let file = index(&folder, "a.db-shm");
    for kind in ["commit", "rollback"] {
        assert_eq!(lock(&file, libc::F_WRLCK, 120, 1), 0);
        if kind == "commit" {
            commit(&file);
        }
        assert_eq!(lock(&file, libc::F_UNLCK, 120, 1), 0);
        assert_eq!(asked(&folder, "a.db"), 1, "after the {kind}");
    }
    // Readers, checkpointers and an unlock without a lock.
    lock(&file, libc::F_RDLCK, 124, 1);
    lock(&file, libc::F_WRLCK, 121, 1);
    commit(&file);
    lock(&file, libc::F_UNLCK, 0, 0);
    assert_eq!(asked(&folder, "a.db"), 1);
}

#[test]
fn every_range_that_frees_the_byte_counts() {
    let folder = folder();
    let file = index(&folder, "a.db-shm");
    for (at, (start, len)) in
        [(120, 1), (120, 8), (0, 0), (0, 121), (100, i64::MAX - 100)].iter().enumerate()
    {
        assert_eq!(lock(&file, libc::F_WRLCK, 120, 8), 0);
        commit(&file);
        lock(&file, libc::F_UNLCK, 121, 7);
        assert_eq!(asked(&folder, "a.db"), at, "the byte is still locked");
        lock(&file, libc::F_UNLCK, *start, *len);
        assert_eq!(asked(&folder, "a.db"), at + 1, "{start}, {len}");
    }
}

#[test]
fn high_descriptors() {
    let folder = folder();
    let low = index(&folder, "a.db-shm");
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure outlives both calls.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    // SAFETY: the descriptor is open.
    let high = unsafe { libc::fcntl(low.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3_000) };
    if high < 0 {
        println!("SKIPPED: no descriptors above 3000 are allowed here (ulimit -n)");
        return;
    }
    // SAFETY: nobody else owns it.
    let high = unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(high) };
    lock(&high, libc::F_WRLCK, 120, 1);
    commit(&high);
    lock(&high, libc::F_UNLCK, 120, 1);
    assert_eq!(asked(&folder, "a.db"), 1);
}

#[test]
fn a_descriptor_that_leads_elsewhere_by_now_is_forgotten() {
    let folder = folder();
    let first = index(&folder, "a.db-shm");
    let other = index(&folder, "b.db-shm");
    commit(&other);
    lock(&first, libc::F_WRLCK, 120, 1);
    // SAFETY: both are open; as if the program had closed one and opened the other.
    unsafe { libc::dup2(other.as_raw_fd(), first.as_raw_fd()) };
    lock(&first, libc::F_UNLCK, 120, 1);
    assert_eq!((asked(&folder, "a.db"), asked(&folder, "b.db")), (0, 0));
    lock(&first, libc::F_WRLCK, 120, 1);
    commit(&other);
    lock(&first, libc::F_UNLCK, 120, 1);
    assert_eq!((asked(&folder, "a.db"), asked(&folder, "b.db")), (0, 1));
}

#[test]
fn other_files_and_calls_are_left_alone() {
    let folder = folder();
    let file = index(&folder, "plain");
    lock(&file, libc::F_WRLCK, 120, 1);
    commit(&file);
    lock(&file, libc::F_UNLCK, 120, 1);
    assert_eq!(asked(&folder, "plain"), 0);

    let index = index(&folder, "a.db-shm");
    // SAFETY: a descriptor that nobody has, and no argument.
    assert_eq!(fcntl_watched(system, -1, libc::F_SETLK, std::ptr::null_mut()), -1);
    let flags = fcntl_watched(system, index.as_raw_fd(), libc::F_GETFD, std::ptr::null_mut());
    assert_eq!(flags, libc::FD_CLOEXEC);
}

#[test]
fn neither_errno_nor_a_panic_comes_out() {
    // SAFETY: the address of this thread's errno.
    let errno = unsafe { libc::__errno_location() };
    for is_well in [true, false] {
        // SAFETY: as above.
        unsafe { *errno = libc::EXDEV };
        keeping_errno(|| {
            // SAFETY: as above.
            unsafe { *errno = libc::EPIPE };
            assert!(is_well, "a fault that this test makes");
        });
        // SAFETY: as above.
        assert_eq!(unsafe { *errno }, libc::EXDEV, "{is_well}");
    }
}
