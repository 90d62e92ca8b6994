//! A disk without room, on either side: nothing is lost, nothing is overwritten, and all goes on by
//! itself when there is room again. Needs root, for small file systems that nobody else sees.

mod pair;

use pair::{Node, assert_same, count, wait};
use rusqlite::Connection;
use staffetta_db::{Command, Notice, State};
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Puts a small file system there, seen by this thread and those that it starts; false without
/// root.
fn small(folder: &Path, kib: u32) -> bool {
    std::fs::create_dir_all(folder).expect("a folder");
    let target = std::ffi::CString::new(folder.as_os_str().as_bytes()).expect("no zero in it");
    let options = std::ffi::CString::new(format!("size={kib}k")).expect("no zero in it");
    // SAFETY: all strings end with a zero and outlive the calls.
    let mounted = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(
                c"none".as_ptr(),
                c"/".as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            ) == 0
            && libc::mount(
                c"small".as_ptr(),
                target.as_ptr(),
                c"tmpfs".as_ptr(),
                0,
                options.as_ptr().cast(),
            ) == 0
    };
    if !mounted {
        println!("SKIPPED: small file systems need root");
    }
    mounted
}

/// A pair that follows, with so many rows, and an application of its primary.
fn following(root: &Path, rows: u32) -> (Node, Node, Connection) {
    let one = Node::start(root, "na", "nb");
    let mut other = Node::start(root, "nb", "na");
    one.lead(2);
    let application = one.application("a.db");
    grow(&application, rows).expect("rows");
    other.attend(&one);
    one.shipped("a.db");
    (one, other, application)
}

/// Takes all room but the last few pages.
fn ballast(folder: &Path) -> PathBuf {
    let path = folder.join("ballast");
    let mut file = File::create(&path).expect("a file");
    while file.write(&[7; 4_096]).is_ok() {}
    path
}

fn grow(connection: &Connection, rows: u32) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS t(x);
         WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<{rows})
         INSERT INTO t SELECT randomblob(1000) FROM n"
    ))
}

#[test]
fn a_standby_without_room_pauses_and_catches_up() {
    let root = tempfile::tempdir().expect("a folder");
    let data = root.path().join("nb/data");
    if !small(&data, 16_384) {
        return;
    }
    let (one, other, application) = following(root.path(), 1_000);
    let ballast = ballast(&data);
    for _ in 0..5 {
        grow(&application, 500).expect("the primary's disk has room");
    }
    other.was_told(
        "the trouble",
        |notice| matches!(notice, Notice::Trouble(_, why) if why.contains("full")),
    );
    assert_eq!(count(&other.database("a.db"), "t"), Some(1_000), "readers have the last state");
    grow(&application, 500).expect("the primary's disk has room");
    std::fs::remove_file(ballast).expect("room");
    wait("the rest", || count(&other.database("a.db"), "t") == Some(4_000));
    one.shipped("a.db");
    other.was_told("the end of it", |notice| matches!(notice, Notice::Healed(_)));
    assert_same(&one.database("a.db"), &other.database("a.db"));
}

/// As without the daemon: the application is told, and goes on when there is room.
#[test]
fn a_primary_without_room_tells_its_application_and_goes_on() {
    let root = tempfile::tempdir().expect("a folder");
    let data = root.path().join("na/data");
    if !small(&data, 16_384) {
        return;
    }
    let (one, other, application) = following(root.path(), 1_000);
    let ballast = ballast(&data);
    let mut refused = None;
    for _ in 0..20 {
        refused = refused.or(grow(&application, 500).err());
    }
    let error = refused.expect("no room");
    assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DiskFull), "{error}");
    let kept = count(&one.database("a.db"), "t");
    wait("what was committed", || count(&other.database("a.db"), "t") == kept);
    std::fs::remove_file(ballast).expect("room");
    grow(&application, 500).expect("rows");
    wait("what came after", || count(&other.database("a.db"), "t") == kept.map(|rows| rows + 500));
    one.shipped("a.db");
    assert_same(&one.database("a.db"), &other.database("a.db"));
    let lost = |notice: &Notice| matches!(notice, Notice::LostTrail(..));
    assert!(!one.notices.lock().expect("no holder panics").iter().any(lost));
}

#[test]
fn without_room_for_the_archive_nothing_is_overwritten() {
    let root = tempfile::tempdir().expect("a folder");
    let archive = root.path().join("nb/archive");
    // The database, and what an archive leaves free.
    if !small(&archive, 32_768) {
        return;
    }
    let (one, mut other, _) = following(root.path(), 100);
    other.hang_up();
    other.lead(3);
    grow(&other.application("a.db"), 77).expect("rows");
    std::thread::sleep(std::time::Duration::from_millis(300));
    other.engine.say(Command::Follow(4));
    one.lead(4);
    let ballast = ballast(&archive);
    other.attend(&one);
    other.is("a.db", State::Diverged);
    other.engine.say(Command::Rule(other.database("a.db"), true));
    other.was_told("the trouble", |notice| {
        matches!(notice, Notice::Trouble(_, why) if why.contains("nothing is overwritten"))
    });
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(count(&other.database("a.db"), "t"), Some(177));
    std::fs::remove_file(ballast).expect("room");
    other.is("a.db", State::Diverged);
    other.engine.say(Command::Rule(other.database("a.db"), true));
    other.was_told("the archive", |notice| matches!(notice, Notice::Archived(..)));
    one.shipped("a.db");
    assert_same(&one.database("a.db"), &other.database("a.db"));
}
