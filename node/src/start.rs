//! From a config to a node that can be started: keys, law, planes, the advert.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use hansa_core::advert::{Advert, Model, Stage, Version};
use hansa_core::charter::CharterFault;
use hansa_core::flight::RetryBudget;
use hansa_core::keys::SigningKey;
use hansa_core::loads::Loads;
use hansa_core::placement::Placement;
use hansa_core::price::Rates;
use hansa_core::time::Utc;
use hansa_core::view::View;
use hansa_net::control::{ControlConfig, ControlEvent, ControlHandle, ControlPlane};
use hansa_net::data::{Call, DataLimits, DataPlane};
use metrics_exporter_prometheus::PrometheusHandle;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::task::TaskTracker;

use crate::answers::Answers;
use crate::audit::keeper::Keeper;
use crate::bundles::Shelf;
use crate::clock::Clock;
use crate::config::{Config, Receipts};
use crate::law::Law;
use crate::limits::LISTENERS_MAX;
use crate::models;
use crate::node::Node;
use crate::run::StartError;

/// Where a running node says under which addresses it can be reached: `addresses.json` in its
/// data folder, with `peer_id`, `http`, `grpc` (null if there is none), `control` and `data`.
const ADDRESSES: &str = "addresses.json";

impl Node {
    /// A node that is not started. Reads its key and charter.
    pub fn new(config: Config, metrics: PrometheusHandle) -> Result<Arc<Self>, StartError> {
        let seed = config.identity.key_file.identity()?;
        let key = Arc::new(SigningKey::from_seed(&seed));
        let me = key.peer_id();
        let trust = Arc::new(config.trust());
        let charter_note = match &config.identity.charter_file {
            Some(path) => Some(std::fs::read_to_string(path).map_err(StartError::file(path))?),
            None => None,
        };
        let charter = match &charter_note {
            Some(note) => trust.verify(note, me),
            None => Err(CharterFault::Absent),
        };
        match &charter {
            Ok(charter) => tracing::info!(
                location = %charter.location, control = %charter.control,
                operator = charter.operator, serial = charter.serial, "charter"
            ),
            Err(fault) => tracing::info!(%fault, "jobs run on this node alone, unconstrained"),
        }
        let audit = match (&charter, &charter_note, config.audit.receipts) {
            (Ok(_), Some(note), Receipts::Batched | Receipts::Each) => {
                Some(Keeper::open(&config.audit, &seed, note)?)
            }
            _ => None,
        };
        let clock = Clock::start();
        let utc = clock.now().utc;
        let law = Law::new(&config, &trust, charter_note, charter, audit.is_some(), utc);
        Ok(Arc::new(Self {
            audit,
            groups_digest: config.groups.digest(),
            key,
            seed,
            me,
            trust,
            law,
            serve: config.policy.serve.clone(),
            placement: Mutex::new(Placement::new(config.policy.serve.clone())),
            send: config.policy.send.clone(),
            rates: Rates::of(config.price.as_ref()),
            groups: config.groups.clone(),
            shelf: Shelf::open(&config)?,
            repository: Default::default(),
            answers: Answers::new(u64::from(config.runtime.cache_mib) << 20),
            config,
            clock,
            tasks: TaskTracker::new(),
            draining: watch::Sender::new(false),
            metrics,
            relays: Default::default(),
            view: ArcSwap::from_pointee(View::new(me, Vec::new())),
            loads: Mutex::new(Loads::new()),
            meters: Default::default(),
            statistics: Default::default(),
            regions: Default::default(),
            settings: Default::default(),
            sequences: Default::default(),
            aside: Default::default(),
            budget: Mutex::new(RetryBudget::default()),
            engines: ArcSwap::from_pointee(BTreeMap::new()),
            retired: Default::default(),
            devices: ArcSwap::from_pointee(Vec::new()),
            signatures: Mutex::new(BTreeMap::new()),
            texts: Default::default(),
            labels: Default::default(),
            data: ArcSwapOption::empty(),
            peer: ArcSwapOption::empty(),
            engine: ArcSwapOption::empty(),
            http: OnceLock::new(),
            grpc: OnceLock::new(),
            gathers: Default::default(),
            listeners: Arc::new(Semaphore::new(LISTENERS_MAX)),
        }))
    }

    /// Opens the control plane.
    pub async fn open_control(
        &self,
    ) -> Result<(ControlHandle, mpsc::Receiver<ControlEvent>), StartError> {
        let mesh = &self.config.mesh;
        let config = ControlConfig {
            listen: vec![mesh.listen.clone()],
            bootstrap: mesh.bootstrap.clone(),
            mdns: mesh.mdns,
            external: mesh.external.clone(),
        };
        Ok(ControlPlane::start(&self.seed, config).await?)
    }

    /// Opens the data plane.
    pub fn open_data(&self) -> Result<(DataPlane, mpsc::Receiver<Call>), StartError> {
        let addr = self.config.mesh.data_listen;
        Ok(DataPlane::bind(&self.seed, addr, DataLimits::default())?)
    }

    /// Where others reach the data plane: as configured, then as bound; loopback only when nothing
    /// is configured. Behind a NAT those that are bound still serve peers on this side of it.
    fn data_addrs(&self, control: &ControlHandle, data: &DataPlane) -> Vec<SocketAddr> {
        let mesh = &self.config.mesh;
        let external = &mesh.data_external;
        let is_far = !external.is_empty() || self.is_behind_nat(control);
        let mut addrs = data.addrs(control);
        addrs.retain(|addr| !is_far || !addr.ip().is_loopback());
        addrs.splice(..0, external.iter().copied());
        addrs
    }

