//! Membership: which peers there are, what they have and whether they answer.
//!
//! Signed adverts spread as rumours (`rumour`: pushed for the first hops, then announced and
//! pulled) among a few `neighbours`, and are reconciled by anti-entropy (`reconcile`: fingerprints
//! down a `tree`, then digests, and only differences travel). Peers probe each other and accuse
//! those that do not answer (`swim`). All of it is one machine without IO: [`Directory::handle`]
//! takes what happened and says what to do; [`Directory::view`] is the immutable snapshot that jobs
//! plan with.

mod border;
mod claim;
mod farewell;
mod held;
mod lists;
mod mark;
mod members;
mod message;
mod neighbours;
mod own;
mod pace;
mod params;
mod reconcile;
mod rumour;
mod shards;
mod swim;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub use border::{Event, Input, Output, Refused};
pub use claim::{Accusation, Claim, ClaimFault, Leave, Proven, Signed};
pub use held::{Held, Short, Stamp, Standing};
pub use message::{Aside, COLD, FrameFault, GOSSIP_VERSION, Message, News, Rumour, Talk};
pub use params::Params;
pub use shards::{Shard, Shards};
pub use tree::{BUCKETS, GROUP_BUCKETS, GROUPS, Print};

use crate::advert::{Advert, AdvertFault, Record, Version};
use crate::charter::Trust;
use crate::codec::encode;
use crate::coordinate::Position;
use crate::id::{Digest, PeerId};
use crate::keys::SigningKey;
use crate::limits::*;
use crate::physics::Echoes;
use crate::revocation::Revocations;
use crate::rng::{Rng, mix};
use crate::time::{Mono, Now};
use crate::view::{Entry, Liveness, View};
use members::{Member, Members};
use neighbours::Neighbour;
use pace::{Allowance, Timer, Timers};

/// A late call makes what was awaited meanwhile meaningless when it is later than this.
const STALL_MAX: Duration = Duration::from_secs(1);
/// How often what has lapsed is swept out.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// Tombstones stand until no advert that they bury can verify any more: the longest life, with
/// both clocks wrong.
const GRAVE_RETENTION: Duration =
    Duration::from_secs(ADVERT_LIFETIME.as_secs() + 2 * CLOCK_SKEW_MAX.as_secs());
/// An accusation that nobody joined for so long is forgotten.
const ACCUSATION_RETENTION: Duration = Duration::from_secs(30);
/// A peer that needs it is dialled, rebuked or given a large answer so often.
const COURTESY_INTERVAL: Duration = Duration::from_secs(1);

/// The machine. One for each peer, fed by its host.
pub struct Directory {
    me: PeerId,
    shard: Shard,
    key: Arc<SigningKey>,
    trust: Arc<Trust>,
    params: Params,
    rng: Rng,
    secret: u64,
    nonces: u64,
    own: Arc<Record>,
    /// What authorities revoked.
    revocations: Revocations,
    /// The fastest echoes of members.
    echoes: BTreeMap<PeerId, Echoes>,
    /// Where this peer is in the space of round trips.
    position: Position,
    /// What the next own advert says.
    content: Advert,
    /// Peers that do not relay to this one, and until when they are not asked again.
    unfit_relays: BTreeMap<PeerId, Mono>,
    publish_wanted: bool,
    /// The newest version of this peer that others hold and that is not of this boot.
    outbid: Version,
    publications: Allowance,
    members: Members,
    neighbours: neighbours::Neighbours,
    connected: BTreeSet<PeerId>,
    /// Connected peers that are not members.
    strangers: BTreeSet<PeerId>,
    probes: BTreeMap<u64, swim::Probe>,
    probe_order: Vec<PeerId>,
    /// Whether the last probe went along the ring.
    probe_ring: bool,
    /// Strangers that accused this peer, and of which version.
    doubters: BTreeMap<PeerId, Version>,
    /// Who has how long to refute.
    suspects: BTreeMap<Short, Mono>,
    hot: rumour::Hot,
    /// What is announced, by peer.
    lazy: Vec<rumour::Announced>,
    announcing: bool,
    pulling: bool,
    /// Whose message is being handled: there is a way back to it.
    speaking: Option<PeerId>,
    fresh: rumour::Fresh,
    pulls: BTreeMap<Short, rumour::Pull>,
    timers: Timers,
    wake: Option<Mono>,
    /// Made when it is asked for.
    view: OnceLock<Arc<View>>,
    view_published: Mono,
    view_stale: bool,
    left: bool,
}

