//! The bootstrap list: which address is dialled when. Pure; the driver dials.
//!
//! An address is dialled, with growing pauses, until it has been met once; and all are dialled
//! again when the node has lost every connection.

use std::time::{Duration, Instant};

use libp2p::Multiaddr;

use crate::limits::{BOOTSTRAP_PAUSE_MAX, BOOTSTRAP_PAUSE_MIN};

/// The addresses and how far each has come.
#[derive(Debug)]
pub(super) struct Bootstrap {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    addr: Multiaddr,
    state: State,
    pause: Duration,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Due(Instant),
    Dialling,
    Met,
    /// It is this node itself.
    Own,
}

impl Bootstrap {
    /// All are due now.
    pub(super) fn new(addrs: Vec<Multiaddr>, now: Instant) -> Self {
        let entry = |addr| Entry { addr, state: State::Due(now), pause: BOOTSTRAP_PAUSE_MIN };
        Self { entries: addrs.into_iter().map(entry).collect() }
    }

    /// The entries to dial now; they count as being dialled from here on.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<(usize, Multiaddr)> {
        let due = |entry: &Entry| matches!(entry.state, State::Due(at) if at <= now);
        let entries = self.entries.iter_mut().enumerate();
        entries
            .filter(|(_, entry)| due(entry))
            .map(|(nth, entry)| {
                entry.state = State::Dialling;
                (nth, entry.addr.clone())
            })
            .collect()
    }

    /// The dial succeeded.
    pub(super) fn met(&mut self, nth: usize) {
        self.entries[nth].state = State::Met;
        self.entries[nth].pause = BOOTSTRAP_PAUSE_MIN;
    }

    /// The dial reached this node itself.
    pub(super) fn own(&mut self, nth: usize) {
        self.entries[nth].state = State::Own;
    }

    /// The dial failed; says when the next is due.
    pub(super) fn failed(&mut self, nth: usize, now: Instant) -> (&Multiaddr, Duration) {
        let entry = &mut self.entries[nth];
        let pause = entry.pause;
        entry.state = State::Due(now + pause);
        entry.pause = (pause * 2).min(BOOTSTRAP_PAUSE_MAX);
        (&entry.addr, pause)
    }

    /// No connection is left: all are due again.
    pub(super) fn alone(&mut self, now: Instant) {
        for entry in &mut self.entries {
            if entry.state == State::Met {
                entry.state = State::Due(now + entry.pause);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn an_address_is_dialled_with_growing_pauses_until_met_and_again_when_alone() {
        let start = Instant::now();
        let addr: Multiaddr = "/ip4/127.0.0.1/udp/1/quic-v1".parse().expect("an address");
        let mut list = Bootstrap::new(vec![addr], start);
        assert_eq!(list.take_due(start).len(), 1);
        assert_eq!(list.take_due(at(start, 60_000)).len(), 0, "a dial is under way");
        let mut pauses = Vec::new();
        let mut now = start;
        for _ in 0..10 {
            let (_, pause) = list.failed(0, now);
            pauses.push(pause);
            assert_eq!(list.take_due(now + pause / 2).len(), 0);
            now += pause;
            assert_eq!(list.take_due(now).len(), 1);
        }
        assert!(pauses.is_sorted());
        assert_eq!(pauses.last(), Some(&BOOTSTRAP_PAUSE_MAX));
        list.met(0);
        assert_eq!(list.take_due(at(now, 60_000)).len(), 0, "it was met");
        list.alone(now);
        assert_eq!(list.take_due(now + BOOTSTRAP_PAUSE_MIN).len(), 1);
    }

    #[test]
    fn a_node_that_is_its_own_bootstrap_dials_itself_once() {
        let start = Instant::now();
        let addr: Multiaddr = "/ip4/127.0.0.1/udp/1/quic-v1".parse().expect("an address");
        let mut list = Bootstrap::new(vec![addr], start);
        list.take_due(start);
        list.own(0);
        list.alone(start);
        assert!(list.take_due(at(start, 60_000)).is_empty());
    }
}
