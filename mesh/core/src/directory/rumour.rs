//! How news spread (Plumtree's split, Leitão, Pereira, Rodrigues 2007): pushed to a few neighbours
//! for the first hops; after that, all that took it announce it, in batches and in 13 bytes each,
//! and those that lack it pull it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::claim::{Accusation, Leave, Proven};
use super::held::{Held, Short, Stamp, Standing};
use super::message::{COLD, Message, News, Rumour, Talk};
use super::pace::Timer;
use super::{Directory, Event, Output, Refused};
use crate::advert::{Record, Version};
use crate::id::PeerId;
use crate::limits::*;
use crate::rng::mix;
use crate::time::{Mono, Now};
use crate::view::Liveness;

/// What was new during one call, each with the peer that brought it. It goes out at its end.
#[derive(Debug, Default)]
pub(super) struct Hot {
    records: Vec<(Rumour<Record>, PeerId)>,
    accusations: Vec<(Rumour<Proven<Accusation>>, PeerId)>,
    leaves: Vec<(Rumour<Proven<Leave>>, PeerId)>,
}

impl Hot {
    pub(super) fn push_record(&mut self, rumour: Rumour<Record>, from: PeerId) {
        self.records.push((rumour, from));
    }

    pub(super) fn push_accusation(&mut self, rumour: Rumour<Proven<Accusation>>, from: PeerId) {
        self.accusations.push((rumour, from));
    }

    pub(super) fn push_leave(&mut self, rumour: Rumour<Proven<Leave>>, from: PeerId) {
        self.leaves.push((rumour, from));
    }

    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.accusations.is_empty() && self.leaves.is_empty()
    }

    fn has_news_for(&self, peer: PeerId) -> bool {
        self.records.iter().any(|(r, from)| is_news(peer, *from, r.said.advert.peer))
            || self.accusations.iter().any(|(a, from)| is_news(peer, *from, a.said.claim().accuser))
            || self.leaves.iter().any(|(l, from)| is_news(peer, *from, l.said.claim().peer))
    }

    fn news_for(&self, peer: PeerId) -> News {
        fn pick<T>(
            to: PeerId,
            all: &[(Rumour<T>, PeerId)],
            speaker: impl Fn(&T) -> PeerId,
        ) -> Vec<Rumour<T>> {
            let news = all.iter().filter(|(r, from)| is_news(to, *from, speaker(&r.said)));
            news.map(|(rumour, _)| rumour.clone()).collect()
        }
        News {
            records: pick(peer, &self.records, |record| record.advert.peer),
            accusations: pick(peer, &self.accusations, |accusation| accusation.claim().accuser),
            leaves: pick(peer, &self.leaves, |leave| leave.claim().peer),
        }
    }
}

/// What a peer brought or says of itself is no news to it.
fn is_news(to: PeerId, from: PeerId, speaker: PeerId) -> bool {
    to != from && to != speaker
}

/// Versions that were taken of late: nearly all that is announced is among them, and a tag is
/// looked up quicker than a directory. Two that share a tag are so rare that one not heard of for
/// that reason is left to the next announcement.
#[derive(Debug)]
pub(super) struct Fresh([u32; FRESH]);

const FRESH: usize = 256;

impl Default for Fresh {
    fn default() -> Self {
        Self([0; FRESH])
    }
}

impl Fresh {
    /// Place and tag.
    fn tag(held: Held) -> (usize, u32) {
        let bits = mix(held.peer.word() ^ mix(held.stamp().word()));
        let place = usize::try_from(bits % FRESH as u64).expect("a place");
        (place, u32::try_from(bits >> 32).expect("32 bits"))
    }

    /// Reads the place of `held`; see [`Directory::touch`].
    pub(super) fn touch(&self, held: Held) -> u64 {
        self.0[Self::tag(held).0].into()
    }

    fn note(&mut self, held: Held) {
        let (place, tag) = Self::tag(held);
        self.0[place] = tag;
    }

