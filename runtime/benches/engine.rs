//! What the engine adds to ONNX Runtime: one run of magika through it against `Session::run` alone,
//! side by side, and how long loading takes. Prints figures, judges nothing.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::error::Error;
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

const ROUNDS: usize = 40;
const RUNS: usize = 25;

fn main() -> Result<(), Box<dyn Error>> {
    let library = install(false, Progress::Stderr)?;
    let started = Instant::now();
    let runtime = Runtime::load(&library)?;
    println!("ONNX Runtime {} loaded in {:?}", runtime.version(), started.elapsed());
    let started = Instant::now();
    let mut devices = Devices::discover(&runtime);
    let discovered = started.elapsed();
    let started = Instant::now();
    devices.refresh();
    println!("devices found in {discovered:?}, refreshed in {:?}", started.elapsed());
    let device = devices.list().last().ok_or("no device")?.clone();
    println!("{device}: {} MiB", device.memory_total_mib);

    let path = models::magika(Progress::Stderr)?;
    let started = Instant::now();
    let bundle = Bundle::open(&path)?;
    let hashed = started.elapsed();
    let config = EngineConfig { threads: Some(1), ..EngineConfig::default() };
    let engine = runtime.engine(&bundle, &device, &config)?;
    println!("magika: hashed in {hashed:?}, served after {:?}", started.elapsed());

    let values: Vec<i32> = (0..2_048).map(|index| index * 31 % 257).collect();
    // ort's one environment is the runtime's; a session made beside it shares it.
    let mut session = Session::builder(&ort::environment::Environment::clone(&raw_environment()))?
        .with_intra_threads(1)?
        .with_intra_op_spinning(false)?
        .commit_from_file(path.join("model.onnx"))?;
    let data = Bytes::from(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let (mut raw, mut through) = (Vec::new(), Vec::new());
    // Turn by turn, so that a noisy moment meets both.
    for _ in 0..ROUNDS {
        let started = Instant::now();
        for _ in 0..RUNS {
            let input = TensorRef::from_array_view(([1usize, 2_048], &values[..]))?;
            let outputs = session.run(ort::inputs![input])?;
            let (_, scores) = outputs[0].try_extract_tensor::<f32>()?;
            std::hint::black_box(scores.to_vec());
        }
        raw.push(started.elapsed() / RUNS as u32);
        let started = Instant::now();
        for _ in 0..RUNS {
            tokio.block_on(run(&engine, &data))?;
        }
        through.push(started.elapsed() / RUNS as u32);
    }
    let (raw, through) = (median(raw), median(through));
    let ratio = raw.as_secs_f64() / through.as_secs_f64();
    println!("one run: raw {raw:?}, through the engine {through:?}, ratio {ratio:.4}");
    Ok(())
}

async fn run(engine: &Engine, data: &Bytes) -> Result<(), Box<dyn Error>> {
    let data = data.clone();
    let input =
        Tensor { name: "bytes".to_owned(), dtype: DType::Int32, shape: vec![1, 2_048], data };
    let deadline = Some(Instant::now() + Duration::from_secs(30));
    let request = Request { inputs: vec![input], outputs: Vec::new(), deadline };
    std::hint::black_box(engine.submit(request)?.await?);
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
