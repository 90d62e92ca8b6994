//! What leaves the tree is not lost: it moves to `.staffetta/trash/<stamp>/tree/<path>`, or to
//! `.staffetta/conflicts/…`. Beside `tree` there is a `manifest` for people: one line for each
//! thing that was set aside (or put back), with its kind, bytes and path.
//!
//! A manifest is not made durable line by line: deleting thousands of files would take minutes. The
//! rename into the folder is as durable as that out of the tree; where a crash took the last lines
//! of a manifest, what they named is found by looking.

use super::{
    FOLDER, Parent, Tree, beneath, beneath_to_read, clock, is_absence, kind_of, random_name,
    remove, stat_in,
};
use crate::entry::Kind;
use crate::path::TreePath;
use rustix::fs::{Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// The folder of all that was set aside under a stamp.
const TREE: &[u8] = b"tree";
/// What it was.
const MANIFEST: &[u8] = b"manifest";
/// In front of the name of a stamp that is being removed.
const FORGOTTEN: &str = "forgotten-";
/// The bytes of all that was set aside are counted anew so often: somebody may have removed some.
const COUNT_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Stamps of one second, at most.
const STAMPS_MAX: u32 = 1_000_000;

/// Where what must not be lost goes when it leaves the tree, inside `.staffetta`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Aside {
    /// Deleted by the primary: `trash/<stamp>/tree/<path>`.
    Trash,
    /// Changed here, overwritten by the primary's: `conflicts/<stamp>/tree/<path>`.
    Conflicts,
}

/// Something that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub aside: Aside,
    /// When: `20261123T031500Z`, a name below `trash/` or `conflicts/`.
    pub stamp: String,
    /// Where it was.
    pub path: TreePath,
    /// Bytes, all below it included; as far as they were known when it was set aside.
    pub bytes: u64,
}

/// What is known of both folders.
#[derive(Default)]
pub(super) struct Asides {
    trash: Known,
    conflicts: Known,
}

#[derive(Default)]
struct Known {
    current: Option<Current>,
    /// Bytes of all, and when they were counted.
    bytes: Option<(u64, Instant)>,
}

/// The stamp of this second. Nobody else adds to it, so it is known what is in it.
struct Current {
    second: i64,
    count: u32,
    stamp: String,
    tree: OwnedFd,
    manifest: File,
    /// Folders that were set aside whole: nothing is put into them.
    folders: HashSet<TreePath>,
}

impl Aside {
    fn folder(&self) -> &'static str {
        match self {
            Aside::Trash => "trash",
            Aside::Conflicts => "conflicts",
        }
    }
}

impl Asides {
    fn of(&mut self, aside: &Aside) -> &mut Known {
        match aside {
            Aside::Trash => &mut self.trash,
            Aside::Conflicts => &mut self.conflicts,
        }
    }
}

impl Tree {
    /// Moves what is there, a folder with all that is in it, out of the tree, on the same file
    /// system: nothing is copied. Its place is kept (the folders that it was in, with owner and
    /// mode). The same path twice within a second gets a stamp of its own. `bytes` is what the
    /// caller knows of its size, all below it included.
    pub(crate) fn set_aside(&self, path: &TreePath, aside: &Aside, bytes: u64) -> io::Result<Kept> {
        let what = "set aside";
        let (dir, name) = self.parent_to_write(what, path)?;
        let stat = stat_in(&dir, name).map_err(|error| self.failed(what, path, error))?;
        let kind = kind_of(&stat);
        if self.is_foreign(&stat) {
            return Err(self.failed(what, path, Errno::XDEV));
        }
        let mut asides = self.asides.lock().unwrap_or_else(PoisonError::into_inner);
        let known = asides.of(aside);
        let second = clock::now();
        let mut count = match &known.current {
            Some(current) if current.second == second => current.count,
            _ => 1,
        };
        let mut retried = false;
        loop {
            let current = self.current(aside, known, second, count)?;
            match self.move_into(current, &dir, name, path) {
                Ok(()) => break,
                // The path is taken there, or a folder on the way is something else there.
                Err(Errno::EXIST | Errno::NOTDIR | Errno::LOOP) => count = current.count + 1,
                // Somebody removed the folder that was kept open.
                Err(Errno::NOENT) if !retried => {
                    retried = true;
                    count = current.count + 1;
                }
                Err(error) => return Err(self.failed(what, path, error)),
            }
        }
        if let Some((all, _)) = &mut known.bytes {
            *all = all.saturating_add(bytes);
        }
        let current = known.current.as_mut().expect("it was moved into it");
        if kind == Some(Kind::Dir) {
            current.folders.insert(path.clone());
        }
        if let Err(error) = current.manifest.write_all(&line(word(kind), bytes, path)) {
            let stamp = &current.stamp;
            tracing::warn!(stamp, %path, %error, "set aside, but not noted in the manifest");
        }
        Ok(Kept { aside: aside.clone(), stamp: current.stamp.clone(), path: path.clone(), bytes })
    }

