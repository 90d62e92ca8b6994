//! What can go wrong, as data: one line of a scenario file each.

use staffetta_core::{Order, Side};
use std::fmt;

/// A stop between two effects, at this kind of effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Before the effect is carried out.
    Before,
    /// After it.
    After,
}

/// Kinds of [`staffetta_core::Effect`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum EffectKind {
    /// A beat goes out.
    Send,
    /// A record goes to the disk.
    Persist,
    /// The addresses go up.
    Claim,
    /// The gate is armed again.
    Renew,
    /// The gate closes.
    Release,
    /// The arbiter is asked.
    Consult,
    /// The VIP is announced.
    Announce,
    /// The VIP is probed.
    Probe,
    /// A policy is asked.
    Ask,
    /// The process ends.
    Exit,
    /// An order is answered.
    OrderDone,
    /// A line for the journal.
    Note,
    /// The data plane is to ship everything for a handover.
    Drain,
    /// A handover was not taken.
    Undrain,
    /// The data plane may acknowledge without the peer, or no more.
    Degraded,
}

impl EffectKind {
    /// All of them.
    pub const ALL: [EffectKind; 15] = [
        EffectKind::Send,
        EffectKind::Persist,
        EffectKind::Claim,
        EffectKind::Renew,
        EffectKind::Release,
        EffectKind::Consult,
        EffectKind::Announce,
        EffectKind::Probe,
        EffectKind::Ask,
        EffectKind::Exit,
        EffectKind::OrderDone,
        EffectKind::Note,
        EffectKind::Drain,
        EffectKind::Undrain,
        EffectKind::Degraded,
    ];
    /// How many of them, from the first, happen without data.
    pub(crate) const WITHOUT_DATA: usize = 12;

    /// Its name in scenario files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            EffectKind::Send => "send",
            EffectKind::Persist => "persist",
            EffectKind::Claim => "claim",
            EffectKind::Renew => "renew",
            EffectKind::Release => "release",
            EffectKind::Consult => "consult",
            EffectKind::Announce => "announce",
            EffectKind::Probe => "probe",
            EffectKind::Ask => "ask",
            EffectKind::Exit => "exit",
            EffectKind::OrderDone => "order-done",
            EffectKind::Note => "note",
            EffectKind::Drain => "drain",
            EffectKind::Undrain => "undrain",
            EffectKind::Degraded => "degraded",
        }
    }
}

/// What a disk does with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskMode {
    /// Takes this long, ms.
    Slow(u64),
    /// Refuses.
    Fails,
    /// Neither takes nor refuses.
    Stuck,
}

/// What becomes of a policy's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyMode {
    /// Every policy of the chain traps.
    Traps,
    /// The answer comes after the deadline.
    Late,
    /// No answer comes.
    Lost,
    /// Any intent at all.
    Nonsense,
    /// Always hold.
    Holds,
}

/// Something that goes wrong, or that somebody wants, at one moment. Times are in milliseconds of
/// real time; what lasts ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each case says what its fields are")]
pub enum Fault {
    /// The process is killed and started again after `down_ms`.
    Kill { node: Side, down_ms: u64 },
    /// The machine loses power: what was not durable is lost, kept or torn.
    PowerCut { node: Side, down_ms: u64 },
    /// The process is killed at the next effect of this kind.
    KillAt { node: Side, effect: EffectKind, point: Point, down_ms: u64 },
    /// The process is stopped at the next effect of this kind.
    FreezeAt { node: Side, effect: EffectKind, point: Point, ms: u64 },
    /// The process is stopped; the kernel's timers go on.
    Freeze { node: Side, ms: u64 },
    /// The machine sleeps; its clocks go on.
    Suspend { node: Side, ms: u64 },
    /// A hypervisor stops the machine with its clocks.
    Pause { node: Side, ms: u64 },
    /// Frames from `from` are lost on one link, or on all.
    Cut { from: Side, link: Option<u8>, ms: u64 },
    /// All links are cut in both directions.
    Part { ms: u64 },
    /// Frames from `from` are lost, late, and doubled on one link, or on all.
    Noise { from: Side, link: Option<u8>, lose: u64, late_ms: u64, double: u64, ms: u64 },
    /// The disk misbehaves.
    Disk { node: Side, mode: DiskMode, ms: u64 },
    /// The kernel refuses the addresses.
    Refuse { node: Side, ms: u64 },
    /// The kernel takes `each_ms` to let the addresses go.
    SlowRelease { node: Side, each_ms: u64, ms: u64 },
    /// Somebody flushes the rules: the gate falls to the lifetime of the addresses.
    Flush { node: Side, ms: u64 },
    /// Policies misbehave.
    Policy { node: Side, mode: PolicyMode, ms: u64 },
    /// The references do not answer this node.
    References { node: Side, ms: u64 },
    /// The services of this node fail.
    Services { node: Side, ms: u64 },
    /// The node is cut from the service network; with its carrier gone it knows.
    Lan { node: Side, carrier: bool, ms: u64 },
    /// A stranger answers on the VIP.
    Stranger { ms: u64 },
    /// Somebody orders something; a node that stopped is started again after 1.5 s.
    Order { node: Side, order: Order },
    /// What this node writes does not reach its peer for a while.
    Lag { node: Side, ms: u64 },
    /// The data plane of this node gives handovers up.
    Undrainable { node: Side, ms: u64 },
    /// What this node writes does not reach its peer, until it does again.
    Synced { node: Side, synced: bool },
    /// The arbiter does not reach this node.
    ArbiterAway { node: Side, ms: u64 },
    /// The arbiter answers nobody.
    ArbiterDown { ms: u64 },
    /// The arbiter answers this late.
    ArbiterSlow { by_ms: u64, ms: u64 },
    /// What the arbiter does for this node is done, but the answers are lost.
    RepliesLost { node: Side, ms: u64 },
    /// The arbiter loses its data.
    Wiped,
}

