//! What lies in a repository's folder: `NAME/VERSION/model.onnx`, with `NAME/config.pbtxt` beside the
//! versions, as Triton lays it out. A model without a configuration is served as the node sees fit.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hansa_runtime::bundle::Bundle;

use super::pbtxt;
use super::settings::Settings;
use crate::config::{Serving, check_name};
use crate::limits::{REPOSITORY_FILES_MAX, REPOSITORY_MODELS_MAX};

/// Beside the versions.
const CONFIG: &str = "config.pbtxt";
/// In a version.
const MODEL: &str = "model.onnx";
/// Longest configuration that is read, in bytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// A version that is to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The model.
    pub name: String,
    /// The version.
    pub version: String,
    /// Its ONNX file, or a folder with it.
    pub path: PathBuf,
    /// How it is served.
    pub serving: Serving,
    /// Files of the bundle that lie beside the versions, by their paths inside.
    labels: BTreeMap<String, PathBuf>,
    /// Its files with their sizes and times: other ones are another model.
    files: Vec<(PathBuf, u64, Option<SystemTime>)>,
}

impl Found {
    /// Reads and hashes its files.
    ///
    /// # Errors
    /// They are no bundle, for people.
    pub fn open(&self) -> Result<Bundle, String> {
        let bundle = Bundle::open_with(&self.path, self.labels.clone());
        bundle.map_err(|error| error.to_string())
    }
}

/// Names of the models in a folder, in order.
///
/// # Errors
/// It cannot be read, or has too many.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let entry = entry.map_err(at(dir))?;
        let name = entry.file_name().into_string();
        // What begins with a dot is somebody else's: a half of a copy, a version control.
        if let Ok(name) = name
            && !name.starts_with('.')
            && entry.path().is_dir()
        {
            names.push(name);
        }
        if names.len() > REPOSITORY_MODELS_MAX {
            return Err(format!("{} has more than {REPOSITORY_MODELS_MAX} models", dir.display()));
        }
    }
    names.sort();
    Ok(names)
}

/// The versions of a model that are to be served, the highest first, by its own configuration or by
/// `config` instead of it.
///
/// # Errors
/// What is wrong with it, for people.
pub(super) fn versions(
    dir: &Path,
    name: &str,
    config: Option<&Settings>,
) -> Result<Vec<Found>, String> {
    check_name(name)?;
    if name.starts_with('.') || name.contains(['/', '\\']) {
        return Err(format!("`{name}` is no plain name of a folder"));
    }
    let dir = dir.join(name);
    let settings = match config {
        Some(settings) => settings.clone(),
        None => settings(&dir, name)?,
    };
    let mut there = Vec::new();
    for entry in fs::read_dir(&dir).map_err(at(&dir))? {
        let entry = entry.map_err(at(&dir))?;
        let version = entry.file_name().into_string().ok().and_then(|name| version(&name));
        there.extend(version.filter(|_| entry.path().is_dir()));
    }
    let found = settings.versions.of(&there).into_iter().map(|version| {
        let folder = dir.join(version.to_string());
        let file = folder.join(settings.file.as_deref().unwrap_or(MODEL));
        if !file.exists() {
            return Err(format!("{} is not there", file.display()));
        }
        // A plain folder is the bundle, with all that lies beside the model; of another name, the
        // file with what it names.
        let path = if file.is_dir() || settings.file.is_some() { file } else { folder.clone() };
        let mut files = Vec::new();
        stamp(&folder, &mut files)?;
        let labels = settings.labels.iter();
        let labels: BTreeMap<_, _> =
            labels.map(|(inside, file)| (inside.clone(), dir.join(file))).collect();
        for path in labels.values() {
            let meta = fs::metadata(path).map_err(at(path))?;
            files.push((path.clone(), meta.len(), meta.modified().ok()));
        }
        files.sort();
        let (version, serving) = (version.to_string(), settings.serving);
        Ok(Found { name: name.to_owned(), version, path, serving, labels, files })
    });
    found.collect()
}

/// A version is a number from 1, written plainly.
fn version(name: &str) -> Option<u64> {
    name.parse().ok().filter(|number: &u64| *number > 0 && number.to_string() == name)
}

fn settings(dir: &Path, name: &str) -> Result<Settings, String> {
    let path = dir.join(CONFIG);
    let told = |reason: String| format!("{}: {reason}", path.display());
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Settings::default()),
        Ok(meta) if meta.len() > CONFIG_BYTES_MAX => return Err(told("it is too long".into())),
        _ => {}
    }
    let text = fs::read_to_string(&path).map_err(|error| told(error.to_string()))?;
    pbtxt::read(&text).and_then(|config| Settings::read(name, config)).map_err(told)
}

