//! What a person reads: one page that needs no network, and a CSV file for each series.

mod csv;
mod html;
mod sweep;

use crate::recording::Recording;
use crate::store::{Store, StoreError, Summaries};

pub use sweep::page as sweep_page;

/// Writes all that is made of a folder's finished seeds: `summary.json`, the CSV files and
/// `report.html`.
pub fn write(store: &Store) -> Result<Vec<Recording>, StoreError> {
    let runs = store.all()?;
    let summaries = Summaries {
        manifest: store.manifest().clone(),
        seeds: runs.iter().map(Recording::summary).collect(),
    };
    store.write("summary.json", &serde_json::to_vec_pretty(&summaries).expect("plain data"))?;
    for (name, text) in csv::files(&runs) {
        store.write(&format!("csv/{name}.csv"), text.as_bytes())?;
    }
    store.write("report.html", html::page(store.manifest(), &runs).as_bytes())?;
    Ok(runs)
}