/// Kinds of [`Fault`], for coverage.
pub(crate) const FAULT_KINDS: [&str; 28] = [
    "kill",
    "power-cut",
    "kill-at",
    "freeze-at",
    "freeze",
    "suspend",
    "pause",
    "cut",
    "part",
    "noise",
    "disk",
    "refuse",
    "slow-release",
    "flush",
    "policy",
    "references",
    "services",
    "lan",
    "stranger",
    "order",
    "lag",
    "undrainable",
    "synced",
    "arbiter-away",
    "arbiter-down",
    "arbiter-slow",
    "replies-lost",
    "wiped",
];

impl Fault {
    /// Index into [`FAULT_KINDS`].
    pub(crate) fn kind(&self) -> usize {
        match self {
            Fault::Kill { .. } => 0,
            Fault::PowerCut { .. } => 1,
            Fault::KillAt { .. } => 2,
            Fault::FreezeAt { .. } => 3,
            Fault::Freeze { .. } => 4,
            Fault::Suspend { .. } => 5,
            Fault::Pause { .. } => 6,
            Fault::Cut { .. } => 7,
            Fault::Part { .. } => 8,
            Fault::Noise { .. } => 9,
            Fault::Disk { .. } => 10,
            Fault::Refuse { .. } => 11,
            Fault::SlowRelease { .. } => 12,
            Fault::Flush { .. } => 13,
            Fault::Policy { .. } => 14,
            Fault::References { .. } => 15,
            Fault::Services { .. } => 16,
            Fault::Lan { .. } => 17,
            Fault::Stranger { .. } => 18,
            Fault::Order { .. } => 19,
            Fault::Lag { .. } => 20,
            Fault::Undrainable { .. } => 21,
            Fault::Synced { .. } => 22,
            Fault::ArbiterAway { .. } => 23,
            Fault::ArbiterDown { .. } => 24,
            Fault::ArbiterSlow { .. } => 25,
            Fault::RepliesLost { .. } => 26,
            Fault::Wiped => 27,
        }
    }

    /// How long it lasts, ms; `None` for what is over at once.
    pub(crate) fn lasts_ms(&mut self) -> Option<&mut u64> {
        match self {
            Fault::Kill { down_ms, .. }
            | Fault::PowerCut { down_ms, .. }
            | Fault::KillAt { down_ms, .. } => Some(down_ms),
            Fault::FreezeAt { ms, .. }
            | Fault::Freeze { ms, .. }
            | Fault::Suspend { ms, .. }
            | Fault::Pause { ms, .. }
            | Fault::Cut { ms, .. }
            | Fault::Noise { ms, .. }
            | Fault::Disk { ms, .. }
            | Fault::Refuse { ms, .. }
            | Fault::SlowRelease { ms, .. }
            | Fault::Flush { ms, .. }
            | Fault::Policy { ms, .. }
            | Fault::References { ms, .. }
            | Fault::Services { ms, .. }
            | Fault::Lan { ms, .. }
            | Fault::Lag { ms, .. }
            | Fault::Undrainable { ms, .. }
            | Fault::Part { ms }
            | Fault::Stranger { ms }
            | Fault::ArbiterAway { ms, .. }
            | Fault::ArbiterDown { ms }
            | Fault::ArbiterSlow { ms, .. }
            | Fault::RepliesLost { ms, .. } => Some(ms),
            Fault::Order { .. } | Fault::Synced { .. } | Fault::Wiped => None,
        }
    }
}

