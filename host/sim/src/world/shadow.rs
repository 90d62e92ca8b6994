//! What a node has been granted, kept beside the core and by nothing of the core: the yardstick for
//! every lease it claims (R3, R6, R10, R13).

use staffetta_core::{Beat, Epoch, Mono, Register, Reply, Request, RequestId, Span, Timing};

const SENT_MAX: usize = 512;
const REQUESTS_MAX: usize = 32;

/// One life's grants.
#[derive(Debug, Clone)]
pub(crate) struct Shadow {
    boot: u64,
    sent: Vec<(u64, Mono)>,
    /// Newest grant of the peer: its epoch and the end of the lease.
    granted: Option<(Epoch, Mono)>,
    hand: Option<(Epoch, Mono)>,
    requests: Vec<(RequestId, Mono, Register)>,
    arbiter: Option<(Epoch, Mono)>,
    pub last_heard: Mono,
    pub awake_since: Mono,
    /// Highest epoch that this life, or an earlier one, granted the peer.
    pub granted_max: Epoch,
    pub epoch: Epoch,
}

impl Default for Shadow {
    fn default() -> Shadow {
        Shadow {
            boot: 0,
            sent: Vec::new(),
            granted: None,
            hand: None,
            requests: Vec::new(),
            arbiter: None,
            last_heard: Mono::ZERO,
            awake_since: Mono::ZERO,
            granted_max: Epoch::NONE,
            epoch: Epoch::NONE,
        }
    }
}

impl Shadow {
    pub(crate) fn boot(&mut self, boot: u64, now: Mono) {
        let granted_max = self.granted_max;
        *self = Shadow { boot, granted_max, awake_since: now, ..Shadow::default() };
        self.last_heard = now;
    }

    pub(crate) fn sent(&mut self, beat: &Beat, now: Mono) {
        if self.sent.is_empty() {
            self.sent = vec![(0, Mono::ZERO); SENT_MAX];
        }
        self.sent[(beat.n % SENT_MAX as u64) as usize] = (beat.n, now);
        if let Some(echo) = beat.echo {
            self.granted_max = self.granted_max.max(echo.granted);
        }
    }

    pub(crate) fn sent_at(&self, n: u64) -> Option<Mono> {
        let (kept, at) = *self.sent.get((n % SENT_MAX as u64) as usize)?;
        (kept == n && n > 0).then_some(at)
    }

    pub(crate) fn heard(&mut self, beat: &Beat, timing: &Timing, now: Mono) {
        self.last_heard = now;
        if let Some(echo) = beat.echo.filter(|echo| echo.boot == self.boot)
            && echo.granted > Epoch::NONE
            && let Some(sent) = self.sent_at(echo.n)
        {
            let until = sent + timing.granted();
            let newer = self.granted.is_none_or(|(e, u)| (e, u) < (echo.granted, until));
            if newer {
                self.granted = Some((echo.granted, until));
            }
        }
        if let Some(hand) = beat.hand.filter(|hand| hand.boot == self.boot)
            && let Some(sent) = self.sent_at(hand.n)
        {
            self.hand = Some((hand.epoch, sent + timing.granted()));
        }
    }

    pub(crate) fn asked(&mut self, id: RequestId, request: &Request, now: Mono) {
        if let Request::Swap { to, .. } = request {
            if self.requests.len() == REQUESTS_MAX {
                self.requests.remove(0);
            }
            self.requests.push((id, now, *to));
        }
    }

    pub(crate) fn told(&mut self, id: RequestId, reply: &Reply, timing: &Timing) {
        let Some(at) = self.requests.iter().position(|(asked, ..)| *asked == id) else { return };
        let (_, sent, to) = self.requests.remove(at);
        if *reply == Reply::Swapped && to.alone {
            let until = sent + timing.granted();
            let newer = self.arbiter.is_none_or(|(e, u)| (e, u) < (to.epoch, until));
            if newer {
                self.arbiter = Some((to.epoch, until));
            }
        }
    }

    /// Until when a node that reigns `epoch` may serve, by everything it was granted.
    pub(crate) fn allowed(&self, epoch: Epoch, timing: &Timing, arbiter: bool, now: Mono) -> Mono {
        let of = |grant: Option<(Epoch, Mono)>| {
            grant.filter(|(of, _)| *of == epoch).map_or(Mono::ZERO, |(_, until)| until)
        };
        let granted = of(self.granted).max(of(self.hand)).max(of(self.arbiter));
        let listened = now.since(self.last_heard.max(self.awake_since));
        let own = if !arbiter && listened + Span(1_000) >= timing.silence() {
            now + timing.self_granted()
        } else {
            Mono::ZERO
        };
        granted.max(own)
    }
}
