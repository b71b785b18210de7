//! Texts of mixed lengths, one a request: MiniLM on a node that may pad them to run together, beside
//! the best loop over all of them that a hand can write, which sorts them by length, batches them and
//! pads each batch. CPU time of each, on a core of its own, and what the node takes without padding.
//!
//! Linux only: it pins with `taskset`.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{CLIENT_CORE, Client, SERVER_CORE, cpu_ms, embedding_request, pin, seconds, verdict};
use hansa_runtime::library::install;
use hansa_runtime::wheel::Progress;
use hansa_tests::mesh::{Mesh, Node, Spec};
use hansa_tests::python;
use ort::session::Session;
use ort::value::Tensor;

/// Set in a child: the model that it loops over.
const LOOP: &str = "HANSA_BENCH_LOOP";
const TEXTS: usize = 512;
const NAMES: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];

fn main() {
    if let Ok(model) = std::env::var(LOOP) {
        return by_hand(Path::new(&model));
    }
    let (plain, ragged) = (python::minilm(), python::minilm_ragged());
    let me = std::env::current_exe().expect("a path");
    let said = Command::new(me).env(LOOP, plain.join("model.onnx")).output().expect("it runs");
    let said = String::from_utf8(said.stdout).expect("text");
    let figures = said.lines().map(|line| {
        let (rows, cpu_ms) = line.split_once(' ').expect("two numbers");
        (rows.parse::<usize>().expect("rows"), cpu_ms.parse::<f64>().expect("ms"))
    });
    let figures: Vec<_> = figures.collect();
    for (rows, cpu_ms) in &figures {
        println!("by hand, sorted, {rows} a batch: {cpu_ms:.3} CPU ms a text");
    }
    let best = figures.iter().map(|(_, cpu_ms)| *cpu_ms).fold(f64::INFINITY, f64::min);

    // The node begins on its core, so that it takes it for all there are.
    pin(std::process::id(), SERVER_CORE);
    let spec = Spec::new("berlin", "DE", "DE").with("plain", plain).with("ragged", ragged);
    let mesh = Mesh::with(&[spec]);
    let node = mesh.node("berlin");
    pin(std::process::id(), CLIENT_CORE);
    for concurrency in [8, 32] {
        for model in ["plain", "ragged"] {
            let Load { cpu_ms, rows } = load(node, model, concurrency);
            let ratio = best / cpu_ms;
            print!("{model}, concurrency {concurrency}: {cpu_ms:.3} CPU ms a text, ");
            println!("{rows:.2} rows a run; CPU of the best loop ÷ ours {ratio:.3}");
            if model == "ragged" {
                println!("  bar 0.95: {}", verdict(ratio >= 0.95));
            }
        }
    }
}

/// Lengths in tokens, as of sentences: many short ones, few long ones, in no order.
fn lengths() -> Vec<usize> {
    let mut state = 1u64;
    let mut unit = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f64 / f64::from(1 << 24)
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 128")]
    let length = |share: f64| 6 + (122.0 * share * share) as usize;
    (0..TEXTS).map(|_| length(unit())).collect()
}

/// The three inputs of texts of these lengths, padded to the longest.
fn inputs(lengths: &[usize]) -> (usize, [Vec<i64>; 3]) {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let fill = |value: fn(usize) -> i64| {
        let row = |length: &usize| {
            let length = *length;
            (0..longest).map(move |at| if at < length { value(at) } else { 0 })
        };
        lengths.iter().flat_map(row).collect()
    };
    (longest, [fill(|at| 1_000 + 37 * at as i64), fill(|_| 1), fill(|_| 0)])
}

/// Prints the CPU time of a text for several sizes of batches.
fn by_hand(model: &Path) {
    pin(std::process::id(), SERVER_CORE);
    let library = install(false, Progress::Stderr).expect("ONNX Runtime");
    let environment = ort::init_from(&library.path).expect("it loads").build().expect("it starts");
    let builder = Session::builder(&environment).expect("a builder");
    let builder = builder.with_intra_threads(1).expect("threads");
    let mut builder = builder.with_intra_op_spinning(false).expect("no spinning");
    let mut session = builder.commit_from_file(model).expect("the model loads");
    let mut lengths = lengths();
    lengths.sort_unstable();
    let me = std::process::id();
    for rows in [1, 2, 4, 8, 16, 32] {
        let mut all = || {
            for batch in lengths.chunks(rows) {
                let (longest, values) = inputs(batch);
                let [ids, mask, kinds] = values.map(|values| {
                    Tensor::from_array(([batch.len(), longest], values)).expect("a tensor")
                });
                let given = ort::inputs![NAMES[0] => ids, NAMES[1] => mask, NAMES[2] => kinds];
                let outputs = session.run(given).expect("it runs");
                let embedding = outputs["sentence_embedding"].try_extract_tensor::<f32>();
                std::hint::black_box(embedding.expect("floats").1.to_vec());
            }
        };
        all();
        let (before, started, mut texts) = (cpu_ms(me), Instant::now(), 0);
        while texts == 0 || started.elapsed().as_secs_f64() < seconds() {
            all();
            texts += TEXTS;
        }
        println!("{rows} {}", (cpu_ms(me) - before) / texts as f64);
    }
}

struct Load {
    cpu_ms: f64,
    /// Of a run.
    rows: f64,
}

/// Sends the texts over so many connections for a while.
fn load(node: &Node, model: &str, concurrency: usize) -> Load {
    let requests: Vec<Vec<u8>> = lengths().iter().map(|length| request(model, *length)).collect();
    let next = AtomicUsize::new(0);
    let all = |seconds: f64| {
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        let one = || {
            let mut client = Client::connect(node);
            while Instant::now() < until {
                let request = &requests[next.fetch_add(1, Ordering::Relaxed) % TEXTS];
                let reply = client.send(request);
                assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
            }
        };
        std::thread::scope(|scope| {
            (0..concurrency).for_each(|_| drop(scope.spawn(one)));
        });
    };
    // Connections open, the cost of a run is learned.
    all(seconds() / 2.0);
    let counts = || {
        let stats = node.get(&format!("/v2/models/{model}/stats"));
        let stats = &stats["model_stats"][0];
        ["inference_count", "execution_count"].map(|key| stats[key].as_f64().expect("a count"))
    };
    let (before, [rows, runs]) = (cpu_ms(node.process.id()), counts());
    all(seconds());
    let (after, [rows_after, runs_after]) = (cpu_ms(node.process.id()), counts());
    let rows = rows_after - rows;
    Load { cpu_ms: (after - before) / rows, rows: rows / (runs_after - runs) }
}

fn request(model: &str, length: usize) -> Vec<u8> {
    let (_, [ids, mask, kinds]) = inputs(&[length]);
    embedding_request(model, &[(NAMES[0], ids), (NAMES[1], mask), (NAMES[2], kinds)])
}
