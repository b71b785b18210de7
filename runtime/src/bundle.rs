//! Bundles: a model's files under one digest. Reads and hashes files; what the ONNX file inside
//! says is [`crate::scan`]'s.
//!
//! The digest is the SHA-256 of the canonical manifest:
//!
//! ```text
//! "hansa-bundle/1\n"
//! for every file, sorted by the bytes of its path:
//!     u32 LE   length of the path
//!     bytes    the path, UTF-8, folders separated by `/`
//!     u64 LE   size of the file
//!     32 bytes SHA-256 of each 1 MiB chunk, the last one shorter (none for an empty file)
//! ```
//!
//! Every count follows from what precedes it, so no two manifests share an encoding.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use ring::digest::{SHA256, digest};

use crate::limits::*;
use crate::scan::{self, ScanError};

/// The ONNX file of every bundle.
pub const MODEL_FILE: &str = "model.onnx";
const MAGIC: &[u8] = b"hansa-bundle/1\n";

/// SHA-256 of a bundle's canonical manifest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BundleDigest(pub [u8; 32]);

impl fmt::Display for BundleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BundleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A file of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of each 1 MiB.
    pub chunks: Vec<[u8; 32]>,
}

/// Every file of a bundle by its path inside, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The files.
    pub files: BTreeMap<String, Entry>,
}

impl Manifest {
    /// The canonical encoding, as this module's head describes it.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for (path, entry) in &self.files {
            let length = u32::try_from(path.len()).expect("paths are bounded");
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(path.as_bytes());
            bytes.extend_from_slice(&entry.bytes.to_le_bytes());
            entry.chunks.iter().for_each(|chunk| bytes.extend_from_slice(chunk));
        }
        bytes
    }

    /// The bundle's digest.
    pub fn digest(&self) -> BundleDigest {
        BundleDigest(sha256(&self.encode()))
    }

    /// Size of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|entry| entry.bytes).sum()
    }
}

/// A model on disk, hashed.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Its files.
    pub manifest: Manifest,
    /// Digest of the manifest.
    pub digest: BundleDigest,
    dir: PathBuf,
    /// Name on disk of what the manifest calls `model.onnx`.
    model: PathBuf,
}

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
        let root = match path.canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BundleError::Missing { path: path.to_owned() });
            }
            other => other.map_err(at(path))?,
        };
        let mut found = Vec::new();
        let (dir, model) = if root.is_dir() {
            walk(&root, &root, "", 0, &mut found)?;
            let model = root.join(MODEL_FILE);
            if !found.iter().any(|file| file.name == MODEL_FILE) {
                return Err(BundleError::NoModel { path: root });
            }
            (root, model)
        } else {
            let dir = root.parent().expect("a file is in a folder").to_owned();
            found.push(Found::new(MODEL_FILE.to_owned(), root.clone())?);
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
            (dir, root)
        };
        found.sort_by(|a, b| a.name.cmp(&b.name));
        let total = found.iter().fold(0u64, |sum, file| sum.saturating_add(file.bytes));
        check(&dir, "size in bytes", total, BUNDLE_BYTES_MAX)?;
        check(&dir, "number of files", found.len() as u64, BUNDLE_FILES_MAX as u64)?;
        let manifest = hash(&found)?;
        Ok(Self { digest: manifest.digest(), manifest, dir, model })
    }

    /// The folder that external data lies in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The ONNX file on disk.
    pub fn model_path(&self) -> &Path {
        &self.model
    }

    /// Reads the ONNX file whole and holds it against the manifest: what is then scanned and
    /// loaded are the very bytes that the digest names, whatever happens on disk.
    pub fn read_model(&self) -> Result<Vec<u8>, BundleError> {
        let bytes = read_whole(&self.model)?;
        let entry = &self.manifest.files[MODEL_FILE];
        let same = bytes.len() as u64 == entry.bytes
            && bytes.chunks(CHUNK_BYTES).map(sha256).eq(entry.chunks.iter().copied());
        if same { Ok(bytes) } else { Err(BundleError::Changed { path: self.model.clone() }) }
    }
}

