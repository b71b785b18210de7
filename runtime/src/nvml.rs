//! NVIDIA's GPUs as the driver's own library measures them; none where there is no driver.

use std::env;
use std::ffi::OsStr;

use nvml_wrapper::Nvml;

use crate::devices::{Device, Provider};
use crate::machine::mib;

/// The driver's library. Machines that only run programs have the versioned name alone.
const LIBRARY: &str = if cfg!(windows) { "nvml.dll" } else { "libnvidia-ml.so.1" };

/// The GPUs, numbered as CUDA numbers them for this process. NVML numbers by bus, CUDA by speed
/// unless `CUDA_DEVICE_ORDER=PCI_BUS_ID` is set: that matters only where GPUs differ.
#[derive(Debug)]
pub(crate) struct Gpus {
    nvml: Nvml,
    /// CUDA's index to NVML's.
    visible: Vec<u32>,
}

impl Gpus {
    /// Asks the driver; `None` where there is none or it shows no GPU.
    pub(crate) fn open() -> Option<Self> {
        let opened = Nvml::builder().lib_path(OsStr::new(LIBRARY)).init();
        let nvml = opened.inspect_err(|error| tracing::debug!(%error, "no NVML")).ok()?;
        let count = nvml.device_count().ok()?;
        let uuids: Vec<String> = (0..count)
            .map(|index| nvml.device_by_index(index).and_then(|gpu| gpu.uuid()).unwrap_or_default())
            .collect();
        let visible = visible(env::var("CUDA_VISIBLE_DEVICES").ok().as_deref(), &uuids);
        (!visible.is_empty()).then_some(Self { nvml, visible })
    }

    /// One device a GPU, best effort where the driver withholds something.
    pub(crate) fn devices(&self) -> Vec<Device> {
        let device = |(id, index): (u32, &u32)| {
            let name = self.nvml.device_by_index(*index).and_then(|gpu| gpu.name());
            Device {
                provider: Provider::Cuda,
                id,
                name: name.unwrap_or_else(|_| "NVIDIA GPU".to_owned()),
                memory_total_mib: 0,
                memory_free_mib: 0,
                utilisation_percent: None,
                memory_limit_mib: None,
            }
        };
        (0..).zip(&self.visible).map(device).collect()
    }

    /// Looks again at memory and load.
    pub(crate) fn refresh(&self, device: &mut Device) {
        let index = self.visible.get(device.id as usize);
        let Some(gpu) = index.and_then(|index| self.nvml.device_by_index(*index).ok()) else {
            return;
        };
        if let Ok(memory) = gpu.memory_info() {
            device.memory_total_mib = mib(memory.total);
            device.memory_free_mib = mib(memory.free);
        }
        let used = gpu.utilization_rates().ok();
        device.utilisation_percent = used.and_then(|used| u8::try_from(used.gpu).ok());
    }
}

/// What `CUDA_VISIBLE_DEVICES` leaves, in its order: indices or prefixes of UUIDs, up to the first
/// that is neither (CUDA's rule).
fn visible(var: Option<&str>, uuids: &[String]) -> Vec<u32> {
    let all = 0..u32::try_from(uuids.len()).unwrap_or(u32::MAX);
    let Some(var) = var else { return all.collect() };
    let find = |word: &str| match word.parse::<u32>() {
        Ok(index) => all.contains(&index).then_some(index),
        Err(_) if word.is_empty() => None,
        Err(_) => all.clone().zip(uuids).find(|(_, uuid)| uuid.starts_with(word)).map(|gpu| gpu.0),
    };
    var.split(',').map(str::trim).map_while(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuda_visible_devices_hides_and_reorders() {
        let uuids = ["GPU-aa".to_owned(), "GPU-bb".to_owned(), "GPU-bc".to_owned()];
        assert_eq!(visible(None, &uuids), [0, 1, 2]);
        assert_eq!(visible(Some("2,0"), &uuids), [2, 0]);
        assert_eq!(visible(Some("GPU-bc, GPU-aa"), &uuids), [2, 0]);
        assert_eq!(visible(Some("1,7,0"), &uuids), [1]);
        assert!(visible(Some(""), &uuids).is_empty());
        assert!(visible(Some("-1"), &uuids).is_empty());
    }
}
