//! Whether rows can be run apart, asked of real models and of small ones written byte by byte.

mod common;

use std::collections::BTreeMap;

use common::*;
use hansa_runtime::engine::{Engine, EngineConfig};
use hansa_runtime::models;
use hansa_runtime::rows::{RowAxes, join, split};
use hansa_runtime::tensor::{DType, Signature};
use hansa_runtime::wheel::Progress;

fn of(model: &Message) -> Option<RowAxes> {
    let dir = tempfile::tempdir().unwrap();
    engine(&write(dir.path(), model), &EngineConfig::default()).signature().rows.clone()
}

fn axes(inputs: &[(&str, usize)], outputs: &[(&str, usize)]) -> Option<RowAxes> {
    let map = |pairs: &[(&str, usize)]| -> BTreeMap<String, usize> {
        pairs.iter().map(|(name, axis)| ((*name).to_owned(), *axis)).collect()
    };
    Some(RowAxes { inputs: map(inputs), outputs: map(outputs) })
}

fn open(path: &std::path::Path) -> Engine {
    engine(path, &EngineConfig::default())
}

#[test]
fn the_rows_of_real_models_are_found() {
    let magika = open(&models::magika(Progress::Stderr).unwrap());
    assert_eq!(magika.signature().rows, axes(&[("bytes", 0)], &[("target_label", 0)]));
    let vad = open(&models::silero_vad(Progress::Stderr).unwrap());
    let expected = axes(&[("input", 0), ("state", 1)], &[("output", 0), ("stateN", 1)]);
    assert_eq!(vad.signature().rows, expected, "the state's rows lie on axis 1, sr is shared");
}

#[tokio::test]
async fn a_batch_of_silero_vad_in_parts_is_the_whole_batch() {
    let engine = open(&models::silero_vad(Progress::Stderr).unwrap());
    let axes = engine.signature().rows.clone().unwrap();
    let wave: Vec<f32> = (0..5 * 576u16).map(|i| (f32::from(i) * 0.013).sin() * 0.5).collect();
    let state: Vec<f32> = (0..2 * 5 * 128u16).map(|i| (f32::from(i) * 0.7).cos() * 0.1).collect();
    let inputs = vec![
        tensor("sr", DType::Int64, &[], 16_000i64.to_le_bytes().to_vec()),
        tensor("state", DType::Fp32, &[2, 5, 128], f32s(&state)),
        tensor("input", DType::Fp32, &[5, 576], f32s(&wave)),
    ];
    let whole = engine.submit(request(inputs.clone())).unwrap().await.unwrap().outputs;
    let mut parts = Vec::new();
    for part in split(&inputs, &axes.inputs, &[1, 3, 1]).unwrap() {
        parts.push(engine.submit(request(part)).unwrap().await.unwrap().outputs);
    }
    let together = join(&parts, &axes.outputs, &[1, 3, 1]).unwrap();
    for (a, b) in together.iter().zip(&whole) {
        assert_eq!((&a.name, &a.shape), (&b.name, &b.shape));
        let pairs = to_f32s(&a.data).into_iter().zip(to_f32s(&b.data));
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst < 1e-5, "{}: {worst}", a.name);
    }
}

#[test]
fn a_model_that_mixes_its_rows_or_fixes_their_number_is_left_whole() {
    let apart = identity(1, &[-1, 4]);
    assert_eq!(of(&apart), axes(&[("x", 0)], &[("y", 0)]));
    // A softmax over the batch: each row depends on all.
    let mixed = node("Softmax", &["x"], &["y"])
        .bytes(5, Message::default().bytes(1, "axis").int(3, 0).int(20, 2));
    let (x, y) = (value("x", 1, &[-1, 4]), value("y", 1, &[-1, 4]));
    assert_eq!(of(&model(&graph(&[mixed], &[x], &[y]))), None);
    assert_eq!(of(&identity(1, &[2, 4])), None);
    // Texts have rows as numbers do.
    assert_eq!(of(&identity(8, &[-1, 4])), axes(&[("x", 0)], &[("y", 0)]));
}

#[test]
fn a_description_without_rows_is_still_understood() {
    let old = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[-1]}],"outputs":[]}"#;
    let signature: Signature = serde_json::from_str(old).unwrap();
    assert_eq!(signature.rows, None);
    assert_eq!(serde_json::to_string(&signature).unwrap(), old);
}
