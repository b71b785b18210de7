//! A model's graph as cutting sees it: which node makes and which node takes which tensor, and the
//! encoding of everything, so that a stage is put together from the whole's own bytes.
//!
//! Nothing is decoded that cutting need not understand: fields of later ONNX versions survive.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::protobuf::{Fields, Value, WireError, packed};

use super::CutError;

/// A field of a message as it was read.
pub(super) type Field<'a> = (u32, Value<'a>);

/// Numbers of the fields of ONNX's messages that cutting reads
/// (<https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>).
pub(super) mod field {
    pub(in super::super) const MODEL_IR_VERSION: u32 = 1;
    pub(in super::super) const MODEL_GRAPH: u32 = 7;
    pub(in super::super) const MODEL_METADATA: u32 = 14;
    pub(in super::super) const MODEL_TRAINING: u32 = 20;
    pub(in super::super) const GRAPH_NODE: u32 = 1;
    pub(in super::super) const GRAPH_NAME: u32 = 2;
    pub(in super::super) const GRAPH_INITIALIZER: u32 = 5;
    pub(in super::super) const GRAPH_INPUT: u32 = 11;
    pub(in super::super) const GRAPH_OUTPUT: u32 = 12;
    pub(in super::super) const GRAPH_VALUE_INFO: u32 = 13;
    pub(in super::super) const GRAPH_QUANTIZATION: u32 = 14;
    pub(in super::super) const GRAPH_SPARSE: u32 = 15;
    pub(in super::super) const TENSOR_RAW: u32 = 9;
    pub(in super::super) const TENSOR_EXTERNAL: u32 = 13;
    pub(in super::super) const TENSOR_LOCATION: u32 = 14;
}

/// A node.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub(super) raw: &'a [u8],
    pub(super) operator: &'a str,
    /// What it takes, names that its subgraphs take from outside included; each once.
    pub(super) inputs: Vec<&'a str>,
    pub(super) outputs: Vec<&'a str>,
    /// Nodes inside its subgraphs: what is inside costs, and is not seen.
    pub(super) inner: usize,
}

/// A weight.
#[derive(Debug)]
pub(super) struct Weight<'a> {
    pub(super) raw: &'a [u8],
    pub(super) is_sparse: bool,
    pub(super) dtype: u64,
    pub(super) dims: Vec<u64>,
    /// What it takes in memory.
    pub(super) bytes: u64,
    pub(super) data: Data<'a>,
}

/// Where the elements of a weight are.
#[derive(Debug)]
pub(super) enum Data<'a> {
    /// In the `raw_data` field.
    Raw(&'a [u8]),
    /// In a file beside the model.
    External { file: &'a str, offset: u64, length: Option<u64> },
    /// In typed fields, or sparse.
    Inline,
}

/// Weights of a model that the scan has let through whose elements lie in the file as they lie in
/// memory: name, `TensorProto.DataType`, dimensions, elements. None of a graph that is odd.
pub(crate) fn plain_weights(model: &[u8]) -> Vec<(&str, u64, Vec<u64>, &[u8])> {
    let of = |message, number| {
        let fields = Fields::new(message).map_while(Result::ok);
        fields.filter_map(move |field| match field {
            (at, Value::Bytes(bytes)) if at == number => Some(bytes),
            _ => None,
        })
    };
    let weights = of(model, field::MODEL_GRAPH).flat_map(|graph| {
        // One that is an input as well is no more than a default.
        let inputs = of(graph, field::GRAPH_INPUT).filter_map(|input| name(input, 1).ok());
        let inputs: BTreeSet<&str> = inputs.collect();
        let weights = of(graph, field::GRAPH_INITIALIZER).map(Weight::read);
        weights.filter_map(Result::ok).filter(move |(name, _)| !inputs.contains(name))
    });
    let plain = weights.filter_map(|(name, Weight { dtype, dims, data, .. })| match data {
        Data::Raw(bytes) => Some((name, dtype, dims, bytes)),
        _ => None,
    });
    plain.collect()
}

/// A model, taken apart.
#[derive(Debug)]
pub(super) struct Graph<'a> {
    /// All fields of the model but the graph and training information.
    pub(super) model: Vec<Field<'a>>,
    pub(super) ir_version: u64,
    pub(super) name: &'a str,
    /// In an order in which each node comes after what it takes.
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) weights: BTreeMap<&'a str, Weight<'a>>,
    /// Encoded `ValueInfoProto`s of the inputs that are no weights.
    pub(super) inputs: Vec<(&'a str, &'a [u8])>,
    pub(super) outputs: Vec<(&'a str, &'a [u8])>,
    pub(super) values: BTreeMap<&'a str, &'a [u8]>,
    pub(super) quantizations: Vec<(&'a str, &'a [u8])>,
}