impl Directory {
    /// The directory of the peer that holds `key`, which knows only itself. `own` is what it says
    /// of itself; peer, version and date are filled in here, the boot epoch from `now`. `seed`
    /// must be a secret of this boot: nonces follow from it.
    ///
    /// # Errors
    /// When `own` does not fit an advert.
    pub fn new(
        key: Arc<SigningKey>,
        own: Advert,
        trust: Arc<Trust>,
        seed: u64,
        now: Now,
        params: Params,
    ) -> Result<Self, AdvertFault> {
        let me = key.peer_id();
        let version = Version { epoch: now.utc.0, sequence: 0 };
        let content = Advert { peer: me, version, issued: now.utc, ..own };
        let own = content.sign(&key).verify(&trust, now)?;
        let mut directory = Self {
            me,
            shard: Shard::default(),
            view: OnceLock::new(),
            view_published: now.mono,
            own,
            revocations: Revocations::default(),
            echoes: BTreeMap::new(),
            position: Position::default(),
            content,
            unfit_relays: BTreeMap::new(),
            key,
            trust,
            rng: Rng::new(mix(seed)),
            secret: seed,
            nonces: 0,
            publish_wanted: false,
            outbid: Version::default(),
            publications: Allowance::default(),
            members: Members::default(),
            neighbours: neighbours::Neighbours::default(),
            connected: BTreeSet::new(),
            strangers: BTreeSet::new(),
            probes: BTreeMap::new(),
            probe_order: Vec::new(),
            probe_ring: false,
            doubters: BTreeMap::new(),
            suspects: BTreeMap::new(),
            hot: rumour::Hot::default(),
            lazy: Vec::new(),
            announcing: false,
            pulling: false,
            speaking: None,
            fresh: rumour::Fresh::default(),
            pulls: BTreeMap::new(),
            timers: Timers::default(),
            wake: None,
            view_stale: false,
            left: false,
            params,
        };
        directory.own = directory.judge(now.utc, Arc::clone(&directory.own));
        directory.members.tree_mut().add(&directory.own);
        directory.start_timers(now.mono);
        Ok(directory)
    }

    /// The same directory in another shard than the one without a name.
    pub fn within(self, shard: Shard) -> Self {
        Self { shard, ..self }
    }

    /// Its shard.
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// The record of a peer.
    pub fn record(&self, peer: PeerId) -> Option<&Arc<Record>> {
        if peer == self.me {
            return Some(&self.own);
        }
        self.members.get(peer).map(|member| member.record)
    }

    /// This peer.
    pub fn me(&self) -> PeerId {
        self.me
    }

    /// A snapshot: the one of the last [`Output::ViewChanged`], or newer.
    pub fn view(&self) -> Arc<View> {
        let entry = |(record, liveness): (&Arc<Record>, Liveness)| {
            let since = self.members.trouble(record.advert.peer).map_or(Mono(0), |t| t.since);
            Entry { record: Arc::clone(record), liveness, since }
        };
        let view = self.view.get_or_init(|| {
            let view = View::new(self.me, self.peers().map(entry).collect());
            Arc::new(view.located(self.position.coordinate()))
        });
        Arc::clone(view)
    }

    /// Every peer that is known, this one included, and whether it answers.
    pub fn peers(&self) -> impl Iterator<Item = (&Arc<Record>, Liveness)> {
        let others = self.members.iter().map(|member| (member.record, member.health));
        [(&self.own, Liveness::Alive)].into_iter().chain(others)
    }

    /// Whether the advert of `peer` with this version, or a newer one, is known already, so that
    /// verifying it again is needless.
    pub fn holds(&self, peer: PeerId, version: Version) -> bool {
        if peer == self.me {
            return self.own.advert.version >= version;
        }
        self.members.get(peer).is_some_and(|member| member.version() >= version)
    }

    /// Makes a directory that knows nobody know these peers, given in the order of their ids: a
    /// mesh that has long settled.
    pub fn acquaint(&mut self, now: Now, records: &[Arc<Record>]) {
        let pace = (self.params.advert_interval, self.params.advert_burst);
        let (before, after) = match records.binary_search_by_key(&self.me, |r| r.advert.peer) {
            Ok(place) => (&records[..place], &records[place + 1..]),
            Err(place) => records.split_at(place),
        };
        let mut members = std::mem::take(&mut self.members);
        let others = before.iter().chain(after);
        let others = others.map(|record| self.judge(now.utc, Arc::clone(record)));
        members.fill(others, now.mono, pace);
        self.members = members;
        self.view_stale = true;
    }

    /// This peer's own record.
    pub fn own(&self) -> &Arc<Record> {
        &self.own
    }

