//! SQLite databases, followed on the primary and applied on the standby.
//!
//! Promises: applications stay unmodified; the standby's copy is at every instant some whole
//! transaction of the primary's, readers never see anything else; what cannot be proved to be part
//! of the primary's history is archived before a page of it is overwritten. Refuses: to write
//! anything of its own into a user's database, to stop for a lost trail, and to know who is
//! primary: it is told.

mod attach;
mod changes;
mod checkpoint;
mod differ;
mod follow;
mod frames;
mod hash;
mod hold;
mod index;
mod lock;
mod pages;
mod snapshot;
mod tend;
mod trail;
mod watch;

pub use attach::{AttachError, Attached, AttachedAsIs};
pub use changes::Changes;
pub use differ::Differ;
pub use follow::Follower;
#[doc(hidden)]
pub use follow::Guard;
pub use hash::page_hash;
pub use snapshot::{Snapshot, lock_page};
pub use tend::CHECKPOINT_FRAMES;
pub use trail::{CaptureError, Counters, Drained, LostTrail, Trail};
pub use watch::{WalWatch, WatchId, Woken};
