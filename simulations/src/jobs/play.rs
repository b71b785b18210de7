//! Plays a [`Setup`] under one method and gives the figures.

use std::collections::BTreeMap;
use std::time::Duration;

use hansa_core::flight::{Event as Happened, Flight, RetryBudget, Step};
use hansa_core::gate;
use hansa_core::id::{Digest, JobId, PeerId};
use hansa_core::loads::Loads;
use hansa_core::plan::{Job, Refusal, candidates};
use hansa_core::policy::Bounds;
use hansa_core::quote::{Load, Quote};
use hansa_core::rng::{Rng, mix};
use hansa_core::survey::Survey;
use hansa_core::time::{Mono, Now};

use crate::engine::Queue;
use crate::jobs::figures::Figures;
use crate::jobs::server::Server;
use crate::jobs::setup::{Arrival, Fault, Setup};
use crate::jobs::strategy::{Ask, Method};
use crate::jobs::views::{BUNDLE, Fixed, UTC, Views};

/// How old a snapshot gets before the stale strategies see a new one.
const SNAPSHOT: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
enum Event {
    Arrive(usize),
    Asked { job: u64, host: usize },
    Quoted { job: u64, host: usize, quote: Option<Quote> },
    Decide(u64),
    Release { job: u64, host: usize },
    Reached { job: u64, host: usize },
    Ran { job: u64, host: usize, epoch: u32 },
    FirstByte { job: u64, host: usize, epoch: u32 },
    Answered { job: u64 },
    Refused { job: u64, host: usize },
    Lost { job: u64, host: usize },
    Late(u64),
    Cancel { job: u64, host: usize },
    Deadline(u64),
    Fault(usize),
    Snapshot,
}

struct Air {
    flight: Flight,
    has_begun: bool,
    survey: Option<Survey>,
    questions: Vec<usize>,
    /// Servers that have the job: two if it was hedged.
    at: Vec<usize>,
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
    permitted: BTreeMap<Digest, Vec<usize>>,
    weight: Vec<u64>,
    stale: Vec<Load>,
    truth: Vec<Load>,
    rtts: Vec<Vec<Duration>>,
    air: BTreeMap<u64, Air>,
    rng: Rng,
    now: Mono,
    figures: Figures,
}

const NOTHING: Load = Load { in_flight: 0, slots: 1, hold: Duration::ZERO, first: Duration::ZERO };

/// Plays all of `setup`.
pub fn play(setup: &Setup, mesh: &Fixed, method: Method) -> Figures {
    let mut play = Play::new(setup, mesh, method);
    play.run();
    play.figures.checkers.end(setup.arrivals.len() as u64);
    play.figures.ttft.sort_unstable();
    play.figures
}

impl<'a> Play<'a> {
    fn new(setup: &'a Setup, mesh: &'a Fixed, method: Method) -> Self {
        let hosts = &setup.hosts;
        let server = |host: &super::setup::Host| {
            host.server.map(|(slots, speed)| Server::new(slots, speed, setup.typical))
        };
        let servers: Vec<Option<Server>> = hosts.iter().map(server).collect();
        let loads_now: Vec<Load> =
            servers.iter().map(|s| s.as_ref().map_or(NOTHING, Server::load)).collect();
        let row = |from: &super::setup::Host| {
            hosts.iter().map(|to| setup.rtt[from.region][to.region]).collect::<Vec<Duration>>()
        };
        let rtts: Vec<Vec<Duration>> =
            hosts.iter().map(|h| if h.server.is_none() { row(h) } else { Vec::new() }).collect();
        let measured = |row: &Vec<Duration>| {
            let mut loads = Loads::new();
            for (host, rtt) in row.iter().enumerate().filter(|(n, _)| hosts[*n].server.is_some()) {
                loads.measured_rtt(mesh.peer(host), *rtt);
            }
            loads
        };
        let weight = |host: &super::setup::Host| {
            // Thousandths of small numbers.
            #[allow(clippy::cast_possible_truncation)]
            host.server.map_or(0, |(slots, speed)| (f64::from(slots) * speed * 1e3) as u64)
        };
        Self {
            loads: rtts.iter().map(measured).collect(),
            budgets: vec![RetryBudget::default(); hosts.len()],
            epochs: vec![0; hosts.len()],
            hosts: (0..hosts.len()).map(|host| (mesh.peer(host), host)).collect(),
            weight: hosts.iter().map(weight).collect(),
            stale: loads_now.clone(),
            truth: loads_now,
            rng: Rng::new(mix(setup.seed ^ 0x0b5)),
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
            self.queue.push(Mono(0) + SNAPSHOT, Event::Snapshot);
        }
        while let Some((at, event)) = self.queue.pop_by(Mono(u64::MAX)) {
            self.now = at;
            self.handle(event);
        }
    }

