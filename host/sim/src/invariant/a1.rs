//! A1: with an arbiter, one node at most answers under any partition; only who serves, or whom an
//! operator vouched for, creates the register, and its epoch never goes back.

use super::Finding;
use crate::fault::seat_name;
use crate::world::side;
use staffetta_core::{Register, Span};

/// Rounding between two clocks.
const ROUNDING_NS: u64 = 2_000;

/// A node writes the register this much too early: before a rival's lease is over for certain, or
/// as paired while a lease of its own outlives the peer's grants.
pub(crate) fn early(at: usize, by: Span) -> Finding {
    if by.0 > ROUNDING_NS {
        let (name, us) = (seat_name(side(at)), by.0 / 1_000);
        return Err(format!("{name} writes the register {us} µs before another lease is over"));
    }
    Ok(())
}

/// One write to the register.
pub(crate) fn write(held: Option<Register>, to: &Register, by_right: bool) -> Finding {
    match held {
        Some(held) if to.epoch < held.epoch => {
            Err(format!("the epoch of the register goes back from {} to {}", held.epoch, to.epoch))
        }
        None if !by_right => Err(format!(
            "{} is written into a missing register by a node that does not serve",
            to.epoch
        )),
        Some(_) | None => Ok(()),
    }
}
