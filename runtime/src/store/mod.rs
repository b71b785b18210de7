//! A folder of bundles by digest, bounded in bytes: what was pulled or added. Where chunks come
//! from is its user's matter; [`Partial`] takes them.
//!
//! ```text
//! FOLDER/<digest>/manifest            its time of change is when the bundle was last used
//! FOLDER/<digest>/files/model.onnx …
//! FOLDER/<digest>.partial/            the same, unfinished; counted with its full size
//! ```
//!
//! A bundle is whole or partial by the name of its folder alone, and a rename makes it whole, so a
//! crash leaves one or the other. Room is made by evicting what was used least recently and is not
//! in use. All of it blocks.

mod partial;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use crate::bundle::{Bundle, BundleDigest, BundleError, Manifest, Pin};
use crate::limits::*;
use crate::manifest::ManifestError;
pub use partial::Partial;

const MANIFEST: &str = "manifest";
const FILES: &str = "files";
const PARTIAL: &str = ".partial";

/// The store of one process; no other may use its folder.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    bytes_max: u64,
    items: Mutex<BTreeMap<BundleDigest, Item>>,
}

#[derive(Debug)]
struct Item {
    bytes: u64,
    used: SystemTime,
    is_whole: bool,
    /// Shared by whoever uses the bundle: it may be evicted when this is the only one.
    pin: Pin,
}

impl Item {
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.pin) > 1
    }
}

/// What the store says of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its digest.
    pub digest: BundleDigest,
    /// Size of its files, also of those that are still missing.
    pub bytes: u64,
    /// Whether nothing is missing.
    pub is_whole: bool,
}

/// Why the store does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Larger than the whole store.
    #[error(
        "the bundle has {bytes} bytes and the store may hold {bytes_max}; raise [node] bundles_gib_max"
    )]
    TooLarge {
        /// Size of the bundle.
        bytes: u64,
        /// The store's limit.
        bytes_max: u64,
    },
    /// What is in use leaves too little room.
    #[error(
        "the bundle has {bytes} bytes; {used} of the store's {bytes_max} are in use: remove a model \
         (`hansa models rm`) or raise [node] bundles_gib_max"
    )]
    Full {
        /// Size of the bundle.
        bytes: u64,
        /// Bytes of bundles that are in use.
        used: u64,
        /// The store's limit.
        bytes_max: u64,
    },
    /// It is being written already, or is whole.
    #[error("the store holds {0} already, or it is on its way")]
    Taken(BundleDigest),
    /// A chunk that is not what the manifest says.
    #[error("chunk {chunk} of file {file} is not what the manifest says")]
    WrongChunk {
        /// Number of the file.
        file: u32,
        /// Number of the chunk.
        chunk: u32,
    },
    /// What the store's folder holds of it is not the bundle.
    #[error("the store's copy of {digest} is damaged ({reason}); remove it and pull it again")]
    Damaged {
        /// The bundle.
        digest: BundleDigest,
        /// What is wrong.
        reason: String,
    },
    /// What was to be put here has a manifest that no peer would take.
    #[error("not a bundle that can travel: {0}")]
    Manifest(#[from] ManifestError),
    /// Chunks are missing.
    #[error("{0} bytes of the bundle are missing still")]
    Unfinished(u64),
    /// What was to be added is no bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
}

