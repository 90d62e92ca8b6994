//! What a node has been granted, kept beside the core and by nothing of the core: the yardstick for
//! every lease it claims (R3, R6, R10, R13).

use staffetta_core::{Beat, Epoch, Mono, Register, Reply, Request, RequestId, Span, TimingParts};

const SENT_MAX: usize = 512;
const REQUESTS_MAX: usize = 32;
const SEEN_MAX: usize = 16;

/// The times of the protocol, from the configuration and not from the core: what the core makes of
/// them is under test.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    parts: TimingParts,
}

impl Times {
    pub(crate) fn new(parts: &TimingParts) -> Times {
        Times { parts: *parts }
    }

    /// Lg = L·(1−ρ).
    fn granted(&self) -> Span {
        self.parts.lease.scaled(999_000, 1_000_000)
    }

    /// K = D + 2h.
    fn silence(&self) -> Span {
        self.parts.delay + self.parts.beat.times(2)
    }

    /// Lself = Lg − D − 2h.
    fn self_granted(&self) -> Span {
        self.granted().minus(self.silence())
    }
}

/// Lp = (L + G)·(1+ρ).
fn promised(lease: Span, slack: Span) -> Span {
    (lease + slack).scaled(1_001_000, 1_000_000)
}

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
    /// What the register held, each with the receipt of the first answer that showed it: answers
    /// overtake each other.
    seen: Vec<(Register, Mono)>,
    /// End of the lease that the gate was last armed for.
    armed: Mono,
    /// What this node promised the peer, over all its lives: no claim of its own before this.
    promise: Mono,
    echoed: (u64, u64),
    /// Life and number of the peer's newest beat, and L and G in it.
    newest: (u64, u64),
    peer: (Span, Span),
    pub last_heard: Mono,
    pub awake_since: Mono,
    /// When the clocks last stood still.
    stood: Option<Mono>,
    /// Highest epoch that this life, or an earlier one, granted the peer.
    pub granted_max: Epoch,
    /// End of the longest lease that the present reign took alone.
    own: Mono,
    /// Epoch of the reign when it began, and now.
    pub reign: Option<(Epoch, Epoch)>,
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
            seen: Vec::new(),
            armed: Mono::ZERO,
            promise: Mono::ZERO,
            echoed: (0, 0),
            newest: (0, 0),
            peer: (Span::ZERO, Span::ZERO),
            last_heard: Mono::ZERO,
            awake_since: Mono::ZERO,
            stood: None,
            granted_max: Epoch::NONE,
            own: Mono::ZERO,
            reign: None,
        }
    }
}

impl Shadow {
    pub(crate) fn boot(&mut self, boot: u64, now: Mono) {
        let (granted_max, promise) = (self.granted_max, self.promise);
        *self = Shadow { boot, granted_max, promise, awake_since: now, ..Shadow::default() };
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
        if let Some(hand) = beat.hand {
            self.granted_max = self.granted_max.max(hand.epoch);
        }
    }

    /// A beat was decided: the grant in it binds from now on.
    pub(crate) fn promises(&mut self, beat: &Beat, now: Mono) {
        if let Some(echo) = beat.echo.filter(|echo| echo.granted > Epoch::NONE)
            && self.echoed != (echo.boot, echo.n)
        {
            self.echoed = (echo.boot, echo.n);
            let (lease, slack) = self.peer;
            self.promise = self.promise.max(now + promised(lease, slack));
        }
        if beat.hand.is_some() {
            // What is waited for is the gate of the receiver.
            let (lease, slack) = self.peer;
            self.promise = self.promise.max(now + promised(lease, slack));
        }
    }

    /// What is left of the promise that a claim of this epoch breaks; nothing where the peer itself
    /// granted it. The reign that begins is bound by nothing.
    pub(crate) fn breaks_promise(&mut self, epoch: Epoch, now: Mono) -> Span {
        let by_peer = |grant: Option<(Epoch, Mono)>| grant.is_some_and(|(of, _)| of == epoch);
        let promise = std::mem::take(&mut self.promise);
        if by_peer(self.granted) || by_peer(self.hand) { Span::ZERO } else { promise.since(now) }
    }

