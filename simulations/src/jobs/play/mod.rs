//! Plays a [`Setup`] under one method and gives the figures.

mod placing;
mod serving;

use std::collections::BTreeMap;
use std::time::Duration;

use hansa_core::flight::{Event as Happened, Flight, RetryBudget};
use hansa_core::id::{Digest, JobId, PeerId};
use hansa_core::loads::Loads;
use hansa_core::plan::Refusal;
use hansa_core::quote::{Load, Quote};
use hansa_core::rng::{Rng, mix};
use hansa_core::survey::Survey;
use hansa_core::time::{Mono, Now};

use crate::engine::Queue;
use crate::jobs::figures::Figures;
use crate::jobs::server::Server;
use crate::jobs::setup::{Arrival, Host, Setup};
use crate::jobs::strategy::Method;
use crate::jobs::views::{Fixed, UTC};

#[derive(Clone, Copy, Debug)]
enum Event {
    Arrive(usize),
    Asked { job: usize, host: usize },
    Quoted { job: usize, host: usize, quote: Option<Quote> },
    Decide(usize),
    Release { job: usize, host: usize },
    Reached { job: usize, host: usize },
    Ran { job: usize, host: usize, epoch: u32 },
    FirstByte { job: usize, host: usize, epoch: u32 },
    Answered { job: usize },
    Refused { job: usize, host: usize },
    Lost { job: usize, host: usize },
    Late(usize),
    Cancel { job: usize, host: usize },
    Deadline(usize),
    Fault(usize),
    Snapshot,
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
}

struct Play<'a> {
    setup: &'a Setup,
    mesh: &'a Fixed,
    method: Method,
    queue: Queue<Event>,
    servers: Vec<Option<Server>>,
    epochs: Vec<u32>,
    hosts: BTreeMap<PeerId, usize>,
    loads: Vec<Loads>,
    budgets: Vec<RetryBudget>,
    permitted: BTreeMap<(usize, Digest, Digest), Vec<usize>>,
    weight: Vec<u64>,
    stale: Vec<Load>,
    truth: Vec<Load>,
    /// Jobs on their way to each host.
    on_way: Vec<u32>,
    rtts: Vec<Vec<Duration>>,
    air: BTreeMap<usize, Air>,
    rng: Rng,
    air_rng: Rng,
    now: Mono,
    figures: Figures,
}

const NOTHING: Load = Load { in_flight: 0, slots: 1, hold: Duration::ZERO, first: Duration::ZERO };

/// Plays all of `setup`.
pub fn play(setup: &Setup, mesh: &Fixed, method: Method) -> Figures {
    let mut play = Play::new(setup, mesh, method);
    play.run();
    play.figures.checkers.end(setup.arrivals.len());
    play.figures.ttft.sort_unstable();
    play.figures
}

impl<'a> Play<'a> {
    fn new(setup: &'a Setup, mesh: &'a Fixed, method: Method) -> Self {
        let hosts = &setup.hosts;
        let server = |host: &Host| {
            let server = host.server.as_ref()?;
            let (device, models) = (setup.device(server), &setup.models);
            // Of the models that it holds; the times that it learns are of all of them too.
            let works = server.models.iter().map(|model| models[*model].work);
            let work = works.sum::<f64>() / server.models.len().max(1) as f64;
            let slots = u16::try_from(device.slots).unwrap_or(u16::MAX);
            Some(Server::new(slots, device.speed, device.typical(setup.tokens, work)))
        };
        let servers: Vec<Option<Server>> = hosts.iter().map(server).collect();
        let loads_now: Vec<Load> =
            servers.iter().map(|s| s.as_ref().map_or(NOTHING, Server::load)).collect();
        let mut rtts = vec![Vec::new(); hosts.len()];
        for entry in setup.arrivals.iter().map(|arrival| arrival.entry) {
            if rtts[entry].is_empty() {
                let row = &setup.rtt[hosts[entry].region];
                rtts[entry] = hosts.iter().map(|to| row[to.region]).collect();
                rtts[entry][entry] = Duration::ZERO;
            }
        }
        let measured = |row: &Vec<Duration>| {
            let mut loads = Loads::new();
            for (host, rtt) in row.iter().enumerate().filter(|(n, _)| hosts[*n].server.is_some()) {
                loads.measured_rtt(mesh.peer(host), *rtt);
            }
            loads
        };
        // Thousandths of a job a second.
        #[allow(clippy::cast_possible_truncation)]
        let weight = |host: &Host| host.server.as_ref().map_or(0, |s| (setup.pace(s) * 1e3) as u64);
        Self {
            loads: rtts.iter().map(measured).collect(),
            budgets: vec![RetryBudget::default(); hosts.len()],
            epochs: vec![0; hosts.len()],
            hosts: (0..hosts.len()).map(|host| (mesh.peer(host), host)).collect(),
            weight: hosts.iter().map(weight).collect(),
            stale: loads_now.clone(),
            truth: loads_now,
            on_way: vec![0; hosts.len()],
            rng: Rng::new(mix(setup.seed ^ 0x0b5)),
            air_rng: Rng::new(mix(setup.seed ^ 0xa18)),
            queue: Queue::default(),
            permitted: BTreeMap::new(),
            air: BTreeMap::new(),
            now: Mono(0),
            figures: Figures::default(),
            setup,
            mesh,
            method,
            servers,
            rtts,
        }
    }

