//! The daemon of one node of a pair, its control API and its command line.
//!
//! See `ARCHITECTURE.md` for who may import whom.

pub mod api;
pub mod arbiter;
pub mod cli;
pub mod config;
mod databases;
pub mod doctor;
pub mod evidence;
pub mod identity;
pub mod journal;
pub mod license;
pub mod link;
pub mod private_file;
pub mod setup;
pub mod shell;
