//! `hansa-sim`: runs scenarios and says what came of them.
#![allow(clippy::print_stdout)]

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hansa_sim::run::{Outcome, Quantiles, run};
use hansa_sim::scenario::{Scenario, ScenarioError};

/// Exit codes as `sysexits.h` names them: bad data, no input, and 1 for a checker that failed.
const BAD_DATA: u8 = 65;
const NO_INPUT: u8 = 66;
const CHECK_FAILED: u8 = 1;

/// Runs the mesh of Hansa in virtual time.
#[derive(Parser)]
#[command(name = "hansa-sim", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a scenario, once for each seed. Fails when a checker does.
    Run {
        /// The scenario's file.
        scenario: PathBuf,
        /// One seed, or the first and the last of several: `1..8` runs eight.
        #[arg(long, default_value = "1", value_parser = parse_seeds)]
        seeds: RangeInclusive<u64>,
        /// One JSON object for each run, one a line.
        #[arg(long)]
        json: bool,
    },
    /// List the scenarios of a folder.
    List {
        /// The folder.
        #[arg(default_value = "simulations/scenarios")]
        folder: PathBuf,
        /// One JSON object for each scenario, one a line.
        #[arg(long)]
        json: bool,
    },
}

/// Why nothing was run.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{0}: {1}")]
    Read(PathBuf, std::io::Error),
    #[error("{0}")]
    Scenario(ScenarioError),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run { scenario, seeds, json } => run_all(&scenario, seeds, json),
        Command::List { folder, json } => list(&folder, json),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(CHECK_FAILED),
        Err(fault) => {
            eprintln!("hansa-sim: {fault}");
            ExitCode::from(match fault {
                Fault::Read(..) => NO_INPUT,
                Fault::Scenario(ref error) if error.is_missing_file() => NO_INPUT,
                Fault::Scenario(..) => BAD_DATA,
            })
        }
    }
}

fn run_all(path: &Path, seeds: RangeInclusive<u64>, json: bool) -> Result<bool, Fault> {
    let scenario = read(path)?;
    if !json {
        println!("{}: {}", scenario.name, scenario.asks);
    }
    let mut well = true;
    for seed in seeds {
        // First of all, so that a run that hangs or panics can be repeated.
        if json {
            eprintln!("seed {seed}");
        } else {
            println!("seed {seed}");
        }
        let outcome = run(&scenario, seed);
        if json {
            println!("{}", serde_json::to_string(&outcome).expect("an outcome is JSON"));
        } else {
            print_outcome(&outcome);
        }
        well &= outcome.complaints().is_empty();
    }
    Ok(well)
}

fn print_outcome(outcome: &Outcome) {
    let row = |what: &str, Quantiles { count, p50, p99, max }: Quantiles| {
        println!("  {what:<14} p50 {p50:>7} ms  p99 {p99:>7} ms  max {max:>7} ms  of {count}");
    };
    println!("  hash           {}", outcome.hash);
    row("dissemination", outcome.dissemination_ms);
    row("detection", outcome.detection_ms);
    println!("  false downs    {}", outcome.false_downs);
    println!("  ghosts         {}", outcome.ghosts);
    println!("  converged      {}", if outcome.converged { "yes" } else { "no" });
    println!("  carried        {} messages, {} bytes", outcome.messages, outcome.bytes);
    for complaint in outcome.complaints() {
        println!("  FAILED: {complaint}");
    }
}

fn list(folder: &Path, json: bool) -> Result<bool, Fault> {
    let entries =
        std::fs::read_dir(folder).map_err(|error| Fault::Read(folder.to_owned(), error))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    paths.sort();
    for path in paths {
        let scenario = read(&path)?;
        if json {
            let line = serde_json::json!({
                "path": path, "name": scenario.name, "about": scenario.asks,
                "peers": scenario.peers, "seconds": scenario.seconds,
            });
            println!("{line}");
        } else {
            println!("{:<52} {}", path.display(), scenario.asks);
        }
    }
    Ok(true)
}

fn read(path: &Path) -> Result<Scenario, Fault> {
    Scenario::open(path).map_err(Fault::Scenario)
}

fn parse_seeds(text: &str) -> Result<RangeInclusive<u64>, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("`{text}` is no seed"));
    match text.split_once("..") {
        None => number(text).map(|seed| seed..=seed),
        Some((first, last)) => match number(first)?..=number(last.trim_start_matches('='))? {
            seeds if seeds.is_empty() => Err("the first seed comes first".into()),
            seeds => Ok(seeds),
        },
    }
}
