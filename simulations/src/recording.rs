//! What a run hands to the reports: figures, series, distributions, and for small worlds each
//! message. Engines fill it; nothing here computes more than a quantile.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// All that one run under one seed has to say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recording {
    /// The seed, from which all of it follows.
    pub seed: u64,
    /// Hash over all events, as 16 hex digits.
    pub hash: String,
    /// Peers.
    pub peers: u64,
    /// Jobs answered.
    pub jobs: u64,
    /// Checks that failed, in order.
    pub violations: Vec<Violation>,
    /// Virtual seconds that passed.
    pub virtual_s: f64,
    /// CPU seconds that it took.
    pub cpu_s: f64,
    /// The most memory that the process held, in MB.
    pub rss_mb: f64,
    /// Copies of a record that a peer was sent, on average; 1 is ideal.
    pub copies: Option<f64>,
    /// Bytes carried for a record and a peer, against the record's size; 1 is ideal.
    pub bytes_over_record: Option<f64>,
    /// The routing strategies, in the order of the scenario; the first is that of [`TTFT_MS`].
    pub strategies: Vec<String>,
    /// Named samples, such as [`DISSEMINATION_MS`]; `ttft_ms/NAME` is a further strategy's.
    pub distributions: BTreeMap<String, Distribution>,
    /// What changed with time.
    pub series: Vec<Series>,
    /// The regions of the map.
    pub regions: Vec<RegionLoad>,
    /// Jobs from region to region.
    pub flows: Vec<Flow>,
    /// How news spread: the share of peers that had a record so many milliseconds later.
    pub gossip_curves: Vec<Curve>,
    /// What it cost, by name.
    pub costs: Vec<Cost>,
    /// Each event of a small world, for the replay.
    pub replay: Option<Replay>,
    /// More to say, in order: what and how much.
    pub facts: Vec<Fact>,
}

/// From a record's publication until another peer has it, over all pairs, in milliseconds.
pub const DISSEMINATION_MS: &str = "dissemination_ms";
/// From a peer's death until another peer believes it, over all pairs, in milliseconds.
pub const DETECTION_MS: &str = "detection_ms";
/// From a job's arrival to its first token, under the first strategy, in milliseconds.
pub const TTFT_MS: &str = "ttft_ms";
/// The same under the omniscient scheduler, which nothing can beat.
pub const BOUND_TTFT_MS: &str = "bound_ttft_ms";

/// A check that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The number of the event after which it failed.
    pub event: u64,
    /// When, in virtual milliseconds.
    pub at_ms: u64,
    /// The check, in a word or two.
    pub check: String,
    /// What is wrong.
    pub what: String,
}

/// Samples in ascending order. Large ones are thinned evenly; `count` says how many there were.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// How many were measured.
    pub count: u64,
    /// The sum of all that were measured.
    pub sum: f64,
    /// Half are at most this.
    pub p50: f64,
    /// 90 of 100 are at most this.
    pub p90: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// 999 of 1,000 are at most this.
    pub p999: f64,
    /// All are at most this.
    pub max: f64,
    /// Those kept for drawing: at most [`KEPT_MAX`], their quantiles evenly apart.
    pub kept: Vec<f64>,
}

/// A distribution keeps at most so many samples.
pub const KEPT_MAX: usize = 501;

impl Distribution {
    /// The distribution of some samples, in any order.
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let Some(last) = samples.last().copied() else { return Self::default() };
        let at = |millis: usize| {
            let rank = (samples.len() * millis).div_ceil(1_000).max(1);
            samples[rank - 1]
        };
        let kept = if samples.len() <= KEPT_MAX {
            samples.clone()
        } else {
            let step = |index| index * (samples.len() - 1) / (KEPT_MAX - 1);
            (0..KEPT_MAX).map(|index| samples[step(index)]).collect()
        };
        Self {
            count: samples.len() as u64,
            sum: samples.iter().sum(),
            p50: at(500),
            p90: at(900),
            p99: at(990),
            p999: at(999),
            max: last,
            kept,
        }
    }
}

