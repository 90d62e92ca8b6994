//! Two engines in two processes, over the real channel, under everything that may happen to them:
//! at the end both have the same pages, no reader of the standby ever saw anything but a whole
//! transaction, and nothing that was committed is lost where nothing may be.

mod hostile;
mod pair;

use hostile::{Program, script, share};
use pair::assert_same;
use pair::process::{Remote, live};
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

const NAME: &str = "app.db";

#[test]
fn node_process() {
    live();
}

/// Two nodes, of which the first leads and the second follows.
struct Soak {
    one: Remote,
    other: Remote,
    epoch: u64,
    _root: tempfile::TempDir,
}

impl Soak {
    fn begin() -> Soak {
        let root = tempfile::tempdir().expect("a folder");
        let mut one = Remote::start(root.path(), "na", "nb");
        let mut other = Remote::start(root.path(), "nb", "na");
        // A database that appears before is fenced.
        one.order("lead 2");
        let first = Connection::open(one.database(NAME)).expect("a database");
        first.execute_batch("PRAGMA auto_vacuum=2; CREATE TABLE first(a)").expect("a table");
        drop(first);
        other.attend(&one);
        one.shipped(NAME, &mut other);
        Soak { one, other, epoch: 2, _root: root }
    }

    fn writers(&self, seconds: u64) -> Vec<Program> {
        let database = self.one.database(NAME);
        let time = seconds.to_string();
        vec![
            script("writer.py", &database, &[&time, "2", "switch", "big=3000"]),
            script("writer.py", &database, &[&time, "3", "switch", "big=3000"]),
        ]
    }

    fn readers(&self, seconds: u64) -> Vec<Program> {
        let database = self.other.database(NAME);
        let time = seconds.to_string();
        ["1", "2"].map(|seed| script("reader.py", &database, &[&time, seed])).into()
    }

    /// Everybody ended well, and both nodes have the same.
    #[track_caller]
    fn end(mut self, writers: Vec<Program>, readers: Vec<Program>) -> Soak {
        for writer in writers {
            println!("{}", writer.end().trim());
        }
        // A commit whose notice was missed is seen within a second.
        std::thread::sleep(Duration::from_millis(1_200));
        let began = Instant::now();
        self.one.shipped(NAME, &mut self.other);
        println!("caught up after {:?}", began.elapsed());
        println!("{}", self.one.status(NAME));
        println!("{}", self.other.status(NAME));
        assert_eq!(self.one.lost_trails(), "");
        for reader in readers {
            println!("{}", reader.end().trim());
        }
        assert_same(&self.one.database(NAME), &self.other.database(NAME));
        assert_eq!(self.other.archives(), Vec::<PathBuf>::new(), "nothing diverged");
        self
    }
}

/// Numbers that do not repeat with those of anybody else; seeded, so that a run can be told.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn any_runs(programs: &mut [Program]) -> bool {
    programs.iter_mut().any(Program::is_running)
}

#[test]
fn writers_and_a_storm_of_checkpoints() {
    let soak = Soak::begin();
    let time = share(12);
    let readers = soak.readers(time);
    let mut writers = soak.writers(time);
    writers.push(script("storm.py", &soak.one.database(NAME), &[&time.to_string()]));
    soak.end(writers, readers);
}

#[test]
fn engines_that_freeze() {
    let soak = Soak::begin();
    let time = share(12);
    let readers = soak.readers(time);
    let mut writers = soak.writers(time);
    writers.push(script("storm.py", &soak.one.database(NAME), &[&time.to_string()]));
    let mut random = Random(0x2545_f491);
    while any_runs(&mut writers) {
        let frozen = if random.below(2) == 0 { &soak.one } else { &soak.other };
        frozen.signal(libc::SIGSTOP);
        std::thread::sleep(Duration::from_millis(random.below(290)));
        frozen.signal(libc::SIGCONT);
        std::thread::sleep(Duration::from_millis(random.below(80)));
    }
    soak.end(writers, readers);
}

#[test]
fn engines_and_writers_that_are_killed() {
    let mut soak = Soak::begin();
    let time = share(14);
    let until = Instant::now() + Duration::from_secs(time);
    let readers = soak.readers(time);
    let mut writers = soak.writers(time);
    let mut random = Random(0x9e37_79b9);
    let (mut rounds, mut seed) = (0, 10);
    let mut victim = script("writer.py", &soak.one.database(NAME), &["600", "9", "big=3000"]);
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(200 + random.below(400)));
        rounds += 1;
        match random.below(3) {
            0 => {
                soak.epoch += 1;
                soak.one.again();
                soak.one.order(&format!("lead {}", soak.epoch));
                soak.other.attend(&soak.one);
            }
            1 => {
                soak.other.again();
                soak.other.attend(&soak.one);
            }
            _ => {
                seed += 1;
                drop(victim);
                let arguments = ["600", &seed.to_string(), "big=3000"];
                victim = script("writer.py", &soak.one.database(NAME), &arguments);
            }
        }
    }
    drop(victim);
    println!("{rounds} rounds");
    assert!(any_runs(&mut writers) || rounds > 10);
    soak.end(writers, readers);
}

