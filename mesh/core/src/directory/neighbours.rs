//! The partial view: the few peers that news are pushed and announced to, over connections that
//! stay warm. One is exchanged now and then, so that the graph of neighbours is random and stays
//! so. In a mesh that is small enough everybody is a neighbour.

use super::members::{Member, walk};
use super::pace::Timer;
use super::{Directory, Output, has_way};
use crate::id::PeerId;
use crate::limits::{RELAYS, UNFIT_RELAY, WARDS_MAX};
use crate::time::Mono;
use crate::view::Liveness;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub(super) peer: PeerId,
    /// Whether there is a connection.
    pub(super) warm: bool,
}

/// The neighbours.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    drawn: Vec<Neighbour>,
    /// Connected peers that have no address: nobody can choose them, so those that they dialled
    /// count them in.
    wards: Vec<Neighbour>,
}

impl Neighbours {
    /// A connection came or went.
    pub(super) fn set_warm(&mut self, peer: PeerId, warm: bool) {
        let all = self.drawn.iter_mut().chain(&mut self.wards);
        all.filter(|n| n.peer == peer).for_each(|neighbour| neighbour.warm = warm);
    }
}

impl Directory {
    /// Whether all peers are neighbours.
    fn all_are_neighbours(&self) -> bool {
        self.members.len() <= self.params.neighbours
    }

    /// Draws neighbours that answer and to which there is a way; suspects only where others are too
    /// few.
    pub(super) fn draw_neighbours(
        &mut self,
        count: usize,
        fit: impl Fn(PeerId) -> bool,
    ) -> Vec<Neighbour> {
        if self.neighbours.drawn.is_empty() && !self.all_are_neighbours() {
            self.fill_neighbours();
        }
        let mut drawn = self.draw_in(count, Liveness::Alive, &fit);
        if drawn.len() < count {
            drawn.extend(self.draw_in(count - drawn.len(), Liveness::Suspect, &fit));
        }
        drawn
    }

