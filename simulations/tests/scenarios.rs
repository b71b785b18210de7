//! The scenarios in the folder run well, and a run is the same on every machine.
#![allow(clippy::print_stdout)] // Seeds come first, so that a failure can be repeated.

use std::path::PathBuf;

use hansa_sim::run::{Outcome, run};
use hansa_sim::scenario::Scenario;

fn scenario(name: &str) -> Scenario {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(name);
    Scenario::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn ends_well(name: &str) -> Outcome {
    println!("{name}: seed 1");
    let outcome = run(&scenario(name), 1);
    println!("{outcome:?}");
    assert_eq!(outcome.complaints(), [] as [&str; 0], "{name}");
    outcome
}

#[test]
fn churn_ends_well() {
    let outcome = ends_well("churn.toml");
    assert!(outcome.dissemination_ms.p99 <= 1_500, "news spread slowly");
    assert!(outcome.detection_ms.p99 <= 15_000, "the dead are found late");
}

#[test]
fn partition_heals_ends_well() {
    ends_well("partition-heals.toml");
}

#[test]
fn adversaries_change_nothing() {
    let outcome = ends_well("adversaries.toml");
    assert!(outcome.dissemination_ms.p99 <= 1_500, "news spread slowly to those behind NAT");
}

/// The hash is that of every machine. A change of the protocol, of its paces or of the world's
/// adverts changes it, and then the new one belongs here; nothing else may.
#[test]
fn join_ends_well_and_is_the_same_run_everywhere() {
    let outcome = ends_well("join.toml");
    assert_eq!(outcome.hash, "e85dcb42a410ef13");
}
