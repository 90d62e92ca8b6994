//! A1: with an arbiter, one node at most answers under any partition; only who serves, or whom an
//! operator vouched for, creates the register, and its epoch never goes back.

use super::Finding;
use staffetta_core::Register;

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
