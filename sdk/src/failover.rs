//! Who should serve: WIT interface `failover`.

use crate::types::{Epoch, Fact, Fault, Health, Ms, Node, Value};
use crate::wit::{closed, record, variant};
use crate::{Given, guest};

#[cfg(target_arch = "wasm32")]
use crate::raw::failover::exports::staffetta::policy::failover as raw;

record! {
    /// One heartbeat path.
    Link {
        /// Its name in the configuration.
        name: String = "name",
        /// Age of the newest frame from the peer. `None`: never heard.
        heard: Option<Ms> = "heard",
        /// Age of the newest frame of ours that the peer confirmed.
        echoed: Option<Ms> = "echoed",
        /// Round trip time in microseconds.
        rtt_us: Option<u32> = "rtt-us",
        /// Frames lost of a thousand.
        loss_permille: u16 = "loss-permille",
        /// Whether it leads over a wide area network.
        wan: bool = "wan",
    }
}

closed! {
    /// Who answers on a service address, told by link-layer address.
    Answerer {
        /// Nobody: it is free.
        Nobody = "nobody",
        /// The peer still does.
        Peer = "peer",
        /// A machine that is neither of the two.
        Stranger = "stranger",
        /// Not probed.
        #[default]
        NotProbed = "not-probed",
    }
}

record! {
    /// One service address.
    Vip {
        /// The address with its prefix length.
        address: String = "address",
        /// Who answers on it.
        answerer: Answerer = "answerer",
        /// How long ago it was probed.
        age: Ms = "age",
    }
}

closed! {
    /// Who holds the arbiter's register.
    Seat {
        /// Nobody.
        Free = "free",
        /// This node.
        Mine = "mine",
        /// The peer.
        Peers = "peers",
        /// The arbiter does not answer.
        #[default]
        Unreachable = "unreachable",
    }
}

record! {
    /// The arbiter, where one is configured.
    Arbiter {
        /// Who holds the register.
        seat: Seat = "seat",
        /// Whether the holder serves without its peer.
        alone: bool = "alone",
        /// The reign in the register.
        epoch: Epoch = "epoch",
        /// Whether the peer of the holder has every synchronous write.
        peer_synced: bool = "peer-synced",
        /// How old this is.
        age: Ms = "age",
    }
}

variant! {
    /// What is asked.
    #[derive(Default)]
    Question {
        /// The join timeout passed without the peer: may this node start alone?
        Start = "start",
        /// A standby's promise to a silent primary ran out: take over?
        PeerSilent = "peer-silent",
        /// A primary's lease runs out because the standby is silent: go on alone?
        GoOnAlone = "go-on-alone",
        /// Evidence changed, or a recheck came.
        #[default]
        Review = "review",
        /// An operator asks for a planned handover.
        Switchover = "switchover",
        /// A question of a later host.
        Other(String) = "other",
    }
}

record! {
    /// Everything there is to know when a question is asked.
    Situation {
        /// What is asked.
        question: Question = "question",
        /// This node.
        me: Node = "me",
        /// The peer as last heard. `None`: never heard since this node started.
        peer: Option<Node> = "peer",
        /// How long ago the peer was last heard.
        peer_age: Ms = "peer-age",
        /// The heartbeat paths.
        links: Vec<Link> = "links",
        /// The service addresses.
        vips: Vec<Vip> = "vips",
        /// The arbiter, where one is configured.
        arbiter: Option<Arbiter> = "arbiter",
        /// Time since the service last moved.
        since_change: Ms = "since-change",
        /// How often it moved in the last hour.
        changes_last_hour: u16 = "changes-last-hour",
    }
}

variant! {
    /// What the policy wants. The host carries it out as far as its own guarantees allow.
    #[derive(Default)]
    Intent {
        /// Change nothing.
        #[default]
        Hold = "hold",
        /// Become primary. Also the answer "yes" to the question `start`.
        TakeOver = "take-over",
        /// Stay primary without the standby's grants.
        GoOnAlone = "go-on-alone",
        /// Move the service to the peer as planned.
        HandOver = "hand-over",
        /// Stop serving.
        StepDown = "step-down",
        /// Wait for an operator.
        AskOperator = "ask-operator",
        /// For later hosts. One that does not know it holds.
        Other(String) = "other",
    }
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::PeerSilent => "peer-silent",
            Self::GoOnAlone => "go-on-alone",
            Self::Review => "review",
            Self::Switchover => "switchover",
            Self::Other(name) => name,
        })
    }
}

impl std::fmt::Display for Intent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hold => "hold",
            Self::TakeOver => "take-over",
            Self::GoOnAlone => "go-on-alone",
            Self::HandOver => "hand-over",
            Self::StepDown => "step-down",
            Self::AskOperator => "ask-operator",
            Self::Other(name) => name,
        })
    }
}

record! {
    /// What the policy answers.
    Verdict {
        /// What it wants.
        intent: Intent = "intent",
        /// A sentence for the operator, at most 1 KiB.
        reason: String = "reason",
        /// The evidence that counted, at most 16 lines of 256 bytes.
        because: Vec<String> = "because",
        /// Ask again after this time, between 100 ms and 24 h.
        recheck: Option<Ms> = "recheck",
        /// What to remember for the next question, at most 4 KiB. `None` keeps what is there.
        memory: Option<String> = "memory",
    }
}

/// What [`Policy::decide`] returns.
pub type Outcome = Result<Verdict, Fault>;

/// A failover policy. Export it with [`failover_policy!`](crate::failover_policy).
pub trait Policy {
    /// The site's settings; [`NoSettings`](crate::NoSettings) if there are none.
    type Settings: serde::de::DeserializeOwned + Default;

