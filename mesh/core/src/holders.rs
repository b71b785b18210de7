//! Who holds what: the index of a view by name and by bundle, with the gate's verdicts kept.
//!
//! A verdict is one class's under one policy, not a peer's at one moment (validity in time is asked
//! again of each candidate), so that one short scan serves all jobs of a policy while the view
//! holds.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crate::class::Class;
use crate::coordinate::Coordinate;
use crate::gate::{self, Rule};
use crate::holding::Kept;
use crate::id::{Digest, PeerId};
use crate::limits::VERDICTS_MAX;
use crate::policy::Law;
use crate::price::Rates;
use crate::rng::Rng;
use crate::time::Utc;
use crate::view::{Entry, Liveness};

/// So many peers are near: half of the questions are drawn among them.
pub(crate) const NEAR_MAX: usize = 64;

/// One peer's offer of a bundle: all that ranking wants to know, side by side in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    /// Index of its entry.
    pub(crate) entry: u32,
    /// Who offers.
    pub(crate) peer: PeerId,
    /// Whether it missed a probe.
    pub(crate) suspect: bool,
    /// Jobs that run there at once.
    pub(crate) slots: u16,
    /// Advertised service time of a row, in µs.
    pub(crate) service_us: u32,
    /// What it asks.
    pub(crate) rates: Option<Rates>,
    /// Memory of its largest accelerator, in MiB; 0 where there is none.
    pub(crate) accelerator_mib: u32,
    /// What coordinates suggest of the round trip to it.
    pub(crate) rtt: Option<Duration>,
    /// When its charter is valid; never without one.
    valid: (Utc, Utc),
}

impl Offer {
    /// What the peer of `entry` offers of `bundle`.
    pub(crate) fn of(index: u32, entry: &Entry, bundle: Digest) -> Option<Self> {
        let record = &entry.record;
        let of_model = record.advert.models.iter().map(|m| (m.bundle, m.slots, m.service_us));
        let of_stage = record.stages.iter().map(|s| (s.bundle, s.slots, s.service_us));
        let (_, slots, service_us) =
            of_model.chain(of_stage).find(|(offered, _, _)| *offered == bundle)?;
        let charter = record.charter.as_ref();
        let accelerators = record.advert.devices.iter().filter(|device| device.provider != "cpu");
        Some(Self {
            entry: index,
            peer: record.advert.peer,
            suspect: entry.liveness == Liveness::Suspect,
            slots: slots.max(1),
            service_us,
            rates: Rates::of(record.advert.price.as_ref()),
            accelerator_mib: accelerators.map(|held| held.memory_total_mib).max().unwrap_or(0),
            rtt: None,
            valid: charter.map_or_else(|_| (Utc(0), Utc(0)), |c| (c.not_before, c.not_after)),
        })
    }

    /// Whether its charter is valid at `utc`.
    pub(crate) fn is_valid_at(&self, utc: Utc) -> bool {
        self.valid.0 <= utc && utc < self.valid.1
    }

    /// Rows a second that it advertises: what draws are weighted by.
    pub(crate) fn capacity(&self) -> u64 {
        (u64::from(self.slots) * 1_000_000 / u64::from(self.service_us.max(1))).max(1)
    }
}

/// Neighbours in [`Held::offers`] that are of one class.
#[derive(Debug)]
struct Span {
    range: Range<usize>,
    /// When the charters of all of them are valid.
    valid: (Utc, Utc),
}

/// The peers that hold one bundle.
#[derive(Debug, Default)]
struct Held {
    /// Entries of those that are down: they offer nothing, and are told of when a job is refused.
    down: Vec<u32>,
    /// By class, and in a class by entry.
    offers: Vec<Offer>,
    /// Running sums of capacity before each offer, and all of it at the end.
    reach: Vec<u64>,
    spans: Vec<Span>,
    /// Where each peer's offer is, by peer.
    peers: Vec<(PeerId, u32)>,
    /// The longest service time of a row that any of them advertises, in µs.
    slowest_us: u32,
}

/// A policy's verdict on the holders of a bundle.
#[derive(Debug)]
pub(crate) struct Permitted {
    held: Arc<Held>,
    /// Ranges of offers that pass whenever their charters are valid.
    ranges: Vec<Range<usize>>,
    /// Running sums of the ranges' capacities.
    reach: Vec<u64>,
    /// Spans that do not pass, by rule.
    denied: Vec<(usize, Rule)>,
    /// The offer of the peer whose view this is: it is planned apart.
    mine: Option<usize>,
    /// The nearest by their coordinates, once somebody asked.
    near: OnceLock<Vec<usize>>,
}

/// A version as apps mean it: by number where it is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelVersion(pub(crate) String);

