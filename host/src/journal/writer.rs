//! The thread that owns the file: takes messages in batches, keeps the cap, survives every trouble
//! of the disk.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use super::handle::{Message, Shared};
use super::record::{DecisionRecord, EventLevel, EventRecord};
use super::{JournalError, QUEUE_BYTES_MAX, QUEUE_MESSAGES_MAX, RETRY_MS, store};
use crate::api::status::{Alarm, Spoke};

/// Messages written in one transaction at most.
const BATCH_MESSAGES_MAX: usize = 64;
/// Bytes of a page: SQLite's default.
const PAGE_BYTES: u64 = 4096;
/// Share of the cap that the write-ahead log may take, as a divisor, and its upper bound.
const LOG_SHARE: u64 = 4;
const LOG_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Pages that a row may take beyond its texts.
const PAGES_PER_ROW: u64 = 2;
/// Rounds of trimming before one batch.
const TRIM_ROUNDS_MAX: u32 = 64;

pub(super) struct Writer {
    shared: Arc<Shared>,
    pages_max: u64,
    db: Option<Connection>,
    /// What could not be written yet, oldest first.
    backlog: VecDeque<Waiting>,
    backlog_bytes: usize,
    /// Last decision of each policy kind, to count equal ones.
    last: HashMap<String, (Key, i64)>,
    next_id: i64,
}

/// A message on its way to the disk; decisions already have their number.
enum Waiting {
    NewDecision(i64, Box<DecisionRecord>),
    SameDecision(i64, Box<DecisionRecord>),
    Other(Message),
}

impl Waiting {
    fn text_bytes(&self) -> usize {
        match self {
            Waiting::NewDecision(_, record) | Waiting::SameDecision(_, record) => {
                record.text_bytes()
            }
            Waiting::Other(message) => message.text_bytes(),
        }
    }
}

