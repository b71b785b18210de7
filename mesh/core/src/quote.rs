//! Quotes: what a peer says to one that asks how soon it could run a job, and the soft reservations
//! that keep many askers from choosing the same peer at once.
//!
//! A quote reserves a whole slot until the job arrives, the asker says no, or the lease ends. A share
//! of a slot by the number of peers asked was measured too and is worse: askers flock to the best
//! quote, and those that lose are told at once. Left out: any promise. A quote is a guess, and the queue stays first come,
//! first served.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::codec::{Decode, Encode};
use crate::id::JobId;
use crate::limits::RESERVATIONS_MAX;
use crate::time::Mono;

/// A reservation outlives the round trip to its asker by this: time to choose.
pub const LEASE_SLACK: Duration = Duration::from_millis(150);
/// No round trip that an asker claims is believed to be longer.
const LEASE_RTT_MAX: Duration = Duration::from_secs(2);

/// How soon a peer could run a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Quote {
    /// Expected wait for a slot, in µs.
    pub wait_us: u32,
    /// From its slot to its first byte, in µs; for a model that answers at once, all of it.
    pub service_us: u32,
    /// Jobs queued and running.
    pub in_flight: u32,
    /// Jobs that run at once.
    pub slots: u16,
}

impl Quote {
    /// Wait and service together.
    pub fn total(&self) -> Duration {
        Duration::from_micros(u64::from(self.wait_us) + u64::from(self.service_us))
    }
}

/// What an executor knows of its own load at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Jobs queued and running.
    pub in_flight: u32,
    /// Jobs that run at once.
    pub slots: u16,
    /// Time that one job holds a slot, on average.
    pub hold: Duration,
    /// From a slot to the first byte.
    pub first: Duration,
}

/// The soft reservations of one executor. Bounded: beyond [`RESERVATIONS_MAX`] quotes reserve
/// nothing.
#[derive(Clone, Debug, Default)]
pub struct Reservations {
    held: BTreeMap<JobId, Mono>,
    ends: BTreeSet<(Mono, JobId)>,
}

impl Reservations {
    /// Answers one that asks on behalf of `job` and is `rtt` away.
    pub fn quote(&mut self, now: Mono, job: JobId, rtt: Duration, load: Load) -> Quote {
        self.release(job);
        self.expire(now);
        let slots = u64::from(load.slots.max(1));
        let ahead = u64::from(load.in_flight) + 1 + self.held.len() as u64;
        let ahead = ahead.saturating_sub(slots);
        let hold_us = u64::try_from(load.hold.as_micros()).unwrap_or(u64::MAX);
        let wait = ahead.saturating_mul(hold_us) / slots;
        if self.held.len() < RESERVATIONS_MAX {
            let until = now + rtt.min(LEASE_RTT_MAX) + LEASE_SLACK;
            self.held.insert(job, until);
            self.ends.insert((until, job));
        }
        Quote {
            wait_us: u32::try_from(wait).unwrap_or(u32::MAX),
            service_us: u32::try_from(load.first.as_micros()).unwrap_or(u32::MAX),
            in_flight: load.in_flight,
            slots: load.slots,
        }
    }

    /// The job arrived, or its asker chose another peer.
    pub fn release(&mut self, job: JobId) {
        if let Some(until) = self.held.remove(&job) {
            self.ends.remove(&(until, job));
        }
    }

    /// How many are held, those that ended not counted.
    pub fn len(&mut self, now: Mono) -> usize {
        self.expire(now);
        self.held.len()
    }

    fn expire(&mut self, now: Mono) {
        while let Some((until, job)) = self.ends.first().copied().filter(|(at, _)| *at <= now) {
            debug_assert!(until <= now);
            self.release(job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Load = Load {
        in_flight: 3,
        slots: 4,
        hold: Duration::from_secs(4),
        first: Duration::from_millis(250),
    };

    fn job(n: u32) -> JobId {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_le_bytes());
        JobId(id)
    }

    #[test]
    fn a_later_quote_counts_what_earlier_ones_reserved() {
        let mut held = Reservations::default();
        let rtt = Duration::from_millis(50);
        assert_eq!(held.quote(Mono(0), job(1), rtt, FULL).wait_us, 0);
        assert_eq!(held.quote(Mono(0), job(2), rtt, FULL).wait_us, 1_000_000);
        held.release(job(1));
        held.release(job(2));
        assert_eq!(held.quote(Mono(0), job(3), rtt, FULL).wait_us, 0);
    }

    #[test]
    fn a_lease_ends_by_itself_and_a_job_that_asks_again_holds_one() {
        let mut held = Reservations::default();
        let rtt = Duration::from_millis(50);
        held.quote(Mono(0), job(1), rtt, FULL);
        held.quote(Mono(0), job(1), rtt, FULL);
        assert_eq!(held.len(Mono(0)), 1);
        assert_eq!(held.len(Mono(0) + rtt + LEASE_SLACK), 0);
        assert!(held.ends.is_empty());
    }

    #[test]
    fn reservations_are_bounded_and_a_claimed_round_trip_is_too() {
        let mut held = Reservations::default();
        for n in 0..=u32::try_from(RESERVATIONS_MAX).unwrap() {
            held.quote(Mono(0), job(n), Duration::MAX, FULL);
        }
        assert_eq!(held.len(Mono(0)), RESERVATIONS_MAX);
        assert_eq!(held.len(Mono(0) + LEASE_RTT_MAX + LEASE_SLACK), 0);
    }
}
