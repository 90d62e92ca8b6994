//! One history before it runs: who takes part, under which premise, what goes wrong, how it ends.

use crate::fault::Fault;
use staffetta_core::{Side, Span, Timing, TimingParts};

/// What is under test: the configuration of a pair.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Its times.
    pub timing: Timing,
    /// G while only lifetimes of addresses close the gate.
    pub lifetime_slack: Span,
    /// A register breaks ties.
    pub arbiter: Tiebreak,
    /// A reference outside the pair is configured.
    pub references: bool,
    /// The node that the configuration prefers.
    pub preferred: Option<Side>,
}

impl Pair {
    /// A pair with the fast profile: 50 ms beats, 300 ms lease, 10 ms links, and a reference.
    ///
    /// # Panics
    /// Never: a test of the configuration holds the profile to its inequalities.
    #[must_use]
    pub fn fast(arbiter: Tiebreak) -> Pair {
        let parts = TimingParts {
            beat: Span::ms(50),
            lease: Span::ms(300),
            delay: Span::ms(10),
            slack: Span::ms(20),
            policy_deadline: Span::ms(40),
            join_timeout: Span::ms(10_000),
            stop_budget: Span::ms(3_000),
        };
        let timing = Timing::new(parts).expect("the fast profile satisfies the inequalities");
        Pair { timing, lifetime_slack: Span::ms(1_400), arbiter, references: true, preferred: None }
    }
}

/// Which histories have an arbiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tiebreak {
    /// None.
    Never,
    /// All.
    Always,
    /// Every other one.
    Both,
}

/// What a history leaves whole, and with that what may be demanded of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Premise {
    /// Loss, noise and stalls shorter than the lease: the service must not move.
    Calm,
    /// The first link is clean: delays within D, no loss. Anything else may break.
    Linked,
    /// Frames of one node always pass the first link; those of the other may be cut.
    OneWay(Side),
    /// Every link may be cut in both directions.
    Parted,
    /// As `Linked`, and a hypervisor may stop a machine together with its clocks.
    Paused,
}

/// How a history ends, and what is demanded then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Everything works.
    AllUp,
    /// One node stays down.
    Dead(Side),
    /// The arbiter stays down.
    ArbiterDead,
    /// All links are cut.
    Cut,
    /// Frames of this node do not pass.
    OneWay(Side),
    /// As `OneWay`, and only the second node reaches the arbiter.
    OneWayReaches(Side, Side),
    /// This node does not reach the arbiter.
    CutFromArbiter(Side),
    /// All links are cut, and only this node reaches the arbiter.
    CutReaches(Side),
}

/// License documents of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Licensing {
    /// No trusted key: nothing is asked of anybody.
    Off,
    /// Both nodes have a document that outlasts the history.
    Valid,
    /// Both have one that ends in its midst.
    Ends,
}

/// The constant noise of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// Heartbeat links, 1 or 2.
    pub links: u8,
    /// Rate error of both clocks, parts per million, at most 1000 either way.
    pub ppm: [i64; 2],
    /// One-way delay of a frame, microseconds.
    pub delay_us: u64,
    /// What chance adds to it.
    pub jitter_us: u64,
    /// How late the kernel may close a gate; below G.
    pub gate_late_us: u64,
    /// Part of a lease that is handed to the kernel, of a thousand.
    pub gate_permille: u64,
    /// How late the loop wakes for a timer at most.
    pub wake_us: u64,
    /// Time of a durable write.
    pub disk_us: u64,
    /// Time of a policy.
    pub policy_us: u64,
    /// One way to the arbiter.
    pub arbiter_us: u64,
    /// License documents.
    pub licensing: Licensing,
    /// This node is of the version before: it does not know the newest fields of a beat.
    pub old: Option<Side>,
    /// Both nodes keep data that commits synchronously; a node of the version before has none.
    pub data: bool,
}

/// A fault and its moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timed {
    /// Microseconds since the start.
    pub at_us: u64,
    /// What happens.
    pub fault: Fault,
}

/// One history, complete: it replays exactly.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// Seed of the noise.
    pub seed: u64,
    /// What it leaves whole.
    pub premise: Premise,
    /// Whether a register breaks ties.
    pub arbiter: bool,
    /// Constant noise.
    pub weather: Weather,
    /// What goes wrong, in order of time.
    pub faults: Vec<Timed>,
    /// When everything is mended and the ending begins, ms.
    pub until_ms: u64,
    /// How it ends.
    pub ending: Ending,
}

impl Ending {
    /// Kinds of endings, for coverage.
    pub(crate) const NAMES: [&'static str; 8] = [
        "all-up",
        "dead",
        "arbiter-dead",
        "cut",
        "one-way",
        "one-way-reaches",
        "cut-from-arbiter",
        "cut-reaches",
    ];

    /// Index into [`Ending::NAMES`].
    pub(crate) fn kind(self) -> usize {
        match self {
            Ending::AllUp => 0,
            Ending::Dead(_) => 1,
            Ending::ArbiterDead => 2,
            Ending::Cut => 3,
            Ending::OneWay(_) => 4,
            Ending::OneWayReaches(..) => 5,
            Ending::CutFromArbiter(_) => 6,
            Ending::CutReaches(_) => 7,
        }
    }
}
