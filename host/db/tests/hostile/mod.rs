//! Writers that do whatever applications may, and a model of the database of what was captured.

// Each test uses a part of it.
#![allow(dead_code)]

use rusqlite::{Connection, OpenFlags};
use staffetta_db::{
    Attached, CHECKPOINT_FRAMES, Changes, Drained, Follower, Guard, LostTrail, lock_page, page_hash,
};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long writers run: short in every run, longer when somebody asks.
pub(crate) fn seconds(short: u64) -> u64 {
    let soak = std::env::var("STAFFETTA_SOAK_S").ok().and_then(|text| text.parse().ok());
    soak.unwrap_or(short)
}

/// How long a case of the soak runs: its share of a minute, or of as long as somebody asks for.
pub(crate) fn share(of_a_minute: u64) -> u64 {
    of_a_minute * seconds(60) / 60
}

/// One of the scripts beside this file.
pub(crate) fn script(script: &str, database: &Path, arguments: &[&str]) -> Program {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile").join(script);
    let mut command = Command::new("python3");
    command.arg(path).arg(database).args(arguments).stdout(Stdio::piped());
    Program(command.spawn().expect("python3 runs"))
}

/// A folder with one database in it.
pub(crate) struct Lab {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) database: PathBuf,
}

impl Lab {
    pub(crate) fn new() -> Lab {
        Lab::with("PRAGMA auto_vacuum=2")
    }

    pub(crate) fn with(pragmas: &str) -> Lab {
        let folder = tempfile::tempdir().expect("a folder");
        let database = folder.path().join("app.db");
        let connection = Connection::open(&database).expect("a database");
        connection
            .execute_batch(&format!(
                "{pragmas}; CREATE TABLE first(a); INSERT INTO first VALUES(1)"
            ))
            .expect("a table");
        Lab { folder, database }
    }

    pub(crate) fn attach(&self) -> Rc<Attached> {
        Rc::new(Attached::open(&self.database).expect("a database to follow"))
    }

    pub(crate) fn python(&self, script: &str, arguments: &[&str]) -> Program {
        self::script(script, &self.database, arguments)
    }

    /// An application of this process.
    pub(crate) fn application(&self) -> Connection {
        let connection = Connection::open(&self.database).expect("a connection");
        connection.busy_timeout(Duration::from_secs(10)).expect("a timeout");
        connection
    }
}

/// A program that does not outlive its test.
pub(crate) struct Program(pub(crate) Child);

impl Program {
    pub(crate) fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("a child").is_none()
    }

    /// What it printed, when it ended well.
    pub(crate) fn end(mut self) -> String {
        let status = self.0.wait().expect("a child");
        let mut text = String::new();
        if let Some(mut output) = self.0.stdout.take() {
            use std::io::Read;
            output.read_to_string(&mut text).expect("text");
        }
        assert!(status.success(), "the program ended with {status}: {text}");
        text
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a standby would hold.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) pages: BTreeMap<u32, Vec<u8>>,
    pub(crate) total: u32,
    pub(crate) transactions: u64,
}

impl Model {
    /// Takes what was captured, and empties it.
    pub(crate) fn apply(&mut self, changes: &mut Changes) {
        if changes.is_empty() {
            return;
        }
        for (number, image) in changes.pages() {
            assert!(number >= 1 && number <= changes.pages_total(), "page {number}");
            let image = image.expect("an image: the limit is large");
            self.pages.insert(number, image.to_vec());
        }
        self.total = changes.pages_total();
        self.pages.split_off(&(self.total + 1));
        self.transactions += changes.transactions();
        changes.clear();
    }

    pub(crate) fn table(&self) -> BTreeMap<u32, u128> {
        self.pages.iter().map(|(number, page)| (*number, page_hash(*number, page))).collect()
    }

    /// Why the model is not the database, page by page; None when it is.
    pub(crate) fn difference(&self, database: &Path) -> Option<String> {
        let truth = read_through_sqlite(database);
        let mine = self.table();
        let count = truth.iter().filter(|(number, hash)| mine.get(number) != Some(hash)).count();
        let beyond = mine.keys().filter(|number| !truth.contains_key(number)).count();
        (count + beyond > 0)
            .then(|| format!("{count} of {} pages differ, {beyond} do not exist", truth.len()))
    }

