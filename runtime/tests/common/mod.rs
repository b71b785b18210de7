//! What the tests share: the loaded runtime, and ONNX files.
#![allow(dead_code, unreachable_pub, reason = "each test file takes what it needs")]

pub mod onnx;

use std::path::Path;
use std::sync::OnceLock;

use bytes::Bytes;
use hansa_runtime::bundle::Bundle;
use hansa_runtime::devices::{Device, DeviceSpec, Devices, Provider, Wanted};
use hansa_runtime::engine::{Engine, EngineConfig, Request};
use hansa_runtime::library::install;
use hansa_runtime::runtime::Runtime;
use hansa_runtime::tensor::{DType, Tensor};
use hansa_runtime::wheel::Progress;

#[allow(unused_imports, reason = "each test file takes what it needs")]
pub use onnx::*;

/// The runtime of this process; fetches ONNX Runtime if nobody has yet.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let library = install(false, Progress::Stderr).expect("ONNX Runtime is installed");
        Runtime::load(&library).expect("ONNX Runtime loads")
    })
}

pub fn cpu() -> Device {
    let wanted = Wanted { provider: Provider::Cpu, id: 0, memory_mib: None };
    let devices = Devices::discover(runtime());
    devices.select(&DeviceSpec::List(vec![wanted])).expect("a CPU is there").remove(0)
}

pub fn engine(path: &Path, config: &EngineConfig) -> Engine {
    let bundle = Bundle::open(path).expect("a bundle");
    runtime().engine(&bundle, &cpu(), config).expect("the model loads")
}

pub fn tensor(name: &str, dtype: DType, shape: &[u64], data: impl Into<Bytes>) -> Tensor {
    Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), data: data.into() }
}

pub fn request(inputs: Vec<Tensor>) -> Request {
    Request { inputs, outputs: Vec::new(), deadline: None, priority: 0 }
}

pub fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub fn to_f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

pub fn count(to: i64) -> Request {
    request(vec![tensor("count", DType::Int64, &[], to.to_le_bytes().to_vec())])
}
