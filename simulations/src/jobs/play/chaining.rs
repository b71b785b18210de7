//! Jobs that go through several hosts, each with a stage of the model: what a node's `jobs/stages`
//! does, in virtual time. Which hosts, [`chain`] decides, each time anew.
//!
//! Whoever hands a job on waits until all behind it is done; if the next host falls silent, it finds
//! another for that stretch. Outputs come from the last stage alone, straight to the entry.

use std::time::Duration;

use hansa_core::chain::{self, Link, chain};
use hansa_core::flight::Event as Happened;
use hansa_core::gate::{self, Standing};
use hansa_core::id::PeerId;
use hansa_core::limits::ATTEMPTS_MAX;
use hansa_core::loads::{Loads, Report};
use hansa_core::plan::{Job, Refusal};
use hansa_core::policy::Law;
use hansa_core::time::Mono;

use super::serving::SERVING_PATIENCE;
use super::{Event, Play, WORDS, id};
use crate::course::Change;
use crate::jobs::figures::Pass;
use crate::jobs::mesh::{Silence, silence};

/// What a host has handed to another, or to itself, until all behind it is done.
#[derive(Clone)]
pub(super) struct Leg {
    job: usize,
    from: usize,
    to: usize,
    /// The stage that `to` runs, and those after it.
    route: Vec<Link>,
    /// The law that it travels under.
    policy: Law,
    /// The leg that brought the job to `from`; none at the entry.
    parent: Option<usize>,
    tried: Vec<PeerId>,
    attempts: u8,
    is_last_resort: bool,
    /// When it arrived at `to`, and what `to` takes for it.
    arrived: Mono,
    takes: Duration,
    /// Why `to` refuses it: on its way back.
    refusal: Option<Refusal>,
    /// What the pass was so far.
    pass: Pass,
}

/// Outputs on their way to a job's entry.
pub(super) struct Delivery {
    job: usize,
    from: usize,
    pass: Pass,
}

