//! `staffetta arbiter check`: tries the arbiter on scratch keys and measures it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use staffetta_core::{Register, Reply, Request};

use crate::client::{Client, EndpointStatus, Inner, Limit};
use crate::message::{self, From, LEASE_GRANT, LEASE_REVOKE, RANGE, Swapped, TXN};
use crate::{ArbiterError, Endpoint};

/// Life of a scratch key whose check was broken off.
const SCRATCH_S: u64 = 600;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// Key of the register.
    pub key: String,
    /// What the register holds; `None` before the first primary created it.
    pub register: Result<Option<Register>, ArbiterError>,
    /// Every endpoint, in the order of the configuration.
    pub endpoints: Vec<EndpointReport>,
    /// Two endpoints that do not lead to the same etcd cluster.
    pub mixed: Option<ArbiterError>,
}

/// What a check found at one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointReport {
    /// Which one.
    pub endpoint: Endpoint,
    /// What it says of itself.
    pub status: Result<EndpointStatus, ArbiterError>,
    /// Linearizable reads.
    pub reads: Option<Latencies>,
    /// Compare-and-set swaps.
    pub swaps: Option<Latencies>,
    /// What ended the trial early; the latencies are those before it.
    pub error: Option<ArbiterError>,
}

/// Round trips of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latencies {
    /// How many.
    pub count: usize,
    /// The shortest.
    pub min: Duration,
    /// Half of them were not longer.
    pub p50: Duration,
    /// 99 of 100 were not longer.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl CheckReport {
    /// Nothing went wrong on any endpoint.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let good = |report: &EndpointReport| report.status.is_ok() && report.error.is_none();
        self.register.is_ok() && self.mixed.is_none() && self.endpoints.iter().all(good)
    }

    /// The longest 99th percentile of a swap: what a primary that is alone has to live with.
    #[must_use]
    pub fn swap_p99_max(&self) -> Option<Duration> {
        let swaps = self.endpoints.iter().filter_map(|report| report.swaps);
        swaps.map(|latencies| latencies.p99).max()
    }
}

impl Latencies {
    /// Of some round trips; `None` of none.
    #[must_use]
    pub fn of(mut times: Vec<Duration>) -> Option<Latencies> {
        times.sort_unstable();
        let (min, max) = (*times.first()?, *times.last()?);
        // The nearest rank: the smallest one that `percent` of all do not exceed.
        let rank = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1];
        Some(Latencies { count: times.len(), min, p50: rank(50), p99: rank(99), max })
    }
}

pub(crate) async fn run(
    client: &Client,
    inner: &Arc<Inner>,
    n: u32,
    timeout: Duration,
) -> CheckReport {
    let register = match client.ask(Request::Read, timeout).await {
        Reply::Holds(register) => Ok(register),
        Reply::Swapped | Reply::Failed => {
            let last = client.last_error().map(|last| last.error);
            Err(last.unwrap_or_else(|| inner.no_answer(&[], timeout)))
        }
    };
    // Unlike that of every other check, on this node or the other.
    let run = RandomState::new().hash_one(std::process::id());
    let (mut endpoints, mut mixed) = (Vec::new(), None);
    for (at, endpoint) in client.endpoints().iter().enumerate() {
        let status = client.status(at, timeout).await;
        let mut trial = Trial {
            inner,
            at,
            timeout,
            key: inner.config.scratch_key(&format!("{run:016x}-{at}")),
            reads: Vec::new(),
            swaps: Vec::new(),
        };
        let error = if status.is_ok() { trial.run(n, &mut mixed).await.err() } else { None };
        endpoints.push(EndpointReport {
            endpoint: endpoint.clone(),
            status,
            reads: Latencies::of(trial.reads),
            swaps: Latencies::of(trial.swaps),
            error,
        });
    }
    let mixed = other_cluster(&endpoints).or(mixed);
    CheckReport { key: client.key().to_owned(), register, mixed, endpoints }
}

/// All that answer must name the same etcd cluster.
fn other_cluster(endpoints: &[EndpointReport]) -> Option<ArbiterError> {
    let id = |report: &EndpointReport| Some(report.status.as_ref().ok()?.cluster_id);
    let mut known = endpoints.iter().filter_map(|report| Some((&report.endpoint, id(report)?)));
    let (other, other_id) = known.next()?;
    let (endpoint, id) = known.find(|(_, id)| *id != other_id)?;
    let (endpoint, other) = (endpoint.to_string(), other.to_string());
    Some(ArbiterError::OtherCluster { endpoint, id, other, other_id })
}

