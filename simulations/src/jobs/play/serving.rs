//! What happens at the servers: gates, quotes, queues, crashes.

use hansa_core::gate;
use hansa_core::plan::Refusal;
use hansa_core::quote::Load;
use hansa_core::time::Mono;

use super::{Air, Event, NOTHING, Play, id};
use crate::jobs::server::Server;
use crate::jobs::setup::{Fault, Host};

impl Play<'_> {
    /// Whether a host holds the job's model and is what the job needs.
    pub(super) fn runs(&self, job: usize, host: usize) -> bool {
        let arrival = self.arrival(job);
        let needs = &self.setup.laws[arrival.law].policy.device;
        let Host { server, devices, .. } = &self.setup.hosts[host];
        let holds = server.as_ref().is_some_and(|server| server.models.contains(&arrival.model));
        holds && gate::fits(needs, devices)
    }

    /// A question reaches a server, which asks its gate as for a job.
    pub(super) fn asked(&mut self, job: usize, host: usize) {
        let rtt = self.rtt(job, host);
        let now = self.now();
        let gate = self.gate(job, host);
        let Some(server) = self.servers[host].as_mut().filter(|server| server.is_up()) else {
            return; // Silence: the asker decides without it.
        };
        let load = server.load();
        let quote = gate.is_ok().then(|| server.reservations.quote(now.mono, id(job), rtt, load));
        self.post(job, host, Event::Quoted { job, host, quote });
    }

    pub(super) fn gate(&self, job: usize, host: usize) -> Result<(), Refusal> {
        let arrival = self.arrival(job);
        let policy = &self.setup.laws[arrival.law].policy;
        let bundle = self.setup.models[arrival.model].bundle;
        let own = &self.mesh.record(host).charter;
        let utc = self.now().utc;
        if host == arrival.entry {
            let unsatisfiable = |rule| Refusal::PolicyUnsatisfiable { failed: [(rule, 1)].into() };
            return gate::admit_entry(policy, bundle, own, utc).map_err(unsatisfiable);
        }
        let sender = &self.mesh.record(arrival.entry).charter;
        gate::receive(&self.setup.hosts[host].serve, sender, policy, bundle, own, utc)
    }

    pub(super) fn reached(&mut self, job: usize, host: usize) {
        self.on_way[host] -= 1;
        self.know(host);
        let gate = self.gate(job, host);
        let arrival = self.arrival(job);
        let server = self.setup.hosts[host].server.as_ref();
        let device = server.map(|server| self.setup.device(server));
        let is_wanted = |air: &&mut Air| air.at.contains(&host);
        let Some(air) = self.air.get_mut(&job).filter(is_wanted) else { return };
        match (&mut self.servers[host], device, gate) {
            (Some(server), Some(_), Err(refusal)) if server.is_up() => {
                air.refusals.insert(host, refusal);
                self.post(job, host, Event::Refused { job, host });
            }
            (Some(server), Some(device), Ok(())) if server.is_up() => {
                self.figures.checkers.taken(self.setup, job, host);
                let work = device.work(&arrival.size, self.setup.models[arrival.model].work);
                server.reservations.release(id(job));
                server.push(job, work);
                self.start(host);
            }
            _ => self.post(job, host, Event::Lost { job, host }),
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
        while let Some(started) = server.start(self.now) {
            let job = started.job;
            self.queue.push(self.now + started.first, Event::FirstByte { job, host, epoch });
            self.queue.push(self.now + started.last, Event::Ran { job, host, epoch });
        }
        self.know(host);
    }

    /// The first byte leaves the server: it reaches the entry half a round trip later, which then
    /// wants nobody else's.
    pub(super) fn first_byte(&mut self, job: usize, host: usize, epoch: u32) {
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
            self.figures.ttft.push(((self.now + half).since(Mono(0) + came), job));
        }
    }

    pub(super) fn fault(&mut self, index: usize) {
        let (_, host, fault) = self.setup.faults[index];
        self.hash(5, index, host);
        let Some(server) = &mut self.servers[host] else { return };
        match fault {
            Fault::Crash => {
                let lost = server.crash();
                self.epochs[host] += 1;
                for job in lost {
                    self.post(job, host, Event::Lost { job, host });
                }
            }
            Fault::Restart => server.restart(),
            Fault::Slow(times) => server.slow(times),
        }
        self.know(host);
    }
}
