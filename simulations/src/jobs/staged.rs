//! Scenario files with jobs, from end to end. What cannot be played yet is named by [`not_yet`],
//! never left out in silence.

use std::time::Duration;

use hansa_core::rng::mix;
use hansa_core::survey::Asking;
use hansa_core::time::Mono;

use super::figures::Figures;
use super::findings;
use super::gossiping::Gossiping;
use super::law;
use super::mesh::Fixed;
use super::play::play;
use super::setup::Setup;
use super::sharing;
use super::stage::stage;
use super::strategy::{Method, named};
use crate::ledger::Traffic;
use crate::record::{self, Progress};
use crate::recording::{BOUND_TTFT_MS, Cost, Flow, Recording, Series, TTFT_MS, Violation};
use crate::run::judge;
use crate::scenario::demand::RoutingSpec;
use crate::scenario::{FaultKind, FaultSpec, GossipSpec, LinkModel, PlacementStrategy, Scenario};

/// What of a scenario with jobs is not played yet.
pub fn not_yet(scenario: &Scenario) -> Vec<String> {
    let routing = &scenario.routing;
    let moves = scenario.placement.strategy == PlacementStrategy::Demand;
    let in_stages = is_in_stages(scenario);
    let is_told_where = routing.strategies().iter().any(|name| name != "hansa");
    let checks = [
        (scenario.region.is_empty(), "jobs without a [[region]]".to_owned()),
        (in_stages && moves, "`placement.strategy` = `demand` beside models in stages".into()),
        (in_stages && is_told_where, "strategies but `hansa` for models in stages".into()),
        (
            scenario.sharing.is_some() && moves,
            "`placement.strategy` = `demand` beside [sharing]".into(),
        ),
    ];
    let checks = checks.into_iter().filter(|(is, _)| *is).map(|(_, what)| what);
    let strategies = routing.strategies().into_iter();
    let unknown = strategies.filter(|name| named(name).is_none());
    let late = scenario.fault.iter().filter(|fault| is_told(fault) && !is_always(fault));
    let late = late.map(|fault| {
        let name = fault.kind.name();
        format!("[[fault]] of kind `{name}` beside jobs that begins late or ends")
    });
    checks
        .chain(law::faults(scenario))
        .chain(unknown.map(|name| format!("strategy `{name}`")))
        .chain(late)
        .collect()
}

fn is_in_stages(scenario: &Scenario) -> bool {
    scenario.model.iter().any(|model| model.stages > 1)
}

/// Lies and forgeries are told in adverts, which are made with the stage.
fn is_told(fault: &FaultSpec) -> bool {
    matches!(fault.kind, FaultKind::ForgedCharters | FaultKind::LyingAdverts)
}

fn is_always(fault: &FaultSpec) -> bool {
    fault.at_s == 0 && fault.until_s.is_none()
}

/// Whether nothing in the scenario could change what a peer knows of another: then views need no
/// gossip.
fn is_still(scenario: &Scenario) -> bool {
    let links = &scenario.links;
    let is_still = |fault: &FaultSpec| is_told(fault) || fault.kind == FaultKind::Gray;
    scenario.settled
        && (links.model == LinkModel::Geography || links.matrix.is_some())
        && (links.loss, links.reorder) == (0.0, 0.0)
        && links.bandwidth_mbit.is_none()
        && scenario.publish_every_ms.is_none()
        && scenario.republish_s.is_none()
        && scenario.gossip == GossipSpec::default()
        && scenario.placement.strategy != PlacementStrategy::Demand
        // Peers learn from gossip how far others are from each other.
        && !is_in_stages(scenario)
        && !scenario.keeps_replay()
        && scenario.fault.iter().all(is_still)
}

