//! A peer that has the cluster's secret and talks nonsense: the engine goes on, nothing outside of
//! the tree is touched, and no content that only this node has is lost.

use super::*;
use crate::dice::Dice;
use crate::digest::{self, Digest};
use crate::entry::{Entry, Kind, Sums, Xattrs};
use crate::path::TreePath;
use crate::watch::Mechanism;
use crate::wire::{
    self, Body, Child, Deed, End, Entered, Message, PART_HEAD_BYTES, Part, Refusal, Step,
};
use staffetta_bulk::loopback::{dialer, listener};
use staffetta_bulk::{Purpose, Stream, Wake};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

const MARKER: [u8; 16] = [5; 16];
const TALK: Duration = Duration::from_secs(4);
/// Files that only this node has.
const MINE: usize = 12;

/// What a version of this program could say, in any order; now and then damaged.
struct Nonsense {
    dice: Dice,
    seq: u64,
    /// The large file that is being sent.
    begun: Option<u64>,
    /// The number that the primary gave the tree.
    id: Option<u32>,
    /// The last steps that it said.
    heard: Vec<u64>,
    has_named_trees: bool,
}

impl Nonsense {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            seq: 0,
            begun: None,
            id: None,
            heard: Vec::new(),
            has_named_trees: false,
        }
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.dice.roll(of.len() as u64) as usize].clone()
    }

    fn number(&mut self) -> u64 {
        match self.dice.roll(8) {
            0 => u64::MAX,
            1 => 1 << self.dice.roll(40),
            _ => self.dice.roll(self.seq + 2),
        }
    }

    fn next(&mut self) -> u64 {
        if self.dice.roll(400) > 0 {
            self.seq += 1;
        }
        self.seq
    }

    fn path(&mut self) -> TreePath {
        let own = format!("mine{}", self.dice.roll(MINE as u64));
        let names = ["", "d", "d/x", "out", "out/secret", "out/new", "new", "e/f/g"];
        let name = if self.dice.roll(3) == 0 { own } else { self.one(&names).to_owned() };
        TreePath::parse(name.as_bytes()).expect("a path")
    }

    fn bytes(&mut self) -> Vec<u8> {
        let count = self.one(&[0, 1, 10, 10, 10, 300, 70_000]);
        self.dice.bytes(count)
    }

    fn entry(&mut self, bytes: &[u8]) -> Entry {
        let kind = self.one(&[Kind::File, Kind::File, Kind::File, Kind::Dir, Kind::Symlink]);
        let content = match (self.dice.roll(20), kind) {
            (0, _) => Digest([self.dice.roll(256) as u8; 32]),
            (_, Kind::Dir) => Digest::default(),
            _ => digest::content(bytes),
        };
        Entry {
            kind,
            mode: self.one(&[0o644, 0o755, 0o4777, 0]),
            uid: self.one(&[0, 1_000]),
            gid: 0,
            mtime_ns: self.number() as i64,
            size: if self.dice.roll(20) == 0 { self.number() } else { bytes.len() as u64 },
            content,
            xattrs: Digest::default(),
            linked: self.dice.roll(4) == 0,
        }
    }

    fn sums(&mut self) -> Sums {
        Sums { tree: [self.dice.roll(3) as u8; 16], links: [0; 16] }
    }

    fn steps(&mut self) -> Vec<u8> {
        let mut steps = wire::Steps::default();
        for _ in 0..=self.dice.roll(5) {
            let (path, other, bytes, seq) = (self.path(), self.path(), self.bytes(), self.next());
            let mut entry = self.entry(&bytes);
            entry.size = if entry.kind == Kind::Dir { 0 } else { entry.size };
            let packed = zstd::bulk::compress(&bytes, 1).expect("packed");
            let body = match (entry.kind, self.dice.roll(7)) {
                (Kind::Dir, _) => Body::Nothing,
                (_, 0) => Body::Kept,
                (_, 1) => Body::Link(other.clone()),
                (_, 2) => Body::Packed(bytes.len() as u32, &packed),
                (Kind::File, 3) if self.begun.is_none() => Body::Parts,
                _ => Body::Bytes(&bytes),
            };
            let deed = match self.dice.roll(8) {
                0 => Deed::Delete(path),
                1 => Deed::Rename { from: path, to: other, sum: [self.dice.roll(3) as u8; 16] },
                2 => {
                    entry.kind = Kind::File;
                    let offset = self.one(&[0, 0, 12, 13, 70_000]);
                    entry.size = offset + bytes.len() as u64;
                    Deed::Append { path, entry, offset, bytes: &bytes }
                }
                _ => Deed::Put { path, entry, xattrs: Xattrs::default(), body },
            };
            if let Deed::Put { body: Body::Parts, .. } = &deed {
                self.begun = Some(seq);
            }
            steps.push(1, &Step { seq, deed });
        }
        steps.take()
    }

    fn primary(&mut self) -> Vec<u8> {
        if !self.has_named_trees || self.dice.roll(300) == 0 {
            self.has_named_trees = true;
            let tree = if self.dice.roll(50) == 0 { [6; 16] } else { MARKER };
            let ignores = crate::ignores::Ignores::parse(&[]).expect("none").digest();
            let entered = Entered { id: 1, name: "spool".into(), tree, ignores };
            return wire::message(&Message::Roster(3, vec![entered]));
        }
        let bytes = self.bytes();
        let large = self.begun.filter(|_| self.dice.roll(200) > 0).unwrap_or_else(|| self.number());
        match (self.dice.roll(24), self.begun.is_some() || self.dice.roll(100) == 0) {
            (0, _) => wire::message(&Message::List(1, vec![self.path(); 3])),
            (1, true) => wire::message(&Message::Blocks(1, large, vec![0, 1])),
            (2, _) => wire::message(&Message::Head(1, self.next(), self.sums())),
            (3, true) => {
                self.begun = None;
                wire::message(&Message::Drop(1, large))
            }
            (4..=9, true) => {
                let offset = self.one(&[0, 65_536, u64::MAX - 3, 70_000]);
                let head =
                    Part { id: 1, seq: large, offset, bytes: bytes.len() as u32, packed: false };
                [&head.encode()[..], &bytes].concat()
            }
            (10 | 11, true) => {
                self.begun = None;
                let (entry, xattrs) = (self.entry(&bytes), Xattrs::default());
                wire::end(&End { id: 1, seq: large, entry, xattrs })
            }
            _ => self.steps(),
        }
    }

    fn standby(&mut self) -> Vec<u8> {
        let (id, heard) = (self.id.unwrap_or(1), self.heard.clone());
        let any = heard.is_empty() || self.dice.roll(400) == 0;
        let seq = if any { self.number() } else { self.one(&heard) };
        let kinds = if self.dice.roll(10) > 0 { 7 } else { 9 };
        wire::message(&match self.dice.roll(kinds) {
            0 | 1 => Message::Offer(id, self.sums()),
            2 | 3 => {
                let name = self.one(&[&b"mine1"[..], b"..", b"d", b"a/b", b""]).to_vec();
                let kind = self.one(&[Kind::File, Kind::Dir, Kind::Symlink]);
                let child = Child { name, kind, sum: [1; 16], content: Digest::default() };
                let last = self.dice.roll(2) == 0;
                Message::Listing { id, dir: self.path(), children: vec![child; 2], last }
            }
            4 if !any => Message::Ack(id, vec![seq]),
            5 if !any => {
                let missing = [Refusal::Missing, Refusal::Damaged, Refusal::Failed("no".into())];
                Message::Refuse(id, seq, self.one(&missing))
            }
            6 => Message::Again(id, vec![self.path(), self.path()]),
            7 => {
                let hashes = self.dice.bytes(64);
                Message::Base { id, seq, size: self.number(), hashes, last: true }
            }
            8 => {
                let hashes = self.dice.bytes(16 * 16);
                Message::BlockHashes { id, seq, segments: vec![self.number() as u32], hashes }
            }
            _ => Message::Again(id, vec![self.path()]),
        })
    }

    fn hear(&mut self, bytes: &[u8]) {
        match wire::frame(bytes) {
            Ok(wire::Frame::Message(Message::Roster(_, trees))) => {
                self.id = trees.first().map(|tree| tree.id).or(self.id);
            }
            Ok(wire::Frame::Steps(_, steps)) => {
                self.heard.extend(steps.iter().map(|step| step.seq));
                let old = self.heard.len().saturating_sub(8);
                self.heard.drain(..old);
            }
            Ok(_) | Err(_) => {}
        }
    }

    fn frame(&mut self, is_primary: bool) -> Vec<u8> {
        let swapped = self.dice.roll(400) == 0;
        let mut bytes = loop {
            let begun = self.begun;
            let bytes = if is_primary == swapped { self.standby() } else { self.primary() };
            // What cannot be read ends the connection before it did any harm.
            if wire::frame(&bytes).is_ok() || self.dice.roll(400) == 0 {
                break bytes;
            }
            self.begun = begun;
        };
        if self.dice.roll(200) == 0 {
            let at = self.dice.roll(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.dice.roll(8);
        }
        if self.dice.roll(300) == 0 {
            bytes.truncate(self.dice.roll(PART_HEAD_BYTES as u64) as usize);
        }
        bytes
    }
}

