//! `db …` and `barrier`: the databases that are replicated.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use staffetta_barrier::{Answer, Client, Outcome as Waited};
use staffetta_db::{Difference, Differences};

use super::flags::{BarrierFlags, DbVerb};
use super::{Context, Failure, Outcome, plain};
use crate::api::status::DatabaseLine;
use crate::databases;

pub(super) fn db(context: &Context, verb: DbVerb) -> Outcome {
    match verb {
        DbVerb::Status => status(context),
        DbVerb::Scrub { name } => order(context, "scrub", name),
        DbVerb::Resync { name } => order(context, "resync", Some(name)),
        DbVerb::Diff { name, archive } => diff(context, &name, archive),
    }
}

fn status(context: &Context) -> Outcome {
    let (json, status) = context.ask_status()?;
    let shown = json!({ "databases": json["databases"], "alignment": json["alignment"] });
    context.print(&shown, || {
        let mut lines: Vec<String> = status.databases.iter().map(line).collect();
        match &status.alignment {
            None => lines
                .push("no database is replicated: see [[database]] in the configuration".into()),
            Some(one) if one.aligned => lines.push("aligned".into()),
            Some(one) => {
                lines.extend(one.why.iter().map(|why| format!("not aligned: {}", plain(why))));
            }
        }
        lines.join("\n")
    });
    Ok(())
}

fn line(one: &DatabaseLine) -> String {
    let behind = match one.behind {
        Some(0) => "nothing missing".to_owned(),
        Some(count) => format!("{count} transactions missing for {} ms", one.behind_ms),
        None => "what is missing is not known".to_owned(),
    };
    let mode = if one.sync { ", synchronous" } else { "" };
    let mut text = format!(
        "{}  {}{mode}  at {}:{}  {behind}  {} (log {})",
        plain(&one.name),
        one.state,
        one.epoch,
        one.txid,
        size(one.bytes),
        size(one.wal_bytes)
    );
    if one.path != one.name {
        text.push_str(&format!("\n    file: {}", plain(&one.path)));
    }
    if one.lost_trails + one.copies > 0 {
        text.push_str(&format!(
            "\n    since the start: {} trails lost, {} comparisons that shipped {} pages",
            one.lost_trails, one.copies, one.copied_pages
        ));
    }
    if let (Some(ago), Some(wrong)) = (one.scrubbed_s, one.scrubbed_wrong) {
        text.push_str(&format!("\n    all pages compared {ago} s ago, {wrong} wrong"));
    }
    if let Some(trouble) = &one.trouble {
        text.push_str(&format!("\n    trouble: {}", plain(trouble)));
    }
    text
}

pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} kB", bytes / 1_000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

fn order(context: &Context, verb: &str, name: Option<String>) -> Outcome {
    let path = format!("/api/v1/databases/{verb}");
    let body = json!({ "name": name }).to_string().into_bytes();
    let answer = context.ask(async |client| client.post(&path, body).await)?;
    context.print(&answer, || plain(answer["done"].as_str().unwrap_or("done")));
    Ok(())
}

/// Compares the newest archive of a database, or the one that is named, with the database as it is.
fn diff(context: &Context, name: &str, archive: Option<PathBuf>) -> Outcome {
    let (_, status) = context.ask_status()?;
    let found = status.database(name);
    let Some(database) = found else {
        let known: Vec<&str> = status.databases.iter().map(|one| one.name.as_str()).collect();
        let known = if known.is_empty() { "none is known".into() } else { known.join(", ") };
        return Err(Failure::Usage(format!(
            "{name} is not replicated; `staffetta db status` shows what is: {known}"
        )));
    };
    let path = Path::new(&database.path);
    let archive = match archive {
        Some(archive) => archive,
        None => databases::newest_archive(&context.load()?.archive_dir(), path).ok_or_else(|| {
            Failure::Failed(anyhow::anyhow!(
                "there is no archive of {name} on this node: nothing of it was overwritten here \
                 (name a file with --archive to compare it)"
            ))
        })?,
    };
    let differences =
        databases::difference(&archive, path).map_err(|error| Failure::Failed(error.into()))?;
    let shown = json!({ "archive": archive, "database": path, "differences": differences });
    context.print(&shown, || as_text(&archive, path, &differences));
    Ok(())
}

