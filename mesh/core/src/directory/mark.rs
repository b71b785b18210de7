//! Two bytes for each peer of the table: whether it answers, and how many new adverts it may bring.

use std::time::Duration;

use crate::time::Mono;
use crate::view::Liveness;

/// Health in the two lowest bits; above them, in quarters of a second and modulo [`MARK_PERIOD`],
/// when the peer may bring as many new adverts again as at first. Two times that are compared lie
/// within half a period, 34 minutes: records lapse sooner, and a longer sleep is forgiven.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark(u16);

/// In quarters of a second.
const MARK_PERIOD: u16 = 1 << 14;
/// No pace reaches further ahead, in quarters of a second.
const MARK_AHEAD_MAX: u32 = 4_096;

impl Mark {
    pub(super) fn health(self) -> Liveness {
        match self.0 & 3 {
            0 => Liveness::Alive,
            1 => Liveness::Suspect,
            _ => Liveness::Down,
        }
    }

    pub(super) fn set_health(&mut self, health: Liveness) {
        let code = match health {
            Liveness::Alive => 0,
            Liveness::Suspect => 1,
            Liveness::Down => 2,
        };
        self.0 = self.0 & !3 | code;
    }

    /// That of a peer that brings its first advert now.
    pub(super) fn new(now: Mono, pace: (Duration, u32)) -> Self {
        let mut mark = Self::default();
        mark.renew(now);
        mark.take(now, pace.0, pace.1);
        mark
    }

    /// The token bucket of [`super::pace::Allowance`], in quarters of a second.
    pub(super) fn take(&mut self, now: Mono, interval: Duration, burst: u32) -> bool {
        let interval = u32::try_from(interval.as_millis() / 250).unwrap_or(u32::MAX);
        let interval = interval.clamp(1, MARK_AHEAD_MAX);
        let ahead = u32::try_from(-self.age_quarters(now)).unwrap_or(0);
        if ahead > interval.saturating_mul(burst - 1).min(MARK_AHEAD_MAX - interval) {
            return false;
        }
        let more = u16::try_from(ahead + interval).expect("within the period");
        self.set_full_at(quarters(now) + more);
        true
    }

    /// As if its record had just come and nothing were owed for it.
    pub(super) fn renew(&mut self, now: Mono) {
        self.set_full_at(quarters(now));
    }

    /// Its bits; see [`super::Directory::touch`].
    pub(super) fn touch(self) -> u64 {
        self.0.into()
    }

    /// Modulo the period.
    fn set_full_at(&mut self, quarters: u16) {
        self.0 = ((quarters % MARK_PERIOD) << 2) | (self.0 & 3);
    }

    /// How long ago it was full; below zero when it is not yet.
    fn age_quarters(self, now: Mono) -> i32 {
        // Shifted up, a difference modulo 2^14 is one modulo 2^16, and has its sign.
        let now = quarters(now) << 2;
        i32::from((now.wrapping_sub(self.0 & !3)).cast_signed() >> 2)
    }

    /// About how long ago the record was taken: not longer, and at most `burst` intervals less.
    pub(super) fn age(self, now: Mono) -> Duration {
        Duration::from_millis(u64::try_from(self.age_quarters(now)).unwrap_or(0) * 250)
    }
}

/// Modulo the period.
fn quarters(at: Mono) -> u16 {
    let quarters = at.0 / 250_000_000 % u64::from(MARK_PERIOD);
    u16::try_from(quarters).expect("14 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_keeps_pace_and_health_apart() {
        let second = Duration::from_secs(1);
        let now = Mono(7_000_000_000);
        let mut mark = Mark::new(now, (second, 3));
        mark.set_health(Liveness::Down);
        assert_eq!(1 + (0..10).filter(|_| mark.take(now, second, 3)).count(), 3);
        assert_eq!(mark.health(), Liveness::Down);
        assert!(mark.take(now + second, second, 3));
        assert!(!mark.take(now + second, second, 3));
        assert_eq!(mark.age(now + second), Duration::ZERO);
        let after = now + 1_800 * second;
        assert!(mark.age(after) <= 1_800 * second && mark.age(after) >= 1_795 * second);
        assert!(mark.take(after, second, 3));
        assert_eq!(mark.age(after), Duration::ZERO);
    }
}
