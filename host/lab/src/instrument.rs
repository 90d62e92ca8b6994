//! What the instruments have in common: a thread that stops when its owner goes, and the list of
//! answers.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::enter::prefer;
use crate::lab::Node;

/// How long an instrument waits for a packet before it looks whether it should stop, in
/// milliseconds.
pub(crate) const PATIENCE_MS: u64 = 100;
/// A silence that begins this much before the fault belongs to it: the last answer came a moment
/// earlier.
const LEAD_MS: u64 = 50;

/// A thread that runs at real-time priority where allowed, until it is dropped.
pub(crate) struct Worker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(crate) fn start(
        name: &str,
        body: impl FnOnce(&AtomicBool) + Send + 'static,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                prefer();
                body(&flag);
            })
            .with_context(|| format!("cannot start the thread {name}"))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of an instrument was printed by the panic hook.
            let _ = thread.join();
        }
    }
}

/// Waits until a descriptor can be read, with the grain of a high-resolution timer (a socket's own
/// timeout has that of the scheduler's tick).
pub(crate) fn readable(fd: RawFd, wait: Duration) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let seconds = i64::try_from(wait.as_secs()).unwrap_or(i64::MAX);
    let wait = libc::timespec { tv_sec: seconds, tv_nsec: i64::from(wait.subsec_nanos()) };
    // SAFETY: one pollfd and one timespec, both live for the call; no signal mask.
    unsafe { libc::ppoll(&raw mut poll, 1, &raw const wait, std::ptr::null()) > 0 }
}

/// One answer to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// When the client had it.
    pub at: Instant,
    /// The node that gave it.
    pub node: Node,
}

/// The answers that a client got, in order of arrival.
#[derive(Clone, Debug, Default)]
pub struct Answers(Arc<Mutex<Vec<Answer>>>);

impl Answers {
    /// Notes an answer.
    pub fn push(&self, answer: Answer) {
        self.0.lock().expect("no panic under this lock").push(answer);
    }

    /// The answers in `from..to`.
    #[must_use]
    pub fn between(&self, from: Instant, to: Instant) -> Vec<Answer> {
        let all = self.0.lock().expect("no panic under this lock");
        let first = all.partition_point(|answer| answer.at < from);
        all[first..].iter().take_while(|answer| answer.at < to).copied().collect()
    }

    /// The newest answer.
    #[must_use]
    pub fn last(&self) -> Option<Answer> {
        self.0.lock().expect("no panic under this lock").last().copied()
    }

    /// How many answers each node gave in `from..to`.
    #[must_use]
    pub fn count(&self, from: Instant, to: Instant) -> [u64; 2] {
        let mut count = [0; 2];
        for answer in self.between(from, to) {
            count[answer.node.index()] += 1;
        }
        count
    }

    /// The longest time without an answer that began in `from..to`, still open at `to` or not. The
    /// moment just before
    /// `from` counts: the last answer before a fault came a little earlier.
    #[must_use]
    pub fn longest_silence(&self, from: Instant, to: Instant) -> Duration {
        let lead = Duration::from_millis(LEAD_MS);
        let begin = from.checked_sub(lead).unwrap_or(from);
        let mut last = None;
        let mut longest = Duration::ZERO;
        for at in self.between(begin, to).into_iter().map(|answer| answer.at).chain([to]) {
            longest = longest.max(at - last.unwrap_or(from.min(at)));
            last = Some(at);
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers at these milliseconds; the longest silence of the window in milliseconds.
    fn check(answers: &[u64], window: (u64, u64), expect: u64) {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let list = Answers::default();
        for ms in answers {
            list.push(Answer { at: at(*ms), node: Node::A });
        }
        let silence = list.longest_silence(at(window.0), at(window.1));
        assert_eq!(silence, Duration::from_millis(expect), "{answers:?} in {window:?}");
    }

    #[test]
    fn silences() {
        check(&[], (100, 200), 100);
        check(&[90, 110, 150], (100, 200), 50);
        check(&[60, 200, 210], (100, 220), 140);
        check(&[10, 200, 210], (100, 220), 100);
        check(&[100, 120], (100, 500), 380);
    }
}
