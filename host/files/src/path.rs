//! Paths inside a tree: relative, of bytes, and harmless wherever they came from.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// Bytes of a path inside a tree, at most (`PATH_MAX` of Linux, without its NUL).
pub(crate) const PATH_BYTES_MAX: usize = 4_095;
/// Bytes of one name, at most (`NAME_MAX` of Linux).
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// Names in a path, at most.
pub(crate) const DEPTH_MAX: usize = 256;
/// Staffetta's own folder at the root of each tree; never part of the tree.
pub(crate) const RESERVED: &[u8] = b".staffetta";

/// A path relative to the root of a tree; empty for the root itself. Any bytes but `/` and NUL may
/// be in a name; no name is empty, `.` or `..`; the first is not [`RESERVED`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TreePath(Box<[u8]>);

/// Why bytes are no [`TreePath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// More bytes than [`PATH_BYTES_MAX`].
    #[error("longer than {PATH_BYTES_MAX} bytes")]
    Long,
    /// A name of more bytes than [`NAME_BYTES_MAX`].
    #[error("a name in it is longer than {NAME_BYTES_MAX} bytes")]
    LongName,
    /// More names than [`DEPTH_MAX`].
    #[error("deeper than {DEPTH_MAX} folders")]
    Deep,
    /// An empty name, `.`, `..`, or a NUL byte.
    #[error("a name in it is empty, '.', '..' or holds a NUL byte")]
    Name,
    /// Below Staffetta's own folder.
    #[error("'.staffetta' at the root of a tree is Staffetta's own")]
    Reserved,
}

impl TreePath {
    /// The root of the tree.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks every rule.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.is_empty() {
            return Ok(Self::root());
        }
        if bytes.len() > PATH_BYTES_MAX {
            return Err(PathError::Long);
        }
        for (depth, name) in bytes.split(|byte| *byte == b'/').enumerate() {
            if depth == DEPTH_MAX {
                return Err(PathError::Deep);
            }
            check_name(name)?;
            if depth == 0 && name == RESERVED {
                return Err(PathError::Reserved);
            }
        }
        Ok(Self(bytes.into()))
    }

    /// The path of a child.
    ///
    /// # Errors
    /// As [`TreePath::parse`].
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        check_name(name)?;
        if self.is_root() {
            return Self::parse(name);
        }
        if self.0.len() + 1 + name.len() > PATH_BYTES_MAX {
            return Err(PathError::Long);
        }
        if self.depth() == DEPTH_MAX {
            return Err(PathError::Deep);
        }
        Ok(Self([&self.0, b"/".as_slice(), name].concat().into()))
    }

    /// Whether it is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Names in it; 0 for the root.
    #[must_use]
    pub fn depth(&self) -> usize {
        if self.is_root() { 0 } else { self.names().count() }
    }

    /// The folder that it is in; none for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        Some(Self(self.0[..end].into()))
    }

    /// Its last name; empty for the root.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        let start = self.0.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        &self.0[start..]
    }

    /// Its names, outermost first; none for the root.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    }

    /// Whether it is `other` or below it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.below(other).is_some()
    }

    /// What is left of it below `other`: empty for `other` itself, none when it is elsewhere.
    #[must_use]
    pub fn below(&self, other: &Self) -> Option<&[u8]> {
        if other.is_root() {
            return Some(&self.0);
        }
        let rest = self.0.strip_prefix(&*other.0)?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
    }

    /// The path that this one has after `from` became `to`; none when it is not within `from`, or
    /// would break a rule.
    #[must_use]
    pub fn moved(&self, from: &Self, to: &Self) -> Option<Self> {
        let rest = self.below(from)?;
        match (rest.is_empty(), to.is_root()) {
            (true, _) => Some(to.clone()),
            (false, true) => Self::parse(rest).ok(),
            (false, false) => Self::parse(&[&to.0, b"/".as_slice(), rest].concat()).ok(),
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// For calls of the operating system; `.` for the root.
    #[must_use]
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(if self.is_root() { b"." } else { &self.0 })
    }
}

/// One name of a path.
///
/// # Errors
/// [`PathError::LongName`] or [`PathError::Name`].
pub(crate) fn check_name(name: &[u8]) -> Result<(), PathError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(PathError::LongName);
    }
    let bad = name.is_empty() || name == b"." || name == b"..";
    if bad || name.contains(&0) || name.contains(&b'/') {
        return Err(PathError::Name);
    }
    Ok(())
}

impl fmt::Display for TreePath {
    /// For people: bytes that are not UTF-8 or would break a line are escaped; `.` for the root.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    c if c.is_control() => write!(f, "{}", c.escape_default())?,
                    c => write!(f, "{c}")?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn hostile_paths_are_refused() {
        let long = "a/".repeat(DEPTH_MAX) + "a";
        let refused: &[(&[u8], PathError)] = &[
            (b"/etc/passwd", PathError::Name),
            (b"a//b", PathError::Name),
            (b"a/", PathError::Name),
            (b"a/../b", PathError::Name),
            (b"./a", PathError::Name),
            (b"..", PathError::Name),
            (b"a\0b", PathError::Name),
            (b".staffetta", PathError::Reserved),
            (b".staffetta/trash/a", PathError::Reserved),
            (&[b'x'; 256], PathError::LongName),
            (&[b'x'; 5_000], PathError::Long),
            (long.as_bytes(), PathError::Deep),
        ];
        for (bytes, expected) in refused {
            assert_eq!(TreePath::parse(bytes), Err(*expected), "{bytes:?}");
        }
        assert_eq!(TreePath::root().join(b".staffetta"), Err(PathError::Reserved));
        assert!(path("a").join(b".staffetta").is_ok(), "reserved at the root only");
        assert!(TreePath::parse(b"a\n\xff").is_ok(), "any other byte may be in a name");
    }

    #[test]
    fn parts_and_moves() {
        let p = path("a/b/c");
        assert_eq!(p.parent(), Some(path("a/b")));
        assert_eq!(path("a").parent(), Some(TreePath::root()));
        assert_eq!(TreePath::root().parent(), None);
        assert_eq!((p.name(), p.depth()), (b"c".as_slice(), 3));
        assert!(p.is_within(&path("a")) && p.is_within(&p) && p.is_within(&TreePath::root()));
        assert!(!path("ab").is_within(&path("a")));
        assert_eq!(p.moved(&path("a/b"), &path("x")), Some(path("x/c")));
        assert_eq!(p.moved(&p, &path("x")), Some(path("x")));
        assert_eq!(p.moved(&path("b"), &path("x")), None);
        assert_eq!(TreePath::root().join(b"a").unwrap().join(b"b").unwrap(), path("a/b"));
        assert_eq!(TreePath::parse(b"a\n\xff").unwrap().to_string(), "a\\n\\xff");
    }
}
