//! From the config's models and devices to engines and the advert's figures.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hansa_core::advert::Device;
use hansa_core::id::Digest;
use hansa_runtime::bundle::Bundle;
use hansa_runtime::cut::{Cut, CutError, Stage, Wanted, cut};
use hansa_runtime::devices::{self, DeviceSpec, Devices};
use hansa_runtime::engine::EngineConfig;
use hansa_runtime::library::{Library, LibraryError};
use hansa_runtime::runtime::Runtime;
use hansa_runtime::store::StoreError;

use crate::bundles::{Model, key};
use crate::config::{Hold, ModelSource, Serving};
use crate::limits::{ADVERT_LOAD_STEP_PERCENT, ADVERT_MEMORY_STEPS};
use crate::meters::ModelMeters;
use crate::node::{Hosted, Node, StageOf};
use crate::repository::Found;
use crate::run::StartError;

/// What the engine actor owns, once ONNX Runtime is loaded.
pub struct Loaded {
    runtime: Runtime,
    devices: Devices,
    /// What models run on.
    device: devices::Device,
}

impl Loaded {
    /// Cuts a model into stages.
    ///
    /// # Errors
    /// Why it cannot be cut so.
    pub fn cut(&self, bundle: &Bundle, wanted: &Wanted, out: &Path) -> Result<Cut, CutError> {
        cut(&self.runtime, bundle, wanted, out)
    }
}

/// Nothing, on a node that needed no ONNX Runtime yet.
pub type Owned = Option<Loaded>;

/// Loads ONNX Runtime and every model that is here: those of the config, and those of the store. A
/// node that names neither models nor devices may do without ONNX Runtime; it then advertises no
/// device.
///
/// # Errors
/// A model of the config that is at a path and does not load. One of the store that does not is
/// left to whoever sees to it that it comes back (see [`crate::bundles`]).
pub fn load(node: &Node) -> Result<(Owned, BTreeMap<Digest, Hosted>), StartError> {
    let config = &node.config;
    let mut stored = Vec::new();
    for (model, serving) in node.shelf.wanted(config) {
        match stored_bundle(node, model.bundle) {
            Ok(bundle) => stored.extend(bundle.map(|bundle| (model, serving, bundle))),
            Err(error) => tracing::warn!(model = model.name, %error, "not as it was stored"),
        }
    }
    let repository =
        node.repository.at_start(&config.repository).map_err(StartError::Repository)?;
    let paths = !repository.is_empty()
        || config.models.iter().any(|model| matches!(model.source, ModelSource::Path(_)));
    let needed = paths || !stored.is_empty() || config.runtime.devices != DeviceSpec::Auto;
    let mut owned = None;
    match open(node) {
        Err(StartError::Library(LibraryError::NotInstalled)) if !needed => {}
        other => owned = Some(other?),
    }
    let mut engines = BTreeMap::new();
    let Some(loaded) = &owned else { return Ok((owned, engines)) };
    for model in &config.models {
        let ModelSource::Path(path) = &model.source else { continue };
        let fault = |reason: String| StartError::Model { name: model.name.clone(), reason };
        let bundle = Bundle::open(path).map_err(|error| fault(error.to_string()))?;
        let bundle = Arc::new(bundle);
        let (name, version) = (model.name.clone(), model.version.clone());
        let served = Model { name, version, bundle: Digest(bundle.digest.0) };
        let held = engines.values().map(|hosted: &Hosted| hosted.bundle.manifest.bytes()).sum();
        let room = fits(loaded.device.memory_limit_mib, bundle.manifest.bytes(), held);
        if let (Hold::Demanded, Err(reason)) = (config.runtime.hold, room) {
            tracing::info!(model = served.name, reason, "kept for others, in stages if need be");
            node.shelf.postpone(served, path.clone());
            continue;
        }
        host(node, loaded, &mut engines, &served, model.serving, bundle).map_err(fault)?;
    }
    for found in repository {
        let hosted = host_found(node, loaded, &mut engines, &found);
        node.repository.started(found, hosted);
    }
    for (model, serving, bundle) in stored {
        let hosted = host(node, loaded, &mut engines, &model, serving, Arc::new(bundle));
        if let Err(reason) = hosted {
            tracing::error!(model = model.name, bundle = %model.bundle, reason, "does not load");
        }
    }
    Ok((owned, engines))
}

