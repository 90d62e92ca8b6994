//! The standby's copy under readers, intruders, kills.

mod hostile;

use hostile::{Lab, seconds};
use rusqlite::Connection;
use staffetta_db::{
    ApplyError, Attached, Changes, Drained, Durability, Follower, Owner, Replica, Scan, Scanned,
    Table, create, page_hash,
};
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Says to this very program, started again, what it is to do, and where.
const CHILD: &str = "STAFFETTA_TEST_CHILD";

fn owner() -> Owner {
    // SAFETY: cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    Owner { uid, gid, mode: 0o644 }
}

fn scanned(attached: &Attached) -> Scanned {
    Scan::begin(attached).expect("a snapshot").table(|| true).expect("hashed")
}

fn opened(copy: &Path) -> Replica {
    let attached = Rc::new(Attached::open(copy).expect("attached"));
    let mut replica = Replica::open(attached, Durability::Applied).expect("opened");
    let scanned = replica.scan().expect("a snapshot").table(|| true).expect("hashed");
    replica.adopt(scanned).expect("adopted");
    replica
}

/// A primary that is followed, and its copy.
struct Pair {
    follower: Follower,
    changes: Changes,
    table: Table,
    replica: Replica,
    /// Says the sums before and after each commit.
    loud: bool,
}

impl Pair {
    fn start(source: &Lab, copy: &Lab) -> Pair {
        Pair::start_as(source, copy, false)
    }

    fn start_as(source: &Lab, copy: &Lab, loud: bool) -> Pair {
        let attached = source.attach();
        if !copy.database.exists() {
            create(&copy.database, attached.page_bytes(), owner()).expect("created");
        }
        let follower = Follower::start(attached).expect("follows");
        let table = Table::new(follower.attached().page_bytes());
        let replica = opened(&copy.database);
        let mut pair = Pair { follower, changes: Changes::new(1 << 30), table, replica, loud };
        pair.say("has", pair.replica.table().expect("known").sum());
        pair.copy().expect("copied");
        pair
    }

    /// What differs, from a snapshot, as one transaction.
    fn copy(&mut self) -> Result<(), ApplyError> {
        let (snapshot, _) = self.follower.snapshot(&mut self.changes).expect("a snapshot");
        self.changes.clear();
        self.table = Table::new(snapshot.page_bytes());
        let each = |table: &mut Table, number, page: &[u8]| {
            table.set(number, page_hash(number, page));
            ControlFlow::Continue(())
        };
        let end = snapshot.pages_total() + 1;
        snapshot.for_each(1..end, |n, page| each(&mut self.table, n, page)).expect("read");
        self.table.resize(snapshot.pages_total());
        let has = self.replica.table().expect("known").clone();
        self.replica.begin(self.table.pages())?;
        let mut bytes = Vec::new();
        for group in 0..self.table.groups() {
            for page in self.table.differing_pages(group, has.group(group)) {
                assert!(snapshot.page(page, &mut bytes).expect("read"));
                self.replica.page(page, &bytes)?;
            }
        }
        self.commit()
    }

    fn commit(&mut self) -> Result<(), ApplyError> {
        let (sum, pages) = (self.table.sum(), self.table.pages());
        self.say("ahead", sum);
        self.replica.commit(sum, pages)?;
        self.say("has", sum);
        Ok(())
    }

    fn say(&self, word: &str, sum: u128) {
        if self.loud {
            let mut output = std::io::stdout();
            writeln!(output, "{word} {sum:032x}").and_then(|()| output.flush()).expect("said");
        }
    }

