//! What the tests of whole nodes share: the permission to build a world, one world at a time, and
//! one helper that plays a fault and checks what the promise says about it.

mod arbiter;
mod ask;
mod case;
mod churn;
mod deeds;
mod kamailio;
mod launch;
mod phone;
pub mod trees;
mod world;
mod writer;

pub use arbiter::ArbiterSeat;
pub use ask::{aligned, said, text, wait};
pub use case::{ArbiterDeeds, Case, Scene, Serves, arbitrated, check, check_each, single};
pub use churn::Churn;
pub use deeds::{NO_GAP_MS, heal, kill, start};
pub use kamailio::{KAMAILIO_PORT, Kamailio};
pub use launch::{can_launch, moved_clocks};
pub use phone::Phone;
pub use staffetta_arbiter::proxy::Behaviour;
pub use world::{binary, target_dir, workspace, world};
pub use writer::{Writer, sql};
