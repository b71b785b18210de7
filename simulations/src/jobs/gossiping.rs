//! A mesh whose peers gossip while they work: one world, one time, the same faults.

use std::sync::Arc;
use std::time::Duration;

use hansa_core::advert::{Advert, Record};
use hansa_core::id::PeerId;
use hansa_core::time::{Mono, Utc};
use hansa_core::view::View;

use super::mesh::{Mesh, Silence, records, silence, trust};
use super::setup::Setup;
use super::ways::{Ways, hops};
use crate::course::{Change, Course};
use crate::recording::ReplayEvent;
use crate::scenario::Scenario;

/// The peers of a scenario, which gossip.
pub struct Gossiping<'a> {
    /// What befalls them.
    pub course: Course<'a>,
    records: Vec<Arc<Record>>,
    ways: Ways,
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
        Self { course, records, ways: Ways::default() }
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
        self.ways.rtt(&self.course.world, a, b)
    }

    fn measured(&mut self) -> Vec<(usize, PeerId, Duration)> {
        self.course.world.measured()
    }

    fn dial(&mut self, from: usize, to: usize) -> Result<(), Silence> {
        self.ways.dial(&self.course.world, from, to)
    }

    fn carry(&mut self, from: usize, to: usize, bytes: u64) -> Result<Duration, Silence> {
        if from == to {
            return Ok(Duration::ZERO);
        }
        let patience = silence(self.rtt(from, to));
        let world = &mut self.course.world;
        let relay = self.ways.by(world, from, to)?;
        let now = world.now();
        let links = world.links_mut();
        let mut waits = Duration::ZERO;
        for (a, b) in hops(from, relay, to) {
            let Some(healed) = links.cut_until(a, b, now) else { continue };
            if healed.since(now) >= patience {
                return Err(Silence(patience));
            }
            waits = waits.max(healed.since(now) + links.retransmission_after(a, b));
        }
        let on_way: Duration = hops(from, relay, to).map(|(a, b)| links.draw_delay(a, b)).sum();
        // A relay passes on packet by packet, so that the busier of the uplinks sets the pace.
        let leaves = hops(from, relay, to).map(|(a, _)| links.queue(a, bytes, now)).max();
        Ok(waits + on_way + leaves.unwrap_or_default())
    }

    fn broken_by(&self, change: &Change, a: usize, b: usize) -> Option<Silence> {
        self.ways.broken_by(&self.course.world, change, a, b)
    }

    fn begin(&mut self) -> Vec<Change> {
        self.course.begin()
    }

    fn next(&self) -> Option<Mono> {
        self.course.next()
    }

    fn change(&mut self) -> Vec<Change> {
        let changes = self.course.act();
        changes.iter().for_each(|change| self.ways.befall(&self.course.world, change));
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::jobs::stage::stage;

    const SECOND: Duration = Duration::from_secs(1);

    fn scenario() -> Scenario {
        let toml = "name = 'x'\nseconds = 90\nsettled = true\n\
                    [links]\nlatency_ms = [20, 100]\njitter_ms = 0\nbandwidth_mbit = 800\n\
                    [[region]]\nname = 'a'\nat = [52.3, 4.8]\nlocation = 'NL'\npeers = 12\n\
                    [[fault]]\nkind = 'nat'\ncount = 2\nat_s = 0";
        Scenario::parse(toml).unwrap()
    }

    /// A mesh that has found itself; one in the open, one behind NAT, and its relays.
    fn settled(scenario: &Scenario) -> (Gossiping<'_>, usize, usize, Vec<usize>) {
        let mut mesh = Gossiping::new(scenario, &stage(scenario, 1).unwrap(), 1);
        mesh.begin();
        mesh.advance(Mono(0) + SECOND * 20);
        let world = &mesh.course.world;
        let hidden = (0..12).find(|host| world.is_hidden(*host)).unwrap();
        let view = world.view(0);
        let advert = &view.get(world.id(hidden)).unwrap().record.advert;
        let relays: Vec<usize> = advert.relays.iter().map(|relay| world.host_of(*relay)).collect();
        let is_other = |host: &usize| !world.is_hidden(*host) && !relays.contains(host);
        let open = (0..12).find(is_other).unwrap();
        assert_eq!(relays.len(), 3, "{relays:?}");
        (mesh, open, hidden, relays)
    }

    fn one_way(mesh: &Gossiping<'_>, path: &[usize]) -> Duration {
        path.windows(2).map(|hop| mesh.course.world.links().latency(hop[0], hop[1])).sum()
    }

    fn befall(mesh: &mut Gossiping<'_>, change: &Change) {
        match change {
            Change::Down(host) => mesh.course.world.kill(*host),
            Change::Cut(side, until) => {
                let lasting = until.since(mesh.course.world.now());
                mesh.course.world.cut(side.clone(), lasting);
            }
            _ => {}
        }
        mesh.ways.befall(&mesh.course.world, change);
    }

    #[test]
    fn the_way_to_a_peer_behind_nat_is_that_by_its_relay() {
        let scenario = scenario();
        let (mut mesh, open, hidden, relays) = settled(&scenario);
        assert!(mesh.carry(open, hidden, 0).is_err(), "nobody has dialled");
        let way = [open, relays[0], hidden];
        assert_eq!(mesh.rtt(open, hidden), one_way(&mesh, &way) * 2);
        assert_eq!(mesh.dial(open, hidden), Ok(()));
        assert_eq!(mesh.carry(open, hidden, 0), Ok(one_way(&mesh, &way)));
        assert_eq!(mesh.carry(hidden, open, 0), Ok(one_way(&mesh, &way)));
        // A relay has a connection with its peer, and whom the peer has dialled has one, too.
        let is_another = |host: &usize| *host != open && *host != hidden && !relays.contains(host);
        let another = (0..12).rfind(is_another).unwrap();
        for (dials, dialled, other) in [(relays[0], hidden, relays[0]), (hidden, another, another)]
        {
            assert_eq!(mesh.dial(dials, dialled), Ok(()));
            assert_eq!(mesh.carry(other, hidden, 0), Ok(one_way(&mesh, &[other, hidden])));
        }
    }

    #[test]
    fn what_a_relay_passes_on_takes_its_uplink_too() {
        let scenario = scenario();
        let (mut mesh, open, hidden, relays) = settled(&scenario);
        mesh.dial(open, hidden).unwrap();
        let takes = mesh.carry(open, hidden, 100_000_000).unwrap();
        assert!(takes >= SECOND && takes < SECOND * 3 / 2, "{takes:?}");
        assert!(mesh.carry(relays[0], open, 0).unwrap() >= SECOND);
        assert!(mesh.carry(relays[1], open, 0).unwrap() < SECOND / 2);
    }

    #[test]
    fn a_tunnel_breaks_with_its_relay_and_the_next_goes_by_another() {
        let scenario = scenario();
        let (mut mesh, open, hidden, relays) = settled(&scenario);
        let until = mesh.course.world.now() + SECOND * 60;
        let cut = |host: usize| Change::Cut(BTreeSet::from([host]), until);
        for (turn, change) in [Change::Down(relays[0]), cut(relays[1])].into_iter().enumerate() {
            assert_eq!(mesh.dial(open, hidden), Ok(()));
            let way = [open, relays[turn], hidden];
            assert_eq!(mesh.rtt(open, hidden), one_way(&mesh, &way) * 2);
            let patience = silence(mesh.rtt(open, hidden));
            befall(&mut mesh, &change);
            assert_eq!(mesh.broken_by(&change, open, hidden), Some(Silence(patience)));
            // Until both have noticed, calls go the way of those before, and so do answers.
            mesh.advance(mesh.course.world.now() + patience / 2);
            assert_eq!(mesh.dial(open, hidden), Err(Silence(patience - patience / 2)));
            assert!(mesh.carry(hidden, open, 0).is_err());
            mesh.advance(mesh.course.world.now() + patience);
            assert_eq!(mesh.carry(hidden, open, 0), Err(Silence(Duration::ZERO)), "lost for good");
        }
        assert_eq!(mesh.dial(open, hidden), Ok(()));
        assert_eq!(mesh.rtt(open, hidden), one_way(&mesh, &[open, relays[2], hidden]) * 2);
    }

    #[test]
    fn a_relay_that_cannot_be_had_is_found_out_by_silence() {
        let scenario = scenario();
        let (mut mesh, open, hidden, relays) = settled(&scenario);
        // It is up, and cut off from the peer alone, which only the peer knows.
        let now = mesh.course.world.now();
        befall(&mut mesh, &Change::Cut(BTreeSet::from([relays[0]]), now + SECOND * 60));
        let patience = silence(mesh.rtt(open, hidden));
        assert_eq!(mesh.dial(open, hidden), Err(Silence(patience)));
        mesh.advance(now + patience);
        assert_eq!(mesh.dial(open, hidden), Ok(()));
        assert_eq!(mesh.rtt(open, hidden), one_way(&mesh, &[open, relays[1], hidden]) * 2);
    }
}
