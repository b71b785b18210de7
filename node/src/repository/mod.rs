//! A folder of models, as Triton's users have one: what lies in it is served, the latest version of
//! each model unless its configuration says otherwise.
//!
//! ```text
//! folder (what lies there) ─► serve_found ─► actors::engine
//!   └─ settings ◄─ pbtxt
//! ```
//!
//! With `control = "none"` it is read once, when the node starts; with `poll` again and again; with
//! `explicit` nothing is served before it is loaded by name. What changed is loaded beside what it
//! replaces, which goes on until the new one is there, and answers the jobs that it has. What does
//! not load leaves the old one where it is.

mod folder;
mod pbtxt;
mod settings;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use hansa_core::id::Digest;
use serde_json::{Value, json};

pub use self::folder::Found;
pub use self::settings::{Settings, Versions};
use crate::bundles::{KeepError, Model};
use crate::config::{Control, RepositoryConfig};
use crate::node::Node;

/// What a node has of the folder's models, by name.
#[derive(Default)]
pub struct Repository {
    models: Mutex<BTreeMap<String, Entry>>,
    /// Held by whoever changes what is served of it.
    change: tokio::sync::Mutex<()>,
}

/// A model of the folder.
#[derive(Clone, Default)]
struct Entry {
    /// What is to be served, as it was read last.
    wanted: Vec<Found>,
    /// What is.
    served: Vec<Served>,
    /// Why these differ.
    fault: Option<String>,
}

/// A version that is served.
#[derive(Clone, PartialEq)]
struct Served {
    found: Found,
    bundle: Digest,
}

impl Repository {
    /// What is to be served when the engines start, first or again.
    ///
    /// # Errors
    /// The folder cannot be read. What is wrong with one model is kept for the index.
    pub fn at_start(&self, config: &RepositoryConfig) -> Result<Vec<Found>, String> {
        let Some(dir) = &config.dir else { return Ok(Vec::new()) };
        if config.control != Control::Explicit {
            let names = folder::names(dir)?;
            let read = names.into_iter().map(|name| {
                let found = folder::versions(dir, &name, None);
                (name, Entry { fault: found.clone().err(), ..Entry::of(found.unwrap_or_default()) })
            });
            *self.lock() = read.collect();
        }
        let mut models = self.lock();
        models.values_mut().for_each(|entry| entry.served.clear());
        Ok(models.values().flat_map(|entry| entry.wanted.clone()).collect())
    }

    /// A version that was to be served at the start is, or why not.
    pub fn started(&self, found: Found, outcome: Result<Digest, String>) {
        let mut models = self.lock();
        let entry = models.entry(found.name.clone()).or_default();
        match outcome {
            Ok(bundle) => entry.served.push(Served { found, bundle }),
            Err(reason) => {
                tracing::error!(model = found.name, version = found.version, reason, "not served");
                entry.fault = Some(reason);
            }
        }
    }

    /// Whether all is served that is to be.
    pub fn is_complete(&self) -> bool {
        self.lock().values().all(|entry| entry.fault.is_none())
    }

    /// Models of which something is not served, with the reason: as `/mesh/v1/models` shows models.
    pub fn missing(&self) -> Vec<Value> {
        let models = self.lock();
        let missing = models.iter().filter_map(|(name, entry)| {
            let state = match &entry.fault {
                Some(_) => "failed",
                None if entry.served.is_empty() => "unloaded",
                None => return None,
            };
            let is_served = |found: &&Found| entry.served.iter().all(|own| own.found != **found);
            let version = entry.wanted.iter().find(is_served).map(|found| found.version.clone());
            Some(json!({
                "name": name, "version": version.unwrap_or_default(), "state": state,
                "error": entry.fault, "source": "repository",
            }))
        });
        missing.collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.models.lock().expect("no holder panics")
    }

    fn entry(&self, name: &str) -> Option<Entry> {
        self.lock().get(name).cloned()
    }
}

