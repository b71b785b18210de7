//! `models.json` in the node's data folder: under which names bundles of the store are served, so
//! that a restart serves them again, and which are only kept for others.

use std::io;
use std::path::{Path, PathBuf};

use hansa_core::id::Digest;
use hansa_core::limits::ADVERT_MODELS_MAX;
use serde::{Deserialize, Serialize};

use super::Model;
use crate::run::StartError;

const FILE: &str = "models.json";

/// What was pulled, added or kept, in that order.
#[derive(Debug)]
pub(super) struct Listing {
    path: PathBuf,
    models: Vec<(Model, Standing)>,
}

/// Why a bundle is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Standing {
    /// It is served, since the operator wants it.
    #[default]
    Wanted,
    /// It is served, since jobs asked for it.
    Demanded,
    /// It does not fit this node, which has it for others to fetch.
    Kept,
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
    #[serde(default)]
    standing: Standing,
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

    /// What is to be served.
    pub(super) fn served(&self) -> impl Iterator<Item = &Model> {
        let served = self.models.iter().filter(|(_, standing)| *standing != Standing::Kept);
        served.map(|(model, _)| model)
    }

    /// What lies here for others.
    pub(super) fn kept(&self) -> impl Iterator<Item = &Model> {
        let kept = self.models.iter().filter(|(_, standing)| *standing == Standing::Kept);
        kept.map(|(model, _)| model)
    }

    /// Whether the bundle is served only since jobs asked for it.
    pub(super) fn is_demanded(&self, bundle: Digest) -> bool {
        let demanded = Standing::Demanded;
        self.models.iter().any(|(model, standing)| model.bundle == bundle && *standing == demanded)
    }

    /// Whether another model can be served.
    pub(super) fn has_room(&self, configured: usize) -> bool {
        self.models.len() + configured < ADVERT_MODELS_MAX
    }

    /// Adds a model, if no more is said of it yet, and writes the file. What was only kept may be
    /// served from now on; the other way round it stays.
    pub(super) fn add(&mut self, model: Model, standing: Standing) -> io::Result<()> {
        let mut models = self.models.clone();
        match models.iter_mut().find(|(known, _)| *known == model) {
            Some((_, known)) if *known == Standing::Kept && standing != Standing::Kept => {
                *known = standing;
            }
            Some(_) => return Ok(()),
            None => models.push((model, standing)),
        }
        self.write(models)
    }

    /// A bundle is served no more and kept for others, and the file is written.
    pub(super) fn keep_only(&mut self, bundle: Digest) -> io::Result<()> {
        let mut models = self.models.clone();
        let mut of = models.iter_mut().filter(|(model, _)| model.bundle == bundle);
        of.by_ref().for_each(|(_, standing)| *standing = Standing::Kept);
        self.write(models)
    }

    /// Takes out the models that `gone` names, and writes the file.
    pub(super) fn remove(&mut self, gone: impl Fn(&Model) -> bool) -> io::Result<()> {
        let mut models = self.models.clone();
        models.retain(|(model, _)| !gone(model));
        if models.len() == self.models.len() {
            return Ok(());
        }
        self.write(models)
    }

    /// Whole or not at all: a crash leaves the one or the other.
    fn write(&mut self, models: Vec<(Model, Standing)>) -> io::Result<()> {
        let line = |(model, standing): &(Model, Standing)| Line {
            name: model.name.clone(),
            version: model.version.clone(),
            bundle: model.bundle.to_string(),
            standing: *standing,
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

fn parse(text: &str) -> Result<Vec<(Model, Standing)>, String> {
    let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let model = |Line { name, version, bundle, standing }: Line| {
        let bundle = bundle.parse().map_err(|error| format!("`{bundle}`: {error}"))?;
        Ok((Model { name, version, bundle }, standing))
    };
    file.models.into_iter().map(model).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, tag: u8) -> Model {
        Model { name: name.into(), version: "1".into(), bundle: Digest([tag; 32]) }
    }

    #[test]
    fn what_is_listed_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut listing = Listing::read(folder.path()).unwrap();
        listing.add(model("a", 1), Standing::Wanted).unwrap();
        listing.add(model("b \"ä\"", 2), Standing::Demanded).unwrap();
        listing.add(model("a", 1), Standing::Kept).unwrap();
        listing.add(model("c", 3), Standing::Kept).unwrap();
        let read = || Listing::read(folder.path()).unwrap();
        let served = |listing: Listing| listing.served().cloned().collect::<Vec<_>>();
        assert_eq!(served(read()), [model("a", 1), model("b \"ä\"", 2)]);
        assert!(read().kept().eq([&model("c", 3)]));
        assert!(read().is_demanded(Digest([2; 32])) && !read().is_demanded(Digest([1; 32])));
        listing.remove(|model| model.name == "a").unwrap();
        listing.add(model("c", 3), Standing::Demanded).unwrap();
        assert_eq!(served(read()), [model("b \"ä\"", 2), model("c", 3)]);
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
