//! What a tree holds at a path: what both nodes must have alike, and how to see that it changed.

use crate::digest::{self, Digest};
use crate::path::TreePath;
use minicbor::{Decode, Encode};

/// Bytes of all extended attributes of one path together, names and values, at most.
pub(crate) const XATTRS_BYTES_MAX: usize = 256 * 1024;

/// What is followed. Sockets, pipes and devices are counted, and left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(crate) enum Kind {
    #[n(0)]
    File,
    #[n(1)]
    Dir,
    #[n(2)]
    Symlink,
}

/// What both nodes must have alike at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Entry {
    #[n(0)]
    pub kind: Kind,
    /// Permission bits, set-user-id, set-group-id and sticky bit included; 0o777 for symlinks.
    #[n(1)]
    pub mode: u32,
    #[n(2)]
    pub uid: u32,
    #[n(3)]
    pub gid: u32,
    /// Nanoseconds since 1970, before it negative.
    #[n(4)]
    pub mtime_ns: i64,
    /// Bytes of a file or of a symlink's target; 0 for a folder.
    #[n(5)]
    pub size: u64,
    /// Of a file's content (`digest::Segments`), or of a symlink's target; zeros for a folder.
    #[n(6)]
    pub content: Digest,
    /// [`Xattrs::digest`].
    #[n(7)]
    pub xattrs: Digest,
    /// A file that has another name in this tree, too.
    #[n(8)]
    pub linked: bool,
}

impl Entry {
    /// What the entry, under this name, adds to the sum of its folder: of a folder itself, together
    /// with the `below` of all that is in it.
    pub(crate) fn sum(&self, name: &[u8], below: u128) -> u128 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name);
        hasher.update(&[self.kind as u8, u8::from(self.linked)]);
        for number in [self.mode, self.uid, self.gid] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&self.mtime_ns.to_le_bytes());
        hasher.update(&self.size.to_le_bytes());
        hasher.update(&self.content.0);
        hasher.update(&self.xattrs.0);
        hasher.update(&below.to_le_bytes());
        let hash = hasher.finalize();
        u128::from_le_bytes(hash.as_bytes()[..16].try_into().expect("half of it"))
    }
}

/// By which two trees are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Sums {
    /// All entries below the root, and the root's own under an empty name.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub tree: [u8; 16],
    /// Which names are names of one file.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub links: [u8; 16],
}

/// What one file with several names, sorted, adds to the sum of links.
pub(crate) fn link_sum<'a>(names: impl Iterator<Item = &'a TreePath>) -> u128 {
    let mut hasher = blake3::Hasher::new();
    for name in names {
        hasher.update(&(name.as_bytes().len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
    }
    u128::from_le_bytes(hasher.finalize().as_bytes()[..16].try_into().expect("half of it"))
}

/// By which a change since the last look is seen without reading the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stamp {
    pub ino: u64,
    /// Birth of the inode; 0 where the file system does not know it.
    pub btime_ns: i64,
    /// Of a folder 0: it changes with every child.
    pub ctime_ns: i64,
}

/// What is at a path now, without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// None: a socket, pipe or device.
    pub kind: Option<Kind>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime_ns: i64,
    /// As in [`Entry`].
    pub size: u64,
    pub stamp: Stamp,
    /// Names of the inode, in this tree or elsewhere; 1 for a folder.
    pub nlink: u32,
    /// Bytes that it occupies on the disk.
    pub allocated: u64,
    pub dev: u64,
}

/// What the index knows of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub entry: Entry,
    pub stamp: Stamp,
    /// Looked at so soon after its last change that another one could hide behind the same times.
    pub racy: bool,
    /// The other node has, or had, exactly this.
    pub shared: bool,
}

impl Row {
    /// Whether the index tells the truth of what is there, as far as can be told without reading.
    pub(crate) fn describes(&self, found: &Found) -> bool {
        let entry = &self.entry;
        found.kind == Some(entry.kind)
            && found.stamp == self.stamp
            && (found.mode, found.uid, found.gid) == (entry.mode, entry.uid, entry.gid)
            && (found.mtime_ns, found.size) == (entry.mtime_ns, entry.size)
    }
}

/// Extended attributes, ACLs among them, sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(transparent)]
pub(crate) struct Xattrs(pub Vec<Xattr>);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub(crate) struct Xattr {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub name: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub value: Vec<u8>,
}

impl Xattrs {
    /// Zeros when there are none.
    pub(crate) fn digest(&self) -> Digest {
        if self.0.is_empty() {
            return Digest::default();
        }
        let mut bytes = Vec::new();
        for part in self.0.iter().flat_map(|xattr| [&xattr.name, &xattr.value]) {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part);
        }
        digest::hash(&bytes)
    }

    /// Bytes of all names and values.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum()
    }
}
