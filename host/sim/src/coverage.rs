//! How often each thing happened: "no violation" of something that never happened counts for
//! nothing.

use crate::fault::{EffectKind, FAULT_KINDS, Point};
use crate::plan::Ending;

macro_rules! counters {
    ($($name:ident = $text:literal, $when:ident;)*) => {
        /// One thing that a run must have seen.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        pub(crate) enum Counter { $($name,)* }

        /// Name and condition of every counter.
        const COUNTERS: &[(&str, When)] = &[$(($text, When::$when),)*];
    };
}

/// Which runs must have seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    WithArbiter,
    WithoutArbiter,
}

counters! {
    Takeover = "takeovers", Always;
    Alone = "going alone", Always;
    Refusal = "orders refused", Always;
    VerdictRefused = "verdicts refused", Always;
    Meeting = "dual meetings", WithoutArbiter;
    JointClaim = "joint claims", Always;
    Handover = "handovers", Always;
    StartAlone = "starts alone", Always;
    ClaimFailed = "claims refused by the kernel", Always;
    Stall = "stalls", Always;
    StallOverLease = "stalls longer than the lease", Always;
    PolicyLate = "questions without an answer", Always;
    PersistLost = "writes lost in a crash", Always;
    PersistTorn = "writes torn in a crash", Always;
    PersistKept = "writes kept in a crash", Always;
    PersistFailed = "writes refused", Always;
    OldVersion = "beats of the version before", Always;
    LicenseEnded = "licenses ended", Always;
    Operator = "operators asked", Always;
    ClientMoved = "clients moved by announcements", Always;
    ClientExpired = "client entries expired", Always;
    GateByTimer = "gates closed by the kernel's timer", Always;
    RegisterWon = "register swaps won", WithArbiter;
    RegisterLost = "register swaps lost", WithArbiter;
    RegisterCreated = "registers created", WithArbiter;
    ReplyLost = "arbiter replies lost after the write", WithArbiter;
    DrainDone = "drains done", Always;
    DrainFailed = "drains failed", Always;
    DrainAbandoned = "drains abandoned", Always;
    HandedWithout = "stops that handed over without data", Always;
    Acked = "transactions acknowledged", Always;
    DegradedByEcho = "degradations known to the peer", Always;
    DegradedByRegister = "degradations known to the register alone", WithArbiter;
    CaughtUp = "peers that caught up", Always;
    StaleRefused = "takeovers refused because stale", Always;
    Excused = "overlaps that no guarantee covers", WithoutArbiter;
}

/// The invariants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Rule {
    /// Epochs are durable, new, and rise.
    G1,
    /// One writer for each epoch; a meeting is recorded.
    G2,
    /// One node answers while a link is alive.
    G3,
    /// Two primaries that meet resolve at once.
    G4,
    /// The gate closes with the lease that was granted.
    G5,
    /// A stall longer than the lease ends the role first.
    G6,
    /// One node answers under any partition.
    A1,
    /// The loss of any one of three is survived.
    A2,
    /// Without the arbiter the service stays, and takeover is shown as disarmed.
    A3,
    /// Service returns after the last fault.
    Liveness,
    /// Loss and short stalls never move the service.
    NoNeedless,
    /// A planned handover loses nothing.
    Planned,
    /// What was acknowledged is where a node takes over by itself.
    Acknowledged,
    /// The core's own assertions.
    Core,
}

impl Rule {
    /// All of them, by index.
    pub const ALL: [Rule; 14] = [
        Rule::G1,
        Rule::G2,
        Rule::G3,
        Rule::G4,
        Rule::G5,
        Rule::G6,
        Rule::A1,
        Rule::A2,
        Rule::A3,
        Rule::Liveness,
        Rule::NoNeedless,
        Rule::Planned,
        Rule::Acknowledged,
        Rule::Core,
    ];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Rule::G1 => "G1 epochs",
            Rule::G2 => "G2 no silent loss",
            Rule::G3 => "G3 one answers",
            Rule::G4 => "G4 meetings resolve",
            Rule::G5 => "G5 gate ends with the lease",
            Rule::G6 => "G6 stalls end the role",
            Rule::A1 => "A1 one answers under any partition",
            Rule::A2 => "A2 one loss is survived",
            Rule::A3 => "A3 service without the arbiter",
            Rule::Liveness => "liveness",
            Rule::NoNeedless => "no needless failover",
            Rule::Planned => "planned moves lose nothing",
            Rule::Acknowledged => "acknowledged is kept",
            Rule::Core => "assertions of the core",
        }
    }

    fn when(self) -> When {
        match self {
            Rule::G1
            | Rule::G2
            | Rule::G5
            | Rule::G6
            | Rule::Liveness
            | Rule::NoNeedless
            | Rule::Planned
            | Rule::Acknowledged
            | Rule::Core => When::Always,
            Rule::G3 | Rule::G4 => When::WithoutArbiter,
            Rule::A1 | Rule::A2 | Rule::A3 => When::WithArbiter,
        }
    }
}

