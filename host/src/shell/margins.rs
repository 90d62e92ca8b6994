//! Whether the times of the configuration still fit what is measured: the links' delay and this
//! node's own stalls. It only tells; nothing is decided by it.

use super::lateness::Lateness;
use super::publish::Publisher;
use super::report::Reporter;
use super::snapshot::Snapshot;
use crate::api::status::{Alarm, LeaseRoom, Status};
use crate::config::Config;
use crate::journal::{EventLevel, EventRecord};
use crate::link::LinkView;
use staffetta_core::Span;
use std::time::Duration;

/// Measured values are compared this often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// So many looks in a row are over the limit before the alarm goes up: one lost turn is no delay.
const OVER_LOOKS: u8 = 3;
/// So many looks in a row are well below the limit before it goes down.
const CALM_LOOKS: u8 = 10;
/// Wake-up lateness is that of the last whole minute.
const MINUTE: Duration = Duration::from_secs(60);
/// Stalls go to the journal this often.
const HOUR: Duration = Duration::from_secs(3_600);

/// What is watched, and what was found.
pub(crate) struct Margins {
    delay_us: u64,
    lease_ms: u64,
    links: Vec<String>,
    look_at: Duration,
    minute: Window,
    hour: Window,
    /// p99 of the wake-up lateness in the last whole minute, µs.
    late_us: u64,
    /// Text of the alarm while it is up.
    slow: Option<String>,
    /// Looks in a row that speak for the other state.
    looks: u8,
    room: LeaseRoom,
    short: Option<Alarm>,
}

/// The stalls since a moment.
#[derive(Default)]
struct Window {
    began: Duration,
    before: Lateness,
}

impl Window {
    /// What was counted, once the window is over; the next one begins.
    fn over(&mut self, now: Duration, length: Duration, all: &Lateness) -> Option<Lateness> {
        if now < self.began + length {
            return None;
        }
        let counted = all.since(&self.before);
        *self = Window { began: now, before: all.clone() };
        Some(counted)
    }
}

impl Margins {
    pub(crate) fn new(config: &Config) -> Margins {
        let [_, lease_ms, delay_ms, ..] = config.timing.parts_ms();
        let links = config.links.iter().map(|link| link.name.clone()).collect();
        Margins::of(delay_ms, lease_ms, links)
    }

    fn of(delay_ms: u64, lease_ms: u64, links: Vec<String>) -> Margins {
        Margins {
            delay_us: delay_ms * 1_000,
            lease_ms,
            links,
            look_at: Duration::ZERO,
            minute: Window::default(),
            hour: Window::default(),
            late_us: 0,
            slow: None,
            looks: 0,
            room: LeaseRoom::NotMeasured,
            short: None,
        }
    }

    /// The status with what was found; changes are reported.
    pub(crate) fn status(
        &mut self,
        publisher: &Publisher,
        reporter: &Reporter,
        snapshot: &Snapshot,
    ) -> Status {
        let now = publisher.started.elapsed();
        for event in self.look(now, &snapshot.lateness, &snapshot.links) {
            reporter.say(super::report::Report::Event(event));
        }
        let mut status = publisher.status(snapshot);
        status.alarms.extend(self.alarms());
        status
    }

