//! How news spread: pushed to a few peers for the first hops; then all that took a record announce
//! its version, in batches, and those that lack it pull it.

use std::sync::Arc;

use super::claim::{Accusation, Leave, Proven};
use super::members::Health;
use super::message::{COLD, Held, News, Rumour, Standing, Talk};
use super::pace::Timer;
use super::{Directory, Event, Output, Refused, has_way};
use crate::advert::{Record, Version};
use crate::id::PeerId;
use crate::limits::*;
use crate::time::{Mono, Now};

/// What was new during one call, each with the peer that brought it. It goes out at its end.
#[derive(Debug, Default)]
pub(super) struct Hot {
    records: Vec<(Rumour, PeerId)>,
    accusations: Vec<(Proven<Accusation>, PeerId)>,
    leaves: Vec<(Proven<Leave>, PeerId)>,
}

impl Hot {
    pub(super) fn push_record(&mut self, record: Arc<Record>, hops: u8, from: PeerId) {
        self.records.push((Rumour { hops, record }, from));
    }

    pub(super) fn push_accusation(&mut self, accusation: Proven<Accusation>, from: PeerId) {
        self.accusations.push((accusation, from));
    }

    pub(super) fn push_leave(&mut self, leave: Proven<Leave>, from: PeerId) {
        self.leaves.push((leave, from));
    }

    fn has_news_for(&self, peer: PeerId) -> bool {
        self.records.iter().any(|(r, from)| is_news(peer, *from, r.record.advert.peer))
            || self.accusations.iter().any(|(a, from)| is_news(peer, *from, a.claim().accuser))
            || self.leaves.iter().any(|(l, from)| is_news(peer, *from, l.claim().peer))
    }

    fn news_for(&self, peer: PeerId) -> News {
        let records =
            self.records.iter().filter(|(r, from)| is_news(peer, *from, r.record.advert.peer));
        let accusations =
            self.accusations.iter().filter(|(a, from)| is_news(peer, *from, a.claim().accuser));
        let leaves = self.leaves.iter().filter(|(l, from)| is_news(peer, *from, l.claim().peer));
        News {
            records: records.map(|(rumour, _)| rumour.clone()).collect(),
            accusations: accusations.map(|(accusation, _)| accusation.clone()).collect(),
            leaves: leaves.map(|(leave, _)| leave.clone()).collect(),
        }
    }
}

/// What a peer brought or says of itself is no news to it.
fn is_news(to: PeerId, from: PeerId, speaker: PeerId) -> bool {
    to != from && to != speaker
}

/// A record that is still announced.
#[derive(Debug)]
pub(super) struct Announcement {
    version: Version,
    rounds_left: u8,
}

impl Directory {
    /// Takes a record if it is newer than what is known, dead or alive.
    pub(super) fn take_record(
        &mut self,
        now: Now,
        from: PeerId,
        record: Arc<Record>,
        hops: u8,
        out: &mut Vec<Output>,
    ) {
        let (peer, version) = (record.advert.peer, record.advert.version);
        if peer == self.me {
            if version > self.own.advert.version {
                self.outbid(now.mono, version, out);
            }
            return;
        }
        if self.members.grave(peer).is_some_and(|grave| version <= grave.version) {
            return;
        }
        let (interval, burst) = (self.params.advert_interval, self.params.advert_burst);
        let known = self.members.get(peer).map(|member| (member.version(), member.health));
        if known.is_none() {
            if self.members.len() + 1 >= PEERS_MAX {
                let refused = Event::AdvertRefused { from, reason: Refused::Full };
                return out.push(Output::Event(refused));
            }
            self.members.insert(Arc::clone(&record), now.mono);
        }
        let member = self.members.get_mut(peer).expect("known or just inserted");
        if known.is_some() && version <= member.version() {
            if version < member.version() && from == peer {
                // It does not know its own past: its clock went back.
                let mut news = News::default();
                news.records.push(Rumour { hops: COLD, record: Arc::clone(&member.record) });
                self.send_news(now.mono, peer, news, out);
            }
            return;
        }
        if !member.adverts.take(now.mono, interval, burst) {
            let refused = Event::AdvertRefused { from, reason: Refused::TooOften(peer) };
            return out.push(Output::Event(refused));
        }
        member.record = Arc::clone(&record);
        member.taken = now.mono;
        member.accusations.clear();
        self.members.set_health(peer, Health::Alive, now.mono);
        self.pulls.remove(&peer);
        self.view_stale = true;
        out.push(Output::Event(match known {
            None => Event::PeerJoined { peer, version },
            Some(_) => Event::PeerUpdated { peer, version },
        }));
        if known.is_some_and(|(_, health)| health != Health::Alive) {
            out.push(Output::Event(Event::PeerAlive { peer }));
        }
        if hops != COLD {
            self.hot.push_record(record, hops, from);
        }
    }

