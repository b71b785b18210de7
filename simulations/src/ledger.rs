//! What is counted while a world runs, so that nothing need be kept of each of millions of events:
//! how fast news reach everybody, how soon the dead are found, what it costs to carry.

use std::collections::BTreeMap;
use std::time::Duration;

use hansa_core::time::Mono;

/// Durations in whole milliseconds, each counted: quantiles are exact to one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    counts: Vec<u64>,
    all: u64,
}

/// Longer than this is counted as this.
const TALLY_MAX: Duration = Duration::from_secs(600);

impl Tally {
    /// Counts one.
    pub fn add(&mut self, lasting: Duration) {
        let ms = lasting.min(TALLY_MAX).as_micros().div_ceil(1_000);
        let ms = usize::try_from(ms).expect("ten minutes");
        if self.counts.len() <= ms {
            self.counts.resize(ms + 1, 0);
        }
        self.counts[ms] += 1;
        self.all += 1;
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.all
    }

    /// The least that a share of `of` stays within, in ms; none when fewer than that were counted.
    pub fn quantile(&self, share: f64, of: u64) -> Option<u64> {
        let millionths = (0..=1_000_000u32).rfind(|m| f64::from(*m) <= share * 1e6).unwrap_or(0);
        let wanted = (u128::from(of) * u128::from(millionths)).div_ceil(1_000_000).max(1);
        let wanted = u64::try_from(wanted).expect("a part of a u64");
        let mut seen = 0;
        let ms = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        ms.map(|ms| ms as u64)
    }

    /// Points of the cumulative curve: ms and how many stay within, at most `points` of them.
    pub fn curve(&self, points: usize) -> Vec<(u64, u64)> {
        let step = self.counts.len().div_ceil(points.max(1)).max(1);
        let mut seen = 0;
        let cumulative = self.counts.iter().enumerate().map(|(ms, count)| {
            seen += count;
            (ms as u64, seen)
        });
        let cumulative: Vec<_> = cumulative.collect();
        cumulative.into_iter().filter(|(ms, _)| (*ms + 1) % step as u64 == 0).collect()
    }
}

/// What was carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages.
    pub messages: u64,
    /// Their bytes, exactly as on the wire.
    pub bytes: u64,
    /// Records among them.
    pub records: u64,
    /// Their bytes.
    pub record_bytes: u64,
    /// Records that were news to their receiver.
    pub taken: u64,
    /// Signatures that were checked.
    pub signatures: u64,
    /// Messages and bytes by [`hansa_core::directory::Talk::KINDS`].
    pub kinds: [(u64, u64); 10],
}

impl std::ops::Sub for Traffic {
    type Output = Self;
    fn sub(self, before: Self) -> Self {
        Self {
            messages: self.messages - before.messages,
            bytes: self.bytes - before.bytes,
            records: self.records - before.records,
            record_bytes: self.record_bytes - before.record_bytes,
            taken: self.taken - before.taken,
            signatures: self.signatures - before.signatures,
            kinds: std::array::from_fn(|kind| {
                let ((messages, bytes), (before, carried)) = (self.kinds[kind], before.kinds[kind]);
                (messages - before, bytes - carried)
            }),
        }
    }
}

/// One advert of one host on its way to all others.
#[derive(Clone, Copy, Debug)]
struct Spread {
    since: Mono,
    /// How many should take it.
    wanted: u32,
    taken: u32,
}

/// The books on membership.
#[derive(Debug, Default)]
pub struct Ledger {
    /// By host and version; only those that are followed.
    spreads: BTreeMap<(u32, u64, u64), Spread>,
    /// From publication to each peer that took it.
    pub dissemination: Tally,
    /// From a death to each peer that believes it.
    pub detection: Tally,
    /// Verdicts of death on peers that lived and could be reached.
    pub false_downs: u64,
    /// The same, within a moment of a cut, of peers on the own side: the other side accused them.
    pub hearsay_downs: u64,
}

impl Ledger {
    /// Follows an advert from now on, until `wanted` others have it.
    pub fn follow(&mut self, host: u32, version: (u64, u64), since: Mono, wanted: u32) {
        self.spreads.insert((host, version.0, version.1), Spread { since, wanted, taken: 0 });
    }

    /// A peer took an advert. It counts for how fast news spread if the peer `could` have had it
    /// all the time since.
    pub fn took(
        &mut self,
        host: u32,
        version: (u64, u64),
        at: Mono,
        could: impl FnOnce(Mono) -> bool,
    ) {
        if let Some(spread) = self.spreads.get_mut(&(host, version.0, version.1)) {
            spread.taken += 1;
            if could(spread.since) {
                self.dissemination.add(at.since(spread.since));
            }
        }
    }

    /// How many should have taken what was followed, and how many have.
    pub fn delivered(&self) -> (u64, u64) {
        let pairs = self.spreads.values().map(|s| (u64::from(s.wanted), u64::from(s.taken)));
        pairs.fold((0, 0), |(wanted, taken), (w, t)| (wanted + w, taken + t.min(w)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_count_what_never_came() {
        let mut tally = Tally::default();
        (1..=98).for_each(|ms| tally.add(Duration::from_millis(ms)));
        assert_eq!(tally.quantile(0.5, 100), Some(50));
        assert_eq!(tally.quantile(0.98, 100), Some(98));
        assert_eq!(tally.quantile(0.99, 100), None);
        assert_eq!(tally.curve(1_000).last(), Some(&(98, 98)));
    }
}
