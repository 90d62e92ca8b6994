//! How two databases differ, in rows: what an operator wants to know of an archive beside the copy
//! that won.
//!
//! Promises: reads only; ends when its time is over and says so; holds no more rows than asked for.
//! What cannot be compared is named with the reason, never left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Characters of a text, or bytes of a blob, that a sample shows.
const SHOWN_MAX: u32 = 200;
/// How long a lock of a database is waited for.
const BUSY_WAIT: Duration = Duration::from_secs(2);
/// Once the time is over, running statements are interrupted so often.
const INTERRUPT_PAUSE: Duration = Duration::from_millis(20);

/// All tables in which two databases differ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Differences {
    /// Ordered by name. Tables that are equal are not among them.
    pub tables: Vec<TableDifference>,
    /// The time was over before every table was compared.
    pub incomplete: bool,
}

/// How one table differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableDifference {
    /// The table.
    pub table: String,
    /// How.
    pub difference: Difference,
}

/// A difference of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// Only the old database has it.
    OnlyOld {
        /// Its rows.
        rows: u64,
    },
    /// Only the new database has it.
    OnlyNew {
        /// Its rows.
        rows: u64,
    },
    /// It was declared otherwise; rows are not compared.
    Schema {
        /// The declaration in the old database.
        old: String,
        /// The declaration in the new database.
        new: String,
    },
    /// Rows differ.
    Rows {
        /// Rows whose key only the old database has.
        only_old: u64,
        /// Rows whose key only the new database has.
        only_new: u64,
        /// Rows of equal key with other values.
        changed: u64,
        /// Some of them: of each kind as many as were asked for, at most.
        samples: Vec<Sample>,
    },
    /// Nobody looked into it.
    NotCompared {
        /// Why not.
        why: String,
    },
}

/// A row that differs: as both databases have it, or as the one has it that has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Columns and values in the old database; long ones are cut, blobs are hexadecimal.
    pub old: Option<BTreeMap<String, Value>>,
    /// Columns and values in the new database.
    pub new: Option<BTreeMap<String, Value>>,
}

/// Why nothing was compared.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// One of the databases cannot be read.
    #[error("cannot compare {old} with {new}: {source}")]
    Sqlite {
        /// The old database.
        old: PathBuf,
        /// The new database.
        new: PathBuf,
        /// SQLite's answer.
        #[source]
        source: rusqlite::Error,
    },
}

/// Compares two databases table by table, for at most this long, with at most `samples_max` rows of
/// each kind and table. Whoever holds one of them attached keeps it so until this returns.
///
/// # Errors
/// When one of them cannot be read at all.
pub fn difference(
    old: &Path,
    new: &Path,
    samples_max: u32,
    time: Duration,
) -> Result<Differences, RowsError> {
    compare(old, new, samples_max, time).map_err(|source| RowsError::Sqlite {
        old: old.to_owned(),
        new: new.to_owned(),
        source,
    })
}

fn compare(
    old: &Path,
    new: &Path,
    samples_max: u32,
    time: Duration,
) -> rusqlite::Result<Differences> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(old, flags)?;
    connection.busy_timeout(BUSY_WAIT)?;
    // What the schema of somebody else's database calls is not to be trusted.
    connection.execute_batch("PRAGMA trusted_schema=OFF")?;
    connection.execute("ATTACH ?1 AS new", [new.to_string_lossy()])?;
    // One moment of both.
    connection.execute_batch("BEGIN")?;
    let end = Instant::now() + time;
    let handle = connection.get_interrupt_handle();
    let (done, wait) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut pause = time;
            while wait.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                handle.interrupt();
                pause = INTERRUPT_PAUSE;
            }
        });
        let compared = tables(&connection, samples_max, end);
        drop(done);
        compared
    })
}

/// A table as one of the databases declares it.
struct Declared {
    kind: String,
    sql: String,
}