#[test]
fn streams_that_break() {
    let mut soak = Soak::begin();
    let time = share(6);
    let until = Instant::now() + Duration::from_secs(time);
    let readers = soak.readers(time);
    let writers = soak.writers(time);
    let mut random = Random(0x1234_5678);
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(random.below(300)));
        // A new dialer: its stream displaces the one before, or comes after its end.
        if random.below(2) == 0 {
            soak.other.order("hang-up");
        }
        soak.other.attend(&soak.one);
    }
    soak.end(writers, readers);
}

/// An application that remembers what it committed: numbers that no other one uses.
struct Recorder {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<i64>>,
}

impl Recorder {
    fn start(path: &Path, next: &Arc<AtomicI64>) -> Recorder {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, next, path) = (Arc::clone(&stop), Arc::clone(next), path.to_owned());
        let thread = std::thread::spawn(move || {
            let mut committed = Vec::new();
            let mut connection = None;
            while !stopped.load(Ordering::Relaxed) {
                let open = || Connection::open(&path).expect("a connection");
                let application = connection.get_or_insert_with(open);
                application.busy_timeout(Duration::from_millis(20)).expect("a timeout");
                let id = next.fetch_add(1, Ordering::Relaxed);
                let sql = "INSERT INTO first VALUES(?1)";
                match application.execute(sql, [id]) {
                    Ok(_) => committed.push(id),
                    // Locked, on the standby and during a move.
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
            committed
        });
        Recorder { stop, thread }
    }

    fn end(self) -> Vec<i64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the application is content")
    }
}

fn rows(path: &Path) -> BTreeSet<i64> {
    let connection = Connection::open(path).expect("a connection");
    let mut read = connection.prepare("SELECT a FROM first").expect("a table");
    let found = read.query_map([], |row| row.get(0)).expect("rows");
    found.collect::<Result<_, _>>().expect("rows")
}

#[test]
fn planned_moves_under_load_lose_nothing() {
    let mut soak = Soak::begin();
    let next = Arc::new(AtomicI64::new(0));
    let recorders =
        [&soak.one, &soak.other].map(|node| Recorder::start(&node.database(NAME), &next));
    let moves = share(10);
    let mut slowest = Duration::ZERO;
    for _ in 0..moves {
        std::thread::sleep(Duration::from_millis(300));
        let began = Instant::now();
        soak.one.shipped(NAME, &mut soak.other);
        let held = soak.one.order("hold 5000");
        assert_eq!(held, "Ok(())", "{}", soak.other.status(NAME));
        soak.epoch += 1;
        soak.one.order(&format!("follow {}", soak.epoch));
        soak.other.order("hang-up");
        soak.other.order(&format!("lead {}", soak.epoch));
        soak.one.attend(&soak.other);
        slowest = slowest.max(began.elapsed());
        std::mem::swap(&mut soak.one, &mut soak.other);
    }
    std::thread::sleep(Duration::from_millis(300));
    let committed = recorders.map(Recorder::end);
    let counts = committed.each_ref().map(Vec::len);
    println!("{moves} moves, slowest {slowest:?}, commits {counts:?}");
    assert!(counts.iter().all(|count| *count > 100), "{counts:?}");
    let mut soak = soak.end(Vec::new(), Vec::new());
    let found = rows(&soak.one.database(NAME));
    let lost = committed.iter().flatten().filter(|id| !found.contains(*id)).count();
    assert_eq!(lost, 0, "of {counts:?}");
    assert_eq!(found.len(), counts.iter().sum::<usize>());
    for node in [&mut soak.one, &mut soak.other] {
        assert_eq!((node.archives().len(), node.told("Diverged")), (0, 0));
    }
}

#[test]
fn after_a_forced_takeover_the_loser_is_archived_if_it_had_something_unseen() {
    let mut soak = Soak::begin();
    let next = Arc::new(AtomicI64::new(0));
    let mut expected = BTreeSet::new();
    let mut archives = 0;
    for round in 0..share(6) {
        let unseen = round % 2 == 1;
        let recorder = Recorder::start(&soak.one.database(NAME), &next);
        std::thread::sleep(Duration::from_millis(400));
        let mut recorder = Some(recorder);
        if let Some(recorder) = recorder.take_if(|_| !unseen) {
            expected.extend(recorder.end());
            soak.one.shipped(NAME, &mut soak.other);
        }
        soak.one.kill();
        soak.epoch += 1;
        soak.other.order("hang-up");
        soak.other.order(&format!("lead {}", soak.epoch));
        std::thread::sleep(Duration::from_millis(100));
        let committed = recorder.map(Recorder::end);
        let at_takeover = rows(&soak.other.database(NAME));
        soak.one.again();
        soak.one.attend(&soak.other);
        soak.other.shipped(NAME, &mut soak.one);
        assert_same(&soak.one.database(NAME), &soak.other.database(NAME));
        archives += usize::from(unseen);
        let (found, mut kept) = (soak.one.archives(), at_takeover);
        // The loser may have gained its archive in this round: it is one of two nodes.
        let there = found.len() + soak.other.archives().len();
        assert_eq!(there, archives, "round {round}: {}", soak.one.order("notices"));
        found.iter().chain(&soak.other.archives()).for_each(|path| kept.extend(rows(path)));
        expected.extend(committed.into_iter().flatten());
        let lost = expected.iter().filter(|id| !kept.contains(id)).count();
        assert_eq!(lost, 0, "in neither the winner nor an archive");
        std::mem::swap(&mut soak.one, &mut soak.other);
    }
}
