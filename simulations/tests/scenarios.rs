//! The scenarios in the folder run well, and a run is the same on every machine.
#![allow(clippy::print_stdout)] // Seeds come first, so that a failure can be repeated.

use std::collections::BTreeSet;
use std::path::PathBuf;

use hansa_sim::record::{Progress, record};
use hansa_sim::run::{Outcome, run};
use hansa_sim::scenario::Scenario;
use hansa_sim::scenario::demand::OneOrMany;
use serde_json::{Map, Value};

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
fn a_mesh_in_shards_ends_as_well_and_carries_less() {
    let whole = ends_well("churn.toml");
    let mut scenario = scenario("churn.toml");
    scenario.gossip.shards = Some(3);
    println!("churn in three shards: seed 1");
    let outcome = run(&scenario, 1);
    assert_eq!(outcome.complaints(), [] as [&str; 0]);
    assert!(outcome.dissemination_ms.p99 <= 1_500, "news spread slowly");
    let bytes = [&whole, &outcome].map(|outcome| outcome.bytes);
    assert!(bytes[1] < bytes[0] / 2, "{bytes:?}");
}

#[test]
fn partition_heals_ends_well() {
    let outcome = ends_well("partition-heals.toml");
    assert_eq!(outcome.hearsay_downs, 0, "one side convinced the other of false deaths");
}

#[test]
fn jobs_keep_to_their_law_in_any_storm() {
    let mut scenario = scenario("storm.toml");
    scenario.routing.strategy = OneOrMany::One("hansa".into());
    println!("storm: seed 1");
    let recording = record(&scenario, 1, &Progress::default());
    assert_eq!(recording.violations, []);
    assert!(recording.jobs > 10_000, "{} jobs", recording.jobs);
}

#[test]
fn jobs_that_entered_elsewhere_survive_a_lost_region() {
    println!("region-lost: seed 1");
    let mut scenario = scenario("region-lost.toml");
    scenario.routing.strategy = OneOrMany::One("hansa".into());
    let recording = record(&scenario, 1, &Progress::default());
    assert_eq!(recording.violations, []);
    let fact = |name: &str| recording.facts.iter().find(|fact| fact.name == name).unwrap().value;
    // One that meets nothing but the dead may use up its retries.
    assert!(fact("hansa: refused") <= 5.0, "{} refused", fact("hansa: refused"));
    assert!(fact("hansa: went with their entry") > 0.0, "the region had jobs");
    assert!(recording.distributions["detection_ms"].p99 <= 15_000.0);
}

#[test]
fn a_scenario_says_which_jobs_are_asked_about_and_how_many_are_sent_twice() {
    println!("seed 1");
    let facts = |routing: &str| {
        let toml = format!(
            "name = 'x'\nseconds = 120\nsettled = true\n[links]\nmodel = 'geography'\n\
             [[region]]\nname = 'a'\nat = [52.3, 4.8]\nlocation = 'NL'\npeers = 12\nentries = 2\n\
             [[device]]\nname = 'gpu'\n[[model]]\nname = 'm'\n\
             [[arrivals]]\nkind = 'poisson'\nload = 0.6\n\
             [[fault]]\nkind = 'gray'\nby = 20\nat_s = 10\ncount = 3\n\
             [routing]\nstrategy = 'hansa'\n{routing}"
        );
        let recording = record(&Scenario::parse(&toml).unwrap(), 1, &Progress::default());
        assert_eq!(recording.violations, []);
        let fact =
            |name: &str| recording.facts.iter().find(|fact| fact.name == name).unwrap().value;
        (fact("hansa: probes"), fact("hansa: sends"))
    };
    let (probes, sends) = facts("");
    assert!(probes > 1.0 && sends > 1.0, "{probes} probes, {sends} sends a job");
    assert_eq!(facts("probe_above_ms = 1000000").0, 0.0);
    assert_eq!(facts("retry_budget = 0").1, 1.0);
}

#[test]
fn adversaries_change_nothing() {
    let outcome = ends_well("adversaries.toml");
    assert!(outcome.dissemination_ms.p99 <= 1_500, "news spread slowly to those behind NAT");
}

/// The run is that of every machine. A change of the protocol, of its paces or of the world's
/// adverts changes it, and then `HANSA_DECLARE=1` writes down the new one; nothing else may.
#[test]
fn join_ends_well_and_is_the_same_run_everywhere() {
    let outcome = serde_json::to_value(ends_well("join.toml")).unwrap();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/declared/join.json");
    if std::env::var_os("HANSA_DECLARE").is_some() {
        std::fs::write(&path, format!("{outcome:#}\n")).unwrap();
    }
    let declared = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let changes = changes("", &declared, &outcome);
    assert!(
        changes.is_empty(),
        "the run of join.toml is not the declared one:\n{}\n\
         If that is meant: HANSA_DECLARE=1 cargo test -p hansa-sim --test scenarios join",
        changes.join("\n")
    );
}

/// Where two JSON values differ, a line each.
fn changes(at: &str, before: &Value, after: &Value) -> Vec<String> {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            let each = |key: &&String| {
                let of = |map: &Map<String, Value>| map.get(*key).cloned().unwrap_or(Value::Null);
                changes(&format!("{at}.{key}"), &of(old), &of(new))
            };
            keys.iter().flat_map(each).collect()
        }
        _ if before == after => Vec::new(),
        _ => vec![format!("  {}: {before} → {after}", at.trim_start_matches('.'))],
    }
}

#[test]
fn what_changed_in_a_run_is_said_field_by_field() {
    let before = serde_json::json!({"hash": "a", "ms": {"p50": 1, "p99": 2}});
    let after = serde_json::json!({"hash": "b", "ms": {"p50": 1, "p99": 3}});
    assert_eq!(changes("", &before, &after), ["  hash: \"a\" → \"b\"", "  ms.p99: 2 → 3"]);
}
