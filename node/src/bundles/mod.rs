//! Bundles travel: this node sends chunks of those that it holds, pulls others from permitted
//! peers, and serves what it pulled, also after a restart.
//!
//! ```text
//! api::models ─► keep ─► pull ─► jobs::ask ─► serve of each holder
//!                 │        └─► runtime::store
//!                 └─► listing (models.json), actors::engine
//! ```
//!
//! Whom a bundle may be asked of, `hansa_core::plan::keepers` says, by the same gate as for any job; who may ask
//! for it, `hansa_core::gate::receive`. The store of files is `hansa_runtime::store`.

mod demand;
mod error;
mod keep;
mod keeping;
mod listing;
mod placing;
mod pull;
mod said;
mod serve;
mod unloading;
mod work;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use hansa_core::holding::Holding;
use hansa_core::id::Digest;
use hansa_runtime::bundle::BundleDigest;
use hansa_runtime::store::{Store, StoreError};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

pub use self::error::KeepError;
use self::listing::Listing;
pub use self::pull::PullError;
pub use self::said::{Kept, Said, SaidFault};
pub(crate) use self::serve::{chunks, manifest};
use self::unloading::Unloaded;
use crate::config::{Config, ModelSource, Serving};
use crate::limits::CHUNK_READS_MAX;
use crate::run::StartError;

/// A model that is meant by its digest: the config names it so, or it was pulled or added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// What apps call it.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its bundle.
    pub bundle: Digest,
}

/// What a node has of bundles beside those that it runs.
pub struct Shelf {
    store: Arc<Store>,
    listing: Mutex<Listing>,
    pulls: Mutex<BTreeMap<Digest, Pull>>,
    /// Models of the config that lie at a path and do not fit this node: kept once it runs.
    postponed: Mutex<Vec<(Model, PathBuf)>>,
    /// What is kept, as the advert tells it.
    kept: Mutex<Vec<Holding>>,
    /// Models that the operator unloaded.
    unloaded: Mutex<Vec<Unloaded>>,
    /// Chunks that are read and not yet sent, over all peers.
    reads: Arc<Semaphore>,
}

/// A bundle on its way here.
pub struct Pull {
    /// What it will be.
    pub model: Model,
    /// How far it is.
    pub progress: Arc<Progress>,
    task: Option<JoinHandle<()>>,
}

/// How far a pull is.
#[derive(Debug, Default)]
pub struct Progress {
    total: AtomicU64,
    done: AtomicU64,
    /// Since when, and how much was there then.
    began: Mutex<Option<(Instant, u64)>>,
    fault: Mutex<Option<Fault>>,
}

/// Why a pull does not go on.
#[derive(Clone, Debug)]
struct Fault {
    reason: String,
    /// Whether it is tried again.
    waits: bool,
}

/// A moment of a pull.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Moment {
    /// `pulling`, `waiting` (it is tried again) or `failed`.
    pub state: &'static str,
    /// Size of the bundle; 0 until a holder has told.
    pub bytes: u64,
    /// Bytes that are here.
    pub bytes_done: u64,
    /// Bytes that came since the pull began, after what a crash had left.
    pub bytes_pulled: u64,
    /// Mean rate since then.
    pub bytes_per_second: u64,
    /// What went wrong last.
    pub error: Option<String>,
}

impl Progress {
    fn begin(&self, total: u64, done: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.done.store(done, Ordering::Relaxed);
        *self.began.lock().expect("no holder panics") = Some((Instant::now(), done));
        *self.fault.lock().expect("no holder panics") = None;
    }

    fn took(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    fn fail(&self, reason: String, waits: bool) {
        *self.fault.lock().expect("no holder panics") = Some(Fault { reason, waits });
    }

    fn has_failed(&self) -> bool {
        self.fault.lock().expect("no holder panics").as_ref().is_some_and(|fault| !fault.waits)
    }

    /// How far it is now.
    pub fn now(&self) -> Moment {
        let done = self.done.load(Ordering::Relaxed);
        let fault = self.fault.lock().expect("no holder panics").clone();
        let began = *self.began.lock().expect("no holder panics");
        let (pulled, rate) = began.map_or((0, 0), |(since, had)| {
            let pulled = done.saturating_sub(had);
            let ms = since.elapsed().as_millis().max(1);
            (pulled, u64::try_from(u128::from(pulled) * 1_000 / ms).unwrap_or(u64::MAX))
        });
        Moment {
            state: match &fault {
                None => "pulling",
                Some(Fault { waits: true, .. }) => "waiting",
                Some(_) => "failed",
            },
            bytes: self.total.load(Ordering::Relaxed),
            bytes_done: done,
            bytes_pulled: pulled,
            bytes_per_second: rate,
            error: fault.map(|fault| fault.reason),
        }
    }
}

impl Shelf {
    /// The store and the listing in the node's data folder.
    pub fn open(config: &Config) -> Result<Self, StartError> {
        let folder = &config.node.data_dir;
        let bytes_max = u64::from(config.node.bundles_gib_max) << 30;
        let store = Store::open(&folder.join("bundles"), bytes_max).map_err(|error| {
            let path = folder.join("bundles");
            StartError::file(&path)(std::io::Error::other(error.to_string()))
        })?;
        Ok(Self {
            store,
            listing: Mutex::new(Listing::read(folder)?),
            pulls: Mutex::default(),
            postponed: Mutex::default(),
            kept: Mutex::default(),
            unloaded: Mutex::default(),
            reads: Arc::new(Semaphore::new(CHUNK_READS_MAX)),
        })
    }

    /// The files.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Models to serve by digest, those of the config first, with how they are served.
    pub fn wanted(&self, config: &Config) -> Vec<(Model, Serving)> {
        let configured = config.models.iter().filter_map(|model| match model.source {
            ModelSource::Bundle(bundle) => {
                let (name, version) = (model.name.clone(), model.version.clone());
                Some((Model { name, version, bundle }, model.serving))
            }
            ModelSource::Path(_) => None,
        });
        let listed: Vec<Model> = self.listing().served().cloned().collect();
        configured.chain(listed.into_iter().map(|model| (model, Serving::default()))).collect()
    }

    /// What was pulled, added or is kept under a name.
    pub fn listed(&self) -> Vec<Model> {
        let listing = self.listing();
        listing.served().chain(listing.kept()).cloned().collect()
    }

    /// Every pull that is under way or has failed, as it is now.
    pub fn pulls(&self) -> Vec<(Model, Moment)> {
        let pulls = self.lock_pulls();
        pulls.values().map(|pull| (pull.model.clone(), pull.progress.now())).collect()
    }

    fn listing(&self) -> MutexGuard<'_, Listing> {
        self.listing.lock().expect("no holder panics")
    }

    fn lock_pulls(&self) -> MutexGuard<'_, BTreeMap<Digest, Pull>> {
        self.pulls.lock().expect("no holder panics")
    }
}

/// Work that blocks on the disk, beside the threads that carry the network.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        let source = std::io::Error::other(error.to_string());
        Err(StoreError::Io { path: Path::new("a file of the store").to_owned(), source })
    })
}

/// The runtime's word for a digest.
pub(crate) fn key(bundle: Digest) -> BundleDigest {
    BundleDigest(bundle.0)
}
