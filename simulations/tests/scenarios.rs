//! The scenarios in the folder run well, and a run is the same on every machine.

use std::path::PathBuf;

use hansa_sim::run::run;
use hansa_sim::scenario::Scenario;

fn scenario(name: &str) -> Scenario {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(name);
    Scenario::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn every_scenario_of_the_folder_ends_well() {
    for name in ["join.toml", "churn.toml", "partition-heals.toml"] {
        println!("{name}: seed 1");
        let outcome = run(&scenario(name), 1);
        println!("{outcome:?}");
        assert_eq!(outcome.complaints(), [] as [&str; 0], "{name}");
    }
}
