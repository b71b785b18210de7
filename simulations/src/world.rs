//! The host of many peers: what the node's actors are to one peer in real time.

mod hosts;
mod truth;
mod wires;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hansa_core::advert::{Advert, Record};
use hansa_core::charter::Trust;
use hansa_core::directory::{Event, FrameFault, Input, Message, Output, Params, Shards};
use hansa_core::id::{Digest, PeerId};
use hansa_core::keys::SigningKey;
use hansa_core::time::{Mono, Now, Utc};
use hansa_core::view::View;

use crate::connections::{Connections, Pair, Slot, ordered};
use crate::engine::{EventHash, Queue};
use crate::ledger::{Ledger, Traffic};
use crate::links::{Links, Quality};
use crate::recording::{Replay, ReplayEvent};
use crate::table::Table;

/// The wall clock at the beginning of every world.
pub const GENESIS: Utc = Utc(1_800_000_000_000);
/// What checking one signature is charged with: about what Ed25519 with ring takes on a core of a
/// server of 2023. A constant, so that a run is the same on every machine.
pub const SIGNATURE_CHECK: Duration = Duration::from_micros(60);
/// A verdict of death is not false when the peer was out of reach a moment ago.
const CUT_GRACE: Duration = Duration::from_secs(30);

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

/// Nor when it was really dead a moment ago: the news of its return are on their way.
const RETURN_GRACE: Duration = Duration::from_secs(3);

/// A check that failed at an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The event's number.
    pub event: u64,
    /// When.
    pub at: Mono,
    /// What is wrong.
    pub what: String,
}

/// So many are kept; those after them are only counted.
const WRONGS_MAX: usize = 100;

/// Peers, the links between them, and their common time.
pub struct World {
    now: Mono,
    queue: Queue<Happening>,
    links: Links,
    hosts: Vec<Host>,
    sites: Vec<Site>,
    ids: Vec<PeerId>,
    /// By short id; looked up, never walked through.
    by_id: Table<u32>,
    connections: Connections<Box<Message>>,
    hash: EventHash,
    traffic: Traffic,
    ledger: Ledger,
    /// Everything that every peer told its log, unless that would be too much.
    observations: Option<Vec<Observation>>,
    faults: Vec<FrameFault>,
    events: u64,
    wrongs: Vec<Wrong>,
    outputs: Vec<Output>,
    /// Whether messages travel as bytes, or, what comes to the same and is faster, as they are.
    encoded: bool,
    following: bool,
    seed: u64,
    params: Params,
    /// What each host says of itself when it starts; where there is none, what common ones say.
    adverts: Vec<Advert>,
    /// Round trips that hosts measured and nobody has asked for.
    measured: Vec<(usize, PeerId, Duration)>,
    /// When it is there, what happens is kept in it for the reports' replay.
    pub replay: Option<Replay>,
}

/// One machine, up or down: what each event looks at.
#[derive(Default)]
struct Host {
    directory: Option<Shards>,
    booted: Mono,
    boots: u32,
    /// When its directory wants to be called.
    wake: Option<Mono>,
    /// The wakes of this boot that are in the queue, the earliest last.
    alarms: Vec<Mono>,
    /// Until then it has checked the signatures of all that came: it is that far ahead of the
    /// world, and what comes meanwhile happens to it then.
    busy: Mono,
    /// Its wall clock against the world's.
    skew_ms: i64,
}

/// The rest about a machine.
struct Site {
    key: Arc<SigningKey>,
    trust: Arc<Trust>,
    /// The shards that it subscribes to.
    shards: Vec<String>,
    /// Behind NAT it can dial, and nobody can dial it; it names this peer as its relay.
    relay: Option<PeerId>,
    /// When it last published.
    published: Mono,
    /// When it was switched on and off.
    lives: Vec<(Mono, Option<Mono>)>,
}

#[derive(Debug)]
enum Happening {
    Wake { host: u32, boot: u32 },
    Opened { pair: Pair, number: u32 },
    Lost { pair: Pair, number: u32 },
    Reset { host: u32, other: u32 },
    Delivered { from: u32, to: u32, slot: Slot, number: u32, message: Box<Message> },
}

