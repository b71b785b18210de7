//! What the tests share: the loaded runtime, and ONNX files written byte by byte, so that they can
//! also be wrong.
#![allow(dead_code, unreachable_pub, reason = "each test file takes what it needs")]

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
    Request { inputs, outputs: Vec::new(), deadline: None }
}

pub fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub fn to_f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

/// A protobuf message under construction.
#[derive(Clone, Default)]
pub struct Message(pub Vec<u8>);

impl Message {
    fn varint(mut self, mut number: u64) -> Self {
        while number >= 0x80 {
            self.0.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.0.push(number.to_le_bytes()[0]);
        self
    }

    pub fn int(self, field: u64, number: i64) -> Self {
        self.varint(field << 3).varint(number.cast_unsigned())
    }

    pub fn bytes(self, field: u64, bytes: impl AsRef<[u8]>) -> Self {
        let mut message = self.varint(field << 3 | 2).varint(bytes.as_ref().len() as u64);
        message.0.extend_from_slice(bytes.as_ref());
        message
    }

    pub fn strings(self, field: u64, strings: &[&str]) -> Self {
        strings.iter().fold(self, |message, string| message.bytes(field, string))
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

pub fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> Message {
    Message::default().strings(1, inputs).strings(2, outputs).bytes(4, operator)
}

/// `node` with a subgraph in an attribute.
pub fn with_graph(node: Message, name: &str, graph: Message) -> Message {
    node.bytes(5, Message::default().bytes(1, name).bytes(6, graph).int(20, 5))
}

/// An input or output; a dimension below zero is any.
pub fn value(name: &str, code: u8, shape: &[i64]) -> Message {
    let dims = shape.iter().fold(Message::default(), |message, dim| {
        let dim = match dim {
            ..0 => Message::default().bytes(2, "n"),
            _ => Message::default().int(1, *dim),
        };
        message.bytes(1, dim)
    });
    let kind = Message::default().int(1, i64::from(code)).bytes(2, dims);
    Message::default().bytes(1, name).bytes(2, Message::default().bytes(1, kind))
}

pub fn graph(nodes: &[Message], inputs: &[Message], outputs: &[Message]) -> Message {
    let mut graph = Message::default().bytes(2, "g");
    for (field, messages) in [(1, nodes), (11, inputs), (12, outputs)] {
        graph = messages.iter().fold(graph, |graph, message| graph.bytes(field, message));
    }
    graph
}

pub fn model(graph: &Message) -> Message {
    let opset = Message::default().bytes(1, "").int(2, 17);
    Message::default().int(1, 8).bytes(8, opset).bytes(7, graph)
}

/// A float weight whose bytes are elsewhere.
pub fn external(name: &str, dims: &[i64], entries: &[(&str, &str)]) -> Message {
    let weight = dims.iter().fold(Message::default(), |message, dim| message.int(1, *dim));
    let weight = weight.int(2, 1).bytes(8, name).int(14, 1);
    entries.iter().fold(weight, |message, (key, value)| {
        message.bytes(13, Message::default().bytes(1, key).bytes(2, value))
    })
}

/// y = x + w, with w of four floats in external data.
pub fn adder(entries: &[(&str, &str)]) -> Message {
    let graph =
        graph(&[node("Add", &["x", "w"], &["y"])], &[value("x", 1, &[4])], &[value("y", 1, &[4])]);
    model(&graph.bytes(5, external("w", &[4], entries)))
}

/// y = x.
pub fn identity(code: u8, shape: &[i64]) -> Message {
    let outputs = [value("y", code, shape)];
    model(&graph(&[node("Identity", &["x"], &["y"])], &[value("x", code, shape)], &outputs))
}

/// Counts to `count`, one step of a loop at a time: a job that takes as long as it is told.
pub fn counter() -> Message {
    let body = graph(
        &[node("Identity", &["go"], &["go_on"]), node("Add", &["n", "one"], &["more"])],
        &[value("i", 7, &[]), value("go", 9, &[]), value("n", 1, &[])],
        &[value("go_on", 9, &[]), value("more", 1, &[])],
    );
    let scalar =
        |name: &str, bytes: &[u8]| Message::default().int(2, 1).bytes(8, name).bytes(9, bytes);
    let graph = graph(
        &[with_graph(node("Loop", &["count", "", "zero"], &["y"]), "body", body)],
        &[value("count", 7, &[])],
        &[value("y", 1, &[])],
    );
    let graph = graph.bytes(5, scalar("zero", &0f32.to_le_bytes()));
    model(&graph.bytes(5, scalar("one", &1f32.to_le_bytes())))
}

pub fn count(to: i64) -> Request {
    request(vec![tensor("count", DType::Int64, &[], to.to_le_bytes().to_vec())])
}

pub fn write(dir: &Path, model: &Message) -> std::path::PathBuf {
    let path = dir.join("model.onnx");
    std::fs::write(&path, model).expect("a model is written");
    path
}
