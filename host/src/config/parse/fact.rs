//! `[[fact]]`: a program of the site that prints one value.

use toml::Spanned;

use super::super::raw::RawFact;
use super::super::{FactConfig, defaults};
use super::check::Rhythm;
use super::{Reader, Result};

impl Reader<'_> {
    pub(super) fn fact(&self, raw: &Spanned<RawFact>) -> Result<FactConfig> {
        let (span, fact) = (raw.span(), raw.get_ref());
        let name = self.need(&fact.name, &span, "name", "name = \"site.active-calls\"")?;
        let exec = self.need(&fact.exec, &span, "exec", "exec = [\"/usr/local/bin/calls\"]")?;
        let (interval, timeout) = self.rhythm(
            "fact",
            &fact.interval_ms,
            &fact.timeout_ms,
            Rhythm {
                interval_ms: defaults::FACT_INTERVAL_MS,
                interval_ms_min: defaults::FACT_INTERVAL_MS_MIN,
                timeout_ms: defaults::FACT_TIMEOUT_MS,
            },
        )?;
        Ok(FactConfig {
            name: self.fact_name(name)?,
            exec: self.exec(exec, "fact.exec")?,
            interval,
            timeout,
        })
    }

    fn fact_name(&self, given: &Spanned<String>) -> Result<String> {
        let prefix = defaults::FACT_PREFIX;
        let name = given.get_ref();
        let allowed =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ['-', '.'].contains(&c);
        let fits = name.strip_prefix(prefix).is_some_and(|rest| {
            (1..=defaults::FACT_CHARS_MAX).contains(&rest.len()) && rest.chars().all(allowed)
        });
        if fits {
            return Ok(name.clone());
        }
        let text = format!(
            "fact.name = {name:?}: write {prefix} and then 1 to {} of a-z, 0-9, - and .",
            defaults::FACT_CHARS_MAX
        );
        Err(self.source.error(given.span(), text))
    }
}