    pub(crate) fn sent_at(&self, n: u64) -> Option<Mono> {
        let (kept, at) = *self.sent.get((n % SENT_MAX as u64) as usize)?;
        (kept == n && n > 0).then_some(at)
    }

    pub(crate) fn heard(&mut self, beat: &Beat, timing: &Times, now: Mono) {
        self.last_heard = now;
        if self.newest.0 != beat.boot || self.newest.1 < beat.n {
            self.newest = (beat.boot, beat.n);
            self.peer = (beat.lease, beat.slack);
        }
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
            let until = sent + timing.granted();
            // An older hand that comes late takes nothing of a newer one back.
            if self.hand.is_none_or(|(e, u)| (e, u) < (hand.epoch, until)) {
                self.hand = Some((hand.epoch, until));
            }
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

    /// R6 and R8: what is wrong with a write that was decided, if anything is: how much of the
    /// rival's lease is left, or by how much its own lease outlives the grants it will live on.
    pub(crate) fn write_is_early(&mut self, request: &Request, now: Mono) -> Span {
        let Request::Swap { expect, to } = request else { return Span::ZERO };
        let rival = expect.filter(|held| held.alone && held.holder() != to.holder());
        let until = |of: Option<(Epoch, Mono)>| of.map_or(Mono::ZERO, |(_, until)| until);
        let leased = until(self.granted).max(until(self.hand));
        match rival {
            Some(held) if leased <= now || self.reign.is_none() => {
                let seen = self.seen.iter().find(|(register, _)| *register == held);
                let since = seen.map_or(now, |(_, since)| *since);
                (since + promised(held.lease, held.slack)).since(now)
            }
            _ if !to.alone && self.reign.is_some() => {
                // From here on the node lives on grants alone.
                self.arbiter = None;
                self.armed.since(leased)
            }
            Some(_) | None => Span::ZERO,
        }
    }

    /// The gate is armed until then.
    pub(crate) fn armed(&mut self, until: Mono) {
        self.armed = until;
    }

    pub(crate) fn told(&mut self, id: RequestId, reply: &Reply, timing: &Times, now: Mono) {
        if let Reply::Holds(Some(held)) = reply
            && self.seen.iter().all(|(seen, _)| seen != held)
        {
            if self.seen.len() == SEEN_MAX {
                self.seen.remove(0);
            }
            self.seen.push((*held, now));
        }
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

    pub(crate) fn armed_until(&self) -> Mono {
        self.armed
    }

    /// The clocks stand still.
    pub(crate) fn stands(&mut self, now: Mono) {
        self.stood = Some(now);
    }

    /// End of the last lease that was granted to the present reign, under any of its numbers.
    fn leased(&self) -> Mono {
        let Some((from, to)) = self.reign else { return Mono::ZERO };
        let of = |grant: Option<(Epoch, Mono)>| {
            grant.filter(|(of, _)| (from..=to).contains(of)).map_or(Mono::ZERO, |(_, until)| until)
        };
        of(self.granted).max(of(self.hand)).max(of(self.arbiter))
    }

    /// Whether the present reign lives on what was granted before the clocks stood still: of what
    /// became of it since, its node cannot know.
    pub(crate) fn resumes(&self, timing: &Times) -> bool {
        let until = self.leased();
        let before = |stood: Mono| until > stood && until <= stood + timing.granted();
        self.stood.is_some_and(before)
    }

    /// The reign is over, or another one begins.
    pub(crate) fn reign_ends(&mut self) {
        self.reign = None;
        self.own = Mono::ZERO;
    }

    /// Until when the present reign may serve, by everything it was granted.
    pub(crate) fn allowed(&mut self, timing: &Times, arbiter: bool, now: Mono) -> Mono {
        if self.reign.is_none() {
            return Mono::ZERO;
        }
        let listened = now.since(self.last_heard.max(self.awake_since));
        let own = if !arbiter && listened + Span(1_000) >= timing.silence() {
            now + timing.self_granted()
        } else {
            Mono::ZERO
        };
        self.own = self.own.max(own);
        self.leased().max(self.own)
    }
}