    /// Reads what [`Directory::handle`] will look at first when it takes `message`, or a tick. A host
    /// of very many directories, none of which is in a cache when its turn comes, does so a few
    /// turns ahead: what is waited for at once takes as long as what is waited for alone.
    pub fn touch(&self, message: Option<&Message>) -> u64 {
        let due = self.timers.next().unwrap_or_default().0 ^ u64::from(self.left);
        let Some(Message { talk, news, .. }) = message else { return due };
        let told = match talk {
            Talk::Announce { held } => {
                held.iter().fold(0, |read, held| read ^ self.fresh.touch(*held))
            }
            _ => 0,
        };
        let records = news.records.iter();
        let touch = |peer| self.members.touch(peer);
        let records = records.fold(0, |read, rumour| read ^ touch(rumour.said.advert.peer));
        let pulled = self.pulls.first_key_value().map_or(0, |(peer, _)| peer.word());
        records ^ told ^ due ^ pulled ^ self.view_published.0
    }

    /// Takes one input and appends what is to be done. Whatever has fallen due is done as well.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        if self.left {
            return;
        }
        self.forgive_stall(now.mono, out);
        match input {
            Input::Tick => {}
            Input::Message { from, message } => self.take_message(now, from, *message, out),
            Input::Connected { peer } => {
                self.connected.insert(peer);
                self.neighbours.set_warm(peer, true);
                if self.members.get(peer).is_none() {
                    self.strangers.insert(peer);
                }
                self.guard(peer);
                self.greet(now.mono, peer, out);
            }
            Input::Disconnected { peer } => {
                self.connected.remove(&peer);
                self.neighbours.set_warm(peer, false);
                self.strangers.remove(&peer);
                self.doubt(now.mono, peer, out);
            }
            Input::Unreachable { peer } => self.doubt(now.mono, peer, out),
            Input::Publish(advert) => {
                let relays = std::mem::take(&mut self.content.relays);
                self.content = *advert;
                if self.content.control_addrs.is_empty() && self.content.relays.is_empty() {
                    self.content.relays = relays;
                    // At once: until an advert says how to reach this peer, nobody can.
                    self.choose_relays(now.mono);
                }
                self.want_publication(now.mono);
            }
            Input::Revocations(list) => self.take_list(now, None, &list, out),
            Input::Echo { peer, rtt } => self.take_echo(now, peer, rtt, out),
            Input::Unrelayed { peer } => self.pass_over(now.mono, peer),
            Input::Leave => return self.leave(now, out),
        }
        while let Some(timer) = self.timers.pop_due(now.mono) {
            self.fire(now, timer, out);
        }
        self.spread_hot(now.mono, out);
        self.refresh_view(now.mono, out);
        let next = self.timers.next();
        if next != self.wake {
            self.wake = next;
            out.extend(next.map(Output::WakeAt));
        }
    }

    fn take_message(&mut self, now: Now, from: PeerId, message: Message, out: &mut Vec<Output>) {
        if from == self.me {
            return;
        }
        self.speaking = Some(from);
        if let Some(aside) = message.aside {
            self.take_aside(now, from, *aside, out);
        }
        for record in message.news.records {
            self.take_record(now, from, record, out);
        }
        for leave in message.news.leaves {
            self.take_leave(now, from, leave, out);
        }
        for accusation in message.news.accusations {
            self.take_accusation(now, from, accusation, out);
        }
        match message.talk {
            Talk::News => {}
            Talk::Ping { nonce } => self.pong(now.mono, from, nonce, out),
            Talk::Pong { nonce, at } => self.take_pong(now.mono, from, nonce, &at, out),
            Talk::PingFor { peer, nonce } => self.ping_for(now.mono, from, peer, nonce, out),
            Talk::Summary { greeting, count, salt, root } => {
                self.answer_summary(now.mono, from, (greeting, count), (salt, root), out);
            }
            Talk::Groups { salt, prints } => {
                self.answer_groups(now.mono, from, salt, &prints, out);
            }
            Talk::Buckets { salt, groups } => {
                self.answer_buckets(now.mono, from, salt, &groups, out);
            }
            Talk::Digest { buckets, held } => self.answer_digest(now, from, &buckets, &held, out),
            Talk::Announce { held } => self.take_announcement(now.mono, from, &held, out),
            Talk::Pull { held } => self.answer_pull(now, from, &held, out),
        }
        self.hear(from);
        self.rebuke(now, from, out);
        self.speaking = None;
    }

    /// Whether a peer that speaks to us is a member. (One whose first message overtakes the news of
    /// its connection is greeted a moment later.)
    fn is_acquaintance(&self, peer: PeerId) -> bool {
        !self.strangers.contains(&peer)
    }

    fn fire(&mut self, now: Now, timer: Timer, out: &mut Vec<Output>) {
        match timer {
            Timer::Probe => self.probe_next(now.mono, out),
            Timer::PingTimeout(nonce) => self.ask_helpers(now.mono, nonce, out),
            Timer::ProbeEnd(nonce) => self.end_probe(now, nonce, out),
            Timer::Suspicions => self.end_suspicions(now.mono, out),
            Timer::Lazy => self.announce(now.mono, out),
            Timer::Pull => self.repeat_pulls(now.mono, out),
            Timer::Rotate => self.rotate(now.mono),
            Timer::Reconcile => self.reconcile(now.mono, out),
            Timer::Publish => {
                if self.publish_wanted {
                    self.publish(now, out);
                }
            }
            Timer::Refresh => {
                self.want_publication(now.mono);
                self.timers.set(now.mono + self.params.advert_refresh, Timer::Refresh);
            }
            Timer::View => self.refresh_view(now.mono, out),
            Timer::Sweep => {
                if self.params.revocations_age_max.is_some() {
                    self.judge_all(now.utc);
                }
                self.sweep(now.mono, out);
            }
        }
    }

    fn start_timers(&mut self, now: Mono) {
        // Peers that start together are spread over the intervals.
        let mut within = |interval: Duration| interval.mul_f64(self.rng.unit());
        let starts = [
            (within(self.params.probe_interval), Timer::Probe),
            (within(self.params.reconcile_interval), Timer::Reconcile),
            (within(self.params.rotate_interval), Timer::Rotate),
            (within(self.params.advert_refresh), Timer::Refresh),
            (SWEEP_INTERVAL, Timer::Sweep),
        ];
        for (delay, timer) in starts {
            self.timers.set(now + delay, timer);
        }
    }

    fn send(&mut self, now: Mono, to: PeerId, talk: Talk, out: &mut Vec<Output>) {
        let aside = match talk {
            Talk::Summary { .. } => self.tell_heads(),
            _ => None,
        };
        let message = Message { shard: self.shard, aside, ..Message::of(talk) };
        self.send_message(now, to, message, out);
    }

    fn send_news(&mut self, now: Mono, to: PeerId, news: News, out: &mut Vec<Output>) {
        if !news.is_empty() && self.reach(now, to, out) {
            self.send_parcels(to, news, out);
        }
    }

    /// Sends news to a peer to which there is a way.
    fn send_parcels(&self, to: PeerId, news: News, out: &mut Vec<Output>) {
        out.extend(news.parcels().into_iter().map(|news| {
            let message = Message { shard: self.shard, news, ..Message::of(Talk::News) };
            Output::Send { to, message: Box::new(message) }
        }));
    }

    /// Sends a message, if there is a way. What has none is dropped: such a peer comes to us.
    fn send_message(&mut self, now: Mono, to: PeerId, message: Message, out: &mut Vec<Output>) {
        if self.reach(now, to, out) {
            out.push(Output::Send { to, message: Box::new(message) });
        }
    }

    /// Whether there is a way to a neighbour; it is dialled if need be.
    fn warm_up(&mut self, now: Mono, neighbour: Neighbour, out: &mut Vec<Output>) -> bool {
        neighbour.warm || self.reach(now, neighbour.peer, out)
    }

    /// Whether there is a way to a peer; it is dialled if need be.
    fn reach(&mut self, now: Mono, to: PeerId, out: &mut Vec<Output>) -> bool {
        if self.speaking == Some(to) || self.connected.contains(&to) {
            return true;
        }
        let Some(member) = self.members.get(to) else { return true };
        let addrs = &member.record.advert.control_addrs;
        if addrs.is_empty() {
            return false;
        }
        let addrs = addrs.clone();
        let contact = self.members.contact(to).expect("it is a member");
        if contact.dials.take(now, COURTESY_INTERVAL, 1) {
            out.push(Output::Dial { peer: to, addrs });
        }
        true
    }

    /// A number that an adversary cannot guess.
    fn nonce(&mut self) -> u64 {
        self.nonces += 1;
        let Digest(bytes) = Digest::of(&encode(&(self.secret, self.nonces)));
        u64::from_le_bytes(bytes[..8].try_into().expect("eight of 32 bytes"))
    }

    fn refresh_view(&mut self, now: Mono, out: &mut Vec<Output>) {
        if !self.view_stale {
            return;
        }
        let due = self.view_published + self.params.view_interval;
        if now < due {
            return self.timers.set(due, Timer::View);
        }
        self.view = OnceLock::new();
        self.view_published = now;
        self.view_stale = false;
        out.push(Output::ViewChanged);
    }
}

/// Whether a message can get to a peer: over a connection, or by a dial.
fn has_way(connected: &BTreeSet<PeerId>, member: Member<'_>) -> bool {
    !member.record.advert.control_addrs.is_empty() || connected.contains(&member.peer())
}
