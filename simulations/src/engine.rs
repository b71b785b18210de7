//! The heart of virtual time: a queue of events that is stable on ties, and the hash over what
//! happened.

use std::collections::VecDeque;

use hansa_core::rng::mix;
use hansa_core::time::Mono;

/// Events by time; those of one moment in the order in which they were scheduled.
///
/// A monotone radix heap (Ahuja, Mehlhorn, Orlin, Tarjan 1990): an event waits in the bucket of the
/// highest bit in which its time differs from the last one that was popped, and moves to a lower
/// bucket at most 64 times. Buckets keep their order, so no sequence number is needed.
#[derive(Debug)]
pub struct Queue<E> {
    last: u64,
    due: VecDeque<E>,
    /// By highest differing bit.
    buckets: Vec<Vec<(u64, E)>>,
    /// The earliest time in the buckets, when it is known.
    next: Option<u64>,
    len: usize,
}

/// What happens within so many nanoseconds happens soon: a few dozen events of 10,000 peers.
const SOON: u64 = 1 << 16;

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self {
            last: 0,
            due: VecDeque::new(),
            buckets: (0..64).map(|_| Vec::new()).collect(),
            next: None,
            len: 0,
        }
    }
}

impl<E> Queue<E> {
    /// Schedules `event`, not before the last event that was popped.
    pub fn push(&mut self, at: Mono, event: E) {
        assert!(at.0 >= self.last, "an event in the past");
        self.len += 1;
        let differing = at.0 ^ self.last;
        if differing == 0 {
            return self.due.push_back(event);
        }
        self.next = self.next.map(|next| next.min(at.0));
        if self.len == self.due.len() + 1 {
            self.next = Some(at.0);
        }
        self.buckets[differing.ilog2() as usize].push((at.0, event));
    }

    /// How many events wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// When the next event happens.
    pub fn peek(&mut self) -> Option<Mono> {
        if !self.due.is_empty() {
            return Some(Mono(self.last));
        }
        if self.next.is_none() {
            let bucket = self.buckets.iter().find(|bucket| !bucket.is_empty())?;
            self.next = bucket.iter().map(|(at, _)| *at).min();
        }
        self.next.map(Mono)
    }

    /// The next event, if it happens by `until`.
    pub fn pop_by(&mut self, until: Mono) -> Option<(Mono, E)> {
        self.pop_foreseeing(until, |_| {})
    }

    /// The same, and shows most events to `soon` shortly before they happen.
    pub fn pop_foreseeing(&mut self, until: Mono, mut soon: impl FnMut(&E)) -> Option<(Mono, E)> {
        let at = self.peek().filter(|at| *at <= until)?;
        if self.due.is_empty() {
            let found = self.buckets.iter().position(|bucket| !bucket.is_empty());
            let index = found.expect("an event waits");
            let mut bucket = std::mem::take(&mut self.buckets[index]);
            self.last = at.0;
            if index >= SOON.ilog2() as usize {
                let is_soon = |at: u64| at ^ self.last < SOON;
                bucket.iter().filter(|(at, _)| is_soon(*at)).for_each(|(_, event)| soon(event));
            }
            for (at, event) in bucket.drain(..) {
                match at ^ self.last {
                    0 => self.due.push_back(event),
                    differing => self.buckets[differing.ilog2() as usize].push((at, event)),
                }
            }
            if self.buckets[index].is_empty() {
                self.buckets[index] = bucket; // Its memory serves again.
            }
            self.next = None;
        }
        self.len -= 1;
        self.due.pop_front().map(|event| (at, event))
    }
}

/// A hash over everything that happened, in order. Two runs with the same hash were the same run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventHash(u64);

impl EventHash {
    /// Takes in a number.
    pub fn absorb(&mut self, word: u64) {
        self.0 = mix(self.0.rotate_left(5) ^ word.wrapping_add(0x9e37_79b9_7f4a_7c15));
    }
}

impl std::fmt::Display for EventHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use hansa_core::rng::Rng;

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
        assert_eq!(queue.peek(), Some(Mono(5)));
        assert_eq!(queue.pop_by(Mono(5)), Some((Mono(5), ())));
        assert!(queue.is_empty());
    }

    #[test]
    fn the_queue_pops_as_a_stable_sort_would() {
        let seed = 7;
        eprintln!("seed {seed}");
        let mut rng = Rng::new(seed);
        let (mut queue, mut model, mut now, mut number) = (Queue::default(), Vec::new(), 0, 0);
        for _ in 0..20_000 {
            if rng.below(3) > 0 {
                let bits = rng.below(40);
                let at = now + rng.below(1 << bits) as u64;
                queue.push(Mono(at), number);
                model.push((at, number));
                number += 1;
            } else {
                let until = now + rng.below(1 << 20) as u64;
                let wanted = model.iter().enumerate().filter(|(_, (at, _))| *at <= until);
                let wanted = wanted.min_by_key(|(_, event)| **event).map(|(index, _)| index);
                let wanted = wanted.map(|index| model.remove(index));
                let popped = queue.pop_by(Mono(until)).map(|(at, number)| (at.0, number));
                assert_eq!(popped, wanted);
                now = popped.map_or(now, |(at, _)| at);
            }
        }
        assert_eq!(queue.len(), model.len());
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
