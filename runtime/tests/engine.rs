//! Engines on real models and on small ones written byte by byte: right answers, and a typed
//! refusal for everything else.

mod common;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::*;
use hansa_runtime::LoadError;
use hansa_runtime::batch::Batching;
use hansa_runtime::bundle::Bundle;
use hansa_runtime::engine::{Engine, EngineConfig, EngineError, Pending, Request, SubmitError};
use hansa_runtime::line::{Queueing, WhenLate};
use hansa_runtime::models;
use hansa_runtime::tensor::{DType, InputError, Tensor};
use hansa_runtime::wheel::Progress;

const SMALL: EngineConfig = EngineConfig {
    instances: 1,
    threads: Some(1),
    queue: Queueing::bounded(4),
    limits: hansa_runtime::check::InputLimits {
        tensor_bytes_max: 1 << 24,
        request_bytes_max: 1 << 24,
    },
    batching: Batching::DEFAULT,
};

/// Jobs wait until four rows are there.
const FOUR: EngineConfig = EngineConfig {
    queue: Queueing::bounded(16),
    batching: Batching {
        max_rows: Some(4),
        max_wait: Duration::from_secs(20),
        ..Batching::DEFAULT
    },
    ..SMALL
};

fn of(model: &Message) -> (tempfile::TempDir, Engine) {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(&write(dir.path(), model), &SMALL);
    (dir, engine)
}

fn magika_input() -> Request {
    let bytes = (0..2_048i32).flat_map(|index| (index * 31 % 257).to_le_bytes());
    request(vec![tensor("bytes", DType::Int32, &[1, 2_048], bytes.collect::<Vec<u8>>())])
}

/// Expected values by Python's onnxruntime 1.31.1 on the same inputs.
#[tokio::test]
async fn magika_gives_the_known_answer() {
    let engine = engine(&models::magika(Progress::Stderr).unwrap(), &SMALL);
    assert_eq!(engine.signature().inputs[0].shape, [-1, 2_048]);
    let response = engine.submit(magika_input()).unwrap().await.unwrap();
    let [scores] = &response.outputs[..] else { panic!("one output") };
    assert_eq!((scores.name.as_str(), &scores.shape[..]), ("target_label", &[1, 214][..]));
    let scores = to_f32s(&scores.data);
    for (label, score) in
        [(148, 0.997_259_74), (201, 0.001_532_042), (202, 0.000_364_484), (16, 0.000_258_381)]
    {
        assert!((scores[label] - score).abs() < 1e-5, "{label}: {}", scores[label]);
    }
    assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-4);
    assert!(engine.load().service.unwrap() > Duration::ZERO);
}

/// Expected values by Python's onnxruntime 1.31.1 on the same inputs.
#[tokio::test]
async fn silero_vad_takes_a_scalar_and_hands_its_state_on() {
    let engine = engine(&models::silero_vad(Progress::Stderr).unwrap(), &SMALL);
    let wave: Vec<f32> = (0..576u16).map(|i| (f32::from(i) * 0.05).sin() * 0.5).collect();
    let mut state = Bytes::from(f32s(&[0.0; 256]));
    for expected in [0.073_081_79, 0.108_333_98] {
        let inputs = vec![
            tensor("sr", DType::Int64, &[], 16_000i64.to_le_bytes().to_vec()),
            tensor("state", DType::Fp32, &[2, 1, 128], state),
            tensor("input", DType::Fp32, &[1, 576], f32s(&wave)),
        ];
        let response = engine.submit(request(inputs)).unwrap().await.unwrap();
        let [output, next] = &response.outputs[..] else { panic!("two outputs") };
        let speech = to_f32s(&output.data)[0];
        assert!((speech - expected).abs() < 1e-5, "{speech}");
        assert_eq!((next.name.as_str(), &next.shape[..]), ("stateN", &[2, 1, 128][..]));
        state = next.data.clone();
    }
}