/// The method that the scenario means by `name`.
fn method(scenario: &Scenario, name: &str) -> Method {
    let RoutingSpec { probes, probe_above_ms, .. } = scenario.routing;
    match named(name).expect("checked by `not_yet`") {
        Method::Hansa(asking) if name == "hansa" => Method::Hansa(Asking {
            most: probes.unwrap_or(asking.most),
            above: probe_above_ms.map_or(asking.above, |ms| Duration::from_secs_f64(ms / 1e3)),
        }),
        method => method,
    }
}

/// Plays the scenario's jobs under each of its strategies and records how they fared. The first
/// one's samples are the run's own, the omniscient one's its bound.
pub fn record(scenario: &Scenario, seed: u64, progress: &Progress, recording: &mut Recording) {
    let mut hash = 0;
    let setup = match stage(scenario, seed) {
        Ok(setup) => setup,
        Err(what) => {
            let check = "the scenario".into();
            recording.hash = format!("{hash:016x}");
            return recording.violations.push(Violation { event: 0, at_ms: 0, check, what });
        }
    };
    let fixed = is_still(scenario).then(|| Fixed::new(&setup));
    let names = scenario.routing.strategies();
    let strategies = u32::try_from(names.len()).unwrap_or(1);
    for (index, name) in names.into_iter().enumerate() {
        let method = method(scenario, &name);
        let figures = match &fixed {
            Some(fixed) => play(&setup, &mut fixed.clone(), method),
            None => {
                let replays = index == 0 && scenario.keeps_replay();
                let (figures, said) = gossiping(scenario, &setup, seed, replays, method);
                hash = mix(hash ^ u64::from_str_radix(&said.hash, 16).unwrap_or_default());
                if index == 0 {
                    join(recording, said);
                }
                figures
            }
        };
        hash = mix(hash ^ figures.hash);
        distribute(recording, &setup, &name, index, &figures);
        if index == 0 {
            recording.jobs = figures.answered;
            draw(recording, scenario, &setup, &figures);
        }
        state(recording, &setup, &name, &figures);
        findings::chains(recording, &setup, &name, &figures);
        findings::placement(recording, scenario, &setup, &name, &figures);
        let done = u32::try_from(index + 1).unwrap_or(1);
        progress.at(Mono(0) + scenario.duration() * done / strategies);
    }
    if let (Some(spec), Some(name)) = (&scenario.sharing, scenario.routing.strategies().first()) {
        match sharing::record(scenario, spec, seed, &|| method(scenario, name), recording) {
            Ok(searched) => hash = mix(hash ^ searched),
            Err(what) => {
                let check = "sharing".into();
                recording.violations.push(Violation { event: 0, at_ms: 0, check, what });
            }
        }
    }
    recording.hash = format!("{hash:016x}");
    for device in &scenario.device {
        let (name, unit) = (device.name.clone(), "per hour".to_owned());
        recording.costs.push(Cost { name, amount: device.cost_per_hour, unit });
    }
}

/// Adds what the gossip of a run says to what its jobs say.
fn join(recording: &mut Recording, said: Recording) {
    recording.violations.extend(said.violations);
    recording.distributions.extend(said.distributions);
    recording.gossip_curves.extend(said.gossip_curves);
    recording.facts.extend(said.facts);
    (recording.copies, recording.bytes_over_record) = (said.copies, said.bytes_over_record);
    recording.replay = said.replay;
}

/// Plays over peers that gossip, then lets the world come to rest and judges it too.
fn gossiping(
    scenario: &Scenario,
    setup: &Setup,
    seed: u64,
    replays: bool,
    method: Method,
) -> (Figures, Recording) {
    let mut mesh = Gossiping::new(scenario, setup, seed);
    if replays {
        mesh.course.world.replay = Some(record::replay(scenario));
    }
    let figures = play(setup, &mut mesh, method);
    let course = &mut mesh.course;
    course.end();
    let outcome = judge(course, seed);
    let mut said =
        Recording { virtual_s: scenario.duration().as_secs_f64(), ..Recording::default() };
    record::observe(&course.world, Traffic::default(), &mut said);
    record::fill(&mut said, &outcome);
    said.replay = course.world.replay.take();
    (figures, said)
}

