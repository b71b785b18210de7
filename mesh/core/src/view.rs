//! What a peer knows of the mesh at one moment: an immutable snapshot, shared by all jobs that
//! plan while it holds.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use serde::Serialize;

use crate::advert::{Record, Stage, Version};
use crate::coordinate::Coordinate;
use crate::gate::Rule;
use crate::holders::{Holders, Permitted};
use crate::id::{Digest, PeerId};
use crate::policy::Law;
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
    /// Where this peer is in the space of round trips.
    at: Coordinate,
    entries: Vec<Entry>,
    /// Made when the first job asks: a view that nobody plans on costs nothing.
    holders: OnceLock<Arc<Holders>>,
}

impl View {
    /// A snapshot of `entries`, which are put in order. Down peers stay visible but hold nothing.
    pub fn new(me: PeerId, mut entries: Vec<Entry>) -> Self {
        entries.sort_by_key(|entry| entry.record.advert.peer);
        Self { me, at: Coordinate::default(), entries, holders: OnceLock::new() }
    }

    /// The same, of a peer that knows where it is: round trips that were not measured are guessed.
    pub fn located(self, at: Coordinate) -> Self {
        Self { at, ..self }
    }

    /// The peer whose view this is.
    pub fn me(&self) -> PeerId {
        self.me
    }

    /// Where this peer is in the space of round trips.
    pub fn at(&self) -> &Coordinate {
        &self.at
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

    /// Live holders of a bundle, this peer among them.
    pub fn holders(&self, bundle: Digest) -> impl Iterator<Item = &Entry> {
        self.index().of(bundle).iter().map(|offer| &self.entries[offer.entry as usize])
    }

    /// Live peers that have the files of a bundle, this peer among them, whether they serve it or
    /// not.
    pub fn keepers(&self, bundle: Digest) -> impl Iterator<Item = &Entry> {
        let is_alive = |entry: &&Entry| entry.liveness != Liveness::Down;
        let serve: Vec<PeerId> =
            self.holders(bundle).map(|entry| entry.record.advert.peer).collect();
        self.entries.iter().filter(is_alive).filter(move |entry| {
            let record = &entry.record;
            serve.contains(&record.advert.peer) || record.holding(bundle).is_some()
        })
    }

    /// The stages of a model that live peers hold, with their holders, this peer among them.
    pub fn stages(&self, whole: Digest) -> impl Iterator<Item = (&Entry, &Stage)> {
        self.index().stages(whole).iter().map(|(entry, stage)| {
            let entry = &self.entries[*entry as usize];
            (entry, &entry.record.stages[usize::from(*stage)])
        })
    }

    /// How many live holders of `bundle` the law keeps out, by rule: what a receipt says of those who
    /// did not get a job.
    pub fn kept_out(&self, law: &Law, bundle: Digest) -> BTreeMap<Rule, u32> {
        self.permitted(law, bundle).kept_out()
    }

    /// The index by name and bundle.
    pub(crate) fn index(&self) -> &Holders {
        self.holders.get_or_init(|| Arc::new(Holders::new(&self.entries, &self.at)))
    }

    /// The live peers, others than this, that the law permits to run `bundle`.
    pub(crate) fn permitted(&self, law: &Law, bundle: Digest) -> Arc<Permitted> {
        self.index().permitted(&self.entries, self.me, law, bundle)
    }
}
