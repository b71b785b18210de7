//! Hosts that decide for themselves what they hold: the core's [`Placement`] at each of them, and
//! what it takes to do what it says.

use std::collections::BTreeMap;
use std::time::Duration;

use hansa_core::gate::{self, Standing};
use hansa_core::id::Digest;
use hansa_core::placement::{Move, Notice, Placement, Shelf, State, Stock};
use hansa_core::plan::Job;
use hansa_core::time::Mono;

use super::{Event, Play};
use crate::jobs::figures::Moved;
use crate::jobs::mesh::{Silence, offers};
use crate::jobs::setup::{Host, Model};

/// Each host looks this often.
const ROUND: Duration = Duration::from_secs(1);

/// One host's own decisions.
pub(super) struct Mover {
    machine: Placement,
    /// The model that is on its way.
    loading: Option<usize>,
    /// Since when it holds what it took.
    since: BTreeMap<usize, Mono>,
    notice: Notice,
}

impl Mover {
    pub(super) fn new(host: &Host) -> Self {
        Self {
            machine: Placement::new(host.serve.clone()),
            loading: None,
            since: BTreeMap::new(),
            notice: Notice::default(),
        }
    }
}

impl Play<'_> {
    /// Hosts look one after the other, as if they had started so.
    pub(super) fn begin_rounds(&mut self) {
        let hosts = u32::try_from(self.movers.len()).unwrap_or(u32::MAX);
        for (host, part) in (0..self.movers.len()).zip(0..) {
            self.queue.push(Mono(0) + ROUND * part / hosts, Event::Round(host));
        }
    }

    /// A job has come to its entry.
    pub(super) fn asked_for(&mut self, number: usize, job: &Job) {
        let entry = self.arrival(number).entry;
        if let Some(mover) = self.movers.get_mut(entry) {
            mover.machine.asked(self.now, job);
            self.queue.push(self.now + self.setup.late, Event::Overdue(number));
        }
    }

    /// A job has its answer, which may be a refusal.
    pub(super) fn count(&mut self, number: usize, is_answer: bool) {
        let entry = self.arrival(number).entry;
        let (Some(mover), Some(air)) = (self.movers.get_mut(entry), self.air.get(&number)) else {
            return;
        };
        if is_answer {
            mover.machine.answered(self.now, air.flight.job());
        } else if !air.is_overdue {
            mover.machine.missed(self.now, air.flight.job());
        }
    }

    /// The job's first byte should be here by now.
    pub(super) fn overdue(&mut self, number: usize) {
        let entry = self.arrival(number).entry;
        let Some(air) = self.air.get_mut(&number).filter(|air| !air.first_byte) else { return };
        air.is_overdue = true;
        self.movers[entry].machine.missed(self.now, air.flight.job());
    }

    /// A host's slot is busy with a job for so long.
    pub(super) fn works(&mut self, number: usize, host: usize, takes: Duration) {
        if let (Some(mover), Some(air)) = (self.movers.get_mut(host), self.air.get(&number)) {
            mover.machine.ran(self.now, air.flight.job(), takes);
        }
    }

    /// A host looks at what is wanted, and does what it decides.
    pub(super) fn round(&mut self, host: usize) {
        if self.goes_on() {
            self.queue.push(self.now + ROUND, Event::Round(host));
        }
        if !self.up[host] {
            return;
        }
        let mut is_news = false;
        if let Some(server) = &self.setup.hosts[host].server {
            let (stock, device) = (self.stock(host), self.setup.device(server));
            let slots = u16::try_from(device.slots).unwrap_or(u16::MAX);
            let shelf = Shelf { bytes_max: self.setup.memory(server), slots, stock: &stock };
            let (now, view) = (self.now_at(host), self.mesh.view(host));
            for step in self.movers[host].machine.decide(now, &view, &shelf) {
                match step {
                    Move::Drop { bundle } => self.drops(host, self.model(bundle)),
                    Move::Hold { bundle } => self.fetches(host, self.model(bundle)),
                }
                is_news = true;
            }
        }
        let mover = &mut self.movers[host];
        if let Some(notice) = mover.machine.notice(self.now) {
            mover.notice = notice;
            is_news = true;
        }
        if is_news {
            self.publish(host);
        }
    }

    fn model(&self, bundle: Digest) -> usize {
        let is_meant = |model: &Model| model.bundle == bundle;
        self.setup.models.iter().position(is_meant).expect("it was in the stock")
    }

    /// All models, as a server sees them.
    fn stock(&self, host: usize) -> Vec<Stock> {
        let Some(server) = &self.setup.hosts[host].server else { return Vec::new() };
        let (pace, mover) = (self.setup.pace(server), &self.movers[host]);
        let stock = |(number, model): (usize, &Model)| Stock {
            bundle: model.bundle,
            bytes: model.size,
            law: model.law.clone(),
            // Jobs a minute are few.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            per_minute: (pace / model.work * 60.0) as u32,
            state: if self.held[host].contains(&number) {
                State::Held { since: mover.since.get(&number).copied().unwrap_or_default() }
            } else if mover.loading == Some(number) {
                State::Loading
            } else {
                State::Absent
            },
        };
        self.setup.models.iter().enumerate().map(stock).collect()
    }

    fn drops(&mut self, host: usize, model: usize) {
        self.held[host].remove(&model);
        let law = &self.setup.models[model].law.bounds;
        let serves = |other: &usize| {
            let charter = &self.mesh.record(*other).charter;
            let utc = self.now_at(*other).utc;
            self.up[*other]
                && self.held[*other].contains(&model)
                && gate::within(law, charter, utc).is_ok()
        };
        let left = (0..self.held.len()).filter(serves).count();
        self.figures.checkers.dropped(host, model, left);
        self.moved(host, model, false);
    }

    /// Fetches a model from the nearest peer that holds it and gives it, and loads it.
    fn fetches(&mut self, host: usize, model: usize) {
        let mut held = self.held[host].clone();
        held.insert(model);
        self.figures.checkers.held(self.setup, host, model, &held);
        self.moved(host, model, true);
        let spec = &self.setup.models[model];
        let (view, own) = (self.mesh.view(host), &self.mesh.record(host).charter);
        let gives = |source: &usize| {
            let (record, utc) = (self.mesh.record(*source), self.now_at(*source).utc);
            let serve = &self.setup.hosts[*source].serve;
            *source != host
                && gate::receive(serve, own, &spec.law, spec.bundle, Standing::from(record), utc)
                    .is_ok()
        };
        let holders = view.holders(spec.bundle).map(|entry| self.hosts[&entry.record.advert.peer]);
        let source = holders.filter(gives).min_by_key(|source| self.mesh.rtt(host, *source));
        let epoch = self.epochs[host];
        self.movers[host].loading = Some(model);
        let server = self.setup.hosts[host].server.as_ref().expect("one that serves");
        let pace = u64::from(self.setup.device(server).load_mib_per_s) << 20;
        let takes = Duration::from_micros(spec.size * 1_000_000 / pace);
        let has_it = |source: usize| self.up[source] && self.held[source].contains(&model);
        let (after, came) = match source.filter(|source| has_it(*source)) {
            Some(source) => {
                let dialled = self.mesh.dial(host, source);
                match dialled.and_then(|()| self.mesh.carry(source, host, spec.size)) {
                    Ok(way) => (way + takes, true),
                    Err(Silence(after)) => (after, false),
                }
            }
            // Whoever seemed to have it has it no more, or there is nobody who may give it.
            None => (source.map_or(Duration::ZERO, |source| self.mesh.rtt(host, source)), false),
        };
        self.queue.push(self.now + after, Event::Loaded { host, model, epoch, came });
    }

    pub(super) fn loaded(&mut self, host: usize, model: usize, epoch: u32, came: bool) {
        if self.epochs[host] != epoch {
            return; // It went down meanwhile.
        }
        let mover = &mut self.movers[host];
        mover.loading = None;
        if came {
            mover.since.insert(model, self.now);
            self.held[host].insert(model);
            self.publish(host);
        } else {
            mover.machine.failed(self.now, self.setup.models[model].bundle);
        }
    }

    /// A host that is back says what it holds: it is on its disk.
    pub(super) fn comes_back(&mut self, host: usize) {
        if self.epochs[host] > 0 && !self.movers.is_empty() {
            self.publish(host);
        }
    }

    /// A host that goes down forgets what it counted.
    pub(super) fn forgets(&mut self, host: usize) {
        if let Some(mover) = self.movers.get_mut(host) {
            let since = std::mem::take(&mut mover.since);
            *mover = Mover { since, ..Mover::new(&self.setup.hosts[host]) };
        }
    }

    fn moved(&mut self, host: usize, model: usize, is_held: bool) {
        self.hash(7 + u64::from(is_held), model, host);
        self.figures.moves.push(Moved { at: self.now, host, model, is_held });
    }

    fn publish(&mut self, host: usize) {
        let mut advert = self.mesh.record(host).advert.clone();
        advert.models = offers(self.setup, &self.setup.hosts[host], &self.held[host]);
        advert.tell(&self.movers[host].notice);
        self.mesh.publish(host, advert);
    }
}
