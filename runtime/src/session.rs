//! A bundle becomes sessions of ONNX Runtime: scanned, loaded onto a device, its signature read.

use std::sync::Arc;

use ort::ErrorCode;
use ort::ep;
use ort::session::Session;
use ort::session::builder::{PrepackedWeights, SessionBuilder};
use ort::value::{DynValue, Outlet};

use crate::bundle::{Bundle, BundleError};
use crate::cut::plain_weights;
use crate::declared::DeclaredError;
use crate::devices::{Device, Provider};
use crate::limits::{SHARED_WEIGHT_BYTES_MIN, TENSORS_MAX};
use crate::runtime::Runtime;
use crate::scan::{ScanError, scan};
use crate::tensor::{DType, Signature, TensorSpec};
use crate::values;

/// Where ONNX Runtime looks for external data of a model that it is given as bytes.
pub(crate) const EXTERNAL_FOLDER: &str = "session.model_external_initializers_file_folder_path";

/// How ONNX Runtime reads the bytes.
const MODEL_FORMAT: &str = "session.load_model_format";

/// Why a model is not served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its files are not what they were.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The scan refused it.
    #[error("{path}: {source}", path = path.display())]
    Scan {
        /// The ONNX file.
        path: std::path::PathBuf,
        /// Why.
        source: ScanError,
    },
    /// ONNX Runtime does not know one of its operators, or not in this version or type.
    #[error("{path} uses an operator that this ONNX Runtime does not have: {said}", path = path.display())]
    Operator {
        /// The ONNX file.
        path: std::path::PathBuf,
        /// ONNX Runtime's word.
        said: String,
    },
    /// ONNX Runtime refuses the graph.
    #[error("ONNX Runtime refuses {path}: {said}", path = path.display())]
    Model {
        /// The ONNX file.
        path: std::path::PathBuf,
        /// ONNX Runtime's word.
        said: String,
    },
    /// The device cannot be used.
    #[error("device {device} cannot be used: {said}")]
    Device {
        /// Provider and index.
        device: String,
        /// What is wrong.
        said: String,
    },
    /// An input or output that no tensor can be.
    #[error("{path}: `{name}` is of type {kind}, and only tensors of the Open Inference Protocol's datatypes can be served", path = path.display())]
    Signature {
        /// The ONNX file.
        path: std::path::PathBuf,
        /// The input or output.
        name: String,
        /// ONNX Runtime's name of its type.
        kind: String,
    },
    /// What its bundle declares is not understood, or not about this model.
    #[error(transparent)]
    Declared(#[from] DeclaredError),
    /// An option is out of range.
    #[error("{what} is {value}; it must be 1 to {limit}")]
    Config {
        /// The option.
        what: &'static str,
        /// As given.
        value: usize,
        /// The most.
        limit: usize,
    },
    /// The system gives no more threads.
    #[error("no thread for an instance: {0}")]
    Thread(std::io::Error),
}

/// A bundle's ONNX file, scanned: the bytes that sessions are made from.
pub(crate) struct Model<'a> {
    bundle: &'a Bundle,
    bytes: Vec<u8>,
}

/// What the sessions of one model have in common: its weights, as they are and as ONNX Runtime packs
/// them for its kernels. Without it each session has both for itself.
pub(crate) struct Weights {
    plain: Vec<(String, Arc<DynValue>)>,
    packed: PrepackedWeights,
}

impl<'a> Model<'a> {
    pub(crate) fn read(bundle: &'a Bundle) -> Result<Self, LoadError> {
        let bytes = bundle.read_model()?;
        // Plain names only: files in folders of the bundle cannot be external data.
        let files = bundle.manifest.files.iter();
        let files = files.map(|(path, entry)| (path.as_str(), entry.bytes)).collect();
        let path = || bundle.model_path();
        let scanned = scan(&bytes, &files);
        let seen = scanned.map_err(|source| LoadError::Scan { path: path(), source })?;
        tracing::debug!(digest = %bundle.digest, nodes = seen.nodes, "model scanned");
        Ok(Self { bundle, bytes })
    }

