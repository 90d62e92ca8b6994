//! What happened, as a rolling hash always and as text on demand.

use std::fmt::Write as _;

/// The trace of one run.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hash: u64,
    text: Option<String>,
}

impl Trace {
    pub(crate) fn new(with_text: bool) -> Trace {
        Trace { hash: 0xCBF2_9CE4_8422_2325, text: with_text.then(String::new) }
    }

    /// Takes a number into the hash.
    pub(crate) fn mix(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
    }

    /// Writes a line, where somebody wants to read it.
    pub(crate) fn say(&mut self, now_ns: u64, who: &str, what: impl FnOnce() -> String) {
        if let Some(text) = &mut self.text {
            let (ms, us) = (now_ns / 1_000_000, now_ns / 1_000 % 1_000);
            // Writing to a string does not fail.
            let _ = writeln!(text, "{ms:>7}.{us:03} {who:<2} {}", what());
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn into_text(self) -> String {
        self.text.unwrap_or_default()
    }
}
