//! A gate that is broken on purpose is caught, whichever of its rules it forgets. It is in a build of
//! its own, which `.ci/run` makes:
//! `RUSTFLAGS="--cfg hansa_broken_gate" cargo test --target-dir target/broken -p hansa-sim --test broken_gate`.
#![cfg(hansa_broken_gate)]

mod worlds;

use std::collections::BTreeMap;

use hansa_core::gate::{Rule, broken};
use hansa_sim::jobs::mesh::Fixed;
use hansa_sim::jobs::play::play;
use hansa_sim::jobs::strategy::named;

const WORLDS: u64 = 60;

/// Each rule of the gate that keeps data from a peer, and what the checkers say of a peer that got it.
/// Not here: those that speak of the moment, by which a plan keeps to peers that can take a job.
const RULES: [(Rule, &str); 18] = [
    (Rule::NoCharter, "charter"),
    (Rule::CharterInvalid, "charter"),
    (Rule::CharterExpired, "charter's term"),
    (Rule::Revoked, "charter's term"),
    (Rule::Unchecked, "authority's silence"),
    (Rule::Location, "locations"),
    (Rule::Control, "control"),
    (Rule::Operator, "operators"),
    (Rule::Authority, "authorities"),
    (Rule::Signatures, "authorities"),
    (Rule::DataClass, "data classes"),
    (Rule::Bundle, "bundles"),
    (Rule::Device, "device"),
    (Rule::Price, "price"),
    (Rule::Contradicted, "place"),
    (Rule::NoRttEvidence, "echoes"),
    (Rule::Purpose, "purpose"),
    (Rule::Receipt, "receipts"),
];

#[test]
fn the_checkers_catch_a_gate_that_forgets_any_rule_and_no_whole_one() {
    // In how many worlds each clause was broken.
    let worlds = |rule: Option<Rule>| {
        broken::forget(rule);
        let mut said = BTreeMap::<&str, u32>::new();
        for seed in 1..=WORLDS {
            let setup = worlds::random(seed, 300);
            let figures =
                play(&setup, &mut Fixed::new(&setup), named("hansa").expect("a strategy"));
            let broken = figures.checkers.broken;
            assert!(rule.is_some() || figures.checkers.first.is_none(), "seed {seed}: {broken:?}");
            broken.into_iter().for_each(|clause| *said.entry(clause).or_default() += 1);
        }
        said
    };
    assert_eq!(worlds(None), BTreeMap::new());
    let mut missed = Vec::new();
    for (rule, clause) in RULES {
        let said = worlds(Some(rule));
        let caught = said.get(clause).copied().unwrap_or(0);
        eprintln!("{rule:?} forgotten: caught in {caught} worlds of {WORLDS}; all: {said:?}");
        if caught == 0 {
            missed.push(rule);
        }
    }
    broken::forget(None);
    assert_eq!(missed, []);
}
