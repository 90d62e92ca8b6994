//! The real-time thread: core, beats, gate. The echo *is* the promise, so nothing here waits for
//! anything but the next event, and nothing takes a lock that a thread of lower priority may hold.
//!
//! One turn, in this order of priority:
//! 1. the clock is read; the core itself notices a stall before it looks at any input;
//! 2. frames of the peer;
//! 3. what the kernel says about addresses, rules and probes;
//! 4. what disk, policies, operators and the rest of the daemon say;
//! 5. timers.
//!
//! After each input its effects are carried out; what an effect answers at once is an input of the
//! same turn.

mod announce;
mod gate;

use self::announce::Announcements;
use super::arbitrate::Requests;
use super::clock::Clock;
use super::data::DataLink;
use super::decide::Job;
use super::inbox::{Inbox, Mail, OrderReply};
use super::lateness::Lateness;
use super::realtime;
use super::report::{Report, Reporter};
use super::snapshot::{Board, Snapshot};
use crate::link::{About, Links, Received};
use staffetta_core::{Answerer, Durable, Effect, Event, Mono, Node, Order, PersistId, Reply, Span};
use staffetta_vip::{GateClass, Kernel, KernelEvent, Mac};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What a node says about itself is said again this often, or when it changes.
const ABOUT_INTERVAL: Span = Span::ms(500);
/// What is new in it only by its ages goes with the next beat after this.
const ABOUT_AGAIN: Span = Span::ms(250);
/// The license document is told this often.
const LICENSE_INTERVAL: Span = Span::ms(5_000);
/// A release that the kernel refused is tried again after this.
const RELEASE_AGAIN: Span = Span::ms(20);
/// The board is updated at most this often unless something changed.
const BOARD_INTERVAL: Span = Span::ms(500);
/// Links are summed up this often.
const MINUTE: Span = Span::ms(60_000);
/// What the kernel told another call, such as a renewal, is fetched this often.
const PUMP_INTERVAL: Span = Span::ms(250);
/// Longest time between reading the clock and the kernel's timer that the gate's slack absorbs.
const ARMING_MAX: Span = Span::ms(5);
/// Tries to arm in time.
const REARM_MAX: usize = 3;
/// Mails taken in one turn.
const MAILS_PER_TURN_MAX: usize = 64;

/// What the thread is made of.
pub(crate) struct Parts {
    pub node: Node,
    pub clock: Clock,
    pub links: Links,
    pub kernel: Kernel,
    pub inbox: Inbox,
    pub persist: mpsc::Sender<(PersistId, Durable)>,
    pub jobs: mpsc::Sender<Job>,
    pub consult: Option<Requests>,
    pub data: DataLink,
    pub reporter: Reporter,
    pub board: Board,
    /// What this node says of itself, and when that was so.
    pub about: (About, Mono),
    pub probes: bool,
}

/// What the poll found to be readable.
#[derive(Debug, Clone, Copy)]
struct Ready {
    links: bool,
    kernel: bool,
    mail: bool,
}

pub(crate) struct Beats {
    parts: Parts,
    queue: VecDeque<Event>,
    received: Vec<Received>,
    kernel_events: Vec<KernelEvent>,
    announcements: Announcements,
    class: GateClass,
    release_again: Option<Mono>,
    order: Option<OrderReply>,
    about_at: Mono,
    license: Option<Vec<u8>>,
    license_at: Mono,
    peer: Option<(About, Mono)>,
    peer_license: Option<Vec<u8>>,
    answers: Vec<(IpAddr, Answerer, Mono)>,
    conflict: Option<(IpAddr, Mac, Mono)>,
    board_at: Mono,
    pumped_at: Mono,
    minute_at: Option<Mono>,
    changed: bool,
    gate_fault: Option<String>,
    live_links: u8,
    lateness: Lateness,
    done: bool,
}

impl Beats {
    pub(crate) fn new(parts: Parts) -> Beats {
        let class = parts.kernel.class();
        Beats {
            parts,
            queue: VecDeque::new(),
            received: Vec::new(),
            kernel_events: Vec::new(),
            announcements: Announcements::default(),
            class,
            release_again: None,
            order: None,
            about_at: Mono::ZERO,
            license: None,
            license_at: Mono::ZERO,
            peer: None,
            peer_license: None,
            answers: Vec::new(),
            conflict: None,
            board_at: Mono::ZERO,
            pumped_at: Mono::ZERO,
            minute_at: None,
            changed: true,
            gate_fault: None,
            live_links: 0,
            lateness: Lateness::default(),
            done: false,
        }
    }

