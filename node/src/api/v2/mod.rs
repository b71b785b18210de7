//! The Open Inference Protocol v2 with the binary tensor extension, as pure functions between
//! bytes and tensors. No sockets, no node.

mod config;
mod demand;
mod elements;
mod error;
mod request;
mod response;
#[cfg(test)]
mod tests;

use hansa_core::plan::Resolved;
use hansa_runtime::tensor::Signature;
use serde_json::{Value, json};

pub use config::{dims, model_config};
pub use demand::demand;
pub use error::ApiError;
pub use request::{InferRequest, parse_infer, raw_input};
pub(super) use request::{check_bytes, count};
pub use response::{Head, Rendered, check_wanted, json_bytes, render_infer, tensor_json};

/// The header that says how much of a body is JSON.
pub const JSON_LENGTH: &str = "inference-header-content-length";

/// What `GET /v2` answers.
pub fn server_metadata() -> Value {
    json!({
        "name": "hansa",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": [
            "binary_tensor_data", "classification", "generate", "logging", "model_configuration",
            "model_repository", "sequence", "statistics", "system_shared_memory", "trace",
        ],
    })
}

/// What `GET /v2/models/NAME` answers: the app's own name for the model, and what it means now.
pub fn model_metadata(name: &str, resolved: &Resolved, signature: &Signature) -> Value {
    json!({
        "name": name,
        "versions": [resolved.version],
        "platform": "onnxruntime_onnx",
        "inputs": signature.inputs,
        "outputs": signature.outputs,
        "parameters": { "bundle": resolved.bundle },
    })
}