/// Reads and swaps of a scratch key on one endpoint.
struct Trial<'a> {
    inner: &'a Arc<Inner>,
    at: usize,
    timeout: Duration,
    key: String,
    reads: Vec<Duration>,
    swaps: Vec<Duration>,
}

impl Trial<'_> {
    async fn run(&mut self, n: u32, mixed: &mut Option<ArbiterError>) -> Result<(), ArbiterError> {
        let body = message::lease_grant(SCRATCH_S);
        let lease = self.ask(LEASE_GRANT, body, message::read_lease).await?;
        let result = self.run_with(&lease, n).await;
        if result.is_ok() && mixed.is_none() {
            *mixed = self.unseen_elsewhere().await;
        }
        // The key goes with its lease.
        let revoked = self.ask(LEASE_REVOKE, message::lease_revoke(&lease), |_| Ok(())).await;
        result.and(revoked)
    }

    /// What was written on this endpoint must be seen on every other one that answers. Two etcds
    /// that were started with the same words have the same cluster id, and two registers.
    async fn unseen_elsewhere(&self) -> Option<ArbiterError> {
        for at in (0..self.inner.endpoints.len()).filter(|at| *at != self.at) {
            let limit = Limit::new(self.timeout);
            let post = limit.post(RANGE, message::range(&self.key));
            let read = |body: &[u8]| message::read_range(body, &self.key);
            if let Ok(From { answer: None, .. }) = self.inner.ask_one(at, &post, limit, read).await
            {
                let endpoint = self.inner.endpoints[at].name().to_owned();
                let here = self.inner.endpoints[self.at].name();
                let what = format!("it does not show what was written on {here}");
                return Some(ArbiterError::Broken { endpoint, what });
            }
        }
        None
    }

    async fn run_with(&mut self, lease: &str, n: u32) -> Result<(), ArbiterError> {
        let text = |number: u32| format!("{{\"check\":{number}}}").into_bytes();
        self.swap(None, &text(0), lease, &Swapped::Made).await?;
        // What must not be made: create it again, replace what it does not hold.
        let held = Swapped::Holds(Some(text(0)));
        self.swap(None, &text(1), lease, &held).await?;
        self.swap(Some(&text(9)), &text(1), lease, &held).await?;
        for number in 0..n {
            let began = Instant::now();
            self.swap(Some(&text(number)), &text(number + 1), lease, &Swapped::Made).await?;
            self.swaps.push(began.elapsed());
            let began = Instant::now();
            self.read(&text(number + 1)).await?;
            self.reads.push(began.elapsed());
        }
        Ok(())
    }

    async fn swap(
        &self,
        expect: Option<&[u8]>,
        to: &[u8],
        lease: &str,
        due: &Swapped,
    ) -> Result<(), ArbiterError> {
        let body = message::swap(&self.key, expect, to, Some(lease));
        let answer = self.ask(TXN, body, |body| message::read_swap(body, &self.key)).await?.answer;
        if answer == *due {
            Ok(())
        } else {
            Err(self.broken(&format!("a swap ended as {answer:?} and not as {due:?}")))
        }
    }

    async fn read(&self, due: &[u8]) -> Result<(), ArbiterError> {
        let body = message::range(&self.key);
        let answer = self.ask(RANGE, body, |body| message::read_range(body, &self.key)).await?;
        if answer.answer.as_deref() == Some(due) {
            Ok(())
        } else {
            Err(self.broken("a read did not show the swap before it"))
        }
    }

    async fn ask<T>(
        &self,
        path: &'static str,
        body: Bytes,
        read: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<T, ArbiterError> {
        let limit = Limit::new(self.timeout);
        self.inner.ask_one(self.at, &limit.post(path, body), limit, read).await
    }

    fn broken(&self, what: &str) -> ArbiterError {
        let endpoint = self.inner.endpoints[self.at].name().to_owned();
        ArbiterError::Broken { endpoint, what: what.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        assert_eq!(Latencies::of(Vec::new()), None);
        let ms = Duration::from_millis;
        let all = Latencies::of((1..=200).rev().map(ms).collect()).expect("there are some");
        assert_eq!((all.count, all.min, all.max), (200, ms(1), ms(200)));
        assert_eq!((all.p50, all.p99), (ms(100), ms(198)));
        let one = Latencies::of(vec![ms(3)]).expect("there is one");
        assert_eq!((one.p50, one.p99), (ms(3), ms(3)));
    }
}
