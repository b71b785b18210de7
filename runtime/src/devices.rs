//! What a node can compute with: providers as ONNX Runtime lists them, names, memory and load as
//! the system and NVML measure them, and the choice that `[runtime] devices` makes among them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::machine::{CpuMeter, cpu_name, memory};
use crate::nvml::Gpus;
use crate::runtime::Runtime;

/// An execution provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The machine's own cores.
    Cpu,
    /// NVIDIA's GPUs.
    Cuda,
}

impl Provider {
    /// ONNX Runtime's name of it.
    pub fn onnxruntime_name(self) -> &'static str {
        match self {
            Self::Cpu => "CPUExecutionProvider",
            Self::Cuda => "CUDAExecutionProvider",
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

/// A device, as it was when last looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// What runs on it.
    pub provider: Provider,
    /// Index among the provider's devices.
    pub id: u32,
    /// The vendor's name.
    pub name: String,
    /// Memory in all, in MiB; 0 where nothing says.
    pub memory_total_mib: u32,
    /// Memory free, in MiB; 0 where nothing says.
    pub memory_free_mib: u32,
    /// Busy share in percent; absent where nothing measures it.
    pub utilisation_percent: Option<u8>,
    /// What ONNX Runtime may take of it, in MiB, for each instance; absent for all. Held on CUDA
    /// only: ONNX Runtime has no such bound for the CPU, where it is a word to the planner.
    pub memory_limit_mib: Option<u32>,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} ({})", self.provider, self.id, self.name)
    }
}

/// What `[runtime] devices` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceSpec {
    /// Whatever is there, GPUs first.
    Auto,
    /// These, in this order.
    List(Vec<Wanted>),
}

/// One device asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Its provider.
    pub provider: Provider,
    /// Index among the provider's devices.
    #[serde(default)]
    pub id: u32,
    /// What ONNX Runtime may take of its memory, in MiB.
    #[serde(default)]
    pub memory_mib: Option<u32>,
}

/// Why a device that was asked for is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// CUDA, but the library is the one without.
    #[error(
        "cuda is asked for, but this ONNX Runtime has no CUDA provider beside it: run `hansa onnxruntime install --gpu`; found only {found}"
    )]
    NoCudaLibrary {
        /// What is there.
        found: String,
    },
    /// CUDA, but its provider does not load.
    #[error(
        "cuda is asked for, but ONNX Runtime's CUDA provider does not load ({said}); it needs CUDA 13 and cuDNN 9: install NVIDIA's packages, or `pip install onnxruntime-gpu[cuda,cudnn]` and name their folders in LD_LIBRARY_PATH; found only {found}"
    )]
    CudaUnusable {
        /// What ONNX Runtime said.
        said: String,
        /// What is there.
        found: String,
    },
    /// CUDA, but no driver.
    #[error("cuda is asked for, but no NVIDIA driver answers on this machine; found only {found}")]
    NoDriver {
        /// What is there.
        found: String,
    },
    /// No device of that index.
    #[error("there is no device {provider}:{id}; found only {found}")]
    NoDevice {
        /// As asked for.
        provider: Provider,
        /// As asked for.
        id: u32,
        /// What is there.
        found: String,
    },
    /// Less memory than asked for.
    #[error("{device} has {total_mib} MiB, and {wanted_mib} MiB are asked for")]
    Memory {
        /// The device.
        device: String,
        /// What it has.
        total_mib: u32,
        /// As asked for.
        wanted_mib: u32,
    },
    /// An empty list.
    #[error("`[runtime] devices` is empty; name one, or say \"auto\"")]
    Empty,
}

/// Why there are no CUDA devices, if there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cuda {
    Usable,
    NoLibrary,
    NoDriver,
    Unusable(String),
}

/// The devices of this machine that the loaded ONNX Runtime can use.
#[derive(Debug)]
pub struct Devices {
    list: Vec<Device>,
    cuda: Cuda,
    gpus: Option<Gpus>,
    meter: CpuMeter,
}

impl Devices {
    /// Looks for them. ONNX Runtime's CUDA provider is loaded only where there is a driver.
    pub fn discover(runtime: &Runtime) -> Self {
        let gpus = Gpus::open();
        let cuda = match (runtime.library().cuda_provider(), &gpus) {
            (None, _) => Cuda::NoLibrary,
            (Some(_), None) => Cuda::NoDriver,
            (Some(path), Some(_)) => {
                match runtime.register(Provider::Cuda.onnxruntime_name(), &path) {
                    Ok(()) => Cuda::Usable,
                    Err(said) => Cuda::Unusable(said),
                }
            }
        };
        let listed: Vec<&str> =
            runtime.environment().devices().filter_map(|device| device.ep().ok()).collect();
        tracing::debug!(?listed, ?cuda, "ONNX Runtime's devices");
        let mut devices = Self { list: Vec::new(), cuda, gpus, meter: CpuMeter::default() };
        if let (Cuda::Usable, Some(gpus)) = (&devices.cuda, &devices.gpus) {
            // Where ONNX Runtime's own list lacks them (it reads sysfs, which containers may
            // hide) NVML's word is taken: the provider itself has loaded.
            devices.list.extend(gpus.devices());
        }
        if listed.contains(&Provider::Cpu.onnxruntime_name()) {
            devices.list.push(Device {
                provider: Provider::Cpu,
                id: 0,
                name: cpu_name(),
                memory_total_mib: 0,
                memory_free_mib: 0,
                utilisation_percent: None,
                memory_limit_mib: None,
            });
        }
        devices.refresh();
        devices
    }

