//! One machine: clock, disk, kernel gate, and the process that may run on it.

use super::Ns;
use super::data::{Plane, Rows};
use super::shadow::Shadow;
use crate::fault::{DiskMode, EffectKind, Point, PolicyMode};
use staffetta_core::{Answerer, Durable, Effect, Event, Mono, Node, PersistId, Span};
use std::collections::VecDeque;

/// CLOCK_BOOTTIME of a machine: real time, off by a rate, unless a hypervisor stops it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    real: Ns,
    local: u64,
    ppm: i64,
    stopped: bool,
}

const MILLION: u64 = 1_000_000;

impl Clock {
    /// A clock that begins somewhere above zero.
    pub(crate) fn new(ppm: i64) -> Clock {
        Clock { real: 0, local: 1_000_000_000, ppm, stopped: false }
    }

    fn rate(&self) -> u64 {
        MILLION.saturating_add_signed(self.ppm)
    }

    pub(crate) fn local(&self, now: Ns) -> Mono {
        if self.stopped {
            return Mono(self.local);
        }
        let passed = u128::from(now - self.real) * u128::from(self.rate()) / u128::from(MILLION);
        Mono(self.local + u64::try_from(passed).unwrap_or(u64::MAX / 2))
    }

    /// The first real instant at which this clock shows `local`.
    pub(crate) fn real(&self, local: Mono) -> Ns {
        let left = u128::from(local.0.saturating_sub(self.local)) * u128::from(MILLION);
        let real = left.div_ceil(u128::from(self.rate()));
        self.real.saturating_add(u64::try_from(real).unwrap_or(u64::MAX / 2))
    }

    pub(crate) fn stop(&mut self, now: Ns) {
        *self = Clock { real: now, local: self.local(now).0, stopped: true, ..*self };
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    pub(crate) fn go_on(&mut self, now: Ns) {
        *self = Clock { real: now, stopped: false, ..*self };
    }
}

/// What the machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Power {
    /// It runs.
    On,
    /// It sleeps, or a hypervisor stopped it; the gate's kernel timer has this much left.
    Asleep { gate_left: Ns },
    /// It is without power.
    Off,
}

/// What an operator gives up by ordering a node to start alone.
#[derive(Debug, Clone)]
pub(crate) struct Vouched {
    /// What was acknowledged then, and since then by a peer that does not know.
    pub rows: Rows,
    /// The highest epoch that the node had granted its peer.
    pub granted: staffetta_core::Epoch,
}

/// A stop that waits for an effect.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trap {
    pub effect: EffectKind,
    pub point: Point,
    /// `true` kills, `false` stops.
    pub kills: bool,
    pub ms: u64,
}

/// What a node says of itself beside its beats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Word {
    pub services_ok: bool,
    pub network_ok: bool,
    pub reference: Option<bool>,
    pub in_role_ms: u32,
    pub stall_max_ms: u32,
    pub at: Mono,
}

/// What goes wrong at this seat right now. Counts, so that faults may overlap.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ills {
    pub refuses: u32,
    pub references: u32,
    pub services: u32,
    pub lan: u32,
    pub carrier: u32,
    pub flushed: u32,
    pub arbiter_away: u32,
    pub replies_lost: u32,
    pub lag: u32,
    pub undrainable: u32,
    pub disk: Option<(usize, DiskMode)>,
    pub policy: Option<(usize, PolicyMode)>,
    pub release_ms: Option<(usize, u64)>,
}

pub(crate) struct Seat {
    pub clock: Clock,
    pub power: Power,
    /// The process, while it lives.
    pub node: Option<Node>,
    /// Grows with every start; what was meant for a former life is dropped.
    pub life: u64,
    pub started: Ns,
    /// The process is stopped; wakes by the fault of this number.
    pub frozen: Option<u64>,
    pub stops: u64,
    /// What came while the process was stopped.
    pub waiting: VecDeque<Event>,
    /// Effects of the step that is being carried out.
    pub rest: VecDeque<Effect>,
    /// Events that effects caused at once.
    pub turn: VecDeque<Event>,
    /// Scheduled wake-up of the loop, and its number.
    pub run_at: Ns,
    pub run: u64,
    pub trap: Option<Trap>,
    pub disk: Durable,
    /// Writes on their way to the disk.
    pub writing: Option<(PersistId, Durable)>,
    /// The kernel's gate lets answers through until then, in real time; survives the process.
    pub gate_until: Ns,
    /// A look at the gate's end is scheduled.
    pub gate_watched: bool,
    /// The process believes that it holds the addresses.
    pub held: bool,
    pub bursts: u64,
    pub ills: Ills,
    pub slack: Span,
    pub heard: [Option<Mono>; 2],
    pub echoed: [Option<Mono>; 2],
    pub live_links: u8,
    pub peer_word: Option<Word>,
    pub word_at: Mono,
    pub answers: Option<(Answerer, Mono)>,
    pub memory: Option<String>,
    pub licensed_for: Option<(bool, bool, bool)>,
    pub shadow: Shadow,
    /// Its clocks stood still until then, and it has not heard a primary since.
    pub blind: Option<Ns>,
    /// The peer knows the larger G of a flushed gate only after this; a stop of the process before
    /// then is the gap that the guarantees name.
    pub exposed_until: Ns,
    pub synced: bool,
    /// What its databases hold.
    pub rows: Rows,
    /// The reign that its services write under.
    pub writes_as: staffetta_core::Epoch,
    /// The data plane of its process.
    pub plane: Plane,
    /// An operator vouched that the peer does not serve, and has no answer yet.
    pub vouched: Option<Vouched>,
    /// Orders of this life that have no answer yet.
    pub orders: u32,
    /// When the machine woke whose gate timer stood still, while that gate was not armed since. A
    /// stop of the process at this very moment is the gap that the guarantees name.
    pub gate_slept: Option<Ns>,
}

impl Seat {
    pub(crate) fn new(ppm: i64, slack: Span) -> Seat {
        Seat {
            clock: Clock::new(ppm),
            power: Power::On,
            node: None,
            life: 0,
            started: 0,
            frozen: None,
            stops: 0,
            waiting: VecDeque::new(),
            rest: VecDeque::new(),
            turn: VecDeque::new(),
            run_at: 0,
            run: 0,
            trap: None,
            disk: Durable::default(),
            writing: None,
            gate_until: 0,
            gate_watched: false,
            held: false,
            bursts: 0,
            ills: Ills::default(),
            slack,
            heard: [None; 2],
            echoed: [None; 2],
            live_links: 0,
            peer_word: None,
            word_at: Mono::ZERO,
            answers: None,
            memory: None,
            licensed_for: None,
            shadow: Shadow::default(),
            blind: None,
            exposed_until: 0,
            synced: true,
            rows: Rows::default(),
            writes_as: staffetta_core::Epoch::NONE,
            plane: Plane::default(),
            vouched: None,
            orders: 0,
            gate_slept: None,
        }
    }

    /// The kernel answers on the VIP at `now`.
    pub(crate) fn answers_at(&self, now: Ns) -> bool {
        self.power == Power::On && self.gate_until > now
    }

    /// The process runs its loop.
    pub(crate) fn awake(&self) -> bool {
        self.node.is_some() && self.frozen.is_none() && self.power == Power::On
    }

    pub(crate) fn forget_process(&mut self) {
        self.node = None;
        self.frozen = None;
        self.waiting.clear();
        self.rest.clear();
        self.turn.clear();
        self.trap = None;
        self.held = false;
        self.vouched = None;
        self.orders = 0;
        self.plane = Plane::default();
        self.run += 1;
        self.bursts += 1;
    }
}
