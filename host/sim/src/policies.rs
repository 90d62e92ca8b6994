//! Who answers the questions of the nodes.

use staffetta_sdk::{Wall, failover, license, split_brain};

/// The policies of both nodes: pure functions, whoever runs them. `None` means that no policy of
/// the chain gave a verdict.
pub trait Policies {
    /// Who should serve.
    fn failover(
        &mut self,
        situation: &failover::Situation,
        memory: Option<&str>,
        wall: &Wall,
    ) -> Option<failover::Verdict>;

    /// Whose data stays after both served.
    fn split_brain(
        &mut self,
        situation: &split_brain::Situation,
        wall: &Wall,
    ) -> Option<split_brain::Verdict>;

    /// What a license allows.
    fn license(
        &mut self,
        situation: &license::Situation,
        trusted: bool,
        wall: &Wall,
    ) -> Option<license::Verdict>;
}

/// The vendor's key of the simulated licenses.
pub(crate) const LICENSE_KEY: &str = include_str!("license/key.txt");

/// Settings of a license policy that trusts that key.
pub(crate) fn license_settings(trusted: bool) -> String {
    if trusted { format!("{{\"trusted_keys\":[\"{}\"]}}", LICENSE_KEY.trim()) } else { "{}".into() }
}

/// The built-in policies as plain Rust.
#[cfg(feature = "native")]
#[derive(Debug, Clone, Default)]
pub struct Native {
    settings: String,
}

#[cfg(feature = "native")]
impl Native {
    /// The failover policy with these settings, a JSON object; the others with their defaults.
    #[must_use]
    pub fn new(settings: &str) -> Native {
        Native { settings: settings.to_owned() }
    }
}

#[cfg(feature = "native")]
fn context(settings: &str, memory: Option<&str>, wall: &Wall) -> staffetta_sdk::Context {
    staffetta_sdk::Context {
        settings: settings.to_owned(),
        memory: memory.map(str::to_owned),
        wall: wall.clone(),
    }
}

#[cfg(feature = "native")]
impl Policies for Native {
    fn failover(
        &mut self,
        situation: &failover::Situation,
        memory: Option<&str>,
        wall: &Wall,
    ) -> Option<failover::Verdict> {
        let context = context(&self.settings, memory, wall);
        failover::answer::<staffetta_failover::Builtin>(situation, &context).ok()
    }

    fn split_brain(
        &mut self,
        situation: &split_brain::Situation,
        wall: &Wall,
    ) -> Option<split_brain::Verdict> {
        let context = context("{}", None, wall);
        split_brain::answer::<staffetta_split_brain::Builtin>(situation, &context).ok()
    }

    fn license(
        &mut self,
        situation: &license::Situation,
        trusted: bool,
        wall: &Wall,
    ) -> Option<license::Verdict> {
        let context = context(&license_settings(trusted), None, wall);
        license::answer::<staffetta_license::Builtin>(situation, &context).ok()
    }
}
