//! Errors of the configuration: file, line, and what to write instead.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// Its line, from 1; none when it is about the file as a whole.
    pub line: Option<usize>,
    /// What is wrong and what to write instead.
    pub text: String,
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path.display(), self.text),
            None => write!(f, "{}: {}", self.path.display(), self.text),
        }
    }
}

impl std::error::Error for ConfigError {}

/// The text being parsed, to turn byte offsets into lines.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl Source<'_> {
    pub(super) fn line(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().iter().take(offset);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    pub(super) fn error(&self, span: Range<usize>, text: impl Into<String>) -> ConfigError {
        self.error_at_line(self.line(span.start), text)
    }

    pub(super) fn error_at_line(&self, line: usize, text: impl Into<String>) -> ConfigError {
        ConfigError { path: self.path.to_owned(), line: Some(line), text: text.into() }
    }

    pub(super) fn error_of_file(&self, text: impl Into<String>) -> ConfigError {
        ConfigError { path: self.path.to_owned(), line: None, text: text.into() }
    }

    /// What the TOML reader says, with a guess at what was meant.
    pub(super) fn of_toml(&self, error: &toml::de::Error) -> ConfigError {
        let text = explain(error.message().trim_end());
        match error.span() {
            Some(span) => self.error(span, text),
            None => self.error_of_file(text),
        }
    }
}

/// Adds the remedy to a message of the TOML reader.
fn explain(message: &str) -> String {
    let quoted = |part: &str| -> Vec<String> {
        part.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    for what in ["unknown field", "unknown variant"] {
        let Some(rest) = message.strip_prefix(what) else { continue };
        let (name, known) = rest.split_once(", ").unwrap_or((rest, ""));
        let name = quoted(name).into_iter().next().unwrap_or_default();
        let known = quoted(known);
        let what = if what == "unknown field" { "unknown key" } else { "unknown word" };
        return match nearest(&name, known.iter().map(String::as_str)) {
            Some(near) => format!("{what} `{name}`: did you mean `{near}`?"),
            None => format!("{what} `{name}`: write one of {}", known.join(", ")),
        };
    }
    if let Some(rest) = message.strip_prefix("invalid type: ") {
        return format!("wrong type: {rest} is needed here").replace(", expected ", ", but ");
    }
    if let Some(rest) = message.strip_prefix("invalid value: ") {
        return format!("{rest} is needed here").replace(", expected ", ", but ");
    }
    if message == "wanted string or table" {
        return "wrong type: a word in quotes is needed here".to_owned();
    }
    if message.starts_with("duplicate key") {
        return "this key is there twice: remove one of them".to_owned();
    }
    format!("this is not TOML: {}", message.replace('\n', "; "))
}

/// The known word that `name` was probably meant to be: at most half of it is wrong.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let best = known.map(|word| (distance(name, word), word)).min()?;
    (best.0 <= (name.len().max(best.1.len()) / 2).max(1)).then_some(best.1)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
