//! What scattering a batch gives: 256 texts of 64 tokens through MiniLM, on four nodes of one thread
//! each beside one process that has all cores; then through 40 ms of round trip, where a large batch
//! is to be split and a small one is not.
//!
//! Four nodes on a machine with fewer cores share them, so the limit is what the cores present give
//! one process.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "figures for people"
)]

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Client, p50, verdict};
use hansa_tests::mesh::{Behind, Mesh, Spec};
use hansa_tests::python;
use hansa_tests::relay::{Relay, free};
use serde_json::{Value, json};

const ROWS: usize = 256;
const TOKENS: usize = 64;
const ROUNDS: usize = 7;
const ONE_WAY: Duration = Duration::from_millis(20);
const NAMES: [&str; 4] = ["one", "two", "three", "four"];
/// The bar of the issue.
const SHARE_MIN: f64 = 0.9;

fn main() {
    let model = python::minilm();
    let alone = {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mesh = start(&model, &["all"], cores, Duration::ZERO);
        time(&mesh.0, "all", ROWS, "never").0
    };
    let one = {
        let mesh = start(&model, &NAMES[..1], 1, Duration::ZERO);
        time(&mesh.0, "one", ROWS, "never").0
    };
    let near = start(&model, &NAMES, 1, Duration::ZERO);
    let (spread, by) = time(&near.0, "one", ROWS, "rows");
    let (chosen, chosen_by) = time(&near.0, "one", ROWS, "auto");
    drop(near);
    let per_s = |time: Duration| ROWS as f64 / time.as_secs_f64();
    println!("{ROWS} texts of {TOKENS} tokens:");
    println!("  one process, all cores:  {alone:.2?}, {:.0} texts/s", per_s(alone));
    println!("  one node, one thread:    {one:.2?}, {:.0} texts/s", per_s(one));
    println!("  four nodes, one thread:  {spread:.2?}, {:.0} texts/s, by {by}", per_s(spread));
    let ratio = alone.as_secs_f64() / spread.as_secs_f64();
    println!("  four nodes / one process: {ratio:.2}: {}", verdict(ratio >= SHARE_MIN));
    println!("  left to the planner:     {chosen:.2?}, by {chosen_by}");

    let far = start(&model, &NAMES, 1, ONE_WAY);
    let (whole, _) = time(&far.0, "one", ROWS, "never");
    let (split, by) = time(&far.0, "one", ROWS, "auto");
    let is_split = by.contains(", ");
    println!("through {:?} of round trip:", 2 * ONE_WAY);
    println!("  {ROWS} texts, one node {whole:.2?}, left to the planner {split:.2?}, by {by}");
    println!("  split and faster: {}", verdict(is_split && split < whole));
    // So few that one node has them before a peer could have heard of its share.
    let few = (ONE_WAY.as_secs_f64() / one.as_secs_f64() * ROWS as f64).max(1.0) as usize;
    let (took, by) = time(&far.0, "one", few, "auto");
    println!("  {few} texts, left to the planner {took:.1?}, by {by}");
    println!("  not split: {}", verdict(!by.contains(", ")));
}

/// The nodes, each with the model, behind relays if there is a delay.
fn start(
    model: &Path,
    names: &[&'static str],
    threads: usize,
    one_way: Duration,
) -> (Mesh, Vec<Relay>) {
    let (control, data) = (free(names.len()), free(names.len()));
    let relay = |members: &[SocketAddr]| Relay::start(members, |_, _| one_way).expect("a relay");
    let relays = if one_way.is_zero() { Vec::new() } else { vec![relay(&control), relay(&data)] };
    let mut mesh = Mesh::new();
    for (index, name) in names.iter().enumerate() {
        let mut spec = Spec::new(name, "DE", "DE").with("minilm", model.join("model.onnx"));
        spec.threads = threads;
        if let [control_relay, data_relay] = &relays[..] {
            spec.behind = Some(Behind {
                control: (control[index], control_relay.fronts[index]),
                data: (data[index], data_relay.fronts[index]),
            });
        }
        mesh.start(&spec);
    }
    mesh.await_all(Duration::from_secs(30));
    (mesh, relays)
}

/// Median time of a batch at one entry, and who ran the last.
fn time(mesh: &Mesh, entry: &str, rows: usize, split: &str) -> (Duration, String) {
    let mut client = Client::connect(mesh.node(entry));
    let request = request(rows, split);
    let (mut times, mut by) = (Vec::new(), String::new());
    for round in 0..=ROUNDS {
        let started = Instant::now();
        let reply = client.send(&request);
        assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
        reply.header("hansa-executed-by").clone_into(&mut by);
        // The first tells the entry how fast its peers are.
        if round > 0 {
            times.push(started.elapsed());
        }
    }
    let rounds: Vec<_> = times.iter().map(|time| format!("{time:.2?}")).collect();
    println!("  ({rows} texts, {split}, round by round: {})", rounds.join(", "));
    (p50(&mut times), by)
}

/// A batch of texts in the binary form, as token ids.
fn request(rows: usize, split: &str) -> Vec<u8> {
    let shape = [rows, TOKENS];
    let mut ids = Vec::with_capacity(rows * TOKENS * 8);
    for index in 0..rows * TOKENS {
        ids.extend((1_000 + (index * 37) as i64 % 20_000).to_le_bytes());
    }
    let (ones, zeros) = (1_i64.to_le_bytes().repeat(rows * TOKENS), vec![0; ids.len()]);
    let input = |name: &str| -> Value {
        json!({"name": name, "datatype": "INT64", "shape": shape,
               "parameters": {"binary_data_size": ids.len()}})
    };
    let inputs = ["input_ids", "attention_mask", "token_type_ids"].map(input);
    let head = json!({
        "inputs": inputs,
        "outputs": [{"name": "sentence_embedding", "parameters": {"binary_data": true}}],
        "parameters": {"split": split},
    });
    common::http("minilm", &head.to_string(), &[&ids, &ones, &zeros], "")
}
