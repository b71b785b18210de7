//! `models.json` in the node's data folder: under which names bundles of the store are served, so
//! that a restart serves them again.

use std::io;
use std::path::{Path, PathBuf};

use hansa_core::limits::ADVERT_MODELS_MAX;
use serde::{Deserialize, Serialize};

use super::Model;
use crate::run::StartError;

const FILE: &str = "models.json";

/// What was pulled or added, in that order.
#[derive(Debug)]
pub(super) struct Listing {
    path: PathBuf,
    models: Vec<Model>,
}

#[derive(Serialize, Deserialize)]
struct File {
    models: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    version: String,
    bundle: String,
}

impl Listing {
    /// Reads the file in `folder`; none is an empty one.
    pub(super) fn read(folder: &Path) -> Result<Self, StartError> {
        let path = folder.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other.map_err(StartError::file(&path))?),
        };
        let models = text.map_or(Ok(Vec::new()), |text| parse(&text));
        let models = models.map_err(|reason| {
            let advice = format!("{reason}; mend it, or delete it and pull the models again");
            StartError::file(&path)(io::Error::other(advice))
        })?;
        Ok(Self { path, models })
    }

    pub(super) fn models(&self) -> &[Model] {
        &self.models
    }

    /// Whether another model can be served.
    pub(super) fn has_room(&self, configured: usize) -> bool {
        self.models.len() + configured < ADVERT_MODELS_MAX
    }

    /// Adds a model that is not in it, and writes the file.
    pub(super) fn add(&mut self, model: Model) -> io::Result<()> {
        if self.models.contains(&model) {
            return Ok(());
        }
        let models: Vec<Model> = self.models.iter().cloned().chain([model]).collect();
        self.write(models)
    }

    /// Takes out the models that `gone` names, and writes the file.
    pub(super) fn remove(&mut self, gone: impl Fn(&Model) -> bool) -> io::Result<()> {
        let models: Vec<Model> = self.models.iter().filter(|model| !gone(model)).cloned().collect();
        if models.len() == self.models.len() {
            return Ok(());
        }
        self.write(models)
    }

    /// Whole or not at all: a crash leaves the one or the other.
    fn write(&mut self, models: Vec<Model>) -> io::Result<()> {
        let line = |model: &Model| Line {
            name: model.name.clone(),
            version: model.version.clone(),
            bundle: model.bundle.to_string(),
        };
        let file = File { models: models.iter().map(line).collect() };
        let text = serde_json::to_vec_pretty(&file).expect("names and digests are JSON");
        let draft = self.path.with_extension("draft");
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&draft, text)?;
        std::fs::File::open(&draft)?.sync_all()?;
        std::fs::rename(&draft, &self.path)?;
        self.models = models;
        Ok(())
    }
}

fn parse(text: &str) -> Result<Vec<Model>, String> {
    let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let model = |Line { name, version, bundle }: Line| {
        let bundle = bundle.parse().map_err(|error| format!("`{bundle}`: {error}"))?;
        Ok(Model { name, version, bundle })
    };
    file.models.into_iter().map(model).collect()
}

#[cfg(test)]
mod tests {
    use hansa_core::id::Digest;

    use super::*;

    fn model(name: &str, tag: u8) -> Model {
        Model { name: name.into(), version: "1".into(), bundle: Digest([tag; 32]) }
    }

    #[test]
    fn what_is_listed_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut listing = Listing::read(folder.path()).unwrap();
        listing.add(model("a", 1)).unwrap();
        listing.add(model("b \"ä\"", 2)).unwrap();
        listing.add(model("a", 1)).unwrap();
        let read = || Listing::read(folder.path()).unwrap().models().to_vec();
        assert_eq!(read(), [model("a", 1), model("b \"ä\"", 2)]);
        listing.remove(|model| model.name == "a").unwrap();
        assert_eq!(read(), [model("b \"ä\"", 2)]);
    }

    #[test]
    fn a_file_that_is_no_listing_is_told_and_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        for text in
            ["{", "{\"models\": [{\"name\": \"a\", \"version\": \"1\", \"bundle\": \"x\"}]}"]
        {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            let error = Listing::read(folder.path()).unwrap_err().to_string();
            assert!(error.contains(FILE) && error.contains("delete it"), "{error}");
        }
    }
}
