//! From the file as written to typed values. One function for each table; contradictions between
//! tables at the end.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::error::Source;
use super::raw::{RawCluster, RawConfig, RawLicense, RawLink, RawNode, RawPeer, RawPolicies};
use super::raw::{RawPolicy, RawReference, RawVip};
use super::{
    ClusterConfig, Config, ConfigError, LicenseConfig, LinkConfig, NodeConfig, PeerConfig,
    PoliciesConfig, PolicyConfig, ReferenceConfig, ReferenceMethod, TimingConfig, VipConfig,
    defaults, parse_hex,
};

mod arbiter;
mod check;
mod conflict;
mod database;
mod fact;
mod tree;

type Result<T> = std::result::Result<T, ConfigError>;

pub(super) fn parse(text: &str, path: &Path) -> Result<Config> {
    let source = Source { path, text };
    let raw: RawConfig = toml::from_str(text).map_err(|error| source.of_toml(&error))?;
    let reader = Reader { source };
    let cluster = reader.cluster(&raw)?;
    let node = reader.node(&raw)?;
    let peer = reader.peer(&raw)?;
    let timing = TimingConfig::parse(&raw.timing, source)?;
    reader.count("link", &raw.link, 1, defaults::LINKS_MAX)?;
    reader.count("vip", &raw.vip, 1, defaults::VIPS_MAX)?;
    reader.count("reference", &raw.reference, 0, defaults::REFERENCES_MAX)?;
    reader.count("check", &raw.check, 0, defaults::CHECKS_MAX)?;
    reader.count("fact", &raw.fact, 0, defaults::FACTS_MAX)?;
    reader.count("database", &raw.database, 0, defaults::DATABASES_MAX)?;
    reader.count("tree", &raw.tree, 0, defaults::TREES_MAX)?;
    let config = Config {
        path: path.to_owned(),
        cluster,
        node,
        peer,
        timing,
        links: raw.link.iter().map(|link| reader.link(link)).collect::<Result<_>>()?,
        vips: raw.vip.iter().map(|vip| reader.vip(vip)).collect::<Result<_>>()?,
        references: raw.reference.iter().map(|r| reader.reference(r)).collect::<Result<_>>()?,
        checks: raw.check.iter().map(|c| reader.check(c)).collect::<Result<_>>()?,
        facts: raw.fact.iter().map(|f| reader.fact(f)).collect::<Result<_>>()?,
        arbiter: raw.arbiter.as_ref().map(|arbiter| reader.arbiter(arbiter)).transpose()?,
        bulk: reader.bulk(&raw.bulk)?,
        databases: reader.databases(&raw.database)?,
        trees: reader.trees(&raw.tree)?,
        policies: reader.policies(&raw.policy)?,
        license: reader.license(&raw.license)?,
        alignment_ms: reader.alignment_ms(&raw)?,
        journal_bytes_max: reader.journal_bytes(&raw)?,
        log_level: raw.log.level.unwrap_or(defaults::LOG_LEVEL),
    };
    conflict::refuse(&config, &raw, source)?;
    Ok(config)
}

struct Reader<'a> {
    source: Source<'a>,
}