    /// Everything that is committed on the primary now; false when that was nothing.
    fn turn(&mut self) -> Result<bool, ApplyError> {
        let tended = self.follower.tend(Instant::now(), &mut self.changes).expect("tended");
        let drained = self.follower.drain(&mut self.changes, 4096).expect("drained");
        for one in [tended, drained] {
            assert!(!matches!(one, Drained::Lost(_)), "{one:?}");
        }
        if self.changes.is_empty() {
            return Ok(matches!(drained, Drained::More | Drained::Some));
        }
        let pages_total = self.changes.pages_total();
        self.replica.begin(pages_total)?;
        for (number, image) in self.changes.pages() {
            let image = image.expect("an image: the limit is large");
            self.table.set(number, page_hash(number, image));
            self.replica.page(number, image)?;
        }
        self.table.resize(pages_total);
        self.changes.clear();
        self.commit()?;
        self.replica.tend(Instant::now())?;
        Ok(true)
    }

    fn follow_while(&mut self, mut running: impl FnMut() -> bool) {
        loop {
            let goes_on = running();
            match self.turn().expect("applied") {
                false if !goes_on => return,
                false => std::thread::sleep(Duration::from_micros(50)),
                true => {}
            }
        }
    }

    fn assert_same(&self) {
        let (source, copy) = (scanned(self.follower.attached()), scanned(self.replica.attached()));
        assert_eq!(source.table, copy.table);
        assert_eq!(health(self.replica.attached().path()), "ok");
    }
}

fn health(path: &Path) -> String {
    let reader = Connection::open(path).expect("opens");
    reader.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checked")
}

fn labs() -> (Lab, Lab) {
    let source = Lab::new();
    let folder = tempfile::tempdir().expect("a folder");
    let database = folder.path().join("copy.db");
    (source, Lab { folder, database })
}

#[test]
fn readers_see_whole_transactions_only() {
    let (source, copy) = labs();
    let mut pair = Pair::start(&source, &copy);
    let time = seconds(8).to_string();
    let mut writers =
        [source.python("writer.py", &[&time, "11"]), source.python("writer.py", &[&time, "12"])];
    let readers =
        [copy.python("reader.py", &[&time, "1"]), copy.python("reader.py", &[&time, "2"])];
    pair.follow_while(|| writers.iter_mut().any(|writer| writer.is_running()));
    for program in writers.into_iter().chain(readers) {
        println!("{}", program.end());
    }
    pair.assert_same();
}

#[test]
fn intruders_get_nothing_in_while_transactions_are_applied() {
    let (source, copy) = labs();
    let mut pair = Pair::start(&source, &copy);
    let application = source.application();
    application.execute_batch("PRAGMA synchronous=NORMAL").expect("set");
    let mut intruders =
        [copy.python("intruder.py", &["6", "1"]), copy.python("intruder.py", &["6", "2"])];
    let mut transactions = 0;
    while transactions < 2000 || intruders.iter_mut().any(|intruder| intruder.is_running()) {
        application.execute_batch("INSERT INTO first VALUES (2)").expect("written");
        assert!(pair.turn().expect("applied"));
        assert!(!pair.replica.foreign_write());
        transactions += 1;
    }
    for intruder in intruders {
        let said = intruder.end();
        println!("{transactions} transactions applied; intruder: {said}");
        assert!(said.starts_with("commits 0 locked ") && !said.contains("locked 0"), "{said}");
    }
    pair.assert_same();
    let Pair { replica, .. } = pair;
    let (attached, fence) = replica.promote();
    fence.release(&attached).expect("released");
    let application = Connection::open(&copy.database).expect("opens");
    application.execute_batch("INSERT INTO first VALUES (3)").expect("the first write works");
}