/// Two decisions are equal when these are: ages inside the situation do not count.
#[derive(PartialEq, Eq)]
struct Key {
    question: String,
    intent: String,
    reason: String,
    spoke: Spoke,
    digest: String,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, bytes_max: u64) -> Writer {
        let log = (bytes_max / LOG_SHARE).min(LOG_BYTES_MAX);
        let pages_max = ((bytes_max - log) / PAGE_BYTES).max(16);
        Writer {
            shared,
            pages_max,
            db: None,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            last: HashMap::new(),
            next_id: 1,
        }
    }

    /// Runs until told to close or until the last handle is gone.
    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        self.write_backlog();
        loop {
            // With a backlog the wait is the pause between two attempts.
            let wait = if self.backlog.is_empty() { Duration::MAX } else { RETRY };
            let first = match messages.recv_timeout(wait) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return self.finish(),
            };
            let mut waiters = Vec::new();
            let mut closing = false;
            for message in first.into_iter().chain(messages.try_iter().take(BATCH_MESSAGES_MAX)) {
                match message {
                    Message::Flush(done) => waiters.push(done),
                    Message::Close => closing = true,
                    other => self.take(other),
                }
            }
            self.write_backlog();
            for done in waiters {
                answer(&done);
            }
            if closing {
                return self.finish();
            }
        }
    }

    /// Numbers a decision, or finds that it equals the last one, and puts the message on the
    /// backlog.
    fn take(&mut self, message: Message) {
        let bytes = message.text_bytes();
        self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        let full = self.backlog.len() >= QUEUE_MESSAGES_MAX
            || self.backlog_bytes.saturating_add(bytes) > QUEUE_BYTES_MAX;
        let waiting = match message {
            Message::Decision(record) => self.number(record),
            other => Waiting::Other(other),
        };
        if full {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.backlog_bytes += bytes;
        self.backlog.push_back(waiting);
    }

    fn number(&mut self, record: Box<DecisionRecord>) -> Waiting {
        let key = Key {
            question: record.question.clone(),
            intent: record.intent.clone(),
            reason: record.reason.clone(),
            spoke: record.spoke,
            digest: record.digest.clone(),
        };
        let same = match self.last.get(&record.kind) {
            Some((last, id)) if *last == key => Some(*id),
            Some(_) | None => None,
        };
        let id = same.unwrap_or(self.next_id);
        self.shared.show_decision(id, &record);
        if same.is_some() {
            return Waiting::SameDecision(id, record);
        }
        self.next_id += 1;
        self.last.insert(record.kind.clone(), (key, id));
        Waiting::NewDecision(id, record)
    }

    fn write_backlog(&mut self) {
        let result = self.connect().and_then(|()| self.write_all());
        match result {
            Ok(()) => self.set_trouble(None),
            Err(error) => {
                if error.is_broken_file() {
                    self.replace_file(&error);
                } else {
                    self.set_trouble(Some(&error));
                }
            }
        }
    }

    /// Opens the file when it is not open; goes on numbering where it ends.
    fn connect(&mut self) -> Result<(), JournalError> {
        if self.db.is_some() {
            return Ok(());
        }
        let db = store::open(&self.shared.path, self.pages_max)?;
        let last = store::last_decision_id(&db)
            .map_err(|e| JournalError::sqlite(&self.shared.path, "read it", e))?;
        if last >= self.next_id {
            self.renumber(last + 1 - self.next_id);
        }
        self.db = Some(db);
        Ok(())
    }

    /// Moves the numbers given before the file could be read behind those in the file.
    fn renumber(&mut self, by: i64) {
        self.next_id += by;
        for (_, id) in self.last.values_mut() {
            *id += by;
        }
        for waiting in &mut self.backlog {
            match waiting {
                Waiting::NewDecision(id, _) | Waiting::SameDecision(id, _) => *id += by,
                Waiting::Other(_) => {}
            }
        }
        let mut recent = self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner);
        for line in recent.iter_mut() {
            line.id += by;
        }
    }

    fn write_all(&mut self) -> Result<(), JournalError> {
        while !self.backlog.is_empty() {
            let count = self.backlog.len().min(BATCH_MESSAGES_MAX);
            self.make_room(count)?;
            self.write_batch(count)?;
            let written: usize = self.backlog.drain(..count).map(|w| w.text_bytes()).sum();
            self.backlog_bytes = self.backlog_bytes.saturating_sub(written);
        }
        Ok(())
    }

    fn write_batch(&self, count: usize) -> Result<(), JournalError> {
        let path = &self.shared.path;
        let Some(db) = &self.db else { return Ok(()) };
        let write = || -> rusqlite::Result<()> {
            let transaction = db.unchecked_transaction()?;
            for waiting in self.backlog.iter().take(count) {
                write_one(db, waiting)?;
            }
            transaction.commit()
        };
        write().map_err(|source| JournalError::sqlite(path, "write to it", source))
    }

    /// Deletes the oldest rows until the next `count` messages fit below the cap. A disk that is
    /// full for other reasons costs no history: that error stands until someone frees space.
    fn make_room(&self, count: usize) -> Result<(), JournalError> {
        let Some(db) = &self.db else { return Ok(()) };
        let bytes: usize = self.backlog.iter().take(count).map(Waiting::text_bytes).sum();
        let coming = (bytes as u64).div_ceil(PAGE_BYTES) + count as u64 * PAGES_PER_ROW;
        let target = (self.pages_max - self.pages_max / 10).saturating_sub(coming);
        let room = || -> rusqlite::Result<()> {
            for _ in 0..TRIM_ROUNDS_MAX {
                if store::pages_used(db)? <= target || store::trim(db)? == 0 {
                    break;
                }
            }
            Ok(())
        };
        room().map_err(|source| JournalError::sqlite(&self.shared.path, "delete old rows", source))
    }

    /// Puts the broken file aside and begins a new one, with an event that says so.
    fn replace_file(&mut self, why: &JournalError) {
        self.db = None;
        let begun = store::move_aside(&self.shared.path).and_then(|aside| {
            self.connect()?;
            Ok(aside)
        });
        match begun {
            Ok(aside) => {
                let text = format!("{why}; kept as {}, a new journal begins", aside.display());
                let path = self.shared.path.display();
                tracing::warn!(%path, aside = %aside.display(), "journal replaced");
                *self.shared.replaced.lock().unwrap_or_else(PoisonError::into_inner) = Some(aside);
                let event = EventRecord::now(EventLevel::Warn, "journal-replaced", text);
                self.backlog.push_front(Waiting::Other(Message::Event(event)));
                self.last.clear();
                if let Err(error) = self.write_all() {
                    self.set_trouble(Some(&error));
                } else {
                    self.set_trouble(None);
                }
            }
            Err(error) => self.set_trouble(Some(&error)),
        }
    }

    fn set_trouble(&self, error: Option<&JournalError>) {
        let alarm = error.map(|error| Alarm {
            name: if error.is_full() { "journal-disk-full" } else { "journal-failing" }.to_owned(),
            text: error.to_string(),
        });
        let mut trouble = self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        // One line for each change, not one for each attempt.
        match (&*trouble, &alarm) {
            (None, Some(new)) => tracing::error!(error = new.text, "journal cannot be written"),
            (Some(_), None) => tracing::info!("journal is written again"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        *trouble = alarm;
    }

    fn finish(mut self) {
        self.write_backlog();
    }
}

const RETRY: Duration = Duration::from_millis(RETRY_MS);

fn answer(done: &SyncSender<()>) {
    // The one who asked may have lost patience.
    let _ = done.try_send(());
}

fn write_one(db: &Connection, waiting: &Waiting) -> rusqlite::Result<()> {
    match waiting {
        Waiting::NewDecision(id, record) => store::add_decision(db, *id, record),
        Waiting::SameDecision(id, record) => {
            // The row may have been trimmed away meanwhile.
            if store::count_decision(db, *id, record.at_unix_ms)? {
                return Ok(());
            }
            store::add_decision(db, *id, record)
        }
        Waiting::Other(Message::Transition(record)) => store::add_transition(db, record),
        Waiting::Other(Message::Event(record)) => store::add_event(db, record),
        Waiting::Other(Message::LinkMinute(record)) => store::add_link_minute(db, record),
        Waiting::Other(Message::Decision(_) | Message::Flush(_) | Message::Close) => Ok(()),
    }
}
