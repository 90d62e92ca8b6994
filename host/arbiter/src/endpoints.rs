//! Which endpoint is asked first, which last, and whether all belong to one etcd cluster.

use std::time::Duration;

use tokio::time::Instant;

use crate::SKIP_MS;

/// What is known of the endpoints, by their place in the configuration.
#[derive(Debug)]
pub(crate) struct Standing {
    /// The one that answered last.
    preferred: usize,
    /// Until when each is asked after all others.
    skipped_until: Vec<Option<Instant>>,
    /// The etcd cluster that each named last.
    clusters: Vec<Option<u64>>,
}

impl Standing {
    pub(crate) fn new(endpoints: usize) -> Self {
        Self { preferred: 0, skipped_until: vec![None; endpoints], clusters: vec![None; endpoints] }
    }

    /// All endpoints: the one that answered last, then the others in the order of the
    /// configuration, then those that failed lately, the one that failed first leading.
    pub(crate) fn order(&self, now: Instant) -> Vec<usize> {
        let count = self.skipped_until.len();
        let mut order: Vec<usize> = (0..count).map(|n| (self.preferred + n) % count).collect();
        order.sort_by_key(|&at| self.skipped_until[at].filter(|until| *until > now));
        order
    }

    /// It answered.
    pub(crate) fn answered(&mut self, at: usize) {
        self.preferred = at;
        self.skipped_until[at] = None;
    }

    /// It failed or was too slow.
    pub(crate) fn failed(&mut self, at: usize, now: Instant) {
        self.skipped_until[at] = Some(now + Duration::from_millis(SKIP_MS));
    }

    /// Notes the cluster of an endpoint.
    ///
    /// # Errors
    /// With an endpoint and its cluster, when that one named another cluster.
    pub(crate) fn belongs(&mut self, at: usize, cluster: u64) -> Result<(), (usize, u64)> {
        self.clusters[at] = Some(cluster);
        let others = self.clusters.iter().enumerate();
        let other = others.filter_map(|(at, id)| Some((at, (*id)?))).find(|(_, id)| *id != cluster);
        other.map_or(Ok(()), Err)
    }

    /// Whether an endpoint named its cluster, and no other one named another.
    pub(crate) fn is_known(&self, at: usize) -> bool {
        let cluster = self.clusters[at];
        cluster.is_some() && self.clusters.iter().all(|id| id.is_none() || *id == cluster)
    }

    /// The cluster of the endpoint that answered last.
    pub(crate) fn cluster(&self) -> Option<u64> {
        self.clusters[self.preferred]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_good_one_leads_and_the_failed_ones_follow() {
        let now = Instant::now();
        let later = |ms| now + Duration::from_millis(ms);
        let mut standing = Standing::new(4);
        assert_eq!(standing.order(now), [0, 1, 2, 3]);
        standing.failed(0, now);
        assert_eq!(standing.order(now), [1, 2, 3, 0]);
        standing.answered(2);
        assert_eq!(standing.order(now), [2, 3, 1, 0]);
        standing.failed(2, later(1));
        standing.failed(3, later(2));
        standing.failed(1, later(3));
        assert_eq!(standing.order(later(3)), [0, 2, 3, 1]);
        assert_eq!(standing.order(later(SKIP_MS + 1)), [2, 0, 3, 1]);
        assert_eq!(standing.order(later(SKIP_MS + 3)), [2, 3, 0, 1]);
    }

    #[test]
    fn one_cluster_or_none() {
        let mut standing = Standing::new(3);
        assert_eq!(standing.belongs(0, 7), Ok(()));
        assert!(standing.is_known(0) && !standing.is_known(1));
        assert_eq!(standing.belongs(1, 7), Ok(()));
        assert_eq!(standing.belongs(2, 8), Err((0, 7)));
        assert!((0..3).all(|at| !standing.is_known(at)), "a swap asks first");
        // The cluster was built anew: believed when the last endpoint says so.
        assert_eq!(standing.belongs(1, 8), Err((0, 7)));
        assert_eq!(standing.belongs(0, 8), Ok(()));
        assert_eq!(standing.cluster(), Some(8));
    }
}
