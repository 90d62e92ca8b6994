//! Opening, keeping and closing the gate, against a clock that goes on meanwhile.

use super::{ARMING_MAX, Beats, REARM_MAX, RELEASE_AGAIN, duration};
use crate::shell::report::Report;
use staffetta_core::{Event, Mono};
use staffetta_vip::{Renewal, can_be_claimed};

impl Beats {
    /// Arms for what is left, then looks at the clock again: a stop in between must not lengthen
    /// the lease.
    pub(super) fn claim(&mut self, until: Mono) {
        // Of an earlier life as primary: it must not close what is opened now.
        self.release_again = None;
        let before = self.parts.clock.now();
        let result = self.parts.kernel.claim(duration(until.since(before)));
        let mut now = self.parts.clock.now();
        if result.is_ok() && now.since(before) > ARMING_MAX && now < until {
            let armed = self.rearm(until);
            now = if armed { self.parts.clock.now() } else { until };
        }
        match result {
            Ok(()) if now < until => {
                self.gate_fault = None;
                self.parts.kernel.announce();
                self.announcements.burst(now);
                self.queue.push_back(Event::Claimed);
            }
            Ok(()) => {
                self.release_quietly();
                self.queue.push_back(Event::ClaimFailed);
            }
            Err(error) => {
                self.gate_fault = Some(error.to_string());
                self.parts.reporter.say(Report::Kernel(error.to_string()));
                self.release_quietly();
                self.queue.push_back(Event::ClaimFailed);
            }
        }
    }

    pub(super) fn renew(&mut self, until: Mono) {
        let before = self.parts.clock.now();
        let result = self.parts.kernel.renew(duration(until.since(before)));
        let now = self.parts.clock.now();
        if now >= until {
            return self.release_quietly();
        }
        if now.since(before) > ARMING_MAX && matches!(result, Ok(Renewal::Renewed)) {
            // Where it fails the gate is closed; the next grant claims anew.
            self.rearm(until);
        }
        match result {
            Ok(Renewal::Renewed) => self.gate_fault = None,
            // The kernel's timer was first by a tick, or someone removed the element: the lease is
            // live, so claim anew. With too little of it left the gate stays closed until the next
            // grant: that is no refusal of the kernel.
            Ok(Renewal::Lost) if can_be_claimed(duration(until.since(now))) => self.claim(until),
            Ok(Renewal::Lost) => {}
            Err(error) => {
                let text = error.to_string();
                if self.gate_fault.as_ref() != Some(&text) {
                    self.parts.reporter.say(Report::Kernel(text.clone()));
                }
                self.gate_fault = Some(text);
            }
        }
    }

    /// The thread was stopped between reading the clock and arming: what was armed may outlive the
    /// lease. Armed again until the clock agrees, else let go; a stop that ends in death right here
    /// is the residue that the guarantees name.
    fn rearm(&mut self, until: Mono) -> bool {
        for _ in 0..REARM_MAX {
            let before = self.parts.clock.now();
            let renewed = self.parts.kernel.renew(duration(until.since(before)));
            let now = self.parts.clock.now();
            let in_time = now < until && now.since(before) <= ARMING_MAX;
            if in_time && matches!(renewed, Ok(Renewal::Renewed)) {
                return true;
            }
        }
        self.release_quietly();
        false
    }

    fn release_quietly(&mut self) {
        if let Err(error) = self.parts.kernel.release() {
            self.parts.reporter.say(Report::Kernel(error.to_string()));
        }
    }

    pub(super) fn release(&mut self) {
        let now = self.parts.clock.now();
        self.announcements.end();
        match self.parts.kernel.release() {
            Ok(()) => {
                let again = self.release_again.take().is_some();
                self.changed = true;
                if again {
                    return self.feed(Event::Released);
                }
                self.queue.push_back(Event::Released);
            }
            Err(error) => {
                if self.release_again.is_none() {
                    self.parts.reporter.say(Report::Kernel(error.to_string()));
                }
                self.release_again = Some(now + RELEASE_AGAIN);
            }
        }
    }
}
