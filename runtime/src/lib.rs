//! ONNX Runtime behind a small border: devices, bundles, sessions. Knows no peers.
//!
//! [`library`] finds or fetches the shared library, [`runtime`] loads it, [`devices`] says what
//! there is to compute with, [`bundle`] puts a model's files under one digest, [`store`] keeps those
//! that travelled, [`scan`] refuses those that ONNX Runtime should never see, and an [`engine`] runs
//! the rest, jobs in the order of [`mod@line`] and together as [`batch`] says. [`mod@cut`] makes stages of a
//! model. [`tensor`] and [`mod@check`] are what travels and whether it fits, and [`text`] makes both of
//! what people write.

pub mod batch;
pub mod bundle;
pub mod cache;
pub mod check;
mod cost;
pub mod cut;
mod declared;
pub mod devices;
pub mod engine;
pub mod floats;
mod hashing;
mod instance;
pub mod labels;
pub mod library;
mod likeness;
pub mod limits;
pub mod line;
pub mod loops;
mod machine;
pub mod manifest;
pub mod models;
mod nvml;
mod pip;
mod protobuf;
mod queue;
pub mod ragged;
pub mod rows;
pub mod runtime;
pub mod scan;
mod separable;
pub mod sequence;
mod session;
mod sharing;
pub mod states;
pub mod store;
mod strings;
pub mod tensor;
pub mod text;
mod turns;
mod values;
pub mod wheel;

pub use declared::DeclaredError;
pub use queue::Load;
pub use session::LoadError;
