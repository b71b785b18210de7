//! A scenario file as jobs are played: which of its peers serve, on what, and what arrives when.
//! What cannot be played yet is named by [`not_yet`], never left out in silence.

use std::time::Duration;

use hansa_core::policy::Policy;
use hansa_core::rng::{Rng, mix};

use super::play::play;
use super::server::Work;
use super::setup::{Arrival, Fault, Host, Setup};
use super::strategy::named;
use super::views::Fixed;
use crate::arrivals::{Arrivals, lognormal};
use crate::geography::round_trip_ms;
use crate::recording::{BOUND_TTFT_MS, Cost, Recording, TTFT_MS, Violation};
use crate::scenario::{DeviceSpec, FaultKind, LinkModel, Scenario};

/// A round trip within a region.
const RTT_NEAR: Duration = Duration::from_millis(8);
/// Jobs that name no deadline have this long.
const DEADLINE: Duration = Duration::from_secs(600);
/// Inputs of a job that names no model, in bytes.
const BYTES: u64 = 4_096;

/// What of a scenario with jobs is not played yet.
pub fn not_yet(scenario: &Scenario) -> Vec<String> {
    let first = scenario.device.first();
    let alike = |device: &DeviceSpec| {
        first.is_some_and(|first| {
            device.service_ms == first.service_ms
                && device.prefill_ms == first.prefill_ms
                && device.per_token_ms == first.per_token_ms
                && device.prefill_per_token_ms == first.prefill_per_token_ms
        })
    };
    let known = |kind: FaultKind| {
        matches!(
            kind,
            FaultKind::Crash | FaultKind::Restart | FaultKind::RegionLost | FaultKind::Gray
        )
    };
    let strategies = scenario.routing.strategies();
    let unknown = |name: &&String| named(name).is_none();
    let checks = [
        (scenario.region.is_empty(), "jobs without a [[region]]".to_owned()),
        (scenario.device.is_empty(), "jobs without a [[device]]".to_owned()),
        (
            !scenario.device.iter().all(alike),
            "[[device]]s that differ in more than slots and speed".into(),
        ),
        (
            scenario.links.model != LinkModel::Geography,
            "jobs over other links than geography".into(),
        ),
        (!scenario.policy.is_empty(), "[[policy]]".into()),
        (!scenario.charter.is_empty(), "[[charter]]".into()),
        (!scenario.model.is_empty(), "[[model]]".into()),
        (
            strategies.iter().any(|name| named(name).is_none()),
            format!("strategy `{}`", strategies.iter().find(unknown).map_or("", |name| name)),
        ),
    ];
    let mut not_yet: Vec<String> =
        checks.into_iter().filter(|(is, _)| *is).map(|(_, what)| what).collect();
    for fault in scenario.fault.iter().filter(|fault| !known(fault.kind)) {
        not_yet.push(format!("[[fault]] of kind `{}` beside jobs", fault.kind.name()));
    }
    not_yet
}

/// Plays the scenario's jobs under each of its strategies and records how they fared. The first
/// one's samples are the run's own, the omniscient one's its bound.
pub fn record(scenario: &Scenario, seed: u64, recording: &mut Recording) {
    let setup = match stage(scenario, seed) {
        Ok(setup) => setup,
        Err(what) => {
            let check = "the arrivals".into();
            return recording.violations.push(Violation { event: 0, at_ms: 0, check, what });
        }
    };
    let mesh = Fixed::new(&setup);
    let mut hash = 0;
    for (index, name) in scenario.routing.strategies().iter().enumerate() {
        let figures = play(&setup, &mesh, named(name).expect("checked"));
        hash = mix(hash ^ figures.hash);
        let samples = figures.ttft.iter().map(|ttft| ttft.as_secs_f64() * 1e3).collect();
        let key = match (index, name.as_str()) {
            (_, "omniscient") => BOUND_TTFT_MS.to_owned(),
            (0, _) => TTFT_MS.to_owned(),
            _ => format!("{TTFT_MS}/{name}"),
        };
        recording.distribute(&key, samples);
        if index == 0 {
            recording.jobs = figures.answered;
        }
        let per_job = |count: u64| count as f64 / setup.arrivals.len().max(1) as f64;
        recording.fact(&format!("{name}: probes"), per_job(figures.questions), "a job");
        recording.fact(&format!("{name}: sends"), per_job(figures.sends), "a job");
        let cross = figures.cross as f64 / figures.sends.max(1) as f64 * 100.0;
        recording.fact(&format!("{name}: leave their region"), cross, "%");
        recording.fact(&format!("{name}: refused"), figures.refused as f64, "jobs");
        if let Some(first) = figures.checkers.first {
            let what = format!("{} under `{name}`; the first: {first}", figures.checkers.faults);
            let check = "the law of jobs".into();
            recording.violations.push(Violation { event: 0, at_ms: 0, check, what });
        }
    }
    recording.hash = format!("{hash:016x}");
    for device in &scenario.device {
        let (name, unit) = (device.name.clone(), "per hour".to_owned());
        recording.costs.push(Cost { name, amount: device.cost_per_hour, unit });
    }
}

