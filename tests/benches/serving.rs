//! What serving costs beside running the model: a node pinned to one core, its clients to another.
//!
//! A tiny model over HTTP binary at concurrency 1, 8 and 32, beside a bare axum handler with one
//! session thread in the same run; magika and MiniLM beside `Session::run` in a loop; a lone
//! request's latency beside a bare run. CPU time is what the process itself used (`/proc`, ticks of
//! 10 ms), so that a busy machine blurs it less than the rates.
//!
//! Linux only: it pins with `taskset`.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

mod common;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use common::{
    CLIENT_CORE, Load, SERVER_CORE, cpu_ms, embedding_request, infer_request, p50, pin, seconds,
    us, verdict,
};
use hansa_runtime::library::install;
use hansa_runtime::models;
use hansa_runtime::wheel::Progress;
use hansa_tests::mesh::{Mesh, Node, Spec};
use hansa_tests::{onnx, python};
use ort::session::{Session, SessionInputValue};
use ort::value::Tensor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

/// Set in a child: which peer it is, and of which model.
const PEER: &str = "HANSA_BENCH_PEER";
const WIDTH: usize = 16;
/// Rows of one run of the bare handler.
const BARE_ROWS: usize = 64;
const MINILM_TOKENS: usize = 32;
/// About what lies between a lone request's answer and the next one's run.
const REST: Duration = Duration::from_micros(200);

fn main() {
    if let Ok(peer) = std::env::var(PEER) {
        let (kind, model) = peer.split_once(':').expect("KIND:MODEL");
        return match kind {
            "bare" => bare(Path::new(model)),
            "magika" => raw(Path::new(model), magika_inputs),
            "minilm" => raw(Path::new(model), minilm_inputs),
            other => panic!("{other}"),
        };
    }
    let folder = tempfile::tempdir().expect("a folder");
    let tiny = onnx::write(folder.path(), &onnx::layers(1, WIDTH, 7));
    let magika = models::magika(Progress::Stderr).expect("magika").join("model.onnx");
    let minilm = python::minilm().join("model.onnx");
    // The node begins on its core, so that it takes it for all there are.
    pin(std::process::id(), SERVER_CORE);
    let all = Spec::new("berlin", "DE", "DE")
        .with("tiny", &tiny)
        .with("magika", &magika)
        .with("minilm", &minilm);
    let plain = Spec { extra: "[audit]\nreceipts = \"off\"\n", ..Spec::new("paris", "FR", "FR") };
    // Two meshes of one node: neither hears of the other.
    let (mesh, plain) = (Mesh::with(&[all]), Mesh::with(&[plain.with("tiny", &tiny)]));
    let (node, plain) = (mesh.node("berlin"), plain.node("paris"));
    pin(std::process::id(), CLIENT_CORE);
    let address = address(node);

    let data = vec![0u8; 4 * WIDTH];
    let request = infer_request("tiny", ("x", "FP32", &[1, WIDTH]), &data, "");
    let bars = [(1, 0.08, 0.0), (8, 0.028, 33_000.0), (32, 0.025, 40_000.0)];
    let (bare, bare_address) = Bare::start(&tiny);
    for (concurrency, cpu_bar, rate_bar) in bars {
        let ours = load(node.process.id(), address, &request, concurrency);
        let plain = load(plain.process.id(), self::address(plain), &request, concurrency);
        let bare = load(bare.0.id(), bare_address, &request, concurrency);
        println!("tiny, concurrency {concurrency}: {ours}");
        println!("  without receipts:   {plain}");
        println!("  bare axum handler:  {bare}");
        println!(
            "  {:.2} × its CPU, {:.2} × its rate; bars {cpu_bar} CPU ms: {}, {rate_bar}/s: {}",
            ours.cpu_ms / bare.cpu_ms,
            ours.rate / bare.rate,
            verdict(ours.cpu_ms <= cpu_bar),
            verdict(ours.rate >= rate_bar),
        );
    }
    drop(bare);

    for (name, path) in [("magika", &magika), ("minilm", &minilm)] {
        let request = if name == "magika" { magika_request() } else { minilm_request() };
        let raw = Raw::of(name, path);
        let Raw { cpu_ms, p50, p99, rested } = raw;
        println!("{name}, bare run: {cpu_ms:.3} CPU ms, p50 {p50:.0} µs, p99 {p99:.0} µs");
        println!(
            "  each after a rest of {REST:?}: {:.3} CPU ms, p50 {:.0} µs, p99 {:.0} µs",
            rested.0, rested.1, rested.2
        );
        for concurrency in [1, 8, 32] {
            let ours = load(node.process.id(), address, &request, concurrency);
            let ratio = cpu_ms / ours.cpu_ms;
            println!("{name}, concurrency {concurrency}: {ours}");
            println!("  CPU raw ÷ ours {ratio:.3}; bar 0.97: {}", verdict(ratio >= 0.97));
            if concurrency == 1 {
                let (p50, p99) = (ours.p50 - p50, ours.p99 - p99);
                println!(
                    "  added to a lone request: p50 {p50:.0} µs (bar 60: {}), p99 {p99:.0} µs (bar 250: {})",
                    verdict(p50 <= 60.0),
                    verdict(p99 <= 250.0)
                );
                let (cpu, p50, p99) = rested;
                println!(
                    "  beside one after a rest: CPU {:.3} of ours, p50 {:.0} µs more, p99 {:.0} µs",
                    cpu / ours.cpu_ms,
                    ours.p50 - p50,
                    ours.p99 - p99
                );
            }
        }
    }
}

