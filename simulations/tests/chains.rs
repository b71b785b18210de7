//! Jobs through chains of stages: within the law at every hand-over, as long as the law of chains
//! says, and mended when a stage dies.
#![allow(clippy::print_stdout)] // Seeds come first, so that a failure can be repeated.

use std::collections::BTreeSet;
use std::time::Duration;

use hansa_core::policy::Demand;
use hansa_sim::jobs::figures::Figures;
use hansa_sim::jobs::law::groups;
use hansa_sim::jobs::mesh::Fixed;
use hansa_sim::jobs::play::play;
use hansa_sim::jobs::setup::{Fault, Setup};
use hansa_sim::jobs::stage::stage;
use hansa_sim::jobs::strategy::named;
use hansa_sim::record::{Progress, not_yet, record};
use hansa_sim::scenario::Scenario;

/// Twelve servers in each of two regions, three stages of 20 ms; what `more` says is in addition.
fn scenario(more: &str) -> Scenario {
    let region = |name: &str, at: &str, place: &str| {
        format!(
            "[[region]]\nname = '{name}'\nat = {at}\nlocation = '{place}'\npeers = 14\nentries = 2\n"
        )
    };
    let text = format!(
        "name = 'x'\nseconds = 20\nsettled = true\nreplay = false\n{}{}\
         [links]\nmodel = 'geography'\njitter_ms = 1\n\
         [[device]]\nslots = 4\nprefill_ms = 0\nservice_ms = {{ mean = 60, sigma = 0.3 }}\n\
         [[model]]\nname = 'deep'\nstages = 3\n\
         [[arrivals]]\nkind = 'poisson'\nrate = 60\n\
         [routing]\nstrategy = 'hansa'\n{more}",
        region("Amsterdam", "[52.3, 4.8]", "NL"),
        region("Virginia", "[38.9, -77.5]", "US-VA"),
    );
    Scenario::parse(&text).unwrap()
}

fn played(setup: &Setup) -> Figures {
    println!("seed {}", setup.seed);
    play(setup, &mut Fixed::new(setup), named("hansa").expect("a strategy"))
}

const ANY: &str = "[[policy]]\nname = 'any'\ndeadline_ms = 10000\n";

#[test]
fn a_pass_takes_its_stages_and_the_ways_between_them() {
    let setup = stage(&scenario(ANY), 1).unwrap();
    let figures = played(&setup);
    assert_eq!(figures.checkers.first, None);
    assert_eq!((figures.refused, figures.orphaned), (0, 0));
    assert_eq!(figures.passes.len(), setup.arrivals.len());
    for pass in &figures.passes {
        assert_eq!((pass.hosts.len(), pass.mended), (3, 0), "{pass:?}");
        // Four hand-overs, each up to a millisecond later than the link's latency.
        let (least, most) = (pass.law + pass.waited, Duration::from_millis(4) + pass.waited);
        assert!(pass.took >= least && pass.took <= pass.law + most, "{pass:?}");
    }
}

#[test]
fn no_activation_leaves_where_the_law_lets_it_be() {
    let home = "[[policy]]\nname = 'at home'\nrequire = { locations = 'own' }\n\
                deadline_ms = 10000\n";
    let setup = stage(&scenario(home), 2).unwrap();
    let figures = played(&setup);
    assert_eq!(figures.checkers.first, None);
    let region = |host: usize| setup.hosts[host].region;
    for pass in &figures.passes {
        let here = region(setup.arrivals[pass.job].entry);
        assert!(pass.hosts.iter().all(|host| region(*host) == here), "{pass:?}");
    }
    assert!(figures.passes.len() > 1_000);
    // Nobody in Virginia has the last stage: jobs from there are refused, and none is lost.
    let mut lacking = setup.clone();
    for host in lacking.hosts.iter_mut().filter(|host| host.region == 1) {
        if let Some(server) = &mut host.server {
            server.stages.remove(&(0, 2));
        }
    }
    let figures = played(&lacking);
    assert_eq!(figures.checkers.first, None);
    let from_there = setup.arrivals.iter().filter(|job| region(job.entry) == 1).count();
    assert_eq!(figures.refused, from_there as u64);
}

