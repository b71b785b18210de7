//! The host of many peers: what the node's actors are to one peer in real time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hansa_core::advert::{Advert, Device, Model, Record, Version};
use hansa_core::charter::Trust;
use hansa_core::directory::{Directory, Event, FrameFault, Input, Message, Output, Params};
use hansa_core::id::{Digest, PeerId};
use hansa_core::keys::SigningKey;
use hansa_core::rng::mix;
use hansa_core::time::{Mono, Now, Utc};
use hansa_core::view::{Liveness, View};

use crate::engine::{EventHash, Queue};
use crate::links::{DIAL_TIMEOUT, IDLE_TIMEOUT, Links, Quality};
use crate::recording::{Replay, ReplayEvent};

/// The wall clock at the beginning of every world.
pub const GENESIS: Utc = Utc(1_800_000_000_000);

/// What a peer told its log, and when.
#[derive(Debug)]
pub struct Observation {
    /// Virtual time.
    pub at: Mono,
    /// Which peer.
    pub peer: usize,
    /// What.
    pub event: Event,
}

/// What was carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages.
    pub messages: u64,
    /// Their bytes, exactly as on the wire.
    pub bytes: u64,
}

/// Peers, the links between them, and their common time.
pub struct World {
    now: Mono,
    queue: Queue<Happening>,
    links: Links,
    hosts: Vec<Host>,
    by_id: BTreeMap<PeerId, usize>,
    connections: BTreeMap<(usize, usize), Connection>,
    opened: u64,
    hash: EventHash,
    traffic: Traffic,
    observations: Vec<Observation>,
    faults: Vec<FrameFault>,
    seed: u64,
    params: Params,
    /// When it is there, what happens is kept in it for the reports' replay.
    pub replay: Option<Replay>,
}

/// One machine, up or down.
struct Host {
    key: Arc<SigningKey>,
    trust: Arc<Trust>,
    directory: Option<Directory>,
    booted: Mono,
    boots: u64,
    wake: Option<Mono>,
    /// Behind NAT it can dial, and nobody can dial it; it names this peer as its relay.
    relay: Option<PeerId>,
    /// Its wall clock against the world's.
    skew_ms: i64,
    /// When it was switched on and off.
    lives: Vec<(Mono, Option<Mono>)>,
}

#[derive(Debug)]
enum Happening {
    Wake { host: usize, boot: u64 },
    Opened { pair: (usize, usize), number: u64 },
    Lost { pair: (usize, usize), number: u64 },
    Reset { host: usize, peer: PeerId },
    Delivered { from: usize, to: usize, number: u64, frame: Arc<[u8]> },
}

/// A connection between two hosts.
struct Connection {
    number: u64,
    open: bool,
    /// Who dialled whom.
    dialled: (usize, usize),
    /// What waits for the connection to open.
    waiting: Vec<(usize, usize, Arc<[u8]>)>,
    /// When the last message to the lower and to the higher arrives: a stream keeps order.
    arrivals: [Mono; 2],
}

impl World {
    /// A world of `hosts` machines, all of them off.
    pub fn new(seed: u64, hosts: usize, quality: Quality, params: Params) -> Self {
        let host = |index: usize| {
            let Digest(key) = Digest::of(&[seed, index as u64].map(u64::to_le_bytes).concat());
            Host {
                key: Arc::new(SigningKey::from_seed(&key)),
                trust: Arc::new(Trust::default()),
                directory: None,
                booted: Mono(0),
                boots: 0,
                wake: None,
                relay: None,
                skew_ms: 0,
                lives: Vec::new(),
            }
        };
        let hosts: Vec<Host> = (0..hosts).map(host).collect();
        let by_id = hosts.iter().enumerate().map(|(index, host)| (host.key.peer_id(), index));
        Self {
            now: Mono(0),
            queue: Queue::default(),
            links: Links::new(seed, quality),
            by_id: by_id.collect(),
            hosts,
            connections: BTreeMap::new(),
            opened: 0,
            hash: EventHash::default(),
            traffic: Traffic::default(),
            observations: Vec::new(),
            faults: Vec::new(),
            seed,
            params,
            replay: None,
        }
    }

