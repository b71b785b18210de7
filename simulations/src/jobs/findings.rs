//! What a run says of chains and of placement, in facts.

use std::collections::BTreeSet;
use std::time::Duration;

use hansa_core::time::Mono;

use super::bound;
use super::figures::{Figures, Moved, Pass};
use super::setup::Setup;
use crate::recording::{Distribution, Recording, Series};
use crate::scenario::Scenario;

/// After a change of demand, so long is given to meet it.
const SETTLED: Duration = Duration::from_secs(60);

/// What passes through chains took, and where they led.
pub(super) fn chains(recording: &mut Recording, setup: &Setup, name: &str, figures: &Figures) {
    if figures.passes.is_empty() {
        return;
    }
    let region = |host: &usize| setup.hosts[*host].region;
    let whole = || figures.passes.iter().filter(|pass| pass.mended == 0);
    let over = |pass: &Pass| (pass.took - pass.waited.min(pass.took)).div_duration_f64(pass.law);
    let over = Distribution::of(whole().map(over).collect());
    let at_home = whole().filter(|pass| {
        let entry = setup.hosts[setup.arrivals[pass.job].entry].region;
        pass.hosts.iter().all(|host| region(host) == entry)
    });
    let regions = |pass: &Pass| pass.hosts.iter().map(region).collect::<BTreeSet<_>>().len();
    // Regions whose servers have every stage of a model.
    let could = |pass: &&Pass| {
        let arrival = &setup.arrivals[pass.job];
        let here = setup.hosts[arrival.entry].region;
        let servers = setup.hosts.iter().filter(|host| host.region == here);
        let stages = servers.filter_map(|host| host.server.as_ref()).flat_map(|s| &s.stages);
        let held = stages.filter(|(model, _)| *model == arrival.model).collect::<BTreeSet<_>>();
        held.len() == setup.models[arrival.model].stages.len()
    };
    let could = whole().filter(could).count() as f64;
    let (all, at_home) = (whole().count().max(1) as f64, at_home.count() as f64);
    let one = whole().filter(|pass| regions(pass) == 1).count() as f64;
    let ms = |of: &dyn Fn(&Pass) -> Duration| {
        whole().map(|pass| of(pass).as_secs_f64() * 1e3).sum::<f64>() / all
    };
    let mended = || figures.passes.iter().filter(|pass| pass.mended > 0);
    let late = |pass: &Pass| pass.took.saturating_sub(pass.waited + pass.law).as_secs_f64();
    let mut fact = |what: &str, value: f64, unit: &str| {
        recording.fact(&format!("{name}: {what}"), value, unit);
    };
    fact("pass over its law, p50", over.p50, "");
    fact("pass over its law, p99", over.p99, "");
    fact("pass by its law", ms(&|pass| pass.law), "ms on average");
    fact("pass waits for slots", ms(&|pass| pass.waited), "ms on average");
    fact("chains in the region of their entry", at_home / all * 100.0, "%");
    fact("chains whose entry's region has all stages", could / all * 100.0, "%");
    fact("chains in one region", one / all * 100.0, "%");
    fact("passes mended", mended().count() as f64, "");
    if mended().next().is_some() {
        let late = Distribution::of(mended().map(late).collect());
        fact("mended passes beyond their law, p50", late.p50, "s");
        fact("mended passes beyond their law, longest", late.max, "s");
    }
}

/// How demand was met after it changed, what that took, and what could be at most.
pub(super) fn placement(
    recording: &mut Recording,
    scenario: &Scenario,
    setup: &Setup,
    name: &str,
    figures: &Figures,
) {
    // Where models have no size, nobody asks who holds what.
    let is_placed = scenario.model.iter().any(|model| model.size_mib > 0);
    let Some(shift) = scenario.shift_s().filter(|_| is_placed).map(Duration::from_secs) else {
        return;
    };
    let end = scenario.duration();
    let met = bound::met(setup, figures, shift, end);
    let mut fact = |what: &str, value: f64, unit: &str| {
        recording.fact(&format!("{name}: {what}"), value, unit);
    };
    fact("unmet after the shift", met.unmet * 100.0, "%");
    // Where it never is, all of the time that there was.
    let lasted = met.met_after.unwrap_or((end - shift).as_secs_f64());
    fact("unmet below 1 % after", lasted, "s");
    fact("work that could be done at most", met.most * 100.0, "%");
    fact("throughput against the most", met.throughput, "");
    let settled = shift + SETTLED;
    if settled < end {
        let met = bound::met(setup, figures, settled, end);
        fact("unmet from a minute after the shift", met.unmet * 100.0, "%");
        fact("throughput against the most from then", met.throughput, "");
    }
    let moves = |is_held: bool, from: Duration| {
        let counts = |moved: &&Moved| moved.is_held == is_held && moved.at >= Mono(0) + from;
        figures.moves.iter().filter(counts).count() as f64
    };
    fact("models fetched", moves(true, Duration::ZERO), "");
    fact("models dropped", moves(false, Duration::ZERO), "");
    fact("models fetched after the shift", moves(true, shift), "");
    fact("models fetched from a minute after it", moves(true, settled), "");
    let points = bound::unmet(setup, figures, scenario.seconds);
    let points = points.into_iter().map(|(second, unmet)| (second, unmet * 100.0)).collect();
    let series = Series { name: format!("unmet/{name}"), unit: "%".into(), points };
    recording.series.push(series);
}
