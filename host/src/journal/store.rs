//! The tables, and every statement that touches them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::Type;
use rusqlite::{Connection, OpenFlags, Row, params};

use super::record::{
    DecisionRecord, EventLevel, EventRecord, LinkMinute, StoredDecision, TransitionRecord,
};
use super::{BUSY_MS, CACHE_KIB, JournalError, ROWS_READ_MAX};
use crate::api::status::Spoke;

/// Number of the layout below, kept in `user_version`.
pub(super) const LAYOUT: i64 = 2;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS decisions (
  id INTEGER PRIMARY KEY, first_at INTEGER NOT NULL, last_at INTEGER NOT NULL,
  count INTEGER NOT NULL, kind TEXT NOT NULL, question TEXT NOT NULL, intent TEXT NOT NULL,
  reason TEXT NOT NULL, spoke TEXT NOT NULL, situation TEXT NOT NULL, settings TEXT NOT NULL,
  memory TEXT, verdict TEXT NOT NULL, digest TEXT NOT NULL, engine TEXT NOT NULL,
  fuel INTEGER NOT NULL, cpu_us INTEGER NOT NULL, notes TEXT NOT NULL, attempts TEXT NOT NULL,
  wall TEXT NOT NULL DEFAULT 'null');
CREATE TABLE IF NOT EXISTS transitions (
  id INTEGER PRIMARY KEY, at INTEGER NOT NULL, epoch INTEGER NOT NULL, role_from TEXT NOT NULL,
  role_to TEXT NOT NULL, why TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (
  id INTEGER PRIMARY KEY, at INTEGER NOT NULL, level TEXT NOT NULL, name TEXT NOT NULL,
  text TEXT NOT NULL, fields TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS link_minutes (
  id INTEGER PRIMARY KEY, at INTEGER NOT NULL, link TEXT NOT NULL, sent INTEGER NOT NULL,
  received INTEGER NOT NULL, loss_permille INTEGER NOT NULL, rtt_us_p50 INTEGER,
  rtt_us_max INTEGER);
";

const DECISION_COLUMNS: &str = "id, first_at, last_at, count, kind, question, intent, reason, \
                                spoke, situation, settings, memory, verdict, digest, engine, \
                                fuel, cpu_us, notes, attempts, wall";

/// Opens the file for writing and makes the tables. A file of another layout is reported as not
/// ours.
pub(super) fn open(path: &Path, pages_max: u64) -> Result<Connection, JournalError> {
    let fail = |source| JournalError::sqlite(path, "open it", source);
    let db = Connection::open(path).map_err(fail)?;
    db.busy_timeout(Duration::from_millis(BUSY_MS)).map_err(fail)?;
    let layout = layout(&db).map_err(fail)?;
    if layout == 1 {
        // Layout 1 kept no wall time.
        db.execute_batch("ALTER TABLE decisions ADD COLUMN wall TEXT NOT NULL DEFAULT 'null'")
            .map_err(fail)?;
    } else if layout != 0 && layout != LAYOUT {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB);
        let text = format!("layout {layout} is of another version of Staffetta");
        return Err(fail(rusqlite::Error::SqliteFailure(code, Some(text))));
    }
    let pragmas = format!(
        "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
         PRAGMA cache_size = -{CACHE_KIB}; PRAGMA wal_autocheckpoint = 256;
         PRAGMA journal_size_limit = 1048576; PRAGMA max_page_count = {pages_max};"
    );
    db.execute_batch(&pragmas).map_err(fail)?;
    db.execute_batch(TABLES).map_err(fail)?;
    db.pragma_update(None, "user_version", LAYOUT).map_err(fail)?;
    Ok(db)
}

/// Number of a file's layout; 0 for a file that is not ours, or new.
pub(super) fn layout(db: &Connection) -> rusqlite::Result<i64> {
    db.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Moves an unusable file, with its log, to the first free `.broken-N`.
pub(super) fn move_aside(path: &Path) -> Result<PathBuf, JournalError> {
    let fail = |source| JournalError::Io { path: path.to_owned(), action: "move it aside", source };
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let number = (1u32..).find(|n| !beside(&format!(".broken-{n}")).exists()).unwrap_or(1);
    let aside = beside(&format!(".broken-{number}"));
    std::fs::rename(path, &aside).map_err(fail)?;
    for log in ["-wal", "-shm"] {
        // Usually there is none: SQLite removes them when the last connection closes.
        let _ = std::fs::rename(beside(log), beside(&format!(".broken-{number}{log}")));
    }
    Ok(aside)
}

/// The highest number of a decision so far.
pub(super) fn last_decision_id(db: &Connection) -> rusqlite::Result<i64> {
    db.query_row("SELECT coalesce(max(id), 0) FROM decisions", [], |row| row.get(0))
}

/// Adds one decision under `id`.
pub(super) fn add_decision(db: &Connection, id: i64, d: &DecisionRecord) -> rusqlite::Result<()> {
    let lines = |list: &[String]| serde_json::Value::from(list).to_string();
    let mut add = db.prepare(
        "INSERT OR REPLACE INTO decisions
         VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    add.execute(params![
        id,
        d.at_unix_ms,
        d.at_unix_ms,
        d.kind,
        d.question,
        d.intent,
        d.reason,
        d.spoke.as_str(),
        d.situation,
        d.settings,
        d.memory,
        d.verdict,
        d.digest,
        d.engine,
        signed(d.fuel),
        signed(d.cpu_us),
        lines(&d.notes),
        lines(&d.attempts),
        d.wall,
    ])?;
    Ok(())
}

/// Counts one more decision equal to the one under `id`; false when that row is gone.
pub(super) fn count_decision(db: &Connection, id: i64, at_unix_ms: i64) -> rusqlite::Result<bool> {
    let sql = "UPDATE decisions SET count = count + 1, last_at = ? WHERE id = ?";
    Ok(db.prepare(sql)?.execute(params![at_unix_ms, id])? == 1)
}

pub(super) fn add_transition(db: &Connection, t: &TransitionRecord) -> rusqlite::Result<()> {
    let sql = "INSERT INTO transitions (at, epoch, role_from, role_to, why) VALUES (?, ?, ?, ?, ?)";
    db.prepare(sql)?.execute(params![t.at_unix_ms, signed(t.epoch), t.from, t.to, t.why])?;
    Ok(())
}

pub(super) fn add_event(db: &Connection, e: &EventRecord) -> rusqlite::Result<()> {
    let fields = serde_json::Value::Object(e.fields.clone()).to_string();
    let sql = "INSERT INTO events (at, level, name, text, fields) VALUES (?, ?, ?, ?, ?)";
    let row = params![e.at_unix_ms, e.level.as_str(), e.name, e.text, fields];
    db.prepare(sql)?.execute(row)?;
    Ok(())
}

pub(super) fn add_link_minute(db: &Connection, m: &LinkMinute) -> rusqlite::Result<()> {
    let sql =
        "INSERT INTO link_minutes (at, link, sent, received, loss_permille, rtt_us_p50, rtt_us_max)
               VALUES (?, ?, ?, ?, ?, ?, ?)";
    db.prepare(sql)?.execute(params![
        m.at_unix_ms,
        m.link,
        signed(m.sent),
        signed(m.received),
        m.loss_permille,
        m.rtt_us_p50.map(signed),
        m.rtt_us_max.map(signed),
    ])?;
    Ok(())
}

/// Pages in use.
pub(super) fn pages_used(db: &Connection) -> rusqlite::Result<u64> {
    let one = |pragma: &str| db.query_row(pragma, [], |row| counter(row, 0));
    Ok(one("PRAGMA page_count")?.saturating_sub(one("PRAGMA freelist_count")?))
}

/// Deletes the oldest tenth of what takes the room, and gives the pages back; returns the rows
/// deleted. Changes of role are few and tell the most: they go only when nothing else is left.
pub(super) fn trim(db: &Connection) -> rusqlite::Result<usize> {
    let mut deleted = 0;
    for table in ["decisions", "events", "link_minutes"] {
        deleted += delete_oldest(db, table)?;
    }
    if deleted == 0 {
        deleted = delete_oldest(db, "transitions")?;
    }
    // The pragma frees a page a step: it must be run to its end.
    let mut vacuum = db.prepare("PRAGMA incremental_vacuum")?;
    let mut steps = vacuum.query([])?;
    while steps.next()?.is_some() {}
    Ok(deleted)
}

fn delete_oldest(db: &Connection, table: &str) -> rusqlite::Result<usize> {
    db.execute(
        &format!(
            "DELETE FROM {table}
             WHERE id <= (SELECT min(id) + (max(id) - min(id)) / 10 FROM {table})"
        ),
        [],
    )
}

/// Runs a query on a connection of its own; a file that is not there yet is an empty journal.
pub(super) fn read<T>(
    path: &Path,
    query: impl FnOnce(&Connection) -> rusqlite::Result<Vec<T>>,
) -> Result<Vec<T>, JournalError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let fail = |source| JournalError::sqlite(path, "read it", source);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(fail)?;
    db.busy_timeout(Duration::from_millis(BUSY_MS)).map_err(fail)?;
    db.pragma_update(None, "cache_size", -CACHE_KIB).map_err(fail)?;
    query(&db).map_err(fail)
}

pub(super) fn decisions(db: &Connection, limit: u32) -> rusqlite::Result<Vec<StoredDecision>> {
    decisions_before(db, i64::MAX, limit)
}

/// Those with a number below `before`, newest first.
pub(super) fn decisions_before(
    db: &Connection,
    before: i64,
    limit: u32,
) -> rusqlite::Result<Vec<StoredDecision>> {
    let sql =
        format!("SELECT {DECISION_COLUMNS} FROM decisions WHERE id < ? ORDER BY id DESC LIMIT ?");
    let limit = limit.min(ROWS_READ_MAX);
    db.prepare(&sql)?.query_map(params![before, limit], decision_of)?.collect()
}

pub(super) fn decision_by_id(db: &Connection, id: i64) -> rusqlite::Result<Vec<StoredDecision>> {
    let sql = format!("SELECT {DECISION_COLUMNS} FROM decisions WHERE id = ?");
    db.prepare(&sql)?.query_map([id], decision_of)?.collect()
}

pub(super) fn events(db: &Connection, limit: u32) -> rusqlite::Result<Vec<EventRecord>> {
    let sql = "SELECT at, level, name, text, fields FROM events ORDER BY id DESC LIMIT ?";
    db.prepare(sql)?.query_map([limit.min(ROWS_READ_MAX)], event_of)?.collect()
}

pub(super) fn transitions(db: &Connection, limit: u32) -> rusqlite::Result<Vec<TransitionRecord>> {
    let sql = "SELECT at, epoch, role_from, role_to, why FROM transitions ORDER BY id DESC LIMIT ?";
    let one = |row: &Row<'_>| {
        Ok(TransitionRecord {
            at_unix_ms: row.get(0)?,
            epoch: counter(row, 1)?,
            from: row.get(2)?,
            to: row.get(3)?,
            why: row.get(4)?,
        })
    };
    db.prepare(sql)?.query_map([limit.min(ROWS_READ_MAX)], one)?.collect()
}

pub(super) fn link_minutes(db: &Connection, limit: u32) -> rusqlite::Result<Vec<LinkMinute>> {
    let sql =
        "SELECT at, link, sent, received, loss_permille, rtt_us_p50, rtt_us_max FROM link_minutes
               ORDER BY id DESC LIMIT ?";
    let one = |row: &Row<'_>| {
        Ok(LinkMinute {
            at_unix_ms: row.get(0)?,
            link: row.get(1)?,
            sent: counter(row, 2)?,
            received: counter(row, 3)?,
            loss_permille: row.get(4)?,
            rtt_us_p50: row.get::<_, Option<i64>>(5)?.map(unsigned),
            rtt_us_max: row.get::<_, Option<i64>>(6)?.map(unsigned),
        })
    };
    db.prepare(sql)?.query_map([limit.min(ROWS_READ_MAX)], one)?.collect()
}

