//! The files of a log, as C2SP's tlog-tiles lays them out (c2sp.org/tlog-tiles): tiles of 256
//! hashes, every eighth level of the tree, and bundles of the 256 entries beneath the lowest ones.
//!
//! A tile is a path and bytes here; who reads and writes them is the host's. A file is complete for
//! good or partial; of a tree of one size, each has exactly one path and one content.

use std::fmt;

use super::tree::{Node, node_hash};
use crate::id::Digest;
use crate::limits::RECEIPT_BYTES_MAX;

/// Hashes in a full tile, entries in a full bundle.
pub const WIDTH: u64 = 256;
/// Levels of the tree between one level of tiles and the next.
const HEIGHT: u8 = 8;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The entries themselves.
    Entries,
    /// Hashes: those of level 0 are the entries', each of a higher level is over a full tile of the
    /// one below.
    Hashes(u8),
}

/// One file of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tile {
    /// What it holds.
    pub kind: Kind,
    /// From the left, among those of its kind.
    pub index: u64,
    /// How many hashes or entries, [`WIDTH`] at most.
    pub width: u64,
}

/// Why a file is not what its path says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TileFault {
    /// Too few or too many hashes or entries.
    #[error("it holds {found}, not {expected}")]
    Width {
        /// How many it should hold.
        expected: u64,
        /// What it holds.
        found: String,
    },
    /// An entry longer than any receipt.
    #[error("entry {index} has {bytes} bytes, the limit is {RECEIPT_BYTES_MAX}")]
    Long {
        /// Its place in the file.
        index: usize,
        /// Its length.
        bytes: usize,
    },
}

impl Tile {
    /// All files of a tree of `size` leaves: bundles, then tiles from the lowest level up.
    pub fn all(size: u64) -> impl Iterator<Item = Tile> {
        Self::between(0, size)
    }

    /// The files of a tree of `size` leaves that the tree of `old` leaves has not, or has less of.
    pub fn between(old: u64, size: u64) -> impl Iterator<Item = Tile> {
        let levels = (0..8).map(Kind::Hashes);
        std::iter::once(Kind::Entries).chain(levels).flat_map(move |kind| {
            let (before, after) = (kind.width(old), kind.width(size));
            let tiles = before / WIDTH..after.div_ceil(WIDTH);
            let changed = if before == after { 0..0 } else { tiles };
            changed.map(move |index| Tile { kind, index, width: WIDTH.min(after - index * WIDTH) })
        })
    }

    /// Whether it is complete, and so stays as it is.
    pub fn is_full(&self) -> bool {
        self.width == WIDTH
    }

    /// Where in a tile the hashes under `node` lie: its file in a tree of `size` leaves, the place
    /// of the first hash and how many there are.
    pub fn of(node: Node, size: u64) -> (Tile, usize, usize) {
        let (level, below) = (node.level / HEIGHT, node.level % HEIGHT);
        let first = node.index << below;
        let kind = Kind::Hashes(level);
        let width = WIDTH.min(kind.width(size).saturating_sub(first / WIDTH * WIDTH));
        let tile = Tile { kind, index: first / WIDTH, width };
        (tile, usize::try_from(first % WIDTH).expect("below 256"), 1 << below)
    }
}

impl Kind {
    /// How many entries or hashes of this kind a tree of `size` leaves has.
    pub fn width(self, size: u64) -> u64 {
        match self {
            Self::Entries => size,
            Self::Hashes(level) => {
                size.checked_shr(u32::from(level) * u32::from(HEIGHT)).unwrap_or(0)
            }
        }
    }
}

/// The path under the log's folder.
impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Entries => f.write_str("tile/entries/")?,
            Kind::Hashes(level) => write!(f, "tile/{level}/")?,
        }
        f.write_str(&numbered(self.index))?;
        if self.is_full() { Ok(()) } else { write!(f, ".p/{}", self.width) }
    }
}

/// `1234067` as `x001/x234/067`: no folder has more than a thousand files.
pub fn numbered(index: u64) -> String {
    let mut path = format!("{:03}", index % 1_000);
    let mut rest = index / 1_000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1_000);
        rest /= 1_000;
    }
    path
}

/// The level of tiles that holds `node` itself, if one does.
pub fn level_of(node: Node) -> Option<u8> {
    node.level.is_multiple_of(HEIGHT).then_some(node.level / HEIGHT)
}

/// The hashes in a tile's bytes, of which there must be `width`.
pub fn hashes(bytes: &[u8], width: u64) -> Result<&[[u8; 32]], TileFault> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    if hashes.len() as u64 != width || !rest.is_empty() {
        return Err(TileFault::Width { expected: width, found: format!("{} bytes", bytes.len()) });
    }
    Ok(hashes)
}

/// The root over hashes of a complete subtree: as many as a power of two.
pub fn root_over(hashes: &[[u8; 32]]) -> Digest {
    match hashes {
        [hash] => Digest(*hash),
        _ => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            node_hash(&root_over(left), &root_over(right))
        }
    }
}