fn distribute(
    recording: &mut Recording,
    setup: &Setup,
    name: &str,
    index: usize,
    figures: &Figures,
) {
    let key = match (index, name) {
        (_, "omniscient") => BOUND_TTFT_MS.to_owned(),
        (0, _) => TTFT_MS.to_owned(),
        _ => format!("{TTFT_MS}/{name}"),
    };
    recording.distribute(&key, figures.ttft_ms(|_| true));
    for law in names(setup) {
        let under = |job: usize| setup.laws[setup.arrivals[job].law].name == law;
        recording.distribute(&format!("{TTFT_MS}/{name}, {law}"), figures.ttft_ms(under));
    }
}

/// What a strategy did, in facts, and what it did wrong.
fn state(recording: &mut Recording, setup: &Setup, name: &str, figures: &Figures) {
    let per_job = |count: u64| count as f64 / setup.arrivals.len().max(1) as f64;
    recording.fact(&format!("{name}: probes"), per_job(figures.questions), "a job");
    recording.fact(&format!("{name}: sends"), per_job(figures.sends), "a job");
    let cross = figures.cross as f64 / figures.sends.max(1) as f64 * 100.0;
    recording.fact(&format!("{name}: leave their region"), cross, "%");
    recording.fact(&format!("{name}: refused"), figures.refused as f64, "jobs");
    if figures.orphaned > 0 {
        recording.fact(&format!("{name}: went with their entry"), figures.orphaned as f64, "jobs");
    }
    let more = figures.checkers.faults.saturating_sub(1);
    recording.violations.extend(figures.checkers.first.clone().map(|first| Violation {
        what: format!("under `{name}`: {}; and {more} more", first.what),
        ..first
    }));
}

/// The jobs on the map, and over time.
fn draw(recording: &mut Recording, scenario: &Scenario, setup: &Setup, figures: &Figures) {
    let seconds = |at: Mono| at.since(Mono(0)).as_secs_f64();
    for ((from, to), jobs) in &figures.flows {
        recording.flows.push(Flow { from: *from, to: *to, jobs: *jobs });
        if let Some(region) = recording.regions.get_mut(*to) {
            region.served += jobs;
        }
    }
    for arrival in &setup.arrivals {
        if let Some(region) = recording.regions.get_mut(setup.hosts[arrival.entry].region) {
            region.asked += 1;
        }
    }
    for (index, region) in recording.regions.iter_mut().enumerate() {
        let busy = figures.busy.iter().map(|(at, busy)| (seconds(*at), busy[index]));
        region.load = busy.collect();
    }
    let under_way = figures.under_way.iter().map(|(at, jobs)| (seconds(*at), *jobs as f64));
    let series = |name: &str, unit: &str, points| Series {
        name: name.to_owned(),
        unit: unit.to_owned(),
        points,
    };
    recording.series.push(series("jobs under way", "jobs", under_way.collect()));
    let mut came = vec![0_u32; usize::try_from(scenario.seconds).unwrap_or(usize::MAX) + 1];
    for arrival in &setup.arrivals {
        let second = usize::try_from(arrival.at.as_secs()).unwrap_or(usize::MAX);
        if let Some(came) = came.get_mut(second) {
            *came += 1;
        }
    }
    let points = came.chunks(10).zip(0_u32..);
    let rate = |(jobs, ten): (&[u32], u32)| {
        (f64::from(ten * 10), f64::from(jobs.iter().sum::<u32>()) / jobs.len() as f64)
    };
    recording.series.push(series("jobs arriving", "jobs/s", points.map(rate).collect()));
}

/// The policies of a scenario that has several, each once.
fn names(setup: &Setup) -> Vec<&str> {
    let mut names: Vec<&str> = setup.laws.iter().map(|law| law.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() > 1 { names } else { Vec::new() }
}