impl Reader<'_> {
    fn cluster(&self, raw: &RawConfig) -> Result<ClusterConfig> {
        let (span, RawCluster { name, id, secret_file }) =
            self.table(&raw.cluster, "[cluster]", "name and id")?;
        let id = self.need(id, &span, "id", "32 hex digits; `staffetta init` makes one")?;
        let Some(bytes) = parse_hex::<16>(id.get_ref()) else {
            return Err(self.source.error(
                id.span(),
                format!(
                    "cluster.id must be 32 hex digits, this has {} characters: copy it from the \
                     other node",
                    id.get_ref().chars().count()
                ),
            ));
        };
        Ok(ClusterConfig {
            name: self
                .name(self.need(name, &span, "name", "name = \"office\"")?, "cluster.name")?,
            id: bytes,
            secret_file: self.path(secret_file, defaults::SECRET_FILE)?,
        })
    }

    fn node(&self, raw: &RawConfig) -> Result<NodeConfig> {
        let (span, RawNode { name, site, preferred, state_dir, run_dir, identity_file }) =
            self.table(&raw.node, "[node]", "name")?;
        Ok(NodeConfig {
            name: self.name(self.need(name, &span, "name", "name = \"na\"")?, "node.name")?,
            site: self.site(site)?,
            preferred: *preferred,
            state_dir: self.path(state_dir, defaults::STATE_DIR)?,
            run_dir: self.path(run_dir, defaults::RUN_DIR)?,
            identity_file: self.path(identity_file, defaults::IDENTITY_FILE)?,
        })
    }

    fn peer(&self, raw: &RawConfig) -> Result<PeerConfig> {
        let (span, RawPeer { name, site, preferred }) = self.table(&raw.peer, "[peer]", "name")?;
        Ok(PeerConfig {
            name: self.name(self.need(name, &span, "name", "name = \"nb\"")?, "peer.name")?,
            site: self.site(site)?,
            preferred: preferred.as_ref().is_some_and(|p| *p.get_ref()),
        })
    }

    fn link(&self, raw: &Spanned<RawLink>) -> Result<LinkConfig> {
        let (span, RawLink { name, local, peer, wan }) = (raw.span(), raw.get_ref());
        let example = "\"10.77.0.1:7411\"";
        Ok(LinkConfig {
            name: self.name(self.need(name, &span, "name", "name = \"lan\"")?, "link.name")?,
            local: self.end(self.need(local, &span, "local", example)?, "link.local")?,
            peer: self.end(self.need(peer, &span, "peer", example)?, "link.peer")?,
            wan: wan.unwrap_or(defaults::LINK_WAN),
        })
    }

    fn vip(&self, raw: &Spanned<RawVip>) -> Result<VipConfig> {
        let (span, RawVip { address, interface }) = (raw.span(), raw.get_ref());
        let address = self.need(address, &span, "address", "address = \"10.77.0.50/24\"")?;
        let interface = self.need(interface, &span, "interface", "interface = \"eth0\"")?;
        let (ip, prefix) = vip_address(address.get_ref())
            .map_err(|text| self.source.error(address.span(), text))?;
        let line = self.source.line(address.span().start);
        Ok(VipConfig { address: ip, prefix, interface: self.interface(interface)?, line })
    }

    fn reference(&self, raw: &Spanned<RawReference>) -> Result<ReferenceConfig> {
        let (span, RawReference { name, address, method }) = (raw.span(), raw.get_ref());
        let given = self.need(address, &span, "address", "address = \"10.77.0.254\"")?;
        let address: IpAddr = given.get_ref().parse().map_err(|_| {
            self.source.error(
                given.span(),
                format!("`{}` is not an IP address: write one like 10.77.0.254", given.get_ref()),
            )
        })?;
        let method = match method {
            Some(method) => {
                if *method.get_ref() == ReferenceMethod::Arp && address.is_ipv6() {
                    let text = "ARP asks for IPv4 only: write method = \"icmp\", or an IPv4 \
                                address";
                    return Err(self.source.error(method.span(), text));
                }
                *method.get_ref()
            }
            None => defaults::REFERENCE_METHOD,
        };
        let name = self.need(name, &span, "name", "name = \"gateway\"")?;
        Ok(ReferenceConfig { name: self.name(name, "reference.name")?, address, method })
    }

    fn policies(&self, raw: &RawPolicies) -> Result<PoliciesConfig> {
        Ok(PoliciesConfig {
            failover: self.policy(&raw.failover)?,
            license: self.policy(&raw.license)?,
            split_brain: self.policy(&raw.split_brain)?,
            trusted_keys: self.keys(&raw.trusted_keys, "policy.trusted_keys")?,
        })
    }

    fn policy(&self, raw: &RawPolicy) -> Result<PolicyConfig> {
        let pin = match &raw.pin {
            None => None,
            Some(pin) => {
                let hex = pin.get_ref().strip_prefix("sha256:").and_then(parse_hex::<32>);
                Some(hex.ok_or_else(|| {
                    let text = "pin must be \"sha256:\" and 64 hex digits: copy what `staffetta \
                                policy check FILE` prints";
                    self.source.error(pin.span(), text)
                })?)
            }
        };
        if let (Some(pin), None) = (&raw.pin, &raw.file) {
            let text = "a pin needs a file: the built-in policy is part of the daemon (add \
                        `file`, or remove `pin`)";
            return Err(self.source.error(pin.span(), text));
        }
        let file = match &raw.file {
            Some(_) => Some(self.path(&raw.file, "")?),
            None => None,
        };
        let settings = raw.settings.iter().map(|(k, v)| (k.clone(), json_of(v))).collect();
        Ok(PolicyConfig { file, pin, settings })
    }

    fn license(&self, raw: &RawLicense) -> Result<LicenseConfig> {
        Ok(LicenseConfig {
            trusted_keys: self.keys(&raw.trusted_keys, "license.trusted_keys")?,
            document: self.path(&raw.document, defaults::LICENSE_DOCUMENT)?,
        })
    }

    fn alignment_ms(&self, raw: &RawConfig) -> Result<u64> {
        self.number(
            &raw.alignment.bound_ms,
            "alignment.bound_ms",
            defaults::ALIGNMENT_BOUND_MS,
            defaults::ALIGNMENT_BOUND_MS_MIN..=defaults::ALIGNMENT_BOUND_MS_MAX,
        )
    }

    fn journal_bytes(&self, raw: &RawConfig) -> Result<u64> {
        let megabytes = self.number(
            &raw.journal.megabytes_max,
            "journal.megabytes_max",
            defaults::JOURNAL_MEGABYTES,
            defaults::JOURNAL_MEGABYTES_MIN..=defaults::JOURNAL_MEGABYTES_MAX,
        )?;
        Ok(megabytes * 1024 * 1024)
    }

    /// The table, or how to begin it.
    fn table<'r, T>(
        &self,
        raw: &'r Option<Spanned<T>>,
        head: &str,
        keys: &str,
    ) -> Result<(Range<usize>, &'r T)> {
        match raw {
            Some(table) => Ok((table.span(), table.get_ref())),
            None => Err(self.source.error_of_file(format!(
                "{head} is missing: add it with {keys} (see \
                                        examples/staffetta.toml)"
            ))),
        }
    }

    /// The value, or what to write at the table that lacks it.
    fn need<'r, T>(
        &self,
        value: &'r Option<T>,
        table: &Range<usize>,
        key: &str,
        write: &str,
    ) -> Result<&'r T> {
        value.as_ref().ok_or_else(|| {
            self.source.error(table.clone(), format!("`{key}` is missing here: write {write}"))
        })
    }

    fn count<T>(&self, what: &str, list: &[Spanned<T>], min: usize, max: usize) -> Result<()> {
        if list.len() < min {
            let text = format!(
                "no [[{what}]]: at least one is needed (see \
                                examples/staffetta.toml)"
            );
            return Err(self.source.error_of_file(text));
        }
        match list.get(max) {
            Some(first_too_many) => Err(self.source.error(
                first_too_many.span(),
                format!("{} [[{what}]] are too many: at most {max}", list.len()),
            )),
            None => Ok(()),
        }
    }

    fn name(&self, given: &Spanned<String>, key: &str) -> Result<String> {
        let name = given.get_ref();
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let fits = (1..=defaults::NAME_CHARS_MAX).contains(&name.chars().count());
        if fits && name.chars().all(allowed) {
            return Ok(name.clone());
        }
        let text =
            format!("{key} = {name:?}: write 1 to {} of a-z, 0-9, and -", defaults::NAME_CHARS_MAX);
        Err(self.source.error(given.span(), text))
    }

    fn site(&self, given: &Option<Spanned<String>>) -> Result<String> {
        let Some(given) = given else { return Ok(String::new()) };
        let site = given.get_ref();
        if site.chars().count() <= defaults::SITE_CHARS_MAX && !site.chars().any(char::is_control) {
            return Ok(site.clone());
        }
        let text = format!("site: write at most {} printable characters", defaults::SITE_CHARS_MAX);
        Err(self.source.error(given.span(), text))
    }

    fn interface(&self, given: &Spanned<String>) -> Result<String> {
        let name = given.get_ref();
        let allowed = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
        let fits = (1..=defaults::INTERFACE_CHARS_MAX).contains(&name.len());
        if fits && name.chars().all(allowed) && name != "." && name != ".." {
            return Ok(name.clone());
        }
        let text = format!(
            "vip.interface = {name:?}: write the name of an interface, 1 to {} characters, as `ip \
             link` shows it",
            defaults::INTERFACE_CHARS_MAX
        );
        Err(self.source.error(given.span(), text))
    }

    /// Address and port of one end of a link.
    fn end(&self, given: &Spanned<String>, key: &str) -> Result<SocketAddr> {
        let end = self.socket(given, key)?;
        let (ip, fail) = (end.ip(), |text: &str| self.source.error(given.span(), text));
        let link_local = match ip {
            IpAddr::V4(_) => false,
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        if ip.is_unspecified() || ip.is_multicast() || link_local {
            return Err(fail(&format!(
                "{key}: {ip} does not name one node: write the node's own address on this link"
            )));
        }
        if end.port() == 0 {
            return Err(fail(&format!("{key}: write a port from 1 to 65535, usually 7411")));
        }
        Ok(end)
    }

    fn socket(&self, given: &Spanned<String>, key: &str) -> Result<SocketAddr> {
        given.get_ref().parse().map_err(|_| {
            self.source.error(
                given.span(),
                format!(
                    "{key} = {:?}: write IP address and port, like 10.77.0.1:7411 or \
                     [2001:db8::1]:7411",
                    given.get_ref()
                ),
            )
        })
    }

    fn keys(&self, list: &[Spanned<String>], key: &str) -> Result<Vec<[u8; 32]>> {
        if let Some(first_too_many) = list.get(defaults::TRUSTED_KEYS_MAX) {
            let text = format!("{key}: at most {} keys", defaults::TRUSTED_KEYS_MAX);
            return Err(self.source.error(first_too_many.span(), text));
        }
        let one = |given: &Spanned<String>| {
            parse_hex::<32>(given.get_ref()).ok_or_else(|| {
                let text = format!(
                    "{key}: a key is 64 hex digits, as `staffetta license keygen` prints \
                             it"
                );
                self.source.error(given.span(), text)
            })
        };
        list.iter().map(one).collect()
    }

    fn number(
        &self,
        given: &Option<Spanned<u64>>,
        key: &str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<u64> {
        let Some(given) = given else { return Ok(default) };
        if range.contains(given.get_ref()) {
            return Ok(*given.get_ref());
        }
        let text = format!(
            "{key} = {}: write a number from {} to {}",
            given.get_ref(),
            range.start(),
            range.end()
        );
        Err(self.source.error(given.span(), text))
    }

    /// A path, relative to the folder of the configuration.
    fn path(&self, given: &Option<Spanned<String>>, default: &str) -> Result<PathBuf> {
        let text = match given {
            Some(given) if given.get_ref().is_empty() || given.get_ref().contains('\0') => {
                return Err(self.source.error(given.span(), "write a path here"));
            }
            Some(given) => given.get_ref().as_str(),
            None => default,
        };
        let folder = self.source.path.parent().unwrap_or(Path::new(""));
        Ok(folder.join(text))
    }
}

/// Address and prefix length of a service address; else what to write.
pub(crate) fn vip_address(text: &str) -> std::result::Result<(IpAddr, u8), String> {
    let write = "write address and prefix length, like 10.77.0.50/24";
    let not = || format!("`{text}` is not a service address: {write}");
    let (address, prefix) = text.split_once('/').ok_or_else(not)?;
    let address: IpAddr = address.parse().map_err(|_| not())?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix: u8 = prefix.parse().map_err(|_| not())?;
    if prefix == 0 || prefix > bits {
        return Err(format!("/{prefix} is no prefix length here: write 1 to {bits}"));
    }
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        return Err(format!("{address} cannot be a service address: {write}"));
    }
    if let IpAddr::V4(v4) = address
        && prefix < 31
    {
        let host = u32::from(v4) & (u32::MAX >> prefix);
        if host == 0 || host == u32::MAX >> prefix {
            return Err(format!(
                "{address} is the network's or the broadcast address of its /{prefix}: write an \
                 address of a host"
            ));
        }
    }
    Ok((address, prefix))
}

fn json_of(value: &toml::Value) -> serde_json::Value {
    match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(flag) => (*flag).into(),
        toml::Value::Datetime(moment) => moment.to_string().into(),
        toml::Value::Array(list) => list.iter().map(json_of).collect(),
        toml::Value::Table(table) => {
            serde_json::Value::Object(table.iter().map(|(k, v)| (k.clone(), json_of(v))).collect())
        }
    }
}
