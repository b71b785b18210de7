//! What happens at the servers: gates, quotes, queues, crashes.

use hansa_core::flight::RetryBudget;
use hansa_core::gate::{self, Standing};
use hansa_core::loads::Loads;
use hansa_core::plan::Refusal;
use hansa_core::quote::Load;
use hansa_core::time::Mono;

use super::{Air, Event, NOTHING, Play, WORDS, id};
use crate::course::Change;
use crate::jobs::mesh::{Silence, silence};
use crate::jobs::server::Server;

/// Who runs a job waits so many times longer for its entry than the entry for it.
pub(super) const SERVING_PATIENCE: u32 = 10;

impl Play<'_> {
    /// Whether a host holds the job's model and is what the job needs.
    pub(super) fn runs(&self, job: usize, host: usize) -> bool {
        let needs = &self.setup.laws[self.arrival(job).law].policy.device;
        self.holds(job, host) && gate::fits(needs, &self.setup.hosts[host].devices)
    }

    /// Whether a host holds the job's model, whatever its advert says.
    fn holds(&self, job: usize, host: usize) -> bool {
        self.held[host].contains(&self.arrival(job).model)
    }

    /// A question reaches a server, which asks its gate as for a job.
    pub(super) fn asked(&mut self, job: usize, host: usize) {
        let rtt = self.rtt(job, host);
        let now = self.now_at(host);
        let may = self.holds(job, host) && self.gate(job, host).is_ok();
        let Some(server) = self.servers[host].as_mut().filter(|server| server.is_up()) else {
            return; // Silence: the asker decides without it.
        };
        let load = server.load();
        let quote = may.then(|| server.reservations.quote(now.mono, id(job), rtt, load));
        let _ = self.homeward(job, host, WORDS, Event::Quoted { job, host, quote });
    }

    pub(super) fn gate(&self, job: usize, host: usize) -> Result<(), Refusal> {
        let arrival = self.arrival(job);
        let policy = &self.setup.laws[arrival.law].policy;
        let bundle = self.setup.models[arrival.model].bundle;
        let own = self.mesh.record(host);
        let utc = self.now_at(host).utc;
        if host == arrival.entry {
            let unsatisfiable = |rule| Refusal::PolicyUnsatisfiable { failed: [(rule, 1)].into() };
            return gate::admit_entry(policy, bundle, own, utc).map_err(unsatisfiable);
        }
        let sender = &self.mesh.record(arrival.entry).charter;
        gate::receive(
            &self.setup.hosts[host].serve,
            sender,
            policy,
            bundle,
            Standing::from(own),
            utc,
        )
    }

    pub(super) fn reached(&mut self, job: usize, host: usize) {
        self.on_way[host] -= 1;
        self.know(host);
        let arrival = self.arrival(job);
        let model = &self.setup.models[arrival.model];
        let unknown = Refusal::UnknownModel { model: model.name.clone(), hint: String::new() };
        let gate = self.gate(job, host);
        let gate = gate.and_then(|()| if self.holds(job, host) { Ok(()) } else { Err(unknown) });
        let server = self.setup.hosts[host].server.as_ref();
        let device = server.map(|server| self.setup.device(server));
        let is_wanted = |air: &&mut Air| air.at.contains(&host);
        let Some(air) = self.air.get_mut(&job).filter(is_wanted) else { return };
        match (&mut self.servers[host], device, gate) {
            (Some(server), Some(_), Err(refusal)) if server.is_up() => {
                air.refusals.insert(host, refusal);
                // As with an answer.
                let _ = self.homeward(job, host, WORDS, Event::Refused { job, host });
            }
            (Some(server), Some(device), Ok(())) if server.is_up() => {
                self.figures.checkers.taken(self.setup, job, host);
                let work = device.work(&arrival.size, self.setup.models[arrival.model].work);
                server.reservations.release(id(job));
                server.push(job, work);
                self.tell(job, host, "waiting");
                self.start(host);
            }
            // One that is dead says nothing.
            _ => self.lose(job, host, Silence(silence(self.rtt(job, host)))),
        }
    }

    /// What there is to know of a host's load, after a change.
    pub(super) fn know(&mut self, host: usize) {
        let load = self.servers[host].as_ref().map_or(NOTHING, Server::truth);
        let in_flight = load.in_flight + self.on_way[host];
        self.truth[host] = Load { in_flight, ..load };
    }

    pub(super) fn start(&mut self, host: usize) {
        let epoch = self.epochs[host];
        let Some(server) = &mut self.servers[host] else { return };
        let mut begun = Vec::new();
        while let Some(started) = server.start(self.now) {
            let job = started.job;
            begun.push((job, started.last));
            // What comes of a stage has no first byte of its own.
            if job < self.setup.arrivals.len() {
                self.queue.push(self.now + started.first, Event::FirstByte { job, host, epoch });
            }
            self.queue.push(self.now + started.last, Event::Ran { job, host, epoch });
        }
        for (job, takes) in begun {
            if let Some(leg) = self.leg_of(job) {
                self.stage_starts(leg, takes);
            }
            if let Some(job) = self.job_of(job) {
                self.tell(job, host, "running");
                self.works(job, host, takes);
            }
        }
        self.know(host);
    }

    /// The first byte leaves the server.
    pub(super) fn first_byte(&mut self, job: usize, host: usize, epoch: u32) {
        let runs = |server: &Server| server.is_running(job);
        if self.epochs[host] == epoch && self.servers[host].as_ref().is_some_and(runs) {
            // Should it be lost, so is the answer, which is noticed.
            let _ = self.homeward(job, host, WORDS, Event::Begun { job, host });
        }
    }

    /// The first byte is at the entry, which from then on wants nobody else's.
    pub(super) fn begun(&mut self, job: usize, host: usize) {
        let came = self.arrival(job).at;
        let Some(air) = self.air.get_mut(&job).filter(|air| air.at.contains(&host)) else { return };
        if std::mem::replace(&mut air.first_byte, true) {
            return;
        }
        for other in air.at.clone().into_iter().filter(|other| *other != host) {
            self.leave(job, other);
        }
        if came >= self.setup.warm {
            self.figures.ttft.push((self.now.since(Mono(0) + came), job));
        }
    }

    /// Takes what befell hosts to the jobs that they have.
    pub(super) fn befall(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Up(host) => {
                    self.up[host] = true;
                    self.hash(5, host, 0);
                    if let Some(server) = &mut self.servers[host] {
                        server.restart();
                    }
                    self.know(host);
                    self.comes_back(host);
                }
                Change::Down(host) => {
                    self.goes_down(host);
                    self.lose_calls(&change);
                }
                Change::Slow(host, times) => {
                    if let Some(server) = &mut self.servers[host] {
                        server.slow(times);
                    }
                    self.know(host);
                }
                Change::Cut(..) => self.lose_calls(&change),
            }
        }
    }

    fn goes_down(&mut self, host: usize) {
        self.hash(6, host, 0);
        self.up[host] = false;
        self.epochs[host] += 1;
        let lost = self.servers[host].as_mut().map(Server::crash).unwrap_or_default();
        self.stages_fall(host);
        for job in lost.into_iter().filter(|job| *job < self.setup.arrivals.len()) {
            self.lose(job, host, Silence(silence(self.rtt(job, host))));
        }
        // An entry takes its jobs, and what it knew, with it.
        let own = self.air.keys().copied().filter(|job| self.arrival(*job).entry == host);
        for job in own.collect::<Vec<usize>>() {
            let air = self.air.remove(&job).expect("it flies");
            self.figures.orphaned += 1;
            self.figures.unanswered.push(job);
            self.figures.checkers.orphaned(job);
            self.tell(job, host, "failed");
            for at in air.at {
                let notices = silence(self.rtt(job, at)) * SERVING_PATIENCE;
                self.queue.push(self.now + notices, Event::Cancel { job, host: at });
            }
        }
        self.loads[host] = Loads::new();
        self.budgets[host] = RetryBudget::of_percent(self.setup.retry_percent);
        self.figures.checkers.restarted(host);
        self.forgets(host);
        self.know(host);
    }

    /// Calls between hosts that no longer hear each other are lost.
    fn lose_calls(&mut self, change: &Change) {
        let at = self.air.iter().flat_map(|(job, air)| air.at.iter().map(|host| (*job, *host)));
        let broken = at.filter_map(|(job, host)| {
            let silence = self.mesh.broken_by(change, self.arrival(job).entry, host)?;
            Some((job, host, silence))
        });
        for (job, host, silence) in broken.collect::<Vec<_>>() {
            self.lose(job, host, silence);
        }
        self.lose_stages(change);
    }
}