impl Ord for ModelVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        let number = |version: &Self| version.0.parse::<u64>().ok();
        (number(self), &self.0).cmp(&(number(other), &other.0))
    }
}

impl PartialOrd for ModelVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Versions and bundles under a name, lowest version first.
pub(crate) type Versions = BTreeMap<ModelVersion, BTreeSet<Digest>>;

/// The index of one snapshot.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    bundles: BTreeMap<Digest, Arc<Held>>,
    names: BTreeMap<String, Versions>,
    /// By the whole's digest: index of the entry, index among its stages.
    stages: BTreeMap<Digest, Vec<(u32, u16)>>,
    verdicts: Mutex<BTreeMap<(Digest, Digest), Arc<Permitted>>>,
}

impl Holders {
    /// The index of `entries` for a peer that is `at` that place. Peers that are down hold nothing.
    pub(crate) fn new(entries: &[Entry], at: &Coordinate) -> Self {
        let mut offers = BTreeMap::<Digest, (Vec<(Class, Offer)>, Vec<u32>)>::new();
        let mut named = BTreeSet::<(&str, &str, Digest)>::new();
        let mut stages = BTreeMap::<Digest, Vec<(u32, u16)>>::new();
        for (index, entry) in (0..).zip(entries) {
            for (number, stage) in (0..).zip(&entry.record.stages) {
                named.insert((stage.name.as_str(), stage.version.as_str(), stage.whole));
                if entry.liveness != Liveness::Down {
                    stages.entry(stage.whole).or_default().push((index, number));
                }
            }
            // What is only kept has a name, too: that it is not served yet is not that it is unknown.
            for holding in &entry.record.supply.holdings {
                if let Some(Kept { name, version, part }) = &holding.kept {
                    let whole = part.map_or(holding.bundle, |part| part.whole);
                    named.insert((name, version, whole));
                }
            }
            let models = entry.record.advert.models.iter().map(|model| {
                named.insert((model.name.as_str(), model.version.as_str(), model.bundle));
                model.bundle
            });
            // A stage can be asked about under its own digest; by name only the whole is meant.
            let bundles = models.chain(entry.record.stages.iter().map(|stage| stage.bundle));
            for bundle in bundles {
                let (held, down) = offers.entry(bundle).or_default();
                // A peer may offer one bundle under two names.
                if entry.liveness == Liveness::Down {
                    if down.last() != Some(&index) {
                        down.push(index);
                    }
                } else if held.last().is_none_or(|(_, last)| last.entry != index) {
                    let offer = Offer::of(index, entry, bundle).expect("it has the model");
                    let rtt = at.round_trip(&entry.record.advert.coordinate);
                    held.push((entry.record.class, Offer { rtt, ..offer }));
                }
            }
        }
        let mut names = BTreeMap::<String, Versions>::new();
        for (name, version, bundle) in named {
            let versions = names.entry(name.to_owned()).or_default();
            versions.entry(ModelVersion(version.to_owned())).or_default().insert(bundle);
        }
        let bundles = offers
            .into_iter()
            .map(|(bundle, (live, down))| (bundle, Arc::new(Held::new(live, down))));
        Self { bundles: bundles.collect(), names, stages, verdicts: Mutex::default() }
    }

    /// Live holders of a bundle.
    pub(crate) fn of(&self, bundle: Digest) -> &[Offer] {
        self.bundles.get(&bundle).map_or(&[], |held| &held.offers)
    }

    /// Who holds stages of a model.
    pub(crate) fn stages(&self, whole: Digest) -> &[(u32, u16)] {
        self.stages.get(&whole).map_or(&[], Vec::as_slice)
    }

    /// What is offered under a name.
    pub(crate) fn named(&self, name: &str) -> Option<&Versions> {
        self.names.get(name)
    }

    /// Every name that is offered.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// The verdict of the law on the live holders of `bundle` but `me`.
    pub(crate) fn permitted(
        &self,
        entries: &[Entry],
        me: PeerId,
        law: &Law,
        bundle: Digest,
    ) -> Arc<Permitted> {
        let mut verdicts = self.verdicts.lock().expect("no holder panics");
        if let Some(known) = verdicts.get(&(law.hash(), bundle)) {
            return known.clone();
        }
        let held = self.bundles.get(&bundle).cloned().unwrap_or_default();
        let verdict = |span: &Span| {
            // One speaks for its class, at a time when its charter is valid.
            let first = &held.offers[span.range.start];
            let record = &entries[first.entry as usize].record;
            gate::admit(law, bundle, &**record, first.valid.0)?;
            let fits = gate::fits(&law.device, &record.advert.devices);
            if fits { Ok(()) } else { Err(Rule::Device) }
        };
        let permitted = Arc::new(Permitted::new(held.clone(), me, verdict));
        if verdicts.len() >= VERDICTS_MAX {
            verdicts.clear();
        }
        verdicts.insert((law.hash(), bundle), permitted.clone());
        permitted
    }
}

