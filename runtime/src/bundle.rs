//! Bundles: a model's files under one digest, which [`crate::manifest`] defines. Reads and hashes
//! files; what the ONNX file inside says is [`crate::scan`]'s, where pulled ones lie is
//! [`crate::store`]'s.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::hashing::{Found, hash};
use crate::limits::*;
pub use crate::manifest::{BundleDigest, Entry, Manifest};
use crate::manifest::{Span, offset};
use crate::scan::{self, ScanError};

/// The ONNX file of every bundle.
pub const MODEL_FILE: &str = "model.onnx";

/// A model on disk, hashed.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Its files.
    pub manifest: Manifest,
    /// Digest of the manifest.
    pub digest: BundleDigest,
    dir: PathBuf,
    /// Those of its files that do not lie in `dir` under their own names.
    elsewhere: BTreeMap<String, PathBuf>,
    /// Keeps the store from evicting it.
    _pin: Option<Pin>,
}

/// While a clone of it lives, a bundle of the store is in use.
pub(crate) type Pin = Arc<()>;

/// Why files are not a bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Nothing is there.
    #[error("{path} does not exist; `[[model]] path` names an .onnx file or a folder with {MODEL_FILE}", path = path.display())]
    Missing {
        /// What was named.
        path: PathBuf,
    },
    /// A folder without an ONNX file.
    #[error("{path} has no {MODEL_FILE}", path = path.display())]
    NoModel {
        /// The folder.
        path: PathBuf,
    },
    /// A link that leads elsewhere.
    #[error("{path} is a link out of the bundle's folder or to a folder: copy what it points to", path = path.display())]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// Neither file nor folder, or a name that is not UTF-8.
    #[error("{path} cannot be part of a bundle: {problem}", path = path.display())]
    Odd {
        /// The thing.
        path: PathBuf,
        /// Why not.
        problem: &'static str,
    },
    /// Larger than a bundle may be.
    #[error("{path}: {what} exceeds the limit of {limit}", path = path.display())]
    TooLarge {
        /// Where.
        path: PathBuf,
        /// What was counted.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A file changed since it was hashed.
    #[error("{path} changed after it was hashed; load the model again", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Chunks that the manifest does not have.
    #[error("file {file} of the bundle has no chunk {chunk}")]
    NoSuchChunk {
        /// Number of the file.
        file: u32,
        /// The last chunk that was asked for.
        chunk: u32,
    },
    /// The ONNX file is refused.
    #[error("{path}: {source}", path = path.display())]
    Scan {
        /// The ONNX file.
        path: PathBuf,
        /// Why.
        source: ScanError,
    },
    /// A file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
}

impl Bundle {
    /// Hashes the model at `path`: a folder, with everything in it, or an ONNX file, with the
    /// external data that it names beside it. A single file is `model.onnx` in the manifest
    /// whatever it is called, so that its name does not make it another model.
    pub fn open(path: &Path) -> Result<Self, BundleError> {
        Self::open_with(path, BTreeMap::new())
    }

