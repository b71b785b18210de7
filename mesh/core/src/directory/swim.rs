//! Whether peers answer: probes, accusations, suspicion, self-preservation.
//! Leaves and tombstones are in [`super::farewell`].
//!
//! A peer's incarnation is the version of its advert: it refutes an accusation by signing a newer
//! advert ([`super::own`]), which is news that spreads like any other.

use std::time::Duration;

use super::claim::{Accusation, Proven};
use super::members::Health;
use super::message::{Held, News, Standing, Talk};
use super::pace::Timer;
use super::{COURTESY_INTERVAL, Directory, Event, Output, Params, STALL_MAX, has_way};
use crate::advert::Version;
use crate::id::PeerId;
use crate::limits::*;
use crate::time::{Mono, Now};

/// Of the whole directory, over this share no more peers are declared down …
const DOWN_SHARE_PERCENT: usize = 20;
/// … but two always may be. In a mesh of five, the smallest that promises to survive losses, one
/// dead peer is 20 % already and two are 40 %. Two wrong verdicts at a peer that is itself cut off
/// cost little: it can reach nobody anyway, and both are refuted when it can.
const DOWN_FLOOR: usize = 2;
/// An accusation that nobody joined for so long is forgotten.
const ACCUSATION_RETENTION: Duration = Duration::from_secs(30);
/// About so many of a mesh's peers check an accusation by an own probe: enough to convict the
/// dead, too few to flood a peer that one liar accuses.
const CHECKERS: f64 = 8.0;

/// A ping that is awaited.
#[derive(Debug)]
pub(super) struct Probe {
    target: PeerId,
    sent: Mono,
    /// Peers that ping in our stead.
    helpers: Vec<PeerId>,
    /// For whom we ping, and the nonce that it awaits.
    asked_by: Option<(PeerId, u64)>,
}

impl Directory {
    /// Probes the next peer: by turns its successor in the ring of ids, so that everybody is probed
    /// by somebody within two intervals, and one in a random order that visits all before it visits
    /// one again, so that nobody can choose by whom.
    pub(super) fn probe_next(&mut self, now: Mono, out: &mut Vec<Output>) {
        self.timers.set(now + self.params.probe_interval, Timer::Probe);
        self.probe_ring = !self.probe_ring;
        if self.probe_ring
            && let Some(peer) = self.members.successor(self.me)
        {
            return self.probe(now, peer, out);
        }
        if self.probe_order.is_empty() {
            self.probe_order = self.members.roster().to_vec();
            for last in (1..self.probe_order.len()).rev() {
                self.probe_order.swap(last, self.rng.below(last + 1));
            }
        }
        while let Some(peer) = self.probe_order.pop() {
            if self.members.get(peer).is_some_and(|member| !member.is_down()) {
                return self.probe(now, peer, out);
            }
        }
    }

    /// Pings a peer, unless that is under way.
    fn probe(&mut self, now: Mono, target: PeerId, out: &mut Vec<Output>) {
        let under_way = |probe: &Probe| probe.target == target && probe.asked_by.is_none();
        if !self.probes.values().any(under_way) {
            self.ping(now, target, None, out);
        }
    }

    fn ping(
        &mut self,
        now: Mono,
        target: PeerId,
        asked_by: Option<(PeerId, u64)>,
        out: &mut Vec<Output>,
    ) {
        let others = self.probes.values().filter(|probe| probe.asked_by.is_some()).count();
        // Help for others never crowds out own probes.
        if self.probes.len() >= PROBES_MAX || (asked_by.is_some() && others >= PROBES_MAX / 2) {
            return;
        }
        let nonce = self.nonce();
        self.probes.insert(nonce, Probe { target, sent: now, helpers: Vec::new(), asked_by });
        let first = now + self.params.ping_timeout;
        if asked_by.is_none() {
            self.timers.set(first, Timer::PingTimeout(nonce));
        }
        self.timers.set(first + self.params.indirect_timeout, Timer::ProbeEnd(nonce));
        if self.reaches(target) {
            self.send(now, target, Talk::Ping { nonce }, out);
        } else if asked_by.is_none() {
            self.ask_helpers(now, nonce, out);
        }
    }

    fn reaches(&self, peer: PeerId) -> bool {
        self.members.get(peer).is_some_and(|member| has_way(&self.connected, peer, member))
    }

    pub(super) fn ping_for(
        &mut self,
        now: Mono,
        from: PeerId,
        peer: PeerId,
        nonce: u64,
        out: &mut Vec<Output>,
    ) {
        if peer == self.me {
            self.send(now, from, Talk::Pong { nonce }, out);
        } else if self.members.get(from).is_some() && self.members.get(peer).is_some() {
            self.ping(now, peer, Some((from, nonce)), out);
        }
    }

