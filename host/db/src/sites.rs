//! Which files the configured patterns mean at this moment.

use crate::apply::UNFINISHED;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How every SQLite database that holds anything begins.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// What SQLite keeps beside a database is none, nor what a crash left of a copy that was made.
const COMPANIONS: [&str; 4] = ["-wal", "-shm", "-journal", UNFINISHED];

/// Whether a pattern means this path: an absolute path whose last part may hold `*` (any
/// characters) and `?` (one).
#[must_use]
pub fn means(pattern: &str, path: &Path) -> bool {
    let pattern = Path::new(pattern);
    if pattern.parent() != path.parent() {
        return false;
    }
    match (pattern.file_name(), path.file_name()) {
        (Some(pattern), Some(name)) => {
            let companion = COMPANIONS.iter().any(|end| name.as_bytes().ends_with(end.as_bytes()));
            matches(pattern.as_bytes(), name.as_bytes()) && !companion
        }
        _ => false,
    }
}

/// What both nodes call a database: the pattern's name, and the file's where it means many.
pub(crate) fn name_of(name: &str, pattern: &str, path: &Path) -> String {
    match path.file_name() {
        Some(file) if !is_plain(pattern) => format!("{name}/{}", file.to_string_lossy()),
        _ => name.to_owned(),
    }
}

/// Where this node has what the peer calls so; none where the pattern does not mean it.
pub(crate) fn path_of(name: &str, pattern: &str, called: &str) -> Option<PathBuf> {
    let pattern_path = Path::new(pattern);
    if is_plain(pattern) {
        return (name == called).then(|| pattern_path.to_owned());
    }
    let file = called.strip_prefix(name)?.strip_prefix('/')?;
    let one = !file.is_empty() && !file.contains(['/', '\0']) && file != "." && file != "..";
    let path = pattern_path.parent()?.join(file);
    (one && means(pattern, &path)).then_some(path)
}

/// Whether a pattern means one path only.
pub(crate) fn is_plain(pattern: &str) -> bool {
    !pattern.contains(['*', '?'])
}

fn matches(pattern: &[u8], name: &[u8]) -> bool {
    // Where the last star stands, and how much of the name it has taken.
    let (mut at, mut from) = ((0, 0), None::<(usize, usize)>);
    while at.1 < name.len() {
        match pattern.get(at.0) {
            Some(b'*') => {
                from = Some((at.0, at.1));
                at.0 += 1;
            }
            Some(one) if *one == b'?' || *one == name[at.1] => at = (at.0 + 1, at.1 + 1),
            _ => {
                let Some((star, taken)) = from else { return false };
                from = Some((star, taken + 1));
                at = (star + 1, taken + 1);
            }
        }
    }
    pattern[at.0..].iter().all(|rest| *rest == b'*')
}

/// The databases that a pattern means, in the order of their names, at most `most`. A plain path is
/// one if it exists; of the others those that are known to be databases, and files that begin as
/// SQLite's do. What is known is not opened: closing it would drop the locks that this process has.
pub(crate) fn expand(pattern: &str, most: usize, known: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let path = Path::new(pattern);
    if is_plain(pattern) {
        return if path.is_file() { vec![path.to_owned()] } else { Vec::new() };
    }
    let Some(entries) = path.parent().and_then(|folder| std::fs::read_dir(folder).ok()) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| means(pattern, path) && (known(path) || is_database(path)))
        .collect();
    found.sort();
    found.truncate(most);
    found
}

/// A file that SQLite made. Opened and closed before anything else of this process has it open: a
/// known database is not asked again (see [`crate::Attached`]).
fn is_database(path: &Path) -> bool {
    let mut head = [0; 16];
    path.is_file()
        && File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok()
        && head == *MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_a_shell_means() {
        for (pattern, path, expect) in [
            ("/d/a.db", "/d/a.db", true),
            ("/d/*.db", "/d/a.db", true),
            ("/d/*.db", "/d/.db", true),
            ("/d/*.db", "/d/a.db-wal", false),
            ("/d/*", "/d/a.db-journal", false),
            ("/d/*", "/d/a.db-shm", false),
            ("/d/*", "/d/a.db-staffetta-new", false),
            ("/d/*", "/d/e/a.db", false),
            ("/d/?.db", "/d/ab.db", false),
            ("/d/a*b*c", "/d/axxbyybc", true),
            ("/d/a*b*c", "/d/axxbyyb", false),
            ("/d/**", "/d/x", true),
            ("/d/*.db", "/e/a.db", false),
        ] {
            assert_eq!(means(pattern, Path::new(path)), expect, "{pattern} {path}");
        }
    }

    #[test]
    fn a_name_leads_to_this_nodes_file_and_nowhere_else() {
        let path = |name: &str, pattern: &str, called: &str| {
            path_of(name, pattern, called).map(|path| path.display().to_string())
        };
        let called = name_of("calls", "/a/*.db", Path::new("/a/x.db"));
        assert_eq!(called, "calls/x.db");
        assert_eq!(path("calls", "/b/*.db", &called).as_deref(), Some("/b/x.db"));
        assert_eq!(path("one", "/b/one.db", "one").as_deref(), Some("/b/one.db"));
        assert_eq!(name_of("one", "/b/one.db", Path::new("/b/one.db")), "one");
        for bad in
            ["calls", "calls/", "calls/..", "calls/../x.db", "calls/e/x.db", "calls/x.db-wal", "x"]
        {
            assert_eq!(path("calls", "/b/*.db", bad), None, "{bad}");
        }
    }

    fn expand(pattern: &str, most: usize) -> Vec<PathBuf> {
        super::expand(pattern, most, |_| false)
    }

    /// Opening and closing a file would drop the locks of this process on it.
    #[test]
    fn what_is_known_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        std::fs::write(&path, "not asked what it is").unwrap();
        let pattern = format!("{}/*.db", folder.path().display());
        assert_eq!(super::expand(&pattern, 9, |known| known == path), std::slice::from_ref(&path));
        assert!(expand(&pattern, 9).is_empty());
    }

    #[test]
    fn only_databases_are_found_by_a_pattern() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["b.db", "a.db", "c.db"] {
            std::fs::write(at(name), MAGIC).unwrap();
        }
        std::fs::write(at("text.db"), "not one, but longer than the head").unwrap();
        std::fs::write(at("a.db-wal"), MAGIC).unwrap();
        std::fs::create_dir(at("folder.db")).unwrap();
        let pattern = format!("{}/*.db", folder.path().display());
        assert_eq!(expand(&pattern, 9), [at("a.db"), at("b.db"), at("c.db")]);
        assert_eq!(expand(&pattern, 2).len(), 2);
        let plain = at("text.db").display().to_string();
        assert_eq!(expand(&plain, 9), [at("text.db")]);
        assert!(expand(&at("none.db").display().to_string(), 9).is_empty());
        assert!(expand("/nowhere/at/all/*.db", 9).is_empty());
    }
}
