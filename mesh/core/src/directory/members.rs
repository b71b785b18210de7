//! The table of all other peers and the tombstones of those that are no more. It keeps the books;
//! when a peer is suspected or taken is decided elsewhere.
//!
//! Of 10,000 peers nearly all are well, so a peer that is well costs twelve bytes: its record,
//! which is shared, a mark, and the beginning of its id, so that who is looked for is found without
//! a look into the records on the way. What is more to say of a few stands apart.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::claim::{Accusation, Leave, Proven};
use super::held::{Held, Short, Stamp, Standing};
use super::mark::Mark;
use super::pace::Allowance;
use super::tree::{BUCKETS, Tree};
use crate::advert::{Record, Version};
use crate::id::PeerId;
use crate::limits::{ACCUSATIONS_MAX, GRAVES_MAX};
use crate::rng::Rng;
use crate::time::Mono;
use crate::view::Liveness;

/// An accusation, shared by all that keep it.
pub(super) type Evidence = Arc<Proven<Accusation>>;

/// One peer of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member<'a> {
    pub(super) record: &'a Arc<Record>,
    pub(super) health: Liveness,
}

/// What is held against a peer.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// Since when it is suspected or down.
    pub(super) since: Mono,
    /// When the last accusation was heard.
    pub(super) heard: Mono,
    accusations: [Option<Evidence>; ACCUSATIONS_MAX],
}

/// What a peer that deals with us directly may still ask for.
#[derive(Debug, Default)]
pub(super) struct Contact {
    /// How many large answers it may ask for.
    pub(super) answers: Allowance,
    /// How often it is told that it is accused or outdated.
    pub(super) rebukes: Allowance,
    /// How often its accusations of us are refuted to the whole mesh.
    pub(super) refutations: Allowance,
    /// How often it is dialled.
    pub(super) dials: Allowance,
}

/// A tombstone: no advert up to this version is taken any more.
#[derive(Debug)]
pub(super) struct Grave {
    pub(super) peer: PeerId,
    pub(super) version: Version,
    pub(super) dug: Mono,
    /// The peer's own word, when it left.
    pub(super) leave: Option<Arc<Proven<Leave>>>,
}

/// After so many steps the place is within a few of the guess.
const INTERPOLATIONS: usize = 4;

/// All other peers, and the tombstones.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// By peer.
    records: Vec<Arc<Record>>,
    /// Of the same peers.
    marks: Vec<Mark>,
    /// The first bits of their ids.
    prefixes: Vec<u16>,
    tree: Tree,
    troubles: BTreeMap<Short, Trouble>,
    contacts: BTreeMap<PeerId, Contact>,
    graves: BTreeMap<Short, Grave>,
    down: usize,
}

impl Member<'_> {
    pub(super) fn peer(&self) -> PeerId {
        self.record.advert.peer
    }

    pub(super) fn version(&self) -> Version {
        self.record.advert.version
    }

    pub(super) fn is_down(&self) -> bool {
        self.health == Liveness::Down
    }

    pub(super) fn is_alive(&self) -> bool {
        self.health == Liveness::Alive
    }
}

impl Trouble {
    pub(super) fn accusations(&self) -> impl Iterator<Item = &Evidence> {
        self.accusations.iter().flatten()
    }

    /// Keeps an accusation if its accuser has none here and there is room; `ours` finds room.
    fn keep(&mut self, accusation: Evidence, ours: bool) -> bool {
        let accuser = accusation.claim().accuser;
        if self.accusations().any(|known| known.claim().accuser == accuser) {
            return false;
        }
        let free = self.accusations.iter().position(Option::is_none);
        let Some(place) = free.or(ours.then_some(ACCUSATIONS_MAX - 1)) else { return false };
        self.accusations[place] = Some(accusation);
        true
    }
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn down(&self) -> usize {
        self.down
    }

