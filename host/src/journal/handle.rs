//! The side of the senders and readers.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::record::{DecisionRecord, EventRecord, HistoryLine, LinkMinute, StoredDecision};
use super::record::{TransitionRecord, rfc3339};
use super::{JournalError, QUEUE_BYTES_MAX, QUEUE_MESSAGES_MAX, RECENT_DECISIONS_MAX};
use super::{store, writer};
use crate::api::status::{Alarm, DecisionLine};

/// Pause between two attempts to get a flush onto a full queue.
const FLUSH_STEP: Duration = Duration::from_millis(5);

/// The journal of one daemon: owns the thread that writes.
#[derive(Debug)]
pub struct Journal {
    handle: JournalHandle,
    thread: Option<JoinHandle<()>>,
}

/// Sends to and reads from the journal. Cheap to clone; no call waits for the disk except the
/// reading ones.
#[derive(Debug, Clone)]
pub struct JournalHandle {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

/// What the writer and the handles have in common.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) path: PathBuf,
    /// Bytes of text on the queue.
    pub(super) queued_bytes: AtomicUsize,
    /// Records that were lost because the queue or the backlog was full.
    pub(super) dropped: AtomicU64,
    /// The present trouble, in words; none when the last write succeeded.
    pub(super) trouble: Mutex<Option<Alarm>>,
    /// Where a broken file went; stays for the life of the daemon.
    pub(super) replaced: Mutex<Option<PathBuf>>,
    /// The last decisions, newest first.
    pub(super) recent: Mutex<VecDeque<DecisionLine>>,
}

/// What travels to the writer.
#[derive(Debug)]
pub(super) enum Message {
    Decision(Box<DecisionRecord>),
    Transition(TransitionRecord),
    Event(EventRecord),
    LinkMinute(LinkMinute),
    /// Answer when everything before this one is on disk or given up.
    Flush(SyncSender<()>),
    Close,
}

impl Journal {
    /// Starts the writer; the file is opened, and if need be replaced, on its thread, so that a
    /// slow or full disk delays nobody. `bytes_max` is the cap of file and write-ahead log
    /// together.
    ///
    /// # Errors
    /// Only when the thread cannot be started. Trouble with the file is an alarm: see
    /// [`JournalHandle::alarms`].
    pub fn open(path: &Path, bytes_max: u64) -> Result<Journal, JournalError> {
        let shared = Arc::new(Shared { path: path.to_owned(), ..Shared::default() });
        let (queue, messages) = sync_channel(QUEUE_MESSAGES_MAX);
        let writer = writer::Writer::new(Arc::clone(&shared), bytes_max);
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .stack_size(512 * 1024)
            .spawn(move || writer.run(&messages))
            .map_err(|source| JournalError::Io {
                path: path.to_owned(),
                action: "start the journal's thread",
                source,
            })?;
        Ok(Journal { handle: JournalHandle { queue, shared }, thread: Some(thread) })
    }

    /// A handle to send and read with.
    #[must_use]
    pub fn handle(&self) -> JournalHandle {
        self.handle.clone()
    }

    /// Writes what is queued, as far as the disk allows within `patience`, and ends the thread.
    pub fn close(mut self, patience: Duration) {
        let flushed = self.handle.flush(patience);
        let told = self.handle.queue.try_send(Message::Close).is_ok();
        if let (true, true, Some(thread)) = (flushed, told, self.thread.take()) {
            // A panic of the writer was reported by the hook already.
            let _ = thread.join();
        }
    }
}

impl JournalHandle {
    /// Records a decision; equal consecutive ones are counted in one row.
    pub fn decision(&self, record: DecisionRecord) {
        self.send(Message::Decision(Box::new(record)));
    }

    /// Records a change of role.
    pub fn transition(&self, record: TransitionRecord) {
        self.send(Message::Transition(record));
    }

    /// Records an event.
    pub fn event(&self, record: EventRecord) {
        self.send(Message::Event(record));
    }

    /// Records a minute of a link.
    pub fn link_minute(&self, record: LinkMinute) {
        self.send(Message::LinkMinute(record));
    }

    /// The last decisions, newest first, from memory.
    #[must_use]
    pub fn recent(&self) -> Vec<DecisionLine> {
        let recent = self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().cloned().collect()
    }