    /// Replaces the links, before anybody is up.
    pub fn set_links(&mut self, links: Links) {
        self.links = links;
    }

    /// The links, to make them better or worse.
    pub fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }

    fn note(&mut self, event: ReplayEvent) {
        if let Some(replay) = &mut self.replay {
            replay.push(event);
        }
    }

    fn millis(at: Mono) -> f64 {
        at.since(Mono(0)).as_secs_f64() * 1_000.0
    }

    /// Virtual time since the beginning.
    pub fn now(&self) -> Mono {
        self.now
    }

    /// The hash over all that happened so far.
    pub fn hash(&self) -> EventHash {
        self.hash
    }

    /// What was carried so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// What the peers' logs say, in order.
    pub fn observations(&self) -> &[Observation] {
        &self.observations
    }

    /// Frames that a peer could not read.
    pub fn faults(&self) -> &[FrameFault] {
        &self.faults
    }

    /// The links.
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// The peer of a host.
    pub fn id(&self, host: usize) -> PeerId {
        self.hosts[host].key.peer_id()
    }

    /// The host of a peer.
    pub fn host_of(&self, peer: PeerId) -> usize {
        self.by_id[&peer]
    }

    /// The key of a host, for those who want to lie in its name.
    pub fn key(&self, host: usize) -> &SigningKey {
        &self.hosts[host].key
    }

    /// Whether a host is on.
    pub fn is_up(&self, host: usize) -> bool {
        self.hosts[host].directory.is_some()
    }

    /// Whether a host was on from `since` to `until` without a break.
    pub fn was_up(&self, host: usize, since: Mono, until: Mono) -> bool {
        let mut lives = self.hosts[host].lives.iter();
        lives.any(|(on, off)| *on <= since && off.is_none_or(|off| off > until))
    }

    /// When a host went off, if it was off at `at`.
    pub fn died(&self, host: usize, at: Mono) -> Option<Mono> {
        let last = self.hosts[host].lives.iter().rfind(|(on, _)| *on <= at)?;
        last.1.filter(|off| *off <= at)
    }

    /// The hosts that are on.
    pub fn up(&self) -> Vec<usize> {
        (0..self.hosts.len()).filter(|host| self.is_up(*host)).collect()
    }

    /// What a host that is on knows.
    pub fn view(&self, host: usize) -> Arc<View> {
        self.directory(host).view()
    }

    /// The record that a host that is on shows of itself.
    pub fn own(&self, host: usize) -> Arc<Record> {
        Arc::clone(self.directory(host).own())
    }

    /// Sets a host's wall clock against the world's; its monotonic clock never jumps.
    pub fn set_clock(&mut self, host: usize, skew_ms: i64) {
        self.hosts[host].skew_ms = skew_ms;
    }

    /// Puts a host, before it starts, behind NAT: it has no address and names a relay.
    pub fn hide(&mut self, host: usize, relay: usize) {
        self.hosts[host].relay = Some(self.id(relay));
    }

    /// Switches a host on. It knows nobody but one address.
    pub fn start(&mut self, host: usize, bootstrap: Option<usize>) {
        assert!(!self.is_up(host), "host {host} is on");
        // Whoever still holds a connection to the last boot learns now that it is gone.
        let stale: Vec<_> =
            self.connections.keys().filter(|(a, b)| *a == host || *b == host).copied().collect();
        for pair in stale {
            self.close(pair);
        }
        self.hosts[host].boots += 1;
        self.hosts[host].booted = self.now;
        self.note(ReplayEvent::Up { at: Self::millis(self.now), peer: host });
        self.hosts[host].lives.push((self.now, None));
        let boots = self.hosts[host].boots;
        let now = self.clock(host);
        let Host { key, trust, relay, .. } = &self.hosts[host];
        let seed = mix(self.seed ^ mix((host as u64) << 16 | boots));
        let directory = Directory::new(
            Arc::clone(key),
            advert(host, key.peer_id(), *relay),
            Arc::clone(trust),
            seed,
            now,
            self.params.clone(),
        );
        let directory = directory.expect("a small advert");
        let event = Event::Published { version: directory.own().advert.version };
        self.observations.push(Observation { at: self.now, peer: host, event });
        self.hosts[host].directory = Some(directory);
        self.feed(host, Input::Tick);
        if let Some(bootstrap) = bootstrap {
            self.dial(host, bootstrap);
        }
    }

    /// Pulls the plug of a host.
    pub fn kill(&mut self, host: usize) {
        assert!(self.is_up(host), "host {host} is off");
        self.hosts[host].directory = None;
        self.note(ReplayEvent::Down { at: Self::millis(self.now), peer: host });
        self.hosts[host].lives.last_mut().expect("it is on").1 = Some(self.now);
        let at = self.now + IDLE_TIMEOUT;
        for (pair, connection) in &self.connections {
            if pair.0 == host || pair.1 == host {
                let number = connection.number;
                self.queue.push(at, Happening::Lost { pair: *pair, number });
            }
        }
    }

    /// Lets a host leave in good order.
    pub fn leave(&mut self, host: usize) {
        self.feed(host, Input::Leave);
        self.kill(host);
    }

    /// Lets a host publish something new: another name.
    pub fn publish(&mut self, host: usize, name: &str) {
        let advert = Advert { name: name.into(), ..self.own(host).advert.clone() };
        self.feed(host, Input::Publish(Box::new(advert)));
    }

    /// Cuts hosts off from all others for a while.
    pub fn cut(&mut self, side: BTreeSet<usize>, lasting: Duration) {
        self.links.cut(side, self.now, self.now + lasting);
    }

    /// Brings a message to a host as if `from` had sent it, at once and encoded.
    pub fn inject(&mut self, from: PeerId, to: usize, message: &Message) {
        self.receive(from, to, &message.encode());
    }

    /// Lets time pass.
    pub fn run_for(&mut self, lasting: Duration) {
        self.run_until(self.now + lasting);
    }

    /// Lets time pass until then.
    pub fn run_until(&mut self, until: Mono) {
        while let Some((at, happening)) = self.queue.pop_by(until) {
            self.now = at;
            self.happen(happening);
        }
        self.now = until;
    }

    /// Lets time pass until `done`, or until the time is over; returns how long it took.
    pub fn run_until_done(
        &mut self,
        limit: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Option<Duration> {
        let start = self.now;
        while !done(self) {
            if self.now.since(start) >= limit {
                return None;
            }
            self.run_for(Duration::from_millis(10));
        }
        Some(self.now.since(start))
    }

    /// Whether every host that is on knows exactly the hosts that are on, by their latest adverts,
    /// and suspects none.
    pub fn converged(&self) -> bool {
        let up = self.up();
        let mut truth: Vec<(PeerId, Version)> =
            up.iter().map(|host| (self.id(*host), self.own(*host).advert.version)).collect();
        truth.sort_unstable();
        up.iter().all(|host| {
            let view = self.view(*host);
            let known = view.entries().iter().filter(|entry| entry.liveness != Liveness::Down);
            known.clone().all(|entry| entry.liveness == Liveness::Alive)
                && known
                    .map(|entry| (entry.record.advert.peer, entry.record.advert.version))
                    .eq(truth.iter().copied())
        })
    }

    /// Pairs of a host and a peer that is off and yet not believed down.
    pub fn ghosts(&self) -> Vec<(usize, PeerId)> {
        let mut ghosts = Vec::new();
        for host in self.up() {
            for entry in self.view(host).entries() {
                let peer = entry.record.advert.peer;
                let off = self.by_id.get(&peer).is_none_or(|other| !self.is_up(*other));
                if off && entry.liveness != Liveness::Down {
                    ghosts.push((host, peer));
                }
            }
        }
        ghosts
    }

    fn directory(&self, host: usize) -> &Directory {
        self.hosts[host].directory.as_ref().expect("the host is on")
    }

    fn clock(&self, host: usize) -> Now {
        let Host { booted, skew_ms, .. } = self.hosts[host];
        let utc = GENESIS + self.now.since(Mono(0));
        Now {
            mono: Mono(self.now.since(booted).as_nanos().try_into().expect("a short run")),
            utc: Utc(utc.0.saturating_add_signed(skew_ms)),
        }
    }

    fn happen(&mut self, happening: Happening) {
        self.hash.absorb(self.now.0);
        match happening {
            Happening::Wake { host, boot } => {
                let Host { boots, booted, wake, .. } = self.hosts[host];
                let due = wake.is_some_and(|wake| booted + wake.since(Mono(0)) == self.now);
                if boots == boot && due {
                    self.hash.absorb(host as u64);
                    self.hosts[host].wake = None;
                    self.feed(host, Input::Tick);
                }
            }
            Happening::Opened { pair, number } => self.opened(pair, number),
            Happening::Lost { pair, number } => {
                let blocked = self.links.cut_until(pair.0, pair.1, self.now).is_some();
                let dead = !self.is_up(pair.0) || !self.is_up(pair.1);
                let same = self.connections.get(&pair).is_some_and(|c| c.number == number);
                if same && (blocked || dead) {
                    self.close(pair);
                }
            }
            Happening::Reset { host, peer } => {
                let pair = ordered(host, self.by_id[&peer]);
                if !self.connections.get(&pair).is_some_and(|connection| connection.open) {
                    self.feed(host, Input::Disconnected { peer });
                }
            }
            Happening::Delivered { from, to, number, frame } => {
                let connection = self.connections.get(&ordered(from, to));
                if connection.is_some_and(|c| c.number == number) && self.is_up(to) {
                    self.receive(self.id(from), to, &frame);
                }
            }
        }
    }

    fn receive(&mut self, from: PeerId, to: usize, frame: &[u8]) {
        self.hash.absorb(to as u64);
        self.hash.absorb_bytes(frame);
        let now = self.clock(to);
        let view = self.view(to);
        let trust = &self.hosts[to].trust;
        match Message::open(frame, trust, now, |peer, version| view.holds(peer, version)) {
            Ok(message) => self.feed(to, Input::Message { from, message }),
            Err(fault) => self.faults.push(fault),
        }
    }

    /// The other half of the sans-io border: does what a directory says.
    fn feed(&mut self, host: usize, input: Input) {
        let now = self.clock(host);
        let Some(directory) = self.hosts[host].directory.as_mut() else { return };
        let mut outputs = Vec::new();
        directory.handle(now, input, &mut outputs);
        for output in outputs {
            match output {
                Output::Send { to, message } => {
                    if let Some(to) = self.by_id.get(&to) {
                        self.send(host, *to, message.encode().into());
                    }
                }
                Output::Dial { peer, .. } => {
                    if let Some(peer) = self.by_id.get(&peer) {
                        self.dial(host, *peer);
                    }
                }
                Output::WakeAt(at) => {
                    let Host { booted, boots, .. } = self.hosts[host];
                    self.hosts[host].wake = Some(at);
                    let at = (booted + at.since(Mono(0))).max(self.now);
                    self.queue.push(at, Happening::Wake { host, boot: boots });
                }
                Output::Event(event) => {
                    self.observations.push(Observation { at: self.now, peer: host, event });
                }
                Output::Rtt { .. } | Output::ViewChanged => {}
            }
        }
    }

    fn dial(&mut self, from: usize, to: usize) {
        let pair = ordered(from, to);
        if self.connections.contains_key(&pair) {
            return;
        }
        self.opened += 1;
        let number = self.opened;
        let connection = Connection {
            number,
            open: false,
            dialled: (from, to),
            waiting: Vec::new(),
            arrivals: [self.now; 2],
        };
        self.connections.insert(pair, connection);
        let dialable = self.is_up(to) && self.hosts[to].relay.is_none();
        let reachable = dialable && self.links.cut_until(from, to, self.now).is_none();
        let after = if reachable {
            self.links.draw_delay(from, to) + self.links.draw_delay(to, from)
        } else {
            DIAL_TIMEOUT
        };
        self.queue.push(self.now + after, Happening::Opened { pair, number });
    }

    fn opened(&mut self, pair: (usize, usize), number: u64) {
        let Some(connection) = self.connections.get_mut(&pair) else { return };
        if connection.number != number {
            return;
        }
        let waiting = std::mem::take(&mut connection.waiting);
        let dialable = self.hosts[connection.dialled.1].relay.is_none();
        let (a, b) = pair;
        let reachable = self.links.cut_until(a, b, self.now).is_none();
        if !self.is_up(a) || !self.is_up(b) || !reachable || !dialable {
            self.connections.remove(&pair);
            let failed: BTreeSet<_> = waiting.iter().map(|(from, to, _)| (*from, *to)).collect();
            for (from, to) in failed {
                let peer = self.id(to);
                self.feed(from, Input::Unreachable { peer });
            }
            return;
        }
        self.connections.get_mut(&pair).expect("it was there").open = true;
        for (from, to, frame) in waiting {
            self.send(from, to, frame);
        }
        for (host, peer) in [(a, self.id(b)), (b, self.id(a))] {
            self.feed(host, Input::Connected { peer });
        }
    }

    fn send(&mut self, from: usize, to: usize, frame: Arc<[u8]>) {
        let pair = ordered(from, to);
        self.dial(from, to);
        let delay = self.links.draw_delay(from, to);
        let connection = self.connections.get_mut(&pair).expect("just dialled");
        if !connection.open {
            return connection.waiting.push((from, to, frame));
        }
        self.traffic.messages += 1;
        self.traffic.bytes += frame.len() as u64;
        let number = connection.number;
        let mut at = self.now + delay;
        if let Some(healed) = self.links.cut_until(from, to, self.now) {
            if healed.since(self.now) >= IDLE_TIMEOUT {
                return self.queue.push(self.now + IDLE_TIMEOUT, Happening::Lost { pair, number });
            }
            at = healed + self.links.retransmission_after(from, to) + delay;
        }
        // A stream keeps order: what comes after a delayed message waits for it.
        let arrival = &mut connection.arrivals[usize::from(to == pair.1)];
        at = at.max(*arrival);
        *arrival = at;
        if self.replay.is_some() {
            let (sent, until) = (Self::millis(self.now), Self::millis(at));
            let (what, bytes) = ("gossip".into(), frame.len() as u64);
            self.note(ReplayEvent::Message { at: sent, until, from, to, what, bytes });
        }
        self.queue.push(at, Happening::Delivered { from, to, number, frame });
    }

    /// Both ends of a connection learn that it is gone.
    fn close(&mut self, pair: (usize, usize)) {
        if self.connections.remove(&pair).is_some_and(|connection| connection.open) {
            let (a, b) = pair;
            for (host, peer) in [(a, self.id(b)), (b, self.id(a))] {
                let at = self.now + self.links.latency(a, b);
                self.queue.push(at, Happening::Reset { host, peer });
            }
        }
    }
}

