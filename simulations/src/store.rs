//! Where results are kept: a folder that holds each finished seed from the moment it is finished.
//!
//! Every file is written under another name first and then renamed, so an interrupt leaves whole
//! files only, and whoever runs the same scenario into the same folder goes on where it ended.

use std::io::Write;
use std::path::{Path, PathBuf};

use hansa_core::id::Digest;
use serde::{Deserialize, Serialize};

use crate::recording::{Recording, Summary};
use crate::scenario::Scenario;

/// A folder of results.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    manifest: Manifest,
}

/// What the results of a folder are of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The scenario's name.
    pub name: String,
    /// What it asks.
    pub asks: String,
    /// What a good answer looks like.
    pub expect: String,
    /// Over the scenario, the files that it names and the simulator's version.
    pub digest: String,
    /// The simulator's version.
    pub version: String,
}

/// All seeds of a folder, as `summary.json` has them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summaries {
    /// What they are of.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// One for each seed, in order.
    pub seeds: Vec<Summary>,
}

/// Why results cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file cannot be read or written.
    #[error("{}: {error}; see that the folder is there and may be written", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {error}; remove the file and run that seed again", .path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// Why.
        error: serde_json::Error,
    },
    /// The folder has results of something else.
    #[error("{} holds results of {there}, not of this scenario as it is now; name another folder \
             with --out, or remove it", .folder.display())]
    Other {
        /// Which.
        folder: PathBuf,
        /// What they are of.
        there: String,
    },
    /// The folder has no results.
    #[error("{} holds no results; name a folder that `hansa-sim run --out` wrote", .0.display())]
    Empty(PathBuf),
}

impl Manifest {
    /// That of a scenario under this simulator.
    pub fn of(scenario: &Scenario) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let mut all = scenario.text.clone().into_bytes();
        all.extend(version.as_bytes());
        let traces = scenario.arrivals.iter().filter_map(|arrivals| arrivals.file.as_ref());
        for name in traces.chain(&scenario.links.matrix) {
            all.extend(std::fs::read(scenario.file(name)).unwrap_or_default());
        }
        Self {
            name: scenario.name.clone(),
            asks: scenario.asks.clone(),
            expect: scenario.expect.clone(),
            digest: Digest::of(&all).to_string(),
            version,
        }
    }
}

impl Store {
    /// The folder for results of a scenario; makes it, or refuses one of another scenario.
    pub fn create(folder: &Path, scenario: &Scenario) -> Result<Self, StoreError> {
        let store = Self { folder: folder.to_owned(), manifest: Manifest::of(scenario) };
        let seeds = folder.join("seeds");
        std::fs::create_dir_all(&seeds).map_err(|error| file(&seeds, error))?;
        let path = folder.join("manifest.json");
        if path.exists() {
            let there: Manifest = read_json(&path)?;
            if there.digest != store.manifest.digest {
                let folder = folder.to_owned();
                return Err(StoreError::Other { folder, there: there.name });
            }
        }
        write_json(&path, &store.manifest)?;
        write(&folder.join("scenario.toml"), scenario.text.as_bytes())?;
        Ok(store)
    }

    /// A folder with results.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join("manifest.json");
        if !path.exists() {
            return Err(StoreError::Empty(folder.to_owned()));
        }
        Ok(Self { folder: folder.to_owned(), manifest: read_json(&path)? })
    }

    /// What its results are of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether this seed is finished.
    pub fn has(&self, seed: u64) -> bool {
        self.path(seed).exists()
    }

    /// Keeps a finished seed.
    pub fn put(&self, recording: &Recording) -> Result<(), StoreError> {
        write_json(&self.path(recording.seed), recording)
    }

    /// A finished seed.
    pub fn get(&self, seed: u64) -> Result<Recording, StoreError> {
        read_json(&self.path(seed))
    }

    /// All finished seeds, in order.
    pub fn all(&self) -> Result<Vec<Recording>, StoreError> {
        let folder = self.folder.join("seeds");
        let entries = std::fs::read_dir(&folder).map_err(|error| file(&folder, error))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let seed = |name: String| name.strip_suffix(".json")?.parse().ok();
        let mut seeds: Vec<u64> = names.filter_map(seed).collect();
        seeds.sort_unstable();
        seeds.into_iter().map(|seed| self.get(seed)).collect()
    }

    /// Writes a file of the folder, at once.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        write(&self.folder.join(name), content)
    }

    fn path(&self, seed: u64) -> PathBuf {
        self.folder.join("seeds").join(format!("{seed}.json"))
    }
}

fn file(path: &Path, error: std::io::Error) -> StoreError {
    StoreError::File { path: path.to_owned(), error }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    let bytes = std::fs::read(path).map_err(|error| file(path, error))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| StoreError::Content { path: path.to_owned(), error })
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
    write(path, &serde_json::to_vec(value).expect("plain data"))
}

/// Writes a file at once: whoever reads it sees all of it or what was there before.
pub fn write(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|error| file(folder, error))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = folder.join(format!(".{name}.{}", std::process::id()));
    let written = std::fs::File::create(&unfinished).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.map_err(|error| file(&unfinished, error))?;
    std::fs::rename(&unfinished, path).map_err(|error| file(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(seconds: u64) -> Scenario {
        Scenario::parse(&format!("name = 'x'\npeers = 5\nseconds = {seconds}")).unwrap()
    }

    #[test]
    fn what_is_finished_is_found_again_and_another_scenario_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path(), &scenario(9)).unwrap();
        for seed in [10, 2] {
            store.put(&Recording { seed, ..Recording::default() }).unwrap();
        }
        let again = Store::create(folder.path(), &scenario(9)).unwrap();
        assert!(again.has(2) && !again.has(3));
        let seeds: Vec<u64> = again.all().unwrap().iter().map(|recording| recording.seed).collect();
        assert_eq!(seeds, [2, 10]);
        let error = Store::create(folder.path(), &scenario(8)).unwrap_err().to_string();
        assert!(error.contains("holds results of x, not of this"), "{error}");
    }
}
