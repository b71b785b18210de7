//! Plays a [`Setup`] under one method and gives the figures.

mod chaining;
mod moving;
mod placing;
mod serving;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hansa_core::flight::{Event as Happened, Flight, RetryBudget};
use hansa_core::id::{Digest, JobId, PeerId};
use hansa_core::loads::Loads;
use hansa_core::plan::Refusal;
use hansa_core::quote::{Load, Quote};
use hansa_core::rng::{Rng, mix};
use hansa_core::survey::Survey;
use hansa_core::time::{Mono, Now};
use hansa_core::view::View;

use crate::engine::Queue;
use crate::jobs::figures::Figures;
use crate::jobs::mesh::{Mesh, Silence};
use crate::jobs::server::Server;
use crate::jobs::setup::{Arrival, Host, Setup};
use crate::jobs::strategy::Method;
use crate::recording::ReplayEvent;
use chaining::{Delivery, Leg};
use moving::Mover;

#[derive(Clone, Copy, Debug)]
enum Event {
    Arrive(usize),
    Asked {
        job: usize,
        host: usize,
    },
    Quoted {
        job: usize,
        host: usize,
        quote: Option<Quote>,
    },
    Decide(usize),
    Release {
        job: usize,
        host: usize,
    },
    Reached {
        job: usize,
        host: usize,
    },
    Ran {
        job: usize,
        host: usize,
        epoch: u32,
    },
    FirstByte {
        job: usize,
        host: usize,
        epoch: u32,
    },
    Begun {
        job: usize,
        host: usize,
    },
    Answered {
        job: usize,
        host: usize,
    },
    Refused {
        job: usize,
        host: usize,
    },
    Lost {
        job: usize,
        host: usize,
    },
    Late(usize),
    Cancel {
        job: usize,
        host: usize,
    },
    Deadline(usize),
    /// What was handed to a host, by the number of the leg, is there.
    StageReached(usize),
    /// Outputs are at the entry.
    Delivered(usize),
    /// All from a leg on is done.
    StageDone(usize),
    /// The host that has a leg refuses it.
    StageRefused(usize),
    /// The host that has a leg has fallen silent.
    StageLost(usize),
    /// A host looks whether it should hold something else.
    Round(usize),
    /// A model that a host fetched is there, or is not.
    Loaded {
        host: usize,
        model: usize,
        epoch: u32,
        came: bool,
    },
    /// The job should have its first byte by now.
    Overdue(usize),
    Snapshot,
    Sample,
}

struct Air {
    flight: Flight,
    has_begun: bool,
    survey: Option<Survey>,
    questions: Vec<usize>,
    /// Hosts that have the job: two if it was hedged.
    at: Vec<usize>,
    /// Why hosts that have it refuse it: on their way back.
    refusals: BTreeMap<usize, Refusal>,
    first_byte: bool,
    /// Whether it was counted as one that waits longer than it should.
    is_overdue: bool,
}

/// Whom a law permits among those that the view knows.
struct Permitted {
    view: Arc<View>,
    hosts: Vec<usize>,
}

struct Play<'a> {
    setup: &'a Setup,
    mesh: &'a mut dyn Mesh,
    method: Method,
    queue: Queue<Event>,
    servers: Vec<Option<Server>>,
    /// Models that each host serves.
    held: Vec<BTreeSet<usize>>,
    /// What each host decides to hold, where hosts decide.
    movers: Vec<Mover>,
    /// How often each host went down.
    epochs: Vec<u32>,
    up: Vec<bool>,
    hosts: BTreeMap<PeerId, usize>,
    loads: Vec<Loads>,
    budgets: Vec<RetryBudget>,
    /// By entry, law and bundle.
    permitted: BTreeMap<(usize, Digest, Digest), Permitted>,
    weight: Vec<u64>,
    stale: Vec<Load>,
    truth: Vec<Load>,
    /// Jobs on their way to each host.
    on_way: Vec<u32>,
    rtts: Vec<Vec<Duration>>,
    air: BTreeMap<usize, Air>,
    /// What hosts have handed on, by number.
    legs: BTreeMap<usize, Leg>,
    legs_begun: usize,
    deliveries: BTreeMap<usize, Delivery>,
    rng: Rng,
    now: Mono,
    /// Between two samples of the figures over time.
    every: Duration,
    figures: Figures,
}