    fn alarms(&self) -> impl Iterator<Item = Alarm> + '_ {
        let slow =
            self.slow.iter().map(|text| Alarm { name: LINK_SLOW.into(), text: text.clone() });
        slow.chain(self.short.clone())
    }

    /// Compares, at most once in [`LOOK_INTERVAL`]; `now` is the time since the start.
    fn look(&mut self, now: Duration, all: &Lateness, links: &[LinkView]) -> Vec<EventRecord> {
        let mut events = Vec::new();
        if now < self.look_at {
            return events;
        }
        self.look_at = now + LOOK_INTERVAL;
        if let Some(minute) = self.minute.over(now, MINUTE, all) {
            self.late_us = minute.summary().p99_us;
        }
        if let Some(hour) = self.hour.over(now, HOUR, all) {
            events.push(hourly(&hour));
        }
        events.extend(self.look_at_links(links));
        events.extend(self.look_at_stalls(all));
        events
    }

    /// D is the longest delay of a link that every inequality assumes; the slowest link that is
    /// heard must keep it.
    fn look_at_links(&mut self, links: &[LinkView]) -> Option<EventRecord> {
        let lease = Span::ms(self.lease_ms);
        let trips = links.iter().zip(&self.links).filter_map(|(link, name)| {
            let heard = link.echoed.is_some_and(|age| age < lease);
            link.rtt_us.filter(|_| heard).map(|rtt_us| (u64::from(rtt_us), name))
        });
        // Silence is no delay: without a link that is heard all stays as it was.
        let (rtt_us, name) = trips.max()?;
        let delay_us = rtt_us / 2 + self.late_us;
        let against = match self.slow {
            None => delay_us > self.delay_us,
            Some(_) => delay_us * 5 <= self.delay_us * 4,
        };
        self.looks = if against { self.looks + 1 } else { 0 };
        let enough = if self.slow.is_none() { OVER_LOOKS } else { CALM_LOOKS };
        if self.looks < enough {
            return None;
        }
        self.looks = 0;
        let event = match self.slow.take() {
            None => {
                let text = format!(
                    "link {name}: half a round trip of {} and {} of wake-up lateness exceed \
                     link_delay_ms_max = {}, so that silence may be taken for death: mend the \
                     link, or write at least {} on both nodes",
                    millis(rtt_us),
                    millis(self.late_us),
                    self.delay_us / 1_000,
                    (delay_us + delay_us / 2).div_ceil(1_000)
                );
                self.slow = Some(text.clone());
                EventRecord::now(EventLevel::Warn, LINK_SLOW, text).with("up", true)
            }
            Some(_) => EventRecord::now(EventLevel::Info, LINK_SLOW, "over").with("up", false),
        };
        Some(event.with("delay_us", delay_us))
    }

    /// A lease that this node's own stalls may outlast ends by itself.
    fn look_at_stalls(&mut self, all: &Lateness) -> Option<EventRecord> {
        let stalls = all.summary();
        let room = stalls.room(self.lease_ms);
        if room == self.room {
            return None;
        }
        self.room = room;
        let p999 = millis(stalls.p999_us);
        let before = self.short.take();
        let (level, name, text) = match room {
            LeaseRoom::NotMeasured | LeaseRoom::Ample => {
                let over = before?;
                return Some(
                    EventRecord::now(EventLevel::Info, &over.name, "over").with("up", false),
                );
            }
            LeaseRoom::Tight => (
                EventLevel::Info,
                "lease-tight",
                format!(
                    "notice: one wake-up in a thousand was {p999} late, over a quarter of \
                     lease_ms = {}: a lease of {} leaves room",
                    self.lease_ms,
                    stalls.lease_ms_for_room()
                ),
            ),
            LeaseRoom::Short => (
                EventLevel::Warn,
                "lease-short",
                format!(
                    "one wake-up in a thousand was {p999} late, longer than lease_ms = {}: this \
                     node will lose its lease without a fault; find what stops it, or write at \
                     least {} on both nodes",
                    self.lease_ms,
                    stalls.lease_ms_for_room()
                ),
            ),
        };
        self.short = Some(Alarm { name: name.into(), text: text.clone() });
        Some(EventRecord::now(level, name, text).with("up", true))
    }
}

const LINK_SLOW: &str = "link-slow";

fn hourly(hour: &Lateness) -> EventRecord {
    let stalls = hour.summary();
    let text = format!(
        "wake-ups of the last hour: p99.9 {} late, the longest {}",
        millis(stalls.p999_us),
        millis(stalls.max_us)
    );
    EventRecord::now(EventLevel::Info, "stalls", text)
        .with("count", stalls.count)
        .with("p50_us", stalls.p50_us)
        .with("p99_us", stalls.p99_us)
        .with("p999_us", stalls.p999_us)
        .with("max_us", stalls.max_us)
}

