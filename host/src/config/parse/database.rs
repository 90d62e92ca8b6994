//! `[bulk]` and `[[database]]`: what is replicated, and over what.

use super::super::raw::{RawBulk, RawDatabase};
use super::super::{BulkConfig, CommitMode, DatabaseConfig, defaults};
use super::{Reader, Result};
use std::path::Path;
use std::time::Duration;
use toml::Spanned;

impl Reader<'_> {
    pub(super) fn bulk(&self, raw: &RawBulk) -> Result<BulkConfig> {
        let range = 1..=u64::from(u16::MAX);
        let port = self.number(&raw.port, "bulk.port", defaults::BULK_PORT.into(), range)?;
        let range = 1..=defaults::BULK_MBIT_MAX;
        let cap = match &raw.bandwidth_mbit_max {
            None => None,
            given @ Some(_) => Some(self.number(given, "bulk.bandwidth_mbit_max", 1, range)?),
        };
        Ok(BulkConfig {
            port: u16::try_from(port).expect("the range above"),
            bytes_per_s_max: cap.map(|megabits| megabits * 1_000_000 / 8),
        })
    }

    pub(super) fn databases(&self, raw: &[Spanned<RawDatabase>]) -> Result<Vec<DatabaseConfig>> {
        let mut all: Vec<DatabaseConfig> = Vec::with_capacity(raw.len());
        for one in raw {
            let database = self.database(one)?;
            if all.iter().any(|other| other.pattern == database.pattern) {
                let say = format!("database.path: {} is there twice", database.pattern);
                return Err(self.source.error(one.span(), say));
            }
            if all.iter().any(|other| other.name == database.name) {
                let say = format!("database.name: {} is there twice", database.name);
                return Err(self.source.error(one.span(), say));
            }
            let overlap = |other: &&DatabaseConfig| {
                let paths =
                    [&database.pattern, &other.pattern].map(|text| Path::new(text.as_str()));
                staffetta_db::means(&other.pattern, paths[0])
                    || staffetta_db::means(&database.pattern, paths[1])
            };
            if let Some(other) = all.iter().find(overlap) {
                let say = format!(
                    "database.path: {} and {} mean the same file: make one pattern narrower, or \
                     put that file into another folder",
                    other.pattern, database.pattern
                );
                return Err(self.source.error(one.span(), say));
            }
            all.push(database);
        }
        Ok(all)
    }

    fn database(&self, raw: &Spanned<RawDatabase>) -> Result<DatabaseConfig> {
        let (span, table) = (raw.span(), raw.get_ref());
        let path = self.need(&table.path, &span, "path", "path = \"/var/lib/app/app.db\"")?;
        let pattern = path.get_ref().as_str();
        let say = |text: String| Err(self.source.error(path.span(), text));
        if let Err(what) = check_pattern(pattern) {
            return say(format!("database.path = {pattern:?}: {what}"));
        }
        let mode = table.mode.as_ref().map_or(defaults::DATABASE_MODE, |mode| *mode.get_ref());
        let only_sync = [
            ("sync_timeout_ms", table.sync_timeout_ms.as_ref().map(Spanned::span)),
            ("sync_alone", table.sync_alone.as_ref().map(Spanned::span)),
        ];
        for (key, given) in only_sync {
            if let (CommitMode::Async, Some(at)) = (mode, given) {
                let text = format!("{key} needs mode = \"sync\": add it, or remove {key}");
                return Err(self.source.error(at, text));
            }
        }
        let timeout = self.number(
            &table.sync_timeout_ms,
            "database.sync_timeout_ms",
            defaults::SYNC_TIMEOUT_MS,
            defaults::SYNC_TIMEOUT_MS_MIN..=defaults::TIME_MS_MAX,
        )?;
        let unacked = 0..=defaults::UNACKED_MAX;
        let hours = 0..=defaults::SCRUB_HOURS_MAX;
        let scrub =
            self.number(&table.scrub_hours, "database.scrub_hours", defaults::SCRUB_HOURS, hours)?;
        let name = match &table.name {
            Some(name) => self.name(name, "database.name")?,
            None => pattern.to_owned(),
        };
        Ok(DatabaseConfig {
            name,
            pattern: pattern.to_owned(),
            journal: table.journal.as_ref().map_or(defaults::DATABASE_JOURNAL, |j| *j.get_ref()),
            mode,
            sync_timeout: Duration::from_millis(timeout),
            sync_alone: table.sync_alone.as_ref().map_or(defaults::SYNC_ALONE, |a| *a.get_ref()),
            durable_ack: table
                .ack
                .as_ref()
                .is_some_and(|ack| *ack.get_ref() == super::super::Ack::Durable),
            unacked_max: self.number(&table.max_unacked, "database.max_unacked", 0, unacked)?,
            scrub_interval: (scrub > 0).then(|| Duration::from_secs(scrub * 3_600)),
        })
    }
}

/// An absolute path whose last part may hold `*` and `?`.
fn check_pattern(pattern: &str) -> std::result::Result<(), &'static str> {
    let path = Path::new(pattern);
    if !path.is_absolute() || pattern.contains('\0') || pattern.contains('\n') {
        return Err("write an absolute path; the last part may hold * and ?");
    }
    let dots = path.components().any(|part| part == std::path::Component::ParentDir);
    let Some(folder) = path.parent().filter(|_| !pattern.ends_with('/') && !dots) else {
        return Err("write the path of a database file, without ..");
    };
    if folder.to_string_lossy().contains(['*', '?']) {
        return Err("only the last part may hold * and ?: name each folder in a table of its own");
    }
    if pattern.len() > defaults::DATABASE_PATH_BYTES_MAX {
        return Err("the path is too long");
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let ours = ["-wal", "-shm", "-journal"].iter().any(|suffix| name.ends_with(suffix));
    if ours {
        return Err("this names a file that SQLite keeps beside a database: name the database");
    }
    Ok(())
}
