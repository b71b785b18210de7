//! The command line: what can be asked, and what is wrong with what was asked.

mod memory;
mod run;
mod side_by_side;

use std::io::{Write, stdout};
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use hansa_sim::calibrate;
use hansa_sim::geography::MatrixError;
use hansa_sim::record;
use hansa_sim::scenario::{Scenario, ScenarioError, shipped};
use hansa_sim::store::StoreError;
use hansa_sim::sweep::{Setting, SweepError};

use run::Seeds;

/// Runs the mesh of Hansa in virtual time.
#[derive(Parser)]
#[command(name = "hansa-sim", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a scenario, once for each seed. Fails when a check does.
    Run {
        /// The scenario's file, or the name of one that `list` shows.
        scenario: PathBuf,
        #[command(flatten)]
        how: How,
        /// Keep results here: summary, CSV files and report.html. Seeds that are there already
        /// are not run again.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Put two folders of results side by side.
    Compare {
        /// What `run --out` wrote.
        a: PathBuf,
        /// What it wrote another time.
        b: PathBuf,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Run a scenario with each combination of some keys' values.
    Sweep {
        /// The scenario's file, or the name of one that `list` shows.
        scenario: PathBuf,
        /// A key and its values: `links.loss=0.01,0.05`; a number is the place in a list.
        #[arg(long = "set", required = true)]
        settings: Vec<String>,
        #[command(flatten)]
        how: How,
        /// Keep results here, a folder for each combination.
        #[arg(long)]
        out: PathBuf,
    },
    /// List the scenarios that are part of this program, or those of a folder.
    List {
        /// The folder.
        folder: Option<PathBuf>,
        /// One JSON object for each scenario, one a line.
        #[arg(long)]
        json: bool,
    },
    /// Measure a running node and print a [[device]] to paste into a scenario.
    Calibrate {
        /// The node's API: http://HOST:PORT. It should have nothing else to do meanwhile.
        url: String,
        /// A model that it holds; left out, the first one.
        #[arg(long)]
        model: Option<String>,
    },
    /// Write the report of a folder of results anew.
    Report {
        /// What `run --out` wrote.
        folder: PathBuf,
    },
}

/// How runs are made.
#[derive(clap::Args)]
pub(crate) struct How {
    /// One seed, or the first and the last of several: `1..8` runs eight.
    #[arg(long, default_value = "1")]
    seeds: Seeds,
    /// So many seeds at once; left out, as many as there are cores.
    #[arg(long)]
    threads: Option<std::num::NonZeroUsize>,
    /// One JSON object for each run, one a line.
    #[arg(long)]
    json: bool,
}

/// Why nothing was run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// A folder cannot be read.
    #[error("{0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// Nobody takes what is printed.
    #[error("cannot print: {0}")]
    Print(#[from] std::io::Error),
    /// A scenario cannot be used.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// A file that a scenario names cannot be used.
    #[error(transparent)]
    Matrix(#[from] MatrixError),
    /// Results cannot be kept or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A scenario asks for what nothing simulates yet.
    #[error("{name}: nothing simulates {what} yet; remove it, or wait for a version that does")]
    NotYet {
        /// The scenario.
        name: String,
        /// What it asks for.
        what: String,
    },
    /// A node cannot be measured.
    #[error(transparent)]
    Calibrate(#[from] calibrate::Fault),
    /// What is to be varied cannot be.
    #[error(transparent)]
    Sweep(#[from] SweepError),
}

impl Fault {
    /// As `sysexits.h` numbers them.
    pub(crate) fn exit_code(&self) -> u8 {
        const BAD_DATA: u8 = 65;
        const NO_INPUT: u8 = 66;
        const UNAVAILABLE: u8 = 69;
        const NOT_WRITTEN: u8 = 73;
        match self {
            Self::Read(..) | Self::Store(StoreError::Empty(_)) => NO_INPUT,
            Self::Matrix(MatrixError::Read { .. }) => NO_INPUT,
            Self::Scenario(error) if error.is_missing_file() => NO_INPUT,
            Self::Sweep(SweepError::Form(_)) => crate::USAGE,
            Self::Calibrate(_) => UNAVAILABLE,
            Self::Print(_) | Self::Store(StoreError::File { .. }) => NOT_WRITTEN,
            _ => BAD_DATA,
        }
    }
}

impl Command {
    /// Does it; says whether all checks held.
    pub(crate) fn run(self) -> Result<bool, Fault> {
        match self {
            Self::Run { scenario, how, out } => {
                memory::with_huge_pages();
                run::run(&scenario, &how, out.as_deref())
            }
            Self::Compare { a, b, json } => side_by_side::compare(&a, &b, json),
            Self::Sweep { scenario, settings, how, out } => {
                memory::with_huge_pages();
                let settings: Result<Vec<Setting>, SweepError> =
                    settings.iter().map(|text| text.parse()).collect();
                side_by_side::sweep(&scenario, &settings?, &how, &out)
            }
            Self::List { folder, json } => list(folder, json),
            Self::Calibrate { url, model } => {
                write!(stdout(), "{}", calibrate::calibrate(&url, model.as_deref())?)?;
                Ok(true)
            }
            Self::Report { folder } => side_by_side::report(&folder),
        }
    }
}

fn list(folder: Option<PathBuf>, json: bool) -> Result<bool, Fault> {
    let mut all = Vec::new();
    if let Some(folder) = folder {
        let entries =
            std::fs::read_dir(&folder).map_err(|error| Fault::Read(folder.clone(), error))?;
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
            .collect();
        paths.sort();
        for path in paths {
            all.push((path.display().to_string(), Scenario::open(&path)?));
        }
    } else {
        for shipped in shipped::ALL {
            all.push((shipped.name.to_owned(), Scenario::open(shipped.name.as_ref())?));
        }
    }
    let mut out = stdout().lock();
    for (path, scenario) in all {
        if !record::not_yet(&scenario).is_empty() {
            continue;
        }
        if json {
            let line = serde_json::json!({
                "path": path, "name": scenario.name, "asks": scenario.asks,
                "expect": scenario.expect, "peers": scenario.peers, "seconds": scenario.seconds,
            });
            writeln!(out, "{line}")?;
        } else {
            let Scenario { asks, expect, .. } = &scenario;
            writeln!(out, "{path}\n    asks    {asks}\n    expect  {expect}")?;
        }
    }
    Ok(true)
}
