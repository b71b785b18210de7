//! `run`: seeds at once, each kept as soon as it is done.

use std::io::{self, Write, stdout};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;

use hansa_sim::arrivals;
use hansa_sim::compare::shown;
use hansa_sim::links::Links;
use hansa_sim::record;
use hansa_sim::recording::Recording;
use hansa_sim::report;
use hansa_sim::runner::{Finished, command, run_seeds};
use hansa_sim::scenario::Scenario;
use hansa_sim::store::Store;

use super::{Fault, How};

/// So many failed checks of a seed are told; all of them are kept in its results.
const VIOLATIONS_SHOWN: usize = 5;

/// One seed, or the first and the last of several.
#[derive(Clone, Debug)]
pub(crate) struct Seeds(RangeInclusive<u64>);

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("`{text}` is no seed"));
        match text.split_once("..") {
            None => number(text).map(|seed| Self(seed..=seed)),
            Some((first, last)) => match number(first)?..=number(last.trim_start_matches('='))? {
                seeds if seeds.is_empty() => Err("the first seed comes first".into()),
                seeds => Ok(Self(seeds)),
            },
        }
    }
}

/// Runs a scenario and prints what came of it.
pub(super) fn run(name: &Path, how: &How, out: Option<&Path>) -> Result<bool, Fault> {
    let scenario = Scenario::open(name)?;
    if !how.json {
        writeln!(stdout(), "{}: {}", scenario.name, scenario.asks)?;
    }
    let store = out.map(|folder| Store::create(folder, &scenario)).transpose()?;
    let well = run_into(&scenario, &name.display().to_string(), how, store.as_ref())?;
    if let Some(store) = store {
        report::write(&store)?;
        eprintln!("report: {}", store.folder().join("report.html").display());
    }
    Ok(well)
}

/// Runs the seeds that a folder lacks and keeps them there.
pub(super) fn run_into(
    scenario: &Scenario,
    name: &str,
    how: &How,
    store: Option<&Store>,
) -> Result<bool, Fault> {
    Links::check(scenario)?;
    arrivals::check(scenario)?;
    let not_yet = record::not_yet(scenario);
    if !not_yet.is_empty() {
        let (name, what) = (scenario.name.clone(), not_yet.join(", "));
        return Err(Fault::NotYet { name, what });
    }
    let mut well = true;
    let mut wanted = Vec::new();
    for seed in how.seeds.0.clone() {
        match store {
            Some(store) if store.has(seed) => {
                eprintln!("seed {seed} is there already");
                well &= tell(&store.get(seed)?, name, how.json)?;
            }
            _ => wanted.push(seed),
        }
    }
    let threads = how.threads.or_else(|| std::thread::available_parallelism().ok());
    // Seeds are printed in order, whichever ends first.
    let mut ended: Vec<Recording> = Vec::new();
    let mut next = wanted.iter().copied().peekable();
    run_seeds(scenario, &wanted, threads.map_or(1, NonZeroUsize::get), |finished| {
        match finished {
            Finished::Run(recording) => {
                if let Some(store) = store {
                    store.put(&recording)?;
                }
                ended.push(*recording);
            }
            Finished::Panicked { seed, message } => {
                well = false;
                eprintln!("seed {seed}: the simulator failed: {message}");
                eprintln!("  repeat it: {}", command(name, seed));
                ended.push(Recording { seed, hash: String::new(), ..Recording::default() });
            }
        }
        while let Some(at) =
            next.peek().and_then(|seed| ended.iter().position(|run| run.seed == *seed))
        {
            let recording = ended.swap_remove(at);
            next.next();
            if !recording.hash.is_empty() {
                well &= tell(&recording, name, how.json)?;
            }
        }
        Ok::<(), Fault>(())
    })?;
    Ok(well)
}

/// Prints a run; says whether all its checks held.
fn tell(recording: &Recording, name: &str, json: bool) -> io::Result<bool> {
    let mut out = stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&recording.summary()).expect("plain data"))?;
    } else {
        print_run(&mut out, recording)?;
    }
    for violation in recording.violations.iter().take(VIOLATIONS_SHOWN) {
        let event = match violation.event {
            0 => String::new(),
            event => format!("after event {event}, "),
        };
        let check = &violation.check;
        let line = format!(
            "FAILED: {} (seed {}, {event}{check}, at {} ms)\n  repeat it: {}",
            violation.what,
            recording.seed,
            violation.at_ms,
            command(name, recording.seed)
        );
        if json { eprintln!("{line}") } else { writeln!(out, "{line}")? }
    }
    if let Some(more) = recording.violations.len().checked_sub(VIOLATIONS_SHOWN).filter(|n| *n > 0)
    {
        let line = format!("and {more} more (seed {})", recording.seed);
        if json { eprintln!("{line}") } else { writeln!(out, "{line}")? }
    }
    Ok(recording.violations.is_empty())
}

fn print_run(out: &mut impl Write, recording: &Recording) -> io::Result<()> {
    writeln!(out, "seed {}", recording.seed)?;
    writeln!(out, "  hash             {}", recording.hash)?;
    for (name, spread) in &recording.distributions {
        writeln!(
            out,
            "  {name:<16} p50 {:>9}  p99 {:>9}  max {:>9}  of {}",
            shown(spread.p50),
            shown(spread.p99),
            shown(spread.max),
            spread.count
        )?;
    }
    for (name, value) in
        [("copies", recording.copies), ("bytes / record", recording.bytes_over_record)]
    {
        if let Some(value) = value {
            writeln!(out, "  {name:<16} {}", shown(value))?;
        }
    }
    for fact in &recording.facts {
        writeln!(out, "  {:<24} {} {}", fact.name, shown(fact.value), fact.unit)?;
    }
    writeln!(
        out,
        "  {} peers, {} jobs, {} virtual s in {} CPU s, {} MB",
        recording.peers,
        recording.jobs,
        shown(recording.virtual_s),
        shown(recording.cpu_s),
        shown(recording.rss_mb)
    )
}
