//! Phones on the service network: each trusts the holder of its ARP entry until an announcement
//! moves the entry or it expires. Their outages are what an operator hears of.

use super::{Due, MS, Ns, World};
use crate::coverage::Counter;
use crate::dice::Dice;

const CLIENTS: usize = 3;
/// Announcements after a claim or a meeting, beside the one at once, ms (as the daemon's).
const BURST_MS: [u64; 7] = [20, 50, 100, 250, 500, 1_000, 2_000];
const REFRESH_MS: u64 = 30_000;
/// A phone without an answer asks the network again after this.
const RETRY_MS: u64 = 1_000;
/// Announcements that a switch or a phone does not take, of a thousand.
const DEAF_PERMILLE: u64 = 50;

#[derive(Debug, Clone, Copy, Default)]
struct Client {
    entry: Option<usize>,
    /// Grows when the entry changes.
    moved: u64,
    ttl_ms: u64,
    silent_since: Option<Ns>,
}

/// All phones.
#[derive(Debug)]
pub(crate) struct Clients {
    all: [Client; CLIENTS],
    pub outages_us: Vec<u64>,
}

impl Clients {
    pub(crate) fn new(dice: &mut Dice) -> Clients {
        let client = |_| Client { ttl_ms: dice.between(4_000, 20_000), ..Client::default() };
        Clients { all: [0; CLIENTS].map(client), outages_us: Vec::new() }
    }
}

impl World<'_> {
    fn reaches(&self, entry: Option<usize>) -> bool {
        entry.is_some_and(|at| self.seats[at].answers_at(self.now) && self.seats[at].ills.lan == 0)
    }

    /// Whether every phone is served.
    pub(crate) fn clients_served(&self) -> bool {
        self.clients.all.iter().all(|client| self.reaches(client.entry))
    }

    pub(crate) fn clients_follow(&mut self) {
        for at in 0..CLIENTS {
            let client = self.clients.all[at];
            let served = self.reaches(client.entry);
            match (served, client.silent_since) {
                (true, Some(since)) => {
                    self.clients.outages_us.push((self.now - since) / 1_000);
                    self.clients.all[at].silent_since = None;
                }
                (false, None) if client.entry.is_some() => {
                    self.clients.all[at].silent_since = Some(self.now);
                    // A phone that gets no answer asks again before its entry's time is over.
                    let when = self.now + RETRY_MS * MS;
                    self.queue.at(when, Due::Expire { client: at, moved: client.moved });
                }
                (true, None) | (false, None | Some(_)) => {}
            }
        }
    }

    fn enter(&mut self, client: usize, entry: usize) {
        let state = &mut self.clients.all[client];
        state.entry = Some(entry);
        state.moved += 1;
        let (moved, ttl) = (state.moved, state.ttl_ms * MS);
        self.queue.at(self.now + ttl, Due::Expire { client, moved });
    }

    /// The entry's time is over: whoever answers now is the next one.
    pub(crate) fn expire(&mut self, client: usize, moved: u64) {
        if self.clients.all[client].moved != moved {
            return;
        }
        self.coverage.saw(Counter::ClientExpired);
        let first = self.dice.roll(2) as usize;
        let answer = [first, 1 - first].into_iter().find(|at| self.reaches(Some(*at)));
        match answer {
            Some(at) => self.enter(client, at),
            None => self.queue.at(self.now + RETRY_MS * MS, Due::Expire { client, moved }),
        }
        self.clients_follow();
    }

    /// One announcement now, and a burst after it.
    pub(crate) fn announce(&mut self, at: usize) {
        self.seats[at].bursts += 1;
        let burst = self.seats[at].bursts;
        self.announce_once(at);
        self.queue.at(self.now + BURST_MS[0] * MS, Due::Announce { at, burst, step: 0 });
    }

    fn announce_once(&mut self, at: usize) {
        if self.seats[at].ills.lan > 0 {
            return;
        }
        for client in 0..CLIENTS {
            if self.dice.chance(DEAF_PERMILLE) {
                continue;
            }
            if self.clients.all[client].entry != Some(at) {
                self.coverage.saw(Counter::ClientMoved);
                self.enter(client, at);
            }
        }
        self.clients_follow();
    }

    pub(crate) fn announce_step(&mut self, at: usize, burst: u64, step: usize) {
        let seat = &self.seats[at];
        if seat.bursts != burst || !seat.held || !seat.awake() {
            return;
        }
        if seat.answers_at(self.now) {
            self.announce_once(at);
        }
        let next = step + 1;
        let wait = BURST_MS.get(next).map_or(REFRESH_MS, |ms| ms - BURST_MS[next - 1]);
        self.queue.at(self.now + wait * MS, Due::Announce { at, burst, step: next });
    }

    /// Outages that the history's end cuts short are no outages that ended.
    pub(crate) fn clients_end(&mut self) {
        self.clients_follow();
    }
}