#[test]
fn a_stage_passes_on_only_to_whom_its_own_host_sends_and_who_serves_it() {
    let mut mended = 0;
    for seed in 1..=2 {
        let mut setup = stage(&scenario(ANY), seed).unwrap();
        let mut only_eu = Demand::default();
        only_eu.set("locations", "EU", &groups()).unwrap();
        for (index, host) in setup.hosts.iter_mut().enumerate() {
            match index % 5 {
                0 => host.send = only_eu.policy.bounds.clone(),
                1 => host.serve = only_eu.policy.bounds.clone(),
                _ => {}
            }
        }
        let figures = played(&setup);
        assert_eq!(figures.checkers.first, None, "seed {seed}");
        assert!(figures.answered > 0);
        mended += figures.passes.iter().filter(|pass| pass.mended > 0).count();
    }
    assert!(mended > 20, "{mended} had to find another, which shows nothing");
}

#[test]
fn a_stage_that_dies_is_replaced_by_whoever_passed_to_it() {
    let mut setup = stage(&scenario(ANY), 3).unwrap();
    let is_server = |host: &usize| setup.hosts[*host].server.is_some();
    let servers: Vec<usize> = (0..setup.hosts.len()).filter(is_server).collect();
    // Eight servers, of all stages, die one after the other, each for six seconds.
    let dead: BTreeSet<usize> = servers.iter().copied().take(8).collect();
    for (number, host) in dead.iter().enumerate() {
        let at = Duration::from_millis(2_000 + 1_500 * number as u64);
        setup.faults.push((at, *host, Fault::Crash));
        setup.faults.push((at + Duration::from_secs(6), *host, Fault::Restart));
    }
    let figures = played(&setup);
    assert_eq!(figures.checkers.first, None);
    assert_eq!(figures.refused, 0, "others have each stage");
    assert_eq!(figures.answered, setup.arrivals.len() as u64);
    let mended: Vec<_> = figures.passes.iter().filter(|pass| pass.mended > 0).collect();
    assert!(mended.len() > 3, "{} passes were mended", mended.len());
    for pass in mended {
        // What its death and each other dead peer met on the way costs: silence, and a stage again.
        let lost = pass.took.saturating_sub(pass.law + pass.waited);
        let most = Duration::from_millis(1_200) * pass.mended;
        assert!(lost <= most, "{lost:?} for {} repairs: {pass:?}", pass.mended);
    }
}

#[test]
fn chains_break_and_are_mended_in_a_world_that_gossips() {
    let more = format!("{ANY}[[fault]]\nkind = 'crash'\nat_s = 8\ncount = 4\n");
    let scenario = scenario(&more);
    println!("seed 1");
    assert_eq!(not_yet(&scenario), [] as [&str; 0]);
    let recording = record(&scenario, 1, &Progress::default());
    // The dead may not be known everywhere ten seconds later; that is another test's.
    let ours = |check: &str| check != "at the end";
    let wrong = recording.violations.iter().find(|wrong| ours(&wrong.check));
    assert_eq!(wrong, None);
    let fact = |name: &str| {
        let fact = recording.facts.iter().find(|fact| fact.name == format!("hansa: {name}"));
        fact.unwrap_or_else(|| panic!("no fact `{name}`")).value
    };
    assert_eq!(fact("refused"), 0.0);
    assert!(fact("pass over its law, p50") <= 1.05);
    assert!(recording.jobs > 900, "{} answered", recording.jobs);
}

#[test]
fn other_strategies_are_refused_for_models_in_stages() {
    let text = scenario(ANY).text.replace("strategy = 'hansa'", "strategy = ['hansa', 'random']");
    let scenario = Scenario::parse(&text).unwrap();
    let refused = not_yet(&scenario);
    assert!(refused.iter().any(|what| what.contains("models in stages")), "{refused:?}");
}