impl Held {
    fn new(mut held: Vec<(Class, Offer)>, down: Vec<u32>) -> Self {
        held.sort_unstable_by_key(|(class, offer)| (*class, offer.entry));
        let mut spans = Vec::<Span>::new();
        for range in held.chunk_by(|(a, _), (b, _)| a == b) {
            let start = spans.last().map_or(0, |span| span.range.end);
            let from = range.iter().map(|(_, offer)| offer.valid.0).max().unwrap_or_default();
            let until = range.iter().map(|(_, offer)| offer.valid.1).min().unwrap_or_default();
            spans.push(Span { range: start..start + range.len(), valid: (from, until) });
        }
        let offers: Vec<Offer> = held.into_iter().map(|(_, offer)| offer).collect();
        // 65,536 peers of the largest capacity still add up within 64 bits.
        let mut sum = 0;
        let sums = offers.iter().map(|offer| {
            sum += offer.capacity();
            sum
        });
        let reach = std::iter::once(0).chain(sums).collect();
        let mut peers: Vec<(PeerId, u32)> =
            offers.iter().zip(0..).map(|(offer, index)| (offer.peer, index)).collect();
        peers.sort_unstable();
        let slowest_us = offers.iter().map(|offer| offer.service_us).max().unwrap_or_default();
        Self { down, offers, reach, spans, peers, slowest_us }
    }

    /// Index of a peer's offer.
    fn find(&self, peer: PeerId) -> Option<usize> {
        let found = self.peers.binary_search_by_key(&peer, |(known, _)| *known);
        Some(self.peers[found.ok()?].1 as usize)
    }
}

impl Permitted {
    fn new(held: Arc<Held>, me: PeerId, verdict: impl Fn(&Span) -> Result<(), Rule>) -> Self {
        let (mut ranges, mut reach, mut denied) = (Vec::<Range<usize>>::new(), vec![], vec![]);
        let mut sum = 0;
        for (index, span) in held.spans.iter().enumerate() {
            match verdict(span) {
                Ok(()) => {
                    sum += held.reach[span.range.end] - held.reach[span.range.start];
                    ranges.push(span.range.clone());
                    reach.push(sum);
                }
                Err(rule) => denied.push((index, rule)),
            }
        }
        denied.sort_unstable_by_key(|(span, rule)| (*rule, *span));
        let mine = held.find(me);
        Self { held, ranges, reach, denied, mine, near: OnceLock::new() }
    }

    /// How many there are, this peer among them.
    pub(crate) fn len(&self) -> usize {
        self.ranges.iter().map(Range::len).sum()
    }

    /// How many holders do not pass, by rule.
    pub(crate) fn kept_out(&self) -> BTreeMap<Rule, u32> {
        let mut counts = BTreeMap::new();
        for (span, rule) in &self.denied {
            let peers = u32::try_from(self.held.spans[*span].range.len()).unwrap_or(u32::MAX);
            *counts.entry(*rule).or_default() += peers;
        }
        counts
    }