fn stamp(dir: &Path, files: &mut Vec<(PathBuf, u64, Option<SystemTime>)>) -> Result<(), String> {
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let path = entry.map_err(at(dir))?.path();
        let meta = fs::metadata(&path).map_err(at(&path))?;
        if files.len() >= REPOSITORY_FILES_MAX {
            return Err(format!("{} has more than {REPOSITORY_FILES_MAX} files", dir.display()));
        }
        if meta.is_dir() && !fs::symlink_metadata(&path).map_err(at(&path))?.is_symlink() {
            stamp(&path, files)?;
        } else {
            files.push((path, meta.len(), meta.modified().ok()));
        }
    }
    Ok(())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> String {
    let path = path.display().to_string();
    move |error| format!("{path}: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, path: &str, text: &str) {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_latest_version_of_each_folder_is_found_and_others_by_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        for version in ["1", "2", "10", "010", "x", "0"] {
            put(dir, &format!("plain/{version}/model.onnx"), "m");
        }
        put(dir, "both/1/net.onnx", "m");
        put(dir, "both/2/net.onnx", "m");
        let config = "version_policy: { all { } }\ndefault_model_filename: \"net.onnx\"";
        put(dir, "both/config.pbtxt", config);
        put(dir, ".git/x", "");
        put(dir, "README", "");
        assert_eq!(names(dir).unwrap(), ["both", "plain"]);
        let [plain] = &versions(dir, "plain", None).unwrap()[..] else { panic!("one") };
        assert_eq!((&*plain.version, &plain.path), ("10", &dir.join("plain/10")));
        let both = versions(dir, "both", None).unwrap();
        let paths: Vec<_> = both.iter().map(|found| found.path.clone()).collect();
        assert_eq!(paths, [dir.join("both/2/net.onnx"), dir.join("both/1/net.onnx")]);
    }

    #[test]
    fn what_was_changed_is_another_and_what_was_not_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        put(dir, "m/1/model.onnx", "one");
        let before = versions(dir, "m", None).unwrap();
        assert_eq!(versions(dir, "m", None).unwrap(), before);
        put(dir, "m/1/model.onnx", "other");
        assert_ne!(versions(dir, "m", None).unwrap(), before);
        put(dir, "m/config.pbtxt", "instance_group { count: 2 }");
        assert_eq!(versions(dir, "m", None).unwrap()[0].serving.instances, 2);
    }

    #[test]
    fn labels_beside_the_versions_are_part_of_each_versions_bundle() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        put(dir, "m/1/model.onnx", "one");
        let plain = versions(dir, "m", None).unwrap().remove(0).open().unwrap();
        let config = "output { name: \"y\" label_filename: \"classes.txt\" }";
        put(dir, "m/config.pbtxt", config);
        let fault = versions(dir, "m", None).unwrap_err();
        assert!(fault.contains("m/classes.txt: No such file"), "{fault}");
        put(dir, "m/classes.txt", "cat\ndog\n");
        let before = versions(dir, "m", None).unwrap();
        let bundle = before[0].open().unwrap();
        assert_eq!(bundle.read_file("labels/y.txt").unwrap(), b"cat\ndog\n");
        assert_eq!(bundle.read_model().unwrap(), b"one");
        assert_ne!(bundle.digest, plain.digest);
        // It is the bundle of a folder that has them itself.
        put(dir, "same/model.onnx", "one");
        put(dir, "same/labels/y.txt", "cat\ndog\n");
        assert_eq!(Bundle::open(&dir.join("same")).unwrap().digest, bundle.digest);
        put(dir, "m/classes.txt", "cow\n");
        assert_ne!(versions(dir, "m", None).unwrap(), before);
    }

    #[test]
    fn what_is_wrong_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        put(dir, "m/1/model.plan", "");
        assert!(versions(dir, "m", None).unwrap_err().contains("m/1/model.onnx is not there"));
        put(dir, "m/config.pbtxt", "optimization { }");
        let fault = versions(dir, "m", None).unwrap_err();
        assert!(fault.contains("config.pbtxt: unknown field `optimization`"), "{fault}");
        assert!(versions(dir, "nowhere", None).is_err());
        assert!(versions(dir, "../m", None).unwrap_err().contains("no plain name"));
    }
}
