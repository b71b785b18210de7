//! Jobs over random meshes with faults: the law holds, and the checkers see when it does not.

mod worlds;

use std::time::Duration;

use hansa_sim::jobs::figures::Figures;
use hansa_sim::jobs::mesh::Fixed;
use hansa_sim::jobs::play::play;
use hansa_sim::jobs::setup::{Fault, Setup};
use hansa_sim::jobs::strategy::named;
use hansa_sim::jobs::yardstick::yardstick;

/// Jobs of one world.
const JOBS: usize = 2_000;

fn played(setup: &Setup, name: &str) -> Figures {
    play(setup, &mut Fixed::new(setup), named(name).expect("a strategy"))
}

fn ends_well(seed: u64, name: &str) -> Figures {
    eprintln!("seed {seed}");
    let figures = played(&worlds::random(seed, JOBS), name);
    assert_eq!(figures.checkers.first, None, "seed {seed}, {name}");
    figures
}

#[test]
fn in_random_worlds_no_law_is_broken_and_each_job_is_answered_once_in_time() {
    let (mut answered, mut refused) = (0, 0);
    for seed in 1..=12 {
        for name in ["hansa-4", "hansa-unasked"] {
            let figures = ends_well(seed, name);
            answered += figures.answered;
            refused += figures.refused;
        }
    }
    assert!(answered > 5_000 && refused > 5_000, "{answered} answered, {refused} refused");
}

#[test]
fn a_strategy_that_ignores_the_policy_is_caught_clause_by_clause() {
    let mut caught = std::collections::BTreeSet::new();
    for seed in 1..=60 {
        eprintln!("seed {seed}");
        caught.extend(played(&worlds::random(seed, 200), "blind").checkers.broken);
    }
    for clause in ["charter", "locations", "control", "operators", "authorities", "data classes"] {
        assert!(caught.contains(clause), "{clause} is not among {caught:?}");
    }
    let further = ["charter's term", "authority's silence", "bundles", "device", "price", "place"];
    for clause in further.into_iter().chain(["echoes", "purpose", "receipts", "entry's own bounds"])
    {
        assert!(caught.contains(clause), "{clause} is not among {caught:?}");
    }
}

#[test]
fn a_fault_is_told_with_the_number_of_its_event() {
    eprintln!("seed 1");
    let figures = played(&worlds::random(1, 200), "blind");
    let first = figures.checkers.first.expect("a fault");
    assert!(first.event > 0 && first.check == "policy", "{first:?}");
}

#[test]
fn most_jobs_are_answered_where_servers_crash_and_go_gray() {
    eprintln!("seed 5");
    let mut setup = yardstick(5, 64, 0.6, Duration::from_secs(60));
    for host in 0..8 {
        let at = Duration::from_secs(5 * host as u64);
        let back = at + Duration::from_secs(5);
        setup.faults.extend([(at, host, Fault::Crash), (back, host, Fault::Restart)]);
        setup.faults.extend([(at, 63 - host, Fault::Slow(10.0))]);
    }
    let figures = played(&setup, "hansa-4");
    assert_eq!(figures.checkers.first, None);
    assert!(figures.refused * 100 < figures.answered, "{} refused", figures.refused);
}

#[test]
fn a_seed_is_a_run() {
    eprintln!("seeds 7 and 8");
    let hash = |seed| played(&worlds::random(seed, JOBS), "hansa-4").hash;
    assert_eq!(hash(7), hash(7));
    assert_ne!(hash(7), hash(8));
}

/// The big form: `cargo test --release -p hansa-sim --test jobs -- --ignored --nocapture`.
#[test]
#[ignore = "a million jobs take minutes"]
fn a_million_jobs_over_random_worlds_break_no_law() {
    let (mut jobs, mut seed, mut sends) = (0, 1_000, 0);
    while jobs < 1_000_000 {
        let figures = ends_well(seed, "hansa-4");
        jobs += JOBS;
        sends += figures.sends;
        seed += 1;
    }
    eprintln!("{jobs} jobs, {sends} sends, {} worlds", seed - 1_000);
}
