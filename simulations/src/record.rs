//! Runs a scenario under one seed and records what the reports show: the seam between the engines
//! and all that is made of their results.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hansa_core::time::Mono;

use crate::jobs::staged;
use crate::ledger::Traffic;
use crate::recording::{
    Curve, DETECTION_MS, DISSEMINATION_MS, Distribution, Recording, RegionLoad, Replay, ReplayPeer,
    Series, Violation,
};
use crate::run::{Outcome, run_watched};
use crate::scenario::Scenario;
use crate::world::World;

/// How far a run has come, for those who watch from another thread.
#[derive(Debug, Default)]
pub struct Progress(AtomicU64);

impl Progress {
    /// Says how much virtual time has passed.
    pub fn at(&self, now: Mono) {
        let millis = u64::try_from(now.since(Mono(0)).as_millis()).unwrap_or(u64::MAX);
        self.0.store(millis, Ordering::Relaxed);
    }

    /// Virtual time that has passed.
    pub fn passed(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// What of a scenario nothing simulates yet: it is refused and not quietly left out.
pub fn not_yet(scenario: &Scenario) -> Vec<String> {
    use crate::scenario::FaultKind as Kind;
    if scenario.has_jobs() {
        return staged::not_yet(scenario);
    }
    let mut not_yet = Vec::new();
    for fault in &scenario.fault {
        if fault.kind == Kind::Gray {
            not_yet.push("[[fault]] of kind `gray` without jobs".to_owned());
        }
    }
    not_yet
}

/// Runs `scenario` under `seed`.
pub fn record(scenario: &Scenario, seed: u64, progress: &Progress) -> Recording {
    let cpu_before = cpu_seconds();
    let mut recording = Recording {
        seed,
        peers: scenario.peers as u64,
        virtual_s: scenario.duration().as_secs_f64(),
        regions: regions(scenario),
        strategies: if scenario.has_jobs() { scenario.routing.strategies() } else { Vec::new() },
        ..Recording::default()
    };
    if scenario.has_jobs() {
        staged::record(scenario, seed, progress, &mut recording);
        recording.cpu_s = cpu_seconds() - cpu_before;
        recording.rss_mb = rss_mb();
        return recording;
    }
    let mut traffic = Vec::new();
    let mut up = Vec::new();
    let mut warm = Traffic::default();
    let outcome = run_watched(scenario, seed, &mut |world, is_end| {
        let now = world.now().since(Mono(0)).as_secs_f64();
        if now == 0.0 && scenario.keeps_replay() && world.replay.is_none() {
            world.replay = Some(replay(scenario));
        }
        progress.at(world.now());
        if world.now() <= Mono(0) + Duration::from_secs(scenario.warmup_s) {
            warm = world.traffic();
        }
        let bytes = world.traffic().bytes;
        if traffic.last().is_none_or(|(at, _): &(f64, u64)| now - at >= 1.0) {
            traffic.push((now, bytes));
            up.push((now, count(world.up().len() as u64)));
        }
        if is_end {
            observe(world, warm, &mut recording);
            recording.replay = world.replay.take();
        }
    });
    fill(&mut recording, &outcome);
    let rates = traffic
        .windows(2)
        .map(|pair| (pair[1].0, count(pair[1].1 - pair[0].1) / (pair[1].0 - pair[0].0)));
    let rates = rates.collect();
    recording.series = vec![
        Series { name: "gossip carried".into(), unit: "bytes/s".into(), points: rates },
        Series { name: "peers up".into(), unit: "peers".into(), points: up },
    ];
    recording.cpu_s = cpu_seconds() - cpu_before;
    recording.rss_mb = rss_mb();
    recording
}

/// What came of a run, in words and facts.
pub(crate) fn fill(recording: &mut Recording, outcome: &Outcome) {
    recording.hash.clone_from(&outcome.hash);
    let at_ms = millis_of(Duration::from_secs_f64(recording.virtual_s));
    let at_end = |what: String| Violation { event: 0, at_ms, check: "at the end".into(), what };
    let wrongs = outcome.wrongs.iter().map(|wrong| Violation {
        event: wrong.event,
        at_ms: millis_of(wrong.at.since(Mono(0))),
        check: "a verdict of death".into(),
        what: wrong.what.clone(),
    });
    let at_the_end = outcome.complaints().into_iter().map(at_end);
    recording.violations = wrongs.chain(at_the_end).collect();
    recording.fact("messages carried", count(outcome.messages), "");
    recording.fact("bytes carried", count(outcome.bytes), "bytes");
    recording.fact("false verdicts of death", count(outcome.false_downs as u64), "");
    let hearsay = count(outcome.hearsay_downs as u64);
    recording.fact("false verdicts on the word of who was cut off", hearsay, "");
    recording.fact("ghosts", count(outcome.ghosts as u64), "");
}

fn regions(scenario: &Scenario) -> Vec<RegionLoad> {
    let of_peers = scenario.region_of_peers();
    let load = |(index, region): (usize, &crate::scenario::RegionSpec)| RegionLoad {
        name: region.name.clone(),
        at: region.at,
        peers: of_peers.iter().filter(|of| **of == index).count() as u64,
        ..RegionLoad::default()
    };
    scenario.region.iter().enumerate().map(load).collect()
}

/// A replay of the scenario's peers, still empty.
pub(crate) fn replay(scenario: &Scenario) -> Replay {
    let of_peers = scenario.region_of_peers().into_iter().enumerate();
    let peers = of_peers.map(|(peer, region)| ReplayPeer { name: format!("node-{peer}"), region });
    Replay { peers: peers.collect(), ..Replay::default() }
}

/// How the news of the world spread and its dead were found, over all pairs of peers, and what
/// was carried since `warm`.
pub(crate) fn observe(world: &World, warm: Traffic, recording: &mut Recording) {
    let ledger = world.ledger();
    let tallies = [
        (DISSEMINATION_MS, "a record reaches a peer", &ledger.dissemination),
        (DETECTION_MS, "a death is known", &ledger.detection),
    ];
    for (name, words, tally) in tallies {
        if tally.count() == 0 {
            continue;
        }
        let mut before = 0;
        let counts: Vec<(f64, u64)> = tally
            .curve(usize::MAX)
            .into_iter()
            .map(|(ms, seen)| (count(ms), seen - std::mem::replace(&mut before, seen)))
            .collect();
        recording.distributions.insert(name.into(), Distribution::of_counts(&counts));
        let part = |(ms, seen): (u64, u64)| (count(ms), count(seen) / count(tally.count()));
        let points = tally.curve(200).into_iter().map(part).collect();
        recording.gossip_curves.push(Curve { name: words.into(), points });
    }
    let carried = world.traffic() - warm;
    if carried.taken > 0 && carried.record_bytes > 0 {
        let record = count(carried.record_bytes) / count(carried.records);
        recording.copies = Some(count(carried.records) / count(carried.taken));
        recording.bytes_over_record = Some(count(carried.bytes) / (record * count(carried.taken)));
    }
    let (wanted, taken) = ledger.delivered();
    if wanted > 0 {
        recording.fact("records delivered", count(taken) / count(wanted) * 100.0, "%");
    }
    recording.fact("signatures checked", count(carried.signatures), "");
}

/// A count as a number with a point: exact far beyond any run.
fn count(count: u64) -> f64 {
    let high = u32::try_from(count >> 32).unwrap_or(u32::MAX);
    let low = u32::try_from(count & 0xffff_ffff).unwrap_or(u32::MAX);
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}

fn millis_of(lasting: Duration) -> u64 {
    u64::try_from(lasting.as_millis()).unwrap_or(u64::MAX)
}

/// CPU seconds of this thread so far, where the system says; else 0.
pub fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0);
    Duration::from_nanos(nanos).as_secs_f64()
}

/// The most memory that this process held so far, in MB, where the system says; else 0.
pub fn rss_mb() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u32>().ok());
    kib.map_or(0.0, |kib| f64::from(kib) / 1_024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_world_is_recorded_with_its_replay() {
        let toml = "name = 'x'\npeers = 5\nseconds = 20\n[[fault]]\nkind = 'crash'\nat_s = 10\n\
                    share = 0.2";
        let scenario = Scenario::parse(toml).unwrap();
        let recording = record(&scenario, 1, &Progress::default());
        let replay = recording.replay.as_ref().unwrap();
        assert_eq!(replay.peers.len(), 5);
        assert!(replay.events.len() > 50, "{}", replay.events.len());
        assert!(recording.distributions.contains_key(DISSEMINATION_MS));
        assert_eq!(recording.hash.len(), 16);
    }
}
