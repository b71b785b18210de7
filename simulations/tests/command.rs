//! The binary as its users meet it.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

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
fn who_reads_only_the_beginning_hears_no_complaint() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hansa-sim"));
    let command = command.arg("list").stderr(Stdio::piped());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command.stdout(writer).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn the_folder_of_scenarios_is_listed() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let output = hansa_sim(&["list", folder.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("partition-heals.toml") && text.contains("join.toml"), "{text}");
}

const SMALL: &str = "name = 'small'\npeers = 5\nseconds = 20";

#[test]
fn a_run_goes_on_where_it_was_interrupted() {
    let (folder, path) = scenario(SMALL);
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    let first = hansa_sim(&["run", &path, "--seeds", "1..2", "--out", out, "--json"]);
    assert!(first.status.success(), "{first:?}");
    let kept = std::fs::read(format!("{out}/seeds/1.json")).unwrap();
    let second = hansa_sim(&["run", &path, "--seeds", "1..3", "--out", out, "--json"]);
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("seed 1 is there already") && said.contains("seed 3\n"), "{said}");
    assert_eq!(kept, std::fs::read(format!("{out}/seeds/1.json")).unwrap());
    let summary = std::fs::read_to_string(format!("{out}/summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["seeds"].as_array().unwrap().len(), 3);
    let page = std::fs::read_to_string(format!("{out}/report.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("small"));
    // Another scenario must not mix with it.
    std::fs::write(&path, SMALL.replace("20", "21")).unwrap();
    let other = hansa_sim(&["run", &path, "--out", out]);
    assert_eq!(other.status.code(), Some(65));
    assert!(String::from_utf8(other.stderr).unwrap().contains("name another folder"));
}

#[test]
fn two_runs_of_the_same_show_no_difference() {
    let (folder, path) = scenario(SMALL);
    let outs = ["a", "b"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    for out in &outs {
        assert!(hansa_sim(&["run", &path, "--seeds", "1..3", "--out", out]).status.success());
    }
    let output = hansa_sim(&["compare", &outs[0], &outs[1], "--json"]);
    let compared: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let figures = compared["figures"].as_array().unwrap();
    assert!(figures.iter().any(|figure| figure["figure"] == "dissemination_ms.p99"));
    assert!(figures.iter().all(|figure| figure["verdict"] == "no difference seen"), "{compared}");
    assert!(figures.iter().all(|figure| figure["paired"] == true));
    let missing = hansa_sim(&["compare", &outs[0], "no/such"]);
    assert_eq!(missing.status.code(), Some(66), "{missing:?}");
}

#[test]
fn a_sweep_keeps_each_variant_and_shows_them_side_by_side() {
    let (folder, path) = scenario(SMALL);
    let out = folder.path().join("out");
    let to = out.to_str().unwrap();
    let output = hansa_sim(&["sweep", &path, "--set", "links.loss=0.0,0.2", "--out", to]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("links.loss=0.2") && text.contains("dissemination_ms.p99"), "{text}");
    let csv = std::fs::read_to_string(out.join("sweep.csv")).unwrap();
    assert_eq!(csv.lines().count(), 3);
    assert!(out.join("links.loss=0.2/report.html").exists() && out.join("report.html").exists());
    let wrong = hansa_sim(&["sweep", &path, "--set", "links.los=0.1", "--out", to]);
    assert_eq!(wrong.status.code(), Some(65), "{wrong:?}");
    assert_eq!(hansa_sim(&["sweep", &path, "--out", to]).status.code(), Some(64));
}

#[test]
fn what_is_wrong_names_file_line_and_fix() {
    let (_folder, path) = scenario("name = 'x'\npears = 5\nseconds = 20");
    let output = hansa_sim(&["run", &path]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("scenario.toml:2: unknown field `pears`"), "{said}");
    assert!(said.contains("did you mean `peers`?"), "{said}");
    assert_eq!(hansa_sim(&["run", &path, "--seeds", "x"]).status.code(), Some(64));
}

#[test]
fn the_shipped_scenarios_are_listed_and_run_by_name() {
    let text = String::from_utf8(hansa_sim(&["list"]).stdout).unwrap();
    assert!(text.contains("churn\n") && text.contains("region-lost\n"), "{text}");
    for with_jobs in ["jurisdiction-walls\n", "demand-shifts\n", "split-chains\n"] {
        assert!(text.contains(with_jobs), "{text}");
    }
}

#[test]
fn what_nothing_simulates_yet_is_refused_by_name() {
    let text = "name = 'x'\npeers = 4\nseconds = 20\n[[fault]]\nkind = 'gray'\nby = 10\nat_s = 5\n\
                share = 0.5";
    let (_folder, path) = scenario(text);
    let output = hansa_sim(&["run", &path]);
    assert_eq!(output.status.code(), Some(65));
    let said = String::from_utf8(output.stderr).unwrap();
    let expected = "x: nothing simulates [[fault]] of kind `gray` without jobs yet";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn a_trace_that_is_not_there_is_named_before_anything_runs() {
    let output = hansa_sim(&["run", "azure-trace"]);
    assert_eq!(output.status.code(), Some(65), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("AzureLLMInferenceTrace_conv.csv"), "{said}");
}