/// A node with a tree of files that nobody else has, and a link that leads out of it.
struct Victim {
    folder: tempfile::TempDir,
    engine: Handle,
}

impl Victim {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (root, outside) = (folder.path().join("tree"), folder.path().join("outside"));
        for dir in [&outside, &root.join("d"), &root.join("e/f/g")] {
            fs::create_dir_all(dir).expect("a folder");
        }
        fs::write(outside.join("secret"), "kept").expect("written");
        symlink(&outside, root.join("out")).expect("a link");
        for at in 0..MINE {
            fs::write(root.join(format!("mine{at}")), mine(at)).expect("written");
        }
        let state = folder.path().join("state");
        let engine = start(Options { trees: vec![spool(root)], state }, |_| {}).expect("an engine");
        Self { folder, engine }
    }

    /// The engine lives, and nothing that this node alone has is lost.
    fn check(&self) {
        let (sender, answer) = mpsc::channel();
        let reply = Box::new(move |done| drop(sender.send(done)));
        self.engine.say(Command::Order("spool".into(), Order::Kept(10), reply));
        answer.recv_timeout(Duration::from_secs(10)).expect("the engine lives").ok();
        let outside = fs::read_dir(self.folder.path().join("outside")).expect("a folder");
        let names: Vec<_> = outside.map(|entry| entry.expect("an entry").file_name()).collect();
        assert_eq!(names, ["secret"], "written outside of the tree");
        let secret = fs::read(self.folder.path().join("outside/secret")).expect("read");
        assert_eq!(secret, b"kept", "overwritten outside of the tree");
        let mut there = BTreeSet::new();
        gather(&self.folder.path().join("tree"), &mut there);
        for at in 0..MINE {
            assert!(there.contains(&mine(at)), "what mine{at} held is nowhere");
        }
    }
}