impl Distribution {
    /// The distribution of values that were counted, in ascending order of the values: for those
    /// who tally millions and keep none.
    pub fn of_counts(counts: &[(f64, u64)]) -> Self {
        let count: u64 = counts.iter().map(|(_, count)| count).sum();
        let mut bounds = Vec::with_capacity(counts.len());
        let mut seen = 0;
        for (value, here) in counts.iter().filter(|(_, here)| *here > 0) {
            seen += here;
            bounds.push((seen, *value));
        }
        let Some((_, max)) = bounds.last().copied() else { return Self::default() };
        let at = |rank: u64| bounds[bounds.partition_point(|(seen, _)| *seen < rank)].1;
        let share = |millis: u64| at((count * millis).div_ceil(1_000).max(1));
        let steps = KEPT_MAX as u64 - 1;
        let kept = if count <= KEPT_MAX as u64 {
            (1..=count).map(at).collect()
        } else {
            (0..=steps).map(|step| at(step * (count - 1) / steps + 1)).collect()
        };
        let sum = bounds.iter().scan(0, |before, (seen, value)| {
            let here = u32::try_from(seen - *before).unwrap_or(u32::MAX);
            *before = *seen;
            Some(f64::from(here) * value)
        });
        Self {
            count,
            sum: sum.sum(),
            p50: share(500),
            p90: share(900),
            p99: share(990),
            p999: share(999),
            max,
            kept,
        }
    }
}

/// One line of a chart over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// What: `jobs_in_flight`, or `jobs_in_flight/hansa` for one line of several.
    pub name: String,
    /// Its unit: `ms`, `jobs`, `bytes/s`.
    pub unit: String,
    /// Virtual seconds and value, in order of time.
    pub points: Vec<(f64, f64)>,
}

/// A region and its load over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RegionLoad {
    /// Its name.
    pub name: String,
    /// Latitude and longitude in degrees.
    pub at: [f64; 2],
    /// Its peers.
    pub peers: u64,
    /// Jobs that came from here.
    pub asked: u64,
    /// Jobs that were served here.
    pub served: u64,
    /// Virtual seconds and the share of its slots that were busy, from 0 to 1.
    pub load: Vec<(f64, f64)>,
}

/// Jobs that went from a region to a region, by index in [`Recording::regions`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Where they came from.
    pub from: usize,
    /// Where they were served.
    pub to: usize,
    /// How many.
    pub jobs: u64,
}

/// How one thing spread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// What.
    pub name: String,
    /// Milliseconds since it was published and the share of peers that have it, from 0 to 1.
    pub points: Vec<(f64, f64)>,
}

/// What something cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// What, such as a strategy or a way to provision.
    pub name: String,
    /// How much.
    pub amount: f64,
    /// Of what: `devices`, `EUR/h`, `bytes/peer/s`.
    pub unit: String,
}

/// A line of facts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// What.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what; empty for a plain number.
    pub unit: String,
}

/// A small world's run, event by event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// The peers, by index.
    pub peers: Vec<ReplayPeer>,
    /// What happened, in order of time.
    pub events: Vec<ReplayEvent>,
    /// Whether there was more than was kept.
    pub cut_short: bool,
}

/// A replay keeps at most so many events.
pub const REPLAY_EVENTS_MAX: usize = 40_000;

/// A peer of a replay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReplayPeer {
    /// Its name.
    pub name: String,
    /// Its region, by index in [`Recording::regions`].
    pub region: usize,
}

/// One thing that happened; times are virtual milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ReplayEvent {
    /// A peer came up.
    Up {
        /// When.
        at: f64,
        /// Which.
        peer: usize,
    },
    /// A peer died or was switched off.
    Down {
        /// When.
        at: f64,
        /// Which.
        peer: usize,
    },
    /// A message was carried.
    Message {
        /// When it was sent.
        at: f64,
        /// When it arrived.
        until: f64,
        /// By whom.
        from: usize,
        /// To whom.
        to: usize,
        /// What it was: `ping`, `push`, `announce`, `job`, `answer`.
        what: String,
        /// Its size on the wire.
        bytes: u64,
    },
    /// A job's state changed.
    Job {
        /// When.
        at: f64,
        /// The job's number.
        job: u64,
        /// Where it is.
        peer: usize,
        /// `arrived`, `waiting`, `running`, `answered`, `failed`.
        state: String,
    },
    /// Something else that is worth a line, such as a partition.
    Note {
        /// When.
        at: f64,
        /// What.
        text: String,
    },
}

