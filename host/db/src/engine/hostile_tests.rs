//! A peer that has the cluster's secret and talks nonsense: the engine goes on, and no database of
//! this node is damaged, or overwritten before it is archived.

use crate::hash::page_hash;
use crate::wire::{self, Entry, Head, Message, Offer, Position, Reign};
use crate::{Command, Handle, Options, Pattern};
use staffetta_bulk::loopback::{dialer, listener};
use staffetta_bulk::{Purpose, Stream, Wake};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

const TALK: Duration = Duration::from_secs(3);

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }

    /// Small numbers mostly, and now and then the largest.
    fn number(&mut self) -> u64 {
        match self.below(12) {
            0 => u64::MAX,
            1 => self.0,
            few => self.below(few * 3),
        }
    }

    fn position(&mut self) -> Position {
        Position { epoch: self.below(4), txid: self.number() }
    }

    fn entry(&mut self) -> Entry {
        let reign =
            |random: &mut Random| Reign { epoch: random.below(9), after: random.position() };
        Entry {
            id: self.below(3) as u32,
            name: ["data/a.db", "data/b.db", "data/../c.db", "other"][self.below(4) as usize]
                .into(),
            page_bytes: 512 << self.below(4),
            owner: (0, 0, 0o600),
            lineage: (0..self.below(4)).map(|_| reign(self)).collect(),
            head: self.position(),
        }
    }

    /// What a version of this program could say in that role, in any order; now and then in another
    /// role, or damaged.
    fn frame(&mut self, primary: bool) -> Vec<u8> {
        let id = self.below(3) as u32;
        let kind = match (self.below(60), primary) {
            (0, _) => self.below(10),
            (_, true) => [0, 1, 2, 3, 4, 8, 8, 9, 9][self.below(9) as usize],
            (_, false) => [5, 6, 7][self.below(3) as usize],
        };
        let mut bytes = match kind {
            0 | 1 => wire::message(&Message::Roster(3, vec![self.entry()])),
            2 => wire::message(&Message::Gone(id)),
            3 => wire::message(&Message::Want(id, vec![self.number() as u32; 3])),
            4 => wire::message(&Message::Head(id, self.position())),
            5 => wire::message(&Message::Offer(Offer {
                id,
                pages: self.number() as u32,
                groups: self.below(3) as u32,
            })),
            6 => wire::message(&Message::Ack(id, self.position())),
            7 => {
                let list: Vec<u128> = (0..self.below(5)).map(|n| n.into()).collect();
                let of = self.below(3) as u32;
                match self.below(2) {
                    0 => wire::sums(id, of, list.into_iter()),
                    _ => wire::hashes(id, of, list.into_iter()),
                }
            }
            _ => self.pages(id),
        };
        if self.below(100) == 0 && !bytes.is_empty() {
            let at = self.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.below(8);
        }
        bytes
    }

    /// Pages that are none of a database, with a sum that fits them.
    fn pages(&mut self, id: u32) -> Vec<u8> {
        let page_bytes = 512 << self.below(4);
        let count = self.below(4) as u32;
        let numbers: Vec<u32> = (1..=count)
            .map(|n| if self.below(9) == 0 { self.number() as u32 } else { n })
            .collect();
        let image = vec![self.below(3) as u8; page_bytes];
        let after = numbers.iter().fold(0, |sum, number| sum ^ page_hash(*number, &image));
        let head = Head {
            id,
            first: self.below(3) > 0,
            last: self.below(2) > 0,
            copy: self.below(2) > 0,
            position: self.position(),
            pages: if self.below(4) == 0 { self.number() as u32 } else { count },
            before: 0,
            after,
        };
        let mut bytes = head.encode().to_vec();
        for number in numbers {
            bytes.extend(number.to_le_bytes());
            bytes.extend(&image);
        }
        bytes
    }
}

