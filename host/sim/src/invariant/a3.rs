//! A3: while the arbiter is lost and the nodes see each other, the service stays up and takeover is
//! shown as disarmed.

use super::Finding;
use staffetta_core::Level;

/// What one node shows, long after the arbiter went.
pub(crate) fn shown(name: &str, level: Level) -> Finding {
    match level {
        Level::Disarmed(_) => Ok(()),
        Level::Arbitrated | Level::Paired | Level::EvidenceOnly | Level::Alone => {
            Err(format!("{name} shows {level:?} while the arbiter is away"))
        }
    }
}