struct Found {
    name: String,
    path: PathBuf,
    bytes: u64,
}

impl Found {
    fn new(name: String, path: PathBuf) -> Result<Self, BundleError> {
        let meta = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BundleError::Missing { path });
            }
            other => other.map_err(at(&path))?,
        };
        if !meta.is_file() {
            return Err(BundleError::Odd { path, problem: "it is not a regular file" });
        }
        check(&path, "length of its path", name.len() as u64, BUNDLE_PATH_BYTES_MAX as u64)?;
        Ok(Self { name, path, bytes: meta.len() })
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

/// Chunks that one thread hashes before it takes more.
const RUN_CHUNKS: u64 = 64;

/// Index of a run and the hashes of its chunks.
type HashedRun = (usize, Vec<[u8; 32]>);

/// Hashes all files, a run of chunks at a time, on all cores: memory stays at one chunk a thread.
fn hash(found: &[Found]) -> Result<Manifest, BundleError> {
    let run_bytes = RUN_CHUNKS * CHUNK_BYTES as u64;
    let runs: Vec<(usize, u64)> = found
        .iter()
        .enumerate()
        .flat_map(|(index, file)| {
            (0..file.bytes.div_ceil(run_bytes)).map(move |run| (index, run * run_bytes))
        })
        .collect();
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<HashedRun>, BundleError> {
        let mut done = Vec::new();
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Some((run, &(file, offset))) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|run| Some((run, runs.get(run)?)))
        {
            let file = &found[file];
            let bytes = run_bytes.min(file.bytes - offset);
            done.push((run, hash_run(file, offset, bytes, &mut buffer)?));
        }
        Ok(done)
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(runs.len());
    let mut hashed = if threads > 1 {
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let results = workers.into_iter().map(|worker| worker.join().expect("hashing panics"));
            results.collect::<Result<Vec<_>, _>>().map(|parts| parts.concat())
        })?
    } else {
        work()?
    };
    hashed.sort_by_key(|(run, _)| *run);
    let entry = |file: &Found| Entry { bytes: file.bytes, chunks: Vec::new() };
    let mut entries: Vec<Entry> = found.iter().map(entry).collect();
    for (run, chunks) in hashed {
        entries[runs[run].0].chunks.extend(chunks);
    }
    let names = found.iter().map(|file| file.name.clone());
    Ok(Manifest { files: names.zip(entries).collect() })
}

fn hash_run(
    file: &Found,
    offset: u64,
    mut left: u64,
    buffer: &mut [u8],
) -> Result<Vec<[u8; 32]>, BundleError> {
    let mut reader = File::open(&file.path).map_err(at(&file.path))?;
    reader.seek(SeekFrom::Start(offset)).map_err(at(&file.path))?;
    let mut chunks = Vec::new();
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        match reader.read_exact(&mut buffer[..count]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(BundleError::Changed { path: file.path.clone() });
            }
            other => other.map_err(at(&file.path))?,
        }
        chunks.push(sha256(&buffer[..count]));
        left -= count as u64;
    }
    Ok(chunks)
}

fn read_whole(path: &Path) -> Result<Vec<u8>, BundleError> {
    let file = File::open(path).map_err(at(path))?;
    let mut bytes = Vec::new();
    file.take(MODEL_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(at(path))?;
    check(path, "size in bytes", bytes.len() as u64, MODEL_BYTES_MAX)?;
    Ok(bytes)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn check(path: &Path, what: &'static str, value: u64, limit: u64) -> Result<(), BundleError> {
    if value <= limit {
        return Ok(());
    }
    Err(BundleError::TooLarge { path: path.to_owned(), what, limit })
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BundleError + use<> {
    let path = path.to_owned();
    move |source| BundleError::Io { path, source }
}
