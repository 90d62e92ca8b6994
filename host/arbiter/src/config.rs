//! Where the arbiter is and how it is addressed. Parsed once; what is built from it is valid.

use std::fmt;
use std::net::IpAddr;

use crate::{ArbiterError, ENDPOINTS_MAX, KEY_PART_BYTES_MAX};

/// Port of etcd's clients.
const PORT: u16 = 2379;

/// All that a client needs to know.
#[derive(Debug, Clone)]
pub struct ArbiterConfig {
    /// 1 to [`ENDPOINTS_MAX`] members of one etcd cluster, the preferred one first.
    pub endpoints: Vec<Endpoint>,
    /// For endpoints with `https`.
    pub tls: Option<Tls>,
    /// For an etcd with authentication.
    pub auth: Option<Credentials>,
    /// What all keys begin with, such as `/staffetta`.
    pub prefix: String,
    /// Id of the pair: letters, digits, `.`, `_` and `-`.
    pub cluster_id: String,
    /// Names of the nodes of seat A and seat B, in this order.
    pub names: [String; 2],
}

/// One member of the etcd cluster: `http://host:port` or `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    tls: bool,
    host: String,
    port: u16,
}

/// How endpoints with `https` are trusted, and how this node shows who it is.
#[derive(Clone)]
pub struct Tls {
    /// Certificates, in PEM, of the authorities that sign the endpoints' certificates. No other
    /// authority is trusted.
    pub ca_pem: Vec<u8>,
    /// Certificate and key of this node, where etcd asks for one (`--client-cert-auth`).
    pub identity: Option<Identity>,
}

/// Certificate and key of this node.
#[derive(Clone)]
pub struct Identity {
    /// The certificate and what leads from it to its authority, in PEM.
    pub cert_pem: Vec<u8>,
    /// The private key, in PEM.
    pub key_pem: Vec<u8>,
}

/// A user of etcd.
#[derive(Clone)]
pub struct Credentials {
    /// Name.
    pub user: String,
    /// Password. It is neither logged nor shown.
    pub password: String,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = self.identity.is_some();
        f.debug_struct("Tls").field("identity", &identity).finish_non_exhaustive()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl Endpoint {
    /// Reads `http://host:port` or `https://host:port`. The host is a name, an IPv4 address or an
    /// IPv6 address in brackets; without a port it is 2379.
    ///
    /// # Errors
    /// When the text is something else.
    pub fn parse(text: &str) -> Result<Endpoint, ArbiterError> {
        let wrong = |why: &str| ArbiterError::Config {
            what: format!("endpoint {text:?}: {why}"),
            remedy: "write it as https://10.0.0.5:2379".to_owned(),
        };
        let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(wrong("it begins with neither http:// nor https://")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) if host.parse::<std::net::Ipv6Addr>().is_ok() => (host, port),
            Some(_) => return Err(wrong("the brackets do not hold an IPv6 address")),
            None => rest.find(':').map_or((rest, ""), |at| rest.split_at(at)),
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let is_host =
            !host.is_empty() && host.len() <= KEY_PART_BYTES_MAX && host.chars().all(is_name);
        if !is_host && host.parse::<IpAddr>().is_err() {
            return Err(wrong("the host is neither a name nor an address"));
        }
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => PORT,
            None => return Err(wrong("something follows the host")),
            Some(port) => match port.parse() {
                Ok(0) | Err(_) => return Err(wrong("the port is not a number from 1 to 65535")),
                Ok(port) => port,
            },
        };
        Ok(Endpoint { tls, host: host.to_owned(), port })
    }

    /// Whether it is spoken to over TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Name or address.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Host and port as HTTP writes them.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl ArbiterConfig {
    /// Key of the register.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}/register", self.prefix.trim_end_matches('/'), self.cluster_id)
    }

    /// Where `check` writes: beside the register, one name for each run and endpoint.
    pub(crate) fn scratch_key(&self, name: &str) -> String {
        format!("{}/{}/check/{name}", self.prefix.trim_end_matches('/'), self.cluster_id)
    }

    /// Refuses what no client can be built from.
    pub(crate) fn validate(&self) -> Result<(), ArbiterError> {
        let wrong = |what: &str, remedy: &str| {
            Err(ArbiterError::Config { what: what.to_owned(), remedy: remedy.to_owned() })
        };
        if self.endpoints.is_empty() {
            return wrong("no endpoint", "name at least one in arbiter.endpoints");
        }
        if self.endpoints.len() > ENDPOINTS_MAX {
            return wrong("too many endpoints", "name at most 8 in arbiter.endpoints");
        }
        let twice = |(at, endpoint)| self.endpoints[..at].contains(endpoint);
        if self.endpoints.iter().enumerate().any(twice) {
            return wrong("an endpoint is named twice", "name each once in arbiter.endpoints");
        }
        if self.tls.is_none() && self.endpoints.iter().any(Endpoint::is_tls) {
            return wrong("an endpoint has https but no authority", "set arbiter.ca_file");
        }
        let prefix = self.prefix.as_str();
        let is_plain = prefix.chars().all(|c| c.is_ascii_graphic());
        if !prefix.starts_with('/') || !is_plain || prefix.len() > KEY_PART_BYTES_MAX {
            return wrong("the prefix is no path", "set arbiter.prefix to a path as /staffetta");
        }
        let id = self.cluster_id.as_str();
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if id.is_empty() || id.len() > KEY_PART_BYTES_MAX || !id.chars().all(is_word) {
            return wrong(
                "the id of the pair is not made of letters, digits, '.', '_' and '-'",
                "give the pair such an id",
            );
        }
        if self.names[0] == self.names[1] || self.names.iter().any(String::is_empty) {
            return wrong("the nodes do not have two names", "name the nodes differently");
        }
        match &self.auth {
            Some(auth) if auth.user.is_empty() || auth.password.is_empty() => {
                wrong("user or password is empty", "set arbiter.user and arbiter.password_file")
            }
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_shown() {
        let shown = |text: &str| Endpoint::parse(text).map(|endpoint| endpoint.to_string());
        for (text, expected) in [
            ("http://10.0.0.5:2379", "http://10.0.0.5:2379"),
            ("https://etcd-1.example", "https://etcd-1.example:2379"),
            ("https://[fd00::5]:4000/", "https://[fd00::5]:4000"),
            ("http://[::1]", "http://[::1]:2379"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(expected), "{text}");
        }
        for text in [
            "10.0.0.5:2379",
            "ftp://a:1",
            "http://",
            "http://a:0",
            "http://a:70000",
            "http://a:1/x",
            "http://[a]:1",
            "http://[::1]x",
            "http://u:p@a:1",
            "http://a b",
        ] {
            assert!(shown(text).is_err(), "{text}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let auth = Credentials { user: "staffetta".into(), password: "sesame".into() };
        let identity = Identity { cert_pem: b"sesame".to_vec(), key_pem: b"sesame".to_vec() };
        let tls = Tls { ca_pem: b"sesame".to_vec(), identity: Some(identity.clone()) };
        let shown = format!("{auth:?} {tls:?} {identity:?}");
        assert!(!shown.contains("sesame") && shown.contains("staffetta"), "{shown}");
        assert!(!shown.contains(&format!("{:?}", b"sesame")), "{shown}");
    }
}
