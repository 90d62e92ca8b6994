use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;

use super::*;

fn read(program: &str, variables: &[(&str, &str)]) -> Option<Settings> {
    let variables: HashMap<&str, &str> = variables.iter().copied().collect();
    Settings::read(Path::new(program), |name| variables.get(name).map(OsString::from))
}

#[test]
fn without_variables_every_database_waits_a_second() {
    let settings = read("/usr/bin/python3", &[]).expect("watching");
    assert_eq!(settings.socket, b"/run/staffetta/barrier.sock");
    assert_eq!(settings.timeout, Some(Duration::from_secs(1)));
    assert!(settings.databases.is_none());
}

#[test]
fn variables() {
    let timeout = |text| read("x", &[("STAFFETTA_TIMEOUT_MS", text)]).expect("watching").timeout;
    assert_eq!(timeout("250"), Some(Duration::from_millis(250)));
    assert_eq!(timeout("0"), None);
    for wrong in ["", "-1", "1s", "3600001", "99999999999999999999"] {
        assert_eq!(timeout(wrong), Some(Duration::from_secs(1)), "{wrong:?}");
    }
    assert!(read("x", &[("STAFFETTA_BARRIER", "")]).is_none());
    assert!(read("x", &[("STAFFETTA_BARRIER", &"s".repeat(SOCKET_BYTES_MAX))]).is_none());
    assert!(read("x", &[("STAFFETTA_BARRIER", &"s".repeat(SOCKET_BYTES_MAX - 1))]).is_some());
    assert!(read("/usr/sbin/staffetta", &[]).is_none(), "the daemon would wait for itself");
}

#[test]
fn only_named_databases_are_watched() {
    let folder = tempfile::tempdir().expect("a folder");
    let index = folder.path().join("app one.db-shm");
    let file = File::create(&index).expect("a file");
    let path = DatabasePath::of_index(file.as_raw_fd()).expect("a WAL-index");
    let root = folder.path().display().to_string();
    for (list, expected) in [
        (format!("/nowhere/*:{root}/*.db"), true),
        (format!("{root}/app one.db"), true),
        (format!("{root}/app*"), true),
        ("/*".to_owned(), false),
        (format!("{root}/app"), false),
        (String::new(), false),
    ] {
        let settings = read("x", &[("STAFFETTA_DATABASES", &list)]).expect("watching");
        assert_eq!(settings.watches(&path), expected, "{list:?}");
    }
    assert!(read("x", &[]).expect("watching").watches(&path));
}

#[test]
fn a_question_is_the_path_and_a_line_break() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = File::create(folder.path().join("a.db-shm")).expect("a file");
    let mut path = DatabasePath::of_index(file.as_raw_fd()).expect("a WAL-index");
    let question = format!("{}/a.db\n", folder.path().display());
    assert_eq!(path.question(), question.as_bytes());
    assert!(path.as_c_str().is_none(), "the line break has replaced the end");
}

#[test]
fn what_is_no_index_of_a_database() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["a.db", "a.db-wal", "two\nlines.db-shm"] {
        let file = File::create(folder.path().join(name)).expect("a file");
        assert!(DatabasePath::of_index(file.as_raw_fd()).is_none(), "{name:?}");
    }
    let gone = folder.path().join("gone.db-shm");
    let file = File::create(&gone).expect("a file");
    std::fs::remove_file(&gone).expect("it is there");
    assert!(DatabasePath::of_index(file.as_raw_fd()).is_none(), "it has no name anymore");
    assert!(DatabasePath::of_index(-1).is_none());
}

#[test]
fn formatting_refuses_what_does_not_fit() {
    let mut buffer = [0; 4];
    assert_eq!(write_to(&mut buffer, format_args!("{}", 1234)), Some(4));
    assert_eq!(write_to(&mut buffer, format_args!("{}", 12345)), None);
}
