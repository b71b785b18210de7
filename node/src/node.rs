//! What the parts of one running node share: its identity and law, the latest view, what it has
//! measured, the engines it runs. Actors write it, jobs read it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use hansa_core::advert::Device;
use hansa_core::charter::Trust;
use hansa_core::flight::RetryBudget;
use hansa_core::id::{Digest, JobId, PeerId};
use hansa_core::keys::SigningKey;
use hansa_core::loads::Loads;
use hansa_core::place::Groups;
use hansa_core::placement::Placement;
use hansa_core::plan::Refusal;
use hansa_core::policy::Bounds;
use hansa_core::price::Rates;
use hansa_core::quote::{Load, Quote, Reservations};
use hansa_core::time::Mono;
use hansa_core::view::View;
use hansa_net::data::DataPlane;
use hansa_runtime::bundle::Bundle;
use hansa_runtime::cut::Cut;
use hansa_runtime::engine::Engine;
use hansa_runtime::labels::Labels;
use hansa_runtime::tensor::Signature;
use hansa_runtime::text::Text;
use metrics_exporter_prometheus::PrometheusHandle;
use ractor::ActorRef;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::actors::engine::EngineMessage;
use crate::actors::peer::PeerMessage;
use crate::answers::Answers;
use crate::api::aside::Aside;
use crate::api::regions::Regions;
use crate::api::sequences::Sequences;
use crate::api::settings::Settings;
use crate::api::statistics::Statistics;
use crate::audit::keeper::Keeper;
use crate::bundles::{Kept, Model, Shelf};
use crate::clock::Clock;
use crate::config::{Config, Serving};
use crate::jobs::Gathers;
use crate::law::Law;
use crate::limits::{RETIRED_FOR, SIGNATURES_MAX, TOLD_WITHIN};
use crate::meters::{Meters, ModelMeters};
use crate::random;
use crate::repository::Repository;

/// How often it is looked whether the view tells of a change.
const TOLD_LOOK: Duration = Duration::from_millis(2);

/// A model that this node serves.
#[derive(Clone)]
pub struct Hosted {
    /// What apps call it.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The sessions that run it.
    pub engine: Arc<Engine>,
    /// The runtime that they are of, and its version: `onnxruntime 1.31.1`.
    pub runtime: Arc<str>,
    /// How it is served.
    pub serving: Serving,
    /// Its files.
    pub bundle: Arc<Bundle>,
    /// What it takes and gives.
    pub signature: Arc<Signature>,
    /// Which stretch of a model it is, if it is a stage.
    pub stage: Option<Arc<StageOf>>,
    /// Its metrics.
    pub meters: Arc<ModelMeters>,
    /// Places kept for jobs that asked for a quote.
    pub reservations: Arc<Mutex<Reservations>>,
}

/// Where in a whole model a stage belongs.
#[derive(Clone, Debug)]
pub struct StageOf {
    /// Digest of the whole's bundle.
    pub whole: Digest,
    /// First node of the whole that it has.
    pub from: u32,
    /// First node that it has no more.
    pub to: u32,
    /// Nodes of the whole.
    pub of: u32,
    /// What the whole takes and gives.
    pub signature: Arc<Signature>,
}

impl Hosted {
    /// How soon a job of so many rows could run here; keeps a place for it for a moment.
    pub fn quote(&self, now: Mono, job: JobId, rtt: Duration, rows: u32) -> Quote {
        let load = self.engine.load();
        // The others are assumed to be like this one.
        let service = load.service.unwrap_or_default().saturating_mul(rows.max(1));
        let load = Load {
            in_flight: u32::try_from(load.queued + load.running).unwrap_or(u32::MAX),
            slots: u16::try_from(load.instances).unwrap_or(u16::MAX),
            hold: service,
            first: service,
        };
        self.reservations().quote(now, job, rtt, load)
    }

    /// The job is here, or will not come.
    pub fn release(&self, job: JobId) {
        self.reservations().release(job);
    }