const NOTHING: Load = Load { in_flight: 0, slots: 1, hold: Duration::ZERO, first: Duration::ZERO };

/// What an answer or a message about a job has, in bytes.
const WORDS: u64 = 200;
/// Figures over time have so many points.
const SAMPLES: u32 = 200;

/// Plays all of `setup` over a mesh that has just been made.
pub fn play(setup: &Setup, mesh: &mut dyn Mesh, method: Method) -> Figures {
    let mut play = Play::new(setup, mesh, method);
    play.run();
    play.figures.checkers.end(setup.arrivals.len());
    play.figures.ttft.sort_unstable();
    play.figures
}

impl<'a> Play<'a> {
    fn new(setup: &'a Setup, mesh: &'a mut dyn Mesh, method: Method) -> Self {
        let hosts = &setup.hosts;
        let server = |host: &Host| {
            let server = host.server.as_ref()?;
            let (device, models) = (setup.device(server), &setup.models);
            // Of the models that it holds; the times that it learns are of all of them too.
            let held: Vec<f64> = server.models.iter().map(|model| models[*model].work).collect();
            let all: Vec<f64> = models.iter().map(|model| model.work).collect();
            let works = if held.is_empty() { all } else { held };
            let work = works.iter().sum::<f64>() / works.len().max(1) as f64;
            let slots = u16::try_from(device.slots).unwrap_or(u16::MAX);
            let mut server = Server::new(slots, device.speed, device.typical(setup.tokens, work));
            server.crash(); // Until the mesh says that it is up.
            Some(server)
        };
        let servers: Vec<Option<Server>> = hosts.iter().map(server).collect();
        let loads_now: Vec<Load> =
            servers.iter().map(|s| s.as_ref().map_or(NOTHING, Server::load)).collect();
        let mut rtts = vec![Vec::new(); hosts.len()];
        for entry in setup.arrivals.iter().map(|arrival| arrival.entry) {
            if rtts[entry].is_empty() {
                rtts[entry] = (0..hosts.len()).map(|host| mesh.rtt(entry, host)).collect();
            }
        }
        let models =
            |host: &Host| host.server.as_ref().map(|s| s.models.clone()).unwrap_or_default();
        // Thousandths of a job a second.
        #[allow(clippy::cast_possible_truncation)]
        let weight = |host: &Host| host.server.as_ref().map_or(0, |s| (setup.pace(s) * 1e3) as u64);
        Self {
            loads: vec![Loads::new(); hosts.len()],
            budgets: vec![RetryBudget::of_percent(setup.retry_percent); hosts.len()],
            epochs: vec![0; hosts.len()],
            up: vec![false; hosts.len()],
            hosts: (0..hosts.len()).map(|host| (mesh.peer(host), host)).collect(),
            weight: hosts.iter().map(weight).collect(),
            stale: loads_now.clone(),
            truth: loads_now,
            on_way: vec![0; hosts.len()],
            rng: Rng::new(mix(setup.seed ^ 0x0b5)),
            queue: Queue::default(),
            held: hosts.iter().map(models).collect(),
            movers: hosts.iter().filter(|_| setup.moves).map(Mover::new).collect(),
            permitted: BTreeMap::new(),
            air: BTreeMap::new(),
            legs: BTreeMap::new(),
            legs_begun: 0,
            deliveries: BTreeMap::new(),
            now: Mono(0),
            every: Duration::ZERO,
            figures: Figures::default(),
            setup,
            mesh,
            method,
            servers,
            rtts,
        }
    }