    pub(super) fn live(&self) -> usize {
        self.len() - self.down
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// For the host's own record, which is part of what it knows.
    pub(super) fn tree_mut(&mut self) -> &mut Tree {
        &mut self.tree
    }

    /// Where the peer stands, or would. Ids are evenly spread, so its place follows from how far it
    /// lies from one that is near (interpolation search, Perl, Itai, Avni 1978).
    pub(super) fn find(&self, peer: Short) -> Result<usize, usize> {
        let len = self.len();
        if len == 0 {
            return Err(0);
        }
        let prefix = peer.prefix();
        let is_below = |index: usize| match self.prefixes[index].cmp(&prefix) {
            Ordering::Equal => short(&self.records[index]) < peer,
            order => order == Ordering::Less,
        };
        let scale = |distance: u64| -> usize {
            usize::try_from((u128::from(distance) * len as u128) >> 64).expect("below the length")
        };
        let (mut guess, mut near) = (0, scale(peer.word()).min(len - 1));
        for _ in 0..INTERPOLATIONS {
            guess = near;
            let key = u64::from(self.prefixes[guess]) << (64 - u16::BITS);
            near = if key <= peer.word() {
                (guess + scale(peer.word() - key)).min(len - 1)
            } else {
                guess.saturating_sub(scale(key - peer.word()))
            };
            if near == guess {
                break;
            }
        }
        // Gallop from there until the peer is enclosed: it stands in low..high, or at high.
        let mut reach = 1;
        let (mut low, mut high) = if is_below(guess) {
            let mut low = guess + 1;
            while low + reach <= len && is_below(low + reach - 1) {
                low += reach;
                reach *= 2;
            }
            (low, (low + reach).min(len))
        } else {
            let mut high = guess;
            while high >= reach && !is_below(high - reach) {
                high -= reach;
                reach *= 2;
            }
            (high.saturating_sub(reach), high)
        };
        while low < high {
            let middle = low + (high - low) / 2;
            if is_below(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let is_there =
            low < len && self.prefixes[low] == prefix && short(&self.records[low]) == peer;
        if is_there { Ok(low) } else { Err(low) }
    }

    /// Reads what the table has of a peer; see [`super::Directory::touch`].
    pub(super) fn touch(&self, peer: PeerId) -> u64 {
        let near = self.find(Short::of(peer)).unwrap_or_else(|place| place);
        self.marks.get(near).map_or(0, |mark| mark.touch()) ^ self.tree.touch(Short::of(peer))
    }

    /// Whether nothing is held against a member: it is alive, and nobody says otherwise.
    pub(super) fn is_well(&self, peer: PeerId) -> bool {
        self.troubles.is_empty() || !self.troubles.contains_key(&Short::of(peer))
    }

    /// The peer at a place that [`Members::find`] found.
    pub(super) fn at(&self, index: usize) -> Member<'_> {
        Member { record: &self.records[index], health: self.marks[index].health() }
    }

    pub(super) fn get(&self, peer: PeerId) -> Option<Member<'_>> {
        let member = self.at(self.find(Short::of(peer)).ok()?);
        (member.peer() == peer).then_some(member)
    }

    pub(super) fn get_short(&self, peer: Short) -> Option<Member<'_>> {
        self.find(peer).ok().map(|index| self.at(index))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Member<'_>> {
        (0..self.len()).map(|index| self.at(index))
    }

    /// What is known of the peers of some buckets of the tree, in order.
    pub(super) fn held_in_buckets(&self, buckets: Range<usize>) -> impl Iterator<Item = Held> {
        let from = |bucket| match bucket {
            BUCKETS.. => self.len(),
            _ => self.find(Short::first_in(bucket)).unwrap_or_else(|place| place),
        };
        let places = from(buckets.start)..from(buckets.end);
        // Troubles stand in the same order: both are walked once.
        let mut troubles = self.troubles.range(Short::first_in(buckets.start)..).peekable();
        places.map(move |place| {
            let member = self.at(place);
            let peer = short(member.record);
            while troubles.next_if(|(other, _)| **other < peer).is_some() {}
            let trouble = troubles.next_if(|(other, _)| **other == peer);
            held_of(member, trouble.map(|(_, trouble)| trouble))
        })
    }

    /// Whether the peer at a place may bring one more advert now.
    pub(super) fn take_advert(&mut self, at: usize, now: Mono, pace: (Duration, u32)) -> bool {
        self.marks[at].take(now, pace.0, pace.1)
    }

    /// Takes the record of a peer that is not in the table and would stand there.
    pub(super) fn insert(
        &mut self,
        at: usize,
        record: Arc<Record>,
        now: Mono,
        pace: (Duration, u32),
    ) {
        debug_assert_eq!(self.find(short(&record)), Err(at));
        let mark = Mark::new(now, pace);
        self.tree.add(&record);
        self.graves.remove(&short(&record));
        self.prefixes.insert(at, short(&record).prefix());
        self.records.insert(at, record);
        self.marks.insert(at, mark);
    }

    /// Fills the empty table with peers in order.
    pub(super) fn fill(
        &mut self,
        records: impl Iterator<Item = Arc<Record>>,
        now: Mono,
        pace: (Duration, u32),
    ) {
        assert!(self.records.is_empty(), "the table is empty");
        let Self { records: all, prefixes, tree, .. } = self;
        all.reserve_exact(records.size_hint().0);
        prefixes.reserve_exact(records.size_hint().0);
        // One walk: the records of 10,000 peers do not stay in a cache from one to the next.
        for record in records {
            tree.add(&record);
            prefixes.push(short(&record).prefix());
            all.push(record);
        }
        debug_assert!(all.is_sorted_by(|a, b| short(a) < short(b)), "each once and in order");
        self.marks = vec![Mark::new(now, pace); self.records.len()];
    }

