use super::*;
use crate::dice::Dice;
use crate::digest::{self, Digest, SEGMENT_BYTES};
use crate::entry::{Entry, Kind, Row, Sums};
use crate::wire;
use crate::wire::{Body, Child, Deed, Frame, Message, Refusal, Step};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::PathBuf;

const ID: [u8; 16] = [7; 16];
const ROOM: usize = 8 * 1024 * 1024;
const LONG: Duration = Duration::from_secs(30);

fn path(text: &str) -> TreePath {
    TreePath::parse(text.as_bytes()).unwrap()
}

/// What a standby has, in memory.
#[derive(Default)]
struct Model {
    nodes: BTreeMap<TreePath, Node>,
    parts: BTreeMap<u64, Parts>,
    /// What it says, not yet heard.
    says: Vec<Message>,
    deeds: Vec<String>,
    bytes: usize,
    frames: usize,
    /// Answers every step with this.
    refuses: Option<(TreePath, Refusal)>,
}

#[derive(Clone)]
struct Node {
    entry: Entry,
    content: Vec<u8>,
}

struct Parts {
    path: TreePath,
    base: Vec<u8>,
    content: Vec<u8>,
}

fn dir_entry() -> Entry {
    Entry {
        kind: Kind::Dir,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime_ns: 0,
        size: 0,
        content: Digest::default(),
        xattrs: Digest::default(),
        linked: false,
    }
}

impl Model {
    fn new() -> Self {
        let mut model = Self::default();
        model.nodes.insert(TreePath::root(), Node { entry: dir_entry(), content: Vec::new() });
        model
    }

    fn children(&self, dir: &TreePath) -> Vec<TreePath> {
        let depth = dir.depth() + 1;
        let below = self.nodes.keys().filter(|path| path.is_within(dir) && path.depth() == depth);
        below.cloned().collect()
    }

    fn sum(&self, path: &TreePath) -> u128 {
        // One pass from the innermost out.
        let mut below: BTreeMap<&TreePath, u128> = BTreeMap::new();
        let mut within: Vec<_> =
            self.nodes.iter().filter(|(node, _)| node.is_within(path)).collect();
        within.sort_by_key(|(path, _)| std::cmp::Reverse(path.depth()));
        let parents: BTreeMap<TreePath, &TreePath> =
            within.iter().map(|(path, _)| ((*path).clone(), *path)).collect();
        let mut last = 0;
        for (node, what) in within {
            last = what.entry.sum(node.name(), below.get(node).copied().unwrap_or(0));
            if let Some(parent) = node.parent().and_then(|parent| parents.get(&parent).copied()) {
                let sum = below.entry(parent).or_default();
                *sum = sum.wrapping_add(last);
            }
        }
        last
    }

