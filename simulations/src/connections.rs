//! The connections between hosts, as QUIC keeps them: dialled with one round trip, kept in order,
//! given up after a silence.

use std::collections::BTreeMap;

use hansa_core::time::Mono;

use crate::table::Table;

/// The two ends, the lower first.
pub type Pair = (u32, u32);

/// A connection between two hosts. Half a cache line: it is looked at with each message.
#[derive(Debug)]
pub struct Connection {
    /// No two have the same, so that what was meant for an earlier one is recognised.
    pub number: u32,
    /// Whether both ends have it.
    pub open: bool,
    /// Who is dialled.
    pub dialled: u32,
    /// When the last message to the lower and to the higher end arrives: a stream keeps order.
    pub arrivals: [Mono; 2],
}

/// Where a connection stands among all.
pub type Slot = u32;

/// All connections; `M` is what travels.
#[derive(Debug)]
pub struct Connections<M> {
    by_pair: Table<Slot>,
    /// Those that ended have the number 0.
    all: Vec<Connection>,
    /// Slots of those that ended.
    free: Vec<Slot>,
    /// What waits for one to open: sender, receiver, what.
    waiting: BTreeMap<Slot, Vec<(u32, u32, M)>>,
    /// With whom each host has ever had one since its start, in that order.
    of: Vec<Vec<u32>>,
    opened: u32,
}

/// The ends in order.
pub fn ordered(a: u32, b: u32) -> Pair {
    (a.min(b), a.max(b))
}

fn key((a, b): Pair) -> u64 {
    u64::from(a) << 32 | u64::from(b)
}

impl<M> Connections<M> {
    /// None yet, between so many hosts.
    pub fn new(hosts: usize) -> Self {
        Self {
            by_pair: Table::default(),
            all: Vec::new(),
            free: Vec::new(),
            waiting: BTreeMap::new(),
            of: vec![Vec::new(); hosts],
            opened: 0,
        }
    }

    /// Where the one between two hosts stands.
    pub fn find(&self, pair: Pair) -> Option<Slot> {
        self.by_pair.get(key(pair)).copied()
    }

    /// The one between two hosts.
    pub fn get(&self, pair: Pair) -> Option<&Connection> {
        self.find(pair).map(|slot| self.at(slot))
    }

    /// The one that stands there, or did.
    pub fn at(&self, slot: Slot) -> &Connection {
        &self.all[slot as usize]
    }

    /// The same, to change it.
    pub fn at_mut(&mut self, slot: Slot) -> &mut Connection {
        &mut self.all[slot as usize]
    }

    /// Begins a connection that `from` dials.
    pub fn open(&mut self, from: u32, to: u32, now: Mono) -> Slot {
        self.opened += 1;
        let connection =
            Connection { number: self.opened, open: false, dialled: to, arrivals: [now; 2] };
        let slot = self
            .free
            .pop()
            .unwrap_or_else(|| u32::try_from(self.all.len()).expect("fewer than 2^32 connections"));
        match self.all.get_mut(slot as usize) {
            Some(place) => *place = connection,
            None => self.all.push(connection),
        }
        self.by_pair.insert(key(ordered(from, to)), slot);
        self.of[from as usize].push(to);
        self.of[to as usize].push(from);
        slot
    }

    /// Keeps what is to go over one that is not open yet.
    pub fn wait(&mut self, slot: Slot, from: u32, to: u32, message: M) {
        self.waiting.entry(slot).or_default().push((from, to, message));
    }

    /// What waited for one.
    pub fn waiting(&mut self, slot: Slot) -> Vec<(u32, u32, M)> {
        self.waiting.remove(&slot).unwrap_or_default()
    }

    /// Ends one, with all that waits for it; says whether it was open.
    pub fn remove(&mut self, pair: Pair) -> bool {
        let Some(slot) = self.by_pair.remove(key(pair)) else { return false };
        self.waiting.remove(&slot);
        self.free.push(slot);
        let connection = self.at_mut(slot);
        connection.number = 0;
        connection.open
    }

    /// The pairs of a host that have a connection, in order.
    pub fn of(&mut self, host: u32) -> Vec<Pair> {
        let mut others = std::mem::take(&mut self.of[host as usize]);
        others.sort_unstable();
        others.dedup();
        others.retain(|other| self.by_pair.holds(key(ordered(host, *other))));
        let pairs = others.iter().map(|other| ordered(host, *other)).collect();
        self.of[host as usize] = others;
        pairs
    }
}