    /// Whether this was taken of late and nothing is said against it.
    pub(super) fn knows(&self, held: Held) -> bool {
        let (place, tag) = Self::tag(held);
        held.standing() == Standing::Live && self.0[place] == tag
    }
}

/// Room for more than so many times what was announced last is given back: after a storm nobody
/// needs it.
const LAZY_SPARE: usize = 8;

/// What is announced.
#[derive(Debug)]
pub(super) struct Announced {
    pub(super) held: Held,
    /// At hand for those that pull it; none for this peer's own and for the dead.
    pub(super) record: Option<Arc<Record>>,
    rounds_left: u8,
}

impl Announced {
    /// By whom they are sorted.
    pub(super) fn peer(&self) -> Short {
        self.held.peer
    }
}

/// A pull that is awaited.
#[derive(Debug)]
pub(super) struct Pull {
    /// What was known when it was asked.
    had: Held,
    /// What the other side has.
    wanted: Stamp,
    asked: Mono,
    /// Whether accusations came of what was asked for.
    answered: bool,
    /// Who else has it.
    other: Option<PeerId>,
}

impl Directory {
    /// Takes a record if it is newer than what is known, dead or alive.
    pub(super) fn take_record(
        &mut self,
        now: Now,
        from: PeerId,
        Rumour { hops, said: record }: Rumour<Record>,
        out: &mut Vec<Output>,
    ) {
        let (peer, version) = (record.advert.peer, record.advert.version);
        if peer == self.me {
            if version > self.own.advert.version {
                self.outbid(now.mono, version, out);
            }
            return;
        }
        let short = Short::of(peer);
        let record = self.judge(now.utc, record);
        let pace = (self.params.advert_interval, self.params.advert_burst);
        let refuse = |reason| Output::Event(Event::AdvertRefused { from, reason });
        let place = self.members.find(short);
        let known = place.ok().map(|at| self.members.at(at));
        let before = known.map(|known| known.health);
        match known {
            Some(known) if known.peer() != peer => {
                return out.push(refuse(Refused::ShortIdTaken(known.peer())));
            }
            Some(known) if version <= known.version() => {
                if version < known.version() && from == peer {
                    // It does not know its own past: its clock went back.
                    let said = Arc::clone(known.record);
                    let records = vec![Rumour { hops: COLD, said }];
                    self.send_news(now.mono, peer, News { records, ..News::default() }, out);
                }
                return;
            }
            _ => {}
        }
        // It moved: what was measured speaks of another place.
        let at = |record: &Record| record.asserted().as_ref().ok().map(|its| its.location.clone());
        let moved = known.is_some_and(|known| at(known.record) != at(&record));
        let record = if moved && self.echoes.remove(&peer).is_some() {
            self.judge(now.utc, record)
        } else {
            record
        };
        match place {
            Ok(at) => {
                if !self.members.take_advert(at, now.mono, pace) {
                    return out.push(refuse(Refused::TooOften(peer)));
                }
                self.members.replace(at, Arc::clone(&record));
            }
            Err(_) if self.members.grave(peer).is_some_and(|grave| version <= grave.version) => {
                return;
            }
            Err(_) if self.members.len() + 1 >= PEERS_MAX => {
                return out.push(refuse(Refused::Full));
            }
            Err(at) => {
                self.members.insert(at, Arc::clone(&record), now.mono, pace);
                self.strangers.remove(&peer);
                if !record.advert.control_addrs.is_empty() {
                    self.meet(peer);
                }
                self.guard(peer);
                self.answer_doubter(now, peer, out);
                self.stay_reachable(now.mono, out);
            }
        }
        self.fresh.note(Held::new(peer, version, Standing::Live));
        self.pulls.remove(&short);
        self.suspects.remove(&short);
        self.view_stale = true;
        out.push(Output::Event(match before {
            None => Event::PeerJoined { peer, version },
            Some(_) => Event::PeerUpdated { peer, version },
        }));
        if before.is_some_and(|health| health != Liveness::Alive) {
            out.push(Output::Event(Event::PeerAlive { peer }));
        }
        if hops != COLD {
            self.hot.push_record(Rumour { hops, said: record }, from);
        }
    }