    fn hear(&mut self, frame: &[u8]) {
        self.bytes += frame.len();
        self.frames += 1;
        match wire::frame(frame).unwrap() {
            Frame::Steps(_, steps) => {
                let acks = steps.into_iter().filter_map(|step| self.step(step)).collect();
                self.says.push(Message::Ack(1, acks));
            }
            Frame::Part(part, body) => {
                let body = if part.packed {
                    zstd::bulk::decompress(body, part.bytes as usize).unwrap()
                } else {
                    body.to_vec()
                };
                let Some(parts) = self.parts.get_mut(&part.seq) else { return };
                let end = part.offset as usize + body.len();
                if parts.content.len() < end {
                    parts.content.resize(end, 0);
                }
                parts.content[part.offset as usize..end].copy_from_slice(&body);
            }
            Frame::End(end) => {
                let mut parts = self.parts.remove(&end.seq).unwrap();
                parts.content.resize(end.entry.size as usize, 0);
                let answer = if digest::content(&parts.content) != end.entry.content {
                    Message::Refuse(1, end.seq, Refusal::Damaged)
                } else if !self.has_dir(&parts.path) {
                    Message::Refuse(1, end.seq, Refusal::Missing)
                } else {
                    self.place(&parts.path, end.entry, parts.content);
                    Message::Ack(1, vec![end.seq])
                };
                self.says.push(answer);
            }
            Frame::Message(message) => self.message(message),
        }
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::List(id, dirs) => {
                for dir in dirs {
                    let child = |path: &TreePath| Child {
                        name: path.name().to_vec(),
                        kind: self.nodes[path].entry.kind,
                        sum: self.sum(path).to_le_bytes(),
                        content: self.nodes[path].entry.content,
                    };
                    let children = self.children(&dir).iter().map(child).collect();
                    self.says.push(Message::Listing { id, dir, children, last: true });
                }
            }
            Message::Blocks(id, seq, segments) => {
                let base = &self.parts[&seq].base;
                let mut hashes = Vec::new();
                for segment in &segments {
                    let begin = *segment as usize * SEGMENT_BYTES;
                    let end = (begin + SEGMENT_BYTES).min(base.len());
                    digest::blocks(&base[begin..end]).for_each(|hash| hashes.extend(hash));
                }
                self.says.push(Message::BlockHashes { id, seq, segments, hashes });
            }
            Message::Head(id, seq, sums) => {
                // Which names are names of one file is not modelled.
                let mine = Sums { tree: self.sum(&TreePath::root()).to_le_bytes(), ..sums };
                let says = if mine == sums {
                    Message::Ack(id, vec![seq])
                } else {
                    Message::Offer(id, mine)
                };
                self.says.push(says);
            }
            Message::Drop(_, seq) => {
                self.parts.remove(&seq);
            }
            other => panic!("{other:?}"),
        }
    }

    fn has_dir(&self, path: &TreePath) -> bool {
        let Some(parent) = path.parent() else { return true };
        self.nodes.get(&parent).is_some_and(|node| node.entry.kind == Kind::Dir)
    }

    fn place(&mut self, path: &TreePath, entry: Entry, content: Vec<u8>) {
        if entry.kind != Kind::Dir {
            self.remove(path);
        }
        self.nodes.insert(path.clone(), Node { entry, content });
    }

    fn remove(&mut self, path: &TreePath) {
        self.nodes.retain(|node, _| !node.is_within(path));
    }

    fn refuse(&mut self, seq: u64, refusal: Refusal) -> Option<u64> {
        self.says.push(Message::Refuse(1, seq, refusal));
        None
    }

    fn step(&mut self, step: Step<'_>) -> Option<u64> {
        let seq = step.seq;
        self.deeds.push(name(&step.deed));
        match step.deed {
            Deed::Put { path, entry, body, .. } => {
                if let Some((refused, refusal)) = self.refuses.clone()
                    && refused == path
                {
                    return self.refuse(seq, refusal);
                }
                if !self.has_dir(&path) {
                    return self.refuse(seq, Refusal::Missing);
                }
                let content = match body {
                    Body::Nothing => Some(Vec::new()),
                    Body::Kept => self.nodes.get(&path).map(|node| node.content.clone()),
                    Body::Bytes(bytes) => Some(bytes.to_vec()),
                    Body::Packed(size, packed) => {
                        zstd::bulk::decompress(packed, size as usize).ok()
                    }
                    Body::Link(other) => self.nodes.get(&other).map(|node| node.content.clone()),
                    Body::Parts => {
                        let base = self.nodes.get(&path).map(|node| node.content.clone());
                        let base = base.unwrap_or_default();
                        let mut hashes = Vec::new();
                        for segment in base.chunks(SEGMENT_BYTES) {
                            hashes.extend(digest::hash(segment).0);
                        }
                        let size = base.len() as u64;
                        self.says.push(Message::Base { id: 1, seq, size, hashes, last: true });
                        let content = base.clone();
                        self.parts.insert(seq, Parts { path, base, content });
                        return None;
                    }
                };
                let fits = |content: &Vec<u8>| {
                    entry.kind == Kind::Dir || digest::content(content) == entry.content
                };
                match content.filter(fits) {
                    Some(content) => self.place(&path, entry, content),
                    None => return self.refuse(seq, Refusal::Missing),
                }
            }
            Deed::Append { path, entry, offset, bytes } => {
                let mut content =
                    self.nodes.get(&path).map(|node| node.content.clone()).unwrap_or_default();
                let at = content.len() as u64;
                content.extend(bytes);
                if at != offset || digest::content(&content) != entry.content {
                    return self.refuse(seq, Refusal::Missing);
                }
                self.place(&path, entry, content);
            }
            Deed::Rename { from, to, sum } => {
                let is_there = self.nodes.contains_key(&from) && self.has_dir(&to);
                if !is_there || self.sum(&from).to_le_bytes() != sum {
                    return self.refuse(seq, Refusal::Missing);
                }
                self.remove(&to);
                let moved: Vec<_> =
                    self.nodes.extract_if(.., |path, _| path.is_within(&from)).collect();
                let moved =
                    moved.into_iter().map(|(path, node)| (path.moved(&from, &to).unwrap(), node));
                self.nodes.extend(moved);
            }
            Deed::Delete(path) => self.remove(&path),
        }
        Some(seq)
    }
}

fn name(deed: &Deed<'_>) -> String {
    match deed {
        Deed::Put { path, body, .. } => {
            let body = match body {
                Body::Nothing => "folder".to_owned(),
                Body::Kept => "kept".to_owned(),
                Body::Bytes(_) => "bytes".to_owned(),
                Body::Packed(..) => "packed".to_owned(),
                Body::Link(other) => format!("link {other}"),
                Body::Parts => "parts".to_owned(),
            };
            format!("put {path} {body}")
        }
        Deed::Append { path, bytes, .. } => format!("append {path} {}", bytes.len()),
        Deed::Rename { from, to, .. } => format!("rename {from} {to}"),
        Deed::Delete(path) => format!("delete {path}"),
    }
}

/// A tree on disk, who leads it, and a standby.
struct Pair {
    root: PathBuf,
    lead: Lead,
    model: Model,
    _dir: tempfile::TempDir,
}

impl Pair {
    fn new() -> Self {
        Self::with(|_| {}, |_| {})
    }

    /// A tree that is prepared, and set, like this; settled.
    fn with(prepare: impl FnOnce(&std::path::Path), set: impl FnOnce(&mut Settings)) -> Self {
        let mut pair = Self::unsettled(prepare, set);
        pair.connect();
        pair.settle();
        pair
    }

    fn unsettled(prepare: impl FnOnce(&std::path::Path), set: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("tree");
        fs::create_dir(&root).unwrap();
        let tree = Tree::open(&root).unwrap();
        tree.mark(&ID).unwrap();
        prepare(&root);
        let mut settings = Settings {
            tree_id: ID,
            ignores: Ignores::parse(&[]).unwrap().into(),
            guard_share: 10,
            guard_min: 100,
            compress: false,
            grow: true,
        };
        set(&mut settings);
        let index = Index::open(&dir.path().join("index")).unwrap();
        let lead = Lead::new(Arc::new(tree), index, settings, Instant::now());
        Self { root, lead, model: Model::new(), _dir: dir }
    }