    fn run(&mut self) {
        let changes = self.mesh.begin();
        self.befall(changes);
        if let (Some(first), Some(last)) = (self.setup.arrivals.first(), self.setup.arrivals.last())
        {
            self.queue.push(Mono(0) + first.at, Event::Arrive(0));
            self.queue.push(Mono(0) + self.setup.snapshot, Event::Snapshot);
            let every = (last.at / SAMPLES).max(Duration::from_secs(1));
            self.every = every;
            self.queue.push(Mono(0) + every, Event::Sample);
            self.begin_rounds();
        }
        loop {
            // What befalls hosts comes before what they do in the same moment.
            let at = self.queue.peek();
            if let Some(change) = self.mesh.next().filter(|next| at.is_none_or(|at| *next <= at)) {
                self.now = change;
                let changes = self.mesh.change();
                self.befall(changes);
                continue;
            }
            let Some((at, event)) = self.queue.pop_by(Mono(u64::MAX)) else { return };
            self.mesh.advance(at);
            self.now = at;
            for (host, peer, rtt) in self.mesh.measured() {
                self.loads[host].measured_rtt(peer, rtt);
            }
            self.figures.checkers.event(at);
            self.handle(event);
        }
    }

    /// What time it is at a host.
    fn now_at(&self, host: usize) -> Now {
        Now { mono: self.now, utc: self.mesh.utc(host) }
    }

