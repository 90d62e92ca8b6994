//! Extended attributes, POSIX ACLs among them (xattr(7), acl(5)).

use crate::entry::{XATTRS_BYTES_MAX, Xattr, Xattrs};
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::io;
use std::os::fd::AsFd;

/// What a list of names takes at most (`XATTR_LIST_MAX` of Linux), and a value (`XATTR_SIZE_MAX`).
const KERNEL_BYTES_MAX: usize = 64 * 1024;
/// What most lists and values take.
const USUAL_BYTES: usize = 1024;

/// Sets the mode, too.
pub(super) const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// Of a folder: what is made in it gets this one.
pub(super) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// Whether the other node gets it. Labels of this machine's own policies and measurements mean
/// nothing there.
pub(super) fn is_carried(name: &[u8]) -> bool {
    let own = [b"security.selinux".as_slice(), b"security.ima", b"security.evm"];
    let spaces = [b"user.".as_slice(), b"trusted.", b"security."];
    let acl = name == ACL_ACCESS || name == ACL_DEFAULT;
    acl || (spaces.iter().any(|space| name.starts_with(space)) && !own.contains(&name))
}

/// Those that are carried, of an open file or folder.
pub(super) fn read(fd: impl AsFd) -> io::Result<Xattrs> {
    let mut xattrs = Vec::new();
    let mut bytes = 0;
    for name in names(&fd)? {
        let value = match sized(|buffer| rustix::fs::fgetxattr(&fd, &name, buffer)) {
            Ok(value) => value,
            // Removed since.
            Err(Errno::NODATA) => continue,
            Err(error) => return Err(error.into()),
        };
        bytes += name.len() + value.len();
        if bytes > XATTRS_BYTES_MAX {
            let text = format!(
                "its extended attributes have more than {XATTRS_BYTES_MAX} bytes together: \
                 remove some (getfattr -d -m -)"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        xattrs.push(Xattr { name, value });
    }
    xattrs.sort_unstable();
    Ok(Xattrs(xattrs))
}

/// The names of those that are carried.
pub(super) fn names(fd: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    let list = match sized(|buffer| rustix::fs::flistxattr(&fd, buffer)) {
        Ok(list) => list,
        // A file system that has none.
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let names = list.split(|byte| *byte == 0).filter(|name| is_carried(name));
    Ok(names.map(<[u8]>::to_vec).collect())
}

/// Sets one.
pub(super) fn set(fd: impl AsFd, xattr: &Xattr) -> io::Result<()> {
    let Xattr { name, value } = xattr;
    rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()).map_err(|error| {
        let remedy = match error {
            Errno::NOSPC | Errno::RANGE | Errno::TOOBIG => {
                " (does its file system take so many bytes? ext4 does with its feature ea_inode)"
            }
            Errno::PERM => " (does the unit grant CAP_SYS_ADMIN and CAP_SETFCAP?)",
            Errno::OPNOTSUPP => " (is its file system mounted with xattrs and ACLs?)",
            _ => "",
        };
        changed("set", name, error, remedy)
    })
}

/// Removes one; it may be gone already.
pub(super) fn remove(fd: impl AsFd, name: &[u8]) -> io::Result<()> {
    match rustix::fs::fremovexattr(fd, name) {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(changed("remove", name, error, "")),
    }
}

fn changed(what: &str, name: &[u8], error: Errno, remedy: &str) -> io::Error {
    let error = io::Error::from(error);
    let name = name.escape_ascii();
    io::Error::new(error.kind(), format!("cannot {what} the attribute {name}: {error}{remedy}"))
}

/// Asks with a small buffer first, then with one that must be enough.
fn sized(ask: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = [0; USUAL_BYTES];
    match ask(&mut buffer) {
        Ok(length) => Ok(buffer[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut buffer = vec![0; KERNEL_BYTES_MAX];
            let length = ask(&mut buffer)?;
            buffer.truncate(length);
            Ok(buffer)
        }
        Err(error) => Err(error),
    }
}
