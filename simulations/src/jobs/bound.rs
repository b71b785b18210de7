//! How well demand was met, and what no placement could exceed.
//!
//! The bound is a maximum flow: from each kind of job (its law, its entry's own bounds, its model),
//! as many as came, to the hosts that may run it and could hold its model alone, to the work that
//! each host can do. It is the optimum of the relaxation in which hosts hold parts of models and
//! change them at no cost: as soon as every model fits alone, the memory of such a host never binds.
//! Capacity is that of mean jobs, and what holders lack at a moment, round trips and the time to
//! load are left out, so no real placement reaches it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::checkers::may_run;
use super::figures::Figures;
use super::setup::Setup;
use crate::flow::Network;

/// Unmet demand is looked at over so long.
const SPAN: Duration = Duration::from_secs(5);
/// Demand counts as met when less than one job in so many is not.
const MET: usize = 100;
/// Thousandths of the work of a job of the first model.
const UNIT: f64 = 1e3;

/// How demand was met from one moment to another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Met {
    /// Share of the jobs whose first byte came late, or never.
    pub unmet: f64,
    /// Seconds from the beginning until less than 1 % are unmet in every five seconds after it.
    pub met_after: Option<f64>,
    /// Work of the jobs that were answered, against the most that could be.
    pub throughput: f64,
    /// Share of the jobs' work that could have been done at most.
    pub most: f64,
}

/// For each second after the warm-up, the share of the jobs that came in it whose demand was not met.
pub fn unmet(setup: &Setup, figures: &Figures, seconds: u64) -> Vec<(f64, f64)> {
    let (is_met, is_answered) = ends(setup, figures);
    let mut counts = vec![(0, 0); usize::try_from(seconds).unwrap_or(usize::MAX)];
    for (number, job) in setup.arrivals.iter().enumerate() {
        let second = usize::try_from(job.at.as_secs()).unwrap_or(usize::MAX);
        if let Some((all, unmet)) = counts.get_mut(second) {
            *all += 1;
            *unmet += usize::from(!(is_met[number] && is_answered[number]));
        }
    }
    let point =
        |((all, unmet), second): (&(usize, usize), u32)| (second.into(), share(*unmet, *all));
    let warm = usize::try_from(setup.warm.as_secs()).unwrap_or(usize::MAX);
    counts.iter().zip(0..).skip(warm).map(point).collect()
}

/// By job: whether its first byte came in time, and whether it was answered.
fn ends(setup: &Setup, figures: &Figures) -> (Vec<bool>, Vec<bool>) {
    let mut is_met = vec![false; setup.arrivals.len()];
    for (ttft, job) in &figures.ttft {
        is_met[*job] = *ttft <= setup.late;
    }
    let mut is_answered = vec![true; setup.arrivals.len()];
    figures.unanswered.iter().for_each(|job| is_answered[*job] = false);
    (is_met, is_answered)
}

/// Judges the jobs that came from one moment to another.
pub fn met(setup: &Setup, figures: &Figures, from: Duration, until: Duration) -> Met {
    let jobs = || {
        let all = setup.arrivals.iter().enumerate();
        all.filter(move |(_, job)| (from..until).contains(&job.at))
    };
    let (is_met, is_answered) = ends(setup, figures);
    let mut spans = BTreeMap::<u128, (usize, usize)>::new();
    let (mut came, mut missed, mut done) = (0, 0, 0.0);
    for (number, job) in jobs() {
        let is_unmet = !(is_met[number] && is_answered[number]);
        let span = spans.entry((job.at - from).as_nanos() / SPAN.as_nanos()).or_default();
        *span = (span.0 + 1, span.1 + usize::from(is_unmet));
        (came, missed) = (came + 1, missed + usize::from(is_unmet));
        done += if is_answered[number] { setup.models[job.model].work } else { 0.0 };
    }
    let last_unmet = spans.iter().rfind(|(_, (all, unmet))| unmet * MET >= *all);
    let met_after = last_unmet.map_or(0.0, |(span, _)| {
        let spans = u32::try_from(span + 1).unwrap_or(u32::MAX);
        (SPAN * spans).as_secs_f64()
    });
    let asked: f64 = jobs().map(|(_, job)| setup.models[job.model].work).sum();
    let most = most(setup, from, until);
    Met {
        unmet: share(missed, came),
        met_after: Some(met_after).filter(|after| *after < (until - from).as_secs_f64()),
        throughput: if most > 0.0 { done / most } else { 1.0 },
        most: if asked > 0.0 { most / asked } else { 1.0 },
    }
}

