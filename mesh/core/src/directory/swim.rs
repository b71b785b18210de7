//! Whether peers answer: probes, accusations, suspicion, self-preservation.
//! Leaves and tombstones are in [`super::farewell`].
//!
//! A peer's incarnation is the version of its advert: it refutes an accusation by signing a newer
//! advert ([`super::own`]), which is news that spreads like any other.

use std::sync::Arc;
use std::time::Duration;

use super::claim::{Accusation, Proven};
use super::held::{Held, Short};
use super::members::Evidence;
use super::message::{COLD, News, Rumour, Talk};
use super::pace::Timer;
use super::{
    ACCUSATION_RETENTION, COURTESY_INTERVAL, Directory, Event, Output, Params, STALL_MAX,
    SWEEP_INTERVAL, has_way,
};
use crate::advert::Version;
use crate::coordinate::Coordinate;
use crate::id::PeerId;
use crate::limits::*;
use crate::time::{Mono, Now};
use crate::view::Liveness;

/// Of the whole directory, over this share no more peers are declared down …
const DOWN_SHARE_PERCENT: usize = 20;
/// … but two always may be. In a mesh of five, the smallest that promises to survive losses, one
/// dead peer is 20 % already and two are 40 %. Two wrong verdicts at a peer that is itself cut off
/// cost little: it can reach nobody anyway, and both are refuted when it can.
const DOWN_FLOOR: usize = 2;
/// Suspicions end at multiples of this, so that those of many peers end together.
const SUSPICION_GRAIN: Duration = Duration::from_millis(125);
/// About so many of a mesh's peers check an accusation by an own probe: enough to convict the
/// dead, too few to flood a peer that one liar accuses.
const CHECKERS: f64 = 8.0;

/// A ping that is awaited.
#[derive(Debug)]
pub(super) struct Probe {
    target: PeerId,
    /// The target's, when the ping was sent.
    version: Version,
    sent: Mono,
    /// Whether the target has said anything since.
    heard: bool,
    /// Peers that ping in our stead.
    helpers: Vec<PeerId>,
    /// For whom we ping, and the nonce that it awaits.
    asked_by: Option<(PeerId, u64)>,
    /// Whether the ping was sent twice, since its connection was lost.
    repeated: bool,
}