    fn now(&self) -> Now {
        Now { mono: self.now, utc: UTC + self.now.since(Mono(0)) }
    }

    fn arrival(&self, job: u64) -> &'a Arrival {
        &self.setup.arrivals[usize::try_from(job).expect("an index")]
    }

    fn rtt(&self, job: u64, host: usize) -> Duration {
        self.rtts[self.arrival(job).entry][host]
    }

    /// After half a round trip between the job's entry and `host`.
    fn post(&mut self, job: u64, host: usize, event: Event) {
        let at = self.now + self.rtt(job, host) / 2;
        self.queue.push(at, event);
    }

    fn hash(&mut self, kind: u64, job: u64, host: usize) {
        let word = mix(self.now.0 ^ mix(job ^ (kind << 56)) ^ host as u64);
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
                    self.truth[host].in_flight = self.truth[host].in_flight.saturating_sub(1);
                    self.truth[host].hold = server.load().hold;
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
                if self.ended_there(job, host) {
                    self.fly(job, Happened::Refused(Refusal::Draining));
                }
            }
            Event::Lost { job, host } => {
                if self.ended_there(job, host) {
                    let entry = self.arrival(job).entry;
                    self.loads[entry].failed(self.mesh.peer(host), self.now);
                    self.fly(job, Happened::Lost("connection lost".into()));
                }
            }
            Event::Late(job) => {
                let is_late = |air: &&Air| air.flight.late_at() == Some(self.now);
                if self.air.get(&job).filter(is_late).is_some_and(|air| !air.first_byte) {
                    self.fly(job, Happened::Late);
                }
            }
            Event::Cancel { job, host } => self.cancel(job, host),
            Event::Deadline(job) => self.deadline(job),
            Event::Fault(index) => self.fault(index),
            Event::Snapshot => {
                let load = |server: &Option<Server>| server.as_ref().map_or(NOTHING, Server::load);
                self.stale = self.servers.iter().map(load).collect();
                if !self.air.is_empty() {
                    self.queue.push(self.now + SNAPSHOT, Event::Snapshot);
                }
            }
        }
    }

    fn arrive(&mut self, index: usize) {
        if let Some(next) = self.setup.arrivals.get(index + 1) {
            self.queue.push(Mono(0) + next.at, Event::Arrive(index + 1));
        }
        let number = index as u64;
        let arrival = self.arrival(number);
        let deadline = self.now + arrival.deadline;
        let send = Bounds::default();
        let mut job = Job::new(id(number), BUNDLE, arrival.policy.clone(), &send, deadline);
        job.bytes = arrival.bytes;
        self.queue.push(deadline, Event::Deadline(number));
        let view = self.mesh.view(arrival.entry);
        let survey = match self.method {
            Method::Hansa(most) if most > 0 => {
                let loads = &self.loads[arrival.entry];
                Survey::begin(self.now(), &view, loads, &job, || None, most)
            }
            _ => None,
        };
        let chosen = match self.method {
            Method::Direct(_) => self.choose(number, &job),
            Method::Hansa(_) => None,
        };
        let flight = Flight::begin(job);
        let questions: Vec<usize> =
            survey.iter().flat_map(Survey::questions).map(|(peer, _)| self.hosts[&peer]).collect();
        let until = survey.as_ref().map(Survey::until);
        let air = Air {
            flight,
            has_begun: false,
            survey,
            questions: questions.clone(),
            at: Vec::new(),
            first_byte: false,
        };
        self.air.insert(number, air);
        if let Some(until) = until {
            for host in questions {
                self.figures.questions += 1;
                self.post(number, host, Event::Asked { job: number, host });
            }
            self.queue.push(until, Event::Decide(number));
        } else if let Some(host) = chosen {
            // A strategy's choice is obeyed, right or wrong: the checkers judge it.
            self.send(number, host);
        } else {
            self.fly(number, Happened::Begin);
        }
    }

    fn choose(&mut self, number: u64, job: &Job) -> Option<usize> {
        let entry = self.arrival(number).entry;
        if !self.permitted.contains_key(&job.onward_law) {
            let (view, loads) = (self.mesh.view(entry), Loads::new());
            let peers = candidates(self.now(), &view, &loads, job).unwrap_or_default();
            let hosts = peers.iter().map(|peer| self.hosts[peer]).collect();
            self.permitted.insert(job.onward_law, hosts);
        }
        let Method::Direct(strategy) = &mut self.method else { return None };
        strategy.choose(&mut Ask {
            permitted: &self.permitted[&job.onward_law],
            entry,
            weight: &self.weight,
            stale: &self.stale,
            truth: &self.truth,
            rtt: &self.rtts[entry],
            rng: &mut self.rng,
        })
    }

    /// A question reaches a server, which asks its gate as for a job.
    fn asked(&mut self, job: u64, host: usize) {
        let arrival = self.arrival(job);
        let rtt = self.rtt(job, host);
        let now = self.now();
        let gate = self.gate(job, host);
        let Some(server) = self.servers[host].as_mut().filter(|server| server.is_up()) else {
            return; // Silence: the asker decides without it.
        };
        let load = server.load();
        let quote = gate.is_ok().then(|| server.reservations.quote(now.mono, id(job), rtt, load));
        debug_assert!(arrival.bytes > 0);
        self.post(job, host, Event::Quoted { job, host, quote });
    }

    fn gate(&self, job: u64, host: usize) -> Result<(), Refusal> {
        let arrival = self.arrival(job);
        let sender = &self.mesh.record(arrival.entry).charter;
        let own = &self.mesh.record(host).charter;
        let serve = Bounds::default();
        gate::receive(&serve, sender, &arrival.policy, BUNDLE, own, self.now().utc)
    }

    fn decide(&mut self, job: u64) {
        let Some(air) = self.air.get_mut(&job) else { return };
        let Some(order) = air.survey.as_ref().and_then(|survey| survey.decide(self.now)) else {
            return;
        };
        air.survey = None;
        air.flight.prefer(order);
        self.fly(job, Happened::Begin);
        let Some(air) = self.air.get(&job) else { return };
        let (at, asked) = (air.at.clone(), air.questions.clone());
        for host in asked.into_iter().filter(|host| !at.contains(host)) {
            self.post(job, host, Event::Release { job, host });
        }
    }

    fn fly(&mut self, job: u64, happened: Happened) {
        let entry = self.arrival(job).entry;
        let (now, view) = (self.now(), self.mesh.view(entry));
        let Some(air) = self.air.get_mut(&job) else { return };
        let loads = &self.loads[entry];
        // Where a strategy's own choice failed, the flight begins.
        let has_begun = std::mem::replace(&mut air.has_begun, true);
        let is_answer = matches!(happened, Happened::Answered);
        let happened = if has_begun || is_answer { happened } else { Happened::Begin };
        match air.flight.handle(now, happened, &view, loads, &mut self.budgets[entry]) {
            Step::RunLocal => self.send(job, entry),
            Step::Send { to } => self.send(job, self.hosts[&to]),
            Step::Wait => {}
            Step::Answer(outcome) => self.answer(job, outcome.is_ok()),
        }
    }

    fn send(&mut self, job: u64, host: usize) {
        let arrival = self.arrival(job);
        self.figures.checkers.sent(job, &arrival.policy, self.mesh.charter(host));
        self.hash(1, job, host);
        let hosts = &self.setup.hosts;
        self.figures.sends += 1;
        self.figures.cross += u64::from(hosts[host].region != hosts[arrival.entry].region);
        self.loads[arrival.entry].began(self.mesh.peer(host), BUNDLE);
        let air = self.air.get_mut(&job).expect("it flies");
        self.figures.hedges += u64::from(!air.at.is_empty());
        air.at.push(host);
        if let Some(at) = air.flight.late_at() {
            self.queue.push(at, Event::Late(job));
        }
        self.truth[host].in_flight += 1;
        self.post(job, host, Event::Reached { job, host });
    }

    /// The job is no longer at `host`; whether it was.
    fn ended_there(&mut self, job: u64, host: usize) -> bool {
        let Some(air) = self.air.get_mut(&job) else { return false };
        let Some(place) = air.at.iter().position(|at| *at == host) else { return false };
        air.at.remove(place);
        let entry = self.arrival(job).entry;
        self.loads[entry].ended(self.mesh.peer(host), BUNDLE);
        true
    }

    /// The entry wants no answer of `host` any more, and tells it.
    fn leave(&mut self, job: u64, host: usize) {
        if self.ended_there(job, host) {
            self.post(job, host, Event::Cancel { job, host });
        }
    }

    fn cancel(&mut self, job: u64, host: usize) {
        let Some(server) = self.servers[host].as_mut() else { return };
        let before = server.load().in_flight;
        server.cancel(job, self.now);
        let gone = before - server.load().in_flight;
        self.truth[host].in_flight = self.truth[host].in_flight.saturating_sub(gone);
        self.start(host);
    }

    fn reached(&mut self, job: u64, host: usize) {
        let gate = self.gate(job, host);
        let work = self.arrival(job).work;
        let is_wanted = self.air.get(&job).is_some_and(|air| air.at.contains(&host));
        if !is_wanted || !self.servers[host].as_ref().is_some_and(Server::is_up) {
            self.truth[host].in_flight = self.truth[host].in_flight.saturating_sub(1);
            self.post(job, host, Event::Lost { job, host });
        } else if gate.is_err() {
            self.truth[host].in_flight = self.truth[host].in_flight.saturating_sub(1);
            self.post(job, host, Event::Refused { job, host });
        } else if let Some(server) = &mut self.servers[host] {
            server.reservations.release(id(job));
            server.push(job, work);
            self.start(host);
        }
    }

    fn start(&mut self, host: usize) {
        let epoch = self.epochs[host];
        let Some(server) = &mut self.servers[host] else { return };
        while let Some(started) = server.start(self.now) {
            let job = started.job;
            self.queue.push(self.now + started.first, Event::FirstByte { job, host, epoch });
            self.queue.push(self.now + started.last, Event::Ran { job, host, epoch });
        }
    }

    /// The first byte leaves the server: it reaches the entry half a round trip later, which then
    /// wants nobody else's.
    fn first_byte(&mut self, job: u64, host: usize, epoch: u32) {
        let half = self.rtt(job, host) / 2;
        let came = self.arrival(job).at;
        let Some(air) = self.air.get_mut(&job).filter(|air| air.at.contains(&host)) else { return };
        if self.epochs[host] != epoch || std::mem::replace(&mut air.first_byte, true) {
            return;
        }
        for other in air.at.clone().into_iter().filter(|other| *other != host) {
            self.leave(job, other);
        }
        if came >= self.setup.warm {
            self.figures.ttft.push((self.now + half).since(Mono(0) + came));
        }
    }

    fn answer(&mut self, job: u64, is_answer: bool) {
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
    fn deadline(&mut self, job: u64) {
        if self.air.contains_key(&job) {
            self.answer(job, false);
        }
    }

    fn fault(&mut self, index: usize) {
        let (_, host, fault) = self.setup.faults[index];
        self.hash(5, index as u64, host);
        let Some(server) = &mut self.servers[host] else { return };
        match fault {
            Fault::Crash => {
                let lost = server.crash();
                self.epochs[host] += 1;
                for job in lost {
                    self.truth[host].in_flight = self.truth[host].in_flight.saturating_sub(1);
                    self.post(job, host, Event::Lost { job, host });
                }
            }
            Fault::Restart => server.restart(),
            Fault::Slow(times) => server.slow(times),
        }
    }
}

/// A job's id on the wire.
fn id(job: u64) -> JobId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&mix(job.wrapping_add(0x9e37)).to_le_bytes());
    bytes[8..].copy_from_slice(&job.to_le_bytes());
    JobId(bytes)
}
