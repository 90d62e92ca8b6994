//! Removing folders with all that is in them, without following symlinks, without entering what is
//! mounted there, however deep they are, and in slices.

use super::{beneath, random_name};
use rustix::fs::{AtFlags, FileType, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

/// What getdents(2) fills at once.
const LISTING_BYTES: usize = 32 * 1024;

/// Empties a folder with at most so many calls that remove something, and counts them down. True
/// when it is empty.
///
/// Folders in folders are moved up first, so two open descriptors are enough for any depth.
pub(super) fn empty(dir: &OwnedFd, budget: &mut usize) -> io::Result<bool> {
    loop {
        let names = some_names(dir)?;
        if names.is_empty() {
            return Ok(true);
        }
        for (name, is_dir) in names {
            if *budget == 0 {
                return Ok(false);
            }
            let gone = !is_dir && unlinked(dir, &name, budget)?;
            if !gone && !folder(dir, &name, budget)? {
                return Ok(false);
            }
        }
    }
}

/// Removes what has this name, whatever it is, as [`empty`] does.
pub(super) fn whole(dir: &OwnedFd, name: &[u8], budget: &mut usize) -> io::Result<bool> {
    if unlinked(dir, name, budget)? {
        return Ok(true);
    }
    let folder = match beneath(dir, name, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(folder) => folder,
        Err(Errno::NOENT) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    if !empty(&folder, budget)? {
        return Ok(false);
    }
    removed(dir, name, budget)
}

/// All names in a folder.
pub(super) fn names(dir: &OwnedFd) -> Result<Vec<Box<[u8]>>, Errno> {
    let mut names = Vec::new();
    rustix::fs::seek(dir, SeekFrom::Start(0))?;
    let mut buffer = [MaybeUninit::uninit(); LISTING_BYTES];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.into());
        }
    }
    Ok(names)
}

/// A name in a folder, and whether it is known to be a folder.
type Named = (Box<[u8]>, bool);

/// The first of the names in a folder, and whether they are known to be folders.
fn some_names(dir: &OwnedFd) -> Result<Vec<Named>, Errno> {
    let mut names = Vec::new();
    rustix::fs::seek(dir, SeekFrom::Start(0))?;
    let mut buffer = [MaybeUninit::uninit(); LISTING_BYTES];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push((name.into(), entry.file_type() == FileType::Directory));
        }
        // The rest would ask the kernel again.
        if entries.is_buffer_empty() && !names.is_empty() {
            break;
        }
    }
    Ok(names)
}

/// False when it is a folder.
fn unlinked(dir: &OwnedFd, name: &[u8], budget: &mut usize) -> Result<bool, Errno> {
    *budget = budget.saturating_sub(1);
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a folder's files, moves its folders up into `dir`, and removes it. False when there was
/// more to do than allowed.
fn folder(dir: &OwnedFd, name: &[u8], budget: &mut usize) -> io::Result<bool> {
    let folder = match beneath(dir, name, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(folder) => folder,
        Err(Errno::NOENT) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    loop {
        let names = some_names(&folder)?;
        if names.is_empty() {
            break;
        }
        for (child, is_dir) in names {
            if *budget == 0 {
                return Ok(false);
            }
            let gone = !is_dir && unlinked(&folder, &child, budget)?;
            if !gone {
                *budget = budget.saturating_sub(1);
                rustix::fs::renameat(&folder, &*child, dir, random_name()?)?;
            }
        }
    }
    removed(dir, name, budget)
}

/// Removes an empty folder.
fn removed(dir: &OwnedFd, name: &[u8], budget: &mut usize) -> io::Result<bool> {
    *budget = budget.saturating_sub(1);
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
