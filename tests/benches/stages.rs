//! What a model in stages costs: one pass through a relay against the law C + S × one-way, many at
//! once against the slowest stage, and what each node holds in memory.
//!
//! C is the same chain's time without the relay: what the stages compute and the hand-overs cost on
//! this machine. Beside it stands the law of relayed layer packages, (S − 1) · (2 · RTT + P), with P
//! the time of a stage (mesh-llm's own figure of its splitting).
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

mod common;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Client, infer_request, p50, verdict};
use hansa_tests::mesh::{Behind, Mesh, Spec};
use hansa_tests::relay::{Relay, free};
use hansa_tests::{onnx, run_json};

/// Stages, each on a node of its own; the entry is one more.
const STAGES: usize = 3;
const ONE_WAY: Duration = Duration::from_millis(10);
/// 18 layers of 4 · 2,048² bytes: 302 MB.
const LAYERS: usize = 18;
const WIDTH: usize = 2_048;
const NAMES: [&str; STAGES + 1] = ["one", "two", "three", "entry"];
const ROUNDS: usize = 60;
const AT_ONCE: usize = 12;
/// What the issue gives each node, the idle node's memory not counted.
const BUDGET_MIB: f64 = 192.0;

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = cut(folder.path());
    let idle = {
        let mesh = Mesh::with(&[Spec::new("idle", "DE", "DE")]);
        resident(&mesh, "idle")
    };
    let near = start(&out, Duration::ZERO);
    let near_pass = pass(&near.0);
    let slowest = throughput(&near.0);
    for name in &NAMES[..STAGES] {
        let (now, most) = resident(&near.0, name);
        let grown = most - idle.0;
        println!(
            "{name}: {now:.0} MiB resident, {most:.0} at most, {grown:.0} above the idle node: {}",
            verdict(grown <= BUDGET_MIB)
        );
    }
    drop(near);
    let far = start(&out, ONE_WAY);
    let far_pass = pass(&far.0);
    let hand_overs = STAGES + 1;
    let law = near_pass + ONE_WAY * u32::try_from(hand_overs).expect("few");
    let ratio = far_pass.as_secs_f64() / law.as_secs_f64();
    println!(
        "a pass: {:.1} ms without delay, {:.1} ms through {} ms each way; law C + {hand_overs} × one-way {:.1} ms; ratio {ratio:.3}: {}",
        ms(near_pass),
        ms(far_pass),
        ms(ONE_WAY),
        ms(law),
        verdict((ratio - 1.0).abs() <= 0.05)
    );
    let relayed = (2 * ONE_WAY * 2 + slowest) * u32::try_from(STAGES - 1).expect("few");
    println!("relayed layer packages by their law: {:.1} ms", ms(relayed));
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn cut(folder: &Path) -> PathBuf {
    let whole = folder.join("whole");
    std::fs::create_dir_all(&whole).expect("a folder");
    let model = onnx::write(&whole, &onnx::layers(LAYERS, WIDTH, 7));
    println!("model of {:.0} MB", std::fs::metadata(&model).expect("a file").len() as f64 / 1e6);
    let out = folder.join("stages");
    let (model, dir) = (model.display().to_string(), out.display().to_string());
    let cut = ["models", "cut", &model, "--stages", "3", "--out", &dir, "--json"];
    run_json(folder, &cut);
    std::fs::remove_dir_all(whole).expect("it was there");
    out
}

/// The nodes, each behind a relay if there is a delay.
fn start(out: &Path, one_way: Duration) -> (Mesh, Vec<Relay>) {
    let (control, data) = (free(NAMES.len()), free(NAMES.len()));
    let relay = |members: &[SocketAddr]| Relay::start(members, |_, _| one_way).expect("a relay");
    let relays = if one_way.is_zero() { Vec::new() } else { vec![relay(&control), relay(&data)] };
    let mut mesh = Mesh::new();
    for (index, name) in NAMES.into_iter().enumerate() {
        let mut spec = Spec::new(name, "DE", "DE");
        if index < STAGES {
            spec = spec.with("deep", out.join(format!("stage-{index}")));
        }
        if let [control_relay, data_relay] = &relays[..] {
            spec.behind = Some(Behind {
                control: (control[index], control_relay.fronts[index]),
                data: (data[index], data_relay.fronts[index]),
            });
        }
        mesh.start(&spec);
    }
    mesh.await_all(Duration::from_secs(20));
    (mesh, relays)
}

fn request() -> Vec<u8> {
    infer_request("deep", ("x", "FP32", &[1, WIDTH]), &vec![0; WIDTH * 4], "")
}

/// Time of one pass, with nothing else under way.
fn pass(mesh: &Mesh) -> Duration {
    let mut client = Client::connect(mesh.node("entry"));
    let request = request();
    let patience = Instant::now() + Duration::from_secs(20);
    while client.send(&request).status != 200 {
        assert!(Instant::now() < patience, "no job is answered");
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut times = Vec::new();
    for round in 0..ROUNDS + ROUNDS / 5 {
        let started = Instant::now();
        let reply = client.send(&request);
        let took = started.elapsed();
        assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
        assert_eq!(reply.header("hansa-executed-by"), "one, two, three");
        if round >= ROUNDS / 5 {
            times.push(took);
        }
    }
    p50(&mut times)
}

/// Many passes at once against what the stages and the cores allow; returns the slowest stage's
/// time, as its node measured it.
fn throughput(mesh: &Mesh) -> Duration {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // Of single passes: many at once slow each other down.
    let stages: Vec<f64> = NAMES[..STAGES].iter().map(|name| service_seconds(mesh, name)).collect();
    let request = request();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let mut client = Client::connect(mesh.node("entry"));
                for _ in 0..ROUNDS {
                    assert_eq!(client.send(&request).status, 200);
                }
            });
        }
    });
    let rate = (AT_ONCE * ROUNDS) as f64 / started.elapsed().as_secs_f64();
    let slowest = stages.iter().copied().fold(0.0, f64::max);
    let bound = (1.0 / slowest).min(cores as f64 / stages.iter().sum::<f64>());
    println!(
        "{AT_ONCE} at once: {rate:.1} passes a second; stages take {:?} ms, {cores} cores: bound {bound:.1}; ratio {:.2}: {}",
        stages.iter().map(|s| (s * 1e5).round() / 100.0).collect::<Vec<_>>(),
        rate / bound,
        verdict(rate >= 0.9 * bound)
    );
    Duration::from_secs_f64(slowest)
}

/// What a pass took at a stage's node by itself so far, on average, as its metrics tell.
fn service_seconds(mesh: &Mesh, name: &str) -> f64 {
    let reply = Client::connect(mesh.node(name)).get("/metrics");
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let of = |key: &str| {
        let key = format!("hansa_service_seconds_{key}{{");
        let line = text.lines().find(|line| line.starts_with(&key)).expect("it has run jobs");
        line.rsplit(' ').next().and_then(|number| number.parse::<f64>().ok()).expect("a number")
    };
    of("sum") / of("count")
}

/// Resident memory of a node and the most that it ever was, in MiB.
fn resident(mesh: &Mesh, name: &str) -> (f64, f64) {
    let status = format!("/proc/{}/status", mesh.node(name).process.id());
    let status = std::fs::read_to_string(status).expect("the system tells");
    let of = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).expect("the system tells");
        let number = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok());
        number.expect("a number") / 1024.0
    };
    (of("VmRSS"), of("VmHWM"))
}