/// Adds an entry to a bundle's bytes. No entry is longer than [`RECEIPT_BYTES_MAX`].
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) {
    let length = u16::try_from(entry.len()).expect("a receipt is shorter than 64 KiB");
    bundle.extend(length.to_be_bytes());
    bundle.extend(entry);
}

/// The entries in a bundle's bytes, of which there must be `width`.
pub fn entries(mut bytes: &[u8], width: u64) -> Result<Vec<&[u8]>, TileFault> {
    let mut entries = Vec::new();
    let fault = |found| Err(TileFault::Width { expected: width, found });
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        if length > RECEIPT_BYTES_MAX {
            return Err(TileFault::Long { index: entries.len(), bytes: length });
        }
        let Some((entry, rest)) = rest.split_at_checked(length) else {
            return fault(format!("{} and part of another", entries.len()));
        };
        entries.push(entry);
        bytes = rest;
    }
    if entries.len() as u64 != width || !bytes.is_empty() {
        return fault(format!("{} and {} bytes more", entries.len(), bytes.len()));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(tiles: impl Iterator<Item = Tile>) -> Vec<String> {
        tiles.map(|tile| tile.to_string()).collect()
    }

    #[test]
    fn a_tree_of_70_000_leaves_has_the_files_of_the_specification() {
        let tiles: Vec<_> = Tile::all(70_000).collect();
        let of = |kind, full| {
            tiles.iter().filter(move |tile| tile.kind == kind && tile.is_full() == full)
        };
        let partial = |kind| of(kind, false).map(Tile::to_string).collect::<Vec<_>>();
        assert_eq!(of(Kind::Entries, true).count(), 273);
        assert_eq!(partial(Kind::Entries), ["tile/entries/273.p/112"]);
        assert_eq!(of(Kind::Hashes(0), true).count(), 273);
        assert_eq!(partial(Kind::Hashes(0)), ["tile/0/273.p/112"]);
        assert_eq!(of(Kind::Hashes(1), true).count(), 1);
        assert_eq!(partial(Kind::Hashes(1)), ["tile/1/001.p/17"]);
        assert_eq!(partial(Kind::Hashes(2)), ["tile/2/000.p/1"]);
        assert_eq!(tiles.len(), 274 * 2 + 2 + 1);
        let full = ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"];
        assert_eq!(paths(Tile::all(256)), full);
        assert_eq!(paths(Tile::all(0)), Vec::<String>::new());
    }

    #[test]
    fn paths_are_those_of_the_specification() {
        assert_eq!(numbered(1_234_067), "x001/x234/067");
        assert_eq!(numbered(0), "000");
        assert_eq!(numbered(1_000), "x001/000");
        let tile = Tile { kind: Kind::Hashes(0), index: 1_067, width: 256 };
        assert_eq!(tile.to_string(), "tile/0/x001/067");
    }

    #[test]
    fn growth_touches_only_the_files_at_the_right_edge() {
        assert_eq!(paths(Tile::between(256, 256)), Vec::<String>::new());
        assert_eq!(paths(Tile::between(255, 256)).len(), 3);
        assert_eq!(paths(Tile::between(256, 257)), ["tile/entries/001.p/1", "tile/0/001.p/1"],);
        assert_eq!(
            paths(Tile::between(500, 515)),
            [
                "tile/entries/001",
                "tile/entries/002.p/3",
                "tile/0/001",
                "tile/0/002.p/3",
                "tile/1/000.p/2",
            ],
        );
    }

    #[test]
    fn a_node_is_found_in_its_tile() {
        let at = |level, index, size| {
            let (tile, first, count) = Tile::of(Node { level, index }, size);
            (tile.to_string(), first, count)
        };
        assert_eq!(at(0, 300, 1_000), ("tile/0/001".into(), 44, 1));
        assert_eq!(at(3, 33, 300), ("tile/0/001.p/44".into(), 8, 8));
        assert_eq!(at(8, 3, 1_030), ("tile/1/000.p/4".into(), 3, 1));
        assert_eq!(at(9, 1, 1_030), ("tile/1/000.p/4".into(), 2, 2));
    }

    #[test]
    fn a_bundle_that_is_cut_short_or_longer_is_refused() {
        let mut bundle = Vec::new();
        for entry in [b"one".as_slice(), b"", b"three"] {
            push_entry(&mut bundle, entry);
        }
        assert_eq!(entries(&bundle, 3).unwrap(), [b"one".as_slice(), b"", b"three"]);
        for length in 0..bundle.len() {
            assert!(entries(&bundle[..length], 3).is_err(), "{length}");
        }
        assert!(entries(&[bundle.as_slice(), &[0]].concat(), 3).is_err());
        assert!(entries(&bundle, 2).is_err());
        assert!(matches!(entries(&[0xff, 0xff], 1), Err(TileFault::Long { .. })));
        assert!(hashes(&[0; 63], 2).is_err());
        assert_eq!(hashes(&[0; 64], 2).unwrap().len(), 2);
    }
}
