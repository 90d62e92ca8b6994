//! SQLite databases, followed on the primary and applied on the standby.
//!
//! Promises: applications stay unmodified; the standby's copy is at every instant some whole
//! transaction of the primary's, readers never see anything else; what cannot be proved to be part
//! of the primary's history is archived before a page of it is overwritten. Refuses: to write
//! anything of its own into a user's database, to stop for a lost trail, and to know who is
//! primary: it is told.

mod apply;
mod attach;
mod fence;
mod hash;
mod index;
mod lock;
mod scan;
mod table;

pub use apply::{
    ApplyError, Checkpoint, CheckpointKind, CreateError, Durability, Owner, Replica, create,
};
pub use attach::{AttachError, Attached};
pub use fence::{Fence, FenceError};
pub use hash::{is_page_size, lock_page, page_hash};
pub use scan::{Scan, ScanError, Scanned};
pub use table::{GROUP_PAGES, Table};
