//! Types that all kinds of policy share: WIT interface `types`.

use crate::wit::{closed, record, variant};

#[cfg(target_arch = "wasm32")]
mod raw {
    pub(super) use crate::raw::types::{Copy as Copied, Kind as DataKind, *};
}

/// An age or a duration in milliseconds, saturating.
pub type Ms = u32;

/// The number of a reign of a primary. Higher is newer.
pub type Epoch = u64;

variant! {
    /// The value of a [`Fact`].
    Value {
        /// Yes or no.
        Flag(bool) = "flag",
        /// A whole number.
        Number(i64) = "number",
        /// Anything else.
        Text(String) = "text",
    }
}

impl Default for Value {
    fn default() -> Self {
        Self::Flag(false)
    }
}

record! {
    /// Something known about a node that has no field of its own: `site.*` from the site's probes,
    /// `host.*` from the daemon.
    Fact {
        /// Its name, such as `site.active-calls`.
        name: String = "name",
        /// What it says.
        value: Value = "value",
        /// How old it is.
        age: Ms = "age",
    }
}

closed! {
    /// What a node is to the pair.
    Role {
        /// Just started or recovered: serves nothing, knows nothing yet.
        #[default]
        Joining = "joining",
        /// Ready to take over.
        Standby = "standby",
        /// Is taking over.
        Candidate = "candidate",
        /// Serves.
        Primary = "primary",
        /// Hands over as planned.
        Draining = "draining",
        /// Holds nothing until an operator clears it.
        Fenced = "fenced",
    }
}

closed! {
    /// The health of a service or of a network.
    Health {
        /// Works.
        Ok = "ok",
        /// Works in part.
        Degraded = "degraded",
        /// Does not work.
        Failed = "failed",
        /// Not measured.
        #[default]
        Unknown = "unknown",
    }
}

closed! {
    /// How a copy on this node relates to the peer's.
    Copied {
        /// The same.
        Aligned = "aligned",
        /// Older.
        Behind = "behind",
        /// Changed on both.
        Diverged = "diverged",
        /// Not compared.
        #[default]
        Unknown = "unknown",
    }
}

closed! {
    /// What kind of data is replicated.
    DataKind {
        /// A database.
        #[default]
        Database = "database",
        /// A directory tree.
        Tree = "tree",
    }
}

closed! {
    /// How a license stands.
    Standing {
        /// Licensing is off.
        #[default]
        NotRequired = "not-required",
        /// In its term.
        Valid = "valid",
        /// Past its term, still honored.
        Grace = "grace",
        /// Past its term and its grace.
        Expired = "expired",
        /// Not a license of this node.
        Invalid = "invalid",
        /// There is none to look at.
        Unknown = "unknown",
    }
}

record! {
    /// One service check.
    Check {
        /// Its name in the configuration.
        name: String = "name",
        /// Its last result, after rise and fall counts.
        health: Health = "health",
        /// For how long it has been so.
        since: Ms = "since",
        /// How long ago it last ran.
        age: Ms = "age",
    }
}

record! {
    /// A reference outside the pair, such as the gateway.
    Target {
        /// Its name in the configuration.
        name: String = "name",
        /// Whether it answered. `None`: not probed yet.
        reachable: Option<bool> = "reachable",
        /// How long ago it was probed.
        age: Ms = "age",
    }
}

record! {
    /// One replicated database or tree, as this node holds it.
    Data {
        /// Database or tree.
        kind: DataKind = "kind",
        /// Its name in the configuration.
        name: String = "name",
        /// The reign that its newest change is of.
        epoch: Epoch = "epoch",
        /// The number of its newest change.
        seq: u64 = "seq",
        /// How it relates to the peer's copy.
        copy: Copied = "copy",
        /// Changes missing.
        behind_items: u64 = "behind-items",
        /// Bytes missing.
        behind_bytes: u64 = "behind-bytes",
        /// Age of the oldest missing change.
        behind: Ms = "behind",
        /// Age of this entry.
        age: Ms = "age",
    }
}

