//! A gate that is broken on purpose is caught. It is in a build of its own, which `.ci/run` makes:
//! `RUSTFLAGS="--cfg hansa_broken_gate" cargo test --target-dir target/broken -p hansa-sim --test broken_gate`.
#![cfg(hansa_broken_gate)]

mod worlds;

use hansa_sim::jobs::mesh::Fixed;
use hansa_sim::jobs::play::play;
use hansa_sim::jobs::strategy::named;

#[test]
fn the_checkers_catch_a_gate_that_forgets_under_whose_law_a_peer_is() {
    let mut caught = 0;
    for seed in 1..=20 {
        eprintln!("seed {seed}");
        let setup = worlds::random(seed, 500);
        let figures = play(&setup, &mut Fixed::new(&setup), named("hansa").expect("a strategy"));
        let Some(first) = figures.checkers.first else { continue };
        assert!(first.event > 0, "{first:?}");
        eprintln!("after event {}: {}", first.event, first.what);
        caught += usize::from(first.what.ends_with("its control"));
    }
    assert!(caught >= 3, "only in {caught} worlds of 20");
}
