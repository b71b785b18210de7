//! Requests of different lengths in one run: each gets what it alone would get, where its model's
//! bundle declares how to pad and keeps it; elsewhere they run apart.

mod common;

use std::time::Duration;

use common::*;
use hansa_runtime::LoadError;
use hansa_runtime::batch::Batching;
use hansa_runtime::bundle::Bundle;
use hansa_runtime::engine::{Engine, EngineConfig, Request};
use hansa_runtime::tensor::DType;

/// y = x + the sum of x · mask over its row, which is also given: both FP32, of [rows, length].
fn masked_sum() -> Message {
    let inputs = [value("x", 1, &[-1, -1]), value("mask", 1, &[-1, -1])];
    let outputs = [value("y", 1, &[-1, -1]), value("sum", 1, &[-1, 1])];
    let nodes = [
        node("Mul", &["x", "mask"], &["shown"]),
        node("ReduceSum", &["shown", "axes"], &["sum"]),
        node("Add", &["x", "sum"], &["y"]),
    ];
    let axes = Message::default().int(1, 1).int(2, 7).bytes(8, "axes").bytes(9, 1i64.to_le_bytes());
    model(&graph(&nodes, &inputs, &outputs).bytes(5, axes))
}

const DECLARED: &str = r#"{ "inputs": { "x": { "axis": 1, "pad": 5 }, "mask": { "axis": 1, "pad": 0 } },
    "outputs": { "y": { "axis": 1 } } }"#;

/// A folder with the model, and what it declares.
fn folder(declared: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &masked_sum());
    if !declared.is_empty() {
        std::fs::write(dir.path().join("ragged.json"), declared).unwrap();
    }
    dir
}

fn of(declared: &str) -> (tempfile::TempDir, Engine) {
    let dir = folder(declared);
    let max_wait = Duration::from_millis(20);
    let batching = Batching { max_rows: Some(5), max_wait, ..Batching::DEFAULT };
    let config = EngineConfig { batching, threads: Some(1), ..EngineConfig::default() };
    let engine = engine(dir.path(), &config);
    (dir, engine)
}

/// Rows of that length; the last of each is hidden.
fn rows(count: u64, length: u64) -> Request {
    let x: Vec<f32> = (0..count * length).map(|at| at as f32).collect();
    let mask: Vec<f32> = (1..=count * length).map(|at| f32::from(at % length != 0)).collect();
    let tensor = |name, values: &[f32]| tensor(name, DType::Fp32, &[count, length], f32s(values));
    request(vec![tensor("x", &x), tensor("mask", &mask)])
}

const SHAPES: [(u64, u64); 4] = [(1, 8), (2, 7), (1, 9), (1, 8)];

/// Has them wait together; returns in how many runs they ran. Each must get its own answer.
async fn ran(engine: &Engine) -> u64 {
    let before = engine.load().runs;
    let asked = SHAPES.map(|(count, length)| engine.queue(rows(count, length)).unwrap());
    asked.iter().for_each(|job| job.call());
    for (job, (count, length)) in asked.into_iter().zip(SHAPES) {
        let answer = job.await.unwrap().outputs;
        let [y, sum] = &answer[..] else { panic!("two outputs") };
        assert_eq!((&y.shape[..], &sum.shape[..]), (&[count, length][..], &[count, 1][..]));
        let (y, sum) = (to_f32s(&y.data), to_f32s(&sum.data));
        for row in 0..count {
            let from = row * length;
            let expected: u64 = (from..from + length - 1).sum();
            assert_eq!(sum[usize::try_from(row).unwrap()], expected as f32);
            for at in from..from + length {
                assert_eq!(y[usize::try_from(at).unwrap()], (at + expected) as f32);
            }
        }
    }
    engine.load().runs - before
}

#[tokio::test]
async fn requests_of_other_lengths_share_a_run_and_each_gets_what_it_alone_would_get() {
    let (_dir, engine) = of(DECLARED);
    // What a run costs is learned by the clock, which others may disturb.
    for _ in 0..100 {
        if ran(&engine).await == 1 {
            return;
        }
    }
    panic!("they never shared a run");
}

#[tokio::test]
async fn where_nothing_is_declared_nothing_is_padded() {
    let (_dir, engine) = of("");
    for _ in 0..10 {
        // Two of them have the same length.
        assert_eq!(ran(&engine).await, 3);
    }
}

#[tokio::test]
async fn a_declaration_that_would_change_answers_is_not_followed() {
    for declared in [
        // The padding is not hidden.
        DECLARED.replace(r#""pad": 0"#, r#""pad": 1"#),
        // An input of the same length is left out, and an output that follows it.
        DECLARED.replace(r#", "mask": { "axis": 1, "pad": 0 }"#, ""),
        DECLARED.replace(r#""y": { "axis": 1 }"#, ""),
    ] {
        let (_dir, engine) = of(&declared);
        for _ in 0..10 {
            assert_eq!(ran(&engine).await, 3, "{declared}");
        }
    }
}

#[test]
fn a_declaration_that_is_not_about_the_model_keeps_it_from_being_served() {
    for (declared, word) in [
        ("{", "ragged.json: EOF"),
        (r#"{ "inputs": {}, "pads": {} }"#, "unknown field `pads`"),
        (r#"{ "inputs": { "z": { "axis": 1, "pad": 0 } } }"#, "no input `z`"),
        (r#"{ "inputs": { "x": { "axis": 0, "pad": 0 } } }"#, "has rows on axis 0"),
    ] {
        let dir = folder(declared);
        let bundle = Bundle::open(dir.path()).unwrap();
        let error = runtime().engine(&bundle, &cpu(), &EngineConfig::default()).err().unwrap();
        assert!(matches!(error, LoadError::Declared(_)), "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
}
