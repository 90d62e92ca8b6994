//! SQLite databases, followed on the primary and applied on the standby.
//!
//! Promises: applications stay unmodified; the standby's copy is at every instant some whole
//! transaction of the primary's, readers never see anything else; what cannot be proved to be part
//! of the primary's history is archived before a page of it is overwritten. Refuses: to write
//! anything of its own into a user's database, to stop for a lost trail, and to know who is
//! primary: it is told.

mod apply;
mod archive;
mod attach;
mod attend;
mod barrier;
mod capture;
mod changes;
mod checkpoint;
mod convert;
mod differ;
mod engine;
mod examine;
mod fence;
mod follow;
mod frames;
mod hash;
mod hold;
mod index;
mod lead;
mod ledger;
mod lock;
mod outlet;
mod pages;
mod rows;
mod scan;
mod sites;
mod snapshot;
mod status;
mod table;
mod tend;
mod trail;
mod watch;
mod wire;
mod worker;

pub use apply::{
    ApplyError, Checkpoint, CheckpointKind, CreateError, Durability, Owner, Replica, create,
};
pub use archive::{ArchiveError, ArchiveLabel, ArchiveNote, Archived, archive};
pub use attach::{AttachError, Attached, AttachedAsIs};
pub use changes::Changes;
pub use differ::Differ;
pub use engine::{Command, Handle, HoldReply, Options, Pattern, StartError, start};
pub use examine::{Hindrance, examine, files_of};
pub use fence::{Fence, FenceError};
pub use follow::Follower;
#[doc(hidden)]
pub use follow::Guard;
pub use hash::{is_page_size, page_hash};
pub use ledger::{Kinship, LedgerError};
pub use rows::{Difference, Differences, RowsError, Sample, TableDifference, difference};
pub use scan::{Scan, ScanError, Scanned};
pub use sites::means;
pub use snapshot::{Snapshot, lock_page};
pub use status::{DatabaseCounters, DatabaseStatus, Notice, State};
pub use table::{GROUP_PAGES, Table};
pub use tend::CHECKPOINT_FRAMES;
pub use trail::{CaptureError, Counters, Drained, LostTrail, Trail};
pub use watch::{WalWatch, WatchId, Woken};
pub use wire::{DATABASES_MAX, Position};
