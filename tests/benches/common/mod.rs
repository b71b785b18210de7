//! What the benches share: a keep-alive HTTP client that costs next to nothing, a model that does
//! next to nothing, and medians.
#![allow(dead_code, unreachable_pub, reason = "each bench takes what it needs")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hansa_tests::mesh::Node;

/// One connection that stays open, without Nagle's delay; blocking.
pub struct Client {
    stream: BufReader<TcpStream>,
    host: String,
}

/// What a client is answered.
pub struct Reply {
    pub status: u16,
    /// Lines of the head, names in lower case.
    head: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.head.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// The tensor bytes that follow the JSON part.
    pub fn tensors(&self) -> &[u8] {
        let json: usize = self.header("inference-header-content-length").parse().unwrap_or(0);
        &self.body[json..]
    }
}

impl Client {
    /// Connects to a node's API.
    pub fn connect(node: &Node) -> Self {
        let url = node.url();
        let host = url.trim_start_matches("http://").to_owned();
        let stream = TcpStream::connect(&host).expect("the API listens");
        stream.set_nodelay(true).expect("a TCP socket");
        Self { stream: BufReader::with_capacity(64 << 10, stream), host }
    }

    /// Sends what [`infer_request`] made and waits for the answer.
    pub fn send(&mut self, request: &[u8]) -> Reply {
        self.stream.get_mut().write_all(request).expect("the node takes the request");
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a status line");
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut head = Vec::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line).expect("a header");
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            head.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut reply = Reply { status: status.expect("a status"), head, body: Vec::new() };
        let length: usize = reply.header("content-length").parse().expect("a length");
        reply.body = vec![0; length];
        self.stream.read_exact(&mut reply.body).expect("the body");
        reply
    }

    /// `GET path`.
    pub fn get(&mut self, path: &str) -> Reply {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host).as_bytes())
    }
}

/// A whole HTTP request that runs `model` over one tensor, binary both ways.
pub fn infer_request(
    model: &str,
    (name, datatype, shape): (&str, &str, &[usize]),
    data: &[u8],
    headers: &str,
) -> Vec<u8> {
    let json = format!(
        r#"{{"inputs":[{{"name":"{name}","datatype":"{datatype}","shape":{shape:?},"parameters":{{"binary_data_size":{}}}}}],"parameters":{{"binary_data_output":true}}}}"#,
        data.len()
    );
    http(model, &json, &[data], headers)
}

/// A whole HTTP request for the embedding of one text, of which `inputs` are the names and values;
/// binary both ways.
pub fn embedding_request(model: &str, inputs: &[(&str, Vec<i64>)]) -> Vec<u8> {
    let input = |(name, values): &(&str, Vec<i64>)| {
        let (tokens, bytes) = (values.len(), 8 * values.len());
        format!(
            r#"{{"name":"{name}","datatype":"INT64","shape":[1,{tokens}],"parameters":{{"binary_data_size":{bytes}}}}}"#
        )
    };
    let told: Vec<String> = inputs.iter().map(input).collect();
    let json = format!(
        r#"{{"inputs":[{}],"outputs":[{{"name":"sentence_embedding","parameters":{{"binary_data":true}}}}]}}"#,
        told.join(",")
    );
    let values = inputs.iter().flat_map(|(_, values)| values);
    let data: Vec<u8> = values.flat_map(|value| value.to_le_bytes()).collect();
    http(model, &json, &[&data], "")
}

/// A request of a JSON part and tensors behind it.
pub fn http(model: &str, json: &str, tensors: &[&[u8]], headers: &str) -> Vec<u8> {
    let head = format!(
        "POST /v2/models/{model}/infer HTTP/1.1\r\nHost: node\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {}\r\n\
         Inference-Header-Content-Length: {}\r\n{headers}\r\n",
        json.len() + tensors.iter().map(|tensor| tensor.len()).sum::<usize>(),
        json.len()
    );
    [&[head.as_bytes(), json.as_bytes()], tensors].concat().concat()
}

/// Writes y = x over FP32 of any length as an ONNX file, field by field.
pub fn write_identity(folder: &Path) -> PathBuf {
    let value = |name: &str| {
        let shape = field(1, &field(2, b"n"));
        let kind = [int(1, 1), field(2, &shape)].concat();
        [field(1, name.as_bytes()), field(2, &field(1, &kind))].concat()
    };
    let node = [field(1, b"x"), field(2, b"y"), field(4, b"Identity")].concat();
    let graph =
        [field(1, &node), field(2, b"g"), field(11, &value("x")), field(12, &value("y"))].concat();
    let opset = [field(1, b""), int(2, 17)].concat();
    let model = [int(1, 8), field(8, &opset), field(7, &graph)].concat();
    let path = folder.join("identity.onnx");
    std::fs::write(&path, model).expect("a model can be written");
    path
}

/// A protobuf field of bytes; all of ours are short.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).ok().filter(|length| *length < 128);
    [&[number << 3 | 2, length.expect("short")], bytes].concat()
}

fn int(number: u8, value: u8) -> Vec<u8> {
    vec![number << 3, value]
}

/// The middle one.
pub fn p50(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// In µs.
pub fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// `met` or `MISSED`.
pub fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

pub const SERVER_CORE: &str = "0";
pub const CLIENT_CORE: &str = "1";

/// How long each load lasts: `HANSA_BENCH_SECONDS`, 5 unless it says otherwise.
pub fn seconds() -> f64 {
    std::env::var("HANSA_BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5.0)
}

/// Binds all threads of a process to a core; those to come inherit it.
pub fn pin(process: u32, core: &str) {
    let process = process.to_string();
    let done = Command::new("taskset").args(["-a", "-c", "-p", core, &process]).output();
    assert!(done.expect("taskset runs").status.success(), "{process} cannot be bound to {core}");
}

/// CPU time of a process, in ms.
pub fn cpu_ms(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    // utime and stime, in ticks of 10 ms.
    let ticks = |index: usize| fields[index].parse::<f64>().expect("ticks");
    (ticks(11) + ticks(12)) * 10.0
}

/// What a server does under load.
pub struct Load {
    pub rate: f64,
    pub cpu_ms: f64,
    /// In µs.
    pub p50: f64,
    pub p99: f64,
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rate, cpu_ms, p50, p99 } = self;
        write!(f, "{rate:.0}/s, {cpu_ms:.4} CPU ms each, p50 {p50:.0} µs, p99 {p99:.0} µs")
    }
}
