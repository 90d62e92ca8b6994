//! One tree as the status shows it.

use super::{Followed, Side, WORD_MAX};
use crate::status::{State, TreeStatus};
use std::time::Instant;

impl Followed {
    pub(crate) fn status(&mut self, connected: bool) -> TreeStatus {
        let mut status = TreeStatus {
            name: self.options.name.clone(),
            path: self.options.path.clone(),
            state: if self.halted.is_some() { State::Halted } else { State::Closed },
            epoch: self.epoch,
            seq: 0,
            source: self.source.as_ref().map_or("", |source| source.name()),
            entries: 0,
            bytes: 0,
            behind: None,
            behind_bytes: 0,
            behind_since: None,
            held: 0,
            scanning: false,
            local_changes: 0,
            set_aside: 0,
            skipped: 0,
            trouble: self.trouble.clone(),
        };
        if let Some(source) = &self.source {
            status.trouble = status.trouble.or_else(|| source.trouble());
        }
        match &self.side {
            Side::Closed => {}
            Side::Lead(_) => self.show_led(connected, &mut status),
            Side::Attend(_) => self.show_attended(connected, &mut status),
        }
        status
    }

    fn show_led(&mut self, connected: bool, status: &mut TreeStatus) {
        let Side::Lead(lead) = &mut self.side else { return };
        let backlog = lead.backlog();
        let totals = lead.totals();
        status.state = match (backlog.halted.is_some(), backlog.comparing) {
            (true, _) => State::Halted,
            (false, _) if !connected || !backlog.open => State::Alone,
            (false, true) => State::Comparing,
            (false, false) => State::Leading,
        };
        status.seq = lead.acked();
        status.entries = totals.entries;
        status.bytes = totals.bytes;
        status.behind = Some(backlog.files);
        status.behind_bytes = backlog.bytes;
        status.behind_since = backlog.oldest;
        status.held = backlog.held_entries;
        status.scanning = backlog.scanning;
        let unnamed = self.tree.as_ref().map_or(0, |tree| tree.skipped());
        status.skipped = backlog.others + unnamed;
        let troubled = backlog.troubled.first().map(|(path, why)| match backlog.troubles {
            1 => format!("{path}: {why}"),
            count => format!("{path}: {why}; {} more paths", count - 1),
        });
        let standby = backlog.closed.map(|why| format!("the standby: {why}"));
        let any = backlog.halted.or(troubled).or(standby);
        status.trouble = status.trouble.take().or(any);
    }

    fn show_attended(&mut self, connected: bool, status: &mut TreeStatus) {
        let Side::Attend(attend) = &mut self.side else { return };
        let now = Instant::now();
        let seen = attend.status();
        let counters = &seen.counters;
        let totals = attend.totals();
        let attending = connected && self.peer_id.is_some();
        status.state = match (self.diverged, attending) {
            (Some(_), _) => State::Diverged,
            (None, false) => State::Waiting,
            (None, true) if !self.paired => State::Catching,
            (None, true) => State::Following,
        };
        status.seq = counters.applied;
        status.entries = totals.entries;
        status.bytes = totals.bytes;
        let word = self.peer_behind.filter(|(_, at)| now < *at + WORD_MAX);
        status.behind = match word {
            Some((said, _)) if attending => Some(said + seen.waiting as u64),
            Some(_) | None => None,
        };
        status.behind_since = self.behind_since;
        status.scanning = seen.audited.is_running;
        status.local_changes = counters.local_changes;
        status.set_aside = counters.kept_aside;
        status.trouble = status.trouble.take().or(counters.trouble.clone());
    }
}
