//! What the daemon may say.

use std::fmt;

/// Longest answer, with its line break, in bytes.
pub const ANSWER_BYTES_MAX: usize = 512;

/// One line of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Everything that was committed before the question is on the standby.
    Ok {
        /// The pair's epoch.
        epoch: u64,
        /// The last transaction of the database that the standby acknowledged.
        transaction: u64,
    },
    /// A synchronous database: the pair goes on without the standby.
    Degraded {
        /// Why.
        reason: &'a str,
    },
    /// An asynchronous database: the standby did not have it in the time that the daemon waits.
    Timeout {
        /// That time, in milliseconds.
        ms: u64,
    },
    /// The question cannot be answered: unknown database, not the primary.
    Error {
        /// Why.
        text: &'a str,
    },
}

/// The line is none of the protocol's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    line: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line } = self;
        let why = if line.len() < ANSWER_BYTES_MAX { "" } else { "is too long, and " };
        write!(
            f,
            "{line:?} {why}is no answer of the barrier protocol (does the socket belong to it?)"
        )
    }
}

impl std::error::Error for Malformed {}

impl Malformed {
    pub(crate) fn new(line: &[u8]) -> Self {
        Self { line: String::from_utf8_lossy(line).into() }
    }
}

impl<'a> Answer<'a> {
    /// Reads one line; its line break may be there or not. Words after the known ones are left
    /// alone, so that a later daemon may say more.
    ///
    /// # Errors
    /// When the line is not one of the four.
    pub fn parse(line: &'a [u8]) -> Result<Self, Malformed> {
        Self::read(line).ok_or_else(|| Malformed::new(line))
    }

    fn read(line: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(line).ok()?.trim_end_matches('\n');
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut words = rest.split(' ');
        let mut number = || words.next().and_then(decimal);
        match word {
            "ok" => Some(Self::Ok { epoch: number()?, transaction: number()? }),
            "degraded" => Some(Self::Degraded { reason: rest }),
            "timeout" => Some(Self::Timeout { ms: number()? }),
            "error" => Some(Self::Error { text: rest }),
            _ => None,
        }
    }
}

/// The line for the wire, without its line break; the daemon and tests write with it. Line breaks
/// in a text become spaces, and what would make the line longer than [`ANSWER_BYTES_MAX`] is cut.
impl fmt::Display for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with_text = |f: &mut fmt::Formatter<'_>, word: &str, text: &str| {
            let room = ANSWER_BYTES_MAX - "\n".len() - word.len() - " ".len();
            let fits = &text[..text.floor_char_boundary(room)];
            write!(f, "{word} {}", fits.replace(['\n', '\r'], " "))
        };
        match self {
            Self::Ok { epoch, transaction } => write!(f, "ok {epoch} {transaction}"),
            Self::Degraded { reason } => with_text(f, "degraded", reason),
            Self::Timeout { ms } => write!(f, "timeout {ms}"),
            Self::Error { text } => with_text(f, "error", text),
        }
    }
}

/// Digits only: `parse` alone would take a sign.
fn decimal(word: &str) -> Option<u64> {
    word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for answer in [
            Answer::Ok { epoch: 7, transaction: u64::MAX },
            Answer::Degraded { reason: "the standby is away" },
            Answer::Timeout { ms: 1_000 },
            Answer::Error { text: "/x.db is not replicated" },
        ] {
            let line = format!("{answer}\n");
            assert_eq!(Answer::parse(line.as_bytes()), Ok(answer));
        }
        let broken = Answer::Error { text: "two\nlines" }.to_string();
        assert_eq!(broken, "error two lines");
    }

    #[test]
    fn a_long_text_is_cut_to_the_longest_line() {
        // Of two bytes each, so that the limit falls into one.
        let text = "\u{e4}".repeat(ANSWER_BYTES_MAX);
        for answer in [Answer::Error { text: &text }, Answer::Degraded { reason: &text }] {
            let line = format!("{answer}\n");
            assert!((ANSWER_BYTES_MAX - 1..=ANSWER_BYTES_MAX).contains(&line.len()), "{line}");
            assert!(Answer::parse(line.as_bytes()).is_ok());
        }
    }

    #[test]
    fn what_is_no_answer_is_no_ok() {
        for line in ["", "ok", "ok 1", "ok 1 x", "ok +1 2", "ok  1 2", "OK 1 2", "okay 1 2"] {
            assert!(Answer::parse(line.as_bytes()).is_err(), "{line:?}");
        }
        for line in [&b"ok 1 18446744073709551616"[..], b"timeout", b"timeout -1", b"ok \xff 1"] {
            assert!(Answer::parse(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn later_words_are_left_alone() {
        let more = Answer::parse(b"ok 1 2 durable\n");
        assert_eq!(more, Ok(Answer::Ok { epoch: 1, transaction: 2 }));
        assert_eq!(Answer::parse(b"degraded"), Ok(Answer::Degraded { reason: "" }));
    }
}
