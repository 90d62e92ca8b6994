//! One commit asks the daemon and waits.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use staffetta_barrier::{ANSWER_BYTES_MAX, Answer};

use crate::pool::{self, Socket};
use crate::settings::{DatabasePath, Settings};
use crate::tally::{self, Kind};
use crate::watch::System;

/// How long nobody tries again after the daemon could not be reached. Trying costs some 10 µs.
const AWAY_BACKOFF_MS: u64 = 100;
/// How long commits do not ask after the daemon was silent: each would wait for the whole timeout.
const SILENT_BACKOFF_MS: u64 = 2_000;
/// New connections for one commit: the daemon may restart in the middle, once.
const CONNECTS_MAX: usize = 2;
/// Sockets go here and above, out of the way of programs that count on low numbers.
const DESCRIPTOR_MIN: c_int = 512;

/// Until when nobody asks, in milliseconds of the monotonic clock; 0: ask.
static RESUME_MS: AtomicU64 = AtomicU64::new(0);

/// A commit to the database whose WAL-index is open on `fd` has ended: waits for the standby, for
/// as long as the settings say.
pub(crate) fn after_commit(settings: &Settings, system: System, fd: c_int) {
    if now_ms() < RESUME_MS.load(Ordering::Relaxed) {
        return tally::count(Kind::Skipped);
    }
    // The name that it has now: a database may be renamed while it is open.
    let Some(mut database) = DatabasePath::of_index(fd) else {
        return tally::count_because(Kind::Error, "its WAL-index is no longer under its name");
    };
    let mut buffer = [0; ANSWER_BYTES_MAX];
    let end = settings.timeout.map(|timeout| Instant::now() + timeout);
    match ask(settings, system, database.question(), &mut buffer, end) {
        Ok(Answer::Ok { .. }) => tally::count(Kind::Ok),
        Ok(Answer::Degraded { reason }) => tally::count_because(Kind::Degraded, reason),
        Ok(Answer::Timeout { .. }) => tally::count(Kind::Timeout),
        Ok(Answer::Error { text }) => tally::count_because(Kind::Error, text),
        Err(Failure::Away) => {
            back_off(AWAY_BACKOFF_MS);
            tally::count(Kind::Away);
        }
        Err(Failure::Silent) => {
            back_off(SILENT_BACKOFF_MS);
            tally::count(Kind::Timeout);
        }
    }
}

/// Why there is no answer.
enum Failure {
    /// Nobody listens, or the connection broke again and again.
    Away,
    /// The time is over.
    Silent,
}

/// What became of one connection.
enum Broken {
    /// It is dead, as after a restart of the daemon.
    Closed,
    Silent,
}

fn ask<'a>(
    settings: &Settings,
    system: System,
    question: &[u8],
    buffer: &'a mut [u8; ANSWER_BYTES_MAX],
    end: Option<Instant>,
) -> Result<Answer<'a>, Failure> {
    let mut connects = 0;
    let len = loop {
        let socket = match pool::get() {
            Some(socket) => socket,
            None if connects < CONNECTS_MAX => {
                connects += 1;
                connect(settings, system, end)?
            }
            None => return Err(Failure::Away),
        };
        match ask_on(&socket, question, buffer, end) {
            Ok(len) => {
                pool::put(socket);
                break len;
            }
            Err(Broken::Closed) => {}
            // The connection still owes an answer: it is closed, or the next one would get it.
            Err(Broken::Silent) => return Err(Failure::Silent),
        }
    };
    let line = buffer.get(..len).unwrap_or_default();
    Ok(Answer::parse(line).unwrap_or(Answer::Error { text: "its answer is none of the protocol" }))
}

/// Sends the question and reads one line; its length.
fn ask_on(
    socket: &Socket,
    question: &[u8],
    buffer: &mut [u8],
    end: Option<Instant>,
) -> Result<usize, Broken> {
    let mut rest = question;
    while !rest.is_empty() {
        ready(socket, libc::POLLOUT, end)?;
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the slice is live.
        let sent = unsafe { libc::send(socket.fd(), rest.as_ptr().cast(), rest.len(), flags) };
        rest = rest.get(progress(sent)?..).unwrap_or_default();
    }
    let mut filled = 0;
    loop {
        ready(socket, libc::POLLIN, end)?;
        let room = buffer.get_mut(filled..).unwrap_or_default();
        if room.is_empty() {
            return Err(Broken::Closed);
        }
        let into = room.as_mut_ptr().cast();
        // SAFETY: the slice is live and as long as said.
        let got = unsafe { libc::recv(socket.fd(), into, room.len(), libc::MSG_DONTWAIT) };
        if got == 0 {
            return Err(Broken::Closed);
        }
        filled += progress(got)?;
        // One question, one answer: nothing follows its line break.
        if filled > 0 && buffer.get(filled - 1) == Some(&b'\n') {
            return Ok(filled);
        }
    }
}

