//! Verdicts come from strangers: they are cut to the documented limits before anybody reads them.

use staffetta_sdk::{failover, license, split_brain};

use crate::limits::{
    BECAUSE_BYTES_MAX, BECAUSE_LINES_MAX, MEMORY_BYTES_MAX, Note, REASON_BYTES_MAX, RECHECK_MS_MAX,
    RECHECK_MS_MIN, RULINGS_MAX,
};

pub(crate) fn failover(verdict: &mut failover::Verdict, notes: &mut Vec<Note>) {
    text(&mut verdict.reason, REASON_BYTES_MAX, "reason", notes);
    lines(&mut verdict.because, "because", notes);
    if let failover::Intent::Other(name) = &mut verdict.intent {
        text(name, BECAUSE_BYTES_MAX, "intent", notes);
    }
    if let Some(recheck) = &mut verdict.recheck {
        *recheck = (*recheck).clamp(RECHECK_MS_MIN, RECHECK_MS_MAX);
    }
    memory(&mut verdict.memory, notes);
}

pub(crate) fn license(verdict: &mut license::Verdict, notes: &mut Vec<Note>) {
    text(&mut verdict.reason, REASON_BYTES_MAX, "reason", notes);
    lines(&mut verdict.warnings, "warnings", notes);
    for feature in &mut verdict.features {
        text(&mut feature.name, BECAUSE_BYTES_MAX, "feature", notes);
        if let staffetta_sdk::Value::Text(value) = &mut feature.value {
            text(value, BECAUSE_BYTES_MAX, "feature", notes);
        }
    }
    if let Some(recheck_s) = &mut verdict.recheck_s {
        *recheck_s = (*recheck_s).clamp(1, RECHECK_MS_MAX / 1_000);
    }
    memory(&mut verdict.memory, notes);
}

pub(crate) fn split_brain(verdict: &mut split_brain::Verdict, notes: &mut Vec<Note>) {
    text(&mut verdict.reason, REASON_BYTES_MAX, "reason", notes);
    if verdict.rulings.len() > RULINGS_MAX {
        verdict.rulings.truncate(RULINGS_MAX);
        notes.push(Note::warn(format!("rulings cut to {RULINGS_MAX}: the rest asks the operator")));
    }
    for ruling in &mut verdict.rulings {
        text(&mut ruling.reason, REASON_BYTES_MAX, "reason of a ruling", notes);
    }
    memory(&mut verdict.memory, notes);
}

/// Cuts a text, and takes out what would write on an operator's terminal.
fn text(text: &mut String, bytes_max: usize, what: &str, notes: &mut Vec<Note>) {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        notes.push(Note::warn(format!("{what} cut to {bytes_max} bytes")));
    }
    if text.contains(char::is_control) {
        *text = plain(text);
    }
}

/// The same text on one line, without control characters.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn lines(lines: &mut Vec<String>, what: &str, notes: &mut Vec<Note>) {
    if lines.len() > BECAUSE_LINES_MAX {
        lines.truncate(BECAUSE_LINES_MAX);
        notes.push(Note::warn(format!("{what} cut to {BECAUSE_LINES_MAX} lines")));
    }
    for line in lines {
        text(line, BECAUSE_BYTES_MAX, what, notes);
    }
}

/// A memory cut in two would be worse than none: the one before stays.
fn memory(memory: &mut Option<String>, notes: &mut Vec<Note>) {
    if memory.as_ref().is_some_and(|memory| memory.len() > MEMORY_BYTES_MAX) {
        *memory = None;
        notes.push(Note::warn(format!("memory dropped: longer than {MEMORY_BYTES_MAX} bytes")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use staffetta_sdk::failover::{Verdict, hold};

    #[track_caller]
    fn check(verdict: Verdict, notes_expected: usize) -> Verdict {
        let (mut verdict, mut notes) = (verdict, Vec::new());
        failover(&mut verdict, &mut notes);
        assert_eq!(notes.len(), notes_expected, "{notes:?}");
        verdict
    }

    #[test]
    fn what_fits_stays() {
        let verdict = hold("all is well").because("a").recheck_ms(500).remember("m");
        assert_eq!(check(verdict.clone(), 0), verdict);
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        let verdict = check(hold("è".repeat(1_000)), 1);
        assert_eq!(verdict.reason.len(), REASON_BYTES_MAX);
        let odd = check(hold(format!("x{}", "è".repeat(1_000))), 1);
        assert_eq!(odd.reason.len(), REASON_BYTES_MAX - 1);
    }

    #[test]
    fn terminals_are_safe() {
        assert_eq!(check(hold("a\x1b[2Jb\n"), 0).reason, "a [2Jb ");
    }

    #[test]
    fn rechecks_are_clamped() {
        assert_eq!(check(hold("").recheck_ms(0), 0).recheck, Some(RECHECK_MS_MIN));
        assert_eq!(check(hold("").recheck_ms(u32::MAX), 0).recheck, Some(RECHECK_MS_MAX));
    }

    #[test]
    fn evidence_and_memory_are_limited() {
        let mut verdict = hold("").remember("m".repeat(MEMORY_BYTES_MAX + 1));
        verdict.because = vec!["y".repeat(300); 20];
        let verdict = check(verdict, 1 + BECAUSE_LINES_MAX + 1);
        assert_eq!(verdict.because.len(), BECAUSE_LINES_MAX);
        assert!(verdict.because.iter().all(|line| line.len() == BECAUSE_BYTES_MAX));
        assert_eq!(verdict.memory, None);
    }
}