    fn draw_in(
        &mut self,
        count: usize,
        health: Liveness,
        fit: &impl Fn(PeerId) -> bool,
    ) -> Vec<Neighbour> {
        let connected = &self.connected;
        let fits = |member: Member<'_>| {
            member.health == health && has_way(connected, member) && fit(member.peer())
        };
        if self.all_are_neighbours() {
            let drawn = self.members.draw(&mut self.rng, count, fits).into_iter();
            let neighbour = |peer| Neighbour { peer, warm: connected.contains(&peer) };
            return drawn.map(neighbour).collect();
        }
        let Neighbours { drawn, wards } = &self.neighbours;
        let order = walk(&mut self.rng, drawn.len() + wards.len());
        let all =
            order.map(|index| drawn.get(index).unwrap_or_else(|| &wards[index - drawn.len()]));
        // Of a neighbour that is well and has an address there is nothing to look up.
        let members = &self.members;
        let fitting = all.filter(|neighbour| match members.is_well(neighbour.peer) {
            true => {
                health == Liveness::Alive
                    && (neighbour.warm || members.get(neighbour.peer).is_some())
                    && fit(neighbour.peer)
            }
            false => members.get(neighbour.peer).is_some_and(fits),
        });
        fitting.take(count).copied().collect()
    }

    /// The peers that are probed in turn.
    pub(super) fn neighbourhood(&self) -> Vec<PeerId> {
        if self.all_are_neighbours() {
            return self.members.iter().map(|member| member.peer()).collect();
        }
        let Neighbours { drawn, wards } = &self.neighbours;
        drawn.iter().chain(wards).map(|neighbour| neighbour.peer).collect()
    }

    /// A connected peer without an address is a ward at once: whoever waits for the next exchange
    /// leaves it without news until then.
    pub(super) fn guard(&mut self, peer: PeerId) {
        let Some(member) = self.members.get(peer) else { return };
        let wards = &mut self.neighbours.wards;
        let is_ward = member.record.advert.control_addrs.is_empty()
            && self.connected.contains(&peer)
            && wards.iter().all(|ward| ward.peer != peer);
        if is_ward && wards.len() < WARDS_MAX {
            wards.push(Neighbour { peer, warm: true });
        }
    }

    /// A peer that cannot be dialled stays connected to its relays and to all its neighbours, or
    /// news and probes would not find it.
    pub(super) fn stay_reachable(&mut self, now: Mono, out: &mut Vec<Output>) {
        if !self.content.control_addrs.is_empty() {
            return;
        }
        self.choose_relays(now);
        if self.neighbours.drawn.is_empty() && !self.all_are_neighbours() {
            self.fill_neighbours();
        }
        let mut wanted = self.own.advert.relays.clone();
        wanted.extend(self.neighbourhood());
        for peer in wanted {
            // Which dials those that are not connected.
            self.reach(now, peer, out);
        }
    }

    /// A relay does not relay: others are asked in its place, for a while.
    pub(super) fn pass_over(&mut self, now: Mono, peer: PeerId) {
        let before = self.content.relays.len();
        self.content.relays.retain(|relay| *relay != peer);
        if self.content.relays.len() == before || !self.content.control_addrs.is_empty() {
            return;
        }
        self.unfit_relays.insert(peer, now + UNFIT_RELAY);
        self.choose_relays(now);
        self.want_publication(now);
    }

    /// Names peers that hold a connection to this one in its advert, and others in place of those
    /// that died.
    pub(super) fn choose_relays(&mut self, now: Mono) {
        self.unfit_relays.retain(|_, until| *until > now);
        let Self { members, connected, content, rng, own, unfit_relays, .. } = self;
        let may_relay = |member: &Member<'_>| {
            !member.is_down() && !member.record.advert.control_addrs.is_empty()
        };
        let mut relays = content.relays.clone();
        relays.retain(|relay| members.get(*relay).is_none_or(|member| may_relay(&member)));
        // One that nobody vouches for is asked by those only for whom nobody vouches either.
        let is_vouched = own.charter.is_ok();
        let fits = |member: Member<'_>| {
            may_relay(&member)
                && member.is_alive()
                && (!is_vouched || member.record.charter.is_ok())
                && connected.contains(&member.peer())
                && !relays.contains(&member.peer())
                && !unfit_relays.contains_key(&member.peer())
        };
        let more = members.draw(rng, RELAYS.saturating_sub(relays.len()), fits);
        relays.extend(more);
        if !relays.is_empty() && relays != content.relays {
            content.relays = relays;
            self.want_publication(now);
        }
    }

    /// A peer is new. The neighbours stay a uniform sample of all peers (reservoir sampling, Vitter
    /// 1985), so that a joiner is chosen by as many as anybody else, at once.
    pub(super) fn meet(&mut self, peer: PeerId) {
        let Self { params, members, neighbours: Neighbours { drawn, .. }, rng, .. } = self;
        let connected = &self.connected;
        if members.len() <= params.neighbours {
            return;
        }
        if drawn.is_empty() {
            return self.fill_neighbours();
        }
        let place = rng.below(members.len());
        if place < params.neighbours {
            let neighbour = Neighbour { peer, warm: connected.contains(&peer) };
            match drawn.get_mut(place) {
                Some(place) => *place = neighbour,
                None => drawn.push(neighbour),
            }
        }
    }

    /// Exchanges one neighbour, and every one that is down.
    pub(super) fn rotate(&mut self, now: Mono) {
        self.timers.set(now + self.params.rotate_interval, Timer::Rotate);
        if self.all_are_neighbours() {
            self.neighbours = Neighbours::default();
            return;
        }
        if !self.neighbours.drawn.is_empty() {
            let out = self.rng.below(self.neighbours.drawn.len());
            self.neighbours.drawn.swap_remove(out);
        }
        let members = &self.members;
        self.neighbours.drawn.retain(|n| members.get(n.peer).is_some_and(|m| !m.is_down()));
        self.fill_neighbours();
    }

    /// Draws neighbours until there are enough, and looks who among the connected is a ward.
    pub(super) fn fill_neighbours(&mut self) {
        let connected = &self.connected;
        let drawn = &mut self.neighbours.drawn;
        let wanted = self.params.neighbours.saturating_sub(drawn.len());
        if wanted > 0 {
            let fits = |member: Member<'_>| {
                member.is_alive()
                    && !member.record.advert.control_addrs.is_empty()
                    && drawn.iter().all(|neighbour| neighbour.peer != member.peer())
            };
            let more = self.members.draw(&mut self.rng, wanted, fits);
            let neighbour = |peer| Neighbour { peer, warm: connected.contains(&peer) };
            drawn.extend(more.into_iter().map(neighbour));
        }
        let is_ward = |peer: &&PeerId| {
            let record = self.members.get(**peer).map(|member| member.record);
            record.is_some_and(|record| record.advert.control_addrs.is_empty())
        };
        let wards = connected.iter().filter(is_ward).take(WARDS_MAX);
        self.neighbours.wards = wards.map(|peer| Neighbour { peer: *peer, warm: true }).collect();
    }
}