    fn run(&mut self) {
        for (index, (at, _, _)) in self.setup.faults.iter().enumerate() {
            self.queue.push(Mono(0) + *at, Event::Fault(index));
        }
        if let Some(first) = self.setup.arrivals.first() {
            self.queue.push(Mono(0) + first.at, Event::Arrive(0));
            self.queue.push(Mono(0) + self.setup.snapshot, Event::Snapshot);
        }
        while let Some((at, event)) = self.queue.pop_by(Mono(u64::MAX)) {
            self.now = at;
            self.figures.checkers.event(at);
            self.handle(event);
        }
    }

    fn now(&self) -> Now {
        Now { mono: self.now, utc: UTC + self.now.since(Mono(0)) }
    }

    fn arrival(&self, job: usize) -> &'a Arrival {
        &self.setup.arrivals[job]
    }

    fn rtt(&self, job: usize, host: usize) -> Duration {
        self.rtts[self.arrival(job).entry][host]
    }

    /// After half a round trip between the job's entry and `host`, and what chance adds.
    fn post(&mut self, job: usize, host: usize, event: Event) {
        let one_way = self.rtt(job, host) / 2;
        let jitter = if one_way.is_zero() { Duration::ZERO } else { self.setup.jitter };
        let late = jitter.mul_f64(self.air_rng.unit());
        self.queue.push(self.now + one_way + late, event);
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
                if self.epochs[host] == epoch && server.done(job) {
                    self.post(job, host, Event::Answered { job });
                    self.start(host);
                }
            }
            Event::Answered { job } => {
                if self.air.contains_key(&job) {
                    self.fly(job, Happened::Answered);
                }
            }
            Event::Refused { job, host } => {
                let refusal = self.air.get_mut(&job).and_then(|air| air.refusals.remove(&host));
                if let Some(refusal) = refusal.filter(|_| self.ended_there(job, host)) {
                    self.fly(job, Happened::Refused(refusal));
                }
            }
            Event::Lost { job, host } => {
                let entry = self.arrival(job).entry;
                self.loads[entry].failed(self.mesh.peer(host), self.now);
                if self.ended_there(job, host) {
                    self.figures.checkers.lost(job);
                    self.fly(job, Happened::Lost("connection lost".into()));
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
            Event::Fault(index) => self.fault(index),
            Event::Snapshot => {
                let load = |server: &Option<Server>| server.as_ref().map_or(NOTHING, Server::load);
                self.stale = self.servers.iter().map(load).collect();
                if !self.air.is_empty() {
                    self.queue.push(self.now + self.setup.snapshot, Event::Snapshot);
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
        self.on_way[host] += 1;
        self.know(host);
        self.post(job, host, Event::Reached { job, host });
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
            self.post(job, host, Event::Cancel { job, host });
        }
    }

    fn answer(&mut self, job: usize, is_answer: bool) {
        let arrival = self.arrival(job);
        let took = self.now.since(Mono(0) + arrival.at);
        self.figures.checkers.answered(job, took, arrival.deadline);
        self.figures.answered += u64::from(is_answer);
        self.figures.refused += u64::from(!is_answer);
        self.hash(2 + u64::from(is_answer), job, 0);
        let at = self.air.get(&job).map(|air| air.at.clone()).unwrap_or_default();
        at.into_iter().for_each(|host| self.leave(job, host));
        self.air.remove(&job);
    }

    /// Time is up: the app is told so, and the work is cancelled.
    fn deadline(&mut self, job: usize) {
        if self.air.contains_key(&job) {
            self.answer(job, false);
        }
    }
}

/// A job's id on the wire.
fn id(job: usize) -> JobId {
    let job = job as u64;
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&mix(job.wrapping_add(0x9e37)).to_le_bytes());
    bytes[8..].copy_from_slice(&job.to_le_bytes());
    JobId(bytes)
}
