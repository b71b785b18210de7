//! What an engine costs while nothing comes, and that it costs nothing once unloaded. A process of
//! its own, so that its threads and its time are nobody else's.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::thread;
use std::time::Duration;

use common::*;
use hansa_runtime::engine::EngineConfig;
use hansa_runtime::models;
use hansa_runtime::wheel::Progress;

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// User and system time of this process, in ticks of 10 ms.
fn ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn an_idle_engine_sleeps_and_an_unloaded_one_leaves_no_thread() {
    let magika = models::magika(Progress::Stderr).unwrap();
    let device = cpu();
    let before = threads();
    let config = EngineConfig { instances: 2, threads: Some(3), ..EngineConfig::default() };
    let bundle = hansa_runtime::bundle::Bundle::open(&magika).unwrap();
    let engine = runtime().engine(&bundle, &device, &config).unwrap();
    assert!(threads() > before, "an instance has a thread");
    let spent = ticks();
    thread::sleep(Duration::from_secs(3));
    let spent = ticks() - spent;
    assert!(spent <= 3, "{spent} ticks of 10 ms in 3 s");
    engine.unload();
    // The kernel takes a moment to forget a thread that has been joined.
    for _ in 0..100 {
        if threads() == before {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{} threads before, {} after", before, threads());
}