fn address(node: &Node) -> SocketAddr {
    node.url().trim_start_matches("http://").parse().expect("an address")
}

/// Sends the same request over so many connections for a while.
fn load(process: u32, server: SocketAddr, request: &[u8], concurrency: usize) -> Load {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let request: Bytes = request.to_vec().into();
    runtime.expect("a runtime").block_on(async move {
        // Connections open, caches and the policy of batches settle.
        all(server, &request, concurrency, seconds() / 5.0).await;
        let (before, started) = (cpu_ms(process), Instant::now());
        let mut times = all(server, &request, concurrency, seconds()).await;
        let (took, used) = (started.elapsed().as_secs_f64(), cpu_ms(process) - before);
        let count = times.len() as f64;
        let p50 = us(p50(&mut times));
        let p99 = us(times[times.len() * 99 / 100]);
        Load { rate: count / took, cpu_ms: used / count, p50, p99 }
    })
}

async fn all(
    server: SocketAddr,
    request: &Bytes,
    concurrency: usize,
    seconds: f64,
) -> Vec<Duration> {
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let tasks: Vec<_> =
        (0..concurrency).map(|_| tokio::spawn(one(server, request.clone(), until))).collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("no panic"));
    }
    times
}

/// One connection until then.
async fn one(server: SocketAddr, request: Bytes, until: Instant) -> Vec<Duration> {
    let mut stream = TcpStream::connect(server).await.expect("the server listens");
    stream.set_nodelay(true).expect("a TCP socket");
    let (mut times, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    while Instant::now() < until {
        let started = Instant::now();
        stream.write_all(&request).await.expect("the server takes it");
        let (mut filled, mut wanted) = (0, usize::MAX);
        while filled < wanted {
            let count = stream.read(&mut buffer[filled..]).await.expect("an answer");
            assert!(count > 0, "the connection ends");
            filled += count;
            if wanted == usize::MAX {
                wanted = whole(&buffer[..filled]).unwrap_or(usize::MAX);
            }
        }
        times.push(started.elapsed());
    }
    times
}

/// Length of an answer, once its head is there; panics unless it is a 200.
fn whole(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..end]).expect("a head of text");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}{}", String::from_utf8_lossy(&bytes[end..]));
    let name = "content-length: ";
    let line = head
        .lines()
        .find(|line| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)));
    let length: usize = line.expect("a length")[name.len()..].trim().parse().expect("a number");
    Some(end + length)
}

// The peers.

fn child(peer: &str) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().expect("a path"))
        .env(PEER, peer)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut line = String::new();
    let out = child.stdout.take().expect("a pipe");
    BufReader::new(out).read_line(&mut line).expect("it says a line");
    (child, line.trim().to_owned())
}

struct Bare(Child);