const EFFECTS: usize = EffectKind::ALL.len();

/// What happened in a run, or in many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    counters: [u64; COUNTERS.len()],
    faults: [u64; FAULT_KINDS.len()],
    effects: [u64; EFFECTS],
    killed: [[u64; 2]; EFFECTS],
    frozen: [[u64; 2]; EFFECTS],
    rules: [u64; Rule::ALL.len()],
    endings: [u64; Ending::NAMES.len()],
}

impl Default for Coverage {
    fn default() -> Coverage {
        Coverage {
            counters: [0; COUNTERS.len()],
            faults: [0; FAULT_KINDS.len()],
            effects: [0; EFFECTS],
            killed: [[0; 2]; EFFECTS],
            frozen: [[0; 2]; EFFECTS],
            rules: [0; Rule::ALL.len()],
            endings: [0; Ending::NAMES.len()],
        }
    }
}

impl Coverage {
    pub(crate) fn saw(&mut self, counter: Counter) {
        self.counters[counter as usize] += 1;
    }

    pub(crate) fn evaluated(&mut self, rule: Rule) {
        self.rules[rule as usize] += 1;
    }

    pub(crate) fn fault(&mut self, kind: usize) {
        self.faults[kind] += 1;
    }

    pub(crate) fn effect(&mut self, effect: EffectKind) {
        self.effects[effect as usize] += 1;
    }

    pub(crate) fn killed(&mut self, effect: EffectKind, point: Point) {
        self.killed[effect as usize][point as usize] += 1;
    }

    pub(crate) fn frozen(&mut self, effect: EffectKind, point: Point) {
        self.frozen[effect as usize][point as usize] += 1;
    }

    pub(crate) fn ending(&mut self, ending: Ending) {
        self.endings[ending.kind()] += 1;
    }

    /// How often a rule was evaluated.
    #[must_use]
    pub fn of_rule(&self, rule: Rule) -> u64 {
        self.rules[rule as usize]
    }

    /// Adds what another run saw.
    pub fn add(&mut self, other: &Coverage) {
        fn sum<const N: usize>(to: &mut [u64; N], from: &[u64; N]) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
        sum(&mut self.counters, &other.counters);
        sum(&mut self.faults, &other.faults);
        sum(&mut self.effects, &other.effects);
        sum(&mut self.rules, &other.rules);
        sum(&mut self.endings, &other.endings);
        for (to, from) in self.killed.iter_mut().zip(&other.killed) {
            sum(to, from);
        }
        for (to, from) in self.frozen.iter_mut().zip(&other.frozen) {
            sum(to, from);
        }
    }

    /// Everything that a run of this kind must have seen, with how often it did.
    #[must_use]
    pub fn lines(&self, with_arbiter: bool, without_arbiter: bool) -> Vec<(String, u64)> {
        let wanted = |when: When| match when {
            When::Always => true,
            When::WithArbiter => with_arbiter,
            When::WithoutArbiter => without_arbiter,
        };
        let mut lines = Vec::new();
        for rule in Rule::ALL.into_iter().filter(|rule| wanted(rule.when())) {
            lines.push((format!("evaluated: {}", rule.name()), self.rules[rule as usize]));
        }
        for (at, (name, when)) in COUNTERS.iter().enumerate() {
            if wanted(*when) {
                lines.push(((*name).to_owned(), self.counters[at]));
            }
        }
        let first_of_arbiter = FAULT_KINDS.len() - 6;
        for (at, name) in FAULT_KINDS.iter().enumerate() {
            if at < first_of_arbiter || with_arbiter {
                lines.push((format!("fault: {name}"), self.faults[at]));
            }
        }
        for effect in EffectKind::ALL {
            // Two primaries meet where nothing keeps them apart.
            let apart = effect == EffectKind::Announce && !without_arbiter;
            if apart || effect == EffectKind::Consult && !with_arbiter {
                continue;
            }
            let (name, at) = (effect.name(), effect as usize);
            lines.push((format!("effect: {name}"), self.effects[at]));
            for (point, word) in [(Point::Before, "before"), (Point::After, "after")] {
                if effect == EffectKind::Exit && point == Point::After {
                    continue;
                }
                let (killed, frozen) = (&self.killed[at], &self.frozen[at]);
                lines.push((format!("killed {word} {name}"), killed[point as usize]));
                lines.push((format!("frozen {word} {name}"), frozen[point as usize]));
            }
        }
        for (at, name) in Ending::NAMES.iter().enumerate() {
            let arbiter_only = matches!(at, 2 | 5 | 6 | 7);
            if !arbiter_only || with_arbiter {
                lines.push((format!("ending: {name}"), self.endings[at]));
            }
        }
        lines
    }
}