impl<'a> Graph<'a> {
    /// Takes a model apart that the scan has let through.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, CutError> {
        let mut model = Vec::new();
        let mut graph = None;
        let mut ir_version = 0;
        for found in Fields::new(bytes) {
            match found? {
                (field::MODEL_GRAPH, Value::Bytes(bytes)) => {
                    if graph.replace(bytes).is_some() {
                        return Err(CutError::Odd("it has two graphs"));
                    }
                }
                (field::MODEL_TRAINING, _) => {}
                (field::MODEL_IR_VERSION, Value::Varint(version)) => ir_version = version,
                other => model.push(other),
            }
        }
        let graph = graph.ok_or(CutError::Odd("it has no graph"))?;
        let mut read = Self {
            model,
            ir_version,
            name: "",
            nodes: Vec::new(),
            weights: BTreeMap::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            values: BTreeMap::new(),
            quantizations: Vec::new(),
        };
        for found in Fields::new(graph) {
            if let (number, Value::Bytes(bytes)) = found? {
                read.add(number, bytes)?;
            }
        }
        // Before version 4, weights had to be inputs, too.
        let weights = &read.weights;
        read.inputs.retain(|(name, _)| !weights.contains_key(name));
        read.sort()?;
        Ok(read)
    }

    fn add(&mut self, number: u32, bytes: &'a [u8]) -> Result<(), CutError> {
        match number {
            field::GRAPH_NODE => self.nodes.push(Node::read(bytes)?),
            field::GRAPH_NAME => self.name = text(bytes)?,
            field::GRAPH_INITIALIZER => {
                let (name, weight) = Weight::read(bytes)?;
                self.weights.insert(name, weight);
            }
            field::GRAPH_SPARSE => {
                let (name, weight) = Weight::read_sparse(bytes)?;
                self.weights.insert(name, weight);
            }
            field::GRAPH_INPUT => self.inputs.push((name(bytes, 1)?, bytes)),
            field::GRAPH_OUTPUT => self.outputs.push((name(bytes, 1)?, bytes)),
            field::GRAPH_VALUE_INFO => {
                self.values.insert(name(bytes, 1)?, bytes);
            }
            field::GRAPH_QUANTIZATION => self.quantizations.push((name(bytes, 1)?, bytes)),
            _ => {}
        }
        Ok(())
    }

    /// Brings the nodes into an order in which each comes after what it takes; those that may stay
    /// where the file has them do (Kahn 1962, lowest place first).
    fn sort(&mut self) -> Result<(), CutError> {
        let mut maker = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            for output in &node.outputs {
                if maker.insert(*output, index).is_some() {
                    return Err(CutError::Odd("two nodes make one tensor"));
                }
            }
        }
        let mut takers = vec![Vec::new(); self.nodes.len()];
        let mut missing = vec![0; self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            for made in node.inputs.iter().filter_map(|input| maker.get(input)) {
                takers[*made].push(index);
                missing[index] += 1;
            }
        }
        let ready = |(index, missing): (usize, &usize)| (*missing == 0).then_some(Reverse(index));
        let mut ready: BinaryHeap<_> = missing.iter().enumerate().filter_map(ready).collect();
        let mut order = Vec::with_capacity(self.nodes.len());
        while let Some(Reverse(index)) = ready.pop() {
            order.push(index);
            for &taker in &takers[index] {
                missing[taker] -= 1;
                if missing[taker] == 0 {
                    ready.push(Reverse(taker));
                }
            }
        }
        if order.len() < self.nodes.len() {
            return Err(CutError::Odd("its nodes wait for each other in a circle"));
        }
        let mut nodes: Vec<_> = std::mem::take(&mut self.nodes).into_iter().map(Some).collect();
        let taken = order.into_iter().map(|index| nodes[index].take().expect("each once"));
        self.nodes = taken.collect();
        Ok(())
    }
}

impl<'a> Node<'a> {
    fn read(raw: &'a [u8]) -> Result<Self, CutError> {
        let mut node =
            Self { raw, operator: "", inputs: Vec::new(), outputs: Vec::new(), inner: 0 };
        let mut free = BTreeSet::new();
        for found in Fields::new(raw) {
            match found? {
                (1, Value::Bytes(bytes)) => node.inputs.push(text(bytes)?),
                (2, Value::Bytes(bytes)) => node.outputs.push(text(bytes)?),
                (4, Value::Bytes(bytes)) => node.operator = text(bytes)?,
                (5, Value::Bytes(attribute)) => {
                    node.inner += subgraphs(attribute, &mut free)?;
                }
                _ => {}
            }
        }
        node.inputs.extend(free);
        let mut seen = BTreeSet::new();
        node.inputs.retain(|name| !name.is_empty() && seen.insert(*name));
        node.outputs.retain(|name| !name.is_empty());
        Ok(node)
    }

    /// Whether two runs on the same inputs may differ.
    pub(super) fn is_random(&self) -> bool {
        self.operator.starts_with("Random")
            || matches!(self.operator, "Multinomial" | "Bernoulli" | "Dropout")
    }
}

