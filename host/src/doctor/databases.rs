//! What would hinder the replication of the configured databases.

use super::Findings;
use crate::config::{Config, JournalMode};
use staffetta_db::Hindrance;
use std::path::Path;

/// Looks at every database that the configuration means at this moment.
pub(super) fn databases(config: &Config, found: &mut Findings) {
    for database in &config.databases {
        let files = staffetta_db::files_of(&database.pattern);
        if files.is_empty() {
            let text = format!("{}: no such file yet", database.pattern);
            found.ok("database", text);
        }
        for file in files {
            let hindrances = staffetta_db::examine(&file);
            if hindrances.is_empty() {
                found.ok("database", format!("{} can be replicated", file.display()));
            }
            for hindrance in hindrances {
                say(&file, &hindrance, database.journal, found);
            }
        }
    }
}

fn say(file: &Path, hindrance: &Hindrance, journal: JournalMode, found: &mut Findings) {
    let file = file.display();
    match hindrance {
        Hindrance::NetworkFileSystem(name) => found.fail(
            "database",
            format!("{file} is on {name}: locks and memory of SQLite do not reach other machines"),
            "put it on a local disk; the pair makes the second copy",
        ),
        Hindrance::Exclusive => found.fail(
            "database",
            format!("{file} is held by a program in exclusive locking mode"),
            "remove `PRAGMA locking_mode=EXCLUSIVE` from that program (lsof shows which it is)",
        ),
        Hindrance::Unreadable(why) => {
            found.fail("database", format!("{file}: {why}"), "name a database of SQLite");
        }
        Hindrance::Space { needed, free } => found.warn(
            "database",
            format!("{file} has {} MB and {} MB are free", needed >> 20, free >> 20),
            "make room: bringing a copy up to date, or archiving one, may need as much again",
        ),
        Hindrance::NoWal(mode) if journal == JournalMode::Convert => found.fail(
            "database",
            format!("{file} is in journal mode {mode} and cannot be written by this user"),
            "run the daemon as root, or follow it with journal = \"keep\"",
        ),
        Hindrance::NoWal(mode) => {
            found.ok("database", format!("{file} stays in journal mode {mode}"));
        }
        Hindrance::OldLibrary { pid, program, version } => found.warn(
            "database",
            format!(
                "{program} (process {pid}) writes {file} with SQLite {version}: versions before \
                 3.51.3 can lose pages when two of its connections checkpoint at once"
            ),
            "update the library that this program uses",
        ),
    }
}