fn millis(us: u64) -> String {
    Span(us * 1_000).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use staffetta_core::Mono;

    fn link(rtt_us: u32) -> LinkView {
        let heard = Some(Span::ms(5));
        LinkView { heard, echoed: heard, rtt_us: Some(rtt_us), loss_permille: 0 }
    }

    /// D = 10 ms, L = 300 ms, two links, and the seconds since the start.
    struct Bench {
        margins: Margins,
        all: Lateness,
        second: u64,
    }

    impl Bench {
        fn new() -> Bench {
            let margins = Margins::of(10, 300, vec!["lan".into(), "direct".into()]);
            Bench { margins, all: Lateness::default(), second: 0 }
        }

        fn wakes(&mut self, times: u64, late_us: u64) {
            for _ in 0..times {
                self.all.woke(Mono(1_000), Mono(1_000 + late_us * 1_000));
            }
        }

        fn seconds(&mut self, count: u64, rtt_us: [u32; 2]) -> Vec<EventRecord> {
            let mut events = Vec::new();
            for _ in 0..count {
                self.second += 1;
                let now = Duration::from_secs(self.second);
                events.extend(self.margins.look(now, &self.all, &rtt_us.map(link)));
            }
            events
        }

        fn names(&self) -> Vec<String> {
            self.margins.alarms().map(|alarm| alarm.name).collect()
        }
    }

    #[test]
    fn a_slow_link_is_an_alarm_until_it_is_well_again() {
        let mut bench = Bench::new();
        assert!(bench.seconds(20, [200, 19_999]).is_empty(), "half of it is below D");
        assert!(bench.seconds(2, [200, 30_000]).is_empty(), "a moment is no delay");
        assert!(bench.seconds(5, [200, 200]).is_empty());
        let up = bench.seconds(3, [200, 30_000]);
        assert_eq!((up.len(), up[0].level), (1, EventLevel::Warn));
        assert!(up[0].text.contains("link direct: half a round trip of 30 ms"), "{}", up[0].text);
        assert!(up[0].text.contains("write at least 23 on both"), "{}", up[0].text);
        assert_eq!(bench.names(), ["link-slow"]);
        let said = bench.margins.alarms().next().unwrap().text;
        assert!(bench.seconds(30, [200, 17_000]).is_empty(), "below D, yet not well below");
        assert!(bench.seconds(9, [200, 16_000]).is_empty());
        assert!(bench.seconds(1, [200, 40_000]).is_empty());
        assert_eq!(bench.margins.alarms().next().unwrap().text, said, "watchers hear it once");
        let down = bench.seconds(10, [200, 16_000]);
        assert_eq!((down.len(), down[0].text.as_str()), (1, "over"));
        assert!(bench.names().is_empty());
    }

    #[test]
    fn wake_up_lateness_counts_with_the_link() {
        let mut bench = Bench::new();
        bench.wakes(990, 50);
        bench.wakes(20, 8_000);
        assert!(bench.seconds(59, [5_000, 5_000]).is_empty(), "the minute is not over");
        let up = bench.seconds(3, [5_000, 5_000]);
        assert_eq!(up.len(), 1, "2.5 ms and 8 ms are over 10 ms");
        bench.wakes(1_000, 50);
        let down = bench.seconds(80, [5_000, 5_000]);
        assert_eq!(down.len(), 1, "a calm minute ends it");
    }

    #[test]
    fn silence_is_no_delay() {
        let mut bench = Bench::new();
        bench.seconds(3, [30_000, 30_000]);
        assert_eq!(bench.names(), ["link-slow"]);
        let old = LinkView { echoed: Some(Span::ms(400)), ..link(100) };
        for second in 10..40 {
            let now = Duration::from_secs(second);
            let looked = bench.margins.look(now, &bench.all, &[old, old]);
            assert!(looked.is_empty());
        }
        assert_eq!(bench.names(), ["link-slow"], "what is not measured is not well");
    }

    #[test]
    fn a_lease_close_to_the_stalls_is_told() {
        let mut bench = Bench::new();
        bench.wakes(900, 400_000);
        assert!(bench.seconds(1, [200, 200]).is_empty(), "too few to judge by");
        bench.all = Lateness::default();
        bench.wakes(999, 50);
        bench.wakes(3, 90_000);
        let tight = bench.seconds(1, [200, 200]);
        assert_eq!((tight[0].name.as_str(), tight[0].level), ("lease-tight", EventLevel::Info));
        assert!(tight[0].text.starts_with("notice: "), "{}", tight[0].text);
        bench.wakes(3, 400_000);
        let short = bench.seconds(1, [200, 200]);
        assert_eq!((short[0].name.as_str(), short[0].level), ("lease-short", EventLevel::Warn));
        assert!(short[0].text.contains("lease_ms = 300"), "{}", short[0].text);
        assert_eq!(bench.names(), ["lease-short"]);
        bench.wakes(10_000, 50);
        let over = bench.seconds(1, [200, 200]);
        assert_eq!((over[0].name.as_str(), over[0].text.as_str()), ("lease-short", "over"));
        assert!(bench.names().is_empty());
    }

    #[test]
    fn the_journal_gets_the_stalls_of_every_hour() {
        let mut bench = Bench::new();
        bench.wakes(10, 100);
        let first = bench.seconds(3_600, [200, 200]);
        assert_eq!((first.len(), first[0].name.as_str()), (1, "stalls"));
        assert_eq!(first[0].fields["count"], 10);
        bench.wakes(2, 5_000);
        let second = bench.seconds(3_600, [200, 200]);
        assert_eq!(second[0].fields["count"], 2, "of that hour only");
    }
}
