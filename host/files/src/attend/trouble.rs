//! What can go wrong with a step, in words that an operator can use.

use crate::index::IndexError;
use crate::wire::{INLINE_BYTES_MAX, PART_BYTES_MAX, Refusal, reason};
use rustix::io::Errno;
use std::fmt::Display;
use std::io::{self, ErrorKind};

/// What ends a connection: no version of this software says it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AttendError {
    /// Numbers of steps rise.
    #[error("step {0} after step {1}: numbers of steps rise")]
    Order(u64, u64),
    /// Parts, an end or a question for what was never begun, or was ended.
    #[error("step {0} has not begun, or has ended: nothing can follow it")]
    Unknown(u64),
    /// More large files at a time than allowed.
    #[error("step {0} begins another large file before one of the others has ended")]
    Many(u64),
    /// A part outside of any file that is followed, or blocks outside of the base.
    #[error("step {0}: a range outside of the file")]
    Range(u64),
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The disk or the system refused.
    #[error(transparent)]
    Disk(#[from] io::Error),
    /// What is known of the tree cannot be kept: nothing can be done with it.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl From<Errno> for Fault {
    fn from(error: Errno) -> Self {
        Fault::Disk(error.into())
    }
}

/// Names what was tried, why it failed, and what helps.
pub(super) fn text(object: &impl Display, error: &io::Error) -> String {
    let remedy = match error.kind() {
        ErrorKind::StorageFull => "make room on the standby's disk",
        ErrorKind::QuotaExceeded => "raise the quota on the standby",
        ErrorKind::ReadOnlyFilesystem => "mount the standby's disk for writing",
        ErrorKind::PermissionDenied => {
            "does the unit grant CAP_CHOWN, CAP_FOWNER and CAP_DAC_OVERRIDE? Is it immutable?"
        }
        ErrorKind::Unsupported => "the standby's file system lacks what the primary's has",
        ErrorKind::CrossesDevices => "another file system is mounted inside the standby's tree",
        ErrorKind::FileTooLarge
        | ErrorKind::TooManyLinks
        | ErrorKind::InvalidFilename
        | ErrorKind::InvalidInput => "beyond the limits of the standby's file system",
        // The kinds of the standard library are open.
        _ => "tried again later; the standby's kernel log may say more",
    };
    match error.raw_os_error() {
        Some(_) => format!("cannot write {object} on the standby: {error} ({remedy})"),
        // It names the object.
        None => format!("on the standby: {error} ({remedy})"),
    }
}

/// Something on the way is not there, or is no folder.
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// What the primary is told of an error of the disk. Where something on the way is not there, the
/// primary can help.
pub(super) fn refusal(object: &impl Display, error: &io::Error) -> Refusal {
    if is_absence(error) {
        return Refusal::Missing;
    }
    Refusal::Failed(reason(&text(object, error)))
}

// One bound for both.
const _: () = assert!(INLINE_BYTES_MAX == PART_BYTES_MAX);

/// A content that was packed; none when it has not exactly so many bytes, or is no zstd frame.
pub(super) fn unpack(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    if length > PART_BYTES_MAX {
        return None;
    }
    let mut bytes = vec![0; length];
    let unpacked = zstd::bulk::decompress_to_buffer(packed, bytes.as_mut_slice()).ok()?;
    (unpacked == length).then_some(bytes)
}
