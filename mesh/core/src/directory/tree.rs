//! The fingerprint of a directory, kept up to date change by change: 1,024 buckets by the first
//! bits of the peer's id, in 32 groups of 32. Two peers compare the root, then the groups, then the
//! buckets, and so find where they differ in three messages, however many peers there are.
//!
//! A bucket's sum is over the live peers in it, each counted by a hash of id and version. On the
//! wire a sum is mixed with a salt that the asker draws: what collides under one salt does not
//! under the next, so nobody can hide a difference for good.

use super::held::Short;
use crate::advert::Record;
use crate::rng::mix;

/// Groups of a directory.
pub const GROUPS: usize = 32;
/// Buckets of a group.
pub const GROUP_BUCKETS: usize = 32;
/// Buckets of a directory.
pub const BUCKETS: usize = GROUPS * GROUP_BUCKETS;

/// A salted fingerprint on the wire.
pub type Print = [u8; 4];

/// The sums.
#[derive(Debug)]
pub(super) struct Tree(Box<[u64; BUCKETS]>);

impl Default for Tree {
    fn default() -> Self {
        Self(Box::new([0; BUCKETS]))
    }
}

/// The bucket of a peer.
pub(super) fn bucket(peer: Short) -> usize {
    usize::try_from(peer.word() >> (64 - BUCKETS.ilog2())).expect("ten bits")
}

impl Tree {
    /// A live record comes in.
    pub(super) fn add(&mut self, record: &Record) {
        let sum = &mut self.0[bucket(Short::of(record.advert.peer))];
        *sum = sum.wrapping_add(record.print());
    }

    /// And goes.
    pub(super) fn remove(&mut self, record: &Record) {
        let sum = &mut self.0[bucket(Short::of(record.advert.peer))];
        *sum = sum.wrapping_sub(record.print());
    }

    /// Reads the sum that counts a peer; see [`super::Directory::touch`].
    pub(super) fn touch(&self, peer: Short) -> u64 {
        self.0[bucket(peer)]
    }

    /// Over all.
    pub(super) fn root(&self, salt: u64) -> u64 {
        mix(salt ^ self.0.iter().fold(0, |sum: u64, one| sum.wrapping_add(*one)))
    }

    /// Each group's print.
    pub(super) fn groups(&self, salt: u64) -> Vec<Print> {
        let sum = |group: &[u64]| group.iter().fold(0, |sum: u64, one| sum.wrapping_add(*one));
        self.0.chunks_exact(GROUP_BUCKETS).map(|group| print(salt, sum(group))).collect()
    }

    /// The prints of one group's buckets.
    pub(super) fn buckets(&self, salt: u64, group: usize) -> Vec<Print> {
        let first = group * GROUP_BUCKETS;
        self.0[first..first + GROUP_BUCKETS].iter().map(|sum| print(salt, *sum)).collect()
    }
}

fn print(salt: u64, sum: u64) -> Print {
    let [a, b, c, d, ..] = mix(salt ^ sum).to_le_bytes();
    [a, b, c, d]
}