    /// Records lost so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// What someone should look at: a disk that is full or fails, a file that was replaced, records
    /// that were lost.
    #[must_use]
    pub fn alarms(&self) -> Vec<Alarm> {
        let shared = &self.shared;
        let mut alarms = Vec::new();
        alarms.extend(shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let replaced = shared.replaced.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(aside) = replaced {
            alarms.push(Alarm {
                name: "journal-replaced".to_owned(),
                text: format!(
                    "journal {} was unreadable and began anew; the old one is kept as {}",
                    shared.path.display(),
                    aside.display()
                ),
            });
        }
        let dropped = self.dropped();
        if dropped > 0 {
            alarms.push(Alarm {
                name: "journal-records-lost".to_owned(),
                text: format!(
                    "journal {}: {dropped} records were lost since the start because the disk was \
                     too slow or \
                     full (free space, or move node.state_dir to a faster disk)",
                    shared.path.display()
                ),
            });
        }
        alarms
    }

    /// Waits until everything sent so far is on disk or given up; false when `patience` ended
    /// first.
    #[must_use]
    pub fn flush(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let (done, finished) = sync_channel(1);
        let mut message = Message::Flush(done);
        loop {
            match self.queue.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if Instant::now() < until => message = back,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return false,
            }
            std::thread::sleep(FLUSH_STEP);
        }
        finished.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok()
    }

    /// Up to `limit` decisions, newest first. Waits for the disk.
    ///
    /// # Errors
    /// When the file is there but cannot be read.
    pub fn decisions(&self, limit: u32) -> Result<Vec<StoredDecision>, JournalError> {
        store::read(&self.shared.path, |db| store::decisions(db, limit))
    }

    /// One decision by its number. Waits for the disk.
    ///
    /// # Errors
    /// When the file is there but cannot be read.
    pub fn decision_by_id(&self, id: i64) -> Result<Option<StoredDecision>, JournalError> {
        let found = store::read(&self.shared.path, |db| store::decision_by_id(db, id))?;
        Ok(found.into_iter().next())
    }

    /// Up to `limit` events, newest first. Waits for the disk.
    ///
    /// # Errors
    /// When the file is there but cannot be read.
    pub fn events(&self, limit: u32) -> Result<Vec<EventRecord>, JournalError> {
        store::read(&self.shared.path, |db| store::events(db, limit))
    }

    /// Up to `limit` changes of role, newest first. Waits for the disk.
    ///
    /// # Errors
    /// When the file is there but cannot be read.
    pub fn transitions(&self, limit: u32) -> Result<Vec<TransitionRecord>, JournalError> {
        store::read(&self.shared.path, |db| store::transitions(db, limit))
    }

    /// Up to `limit` minutes of links, newest first. Waits for the disk.
    ///
    /// # Errors
    /// When the file is there but cannot be read.
    pub fn link_minutes(&self, limit: u32) -> Result<Vec<LinkMinute>, JournalError> {
        store::read(&self.shared.path, |db| store::link_minutes(db, limit))
    }

    /// Up to `limit` changes of role and events, newest first. Waits for the disk.
    ///
    /// # Errors
    /// When the file is there but cannot be read.
    pub fn history(&self, limit: u32) -> Result<Vec<HistoryLine>, JournalError> {
        let mut lines: Vec<HistoryLine> =
            self.transitions(limit)?.into_iter().map(HistoryLine::Transition).collect();
        lines.extend(self.events(limit)?.into_iter().map(HistoryLine::Event));
        lines.sort_by_key(|line| std::cmp::Reverse(line.at_unix_ms()));
        lines.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(lines)
    }

    fn send(&self, message: Message) {
        let bytes = message.text_bytes();
        let queued = self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = queued.saturating_add(bytes) <= QUEUE_BYTES_MAX;
        let sent = fits
            && match self.queue.try_send(message) {
                Ok(()) => true,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
            };
        if !sent {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Message {
    /// Bytes of the variable part, near enough to bound the queue's memory.
    pub(super) fn text_bytes(&self) -> usize {
        match self {
            Message::Decision(record) => record.text_bytes(),
            Message::Transition(t) => t.why.len(),
            Message::Event(e) => e.text.len() + e.fields.len() * 64,
            Message::LinkMinute(_) | Message::Flush(_) | Message::Close => 0,
        }
    }
}

impl Shared {
    /// Shows a decision in `status`, whether or not the disk takes it.
    pub(super) fn show_decision(&self, id: i64, record: &DecisionRecord) {
        let line = DecisionLine {
            id,
            at: rfc3339(record.at_unix_ms),
            question: record.question.clone(),
            intent: record.intent.clone(),
            reason: record.reason.clone(),
            spoke: record.spoke,
            fuel: record.fuel,
            cpu_us: record.cpu_us,
        };
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.front().is_some_and(|front| front.id == id) {
            recent.pop_front();
        }
        recent.push_front(line);
        recent.truncate(RECENT_DECISIONS_MAX);
    }
}