impl Directory {
    /// Probes the next peer: by turns its successor in the ring of ids, so that everybody is probed
    /// by somebody within two intervals, and a neighbour, in a random order that visits all before
    /// it visits one again.
    pub(super) fn probe_next(&mut self, now: Mono, out: &mut Vec<Output>) {
        self.timers.set(now + self.params.probe_interval, Timer::Probe);
        self.stay_reachable(now, out);
        self.probe_ring = !self.probe_ring;
        if self.probe_ring
            && let Some(peer) = self.members.successor(self.me)
        {
            return self.probe(now, peer, out);
        }
        if self.probe_order.is_empty() {
            self.probe_order = self.neighbourhood();
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

    /// Whoever says anything lives.
    pub(super) fn hear(&mut self, from: PeerId) {
        for probe in self.probes.values_mut().filter(|probe| probe.target == from) {
            probe.heard = true;
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
        let Some(version) = self.members.get(target).map(|member| member.version()) else { return };
        let reaches = self.reaches(target);
        if asked_by.is_some() && !reaches {
            return;
        }
        let nonce = self.nonce();
        let (heard, helpers, repeated) = (false, Vec::new(), false);
        let probe = Probe { target, version, sent: now, heard, helpers, asked_by, repeated };
        self.probes.insert(nonce, probe);
        let first = now + self.params.ping_timeout;
        if asked_by.is_none() {
            self.timers.set(first, Timer::PingTimeout(nonce));
        }
        self.timers.set(first + self.params.indirect_timeout, Timer::ProbeEnd(nonce));
        if reaches {
            self.send(now, target, Talk::Ping { nonce }, out);
        } else {
            self.ask_helpers(now, nonce, out);
        }
    }

    fn reaches(&self, peer: PeerId) -> bool {
        self.members.get(peer).is_some_and(|member| has_way(&self.connected, member))
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
            self.pong(now, from, nonce, out);
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
            let wanted = self.params.helpers - helpers.len();
            let named = helpers.clone();
            let connected = self.connected.clone();
            let drawn = self.draw_neighbours(wanted, |peer| {
                peer != target && connected.contains(&peer) && !named.contains(&peer)
            });
            helpers.extend(drawn.into_iter().map(|neighbour| neighbour.peer));
        }
        for helper in &helpers {
            self.send(now, *helper, Talk::PingFor { peer: target, nonce }, out);
        }
        self.probes.get_mut(&nonce).expect("it was there").helpers = helpers;
    }

    pub(super) fn pong(&mut self, now: Mono, to: PeerId, nonce: u64, out: &mut Vec<Output>) {
        let at = self.position.coordinate();
        self.send(now, to, Talk::Pong { nonce, at }, out);
    }

    pub(super) fn take_pong(
        &mut self,
        now: Mono,
        from: PeerId,
        nonce: u64,
        at: &Coordinate,
        out: &mut Vec<Output>,
    ) {
        let Some(probe) = self.probes.get(&nonce) else { return };
        let direct = probe.target == from;
        if !direct && !probe.helpers.contains(&from) {
            return;
        }
        let probe = self.probes.remove(&nonce).expect("it was there");
        if direct {
            let rtt = now.since(probe.sent);
            self.position.observe(rtt, at);
            out.push(Output::Rtt { peer: from, rtt });
        }
        if let Some((asker, nonce)) = probe.asked_by {
            self.pong(now, asker, nonce, out);
        }
    }

    pub(super) fn end_probe(&mut self, now: Now, nonce: u64, out: &mut Vec<Output>) {
        let Some(probe) = self.probes.remove(&nonce) else { return };
        let subject = probe.target;
        // A helper that pinged in vain is a witness, unless there are enough already.
        if probe.asked_by.is_some() && self.members.accusers(subject) >= self.params.accusers {
            return;
        }
        let Some(member) = self.members.get(subject) else { return };
        let accused = self.accuses(subject);
        if member.is_down() || (accused && !member.is_alive()) {
            return;
        }
        if probe.heard || member.version() > probe.version {
            // It has spoken since, or a newer advert came: it restarted, or the pong is late.
            return;
        }
        if member.is_alive() && self.is_cut_off() {
            // It may be this peer that is: it asks again, and accuses nobody meanwhile.
            out.push(Output::Event(Event::DownWithheld { peer: subject }));
            return;
        }
        let accusation = self.accuse(now, subject, member.version());
        let rumour = |hops| Rumour { hops, said: Arc::clone(&accusation) };
        // The subject hears it first: it has the most to say.
        let news = News { accusations: vec![rumour(COLD)], ..News::default() };
        self.send_news(now.mono, subject, news, out);
        self.hot.push_accusation(rumour(0), self.me);
        self.members.keep_accusation(now.mono, accusation, true);
        self.suspect(now.mono, subject, out);
    }

    /// Whether so many are down that it may be this peer that cannot reach the others.
    fn is_cut_off(&self) -> bool {
        let (down, all) = (self.members.down(), self.members.len() + 1);
        down >= DOWN_FLOOR && down * 100 > all * DOWN_SHARE_PERCENT
    }

    /// Whether this peer itself accuses another.
    fn accuses(&self, peer: PeerId) -> bool {
        let trouble = self.members.trouble(peer);
        trouble.is_some_and(|t| t.accusations().any(|a| a.claim().accuser == self.me))
    }

    pub(super) fn accuse(&self, now: Now, subject: PeerId, version: Version) -> Evidence {
        let claim = Accusation { accuser: self.me, subject, version, issued: now.utc };
        Arc::new(Proven::sign(claim, &self.key))
    }

    pub(super) fn take_accusation(
        &mut self,
        now: Now,
        from: PeerId,
        Rumour { hops, said: accusation }: Rumour<Proven<Accusation>>,
        out: &mut Vec<Output>,
    ) {
        let Accusation { accuser, subject, version, .. } = *accusation.claim();
        if accuser == self.me {
            return;
        }
        if subject == self.me {
            self.note_answer(Short::of(subject), version);
            return self.refute(now, accuser, version, out);
        }
        let Some(member) = self.members.get(subject) else { return };
        // Strangers do not count: keys are cheap.
        if member.version() != version || self.members.get(accuser).is_none() {
            return;
        }
        let health = member.health;
        self.note_answer(Short::of(subject), version);
        let heard = self.members.trouble(subject).map(|trouble| trouble.heard);
        if health == Liveness::Alive
            && heard.is_some_and(|heard| now.mono.since(heard) >= ACCUSATION_RETENTION)
        {
            self.members.acquit(subject);
        }
        if !self.members.keep_accusation(now.mono, Arc::clone(&accusation), false) {
            return;
        }
        if hops >= self.params.eager_hops_max {
            self.tell_accused(now.mono, &accusation, out);
        }
        if hops != COLD {
            self.hot.push_accusation(Rumour { hops, said: accusation }, from);
        }
        let convinced = self.members.accusers(subject) >= self.params.accusers;
        match health {
            Liveness::Down => {}
            Liveness::Suspect => self.suspect(now.mono, subject, out),
            Liveness::Alive if convinced => self.suspect(now.mono, subject, out),
            Liveness::Alive => {
                let share = CHECKERS / self.members.live().max(1) as f64;
                if self.rng.unit() < share {
                    self.probe(now.mono, subject, out);
                }
            }
        }
    }

    /// An accuser that cannot reach the accused never hears it refute. Who can passes on what came
    /// by anti-entropy, and others pass it to the accused's relays.
    fn tell_accused(&mut self, now: Mono, accusation: &Evidence, out: &mut Vec<Output>) {
        let subject = accusation.claim().subject;
        let Some(member) = self.members.get(subject) else { return };
        let advert = &member.record.advert;
        if !advert.control_addrs.is_empty() || member.is_down() {
            return;
        }
        let ways =
            if self.connected.contains(&subject) { vec![subject] } else { advert.relays.clone() };
        let me = self.me;
        for way in ways.into_iter().take(RELAYS).filter(|way| *way != me) {
            let said = Arc::clone(accusation);
            let news = News { accusations: vec![Rumour { hops: COLD, said }], ..News::default() };
            self.send_news(now, way, news, out);
        }
    }

    /// Starts a suspicion, or shortens one that others have joined (Lifeguard, Dadgar, Phillips,
    /// Currey 2018).
    fn suspect(&mut self, now: Mono, peer: PeerId, out: &mut Vec<Output>) {
        let Some(member) = self.members.get(peer) else { return };
        let health = member.health;
        let trouble = self.members.trouble(peer);
        let accusers = self.members.accusers(peer);
        let since = match health {
            Liveness::Suspect => trouble.map_or(now, |trouble| trouble.since),
            Liveness::Alive | Liveness::Down => now,
        };
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
        match health {
            Liveness::Down => return,
            Liveness::Suspect => {
                let before = self.suspects.get(&Short::of(peer));
                until = before.map_or(until, |before| until.min(*before));
            }
            Liveness::Alive => {
                self.view_stale = true;
                out.push(Output::Event(Event::PeerSuspect { peer, accusers }));
            }
        }
        self.members.set_health(peer, Liveness::Suspect, now);
        self.await_refutation(peer, until);
    }

    fn await_refutation(&mut self, peer: PeerId, until: Mono) {
        let grain = u64::try_from(SUSPICION_GRAIN.as_nanos()).expect("a moment");
        let until = Mono(until.0.div_ceil(grain) * grain);
        self.suspects.insert(Short::of(peer), until);
        self.timers.set(until, Timer::Suspicions);
    }

    pub(super) fn end_suspicions(&mut self, now: Mono, out: &mut Vec<Output>) {
        let due = self.suspects.iter().filter(|(_, until)| **until <= now);
        for peer in due.map(|(peer, _)| *peer).collect::<Vec<_>>() {
            self.suspects.remove(&peer);
            let Some(member) = self.members.get_short(peer) else { continue };
            if member.health != Liveness::Suspect {
                continue;
            }
            let peer = member.peer();
            if self.is_cut_off() {
                self.await_refutation(peer, now + self.params.suspect_timeout);
                out.push(Output::Event(Event::DownWithheld { peer }));
                continue;
            }
            self.members.set_health(peer, Liveness::Down, now);
            self.view_stale = true;
            out.push(Output::Event(Event::PeerDown { peer }));
        }
    }

    /// Tells a peer that speaks while it is suspected, down or dropped what is held against it, so
    /// that it can refute. One that is not known at all is asked who it is.
    pub(super) fn rebuke(&mut self, now: Now, peer: PeerId, out: &mut Vec<Output>) {
        if self.members.is_well(peer) && self.is_acquaintance(peer) {
            return;
        }
        let mut news = News::default();
        if let Some(member) = self.members.get(peer) {
            if member.is_alive() {
                return;
            }
            let version = member.version();
            let contact = self.members.contact(peer).expect("it is a member");
            if !contact.rebukes.take(now.mono, COURTESY_INTERVAL, 1) {
                return;
            }
            let kept = self.members.trouble(peer).and_then(|t| t.accusations().next().cloned());
            let said = kept.unwrap_or_else(|| self.accuse(now, peer, version));
            news.accusations.push(Rumour { hops: COLD, said });
        } else if let Some(grave) = self.members.grave(peer) {
            match grave.leave.clone() {
                Some(said) => news.leaves.push(Rumour { hops: COLD, said }),
                None => {
                    let said = self.accuse(now, peer, grave.version);
                    news.accusations.push(Rumour { hops: COLD, said });
                }
            }
        } else {
            let unknown = Held::unknown(Short::of(peer));
            return self.pull(now.mono, peer, vec![(unknown, unknown.stamp())], out);
        }
        self.send_news(now.mono, peer, news, out);
    }

    /// Something did not get through to a peer: it is probed at once, or, if that is under way,
    /// helpers are asked without further waiting.
    pub(super) fn doubt(&mut self, now: Mono, peer: PeerId, out: &mut Vec<Output>) {
        // Where it may be this peer that is cut off, it asks at its usual pace: dials fail all the time.
        if self.members.get(peer).is_none_or(|member| !member.is_alive()) || self.is_cut_off() {
            return;
        }
        let under_way = self.probes.iter().filter(|(_, probe)| probe.target == peer);
        // One of ours, if there is any, before those for others.
        let probe = under_way.min_by_key(|(_, probe)| probe.asked_by.is_some());
        match probe.map(|(nonce, probe)| (*nonce, probe.asked_by.is_some())) {
            Some((nonce, false)) => self.ask_helpers(now, nonce, out),
            // Whoever asked has asked others too. Were they all to ask again, a partition would
            // have everybody ask everybody about all on the other side.
            Some((nonce, true)) => self.ping_again(now, nonce, out),
            None => self.probe(now, peer, out),
        }
    }

    /// A ping may have been lost with its connection: it is sent once more.
    fn ping_again(&mut self, now: Mono, nonce: u64, out: &mut Vec<Output>) {
        let Some(probe) = self.probes.get_mut(&nonce) else { return };
        let target = probe.target;
        if !std::mem::replace(&mut probe.repeated, true) && self.reaches(target) {
            self.send(now, target, Talk::Ping { nonce }, out);
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
        if late > SWEEP_INTERVAL {
            self.members.rejuvenate(now);
        }
        let until = now + self.params.suspect_timeout;
        self.suspects.values_mut().for_each(|before| *before = until);
        self.timers.set(until, Timer::Suspicions);
        out.push(Output::Event(Event::Stalled { late }));
    }
}
