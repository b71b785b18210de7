//! ONNX Runtime, loaded: one library and one environment a process.

use std::ffi::CStr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;

use crate::bundle::Bundle;
use crate::devices::Device;
use crate::engine::{Engine, EngineConfig};
use crate::library::{Library, LibraryError};
use crate::session::LoadError;

/// A handle on the loaded library; cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    environment: Environment,
    library: Library,
    version: String,
}

/// The first version with the known ways out of a model file closed.
const TRUSTWORTHY: &str = "1.30.1";

/// ort allows one environment in the life of a process, so it is never dropped.
static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

impl Runtime {
    /// Loads the library, once: a second call gives the same runtime, or an error if it names
    /// another file.
    pub fn load(library: &Library) -> Result<Self, LibraryError> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*loaded {
            return if runtime.inner.library == *library {
                Ok(runtime.clone())
            } else {
                Err(LibraryError::AlreadyLoaded { path: runtime.library().path.clone() })
            };
        }
        let failed = |said: String| LibraryError::Load { path: library.path.clone(), said };
        let environment = ort::init_from(&library.path)
            .map_err(|error| failed(error.to_string()))?
            .with_name("hansa")
            .with_telemetry(false)
            .with_logger(Arc::new(log))
            .build()
            .map_err(|error| failed(error.to_string()))?;
        environment.set_log_level(LogLevel::Warning);
        let version = version(&library.path).unwrap_or("unknown".to_owned());
        tracing::info!(version, path = %library.path.display(), "ONNX Runtime loaded");
        if is_old(&version) {
            tracing::warn!(version, "load models of strangers with {TRUSTWORTHY} or later only");
        }
        let inner = Arc::new(Inner { environment, library: library.clone(), version });
        Ok(loaded.insert(Self { inner }).clone())
    }

    /// Scans a bundle and loads it onto a device, `config.instances` times. Takes as long as ONNX
    /// Runtime does: call it where blocking is allowed.
    pub fn engine(
        &self,
        bundle: &Bundle,
        device: &Device,
        config: &EngineConfig,
    ) -> Result<Engine, LoadError> {
        Engine::open(self, bundle, device, config)
    }

    /// The library in use.
    pub fn library(&self) -> &Library {
        &self.inner.library
    }

    /// ONNX Runtime's version, `1.31.1`.
    pub fn version(&self) -> &str {
        &self.inner.version
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.inner.environment
    }

    /// Makes the devices of a provider library known to ONNX Runtime.
    pub(crate) fn register(&self, name: &str, path: &Path) -> Result<(), String> {
        let registered = self.inner.environment.register_ep_library(name, path);
        registered.map_err(|error| error.to_string())
    }
}

/// The version that the library says it has; ort reads it, too, but does not tell.
#[allow(unsafe_code, reason = "ort has no call for it")]
fn version(path: &Path) -> Option<String> {
    // SAFETY: the library is loaded already and stays so; these are its documented entry point and
    // a string of static life.
    unsafe {
        let library = libloading::Library::new(path).ok()?;
        let base: libloading::Symbol<'_, unsafe extern "C" fn() -> *const ort::sys::OrtApiBase> =
            library.get(b"OrtGetApiBase").ok()?;
        let version = ((*base()).GetVersionString)();
        CStr::from_ptr(version).to_str().ok().map(str::to_owned)
    }
}

/// Whether a version is older than [`TRUSTWORTHY`].
fn is_old(version: &str) -> bool {
    let numbers = |version: &str| -> Vec<u32> {
        version.split('.').map_while(|number| number.parse().ok()).collect()
    };
    numbers(version) < numbers(TRUSTWORTHY)
}

/// Whoever loads a model or submits a job hears of its failure as an error, so ONNX Runtime's own
/// word is detail; said louder, it would let a stranger's bad inputs fill the log.
fn log(level: LogLevel, category: &str, id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Fatal => {
            tracing::error!(target: "onnxruntime", category, id, location, "{message}");
        }
        LogLevel::Error | LogLevel::Warning => {
            tracing::debug!(target: "onnxruntime", category, id, location, "{message}");
        }
        LogLevel::Info | LogLevel::Verbose => {
            tracing::trace!(target: "onnxruntime", category, id, location, "{message}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(is_old("1.24.0") && is_old("1.9.9") && is_old("1.30.0"));
        assert!(!is_old("1.30.1") && !is_old("1.31.1") && !is_old("2.0.0"));
    }
}