impl Entry {
    fn of(wanted: Vec<Found>) -> Self {
        Self { wanted, ..Self::default() }
    }
}

/// What is served no more once `found` is: the same version as it was, and versions that are not
/// wanted.
fn replaced(before: &[Served], wanted: &[Found], found: &Found) -> Vec<Digest> {
    let goes = |own: &&Served| {
        let is_wanted = wanted.iter().any(|wanted| wanted.version == own.found.version);
        own.found.version == found.version || !is_wanted
    };
    before.iter().filter(goes).map(|own| own.bundle).collect()
}

impl Node {
    /// Looks at the folder again and again, if that is configured, for as long as the node runs.
    pub(crate) async fn poll_repository(self: Arc<Self>) {
        let config = &self.config.repository;
        let (Some(dir), Control::Poll) = (&config.dir, config.control) else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(config.poll).await;
            if let Err(reason) = self.look(dir).await {
                tracing::warn!(reason, "the repository cannot be read; what is served stays");
            }
        }
    }

    async fn look(&self, dir: &Path) -> Result<(), String> {
        let folder = dir.to_owned();
        let read = move || {
            let names = folder::names(&folder)?;
            let found = names.into_iter().map(|name| {
                let versions = folder::versions(&folder, &name, None);
                (name, versions)
            });
            Ok::<BTreeMap<_, _>, String>(found.collect())
        };
        let found =
            tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())??;
        let known: Vec<String> = self.repository.lock().keys().cloned().collect();
        for name in known.into_iter().filter(|name| !found.contains_key(name)) {
            tracing::info!(model = name, "gone from the repository");
            let _ = self.serve_found(&name, Vec::new()).await;
            self.repository.lock().remove(&name);
        }
        for (name, versions) in found {
            let before = self.repository.entry(&name).unwrap_or_default();
            match versions {
                Ok(wanted) if before.wanted == wanted => {}
                Ok(wanted) => {
                    if let Err(reason) = self.serve_found(&name, wanted).await {
                        tracing::error!(
                            model = name,
                            reason,
                            "not served as the repository has it"
                        );
                    }
                }
                Err(reason) => {
                    if before.fault.as_ref() != Some(&reason) {
                        tracing::error!(model = name, reason, "cannot be read from the repository");
                    }
                    // As nothing is wanted, whatever is read next is news; what is served stays.
                    let entry = Entry { wanted: Vec::new(), fault: Some(reason), ..before };
                    self.repository.lock().insert(name, entry);
                }
            }
        }
        Ok(())
    }

    /// Serves a model of the folder as it lies there now, by its own configuration or by `config`
    /// instead. None if the folder has no such model.
    ///
    /// # Errors
    /// It cannot be served so; what was served before still is.
    pub(crate) async fn load_from_repository(
        &self,
        name: &str,
        config: Option<&Settings>,
    ) -> Result<Option<Vec<Model>>, KeepError> {
        let Some(dir) = &self.config.repository.dir else { return Ok(None) };
        let (dir, wanted_name, settings) = (dir.clone(), name.to_owned(), config.cloned());
        let read = move || {
            let is_there = folder::names(&dir)?.contains(&wanted_name);
            is_there.then(|| folder::versions(&dir, &wanted_name, settings.as_ref())).transpose()
        };
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.map_err(|error| KeepError::Load(error.to_string()))?;
        let Some(wanted) = read.map_err(KeepError::Load)? else { return Ok(None) };
        self.may_change(name)?;
        if wanted.is_empty() {
            let none = format!("the repository has no version of `{name}` that is to be served");
            return Err(KeepError::Load(none));
        }
        self.serve_found(name, wanted).await.map(Some).map_err(KeepError::Load)
    }

    /// Serves a model of the folder no more. None if none of it is served.
    ///
    /// # Errors
    /// The folder is polled.
    pub(crate) async fn unload_from_repository(
        &self,
        name: &str,
    ) -> Result<Option<Vec<Model>>, KeepError> {
        let Some(entry) = self.repository.entry(name) else { return Ok(None) };
        self.may_change(name)?;
        let _ = self.serve_found(name, Vec::new()).await;
        Ok(Some(entry.served.iter().map(Served::model).collect()))
    }

    fn may_change(&self, name: &str) -> Result<(), KeepError> {
        match self.config.repository.control {
            Control::Poll => Err(KeepError::Polled(name.to_owned())),
            Control::None | Control::Explicit => Ok(()),
        }
    }

    /// Makes what is served of a model what is wanted of it.
    async fn serve_found(&self, name: &str, wanted: Vec<Found>) -> Result<Vec<Model>, String> {
        let _alone = self.repository.change.lock().await;
        let before = self.repository.entry(name).unwrap_or_default().served;
        let (mut served, mut fault) = (Vec::new(), None);
        for found in &wanted {
            let is_it = |own: &&Served| own.found == *found && self.hosted(own.bundle).is_some();
            let as_it_is = before.iter().find(is_it);
            let hosted = match as_it_is {
                Some(own) => Ok(own.bundle),
                None => self.host_found(found, replaced(&before, &wanted, found)).await,
            };
            match hosted {
                Ok(bundle) => served.push(Served { found: found.clone(), bundle }),
                Err(reason) => fault = Some(format!("version {}: {reason}", found.version)),
            }
        }
        let is_left = |own: &&Served| {
            let is_served = served.iter().any(|new| new.bundle == own.bundle);
            !is_served && self.hosted(own.bundle).is_some()
        };
        let left: Vec<Served> = before.iter().filter(is_left).cloned().collect();
        // What was served goes on where what is to replace it does not load.
        if fault.is_some() {
            served.extend(left);
        } else {
            for own in left {
                self.unhost(own.bundle).await;
            }
        }
        let models = served.iter().map(Served::model).collect();
        let entry = Entry { wanted, served, fault: fault.clone() };
        self.repository.lock().insert(name.to_owned(), entry);
        fault.map_or(Ok(models), Err)
    }

    async fn host_found(&self, found: &Found, replaced: Vec<Digest>) -> Result<Digest, String> {
        let opening = found.clone();
        let opened = tokio::task::spawn_blocking(move || opening.open()).await;
        let bundle = Arc::new(opened.map_err(|error| error.to_string())??);
        let model = Served { found: found.clone(), bundle: Digest(bundle.digest.0) }.model();
        let digest = model.bundle;
        let other = self.engines().iter().any(|(own, hosted)| {
            let is_named = (&hosted.name, &hosted.version) == (&model.name, &model.version);
            is_named && *own != digest && !replaced.contains(own)
        });
        if other {
            return Err("another model of this name and version is served here".into());
        }
        self.replace(model, found.serving, bundle, replaced).await?;
        Ok(digest)
    }
}

impl Served {
    fn model(&self) -> Model {
        let Found { name, version, .. } = &self.found;
        Model { name: name.clone(), version: version.clone(), bundle: self.bundle }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(version: &str, size: u8) -> Found {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("m").join(version);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("model.onnx"), vec![0; size.into()]).unwrap();
        folder::versions(dir.path(), "m", None).unwrap().remove(0)
    }

    #[test]
    fn a_version_replaces_itself_and_those_that_are_not_wanted_and_no_other() {
        let served =
            |version: &str, tag| Served { found: found(version, tag), bundle: Digest([tag; 32]) };
        let before = [served("1", 1), served("2", 2), served("3", 3)];
        let wanted = [found("4", 4), found("3", 3), found("2", 9)];
        let of = |found: &Found| replaced(&before, &wanted, found);
        assert_eq!(of(&wanted[0]), [Digest([1; 32])]);
        assert_eq!(of(&wanted[2]), [Digest([1; 32]), Digest([2; 32])]);
    }
}