/// Bytes moved; none when the call was interrupted or has to wait after all.
fn progress(moved: isize) -> Result<usize, Broken> {
    if let Ok(moved) = usize::try_from(moved) {
        return Ok(moved);
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::EINTR | libc::EAGAIN) => Ok(0),
        _ => Err(Broken::Closed),
    }
}

/// Waits until the socket can be used.
fn ready(socket: &Socket, events: libc::c_short, end: Option<Instant>) -> Result<(), Broken> {
    loop {
        let left = left_ms(end);
        if left == Some(0) {
            return Err(Broken::Silent);
        }
        let mut poll = libc::pollfd { fd: socket.fd(), events, revents: 0 };
        // SAFETY: one entry, which outlives the call. Signals only make it look at the clock again.
        let count = unsafe { libc::poll(&raw mut poll, 1, left.unwrap_or(-1)) };
        if count > 0 {
            return Ok(());
        }
        let was_interrupted = std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR);
        if count < 0 && !was_interrupted {
            return Err(Broken::Closed);
        }
    }
}

fn connect(settings: &Settings, system: System, end: Option<Instant>) -> Result<Socket, Failure> {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(Failure::Away);
    }
    let socket = lifted(Socket::new(fd), system);
    // Where the daemon is frozen and its queue full, connect waits as sending does (unix(7)).
    let left = left_ms(end).map_or(0, i64::from);
    let limit = libc::timeval { tv_sec: left / 1_000, tv_usec: left % 1_000 * 1_000 };
    let size = socklen(size_of_val(&limit));
    // SAFETY: the structure outlives the call and is as long as said. A limit that cannot be set is
    // none, which connect below does not mind.
    let _ = unsafe {
        let limit = (&raw const limit).cast();
        libc::setsockopt(socket.fd(), libc::SOL_SOCKET, libc::SO_SNDTIMEO, limit, size)
    };
    let address = address(&settings.socket);
    loop {
        let size = socklen(size_of_val(&address));
        // SAFETY: the address outlives the call and is as long as said.
        if unsafe { libc::connect(socket.fd(), (&raw const address).cast(), size) } == 0 {
            return Ok(socket);
        }
        match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EINTR) if left_ms(end) != Some(0) => {}
            Some(libc::EINTR | libc::EAGAIN) => return Err(Failure::Silent),
            _ => return Err(Failure::Away),
        }
    }
}

/// The same socket under a high number, where there is room for it.
fn lifted(low: Socket, system: System) -> Socket {
    let least = DESCRIPTOR_MIN as usize as *mut c_void;
    let high = system(low.fd(), libc::F_DUPFD_CLOEXEC, least);
    if high < 0 { low } else { Socket::new(high) }
}

fn address(path: &[u8]) -> libc::sockaddr_un {
    let family = libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or_default();
    let mut address = libc::sockaddr_un { sun_family: family, sun_path: [0; _] };
    // The last byte stays 0: settings refuse longer paths.
    for (to, from) in address.sun_path.iter_mut().zip(path) {
        *to = *from as libc::c_char;
    }
    address
}

fn socklen(bytes: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(bytes).unwrap_or_default()
}

/// Whole milliseconds that are left, rounded up; none: no end.
fn left_ms(end: Option<Instant>) -> Option<c_int> {
    let left = end?.saturating_duration_since(Instant::now());
    Some(c_int::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX))
}

fn back_off(ms: u64) {
    RESUME_MS.store(now_ms() + ms, Ordering::Relaxed);
}

/// The monotonic clock as a number, which an `Instant` does not show.
fn now_ms() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure outlives the call. Where the clock fails it stays 0, and all may ask.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000 + now.tv_nsec.cast_unsigned() / 1_000_000
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_left_is_rounded_up_and_ends_at_zero() {
        assert_eq!(left_ms(None), None);
        assert_eq!(left_ms(Some(Instant::now())), Some(0));
        let soon = left_ms(Some(Instant::now() + Duration::from_micros(5_500)));
        assert!(soon.is_some_and(|left| (1..=6).contains(&left)), "{soon:?}");
    }
}
