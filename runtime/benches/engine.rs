//! What the engine adds to ONNX Runtime: one run of magika through it against `Session::run` alone,
//! turn by turn; a model that does next to nothing, at concurrency 32; how long loading takes.
//! Prints figures, judges nothing.
//!
//! The bare session lives in a child process, because ort allows one environment a process and the
//! runtime does not hand its own out.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::env;
use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write, stdin};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hansa_runtime::bundle::Bundle;
use hansa_runtime::devices::Devices;
use hansa_runtime::engine::{Engine, EngineConfig, Request};
use hansa_runtime::library::install;
use hansa_runtime::models;
use hansa_runtime::runtime::Runtime;
use hansa_runtime::tensor::{DType, Tensor};
use hansa_runtime::wheel::Progress;
use ort::session::Session;
use ort::value::TensorRef;

const TURNS: usize = 60;
const RUNS: u32 = 25;
/// Set in the child: the ONNX Runtime that it loads.
const RAW: &str = "HANSA_BENCH_RAW";

fn main() -> Result<(), Box<dyn Error>> {
    let values: Vec<i32> = (0..2_048).map(|index| index * 31 % 257).collect();
    let path = models::magika(Progress::Stderr)?;
    if let Some(library) = env::var_os(RAW) {
        return raw(library.as_ref(), &path.join("model.onnx"), &values);
    }
    let library = install(false, Progress::Stderr)?;
    let (runtime, loaded) = timed(|| Runtime::load(&library));
    let runtime = runtime?;
    let (mut devices, discovered) = timed(|| Devices::discover(&runtime));
    let ((), refreshed) = timed(|| devices.refresh());
    println!("ONNX Runtime {}: loaded in {loaded:.1?}", runtime.version());
    println!("devices: found in {discovered:.1?}, refreshed in {refreshed:.1?}");
    for device in devices.list() {
        println!("  {device}, {} MiB", device.memory_total_mib);
    }
    let device = devices.list().last().ok_or("no device")?.clone();
    let (bundle, hashed) = timed(|| Bundle::open(&path));
    let bundle = bundle?;
    let config = EngineConfig { threads: Some(1), ..EngineConfig::default() };
    let (engine, served) = timed(|| runtime.engine(&bundle, &device, &config));
    let engine = engine?;
    println!("magika: hashed in {hashed:.1?}, scanned, loaded and warmed up in {served:.1?}");

    let mut child = Command::new(env::current_exe()?)
        .env(RAW, &library.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut go = child.stdin.take().ok_or("no stdin")?;
    let mut turns = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let data = Bytes::from(data);
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let (mut raw, mut through) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        writeln!(go)?;
        let nanos = turns.next().ok_or("the child ended")??.parse()?;
        raw.push(Duration::from_nanos(nanos));
        let started = Instant::now();
        for _ in 0..RUNS {
            tokio.block_on(run(&engine, &data))?;
        }
        through.push(started.elapsed() / RUNS);
    }
    drop(go);
    child.wait()?;
    let (raw, through) = (median(raw), median(through));
    let ratio = raw.as_secs_f64() / through.as_secs_f64();
    println!("one run: raw {raw:.1?}, through the engine {through:.1?}, ratio {ratio:.4}");
    let dir = tempfile::tempdir()?;
    let bundle = Bundle::open(&common::write(dir.path(), &common::identity(1, &[-1])))?;
    let engine = runtime.engine(&bundle, &device, &config)?;
    tokio.block_on(tiny(engine.into()))
}

/// How many jobs a second, and what each costs, when 32 callers wait for one instance.
async fn tiny(engine: Arc<Engine>) -> Result<(), Box<dyn Error>> {
    const CALLERS: u32 = 32;
    const JOBS: u32 = 10_000;
    let work = |engine: Arc<Engine>| async move {
        let data = Bytes::from_static(&[0; 16]);
        for _ in 0..JOBS {
            let input = common::tensor("x", DType::Fp32, &[4], data.clone());
            let deadline = Some(Instant::now() + Duration::from_secs(30));
            let request = Request { deadline, ..common::request(vec![input]) };
            black_box(engine.submit(request).expect("room").await.expect("an answer"));
        }
    };
    let started = Instant::now();
    let callers: Vec<_> = (0..CALLERS).map(|_| tokio::spawn(work(Arc::clone(&engine)))).collect();
    for caller in callers {
        caller.await?;
    }
    let elapsed = started.elapsed();
    let jobs = CALLERS * JOBS;
    let rate = f64::from(jobs) / elapsed.as_secs_f64();
    println!("identity of 16 bytes, {CALLERS} callers, one instance: {rate:.0} jobs/s");
    Ok(())
}

/// Times a turn for every line that comes.
fn raw(library: &Path, model: &Path, values: &[i32]) -> Result<(), Box<dyn Error>> {
    let environment = ort::init_from(library)?.build()?;
    let mut session = Session::builder(&environment)?
        .with_intra_threads(1)?
        .with_intra_op_spinning(false)?
        .commit_from_file(model)?;
    for line in stdin().lines() {
        line?;
        let started = Instant::now();
        for _ in 0..RUNS {
            let input = TensorRef::from_array_view(([1, 2_048usize], values))?;
            let outputs = session.run(ort::inputs![input])?;
            black_box(outputs[0].try_extract_tensor::<f32>()?.1.to_vec());
        }
        println!("{}", (started.elapsed() / RUNS).as_nanos());
    }
    Ok(())
}

async fn run(engine: &Engine, data: &Bytes) -> Result<(), Box<dyn Error>> {
    let data = data.clone();
    let (name, shape) = ("bytes".to_owned(), vec![1, 2_048]);
    let inputs = vec![Tensor { name, dtype: DType::Int32, shape, data }];
    let deadline = Some(Instant::now() + Duration::from_secs(30));
    black_box(engine.submit(Request { deadline, ..common::request(inputs) })?.await?);
    Ok(())
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    (work(), started.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
