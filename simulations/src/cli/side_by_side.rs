//! `compare`, `sweep` and `report`: what is made of results that are kept.

use std::io::{Write, stdout};
use std::path::Path;

use hansa_sim::compare;
use hansa_sim::report;
use hansa_sim::scenario::Scenario;
use hansa_sim::store::{self, Store};
use hansa_sim::sweep::{Setting, csv, folder, table, variants};

use super::run::run_into;
use super::{Fault, How};

/// Prints the differences of two folders of results.
pub(super) fn compare(a: &Path, b: &Path, json: bool) -> Result<bool, Fault> {
    let (store_a, store_b) = (Store::open(a)?, Store::open(b)?);
    let (runs_a, runs_b) = (store_a.all()?, store_b.all()?);
    let name =
        |store: &Store, path: &Path| format!("{} in {}", store.manifest().name, path.display());
    let comparison = compare::compare((&name(&store_a, a), &runs_a), (&name(&store_b, b), &runs_b));
    if json {
        writeln!(stdout(), "{}", serde_json::to_string(&comparison).expect("plain data"))?;
    } else {
        write!(stdout(), "{}", comparison.table())?;
    }
    Ok(true)
}

/// Runs all combinations of the settings and prints them side by side.
pub(super) fn sweep(
    name: &Path,
    settings: &[Setting],
    how: &How,
    out: &Path,
) -> Result<bool, Fault> {
    let scenario = Scenario::open(name)?;
    let mut well = true;
    let mut results = Vec::new();
    for variant in variants(&scenario, settings)? {
        eprintln!("{}", variant.name);
        let folder = folder(out, &variant);
        let store = Store::create(&folder, &variant.scenario)?;
        let file = folder.join("scenario.toml").display().to_string();
        well &= run_into(&variant.scenario, &file, how, Some(&store))?;
        results.push((variant.name, report::write(&store)?));
        // Anew after each, so that an interrupt leaves what there is.
        store::write(&out.join("sweep.csv"), csv(&results).as_bytes())?;
        let page = report::sweep_page(&scenario.name, &scenario.asks, &results);
        store::write(&out.join("report.html"), page.as_bytes())?;
    }
    if !how.json {
        write!(stdout(), "{}", table(&results))?;
    }
    eprintln!("report: {}", out.join("report.html").display());
    Ok(well)
}

/// Writes a report anew.
pub(super) fn report(folder: &Path) -> Result<bool, Fault> {
    let store = Store::open(folder)?;
    report::write(&store)?;
    writeln!(stdout(), "{}", store.folder().join("report.html").display())?;
    Ok(true)
}