    /// The longest service time of a row that any holder advertises, permitted or not.
    pub(crate) fn slowest(&self) -> Duration {
        Duration::from_micros(self.held.slowest_us.into())
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Offer> {
        let indices = self.ranges.iter().flat_map(Clone::clone);
        indices.filter(|index| Some(*index) != self.mine).map(|index| &self.held.offers[index])
    }

    /// The offer of one peer, if it is permitted.
    pub(crate) fn of_peer(&self, peer: PeerId) -> Option<&Offer> {
        let index = self.held.find(peer)?;
        let range = self.ranges.partition_point(|range| range.end <= index);
        let permitted = self.ranges.get(range)?.contains(&index) && Some(index) != self.mine;
        permitted.then(|| &self.held.offers[index])
    }

    /// About [`NEAR_MAX`] of them that coordinates suggest are the nearest.
    pub(crate) fn near(&self) -> impl Iterator<Item = &Offer> {
        let near = self.near.get_or_init(|| {
            let indices = self.ranges.iter().flat_map(Clone::clone);
            let distance = |index: usize| Some((self.held.offers[index].rtt?, index));
            let mut near: Vec<(Duration, usize)> = indices.filter_map(distance).collect();
            if near.len() > NEAR_MAX {
                near.select_nth_unstable(NEAR_MAX);
                near.truncate(NEAR_MAX);
            }
            near.into_iter().map(|(_, index)| index).collect()
        });
        let others = near.iter().filter(|index| Some(**index) != self.mine);
        others.map(|index| &self.held.offers[*index])
    }

    /// `most` of them or fewer, drawn by capacity, none twice.
    pub(crate) fn draw(&self, most: usize, rng: &mut Rng) -> Vec<&Offer> {
        let Some(total) = self.reach.last().copied() else { return Vec::new() };
        let mut drawn: Vec<&Offer> = Vec::with_capacity(most);
        for _ in 0..most {
            let wide = u128::from(rng.next_u64()) * u128::from(total);
            let point = u64::try_from(wide >> 64).expect("below the total");
            let range = self.reach.partition_point(|reach| *reach <= point);
            let before = range.checked_sub(1).map_or(0, |last| self.reach[last]);
            let Range { start, end } = self.ranges[range].clone();
            let point = self.held.reach[start] + (point - before);
            let within = self.held.reach[start + 1..=end].partition_point(|reach| *reach <= point);
            let offer = &self.held.offers[start + within];
            let is_new = drawn.iter().all(|known| known.entry != offer.entry);
            if is_new && Some(start + within) != self.mine {
                drawn.push(offer);
            }
        }
        drawn
    }

    /// Why each holder, of the living and the dead, does not run a job at `utc`: `failed` counts
    /// classes that fail a rule as one, `each` is asked of every other holder's entry.
    pub(crate) fn tally(
        &self,
        utc: Utc,
        failed: &mut BTreeMap<Rule, u32>,
        mut each: impl FnMut(u32, &mut BTreeMap<Rule, u32>),
    ) {
        let mut apart = self.ranges.clone();
        // One look-up for all spans that fail the same rule: a refusal costs little too.
        let mut run: (Option<Rule>, u32) = (None, 0);
        let mut close = |(rule, count): (Option<Rule>, u32)| {
            if let Some(rule) = rule {
                *failed.entry(rule).or_insert(0) += count;
            }
        };
        for (span, rule) in &self.denied {
            let Span { range, valid } = &self.held.spans[*span];
            // Rules before validity in time speak of peers without a charter that counts.
            let as_one = *rule < Rule::CharterExpired || (valid.0 <= utc && utc < valid.1);
            if as_one && !self.mine.is_some_and(|mine| range.contains(&mine)) {
                let count = u32::try_from(range.len()).expect("peers");
                match run {
                    (Some(last), so_far) if last == *rule => run.1 = so_far + count,
                    _ => close(std::mem::replace(&mut run, (Some(*rule), count))),
                }
            } else {
                apart.push(range.clone());
            }
        }
        close(run);
        let living = apart.into_iter().flatten().map(|index| self.held.offers[index].entry);
        living.chain(self.held.down.iter().copied()).for_each(|entry| each(entry, failed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_numbers_where_they_are_numbers() {
        let mut versions: Vec<ModelVersion> =
            ["10", "9", "beta", "1"].map(|text| ModelVersion(text.into())).to_vec();
        versions.sort();
        let names: Vec<&str> = versions.iter().map(|version| version.0.as_str()).collect();
        assert_eq!(names, ["beta", "1", "9", "10"]);
    }

    #[test]
    fn draws_follow_capacity_and_stay_within_what_is_permitted() {
        let offer = |entry: u32, slots| {
            let peer = PeerId([u8::try_from(entry).unwrap(); 32]);
            let valid = (Utc(0), Utc(1));
            Offer {
                entry,
                peer,
                suspect: false,
                slots,
                service_us: 1_000_000,
                rates: None,
                accelerator_mib: 0,
                rtt: None,
                valid,
            }
        };
        let [a, b, c] = ["a", "b", "c"].map(Class::named);
        let offers =
            vec![(a, offer(0, 1)), (a, offer(1, 98)), (b, offer(2, 500)), (c, offer(3, 1))];
        let held = Arc::new(Held::new(offers, vec![]));
        let denied = held.find(PeerId([2; 32])).unwrap();
        let verdict = |span: &Span| match span.range.contains(&denied) {
            true => Err(Rule::Location),
            false => Ok(()),
        };
        let permitted = Permitted::new(held.clone(), PeerId([9; 32]), verdict);
        assert_eq!(permitted.reach.last(), Some(&100));
        assert!(permitted.of_peer(PeerId([2; 32])).is_none());
        assert_eq!(permitted.of_peer(PeerId([1; 32])).unwrap().entry, 1);
        let mut rng = Rng::new(7);
        let mut counts = [0; 4];
        for _ in 0..1_000 {
            counts[permitted.draw(1, &mut rng)[0].entry as usize] += 1;
        }
        assert!((950..1_000).contains(&counts[1]), "{counts:?}");
        assert_eq!(counts[2], 0, "{counts:?}");
    }
}