    /// All of them, best first, as they were when last looked at.
    pub fn list(&self) -> &[Device] {
        &self.list
    }

    /// Looks again at memory and load. Microseconds; no device is added or removed.
    pub fn refresh(&mut self) {
        for device in &mut self.list {
            match device.provider {
                Provider::Cpu => {
                    (device.memory_total_mib, device.memory_free_mib) = memory();
                    device.utilisation_percent = self.meter.percent();
                }
                Provider::Cuda => {
                    if let Some(gpus) = &self.gpus {
                        gpus.refresh(device);
                    }
                }
            }
        }
    }

    /// The devices that the operator asks for, or what to do about those that are not there.
    pub fn select(&self, spec: &DeviceSpec) -> Result<Vec<Device>, DeviceError> {
        select(&self.list, &self.cuda, spec)
    }
}

fn select(list: &[Device], cuda: &Cuda, spec: &DeviceSpec) -> Result<Vec<Device>, DeviceError> {
    let wanted = match spec {
        DeviceSpec::Auto => return Ok(list.to_vec()),
        DeviceSpec::List(wanted) if wanted.is_empty() => return Err(DeviceError::Empty),
        DeviceSpec::List(wanted) => wanted,
    };
    let names: Vec<String> = list.iter().map(Device::to_string).collect();
    let found = || names.join(", ");
    let choose = |wanted: &Wanted| {
        let Wanted { provider, id, memory_mib } = *wanted;
        match (provider, cuda) {
            (Provider::Cpu, _) | (Provider::Cuda, Cuda::Usable) => {}
            (_, Cuda::NoLibrary) => return Err(DeviceError::NoCudaLibrary { found: found() }),
            (_, Cuda::NoDriver) => return Err(DeviceError::NoDriver { found: found() }),
            (_, Cuda::Unusable(said)) => {
                return Err(DeviceError::CudaUnusable { said: said.clone(), found: found() });
            }
        }
        let device = list.iter().find(|device| device.provider == provider && device.id == id);
        let Some(device) = device else {
            return Err(DeviceError::NoDevice { provider, id, found: found() });
        };
        if let Some(wanted_mib) = memory_mib
            && device.memory_total_mib > 0
            && wanted_mib > device.memory_total_mib
        {
            let (device, total_mib) = (device.to_string(), device.memory_total_mib);
            return Err(DeviceError::Memory { device, total_mib, wanted_mib });
        }
        Ok(Device { memory_limit_mib: memory_mib, ..device.clone() })
    };
    wanted.iter().map(choose).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(provider: Provider, id: u32) -> Device {
        Device {
            provider,
            id,
            name: "a device".to_owned(),
            memory_total_mib: 1_000,
            memory_free_mib: 500,
            utilisation_percent: None,
            memory_limit_mib: None,
        }
    }

    fn wanted(provider: Provider, id: u32, memory_mib: Option<u32>) -> DeviceSpec {
        DeviceSpec::List(vec![Wanted { provider, id, memory_mib }])
    }

    #[test]
    fn cuda_without_its_library_says_what_to_run() {
        let cpu = [device(Provider::Cpu, 0)];
        let error = select(&cpu, &Cuda::NoLibrary, &wanted(Provider::Cuda, 0, None)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("hansa onnxruntime install --gpu"), "{text}");
        assert!(text.contains("found only cpu:0"), "{text}");
    }

    #[test]
    fn a_device_is_chosen_with_its_memory_limit() {
        let all = [device(Provider::Cuda, 0), device(Provider::Cuda, 1), device(Provider::Cpu, 0)];
        let spec = wanted(Provider::Cuda, 1, Some(800));
        let chosen = select(&all, &Cuda::Usable, &spec).unwrap();
        assert_eq!(chosen, [Device { memory_limit_mib: Some(800), ..all[1].clone() }]);
        assert_eq!(select(&all, &Cuda::Usable, &DeviceSpec::Auto).unwrap(), all);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let all = [device(Provider::Cuda, 0), device(Provider::Cpu, 0)];
        let refused = |spec| select(&all, &Cuda::Usable, &spec).unwrap_err();
        assert!(matches!(
            refused(wanted(Provider::Cuda, 4, None)),
            DeviceError::NoDevice { id: 4, .. }
        ));
        assert!(matches!(
            refused(wanted(Provider::Cuda, 0, Some(1_001))),
            DeviceError::Memory { .. }
        ));
        assert_eq!(refused(DeviceSpec::List(Vec::new())), DeviceError::Empty);
    }
}
