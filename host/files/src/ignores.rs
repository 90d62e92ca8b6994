//! Patterns of what is left out of a tree, in the syntax of gitignore(5).

use crate::digest::{self, Digest};
use crate::path::TreePath;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// What one tree leaves out. Only the configuration says it: files named `.gitignore` in the tree
/// are files like others.
pub(crate) struct Ignores {
    patterns: Gitignore,
    digest: Digest,
}

impl Ignores {
    /// # Errors
    /// Names the pattern that is none.
    pub(crate) fn parse(patterns: &[String]) -> Result<Ignores, String> {
        let mut builder = GitignoreBuilder::new("");
        // Git takes `[a` for a pattern that matches nothing: here it is a slip of the pen.
        builder.allow_unclosed_class(false);
        let mut bytes = Vec::new();
        for pattern in patterns {
            // The message of this error names the pattern by itself, and not always.
            if let Err(error) = builder.add_line(None, pattern) {
                return Err(format!("'{pattern}' is no pattern of gitignore(5): {error}"));
            }
            bytes.extend_from_slice(&(pattern.len() as u64).to_le_bytes());
            bytes.extend_from_slice(pattern.as_bytes());
        }
        let patterns =
            builder.build().map_err(|error| format!("these patterns together: {error}"))?;
        Ok(Ignores { patterns, digest: digest::hash(&bytes) })
    }

    /// Whether this path, or a folder that it is in, is left out. The root never is.
    pub(crate) fn leaves_out(&self, path: &TreePath, is_dir: bool) -> bool {
        if self.patterns.is_empty() {
            return false;
        }
        // Outermost first: what is in a folder that is left out cannot be taken in again, since
        // its folder is not there.
        let bytes = path.as_bytes();
        let slashes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let matches = |part: &[u8], is_dir| {
            self.patterns.matched(OsStr::from_bytes(part), is_dir).is_ignore()
        };
        slashes.map(|(end, _)| &bytes[..end]).any(|folder| matches(folder, true))
            || (!path.is_root() && matches(bytes, is_dir))
    }

    /// The same patterns in the same order have the same digest.
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignores(patterns: &[&str]) -> Ignores {
        let patterns: Vec<String> = patterns.iter().map(|text| (*text).to_owned()).collect();
        Ignores::parse(&patterns).unwrap()
    }

    /// `out` and `left` are paths, folders where they end with a slash.
    fn check(patterns: &[&str], out: &[&[u8]], left: &[&[u8]]) {
        let ignores = ignores(patterns);
        let leaves_out = |text: &[u8]| {
            let (bytes, is_dir) =
                text.strip_suffix(b"/").map_or((text, false), |text| (text, true));
            ignores.leaves_out(&TreePath::parse(bytes).unwrap(), is_dir)
        };
        for text in out {
            assert!(leaves_out(text), "{patterns:?} leaves out {}", text.escape_ascii());
        }
        for text in left {
            assert!(!leaves_out(text), "{patterns:?} leaves {}", text.escape_ascii());
        }
    }

    #[test]
    fn patterns_mean_what_gitignore_says() {
        check(&[], &[], &[b"", b"a", b"a/b"]);
        check(&["*"], &[b"a", b"a/b/"], &[b"", b"/"]);
        check(&["*.tmp"], &[b"x.tmp", b"a/b/x.tmp", b"x.tmp/", b"x.tmp/in"], &[b"x.tmpl"]);
        check(&["/top"], &[b"top", b"top/", b"top/in/it"], &[b"a/top"]);
        check(&["cache/"], &[b"cache/", b"a/cache/", b"a/cache/x"], &[b"cache", b"a/cache"]);
        check(&["a/b"], &[b"a/b", b"a/b/c"], &[b"x/a/b", b"a"]);
        check(&["**/logs/*.gz"], &[b"logs/1.gz", b"x/y/logs/1.gz"], &[b"logs/x/1.gz", b"1.gz"]);
        check(&["spool/**"], &[b"spool/a", b"spool/a/b"], &[b"spool/", b"spool"]);
        check(&["a/**/z"], &[b"a/z", b"a/b/z", b"a/b/c/z"], &[b"z", b"b/z"]);
        check(&["# *", "", "   "], &[], &[b"# *", b"a"]);
        check(&["\\#x", "\\!y"], &[b"#x", b"!y"], &[b"x", b"y"]);
    }

    #[test]
    fn the_last_pattern_that_matches_counts_but_not_below_what_is_left_out() {
        check(&["*.wav", "!keep.wav"], &[b"a.wav", b"d/a.wav"], &[b"keep.wav", b"d/keep.wav"]);
        check(&["!keep.wav", "*.wav"], &[b"keep.wav"], &[]);
        check(&["d/", "!d/keep"], &[b"d/", b"d/keep", b"x/d/keep"], &[b"d"]);
        check(&["d/*", "!d/keep"], &[b"d/a"], &[b"d/", b"d/keep"]);
    }

    #[test]
    fn names_are_bytes() {
        check(&["*.tmp", "d?/"], &[b"\xff\xfe.tmp", b"x/\xff.tmp"], &[b"\xff\xfe"]);
        check(&["a*z"], &[b"a\xffz", b"a\nz", b"\xff/a\xc3\x28z/below"], &[b"a\xff"]);
    }

    #[test]
    fn a_bad_pattern_is_named() {
        for bad in ["*.[ch", "a[z-a]", "x{a,b"] {
            let patterns = ["*.good".to_owned(), bad.to_owned()];
            let error = Ignores::parse(&patterns).map(|_| ()).unwrap_err();
            assert!(error.contains(&format!("'{bad}'")), "{error}");
        }
    }

    #[test]
    fn the_digest_tells_patterns_and_their_order_apart() {
        let digest = |patterns: &[&str]| ignores(patterns).digest();
        assert_eq!(digest(&["a", "b"]), digest(&["a", "b"]));
        assert_ne!(digest(&["a", "b"]), digest(&["b", "a"]));
        assert_ne!(digest(&["ab"]), digest(&["a", "b"]));
        assert_ne!(digest(&[]), digest(&[""]));
    }
}