record! {
    /// Local wall-clock time: evidence, never a lease.
    Wall {
        /// Seconds since 1970, UTC.
        unix_s: i64 = "unix-s",
        /// Minutes to add for local time.
        utc_offset_min: i16 = "utc-offset-min",
        /// Day of the week, Monday is 1.
        weekday: u8 = "weekday",
        /// Minute of the local day, 0 to 1439.
        minute_of_day: u16 = "minute-of-day",
        /// Whether the clock is synchronised. Do not act on the time where it is not.
        trusted: bool = "trusted",
    }
}

record! {
    /// Everything known about one node.
    Node {
        /// Its name.
        name: String = "name",
        /// Its site, or an empty string.
        site: String = "site",
        /// Whether the site prefers it as primary.
        preferred: bool = "preferred",
        /// What it is to the pair.
        role: Role = "role",
        /// The newest reign it knows.
        epoch: Epoch = "epoch",
        /// How long it has been in this role.
        in_role: Ms = "in-role",
        /// Whether its data may be served.
        promotable: bool = "promotable",
        /// Whether an operator disarmed takeover.
        maintenance: bool = "maintenance",
        /// The network that the clients are on.
        service_network: Health = "service-network",
        /// The worst of `checks`.
        services: Health = "services",
        /// The service checks.
        checks: Vec<Check> = "checks",
        /// The references outside the pair, as this node sees them.
        targets: Vec<Target> = "targets",
        /// The replicated data.
        data: Vec<Data> = "data",
        /// How its license stands. Never a reason against a takeover.
        license: Standing = "license",
        /// The longest recent stall of the daemon.
        stall_max: Ms = "stall-max",
        /// What else is known.
        facts: Vec<Fact> = "facts",
    }
}

record! {
    /// What comes with every question beside the situation.
    Context {
        /// The settings of the policy, as a JSON object.
        settings: String = "settings",
        /// What the policy asked to remember.
        memory: Option<String> = "memory",
        /// The time of day.
        wall: Wall = "wall",
    }
}

variant! {
    /// Why a policy gives no verdict.
    Fault {
        /// One line for each thing that is wrong with the settings.
        BadSettings(Vec<String>) = "bad-settings",
        /// The evidence does not suffice.
        CannotDecide(String) = "cannot-decide",
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BadSettings(lines) => write!(f, "bad settings: {}", lines.join("; ")),
            Self::CannotDecide(why) => write!(f, "cannot decide: {why}"),
        }
    }
}

/// What a policy says about itself: WIT interface `about`.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, rename_all = "kebab-case")]
#[cfg_attr(
    feature = "host",
    derive(
        wasmtime::component::ComponentType,
        wasmtime::component::Lift,
        wasmtime::component::Lower,
    )
)]
#[cfg_attr(feature = "host", component(record))]
pub struct Description {
    /// Its name, as of its package.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One sentence for the operator.
    pub summary: String,
    /// A JSON Schema of the settings, or an empty string.
    #[cfg_attr(feature = "host", component(name = "settings-schema"))]
    pub settings_schema: String,
    /// Names of the facts that it looks at.
    #[cfg_attr(feature = "host", component(name = "facts-used"))]
    pub facts_used: Vec<String>,
}

/// Bytes as a hexadecimal string in JSON.
pub(crate) mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn text(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(crate) fn bytes(text: &str) -> Option<Vec<u8>> {
        let nibbles: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
        let nibbles = nibbles?;
        let whole = nibbles.len().is_multiple_of(2);
        whole.then(|| nibbles.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect())
    }

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&text(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        bytes(&text).ok_or_else(|| D::Error::custom("expected an even number of hex digits"))
    }

    /// The same for bytes that may be absent.
    pub(crate) mod option {
        use super::{Deserialize, Deserializer, Error, Serializer};

        pub(crate) fn serialize<S: Serializer>(
            bytes: &Option<Vec<u8>>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            match bytes {
                Some(bytes) => to.serialize_some(&super::text(bytes)),
                None => to.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<Vec<u8>>, D::Error> {
            let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
            let bytes = super::bytes(&text);
            bytes.map(Some).ok_or_else(|| D::Error::custom("expected an even number of hex digits"))
        }
    }
}