    fn reservations(&self) -> MutexGuard<'_, Reservations> {
        self.reservations.lock().expect("no holder panics")
    }
}

/// The running node.
pub struct Node {
    /// What the operator wrote.
    pub config: Config,
    /// The node's key.
    pub key: Arc<SigningKey>,
    /// Its seed, for the transports' certificates.
    pub seed: [u8; 32],
    /// Its id: the key's public half.
    pub me: PeerId,
    /// The authorities that it trusts.
    pub trust: Arc<Trust>,
    /// Its own standing, and what authorities revoked.
    pub law: Law,
    /// Whom it serves.
    pub serve: Bounds,
    /// Where it sends.
    pub send: Bounds,
    /// What it asks for its work, if it asks anything.
    pub rates: Option<Rates>,
    /// Groups of places that requests may name.
    pub groups: Groups,
    /// Their digest.
    pub groups_digest: Digest,
    /// Its log of receipts, if it keeps any.
    pub audit: Option<Keeper>,
    /// Clocks.
    pub clock: Clock,
    /// Jobs in progress, of apps and of peers.
    pub tasks: TaskTracker,
    /// Set once, when the node stops taking jobs.
    pub draining: watch::Sender<bool>,
    /// Where metrics are read.
    pub metrics: PrometheusHandle,
    /// Metrics of requests.
    pub meters: Meters,
    /// What became of requests, by model.
    pub statistics: Statistics,
    /// Shared memory that apps of this machine registered.
    pub regions: Regions,
    /// What is traced and logged.
    pub settings: Settings,
    /// Sequences of requests that are under way here.
    pub sequences: Arc<Sequences>,
    pub(crate) aside: Aside,
    pub(crate) view: ArcSwap<View>,
    /// Who relays to this node.
    pub(crate) relays: ArcSwap<BTreeSet<PeerId>>,
    pub(crate) loads: Mutex<Loads>,
    pub(crate) budget: Mutex<RetryBudget>,
    pub(crate) engines: ArcSwap<BTreeMap<Digest, Hosted>>,
    /// What was served until just now.
    pub(crate) retired: Mutex<BTreeMap<Digest, Hosted>>,
    pub(crate) devices: ArcSwap<Vec<Device>>,
    pub(crate) signatures: Mutex<BTreeMap<Digest, Arc<Signature>>>,
    /// How bundles take text, as far as anybody asked.
    pub(crate) texts: Kept<Text>,
    /// What their classes are called.
    pub(crate) labels: Kept<Labels>,
    pub(crate) data: ArcSwapOption<DataPlane>,
    pub(crate) peer: ArcSwapOption<ActorRef<PeerMessage>>,
    pub(crate) engine: ArcSwapOption<ActorRef<EngineMessage>>,
    pub(crate) shelf: Shelf,
    pub(crate) answers: Answers,
    /// The folder of models, if there is one.
    pub repository: Repository,
    pub(crate) http: OnceLock<SocketAddr>,
    pub(crate) grpc: OnceLock<SocketAddr>,
    pub(crate) gathers: Gathers,
    /// Places for those who listen to events.
    pub(crate) listeners: Arc<Semaphore>,
    pub(crate) placement: Mutex<Placement>,
}

impl Node {
    /// The latest snapshot.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Makes `view` the one that jobs plan against.
    pub fn publish_view(&self, view: Arc<View>) {
        metrics::gauge!("hansa_peers").set(view.entries().len() as f64);
        self.law.learn(&view);
        self.view.store(view);
    }

