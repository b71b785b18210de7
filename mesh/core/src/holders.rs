//! Who holds what: the index of a view by name and by bundle, with the gate's verdicts kept.
//!
//! A verdict depends on a policy and on charters, not on the moment (validity in time is asked
//! again of each candidate), so that one scan serves all jobs of a policy while the view holds.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crate::charter::{Charter, CharterFault};
use crate::gate;
use crate::id::{Digest, PeerId};
use crate::limits::VERDICTS_MAX;
use crate::policy::Policy;
use crate::rng::Rng;
use crate::time::Utc;
use crate::view::{Entry, Liveness};

/// One peer's offer of a bundle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    /// Index of its entry.
    pub(crate) entry: u32,
    /// Rows a second that it advertises: what draws are weighted by.
    capacity: u64,
}

/// The live peers that a policy permits to run a bundle, this peer not among them.
#[derive(Debug, Default)]
pub(crate) struct Permitted {
    offers: Vec<Offer>,
    /// Running sums of the offers' capacities.
    reach: Vec<u64>,
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

type Names = BTreeMap<String, BTreeMap<ModelVersion, BTreeSet<Digest>>>;

/// The index of one snapshot.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    bundles: BTreeMap<Digest, Vec<Offer>>,
    names: Names,
    verdicts: Mutex<BTreeMap<(Digest, Digest), Arc<Permitted>>>,
}

impl Holders {
    /// The index of `entries`. Peers that are down hold nothing.
    pub(crate) fn new(entries: &[Entry]) -> Self {
        let (mut bundles, mut names) = (BTreeMap::<Digest, Vec<Offer>>::new(), Names::new());
        for (entry, peer) in (0..).zip(entries) {
            for model in &peer.record.advert.models {
                // Most peers offer what others do: a name is copied once.
                if !names.contains_key(&model.name) {
                    names.insert(model.name.clone(), BTreeMap::new());
                }
                let versions = names.get_mut(&model.name).expect("it is there");
                versions
                    .entry(ModelVersion(model.version.clone()))
                    .or_default()
                    .insert(model.bundle);
                if peer.liveness == Liveness::Down {
                    continue;
                }
                let offers = bundles.entry(model.bundle).or_default();
                if offers.last().is_none_or(|last| last.entry != entry) {
                    let slots = u64::from(model.slots.max(1));
                    let capacity = slots * 1_000_000 / u64::from(model.service_us.max(1));
                    offers.push(Offer { entry, capacity: capacity.max(1) });
                }
            }
        }
        Self { bundles, names, verdicts: Mutex::default() }
    }

    /// Live holders of a bundle.
    pub(crate) fn of(&self, bundle: Digest) -> &[Offer] {
        self.bundles.get(&bundle).map_or(&[], Vec::as_slice)
    }

    /// Versions and bundles under a name, lowest version first.
    pub(crate) fn named(&self, name: &str) -> Option<&BTreeMap<ModelVersion, BTreeSet<Digest>>> {
        self.names.get(name)
    }

    /// Every name that is offered.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// The live holders whose devices and charters pass `policy`, whose hash is `law`, at a time
    /// when those are valid.
    pub(crate) fn permitted(
        &self,
        entries: &[Entry],
        me: PeerId,
        policy: &Policy,
        law: Digest,
        bundle: Digest,
    ) -> Arc<Permitted> {
        let mut verdicts = self.verdicts.lock().expect("no holder panics");
        if let Some(known) = verdicts.get(&(law, bundle)) {
            return known.clone();
        }
        let passes = |offer: &&Offer| {
            let record = &entries[offer.entry as usize].record;
            let valid_time = record.charter.as_ref().map_or(Utc(0), valid_time);
            let gated = gate::admit(policy, bundle, &record.charter, valid_time);
            let fits = gate::fits(&policy.device, &record.advert.devices);
            record.advert.peer != me && gated.is_ok() && fits
        };
        let offers: Vec<Offer> = self.of(bundle).iter().filter(passes).copied().collect();
        let mut sum = 0u64;
        let reach = offers.iter().map(|offer| {
            sum = sum.saturating_add(offer.capacity);
            sum
        });
        let permitted = Arc::new(Permitted { reach: reach.collect(), offers });
        if verdicts.len() >= VERDICTS_MAX {
            verdicts.clear();
        }
        verdicts.insert((law, bundle), permitted.clone());
        permitted
    }
}

fn valid_time(charter: &Charter) -> Utc {
    charter.not_before
}

impl Permitted {
    /// All of them.
    pub(crate) fn all(&self) -> &[Offer] {
        &self.offers
    }

    /// At most `most` of them, drawn by capacity when there are more, none twice.
    pub(crate) fn draw(&self, most: usize, rng: &mut Rng) -> Vec<Offer> {
        if self.offers.len() <= most {
            return self.offers.clone();
        }
        let total = self.reach.last().copied().unwrap_or(0);
        let mut drawn: Vec<usize> = Vec::with_capacity(most);
        for _ in 0..most {
            let wide = u128::from(rng.next()) * u128::from(total);
            let point = u64::try_from(wide >> 64).expect("below the total");
            let index = self.reach.partition_point(|reach| *reach <= point);
            if !drawn.contains(&index) {
                drawn.push(index);
            }
        }
        drawn.into_iter().map(|index| self.offers[index]).collect()
    }
}

/// What a standing is called when it does not count, for explanations.
pub(crate) fn standing_text(standing: &Result<Charter, CharterFault>) -> String {
    match standing {
        Ok(charter) => format!("{} under {} law", charter.location, charter.control),
        Err(fault) => fault.to_string(),
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
    fn draws_follow_capacity() {
        let offer = |entry, capacity| Offer { entry, capacity };
        let offers = vec![offer(0, 1), offer(1, 98), offer(2, 1)];
        let permitted = Permitted { offers, reach: vec![1, 99, 100] };
        let mut rng = Rng::new(7);
        let big = (0..1_000).filter(|_| permitted.draw(1, &mut rng)[0].entry == 1).count();
        assert!((950..1_000).contains(&big), "{big} of 1,000");
    }
}
