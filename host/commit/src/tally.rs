//! What became of the commits: counted, said once on standard error, and written down at the end of
//! the program where `STAFFETTA_COMMIT_STATS` names a file.

use std::ffi::{CString, OsStr, c_int};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::pool::file_status;
use crate::settings::write_to;

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The standby has it.
    Ok,
    /// The pair goes on without the standby.
    Degraded,
    /// The daemon gave up on the standby, or the library on the daemon.
    Timeout,
    /// The daemon cannot say.
    Error,
    /// The daemon cannot be reached.
    Away,
    /// Not asked: the daemon was away or silent a moment ago.
    Skipped,
    /// A fault in this library.
    Panic,
}

const KINDS: [(Kind, &str, &str); 7] = [
    (Kind::Ok, "ok", ""),
    (Kind::Degraded, "degraded", "the pair goes on without the standby: commits do not wait"),
    (Kind::Timeout, "timeout", "no answer in time: commits go on without the standby for a while"),
    (Kind::Error, "error", "the daemon cannot say whether the standby has a commit:"),
    (Kind::Away, "away", "cannot reach the daemon (does staffetta run?): commits do not wait"),
    (Kind::Skipped, "skipped", ""),
    (Kind::Panic, "panic", "a fault in libstaffetta_commit.so: a commit did not wait"),
];

static COUNTS: [AtomicU64; KINDS.len()] = [const { AtomicU64::new(0) }; KINDS.len()];

/// Standard error as it was when the program began, and where the counts go.
struct Streams {
    error: Option<(u64, u64)>,
    counts: Option<CString>,
}

static STREAMS: OnceLock<Streams> = OnceLock::new();

/// Remembers what standard error leads to. A program may close it and open something else under its
/// number: that must never get a warning.
#[cfg_attr(test, expect(dead_code, reason = "only the loaded library has a beginning"))]
pub(crate) fn remember_streams(counts: Option<&OsStr>) {
    let counts = counts.and_then(|path| CString::new(path.as_bytes()).ok());
    let streams = Streams { error: identity(libc::STDERR_FILENO), counts };
    // Once: the library is loaded once.
    let _ = STREAMS.set(streams);
}

/// Counts, and warns when it is the first of its kind.
pub(crate) fn count(kind: Kind) {
    count_because(kind, "");
}

/// Counts, and warns with a reason when it is the first of its kind.
pub(crate) fn count_because(kind: Kind, reason: &str) {
    let found = KINDS.iter().zip(&COUNTS).find(|((other, ..), _)| *other == kind);
    let Some(((_, _, text), count)) = found else { return };
    if count.fetch_add(1, Ordering::Relaxed) == 0 && !text.is_empty() {
        let mut line = [0; 640];
        if let Some(len) = write_to(&mut line, format_args!("{text} {reason}")) {
            warn(line.get(..len).and_then(|line| str::from_utf8(line).ok()).unwrap_or(text).trim());
        }
    }
}

/// One line on standard error, if it is still what it was when the program began.
pub(crate) fn warn(text: &str) {
    let Some(error) = STREAMS.get().and_then(|streams| streams.error) else { return };
    if identity(libc::STDERR_FILENO) != Some(error) {
        return;
    }
    let mut line = [0; 720];
    let Some(len) = write_to(&mut line, format_args!("staffetta-commit: {text}\n")) else { return };
    put(libc::STDERR_FILENO, line.get(..len).unwrap_or_default());
}

/// Appends one line of counts to the file, when it was asked for and any commit was seen.
#[cfg_attr(test, expect(dead_code, reason = "only the loaded library has an end"))]
pub(crate) extern "C" fn write() {
    let [ok, degraded, timeout, error, away, skipped, panic] =
        COUNTS.each_ref().map(|count| count.load(Ordering::Relaxed));
    let path = STREAMS.get().and_then(|streams| streams.counts.as_deref());
    let Some(path) = path else { return };
    if ok + degraded + timeout + error + away + skipped + panic == 0 {
        return;
    }
    let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC;
    // SAFETY: the path is a C string; the mode is for a new file.
    let fd = unsafe { libc::open(path.as_ptr(), flags, 0o644) };
    if fd < 0 {
        return warn("cannot write the file that STAFFETTA_COMMIT_STATS names");
    }
    let mut line = [0; 256];
    let text = format_args!(
        "pid={} ok={ok} degraded={degraded} timeout={timeout} error={error} away={away} \
         skipped={skipped} panic={panic}\n",
        std::process::id()
    );
    if let Some(len) = write_to(&mut line, text) {
        put(fd, line.get(..len).unwrap_or_default());
    }
    // SAFETY: opened above.
    unsafe { libc::close(fd) };
}

fn identity(fd: c_int) -> Option<(u64, u64)> {
    file_status(fd).map(|status| (status.st_dev, status.st_ino))
}

/// One write: a line that does not go out whole is no reason to wait.
fn put(fd: c_int, bytes: &[u8]) {
    // SAFETY: the slice is live. Whether anybody reads it makes no difference to the program.
    let _ = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}