impl World {
    /// A world of `hosts` machines, all of them off.
    pub fn new(seed: u64, hosts: usize, quality: Quality, params: Params) -> Self {
        let trust = Arc::new(Trust::default());
        let site = |index: usize| {
            let Digest(key) = Digest::of(&[seed, index as u64].map(u64::to_le_bytes).concat());
            Site {
                key: Arc::new(SigningKey::from_seed(&key)),
                trust: Arc::clone(&trust),
                shards: Vec::new(),
                relay: None,
                published: Mono(0),
                lives: Vec::new(),
            }
        };
        let sites: Vec<Site> = (0..hosts).map(site).collect();
        let hosts: Vec<Host> = sites.iter().map(|_| Host::default()).collect();
        let ids: Vec<PeerId> = sites.iter().map(|site| site.key.peer_id()).collect();
        let by_id = ids.iter().zip(0..).map(|(id, index)| (word(*id), index));
        Self {
            now: Mono(0),
            queue: Queue::default(),
            links: Links::new(seed, quality),
            by_id: by_id.collect(),
            connections: Connections::new(hosts.len()),
            hosts,
            sites,
            ids,
            hash: EventHash::default(),
            traffic: Traffic::default(),
            ledger: Ledger::default(),
            observations: Some(Vec::new()),
            faults: Vec::new(),
            events: 0,
            wrongs: Vec::new(),
            outputs: Vec::new(),
            encoded: false,
            following: true,
            seed,
            params,
            adverts: Vec::new(),
            measured: Vec::new(),
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

    /// Keeps an event for the replay, if there is one.
    pub fn note(&mut self, event: ReplayEvent) {
        if let Some(replay) = &mut self.replay {
            replay.push(event);
        }
    }

    fn millis(at: Mono) -> f64 {
        at.since(Mono(0)).as_secs_f64() * 1_000.0
    }

    /// From now on, messages are encoded, decoded and verified as between nodes. The run is the
    /// same; it takes longer.
    pub fn encode_messages(&mut self) {
        self.encoded = true;
    }

    /// From now on, only the [`Ledger`] is kept, not every observation.
    pub fn forget_observations(&mut self) {
        self.observations = None;
    }

    /// Whether adverts that are published from now on are followed in the ledger.
    pub fn follow(&mut self, following: bool) {
        self.following = following;
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

    /// What was counted so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What the peers' logs say, in order, unless it was to be forgotten.
    pub fn observations(&self) -> &[Observation] {
        self.observations.as_deref().unwrap_or_default()
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
        self.ids[host]
    }

    /// The host of a peer.
    pub fn host_of(&self, peer: PeerId) -> usize {
        *self.by_id.get(word(peer)).expect("a host") as usize
    }

    /// The key of a host, for those who want to lie in its name.
    pub fn key(&self, host: usize) -> &SigningKey {
        &self.sites[host].key
    }

    /// Whether a host is on.
    pub fn is_up(&self, host: usize) -> bool {
        self.hosts[host].directory.is_some()
    }

    /// Whether a host was on from `since` to `until` without a break.
    pub fn was_up(&self, host: usize, since: Mono, until: Mono) -> bool {
        let mut lives = self.sites[host].lives.iter();
        lives.any(|(on, off)| *on <= since && off.is_none_or(|off| off > until))
    }

    /// Whether a host was off at `at`, having been on before.
    fn was_off(&self, host: usize, at: Mono) -> bool {
        let before = self.sites[host].lives.iter().rfind(|(on, _)| *on <= at);
        before.is_some_and(|(_, off)| off.is_some_and(|off| off <= at))
    }

    /// When a host went off, if it was off at `at`.
    pub fn died(&self, host: usize, at: Mono) -> Option<Mono> {
        let last = self.sites[host].lives.iter().rfind(|(on, _)| *on <= at)?;
        last.1.filter(|off| *off <= at)
    }

    /// Pairs of a host that is off and one that has been on since the other went off: all of them
    /// should know.
    pub fn bereft(&self) -> u64 {
        let offs = self.sites.iter().filter_map(|site| site.lives.last()?.1);
        let since = |off: Mono| {
            let on =
                |site: &&Site| site.lives.last().is_some_and(|(on, o)| *on <= off && o.is_none());
            self.sites.iter().filter(on).count() as u64
        };
        offs.map(since).sum()
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
        Arc::clone(self.directory(host).each()[0].own())
    }

    /// Sets a host's wall clock against the world's; its monotonic clock never jumps.
    pub fn set_clock(&mut self, host: usize, skew_ms: i64) {
        self.hosts[host].skew_ms = skew_ms;
    }

    /// Whom all hosts trust that start from now on.
    pub fn set_trust(&mut self, trust: &Arc<Trust>) {
        self.sites.iter_mut().for_each(|site| site.trust = Arc::clone(trust));
    }

    /// Whether a host is behind NAT.
    pub fn is_hidden(&self, host: usize) -> bool {
        self.sites[host].relay.is_some()
    }

    /// What each host says of itself when it starts from now on. One behind NAT adds its relay.
    pub fn set_adverts(&mut self, adverts: Vec<Advert>) {
        self.adverts = adverts;
    }

    /// Round trips that hosts with adverts of their own measured since this was last asked: by
    /// whom, to whom.
    pub fn measured(&mut self) -> Vec<(usize, PeerId, Duration)> {
        std::mem::take(&mut self.measured)
    }

    /// The wall clock of a host.
    pub fn utc(&self, host: usize) -> Utc {
        self.clock(host).utc
    }

    /// Cuts hosts off from all others for a while.
    pub fn cut(&mut self, side: BTreeSet<usize>, lasting: Duration) {
        self.links.cut(side, self.now, self.now + lasting);
    }

    /// Brings a message to a host as if `from` had sent it, at once and encoded.
    pub fn inject(&mut self, from: PeerId, to: usize, message: &Message) {
        let from = index(self.host_of(from));
        self.receive(from, index(to), Box::new(message.clone()));
    }

    /// Lets time pass.
    pub fn run_for(&mut self, lasting: Duration) {
        self.run_until(self.now + lasting);
    }

    /// Lets time pass until then.
    pub fn run_until(&mut self, until: Mono) {
        loop {
            let Self { queue, hosts, connections, .. } = self;
            let next = queue.pop_foreseeing(until, |soon| touch(soon, hosts, connections));
            let Some((at, happening)) = next else { break };
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

    /// How many events happened so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// What went wrong, after which event and when.
    pub fn wrongs(&self) -> &[Wrong] {
        &self.wrongs
    }

    fn directory(&self, host: usize) -> &Shards {
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
        self.events += 1;
        match happening {
            Happening::Wake { host, boot } => {
                if self.hosts[host as usize].boots == boot {
                    self.wake(host);
                }
            }
            Happening::Opened { pair, number } => self.opened(pair, number),
            Happening::Lost { pair, number } => {
                let (a, b) = (pair.0 as usize, pair.1 as usize);
                let blocked = self.links.cut_until(a, b, self.now).is_some();
                let dead = !self.is_up(a) || !self.is_up(b);
                let same = self.connections.get(pair).is_some_and(|c| c.number == number);
                if same && (blocked || dead) {
                    self.close(pair);
                }
            }
            Happening::Reset { host, other } => {
                let open = self.connections.get(ordered(host, other)).is_some_and(|c| c.open);
                if !open {
                    let peer = self.id(other as usize);
                    self.feed(host as usize, Input::Disconnected { peer });
                }
            }
            Happening::Delivered { from, to, slot, number, message } => {
                if self.connections.at(slot).number == number && self.is_up(to as usize) {
                    self.receive(from, to, message);
                }
            }
        }
    }

    /// An alarm of a host goes off.
    fn wake(&mut self, host: u32) {
        let machine = &mut self.hosts[host as usize];
        machine.alarms.pop();
        match machine.wake {
            Some(wake) if wake <= self.now => {
                machine.wake = None;
                self.hash.absorb(host.into());
                self.feed(host as usize, Input::Tick);
            }
            Some(wake) => self.set_alarm(host, wake),
            None => {}
        }
    }

    /// Sees to it that a host is woken by `at`: by an alarm that goes off before, if there is one,
    /// which then sets the next.
    fn set_alarm(&mut self, host: u32, at: Mono) {
        let Host { alarms, boots, .. } = &mut self.hosts[host as usize];
        if alarms.last().is_none_or(|first| at < *first) {
            alarms.push(at);
            self.queue.push(at, Happening::Wake { host, boot: *boots });
        }
    }

    /// The other half of the sans-io border: does what a directory says, at the time of its host.
    fn feed(&mut self, host: usize, input: Input) {
        let world = self.now;
        self.now = world.max(self.hosts[host].busy);
        self.feed_now(host, input);
        self.now = world;
    }

    fn feed_now(&mut self, host: usize, input: Input) {
        let now = self.clock(host);
        let Some(directory) = self.hosts[host].directory.as_mut() else { return };
        let mut outputs = std::mem::take(&mut self.outputs);
        directory.handle(now, input, &mut outputs);
        for output in outputs.drain(..) {
            match output {
                Output::Send { to, message } => {
                    if let Some(to) = self.by_id.get(word(to)) {
                        self.send(index(host), *to, message);
                    }
                }
                Output::Dial { peer, .. } => {
                    if let Some(peer) = self.by_id.get(word(peer)) {
                        self.dial(index(host), *peer);
                    }
                }
                Output::WakeAt(at) => {
                    let at = (self.hosts[host].booted + at.since(Mono(0))).max(self.now);
                    self.hosts[host].wake = Some(at);
                    self.set_alarm(index(host), at);
                }
                Output::Event(event) => self.observe(host, event),
                Output::Rtt { peer, rtt } if !self.adverts.is_empty() => {
                    self.measured.push((host, peer, rtt));
                }
                Output::Rtt { .. } | Output::ViewChanged | Output::Revocations(_) => {}
            }
        }
        self.outputs = outputs;
    }

    /// Takes what a peer told its log into the books.
    fn observe(&mut self, host: usize, event: Event) {
        let mut wrong = None;
        if matches!(event, Event::Published { .. }) {
            self.sites[host].published = self.now;
        }
        match &event {
            Event::Published { version } if self.following => {
                let knows = |other: &usize| self.is_up(*other) && self.shares_shards(host, *other);
                let wanted = (0..self.hosts.len()).filter(knows).count() - 1;
                let wanted = u32::try_from(wanted).expect("few");
                let version = (version.epoch, version.sequence);
                self.ledger.follow(index(host), version, self.now, wanted);
            }
            Event::PeerJoined { peer, version } | Event::PeerUpdated { peer, version } => {
                self.traffic.taken += 1;
                let version = (version.epoch, version.sequence);
                if let Some(subject) = self.by_id.get(word(*peer)).copied() {
                    let (on, links, now) = (self.hosts[host].booted, &self.links, self.now);
                    // Who was off or cut off has it as soon as it can, which says nothing of how
                    // fast news spread.
                    let could = |since: Mono| {
                        on <= since && !links.was_cut(host, subject as usize, since, now)
                    };
                    self.ledger.took(subject, version, now, could);
                }
            }
            Event::PeerDown { peer } => {
                let subject = self.host_of(*peer);
                let cut = self.links.was_cut(host, subject, self.now - CUT_GRACE, self.now);
                match self.died(subject, self.now) {
                    Some(died) => self.ledger.detection.add(self.now.since(died)),
                    None if cut || self.was_off(subject, self.now - RETURN_GRACE) => {}
                    // Those on the other side of a cut had reason to accuse it, and are believed.
                    None if self.links.any_cut(self.now - CUT_GRACE, self.now) => {
                        self.ledger.hearsay_downs += 1;
                    }
                    None => {
                        self.ledger.false_downs += 1;
                        let lives = &self.sites[subject].lives;
                        let on = lives.last().map_or(Mono(0), |(on, _)| *on);
                        let since = self.now.since(on).as_millis();
                        let what = format!(
                            "peer {host} believes peer {subject} dead, which is on for {since} ms"
                        );
                        wrong = Some(what);
                    }
                }
            }
            _ => {}
        }
        if let Some(what) = wrong.filter(|_| self.wrongs.len() < WRONGS_MAX) {
            self.wrongs.push(Wrong { event: self.events, at: self.now, what });
        }
        if let Some(observations) = &mut self.observations {
            observations.push(Observation { at: self.now, peer: host, event });
        }
    }
}

/// Reads what an event will need, one of many that are about to happen, so that the processor
/// fetches it while it waits for that of the others: nothing of 10,000 peers is in its caches.
fn touch(soon: &Happening, hosts: &[Host], connections: &Connections<Box<Message>>) {
    let (host, number, message) = match soon {
        Happening::Wake { host, .. } => (*host, 0, None),
        Happening::Delivered { to, slot, message, .. } => {
            (*to, connections.at(*slot).number, Some(&**message))
        }
        Happening::Opened { .. } | Happening::Lost { .. } | Happening::Reset { .. } => return,
    };
    let Host { directory, booted, busy, alarms, .. } = &hosts[host as usize];
    let directories = directory.iter().flat_map(|shards| shards.each());
    let known: u64 = directories.map(|directory| directory.touch(message)).fold(0, |a, b| a ^ b);
    let alarm = alarms.last().map_or(0, |alarm| alarm.0);
    std::hint::black_box(known ^ booted.0 ^ busy.0 ^ u64::from(number) ^ alarm);
}

fn index(host: usize) -> u32 {
    u32::try_from(host).expect("fewer than 2^32 hosts")
}

fn word(peer: PeerId) -> u64 {
    u64::from_le_bytes(peer.0[..8].try_into().expect("eight of 32 bytes"))
}

/// What the reports call a message.
fn described(message: &Message) -> &'static str {
    if message.news.records.is_empty() { "gossip" } else { "push" }
}
