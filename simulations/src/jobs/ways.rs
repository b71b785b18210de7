//! The connections of peers behind NAT on the data plane. Such a peer dials whom it wants; whoever
//! wants it and has no connection with it tunnels through one of the relays that its advert names.
//! A relay passes on sealed packets: it is as far as it is, its uplink is in use, and it is no hop
//! of any job. All others dial each other directly, and nothing about them is kept here.

use std::collections::BTreeMap;
use std::time::Duration;

use hansa_core::time::Mono;
use hansa_core::view::Liveness;

use super::mesh::{Silence, silence};
use crate::course::Change;
use crate::world::World;

/// Connections with peers behind NAT, by their ends, the lower first.
#[derive(Debug, Default)]
pub(super) struct Ways(BTreeMap<(usize, usize), Way>);

/// One of them: it is used by both ends, whoever dialled.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// None if one end has dialled the other.
    relay: Option<usize>,
    /// It is broken, and both ends have noticed by then. It stays known, so that the next one goes
    /// by another relay.
    broken: Option<Mono>,
}

/// From host to host.
pub(super) fn hops(
    from: usize,
    relay: Option<usize>,
    to: usize,
) -> impl Iterator<Item = (usize, usize)> {
    let first = relay.map(|relay| (from, relay));
    first.into_iter().chain([(relay.unwrap_or(from), to)])
}

fn ends(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

fn is_free(world: &World, a: usize, b: usize) -> bool {
    !world.is_hidden(a) && !world.is_hidden(b)
}

fn rtt_by(world: &World, a: usize, relay: Option<usize>, b: usize) -> Duration {
    hops(a, relay, b).map(|(a, b)| world.links().latency(a, b) * 2).sum()
}

impl Ways {
    /// The round trip between two hosts by the connection that they have, or else by the one that
    /// the first would dial.
    pub(super) fn rtt(&self, world: &World, a: usize, b: usize) -> Duration {
        if a == b { Duration::ZERO } else { rtt_by(world, a, self.relay(world, a, b), b) }
    }

    fn relay(&self, world: &World, a: usize, b: usize) -> Option<usize> {
        match self.0.get(&ends(a, b)) {
            _ if a == b || is_free(world, a, b) => None,
            Some(way) if way.broken.is_none_or(|noticed| noticed > world.now()) => way.relay,
            last => next(world, a, b, last).unwrap_or(None),
        }
    }

    /// The host through which bytes go from one host to another, if there is one.
    ///
    /// # Errors
    /// The two have no connection, or one that is broken.
    pub(super) fn by(
        &self,
        world: &World,
        from: usize,
        to: usize,
    ) -> Result<Option<usize>, Silence> {
        match self.0.get(&ends(from, to)) {
            _ if is_free(world, from, to) => Ok(None),
            Some(Way { relay, broken: None }) => Ok(*relay),
            Some(Way { broken: Some(noticed), .. }) => Err(Silence(noticed.since(world.now()))),
            None => Err(Silence(Duration::ZERO)),
        }
    }

    /// Sees to it that a host has a connection with another that it calls.
    ///
    /// # Errors
    /// It cannot be had, or is broken and the host has not noticed yet.
    pub(super) fn dial(&mut self, world: &World, from: usize, to: usize) -> Result<(), Silence> {
        if from == to || is_free(world, from, to) {
            return Ok(());
        }
        let last = self.0.get(&ends(from, to));
        match last.map(|way| way.broken) {
            Some(None) => return Ok(()),
            Some(Some(noticed)) if noticed > world.now() => {
                return Err(Silence(noticed.since(world.now())));
            }
            _ => {}
        }
        let relay = next(world, from, to, last)?;
        let patience = silence(rtt_by(world, from, relay, to));
        let is_cut = |(a, b): (usize, usize)| {
            let healed = world.links().cut_until(a, b, world.now());
            healed.is_some_and(|healed| healed.since(world.now()) >= patience)
        };
        let is_whole =
            relay.is_none_or(|relay| world.is_up(relay)) && !hops(from, relay, to).any(is_cut);
        let broken = (!is_whole).then(|| world.now() + patience);
        self.0.insert(ends(from, to), Way { relay, broken });
        if is_whole { Ok(()) } else { Err(Silence(patience)) }
    }

    /// The silence after which what goes on between two hosts is given up, if this that befell
    /// neither of them ends it.
    pub(super) fn broken_by(
        &self,
        world: &World,
        change: &Change,
        a: usize,
        b: usize,
    ) -> Option<Silence> {
        let relay = self.relay(world, a, b);
        let patience = silence(rtt_by(world, a, relay, b));
        let is_broken = match change {
            Change::Down(host) => relay == Some(*host),
            Change::Cut(side, until) => {
                let crosses = |(a, b): (usize, usize)| side.contains(&a) != side.contains(&b);
                patience <= until.since(world.now()) && hops(a, relay, b).any(crosses)
            }
            Change::Up(_) | Change::Slow(..) => false,
        };
        is_broken.then_some(Silence(patience))
    }

    /// Takes what befell hosts to their connections.
    pub(super) fn befall(&mut self, world: &World, change: &Change) {
        if let Change::Down(host) = change {
            self.0.retain(|(a, b), _| a != host && b != host);
        }
        let broken = |(a, b): &(usize, usize)| {
            let Silence(patience) = self.broken_by(world, change, *a, *b)?;
            Some(((*a, *b), world.now() + patience))
        };
        for (ends, noticed) in self.0.keys().filter_map(broken).collect::<Vec<_>>() {
            if let Some(way) = self.0.get_mut(&ends) {
                way.broken.get_or_insert(noticed);
            }
        }
    }
}

/// How a host dials another: directly, or through one of its relays, of those that seem up the first
/// after the one by which their last connection went. A relay has a connection with its peer and
/// needs no tunnel.
///
/// # Errors
/// It knows no way, which is known at once.
fn next(
    world: &World,
    from: usize,
    to: usize,
    last: Option<&Way>,
) -> Result<Option<usize>, Silence> {
    if !world.is_hidden(to) {
        return Ok(None);
    }
    let view = world.is_up(from).then(|| world.view(from));
    let advert = view.as_ref().and_then(|view| Some(&view.get(world.id(to))?.record.advert));
    let mut relays = advert.map_or(Vec::new(), |advert| advert.relays.clone());
    let place = |host: usize| relays.iter().position(|relay| *relay == world.id(host));
    let first = match last {
        Some(way) => place(way.relay.unwrap_or(from)).map_or(0, |place| place + 1),
        None => place(from).unwrap_or(0),
    };
    let many = relays.len().max(1);
    relays.rotate_left(first % many);
    let health = |relay| Some(view.as_ref()?.get(relay)?.liveness);
    relays.sort_by_key(|relay| health(*relay).unwrap_or(Liveness::Down));
    let relay = relays.first().ok_or(Silence(Duration::ZERO))?;
    Ok(Some(world.host_of(*relay)).filter(|relay| *relay != from))
}
