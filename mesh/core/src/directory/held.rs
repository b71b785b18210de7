//! What one peer knows of another in a few bytes: a short id, a stamp and a standing. Announcements,
//! pulls and digests are lists of these.

use std::cmp::Ordering;
use std::fmt;

use super::tree::BUCKETS;
use crate::advert::Version;
use crate::codec::{Decode, Encode};
use crate::id::PeerId;

/// The first eight bytes of a peer's key.
///
/// Keys are points of a curve that nobody can choose, so a second key with the same eight bytes
/// costs 2⁶⁴ trials, as a collision of a hash of that length would; and all that it buys is to be
/// refused where the first is known. Order is that of [`PeerId`].
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Short([u8; 8]);

/// A [`Version`] in eight bytes. Boots are told apart by tenths of a second, modulo 2³²: two that
/// are compared must lie within 6.8 years of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    boot: u32,
    sequence: u32,
}

/// What is believed of a peer, beside its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It answers, or has not failed to for long enough.
    Live,
    /// So many accuse this version (1 to [`Standing::ACCUSERS_MAX`]).
    Accused(u8),
    /// It is believed dead.
    Down,
    /// It left, or was dead for so long that only its tombstone is kept.
    Gone,
    /// Nothing at all is known of it, not even the stamp.
    Unknown,
}

/// What one peer knows of another, without the record: 13 bytes on the wire for as long as the
/// other has published less than 31 times since its boot; two more after that.
#[derive(Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Held {
    /// Of whom.
    pub peer: Short,
    boot: [u8; 4],
    /// The sequence, times 8, plus the standing.
    mark: u32,
}

impl Short {
    /// That of a peer.
    pub fn of(peer: PeerId) -> Self {
        Self(peer.0[..8].try_into().expect("eight of 32 bytes"))
    }

    /// The least of a bucket of the tree.
    pub(super) fn first_in(bucket: usize) -> Self {
        Self(((bucket as u64) << (64 - BUCKETS.ilog2())).to_be_bytes())
    }

    /// The first bits.
    pub(super) fn prefix(self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]])
    }

    /// As a number whose order is that of the ids.
    pub(super) fn word(self) -> u64 {
        u64::from_be_bytes(self.0)
    }
}

#[cfg(test)]
impl From<u64> for Short {
    fn from(word: u64) -> Self {
        Self(word.to_be_bytes())
    }
}

impl fmt::Debug for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.word())
    }
}

impl Stamp {
    /// Sequences end here; what lies beyond counts as this.
    const SEQUENCE_MAX: u32 = u32::MAX >> 3;
    /// Epochs that lie closer, in ms, are one boot to a stamp.
    pub(super) const BOOT_STEP_MS: u64 = 100;

    /// That of a version.
    pub fn of(version: Version) -> Self {
        let tenths = version.epoch / Self::BOOT_STEP_MS % (1 << 32);
        let sequence = u32::try_from(version.sequence).unwrap_or(u32::MAX);
        Self {
            boot: u32::try_from(tenths).expect("modulo 2^32"),
            sequence: sequence.min(Self::SEQUENCE_MAX),
        }
    }

    pub(super) fn word(self) -> u64 {
        u64::from(self.boot) << 32 | u64::from(self.sequence)
    }

    /// Compares two stamps of one peer.
    pub fn compare(self, other: Self) -> Ordering {
        let ahead = self.boot.wrapping_sub(other.boot).cast_signed();
        ahead.cmp(&0).then(self.sequence.cmp(&other.sequence))
    }

    /// Whether this is the later of two stamps of one peer.
    pub fn is_newer(self, than: Self) -> bool {
        self.compare(than) == Ordering::Greater
    }
}

impl Standing {
    /// More accusers than this are not told apart.
    pub const ACCUSERS_MAX: u8 = 3;

    /// Whether the peer is one to be reckoned with.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Live | Self::Accused(_))
    }

    /// Whether nothing is held against the peer.
    pub fn is_well(self) -> bool {
        matches!(self, Self::Live | Self::Unknown)
    }

    /// How many accusations stand behind it.
    pub fn accusers(self) -> u8 {
        match self {
            Self::Accused(accusers) => accusers.min(Self::ACCUSERS_MAX),
            Self::Down => Self::ACCUSERS_MAX,
            Self::Live | Self::Gone | Self::Unknown => 0,
        }
    }
}

impl Held {
    /// What is known of `peer`.
    pub fn new(peer: PeerId, version: Version, standing: Standing) -> Self {
        Self::of(Short::of(peer), Stamp::of(version), standing)
    }

    pub(super) fn of(peer: Short, stamp: Stamp, standing: Standing) -> Self {
        let code = match standing {
            Standing::Live => 0,
            Standing::Accused(_) => u32::from(standing.accusers()),
            Standing::Down => 4,
            Standing::Gone => 5,
            Standing::Unknown => 6,
        };
        Self { peer, boot: stamp.boot.to_le_bytes(), mark: stamp.sequence << 3 | code }
    }

    /// That nothing is known of it.
    pub(super) fn unknown(peer: Short) -> Self {
        Self::of(peer, Stamp { boot: 0, sequence: 0 }, Standing::Unknown)
    }

    /// The newest version that is known.
    pub fn stamp(self) -> Stamp {
        Stamp { boot: u32::from_le_bytes(self.boot), sequence: self.mark >> 3 }
    }

    /// What is believed of it.
    pub fn standing(self) -> Standing {
        match self.mark & 7 {
            0 => Standing::Live,
            accusers @ 1..=3 => Standing::Accused(u8::try_from(accusers).expect("at most 3")),
            4 => Standing::Down,
            5 => Standing::Gone,
            _ => Standing::Unknown,
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} {:?}", self.peer, self.stamp(), self.standing())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode;

    const PEER: PeerId = PeerId([7; 32]);

    fn version(epoch: u64, sequence: u64) -> Version {
        Version { epoch, sequence }
    }

    #[test]
    fn what_is_held_survives_its_few_bytes() {
        for standing in [
            Standing::Live,
            Standing::Accused(1),
            Standing::Accused(3),
            Standing::Down,
            Standing::Gone,
            Standing::Unknown,
        ] {
            let held = Held::new(PEER, version(1_800_000_000_000, 30), standing);
            assert_eq!(held.standing(), standing);
            assert_eq!(held.stamp(), Stamp::of(version(1_800_000_000_000, 30)));
            assert_eq!(encode(&held).len(), 13);
        }
    }

    #[test]
    fn stamps_are_ordered_as_versions_are() {
        let boot = 1_800_000_000_000;
        let ordered = [
            version(boot, 0),
            version(boot, 1),
            version(boot, u64::MAX),
            version(boot + 100, 0),
            version(boot + 5 * 365 * 86_400_000, 0),
        ];
        for (index, earlier) in ordered.iter().enumerate() {
            for later in &ordered[index + 1..] {
                assert!(Stamp::of(*later).is_newer(Stamp::of(*earlier)), "{later:?}");
                assert!(!Stamp::of(*earlier).is_newer(Stamp::of(*later)), "{later:?}");
            }
        }
    }
}