    /// Where others reach the control plane; nowhere, if they cannot: the directory then names
    /// relays.
    fn control_addrs(&self, control: &ControlHandle) -> Vec<String> {
        if self.is_behind_nat(control) { Vec::new() } else { control.addrs() }
    }

    /// As configured; else what peers see of it decides, unless it says where it is seen.
    fn is_behind_nat(&self, control: &ControlHandle) -> bool {
        let mesh = &self.config.mesh;
        mesh.behind_nat.unwrap_or_else(|| mesh.external.is_empty() && control.is_translated())
    }

    /// What this node says of itself now. Peer, version and date are the directory's to fill in.
    pub fn advert(&self, control: &ControlHandle, data: &DataPlane) -> Advert {
        let mut data_addrs = self.data_addrs(control, data);
        data_addrs.truncate(hansa_core::limits::ADVERT_ADDRS_MAX);
        let mut control_addrs = self.control_addrs(control);
        control_addrs.truncate(hansa_core::limits::ADVERT_ADDRS_MAX);
        let mut models: Vec<Model> = Vec::new();
        let mut stages: Vec<Stage> = Vec::new();
        for (bundle, hosted) in &*self.engines() {
            let load = hosted.engine.load();
            let slots = u16::try_from(load.instances).unwrap_or(u16::MAX);
            let service_us = coarse(load.service);
            if let Some(of) = &hosted.stage {
                stages.push(Stage {
                    name: hosted.name.clone(),
                    version: hosted.version.clone(),
                    whole: of.whole,
                    bundle: *bundle,
                    from: of.from,
                    to: of.to,
                    of: of.of,
                    slots,
                    service_us,
                });
                continue;
            }
            models.push(Model {
                name: hosted.name.clone(),
                version: hosted.version.clone(),
                bundle: *bundle,
                slots,
                service_us,
            });
        }
        let mut advert = Advert {
            peer: self.me,
            version: Version::default(),
            issued: Utc::default(),
            name: self.config.node.name.clone(),
            control_addrs,
            data_addrs,
            relays: Vec::new(),
            coordinate: Default::default(),
            charter: self.law.note().map(|note| note.to_string()),
            devices: self.devices().iter().map(models::coarse).collect(),
            models,
            price: self.config.price.clone(),
            extensions: Vec::new(),
        };
        advert.offer_stages(&stages);
        advert.promise(self.law.terms());
        advert.supply(&self.supply());
        advert.tell(self.placement().told());
        advert
    }

    /// The TLS of `[api] tls`, if it is configured.
    pub fn tls_config(&self) -> Result<Option<Arc<rustls::ServerConfig>>, StartError> {
        let Some(tls) = &self.config.api.tls else { return Ok(None) };
        let fault = |what: String| StartError::Tls(what);
        let chain = std::fs::read(&tls.cert)
            .map_err(|error| fault(format!("{}: {error}", tls.cert.display())))?;
        let chain = CertificateDer::pem_slice_iter(&chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| fault(format!("{}: {error}", tls.cert.display())))?;
        let key = tls.key.read().map_err(|error| fault(error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|error| fault(format!("{}: {error}", tls.key)))?;
        // Two providers are linked, so one is named.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| fault(error.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Some(Arc::new(config)))
    }

    /// The address of `[api] http`, or the one that was bound: a restart keeps the port.
    pub fn http_address(&self) -> SocketAddr {
        self.http.get().copied().unwrap_or(self.config.api.http)
    }

    /// Set by the API when it is bound.
    pub fn set_http(&self, addr: SocketAddr) {
        let _ = self.http.set(addr);
    }

    /// The same of `[api] grpc`.
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.grpc.get().copied().or(self.config.api.grpc)
    }

    /// Set by the API when it is bound.
    pub fn set_grpc(&self, addr: SocketAddr) {
        let _ = self.grpc.set(addr);
    }

    /// Tells those who started this node on ports that the system picked where it listens.
    pub fn write_addresses(&self, control: &ControlHandle) -> Result<(), StartError> {
        let folder = &self.config.node.data_dir;
        std::fs::create_dir_all(folder).map_err(StartError::file(folder))?;
        let addr = |addr: String| format!("{addr}/p2p/{}", self.me);
        let scheme = if self.config.api.tls.is_some() { "https" } else { "http" };
        let addresses = json!({
            "peer_id": self.me,
            "http": format!("{scheme}://{}", self.http_address()),
            "grpc": self.grpc_address(),
            "control": self.control_addrs(control).into_iter().map(addr).collect::<Vec<_>>(),
            "data": self.data().map(|data| self.data_addrs(control, &data)),
        });
        let path = folder.join(ADDRESSES);
        let draft = folder.join("addresses.draft");
        // Whole or not at all: somebody may be waiting to read it.
        std::fs::write(&draft, addresses.to_string()).map_err(StartError::file(&draft))?;
        std::fs::rename(&draft, &path).map_err(StartError::file(&path))
    }

    /// The node stops: what it said of its addresses is no longer true.
    pub fn remove_addresses(&self) {
        let _ = std::fs::remove_file(self.config.node.data_dir.join(ADDRESSES));
    }
}

/// A service time in µs, rounded up to a power of two, so that an advert changes only when it
/// matters.
fn coarse(service: Option<std::time::Duration>) -> u32 {
    let us = service.map_or(0, |service| u32::try_from(service.as_micros()).unwrap_or(u32::MAX));
    if us == 0 { 0 } else { us.checked_next_power_of_two().unwrap_or(u32::MAX) }
}
