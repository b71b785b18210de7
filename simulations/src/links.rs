//! What lies between two peers: latency, jitter, loss and partitions.
//!
//! Peers talk over QUIC streams, so a lost packet is not a lost message: it is sent again after a
//! probe timeout, and what follows it on the stream waits. Only a link that is dead for longer than
//! the idle timeout loses messages, and then the connection with them.

use std::collections::BTreeSet;
use std::time::Duration;

use hansa_core::rng::{Rng, mix};
use hansa_core::time::Mono;

/// A connection that is dead for this long is given up (QUIC's idle timeout).
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// A dial that nobody answers is given up after this.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// A link this bad is no link.
const RETRANSMISSIONS_MAX: u32 = 10;

/// The quality of the links.
#[derive(Clone, Debug)]
pub struct Quality {
    /// One way, between the shortest and the longest; fixed for each pair.
    pub latency: (Duration, Duration),
    /// At most this is added to each message, by chance.
    pub jitter: Duration,
    /// Share of packets that are lost.
    pub loss: f64,
}

/// The links between all peers of a world.
#[derive(Debug)]
pub struct Links {
    seed: u64,
    rng: Rng,
    quality: Quality,
    cuts: Vec<Cut>,
}

#[derive(Debug)]
struct Cut {
    side: BTreeSet<usize>,
    from: Mono,
    until: Mono,
}

impl Links {
    /// Links whose latencies and chances follow from `seed`.
    pub fn new(seed: u64, quality: Quality) -> Self {
        assert!((0.0..1.0).contains(&quality.loss), "loss is a share");
        assert!(quality.latency.0 <= quality.latency.1, "the shortest latency comes first");
        Self { seed, rng: Rng::new(mix(seed ^ 0x11a7)), quality, cuts: Vec::new() }
    }

    /// Cuts the peers of `side` off from all others for a while.
    pub fn cut(&mut self, side: BTreeSet<usize>, from: Mono, until: Mono) {
        self.cuts.push(Cut { side, from, until });
    }

    /// When the way between two peers is free again, if it is cut at `at`.
    pub fn cut_until(&self, a: usize, b: usize, at: Mono) -> Option<Mono> {
        let cuts = self.cuts.iter().filter(|cut| {
            cut.from <= at && at < cut.until && cut.side.contains(&a) != cut.side.contains(&b)
        });
        cuts.map(|cut| cut.until).max()
    }

    /// Whether two peers were cut off from each other at some time since `since`.
    pub fn was_cut(&self, a: usize, b: usize, since: Mono, at: Mono) -> bool {
        self.cuts.iter().any(|cut| {
            cut.from <= at && since < cut.until && cut.side.contains(&a) != cut.side.contains(&b)
        })
    }

    /// The fixed one-way latency between two peers.
    pub fn latency(&self, a: usize, b: usize) -> Duration {
        let (shortest, longest) = self.quality.latency;
        let pair = (a.min(b) as u64) << 32 | a.max(b) as u64;
        let span = u64::try_from((longest - shortest).as_nanos()).expect("a latency") + 1;
        shortest + Duration::from_nanos(mix(self.seed ^ mix(pair)) % span)
    }

    /// Draws how long one message takes now, retransmissions included.
    pub fn draw_delay(&mut self, a: usize, b: usize) -> Duration {
        let latency = self.latency(a, b);
        let mut delay = latency + self.quality.jitter.mul_f64(self.rng.unit());
        for attempt in 0..RETRANSMISSIONS_MAX {
            if self.rng.unit() >= self.quality.loss {
                break;
            }
            delay += self.retransmission_after(a, b) * (1 << attempt);
        }
        delay
    }

    /// The probe timeout: about one and a half round trips and the other side's patience.
    pub fn retransmission_after(&self, a: usize, b: usize) -> Duration {
        self.latency(a, b) * 3 + Duration::from_millis(25)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_delays_and_never_drops() {
        let ms = Duration::from_millis;
        let quality = |loss| Quality { latency: (ms(20), ms(20)), jitter: ms(0), loss };
        let mean = |loss| {
            let mut links = Links::new(7, quality(loss));
            (0..10_000).map(|_| links.draw_delay(0, 1)).sum::<Duration>() / 10_000
        };
        assert_eq!(mean(0.0), ms(20));
        // One in ten waits 85 ms more, one in a hundred 255 ms.
        assert!(mean(0.1) > ms(28) && mean(0.1) < ms(34), "{:?}", mean(0.1));
    }

    #[test]
    fn a_cut_lies_between_its_sides_only_and_ends() {
        let quality = Quality {
            latency: (Duration::ZERO, Duration::ZERO),
            jitter: Duration::ZERO,
            loss: 0.0,
        };
        let mut links = Links::new(7, quality);
        links.cut(BTreeSet::from([1, 2]), Mono(10), Mono(20));
        assert_eq!(links.cut_until(0, 1, Mono(10)), Some(Mono(20)));
        assert_eq!(links.cut_until(1, 2, Mono(10)), None);
        assert_eq!(links.cut_until(0, 1, Mono(9)), None);
        assert_eq!(links.cut_until(0, 1, Mono(20)), None);
    }
}
