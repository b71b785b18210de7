//! A scenario file as jobs are played: which of its peers serve, on what and under whose law, and
//! what arrives when.

use std::collections::BTreeSet;
use std::time::Duration;

use hansa_core::advert::Device;
use hansa_core::place::Groups;
use hansa_core::policy::Bounds;
use hansa_core::rng::{Rng, mix};
use hansa_core::time::Mono;

use super::checkers::outside;
use super::law;
use super::setup::{Arrival, Fault, Host, Law, Model, Server, Setup, Size, Terms};
use crate::arrivals::{Arrivals, mean_tokens, normal};
use crate::geography::RoundTrips;
use crate::scenario::{
    CharterSpec, DeviceSpec, FaultKind, LieAbout, ModelSpec, PlacementStrategy, Scenario,
};

/// Jobs that name no deadline have this long.
const DEADLINE: Duration = Duration::from_secs(600);
/// A snapshot of loads is this old at most, where the scenario says nothing.
const SNAPSHOT: Duration = Duration::from_secs(2);
/// Inputs of a job of a scenario without models, in bytes.
const BYTES: u64 = 4_096;
/// An advert that lies tells of so many times the slots.
const BOAST: u16 = 10;

/// What `scenario` is under `seed`.
///
/// # Errors
/// What is wrong with a file that it names, or with its law.
pub fn stage(scenario: &Scenario, seed: u64) -> Result<Setup, String> {
    let text = |error: crate::scenario::ScenarioError| error.to_string();
    let devices = match &scenario.device[..] {
        [] => vec![DeviceSpec::default()],
        devices => devices.to_vec(),
    };
    let mut setup = Setup {
        seed,
        devices,
        models: Vec::new(),
        laws: Vec::new(),
        hosts: Vec::new(),
        rtt: round_trips(scenario)?,
        jitter: Duration::from_millis(scenario.links.jitter_ms),
        tokens: mean_tokens(scenario).map_err(text)?,
        arrivals: Vec::new(),
        faults: Vec::new(),
        warm: Duration::from_secs(scenario.warmup_s),
        snapshot: scenario.routing.stale_ms.map_or(SNAPSHOT, Duration::from_millis),
        late: Duration::from_millis(scenario.placement.late_ms),
        moves: scenario.placement.strategy == PlacementStrategy::Demand,
        lists_age_max: None,
        retry_percent: scenario.routing.retry_percent(),
    };
    let mut rng = Rng::new(mix(seed ^ 0x10b5));
    let groups = law::groups();
    setup.models = models(scenario, &groups)?;
    let entries = settle(&mut setup, scenario, &groups, &mut rng)?;
    place_models(&mut setup, scenario, &mut Rng::new(mix(seed ^ 0x91ace)));
    let laws = laws(&mut setup, scenario, &groups)?;
    let shares = |index: usize| scenario.model.get(index).map_or(1.0, |model| model.share);
    let all: f64 = (0..setup.models.len()).map(shares).sum();
    let work = setup.models.iter().enumerate().map(|(index, model)| shares(index) * model.work);
    let work = work.sum::<f64>() / all;
    let servers = setup.hosts.iter().filter_map(|host| host.server.as_ref());
    let capacity = servers.map(|server| setup.pace(server)).sum::<f64>() / work;
    let mut arriving = Arrivals::new(scenario, seed, capacity).map_err(text)?;
    let numbers: Vec<usize> = (0..setup.models.len()).collect();
    let mut what = Rng::new(mix(seed ^ 0x1a3));
    for arrival in arriving.by_ref() {
        let chance = if arrival.tokens.is_none() { normal(&mut rng) } else { 0.0 };
        let here = &entries[arrival.region];
        let entry = here[rng.below(here.len())];
        let (law, deadline) = draw(&mut what, &laws[arrival.region], |law| law.0).1;
        let model = arrival.model;
        let model = model.unwrap_or_else(|| *draw(&mut what, &numbers, |model| shares(*model)));
        setup.arrivals.push(Arrival {
            at: arrival.at.since(Mono(0)),
            entry,
            model,
            size: Size {
                tokens: arrival.tokens.map(|(input, output)| (input.into(), output.into())),
                chance,
            },
            law,
            deadline,
        });
    }
    if let Some(fault) = arriving.fault() {
        return Err(fault.to_string());
    }
    befall(&mut setup, scenario, &mut rng);
    Ok(setup)
}

