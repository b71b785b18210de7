//! ONNX files written byte by byte, so that they can also be wrong. The real-process tests make
//! their models with it, too.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file takes what it needs")]

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

/// `node` with a whole number in an attribute.
pub fn with_int(node: Message, name: &str, number: i64) -> Message {
    node.bytes(5, Message::default().bytes(1, name).int(3, number).int(20, 2))
}

/// One step of Triton's `repeat_int32`: the AT-th of IN, after as many steps of a loop as the AT-th of
/// DELAY says; and whether there is a next one. Fails where DELAY has none.
pub fn repeat() -> Message {
    let body = graph(
        &[node("Identity", &["go"], &["go_on"]), node("Add", &["n", "none"], &["same"])],
        &[value("i", 7, &[]), value("go", 9, &[]), value("n", 1, &[])],
        &[value("go_on", 9, &[]), value("same", 1, &[])],
    );
    let cast = |from: &str, to: &str, code| with_int(node("Cast", &[from], &[to]), "to", code);
    let nodes = [
        node("Gather", &["IN", "AT"], &["picked"]),
        node("Gather", &["DELAY", "AT"], &["delay"]),
        cast("delay", "count", 7),
        with_graph(node("Loop", &["count", "", "none"], &["waited"]), "body", body),
        cast("waited", "nothing", 6),
        node("Add", &["picked", "nothing"], &["OUT"]),
        cast("AT", "IDX", 12),
        node("Add", &["AT", "one"], &["NEXT"]),
        node("Shape", &["IN"], &["shape"]),
        cast("shape", "length", 6),
        node("Less", &["NEXT", "length"], &["MORE"]),
    ];
    let inputs = [
        value("IN", 6, &[-1]),
        value("DELAY", 12, &[-1]),
        value("WAIT", 12, &[1]),
        value("AT", 6, &[1]),
    ];
    let outputs = [
        value("OUT", 6, &[1]),
        value("IDX", 12, &[1]),
        value("NEXT", 6, &[1]),
        value("MORE", 9, &[1]),
    ];
    let none = Message::default().int(2, 1).bytes(8, "none").bytes(9, 0f32.to_le_bytes());
    let one = Message::default().int(1, 1).int(2, 6).bytes(8, "one").bytes(9, 1i32.to_le_bytes());
    model(&graph(&nodes, &inputs, &outputs).bytes(5, none).bytes(5, one))
}

/// What its bundle declares.
pub const REPEATS: &str = r#"{ "states": { "NEXT": "AT" }, "while": "MORE", "steps_max": 512 }"#;

/// y = the x-th of the numbers from 0 to `size` - 1; fails where there is none.
pub fn lookup(size: u8) -> Message {
    let numbers: Vec<u8> = (0..size).flat_map(|n| f32::from(n).to_le_bytes()).collect();
    let table = Message::default().int(1, size.into()).int(2, 1).bytes(8, "t").bytes(9, numbers);
    let graph = graph(
        &[node("Gather", &["t", "x"], &["y"])],
        &[value("x", 7, &[-1])],
        &[value("y", 1, &[-1])],
    );
    model(&graph.bytes(5, table))
}

/// `layers` of y = tanh(x · W), each of `width` × `width` random floats: a model of any size. It
/// takes `x` and gives `y`, both float [n, width].
pub fn layers(layers: usize, width: usize, seed: u64) -> Message {
    let name = |layer: usize| match layer {
        0 => "x".to_owned(),
        last if last == layers => "y".to_owned(),
        inner => format!("x{inner}"),
    };
    let columns = i64::try_from(width).expect("a small number");
    let mut nodes = Vec::new();
    let mut state = seed;
    let mut weights = Vec::new();
    for layer in 0..layers {
        let (weight, product) = (format!("w{layer}"), format!("p{layer}"));
        nodes.push(node("MatMul", &[&name(layer), &weight], &[&product]));
        nodes.push(node("Tanh", &[&product], &[&name(layer + 1)]));
        // Knuth's generator; the high bits are the good ones. Sums stay near one.
        let scale = (3.0 / width as f32).sqrt();
        let bytes: Vec<u8> = (0..width * width)
            .flat_map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let unit = (state >> 40) as f32 / 8_388_608.0 - 1.0;
                (unit * scale * 1.5).to_le_bytes()
            })
            .collect();
        let message = Message::default().int(1, columns).int(1, columns).int(2, 1);
        weights.push(message.bytes(8, &weight).bytes(9, bytes));
    }
    let shape = [-1, columns];
    let graph = graph(&nodes, &[value("x", 1, &shape)], &[value("y", 1, &shape)]);
    model(&weights.into_iter().fold(graph, |graph, weight| graph.bytes(5, weight)))
}

/// Writes a model as `model.onnx` of a folder.
pub fn write(dir: &std::path::Path, model: &Message) -> std::path::PathBuf {
    let path = dir.join("model.onnx");
    std::fs::write(&path, model).expect("a model is written");
    path
}