/// Serves a version of a model that lies in the repository's folder.
fn host_found(
    node: &Node,
    loaded: &Loaded,
    engines: &mut BTreeMap<Digest, Hosted>,
    found: &Found,
) -> Result<Digest, String> {
    let bundle = Arc::new(found.open()?);
    let (name, version) = (found.name.clone(), found.version.clone());
    let is_named = |own: &Hosted| (&own.name, &own.version) == (&name, &version);
    if engines.values().any(is_named) {
        return Err("a [[model]] of the config has this name and version".into());
    }
    let model = Model { name, version, bundle: Digest(bundle.digest.0) };
    host(node, loaded, engines, &model, found.serving, bundle)?;
    Ok(model.bundle)
}

/// Loads ONNX Runtime and finds what to compute with.
pub fn open(node: &Node) -> Result<Loaded, StartError> {
    let config = &node.config.runtime;
    let runtime = Runtime::load(&Library::find(&config.library)?)?;
    let devices = Devices::discover(&runtime);
    let chosen = devices.select(&config.devices)?;
    let device = chosen.into_iter().next().ok_or_else(|| StartError::Actor("no device".into()))?;
    Ok(Loaded { runtime, devices, device })
}

/// Makes an engine of a bundle and adds it to `engines`.
///
/// # Errors
/// Why it cannot be served, for people.
pub fn host(
    node: &Node,
    loaded: &Loaded,
    engines: &mut BTreeMap<Digest, Hosted>,
    model: &Model,
    serving: Serving,
    bundle: Arc<Bundle>,
) -> Result<(), String> {
    if let Some(Hosted { name, .. }) = engines.get(&model.bundle) {
        return Err(format!("it is the same bundle as `{name}`; serve it under one name"));
    }
    let threads = node.config.runtime.threads;
    let config = EngineConfig {
        instances: serving.instances,
        batching: serving.batching,
        threads: Some(threads).filter(|threads| *threads > 0),
        queue: serving.queue,
        ..EngineConfig::default()
    };
    let Loaded { runtime, device, .. } = loaded;
    let stage = Stage::of(&bundle).map_err(|error| error.to_string())?;
    let stage = stage.map(|stage| stage_of(&stage)).transpose()?;
    // One that this replaces is in memory until the jobs that mean it are done.
    let loaded_too = node.engines();
    let old = loaded_too.iter().filter(|(bundle, _)| !engines.contains_key(bundle));
    let held = engines.values().chain(old.map(|(_, hosted)| hosted));
    let held = held.map(|hosted| hosted.bundle.manifest.bytes()).sum::<u64>();
    fits(device.memory_limit_mib, bundle.manifest.bytes(), held)?;
    let engine = runtime.engine(&bundle, device, &config).map_err(|error| error.to_string())?;
    let Model { name, version, bundle: digest } = model;
    tracing::info!(model = name, version, bundle = %digest, %device, "model loaded");
    let mut signature = engine.signature().clone();
    signature.rows_max = serving.batching.max_rows.filter(|_| signature.has_rows_first());
    let hosted = Hosted {
        name: name.clone(),
        version: version.clone(),
        signature: Arc::new(signature),
        engine: Arc::new(engine),
        runtime: format!("onnxruntime {}", runtime.version()).into(),
        bundle,
        serving,
        stage: stage.map(Arc::new),
        meters: Arc::new(ModelMeters::of(name)),
        reservations: Arc::default(),
    };
    engines.insert(*digest, hosted);
    Ok(())
}

