//! `[arbiter]`: where the register is, and how this node shows who it is.

use staffetta_arbiter::{ENDPOINTS_MAX, Endpoint};
use toml::Spanned;

use super::super::raw::RawArbiter;
use super::super::{ArbiterConfig, defaults};
use super::{Reader, Result};

impl Reader<'_> {
    pub(super) fn arbiter(&self, raw: &Spanned<RawArbiter>) -> Result<ArbiterConfig> {
        let table = raw.get_ref();
        let endpoints = self.endpoints(raw)?;
        if let Some(at) = endpoints.iter().position(Endpoint::is_tls)
            && table.ca_file.is_none()
        {
            let given = &table.endpoints[at];
            let say = "https needs `ca_file`: the certificate of the authority that signed the \
                       endpoint's";
            return Err(self.source.error(given.span(), say));
        }
        let identity_files = match (&table.cert_file, &table.key_file) {
            (None, None) => None,
            (Some(_), Some(_)) => {
                Some((self.path(&table.cert_file, "")?, self.path(&table.key_file, "")?))
            }
            (Some(one), None) | (None, Some(one)) => {
                let say = "`cert_file` and `key_file` belong together: write both or none";
                return Err(self.source.error(one.span(), say));
            }
        };
        let login = match (&table.user, &table.password_file) {
            (None, None) => None,
            (Some(user), Some(_)) if !user.get_ref().is_empty() => {
                Some((user.get_ref().clone(), self.path(&table.password_file, "")?))
            }
            (Some(one), _) | (None, Some(one)) => {
                let say = "`user` and `password_file` belong together: write both or none";
                return Err(self.source.error(one.span(), say));
            }
        };
        Ok(ArbiterConfig {
            endpoints,
            prefix: self.prefix(raw)?,
            ca_file: match &table.ca_file {
                Some(_) => Some(self.path(&table.ca_file, "")?),
                None => None,
            },
            identity_files,
            login,
        })
    }

    fn endpoints(&self, raw: &Spanned<RawArbiter>) -> Result<Vec<Endpoint>> {
        let given = &raw.get_ref().endpoints;
        if given.is_empty() {
            let say = "`endpoints` is missing here: write endpoints = [\"https://10.0.0.5:2379\"]";
            return Err(self.source.error(raw.span(), say));
        }
        if let Some(first_too_many) = given.get(ENDPOINTS_MAX) {
            let say = format!("arbiter.endpoints: at most {ENDPOINTS_MAX}");
            return Err(self.source.error(first_too_many.span(), say));
        }
        let mut endpoints: Vec<Endpoint> = Vec::with_capacity(given.len());
        for text in given {
            let endpoint = Endpoint::parse(text.get_ref())
                .map_err(|error| self.source.error(text.span(), error.to_string()))?;
            if endpoints.contains(&endpoint) {
                let say = format!("arbiter.endpoints: {endpoint} is there twice");
                return Err(self.source.error(text.span(), say));
            }
            endpoints.push(endpoint);
        }
        Ok(endpoints)
    }

    fn prefix(&self, raw: &Spanned<RawArbiter>) -> Result<String> {
        let Some(given) = &raw.get_ref().prefix else { return Ok(defaults::ARBITER_PREFIX.into()) };
        let text = given.get_ref();
        let plain = text.chars().all(|c| c.is_ascii_graphic());
        if text.starts_with('/') && plain && text.len() <= defaults::ARBITER_PREFIX_CHARS_MAX {
            return Ok(text.trim_end_matches('/').to_owned());
        }
        let say = format!(
            "arbiter.prefix: write a path like /staffetta, at most {} characters without spaces",
            defaults::ARBITER_PREFIX_CHARS_MAX
        );
        Err(self.source.error(given.span(), say))
    }
}