fn stage(scenario: &Scenario, seed: u64) -> Result<Setup, String> {
    let mut rng = Rng::new(mix(seed ^ 0x10b5));
    let mut hosts = Vec::new();
    let mut entries = vec![Vec::new(); scenario.region.len()];
    let shares: f64 = scenario.device.iter().map(|device| device.share).sum();
    for (index, region) in scenario.region.iter().enumerate() {
        for peer in 0..region.peers {
            let serves = peer + region.entries < region.peers;
            let device = serves.then(|| draw(&mut rng, &scenario.device, shares));
            if !serves {
                entries[index].push(hosts.len());
            }
            hosts.push(Host {
                region: index,
                place: region.location.clone(),
                operator: format!("Operator {}", peer % 5),
                server: device.map(|d| (u16::try_from(d.slots).unwrap_or(u16::MAX), d.speed)),
            });
        }
        if entries[index].is_empty() {
            // Where nobody is set apart for it, everybody takes jobs.
            let of_region = |host: &usize| hosts[*host].region == index;
            entries[index] = (0..hosts.len()).filter(of_region).collect();
        }
    }
    let device = &scenario.device[0];
    let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
    let typical = Work { prefill: ms(device.prefill_ms), decode: ms(device.service_ms.mean) };
    let servers = hosts.iter().filter_map(|host| host.server);
    let power: f64 = servers.map(|(slots, speed)| f64::from(slots) * speed).sum();
    let capacity = power / (typical.prefill + typical.decode).as_secs_f64();
    let mut arriving =
        Arrivals::new(scenario, seed, capacity).map_err(|error| error.to_string())?;
    let mut arrivals = Vec::new();
    for arrival in arriving.by_ref() {
        let at = arrival.at.since(hansa_core::time::Mono(0));
        let here = &entries[arrival.region];
        let work = match (arrival.tokens, device.per_token_ms) {
            (Some((input, output)), Some(each)) => Work {
                prefill: ms(device.prefill_ms + device.prefill_per_token_ms * f64::from(input)),
                decode: ms(each * f64::from(output)),
            },
            _ => {
                let spec = device.service_ms;
                Work { decode: ms(lognormal(&mut rng, spec.mean, spec.sigma)), ..typical }
            }
        };
        let entry = here[rng.below(here.len())];
        let (policy, bytes, deadline) = (Policy::default(), BYTES, DEADLINE);
        arrivals.push(Arrival { at, entry, work, bytes, policy, deadline });
    }
    if let Some(fault) = arriving.fault() {
        return Err(fault.to_string());
    }
    let rtt = |a: &[f64; 2], b: &[f64; 2]| {
        if a == b { RTT_NEAR } else { Duration::from_secs_f64(round_trip_ms(*a, *b) / 1e3) }
    };
    let places: Vec<[f64; 2]> = scenario.region.iter().map(|region| region.at).collect();
    let rtt = places.iter().map(|a| places.iter().map(|b| rtt(a, b)).collect()).collect();
    let faults = faults(scenario, &hosts, &mut rng);
    let warm = Duration::from_secs(scenario.warmup_s);
    Ok(Setup { seed, hosts, rtt, typical, arrivals, faults, warm })
}

fn draw<'a>(rng: &mut Rng, devices: &'a [DeviceSpec], shares: f64) -> &'a DeviceSpec {
    let mut point = rng.unit() * shares;
    let drawn = devices.iter().find(|device| {
        point -= device.share;
        point < 0.0
    });
    drawn.unwrap_or(&devices[devices.len() - 1])
}

fn faults(scenario: &Scenario, hosts: &[Host], rng: &mut Rng) -> Vec<(Duration, usize, Fault)> {
    let mut faults = Vec::new();
    for spec in &scenario.fault {
        let region = |host: usize| &scenario.region[hosts[host].region].name;
        let serves = |host: &usize| {
            hosts[*host].server.is_some()
                && spec.region.as_ref().is_none_or(|name| region(*host) == name)
        };
        let mut left: Vec<usize> = (0..hosts.len()).filter(serves).collect();
        let all = left.len();
        // Rounded to the nearest.
        let part = |share: f64| (0..all).filter(|n| *n as f64 + 0.5 <= share * all as f64).count();
        let share = spec.share.map(part);
        let count = share.or(spec.count).unwrap_or(if spec.region.is_some() { all } else { 0 });
        let (at, until) = (Duration::from_secs(spec.at_s), spec.until_s.map(Duration::from_secs));
        for _ in 0..count.min(all) {
            let host = left.swap_remove(rng.below(left.len()));
            let (begin, end) = match spec.kind {
                FaultKind::Gray => (Fault::Slow(spec.by.unwrap_or(10.0)), Fault::Slow(1.0)),
                _ => (Fault::Crash, Fault::Restart),
            };
            faults.push((at, host, begin));
            faults.extend(until.map(|until| (until, host, end)));
        }
    }
    faults.sort_by_key(|(at, host, _)| (*at, *host));
    faults
}
