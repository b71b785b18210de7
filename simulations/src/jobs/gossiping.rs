//! A mesh whose peers gossip while they work: one world, one time, the same faults.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hansa_core::advert::{Advert, Record};
use hansa_core::id::PeerId;
use hansa_core::time::{Mono, Utc};
use hansa_core::view::View;

use super::mesh::{Mesh, Silence, records, silence, trust};
use super::setup::Setup;
use crate::course::{Change, Course};
use crate::recording::ReplayEvent;
use crate::scenario::Scenario;

/// The peers of a scenario, which gossip.
pub struct Gossiping<'a> {
    /// What befalls them.
    pub course: Course<'a>,
    records: Vec<Arc<Record>>,
    /// Pairs of a peer behind NAT and one that it has dialled to send it jobs.
    dialled: BTreeSet<(usize, usize)>,
}

impl<'a> Gossiping<'a> {
    /// The world of `scenario`, in which each peer says what `setup` makes of it.
    pub fn new(scenario: &'a Scenario, setup: &Setup, seed: u64) -> Self {
        let mut course = Course::new(scenario, seed);
        let world = &mut course.world;
        let trust = Arc::new(trust());
        world.set_trust(&trust);
        let records = records(setup, &trust, |host| world.key(host));
        let advert =
            |record: &Arc<Record>| Advert { version: Default::default(), ..record.advert.clone() };
        world.set_adverts(records.iter().map(advert).collect());
        Self { course, records, dialled: BTreeSet::new() }
    }
}

impl Mesh for Gossiping<'_> {
    fn peer(&self, host: usize) -> PeerId {
        self.course.world.id(host)
    }

    fn record(&self, host: usize) -> &Record {
        &self.records[host]
    }

    fn view(&self, host: usize) -> Arc<View> {
        self.course.world.view(host)
    }

    fn utc(&self, host: usize) -> Utc {
        self.course.world.utc(host)
    }

    fn rtt(&self, a: usize, b: usize) -> Duration {
        if a == b { Duration::ZERO } else { self.course.world.links().latency(a, b) * 2 }
    }

    fn measured(&mut self) -> Vec<(usize, PeerId, Duration)> {
        self.course.world.measured()
    }

    fn carry(&mut self, from: usize, to: usize, bytes: u64) -> Result<Duration, Silence> {
        if from == to {
            return Ok(Duration::ZERO);
        }
        let patience = silence(self.rtt(from, to));
        let world = &mut self.course.world;
        if world.is_hidden(from) {
            self.dialled.insert((from, to));
        }
        if world.is_hidden(to) && !self.dialled.contains(&(to, from)) {
            // It has no address to dial, which is known at once.
            return Err(Silence(Duration::ZERO));
        }
        let now = world.now();
        let links = world.links_mut();
        let mut waits = Duration::ZERO;
        if let Some(healed) = links.cut_until(from, to, now) {
            waits = healed.since(now) + links.retransmission_after(from, to);
            if waits >= patience {
                return Err(Silence(patience));
            }
        }
        Ok(waits + links.draw_delay(from, to) + links.queue(from, bytes, now))
    }

    fn begin(&mut self) -> Vec<Change> {
        self.course.begin()
    }

    fn next(&self) -> Option<Mono> {
        self.course.next()
    }

    fn change(&mut self) -> Vec<Change> {
        let changes = self.course.act();
        for change in &changes {
            if let Change::Down(host) = change {
                self.dialled.retain(|(from, to)| from != host && to != host);
            }
        }
        changes
    }

    fn advance(&mut self, until: Mono) {
        self.course.world.run_until(until);
    }

    fn publish(&mut self, host: usize, advert: Advert) {
        self.course.world.publish_advert(host, advert);
    }

    fn note(&mut self, event: ReplayEvent) {
        self.course.world.note(event);
    }
}
