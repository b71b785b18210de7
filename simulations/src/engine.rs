//! The heart of virtual time: a queue of events that is stable on ties, and the hash over what
//! happened.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hansa_core::id::Digest;
use hansa_core::rng::mix;
use hansa_core::time::Mono;

/// Events by time; those of one moment in the order in which they were scheduled.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Reverse<Scheduled<E>>>,
    scheduled: u64,
}

#[derive(Debug)]
struct Scheduled<E> {
    at: Mono,
    order: u64,
    event: E,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), scheduled: 0 }
    }
}

impl<E> Queue<E> {
    /// Schedules `event`.
    pub fn push(&mut self, at: Mono, event: E) {
        self.heap.push(Reverse(Scheduled { at, order: self.scheduled, event }));
        self.scheduled += 1;
    }

    /// The next event, if it happens by `until`.
    pub fn pop_by(&mut self, until: Mono) -> Option<(Mono, E)> {
        if self.heap.peek()?.0.at > until {
            return None;
        }
        self.heap.pop().map(|Reverse(next)| (next.at, next.event))
    }
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl<E> Eq for Scheduled<E> {}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Scheduled<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A hash over everything that happened, in order. Two runs with the same hash were the same run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventHash(u64);

impl EventHash {
    /// Takes in a number.
    pub fn absorb(&mut self, word: u64) {
        self.0 = mix(self.0.rotate_left(5) ^ word);
    }

    /// Takes in bytes.
    pub fn absorb_bytes(&mut self, bytes: &[u8]) {
        let Digest(digest) = Digest::of(bytes);
        self.absorb(u64::from_le_bytes(digest[..8].try_into().expect("eight of 32 bytes")));
    }
}

impl std::fmt::Display for EventHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_moment_come_in_the_order_of_their_scheduling() {
        let mut queue = Queue::default();
        for (at, event) in [(5, 'c'), (3, 'a'), (5, 'd'), (3, 'b')] {
            queue.push(Mono(at), event);
        }
        let order: String =
            std::iter::from_fn(|| queue.pop_by(Mono(9))).map(|(_, event)| event).collect();
        assert_eq!(order, "abcd");
    }

    #[test]
    fn events_wait_for_their_time() {
        let mut queue = Queue::default();
        queue.push(Mono(5), ());
        assert_eq!(queue.pop_by(Mono(4)), None);
        assert_eq!(queue.pop_by(Mono(5)), Some((Mono(5), ())));
    }

    #[test]
    fn the_hash_knows_the_order() {
        let hash = |words: [u64; 2]| {
            let mut hash = EventHash::default();
            words.into_iter().for_each(|word| hash.absorb(word));
            hash
        };
        assert_ne!(hash([1, 2]), hash([2, 1]));
    }
}