    /// Runs until the core says that nothing is held any more; then the gate is taken down.
    pub(crate) fn run(mut self) {
        let fifo = realtime::raise_this_thread(realtime::PRIORITY_BEATS);
        self.parts.board.set_fifo(fifo);
        let links = self.parts.links.fds();
        let kernel = self.parts.kernel.fds();
        let mut polled: Vec<libc::pollfd> = [&links[..], &kernel[..], &[self.parts.inbox.fd()]]
            .concat()
            .into_iter()
            .map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: libc::POLLIN })
            .collect();
        while !self.done {
            let readable = |polled: &[libc::pollfd]| polled.iter().any(|p| p.revents != 0);
            let (on_links, others) = polled.split_at(links.len());
            let (of_kernel, mail) = others.split_at(kernel.len());
            let ready = Ready {
                links: readable(on_links),
                kernel: readable(of_kernel),
                mail: readable(mail),
            };
            self.turn(ready);
            if !self.done {
                let due = self.next_due();
                realtime::wait(&mut polled, due.since(self.parts.clock.now()));
                self.lateness.woke(due, self.parts.clock.now());
            }
        }
        if let Err(error) = self.parts.kernel.close() {
            self.parts.reporter.say(Report::Kernel(format!("taking the gate down: {error}")));
        }
    }

    fn turn(&mut self, ready: Ready) {
        let now = self.parts.clock.now();
        if ready.links {
            let mut received = std::mem::take(&mut self.received);
            self.parts.links.receive(now, &mut received);
            for frame in received.drain(..) {
                self.hear(now, frame);
            }
            self.received = received;
        }
        if ready.kernel || now.since(self.pumped_at) >= PUMP_INTERVAL {
            self.pumped_at = now;
            let mut events = std::mem::take(&mut self.kernel_events);
            self.parts.kernel.pump(&mut events);
            for event in events.drain(..) {
                self.kernel_says(event);
            }
            self.kernel_events = events;
        }
        self.gate_class();
        for _ in 0..MAILS_PER_TURN_MAX {
            let Some(mail) = ready.mail.then(|| self.parts.inbox.take()).flatten() else { break };
            self.open_mail(mail);
        }
        let now = self.parts.clock.now();
        if self.parts.node.deadline().is_some_and(|due| due <= now) {
            self.feed(Event::Tick);
        }
        self.timers();
        self.post(now);
    }

    fn next_due(&self) -> Mono {
        let mut due = self.parts.node.deadline().unwrap_or(Mono::NEVER);
        for at in [self.announcements.next(), self.release_again].into_iter().flatten() {
            due = due.min(at);
        }
        due
    }

    /// Steps the core, then carries out what it wants, until nothing is left to say.
    fn feed(&mut self, event: Event) {
        self.queue.push_back(event);
        while let Some(event) = self.queue.pop_front() {
            let now = self.parts.clock.now();
            for effect in self.parts.node.step(now, event) {
                self.carry_out(effect);
            }
        }
    }

    fn hear(&mut self, now: Mono, frame: Received) {
        if let Some(mut about) = frame.about {
            if let (None, Some((old, at))) = (&about.facts, &self.peer) {
                about.facts = old.later(now.since(*at)).facts;
            }
            if self.peer.as_ref().is_none_or(|(old, _)| old.macs != about.macs) {
                let macs = about.macs.chunks_exact(6);
                let macs = macs.map(|mac| mac.try_into().expect("six bytes")).collect();
                self.parts.kernel.set_peer_macs(macs);
            }
            self.parts.data.peer_says(&about.data);
            self.peer = Some((about, now));
        }
        if frame.license.is_some() && frame.license != self.peer_license {
            self.peer_license = frame.license;
            self.changed = true;
        }
        let fresh = self.fresh_links(now);
        if fresh != self.live_links {
            self.live_links = fresh;
            self.feed(Event::Links(fresh));
        }
        self.feed(Event::Heard(frame.beat));
    }

    fn fresh_links(&self, now: Mono) -> u8 {
        let lease = Span::ms(self.parts.board.lease_ms());
        let views = self.parts.links.view(now);
        let fresh = views.iter().filter(|view| {
            view.heard.is_some_and(|age| age < lease) && view.echoed.is_some_and(|age| age < lease)
        });
        u8::try_from(fresh.count()).unwrap_or(u8::MAX)
    }

    fn kernel_says(&mut self, event: KernelEvent) {
        match &event {
            KernelEvent::ProbeAnswer { vip, by, .. } => {
                let answerer = match by {
                    staffetta_vip::Answerer::Peer => Answerer::Peer,
                    staffetta_vip::Answerer::Stranger => Answerer::Stranger,
                    staffetta_vip::Answerer::Own => return,
                };
                let now = self.parts.clock.now();
                self.answers.retain(|(address, ..)| address != vip);
                self.answers.push((*vip, answerer, now));
                // Before the peer has told its addresses anybody may be the peer.
                if answerer == Answerer::Stranger && self.peer.is_some() {
                    self.parts.reporter.say(Report::KernelEvent(event));
                }
                return self.feed(Event::Probed(answerer));
            }
            KernelEvent::Conflict { vip, mac, .. } => {
                let now = self.parts.clock.now();
                self.conflict = Some((*vip, *mac, now));
                if !self.announcements.defend(now) {
                    return;
                }
                self.parts.kernel.announce();
            }
            KernelEvent::AddressLost { .. } | KernelEvent::LinkUp { .. } => {
                let now = self.parts.clock.now();
                if self.parts.kernel.held() {
                    self.parts.kernel.announce();
                    self.announcements.burst(now);
                }
            }
            KernelEvent::RulesetFlushed | KernelEvent::LinkDown { .. } => {}
        }
        self.changed = true;
        self.parts.reporter.say(Report::KernelEvent(event));
    }

    /// G follows the gate in force.
    fn gate_class(&mut self) {
        let class = self.parts.kernel.class();
        if class != self.class {
            self.class = class;
            let ms = u64::try_from(class.slack().as_millis()).unwrap_or(u64::MAX);
            self.parts.reporter.say(Report::GateClass(class));
            self.feed(Event::Slack(Span::ms(ms)));
            self.changed = true;
        }
    }

    fn open_mail(&mut self, mail: Mail) {
        match mail {
            Mail::Event(event) => self.feed(event),
            Mail::Order(order, reply) => {
                if self.order.is_some() {
                    // Whoever ordered may have gone.
                    let _ = reply.send(Err(staffetta_core::Refusal::Busy));
                    return;
                }
                self.order = Some(reply);
                self.feed(Event::Order(order));
            }
            Mail::About(about, news) => {
                self.parts.about = (*about, self.parts.clock.now());
                let stale = self.parts.clock.now().since(self.about_at) >= ABOUT_AGAIN;
                if news || stale {
                    self.about_at = Mono::ZERO;
                }
            }
            Mail::License(document) => self.license = document,
            Mail::Reconcile => {
                if let Err(error) = self.parts.kernel.reconcile() {
                    self.parts.reporter.say(Report::Kernel(error.to_string()));
                }
            }
            Mail::Abandon => {
                // The stop budget is over: whatever the core still waits for, nothing may stay
                // held.
                if let Err(error) = self.parts.kernel.release() {
                    self.parts.reporter.say(Report::Kernel(error.to_string()));
                }
                self.done = true;
            }
        }
    }

    fn timers(&mut self) {
        let now = self.parts.clock.now();
        if self.release_again.is_some_and(|at| at <= now) {
            self.release();
        }
        let minute_at = *self.minute_at.get_or_insert(now + MINUTE);
        if minute_at <= now {
            self.minute_at = Some(now + MINUTE);
            self.parts.reporter.say(Report::Minutes(self.parts.links.take_minutes()));
        }
        if self.announcements.take(now, self.parts.kernel.held()) {
            self.parts.kernel.announce();
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Send(beat) => self.send(&beat),
            Effect::Persist(id, record) => {
                if self.parts.persist.send((id, record)).is_err() {
                    self.queue.push_back(Event::PersistFailed(id));
                }
            }
            Effect::Claim { until, .. } => self.claim(until),
            Effect::Renew { until } => self.renew(until),
            Effect::Release => self.release(),
            Effect::Consult(id, request) => {
                let sent =
                    self.parts.consult.as_ref().is_some_and(|c| c.send((id, request)).is_ok());
                if !sent {
                    self.queue.push_back(Event::Consulted(id, Reply::Failed));
                }
            }
            Effect::Announce => {
                let now = self.parts.clock.now();
                if self.parts.kernel.held() {
                    self.parts.kernel.announce();
                    self.announcements.burst(now);
                }
            }
            Effect::Probe => {
                if self.parts.probes {
                    self.parts.kernel.probe();
                } else {
                    self.queue.push_back(Event::Probed(Answerer::NotProbed));
                }
            }
            Effect::Ask(ask) => {
                let now = self.parts.clock.now();
                let id = ask.id;
                let job = Job::Ask(Box::new(super::decide::Question {
                    until: Instant::now() + duration(ask.deadline.since(now)),
                    links: self.parts.links.view(now),
                    answers: self.answers_aged(now),
                    peer: self.peer.as_ref().map(|(about, at)| (about.clone(), now.since(*at))),
                    ask,
                }));
                if self.parts.jobs.send(job).is_err() {
                    self.queue.push_back(Event::Unanswered(id));
                }
            }
            Effect::Drain { epoch } => self.parts.data.drain(epoch),
            Effect::Undrain { .. } => self.parts.data.undrain(),
            Effect::Degraded(word, degraded) => self.parts.data.degraded(word, degraded),
            Effect::Exit => self.done = true,
            Effect::OrderDone(result) => {
                if let Some(reply) = self.order.take() {
                    // Whoever ordered may have gone; what was done is in the journal.
                    let _ = reply.send(result.map(|_: Order| ()));
                }
            }
            Effect::Note(note) => {
                self.changed = true;
                if let staffetta_core::Note::Paired(true) = note
                    && self.parts.kernel.held()
                {
                    let now = self.parts.clock.now();
                    self.announcements.burst(now);
                }
                self.parts.data.noted(&note);
                self.parts.reporter.say(Report::Note(note));
            }
        }
    }

    fn send(&mut self, beat: &staffetta_core::Beat) {
        let now = self.parts.clock.now();
        let about_due = now.since(self.about_at) >= ABOUT_INTERVAL;
        if about_due {
            self.about_at = now;
        }
        let (about, made) = &self.parts.about;
        let about = about_due.then(|| about.later(now.since(*made)));
        let about = about.as_ref();
        let license_due = about.is_none() && now.since(self.license_at) >= LICENSE_INTERVAL;
        let license = self.license.as_deref().filter(|_| license_due);
        if license.is_some() {
            self.license_at = now;
        }
        let confirmed = self.parts.node.confirmed();
        self.parts.links.send(now, beat, about, license, confirmed);
    }

    fn answers_aged(&self, now: Mono) -> Vec<(IpAddr, Answerer, Span)> {
        self.answers.iter().map(|(vip, by, at)| (*vip, *by, now.since(*at))).collect()
    }

    /// Puts what others may see on the board.
    fn post(&mut self, now: Mono) {
        if !self.changed && now.since(self.board_at) < BOARD_INTERVAL {
            return;
        }
        let snapshot = Snapshot {
            view: self.parts.node.view(now),
            at: Instant::now(),
            now,
            links: self.parts.links.view(now),
            held: self.parts.kernel.held(),
            class: self.class,
            gate_error: self.parts.kernel.gate_error().map(str::to_owned),
            gate_fault: self.gate_fault.clone(),
            peer: self.peer.as_ref().map(|(about, at)| (about.clone(), now.since(*at))),
            peer_license: self.peer_license.clone(),
            answers: self.answers_aged(now),
            conflict: self.conflict.map(|(vip, mac, at)| (vip, mac, now.since(at))),
            rejected: self.parts.links.rejected(),
            last_unreadable: self.parts.links.last_unreadable().to_owned(),
            own_macs: self.parts.kernel.own_macs(),
            lateness: self.lateness.clone(),
        };
        if self.parts.board.post(snapshot) {
            self.board_at = now;
            self.changed = false;
        }
    }
}

fn duration(span: Span) -> Duration {
    Duration::from_nanos(span.0)
}