    /// The ONNX file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The weights, for sessions on this device to share. Those in external data are mapped, and so
    /// shared by the system.
    pub(crate) fn weights(&self, device: &Device) -> Weights {
        let mut plain = Vec::new();
        // ONNX Runtime takes a weight that it is given where it lies, which must be where it is used.
        if device.provider == Provider::Cpu {
            for (name, dtype, dims, elements) in plain_weights(&self.bytes) {
                let dtype = u8::try_from(dtype).ok().and_then(DType::from_onnx_code);
                let (Some(dtype), SHARED_WEIGHT_BYTES_MIN..) = (dtype, elements.len()) else {
                    continue;
                };
                let value = values::weight(dtype, &dims, elements);
                plain.extend(value.map(|value| (name.to_owned(), Arc::new(value))));
            }
        }
        Weights { plain, packed: PrepackedWeights::new() }
    }

    pub(crate) fn session(
        &self,
        runtime: &Runtime,
        device: &Device,
        threads: usize,
        shared: Option<&Weights>,
    ) -> Result<Session, LoadError> {
        let options = self.options(runtime, device, threads, shared);
        let mut options = options.map_err(|error| LoadError::Device {
            device: device.to_string(),
            said: error.to_string(),
        })?;
        options.commit_from_memory(&self.bytes).map_err(|error| {
            let (path, said) = (self.bundle.model_path(), error.to_string());
            match error.code() {
                ErrorCode::NotImplemented => LoadError::Operator { path, said },
                ErrorCode::ExecutionProviderFailure => {
                    LoadError::Device { device: device.to_string(), said }
                }
                // An operator that no schema knows comes as a failure like any other.
                _ if said.contains("No Op registered for") => LoadError::Operator { path, said },
                _ => LoadError::Model { path, said },
            }
        })
    }

    fn options(
        &self,
        runtime: &Runtime,
        device: &Device,
        threads: usize,
        shared: Option<&Weights>,
    ) -> ort::Result<SessionBuilder> {
        let folder = self.bundle.dir().to_string_lossy();
        let mut options = Session::builder(runtime.environment())?
            .with_intra_threads(threads)?
            .with_inter_threads(1)?
            // A node that waits must not burn a core.
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?
            // One pattern is kept for every combination of input shapes that ever came, without
            // bound: apps choose shapes, so an app could fill the memory.
            .with_memory_pattern(false)?
            .with_config_entry(EXTERNAL_FOLDER, folder)?
            // Never by what the bytes look like: the scan read them as ONNX.
            .with_config_entry(MODEL_FORMAT, "ONNX")?;
        if let Some(Weights { plain, packed }) = shared {
            options = options.with_prepacked_weights(packed)?;
            for (name, value) in plain {
                options = options.with_initializer(name, Arc::clone(value))?;
            }
        }
        let cpu = ep::CPU::default().with_arena_allocator(true).build();
        let providers = match device.provider {
            Provider::Cpu => vec![cpu],
            Provider::Cuda => {
                let id = i32::try_from(device.id).unwrap_or(i32::MAX);
                let mut cuda = ep::CUDA::default().with_device_id(id);
                if let Some(mib) = device.memory_limit_mib {
                    cuda = cuda.with_memory_limit(mib as usize * 1024 * 1024);
                }
                // Never a silent fall back to the CPU.
                vec![cuda.build().error_on_failure(), cpu]
            }
        };
        Ok(options.with_execution_providers(providers)?)
    }

    pub(crate) fn signature(&self, session: &Session) -> Result<Signature, LoadError> {
        let specs = |outlets: &[Outlet]| -> Result<Vec<TensorSpec>, LoadError> {
            outlets.iter().map(|outlet| self.spec(outlet)).collect()
        };
        let (inputs, outputs) = (specs(session.inputs())?, specs(session.outputs())?);
        let signature = Signature::declared(self.bundle, inputs, outputs)?;
        for tensors in [&signature.inputs, &signature.outputs] {
            if tensors.len() > TENSORS_MAX {
                let what = "the number of the model's inputs or outputs";
                return Err(LoadError::Config { what, value: tensors.len(), limit: TENSORS_MAX });
            }
        }
        Ok(signature)
    }

    fn spec(&self, outlet: &Outlet) -> Result<TensorSpec, LoadError> {
        values::spec(outlet).ok_or_else(|| LoadError::Signature {
            path: self.bundle.model_path(),
            name: outlet.name().to_owned(),
            kind: outlet.dtype().to_string(),
        })
    }
}
