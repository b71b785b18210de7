//! Pacing: a token bucket and the queue of deadlines.

use std::time::Duration;

use crate::time::Mono;

/// A token bucket kept as one instant: when it would be full again (GCRA).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Allowance {
    full_at: Mono,
}

impl Allowance {
    /// When the next token is there.
    pub(super) fn ready_at(&self, interval: Duration, burst: u32) -> Mono {
        self.full_at - interval * (burst - 1)
    }

    /// Takes a token if there is one.
    pub(super) fn take(&mut self, now: Mono, interval: Duration, burst: u32) -> bool {
        if now < self.ready_at(interval, burst) {
            return false;
        }
        self.full_at = self.full_at.max(now) + interval;
        true
    }
}

/// What falls due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The next peer is probed.
    Probe,
    /// A ping was not answered in time.
    PingTimeout(u64),
    /// Nor were its helpers.
    ProbeEnd(u64),
    /// Suspects had their time to refute.
    Suspicions,
    /// Announcements go out.
    Lazy,
    /// Pulls were not answered in time.
    Pull,
    /// A neighbour is exchanged.
    Rotate,
    /// The directory is reconciled with some peer.
    Reconcile,
    /// A wanted publication may go out.
    Publish,
    /// The own advert grows old.
    Refresh,
    /// The view may be published.
    View,
    /// What has lapsed is swept out.
    Sweep,
}

/// Deadlines. One that became moot is recognised when it falls due. They are a dozen, and at every
/// call the next is asked for: it stands here and not behind a pointer.
#[derive(Debug, Default)]
pub(super) struct Timers {
    next: Option<Mono>,
    /// All of them, the earliest last.
    all: Vec<(Mono, Timer)>,
}

impl Timers {
    pub(super) fn set(&mut self, at: Mono, timer: Timer) {
        if let Err(place) = self.all.binary_search_by(|known| (at, timer).cmp(known)) {
            self.all.insert(place, (at, timer));
        }
        self.next = self.all.last().map(|(at, _)| *at);
    }

    pub(super) fn next(&self) -> Option<Mono> {
        self.next
    }

    pub(super) fn pop_due(&mut self, now: Mono) -> Option<Timer> {
        if self.next? > now {
            return None;
        }
        let due = self.all.pop();
        self.next = self.all.last().map(|(at, _)| *at);
        due.map(|(_, timer)| timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fall_due_in_order_and_each_once() {
        let mut timers = Timers::default();
        let all = [(7, Timer::Probe), (3, Timer::Pull), (7, Timer::Lazy), (7, Timer::Probe)];
        all.into_iter().for_each(|(at, timer)| timers.set(Mono(at), timer));
        assert_eq!(timers.next(), Some(Mono(3)));
        assert_eq!(timers.pop_due(Mono(2)), None);
        let due: Vec<_> = std::iter::from_fn(|| timers.pop_due(Mono(7))).collect();
        assert_eq!(due, [Timer::Pull, Timer::Probe, Timer::Lazy]);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn a_burst_passes_and_then_one_each_interval() {
        let second = Duration::from_secs(1);
        let mut allowance = Allowance::default();
        let now = Mono(10_000_000_000);
        let passed = (0..10).filter(|_| allowance.take(now, second, 3)).count();
        assert_eq!(passed, 3);
        assert_eq!(allowance.ready_at(second, 3), now + second);
        assert!(!allowance.take(now + second / 2, second, 3));
        assert!(allowance.take(now + second, second, 3));
        assert!(!allowance.take(now + second, second, 3));
    }
}
