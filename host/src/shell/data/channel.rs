//! The bulk channel of this node: one listener, and a dialer for each purpose.

use crate::config::{Config, LinkConfig};
use anyhow::Context;
use staffetta_bulk::{
    Bandwidth, Credentials, Dialer, DialerConfig, Listener, ListenerConfig, Purpose, Reception,
    Stream, Wake,
};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// Who uses the channel.
pub(super) struct User {
    pub(super) purpose: Purpose,
    pub(super) streams: Sender<Stream>,
    pub(super) wake: Wake,
    /// Whether this node leads, so that the peer's stream is wanted.
    pub(super) leads: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// Listens while this node leads, and dials while it does not.
pub(super) struct Channel {
    dialers: Vec<Dialer>,
    _listener: Listener,
}

impl Channel {
    /// # Errors
    /// When a certificate or a port cannot be had; names it.
    pub(super) fn start(config: &Config, users: Vec<User>) -> anyhow::Result<Channel> {
        let secret = *config.secret()?.bytes();
        let names = (&config.node.name, &config.peer.name);
        let credentials = Credentials::derive(&secret, config.cluster.id, names.0, names.1)?;
        let cap = config.bulk.bytes_per_s_max.and_then(NonZeroU64::new);
        let bandwidth = Bandwidth::new(cap);
        let listener = listen(config, &users, &credentials, &bandwidth)?;
        let route = |link: &LinkConfig| {
            let from = SocketAddr::new(link.local.ip(), 0);
            (from, SocketAddr::new(link.peer.ip(), config.bulk.port))
        };
        let dial = |user: User| {
            Dialer::start(DialerConfig {
                credentials: credentials.clone(),
                bandwidth: bandwidth.clone(),
                routes: config.links.iter().map(route).collect(),
                purpose: user.purpose,
                payload: Arc::new(Vec::new),
                streams: user.streams,
                wake: user.wake,
            })
        };
        let dialers: Vec<Dialer> = users.into_iter().map(dial).collect::<Result<_, _>>()?;
        let channel = Channel { dialers, _listener: listener };
        channel.resume();
        Ok(channel)
    }

    pub(super) fn pause(&self) {
        self.dialers.iter().for_each(Dialer::pause);
    }

    pub(super) fn resume(&self) {
        self.dialers.iter().for_each(Dialer::resume);
    }

    /// Whether every purpose has its stream to the primary.
    pub(super) fn is_connected(&self) -> bool {
        self.dialers.iter().all(Dialer::is_connected)
    }

    /// Why one has none.
    pub(super) fn trouble(&self) -> Option<String> {
        let failing = self.dialers.iter().filter(|dialer| !dialer.is_connected());
        failing.filter_map(Dialer::trouble).map(|error| error.to_string()).next()
    }
}

/// Takes streams of the standby while this node leads.
fn listen(
    config: &Config,
    users: &[User],
    credentials: &Credentials,
    bandwidth: &Bandwidth,
) -> anyhow::Result<Listener> {
    let reception = |user: &User| {
        let leads = Arc::clone(&user.leads);
        Reception {
            purpose: user.purpose,
            streams: user.streams.clone(),
            wake: Arc::clone(&user.wake),
            answer: Arc::new(move |_| match leads() {
                true => Ok(Vec::new()),
                false => Err("this node is not primary".into()),
            }),
        }
    };
    Listener::start(ListenerConfig {
        credentials: credentials.clone(),
        bandwidth: bandwidth.clone(),
        addresses: addresses(config),
        expected: config.links.iter().map(|link| link.peer.ip()).collect(),
        receptions: users.iter().map(reception).collect(),
    })
    .context("cannot listen for the bulk channel ([bulk] port)")
}

/// One socket for each address, however many links share it.
fn addresses(config: &Config) -> Vec<SocketAddr> {
    let own = |link: &LinkConfig| SocketAddr::new(link.local.ip(), config.bulk.port);
    let mut all: Vec<SocketAddr> = config.links.iter().map(own).collect();
    all.sort();
    all.dedup();
    all
}