    fn arrival(&self, job: usize) -> &'a Arrival {
        &self.setup.arrivals[job]
    }

    fn rtt(&self, job: usize, host: usize) -> Duration {
        self.rtts[self.arrival(job).entry][host]
    }

    /// From the job's entry to `host`, which it calls; fails when it does not arrive.
    fn outward(
        &mut self,
        job: usize,
        host: usize,
        bytes: u64,
        event: Event,
    ) -> Result<(), Silence> {
        let entry = self.arrival(job).entry;
        self.call(entry, host, bytes, event)
    }

    /// From `host` to the job's entry.
    fn homeward(
        &mut self,
        job: usize,
        host: usize,
        bytes: u64,
        event: Event,
    ) -> Result<(), Silence> {
        let entry = self.arrival(job).entry;
        self.post(host, entry, bytes, event)
    }

    /// What a host says first; the other answers by [`Self::post`].
    fn call(&mut self, from: usize, to: usize, bytes: u64, event: Event) -> Result<(), Silence> {
        self.mesh.dial(from, to)?;
        // Of a peer behind NAT it changes with the relay.
        if let Some(rtt) = self.rtts[from].get_mut(to) {
            *rtt = self.mesh.rtt(from, to);
        }
        self.post(from, to, bytes, event)
    }

    fn post(&mut self, from: usize, to: usize, bytes: u64, event: Event) -> Result<(), Silence> {
        let takes = self.mesh.carry(from, to, bytes)?;
        let until = self.now + takes;
        if from != to && bytes > WORDS {
            let (at, until) = (millis(self.now), millis(until));
            let what = "job".to_owned();
            self.mesh.note(ReplayEvent::Message { at, until, from, to, what, bytes });
        }
        self.queue.push(until, event);
        Ok(())
    }

    /// What the entry of a job learns only by silence.
    fn lose(&mut self, job: usize, host: usize, Silence(after): Silence) {
        self.queue.push(self.now + after, Event::Lost { job, host });
    }

    fn tell(&mut self, job: usize, host: usize, state: &str) {
        let (at, job, state) = (millis(self.now), job as u64, state.to_owned());
        self.mesh.note(ReplayEvent::Job { at, job, peer: host, state });
    }

    fn hash(&mut self, kind: u64, job: usize, host: usize) {
        let word = mix(self.now.0 ^ mix(job as u64 ^ (kind << 56)) ^ host as u64);
        self.figures.hash = mix(self.figures.hash ^ word);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive(index) => self.arrive(index),
            Event::Asked { job, host } => self.asked(job, host),
            Event::Quoted { job, host, quote } => {
                let peer = self.mesh.peer(host);
                let Some(survey) = self.air.get_mut(&job).and_then(|air| air.survey.as_mut())
                else {
                    return;
                };
                match quote {
                    Some(quote) => survey.quoted(peer, quote),
                    None => survey.silent(peer),
                }
                self.decide(job);
            }
            Event::Decide(job) => self.decide(job),
            Event::Release { job, host } => {
                if let Some(server) = &mut self.servers[host] {
                    server.reservations.release(id(job));
                }
            }
            Event::Reached { job, host } => self.reached(job, host),
            Event::FirstByte { job, host, epoch } => self.first_byte(job, host, epoch),
            Event::Ran { job, host, epoch } => {
                let Some(server) = &mut self.servers[host] else { return };
                if self.epochs[host] != epoch || !server.done(job) {
                    return;
                }
                if let Some(leg) = self.leg_of(job) {
                    self.stage_ran(leg);
                } else {
                    // Should it be lost, so is the call, which is noticed.
                    let _ = self.homeward(job, host, WORDS, Event::Answered { job, host });
                }
                self.start(host);
            }
            Event::StageReached(leg) => self.stage_reached(leg),
            Event::Delivered(leg) => self.delivered(leg),
            Event::StageDone(leg) => self.stage_done(leg),
            Event::StageRefused(leg) => self.stage_refused(leg),
            Event::StageLost(leg) => self.stage_lost(leg),
            Event::Begun { job, host } => self.begun(job, host),
            Event::Answered { job, host } => {
                if self.air.get(&job).is_some_and(|air| air.at.contains(&host)) {
                    let region = |host: usize| self.setup.hosts[host].region;
                    let flow = (region(self.arrival(job).entry), region(host));
                    *self.figures.flows.entry(flow).or_default() += 1;
                    self.fly(job, Happened::Answered);
                }
            }
            Event::Refused { job, host } => {
                let refusal = self.air.get_mut(&job).and_then(|air| air.refusals.remove(&host));
                if let Some(refusal) = refusal.filter(|_| self.ended_there(job, host)) {
                    if matches!(refusal, Refusal::UnknownModel { .. }) {
                        self.figures.checkers.lost(job);
                    }
                    self.fly(job, Happened::Refused(refusal));
                }
            }
            Event::Lost { job, host } => {
                let (entry, peer) = (self.arrival(job).entry, self.mesh.peer(host));
                self.loads[entry].failed(peer, self.now);
                // As in the node: perhaps only a relay died.
                let has_relays = !self.mesh.record(host).advert.relays.is_empty();
                let is_cut = has_relays && self.up[host] && self.mesh.dial(entry, host).is_ok();
                if is_cut {
                    self.loads[entry].heard(peer);
                }
                if self.ended_there(job, host) {
                    self.figures.checkers.lost(job);
                    let last = "connection lost".into();
                    let happened =
                        if is_cut { Happened::Cut { peer, last } } else { Happened::Lost(last) };
                    self.fly(job, happened);
                }
            }
            Event::Late(job) => {
                let is_late = |air: &&Air| air.flight.late_at() == Some(self.now);
                if self.air.get(&job).filter(is_late).is_some_and(|air| !air.first_byte) {
                    self.fly(job, Happened::Late);
                }
            }
            Event::Cancel { job, host } => {
                if let Some(server) = &mut self.servers[host] {
                    server.cancel(job, self.now);
                    self.start(host);
                }
            }
            Event::Deadline(job) => self.deadline(job),
            Event::Round(host) => self.round(host),
            Event::Loaded { host, model, epoch, came } => self.loaded(host, model, epoch, came),
            Event::Overdue(job) => self.overdue(job),
            Event::Snapshot => {
                let load = |server: &Option<Server>| server.as_ref().map_or(NOTHING, Server::load);
                self.stale = self.servers.iter().map(load).collect();
                if self.goes_on() {
                    self.queue.push(self.now + self.setup.snapshot, Event::Snapshot);
                }
            }
            Event::Sample => {
                self.sample();
                if self.goes_on() {
                    self.queue.push(self.now + self.every, Event::Sample);
                }
            }
        }
    }

    fn send(&mut self, job: usize, host: usize) {
        let arrival = self.arrival(job);
        self.figures.checkers.sent(self.setup, job, host);
        self.hash(1, job, host);
        let hosts = &self.setup.hosts;
        self.figures.sends += 1;
        self.figures.cross += u64::from(hosts[host].region != hosts[arrival.entry].region);
        let bundle = self.setup.models[arrival.model].bundle;
        self.loads[arrival.entry].began(self.mesh.peer(host), bundle);
        let air = self.air.get_mut(&job).expect("it flies");
        self.figures.hedges += u64::from(!air.at.is_empty());
        air.at.push(host);
        if let Some(at) = air.flight.late_at() {
            self.queue.push(at, Event::Late(job));
        }
        let bytes = self.setup.models[arrival.model].bytes.max(WORDS + 1);
        match self.outward(job, host, bytes, Event::Reached { job, host }) {
            Ok(()) => {
                self.on_way[host] += 1;
                self.know(host);
            }
            Err(silence) => self.lose(job, host, silence),
        }
    }

    /// Whether jobs are under way or to come.
    fn goes_on(&self) -> bool {
        let last = self.setup.arrivals.last();
        !self.air.is_empty() || last.is_some_and(|last| self.now < Mono(0) + last.at)
    }

    fn sample(&mut self) {
        let regions = self.setup.hosts.iter().map(|host| host.region + 1).max().unwrap_or(0);
        let mut slots = vec![(0.0, 0.0); regions];
        for (host, server) in self.servers.iter().enumerate() {
            let Some(server) = server.as_ref().filter(|server| server.is_up()) else { continue };
            let Load { in_flight, slots: all, .. } = server.load();
            let region = &mut slots[self.setup.hosts[host].region];
            region.0 += f64::from(in_flight.min(all.into()));
            region.1 += f64::from(all);
        }
        let busy = slots.into_iter().map(|(busy, all)| busy / f64::max(all, 1.0)).collect();
        self.figures.busy.push((self.now, busy));
        self.figures.under_way.push((self.now, self.air.len()));
    }

    /// The job is no longer at `host`; whether it was.
    fn ended_there(&mut self, job: usize, host: usize) -> bool {
        let Some(air) = self.air.get_mut(&job) else { return false };
        let Some(place) = air.at.iter().position(|at| *at == host) else { return false };
        air.at.remove(place);
        let arrival = self.arrival(job);
        let bundle = self.setup.models[arrival.model].bundle;
        self.loads[arrival.entry].ended(self.mesh.peer(host), bundle);
        true
    }

    /// The entry wants no answer of `host` any more, and tells it.
    fn leave(&mut self, job: usize, host: usize) {
        if self.ended_there(job, host) {
            // One that does not hear of it works in vain.
            let _ = self.outward(job, host, WORDS, Event::Cancel { job, host });
        }
    }

    fn answer(&mut self, job: usize, is_answer: bool) {
        let arrival = self.arrival(job);
        let took = self.now.since(Mono(0) + arrival.at);
        self.figures.checkers.answered(job, took, arrival.deadline);
        self.figures.answered += u64::from(is_answer);
        self.figures.refused += u64::from(!is_answer);
        self.hash(2 + u64::from(is_answer), job, 0);
        if !is_answer {
            self.figures.unanswered.push(job);
            self.stop_stages(job);
        }
        self.count(job, is_answer);
        let at = self.air.get(&job).map(|air| air.at.clone()).unwrap_or_default();
        at.into_iter().for_each(|host| self.leave(job, host));
        self.air.remove(&job);
        self.tell(job, arrival.entry, if is_answer { "answered" } else { "failed" });
    }

    /// Time is up: the app is told so, and the work is cancelled.
    fn deadline(&mut self, job: usize) {
        if self.air.contains_key(&job) {
            self.answer(job, false);
        }
    }
}

fn millis(at: Mono) -> f64 {
    at.since(Mono(0)).as_secs_f64() * 1e3
}

/// A job's id on the wire.
fn id(job: usize) -> JobId {
    let job = job as u64;
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&mix(job.wrapping_add(0x9e37)).to_le_bytes());
    bytes[8..].copy_from_slice(&job.to_le_bytes());
    JobId(bytes)
}
