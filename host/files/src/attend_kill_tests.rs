//! Killed between any two deeds, the standby knows its own work: nothing of it is a local change.

use super::*;
use crate::dice::Dice;

/// A step that owns what it says.
#[derive(Debug)]
enum Act {
    Put(TreePath, Entry, Vec<u8>),
    Dress(TreePath, Entry),
    Link(TreePath, Entry, TreePath),
    Append(TreePath, Entry, usize, Vec<u8>),
    Rename(TreePath, TreePath, [u8; 16]),
    Delete(TreePath),
}

impl Act {
    fn deed(&self) -> Deed<'_> {
        let put = |path: &TreePath, entry: &Entry, body| Deed::Put {
            path: path.clone(),
            entry: *entry,
            xattrs: Xattrs::default(),
            body,
        };
        match self {
            Act::Put(path, entry, _) if entry.kind == Kind::Dir => put(path, entry, Body::Nothing),
            Act::Put(path, entry, bytes) => put(path, entry, Body::Bytes(bytes)),
            Act::Dress(path, entry) => put(path, entry, Body::Kept),
            Act::Link(path, entry, source) => put(path, entry, Body::Link(source.clone())),
            Act::Append(path, entry, from, bytes) => Deed::Append {
                path: path.clone(),
                entry: *entry,
                offset: *from as u64,
                bytes: &bytes[*from..],
            },
            Act::Rename(from, to, sum) => {
                Deed::Rename { from: from.clone(), to: to.clone(), sum: *sum }
            }
            Act::Delete(path) => Deed::Delete(path.clone()),
        }
    }
}

/// Everything in the tree.
fn known(bed: &mut Bed) -> Vec<(TreePath, Entry)> {
    let (mut folders, mut all) = (vec![TreePath::root()], Vec::new());
    while let Some(dir) = folders.pop() {
        for (name, row, _) in bed.attend().ground.index.children(&dir).unwrap().unwrap() {
            let path = dir.join(&name).unwrap();
            if row.entry.kind == Kind::Dir {
                folders.push(path.clone());
            }
            all.push((path, row.entry));
        }
    }
    all
}

/// Something that may be done to this tree now.
fn draw(bed: &mut Bed, dice: &mut Dice) -> Option<Act> {
    let all = known(bed);
    let mut folders = vec![TreePath::root()];
    folders.extend(all.iter().filter(|(_, e)| e.kind == Kind::Dir).map(|(path, _)| path.clone()));
    let name = format!("n{}", dice.roll(6));
    let new = folders[dice.roll(folders.len() as u64) as usize].join(name.as_bytes()).unwrap();
    let old = (!all.is_empty()).then(|| all[dice.roll(all.len() as u64) as usize].clone());
    let bytes = vec![dice.roll(256) as u8; 1 + dice.roll(40) as usize];
    let mtime_ns = MTIME + dice.roll(1_000) as i64;
    let is_dir = all.iter().any(|(path, entry)| *path == new && entry.kind == Kind::Dir);
    let what = dice.roll(12);
    let Some((path, of)) = old.filter(|_| what > 3) else {
        let kind = if what == 0 { Kind::Dir } else { Kind::File };
        let bytes = if kind == Kind::Dir { Vec::new() } else { bytes };
        return Some(Act::Put(new, Entry { mtime_ns, ..entry(kind, &bytes) }, bytes));
    };
    Some(match (what, of.kind) {
        (4, Kind::File) if new != path && !is_dir => Act::Link(new, of, path),
        (5 | 6, Kind::File) => {
            let mut whole = std::fs::read(bed.root.join(path.as_os_str())).unwrap();
            let from = whole.len();
            whole.extend(bytes);
            let size = whole.len() as u64;
            let entry = Entry { mtime_ns, size, content: digest::content(&whole), ..of };
            Act::Append(path, entry, from, whole)
        }
        (7 | 8, _) => Act::Dress(path, Entry { mode: 0o700 | dice.roll(8) as u32, ..of }),
        (9 | 10, _) if !new.is_within(&path) && !path.is_within(&new) => {
            let sum = bed.attend().ground.index.sum(&path).unwrap().unwrap().to_le_bytes();
            Act::Rename(path, new, sum)
        }
        (11, _) => Act::Delete(path),
        _ => return None,
    })
}

/// Does these, and waits for no growing file: false when one was refused.
fn done(bed: &mut Bed, acts: &[Act]) -> bool {
    bed.send(acts.iter().map(Act::deed).collect());
    let is_busy = |attend: &Attend| {
        !attend.inbox.is_empty() || attend.gathering.is_some() || attend.current.is_some()
    };
    while bed.turn() || is_busy(bed.attend()) {
        std::thread::sleep(Duration::from_micros(50));
    }
    bed.take().iter().all(|said| matches!(said, Message::Ack(..)))
}

/// So many acts, each of which this tree takes.
fn history(bed: &mut Bed, dice: &mut Dice, count: usize) -> Vec<Act> {
    let mut acts = Vec::new();
    while acts.len() < count {
        if let Some(act) = draw(bed, dice)
            && done(bed, std::slice::from_ref(&act))
        {
            acts.push(act);
        }
    }
    acts
}

/// Kills the daemon after so many deeds of a group.
fn killed_amid(bed: &mut Bed, acts: &[Act], deeds: usize) {
    bed.send(acts.iter().map(Act::deed).collect());
    let mut out = Vec::new();
    let attend = bed.attend();
    while attend.gather(Instant::now(), &mut out).unwrap() {}
    while !attend.current.as_ref().is_some_and(Group::is_doing) {
        std::thread::sleep(Duration::from_micros(100));
        let now = Instant::now();
        attend.advance(now, now + SLICE, &mut out).unwrap();
    }
    for _ in 0..deeds {
        attend.advance(Instant::now(), Instant::now() + Duration::from_secs(1), &mut out).unwrap();
    }
    assert!(attend.current.is_some() && out.is_empty());
}

/// What is wrong after a kill amid some of so many steps.
fn trouble(seed: u64) -> Option<String> {
    let dice = &mut Dice::new(seed);
    let (mut mirror, mut bed) = (Bed::new(), Bed::new());
    let quick: Flusher = Arc::new(|_: &Flush| Ok(()));
    for bed in [&mut mirror, &mut bed] {
        bed.attend = None;
        bed.start(Arc::clone(&quick));
    }
    assert!(done(&mut bed, &history(&mut mirror, dice, 20)), "as on the other");
    let acts = history(&mut mirror, dice, 10);
    let deeds = dice.roll(acts.len() as u64 + 1) as usize;
    killed_amid(&mut bed, &acts, deeds);
    bed.attend = None;
    bed.open(quick);
    bed.attend().begin_audit(false);
    bed.offer();
    bed.check();
    let recent = bed.attend().status().counters.recent;
    let mut wrong: Vec<String> = recent.iter().map(|(_, path)| format!("said {path}")).collect();
    for (path, _) in known(&mut bed) {
        let row = bed.attend().ground.index.get(&path).unwrap().unwrap();
        wrong.extend((!row.shared).then(|| format!("own {path}")));
    }
    let report = format!("seed {seed}: {wrong:?} after {deeds} of {acts:?}");
    (!wrong.is_empty()).then_some(report)
}

#[test]
fn a_standby_that_was_killed_between_any_two_deeds_calls_none_of_them_a_local_change() {
    let seeds = std::env::var("STAFFETTA_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let wrong: Vec<String> = (1..=seeds).filter_map(trouble).collect();
    assert!(wrong.is_empty(), "{} of {seeds}: {}", wrong.len(), wrong.join("\n"));
}