/// Whatever moment the daemon dies at, the copy is what it last acknowledged, or the next.
#[test]
fn a_killed_applier_leaves_a_whole_transaction() {
    let (source, copy) = labs();
    let mut writer = source.python("writer.py", &[&seconds(8).to_string(), "21", "big=3000"]);
    let mut round = 0;
    while writer.is_running() {
        round += 1;
        let mut child = start_child("follow", &[&source.database, &copy.database]);
        std::thread::sleep(Duration::from_millis(300 + round * 97 % 700));
        assert!(child.try_wait().expect("a child").is_none(), "it ended by itself, see above");
        child.kill().expect("killed");
        let mut said = String::new();
        std::io::Read::read_to_string(&mut child.stdout.take().expect("piped"), &mut said)
            .expect("text");
        child.wait().expect("ended");
        if !copy.database.exists() {
            continue;
        }
        assert_eq!(health(&copy.database), "ok", "round {round}");
        // The last line may be cut by the kill.
        let sums: Vec<&str> =
            said.rsplit_once('\n').map_or("", |(lines, _)| lines).lines().rev().take(2).collect();
        let sum = format!(
            "{:032x}",
            scanned(&Attached::open(&copy.database).expect("attached")).table.sum()
        );
        if let [last, ..] = sums[..] {
            let fits = sums.iter().any(|line| line.ends_with(&sum));
            assert!(fits, "round {round}: {sum} after {last}");
        }
    }
    println!("{round} kills; {}", writer.end());
    let mut pair = Pair::start(&source, &copy);
    pair.follow_while(|| false);
    pair.assert_same();
}

/// A first copy of some hundred MB as one transaction. Its memory is for the hashes, 16 bytes a
/// page, the index of the WAL, and the page cache.
#[test]
fn a_large_transaction_takes_bounded_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("copy.db");
    let mut child = start_child("large", &[&copy]);
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let said: Vec<String> = output.lines().map_while(Result::ok).collect();
    assert!(child.wait().expect("ended").success(), "{said:?}");
    let peak = said.iter().find_map(|line| line.split_once("peak ")).expect("said").1;
    let (kib, time) = peak.split_once(" KiB").expect("a number");
    println!("{LARGE_PAGES} pages of 4096 bytes as one transaction: {kib} KiB at most,{time}");
    assert!(kib.parse::<u32>().expect("a number") < 64 * 1024, "{peak}");
}

const LARGE_PAGES: u32 = 80_000;

fn large_transaction(copy: &Path) {
    create(copy, 4096, owner()).expect("created");
    let mut first = std::fs::read(copy).expect("read");
    first[28..32].copy_from_slice(&LARGE_PAGES.to_be_bytes());
    let mut replica = opened(copy);
    let begun = Instant::now();
    let mut table = Table::new(4096);
    table.reserve(LARGE_PAGES).expect("memory");
    replica.begin(LARGE_PAGES).expect("begun");
    for number in 1..=LARGE_PAGES {
        let page = if number == 1 { first.clone() } else { number.to_le_bytes().repeat(1024) };
        table.set(number, page_hash(number, &page));
        replica.page(number, &page).expect("taken");
    }
    replica.commit(table.sum(), LARGE_PAGES).expect("committed");
    let took = begun.elapsed();
    let status = std::fs::read_to_string("/proc/self/status").expect("read");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    println!("peak {} KiB {took:?}", peak.trim().trim_end_matches(" kB"));
    drop(first);
    assert_eq!(scanned(replica.attached()).table, table);
}

/// What the child of the kills does until it is killed.
fn follow_until_killed(source: &Path, copy: &Path) {
    let lab = |path: &Path| Lab {
        folder: tempfile::tempdir().expect("a folder"),
        database: path.to_owned(),
    };
    let mut pair = Pair::start_as(&lab(source), &lab(copy), true);
    loop {
        if !pair.turn().expect("applied") {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

fn start_child(what: &str, paths: &[&Path]) -> std::process::Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let list: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    command
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{what}\n{}", list.join("\n")))
        .stdout(Stdio::piped());
    command.spawn().expect("started")
}

/// Not a test of its own: what the tests above start as another process.
#[test]
fn child() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let lines: Vec<&str> = order.lines().collect();
    match lines[..] {
        ["follow", source, copy] => follow_until_killed(Path::new(source), Path::new(copy)),
        ["large", copy] => large_transaction(Path::new(copy)),
        _ => panic!("unknown order {order}"),
    }
}