/// A bundle of the store, read anew: what lay on disk while nobody looked may have changed there,
/// and is then thrown away.
fn stored_bundle(node: &Node, digest: Digest) -> Result<Option<Bundle>, StoreError> {
    let store = node.shelf.store();
    let read = store.get(key(digest)).and_then(|bundle| {
        bundle.as_ref().map_or(Ok(()), Bundle::verify)?;
        Ok(bundle)
    });
    if read.is_err() {
        store.remove(key(digest))?;
    }
    read
}

impl Node {
    /// Whether a model of so many bytes fits beside those that this node runs.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn has_room(&self, bytes: u64) -> Result<(), String> {
        let held = self.engines().values().map(|hosted| hosted.bundle.manifest.bytes()).sum();
        fits(self.memory_limit_mib(), bytes, held)
    }

    /// What the config gives models of the device that they run on.
    pub(crate) fn memory_limit_mib(&self) -> Option<u32> {
        match &self.config.runtime.devices {
            DeviceSpec::List(devices) => devices.first().and_then(|device| device.memory_mib),
            DeviceSpec::Auto => None,
        }
    }
}

/// Whether a device that gives models so much memory has room for one more beside what it holds.
fn fits(limit_mib: Option<u32>, bytes: u64, held: u64) -> Result<(), String> {
    match limit_mib {
        Some(mib) if held + bytes > u64::from(mib) << 20 => Err(format!(
            "it takes {} MiB, with the models before it {} MiB, and the device's `memory_mib` is \
             {mib}; give it more, or cut the model (`hansa models cut … --fit {mib}MiB,…`)",
            bytes.div_ceil(1 << 20),
            (held + bytes).div_ceil(1 << 20),
        )),
        _ => Ok(()),
    }
}

/// Where a stage belongs, as its record says.
fn stage_of(stage: &Stage) -> Result<StageOf, String> {
    let odd = || "its stage.json names no digest, or more nodes than a model may have".to_owned();
    let node = |number: usize| u32::try_from(number).map_err(|_| odd());
    Ok(StageOf {
        whole: stage.whole.parse().map_err(|_| odd())?,
        from: node(stage.from)?,
        to: node(stage.to)?,
        of: node(stage.of)?,
        signature: Arc::new(stage.signature.clone()),
    })
}

/// The machine's devices as they are at this moment.
pub fn read_devices(owned: &mut Owned) -> Vec<Device> {
    let Some(Loaded { devices, .. }) = owned else { return Vec::new() };
    devices.refresh();
    devices.list().iter().cloned().map(advertised).collect()
}

fn advertised(device: devices::Device) -> Device {
    Device {
        provider: device.provider.to_string(),
        name: device.name,
        id: device.id,
        memory_total_mib: device.memory_total_mib,
        memory_free_mib: device.memory_free_mib,
        utilisation_percent: device.utilisation_percent,
    }
}

/// A device as an advert tells it: in steps, so that the mesh hears only of what matters.
pub fn coarse(device: &Device) -> Device {
    let step = (device.memory_total_mib / ADVERT_MEMORY_STEPS).max(1);
    let percent = |busy: u8| {
        (busy + ADVERT_LOAD_STEP_PERCENT / 2) / ADVERT_LOAD_STEP_PERCENT * ADVERT_LOAD_STEP_PERCENT
    };
    Device {
        memory_free_mib: device.memory_free_mib / step * step,
        utilisation_percent: device.utilisation_percent.map(percent),
        ..device.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mesh_hears_of_devices_in_steps() {
        let device = |free, busy| Device {
            provider: "cpu".into(),
            name: "x".into(),
            id: 0,
            memory_total_mib: 1_000,
            memory_free_mib: free,
            utilisation_percent: Some(busy),
        };
        assert_eq!(coarse(&device(590, 40)), coarse(&device(510, 60)));
        assert_ne!(coarse(&device(590, 40)), coarse(&device(490, 40)));
        assert_ne!(coarse(&device(590, 40)), coarse(&device(590, 100)));
    }
}