pub(crate) fn seat_name(side: Side) -> &'static str {
    match side {
        Side::A => "A",
        Side::B => "B",
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Point::Before => "before",
            Point::After => "after",
        })
    }
}

fn order_name(order: Order) -> &'static str {
    match order {
        Order::Switchover => "switchover",
        Order::Maintenance(true) => "maintenance-on",
        Order::Maintenance(false) => "maintenance-off",
        Order::StartAlone => "start-alone",
        Order::Clear => "clear",
        Order::Stop => "stop",
    }
}

fn which(link: Option<u8>) -> String {
    link.map_or_else(|| "all".into(), |link| link.to_string())
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = FAULT_KINDS[self.kind()];
        match *self {
            Fault::Kill { node, down_ms } | Fault::PowerCut { node, down_ms } => {
                write!(f, "{name} {} down {down_ms}", seat_name(node))
            }
            Fault::KillAt { node, effect, point, down_ms } => {
                let (seat, effect) = (seat_name(node), effect.name());
                write!(f, "{name} {seat} {point} {effect} down {down_ms}")
            }
            Fault::FreezeAt { node, effect, point, ms } => {
                write!(f, "{name} {} {point} {} for {ms}", seat_name(node), effect.name())
            }
            Fault::Freeze { node, ms }
            | Fault::Suspend { node, ms }
            | Fault::Pause { node, ms }
            | Fault::Refuse { node, ms }
            | Fault::Flush { node, ms }
            | Fault::References { node, ms }
            | Fault::Services { node, ms }
            | Fault::Lag { node, ms }
            | Fault::Undrainable { node, ms }
            | Fault::ArbiterAway { node, ms }
            | Fault::RepliesLost { node, ms } => {
                write!(f, "{name} {} for {ms}", seat_name(node))
            }
            Fault::Cut { from, link, ms } => {
                write!(f, "{name} from {} link {} for {ms}", seat_name(from), which(link))
            }
            Fault::Noise { from, link, lose, late_ms, double, ms } => {
                let (from, link) = (seat_name(from), which(link));
                write!(f, "{name} from {from} link {link} lose {lose} late {late_ms} ")?;
                write!(f, "double {double} for {ms}")
            }
            Fault::Disk { node, mode, ms } => {
                let seat = seat_name(node);
                match mode {
                    DiskMode::Slow(each) => write!(f, "{name} {seat} slow {each} for {ms}"),
                    DiskMode::Fails => write!(f, "{name} {seat} fails for {ms}"),
                    DiskMode::Stuck => write!(f, "{name} {seat} stuck for {ms}"),
                }
            }
            Fault::SlowRelease { node, each_ms, ms } => {
                write!(f, "{name} {} each {each_ms} for {ms}", seat_name(node))
            }
            Fault::Policy { node, mode, ms } => {
                let mode = match mode {
                    PolicyMode::Traps => "traps",
                    PolicyMode::Late => "late",
                    PolicyMode::Lost => "lost",
                    PolicyMode::Nonsense => "nonsense",
                    PolicyMode::Holds => "holds",
                };
                write!(f, "{name} {} {mode} for {ms}", seat_name(node))
            }
            Fault::Lan { node, carrier, ms } => {
                let how = if carrier { "carrier" } else { "unseen" };
                write!(f, "{name} {} {how} for {ms}", seat_name(node))
            }
            Fault::Part { ms } | Fault::Stranger { ms } | Fault::ArbiterDown { ms } => {
                write!(f, "{name} for {ms}")
            }
            Fault::Order { node, order } => {
                write!(f, "{name} {} {}", seat_name(node), order_name(order))
            }
            Fault::Synced { node, synced } => {
                write!(f, "{name} {} {}", seat_name(node), if synced { "yes" } else { "no" })
            }
            Fault::ArbiterSlow { by_ms, ms } => write!(f, "{name} by {by_ms} for {ms}"),
            Fault::Wiped => f.write_str(name),
        }
    }
}