fn share(part: usize, all: usize) -> f64 {
    part as f64 / all.max(1) as f64
}

/// The most work that could be done of what came from one moment to another.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Work is far below 2^53.
fn most(setup: &Setup, from: Duration, until: Duration) -> f64 {
    let mut kinds = BTreeMap::<(usize, usize, usize), (usize, f64)>::new();
    for (number, job) in setup.arrivals.iter().enumerate() {
        if (from..until).contains(&job.at) {
            let kind = kinds.entry((job.law, job.model, job.entry)).or_insert((number, 0.0));
            kind.1 += setup.models[job.model].work;
        }
    }
    let seconds = (until - from).as_secs_f64();
    let (hosts, source) = (setup.hosts.len(), setup.hosts.len() + kinds.len());
    let sink = source + 1;
    let mut network = Network::new(sink + 1);
    for (index, host) in setup.hosts.iter().enumerate() {
        if let Some(server) = &host.server {
            network.connect(index, sink, (setup.pace(server) * seconds * UNIT) as u64);
        }
    }
    for (kind, (job, work)) in (hosts..).zip(kinds.values()) {
        network.connect(source, kind, (work * UNIT) as u64);
        for host in (0..hosts).filter(|host| may_run(setup, *job, *host)) {
            network.connect(kind, host, u64::MAX / 4);
        }
    }
    network.most(source, sink) as f64 / UNIT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::stage::stage;
    use crate::scenario::Scenario;

    /// Two regions of two servers, 8 jobs a second each; what `more` says is in addition.
    fn setup(more: &str) -> Setup {
        let region = |name: &str, at: &str, location: &str| {
            format!(
                "[[region]]\nname = '{name}'\nat = {at}\nlocation = '{location}'\npeers = 3\nentries = 1\n"
            )
        };
        let (west, east) = (region("west", "[52, 4]", "NL"), region("east", "[38, -77]", "US"));
        let device = "[[device]]\nslots = 4\nprefill_ms = 100\nservice_ms = { mean = 400 }\n\
                      memory_mib = 1000\n";
        let toml = format!("name = 'x'\nseconds = 100\n{west}{east}{device}{more}");
        stage(&Scenario::parse(&toml).unwrap(), 1).unwrap()
    }

    fn at_most(setup: &Setup) -> f64 {
        met(setup, &Figures::default(), Duration::ZERO, Duration::from_secs(100)).most
    }

    #[test]
    fn the_bound_is_capacity_within_the_law() {
        // 16 a second are asked, 32 can be done.
        let model = "[[model]]\nname = 'm'\nsize_mib = 900\n";
        let jobs = "[[arrivals]]\nkind = 'poisson'\nrate = 16\nregions = ['west']\n";
        let all = at_most(&setup(&format!("{model}{jobs}")));
        assert!((all - 1.0).abs() < 1e-9, "{all}");
        let twice = at_most(&setup(&format!("{model}{}", jobs.replace("16", "64"))));
        assert!((0.48..0.52).contains(&twice), "{twice}");
        // Only the two in the west may.
        let law = "[[policy]]\nname = 'here'\nrequire = { locations = 'own' }\n";
        let here = at_most(&setup(&format!("{model}{law}{}", jobs.replace("16", "32"))));
        assert!((0.48..0.52).contains(&here), "{here}");
        // Of the weights, only those in the east.
        let held = model.replace("900", "900\nhold = { locations = 'US' }");
        let there = at_most(&setup(&format!("{held}{}", jobs.replace("16", "32"))));
        assert!((0.48..0.52).contains(&there), "{there}");
        let neither = at_most(&setup(&format!("{held}{law}{jobs}")));
        assert!(neither.abs() < 1e-9, "{neither}");
    }
}
