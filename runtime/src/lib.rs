//! ONNX Runtime behind a small border: devices, bundles, sessions. Knows no peers.

pub mod tensor;