    /// Takes a newer record of the peer at a place: it lives, and nothing is held against it.
    pub(super) fn replace(&mut self, at: usize, record: Arc<Record>) {
        let before = std::mem::replace(&mut self.records[at], record);
        if self.marks[at].health() == Liveness::Down {
            self.down -= 1;
        } else {
            self.tree.remove(&before);
        }
        self.tree.add(&self.records[at]);
        self.marks[at].set_health(Liveness::Alive);
        self.troubles.remove(&short(&before));
    }

    /// Puts the same advert, judged otherwise, in its place.
    pub(super) fn revise(&mut self, at: usize, record: Arc<Record>) {
        debug_assert_eq!(record.print(), self.records[at].print(), "the same advert");
        self.records[at] = record;
    }

    pub(super) fn set_health(&mut self, peer: PeerId, health: Liveness, now: Mono) {
        let short = Short::of(peer);
        let Ok(index) = self.find(short) else { return };
        let before = self.marks[index].health();
        match (before == Liveness::Down, health == Liveness::Down) {
            (false, true) => {
                self.down += 1;
                self.tree.remove(&self.records[index]);
            }
            (true, false) => {
                self.down -= 1;
                self.tree.add(&self.records[index]);
            }
            _ => {}
        }
        self.marks[index].set_health(health);
        if before != health {
            self.troubles.entry(short).or_default().since = now;
        }
    }

    pub(super) fn trouble(&self, peer: PeerId) -> Option<&Trouble> {
        self.troubles.get(&Short::of(peer))
    }

    /// How many accuse the peer's version.
    pub(super) fn accusers(&self, peer: PeerId) -> usize {
        self.trouble(peer).map_or(0, |trouble| trouble.accusations().count())
    }

    /// Keeps an accusation of a member; says whether it was new.
    pub(super) fn keep_accusation(&mut self, now: Mono, accusation: Evidence, ours: bool) -> bool {
        let trouble = self.troubles.entry(Short::of(accusation.claim().subject)).or_default();
        trouble.heard = now;
        trouble.keep(accusation, ours)
    }

    /// Forgets what is held against a peer that is well.
    pub(super) fn acquit(&mut self, peer: PeerId) {
        self.troubles.remove(&Short::of(peer));
    }

    /// What a member that deals with us may still ask for.
    pub(super) fn contact(&mut self, peer: PeerId) -> Option<&mut Contact> {
        self.get(peer)?;
        Some(self.contacts.entry(peer).or_default())
    }