    /// Asks others to ping in our stead: those that hold a connection to the target, if its advert
    /// names any, and some by chance.
    pub(super) fn ask_helpers(&mut self, now: Mono, nonce: u64, out: &mut Vec<Output>) {
        let Some(probe) = self.probes.get(&nonce) else { return };
        let target = probe.target;
        if !probe.helpers.is_empty() {
            return;
        }
        let Some(member) = self.members.get(target) else { return };
        let mut helpers = member.record.advert.relays.clone();
        helpers.retain(|relay| *relay != self.me && *relay != target && self.reaches(*relay));
        helpers.truncate(self.params.helpers);
        // Nobody else can reach a peer that has no address of its own.
        if self.reaches(target) {
            let connected = &self.connected;
            let wanted = self.params.helpers - helpers.len();
            let named = helpers.clone();
            helpers.extend(self.members.draw(&mut self.rng, wanted, |peer, member| {
                peer != target
                    && member.health == Health::Alive
                    && connected.contains(&peer)
                    && !named.contains(&peer)
            }));
        }
        for helper in &helpers {
            self.send(now, *helper, Talk::PingFor { peer: target, nonce }, out);
        }
        self.probes.get_mut(&nonce).expect("it was there").helpers = helpers;
    }

    pub(super) fn take_pong(&mut self, now: Mono, from: PeerId, nonce: u64, out: &mut Vec<Output>) {
        let Some(probe) = self.probes.get(&nonce) else { return };
        let direct = probe.target == from;
        if !direct && !probe.helpers.contains(&from) {
            return;
        }
        let probe = self.probes.remove(&nonce).expect("it was there");
        if direct {
            out.push(Output::Rtt { peer: from, rtt: now.since(probe.sent) });
        }
        if let Some((asker, nonce)) = probe.asked_by {
            self.send(now, asker, Talk::Pong { nonce }, out);
        }
    }

    pub(super) fn end_probe(&mut self, now: Now, nonce: u64, out: &mut Vec<Output>) {
        let Some(probe) = self.probes.remove(&nonce) else { return };
        if probe.asked_by.is_some() {
            return;
        }
        let subject = probe.target;
        let Some(member) = self.members.get(subject) else { return };
        let accused = member.accusations.iter().any(|(_, a)| a.claim().accuser == self.me);
        if member.is_down() || (accused && member.health != Health::Alive) {
            return;
        }
        if member.heard.max(member.taken) >= probe.sent {
            // It has spoken since, or a newer advert came: it restarted, or the pong is late.
            return;
        }
        let accusation = self.accuse(now, subject, member.version());
        // The subject hears it first: it has the most to say.
        let news = News { accusations: vec![accusation.clone()], ..News::default() };
        self.send_news(now.mono, subject, news, out);
        self.hot.push_accusation(accusation.clone(), self.me);
        self.keep_accusation(now.mono, accusation);
        self.suspect(now.mono, subject, out);
    }

    pub(super) fn accuse(&self, now: Now, subject: PeerId, version: Version) -> Proven<Accusation> {
        let claim = Accusation { accuser: self.me, subject, version, issued: now.utc };
        Proven::sign(claim, &self.key)
    }

    /// Keeps an accusation if it is new and there is room for it; own ones always find room.
    fn keep_accusation(&mut self, now: Mono, accusation: Proven<Accusation>) -> bool {
        let accuser = accusation.claim().accuser;
        let me = self.me;
        let Some(member) = self.members.get_mut(accusation.claim().subject) else { return false };
        if member.health == Health::Alive {
            member.accusations.retain(|(heard, _)| now.since(*heard) < ACCUSATION_RETENTION);
        }
        let known = member.accusations.iter().any(|(_, a)| a.claim().accuser == accuser);
        let room = member.accusations.len() < ACCUSATIONS_MAX || accuser == me;
        if !known && room {
            member.accusations.push((now, accusation));
        }
        !known && room
    }

    pub(super) fn take_accusation(
        &mut self,
        now: Now,
        from: PeerId,
        accusation: Proven<Accusation>,
        out: &mut Vec<Output>,
    ) {
        let Accusation { accuser, subject, version, .. } = *accusation.claim();
        if accuser == self.me {
            return;
        }
        if subject == self.me {
            return self.refute(now, accuser, version, out);
        }
        let Some(member) = self.members.get(subject) else { return };
        // Strangers do not count: keys are cheap.
        if member.version() != version || self.members.get(accuser).is_none() {
            return;
        }
        if !self.keep_accusation(now.mono, accusation.clone()) {
            return;
        }
        self.hot.push_accusation(accusation, from);
        let member = self.members.get(subject).expect("it was there");
        let convinced = member.accusations.len() >= self.params.accusers;
        match member.health {
            Health::Down => {}
            Health::Suspect { .. } => self.suspect(now.mono, subject, out),
            Health::Alive if convinced => self.suspect(now.mono, subject, out),
            Health::Alive => {
                let share = CHECKERS / self.members.live().max(1) as f64;
                if self.rng.unit() < share {
                    self.probe(now.mono, subject, out);
                }
            }
        }
    }