    /// The stamp of this second, from this count on.
    fn current<'a>(
        &self,
        aside: &Aside,
        known: &'a mut Known,
        second: i64,
        mut count: u32,
    ) -> io::Result<&'a mut Current> {
        let fits = |current: &Current| (current.second, current.count) == (second, count);
        if !known.current.as_ref().is_some_and(fits) {
            let shown = aside.folder();
            let base = self.own_folder(shown, true)?;
            let base = base.ok_or_else(|| self.failed_own("open", shown, Errno::NOENT))?;
            let made = loop {
                match make_stamp(&base, second, count) {
                    // Of a process that ended in this second, or before the clock was set back.
                    Err(Errno::EXIST) if count < STAMPS_MAX => count += 1,
                    made => break made,
                }
            };
            let made = made.map_err(|error| self.failed_own("write in", shown, error))?;
            known.current = Some(made);
        }
        Ok(known.current.as_mut().expect("made above"))
    }

    /// Moves it to its place in the stamp, whose folders are made as they are in the tree.
    fn move_into(
        &self,
        current: &Current,
        dir: &Parent<'_>,
        name: &[u8],
        path: &TreePath,
    ) -> Result<(), Errno> {
        let mut folder = None;
        let mut at = TreePath::root();
        let depth = path.depth() - 1;
        for ancestor in path.names().take(depth) {
            at = at.join(ancestor).map_err(|_| Errno::INVAL)?;
            if current.folders.contains(&at) {
                return Err(Errno::EXIST);
            }
            let above = folder.as_ref().unwrap_or(&current.tree);
            let next = match beneath(above, ancestor, FOLDER) {
                Err(Errno::NOENT) => self.make_like(above, ancestor, &at)?,
                opened => opened?,
            };
            folder = Some(next);
        }
        let folder = folder.as_ref().unwrap_or(&current.tree);
        rustix::fs::renameat_with(dir, name, folder, name, RenameFlags::NOREPLACE)
    }

    /// Makes a folder with the owner and mode of one in the tree.
    fn make_like(&self, above: &OwnedFd, name: &[u8], of: &TreePath) -> Result<OwnedFd, Errno> {
        rustix::fs::mkdirat(above, name, Mode::RWXU)?;
        let made = beneath(above, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        if let Ok(stat) = self.stat_at(of) {
            let owner = Uid::from_raw(stat.stx_uid);
            let group = Gid::from_raw(stat.stx_gid);
            rustix::fs::fchown(&made, Some(owner), Some(group))?;
            rustix::fs::fchmod(&made, Mode::from_raw_mode(stat.stx_mode.into()))?;
        }
        Ok(made)
    }

    /// What was set aside, newest first, at most so many. What was put back, or removed by hand, is
    /// not among it.
    pub(crate) fn kept(&self, aside: &Aside, max: usize) -> io::Result<Vec<Kept>> {
        let mut all = Vec::new();
        let Some(base) = self.own_folder(aside.folder(), false)? else { return Ok(all) };
        let failed = |error| self.failed_own("list", aside.folder(), error);
        for (_, stamp) in stamps(&base).map_err(failed)?.into_iter().rev() {
            if all.len() >= max {
                break;
            }
            for (path, bytes) in kept_in(&base, &stamp).map_err(failed)? {
                let (aside, stamp) = (aside.clone(), stamp.clone());
                all.push(Kept { aside, stamp, path, bytes });
            }
        }
        all.truncate(max);
        Ok(all)
    }

    /// Moves something back to where it was, or to another path of the tree. `AlreadyExists` when
    /// anything is there, `NotFound` when it is gone, or the folder to move it to is not there.
    pub(crate) fn restore(&self, kept: &Kept, to: &TreePath) -> io::Result<()> {
        let failed = |error: Errno| {
            let place = format!("{}/{}/tree/{}", kept.aside.folder(), kept.stamp, kept.path);
            self.failed_own("restore", &place, error)
        };
        let (target, name) = self.parent_to_write("restore", to)?;
        let base = self.own_folder(kept.aside.folder(), false)?;
        let known = clock::parse(&kept.stamp).is_some() && !kept.path.is_root();
        let base = base.filter(|_| known).ok_or_else(|| failed(Errno::NOENT))?;
        let stamp = beneath(&base, kept.stamp.as_bytes(), FOLDER).map_err(failed)?;
        let tree = beneath(&stamp, TREE, FOLDER).map_err(failed)?;
        let folder = kept.path.parent().unwrap_or_default();
        let folder = beneath(&tree, folder.as_bytes(), FOLDER).map_err(failed)?;
        let only = RenameFlags::NOREPLACE;
        stat_in(&folder, kept.path.name()).map_err(failed)?;
        rustix::fs::renameat_with(&folder, kept.path.name(), &target, name, only)
            .map_err(|error| self.failed("restore", to, error))?;
        let mut asides = self.asides.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((all, _)) = &mut asides.of(&kept.aside).bytes {
            *all = all.saturating_sub(kept.bytes);
        }
        let noted = open_manifest(&stamp)
            .map_err(io::Error::from)
            .and_then(|mut file| file.write_all(&line("restored", kept.bytes, &kept.path)));
        if let Err(error) = noted {
            let (stamp, path) = (&kept.stamp, &kept.path);
            tracing::warn!(stamp, %path, %error, "restored, but not noted in the manifest");
        }
        Ok(())
    }

    /// Removes what was set aside longer ago than this; the oldest also while all of it has more
    /// bytes than this. Bounded work: at most `max` removals in a call; true when more is left.
    ///
    /// What cannot be removed does not keep the rest from it, and is an error at the end.
    pub(crate) fn forget(
        &self,
        aside: &Aside,
        older: Duration,
        bytes_max: u64,
        max: usize,
    ) -> io::Result<bool> {
        let shown = aside.folder();
        let Some(base) = self.own_folder(shown, false)? else { return Ok(false) };
        let failed = |error: io::Error| self.failed_own("remove from", shown, error);
        let mut stamps = stamps(&base).map_err(failed)?;
        let older = i64::try_from(older.as_secs()).unwrap_or(i64::MAX);
        let limit = clock::now().saturating_sub(older);
        let old = stamps.partition_point(|((second, _), _)| *second < limit);
        for (_, stamp) in stamps.drain(..old.min(max)) {
            self.doom(aside, &base, &stamp).map_err(failed)?;
        }
        let mut all = self.counted(aside, &base, &stamps).map_err(failed)?;
        let mut doomed = 0;
        for (_, stamp) in stamps {
            if all <= bytes_max || doomed >= max {
                break;
            }
            doomed += 1;
            all = all.saturating_sub(self.doom(aside, &base, &stamp).map_err(failed)?);
        }
        remove_doomed(&base, max).map(|done| !done || old > max || doomed >= max).map_err(failed)
    }

    /// Takes a stamp out of what is kept; it is removed bit by bit. Its bytes.
    fn doom(&self, aside: &Aside, base: &OwnedFd, stamp: &str) -> io::Result<u64> {
        let bytes = bytes_of(base, stamp)?;
        let mut asides = self.asides.lock().unwrap_or_else(PoisonError::into_inner);
        let known = asides.of(aside);
        if known.current.as_ref().is_some_and(|current| current.stamp == stamp) {
            known.current = None;
        }
        let name = format!("{FORGOTTEN}{stamp}-{}", random_name()?);
        match rustix::fs::renameat_with(base, stamp, base, name, RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some((all, _)) = &mut known.bytes {
            *all = all.saturating_sub(bytes);
        }
        Ok(bytes)
    }

    /// The bytes of all that is kept, counted now and then.
    fn counted(
        &self,
        aside: &Aside,
        base: &OwnedFd,
        stamps: &[((i64, u32), String)],
    ) -> io::Result<u64> {
        let lock = || self.asides.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((bytes, when)) = lock().of(aside).bytes
            && when.elapsed() < COUNT_INTERVAL
        {
            return Ok(bytes);
        }
        let mut bytes = 0_u64;
        for (_, stamp) in stamps {
            bytes = bytes.saturating_add(bytes_of(base, stamp)?);
        }
        lock().of(aside).bytes = Some((bytes, Instant::now()));
        Ok(bytes)
    }
}

/// Makes a stamp that is not there yet.
fn make_stamp(base: &OwnedFd, second: i64, count: u32) -> Result<Current, Errno> {
    let stamp = clock::name(second, count);
    rustix::fs::mkdirat(base, &*stamp, Mode::RWXU)?;
    let dir = beneath(base, stamp.as_bytes(), FOLDER)?;
    rustix::fs::mkdirat(&dir, TREE, Mode::RWXU)?;
    let tree = beneath(&dir, TREE, FOLDER)?;
    let manifest = open_manifest(&dir)?;
    Ok(Current { second, count, stamp, tree, manifest, folders: HashSet::new() })
}

fn open_manifest(stamp: impl AsFd) -> Result<File, Errno> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(stamp, MANIFEST, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}

/// Oldest first. What a person put there under another name is left alone.
fn stamps(base: &OwnedFd) -> io::Result<Vec<((i64, u32), String)>> {
    let mut stamps = Vec::new();
    for name in remove::names(base)? {
        let stamp = std::str::from_utf8(&name).ok().and_then(|text| {
            let moment = clock::parse(text)?;
            Some((moment, text.to_owned()))
        });
        stamps.extend(stamp);
    }
    stamps.sort_unstable();
    Ok(stamps)
}

/// True when nothing of what was doomed is left.
fn remove_doomed(base: &OwnedFd, max: usize) -> io::Result<bool> {
    let mut budget = max;
    let mut failed = None;
    let mut done = true;
    for name in remove::names(base)? {
        if !name.starts_with(FORGOTTEN.as_bytes()) {
            continue;
        }
        match remove::whole(base, &name, &mut budget) {
            Ok(removed) => done &= removed,
            Err(error) => {
                let name = name.escape_ascii();
                let text = format!("{name}: {error} (is something mounted or immutable in it?)");
                failed.get_or_insert(io::Error::new(error.kind(), text));
            }
        }
    }
    failed.map_or(Ok(done), Err)
}

/// What is in a manifest: what was set aside and not put back, in this order; and every path that
/// it ever named.
#[derive(Default)]
struct Manifest {
    kept: BTreeMap<TreePath, (usize, u64)>,
    named: HashSet<TreePath>,
}

fn read_manifest(stamp: impl AsFd) -> io::Result<Manifest> {
    let mut manifest = Manifest::default();
    let mut bytes = Vec::new();
    match beneath_to_read(stamp, MANIFEST, OFlags::empty()) {
        Ok(file) => File::from(file).read_to_end(&mut bytes)?,
        Err(error) if is_absence(error) => return Ok(manifest),
        Err(error) => return Err(error.into()),
    };
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let Some((word, bytes, path)) = parse_line(line) else { continue };
        if word == "restored" {
            manifest.kept.remove(&path);
        } else {
            manifest.kept.insert(path.clone(), (at, bytes));
        }
        manifest.named.insert(path);
    }
    Ok(manifest)
}