    /// What this node has measured of others; held for moments only.
    pub fn loads(&self) -> MutexGuard<'_, Loads> {
        self.loads.lock().expect("no holder panics")
    }

    /// What is left for retries; held for moments only.
    pub fn budget(&self) -> MutexGuard<'_, RetryBudget> {
        self.budget.lock().expect("no holder panics")
    }

    /// The engine of a bundle, if this node serves it.
    pub fn hosted(&self, bundle: Digest) -> Option<Hosted> {
        self.engines.load().get(&bundle).cloned()
    }

    /// The engine that a job may run on: the bundle is served, or was until just now.
    pub fn able(&self, bundle: Digest) -> Option<Hosted> {
        self.hosted(bundle).or_else(|| self.retired().get(&bundle).cloned())
    }

    /// Whether a bundle may run here though a plan that knew less ended in this refusal: it was served
    /// until just now, or is from just now on and this node's own view does not say so yet.
    pub fn is_ahead_of_plan(&self, bundle: Digest, refusal: &Refusal) -> bool {
        if self.hosted(bundle).is_some() {
            return matches!(refusal, Refusal::UnknownModel { .. });
        }
        self.retired().contains_key(&bundle)
    }

    fn retired(&self) -> MutexGuard<'_, BTreeMap<Digest, Hosted>> {
        self.retired.lock().expect("no holder panics")
    }

    /// Lets jobs that mean an engine which is served no more run on it, for a while. It ends with the
    /// last of them.
    pub(crate) fn retire(self: &Arc<Self>, bundle: Digest, hosted: Hosted) {
        let engine = Arc::downgrade(&hosted.engine);
        self.retired().insert(bundle, hosted);
        let node = Arc::clone(self);
        tokio::spawn(async move {
            node.until_told(bundle, false).await;
            tokio::time::sleep(RETIRED_FOR).await;
            let mut retired = node.retired();
            // Meanwhile it may have been served anew, and retired again.
            if retired.get(&bundle).is_some_and(|own| Arc::as_ptr(&own.engine) == engine.as_ptr()) {
                retired.remove(&bundle);
            }
        });
    }

    /// Waits until this node's own jobs know that it serves a bundle, or does not any more.
    async fn until_told(&self, bundle: Digest, is_served: bool) {
        let deadline = Instant::now() + TOLD_WITHIN;
        let is_told = || {
            let view = self.view();
            let Some(own) = view.get(self.me) else { return !is_served };
            let models = own.record.advert.models.iter().map(|model| model.bundle);
            let mut served = models.chain(own.record.stages.iter().map(|stage| stage.bundle));
            served.any(|served| served == bundle) == is_served
        };
        while !is_told() && Instant::now() < deadline {
            tokio::time::sleep(TOLD_LOOK).await;
        }
    }

    /// All that this node runs.
    pub fn engines(&self) -> Arc<BTreeMap<Digest, Hosted>> {
        self.engines.load_full()
    }

    /// Replaces what this node runs, and tells the mesh.
    pub fn set_engines(&self, engines: BTreeMap<Digest, Hosted>) {
        self.engines.store(Arc::new(engines));
        self.tell_peer(PeerMessage::Refresh);
    }

    /// Replaces what this node computes with, and tells the mesh.
    pub fn set_devices(&self, devices: Vec<Device>) {
        self.devices.store(Arc::new(devices));
        self.tell_peer(PeerMessage::Refresh);
    }

    /// What this node computes with.
    pub fn devices(&self) -> Arc<Vec<Device>> {
        self.devices.load_full()
    }

    /// The data plane, unless it is being restarted.
    pub fn data(&self) -> Option<Arc<DataPlane>> {
        self.data.load_full()
    }

    /// Set by the actor that owns the endpoint.
    pub fn set_data(&self, data: Option<DataPlane>) {
        self.data.store(data.map(Arc::new));
    }

    /// Set by the actor that owns the directory.
    pub fn set_peer(&self, peer: Option<ActorRef<PeerMessage>>) {
        self.peer.store(peer.map(Arc::new));
    }

    /// The actor that owns the directory, unless it is being restarted.
    pub fn peer(&self) -> Option<Arc<ActorRef<PeerMessage>>> {
        self.peer.load_full()
    }

    /// Set by the actor that owns the engines.
    pub fn set_engine(&self, engine: Option<ActorRef<EngineMessage>>) {
        self.engine.store(engine.map(Arc::new));
    }

    /// Makes an engine of a bundle, which is then served.
    ///
    /// # Errors
    /// Why it cannot be served, for people.
    pub async fn host(
        &self,
        model: Model,
        serving: Serving,
        bundle: Arc<Bundle>,
    ) -> Result<(), String> {
        self.replace(model, serving, bundle, Vec::new()).await
    }

    /// The same, in place of others: there is no moment at which neither is served. Once it returns,
    /// jobs find it.
    ///
    /// # Errors
    /// Why it cannot be served, for people; the others then are as they were.
    pub async fn replace(
        &self,
        model: Model,
        serving: Serving,
        bundle: Arc<Bundle>,
        replaced: Vec<Digest>,
    ) -> Result<(), String> {
        let digest = model.bundle;
        let engine = self.engine.load_full().ok_or("the engines are being restarted; try again")?;
        let host = |reply| EngineMessage::Host { model, serving, bundle, replaced, reply };
        ractor::call!(engine, host).map_err(|error| error.to_string())??;
        self.until_told(digest, true).await;
        Ok(())
    }

    /// Cuts a model into stages that fit so many bytes each, in the folder `out`.
    ///
    /// # Errors
    /// Why it cannot be cut so, for people.
    pub async fn cut(
        &self,
        bundle: Arc<Bundle>,
        fit: Vec<u64>,
        out: PathBuf,
    ) -> Result<Cut, String> {
        let engine = self.engine.load_full().ok_or("the engines are being restarted")?;
        let cut = |reply| EngineMessage::Cut { bundle, fit, out, reply };
        ractor::call!(engine, cut).map_err(|error| error.to_string())?
    }

    /// Serves a bundle no more. Jobs that are on their way to it are answered; once this returns, no
    /// new one goes there.
    pub async fn unhost(&self, bundle: Digest) {
        if let Some(engine) = self.engine.load_full() {
            let _ = ractor::call!(engine, |reply| EngineMessage::Unhost { bundle, reply });
            self.until_told(bundle, false).await;
        }
    }

    /// Tells the directory's actor; a restarting one reads the node's state anew anyway.
    pub fn tell_peer(&self, message: PeerMessage) {
        if let Some(peer) = self.peer() {
            let _ = peer.cast(message);
        }
    }

    /// A kept signature of another peer's bundle.
    pub fn signature(&self, bundle: Digest) -> Option<Arc<Signature>> {
        self.signatures.lock().expect("no holder panics").get(&bundle).cloned()
    }

    /// Keeps a signature. Digests name content, so an entry never goes stale; a full cache starts
    /// over.
    pub fn keep_signature(&self, bundle: Digest, signature: Arc<Signature>) {
        let mut kept = self.signatures.lock().expect("no holder panics");
        if kept.len() >= SIGNATURES_MAX {
            kept.clear();
        }
        kept.insert(bundle, signature);
    }

    /// Brings gauges up to date that nothing else counts.
    pub fn record_gauges(&self) {
        metrics::gauge!("hansa_jobs_in_progress").set(self.tasks.len() as f64);
        if let Some(data) = self.data() {
            metrics::gauge!("hansa_tunnels").set(data.tunnels() as f64);
        }
        for hosted in self.engines().values() {
            let load = hosted.engine.load();
            let model = hosted.name.clone();
            metrics::gauge!("hansa_engine_running", "model" => model.clone())
                .set(load.running as f64);
            metrics::gauge!("hansa_engine_queued", "model" => model).set(load.queued as f64);
        }
        for device in &*self.devices() {
            let labels = [("provider", device.provider.clone()), ("id", device.id.to_string())];
            let free = f64::from(device.memory_free_mib) * 1_048_576.0;
            metrics::gauge!("hansa_device_memory_free_bytes", &labels).set(free);
        }
    }

    /// Whether the node takes no more jobs.
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// A fresh job's id.
    pub fn draw_job(&self) -> JobId {
        JobId(self.draw())
    }

    /// A seed for a generator that need not be secret.
    pub fn draw_seed(&self) -> u64 {
        u64::from_le_bytes(self.draw())
    }

    /// Random bytes.
    pub fn draw<const N: usize>(&self) -> [u8; N] {
        random::draw()
    }
}
