//! Two engines in one process, over the real channel: one leads, one follows.

// Each test uses a part of it.
#![allow(dead_code)]

pub(crate) mod process;
pub(crate) mod proxy;

use rusqlite::Connection;
use staffetta_bulk::{Dialer, Listener, Purpose, loopback};
use staffetta_db::{Command, DatabaseStatus, Handle, Notice, Options, Pattern, State};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// One node: its engine, its listener, its dialer.
pub(crate) struct Node {
    pub(crate) engine: Handle,
    pub(crate) folder: PathBuf,
    pub(crate) notices: Arc<Mutex<Vec<Notice>>>,
    address: SocketAddr,
    listener: Option<Listener>,
    dialer: Option<Dialer>,
    name: &'static str,
}

/// A pattern for all databases of a node.
pub(crate) fn all(folder: &Path) -> Pattern {
    Pattern {
        name: "data".into(),
        pattern: folder.join("data/*.db").display().to_string(),
        keep_journal: false,
        sync: None,
        block_alone: false,
        durable: false,
        unacked_max: 0,
        scrub: None,
    }
}

/// Two nodes of one configuration, and the folder in which they live.
pub(crate) fn pair(change: impl Fn(&mut Pattern)) -> (tempfile::TempDir, Node, Node) {
    let root = tempfile::tempdir().expect("a folder");
    let one = Node::with(root.path(), "na", "nb", &change);
    let other = Node::with(root.path(), "nb", "na", &change);
    (root, one, other)
}

/// Rows with these numbers.
pub(crate) fn insert(connection: &Connection, from: i64, count: i64) {
    let table = "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x)";
    connection.execute_batch(table).expect("a table");
    for id in from..from + count {
        connection.execute("INSERT INTO t VALUES(?1, 'row ' || ?1)", [id]).expect("a row");
    }
}

impl Node {
    pub(crate) fn start(root: &Path, name: &'static str, peer: &'static str) -> Node {
        Node::with(root, name, peer, |_| {})
    }

    pub(crate) fn with(
        root: &Path,
        name: &'static str,
        peer: &'static str,
        change: impl FnOnce(&mut Pattern),
    ) -> Node {
        let mut pattern = all(&root.join(name));
        change(&mut pattern);
        Node::of(root, name, peer, vec![pattern])
    }

    pub(crate) fn of(
        root: &Path,
        name: &'static str,
        peer: &'static str,
        patterns: Vec<Pattern>,
    ) -> Node {
        let folder = root.join(name);
        for part in ["data", "state", "archive"] {
            std::fs::create_dir_all(folder.join(part)).expect("a folder");
        }
        let notices: Arc<Mutex<Vec<Notice>>> = Arc::default();
        let told = Arc::clone(&notices);
        let options = Options {
            patterns,
            state: folder.join("state"),
            archive: folder.join("archive"),
            barrier: Some(folder.join("barrier.sock")),
        };
        let engine = staffetta_db::start(options, move |notice| {
            told.lock().expect("no holder panics").push(notice);
        })
        .expect("an engine");
        let leading = engine.clone();
        let here = (engine.streams(), engine.wake());
        let is_primary = move || leading.leading().is_some();
        let listener = loopback::listener((name, peer), Purpose::Databases, here, is_primary);
        let address = listener.addresses()[0];
        Node { engine, folder, notices, address, listener: Some(listener), dialer: None, name }
    }

    pub(crate) fn database(&self, name: &str) -> PathBuf {
        self.folder.join("data").join(name)
    }

    /// An application of this node.
    pub(crate) fn application(&self, name: &str) -> Connection {
        let connection = Connection::open(self.database(name)).expect("a connection");
        connection.busy_timeout(Duration::from_secs(10)).expect("a timeout");
        connection
    }

    pub(crate) fn lead(&self, epoch: u64) {
        self.engine.say(Command::Lead(epoch));
        wait("leading", || self.engine.leading() == Some(epoch));
    }

    /// Where others find it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Follows a node from now on.
    pub(crate) fn attend(&mut self, leader: &Node) {
        self.attend_at(leader.name, leader.address);
    }

    pub(crate) fn attend_at(&mut self, leader: &str, address: SocketAddr) {
        let here = (self.engine.streams(), self.engine.wake());
        let dialer = loopback::dialer((self.name, leader), address, Purpose::Databases, here);
        self.dialer = Some(dialer);
    }