    /// A JSON Schema of the settings, for `staffetta policy check`.
    const SETTINGS_SCHEMA: &'static str = "";

    /// Names of the facts that it looks at.
    const FACTS_USED: &'static [&'static str] = &[];

    /// Answers a question. Must depend on its arguments only.
    ///
    /// # Errors
    ///
    /// [`Fault::CannotDecide`] lets the host ask the next policy of its fallback chain.
    fn decide(situation: &Situation, given: &Given<Self::Settings>) -> Outcome;

    /// Checks settings that parsed. One line for each thing that is wrong.
    fn check(_settings: &Self::Settings) -> Vec<String> {
        Vec::new()
    }
}

/// Answers a question from its context, as the component's `decide` does.
#[doc(hidden)]
pub fn answer<P: Policy>(situation: &Situation, context: &crate::Context) -> Outcome {
    let given = guest::given(context, P::check).map_err(Fault::BadSettings)?;
    P::decide(situation, &given)
}

/// Change nothing.
pub fn hold(reason: impl Into<String>) -> Verdict {
    verdict(Intent::Hold, reason)
}

/// Become primary.
pub fn take_over(reason: impl Into<String>) -> Verdict {
    verdict(Intent::TakeOver, reason)
}

/// Stay primary without the standby.
pub fn go_on_alone(reason: impl Into<String>) -> Verdict {
    verdict(Intent::GoOnAlone, reason)
}

/// Move the service to the peer as planned.
pub fn hand_over(reason: impl Into<String>) -> Verdict {
    verdict(Intent::HandOver, reason)
}

/// Stop serving.
pub fn step_down(reason: impl Into<String>) -> Verdict {
    verdict(Intent::StepDown, reason)
}

/// Wait for an operator.
pub fn ask_operator(reason: impl Into<String>) -> Verdict {
    verdict(Intent::AskOperator, reason)
}

fn verdict(intent: Intent, reason: impl Into<String>) -> Verdict {
    Verdict { intent, reason: reason.into(), ..Verdict::default() }
}

impl Verdict {
    /// Adds a line of evidence.
    #[must_use]
    pub fn because(mut self, evidence: impl Into<String>) -> Self {
        self.because.push(evidence.into());
        self
    }

    /// Asks to be asked again after this many milliseconds.
    #[must_use]
    pub fn recheck_ms(mut self, after_ms: Ms) -> Self {
        self.recheck = Some(after_ms);
        self
    }

    /// Remembers a text for the next question on this node.
    #[must_use]
    pub fn remember(mut self, memory: impl Into<String>) -> Self {
        self.memory = Some(memory.into());
        self
    }
}

/// What the references outside the pair say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum References {
    /// None is configured: they say nothing.
    NotConfigured,
    /// At least one answers.
    Reachable,
    /// None answers, and all were probed.
    Unreachable,
    /// None answers so far, and some were not probed yet.
    NotProbed,
}

impl Node {
    /// What the references say, as this node sees them.
    pub fn references(&self) -> References {
        if self.targets.is_empty() {
            References::NotConfigured
        } else if self.targets.iter().any(|target| target.reachable == Some(true)) {
            References::Reachable
        } else if self.targets.iter().any(|target| target.reachable.is_none()) {
            References::NotProbed
        } else {
            References::Unreachable
        }
    }

    /// A fact by name.
    pub fn fact(&self, name: &str) -> Option<&Fact> {
        self.facts.iter().find(|fact| fact.name == name)
    }

    /// A yes-or-no fact by name.
    pub fn flag(&self, name: &str) -> Option<bool> {
        match self.fact(name)?.value {
            Value::Flag(flag) => Some(flag),
            Value::Number(_) | Value::Text(_) => None,
        }
    }

    /// A number by name.
    pub fn number(&self, name: &str) -> Option<i64> {
        match self.fact(name)?.value {
            Value::Number(number) => Some(number),
            Value::Flag(_) | Value::Text(_) => None,
        }
    }

    /// Whether its services or its service network have failed.
    pub fn has_failed(&self) -> bool {
        self.services == Health::Failed || self.service_network == Health::Failed
    }
}

impl Situation {
    /// Age of the newest frame from the peer over any link. `None`: never heard.
    pub fn heard(&self) -> Option<Ms> {
        self.links.iter().filter_map(|link| link.heard).min()
    }

    /// Whether anybody of this kind answers on a service address.
    pub fn answers(&self, answerer: Answerer) -> bool {
        self.vips.iter().any(|vip| vip.answerer == answerer)
    }

    /// Whether every service address was probed and none answers.
    pub fn silent(&self) -> bool {
        self.vips.iter().all(|vip| vip.answerer == Answerer::Nobody)
    }
}

/// Exports a type that implements [`failover::Policy`](crate::failover::Policy) as a component.
#[macro_export]
macro_rules! failover_policy {
    ($policy:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Exports;

            $crate::__about!($policy, $crate::failover::Policy);

            impl $crate::raw::failover::exports::staffetta::policy::failover::Guest for Exports {
                fn decide(
                    s: $crate::raw::failover::exports::staffetta::policy::failover::Situation,
                    c: $crate::raw::types::Context,
                ) -> Result<
                    $crate::raw::failover::exports::staffetta::policy::failover::Verdict,
                    $crate::raw::types::Fault,
                > {
                    use $crate::wit::Convert;
                    $crate::guest::begin();
                    $crate::failover::answer::<$policy>(&s.convert(), &c.convert())
                        .map(Convert::convert)
                        .map_err(Convert::convert)
                }
            }

            $crate::raw::failover::export_failover!(
                Exports with_types_in $crate::raw::failover
            );
        };
    };
}