    /// What SQLite says about the model as a database.
    pub(crate) fn integrity(&self, folder: &Path) -> String {
        let path = folder.join("model.db");
        let page_bytes = self.pages[&1].len();
        let mut bytes = vec![0; self.total as usize * page_bytes];
        for (number, page) in &self.pages {
            let at = (*number as usize - 1) * page_bytes;
            bytes[at..at + page_bytes].copy_from_slice(page);
        }
        // In WAL mode it would want a log beside it.
        bytes[18..20].fill(1);
        std::fs::write(&path, bytes).expect("the model's file");
        integrity_of(&path)
    }

    pub(crate) fn assert_same(&self, lab: &Lab) {
        assert_eq!(self.difference(&lab.database), None, "the model must be the database");
        assert_eq!(self.integrity(lab.folder.path()), "ok");
    }
}

/// What SQLite says about a database.
pub(crate) fn integrity_of(path: &Path) -> String {
    let connection = Connection::open(path).expect("a database opens");
    connection.busy_timeout(Duration::from_secs(10)).expect("a timeout");
    let found = connection.query_row("PRAGMA integrity_check(3)", [], |row| row.get(0));
    found.unwrap_or_else(|error| error.to_string())
}

/// The pages as another connection sees them.
pub(crate) fn read_through_sqlite(path: &Path) -> BTreeMap<u32, u128> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).expect("a connection");
    connection.busy_timeout(Duration::from_secs(10)).expect("a timeout");
    let mut read = connection
        .prepare("SELECT pgno, data FROM sqlite_dbpage WHERE data IS NOT NULL")
        .expect("pages");
    let page_bytes = connection.query_row("PRAGMA page_size", [], |row| row.get(0));
    let empty = lock_page(page_bytes.expect("a size"));
    let pages = read.query_map([], |row| {
        let number: u32 = row.get(0)?;
        Ok((number, page_hash(number, row.get_ref(1)?.as_blob()?)))
    });
    let pages = pages.expect("pages").map(|page| page.expect("a page"));
    pages.filter(|(number, _)| *number != empty).collect()
}

/// A follower with its model.
pub(crate) struct Followed {
    // Before the follower, whose descriptors it does not use, in any order.
    pub(crate) model: Model,
    pub(crate) changes: Changes,
    pub(crate) follower: Follower,
    pub(crate) lost: Vec<LostTrail>,
    pub(crate) wal_frames_max: u32,
    /// Turns, and those that found a WAL of at least four times the length for a checkpoint.
    pub(crate) turns: u64,
    pub(crate) turns_long: u64,
}

impl Followed {
    pub(crate) fn start(attached: Rc<Attached>, guard: Guard) -> Followed {
        let follower = Follower::start_as(attached, guard, false).expect("a follower");
        let mut followed = Followed {
            model: Model::default(),
            changes: Changes::new(1 << 30),
            follower,
            lost: Vec::new(),
            wal_frames_max: 0,
            turns: 0,
            turns_long: 0,
        };
        followed.copy();
        followed
    }

    /// The first copy, and a resync: whatever the model held.
    pub(crate) fn copy(&mut self) {
        let (snapshot, _) = self.follower.snapshot(&mut self.changes).expect("a snapshot");
        self.model.pages.clear();
        self.model.total = snapshot.pages_total();
        let pages = &mut self.model.pages;
        snapshot
            .for_each(1..u32::MAX, |number, page| {
                pages.insert(number, page.to_vec());
                ControlFlow::Continue(())
            })
            .expect("pages");
        self.changes.clear();
    }

    /// One turn of an engine's loop.
    pub(crate) fn turn(&mut self) -> Drained {
        let tended = self.follower.tend(Instant::now(), &mut self.changes).expect("tended");
        if let Drained::Lost(lost) = tended {
            self.lost.push(lost);
            self.copy();
        }
        let drained = self.follower.drain(&mut self.changes, 4096).expect("drained");
        if let Drained::Lost(lost) = drained {
            self.lost.push(lost);
            self.copy();
        }
        self.model.apply(&mut self.changes);
        self.turns += 1;
        self.turns_long += u64::from(self.follower.trail().frame >= 4 * CHECKPOINT_FRAMES);
        self.wal_frames_max = self.wal_frames_max.max(self.follower.trail().frame);
        drained
    }

    /// Follows while a condition holds, and to the end of what is committed then.
    pub(crate) fn follow_while(&mut self, mut running: impl FnMut() -> bool) {
        loop {
            let goes_on = running();
            let drained = self.turn();
            match drained {
                Drained::Nothing if !goes_on => return,
                Drained::Nothing => std::thread::sleep(Duration::from_micros(50)),
                Drained::Some | Drained::More | Drained::Lost(_) => {}
            }
        }
    }

    pub(crate) fn follow_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        self.follow_while(|| Instant::now() < until);
    }
}
