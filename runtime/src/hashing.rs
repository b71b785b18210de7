//! Hashing files in chunks, on all cores.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::bundle::{BundleError, at, check};
use crate::limits::*;
use crate::manifest::{Entry, Manifest, sha256};

/// A file that is to be hashed.
pub(crate) struct Found {
    /// Its path inside the bundle.
    pub(crate) name: String,
    /// Its path on disk.
    pub(crate) path: PathBuf,
    /// Its size on disk.
    pub(crate) bytes: u64,
}

impl Found {
    pub(crate) fn new(name: String, path: PathBuf) -> Result<Self, BundleError> {
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

/// Chunks that one thread hashes before it takes more.
const RUN_CHUNKS: u64 = 64;

/// Index of a run and the hashes of its chunks.
type HashedRun = (usize, Vec<[u8; 32]>);

/// Hashes all files, a run of chunks at a time, on all cores: memory stays at one chunk a thread.
pub(crate) fn hash(found: &[Found]) -> Result<Manifest, BundleError> {
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