    /// Starts a suspicion, or shortens one that others have joined.
    fn suspect(&mut self, now: Mono, peer: PeerId, out: &mut Vec<Output>) {
        let Some(member) = self.members.get(peer) else { return };
        let accusers = member.accusations.len();
        let since = if member.health == Health::Alive { now } else { member.since };
        let Params {
            suspect_timeout: longest,
            suspect_timeout_min: shortest,
            accusers: enough,
            ..
        } = self.params;
        let joined = accusers.clamp(1, enough) - 1;
        let span = longest.saturating_sub(shortest);
        let shortened = span * u32::try_from(joined).expect("few accusers")
            / u32::try_from(enough.max(2) - 1).expect("few accusers");
        let mut until = since + longest - shortened;
        match member.health {
            Health::Down => return,
            Health::Suspect { until: before } => until = until.min(before),
            Health::Alive => {
                self.view_stale = true;
                out.push(Output::Event(Event::PeerSuspect { peer, accusers }));
            }
        }
        self.members.set_health(peer, Health::Suspect { until }, now);
        self.timers.set(until, Timer::Suspicion(peer));
    }

    pub(super) fn end_suspicion(&mut self, now: Mono, peer: PeerId, out: &mut Vec<Output>) {
        let Some(member) = self.members.get(peer) else { return };
        match member.health {
            Health::Suspect { until } if until <= now => {}
            _ => return,
        }
        let (down, all) = (self.members.down(), self.members.len() + 1);
        if down >= DOWN_FLOOR && down * 100 > all * DOWN_SHARE_PERCENT {
            // Perhaps it is this peer that is cut off. It asks again.
            let until = now + self.params.suspect_timeout;
            self.members.set_health(peer, Health::Suspect { until }, now);
            self.timers.set(until, Timer::Suspicion(peer));
            out.push(Output::Event(Event::DownWithheld { peer }));
            return self.probe(now, peer, out);
        }
        self.members.set_health(peer, Health::Down, now);
        self.view_stale = true;
        out.push(Output::Event(Event::PeerDown { peer }));
    }

    /// Tells a peer that speaks while it is suspected, down or dropped what is held against it, so
    /// that it can refute. One that is not known at all is asked who it is.
    pub(super) fn rebuke(&mut self, now: Now, peer: PeerId, out: &mut Vec<Output>) {
        let mut news = News::default();
        if let Some(member) = self.members.get_mut(peer) {
            if member.health == Health::Alive
                || !member.rebukes.take(now.mono, COURTESY_INTERVAL, 1)
            {
                return;
            }
            let kept = member.accusations.first().map(|(_, accusation)| accusation.clone());
            let version = member.version();
            news.accusations.push(kept.unwrap_or_else(|| self.accuse(now, peer, version)));
        } else if let Some(grave) = self.members.grave(peer) {
            match &grave.leave {
                Some(leave) => news.leaves.push(leave.clone()),
                None => news.accusations.push(self.accuse(now, peer, grave.version)),
            }
        } else {
            let unknown = Held { peer, version: Version::default(), standing: Standing::Gone };
            return self.pull(now.mono, peer, vec![unknown], out);
        }
        self.send_news(now.mono, peer, news, out);
    }

    /// Something did not get through to a peer: it is probed at once, or, if that is under way,
    /// helpers are asked without further waiting.
    pub(super) fn doubt(&mut self, now: Mono, peer: PeerId, out: &mut Vec<Output>) {
        if self.members.get(peer).is_none_or(|member| member.health != Health::Alive) {
            return;
        }
        let own = |(_, probe): &(&u64, &Probe)| probe.target == peer && probe.asked_by.is_none();
        match self.probes.iter().find(own).map(|(nonce, _)| *nonce) {
            Some(nonce) => self.ask_helpers(now, nonce, out),
            None => self.probe(now, peer, out),
        }
    }

    /// When the host calls far too late, answers may have waited as long: what was awaited starts
    /// anew. A machine that slept must not wake up and accuse everybody.
    pub(super) fn forgive_stall(&mut self, now: Mono, out: &mut Vec<Output>) {
        let late = self.timers.next().map_or(Duration::ZERO, |due| now.since(due));
        if late <= STALL_MAX {
            return;
        }
        self.probes.clear();
        let suspects: Vec<PeerId> = self
            .members
            .iter()
            .filter(|(_, member)| matches!(member.health, Health::Suspect { .. }))
            .map(|(peer, _)| *peer)
            .collect();
        let until = now + self.params.suspect_timeout;
        for peer in suspects {
            self.members.set_health(peer, Health::Suspect { until }, now);
            self.timers.set(until, Timer::Suspicion(peer));
        }
        out.push(Output::Event(Event::Stalled { late }));
    }
}