    /// Removes a peer and keeps its tombstone.
    pub(super) fn bury(&mut self, grave: Grave) {
        let short = Short::of(grave.peer);
        if let Ok(index) = self.find(short) {
            let record = self.records.remove(index);
            self.prefixes.remove(index);
            if self.marks.remove(index).health() == Liveness::Down {
                self.down -= 1;
            } else {
                self.tree.remove(&record);
            }
            self.troubles.remove(&short);
            self.contacts.remove(&grave.peer);
        }
        if self.graves.len() >= GRAVES_MAX && !self.graves.contains_key(&short) {
            let oldest = self.graves.iter().min_by_key(|(_, grave)| grave.dug);
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                self.graves.remove(&oldest);
            }
        }
        self.graves.insert(short, grave);
    }

    pub(super) fn grave(&self, peer: PeerId) -> Option<&Grave> {
        self.graves.get(&Short::of(peer)).filter(|grave| grave.peer == peer)
    }

    pub(super) fn grave_short(&self, peer: Short) -> Option<&Grave> {
        self.graves.get(&peer)
    }

    /// How many tombstones there are.
    pub(super) fn graves(&self) -> usize {
        self.graves.len()
    }

    /// The tombstones of some buckets of the tree.
    pub(super) fn graves_in_buckets(&self, buckets: Range<usize>) -> impl Iterator<Item = &Grave> {
        let from = Short::first_in(buckets.start);
        let graves = self.graves.range(from..).map(|(_, grave)| grave);
        graves.take_while(move |grave| super::tree::bucket(Short::of(grave.peer)) < buckets.end)
    }

    /// Forgets tombstones that were dug before `before`, accusations that nobody joined since
    /// `stale`, and contacts.
    pub(super) fn forget(&mut self, before: Mono, stale: Mono) {
        self.graves.retain(|_, grave| grave.dug >= before);
        let mut troubles = std::mem::take(&mut self.troubles);
        troubles.retain(|peer, trouble| {
            let well = self.get_short(*peer).is_none_or(|member| member.is_alive());
            !well || trouble.heard >= stale
        });
        self.troubles = troubles;
        self.contacts.clear();
    }

    /// Lets all records be as young as if they had just come: after a long sleep nobody's is older
    /// than the sleep for a reason of its own.
    pub(super) fn rejuvenate(&mut self, now: Mono) {
        self.marks.iter_mut().for_each(|mark| mark.renew(now));
    }

    /// Peers whose record is older than `age`, or that are down for longer than since `down`.
    pub(super) fn lapsed(&self, now: Mono, age: Duration, down: Mono) -> Vec<(PeerId, Version)> {
        let lapsed = |index: &usize| {
            let mark = self.marks[*index];
            let long_down = || {
                let trouble = self.trouble(self.records[*index].advert.peer);
                trouble.is_none_or(|trouble| trouble.since <= down)
            };
            mark.age(now) > age || (mark.health() == Liveness::Down && long_down())
        };
        let lapsed = (0..self.len()).filter(lapsed).map(|index| self.at(index));
        lapsed.map(|member| (member.peer(), member.version())).collect()
    }

    /// The next peer that answers, by id, in the ring that all peers form.
    pub(super) fn successor(&self, of: PeerId) -> Option<PeerId> {
        let start = match self.find(Short::of(of)) {
            Ok(index) => index + 1,
            Err(index) => index,
        };
        let ring = (start..self.len()).chain(0..start.min(self.len()));
        ring.map(|index| self.at(index)).find(Member::is_alive).map(|member| member.peer())
    }

    pub(super) fn held(&self, peer: Short) -> Option<Held> {
        self.known(peer).map(|(held, _)| held)
    }

    /// What is known of a peer, and its record if it is a member.
    pub(super) fn known(&self, peer: Short) -> Option<(Held, Option<&Arc<Record>>)> {
        match self.get_short(peer) {
            Some(member) => {
                let held = held_of(member, self.troubles.get(&peer));
                Some((held, Some(member.record)))
            }
            None => self.graves.get(&peer).map(|grave| (held_of_grave(grave), None)),
        }
    }

    /// Draws up to `count` different peers that `fit`.
    pub(super) fn draw(
        &self,
        rng: &mut Rng,
        count: usize,
        fit: impl Fn(Member<'_>) -> bool,
    ) -> Vec<PeerId> {
        let fitting = walk(rng, self.len()).map(|index| self.at(index)).filter(|m| fit(*m));
        fitting.take(count).map(|member| member.peer()).collect()
    }
}

fn held_of(member: Member<'_>, trouble: Option<&Trouble>) -> Held {
    let standing = match (member.health, trouble.map_or(0, |t| t.accusations().count())) {
        (Liveness::Down, _) => Standing::Down,
        (_, 0) => Standing::Live,
        (_, accusers) => Standing::Accused(u8::try_from(accusers).expect("few")),
    };
    Held::of(short(member.record), Stamp::of(member.version()), standing)
}

pub(super) fn held_of_grave(grave: &Grave) -> Held {
    Held::new(grave.peer, grave.version, Standing::Gone)
}

fn short(record: &Record) -> Short {
    Short::of(record.advert.peer)
}

/// Every place of a list of `len` once, from a random place with a random stride that is coprime to
/// the length: an order that differs from draw to draw.
pub(super) fn walk(rng: &mut Rng, len: usize) -> impl Iterator<Item = usize> + use<> {
    let (start, stride) =
        if len == 0 { (0, 1) } else { (rng.below(len), coprime_stride(rng, len)) };
    (0..len).map(move |step| (start + step * stride) % len)
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
    use crate::advert::tests::record as tests_record;

    #[test]
    fn strides_visit_every_place_once() {
        let mut rng = Rng::new(7);
        for len in 1..200 {
            let mut seen: Vec<usize> = walk(&mut rng, len).collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..len), "over {len}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_peer_is_found_where_it_stands(
            mut words in proptest::collection::btree_set(0u64.., 0..300),
            dense in proptest::collection::btree_set(0u64..400, 0..100),
        ) {
            words.extend(dense);
            let mut members = Members::default();
            let records = words.iter().map(|word| tests_record(*word));
            members.fill(records, Mono(0), (Duration::from_secs(1), 1));
            for (place, word) in words.iter().enumerate() {
                proptest::prop_assert_eq!(members.find(Short::from(*word)), Ok(place));
                if !words.contains(&(word ^ 1)) {
                    let place = words.range(..word ^ 1).count();
                    proptest::prop_assert_eq!(members.find(Short::from(word ^ 1)), Err(place));
                }
            }
        }
    }
}
