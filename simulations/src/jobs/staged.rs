//! Scenario files with jobs, from end to end. What cannot be played yet is named by [`not_yet`],
//! never left out in silence.

use hansa_core::rng::mix;

use super::law;
use super::play::play;
use super::setup::Setup;
use super::sharing;
use super::stage::stage;
use super::strategy::{Method, named};
use super::views::Fixed;
use crate::recording::{BOUND_TTFT_MS, Cost, Recording, TTFT_MS, Violation};
use crate::scenario::{FaultKind, FaultSpec, GossipSpec, LieAbout, LinkModel, Scenario};

/// What of a scenario with jobs is not played yet.
pub fn not_yet(scenario: &Scenario) -> Vec<String> {
    let links = &scenario.links;
    let routing = &scenario.routing;
    let given = |key: &str| format!("`{key}` beside jobs");
    let checks = [
        (scenario.region.is_empty(), "jobs without a [[region]]".to_owned()),
        (!scenario.settled, "jobs over peers that join (add `settled = true`)".to_owned()),
        (
            links.model != LinkModel::Geography && links.matrix.is_none(),
            "jobs over other links than geography or a matrix".into(),
        ),
        (scenario.model.iter().any(|model| model.stages != 1), "models in stages".into()),
        (links.loss > 0.0, given("links.loss")),
        (links.reorder > 0.0, given("links.reorder")),
        (links.bandwidth_mbit.is_some(), given("links.bandwidth_mbit")),
        (routing.probe_above_ms.is_some(), given("routing.probe_above_ms")),
        (routing.retry_budget.is_some(), given("routing.retry_budget")),
        (scenario.publish_every_ms.is_some(), given("publish_every_ms")),
        (scenario.republish_s.is_some(), given("republish_s")),
        (scenario.gossip != GossipSpec::default(), given("[gossip]")),
        (scenario.replay == Some(true), given("replay")),
    ];
    let checks = checks.into_iter().filter(|(is, _)| *is).map(|(_, what)| what);
    let strategies = routing.strategies().into_iter();
    let unknown = strategies.filter(|name| named(name).is_none());
    let faults = scenario.fault.iter().filter(|fault| !is_played(fault));
    checks
        .chain(law::faults(scenario))
        .chain(unknown.map(|name| format!("strategy `{name}`")))
        .chain(faults.map(|fault| format!("[[fault]] of kind `{}` beside jobs", fault.kind.name())))
        .collect()
}

/// Lies and forgeries are told from the beginning to the end.
fn is_played(fault: &FaultSpec) -> bool {
    let always = fault.at_s == 0 && fault.until_s.is_none();
    match fault.kind {
        FaultKind::Crash | FaultKind::Restart | FaultKind::RegionLost | FaultKind::Gray => true,
        FaultKind::ForgedCharters => always,
        FaultKind::LyingAdverts => always && fault.about != Some(LieAbout::Models),
        _ => false,
    }
}

/// The method that the scenario means by `name`.
fn method(scenario: &Scenario, name: &str) -> Method {
    match (name, scenario.routing.probes) {
        ("hansa", Some(probes)) => Method::Hansa(probes),
        _ => named(name).expect("checked by `not_yet`"),
    }
}

/// Plays the scenario's jobs under each of its strategies and records how they fared. The first
/// one's samples are the run's own, the omniscient one's its bound.
pub fn record(scenario: &Scenario, seed: u64, recording: &mut Recording) {
    let mut hash = 0;
    let setup = match stage(scenario, seed) {
        Ok(setup) => setup,
        Err(what) => {
            let check = "the scenario".into();
            recording.hash = format!("{hash:016x}");
            return recording.violations.push(Violation { event: 0, at_ms: 0, check, what });
        }
    };
    let mesh = Fixed::new(&setup);
    for (index, name) in scenario.routing.strategies().into_iter().enumerate() {
        let figures = play(&setup, &mesh, method(scenario, &name));
        hash = mix(hash ^ figures.hash);
        let key = match (index, name.as_str()) {
            (_, "omniscient") => BOUND_TTFT_MS.to_owned(),
            (0, _) => TTFT_MS.to_owned(),
            _ => format!("{TTFT_MS}/{name}"),
        };
        recording.distribute(&key, figures.ttft_ms(|_| true));
        for law in names(&setup) {
            let under = |job: usize| setup.laws[setup.arrivals[job].law].name == law;
            recording.distribute(&format!("{TTFT_MS}/{name}, {law}"), figures.ttft_ms(under));
        }
        if index == 0 {
            recording.jobs = figures.answered;
        }
        let per_job = |count: u64| count as f64 / setup.arrivals.len().max(1) as f64;
        recording.fact(&format!("{name}: probes"), per_job(figures.questions), "a job");
        recording.fact(&format!("{name}: sends"), per_job(figures.sends), "a job");
        let cross = figures.cross as f64 / figures.sends.max(1) as f64 * 100.0;
        recording.fact(&format!("{name}: leave their region"), cross, "%");
        recording.fact(&format!("{name}: refused"), figures.refused as f64, "jobs");
        let more = figures.checkers.faults.saturating_sub(1);
        recording.violations.extend(figures.checkers.first.map(|first| Violation {
            what: format!("under `{name}`: {}; and {more} more", first.what),
            ..first
        }));
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

/// The policies of a scenario that has several, each once.
fn names(setup: &Setup) -> Vec<&str> {
    let mut names: Vec<&str> = setup.laws.iter().map(|law| law.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() > 1 { names } else { Vec::new() }
}
