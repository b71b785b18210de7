//! The binary as its users meet it.

use std::path::PathBuf;
use std::process::{Command, Output};

fn hansa_sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hansa-sim")).args(arguments).output().unwrap()
}

fn scenario(toml: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scenario.toml");
    std::fs::write(&path, toml).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn seeds_run_from_the_first_to_the_last_and_each_prints_an_object() {
    let (_folder, path) = scenario("name = 'small'\npeers = 5\nseconds = 20");
    let output = hansa_sim(&["run", &path, "--seeds", "3..5", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let seeds: Vec<u64> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|outcome| outcome["seed"].as_u64().unwrap())
        .collect();
    assert_eq!(seeds, [3, 4, 5]);
    assert!(String::from_utf8(output.stderr).unwrap().contains("seed 3\n"));
}

#[test]
fn a_checker_that_fails_fails_the_command() {
    // It ends amid a partition, so the views cannot be equal.
    let toml = "name = 'torn'\npeers = 10\nseconds = 60\n\
                [[fault]]\nkind = 'partition'\nat_s = 10\nuntil_s = 60\nshare = 0.5";
    let (_folder, path) = scenario(&(toml.to_owned() + "\n[links]\nloss = 0.0"));
    let output = hansa_sim(&["run", &path]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("FAILED: the views"));
}

#[test]
fn bad_files_are_named_with_what_is_wrong() {
    let (_folder, path) = scenario("name = 'x'\npears = 5\nseconds = 20");
    let output = hansa_sim(&["run", &path]);
    assert_eq!(output.status.code(), Some(65));
    assert!(String::from_utf8(output.stderr).unwrap().contains("pears"));
    let output = hansa_sim(&["run", "no/such.toml"]);
    assert_eq!(output.status.code(), Some(66));
    assert!(String::from_utf8(output.stderr).unwrap().contains("no/such.toml"));
}

#[test]
fn the_folder_of_scenarios_is_listed() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let output = hansa_sim(&["list", folder.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("partition-heals.toml") && text.contains("join.toml"), "{text}");
}
