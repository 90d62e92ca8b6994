//! What happens to the data of two nodes that both served: WIT interface `split-brain`.

use crate::types::{DataKind, Epoch, Fact, Fault, Ms};
use crate::wit::{record, variant};
use crate::{Given, guest};

#[cfg(target_arch = "wasm32")]
use crate::raw::split_brain::exports::staffetta::policy::split_brain as raw;

record! {
    /// One side. `a` and `b` are in the order of their names, not of their roles.
    Branch {
        /// The name of the node.
        node: String = "node",
        /// Its reign.
        epoch: Epoch = "epoch",
        /// How long it served since the two parted.
        served: Ms = "served",
        /// Age of its last write since then. `None`: it wrote nothing.
        last_write: Option<Ms> = "last-write",
        /// What else is known.
        facts: Vec<Fact> = "facts",
    }
}

record! {
    /// A table or a directory, and how much of it each side changed.
    Part {
        /// Its name.
        name: String = "name",
        /// Items that `a` changed.
        a_items: u64 = "a-items",
        /// Bytes that `a` changed.
        a_bytes: u64 = "a-bytes",
        /// Items that `b` changed.
        b_items: u64 = "b-items",
        /// Bytes that `b` changed.
        b_bytes: u64 = "b-bytes",
        /// Items that both changed.
        both: u64 = "both",
    }
}

record! {
    /// A database or a tree that differs.
    Subject {
        /// Database or tree.
        kind: DataKind = "kind",
        /// Its name in the configuration.
        name: String = "name",
        /// The last position that both had: reign and number of the change.
        common: Option<(Epoch, u64)> = "common",
        /// Where it differs.
        parts: Vec<Part> = "parts",
    }
}

record! {
    /// Everything there is to know when the question is asked.
    Situation {
        /// The node whose name sorts first.
        a: Branch = "a",
        /// The other one.
        b: Branch = "b",
        /// Who serves now.
        serving: Option<String> = "serving",
        /// What differs.
        subjects: Vec<Subject> = "subjects",
    }
}

variant! {
    /// Whose data stays in service. The other side's is archived first, always.
    #[derive(Default)]
    Keep {
        /// That of `a`.
        A = "a",
        /// That of `b`.
        B = "b",
        /// Both, by a rule such as `union-by-key`.
        Merge(String) = "merge",
        /// Wait for an operator.
        #[default]
        AskOperator = "ask-operator",
        /// For later hosts. One that does not know it asks the operator.
        Other(String) = "other",
    }
}

record! {
    /// What happens to a subject, or to one part of it.
    Ruling {
        /// Database or tree.
        kind: DataKind = "kind",
        /// Its name in the configuration.
        name: String = "name",
        /// The part that this is about. `None`: all of it.
        part: Option<String> = "part",
        /// Whose data stays.
        keep: Keep = "keep",
        /// A sentence for the operator.
        reason: String = "reason",
    }
}

record! {
    /// What the policy answers. A subject without a ruling means: ask the operator.
    Verdict {
        /// Who should serve. `None`: who serves now.
        serve: Option<String> = "serve",
        /// What happens to the data.
        rulings: Vec<Ruling> = "rulings",
        /// A sentence for the operator.
        reason: String = "reason",
        /// What to remember for the next question.
        memory: Option<String> = "memory",
    }
}

/// What [`Policy::resolve`] returns.
pub type Outcome = Result<Verdict, Fault>;

/// A split-brain policy. Export it with [`split_brain_policy!`](crate::split_brain_policy).
///
/// Both nodes ask the same question and must get the same verdict: look at `a`, `b` and `serving`,
/// and leave the memory alone.
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
    fn resolve(situation: &Situation, given: &Given<Self::Settings>) -> Outcome;

    /// Checks settings that parsed. One line for each thing that is wrong.
    fn check(_settings: &Self::Settings) -> Vec<String> {
        Vec::new()
    }
}

/// Answers a question from its context, as the component's `resolve` does.
#[doc(hidden)]
pub fn answer<P: Policy>(situation: &Situation, context: &crate::Context) -> Outcome {
    let given = guest::given(context, P::check).map_err(Fault::BadSettings)?;
    P::resolve(situation, &given)
}

/// Exports a type that implements [`split_brain::Policy`](crate::split_brain::Policy) as a
/// component.
#[macro_export]
macro_rules! split_brain_policy {
    ($policy:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Exports;

            $crate::__about!($policy, $crate::split_brain::Policy);

            impl $crate::raw::split_brain::exports::staffetta::policy::split_brain::Guest
                for Exports
            {
                fn resolve(
                    s: $crate::raw::split_brain::exports::staffetta::policy::split_brain::Situation,
                    c: $crate::raw::types::Context,
                ) -> Result<
                    $crate::raw::split_brain::exports::staffetta::policy::split_brain::Verdict,
                    $crate::raw::types::Fault,
                > {
                    use $crate::wit::Convert;
                    $crate::guest::begin();
                    $crate::split_brain::answer::<$policy>(&s.convert(), &c.convert())
                        .map(Convert::convert)
                        .map_err(Convert::convert)
                }
            }

            $crate::raw::split_brain::export_split_brain!(
                Exports with_types_in $crate::raw::split_brain
            );
        };
    };
}
