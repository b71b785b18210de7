//! Type and shape of every tensor inside a graph, as ONNX Runtime infers them.
//!
//! It is asked with a skeleton: the same graph whose tensors are all outputs and whose large weights
//! are inputs, so that no weight is read. Operators that demand their weights as constants make it
//! refuse the skeleton; then the graph with its weights is asked.

use std::collections::BTreeMap;

use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{Outlet, ValueType};

use super::CutError;
use super::graph::{Graph, field};
use crate::bundle::Bundle;
use crate::protobuf::Message;
use crate::runtime::Runtime;
use crate::session::{EXTERNAL_FOLDER, LoadError};
use crate::tensor::{DType, Signature, TensorSpec};
use crate::values;

/// Weights of more bytes are no part of the skeleton; smaller ones may decide shapes.
const SKELETON_WEIGHT_BYTES_MAX: u64 = 4 * 1024;
/// Marks the outputs of the skeleton that tell the rank of a tensor.
const RANK_SUFFIX: &str = "/hansa_rank";

/// A dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Dim {
    Fixed(u64),
    /// Any; under its name, if it has one.
    Any(String),
}

/// What a tensor is known to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Type {
    pub(super) dtype: DType,
    pub(super) dims: Vec<Dim>,
}

/// What is known of a graph's tensors.
#[derive(Debug, Default)]
pub(super) struct Types {
    /// Tensors made inside; those that are missing are no tensors that can travel.
    pub(super) inner: BTreeMap<String, Type>,
    /// What the whole takes and gives.
    pub(super) signature: Signature,
}

impl Types {
    /// Asks for the tensors `named`, and for what the whole takes and gives.
    pub(super) fn infer(
        runtime: &Runtime,
        bundle: &Bundle,
        graph: &Graph<'_>,
        named: &[&str],
    ) -> Result<Self, CutError> {
        let ask = |named: &[&str], ranks_of: &[&str]| {
            let session = |is_whole| {
                let model = skeleton(graph, named, ranks_of, is_whole);
                load(runtime, bundle, &model)
            };
            session(false).or_else(|skeleton| {
                tracing::debug!(%skeleton, "asking with the weights");
                session(true)
            })
        };
        let session = ask(named, &[]).map_err(|error| CutError::Refused(error.to_string()))?;
        let mut inner = BTreeMap::new();
        for outlet in session.outputs().iter().filter(|outlet| named.contains(&outlet.name())) {
            if let Some(found) = read(outlet) {
                inner.insert(outlet.name().to_owned(), found);
            }
        }
        let outputs = specs(&session, false, &graph.outputs)?;
        let inputs = specs(&session, true, &graph.inputs)?;
        let signature = Signature::declared(bundle, inputs, outputs).map_err(LoadError::from)?;
        drop(session);
        // Without dimensions a tensor is a number, or of any rank.
        let flat: Vec<&str> = named
            .iter()
            .copied()
            .filter(|name| inner.get(*name).is_some_and(|found| found.dims.is_empty()))
            .collect();
        if !flat.is_empty() {
            let session = ask(&[], &flat).map_err(|error| CutError::Refused(error.to_string()))?;
            let is_number = |name: &str| {
                let rank = format!("{name}{RANK_SUFFIX}");
                let outlet = session.outputs().iter().find(|outlet| outlet.name() == rank);
                let shape = outlet.and_then(|outlet| outlet.dtype().tensor_shape());
                shape.is_some_and(|shape| shape.len() == 1 && shape[0] == 0)
            };
            inner.retain(|name, found| !found.dims.is_empty() || is_number(name));
        }
        Ok(Self { inner, signature })
    }
}

fn load(runtime: &Runtime, bundle: &Bundle, model: &[u8]) -> ort::Result<Session> {
    Session::builder(runtime.environment())?
        .with_optimization_level(GraphOptimizationLevel::Disable)?
        .with_intra_threads(1)?
        .with_config_entry(EXTERNAL_FOLDER, bundle.dir().to_string_lossy())?
        .with_config_entry("session.load_model_format", "ONNX")?
        .with_config_entry("session.disable_prepacking", "1")?
        .commit_from_memory(model)
}

