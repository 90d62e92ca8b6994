//! A world of two nodes, a client and a switch in network namespaces of this machine, with faults,
//! instruments and the demo.
//!
//! What it promises: namespaces have no names and no files, every process of a node dies with the
//! [`Lab`] or with the process that owns it, and nothing outside the namespaces is touched. What it
//! refuses to do: to touch a process that does not live in one of its own namespaces.

mod demo;
mod demo_steps;
mod demo_view;
mod enter;
mod fault;
mod freezer;
mod hogs;
mod instrument;
mod interrupt;
mod lab;
mod pair;
mod pktinfo;
mod probe;
mod seat;
mod sip;
mod small_disk;
mod space;
mod status;
mod stranger;
mod wire;

pub use demo::{DemoOptions, DemoReport, StepReport, demo};
pub use enter::{Entry, enter, realtime_allowed};
pub use fault::{Cable, Fault};
pub use freezer::freezer_missing;
pub use instrument::{Answer, Answers};
pub use lab::{ARBITER_IP, CLIENT_IP, Lab, LabOptions, Node, VIP, VIP_PREFIX};
pub use pair::{HEARTBEAT_PORT, Pair, PairOptions, Profile, SitePolicy};
pub use probe::{EchoServer, Probe};
pub use seat::Seat;
pub use sip::{Method, SipClient, SipServer};
pub use space::Space;
pub use status::{Alarm, Decision, Gate, Level, Link, Peer, Realtime, Role, Status, Statuses, Vip};
pub use stranger::Strange;
pub use wire::{WireTally, WireWatch};