fn as_text(archive: &Path, database: &Path, found: &Differences) -> String {
    let mut lines =
        vec![format!("old: {}", archive.display()), format!("new: {}", database.display())];
    for table in &found.tables {
        let name = plain(&table.table);
        lines.push(match &table.difference {
            Difference::OnlyOld { rows } => format!("{name}: only in the old one, {rows} rows"),
            Difference::OnlyNew { rows } => format!("{name}: only in the new one, {rows} rows"),
            Difference::Schema { old, new } => {
                format!("{name}: declared as\n    old: {}\n    new: {}", plain(old), plain(new))
            }
            Difference::Rows { only_old, only_new, changed, samples } => {
                let mut text = format!(
                    "{name}: {only_old} rows only in the old one, {only_new} only in the new one, \
                     {changed} changed"
                );
                for sample in samples {
                    let row = |row: &Option<_>| row.as_ref().map_or("-".into(), |row| json!(row));
                    let (old, new): (Value, Value) = (row(&sample.old), row(&sample.new));
                    text.push_str(&format!(
                        "\n    old {} | new {}",
                        plain(&old.to_string()),
                        plain(&new.to_string())
                    ));
                }
                text
            }
            Difference::NotCompared { why } => format!("{name}: not compared: {}", plain(why)),
        });
    }
    if found.tables.is_empty() {
        lines.push("no table differs".into());
    }
    if found.incomplete {
        lines.push("the time was over before every table was compared".into());
    }
    lines.join("\n")
}

/// Waits until the standby has everything that was committed before.
pub(super) fn barrier(context: &Context, flags: &BarrierFlags) -> Outcome {
    let path = std::path::absolute(&flags.database).map_err(Failure::of)?;
    let socket = match &flags.barrier_socket {
        Some(socket) => socket.clone(),
        // Whoever may not read the configuration may wait all the same.
        None => context.load().map_or_else(
            |_| PathBuf::from(staffetta_barrier::SOCKET),
            |config| config.barrier_socket(),
        ),
    };
    let failed = |error: staffetta_barrier::BarrierError| Failure::Failed(error.into());
    let mut client = Client::connect(&socket).map_err(failed)?;
    let timeout = (flags.timeout_ms > 0).then(|| Duration::from_millis(flags.timeout_ms));
    let waited = client.ask(&path, timeout).map_err(failed)?;
    let text = match &waited {
        Waited::Answered(answer) => answer.to_string(),
        Waited::Silent => format!("timeout {}", flags.timeout_ms),
    };
    context.print(&json!({ "answer": text }), || plain(&text));
    match waited {
        Waited::Answered(Answer::Ok { .. }) => Ok(()),
        Waited::Answered(
            Answer::Degraded { .. } | Answer::Timeout { .. } | Answer::Error { .. },
        )
        | Waited::Silent => Err(Failure::FailedQuietly),
    }
}

/// `status --aligned`: says it, and as an exit code.
pub(super) fn aligned(context: &Context) -> Outcome {
    let answer = context.ask(async |client| client.get("/api/v1/alignment").await)?;
    let aligned = answer["aligned"].as_bool() == Some(true);
    context.print(&answer, || match aligned {
        true => "aligned".to_owned(),
        false => {
            let why = answer["why"].as_array().cloned().unwrap_or_default();
            let lines = why.iter().filter_map(Value::as_str).map(plain);
            lines.fold("not aligned".to_owned(), |text, why| format!("{text}\n  {why}"))
        }
    });
    if aligned { Ok(()) } else { Err(Failure::FailedQuietly) }
}
