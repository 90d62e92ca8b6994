//! Contradictions between values that are fine by themselves.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;

use super::super::error::Source;
use super::super::raw::RawConfig;
use super::super::{Config, ConfigError};
use super::Result;

pub(super) fn refuse(config: &Config, raw: &RawConfig, source: Source<'_>) -> Result<()> {
    nodes(config, raw, source)?;
    names(raw, source)?;
    links(config, raw, source)?;
    vips(config, raw, source)?;
    references(config, raw, source)?;
    trees(config, raw, source)
}

/// Where a value is; the beginning of the file for what is there by construction.
fn span<T>(value: Option<&Spanned<T>>) -> Range<usize> {
    value.map_or(0..0, Spanned::span)
}

fn nodes(config: &Config, raw: &RawConfig, source: Source<'_>) -> Result<()> {
    let peer = raw.peer.as_ref().map(Spanned::get_ref);
    if config.node.name == config.peer.name {
        let text = format!(
            "node and peer are both named {:?}: write the other node's name here",
            config.peer.name
        );
        return Err(source.error(span(peer.and_then(|p| p.name.as_ref())), text));
    }
    if config.node.preferred && config.peer.preferred {
        let text = "both nodes are preferred: write preferred = true on one of them only";
        return Err(source.error(span(peer.and_then(|p| p.preferred.as_ref())), text));
    }
    Ok(())
}

fn names(raw: &RawConfig, source: Source<'_>) -> Result<()> {
    unique(source, "link", raw.link.iter().filter_map(|l| l.get_ref().name.as_ref()))?;
    unique(source, "reference", raw.reference.iter().filter_map(|r| r.get_ref().name.as_ref()))?;
    unique(source, "check", raw.check.iter().filter_map(|c| c.get_ref().name.as_ref()))?;
    unique(source, "fact", raw.fact.iter().filter_map(|f| f.get_ref().name.as_ref()))
}

fn unique<'a>(
    source: Source<'_>,
    what: &str,
    names: impl Iterator<Item = &'a Spanned<String>>,
) -> Result<()> {
    let named = names.map(|name| (name.get_ref().as_str(), name.span()));
    first_twice(source, named, |name, line| {
        format!("a [[{what}]] named {name:?} is there already on line {line}: write another name")
    })
}

/// Fails at the second of two equal keys; `text` gets the key and the line of the first.
pub(super) fn first_twice<K: Eq + Hash + Copy>(
    source: Source<'_>,
    items: impl Iterator<Item = (K, Range<usize>)>,
    text: impl Fn(K, usize) -> String,
) -> std::result::Result<(), ConfigError> {
    let mut seen: HashMap<K, usize> = HashMap::new();
    for (key, span) in items {
        if let Some(line) = seen.insert(key, source.line(span.start)) {
            return Err(source.error(span, text(key, line)));
        }
    }
    Ok(())
}

fn links(config: &Config, raw: &RawConfig, source: Source<'_>) -> Result<()> {
    for (link, raw) in config.links.iter().zip(&raw.link) {
        let peer = span(raw.get_ref().peer.as_ref());
        if link.local.ip() == link.peer.ip() {
            let text = format!(
                "link {:?}: both ends are {}: write the peer's address here",
                link.name,
                link.peer.ip()
            );
            return Err(source.error(peer, text));
        }
        if link.local.is_ipv4() != link.peer.is_ipv4() {
            let text = format!(
                "link {:?}: {} and {} are of different families: write two IPv4 or two IPv6 \
                 addresses",
                link.name,
                link.local.ip(),
                link.peer.ip()
            );
            return Err(source.error(peer, text));
        }
    }
    let ends = |local: bool| {
        config.links.iter().zip(&raw.link).map(move |(link, raw)| {
            let raw = raw.get_ref();
            if local {
                (link.local, span(raw.local.as_ref()))
            } else {
                (link.peer, span(raw.peer.as_ref()))
            }
        })
    };
    for local in [true, false] {
        first_twice(source, ends(local), |end, line| {
            format!("{end} is used by the link of line {line} already: two links must be two paths")
        })?;
    }
    Ok(())
}

fn vips(config: &Config, raw: &RawConfig, source: Source<'_>) -> Result<()> {
    let spans = raw.vip.iter().map(|vip| span(vip.get_ref().address.as_ref()));
    let addresses = || config.vips.iter().map(|vip| vip.address).zip(spans.clone());
    first_twice(source, addresses(), |address, line| {
        format!("service address {address} is there already on line {line}: remove one of them")
    })?;
    for (address, span) in addresses() {
        if let Some(link) =
            config.links.iter().find(|link| link.local.ip() == address || link.peer.ip() == address)
        {
            let text = format!(
                "service address {address} is an end of link {:?}: the address that moves must \
                 differ from those that \
                 stay",
                link.name
            );
            return Err(source.error(span, text));
        }
    }
    Ok(())
}

fn references(config: &Config, raw: &RawConfig, source: Source<'_>) -> Result<()> {
    let in_pair = |address: IpAddr| {
        config.vips.iter().any(|vip| vip.address == address)
            || config.links.iter().any(|l| l.local.ip() == address || l.peer.ip() == address)
            || address.is_loopback()
    };
    for (reference, raw) in config.references.iter().zip(&raw.reference) {
        if in_pair(reference.address) {
            let text = format!(
                "reference {:?}: {} belongs to the pair and tells nothing: write the gateway or \
                 another machine",
                reference.name, reference.address
            );
            return Err(source.error(span(raw.get_ref().address.as_ref()), text));
        }
    }
    Ok(())
}

/// A tree that held the node's own state would follow its own index.
fn trees(config: &Config, raw: &RawConfig, source: Source<'_>) -> Result<()> {
    let own = [&config.node.state_dir, &config.node.run_dir];
    for (tree, raw) in config.trees.iter().zip(&raw.tree) {
        let touches = |dir: &&&PathBuf| dir.starts_with(&tree.path) || tree.path.starts_with(dir);
        if let Some(dir) = own.iter().find(touches) {
            let text = format!(
                "tree.path: {} and the node's own folder {} are one, or one holds the other: name \
                 a folder of an application",
                tree.path.display(),
                dir.display()
            );
            return Err(source.error(span(raw.get_ref().path.as_ref()), text));
        }
    }
    Ok(())
}
