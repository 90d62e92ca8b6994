//! What a license allows: WIT interface `license`.

use crate::types::{Fact, Fault, Standing};
use crate::wit::{record, variant};
use crate::{Given, guest};

#[cfg(target_arch = "wasm32")]
use crate::raw::license::exports::staffetta::policy::license as raw;

variant! {
    /// Why the question is asked.
    #[derive(Default)]
    Occasion {
        /// The two nodes are about to form a pair.
        FormPair = "form-pair",
        /// The recheck time came.
        #[default]
        Periodic = "periodic",
        /// A document or the settings changed.
        Changed = "changed",
        /// For later hosts.
        Other(String) = "other",
    }
}

record! {
    /// A node, its identity and its license document.
    Holder {
        /// The name of the node.
        node: String = "node",
        /// Its Ed25519 public key, made by `init`. Hexadecimal in JSON.
        #[serde(with = "crate::types::hex")]
        identity: Vec<u8> = "identity",
        /// The license document, if there is one. Hexadecimal in JSON.
        #[serde(with = "crate::types::hex::option")]
        document: Option<Vec<u8>> = "document",
    }
}

record! {
    /// Everything there is to know when a question is asked.
    Situation {
        /// Why it is asked.
        occasion: Occasion = "occasion",
        /// This node.
        me: Holder = "me",
        /// The peer, once known.
        peer: Option<Holder> = "peer",
        /// Whether the pair is already formed.
        formed: bool = "formed",
        /// The latest wall time ever seen on this node, seconds since 1970.
        latest_seen_s: i64 = "latest-seen-s",
    }
}

record! {
    /// What the policy answers.
    Verdict {
        /// How this node's license stands.
        mine: Standing = "mine",
        /// How the peer's stands.
        peers: Standing = "peers",
        /// Whether the two may form a pair.
        may_form: bool = "may-form",
        /// Whether planned moves are allowed: switchover, failback, loading of policies.
        may_plan: bool = "may-plan",
        /// End of the term, seconds since 1970.
        valid_until_s: Option<i64> = "valid-until-s",
        /// End of the grace after the term, seconds since 1970.
        grace_until_s: Option<i64> = "grace-until-s",
        /// What the license includes.
        features: Vec<Fact> = "features",
        /// What an operator should do something about.
        warnings: Vec<String> = "warnings",
        /// A sentence for the operator.
        reason: String = "reason",
        /// Ask again after this many seconds.
        recheck_s: Option<u32> = "recheck-s",
        /// What to remember for the next question.
        memory: Option<String> = "memory",
    }
}

/// What [`Policy::judge`] returns.
pub type Outcome = Result<Verdict, Fault>;

/// A license policy. Export it with [`license_policy!`](crate::license_policy).
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
    fn judge(situation: &Situation, given: &Given<Self::Settings>) -> Outcome;

    /// Checks settings that parsed. One line for each thing that is wrong.
    fn check(_settings: &Self::Settings) -> Vec<String> {
        Vec::new()
    }
}

/// Answers a question from its context, as the component's `judge` does.
#[doc(hidden)]
pub fn answer<P: Policy>(situation: &Situation, context: &crate::Context) -> Outcome {
    let given = guest::given(context, P::check).map_err(Fault::BadSettings)?;
    P::judge(situation, &given)
}

/// Exports a type that implements [`license::Policy`](crate::license::Policy) as a component.
#[macro_export]
macro_rules! license_policy {
    ($policy:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Exports;

            $crate::__about!($policy, $crate::license::Policy);

            impl $crate::raw::license::exports::staffetta::policy::license::Guest for Exports {
                fn judge(
                    s: $crate::raw::license::exports::staffetta::policy::license::Situation,
                    c: $crate::raw::types::Context,
                ) -> Result<
                    $crate::raw::license::exports::staffetta::policy::license::Verdict,
                    $crate::raw::types::Fault,
                > {
                    use $crate::wit::Convert;
                    $crate::guest::begin();
                    $crate::license::answer::<$policy>(&s.convert(), &c.convert())
                        .map(Convert::convert)
                        .map_err(Convert::convert)
                }
            }

    $crate::raw::license::export_license!(Exports with_types_in $crate::raw::license);
        };
    };
}