    /// Dials no more. A stream that is open stays so.
    pub(crate) fn hang_up(&mut self) {
        self.dialer = None;
    }

    pub(crate) fn status(&self, name: &str) -> Option<DatabaseStatus> {
        let path = self.database(name);
        self.engine.status().iter().find(|status| status.path == path).cloned()
    }

    /// Waits until this leader's standby has everything.
    pub(crate) fn shipped(&self, name: &str) {
        // What a status says may be this old.
        std::thread::sleep(Duration::from_millis(150));
        let until = Instant::now() + PATIENCE;
        let there =
            || self.status(name).is_some_and(|s| s.state == State::Leading && s.behind == Some(0));
        while !there() {
            let status = self.status(name);
            let told = self.notices.lock().expect("no holder panics");
            assert!(Instant::now() < until, "{name} not shipped: {status:?}; told {told:?}");
            drop(told);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn is(&self, name: &str, state: State) {
        wait(state.as_str(), || self.status(name).is_some_and(|status| status.state == state));
    }

    pub(crate) fn was_told(&self, what: &str, which: impl Fn(&Notice) -> bool) {
        wait(what, || self.notices.lock().expect("no holder panics").iter().any(&which));
    }

    /// Holds writers until the standby has everything.
    pub(crate) fn hold(&self, patience: Duration) -> Result<(), String> {
        self.begin_hold(patience).recv_timeout(patience + PATIENCE).expect("an answer")
    }

    /// The same, without waiting for the answer.
    pub(crate) fn begin_hold(&self, patience: Duration) -> Receiver<Result<(), String>> {
        let (reply, held) = mpsc::channel();
        let reply = Box::new(move |result| drop(reply.send(result)));
        self.engine.say(Command::Hold(Instant::now() + patience, reply));
        held
    }

    /// Asks at the barrier whether everything that is committed is on the standby.
    pub(crate) fn ask(&self, name: &str) -> Asked {
        let socket = self.folder.join("barrier.sock");
        let mut stream = UnixStream::connect(socket).expect("a socket");
        writeln!(stream, "{}", self.database(name).display()).expect("asked");
        Asked(BufReader::new(stream))
    }

    /// What was archived of this node's copies.
    pub(crate) fn archived(&self) -> Vec<PathBuf> {
        let archive = self.folder.join("archive").read_dir().expect("a folder");
        archive
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "sqlite"))
            .collect()
    }
}

/// A question at the barrier.
pub(crate) struct Asked(BufReader<UnixStream>);

impl Asked {
    /// The answer, without its line break; none when none comes in that time.
    pub(crate) fn answer(&mut self, patience: Duration) -> Option<String> {
        self.0.get_ref().set_read_timeout(Some(patience)).expect("a timeout");
        let mut line = String::new();
        self.0.read_line(&mut line).ok()?;
        Some(line.trim().to_owned())
    }
}

/// Waits for something that must come.
#[track_caller]
pub(crate) fn wait(what: &str, mut there: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !there() {
        assert!(Instant::now() < until, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Rows of a table, by whoever may read.
pub(crate) fn count(path: &Path, table: &str) -> Option<i64> {
    let connection = Connection::open(path).ok()?;
    connection.busy_timeout(Duration::from_secs(5)).ok()?;
    connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).ok()
}

/// Page by page what SQLite sees, without what it rewrites itself on each copy; and whole.
#[track_caller]
pub(crate) fn assert_same(one: &Path, other: &Path) {
    let (one, other) = (pages(one), pages(other));
    assert_eq!(one.len(), other.len(), "number of pages");
    let differ = one.iter().zip(&other).filter(|(one, other)| one != other).count();
    assert_eq!(differ, 0, "pages differ of {}", one.len());
}

fn pages(path: &Path) -> Vec<u128> {
    let connection = Connection::open(path).expect("a database");
    connection.busy_timeout(Duration::from_secs(5)).expect("a timeout");
    let whole: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .expect("integrity_check runs");
    assert_eq!(whole, "ok", "{}", path.display());
    let mut statement =
        connection.prepare("SELECT pgno, data FROM sqlite_dbpage").expect("pages can be read");
    let hashes = statement
        .query_map([], |row| Ok(staffetta_db::page_hash(row.get(0)?, &row.get::<_, Vec<u8>>(1)?)));
    hashes.expect("pages").collect::<Result<_, _>>().expect("pages")
}