#[tokio::test]
async fn every_type_comes_back_as_it_went_in() {
    let codes = [9, 3, 5, 6, 7, 2, 4, 12, 13, 10, 16, 1, 11];
    for dtype in codes.map(|code| DType::from_onnx_code(code).unwrap()) {
        let (_dir, engine) = of(&identity(dtype.onnx_code(), &[-1]));
        let size = dtype.size().unwrap();
        for elements in [0, 1, 3, 100_000] {
            // Ones and zeros, so that they are BOOLs too; one byte in, so that they lie askew.
            let bytes: Vec<u8> = (0..=elements * size).map(|i| u8::from(i % 3 == 1)).collect();
            let data = Bytes::from(bytes).slice(1..);
            let input = tensor("x", dtype, &[elements as u64], data);
            let answer = engine.submit(request(vec![input.clone()])).unwrap().await.unwrap();
            assert_eq!(answer.outputs, [Tensor { name: "y".to_owned(), ..input }], "{dtype}");
        }
    }
}

#[tokio::test]
async fn strings_come_back_as_they_went_in() {
    let (_dir, engine) = of(&identity(DType::Bytes.onnx_code(), &[-1]));
    let data = [&[7, 0, 0, 0][..], "Lübeck".as_bytes(), &[0, 0, 0, 0]].concat();
    let data = [&data[..], &[5, 0, 0, 0, b'a', 0, 0, 0xff, b'z']].concat();
    let input = tensor("x", DType::Bytes, &[3], data);
    let answer = engine.submit(request(vec![input.clone()])).unwrap().await.unwrap();
    assert_eq!(answer.outputs, [Tensor { name: "y".to_owned(), ..input }]);
    let cut = tensor("x", DType::Bytes, &[1], b"\x06\0\0\0Lub".to_vec());
    let refused = engine.submit(request(vec![cut])).unwrap_err();
    assert!(matches!(refused, SubmitError::Input(InputError::BadElement { .. })));
}

#[tokio::test]
async fn large_outputs_outlive_their_engine() {
    let (_dir, engine) = of(&identity(1, &[-1]));
    let data = f32s(&(0..100_000u32).map(|number| number as f32).collect::<Vec<_>>());
    let input = tensor("x", DType::Fp32, &[100_000], data.clone());
    let answer = engine.submit(request(vec![input])).unwrap().await.unwrap();
    engine.unload();
    assert_eq!(answer.outputs[0].data, data);
}

#[tokio::test]
async fn a_model_that_hands_its_input_back_does_not_hand_out_the_callers_memory() {
    let value = || [value("x", 1, &[-1])];
    let through = model(&graph(&[], &value(), &value()));
    let (_dir, engine) = of(&through);
    let data = Bytes::from(f32s(&[2.0; 50_000]));
    let input = tensor("x", DType::Fp32, &[50_000], data.clone());
    let answer = engine.submit(request(vec![input])).unwrap().await.unwrap();
    assert_eq!(answer.outputs[0].data, data);
    assert_ne!(answer.outputs[0].data.as_ptr(), data.as_ptr());
}

#[tokio::test]
async fn outputs_come_as_wanted() {
    let nodes = [node("Identity", &["x"], &["a"]), node("Neg", &["x"], &["b"])];
    let outputs = [value("a", 1, &[]), value("b", 1, &[])];
    let (_dir, engine) = of(&model(&graph(&nodes, &[value("x", 1, &[])], &outputs)));
    let names = async |wanted: &[&str]| {
        let inputs = vec![tensor("x", DType::Fp32, &[], f32s(&[3.0]))];
        let outputs = wanted.iter().map(|name| (*name).to_owned()).collect();
        let request = Request { inputs, outputs, deadline: None, priority: 0 };
        let answer = engine.submit(request).unwrap().await.unwrap();
        let named = answer.outputs.iter().map(|o| (o.name.clone(), to_f32s(&o.data)[0]));
        named.collect::<Vec<_>>()
    };
    let (a, b) = (("a".to_owned(), 3.0), ("b".to_owned(), -3.0));
    assert_eq!(names(&[]).await, [a.clone(), b.clone()]);
    assert_eq!(names(&["b"]).await[..], [b.clone()][..]);
    assert_eq!(names(&["b", "a"]).await, [b, a]);
}

