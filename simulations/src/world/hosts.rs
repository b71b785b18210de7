//! Hosts are switched on and off, and say something else of themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use hansa_core::advert::{Advert, Record};
use hansa_core::directory::{Event, Input, Shard, Shards};
use hansa_core::rng::mix;

use super::{Happening, Site, World, index};
use crate::advert;
use crate::links::IDLE_TIMEOUT;
use crate::recording::ReplayEvent;

impl World {
    /// Puts a host, before it starts, behind NAT: it has no address and names a relay.
    pub fn hide(&mut self, host: usize, relay: usize) {
        self.sites[host].relay = Some(self.id(relay));
    }

    /// Switches a host on, with its own advert or one of common size. It knows nobody but one
    /// address.
    pub fn start(&mut self, host: usize, bootstrap: Option<usize>) {
        let relay = self.sites[host].relay;
        let advert = match self.adverts.get(host) {
            Some(own) => advert::reached(own.clone(), host, relay),
            None => advert::common(host, self.id(host), relay),
        };
        self.start_as(host, advert);
        if let Some(bootstrap) = bootstrap {
            self.dial(index(host), index(bootstrap));
        }
    }

    /// Switches all hosts on at once, as if they had long known each other.
    pub fn start_settled(&mut self) {
        (0..self.hosts.len()).for_each(|host| self.start(host, None));
        let mut records = BTreeMap::<Shard, Vec<Arc<Record>>>::new();
        for host in 0..self.hosts.len() {
            for directory in self.directory(host).each() {
                records.entry(directory.shard()).or_default().push(Arc::clone(directory.own()));
            }
        }
        for records in records.values_mut() {
            records.sort_unstable_by_key(|record| record.advert.peer);
        }
        for host in 0..self.hosts.len() {
            let now = self.clock(host);
            let directory = self.hosts[host].directory.as_mut().expect("just started");
            for directory in directory.each_mut() {
                let records = &records[&directory.shard()];
                directory.acquaint(now, records);
            }
        }
    }

    /// Whether two hosts subscribe to the same shards.
    pub fn shares_shards(&self, host: usize, other: usize) -> bool {
        self.sites[host].shards == self.sites[other].shards
    }

    /// Lets a host, before it starts, subscribe to shards.
    pub fn subscribe(&mut self, host: usize, shards: Vec<String>) {
        self.sites[host].shards = shards;
    }

    /// Switches a host on that says this of itself.
    pub fn start_as(&mut self, host: usize, advert: Advert) {
        assert!(!self.is_up(host), "host {host} is on");
        // Whoever still holds a connection to the last boot learns now that it is gone.
        for pair in self.connections.of(index(host)) {
            self.close(pair);
        }
        self.note(ReplayEvent::Up { at: Self::millis(self.now), peer: host });
        let machine = &mut self.hosts[host];
        machine.boots += 1;
        machine.booted = self.now;
        machine.busy = self.now;
        machine.wake = None;
        machine.alarms.clear();
        self.sites[host].lives.push((self.now, None));
        let boots = machine.boots;
        let now = self.clock(host);
        let Site { key, trust, .. } = &self.sites[host];
        let seed = mix(self.seed ^ mix((host as u64) << 16 | u64::from(boots)));
        let shards = &self.sites[host].shards;
        let directory = Shards::new(shards, key, &advert, trust, seed, now, &self.params);
        let directory = directory.expect("an advert that fits");
        let version = directory.each()[0].own().advert.version;
        self.hosts[host].directory = Some(directory);
        self.observe(host, Event::Published { version });
        self.feed(host, Input::Tick);
    }

    /// Pulls the plug of a host.
    pub fn kill(&mut self, host: usize) {
        assert!(self.is_up(host), "host {host} is off");
        self.hosts[host].directory = None;
        self.note(ReplayEvent::Down { at: Self::millis(self.now), peer: host });
        self.sites[host].lives.last_mut().expect("it is on").1 = Some(self.now);
        let at = self.now + IDLE_TIMEOUT;
        for pair in self.connections.of(index(host)) {
            let number = self.connections.get(pair).expect("it is there").number;
            self.queue.push(at, Happening::Lost { pair, number });
        }
    }

    /// Lets a host leave in good order.
    pub fn leave(&mut self, host: usize) {
        self.feed(host, Input::Leave);
        self.kill(host);
    }

    /// Lets a host publish something new: another name.
    pub fn publish(&mut self, host: usize, name: &str) {
        let advert = Advert { name: name.into(), ..self.own(host).advert.clone() };
        self.publish_advert(host, advert);
    }

    /// Lets a host say something else of itself; how it is reached stays as it is.
    pub fn publish_advert(&mut self, host: usize, advert: Advert) {
        // Behind NAT its directory keeps the relays that it has.
        let advert =
            if self.is_hidden(host) { advert } else { advert::reached(advert, host, None) };
        self.feed(host, Input::Publish(Box::new(advert)));
    }
}
