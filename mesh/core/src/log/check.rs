//! Whether the files of a log are what its checkpoint covers: every entry hashes to its place in
//! the lowest tiles, every tile to the one above, and all to the signed root.
//!
//! The files come through a function, so that this runs over a folder, a backup or a copy in
//! memory. Old entries may be deleted, as far as the keeper signed that it did; their hashes stay,
//! so the root and every proof given before hold.

use super::checkpoint::{Checkpoint, CheckpointFault, decimal, keeper};
use super::tile::{Kind, Tile, TileFault, WIDTH, entries, hashes, level_of};
use super::tree::{Frontier, leaf_hash};
use crate::id::{Digest, PeerId};
use crate::note::{self, NoteFault, SignerKey, VerifierKey};

/// What is wrong with a log's files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogFault {
    /// Its checkpoint is none.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointFault),
    /// A file is missing.
    #[error("{0}: missing")]
    Missing(Tile),
    /// A file has another form.
    #[error("{tile}: {fault}")]
    Form {
        /// Which.
        tile: Tile,
        /// What is wrong.
        fault: TileFault,
    },
    /// A hash is not what lies below it.
    #[error("{tile}: hash {at} is not that of what lies below it")]
    Hash {
        /// Which file.
        tile: Tile,
        /// Which of its hashes.
        at: usize,
    },
    /// All files agree, and the checkpoint was signed over others.
    #[error("the files' root is {found}, the checkpoint is signed over {signed}")]
    Root {
        /// What the files give.
        found: Digest,
        /// What was signed.
        signed: Digest,
    },
}

/// What a log's files were found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What was signed.
    pub checkpoint: Checkpoint,
    /// Whose log it is.
    pub keeper: PeerId,
    /// Entries that were deleted, and are known by their hashes only.
    pub pruned: u64,
}

/// Checks the log under the checkpoint `note`: `read` gives the bytes of a file, or none if there
/// is no such file; entries before `minimum` may be gone. Each entry is told to `each`.
pub fn check<E: From<LogFault>>(
    note: &str,
    minimum: u64,
    mut read: impl FnMut(Tile) -> Result<Option<Vec<u8>>, E>,
    mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<Checked, E> {
    let (checkpoint, keeper) = Checkpoint::open(note).map_err(LogFault::from)?;
    let size = checkpoint.size;
    let form = |tile| move |fault| LogFault::Form { tile, fault };
    let mut frontier = Frontier::default();
    // What the tile of each level at the right edge must hold.
    let mut edges: Vec<Vec<Digest>> = Vec::new();
    let mut pruned = 0;
    for index in 0..size.div_ceil(WIDTH) {
        let width = WIDTH.min(size - index * WIDTH);
        let lowest = Tile { kind: Kind::Hashes(0), index, width };
        let stored = read(lowest)?.ok_or(LogFault::Missing(lowest))?;
        let stored = hashes(&stored, width).map_err(form(lowest))?;
        let bundle = Tile { kind: Kind::Entries, index, width };
        match read(bundle)? {
            Some(bytes) => {
                let entries = entries(&bytes, width).map_err(form(bundle))?;
                for (at, (entry, stored)) in entries.iter().zip(stored).enumerate() {
                    if leaf_hash(entry).0 != *stored {
                        return Err(LogFault::Hash { tile: lowest, at }.into());
                    }
                    each(index * WIDTH + at as u64, entry)?;
                }
            }
            None if (index + 1) * WIDTH <= minimum => pruned += width,
            None => return Err(LogFault::Missing(bundle).into()),
        }
        for leaf in stored {
            let mut completed = Ok(());
            frontier.push(Digest(*leaf), |node, hash| {
                let Some(level) = level_of(node).filter(|level| *level > 0) else { return };
                let level = usize::from(level);
                edges.resize(edges.len().max(level), Vec::new());
                edges[level - 1].push(hash);
                if edges[level - 1].len() as u64 == WIDTH {
                    let full = std::mem::take(&mut edges[level - 1]);
                    let tile = tile_above(level, node.index / WIDTH, WIDTH);
                    completed = std::mem::replace(&mut completed, Ok(()))
                        .and_then(|()| agree(&mut read, tile, &full));
                }
            });
            completed?;
        }
    }
    for (level, edge) in (1..).zip(&edges).filter(|(_, edge)| !edge.is_empty()) {
        let tiles = Kind::Hashes(level).width(size) / WIDTH;
        agree(&mut read, tile_above(level.into(), tiles, edge.len() as u64), edge)?;
    }
    if frontier.root() != checkpoint.root {
        let fault = LogFault::Root { found: frontier.root(), signed: checkpoint.root };
        return Err(fault.into());
    }
    Ok(Checked { checkpoint, keeper, pruned })
}

fn tile_above(level: usize, index: u64, width: u64) -> Tile {
    Tile { kind: Kind::Hashes(u8::try_from(level).expect("8 levels at most")), index, width }
}

/// Whether a tile of a higher level holds what was computed.
fn agree<E: From<LogFault>>(
    read: &mut impl FnMut(Tile) -> Result<Option<Vec<u8>>, E>,
    tile: Tile,
    computed: &[Digest],
) -> Result<(), E> {
    let stored = read(tile)?.ok_or(LogFault::Missing(tile))?;
    let stored = hashes(&stored, tile.width).map_err(|fault| LogFault::Form { tile, fault })?;
    let differs = stored.iter().zip(computed).position(|(stored, computed)| *stored != computed.0);
    differs.map_or(Ok(()), |at| Err(LogFault::Hash { tile, at }.into()))
}

/// The first line of a keeper's statement that it deleted old entries.
const PRUNED: &str = "hansa/pruned/v1";

/// The note by which a keeper says that it deleted the entries before `minimum` of its log.
pub fn sign_pruned(origin: &str, minimum: u64, signer: &SignerKey) -> Result<String, NoteFault> {
    signer.sign(&format!("{PRUNED}\n{origin}\n{minimum}\n"))
}

/// Before which entry a keeper says that it deleted those of the log `origin`.
pub fn open_pruned(note: &str, origin: &str) -> Result<u64, CheckpointFault> {
    let form = CheckpointFault::Form("not a statement of what was deleted from this log");
    let peer = keeper(origin).ok_or_else(|| CheckpointFault::Origin(origin.to_owned()))?;
    let key = VerifierKey { name: origin.to_owned(), key: peer.0 };
    let (text, signers) = note::open(note, &[key])?;
    if signers.is_empty() {
        return Err(CheckpointFault::Unsigned(peer));
    }
    let lines: Vec<&str> = text.split('\n').collect();
    match lines[..] {
        [PRUNED, log, minimum, ""] if log == origin => decimal(minimum).ok_or(form),
        _ => Err(form),
    }
}
