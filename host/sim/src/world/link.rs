//! Frames between the nodes: delay, jitter, loss, doubles, one-way cuts, late ones out of order.

use super::seat::Word;
use super::{Due, MS, Ns, World};
use crate::coverage::Counter;
use staffetta_core::{Beat, Event, Span};

/// What a node says of itself is said this often.
const WORD_INTERVAL: Span = Span::ms(500);
const PERMILLE: u64 = 1_000;

/// A beat on its way.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub to: usize,
    pub link: usize,
    pub beat: Beat,
    pub word: Option<Word>,
}

/// Noise on one direction of one link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noise {
    pub number: usize,
    pub lose: u64,
    pub late_ms: u64,
    pub double: u64,
}

/// One direction of one link.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lane {
    pub cuts: u32,
    pub noise: Option<Noise>,
}

impl Lane {
    pub(crate) fn clean(&self) -> bool {
        self.cuts == 0 && self.noise.is_none()
    }
}

/// What the version before does not know.
fn as_before(beat: &mut Beat) {
    beat.arbiter = None;
    beat.synced = None;
    beat.stale = None;
}

/// All links: lanes by sender, then by number.
#[derive(Debug)]
pub(crate) struct Links {
    pub lanes: [Vec<Lane>; 2],
}

impl Links {
    pub(crate) fn new(count: u8) -> Links {
        let lanes = || vec![Lane::default(); usize::from(count)];
        Links { lanes: [lanes(), lanes()] }
    }

    /// Every frame of this sender arrives in time on some link.
    pub(crate) fn clean(&self, from: usize) -> bool {
        self.lanes[from].iter().any(Lane::clean)
    }

    pub(crate) fn heal(&mut self) {
        for lane in self.lanes.iter_mut().flatten() {
            *lane = Lane::default();
        }
    }
}

impl World<'_> {
    pub(crate) fn transmit(&mut self, from: usize, mut beat: Beat) {
        if self.plan.weather.old == Some(super::side(from)) {
            self.coverage.saw(Counter::OldVersion);
            as_before(&mut beat);
        }
        let word = self.word_due(from);
        for link in 0..self.links.lanes[from].len() {
            let lane = self.links.lanes[from][link];
            let noise = lane.noise;
            let lost = noise.is_some_and(|noise| self.dice.chance(noise.lose));
            if lane.cuts > 0 || lost {
                continue;
            }
            let doubled = noise.is_some_and(|noise| self.dice.chance(noise.double));
            for _ in 0..=u8::from(doubled) {
                let late = noise.map_or(0, |noise| self.dice.roll(noise.late_ms * MS + 1));
                let when = self.now + self.delay() + late;
                let frame = Frame { to: 1 - from, link, beat, word };
                self.queue.at(when, Due::Frame(Box::new(frame)));
            }
        }
    }

    pub(crate) fn delay(&mut self) -> Ns {
        let weather = &self.plan.weather;
        (weather.delay_us + self.dice.roll(weather.jitter_us + 1)) * PERMILLE
    }

    fn word_due(&mut self, at: usize) -> Option<Word> {
        let seat = &mut self.seats[at];
        let now = seat.clock.local(self.now);
        if now.since(seat.word_at) < WORD_INTERVAL && seat.word_at.0 > 0 {
            return None;
        }
        seat.word_at = now;
        Some(self.word(at))
    }

    /// What a node knows of itself.
    pub(crate) fn word(&self, at: usize) -> Word {
        let seat = &self.seats[at];
        let now = seat.clock.local(self.now);
        let view = seat.node.as_ref().map(|node| node.view(now));
        let ms = |span: Span| u32::try_from(span.as_ms()).unwrap_or(u32::MAX);
        let reachable = seat.ills.references == 0 && seat.ills.lan == 0;
        Word {
            services_ok: seat.ills.services == 0,
            network_ok: seat.ills.carrier == 0,
            reference: self.pair.references.then_some(reachable),
            in_role_ms: view.as_ref().map_or(0, |view| ms(now.since(view.since))),
            stall_max_ms: view.map_or(0, |view| ms(view.stall_max)),
            at: now,
        }
    }

    pub(crate) fn arrive(&mut self, frame: Frame) {
        let Frame { to, link, mut beat, word } = frame;
        let seat = &mut self.seats[to];
        if seat.node.is_none() || matches!(seat.power, super::Power::Off) {
            return;
        }
        if self.plan.weather.old == Some(super::side(to)) {
            as_before(&mut beat);
        }
        let now = seat.clock.local(self.now);
        if seat.awake() {
            seat.heard[link] = Some(now);
            let confirmed = beat.echo.and_then(|echo| seat.shadow.sent_at(echo.n));
            seat.echoed[link] = seat.echoed[link].max(confirmed);
            if let Some(word) = word {
                seat.peer_word = Some(Word { at: now, ..word });
            }
            self.count_links(to);
            self.feed(to, Event::Heard(beat));
        } else if let super::Power::On = seat.power {
            // The socket's buffer outlasts a stopped process.
            seat.waiting.push_back(Event::Heard(beat));
        }
    }

    /// How many links heard the peer, and are heard, within a lease.
    fn count_links(&mut self, at: usize) {
        let (lease, seat) = (self.lease(), &self.seats[at]);
        let now = seat.clock.local(self.now);
        let fresh = |of: &[Option<staffetta_core::Mono>; 2], link: usize| {
            of[link].is_some_and(|heard| now.since(heard) < lease)
        };
        let live = (0..2).filter(|link| fresh(&seat.heard, *link) && fresh(&seat.echoed, *link));
        let live = u8::try_from(live.count()).unwrap_or(u8::MAX);
        if live != seat.live_links {
            self.seats[at].live_links = live;
            self.feed(at, Event::Links(live));
        }
    }
}
