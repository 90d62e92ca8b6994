//! Lines that are kept with the decision. The host caps their number and size.
//!
//! In a component they go to the host; in a native test they go to standard error.

/// For the author of the policy.
pub fn debug(text: impl AsRef<str>) {
    note(Level::Debug, text.as_ref());
}

/// For the operator who asks why.
pub fn info(text: impl AsRef<str>) {
    note(Level::Info, text.as_ref());
}

/// For the operator, without being asked.
pub fn warn(text: impl AsRef<str>) {
    note(Level::Warn, text.as_ref());
}

#[derive(Debug, Clone, Copy)]
enum Level {
    Debug,
    Info,
    Warn,
}

#[cfg(target_arch = "wasm32")]
fn note(level: Level, text: &str) {
    use crate::raw::log;
    let level = match level {
        Level::Debug => log::Level::Debug,
        Level::Info => log::Level::Info,
        Level::Warn => log::Level::Warn,
    };
    log::note(level, text);
}

#[cfg(not(target_arch = "wasm32"))]
fn note(level: Level, text: &str) {
    eprintln!("{level:?}: {text}");
}
