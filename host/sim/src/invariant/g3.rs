//! G3: with a link alive and a crash or freeze of any process, one node at most answers on the VIP.

use crate::plan::Premise;

/// Whether an overlap of two answering nodes is one that no guarantee covers: a full partition of a
/// pair without an arbiter, or a machine that resumed with its clocks stopped and has not heard its
/// peer since.
pub(crate) fn excused(premise: Premise, arbiter: bool, blind: bool) -> bool {
    let parted = match premise {
        Premise::Parted => !arbiter,
        Premise::Calm | Premise::Linked | Premise::OneWay(_) | Premise::Paused => false,
    };
    parted || blind
}

/// The rule that an overlap breaks.
pub(crate) fn text(us: u64) -> String {
    format!("both nodes answer on the VIP for {us} µs or more")
}
