//! From the config's models and devices to engines and the advert's figures.

use std::collections::BTreeMap;
use std::sync::Arc;

use hansa_core::advert::Device;
use hansa_core::id::Digest;
use hansa_runtime::bundle::Bundle;
use hansa_runtime::cut::Stage;
use hansa_runtime::devices::{self, DeviceSpec, Devices};
use hansa_runtime::engine::EngineConfig;
use hansa_runtime::library::{Library, LibraryError};
use hansa_runtime::runtime::Runtime;

use crate::limits::{ADVERT_LOAD_STEP_PERCENT, ADVERT_MEMORY_STEPS, ENGINE_QUEUE_MAX};
use crate::node::{Hosted, Node, StageOf};
use crate::run::StartError;

/// What the engine actor owns: the devices, once ONNX Runtime is loaded.
pub type Owned = Option<Devices>;

/// Loads ONNX Runtime and every model of the config. A node that names neither models nor devices
/// may do without ONNX Runtime; it then advertises no device.
pub fn load(node: &Node) -> Result<(Owned, BTreeMap<Digest, Hosted>), StartError> {
    let config = &node.config;
    let needed = !config.models.is_empty() || config.runtime.devices != DeviceSpec::Auto;
    let library = match Library::find(&config.runtime.library) {
        Err(LibraryError::NotInstalled) if !needed => return Ok((None, BTreeMap::new())),
        other => other?,
    };
    let runtime = Runtime::load(&library)?;
    let devices = Devices::discover(&runtime);
    let chosen = devices.select(&config.runtime.devices)?;
    let mut engines = BTreeMap::new();
    let mut held_bytes: u64 = 0;
    for model in &config.models {
        let fault = |reason: String| StartError::Model { name: model.name.clone(), reason };
        let bundle = Bundle::open(&model.path).map_err(|error| fault(error.to_string()))?;
        let digest = Digest(bundle.digest.0);
        if let Some(Hosted { name, .. }) = engines.get(&digest) {
            return Err(fault(format!(
                "it is the same bundle as `{name}`; serve it under one name"
            )));
        }
        let stage = Stage::of(&bundle).map_err(|error| fault(error.to_string()))?;
        let stage = stage.map(|stage| stage_of(&stage)).transpose().map_err(fault)?;
        let engine_config = EngineConfig {
            instances: model.instances,
            threads: Some(config.runtime.threads).filter(|threads| *threads > 0),
            queue: ENGINE_QUEUE_MAX,
            ..EngineConfig::default()
        };
        let device = chosen.first().ok_or_else(|| fault("no device".into()))?;
        let bytes = bundle.manifest.bytes();
        held_bytes += bytes;
        if let Some(mib) = device.memory_limit_mib.filter(|mib| held_bytes > u64::from(*mib) << 20)
        {
            let needs = |bytes: u64| bytes.div_ceil(1 << 20);
            return Err(fault(format!(
                "it takes {} MiB, with the models before it {} MiB, and `memory_mib` of {device} is \
                 {mib}; give it more, or cut the model (`hansa models cut … --fit {mib}MiB,…`)",
                needs(bytes),
                needs(held_bytes)
            )));
        }
        let engine = runtime
            .engine(&bundle, device, &engine_config)
            .map_err(|error| fault(error.to_string()))?;
        tracing::info!(
            model = model.name, version = model.version, bundle = %digest, %device, "model loaded"
        );
        let hosted = Hosted {
            name: model.name.clone(),
            version: model.version.clone(),
            signature: Arc::new(engine.signature().clone()),
            engine: Arc::new(engine),
            stage: stage.map(Arc::new),
            reservations: Arc::default(),
        };
        engines.insert(digest, hosted);
    }
    Ok((Some(devices), engines))
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
    let Some(devices) = owned else { return Vec::new() };
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