    fn connect(&mut self) {
        self.lead.begin(1);
        self.model.says.clear();
        self.model.parts.clear();
        let tree = self.model.sum(&TreePath::root()).to_le_bytes();
        let sums = Sums { tree, ..self.lead.index.sums().unwrap() };
        self.lead.offer(sums).unwrap();
    }

    /// One turn, and what it brings forth.
    fn turn(&mut self) -> bool {
        let mut out = Vec::new();
        let more = self.lead.turn(Instant::now(), ROOM, &mut out);
        out.iter().for_each(|frame| self.model.hear(frame));
        let said = !self.model.says.is_empty();
        for message in std::mem::take(&mut self.model.says) {
            match message {
                Message::Ack(_, seqs) => self.lead.ack(&seqs).unwrap(),
                Message::Refuse(_, seq, refusal) => self.lead.refuse(seq, &refusal).unwrap(),
                Message::Offer(_, sums) => self.lead.offer(sums).unwrap(),
                Message::Listing { dir, children, last, .. } => {
                    self.lead.listing(dir, children, last).unwrap();
                }
                Message::Base { seq, size, hashes, last, .. } => {
                    self.lead.base(seq, size, &hashes, last).unwrap();
                }
                Message::BlockHashes { seq, segments, hashes, .. } => {
                    self.lead.block_hashes(seq, &segments, &hashes).unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
        more || said
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + LONG;
        loop {
            let more = self.turn();
            if done(self) {
                return;
            }
            if Instant::now() > end {
                let deeds = &self.model.deeds;
                let last = &deeds[deeds.len().saturating_sub(10)..];
                panic!(
                    "not {what}: {:?}, {:?}, {last:?}",
                    self.lead.backlog(),
                    self.lead.differing(9)
                );
            }
            if !more {
                let due =
                    self.lead.due().unwrap_or_else(|| Instant::now() + Duration::from_secs(1));
                std::thread::sleep(due.saturating_duration_since(Instant::now()).min(LONG / 30));
            }
        }
    }

    fn settle(&mut self) {
        self.until("aligned", |pair| pair.lead.is_aligned() && pair.lead.is_drained());
    }

    /// Settles, and compares both trees whole.
    fn check(&mut self) {
        self.settle();
        let tree = Arc::clone(&self.lead.tree);
        let mut mine = BTreeMap::new();
        gather(&tree, &TreePath::root(), &mut mine);
        let theirs: BTreeMap<_, _> =
            self.model.nodes.iter().map(|(path, node)| (path.clone(), node.entry)).collect();
        for (path, entry) in &mine {
            assert_eq!(Some(entry), theirs.get(path), "{path}\n{:?}", self.model.deeds);
        }
        let extra: Vec<_> = theirs.keys().filter(|path| !mine.contains_key(*path)).collect();
        assert!(extra.is_empty(), "{extra:?}");
    }

    fn hint(&mut self, hint: Hint) {
        self.lead.hint(hint, Instant::now());
    }

    fn changed(&mut self, at: &str) {
        self.hint(Hint::Changed(path(at)));
    }

    fn write(&mut self, at: &str, content: &[u8]) {
        fs::write(self.root.join(at), content).unwrap();
        self.changed(at);
        self.hint(Hint::Written(path(at)));
        self.hint(Hint::Closed(path(at)));
    }

    fn deeds(&mut self) -> Vec<String> {
        self.model.bytes = 0;
        let deeds = std::mem::take(&mut self.model.deeds);
        deeds.into_iter().filter(|deed| !deed.ends_with(" folder")).collect()
    }
}

fn gather(tree: &Tree, dir: &TreePath, all: &mut BTreeMap<TreePath, Entry>) {
    let entry = |at: &TreePath, nlink: u32| match tree.look(at).unwrap() {
        crate::tree::Look::Whole { mut entry, .. } => {
            entry.linked = nlink > 1;
            entry
        }
        crate::tree::Look::Large { mut entry, file, .. } => {
            let mut bytes = vec![0; entry.size as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            entry.content = digest::content(&bytes);
            entry.linked = nlink > 1;
            entry
        }
        other => panic!("{other:?}"),
    };
    all.insert(dir.clone(), entry(dir, 1));
    for (name, found) in tree.list(dir).unwrap().unwrap() {
        let at = dir.join(&name).unwrap();
        match found.kind {
            Some(Kind::Dir) => gather(tree, &at, all),
            Some(_) => {
                all.insert(at.clone(), entry(&at, found.nlink));
            }
            None => {}
        }
    }
}

fn some_name(dice: &mut Dice) -> String {
    let names: Vec<_> = (0..=dice.roll(3)).map(|_| format!("n{}", dice.roll(4))).collect();
    names.join("/")
}

/// One change by chance, and what the kernel would say of it.
fn change(root: &std::path::Path, dice: &mut Dice, all: bool) -> Vec<Hint> {
    let (a, b) = (some_name(dice), some_name(dice));
    let (at, to) = (root.join(&a), root.join(&b));
    let changed = |at: &str| Hint::Changed(path(at));
    match dice.roll(if all { 14 } else { 13 }) {
        0..=2 => {
            let size = [0, 10, 5_000, 70_000, 300_000, 1_200_000][dice.roll(6) as usize];
            let content = dice.bytes(size);
            match fs::write(&at, content) {
                Ok(()) => vec![changed(&a), Hint::Written(path(&a)), Hint::Closed(path(&a))],
                Err(_) => Vec::new(),
            }
        }
        3 | 4 => {
            let count = dice.roll(90_000) as usize;
            let open = fs::OpenOptions::new().append(true).open(&at);
            let Ok(mut file) = open else { return Vec::new() };
            file.write_all(&dice.bytes(count)).unwrap();
            let mut hints = vec![Hint::Written(path(&a))];
            hints.extend((dice.roll(2) == 0).then(|| Hint::Closed(path(&a))));
            hints
        }
        5 => {
            let open = fs::OpenOptions::new().write(true).open(&at);
            let Ok(file) = open else { return Vec::new() };
            let size = file.metadata().unwrap().len();
            file.set_len(dice.roll(size + 1)).unwrap();
            vec![Hint::Written(path(&a)), Hint::Closed(path(&a))]
        }
        6 | 7 => {
            let _ = fs::create_dir_all(&at);
            let mut above = Some(path(&a));
            let mut hints = Vec::new();
            while let Some(dir) = above.filter(|dir| !dir.is_root()) {
                above = dir.parent();
                hints.push(Hint::Changed(dir));
            }
            hints
        }
        8 | 9 => match fs::rename(&at, &to) {
            Ok(()) => vec![changed(&a), changed(&b)],
            Err(_) => Vec::new(),
        },
        kind => change_more(root, dice, kind, all, (&a, &b)),
    }
}

fn change_more(
    root: &std::path::Path,
    dice: &mut Dice,
    kind: u64,
    all: bool,
    (a, b): (&str, &str),
) -> Vec<Hint> {
    let (at, to) = (root.join(a), root.join(b));
    let changed = |at: &str| Hint::Changed(path(at));
    match kind {
        10 => {
            let is_dir = fs::symlink_metadata(&at).is_ok_and(|found| found.is_dir());
            let _ = if is_dir { fs::remove_dir_all(&at) } else { fs::remove_file(&at) };
            if dice.roll(3) == 0 {
                // Through a link that leads somewhere a change has another name than its hint.
                let _ = symlink(if all { b } else { "/nonexistent/folder/file" }, &at);
            }
            vec![changed(a)]
        }
        11 => {
            if fs::symlink_metadata(&at).is_ok_and(|found| !found.is_symlink()) {
                let mode = 0o600 + dice.roll(64) as u32 + 0o100;
                fs::set_permissions(&at, fs::Permissions::from_mode(mode)).unwrap();
                if dice.roll(2) == 0 {
                    let _ = std::os::unix::fs::chown(&at, Some(dice.roll(9) as u32), None);
                }
            }
            vec![changed(a)]
        }
        12 => {
            let value = dice.bytes(20);
            let flags = rustix::fs::XattrFlags::empty();
            if fs::symlink_metadata(&at).is_ok_and(|found| !found.is_symlink()) {
                let _ = rustix::fs::setxattr(&at, "user.test", &value, flags);
            }
            vec![changed(a)]
        }
        _ => {
            if !fs::symlink_metadata(&at).is_ok_and(|found| found.is_file()) {
                return Vec::new();
            }
            match fs::hard_link(&at, &to) {
                Ok(()) => vec![changed(b)],
                Err(_) => Vec::new(),
            }
        }
    }
}

fn random_changes(seed: u64, cuts: bool, all: bool) {
    let mut dice = Dice::new(seed);
    let mut pair = Pair::with(|_| {}, |settings| settings.guard_min = 1_000_000);
    fs::write(pair.root.join("stays"), "here").unwrap();
    pair.changed("stays");
    for round in 0..12 {
        let mut withheld = false;
        for _ in 0..dice.roll(40) {
            let hints = change(&pair.root, &mut dice, all);
            if all && dice.roll(8) == 0 {
                withheld = true;
            } else {
                hints.into_iter().for_each(|hint| pair.hint(hint));
            }
            for _ in 0..dice.roll(3) {
                pair.turn();
            }
            if dice.roll(6) == 0 {
                std::thread::sleep(Duration::from_millis(dice.roll(8)));
            }
            if cuts && dice.roll(12) == 0 {
                pair.lead.ended();
                let _ = change(&pair.root, &mut dice, all);
                withheld = true;
                pair.connect();
            }
        }
        // Hard links that lost a name elsewhere have no hint of their own.
        if withheld || all {
            pair.hint(Hint::Overflow);
        }
        eprintln!("seed {seed}, round {round}");
        pair.check();
    }
}

#[test]
fn after_any_changes_the_standby_has_the_same_tree() {
    (1..=6).for_each(|seed| random_changes(seed * 7_919, false, true));
}

#[test]
fn hints_alone_keep_the_standby_alike() {
    (1..=6).for_each(|seed| random_changes(seed * 15_485_863, false, false));
}

#[test]
fn a_lost_connection_is_healed_by_a_comparison() {
    (1..=6).for_each(|seed| random_changes(seed * 104_729, true, true));
}

#[test]
fn changes_that_are_hinted_at_need_no_scan() {
    let mut pair = Pair::new();
    fs::create_dir(pair.root.join("d")).unwrap();
    pair.changed("d");
    pair.write("d/a", b"one");
    pair.write("d/b", &vec![3; 300_000]);
    pair.check();
    pair.deeds();
    fs::rename(pair.root.join("d/a"), pair.root.join("c")).unwrap();
    pair.changed("d/a");
    pair.changed("c");
    pair.check();
    assert_eq!(pair.deeds(), ["rename d/a c"]);
    fs::set_permissions(pair.root.join("d/b"), fs::Permissions::from_mode(0o640)).unwrap();
    pair.changed("d/b");
    pair.check();
    assert_eq!(pair.deeds(), ["put d/b kept"], "its content is not sent");
    fs::remove_dir_all(pair.root.join("d")).unwrap();
    pair.changed("d/b");
    pair.changed("d");
    pair.check();
    assert_eq!(pair.deeds(), ["delete d"]);
}

#[test]
fn names_that_move_up_by_one_are_moved() {
    let mut pair = Pair::new();
    for n in 0..4 {
        pair.write(&format!("log.{n}"), format!("log {n}").as_bytes());
    }
    pair.check();
    pair.deeds();
    for n in (0..4).rev() {
        let (from, to) = (format!("log.{n}"), format!("log.{}", n + 1));
        fs::rename(pair.root.join(&from), pair.root.join(&to)).unwrap();
        pair.changed(&from);
        pair.changed(&to);
    }
    pair.write("log.0", b"new");
    pair.check();
    let moves =
        ["rename log.3 log.4", "rename log.2 log.3", "rename log.1 log.2", "rename log.0 log.1"];
    let deeds = pair.deeds();
    assert_eq!(deeds[..4], moves, "{deeds:?}");
}

#[test]
fn names_that_are_two_files_on_the_standby_are_linked_again() {
    let mut pair = Pair::new();
    pair.write("a", b"x");
    fs::hard_link(pair.root.join("a"), pair.root.join("b")).unwrap();
    pair.changed("b");
    pair.settle();
    pair.deeds();
    let sums = Sums { links: [0; 16], ..pair.lead.index.sums().unwrap() };
    pair.lead.offer(sums).unwrap();
    pair.check();
    assert_eq!(pair.deeds(), ["put b link a"]);
}

#[test]
fn a_file_that_is_closed_is_read_though_nothing_seems_new() {
    let mut pair = Pair::new();
    pair.write("a", b"whole");
    pair.settle();
    // As after a look amid a write(2) whose times were those of its beginning.
    let row = pair.lead.index.get(&path("a")).unwrap().unwrap();
    let torn = Entry { content: digest::hash(b"torn "), ..row.entry };
    pair.lead.index.put(&path("a"), &Row { entry: torn, racy: false, ..row }).unwrap();
    pair.hint(Hint::Written(path("a")));
    pair.hint(Hint::Closed(path("a")));
    pair.until("read", |pair| {
        let row = pair.lead.index.get(&path("a")).unwrap().unwrap();
        row.entry.content == digest::hash(b"whole")
    });
    pair.check();
}

#[test]
fn a_share_of_all_holds_no_deletion() {
    let mut pair = Pair::with(
        |root| (0..150).for_each(|at| fs::write(root.join(format!("f{at}")), b"x").unwrap()),
        |settings| settings.guard_share = 100,
    );
    fs::create_dir(pair.root.join("stays")).unwrap();
    pair.changed("stays");
    for round in 0..3 {
        for at in 0..149 {
            fs::remove_file(pair.root.join(format!("f{at}"))).unwrap();
            pair.changed(&format!("f{at}"));
        }
        pair.check();
        assert_eq!(pair.lead.held_entries(), 0, "round {round}");
        for at in 0..149 {
            pair.write(&format!("f{at}"), b"x");
        }
        pair.check();
    }
}

#[test]
fn hard_links_stay_links() {
    let mut pair = Pair::new();
    pair.write("a", b"one");
    pair.check();
    pair.deeds();
    fs::hard_link(pair.root.join("a"), pair.root.join("b")).unwrap();
    pair.changed("b");
    pair.check();
    assert_eq!(pair.deeds(), ["put b link a", "put a kept"]);
    pair.write("b", b"two");
    pair.check();
    assert_eq!(pair.deeds(), ["put b bytes", "put a link b"]);
    fs::remove_file(pair.root.join("a")).unwrap();
    pair.changed("a");
    pair.check();
    assert_eq!(pair.deeds(), ["delete a", "put b kept"]);
}

#[test]
fn a_moved_folder_is_one_step() {
    let prepare = |root: &std::path::Path| {
        for d in 0..100 {
            fs::create_dir_all(root.join(format!("big/d{d}"))).unwrap();
            (0..100).for_each(|n| fs::write(root.join(format!("big/d{d}/{n}")), "x").unwrap());
        }
    };
    let mut pair = Pair::with(prepare, |_| {});
    pair.deeds();
    fs::rename(pair.root.join("big"), pair.root.join("moved")).unwrap();
    let begin = Instant::now();
    pair.changed("big");
    pair.changed("moved");
    pair.until("moved", |pair| !pair.model.deeds.is_empty());
    let took = begin.elapsed();
    pair.check();
    assert_eq!(pair.deeds(), ["rename big moved"]);
    eprintln!("moved after {took:?}");
}

#[test]
fn too_many_deletions_are_held_until_a_person_approves() {
    let prepare = |root: &std::path::Path| {
        for d in ["a", "b"] {
            fs::create_dir(root.join(d)).unwrap();
            (0..100).for_each(|n| fs::write(root.join(d).join(n.to_string()), "x").unwrap());
        }
    };
    let mut pair = Pair::with(prepare, |_| {});
    pair.deeds();
    fs::remove_dir_all(pair.root.join("a")).unwrap();
    pair.changed("a");
    pair.write("new", b"goes on");
    pair.until("held", |pair| pair.lead.backlog().held > 0);
    pair.settle();
    assert_eq!(pair.deeds(), ["put new bytes"]);
    assert_eq!(pair.lead.backlog().held_entries, 101);
    assert_eq!(pair.lead.differing(9), [(path("a"), "deleted, held")]);
    pair.lead.approve();
    pair.check();
    assert_eq!(pair.deeds(), ["delete a"]);
    fs::remove_file(pair.root.join("b/1")).unwrap();
    pair.changed("b/1");
    pair.check();
    assert_eq!(pair.deeds(), ["delete b/1"], "few deletions go at once");
}

#[test]
fn an_emptied_root_is_held_also_when_it_was_emptied_unseen() {
    let prepare = |root: &std::path::Path| {
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/a"), "x").unwrap();
        fs::write(root.join("b"), "x").unwrap();
    };
    let mut pair = Pair::with(prepare, |_| {});
    fs::remove_dir_all(pair.root.join("d")).unwrap();
    fs::remove_file(pair.root.join("b")).unwrap();
    pair.hint(Hint::Overflow);
    pair.until("held", |pair| pair.lead.backlog().held == 2);
    assert_eq!(pair.model.nodes.len(), 4);
    fs::write(pair.root.join("b"), "again").unwrap();
    pair.changed("b");
    pair.settle();
    assert_eq!(pair.lead.backlog().held, 1, "what is there again is not held");
}

#[test]
fn without_its_marker_a_tree_is_halted() {
    let mut pair = Pair::with(|root| fs::write(root.join("a"), "x").unwrap(), |_| {});
    pair.deeds();
    let marker = pair.root.join(".staffetta/root");
    let kept = fs::read(&marker).unwrap();
    fs::remove_file(&marker).unwrap();
    fs::remove_file(pair.root.join("a")).unwrap();
    pair.changed("a");
    pair.until("halted", |pair| pair.lead.backlog().halted.is_some());
    pair.write("b", b"y");
    (0..50).for_each(|_| {
        pair.turn();
        std::thread::sleep(Duration::from_millis(5));
    });
    assert!(pair.deeds().is_empty() && !pair.lead.is_drained());
    fs::write(&marker, kept).unwrap();
    pair.check();
    assert_eq!(pair.lead.backlog().halted, None);
}

#[test]
fn a_standby_that_has_too_much_is_guarded_like_a_source_that_lost_it() {
    let mut pair = Pair::unsettled(|root| fs::write(root.join("a"), "x").unwrap(), |_| {});
    let node = Node { entry: Entry { kind: Kind::Dir, ..dir_entry() }, content: Vec::new() };
    pair.model.nodes.insert(path("old"), node.clone());
    for n in 0..200 {
        pair.model.nodes.insert(path(&format!("old/{n}")), node.clone());
    }
    pair.model.nodes.insert(path("few"), node);
    pair.connect();
    pair.until("held", |pair| pair.lead.backlog().held > 0);
    pair.until("drained", |pair| pair.lead.is_drained());
    assert!(pair.model.nodes.contains_key(&path("old/7")));
    assert_eq!(pair.lead.backlog().held_entries, 202);
    pair.lead.approve();
    pair.check();
}

#[test]
fn what_the_standby_refuses_is_said_again() {
    let mut pair = Pair::with(|root| fs::write(root.join("a"), "x").unwrap(), |_| {});
    // Its content is not what it was given: a step that builds on it is refused, then sent whole.
    pair.model.nodes.get_mut(&path("a")).unwrap().content = b"other".to_vec();
    pair.deeds();
    fs::set_permissions(pair.root.join("a"), fs::Permissions::from_mode(0o600)).unwrap();
    pair.changed("a");
    pair.check();
    assert_eq!(pair.deeds(), ["put a kept", "put a bytes"]);
    let full = Refusal::Failed("no space left on device".into());
    pair.model.refuses = Some((path("b"), full));
    pair.write("b", b"y");
    pair.until("in trouble", |pair| pair.lead.backlog().troubles == 1);
    assert_eq!(pair.lead.differing(9), [(path("b"), "refused by the standby")]);
    assert!(!pair.lead.is_drained() && !pair.lead.is_aligned());
    let backlog = pair.lead.backlog();
    assert!(backlog.files == 1 && backlog.oldest.is_some(), "{backlog:?}");
    pair.model.refuses = Some((path("b"), Refusal::Damaged));
    pair.until("tried again", |pair| pair.model.deeds.len() > 2);
    pair.model.refuses = None;
    pair.check();
    assert_eq!(pair.lead.backlog().troubles, 0);
}

#[test]
fn what_cannot_be_read_here_ends_alignment_and_holds_up_no_move() {
    let mut pair = Pair::with(|_| {}, |_| {});
    pair.write("b", b"y");
    pair.until("aligned", |pair| pair.lead.is_aligned());
    let error = std::io::Error::from_raw_os_error(libc::EIO);
    pair.lead.unreadable(&path("b"), &Item::new(Instant::now()), &error, Instant::now());
    // A primary whose disk fails may be left in favour of one that has the last good version.
    assert!(!pair.lead.is_aligned() && pair.lead.is_drained());
    assert_eq!(pair.lead.backlog().files, 1);
    pair.until("read again", |pair| pair.lead.is_aligned());
}

#[test]
fn what_is_written_by_a_name_that_is_gone_arrives_under_those_that_are_left() {
    let mut pair = Pair::with(|_| {}, |_| {});
    pair.write("a", b"x");
    pair.check();
    fs::hard_link(pair.root.join("a"), pair.root.join("b")).unwrap();
    fs::write(pair.root.join("b"), "written by the other name").unwrap();
    fs::remove_file(pair.root.join("b")).unwrap();
    pair.changed("b");
    let ino = std::os::unix::fs::MetadataExt::ino(&fs::metadata(pair.root.join("a")).unwrap());
    pair.hint(Hint::File(ino));
    pair.check();
    assert_eq!(pair.model.nodes[&path("a")].content, b"written by the other name");
}

#[test]
fn what_was_changed_on_the_standby_is_said_again() {
    let prepare = |root: &std::path::Path| {
        fs::create_dir_all(root.join("d/e")).unwrap();
        fs::write(root.join("d/e/a"), "x").unwrap();
        fs::write(root.join("b"), "x").unwrap();
    };
    let mut pair = Pair::with(prepare, |_| {});
    pair.model.remove(&path("d"));
    pair.model.nodes.get_mut(&path("b")).unwrap().content = b"other".to_vec();
    pair.lead.again(vec![path("d"), path("b")]);
    pair.check();
    assert_eq!(pair.model.nodes[&path("b")].content, b"x");
}

#[test]
fn of_a_large_file_only_changed_blocks_are_sent() {
    let mut dice = Dice::new(99);
    let content = dice.bytes(16 * 1024 * 1024);
    let mut pair = Pair::with(|root| fs::write(root.join("a"), &content).unwrap(), |_| {});
    pair.check();
    pair.deeds();
    let file = fs::OpenOptions::new().write(true).open(pair.root.join("a")).unwrap();
    for n in 0..40_u64 {
        file.write_all_at(&dice.bytes(4096), (n * 97 % 4096) * 4096).unwrap();
    }
    pair.changed("a");
    pair.hint(Hint::Closed(path("a")));
    pair.check();
    let bytes = pair.model.bytes;
    assert!((40 * 4096..40 * 4096 + 16 * 1024).contains(&bytes), "{bytes}");
}

#[test]
fn holes_are_not_sent() {
    let mut dice = Dice::new(5);
    let mut pair = Pair::new();
    let file = fs::File::create(pair.root.join("a")).unwrap();
    file.write_all_at(&dice.bytes(100_000), 30_000_000).unwrap();
    file.set_len(64_000_000).unwrap();
    pair.changed("a");
    pair.check();
    assert!(pair.model.bytes < 300_000, "{}", pair.model.bytes);
}

#[test]
fn what_is_appended_is_all_that_is_sent() {
    for begin in [10_000, 300_000, 9_000_000] {
        let mut dice = Dice::new(begin as u64);
        let mut pair = Pair::new();
        let mut file = fs::File::create(pair.root.join("call.wav")).unwrap();
        file.write_all(&dice.bytes(begin)).unwrap();
        pair.changed("call.wav");
        pair.hint(Hint::Written(path("call.wav")));
        pair.check();
        pair.deeds();
        for _ in 0..20 {
            file.write_all(&dice.bytes(1_600)).unwrap();
            pair.hint(Hint::Written(path("call.wav")));
            pair.settle();
        }
        assert_eq!(pair.model.nodes[&path("call.wav")].content.len(), begin + 32_000);
        let bytes = pair.model.bytes;
        let deeds = pair.deeds();
        assert!(deeds.iter().all(|deed| deed.starts_with("append")), "{deeds:?}");
        assert!((32_000..40_000).contains(&bytes), "{bytes}");
        // The head is written again when it is closed.
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(b"RIFF").unwrap();
        drop(file);
        pair.hint(Hint::Written(path("call.wav")));
        pair.hint(Hint::Closed(path("call.wav")));
        pair.check();
        assert_eq!(pair.model.nodes[&path("call.wav")].content[..4], *b"RIFF");
    }
}

#[test]
fn contents_that_shrink_travel_compressed() {
    let prepare = |root: &std::path::Path| {
        fs::write(root.join("small"), "again and again ".repeat(1_000)).unwrap();
        fs::write(root.join("large"), "again and again ".repeat(100_000)).unwrap();
        fs::write(root.join("noise"), Dice::new(3).bytes(50_000)).unwrap();
    };
    let mut pair = Pair::with(prepare, |settings| settings.compress = true);
    pair.check();
    assert!(pair.model.bytes < 60_000, "{}", pair.model.bytes);
}

#[test]
fn what_is_left_out_is_neither_sent_nor_deleted() {
    let prepare = |root: &std::path::Path| {
        fs::create_dir(root.join("tmp")).unwrap();
        fs::write(root.join("tmp/a"), "x").unwrap();
        fs::write(root.join("b.log"), "x").unwrap();
        fs::write(root.join("c"), "x").unwrap();
    };
    let patterns = ["/tmp/".to_owned(), "*.log".to_owned()];
    let set =
        |settings: &mut Settings| settings.ignores = Ignores::parse(&patterns).unwrap().into();
    let mut pair = Pair::with(prepare, set);
    pair.write("tmp/d", b"x");
    pair.write("e.log", b"x");
    pair.write("f", b"x");
    pair.settle();
    let names: Vec<_> = pair.model.nodes.keys().map(ToString::to_string).collect();
    assert_eq!(names, [".", "c", "f"]);
}

#[test]
fn a_scan_of_what_is_unchanged_says_nothing_and_a_verification_finds_silent_changes() {
    let prepare = |root: &std::path::Path| {
        fs::write(root.join("a"), "x").unwrap();
        fs::write(root.join("b"), vec![1; 1_000_000]).unwrap();
    };
    let mut pair = Pair::with(prepare, |_| {});
    std::thread::sleep(Duration::from_millis(50));
    pair.lead.begin_scan(Instant::now());
    pair.settle();
    pair.deeds();
    let row = pair.lead.index.get(&path("b")).unwrap().unwrap();
    assert!(!row.racy);
    // As if the disk had changed it.
    let entry = Entry { content: Digest([9; 32]), ..row.entry };
    pair.lead.index.put(&path("b"), &crate::entry::Row { entry, ..row }).unwrap();
    pair.lead.begin_scan(Instant::now());
    pair.until("scanned", |pair| !pair.lead.backlog().scanning);
    assert!(pair.model.deeds.is_empty());
    pair.lead.begin_verify(Instant::now());
    pair.check();
    assert_eq!(pair.lead.backlog().silent_changes, 1);
}

#[test]
fn a_scan_ends_wherever_its_slices_end() {
    let prepare = |root: &std::path::Path| {
        (0..300).for_each(|file| fs::write(root.join(file.to_string()), "x").unwrap());
    };
    let mut pair = Pair::with(prepare, |_| {});
    pair.settle();
    for round in 0..2_000 {
        pair.lead.begin_scan(Instant::now());
        let ended = (0..10_000).any(|_| {
            let now = Instant::now();
            // Sooner or later a slice is over between the last thing that is walked and the end.
            let slice = Duration::from_nanos(200 + 37 * (round % 100));
            pair.lead.scan(now, now + slice).unwrap();
            !pair.lead.backlog().scanning
        });
        assert!(ended, "round {round}");
    }
}

#[test]
fn a_drain_does_not_wait_for_what_comes_later() {
    let mut pair = Pair::new();
    pair.write("a", b"x");
    assert!(!pair.lead.is_drained());
    pair.lead.drain_from(Some(Instant::now()));
    pair.until("drained", |pair| {
        fs::write(pair.root.join("b"), Instant::now().elapsed().as_nanos().to_string()).unwrap();
        pair.changed("b");
        pair.lead.is_drained()
    });
    assert!(pair.model.nodes.contains_key(&path("a")));
}

#[test]
fn answers_to_steps_that_were_never_said_are_refused() {
    let mut pair = Pair::new();
    assert!(pair.lead.ack(&[1_000_000]).is_err());
    assert!(pair.lead.refuse(1_000_000, &Refusal::Missing).is_err());
}

/// Numbers for people: run with `--ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn cold_scan_of_many_small_files() {
    let prepare = |root: &std::path::Path| {
        let content = Dice::new(1).bytes(4096);
        for d in 0..200 {
            fs::create_dir(root.join(format!("d{d}"))).unwrap();
            (0..100).for_each(|n| fs::write(root.join(format!("d{d}/{n}")), &content).unwrap());
        }
    };
    let cpu = || {
        let mut used = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `used` is a timespec that lives until the call returns.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut used) };
        Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
    };
    let mut pair = Pair::unsettled(prepare, |_| {});
    let begin = cpu();
    while pair.lead.backlog().scanning {
        pair.lead.turn(Instant::now(), ROOM, &mut Vec::new());
    }
    eprintln!("alone: {:?} each", (cpu() - begin) / 20_200);
    let mut pair = Pair::unsettled(prepare, |_| {});
    pair.connect();
    let (mut spent, mut out) = (Duration::ZERO, Vec::new());
    while !pair.lead.is_aligned() {
        let begin = cpu();
        pair.lead.turn(Instant::now(), ROOM, &mut out);
        spent += cpu() - begin;
        for frame in out.drain(..) {
            let acks = match wire::frame(&frame).unwrap() {
                Frame::Steps(_, steps) => steps.iter().map(|step| step.seq).collect(),
                Frame::Message(Message::Head(_, seq, _)) => vec![seq],
                Frame::Message(Message::List(_, dirs)) => {
                    for dir in dirs {
                        pair.lead.listing(dir, Vec::new(), true).unwrap();
                    }
                    Vec::new()
                }
                _ => Vec::new(),
            };
            let begin = cpu();
            pair.lead.ack(&acks).unwrap();
            spent += cpu() - begin;
        }
    }
    eprintln!("with a standby: {:?} each", spent / 20_200);
    std::thread::sleep(Duration::from_millis(50));
    for _ in 0..2 {
        let begin = cpu();
        pair.lead.begin_scan(Instant::now());
        while pair.lead.backlog().scanning {
            pair.lead.turn(Instant::now(), ROOM, &mut out);
        }
        eprintln!("unchanged: {:?} each", (cpu() - begin) / 20_200);
    }
}
