//! What a peer knows of the mesh at one moment: an immutable snapshot, shared by all jobs that
//! plan while it holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::advert::{Record, Version};
use crate::id::{Digest, PeerId};
use crate::time::Mono;

/// Whether a peer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Liveness {
    /// It does.
    Alive,
    /// It missed a probe; it still gets jobs, ranked last.
    Suspect,
    /// It is believed dead and gets none.
    Down,
}

/// One peer of the view.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its verified advert.
    pub record: Arc<Record>,
    /// Whether it answers.
    pub liveness: Liveness,
    /// Since when that is believed.
    pub since: Mono,
}

/// The snapshot. Entries are sorted by peer id and include this peer itself.
#[derive(Clone, Debug)]
pub struct View {
    me: PeerId,
    entries: Vec<Entry>,
    holders: BTreeMap<Digest, Vec<u32>>,
}

impl View {
    /// A snapshot of `entries`, which are put in order. Down peers stay visible but hold nothing.
    pub fn new(me: PeerId, mut entries: Vec<Entry>) -> Self {
        entries.sort_by_key(|entry| entry.record.advert.peer);
        let mut holders: BTreeMap<Digest, Vec<u32>> = BTreeMap::new();
        for (index, entry) in (0..).zip(&entries) {
            for model in &entry.record.advert.models {
                let peers = holders.entry(model.bundle).or_default();
                if entry.liveness != Liveness::Down && peers.last() != Some(&index) {
                    peers.push(index);
                }
            }
        }
        Self { me, entries, holders }
    }

    /// The peer whose view this is.
    pub fn me(&self) -> PeerId {
        self.me
    }

    /// Every known peer, by id.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether the advert of `peer` with this version, or a newer one, is known already, so that
    /// verifying it again is needless.
    pub fn holds(&self, peer: PeerId, version: Version) -> bool {
        self.get(peer).is_some_and(|entry| entry.record.advert.version >= version)
    }

    /// The entry of one peer.
    pub fn get(&self, peer: PeerId) -> Option<&Entry> {
        let found = self.entries.binary_search_by_key(&peer, |entry| entry.record.advert.peer);
        Some(&self.entries[found.ok()?])
    }
}
