//! What of the mesh's unmet demand one peer could meet: who wants it, who has pledged to bring it,
//! and who else could. Pure functions over a view.

use std::collections::BTreeMap;
use std::time::Duration;

use super::notice::Want;
use super::{Shelf, Stock};
use crate::advert::Record;
use crate::coordinate::Coordinate;
use crate::gate;
use crate::id::{Digest, PeerId};
use crate::limits::WANTS_HEARD_MAX;
use crate::policy::Bounds;
use crate::rng::mix;
use crate::time::{Now, Utc};
use crate::view::{Entry, Liveness, View};

/// Demand for one bundle that this peer may meet.
pub(super) struct Need<'a> {
    pub(super) stock: &'a Stock,
    /// Jobs a minute that are not met.
    pub(super) wanted: u64,
    /// Jobs a minute that others will bring.
    pub(super) pledged: u64,
    /// Who wants it, under which law.
    from: Vec<(&'a Entry, &'a Want)>,
}

/// What the mesh wants of this peer: only what the law of the weights lets it have, what the law of
/// the jobs lets it run, for peers that it serves, from holders that it could fetch it from, and no
/// more than fits.
pub(super) fn needs<'a>(
    now: Now,
    view: &'a View,
    serve: &Bounds,
    own: &'a [Want],
    shelf: &Shelf<'a>,
) -> Vec<Need<'a>> {
    let Some(me) = view.get(view.me()) else { return Vec::new() };
    let mut by_bundle = BTreeMap::<Digest, Vec<(&Entry, &Want)>>::new();
    for entry in view.entries().iter().filter(|entry| entry.liveness != Liveness::Down) {
        let is_mine = entry.record.advert.peer == view.me();
        let wants = if is_mine { own } else { &entry.record.notice.wants[..] };
        if wants.is_empty() {
            continue;
        }
        if !is_mine && gate::within(serve, &entry.record.charter, now.utc).is_err() {
            continue;
        }
        for want in wants.iter().filter(|want| could_run(&me.record, want, now.utc)) {
            by_bundle.entry(want.bundle).or_default().push((entry, want));
        }
    }
    let absent = shelf.stock.iter().filter(|stock| stock.is_absent());
    let needs = absent.filter_map(|stock| {
        let mut from = by_bundle.remove(&stock.bundle)?;
        gate::admit(&stock.law, stock.bundle, &*me.record, now.utc).ok()?;
        view.keepers(stock.bundle).next()?;
        from.sort_by_key(|(_, want)| std::cmp::Reverse(want.per_minute));
        from.truncate(WANTS_HEARD_MAX);
        let wanted = from.iter().map(|(_, want)| u64::from(want.per_minute)).sum();
        let mut need = Need { stock, wanted, pledged: 0, from };
        need.pledged = need.pledges(now, view);
        (stock.bytes <= shelf.bytes_max).then_some(need)
    });
    needs.collect()
}

/// Whether anybody known wants more of `bundle`, or is about to bring it.
pub(super) fn is_wanted(view: &View, own: &[Want], bundle: Digest) -> bool {
    let names = |wants: &[Want]| wants.iter().any(|want| want.bundle == bundle);
    let others = view.entries().iter().filter(|entry| entry.liveness != Liveness::Down);
    names(own) || others.into_iter().any(|entry| names(&entry.record.notice.wants))
}

fn could_run(record: &Record, want: &Want, utc: Utc) -> bool {
    gate::within(&want.bounds, &record.charter, utc).is_ok()
        && gate::fits(&want.device, &record.advert.devices)
}

impl Need<'_> {
    /// What is missing when all that is pledged is there, and a quarter more than is wanted, so that
    /// what comes is not full at once.
    pub(super) fn missing(&self) -> u64 {
        (self.wanted + self.wanted / 4).saturating_sub(self.pledged)
    }

    fn helps(&self, record: &Record, utc: Utc) -> bool {
        self.from.iter().any(|(_, want)| could_run(record, want, utc))
    }

    fn pledges(&self, now: Now, view: &View) -> u64 {
        let others = view.entries().iter().filter(|entry| {
            entry.liveness != Liveness::Down && entry.record.advert.peer != view.me()
        });
        let pledged = others.filter_map(|entry| {
            let pledges = &entry.record.notice.pledges;
            let pledge = pledges.iter().find(|pledge| pledge.bundle == self.stock.bundle)?;
            self.helps(&entry.record, now.utc).then_some(u64::from(pledge.per_minute))
        });
        pledged.sum()
    }

    /// How many others could bring it too, and how many of them are nearer to those who want it.
    pub(super) fn rivals(&self, now: Now, view: &View) -> (usize, usize) {
        let bundle = self.stock.bundle;
        let distance = self.distance(view, view.me(), view.at());
        let mine = (distance, lot(view.me(), bundle), view.me());
        let (mut all, mut nearer) = (0, 0);
        for entry in view.entries() {
            let (record, peer) = (&entry.record, entry.record.advert.peer);
            let could = entry.liveness == Liveness::Alive
                && peer != view.me()
                && !serves(record, bundle)
                && record.notice.pledges.iter().all(|pledge| pledge.bundle != bundle)
                && has_memory(record, self.stock.bytes)
                && gate::admit(&self.stock.law, bundle, &**record, now.utc).is_ok()
                && self.helps(record, now.utc);
            if could {
                all += 1;
                let theirs = self.distance(view, peer, &record.advert.coordinate);
                // Where one of the two does not know where it is, lots alone decide.
                let theirs =
                    (theirs.filter(|_| distance.is_some()).or(distance), lot(peer, bundle), peer);
                nearer += usize::from(theirs < mine);
            }
        }
        (all, nearer)
    }

    /// The mean round trip from a peer to those who want it and know where they are, if it does.
    fn distance(&self, view: &View, peer: PeerId, here: &Coordinate) -> Option<Duration> {
        let (mut sum, mut weights) = (Duration::ZERO, 0_u32);
        for (entry, want) in &self.from {
            let there = entry.record.advert.peer;
            let at = if there == view.me() { view.at() } else { &entry.record.advert.coordinate };
            let rtt = if there == peer { Some(Duration::ZERO) } else { here.round_trip(at) };
            if let Some(rtt) = rtt {
                sum = sum.saturating_add(rtt.saturating_mul(want.per_minute));
                weights = weights.saturating_add(want.per_minute);
            }
        }
        (weights > 0).then(|| sum / weights)
    }
}

fn serves(record: &Record, bundle: Digest) -> bool {
    record.advert.models.iter().any(|model| model.bundle == bundle)
        || record.stages.iter().any(|stage| stage.bundle == bundle)
}

fn has_memory(record: &Record, bytes: u64) -> bool {
    let fits = |mib: u32| u64::from(mib) << 20 >= bytes;
    record.advert.devices.iter().any(|device| fits(device.memory_total_mib))
}

/// Orders peers by lot, for each bundle otherwise.
pub(super) fn lot(peer: PeerId, bundle: Digest) -> u64 {
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    mix(word(&peer.0) ^ word(&bundle.0))
}
