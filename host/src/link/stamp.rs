//! What is measured on one link: loss by gaps in the peer's numbers, round trips by echoed numbers.

use minicbor::{Decode, Encode};
use staffetta_core::{Mono, Span};

/// Frames over which the shown loss is smoothed.
const LOSS_WINDOW: u32 = 64;
/// Sending times remembered for round trips.
const SENT_MAX: usize = 64;
/// Round trips kept for the median of a minute.
const RTTS_PER_MINUTE_MAX: usize = 512;

/// What each frame carries about its own link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct Stamp {
    /// Number of the frame on this link, from 1.
    #[n(0)]
    pub seq: u32,
    /// Newest number heard on this link; 0 when none.
    #[n(1)]
    pub echo: u32,
    /// How long that number waited for this frame, in microseconds.
    #[n(2)]
    pub held_us: u32,
}

/// One link as shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkView {
    /// Age of the last frame.
    pub heard: Option<Span>,
    /// Age of the last confirmation of a frame of ours.
    pub echoed: Option<Span>,
    /// Smoothed round trip, microseconds.
    pub rtt_us: Option<u32>,
    /// Frames lost of a thousand, lately.
    pub loss_permille: u16,
}

/// Counts of one minute.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Minute {
    /// Frames sent.
    pub sent: u64,
    /// Frames received.
    pub received: u64,
    /// Frames lost of a thousand.
    pub loss_permille: u16,
    /// Median round trip, microseconds.
    pub rtt_us_p50: Option<u64>,
    /// Longest round trip, microseconds.
    pub rtt_us_max: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Meter {
    sent: u32,
    sent_at: Vec<(u32, Mono)>,
    newest: u32,
    heard: Option<Mono>,
    echoed: Option<Mono>,
    rtt_us: Option<u32>,
    window_expected: u32,
    window_received: u32,
    loss_permille: u16,
    minute: Minute,
    minute_expected: u64,
    minute_rtts: Vec<u32>,
}

impl Meter {
    pub(super) fn stamp(&mut self, now: Mono) -> Stamp {
        self.sent = self.sent.wrapping_add(1).max(1);
        if self.sent_at.len() == SENT_MAX {
            self.sent_at.remove(0);
        }
        self.sent_at.push((self.sent, now));
        self.minute.sent += 1;
        let held = self.heard.map_or(Span::ZERO, |at| now.since(at));
        let held_us = u32::try_from(held.0 / 1_000).unwrap_or(u32::MAX);
        Stamp { seq: self.sent, echo: self.newest, held_us }
    }

    pub(super) fn heard(&mut self, now: Mono, stamp: Stamp) {
        self.minute.received += 1;
        self.heard = Some(now);
        if stamp.seq > self.newest || stamp.seq < self.newest.saturating_sub(1 << 16) {
            let ahead = match self.newest {
                0 => 1,
                newest => stamp.seq.saturating_sub(newest).clamp(1, 1 << 10),
            };
            self.newest = stamp.seq;
            self.window_expected += ahead;
            self.minute_expected += u64::from(ahead);
        }
        self.window_received += 1;
        if self.window_expected >= LOSS_WINDOW {
            self.loss_permille = permille(self.window_received.into(), self.window_expected.into());
            self.window_expected = 0;
            self.window_received = 0;
        }
        let sent = self.sent_at.iter().find(|(seq, _)| *seq == stamp.echo).map(|(_, at)| *at);
        if let Some(sent) = sent {
            self.echoed = Some(now);
            let trip = now.since(sent).0 / 1_000;
            let us = u32::try_from(trip.saturating_sub(stamp.held_us.into())).unwrap_or(u32::MAX);
            self.rtt_us = Some(self.rtt_us.map_or(us, |old| old - old / 8 + us / 8));
            if self.minute_rtts.len() < RTTS_PER_MINUTE_MAX {
                self.minute_rtts.push(us);
            }
            let longest = self.minute.rtt_us_max.unwrap_or(0).max(us.into());
            self.minute.rtt_us_max = Some(longest);
        }
    }

    pub(super) fn view(&self, now: Mono) -> LinkView {
        LinkView {
            heard: self.heard.map(|at| now.since(at)),
            echoed: self.echoed.map(|at| now.since(at)),
            rtt_us: self.rtt_us,
            loss_permille: self.loss_permille,
        }
    }

    pub(super) fn take_minute(&mut self) -> Minute {
        let mut minute = std::mem::take(&mut self.minute);
        minute.loss_permille = permille(minute.received, self.minute_expected);
        self.minute_expected = 0;
        self.minute_rtts.sort_unstable();
        minute.rtt_us_p50 =
            self.minute_rtts.get(self.minute_rtts.len() / 2).map(|us| u64::from(*us));
        self.minute_rtts.clear();
        minute
    }
}

fn permille(received: u64, expected: u64) -> u16 {
    let lost = expected.saturating_sub(received) * 1_000;
    u16::try_from(lost.checked_div(expected).unwrap_or(0)).unwrap_or(1_000)
}
