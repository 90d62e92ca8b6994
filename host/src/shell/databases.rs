//! Databases as the status and the alarms show them.

use super::data::{DataLink, age_ms};
use crate::api::status::{Alarm, DatabaseLine};
use staffetta_db::{DatabaseStatus, State};

/// All databases, in the order of their paths.
pub(crate) fn lines(data: &DataLink) -> Vec<DatabaseLine> {
    data.status().iter().map(line).collect()
}

fn line(status: &DatabaseStatus) -> DatabaseLine {
    let position = status.position.unwrap_or_default();
    DatabaseLine {
        name: status.name.clone(),
        path: status.path.display().to_string(),
        state: status.state.as_str().into(),
        epoch: position.epoch,
        txid: position.txid,
        behind: status.behind,
        behind_ms: age_ms(status.behind_since),
        behind_bytes: status.behind_bytes,
        bytes: u64::from(status.pages) * u64::from(status.page_bytes),
        wal_bytes: status.wal_bytes,
        sum: status.sum.map(|sum| format!("{sum:032x}")),
        sync: status.sync,
        lost_trails: status.counters.lost,
        copies: status.counters.copies,
        copied_pages: status.counters.copied_pages,
        stalls: status.counters.stalls,
        stall_us_max: status.counters.stall_us_max,
        scrubbed_s: status.scrubbed.map(|(ago, _)| ago),
        scrubbed_wrong: status.scrubbed.map(|(_, wrong)| wrong as u64),
        trouble: status.trouble.clone(),
    }
}

/// What someone should look at.
pub(crate) fn alarms(data: &DataLink) -> Vec<Alarm> {
    let mut alarms: Vec<Alarm> = Vec::new();
    for status in data.status().iter() {
        if let Some(trouble) = &status.trouble {
            let text = format!("{}: {trouble}", status.path.display());
            alarms.push(Alarm { name: "database".into(), text });
        }
        if status.state == State::Diverged {
            let text = format!(
                "{} holds what the primary may lack: `staffetta db resync {name}` archives it \
                 and takes the primary's; `staffetta db diff {name}` then shows what differed",
                status.path.display(),
                name = status.name
            );
            alarms.push(Alarm { name: "database-diverged".into(), text });
        }
        if let Some((_, wrong @ 1..)) = status.scrubbed {
            let text = format!("{}: {wrong} pages were wrong at the last comparison", status.name);
            alarms.push(Alarm { name: "database-scrub".into(), text });
        }
    }
    alarms.extend(super::trees::alarms(data));
    if let Some(trouble) = data.trouble() {
        alarms.push(Alarm { name: "bulk".into(), text: trouble });
    }
    alarms
}
