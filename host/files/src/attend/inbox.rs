//! What the primary said and is not done yet, in its order; and how a step is made ready.

use super::deed::Ready;
use super::trouble::{refusal, unpack};
use crate::digest;
use crate::entry::{Entry, Kind, Sums, Xattrs};
use crate::path::TreePath;
use crate::tree::{Temp, Tree};
use crate::wire::{Body, Deed, End, Part, Refusal};
use rustix::io::Errno;
use std::io::{self, Write};

/// What an item costs beside its content, roughly.
const ITEM_BYTES: usize = 256;

/// Where the content of a path comes from.
pub(super) enum Content {
    Nothing,
    Kept,
    Bytes(Vec<u8>),
    Packed(usize, Vec<u8>),
    Link(TreePath),
}

/// Something that the primary said.
pub(super) enum Item {
    Put {
        seq: u64,
        path: TreePath,
        entry: Entry,
        xattrs: Xattrs,
        content: Content,
    },
    /// A large file begins.
    Begin {
        seq: u64,
        path: TreePath,
    },
    Part(Part, Vec<u8>),
    End(End),
    Drop(u64),
    /// Needs no preparation.
    Plain {
        seq: u64,
        ready: Ready,
    },
    Head(u64, Sums),
}

impl Item {
    pub(super) fn of(seq: u64, deed: Deed<'_>) -> Self {
        match deed {
            Deed::Put { path, body: Body::Parts, .. } => Item::Begin { seq, path },
            Deed::Put { path, entry, xattrs, body } => {
                let content = match body {
                    Body::Nothing | Body::Parts => Content::Nothing,
                    Body::Kept => Content::Kept,
                    Body::Bytes(bytes) => Content::Bytes(bytes.to_vec()),
                    Body::Packed(length, bytes) => Content::Packed(length as usize, bytes.to_vec()),
                    Body::Link(source) => Content::Link(source),
                };
                Item::Put { seq, path, entry, xattrs, content }
            }
            Deed::Append { path, entry, offset, bytes } => {
                let bytes = bytes.to_vec();
                Item::Plain { seq, ready: Ready::Append { path, entry, offset, bytes } }
            }
            Deed::Rename { from, to, sum } => {
                Item::Plain { seq, ready: Ready::Rename { from, to, sum } }
            }
            Deed::Delete(path) => Item::Plain { seq, ready: Ready::Delete(path) },
        }
    }

    /// What it costs to keep it.
    pub(super) fn bytes(&self) -> usize {
        ITEM_BYTES
            + match self {
                Item::Put { path, xattrs, content, .. } => {
                    let content = match content {
                        Content::Nothing | Content::Kept => 0,
                        Content::Bytes(bytes) | Content::Packed(_, bytes) => bytes.len(),
                        Content::Link(path) => path.as_bytes().len(),
                    };
                    path.as_bytes().len() + xattrs.bytes() + content
                }
                Item::Begin { path, .. } => path.as_bytes().len(),
                Item::Part(_, bytes) => bytes.len(),
                Item::Plain { ready: Ready::Append { bytes, .. }, .. } => bytes.len(),
                Item::End(end) => end.xattrs.bytes(),
                Item::Plain { .. } | Item::Drop(_) | Item::Head(..) => 0,
            }
    }

    /// Whether it must wait for a file that is being ended at this path.
    pub(super) fn waits_for(&self, ending: &TreePath) -> bool {
        let meets = |path: &TreePath| ending.is_within(path) || path.is_within(ending);
        match self {
            // A folder around it stays a folder.
            Item::Put { path, entry, .. } if entry.kind == Kind::Dir && path != ending => {
                path.is_within(ending)
            }
            Item::Put { path, content: Content::Link(source), .. } => meets(path) || meets(source),
            Item::Put { path, .. } | Item::Begin { path, .. } => meets(path),
            Item::Plain { ready, .. } => {
                let (path, from) = ready.paths();
                meets(path) || from.is_some_and(meets)
            }
            Item::Head(..) => true,
            Item::Part(..) | Item::End(_) | Item::Drop(_) => false,
        }
    }
}

/// Makes a step ready: its content goes to the disk, where nobody sees it yet. Errors of the disk
/// are refusals.
///
/// # Errors
/// The process has no more descriptors: try again when some steps are done.
pub(super) fn make_ready(
    tree: &Tree,
    path: &TreePath,
    entry: Entry,
    xattrs: &Xattrs,
    content: &Content,
) -> Result<Ready, io::Error> {
    let refused = |why| Ok(Ready::Refused(path.clone(), why));
    if xattrs.digest() != entry.xattrs {
        return refused(Refusal::Damaged);
    }
    let unpacked;
    let bytes = match content {
        Content::Kept => {
            let (path, xattrs) = (path.clone(), xattrs.clone());
            return Ok(Ready::Kept { path, entry, xattrs });
        }
        Content::Link(source) => {
            let (path, xattrs, source) = (path.clone(), xattrs.clone(), source.clone());
            return Ok(Ready::Link { path, entry, xattrs, source });
        }
        Content::Nothing => &[],
        Content::Bytes(bytes) => bytes.as_slice(),
        Content::Packed(length, bytes) => match unpack(bytes, *length) {
            Some(bytes) => {
                unpacked = bytes;
                &unpacked
            }
            None => return refused(Refusal::Damaged),
        },
    };
    if entry.kind == Kind::Dir {
        let (path, xattrs) = (path.clone(), xattrs.clone());
        return Ok(Ready::Dir { path, entry, xattrs });
    }
    if digest::content(bytes) != entry.content || bytes.len() as u64 != entry.size {
        return refused(Refusal::Damaged);
    }
    if entry.kind == Kind::Symlink {
        let (path, xattrs, target) = (path.clone(), xattrs.clone(), bytes.to_vec());
        return Ok(Ready::Symlink { path, entry, xattrs, target });
    }
    match write_temp(tree, &entry, xattrs, bytes) {
        Ok(temp) => Ok(Ready::File { path: path.clone(), entry, temp: Some(temp) }),
        Err(error) if is_crowded() => Err(error),
        Err(error) => refused(refusal(path, &error)),
    }
}

fn write_temp(tree: &Tree, entry: &Entry, xattrs: &Xattrs, bytes: &[u8]) -> io::Result<Temp> {
    let temp = tree.temp(entry.size)?;
    (&temp.file).write_all(bytes)?;
    tree.dress(&temp.file, entry, xattrs)?;
    Ok(temp)
}

/// No more descriptors.
fn is_crowded() -> bool {
    let tried = std::fs::File::open("/dev/null");
    let errno = tried.err().and_then(|error| Errno::from_io_error(&error));
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}
