//! A gate that is broken on purpose is caught, whichever of its rules it forgets. It is in a build of
//! its own, which `.ci/run` makes:
//! `RUSTFLAGS="--cfg hansa_broken_gate" cargo test --target-dir target/broken -p hansa-sim --test broken_gate`.
#![cfg(hansa_broken_gate)]

mod worlds;

use hansa_core::gate::{Rule, broken};
use hansa_sim::jobs::mesh::Fixed;
use hansa_sim::jobs::play::play;
use hansa_sim::jobs::strategy::named;

/// Each rule of the gate that keeps data from a peer, and what the checkers say of a peer that got it.
/// Not here: whether a charter is valid in time is asked by the index of holders, too, which would
/// have to be broken as well; and the two rules on evidence, since no host of these worlds measures.
const RULES: [(Rule, &str); 9] = [
    (Rule::Location, "its locations"),
    (Rule::Control, "its control"),
    (Rule::Operator, "its operators"),
    (Rule::Authority, "its authorities"),
    (Rule::Signatures, "its authorities"),
    (Rule::DataClass, "its data classes"),
    (Rule::Bundle, "its bundles"),
    (Rule::Purpose, "its purpose"),
    (Rule::Receipt, "its receipts"),
];

#[test]
fn the_checkers_catch_a_gate_that_forgets_any_rule_and_no_whole_one() {
    let worlds = |rule: Option<Rule>| {
        broken::forget(rule);
        let mut said = Vec::new();
        for seed in 1..=40 {
            let setup = worlds::random(seed, 300);
            let figures =
                play(&setup, &mut Fixed::new(&setup), named("hansa").expect("a strategy"));
            said.extend(figures.checkers.first.map(|first| (seed, first.what)));
        }
        said
    };
    assert_eq!(worlds(None), []);
    let mut missed = Vec::new();
    for (rule, clause) in RULES {
        let said = worlds(Some(rule));
        let caught = said.iter().filter(|(_, what)| what.ends_with(clause)).count();
        eprintln!("{rule:?} forgotten: caught in {caught} worlds of 40, first {:?}", said.first());
        if caught == 0 {
            missed.push(rule);
        }
    }
    broken::forget(None);
    assert_eq!(missed, []);
}
