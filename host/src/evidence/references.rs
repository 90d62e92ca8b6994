//! References: addresses outside the pair whose reachability is evidence.

use super::Evidence;
use crate::config::{ReferenceConfig, ReferenceMethod};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// A reference is asked this often.
const INTERVAL: Duration = Duration::from_millis(500);
/// One question waits this long.
const TIMEOUT: Duration = Duration::from_millis(400);
/// Unanswered questions after which a reference is not reachable.
const FALL: u32 = 2;

/// Probes one reference until it is dropped; calls `changed` with an error text or nothing.
pub(crate) async fn run_references(
    evidence: Evidence,
    index: usize,
    config: ReferenceConfig,
    changed: impl Fn(Option<String>),
) {
    let method = match config.method {
        ReferenceMethod::Icmp => staffetta_vip::ReferenceMethod::Icmp,
        ReferenceMethod::Arp => staffetta_vip::ReferenceMethod::Arp,
    };
    let mut every = interval(INTERVAL);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut missed = 0;
    let mut said = None;
    loop {
        every.tick().await;
        let reachable = match staffetta_vip::probe_reference(config.address, method, TIMEOUT).await
        {
            Ok(answer) => answer.is_some(),
            Err(error) => {
                let text = format!("reference {}: {error}", config.name);
                if said.as_ref() != Some(&text) {
                    changed(Some(text.clone()));
                    said = Some(text);
                }
                false
            }
        };
        missed = if reachable { 0 } else { missed + 1 };
        if (reachable || missed >= FALL) && evidence.target(index, reachable) {
            changed(None);
        }
    }
}