fn bytes_of(base: &OwnedFd, stamp: &str) -> io::Result<u64> {
    match beneath(base, stamp.as_bytes(), FOLDER) {
        Ok(stamp) => {
            let manifest = read_manifest(&stamp)?;
            let each = manifest.kept.values().map(|(_, bytes)| *bytes);
            Ok(each.fold(0, u64::saturating_add))
        }
        Err(error) if is_absence(error) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// What is kept under a stamp, newest first; at last what no manifest names.
fn kept_in(base: &OwnedFd, stamp: &str) -> io::Result<Vec<(TreePath, u64)>> {
    let opened = beneath(base, stamp.as_bytes(), FOLDER)
        .and_then(|stamp| Ok((beneath(&stamp, TREE, FOLDER)?, stamp)));
    let (tree, stamp) = match opened {
        Ok(opened) => opened,
        // Removed meanwhile.
        Err(error) if is_absence(error) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let manifest = read_manifest(&stamp)?;
    let mut kept: Vec<_> =
        manifest.kept.iter().map(|(path, (at, bytes))| (*at, path, *bytes)).collect();
    kept.sort_unstable_by(|a, b| b.cmp(a));
    let mut all = Vec::new();
    for (_, path, bytes) in kept {
        let folder = path.parent().unwrap_or_default();
        let there = beneath(&tree, folder.as_bytes(), FOLDER)
            .and_then(|folder| stat_in(&folder, path.name()));
        match there {
            Ok(_) => all.push((path.clone(), bytes)),
            Err(error) if is_absence(error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    unnamed(&tree, &manifest.named, &mut all)?;
    Ok(all)
}

/// Adds what is there and was never named: neither a named path nor a folder above one.
fn unnamed(
    tree: &OwnedFd,
    named: &HashSet<TreePath>,
    all: &mut Vec<(TreePath, u64)>,
) -> io::Result<()> {
    let mut above = HashSet::from([TreePath::root()]);
    for path in named {
        let mut path = path.parent();
        while let Some(folder) = path {
            path = folder.parent();
            if !above.insert(folder) {
                break;
            }
        }
    }
    let first = all.len();
    for dir in &above {
        let folder = match beneath_to_read(tree, dir.as_bytes(), OFlags::DIRECTORY) {
            Ok(folder) => folder,
            Err(error) if is_absence(error) => continue,
            Err(error) => return Err(error.into()),
        };
        for name in remove::names(&folder)? {
            let Ok(path) = dir.join(&name) else { continue };
            if named.contains(&path) || above.contains(&path) {
                continue;
            }
            let stat = stat_in(&folder, &name)?;
            let is_file = kind_of(&stat) == Some(Kind::File);
            all.push((path, if is_file { stat.stx_size } else { 0 }));
        }
    }
    all[first..].sort_unstable();
    Ok(())
}

fn word(kind: Option<Kind>) -> &'static str {
    match kind {
        Some(Kind::File) => "file",
        Some(Kind::Dir) => "folder",
        Some(Kind::Symlink) => "symlink",
        None => "other",
    }
}

/// A line of a manifest. Backslashes, control characters and what is not UTF-8 are told as `\x5c`.
fn line(word: &str, bytes: u64, path: &TreePath) -> Vec<u8> {
    let mut line = format!("{word} {bytes} ");
    for chunk in path.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || c.is_control() {
                escape(&mut line, c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                line.push(c);
            }
        }
        escape(&mut line, chunk.invalid());
    }
    line.push('\n');
    line.into_bytes()
}

fn escape(line: &mut String, bytes: &[u8]) {
    line.extend(bytes.iter().map(|byte| format!("\\x{byte:02x}")));
}

/// The opposite of [`line`], without the line feed. None for what is none: a person edited it, or a
/// crash cut it off.
fn parse_line(line: &[u8]) -> Option<(&str, u64, TreePath)> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.splitn(3, ' ');
    let (word, bytes, escaped) = (words.next()?, words.next()?, words.next()?);
    let mut path = Vec::with_capacity(escaped.len());
    let mut parts = escaped.split("\\x");
    path.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        path.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        path.extend_from_slice(&part.as_bytes()[2..]);
    }
    let path = TreePath::parse(&path).ok().filter(|path| !path.is_root())?;
    Some((word, bytes.parse().ok()?, path))
}

#[cfg(test)]
#[path = "aside_tests.rs"]
mod tests;