impl Play<'_> {
    /// The entry begins to pass a job through a chain.
    pub(super) fn begin_pass(&mut self, job: usize, route: Vec<Link>) {
        let (from, now) = (self.arrival(job).entry, self.now);
        let Some(air) = self.air.get(&job) else { return };
        let policy = air.flight.job().onward.clone();
        let pass = Pass { job, begun: now, ..Pass::default() };
        self.pass(Leg {
            job,
            from,
            to: from,
            route,
            policy,
            parent: None,
            tried: Vec::new(),
            attempts: 0,
            is_last_resort: false,
            arrived: now,
            takes: Duration::ZERO,
            refusal: None,
            pass,
        });
    }

    /// The job as the host that hands it on sees it.
    fn job_at(&self, leg: &Leg) -> Option<Job> {
        let (air, arrival) = (self.air.get(&leg.job)?, self.arrival(leg.job));
        let Some(parent) = leg.parent else { return Some(air.flight.job().clone()) };
        let parent = self.legs.get(&parent)?;
        let deadline = Mono(0) + arrival.at + arrival.deadline;
        let (bundle, send) =
            (self.setup.models[arrival.model].bundle, &self.setup.hosts[leg.from].send);
        let mut job = Job::new(id(leg.job), bundle, parent.policy.clone(), send, deadline);
        job.path = vec![self.mesh.peer(arrival.entry)];
        job.bytes = self.setup.models[arrival.model].bytes;
        Some(job)
    }

    /// Hands a job to the first stage of its route, if the gate lets it, or to another.
    fn pass(&mut self, mut leg: Leg) {
        let Some(job) = self.job_at(&leg) else { return };
        loop {
            let link = &leg.route[0];
            let (now, view) = (self.now_at(leg.from), self.mesh.view(leg.from));
            let known = if leg.is_last_resort { &Loads::new() } else { &self.loads[leg.from] };
            let Err(rule) = chain::may_pass(now, &view, known, &job, link) else { break };
            let failed = [(rule, 1)].into();
            let refusal = match rule.is_of_the_moment() {
                true => Refusal::Unavailable { failed },
                false => Refusal::PolicyUnsatisfiable { failed },
            };
            if !self.mend(&mut leg, &job) {
                return self.gives_up(&leg, refusal);
            }
        }
        leg.policy = job.onward;
        leg.to = self.hosts[&leg.route[0].peer];
        self.hand_over(leg);
    }

    /// Finds another chain from where this one broke.
    fn mend(&mut self, leg: &mut Leg, job: &Job) -> bool {
        leg.tried.push(leg.route[0].peer);
        leg.attempts += 1;
        leg.pass.mended += 1;
        if leg.attempts >= ATTEMPTS_MAX {
            return false;
        }
        let (now, view) = (self.now_at(leg.from), self.mesh.view(leg.from));
        let start = leg.route[0].from;
        let known = if leg.is_last_resort { &Loads::new() } else { &self.loads[leg.from] };
        let mut ahead = chain(now, &view, known, job, start, &leg.tried);
        if ahead.is_none() && !std::mem::replace(&mut leg.is_last_resort, true) {
            // Where nobody else is left, those that seemed lost are asked once more.
            leg.tried.clear();
            ahead = chain(now, &view, &Loads::new(), job, start, &leg.tried);
        }
        let Some(ahead) = ahead else { return false };
        leg.route = ahead.links;
        true
    }

    fn hand_over(&mut self, leg: Leg) {
        let Leg { job, from, to, .. } = leg;
        self.figures.checkers.passed(self.setup, job, from, to);
        self.hash(9, job, to);
        self.figures.sends += 1;
        let hosts = &self.setup.hosts;
        self.figures.cross += u64::from(hosts[from].region != hosts[to].region);
        self.loads[from].began(leg.route[0].peer, leg.route[0].bundle);
        let bytes = self.setup.models[self.arrival(job).model].bytes.max(WORDS + 1);
        let number = self.legs_begun;
        self.legs_begun += 1;
        self.legs.insert(number, leg);
        if let Err(silence) = self.call(from, to, bytes, Event::StageReached(number)) {
            self.lose_stage(number, silence);
        }
    }

    fn lose_stage(&mut self, number: usize, Silence(after): Silence) {
        self.queue.push(self.now + after, Event::StageLost(number));
    }

    /// What a server calls the work of a leg.
    fn run_of(&self, leg: usize) -> usize {
        self.setup.arrivals.len() + leg
    }

    /// The leg that a server works for, if it is one.
    pub(super) fn leg_of(&self, run: usize) -> Option<usize> {
        run.checked_sub(self.setup.arrivals.len())
    }

    /// The job that a server works for.
    pub(super) fn job_of(&self, run: usize) -> Option<usize> {
        match self.leg_of(run) {
            None => Some(run),
            Some(leg) => Some(self.legs.get(&leg)?.job),
        }
    }

    pub(super) fn stage_reached(&mut self, number: usize) {
        let Some(leg) = self.legs.get(&number) else { return };
        let (job, from, to) = (leg.job, leg.from, leg.to);
        if !self.up[to] || self.servers[to].is_none() {
            let silence = Silence(silence(self.mesh.rtt(from, to)));
            return self.lose_stage(number, silence);
        }
        if let Err(refusal) = self.stage_gate(leg) {
            return self.refuse_stage(number, refusal);
        }
        self.figures.checkers.received(self.setup, job, from, to);
        let arrival = self.arrival(job);
        let (model, link) = (&self.setup.models[arrival.model], self.legs[&number].route[0]);
        let part = f64::from(link.to - link.from) / f64::from(model.nodes());
        let server = self.setup.hosts[to].server.as_ref().expect("one that serves");
        let work = self.setup.device(server).work(&arrival.size, model.work * part);
        let (run, now) = (self.run_of(number), self.now);
        self.legs.get_mut(&number).expect("it was there").arrived = now;
        self.servers[to].as_mut().expect("one that serves").push(run, work);
        self.tell(job, to, "waiting");
        self.start(to);
    }

    /// The gate of the peer that receives a stage.
    fn stage_gate(&self, leg: &Leg) -> Result<(), Refusal> {
        let arrival = self.arrival(leg.job);
        let (model, host) = (&self.setup.models[arrival.model], &self.setup.hosts[leg.to]);
        let utc = self.now_at(leg.to).utc;
        let charter = |of: usize| &self.mesh.record(of).charter;
        // What does not move has passed the gate when it was handed on.
        if leg.from != leg.to {
            let (sender, own) = (charter(leg.from), Standing::from(self.mesh.record(leg.to)));
            gate::receive(&host.serve, sender, &leg.policy, model.bundle, own, utc)?;
            gate::serve_entry(&host.serve, charter(arrival.entry), utc)?;
        }
        let link = leg.route[0];
        let is_it = |(of, stage): &(usize, usize)| {
            *of == arrival.model && model.stages[*stage] == link.bundle
        };
        match host.server.as_ref().is_some_and(|server| server.stages.iter().any(is_it)) {
            true => Ok(()),
            false => Err(Refusal::UnknownModel { model: model.name.clone(), hint: String::new() }),
        }
    }

    /// A slot of its host is busy with a stage.
    pub(super) fn stage_starts(&mut self, number: usize, takes: Duration) {
        let now = self.now;
        if let Some(leg) = self.legs.get_mut(&number) {
            leg.takes = takes;
            leg.pass.waited += now.since(leg.arrived);
        }
    }

    /// A stage is done: what comes of it goes on, or home.
    pub(super) fn stage_ran(&mut self, number: usize) {
        let Some(leg) = self.legs.get(&number).cloned() else { return };
        let mut pass = leg.pass.clone();
        pass.law += leg.takes + self.mesh.rtt(leg.from, leg.to) / 2;
        pass.hosts.push(leg.to);
        if leg.route.len() > 1 {
            let next = Leg {
                from: leg.to,
                route: leg.route[1..].to_vec(),
                parent: Some(number),
                tried: Vec::new(),
                attempts: 0,
                is_last_resort: false,
                takes: Duration::ZERO,
                pass,
                ..leg
            };
            return self.pass(next);
        }
        let entry = self.arrival(leg.job).entry;
        pass.law += self.mesh.rtt(leg.to, entry) / 2;
        let delivery = Delivery { job: leg.job, from: leg.to, pass };
        self.deliveries.insert(number, delivery);
        let bytes = self.setup.models[self.arrival(leg.job).model].output_bytes.max(WORDS + 1);
        match self.call(leg.to, entry, bytes, Event::Delivered(number)) {
            Ok(()) => self.tell_done(number),
            Err(Silence(after)) => {
                let last = "the job's entry is lost".to_owned();
                self.legs.get_mut(&number).expect("it was there").refusal =
                    Some(Refusal::Failed { attempts: 1, last });
                self.queue.push(self.now + after, Event::StageRefused(number));
            }
        }
    }

    /// The outputs are at the entry.
    pub(super) fn delivered(&mut self, number: usize) {
        let Some(Delivery { job, from, pass }) = self.deliveries.remove(&number) else { return };
        let (entry, model) = (self.arrival(job).entry, self.arrival(job).model);
        let (bundle, utc) = (self.setup.models[model].bundle, self.now_at(entry).utc);
        let Some(air) = self.air.get_mut(&job) else { return };
        let sender = self.mesh.record(from);
        let policy = &air.flight.job().onward;
        let is_welcome =
            from == entry || gate::receive_delivery(policy, bundle, sender, utc).is_ok();
        if !is_welcome || std::mem::replace(&mut air.first_byte, true) {
            return;
        }
        let came = self.arrival(job).at;
        if came >= self.setup.warm {
            self.figures.ttft.push((self.now.since(Mono(0) + came), job));
            let took = self.now.since(pass.begun);
            self.figures.passes.push(Pass { took, ..pass });
        }
        let region = |host: usize| self.setup.hosts[host].region;
        *self.figures.flows.entry((region(entry), region(from))).or_default() += 1;
        self.fly(job, Happened::Answered);
    }

    /// Tells the one before that all from this leg on is done.
    fn tell_done(&mut self, number: usize) {
        let (from, to) = (self.legs[&number].from, self.legs[&number].to);
        if let Err(silence) = self.post(to, from, WORDS, Event::StageDone(number)) {
            self.lose_stage(number, silence);
        }
    }

    pub(super) fn stage_done(&mut self, number: usize) {
        let Some(leg) = self.legs.remove(&number) else { return };
        let (peer, bundle) = (leg.route[0].peer, leg.route[0].bundle);
        let in_flight = self.servers[leg.to].as_ref().map_or(0, |server| server.load().in_flight);
        let loads = &mut self.loads[leg.from];
        loads.ended(peer, bundle);
        let took = loads.rtt(peer).unwrap_or_default() + leg.takes;
        let (service, queue) = (leg.takes, Duration::ZERO);
        let report = Report { took, service, queue, rows: 1, bytes: 0, in_flight };
        loads.answered(peer, bundle, report, self.now);
        if let Some(parent) = leg.parent.filter(|parent| self.legs.contains_key(parent)) {
            self.tell_done(parent);
        }
    }

    /// The host that has a leg has fallen silent: whoever handed it over finds another.
    pub(super) fn stage_lost(&mut self, number: usize) {
        let Some(leg) = self.legs.remove(&number) else { return };
        let (peer, bundle) = (leg.route[0].peer, leg.route[0].bundle);
        self.loads[leg.from].ended(peer, bundle);
        self.loads[leg.from].failed(peer, self.now);
        self.abandon(number, &leg);
        if self.up[leg.from] {
            let attempts = u32::from(leg.attempts) + 1;
            self.again(leg, Refusal::Failed { attempts, last: "connection lost".into() });
        }
    }

    fn refuse_stage(&mut self, number: usize, refusal: Refusal) {
        let Some(leg) = self.legs.get_mut(&number) else { return };
        leg.refusal = Some(refusal);
        let (from, to) = (leg.from, leg.to);
        if let Err(silence) = self.post(to, from, WORDS, Event::StageRefused(number)) {
            self.lose_stage(number, silence);
        }
    }

    pub(super) fn stage_refused(&mut self, number: usize) {
        let Some(leg) = self.legs.remove(&number) else { return };
        self.loads[leg.from].ended(leg.route[0].peer, leg.route[0].bundle);
        let refusal = leg.refusal.clone().expect("it was refused");
        match refusal {
            Refusal::Busy { .. }
            | Refusal::Draining
            | Refusal::NotServed { .. }
            | Refusal::UnknownModel { .. } => self.again(leg, refusal),
            // What lies further ahead was mended as well as it could be by who saw it.
            _ => self.gives_up(&leg, refusal),
        }
    }

    fn again(&mut self, mut leg: Leg, refusal: Refusal) {
        let Some(job) = self.job_at(&leg) else { return };
        leg.refusal = None;
        if self.mend(&mut leg, &job) {
            self.pass(leg);
        } else {
            self.gives_up(&leg, refusal);
        }
    }

    /// The host at which a leg begins cannot hand it on.
    fn gives_up(&mut self, leg: &Leg, refusal: Refusal) {
        match leg.parent {
            Some(parent) => self.refuse_stage(parent, refusal),
            None if self.air.contains_key(&leg.job) => {
                self.fly(leg.job, Happened::Refused(refusal));
            }
            None => {}
        }
    }

    /// Nobody waits any more for what comes of a leg, and its hosts learn it by silence.
    fn abandon(&mut self, number: usize, leg: &Leg) {
        let notices = silence(self.mesh.rtt(leg.from, leg.to)) * SERVING_PATIENCE;
        let (run, host) = (self.run_of(number), leg.to);
        self.queue.push(self.now + notices, Event::Cancel { job: run, host });
        let is_child = |child: &Leg| child.parent == Some(number);
        let children = self.legs.iter().filter(|(_, child)| is_child(child));
        for child in children.map(|(child, _)| *child).collect::<Vec<usize>>() {
            let leg = self.legs.remove(&child).expect("just seen");
            self.loads[leg.from].ended(leg.route[0].peer, leg.route[0].bundle);
            self.abandon(child, &leg);
        }
    }

    /// The job is over before its chain is: all who have a part of it are told to stop.
    pub(super) fn stop_stages(&mut self, job: usize) {
        let entry = self.arrival(job).entry;
        let legs = self.legs.iter().filter(|(_, leg)| leg.job == job);
        for number in legs.map(|(number, _)| *number).collect::<Vec<usize>>() {
            let leg = self.legs.remove(&number).expect("just seen");
            self.loads[leg.from].ended(leg.route[0].peer, leg.route[0].bundle);
            let cancel = Event::Cancel { job: self.run_of(number), host: leg.to };
            // One that does not hear of it works in vain.
            let _ = self.call(entry, leg.to, WORDS, cancel);
        }
    }

    /// Takes the fall of a host to the legs that it has or waits for.
    pub(super) fn stages_fall(&mut self, host: usize) {
        let here: Vec<(usize, usize, usize)> =
            self.legs.iter().map(|(number, leg)| (*number, leg.from, leg.to)).collect();
        for (number, from, to) in here {
            if to == host && from != host {
                let silence = Silence(silence(self.mesh.rtt(from, to)));
                self.lose_stage(number, silence);
            } else if from == host
                && let Some(leg) = self.legs.remove(&number)
            {
                // Who waited for it is gone; whoever waits for that one hands it to another.
                self.abandon(number, &leg);
            }
        }
    }

    /// Legs between hosts that no longer hear each other are lost.
    pub(super) fn lose_stages(&mut self, change: &Change) {
        let broken = self.legs.iter().filter_map(|(number, leg)| {
            Some((*number, self.mesh.broken_by(change, leg.from, leg.to)?))
        });
        for (number, silence) in broken.collect::<Vec<_>>() {
            self.lose_stage(number, silence);
        }
    }
}
