//! Peers that break the rules on purpose, and peers behind NAT. What must come of it is nothing:
//! views stay true, and no charter counts that no trusted authority signed.

use std::collections::BTreeSet;
use std::sync::Arc;

use hansa_core::advert::{Advert, Model, Record};
use hansa_core::charter::{Authority, Charter, Trust};
use hansa_core::directory::{Message, News, Rumour, Talk};
use hansa_core::id::{Digest, PeerId};
use hansa_core::note::SignerKey;
use hansa_core::rng::Rng;
use hansa_core::time::Utc;

use crate::scenario::LieAbout;
use crate::world::{GENESIS, World};

/// A replaying peer sends so many old records at a time …
const REPLAYED: usize = 8;
/// … to so many others.
const VICTIMS: usize = 3;
/// The authority that all peers trust, and that forgers pretend to be.
const AUTHORITY: &str = "authority.example";

/// What the adversaries of a world have gathered.
#[derive(Debug, Default)]
pub struct Adversaries {
    old: Vec<Arc<Record>>,
    forgers: BTreeSet<PeerId>,
}

impl Adversaries {
    /// Makes all peers of a world, before they start, trust one authority.
    pub fn new(world: &mut World) -> Self {
        let key = authority([9; 32]).verifier();
        let any = || ["*".to_owned()].into();
        let trust = Trust::new(vec![Authority { key, countries: any(), operators: any() }]);
        world.set_trust(&Arc::new(trust));
        Self::default()
    }

    /// Puts hosts, before they start, behind NAT, each with a relay that is not and that joined
    /// before it. The first host is none of them.
    pub fn hide(world: &mut World, whom: &BTreeSet<usize>, rng: &mut Rng) {
        for host in whom {
            let public: Vec<usize> = (0..*host).filter(|other| !whom.contains(other)).collect();
            world.hide(*host, public[rng.below(public.len())]);
        }
    }

    /// `host` advertises what it does not have.
    pub fn lie(&mut self, world: &mut World, host: usize, about: LieAbout) {
        let advert = world.own(host).advert.clone();
        let models = match about {
            LieAbout::Capacity => {
                let boast = |model| Model { slots: u16::MAX, service_us: 1, ..model };
                advert.models.into_iter().map(boast).collect()
            }
            LieAbout::Models => {
                let made_up = |n: u8| Model {
                    name: format!("made-up-{n}"),
                    version: "1".into(),
                    bundle: Digest([n; 32]),
                    slots: 1,
                    service_us: 1,
                };
                (100..120).map(made_up).collect()
            }
        };
        world.publish_advert(host, Advert { models, ..advert });
    }

    /// `host` shows a charter that it signed itself in the authority's name, or one that the
    /// authority signed and that it changed afterwards.
    pub fn forge(&mut self, world: &mut World, host: usize) {
        let peer = world.id(host);
        let charter = Charter {
            serial: "1".into(),
            subject: peer,
            location: "DE".parse().expect("a place"),
            operator: "Forger".into(),
            lei: None,
            control: "DE".parse().expect("a place"),
            data_classes: BTreeSet::new(),
            not_before: Utc(0),
            not_after: Utc(GENESIS.0 * 2),
            authorities: BTreeSet::new(),
        };
        let own = || charter.sign(&authority([13; 32])).expect("a charter");
        let changed = || {
            let signed = charter.sign(&authority([9; 32])).expect("a charter");
            signed.replace("Forger", "Friend")
        };
        let note = if host.is_multiple_of(2) { own() } else { changed() };
        let advert = world.own(host).advert.clone();
        world.publish_advert(host, Advert { charter: Some(note), ..advert });
        self.forgers.insert(peer);
    }

    /// Keeps what all peers say of themselves now, to say it again later.
    pub fn remember(&mut self, world: &World) {
        self.old = world.up().into_iter().map(|host| world.own(host)).collect();
    }

    /// `host` sends some of what it kept to a few others, as if it were news.
    pub fn replay(&self, world: &mut World, host: usize, rng: &mut Rng) {
        let up = world.up();
        if self.old.is_empty() || !up.contains(&host) {
            return;
        }
        let from = world.id(host);
        for _ in 0..VICTIMS {
            let to = up[rng.below(up.len())];
            let said = (0..REPLAYED).map(|_| Arc::clone(&self.old[rng.below(self.old.len())]));
            let records = said.map(|said| Rumour { hops: 0, said }).collect();
            let news = News { records, ..News::default() };
            if to != host {
                world.inject(from, to, &Message { news, ..Message::of(Talk::News) });
            }
        }
    }

    /// Where a forged charter counts, in words.
    pub fn believed(&self, world: &World) -> Vec<String> {
        let up = world.up();
        let pairs = up.iter().flat_map(|host| self.forgers.iter().map(move |peer| (*host, *peer)));
        let believes = |(host, peer): &(usize, PeerId)| {
            let view = world.view(*host);
            view.get(*peer).is_some_and(|entry| entry.record.charter.is_ok())
        };
        pairs
            .filter(believes)
            .map(|(host, peer)| format!("peer {host} believes {peer}'s charter"))
            .collect()
    }
}

fn authority(seed: [u8; 32]) -> SignerKey {
    SignerKey::new(AUTHORITY, seed).expect("a name")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::Quality;
    use hansa_core::directory::Params;
    use std::time::Duration;

    /// A check that never fails checks nothing: here the signature is the authority's.
    #[test]
    fn a_charter_that_counts_is_seen_to_count() {
        let ms = Duration::from_millis;
        let quality = Quality { latency: (ms(1), ms(2)), jitter: ms(0), loss: 0.0 };
        let mut world = World::new(1, 2, quality, Params::default());
        let mut adversaries = Adversaries::new(&mut world);
        world.start(0, None);
        world.start(1, Some(0));
        world.run_for(ms(2_000));
        adversaries.forge(&mut world, 1);
        world.run_for(ms(2_000));
        assert_eq!(adversaries.believed(&world), [] as [&str; 0]);
        let advert = world.own(1).advert.clone();
        let note = advert.charter.as_deref().expect("shown").replace("Friend", "Forger");
        world.publish_advert(1, Advert { charter: Some(note), ..advert });
        world.run_for(ms(2_000));
        assert_eq!(adversaries.believed(&world).len(), 2, "both believe it");
    }
}