fn tables(
    connection: &Connection,
    samples_max: u32,
    end: Instant,
) -> rusqlite::Result<Differences> {
    let (old, new) = (declared(connection, "main")?, declared(connection, "new")?);
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let (mut found, mut incomplete) = (Vec::new(), false);
    for name in names {
        if Instant::now() >= end {
            incomplete = true;
            break;
        }
        let difference = table(connection, name, old.get(name), new.get(name), samples_max);
        let difference = match difference {
            Ok(None) => continue,
            Ok(Some(difference)) => difference,
            Err(error) if Instant::now() >= end => {
                incomplete = true;
                Difference::NotCompared { why: format!("the time was over: {error}") }
            }
            Err(error) => Difference::NotCompared { why: error.to_string() },
        };
        found.push(TableDifference { table: name.clone(), difference });
    }
    Ok(Differences { tables: found, incomplete })
}

/// The tables of a database. Statistics of the planner are nobody's data.
fn declared(connection: &Connection, schema: &str) -> rusqlite::Result<BTreeMap<String, Declared>> {
    let mut statement = connection.prepare(&format!(
        "SELECT l.name, l.type, s.sql FROM pragma_table_list AS l \
         JOIN {schema}.sqlite_schema AS s ON s.type = 'table' AND s.name = l.name \
         WHERE l.schema = ?1 AND l.name NOT LIKE 'sqlite\\_stat%' ESCAPE '\\'"
    ))?;
    let rows = statement.query_map([schema], |row| {
        Ok((row.get(0)?, Declared { kind: row.get(1)?, sql: row.get(2)? }))
    })?;
    rows.collect()
}

