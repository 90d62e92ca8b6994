//! How the demo looks: in color on a terminal, plain text elsewhere.

use std::io::{IsTerminal, Write};
use std::time::Instant;

use crate::demo::{DemoReport, StepReport};
use crate::instrument::Answers;
use crate::lab::{CLIENT_IP, Node, VIP};
use crate::pair::Profile;
use crate::status::Statuses;

/// Columns of the strip that shows who answered when.
const STRIP_COLUMNS: u32 = 64;
/// Shortest time that a column of the strip stands for: the phone asks every 20 ms.
const SLICE_MS_MIN: u128 = 50;
/// Columns of the reasons in the table, on a terminal.
const REASON_COLUMNS: usize = 72;

/// Where the text goes and how it looks.
pub(crate) struct View {
    to_stderr: bool,
    color: bool,
    begin: Instant,
}

#[derive(Clone, Copy)]
enum Style {
    Title,
    Dim,
    Good,
    Bad,
    NodeA,
    NodeB,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Title => "1",
            Self::Dim => "2",
            Self::Good => "1;32",
            Self::Bad => "1;31",
            Self::NodeA => "36",
            Self::NodeB => "35",
        }
    }
}

impl View {
    pub(crate) fn new(to_stderr: bool, begin: Instant) -> Self {
        let terminal = if to_stderr {
            std::io::stderr().is_terminal()
        } else {
            std::io::stdout().is_terminal()
        };
        let color = terminal && std::env::var_os("NO_COLOR").is_none();
        Self { to_stderr, color, begin }
    }

    /// What is on the stage.
    pub(crate) fn title(&mut self, profile: Profile) {
        let title =
            self.paint(Style::Title, "Staffetta: two servers, one address, on this machine");
        self.plain(&title);
        let a = self.paint(Style::NodeA, &format!("na {}", Node::A.ip()));
        let b = self.paint(Style::NodeB, &format!("nb {}", Node::B.ip()));
        self.plain(&format!("  servers {a} and {b}, service address {VIP}, phone {CLIENT_IP}"));
        self.note(&format!(
            "beats every {} ms, lease {} ms (profile {})",
            profile.beat_ms(),
            profile.lease_ms(),
            profile.name()
        ));
    }

    pub(crate) fn note(&mut self, text: &str) {
        let text = self.paint(Style::Dim, text);
        self.plain(&format!("  {text}"));
    }

    /// What the machine grants the pair.
    pub(crate) fn ground(&mut self, statuses: &Statuses) {
        let priority = if statuses.realtime() {
            "real-time priority"
        } else {
            "normal priority (real-time is not allowed here: timings are less exact)"
        };
        self.because_of("gate", &format!("{}, {priority}", statuses.gate()));
    }

    pub(crate) fn step(&mut self, number: usize, name: &str) {
        let text = self.paint(Style::Title, &format!("{number}  {name}"));
        self.plain(&format!("\n{text}"));
    }

    /// Something that happened just now.
    pub(crate) fn event(&mut self, text: &str) {
        let time = self.paint(Style::Dim, &format!("{:8.3} s", self.begin.elapsed().as_secs_f64()));
        self.plain(&format!("{time}  {text}"));
    }

    pub(crate) fn because(&mut self, text: &str) {
        self.because_of("because", text);
    }

    fn because_of(&mut self, word: &str, text: &str) {
        let text = self.paint(Style::Dim, &format!("{word} {text}"));
        self.plain(&format!("            {text}"));
    }

    pub(crate) fn failure(&mut self, text: &str) {
        let text = self.paint(Style::Bad, &format!("FAILED: {text}"));
        self.plain(&format!("            {text}"));
    }

    /// Who answered the phone when, from left to right.
    pub(crate) fn strip(&mut self, answers: &Answers, from: Instant, to: Instant) {
        let columns = u32::try_from((to - from).as_millis() / SLICE_MS_MIN).unwrap_or(u32::MAX);
        let columns = columns.clamp(1, STRIP_COLUMNS);
        let slice = (to - from) / columns;
        let mut rows = [String::new(), String::new()];
        for column in 0..columns {
            let begin = from + slice * column;
            let count = answers.count(begin, begin + slice);
            for (row, count) in rows.iter_mut().zip(count) {
                row.push(if count > 0 { '#' } else { '.' });
            }
        }
        let total = answers.count(from, to);
        for node in Node::BOTH {
            let row = &rows[node.index()];
            let style = if node == Node::A { Style::NodeA } else { Style::NodeB };
            let row = if self.color {
                let blocks = row.replace('#', "\u{2588}").replace('.', "\u{b7}");
                self.paint(style, &blocks)
            } else {
                row.clone()
            };
            self.plain(&format!("        {}  {row} {:>4}", node.name(), total[node.index()]));
        }
    }

    /// The table at the end.
    pub(crate) fn summary(&mut self, report: &DemoReport) {
        let head = format!(
            "{:<14} {:>10} {:>6} {:>6} {:>12}  {}",
            "step", "silence", "na", "nb", "two answers", "why"
        );
        let head = self.paint(Style::Title, &head);
        self.plain(&format!("\n{head}"));
        for step in &report.steps {
            let line = self.row(step);
            self.plain(&line);
        }
        self.note(
            "silence: longest time without an answer, asked every 2 ms; na, nb: SIP answers;",
        );
        self.note("two answers: time in which both nodes answered on the wire, asked every 5 ms");
        let seconds = report.seconds;
        let count = report.steps.len();
        let verdict = if report.passed {
            let text = format!("passed: {count} of {count} steps, no instant with two answers");
            self.paint(Style::Good, &text)
        } else {
            let good = report.steps.iter().filter(|step| step.failures.is_empty()).count();
            self.paint(Style::Bad, &format!("FAILED: {good} of {count} steps as they must be"))
        };
        self.plain(&format!("\n{verdict} ({seconds:.0} s)"));
    }

    fn row(&self, step: &StepReport) -> String {
        let start = step.name == "start";
        let silence = if start { "-".to_owned() } else { format!("{} ms", step.silence_ms) };
        let mut reason: String = step.reason.clone();
        if self.color && reason.chars().count() > REASON_COLUMNS {
            reason = reason.chars().take(REASON_COLUMNS - 1).chain(['\u{2026}']).collect();
        }
        let line = format!(
            "{:<14} {silence:>10} {:>6} {:>6} {:>9} ms  {reason}",
            step.name, step.answers_na, step.answers_nb, step.two_answers_ms
        );
        if step.failures.is_empty() { line } else { self.paint(Style::Bad, &line) }
    }

    /// A line as it is.
    pub(crate) fn plain(&mut self, text: &str) {
        // A reader that went away (a closed pipe) does not stop the demo: it still has to clean up.
        let _ = if self.to_stderr {
            writeln!(std::io::stderr(), "{text}")
        } else {
            writeln!(std::io::stdout(), "{text}")
        };
    }

    fn paint(&self, style: Style, text: &str) -> String {
        if self.color {
            format!("\u{1b}[{}m{text}\u{1b}[0m", style.code())
        } else {
            text.to_owned()
        }
    }
}
