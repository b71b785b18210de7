//! How a job finds its host: by a strategy at once, or by the core's survey and flight.

use std::collections::BTreeMap;
use std::sync::Arc;

use hansa_core::flight::{Event as Happened, Flight, Step};
use hansa_core::loads::Loads;
use hansa_core::plan::{Job, candidates};
use hansa_core::survey::Survey;
use hansa_core::time::Mono;

use super::{Air, Event, Permitted, Play, WORDS, id};
use crate::jobs::strategy::{Ask, Method};

impl Play<'_> {
    pub(super) fn arrive(&mut self, index: usize) {
        if let Some(next) = self.setup.arrivals.get(index + 1) {
            self.queue.push(Mono(0) + next.at, Event::Arrive(index + 1));
        }
        let number = index;
        let arrival = self.arrival(number);
        if !self.up[arrival.entry] {
            self.figures.orphaned += 1;
            self.figures.unanswered.push(number);
            return self.figures.checkers.orphaned(number);
        }
        self.tell(number, arrival.entry, "arrived");
        self.figures.checkers.came(arrival.entry);
        let deadline = self.now + arrival.deadline;
        let (model, law) = (&self.setup.models[arrival.model], &self.setup.laws[arrival.law]);
        let send = &self.setup.hosts[arrival.entry].send;
        let mut job = Job::new(id(number), model.bundle, law.policy.clone(), send, deadline);
        job.bytes = model.bytes;
        self.queue.push(deadline, Event::Deadline(number));
        let view = self.mesh.view(arrival.entry);
        let survey = match self.method {
            Method::Hansa(asking) if asking.most > 0 => {
                let loads = &self.loads[arrival.entry];
                Survey::begin(self.now_at(arrival.entry), &view, loads, &job, || None, asking)
            }
            _ => None,
        };
        let chosen = match self.method {
            Method::Direct(_) => self.choose(number, &job),
            Method::Hansa(_) => None,
        };
        self.asked_for(number, &job);
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
            refusals: BTreeMap::new(),
            first_byte: false,
            is_overdue: false,
        };
        self.air.insert(number, air);
        if let Some(until) = until {
            for host in questions {
                self.figures.questions += 1;
                let asked = Event::Asked { job: number, host };
                // Of one that it does not reach the asker hears nothing.
                let _ = self.outward(number, host, WORDS, asked);
            }
            self.queue.push(until, Event::Decide(number));
        } else if let Some(host) = chosen {
            // A strategy's choice is obeyed, right or wrong: the checkers judge it.
            self.send(number, host);
        } else {
            self.fly(number, Happened::Begin);
        }
    }

    pub(super) fn choose(&mut self, number: usize, job: &Job) -> Option<usize> {
        let entry = self.arrival(number).entry;
        let key = (entry, job.onward.hash(), job.bundle);
        let view = self.mesh.view(entry);
        if self.permitted.get(&key).is_none_or(|known| !Arc::ptr_eq(&known.view, &view)) {
            let loads = Loads::new();
            let peers = candidates(self.now_at(entry), &view, &loads, job).unwrap_or_default();
            let mut hosts: Vec<usize> = peers.iter().map(|peer| self.hosts[peer]).collect();
            if job.hops_left == 0 {
                hosts.clear();
            }
            if self.runs(number, entry) && self.gate(number, entry).is_ok() {
                hosts.push(entry);
            }
            hosts.iter().for_each(|host| self.rtts[entry][*host] = self.mesh.rtt(entry, *host));
            self.permitted.insert(key, Permitted { view, hosts });
        }
        let Method::Direct(strategy) = &mut self.method else { return None };
        strategy.choose(&mut Ask {
            permitted: &self.permitted[&key].hosts,
            now: self.now,
            entry,
            weight: &self.weight,
            stale: &self.stale,
            truth: &self.truth,
            rtt: &self.rtts[entry],
            rng: &mut self.rng,
        })
    }

    pub(super) fn decide(&mut self, job: usize) {
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
            let _ = self.outward(job, host, WORDS, Event::Release { job, host });
        }
    }

    pub(super) fn fly(&mut self, job: usize, happened: Happened) {
        let entry = self.arrival(job).entry;
        let (now, view) = (self.now_at(entry), self.mesh.view(entry));
        let Some(air) = self.air.get_mut(&job) else { return };
        let loads = &self.loads[entry];
        // Where a strategy's own choice failed, the flight begins.
        let has_begun = std::mem::replace(&mut air.has_begun, true);
        let is_answer = matches!(happened, Happened::Answered);
        let happened = if has_begun || is_answer { happened } else { Happened::Begin };
        if !has_begun {
            self.figures.checkers.begins(job);
        }
        match air.flight.handle(now, happened, &view, loads, &mut self.budgets[entry]) {
            Step::RunLocal => self.send(job, entry),
            Step::Send { to } => self.send(job, self.hosts[&to]),
            Step::Pass { links } => self.begin_pass(job, links),
            Step::Wait => {}
            Step::Answer(outcome) => self.answer(job, outcome.is_ok()),
        }
    }
}
