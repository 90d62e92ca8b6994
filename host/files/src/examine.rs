//! What would hinder the replication of a tree, seen beforehand.

use crate::watch::{self, Mechanism};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Folders that are counted before the doctor stops counting.
const FOLDERS_MAX: u64 = 2_000_000;
/// Entries that are looked at in search of databases.
const LOOKED_AT_MAX: u64 = 200_000;

/// What hinders, or should be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hindrance {
    /// The root cannot be used: why.
    Unusable(String),
    /// On this kind of network file system changes of other machines go unseen.
    NetworkFileSystem(&'static str),
    /// Names that differ by case only are one file here, and two on the other node.
    CaseInsensitive,
    /// Another file system is mounted below the root: left out.
    Mount(PathBuf),
    /// fanotify does not work here, and why; inotify watches every folder.
    NoFanotify(String),
    /// More folders than inotify may watch: those there are, and the limit.
    TooFewWatches {
        /// Folders of the tree.
        folders: u64,
        /// `fs.inotify.max_user_watches`.
        limit: u64,
    },
    /// A database is in the tree: copied as a file while it is written to, it is broken.
    Database(PathBuf),
    /// The root is on another file system than `.staffetta` inside it.
    OtherFileSystem(PathBuf),
}

/// Looks at a root.
#[must_use]
pub fn examine(root: &Path, mechanism: Mechanism) -> Vec<Hindrance> {
    let mut found = Vec::new();
    match std::fs::metadata(root) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return vec![Hindrance::Unusable("is no folder".into())],
        Err(error) => return vec![Hindrance::Unusable(error.to_string())],
    }
    let root = match root.canonicalize() {
        Ok(root) => root,
        Err(error) => return vec![Hindrance::Unusable(error.to_string())],
    };
    match kind_of_file_system(&root) {
        Some(FileSystem::Network(name)) => found.push(Hindrance::NetworkFileSystem(name)),
        Some(FileSystem::CaseInsensitive) => found.push(Hindrance::CaseInsensitive),
        None => {}
    }
    found.extend(mounts_below(&root).into_iter().map(Hindrance::Mount));
    let own = root.join(".staffetta");
    if device(&own).is_some_and(|dev| Some(dev) != device(&root)) {
        found.push(Hindrance::OtherFileSystem(own));
    }
    let fanotify = watch::watch(&root, Mechanism::Fanotify).map(drop);
    let inotify = match (mechanism, fanotify) {
        (Mechanism::Inotify, _) => true,
        (Mechanism::Auto, Ok(())) | (Mechanism::Fanotify, Ok(())) => false,
        (Mechanism::Auto, Err(why)) => {
            found.push(Hindrance::NoFanotify(why.to_string()));
            true
        }
        (Mechanism::Fanotify, Err(why)) => {
            found.push(Hindrance::Unusable(why.to_string()));
            false
        }
    };
    let seen = walk(&root, inotify);
    found.extend(seen.databases.into_iter().map(Hindrance::Database));
    if let Some(limit) = watches_max().filter(|limit| inotify && seen.folders > *limit) {
        found.push(Hindrance::TooFewWatches { folders: seen.folders, limit });
    }
    found
}

enum FileSystem {
    Network(&'static str),
    CaseInsensitive,
}

/// By the magic numbers of statfs(2).
fn kind_of_file_system(path: &Path) -> Option<FileSystem> {
    let name = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: plain numbers, for which zeros are values.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the name ends with a NUL, and both live for the call.
    if unsafe { libc::statfs(name.as_ptr(), &raw mut found) } != 0 {
        return None;
    }
    // Of 32 bits, whatever the type of the field.
    match found.f_type as u32 {
        0x6969 => Some(FileSystem::Network("NFS")),
        0xFF53_4D42 | 0xFE53_4D42 | 0x517B => Some(FileSystem::Network("SMB")),
        0x0102_1997 => Some(FileSystem::Network("9P")),
        0x00C3_6400 => Some(FileSystem::Network("Ceph")),
        0x4D44 | 0x2011_BAB0 => Some(FileSystem::CaseInsensitive),
        _ => None,
    }
}

fn device(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).ok().map(|metadata| metadata.dev())
}

/// Mount points below a folder (proc_pid_mountinfo(5): the fifth field, octal escapes).
fn mounts_below(root: &Path) -> Vec<PathBuf> {
    let Ok(text) = std::fs::read("/proc/self/mountinfo") else { return Vec::new() };
    let points = text.split(|byte| *byte == b'\n').filter_map(|line| {
        let field = line.split(|byte| *byte == b' ').nth(4)?;
        Some(PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(field))))
    });
    points.filter(|point| point.starts_with(root) && point != root).collect()
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

#[derive(Default)]
struct Seen {
    folders: u64,
    databases: Vec<PathBuf>,
}

/// Counts folders, and notes databases that are being written to.
fn walk(root: &Path, all_folders: bool) -> Seen {
    let mut seen = Seen::default();
    let mut entries = 0u64;
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        seen.folders += 1;
        let enough = entries > LOOKED_AT_MAX && !all_folders;
        if enough || seen.folders > FOLDERS_MAX {
            break;
        }
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            entries += 1;
            let name = entry.file_name();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if !(dir == root && name == ".staffetta") {
                    left.push(entry.path());
                }
            } else if name.as_bytes().ends_with(b"-wal") && seen.databases.len() < 5 {
                seen.databases.push(entry.path());
            }
        }
    }
    seen
}

fn watches_max() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hinders_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert_eq!(examine(&file, Mechanism::Auto), [Hindrance::Unusable("is no folder".into())]);
        let gone = examine(&folder.path().join("gone"), Mechanism::Auto);
        assert!(matches!(gone.as_slice(), [Hindrance::Unusable(_)]), "{gone:?}");
        std::fs::write(folder.path().join("calls.db-wal"), b"").unwrap();
        let found = examine(folder.path(), Mechanism::Inotify);
        let root = folder.path().canonicalize().unwrap();
        assert!(found.contains(&Hindrance::Database(root.join("calls.db-wal"))), "{found:?}");
    }

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape(b"/a\\040b\\134"), b"/a b\\");
        assert_eq!(unescape(b"/a\\9"), b"/a\\9");
        assert!(mounts_below(Path::new("/")).iter().any(|point| point.starts_with("/proc")));
    }
}
