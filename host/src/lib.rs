//! The daemon of one node of a pair, its control API and its command line.
//!
//! See `ARCHITECTURE.md` for who may import whom.

pub mod api;
pub mod config;
pub mod journal;
pub mod identity;
pub mod license;
pub mod private_file;
pub mod setup;
pub mod evidence;
pub mod link;
pub mod shell;
pub mod cli;
pub mod doctor;