fn ordered(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

/// What a common node says of itself: about 600 bytes.
fn advert(host: usize, peer: PeerId, relay: Option<PeerId>) -> Advert {
    let device = Device {
        provider: "cuda".into(),
        name: "NVIDIA H100 80GB HBM3".into(),
        id: 0,
        memory_total_mib: 81_559,
        memory_free_mib: 70_000,
        utilisation_percent: Some(20),
    };
    let model = |index: u8| Model {
        name: format!("model-{index}"),
        version: "1".into(),
        bundle: Digest([index; 32]),
        slots: 4,
        service_us: 1_500,
    };
    let byte = |shift: usize| u8::try_from(host >> shift & 0xff).expect("masked");
    let ip = [10, byte(16), byte(8), byte(0)];
    let control = format!("/ip4/{}.{}.{}.{}/udp/7700/quic-v1", ip[0], ip[1], ip[2], ip[3]);
    let public = relay.is_none();
    Advert {
        peer,
        version: Version::default(),
        issued: Utc(0),
        name: format!("node-{host}"),
        control_addrs: public.then_some(control).into_iter().collect(),
        data_addrs: public.then(|| (ip, 7701).into()).into_iter().collect(),
        relays: relay.into_iter().collect(),
        charter: None,
        devices: vec![device],
        models: (0..6).map(model).collect(),
        price: None,
        extensions: Vec::new(),
    }
}
