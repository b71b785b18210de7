//! Jobs over a mesh with faults: the law holds, and the checkers see when it does not.

use std::time::Duration;

use hansa_core::place::Groups;
use hansa_core::policy::{Demand, Policy};
use hansa_core::rng::Rng;
use hansa_sim::jobs::figures::Figures;
use hansa_sim::jobs::play::play;
use hansa_sim::jobs::setup::{Fault, Setup, yardstick};
use hansa_sim::jobs::strategy::named;
use hansa_sim::jobs::views::Fixed;

fn policy(constraints: &[(&str, &str)]) -> Policy {
    let groups = Groups::new([("EU".to_owned(), vec!["NL".to_owned()])].into()).expect("places");
    let mut demand = Demand::default();
    for (key, value) in constraints {
        demand.set(key, value, &groups).expect("a constraint");
    }
    demand.policy
}

/// A small yardstick whose jobs come with law, and whose servers crash, return and go gray.
fn troubled(seed: u64) -> Setup {
    eprintln!("seed {seed}");
    let mut setup = yardstick(seed, 64, 0.6, Duration::from_secs(60));
    let mut rng = Rng::new(seed ^ 0xfa017);
    let laws = [
        policy(&[]),
        policy(&[("locations", "EU")]),
        policy(&[("locations", "US")]),
        policy(&[("control", "!US")]),
        policy(&[("operators", "Operator 1")]),
        policy(&[("locations", "AQ")]),
    ];
    for arrival in &mut setup.arrivals {
        arrival.policy = laws[rng.below(laws.len())].clone();
        arrival.deadline = Duration::from_secs([2, 30, 600][rng.below(3)]);
    }
    for _ in 0..12 {
        let (at, host) = (Duration::from_millis(rng.below(50_000) as u64), rng.below(64));
        let back = at + Duration::from_secs(5);
        let [fault, mend] = match rng.below(2) {
            0 => [Fault::Crash, Fault::Restart],
            _ => [Fault::Slow(10.0), Fault::Slow(1.0)],
        };
        setup.faults.extend([(at, host, fault), (back, host, mend)]);
    }
    setup
}

fn played(setup: &Setup, name: &str) -> Figures {
    play(setup, &Fixed::new(setup), named(name).expect("a strategy"))
}

#[test]
fn no_byte_goes_where_the_policy_forbids_and_each_job_is_answered_once_in_time() {
    for seed in 1..=4 {
        let setup = troubled(seed);
        for name in ["hansa-4", "hansa-unasked"] {
            let figures = played(&setup, name);
            let checkers = &figures.checkers;
            assert_eq!(checkers.faults, 0, "{name}: {:?}", checkers.first);
            assert!(figures.answered > figures.refused, "{name}: {}", figures.answered);
            assert!(figures.refused > 0, "jobs that nobody may run are refused");
        }
    }
}

#[test]
fn a_strategy_that_ignores_the_policy_is_caught() {
    let figures = played(&troubled(1), "blind");
    assert!(figures.checkers.faults > 100, "{}", figures.checkers.faults);
    let first = figures.checkers.first.expect("the first is told");
    assert!(first.contains("forbids"), "{first}");
}

#[test]
fn a_seed_is_a_run() {
    let hash = |seed| played(&troubled(seed), "hansa-4").hash;
    assert_eq!(hash(7), hash(7));
    assert_ne!(hash(7), hash(8));
}

/// The big form: `cargo test --release -p hansa-sim --test jobs -- --ignored --nocapture`.
#[test]
#[ignore = "a million jobs take minutes"]
fn a_million_jobs_under_faults_break_no_law() {
    let (mut jobs, mut seed, mut sends) = (0, 100, 0);
    while jobs < 1_000_000 {
        let setup = troubled(seed);
        let figures = played(&setup, "hansa-4");
        let checkers = &figures.checkers;
        assert_eq!(checkers.faults, 0, "seed {seed}: {:?}", checkers.first);
        jobs += setup.arrivals.len();
        sends += figures.sends;
        seed += 1;
    }
    eprintln!("{jobs} jobs, {sends} sends, {} worlds", seed - 100);
}