    /// The same with files that lie `elsewhere`, each under the path that it is to have inside.
    pub fn open_with(
        path: &Path,
        mut elsewhere: BTreeMap<String, PathBuf>,
    ) -> Result<Self, BundleError> {
        let root = match path.canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BundleError::Missing { path: path.to_owned() });
            }
            other => other.map_err(at(path))?,
        };
        let mut found = Vec::new();
        let dir = if root.is_dir() {
            walk(&root, &root, "", 0, &mut found)?;
            if !found.iter().any(|file| file.name == MODEL_FILE) {
                return Err(BundleError::NoModel { path: root });
            }
            root
        } else {
            let dir = root.parent().expect("a file is in a folder").to_owned();
            let bytes = read_whole(&root)?;
            let scanned = scan::external_files(&bytes);
            let names =
                scanned.map_err(|source| BundleError::Scan { path: root.clone(), source })?;
            for name in names {
                let file = dir.join(&name);
                if fs::symlink_metadata(&file).is_ok_and(|meta| meta.is_symlink()) {
                    return Err(BundleError::Link { path: file });
                }
                found.push(Found::new(name, file)?);
            }
            elsewhere.insert(MODEL_FILE.to_owned(), root);
            dir
        };
        found.retain(|file| !elsewhere.contains_key(&file.name));
        for (name, path) in &elsewhere {
            found.push(Found::new(name.clone(), path.clone())?);
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        let total = found.iter().fold(0u64, |sum, file| sum.saturating_add(file.bytes));
        check(&dir, "size in bytes", total, BUNDLE_BYTES_MAX)?;
        check(&dir, "number of files", found.len() as u64, BUNDLE_FILES_MAX as u64)?;
        let manifest = hash(&found)?;
        Ok(Self { digest: manifest.digest(), manifest, dir, elsewhere, _pin: None })
    }

    /// A bundle of the store, whose files were held against `manifest` when they were written.
    pub(crate) fn stored(manifest: Manifest, dir: PathBuf, pin: Pin) -> Self {
        let digest = manifest.digest();
        Self { manifest, digest, dir, elsewhere: BTreeMap::new(), _pin: Some(pin) }
    }

    /// Reads every file and holds it against the manifest: what lay on disk for long may have
    /// changed there.
    pub fn verify(&self) -> Result<(), BundleError> {
        let found =
            self.manifest.files.keys().map(|name| Found::new(name.clone(), self.file(name)));
        if hash(&found.collect::<Result<Vec<_>, _>>()?)? == self.manifest {
            return Ok(());
        }
        Err(BundleError::Changed { path: self.dir.clone() })
    }

    /// The bytes of chunks as they lie on disk now. They are not held against the manifest: who
    /// receives them does that anyway.
    ///
    /// # Errors
    /// There are no such chunks, or the file is shorter than it was.
    pub fn read(&self, span: Span) -> Result<Vec<u8>, BundleError> {
        let Span { file, first, count } = span;
        let none = || BundleError::NoSuchChunk { file, chunk: first.saturating_add(count) };
        let (name, entry) = self.manifest.file(file).ok_or_else(none)?;
        let end = first.checked_add(count).ok_or_else(none)?;
        if count == 0 || entry.chunks.len() < end as usize {
            return Err(none());
        }
        let path = self.file(name);
        let mut bytes = vec![0; (first..end).map(|chunk| entry.chunk_bytes(chunk)).sum()];
        let file = File::open(&path).map_err(at(&path))?;
        match file.read_exact_at(&mut bytes, offset(first)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(BundleError::Changed { path })
            }
            other => other.map(|()| bytes).map_err(at(&path)),
        }
    }

    /// Where a file of the manifest lies.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.elsewhere.get(name).cloned().unwrap_or_else(|| self.dir.join(name))
    }

    /// The folder that external data lies in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The ONNX file on disk.
    pub fn model_path(&self) -> PathBuf {
        self.file(MODEL_FILE)
    }

    /// Reads the ONNX file whole and holds it against the manifest: what is then scanned and
    /// loaded are the very bytes that the digest names, whatever happens on disk.
    pub fn read_model(&self) -> Result<Vec<u8>, BundleError> {
        self.read_file(MODEL_FILE)
    }

    /// The same for any file of the manifest.
    pub fn read_file(&self, name: &str) -> Result<Vec<u8>, BundleError> {
        let path = self.file(name);
        let entry = &self.manifest.files[name];
        let bytes = read_whole(&path)?;
        let same = bytes.len() as u64 == entry.bytes
            && (0..).zip(bytes.chunks(CHUNK_BYTES)).all(|(chunk, bytes)| entry.is(chunk, bytes));
        if same { Ok(bytes) } else { Err(BundleError::Changed { path }) }
    }
}

/// Collects the files under `dir` in no particular order.
fn walk(
    root: &Path,
    dir: &Path,
    prefix: &str,
    depth: usize,
    found: &mut Vec<Found>,
) -> Result<(), BundleError> {
    check(dir, "depth of folders", depth as u64, BUNDLE_DEPTH_MAX as u64)?;
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let entry = entry.map_err(at(dir))?;
        let path = entry.path();
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            return Err(BundleError::Odd { path, problem: "its name is not UTF-8" });
        };
        let name = format!("{prefix}{name}");
        let kind = entry.file_type().map_err(at(&path))?;
        if kind.is_dir() {
            walk(root, &path, &format!("{name}/"), depth + 1, found)?;
            continue;
        }
        if kind.is_symlink() {
            let inside = path
                .canonicalize()
                .is_ok_and(|target| target.starts_with(root) && target.is_file());
            if !inside {
                return Err(BundleError::Link { path });
            }
        }
        check(root, "number of files", found.len() as u64 + 1, BUNDLE_FILES_MAX as u64)?;
        found.push(Found::new(name, path)?);
    }
    Ok(())
}

fn read_whole(path: &Path) -> Result<Vec<u8>, BundleError> {
    let file = File::open(path).map_err(at(path))?;
    let mut bytes = Vec::new();
    file.take(MODEL_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(at(path))?;
    check(path, "size in bytes", bytes.len() as u64, MODEL_BYTES_MAX)?;
    Ok(bytes)
}

pub(crate) fn check(
    path: &Path,
    what: &'static str,
    value: u64,
    limit: u64,
) -> Result<(), BundleError> {
    if value <= limit {
        return Ok(());
    }
    Err(BundleError::TooLarge { path: path.to_owned(), what, limit })
}

pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> BundleError + use<> {
    let path = path.to_owned();
    move |source| BundleError::Io { path, source }
}