#[test]
fn what_does_not_fit_the_model_is_not_queued() {
    let (_dir, engine) = of(&identity(1, &[2]));
    let submit = |name: &str, dtype, shape: &[u64], bytes: usize| {
        let input = tensor(name, dtype, shape, vec![0; bytes]);
        match engine.submit(request(vec![input])) {
            Err(SubmitError::Input(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(submit("z", DType::Fp32, &[2], 8), InputError::UnknownInput { .. }));
    assert!(matches!(submit("x", DType::Fp64, &[2], 16), InputError::WrongDType { .. }));
    assert!(matches!(submit("x", DType::Fp32, &[3], 12), InputError::WrongShape { .. }));
    assert!(matches!(submit("x", DType::Fp32, &[2], 7), InputError::WrongBytes { .. }));
    let nothing = engine.submit(request(Vec::new())).unwrap_err();
    assert_eq!(nothing, SubmitError::Input(InputError::Missing("x".to_owned())));
    assert_eq!(engine.load().served, 0);
}

#[tokio::test]
async fn a_failed_run_answers_its_job_and_the_engine_goes_on() {
    // MatMul of shapes that only the run finds out not to fit.
    let inputs = [value("a", 1, &[-1, -1]), value("b", 1, &[-1, -1])];
    let nodes = [node("MatMul", &["a", "b"], &["y"])];
    let (_dir, engine) = of(&model(&graph(&nodes, &inputs, &[value("y", 1, &[-1, -1])])));
    let submit = |rows: usize| {
        let b = tensor("b", DType::Fp32, &[rows as u64, 1], f32s(&vec![1.0; rows]));
        let a = tensor("a", DType::Fp32, &[1, 2], f32s(&[1.0, 2.0]));
        engine.submit(request(vec![a, b])).unwrap()
    };
    for _ in 0..3 {
        let error = submit(3).await.unwrap_err();
        assert!(matches!(error, EngineError::Failed { .. } | EngineError::Refused { .. }));
        assert_eq!(to_f32s(&submit(2).await.unwrap().outputs[0].data), [3.0]);
    }
    assert_eq!(engine.load().failed, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn many_callers_at_once_each_get_their_own_answer() {
    let dir = tempfile::tempdir().unwrap();
    let config = EngineConfig { instances: 3, queue: Queueing::bounded(8), ..SMALL };
    let engine = Arc::new(engine(&write(dir.path(), &identity(7, &[-1])), &config));
    let callers = (0..16i64).map(|caller| {
        let engine = Arc::clone(&engine);
        tokio::spawn(async move {
            for round in 0..200 {
                let data = Bytes::from((caller * 1_000 + round).to_le_bytes().to_vec());
                let pending = loop {
                    let input = tensor("x", DType::Int64, &[1], data.clone());
                    match engine.submit(request(vec![input])) {
                        Ok(pending) => break pending,
                        Err(SubmitError::Full { .. }) => tokio::task::yield_now().await,
                        Err(other) => panic!("{other}"),
                    }
                };
                assert_eq!(pending.await.unwrap().outputs[0].data, data);
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    let load = engine.load();
    assert_eq!((load.served, load.queued, load.running, load.failed), (3_200, 0, 0, 0));
}

#[tokio::test]
async fn instances_that_share_weights_give_what_one_alone_gives() {
    let dir = tempfile::tempdir().unwrap();
    // 16 KiB a weight: large enough to be shared.
    let path = write(dir.path(), &layers(3, 64, 11));
    let alone = engine(&path, &SMALL);
    let several = engine(&path, &EngineConfig { instances: 3, ..SMALL });
    let x: Vec<f32> = (0..64u8).map(|n| f32::from(n) / 64.0).collect();
    let x = tensor("x", DType::Fp32, &[1, 64], f32s(&x));
    let expected = alone.submit(request(vec![x.clone()])).unwrap().await.unwrap().outputs;
    // Until each has run.
    for _ in 0..50 {
        let jobs = [(); 3].map(|()| several.submit(request(vec![x.clone()])).unwrap());
        for job in jobs {
            assert_eq!(job.await.unwrap().outputs[0].data, expected[0].data);
        }
    }
}

fn number(index: i64) -> Request {
    request(vec![tensor("x", DType::Int64, &[1], index.to_le_bytes().to_vec())])
}

#[tokio::test]
async fn jobs_that_wait_share_a_run_and_each_gets_its_own_rows() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(&write(dir.path(), &lookup(8)), &FOUR);
    let two = tensor("x", DType::Int64, &[2], [6i64, 7].map(i64::to_le_bytes).concat());
    let asked = [number(3), request(vec![two]), number(5)];
    let asked = asked.map(|request| engine.submit(request).unwrap());
    let mut answers = Vec::new();
    for pending in asked {
        let answer = pending.await.unwrap();
        assert_eq!(answer.outputs[0].name, "y");
        answers.push(to_f32s(&answer.outputs[0].data));
    }
    assert_eq!(answers, [vec![3.0], vec![6.0, 7.0], vec![5.0]]);
    let load = engine.load();
    assert_eq!((load.runs, load.served), (1, 3));
}

#[tokio::test]
async fn a_job_that_the_model_refuses_does_not_spoil_those_that_it_ran_with() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(&write(dir.path(), &lookup(8)), &FOUR);
    let asked = [1, 1_000, 2, 3].map(|index| engine.submit(number(index)).unwrap());
    let mut answers = Vec::new();
    for pending in asked {
        answers.push(pending.await.map(|answer| to_f32s(&answer.outputs[0].data)[0]));
    }
    assert!(answers.remove(1).is_err());
    assert_eq!(answers, [Ok(1.0), Ok(2.0), Ok(3.0)]);
    assert_eq!((engine.load().served, engine.load().failed), (3, 1));
}

#[tokio::test]
async fn a_caller_who_leaves_a_run_that_others_share_does_not_stop_it() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(&write(dir.path(), &lookup(8)), &FOUR);
    let [one, other, third] = [1, 2, 3].map(|index| engine.submit(number(index)).unwrap());
    drop(other);
    let two = tensor("x", DType::Int64, &[2], [6i64, 7].map(i64::to_le_bytes).concat());
    let two = engine.submit(request(vec![two])).unwrap();
    assert_eq!(to_f32s(&one.await.unwrap().outputs[0].data), [1.0]);
    assert_eq!(to_f32s(&third.await.unwrap().outputs[0].data), [3.0]);
    assert_eq!(to_f32s(&two.await.unwrap().outputs[0].data), [6.0, 7.0]);
    assert_eq!((engine.load().served, engine.load().dropped), (3, 1));
}

/// Long enough to outlast any test here.
const FOREVER: i64 = i64::MAX;

async fn until(what: impl Fn() -> bool) {
    let waiting = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it comes within 20 s");
}

/// A job that is looked at and not waited for.
struct Watched(Pending);

impl Watched {
    async fn is_pending(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(50), &mut self.0).await.is_err()
    }
}

#[tokio::test]
async fn a_full_queue_refuses_and_a_caller_who_leaves_is_not_run() {
    let (_dir, engine) = of(&counter());
    let running = engine.submit(count(FOREVER)).unwrap();
    until(|| engine.load().running == 1).await;
    let waiting: Vec<_> = (0..4).map(|_| engine.submit(count(1)).unwrap()).collect();
    let full = engine.submit(count(1)).unwrap_err();
    assert_eq!(full, SubmitError::Full { queued: 4 });
    drop(waiting);
    assert_eq!(engine.load().queued, 0);
    assert_eq!(engine.load().dropped, 4);
    // The one that runs is stopped, too; the next gets the instance.
    drop(running);
    let answer = engine.submit(count(3)).unwrap().await.unwrap();
    assert_eq!(to_f32s(&answer.outputs[0].data), [3.0]);
    assert_eq!(engine.load().served, 1);
}

#[tokio::test]
async fn a_deadline_bounds_the_wait_and_the_run() {
    let (_dir, engine) = of(&counter());
    let by = |request: Request, ms| {
        let deadline = Some(Instant::now() + Duration::from_millis(ms));
        engine.submit(Request { deadline, ..request }).unwrap()
    };
    let running = by(count(FOREVER), 300);
    until(|| engine.load().running == 1).await;
    let waiting = by(count(1), 20);
    assert_eq!(waiting.await.unwrap_err(), EngineError::DeadlinePassed);
    assert_eq!(engine.load().queued, 0);
    assert_eq!(running.await.unwrap_err(), EngineError::DeadlinePassed);
    by(count(2), 60_000).await.unwrap();
    let load = engine.load();
    assert_eq!((load.served, load.dropped, load.failed), (1, 2, 0));
}

#[tokio::test]
async fn a_job_that_may_not_wait_longer_is_refused_at_once_and_one_that_runs_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let timeout = Some(Duration::from_millis(30));
    let config = EngineConfig { queue: Queueing { timeout, ..SMALL.queue }, ..SMALL };
    let engine = engine(&write(dir.path(), &counter()), &config);
    let running = engine.submit(count(FOREVER)).unwrap();
    until(|| engine.load().running == 1).await;
    // Its own deadline is sooner, and is what it is told.
    let deadline = Some(Instant::now() + Duration::from_millis(5));
    let sooner = engine.submit(Request { deadline, ..count(1) }).unwrap();
    let waiting = engine.submit(count(1)).unwrap();
    assert_eq!(sooner.await.unwrap_err(), EngineError::DeadlinePassed);
    assert_eq!(waiting.await.unwrap_err(), EngineError::Waited);
    assert_eq!((engine.load().queued, engine.load().running), (0, 1));
    let mut running = Watched(running);
    assert!(running.is_pending().await, "what runs is not refused");
    drop(running);
    until(|| engine.load().running == 0).await;

    let late = Queueing { when_late: WhenLate::Delay, ..config.queue };
    let engine =
        crate::engine(&write(dir.path(), &counter()), &EngineConfig { queue: late, ..SMALL });
    let running = engine.submit(count(FOREVER)).unwrap();
    until(|| engine.load().running == 1).await;
    let waiting = engine.submit(count(1)).unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    let (younger, served) = (engine.submit(count(1)).unwrap(), || engine.load().served);
    drop(running);
    younger.await.unwrap();
    waiting.await.unwrap();
    assert_eq!(served(), 2);
}

#[tokio::test]
async fn urgent_jobs_run_before_those_that_came_sooner() {
    let dir = tempfile::tempdir().unwrap();
    let batching = Batching { priorities: 2, priority_default: 2, ..Batching::DEFAULT };
    let engine = engine(&write(dir.path(), &counter()), &EngineConfig { batching, ..SMALL });
    let running = engine.submit(count(FOREVER)).unwrap();
    until(|| engine.load().running == 1).await;
    let ordinary = engine.submit(count(FOREVER)).unwrap();
    let urgent = engine.submit(Request { priority: 1, ..count(1) }).unwrap();
    drop(running);
    urgent.await.unwrap();
    drop(ordinary);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_keep_the_order_of_their_jobs_where_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let batching = Batching { preserve_order: true, ..Batching::DEFAULT };
    let config = EngineConfig { instances: 2, batching, ..SMALL };
    let engine = engine(&write(dir.path(), &counter()), &config);
    let first = engine.submit(count(FOREVER)).unwrap();
    until(|| engine.load().running == 1).await;
    let mut second = Watched(engine.submit(count(1)).unwrap());
    until(|| engine.load().served == 1).await;
    assert!(second.is_pending().await, "it is done, and the one before it is not");
    // Held answers take the places of jobs that wait.
    let mut others = Vec::new();
    let full = loop {
        match engine.submit(count(1)) {
            Ok(pending) => others.push(pending),
            Err(error) => break error,
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    assert!(matches!(full, SubmitError::Full { .. }) && others.len() <= 6);
    drop(first);
    second.0.await.unwrap();
    for other in others {
        other.await.unwrap();
    }
}

#[tokio::test]
async fn a_deadline_that_passed_in_the_queue_is_answered_without_a_run() {
    let (_dir, engine) = of(&counter());
    let running = engine.submit(count(FOREVER)).unwrap();
    until(|| engine.load().running == 1).await;
    // Not polled, so that the instance finds out and not the future's timer.
    let deadline = Some(Instant::now() + Duration::from_millis(5));
    let late = engine.submit(Request { deadline, ..count(FOREVER) }).unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop(running);
    until(|| engine.load().dropped == 2).await;
    assert_eq!(late.await.unwrap_err(), EngineError::DeadlinePassed);
}

#[tokio::test]
async fn unloading_answers_what_waits() {
    let (_dir, engine) = of(&counter());
    let running = engine.submit(count(FOREVER)).unwrap();
    until(|| engine.load().running == 1).await;
    let waiting = engine.submit(count(1)).unwrap();
    let unloading = tokio::task::spawn_blocking(|| engine.unload());
    assert_eq!(waiting.await.unwrap_err(), EngineError::Closed);
    drop(running);
    unloading.await.unwrap();
}

fn load_error(model: &Message) -> LoadError {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), model);
    fs::write(dir.path().join("w.bin"), f32s(&[1.0, 2.0, 3.0, 4.0])).unwrap();
    let bundle = Bundle::open(dir.path()).unwrap();
    runtime().engine(&bundle, &cpu(), &SMALL).unwrap_err()
}

#[test]
fn models_that_cannot_be_served_are_refused_with_why() {
    let mut cut = identity(1, &[2]);
    cut.0.truncate(20);
    assert!(matches!(load_error(&cut), LoadError::Scan { .. }));
    assert!(matches!(load_error(&Message(b"no model".to_vec())), LoadError::Scan { .. }));
    let outside = adder(&[("location", "../secret")]);
    assert!(matches!(load_error(&outside), LoadError::Scan { .. }));
    let missing = adder(&[("location", "v.bin")]);
    assert!(load_error(&missing).to_string().contains("copy it there"));
    let unknown = model(&graph(
        &[node("NoSuchOperator", &["x"], &["y"])],
        &[value("x", 1, &[2])],
        &[value("y", 1, &[2])],
    ));
    let error = load_error(&unknown);
    assert!(matches!(error, LoadError::Operator { .. }), "{error}");
    let dangling = model(&graph(
        &[node("Identity", &["nowhere"], &["y"])],
        &[value("x", 1, &[2])],
        &[value("y", 1, &[2])],
    ));
    let error = load_error(&dangling);
    assert!(matches!(error, LoadError::Model { .. }), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let bundle = Bundle::open(&write(dir.path(), &identity(1, &[2]))).unwrap();
    let config = EngineConfig { instances: 0, ..SMALL };
    let error = runtime().engine(&bundle, &cpu(), &config).unwrap_err();
    assert_eq!(error.to_string(), "instances is 0; it must be 1 to 256");
}

#[tokio::test]
async fn external_data_in_the_bundle_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let entries = [("location", "w.bin"), ("offset", "4"), ("length", "16")];
    write(dir.path(), &adder(&entries));
    fs::write(dir.path().join("w.bin"), f32s(&[9.0, 1.0, 2.0, 3.0, 4.0])).unwrap();
    let engine = engine(dir.path(), &SMALL);
    let input = tensor("x", DType::Fp32, &[4], f32s(&[10.0; 4]));
    let answer = engine.submit(request(vec![input])).unwrap().await.unwrap();
    assert_eq!(to_f32s(&answer.outputs[0].data), [11.0, 12.0, 13.0, 14.0]);
}