impl Bare {
    fn start(model: &Path) -> (Self, SocketAddr) {
        let (child, line) = child(&format!("bare:{}", model.display()));
        (Self(child), line.parse().expect("an address"))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn session(model: &Path) -> Session {
    let library = install(false, Progress::Stderr).expect("ONNX Runtime");
    let environment = ort::init_from(&library.path).expect("it loads").build().expect("it starts");
    let builder = Session::builder(&environment).expect("a builder");
    let builder = builder.with_intra_threads(1).expect("threads");
    let mut builder = builder.with_intra_op_spinning(false).expect("no spinning");
    builder.commit_from_file(model).expect("the model loads")
}

/// The least that a server can do: take the last bytes of a body, run what waits in one batch.
fn bare(model: &Path) {
    type Row = (Bytes, oneshot::Sender<Vec<u8>>);
    pin(std::process::id(), SERVER_CORE);
    let mut session = session(model);
    let (sender, mut rows) = mpsc::unbounded_channel::<Row>();
    std::thread::spawn(move || {
        while let Some(first) = rows.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < BARE_ROWS
                && let Ok(row) = rows.try_recv()
            {
                batch.push(row);
            }
            let floats = |body: &Bytes| {
                let (chunks, _) = body[body.len() - 4 * WIDTH..].as_chunks::<4>();
                chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect::<Vec<_>>()
            };
            let x: Vec<f32> = batch.iter().flat_map(|(body, _)| floats(body)).collect();
            let x = Tensor::from_array(([batch.len(), WIDTH], x)).expect("a tensor");
            let outputs = session.run(ort::inputs![x]).expect("it runs");
            let (_, y) = outputs[0].try_extract_tensor::<f32>().expect("floats");
            for ((_, answer), row) in batch.into_iter().zip(y.chunks(WIDTH)) {
                let _ = answer.send(row.iter().flat_map(|float| float.to_le_bytes()).collect());
            }
        }
    });
    let handler = move |body: Bytes| {
        let sender = sender.clone();
        async move {
            let (answer, row) = oneshot::channel();
            sender.send((body, answer)).expect("the session runs");
            row.await.expect("an answer")
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("an address"));
        let routes = Router::new().route("/v2/models/{model}/infer", post(handler));
        axum::serve(listener, routes).await.expect("it serves");
    });
}

/// What a run alone takes, runs one after the other.
#[derive(Clone, Copy)]
struct Raw {
    cpu_ms: f64,
    /// In µs.
    p50: f64,
    p99: f64,
    /// The same, each after a rest, as where requests come one by one: the core sleeps meanwhile, and
    /// its caches are others'.
    rested: (f64, f64, f64),
}

impl Raw {
    fn of(name: &str, model: &Path) -> Self {
        let (mut child, line) = child(&format!("{name}:{}", model.display()));
        let _ = child.wait();
        let numbers: Vec<f64> =
            line.split(' ').map(|word| word.parse().expect("a number")).collect();
        let [cpu_ms, p50, p99, a, b, c] = numbers[..] else { panic!("{line}") };
        Self { cpu_ms, p50, p99, rested: (a, b, c) }
    }
}

type Inputs = Vec<(String, SessionInputValue<'static>)>;

fn raw(model: &Path, inputs: fn() -> Inputs) {
    pin(std::process::id(), SERVER_CORE);
    let mut session = session(model);
    let me = std::process::id();
    let mut run = || {
        let started = Instant::now();
        let outputs = session.run(inputs()).expect("it runs");
        std::hint::black_box(outputs[0].try_extract_tensor::<f32>().expect("floats").1.to_vec());
        started.elapsed()
    };
    let warm = Instant::now();
    while warm.elapsed().as_secs_f64() < seconds() / 5.0 {
        run();
    }
    let mut measure = |rest: Duration| {
        let (before, started) = (cpu_ms(me), Instant::now());
        let mut times = Vec::new();
        while started.elapsed().as_secs_f64() < seconds() {
            std::thread::sleep(rest);
            times.push(run());
        }
        let cpu = (cpu_ms(me) - before) / times.len() as f64;
        let p50 = us(p50(&mut times));
        format!("{cpu} {p50} {}", us(times[times.len() * 99 / 100]))
    };
    println!("{} {}", measure(Duration::ZERO), measure(REST));
}

fn magika_bytes() -> Vec<i32> {
    (0..2_048).map(|index| index * 31 % 257).collect()
}

fn magika_inputs() -> Inputs {
    let x = Tensor::from_array(([1usize, 2_048], magika_bytes())).expect("a tensor");
    vec![("bytes".into(), x.into())]
}

fn magika_request() -> Vec<u8> {
    let data: Vec<u8> = magika_bytes().iter().flat_map(|value| value.to_le_bytes()).collect();
    infer_request("magika", ("bytes", "INT32", &[1, 2_048]), &data, "")
}

/// Name and value of each token of MiniLM's inputs.
fn minilm_tokens() -> [(&'static str, Vec<i64>); 3] {
    let ids = (0..MINILM_TOKENS).map(|index| 1_000 + 37 * index as i64).collect();
    [
        ("input_ids", ids),
        ("attention_mask", vec![1; MINILM_TOKENS]),
        ("token_type_ids", vec![0; MINILM_TOKENS]),
    ]
}

fn minilm_inputs() -> Inputs {
    let input = |(name, tokens): (&str, Vec<i64>)| {
        let x = Tensor::from_array(([1usize, MINILM_TOKENS], tokens)).expect("a tensor");
        (name.to_owned(), x.into())
    };
    minilm_tokens().map(input).into()
}

fn minilm_request() -> Vec<u8> {
    embedding_request("minilm", &minilm_tokens())
}