fn engine(folder: &Path) -> Handle {
    let pattern = Pattern {
        name: "data".into(),
        pattern: folder.join("*.db").display().to_string(),
        keep_journal: false,
        sync: None,
        block_alone: false,
        durable: false,
        unacked_max: 0,
        scrub: None,
    };
    let archive = folder.join("archive");
    std::fs::create_dir_all(&archive).expect("a folder");
    let state = folder.join("state");
    let options = Options { patterns: vec![pattern], state, archive, barrier: None };
    crate::start(options, |_| {}).expect("an engine")
}

/// Nobody sleeps.
fn nobody() -> Wake {
    Arc::new(|| {})
}

/// Talks nonsense on every stream that comes.
fn talk(streams: &Receiver<Stream>, primary: bool, random: &mut Random) -> (usize, usize) {
    let until = Instant::now() + TALK;
    let (mut opened, mut said) = (0, 0);
    while Instant::now() < until {
        let Ok(mut stream) = streams.recv_timeout(Duration::from_millis(50)) else { continue };
        opened += 1;
        while Instant::now() < until {
            if stream.send(&[&random.frame(primary)]).is_err() {
                break;
            }
            said += 1;
            while let Ok(Some(_)) = stream.receive() {}
            if said % 20 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            if stream.receive().is_err() {
                break;
            }
        }
    }
    (opened, said)
}

/// Alive: it answers. And each database that it had is whole, or in the archive.
fn check(engine: &Handle, folder: &Path) {
    let (reply, answered) = mpsc::channel();
    let reply = Box::new(move |result| drop(reply.send(result)));
    engine.say(Command::Hold(Instant::now(), reply));
    answered.recv_timeout(Duration::from_secs(10)).expect("the engine lives").ok();
    engine.say(Command::Unhold);
    let rows = |path: &Path| -> rusqlite::Result<i64> {
        let connection = rusqlite::Connection::open(path)?;
        connection.query_row("SELECT count(*) FROM mine", [], |row| row.get(0))
    };
    let archive = folder.join("archive").read_dir().expect("a folder");
    let mut kept: Vec<_> = archive.map(|entry| entry.expect("an entry").path()).collect();
    kept.push(folder.join("a.db"));
    assert!(kept.iter().any(|path| rows(path) == Ok(9)), "neither here nor archived");
}

fn database(folder: &Path) {
    let mine = rusqlite::Connection::open(folder.join("a.db")).expect("a database");
    let sql = "PRAGMA journal_mode=WAL; CREATE TABLE mine(x);
               INSERT INTO mine VALUES(1),(2),(3),(4),(5),(6),(7),(8),(9)";
    mine.execute_batch(sql).expect("rows");
}

#[test]
fn a_primary_that_talks_nonsense_costs_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    database(folder.path());
    let engine = engine(folder.path());
    let (streams, arriving) = mpsc::channel();
    let hostile = listener(("nb", "na"), Purpose::Databases, (streams, nobody()), || true);
    let here = (engine.streams(), engine.wake());
    let _dialer = dialer(("na", "nb"), hostile.addresses()[0], Purpose::Databases, here);
    let told = talk(&arriving, true, &mut Random(0x1357_9bdf));
    assert!(told.1 > 100, "{told:?}");
    println!("{} streams, {} frames", told.0, told.1);
    check(&engine, folder.path());
    assert!(!folder.path().with_file_name("c.db").exists());
}

#[test]
fn a_standby_that_talks_nonsense_costs_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    database(folder.path());
    let engine = engine(folder.path());
    engine.say(Command::Lead(2));
    let here = (engine.streams(), engine.wake());
    let home = listener(("na", "nb"), Purpose::Databases, here, || true);
    let (streams, arriving) = mpsc::channel();
    let there = (streams, nobody());
    let _dialer = dialer(("nb", "na"), home.addresses()[0], Purpose::Databases, there);
    let told = talk(&arriving, false, &mut Random(0x2468_ace1));
    println!("{} streams, {} frames", told.0, told.1);
    check(&engine, folder.path());
    let mine = rusqlite::Connection::open(folder.path().join("a.db")).expect("a database");
    mine.busy_timeout(Duration::from_secs(5)).expect("a timeout");
    mine.execute("INSERT INTO mine VALUES(10)", []).expect("writers are free");
}