fn models(scenario: &Scenario, groups: &Groups) -> Result<Vec<Model>, String> {
    if scenario.model.is_empty() {
        return Ok(vec![Model::new("model", 1.0, BYTES)]);
    }
    let model = |spec: &ModelSpec| {
        // Weights come from nowhere in particular: there is no `own` place.
        let law = law::policy(&spec.hold, "", groups);
        let law = law.map_err(|error| format!("who holds `{}`: {error}", spec.name))?;
        let size = u64::from(spec.size_mib) << 20;
        let model = Model::new(&spec.name, spec.work, spec.input_bytes).in_stages(spec.stages);
        Ok(Model { size, law, output_bytes: spec.output_bytes, ..model })
    };
    scenario.model.iter().map(model).collect()
}

fn round_trips(scenario: &Scenario) -> Result<Vec<Vec<Duration>>, String> {
    let trips = match &scenario.links.matrix {
        Some(file) => {
            let names: Vec<&str> = scenario.region.iter().map(|r| r.name.as_str()).collect();
            RoundTrips::read(&scenario.file(file), &names).map_err(|error| error.to_string())?
        }
        None => {
            let places: Vec<[f64; 2]> = scenario.region.iter().map(|region| region.at).collect();
            RoundTrips::of_places(&places)
        }
    };
    let twice = |row: Vec<Duration>| row.into_iter().map(|one_way| one_way * 2).collect();
    Ok(trips.one_way().into_iter().map(twice).collect())
}

/// Gives each peer its region, charter and device; says where the jobs of each region enter.
fn settle(
    setup: &mut Setup,
    scenario: &Scenario,
    groups: &Groups,
    rng: &mut Rng,
) -> Result<Vec<Vec<usize>>, String> {
    let mut signing = Rng::new(mix(setup.seed ^ 0xc4a27e2));
    let regions = scenario.region_of_peers();
    let mut entries = vec![Vec::new(); scenario.region.len()];
    let mut before = vec![0; scenario.region.len()];
    for (peer, index) in regions.iter().copied().enumerate() {
        let region = &scenario.region[index];
        let mut host = Host { region: index, ..Host::default() };
        if before[index] < region.entries {
            entries[index].push(peer);
        } else {
            let classes: Vec<usize> = (0..setup.devices.len()).collect();
            let device = *draw(rng, &classes, |class| setup.devices[*class].share);
            host.devices.extend(setup.devices[device].memory_mib.map(computes));
            host.server = Some(Server { device, models: BTreeSet::new(), stages: BTreeSet::new() });
        }
        let named = |charter: &&CharterSpec| {
            charter.regions.is_empty() || charter.regions.contains(&region.name)
        };
        let charters: Vec<&CharterSpec> = scenario.charter.iter().filter(named).collect();
        if scenario.charter.is_empty() {
            // Nobody passes a gate without a charter; where the scenario has none, all are plain.
            host.terms = Some(Terms {
                location: region.location.clone(),
                operator: format!("Operator {}", before[index] % 5),
                control: region.location.get(..2).unwrap_or_default().to_owned(),
                data_classes: BTreeSet::new(),
            });
        } else if !charters.is_empty() {
            let charter = *draw(&mut signing, &charters, |charter| charter.share);
            host.terms = Some(Terms {
                location: region.location.clone(),
                operator: charter.operator.clone(),
                control: charter.control.clone(),
                data_classes: charter.data_classes.iter().cloned().collect(),
            });
            let bounds = |constraints| {
                let policy = law::policy(constraints, &region.location, groups);
                policy.map(|policy| policy.bounds).map_err(|error| error.to_string())
            };
            (host.serve, host.send) = (bounds(&charter.serve)?, bounds(&charter.send)?);
        }
        before[index] += 1;
        setup.hosts.push(host);
    }
    for (index, entries) in entries.iter_mut().enumerate().filter(|(_, here)| here.is_empty()) {
        // Where nobody is set apart for it, everybody takes jobs.
        entries.extend((0..regions.len()).filter(|peer| regions[*peer] == index));
    }
    match entries.iter().position(Vec::is_empty) {
        Some(index) if scenario.region[index].weight > 0.0 => {
            Err(format!("nobody takes the jobs of {}", scenario.region[index].name))
        }
        _ => Ok(entries),
    }
}

/// What an advert says of a device with so much memory.
fn computes(memory_total_mib: u32) -> Device {
    Device {
        provider: "cpu".into(),
        name: String::new(),
        id: 0,
        memory_total_mib,
        memory_free_mib: memory_total_mib,
        utilisation_percent: None,
    }
}