    /// Sends out what was new during this call.
    pub(super) fn spread_hot(&mut self, now: Mono, out: &mut Vec<Output>) {
        if self.hot.is_empty() {
            return;
        }
        let mut hot = std::mem::take(&mut self.hot);
        // Where the first push reaches everybody there is nothing to push or announce after it.
        let few = self.members.live() <= self.params.fanout;
        let eager_hops = if few { 1 } else { self.eager_hops() };
        let mut subjects = Vec::new();
        let mut pass = |hops: &mut u8, subject: PeerId| {
            let eager = *hops < eager_hops;
            *hops = hops.saturating_add(1);
            if !few && *hops >= eager_hops {
                subjects.push(Short::of(subject));
            }
            eager
        };
        hot.records.retain_mut(|(r, _)| pass(&mut r.hops, r.said.advert.peer));
        hot.accusations.retain_mut(|(a, _)| pass(&mut a.hops, a.said.claim().subject));
        hot.leaves.retain_mut(|(l, _)| pass(&mut l.hops, l.said.claim().peer));
        let rounds_left = self.params.lazy_rounds;
        for subject in subjects {
            let known = match subject == Short::of(self.me) {
                true => Some((self.held_own(), None)),
                false => self.members.known(subject),
            };
            let Some((held, record)) = known else { continue };
            let room = match held.standing() {
                Standing::Accused(_) => ACCUSED_ANNOUNCEMENTS_MAX,
                _ => ANNOUNCEMENTS_MAX,
            };
            let announced = Announced { held, record: record.map(Arc::clone), rounds_left };
            match self.lazy.binary_search_by_key(&subject, Announced::peer) {
                Ok(place) => self.lazy[place] = announced,
                Err(place) if self.lazy.len() < room => self.lazy.insert(place, announced),
                Err(_) => {}
            }
        }
        if !self.lazy.is_empty() && !self.announcing {
            self.announcing = true;
            self.timers.set(now + self.params.lazy_interval, Timer::Lazy);
        }
        if hot.is_empty() {
            return;
        }
        for neighbour in self.draw_neighbours(self.params.fanout, |peer| hot.has_news_for(peer)) {
            if self.warm_up(now, neighbour, out) {
                self.send_parcels(neighbour.peer, hot.news_for(neighbour.peer), out);
            }
        }
    }

    /// So many hops of pushing reach about half of a small mesh, and a few hundred peers of a large
    /// one; the rest pulls.
    fn eager_hops(&self) -> u8 {
        let fanout = u32::try_from(self.params.fanout.max(2)).unwrap_or(u32::MAX);
        let live = u32::try_from(self.members.live() + 1).unwrap_or(u32::MAX);
        u8::try_from(live.ilog(fanout)).unwrap_or(u8::MAX).max(2).min(self.params.eager_hops_max)
    }

    pub(super) fn announce(&mut self, now: Mono, out: &mut Vec<Output>) {
        let held: Vec<Held> = self.lazy.iter().map(|announced| announced.held).collect();
        self.lazy.retain_mut(|announced| {
            announced.rounds_left = announced.rounds_left.saturating_sub(1);
            announced.rounds_left > 0
        });
        if self.lazy.capacity() > LAZY_SPARE * held.len().max(LAZY_SPARE) {
            self.lazy.shrink_to(held.len());
        }
        self.announcing = !self.lazy.is_empty();
        if self.announcing {
            self.timers.set(now + self.params.lazy_interval, Timer::Lazy);
        }
        if held.is_empty() {
            return;
        }
        for neighbour in self.draw_neighbours(self.params.lazy_fanout, |_| true) {
            if !self.warm_up(now, neighbour, out) {
                continue;
            }
            for held in held.chunks(FRAME_PEERS_MAX) {
                let talk = Talk::Announce { held: held.to_vec() };
                let message = Message { shard: self.shard, ..Message::of(talk) };
                out.push(Output::Send { to: neighbour.peer, message: Box::new(message) });
            }
        }
    }

