//! `[[check]]`: exactly one way to ask, and how often.

use std::net::SocketAddr;
use std::time::Duration;

use toml::Spanned;

use super::super::raw::RawCheck;
use super::super::{CheckConfig, CheckTarget, defaults};
use super::{Reader, Result};

/// The defaults of what is tried again and again, and its shortest interval.
pub(super) struct Rhythm {
    pub(super) interval_ms: u64,
    pub(super) interval_ms_min: u64,
    pub(super) timeout_ms: u64,
}

impl Reader<'_> {
    pub(super) fn check(&self, raw: &Spanned<RawCheck>) -> Result<CheckConfig> {
        let (span, check) = (raw.span(), raw.get_ref());
        let name = self.need(&check.name, &span, "name", "name = \"sip\"")?;
        let target = self.target(raw)?;
        let (interval, timeout) = self.rhythm(
            "check",
            &check.interval_ms,
            &check.timeout_ms,
            Rhythm {
                interval_ms: defaults::CHECK_INTERVAL_MS,
                interval_ms_min: defaults::CHECK_INTERVAL_MS_MIN,
                timeout_ms: defaults::CHECK_TIMEOUT_MS,
            },
        )?;
        let steps = 1..=u64::from(defaults::CHECK_STEPS_MAX);
        let rise =
            self.number(&check.rise, "check.rise", defaults::CHECK_RISE.into(), steps.clone())?;
        let fall = self.number(&check.fall, "check.fall", defaults::CHECK_FALL.into(), steps)?;
        Ok(CheckConfig {
            name: self.name(name, "check.name")?,
            target,
            interval,
            timeout,
            rise: u32::try_from(rise).unwrap_or(defaults::CHECK_STEPS_MAX),
            fall: u32::try_from(fall).unwrap_or(defaults::CHECK_STEPS_MAX),
        })
    }

    /// From one attempt to the next, and how long one may take; `table` is for people.
    pub(super) fn rhythm(
        &self,
        table: &str,
        interval: &Option<Spanned<u64>>,
        timeout: &Option<Spanned<u64>>,
        default: Rhythm,
    ) -> Result<(Duration, Duration)> {
        let interval_ms = self.number(
            interval,
            &format!("{table}.interval_ms"),
            default.interval_ms,
            default.interval_ms_min..=defaults::TIME_MS_MAX,
        )?;
        // A short interval alone is no contradiction: the default timeout gives way.
        let timeout_ms = self.number(
            timeout,
            &format!("{table}.timeout_ms"),
            default.timeout_ms.min(interval_ms),
            1..=interval_ms,
        )?;
        Ok((Duration::from_millis(interval_ms), Duration::from_millis(timeout_ms)))
    }

    fn target(&self, raw: &Spanned<RawCheck>) -> Result<CheckTarget> {
        let RawCheck { tcp, exec, http, sip, .. } = raw.get_ref();
        match (tcp, exec, http, sip) {
            (Some(tcp), None, None, None) => Ok(CheckTarget::Tcp(self.socket(tcp, "check.tcp")?)),
            (None, Some(exec), None, None) => Ok(CheckTarget::Exec(self.exec(exec, "check.exec")?)),
            (None, None, Some(http), None) => self.http(http),
            (None, None, None, Some(sip)) => Ok(CheckTarget::Sip(self.socket(sip, "check.sip")?)),
            _ => {
                let given = [
                    ("tcp", tcp.is_some()),
                    ("exec", exec.is_some()),
                    ("http", http.is_some()),
                    ("sip", sip.is_some()),
                ];
                let given: Vec<&str> =
                    given.iter().filter(|(_, there)| *there).map(|(key, _)| *key).collect();
                let text = if given.is_empty() {
                    "a check asks in one way: write one of tcp, exec, http, sip".to_owned()
                } else {
                    format!(
                        "a check asks in one way, this has {}: keep one, and make a [[check]] of \
                         its own for each other",
                        given.join(" and ")
                    )
                };
                Err(self.source.error(raw.span(), text))
            }
        }
    }

    /// A program and its arguments.
    pub(super) fn exec(&self, given: &Spanned<Vec<String>>, key: &str) -> Result<Vec<String>> {
        let words = given.get_ref();
        let fail = |text: String| Err(self.source.error(given.span(), text));
        if words.first().is_none_or(|program| !program.starts_with('/')) {
            return fail(format!(
                "{key} begins with the absolute path of a program: write [\"/usr/bin/true\"]"
            ));
        }
        if words.len() > defaults::EXEC_WORDS_MAX || words.iter().any(|word| word.contains('\0')) {
            return fail(format!(
                "{key}: at most {} words without NUL: put the rest into a script",
                defaults::EXEC_WORDS_MAX
            ));
        }
        Ok(words.clone())
    }

    fn http(&self, given: &Spanned<String>) -> Result<CheckTarget> {
        let url = given.get_ref();
        let fail = || {
            let text = format!(
                "check.http = {url:?}: write a plain http URL with an IP address, like \
                 http://127.0.0.1:80/health"
            );
            self.source.error(given.span(), text)
        };
        let rest = url.strip_prefix("http://").ok_or_else(fail)?;
        let (host, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        let address: SocketAddr =
            host.parse().or_else(|_| format!("{host}:80").parse()).map_err(|_| fail())?;
        if path.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err(fail());
        }
        Ok(CheckTarget::Http { address, path: path.to_owned() })
    }
}
