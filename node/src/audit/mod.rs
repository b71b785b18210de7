//! The audit log: a node's receipts on disk, and what an auditor does with them, from files alone.
//!
//! ```text
//! checkpoint        size and root, signed by the node's key, anew every second while it grows
//! cosigned          the newest checkpoint that peers cosigned, if any did
//! tile/0/x001/067   hashes, and tile/entries/… the receipts, as C2SP's tlog-tiles lays them out
//! seen/PEER         size and root of a peer's log, as this node cosigned it last
//! cosigners/PEER    charters of those who cosigned
//! charters/HASH     the node's charters, so that an auditor needs nothing else
//! openings/012      what opens the commitments in the receipts; may go at any time, for good
//! pruned            a signed note: before which entry receipts were deleted
//! journal-0, -1     receipts that are kept, and not yet under the checkpoint
//! lock              held by the one process that writes
//! ```
//!
//! A receipt is acknowledged when it is in a journal: by one write of whoever has it, or, if it must
//! outlive a loss of power, by one write and one fsync for all such that wait. Each second the journals
//! change places, what the one holds goes to its tiles, the checkpoint is signed, all of it is on the
//! disk, and that journal begins anew. So whatever was acknowledged survives a kill at any moment,
//! whatever was signed never takes another form, and nobody waits for the disk but who asks for it.
//!
//! Old receipts are deleted by bundles of 256; their hashes stay (32 bytes a receipt), and so the
//! root and every proof that was given hold. [`log`] owns the files, its front the journals;
//! [`writer`] is the way to the front, and to the one thread that owns the log. Nothing here decides: who
//! may run what is the core's.

pub mod authorities;
mod cosigning;
mod entry;
pub mod error;
pub mod export;
mod files;
mod front;
mod journal;
pub mod keeper;
pub mod log;
pub mod reader;
mod recent;
mod retention;
mod salts;
pub mod totals;
pub mod usage;
pub mod verify;
pub mod writer;

pub use entry::Entry;
pub(crate) use files::read_text;
