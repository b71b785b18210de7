//! The table of all other peers and the tombstones of those that are no more. It keeps the books;
//! when a peer is suspected or taken is decided elsewhere.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::claim::{Accusation, Leave, Proven};
use super::message::{Held, Standing};
use super::pace::Allowance;
use crate::advert::{Record, Version};
use crate::id::PeerId;
use crate::limits::GRAVES_MAX;
use crate::rng::Rng;
use crate::time::Mono;
use crate::view::Liveness;

/// Whether a peer answers, and until when it may refute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Alive,
    Suspect { until: Mono },
    Down,
}

/// What is kept of a peer.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) record: Arc<Record>,
    pub(super) health: Health,
    /// Since when its health is that.
    pub(super) since: Mono,
    /// When the record was taken.
    pub(super) taken: Mono,
    /// When it last spoke to us itself.
    pub(super) heard: Mono,
    /// Who accuses this version, and when that was heard.
    pub(super) accusations: Vec<(Mono, Proven<Accusation>)>,
    /// How many new adverts it may bring.
    pub(super) adverts: Allowance,
    /// How many large answers it may ask for.
    pub(super) answers: Allowance,
    /// How often it is told that it is accused or outdated.
    pub(super) rebukes: Allowance,
    /// How often its accusations of us are refuted to the whole mesh.
    pub(super) refutations: Allowance,
    /// How often it is dialled.
    pub(super) dials: Allowance,
    slot: usize,
}

impl Member {
    pub(super) fn version(&self) -> Version {
        self.record.advert.version
    }

    pub(super) fn is_down(&self) -> bool {
        self.health == Health::Down
    }

    pub(super) fn liveness(&self) -> Liveness {
        match self.health {
            Health::Alive => Liveness::Alive,
            Health::Suspect { .. } => Liveness::Suspect,
            Health::Down => Liveness::Down,
        }
    }
}

/// A tombstone: no advert up to this version is taken any more.
#[derive(Debug)]
pub(super) struct Grave {
    pub(super) version: Version,
    pub(super) dug: Mono,
    /// The peer's own word, when it left.
    pub(super) leave: Option<Proven<Leave>>,
}

/// All other peers, and the tombstones.
#[derive(Debug, Default)]
pub(super) struct Members {
    map: BTreeMap<PeerId, Member>,
    /// The same peers in no order, so that one is drawn in constant time.
    roster: Vec<PeerId>,
    down: usize,
    graves: BTreeMap<PeerId, Grave>,
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn down(&self) -> usize {
        self.down
    }

    pub(super) fn live(&self) -> usize {
        self.map.len() - self.down
    }

    pub(super) fn roster(&self) -> &[PeerId] {
        &self.roster
    }

    pub(super) fn get(&self, peer: PeerId) -> Option<&Member> {
        self.map.get(&peer)
    }

    /// For everything but health, which [`Members::set_health`] counts.
    pub(super) fn get_mut(&mut self, peer: PeerId) -> Option<&mut Member> {
        self.map.get_mut(&peer)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Member)> {
        self.map.iter()
    }

    /// Takes the record of a peer that is not in the table.
    pub(super) fn insert(&mut self, record: Arc<Record>, now: Mono) {
        let peer = record.advert.peer;
        let member = Member {
            record,
            health: Health::Alive,
            since: now,
            taken: now,
            heard: Mono(0),
            accusations: Vec::new(),
            adverts: Allowance::default(),
            answers: Allowance::default(),
            rebukes: Allowance::default(),
            refutations: Allowance::default(),
            dials: Allowance::default(),
            slot: self.roster.len(),
        };
        let before = self.map.insert(peer, member);
        assert!(before.is_none(), "{peer} is in the table");
        self.roster.push(peer);
        self.graves.remove(&peer);
    }

    pub(super) fn set_health(&mut self, peer: PeerId, health: Health, now: Mono) {
        let Some(member) = self.map.get_mut(&peer) else { return };
        self.down += usize::from(health == Health::Down);
        self.down -= usize::from(member.is_down());
        if std::mem::discriminant(&member.health) != std::mem::discriminant(&health) {
            member.since = now;
        }
        member.health = health;
    }

    /// Removes a peer and keeps its tombstone.
    pub(super) fn bury(&mut self, peer: PeerId, grave: Grave) {
        if let Some(member) = self.map.remove(&peer) {
            self.down -= usize::from(member.is_down());
            self.roster.swap_remove(member.slot);
            if let Some(moved) = self.roster.get(member.slot) {
                self.map.get_mut(moved).expect("the roster names members").slot = member.slot;
            }
        }
        if self.graves.len() >= GRAVES_MAX && !self.graves.contains_key(&peer) {
            let oldest = self.graves.iter().min_by_key(|(_, grave)| grave.dug);
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                self.graves.remove(&oldest);
            }
        }
        self.graves.insert(peer, grave);
    }

    pub(super) fn grave(&self, peer: PeerId) -> Option<&Grave> {
        self.graves.get(&peer)
    }

    /// Forgets tombstones that were dug before.
    pub(super) fn forget_graves(&mut self, before: Mono) {
        self.graves.retain(|_, grave| grave.dug >= before);
    }

    /// The next peer that answers, by id, in the ring that all peers form.
    pub(super) fn successor(&self, of: PeerId) -> Option<PeerId> {
        let after = self.map.range((Bound::Excluded(of), Bound::Unbounded));
        let mut ring = after.chain(self.map.range(..of));
        ring.find(|(_, member)| member.health == Health::Alive).map(|(peer, _)| *peer)
    }

    pub(super) fn held(&self, peer: PeerId) -> Option<Held> {
        if let Some(member) = self.map.get(&peer) {
            let standing = if member.is_down() { Standing::Down } else { Standing::Live };
            return Some(Held { peer, version: member.version(), standing });
        }
        let grave = self.graves.get(&peer)?;
        Some(Held { peer, version: grave.version, standing: Standing::Gone })
    }

    /// All that is known, in order of ids.
    pub(super) fn all_held(&self) -> Vec<Held> {
        let mut peers: Vec<PeerId> = self.map.keys().chain(self.graves.keys()).copied().collect();
        peers.sort_unstable();
        peers.into_iter().filter_map(|peer| self.held(peer)).collect()
    }

    /// Draws up to `count` different peers that `fit`.
    pub(super) fn draw(
        &self,
        rng: &mut Rng,
        count: usize,
        fit: impl Fn(PeerId, &Member) -> bool,
    ) -> Vec<PeerId> {
        let mut drawn = Vec::with_capacity(count);
        let len = self.roster.len();
        if len == 0 {
            return drawn;
        }
        // A walk from a random place with a random stride that is coprime to the length visits
        // every peer once, in an order that differs from draw to draw.
        let mut at = rng.below(len);
        let stride = coprime_stride(rng, len);
        for _ in 0..len {
            if drawn.len() == count {
                break;
            }
            let peer = self.roster[at];
            if fit(peer, &self.map[&peer]) {
                drawn.push(peer);
            }
            at = (at + stride) % len;
        }
        drawn
    }
}

fn coprime_stride(rng: &mut Rng, len: usize) -> usize {
    let gcd = |mut a: usize, mut b: usize| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let mut stride = 1 + rng.below(len);
    while gcd(stride, len) != 1 {
        stride += 1;
    }
    stride
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_visit_every_place_once() {
        let mut rng = Rng::new(7);
        for len in 1..200 {
            let stride = coprime_stride(&mut rng, len);
            let mut seen: Vec<usize> = (0..len).map(|step| step * stride % len).collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..len), "{stride} over {len}");
        }
    }
}