/// Adds the names that an attribute's subgraphs take from outside; says how many nodes they have.
/// The scan has bounded their depth.
fn subgraphs<'a>(attribute: &'a [u8], free: &mut BTreeSet<&'a str>) -> Result<usize, CutError> {
    let mut nodes = 0;
    for found in Fields::new(attribute) {
        if let (6 | 11, Value::Bytes(graph)) = found? {
            nodes += subgraph(graph, free)?;
        }
    }
    Ok(nodes)
}

fn subgraph<'a>(graph: &'a [u8], free: &mut BTreeSet<&'a str>) -> Result<usize, CutError> {
    let (mut bound, mut taken) = (BTreeSet::new(), BTreeSet::new());
    let mut nodes = 0;
    for found in Fields::new(graph) {
        let (number, Value::Bytes(bytes)) = found? else { continue };
        match number {
            field::GRAPH_NODE => {
                let node = Node::read(bytes)?;
                nodes += 1 + node.inner;
                taken.extend(node.inputs);
                bound.extend(node.outputs);
            }
            field::GRAPH_INITIALIZER => {
                bound.insert(Weight::read(bytes)?.0);
            }
            field::GRAPH_SPARSE => {
                bound.insert(Weight::read_sparse(bytes)?.0);
            }
            field::GRAPH_INPUT => {
                bound.insert(name(bytes, 1)?);
            }
            field::GRAPH_OUTPUT => {
                taken.insert(name(bytes, 1)?);
            }
            _ => {}
        }
    }
    free.extend(taken.difference(&bound));
    Ok(nodes)
}

impl<'a> Weight<'a> {
    fn read(raw: &'a [u8]) -> Result<(&'a str, Self), CutError> {
        let mut weight = Self {
            raw,
            is_sparse: false,
            dtype: 0,
            dims: Vec::new(),
            bytes: 0,
            data: Data::Inline,
        };
        let (mut name, mut is_external) = ("", false);
        let (mut file, mut offset, mut length) = (None, 0, None);
        for found in Fields::new(raw) {
            match found? {
                (1, Value::Varint(dim)) => weight.dims.push(dim),
                (1, Value::Bytes(dims)) => {
                    weight.dims.extend(packed(dims).collect::<Result<Vec<u64>, WireError>>()?);
                }
                (2, Value::Varint(dtype)) => weight.dtype = dtype,
                (8, Value::Bytes(bytes)) => name = text(bytes)?,
                (field::TENSOR_RAW, Value::Bytes(bytes)) => weight.data = Data::Raw(bytes),
                (field::TENSOR_EXTERNAL, Value::Bytes(entry)) => {
                    let (key, value) = (self::name(entry, 1)?, self::name(entry, 2)?);
                    let number = || value.parse().map_err(|_| CutError::Odd("an offset"));
                    match key {
                        "location" => file = Some(value),
                        "offset" => offset = number()?,
                        "length" => length = Some(number()?),
                        _ => {}
                    }
                }
                (field::TENSOR_LOCATION, Value::Varint(location)) => is_external = location == 1,
                _ => {}
            }
        }
        weight.bytes = bytes(weight.dtype, &weight.dims);
        if is_external {
            let file = file.ok_or(CutError::Odd("external data has no location"))?;
            weight.data = Data::External { file, offset, length };
        }
        Ok((name, weight))
    }

    /// A sparse weight is named by its values.
    fn read_sparse(raw: &'a [u8]) -> Result<(&'a str, Self), CutError> {
        let mut found = ("", 0);
        for part in Fields::new(raw) {
            if let (1, Value::Bytes(values)) = part? {
                let (name, weight) = Weight::read(values)?;
                found = (name, weight.dtype);
            }
        }
        let (name, dtype) = found;
        let (dims, bytes) = (Vec::new(), raw.len() as u64);
        Ok((name, Self { raw, is_sparse: true, dtype, dims, bytes, data: Data::Inline }))
    }
}

/// What a tensor of an ONNX type and these dimensions takes, in bytes; text counts as nothing.
pub(super) fn bytes(dtype: u64, dims: &[u64]) -> u64 {
    // `TensorProto.DataType`: bits of an element.
    let bits: u64 = match dtype {
        2 | 3 | 9 | 17..=20 | 24 => 8,
        4 | 5 | 10 | 16 => 16,
        1 | 6 | 12 => 32,
        7 | 11 | 13 | 14 => 64,
        15 => 128,
        21..=23 => 4,
        _ => 0,
    };
    dims.iter().fold(bits, |bits, dim| bits.saturating_mul(*dim)).div_ceil(8)
}

/// The string field `number` of a message.
fn name(message: &[u8], number: u32) -> Result<&str, CutError> {
    let mut name = "";
    for found in Fields::new(message) {
        if let (found, Value::Bytes(bytes)) = found?
            && found == number
        {
            name = text(bytes)?;
        }
    }
    Ok(name)
}

fn text(bytes: &[u8]) -> Result<&str, CutError> {
    std::str::from_utf8(bytes).map_err(|_| CutError::Odd("a name is not UTF-8"))
}