/// The graph with all `named` tensors as outputs, and the shapes of `ranks_of`.
fn skeleton(graph: &Graph<'_>, named: &[&str], ranks_of: &[&str], is_whole: bool) -> Vec<u8> {
    let mut message = Message::default();
    message.bytes(field::GRAPH_NAME, "skeleton");
    for node in &graph.nodes {
        message.bytes(field::GRAPH_NODE, node.raw);
    }
    for (name, weight) in &graph.weights {
        if weight.is_sparse {
            message.bytes(field::GRAPH_SPARSE, weight.raw);
        } else if is_whole || weight.bytes <= SKELETON_WEIGHT_BYTES_MAX {
            message.bytes(field::GRAPH_INITIALIZER, weight.raw);
        } else {
            let dims = weight.dims.iter().map(|dim| Dim::Fixed(*dim)).collect::<Vec<_>>();
            message.bytes(field::GRAPH_INPUT, value_info(name, weight.dtype, &dims));
        }
    }
    for (_, input) in &graph.inputs {
        message.bytes(field::GRAPH_INPUT, input);
    }
    for (_, output) in &graph.outputs {
        message.bytes(field::GRAPH_OUTPUT, output);
    }
    let is_output = |name: &str| graph.outputs.iter().any(|(output, _)| *output == name);
    for name in named.iter().filter(|name| !is_output(name)) {
        message.bytes(field::GRAPH_OUTPUT, nameless(name));
    }
    for name in ranks_of {
        let rank = format!("{name}{RANK_SUFFIX}");
        let mut node = Message::default();
        node.bytes(1, name);
        node.bytes(2, &rank);
        node.bytes(4, "Shape");
        message.bytes(field::GRAPH_NODE, node.into_bytes());
        message.bytes(field::GRAPH_OUTPUT, nameless(&rank));
    }
    graph.model(message)
}

/// An output whose type is for ONNX Runtime to find.
fn nameless(name: &str) -> Vec<u8> {
    let mut info = Message::default();
    info.bytes(1, name);
    info.into_bytes()
}

/// A `ValueInfoProto` of a tensor.
pub(super) fn value_info(name: &str, dtype: u64, dims: &[Dim]) -> Vec<u8> {
    let mut shape = Message::default();
    for dim in dims {
        let mut encoded = Message::default();
        match dim {
            Dim::Fixed(size) => encoded.varint(1, *size),
            Dim::Any(name) if name.is_empty() => {}
            Dim::Any(name) => encoded.bytes(2, name),
        }
        shape.bytes(1, encoded.into_bytes());
    }
    let mut tensor = Message::default();
    tensor.varint(1, dtype);
    tensor.bytes(2, shape.into_bytes());
    let mut kind = Message::default();
    kind.bytes(1, tensor.into_bytes());
    let mut info = Message::default();
    info.bytes(1, name);
    info.bytes(2, kind.into_bytes());
    info.into_bytes()
}

fn read(outlet: &Outlet) -> Option<Type> {
    let ValueType::Tensor { ty, shape, dimension_symbols } = outlet.dtype() else { return None };
    let symbols = dimension_symbols.iter().map(String::as_str).chain(std::iter::repeat(""));
    let dim = |(size, symbol): (&i64, &str)| {
        u64::try_from(*size).map_or_else(|_| Dim::Any(symbol.to_owned()), Dim::Fixed)
    };
    Some(Type { dtype: values::dtype(*ty)?, dims: shape.iter().zip(symbols).map(dim).collect() })
}

fn specs(
    session: &Session,
    is_input: bool,
    named: &[(&str, &[u8])],
) -> Result<Vec<TensorSpec>, CutError> {
    let outlets = if is_input { session.inputs() } else { session.outputs() };
    named
        .iter()
        .map(|(name, _)| {
            let outlet = outlets.iter().find(|outlet| outlet.name() == *name);
            let spec = outlet.and_then(values::spec);
            spec.ok_or_else(|| CutError::NoTensor((*name).to_owned()))
        })
        .collect()
}