/// A tree of which any share may be deleted.
pub(super) fn spool(path: PathBuf) -> TreeOptions {
    TreeOptions {
        name: "spool".into(),
        path,
        ignore: Vec::new(),
        mechanism: Mechanism::Auto,
        delete_share_max: 100,
        grow: true,
        compress: true,
        trash: Duration::from_secs(3_600),
        scan: None,
    }
}

fn mine(at: usize) -> Vec<u8> {
    format!("only here: {at}").into_bytes()
}

/// Contents of files that may be ours.
fn gather(dir: &Path, all: &mut BTreeSet<Vec<u8>>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => gather(&path, all),
            Ok(kind) if kind.is_file() => all.extend(fs::read(&path).ok()),
            Ok(_) | Err(_) => {}
        }
    }
}

/// Nobody sleeps.
fn nobody() -> Wake {
    Arc::new(|| {})
}

/// Talks nonsense on every stream that comes: how many came, and how much was said.
fn talk(streams: &Receiver<Stream>, is_primary: bool, seed: u64) -> (usize, usize) {
    let until = Instant::now() + TALK;
    let (mut opened, mut said) = (0, 0);
    while Instant::now() < until {
        let Ok(mut stream) = streams.recv_timeout(Duration::from_millis(50)) else { continue };
        let mut nonsense = Nonsense::new(seed + opened as u64);
        opened += 1;
        // A primary says first which trees there are.
        while !is_primary && nonsense.id.is_none() && Instant::now() < until {
            match stream.receive() {
                Ok(Some(bytes)) => nonsense.hear(bytes),
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Err(_) => break,
            }
        }
        while Instant::now() < until {
            if stream.send(&[&nonsense.frame(is_primary)]).is_err() {
                break;
            }
            said += 1;
            if said % 20 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            let is_over = loop {
                match stream.receive() {
                    Ok(None) => break false,
                    Err(_) => break true,
                    Ok(Some(bytes)) => nonsense.hear(bytes),
                }
            };
            if is_over {
                break;
            }
        }
    }
    println!("{opened} streams, {said} frames");
    (opened, said)
}

/// Another one where the environment says so.
fn seed(usual: u64) -> u64 {
    std::env::var("STAFFETTA_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

#[test]
fn a_primary_that_talks_nonsense_costs_nothing() {
    let victim = Victim::new();
    let (streams, arriving) = mpsc::channel();
    let hostile = listener(("nb", "na"), Purpose::Files, (streams, nobody()), || true);
    let here = (victim.engine.streams(), victim.engine.wake());
    let _dialer = dialer(("na", "nb"), hostile.addresses()[0], Purpose::Files, here);
    let told = talk(&arriving, true, seed(0x1357_9bdf));
    assert!(told.1 > 100, "{told:?}");
    victim.check();
}

#[test]
fn a_standby_that_talks_nonsense_costs_nothing() {
    let victim = Victim::new();
    victim.engine.say(Command::Lead(2));
    let here = (victim.engine.streams(), victim.engine.wake());
    let home = listener(("na", "nb"), Purpose::Files, here, || true);
    let (streams, arriving) = mpsc::channel();
    let there = (streams, nobody());
    let _dialer = dialer(("nb", "na"), home.addresses()[0], Purpose::Files, there);
    let told = talk(&arriving, false, seed(0x2468_ace1));
    assert!(told.1 > 100, "{told:?}");
    victim.check();
    let root = victim.folder.path().join("tree");
    for at in 0..MINE {
        let own = fs::read(root.join(format!("mine{at}"))).expect("where it was");
        assert_eq!(own, mine(at), "a standby changes nothing on a primary");
    }
}
