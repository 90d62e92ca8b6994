//! G5: a gate ends with the lease that was granted, whatever becomes of the process; and nobody
//! takes a lease of its own while it is bound by one that it granted.

use super::Finding;
use crate::fault::seat_name;
use crate::world::{Ns, side};
use staffetta_core::{Epoch, Mono, Span};

/// Rounding between two clocks.
const ROUNDING_NS: u64 = 2_000;

/// A node has its gate armed until `until`; by everything that it was granted it may serve until
/// `allowed`.
pub(crate) fn armed(at: usize, until: Mono, allowed: Mono) -> Finding {
    let over = until.since(allowed).0;
    if over > ROUNDING_NS {
        let (name, us) = (seat_name(side(at)), over / 1_000);
        return Err(format!("{name} arms its gate {us} µs beyond every lease that it was granted"));
    }
    Ok(())
}

/// A node claims while what it promised its peer has this long to run.
pub(crate) fn claimed(at: usize, epoch: Epoch, left: Span) -> Finding {
    if left.0 > ROUNDING_NS {
        let (name, us) = (seat_name(side(at)), left.0 / 1_000);
        return Err(format!(
            "{name} claims {epoch} {us} µs before its promise to the peer is over"
        ));
    }
    Ok(())
}

/// The process is gone or stopped: when its gate ends, and when it must have, in real time.
pub(crate) fn left_behind(at: usize, gate_until: Ns, bound: Ns) -> Finding {
    if gate_until > bound.saturating_add(ROUNDING_NS) {
        let (name, us) = (seat_name(side(at)), (gate_until - bound) / 1_000);
        return Err(format!(
            "the gate that {name} leaves behind ends {us} µs after lease and slack"
        ));
    }
    Ok(())
}
