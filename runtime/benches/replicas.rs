//! What instances of one model cost: resident memory and throughput of one and of four. Each case is
//! a process of its own, since memory that was used once is not given back. Prints figures, judges
//! nothing.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::env;
use std::error::Error;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use hansa_runtime::engine::EngineConfig;
use hansa_runtime::tensor::DType;

/// Set in a child: how many instances it loads.
const CASE: &str = "HANSA_BENCH_INSTANCES";
/// Of the model: 96 MiB of weights.
const LAYERS: usize = 24;
const WIDTH: usize = 1_024;
const CALLERS: usize = 8;
const FOR: Duration = Duration::from_secs(5);

fn main() -> Result<(), Box<dyn Error>> {
    if let Ok(instances) = env::var(CASE) {
        return case(instances.parse()?);
    }
    for instances in ["1", "4", "1", "4"] {
        let done = Command::new(env::current_exe()?).env(CASE, instances).status()?;
        assert!(done.success());
    }
    Ok(())
}

fn case(instances: usize) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let path = write(dir.path(), &layers(LAYERS, WIDTH, 7));
    let config = EngineConfig { instances, threads: Some(1), ..EngineConfig::default() };
    cpu();
    let (before, started) = (resident_mib(), Instant::now());
    let engine = Arc::new(engine(&path, &config));
    let loaded = started.elapsed();
    let data = bytes::Bytes::from(f32s(&vec![0.5; WIDTH]));
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let served = tokio.block_on(async {
        let until = Instant::now() + FOR;
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let (engine, data) = (Arc::clone(&engine), data.clone());
                tokio::spawn(async move {
                    let mut served = 0u32;
                    while Instant::now() < until {
                        let x = tensor("x", DType::Fp32, &[1, WIDTH as u64], data.clone());
                        engine.submit(request(vec![x])).expect("room").await.expect("an answer");
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        let mut served = 0;
        for caller in callers {
            served += caller.await.expect("no caller panics");
        }
        served
    });
    println!(
        "{instances} instances: {} MiB more resident (peak {} MiB), loaded in {loaded:.2?}, {:.0} jobs/s",
        resident_mib() - before,
        status("VmHWM:") / 1_024,
        f64::from(served) / FOR.as_secs_f64(),
    );
    Ok(())
}

fn resident_mib() -> u64 {
    status("VmRSS:") / 1_024
}

/// A line of this process's status, in KiB.
fn status(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("the line is there");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