    pub(super) fn take_announcement(
        &mut self,
        now: Mono,
        from: PeerId,
        held: &[Held],
        out: &mut Vec<Output>,
    ) {
        let retry = self.params.pull_retry;
        let mut news = Vec::new();
        for held in held {
            if self.fresh.knows(*held) {
                continue;
            }
            match self.pulls.get_mut(&held.peer) {
                Some(pull)
                    if !pull.answered
                        && now.since(pull.asked) < retry
                        && !held.stamp().is_newer(pull.wanted) =>
                {
                    pull.other = Some(from);
                }
                _ => news.push(*held),
            }
        }
        if !news.is_empty() {
            self.want(now, from, &news, out);
        }
    }

    /// Pulls what `from` knows better.
    pub(super) fn want(&mut self, now: Mono, from: PeerId, held: &[Held], out: &mut Vec<Output>) {
        let better = |theirs: &Held| Some((self.better(*theirs)?, theirs.stamp()));
        let wanted = held.iter().filter_map(better).collect();
        self.pull(now, from, wanted, out);
    }

    /// Asks `from` for what it knows better than us: what we have, and what it has. What another
    /// peer was asked for a moment ago is asked for again only when that one does not answer.
    pub(super) fn pull(
        &mut self,
        now: Mono,
        from: PeerId,
        wanted: Vec<(Held, Stamp)>,
        out: &mut Vec<Output>,
    ) {
        let retry = self.params.pull_retry;
        let mut held = Vec::with_capacity(wanted.len());
        for (had, stamp) in wanted {
            if let Some(pull) = self.pulls.get_mut(&had.peer) {
                if pull.had == had && !stamp.is_newer(pull.wanted) && now.since(pull.asked) < retry
                {
                    pull.other = Some(from);
                    continue;
                }
            } else if self.pulls.len() >= PULLS_MAX {
                continue;
            }
            let pull = Pull { had, wanted: stamp, asked: now, answered: false, other: None };
            self.pulls.insert(had.peer, pull);
            held.push(had);
        }
        if held.is_empty() {
            return;
        }
        if !self.pulling {
            self.pulling = true;
            self.timers.set(now + retry, Timer::Pull);
        }
        self.send(now, from, Talk::Pull { held }, out);
    }

    /// What is held against this version of a peer came: nobody else need be asked for it.
    pub(super) fn note_answer(&mut self, peer: Short, version: Version) {
        if let Some(pull) = self.pulls.get_mut(&peer) {
            pull.answered |= !pull.wanted.is_newer(Stamp::of(version));
        }
    }

    /// Pulls that were not answered go to the next peer that has what is wanted.
    pub(super) fn repeat_pulls(&mut self, now: Mono, out: &mut Vec<Output>) {
        let retry = self.params.pull_retry;
        let mut again = BTreeMap::<PeerId, Vec<Held>>::new();
        self.pulls.retain(|_, pull| {
            if now.since(pull.asked) < retry {
                return true;
            }
            if let Some(other) = pull.other.take().filter(|_| !pull.answered) {
                again.entry(other).or_default().push(pull.had);
                pull.asked = now;
            }
            pull.asked == now
        });
        let next = self.pulls.values().map(|pull| pull.asked + retry).min();
        self.pulling = next.is_some();
        if let Some(next) = next {
            // A little later, so that those that fall due together are repeated together.
            self.timers.set(next + retry / 8, Timer::Pull);
        }
        for (peer, held) in again {
            for held in held.chunks(FRAME_PEERS_MAX) {
                self.send(now, peer, Talk::Pull { held: held.to_vec() }, out);
            }
        }
    }
}
