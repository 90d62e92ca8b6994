//! What only the host can show to be wrong: a service address that its interface's network does not
//! contain.

use std::net::IpAddr;

use super::{Config, ConfigError, VipConfig};

/// Compares the service addresses with `addresses`: (interface, address, prefix length) of this
/// host. An address on `lo` is allowed: a router may announce it.
#[must_use]
pub fn check_against_host(config: &Config, addresses: &[(String, IpAddr, u8)]) -> Vec<ConfigError> {
    let on_host = |vip: &VipConfig| -> Option<ConfigError> {
        if vip.interface == "lo" {
            return None;
        }
        let own: Vec<(IpAddr, u8)> = addresses
            .iter()
            .filter(|(interface, address, _)| {
                *interface == vip.interface
                    && address.is_ipv4() == vip.address.is_ipv4()
                    && *address != vip.address
            })
            .map(|(_, address, prefix)| (*address, *prefix))
            .collect();
        if own.iter().any(|(address, prefix)| same_network(*address, vip.address, *prefix)) {
            return None;
        }
        let text = if own.is_empty() {
            format!(
                "{} has no {} address of its own, so {} would not be reachable there (give it \
                 one, or name another \
                 interface)",
                vip.interface,
                if vip.address.is_ipv4() { "IPv4" } else { "IPv6" },
                vip.address
            )
        } else {
            let networks: Vec<String> =
                own.iter().map(|(address, prefix)| format!("{address}/{prefix}")).collect();
            format!(
                "{} is outside of the networks of {} ({}): write an address inside of one of \
                 them, or put it on `lo`",
                vip.address,
                vip.interface,
                networks.join(", ")
            )
        };
        Some(ConfigError { path: config.path.clone(), line: Some(vip.line), text })
    };
    config.vips.iter().filter_map(on_host).collect()
}

/// True when both addresses have the same first `prefix` bits.
fn same_network(a: IpAddr, b: IpAddr, prefix: u8) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            (u32::from(a) ^ u32::from(b)) & mask == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            (u128::from(a) ^ u128::from(b)) & mask == 0
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}
