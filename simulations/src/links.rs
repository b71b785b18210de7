//! What lies between two peers: latency, jitter, loss, reordering, bandwidth and partitions.
//!
//! Peers talk over QUIC streams, so a lost packet is not a lost message: it is sent again after a
//! probe timeout, and what follows it on the stream waits. Only a link that is dead for longer than
//! the idle timeout loses messages, and then the connection with them. Bandwidth is that of each
//! peer's uplink: what it sends waits in one line for all its links.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use hansa_core::rng::{Rng, mix};
use hansa_core::time::Mono;

use crate::geography::{MatrixError, RoundTrips};
use crate::scenario::{LinkModel, Scenario};

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
    regional: Option<Regional>,
    reorder: f64,
    bandwidth: Option<Bandwidth>,
}

/// Latency by region.
#[derive(Debug)]
struct Regional {
    of_peer: Vec<usize>,
    one_way: Vec<Vec<Duration>>,
}

/// What peers can send, and until when they are busy with what they have sent.
#[derive(Debug)]
struct Bandwidth {
    bytes_per_second: u64,
    free_at: Vec<Mono>,
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
        Self {
            seed,
            rng: Rng::new(mix(seed ^ 0x11a7)),
            quality,
            cuts: Vec::new(),
            regional: None,
            reorder: 0.0,
            bandwidth: None,
        }
    }

    /// The links of a scenario; `matrix` is read when it names one.
    pub fn of(scenario: &Scenario, seed: u64) -> Result<Self, MatrixError> {
        let spec = &scenario.links;
        let ms = Duration::from_millis;
        let quality = Quality {
            latency: (ms(spec.latency_ms[0]), ms(spec.latency_ms[1])),
            jitter: ms(spec.jitter_ms),
            loss: spec.loss,
        };
        let mut links = Self::new(seed, quality);
        links.reorder = spec.reorder;
        let names: Vec<&str> = scenario.region.iter().map(|region| region.name.as_str()).collect();
        let trips = match (&spec.matrix, spec.model) {
            (Some(file), _) => Some(RoundTrips::read(&scenario.file(file), &names)?),
            (None, LinkModel::Geography) => {
                let places: Vec<[f64; 2]> =
                    scenario.region.iter().map(|region| region.at).collect();
                Some(RoundTrips::of_places(&places))
            }
            (None, LinkModel::Uniform) => None,
        };
        links.regional = trips.map(|trips| Regional {
            of_peer: scenario.region_of_peers(),
            one_way: trips.one_way(),
        });
        links.bandwidth = spec.bandwidth_mbit.map(|mbit| Bandwidth {
            bytes_per_second: mbit * 125_000,
            free_at: vec![Mono(0); scenario.peers],
        });
        Ok(links)
    }

    /// Whether the links of a scenario can be made: reads the files that it names.
    pub fn check(scenario: &Scenario) -> Result<(), MatrixError> {
        match &scenario.links.matrix {
            Some(file) => {
                let names: Vec<&str> = scenario.region.iter().map(|r| r.name.as_str()).collect();
                RoundTrips::read(Path::new(&scenario.file(file)), &names).map(drop)
            }
            None => Ok(()),
        }
    }

    /// From now on this share of packets is lost.
    pub fn set_loss(&mut self, loss: f64) {
        self.quality.loss = loss;
    }

    /// From now on this share of messages is overtaken by later ones.
    pub fn set_reorder(&mut self, share: f64) {
        self.reorder = share;
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

    /// Whether any peers were cut off from others at some time since `since`.
    pub fn any_cut(&self, since: Mono, at: Mono) -> bool {
        self.cuts.iter().any(|cut| cut.from <= at && since < cut.until)
    }

    /// The fixed one-way latency between two peers.
    pub fn latency(&self, a: usize, b: usize) -> Duration {
        let pair = (a.min(b) as u64) << 32 | a.max(b) as u64;
        let chance = mix(self.seed ^ mix(pair));
        if let Some(Regional { of_peer, one_way }) = &self.regional {
            // Sites of one region are not all at its middle: up to a tenth more.
            let base = one_way[of_peer[a]][of_peer[b]];
            let span = u64::try_from(base.as_nanos() / 10).expect("a latency") + 1;
            return base + Duration::from_nanos(chance % span);
        }
        let (shortest, longest) = self.quality.latency;
        let span = u64::try_from((longest - shortest).as_nanos()).expect("a latency") + 1;
        shortest + Duration::from_nanos(chance % span)
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
        // Drawn only when there is any, so that worlds without it keep their chances.
        if self.reorder > 0.0 && self.rng.unit() < self.reorder {
            delay += latency.mul_f64(self.rng.unit());
        }
        delay
    }

    /// How long `bytes` that `from` sends at `now` wait for its uplink and take to leave it. What
    /// it sends later waits for them.
    pub fn queue(&mut self, from: usize, bytes: u64, now: Mono) -> Duration {
        let Some(bandwidth) = &mut self.bandwidth else { return Duration::ZERO };
        let free_at = &mut bandwidth.free_at[from];
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bandwidth.bytes_per_second);
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        *free_at = (*free_at).max(now) + takes;
        free_at.since(now)
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

    #[test]
    fn what_a_peer_sends_waits_for_its_uplink() {
        let toml = "name = 'x'\npeers = 2\nseconds = 9\n[links]\nbandwidth_mbit = 8";
        let mut links = Links::of(&Scenario::parse(toml).unwrap(), 1).unwrap();
        let (ms, start) = (Duration::from_millis, Mono(0));
        assert_eq!(links.queue(0, 1_000, start), ms(1));
        assert_eq!(links.queue(0, 1_000, start), ms(2));
        assert_eq!(links.queue(1, 1_000, start), ms(1));
        assert_eq!(links.queue(0, 1_000, start + ms(10)), ms(1));
    }

    #[test]
    fn far_regions_are_far_and_latency_is_that_of_the_pair() {
        let toml = "name = 'x'\nseconds = 9\n[links]\nmodel = 'geography'\n\
                    [[region]]\nname = 'a'\nat = [52.3, 4.8]\npeers = 2\n\
                    [[region]]\nname = 'b'\nat = [1.4, 104.0]\npeers = 2";
        let links = Links::of(&Scenario::parse(toml).unwrap(), 1).unwrap();
        assert!(links.latency(0, 1) < Duration::from_millis(5));
        assert!(links.latency(0, 2) > Duration::from_millis(60));
        assert_eq!(links.latency(0, 2), links.latency(2, 0));
    }
}