fn table(
    connection: &Connection,
    name: &str,
    old: Option<&Declared>,
    new: Option<&Declared>,
    samples_max: u32,
) -> rusqlite::Result<Option<Difference>> {
    let special = [old, new].into_iter().flatten().find(|one| one.kind != "table");
    if let Some(special) = special {
        let why = format!("a {} table: its rows are in other tables", special.kind);
        return Ok(Some(Difference::NotCompared { why }));
    }
    let table = quoted(name);
    let count = |schema| {
        let sql = format!("SELECT count(*) FROM {schema}.{table}");
        connection.query_row(&sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
    };
    match (old, new) {
        (Some(old), Some(new)) if old.sql == new.sql => rows(connection, name, samples_max),
        (Some(old), Some(new)) => {
            Ok(Some(Difference::Schema { old: old.sql.clone(), new: new.sql.clone() }))
        }
        (Some(_), None) => Ok(Some(Difference::OnlyOld { rows: count("main")? })),
        (None, Some(_)) => Ok(Some(Difference::OnlyNew { rows: count("new")? })),
        (None, None) => Ok(None),
    }
}

/// By which columns rows are the same, and which columns they have.
struct Columns {
    key: Vec<String>,
    all: Vec<String>,
}

fn columns(connection: &Connection, name: &str) -> rusqlite::Result<Option<Columns>> {
    let sql = "SELECT name, pk FROM pragma_table_xinfo(?1, 'main') WHERE hidden = 0";
    let mut statement = connection.prepare(sql)?;
    let found: Vec<(String, u32)> = statement
        .query_map([name], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let all: Vec<String> = found.iter().map(|(name, _)| name.clone()).collect();
    let mut key: Vec<String> =
        found.iter().filter(|(_, pk)| *pk > 0).map(|(name, _)| name.clone()).collect();
    if key.is_empty() {
        let taken = |alias: &&str| !all.iter().any(|name| name.eq_ignore_ascii_case(alias));
        let Some(alias) = ["rowid", "_rowid_", "oid"].into_iter().find(taken) else {
            return Ok(None);
        };
        key.push(alias.to_owned());
    }
    Ok(Some(Columns { key, all }))
}

fn rows(
    connection: &Connection,
    name: &str,
    samples_max: u32,
) -> rusqlite::Result<Option<Difference>> {
    let Some(Columns { key, all }) = columns(connection, name)? else {
        let why = "it has no primary key, and columns that hide the row's number".to_owned();
        return Ok(Some(Difference::NotCompared { why }));
    };
    let table = quoted(name);
    let joined = |each: &dyn Fn(&str) -> String, names: &[String], by: &str| {
        names.iter().map(|name| each(&quoted(name))).collect::<Vec<_>>().join(by)
    };
    let same = joined(&|column| format!("o.{column} IS n.{column}"), &key, " AND ");
    // Collations and numeric equality hide differences.
    let other = |column: &str| {
        format!(
            "o.{column} IS NOT n.{column} COLLATE BINARY \
             OR typeof(o.{column}) <> typeof(n.{column})"
        )
    };
    let changed = joined(&other, &all, " OR ");
    let from = [
        format!("main.{table} AS o WHERE NOT EXISTS (SELECT 1 FROM new.{table} AS n WHERE {same})"),
        format!("new.{table} AS n WHERE NOT EXISTS (SELECT 1 FROM main.{table} AS o WHERE {same})"),
        format!("main.{table} AS o JOIN new.{table} AS n ON {same} WHERE {changed}"),
    ];
    let count = |from: &str| {
        let sql = format!("SELECT count(*) FROM {from}");
        connection.query_row(&sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
    };
    let (only_old, only_new) = (count(&from[0])?, count(&from[1])?);
    let changed = count(&from[2])?;
    if only_old + only_new + changed == 0 {
        return Ok(None);
    }
    let mut samples = Vec::new();
    for (from, sides) in from.iter().zip([&["o"][..], &["n"], &["o", "n"]]) {
        sample(connection, from, sides, &all, samples_max, &mut samples)?;
    }
    Ok(Some(Difference::Rows { only_old, only_new, changed, samples }))
}

fn sample(
    connection: &Connection,
    from: &str,
    sides: &[&str],
    columns: &[String],
    samples_max: u32,
    samples: &mut Vec<Sample>,
) -> rusqlite::Result<()> {
    // Cut by SQLite: a value may be larger than the memory that this may take.
    let shown = |side: &str, column: &str| {
        let at = format!("{side}.{}", quoted(column));
        format!("iif(typeof({at}) IN ('text', 'blob'), substr({at}, 1, {SHOWN_MAX}), {at})")
    };
    let list: Vec<String> = sides
        .iter()
        .flat_map(|side| columns.iter().map(move |column| shown(side, column)))
        .collect();
    let sql = format!("SELECT {} FROM {from} LIMIT {samples_max}", list.join(", "));
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let mut sample = Sample { old: None, new: None };
        for (at, side) in sides.iter().enumerate() {
            let mut values = BTreeMap::new();
            for (column, name) in columns.iter().enumerate() {
                let value = row.get_ref(at * columns.len() + column)?;
                values.insert(name.clone(), json(value));
            }
            match *side {
                "o" => sample.old = Some(values),
                _ => sample.new = Some(values),
            }
        }
        samples.push(sample);
    }
    Ok(())
}

fn json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::from(number),
        ValueRef::Real(number) => Value::from(number),
        ValueRef::Text(text) => Value::from(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Value::from(format!("x'{digits}'"))
        }
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(20);

    fn compared(both: &str, old: &str, new: &str, time: Duration) -> Differences {
        let folder = tempfile::tempdir().expect("a folder");
        let made = |name: &str, sql: &str| {
            let path = folder.path().join(name);
            let connection = Connection::open(&path).expect("a database");
            connection.execute_batch(both).and_then(|()| connection.execute_batch(sql)).expect(sql);
            path
        };
        let (old, new) = (made("old.db", old), made("new.db", new));
        difference(&old, &new, 2, time).expect("compared")
    }

    fn row(pairs: &[(&str, Value)]) -> Option<BTreeMap<String, Value>> {
        Some(pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    }

    fn only(found: Differences) -> Difference {
        assert_eq!(found.tables.len(), 1, "{found:?}");
        found.tables[0].difference.clone()
    }

    #[test]
    fn equal_databases_have_no_differences() {
        let sql = "CREATE TABLE t(a, b); INSERT INTO t VALUES (1, NULL), (NULL, 2)";
        let found = compared(sql, "", "VACUUM; ANALYZE", TIME);
        assert_eq!(found, Differences { tables: vec![], incomplete: false });
    }

    #[test]
    fn rows_are_matched_by_key_and_counted_with_samples() {
        let both = "CREATE TABLE \"odd \"\" name\"(k TEXT PRIMARY KEY COLLATE NOCASE, v) \
                    WITHOUT ROWID; \
                    INSERT INTO \"odd \"\" name\" VALUES ('a', 1), ('b', 2), ('c', 3)";
        let old = "DELETE FROM \"odd \"\" name\" WHERE k = 'c'; \
                   INSERT INTO \"odd \"\" name\" VALUES ('d', x'00ff'), ('e', 1), ('f', 1)";
        let new = "UPDATE \"odd \"\" name\" SET v = 2.0 WHERE k = 'b'; \
                   UPDATE \"odd \"\" name\" SET k = 'A' WHERE k = 'a'";
        let Difference::Rows { only_old, only_new, changed, samples } =
            only(compared(both, old, new, TIME))
        else {
            panic!("rows differ");
        };
        assert_eq!((only_old, only_new, changed, samples.len()), (3, 1, 2, 5));
        let expected =
            Sample { old: row(&[("k", "d".into()), ("v", "x'00ff'".into())]), new: None };
        assert!(samples.contains(&expected), "{samples:?}");
        let case = Sample {
            old: row(&[("k", "a".into()), ("v", 1.into())]),
            new: row(&[("k", "A".into()), ("v", 1.into())]),
        };
        assert!(samples.contains(&case), "{samples:?}");
    }

    #[test]
    fn tables_without_a_key_are_matched_by_their_row_number() {
        let both = "CREATE TABLE t(rowid, v); INSERT INTO t VALUES (1, 'x'), (2, 'y')";
        let found = only(compared(both, "UPDATE t SET v = 'z' WHERE v = 'y'", "", TIME));
        assert!(matches!(found, Difference::Rows { only_old: 0, only_new: 0, changed: 1, .. }));
        let hidden = "CREATE TABLE t(rowid, _rowid_, oid)";
        assert!(matches!(only(compared(hidden, "", "", TIME)), Difference::NotCompared { .. }));
    }

    #[test]
    fn tables_of_one_side_other_declarations_and_virtual_tables_are_named() {
        let old = "CREATE TABLE a(x); INSERT INTO a VALUES (1); CREATE TABLE s(x)";
        let new = "CREATE TABLE b(x); CREATE TABLE s(x, y); CREATE VIRTUAL TABLE f USING fts5(t)";
        let found = compared("", old, new, TIME);
        let of = |name: &str| {
            let found = found.tables.iter().find(|one| one.table == name);
            found.unwrap_or_else(|| panic!("{name} in {found:?}")).difference.clone()
        };
        assert_eq!(of("a"), Difference::OnlyOld { rows: 1 });
        assert_eq!(of("b"), Difference::OnlyNew { rows: 0 });
        assert!(matches!(of("s"), Difference::Schema { .. }));
        assert!(matches!(of("f"), Difference::NotCompared { why } if why.contains("virtual")));
        assert!(matches!(of("f_data"), Difference::NotCompared { why } if why.contains("shadow")));
    }

    #[test]
    fn it_ends_when_its_time_is_over_and_says_so() {
        let both = "CREATE TABLE t(a INTEGER PRIMARY KEY, b); WITH RECURSIVE n(i) AS \
                    (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400000) \
                    INSERT INTO t SELECT i, i FROM n";
        let begun = Instant::now();
        let found = compared(both, "UPDATE t SET b = 0", "", Duration::from_millis(5));
        assert!(found.incomplete && begun.elapsed() < Duration::from_secs(15), "{found:?}");
    }

    #[test]
    fn a_file_that_is_no_database_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("no.db");
        std::fs::write(&path, [7; 5000]).expect("written");
        assert!(difference(&path, &path, 1, TIME).is_err());
    }
}
