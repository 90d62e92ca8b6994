//! What every exported function does around the policy.

use serde::de::DeserializeOwned;

use crate::{Context, Given};

/// Reads the context: settings parsed and checked, the rest as it is.
pub(crate) fn given<S: DeserializeOwned + Default>(
    context: &Context,
    check: impl Fn(&S) -> Vec<String>,
) -> Result<Given<S>, Vec<String>> {
    let settings = settings(&context.settings, check)?;
    Ok(Given { settings, memory: context.memory.clone(), wall: context.wall.clone() })
}

/// Parses settings. Empty ones are the default; unknown keys are refused by name.
#[doc(hidden)]
pub fn settings<S: DeserializeOwned + Default>(
    json: &str,
    check: impl Fn(&S) -> Vec<String>,
) -> Result<S, Vec<String>> {
    let text = json.trim();
    if matches!(text, "" | "{}" | "null") {
        return Ok(S::default());
    }
    let mut unknown = Vec::new();
    let mut reader = serde_json::Deserializer::from_str(text);
    let parsed: Result<S, _> = serde_ignored::deserialize(&mut reader, |path| {
        unknown.push(format!("unknown setting \"{path}\": remove it, or check its spelling"));
    });
    let parsed = parsed.map_err(|error| vec![error.to_string()])?;
    if !unknown.is_empty() {
        return Err(unknown);
    }
    let wrong = check(&parsed);
    if wrong.is_empty() { Ok(parsed) } else { Err(wrong) }
}

/// First thing in every export: a panic says what it is before it becomes a trap.
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub fn begin() {
    std::panic::set_hook(Box::new(|panic| crate::log::warn(panic.to_string())));
}

/// Implements and exports the `about` interface.
#[doc(hidden)]
#[macro_export]
macro_rules! __about {
    ($policy:ty, $($trait:tt)+) => {
        impl $crate::raw::about::exports::staffetta::policy::about::Guest for Exports {
            fn describe() -> $crate::raw::about::exports::staffetta::policy::about::Description {
                $crate::guest::begin();
                let facts = <$policy as $($trait)+>::FACTS_USED;
                $crate::raw::about::exports::staffetta::policy::about::Description {
                    name: env!("CARGO_PKG_NAME").to_string(),
                    version: env!("CARGO_PKG_VERSION").to_string(),
                    summary: env!("CARGO_PKG_DESCRIPTION").to_string(),
                    settings_schema: <$policy as $($trait)+>::SETTINGS_SCHEMA.to_string(),
                    facts_used: facts.iter().map(|fact| fact.to_string()).collect(),
                }
            }

            fn check_settings(settings: String) -> Result<(), Vec<String>> {
                $crate::guest::begin();
                $crate::guest::settings(&settings, <$policy as $($trait)+>::check).map(|_| ())
            }
        }

        $crate::raw::about::export_about!(Exports with_types_in $crate::raw::about);
    };
}