    /// Sends out what was new during this call.
    pub(super) fn spread_hot(&mut self, now: Mono, out: &mut Vec<Output>) {
        let mut hot = std::mem::take(&mut self.hot);
        // Where the first push reaches everybody there is nothing to push or announce after it.
        let few = self.members.live() <= self.params.fanout;
        let eager_hops = if few { 1 } else { self.eager_hops() };
        hot.records.retain_mut(|(rumour, _)| {
            let eager = rumour.hops < eager_hops;
            if !few {
                self.queue_announcement(now, &rumour.record);
            }
            rumour.hops = rumour.hops.saturating_add(1);
            eager
        });
        if hot.records.is_empty() && hot.accusations.is_empty() && hot.leaves.is_empty() {
            return;
        }
        for peer in self.draw_reachable(self.params.fanout, |peer| hot.has_news_for(peer)) {
            self.send_news(now, peer, hot.news_for(peer), out);
        }
    }

    /// So many hops of pushing reach about half of the mesh; the rest pulls.
    fn eager_hops(&self) -> u8 {
        let fanout = u32::try_from(self.params.fanout.max(2)).unwrap_or(u32::MAX);
        let live = u32::try_from(self.members.live() + 1).unwrap_or(u32::MAX);
        u8::try_from(live.ilog(fanout)).unwrap_or(u8::MAX).max(2).min(self.params.eager_hops_max)
    }

    /// Peers that answer and to which there is a way; suspects only where others are too few.
    fn draw_reachable(&mut self, count: usize, fit: impl Fn(PeerId) -> bool) -> Vec<PeerId> {
        let connected = &self.connected;
        let mut draw = |count: usize, suspects: bool| {
            self.members.draw(&mut self.rng, count, |peer, member| {
                let health = match member.health {
                    Health::Alive => !suspects,
                    Health::Suspect { .. } => suspects,
                    Health::Down => false,
                };
                health && has_way(connected, peer, member) && fit(peer)
            })
        };
        let mut drawn = draw(count, false);
        if drawn.len() < count {
            drawn.extend(draw(count - drawn.len(), true));
        }
        drawn
    }

    fn queue_announcement(&mut self, now: Mono, record: &Record) {
        if self.lazy.len() >= ANNOUNCEMENTS_MAX {
            return;
        }
        if self.lazy.is_empty() {
            self.timers.set(now + self.params.lazy_interval, Timer::Lazy);
        }
        let rounds_left = self.params.lazy_rounds;
        let announcement = Announcement { version: record.advert.version, rounds_left };
        self.lazy.insert(record.advert.peer, announcement);
    }

    pub(super) fn announce(&mut self, now: Mono, out: &mut Vec<Output>) {
        let held: Vec<Held> = self
            .lazy
            .iter()
            .map(|(peer, a)| Held { peer: *peer, version: a.version, standing: Standing::Live })
            .collect();
        self.lazy.retain(|_, announcement| {
            announcement.rounds_left = announcement.rounds_left.saturating_sub(1);
            announcement.rounds_left > 0
        });
        if !self.lazy.is_empty() {
            self.timers.set(now + self.params.lazy_interval, Timer::Lazy);
        }
        for peer in self.draw_reachable(self.params.lazy_fanout, |_| true) {
            for held in held.chunks(FRAME_PEERS_MAX) {
                self.send(now, peer, Talk::Announce { held: held.to_vec() }, out);
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
        let wanted = self.wanted(held);
        self.pull(now, from, wanted, out);
    }

    /// Asks `from` for what it knows better, unless another peer was asked a moment ago.
    pub(super) fn pull(
        &mut self,
        now: Mono,
        from: PeerId,
        mut held: Vec<Held>,
        out: &mut Vec<Output>,
    ) {
        let retry = self.params.pull_retry;
        let pulls = &mut self.pulls;
        held.retain(|entry| {
            let asked = pulls.get(&entry.peer);
            let waiting =
                asked.is_some_and(|(had, at)| *had == entry.version && now.since(*at) < retry);
            if waiting || (asked.is_none() && pulls.len() >= PULLS_MAX) {
                return false;
            }
            pulls.insert(entry.peer, (entry.version, now));
            true
        });
        if !held.is_empty() {
            self.send(now, from, Talk::Pull { held }, out);
        }
    }
}
