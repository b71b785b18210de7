//! What is true of a world, and where its peers' views differ from it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hansa_core::advert::Record;
use hansa_core::directory::{Directory, Shard};
use hansa_core::id::PeerId;
use hansa_core::view::Liveness;

use super::{World, word};

/// A peer that is on, as it shows itself in one shard.
struct Real<'a> {
    record: &'a Arc<Record>,
    /// Whether everybody had time to learn of its record.
    settled: bool,
}

/// What a view says of a peer, and what is true of it, if it is on.
type Belief<'a> = (&'a Arc<Record>, Liveness, Option<&'a Real<'a>>);

impl Real<'_> {
    fn peer(&self) -> PeerId {
        self.record.advert.peer
    }

    fn shows(&self, record: &Arc<Record>) -> bool {
        Arc::ptr_eq(self.record, record) || self.record.advert.version == record.advert.version
    }
}

/// What a directory says of each peer. `reals` are those of its shard, by id. A directory is in
/// that order too and shares most of its records with those whose they are, so that the next real
/// peer is nearly always the one, and 10,000 views are compared without a look into any record.
fn beliefs<'a>(
    directory: &'a Directory,
    reals: &'a [Real<'a>],
) -> impl Iterator<Item = Belief<'a>> {
    let mut next = 0;
    directory.peers().map(move |(record, liveness)| {
        let same = |real: &Real<'_>| Arc::ptr_eq(real.record, record);
        let place = match reals.get(next).is_some_and(same) {
            true => Ok(next),
            false => reals.binary_search_by_key(&record.advert.peer, Real::peer),
        };
        next = place.map_or_else(|place| place, |place| place + 1);
        (record, liveness, place.ok().map(|place| &reals[place]))
    })
}

impl World {
    /// Whether every host that is on knows exactly the hosts of its shards that are on, by their
    /// latest adverts, and suspects none.
    pub fn converged(&self) -> bool {
        self.differences(1, Duration::ZERO).is_empty()
    }

    /// Where views differ from what is true, in words: at most so many differences. What a peer
    /// published less than `spreading` ago need not be known yet.
    pub fn differences(&self, most: usize, spreading: Duration) -> Vec<String> {
        let name = |peer: PeerId| self.by_id.get(word(peer)).map_or(u32::MAX, |host| *host);
        let truth = self.truth(spreading);
        let mut differences = Vec::new();
        for (host, directory) in self.directories() {
            let reals = &truth[&directory.shard()];
            let mut known = 0;
            for (record, liveness, real) in beliefs(directory, reals) {
                let peer = || name(record.advert.peer);
                let what = match (real, liveness) {
                    (None, Liveness::Down) => continue,
                    (None, _) => format!("believes in peer {}, which is off", peer()),
                    (Some(_), Liveness::Down) => format!("believes peer {} dead", peer()),
                    (Some(_), Liveness::Suspect) => format!("suspects peer {}", peer()),
                    (Some(real), Liveness::Alive) if real.settled && !real.shows(record) => {
                        let [known, really] =
                            [record, real.record].map(|record| record.advert.version);
                        format!("has peer {} at {known:?}, which is at {really:?}", peer())
                    }
                    _ => {
                        known += 1;
                        continue;
                    }
                };
                differences.push(format!("peer {host} {what}"));
            }
            if known < reals.len() && differences.is_empty() {
                differences.push(format!("peer {host} knows {known} of {}", reals.len()));
            }
            if differences.len() >= most {
                differences.truncate(most);
                break;
            }
        }
        differences
    }

    /// Pairs of a host and a peer that is off and yet not believed down.
    pub fn ghosts(&self) -> Vec<(usize, PeerId)> {
        let truth = self.truth(Duration::ZERO);
        let mut ghosts = Vec::new();
        for (host, directory) in self.directories() {
            for (record, liveness, real) in beliefs(directory, &truth[&directory.shard()]) {
                if real.is_some() || liveness == Liveness::Down {
                    continue;
                }
                let peer = record.advert.peer;
                if self.by_id.get(word(peer)).is_none_or(|other| !self.is_up(*other as usize)) {
                    ghosts.push((host, peer));
                }
            }
        }
        ghosts
    }

    /// The directories of all hosts that are on.
    fn directories(&self) -> impl Iterator<Item = (usize, &Directory)> {
        let up = self.up().into_iter();
        up.flat_map(|host| self.directory(host).each().iter().map(move |of| (host, of)))
    }

    /// The peers of each shard that are on, by id.
    fn truth(&self, spreading: Duration) -> BTreeMap<Shard, Vec<Real<'_>>> {
        let mut truth = BTreeMap::<Shard, Vec<Real<'_>>>::new();
        for (host, directory) in self.directories() {
            let settled = self.now.since(self.sites[host].published) >= spreading;
            let real = Real { record: directory.own(), settled };
            truth.entry(directory.shard()).or_default().push(real);
        }
        truth.values_mut().for_each(|reals| reals.sort_unstable_by_key(Real::peer));
        truth
    }
}