impl Store {
    /// The store in `folder`, which is made when something is put there. What is in it counts,
    /// unfinished bundles too; what is no bundle is left alone.
    ///
    /// # Errors
    /// The folder is there and cannot be read.
    pub fn open(folder: &Path, bytes_max: u64) -> Result<Arc<Self>, StoreError> {
        let mut items = BTreeMap::new();
        let listed = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other.map_err(at(folder))?),
        };
        for entry in listed.into_iter().flatten() {
            let name = entry.map_err(at(folder))?.file_name();
            let Some(name) = name.to_str() else { continue };
            let (digits, is_whole) = match name.strip_suffix(PARTIAL) {
                Some(digits) => (digits, false),
                None => (name, true),
            };
            let Some(digest) = parse(digits) else { continue };
            let path = folder.join(name);
            match manifest(&path, digest) {
                Ok((manifest, used)) => {
                    let bytes = manifest.bytes();
                    items.insert(digest, Item { bytes, used, is_whole, pin: Pin::default() });
                }
                // Without its manifest nothing in it can be told from anything else.
                Err(_) => remove(&path)?,
            }
        }
        Ok(Arc::new(Self { folder: folder.to_owned(), bytes_max, items: Mutex::new(items) }))
    }

    /// A whole bundle, which stays in the store for as long as a clone of it lives. It is now the
    /// last used.
    pub fn get(&self, digest: BundleDigest) -> Result<Option<Bundle>, StoreError> {
        let pin = {
            let mut items = self.items();
            let Some(item) = items.get_mut(&digest).filter(|item| item.is_whole) else {
                return Ok(None);
            };
            item.used = SystemTime::now();
            item.pin.clone()
        };
        let folder = self.place(digest, true);
        let (manifest, _) = manifest(&folder, digest)?;
        // So that a restarted store knows, too. A store that cannot be written can be read.
        let _ = File::options()
            .write(true)
            .open(folder.join(MANIFEST))
            .and_then(|file| file.set_modified(SystemTime::now()));
        Ok(Some(Bundle::stored(manifest, folder.join(FILES), pin)))
    }

    /// Everything that lies here, by digest.
    pub fn list(&self) -> Vec<Stored> {
        let stored = |(digest, item): (&BundleDigest, &Item)| Stored {
            digest: *digest,
            bytes: item.bytes,
            is_whole: item.is_whole,
        };
        self.items().iter().map(stored).collect()
    }

    /// Deletes a bundle, whole or not, in use or not: an engine that runs it has its files open.
    /// Whether there was one.
    ///
    /// # Errors
    /// It is being written, or the files cannot be deleted.
    pub fn remove(&self, digest: BundleDigest) -> Result<bool, StoreError> {
        let mut items = self.items();
        let Some(item) = items.get(&digest) else { return Ok(false) };
        if !item.is_whole && item.is_used() {
            return Err(StoreError::Taken(digest));
        }
        remove(&self.place(digest, item.is_whole))?;
        items.remove(&digest);
        Ok(true)
    }

    /// Copies the model at `path` (see [`Bundle::open`]) into the store.
    pub fn add(self: &Arc<Self>, path: &Path) -> Result<Bundle, StoreError> {
        let source = Bundle::open(path)?;
        if let Some(held) = self.get(source.digest)? {
            return Ok(held);
        }
        let partial = self.begin(source.manifest.clone())?;
        for span in partial.missing(1) {
            // The hash is held against once more, so a file that changes meanwhile is noticed.
            partial.write(span.file, span.first, &source.read(span)?)?;
        }
        partial.finish()
    }

    /// Begins to take in a bundle, or goes on with what a crash left of it. Room for all of it is
    /// set aside.
    pub fn begin(self: &Arc<Self>, manifest: Manifest) -> Result<Partial, StoreError> {
        // A folder of this machine may hold names that are paths elsewhere.
        Manifest::decode(&manifest.encode())?;
        let (digest, bytes) = (manifest.digest(), manifest.bytes());
        let pin = {
            let mut items = self.items();
            match items.get(&digest) {
                Some(item) if item.is_whole || item.is_used() => {
                    return Err(StoreError::Taken(digest));
                }
                _ => {}
            }
            self.make_room(&mut items, digest, bytes)?;
            self.write_manifest(digest, &manifest)?;
            let item =
                Item { bytes, used: SystemTime::now(), is_whole: false, pin: Pin::default() };
            let pin = item.pin.clone();
            items.insert(digest, item);
            pin
        };
        Partial::open(self.clone(), manifest, pin)
    }

    /// Evicts until `bytes` more fit, or nothing at all when they cannot.
    fn make_room(
        &self,
        items: &mut BTreeMap<BundleDigest, Item>,
        digest: BundleDigest,
        bytes: u64,
    ) -> Result<(), StoreError> {
        let bytes_max = self.bytes_max;
        if bytes > bytes_max {
            return Err(StoreError::TooLarge { bytes, bytes_max });
        }
        let others = || items.iter().filter(|(other, _)| **other != digest);
        let sum = |items: &mut dyn Iterator<Item = (&BundleDigest, &Item)>| {
            items.fold(0u64, |sum, (_, item)| sum.saturating_add(item.bytes))
        };
        let used = sum(&mut others().filter(|(_, item)| item.is_used()));
        if used.saturating_add(bytes) > bytes_max {
            return Err(StoreError::Full { bytes, used, bytes_max });
        }
        let (mut total, mut count) = (sum(&mut others()), others().count());
        let mut idle: Vec<(SystemTime, BundleDigest)> = others()
            .filter(|(_, item)| !item.is_used())
            .map(|(digest, item)| (item.used, *digest))
            .collect();
        idle.sort_unstable();
        let mut idle = idle.into_iter();
        while total.saturating_add(bytes) > bytes_max || count >= STORED_MAX {
            let Some((_, victim)) = idle.next() else {
                return Err(StoreError::Full { bytes, used, bytes_max });
            };
            let item = items.remove(&victim).expect("listed under this lock");
            remove(&self.place(victim, item.is_whole))?;
            tracing::info!(bundle = %victim, bytes = item.bytes, "evicted from the store");
            (total, count) = (total - item.bytes, count - 1);
        }
        Ok(())
    }

    fn write_manifest(&self, digest: BundleDigest, manifest: &Manifest) -> Result<(), StoreError> {
        let folder = self.place(digest, false);
        fs::create_dir_all(folder.join(FILES)).map_err(at(&folder))?;
        let path = folder.join(MANIFEST);
        fs::write(&path, manifest.encode()).map_err(at(&path))?;
        sync(&path)?;
        sync(&folder)
    }

    fn place(&self, digest: BundleDigest, is_whole: bool) -> PathBuf {
        self.folder.join(format!("{digest:x}{}", if is_whole { "" } else { PARTIAL }))
    }

    fn items(&self) -> MutexGuard<'_, BTreeMap<BundleDigest, Item>> {
        self.items.lock().expect("no holder panics")
    }
}

/// Reads the manifest in `folder`, which must be that of `digest`, and when it was last used.
fn manifest(folder: &Path, digest: BundleDigest) -> Result<(Manifest, SystemTime), StoreError> {
    let path = folder.join(MANIFEST);
    let damaged = |reason: String| StoreError::Damaged { digest, reason };
    let bytes = fs::read(&path).map_err(|error| damaged(error.to_string()))?;
    let manifest = Manifest::decode(&bytes);
    let manifest = manifest.map_err(|error: ManifestError| damaged(error.to_string()))?;
    if manifest.digest() != digest {
        return Err(damaged("its manifest is another bundle's".into()));
    }
    let used = fs::metadata(&path).and_then(|meta| meta.modified()).map_err(at(&path))?;
    Ok((manifest, used))
}

/// The digest that a folder is named after.
fn parse(digits: &str) -> Option<BundleDigest> {
    if digits.len() != 64 || !digits.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
    }
    Some(BundleDigest(bytes))
}

fn remove(folder: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(at(folder)),
    }
}

/// Brings a file, or what a folder lists, onto the disk.
fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |source| StoreError::Io { path, source }
}