fn decision_of(row: &Row<'_>) -> rusqlite::Result<StoredDecision> {
    Ok(StoredDecision {
        id: row.get(0)?,
        last_at_unix_ms: row.get(2)?,
        count: counter(row, 3)?,
        first: DecisionRecord {
            at_unix_ms: row.get(1)?,
            kind: row.get(4)?,
            question: row.get(5)?,
            intent: row.get(6)?,
            reason: row.get(7)?,
            spoke: word::<Spoke>(row, 8)?,
            situation: row.get(9)?,
            settings: row.get(10)?,
            memory: row.get(11)?,
            verdict: row.get(12)?,
            digest: row.get(13)?,
            engine: row.get(14)?,
            fuel: counter(row, 15)?,
            cpu_us: counter(row, 16)?,
            notes: json(row, 17)?,
            attempts: json(row, 18)?,
            wall: row.get(19)?,
        },
    })
}

fn event_of(row: &Row<'_>) -> rusqlite::Result<EventRecord> {
    Ok(EventRecord {
        at_unix_ms: row.get(0)?,
        level: word::<EventLevel>(row, 1)?,
        name: row.get(2)?,
        text: row.get(3)?,
        fields: json(row, 4)?,
    })
}

fn word<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_value(serde_json::Value::String(text)).map_err(|e| not_ours(column, e))
}

fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|e| not_ours(column, e))
}

fn not_ours(column: usize, error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

fn counter(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get(column).map(unsigned)
}

/// A negative counter was never written by us.
fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// SQLite's integers are signed; a counter that large stops counting.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