/// Gives each model to its share of the servers, of those that may have it and have room.
fn place_models(setup: &mut Setup, scenario: &Scenario, rng: &mut Rng) {
    let is_server = |host: &usize| setup.hosts[*host].server.is_some();
    let servers: Vec<usize> = (0..setup.hosts.len()).filter(is_server).collect();
    for model in 0..setup.models.len() {
        let share = match scenario.placement.strategy {
            PlacementStrategy::Everywhere => 1.0,
            _ => scenario.model.get(model).map_or(1.0, |spec| spec.held_by),
        };
        let mut order = servers.clone();
        if share < 1.0 {
            (1..order.len()).rev().for_each(|last| order.swap(last, rng.below(last + 1)));
        }
        if scenario.placement.strategy == PlacementStrategy::NearDemand {
            let weight = |host: &usize| scenario.region[setup.hosts[*host].region].weight;
            order.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
        }
        // A model that some hold is held by one at least.
        let holders = part(share, order.len()).max(usize::from(share > 0.0));
        let may = |host: &usize| {
            let server = setup.hosts[*host].server.as_ref().expect("one that serves");
            let taken = setup.size(&server.models) + setup.models[model].size;
            let law = &setup.models[model].law.bounds;
            let is_free = *law == Bounds::default();
            let may = is_free || outside(law, &setup.hosts[*host]).is_none();
            may && taken <= setup.memory(server)
        };
        let takers: Vec<usize> = order.into_iter().filter(may).take(holders).collect();
        let stages = setup.models[model].stages.len();
        for (turn, host) in takers.into_iter().enumerate() {
            let Some(server) = &mut setup.hosts[host].server else { continue };
            if stages > 0 {
                server.stages.insert((model, turn % stages));
            } else {
                server.models.insert(model);
            }
        }
    }
}

/// For each region: share, and law with deadline, of what its jobs demand.
type Demands = Vec<Vec<(f64, (usize, Duration))>>;

fn laws(setup: &mut Setup, scenario: &Scenario, groups: &Groups) -> Result<Demands, String> {
    let mut all = Vec::new();
    for region in &scenario.region {
        let mut here = Vec::new();
        for spec in &scenario.policy {
            if !spec.regions.is_empty() && !spec.regions.contains(&region.name) {
                continue;
            }
            let policy = law::policy(&spec.require, &region.location, groups)
                .map_err(|error| format!("policy `{}`: {error}", spec.name))?;
            let deadline = spec.deadline_ms.map_or(DEADLINE, Duration::from_millis);
            here.push((spec.share, (setup.laws.len(), deadline)));
            setup.laws.push(Law { name: spec.name.clone(), policy });
        }
        if here.is_empty() {
            here.push((1.0, (setup.laws.len(), DEADLINE)));
            setup.laws.push(Law { name: "none".into(), ..Law::default() });
        }
        all.push(here);
    }
    Ok(all)
}

/// One of several, by their shares.
fn draw<'a, T>(rng: &mut Rng, of: &'a [T], share: impl Fn(&T) -> f64) -> &'a T {
    if let [only] = of {
        return only;
    }
    let mut point = rng.unit() * of.iter().map(&share).sum::<f64>();
    let drawn = of.iter().find(|one| {
        point -= share(one);
        point < 0.0
    });
    drawn.unwrap_or(&of[of.len() - 1])
}

/// So many of `all`, rounded to the nearest.
fn part(share: f64, all: usize) -> usize {
    (0..all).filter(|n| *n as f64 + 0.5 <= share * all as f64).count()
}

fn befall(setup: &mut Setup, scenario: &Scenario, rng: &mut Rng) {
    for spec in &scenario.fault {
        let region = |host: usize| &scenario.region[setup.hosts[host].region].name;
        let serves = |host: &usize| {
            setup.hosts[*host].server.is_some()
                && spec.region.as_ref().is_none_or(|name| region(*host) == name)
        };
        let mut left: Vec<usize> = (0..setup.hosts.len()).filter(serves).collect();
        let all = left.len();
        let share = spec.share.map(|share| part(share, all));
        let count = share.or(spec.count).unwrap_or(if spec.region.is_some() { all } else { 0 });
        let (at, until) = (Duration::from_secs(spec.at_s), spec.until_s.map(Duration::from_secs));
        for _ in 0..count.min(all) {
            let host = left.swap_remove(rng.below(left.len()));
            let (begin, end) = match spec.kind {
                FaultKind::Gray => (Fault::Slow(spec.by.unwrap_or(10.0)), Fault::Slow(1.0)),
                FaultKind::ForgedCharters => {
                    setup.hosts[host].forged = true;
                    continue;
                }
                FaultKind::LyingAdverts if spec.about == Some(LieAbout::Models) => {
                    setup.hosts[host].claims = (0..setup.models.len()).collect();
                    continue;
                }
                FaultKind::LyingAdverts => {
                    setup.hosts[host].boast = Some(BOAST);
                    continue;
                }
                // They change what peers know of each other: the course brings them.
                _ => continue,
            };
            setup.faults.push((at, host, begin));
            setup.faults.extend(until.map(|until| (until, host, end)));
        }
    }
}