impl Replay {
    /// Keeps an event, or remembers that there was one too many.
    pub fn push(&mut self, event: ReplayEvent) {
        if self.events.len() < REPLAY_EVENTS_MAX {
            self.events.push(event);
        } else {
            self.cut_short = true;
        }
    }
}

impl Recording {
    /// Adds a distribution of samples, unless there are none.
    pub fn distribute(&mut self, name: &str, samples: Vec<f64>) {
        if !samples.is_empty() {
            self.distributions.insert(name.to_owned(), Distribution::of(samples));
        }
    }

    /// Adds a fact.
    pub fn fact(&mut self, name: &str, value: f64, unit: &str) {
        self.facts.push(Fact { name: name.into(), value, unit: unit.into() });
    }

    /// Its line of figures.
    pub fn summary(&self) -> Summary {
        let find = |name: &str| self.distributions.get(name);
        let pair = |name: &str| find(name).map(|d| P50P99 { p50: d.p50, p99: d.p99 });
        let triple = |d: &Distribution| P50P99P999 { p50: d.p50, p99: d.p99, p999: d.p999 };
        Summary {
            seed: self.seed,
            hash: self.hash.clone(),
            peers: self.peers,
            jobs: self.jobs,
            violations: self.violations.len() as u64,
            virtual_s: self.virtual_s,
            cpu_s: self.cpu_s,
            rss_mb: self.rss_mb,
            dissemination_ms: find(DISSEMINATION_MS).map(triple),
            copies: self.copies,
            bytes_over_record: self.bytes_over_record,
            detection_ms: pair(DETECTION_MS),
            ttft_ms: pair(TTFT_MS),
            bound_ttft_ms: pair(BOUND_TTFT_MS),
        }
    }
}

/// The machine-readable line of a run. What was not measured is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The seed.
    pub seed: u64,
    /// Hash over all events.
    pub hash: String,
    /// Peers.
    pub peers: u64,
    /// Jobs answered.
    pub jobs: u64,
    /// Checks that failed.
    pub violations: u64,
    /// Virtual seconds that passed.
    pub virtual_s: f64,
    /// CPU seconds that it took.
    pub cpu_s: f64,
    /// The most memory that the process held, in MB.
    pub rss_mb: f64,
    /// From publication to another peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dissemination_ms: Option<P50P99P999>,
    /// Copies of a record that a peer was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies: Option<f64>,
    /// Bytes carried for a record and a peer, against the record's size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_over_record: Option<f64>,
    /// From a peer's death to another peer's belief.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detection_ms: Option<P50P99>,
    /// Time to the first token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<P50P99>,
    /// The omniscient scheduler's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_ttft_ms: Option<P50P99>,
}

/// Two quantiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct P50P99 {
    /// Half are at most this.
    pub p50: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
}

/// Three quantiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct P50P99P999 {
    /// Half are at most this.
    pub p50: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// 999 of 1,000 are at most this.
    pub p999: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_absent() {
        let line = serde_json::to_value(Recording::default().summary()).unwrap();
        let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
        let expected =
            ["cpu_s", "hash", "jobs", "peers", "rss_mb", "seed", "violations", "virtual_s"];
        assert_eq!(keys, expected);
    }

    #[test]
    fn tallied_values_are_distributed_as_listed_ones() {
        let counts: Vec<(f64, u64)> =
            (0..3_000_u32).map(|v| (f64::from(v), u64::from(v % 3))).collect();
        let listed = (0..3_000_u32).flat_map(|v| (0..v % 3).map(move |_| f64::from(v))).collect();
        assert_eq!(Distribution::of_counts(&counts), Distribution::of(listed));
    }

    #[test]
    fn a_thinned_distribution_keeps_its_ends_and_its_count() {
        let all = Distribution::of((0..10_000).rev().map(f64::from).collect());
        assert_eq!((all.count, all.kept.len()), (10_000, KEPT_MAX));
        assert_eq!((all.kept[0], all.kept[KEPT_MAX - 1], all.max), (0.0, 9_999.0, 9_999.0));
        assert_eq!((all.p50, all.p99, all.p999), (4_999.0, 9_899.0, 9_989.0));
    }
}
