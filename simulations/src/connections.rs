//! The connections between hosts, as QUIC keeps them: dialled with one round trip, kept in order,
//! given up after a silence.

use hansa_core::time::Mono;

use crate::table::Table;

/// The two ends, the lower first.
pub type Pair = (u32, u32);

/// A connection between two hosts; `M` is what travels.
#[derive(Debug)]
pub struct Connection<M> {
    /// No two have the same, so that what was meant for an earlier one is recognised.
    pub number: u32,
    /// Whether both ends have it.
    pub open: bool,
    /// Who is dialled.
    pub dialled: u32,
    /// What waits for it to open: sender, receiver, what.
    pub waiting: Vec<(u32, u32, M)>,
    /// When the last message to the lower and to the higher end arrives: a stream keeps order.
    pub arrivals: [Mono; 2],
}

/// All connections.
#[derive(Debug)]
pub struct Connections<M> {
    by_pair: Table<Connection<M>>,
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
        Self { by_pair: Table::default(), of: vec![Vec::new(); hosts], opened: 0 }
    }

    /// The one between two hosts.
    pub fn get(&self, pair: Pair) -> Option<&Connection<M>> {
        self.by_pair.get(key(pair))
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, pair: Pair) -> Option<&mut Connection<M>> {
        self.by_pair.get_mut(key(pair))
    }

    /// Begins a connection that `from` dials; returns its number.
    pub fn open(&mut self, from: u32, to: u32, now: Mono) -> u32 {
        self.opened += 1;
        let number = self.opened;
        let (open, waiting, arrivals) = (false, Vec::new(), [now; 2]);
        let connection = Connection { number, open, dialled: to, waiting, arrivals };
        self.by_pair.insert(key(ordered(from, to)), connection);
        self.of[from as usize].push(to);
        self.of[to as usize].push(from);
        number
    }

    /// Ends one.
    pub fn remove(&mut self, pair: Pair) -> Option<Connection<M>> {
        self.by_pair.remove(key(pair))
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
